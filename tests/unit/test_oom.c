/* Out of memory in whole jobs, at the k-th allocation alone and from the k-th on, for k spread over the
 * run: NB_ENOMEM and a message, or the same result as ever; never a crash. What the sanitizers see is
 * part of the test. jansson's allocations are among those that fail, SQLite's fail in unit.study,
 * oneDNN's not at all (it does not survive that). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

#define MODEL NIBBLE_SOURCE_DIR "/examples/glyphs.onnx"

static char *whole_list;
static char folder[] = "/tmp/nibble-oom-XXXXXX";

typedef nb_status (*job)(nb_ctx *ctx);

static nb_status job_info(nb_ctx *ctx) {
    nb_model *model = NULL;
    char *json = NULL;
    nb_status st = nb_model_load(ctx, MODEL, &model);
    if (st == NB_OK) st = nb_model_info(ctx, model, &json);
    nb_free(json);
    nb_model_free(model);
    return st;
}

static nb_status job_quantize(nb_ctx *ctx) {
    nb_quantize_options o = nb_quantize_options_default();
    char *json = NULL;
    o.data.path = "builtin:glyphs";
    o.data.limit = 8;
    o.calib = 4;
    o.weight_bits = "4,8";
    o.avg_bits = 6;
    o.search = "sensitivity:refine=2";
    o.output = folder;
    o.emit = "c";
    nb_status st = nb_quantize(ctx, MODEL, &o, &json);
    nb_free(json);
    return st;
}

static nb_status job_eval(nb_ctx *ctx) {
    nb_eval_options o = nb_eval_options_default();
    char *json = NULL;
    o.data.path = "builtin:glyphs";
    o.data.limit = 8;
    nb_status st = nb_eval(ctx, folder, &o, &json); /* the model that job_quantize left */
    if (st == NB_OK) assert_non_null(strstr(json, "\"loss\""));
    nb_free(json);
    return st;
}

static nb_status job_compare(nb_ctx *ctx) {
    nb_data_options o = nb_data_options_default();
    char *json = NULL;
    o.path = "builtin:glyphs";
    o.limit = 8;
    nb_status st = nb_compare(ctx, MODEL, folder, &o, &json);
    nb_free(json);
    return st;
}

static nb_status job_sensitivity(nb_ctx *ctx) {
    nb_quantize_options o = nb_quantize_options_default();
    char *json = NULL;
    o.data.path = "builtin:glyphs";
    o.data.limit = 8;
    o.calib = 4;
    o.weight_bits = "4,8";
    nb_status st = nb_sensitivity(ctx, MODEL, &o, &json);
    nb_free(json);
    return st;
}

static nb_status job_export(nb_ctx *ctx) {
    nb_export_options o = {.format = "c"};
    char path[sizeof folder + 8], *json = NULL;
    snprintf(path, sizeof path, "%s/again", folder);
    o.output = path;
    nb_status st = nb_export(ctx, folder, &o, &json);
    nb_free(json);
    return st;
}

static nb_status job_report(nb_ctx *ctx) {
    return nb_report(ctx, folder, NULL);
}

static nb_status job_list(nb_ctx *ctx) {
    char *json = NULL;
    nb_status st = nb_list(ctx, "searches", &json);
    if (st == NB_OK) { /* whole, or not at all */
        if (!whole_list) whole_list = strdup(json);
        assert_string_equal(json, whole_list);
    }
    nb_free(json);
    return st;
}

/* k = 1, 2, 3 … then ever larger steps, until the job no longer meets its k-th allocation. */
static void walk_one(job run, void (*fail_at)(long), long grow) {
    long met = 0, missed = 0;
    for (long k = 1; missed < 1; k += 1 + k / grow) {
        nb_ctx *ctx = nb_ctx_new();
        assert_non_null(ctx);
        nb_ctx_set_threads(ctx, 1);
        fail_at(k);
        nb_status st = run(ctx);
        bool reached = nbi_alloc_fail_left() <= 0;
        nbi_alloc_fail_after(0);
        if (st != NB_OK && st != NB_ENOMEM)
            fail_msg("allocation %ld fails: status %d (%s)", k, (int)st, nb_ctx_message(ctx));
        if (st == NB_ENOMEM && !*nb_ctx_message(ctx)) fail_msg("allocation %ld: no message", k);
        if (reached) met++;
        else missed++;
        if (!reached && st != NB_OK) fail_msg("no allocation failed: %s", nb_ctx_message(ctx));
        nb_ctx_free(ctx);
    }
    print_message("%ld of the allocations failed\n", met);
    assert_true(met > 10);
}

static void walk(job run) {
    nb_ctx *ctx = nb_ctx_new();
    nb_ctx_set_threads(ctx, 1);
    assert_int_equal(run(ctx), NB_OK); /* what libraries keep for good, they have now */
    nb_ctx_free(ctx);
    walk_one(run, nbi_alloc_fail_after, 8);
    walk_one(run, nbi_alloc_fail_from, 3);
}

static void test_info(void **state) {
    (void)state;
    walk(job_info);
}

static void test_quantize(void **state) {
    (void)state;
    walk(job_quantize);
}

static void test_eval(void **state) {
    (void)state;
    walk(job_eval);
}

static void test_compare(void **state) {
    (void)state;
    walk(job_compare);
}

static void test_sensitivity(void **state) {
    (void)state;
    walk(job_sensitivity);
}

static void test_export(void **state) {
    (void)state;
    walk(job_export);
}

static void test_report(void **state) {
    (void)state;
    walk(job_report);
}

static void test_list(void **state) {
    (void)state;
    walk(job_list);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int drop_folder(void **state) {
    char command[sizeof folder + 16];
    (void)state;
    free(whole_list);
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command) == 0 ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info),
        cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_eval),
        cmocka_unit_test(test_compare),
        cmocka_unit_test(test_sensitivity),
        cmocka_unit_test(test_export),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, make_folder, drop_folder);
}
