/* MetaQuantNet: gradients of the generator, the shared-weight control bit for bit, what is generated
 * is what the training graph simulates, files, policies drawn; of widths, and of schemes and widths. */
#include "hand_net.h"

#include "hyper/metaquantnet.h"
#include "quant/fit.h"
#include "schemes/choice.h"

#define BATCH   4
#define CLASSES 5

typedef struct case_of {
    hand h;
    nbi_choice *fixed, *bits;
    nbi_meta *meta;
    float *target;
    bool mixed; /* several schemes are offered */
} case_of;

enum { WEIGHTS = 6, ACTIVATIONS = 4, COLUMNS = 6 };
static nbi_choice scheme(const char *text) {
    nbi_choice c;
    assert_int_equal(nbi_choice_parse(NULL, "test", text, strlen(text), &c), NB_OK);
    return c;
}

/* Residual stream, a depthwise convolution, negative scales of normalization. */
static void network(case_of *c, uint64_t seed) {
    hand *h = &c->h;
    const float gamma[8] = {1, -1, 0.5f, 0.7f, 1, 2, -0.5f, 1};
    int x = HAND_IMAGE(h, seed, 3, 8, 8);
    int a = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, x, 3, 8), 8, NULL));
    int b = hand_bn(h, hand_conv3(h, a, 8, 8), 8, gamma);
    b = hand_op(h, "Relu", hand_op2(h, "Add", a, b));
    b = hand_conv(h, b, 8, 8, 8, (hand_window){3, 1, 1, 1});
    b = hand_op(h, "Relu", hand_bn(h, b, 8, gamma));
    b = hand_op(h, "Relu", hand_bn(h, hand_conv3(h, b, 8, 6), 6, NULL));
    b = hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", b));
    int y = hand_gemm(h, b, 6, CLASSES);
    hand_outputs(h, 1, &y);
    hand_generate(h, NBI_FIRST_LAST_8);
    hand_calibrate(h, BATCH);
    size_t sites = (size_t)h->net->n_sites;
    c->fixed = calloc(sites, sizeof *c->fixed);
    c->bits = calloc(sites, sizeof *c->bits);
    for (size_t i = 0; i < sites; i++) c->fixed[i] = (nbi_choice)h->net->site[i].fixed_bits;
    c->target = calloc(BATCH * CLASSES, sizeof *c->target);
    for (int i = 0; i < BATCH; i++) c->target[i * CLASSES + i % CLASSES] = 1;
}

static nbi_meta_options options_of(const case_of *c, nbi_meta_kind kind, int context) {
    nbi_meta_options o = {.kind = kind, .context = context, .hidden = 8,
                          .weights = {1, 2, 4, 8}, .n_weights = 4,
                          .activations = {2, 4, 8}, .n_activations = 3,
                          .fixed = c->fixed, .seed = 9,
                          .qat = {.batch = BATCH, .per_channel = true, .classes = CLASSES}};
    if (!c->mixed) return o;
    /* one by one group, one that rescales, one that is learned; activations without a table */
    const nbi_choice w[WEIGHTS] = {scheme("ternary2"), scheme("codebook2"), scheme("dorefa3"),
                                   scheme("pot3"), 4, scheme("apot4")};
    const nbi_choice a[ACTIVATIONS] = {scheme("unsigned3"), scheme("pact4"), 4, 8};
    memcpy(o.weights, w, sizeof w);
    memcpy(o.activations, a, sizeof a);
    o.n_weights = WEIGHTS;
    o.n_activations = ACTIVATIONS;
    return o;
}

static nbi_meta *new_meta(case_of *c, nbi_meta_kind kind, int context) {
    hand *h = &c->h;
    nbi_meta_options o = options_of(c, kind, context);
    nbi_meta *m;
    for (int s = 0; s < h->net->n_sites; s++)
        for (int k = 0; k < o.n_activations; k++)
            HAND_OK(nbi_fit_site(h->ctx, h->net, s, o.activations[k], NBI_RANGE_MSE));
    HAND_OK(nbi_meta_new(h->ctx, h->g, h->net, nbi_score_edge(h->net), &o, &m));
    return m;
}

