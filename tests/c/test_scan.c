/* test_scan.c: the scanner against the parser of naive_scan.h: both write the same log.
 *
 * The scanner reads each arrival up to a protected page, from memory that has just been moved, into a table that ends
 * at another protected page. */
#include "naive_scan.h"

#include "../../csrc/kernel.h"

#include <errno.h>
#include <sys/socket.h>

enum {
    LONGEST_HEAD = 14,             /* RFC 6455 5.2: two bytes, eight of length, four of key */
    LONGEST_CONTROL = 2 + 4 + 125, /* RFC 6455 5.5: always waited for whole */
    MOST_ROWS = 9,                 /* so few that tables are often full */
    SOCKET = 100000,               /* bytes that a socket certainly holds */
    SMALL = 300                    /* streams up to this are also read byte by byte against every prefix */
};

static struct guarded ring, land, table_memory;
static int sockets[2];
static uint8_t stream[STREAM];
static struct log seen;

/* ---- the scanner, fed as a driver feeds it ---- */

struct feed {
    struct zcws_reader reader;
    size_t unread; /* bytes before ring.end that the next scan begins with */
    uint64_t status, remaining;
    int begun;     /* what the rows say of the message in progress, if one of it has been seen */
    uint64_t rows; /* seen so far */
};

static struct feed start_feed(const struct rules *rules) {
    struct feed feed;
    memset(&feed, 0, sizeof feed);
    feed.reader.max_size = rules->max_size;
    feed.reader.max_fragments = rules->max_fragments;
    feed.reader.fit = rules->fit;
    feed.reader.masked = rules->masked;
    feed.reader.rsv1 = rules->rsv1;
    feed.status = ZCWS_MORE;
    seen.len = 0;
    return feed;
}

/* One call, with a table of so many rows that ends at a protected page. */
static void scan_once(struct feed *feed, size_t rows) {
    uint64_t *const table = (uint64_t *)(void *)table_memory.end - (ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * rows);
    const size_t end = (size_t)(ring.end - ring.start), begin = end - feed->unread;
    const size_t answer = zcws_scan(&feed->reader, ring.start, begin, end, table, rows);
    const size_t count = answer % ZCWS_NEWS;
    uint64_t controls = 0;
    CHECK(count <= rows, "%zu rows of %zu", count, rows);
    for (size_t i = 0; i < count; i++)
        controls +=
            log_row(&seen, &feed->begun, table + ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * i, ring.start, begin, end);
    CHECK(table[ZCWS_TABLE_CONTROLS] == controls, "%llu control frames", (unsigned long long)controls);
    CHECK(begin <= table[ZCWS_TABLE_NEXT] && table[ZCWS_TABLE_NEXT] <= end, "next");
    feed->rows += count;
    feed->unread = end - (size_t)table[ZCWS_TABLE_NEXT];
    feed->status = table[ZCWS_TABLE_STATUS];
    feed->remaining = table[ZCWS_TABLE_REMAINING];
    CHECK(feed->status != ZCWS_FULL || count == rows, "%zu rows and full", count);
    /* What is waited for is a head, a control frame, or a frame that fits: a ring of `fit` bytes never gets stuck. */
    if (feed->status == ZCWS_MORE)
        CHECK(feed->unread < LONGEST_CONTROL || feed->unread < feed->reader.fit, "%zu bytes wait", feed->unread);
    if (answer < ZCWS_NEWS)
        CHECK(controls == 0 && feed->unread == 0 && feed->remaining == 0 && feed->status == ZCWS_MORE, "no news");
}

/* Receives data[0, len) behind what is unread, all of it moved up to the protected page. */
static void receive(struct feed *feed, const uint8_t *data, size_t len) {
    memmove(ring.end - feed->unread - len, ring.end - feed->unread, feed->unread);
    if (len != 0) memcpy(ring.end - len, data, len);
    feed->unread += len;
    do scan_once(feed, 1 + random_below(MOST_ROWS));
    while (feed->status == ZCWS_FULL);
}

/* By a socket, which has no more than that. Returns what zcws_land would. */
static int land_from_socket(struct zcws_reader *reader, const uint8_t *data, uint8_t *at, size_t len) {
    CHECK(write(sockets[1], data, len) == (ssize_t)len, "%zu bytes are too many for a socket", len);
    const int64_t received = zcws_receive_rest(sockets[0], reader, at, len);
    CHECK(zcws_receive_rest(sockets[0], reader, at, len) == -EAGAIN, "something is left");
    if (reader->fault != 0) return reader->fault;
    CHECK((size_t)received % ZCWS_WHOLE == len, "%lld of %zu bytes", (long long)received, len);
    return received >= ZCWS_WHOLE ? ZCWS_LAST : 0;
}

