/* test_utf8.c: UTF-8 validation. Every kernel by name against naive.h: the verdict, the offset of the first
 * byte that cannot be right, and the state that goes on to the next piece. */
#include "check.h"

#include "../../csrc/kernel.h"
#include "naive.h"

enum {
    LONGEST = 300,    /* past two blocks of the widest kernel, 2 * 2 * 64 */
    BLOCK = 8 * 1024, /* of zcws_mask_utf8 */
    ROOM = 4 * BLOCK
};

static struct guarded here;

/* What zcws_utf8 must leave behind after a text: START at a boundary, BAD after a bad byte, else neither. */
static int state_fits(uint32_t state, struct naive_verdict verdict, size_t len) {
    if (verdict.good < len) return state == ZCWS_UTF8_BAD;
    return (state == ZCWS_UTF8_START) == (verdict.whole == len) && state != ZCWS_UTF8_BAD;
}

static void check_against(struct naive_verdict verdict, const uint8_t *data, size_t len) {
    uint32_t state = ZCWS_UTF8_START;
    const size_t good = zcws_utf8(data, len, &state);
    CHECK(good == verdict.good, "%zu bytes, good up to %zu, said %zu", len, verdict.good, good);
    CHECK(state_fits(state, verdict, len), "%zu bytes, good up to %zu, state %u", len, verdict.good, state);
}

static void check_text(const uint8_t *data, size_t len) { check_against(naive_utf8(data, len), data, len); }

/* The sequence alone, up to a protected page, and then behind some ASCII, each time more of it, so that
 * sequences come to cross the edges of vectors everywhere. */
static void check_sequence(const uint8_t *sequence, size_t len) {
    enum { BEFORE = 131 }; /* prime, and past four vectors of the widest kernel */
    static size_t ahead;
    struct naive_verdict verdict = naive_utf8(sequence, len);
    uint8_t *const at = here.end - len;
    memcpy(at, sequence, len);
    check_against(verdict, at, len);
    ahead = (ahead + 1) % BEFORE;
    memset(at - ahead, 'a', ahead);
    verdict.good += ahead;
    verdict.whole += ahead;
    check_against(verdict, at - ahead, ahead + len);
}

/* One of each kind of byte, at both ends of the kind. */
static const uint8_t kinds[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0,
                                0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF7, 0xF8, 0xFF};

static void test_sequences_of_one_and_two(void) {
    for (unsigned bits = 0; bits < 1 << 16; bits++) {
        const uint8_t sequence[2] = {(uint8_t)(bits >> 8), (uint8_t)bits};
        check_sequence(sequence, 2);
        check_sequence(sequence + 1, 1);
    }
}

static void test_sequences_of_three(void) {
    for (unsigned bits = 0; bits < 1 << 16; bits++) {
        for (size_t i = 0; i < sizeof kinds; i++) {
            const uint8_t sequence[3] = {(uint8_t)(bits >> 8), (uint8_t)bits, kinds[i]};
            check_sequence(sequence, 3);
        }
    }
}

/* All 2^24, for the automaton: shorter than any vector, so that the kernel matters little. */
static void test_all_sequences_of_three(void) {
    for (uint32_t bits = 0; bits < 1 << 24; bits++) {
        const uint8_t sequence[3] = {(uint8_t)(bits >> 16), (uint8_t)(bits >> 8), (uint8_t)bits};
        check_text(sequence, 3);
    }
}

/* Every lead that promises four or more (and EF), every second byte, the kinds, and what stands on both sides
 * of the continuations. */
static void test_sequences_of_four(void) {
    static const uint8_t ends[4] = {0x7F, 0x80, 0xBF, 0xC0};
    for (unsigned bits = 0xEF00; bits < 1 << 16; bits++) {
        for (size_t i = 0; i < sizeof kinds * sizeof ends; i++) {
            const uint8_t sequence[4] = {(uint8_t)(bits >> 8), (uint8_t)bits, kinds[i / sizeof ends],
                                         ends[i % sizeof ends]};
            check_sequence(sequence, 4);
        }
    }
}

/* Every code point there could be, surrogates and too large ones among them, one after another. */
static void test_code_points(void) {
    uint8_t *const text = here.start;
    size_t len = 0;
    for (uint32_t point = 0; point < 0x111000; point++) {
        uint8_t bytes[4];
        const size_t size = naive_encode(bytes, point);
        if (naive_utf8(bytes, size).good < size) {
            check_text(bytes, size);
            continue;
        }
        if (len + size > 4000) {
            check_text(text, len);
            len = 0;
        }
        memcpy(text + len, bytes, size);
        len += size;
    }
    check_text(text, len);
}

