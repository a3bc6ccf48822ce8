/* The sensitivity table, and from it why a policy is as it is. Losses are those of post-training
 * quantization, on the images that score policies. */
#include "api/session.h"

#include "schemes/choice.h"
#include "search/rank.h"

#include <math.h>
#include <string.h>

#define MOST_RANKED 3000 /* policies whose order is compared: pairs grow with the square */

/* JSON has no infinity. */
static void set_real(json_t *o, const char *key, double x) {
    json_object_set_new(o, key, isfinite(x) ? json_real(x) : json_null());
}

static void set_choice(json_t *o, nbi_choice choice) {
    json_object_set_new(o, "bits", json_integer(nbi_choice_bits(choice)));
    json_object_set_new(o, "scheme", json_string(nbi_choice_row(choice)->name));
}

static json_t *tensor_row(const nbi_session *s, int site) {
    const nbi_site *t = &s->net->site[site];
    json_t *row = json_object();
    json_object_set_new(row, "tensor", json_string(t->name));
    if (t->layer >= 0) json_object_set_new(row, "layer", json_string(s->net->layer[t->layer].name));
    json_object_set_new(row, "kind",
                        json_string(nbi_kind_name(t->kind)));
    json_object_set_new(row, "elements", json_integer((json_int_t)t->count));
    return row;
}

/* true when options a and b of a variable differ in site k at most. */
static bool same_but(const nbi_session *s, int v, int n, int k, int a, int b) {
    for (int j = 0; j < n; j++)
        if (j != k &&
            nbi_netproblem_choice(s->np, v, a, j) != nbi_netproblem_choice(s->np, v, b, j))
            return false;
    return true;
}

/* What site k of variable v costs at each of its choices, everything else at its best. */
static nb_status options_of(nbi_session *s, double *const *delta, int v, int k, json_t *list) {
    const int *site;
    int n = nbi_netproblem_sites(s->np, v, &site), top = s->problem->n_options[v] - 1;
    uint8_t *policy = NULL;
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->problem->n_vars, 1, &policy));
    for (int i = 0; i < s->problem->n_vars; i++)
        policy[i] = (uint8_t)(s->problem->n_options[i] - 1);
    nb_status st = NB_OK;
    for (int o = 0; o <= top; o++) {
        double cost[NBI_COST_COUNT], sqnr;
        if (!same_but(s, v, n, k, o, top)) continue;
        nbi_choice choice = nbi_netproblem_choice(s->np, v, o, k);
        policy[v] = (uint8_t)o;
        NB_TRYG(s->problem->cost(s->ctx, s->problem->self, policy, cost));
        NB_TRYG(nbi_netproblem_sqnr(s->ctx, s->np, site[k], choice, &sqnr));
        json_t *row = json_object();
        set_choice(row, choice);
        set_real(row, "loss", delta[v][o]);
        if (s->net->site[site[k]].kind != NBI_SITE_BIAS) set_real(row, "sqnr", sqnr);
        set_real(row, "bytes", cost[NBI_COST_BYTES]);
        json_array_append_new(list, row);
    }
done:
    nbi_free(policy);
    return st;
}

static void describe_scores(const nbi_session *s, json_t *root) {
    json_object_set_new(root, "loss", json_string(s->loss == NBI_LOSS_KL ? "kl" : "mse"));
    json_object_set_new(root, "images", json_integer((json_int_t)(s->images.n - s->calib)));
    json_object_set_new(root, "estimated", json_boolean(!nbi_netproblem_measured(s->np)));
}

nb_status nbi_sensitivity_json(nbi_session *s, json_t **out) {
    double **delta, *curvature = NULL;
    NB_TRY(nbi_session_sensitivity(s, &delta));
    NB_TRY(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *curvature, &curvature));
    nb_status st = s->o->curvature ? nbi_curvature(s->ctx, s, curvature) : NB_OK;
    json_t *root = json_object(), *list = json_array();
    for (int v = 0; v < s->problem->n_vars && st == NB_OK; v++) {
        const int *site;
        int n = nbi_netproblem_sites(s->np, v, &site);
        for (int k = 0; k < n && st == NB_OK; k++) {
            json_t *row = tensor_row(s, site[k]), *options = json_array();
            set_real(row, "power", nbi_site_power(s->net, &s->net->site[site[k]]));
            if (s->o->curvature) set_real(row, "curvature", curvature[site[k]]);
            st = options_of(s, delta, v, k, options);
            json_object_set_new(row, "options", options);
            json_array_append_new(list, row);
        }
    }
    nbi_free(curvature);
    json_object_set_new(root, "tensors", list);
    describe_scores(s, root);
    if (st == NB_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}

