/* Plain networks: VGG-small of the low-bit literature (Courbariaux et al. 2016; Zhang et al. 2018),
 * and two of MLPerf Tiny (Banbury et al. 2021), layer by layer: DS-CNN for keyword spotting and the
 * autoencoder for anomaly detection. */
#include "hyper/arch_build.h"

static int build_vgg(nbi_builder *b, const nbi_arch *row, int x) {
    (void)row;
    for (int stage = 0; stage < 3; stage++) {
        for (int i = 0; i < 2; i++)
            x = nbi_build_conv_norm_relu(b, nbi_build_name(b, "conv%d", 2 * stage + i + 1), x,
                                         (nbi_conv_spec){.channels = nbi_build_width(b, 128 << stage),
                                                         .kernel = 3,
                                                         .stride = 1});
        x = nbi_build_maxpool(b, nbi_build_name(b, "pool%d", stage + 1), x, 2, 2, 0);
    }
    return nbi_build_dense(b, "fc", nbi_build_flatten(b, "flat", x), b->classes);
}

static int build_dscnn(nbi_builder *b, const nbi_arch *row, int x) {
    int channels = nbi_build_width(b, 64);
    (void)row;
    x = nbi_build_conv_norm_relu(b, "conv1", x,
                                 (nbi_conv_spec){.channels = channels,
                                                 .kernel = 10,
                                                 .kernel_w = 4,
                                                 .stride = 2,
                                                 .bias = true,
                                                 .same = true});
    x = nbi_build_dropout(b, "dropout1", x, 0.2f);
    for (int i = 1; i <= 4; i++) {
        x = nbi_build_conv_norm_relu(
            b, nbi_build_name(b, "block%d.depthwise", i), x,
            (nbi_conv_spec){.depthwise = true, .kernel = 3, .stride = 1, .bias = true});
        x = nbi_build_conv_norm_relu(
            b, nbi_build_name(b, "block%d.pointwise", i), x,
            (nbi_conv_spec){.channels = channels, .kernel = 1, .stride = 1, .bias = true});
    }
    x = nbi_build_dropout(b, "dropout2", x, 0.4f);
    return nbi_build_dense(b, "fc", nbi_build_global_pool(b, "pool", x), b->classes);
}

static int build_autoencoder(nbi_builder *b, const nbi_arch *row, int x) {
    int64_t length = nbi_build_dim(b, x, 1);
    (void)row;
    for (int i = 1; i <= 9; i++) {
        const char *name = nbi_build_name(b, "fc%d", i);
        x = nbi_build_dense(b, name, x, i == 5 ? 8 : nbi_build_width(b, 128));
        x = nbi_build_norm(b, nbi_build_name(b, "%s.norm", name), x);
        x = nbi_build_relu(b, nbi_build_name(b, "%s.relu", name), x);
    }
    return nbi_build_dense(b, "fc10", x, length);
}

const nbi_arch nbi_arch_vgg_small = {.name = "vgg_small",
                                     .help = "six 3x3 convolutions: 4,660,106 parameters",
                                     .rank = 3,
                                     .input = {3, 32, 32},
                                     .classes = 10,
                                     .build = build_vgg};
const nbi_arch nbi_arch_dscnn = {
    .name = "dscnn",
    .help = "keyword spotting of MLPerf Tiny: 23,756 parameters",
    .rank = 3,
    .input = {1, 49, 10},
    .classes = 12,
    .build = build_dscnn};
const nbi_arch nbi_arch_autoencoder = {
    .name = "autoencoder",
    .help = "anomaly detection of MLPerf Tiny: 267,928 parameters",
    .rank = 1,
    .input = {640},
    .build = build_autoencoder};
