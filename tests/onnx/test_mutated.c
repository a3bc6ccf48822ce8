/* Files with bits inverted, bytes replaced, pieces cut out, doubled or missing at the end: each is
 * refused with a message or is another model, and whatever it is goes through everything that
 * reads a model (shapes, plan, one run, canonical form, QDQ import) without a crash, within bounded
 * memory and time. NIBBLE_MUTATIONS=N tries N changes of each model (default 60); the sanitizers
 * make it a search for bugs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "exec/exec.h"
#include "onnx/onnx.h"
#include "quant/generate.h"
#include "quant/import_qdq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MOST_BYTES   ((size_t)32 << 20) /* of activations: a larger plan is not run */
#define MOST_MACS    3e8                /* likewise */
#define SECONDS      60                 /* one mutation may take so long, sanitizers or not */
#define MOST_MEMORY  ((rlim_t)2 << 30)

static char folder[] = "/tmp/nibble-mutated-XXXXXX", quantized[sizeof folder + 16];
static const char *const models[] = {
    quantized, /* glyphs.onnx, as nb_quantize writes it */
    NIBBLE_SOURCE_DIR "/examples/glyphs.onnx",
    NIBBLE_DATA "/models/mnist_8.onnx",
    NIBBLE_DATA "/models/mlperf_kws_dscnn.onnx",
    NIBBLE_DATA "/models/mlperf_ad01.onnx",
    NIBBLE_DATA "/models/resnet20_torch_export.onnx",
};

typedef struct subject {
    const char *name;
    uint8_t *original, *bytes;
    size_t size, room;
    uint32_t *spot; /* offsets of bytes worth changing */
    size_t n_spots;
} subject;

/* Messages by what their length-delimited fields hold. */
enum { OTHER, MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, DATA, N_TYPES };
static const uint8_t holds[N_TYPES][16] = {
    [MODEL] = {[7] = GRAPH},
    [GRAPH] = {[1] = NODE, [5] = TENSOR},
    [NODE] = {[5] = ATTRIBUTE},
    [ATTRIBUTE] = {[5] = TENSOR, [6] = GRAPH},
    [TENSOR] = {[4] = DATA, [5] = DATA, [7] = DATA, [9] = DATA},
};

static uint64_t number_at(const uint8_t *p, size_t *at) {
    uint64_t value = 0;
    int shift = 0;
    do value |= (uint64_t)(p[*at] & 127) << shift, shift += 7;
    while (p[(*at)++] & 128);
    return value;
}

/* Changing weights is no test of the reader: all bytes but those of tensors' data are spots. The
 * file is one of ours, so the walk trusts it. */
static void find_structure(subject *s, int type, size_t at, size_t end) {
    while (at < end) {
        size_t start = at, tag = (size_t)number_at(s->original, &at), length = 0;
        if ((tag & 7) == 0) number_at(s->original, &at);
        if ((tag & 7) == 1) length = 8;
        if ((tag & 7) == 5) length = 4;
        if ((tag & 7) == 2) length = (size_t)number_at(s->original, &at);
        int child = (tag & 7) == 2 && tag >> 3 < 16 ? holds[type][tag >> 3] : OTHER;
        while (start < at) s->spot[s->n_spots++] = (uint32_t)start++;
        if (child == DATA && length > 64) { /* the end of it will do */
            at += length - 64;
            length = 64;
        }
        if (child != OTHER && child != DATA) find_structure(s, child, at, at + length);
        else
            for (size_t i = 0; i < length; i++) s->spot[s->n_spots++] = (uint32_t)(at + i);
        at += length;
    }
}

static size_t any_spot(const subject *s, nbi_rng *rng) {
    if (nbi_rng_below(rng, 20)) return s->spot[nbi_rng_below(rng, (uint32_t)s->n_spots)];
    return nbi_rng_below(rng, (uint32_t)s->size);
}

static size_t mutate(subject *s, nbi_rng *rng) {
    static const uint8_t telling[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x0a, 0x12, 0x08};
    size_t size = s->size;
    memcpy(s->bytes, s->original, size);
    for (uint32_t n = 1 + nbi_rng_below(rng, 3); n > 0; n--) {
        size_t at = any_spot(s, rng) % size, length = 1 + nbi_rng_below(rng, 32);
        if (length > size - at) length = size - at;
        switch (nbi_rng_below(rng, 20)) {
        case 0:
            size = at + 1; /* cut */
            break;
        case 1: /* a piece is missing */
            memmove(s->bytes + at, s->bytes + at + length, size - at - length);
            if (size > length) size -= length;
            break;
        case 2: /* a piece stands twice */
            if (size + length > s->room) break;
            memmove(s->bytes + at + length, s->bytes + at, size - at);
            size += length;
            break;
        case 3:
        case 4:
        case 5:
        case 6:
            s->bytes[at] = telling[nbi_rng_below(rng, NBI_COUNT(telling))];
            break;
        case 7:
        case 8:
        case 9:
        case 10:
            s->bytes[at] = (uint8_t)(s->bytes[at] + (nbi_rng_below(rng, 2) ? 1 : 255));
            break;
        default:
            s->bytes[at] ^= (uint8_t)(1u << nbi_rng_below(rng, 8));
        }
    }
    return size;
}

/* ---- what is done with it -------------------------------------------------------------------- */

static void expect_message(const nb_ctx *ctx, nb_status st, const char *doing) {
    if (st != NB_OK && !*nb_ctx_message(ctx)) fail_msg("%s: status %d without a message", doing, st);
}

