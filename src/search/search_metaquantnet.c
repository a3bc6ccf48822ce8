/* MetaQuantNet (specs/metaquantnet.md): a network that generates weights for every policy, trained
 * once, then the genetic algorithm over the policies, scored with generated weights. A problem
 * without weights (NULL hypernetwork) is searched by the genetic algorithm alone. */
#include "hyper/metaquantnet.h"
#include "search/trials.h"

#include <math.h>
#include <string.h>

extern const nbi_search nbi_search_genetic;

/* Training has that share of the time that is left where there is a deadline. */
#define TRAINING_SHARE 0.7

enum { META, EPOCHS, KIND, CONTEXT, HIDDEN, LR, SMOOTHING, INIT };
static const nbi_option options[] = {
    [META] = {"meta", NBI_OPT_TEXT, 0, 0, 0, NULL,
              "a trained one, of meta-train (default: DIR/meta.onnx, trained where it is missing)"},
    [EPOCHS] = {"epochs", NBI_OPT_INT, 10, 1, 10000, NULL, "of its training"},
    [KIND] = {"weights", NBI_OPT_CHOICE, NBI_META_HYPER, 0, 2, "hyper|shared|tables",
              "generated; or the controls: one set for all widths, one for each"},
    [CONTEXT] = {"context", NBI_OPT_CHOICE, 0, 0, 2, "1|3|all",
                 "widths that a layer's weights depend on: its own, its neighbours', all"},
    [HIDDEN] = {"hidden", NBI_OPT_INT, 32, 1, 4096, NULL, "hidden units of each layer's generator"},
    [LR] = {"lr", NBI_OPT_REAL, 0.02, 1e-9, 100, NULL, "largest learning rate, falling as a cosine"},
    [SMOOTHING] = {"smoothing", NBI_OPT_REAL, 0.1, 0, 0.99, NULL, "of labels"},
    [INIT] = {"init", NBI_OPT_CHOICE, 0, 0, 2, "generated|float|random",
              "where --finetune starts from"},
    {"population", NBI_OPT_INT, 50, 2, 10000, NULL, "policies kept"},
    {"parents", NBI_OPT_INT, 10, 1, 10000, NULL, "best policies that breed"},
    {"iterations", NBI_OPT_INT, 20, 1, 100000, NULL, "generations"},
    {"prob", NBI_OPT_REAL, 0.1, 0, 1, NULL, "probability that a gene mutates"},
    {"seeded", NBI_OPT_BOOL, 1, 0, 1, NULL,
     "the first population holds the selection by sensitivity"},
};

static nb_status evolve(nb_ctx *ctx, const nbi_search_run *r) {
    double values[NBI_COUNT(options)];
    const nbi_search *genetic = &nbi_search_genetic;
    nbi_search_run run = *r;
    for (size_t i = 0; i < genetic->n_options && i < NBI_COUNT(values); i++) {
        values[i] = genetic->options[i].def;
        for (size_t k = 0; k < NBI_COUNT(options); k++)
            if (!strcmp(options[k].name, genetic->options[i].name)) values[i] = r->options[k];
    }
    run.options = values;
    return genetic->run(ctx, &run);
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

static nb_status run(nb_ctx *ctx, const nbi_search_run *r) {
    static const int contexts[] = {1, 3, 0};
    const double *o = r->options;
    nbi_meta_settings settings = {.kind = (nbi_meta_kind)o[KIND],
                                  .context = contexts[(int)o[CONTEXT]],
                                  .hidden = (int)o[HIDDEN],
                                  .epochs = (int)o[EPOCHS],
                                  .init = (nbi_meta_init)o[INIT],
                                  .lr = o[LR],
                                  .smoothing = o[SMOOTHING],
                                  .deadline = INFINITY};
    if (!r->problem->hypernetwork) {
        nb_log(ctx, NB_LOG_INFO, "metaquantnet: there are no weights to generate");
        return evolve(ctx, r);
    }
    bool reach;
    NB_TRY(within_reach(ctx, r, &reach));
    /* the peak of memory is no sum: it alone may fall by another choice */
    if (!reach && !isfinite(r->problem->limit[NBI_COST_RAM])) return evolve(ctx, r);
    double now = nb_seconds(ctx);
    if (isfinite(r->deadline)) settings.deadline = now + TRAINING_SHARE * (r->deadline - now);
    NB_TRY(r->problem->hypernetwork(ctx, r->problem->self, &settings));
    return evolve(ctx, r);
}

const nbi_search nbi_search_metaquantnet = {
    .name = "metaquantnet",
    .help = "a network that generates weights for every policy, trained once; then genetic",
    .options = options,
    .n_options = NBI_COUNT(options),
    .run = run,
};
