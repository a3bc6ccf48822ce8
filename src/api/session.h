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

/* What a further fine-tuning (nb_finetune) changes; all zero in nb_quantize. */
typedef struct nbi_further {
    bool on;            /* the policy is given; the study is left alone */
    const char *tuned;  /* file of the values to start from; NULL: the float network's */
    nbi_graph *fresh;   /* the float network with random weights to start from; NULL: source */
    uint64_t seed;      /* beside the context's, of batches */
    double time_limit;  /* seconds; 0: none */
} nbi_further;

/* What fine-tuning leaves beside s->tuned. */
typedef struct nbi_tuning_result {
    json_t *lines;   /* for results.json */
    int epochs;      /* behind s->tuned, over all fine-tunings */
    char origin[20]; /* what an unfinished one started from, and the epochs behind that; */
    int origin_epochs; /* "": it is finished */
    double origin_merit; /* nbi_tuned_info's */
    bool nothing;    /* stopped before an epoch was judged */
    bool whole;      /* not stopped */
} nbi_tuning_result;

typedef enum nbi_tune_start { /* --start */
    NBI_START_AUTO,    /* the better one of the next two, where they exist; else the model's */
    NBI_START_SEARCH,  /* weights that the search trained, if it trained any */
    NBI_START_ROUNDED, /* what learned rounding made of the model's, if it was better than plain */
    NBI_START_FLOAT,
    NBI_START_RANDOM
} nbi_tune_start;

typedef struct nbi_session {
    nb_ctx *ctx;
    const nb_quantize_options *o;
    nb_model *model;
    nbi_graph *source; /* float, as imported (model's) */
    nbi_graph *cut;    /* of source: without what is untouched; NULL if nothing is */
    const nbi_graph *compared; /* source or cut: computes what the integer program computes */
    double untouched_bytes;    /* of float parameters of source that are not in cut */
    nbi_qnet *net;
    nbi_transform transform;
    nbi_range_method range;
    bool per_channel, for_onnx;
    int opset, containers;
    nbi_offer weights, activations, biases; /* choices of free sites */
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
    nbi_team *team; /* that the scorer is spread over; NULL: none */
    nbi_netproblem *np;
    nbi_problem *problem;
    nbi_study *study;
    long known; /* policies in it that an earlier call has scored */
    struct nbi_meta *meta;  /* the network that generates weights, once asked for */
    json_t *about_meta;    /* what results.json says of it */
    bool generated;        /* the scorer's weights are its */
    nbi_tune_start start;  /* of fine-tuning */
    float *searched;       /* nbi_trained_take of the last policy that was learned; NULL: none */
    json_t *about_settings; /* of the search for settings; NULL: none */
    nbi_step_costs *costs; /* where latency or energy are limited; else NULL */
    nbi_qat *tuned;        /* after fine-tuning: what its policy is frozen from */
    nbi_learner *ranker;   /* of the weights of candidates; NULL: they have their nearest levels */
    nbi_learner *learner;  /* of the weights of one policy: */
    nbi_choice *learned;   /* [n_sites]; NULL: none, or not better */
    nbi_qparam *learned_grid; /* [n_sites] of its activations where they were learned, too; NULL: none */
    json_t *ptq;           /* what results.json says of it; NULL: nothing was learned */
    nbi_further further;
    const char *folder;    /* of the run: checkpoints; o->output, or what it will replace */
    double **delta;        /* sensitivities, once asked for */
    double *curvature;     /* [n_sites] of nbi_curvature, once asked for */
    nbi_images drop_images; /* for --max-drop, once asked for */
    float *drop_float;      /* float outputs on them, [n][drop_count] */
    size_t drop_count;
    double started;
} nbi_session;

/* Options checked, model read, sites made and fixed by rules; no data is touched. The caller warns of
 * what stays as it is (nbi_warn_untouched), once in all its sessions. */
nb_status nbi_session_open(nb_ctx *ctx, const char *path, const nb_quantize_options *o,
                           nbi_session *s);
/* Data opened, calibration run, scorer made: what every process of a team does. */
nb_status nbi_session_prepare(nbi_session *s);
/* From here on the session's scorer is spread over the team (NULL: not). st: how it went so far; the
 * result is the same in all processes. Those of rank > 0 serve next (nbi_scorer_serve). */
