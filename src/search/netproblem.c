/* Variables: where activations have one width only, each free weight site is a variable of its own;
 * else a variable is an activation site together with the weights of the convolutions that read it,
 * so that BOPs stay a sum over variables. Of more readers than a variable holds the others are
 * variables of their own: BOPs are then a product of two variables there, which only exact costs know.
 * A free bias site is a variable of its own: its width costs bytes only, and as a factor of a layer's
 * options it would triple them. */
#include "search/netproblem.h"

#include "runtime/footprint.h"
#include "runtime/lower.h"
#include "schemes/choice.h"

#include <math.h>
#include <string.h>

#define MAX_VARIABLE_SITES 5
#define MAX_OPTIONS        NBI_NETPROBLEM_OPTIONS
#define DB_PER_BIT         6.02 /* nominal signal-to-noise ratio */

typedef struct variable {
    int n_sites, site[MAX_VARIABLE_SITES];
    int n_options;
    nbi_choice (*option)[MAX_VARIABLE_SITES]; /* [n_options][site], by rising cost */
} variable;

struct nbi_netproblem {
    nbi_netproblem_options o;
    nbi_arena arena;
    nbi_problem problem;
    variable *var;
    int *n_options;
    nbi_choice *bits, *ram_bits; /* [n_sites] work space */
    uint8_t *key;                /* a policy in the study: 2 bytes per site, the lower first */
    float *values;
    size_t count;             /* elements of the compared edge */
    double fixed_bytes;       /* constants that no policy changes */
    double ram;               /* of ram_bits; < 0: not known */
    long scored;
    const nbi_step_costs *costs; /* NULL: none */
    double deadline;
    double *delta;            /* sensitivities once asked for, rows behind each other; else NULL */
    int estimated;            /* so many of their first rows are not measured */
    double best;              /* the loss that they are differences from */
};

nbi_problem *nbi_netproblem_problem(nbi_netproblem *np) {
    return &np->problem;
}

bool nbi_netproblem_measured(const nbi_netproblem *np) {
    return np->delta && np->estimated == 0;
}

long nbi_netproblem_scored(const nbi_netproblem *np) {
    return np->scored;
}

void nbi_netproblem_bits(const nbi_netproblem *np, const uint8_t *policy, nbi_choice *bits) {
    memcpy(bits, np->o.fixed, (size_t)np->o.net->n_sites * sizeof *bits);
    for (int v = 0; v < np->problem.n_vars; v++)
        for (int k = 0; k < np->var[v].n_sites; k++)
            bits[np->var[v].site[k]] = np->var[v].option[policy[v]][k];
}

bool nbi_netproblem_policy(const nbi_netproblem *np, const nbi_choice *bits, uint8_t *policy) {
    for (int v = 0; v < np->problem.n_vars; v++) {
        const variable *var = &np->var[v];
        int found = -1;
        for (int o = 0; o < var->n_options && found < 0; o++) {
            bool same = true;
            for (int k = 0; k < var->n_sites; k++) same &= var->option[o][k] == bits[var->site[k]];
            if (same) found = o;
        }
        if (found < 0) return false;
        policy[v] = (uint8_t)found;
    }
    return true;
}

void nbi_netproblem_set_deadline(nbi_netproblem *np, double deadline) {
    np->deadline = deadline;
}

void nbi_netproblem_set_costs(nbi_netproblem *np, const nbi_step_costs *costs) {
    np->costs = costs;
}

int nbi_netproblem_site(const nbi_netproblem *np, int v) {
    return np->var[v].site[0];
}

int nbi_netproblem_sites(const nbi_netproblem *np, int v, const int **site) {
    *site = np->var[v].site;
    return np->var[v].n_sites;
}

nbi_choice nbi_netproblem_choice(const nbi_netproblem *np, int v, int o, int k) {
    return np->var[v].option[o][k];
}

const nbi_netproblem_options *nbi_netproblem_get(const nbi_netproblem *np) {
    return &np->o;
}

/* ---- costs ---------------------------------------------------------------------------------- */

