/* The network that generates weights (MetaQuantNet) of a quantization job: trained or read, then in
 * the place of the float weights. */
#ifndef NIBBLE_API_HYPER_H
#define NIBBLE_API_HYPER_H

#include "api/session.h"
#include "hyper/metaquantnet.h"

typedef struct nbi_hyper_files {
    const char *given;      /* an ONNX file to read; NULL: none */
    const char *kept;       /* where the trained one is kept and looked for; NULL: nowhere */
    const char *checkpoint; /* while it is trained; NULL: none */
    bool anew;              /* trains even where `kept` would do */
} nbi_hyper_files;

/* A MetaQuantNet for the session's network with values from a file or from training; *about: what
 * results.json says of it (may be NULL). Cancelled or out of time: as far as it came. */
nb_status nbi_hyper_ready(nbi_session *s, const nbi_meta_settings *settings,
                          const nbi_hyper_files *files, nbi_meta **out, json_t **about);
/* nbi_netproblem_options.hypernetwork with a session as user. */
nb_status nbi_hyper_install(nb_ctx *ctx, void *user, const nbi_meta_settings *settings);
/* A scorer of generated weights, or of the model's own again; s->generated. */
nb_status nbi_hyper_use(nbi_session *s, bool generated);

#endif
