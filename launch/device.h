/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BATON_LAUNCH_DEVICE_H
#define BATON_LAUNCH_DEVICE_H
/* device.h - where a command computes, and over how many ranks. */
#include "base/status.h"

/* The text of --device, or NULL.  cpu is the only device whose ops exist; cuda is refused and says so. */
enum status device_choose(const char *device);
/* The text of --ranks, or NULL.  One rank works; more are refused and say so. */
enum status ranks_check(const char *ranks);

#endif
