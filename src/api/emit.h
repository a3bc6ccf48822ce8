/* Writing C and ONNX from what is loaded: shared by nb_quantize and nb_export. */
#ifndef NIBBLE_API_EMIT_H
#define NIBBLE_API_EMIT_H

#include "codegen/codegen.h"
#include "ir/qnet.h"

#include <jansson.h>

typedef struct nbi_c_job {
    const nbi_qnet *net; /* what the program was lowered from */
    const nbi_program *program;
    const uint8_t *inputs; /* n raw inputs for the self test */
    size_t n;
    const char *command_line; /* for comments; NULL: none */
    const char *name;         /* nbi_codegen_options.prefix; NULL: its default */
} nbi_c_job;
nb_status nbi_write_c(nb_ctx *ctx, const nbi_c_job *job, const char *folder,
                      nbi_codegen_report *report);
/* nb_export's formats: append to `files`, make *root. C of a network whose end is left as it is comes
 * with a warning. */
nb_status nbi_export_c(nb_ctx *ctx, const nbi_qnet *net, const nbi_program *program,
                       const nb_export_options *o, json_t *files, json_t **root);
nb_status nbi_copy_qdq(nb_ctx *ctx, const nbi_graph *graph, const nb_export_options *o,
                       json_t *files, json_t **root);

#endif