static void run_once(nb_ctx *ctx, const nbi_graph *one) {
    nbi_exec *exec = NULL;
    void *inputs[16] = {NULL};
    double macs = 0;
    for (int i = 0; i < one->n_nodes; i++) {
        nbi_cost cost;
        nbi_node_cost(one, one->node[i], &cost);
        macs += cost.macs;
    }
    nb_status st = nbi_exec_new(ctx, one, 0, &exec);
    expect_message(ctx, st, "exec_new");
    bool fits = st == NB_OK && macs <= MOST_MACS && nbi_exec_arena_bytes(exec) <= MOST_BYTES &&
                one->n_inputs <= 16;
    for (int i = 0; fits && i < one->n_inputs; i++) {
        const nbi_tensor *x = one->tensor[one->input[i]];
        fits = nbi_tensor_count(x) <= (int64_t)MOST_BYTES / 8;
        if (fits) assert_int_equal(nbi_alloc(ctx, (size_t)nbi_tensor_count(x), 8, &inputs[i]), NB_OK);
    }
    if (fits) expect_message(ctx, nbi_exec_run(ctx, exec, (const void *const *)inputs), "run");
    for (int i = 0; i < 16; i++) nbi_free(inputs[i]);
    nbi_exec_free(exec);
}

static bool read_everything(nb_ctx *ctx, const uint8_t *bytes, size_t size) {
    nbi_graph *graph = NULL, *one = NULL, *copy = NULL;
    nbi_qnet *net = NULL;
    nbi_frozen *frozen = NULL;
    nbi_qag_options qag = {NBI_FIRST_LAST_8, 8};
    nb_status st = nbi_onnx_parse(ctx, bytes, size, &graph);
    expect_message(ctx, st, "parse");
    if (st != NB_OK) return false;
    st = nbi_specialize_batch(ctx, graph, 1, &one);
    expect_message(ctx, st, "specialize");
    if (st == NB_OK) {
        run_once(ctx, one);
        assert_int_equal(nbi_graph_copy(ctx, one, &copy), NB_OK);
        st = nbi_graph_infer(ctx, copy);
        if (st == NB_OK) st = nbi_generate(ctx, copy, &qag, &net);
        else nbi_graph_free(copy);
        expect_message(ctx, st, "generate");
        nbi_qnet_free(net);
        net = NULL;
        if (nbi_is_qdq(graph)) expect_message(ctx, nbi_import_qdq(ctx, graph, &net, &frozen), "qdq");
    }
    nbi_frozen_free(frozen);
    nbi_qnet_free(net);
    nbi_graph_free(one);
    nbi_graph_free(graph);
    return true;
}

static void test_model(void **state) {
    const char *path = *state, *wish = getenv("NIBBLE_MUTATIONS");
    const char *first = getenv("NIBBLE_FIRST_MUTATION");
    long n = wish ? atol(wish) : 60, accepted = 0, from = first ? atol(first) : 0;
    nb_ctx *ctx = nb_ctx_new();
    subject s = {.name = path};
    void *data = NULL;
    nb_ctx_set_threads(ctx, 1);
    assert_int_equal(nbi_file_read(ctx, path, (size_t)1 << 30, &data, &s.size), NB_OK);
    s.original = data;
    s.room = s.size + 256;
    s.bytes = malloc(s.room);
    s.spot = malloc(s.size * sizeof *s.spot);
    find_structure(&s, MODEL, 0, s.size);
    for (long k = from; k < from + n; k++) {
        nbi_rng rng;
        nbi_rng_seed(&rng, (uint64_t)k, 3);
        size_t size = mutate(&s, &rng);
        if (wish) fprintf(stderr, "\r%ld", k);
        alarm(SECONDS); /* a signal that nothing catches: the test fails */
        accepted += read_everything(ctx, s.bytes, size);
        alarm(0);
    }
    print_message("%s: %zu spots, %ld of %ld changed files were models\n", path, s.n_spots,
                  accepted, n);
    free(s.bytes);
    free(s.spot);
    nbi_free(data);
    nb_ctx_free(ctx);
}

static int quantize(void **state) {
    nb_ctx *ctx = nb_ctx_new();
    nb_quantize_options o = nb_quantize_options_default();
    (void)state;
    if (!ctx || !mkdtemp(folder)) return -1;
    o.data.path = "builtin:glyphs";
    o.data.limit = 8;
    o.calib = 4;
    o.weight_bits = "2,4,8";
    o.avg_bits = 5;
    o.search = "uniform";
    o.output = folder;
    nb_status st = nb_quantize(ctx, models[1], &o, NULL);
    if (st != NB_OK) print_message("%s\n", nb_ctx_message(ctx));
    nb_ctx_free(ctx);
    snprintf(quantized, sizeof quantized, "%s/model.onnx", folder);
    return st == NB_OK ? 0 : -1;
}

static int drop_folder(void **state) {
    char command[sizeof folder + 16];
    (void)state;
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) == 0 ? 0 : -1;
}

int main(void) {
    struct CMUnitTest tests[NBI_COUNT(models)];
    const char *only = getenv("NIBBLE_MODEL");
    size_t n = 0;
    if (!getenv("NIBBLE_SANITIZED")) {
        struct rlimit limit = {MOST_MEMORY, MOST_MEMORY};
        setrlimit(RLIMIT_AS, &limit);
    }
    for (size_t i = 0; i < NBI_COUNT(models); i++)
        if ((i == 0 || access(models[i], R_OK) == 0) && (!only || strstr(models[i], only)))
            tests[n++] = (struct CMUnitTest){i ? models[i] : "quantized", test_model, NULL, NULL,
                                             (void *)(uintptr_t)models[i]};
    return _cmocka_run_group_tests("mutated", tests, n, quantize, drop_folder);
}
