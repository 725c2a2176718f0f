/* test_socket.c: one socket: what a receive says, the rest of a large payload, and a masked frame on its way out. All
 * memory ends at a protected page. */
#include "check.h"

#if defined(__linux__)

#include "tcp.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { ROOM = 256 * 1024 };

static struct guarded memory, payloads;

static void open_pair(int *ends, int kind) {
    int size = 1 << 20;
    CHECK(socketpair(AF_UNIX, kind, 0, ends) == 0, "no sockets");
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static void close_pair(const int *ends) {
    close(ends[0]);
    close(ends[1]);
}

static void send_all(int fd, const uint8_t *data, size_t len) {
    CHECK(send(fd, data, len, MSG_NOSIGNAL) == (ssize_t)len, "%zu bytes do not fit a socket", len);
}

/* ---- receiving ---- */

/* Bytes have come once, and whoever has not taken them hears so; then the end, whatever errno says of before. */
static void test_what_comes(void) {
    static const int errors[] = {0, EAGAIN, EINTR};
    uint8_t *data = memory.end - 3;
    for (size_t i = 0; i < 3; i++) {
        int ends[2];
        struct zcws_socket socket = {.flags = MSG_DONTWAIT, .total = 10, .found = 7};
        open_pair(ends, SOCK_STREAM);
        socket.fd = ends[0];
        CHECK(zcws_receive_into(&socket, data, 3) == ZCWS_NOTHING, "nothing is there");
        send_all(ends[1], (const uint8_t *)"abcd", 4);
        CHECK(zcws_receive_into(&socket, data, 3) == 3 && memcmp(data, "abc", 3) == 0, "what fits");
        CHECK(socket.received == 3 && socket.total == 13 && socket.found == ZCWS_NOTHING, "and is noted");
        CHECK(zcws_receive_into(&socket, data, 3) == ZCWS_TORN && data[0] == 'a', "it has not been taken");
        socket.received = 0;
        CHECK(zcws_receive_into(&socket, data, 3) == 1 && data[0] == 'd' && socket.total == 14, "the rest");
        socket.received = 0;
        close(ends[1]);
        errno = errors[i];
        CHECK(zcws_receive_into(&socket, data, 3) == ZCWS_ENDED && socket.error == 0, "its end, behind %d",
              errors[i]);
        CHECK(socket.received == 0 && socket.total == 14, "brings nothing");
        close(ends[0]);
    }
}

static void test_a_stream_that_is_broken(void) {
    int ends[2];
    struct zcws_socket socket = {.flags = MSG_DONTWAIT};
    open_pair(ends, SOCK_STREAM);
    socket.fd = ends[0];
    send_all(ends[0], (const uint8_t *)"a", 1); /* the other end closes without having read it */
    close(ends[1]);
    CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_ENDED, "no end");
    CHECK(socket.error == ECONNRESET, "error %d", socket.error);
    CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_ENDED && socket.error == ECONNRESET, "it is told once");
    close(ends[0]);
    socket.fd = -1;
    socket.error = 0;
    CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_ENDED && socket.error == EBADF, "closed");
}

/* Where trying is of no use, so many waits sleep at once before the next that tries: ever more. One that tries and finds
 * something at once has not waited. */
static void test_who_waits_in_vain_tries_less(void) {
    static const int gaps[] = {3, 5, 9, 17, 33, 65, 65};
    int ends[2], gap = 1;
    size_t at = 0;
    struct zcws_socket socket = {.flags = 0};
    open_pair(ends, SOCK_STREAM | SOCK_NONBLOCK);
    socket.fd = ends[0];
    CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_NOTHING, "nothing is there");
    while (at < sizeof gaps / sizeof *gaps) {
        const uint32_t before = socket.waits.resting;
        socket.waits.lost = 0; /* the machine may be busy */
        CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_NOTHING, "nothing is there");
        if (socket.waits.resting < before) {
            gap++;
        } else {
            CHECK(gap == gaps[at], "tried again after %d waits, and not %d", gap, gaps[at]);
            gap = 1;
            at++;
        }
    }
    socket.waits.resting = 0;
    send_all(ends[1], (const uint8_t *)"a", 1);
    CHECK(zcws_receive_into(&socket, memory.start, 1) == 1, "a byte");
    CHECK(socket.waits.resting == 0 && socket.waits.rest == 63, "no wait");
    close_pair(ends);
}

