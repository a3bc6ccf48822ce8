/* The float facade over oneDNN 2.x (C API). Activations are N,H,W,C so that element-wise operators
 * and strided views need no reorders; weights are reordered once to what the primitive asks for;
 * clamping and accumulation are post-operations. */
#include "linalg/onednn_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* `what` names the step of the set-up that failed. */
nb_status nbi_dnnl_check(nb_ctx *ctx, dnnl_status_t status, const char *what) {
    if (status == dnnl_success) return NB_OK;
    if (status == dnnl_out_of_memory)
        return nb_fail(ctx, NB_ENOMEM, "oneDNN: no memory (%s)", what);
    return nb_fail(ctx, status == dnnl_unimplemented ? NB_EUNSUPPORTED : NB_EINVAL,
                   "oneDNN: %s failed with status %d", what, (int)status);
}

nb_status nbi_dnnl_make(nb_ctx *ctx, dnnl_primitive_t *out, const_dnnl_primitive_desc_t pd,
                        const char *what) {
    NB_TRY(nbi_memory_check(ctx, NBI_DNNL_HEADROOM));
    return nbi_dnnl_check(ctx, dnnl_primitive_create(out, pd), what);
}

nb_status nbi_dnnl_first_run(nb_ctx *ctx, nbi_la_plan *plan) {
    if (!plan->ran) NB_TRY(nbi_memory_check(ctx, NBI_DNNL_HEADROOM));
    plan->ran = true;
    return NB_OK;
}

const char *nbi_la_name(void) {
    static char text[48];
    if (!*text) {
        const dnnl_version_t *v = dnnl_version();
        snprintf(text, sizeof text, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
    }
    return text;
}

nb_status nbi_la_new(nb_ctx *ctx, nbi_la **out) {
    nbi_la *la = NULL;
    nb_status st;
    NB_TRY(nbi_threads_check(ctx));
    NB_TRY(nbi_memory_check(ctx, NBI_DNNL_HEADROOM));
    NB_TRY(nbi_alloc(ctx, 1, sizeof *la, &la));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_engine_create(&la->engine, dnnl_cpu, 0), "engine"));
    NB_TRYG(nbi_dnnl_check(
        ctx, dnnl_stream_create(&la->stream, la->engine, dnnl_stream_default_flags), "stream"));
    *out = la;
    return NB_OK;
done:
    nbi_la_free(la);
    return st;
}

void nbi_la_free(nbi_la *la) {
    if (!la) return;
    if (la->stream) dnnl_stream_destroy(la->stream);
    if (la->engine) dnnl_engine_destroy(la->engine);
    nbi_free(la->room.at);
    nbi_free(la);
}

void nbi_la_plan_free(nbi_la_plan *plan) {
    if (!plan) return;
    nbi_wino_free(plan->wino);
    if (plan->primitive) dnnl_primitive_destroy(plan->primitive);
    if (plan->src) dnnl_memory_destroy(plan->src);
    if (plan->dst) dnnl_memory_destroy(plan->dst);
    if (plan->weights) dnnl_memory_destroy(plan->weights);
    if (plan->bias) dnnl_memory_destroy(plan->bias);
    if (plan->plain) dnnl_memory_destroy(plan->plain);
    if (plan->reorder) dnnl_primitive_destroy(plan->reorder);
    nbi_free(plan);
}

/* ---- set-up -------------------------------------------------------------------------------- */

/* A memory of our own, reordered from plain ONNX-order `data`. */
static nb_status reorder(nb_ctx *ctx, nbi_la *la, const dnnl_memory_desc_t *from, const float *data,
                         const dnnl_memory_desc_t *to, dnnl_memory_t *out) {
    dnnl_memory_t src = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t p = NULL;
    nb_status st;
    void *handle;
    memcpy(&handle, &data, sizeof data);
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_memory_create(&src, from, la->engine, handle), "memory"));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_memory_create(out, to, la->engine, DNNL_MEMORY_ALLOCATE),
                           "memory"));
    NB_TRYG(nbi_dnnl_check(
        ctx, dnnl_reorder_primitive_desc_create(&pd, from, la->engine, to, la->engine, NULL),
        "reorder"));
    NB_TRYG(nbi_dnnl_make(ctx, &p, pd, "reorder"));
    dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, *out}};
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_primitive_execute(p, la->stream, 2, args), "reorder"));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_stream_wait(la->stream), "reorder"));
done:
    if (p) dnnl_primitive_destroy(p);
    if (pd) dnnl_primitive_desc_destroy(pd);
    if (src) dnnl_memory_destroy(src);
    return st;
}