static void release(case_of *c) {
    nbi_meta_free(c->meta);
    free(c->fixed);
    free(c->bits);
    free(c->target);
    hand_free(&c->h);
}

/* Every row's column; the policy in both forms. */
static void set_policy(case_of *c, nbi_rng *rng, float *input) {
    const nbi_meta *m = c->meta;
    memset(input, 0, (size_t)(m->n_rows * m->columns) * sizeof *input);
    for (int i = 0; i < c->h.net->n_sites; i++) c->bits[i] = c->fixed[i];
    for (int r = 0; r < m->n_rows; r++) {
        int k = (int)nbi_rng_below(rng, (uint32_t)m->row[r].n);
        input[r * m->columns + k] = 1;
        c->bits[m->row[r].site] = m->row[r].choice[k];
    }
}

static float *const_of(const case_of *c, const char *name) {
    const nbi_graph *g = c->meta->qat->graph;
    int t = nbi_graph_find(g, name);
    return t < 0 ? NULL : g->tensor[t]->data;
}

static float *matrix(const case_of *c, int row, const char *what) {
    char name[256];
    const nbi_meta *m = c->meta;
    const nbi_graph *g = m->qat->graph;
    snprintf(name, sizeof name, "%s/%s", g->tensor[m->qat->layer[m->row[row].layer].weight]->name,
             what);
    return const_of(c, name);
}

/* ---- bit for bit ----------------------------------------------------------------------------- */

static void same_values(case_of *c, nbi_tape *a, int x, nbi_tape *b, int y) {
    hand *h = &c->h;
    nbi_view v, w;
    HAND_OK(nbi_tape_value(h->ctx, a, x, &v));
    HAND_OK(nbi_tape_value(h->ctx, b, y, &w));
    assert_int_equal(nbi_view_count(&v), nbi_view_count(&w));
    assert_true(nbi_view_is_contiguous(&v) && nbi_view_is_contiguous(&w));
    assert_memory_equal(v.data, w.data, (size_t)nbi_view_count(&v) * sizeof(float));
}

static nbi_tape *run_meta(case_of *c, const float *input) {
    hand *h = &c->h;
    nbi_qat *q = c->meta->qat;
    nbi_tape *tape;
    nbi_tape_spec spec = {.n_losses = 1, .loss = &q->label_loss};
    HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input, c->target, input}, 0));
    return tape;
}

static nbi_tape *run_plain(case_of *c, nbi_qat **out) {
    hand *h = &c->h;
    nbi_qat *q;
    nbi_tape *tape;
    HAND_OK(nbi_qat_new(h->ctx, h->g, h->net, c->bits, nbi_score_edge(h->net), &c->meta->o.qat,
                        &q));
    nbi_tape_spec spec = {.n_losses = 1, .loss = &q->label_loss};
    HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
    HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input, c->target}, 0));
    *out = q;
    return tape;
}

/* Shared weights, free tables that are still alike, and a generator with C = 0 compute what the
 * training graph of the policy itself computes, at every policy. */
static void shared(bool mixed) {
    for (int kind = NBI_META_HYPER; kind <= NBI_META_TABLES; kind++)
        for (int context = 0; context < (kind == NBI_META_HYPER ? 4 : 1); context += context ? 2 : 1) {
            case_of c = {.mixed = mixed};
            float input[HAND_SITES * COLUMNS];
            nbi_rng rng;
            nbi_rng_seed(&rng, 1, 1);
            network(&c, 3);
            c.meta = new_meta(&c, (nbi_meta_kind)kind, context);
            for (int r = 0; r < c.meta->n_weights && kind == NBI_META_HYPER; r++) {
                const nbi_layer *l = &c.h.net->layer[c.meta->row[r].layer];
                memset(matrix(&c, r, "C"), 0, 8 * l->n_weights * sizeof(float));
            }
            for (int policy = 0; policy < 4; policy++) {
                nbi_qat *plain;
                set_policy(&c, &rng, input);
                nbi_tape *a = run_meta(&c, input), *b = run_plain(&c, &plain);
                same_values(&c, a, c.meta->qat->logits, b, plain->logits);
                same_values(&c, a, c.meta->qat->label_loss, b, plain->label_loss);
                nbi_tape_free(a);
                nbi_tape_free(b);
                nbi_qat_free(plain);
            }
            release(&c);
        }
}

