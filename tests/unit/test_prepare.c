/* Training forms: every architecture goes one step forward and back, with finite gradients for
 * every weight; what is shared, folded or missing in a file is handled; what cannot be trained is
 * named. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "hyper/arch.h"
#include "ops/op.h"
#include "train/prepare.h"

#include <math.h>
#include <string.h>

enum { BATCH = 2 };

static nb_ctx *new_ctx(void) {
    nb_ctx *ctx = nb_ctx_new();
    nb_ctx_set_threads(ctx, 1);
    return ctx;
}

static nbi_tape *open_tape(nb_ctx *ctx, const nbi_training *t) {
    int *wrt;
    nbi_tape *tape;
    assert_int_equal(nbi_alloc(ctx, (size_t)t->n_trained, sizeof *wrt, &wrt), NB_OK);
    for (int i = 0; i < t->n_trained; i++) wrt[i] = t->trained[i].tensor;
    nbi_tape_spec spec = {.n_wrt = t->n_trained,
                          .wrt = wrt,
                          .n_losses = t->n_losses,
                          .loss = t->loss,
                          .n_states = t->n_states,
                          .state = t->state};
    nb_status st = nbi_tape_new(ctx, t->graph, &spec, &tape);
    if (st != NB_OK) print_error("%s\n", nb_ctx_message(ctx));
    assert_int_equal(st, NB_OK);
    nbi_free(wrt);
    return tape;
}

/* Forward on made-up inputs; the first loss. */
static double forward(nb_ctx *ctx, const nbi_training *t, nbi_tape *tape, uint64_t seed) {
    const void *inputs[3];
    float *x[3];
    nbi_view loss;
    for (int i = 0; i < t->graph->n_inputs; i++) {
        size_t n = (size_t)nbi_tensor_count(t->graph->tensor[t->graph->input[i]]);
        assert_int_equal(nbi_alloc(ctx, n, sizeof(float), &x[i]), NB_OK);
        for (size_t k = 0; k < n; k++)
            x[i][k] = i == 0 ? sinf((float)(k * k % 1009)) : k % (n / BATCH) == 1 ? 1.0f : 0.0f;
        inputs[i] = x[i];
    }
    assert_int_equal(nbi_tape_forward(ctx, tape, inputs, seed), NB_OK);
    assert_int_equal(nbi_tape_value(ctx, tape, t->loss[0], &loss), NB_OK);
    double value = (double)*(const float *)loss.data;
    assert_int_equal(nbi_tape_backward(ctx, tape, NULL), NB_OK);
    for (int i = 0; i < t->graph->n_inputs; i++) nbi_free(x[i]);
    return value;
}

static double power(const float *v, const nbi_tensor *t) {
    double sum = 0;
    for (int64_t i = 0, n = nbi_tensor_count(t); i < n; i++) sum += (double)v[i] * (double)v[i];
    return sum;
}

static void each_architecture_trains(void **state) {
    (void)state;
    nb_ctx *ctx = new_ctx();
    size_t n;
    const nbi_arch *const *row = nbi_archs(&n);
    for (size_t i = 0; i < n; i++) {
        nbi_arch_options o = {.width = 0.25};
        if (row[i]->input[1] == 224)
            o = (nbi_arch_options){.width = 0.125, .rank = 3, .input = {3, 64, 64}};
        nbi_training_options options = {.batch = BATCH};
        nbi_graph *g;
        nbi_training *t;
        assert_int_equal(nbi_arch_build(ctx, row[i]->name, &o, &g), NB_OK);
        options.reconstruct = nbi_can_reconstruct(g);
        assert_int_equal(options.reconstruct, !strcmp(row[i]->name, "autoencoder"));
        assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_OK);
        nbi_tape *tape = open_tape(ctx, t);
        double loss = forward(ctx, t, tape, 1), other = forward(ctx, t, tape, 2);
        assert_true(isfinite(loss) && loss > 0);
        bool drops = !strcmp(row[i]->name, "mobilenet_v2") || !strcmp(row[i]->name, "dscnn");
        assert_int_equal(loss != other, drops); /* the seed reaches Dropout, and nothing else */
        double total = 0;
        for (int k = 0; k < t->n_trained; k++) {
            const nbi_tensor *w = t->graph->tensor[t->trained[k].tensor];
            total += power(nbi_tape_gradient(tape, k), w);
        }
        assert_true(isfinite(total) && total > 0);
        nbi_tape_advance(tape);
        nbi_training_publish(t);
        for (int k = 0; k < t->n_states; k += 2) {
            const nbi_tensor *mean = t->model->tensor[t->state[k].to];
            assert_true(power(mean->data, mean) > 0);
        }
        nbi_tape_free(tape);
        nbi_training_free(t);
        nbi_graph_free(g);
    }
    nb_ctx_free(ctx);
}

static int constant(nb_ctx *ctx, nbi_graph *g, const char *name, int rank, const int64_t *dim) {
    int t;
    assert_int_equal(nbi_graph_add_const(ctx, g, name, NB_DTYPE_F32, rank, dim, &t), NB_OK);
    return t;
}

static int node(nb_ctx *ctx, nbi_graph *g, const char *type, int n_in, const int *in) {
    int y;
    assert_int_equal(nbi_graph_add_tensor(ctx, g, type, NB_DTYPE_NONE, -1, NULL, &y), NB_OK);
    assert_int_equal(nbi_graph_add_node(ctx, g, type, "", type, n_in, in, 1, &y, NULL), NB_OK);
    return y;
}

