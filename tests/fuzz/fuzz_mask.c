/* Invariant: every kernel masks any bytes as RFC 6455 5.3 has it, in place, in a copy and in a frame, at any alignment and
 * phase; masked twice they are what they were, the scanner reads the frame, and no other byte is touched.
 *
 * An input: how often its payload is repeated, two alignments, the phase, the frame's first byte, four key bytes; then
 * the payload. */
#include "fuzz.h"

#include "../../csrc/kernel.h"
#include "../c/naive.h"

enum {
    MOST = 70000, /* more than the 65,535 bytes whose length takes two bytes (RFC 6455 5.2) */
    LONGEST_HEAD = 14,
    GAP = 0xA5 /* what a byte behind a frame is before and after */
};

struct work {
    const uint8_t *payload;
    size_t len, before_from, before_to;
    uint32_t key;
    unsigned phase, first;
};

static void check_in_place(const struct work *work, const uint8_t *masked) {
    const struct exact copy = exact_copy(work->before_to, work->payload, work->len);
    zcws_mask(copy.start, work->len, work->key, work->phase);
    CHECK(work->len == 0 || memcmp(copy.start, masked, work->len) == 0, "%zu bytes in place", work->len);
    zcws_mask(copy.start, work->len, work->key, work->phase);
    CHECK(work->len == 0 || memcmp(copy.start, work->payload, work->len) == 0, "%zu bytes twice", work->len);
    exact_free(copy);
}

static void check_copy(const struct work *work, const uint8_t *masked) {
    const struct exact from = exact_copy(work->before_from, work->payload, work->len);
    const struct exact to = exact_make(work->before_to, work->len);
    zcws_mask_copy(to.start, from.start, work->len, work->key, work->phase);
    CHECK(work->len == 0 || memcmp(to.start, masked, work->len) == 0, "%zu bytes copied", work->len);
    CHECK(work->len == 0 || memcmp(from.start, work->payload, work->len) == 0, "the source is as it was");
    exact_free(from);
    exact_free(to);
}

/* Does a kernel see that something is no ASCII? */
static void check_high_bits(const struct work *work) {
    const struct exact copy = exact_copy(work->before_to, work->payload, work->len);
    int high = 0;
    const int said = zcws_kernel->mask(copy.start, work->len, work->key) != 0;
    for (size_t i = 0; i < work->len; i++) high |= copy.start[i] >> 7;
    CHECK(said == high, "%zu bytes: high bits %d, not %d", work->len, said, high);
    exact_free(copy);
}

/* What the scanner makes of a frame that was built: whole, its payload as it was given. */
static void check_scan(const struct work *work, uint8_t *frame, size_t size, size_t head) {
    struct zcws_reader reader;
    uint64_t table[ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW];
    memset(&reader, 0, sizeof reader);
    reader.max_size = reader.fit = MOST + LONGEST_HEAD;
    reader.max_fragments = reader.masked = 1;
    const size_t count = zcws_scan(&reader, frame, 0, size, table, 1) % ZCWS_NEWS;
    CHECK(count == 1 && table[ZCWS_TABLE_NEXT] == size, "a frame of %zu bytes is not read", size);
    CHECK(table[ZCWS_TABLE_HEAD + 1] == head && table[ZCWS_TABLE_HEAD + 2] == size, "it lies elsewhere");
    CHECK(work->len == 0 || memcmp(frame + head, work->payload, work->len) == 0, "another payload");
}

static void check_frame(const struct work *work) {
    const struct exact from = exact_copy(work->before_from, work->payload, work->len);
    const struct exact out = exact_make(work->before_to, LONGEST_HEAD + work->len);
    memset(out.start, GAP, out.len);
    const size_t size = zcws_build_masked(out.start, (uint8_t)work->first, from.start, work->len, work->key);
    const size_t extended = work->len < 126 ? 0 : work->len <= 0xFFFF ? 2 : 8, head = 6 + extended;
    CHECK(size == head + work->len, "%zu bytes are a frame of %zu", work->len, size);
    CHECK(out.start[0] == work->first && out.start[1] >> 7 == 1, "the first bytes %02x %02x", out.start[0],
          out.start[1]);
    CHECK(memcmp(out.start + head - 4, &work->key, 4) == 0, "the key");
    for (size_t i = size; i < out.len; i++) CHECK(out.start[i] == GAP, "byte %zu behind the frame", i);
    if (work->first == 0x82) check_scan(work, out.start, size, head);
    exact_free(from);
    exact_free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    struct work work;
    const size_t times = take_times(&input);
    work.before_from = take_byte(&input) % ALIGNMENTS;
    work.before_to = take_byte(&input) % ALIGNMENTS;
    work.phase = take_byte(&input) % 4;
    work.first = take_byte(&input);
    uint8_t key[4];
    for (int i = 0; i < 4; i++) key[i] = (uint8_t)take_byte(&input);
    memcpy(&work.key, key, 4);
    uint8_t *const payload = repeat(input, times, MOST, &work.len);
    uint8_t *const masked = malloc(work.len + 1);
    CHECK(masked != NULL, "malloc of %zu bytes", work.len);
    work.payload = payload;
    naive_mask(masked, payload, work.len, work.key, work.phase);
    for (size_t i = 0; zcws_kernel_name(i) != NULL; i++) {
        CHECK(zcws_kernel_use(zcws_kernel_name(i)), "kernel %s", zcws_kernel_name(i));
        check_in_place(&work, masked);
        check_copy(&work, masked);
        check_high_bits(&work);
        check_frame(&work);
    }
    free(masked);
    free(payload);
    return 0;
}
