/* Invariant: any bytes, in any cut, for both roles, under any limits: the scanner ends like the parser of naive_scan.h, at
 * the first byte that shows it, with the same messages, and touches no byte but those that it was given.
 *
 * An input: flags, max_size, max_fragments, fit, position in the ring, the two parameters of a stretch (many zeros in
 * one place, for frames over 64 KiB), seed of the cuts; then the stream. The log of a run is that of naive_scan.h. */
#include "fuzz.h"

#include "../c/naive_scan.h"

enum {
    MASKED = 1, /* flags */
    RSV1 = 2,
    LONGEST_STREAM = 90000,
    LONGEST_CONTROL = 2 + 4 + 125,
    MOST_ROWS = 5,      /* so few that tables are often full */
    SMALL = 400,        /* streams up to this are also read byte by byte */
    CUTS = 64,          /* pieces of a stream, about: what is unread is copied for each */
    POSITIONS = 256,    /* of the ring, where the bytes begin */
    STRETCH_UNIT = 1300 /* zeros: 56 of these are the most, and more than 65,535 */
};

struct run {
    struct zcws_reader reader;
    struct exact ring; /* begins with what is unread */
    size_t unread, position;
    uint64_t status, remaining;
    int begun; /* what the rows say of the message in progress, if one of it has been seen */
};

static uint8_t stream[LONGEST_STREAM];
static struct log seen;

static struct run start_run(const struct rules *rules, uint64_t fit, size_t position) {
    struct run run;
    memset(&run, 0, sizeof run);
    run.reader.max_size = rules->max_size;
    run.reader.max_fragments = rules->max_fragments;
    run.reader.fit = fit;
    run.reader.masked = rules->masked;
    run.reader.rsv1 = rules->rsv1;
    run.status = ZCWS_MORE;
    run.position = position;
    run.ring = exact_make(position, 0);
    seen.len = 0;
    return run;
}

static void check_table(struct run *run, const uint64_t *table, size_t answer, size_t rows) {
    const size_t begin = run->position + run->ring.len - run->unread, end = run->position + run->ring.len;
    const size_t count = answer % ZCWS_NEWS;
    uint64_t controls = 0;
    CHECK(count <= rows, "%zu rows of %zu", count, rows);
    for (size_t i = 0; i < count; i++)
        controls +=
            log_row(&seen, &run->begun, table + ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * i, run->ring.all, begin, end);
    CHECK(table[ZCWS_TABLE_CONTROLS] == controls, "%llu control frames", (unsigned long long)controls);
    CHECK(begin <= table[ZCWS_TABLE_NEXT] && table[ZCWS_TABLE_NEXT] <= end, "next");
    run->unread = end - (size_t)table[ZCWS_TABLE_NEXT];
    run->status = table[ZCWS_TABLE_STATUS];
    run->remaining = table[ZCWS_TABLE_REMAINING];
    CHECK(run->status != ZCWS_FULL || count == rows, "%zu rows and full", count);
    const uint64_t over = run->reader.compressed ? run->reader.max_size / 8 + 64 * (run->reader.fragments + 1) : 0;
    CHECK(run->reader.size <= run->reader.max_size + over || run->status == (uint64_t)-ZCWS_BAD_MESSAGE_SIZE,
          "a message over the limit");
    /* What is waited for is a head, a control frame, or a frame that fits: a ring of `fit` bytes never gets stuck. */
    if (run->status == ZCWS_MORE)
        CHECK(run->unread < LONGEST_CONTROL || run->unread < run->reader.fit, "%zu bytes wait", run->unread);
    if (answer < ZCWS_NEWS)
        CHECK(controls == 0 && run->unread == 0 && run->remaining == 0 && run->status == ZCWS_MORE, "no news");
}

static void scan_once(struct run *run, size_t rows) {
    const size_t words = ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * rows;
    uint64_t *const table = malloc(words * sizeof *table);
    const size_t end = run->position + run->ring.len;
    CHECK(table != NULL, "malloc of %zu words", words);
    check_table(run, table, zcws_scan(&run->reader, run->ring.all, end - run->unread, end, table, rows), rows);
    free(table);
}

/* Receives data[0, len) behind what is unread, all of it moved to new memory. */
static void receive(struct run *run, const uint8_t *data, size_t len) {
    const struct exact before = run->ring;
    run->ring = exact_make(run->position, run->unread + len);
    if (run->unread != 0) memcpy(run->ring.start, before.start + before.len - run->unread, run->unread);
    if (len != 0) memcpy(run->ring.start + run->unread, data, len);
    run->unread += len;
    exact_free(before);
    do scan_once(run, 1 + random_below(MOST_ROWS));
    while (run->status == ZCWS_FULL);
}