/* x[N,3] · transpose(w[4,3]) + b → BatchNormalization whose scale and variance, shift and mean are
 * one constant each → Softmax, as exporters write it. */
static nbi_graph *awkward(nb_ctx *ctx) {
    nbi_graph *g;
    const int64_t x_dim[2] = {-1, 3}, w_dim[2] = {4, 3}, c_dim[1] = {4};
    int x;
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    assert_int_equal(nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_F32, 2, x_dim, &x), NB_OK);
    assert_int_equal(nbi_graph_set_inputs(ctx, g, 1, &x), NB_OK);
    int w = constant(ctx, g, "w", 2, w_dim), b = constant(ctx, g, "b", 1, c_dim);
    int ones = constant(ctx, g, "ones", 1, c_dim), zeros = constant(ctx, g, "zeros", 1, c_dim);
    for (int i = 0; i < 4; i++) ((float *)g->tensor[ones]->data)[i] = 1;
    for (int i = 0; i < 12; i++) ((float *)g->tensor[w]->data)[i] = cosf((float)i);
    int wt = node(ctx, g, "Transpose", 1, &w);
    int y = node(ctx, g, "MatMul", 2, (const int[]){x, wt});
    y = node(ctx, g, "Add", 2, (const int[]){y, b});
    y = node(ctx, g, "BatchNormalization", 5, (const int[]){y, ones, zeros, zeros, ones});
    y = node(ctx, g, "Softmax", 1, &y);
    assert_int_equal(nbi_graph_set_outputs(ctx, g, 1, &y), NB_OK);
    for (int n = 0; n < g->n_nodes; n++)
        assert_int_equal(nbi_node_prepare(ctx, g, g->node[n]), NB_OK);
    return g;
}

static void awkward_files_are_untangled(void **state) {
    (void)state;
    nb_ctx *ctx = new_ctx();
    nbi_graph *g = awkward(ctx);
    nbi_training_options options = {.batch = BATCH, .distill = true};
    nbi_training *t;
    assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_OK);
    assert_int_equal(t->classes, 4);
    assert_int_equal(t->n_trained, 4); /* the transposed weight, bias, scale, shift */
    assert_int_equal(t->n_states, 2);
    assert_int_equal(t->n_losses, 2);
    assert_int_equal(t->graph->n_inputs, 3);
    for (int i = 0; i < t->n_trained; i++) /* no constant serves two purposes */
        for (int k = 0; k < t->n_states; k++) assert_true(t->trained[i].tensor != t->state[k].to);
    nbi_tape *tape = open_tape(ctx, t);
    double loss = forward(ctx, t, tape, 0);
    /* the loss reads what Softmax reads: rows are normalised, so it can be far from ln 4 */
    assert_true(isfinite(loss) && loss > 0);
    nbi_tape_free(tape);
    nbi_training_free(t);
    /* fresh weights: a bias that does not matter, kernels by seed */
    options = (nbi_training_options){.batch = BATCH, .init = true, .seed = 3};
    assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_OK);
    for (int i = 0; i < t->n_trained; i++)
        if (t->trained[i].role == NBI_ROLE_KERNEL)
            assert_true(((float *)t->graph->tensor[t->trained[i].tensor]->data)[0] != 1.0f);
    nbi_training_free(t);
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

static void missing_weights_are_made(void **state) {
    (void)state;
    nb_ctx *ctx = new_ctx();
    nbi_graph *g = awkward(ctx);
    nbi_training_options options = {.batch = BATCH};
    nbi_training *t = NULL;
    int w = nbi_graph_find(g, "w"), inputs[2] = {g->input[0], w};
    g->tensor[w]->data = NULL; /* as a file that lists it as an input only */
    assert_int_equal(nbi_graph_set_inputs(ctx, g, 2, inputs), NB_OK);
    assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(ctx), "--init"));
    assert_null(t);
    options.init = true;
    assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_OK);
    assert_int_equal(t->graph->n_inputs, 2); /* x and the targets */
    for (int i = 0; i < t->n_trained; i++)
        if (t->trained[i].role == NBI_ROLE_KERNEL) {
            const nbi_tensor *k = t->graph->tensor[t->trained[i].tensor];
            assert_true(power(k->data, k) > 0);
        }
    nbi_training_free(t);
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

static void nothing_to_train_is_told(void **state) {
    (void)state;
    nb_ctx *ctx = new_ctx();
    nbi_graph *g;
    const int64_t dim[2] = {-1, 3};
    nbi_training_options options = {.batch = BATCH};
    nbi_training *t = NULL;
    int x;
    assert_int_equal(nbi_graph_new(ctx, &g), NB_OK);
    assert_int_equal(nbi_graph_add_tensor(ctx, g, "x", NB_DTYPE_F32, 2, dim, &x), NB_OK);
    assert_int_equal(nbi_graph_set_inputs(ctx, g, 1, &x), NB_OK);
    int y = node(ctx, g, "Relu", 1, &x);
    assert_int_equal(nbi_graph_set_outputs(ctx, g, 1, &y), NB_OK);
    assert_int_equal(nbi_node_prepare(ctx, g, g->node[0]), NB_OK);
    assert_int_equal(nbi_training_new(ctx, g, &options, &t), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(ctx), "nothing to train"));
    nbi_graph_free(g);
    nb_ctx_free(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_architecture_trains),
        cmocka_unit_test(awkward_files_are_untangled),
        cmocka_unit_test(missing_weights_are_made),
        cmocka_unit_test(nothing_to_train_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
