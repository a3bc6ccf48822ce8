/* Critic: least squares to y = r + discount·Q'(s', mu'(s')). Actor: ascends dQ/da·da/dtheta. Both
 * by Adam, targets th' ← follow·th + (1 − follow)·th'. Matrices are [in][out], so that every
 * product is a sum of rows and vectorises without reordering any sum. */
#include "search/ddpg.h"

#include <math.h>
#include <string.h>

enum { LAYERS = 3 };

typedef struct dense {
    size_t in, hidden, count;                 /* count: all parameters */
    float *theta, *target, *gradient, *m, *v; /* [count] */
    float *swapped;     /* W transposed, for the way back: [hidden·max(hidden, in)] */
    float *act[LAYERS]; /* [batch][width] after each layer */
    float *d[LAYERS];   /* gradients of these, before the nonlinearity */
    float *d_in;        /* [batch][in] */
    long steps;
} dense;

struct nbi_ddpg {
    nbi_ddpg_options o;
    nbi_rng rng;
    dense actor, critic;
    float *memory; /* [memory][2·state + 3]: s, s', action, reward, ended */
    size_t kept, next;
    double offset, scale;
    float *s, *next_s;         /* [batch][state] */
    float *sa;                 /* [batch][state + 1] */
    float *reward, *ended, *y; /* [batch] */
};

static size_t width(const dense *n, int layer) {
    return layer < LAYERS - 1 ? n->hidden : 1;
}

static size_t inputs(const dense *n, int layer) {
    return layer ? n->hidden : n->in;
}

/* Weights of a layer inside an array of all parameters; the biases follow them. */
static float *weights(const dense *n, float *all, int layer) {
    for (int l = 0; l < layer; l++) all += (inputs(n, l) + 1) * width(n, l);
    return all;
}

/* ---- products -------------------------------------------------------------------------------- */

typedef struct product {
    float *c;       /* [m][n] */
    const float *a; /* a(i, k) = a[i·a_row + k·a_col] */
    const float *b; /* [depth][n] */
    size_t n, depth, a_row, a_col;
} product;

NBI_WIDE
static void add_rows(float *restrict c, const float *restrict b, size_t n, const float f[4]) {
    const float *b1 = b + n, *b2 = b1 + n, *b3 = b2 + n;
    for (size_t j = 0; j < n; j++) c[j] += f[0] * b[j] + f[1] * b1[j] + f[2] * b2[j] + f[3] * b3[j];
}

NBI_WIDE
static void add_row(float *restrict c, const float *restrict b, size_t n, float f) {
    for (size_t j = 0; j < n; j++) c[j] += f * b[j];
}

/* c += a·b, m rows. On one thread: the products are too small to be shared. */
static void multiply(const product *p, size_t m) {
    for (size_t i = 0; i < m; i++) {
        size_t k = 0;
        for (; k + 4 <= p->depth; k += 4) {
            const float *a = p->a + i * p->a_row + k * p->a_col;
            float f[4] = {a[0], a[p->a_col], a[2 * p->a_col], a[3 * p->a_col]};
            add_rows(p->c + i * p->n, p->b + k * p->n, p->n, f);
        }
        for (; k < p->depth; k++)
            add_row(p->c + i * p->n, p->b + k * p->n, p->n, p->a[i * p->a_row + k * p->a_col]);
    }
}

/* ---- networks -------------------------------------------------------------------------------- */

static nb_status dense_new(nb_ctx *ctx, dense *n, size_t in, size_t hidden, size_t batch,
                           nbi_rng *rng) {
    *n = (dense){.in = in, .hidden = hidden};
    for (int l = 0; l < LAYERS; l++) n->count += (inputs(n, l) + 1) * width(n, l);
    size_t most = hidden > in ? hidden : in;
    NB_TRY(nbi_alloc(ctx, 5 * n->count, sizeof(float), &n->theta));
    n->target = n->theta + n->count;
    n->gradient = n->target + n->count;
    n->m = n->gradient + n->count;
    n->v = n->m + n->count;
    NB_TRY(nbi_alloc(ctx, hidden * most, sizeof(float), &n->swapped));
    for (int l = 0; l < LAYERS; l++) {
        NB_TRY(nbi_alloc(ctx, batch * width(n, l), sizeof(float), &n->act[l]));
        NB_TRY(nbi_alloc(ctx, batch * width(n, l), sizeof(float), &n->d[l]));
    }
    NB_TRY(nbi_alloc(ctx, batch * in, sizeof(float), &n->d_in));
    for (int l = 0; l < LAYERS; l++) { /* uniform by fan-in; a last layer near 0 */
        float *w = weights(n, n->theta, l), range = 3e-3f;
        if (l < LAYERS - 1) range = 1 / sqrtf((float)inputs(n, l));
        size_t count = (inputs(n, l) + 1) * width(n, l);
        for (size_t i = 0; i < count; i++) w[i] = range * (2 * nbi_rng_uniform(rng) - 1);
    }
    memcpy(n->target, n->theta, n->count * sizeof(float));
    return NB_OK;
}

