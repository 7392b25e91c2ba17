/* SPDX-License-Identifier: Apache-2.0 */
#include "model/away.h"
#include <math.h>

/* Turns are spread evenly over the units, and the last unit has one. */
static int turn_of_unit(const struct away *w, int unit) {
    const int before = unit * w->n_turns / w->n_units, behind = (unit + 1) * w->n_turns / w->n_units;
    return behind > before ? before : -1;
}

int away_turn_of(const struct away *w, int layer) {
    return layer < w->n_layers && w->n_turns > 0 ? turn_of_unit(w, layer / w->group) : -1;
}

static bool first_of_unit(const struct away *w, int layer) { return layer % w->group == 0; }
static bool last_of_unit(const struct away *w, int layer) {
    return (layer + 1) % w->group == 0 || layer + 1 == w->n_layers;
}

enum { UNPLACED = -1 };

static int first_beside(int k) { return k < AWAY_APART ? 0 : k - AWAY_APART + 1; }

/* Whether turn k could lie at `at`: beside all that are placed of the two turns on either side. */
static bool fits(const struct away *w, int k, int64_t at) {
    for (int i = first_beside(k); i < k + AWAY_APART && i < w->n_turns; i++) {
        const struct away_turn *t = &w->turn[i];
        if (t->at != UNPLACED && at < t->at + t->bytes && t->at < at + w->turn[k].bytes) return false;
    }
    return true;
}

/* The lowest place: at the start, or behind one of those. */
static void find_place(struct away *w, int k) {
    int64_t lowest = fits(w, k, 0) ? 0 : INT64_MAX;
    for (int i = first_beside(k); i < k + AWAY_APART && i < w->n_turns; i++) {
        const struct away_turn *t = &w->turn[i];
        const int64_t end = t->at + t->bytes;
        if (t->at != UNPLACED && end < lowest && fits(w, k, end)) lowest = end;
    }
    w->turn[k].at = lowest;
    if (lowest + w->turn[k].bytes > w->window_bytes) w->window_bytes = lowest + w->turn[k].bytes;
}

/* Large ones first: else small ones before them leave holes that they do not fit in. */
static void find_places(struct away *w) {
    for (int k = 0; k < w->n_turns; k++) w->turn[k].at = UNPLACED;
    for (int n = 0; n < w->n_turns; n++) {
        int largest = -1;
        for (int k = 0; k < w->n_turns; k++)
            if (w->turn[k].at == UNPLACED && (largest < 0 || w->turn[k].bytes > w->turn[largest].bytes)) largest = k;
        find_place(w, largest);
    }
}

enum status away_plan(struct away *w, const struct saved *layers, int n_layers, int group, double share) {
    void *mem = NULL;
    *w = (struct away){.n_layers = n_layers, .group = group, .n_units = (n_layers + group - 1) / group};
    const int wanted = (int)lround(share * w->n_units), most = w->n_units - AWAY_APART;
    w->n_away = wanted < most ? wanted : most;
    if (w->n_away <= 0) {
        w->n_away = 0;
        return OK;
    }
    w->n_turns = w->n_away + AWAY_APART;
    TRY(mem_take(w->n_turns * (int64_t)sizeof *w->turn, &mem));
    w->turn = mem;
    for (int i = 0; i < n_layers; i++) {
        const int k = away_turn_of(w, i);
        if (k >= 0) w->turn[k].bytes += saved_bytes(&layers[i], HOME_OWN);
    }
    find_places(w);
    for (int k = 0; k < w->n_turns; k++) {
        w->turn[k].store_at = w->store_bytes;
        if (k < w->n_away) w->store_bytes += w->turn[k].bytes;
    }
    return OK;
}

enum status away_place(struct away *w, const struct ctx *c, char *window, char *store) {
    w->window = window;
    w->store = store;
    return w->n_away > 0 ? ferry_init(&w->ferry, c) : OK;
}

void away_term(struct away *w) {
    ferry_term(&w->ferry);
    mem_free(w->turn);
    *w = (struct away){0};
}

static int lane_of(int turn) { return turn % FERRY_LANES; }

enum status away_open(struct away *w, struct step *s, int layer) {
    const int k = away_turn_of(w, layer);
    if (k < AWAY_APART || !first_of_unit(w, layer)) return OK;
    return ferry_end(&w->ferry, s->ctx, FERRY_OUT, lane_of(k - AWAY_APART));
}

enum status away_close(struct away *w, struct step *s, int layer) {
    const int k = away_turn_of(w, layer);
    if (k < 0 || k >= w->n_away || !last_of_unit(w, layer)) return OK;
    const struct away_turn *t = &w->turn[k];
    return ferry_begin(&w->ferry, s->ctx, FERRY_OUT, lane_of(k), w->store + t->store_at, w->window + t->at, t->bytes);
}

enum status away_need(struct away *w, struct step *s, int layer) {
    const int k = away_turn_of(w, layer);
    if (k < 0 || k >= w->n_away || !last_of_unit(w, layer)) return OK;
    return ferry_end(&w->ferry, s->ctx, FERRY_BACK, lane_of(k));
}

enum status away_done(struct away *w, struct step *s, int layer) {
    const int k = away_turn_of(w, layer) - AWAY_APART;
    if (k < 0 || !first_of_unit(w, layer)) return OK;
    const struct away_turn *t = &w->turn[k];
    return ferry_begin(&w->ferry, s->ctx, FERRY_BACK, lane_of(k), w->window + t->at, w->store + t->store_at, t->bytes);
}