nb_status nbi_session_spread(nb_ctx *ctx, nbi_session *s, nbi_team *team, nb_status st);
/* Study (in o->output if there is one) and problem. */
nb_status nbi_session_pose(nbi_session *s);
/* nbi_session_prepare and nbi_session_pose: a session of one process. */
nb_status nbi_session_calibrate(nbi_session *s);
/* s->net, of this float graph. */
nb_status nbi_session_net(nbi_session *s, const nbi_graph *source);
void nbi_session_close(nbi_session *s);
/* What the session's scorer was made with. */
nbi_scorer_options nbi_session_scorer_options(const nbi_session *s);
/* Trials go into the study of this job; salt: of what else scores depend on. */
nb_status nbi_session_begin_study(nbi_session *s, uint64_t salt);

/* Sensitivities of all variables, computed once. */
nb_status nbi_session_sensitivity(nbi_session *s, double ***delta);
/* How the session trains networks: losses, distillation, granularity. */
nbi_qat_options nbi_session_qat_options(const nbi_session *s, size_t batch);
/* Of a network that ends in front of unknown operators in several places: what trains it compares all
 * of its outputs. */
bool nbi_session_teaches_all(const nbi_session *s);
/* The float network, teaching what nbi_session_qat_options compares. */
struct nbi_teacher;
nb_status nbi_session_teacher(const nbi_session *s, size_t batch, struct nbi_teacher *teacher);
/* Images per step: --batch, or what there is where that is less. */
size_t nbi_session_batch(const nbi_session *s);
/* nbi_netproblem_options.learn of a session (its `user`): schemes and widths by gradient. */
nb_status nbi_relaxed_learn(nb_ctx *ctx, void *session, const nbi_learning *how,
                            const double target[3], nbi_choice *choice);
/* nbi_netproblem_options.curvature of a session (its `user`). */
nb_status nbi_curvature(nb_ctx *ctx, void *session, double *mean);
/* Choices of every site when each free weight has w, each free activation a and each free
 * bias the widest one. */
void nbi_session_uniform(const nbi_session *s, nbi_choice w, nbi_choice a, nbi_choice *bits);
/* What --schemes, --weight-bits, --activation-bits and --bias-bits offer. */
nb_status nbi_parse_offers(nbi_session *s);
/* NB_EINVAL when a site cannot get a choice. */
nb_status nbi_session_check(nbi_session *s, int site, nbi_choice choice);
/* "REGEX:W,A" or "REGEX:W,A,B": what the layers that fit get, in s->fixed. */
nb_status nbi_apply_rule(nbi_session *s, const char *rule);
/* The frozen graph and its program for these bits. */
nb_status nbi_session_freeze(nbi_session *s, const nbi_choice *bits, nbi_frozen **frozen,
                             nbi_program **program);
/* "weight", "activation", … as policies call it. */
const char *nbi_kind_name(nbi_site_kind kind);
/* {site name: bits …} as policy.json: an array of {tensor, kind, layer, scheme, bits, fixed}. */
json_t *nbi_policy_json(const nbi_session *s, const nbi_choice *bits);
/* {sites[], layers[], untouched[]}, each with its reasons: decisions.c. */
json_t *nbi_decisions_json(const nbi_session *s);
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
/* METHOD[:key=value,…] → row and values of its options. NB_EINVAL when `text` names no method or none
 * of its options. */
#define NBI_SEARCH_OPTIONS 32 /* of a method, at most */
nb_status nbi_parse_search(nb_ctx *ctx, const char *text, const nbi_search **out,
                           double values[NBI_SEARCH_OPTIONS]);
/* Searches how the network is calibrated, by given->settings: *out is `given` with what was chosen, and
 * with the time that is left; *about says how (the caller's). Rank 0 of a team searches; the others learn
 * what was chosen. */
nb_status nbi_configure(nb_ctx *ctx, nbi_team *team, const char *path,
                        const nb_quantize_options *given, nb_quantize_options *out, json_t **about);
/* Sets problem->limit from the options. */
nb_status nbi_set_limits(nbi_session *s);
/* --max-drop, or its default once data is open: 1 point, or what the images can show at best. */
double nbi_max_drop(const nbi_session *s);
/* Paired drop of the metric in points on validation images: mean and one-sided 90 % bound, which for
 * n images is 230/n above the mean at least. */