/* The same straight into the caller's memory. */
static void land(struct run *run, const uint8_t *data, size_t len) {
    const struct exact target = exact_copy(run->position % ALIGNMENTS, data, len);
    const int outcome = zcws_land(&run->reader, target.start, len);
    if (outcome < 0) {
        run->status = (uint64_t)-outcome;
        CHECK(zcws_land(&run->reader, target.start, 0) == outcome, "the fault is said again");
    } else {
        put(&seen, target.start, len);
        run->remaining -= len;
        CHECK(outcome == 0 || (outcome == ZCWS_LAST && run->remaining == 0), "outcome %d", outcome);
        if (outcome == ZCWS_LAST) {
            put_byte(&seen, 'E');
            run->begun = 0;
        }
    }
    exact_free(target);
}

/* A piece of the stream; returns how much of it was used. */
static size_t receive_some(struct run *run, const uint8_t *data, size_t len) {
    if (run->status == ZCWS_MORE && run->remaining != 0 && run->begun && random_below(2)) {
        const size_t most = len < run->remaining ? len : (size_t)run->remaining;
        CHECK(run->unread == 0, "pieces leave nothing behind");
        land(run, data, most);
        return most;
    }
    receive(run, data, len);
    return len;
}

static void check_end(struct run *run, uint64_t status, size_t len, const char *way) {
    receive(run, NULL, 0);
    CHECK(run->status == status, "%s: %zu bytes: status %d, not %d", way, len, (int)run->status, (int)status);
    CHECK(seen.len >= expected.complete && seen.len <= expected.len, "%s: %zu bytes: log of %zu, not %zu to %zu", way,
          len, seen.len, expected.complete, expected.len);
    CHECK(memcmp(seen.bytes, expected.bytes, seen.len) == 0, "%s: %zu bytes: another log", way, len);
    exact_free(run->ring);
}

/* Pieces of up to `longest` bytes. Now and then `fit` changes, as it does when a program streams a message. */
static void check_cuts(const struct rules *rules, uint64_t status, size_t position, size_t len, size_t longest) {
    struct run run = start_run(rules, rules->fit, position);
    for (size_t at = 0; at < len;) {
        const size_t piece = 1 + random_below(longest);
        at += receive_some(&run, stream + at, piece < len - at ? piece : len - at);
        if (run.status != ZCWS_MORE) CHECK(run.status == status, "status %d", (int)run.status);
        if (random_below(8) == 0) run.reader.fit = random_below(2) ? 0 : rules->fit;
    }
    run.reader.fit = rules->fit;
    check_end(&run, status, len, "cuts");
}

/* The verdict comes with the first byte that shows it. Leaves another `expected`. */
static void check_bytes(const struct rules *rules, uint64_t status, size_t position, size_t len) {
    struct run run = start_run(rules, rules->fit, position);
    size_t at = 0;
    while (at < len && run.status == ZCWS_MORE) at += receive_some(&run, stream + at, 1);
    check_end(&run, status, len, "bytes");
    if (status == ZCWS_MORE) return;
    CHECK(naive_scan(rules, stream, at) == status, "%zu bytes do not show it", at);
    CHECK(naive_scan(rules, stream, at - 1) == ZCWS_MORE, "%zu bytes show it", at - 1);
}

static struct rules take_rules(struct input *input) {
    const unsigned flags = take_byte(input), size = take_byte(input), count = take_byte(input);
    const unsigned fit = take_byte(input);
    struct rules rules = {flags & MASKED, (flags & RSV1) != 0, (uint64_t)1 << 63, 1 << 30, LONGEST_STREAM};
    if (size < 200) rules.max_size = size;
    if (count < 100) rules.max_fragments = count;
    if (fit < 200) rules.fit = fit;
    return rules;
}

/* The stream of this input, zeros in the middle of it included; returns how long it is. */
static size_t take_stream(struct input input, unsigned stretch, size_t at) {
    size_t zeros = stretch < 200 ? 0 : (size_t)(stretch - 199) * STRETCH_UNIT, len = input.size;
    if (len > LONGEST_STREAM - zeros) len = LONGEST_STREAM - zeros;
    at = len == 0 ? 0 : at % len;
    if (len != 0) {
        memcpy(stream, input.data, at);
        memcpy(stream + at + zeros, input.data + at, len - at);
    }
    memset(stream + at, 0, zeros);
    return len + zeros;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input input = {data, size};
    const struct rules rules = take_rules(&input);
    const size_t position = take_byte(&input) % POSITIONS;
    const unsigned stretch = take_byte(&input), at = take_two(&input);
    random_state = take_byte(&input);
    const size_t len = take_stream(input, stretch, at);
    const uint64_t status = naive_scan(&rules, stream, len);
    struct run whole = start_run(&rules, rules.fit, position);
    receive(&whole, stream, len);
    check_end(&whole, status, len, "whole");
    check_cuts(&rules, status, position, len, 1 + 2 * len / CUTS);
    check_cuts(&rules, status, position, len, 1 + len);
    if (len <= SMALL) check_bytes(&rules, status, position, len);
    return 0;
}