static void dense_free(dense *n) {
    nbi_free(n->theta);
    nbi_free(n->swapped);
    for (int l = 0; l < LAYERS; l++) {
        nbi_free(n->act[l]);
        nbi_free(n->d[l]);
    }
    nbi_free(n->d_in);
}

/* x: rows, in. The values of the last layer are in act[LAYERS - 1]. */
static void forward(dense *n, float *theta, const float *x, size_t rows) {
    for (int l = 0; l < LAYERS; l++) {
        size_t in = inputs(n, l), out = width(n, l);
        const float *w = weights(n, theta, l), *bias = w + in * out;
        for (size_t r = 0; r < rows; r++) memcpy(n->act[l] + r * out, bias, out * sizeof(float));
        product p = {n->act[l], x, w, out, in, in, 1};
        multiply(&p, rows);
        for (size_t i = 0; l < LAYERS - 1 && i < rows * out; i++)
            n->act[l][i] = n->act[l][i] > 0 ? n->act[l][i] : 0;
        x = n->act[l];
    }
}

/* dx = d·Wᵀ */
static void to_inputs(dense *n, int l, float *dx, size_t rows) {
    size_t in = inputs(n, l), out = width(n, l);
    const float *w = weights(n, n->theta, l);
    for (size_t i = 0; i < in; i++)
        for (size_t o = 0; o < out; o++) n->swapped[o * in + i] = w[i * out + o];
    memset(dx, 0, rows * in * sizeof(float));
    product p = {dx, n->d[l], n->swapped, in, out, out, 1};
    multiply(&p, rows);
}

/* From d[LAYERS - 1] after forward(theta, x): d_in, and with `learn` the parameters' gradients. */
static void backward(dense *n, const float *x, size_t rows, bool learn) {
    if (learn) memset(n->gradient, 0, n->count * sizeof(float));
    for (int l = LAYERS - 1; l >= 0; l--) {
        size_t in = inputs(n, l), out = width(n, l);
        const float *from = l ? n->act[l - 1] : x;
        if (learn) {
            float *g = weights(n, n->gradient, l);
            product p = {g, from, n->d[l], out, rows, 1, in};
            multiply(&p, in);
            for (size_t r = 0; r < rows; r++) add_row(g + in * out, n->d[l] + r * out, out, 1);
        }
        to_inputs(n, l, l ? n->d[l - 1] : n->d_in, rows);
        for (size_t i = 0; l > 0 && i < rows * in; i++)
            if (!(from[i] > 0)) n->d[l - 1][i] = 0;
    }
}

static void adam(dense *n, double rate) {
    n->steps++;
    double c1 = 1 - pow(0.9, (double)n->steps), c2 = 1 - pow(0.999, (double)n->steps);
    float step = (float)(rate * sqrt(c2) / c1);
    for (size_t i = 0; i < n->count; i++) {
        float g = n->gradient[i];
        if (!(fabsf(g) > 1e-15f)) g = 0; /* moments of dead units would creep through denormals */
        float m = n->m[i] + 0.1f * (g - n->m[i]);
        n->m[i] = fabsf(m) > 1e-20f ? m : 0;
        n->v[i] += 0.001f * (g * g - n->v[i]);
        n->theta[i] -= step * n->m[i] / (sqrtf(n->v[i]) + 1e-8f);
    }
}

static void follow(dense *n, float share) {
    for (size_t i = 0; i < n->count; i++) n->target[i] += share * (n->theta[i] - n->target[i]);
}

/* ---- agent ----------------------------------------------------------------------------------- */

static float squash(float x) {
    return 1 / (1 + expf(-x));
}

nb_status nbi_ddpg_new(nb_ctx *ctx, const nbi_ddpg_options *o, nbi_ddpg **out) {
    nbi_ddpg *a = NULL;
    size_t room;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *a, &a));
    a->o = *o;
    a->scale = 1;
    nbi_rng_seed(&a->rng, o->seed, 0xddb6);
    nb_status st = nbi_mul_size(o->memory, 2 * o->state + 3, &room)
                       ? nbi_alloc(ctx, room, sizeof(float), &a->memory)
                       : nb_fail_memory(ctx, SIZE_MAX);
    if (st == NB_OK) st = nbi_alloc(ctx, o->batch * (3 * o->state + 4), sizeof(float), &a->s);
    if (st == NB_OK) st = dense_new(ctx, &a->actor, o->state, o->hidden, o->batch, &a->rng);
    if (st == NB_OK) st = dense_new(ctx, &a->critic, o->state + 1, o->hidden, o->batch, &a->rng);
    if (st != NB_OK) {
        nbi_ddpg_free(a);
        return st;
    }
    a->next_s = a->s + o->batch * o->state;
    a->sa = a->next_s + o->batch * o->state;
    a->reward = a->sa + o->batch * (o->state + 1);
    a->ended = a->reward + o->batch;
    a->y = a->ended + o->batch;
    *out = a;
    return NB_OK;
}