/* The same straight into the caller's memory. */
static void receive_landing(struct feed *feed, const uint8_t *data, size_t len) {
    uint8_t *const at = land.end - len;
    int outcome;
    if (len != 0 && len <= SOCKET && random_below(2)) {
        outcome = land_from_socket(&feed->reader, data, at, len);
    } else {
        if (len != 0) memcpy(at, data, len);
        outcome = zcws_land(&feed->reader, at, len);
    }
    if (outcome < 0) {
        feed->status = (uint64_t)-outcome;
        CHECK(zcws_land(&feed->reader, at, 0) == outcome, "the fault is said again");
        return;
    }
    put(&seen, at, len);
    feed->remaining -= len;
    if (feed->remaining != 0) CHECK(outcome == 0, "%llu to come", (unsigned long long)feed->remaining);
    if (outcome != 0) {
        CHECK(outcome == ZCWS_LAST, "outcome %d", outcome);
        put_byte(&seen, 'E');
        feed->begun = 0;
        feed->rows += 1;
    }
}

/* A piece of the stream; returns how much of it was used. */
static size_t receive_some(struct feed *feed, const uint8_t *data, size_t len) {
    if (feed->status == ZCWS_MORE && feed->remaining != 0 && feed->begun && random_below(2)) {
        const size_t most = len < feed->remaining ? len : (size_t)feed->remaining;
        CHECK(feed->unread == 0, "pieces leave nothing behind");
        receive_landing(feed, data, most);
        return most;
    }
    receive(feed, data, len);
    return len;
}

static void check_logs(const struct rules *rules, const struct zcws_reader *reader, size_t len, const char *way) {
    CHECK(seen.len >= expected.complete && seen.len <= expected.len, "%s: %zu bytes: log of %zu, not %zu to %zu", way,
          len, seen.len, expected.complete, expected.len);
    CHECK(memcmp(seen.bytes, expected.bytes, seen.len) == 0, "%s: %zu bytes: another log", way, len);
    /* A length that says more than there is room for is a frame that does not fit. */
    if (rules->fit >= STREAM && (!reader->open || reader->head != 0))
        CHECK(seen.len == expected.complete, "%s: half a frame that fits", way);
    CHECK(reader->frames == expected.frames && reader->messages == expected.messages,
          "%s: %llu frames, %llu messages", way, (unsigned long long)reader->frames,
          (unsigned long long)reader->messages);
}

/* Cuts of about `size` bytes; 0 gives one piece. */
static void check_cuts(const struct rules *rules, size_t len, size_t size) {
    struct feed feed = start_feed(rules);
    const uint64_t status = naive_scan(rules, stream, len);
    for (size_t at = 0; at < len;) {
        size_t piece = size == 0 ? len : random_below(2 * size) + 1;
        if (piece > len - at) piece = len - at;
        at += receive_some(&feed, stream + at, piece);
        /* Nothing after a fault or a Close is read, and both are said again. */
        if (feed.status != ZCWS_MORE) CHECK(feed.status == status, "status %d", (int)feed.status);
        if (feed.status == ZCWS_MORE)
            CHECK(feed.reader.bytes + feed.unread == at, "%zu bytes: not %llu and %zu", at,
                  (unsigned long long)feed.reader.bytes, feed.unread);
        CHECK(feed.reader.rows == feed.rows, "%llu rows", (unsigned long long)feed.reader.rows);
    }
    receive(&feed, NULL, 0);
    CHECK(feed.status == status, "cuts of %zu: %zu bytes: status %d, not %d", size, len, (int)feed.status,
          (int)status);
    check_logs(rules, &feed.reader, len, "cuts");
}

/* Every prefix has to say what the naive parser says of it: a fault is found with the first byte that shows it. */
static void check_prefixes(const struct rules *rules, size_t len) {
    struct feed feed = start_feed(rules);
    for (size_t at = 0; at < len; at++) {
        receive_some(&feed, stream + at, 1);
        const uint64_t status = naive_scan(rules, stream, at + 1);
        CHECK(feed.status == status, "byte %zu: status %d, not %d", at, (int)feed.status, (int)status);
        check_logs(rules, &feed.reader, at + 1, "bytes");
        if (status != ZCWS_MORE) return;
    }
}