nb_status nbi_measure_drop(nbi_session *s, const nbi_choice *bits, double *drop, double *bound);
/* Of weights and biases in float32, those of nodes that stay float among them: what --compression is of. */
double nbi_float_bytes(const nbi_session *s);
/* result.limits: rows {limit, wanted, got, ok} of what was asked for and what came out; result.met and
 * outcome->feasible, by what was delivered: its bytes, and without a table of the user's its latency. */
void nbi_judge_limits(const nbi_session *s, nbi_outcome *outcome, json_t *result);
/* "max-size 2000 bytes cannot be met: the closest policy …, has 12345 bytes"; as it was where none is
 * missed. */
void nbi_describe_miss(const json_t *result, char *text, size_t size);
/* Whether the network can be trained at all, and as the options say, before a long search:
 * NB_EUNSUPPORTED names the node. */
nb_status nbi_finetune_check(nbi_session *s);
/* Learns the rounding of the policy's weights as o->ptq says; from then on nbi_session_freeze gives
 * them, unless the loss on validation images is higher beyond chance (*loss: then as it was).
 * Cancelled: the best so far. */
nb_status nbi_learn(nbi_session *s, const nbi_choice *bits, double *loss);
/* The scorer's weights are the learned ones from now on, or the plain ones again. */
void nbi_use_learned(nbi_session *s, bool use);
/* Whether the delivered policy's roundings are learned. */
bool nbi_learns(const nb_quantize_options *o);
/* NB_EINVAL when o->rank names no way, or one that does not go with o->ptq or o->search. */
nb_status nbi_check_rank(nb_ctx *ctx, const nb_quantize_options *o);
/* Scores are those of o->rank from now on. */
nb_status nbi_rank_begin(nbi_session *s);
/* What nbi_rank_begin began goes on, or is put aside. */
void nbi_rank(nbi_session *s, bool use);
/* NB_EINVAL when o->ptq names no method, or one that needs what is switched off. */
nb_status nbi_check_ptq(nb_ctx *ctx, const nb_quantize_options *o);
/* Equalizes the model in place where o->ptq asks for it. */
nb_status nbi_equalize_model(nb_ctx *ctx, const nb_quantize_options *o, nbi_graph *graph);
/* An nbi_fill_fn over s->images; user: the session. */
nb_status nbi_session_fill(nb_ctx *ctx, void *user, size_t first, size_t n, float *out);
/* Fine-tunes the policy o->finetune epochs and leaves the best one in s->tuned: NULL where none is
 * better than the policy without fine-tuning, or where none was judged. Cancelled: the best so far.
 */
nb_status nbi_finetune(nbi_session *s, const nbi_choice *bits, nbi_tuning_result *result);
/* Removes the checkpoint of a whole fine-tuning: once what was trained is delivered. */
void nbi_finetune_forget(const nbi_session *s, const nbi_tuning_result *result);
/* nbi_finetune, then the drop of the metric anew where it counts; cancelled: also NB_OK. */
nb_status nbi_tune(nbi_session *s, nbi_outcome *outcome, nbi_tuning_result *result);
/* Random weights in s->further.fresh and a network of them in s->net; data opened, and not yet
 * calibrated. */
nb_status nbi_session_refresh(nbi_session *s);
/* Writes everything into o->output; *result = results.json. */
nb_status nbi_deliver(nbi_session *s, const nbi_outcome *outcome, json_t **result);
/* nbi_deliver, the limits, the trained values, and results.json itself. tuning->lines is taken
 * over; `search` (not taken over) replaces what results.json says of the search where not NULL. */
nb_status nbi_conclude(nbi_session *s, nbi_outcome *outcome, nbi_tuning_result *tuning,
                       const json_t *search, json_t **result);
/* What a call returns after `st`: the text of `result` (taken over); NB_ELIMIT names the first limit
 * that is not met. outcome NULL: there was nothing to meet. */
nb_status nbi_answer(nb_ctx *ctx, nb_status st, const nbi_outcome *outcome, json_t *result,
                     char **json);
/* The sensitivity table: every tensor that is searched, at every choice. */
nb_status nbi_sensitivity_json(nbi_session *s, json_t **out);
/* Why this policy: the same table, what the neighbouring choices would cost and buy, and how well
 * sums of sensitivities agreed with measured losses. What a time limit leaves no time for is
 * estimated or left out. */
nb_status nbi_why_json(nbi_session *s, const nbi_outcome *outcome, json_t **out);

#endif
