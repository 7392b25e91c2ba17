/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_DEVICE_H
#define BATON_LAUNCH_DEVICE_H
/* device.h - where a command computes, and over how many ranks. */
#include <stdbool.h>
#include "base/status.h"

struct rank;   /* dist/world.h     */
struct device; /* kernels/device.h */

/* What --device says, or its absence. */
struct device_choice {
    bool cuda;
    int n_devices; /* of this machine, with cuda */
};
/* The text of --device, or NULL: cuda where this program was built with it and a GPU is there, else cpu.  ERR_CONFIG:
 * another word;  ERR_CUDA: cuda was asked for and cannot be had, with the reason. */
enum status device_choose(const char *device, struct device_choice *out);
/* The same for what only plans: with --device cuda no GPU need be there (n_devices 0), only a program with kernels. */
enum status device_choose_plan(const char *device, struct device_choice *out);
/* ERR_CONFIG: the precision (enum precision) does not exist there. */
enum status device_check_precision(const struct device_choice *c, int precision);
/* Tells which it is, once. */
enum status device_print(const struct device_choice *c);
/* The GPU of a rank (NULL: the only one), opened: that of its number on this machine, modulo GPUs.  *out is NULL on the
 * cpu. */
enum status device_open_for(const struct device_choice *c, const struct rank *rank, struct device **out);

/* The text of --ranks, or NULL.  One rank works; more are refused and say so. */
enum status ranks_check(const char *ranks);

#endif
