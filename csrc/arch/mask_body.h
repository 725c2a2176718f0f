/* mask_body.h: masking, written once for every width of vector. No header of its own: a kernel includes it
 * after it has said what a vector is:
 *
 *     vector, WIDTH        the type, and its bytes: a power of two, 8 or more
 *     TARGET               the attribute of every function that touches one
 *     load, store          unaligned
 *     splat                the key, repeated
 *     differ, merge        xor, or; merge_three: or of three
 *     any_high             nonzero when a byte of the vector is 0x80 or more
 *     apply_short          the whole work for len < WIDTH
 *
 * The ends are taken by vectors that may overlap the middle and each other. Because masking twice restores a
 * byte, no vector may be read after one that it overlaps was stored; overlapping stores then agree on the
 * bytes that they share:
 *
 *     dst      0        k                                              len
 *     first    |--------|                                               .      key at phase 0
 *     second        |--------|                                          .      key at phase k
 *     middle        .        |--------|--------|--------|--------|      .      the same, as k + WIDTH is
 *     last          .                                         |--------|       key at phase len
 *
 * dst + k is aligned: stores that cross a cache line cost two, and a payload in the ring follows a head of
 * 2 to 14 bytes. All of first, second and last are read before any of them is stored, and first and second
 * are stored before the middle, because stores go to memory in order and a store that comes late holds up
 * the next read of its bytes. */

/* Vectors of data[0, len) from an aligned dst on, while they are whole. What each loop touches ends at
 * 4 * WIDTH or WIDTH <= len; less than WIDTH is left. */
TARGET static ZCWS_INLINE vector apply_whole(uint8_t *dst, const uint8_t *src, size_t len, vector key) {
    vector seen = splat(0);
    for (; len >= 4 * WIDTH; len -= 4 * WIDTH, dst += 4 * WIDTH, src += 4 * WIDTH) {
        const vector a = differ(load(src), key);
        const vector b = differ(load(src + WIDTH), key);
        const vector c = differ(load(src + 2 * WIDTH), key);
        const vector d = differ(load(src + 3 * WIDTH), key);
        store(dst, a);
        store(dst + WIDTH, b);
        store(dst + 2 * WIDTH, c);
        store(dst + 3 * WIDTH, d);
        seen = merge_three(merge_three(a, b, c), d, seen);
    }
    for (; len >= WIDTH; len -= WIDTH, dst += WIDTH, src += WIDTH) {
        const vector a = differ(load(src), key);
        store(dst, a);
        seen = merge(seen, a);
    }
    return seen;
}

/* src and dst are the same or do not overlap. From 2 * WIDTH on: k is 1 to WIDTH, so `second` follows on or
 * overlaps `first` and ends at k + WIDTH <= 2 * WIDTH <= len. */
TARGET static ZCWS_INLINE int apply(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    if (len < WIDTH) return apply_short(dst, src, len, key);
    const vector first = differ(load(src), splat(key));
    const vector last = differ(load(src + len - WIDTH), splat(zcws_turn_key(key, len)));
    vector seen = merge(first, last);
    if (len <= 2 * WIDTH) {
        store(dst, first);
    } else {
        const size_t k = WIDTH - ((uintptr_t)dst & (WIDTH - 1)), next = k + WIDTH;
        const vector turned = splat(zcws_turn_key(key, k));
        const vector second = differ(load(src + k), turned);
        store(dst, first);
        store(dst + k, second);
        seen = merge_three(seen, second, apply_whole(dst + next, src + next, len - next, turned));
    }
    store(dst + len - WIDTH, last);
    return any_high(seen);
}

TARGET static int mask(uint8_t *data, size_t len, uint32_t key) { return apply(data, data, len, key); }

TARGET static void mask_copy(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key) {
    (void)apply(dst, src, len, key);
}