void nbi_ddpg_free(nbi_ddpg *a) {
    if (!a) return;
    dense_free(&a->actor);
    dense_free(&a->critic);
    nbi_free(a->memory);
    nbi_free(a->s);
    nbi_free(a);
}

double nbi_ddpg_act(nbi_ddpg *a, const float *state) {
    forward(&a->actor, a->actor.theta, state, 1);
    return (double)squash(a->actor.act[LAYERS - 1][0]);
}

void nbi_ddpg_observe(nbi_ddpg *a, const float *state, double action, double reward,
                      const float *next) {
    size_t n = a->o.state;
    float *row = a->memory + a->next * (2 * n + 3);
    memcpy(row, state, n * sizeof *row);
    memcpy(row + n, next ? next : state, n * sizeof *row);
    row[2 * n] = (float)action;
    row[2 * n + 1] = (float)reward;
    row[2 * n + 2] = next ? 0 : 1;
    a->next = (a->next + 1) % a->o.memory;
    if (a->kept < a->o.memory) a->kept++;
}

void nbi_ddpg_scale(nbi_ddpg *a, double offset, double scale) {
    a->offset = offset;
    a->scale = scale;
}

static void draw(nbi_ddpg *a, float *action) {
    size_t n = a->o.state;
    for (size_t i = 0; i < a->o.batch; i++) {
        const float *row = a->memory + nbi_rng_below(&a->rng, (uint32_t)a->kept) * (2 * n + 3);
        memcpy(a->s + i * n, row, n * sizeof *row);
        memcpy(a->next_s + i * n, row + n, n * sizeof *row);
        action[i] = row[2 * n];
        a->ended[i] = row[2 * n + 2];
        a->reward[i] = (float)(((double)row[2 * n + 1] - a->offset) * a->scale);
        if (isnan(a->reward[i])) a->reward[i] = 0;
    }
}

static void join(nbi_ddpg *a, const float *state, const float *action) {
    size_t n = a->o.state;
    for (size_t i = 0; i < a->o.batch; i++) {
        memcpy(a->sa + i * (n + 1), state + i * n, n * sizeof *state);
        a->sa[i * (n + 1) + n] = action[i];
    }
}

static void learn_critic(nbi_ddpg *a, float *action) {
    size_t batch = a->o.batch;
    dense *actor = &a->actor, *critic = &a->critic;
    float *pi = actor->act[LAYERS - 1], *q = critic->act[LAYERS - 1];
    forward(actor, actor->target, a->next_s, batch);
    for (size_t i = 0; i < batch; i++) pi[i] = squash(pi[i]);
    join(a, a->next_s, pi);
    forward(critic, critic->target, a->sa, batch);
    for (size_t i = 0; i < batch; i++)
        a->y[i] = a->reward[i] + (1 - a->ended[i]) * (float)a->o.discount * q[i];
    join(a, a->s, action);
    forward(critic, critic->theta, a->sa, batch);
    for (size_t i = 0; i < batch; i++)
        critic->d[LAYERS - 1][i] = 2 * (q[i] - a->y[i]) / (float)batch;
    backward(critic, a->sa, batch, true);
    adam(critic, a->o.critic_rate);
}

static void learn_actor(nbi_ddpg *a) {
    size_t batch = a->o.batch, n = a->o.state;
    dense *actor = &a->actor, *critic = &a->critic;
    float *pi = actor->act[LAYERS - 1];
    forward(actor, actor->theta, a->s, batch);
    for (size_t i = 0; i < batch; i++) pi[i] = squash(pi[i]);
    join(a, a->s, pi);
    forward(critic, critic->theta, a->sa, batch);
    for (size_t i = 0; i < batch; i++) critic->d[LAYERS - 1][i] = -1 / (float)batch;
    backward(critic, a->sa, batch, false);
    for (size_t i = 0; i < batch; i++)
        actor->d[LAYERS - 1][i] = critic->d_in[i * (n + 1) + n] * pi[i] * (1 - pi[i]);
    backward(actor, a->s, batch, true);
    adam(actor, a->o.actor_rate);
}

void nbi_ddpg_update(nbi_ddpg *a) {
    if (!a->kept) return;
    float *action = a->actor.d[LAYERS - 1]; /* free until the actor learns */
    draw(a, action);
    learn_critic(a, action);
    learn_actor(a);
    follow(&a->critic, (float)a->o.follow);
    follow(&a->actor, (float)a->o.follow);
}
