/* test_kernels.c: the table of kernels, masking, and frames built with a mask. Every kernel by name against
 * naive.h: every length from 0 to 300 at every phase and alignment, up to a protected page on either side. */
#include "check.h"

#include "../../csrc/kernel.h"
#include "naive.h"

enum {
    LONGEST = 300,  /* past four vectors of the widest kernel, 4 * 64, and then some */
    ALIGNMENTS = 64 /* a cache line, and the widest vector */
};

static struct guarded here, there;

static void test_table(void) {
    const char *const best = zcws_kernel_name(0);
    CHECK(zcws_kernel_use(NULL), "NULL stands for the best one");
    CHECK(strcmp(zcws_kernel_in_use(), best) == 0, "the best one is %s", best);
    CHECK(!zcws_kernel_use("no such kernel"), "a name that nobody has");
    CHECK(strcmp(zcws_kernel_in_use(), best) == 0, "a name that nobody has changes nothing");

    size_t count = 0;
    for (; zcws_kernel_name(count) != NULL; count++) {
        CHECK(zcws_kernel_use(zcws_kernel_name(count)), "every name listed can be used");
        CHECK(zcws_kernel->supported(), "every name listed runs here");
        for (size_t i = 0; i < count; i++)
            CHECK(strcmp(zcws_kernel_name(i), zcws_kernel_in_use()) != 0, "one row a name");
    }
    CHECK(strcmp(zcws_kernel_name(count - 1), "scalar") == 0, "scalar is always there, last");
    CHECK(zcws_kernel_name(count + 1) == NULL, "past the last");
    CHECK(zcws_kernel_use(NULL), "NULL stands for the best one");
    printf("  table: %zu kernels, %s in use, %s\n", count, zcws_kernel_in_use(), zcws_build_info());
}

static void test_turn_key(void) {
    for (size_t count = 0; count < 9; count++) {
        uint8_t octets[4] = {1, 2, 3, 4}, turned[4];
        uint32_t key;
        memcpy(&key, octets, 4);
        key = zcws_turn_key(key, count);
        memcpy(turned, &key, 4);
        for (size_t i = 0; i < 4; i++)
            CHECK(turned[i] == octets[(count + i) % 4], "turned by %zu, byte %zu", count, i);
    }
}

/* Masks data[0, len) in place, and says whether its return was right as well. */
static void check_mask(uint8_t *data, size_t len, uint32_t key, unsigned phase) {
    uint8_t expected[LONGEST + 1];
    naive_mask(expected, data, len, key, phase);
    int beyond_ascii = 0;
    for (size_t i = 0; i < len; i++) beyond_ascii |= expected[i] >= 0x80;
    const int answer = zcws_kernel->mask(data, len, zcws_turn_key(key, phase));
    CHECK(memcmp(data, expected, len) == 0, "%zu bytes at phase %u, %p", len, phase, (void *)data);
    CHECK((answer != 0) == beyond_ascii, "%zu bytes at phase %u, %p", len, phase, (void *)data);
}

/* In the middle of a page, where an overrun does not fault: the bytes around must stay. */
static void check_mask_between(uint8_t *data, size_t len, uint32_t key, unsigned phase) {
    enum { AROUND = ALIGNMENTS };
    uint8_t left[AROUND], right[AROUND];
    memcpy(left, data - AROUND, AROUND);
    memcpy(right, data + len, AROUND);
    check_mask(data, len, key, phase);
    CHECK(memcmp(left, data - AROUND, AROUND) == 0, "wrote before %zu bytes", len);
    CHECK(memcmp(right, data + len, AROUND) == 0, "wrote behind %zu bytes", len);
}

static void test_mask(void) {
    random_fill(here.start, (size_t)(here.end - here.start));
    for (size_t len = 0; len <= LONGEST; len++) {
        for (unsigned phase = 0; phase < 4; phase++) {
            const uint32_t key = (uint32_t)random_64();
            check_mask(here.end - len, len, key, phase);
            check_mask(here.start, len, key, phase);
            for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++)
                check_mask_between(here.start + ALIGNMENTS + alignment, len, key, phase);
        }
    }
}

