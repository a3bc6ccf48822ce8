/* MetaQuantNet as an ONNX file: the input is the policy, the outputs are all parameters that the
 * network has under it: generated weights and steps, and, passed on, what was trained beside them.
 * Reading takes the values by the names of the constants. */
#include "hyper/meta_parts.h"

#include "onnx/onnx.h"
#include "ops/op.h"
#include "schemes/choice.h"

#include <stdio.h>
#include <string.h>

#define FORMAT "1"
#define PREFIX "org.nibble.meta."

typedef struct settings {
    int n;
    char key[12][64], value[12][1024];
} settings;

static void set(settings *s, const char *key, const char *value) {
    snprintf(s->key[s->n], sizeof s->key[0], PREFIX "%s", key);
    snprintf(s->value[s->n++], sizeof s->value[0], "%s", value);
}

/* "2,4", "ternary2,pot3,4" */
static void set_choices(settings *s, const char *key, const nbi_choice *choice, int n) {
    char text[1024] = "";
    for (int i = 0; i < n; i++) {
        char one[NBI_CHOICE_TEXT];
        size_t used = strlen(text);
        nbi_choice_text(choice[i], one);
        snprintf(text + used, sizeof text - used, "%s%s", i ? "," : "", one);
    }
    set(s, key, text);
}

static void settings_of(const nbi_meta *m, settings *s) {
    static const char *const kinds[] = {"generated", "shared", "tables"};
    char text[32];
    *s = (settings){0};
    set(s, "format", FORMAT);
    set(s, "weights", kinds[m->o.kind]);
    snprintf(text, sizeof text, "%d", m->o.context);
    set(s, "context", m->o.context ? text : "all");
    snprintf(text, sizeof text, "%d", m->o.hidden);
    set(s, "hidden", text);
    set_choices(s, "weight_bits", m->o.weights, m->o.n_weights);
    if (m->n_rows > m->n_weights)
        set_choices(s, "activation_bits", m->o.activations, m->o.n_activations);
    uint64_t h = nbi_hash(NBI_HASH_START, m->qat->bits,
                          (size_t)m->net->n_sites * sizeof *m->qat->bits);
    snprintf(text, sizeof text, "%016llx", (unsigned long long)h);
    set(s, "fixed_widths", text);
    set(s, "granularity", m->o.qat.per_channel ? "channel" : "tensor");
}

/* Constant i of all that is trained, then of the running statistics. */
static int value_at(const nbi_meta *m, int i) {
    return i < m->n_params ? m->param[i].tensor : m->qat->state[i - m->n_params].to;
}

static nb_status pass_on(nb_ctx *ctx, nbi_graph *g, int tensor, int *out) {
    char name[272];
    nbi_node *node;
    const nbi_tensor *t = g->tensor[tensor];
    snprintf(name, sizeof name, "%s/value", t->name);
    NB_TRY(nbi_graph_add_tensor(ctx, g, name, t->dtype, t->rank, t->dim, out));
    NB_TRY(nbi_graph_add_node(ctx, g, name, "", "Identity", 1, &tensor, 1, out, &node));
    NB_TRY(nbi_node_prepare(ctx, g, node));
    return nbi_node_infer(ctx, g, node);
}

static nb_status file_graph(nb_ctx *ctx, const nbi_meta *m, nbi_graph *g) {
    int total = m->n_params + m->qat->n_states, *list, n = g->n_outputs;
    bool *used = NULL;
    nb_status st;
    NB_TRY(nbi_alloc(ctx, (size_t)(n + total) + 1, sizeof *list, &list));
    NB_TRYG(nbi_alloc(ctx, (size_t)g->n_tensors + 1, 1, &used));
    memcpy(list, g->output, (size_t)n * sizeof *list);
    for (int i = 0; i < g->n_nodes; i++)
        for (int k = 0; k < g->node[i]->n_in; k++)
            if (g->node[i]->in[k] >= 0) used[g->node[i]->in[k]] = true;
    for (int i = 0; i < n; i++) used[list[i]] = true;
    for (int i = 0; i < total; i++)
        if (!used[value_at(m, i)]) NB_TRYG(pass_on(ctx, g, value_at(m, i), &list[n++]));
    st = nbi_graph_set_outputs(ctx, g, n, list);
done:
    nbi_free(list);
    nbi_free(used);
    return st;
}

nb_status nbi_meta_write(nb_ctx *ctx, const nbi_meta *m, const char *path, int n,
                         const nbi_pair *identity) {
    nbi_graph *g;
    settings s;
    char key[96];
    nb_status st;
    NB_TRY(nbi_meta_generator(ctx, m, &g));
    settings_of(m, &s);
    for (int i = 0; i < s.n; i++) NB_TRYG(nbi_graph_set_meta(ctx, g, s.key[i], s.value[i]));
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, PREFIX "%s", identity[i].key);
        NB_TRYG(nbi_graph_set_meta(ctx, g, key, identity[i].value));
    }
    NB_TRYG(file_graph(ctx, m, g));
    st = nbi_onnx_write(ctx, g, path);
done:
    nbi_graph_free(g);
    return st;
}

static nb_status same(nb_ctx *ctx, const nbi_graph *g, const char *path, const char *key,
                      const char *want) {
    const char *have = nbi_graph_meta(g, key);
    if (have && !strcmp(have, want)) return NB_OK;
    return nb_fail(ctx, NB_EINVAL, "'%s' was trained for something else: its %s is %s, here it is %s",
                   path, key + strlen(PREFIX), have ? have : "missing", want);
}

static nb_status check(nb_ctx *ctx, const nbi_meta *m, const nbi_graph *g, const char *path, int n,
                       const nbi_pair *identity) {
    settings s;
    char key[96];
    settings_of(m, &s);
    for (int i = 0; i < s.n; i++) NB_TRY(same(ctx, g, path, s.key[i], s.value[i]));
    for (int i = 0; i < n; i++) {
        snprintf(key, sizeof key, PREFIX "%s", identity[i].key);
        NB_TRY(same(ctx, g, path, key, identity[i].value));
    }
    return NB_OK;
}

/* Everything is looked at before anything is changed. */
static nb_status take_values(nb_ctx *ctx, nbi_meta *m, const nbi_graph *g, const char *path,
                             bool change) {
    for (int i = 0; i < m->n_params + m->qat->n_states; i++) {
        nbi_tensor *to = m->qat->graph->tensor[value_at(m, i)];
        int t = nbi_graph_find(g, to->name);
        const nbi_tensor *from = t < 0 ? NULL : g->tensor[t];
        if (!from || !from->data || from->dtype != NB_DTYPE_F32 ||
            nbi_tensor_count(from) != nbi_tensor_count(to))
            return nb_fail(ctx, NB_EFORMAT, "'%s' does not hold '%s' as this network needs it",
                           path, to->name);
        if (change)
            memcpy(to->data, from->data, (size_t)nbi_tensor_count(to) * sizeof(float));
    }
    return NB_OK;
}

nb_status nbi_meta_read(nb_ctx *ctx, nbi_meta *m, const char *path, int n,
                        const nbi_pair *identity) {
    nbi_graph *g;
    nb_status st;
    NB_TRY(nbi_onnx_read(ctx, path, &g));
    NB_TRYG(check(ctx, m, g, path, n, identity));
    NB_TRYG(take_values(ctx, m, g, path, false));
    NB_TRYG(take_values(ctx, m, g, path, true));
    nbi_meta_changed(m);
done:
    nbi_graph_free(g);
    return st;
}
