/* ymm.h: what avx2.c and avx512.c share: a vector of 32 bytes, and SSE2's 16 below that. Included by them
 * after TARGET, the instruction set of every function here. */
#include "words.h"

#include <immintrin.h>

typedef __m256i vector;
enum { WIDTH = 32 };

TARGET static ZCWS_INLINE vector load(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

TARGET static ZCWS_INLINE void store(uint8_t *at, vector v) { _mm256_storeu_si256((__m256i *)at, v); }

TARGET static ZCWS_INLINE vector splat(uint32_t key) { return _mm256_set1_epi32((int)key); }

TARGET static ZCWS_INLINE vector differ(vector a, vector b) { return _mm256_xor_si256(a, b); }

TARGET static ZCWS_INLINE vector merge(vector a, vector b) { return _mm256_or_si256(a, b); }

TARGET static ZCWS_INLINE int any_high(vector v) { return _mm256_movemask_epi8(v); }

/* From 16 to 31 bytes: [0, 16) and [len - 16, len) meet or overlap, and are both read before either is
 * written, as in words.h. */
TARGET static ZCWS_INLINE int apply_short(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    if (len < 16) return apply_words(dst, src, len, key);
    const __m128i start = _mm_loadu_si128((const __m128i *)src);
    const __m128i end = _mm_loadu_si128((const __m128i *)(src + len - 16));
    const __m128i first = _mm_xor_si128(start, _mm_set1_epi32((int)key));
    const __m128i last = _mm_xor_si128(end, _mm_set1_epi32((int)zcws_turn_key(key, len)));
    _mm_storeu_si128((__m128i *)dst, first);
    _mm_storeu_si128((__m128i *)(dst + len - 16), last);
    return _mm_movemask_epi8(_mm_or_si128(first, last));
}

TARGET static ZCWS_INLINE vector lookup(const uint8_t *table, vector v) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), v);
}

TARGET static ZCWS_INLINE vector lower(vector v) { return _mm256_and_si256(v, _mm256_set1_epi8(0x0F)); }

TARGET static ZCWS_INLINE vector upper(vector v) { return lower(_mm256_srli_epi16(v, 4)); }

TARGET static ZCWS_INLINE vector above(vector v, char n) { return _mm256_subs_epu8(v, _mm256_set1_epi8(n)); }

TARGET static ZCWS_INLINE int any(vector v) { return !_mm256_testz_si256(v, v); }

/* _mm256_alignr_epi8 joins within each half of 16 bytes; the permutation puts under each what stands before:
 *
 *     v  [ v0 | v1 ]   under  [ 00 | v0 ]   shifted  [ 0.. start of v0 | end of v0, start of v1 ]
 */
#define shifted(v, n) _mm256_alignr_epi8(v, _mm256_permute2x128_si256(v, v, 0x08), 16 - (n))