/* Alphabets: how often a character of 1, 2, 3, 4 bytes comes, of 8. */
static const unsigned alphabets[][4] = {{8, 0, 0, 0}, {7, 1, 0, 0}, {1, 7, 0, 0}, {0, 0, 8, 0},
                                        {0, 0, 0, 8}, {2, 2, 2, 2}, {6, 0, 0, 2}};
enum { ALPHABETS = sizeof alphabets / sizeof alphabets[0] };

static uint32_t random_point(const unsigned *alphabet) {
    static const uint32_t first[] = {0, 0x80, 0x800, 0x10000};
    static const uint32_t past[] = {0x80, 0x800, 0x10000, 0x110000};
    size_t pick = random_below(8), size = 0;
    while (pick >= alphabet[size]) pick -= alphabet[size++];
    uint32_t point;
    do point = first[size] + (uint32_t)random_below(past[size] - first[size]);
    while (point >= 0xD800 && point <= 0xDFFF);
    return point;
}

/* `len` bytes of whole characters, the last of which may be cut off. */
static void random_text(uint8_t *data, size_t len, const unsigned *alphabet) {
    uint8_t bytes[4];
    for (size_t i = 0; i < len;) {
        const size_t size = naive_encode(bytes, random_point(alphabet));
        const size_t part = size < len - i ? size : len - i;
        memcpy(data + i, bytes, part);
        i += part;
    }
}

/* Every length, whole and cut off, then with one byte replaced in each place; at the end of a page and at the
 * start of one. */
static void test_bad_bytes(void) {
    for (size_t alphabet = 0; alphabet < ALPHABETS; alphabet++) {
        for (size_t len = 0; len <= LONGEST; len++) {
            uint8_t *const data = len & 1 ? here.start : here.end - len;
            random_text(data, len, alphabets[alphabet]);
            check_text(data, len);
            for (size_t at = 0; at < len; at++) {
                const uint8_t before = data[at];
                data[at] = random_64() & 1 ? kinds[random_below(sizeof kinds)] : (uint8_t)random_64();
                check_text(data, len);
                data[at] = before;
            }
        }
    }
}

/* Feeds data[0, len) in pieces that end at the cuts, in order. */
static void check_pieces(const uint8_t *data, size_t len, const size_t *cuts, size_t count) {
    const struct naive_verdict verdict = naive_utf8(data, len);
    uint32_t state = ZCWS_UTF8_START;
    size_t begin = 0, good = 0;
    for (size_t i = 0; i <= count; i++) {
        const size_t end = i < count ? cuts[i] : len;
        const size_t answer = zcws_utf8(data + begin, end - begin, &state);
        CHECK(state == ZCWS_UTF8_BAD || answer == end - begin, "stopped at %zu without a reason", begin + answer);
        good += answer;
        begin = end;
    }
    CHECK(good == verdict.good, "%zu bytes in %zu pieces: good up to %zu, said %zu", len, count + 1, verdict.good,
          good);
    CHECK(state_fits(state, verdict, len), "%zu bytes in %zu pieces: state %u", len, count + 1, state);
}

static void check_every_cut(const uint8_t *data, size_t len) {
    size_t cuts[LONGEST + 1];
    for (size_t i = 0; i <= len; i++) cuts[i] = i;
    check_pieces(data, len, cuts, len + 1); /* byte by byte, with nothing first and last */
    for (size_t cut = 0; cut <= len; cut++) {
        check_pieces(data, len, &cut, 1);
        const size_t three[2] = {random_below(cut + 1), cut};
        check_pieces(data, len, three, 2);
    }
}

static void test_pieces(void) {
    for (int round = 0; round < 60; round++) {
        const size_t len = random_below(LONGEST);
        uint8_t *const data = here.end - len;
        random_text(data, len, alphabets[round % ALPHABETS]);
        check_every_cut(data, len);
        if (len > 0) data[random_below(len)] = kinds[random_below(sizeof kinds)];
        check_every_cut(data, len);
    }
}

