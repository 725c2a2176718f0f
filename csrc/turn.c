/* turn.c: many sockets in one crossing: which of them have bytes, what those say, and the way back; and accepting one.
 *
 * Where there is no epoll it compiles to functions that serve nobody, and the engine above it is not used.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* accept4, clock_gettime */
#endif
#include "kernel.h"

#if defined(__linux__)

#include "mark.h"
#include "waits.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum {
    /* Received behind another socket's bytes only when at least this much room is left (bytes): a smaller read would
     * cut a busy peer's data into small pieces. A socket that is not served now comes first in the next call. */
    LEAST_ROOM = 64 * 1024,
    /* The same for the rows of the table. */
    LEAST_ROWS = 64,
    /* Rows that one socket gets where there are others. What it brings beyond that is left in its ring: its program may
     * handle all of its rows before anybody else has a turn. */
    MOST_ROWS = 1024,
    /* A frame of at most this many bytes is moved with each part of it that comes: that costs less than to receive into
     * two places. */
    MOVED_MOST = 4 * 1024,
    /* The bytes of each socket begin at a multiple of this: a cache line. */
    LINE = 64
};

_Static_assert(ZCWS_TURN_ENTRIES == ZCWS_TURN_MOST * ZCWS_TURN_ONE, "room for all short entries");

/* What has been filled so far. */
struct turn {
    struct zcws_sockets *sockets;
    uint8_t *base;
    size_t used, capacity; /* bytes of it */
    uint64_t *one;         /* where the next short entry goes */
    size_t ones;           /* how many there are */
    uint64_t *table;       /* the other entries */
    size_t words, limit;   /* words of it */
};

static void write_entry(struct turn *turn, int fd, size_t begin, size_t stop, size_t count) {
    uint64_t *entry = turn->table + turn->words;
    entry[ZCWS_TURN_FD] = (uint64_t)fd;
    entry[ZCWS_TURN_BEGIN] = begin;
    entry[ZCWS_TURN_STOP] = stop;
    entry[ZCWS_TURN_COUNT] = count;
    turn->words += ZCWS_TURN_ENTRY;
    if (count < ZCWS_TURN_SERVE) turn->words += ZCWS_TABLE_HEAD + ZCWS_TABLE_ROW * (count % ZCWS_NEWS);
    entry[ZCWS_TURN_END] = turn->words;
}

/* Whether a scan's only row is a whole plain message, and there is no news. */
static int is_one(size_t count, const uint64_t *table) {
    uint64_t part = table[ZCWS_TABLE_HEAD] & (ZCWS_FIRST | ZCWS_LAST | ZCWS_COMPRESSED);
    return count == 1 && part == (ZCWS_FIRST | ZCWS_LAST);
}

static void write_one(struct turn *turn, int fd, size_t begin, const uint64_t *row) {
    turn->one[0] = (uint64_t)fd;
    turn->one[1] = row[0];
    turn->one[2] = begin;
    turn->one[3] = row[1];
    turn->one[4] = row[2];
    turn->one += ZCWS_TURN_ONE;
    turn->ones += 1;
}

/* ---- the beginnings of frames that networks have cut ------------------------------------------------------------- */

static uint8_t *slot_of(const struct zcws_sockets *sockets, const struct zcws_reader *reader) {
    return sockets->slots + (size_t)reader->slot * ZCWS_KEPT_MOST;
}

static void free_slot(struct zcws_sockets *sockets, struct zcws_reader *reader) {
    sockets->free[sockets->frees++] = reader->slot;
    reader->kept = 0;
}

/* Bytes of the frame in progress, 0 if its head is not whole. */
static uint64_t whole_frame(const struct zcws_reader *reader) {
    return reader->open ? reader->head + reader->length : 0;
}

/* Keeps `len` bytes of a frame of which the rest has not come: the caller has no use for them before it has. Returns
 * whether it did: not if the frame is large, or others have all slots. */
static int keep(const struct turn *turn, struct zcws_reader *reader, const uint8_t *data, size_t len) {
    struct zcws_sockets *sockets = turn->sockets;
    /* Else there would never be room for what comes behind it. */
    if (turn->capacity < ZCWS_KEPT_MOST + LEAST_ROOM) return 0;
    if (sockets->frees == 0 || whole_frame(reader) > ZCWS_KEPT_MOST) return 0;
    reader->slot = sockets->free[--sockets->frees];
    reader->kept = (uint32_t)len;
    memcpy(slot_of(sockets, reader), data, len);
    return 1;
}

