/* Writing C and ONNX from what is loaded: shared by nb_quantize and nb_export. */
#ifndef NIBBLE_API_EMIT_H
#define NIBBLE_API_EMIT_H

#include "codegen/codegen.h"

#include <jansson.h>

/* `inputs`: n raw inputs for the self test. */
nb_status nbi_write_c(nb_ctx *ctx, const nbi_program *program, const uint8_t *inputs, size_t n,
                      const char *command_line, const char *folder, nbi_codegen_report *report);
/* nb_export's formats: append to `files`, make *root. */
nb_status nbi_export_c(nb_ctx *ctx, const nbi_program *program, const nb_export_options *o,
                       json_t *files, json_t **root);
nb_status nbi_copy_qdq(nb_ctx *ctx, const nbi_graph *graph, const nb_export_options *o,
                       json_t *files, json_t **root);

#endif
