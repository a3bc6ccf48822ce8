/* The three products of a layer in training over oneDNN 2.x: activations N,H,W,C; weights arrive in
 * ONNX order and are reordered at every run, which costs little beside the products. */
#include "linalg/onednn_parts.h"

#include <string.h>

typedef struct maker {
    dnnl_primitive_desc_t forward, pd;
    dnnl_memory_desc_t x, y, bias, any, plain;
} maker;

static void maker_free(maker *m) {
    if (m->pd && m->pd != m->forward) dnnl_primitive_desc_destroy(m->pd);
    if (m->forward) dnnl_primitive_desc_destroy(m->forward);
}

static nb_status memory(nb_ctx *ctx, nbi_la *la, const dnnl_memory_desc_t *md, void *where,
                        dnnl_memory_t *out) {
    return nbi_dnnl_check(ctx, dnnl_memory_create(out, md, la->engine, where), "memory");
}

/* The reorder between plain and the primitive's own weights, in the direction of the pass. */
static nb_status add_reorder(nb_ctx *ctx, nbi_la *la, const maker *m, const dnnl_memory_desc_t *own,
                             nbi_la_plan *plan) {
    bool to_plain = plan->pass == NBI_LA_BACKWARD_WEIGHTS;
    const dnnl_memory_desc_t *from = to_plain ? own : &m->plain, *to = to_plain ? &m->plain : own;
    dnnl_primitive_desc_t pd = NULL;
    nb_status st;
    NB_TRYG(nbi_dnnl_check(
        ctx, dnnl_reorder_primitive_desc_create(&pd, from, la->engine, to, la->engine, NULL),
        "reorder"));
    NB_TRYG(nbi_dnnl_make(ctx, &plan->reorder, pd, "reorder"));
done:
    if (pd) dnnl_primitive_desc_destroy(pd);
    return st;
}

static nb_status finish(nb_ctx *ctx, nbi_la *la, const maker *m, nbi_la_pass pass, bool bias,
                        nbi_la_plan **out) {
    nbi_la_plan *plan = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *plan, &plan));
    plan->pass = pass;
    NB_TRYG(nbi_dnnl_make(ctx, &plan->primitive, m->pd, "primitive"));
    const dnnl_memory_desc_t *w = dnnl_primitive_desc_query_md(
        m->pd, pass == NBI_LA_BACKWARD_WEIGHTS ? dnnl_query_diff_weights_md : dnnl_query_weights_md,
        0);
    NB_TRYG(memory(ctx, la, &m->x, DNNL_MEMORY_NONE, &plan->src));
    NB_TRYG(memory(ctx, la, &m->y, DNNL_MEMORY_NONE, &plan->dst));
    NB_TRYG(memory(ctx, la, &m->plain, DNNL_MEMORY_NONE, &plan->plain));
    if (bias) NB_TRYG(memory(ctx, la, &m->bias, DNNL_MEMORY_NONE, &plan->bias));
    if (!dnnl_memory_desc_equal(w, &m->plain)) {
        NB_TRYG(memory(ctx, la, w, DNNL_MEMORY_ALLOCATE, &plan->weights));
        NB_TRYG(add_reorder(ctx, la, m, w, plan));
    }
    *out = plan;
    plan = NULL;
done:
    nbi_la_plan_free(plan);
    return st;
}

nb_status nbi_la_conv_train(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *d, nbi_la_pass pass,
                            bool bias, nbi_la_plan **out) {
    maker m = {0};
    dnnl_convolution_desc_t conv;
    nb_status st;
    if (nbi_wino_fits(d)) return nbi_dnnl_wino(ctx, d, pass, NULL, NULL, out);
    bool grouped = d->group > 1;
    const dnnl_dims_t wide = {d->group, d->m / d->group, d->c / d->group, d->kernel[0],
                              d->kernel[1]};
    const dnnl_dims_t narrow = {d->m, d->c, d->kernel[0], d->kernel[1]};
    const int64_t *wd = grouped ? wide : narrow;
    const dnnl_dims_t gap = {d->dilation[0] - 1, d->dilation[1] - 1};
    const dnnl_memory_desc_t *b = bias ? &m.bias : NULL;
    NB_TRYG(nbi_dnnl_describe(ctx, &m.x, 4, (dnnl_dims_t){d->n, d->c, d->h, d->w}, dnnl_nhwc));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.y, 4, (dnnl_dims_t){d->n, d->m, d->oh, d->ow}, dnnl_nhwc));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.bias, 1, (dnnl_dims_t){d->m}, dnnl_a));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.any, 4 + grouped, wd, dnnl_format_tag_any));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.plain, 4 + grouped, wd, grouped ? dnnl_goihw : dnnl_oihw));
    NB_TRYG(nbi_dnnl_check(ctx,
                           dnnl_dilated_convolution_forward_desc_init(
                               &conv, dnnl_forward_training, dnnl_convolution_direct, &m.x, &m.any,
                               pass == NBI_LA_FORWARD ? b : NULL, &m.y, PAIR(d->stride), gap,
                               PAIR(d->pad_begin), PAIR(d->pad_end)),
                           "convolution"));
    NB_TRYG(nbi_dnnl_check(
        ctx, dnnl_primitive_desc_create(&m.forward, &conv, NULL, la->engine, NULL), "convolution"));
    m.pd = m.forward;
    if (pass == NBI_LA_BACKWARD_DATA)
        NB_TRYG(nbi_dnnl_check(ctx,
                               dnnl_dilated_convolution_backward_data_desc_init(
                                   &conv, dnnl_convolution_direct, &m.x, &m.any, &m.y,
                                   PAIR(d->stride), gap, PAIR(d->pad_begin), PAIR(d->pad_end)),
                               "convolution (data)"));
    if (pass == NBI_LA_BACKWARD_WEIGHTS)
        NB_TRYG(nbi_dnnl_check(ctx,
                               dnnl_dilated_convolution_backward_weights_desc_init(
                                   &conv, dnnl_convolution_direct, &m.x, &m.any, b, &m.y,
                                   PAIR(d->stride), gap, PAIR(d->pad_begin), PAIR(d->pad_end)),
                               "convolution (weights)"));
    if (pass != NBI_LA_FORWARD) {
        m.pd = NULL;
        NB_TRYG(nbi_dnnl_check(
            ctx, dnnl_primitive_desc_create(&m.pd, &conv, NULL, la->engine, m.forward),
            "convolution (backward)"));
    }
    st = finish(ctx, la, &m, pass, bias && pass != NBI_LA_BACKWARD_DATA, out);
