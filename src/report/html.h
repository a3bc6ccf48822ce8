/* report.html from the JSON files of a result folder: one self-contained page, no scripts. */
#ifndef NIBBLE_REPORT_HTML_H
#define NIBBLE_REPORT_HTML_H

#include "base/base.h"

#include <jansson.h>

/* results: results.json; pareto may be NULL. `title` names the model. */
nb_status nbi_report_html(nb_ctx *ctx, const char *title, const json_t *results,
                          const json_t *pareto, nbi_buf *out);

#endif