static void test_shared(void **state) {
    (void)state;
    shared(false);
    shared(true);
}

/* What is scored is what is trained: levels times scale are FakeQuant's values. */
static void test_levels(void **state) {
    (void)state;
    for (int context = 1; context <= 3; context += 2) {
        case_of c = {0};
        hand *h = &c.h;
        float input[HAND_SITES * COLUMNS];
        nbi_rng rng;
        nbi_rng_seed(&rng, 2, 1);
        network(&c, 4);
        c.meta = new_meta(&c, NBI_META_HYPER, context);
        const nbi_scheme *lsq = nbi_scheme_find("lsq");
        for (int r = 0; r < c.meta->n_weights; r++) { /* signs that move into the weights */
            const nbi_qat_layer *q = &c.meta->qat->layer[c.meta->row[r].layer];
            if (q->gamma >= 0) ((float *)c.meta->qat->graph->tensor[q->gamma]->data)[1] = -0.5f;
        }
        for (int policy = 0; policy < 3; policy++) {
            set_policy(&c, &rng, input);
            HAND_OK(nbi_meta_install(h->ctx, c.meta, c.bits));
            for (int r = 0; r < c.meta->n_weights; r++) {
                const nbi_layer *l = &h->net->layer[c.meta->row[r].layer];
                int8_t levels[600];
                float scale[8];
                nbi_coded_weights w8 = {.levels = levels, .scale = scale};
                assert_true(l->n_weights <= sizeof levels);
                HAND_OK(nbi_meta_levels(h->ctx, c.meta, c.meta->row[r].layer, c.bits, &w8));
                int width = c.bits[l->weight_site];
                nbi_scheme_use use = {.bits = width, .weights = true};
                for (size_t i = 0; i < l->n_weights; i++) {
                    float s = scale[nbi_weight_channel(l, i)], want;
                    float step = s * (float)nbk_level_step(width), found = s * (float)levels[i];
                    float sign = nbi_weight_channel(l, i) == 1 && l->gain[1] > 0 ? -1 : 1;
                    float w = sign * l->weight[i], top = step * (float)((1 << width) / 2 - 1);
                    lsq->forward(&use, &step, &w, &want, 1);
                    want *= sign;
                    if (width > 1 && want > top) want = top; /* the lowest level, turned */
                    if (found != want)
                        fail_msg("weight %zu at %d bits: %g, want %g", i, width, (double)found,
                                 (double)want);
                }
            }
        }
        release(&c);
    }
}

/* Likewise by a scheme: its params are those that are selected, or fitted to what is generated. Weights
 * of a turned channel are coded turned. */