/* ---- streams ---- */

static const size_t sizes[] = {0, 0, 1, 2, 3, 5, 9, 30, 100, 124, 125, 126, 127, 200, 700, 65535, 65536, 66000};

static size_t random_size(int control, int large) {
    const size_t kinds = sizeof sizes / sizeof sizes[0] - (large ? 0 : 3);
    const size_t size = sizes[random_below(kinds)];
    return control && size > 125 ? random_below(126) : size;
}

/* Characters of all lengths; every so often something that is none. */
static void random_text(uint8_t *out, size_t len) {
    static const uint32_t points[] = {'a', 'z', 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF};
    size_t at = 0;
    while (at + 4 <= len) {
        const uint32_t point = points[random_below(sizeof points / sizeof points[0])];
        at += naive_encode(out + at, random_below(2000) == 0 ? 0xD800 : point);
    }
    memset(out + at, 'e', len - at);
}

static size_t build(uint8_t *out, unsigned first, const uint8_t *payload, size_t len, int masked) {
    size_t at = 0;
    out[at++] = (uint8_t)first;
    out[at++] = (uint8_t)((masked ? 128 : 0) | (len < 126 ? len : len < 65536 ? 126 : 127));
    for (int shift = len < 126 ? 0 : len < 65536 ? 16 : 64; shift > 0; shift -= 8)
        out[at++] = (uint8_t)((uint64_t)len >> (shift - 8));
    uint32_t key = 0;
    if (masked) {
        key = random_below(4) == 0 ? 0 : (uint32_t)random_64();
        memcpy(out + at, &key, 4);
        at += 4;
    }
    naive_mask(out + at, payload, len, key, 0);
    return at + len;
}

/* A message that is cut into frames, or a control frame; *opcode is that of the message that is open. */
static size_t random_frame(uint8_t *out, const struct rules *rules, unsigned *open, int large) {
    static uint8_t payload[70000];
    const int control = random_below(4) == 0;
    const unsigned fin = control || random_below(3) != 0;
    unsigned opcode = control ? (random_below(40) == 0 ? CLOSE : 9 + (unsigned)random_below(2)) : 0;
    size_t len = random_size(control, large);
    unsigned first = fin << 7;
    if (!control && *open == 0) {
        opcode = 1 + (unsigned)random_below(2);
        if (rules->rsv1 && random_below(3) == 0) first |= 0x40;
    }
    random_fill(payload, len);
    if ((opcode | *open) == 1 || opcode == CLOSE) random_text(payload, len);
    if (opcode == CLOSE && len >= 2) {
        payload[0] = 3;
        payload[1] = (uint8_t)(0xE8 + random_below(20));
    }
    if (!control) *open = fin ? 0 : opcode + *open;
    return build(out, first | opcode, payload, len, rules->masked);
}

static size_t random_stream(const struct rules *rules, int large) {
    unsigned open = 0;
    size_t len = 0;
    for (size_t frames = 1 + random_below(12); frames > 0 && len < STREAM - 70000; frames--)
        len += random_frame(stream + len, rules, &open, large);
    /* Half of them have a byte that is another one, mostly in a head. */
    if (random_below(2)) {
        const size_t at = random_below(3) ? random_below(len < 16 ? len : 16) : random_below(len);
        stream[at] ^= (uint8_t)(1 << random_below(8));
    }
    if (random_below(20) == 0) random_fill(stream, len);
    return len;
}

static struct rules random_rules(void) {
    static const uint64_t max_sizes[] = {0, 1, 50, 126, 1000, 65536, 1 << 30, (uint64_t)1 << 63};
    static const uint64_t fits[] = {0, 1, 8, 100, 1000, STREAM + LONGEST_HEAD};
    struct rules rules = {(uint8_t)random_below(2), (uint8_t)random_below(2), 1 << 30, 1 << 30,
                          STREAM + LONGEST_HEAD};
    if (random_below(4) == 0) rules.max_size = max_sizes[random_below(sizeof max_sizes / sizeof max_sizes[0])];
    if (random_below(4) == 0) rules.max_fragments = 1 + random_below(4);
    rules.fit = fits[random_below(sizeof fits / sizeof fits[0])];
    return rules;
}