nb_status nbi_netproblem_ram(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                             double *out) {
    const nbi_qnet *net = np->o.net;
    bool same = np->ram >= 0;
    /* weights matter through the reference kernels' scratch only: 8 bits need none */
    for (int s = 0; s < net->n_sites && same; s++) {
        if (net->site[s].kind == NBI_SITE_BIAS) continue;
        bool eight = nbi_choice_bits(bits[s]) == 8, was = nbi_choice_bits(np->ram_bits[s]) == 8;
        same = net->site[s].kind == NBI_SITE_WEIGHT ? eight == was : bits[s] == np->ram_bits[s];
    }
    if (!same) {
        size_t bytes;
        NB_TRY(nbi_footprint_ram(ctx, net, bits, &bytes));
        np->ram = (double)bytes;
        memcpy(np->ram_bits, bits, (size_t)net->n_sites * sizeof *bits);
    }
    *out = np->ram;
    return NB_OK;
}

nb_status nbi_netproblem_cost(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                              double out[NBI_COST_COUNT]) {
    nbi_net_cost c;
    nbi_net_cost_of(np->o.net, bits, np->o.containers, &c);
    memset(out, 0, NBI_COST_COUNT * sizeof *out);
    out[NBI_COST_BYTES] = np->o.extra_bytes + np->fixed_bytes +
                          (double)nbi_footprint_variable(np->o.net, bits);
    out[NBI_COST_BYTES_ONNX] = np->o.extra_bytes + c.bytes_onnx;
    out[NBI_COST_AVG_BITS] = c.weights > 0 ? c.weight_bits / c.weights : 0;
    out[NBI_COST_BOPS] = c.bops;
    if (isfinite(np->problem.limit[NBI_COST_RAM]))
        NB_TRY(nbi_netproblem_ram(ctx, np, bits, &out[NBI_COST_RAM]));
    if (!np->costs) return NB_OK;
    return nbi_step_costs_sum(ctx, np->costs, bits, NULL, &out[NBI_COST_LATENCY],
                              &out[NBI_COST_ENERGY]);
}

static nb_status cost(nb_ctx *ctx, void *self, const uint8_t *policy,
                      double out[NBI_COST_COUNT]) {
    nbi_netproblem *np = self;
    nbi_netproblem_bits(np, policy, np->bits);
    return nbi_netproblem_cost(ctx, np, np->bits, out);
}

/* ---- scores --------------------------------------------------------------------------------- */

static double kl_of(const float *p, const float *q, size_t n) {
    double mp = p[0], mq = q[0], sp = 0, sq = 0, sum = 0;
    for (size_t i = 1; i < n; i++) {
        mp = fmax(mp, (double)p[i]);
        mq = fmax(mq, (double)q[i]);
    }
    for (size_t i = 0; i < n; i++) {
        sp += exp((double)p[i] - mp);
        sq += exp((double)q[i] - mq);
    }
    for (size_t i = 0; i < n; i++) {
        double lp = (double)p[i] - mp - log(sp), lq = (double)q[i] - mq - log(sq);
        sum += exp(lp) * (lp - lq);
    }
    return sum;
}

static double loss_of(const nbi_netproblem *np) {
    const nbi_netproblem_options *o = &np->o;
    double sum = 0, power = 0;
    for (size_t i = o->first; i < o->images; i++) {
        const float *p = o->reference + i * np->count, *q = np->values + i * np->count;
        if (o->loss == NBI_LOSS_KL) {
            sum += kl_of(p, q, np->count);
            continue;
        }
        for (size_t k = 0; k < np->count; k++) {
            double e = (double)p[k] - (double)q[k];
            sum += e * e;
            power += (double)p[k] * (double)p[k];
        }
    }
    if (o->loss == NBI_LOSS_KL) return sum / (double)(o->images - o->first);
    return power > 0 ? sum / power : sum;
}

nb_status nbi_netproblem_loss(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                              double *out) {
    size_t n = (size_t)np->o.net->n_sites;
    bool found = false;
    for (size_t i = 0; i < n; i++) {
        np->key[2 * i] = (uint8_t)(bits[i] & 255);
        np->key[2 * i + 1] = (uint8_t)(bits[i] >> 8);
    }
    if (np->o.study) NB_TRY(nbi_study_lookup(ctx, np->o.study, np->key, 2 * n, &found, out));
    if (found) return NB_OK;
    double start = nb_seconds(ctx);
    nbi_study_trial t = {.policy = np->key, .n_policy = 2 * n};
    NB_TRY(nbi_scorer_run(ctx, np->o.scorer, bits, np->o.edge, np->values));
    t.score = loss_of(np);
    t.seconds = nb_seconds(ctx) - start;
    np->scored++;
    NB_TRY(nbi_netproblem_cost(ctx, np, bits, t.cost));
    if (np->o.study) NB_TRY(nbi_study_record(ctx, np->o.study, &t));
    *out = t.score;
    return NB_OK;
}

