/* waits.h: whether a wait for bytes tries for a moment before it sleeps. Internal to csrc/, for POSIX.
 *
 * An answer from the same machine comes within microseconds; whoever still tries then has nobody to wake. Where trying
 * is of no use it rests: twice as many waits after each try in vain, half as many after each that found something. So it
 * goes on only where most tries find something, and costs next to nothing elsewhere.
 *
 * Between two tries the CPU goes to whoever wants it: another thread of ours, or the peer. To a program that computes it
 * would go for milliseconds; where that has been seen again and again, the rest is a long one. */
#ifndef ZCWS_WAITS_H
#define ZCWS_WAITS_H

#include "zcws.h"

#include <sched.h>
#include <time.h>

enum {
    /* Sleeping and being woken costs 10 to 20 us of both ends' CPU, a try that finds nothing 0.2 to 0.4: a wait that
     * tries for as long as that and then sleeps costs at most twice the best. So many tries at most, and nanoseconds for
     * somebody who has more to do than to wait. */
    ZCWS_TRIES = 64,
    ZCWS_MOMENT = 30 * 1000,
    /* This many waits sleep at once when trying has been of no use again and again. */
    ZCWS_LONGEST_REST = 63,
    /* Nanoseconds: who has the CPU for as long as this computes. */
    ZCWS_SLICE = 2 * 1000 * 1000,
    /* Where that happens to more than one of five waits that try, three times or a few more, so many others sleep at
     * once. Seldom, it says nothing: there may be many threads of ours. */
    ZCWS_LOSS = 4,
    ZCWS_MOST_LOSS = 12,
    ZCWS_REST_FROM_SLICES = 1023
};

/* Somebody who has begun to try. Times are nanoseconds, of a clock that only goes forward. */
struct zcws_moment {
    uint64_t begin, now;
    int tries, has_lost_slice;
};

static inline uint64_t zcws_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* The first try has found nothing. */
static inline struct zcws_moment zcws_moment_begin(void) {
    const uint64_t now = zcws_clock();
    const struct zcws_moment moment = {now, now, 1, 0};
    return moment;
}

/* Whether to try once more, within so many nanoseconds since the first; others have had the CPU. */
static inline int zcws_moment_goes_on(struct zcws_moment *moment, uint64_t limit) {
    const uint64_t before = moment->now;
    if (moment->tries >= ZCWS_TRIES || moment->has_lost_slice || before - moment->begin >= limit) return 0;
    sched_yield();
    moment->now = zcws_clock();
    moment->has_lost_slice = moment->now - before >= ZCWS_SLICE;
    moment->tries++;
    return 1;
}

/* A wait has tried, and had to. */
static inline void zcws_tried(struct zcws_waits *waits, const struct zcws_moment *moment, int has_found) {
    if (moment->has_lost_slice)
        waits->lost += ZCWS_LOSS;
    else if (waits->lost > 0)
        waits->lost--;
    if (waits->lost >= ZCWS_MOST_LOSS) {
        waits->lost = 0;
        waits->resting = ZCWS_REST_FROM_SLICES;
    } else if (has_found) {
        waits->rest /= 2;
        waits->resting = 0;
    } else {
        waits->rest = waits->rest < ZCWS_LONGEST_REST ? 2 * waits->rest + 1 : ZCWS_LONGEST_REST;
        waits->resting = waits->rest;
    }
}

#endif
