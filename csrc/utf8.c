/* utf8.c: is it UTF-8 (RFC 3629), and if not, at which byte does it stop being so?
 *
 * Two parts share the work. A kernel's utf8_prefix runs ahead over whole characters, many bytes at a time,
 * and never has to say where exactly it stopped. The automaton here does one byte at a time, carries
 * its state from piece to piece, and knows the first byte that cannot be right: it is what RFC 6455 8.1
 * and a peer who waits for an early 1007 need.
 *
 * The automaton is RFC 3629 section 4 read as a table:
 *
 *     state    has read          a byte that may follow, and the state after it
 *     START    whole characters  00-7F START, C2-DF ONE, E0 E0, E1-EC EE-EF TWO, ED ED,
 *                                F0 F0, F1-F3 THREE, F4 F4
 *     ONE      all but one       80-BF START
 *     TWO      all but two       80-BF ONE
 *     THREE    all but three     80-BF TWO
 *     E0       E0                A0-BF ONE     less is overlong
 *     ED       ED                80-9F ONE     more is a surrogate
 *     F0       F0                90-BF TWO     less is overlong
 *     F4       F4                80-8F TWO     more is over U+10FFFF
 *     BAD      a bad byte        nothing; there is no way out
 *
 * Nine states of six bits fit one 64-bit word, so a byte selects a word (`rows`) and the state is the
 * number of bits to shift it by: a step waits for nothing of the step before but one shift. The idea is Per
 * Vognsen's, "Shift-based DFAs", https://gist.github.com/pervognsen/218ea17743e1442e59bb60d29b1aa725. */
#include "kernel.h"

enum { START = 0, BAD = 6, ONE = 12, TWO = 18, THREE = 24, E0 = 30, ED = 36, F0 = 42, F4 = 48, BITS = 6 };

/* The word of one class of bytes: the next state, for each state in the order of the enum above. BAD stays
 * BAD: that is the one entry that no class chooses. */
/* clang-format off */
#define ROW(start, one, two, three, e0, ed, f0, f4) \
    ((uint64_t)(start) << START | (uint64_t)BAD << BAD | \
     (uint64_t)(one) << ONE | (uint64_t)(two) << TWO | (uint64_t)(three) << THREE | \
     (uint64_t)(e0) << E0 | (uint64_t)(ed) << ED | (uint64_t)(f0) << F0 | (uint64_t)(f4) << F4)
#define LEAD(next) ROW(next, BAD, BAD, BAD, BAD, BAD, BAD, BAD) /* a byte that can only begin a character */

#define CONTINUES_80 ROW(BAD, START, ONE, TWO, BAD, ONE, BAD, TWO) /* 80-8F */
#define CONTINUES_90 ROW(BAD, START, ONE, TWO, BAD, ONE, TWO, BAD) /* 90-9F */
#define CONTINUES_A0 ROW(BAD, START, ONE, TWO, ONE, BAD, TWO, BAD) /* A0-BF */

#define TIMES_2(row) row, row
#define TIMES_4(row) TIMES_2(row), TIMES_2(row)
#define TIMES_8(row) TIMES_4(row), TIMES_4(row)
#define TIMES_16(row) TIMES_8(row), TIMES_8(row)
#define TIMES_32(row) TIMES_16(row), TIMES_16(row)
#define TIMES_64(row) TIMES_32(row), TIMES_32(row)

static const uint64_t rows[256] = {
    TIMES_64(LEAD(START)), TIMES_64(LEAD(START)),                                          /* 00-7F */
    TIMES_16(CONTINUES_80), TIMES_16(CONTINUES_90), TIMES_32(CONTINUES_A0),                /* 80-BF */
    TIMES_2(LEAD(BAD)), TIMES_2(LEAD(ONE)), TIMES_4(LEAD(ONE)), TIMES_8(LEAD(ONE)),        /* C0-CF */
    TIMES_16(LEAD(ONE)),                                                                   /* D0-DF */
    LEAD(E0), TIMES_4(LEAD(TWO)), TIMES_8(LEAD(TWO)), LEAD(ED), TIMES_2(LEAD(TWO)),        /* E0-EF */
    LEAD(F0), TIMES_2(LEAD(THREE)), LEAD(THREE), LEAD(F4), LEAD(BAD), TIMES_2(LEAD(BAD)),  /* F0-F7 */
    TIMES_8(LEAD(BAD))                                                                     /* F8-FF */
};
/* clang-format on */

/* How far the automaton walks before the kernel is asked again: over the block at which an ASCII-only kernel stopped
 * (4 * 16 bytes in sse2), because it would stop there again; over what a kernel with lookups leaves at a text's end. */
enum { STRETCH = 64 };

/* What zcws_mask_utf8 unmasks before it checks: half of the smallest first-level cache in use (16 KiB on some old
 * cores, 32 KiB and more on others), so that the check reads what is still there. */
enum { BLOCK = 8 * 1024 };

/* One step. Six bits of the word are the state; the rest is whatever lies above them. */
static inline uint64_t step(uint64_t state, uint8_t byte) { return rows[byte] >> (state & 63); }

/* Walks over data[0, len) from *state. Returns len, or the offset of the first byte that cannot be right.
 * No step checks whether it failed, because BAD stays BAD: a stretch that ends in BAD is walked a second time. */
static size_t walk(const uint8_t *data, size_t len, uint64_t *state) {
    const uint64_t before = *state;
    uint64_t now = before;
    for (size_t i = 0; i < len; i++) now = step(now, data[i]);
    *state = now & 63;
    if (*state != BAD) return len;
    size_t good = 0;
    for (now = before; (now = step(now, data[good]) & 63) != BAD;) good++;
    return good;
}

/* From where the kernel has stopped: the automaton and the kernel by turns. */
static size_t alternate(const uint8_t *data, size_t len, uint64_t *state) {
    size_t done = 0;
    while (done < len && *state != BAD) {
        const size_t left = len - done;
        done += walk(data + done, left < STRETCH ? left : STRETCH, state);
        if (*state == START) done += zcws_kernel->utf8_prefix(data + done, len - done);
    }
    return done;
}

size_t zcws_utf8(const uint8_t *data, size_t len, uint32_t *state) {
    size_t done = 0;
    if (*state == ZCWS_UTF8_START) done = zcws_kernel->utf8_prefix(data, len);
    if (done == len) return len; /* most texts: short, and whole */
    uint64_t now = (uint64_t)*state * BITS;
    done += alternate(data + done, len - done, &now);
    *state = (uint32_t)now / BITS;
    return done;
}

/* len <= BLOCK. A kernel says what it saw while it unmasked, so ASCII is not looked at twice. */
static inline size_t mask_utf8_block(uint8_t *data, size_t len, uint32_t key, uint32_t *state) {
    const int beyond_ascii = zcws_kernel->mask(data, len, key);
    return !beyond_ascii && *state == ZCWS_UTF8_START ? len : zcws_utf8(data, len, state);
}

/* BLOCK is a multiple of four, so the key need not turn. */
static size_t mask_utf8_blocks(uint8_t *data, size_t len, uint32_t key, uint32_t *state) {
    size_t done = 0;
    while (done < len && *state != ZCWS_UTF8_BAD) {
        const size_t left = len - done;
        done += mask_utf8_block(data + done, left < BLOCK ? left : BLOCK, key, state);
    }
    return done;
}

size_t zcws_mask_utf8(uint8_t *data, size_t len, uint32_t key, uint32_t *state) {
    if (key == 0) return zcws_utf8(data, len, state);
    return len <= BLOCK ? mask_utf8_block(data, len, key, state) : mask_utf8_blocks(data, len, key, state);
}