nb_status nbi_netproblem_each(nb_ctx *ctx, nbi_netproblem *np, const nbi_choice *bits,
                              double *each) {
    const nbi_netproblem_options *o = &np->o;
    double power = 0;
    NB_TRY(nbi_scorer_run(ctx, o->scorer, bits, o->edge, np->values));
    for (size_t i = o->first; i < o->images; i++) {
        const float *p = o->reference + i * np->count, *q = np->values + i * np->count;
        double *out = &each[i - o->first];
        *out = 0;
        if (o->loss == NBI_LOSS_KL) {
            *out = kl_of(p, q, np->count);
            continue;
        }
        for (size_t k = 0; k < np->count; k++) {
            double e = (double)p[k] - (double)q[k];
            *out += e * e;
            power += (double)p[k] * (double)p[k];
        }
    }
    power /= (double)(o->images - o->first);
    for (size_t i = o->first; o->loss == NBI_LOSS_MSE && power > 0 && i < o->images; i++)
        each[i - o->first] /= power;
    return NB_OK;
}

static nb_status score(nb_ctx *ctx, void *self, const uint8_t *policy, double *out) {
    nbi_netproblem *np = self;
    nbi_choice *bits = np->bits;
    nbi_netproblem_bits(np, policy, bits);
    NB_TRY(nbi_netproblem_loss(ctx, np, bits, out));
    return nb_progress(ctx, "policies scored", (double)np->scored, 0);
}

nb_status nbi_netproblem_sqnr(nb_ctx *ctx, const nbi_netproblem *np, int site, nbi_choice choice,
                              double *out) {
    const nbi_site *s = &np->o.net->site[site];
    if (s->kind == NBI_SITE_WEIGHT)
        return nbi_scorer_weight_sqnr(ctx, np->o.scorer, site, choice, out);
    *out = s->kind == NBI_SITE_BIAS ? DB_PER_BIT * choice : nbi_site_sqnr(s, choice);
    return NB_OK;
}

/* Noise-to-signal ratio of a variable's tensors at an option, summed. */
static nb_status noise_of(nb_ctx *ctx, nbi_netproblem *np, int v, int o, double *out) {
    const variable *var = &np->var[v];
    *out = 0;
    for (int k = 0; k < var->n_sites; k++) {
        double sqnr;
        NB_TRY(nbi_netproblem_sqnr(ctx, np, var->site[k], var->option[o][k], &sqnr));
        *out += pow(10, -sqnr / 10);
    }
    return NB_OK;
}

/* Rows v < from were not measured: noise, times the mean loss per noise of the measured rows. */
static nb_status estimate(nb_ctx *ctx, nbi_netproblem *np, int from, double **delta) {
    double loss = 0, noise = 0, x;
    for (int v = 0; v < np->problem.n_vars; v++)
        for (int o = 0; o < np->n_options[v]; o++) {
            NB_TRY(noise_of(ctx, np, v, o, &x));
            if (v < from) delta[v][o] = x;
            else loss += fmax(delta[v][o], 0), noise += x;
        }
    double scale = loss > 0 && noise > 0 ? loss / noise : 1;
    for (int v = 0; v < from; v++)
        for (int o = 0; o < np->n_options[v]; o++) delta[v][o] *= scale;
    nb_log(ctx, NB_LOG_WARNING, "no time to measure the sensitivity of %d of %d tensors: estimated "
           "from their noise", from, np->problem.n_vars);
    return NB_OK;
}

/* Between the problem's own rows and the caller's. */
static void copy_rows(const nbi_netproblem *np, double **delta, bool keep) {
    double *kept = np->delta;
    for (int v = 0; v < np->problem.n_vars; kept += np->n_options[v++]) {
        size_t size = (size_t)np->n_options[v] * sizeof *kept;
        if (keep) memcpy(kept, delta[v], size);
        else memcpy(delta[v], kept, size);
    }
}

/* Last layers first: what comes before the changed layer is in the cache. *rows: not measured yet. */
static nb_status measure_rows(nb_ctx *ctx, nbi_netproblem *np, uint8_t *policy, double **delta,
                              int *rows) {
    int total = 0, done = 0, v = *rows;
    for (int k = 0; k < v; k++) total += np->n_options[k];
    while (v > 0 && nb_seconds(ctx) < np->deadline) {
        v--;
        for (int o = 0; o < np->n_options[v]; o++) {
            double loss;
            policy[v] = (uint8_t)o;
            nbi_netproblem_bits(np, policy, np->bits);
            NB_TRY(nbi_netproblem_loss(ctx, np, np->bits, &loss));
            delta[v][o] = loss - np->best;
            NB_TRY(nb_progress(ctx, "sensitivity", ++done, total));
        }
        policy[v] = (uint8_t)(np->n_options[v] - 1);
    }
    *rows = v;
    return NB_OK;
}

