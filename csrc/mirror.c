/* mirror.c: the same memory twice, back to back, so that a frame that wraps is still contiguous.
 *
 * Two fixed mappings of one anonymous file are laid over a reservation of twice the size, so that nothing else can
 * be mapped between them. Any step that fails gives NULL, and the ring falls back to a buffer that compacts.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* memfd_create */
#endif

#include "zcws.h"

#if defined(_WIN32)

#include <windows.h>

/* Not the 64 KiB that a mapping would be a multiple of: nothing is mapped here. */
size_t zcws_page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}

/* The placeholder calls that this would need are missing from Windows before 10 1803; the ring compacts there. */
uint8_t *zcws_mirror_map(size_t size) {
    (void)size;
    return NULL;
}

void zcws_mirror_unmap(size_t size, uint8_t *base) {
    (void)size;
    (void)base;
}

#else

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(MAP_ANONYMOUS) && defined(MAP_ANON)
#define MAP_ANONYMOUS MAP_ANON
#endif

size_t zcws_page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

/* A file without a name, or -1. */
static int open_anonymous_file(void) {
#if defined(__linux__)
    return memfd_create("zcws", MFD_CLOEXEC);
#else
    /* macOS has no memfd: a shared memory object that loses its name at once. If two threads choose the same name,
     * O_EXCL makes the second fail, and it falls back: an object is never shared. */
    static const char *const form = "/zcws-%ld-%lx";
    char name[31]; /* PSHMNAMLEN on macOS */
    int file;
    snprintf(name, sizeof name, form, (long)getpid(), (unsigned long)(uintptr_t)&name & 0xffffffUL);
    file = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file >= 0) shm_unlink(name);
    return file;
#endif
}

/* Maps `file` over both halves of the reservation. */
static int map_halves(uint8_t *base, size_t size, int file) {
    for (size_t half = 0; half < 2; half++) {
        void *at = mmap(base + half * size, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
        if (at == MAP_FAILED) return 0;
    }
    return 1;
}

uint8_t *zcws_mirror_map(size_t size) {
    int file;
    void *base;
    if (size == 0 || size % zcws_page_size() != 0 || size > SIZE_MAX / 2) return NULL;
    file = open_anonymous_file();
    if (file < 0) return NULL;
    base = MAP_FAILED;
    if (ftruncate(file, (off_t)size) == 0) base = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base != MAP_FAILED && !map_halves(base, size, file)) {
        munmap(base, 2 * size);
        base = MAP_FAILED;
    }
    close(file); /* the mappings keep the memory */
    if (base == MAP_FAILED) return NULL;
    return base;
}

void zcws_mirror_unmap(size_t size, uint8_t *base) {
    if (base != NULL) munmap(base, 2 * size);
}

#endif
