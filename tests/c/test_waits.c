/* test_waits.c: how long a wait tries, and what is learnt of it. */
#include "check.h"

#if defined(__unix__) || defined(__APPLE__)

#include "../../csrc/waits.h"

static const struct zcws_moment quick = {0, 0, 1, 0}, long_one = {0, 0, 1, 1};

/* However busy the machine is, it comes to an end. */
static void test_a_moment(void) {
    struct zcws_moment moment = zcws_moment_begin();
    int tries = 1;
    while (zcws_moment_goes_on(&moment, UINT64_MAX)) tries++;
    CHECK(tries == ZCWS_TRIES || moment.has_lost_slice, "%d tries", tries);
    CHECK(moment.has_lost_slice || moment.now - moment.begin < (uint64_t)ZCWS_SLICE * ZCWS_TRIES, "a long one");
    moment = zcws_moment_begin();
    CHECK(!zcws_moment_goes_on(&moment, 0), "no time");
    CHECK(zcws_moment_goes_on(&moment, 1), "a little");
    moment.has_lost_slice = 0;
    CHECK(moment.now - moment.begin >= 1 && !zcws_moment_goes_on(&moment, 1), "it is over");
    moment = zcws_moment_begin();
    moment.has_lost_slice = 1;
    CHECK(!zcws_moment_goes_on(&moment, UINT64_MAX), "somebody computes");
}

/* Twice as many behind each in vain, half as many behind the others. */
static void test_what_is_learnt(void) {
    static const uint32_t grows[] = {1, 3, 7, 15, 31, 63, 63}, shrinks[] = {31, 15, 7, 3, 1, 0, 0};
    struct zcws_waits waits = {0};
    for (size_t i = 0; i < sizeof grows / sizeof *grows; i++) {
        zcws_tried(&waits, &quick, 0);
        CHECK(waits.rest == grows[i] && waits.resting == grows[i], "%u", waits.rest);
    }
    for (size_t i = 0; i < sizeof shrinks / sizeof *shrinks; i++) {
        zcws_tried(&waits, &quick, 1);
        CHECK(waits.rest == shrinks[i] && waits.resting == 0, "%u", waits.rest);
    }
}

/* Slices that others take: three in a row, or one of four again and again, but not one of five. */
static void test_others_that_compute(void) {
    struct zcws_waits waits = {0};
    for (int i = 1; i <= 3; i++) {
        CHECK(waits.resting == 0, "%d is no reason", i);
        zcws_tried(&waits, &long_one, 1);
    }
    CHECK(waits.resting == ZCWS_REST_FROM_SLICES && waits.rest == 0, "a long rest");
    for (int every = 4; every <= 5; every++) {
        int rests = 0;
        memset(&waits, 0, sizeof waits);
        for (int i = 0; i < 100; i++) {
            zcws_tried(&waits, i % every == 0 ? &long_one : &quick, 1);
            rests += waits.resting != 0;
        }
        CHECK((rests != 0) == (every == 4), "%d rests, one of %d", rests, every);
    }
}

int main(int argc, char **argv) {
    random_start(argc, argv);
    test_a_moment();
    test_what_is_learnt();
    test_others_that_compute();
    return 0;
}

#else

int main(void) { return 0; }

#endif
