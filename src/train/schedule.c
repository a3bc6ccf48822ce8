/* Schedules are functions of the step alone, so that nothing has to be kept for a resume. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

nb_status nbi_schedule_parse(nb_ctx *ctx, const char *name, nbi_schedule_kind *out) {
    static const char *const names[] = {"constant", "step", "cosine"};
    for (int i = 0; i < (int)NBI_COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *out = (nbi_schedule_kind)i;
            return NB_OK;
        }
    return nb_fail(ctx, NB_EINVAL, "schedule: '%s' is not constant, step or cosine", name);
}

nb_status nbi_schedule_check(nb_ctx *ctx, const nbi_schedule *s) {
    if (!(s->lr > 0 && isfinite(s->lr)))
        return nb_fail(ctx, NB_EINVAL, "the learning rate is %g, want a number above 0", s->lr);
    if (!(s->last >= 0 && s->last <= 1))
        return nb_fail(ctx, NB_EINVAL, "the last learning rate is %g of the first, want 0 to 1",
                       s->last);
    if (s->steps == 0) return nb_fail(ctx, NB_EINVAL, "there are no steps to train");
    if (s->warmup >= s->steps)
        return nb_fail(ctx, NB_EINVAL, "warm-up takes %llu steps, the whole training %llu",
                       (unsigned long long)s->warmup, (unsigned long long)s->steps);
    return NB_OK;
}

double nbi_schedule_lr(const nbi_schedule *s, uint64_t step) {
    if (step >= s->steps) step = s->steps - 1;
    if (step < s->warmup) return s->lr * (double)(step + 1) / (double)s->warmup;
    uint64_t t = step - s->warmup, total = s->steps - s->warmup;
    switch (s->kind) {
    case NBI_LR_STEP:
        return 4 * t >= 3 * total ? s->lr / 100 : 2 * t >= total ? s->lr / 10 : s->lr;
    case NBI_LR_COSINE:
        return s->lr * (s->last + (1 - s->last) * 0.5 *
                                      (1 + cos(3.14159265358979323846 * (double)t / (double)total)));
    case NBI_LR_CONSTANT:
        break;
    }
    return s->lr;
}