/* What was measured once stays; a later call goes on where the time was over. */
static nb_status sensitivity(nb_ctx *ctx, void *self, double **delta) {
    nbi_netproblem *np = self;
    int n = np->problem.n_vars, rows = np->delta ? np->estimated : n;
    size_t total = 0;
    uint8_t *policy;
    nb_status st = NB_OK;
    if (np->delta) copy_rows(np, delta, false);
    if (np->delta && (rows == 0 || nb_seconds(ctx) >= np->deadline)) return NB_OK;
    NB_TRY(nbi_alloc(ctx, (size_t)n + 1, 1, &policy));
    for (int k = 0; k < n; k++) {
        policy[k] = (uint8_t)(np->n_options[k] - 1);
        total += (size_t)np->n_options[k];
    }
    nbi_netproblem_bits(np, policy, np->bits);
    NB_TRYG(nbi_scorer_stay_near(ctx, np->o.scorer, np->bits));
    NB_TRYG(nbi_netproblem_loss(ctx, np, np->bits, &np->best));
    NB_TRYG(measure_rows(ctx, np, policy, delta, &rows));
    if (rows > 0) NB_TRYG(estimate(ctx, np, rows, delta));
    if (!np->delta) NB_TRYG(nbi_alloc(ctx, total + 1, sizeof *np->delta, &np->delta));
    np->estimated = rows;
    copy_rows(np, delta, true);
done:
    (void)nbi_scorer_stay_near(ctx, np->o.scorer, NULL); /* cannot fail */
    nbi_free(policy);
    return st;
}

static nb_status improved(nb_ctx *ctx, void *self, const uint8_t *policy, double loss) {
    nbi_netproblem *np = self;
    if (!np->o.improved) return NB_OK;
    nbi_netproblem_bits(np, policy, np->bits);
    return np->o.improved(ctx, np->o.user, np->bits, loss);
}

static nb_status hypernetwork(nb_ctx *ctx, void *self, const struct nbi_meta_settings *settings) {
    const nbi_netproblem *np = self;
    return np->o.hypernetwork(ctx, np->o.user, settings);
}

void nbi_netproblem_set_scorer(nbi_netproblem *np, nbi_scorer *scorer) {
    np->o.scorer = scorer;
    nbi_free(np->delta);
    np->delta = NULL;
}

/* ---- variables ------------------------------------------------------------------------------ */

static bool is_free(const nbi_netproblem *np, int site) {
    return np->o.fixed[site] == 0;
}

/* The offered choices of a site; with `best` only the one of least noise at each width. */
static nb_status offer_of(nb_ctx *ctx, const nbi_netproblem *np, int site, bool best,
                          nbi_offer *out) {
    const nbi_site *s = &np->o.net->site[site];
    double most = 0;
    const nbi_offer *all = s->kind == NBI_SITE_WEIGHT ? &np->o.weights
                           : s->kind == NBI_SITE_BIAS ? &np->o.biases
                                                      : &np->o.activations;
    out->n = 0;
    for (int i = 0; i < all->n; i++) {
        nbi_choice c = nbi_choice_for(s, all->choice[i]);
        double sqnr = 0;
        bool known = false;
        for (int k = 0; k < out->n; k++) known |= out->choice[k] == c;
        if (known) continue;
        if (!best) {
            out->choice[out->n++] = c;
            continue;
        }
        bool new_width =
            !out->n || nbi_choice_bits(out->choice[out->n - 1]) != nbi_choice_bits(c);
        NB_TRY(nbi_netproblem_sqnr(ctx, np, site, c, &sqnr));
        if (!new_width && sqnr < most) continue;
        if (new_width) out->n++;
        out->choice[out->n - 1] = c;
        most = sqnr;
    }
    return NB_OK;
}

static bool has_schemes(const nbi_offer *offer) {
    for (int i = 1; i < offer->n; i++)
        if (nbi_choice_bits(offer->choice[i]) == nbi_choice_bits(offer->choice[i - 1]))
            return true;
    return false;
}