/* A kernel's own answer is a boundary that is true, whatever the text. */
static void check_prefix_is_true(const uint8_t *data, size_t len) {
    const size_t prefix = zcws_kernel->utf8_prefix(data, len);
    CHECK(prefix <= naive_utf8(data, len).good, "said %zu of %zu", prefix, len);
    CHECK(naive_utf8(data, prefix).whole == prefix, "%zu is inside a character", prefix);
}

/* And it goes all the way on text that it understands (else the automaton would do all the work, and every
 * other test would still pass): ASCII but for less than a block in the kernels without lookups; in the others,
 * characters of any kind, but for two bytes and a character that they cut off. */
static void test_prefix(void) {
    const int ascii_only = strcmp(zcws_kernel_in_use(), "scalar") == 0 || strcmp(zcws_kernel_in_use(), "sse2") == 0;
    for (size_t room = 0; room <= 4 * LONGEST; room++) {
        uint8_t *const data = here.end - room;
        random_text(data, room, alphabets[ascii_only ? 0 : room % ALPHABETS]);
        check_prefix_is_true(data, room);
        const size_t len = naive_utf8(data, room).whole;
        const size_t left = len - zcws_kernel->utf8_prefix(data, len);
        CHECK(left < (ascii_only ? 64 : 6), "%zu of %zu good bytes left over", left, len);
        if (room > 0) data[random_below(room)] = kinds[random_below(sizeof kinds)];
        check_prefix_is_true(data, room);
    }
}

/* zcws_mask_utf8 over several blocks, in two pieces with the key turned between them. */
static void check_mask_utf8(uint8_t *data, const uint8_t *text, size_t len, uint32_t key) {
    const struct naive_verdict verdict = naive_utf8(text, len);
    const size_t cut = random_below(len + 1);
    uint32_t state = ZCWS_UTF8_START;
    naive_mask(data, text, len, key, 0);
    size_t good = zcws_mask_utf8(data, cut, key, &state);
    if (good == cut) good += zcws_mask_utf8(data + cut, len - cut, zcws_turn_key(key, cut), &state);
    CHECK(good == verdict.good, "%zu bytes cut at %zu: good up to %zu, said %zu", len, cut, verdict.good, good);
    CHECK(state_fits(state, verdict, len), "%zu bytes cut at %zu: state %u", len, cut, state);
    CHECK(memcmp(data, text, good) == 0, "%zu bytes cut at %zu: not unmasked", len, cut);
}

static void test_mask_utf8(void) {
    static uint8_t text[ROOM];
    for (size_t round = 0; round < 400; round++) {
        const size_t len = random_below(round < 300 ? LONGEST : ROOM - 1);
        /* None at all, those that are nearly none, and any. */
        const uint32_t key = round % 10 == 0   ? 0
                             : round % 10 == 1 ? (uint32_t)1 << round / 10 % 32
                                               : (uint32_t)random_64();
        random_text(text, len, alphabets[round % ALPHABETS]);
        check_mask_utf8(here.end - len, text, len, key);
        if (len > 0) text[random_below(len)] = kinds[random_below(sizeof kinds)];
        check_mask_utf8(here.end - len, text, len, key);
    }
}

static void test_bad_for_good(void) {
    uint32_t state = ZCWS_UTF8_BAD;
    uint8_t text[] = "after a bad byte nothing is right, and nothing is unmasked";
    CHECK(zcws_utf8(text, sizeof text, &state) == 0, "zcws_utf8");
    CHECK(zcws_mask_utf8(text, sizeof text, 1, &state) == 0, "zcws_mask_utf8");
    CHECK(state == ZCWS_UTF8_BAD, "state %u", state);
    state = ZCWS_UTF8_START;
    CHECK(zcws_utf8(NULL, 0, &state) == 0 && state == ZCWS_UTF8_START, "an empty text is a text");
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    here = guarded_map(ROOM);
    zcws_kernel_use("scalar");
    test_all_sequences_of_three();
    zcws_kernel_use(NULL);
    each_kernel("1 and 2 bytes", test_sequences_of_one_and_two);
    each_kernel("3 bytes", test_sequences_of_three);
    each_kernel("4 bytes", test_sequences_of_four);
    each_kernel("code points", test_code_points);
    each_kernel("bad bytes", test_bad_bytes);
    each_kernel("pieces", test_pieces);
    each_kernel("utf8_prefix", test_prefix);
    each_kernel("zcws_mask_utf8", test_mask_utf8);
    each_kernel("bad for good", test_bad_for_good);
    return 0;
}
