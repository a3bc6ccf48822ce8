/* What a policy may choose: --schemes, --weight-bits, --activation-bits, --bias-bits and --rule. */
#include "api/session.h"

#include "quant/generate.h"

#include <regex.h>
#include <stdlib.h>
#include <string.h>

typedef struct scheme_list {
    int n, number[64]; /* rows of schemes.def */
} scheme_list;

static nb_status parse_schemes(nb_ctx *ctx, const char *text, scheme_list *out) {
    size_t n;
    const nbi_scheme *const *rows = nbi_schemes(&n);
    out->n = 0;
    if (!strcmp(text, "all")) {
        while (out->n < (int)n) {
            out->number[out->n] = out->n;
            out->n++;
        }
        return NB_OK;
    }
    for (const char *p = text;; p++) {
        char name[32] = "";
        size_t len = strcspn(p, ","), k = 0;
        if (len < sizeof name) memcpy(name, p, len);
        const nbi_scheme *row = nbi_scheme_find(name);
        if (!row)
            return nb_fail(ctx, NB_EINVAL, "schemes: '%.*s' is not a scheme; 'nibble list schemes' "
                           "names them, and 'all' means all", len < 40 ? (int)len : 40, p);
        while (rows[k] != row) k++;
        bool known = false;
        for (int i = 0; i < out->n; i++) known |= out->number[i] == (int)k;
        if (!known) out->number[out->n++] = (int)k;
        p += len;
        if (!*p) return NB_OK;
    }
}

/* Sorted by width; of equal widths the later comes first, so that the scheme named first is the last,
 * which stands for "the best option" where methods need one. */
static void add_choice(nbi_offer *offer, nbi_choice choice) {
    for (int i = 0; i < offer->n; i++)
        if (offer->choice[i] == choice) return;
    if (offer->n == NBI_MAX_OFFER) return; /* more than schemes times widths: not possible */
    int at = offer->n++;
    for (; at > 0 && nbi_choice_bits(offer->choice[at - 1]) >= nbi_choice_bits(choice); at--)
        offer->choice[at] = offer->choice[at - 1];
    offer->choice[at] = choice;
}

/* A width without a scheme's name: every offered scheme that devices run at it. */
static void add_width(nbi_session *s, const scheme_list *list, int bits, bool weights,
                      nbi_offer *offer) {
    int had = offer->n;
    for (int i = 0; i < list->n; i++) {
        nbi_choice c = nbi_choice_of(list->number[i], bits);
        if (nbi_choice_deploys(c, weights)) add_choice(offer, c);
        else
            nb_log(s->ctx, NB_LOG_INFO, "left out: %s of scheme '%s' at %d bits, which devices "
                   "cannot run", weights ? "weights" : "activations", nbi_choice_row(c)->name,
                   bits);
    }
    if (offer->n > had || weights) return;
    add_choice(offer, (nbi_choice)bits);
    nb_log(s->ctx, NB_LOG_INFO, "activations of %d bits are uniform: no scheme that is offered has "
           "that width", bits);
}

static nb_status parse_list(nbi_session *s, const char *what, const char *text,
                            const scheme_list *list, nbi_offer *offer) {
    bool weights = offer == &s->weights;
    offer->n = 0;
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        int scheme, bits;
        NB_TRY(nbi_choice_parse_part(s->ctx, what, p, len, &scheme, &bits));
        if (scheme < 0) {
            add_width(s, list, bits, weights, offer);
        } else {
            NB_TRY(nbi_choice_check(s->ctx, what, nbi_choice_of(scheme, bits), weights));
            add_choice(offer, nbi_choice_of(scheme, bits));
        }
        p += len;
        if (!*p) break;
    }
    if (offer->n == 0)
        return nb_fail(s->ctx, NB_EINVAL, "%s: devices run none of the schemes '%s' at the widths "
                       "%s", what, s->o->schemes, text);
    return NB_OK;
}

/* "8", "16" or "32". */
static bool bias_width(const char *text, size_t n, nbi_choice *out) {
    char *end;
    long b = n ? strtol(text, &end, 10) : 0;
    *out = (nbi_choice)b;
    return (b == 8 || b == 16 || b == 32) && end == text + n;
}

static nb_status parse_bias_bits(nbi_session *s) {
    nbi_offer *offer = &s->biases;
    offer->n = 0;
    for (const char *p = s->o->bias_bits;; p++) {
        size_t len = strcspn(p, ",");
        nbi_choice b;
        if (!bias_width(p, len, &b))
            return nb_fail(s->ctx, NB_EINVAL, "bias-bits: '%.*s' is not a width of biases; 8, 16 "
                           "and 32 are possible", len < 40 ? (int)len : 40, p);
        add_choice(offer, b);
        p += len;
        if (!*p) break;
    }
    if (s->for_onnx) offer->choice[0] = offer->choice[offer->n - 1]; /* int32 in ONNX in any case */
    if (s->for_onnx) offer->n = 1;
    return NB_OK;
}

