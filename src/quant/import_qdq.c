/* QDQ model → frozen quantized graph. Weights first: DequantizeLinear of integer constants becomes
 * a float constant that remembers its integers, so that the network takes its canonical form like
 * any float network, with QuantizeLinear and DequantizeLinear of activations as the borders of
 * layers (canon_qdq.c). Then sites from the borders' grids, and the integers in the layers'
 * order. */
#include "quant/import_qdq.h"

#include "exec/exec.h"
#include "quant/canonical.h"
#include "quant/import_qdq_parts.h"

#include <stdlib.h>
#include <string.h>

bool nbi_is_qdq(const nbi_graph *graph) {
    bool quantizes = false, dequantizes = false;
    for (int n = 0; n < graph->n_nodes; n++) {
        const nbi_node *node = graph->node[n];
        if (*node->domain) continue;
        dequantizes |= !strcmp(node->op_type, "DequantizeLinear");
        if (!strcmp(node->op_type, "QuantizeLinear") && node->n_in > 0 && node->in[0] >= 0)
            quantizes |= graph->tensor[node->in[0]]->data == NULL;
    }
    return quantizes && dequantizes;
}

/* ---- metadata ------------------------------------------------------------------------------- */

/* Reads a JSON string at *at (behind its first quote) and compares it with `key`. *at moves behind
 * the closing quote, or to the end of the text. */
static bool read_key(const char **at, const char *key) {
    const char *c = *at;
    bool same = true;
    for (; *c && *c != '"'; c++) {
        char value = *c;
        if (*c == '\\' && c[1] == 'u') {
            char hex[5] = {0};
            for (int i = 0; i < 4 && c[2 + i]; i++) hex[i] = c[2 + i];
            if (strlen(hex) < 4) break;
            value = (char)strtol(hex, NULL, 16);
            c += 5;
        } else if (*c == '\\' && c[1]) {
            value = *++c;
        }
        same = same && *key == value && value;
        if (same) key++;
    }
    *at = *c ? c + 1 : c;
    return same && !*key;
}

bool nbi_flat_json_number(const char *json, const char *key, double *out) {
    for (const char *at = json; at && (at = strchr(at, '"'));) {
        at++;
        bool found = read_key(&at, key);
        at += strspn(at, " \t\r\n");
        if (*at != ':') continue;
        char *end;
        double value = strtod(at + 1, &end);
        if (end == at + 1) continue;
        if (found) {
            *out = value;
            return true;
        }
        at = end;
    }
    return false;
}

int nbi_qdq_policy_bits(const nbi_qdq_import *im, const char *name, int most) {
    double bits;
    if (!im->policy || !nbi_flat_json_number(im->policy, name, &bits)) return 0;
    return bits >= 1 && bits <= most ? (int)bits : 0;
}

/* ---- all of it ------------------------------------------------------------------------------ */

/* Nodes behind an unknown operator stay untouched as in any network; a known one that has no
 * integer form means that the model is not for this engine. */
static nb_status check_untouched(const nbi_qdq_import *im) {
    const nbi_qnet *net = im->net;
    if (net->n_untouched == 0) return NB_OK;
    for (int n = 0; n < net->graph->n_nodes; n++) {
        const nbi_node *node = net->graph->node[n];
        if (node->name != net->untouched[0]) continue;
        if (!node->op || !node->op->forward) return NB_OK;
        return nb_fail(im->ctx, NB_EUNSUPPORTED, "node '%s' (%s) of the quantized model has no "
                       "integer form", node->name, node->op_type);
    }
    return NB_OK;
}

static nb_status start_frozen(nbi_qdq_import *im) {
    NB_TRY(nbi_alloc(im->ctx, 1, sizeof *im->frozen, &im->frozen));
    nbi_frozen *f = im->frozen;
    f->net = im->net;
    f->conv = nbi_arena_alloc(&f->arena, (size_t)im->net->n_layers + 1, sizeof *f->conv);
    f->site = nbi_arena_alloc(&f->arena, (size_t)im->net->n_sites + 2 * (size_t)im->net->n_layers + 1, /* weights, biases */
                              sizeof *f->site);
    return f->conv && f->site ? NB_OK : nb_fail_memory(im->ctx, sizeof *f->site);
}

static nb_status import(nbi_qdq_import *im) {
    nb_ctx *ctx = im->ctx;
    nbi_graph *graph = NULL;
    NB_TRY(nbi_rebatch(ctx, im->source, 1, &graph));
    nb_status st = nbi_qdq_fold_weights(im, graph);
    if (st != NB_OK) {
        nbi_graph_free(graph);
        return st;
    }
    NB_TRY(nbi_canonicalize(ctx, graph, &im->net));
    NB_TRY(check_untouched(im));
    NB_TRY(nbi_qdq_make_sites(im));
    NB_TRY(start_frozen(im));
    for (int s = 0; s < im->net->n_sites; s++) {
        nbi_site *site = &im->net->site[s];
        im->frozen->site[s] = site->fit[site->fixed_bits];
    }
    NB_TRY(nbi_qdq_freeze_weights(im));
    NB_TRY(nbi_qdq_set_logits(im));
    return nbi_qdq_freeze_biases(im);
}

nb_status nbi_import_qdq(nb_ctx *ctx, const nbi_graph *qdq, nbi_qnet **out_net,
                         nbi_frozen **out_frozen) {
    nbi_qdq_import im = {.ctx = ctx, .source = qdq};
    im.policy = nbi_graph_meta(qdq, "nibble.policy");
    im.logits = nbi_graph_meta(qdq, "nibble.logits");
    nb_status st = import(&im);
    nbi_free(im.entry);
    if (st == NB_OK) {
        *out_net = im.net;
        *out_frozen = im.frozen;
    } else {
        nbi_frozen_free(im.frozen);
        nbi_qnet_free(im.net);
    }
    return st;
}
