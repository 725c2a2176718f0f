/* naive_scan.h: the oracle of the scanner: a parser that sees the whole stream at once and reads it a byte at a time.
 *
 * It writes a log: B what (a message begins), its bytes, E (it ends), and C opcode length bytes (a control frame). The
 * log does not depend on how the bytes were cut into reads, rows or pieces. */
#ifndef ZCWS_TESTS_NAIVE_SCAN_H
#define ZCWS_TESTS_NAIVE_SCAN_H

#include "check.h"
#include "naive.h"

enum {
    STREAM = 300000,  /* bytes of a stream at most */
    LOG = 2 * STREAM, /* a log says more than its stream only of tiny frames */
    CLOSE = 8
};

struct rules {
    uint8_t masked, rsv1;
    uint64_t max_size, max_fragments, fit;
};

struct log {
    uint8_t bytes[LOG];
    size_t len;
    size_t complete; /* up to here: whole frames */
    uint64_t frames, messages;
};

static uint8_t text[STREAM];
static struct log expected;

static void put(struct log *log, const uint8_t *bytes, size_t len) {
    CHECK(log->len + len <= LOG, "a log of %zu bytes", log->len);
    if (len != 0) memcpy(log->bytes + log->len, bytes, len);
    log->len += len;
}

static void put_byte(struct log *log, unsigned byte) {
    const uint8_t bytes[1] = {(uint8_t)byte};
    put(log, bytes, 1);
}

/* Adds a row of the scanner's table to a log: bytes begin..end of `base` were given, and `*begun` is what the rows say of the
 * message in progress, if one of it has been seen, or 0. Returns 1 for a control frame's row. */
static uint64_t log_row(struct log *log, int *begun, const uint64_t *row, const uint8_t *base, size_t begin,
                        size_t end) {
    const unsigned what = (unsigned)row[0], opcode = what % 16;
    CHECK(row[0] < 0x80 && begin <= row[1] && row[1] <= row[2] && row[2] <= end, "a row outside of what was given");
    const uint8_t *const payload = base + row[1];
    const size_t len = (size_t)(row[2] - row[1]);
    if (opcode >= CLOSE) {
        CHECK(what == (opcode | ZCWS_FIRST | ZCWS_LAST) && len <= 125, "what %#x", what);
        put_byte(log, 'C');
        put_byte(log, opcode);
        put_byte(log, (unsigned)len);
        put(log, payload, len);
        return 1;
    }
    const unsigned kind = what & ~(unsigned)(ZCWS_FIRST | ZCWS_LAST); /* the same in all rows of a message */
    CHECK(((what & ZCWS_FIRST) != 0) == !*begun, "what %#x", what);
    CHECK((what & ZCWS_FIRST) || kind == (unsigned)*begun, "what %#x behind %#x", what, (unsigned)*begun);
    if (what & ZCWS_FIRST) {
        put_byte(log, 'B');
        put_byte(log, kind);
    }
    put(log, payload, len);
    *begun = what & ZCWS_LAST ? 0 : (int)kind;
    if (!*begun) put_byte(log, 'E');
    return 0;
}

struct naive_message {
    unsigned opcode; /* 0 between messages */
    int compressed;
    uint64_t size, fragments;
    size_t text, whole; /* bytes of text so far, and of the whole characters at its front, which have been checked */
};