static void test_levels_of_schemes(void **state) {
    (void)state;
    case_of c = {.mixed = true};
    hand *h = &c.h;
    nbi_rng rng;
    float input[HAND_SITES * COLUMNS];
    nbi_rng_seed(&rng, 2, 1);
    network(&c, 4);
    c.meta = new_meta(&c, NBI_META_HYPER, 1);
    for (int policy = 0; policy < 6; policy++) {
        set_policy(&c, &rng, input);
        HAND_OK(nbi_meta_install(h->ctx, c.meta, c.bits));
        for (int r = 0; r < c.meta->n_weights; r++) {
            int layer = c.meta->row[r].layer;
            const nbi_layer *l = &h->net->layer[layer];
            nbi_choice choice = c.bits[l->weight_site];
            nbi_coded_weights got = {.levels = calloc(l->n_weights, 1), .scale = calloc(8, 4)};
            nbi_coded_weights want = {.levels = calloc(l->n_weights, 1), .scale = calloc(8, 4)};
            HAND_OK(nbi_meta_levels(h->ctx, c.meta, layer, c.bits, &got));
            assert_true(got.sqnr > 0);
            const char *name = nbi_choice_row(choice)->name;
            /* what is refitted: as if these weights were the layer's own (but for DoReFa's constant) */
            if (!strcmp(name, "ternary") || !strcmp(name, "pot") || !strcmp(name, "dorefa")) {
                HAND_OK(nbi_fit_weight_choice(h->ctx, l, choice, true, &want));
                assert_memory_equal(got.levels, want.levels, l->n_weights);
                assert_int_equal(got.has_table, want.has_table);
                if (got.has_table) assert_memory_equal(got.table, want.table, (size_t)1 << choice % 256);
                for (int k = 0; k < l->geometry.out_c && *name != 'd'; k++)
                    assert_true(got.scale[k] == want.scale[k]);
            }
            free(got.levels), free(got.scale), free(want.levels), free(want.scale);
        }
    }
    /* a width that is not offered: the scheme's nearest one's weights, fitted */
    for (int i = 0; i < h->net->n_sites; i++) c.bits[i] = c.fixed[i] ? c.fixed[i] : scheme("pot2");
    nbi_coded_weights near = {.levels = calloc(600, 1), .scale = calloc(8, 4)};
    float *a = malloc(600 * sizeof *a), *b = malloc(600 * sizeof *b);
    int layer = c.meta->row[0].layer;
    HAND_OK(nbi_meta_levels(h->ctx, c.meta, layer, c.bits, &near));
    assert_true(near.has_table);
    HAND_OK(nbi_meta_weights(h->ctx, c.meta, layer, c.bits, a));
    c.bits[h->net->layer[layer].weight_site] = scheme("pot3");
    HAND_OK(nbi_meta_weights(h->ctx, c.meta, layer, c.bits, b));
    assert_memory_equal(a, b, h->net->layer[layer].n_weights * sizeof *a);
    c.bits[h->net->layer[layer].weight_site] = scheme("ternary2");
    HAND_OK(nbi_meta_weights(h->ctx, c.meta, layer, c.bits, b));
    assert_memory_not_equal(a, b, h->net->layer[layer].n_weights * sizeof *a);
    free(near.levels), free(near.scale), free(a), free(b);
    release(&c);
}

/* Activations: what is refitted is averaged in the row of the choice at hand and in no other, what was
 * trained becomes the site's grid, and uninstalling brings calibration's back. */
