/* avx512.c: AVX-512's instructions on vectors of 32 bytes: masked loads, and operations on three operands at once.
 * They check text that is not ASCII faster than avx2.c by a sixth (a short one by a third), and mask at the same
 * speed.
 *
 * Its vectors of 64 bytes were tried first, and taken out. They mask 1 to 16 KiB half as fast again, but on CPUs
 * like the one that measured it (Cascade Lake) a core that has used a single one is clocked down for more than half a
 * millisecond. A server that masks a message of any size now and then would run like that all the time, and
 * everything else on that core would take 15 % longer: a scalar loop between two calls went from 2.29 to 2.63 us,
 * and from 0.65 to 0.74 ms. */
#include "../kernel.h"

#if defined(ZCWS_HAVE_AVX)
#define TARGET ZCWS_TARGET("avx512f,avx512bw,avx512vl")
#include "ymm.h"

static int supported(void) {
    __builtin_cpu_init(); /* these ask the operating system for the registers, too */
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl");
}

/* The constant of a ternary operation is its truth table: what the operation makes of a = 0xF0, b = 0xCC,
 * c = 0xAA, which between them have every combination of three bits once. */
TARGET static ZCWS_INLINE vector merge_three(vector a, vector b, vector c) {
    return _mm256_ternarylogic_epi32(a, b, c, 0xF0 | 0xCC | 0xAA);
}

TARGET static ZCWS_INLINE vector all_three(vector a, vector b, vector c) {
    return _mm256_ternarylogic_epi32(a, b, c, 0xF0 & 0xCC & 0xAA);
}

TARGET static ZCWS_INLINE vector differ_where(vector a, vector b, vector c) {
    return _mm256_ternarylogic_epi32(a, b, c, 0xF0 ^ (0xCC & 0xAA));
}

/* Lanes that the mask leaves out read as zero and are not touched, not even where they lie on a page that is
 * not there. n < 32. */
TARGET static ZCWS_INLINE vector load_part(const uint8_t *at, size_t n) {
    return _mm256_maskz_loadu_epi8(((__mmask32)1 << n) - 1, at);
}

#include "mask_body.h"

#include "ascii_body.h"

#include "utf8_body.h"

const struct zcws_kernel zcws_avx512 = {"avx512", supported, mask, mask_copy, utf8_prefix};

#endif
