/* Float samples whose shape is that of a picture: a delivered network reads them as values, not as
 * pixels, and every way to run it again computes what was delivered. */
#include "data_files.h"
#include "unit/npz_file.h"

#include "base/base.h"

#include <jansson.h>
#include <nibble/nibble.h>

enum { SAMPLES = 60, VALUES = 1 * 20 * 10 };

static json_t *parsed(char *text) {
    json_t *root = json_loads(text, 0, NULL);
    assert_non_null(root);
    nb_free(text);
    return root;
}

static double number(const json_t *root, const char *object, const char *key) {
    const json_t *v = json_object_get(json_object_get(root, object), key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static void test_compare_is_delivered(void **state) {
    place *p = *state;
    static float x[SAMPLES * VALUES];
    nbi_rng rng;
    char *text, float_model[256], folder[256];
    nbi_rng_seed(&rng, 5, 0);
    for (size_t i = 0; i < NBI_COUNT(x); i++) x[i] = (float)(20 * nbi_rng_normal(&rng));
    npz_write(at(p, "samples.npz"),
              (npz_entry[]){{"x.npy", "<f4", "(60, 1, 20, 10)", x, sizeof x}}, 1, true);
    snprintf(float_model, sizeof float_model, "%s", at(p, "float.onnx"));
    snprintf(folder, sizeof folder, "%s", at(p, "out"));
    nb_new_options fresh = nb_new_options_default();
    fresh.output = float_model;
    fresh.input = "1x20x10";
    fresh.width = 0.25;
    assert_int_equal(nb_new(p->ctx, "dscnn", &fresh, &text), NB_OK);
    nb_free(text);
    nb_quantize_options o = nb_quantize_options_default();
    o.data.path = at(p, "samples.npz");
    o.output = folder;
    o.weight_bits = "8";
    o.max_size = 1 << 20;
    assert_int_equal(nb_quantize(p->ctx, float_model, &o, &text), NB_OK);
    json_t *delivered = parsed(text);
    nb_data_options d = nb_data_options_default();
    d.path = at(p, "samples.npz");
    assert_int_equal(nb_compare(p->ctx, float_model, folder, &d, &text), NB_OK);
    json_t *again = parsed(text);
    assert_true(number(delivered, "quantized", "kl") == number(again, "b", "kl"));
    assert_int_equal((int)number(delivered, "quantized", "bytes"), (int)number(again, "b", "bytes"));
    json_decref(delivered);
    json_decref(again);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_compare_is_delivered, place_setup, place_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