/* Whoever never tries sleeps in its first call, and learns nothing. */
static void test_who_never_tries(void) {
    const struct timeval moment = {0, 1000};
    int ends[2];
    struct zcws_socket socket = {.waits = {.never = 1, .rest = 7}};
    open_pair(ends, SOCK_STREAM);
    setsockopt(ends[0], SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment);
    socket.fd = ends[0];
    for (int i = 0; i < 3; i++)
        CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_NOTHING, "nothing is there");
    send_all(ends[1], (const uint8_t *)"a", 1);
    CHECK(zcws_receive_into(&socket, memory.start, 1) == 1, "a byte");
    CHECK(socket.waits.rest == 7 && socket.waits.resting == 0, "nothing is learnt");
    close_pair(ends);
}

static void ignore(int number) { (void)number; }

/* A wait that a signal ends: whoever still waits calls again. */
static void test_a_signal(void) {
    struct sigaction action = {.sa_handler = ignore};
    const struct itimerval every = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    int ends[2];
    struct zcws_socket socket = {.waits = {.resting = 1}};
    open_pair(ends, SOCK_STREAM);
    socket.fd = ends[0];
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &every, NULL);
    CHECK(zcws_receive_into(&socket, memory.start, 1) == ZCWS_NOTHING && socket.received == 0, "a signal");
    setitimer(ITIMER_REAL, &never, NULL);
    close_pair(ends);
}

/* What has come is scanned where it lies. */
static void test_a_frame(void) {
    static const uint8_t frame[] = {0x81, 0x82, 1, 2, 3, 4, 'h' ^ 1, 'i' ^ 2};
    uint64_t table[ZCWS_TABLE_HEAD + 2 * ZCWS_TABLE_ROW];
    struct zcws_reader reader = {.max_size = 100, .max_fragments = 1, .fit = 100, .masked = 1};
    struct zcws_socket socket = {.flags = MSG_DONTWAIT, .reader = &reader, .base = memory.end - sizeof frame};
    int ends[2];
    open_pair(ends, SOCK_STREAM);
    socket.fd = ends[0];
    socket.capacity = sizeof frame;
    socket.table = table;
    socket.rows = 2;
    CHECK(zcws_receive(&socket) == ZCWS_NOTHING && reader.bytes == 0, "nothing is there");
    send_all(ends[1], frame, sizeof frame);
    send_all(ends[1], frame, 1);
    CHECK(zcws_receive(&socket) == 1 && socket.found == 1 && socket.received == sizeof frame, "a frame");
    CHECK(table[ZCWS_TABLE_HEAD + 1] == 6 && table[ZCWS_TABLE_HEAD + 2] == sizeof frame, "its payload");
    CHECK(memcmp(socket.base + 6, "hi", 2) == 0, "unmasked");
    CHECK(zcws_receive(&socket) == ZCWS_TORN && socket.found == 1, "it has not been taken");
    close_pair(ends);
}

enum { LEN = 200, TWO = 2 * LEN };

/* A socket with `room` bytes for what comes. */
static void open_parts(int *ends, struct zcws_socket *socket, int kind, size_t room) {
    static struct zcws_reader reader;
    static uint64_t table[ZCWS_TABLE_HEAD + 2 * ZCWS_TABLE_ROW];
    const struct zcws_reader fresh = {.max_size = 1 << 24, .max_fragments = 1, .fit = ROOM, .masked = 1};
    const struct zcws_socket unused = {
        .reader = &reader, .base = memory.end - room, .capacity = room, .table = table};
    reader = fresh;
    *socket = unused;
    socket->rows = 2;
    open_pair(ends, kind);
    socket->fd = ends[0];
}

/* Two frames of LEN bytes, masked with 1, 2, 3, 4. */
static void make_two(uint8_t *data) {
    static const uint8_t head[8] = {0x81, 0xFE, 0, LEN - 8, 1, 2, 3, 4};
    memcpy(data, head, sizeof head);
    for (size_t i = 8; i < LEN; i++) data[i] = 'a' ^ (uint8_t)(1 + i % 4);
    memcpy(data + LEN, data, LEN);
}

