/* Generated C: compiled with every warning as an error, run, and compared with the reference
 * kernels value for value; its constants counted in the object file. */
#include "codegen/codegen.h"
#include "codegen/handmade.h"
#include "codegen/workfolder.h"

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdio.h>

#include <cmocka.h>

#define VECTORS 2
#define RUNS    12
#define FLAGS   "-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror -O2"

static nb_ctx *ctx;

static int setup(void **state) {
    (void)state;
    ctx = nb_ctx_new();
    return ctx && folder_make() ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    folder_remove();
    nb_ctx_free(ctx);
    return 0;
}

static void assert_ok(nb_status st) {
    if (st != NB_OK) fail_msg("%s: %s", nb_status_text(st), nb_ctx_message(ctx));
}

/* Runs the program on `runs` random inputs. outputs: all values, as codegen wants them; raw: the
 * same as bytes of their own types. */
typedef struct reference {
    size_t in_bytes, out_count, out_bytes;
    uint8_t *inputs, *raw;
    int32_t *outputs;
} reference;

static reference reference_of(handmade *n, const int *output, int n_outputs, size_t runs) {
    reference r = {.in_bytes = n->tensor[n->p.input].bytes};
    void *value[HANDMADE_MAX];
    for (int k = 0; k < n_outputs; k++) {
        r.out_count += n->tensor[output[k]].count;
        r.out_bytes += n->tensor[output[k]].bytes;
    }
    r.inputs = handmade_bytes(n, runs * r.in_bytes);
    r.outputs = handmade_alloc(n, runs * r.out_count * 4);
    r.raw = handmade_alloc(n, runs * r.out_bytes);
    int32_t *next = r.outputs;
    uint8_t *raw = r.raw;
    for (size_t i = 0; i < runs; i++) {
        handmade_run(&n->p, r.inputs + i * r.in_bytes, value);
        for (int k = 0; k < n_outputs; k++) {
            const nbi_ptensor *t = &n->tensor[output[k]];
            for (size_t j = 0; j < t->count; j++) *next++ = handmade_value(t, value[output[k]], j);
            memcpy(raw, value[output[k]], t->bytes);
            raw += t->bytes;
        }
        for (int t = 0; t < n->p.n_tensors; t++) free(value[t]);
    }
    return r;
}

static void check_file_run(const reference *r) {
    char path[128];
    void *data = NULL;
    size_t size = 0;
    snprintf(path, sizeof path, "%s/in.bin", folder);
    assert_ok(nbi_file_write(ctx, path, r->inputs, RUNS * r->in_bytes));
    assert_int_equal(shell("./t in.bin out.bin"), 0);
    snprintf(path, sizeof path, "%s/out.bin", folder);
    assert_ok(nbi_file_read(ctx, path, 1 << 26, &data, &size));
    assert_int_equal(size, RUNS * r->out_bytes);
    assert_memory_equal(data, r->raw, size);
    nbi_free(data);
}

static nbi_codegen_report generate(handmade *n, nbi_codegen_options *o, reference *out_r) {
    nbi_codegen_report report;
    int output[NBI_CODEGEN_OUTPUTS], n_outputs = 0;
    assert_ok(nbi_codegen_outputs(ctx, &n->p, output, &n_outputs));
    const reference r = reference_of(n, output, n_outputs, RUNS);
    o->n_vectors = VECTORS;
    o->inputs = r.inputs;
    o->expected = r.outputs;
    folder_empty();
    assert_ok(nbi_codegen_write(ctx, &n->p, o, folder, &report));
    assert_int_equal(report.n_outputs, n_outputs);
    assert_memory_equal(report.output, output, (size_t)n_outputs * sizeof *output);
    *out_r = r;
    return report;
}

/* const_bytes counts pointers as 4 bytes. */
static size_t on_this_machine(const handmade *n, const nbi_codegen_report *report) {
    size_t pointers = 0;
    for (int i = 0; i < n->p.n_steps; i++) switch (n->p.step[i].type) {
        case NBI_STEP_CONV:
        case NBI_STEP_DWCONV:
            pointers += 5;
            break;
        case NBI_STEP_LUT:
            pointers += 1;
            break;
        case NBI_STEP_MAXPOOL:
        case NBI_STEP_AVGPOOL:
            pointers += 2;
            break;
        default:
            break;
        }
    return report->const_bytes + pointers * (sizeof(void *) - 4);
}

