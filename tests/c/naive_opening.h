/* naive_opening.h: the oracle of opening.c: which requests it accepts, line by line from its contract in zcws.h, and what
 * answers them.
 *
 * The library walks over the bytes once, with a table of kinds. Here the end of the head is searched first; then each line
 * is cut out, and its characters are looked up in the sentences of the RFCs. */
#ifndef ZCWS_TESTS_NAIVE_OPENING_H
#define ZCWS_TESTS_NAIVE_OPENING_H

#include "../../csrc/zcws.h"

#include <string.h>

enum { NAIVE_MOST_HEADERS = 128, NAIVE_KEY = 24, NAIVE_ACCEPT = 28 };

/* In the order of base64. */
#define NAIVE_ALNUM "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

/* Some bytes of the input: where they begin, and end. */
struct naive_part {
    size_t begin, end;
};

/* What is expected of zcws_read_opening. */
struct naive_opening {
    size_t head; /* 0: it is not for it */
    int asks;
    uint8_t accept[NAIVE_ACCEPT];
    struct naive_part asked[3];
};

/* Those that a rule is about: five that have to be there, three that a server may ask for, two that must not be there. */
static const char *const naive_names[] = {"host",
                                          "upgrade",
                                          "connection",
                                          "sec-websocket-version",
                                          "sec-websocket-key",
                                          "origin",
                                          "sec-websocket-protocol",
                                          "sec-websocket-extensions",
                                          "content-length",
                                          "transfer-encoding"};

enum { NAIVE_NEEDED = 5, NAIVE_ASKED = 8, NAIVE_NAMES = 10, NAIVE_KEY_NAME = 4 };

static inline int naive_any_of(const uint8_t *data, struct naive_part part, const char *allowed) {
    for (size_t i = part.begin; i < part.end; i++)
        if (data[i] == 0 || strchr(allowed, data[i]) == NULL) return 0;
    return 1;
}

static inline int naive_same(const uint8_t *data, struct naive_part part, const char *word) {
    if (part.end - part.begin != strlen(word)) return 0;
    for (size_t i = part.begin; i < part.end; i++) {
        const char *const upper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", *const at = data[i] ? strchr(upper, data[i]) : NULL;
        if ((at ? "abcdefghijklmnopqrstuvwxyz"[at - upper] : (char)data[i]) != *word++) return 0;
    }
    return 1;
}

/* Where `word` is in the part for the first time; its end where it is not. */
static inline size_t naive_find(const uint8_t *data, struct naive_part part, const char *word) {
    const size_t len = strlen(word);
    for (size_t i = part.begin; i + len <= part.end; i++)
        if (memcmp(data + i, word, len) == 0) return i;
    return part.end;
}

/* RFC 9110 5.6.2. */
static inline int naive_is_token(const uint8_t *data, struct naive_part part) {
    return part.begin < part.end && naive_any_of(data, part, NAIVE_ALNUM "!#$%&'*+-.^_`|~");
}

/* RFC 9110 5.5: no control characters but the tab; it neither begins nor ends with a blank, and is not empty. */
static inline int naive_is_value(const uint8_t *data, struct naive_part part) {
    for (size_t i = part.begin; i < part.end; i++)
        if ((data[i] < ' ' && data[i] != '\t') || data[i] == 0x7F) return 0;
    return part.begin < part.end && strchr(" \t", data[part.begin]) == NULL &&
           strchr(" \t", data[part.end - 1]) == NULL;
}

/* A name, or an IPv4 address, and perhaps a port: RFC 9110 7.2. */
static inline int naive_is_host(const uint8_t *data, struct naive_part part) {
    const size_t colon = naive_find(data, part, ":");
    const struct naive_part name = {part.begin, colon}, port = {colon < part.end ? colon + 1 : colon, part.end};
    return name.begin < name.end && naive_any_of(data, name, NAIVE_ALNUM "-._") &&
           naive_any_of(data, port, "0123456789");
}

/* RFC 6455 4.1: sixteen bytes in base64. */
static inline int naive_is_key(const uint8_t *data, struct naive_part part) {
    const struct naive_part text = {part.begin, part.begin + NAIVE_KEY - 2};
    return part.end - part.begin == NAIVE_KEY && naive_any_of(data, text, NAIVE_ALNUM "+/") &&
           memcmp(data + text.end, "==", 2) == 0;
}

/* Whether the value is one that its header may have. */
static inline int naive_may_be(int name, const uint8_t *data, struct naive_part value) {
    switch (name) {
    case 0: return naive_is_host(data, value);
    case 1: return naive_same(data, value, "websocket");
    case 2: return naive_same(data, value, "upgrade") || naive_same(data, value, "keep-alive, upgrade");
    case 3: return naive_same(data, value, "13");
    case NAIVE_KEY_NAME: return naive_is_key(data, value);
    default: return name < NAIVE_ASKED; /* the two last ones say that a body follows */
    }
}

/* ---- Sec-WebSocket-Accept ---- */

static inline uint32_t naive_rotate(uint32_t word, int bits) {
    while (bits--) word = word << 1 | word >> 31;
    return word;
}

