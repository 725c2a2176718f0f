/* test_turn.c: many sockets in one crossing, into a table and a ring that both end at a protected page.
 *
 * Sockets bring what real ones do: a flood of short frames that fills the table, one frame, half a frame and later the
 * other half, the end of the stream, bytes for somebody that C does not receive for. Whatever comes together in whatever order, all entries
 * lie in the table, and the rows of each socket are those of its own bytes. */
#include "check.h"

#if defined(__linux__)

#include "tcp.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { SOCKETS = 12, DESCRIPTORS = 256, RING = 256 * 1024, TURNS = 3000, SHORT = 7, FLOOD = 8000 };

/* Bytes that the kernel collects at most, and at first: csrc/mark.h. */
enum { MARK_MOST = 16 * 1024, MARK_FIRST = 2 * 1460 };

/* The smallest table that anybody can be served with, and words behind what the entries of all take. */
enum { LEAST = ZCWS_TURN_ENTRIES + (ZCWS_TURN_MOST + 1) * ZCWS_TURN_ENTRY + ZCWS_TABLE_HEAD + 64 * ZCWS_TABLE_ROW };

/* RFC 6455 5.2: a text of one byte, masked with a key of zeros. */
static const uint8_t one[SHORT] = {0x81, 0x81, 0, 0, 0, 0, 'a'};
static uint8_t flood[SHORT * FLOOD];

static struct guarded table_memory, ring, slots;
static struct zcws_reader states[DESCRIPTORS];
static struct zcws_reader *readers[DESCRIPTORS];
static int peers[DESCRIPTORS];    /* the other end of each socket; -1: there is none; -2: it has hung up */
static size_t begun[DESCRIPTORS]; /* bytes that it has said of a frame of which it has not said the rest */

static void send_all(int fd, const uint8_t *data, size_t len) {
    CHECK(send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len, "%zu bytes do not fit a socket", len);
}

static void start_reader(int fd) {
    memset(&states[fd], 0, sizeof states[fd]);
    states[fd].max_size = 1 << 24;
    states[fd].max_fragments = 65536;
    states[fd].fit = RING;
    states[fd].masked = 1;
    readers[fd] = &states[fd];
}

/* Returns the descriptor that is to be served. */
static int open_one(int epoll) {
    int ends[2], size = 1 << 20;
    struct epoll_event event = {.events = EPOLLIN};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) == 0, "no sockets");
    CHECK(ends[0] < DESCRIPTORS && ends[1] < DESCRIPTORS, "descriptor %d", ends[1]);
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    event.data.fd = ends[0];
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0, "epoll");
    peers[ends[0]] = ends[1];
    begun[ends[0]] = 0;
    readers[ends[0]] = NULL;
    if (random_below(4) != 0) start_reader(ends[0]);
    return ends[0];
}

/* Whom one call serves: a table of so many words, and the whole ring. */
static struct zcws_sockets start_sockets(size_t words) {
    struct zcws_sockets sockets = {.epoll = epoll_create1(0), .only = -1, .count = DESCRIPTORS, .capacity = RING};
    CHECK(sockets.epoll >= 0, "no epoll");
    sockets.readers = readers;
    sockets.words = words;
    sockets.table = (uint64_t *)(void *)table_memory.end - words;
    sockets.base = ring.end - RING;
    sockets.slots = slots.start;
    sockets.frees = ZCWS_SLOTS;
    for (uint32_t i = 0; i < ZCWS_SLOTS; i++) sockets.free[i] = i;
    return sockets;
}

static void close_one(struct zcws_sockets *sockets, int fd) {
    if (readers[fd] != NULL && readers[fd]->kept != 0)
        CHECK(zcws_take_kept(sockets, readers[fd])[0] == one[0] && readers[fd]->kept == 0, "another frame");
    if (peers[fd] >= 0) close(peers[fd]);
    close(fd);
    peers[fd] = -1;
    begun[fd] = 0;
    readers[fd] = NULL;
}

/* Says `len` bytes of a flood. Returns how many of the last frame those are, if not all. */
static size_t say(int fd, size_t len) {
    send_all(peers[fd], flood, len);
    return len % SHORT;
}

/* Everybody's peer says something, or nothing. */
static void speak(void) {
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (peers[fd] < 0) continue;
        switch (random_below(6)) {
        case 0:
            if (begun[fd] == 0) begun[fd] = say(fd, 1 + random_below(SHORT * FLOOD - 1));
            break;
        case 1: /* what is left of one */
            send_all(peers[fd], one + begun[fd], SHORT - begun[fd]);
            begun[fd] = 0;
            break;
        case 2:
            if (begun[fd] == 0) begun[fd] = say(fd, 1 + random_below(SHORT - 1));
            break;
        case 3:
            close(peers[fd]);
            peers[fd] = -2;
            break;
        default: break;
        }
    }
}

static void check_row(const uint8_t *base, const uint64_t *row, uint64_t begin, uint64_t stop) {
    CHECK((row[0] & 0x0F) == 1, "what %llu", (unsigned long long)row[0]);
    CHECK(begin < row[1] && row[1] + 1 == row[2] && row[2] <= stop, "a row outside of its bytes");
    CHECK(base[row[1]] == 'a', "another payload");
}

/* Plain, and a message by itself. */
static int is_whole(uint64_t what) {
    return (what & (ZCWS_FIRST | ZCWS_LAST | ZCWS_COMPRESSED)) == (ZCWS_FIRST | ZCWS_LAST);
}

