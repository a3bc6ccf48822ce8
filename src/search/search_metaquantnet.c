/* MetaQuantNet (docs/searches.md): a network that generates weights for every policy, trained
 * once, then the genetic algorithm (or a method it is compared with) over the policies, scored with
 * generated weights. A problem without weights (NULL hypernetwork) is searched by that method alone. */
#include "hyper/metaquantnet.h"
#include "search/trials.h"

#include <math.h>
#include <string.h>

extern const nbi_search nbi_search_genetic, nbi_search_random, nbi_search_haq;

/* Training has that share of the time that is left where there is a deadline. */
#define TRAINING_SHARE 0.7

enum { META, EPOCHS, KIND, CONTEXT, HIDDEN, LR, SMOOTHING, BY };
static const nbi_option options[] = {
    [META] = {"meta", NBI_OPT_TEXT, 0, 0, 0, NULL,
              "a trained one, of meta-train (default: DIR/meta.onnx, trained where it is missing)"},
    [EPOCHS] = {"epochs", NBI_OPT_INT, 10, 1, 10000, NULL, "of its training"},
    [KIND] = {"weights", NBI_OPT_CHOICE, NBI_META_HYPER, 0, 2, "generated|shared|tables",
              "for every choice; or the controls: one set for all widths, one for each"},
    [CONTEXT] = {"context", NBI_OPT_CHOICE, 0, 0, 2, "1|3|all",
                 "widths that a layer's weights depend on: its own, its neighbours', all"},
    [HIDDEN] = {"hidden", NBI_OPT_INT, 32, 1, 4096, NULL, "hidden units of each layer's generator"},
    [LR] = {"lr", NBI_OPT_REAL, 0.02, 1e-9, 100, NULL, "largest learning rate, falling as a cosine"},
    [SMOOTHING] = {"smoothing", NBI_OPT_REAL, 0.1, 0, 0.99, NULL, "of labels"},
    [BY] = {"by", NBI_OPT_CHOICE, 0, 0, 2, "genetic|random|haq",
            "the search over policies; the last two are what it is compared with"},
    /* genetic's: the others have other keys, which keep their defaults */
    {"population", NBI_OPT_INT, 50, 2, 10000, NULL, "policies kept"},
    {"parents", NBI_OPT_INT, 10, 1, 10000, NULL, "best policies that breed"},
    {"iterations", NBI_OPT_INT, 20, 1, 100000, NULL, "generations"},
    {"prob", NBI_OPT_REAL, 0.1, 0, 1, NULL, "probability that a gene mutates"},
    {"seeded", NBI_OPT_BOOL, 1, 0, 1, NULL,
     "the first population holds the selection by sensitivity"},
};

static const nbi_search *const methods[] = {&nbi_search_genetic, &nbi_search_random,
                                            &nbi_search_haq};

/* Keys behind BY that were given must be the method's. */
static nb_status check(nb_ctx *ctx, const char *text, const double *values) {
    const nbi_search *method = methods[(int)values[BY]];
    for (size_t k = BY + 1; k < NBI_COUNT(options); k++) {
        bool known = false;
        for (size_t i = 0; i < method->n_options; i++)
            known |= !strcmp(options[k].name, method->options[i].name);
        if (!known && nbi_options_given(text, options[k].name))
            return nb_fail(ctx, NB_EINVAL, "metaquantnet: by=%s has no option '%s'", method->name,
                           options[k].name);
    }
    return NB_OK;
}

/* The search with its own defaults and those of its keys that stand behind BY. */
static nb_status evolve(nb_ctx *ctx, const nbi_search_run *r) {
    double values[NBI_COUNT(options)];
    const nbi_search *method = methods[(int)r->options[BY]];
    nbi_search_run run = *r;
    for (size_t i = 0; i < method->n_options && i < NBI_COUNT(values); i++) {
        values[i] = method->options[i].def;
        for (size_t k = BY + 1; k < NBI_COUNT(options); k++)
            if (!strcmp(options[k].name, method->options[i].name)) values[i] = r->options[k];
    }
    run.options = values;
    return method->run(ctx, &run);
}

/* A limit that not even the cheapest options meet is reported before anything is trained. */
static nb_status within_reach(nb_ctx *ctx, const nbi_search_run *r, bool *out) {
    double cost[NBI_COST_COUNT];
    uint8_t *cheapest;
    NB_TRY(nbi_alloc(ctx, (size_t)r->problem->n_vars + 1, 1, &cheapest));
    nb_status st = r->problem->cost(ctx, r->problem->self, cheapest, cost);
    nbi_free(cheapest);
    *out = st == NB_OK && nbi_feasible(r->problem, cost);
    return st;
}

static nb_status prepare(nb_ctx *ctx, const nbi_search_run *r) {
    static const int contexts[] = {1, 3, 0};
    const double *o = r->options;
    nbi_meta_settings settings = {.kind = (nbi_meta_kind)o[KIND],
                                  .context = contexts[(int)o[CONTEXT]],
                                  .hidden = (int)o[HIDDEN],
                                  .epochs = (int)o[EPOCHS],
                                  .lr = o[LR],
                                  .smoothing = o[SMOOTHING],
                                  .deadline = INFINITY};
    double now = nb_seconds(ctx);
    if (isfinite(r->deadline)) settings.deadline = now + TRAINING_SHARE * (r->deadline - now);
    return r->problem->hypernetwork(ctx, r->problem->self, &settings);
}

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    if (!r->problem->hypernetwork) {
        nb_log(ctx, NB_LOG_INFO, "metaquantnet: there are no weights to generate");
        return evolve(ctx, r);
    }
    bool reach;
    NB_TRY(within_reach(ctx, r, &reach));
    /* the peak of memory is no sum: it alone may fall by another choice */
    if (!reach && !isfinite(r->problem->limit[NBI_COST_RAM])) return evolve(ctx, r);
    NB_TRY(prepare(ctx, r));
    return evolve(ctx, r);
}

const nbi_search nbi_search_metaquantnet = {
    .name = "metaquantnet",
    .help = "a network that generates weights for every policy, trained once; then genetic",
    .options = options,
    .n_options = NBI_COUNT(options),
    .check = check,
    .prepare = prepare,
    .run = run,
};
