/* nb_new: standard architectures as files. */
#include "api/api.h"

#include "hyper/arch.h"
#include "onnx/onnx.h"
#include "train/roles.h"

#include <stdlib.h>
#include <string.h>

nb_new_options nb_new_options_default(void) {
    return (nb_new_options){.width = 1};
}

/* "3x32x32" */
static nb_status parse_input(nb_ctx *ctx, const char *text, nbi_arch_options *o) {
    const char *at = text;
    for (;;) {
        char *end;
        long n = strtol(at, &end, 10);
        if (end == at || n < 1 || n > 1 << 20 || o->rank == 3 || (*end && *end != 'x'))
            return nb_fail(ctx, NB_EINVAL, "input: '%s' is not a size such as 3x32x32 or 640",
                           text);
        o->input[o->rank++] = n;
        if (!*end) return NB_OK;
        at = end + 1;
    }
}

/* Trained values. */
static json_int_t parameters_of(const nbi_graph *g) {
    json_int_t sum = 0;
    for (int n = 0; n < g->n_nodes; n++)
        for (int i = 0; i < g->node[n]->n_in; i++) {
            nbi_role role = nbi_role_of(g, g->node[n], i);
            if (role != NBI_ROLE_NONE && role != NBI_ROLE_MEAN && role != NBI_ROLE_VARIANCE)
                sum += nbi_tensor_count(g->tensor[g->node[n]->in[i]]);
        }
    return sum;
}

nb_status nb_new(nb_ctx *ctx, const char *architecture, const nb_new_options *o, char **json) {
    nbi_json_begin();
    nbi_arch_options a = {.classes = o->classes, .width = o->width, .seed = nb_ctx_seed(ctx)};
    nbi_graph *g = NULL;
    nb_status st;
    if (!o->output) return nb_fail(ctx, NB_EINVAL, "new: no output file is given");
    if (o->input) NB_TRY(parse_input(ctx, o->input, &a));
    NB_TRYG(nbi_arch_build(ctx, architecture, &a, &g));
    NB_TRYG(nbi_onnx_write(ctx, g, o->output));
    const nbi_tensor *x = g->tensor[g->input[0]], *y = g->tensor[g->output[0]];
    json_t *dims = json_array();
    for (int i = 1; i < x->rank; i++) json_array_append_new(dims, json_integer(x->dim[i]));
    json_t *root =
        json_pack("{s:s,s:o,s:I,s:o}", "architecture", architecture, "output",
                  nbi_json_string(o->output), "parameters", parameters_of(g), "input", dims);
    if (nbi_arch_find(architecture)->classes)
        json_object_set_new(root, "classes", json_integer(y->dim[1]));
    st = nbi_json_text(ctx, root, json);
done:
    nbi_graph_free(g);
    return st;
}
