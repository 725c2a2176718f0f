/* socket.c: one socket: waiting for bytes and scanning them in one crossing, the rest of a large payload straight into
 * its buffer, and a masked frame on its way out without a copy of the whole.
 *
 * For sockets of POSIX; elsewhere it compiles to functions that receive and send nothing.
 */
#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* clock_gettime */
#endif
#include "kernel.h"

#if defined(__unix__) || defined(__APPLE__)

#include "mark.h"
#include "waits.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

enum {
    /* Bytes: if a receive brought this many, more may have come while they were taken. */
    MUCH = 64 * 1024,
    /* How long the rest of a frame that has begun is waited for, because a network cuts every frame that is larger than
     * a packet: for its next part, in milliseconds, and for all of it, in nanoseconds. The caller's own limits, and his
     * signals, wait as long. */
    NEXT_PART = 5,
    ALL_PARTS = 20 * 1000 * 1000
};

static int is_nothing(ssize_t received) { return received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK); }

/* Receives without sleeping. */
static ssize_t try_for_a_moment(struct zcws_socket *socket, uint8_t *data, size_t size) {
    ssize_t received = recv(socket->fd, data, size, MSG_DONTWAIT);
    struct zcws_moment moment;
    if (!is_nothing(received)) return received; /* no wait: nothing is learnt about waits */
    moment = zcws_moment_begin();
    while (is_nothing(received) && zcws_moment_goes_on(&moment, UINT64_MAX))
        received = recv(socket->fd, data, size, MSG_DONTWAIT);
    zcws_tried(&socket->waits, &moment, !is_nothing(received));
    if (is_nothing(received)) socket->waits.resting++; /* for this wait, which goes on */
    return received;
}

/* recv that tries for a moment before it sleeps, as long as that is of use. After a try that was of no use, it sleeps
 * only in the caller's next call: a signal that came meanwhile would not interrupt the sleep, but its handler runs
 * between the two calls. */
static ssize_t wait_and_receive(struct zcws_socket *socket, uint8_t *data, size_t size) {
    if (socket->flags == 0 && !socket->waits.never) {
        if (socket->waits.resting == 0) return try_for_a_moment(socket, data, size);
        socket->waits.resting--;
    }
    return recv(socket->fd, data, size, socket->flags);
}

int64_t zcws_receive_into(struct zcws_socket *socket, uint8_t *data, size_t size) {
    ssize_t received;
    if (socket->received != 0) return ZCWS_TORN;
    if (socket->error != 0) return ZCWS_ENDED;
    received = wait_and_receive(socket, data, size);
    if (received > 0) {
        socket->received = (size_t)received;
        socket->found = ZCWS_NOTHING;
        socket->total += (size_t)received;
        return received;
    }
    if (is_nothing(received) || (received < 0 && errno == EINTR)) return ZCWS_NOTHING;
    socket->error = received < 0 ? errno : 0;
    return ZCWS_ENDED;
}

/* ---- frames that come in parts ---- */

/* Waiting for them. */
struct parts {
    uint64_t begin;  /* the clock, when the first had come */
    size_t received; /* bytes of the last one */
};

/* Receives more into data, behind what has been received there, if it comes soon: as much as there is when `lacking`
 * bytes have come, or the time is over. Returns whether anything has. */
static int receive_soon(struct zcws_socket *socket, uint8_t *data, size_t size, uint64_t lacking,
                        struct parts *parts) {
    struct pollfd ready = {socket->fd, POLLIN, 0};
    ssize_t received;
    int count;
    if (zcws_clock() - parts->begin >= ALL_PARTS) return 0;
    zcws_mark_next(ready.fd, &socket->mark, parts->received, lacking);
    count = poll(&ready, 1, NEXT_PART);
    /* An end is for the caller's next call, which has the time to wait for it. */
    if (count < 0 || (count == 0 && socket->mark.set == 0) || (count > 0 && ready.revents != POLLIN)) return 0;
    if (count == 0) zcws_mark_late(ready.fd, &socket->mark); /* below it there may be something */
    received = recv(ready.fd, data + socket->received, size - socket->received, MSG_DONTWAIT);
    if (received < 0 && !is_nothing(received) && errno != EINTR) socket->error = errno;
    if (received <= 0) return 0;
    parts->received = (size_t)received;
    socket->received += (size_t)received;
    socket->total += (size_t)received;
    return 1;
}