static void test_random_streams(void) {
    static const size_t cuts[] = {0, 1, 3, 20, 200, 5000};
    for (int round = 0; round < 6000; round++) {
        const struct rules rules = random_rules();
        const int large = round % 100 == 0;
        const size_t len = random_stream(&rules, large);
        /* The naive parser is quadratic in long texts: a byte at a time only where that is bearable. */
        for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++)
            if (!large || cuts[i] == 0 || cuts[i] > 100) check_cuts(&rules, len, cuts[i]);
        if (len <= SMALL) check_prefixes(&rules, len);
    }
}

/* Every first byte, and every second byte behind a good first one, before and inside a message. */
static void test_every_head(void) {
    for (unsigned bits = 0; bits < 8 * 65536; bits++) {
        const struct rules rules = {(uint8_t)(bits >> 16 & 1), (uint8_t)(bits >> 17 & 1), 300, 2,
                                    STREAM + LONGEST_HEAD};
        size_t len = 0;
        if (bits >> 18) len = build(stream, 0x01, (const uint8_t *)"m", 1, rules.masked);
        stream[len++] = (uint8_t)(bits >> 8);
        stream[len++] = (uint8_t)bits;
        struct feed feed = start_feed(&rules);
        receive(&feed, stream, len);
        CHECK(feed.status == naive_scan(&rules, stream, len), "head %#x: status %d", bits, (int)feed.status);
    }
}

/* Every close code. */
static void test_every_close_code(void) {
    const struct rules rules = {0, 0, 0, 1, 200};
    for (unsigned code = 0; code < 65536; code++) {
        const uint8_t payload[3] = {(uint8_t)(code >> 8), (uint8_t)code, 'x'};
        const size_t len = build(stream, 0x88, payload, 3, 0);
        struct feed feed = start_feed(&rules);
        receive(&feed, stream, len);
        CHECK(feed.status == naive_scan(&rules, stream, len), "code %u: status %d", code, (int)feed.status);
    }
}

/* RFC 6455 5.2: each length in each form that can hold it, the edges of the forms above all. */
static void test_every_length_form(void) {
    static const uint64_t lengths[] = {0,     124,   125,   126,        127,        128,       65534,
                                       65535, 65536, 65537, 0xFFFFFFFF, 1ull << 62, ~0ull / 2, ~0ull / 2 + 1};
    const struct rules rules = {0, 0, 1ull << 63, 1, 0};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (unsigned extended = 2; extended <= 8; extended += 6) {
            if (extended == 2 && lengths[i] > 65535) continue;
            stream[0] = 0x82;
            stream[1] = extended == 2 ? 126 : 127;
            for (unsigned byte = 0; byte < extended; byte++)
                stream[2 + byte] = (uint8_t)(lengths[i] >> 8 * (extended - 1 - byte));
            struct feed feed = start_feed(&rules);
            receive(&feed, stream, 2 + extended);
            CHECK(feed.status == naive_scan(&rules, stream, 2 + extended), "%llu in %u bytes: status %d",
                  (unsigned long long)lengths[i], extended, (int)feed.status);
        }
    }
}

/* A frame of exactly `fit` bytes is one row, and its bytes are where they arrived; one byte more, and it is pieces. */
static void test_fit(void) {
    enum { SIZE = 500 };
    static const uint8_t payload[SIZE];
    for (unsigned masked = 0; masked < 2; masked++) {
        const size_t len = build(stream, 0x82, payload, SIZE, (int)masked);
        for (uint64_t fit = len - 1; fit <= len; fit++) {
            const struct rules rules = {(uint8_t)masked, 0, SIZE, 1, fit};
            struct feed feed = start_feed(&rules);
            receive(&feed, stream, len - 1);
            CHECK((feed.unread == len - 1) == (fit == len), "%zu of %zu bytes wait", feed.unread, len);
            CHECK((feed.remaining == 1) == (fit != len), "%d to come", (int)feed.remaining);
            receive(&feed, stream + len - 1, 1);
            CHECK(feed.unread == 0 && !feed.begun, "all of it");
        }
    }
}

/* How large a message would have been that is over the limit, and whether it is compressed: of this message, whatever came
 * before. */