/* Generates, compiles, runs the self test and random inputs, counts constants. */
static nbi_codegen_report round_trip(handmade *n, const char *defines) {
    nbi_codegen_options o = nbi_codegen_options_default();
    reference r;
    const nbi_codegen_report report = generate(n, &o, &r);
    assert_int_equal(shell("cc " FLAGS " %s -c *.c && cc -o t *.o", defines), 0);
    assert_int_equal(shell("./t >log.txt"), 0);
    assert_int_equal(shell("grep -q '^%d vectors, 0 wrong values$' log.txt", VECTORS), 0);
    check_file_run(&r);
    const size_t measured = const_sections("size", "model.o"), said = on_this_machine(n, &report);
    /* the linker's alignment of three arrays and the descriptors */
    if (measured + 64 < said || measured > said + 256)
        fail_msg("%zu bytes in the object, %zu expected", measured, said);
    return report;
}

static void test_every_step_and_width(void **state) {
    (void)state;
    for (int bits = 1; bits <= 8; bits++) {
        handmade n;
        handmade_start(&n, (uint64_t)bits, NB_DTYPE_U8, 9, 9, 3);
        handmade_output(&n, handmade_every_step(&n, bits));
        const nbi_codegen_report report = round_trip(&n, bits % 2 ? "" : "-DMODEL_EXTERNAL_ARENA");
        size_t expected;
        assert_ok(nbi_program_const_bytes(ctx, &n.p, &expected));
        assert_int_equal(report.const_bytes, expected);
        assert_string_equal(report.cut, "");
        handmade_end(&n);
    }
}

/* One random step on the tensor x. */
static int random_step(handmade *n, int x) {
    const nbi_ptensor t = n->tensor[x];
    const nb_dtype dtype = handmade_pick(n, 0, 1) ? NB_DTYPE_U8 : NB_DTYPE_S8;
    const handmade_window v = {handmade_pick(n, 1, 3), handmade_pick(n, 1, 2), 1,
                               handmade_pick(n, 1, 2)};
    const int bits = handmade_pick(n, 1, 8), side = handmade_lut(n, x, false, NULL, dtype);
    switch (handmade_pick(n, 0, 6)) {
    case 0:
        return handmade_add(n, x, side, dtype);
    case 1:
        return handmade_mul(n, side, x, dtype);
    case 2:
        return handmade_concat(n, x, handmade_lut(n, side, true, NULL, t.dtype));
    case 3:
        return t.h > 4 && t.w > 4 ? handmade_pool(n, side, (handmade_window){2, 2, 0, 1}, true) : x;
    case 4:
        return t.h > 6 && t.w > 6 ? handmade_conv(n, x, t.c, v, t.c, bits, false, dtype) : x;
    default:
        return t.h > 6 && t.w > 6
                   ? handmade_conv(n, x, handmade_pick(n, 1, 9), v, 1, bits, bits == 3, dtype)
                   : handmade_add(n, side, side, dtype);
    }
}

static void test_random_programs(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        handmade n;
        const nb_dtype dtype = seed % 2 ? NB_DTYPE_S8 : NB_DTYPE_U8;
        handmade_start(&n, seed, dtype, 8 + (int)seed, 17, (int)seed % 4 + 1);
        int x = n.p.input;
        for (int i = 0; i < 9; i++) {
            x = random_step(&n, x);
            if (i == 3 || i == 6) handmade_output(&n, x);
        }
        handmade_output(&n, x);
        round_trip(&n, "");
        handmade_end(&n);
    }
}

/* Residual blocks: both orders of the operands, strides, a convolution as shortcut, narrow weights,
 * a stream that is read again later. handmade_add also subtracts. */
static int residual_stage(handmade *n, int x, int bits, bool conv_first, int *stream) {
    const handmade_window same = {3, 1, 1, 1}, down = {3, 2, 1, 1}, point = {1, 2, 0, 1};
    int y = handmade_conv(n, x, 7, same, 1, bits, false, NB_DTYPE_U8);
    y = handmade_conv(n, y, n->tensor[x].c, same, 1, bits, bits == 3, NB_DTYPE_S8);
    x = conv_first ? handmade_add(n, y, x, NB_DTYPE_U8) : handmade_add(n, x, y, NB_DTYPE_S8);
    *stream = x;
    y = handmade_conv(n, x, 12, down, 1, bits, false, NB_DTYPE_S8);
    y = handmade_conv(n, y, 12, same, 3, 9 - bits, false, NB_DTYPE_S8);
    x = handmade_conv(n, x, 12, point, 1, bits, false, NB_DTYPE_U8);
    return conv_first ? handmade_add(n, x, y, NB_DTYPE_U8) : handmade_add(n, y, x, NB_DTYPE_U8);
}

