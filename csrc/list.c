/* list.c: many messages as one list, in the form in which Python's own `marshal` reads it.
 *
 * An object for each message takes Python some twenty steps of its interpreter; marshal makes all of them in one call.
 * Of its format only what is needed here is written. */
#include "zcws.h"

#include <string.h>

/* What an item of that format begins with. Behind it comes a length, least significant byte first: HEAD bytes in all. */
enum { LIST = '[', TEXT = 'u', BYTES = 's', HEAD = 5 };

/* RFC 6455 5.2. */
enum { OPCODE = 0x0F, OPCODE_TEXT = 1 };

static uint8_t *put_item(uint8_t *out, uint8_t type, size_t len) {
    *out++ = type;
    for (unsigned shift = 0; shift < 32; shift += 8) *out++ = (uint8_t)(len >> shift);
    return out;
}

size_t zcws_list(uint8_t *out, size_t room, const uint8_t *base, const uint64_t *rows, size_t count) {
    const uint8_t *const end = out + room;
    uint8_t *at;
    if (room < HEAD) return 0;
    at = put_item(out, LIST, count);
    for (size_t i = 0; i < count; i++, rows += ZCWS_TABLE_ROW) {
        size_t len = (size_t)(rows[2] - rows[1]);
        if ((size_t)(end - at) < HEAD || (size_t)(end - at) - HEAD < len) return 0;
        at = put_item(at, (rows[0] & OPCODE) == OPCODE_TEXT ? TEXT : BYTES, len);
        memcpy(at, base + rows[1], len);
        at += len;
    }
    return (size_t)(at - out);
}