/* Where the combinations are too many, each site keeps one scheme per width. */
static nb_status offers_of(nb_ctx *ctx, const nbi_netproblem *np, const variable *var,
                           nbi_offer offer[MAX_VARIABLE_SITES], int *total) {
    const nbi_netproblem_options *o = &np->o;
    bool schemes = has_schemes(&o->weights) || has_schemes(&o->activations);
    for (int best = 0; best < 2; best++) {
        *total = 1;
        for (int k = 0; k < var->n_sites; k++) {
            NB_TRY(offer_of(ctx, np, var->site[k], best, &offer[k]));
            *total *= *total <= MAX_OPTIONS ? offer[k].n : 1;
        }
        if (*total <= MAX_OPTIONS) return NB_OK;
        if (!schemes) break;
    }
    return nb_fail(ctx, NB_EUNSUPPORTED, "tensor '%s' and the weights that read it have more than "
                   "%d combinations of widths; offer fewer widths",
                   o->net->site[var->site[0]].name, MAX_OPTIONS);
}

/* Every combination of the offered choices of the variable's sites, first site outermost, sorted by
 * bits. */
static nb_status make_options(nb_ctx *ctx, nbi_netproblem *np, variable *var) {
    const nbi_netproblem_options *o = &np->o;
    nbi_offer offer[MAX_VARIABLE_SITES];
    int total;
    NB_TRY(offers_of(ctx, np, var, offer, &total));
    var->option = nbi_arena_alloc(&np->arena, (size_t)total, sizeof *var->option);
    double *key = nbi_arena_alloc(&np->arena, (size_t)total, sizeof *key);
    if (!var->option || !key) return nb_fail_memory(ctx, (size_t)total * 16);
    for (int i = 0; i < total; i++) {
        nbi_choice row[MAX_VARIABLE_SITES] = {0};
        double bits = 0;
        for (int k = var->n_sites - 1, rest = i; k >= 0; k--) {
            const nbi_site *s = &o->net->site[var->site[k]];
            row[k] = offer[k].choice[rest % offer[k].n];
            rest /= offer[k].n;
            bits += nbi_choice_bits(row[k]) *
                    (s->kind == NBI_SITE_WEIGHT ? (double)s->count : 1e-3);
        }
        int at = i;
        while (at > 0 && key[at - 1] > bits) {
            key[at] = key[at - 1];
            memcpy(var->option[at], var->option[at - 1], sizeof row);
            at--;
        }
        key[at] = bits;
        memcpy(var->option[at], row, sizeof row);
    }
    var->n_options = total;
    return NB_OK;
}

static void add_free_weights(nbi_netproblem *np, int activation, variable *var) {
    const nbi_qnet *net = np->o.net;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type == NBI_LAYER_CONV && net->edge[l->in[0]].site == activation &&
            is_free(np, l->weight_site) && var->n_sites < MAX_VARIABLE_SITES)
            var->site[var->n_sites++] = l->weight_site;
    }
}

static nb_status add_variable(nb_ctx *ctx, nbi_netproblem *np, variable *var) {
    int n = np->problem.n_vars;
    NB_TRY(make_options(ctx, np, var));
    np->n_options[n] = var->n_options;
    np->var[n] = *var;
    np->problem.n_vars = n + 1;
    return NB_OK;
}

static bool has_variable(const nbi_netproblem *np, int site) {
    for (int v = 0; v < np->problem.n_vars; v++)
        for (int k = 0; k < np->var[v].n_sites; k++)
            if (np->var[v].site[k] == site) return true;
    return false;
}

static nb_status add_single(nb_ctx *ctx, nbi_netproblem *np, int site) {
    variable var = {.n_sites = 1, .site = {site}};
    return is_free(np, site) && !has_variable(np, site) ? add_variable(ctx, np, &var) : NB_OK;
}

static nb_status make_variables(nb_ctx *ctx, nbi_netproblem *np) {
    const nbi_qnet *net = np->o.net;
    np->var = nbi_arena_alloc(&np->arena, (size_t)net->n_sites + 1, sizeof *np->var);
    np->n_options = nbi_arena_alloc(&np->arena, (size_t)net->n_sites + 1, sizeof(int));
    if (!np->var || !np->n_options) return nb_fail_memory(ctx, sizeof *np->var);
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        int activation = net->edge[l->in[0]].site;
        if (is_free(np, activation) && np->o.activations.n > 1 && !has_variable(np, activation)) {
            variable var = {.n_sites = 1, .site = {activation}};
            add_free_weights(np, activation, &var);
            NB_TRY(add_variable(ctx, np, &var));
        }
        NB_TRY(add_single(ctx, np, l->weight_site));
        NB_TRY(add_single(ctx, np, l->bias_site));
    }
    return NB_OK;
}