/* RFC 3174 5: f and K of a step. */
static inline uint32_t naive_step(int t, uint32_t b, uint32_t c, uint32_t d) {
    if (t < 20) return ((b & c) | (~b & d)) + 0x5A827999u;
    if (t >= 40 && t < 60) return ((b & c) | (b & d) | (c & d)) + 0x8F1BBCDCu;
    return (b ^ c ^ d) + (t < 40 ? 0x6ED9EBA1u : 0xCA62C1D6u);
}

/* RFC 3174 6.2: the method with sixteen words in a ring. */
static inline void naive_block(uint32_t hash[5], const uint8_t *block) {
    uint32_t w[16] = {0}, v[5];
    for (int i = 0; i < 64; i++) w[i / 4] = w[i / 4] << 8 | block[i];
    memcpy(v, hash, sizeof v);
    for (int t = 0; t < 80; t++) {
        const int s = t % 16;
        if (t >= 16) w[s] = naive_rotate(w[(s + 13) % 16] ^ w[(s + 8) % 16] ^ w[(s + 2) % 16] ^ w[s], 1);
        const uint32_t next = naive_rotate(v[0], 5) + naive_step(t, v[1], v[2], v[3]) + v[4] + w[s];
        memmove(v + 1, v, 4 * sizeof *v);
        v[2] = naive_rotate(v[2], 30);
        v[0] = next;
    }
    for (int i = 0; i < 5; i++) hash[i] += v[i];
}

/* RFC 6455 4.2.2: the digest of the key and the GUID, six bits at a time (RFC 4648 4). */
static inline void naive_accept(uint8_t *out, const uint8_t *key) {
    uint32_t hash[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    uint8_t text[128] = {0};
    memcpy(text, key, NAIVE_KEY);
    memcpy(text + NAIVE_KEY, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80", 37);
    text[126] = 480 >> 8; /* bits of what is before the 0x80 */
    text[127] = 480 & 0xFF;
    naive_block(hash, text);
    naive_block(hash, text + 64);
    for (int i = 0; i < NAIVE_ACCEPT - 1; i++) {
        unsigned six = 0;
        for (int bit = 6 * i; bit < 6 * i + 6; bit++)
            six = six << 1 | (bit < 160 ? hash[bit / 32] >> (31 - bit % 32) & 1 : 0);
        out[i] = (uint8_t)NAIVE_ALNUM "+/"[six];
    }
    out[NAIVE_ACCEPT - 1] = '=';
}

/* ---- a head ---- */

/* Takes a line into `opening`; `have` says what has been there. Returns whether that is as it should be. */
static inline int naive_line(struct naive_opening *opening, int *have, const uint8_t *data, struct naive_part line) {
    const size_t colon = naive_find(data, line, ":");
    struct naive_part name = {line.begin, colon}, value = {colon + 1, line.end};
    if (colon == line.end || !naive_is_token(data, name)) return 0;
    if (value.begin < value.end && data[value.begin] == ' ') value.begin++;
    if (!naive_is_value(data, value)) return 0;
    for (int i = 0; i < NAIVE_NAMES; i++) {
        if (!naive_same(data, name, naive_names[i])) continue;
        if (have[i]++ || !naive_may_be(i, data, value)) return 0;
        if (i == NAIVE_KEY_NAME) naive_accept(opening->accept, data + value.begin);
        if (i >= NAIVE_NEEDED) opening->asked[i - NAIVE_NEEDED] = value;
    }
    return 1;
}

/* RFC 9112 3: GET, a path in characters that can be seen, without a fragment, HTTP/1.1. */
static inline int naive_first_line(const uint8_t *data, struct naive_part line) {
    const size_t space = naive_find(data, (struct naive_part){line.begin + 4, line.end}, " ");
    if (line.end - line.begin < strlen("GET / HTTP/1.1") || memcmp(data, "GET /", 5) != 0) return 0;
    if (line.end - space != 9 || memcmp(data + space, " HTTP/1.1", 9) != 0) return 0;
    for (size_t i = 4; i < space; i++)
        if (data[i] <= ' ' || data[i] >= 0x7F || data[i] == '#') return 0;
    return 1;
}

static inline struct naive_opening naive_read_opening(const uint8_t *data, size_t len) {
    static const struct naive_opening none;
    struct naive_opening opening = none;
    const struct naive_part all = {0, len < ZCWS_OPENING_MOST ? len : ZCWS_OPENING_MOST};
    const size_t end = naive_find(data, all, "\r\n\r\n");
    int have[NAIVE_NAMES] = {0}, headers = 0;
    struct naive_part line = {0, naive_find(data, all, "\r\n")};
    if (end == all.end || !naive_first_line(data, line)) return none;
    while (line.end < end) {
        line.begin = line.end + 2;
        line.end = naive_find(data, (struct naive_part){line.begin, all.end}, "\r\n");
        if (++headers > NAIVE_MOST_HEADERS || !naive_line(&opening, have, data, line)) return none;
    }
    for (int i = 0; i < NAIVE_NEEDED; i++)
        if (!have[i]) return none;
    opening.asks = have[5] || have[6] || have[7];
    opening.head = end + 4;
    return opening;
}

#endif
