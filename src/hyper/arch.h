/* Standard architectures, untrained: one row each, built node by node as ONNX. */
#ifndef NIBBLE_HYPER_ARCH_H
#define NIBBLE_HYPER_ARCH_H

#include "ir/graph.h"

typedef struct nbi_arch_options {
    int classes;           /* 0: the architecture's usual number */
    int rank;              /* of `input`; 0: the usual input */
    int64_t input[3];      /* C, H, W; one number for networks of vectors */
    double width;          /* of all inner layers; 1 as published */
    uint64_t seed;         /* of the initial weights */
} nbi_arch_options;
nbi_arch_options nbi_arch_options_default(void);

struct nbi_builder;
/* One row; src/hyper/architectures.def. */
typedef struct nbi_arch {
    const char *name, *help;
    int rank;
    int64_t input[3]; /* usual */
    int classes;      /* usual; 0: has none (reconstructs its input) */
    int depth;        /* which member of the family */
    /* From the input tensor to the output tensor. */
    int (*build)(struct nbi_builder *b, const struct nbi_arch *row, int x);
} nbi_arch;
const nbi_arch *const *nbi_archs(size_t *n);
/* NULL if unknown. */
const nbi_arch *nbi_arch_find(const char *name);

/* A graph with a free batch dimension "N", input "input", output "logits" ("output" where it
 * reconstructs), opset 13, He-initialised. NB_EINVAL: an unknown name or an impossible size. */
nb_status nbi_arch_build(nb_ctx *ctx, const char *name, const nbi_arch_options *options,
                         nbi_graph **out);

#endif
