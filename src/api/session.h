/* Everything a quantization job holds between its stages. */
#ifndef NIBBLE_API_SESSION_H
#define NIBBLE_API_SESSION_H

#include "api/api.h"
#include "ir/program.h"
#include "quant/fit.h"
#include "quant/learn.h"
#include "quant/qat.h"
#include "search/netproblem.h"
#include "search/pareto.h"

#define NBI_CALIB_IMAGES 512  /* default of --calib */
#define NBI_SCORE_IMAGES 512 /* validation images that score a policy */
#define NBI_DROP_IMAGES  4000 /* validation images that decide --max-drop */

typedef struct nbi_session {
    nb_ctx *ctx;
    const nb_quantize_options *o;
    nb_model *model;
    nbi_graph *source; /* float, as imported (model's) */
    nbi_graph *cut;    /* of source: without what is untouched; NULL if nothing is */
    const nbi_graph *compared; /* source or cut: computes what the integer program computes */
    nbi_qnet *net;
    nbi_transform transform;
    nbi_range_method range;
    bool per_channel, for_onnx;
    int opset, containers;
    uint8_t weight_bits[8], activation_bits[8];
    int n_weight_bits, n_activation_bits;
    nbi_choice *fixed; /* [n_sites] */

    nbi_dataset *data;
    nbi_dataset_info info;
    nbi_images images;     /* scorer's: calibration first, then the scored ones */
    size_t calib;          /* how many of them */
    uint8_t *inputs;       /* raw bytes of the scorer's images */
    float *reference;      /* float values of the score edge, all of them */
    int edge;
    nbi_loss loss;
    bool loss_given; /* by --metric */
    bool labelled;
    nbi_scorer *scorer;
    nbi_netproblem *np;
    nbi_problem *problem;
    nbi_study *study;
    nbi_qat *tuned;        /* after fine-tuning: what its policy is frozen from */
    nbi_learner *learner;  /* of the weights of one policy: */
    nbi_choice *learned;   /* [n_sites]; NULL: none, or not better */
    double **delta;        /* sensitivities, once asked for */
    nbi_images drop_images; /* for --max-drop, once asked for */
    float *drop_float;      /* float outputs on them, [n][drop_count] */
    size_t drop_count;
    double started;
} nbi_session;

/* Options checked, model read, sites made and fixed by rules; no data is touched. */
nb_status nbi_session_open(nb_ctx *ctx, const char *path, const nb_quantize_options *o,
                           nbi_session *s);
/* Data opened, calibration run, scorer, study (in o->output if there is one) and problem made. */
nb_status nbi_session_calibrate(nbi_session *s);
void nbi_session_close(nbi_session *s);

/* Sensitivities of all variables, computed once. */
nb_status nbi_session_sensitivity(nbi_session *s, double ***delta);
/* Bits of every site when each free weight has w bits and each free activation a. */
void nbi_session_uniform(const nbi_session *s, int w, int a, nbi_choice *bits);
/* The frozen graph and its program for these bits. */
nb_status nbi_session_freeze(nbi_session *s, const nbi_choice *bits, nbi_frozen **frozen,
                             nbi_program **program);
/* {site name: bits …} as policy.json: an array of {tensor, kind, layer, scheme, bits, fixed}. */
json_t *nbi_policy_json(const nbi_session *s, const nbi_choice *bits);
/* Reads policy.json into bits (sites that it does not name keep theirs). */
nb_status nbi_policy_read(nbi_session *s, const char *path, nbi_choice *bits);

/* ---- stages of nb_quantize -------------------------------------------------------------------- */

typedef struct nbi_outcome {
    nbi_choice *bits;       /* [n_sites], the chosen policy */
    double loss;
    bool feasible, cancelled;
    char method[64];
    long trials;
    double seconds;
    double cost[NBI_COST_COUNT];
    double drop, drop_bound; /* of the metric on validation images, points; NAN: not measured */
} nbi_outcome;

/* Picks the policy. NB_OK also when infeasible (outcome->feasible says so). */
nb_status nbi_choose(nbi_session *s, nbi_outcome *out);
/* NB_EINVAL when `text`, METHOD[:key=value,…], names no method or none of its options. */
nb_status nbi_check_search(nb_ctx *ctx, const char *text);
/* Sets problem->limit from the options. */
nb_status nbi_set_limits(nbi_session *s);
/* Paired drop of the metric in points on validation images: mean and one-sided 90 % bound. */
nb_status nbi_measure_drop(nbi_session *s, const nbi_choice *bits, double *drop, double *bound);
/* Whether the network can be trained at all, before a long search: NB_EUNSUPPORTED names the node.
 */
nb_status nbi_finetune_check(nbi_session *s);
/* Learns the rounding of the policy's weights as o->ptq says; from then on nbi_session_freeze gives
 * them, unless the loss on validation images is not lower (*loss: then as it was). *result: what
 * results.json says of it, NULL: nothing was asked for. Cancelled: plain rounding. */
nb_status nbi_learn(nbi_session *s, const nbi_choice *bits, double *loss, json_t **result);
/* NB_EINVAL when o->ptq names no method, or one that needs what is switched off. */
nb_status nbi_check_ptq(nb_ctx *ctx, const nb_quantize_options *o);
/* An nbi_fill_fn over s->images; user: the session. */
nb_status nbi_session_fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out);
/* Fine-tunes the policy o->finetune epochs and leaves the best one in s->tuned; *lines: what
 * results.json says of it. Cancelled: the best so far; s->tuned is NULL where no epoch was judged.
 */
nb_status nbi_finetune(nbi_session *s, const nbi_choice *bits, json_t **lines);
/* Writes everything into o->output; *result = results.json. */
nb_status nbi_deliver(nbi_session *s, const nbi_outcome *outcome, json_t **result);
/* Layers of the sensitivity table. */
nb_status nbi_sensitivity_json(nbi_session *s, json_t **out);

#endif
