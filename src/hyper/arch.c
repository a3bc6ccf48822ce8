/* The registry of architectures, and what all of them share: sizes checked, input, output, initial
 * weights. */
#include "hyper/arch_build.h"

#include "train/roles.h"

#include <math.h>
#include <string.h>

enum { SIDE_MAX = 4096, CLASSES_MAX = 65536 };

static const nbi_arch *const rows[] = {
#define ARCH(row) &row,
#include "hyper/architectures.def"
#undef ARCH
};

const nbi_arch *const *nbi_archs(size_t *n) {
    *n = NBI_COUNT(rows);
    return rows;
}

const nbi_arch *nbi_arch_find(const char *name) {
    for (size_t i = 0; i < NBI_COUNT(rows); i++)
        if (!strcmp(rows[i]->name, name)) return rows[i];
    return NULL;
}

nbi_arch_options nbi_arch_options_default(void) {
    return (nbi_arch_options){.width = 1};
}

static nb_status unknown(nb_ctx *ctx, const char *name) {
    nbi_buf list = {0};
    nb_status st = NB_OK;
    for (size_t i = 0; i < NBI_COUNT(rows) && st == NB_OK; i++)
        st = nbi_buf_printf(ctx, &list, "%s%s", i ? ", " : "", rows[i]->name);
    if (st == NB_OK)
        st = nb_fail(ctx, NB_EINVAL, "there is no architecture '%s'; there are %s", name, list.data);
    nbi_buf_free(&list);
    return st;
}

static nb_status check(nb_ctx *ctx, const nbi_arch *row, const nbi_arch_options *o) {
    if (!(o->width >= 0.01 && o->width <= 16))
        return nb_fail(ctx, NB_EINVAL, "width: %g is not within 0.01 and 16", o->width);
    if (o->classes < 0 || o->classes > CLASSES_MAX)
        return nb_fail(ctx, NB_EINVAL, "classes: %d is not within 1 and %d", o->classes, CLASSES_MAX);
    if (o->classes && !row->classes)
        return nb_fail(ctx, NB_EINVAL, "%s has no classes: it reconstructs its input", row->name);
    if (o->rank && o->rank != row->rank)
        return nb_fail(ctx, NB_EINVAL, "%s wants an input of %d numbers, %s; %d were given", row->name,
                       row->rank, row->rank == 1 ? "the length" : "channels, height and width",
                       o->rank);
    for (int i = 0; i < o->rank; i++)
        if (o->input[i] < 1 || o->input[i] > SIDE_MAX)
            return nb_fail(ctx, NB_EINVAL, "input: %lld is not within 1 and %d",
                           (long long)o->input[i], SIDE_MAX);
    return NB_OK;
}

static nb_status set_input(nb_ctx *ctx, nbi_graph *g, const nbi_arch *row,
                           const nbi_arch_options *o, int *x) {
    int64_t dim[4] = {-1};
    for (int i = 0; i < row->rank; i++) dim[1 + i] = o->rank ? o->input[i] : row->input[i];
    NB_TRY(nbi_graph_add_tensor(ctx, g, "input", NB_DTYPE_F32, 1 + row->rank, dim, x));
    g->tensor[*x]->dim_name[0] = "N";
    return nbi_graph_set_inputs(ctx, g, 1, x);
}

/* The last node's output under its usual name. */
static nb_status set_output(nb_ctx *ctx, nbi_graph *g, const nbi_arch *row, int y) {
    g->tensor[y]->name = row->classes ? "logits" : "output";
    g->tensor[y]->dim_name[0] = "N";
    return nbi_graph_set_outputs(ctx, g, 1, &y);
}

nb_status nbi_arch_build(nb_ctx *ctx, const char *name, const nbi_arch_options *options,
                         nbi_graph **out) {
    const nbi_arch *row = nbi_arch_find(name);
    nbi_graph *g = NULL;
    nb_status st;
    int x;
    if (!row) return unknown(ctx, name);
    NB_TRY(check(ctx, row, options));
    NB_TRYG(nbi_graph_new(ctx, &g));
    g->name = row->name;
    NB_TRYG(set_input(ctx, g, row, options, &x));
    nbi_builder b = {.ctx = ctx,
                     .graph = g,
                     .classes = options->classes ? options->classes : row->classes,
                     .width = options->width};
    int y = row->build(&b, row, x);
    if (b.st != NB_OK) {
        bool size = b.st == NB_EFORMAT; /* a layer that does not fit: the asked size is wrong */
        st = nb_fail_prefix(ctx, size ? NB_EINVAL : b.st, "%s", row->name);
        goto done;
    }
    NB_TRYG(set_output(ctx, g, row, y));
    nbi_init_weights(g, options->seed);
    *out = g;
    g = NULL;
done:
    nbi_graph_free(g);
    return st;
}