static void test_mask_call(void) {
    uint8_t expected[LONGEST];
    for (size_t len = 0; len < LONGEST; len++) {
        const uint32_t key = (uint32_t)random_64();
        for (unsigned phase = 0; phase < 4; phase++) {
            naive_mask(expected, here.start, len, key, phase);
            zcws_mask(here.start, len, key, phase);
            CHECK(memcmp(here.start, expected, len) == 0, "%zu bytes at phase %u", len, phase);
        }
    }
}

/* One byte over 0x7F in each place, and none. */
static void test_mask_return(void) {
    for (size_t len = 0; len <= LONGEST; len++) {
        const uint32_t key = (uint32_t)random_64();
        uint8_t text[LONGEST];
        random_fill(text, len);
        for (size_t i = 0; i < len; i++) text[i] &= 0x7F;
        uint8_t *const data = here.end - len;
        naive_mask(data, text, len, key, 0);
        CHECK(!zcws_kernel->mask(data, len, key), "%zu bytes of ASCII", len);
        for (size_t i = 0; i < len; i++) {
            text[i] |= 0x80;
            naive_mask(data, text, len, key, 0);
            CHECK(zcws_kernel->mask(data, len, key), "byte %zu of %zu is over 0x7F", i, len);
            text[i] &= 0x7F;
        }
    }
}

static void check_mask_copy(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key, unsigned phase) {
    uint8_t expected[LONGEST], source[LONGEST];
    naive_mask(expected, src, len, key, phase);
    memcpy(source, src, len);
    zcws_mask_copy(dst, src, len, key, phase);
    CHECK(memcmp(dst, expected, len) == 0, "%zu bytes at phase %u, %p", len, phase, (void *)dst);
    CHECK(memcmp(src, source, len) == 0, "%zu bytes at phase %u: the source changed", len, phase);
}

/* Every alignment of the destination; of the source, one at random each time. */
static void test_mask_copy(void) {
    random_fill(here.start, (size_t)(here.end - here.start));
    for (size_t len = 0; len <= LONGEST; len++) {
        for (unsigned phase = 0; phase < 4; phase++) {
            const uint32_t key = (uint32_t)random_64();
            check_mask_copy(there.end - len, here.end - len, len, key, phase);
            check_mask_copy(there.start, here.start, len, key, phase);
            for (size_t alignment = 0; alignment < ALIGNMENTS; alignment++) {
                uint8_t *const dst = there.start + 1 + alignment;
                dst[-1] = dst[len] = 0xA5;
                check_mask_copy(dst, here.start + random_below(ALIGNMENTS), len, key, phase);
                CHECK(dst[-1] == 0xA5 && dst[len] == 0xA5, "wrote around %zu bytes", len);
            }
        }
    }
}

/* The loops' long way: megabytes are not needed, many turns of the widest loop are. */
static void test_mask_long(void) {
    const size_t room = (size_t)(here.end - here.start);
    for (int round = 0; round < 200; round++) {
        const size_t len = LONGEST + random_below(room - LONGEST - ALIGNMENTS);
        const size_t at = random_below(room - len);
        const uint32_t key = (uint32_t)random_64();
        const unsigned phase = (unsigned)random_below(4);
        naive_mask(there.start + at, here.start + at, len, key, phase);
        zcws_mask(here.start + at, len, key, phase);
        CHECK(memcmp(here.start + at, there.start + at, len) == 0, "%zu bytes at %zu", len, at);
    }
}