/* Looks at what one call has found. Sockets of which not all could be told, or that have ended, are closed. */
static void check_found(struct zcws_sockets *sockets, size_t found) {
    const uint64_t *table = sockets->table;
    const size_t ones = found % ZCWS_TURN_OTHERS, words = sockets->used;
    int seen[DESCRIPTORS] = {0};
    CHECK(ones <= ZCWS_TURN_MOST && ZCWS_TURN_ENTRIES + words <= sockets->words, "%zu and %zu", ones, words);
    CHECK(found < 256 && (words != 0) == (found >= ZCWS_TURN_OTHERS), "%zu with %zu words", found, words);
    for (size_t i = 0; i < ones; i++) {
        const uint64_t *entry = table + ZCWS_TURN_ONE * i;
        const uint64_t row[3] = {entry[1], entry[3], entry[4]};
        CHECK(seen[entry[0]]++ == 0, "a socket twice");
        CHECK(is_whole(entry[1]), "what %llu", (unsigned long long)entry[1]);
        check_row(sockets->base, row, entry[2], sockets->capacity);
    }
    for (size_t at = 0; at < words;) {
        const uint64_t *entry = table + ZCWS_TURN_ENTRIES + at;
        const size_t count = (size_t)entry[ZCWS_TURN_COUNT];
        const int fd = (int)entry[ZCWS_TURN_FD];
        CHECK(seen[fd]++ == 0, "a socket twice");
        if (count >= ZCWS_TURN_SERVE) {
            at += ZCWS_TURN_ENTRY;
            if (entry[ZCWS_TURN_STOP] & EPOLLIN && readers[fd] == NULL) {
                uint8_t rest[4096];
                while (recv(fd, rest, sizeof rest, MSG_DONTWAIT) > 0) continue;
            }
            if (peers[fd] == -2) close_one(sockets, fd);
        } else {
            CHECK(count % ZCWS_NEWS <= 1024, "%zu rows for one of several", count % ZCWS_NEWS);
            const uint64_t *rows = entry + ZCWS_TURN_ENTRY + ZCWS_TABLE_HEAD;
            CHECK(count != 1 || !is_whole(rows[0]), "one whole frame has a short entry");
            for (size_t i = 0; i < count % ZCWS_NEWS; i++)
                check_row(sockets->base, rows + ZCWS_TABLE_ROW * i, entry[ZCWS_TURN_BEGIN], entry[ZCWS_TURN_STOP]);
            at += ZCWS_TURN_ENTRY + ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * (count % ZCWS_NEWS);
            if (count >= ZCWS_NEWS) close_one(sockets, fd);
        }
        CHECK(entry[ZCWS_TURN_END] == at, "the next entry is at %zu", at);
    }
    CHECK(0 <= sockets->left && sockets->left < ZCWS_TURN_MOST, "too many");
}

static void test_turns(void) {
    enum { FREES = 3 };
    struct zcws_sockets sockets = start_sockets(LEAST);
    sockets.frees = FREES; /* not enough for all */
    for (int turn = 0; turn < TURNS; turn++) {
        size_t open = 0;
        for (int fd = 0; fd < DESCRIPTORS; fd++) open += peers[fd] >= 0 || peers[fd] == -2;
        while (open++ < SOCKETS) open_one(sockets.epoll);
        speak();
        sockets.words = LEAST + (random_below(2) != 0 ? random_below(1000) : random_below(15000));
        sockets.table = (uint64_t *)(void *)table_memory.end - sockets.words;
        check_found(&sockets, zcws_turn(&sockets));
    }
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (peers[fd] != -1) close_one(&sockets, fd);
    CHECK(sockets.frees == FREES, "%u slots are free", sockets.frees);
    close(sockets.epoll);
}

/* A frame of `len` bytes, head included, as it is sent (`data`) and as it lies in the ring when it has been scanned
 * (`plain`). Returns the bytes of its head. */
static size_t make_frame(uint8_t *data, uint8_t *plain, size_t len) {
    static const uint8_t key[4] = {0x80, 0x01, 0x7E, 0xFF};
    const size_t head = len < 65536 ? 8 : 14, payload = len - head;
    plain[0] = 0x82;
    plain[1] = head == 8 ? 0xFE : 0xFF;
    for (size_t i = 2; i < head - 4; i++) plain[i] = (uint8_t)((uint64_t)payload >> 8 * (head - 5 - i));
    memcpy(plain + head - 4, key, 4);
    memcpy(data, plain, head);
    for (size_t i = 0; i < payload; i++) {
        plain[head + i] = (uint8_t)(i * 7);
        data[head + i] = plain[head + i] ^ key[i % 4];
    }
    return head;
}

/* A socket that C receives for. */
static int open_served(int epoll) {
    const int fd = open_one(epoll);
    start_reader(fd);
    return fd;
}

/* A frame that comes in parts, cut anywhere, alone and behind others: one that is moved with each part; the largest of
 * which a part is kept; and one that is larger. */