/* A frame that comes in two parts, the second with more behind it, is told of when it is whole. */
static void test_a_frame_in_parts(void) {
    uint8_t data[TWO];
    make_two(data);
    for (size_t cut = 1; cut < LEN; cut++) {
        for (size_t behind = 0; behind < LEN; behind += behind < 12 ? 1 : 60) {
            const size_t stop = LEN + behind;
            struct zcws_socket socket;
            int ends[2];
            open_parts(ends, &socket, SOCK_SEQPACKET, TWO); /* each receive brings what was sent at a time */
            send_all(ends[1], data, cut);
            send_all(ends[1], data + cut, stop - cut);
            send_all(ends[1], data + stop, TWO - stop);
            CHECK(zcws_receive(&socket) == (behind == 0 ? 1 : 1 + ZCWS_NEWS), "%lld", (long long)socket.found);
            CHECK(socket.received == stop && socket.total == stop, "%zu of %zu", socket.received, stop);
            CHECK(socket.table[ZCWS_TABLE_HEAD + 1] == 8 && socket.table[ZCWS_TABLE_HEAD + 2] == LEN, "its row");
            for (size_t i = 8; i < LEN; i++) CHECK(socket.base[i] == 'a', "%c", socket.base[i]);
            CHECK(zcws_receive(&socket) == ZCWS_TORN, "it has not been taken");
            close_pair(ends);
        }
    }
}

/* What has come is told at once where a frame is before it, and where the caller does not wait. */
static void test_a_part_that_is_told(void) {
    uint8_t data[TWO];
    make_two(data);
    for (size_t cut = 1; cut < TWO; cut++) {
        const size_t rows = cut / LEN;
        struct zcws_socket socket;
        int ends[2];
        open_parts(ends, &socket, SOCK_SEQPACKET, TWO);
        socket.flags = rows == 0 ? MSG_DONTWAIT : 0;
        send_all(ends[1], data, cut);
        send_all(ends[1], data + cut, TWO - cut);
        CHECK((size_t)zcws_receive(&socket) == (cut % LEN != 0 ? rows + ZCWS_NEWS : rows), "%lld of %zu",
              (long long)socket.found, cut);
        CHECK(socket.received == cut, "%zu of %zu", socket.received, cut);
        close_pair(ends);
    }
}

/* Bytes that all belong to what the caller wants, of which each receive brings a few. */
static void test_more_of_a_payload(void) {
    uint8_t data[LEN];
    random_fill(data, LEN);
    for (size_t size = 1; size <= LEN; size += size < 20 ? 1 : 45) {
        for (int flags = 0; flags <= MSG_DONTWAIT; flags += MSG_DONTWAIT) {
            const size_t first = size < 50 ? size : 50;
            struct zcws_socket socket;
            int ends[2];
            open_parts(ends, &socket, SOCK_SEQPACKET, size);
            socket.flags = flags;
            for (size_t at = 0; at < LEN; at += 50) send_all(ends[1], data + at, 50);
            CHECK(zcws_receive_more(&socket, socket.base, size, size) == (int64_t)(flags == 0 ? size : first), "%zu",
                  size);
            CHECK(socket.received == (flags == 0 ? size : first) && socket.total == socket.received, "%zu", size);
            CHECK(memcmp(socket.base, data, socket.received) == 0 && socket.found == ZCWS_NOTHING, "other bytes");
            CHECK(zcws_receive_more(&socket, socket.base, size, size) == ZCWS_TORN, "it has not been taken");
            close_pair(ends);
        }
    }
}

/* Sends the rest of a frame when the mark for it has been set. */
struct late {
    int ours, peer;
    const uint8_t *data;
    size_t len;
    atomic_int is_over, has_seen;
};

static void *send_late(void *given) {
    struct late *late = given;
    while (!atomic_load(&late->is_over)) {
        if (mark_of(late->ours) == 1) continue;
        atomic_store(&late->has_seen, 1);
        send_all(late->peer, late->data, late->len);
        break;
    }
    return NULL;
}

/* Whoever waits for the rest of something large is not woken by each packet of it; and by every byte after that. Parts
 * are waited for so shortly that a busy machine may see nothing of it: then once more. */
static void test_a_mark(void) {
    enum { LARGE = 9000, PART = 1400 };
    static uint8_t data[LARGE] = {0x82, 0xFE, (LARGE - 8) >> 8, (LARGE - 8) & 0xFF, 1, 2, 3, 4};
    for (int is_payload = 0; is_payload < 2; is_payload++) {
        int has_seen = 0;
        for (int tries = 0; tries < 200 && !has_seen; tries++) {
            struct zcws_socket socket;
            int ends[2], pair[2];
            int64_t found;
            pthread_t thread;
            open_parts(pair, &socket, SOCK_STREAM, LARGE);
            close_pair(pair);
            open_tcp(ends);
            socket.fd = ends[0];
            socket.mark.most = LARGE; /* as if large frames had come before */
            struct late late = {.ours = ends[0], .peer = ends[1], .data = data + PART, .len = LARGE - PART};
            CHECK(pthread_create(&thread, NULL, send_late, &late) == 0, "no thread");
            send_all(ends[1], data, PART);
            CHECK(is_ready(ends[0], 5000), "it does not come");
            found = is_payload ? zcws_receive_more(&socket, socket.base, LARGE, LARGE) : zcws_receive(&socket);
            CHECK(mark_of(ends[0]) == 1, "%d", mark_of(ends[0]));
            atomic_store(&late.is_over, 1);
            pthread_join(thread, NULL);
            has_seen = atomic_load(&late.has_seen) && socket.received == LARGE;
            CHECK(!has_seen || found == (is_payload ? LARGE : 1), "%lld", (long long)found);
            close_pair(ends);
        }
        CHECK(has_seen, "there is no mark");
    }
}

