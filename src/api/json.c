/* JSON that is whole or not there at all. jansson's builders return NULL without memory, and adding
 * NULL to an object is only a return value that nobody looks at: the result would lack a key. So its
 * allocations pass through here, a failed one is remembered until the call ends, and no text is made
 * of what was lost. */
#include "api/api.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static _Thread_local bool lost;

static void *json_alloc(size_t size) {
    void *p = nbi_malloc(size);
    lost |= p == NULL;
    return p;
}

void nbi_json_begin(void) {
    static atomic_flag set = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&set)) json_set_alloc_funcs(json_alloc, free);
    lost = false;
}

bool nbi_json_lost(void) {
    return lost;
}

json_t *nbi_json_string(const char *text) {
    json_t *string = json_string(text);
    if (string || lost) return string;
    size_t n = strlen(text); /* not UTF-8: a path may be any bytes */
    char *copy = json_alloc(n + 1);
    if (!copy) return NULL;
    for (size_t i = 0; i <= n; i++) copy[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
    string = json_string(copy);
    free(copy);
    return string;
}

json_t *nbi_json_number(double x) {
    const double whole = 9007199254740992.0; /* 2⁵³ */
    return x == floor(x) && fabs(x) < whole ? json_integer((json_int_t)x) : json_real(x);
}

static char *text_of(const json_t *root, size_t flags) {
    char *text = root && !lost ? json_dumps(root, flags | JSON_REAL_PRECISION(10)) : NULL;
    if (!lost) return text;
    free(text);
    return NULL;
}

nb_status nbi_json_text(nb_ctx *ctx, json_t *root, char **text) {
    char *made = text_of(root, JSON_COMPACT);
    json_decref(root);
    if (!made) return nb_fail(ctx, NB_ENOMEM, "no memory for the results");
    if (text) *text = made;
    else free(made);
    return NB_OK;
}

nb_status nbi_json_write(nb_ctx *ctx, const json_t *root, const char *path) {
    char *text = text_of(root, JSON_INDENT(2));
    if (!text) return nb_fail(ctx, NB_ENOMEM, "no memory for '%s'", path);
    nb_status st = nbi_file_write(ctx, path, text, strlen(text));
    free(text);
    return st;
}

nb_status nbi_json_read(nb_ctx *ctx, const char *path, size_t max_bytes, json_t **out) {
    void *text = NULL;
    size_t size;
    json_error_t error;
    NB_TRY(nbi_file_read(ctx, path, max_bytes, &text, &size));
    json_t *root = json_loadb(text, size, 0, &error);
    nbi_free(text);
    if (lost) {
        json_decref(root);
        return nb_fail(ctx, NB_ENOMEM, "no memory to read '%s'", path);
    }
    if (!root) return nb_fail(ctx, NB_EFORMAT, "'%s', line %d: %s", path, error.line, error.text);
    *out = root;
    return NB_OK;
}
