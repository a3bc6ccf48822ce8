/* What ranks policies (--rank): weights rounded to their nearest levels, or learned for each candidate
 * as those of the chosen policy will be, only quicker and without the branches of an addition making up
 * for each other. */
#include "api/session.h"

#include <string.h>

#define ROWS 8192 /* pixels that a layer is learned from; the chosen policy has four times as many */

static const char *const ways[] = {"nearest", "learned"};

nb_status nbi_check_rank(nb_ctx *ctx, const nb_quantize_options *o) {
    const bool learned = !strcmp(o->rank, ways[1]);
    const nbi_search *method;
    double values[NBI_SEARCH_OPTIONS];
    NB_TRY(nbi_parse_search(ctx, o->search, &method, values));
    if (!learned && strcmp(o->rank, ways[0]))
        return nb_fail(ctx, NB_EINVAL, "rank: '%s' is not one of: nearest, learned", o->rank);
    if (learned && !nbi_learns(o))
        return nb_fail(ctx, NB_EINVAL, "--rank learned, but the chosen policy's rounding is not "
                       "learned (--ptq)");
    if (learned && method->prepare)
        return nb_fail(ctx, NB_EINVAL, "--rank learned, but '%s' scores weights of its own",
                       method->name);
    if (learned && o->settings)
        nb_log(ctx, NB_LOG_WARNING, "--settings compares settings with weights at their nearest "
               "levels; policies are ranked with learned rounding");
    return NB_OK;
}

void nbi_rank(nbi_session *s, bool use) {
    if (!s->ranker) return;
    if (use) nbi_scorer_set_pure_rounding(s->scorer, nbi_learner_try, s->ranker);
    else nbi_scorer_set_rounding(s->scorer, NULL, NULL);
}

nb_status nbi_rank_begin(nbi_session *s) {
    const uint64_t salt = NBI_HASH_START;
    nbi_learner_options o = {.source = s->source, .net = s->net, .fill = nbi_session_fill,
                             .fill_user = s, .images = s->calib, .seed = nb_ctx_seed(s->ctx),
                             .rows = ROWS, .alone = true};
    if (strcmp(s->o->rank, ways[1]) || s->ranker) return NB_OK;
    NB_TRY(nbi_learner_new(s->ctx, &o, &s->ranker));
    nbi_rank(s, true);
    return nbi_session_begin_study(s, salt);
}