done:
    maker_free(&m);
    return st;
}

nb_status nbi_la_gemm_train(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *d, nbi_la_pass pass,
                            bool bias, bool transposed, nbi_la_plan **out) {
    maker m = {0};
    dnnl_inner_product_desc_t product;
    nb_status st;
    const dnnl_memory_desc_t *b = bias ? &m.bias : NULL;
    NB_TRYG(nbi_dnnl_describe(ctx, &m.x, 2, (dnnl_dims_t){d->n, d->k}, dnnl_ab));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.y, 2, (dnnl_dims_t){d->n, d->m}, dnnl_ab));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.bias, 1, (dnnl_dims_t){d->m}, dnnl_a));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.any, 2, (dnnl_dims_t){d->m, d->k}, dnnl_format_tag_any));
    NB_TRYG(nbi_dnnl_describe(ctx, &m.plain, 2, (dnnl_dims_t){d->m, d->k},
                              transposed ? dnnl_ba : dnnl_ab));
    NB_TRYG(nbi_dnnl_check(
        ctx,
        dnnl_inner_product_forward_desc_init(&product, dnnl_forward_training, &m.x, &m.any,
                                             pass == NBI_LA_FORWARD ? b : NULL, &m.y),
        "inner product"));
    NB_TRYG(nbi_dnnl_check(ctx,
                           dnnl_primitive_desc_create(&m.forward, &product, NULL, la->engine, NULL),
                           "inner product"));
    m.pd = m.forward;
    if (pass == NBI_LA_BACKWARD_DATA)
        NB_TRYG(nbi_dnnl_check(
            ctx, dnnl_inner_product_backward_data_desc_init(&product, &m.x, &m.any, &m.y),
            "inner product (data)"));
    if (pass == NBI_LA_BACKWARD_WEIGHTS)
        NB_TRYG(nbi_dnnl_check(
            ctx, dnnl_inner_product_backward_weights_desc_init(&product, &m.x, &m.any, b, &m.y),
            "inner product (weights)"));
    if (pass != NBI_LA_FORWARD) {
        m.pd = NULL;
        NB_TRYG(nbi_dnnl_check(
            ctx, dnnl_primitive_desc_create(&m.pd, &product, NULL, la->engine, m.forward),
            "inner product (backward)"));
    }
    st = finish(ctx, la, &m, pass, bias && pass != NBI_LA_BACKWARD_DATA, out);
done:
    maker_free(&m);
    return st;
}

static nb_status reorder(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, bool to_plain) {
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, to_plain ? plan->weights : plan->plain},
                              {DNNL_ARG_TO, to_plain ? plan->plain : plan->weights}};
    return nbi_dnnl_check(ctx, dnnl_primitive_execute(plan->reorder, la->stream, 2, args),
                          "reorder");
}

nb_status nbi_la_run_train(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const nbi_la_args *a) {
    static const int x_arg[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_SRC, DNNL_ARG_SRC};
    static const int w_arg[] = {DNNL_ARG_WEIGHTS, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_WEIGHTS};
    static const int b_arg[] = {DNNL_ARG_BIAS, DNNL_ARG_BIAS, DNNL_ARG_DIFF_BIAS};
    static const int y_arg[] = {DNNL_ARG_DST, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_DST};
    nbi_la_pass pass = plan->pass;
    if (plan->wino) return nbi_wino_run(ctx, plan->wino, &la->room, a);
    NB_TRY(nbi_dnnl_first_run(ctx, plan));
    NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->src, a->x), "x"));
    NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->dst, a->y), "y"));
    NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->plain, a->w), "w"));
    if (plan->bias)
        NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->bias, a->bias), "bias"));
    if (plan->reorder && pass != NBI_LA_BACKWARD_WEIGHTS) NB_TRY(reorder(ctx, la, plan, false));
    dnnl_exec_arg_t args[4] = {{x_arg[pass], plan->src},
                               {w_arg[pass], plan->weights ? plan->weights : plan->plain},
                               {y_arg[pass], plan->dst},
                               {b_arg[pass], plan->bias}};
    NB_TRY(nbi_dnnl_check(
        ctx, dnnl_primitive_execute(plan->primitive, la->stream, plan->bias ? 4 : 3, args), "run"));
    if (plan->reorder && pass == NBI_LA_BACKWARD_WEIGHTS) NB_TRY(reorder(ctx, la, plan, true));
    return nbi_dnnl_check(ctx, dnnl_stream_wait(la->stream), "run");
}
