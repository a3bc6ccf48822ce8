/* Building, copying, sorting and pruning graphs. All memory comes from the graph's arena, so a
 * graph is freed in one go and a rewritten node's old arrays simply stay behind. */
#include "ir/graph.h"

#include <stdio.h>
#include <string.h>

static nb_status arena_fail(nb_ctx *ctx) {
    return nb_fail(ctx, NB_ENOMEM, "no memory for the graph");
}

nb_status nbi_graph_new(nb_ctx *ctx, nbi_graph **out) {
    nbi_graph *graph = NULL;
    NB_TRY(nbi_alloc(ctx, 1, sizeof *graph, &graph));
    graph->name = "";
    graph->opset = 13;
    *out = graph;
    return NB_OK;
}

void nbi_graph_free(nbi_graph *graph) {
    if (!graph) return;
    nbi_arena_free(&graph->arena);
    nbi_free(graph);
}

int nbi_graph_find(const nbi_graph *graph, const char *tensor_name) {
    for (int t = 0; t < graph->n_tensors; t++)
        if (!strcmp(graph->tensor[t]->name, tensor_name)) return t;
    return -1;
}

/* Doubles an arena array of pointers or small structs. */
static nb_status grow(nb_ctx *ctx, nbi_graph *graph, void *pointer, int n, int *capacity,
                      size_t size) {
    if (n < *capacity) return NB_OK;
    int wanted = *capacity ? *capacity * 2 : 64;
    void *bigger = nbi_arena_alloc(&graph->arena, (size_t)wanted, size), *old;
    if (!bigger) return arena_fail(ctx);
    memcpy(&old, pointer, sizeof old);
    if (n) memcpy(bigger, old, (size_t)n * size);
    memcpy(pointer, &bigger, sizeof bigger);
    *capacity = wanted;
    return NB_OK;
}

/* A name that no tensor has yet: the wanted one, or the wanted one with a number. */
static const char *unique_name(nbi_graph *graph, const char *wanted) {
    if (wanted && *wanted && nbi_graph_find(graph, wanted) < 0)
        return nbi_arena_text(&graph->arena, wanted, strlen(wanted));
    for (int k = graph->n_tensors;; k++) {
        char *name =
            nbi_arena_format(&graph->arena, "%s_%d", wanted && *wanted ? wanted : "tensor", k);
        if (!name || nbi_graph_find(graph, name) < 0) return name;
    }
}

nb_status nbi_graph_add_tensor(nb_ctx *ctx, nbi_graph *graph, const char *name, nb_dtype dtype,
                               int rank, const int64_t *dim, int *out_index) {
    if (rank > NBI_MAX_RANK)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "tensor '%s' has %d dimensions, at most %d are allowed", name ? name : "",
                       rank, NBI_MAX_RANK);
    NB_TRY(grow(ctx, graph, &graph->tensor, graph->n_tensors, &graph->cap_tensors,
                sizeof *graph->tensor));
    nbi_tensor *t = nbi_arena_alloc(&graph->arena, 1, sizeof *t);
    if (!t || !(t->name = unique_name(graph, name))) return arena_fail(ctx);
    t->dtype = dtype;
    t->rank = rank;
    t->producer = -1;
    for (int i = 0; i < NBI_MAX_RANK; i++) t->dim[i] = dim && i < rank ? dim[i] : -1;
    *out_index = graph->n_tensors;
    graph->tensor[graph->n_tensors++] = t;
    return NB_OK;
}

nb_status nbi_graph_add_const(nb_ctx *ctx, nbi_graph *graph, const char *name, nb_dtype dtype,
                              int rank, const int64_t *dim, int *out_index) {
    int index;
    NB_TRY(nbi_graph_add_tensor(ctx, graph, name, dtype, rank, dim, &index));
    nbi_tensor *t = graph->tensor[index];
    int64_t count = nbi_tensor_count(t);
    if (count < 0)
        return nb_fail(ctx, NB_EFORMAT, "constant '%s' has an unknown or impossible size", t->name);
    size_t bytes = nbi_dtype_bytes(dtype, (size_t)count);
    t->data = nbi_arena_alloc(&graph->arena, bytes ? bytes : 1, 1);
    if (!t->data) return nb_fail_memory(ctx, bytes);
    *out_index = index;
    return NB_OK;
}

