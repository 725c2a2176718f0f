/* Invariant: every kernel says of any bytes, in any cut, at any alignment, what naive.h says, and touches no other byte.
 *
 * An input: how often its text is repeated, alignment, seed of the cuts, four key bytes; then the text. */
#include "fuzz.h"

#include "../../csrc/kernel.h"
#include "../c/naive.h"

enum { MOST = 9000 /* more than one of the blocks of 8 KiB in which utf8.c unmasks text */ };

struct text {
    const uint8_t *data;
    size_t len, before;
    size_t good;                /* the oracle's: len, or the offset of the first byte that cannot be right */
    uint8_t is_whole[MOST + 1]; /* whether so many bytes are whole characters, and right */
};

static void ask_oracle(struct text *text) {
    unsigned size = 0;
    size_t at = 0;
    memset(text->is_whole, 0, sizeof text->is_whole);
    for (text->good = 0; text->good == at; at += size) {
        text->is_whole[at] = 1;
        if (at == text->len) return;
        text->good = at + naive_character(text->data + at, text->len - at, &size);
        if (text->good < at + size || size == 0) return;
    }
}

/* Good bytes and the state after them, against the oracle; `at` bytes came before these. */
static void check_answer(const struct text *text, size_t at, size_t len, size_t good, uint32_t state) {
    const size_t naive = text->good - at < len ? text->good - at : len;
    CHECK(good == naive, "byte %zu of %zu: good %zu, not %zu", at, text->len, good, naive);
    if (good < len) {
        CHECK(state == ZCWS_UTF8_BAD, "state %u after a bad byte", state);
    } else {
        CHECK(state != ZCWS_UTF8_BAD, "bad without a bad byte at %zu", at);
        CHECK((state == ZCWS_UTF8_START) == text->is_whole[at + len], "state %u at %zu", state, at + len);
    }
}

static void check_whole(const struct text *text) {
    uint32_t state = ZCWS_UTF8_START;
    const struct exact copy = exact_copy(text->before, text->data, text->len);
    const size_t prefix = zcws_kernel->utf8_prefix(copy.start, copy.len);
    CHECK(prefix <= text->len && text->is_whole[prefix], "a prefix of %zu bytes is not right and whole", prefix);
    /* A statement of its own: in which order arguments are evaluated is the compiler's choice. */
    const size_t good = zcws_utf8(copy.start, copy.len, &state);
    check_answer(text, 0, text->len, good, state);
    exact_free(copy);
}

/* One piece, unmasked while it is checked (`key`), or as it is. Returns whether more may follow. */
static int check_piece(const struct text *text, size_t at, size_t len, uint32_t key, uint32_t *state) {
    const struct exact copy = exact_copy(text->before, text->data + at, len);
    const uint32_t turned = zcws_turn_key(key, at);
    naive_mask(copy.start, copy.start, len, turned, 0);
    const size_t good = zcws_mask_utf8(copy.start, len, turned, state);
    check_answer(text, at, len, good, *state);
    CHECK(good == 0 || memcmp(copy.start, text->data + at, good) == 0, "unmasked otherwise at %zu", at);
    exact_free(copy);
    return good == len;
}

static void check_cuts(const struct text *text, uint32_t key, uint64_t seed, size_t longest) {
    uint32_t state = ZCWS_UTF8_START;
    random_state = seed;
    for (size_t at = 0; at < text->len;) {
        size_t len = 1 + random_below(longest);
        if (len > text->len - at) len = text->len - at;
        if (!check_piece(text, at, len, key, &state)) break;
        at += len;
    }
}

static void check_kernel(const struct text *text, uint32_t key, uint64_t seed) {
    uint32_t state = ZCWS_UTF8_START;
    check_whole(text);
    if (text->len != 0) check_piece(text, 0, text->len, key, &state);
    check_cuts(text, key, seed, 1 + text->len / 8);
    if (text->len < 300) check_cuts(text, key, seed, 3);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    static struct text text;
    const size_t times = take_times(&input);
    text.before = take_byte(&input) % ALIGNMENTS;
    const uint64_t seed = take_byte(&input);
    uint32_t key = 0;
    for (int i = 0; i < 4; i++) key = key << 8 | take_byte(&input);
    uint8_t *const repeated = repeat(input, times, MOST, &text.len);
    text.data = repeated;
    ask_oracle(&text);
    for (size_t i = 0; zcws_kernel_name(i) != NULL; i++) {
        CHECK(zcws_kernel_use(zcws_kernel_name(i)), "kernel %s", zcws_kernel_name(i));
        check_kernel(&text, key, seed);
    }
    free(repeated);
    return 0;
}
