/* kernel.c: the one table of kernels, and which of them is in use.
 *
 * To add a kernel: write arch/NAME.c, which ends in one `const struct zcws_kernel zcws_NAME`; name it in
 * kernel.h, in the ZCWS_KERNELS row of its targets, before the kernels that it beats; run tests/c and
 * benchmarks/kernels over it. Both walk this table, so neither needs a change. A kernel that does not
 * win against the one below it is taken out again.
 *
 * The choice is made once, when the library is loaded. zcws_kernel_use changes it and is for that moment
 * and for tests: it must not run while another thread is inside the core. */
#include "kernel.h"

static const struct zcws_kernel *const kernels[] = {ZCWS_KERNELS};

enum { COUNT = sizeof kernels / sizeof kernels[0] };

/* One that runs here, from the first instruction on; the best one as soon as the library has been loaded. */
const struct zcws_kernel *zcws_kernel = ZCWS_KERNEL_FLOOR;

const char *zcws_kernel_name(size_t i) {
    for (size_t row = 0; row < COUNT; row++)
        if (kernels[row]->supported() && i-- == 0) return kernels[row]->name;
    return NULL;
}

const char *zcws_kernel_in_use(void) { return zcws_kernel->name; }

/* NULL stands for the best one. */
int zcws_kernel_use(const char *name) {
    for (size_t row = 0; row < COUNT; row++) {
        if ((name == NULL || strcmp(kernels[row]->name, name) == 0) && kernels[row]->supported()) {
            zcws_kernel = kernels[row];
            return 1;
        }
    }
    return 0;
}

ZCWS_AT_LOAD static void use_best(void) { zcws_kernel_use(NULL); }

const char *zcws_build_info(void) { return ZCWS_COMPILER ", " ZCWS_TARGET_NAME ", " ZCWS_TUNING; }
