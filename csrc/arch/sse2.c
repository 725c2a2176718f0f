/* sse2.c: 16 bytes at a time, on every x86-64. No byte shuffle before SSSE3, so UTF-8 is ASCII only. */
#include "words.h"

#if defined(ZCWS_HAVE_SSE2)
#include <emmintrin.h>

static int supported(void) { return 1; /* part of x86-64 itself */ }

typedef __m128i vector;
enum { WIDTH = 16 };
#define TARGET ZCWS_TARGET("sse2")

TARGET static ZCWS_INLINE vector load(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }

TARGET static ZCWS_INLINE void store(uint8_t *at, vector v) { _mm_storeu_si128((__m128i *)at, v); }

TARGET static ZCWS_INLINE vector splat(uint32_t key) { return _mm_set1_epi32((int)key); }

TARGET static ZCWS_INLINE vector differ(vector a, vector b) { return _mm_xor_si128(a, b); }

TARGET static ZCWS_INLINE vector merge(vector a, vector b) { return _mm_or_si128(a, b); }

TARGET static ZCWS_INLINE vector merge_three(vector a, vector b, vector c) { return merge(merge(a, b), c); }

TARGET static ZCWS_INLINE int any_high(vector v) { return _mm_movemask_epi8(v); }

static ZCWS_INLINE int apply_short(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    return apply_words(dst, src, len, key);
}

#include "mask_body.h"
#include "ascii_body.h"

const struct zcws_kernel zcws_sse2 = {"sse2", supported, mask, mask_copy, ascii_prefix};

#endif
