/* mark.h: how much has to have come before the kernel wakes whoever waits for it (SO_RCVLOWAT). Internal to csrc/.
 *
 * A network cuts a large frame into packets, and each would wake us to receive a part that nobody has a use for yet.
 * Once the head is there it is known how much is to come, so the kernel is told to collect it. It never waits in vain:
 * the mark is at most what is to come of the frame, less than any receive window, and the end of the stream wakes us
 * whatever the mark. What has come below it can be received by whoever does not wait. */
#ifndef ZCWS_MARK_H
#define ZCWS_MARK_H

#include "zcws.h"

#include <sys/socket.h>

enum {
    /* Bytes. Not more, because a peer stops sending when its window is full, which may be 64 KiB: what is read by then
     * leaves it most of it. */
    ZCWS_MARK_MOST = 16 * 1024,
    /* Less than this comes in one packet, mostly: nothing is gained for the two system calls. */
    ZCWS_MARK_LEAST = 1500
};

/* Sets the mark for the next wait. `mark` is the one that is set, 0 if none is: the caller keeps it. `received`: bytes of
 * the last receive; where they come in large parts anyway, there is nothing to gain. `lacking`: bytes that come before
 * anything else, and are of use only when all are there; 0: none are known of. */
static inline void zcws_set_mark(int fd, uint32_t *mark, size_t received, uint64_t lacking) {
    int bytes = lacking < ZCWS_MARK_MOST ? (int)lacking : ZCWS_MARK_MOST;
    if (*mark == 0 && (lacking < ZCWS_MARK_LEAST || received > ZCWS_MARK_MOST)) return;
    if (*mark == (uint32_t)bytes) return;
    *mark = (uint32_t)bytes;
    /* macOS and the BSDs refuse 0, and the mark would stay. */
    if (bytes == 0) bytes = 1;
    setsockopt(fd, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes);
}

#endif
