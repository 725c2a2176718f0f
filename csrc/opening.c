/* opening.c: the request that nearly every client opens a WebSocket with, and what answers it. RFC 6455 4.2.
 *
 * A short cut, not a second set of rules: what it accepts, http1.py and handshake.py accept as well, and everything
 * else, right or wrong, it leaves to them. So it may be strict wherever that is shorter.
 */
#include "zcws.h"

#include <string.h>

enum {
    T = 1,                 /* may be in a token: RFC 9110 5.6.2 */
    V = 2,                 /* in a field's value: RFC 9110 5.5, no control characters but the tab */
    S = 4,                 /* in a request's target: what can be seen but #, RFC 9112 3.2 */
    H = 8,                 /* in a host's name, or an IPv4 address, as they are in use */
    B = 16,                /* in base64: RFC 4648 4 */
    P = V | S,             /* other punctuation */
    M = T | V | S,         /* marks of a token */
    N = T | V,             /* #, which begins a fragment */
    A = T | V | S | H | B, /* letters and digits */
    HEADERS = 128,         /* MAX_HEADERS of http1.py */
    KEY = 24,              /* bytes of a Sec-WebSocket-Key: RFC 6455 4.1, 16 bytes in base64 */
    GUID_SIZE = 36,        /* RFC 6455 1.3 */
    SHA_BLOCK = 64,
    SHA_DIGEST = 20 /* RFC 3174 */
};

/* By character, sixteen a line; what is not ASCII may be in a value. */
static const uint8_t kinds[128] = {
    0, 0, 0, 0, 0, 0, 0, 0, 0, V, 0, 0,     0, 0,     0,     0, /* tab */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,     0, 0,     0,     0,
    V, M, P, N, M, M, M, M, P, P, M, M | B, P, M | H, M | H, P | B, /* space ! " # $ % & ' ( ) * + , - . / */
    A, A, A, A, A, A, A, A, A, A, P, P,     P, P,     P,     P,     /* 0 to 9 : ; < = > ? */
    P, A, A, A, A, A, A, A, A, A, A, A,     A, A,     A,     A,     /* @ A to O */
    A, A, A, A, A, A, A, A, A, A, A, P,     P, P,     M,     M | H, /* P to Z [ \ ] ^ _ */
    M, A, A, A, A, A, A, A, A, A, A, A,     A, A,     A,     A,     /* ` a to o */
    A, A, A, A, A, A, A, A, A, A, A, P,     M, P,     M,     0,     /* p to z { | } ~ DEL */
};

/* What has been found, a bit each: what has to be there once, and what a server may want to know. */
enum {
    HOST = 1,
    UPGRADE = 2,
    CONNECTION = 4,
    VERSION = 8,
    KEY_LINE = 16,
    NEEDED = 31,
    ORIGIN = 32,
    PROTOCOLS = 64,
    EXTENSIONS = 128,
    ASKED = ORIGIN | PROTOCOLS | EXTENSIONS
};

static size_t span(const uint8_t *data, size_t at, size_t end, uint8_t kind) {
    while (at < end && ((data[at] < 0x80 ? kinds[data[at]] : V) & kind)) at++;
    return at;
}

static int is_blank(uint8_t c) { return c == ' ' || c == '\t'; }

/* Whether data[0, len) is `word` in any case; `word` itself is in lower case. */
static int is_word(const uint8_t *data, size_t len, const char *word) {
    if (len != strlen(word)) return 0;
    for (size_t i = 0; i < len; i++)
        if ((data[i] >= 'A' && data[i] <= 'Z' ? data[i] | 0x20 : data[i]) != (uint8_t)word[i]) return 0;
    return 1;
}

static int is_host(const uint8_t *value, size_t len) {
    const size_t name = span(value, 0, len, H);
    size_t port = name + 1;
    if (name == len) return len > 0;
    while (port < len && value[port] >= '0' && value[port] <= '9') port++;
    return name > 0 && value[name] == ':' && port == len;
}

static int is_key(const uint8_t *value, size_t len) {
    return len == KEY && span(value, 0, KEY, B) == KEY - 2 && value[KEY - 2] == '=' && value[KEY - 1] == '=';
}

/* What one line says: the bit of a rule that it keeps; 0 if no rule is about it; -1 if http1.py has to decide. */
static int judge(const uint8_t *name, size_t size, const uint8_t *value, size_t len) {
    switch (size) { /* most names need no look */
    case 4:
        if (is_word(name, size, "host")) return is_host(value, len) ? HOST : -1;
        return 0;
    case 6: return is_word(name, size, "origin") ? ORIGIN : 0;
    case 7:
        if (is_word(name, size, "upgrade")) return is_word(value, len, "websocket") ? UPGRADE : -1;
        return 0;
    case 10:
        if (!is_word(name, size, "connection")) return 0;
        return is_word(value, len, "upgrade") || is_word(value, len, "keep-alive, upgrade") ? CONNECTION : -1;
    case 14: return is_word(name, size, "content-length") ? -1 : 0;
    case 17:
        if (is_word(name, size, "sec-websocket-key")) return is_key(value, len) ? KEY_LINE : -1;
        return is_word(name, size, "transfer-encoding") ? -1 : 0;
    case 21:
        if (is_word(name, size, "sec-websocket-version")) return is_word(value, len, "13") ? VERSION : -1;
        return 0;
    case 22: return is_word(name, size, "sec-websocket-protocol") ? PROTOCOLS : 0;
    case 24: return is_word(name, size, "sec-websocket-extensions") ? EXTENSIONS : 0;
    default: return 0;
    }
}