static int *copy_ints(nbi_graph *graph, const int *from, int n) {
    int *to = nbi_arena_alloc(&graph->arena, (size_t)n + 1, sizeof *to);
    if (to && n) memcpy(to, from, (size_t)n * sizeof *to);
    return to;
}

nb_status nbi_graph_add_node(nb_ctx *ctx, nbi_graph *graph, const char *name, const char *domain,
                             const char *op_type, int n_in, const int *in, int n_out,
                             const int *out, nbi_node **out_node) {
    NB_TRY(grow(ctx, graph, &graph->node, graph->n_nodes, &graph->cap_nodes, sizeof *graph->node));
    nbi_node *node = nbi_arena_alloc(&graph->arena, 1, sizeof *node);
    if (!node) return arena_fail(ctx);
    node->name = name && *name ? nbi_arena_text(&graph->arena, name, strlen(name))
                               : nbi_arena_format(&graph->arena, "%s_%d", op_type, graph->n_nodes);
    node->domain = nbi_arena_text(&graph->arena, domain, strlen(domain));
    node->op_type = nbi_arena_text(&graph->arena, op_type, strlen(op_type));
    node->n_in = n_in;
    node->n_out = n_out;
    node->in = copy_ints(graph, in, n_in);
    node->out = copy_ints(graph, out, n_out);
    if (!node->name || !node->domain || !node->op_type || !node->in || !node->out)
        return arena_fail(ctx);
    for (int i = 0; i < n_out; i++)
        if (out[i] >= 0) graph->tensor[out[i]]->producer = graph->n_nodes;
    graph->node[graph->n_nodes++] = node;
    if (out_node) *out_node = node;
    return NB_OK;
}

nb_status nbi_graph_set_inputs(nb_ctx *ctx, nbi_graph *graph, int n, const int *tensors) {
    graph->input = copy_ints(graph, tensors, n);
    graph->n_inputs = graph->input ? n : 0;
    return graph->input ? NB_OK : arena_fail(ctx);
}

nb_status nbi_graph_set_outputs(nb_ctx *ctx, nbi_graph *graph, int n, const int *tensors) {
    graph->output = copy_ints(graph, tensors, n);
    graph->n_outputs = graph->output ? n : 0;
    return graph->output ? NB_OK : arena_fail(ctx);
}

nb_status nbi_graph_set_meta(nb_ctx *ctx, nbi_graph *graph, const char *key, const char *value) {
    const char *v = nbi_arena_text(&graph->arena, value, strlen(value));
    if (!v) return arena_fail(ctx);
    for (int i = 0; i < graph->n_meta; i++)
        if (!strcmp(graph->meta[i].key, key)) {
            graph->meta[i].value = v;
            return NB_OK;
        }
    NB_TRY(grow(ctx, graph, &graph->meta, graph->n_meta, &graph->cap_meta, sizeof *graph->meta));
    const char *k = nbi_arena_text(&graph->arena, key, strlen(key));
    if (!k) return arena_fail(ctx);
    graph->meta[graph->n_meta++] = (nbi_pair){k, v};
    return NB_OK;
}

const char *nbi_graph_meta(const nbi_graph *graph, const char *key) {
    for (int i = 0; i < graph->n_meta; i++)
        if (!strcmp(graph->meta[i].key, key)) return graph->meta[i].value;
    return NULL;
}

/* ---- order --------------------------------------------------------------------------------- */

