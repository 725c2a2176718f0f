/* naive.h: the oracles: masking a byte at a time, and UTF-8 by arithmetic on code points.
 *
 * The library decides UTF-8 by which byte may follow which. Here nothing is known about bytes that follow each
 * other: what has been read of a character leaves a range of code points that it may still become, and it
 * is right as long as one of them is a scalar value that takes that many bytes (RFC 3629 section 3). */
#ifndef ZCWS_TESTS_NAIVE_H
#define ZCWS_TESTS_NAIVE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* RFC 6455 5.3: "transformed-octet-i = original-octet-i XOR masking-key-octet-j", j = i MOD 4. */
static inline void naive_mask(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key, size_t phase) {
    uint8_t octets[4];
    memcpy(octets, &key, 4);
    for (size_t i = 0; i < len; i++) dst[i] = src[i] ^ octets[(phase + i) % 4];
}

/* How many bytes the lead byte promises: its leading ones; 0 where it cannot lead. */
static inline unsigned naive_size(uint8_t lead) {
    unsigned ones = 0;
    while (ones < 8 && lead & 0x80 >> ones) ones++;
    return ones == 0 ? 1 : ones >= 2 && ones <= 4 ? ones : 0;
}

/* Is there a scalar value in [low, high] whose shortest form has `size` bytes? */
static inline int naive_possible(uint32_t low, uint32_t high, unsigned size) {
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    low = low < least[size] ? least[size] : low;
    high = high > 0x10FFFF ? 0x10FFFF : high;
    if (low > high) return 0;
    return low < 0xD800 || high > 0xDFFF; /* not all of it lies among the surrogates */
}

/* Of the character at data[0, len): how many bytes are right, up to all that its lead promises (*size). */
static inline unsigned naive_character(const uint8_t *data, size_t len, unsigned *size) {
    *size = naive_size(data[0]);
    if (*size == 0) return 0;
    uint32_t point = *size == 1 ? data[0] : data[0] & 0x7Fu >> *size;
    for (unsigned have = 1;; have++) {
        const unsigned open = 6 * (*size - have);
        if (!naive_possible(point << open, ((point + 1) << open) - 1, *size)) return have - 1;
        if (have == *size || have == len) return have;
        if (data[have] >> 6 != 2) return have;
        point = point << 6 | (data[have] & 0x3F);
    }
}

struct naive_verdict {
    size_t good;  /* len, or the offset of the first byte that cannot be right */
    size_t whole; /* where the last whole character before that ends */
};

static inline struct naive_verdict naive_utf8(const uint8_t *data, size_t len) {
    size_t whole = 0;
    while (whole < len) {
        unsigned size;
        const unsigned good = naive_character(data + whole, len - whole, &size);
        if (good == 0 || good < size) return (struct naive_verdict){whole + good, whole};
        whole += size;
    }
    return (struct naive_verdict){len, len};
}

/* The bytes of one code point, which need not be a scalar value. */
static inline size_t naive_encode(uint8_t *out, uint32_t point) {
    const unsigned size = point < 0x80 ? 1 : point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
    static const uint8_t marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (unsigned i = size; i-- > 1; point >>= 6) out[i] = (uint8_t)(0x80 | (point & 0x3F));
    out[0] = (uint8_t)(marks[size] | point);
    return size;
}

#endif
