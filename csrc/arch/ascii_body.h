/* ascii_body.h: how far a text is ASCII, at least. Included like mask_body.h, and needs what that needs.
 *
 * It is the whole UTF-8 prefix of a kernel that cannot look up bytes in a register (scalar, sse2), and the
 * first step of the others: most text is ASCII to its end. */

/* A multiple of four vectors, or len. Blocks end at i + 4 * WIDTH <= len; then at most three whole vectors are
 * left and a part of one, which the last WIDTH bytes cover. */
TARGET static ZCWS_INLINE size_t ascii_prefix(const uint8_t *data, size_t len) {
    if (len < WIDTH) return any_high_words(data, len) ? 0 : len;
    size_t i = 0;
    for (; i + 4 * WIDTH <= len; i += 4 * WIDTH) {
        const vector two = merge(load(data + i), load(data + i + WIDTH));
        if (any_high(merge_three(two, load(data + i + 2 * WIDTH), load(data + i + 3 * WIDTH)))) return i;
    }
    vector seen = load(data + len - WIDTH);
    for (size_t j = i; j + WIDTH <= len; j += WIDTH) seen = merge(seen, load(data + j));
    return any_high(seen) ? i : len;
}
