/* kernel.h: what one kernel is. Internal to csrc/; callers see zcws.h.
 *
 * A kernel is the three inner loops of the core written for one instruction set. Each lives in its own
 * file under arch/ and ends in one `const struct zcws_kernel`. kernel.c holds the table. What depends on
 * the compiler or on the target is decided here, once; no other file outside arch/ asks for either. */
#ifndef ZCWS_KERNEL_H
#define ZCWS_KERNEL_H

#include "zcws.h"

#include <string.h>

struct zcws_kernel {
    const char *name;
    int (*supported)(void);

    /* data[i] ^= key byte i % 4; key is in memory order, already turned to its phase. Touches no byte
     * outside data[0, len). Returns nonzero when any byte is 0x80 or more afterwards (text that
     * needs more than an ASCII check). */
    int (*mask)(uint8_t *data, size_t len, uint32_t key);

    /* The same from src to dst, which do not overlap. */
    void (*mask_copy)(uint8_t *dst, const uint8_t *src, size_t len, uint32_t key);

    /* How many bytes at the start of data[0, len), which begins at a character boundary, are certainly
     * whole valid characters. The answer is itself a character boundary. It may stop short of the end, of a
     * fault, or (in kernels that know ASCII only) of the first byte over 0x7F, by less than one block of the
     * kernel plus a character. The automaton in utf8.c does the rest. */
    size_t (*utf8_prefix)(const uint8_t *data, size_t len);
};

extern const struct zcws_kernel *zcws_kernel; /* the one in use: set at load, or by a test */

/* Unmasks data[0, len) and checks it as UTF-8 in one pass over memory (block by block, so that the check
 * finds the block in the first-level cache). A key of 0 means that there is nothing to unmask.
 * Returns and updates *state like zcws_utf8; what lies behind a bad byte may still be masked. */
size_t zcws_mask_utf8(uint8_t *data, size_t len, uint32_t key, uint32_t *state);

/* The head of a masked frame, as zcws_build_masked begins one: at most 14 bytes. Returns how many. RFC 6455 5.2. */
size_t zcws_put_masked_head(uint8_t *out, uint8_t first, size_t len, uint32_t key);

/* Whether all that a scan of bytes up to `stop` has to tell beside its rows is that a frame has begun behind them, of
 * which the beginning has to stay. */
static inline int zcws_has_begun(const struct zcws_reader *reader, const uint64_t *table, size_t stop) {
    return table[ZCWS_TABLE_STATUS] == ZCWS_MORE && table[ZCWS_TABLE_CONTROLS] == 0 &&
           table[ZCWS_TABLE_NEXT] < stop && (!reader->open || reader->head != 0);
}

/* Turns key by `count` bytes, so that its first byte is the one for the byte after `count` more.
 * A key in memory order turns right in a little-endian word and left in a big-endian one. The compiler
 * knows which of the two this is, so the test costs nothing at run time. */
static inline uint32_t zcws_turn_key(uint32_t key, size_t count) {
    const uint32_t one = 1;
    uint8_t little_endian;
    memcpy(&little_endian, &one, 1);
    const unsigned bits = 8 * (unsigned)(count & 3);
    const unsigned right = little_endian ? bits : (32 - bits) & 31;
    return key >> right | key << ((32 - right) & 31);
}

/* The targets: the kernels that are compiled, best first, and the best of those that every CPU of the target can run.
 * A file under arch/ whose instruction set the target cannot have compiles to nothing but the declarations of this
 * header. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(_MSC_VER)
#define ZCWS_HAVE_SSE2 1
#define ZCWS_HAVE_AVX 1 /* AVX2 and AVX-512: compiled by attribute, chosen at run time */
#define ZCWS_KERNELS &zcws_avx512, &zcws_avx2, &zcws_sse2, &zcws_scalar
#define ZCWS_KERNEL_FLOOR &zcws_sse2
#elif defined(_M_X64)
/* MSVC has neither per-function targets nor __builtin_cpu_supports; AVX2 waits for a machine that can test it. */
#define ZCWS_HAVE_SSE2 1
#define ZCWS_KERNELS &zcws_sse2, &zcws_scalar
#define ZCWS_KERNEL_FLOOR &zcws_sse2
#elif defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define ZCWS_HAVE_NEON 1
#define ZCWS_KERNELS &zcws_neon, &zcws_scalar
#define ZCWS_KERNEL_FLOOR &zcws_neon
#else
#define ZCWS_KERNELS &zcws_scalar
#define ZCWS_KERNEL_FLOOR &zcws_scalar
#endif

extern const struct zcws_kernel zcws_avx512, zcws_avx2, zcws_sse2, zcws_neon, zcws_scalar;

/* The compilers. ZCWS_TARGET("avx2") lets one function use an instruction set that the rest of the
 * binary must not; ZCWS_AT_LOAD runs a function when the library is loaded. Where there is no way to say either,
 * there are no kernels above the floor, so none is missed. */
#if defined(__GNUC__) && !defined(_MSC_VER)
#define ZCWS_TARGET(features) __attribute__((target(features)))
#define ZCWS_INLINE inline __attribute__((always_inline))
#define ZCWS_AT_LOAD __attribute__((constructor))
#else
#define ZCWS_TARGET(features)
#define ZCWS_INLINE inline
#define ZCWS_AT_LOAD
#endif

#if defined(__clang__)
#define ZCWS_COMPILER __VERSION__
#elif defined(__GNUC__)
#define ZCWS_COMPILER "GCC " __VERSION__
#elif defined(_MSC_VER)
#define ZCWS_COMPILER "MSVC"
#else
#define ZCWS_COMPILER "C compiler"
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define ZCWS_TARGET_NAME "x86-64"
#elif defined(__i386__) || defined(_M_IX86)
#define ZCWS_TARGET_NAME "x86"
#elif defined(__aarch64__) || defined(_M_ARM64)
#define ZCWS_TARGET_NAME "aarch64"
#else
#define ZCWS_TARGET_NAME "other"
#endif

#if defined(ZCWS_NATIVE) && ZCWS_NATIVE
#define ZCWS_TUNING "native"
#else
#define ZCWS_TUNING "portable"
#endif

#endif
