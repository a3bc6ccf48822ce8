/* Replacing files of a folder together, and what is left when that is interrupted. */
#include "base/stage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[] = "/tmp/nibble_stage_XXXXXX";

static void put(nb_ctx *ctx, const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(nbi_file_write(ctx, path, text, strlen(text)), NB_OK);
}

static void make(nb_ctx *ctx, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    assert_int_equal(nbi_make_folder(ctx, path), NB_OK);
}

/* text NULL: the file is not there. */
static void holds(nb_ctx *ctx, const char *name, const char *text) {
    char path[256];
    void *data;
    size_t size;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (nbi_file_exists(path) != (text != NULL)) fail_msg("'%s': %s", name, text ? "gone" : "there");
    if (!text) return;
    assert_int_equal(nbi_file_read(ctx, path, 1000, &data, &size), NB_OK);
    assert_int_equal(size, strlen(text));
    assert_memory_equal(data, text, size);
    nbi_free(data);
}

static void test_publish(void **state) {
    nb_ctx *ctx = *state;
    nbi_buf path = {0};
    put(ctx, "a", "old");
    put(ctx, "kept", "kept");
    make(ctx, "c/inner");
    put(ctx, "c/inner/x", "old");
    put(ctx, "c/x", "old");
    put(ctx, "c/mine", "mine");
    assert_int_equal(nbi_stage_begin(ctx, folder, &path), NB_OK);
    nbi_buf_free(&path);
    put(ctx, ".next/a", "new");
    make(ctx, ".next/c");
    put(ctx, ".next/c/x", "new");
    holds(ctx, "a", "old");
    assert_int_equal(nbi_stage_publish(ctx, folder), NB_OK);
    holds(ctx, "a", "new");
    holds(ctx, "kept", "kept");
    holds(ctx, "c/x", "new");
    holds(ctx, "c/mine", "mine");
    holds(ctx, "c/inner/x", "old");
    holds(ctx, ".next", NULL);
    holds(ctx, ".done", NULL);
    assert_int_equal(nbi_stage_publish(ctx, folder), NB_EIO); /* nothing was staged */
}

static void test_interrupted(void **state) {
    nb_ctx *ctx = *state;
    put(ctx, "a", "old");
    put(ctx, "b", "old");
    make(ctx, ".next"); /* before publishing: the old ones stay */
    put(ctx, ".next/a", "half");
    assert_int_equal(nbi_stage_recover(ctx, folder), NB_OK);
    holds(ctx, "a", "old");
    holds(ctx, ".next", NULL);
    make(ctx, ".done"); /* while moving: b was moved, a not yet */
    put(ctx, ".done/a", "new");
    put(ctx, "b", "new");
    assert_int_equal(nbi_stage_recover(ctx, folder), NB_OK);
    holds(ctx, "a", "new");
    holds(ctx, "b", "new");
    holds(ctx, ".done", NULL);
    make(ctx, ".next");
    put(ctx, ".next/a", "half");
    nbi_stage_drop(folder);
    holds(ctx, ".next", NULL);
    assert_int_equal(nbi_stage_recover(ctx, "/nowhere/at/all"), NB_OK);
}

/* What others keep in a folder of results stays and is in nobody's way: hidden, or nested deeply. */
static void test_foreign(void **state) {
    nb_ctx *ctx = *state;
    make(ctx, "d/1/2/3/4/5");
    put(ctx, "d/1/2/3/4/5/mine", "mine");
    put(ctx, "d/.hidden", "mine");
    put(ctx, "d/b", "old");
    make(ctx, ".done/d"); /* interrupted: a was moved, b not yet */
    put(ctx, "d/a", "new");
    put(ctx, ".done/d/b", "new");
    assert_int_equal(nbi_stage_recover(ctx, folder), NB_OK);
    holds(ctx, "d/a", "new");
    holds(ctx, "d/b", "new");
    holds(ctx, "d/.hidden", "mine");
    holds(ctx, "d/1/2/3/4/5/mine", "mine");
    holds(ctx, ".done", NULL);
}

/* A link is removed, not followed. */
static void test_links(void **state) {
    nb_ctx *ctx = *state;
    char from[256], to[256];
    make(ctx, "safe");
    put(ctx, "safe/x", "mine");
    make(ctx, ".next");
    snprintf(from, sizeof from, "%s/safe", folder);
    snprintf(to, sizeof to, "%s/.next/link", folder);
    assert_int_equal(symlink(from, to), 0);
    assert_int_equal(nbi_stage_recover(ctx, folder), NB_OK);
    holds(ctx, "safe/x", "mine");
    holds(ctx, ".next", NULL);
    snprintf(to, sizeof to, "%s/linked", folder);
    assert_int_equal(symlink(from, to), 0);
    make(ctx, ".next/linked");
    put(ctx, ".next/linked/x", "new");
    assert_int_equal(nbi_stage_publish(ctx, folder), NB_OK);
    holds(ctx, "safe/x", "mine");
    holds(ctx, "linked/x", "new");
}

static int set_up(void **state) {
    *state = nb_ctx_new();
    return mkdtemp(folder) ? 0 : 1;
}

static int tear_down(void **state) {
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    nb_ctx_free(*state);
    return system(command);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_publish),
                                       cmocka_unit_test(test_interrupted),
                                       cmocka_unit_test(test_foreign),
                                       cmocka_unit_test(test_links)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
