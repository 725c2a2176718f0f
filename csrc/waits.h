/* waits.h: whether a wait for bytes tries for a moment before it sleeps. Internal to csrc/.
 *
 * An answer from the same machine comes within microseconds; whoever still tries then has nobody to wake. Where trying
 * is of no use it rests: twice as many waits after each try in vain, half as many after each that found something. So it
 * goes on only where most tries find something, and costs next to nothing elsewhere.
 *
 * Between two tries nobody yields: the CPU would go to whatever else wants it, for milliseconds, and not to the peer. */
#ifndef ZCWS_WAITS_H
#define ZCWS_WAITS_H

#include "zcws.h"

enum {
    /* How often a wait tries before it sleeps. Sleeping and being woken costs 10 to 20 us of both ends' CPU, a try that
     * finds nothing 0.1 to 0.2: a wait that tries for as long as that and then sleeps costs at most twice the best. */
    ZCWS_TRIES = 128,
    /* This many waits sleep at once when trying has been of no use again and again. */
    ZCWS_LONGEST_REST = 63
};

/* A wait has tried, and had to. */
static inline void zcws_tried(struct zcws_waits *waits, int has_found) {
    if (has_found) {
        waits->rest /= 2;
        waits->resting = 0;
    } else {
        waits->rest = waits->rest < ZCWS_LONGEST_REST ? 2 * waits->rest + 1 : ZCWS_LONGEST_REST;
        waits->resting = waits->rest;
    }
}

#endif
