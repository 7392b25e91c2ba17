/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_TESTS_POLICIES_MODEL_H
#define BATON_TESTS_POLICIES_MODEL_H
#include <stddef.h>

/* The models of policies.c: every kind of layer with its options, and what two ranks of tensor share. */

static const char *const symbols[] = {"M=mamba2 heads=4 head_width=6 state=5 groups=2 conv=4 chunk=8",
                                      "N=mamba2 heads=3 head_width=4 state=4 groups=3 conv=1 chunk=64 conv_bias=false "
                                      "bias=true norm_group=12 dt_max=0.05",
                                      "S=mamba1 inner=20 state=5 conv=3 chunk=8 norms=learned bias=true",
                                      "P=mamba1 inner=9 state=4 dt_rank=3 conv=1 chunk=64 norms=plain conv_bias=false",
                                      "*=attention heads=4 kv_heads=2 head_width=8 rope=0.5 window=7",
                                      "+=attention heads=4 kv_heads=1 head_width=8 bias=true rope=1",
                                      "-=mlp hidden=20 activation=relu2",
                                      "g=mlp hidden=12 activation=swiglu bias=true",
                                      "e=mlp hidden=12 activation=gelu",
                                      "E=moe experts=5 top_k=2 hidden=7 shared=6 aux_loss=0.1 z_loss=0.01",
                                      "L=moe experts=6 top_k=3 hidden=5 latent=7 activation=relu2 scores=sigmoid "
                                      "renormalise=true bias=true aux_loss=0.1",
                                      NULL};
static const char every_kind[] = "M-*gSN+EeM*LPN-+";
/* What two ranks of tensor share, with all that is summed between them. */
static const char *const split_symbols[] = {"M=mamba2 heads=4 head_width=6 state=5 groups=1 conv=4 chunk=8",
                                            "S=mamba1 inner=20 state=5 conv=3 chunk=8 norms=learned bias=true",
                                            "*=attention heads=4 kv_heads=1 head_width=8 rope=0.5 window=7",
                                            "-=mlp hidden=20 activation=swiglu bias=true",
                                            "L=moe experts=6 top_k=3 hidden=6 shared=4 latent=8 aux_loss=0.1",
                                            NULL};
static const char split_kinds[] = "M-*SLM-*S";
#endif