const uint8_t *zcws_take_kept(struct zcws_sockets *sockets, struct zcws_reader *reader) {
    const uint8_t *slot = slot_of(sockets, reader);
    free_slot(sockets, reader);
    return slot;
}

/* Whether the rest of what is kept is received behind it, into its slot: it is known how much that is, and not little. */
static int grows_in_slot(const struct zcws_reader *reader) {
    return reader->kept != 0 && whole_frame(reader) > MOVED_MOST;
}

/* Receives into the room behind what has been filled, where that of a frame that is kept is left free. The rest of such
 * a frame comes to its slot, if it is not small; what follows it, to its place behind the frame. */
static ssize_t receive_behind(const struct turn *turn, int fd, const struct zcws_reader *reader) {
    uint8_t *base = turn->base + turn->used;
    size_t room = turn->capacity - turn->used, kept = reader->kept, whole = (size_t)whole_frame(reader);
    struct iovec places[2];
    struct msghdr message = {0};
    if (!grows_in_slot(reader)) return recv(fd, base + kept, room - kept, MSG_DONTWAIT);
    places[0].iov_base = slot_of(turn->sockets, reader) + kept;
    places[0].iov_len = whole - kept;
    places[1].iov_base = base + whole;
    places[1].iov_len = room - whole;
    message.msg_iov = places;
    message.msg_iovlen = 2;
    return recvmsg(fd, &message, MSG_DONTWAIT);
}

/* Puts what is kept in front of what has been received behind it. Returns how many bytes there are; 0 if they are only
 * more of a frame, which stays where it is. Its payload is unmasked and checked meanwhile. Not that of a frame that is
 * to be handed out in pieces since then: a scan takes those, and they would be taken again from the ring. */
static size_t join(const struct turn *turn, struct zcws_reader *reader, size_t received, uint64_t *table) {
    uint8_t *slot = slot_of(turn->sockets, reader);
    size_t kept = reader->kept, all = kept + received, whole = (size_t)whole_frame(reader);
    if (grows_in_slot(reader)) {
        kept = all < whole ? all : whole;
        if (all < whole && whole <= reader->fit && zcws_scan(reader, slot, 0, all, table, 1) == ZCWS_NEWS &&
            table[ZCWS_TABLE_STATUS] == ZCWS_MORE) {
            reader->kept = (uint32_t)all;
            return 0;
        }
    }
    memcpy(turn->base + turn->used, slot, kept);
    free_slot(turn->sockets, reader);
    return all;
}

/* ---- what the kernel collects ------------------------------------------------------------------------------------ */

/* Where a socket is noted; behind all others if it is not. */
static uint32_t find_mark(const struct zcws_sockets *sockets, int fd) {
    uint32_t i = 0;
    while (i < sockets->marks && sockets->marked[i].fd != fd) i++;
    return i;
}

/* Notes that a socket is marked, and has brought something. Returns whether there was room for that. */
static int note_mark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader) {
    const struct zcws_marked marked = {fd, 0, reader};
    const uint32_t i = find_mark(sockets, fd);
    if (i == ZCWS_MARKED_MOST) return 0;
    sockets->marked[i] = marked;
    if (i == sockets->marks) sockets->marks++;
    return 1;
}

static void forget_mark(struct zcws_sockets *sockets, int fd) {
    const uint32_t i = find_mark(sockets, fd);
    if (i < sockets->marks) sockets->marked[i] = sockets->marked[--sockets->marks];
}

void zcws_mark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, size_t received, size_t ahead,
               int lands) {
    const uint64_t lacking = zcws_lacking(reader, lands);
    const uint32_t before = reader->mark.set;
    /* What TLS has handed over says little of how much has come. */
    if (ahead != 0 && before != 0 && received < before) received = before;
    zcws_mark_next(fd, &reader->mark, received, lacking > ahead ? lacking - ahead : 0);
    if (sockets == NULL || fd < 0) return;
    if (reader->mark.set != 0 && !note_mark(sockets, fd, reader)) zcws_collect(fd, &reader->mark, 0);
    if (reader->mark.set == 0 && before != 0) forget_mark(sockets, fd);
}

void zcws_unmark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, int is_late) {
    if (reader != NULL && is_late) zcws_mark_late(fd, &reader->mark);
    if (reader != NULL && !is_late) zcws_collect(fd, &reader->mark, 0);
    if (sockets != NULL) forget_mark(sockets, fd);
}

