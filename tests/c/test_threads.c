/* test_threads.c: the core from several threads at once, with nothing between them but the constant tables.
 *
 * The contract (zcws.h): safe from any number of threads, as long as no two of them pass the same reader or the same
 * output memory. Every thread here has its own of both and does all that a connection does: it builds frames, cuts
 * the stream anywhere, scans it, lands large payloads, checks text. What it gets has to be what it sent; under
 * ThreadSanitizer (`make tsan`) the test is also that nobody touches what another one writes. */
#include "check.h"

#include <pthread.h>

enum {
    THREADS = 4,
    ROUNDS = 400,  /* of BATCH frames in each thread: half a second plain, some seconds under TSan */
    BATCH = 16,    /* frames that are built, and then scanned, in one round */
    LONGEST = 600, /* bytes of a payload: heads of both lengths, every kernel's loop and its tail */
    LARGE = 5000   /* bytes of one that is larger than `fit`, and comes in pieces and by zcws_land */
};

enum { ROWS = 4 * BATCH, ROOM = BATCH * (LONGEST + 14), FIT = 1024 };

/* What one thread owns. */
struct station {
    uint64_t seed;
    uint8_t stream[ROOM];
    uint8_t payloads[BATCH][LONGEST];
    size_t sizes[BATCH];
    uint64_t table[ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * ROWS];
    uint8_t large[LARGE];
    uint8_t frame[LARGE + 14];
};

static struct zcws_reader fresh_reader(void) {
    struct zcws_reader reader = {0};
    reader.max_size = 1 << 20;
    reader.max_fragments = 16;
    reader.fit = FIT;
    reader.masked = 1;
    return reader;
}

/* BATCH text frames behind each other; returns where they end. */
static size_t build(struct station *station) {
    size_t end = 0;
    for (int i = 0; i < BATCH; i++) {
        size_t size = station->sizes[i] = random_below(LONGEST + 1);
        for (size_t j = 0; j < size; j++) station->payloads[i][j] = (uint8_t)('a' + random_64() % 26);
        end += zcws_build_masked(station->stream + end, 0x81, station->payloads[i], size, (uint32_t)random_64());
    }
    return end;
}

/* Scans the stream in two cuts, and compares every row with what was built. */
static void scan(struct station *station, size_t end) {
    struct zcws_reader reader = fresh_reader();
    size_t cut = random_below(end + 1), begin = 0;
    int seen = 0;
    for (int part = 0; part < 2; part++) {
        size_t rows = zcws_scan(&reader, station->stream, begin, part ? end : cut, station->table, ROWS) % ZCWS_NEWS;
        CHECK(station->table[ZCWS_TABLE_STATUS] == ZCWS_MORE, "cut at %zu of %zu", cut, end);
        for (size_t row = 0; row < rows; row++, seen++) {
            const uint64_t *words = station->table + ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * row;
            CHECK(words[0] == (1 | ZCWS_FIRST | ZCWS_LAST), "frame %d", seen);
            CHECK(words[2] - words[1] == station->sizes[seen], "frame %d", seen);
            CHECK(memcmp(station->stream + words[1], station->payloads[seen], station->sizes[seen]) == 0, "frame %d",
                  seen);
        }
        begin = (size_t)station->table[ZCWS_TABLE_NEXT];
    }
    CHECK(seen == BATCH, "%d frames", seen);
}

/* A frame larger than `fit`: its first bytes are scanned, the rest is landed. */
static void land(struct station *station) {
    struct zcws_reader reader = fresh_reader();
    for (size_t i = 0; i < LARGE; i++) station->large[i] = (uint8_t)random_64();
    size_t end = zcws_build_masked(station->frame, 0x82, station->large, LARGE, (uint32_t)random_64());
    size_t head = end - LARGE, cut = head + 1 + random_below(LARGE - 1);
    CHECK(zcws_scan(&reader, station->frame, 0, cut, station->table, ROWS) % ZCWS_NEWS == 1, "cut at %zu", cut);
    CHECK(station->table[ZCWS_TABLE_REMAINING] == end - cut, "cut at %zu", cut);
    CHECK(zcws_land(&reader, station->frame + cut, end - cut) == ZCWS_LAST, "cut at %zu", cut);
    CHECK(memcmp(station->frame + head, station->large, LARGE) == 0, "cut at %zu", cut);
}

/* The functions that work on bytes alone. */
static void bytes(struct station *station) {
    size_t size = random_below(LARGE);
    uint32_t key = (uint32_t)random_64(), state = ZCWS_UTF8_START;
    zcws_mask_copy(station->frame, station->large, size, key, 0);
    zcws_mask(station->frame, size, key, 0);
    CHECK(memcmp(station->frame, station->large, size) == 0, "%zu bytes", size);
    CHECK(zcws_utf8(station->payloads[0], station->sizes[0], &state) == station->sizes[0], "%zu bytes",
          station->sizes[0]);
    CHECK(state == ZCWS_UTF8_START, "state %u", state);
}

static void *work(void *argument) {
    struct station *station = argument;
    random_state = station->seed;
    for (int round = 0; round < ROUNDS; round++) {
        scan(station, build(station));
        land(station);
        bytes(station);
    }
    return NULL;
}

static void test_threads(void) {
    static struct station stations[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        stations[i].seed = random_64();
        CHECK(pthread_create(&threads[i], NULL, work, &stations[i]) == 0, "thread %d", i);
    }
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0, "thread %d", i);
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    each_kernel("threads", test_threads);
    return 0;
}