/* A part behind which nothing comes, the end does, or there is no room; or a byte that cannot be right. */
static void test_a_frame_that_is_not_whole(void) {
    uint8_t frame[LEN] = {0x81, 0xFE, 0, LEN - 8}, bad = 0xFF;
    for (int how = 0; how < 5; how++) {
        const size_t room = how == 3 ? 100 : LEN;
        struct zcws_socket socket;
        int ends[2];
        open_parts(ends, &socket, how == 2 ? SOCK_STREAM : SOCK_SEQPACKET, room);
        if (how == 2) send_all(ends[0], &bad, 1); /* the other end closes without having read it */
        send_all(ends[1], frame, 100);
        if (how == 1 || how == 2) close(ends[1]);
        if (how == 3) send_all(ends[1], frame + 100, 100);
        if (how == 4) send_all(ends[1], &bad, 1);
        CHECK(zcws_receive(&socket) == ZCWS_NEWS && socket.received == 100 + (how == 4), "a part");
        CHECK(socket.table[ZCWS_TABLE_STATUS] == (how == 4 ? (uint64_t)-ZCWS_BAD_UTF8 : ZCWS_MORE), "%d", how);
        CHECK(socket.error == 0, "%d", socket.error);
        socket.received = 0;
        if (how == 1 || how == 2) {
            CHECK(zcws_receive_into(&socket, socket.base, 1) == ZCWS_ENDED, "the end");
            CHECK(socket.error == (how == 1 ? 0 : ECONNRESET), "%d", socket.error);
        }
        close(ends[0]);
        if (how != 1 && how != 2) close(ends[1]);
    }
}

/* ---- the rest of a large payload ---- */

/* Each receive brings a part of it: as long as there is much, and no byte more. */
enum { SOME = 64 * 1024, REST = 2 * SOME + 5 + 1, HEAD = 14 };

/* A socket that has received the head, and brings the rest in parts, `first` before the others; then a byte. */
static void open_rest(int *ends, struct zcws_reader *reader, const uint8_t *masked, size_t first) {
    static const size_t parts[] = {SOME, SOME + 5, 1};
    static uint8_t head[HEAD] = {0x82, 0xFF, 0, 0, 0, 0, 0, REST >> 16, REST >> 8 & 0xFF, REST & 0xFF, 1, 2, 3, 4};
    const struct zcws_reader fresh = {.max_size = 1 << 24, .max_fragments = 1, .fit = HEAD, .masked = 1};
    uint64_t table[ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW];
    *reader = fresh;
    open_pair(ends, SOCK_SEQPACKET | SOCK_NONBLOCK);
    zcws_scan(reader, head, 0, HEAD, table, 1);
    CHECK(table[ZCWS_TABLE_REMAINING] == REST, "%llu to come", (unsigned long long)table[ZCWS_TABLE_REMAINING]);
    for (size_t i = first; i < first + 3; i++) {
        send_all(ends[1], masked, parts[i % 3]);
        masked += parts[i % 3];
    }
    send_all(ends[1], head, 1);
    memset(memory.start, 0, ROOM);
}

