/* kernels.c: bytes a second of every kernel, by operation and size, with memcpy of the same size beside it.
 *
 *     make kernels && ./build/kernels > results/kernels-DATE.json
 *
 * One JSON object a line. Method: payloads lie one behind another with a head of 6 bytes between them, as in a ring,
 * so all alignments come up. As many as fit half of a first-level cache are taken in turn: never the same one twice
 * running, as a load that has to wait for the store just before it measures that wait. A measurement is ROUNDS
 * rounds; in each, memcpy and then every kernel work for about SLICE bytes. `best_gb_s` is the fastest round (what
 * the code can do: on a shared machine the others are slower for reasons of their own), `median_gb_s` says how far
 * off the usual round was, `ns` is one call of the fastest round, `of_memcpy` is best to best. memcpy of 16 KiB may
 * be the microcode's (`rep movsb`), which moves whole cache lines, and no loop of 32-byte stores comes near it.
 *
 * Loops this tight depend on where the linker puts them: on Intel CPUs of 2015 to 2019 a branch that touches a
 * 32-byte boundary is slow, and the same kernel may be off by a fifth from build to build. Compare two builds with
 * CFLAGS="-O3 -fPIC -Wa,-mbranches-within-32B-boundaries". */
#define _GNU_SOURCE /* clock_gettime, which -std=c11 hides */

#include "../csrc/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    ROUNDS = 41,        /* odd, so that there is a median */
    SLICE = 1 << 20,    /* bytes: 20 to 500 us, shorter than a scheduler's turn */
    LARGEST = 1 << 20,  /* bytes; past the caches' second level */
    HEAD = 6,           /* bytes: 2 and the key, RFC 6455 5.2 */
    WINDOW = 16 * 1024, /* bytes of payloads in turn: memcpy's two windows fill a cache of 32 KiB */
    ENTRIES = 8         /* memcpy and at most 7 kernels */
};

static uint8_t *target, *source;
static const uint32_t key = 0x5A430F16; /* neither 0 nor a repetition; ASCII masked by it is ASCII */

static volatile size_t sink; /* keeps results alive */

/* One operation: what is done to payload after payload of `len` bytes, `times` times. */
typedef void operation(size_t len, size_t times);

static size_t window; /* where the last payload ends; set by fill */

/* Where the next payload lies behind the one at `at`. */
static inline size_t next(size_t at, size_t len) { return at + len + HEAD < window ? at + len + HEAD : HEAD; }

static void copy(size_t len, size_t times) {
    for (size_t at = HEAD; times-- > 0; at = next(at, len)) {
        memcpy(target + at, source + at, len);
        __asm__ volatile("" : : "r"(target) : "memory"); /* or the compiler leaves copies out */
    }
}

static void mask(size_t len, size_t times) {
    for (size_t at = HEAD; times-- > 0; at = next(at, len)) zcws_mask(target + at, len, key, 0);
}

static void mask_copy(size_t len, size_t times) {
    for (size_t at = HEAD; times-- > 0; at = next(at, len)) zcws_mask_copy(target + at, source + at, len, key, 0);
}

static void utf8(size_t len, size_t times) {
    uint32_t state = ZCWS_UTF8_START;
    for (size_t at = HEAD; times-- > 0; at = next(at, len)) sink = zcws_utf8(source + at, len, &state);
}

/* What is unmasked in one turn is masked in the next: the key keeps both ASCII. */
static void mask_utf8(size_t len, size_t times) {
    uint32_t state = ZCWS_UTF8_START;
    for (size_t at = HEAD; times-- > 0; at = next(at, len)) sink = zcws_mask_utf8(target + at, len, key, &state);
}

/* Every payload is `text` over and over. */
static void fill(const char *text, size_t len) {
    const size_t size = strlen(text), payloads = len + HEAD > WINDOW ? 1 : WINDOW / (len + HEAD);
    window = payloads * (len + HEAD);
    for (size_t at = 0; at < window; at++) {
        const size_t in_frame = at % (len + HEAD);
        source[at] = target[at] = (uint8_t)(in_frame < HEAD ? 0 : text[(in_frame - HEAD) % size]);
    }
}