static nb_status make_attr(nb_ctx *ctx, bool accumulate, bool clamp, float lo, float hi,
                           dnnl_primitive_attr_t *out) {
    dnnl_post_ops_t ops = NULL;
    nb_status st;
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_primitive_attr_create(out), "attributes"));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_post_ops_create(&ops), "post-operations"));
    if (accumulate) NB_TRYG(nbi_dnnl_check(ctx, dnnl_post_ops_append_sum(ops, 1.0f), "sum"));
    bool relu = lo == 0.0f && isinf(hi);
    if (clamp)
        NB_TRYG(nbi_dnnl_check(
            ctx,
            relu ? dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_relu, 0, 0)
                 : dnnl_post_ops_append_eltwise(ops, 1.0f, dnnl_eltwise_clip, lo, hi),
            "clamp"));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_primitive_attr_set_post_ops(*out, ops), "post-operations"));
done:
    if (ops) dnnl_post_ops_destroy(ops);
    return st;
}

/* Makes the primitive and the memories of its arguments; w is NULL for pools. */
static nb_status finish(nb_ctx *ctx, nbi_la *la, const_dnnl_op_desc_t desc,
                        const_dnnl_primitive_attr_t attr, const dnnl_memory_desc_t *w_plain,
                        const float *w, const float *bias, nbi_la_plan **out) {
    nbi_la_plan *plan = NULL;
    dnnl_primitive_desc_t pd = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *plan, &plan));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_primitive_desc_create(&pd, desc, attr, la->engine, NULL),
                           "primitive"));
    NB_TRYG(nbi_dnnl_make(ctx, &plan->primitive, pd, "primitive"));
    const dnnl_memory_desc_t *src = dnnl_primitive_desc_query_md(pd, dnnl_query_src_md, 0);
    const dnnl_memory_desc_t *dst = dnnl_primitive_desc_query_md(pd, dnnl_query_dst_md, 0);
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_memory_create(&plan->src, src, la->engine, DNNL_MEMORY_NONE),
                           "x"));
    NB_TRYG(nbi_dnnl_check(ctx, dnnl_memory_create(&plan->dst, dst, la->engine, DNNL_MEMORY_NONE),
                           "y"));
    if (w)
        NB_TRYG(reorder(ctx, la, w_plain, w,
                        dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0),
                        &plan->weights));
    if (w && bias) {
        const dnnl_memory_desc_t *b = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 1);
        NB_TRYG(reorder(ctx, la, b, bias, b, &plan->bias));
    }
    *out = plan;
    plan = NULL;
done:
    if (pd) dnnl_primitive_desc_destroy(pd);
    nbi_la_plan_free(plan);
    return st;
}

nb_status nbi_dnnl_describe(nb_ctx *ctx, dnnl_memory_desc_t *md, int rank, const dnnl_dims_t dim,
                            dnnl_format_tag_t tag) {
    return nbi_dnnl_check(ctx, dnnl_memory_desc_init_by_tag(md, rank, dim, dnnl_f32, tag), "shape");
}

nb_status nbi_dnnl_wino(nb_ctx *ctx, const nbi_la_conv_desc *d, nbi_la_pass pass, const float *w,
                        const float *bias, nbi_la_plan **out) {
    nbi_la_plan *plan;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *plan, &plan));
    nb_status st = nbi_wino_new(ctx, d, pass, w, bias, &plan->wino);
    if (st == NB_OK)
        *out = plan;
    else
        nbi_la_plan_free(plan);
    return st;
}

nb_status nbi_la_conv(nb_ctx *ctx, nbi_la *la, const nbi_la_conv_desc *d, const float *w,
                      const float *bias, nbi_la_plan **out) {
    dnnl_memory_desc_t x, y, b, any, plain;
    dnnl_convolution_desc_t conv;
    dnnl_primitive_attr_t attr = NULL;
    nb_status st;
    if (nbi_wino_fits(d)) return nbi_dnnl_wino(ctx, d, NBI_LA_FORWARD, w, bias, out);
    bool grouped = d->group > 1;
    const dnnl_dims_t wide = {d->group, d->m / d->group, d->c / d->group, d->kernel[0],
                              d->kernel[1]};
    const dnnl_dims_t narrow = {d->m, d->c, d->kernel[0], d->kernel[1]};
    const int64_t *wd = grouped ? wide : narrow;
    NB_TRYG(nbi_dnnl_describe(ctx, &x, 4, (dnnl_dims_t){d->n, d->c, d->h, d->w}, dnnl_nhwc));
    NB_TRYG(nbi_dnnl_describe(ctx, &y, 4, (dnnl_dims_t){d->n, d->m, d->oh, d->ow}, dnnl_nhwc));
    NB_TRYG(nbi_dnnl_describe(ctx, &b, 1, (dnnl_dims_t){d->m}, dnnl_a));
    NB_TRYG(nbi_dnnl_describe(ctx, &any, 4 + grouped, wd, dnnl_format_tag_any));
    NB_TRYG(nbi_dnnl_describe(ctx, &plain, 4 + grouped, wd, grouped ? dnnl_goihw : dnnl_oihw));
    NB_TRYG(nbi_dnnl_check(ctx,
                           dnnl_dilated_convolution_forward_desc_init(
                               &conv, dnnl_forward_inference, dnnl_convolution_direct, &x, &any,
                               bias ? &b : NULL, &y, PAIR(d->stride),
                               (dnnl_dims_t){d->dilation[0] - 1, d->dilation[1] - 1},
                               PAIR(d->pad_begin), PAIR(d->pad_end)),
                           "convolution"));
    NB_TRYG(make_attr(ctx, d->accumulate, d->clamp, d->lo, d->hi, &attr));
    st = finish(ctx, la, &conv, attr, &plain, w, bias, out);
done:
    if (attr) dnnl_primitive_attr_destroy(attr);
    return st;
}

