/* See pace.h. */
#include "base/pace.h"

#define WARMING  1e-3 /* seconds after a change that do not count: cold caches, sleeping threads */
#define WINDOW   4e-3 /* seconds that are measured together */
#define SOON     8    /* windows between two trials of the slower one, at first */
#define PATIENCE 64   /* … and at most, */
#define AWFUL    8    /* times as long as alone */
#define WORTH    0.9  /* of the time alone: what all threads may take to be the better way */
#define COST     20   /* … but so many times as long as the last trial took */

static void use(nbi_pace *p, bool alone) {
    if (p->alone != alone) p->warm = false;
    p->alone = alone;
}

/* A window is over. */
static void decide(nbi_pace *p) {
    const bool best = p->seconds[1] * WORTH < p->seconds[0];
    if (best == p->best && p->alone == best) {
        if (++p->windows < p->patience) return;
        p->windows = 0;
        use(p, !best);
        return;
    }
    /* Another better one is perhaps an accident, soon to be looked at again; a trial that failed
     * can wait longer for the next. */
    if (best != p->best)
        p->patience = SOON;
    else if (p->patience < PATIENCE)
        p->patience *= 2;
    if (p->trial * COST > p->patience * WINDOW) p->patience = (int)(p->trial * COST / WINDOW);
    p->trial = 0;
    p->best = best;
    p->windows = 0;
    use(p, best);
}

void nbi_pace_add(nbi_pace *p, double seconds) {
    p->spent += seconds;
    if (p->tried && p->alone != p->best) p->trial += seconds;
    p->calls++;
    /* one wait for a thread that is not running says enough */
    const bool awful = !p->alone && p->seconds[1] > 0 && seconds > AWFUL * p->seconds[1];
    if (awful && p->trial < seconds) p->trial = seconds;
    if (!awful && p->spent < (p->warm ? WINDOW : WARMING)) return;
    const double each = p->spent / p->calls;
    p->spent = 0;
    p->calls = 0;
    if (!awful && !p->warm) {
        p->warm = true;
        return;
    }
    double *mean = &p->seconds[p->alone]; /* of the last few windows */
    *mean = *mean > 0 ? (*mean + each) / 2 : each;
    if (p->tried) {
        decide(p);
        return;
    }
    p->tried = true;
    p->patience = SOON;
    use(p, true);
}
