/* SPDX-License-Identifier: Apache-2.0 */
#include "launch/device.h"
#include <string.h>

enum status device_choose(const char *device) {
    if (!device || !strcmp(device, "cpu")) return OK;
    FAIL_UNLESS(!strcmp(device, "cuda"), ERR_CONFIG, "--device %s: wants cpu or cuda", device);
    FAIL(ERR_CONFIG, "--device cuda: the CUDA kernels do not exist yet; run with --device cpu");
}

enum status ranks_check(const char *ranks) {
    if (!ranks || !strcmp(ranks, "1")) return OK;
    FAIL_UNLESS(*ranks >= '1' && *ranks <= '9' && strspn(ranks, "0123456789") == strlen(ranks), ERR_CONFIG,
                "--ranks %s: wants a number, 1 or more", ranks);
    FAIL(ERR_CONFIG, "--ranks %s: baton eval runs on one rank so far", ranks);
}