size_t zcws_late(struct zcws_sockets *sockets) {
    size_t late = 0;
    /* Where there is only one socket, the next turn does not look at who was left, and they would fill the room. */
    if (sockets->only >= 0) sockets->left = 0;
    for (uint32_t i = sockets->marks; i-- > 0;) {
        const struct zcws_marked marked = sockets->marked[i];
        if (marked.age == 0 || sockets->left == ZCWS_TURN_MOST) {
            sockets->marked[i].age = 1;
            continue;
        }
        zcws_unmark(sockets, marked.fd, marked.reader, 1);
        sockets->waiting[sockets->left++] = marked.fd;
        late++;
    }
    return late;
}

/* ---- a turn ------------------------------------------------------------------------------------------------------ */

/* Receives behind what is there already, and scans it: writes a short entry where that says it all, else an entry and a
 * table of its own; nothing where there is only the beginning of a frame, which is kept. */
static void receive(struct turn *turn, int fd, struct zcws_reader *reader, size_t most) {
    uint64_t *table = turn->table + turn->words + ZCWS_TURN_ENTRY;
    size_t rows = (turn->limit - turn->words - ZCWS_TURN_ENTRY - ZCWS_TABLE_HEAD) / ZCWS_TABLE_ROW;
    size_t begin = turn->used, stop, used, count;
    ssize_t received = receive_behind(turn, fd, reader);
    if (received < 0) {
        if (errno != EAGAIN && errno != EINTR) write_entry(turn, fd, 0, (size_t)errno, ZCWS_TURN_FAILED);
        return;
    }
    if (received == 0) {
        write_entry(turn, fd, 0, EPOLLIN, ZCWS_TURN_SERVE);
        return;
    }
    stop = begin + (reader->kept == 0 ? (size_t)received : join(turn, reader, (size_t)received, table));
    count = stop == begin ? 0 : zcws_scan(reader, turn->base, begin, stop, table, rows < most ? rows : most);
    used = stop;
    if (count >= ZCWS_NEWS && zcws_has_begun(reader, table, stop)) {
        size_t next = (size_t)table[ZCWS_TABLE_NEXT];
        if (keep(turn, reader, turn->base + next, stop - next)) {
            count -= ZCWS_NEWS;
            stop = next;
        }
    }
    zcws_mark(turn->sockets, fd, reader, (size_t)received, 0, 0);
    if (count == 0) return;
    /* Fragments have been moved together: what is kept does not lie where their payload stops. */
    if (is_one(count, table) && (reader->kept == 0 || table[ZCWS_TABLE_HEAD + 2] == stop))
        write_one(turn, fd, begin, table + ZCWS_TABLE_HEAD);
    else
        write_entry(turn, fd, begin, stop, count);
    turn->used = (used + LINE - 1) / LINE * LINE;
}

static size_t found(struct zcws_sockets *sockets, const struct turn *turn) {
    sockets->used = turn->words;
    return turn->ones + (turn->words != 0 ? ZCWS_TURN_OTHERS : 0);
}

/* Sums, not differences: the entries of sockets that are not received for may lie behind `limit`. */
static int has_room(const struct turn *turn, const struct zcws_reader *reader) {
    size_t least = ZCWS_TURN_ENTRY + ZCWS_TABLE_HEAD + LEAST_ROWS * ZCWS_TABLE_ROW;
    size_t kept = reader->kept != 0 ? ZCWS_KEPT_MOST : 0;
    return turn->used + kept + LEAST_ROOM <= turn->capacity && turn->words + least <= turn->limit;
}

/* The sockets to be served: those that were left, or else those that epoll says are ready. epoll has put those that
 * were left behind all others that are ready, so it is not asked before they have had their turn: otherwise peers that
 * are always ready would share the room among themselves. */
static int who_is_ready(struct zcws_sockets *sockets, struct epoll_event *events) {
    int left = sockets->left;
    if (left == 0) return epoll_wait(sockets->epoll, events, ZCWS_TURN_MOST, 0);
    for (int i = 0; i < left; i++) {
        events[i].events = EPOLLIN;
        events[i].data.fd = sockets->waiting[i];
    }
    sockets->left = 0;
    return left;
}

