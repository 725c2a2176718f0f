/* mark.h: how much has to have come before the kernel wakes whoever waits for it (SO_RCVLOWAT). Internal to csrc/.
 *
 * A network cuts a large frame into packets, and each would wake us to receive a part that nobody has a use for yet.
 * Once the head is there it is known how much is to come, so the kernel is told to collect it. The end of the stream
 * wakes us whatever the mark, and what has come below it can be received by whoever does not wait.
 *
 * What nobody has received is not confirmed at once either, if it is less than two packets; and there are peers that wait
 * for that before they go on: with the last packet, if it is not full (Nagle's algorithm: RFC 9293 3.7.4), or, if they
 * are small, with each. So the last two packets are never collected; the first mark is for two packets, and only where a
 * mark is reached, the next is for more. One that is not reached soon is taken away (whoever sets it sees to that), and
 * there is none for some time, each time for longer. */
#ifndef ZCWS_MARK_H
#define ZCWS_MARK_H

#include "zcws.h"

#include <sys/socket.h>

enum {
    /* Bytes. Not more, because a peer stops sending when its window is full, which may be 64 KiB: what is read by then
     * leaves it most of it. */
    ZCWS_MARK_MOST = 16 * 1024,
    ZCWS_MARK_FIRST = 2 * 1460, /* two full packets of Ethernet */
    /* Less than this comes in one packet, mostly: nothing is gained for the two system calls. */
    ZCWS_MARK_LEAST = 1500,
    /* Parts of large frames before a connection's first mark. The kernel widens the window of a new connection by what
     * has been received in a round trip. Whoever receives later has it widened later, and the peer, who has filled it,
     * waits meanwhile. */
    ZCWS_MARK_EARLY = 128,
    /* A part of fewer bytes is no packet of a network's: whoever sends so little at a time may wait after each. */
    ZCWS_MARK_PART = 500,
    ZCWS_MARK_FIRST_REST = 15, /* parts of large frames */
    ZCWS_MARK_LONGEST_REST = 4095
};

static inline void zcws_collect(int fd, struct zcws_mark *mark, uint32_t bytes) {
    const int value = bytes != 0 ? (int)bytes : 1; /* macOS and the BSDs refuse 0, and the mark would stay */
    if (mark->set == bytes) return;
    mark->set = bytes;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &value, sizeof value);
}

/* A mark was not reached soon. */
static inline void zcws_mark_late(int fd, struct zcws_mark *mark) {
    const uint32_t rest = 2 * mark->rest + ZCWS_MARK_FIRST_REST;
    mark->rest = mark->resting = rest < ZCWS_MARK_LONGEST_REST ? rest : ZCWS_MARK_LONGEST_REST;
    mark->most = ZCWS_MARK_FIRST;
    zcws_collect(fd, mark, 0);
}

static inline void zcws_mark_reached(struct zcws_mark *mark) {
    mark->rest /= 2;
    mark->most = mark->most < ZCWS_MARK_MOST / 2 ? 2 * mark->most : ZCWS_MARK_MOST;
}

/* Sets the mark for the next wait, or none. `received`: bytes of the last receive; where they come in large parts anyway,
 * there is nothing to gain. `lacking`: bytes that come before anything else, and are of use only when all are there; 0:
 * none are known of. */
static inline void zcws_mark_next(int fd, struct zcws_mark *mark, size_t received, uint64_t lacking) {
    const uint64_t sure =
        lacking > ZCWS_MARK_FIRST ? lacking - ZCWS_MARK_FIRST : 0; /* without the last two packets */
    const int is_packet = received >= ZCWS_MARK_PART && received <= ZCWS_MARK_MOST;
    uint32_t bytes = 0;
    if (mark->most == 0) { /* the connection is new */
        mark->most = ZCWS_MARK_FIRST;
        mark->resting = ZCWS_MARK_EARLY;
    }
    if (mark->set != 0 && received >= mark->set) zcws_mark_reached(mark);
    if (sure >= ZCWS_MARK_LEAST && mark->resting != 0)
        mark->resting--;
    else if (sure >= ZCWS_MARK_LEAST && (mark->set != 0 || is_packet))
        bytes = sure < mark->most ? (uint32_t)sure : mark->most;
    zcws_collect(fd, mark, bytes);
}

#endif
