/* fuzz.h: what the C fuzz targets share: parameters from the front of an input, and memory of exactly the right size.
 *
 * A target is LLVMFuzzerTestOneInput, as libFuzzer calls it; replay.c calls it with the files of a corpus where there is
 * no libFuzzer. CHECK of check.h ends the program, which libFuzzer reports as a finding. */
#ifndef ZCWS_TESTS_FUZZ_H
#define ZCWS_TESTS_FUZZ_H

#include "../c/check.h"

#if defined(__has_include)
#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h> /* its macros do nothing without AddressSanitizer */
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(at, size) ((void)(at), (void)(size))
#endif

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of an input. */
struct input {
    const uint8_t *data;
    size_t size;
};

/* The next parameter; 0 behind the end, so that a short input is an input too. */
static inline unsigned take_byte(struct input *input) {
    if (input->size == 0) return 0;
    input->size -= 1;
    return *input->data++;
}

static inline unsigned take_two(struct input *input) {
    const unsigned high = take_byte(input);
    return high << 8 | take_byte(input);
}

/* `len` bytes whose last one is the last of its allocation, and `before` bytes in front of them that must not be
 * touched: ASan reports an access one byte too far at either end (at the front: 8 bytes too far at the latest). */
struct exact {
    uint8_t *all, *start;
    size_t before, len;
};

static inline struct exact exact_make(size_t before, size_t len) {
    uint8_t *const all = malloc(before + len);
    CHECK(all != NULL || before + len == 0, "malloc of %zu bytes", before + len);
    ASAN_POISON_MEMORY_REGION(all, before);
    return (struct exact){all, all + before, before, len};
}

static inline struct exact exact_copy(size_t before, const uint8_t *data, size_t len) {
    const struct exact copy = exact_make(before, len);
    if (len != 0) memcpy(copy.start, data, len);
    return copy;
}

static inline void exact_free(struct exact exact) {
    ASAN_UNPOISON_MEMORY_REGION(exact.all, exact.before);
    free(exact.all);
}

/* Alignments: one byte of an input, of which vectors of 64 bytes see the low six bits. */
enum { ALIGNMENTS = 64 };

/* A short input stands for a long one, so that loops of a block or of 64 KiB are reached with a few bytes: nearly all
 * inputs are taken once (long ones are slow), the others up to 1024 times. */
static inline size_t take_times(struct input *input) {
    const unsigned times = take_byte(input);
    return times < 240 ? 1 : 64 * (times - 239);
}

/* Returns memory that the caller frees. */
static inline uint8_t *repeat(struct input input, size_t times, size_t most, size_t *len) {
    size_t total = input.size * times;
    if (total > most) total = most;
    uint8_t *const data = malloc(total + 1);
    CHECK(data != NULL, "malloc of %zu bytes", total);
    for (size_t i = 0; i < total; i++) data[i] = input.data[i % input.size];
    *len = total;
    return data;
}

#endif