static void test_what_is_kept(void) {
    static const uint8_t two[2 * SHORT] = {0x01, 0x81, 0, 0, 0, 0, 'a', 0x80, 0x81, 0, 0, 0, 0, 'a'}; /* fragments */
    static const size_t lens[3] = {3000, ZCWS_KEPT_MOST, ZCWS_KEPT_MOST + 1};
    static uint8_t data[sizeof two + ZCWS_KEPT_MOST + 1 + SHORT], plain[ZCWS_KEPT_MOST + 1];
    struct zcws_sockets sockets = start_sockets(LEAST + 15000);
    const uint64_t *entry = sockets.table, *other = entry + ZCWS_TURN_ENTRIES;
    for (int kind = 0; kind < 3; kind++) {
        for (size_t first = 0; first < 3; first++) { /* what comes before it */
            const size_t before = first * SHORT, len = lens[kind], head = make_frame(data + before, plain, len);
            memcpy(data, first == 2 ? two : one, before);
            memcpy(data + before + len, one, SHORT);
            for (size_t cut = 1; cut < len; cut += cut < 16 || cut + 16 > len ? 1 : 1 + random_below(len / 20)) {
                const size_t keeps = kind == 2 && cut >= head ? 0 : cut;
                const int fd = open_served(sockets.epoll);
                size_t found;
                send_all(peers[fd], data, before + cut);
                found = zcws_turn(&sockets);
                CHECK(states[fd].kept == keeps, "%u kept of %zu", states[fd].kept, cut);
                CHECK(sockets.frees == ZCWS_SLOTS - (keeps != 0), "%u slots are free", sockets.frees);
                CHECK(keeps == 0 || found == (first == 2 ? ZCWS_TURN_OTHERS : first), "%zu found", found);
                /* Fragments have been moved together: their payload stops before that. */
                CHECK(first < 2 || other[ZCWS_TURN_STOP] == before + cut - keeps, "%zu",
                      (size_t)other[ZCWS_TURN_STOP]);
                CHECK(memcmp(sockets.base + before, plain, cut) == 0, "it lies behind the row");
                if (keeps != 0 && (cut & 1)) {
                    CHECK(memcmp(zcws_take_kept(&sockets, &states[fd]), plain, cut) == 0, "something else");
                } else if (keeps != 0) {
                    const size_t then = cut + random_below(len - cut), behind = cut & 2 ? SHORT : 0;
                    memset(sockets.base, 0xA5, RING);
                    send_all(peers[fd], data + before + cut, then - cut);
                    found = zcws_turn(&sockets); /* a part, or nothing */
                    CHECK(kind == 2 ? found == (then >= head && then != cut ? ZCWS_TURN_OTHERS : 0) : found == 0,
                          "%zu found", found);
                    if (found == 0 && kind != 2) {
                        CHECK(states[fd].kept == then, "%u kept of %zu", states[fd].kept, then);
                        send_all(peers[fd], data + before + then, len - then + behind);
                        found = zcws_turn(&sockets);
                        CHECK(found == (behind != 0 ? ZCWS_TURN_OTHERS : 1), "%zu found", found);
                        CHECK(behind != 0 || (entry[2] == 0 && entry[3] == head && entry[4] == len), "another row");
                        CHECK(behind == 0 || (other[ZCWS_TURN_STOP] == len + SHORT && other[ZCWS_TURN_COUNT] == 2),
                              "%zu rows", (size_t)other[ZCWS_TURN_COUNT]);
                        CHECK(memcmp(sockets.base, plain, len) == 0, "another frame");
                        CHECK(memcmp(sockets.base + len, one, behind) == 0, "something else behind it");
                    }
                }
                if (states[fd].kept != 0) zcws_take_kept(&sockets, &states[fd]);
                CHECK(sockets.frees == ZCWS_SLOTS, "%u slots are free", sockets.frees);
                close_one(&sockets, fd);
            }
        }
    }
    close(sockets.epoll);
}

/* A byte that cannot be right is told when it comes, not when its frame is whole. */
static void test_a_bad_byte_in_what_is_kept(void) {
    enum { LEN = 9000, BAD = 5000 };
    struct zcws_sockets sockets = start_sockets(LEAST);
    static uint8_t data[LEN] = {0x81, 0xFE, (LEN - 8) >> 8, (LEN - 8) & 0xFF};
    data[BAD] = 0xFF;
    const int fd = open_served(sockets.epoll);
    const uint64_t *entry = sockets.table + ZCWS_TURN_ENTRIES, *table = entry + ZCWS_TURN_ENTRY;
    for (size_t at = 0; at < BAD; at += 1000) {
        CHECK(states[fd].kept == at, "%u kept", states[fd].kept);
        send_all(peers[fd], data + at, 1000);
        CHECK(zcws_turn(&sockets) == 0, "it is told of a part");
    }
    send_all(peers[fd], data + BAD, 1000);
    CHECK(zcws_turn(&sockets) == ZCWS_TURN_OTHERS, "it is told of nothing");
    CHECK(entry[ZCWS_TURN_STOP] == BAD + 1000 && entry[ZCWS_TURN_COUNT] == ZCWS_NEWS, "something else");
    CHECK(table[ZCWS_TABLE_STATUS] == (uint64_t)-ZCWS_BAD_UTF8, "%d", (int)table[ZCWS_TABLE_STATUS]);
    CHECK(sockets.frees == ZCWS_SLOTS, "%u slots are free", sockets.frees);
    close_one(&sockets, fd);
    close(sockets.epoll);
}

/* A frame of which the beginning is kept when its reader begins to take pieces (`fit`): what comes then is handed out
 * once, with that beginning, and so is the rest. */
static void test_pieces_of_what_is_kept(void) {
    enum { LEN = 9000, KEPT = 5000, PART = 7000 };
    static uint8_t data[LEN], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const uint64_t *entry = sockets.table + ZCWS_TURN_ENTRIES, *table = entry + ZCWS_TURN_ENTRY;
    const uint64_t *row = table + ZCWS_TABLE_HEAD;
    const size_t head = make_frame(data, plain, LEN);
    for (size_t stop = PART; stop <= LEN; stop += LEN - PART) {
        const int fd = open_served(sockets.epoll), is_whole = stop == LEN;
        send_all(peers[fd], data, KEPT);
        CHECK(zcws_turn(&sockets) == 0 && states[fd].kept == KEPT, "%u kept", states[fd].kept);
        states[fd].fit = 0;
        send_all(peers[fd], data + KEPT, stop - KEPT);
        CHECK(zcws_turn(&sockets) == (is_whole ? 1 : ZCWS_TURN_OTHERS), "it is told of nothing");
        CHECK(memcmp(sockets.base, plain, stop) == 0, "other bytes");
        if (is_whole) {
            CHECK(sockets.table[3] == head && sockets.table[4] == LEN, "another row");
        } else {
            CHECK(entry[ZCWS_TURN_COUNT] == ZCWS_NEWS + 1 && row[1] == head && row[2] == PART, "another row");
            CHECK(table[ZCWS_TABLE_REMAINING] == LEN - PART, "%zu remain", (size_t)table[ZCWS_TABLE_REMAINING]);
        }
        CHECK(states[fd].bytes == stop && sockets.frees == ZCWS_SLOTS, "%u slots are free", sockets.frees);
        close_one(&sockets, fd);
    }
    close(sockets.epoll);
}