static void test_over_the_limit(void) {
    enum { MOST = 300, PART = 200 };
    static const uint8_t payload[MOST + 1];
    for (unsigned way = 0; way < 8; way++) {
        const unsigned masked = way & 1, fin = way & 2 ? 0x80 : 0, rsv = way & 4 ? 0x40 : 0;
        const struct rules rules = {(uint8_t)masked, 1, MOST, 9, STREAM};
        struct feed feed = start_feed(&rules);
        /* A message of the other kind, and then one that is too large in one frame, or in two. */
        size_t len = build(stream, (uint8_t)(0x82 | (rsv ^ 0x40)), payload, 9, (int)masked);
        const size_t size = rsv ? 2 * MOST : MOST + 1;
        if (fin == 0) len += build(stream + len, (uint8_t)(0x01 | rsv), payload, PART, (int)masked);
        stream[len] = (uint8_t)(fin ? 0x81 | rsv : 0x80);
        stream[len + 1] = (uint8_t)(masked << 7 | 126);
        stream[len + 2] = (uint8_t)(size >> 8);
        stream[len + 3] = (uint8_t)size;
        receive(&feed, stream, len + 4);
        CHECK(feed.reader.fault == ZCWS_BAD_MESSAGE_SIZE, "way %u: fault %d", way, (int)feed.reader.fault);
        CHECK(feed.reader.size == size + (fin ? 0 : PART), "way %u: %d bytes", way, (int)feed.reader.size);
        CHECK(feed.reader.compressed == (rsv != 0), "way %u: compressed %d", way, feed.reader.compressed);
    }
}

/* A compressed message may announce an eighth more than the limit, and 64 bytes a fragment. */
static void test_limit_of_compressed(void) {
    enum { MOST = 800, BEFORE = 10 };
    static const uint8_t payload[BEFORE];
    for (unsigned way = 0; way < 4; way++) {
        const int is_over = way & 1, is_second = (way & 2) != 0;
        const struct rules rules = {0, 1, MOST, 9, 0};
        struct feed feed = start_feed(&rules);
        size_t len = 0, size = MOST + MOST / 8 + 64 + (size_t)is_over;
        if (is_second) {
            len = build(stream, 0x42, payload, BEFORE, 0);
            size += 64 - BEFORE;
        }
        stream[len] = is_second ? 0x80 : 0xC2;
        stream[len + 1] = 126;
        stream[len + 2] = (uint8_t)(size >> 8);
        stream[len + 3] = (uint8_t)size;
        receive(&feed, stream, len + 4);
        CHECK(feed.reader.fault == (is_over ? ZCWS_BAD_MESSAGE_SIZE : 0), "way %u: %zu bytes", way, size);
    }
}

/* A reader that wants pieces in the middle of a frame gets with the first of them what was unmasked while the frame was
 * waited for. One of which only the head is there gives no piece. */
static void test_fit_lowered(void) {
    enum { SIZE = 300 };
    static uint8_t payload[SIZE];
    memset(payload, 'a', sizeof payload);
    for (unsigned way = 0; way < 4; way++) {
        const unsigned masked = way & 1, opcode = way & 2 ? 0x81 : 0x82;
        const size_t len = build(stream, (uint8_t)opcode, payload, SIZE, (int)masked), head = len - SIZE;
        const struct rules rules = {(uint8_t)masked, 0, SIZE, 1, len};
        naive_scan(&rules, stream, len);
        for (size_t cut = 0; cut < len; cut++) {
            struct feed feed = start_feed(&rules);
            receive(&feed, stream, cut);
            CHECK(feed.rows == 0 && feed.unread == cut, "%zu of %zu bytes are a row", cut, len);
            feed.reader.fit = 0;
            receive(&feed, stream + cut, 0);
            CHECK(feed.rows == (cut > head), "%d rows of %zu bytes", (int)feed.rows, cut);
            receive(&feed, stream + cut, len - cut);
            check_logs(&rules, &feed.reader, len, "fit lowered");
            CHECK(seen.len == expected.len, "cut at %zu of %zu: not all of it", cut, len);
        }
    }
}

/* Small fragments that are found together are one row, where the first of them lies; one that is large, or has a control
 * frame before it, begins another. */
