/* nb_report: report.html of a result folder, from its JSON files alone. */
#include "api/api.h"

#include "report/html.h"

#include <string.h>

static nb_status read_json(nb_ctx *ctx, const char *folder, const char *name, bool needed,
                           json_t **out) {
    nbi_buf path = {0};
    *out = NULL;
    nb_status st = nbi_buf_printf(ctx, &path, "%s/%s", folder, name);
    if (st == NB_OK && (needed || nbi_file_exists(path.data)))
        st = nbi_json_read(ctx, path.data, (size_t)256 << 20, out);
    nbi_buf_free(&path);
    return st;
}

nb_status nb_report(nb_ctx *ctx, const char *folder, char **json) {
    nbi_json_begin();
    json_t *results = NULL, *pareto = NULL;
    nbi_buf html = {0}, path = {0};
    nb_status st;
    NB_TRYG(read_json(ctx, folder, "results.json", true, &results));
    NB_TRYG(read_json(ctx, folder, "pareto.json", false, &pareto));
    const char *title = json_string_value(json_object_get(results, "model"));
    NB_TRYG(nbi_report_html(ctx, title ? title : folder, results, pareto, &html));
    NB_TRYG(nbi_buf_printf(ctx, &path, "%s/report.html", folder));
    NB_TRYG(nbi_file_write(ctx, path.data, html.data, html.size));
    json_t *root = json_pack("{s:[o],s:I}", "files", nbi_json_string(path.data), "bytes", (json_int_t)html.size);
    st = nbi_json_text(ctx, root, json);
done:
    json_decref(results);
    json_decref(pareto);
    nbi_buf_free(&html);
    nbi_buf_free(&path);
    return st;
}