/* A socket of TCP that C receives for, of a peer that is known to bring much at a time. */
static int open_remote(int epoll) {
    struct epoll_event event = {.events = EPOLLIN};
    int ends[2];
    open_tcp(ends);
    CHECK(ends[0] < DESCRIPTORS && ends[1] < DESCRIPTORS, "descriptor %d", ends[1]);
    event.data.fd = ends[0];
    CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0, "epoll");
    peers[ends[0]] = ends[1];
    start_reader(ends[0]);
    states[ends[0]].mark.most = MARK_MOST;
    return ends[0];
}

/* Who sends `len` bytes has us receive them. */
static size_t bring(struct zcws_sockets *sockets, int fd, const uint8_t *data, size_t len) {
    send_all(peers[fd], data, len);
    CHECK(is_ready(fd, 5000), "%zu bytes do not come", len);
    return zcws_turn(sockets);
}

static void close_remote(struct zcws_sockets *sockets, int fd) {
    if (states[fd].kept != 0) zcws_take_kept(sockets, &states[fd]);
    zcws_unmark(sockets, fd, &states[fd], 0);
    CHECK(sockets->marks == 0 && mark_of(fd) == 1, "%u marks", sockets->marks);
    close_one(sockets, fd);
}

/* Of a large frame the kernel collects packets, but for the last two; and whatever comes behind it wakes us. */
static void test_a_mark(void) {
    enum { LEN = 40000, LITTLE = 1000 };
    static uint8_t data[LEN + SHORT], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const int fd = open_remote(sockets.epoll);
    size_t at = LITTLE;
    make_frame(data, plain, LEN);
    memcpy(data + LEN, one, SHORT);
    CHECK(mark_of(fd) == 1, "%d", mark_of(fd));
    CHECK(bring(&sockets, fd, data, LITTLE) == 0 && mark_of(fd) == MARK_MOST, "%d", mark_of(fd));
    CHECK(sockets.marks == 1, "%u marks", sockets.marks);
    send_all(peers[fd], data + at, MARK_MOST - 1);
    CHECK(!is_ready(fd, 20), "it is ready");
    at += MARK_MOST - 1;
    CHECK(bring(&sockets, fd, data + at, 1) == 0 && states[fd].kept == LITTLE + MARK_MOST, "%u kept",
          states[fd].kept);
    at += 1;
    CHECK(mark_of(fd) == MARK_MOST, "%d", mark_of(fd));
    CHECK(bring(&sockets, fd, data + at, MARK_MOST) == 0 && states[fd].kept == LITTLE + 2 * MARK_MOST, "%u",
          states[fd].kept);
    at += MARK_MOST;
    CHECK(mark_of(fd) == (int)(LEN - at) - MARK_FIRST, "%d, and %zu are to come", mark_of(fd), LEN - at);
    CHECK(bring(&sockets, fd, data + at, LEN - at - 1) == 0 && mark_of(fd) == 1, "%d", mark_of(fd));
    CHECK(sockets.marks == 0, "%u marks", sockets.marks);
    CHECK(bring(&sockets, fd, data + LEN - 1, 1) == 1 && mark_of(fd) == 1, "%d", mark_of(fd));
    CHECK(memcmp(sockets.base, plain, LEN) == 0, "another frame");
    CHECK(bring(&sockets, fd, one, 1) == 0 && mark_of(fd) == 1 && states[fd].kept == 1, "a byte");
    CHECK(bring(&sockets, fd, one + 1, SHORT - 1) == 1 && mark_of(fd) == 1, "%d", mark_of(fd));
    close_remote(&sockets, fd);
    close(sockets.epoll);
}

/* There is none where a little is to come, where much comes at a time or very little, where pieces are wanted, or behind
 * a fault; and a peer that goes wakes us. */
static void test_no_mark(void) {
    enum { LEN = 40000, HOW = 7 };
    static uint8_t data[LEN], plain[LEN];
    static const size_t lens[HOW] = {MARK_MOST + 1, LEN - 4419, 499, 9000, 9000, 9000, 9000};
    struct zcws_sockets sockets = start_sockets(LEAST);
    make_frame(data, plain, LEN);
    for (int how = 0; how < HOW; how++) {
        const int is_marked = how >= HOW - 2, fd = open_remote(sockets.epoll);
        if (how < 2) setsockopt(peers[fd], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int));
        if (how == 3) states[fd].fit = 0;
        if (how == 4) states[fd].max_size = LEN / 2;
        bring(&sockets, fd, data, lens[how]);
        CHECK(mark_of(fd) == (is_marked ? MARK_MOST : 1), "%d at %d", mark_of(fd), how);
        CHECK((int)sockets.marks == is_marked, "%u at %d", sockets.marks, how);
        if (how == HOW - 2) {
            send_all(peers[fd], data + lens[how], 1);
            CHECK(!is_ready(fd, 20), "it is ready for a byte");
            zcws_unmark(&sockets, fd, &states[fd], 0);
            CHECK(is_ready(fd, 5000) && mark_of(fd) == 1, "it is not ready");
        } else if (how == HOW - 1) {
            close(peers[fd]);
            peers[fd] = -2;
            CHECK(is_ready(fd, 5000) && zcws_turn(&sockets) == ZCWS_TURN_OTHERS, "it hears of no end");
        }
        close_remote(&sockets, fd);
    }
    close(sockets.epoll);
}

/* A mark is for two packets at first, and for twice as much each time that it is reached. One that is not reached soon
 * is taken away, what lies below it is received, and there is none for some time: twice as long the next time. */
