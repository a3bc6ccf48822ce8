/* Writing C from a program: shared by nb_quantize and nb_export. */
#ifndef NIBBLE_API_EMIT_H
#define NIBBLE_API_EMIT_H

#include "codegen/codegen.h"

/* `inputs`: n raw inputs for the self test. */
nb_status nbi_write_c(nb_ctx *ctx, const nbi_program *program, const uint8_t *inputs, size_t n,
                      const char *command_line, const char *folder, nbi_codegen_report *report);

#endif