/* ---- Sec-WebSocket-Accept ---- */

static uint32_t turned(uint32_t x, int bits) { return x << bits | x >> (32 - bits); }

/* RFC 3174 6.1: one round, in which the five words change their names and not their places. */
#define ROUND(t, a, b, e, f, k)                       \
    do {                                              \
        e += turned(a, 5) + (f) + w[t] + UINT32_C(k); \
        b = turned(b, 30);                            \
    } while (0)
#define CHOOSE(b, c, d) (d ^ (b & (c ^ d)))
#define PARITY(b, c, d) (b ^ c ^ d)
#define MAJORITY(b, c, d) ((b & c) | (d & (b | c)))
#define TWENTY(from, F, k)                          \
    for (int t = (from); t < (from) + 20; t += 5) { \
        ROUND(t, a, b, e, F(b, c, d), k);           \
        ROUND(t + 1, e, a, d, F(a, b, c), k);       \
        ROUND(t + 2, d, e, c, F(e, a, b), k);       \
        ROUND(t + 3, c, d, b, F(d, e, a), k);       \
        ROUND(t + 4, b, c, a, F(c, d, e), k);       \
    }

static void sha1_block(uint32_t h[5], const uint8_t *data) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int t = 0; t < 16; t++, data += 4)
        w[t] = (uint32_t)data[0] << 24 | (uint32_t)data[1] << 16 | (uint32_t)data[2] << 8 | data[3];
    for (int t = 16; t < 80; t++) w[t] = turned(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16], 1);
    TWENTY(0, CHOOSE, 0x5A827999)
    TWENTY(20, PARITY, 0x6ED9EBA1)
    TWENTY(40, MAJORITY, 0x8F1BBCDC)
    TWENTY(60, PARITY, 0xCA62C1D6)
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
}

/* RFC 6455 4.2.2, 5.4: the digest of the key and the GUID, in base64. */
static void write_accept(uint8_t *out, const uint8_t *key) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    static const char base64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t text[2 * SHA_BLOCK] = {0}, digest[SHA_DIGEST + 1] = {0};
    uint32_t h[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    const unsigned bits = 8 * (KEY + GUID_SIZE);
    memcpy(text, key, KEY);
    memcpy(text + KEY, guid, GUID_SIZE);
    text[KEY + GUID_SIZE] = 0x80; /* RFC 3174 4: a one, zeros, the length in bits */
    text[2 * SHA_BLOCK - 2] = (uint8_t)(bits >> 8);
    text[2 * SHA_BLOCK - 1] = (uint8_t)bits;
    sha1_block(h, text);
    sha1_block(h, text + SHA_BLOCK);
    for (int i = 0; i < SHA_DIGEST; i++) digest[i] = (uint8_t)(h[i / 4] >> (24 - i % 4 * 8));
    for (int i = 0; i < SHA_DIGEST + 1; i += 3) { /* 7 times 3 bytes, of which the last one is not there */
        const uint32_t three = (uint32_t)digest[i] << 16 | (uint32_t)digest[i + 1] << 8 | digest[i + 2];
        for (int j = 0; j < 4; j++) *out++ = (uint8_t)base64[three >> (18 - 6 * j) & 63];
    }
    out[-1] = '=';
}

size_t zcws_read_opening(const uint8_t *data, size_t len, struct zcws_opening *opening) {
    static const char method[] = "GET /", version[] = " HTTP/1.1\r\n";
    const size_t before = sizeof method - 1, after = sizeof version - 1;
    const uint8_t *key = NULL;
    size_t at, end = len < ZCWS_OPENING_MOST ? len : ZCWS_OPENING_MOST;
    int found = 0;
    memset(opening->asked, 0, sizeof opening->asked);
    if (end < before || memcmp(data, method, before) != 0) return 0;
    at = span(data, before, end, S);
    if (end - at < after || memcmp(data + at, version, after) != 0) return 0;
    at += after;
    for (int lines = 0; lines <= HEADERS && at < end; lines++) {
        const size_t colon = span(data, at, end, T), name = at;
        size_t value = colon + 1, stop;
        int bit;
        if (colon == name) { /* the empty line, if it is one: the head ends here */
            if (end - at < 2 || data[at] != '\r' || data[at + 1] != '\n' || (found & NEEDED) != NEEDED) return 0;
            write_accept(opening->accept, key);
            return at + 2 + (found & ASKED ? ZCWS_OPENING_ASKS : 0);
        }
        if (value >= end || data[colon] != ':') return 0;
        if (data[value] == ' ') value++;
        stop = span(data, value, end, V);
        if (end - stop < 2 || data[stop] != '\r' || data[stop + 1] != '\n') return 0;
        if (stop == value || is_blank(data[value]) || is_blank(data[stop - 1])) return 0; /* legal, and rare */
        bit = judge(data + name, colon - name, data + value, stop - value);
        if (bit < 0 || (found & bit)) return 0; /* RFC 6455 4.2.1: a repeat is for handshake.py to judge */
        found |= bit;
        if (bit == KEY_LINE) key = data + value;
        if (bit & ASKED) {
            uint32_t *const where = opening->asked + (bit == ORIGIN ? 0 : bit == PROTOCOLS ? 2 : 4);
            where[0] = (uint32_t)value;
            where[1] = (uint32_t)stop;
        }
        at = stop + 2;
    }
    return 0;
}