size_t zcws_turn(struct zcws_sockets *sockets) {
    struct epoll_event events[ZCWS_TURN_MOST];
    uint64_t *table = sockets->table;
    /* The words that `room` leaves out are for the entries of sockets that are not received for. */
    size_t room = sockets->words - ZCWS_TURN_ENTRIES - ZCWS_TURN_MOST * ZCWS_TURN_ENTRY;
    struct turn turn = {sockets, sockets->base, 0, sockets->capacity, table, 0, table + ZCWS_TURN_ENTRIES, 0, room};
    int only = sockets->only, ready;
    if (only >= 0 && (size_t)only < sockets->count && sockets->readers[only] != NULL) {
        receive(&turn, only, sockets->readers[only], ZCWS_NEWS - 1);
        return found(sockets, &turn);
    }
    ready = who_is_ready(sockets, events);
    for (int i = 0; i < ready; i++) {
        int fd = events[i].data.fd;
        struct zcws_reader *reader = (size_t)fd < sockets->count ? sockets->readers[fd] : NULL;
        if (reader == NULL || events[i].events != EPOLLIN)
            write_entry(&turn, fd, 0, events[i].events, ZCWS_TURN_SERVE);
        else if (has_room(&turn, reader))
            receive(&turn, fd, reader, MOST_ROWS);
        else
            sockets->waiting[sockets->left++] = fd;
    }
    return found(sockets, &turn);
}

size_t zcws_turn_again(struct zcws_sockets *sockets) {
    size_t count = zcws_turn(sockets);
    struct zcws_moment moment = zcws_moment_begin();
    /* What is there at once would have been found without this call: whoever always has something to do never sleeps,
     * and rests from trying as well. */
    const int may_sleep = count == 0;
    while (count == 0 && zcws_moment_goes_on(&moment, ZCWS_MOMENT)) count = zcws_turn(sockets);
    zcws_tried(&sockets->waits, &moment, may_sleep && count != 0);
    return count;
}

static int64_t word(const uint8_t *words, size_t i) {
    int64_t value;
    memcpy(&value, words + i * sizeof value, sizeof value);
    return value;
}

int64_t zcws_send_each(const uint8_t *orders, const uint8_t *begins, size_t count, const uint8_t *data,
                       size_t first) {
    size_t begin = 0;
    for (size_t i = 0; i < count; i++) {
        size_t len = (size_t)word(orders, count + i);
        if (begins != NULL) begin = (size_t)word(begins, i);
        if (i >= first) {
            ssize_t sent = send((int)word(orders, i), data + begin, len, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (sent < 0) sent = -errno;
            if (sent != (ssize_t)len) return ((int64_t)i << 32) + ((int64_t)1 << 31) + sent;
        }
        begin += len;
    }
    return -1;
}

int zcws_welcome(int listening, uint8_t *data, size_t size, struct zcws_opening *opening) {
    int fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    ssize_t received;
    if (fd < 0) return -errno;
    received = recv(fd, data, size, 0);
    opening->received = received < 0 ? -(int64_t)errno : (int64_t)received;
    opening->head = received > 0 ? zcws_read_opening(data, (size_t)received, opening) : 0;
    return fd;
}

#else

size_t zcws_turn(struct zcws_sockets *sockets) {
    (void)sockets;
    return 0;
}

size_t zcws_turn_again(struct zcws_sockets *sockets) { return zcws_turn(sockets); }

int64_t zcws_send_each(const uint8_t *orders, const uint8_t *begins, size_t count, const uint8_t *data,
                       size_t first) {
    (void)orders, (void)begins, (void)data;
    return first < count ? ((int64_t)first << 32) + ((int64_t)1 << 31) : -1;
}

const uint8_t *zcws_take_kept(struct zcws_sockets *sockets, struct zcws_reader *reader) {
    (void)sockets, (void)reader;
    return NULL;
}

void zcws_mark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, size_t received, size_t ahead,
               int lands) {
    (void)sockets, (void)fd, (void)reader, (void)received, (void)ahead, (void)lands;
}

void zcws_unmark(struct zcws_sockets *sockets, int fd, struct zcws_reader *reader, int is_late) {
    (void)sockets, (void)fd, (void)reader, (void)is_late;
}

size_t zcws_late(struct zcws_sockets *sockets) {
    (void)sockets;
    return 0;
}

int zcws_welcome(int listening, uint8_t *data, size_t size, struct zcws_opening *opening) {
    (void)listening, (void)data, (void)size, (void)opening;
    return -1;
}

#endif
