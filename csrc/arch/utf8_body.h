/* utf8_body.h: UTF-8 by table lookup, written once for the kernels that can look up 16 bytes in a register.
 * Included by them like mask_body.h, behind ascii_body.h, and needs, beside what those need:
 *
 *     lookup(table, v)         for each byte of v (0-15): the byte of the 16-byte table at that place
 *     upper(v), lower(v)       the upper, the lower four bits of each byte
 *     above(v, n)              for each byte: v - n, but not below 0
 *     any(v)                   nonzero when a bit of v is
 *     all_three(a, b, c)       a and b and c
 *     differ_where(a, b, c)    a xor (b and c)
 *     shifted(v, n)            the bytes that stand n places before those of v, zeros before the first
 *     load_part(at, n)         n < WIDTH bytes, then zeros
 *
 * The method is by John Keiser and Daniel Lemire, "Validating UTF-8 In Less Than One Instruction Per Byte",
 * Software: Practice and Experience 51 (5), 2021 (arxiv.org/abs/2010.03090). Whatever can be wrong with UTF-8
 * shows in 12 bits: the whole of one byte and the upper half of the next. So each pair of neighbours
 *
 *     byte        ... | p p p p  q q q q | c c c c  . . . . | ...
 *                       upper_1  lower_1   upper_2
 *
 * is looked up three times, half by half. A table entry has one bit for each fault that its half
 * allows; a fault that all three allow is there. One fault is left, because it takes more than a pair: the third
 * and the fourth byte of a character. PAIR, "two continuations in a row", is therefore no fault but a
 * claim, and must be made exactly where a byte E0-FF stands two places before, or F0-FF three. */

enum {
    SHORT = 1 << 0,   /* C0-FF, then no continuation */
    LONG = 1 << 1,    /* 00-7F, then a continuation */
    E0_LOW = 1 << 2,  /* E0, then 80-9F: overlong */
    ED_HIGH = 1 << 3, /* ED, then A0-BF: a surrogate */
    TWO_LOW = 1 << 4, /* C0-C1, then a continuation: overlong */
    F4_HIGH = 1 << 5, /* F4-FF, then 90-BF: over U+10FFFF */
    F0_LOW = 1 << 6,  /* F0, then 80-8F: overlong; and F5-FF, then 80-8F: over U+10FFFF */
    PAIR = 1 << 7     /* 80-BF, then a continuation */
};

enum {
    ANY = SHORT | LONG | PAIR,             /* faults that do not ask for the first byte's lower half */
    FOLLOWS = LONG | TWO_LOW | PAIR,       /* faults of any continuation */
    FOUR = SHORT | F4_HIGH | F0_LOW,       /* of F0-FF */
    THREE = SHORT | E0_LOW | ED_HIGH,      /* of E0-EF */
    OVER = ANY | F4_HIGH | F0_LOW,         /* of .5-.F */
    ZERO = ANY | E0_LOW | TWO_LOW | F0_LOW /* of .0 */
};

/* clang-format off */
/* Which faults the first byte's upper half allows: */
static const uint8_t upper_1[16] = {
    LONG, LONG, LONG, LONG, LONG, LONG, LONG, LONG, /* 0-7 */
    PAIR, PAIR, PAIR, PAIR,                         /* 8-B */
    SHORT | TWO_LOW, SHORT, THREE, FOUR             /* C D E F */
};

/* Its lower half: */
static const uint8_t lower_1[16] = {
    ZERO, ANY | TWO_LOW, ANY, ANY, ANY | F4_HIGH, OVER, OVER, OVER, /* 0-7 */
    OVER, OVER, OVER, OVER, OVER, OVER | ED_HIGH, OVER, OVER        /* 8-F */
};

/* The second byte's upper half: */
static const uint8_t upper_2[16] = {
    SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, /* 0-7 */
    FOLLOWS | E0_LOW | F0_LOW,                              /* 8 */
    FOLLOWS | E0_LOW | F4_HIGH,                             /* 9 */
    FOLLOWS | ED_HIGH | F4_HIGH,                            /* A */
    FOLLOWS | ED_HIGH | F4_HIGH,                            /* B */
    SHORT, SHORT, SHORT, SHORT                              /* C-F */
};
/* clang-format on */

