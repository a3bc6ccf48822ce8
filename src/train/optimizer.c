/* The update rules, as PyTorch states them:
 *   SGD    g ← g + λw;  b ← μb + g;  w ← w − η·(b, or g + μb with Nesterov)
 *   Adam   g ← g + λw;  m ← β₁m + (1−β₁)g;  v ← β₂v + (1−β₂)g²
 *          w ← w − η/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)          (Kingma and Ba 2015)
 *   AdamW  the same without λ in g, and first w ← (1 − ηλ)·w   (Loshchilov and Hutter 2019)
 * t counts the steps of each tensor: those in which its rate was 0 do not count. The norm of the
 * gradients is summed in doubles per chunk, chunks in order. This file is built without errno in
 * math functions, so that the square root stays a vector instruction. */
#include "train/chunks.h"

#include <math.h>
#include <string.h>

struct nbi_optimizer {
    nbi_optimizer_options o;
    nbi_param *param;
    size_t n, n_states, per_param; /* arrays of state per parameter */
    nbi_state *state;              /* [n][per_param] */
    nbi_chunks chunks;
    double *sum; /* per chunk */
    uint64_t *steps; /* [n] that each parameter took */
};

nbi_optimizer_options nbi_optimizer_options_default(void) {
    return (nbi_optimizer_options){
        .kind = NBI_SGD, .momentum = 0.9f, .beta1 = 0.9f, .beta2 = 0.999f, .epsilon = 1e-8f};
}

nb_status nbi_optimizer_parse(nb_ctx *ctx, const char *name, nbi_optimizer_kind *out) {
    static const char *const names[] = {"sgd", "adam", "adamw"};
    for (int i = 0; i < (int)NBI_COUNT(names); i++)
        if (!strcmp(name, names[i])) {
            *out = (nbi_optimizer_kind)i;
            return NB_OK;
        }
    return nb_fail(ctx, NB_EINVAL, "optimizer: '%s' is not sgd, adam or adamw", name);
}

nb_status nbi_optimizer_check(nb_ctx *ctx, const nbi_optimizer_options *o) {
    if (!(o->momentum >= 0 && o->momentum < 1))
        return nb_fail(ctx, NB_EINVAL, "momentum: %g is not within 0 and below 1",
                       (double)o->momentum);
    if (!(o->beta1 >= 0 && o->beta1 < 1 && o->beta2 >= 0 && o->beta2 < 1 && o->epsilon > 0))
        return nb_fail(ctx, NB_EINVAL,
                       "Adam: betas %g and %g, epsilon %g; want 0 to below 1, above 0",
                       (double)o->beta1, (double)o->beta2, (double)o->epsilon);
    if (!(o->clip >= 0)) return nb_fail(ctx, NB_EINVAL, "clip: %g is not a norm", (double)o->clip);
    return NB_OK;
}

static bool is_sgd(const nbi_optimizer *p, const nbi_param *param) {
    return p->o.kind == NBI_SGD && !param->adam;
}

nb_status nbi_optimizer_new(nb_ctx *ctx, const nbi_optimizer_options *options, nbi_param *params,
                            size_t n, nbi_optimizer **out) {
    static const char *const sgd[] = {"momentum", "none"}, *const adam[] = {"m", "v"};
    nbi_optimizer *p = NULL;
    nb_status st;
    NB_TRY(nbi_optimizer_check(ctx, options));
    NB_TRY(nbi_alloc(ctx, 1, sizeof *p, &p));
    p->o = *options;
    p->param = params;
    p->n = n;
    p->per_param = options->kind != NBI_SGD ? 2 : options->momentum > 0 ? 1 : 0;
    for (size_t i = 0; i < n; i++)
        if (params[i].adam) p->per_param = 2;
    NB_TRYG(nbi_alloc(ctx, n + 1, sizeof *p->steps, &p->steps));
    NB_TRYG(nbi_alloc(ctx, n * p->per_param, sizeof *p->state, &p->state));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < p->per_param; k++) {
            nbi_state *s = &p->state[p->n_states++];
            bool plain = is_sgd(p, &params[i]);
            const char *name = plain ? sgd[k] : adam[k];
            memcpy(s->name, name, strlen(name) + 1);
            s->count = plain && (k || !(options->momentum > 0)) ? 0 : params[i].count;
            NB_TRYG(nbi_alloc(ctx, s->count, sizeof *s->data, &s->data));
        }
    NB_TRYG(nbi_chunks_new(ctx, params, n, &p->chunks));
    NB_TRYG(nbi_alloc(ctx, p->chunks.n, sizeof *p->sum, &p->sum));
    *out = p;
    return NB_OK;
done:
    nbi_optimizer_free(p);
    return st;
}

void nbi_optimizer_free(nbi_optimizer *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n_states; i++) nbi_free(p->state[i].data);
    nbi_free(p->state);
    nbi_free(p->steps);
    nbi_chunks_free(&p->chunks);
    nbi_free(p->sum);
    nbi_free(p);
}

void nbi_optimizer_state(nbi_optimizer *p, nbi_state **out, size_t *n, uint64_t **steps) {
    *out = p->state;
    *n = p->n_states;
    *steps = p->steps;
}

/* ---- norm ------------------------------------------------------------------------------------ */

