/* What quantization decides about a network before it has seen data: sites, layers, nodes that stay
 * as they are; with the reasons. For `quantize --dry-run`. */
#include "api/session.h"

#include "api/untouched.h"
#include "schemes/choice.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- sites ------------------------------------------------------------------------------------
 */

/* Which of the reasons of quant/generate.c fixed it, or that nothing did. */
static const char *reason(const nbi_session *s, int site) {
    const nbi_site *t = &s->net->site[site];
    bool weight = t->kind == NBI_SITE_WEIGHT;
    if (t->kind == NBI_SITE_BIAS)
        return s->fixed[site] ? "biases have one width" : "free: one of --bias-bits";
    if (s->fixed[site] != (nbi_choice)t->fixed_bits) return "a --rule says so";
    if (t->kind == NBI_SITE_INPUT) return "the network's input";
    if (t->kind == NBI_SITE_OUTPUT) return "an output: sums of 32 bits, not rounded to a grid";
    if (t->kind == NBI_SITE_STREAM) return "not only convolutions read it: --residual-bits";
    if (!t->fixed_bits)
        return weight ? "free: one of --weight-bits" : "free: one of --activation-bits";
    if (!weight) return "the last layer reads it: --first-last";
    return s->net->layer[t->layer].is_first ? "the first layer: --first-last"
                                            : "the last layer: --first-last";
}

static json_t *site_row(const nbi_session *s, int site) {
    const nbi_site *t = &s->net->site[site];
    const bool weight = t->kind == NBI_SITE_WEIGHT;
    const nbi_offer *offer = weight                      ? &s->weights
                             : t->kind == NBI_SITE_BIAS ? &s->biases
                                                        : &s->activations;
    json_t *row = json_pack("{s:s,s:s,s:b,s:b}", "tensor", t->name, "kind", nbi_kind_name(t->kind),
                            "signed", weight || t->kind == NBI_SITE_BIAS || !t->is_unsigned, "free", !s->fixed[site]);
    json_t *choices = json_array();
    char text[NBI_CHOICE_TEXT];
    if (t->layer >= 0) json_object_set_new(row, "layer", json_string(s->net->layer[t->layer].name));
    for (int i = 0; i < (s->fixed[site] ? 1 : offer->n); i++) {
        nbi_choice_text(s->fixed[site] ? s->fixed[site] : offer->choice[i], text);
        json_array_append_new(choices, json_string(t->kind == NBI_SITE_OUTPUT ? "32" : text));
    }
    json_object_set_new(row, "widths", choices);
    json_object_set_new(row, "why", json_string(reason(s, site)));
    return row;
}

/* ---- layers -----------------------------------------------------------------------------------
 */

static const char *const types[] = {[NBI_LAYER_CONV] = "convolution",
                                    [NBI_LAYER_ADD] = "addition",
                                    [NBI_LAYER_MUL] = "product",
                                    [NBI_LAYER_UNARY] = "function",
                                    [NBI_LAYER_REQUANT] = "requantization",
                                    [NBI_LAYER_MAXPOOL] = "maximum",
                                    [NBI_LAYER_AVGPOOL] = "average",
                                    [NBI_LAYER_COPY] = "move",
                                    [NBI_LAYER_FLOAT] = "float"};

static const char *type_of(const nbi_layer *l) {
    if (l->type != NBI_LAYER_CONV) return types[l->type];
    if (l->depthwise) return "depthwise convolution";
    bool dense = l->geometry.in_h * l->geometry.in_w == 1 && l->geometry.kh * l->geometry.kw == 1;
    return dense ? "dense" : types[l->type];
}

static bool has_norm(const nbi_qnet *net, const nbi_layer *l) {
    for (int i = 0; i < l->n_nodes; i++)
        if (!strcmp(net->graph->node[l->node[i]]->op_type, "BatchNormalization")) return true;
    return false;
}

/* What fine-tuning trains in a convolution, and where its normalization comes from. */
static void add_training(const nbi_qnet *net, const nbi_layer *l, json_t *row) {
    bool norm = nbi_qat_normalizes(net, l);
    const char *from = !norm ? "none" : has_norm(net, l) ? "of the file" : "inserted";
    json_t *trained = json_array();
    json_array_append_new(trained, json_string("weights"));
    json_array_append_new(trained, json_string("steps of the weights"));
    json_array_append_new(trained, json_string(norm ? "scale and shift of each channel" : "bias"));
    json_object_set_new(row, "normalization", json_string(from));
    json_object_set_new(row, "trained", trained);
}

static json_t *layer_row(const nbi_qnet *net, const nbi_layer *l) {
    json_t *row = json_pack("{s:s,s:s}", "layer", l->name, "kind", type_of(l));
    json_t *nodes = json_array();
    for (int i = 0; i < l->n_nodes; i++) {
        const nbi_node *node = net->graph->node[l->node[i]];
        json_array_append_new(
            nodes, json_pack("{s:s,s:s}", "node", node->name, "operator", node->op_type));
    }
    json_object_set_new(row, "nodes", nodes);
    if (isfinite(l->act_lo)) json_object_set_new(row, "least", json_real((double)l->act_lo));
    if (isfinite(l->act_hi)) json_object_set_new(row, "most", json_real((double)l->act_hi));
    if (l->type == NBI_LAYER_CONV) add_training(net, l, row);
    return row;
}

json_t *nbi_decisions_json(const nbi_session *s) {
    json_t *root = json_object(), *sites = json_array(), *layers = json_array();
    for (int i = 0; i < s->net->n_sites; i++) json_array_append_new(sites, site_row(s, i));
    for (int i = 0; i < s->net->n_layers; i++)
        json_array_append_new(layers, layer_row(s->net, &s->net->layer[i]));
    json_object_set_new(root, "sites", sites);
    json_object_set_new(root, "layers", layers);
    json_object_set_new(root, "untouched", nbi_untouched_rows(s->net));
    return root;
}
