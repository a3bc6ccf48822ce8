/* Storage of quantized networks. */
#include "ir/qnet.h"

#include <string.h>

void nbi_qnet_free(nbi_qnet *net) {
    if (!net) return;
    nbi_graph_free(net->graph);
    nbi_arena_free(&net->arena);
    nbi_free(net);
}

void nbi_frozen_free(nbi_frozen *frozen) {
    if (!frozen) return;
    nbi_arena_free(&frozen->arena);
    nbi_free(frozen);
}

static nb_status reserve(nb_ctx *ctx, nbi_qnet *net, void *pointer, int n, int *capacity,
                         size_t size) {
    if (n < *capacity) return NB_OK;
    int wanted = *capacity ? *capacity * 2 : 32;
    void *bigger = nbi_arena_alloc(&net->arena, (size_t)wanted, size), *old;
    if (!bigger) return nb_fail_memory(ctx, (size_t)wanted * size);
    memcpy(&old, pointer, sizeof old);
    if (n) memcpy(bigger, old, (size_t)n * size);
    memcpy(pointer, &bigger, sizeof bigger);
    *capacity = wanted;
    return NB_OK;
}

nb_status nbi_qnet_add_edge(nb_ctx *ctx, nbi_qnet *net, const nbi_edge *edge, int *out) {
    NB_TRY(reserve(ctx, net, &net->edge, net->n_edges, &net->cap_edges, sizeof *edge));
    net->edge[net->n_edges] = *edge;
    *out = net->n_edges++;
    return NB_OK;
}

nb_status nbi_qnet_add_layer(nb_ctx *ctx, nbi_qnet *net, const nbi_layer *layer, int *out) {
    NB_TRY(reserve(ctx, net, &net->layer, net->n_layers, &net->cap_layers, sizeof *layer));
    nbi_layer *l = &net->layer[net->n_layers];
    *l = *layer;
    l->in = nbi_arena_alloc(&net->arena, (size_t)layer->n_in + 1, sizeof *l->in);
    l->node = nbi_arena_alloc(&net->arena, (size_t)layer->n_nodes + 1, sizeof *l->node);
    if (!l->in || !l->node) return nb_fail_memory(ctx, sizeof *l->in);
    if (layer->n_in) memcpy(l->in, layer->in, (size_t)layer->n_in * sizeof *l->in);
    if (layer->n_nodes) memcpy(l->node, layer->node, (size_t)layer->n_nodes * sizeof *l->node);
    *out = net->n_layers++;
    return NB_OK;
}

nb_status nbi_qnet_add_site(nb_ctx *ctx, nbi_qnet *net, const nbi_site *site, int *out) {
    NB_TRY(reserve(ctx, net, &net->site, net->n_sites, &net->cap_sites, sizeof *site));
    net->site[net->n_sites] = *site;
    *out = net->n_sites++;
    return NB_OK;
}

const nbi_site_fit *nbi_site_find(const nbi_site *site, nbi_choice choice) {
    const nbi_site_fit *f = site->more;
    while (f && f->choice != choice) f = f->next;
    return f;
}

const nbi_qparam *nbi_site_grid(const nbi_site *site, nbi_choice choice) {
    int bits = nbi_choice_bits(choice);
    if (bits > NBI_MAX_BITS) return NULL;
    if (nbi_choice_scheme(choice) == 0 || site->kind == NBI_SITE_WEIGHT) return &site->fit[bits];
    const nbi_site_fit *f = nbi_site_find(site, choice);
    return f ? &f->grid : NULL;
}

double nbi_site_sqnr(const nbi_site *site, nbi_choice choice) {
    int bits = nbi_choice_bits(choice);
    if (nbi_choice_scheme(choice) == 0 && bits <= NBI_MAX_BITS) return site->sqnr[bits];
    const nbi_site_fit *f = nbi_site_find(site, choice);
    return f ? f->sqnr : 0;
}

void nbi_storage_shape(int rank, const int64_t *dim, int *h, int *w, int *c) {
    *h = *w = 1;
    if (rank == 4) {
        *c = (int)dim[1], *h = (int)dim[2], *w = (int)dim[3];
    } else if (rank == 3) {
        *c = (int)dim[1], *w = (int)dim[2];
    } else {
        int64_t count = 1;
        for (int i = 0; i < rank; i++) count *= dim[i];
        *c = (int)count;
    }
}