static void test_residual_networks(void **state) {
    (void)state;
    const handmade_window same = {3, 1, 1, 1};
    for (int bits = 2; bits <= 8; bits += 3) {
        handmade n;
        int stream;
        size_t ram;
        handmade_start(&n, 40 + (uint64_t)bits, NB_DTYPE_U8, 11, 10, 3);
        int x = handmade_lut(&n, n.p.input, true, NULL, NB_DTYPE_U8);
        x = handmade_conv(&n, x, 8, same, 1, bits, false, NB_DTYPE_U8);
        x = residual_stage(&n, x, bits, bits == 5, &stream);
        x = residual_stage(&n, x, bits, bits != 5, &stream);
        handmade_output(&n, x);
        if (bits == 8) handmade_output(&n, stream);
        const nbi_codegen_report report = round_trip(&n, "");
        assert_ok(nbi_program_ram(ctx, &n.p, &ram));
        assert_int_equal(report.arena_bytes, (ram + 3) & ~(size_t)3);
        assert_int_equal(shell("test $(grep -c nbk_conv_add_run model.c) -eq 4"), 0);
        assert_int_equal(shell("! grep -q nbk_add_run model.c && test ! -e nbk_add.c"), 0);
        handmade_end(&n);
    }
}

static void test_equal_tables_are_stored_once(void **state) {
    (void)state;
    handmade n;
    handmade_start(&n, 3, NB_DTYPE_S8, 16, 16, 2);
    const uint8_t *table = handmade_bytes(&n, 2 * 256);
    int x = n.p.input;
    size_t sum = 0, whole;
    for (int i = 0; i < 10; i++) {
        const int out = handmade_tensor(&n, NB_DTYPE_S8, 16, 16, 2);
        nbi_step *s = handmade_step(&n, NBI_STEP_LUT, x, out);
        const int channels = i == 5 ? 2 : 1; /* the others are the first half of this one */
        s->u.lut = (nbk_lut){.count = 512, .channels = (int16_t)channels};
        s->u.lut.table = memcpy(handmade_alloc(&n, 512), table, 512);
        sum += nbi_step_const_bytes(s);
        x = out;
    }
    handmade_output(&n, x);
    assert_ok(nbi_program_const_bytes(ctx, &n.p, &whole));
    assert_int_equal(whole, sum - 9 * 256);
    assert_int_equal(round_trip(&n, "").const_bytes, whole);
    assert_int_equal(n.p.step[0].type, NBI_STEP_LUT);
    assert_int_equal(shell("test $(grep -c ': table' model_weights.h) -eq 1"), 0);
    handmade_end(&n);
}

static void test_no_floats_no_library(void **state) {
    (void)state;
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    reference r;
    handmade_start(&n, 5, NB_DTYPE_U8, 9, 9, 3);
    handmade_output(&n, handmade_every_step(&n, 4));
    generate(&n, &o, &r);
    assert_int_equal(shell("grep -nwE 'float|double|malloc|stdio' model.c model.h model_weights.h "
                           "model_selftest.c nbk*"),
                     256); /* grep found nothing */
#if defined(__x86_64__) && defined(__GNUC__)
    /* no float can be compiled without its registers */
    if (have("gcc"))
        assert_int_equal(shell("gcc " FLAGS " -mgeneral-regs-only -c model.c nbk_*.c"), 0);
#endif
    assert_int_equal(
        shell("cc " FLAGS " -ffreestanding -c model.c nbk_*.c && "
              "! nm -u *.o | grep -vE 'nbk_|mem(cpy|set|move)|\\.o:|^$|GLOBAL_OFFSET'"),
        0);
    if (have("clang")) assert_int_equal(shell("clang " FLAGS " -c *.c"), 0);
    if (have("g++"))
        assert_int_equal(shell("g++ -Wall -Wextra -Wpedantic -Werror -fsyntax-only -x c++ model.h "
                               "2>errors.txt || { grep -v 'pragma once' errors.txt; false; }"),
                         0);
    handmade_end(&n);
}

static void test_float_tail_is_cut(void **state) {
    (void)state;
    handmade n;
    handmade_start(&n, 6, NB_DTYPE_U8, 9, 9, 3);
    const int logits = handmade_every_step(&n, 8);
    const int soft = handmade_tensor(&n, NB_DTYPE_F32, 1, 1, 10);
    const int log = handmade_tensor(&n, NB_DTYPE_F32, 1, 1, 10);
    handmade_step(&n, NBI_STEP_FLOAT, logits, soft)->name = "soft*/max\n\\";
    handmade_step(&n, NBI_STEP_FLOAT, soft, log);
    handmade_output(&n, log);
    const nbi_codegen_report report = round_trip(&n, "");
    assert_int_equal(report.n_outputs, 1);
    assert_int_equal(report.output[0], logits);
    assert_string_equal(report.cut, "soft* /max_/ ");
    assert_int_equal(shell("grep -q 'from \"soft' model.h"), 0);
    handmade_end(&n);
}