static nb_status set_producers(nb_ctx *ctx, nbi_graph *graph) {
    for (int t = 0; t < graph->n_tensors; t++) graph->tensor[t]->producer = -1;
    for (int n = 0; n < graph->n_nodes; n++) {
        nbi_node *node = graph->node[n];
        for (int i = 0; i < node->n_out; i++) {
            if (node->out[i] < 0) continue;
            nbi_tensor *t = graph->tensor[node->out[i]];
            if (t->producer >= 0 || t->data)
                return nb_fail(ctx, NB_EFORMAT, "tensor '%s' has two producers ('%s' is one)",
                               t->name, node->name);
            t->producer = n;
        }
    }
    for (int i = 0; i < graph->n_inputs; i++) {
        nbi_tensor *t = graph->tensor[graph->input[i]];
        if (t->producer >= 0)
            return nb_fail(ctx, NB_EFORMAT, "graph input '%s' is also an output of node '%s'",
                           t->name, graph->node[t->producer]->name);
    }
    return NB_OK;
}

static nb_status check_sources(nb_ctx *ctx, const nbi_graph *graph, bool *is_input) {
    for (int i = 0; i < graph->n_inputs; i++) is_input[graph->input[i]] = true;
    for (int n = 0; n < graph->n_nodes; n++) {
        const nbi_node *node = graph->node[n];
        for (int i = 0; i < node->n_in; i++) {
            int t = node->in[i];
            if (t >= 0 && graph->tensor[t]->producer < 0 && !graph->tensor[t]->data && !is_input[t])
                return nb_fail(ctx, NB_EFORMAT, "node '%s': input '%s' is produced by nobody",
                               node->name, graph->tensor[t]->name);
        }
    }
    for (int i = 0; i < graph->n_outputs; i++) {
        const nbi_tensor *t = graph->tensor[graph->output[i]];
        if (t->producer < 0 && !t->data && !is_input[graph->output[i]])
            return nb_fail(ctx, NB_EFORMAT, "graph output '%s' is produced by nobody", t->name);
    }
    return NB_OK;
}