static void test_activations(void **state) {
    (void)state;
    case_of c = {.mixed = true};
    hand *h = &c.h;
    network(&c, 4);
    c.meta = new_meta(&c, NBI_META_SHARED, 1);
    nbi_meta *m = c.meta;
    int row = m->n_weights;
    while (row < m->n_rows && m->row[row].fitted < 0) row++;
    assert_true(row < m->n_rows);
    const nbi_meta_row *r = &m->row[row];
    nbi_site *site = &h->net->site[r->site];
    assert_true(r->choice[0] == scheme("unsigned3") && r->choice[1] == scheme("pact4"));
    float *fitted = m->qat->graph->tensor[r->fitted]->data;
    float *steps = m->qat->graph->tensor[r->steps]->data, was = fitted[0];
    assert_true(was > 0 && fitted[r->columns] == 0 && steps[0] == 0 && steps[r->columns] > 0);
    nbi_tape *tape;
    nbi_tape_spec spec = {.n_losses = 1, .loss = &m->qat->label_loss, .n_states = m->qat->n_states,
                          .state = m->qat->state};
    HAND_OK(nbi_tape_new(h->ctx, m->qat->graph, &spec, &tape));
    for (int k = 1; k >= 0; k--) { /* pact first: nothing is averaged */
        memset(m->input, 0, (size_t)(m->n_rows * m->columns) * sizeof *m->input);
        for (int i = 0; i < m->n_rows; i++) m->input[i * m->columns + (i < m->n_weights ? 4 : k)] = 1;
        for (size_t i = 0; i < h->images * h->count; i++) h->input[i] *= 1.5f;
        HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input, c.target, m->input}, 0));
        nbi_tape_advance(tape);
        assert_true((fitted[0] == was) == (k == 1));
        for (int i = 1; i < r->n * r->columns; i++) assert_true(fitted[i] == 0);
    }
    nbi_tape_free(tape);
    steps[r->columns] *= 2; /* pact's clipping value */
    double fit = nbi_site_grid(site, r->choice[1])->scale;
    double average = nbi_site_grid(site, r->choice[0])->scale;
    HAND_OK(nbi_meta_install(h->ctx, m, NULL));
    assert_true(fabs(nbi_site_grid(site, r->choice[1])->scale - 2 * fit) < 1e-6 * fit);
    assert_true(nbi_site_grid(site, r->choice[0])->scale != average);
    nbi_meta_uninstall(m);
    assert_true(nbi_site_grid(site, r->choice[1])->scale == fit);
    assert_true(nbi_site_grid(site, r->choice[0])->scale == average);
    release(&c);
}

