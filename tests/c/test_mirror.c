/* test_mirror.c: memory that is mapped twice. Both halves are the same bytes, what lies beside them is somebody
 * else's, and nothing is left behind. */
#include "check.h"

#include <fcntl.h>

enum { PAGES = 16, MINE = 0x5A };

/* A page of ours at `at`, or NULL where the system would not have it there. */
static uint8_t *page_at(uint8_t *at, size_t page) {
    uint8_t *const found = mmap(at, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(found != MAP_FAILED, "mmap of a page");
    if (found == at) return memset(at, MINE, page);
    munmap(found, page);
    return NULL;
}

static void check_page(const uint8_t *at, size_t page) {
    for (size_t i = 0; at != NULL && i < page; i++) CHECK(at[i] == MINE, "byte %zu of a neighbour", i);
}

/* Whether nothing is mapped at `at`: then the system gives it to whoever asks for that place. */
static int is_free(uint8_t *at, size_t page) {
    uint8_t *const found = page_at(at, page);
    if (found != NULL) munmap(found, page);
    return found != NULL;
}

static int next_descriptor(void) {
    const int file = open("/dev/null", O_RDONLY);
    CHECK(file >= 0, "open");
    close(file);
    return file;
}

static void test_halves(uint8_t *base, size_t size) {
    for (size_t i = 0; i < size; i += 1 + random_below(300)) {
        const uint8_t value = (uint8_t)random_64(), other = (uint8_t)(value + 1);
        base[i] = value;
        CHECK(base[size + i] == value, "byte %zu of %zu, written before the seam", i, size);
        base[size + i] = other;
        CHECK(base[i] == other, "byte %zu of %zu, written behind the seam", i, size);
    }
    base[size - 1] = base[2 * size - 1] = 1;
    CHECK(base[size - 1] == 1 && base[2 * size - 1] == 1, "the last byte of each half");
}

/* Between two pages of ours: where there is a hole of just that size, the system takes it. */
static void test_neighbours(size_t size, size_t page) {
    const int before = next_descriptor();
    uint8_t *const all = mmap(NULL, 2 * size + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *base, *first = NULL, *last = NULL;
    CHECK(all != MAP_FAILED, "mmap of %zu bytes", size);
    memset(all, MINE, page);
    memset(all + page + 2 * size, MINE, page);
    munmap(all + page, 2 * size);
    base = zcws_mirror_map(size);
    CHECK(base != NULL, "a mirror of %zu bytes", size);
    CHECK(next_descriptor() == before, "a descriptor is left");
    if (base != all + page) {
        first = page_at(base - page, page);
        last = page_at(base + 2 * size, page);
    }
    test_halves(base, size);
    check_page(all, page);
    check_page(all + page + 2 * size, page);
    zcws_mirror_unmap(size, base);
    check_page(all, page);
    check_page(all + page + 2 * size, page);
    check_page(first, page);
    check_page(last, page);
    CHECK(is_free(base, page) && is_free(base + size, page) && is_free(base + 2 * size - page, page),
          "memory of %zu bytes is left", size);
    munmap(all, page);
    munmap(all + page + 2 * size, page);
    if (first != NULL) munmap(first, page);
    if (last != NULL) munmap(last, page);
}

static void test_refused(size_t page) {
    CHECK(zcws_mirror_map(0) == NULL, "no bytes");
    CHECK(zcws_mirror_map(page + 1) == NULL, "a part of a page");
    CHECK(zcws_mirror_map(SIZE_MAX / 2 / page * page + page) == NULL, "more than half of what can be addressed");
}

int main(int argc, char **argv) {
    const size_t page = zcws_page_size();
    random_start(argc, argv);
    for (size_t pages = 1; pages <= PAGES; pages++) test_neighbours(pages * page, page);
    test_neighbours(256 * page, page);
    test_refused(page);
    return 0;
}