/* ---- agreement ------------------------------------------------------------------------------- */

typedef struct ranking {
    const nbi_session *s;
    double *const *delta;
    nbi_choice *bits; /* [n_sites] */
    uint8_t *policy;  /* [n_vars] */
    double *predicted, *measured;
    size_t n, seen;
} ranking;

/* Keeps the policies that differ from the best options in two variables or more: the others are
 * what the sensitivities were measured on. Later ones overwrite the oldest. */
static nb_status take_trial(void *user, const nbi_study_trial *t) {
    ranking *r = user;
    const nbi_session *s = r->s;
    size_t sites = (size_t)s->net->n_sites;
    double sum = 0;
    int changed = 0;
    if (t->n_policy != 2 * sites || !isfinite(t->score)) return NB_OK;
    for (size_t i = 0; i < sites; i++)
        r->bits[i] = nbi_choice_of(t->policy[2 * i + 1], t->policy[2 * i]);
    if (!nbi_netproblem_policy(s->np, r->bits, r->policy)) return NB_OK;
    for (int v = 0; v < s->problem->n_vars; v++) {
        sum += r->delta[v][r->policy[v]];
        changed += r->policy[v] + 1 < s->problem->n_options[v];
    }
    if (changed < 2) return NB_OK;
    r->predicted[r->seen % MOST_RANKED] = sum;
    r->measured[r->seen++ % MOST_RANKED] = t->score;
    r->n = r->seen < MOST_RANKED ? r->seen : MOST_RANKED;
    return NB_OK;
}

static nb_status agreement(nbi_session *s, double *const *delta, json_t **out) {
    ranking r = {.s = s, .delta = delta};
    nb_status st;
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *r.bits, &r.bits));
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->problem->n_vars + 1, 1, &r.policy));
    NB_TRYG(nbi_alloc(s->ctx, 2 * MOST_RANKED, sizeof *r.predicted, &r.predicted));
    r.measured = r.predicted + MOST_RANKED;
    if (s->study) NB_TRYG(nbi_study_list(s->ctx, s->study, take_trial, &r));
    json_t *o = json_object();
    set_real(o, "kendall_tau", nbi_kendall(r.predicted, r.measured, r.n));
    json_object_set_new(o, "policies", json_integer((json_int_t)r.n));
    *out = o;
done:
    nbi_free(r.bits);
    nbi_free(r.policy);
    nbi_free(r.predicted);
    return st;
}

/* ---- neighbours ------------------------------------------------------------------------------ */

typedef struct reason {
    nbi_session *s;
    double **delta;
    const nbi_outcome *outcome;
    uint8_t *policy;  /* [n_vars] what was chosen */
    nbi_choice *bits; /* [n_sites] work space */
    double loss;      /* of what was chosen, rounded as the neighbours are */
    double deadline;
} reason;

/* The option that gives site k of variable v its next choice in `direction`, all else as chosen;
 * −1: none. Of equal widths (other schemes) the one nearest in loss by the table. */
static int neighbour(const reason *r, int v, int k, int direction) {
    const nbi_session *s = r->s;
    const int *site;
    int n = nbi_netproblem_sites(s->np, v, &site), best = -1, best_gap = 0;
    int here = nbi_choice_bits(nbi_netproblem_choice(s->np, v, r->policy[v], k));
    for (int o = 0; o < s->problem->n_options[v]; o++) {
        if (!same_but(s, v, n, k, o, r->policy[v])) continue;
        int gap = direction * (nbi_choice_bits(nbi_netproblem_choice(s->np, v, o, k)) - here);
        if (gap <= 0 || (best >= 0 && gap > best_gap)) continue;
        if (best >= 0 && gap == best_gap && !(r->delta[v][o] < r->delta[v][best])) continue;
        best = o, best_gap = gap;
    }
    return best;
}