int64_t zcws_receive_more(struct zcws_socket *socket, uint8_t *data, size_t size, uint64_t wanted) {
    const int64_t received = zcws_receive_into(socket, data, size);
    if (received < 0 || socket->flags != 0) return received;
    struct parts parts = {zcws_clock(), (size_t)received};
    while (socket->received < wanted && socket->received < size && socket->received < MUCH &&
           receive_soon(socket, data, size, wanted - socket->received, &parts))
        continue;
    zcws_collect(socket->fd, &socket->mark, 0);
    return (int64_t)socket->received;
}

static void scan_received(struct zcws_socket *socket) {
    socket->found =
        (int64_t)zcws_scan(socket->reader, socket->base, 0, socket->received, socket->table, socket->rows);
}

/* Whether all that has been found is that a frame has begun: no row has been written that the next scan would lose. */
static int has_only_begun(const struct zcws_socket *socket) {
    return socket->found == ZCWS_NEWS && zcws_has_begun(socket->reader, socket->table, socket->received);
}

int64_t zcws_receive(struct zcws_socket *socket) {
    const int64_t received = zcws_receive_into(socket, socket->base, socket->capacity);
    if (received < 0) return received;
    scan_received(socket);
    if (!has_only_begun(socket) || socket->flags != 0) return socket->found;
    struct parts parts = {zcws_clock(), (size_t)received};
    while (receive_soon(socket, socket->base, socket->capacity, zcws_lacking(socket->reader, 0), &parts)) {
        scan_received(socket);
        if (!has_only_begun(socket)) break;
    }
    zcws_collect(socket->fd, &socket->mark, 0);
    return socket->found;
}

int64_t zcws_receive_rest(int fd, struct zcws_reader *reader, uint8_t *data, size_t size) {
    size_t total = 0;
    ssize_t received;
    int outcome = 0;
    if (size >= ZCWS_WHOLE) size = ZCWS_WHOLE - 1;
    do {
        received = recv(fd, data + total, size - total, MSG_DONTWAIT);
        if (received <= 0) break;
        outcome = zcws_land(reader, data + total, (size_t)received);
        total += (size_t)received;
    } while (outcome == 0 && total < size && received >= MUCH);
    if (total == 0) return received < 0 ? -(int64_t)errno : 0;
    return (int64_t)total + (outcome > 0 ? ZCWS_WHOLE : 0);
}

#if !defined(MSG_NOSIGNAL) /* macOS; Python ignores SIGPIPE anyway */
#define MSG_NOSIGNAL 0
#endif

#if !defined(MSG_MORE) /* Linux: what does not fill a packet waits for what comes behind it */
#define MSG_MORE 0
#endif

static size_t send_some(int fd, const uint8_t *data, size_t len, int is_last) {
    ssize_t sent = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL | (is_last ? 0 : MSG_MORE));
    return sent > 0 ? (size_t)sent : 0;
}

#else

int64_t zcws_receive_into(struct zcws_socket *socket, uint8_t *data, size_t size) {
    (void)socket, (void)data, (void)size;
    return ZCWS_ENDED;
}

int64_t zcws_receive_more(struct zcws_socket *socket, uint8_t *data, size_t size, uint64_t wanted) {
    (void)wanted;
    return zcws_receive_into(socket, data, size);
}

int64_t zcws_receive(struct zcws_socket *socket) { return zcws_receive_into(socket, NULL, 0); }

int64_t zcws_receive_rest(int fd, struct zcws_reader *reader, uint8_t *data, size_t size) {
    (void)fd, (void)reader, (void)data, (void)size;
    return 0;
}

static size_t send_some(int fd, const uint8_t *data, size_t len, int is_last) {
    (void)fd, (void)data, (void)len, (void)is_last;
    return 0;
}

#endif

int64_t zcws_send_masked(int fd, uint8_t *out, size_t room, uint8_t first, const uint8_t *payload, size_t len,
                         uint32_t key) {
    size_t used = zcws_put_masked_head(out, first, len, key); /* bytes in `out` */
    size_t masked = 0, total = 0;                             /* bytes of the payload; sent of the frame */
    do {
        size_t part = len - masked < room - used ? len - masked : room - used, sent;
        zcws_mask_copy(out + used, payload + masked, part, key, (unsigned)(masked % sizeof key));
        masked += part;
        used += part;
        sent = send_some(fd, out, used, masked == len);
        total += sent;
        if (sent < used) return -1 - (int64_t)total;
        used = 0;
    } while (masked < len);
    return (int64_t)total;
}
