/* test_list.c: the list of messages that marshal reads. That marshal does read it is tested in tests/test_bulk.py. */
#include "check.h"

static void put(uint8_t **at, uint8_t type, uint32_t len) {
    *(*at)++ = type;
    *(*at)++ = (uint8_t)len;
    *(*at)++ = (uint8_t)(len >> 8);
    *(*at)++ = (uint8_t)(len >> 16);
    *(*at)++ = (uint8_t)(len >> 24);
}

/* No byte is read or written but those that it may: both blocks end where they must. */
static void test_list(struct guarded in, struct guarded out, size_t count) {
    static uint64_t rows[ZCWS_TABLE_ROWS][ZCWS_TABLE_ROW];
    static uint8_t expected[200000];
    uint64_t offset = 0;
    size_t size = 5;
    for (size_t i = 0; i < count; i++) {
        rows[i][0] = (random_below(2) ? 1 : 2) | ZCWS_FIRST | ZCWS_LAST;
        rows[i][1] = offset += random_below(15);
        rows[i][2] = offset += random_below(8) ? random_below(70) : random_below(3) * 0x101;
        size += 5 + (size_t)(rows[i][2] - rows[i][1]);
    }
    uint8_t *const base = in.end - offset, *at = expected;
    random_fill(base, (size_t)offset);
    put(&at, '[', (uint32_t)count);
    for (size_t i = 0; i < count; i++) {
        const size_t len = (size_t)(rows[i][2] - rows[i][1]);
        put(&at, (rows[i][0] & 0x0F) == 1 ? 'u' : 's', (uint32_t)len);
        memcpy(at, base + rows[i][1], len);
        at += len;
    }
    CHECK(zcws_list(out.end - size, size, base, &rows[0][0], count) == size, "%zu rows, %zu bytes", count, size);
    CHECK(memcmp(out.end - size, expected, size) == 0, "%zu rows", count);
    for (size_t room = 0; room < size; room += size < 1000 ? 1 : 1 + random_below(20))
        CHECK(zcws_list(out.end - room, room, base, &rows[0][0], count) == 0, "%zu rows, %zu bytes", count, room);
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    const struct guarded in = guarded_map(200000), out = guarded_map(200000);
    for (size_t count = 0; count < 40; count++) test_list(in, out, count);
    test_list(in, out, 300);
    test_list(in, out, ZCWS_TABLE_ROWS);
    return 0;
}
