/* neon.c: 16 bytes at a time, on every aarch64. */
#include "words.h"

#if defined(ZCWS_HAVE_NEON)
#include <arm_neon.h>

static int supported(void) { return 1; /* part of aarch64 itself */ }

typedef uint8x16_t vector;
enum { WIDTH = 16 };
#define TARGET

static ZCWS_INLINE vector load(const uint8_t *at) { return vld1q_u8(at); }

static ZCWS_INLINE void store(uint8_t *at, vector v) { vst1q_u8(at, v); }

static ZCWS_INLINE vector splat(uint32_t key) { return vreinterpretq_u8_u32(vdupq_n_u32(key)); }

static ZCWS_INLINE vector differ(vector a, vector b) { return veorq_u8(a, b); }

static ZCWS_INLINE vector merge(vector a, vector b) { return vorrq_u8(a, b); }

static ZCWS_INLINE vector merge_three(vector a, vector b, vector c) { return vorrq_u8(vorrq_u8(a, b), c); }

static ZCWS_INLINE int any_high(vector v) { return vmaxvq_u8(v) >= 0x80; }

static ZCWS_INLINE int apply_short(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    return apply_words(dst, src, len, key);
}

static ZCWS_INLINE vector lookup(const uint8_t *table, vector v) { return vqtbl1q_u8(vld1q_u8(table), v); }

static ZCWS_INLINE vector all_three(vector a, vector b, vector c) { return vandq_u8(vandq_u8(a, b), c); }

static ZCWS_INLINE vector differ_where(vector a, vector b, vector c) { return veorq_u8(a, vandq_u8(b, c)); }

static ZCWS_INLINE vector lower(vector v) { return vandq_u8(v, vdupq_n_u8(0x0F)); }

static ZCWS_INLINE vector upper(vector v) { return vshrq_n_u8(v, 4); }

static ZCWS_INLINE vector above(vector v, uint8_t n) { return vqsubq_u8(v, vdupq_n_u8(n)); }

static ZCWS_INLINE int any(vector v) { return vmaxvq_u8(v) != 0; }

#define shifted(v, n) vextq_u8(vdupq_n_u8(0), v, 16 - (n))

static ZCWS_INLINE vector load_part(const uint8_t *at, size_t n) {
    uint8_t part[WIDTH] = {0};
    memcpy(part, at, n);
    return load(part);
}

#include "mask_body.h"

#include "ascii_body.h"

#include "utf8_body.h"

const struct zcws_kernel zcws_neon = {"neon", supported, mask, mask_copy, utf8_prefix};

#endif