static nb_status describe_step(reason *r, int v, int k, int option, json_t **out) {
    nbi_session *s = r->s;
    uint8_t old = r->policy[v];
    double cost[NBI_COST_COUNT], loss = NAN;
    nb_status st = NB_OK;
    json_t *row = json_object();
    set_choice(row, nbi_netproblem_choice(s->np, v, option, k));
    set_real(row, "predicted", r->delta[v][option] - r->delta[v][old]);
    r->policy[v] = (uint8_t)option;
    nbi_netproblem_bits(s->np, r->policy, r->bits);
    r->policy[v] = old;
    NB_TRYG(nbi_netproblem_cost(s->ctx, s->np, r->bits, cost));
    set_real(row, "bytes", cost[NBI_COST_BYTES] - r->outcome->cost[NBI_COST_BYTES]);
    if (isfinite(s->problem->limit[NBI_COST_RAM]))
        set_real(row, "ram", cost[NBI_COST_RAM] - r->outcome->cost[NBI_COST_RAM]);
    json_object_set_new(row, "fits", json_boolean(nbi_feasible(s->problem, cost)));
    if (nb_seconds(s->ctx) < r->deadline)
        NB_TRYG(nbi_netproblem_loss(s->ctx, s->np, r->bits, &loss));
    set_real(row, "loss", loss - r->loss);
done:
    if (st == NB_OK)
        *out = row;
    else
        json_decref(row);
    return st;
}

static nb_status describe_tensor(reason *r, int v, int k, json_t *list) {
    static const char *const names[] = {"less", "more"};
    nbi_session *s = r->s;
    const int *site;
    nbi_netproblem_sites(s->np, v, &site);
    json_t *row = tensor_row(s, site[k]), *options = json_array(), *step;
    json_array_append_new(list, row);
    set_choice(row, nbi_netproblem_choice(s->np, v, r->policy[v], k));
    json_object_set_new(row, "options", options);
    NB_TRY(options_of(s, r->delta, v, k, options));
    for (int i = 0; i < 2; i++) {
        int option = neighbour(r, v, k, i ? 1 : -1);
        if (option < 0) continue;
        NB_TRY(describe_step(r, v, k, option, &step));
        json_object_set_new(row, names[i], step);
    }
    return nb_progress(s->ctx, "reasons for the policy", v + 1, s->problem->n_vars);
}

static nb_status explain(reason *r, json_t *root) {
    nbi_session *s = r->s;
    json_t *ranks = NULL, *list = json_array();
    json_object_set_new(root, "tensors", list);
    describe_scores(s, root);
    NB_TRY(agreement(s, r->delta, &ranks));
    json_object_set_new(root, "agreement", ranks);
    if (!nbi_netproblem_policy(s->np, r->outcome->bits, r->policy)) return NB_OK; /* a file's */
    NB_TRY(nbi_netproblem_loss(s->ctx, s->np, r->outcome->bits, &r->loss));
    for (int v = s->problem->n_vars - 1; v >= 0; v--) { /* the last first: prefixes are kept */
        const int *site;
        int n = nbi_netproblem_sites(s->np, v, &site);
        for (int k = 0; k < n; k++) NB_TRY(describe_tensor(r, v, k, list));
    }
    return NB_OK;
}

nb_status nbi_why_json(nbi_session *s, const nbi_outcome *outcome, json_t **out) {
    reason r = {.s = s, .outcome = outcome};
    json_t *root = json_object();
    nb_status st;
    r.deadline = s->o->time_limit > 0 ? s->started + s->o->time_limit : INFINITY;
    nbi_netproblem_set_deadline(s->np, r.deadline);
    NB_TRYG(nbi_session_sensitivity(s, &r.delta));
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->problem->n_vars + 1, 1, &r.policy));
    NB_TRYG(nbi_alloc(s->ctx, (size_t)s->net->n_sites + 1, sizeof *r.bits, &r.bits));
    st = explain(&r, root);
done:
    nbi_free(r.policy);
    nbi_free(r.bits);
    if (st == NB_OK)
        *out = root;
    else
        json_decref(root);
    return st;
}