static void test_float_island_is_refused(void **state) {
    (void)state;
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    handmade_start(&n, 6, NB_DTYPE_U8, 9, 9, 3);
    const int middle = handmade_tensor(&n, NB_DTYPE_U8, 9, 9, 3);
    handmade_step(&n, NBI_STEP_FLOAT, n.p.input, middle)->name = "the_island";
    handmade_output(&n, handmade_lut(&n, middle, false, NULL, NB_DTYPE_U8));
    folder_empty();
    assert_int_equal(nbi_codegen_write(ctx, &n.p, &o, folder, NULL), NB_EUNSUPPORTED);
    assert_non_null(strstr(nb_ctx_message(ctx), "the_island"));
    handmade_end(&n);
}

static void test_hostile_text(void **state) {
    (void)state;
    static const char evil[] = "*/ int main(void){} /* ?\?/\n#error \\\r\x01\xff %s%n \" */";
    const char *notes[] = {evil, "ends in a backslash\\", "/", "*", "", "?\?/"};
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    reference r;
    handmade_start(&n, 8, NB_DTYPE_U8, 9, 9, 3);
    handmade_output(&n, handmade_every_step(&n, 3));
    for (int i = 0; i < n.p.n_tensors; i++) n.tensor[i].name = notes[i % 6];
    for (int i = 0; i < n.p.n_steps; i++) n.step[i].name = notes[i % 6];
    o.prefix = "Net_2";
    o.model_name = evil;
    o.n_notes = (int)NBI_COUNT(notes);
    o.notes = notes;
    generate(&n, &o, &r);
    assert_int_equal(shell("cc " FLAGS " -o t *.c && ./t >/dev/null"), 0);
    check_file_run(&r);
    handmade_end(&n);
}

static void test_bad_options(void **state) {
    (void)state;
    static const char *const bad[] = {NULL,
                                      "",
                                      "9a",
                                      "_a",
                                      "a b",
                                      "a/b",
                                      "nbk",
                                      "nbk_conv",
                                      "../x",
                                      "stdint",
                                      "a123456789012345678901234567890123"};
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    handmade_start(&n, 8, NB_DTYPE_U8, 9, 9, 3);
    handmade_output(&n, handmade_every_step(&n, 3));
    for (size_t i = 0; i < NBI_COUNT(bad); i++) {
        o.prefix = bad[i];
        assert_int_equal(nbi_codegen_write(ctx, &n.p, &o, folder, NULL), NB_EINVAL);
    }
    o.prefix = "ok";
    assert_int_equal(nbi_codegen_write(ctx, &n.p, &o, "/proc/no/folder", NULL), NB_EIO);
    o.n_vectors = 1;
    assert_int_equal(nbi_codegen_write(ctx, &n.p, &o, folder, NULL), NB_EINVAL);
    handmade_end(&n);
}

/* A wrong expectation must be seen, or the self test proves nothing. */
static void test_selftest_can_fail(void **state) {
    (void)state;
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    reference r;
    handmade_start(&n, 9, NB_DTYPE_U8, 9, 9, 3);
    handmade_output(&n, handmade_every_step(&n, 8));
    generate(&n, &o, &r);
    r.outputs[3] ^= 1;
    r.outputs[r.out_count] ^= 4;
    assert_ok(nbi_codegen_write(ctx, &n.p, &o, folder, NULL));
    assert_int_equal(shell("cc -o t *.c && ! ./t >log.txt && grep -q ', 2 wrong values' log.txt"),
                     0);
    o.n_vectors = 0;
    assert_ok(nbi_codegen_write(ctx, &n.p, &o, folder, NULL));
    assert_int_equal(shell("cc " FLAGS " -o t *.c && ! ./t >log.txt"), 0);
    handmade_end(&n);
}

static void test_no_memory(void **state) {
    (void)state;
    handmade n;
    nbi_codegen_options o = nbi_codegen_options_default();
    handmade_start(&n, 9, NB_DTYPE_U8, 9, 9, 3);
    handmade_output(&n, handmade_every_step(&n, 8));
    nb_status st = NB_ENOMEM;
    int k = 1;
    for (; k < 1000 && st == NB_ENOMEM; k++) {
        nbi_alloc_fail_after(k);
        st = nbi_codegen_write(ctx, &n.p, &o, folder, NULL);
        nbi_alloc_fail_after(0);
    }
    assert_ok(st);
    assert_true(k > 5);
    handmade_end(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_step_and_width),
        cmocka_unit_test(test_random_programs),
        cmocka_unit_test(test_residual_networks),
        cmocka_unit_test(test_equal_tables_are_stored_once),
        cmocka_unit_test(test_no_floats_no_library),
        cmocka_unit_test(test_float_tail_is_cut),
        cmocka_unit_test(test_float_island_is_refused),
        cmocka_unit_test(test_hostile_text),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_selftest_can_fail),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