/* 16 bytes a repetition, so that every size below ends between two characters. */
static const char ascii[] = "a plain sentence";
static const char cyrillic[] = "\xD0\xBF\xD1\x80\xD0\xB8\xD0\xB2\xD0\xB5\xD1\x82, \xD0\xB0";
static const char chinese[] = "\xE4\xBD\xA0\xE5\xA5\xBD\xE4\xB8\x96\xE7\x95\x8C\xE3\x80\x82.";
static const char emoji[] = "\xF0\x9F\x98\x80 ok \xF0\x9F\x9A\x80 \xE2\x9C\x93";

static const struct {
    const char *name, *text;
    operation *run;
} operations[] = {
    {"mask", ascii, mask},       {"mask_copy", ascii, mask_copy},   {"mask_utf8 ascii", ascii, mask_utf8},
    {"utf8 ascii", ascii, utf8}, {"utf8 cyrillic", cyrillic, utf8}, {"utf8 chinese", chinese, utf8},
    {"utf8 emoji", emoji, utf8},
};

static const size_t sizes[] = {16, 32, 64, 128, 256, 512, 1024, 4096, 16384, 65536, 1048576};

static double seconds(operation *run, size_t len) {
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    run(len, SLICE / len);
    clock_gettime(CLOCK_MONOTONIC, &after);
    return (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
}

static int compare(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* All entries take part in each round, so that a slow moment hits all alike. Entry 0 is memcpy. */
static void measure(double times[ENTRIES][ROUNDS], operation *run, size_t len) {
    for (size_t round = 0; round < ROUNDS; round++) {
        times[0][round] = seconds(copy, len);
        for (size_t i = 0; zcws_kernel_name(i) != NULL; i++) {
            zcws_kernel_use(zcws_kernel_name(i));
            times[i + 1][round] = seconds(run, len);
        }
    }
}

static void report(double times[ENTRIES][ROUNDS], const char *operation_name, size_t len) {
    const double bytes = (double)(SLICE / len * len);
    for (size_t i = 0; i == 0 || zcws_kernel_name(i - 1) != NULL; i++) {
        qsort(times[i], ROUNDS, sizeof(double), compare);
        const double best = times[i][0];
        printf("{\"operation\": \"%s\", \"bytes\": %zu, \"kernel\": \"%s\", \"best_gb_s\": %.2f, "
               "\"median_gb_s\": %.2f, \"ns\": %.1f, \"of_memcpy\": %.2f}\n",
               operation_name, len, i == 0 ? "memcpy" : zcws_kernel_name(i - 1), bytes / best * 1e-9,
               bytes / times[i][ROUNDS / 2] * 1e-9, best * 1e9 / (double)(SLICE / len), times[0][0] / best);
    }
    fflush(stdout);
}

/* With an argument: only operations whose name begins with it. */
int main(int argc, char **argv) {
    static double times[ENTRIES][ROUNDS];
    target = aligned_alloc(4096, LARGEST + 2 * 4096); /* a page to spare for the heads */
    source = aligned_alloc(4096, LARGEST + 2 * 4096);
    if (target == NULL || source == NULL) return 1;
    printf("{\"build\": \"%s\", \"rounds\": %d, \"bytes_per_round\": %d}\n", zcws_build_info(), ROUNDS, SLICE);
    for (size_t i = 0; i < sizeof operations / sizeof operations[0]; i++) {
        if (argc > 1 && strncmp(operations[i].name, argv[1], strlen(argv[1])) != 0) continue;
        for (size_t j = 0; j < sizeof sizes / sizeof sizes[0]; j++) {
            fill(operations[i].text, sizes[j]);
            measure(times, operations[i].run, sizes[j]);
            report(times, operations[i].name, sizes[j]);
        }
    }
    return 0;
}