nb_status nbi_parse_offers(nbi_session *s) {
    const nb_quantize_options *o = s->o;
    scheme_list list;
    NB_TRY(parse_schemes(s->ctx, o->schemes, &list));
    NB_TRY(parse_list(s, "weight-bits", o->weight_bits, &list, &s->weights));
    NB_TRY(parse_list(s, "activation-bits", o->activation_bits, &list, &s->activations));
    NB_TRY(parse_bias_bits(s));
    if (!s->for_onnx) return NB_OK;
    int n = 0; /* widths between containers cost the same as the container */
    for (int i = 0; i < s->weights.n; i++) {
        int b = nbi_choice_bits(s->weights.choice[i]);
        if (nbi_container_bits(b, s->containers) == b) s->weights.choice[n++] = s->weights.choice[i];
    }
    if (n == 0)
        return nb_fail(s->ctx, NB_EINVAL, "weight-bits: none of %s is an ONNX container of opset "
                       "%d", o->weight_bits, s->opset);
    s->weights.n = n;
    return NB_OK;
}

nb_status nbi_session_check(nbi_session *s, int site, nbi_choice choice) {
    const nbi_site *t = &s->net->site[site];
    bool free_scheme = t->kind == NBI_SITE_WEIGHT || t->kind == NBI_SITE_ACTIVATION;
    if (nbi_choice_scheme(choice) == 0) return NB_OK;
    if (!free_scheme)
        return nb_fail(s->ctx, NB_EINVAL, "tensor '%s': scheme '%s' is for weights and for "
                       "what convolutions read; this one stays uniform", t->name,
                       nbi_choice_row(choice)->name);
    NB_TRY(nbi_choice_check(s->ctx, t->name, choice, t->kind == NBI_SITE_WEIGHT));
    if (nbi_choice_for(t, choice) == choice) return NB_OK;
    return nb_fail(s->ctx, NB_EINVAL, "tensor '%s' has values of both signs: scheme '%s' has no form "
                   "for them", t->name, nbi_choice_row(choice)->name);
}

/* ---- rules ------------------------------------------------------------------------------------ */

/* "", "4", "pot3", or 0 for "" and "0": left free. */
static nb_status rule_part(nbi_session *s, const char *rule, const char *text, size_t n,
                           nbi_choice *out) {
    *out = 0;
    if (n == 0 || (n == 1 && *text == '0')) return NB_OK;
    if (nbi_choice_parse(s->ctx, "rule", text, n, out) == NB_OK) return NB_OK;
    return nb_fail(s->ctx, NB_EINVAL, "rule '%s': widths are 1 to 8, also with a scheme such as "
                   "pot3, weights then activations", rule);
}

static nb_status rule_bias(nbi_session *s, const char *rule, const char *text, nbi_choice *out) {
    size_t n = strlen(text);
    *out = 0;
    if (n == 0 || bias_width(text, n, out)) return NB_OK;
    return nb_fail(s->ctx, NB_EINVAL, "rule '%s': '%s' is not a width of biases; 8, 16 and 32 are "
                   "possible", rule, text);
}

/* An empty part leaves it as it is. */
nb_status nbi_apply_rule(nbi_session *s, const char *rule) {
    const char *colon = strrchr(rule, ':');
    char pattern[512];
    nbi_choice w, a = 0, b = 0;
    if (!colon || (size_t)(colon - rule) >= sizeof pattern)
        return nb_fail(s->ctx, NB_EINVAL, "rule '%s' is not NAME:W,A or NAME:W,A,B", rule);
    memcpy(pattern, rule, (size_t)(colon - rule));
    pattern[colon - rule] = 0;
    size_t first = strcspn(colon + 1, ",");
    const char *second = colon + 1 + first;
    NB_TRY(rule_part(s, rule, colon + 1, first, &w));
    size_t length = *second ? strcspn(second + 1, ",") : 0;
    if (*second) NB_TRY(rule_part(s, rule, second + 1, length, &a));
    if (*second && second[1 + length]) NB_TRY(rule_bias(s, rule, second + 2 + length, &b));
    regex_t re;
    if (regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB) != 0)
        return nb_fail(s->ctx, NB_EINVAL, "rule '%s': '%s' is not a regular expression", rule,
                       pattern);
    int hits = 0;
    nb_status st = NB_OK;
    for (int i = 0; i < s->net->n_layers && st == NB_OK; i++) {
        const nbi_layer *l = &s->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        const nbi_site *weight = &s->net->site[l->weight_site];
        int activation = s->net->edge[l->in[0]].site;
        if (regexec(&re, l->name, 0, NULL, 0) && regexec(&re, weight->name, 0, NULL, 0)) continue;
        hits++;
        if (w) st = nbi_session_check(s, l->weight_site, w);
        if (w) s->fixed[l->weight_site] = w;
        if (b) s->fixed[l->bias_site] = b;
        if (!a || s->net->site[activation].kind != NBI_SITE_ACTIVATION || st != NB_OK) continue;
        st = nbi_session_check(s, activation, a);
        s->fixed[activation] = a;
    }
    regfree(&re);
    NB_TRY(st);
    if (!hits) return nb_fail(s->ctx, NB_EINVAL, "rule '%s' matches no layer", rule);
    return NB_OK;
}