static void test_what_is_learnt_of_marks(void) {
    enum { LEN = 60000, PART = 1000 };
    static const int doubled[] = {MARK_FIRST, 2 * MARK_FIRST, 4 * MARK_FIRST, MARK_MOST};
    static uint8_t data[LEN], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const int fd = open_remote(sockets.epoll);
    struct zcws_reader *reader = &states[fd];
    size_t at = PART, rest = 15;
    make_frame(data, plain, LEN);
    reader->mark.most = MARK_FIRST;
    bring(&sockets, fd, data, PART);
    for (size_t i = 0; i < 4; i++) {
        CHECK(mark_of(fd) == doubled[i], "%d and not %d", mark_of(fd), doubled[i]);
        if (i < 3) bring(&sockets, fd, data + at, (size_t)doubled[i]);
        at += i < 3 ? (size_t)doubled[i] : 0;
    }
    for (int round = 0; round < 2; round++, rest = 2 * rest + 15) {
        send_all(peers[fd], data + at, 100);
        at += 100;
        CHECK(zcws_late(&sockets) == 0, "too early");
        CHECK(mark_of(fd) > 1 && sockets.marks == 1 && sockets.left == 0, "too early");
        CHECK(zcws_late(&sockets) == 1, "it is not late");
        CHECK(mark_of(fd) == 1 && sockets.marks == 0 && sockets.left == 1, "it is not late");
        CHECK(zcws_turn(&sockets) == 0 && reader->kept == at && sockets.left == 0, "%u of %zu", reader->kept, at);
        for (size_t i = 1; i < rest; i++) {
            bring(&sockets, fd, data + at, 600);
            at += 600;
            CHECK(mark_of(fd) == 1, "%zu of %zu", i, rest);
            if (at < LEN - 10000) continue;
            bring(&sockets, fd, data + at, LEN - at); /* the next frame */
            bring(&sockets, fd, data, at = 400);
            i++;
        }
        bring(&sockets, fd, data + at, 600);
        at += 600;
        CHECK(mark_of(fd) == MARK_FIRST, "%d behind %zu", mark_of(fd), rest);
    }
    close_remote(&sockets, fd);
    close(sockets.epoll);
}

/* A new connection has none before it has brought some parts. */
static void test_the_first_mark(void) {
    enum { LEN = 60000, PART = 600, EARLY = 128 };
    static uint8_t data[LEN], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const int fd = open_remote(sockets.epoll);
    size_t at = 0;
    make_frame(data, plain, LEN);
    states[fd].mark.most = 0;
    for (int i = 0; i <= EARLY; i++, at += PART) {
        if (at > LEN - 10000) {
            bring(&sockets, fd, data + at, LEN - at); /* the next frame */
            at = 0;
        }
        bring(&sockets, fd, data + at, PART);
        CHECK(mark_of(fd) == (i < EARLY ? 1 : MARK_FIRST), "%d at %d", mark_of(fd), i);
    }
    close_remote(&sockets, fd);
    close(sockets.epoll);
}

/* So many marks are known that one more is not set. */
static void test_more_marks_than_there_is_room_for(void) {
    enum { LEN = 40000, MANY = ZCWS_MARKED_MOST + 1 };
    static uint8_t data[LEN], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST + 15000);
    int fds[MANY];
    make_frame(data, plain, LEN);
    for (int i = 0; i < MANY; i++) {
        fds[i] = open_remote(sockets.epoll);
        bring(&sockets, fds[i], data, 1000);
        CHECK(mark_of(fds[i]) == (i < MANY - 1 ? MARK_MOST : 1), "%d at %d", mark_of(fds[i]), i);
    }
    zcws_late(&sockets);
    bring(&sockets, fds[3], data + 1000, MARK_MOST);
    zcws_late(&sockets);
    CHECK(sockets.marks == 1 && sockets.left == MANY - 2 && mark_of(fds[3]) == MARK_MOST, "%u", sockets.marks);
    zcws_late(&sockets);
    CHECK(sockets.marks == 0 && sockets.left == MANY - 1, "%u marks", sockets.marks);
    sockets.left = 0;
    for (int i = 0; i < MANY; i++) {
        if (states[fds[i]].kept != 0) zcws_take_kept(&sockets, &states[fds[i]]);
        close_one(&sockets, fds[i]);
    }
    close(sockets.epoll);
}

/* The only socket is served without being asked for: nobody takes it from those that were left. */
static void test_the_marks_of_an_only_socket(void) {
    enum { LEN = 60000 };
    static uint8_t data[LEN], plain[LEN];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const int fd = open_remote(sockets.epoll);
    struct zcws_reader *reader = &states[fd];
    make_frame(data, plain, LEN);
    sockets.only = fd;
    for (int i = 0; i < 2 * ZCWS_TURN_MOST; i++) {
        reader->mark.resting = reader->mark.rest = 0;
        reader->mark.most = MARK_FIRST;
        bring(&sockets, fd, data + 600 * (i % 50), 600);
        CHECK(mark_of(fd) == MARK_FIRST, "%d at %d", mark_of(fd), i);
        zcws_late(&sockets);
        CHECK(zcws_late(&sockets) == 1 && mark_of(fd) == 1, "mark %d at %d", mark_of(fd), i);
        if (i % 50 < 49) continue;
        bring(&sockets, fd, data + 600 * 50, LEN - 600 * 50);
    }
    close_remote(&sockets, fd);
    close(sockets.epoll);
}

