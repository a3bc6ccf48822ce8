/* Generated C of networks whose weights and activations have every scheme and width that devices run:
 * compiled, it computes what the integer program computes, value for value. */
#include "codegen/codegen.h"
#include "codegen/workfolder.h"
#include "unit/scheme_nets.h"

#define IMAGES 4
#define FLAGS  "-std=c99 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wundef -Werror -O1"

static void check(int k) {
    hand room, *h = &room;
    nbi_program *p;
    nbi_runner *runner;
    int output[NBI_CODEGEN_OUTPUTS], n_outputs;
    nbi_frozen *frozen = scheme_net_frozen(h, k, IMAGES);
    HAND_OK(nbi_lower(h->ctx, frozen, &p));
    HAND_OK(nbi_runner_new(h->ctx, p, &runner));
    HAND_OK(nbi_codegen_outputs(h->ctx, p, output, &n_outputs));
    assert_int_equal(n_outputs, 1);
    assert_int_equal(output[0], p->output[0]);
    size_t count = p->tensor[output[0]].count;
    int32_t *expected = calloc(IMAGES * count, sizeof *expected), *out[1] = {expected};
    HAND_OK(nbi_runner_run(h->ctx, runner, IMAGES, h->codes, out));
    nbi_codegen_options o = nbi_codegen_options_default();
    o.n_vectors = IMAGES;
    o.inputs = h->codes;
    o.expected = expected;
    folder_empty();
    HAND_OK(nbi_codegen_write(h->ctx, p, &o, folder, NULL));
    assert_int_equal(shell("cc " FLAGS " -c *.c && cc -o t *.o"), 0);
    if (shell("./t >log.txt") || shell("grep -q '^%d vectors, 0 wrong values$' log.txt", IMAGES))
        fail_msg("network %d: the generated C differs from the integer program", k);
    free(expected);
    nbi_runner_free(runner);
    nbi_program_free(p);
    nbi_frozen_free(frozen);
    hand_free(h);
}

static void test_every_scheme(void **state) {
    (void)state;
    assert_true(folder_make());
    for (int k = 0; k < SCHEME_NETS; k++) check(k);
    folder_remove();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_scheme)};
    return cmocka_run_group_tests_name("codegen_schemes", tests, NULL, NULL);
}