static int naive_is_code(unsigned code) {
    static const unsigned good[] = {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (code == good[i]) return 1;
    return code / 1000 == 3 || code / 1000 == 4;
}

static int naive_close(const uint8_t *payload, size_t len) {
    if (len == 0) return 0;
    if (len == 1) return ZCWS_BAD_CLOSE_SIZE;
    if (!naive_is_code(payload[0] * 256u + payload[1])) return ZCWS_BAD_CLOSE_CODE;
    return naive_utf8(payload + 2, len - 2).whole == len - 2 ? 0 : ZCWS_BAD_CLOSE_REASON;
}

static int naive_first_byte(const struct rules *rules, const struct naive_message *message, unsigned byte) {
    const unsigned opcode = byte % 16;
    if (byte & 0x30) return ZCWS_BAD_RSV;
    if (byte & 0x40 && (!rules->rsv1 || opcode == 0 || opcode > 7)) return ZCWS_BAD_RSV;
    if ((opcode > 2 && opcode < 8) || opcode > 10) return ZCWS_BAD_OPCODE;
    if (opcode == 0 && message->opcode == 0) return ZCWS_BAD_CONTINUATION;
    if ((opcode == 1 || opcode == 2) && message->opcode != 0) return ZCWS_BAD_INTERLEAVING;
    return opcode > 7 && byte < 0x80 ? ZCWS_BAD_CONTROL_FIN : 0;
}

static int naive_length(unsigned extended, uint64_t length) {
    if (length >= 0x8000000000000000) return ZCWS_BAD_LENGTH_SIGN;
    return (extended == 2 && length < 126) || (extended == 8 && length < 65536) ? ZCWS_BAD_LENGTH_FORM : 0;
}

/* The payload of a data frame, as much of it as is there. 1: all of it, 0: more to come, or a fault. */
static int naive_data(struct naive_message *message, const uint8_t *payload, size_t len, int all, int fin) {
    put(&expected, payload, len);
    if (message->opcode == 1 && !message->compressed) {
        memcpy(text + message->text, payload, len);
        message->text += len;
        /* Not from its front again: thousands of empty fragments may follow. */
        const size_t left = message->text - message->whole;
        const struct naive_verdict verdict = naive_utf8(text + message->whole, left);
        message->whole += verdict.whole;
        if (verdict.good < left) return ZCWS_BAD_UTF8;
        if (all && fin && verdict.whole < left) return ZCWS_BAD_UTF8;
    }
    if (!all) return 0;
    if (fin) {
        put_byte(&expected, 'E');
        message->opcode = 0;
    }
    expected.complete = expected.len;
    return 1;
}

static int naive_enter(const struct rules *rules, struct naive_message *message, unsigned first, uint64_t length) {
    uint64_t most = rules->max_size;
    if (first % 16 != 0) message->size = message->fragments = 0;
    if (first % 16 != 0 ? (first & 0x40) != 0 : message->compressed) most += most / 8 + 64 + message->fragments * 64;
    if (length > most || message->size + length > most) return ZCWS_BAD_MESSAGE_SIZE;
    if (message->fragments + 1 > rules->max_fragments &&
        !((first & 0x80) != 0 && length == 0 && message->size != 0 && rules->max_fragments >= 65536))
        return ZCWS_BAD_FRAGMENT_COUNT;
    return 0;
}

static void naive_begin(struct naive_message *message, unsigned first, uint64_t length) {
    if (first % 16 != 0) {
        message->opcode = first % 16;
        message->compressed = (first & 0x40) != 0;
        message->text = message->whole = 0;
        put_byte(&expected, 'B');
        put_byte(&expected, message->opcode | (message->compressed ? ZCWS_COMPRESSED : 0));
    }
    message->size += length;
    message->fragments += 1;
}

/* One frame at data[0, len): bytes used, 0 (more), or a fault; *closed for a Close. */
static long naive_frame(const struct rules *rules, struct naive_message *message, const uint8_t *data, size_t len,
                        int *closed) {
    static uint8_t payload[STREAM];
    int fault;
    if (len == 0) return 0;
    if ((fault = naive_first_byte(rules, message, data[0])) != 0) return fault;
    if (len == 1) return 0;
    const unsigned opcode = data[0] % 16, bits = data[1] % 128;
    if (data[1] / 128 != rules->masked) return rules->masked ? ZCWS_BAD_UNMASKED : ZCWS_BAD_MASKED;
    if (opcode > 7 && bits > 125) return ZCWS_BAD_CONTROL_SIZE;
    const unsigned extended = bits == 126 ? 2 : bits == 127 ? 8 : 0;
    if (len < 2 + extended) return 0;
    uint64_t length = extended == 0 ? bits : 0;
    for (unsigned i = 0; i < extended; i++) length = length * 256 + data[2 + i];
    if ((fault = naive_length(extended, length)) != 0) return fault;
    if (opcode < 8 && (fault = naive_enter(rules, message, data[0], length)) != 0) return fault;
    const size_t head = 2 + extended + (rules->masked ? 4 : 0);
    if (len < head) return 0;
    uint32_t key = 0;
    if (rules->masked) memcpy(&key, data + head - 4, 4);
    const int all = length <= len - head;
    const size_t there = all ? (size_t)length : len - head;
    naive_mask(payload, data + head, there, key, 0);
    if (opcode < 8) {
        naive_begin(message, data[0], length);
        fault = naive_data(message, payload, there, all, data[0] >= 0x80);
        return fault == 1 ? (long)(head + there) : fault;
    }
    if (!all) return 0;
    if (opcode == CLOSE && (fault = naive_close(payload, there)) != 0) return fault;
    put_byte(&expected, 'C');
    put_byte(&expected, opcode);
    put_byte(&expected, (unsigned)there);
    put(&expected, payload, there);
    expected.complete = expected.len;
    *closed = opcode == CLOSE;
    return (long)(head + there);
}

/* Writes `expected`, returns the status. */
static uint64_t naive_scan(const struct rules *rules, const uint8_t *data, size_t len) {
    struct naive_message message = {0};
    int closed = 0;
    expected.len = expected.complete = 0;
    expected.frames = expected.messages = 0;
    for (size_t at = 0;;) {
        const long used = naive_frame(rules, &message, data + at, len - at, &closed);
        if (used < 0) return (uint64_t)-used;
        if (used == 0) return ZCWS_MORE;
        expected.frames += 1;
        expected.messages += data[at] % 16 < CLOSE && data[at] >= 0x80;
        if (closed) return ZCWS_CLOSED;
        at += (size_t)used;
    }
}

#endif