/* RFC 6455 5.2, written out: the head that a masked frame of `len` bytes must have. */
static size_t expected_head(uint8_t *head, uint8_t first, size_t len, uint32_t key) {
    size_t size = 2;
    head[0] = first;
    head[1] = (uint8_t)(0x80 | (len < 126 ? len : len < 65536 ? 126 : 127));
    for (int shift = len < 126 ? 0 : len < 65536 ? 16 : 64; shift > 0; shift -= 8)
        head[size++] = (uint8_t)((uint64_t)len >> (shift - 8));
    memcpy(head + size, &key, 4);
    return size + 4;
}

static void test_build_masked(void) {
    static const size_t sizes[] = {0, 1, 2, 7, 31, 124, 125, 126, 127, 128, 1000, 65534, 65535, 65536, 65537, 80000};
    random_fill(here.start, 80000);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t head[14];
        const uint32_t key = (uint32_t)random_64();
        const size_t len = sizes[i], in_head = expected_head(head, 0x81, len, key);
        uint8_t *const out = there.end - in_head - len; /* not one byte more */
        const size_t written = zcws_build_masked(out, 0x81, here.start, len, key);
        CHECK(written == in_head + len, "%zu bytes made a frame of %zu", len, written);
        CHECK(memcmp(out, head, in_head) == 0, "the head before %zu bytes", len);
        naive_mask(out + in_head, out + in_head, len, key, 0);
        CHECK(memcmp(out + in_head, here.start, len) == 0, "the payload of %zu bytes", len);
    }
}

/* Many frames in one call are what they are one by one, whatever lies between their payloads. */
static void test_build_each(void) {
    enum { COUNT = 40 };
    uint64_t spans[COUNT][3]; /* something else, where a payload begins, and where it ends */
    uint32_t keys[COUNT];
    size_t all = 0, masked = 0, bare = 0;
    for (int i = 0; i < COUNT; i++) {
        const size_t size = i % 8 == 7 ? 126 + random_below(1000) : random_below(130);
        spans[i][0] = random_64();
        spans[i][1] = all + random_64() % 20;
        spans[i][2] = spans[i][1] + size;
        all = (size_t)spans[i][2];
        keys[i] = (uint32_t)random_64();
        bare += size + (size < 126 ? 2 : 4);
        masked += size + (size < 126 ? 6 : 8);
    }
    uint8_t *const data = here.end - all; /* not one byte more */
    random_fill(data, all);
    for (int is_masked = 0; is_masked < 2; is_masked++) {
        const size_t size = is_masked ? masked : bare;
        uint8_t *const out = there.end - size, *frame = out; /* nor here */
        CHECK(zcws_build_each(out, 0x82, data, &spans[0][1], 3, is_masked ? keys : NULL, COUNT) == size, "%zu bytes",
              size);
        for (int i = 0; i < COUNT; i++) {
            uint8_t head[14];
            const size_t len = (size_t)(spans[i][2] - spans[i][1]);
            size_t in_head = expected_head(head, 0x82, len, keys[i]);
            if (is_masked) {
                naive_mask(frame + in_head, frame + in_head, len, keys[i], 0);
            } else {
                in_head -= 4;
                head[1] &= 0x7F;
            }
            CHECK(memcmp(frame, head, in_head) == 0, "the head of frame %d", i);
            CHECK(memcmp(frame + in_head, data + spans[i][1], len) == 0, "the payload of frame %d", i);
            frame += in_head + len;
        }
        CHECK(zcws_build_each(out, 0x82, data, &spans[0][1], 3, NULL, 0) == 0, "no frame has bytes");
    }
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    here = guarded_map(100000);
    there = guarded_map(100000);
    test_table();
    test_turn_key();
    each_kernel("mask", test_mask);
    each_kernel("zcws_mask", test_mask_call);
    each_kernel("mask's return", test_mask_return);
    each_kernel("mask_copy", test_mask_copy);
    each_kernel("long payloads", test_mask_long);
    each_kernel("zcws_build_masked", test_build_masked);
    each_kernel("zcws_build_each", test_build_each);
    return 0;
}