/* Whoever receives by himself says how much he may have received already, and whether it lands: so much less is sure. */
static void test_a_mark_that_others_receive_for(void) {
    enum { LEN = 60000, HEAD = 8, AHEAD = 16 * 1024 };
    static uint8_t data[LEN], plain[LEN];
    static const size_t stops[] = {1000, LEN - AHEAD - MARK_FIRST - 2000, LEN - AHEAD - MARK_FIRST - 1499, LEN};
    static const int marks[] = {MARK_MOST, 2000, 1, 1};
    uint64_t table[ZCWS_TABLE_HEAD + 2 * ZCWS_TABLE_ROW];
    struct zcws_sockets sockets = start_sockets(LEAST);
    const int fd = open_remote(sockets.epoll);
    for (int lands = 0; lands < 2; lands++) {
        struct zcws_reader *reader = &states[fd];
        start_reader(fd);
        reader->mark.most = MARK_MOST;
        make_frame(data, plain, LEN);
        if (lands) reader->fit = HEAD;
        for (size_t i = 0, begin = 0; i < sizeof stops / sizeof *stops; i++) {
            zcws_scan(reader, data, begin, stops[i], table, 2);
            if (lands) begin = stops[i];
            zcws_mark(lands ? &sockets : NULL, fd, reader, 1000, AHEAD, lands);
            CHECK(mark_of(fd) == marks[i], "%d at %zu", mark_of(fd), stops[i]);
            CHECK(sockets.marks == (lands && marks[i] > 1), "%u marks", sockets.marks);
        }
        CHECK(memcmp(data, plain, LEN) == 0, "another frame");
        zcws_mark(&sockets, -1, reader, 1000, 0, 0);
        zcws_mark(&sockets, fd, reader, 1000, 0, 0);
        zcws_unmark(&sockets, fd, NULL, 0);
        CHECK(sockets.marks == 0, "it is known");
        zcws_unmark(NULL, fd, reader, 1);
        CHECK(sockets.marks == 0 && reader->mark.resting == 15, "%u", reader->mark.resting);
    }
    close_remote(&sockets, fd);
    close(sockets.epoll);
}

/* So many who have half of a large frame each that not all of them find room in one turn. */
static void test_many_who_are_kept(void) {
    enum { MANY = 12 };
    static uint8_t data[ZCWS_KEPT_MOST + SHORT], plain[ZCWS_KEPT_MOST];
    struct zcws_sockets sockets = start_sockets(LEAST);
    int fds[MANY], told = 0;
    make_frame(data, plain, ZCWS_KEPT_MOST);
    memcpy(data + ZCWS_KEPT_MOST, one, SHORT);
    for (int i = 0; i < MANY; i++) fds[i] = open_served(sockets.epoll);
    for (int i = 0; i < MANY; i++) {
        send_all(peers[fds[i]], data, 10000 + (size_t)i);
        CHECK(zcws_turn(&sockets) == 0, "it is told of a part");
    }
    for (int i = 0; i < MANY; i++) send_all(peers[fds[i]], data + 10000 + i, sizeof data - 10000 - (size_t)i);
    for (int turn = 0; turn < MANY && told < MANY; turn++) {
        const size_t found = zcws_turn(&sockets);
        CHECK(found == ZCWS_TURN_OTHERS, "%zu found", found);
        for (size_t at = 0; at < sockets.used;) {
            const uint64_t *entry = sockets.table + ZCWS_TURN_ENTRIES + at;
            const size_t begin = (size_t)entry[ZCWS_TURN_BEGIN];
            CHECK(entry[ZCWS_TURN_COUNT] == 2, "%zu rows", (size_t)entry[ZCWS_TURN_COUNT]);
            CHECK(memcmp(sockets.base + begin, plain, sizeof plain) == 0, "another frame");
            told++;
            at = (size_t)entry[ZCWS_TURN_END];
        }
    }
    CHECK(told == MANY && sockets.frees == ZCWS_SLOTS, "%d were told of", told);
    for (int i = 0; i < MANY; i++) close_one(&sockets, fds[i]);
    close(sockets.epoll);
}

/* A table that is full to its last row, and behind it so many as one call serves that C does not receive for; or one, and
 * one more who pours. */
static void test_a_table_that_is_full(void) {
    struct zcws_sockets sockets = start_sockets(LEAST);
    for (size_t words = LEAST; words < LEAST + 3 * ZCWS_TABLE_ROW; words++) {
        for (int many = 3; many <= ZCWS_TURN_MOST; many += ZCWS_TURN_MOST - 3) {
            int nth = 0;
            for (int i = 0; i < many; i++) open_one(sockets.epoll);
            for (int fd = 0; fd < DESCRIPTORS; fd++) {
                if (peers[fd] < 0) continue;
                readers[fd] = NULL;
                if (nth == 0 || (nth == 2 && many == 3)) start_reader(fd);
                nth++;
                send_all(peers[fd], flood, SHORT * 4000); /* they are ready in this order */
            }
            sockets.words = words;
            sockets.table = (uint64_t *)(void *)table_memory.end - words;
            check_found(&sockets, zcws_turn(&sockets));
            for (int fd = 0; fd < DESCRIPTORS; fd++)
                if (peers[fd] != -1) close_one(&sockets, fd);
            sockets.left = 0;
        }
    }
    close(sockets.epoll);
}

/* More who always have something to say than there is room for: nobody is served twice before everybody has been. */
static void test_who_is_left_comes_first(void) {
    enum { MANY = 20, ROUNDS = 10 };
    struct zcws_sockets sockets = start_sockets(LEAST + 15000);
    size_t served[DESCRIPTORS] = {0}, turns = 0;
    for (int i = 0; i < MANY; i++) open_one(sockets.epoll);
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (peers[fd] < 0) continue;
        start_reader(fd);
        send_all(peers[fd], flood, SHORT * 2000);
    }
    for (size_t round = 1; round <= ROUNDS; turns++) {
        size_t done = 0;
        size_t words = zcws_turn(&sockets) == ZCWS_TURN_OTHERS ? sockets.used : 0;
        CHECK(words > 0, "nobody");
        for (size_t at = 0; at < words; at = (size_t)sockets.table[ZCWS_TURN_ENTRIES + at + ZCWS_TURN_END]) {
            const int fd = (int)sockets.table[ZCWS_TURN_ENTRIES + at + ZCWS_TURN_FD];
            served[fd]++;
            send_all(peers[fd], flood, SHORT * 2000);
        }
        for (int fd = 0; fd < DESCRIPTORS; fd++) done += served[fd] >= round;
        CHECK(turns < MANY * ROUNDS, "%zu of %d served in round %zu", done, MANY, round);
        if (done == MANY) round++;
    }
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (peers[fd] >= 0) close_one(&sockets, fd);
    close(sockets.epoll);
}

