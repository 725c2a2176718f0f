/* mask.c: masking as RFC 6455 5.3 has it, in front of the kernels: phases and frame heads.
 *
 * A kernel knows only phase 0. A payload that continues one begins at another phase, so its key is turned
 * here, once a call; the kernels never see a phase. */
#include "kernel.h"

/* RFC 6455 5.2: payloads up to 125 have their length in the second byte; 126 and 127 there say that 2 or
 * 8 bytes of length follow, most significant byte first. */
enum { MASK_BIT = 0x80, LENGTH_IN_2 = 126, LENGTH_IN_8 = 127, LARGEST_IN_2 = 0xFFFF };

void zcws_mask(uint8_t *data, size_t len, uint32_t key, unsigned phase) {
    zcws_kernel->mask(data, len, zcws_turn_key(key, phase));
}

void zcws_mask_copy(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key, unsigned phase) {
    zcws_kernel->mask_copy(dst, src, len, zcws_turn_key(key, phase));
}

static uint8_t *put_big_endian(uint8_t *out, uint64_t value, unsigned bytes) {
    while (bytes-- > 0) *out++ = (uint8_t)(value >> 8 * bytes);
    return out;
}

/* RFC 6455 5.2: "the minimal number of bytes MUST be used to encode the length". */
static uint8_t *put_length(uint8_t *out, size_t len, uint8_t mask_bit) {
    if (len < LENGTH_IN_2) {
        *out = (uint8_t)(mask_bit | len);
        return out + 1;
    }
    *out = mask_bit | (len <= LARGEST_IN_2 ? LENGTH_IN_2 : LENGTH_IN_8);
    return put_big_endian(out + 1, len, len <= LARGEST_IN_2 ? 2 : 8);
}

size_t zcws_put_masked_head(uint8_t *out, uint8_t first, size_t len, uint32_t key) {
    out[0] = first;
    uint8_t *at = put_length(out + 1, len, MASK_BIT);
    memcpy(at, &key, sizeof key);
    return (size_t)(at - out) + sizeof key;
}

size_t zcws_build_masked(uint8_t *out, uint8_t first, const uint8_t *payload, size_t len, uint32_t key) {
    size_t head = zcws_put_masked_head(out, first, len, key);
    zcws_kernel->mask_copy(out + head, payload, len, key);
    return head + len;
}

static size_t build_bare(uint8_t *out, uint8_t first, const uint8_t *payload, size_t len) {
    out[0] = first;
    uint8_t *at = put_length(out + 1, len, 0);
    memcpy(at, payload, len);
    return (size_t)(at - out) + len;
}

size_t zcws_build_each(uint8_t *out, uint8_t first, const uint8_t *data, const uint64_t *spans, size_t step,
                       const uint32_t *keys, size_t count) {
    uint8_t *at = out;
    for (size_t i = 0; i < count; i++, spans += step) {
        const uint8_t *payload = data + spans[0];
        size_t len = (size_t)(spans[1] - spans[0]);
        at +=
            keys == NULL ? build_bare(at, first, payload, len) : zcws_build_masked(at, first, payload, len, keys[i]);
    }
    return (size_t)(at - out);
}
