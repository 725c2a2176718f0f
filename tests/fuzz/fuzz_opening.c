/* Invariant: of any bytes, the opening handshake is read as naive_opening.h reads it: the same requests are accepted, with
 * the same pieces and the same answer; what came before the end of a head is never enough, what comes behind it changes
 * nothing, and no byte outside of input and answer is touched.
 *
 * An input: alignment, how often one byte of the head is there more than once, which one (two bytes), seed of the cuts;
 * then the head. */
#include "fuzz.h"

#include "../c/naive_opening.h"

enum {
    PLAIN = 224,     /* of the first parameter's values, those that stretch nothing */
    UNIT = 300,      /* bytes: 32 of these are the most, and more than ZCWS_OPENING_MOST */
    EVERY_CUT = 400, /* inputs up to this are cut everywhere, longer ones in a few places */
    SOME_CUTS = 24
};

struct bytes {
    uint8_t *data;
    size_t len, before;
};

/* Memory of its own for each answer, so that ASan sees what is written beside it. */
static struct zcws_opening *fresh_answer(void) {
    struct zcws_opening *const answer = malloc(sizeof *answer);
    CHECK(answer != NULL, "malloc of %zu bytes", sizeof *answer);
    memset(answer, 0xA5, sizeof *answer);
    return answer;
}

/* The first `len` bytes, with nothing behind them. */
static void check_cut(const struct bytes *all, size_t len, const struct naive_opening *naive) {
    const struct exact copy = exact_copy(all->before, all->data, len);
    struct zcws_opening *const answer = fresh_answer();
    const int whole = naive->head != 0 && len >= naive->head;
    const size_t expected = whole ? naive->head + (naive->asks ? ZCWS_OPENING_ASKS : 0) : 0;
    const size_t found = zcws_read_opening(copy.start, len, answer);
    CHECK(found == expected, "%zu of %zu bytes: %zu, not %zu", len, all->len, found, expected);
    CHECK(len == 0 || memcmp(copy.start, all->data, len) == 0, "%zu bytes were written to", len);
    CHECK(answer->received == (int64_t)0xA5A5A5A5A5A5A5A5, "received is not its business");
    if (whole) {
        CHECK(memcmp(answer->accept, naive->accept, ZCWS_OPENING_ACCEPT) == 0, "%.28s, not %.28s", answer->accept,
              naive->accept);
        for (int i = 0; i < 3; i++) {
            const struct naive_part part = naive->asked[i];
            CHECK(answer->asked[2 * i] == part.begin, "%d begins at %u", i, answer->asked[2 * i]);
            CHECK(answer->asked[2 * i + 1] == part.end, "%d ends at %u", i, answer->asked[2 * i + 1]);
        }
    }
    free(answer);
    exact_free(copy);
}

static void check_cuts(const struct bytes *all, const struct naive_opening *naive) {
    check_cut(all, all->len, naive);
    if (all->len <= EVERY_CUT) {
        for (size_t len = 0; len < all->len; len++) check_cut(all, len, naive);
        return;
    }
    for (int i = 0; i < SOME_CUTS; i++) check_cut(all, random_below(all->len), naive);
    if (naive->head == 0) return;
    check_cut(all, naive->head, naive);
    check_cut(all, naive->head - 1, naive);
}

/* The head of this input, one of its bytes there many times where `times` says so. */
static struct bytes stretched(struct input input, unsigned times, size_t place) {
    const size_t more = times < PLAIN || input.size == 0 ? 0 : (times - PLAIN + 1) * (size_t)UNIT;
    struct bytes all = {malloc(input.size + more + 1), input.size + more, 0};
    CHECK(all.data != NULL, "malloc of %zu bytes", all.len);
    if (input.size == 0) return all;
    place %= input.size;
    memcpy(all.data, input.data, place);
    memset(all.data + place, input.data[place], more + 1);
    memcpy(all.data + place + more, input.data + place, input.size - place);
    return all;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    const unsigned alignment = take_byte(&input) % ALIGNMENTS, times = take_byte(&input), place = take_two(&input);
    random_state = take_byte(&input);
    struct bytes all = stretched(input, times, place);
    all.before = alignment;
    const struct naive_opening naive = naive_read_opening(all.data, all.len);
    check_cuts(&all, &naive);
    free(all.data);
    return 0;
}