/* A binary heap of node indices, smallest first. */
static void heap_push(int *heap, int *n, int value) {
    int i = (*n)++;
    for (; i > 0 && heap[(i - 1) / 2] > value; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
    heap[i] = value;
}

static int heap_pop(int *heap, int *n) {
    int top = heap[0], last = heap[--*n], i = 0;
    for (int child; (child = 2 * i + 1) < *n; i = child) {
        if (child + 1 < *n && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

typedef struct sorter {
    int *waiting;  /* per node: inputs whose producer is not placed yet */
    size_t *first; /* per node: where its readers start in `reader`; n_nodes + 1 */
    int *reader, *heap;
    nbi_node **sorted;
} sorter;

static int producer_of(const nbi_graph *graph, int tensor) {
    return tensor < 0 ? -1 : graph->tensor[tensor]->producer;
}

static nb_status list_readers(nb_ctx *ctx, const nbi_graph *graph, sorter *s) {
    size_t n_nodes = (size_t)graph->n_nodes;
    NB_TRY(nbi_alloc(ctx, n_nodes + 2, sizeof *s->first, &s->first));
    for (int n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->node[n]->n_in; i++) {
            int p = producer_of(graph, graph->node[n]->in[i]);
            if (p < 0) continue;
            s->waiting[n]++;
            s->first[p + 2]++; /* two ahead: filling shifts it into place */
        }
    for (size_t n = 2; n < n_nodes + 2; n++) s->first[n] += s->first[n - 1];
    NB_TRY(nbi_alloc(ctx, s->first[n_nodes + 1] + 1, sizeof *s->reader, &s->reader));
    for (int n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->node[n]->n_in; i++) {
            int p = producer_of(graph, graph->node[n]->in[i]);
            if (p >= 0) s->reader[s->first[p + 1]++] = n;
        }
    return NB_OK;
}

/* Kahn's algorithm that always takes the earliest ready node, so that files that are sorted stay as
 * they are; O((nodes + edges) log nodes) for any order of a hostile file. */
static nb_status place_nodes(nb_ctx *ctx, nbi_graph *graph, sorter *s) {
    int ready = 0, done = 0, left = 0;
    for (int n = 0; n < graph->n_nodes; n++)
        if (!s->waiting[n]) heap_push(s->heap, &ready, n);
    while (ready) {
        int n = heap_pop(s->heap, &ready);
        s->sorted[done++] = graph->node[n];
        for (size_t e = s->first[n]; e < s->first[n + 1]; e++)
            if (--s->waiting[s->reader[e]] == 0) heap_push(s->heap, &ready, s->reader[e]);
    }
    if (done == graph->n_nodes) {
        if (done) memcpy(graph->node, s->sorted, (size_t)done * sizeof(nbi_node *));
        return NB_OK;
    }
    while (!s->waiting[left]) left++;
    return nb_fail(ctx, NB_EFORMAT, "the graph has a cycle through node '%s'",
                   graph->node[left]->name);
}

nb_status nbi_graph_sort(nb_ctx *ctx, nbi_graph *graph) {
    nb_status st;
    bool *is_input = NULL;
    sorter s = {0};
    size_t n_nodes = (size_t)graph->n_nodes + 1;
    NB_TRYG(nbi_alloc(ctx, (size_t)graph->n_tensors + 1, 1, &is_input));
    NB_TRYG(nbi_alloc(ctx, n_nodes, sizeof *s.waiting, &s.waiting));
    NB_TRYG(nbi_alloc(ctx, n_nodes, sizeof *s.heap, &s.heap));
    NB_TRYG(nbi_alloc(ctx, n_nodes, sizeof *s.sorted, &s.sorted));
    NB_TRYG(set_producers(ctx, graph));
    NB_TRYG(check_sources(ctx, graph, is_input));
    NB_TRYG(list_readers(ctx, graph, &s));
    NB_TRYG(place_nodes(ctx, graph, &s));
    st = set_producers(ctx, graph);
done:
    nbi_free(is_input);
    nbi_free(s.waiting);
    nbi_free(s.first);
    nbi_free(s.reader);
    nbi_free(s.heap);
    nbi_free(s.sorted);
    return st;
}

/* Marks backwards from the outputs, using `producer`; valid because nodes are in order. */
void nbi_graph_prune(nbi_graph *graph) {
    for (int i = 0; i < graph->n_tensors; i++) graph->tensor[i]->producer = -1;
    for (int i = 0; i < graph->n_outputs; i++) graph->tensor[graph->output[i]]->producer = -2;
    for (int n = graph->n_nodes - 1; n >= 0; n--) {
        nbi_node *node = graph->node[n];
        bool live = false;
        for (int i = 0; i < node->n_out; i++)
            live |= node->out[i] >= 0 && graph->tensor[node->out[i]]->producer == -2;
        if (!live) {
            graph->node[n] = NULL;
            continue;
        }
        for (int i = 0; i < node->n_in; i++)
            if (node->in[i] >= 0) graph->tensor[node->in[i]]->producer = -2;
    }
    int kept = 0;
    for (int n = 0; n < graph->n_nodes; n++)
        if (graph->node[n]) graph->node[kept++] = graph->node[n];
    graph->n_nodes = kept;
    for (int i = 0; i < graph->n_tensors; i++) graph->tensor[i]->producer = -1;
    for (int n = 0; n < kept; n++)
        for (int i = 0; i < graph->node[n]->n_out; i++)
            if (graph->node[n]->out[i] >= 0) graph->tensor[graph->node[n]->out[i]]->producer = n;
}

void nbi_graph_replace_uses(nbi_graph *graph, int from, int to) {
    for (int n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->node[n]->n_in; i++)
            if (graph->node[n]->in[i] == from) graph->node[n]->in[i] = to;
    for (int i = 0; i < graph->n_outputs; i++)
        if (graph->output[i] == from) graph->output[i] = to;
}

int nbi_graph_uses(const nbi_graph *graph, int t) {
    int uses = 0;
    for (int n = 0; n < graph->n_nodes; n++)
        for (int i = 0; i < graph->node[n]->n_in; i++) uses += graph->node[n]->in[i] == t;
    for (int i = 0; i < graph->n_outputs; i++) uses += graph->output[i] == t;
    return uses;
}

/* ---- copy ---------------------------------------------------------------------------------- */

static void *copy_bytes(nbi_graph *graph, const void *from, size_t bytes) {
    void *to = nbi_arena_alloc(&graph->arena, bytes ? bytes : 1, 1);
    if (to && bytes) memcpy(to, from, bytes);
    return to;
}

static bool copy_tensor(nbi_graph *to, const nbi_tensor *from, nbi_tensor *t) {
    *t = *from;
    if (!(t->name = nbi_arena_text(&to->arena, from->name, strlen(from->name)))) return false;
    for (int i = 0; i < NBI_MAX_RANK; i++)
        if (from->dim_name[i] && !(t->dim_name[i] = nbi_arena_text(&to->arena, from->dim_name[i],
                                                                   strlen(from->dim_name[i]))))
            return false;
    if (!from->data) return true;
    int64_t count = nbi_tensor_count(from);
    t->data = copy_bytes(to, from->data, nbi_dtype_bytes(from->dtype, (size_t)count));
    return t->data != NULL;
}

static bool copy_attr(nbi_graph *to, const nbi_attr *from, nbi_attr *a) {
    *a = *from;
    if (!(a->name = nbi_arena_text(&to->arena, from->name, strlen(from->name)))) return false;
    if (from->s && !(a->s = nbi_arena_text(&to->arena, from->s, from->s_length))) return false;
    if (from->ints && !(a->ints = copy_bytes(to, from->ints, from->count * sizeof *from->ints)))
        return false;
    if (from->floats &&
        !(a->floats = copy_bytes(to, from->floats, from->count * sizeof *from->floats)))
        return false;
    if (from->texts) {
        if (!(a->texts = nbi_arena_alloc(&to->arena, from->count + 1, sizeof *a->texts)))
            return false;
        for (size_t i = 0; i < from->count; i++)
            if (!(a->texts[i] = nbi_arena_text(&to->arena, from->texts[i], strlen(from->texts[i]))))
                return false;
    }
    if (from->tensor) {
        a->tensor = nbi_arena_alloc(&to->arena, 1, sizeof *a->tensor);
        return a->tensor && copy_tensor(to, from->tensor, a->tensor);
    }
    return true;
}

nb_status nbi_graph_copy(nb_ctx *ctx, const nbi_graph *graph, nbi_graph **out) {
    nbi_graph *to = NULL;
    nb_status st;
    NB_TRY(nbi_graph_new(ctx, &to));
    to->opset = graph->opset;
    if (!(to->name = nbi_arena_text(&to->arena, graph->name, strlen(graph->name)))) goto memory;
    to->cap_tensors = graph->n_tensors + 64;
    to->tensor = nbi_arena_alloc(&to->arena, (size_t)to->cap_tensors, sizeof *to->tensor);
    if (!to->tensor) goto memory;
    for (int t = 0; t < graph->n_tensors; t++) {
        nbi_tensor *copy = nbi_arena_alloc(&to->arena, 1, sizeof *copy);
        if (!copy || !copy_tensor(to, graph->tensor[t], copy)) goto memory;
        to->tensor[to->n_tensors++] = copy;
    }
    for (int n = 0; n < graph->n_nodes; n++) {
        const nbi_node *from = graph->node[n];
        nbi_node *node;
        NB_TRYG(nbi_graph_add_node(ctx, to, from->name, from->domain, from->op_type, from->n_in,
                                   from->in, from->n_out, from->out, &node));
        node->op = from->op;
        node->n_attr = from->n_attr;
        node->attr = nbi_arena_alloc(&to->arena, (size_t)from->n_attr + 1, sizeof *node->attr);
        if (!node->attr) goto memory;
        for (int i = 0; i < from->n_attr; i++)
            if (!copy_attr(to, &from->attr[i], &node->attr[i])) goto memory;
    }
    NB_TRYG(nbi_graph_set_inputs(ctx, to, graph->n_inputs, graph->input));
    NB_TRYG(nbi_graph_set_outputs(ctx, to, graph->n_outputs, graph->output));
    for (int i = 0; i < graph->n_meta; i++)
        NB_TRYG(nbi_graph_set_meta(ctx, to, graph->meta[i].key, graph->meta[i].value));
    *out = to;
    return NB_OK;
memory:
    st = arena_fail(ctx);
done:
    nbi_graph_free(to);
    return st;
}