/* Two who bring more than the ring takes: nothing is written behind it. */
static void test_a_ring_that_is_full(void) {
    static const uint8_t begun[90000] = {0x82, 0xFF, 0, 0, 0, 0, 0, 1, 0x86, 0xA0}; /* a frame of 100,000 bytes */
    size_t len = 60000;
    struct zcws_sockets sockets = start_sockets(LEAST + 15000);
    sockets.capacity = RING / 2;
    sockets.base = ring.start;
    for (int i = 0; i < 2; i++) open_one(sockets.epoll);
    for (int fd = 0; fd < DESCRIPTORS; fd++) {
        if (peers[fd] < 0) continue;
        start_reader(fd);
        send_all(peers[fd], begun, len);
        len = sizeof begun; /* more than there is room for behind the first */
    }
    memset(ring.start, 0x5A, RING);
    check_found(&sockets, zcws_turn(&sockets));
    for (const uint8_t *behind = ring.start + RING / 2; behind < ring.end; behind++)
        CHECK(*behind == 0x5A, "written");
    for (int fd = 0; fd < DESCRIPTORS; fd++)
        if (peers[fd] != -1) close_one(&sockets, fd);
    close(sockets.epoll);
}

/* A socket that is tried without asking epoll: nothing, a frame, the end, and what cannot be received. */
static void test_one_that_is_tried(void) {
    struct zcws_sockets sockets = start_sockets(LEAST);
    const size_t an_entry = ZCWS_TURN_OTHERS;
    const uint64_t *entry = sockets.table + ZCWS_TURN_ENTRIES;
    for (int is_lost = 0; is_lost < 2; is_lost++) {
        int fd = 0;
        open_one(sockets.epoll);
        while (peers[fd] < 0) fd++;
        readers[fd] = NULL;
        sockets.only = fd;
        send_all(peers[fd], one, SHORT);
        CHECK(zcws_turn(&sockets) == an_entry && entry[ZCWS_TURN_COUNT] == ZCWS_TURN_SERVE, "for somebody else");
        CHECK(sockets.used == ZCWS_TURN_ENTRY, "%zu words", sockets.used);
        start_reader(fd);
        sockets.count = (size_t)fd; /* nor for one that the table of readers does not reach */
        CHECK(zcws_turn(&sockets) == an_entry && entry[ZCWS_TURN_COUNT] == ZCWS_TURN_SERVE, "for somebody else");
        sockets.count = DESCRIPTORS;
        CHECK(zcws_turn(&sockets) == 1 && sockets.table[0] == (uint64_t)fd, "a frame");
        check_row(sockets.base, (uint64_t[]){sockets.table[1], sockets.table[3], sockets.table[4]}, 0, SHORT);
        CHECK(zcws_turn(&sockets) == 0 && sockets.used == 0, "nothing has come");
        sockets.only = -1; /* one that was left, and that somebody has read from since */
        sockets.waiting[0] = fd;
        sockets.left = 1;
        CHECK(zcws_turn(&sockets) == 0 && sockets.left == 0, "nothing is there");
        sockets.only = fd;
        if (is_lost) send_all(fd, one, SHORT); /* what is not read when it hangs up */
        close(peers[fd]);
        peers[fd] = -2;
        CHECK(zcws_turn(&sockets) == an_entry && entry[ZCWS_TURN_FD] == (uint64_t)fd, "its end");
        CHECK(entry[ZCWS_TURN_COUNT] == (is_lost ? ZCWS_TURN_FAILED : ZCWS_TURN_SERVE), "lost: %d", is_lost);
        CHECK(entry[ZCWS_TURN_STOP] == (is_lost ? ECONNRESET : EPOLLIN), "%llu",
              (unsigned long long)entry[ZCWS_TURN_STOP]);
        close_one(&sockets, fd);
    }
    close(sockets.epoll);
}

/* Answers each byte with a frame, at once, until the end. */
static void *answer_bytes(void *end) {
    const int fd = *(const int *)end;
    uint8_t byte[SHORT];
    ssize_t received;
    while ((received = recv(fd, byte, SHORT, MSG_DONTWAIT)) != 0)
        if (received > 0) send_all(fd, one, SHORT);
    return NULL;
}

/* Trying again: in vain, for what is there at once, and for what comes meanwhile. */
static void test_answers(void) {
    struct zcws_sockets sockets = start_sockets(LEAST);
    pthread_t thread;
    int fd = 0;
    open_one(sockets.epoll);
    while (peers[fd] < 0) fd++;
    start_reader(fd);
    for (sockets.only = -1; sockets.only <= fd; sockets.only += fd + 1) {
        memset(&sockets.waits, 0, sizeof sockets.waits);
        for (uint32_t rest = 1; rest < 64; rest = 2 * rest + 1) {
            sockets.waits.lost = 0; /* the machine may be busy */
            CHECK(zcws_turn_again(&sockets) == 0 && sockets.used == 0, "nothing is there");
            CHECK(sockets.waits.rest == rest && sockets.waits.resting == rest, "%u", sockets.waits.rest);
        }
        sockets.waits.lost = 0;
        CHECK(zcws_turn_again(&sockets) == 0 && sockets.waits.rest == 63, "it grows no more");
        sockets.waits.lost = 0;
        sockets.waits.rest = 1;
        send_all(peers[fd], one, SHORT);
        CHECK(zcws_turn_again(&sockets) == 1 && sockets.waits.rest == 3, "it was there");
    }
    CHECK(pthread_create(&thread, NULL, answer_bytes, &peers[fd]) == 0, "no thread");
    do { /* how soon the other thread runs is the system's affair */
        size_t found;
        sockets.waits.rest = 63;
        sockets.waits.lost = 0;
        send_all(fd, one, 1);
        found = zcws_turn_again(&sockets);
        while (found == 0) found = zcws_turn(&sockets);
        CHECK(found == 1, "%zu", found);
    } while (sockets.waits.rest != 31);
    shutdown(fd, SHUT_WR);
    CHECK(pthread_join(thread, NULL) == 0, "the thread");
    close_one(&sockets, fd);
    close(sockets.epoll);
}

