/* Generated C on emulated Cortex-M: the same values as on this machine, and as many bytes of
 * constants as reported. */
#include "codegen/codegen.h"
#include "codegen/handmade.h"
#include "codegen/workfolder.h"

#include <setjmp.h>
#include <stddef.h>

#include <cmocka.h>

#define ARM "arm-none-eabi-gcc -mthumb -std=c99 -Wall -Wextra -Wpedantic -Wconversion -Werror -O2 "

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

static void generate(int bits, nbi_codegen_report *report) {
    handmade n;
    handmade_start(&n, (uint64_t)bits, NB_DTYPE_U8, 9, 9, 3);
    const int logits = handmade_every_step(&n, bits);
    const size_t count = n.tensor[logits].count;
    void *value[HANDMADE_MAX];
    nbi_codegen_options o = nbi_codegen_options_default();
    handmade_output(&n, logits);
    uint8_t *inputs = handmade_bytes(&n, 2 * n.tensor[n.p.input].bytes);
    int32_t *expected = handmade_alloc(&n, 2 * count * 4);
    for (size_t v = 0; v < 2; v++) {
        handmade_run(&n.p, inputs + v * n.tensor[n.p.input].bytes, value);
        memcpy(expected + v * count, value[logits], count * 4);
        for (int t = 0; t < n.p.n_tensors; t++) free(value[t]);
    }
    o.n_vectors = 2;
    o.inputs = inputs;
    o.expected = expected;
    if (nbi_codegen_write(ctx, &n.p, &o, folder, report) != NB_OK)
        fail_msg("%s", nb_ctx_message(ctx));
    handmade_end(&n);
}

static void test_runs_on_cortex_m(void **state) {
    (void)state;
    static const struct {
        const char *cpu, *machine;
    } core[] = {{"cortex-m3", "mps2-an385"}, {"cortex-m4", "mps2-an386"}};
    for (int bits = 2; bits <= 8; bits += 3)
        for (size_t i = 0; i < NBI_COUNT(core); i++) {
            nbi_codegen_report report;
            folder_empty();
            generate(bits, &report);
            assert_int_equal(shell(ARM "-mcpu=%s -c *.c", core[i].cpu), 0);
            const size_t bytes = const_sections("arm-none-eabi-size", "model.o");
            if (bytes < report.const_bytes || bytes > report.const_bytes + 16)
                fail_msg("%zu bytes in the object, %zu reported", bytes, report.const_bytes);
            assert_int_equal(shell(ARM "-mcpu=%s --specs=rdimon.specs -T %s -o t.elf *.o %s",
                                   core[i].cpu, NIBBLE_SOURCE_DIR "/tests/codegen/arm/mps2.ld",
                                   NIBBLE_SOURCE_DIR "/tests/codegen/arm/start.c"),
                             0);
            assert_int_equal(shell("timeout 60 qemu-system-arm -M %s -nographic -monitor none "
                                   "-serial none -semihosting-config enable=on,target=native "
                                   "-kernel t.elf </dev/null >log.txt 2>&1",
                                   core[i].machine),
                             0);
            assert_int_equal(shell("grep -q '^2 vectors, 0 wrong values' log.txt"), 0);
        }
}

static void test_small_cores_compile(void **state) {
    (void)state;
    nbi_codegen_report report;
    folder_empty();
    generate(3, &report);
    assert_int_equal(shell(ARM "-mcpu=cortex-m0 -c *.c"), 0);
    /* no soft-float helper is called */
    assert_int_equal(shell("! arm-none-eabi-nm -u model.o nbk_*.o | grep -E '__aeabi_[fd]'"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_runs_on_cortex_m),
        cmocka_unit_test(test_small_cores_compile),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