/* Nonzero where a byte of v cannot be right after the bytes one, two and three places before it. */
TARGET static ZCWS_INLINE vector faults(vector v, vector one, vector two, vector three) {
    const vector pairs =
        all_three(lookup(upper_1, upper(one)), lookup(lower_1, lower(one)), lookup(upper_2, upper(v)));
    /* E0-FF less 0x60, and F0-FF less 0x70, are 0x80 and more; no smaller byte is. */
    const vector later = merge(above(two, 0x60), above(three, 0x70));
    return differ_where(pairs, later, splat(0x80808080));
}

/* At the start of a text, zeros stand before it: they are characters. */
TARGET static ZCWS_INLINE int any_faults_at_start(vector v) {
    return any(faults(v, shifted(v, 1), shifted(v, 2), shifted(v, 3)));
}

/* Later the bytes before can be loaded, which is cheaper than to shift registers: the ports that shuffle are
 * the busy ones here. */
TARGET static ZCWS_INLINE vector faults_at(const uint8_t *at) {
    return faults(load(at), load(at - 1), load(at - 2), load(at - 3));
}

/* The same for four vectors, unless they and the one before them are ASCII: then nothing was unfinished, nothing
 * is, and no lookup is needed. *before is the vector before, and becomes the last of the four. */
TARGET static ZCWS_INLINE int any_faults_in_four(const uint8_t *at, vector *before) {
    const vector last = load(at + 3 * WIDTH);
    const vector three = merge_three(load(at), load(at + WIDTH), load(at + 2 * WIDTH));
    const int ascii = !any_high(merge_three(*before, three, last));
    *before = last;
    if (ascii) return 0;
    const vector seen = merge(faults_at(at), faults_at(at + WIDTH));
    return any(merge_three(seen, faults_at(at + 2 * WIDTH), faults_at(at + 3 * WIDTH)));
}

/* data[0, n) has no fault, but its last character may not be whole. Returns where whole characters end:
 * n, or the place of a lead byte among the last three that promises more than is there. */
static inline size_t whole(const uint8_t *data, size_t n) {
    static const uint8_t least[3] = {0xC0, 0xE0, 0xF0}; /* leads of 2, 3, 4 bytes and more */
    if (n == 0 || data[n - 1] < 0x80) return n;
    for (size_t back = 1; back <= 3 && back <= n; back++)
        if (data[n - back] >= least[back - 1]) return n - back;
    return n;
}

/* What ascii_prefix left: data[i, len), where i is 0, or at least 4 * WIDTH and everything before is ASCII.
 *
 *     0         WIDTH               i                              len
 *     |--start--|---four vectors---|...|--one--|--one--|--one--|    .
 *               .                                          |--last--|
 *
 * What is touched ends at i + 4 * WIDTH <= len, i + WIDTH <= len, or len itself. The last vector may overlap the
 * one before. It begins less than three bytes from 0 where len < WIDTH + 3: then those one or two bytes are the
 * automaton's, since there is nothing to load at data - 1. */
TARGET static size_t checked_prefix(const uint8_t *data, size_t i, size_t len) {
    if (len < WIDTH) return any_faults_at_start(load_part(data, len)) ? 0 : whole(data, len);
    if (i == 0) {
        if (any_faults_at_start(load(data))) return 0;
        i = WIDTH;
    }
    vector before = load(data + i - WIDTH);
    for (; i + 4 * WIDTH <= len; i += 4 * WIDTH)
        if (any_faults_in_four(data + i, &before)) return whole(data, i);
    for (; i + WIDTH <= len; i += WIDTH)
        if (any(faults_at(data + i))) return whole(data, i);
    if (i < len && (len < WIDTH + 3 || any(faults_at(data + len - WIDTH)))) return whole(data, i);
    return whole(data, len);
}

TARGET static size_t utf8_prefix(const uint8_t *data, size_t len) {
    const size_t ascii = ascii_prefix(data, len);
    return ascii == len ? len : checked_prefix(data, ascii, len);
}