static void test_joined(void) {
    enum { MOST = 16 * 1024, SMALL_ONE = 700 };
    static uint8_t payload[MOST + 1];
    random_fill(payload, sizeof payload);
    for (unsigned way = 0; way < 8; way++) {
        const unsigned masked = way & 1, control = way & 2;
        const size_t second = way & 4 ? MOST + 1 : MOST;
        const struct rules rules = {(uint8_t)masked, 1, 1 << 20, 9, STREAM};
        struct feed feed = start_feed(&rules);
        size_t len = build(stream, 0x42, payload, SMALL_ONE, (int)masked);
        len += build(stream + len, 0x00, payload, 0, (int)masked);
        if (control) len += build(stream + len, 0x89, payload, 5, (int)masked);
        len += build(stream + len, 0x00, payload, second, (int)masked);
        len += build(stream + len, 0x80, payload, SMALL_ONE, (int)masked);
        feed.unread = len;
        memcpy(ring.end - len, stream, len);
        scan_once(&feed, 9);
        CHECK(feed.rows == (control ? 3u : second > MOST ? 2u : 1u), "way %u: %d rows", way, (int)feed.rows);
        CHECK(feed.reader.frames == (control ? 5 : 4) && feed.reader.messages == 1, "way %u", way);
        naive_scan(&rules, stream, len);
        check_logs(&rules, &feed.reader, len, "joined");
    }
}

/* A caller that has lost bytes of the frame in progress, and comes with fewer than were there before: nothing behind the
 * end of memory is looked at, whether the frame is waited for or handed out in pieces. */
static void test_lost_bytes(void) {
    static const uint8_t begun[] = {0x82, 0xFE, 0x01, 0x00, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
    const size_t table_words = ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW;
    uint64_t *const table = (uint64_t *)(void *)table_memory.end - table_words;
    for (uint64_t fit = 0; fit <= 1000; fit += 1000) {
        const struct rules rules = {0, 0, 0, 1, fit};
        for (size_t len = 0; len <= sizeof begun; len++) {
            for (size_t back = 0; back <= sizeof begun; back++) {
                struct feed feed = start_feed(&rules);
                receive(&feed, begun, len);
                scan_once(&feed, 1);
                const size_t end = (size_t)(ring.end - ring.start);
                zcws_scan(&feed.reader, ring.start, end - back, end, table, 1);
                CHECK(table[ZCWS_TABLE_NEXT] <= end, "%zu then %zu bytes", len, back);
            }
            struct feed feed = start_feed(&rules); /* and one that is behind its own end */
            receive(&feed, begun, len);
            scan_once(&feed, 1);
            const size_t end = (size_t)(ring.end - ring.start);
            CHECK(zcws_scan(&feed.reader, ring.start, end + 1, end, table, 1) == ZCWS_NEWS, "%zu bytes", len);
            CHECK(table[ZCWS_TABLE_STATUS] == ZCWS_MORE && table[ZCWS_TABLE_NEXT] == end + 1, "%zu bytes", len);
        }
    }
}

/* Bytes of which nothing was kept, and the reader's own table: the same answer, rows and state. */
static void test_landed(void) {
    static uint64_t usual[ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * ZCWS_TABLE_ROWS];
    static uint64_t own[ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * ZCWS_TABLE_ROWS];
    static const struct rules rules = {0, 0, 1000, 3, 1000};
    uint8_t first[2 * (ZCWS_TABLE_ROWS + 1)] = {0}, second[sizeof first];
    for (size_t i = 0; i < sizeof first; i += 2) first[i] = 0x82; /* so many empty frames that the table is full */
    for (size_t len = 0; len <= sizeof first; len += len < 9 ? 1 : 2) {
        struct feed feed = start_feed(&rules), landed = feed;
        landed.reader.table = own;
        memcpy(second, first, sizeof first);
        const size_t expected = zcws_scan(&feed.reader, first, 0, len, usual, ZCWS_TABLE_ROWS);
        CHECK(zcws_scan_landed(&landed.reader, second, len) == expected, "%zu bytes", len);
        const size_t words = ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * (expected % ZCWS_NEWS);
        CHECK(memcmp(own, usual, words * sizeof *own) == 0, "the table of %zu bytes", len);
        landed.reader.table = NULL;
        CHECK(memcmp(&feed.reader, &landed.reader, sizeof feed.reader) == 0, "the state after %zu bytes", len);
    }
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    ring = guarded_map(STREAM + LONGEST_HEAD);
    land = guarded_map(STREAM);
    table_memory = guarded_map(4096);
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0, "no sockets");
    each_kernel("random streams", test_random_streams);
    test_every_head();
    test_every_close_code();
    test_every_length_form();
    test_over_the_limit();
    test_limit_of_compressed();
    test_fit();
    test_fit_lowered();
    test_joined();
    test_lost_bytes();
    test_landed();
    return 0;
}