/* Eight partial sums, so that the loop is a vector loop without reordering anything. */
static double sum_of_squares(const float *x, size_t n) {
    double lane[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++) lane[k] += (double)x[i + k] * (double)x[i + k];
    for (; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (size_t k = 0; k < 8; k++) sum += lane[k];
    return sum;
}

static nb_status sum_range(void *user, size_t begin, size_t end, int worker) {
    nbi_optimizer *p = user;
    (void)worker;
    for (size_t c = begin; c < end; c++) {
        const nbi_chunk *k = &p->chunks.chunk[c];
        p->sum[c] = sum_of_squares(p->param[k->array].gradient + k->begin, k->end - k->begin);
    }
    return NB_OK;
}

static nb_status gradient_norm(nb_ctx *ctx, nbi_optimizer *p, double *norm) {
    double total = 0;
    NB_TRY(nbi_parallel(ctx, p->chunks.n, 1, sum_range, p));
    for (size_t c = 0; c < p->chunks.n; c++) total += p->sum[c];
    *norm = sqrt(total);
    if (isfinite(total)) return NB_OK;
    for (size_t c = 0; c < p->chunks.n; c++)
        if (!isfinite(p->sum[c]))
            return nb_fail(ctx, NB_ENUMERIC, "the gradient of '%s' is not finite",
                           p->param[p->chunks.chunk[c].array].name);
    return nb_fail(ctx, NB_ENUMERIC, "the norm of the gradients is not finite");
}

/* ---- steps ----------------------------------------------------------------------------------- */

typedef struct step_job {
    nbi_optimizer *p;
    float lr, scale; /* of the gradients: below 1 when they are clipped */
} step_job;

static void sgd(const step_job *j, const nbi_param *a, float *restrict buffer, size_t begin,
                size_t end) {
    float *restrict w = a->value;
    const float *restrict g = a->gradient;
    float mu = j->p->o.momentum, scale = j->scale, decay = a->decay, lr = j->lr * a->lr;
    if (!buffer) {
        for (size_t i = begin; i < end; i++) w[i] -= lr * (g[i] * scale + decay * w[i]);
    } else if (j->p->o.nesterov) {
        for (size_t i = begin; i < end; i++) {
            float d = g[i] * scale + decay * w[i];
            buffer[i] = mu * buffer[i] + d;
            w[i] -= lr * (d + mu * buffer[i]);
        }
    } else {
        for (size_t i = begin; i < end; i++) {
            buffer[i] = mu * buffer[i] + (g[i] * scale + decay * w[i]);
            w[i] -= lr * buffer[i];
        }
    }
}

/* Step t of a parameter, t ≥ 1; state: m, v. */
static void adam(const step_job *j, const nbi_param *a, const nbi_state *state, double t,
                 size_t begin, size_t end) {
    float *restrict w = a->value, *restrict m = state[0].data, *restrict v = state[1].data;
    const float *restrict g = a->gradient;
    const nbi_optimizer_options *o = &j->p->o;
    float correct1 = (float)(1 / (1 - pow((double)o->beta1, t)));
    float inv = (float)(1 / sqrt(1 - pow((double)o->beta2, t)));
    bool decoupled = o->kind == NBI_ADAMW;
    float b1 = o->beta1, b2 = o->beta2, c1 = 1 - b1, c2 = 1 - b2, epsilon = o->epsilon;
    float lr = j->lr * a->lr, step = lr * correct1, scale = j->scale;
    float coupled = decoupled ? 0 : a->decay, keep = decoupled ? 1 - lr * a->decay : 1;
    for (size_t i = begin; i < end; i++) {
        float d = g[i] * scale + coupled * w[i];
        m[i] = b1 * m[i] + c1 * d;
        v[i] = b2 * v[i] + c2 * d * d;
        w[i] = keep * w[i] - step * m[i] / (sqrtf(v[i]) * inv + epsilon);
    }
}

static nb_status step_range(void *user, size_t begin, size_t end, int worker) {
    const step_job *j = user;
    (void)worker;
    for (size_t c = begin; c < end; c++) {
        const nbi_chunk *k = &j->p->chunks.chunk[c];
        const nbi_param *a = &j->p->param[k->array];
        const nbi_state *s = j->p->per_param ? &j->p->state[k->array * j->p->per_param] : NULL;
        if (a->lr == 0) continue;
        if (is_sgd(j->p, a))
            sgd(j, a, j->p->o.momentum > 0 ? s[0].data : NULL, k->begin, k->end);
        else
            adam(j, a, s, (double)j->p->steps[k->array], k->begin, k->end);
    }
    return NB_OK;
}

nb_status nbi_optimizer_step(nb_ctx *ctx, nbi_optimizer *p, double lr, double *norm) {
    double length;
    NB_TRY(gradient_norm(ctx, p, &length));
    for (size_t i = 0; i < p->n; i++) p->steps[i] += p->param[i].lr != 0;
    step_job job = {.p = p, .lr = (float)lr, .scale = 1};
    if (p->o.clip > 0 && length > (double)p->o.clip)
        job.scale = (float)((double)p->o.clip / length);
    if (norm) *norm = length;
    return nbi_parallel(ctx, p->chunks.n, 1, step_range, &job);
}