static void test_install(void **state) {
    (void)state;
    case_of c = {0};
    hand *h = &c.h;
    float input[HAND_SITES * COLUMNS];
    nbi_rng rng;
    nbi_rng_seed(&rng, 3, 1);
    network(&c, 5);
    c.meta = new_meta(&c, NBI_META_HYPER, 1);
    set_policy(&c, &rng, input);
    const nbi_layer *l = &h->net->layer[c.meta->row[0].layer];
    float weight = l->weight[3], gain = l->gain[1];
    double mean = l->mean[1];
    HAND_OK(nbi_meta_install(h->ctx, c.meta, c.bits));
    assert_true(l->weight[3] != weight);
    for (int k = 0; k < l->geometry.out_c; k++) assert_true(l->gain[k] >= 0);
    /* statistics that stand in the training graph are those of calibration still: the same affine */
    assert_true(fabsf(l->gain[1] - gain) < 1e-4f * gain);
    nbi_meta_uninstall(c.meta);
    assert_true(l->weight[3] == weight && l->gain[1] == gain && l->mean[1] == mean);
    release(&c);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* Σ over all generated weights of what flows into them, times the weights that a policy gets. */
static double generated_sum(case_of *c, const float *flow) {
    hand *h = &c->h;
    nbi_meta *m = c->meta;
    double sum = 0;
    HAND_OK(nbi_tape_forward(h->ctx, m->tape, (const void *const[]){m->input}, 0));
    for (int r = 0; r < m->n_weights; r++) {
        nbi_view v;
        HAND_OK(nbi_tape_value(h->ctx, m->tape, m->row[r].weight, &v));
        assert_true(nbi_view_is_contiguous(&v));
        for (int64_t i = 0; i < nbi_view_count(&v); i++)
            sum += (double)*flow++ * (double)((float *)v.data)[i];
    }
    return sum;
}

/* The quantizer passes gradients straight through, so that W has the gradient G; then those of C, A,
 * c and a are the slopes of Σ G·W, which is smooth. */
static void test_gradients(void **state) {
    static const char *const names[] = {"C", "A", "a", ""};
    (void)state;
    for (int round = 0; round < 6; round++) {
        static const int contexts[] = {0, 1, 3};
        int context = contexts[round % 3];
        case_of c = {.mixed = round > 2};
        hand *h = &c.h;
        network(&c, 6);
        c.meta = new_meta(&c, NBI_META_HYPER, context);
        nbi_meta *m = c.meta;
        nbi_qat *q = m->qat;
        int wrt[64], n = 0, row = 1;
        size_t total = 0;
        for (int r = 0; r < m->n_weights; r++) {
            wrt[n++] = m->row[r].weight;
            total += (size_t)nbi_tensor_count(q->graph->tensor[m->row[r].weight]);
        }
        const char *base = q->graph->tensor[q->layer[m->row[row].layer].weight]->name;
        for (int k = 0; k < 4; k++) {
            char name[256];
            snprintf(name, sizeof name, k < 3 ? "%s/%s" : "%s%s", base, names[k]);
            wrt[n++] = nbi_graph_find(q->graph, name);
            assert_true(wrt[n - 1] >= 0);
        }
        nbi_tape *tape;
        nbi_tape_spec spec = {.n_wrt = n, .wrt = wrt, .n_losses = 1, .loss = &q->label_loss};
        HAND_OK(nbi_tape_new(h->ctx, q->graph, &spec, &tape));
        const float *input = nbi_meta_draw(m, 5);
        HAND_OK(nbi_tape_forward(h->ctx, tape, (const void *const[]){h->input, c.target, input},
                                 0));
        HAND_OK(nbi_tape_backward(h->ctx, tape, NULL));
        float *flow = malloc(total * sizeof *flow), *to = flow;
        for (int r = 0; r < m->n_weights; r++) {
            size_t count = (size_t)nbi_tensor_count(q->graph->tensor[wrt[r]]);
            memcpy(to, nbi_tape_gradient(tape, r), count * sizeof *flow);
            to += count;
        }
        for (int k = 0; k < 4; k++) {
            const nbi_tensor *t = q->graph->tensor[wrt[m->n_weights + k]];
            const float *g = nbi_tape_gradient(tape, m->n_weights + k);
            float largest = 0;
            for (int64_t i = 0; i < nbi_tensor_count(t); i++) largest = fmaxf(largest, fabsf(g[i]));
            assert_true(largest > 0);
            for (int64_t i = 0; i < nbi_tensor_count(t); i += 1 + nbi_tensor_count(t) / 12) {
                float *x = (float *)t->data + i, kept = *x;
                double up, down, step = 1e-3;
                *x = kept + (float)step;
                up = generated_sum(&c, flow);
                *x = kept - (float)step;
                down = generated_sum(&c, flow);
                *x = kept;
                double slope = (up - down) / (2 * step);
                /* float32 weights near 1 over a step of 2e-3 */
                if (!(fabs(slope - (double)g[i]) < 0.01 * (double)largest + 1e-5))
                    fail_msg("%s: slope %g, gradient %g", t->name, slope, (double)g[i]);
            }
        }
        free(flow);
        nbi_tape_free(tape);
        release(&c);
    }
}

/* ---- policies, files ------------------------------------------------------------------------- */

static void test_draw(void **state) {
    (void)state;
    case_of c = {0};
    network(&c, 7);
    c.meta = new_meta(&c, NBI_META_SHARED, 1);
    nbi_meta *m = c.meta;
    int least = 0, most = 0, count[4] = {0}, n = 2000;
    size_t bytes = (size_t)(m->n_rows * m->columns) * sizeof(float);
    float first[HAND_SITES * COLUMNS];
    for (int s = 0; s < n; s++) {
        const float *p = nbi_meta_draw(m, (uint64_t)s);
        bool all_least = true, all_most = true;
        for (int r = 0; r < m->n_rows; r++) {
            int k = 0, ones = 0, widths = r < m->n_weights ? 4 : 3;
            for (int i = 0; i < m->columns; i++)
                if (p[r * m->columns + i] > 0) k = i, ones++;
            assert_true(ones == 1 && k < widths);
            all_least &= k == 0;
            all_most &= k == widths - 1;
            if (r == 1) count[k]++;
        }
        least += all_least;
        most += all_most;
        if (s == 17) memcpy(first, p, bytes);
    }
    release(&c);
    c = (case_of){.mixed = true};
    network(&c, 7);
    c.meta = m = new_meta(&c, NBI_META_SHARED, 1);
    int choice[WEIGHTS] = {0};
    for (int s = 0; s < n; s++) {
        const float *p = nbi_meta_draw(m, (uint64_t)s);
        for (int k = 0; k < WEIGHTS; k++) choice[k] += p[m->columns + k] > 0;
    }
    /* of six schemes one each, but for the extremes: ternary or codebook, uniform or APoT */
    for (int k = 0; k < WEIGHTS; k++) {
        double share = 0.8 / 6 + (k < 2 || k > 3 ? 0.05 : 0);
        assert_in_range(choice[k], share * n - 70, share * n + 70);
    }
    release(&c);
    c = (case_of){0};
    network(&c, 7);
    c.meta = m = new_meta(&c, NBI_META_SHARED, 1);
    /* a tenth each, give or take 4 standard deviations of 2,000 draws */
    assert_in_range(least, 146, 254);
    assert_in_range(most, 146, 254);
    assert_in_range(count[1], 0.2 * n - 72, 0.2 * n + 72);
    assert_memory_equal(first, nbi_meta_draw(m, 17), bytes);
    release(&c);
}

static void test_files(void **state) {
    (void)state;
    case_of c = {0};
    hand *h = &c.h;
    const char *path = "test_metaquantnet.onnx";
    const nbi_pair of = {"source", "abc"}, other = {"source", "abd"};
    network(&c, 8);
    c.meta = new_meta(&c, NBI_META_HYPER, 1);
    int layer = c.meta->row[0].layer;
    size_t n = h->net->layer[layer].n_weights;
    float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b);
    for (int i = 0; i < h->net->n_sites; i++) c.bits[i] = c.fixed[i] ? c.fixed[i] : 2;
    for (int i = 0; i < c.meta->n_params; i++) /* nothing is as it began */
        *(float *)c.meta->qat->graph->tensor[c.meta->param[i].tensor]->data += 0.125f;
    HAND_OK(nbi_meta_weights(h->ctx, c.meta, layer, c.bits, a));
    HAND_OK(nbi_meta_write(h->ctx, c.meta, path, 1, &of));
    nbi_meta_options o = options_of(&c, NBI_META_HYPER, 1);
    o.seed = 10;
    nbi_meta *again;
    HAND_OK(nbi_meta_new(h->ctx, h->g, h->net, nbi_score_edge(h->net), &o, &again));
    HAND_OK(nbi_meta_weights(h->ctx, again, layer, c.bits, b));
    assert_memory_not_equal(a, b, n * sizeof *a);
    assert_int_equal(nbi_meta_read(h->ctx, again, path, 1, &other), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "source is abc, here it is abd"));
    HAND_OK(nbi_meta_read(h->ctx, again, path, 1, &of));
    HAND_OK(nbi_meta_weights(h->ctx, again, layer, c.bits, b));
    assert_memory_equal(a, b, n * sizeof *a);
    nbi_meta_free(again);
    o.weights[0] = 3, o.n_weights = 1;
    HAND_OK(nbi_meta_new(h->ctx, h->g, h->net, nbi_score_edge(h->net), &o, &again));
    assert_int_equal(nbi_meta_read(h->ctx, again, path, 1, &of), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "weight_bits is 1,2,4,8, here it is 3"));
    nbi_meta_free(again);
    o.weights[1] = scheme("pot3"), o.n_weights = 2; /* another encoding */
    HAND_OK(nbi_meta_new(h->ctx, h->g, h->net, nbi_score_edge(h->net), &o, &again));
    assert_int_equal(nbi_meta_read(h->ctx, again, path, 1, &of), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "weight_bits is 1,2,4,8, here it is 3,pot3"));
    nbi_meta_free(again);
    remove(path);
    free(a);
    free(b);
    release(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shared),    cmocka_unit_test(test_levels),
        cmocka_unit_test(test_levels_of_schemes), cmocka_unit_test(test_activations),
        cmocka_unit_test(test_install),   cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_draw),      cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests_name("metaquantnet", tests, NULL, NULL);
}
