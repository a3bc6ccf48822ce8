/* What architectures are written with. A builder remembers its first failure; after it every call
 * returns its input and does nothing, so that an architecture reads as a list of layers. */
#ifndef NIBBLE_HYPER_ARCH_BUILD_H
#define NIBBLE_HYPER_ARCH_BUILD_H

#include "hyper/arch.h"

typedef struct nbi_builder {
    nb_ctx *ctx;
    nbi_graph *graph;
    nb_status st;
    int classes; /* asked for */
    double width;
} nbi_builder;

/* channels·width, rounded to a multiple of 8, at least 8 and never below 9/10 of the exact number
 * (the rule of MobileNets). */
int nbi_build_width(const nbi_builder *b, int channels);
/* Dimension `axis` of tensor x; 1 after a failure. */
int64_t nbi_build_dim(const nbi_builder *b, int x, int axis);

typedef struct nbi_conv_spec {
    int channels, kernel, stride;
    int kernel_w;  /* 0: as kernel */
    bool depthwise; /* channels is ignored */
    bool bias;
    bool same;     /* pads as TensorFlow's SAME (more at the end); else kernel/2 on every side */
} nbi_conv_spec;
/* Each names its node and constants NAME, NAME.weight, … and returns its output tensor. */
int nbi_build_conv(nbi_builder *b, const char *name, int x, nbi_conv_spec spec);
int nbi_build_norm(nbi_builder *b, const char *name, int x);
int nbi_build_relu(nbi_builder *b, const char *name, int x);
int nbi_build_relu6(nbi_builder *b, const char *name, int x);
int nbi_build_add(nbi_builder *b, const char *name, int x, int y);
int nbi_build_maxpool(nbi_builder *b, const char *name, int x, int kernel, int stride, int pad);
int nbi_build_global_pool(nbi_builder *b, const char *name, int x); /* N,C */
int nbi_build_flatten(nbi_builder *b, const char *name, int x);
int nbi_build_dropout(nbi_builder *b, const char *name, int x, float ratio);
int nbi_build_dense(nbi_builder *b, const char *name, int x, int64_t outputs);
/* conv without bias, norm, ReLU (`relu6`: to 6) */
int nbi_build_conv_norm(nbi_builder *b, const char *name, int x, nbi_conv_spec spec);
int nbi_build_conv_norm_relu(nbi_builder *b, const char *name, int x, nbi_conv_spec spec);

/* "layer1.0.conv2" and the like: a text that lives in the graph; "" after a failure. */
const char *nbi_build_name(nbi_builder *b, const char *format, ...) NBI_PRINTF(2, 3);

#define ARCH(row) extern const nbi_arch row;
#include "hyper/architectures.def"
#undef ARCH

#endif
