/* avx2.c: 32 bytes at a time. */
#include "../kernel.h"

#if defined(ZCWS_HAVE_AVX)
#define TARGET ZCWS_TARGET("avx2")
#include "ymm.h"

static int supported(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2"); /* asks the operating system for the ymm registers, too */
}

TARGET static ZCWS_INLINE vector merge_three(vector a, vector b, vector c) { return merge(merge(a, b), c); }

TARGET static ZCWS_INLINE vector all_three(vector a, vector b, vector c) {
    return _mm256_and_si256(_mm256_and_si256(a, b), c);
}

TARGET static ZCWS_INLINE vector differ_where(vector a, vector b, vector c) {
    return differ(a, _mm256_and_si256(b, c));
}

TARGET static ZCWS_INLINE vector load_part(const uint8_t *at, size_t n) {
    uint8_t part[WIDTH] = {0};
    memcpy(part, at, n);
    return load(part);
}

#include "mask_body.h"

#include "ascii_body.h"

#include "utf8_body.h"

const struct zcws_kernel zcws_avx2 = {"avx2", supported, mask, mask_copy, utf8_prefix};

#endif