void nbi_netproblem_keep(nbi_netproblem *np, int v, const bool *keep) {
    variable *var = &np->var[v];
    int n = 0;
    for (int o = 0; o < var->n_options; o++)
        if (keep[o]) memmove(var->option[n++], var->option[o], sizeof var->option[o]);
    var->n_options = np->n_options[v] = n;
}

/* What every program of this network stores whatever the bits: the tables of a real program, less its
 * variable part. Tables that happen to be equal in a program (of LUTs, biases of zeros) make it smaller. */
static nb_status measure_fixed_bytes(nb_ctx *ctx, nbi_netproblem *np) {
    const nbi_qnet *net = np->o.net;
    nbi_frozen *frozen = NULL;
    nbi_program *program = NULL;
    nb_status st;
    for (int s = 0; s < net->n_sites; s++) {
        nbi_choice widest = net->site[s].kind == NBI_SITE_BIAS ? 32 : 8;
        np->bits[s] = np->o.fixed[s] ? np->o.fixed[s] : widest;
    }
    NB_TRYG(nbi_scorer_freeze(ctx, np->o.scorer, np->bits, &frozen));
    NB_TRYG(nbi_lower(ctx, frozen, &program));
    np->fixed_bytes = -(double)nbi_footprint_variable(net, np->bits);
    for (int i = 0; i < program->n_steps; i++)
        np->fixed_bytes += (double)nbi_step_const_bytes(&program->step[i]);
done:
    nbi_frozen_free(frozen);
    nbi_program_free(program);
    return st;
}

void nbi_netproblem_free(nbi_netproblem *np) {
    if (!np) return;
    nbi_free(np->values);
    nbi_free(np->delta);
    nbi_arena_free(&np->arena);
    nbi_free(np);
}

nb_status nbi_netproblem_new(nb_ctx *ctx, const nbi_netproblem_options *options,
                             nbi_netproblem **out) {
    nbi_netproblem *np = NULL;
    const nbi_edge *e = &options->net->edge[options->edge];
    size_t sites = (size_t)options->net->n_sites;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *np, &np));
    np->o = *options;
    np->ram = -1;
    np->deadline = INFINITY;
    np->count = (size_t)e->h * (size_t)e->w * (size_t)e->c;
    np->problem = (nbi_problem){.self = np, .cost = cost, .score = score,
                                .sensitivity = sensitivity, .improved = improved};
    if (options->hypernetwork) np->problem.hypernetwork = hypernetwork;
    for (int i = 0; i < NBI_COST_COUNT; i++) np->problem.limit[i] = INFINITY;
    nbi_choice *fixed = nbi_arena_alloc(&np->arena, sites + 1, sizeof *fixed);
    np->bits = nbi_arena_alloc(&np->arena, sites + 1, sizeof *np->bits);
    np->ram_bits = nbi_arena_alloc(&np->arena, sites + 1, sizeof *np->ram_bits);
    np->key = nbi_arena_alloc(&np->arena, sites + 1, 2);
    if (!fixed || !np->bits || !np->ram_bits || !np->key) {
        st = nb_fail_memory(ctx, sites);
        goto done;
    }
    NB_TRYG(nbi_alloc(ctx, np->count * options->images, sizeof *np->values, &np->values));
    memcpy(fixed, options->fixed, sites * sizeof *fixed);
    for (size_t s = 0; s < sites; s++) {
        const nbi_site *site = &options->net->site[s];
        const nbi_offer *offer =
            site->kind == NBI_SITE_BIAS ? &options->biases : &options->activations;
        if (!fixed[s] && site->kind != NBI_SITE_WEIGHT && offer->n == 1)
            fixed[s] = nbi_choice_for(site, offer->choice[0]);
    }
    np->o.fixed = fixed;
    NB_TRYG(make_variables(ctx, np));
    np->problem.n_options = np->n_options;
    nbi_part *part = nbi_arena_alloc(&np->arena, sites + 1, sizeof *part);
    if (!part) {
        st = nb_fail_memory(ctx, sites);
        goto done;
    }
    nbi_netproblem_add_hints(np, part);
    nbi_netproblem_add_learning(np);
    NB_TRYG(measure_fixed_bytes(ctx, np));
    *out = np;
    return NB_OK;
done:
    nbi_netproblem_free(np);
    return st;
}
