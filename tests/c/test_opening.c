/* test_opening.c: reading an opening handshake touches nothing behind its bytes, however they are cut and damaged. */
#include "check.h"

static const char request[] = "GET /chat?x=1 HTTP/1.1\r\nHost: example.com:8765\r\nUpgrade: websocket\r\n"
                              "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                              "Origin: https://example.com\r\nSec-WebSocket-Protocol: chat\r\n"
                              "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Version: 13\r\n\r\n";

enum { SIZE = sizeof request - 1, ROUNDS = 200000 };

static struct guarded here;

static size_t read_at_the_end(const uint8_t *data, size_t len) {
    static struct zcws_opening opening;
    uint8_t *const at = here.end - len;
    size_t head;
    memcpy(at, data, len);
    head = zcws_read_opening(at, len, &opening);
    for (int i = 0; i < 6; i += 2)
        CHECK(opening.asked[i] <= opening.asked[i + 1] && opening.asked[i + 1] <= len, "asked %d", i);
    CHECK(memcmp(at, data, len) == 0, "%zu bytes were written to", len);
    return head;
}

static void test_every_cut(void) {
    const uint8_t *const data = (const uint8_t *)request;
    for (size_t len = 0; len < SIZE; len++) CHECK(read_at_the_end(data, len) == 0, "%zu bytes", len);
    CHECK(read_at_the_end(data, SIZE) == SIZE + ZCWS_OPENING_ASKS, "all of it");
}

static void test_damage(void) {
    uint8_t data[SIZE];
    for (int round = 0; round < ROUNDS; round++) {
        size_t len = 1 + random_below(SIZE);
        memcpy(data, request, SIZE);
        for (size_t i = random_below(3) + 1; i > 0; i--) data[random_below(SIZE)] = (uint8_t)random_64();
        read_at_the_end(data, random_below(2) ? SIZE : len);
    }
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    here = guarded_map(SIZE);
    test_every_cut();
    test_damage();
    return 0;
}