nb_status nbi_la_gemm(nb_ctx *ctx, nbi_la *la, const nbi_la_gemm_desc *d, const float *w,
                      const float *bias, nbi_la_plan **out) {
    dnnl_memory_desc_t x, y, b, any, plain;
    dnnl_inner_product_desc_t product;
    dnnl_primitive_attr_t attr = NULL;
    nb_status st;
    NB_TRYG(nbi_dnnl_describe(ctx, &x, 2, (dnnl_dims_t){d->n, d->k}, dnnl_ab));
    NB_TRYG(nbi_dnnl_describe(ctx, &y, 2, (dnnl_dims_t){d->n, d->m}, dnnl_ab));
    NB_TRYG(nbi_dnnl_describe(ctx, &b, 1, (dnnl_dims_t){d->m}, dnnl_a));
    NB_TRYG(nbi_dnnl_describe(ctx, &any, 2, (dnnl_dims_t){d->m, d->k}, dnnl_format_tag_any));
    NB_TRYG(nbi_dnnl_describe(ctx, &plain, 2, (dnnl_dims_t){d->m, d->k}, dnnl_ab));
    NB_TRYG(nbi_dnnl_check(ctx,
                           dnnl_inner_product_forward_desc_init(&product, dnnl_forward_inference,
                                                                &x, &any, bias ? &b : NULL, &y),
                           "inner product"));
    NB_TRYG(make_attr(ctx, false, d->clamp, d->lo, d->hi, &attr));
    st = finish(ctx, la, &product, attr, &plain, w, bias, out);
done:
    if (attr) dnnl_primitive_attr_destroy(attr);
    return st;
}

nb_status nbi_la_pool(nb_ctx *ctx, nbi_la *la, const nbi_la_pool_desc *d, nbi_la_plan **out) {
    dnnl_memory_desc_t x, y;
    dnnl_pooling_desc_t pool;
    dnnl_alg_kind_t kind = d->max           ? dnnl_pooling_max
                           : d->include_pad ? dnnl_pooling_avg_include_padding
                                            : dnnl_pooling_avg_exclude_padding;
    NB_TRY(nbi_dnnl_describe(ctx, &x, 4, (dnnl_dims_t){d->n, d->c, d->h, d->w}, dnnl_nhwc));
    NB_TRY(nbi_dnnl_describe(ctx, &y, 4, (dnnl_dims_t){d->n, d->c, d->oh, d->ow}, dnnl_nhwc));
    NB_TRY(nbi_dnnl_check(ctx,
                          dnnl_pooling_forward_desc_init(&pool, dnnl_forward_inference, kind, &x,
                                                         &y, PAIR(d->stride), PAIR(d->kernel),
                                                         PAIR(d->pad_begin), PAIR(d->pad_end)),
                          "pooling"));
    return finish(ctx, la, &pool, NULL, NULL, NULL, NULL, out);
}

nb_status nbi_la_run(nb_ctx *ctx, nbi_la *la, nbi_la_plan *plan, const float *x, float *y) {
    void *handle;
    memcpy(&handle, &x, sizeof x);
    if (plan->wino)
        return nbi_wino_run(ctx, plan->wino, &la->room, &(nbi_la_args){.x = handle, .y = y});
    NB_TRY(nbi_dnnl_first_run(ctx, plan));
    NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->src, handle), "x"));
    NB_TRY(nbi_dnnl_check(ctx, dnnl_memory_set_data_handle(plan->dst, y), "y"));
    dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, plan->src}, {DNNL_ARG_DST, plan->dst}};
    int n = 2;
    if (plan->weights) args[n++] = (dnnl_exec_arg_t){DNNL_ARG_WEIGHTS, plan->weights};
    if (plan->bias) args[n++] = (dnnl_exec_arg_t){DNNL_ARG_BIAS, plan->bias};
    NB_TRY(
        nbi_dnnl_check(ctx, dnnl_primitive_execute(plan->primitive, la->stream, n, args), "run"));
    return nbi_dnnl_check(ctx, dnnl_stream_wait(la->stream), "run");
}
