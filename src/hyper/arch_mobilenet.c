/* MobileNets (Howard et al. 2017; Sandler et al. 2018). Inputs below 64 pixels keep their size where
 * the published networks for 224 pixels halve it first: v1 in the first layer, v2 in the first layer
 * and in the second stage, as is usual on CIFAR. */
#include "hyper/arch_build.h"

enum { SMALL = 64 };

static int build_v1(nbi_builder *b, const nbi_arch *row, int x) {
    static const struct {
        int channels, stride;
    } block[13] = {{64, 1},  {128, 2}, {128, 1}, {256, 2}, {256, 1},  {512, 2}, {512, 1},
                   {512, 1}, {512, 1}, {512, 1}, {512, 1}, {1024, 2}, {1024, 1}};
    (void)row;
    x = nbi_build_conv_norm_relu(b, "conv1", x,
                                 (nbi_conv_spec){.channels = nbi_build_width(b, 32),
                                                 .kernel = 3,
                                                 .stride = nbi_build_dim(b, x, 2) < SMALL ? 1 : 2});
    for (int i = 0; i < 13; i++) {
        x = nbi_build_conv_norm_relu(
            b, nbi_build_name(b, "block%d.depthwise", i + 1), x,
            (nbi_conv_spec){.depthwise = true, .kernel = 3, .stride = block[i].stride});
        x = nbi_build_conv_norm_relu(b, nbi_build_name(b, "block%d.pointwise", i + 1), x,
                                     (nbi_conv_spec){.channels = nbi_build_width(b, block[i].channels),
                                                     .kernel = 1,
                                                     .stride = 1});
    }
    return nbi_build_dense(b, "fc", nbi_build_global_pool(b, "pool", x), b->classes);
}

static int conv_norm_relu6(nbi_builder *b, const char *name, int x, nbi_conv_spec spec) {
    x = nbi_build_conv_norm(b, name, x, spec);
    return nbi_build_relu6(b, nbi_build_name(b, "%s.relu6", name), x);
}

/* Expansion, depthwise, linear projection; a residual where shapes agree. */
static int inverted_residual(nbi_builder *b, const char *name, int x, int expand, int channels,
                             int stride) {
    int64_t in = nbi_build_dim(b, x, 1);
    int y = x;
    if (expand != 1)
        y = conv_norm_relu6(
            b, nbi_build_name(b, "%s.expand", name), y,
            (nbi_conv_spec){.channels = expand * (int)in, .kernel = 1, .stride = 1});
    y = conv_norm_relu6(b, nbi_build_name(b, "%s.depthwise", name), y,
                        (nbi_conv_spec){.depthwise = true, .kernel = 3, .stride = stride});
    y = nbi_build_conv_norm(b, nbi_build_name(b, "%s.project", name), y,
                            (nbi_conv_spec){.channels = channels, .kernel = 1, .stride = 1});
    return stride == 1 && in == channels ? nbi_build_add(b, nbi_build_name(b, "%s.add", name), x, y)
                                         : y;
}

static int build_v2(nbi_builder *b, const nbi_arch *row, int x) {
    static const struct {
        int expand, channels, repeat, stride;
    } stage[7] = {{1, 16, 1, 1}, {6, 24, 2, 2},  {6, 32, 3, 2}, {6, 64, 4, 2},
                  {6, 96, 3, 1}, {6, 160, 3, 2}, {6, 320, 1, 1}};
    bool small = nbi_build_dim(b, x, 2) < SMALL;
    /* the last layer keeps its 1280 channels in narrow networks */
    int last = b->width > 1 ? nbi_build_width(b, 1280) : 1280;
    (void)row;
    x = conv_norm_relu6(b, "conv1", x,
                        (nbi_conv_spec){.channels = nbi_build_width(b, 32),
                                        .kernel = 3,
                                        .stride = small ? 1 : 2});
    for (int s = 0; s < 7; s++)
        for (int i = 0; i < stage[s].repeat; i++) {
            int stride = i || (small && s == 1) ? 1 : stage[s].stride;
            x = inverted_residual(b, nbi_build_name(b, "stage%d.%d", s + 1, i), x, stage[s].expand,
                                  nbi_build_width(b, stage[s].channels), stride);
        }
    x = conv_norm_relu6(b, "conv2", x, (nbi_conv_spec){.channels = last, .kernel = 1, .stride = 1});
    x = nbi_build_global_pool(b, "pool", x);
    return nbi_build_dense(b, "fc", nbi_build_dropout(b, "dropout", x, 0.2f), b->classes);
}

const nbi_arch nbi_arch_mobilenet_v1 = {
    .name = "mobilenet_v1",
    .help = "depthwise separable: 3,217,226 parameters; --input 3x224x224 for ImageNet's form",
    .rank = 3,
    .input = {3, 32, 32},
    .classes = 10,
    .build = build_v1};
const nbi_arch nbi_arch_mobilenet_v2 = {
    .name = "mobilenet_v2",
    .help = "inverted residuals: 2,236,682 parameters; --input 3x224x224 for ImageNet's form",
    .rank = 3,
    .input = {3, 32, 32},
    .classes = 10,
    .build = build_v2};
