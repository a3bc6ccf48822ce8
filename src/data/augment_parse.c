/* "crop,flip,cutout=8,mixup=0.2": the augmentation as it is written on a command line. */
#include "data/batches.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool is_word(const char *text, size_t n, const char *word) {
    return n == strlen(word) && !memcmp(text, word, n);
}

/* One item of n characters: a name, perhaps with "=number". */
static nb_status parse_item(nb_ctx *ctx, const char *text, size_t n, int side,
                            nbi_augmentation *a) {
    const char *equals = memchr(text, '=', n);
    size_t name = equals ? (size_t)(equals - text) : n;
    double value = 0;
    char *end = NULL;
    if (equals) value = strtod(equals + 1, &end);
    bool bad = equals && (end != text + n || !isfinite(value) || value <= 0 || value > 1000);
    bool takes_number = false;
    if (is_word(text, name, "crop")) {
        a->crop = true;
    } else if (is_word(text, name, "flip")) {
        a->flip = true;
    } else if (is_word(text, name, "cutout")) {
        a->cutout = equals && !bad ? (int)value : side / 2;
        bad |= a->cutout < 1;
        takes_number = true;
    } else if (is_word(text, name, "mixup")) {
        a->mixup = equals ? value : 0.2;
        takes_number = true;
    } else if (is_word(text, name, "cutmix")) {
        a->cutmix = equals ? value : 1;
        takes_number = true;
    } else {
        return nb_fail(ctx, NB_EINVAL,
                       "augment: '%.*s' is not crop, flip, cutout, mixup, cutmix or none", (int)n,
                       text);
    }
    if (bad || (equals && !takes_number))
        return nb_fail(ctx, NB_EINVAL, "augment: '%.*s' has a wrong number", (int)n, text);
    return NB_OK;
}

nb_status nbi_augmentation_parse(nb_ctx *ctx, const char *text, const nbi_dataset_info *info,
                                 nbi_augmentation *out) {
    nbi_augmentation a = {0};
    int side = info->height < info->width ? info->height : info->width;
    if (!text) {
        *out = (nbi_augmentation){.crop = info->is_image,
                                  .flip = info->is_image && info->is_flip_safe};
        return NB_OK;
    }
    if (strcmp(text, "none") != 0)
        for (const char *at = text;;) {
            size_t n = strcspn(at, ",");
            NB_TRY(parse_item(ctx, at, n, side, &a));
            if (!at[n]) break;
            at += n + 1;
        }
    if (!info->is_image && (a.crop || a.flip || a.cutout || a.cutmix > 0))
        return nb_fail(ctx, NB_EINVAL, "augment: '%s': crop, flip, cutout and cutmix are for images",
                       text);
    *out = a;
    return NB_OK;
}
