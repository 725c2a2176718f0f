/* scalar.c: the kernel that runs everywhere, in words of 8 bytes, and the reference for the others. */
#include "words.h"

static int supported(void) { return 1; }

typedef uint64_t vector;
enum { WIDTH = 8 };
#define TARGET

static inline vector load(const uint8_t *at) { return load_8(at); }

static inline void store(uint8_t *at, vector v) { store_8(at, v); }

static inline vector splat(uint32_t key) { return splat_8(key); }

static inline vector differ(vector a, vector b) { return a ^ b; }

static inline vector merge(vector a, vector b) { return a | b; }

static inline vector merge_three(vector a, vector b, vector c) { return a | b | c; }

static inline int any_high(vector v) { return (v & high_bits_8) != 0; }

static inline int apply_short(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    return apply_words(dst, src, len, key);
}

#include "mask_body.h"
#include "ascii_body.h"

const struct zcws_kernel zcws_scalar = {"scalar", supported, mask, mask_copy, ascii_prefix};
