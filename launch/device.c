/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/device.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "dist/world.h"
#include "kernels/device_queue.h"
#include "launch/config.h"

enum status device_choose(const char *device, struct device_choice *out) {
    *out = (struct device_choice){0};
    if (device && !strcmp(device, "cpu")) return OK;
    FAIL_UNLESS(!device || !strcmp(device, "cuda"), ERR_CONFIG, "--device %s: wants cpu or cuda", device);
    const enum status st = device_usable();
    if (st != OK && !device) {
        status_clear();
        return OK;
    }
    TRY(st);
    *out = (struct device_choice){.cuda = true, .n_devices = device_count()};
    return OK;
}

enum status device_choose_plan(const char *device, struct device_choice *out) {
    const enum status st = device_choose(device, out);
    if (st != ERR_CUDA || !device_compiled()) return st;
    status_clear();
    *out = (struct device_choice){.cuda = true};
    return OK;
}

enum status device_check_precision(const struct device_choice *c, int precision) {
    FAIL_UNLESS(c->cuda || precision != PRECISION_BF16, ERR_CONFIG,
                "train.precision: bf16 needs a GPU; on the cpu set train.precision=f32 (or f64)");
    FAIL_UNLESS(!c->cuda || precision != PRECISION_F64, ERR_CONFIG,
                "train.precision: f64 runs on the cpu alone; set train.precision=f32 (or bf16), or add --device cpu");
    return OK;
}

enum status device_print(const struct device_choice *c) {
    struct device_facts f;
    if (!c->cuda) {
        fprintf(stderr, "device: cpu\n");
        return OK;
    }
    if (c->n_devices == 0) {
        fprintf(stderr, "device: cuda, none here: a plan alone\n");
        return OK;
    }
    TRY(device_facts(0, &f));
    fprintf(stderr, "device: cuda, %d x %s, %.1f GiB each\n", c->n_devices, f.name, (double)f.bytes / (1 << 30));
    return OK;
}

/* The number of this rank among those of its machine: the launcher tells it; ranks that are threads are all here. */
static int local_rank(const struct rank *rank) {
    static const char *const names[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"};
    for (size_t i = 0; world_launcher(getenv) && i < sizeof names / sizeof *names; i++)
        if (getenv(names[i])) return atoi(getenv(names[i]));
    return rank ? rank_index(rank) : 0;
}

enum status device_open_for(const struct device_choice *c, const struct rank *rank, struct device **out) {
    *out = NULL;
    return c->n_devices > 0 ? device_open(out, local_rank(rank) % c->n_devices) : OK;
}

enum status ranks_check(const char *ranks) {
    if (!ranks || !strcmp(ranks, "1")) return OK;
    FAIL_UNLESS(*ranks >= '1' && *ranks <= '9' && strspn(ranks, "0123456789") == strlen(ranks), ERR_CONFIG,
                "--ranks %s: wants a number, 1 or more", ranks);
    FAIL(ERR_CONFIG, "--ranks %s: baton eval runs on one rank so far", ranks);
}
