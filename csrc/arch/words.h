/* words.h: what every kernel does below the width of its vectors, in words of 8, 4 and 1 bytes.
 *
 * Payloads of 1 to 15 bytes are common (and are the ends of all others in kernels of 16 bytes), so they get
 * no loop. Masking twice restores a byte, so two words that overlap are both read before either is
 * written; then they agree on the bytes that they share, and it does not matter that these are stored
 * twice. For 11 bytes:
 *
 *     byte     0  1  2  3  4  5  6  7  8  9 10
 *     first    F  F  F  F  F  F  F  F              key at phase 0
 *     last              L  L  L  L  L  L  L  L     key at phase 11 - 8 = 3
 */
#ifndef ZCWS_ARCH_WORDS_H
#define ZCWS_ARCH_WORDS_H

#include "../kernel.h"

static const uint64_t high_bits_8 = 0x8080808080808080;
static const uint32_t high_bits_4 = 0x80808080;

static ZCWS_INLINE uint64_t load_8(const uint8_t *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static ZCWS_INLINE void store_8(uint8_t *at, uint64_t word) { memcpy(at, &word, sizeof word); }

static ZCWS_INLINE uint32_t load_4(const uint8_t *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static ZCWS_INLINE void store_4(uint8_t *at, uint32_t word) { memcpy(at, &word, sizeof word); }

/* The key twice: the same in either byte order. */
static ZCWS_INLINE uint64_t splat_8(uint32_t key) { return (uint64_t)key << 32 | key; }

/* 8 <= len <= 16: [0, 8) and [len - 8, len) meet or overlap. */
static ZCWS_INLINE int apply_8_to_16(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    const uint64_t first = load_8(src) ^ splat_8(key);
    const uint64_t last = load_8(src + len - 8) ^ splat_8(zcws_turn_key(key, len));
    store_8(dst, first);
    store_8(dst + len - 8, last);
    return ((first | last) & high_bits_8) != 0;
}

/* 4 <= len <= 8. */
static ZCWS_INLINE int apply_4_to_8(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    const uint32_t first = load_4(src) ^ key;
    const uint32_t last = load_4(src + len - 4) ^ zcws_turn_key(key, len);
    store_4(dst, first);
    store_4(dst + len - 4, last);
    return ((first | last) & high_bits_4) != 0;
}

/* 1 <= len <= 3: bytes 0, len / 2 and len - 1 are all there are. */
static ZCWS_INLINE int apply_1_to_3(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    uint8_t turned[4];
    memcpy(turned, &key, sizeof turned);
    const size_t middle = len / 2;
    const uint8_t a = src[0] ^ turned[0];
    const uint8_t b = src[middle] ^ turned[middle];
    const uint8_t c = src[len - 1] ^ turned[len - 1];
    dst[0] = a;
    dst[middle] = b;
    dst[len - 1] = c;
    return ((a | b | c) & 0x80) != 0;
}

/* Masks len < 16 bytes from src to dst, which are the same or do not overlap. Nonzero when a byte is 0x80
 * or more afterwards. */
static ZCWS_INLINE int apply_words(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    if (len >= 8) return apply_8_to_16(dst, src, len, key);
    if (len >= 4) return apply_4_to_8(dst, src, len, key);
    return len > 0 ? apply_1_to_3(dst, src, len, key) : 0;
}

/* 0x80 or more among data[0, len)? For len < 8 by two words of 4 or by single bytes, else by words of 8, of
 * which the last may overlap the one before. */
static ZCWS_INLINE int any_high_words(const uint8_t *data, size_t len) {
    if (len >= 8) {
        uint64_t seen = load_8(data + len - 8);
        for (size_t i = 0; i + 8 < len; i += 8) seen |= load_8(data + i);
        return (seen & high_bits_8) != 0;
    }
    if (len >= 4) return ((load_4(data) | load_4(data + len - 4)) & high_bits_4) != 0;
    return len > 0 && ((data[0] | data[len / 2] | data[len - 1]) & 0x80) != 0;
}

#endif