/* Orders for four sockets, one byte further than words like to lie. The third takes nothing more. */
static void test_what_each_is_sent(void) {
    enum { EACH = 4, STUCK = 2, LEN = 10 };
    static const uint8_t data[] = "0123456789abcdefghijklmnopqrstuvwxyzABCD";
    int ends[EACH][2];
    int64_t orders[2 * EACH], begins[EACH];
    uint8_t words[sizeof orders + 1], places[sizeof begins + 1], found[LEN + 1];
    for (int round = 0; round < 3; round++) { /* one behind the other, where `begins` say, and the last alone */
        const size_t first = round == 2 ? 3 : 0;
        for (int i = 0; i < EACH; i++) {
            CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends[i]) == 0, "no sockets");
            orders[i] = ends[i][0];
            orders[EACH + i] = LEN - i;
            begins[i] = 3 * i;
        }
        while (send(ends[STUCK][0], ring.start, 4096, MSG_DONTWAIT) > 0) continue;
        memcpy(words + 1, orders, sizeof orders);
        memcpy(places + 1, begins, sizeof begins);
        for (size_t from = first; from < EACH; from = STUCK + 1) {
            const int64_t answer = zcws_send_each(words + 1, round == 1 ? places + 1 : NULL, EACH, data, from);
            const int64_t stuck = ((int64_t)STUCK << 32) + ((int64_t)1 << 31) - EAGAIN;
            CHECK(answer == (from <= STUCK ? stuck : -1), "%lld", (long long)answer);
            if (from > STUCK) break;
        }
        for (int i = 0, begin = 0; i < EACH; i++) {
            const int at = round == 1 ? 3 * i : begin;
            const ssize_t wanted = (size_t)i < first ? -1 : LEN - i;
            begin += LEN - i;
            if (i == STUCK) continue;
            CHECK(recv(ends[i][1], found, sizeof found, MSG_DONTWAIT) == wanted, "%d has something else", i);
            CHECK(wanted < 0 || memcmp(found, data + at, (size_t)wanted) == 0, "%d has something else", i);
        }
        close(ends[EACH - 1][1]); /* which ends no program: no SIGPIPE */
        CHECK(zcws_send_each(words + 1, NULL, EACH, data, EACH - 1) ==
                  ((int64_t)(EACH - 1) << 32) + ((int64_t)1 << 31) - EPIPE,
              "nobody is there");
        for (int i = 0; i < EACH; i++) {
            close(ends[i][0]);
            if (i < EACH - 1) close(ends[i][1]);
        }
    }
}

/* Whoever has said something, who has not, who is gone again, and nobody. */
static void test_welcome(void) {
    const struct sockaddr_un anywhere = {.sun_family = AF_UNIX};
    struct sockaddr_un address;
    socklen_t size = sizeof address;
    const int listening = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    uint8_t *data = ring.end - 3;
    struct zcws_opening opening;
    CHECK(bind(listening, (const struct sockaddr *)&anywhere, sizeof anywhere.sun_family) == 0, "errno %d", errno);
    CHECK(listen(listening, 3) == 0 && getsockname(listening, (struct sockaddr *)&address, &size) == 0, "no name");
    CHECK(zcws_welcome(listening, data, 3, &opening) == -EAGAIN, "nobody");
    for (int kind = 0; kind < 3; kind++) {
        const int64_t wanted[] = {3, -EAGAIN, 0};
        const int theirs = socket(AF_UNIX, SOCK_STREAM, 0);
        int ours;
        CHECK(connect(theirs, (const struct sockaddr *)&address, size) == 0, "errno %d", errno);
        if (kind == 0) send_all(theirs, (const uint8_t *)"GET /", 5);
        if (kind == 2) close(theirs);
        errno = EINVAL; /* of before */
        ours = zcws_welcome(listening, data, 3, &opening);
        CHECK(ours >= 0 && opening.received == wanted[kind], "%lld", (long long)opening.received);
        CHECK(opening.head == 0 && (kind != 0 || memcmp(data, "GET", 3) == 0), "what it has said");
        CHECK((fcntl(ours, F_GETFL) & O_NONBLOCK) && (fcntl(ours, F_GETFD) & FD_CLOEXEC), "how it is");
        close(ours);
        if (kind != 2) close(theirs);
    }
    close(listening);
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    table_memory = guarded_map((LEAST + 15000) * sizeof(uint64_t));
    ring = guarded_map(RING);
    slots = guarded_map((size_t)ZCWS_SLOTS * ZCWS_KEPT_MOST);
    for (int fd = 0; fd < DESCRIPTORS; fd++) peers[fd] = -1;
    for (size_t i = 0; i < FLOOD; i++) memcpy(flood + SHORT * i, one, SHORT);
    test_a_table_that_is_full();
    test_who_is_left_comes_first();
    test_what_is_kept();
    test_a_bad_byte_in_what_is_kept();
    test_pieces_of_what_is_kept();
    test_many_who_are_kept();
    test_a_mark();
    test_no_mark();
    test_what_is_learnt_of_marks();
    test_the_first_mark();
    test_more_marks_than_there_is_room_for();
    test_the_marks_of_an_only_socket();
    test_a_mark_that_others_receive_for();
    test_a_ring_that_is_full();
    test_one_that_is_tried();
    test_answers();
    test_what_each_is_sent();
    test_welcome();
    test_turns();
    return 0;
}

#else

int main(void) { return 0; }

#endif
