/* Residual networks (He et al. 2016). CIFAR: 6n+2 layers, 16-32-64 channels, shortcuts that change
 * the size are 1x1 convolutions with BatchNormalization ("option B"). ImageNet: ResNet-18 and -50
 * as torchvision builds them (the stride of a bottleneck in its 3x3 convolution). */
#include "hyper/arch_build.h"

static int basic_block(nbi_builder *b, const char *name, int x, int channels, int stride) {
    int y = nbi_build_conv_norm_relu(
        b, nbi_build_name(b, "%s.conv1", name), x,
        (nbi_conv_spec){.channels = channels, .kernel = 3, .stride = stride});
    y = nbi_build_conv_norm(b, nbi_build_name(b, "%s.conv2", name), y,
                            (nbi_conv_spec){.channels = channels, .kernel = 3, .stride = 1});
    if (stride != 1 || nbi_build_dim(b, x, 1) != channels)
        x = nbi_build_conv_norm(b, nbi_build_name(b, "%s.shortcut", name), x,
                                (nbi_conv_spec){.channels = channels, .kernel = 1, .stride = stride});
    y = nbi_build_add(b, nbi_build_name(b, "%s.add", name), y, x);
    return nbi_build_relu(b, nbi_build_name(b, "%s.relu", name), y);
}

static int bottleneck(nbi_builder *b, const char *name, int x, int channels, int stride) {
    int y = nbi_build_conv_norm_relu(
        b, nbi_build_name(b, "%s.conv1", name), x,
        (nbi_conv_spec){.channels = channels, .kernel = 1, .stride = 1});
    y = nbi_build_conv_norm_relu(
        b, nbi_build_name(b, "%s.conv2", name), y,
        (nbi_conv_spec){.channels = channels, .kernel = 3, .stride = stride});
    y = nbi_build_conv_norm(b, nbi_build_name(b, "%s.conv3", name), y,
                            (nbi_conv_spec){.channels = 4 * channels, .kernel = 1, .stride = 1});
    if (stride != 1 || nbi_build_dim(b, x, 1) != 4 * channels)
        x = nbi_build_conv_norm(
            b, nbi_build_name(b, "%s.shortcut", name), x,
            (nbi_conv_spec){.channels = 4 * channels, .kernel = 1, .stride = stride});
    y = nbi_build_add(b, nbi_build_name(b, "%s.add", name), y, x);
    return nbi_build_relu(b, nbi_build_name(b, "%s.relu", name), y);
}

static int classify(nbi_builder *b, int x) {
    return nbi_build_dense(b, "fc", nbi_build_global_pool(b, "pool", x), b->classes);
}

static int build_cifar(nbi_builder *b, const nbi_arch *row, int x) {
    int n = (row->depth - 2) / 6;
    x = nbi_build_conv_norm_relu(
        b, "conv1", x,
        (nbi_conv_spec){.channels = nbi_build_width(b, 16), .kernel = 3, .stride = 1});
    for (int stage = 0; stage < 3; stage++)
        for (int i = 0; i < n; i++)
            x = basic_block(b, nbi_build_name(b, "layer%d.%d", stage + 1, i), x,
                            nbi_build_width(b, 16 << stage), stage && !i ? 2 : 1);
    return classify(b, x);
}

static int build_imagenet(nbi_builder *b, const nbi_arch *row, int x) {
    static const int blocks[2][4] = {{2, 2, 2, 2}, {3, 4, 6, 3}};
    bool deep = row->depth >= 50;
    x = nbi_build_conv_norm_relu(
        b, "conv1", x,
        (nbi_conv_spec){.channels = nbi_build_width(b, 64), .kernel = 7, .stride = 2});
    x = nbi_build_maxpool(b, "maxpool", x, 3, 2, 1);
    for (int stage = 0; stage < 4; stage++)
        for (int i = 0; i < blocks[deep][stage]; i++) {
            const char *name = nbi_build_name(b, "layer%d.%d", stage + 1, i);
            int channels = nbi_build_width(b, 64 << stage), stride = stage && !i ? 2 : 1;
            x = deep ? bottleneck(b, name, x, channels, stride)
                     : basic_block(b, name, x, channels, stride);
        }
    return classify(b, x);
}

#define CIFAR .rank = 3, .input = {3, 32, 32}, .classes = 10, .build = build_cifar
#define IMAGENET .rank = 3, .input = {3, 224, 224}, .classes = 1000, .build = build_imagenet
const nbi_arch nbi_arch_resnet8 = {
    .name = "resnet8", .help = "CIFAR ResNet, 1x1 shortcuts: 78,042 parameters", .depth = 8, CIFAR};
const nbi_arch nbi_arch_resnet20 = {.name = "resnet20",
                                    .help = "CIFAR ResNet, 1x1 shortcuts: 272,474 parameters",
                                    .depth = 20,
                                    CIFAR};
const nbi_arch nbi_arch_resnet32 = {.name = "resnet32",
                                    .help = "CIFAR ResNet, 1x1 shortcuts: 466,906 parameters",
                                    .depth = 32,
                                    CIFAR};
const nbi_arch nbi_arch_resnet44 = {.name = "resnet44",
                                    .help = "CIFAR ResNet, 1x1 shortcuts: 661,338 parameters",
                                    .depth = 44,
                                    CIFAR};
const nbi_arch nbi_arch_resnet56 = {.name = "resnet56",
                                    .help = "CIFAR ResNet, 1x1 shortcuts: 855,770 parameters",
                                    .depth = 56,
                                    CIFAR};
const nbi_arch nbi_arch_resnet18 = {.name = "resnet18",
                                    .help = "ImageNet ResNet: 11,689,512 parameters",
                                    .depth = 18,
                                    IMAGENET};
const nbi_arch nbi_arch_resnet50 = {.name = "resnet50",
                                    .help = "ImageNet ResNet: 25,557,032 parameters",
                                    .depth = 50,
                                    IMAGENET};
