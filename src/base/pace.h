/* One thread or all of them? Work that is a few dozen short parallel regions is faster on all
 * threads of a quiet machine; on a busy one every region may wait for a partner that is not
 * running, and all threads are then slower than one by an order of magnitude. So what is run again
 * and again measures both ways: the better one, and now and then, for a few milliseconds, the
 * other. All threads must save a tenth of the time at least: less is within the noise, and others
 * have use for them. Both ways must compute the same values. */
#ifndef NIBBLE_BASE_PACE_H
#define NIBBLE_BASE_PACE_H

#include "base/base.h"

/* All zero at the start: all threads first. */
typedef struct nbi_pace {
    bool alone;        /* one thread is next */
    bool best;         /* … is the better way; known once both are measured */
    bool tried;        /* both ways have been chosen */
    bool warm;         /* nothing has changed for a moment */
    double seconds[2]; /* per run, mean of the last windows of each; [1]: alone */
    double spent;      /* in this window */
    double trial;      /* in the present trial of the slower one */
    int calls;
    int windows, patience; /* of the better one since the last trial of the other, until the next */
} nbi_pace;

/* A run the chosen way took so long; decides about the next one. */
void nbi_pace_add(nbi_pace *pace, double seconds);

#endif
