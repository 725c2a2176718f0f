/* check.h: what every C test here needs: a check, a seeded stream of random bits, memory between two
 * protected pages. A program prints its seed, runs its tests by name, and ends with 1 on the first check
 * that fails. To repeat a run: ./test_kernels SEED. */
#ifndef ZCWS_TESTS_CHECK_H
#define ZCWS_TESTS_CHECK_H

#define _GNU_SOURCE /* mmap and sysconf, which -std=c11 hides; include this header first */

#include "../../csrc/zcws.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Ends the program with the place, the condition and a sentence about the case. */
#define CHECK(condition, ...)                                                                     \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: not so: %s\n    kernel %s; ", __FILE__, __LINE__, #condition, \
                    zcws_kernel_in_use());                                                        \
            fprintf(stderr, __VA_ARGS__);                                                         \
            fputc('\n', stderr);                                                                  \
            exit(1);                                                                              \
        }                                                                                         \
    } while (0)

/* SplitMix64 (Steele, Lea, Flood 2014): any seed is a good seed. Each thread has a stream of its own. */
static _Thread_local uint64_t random_state;

static inline uint64_t random_64(void) {
    uint64_t z = random_state += 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static inline size_t random_below(size_t bound) { return (size_t)(random_64() % bound); }

static inline void random_fill(uint8_t *data, size_t len) {
    for (size_t i = 0; i < len; i++) data[i] = (uint8_t)random_64();
}

/* The seed is fixed, so that a red run is red again; an argument replaces it. */
static inline void random_start(int argc, char **argv) {
    random_state = argc > 1 ? strtoull(argv[1], NULL, 0) : 6455;
    printf("%s: seed %llu\n", argv[0], (unsigned long long)random_state);
}

/* `size` bytes, a whole number of pages, with a page before and a page after them that fault when touched. */
struct guarded {
    uint8_t *start, *end;
};

static inline struct guarded guarded_map(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t inner = (size + page - 1) / page * page;
    uint8_t *const all = mmap(NULL, inner + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(all != MAP_FAILED, "mmap of %zu bytes", inner + 2 * page);
    CHECK(mprotect(all + page, inner, PROT_READ | PROT_WRITE) == 0, "mprotect of %zu bytes", inner);
    return (struct guarded){all + page, all + page + inner};
}

/* Runs `test` with each kernel in turn, and goes back to the one that was in use. */
static inline void each_kernel(const char *title, void (*test)(void)) {
    const char *const before = zcws_kernel_in_use();
    printf("  %s:", title);
    for (size_t i = 0; zcws_kernel_name(i) != NULL; i++) {
        CHECK(zcws_kernel_use(zcws_kernel_name(i)), "kernel %s", zcws_kernel_name(i));
        printf(" %s", zcws_kernel_in_use());
        fflush(stdout);
        test();
    }
    putchar('\n');
    CHECK(zcws_kernel_use(before), "kernel %s", before);
}

#endif