static void test_a_rest_in_parts(void) {
    static const size_t at_first[] = {REST + ZCWS_WHOLE, SOME + 5 + 1, 1};
    static uint8_t payload[REST], masked[REST];
    uint8_t *at = memory.end - REST;
    struct zcws_reader reader;
    int ends[2];
    random_fill(payload, REST);
    for (size_t i = 0; i < REST; i++) masked[i] = payload[i] ^ (uint8_t)(1 + i % 4);
    for (size_t first = 0; first < 3; first++) {
        size_t done = 0;
        uint8_t behind[2];
        open_rest(ends, &reader, masked, first);
        while (done < REST) {
            const size_t answer = (size_t)zcws_receive_rest(ends[0], &reader, at + done, REST - done);
            CHECK(done != 0 || answer == at_first[first], "%zu at first", answer);
            done += answer % ZCWS_WHOLE;
            CHECK((answer >= ZCWS_WHOLE) == (done == REST), "%zu is whole", done);
        }
        CHECK(done == REST && memcmp(at, payload, REST) == 0, "another payload");
        for (const uint8_t *before = memory.start; before < at; before++) CHECK(*before == 0, "a byte before it");
        CHECK(recv(ends[0], behind, sizeof behind, MSG_DONTWAIT) == 1, "what is behind it");
        CHECK(zcws_receive_rest(ends[0], &reader, at, 1) == -EAGAIN, "nothing more");
        close(ends[1]);
        CHECK(zcws_receive_rest(ends[0], &reader, at, 1) == 0, "the end");
        close(ends[0]);
    }
    /* Where there is less room than a part takes, none of it is written behind that. */
    at += 500;
    open_rest(ends, &reader, masked, 0);
    CHECK(zcws_receive_rest(ends[0], &reader, at, REST - 500) == REST - 500, "as much as there is room for");
    CHECK(memcmp(at, payload, REST - 500) == 0, "another payload");
    close_pair(ends);
}

/* ---- sending ---- */

enum { KEY = 0x44332211 };

/* A frame that is sent by way of `room` bytes is the one that is built at once. */
static void check_sent(size_t len, size_t room) {
    static uint8_t wanted[ROOM], found[ROOM];
    const uint8_t *payload = payloads.end - len;
    const size_t size = zcws_build_masked(wanted, 0x82, payload, len, KEY);
    size_t done = 0;
    int ends[2];
    open_pair(ends, SOCK_STREAM);
    CHECK(zcws_send_masked(ends[1], memory.end - room, room, 0x82, payload, len, KEY) == (int64_t)size,
          "%zu bytes in %zu", len, room);
    while (done <= size) {
        const ssize_t received = recv(ends[0], found + done, sizeof found - done, MSG_DONTWAIT);
        if (received <= 0) break;
        done += (size_t)received;
    }
    CHECK(done == size && memcmp(found, wanted, size) == 0, "%zu bytes in %zu: another frame", len, room);
    close_pair(ends);
}

static void test_a_frame_goes_out_part_by_part(void) {
    for (size_t room = 15; room < 20; room++)
        for (size_t len = 0; len < 150; len++) check_sent(len, room);
    check_sent(300, 4096);
    for (size_t len = 65000; len < 67000; len += 499) check_sent(len, 4096);
}

/* As far as the socket takes it, which says how far that was: no byte more is out, nor one less. */
static void test_a_socket_that_takes_no_more(void) {
    static uint8_t wanted[ROOM + 14], found[ROOM];
    const uint8_t *payload = payloads.start;
    int ends[2], least = 1;
    int64_t sent;
    size_t done = 0;
    open_pair(ends, SOCK_STREAM);
    setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
    zcws_build_masked(wanted, 0x82, payload, ROOM, KEY);
    sent = -1 - zcws_send_masked(ends[1], memory.end - 1000, 1000, 0x82, payload, ROOM, KEY);
    CHECK(0 < sent && sent < ROOM, "%lld", (long long)sent);
    for (ssize_t more; (more = recv(ends[0], found + done, sizeof found - done, MSG_DONTWAIT)) > 0;)
        done += (size_t)more;
    CHECK(done == (size_t)sent && memcmp(found, wanted, done) == 0, "%zu of %lld", done, (long long)sent);
    close(ends[0]);
    /* Nor does a peer that is gone end the program: no SIGPIPE. */
    CHECK(zcws_send_masked(ends[1], memory.end - 1000, 1000, 0x82, payload, 10, KEY) == -1, "nobody is there");
    close(ends[1]);
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    memory = guarded_map(ROOM);
    payloads = guarded_map(ROOM);
    random_fill(payloads.start, ROOM);
    test_what_comes();
    test_a_stream_that_is_broken();
    test_who_waits_in_vain_tries_less();
    test_who_never_tries();
    test_a_signal();
    test_a_frame();
    test_a_frame_in_parts();
    test_a_part_that_is_told();
    test_a_frame_that_is_not_whole();
    test_more_of_a_payload();
    test_a_mark();
    test_a_rest_in_parts();
    test_a_frame_goes_out_part_by_part();
    test_a_socket_that_takes_no_more();
    return 0;
}

#else

int main(void) { return 0; }

#endif
