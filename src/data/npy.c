/* .npz through libzip. An entry's claimed size is believed only as far as its compressed size
 * allows (deflate packs at most 1032:1), that one as far as the file's length does, and the array's
 * shape must account for every byte. */
#include "data/npy.h"
#include "data/dataset.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zip.h>

enum { DEFLATE_RATIO = 1100 };
#define ENTRY_MAX ((uint64_t)8 << 30)

nb_status nbi_npz_open(nb_ctx *ctx, const char *path, nbi_npz *out) {
    int code = 0;
    nbi_npz npz = {.path = path};
    nb_status st = NB_OK;
    npz.zip = zip_open(path, ZIP_RDONLY, &code);
    if (!npz.zip) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        st = nb_fail(ctx, NB_EFORMAT, "'%s' is not a readable .npz: %s", path,
                     zip_error_strerror(&error));
        zip_error_fini(&error);
        return st;
    }
    nbi_file file = {0};
    NB_TRYG(nbi_file_open(ctx, path, &file));
    npz.bytes = file.size;
    nbi_file_close(&file);
    zip_int64_t entries = zip_get_num_entries(npz.zip, 0);
    if (entries <= 0 || entries > NBI_NPZ_ARRAYS_MAX) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s' holds %lld arrays, want 1..%d", path,
                     (long long)entries, NBI_NPZ_ARRAYS_MAX);
        goto done;
    }
    npz.names = nbi_arena_alloc(&npz.arena, (size_t)entries, sizeof *npz.names);
    if (!npz.names) {
        st = nb_fail_memory(ctx, (size_t)entries * sizeof *npz.names);
        goto done;
    }
    for (zip_int64_t i = 0; i < entries; i++) {
        const char *name = zip_get_name(npz.zip, (zip_uint64_t)i, 0);
        if (!name || !nbi_name_ends(name, ".npy")) continue;
        char *copy = nbi_arena_text(&npz.arena, name, strlen(name) - 4);
        if (!copy) {
            st = nb_fail_memory(ctx, strlen(name));
            goto done;
        }
        npz.names[npz.n++] = copy;
    }
    *out = npz;
    return NB_OK;
done:
    nbi_npz_close(&npz);
    return st;
}

void nbi_npz_close(nbi_npz *npz) {
    if (npz->zip) zip_discard(npz->zip);
    nbi_arena_free(&npz->arena);
    *npz = (nbi_npz){0};
}

bool nbi_npz_has(const nbi_npz *npz, const char *name) {
    for (size_t i = 0; i < npz->n; i++)
        if (strcmp(npz->names[i], name) == 0) return true;
    return false;
}

static nb_status read_entry(nb_ctx *ctx, nbi_npz *npz, const char *name, uint8_t **out,
                            size_t *out_size) {
    zip_stat_t info;
    zip_file_t *file = NULL;
    uint8_t *data = NULL;
    nb_status st = NB_OK;
    char *entry = nbi_arena_format(&npz->arena, "%s.npy", name);
    if (!entry) return nb_fail_memory(ctx, strlen(name));
    const zip_uint64_t want = ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE;
    if (zip_stat(npz->zip, entry, 0, &info) != 0 || (info.valid & want) != want)
        return nb_fail(ctx, NB_EFORMAT, "'%s': no array '%s'", npz->path, name);
    if (info.size > ENTRY_MAX || info.size / DEFLATE_RATIO > info.comp_size ||
        info.comp_size > npz->bytes)
        return nb_fail(ctx, NB_EFORMAT, "'%s': array '%s' claims %llu bytes from %llu compressed, "
                       "in a file of %llu", npz->path, name, (unsigned long long)info.size,
                       (unsigned long long)info.comp_size, (unsigned long long)npz->bytes);
    NB_TRYG(nbi_alloc(ctx, (size_t)info.size + 1, 1, &data));
    file = zip_fopen(npz->zip, entry, 0);
    zip_int64_t got = file ? zip_fread(file, data, info.size) : -1;
    if (got < 0 || (zip_uint64_t)got != info.size) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s': array '%s': %s", npz->path, name,
                     file ? "damaged or truncated data" : zip_strerror(npz->zip));
        goto done;
    }
    *out = data;
    *out_size = (size_t)info.size;
    data = NULL;
done:
    if (file) zip_fclose(file);
    nbi_free(data);
    return st;
}

/* The text after 'key': in the header's dict, or NULL. */
static const char *find_key(const char *dict, const char *key) {
    const char *at = strstr(dict, key);
    if (!at) return NULL;
    at += strlen(key);
    while (*at == ' ') at++;
    if (*at++ != ':') return NULL;
    while (*at == ' ') at++;
    return at;
}

/* "'<f4'" → kind, size, byte order. */
static bool parse_type(const char *text, nbi_npy *a) {
    if (!text || *text++ != '\'') return false;
    if (*text != '<' && *text != '>' && *text != '|' && *text != '=') return false;
    a->swap = *text++ == '>';
    a->kind = *text++;
    if (*text < '1' || *text > '8' || text[1] != '\'') return false;
    a->item_bytes = (size_t)(*text - '0');
    size_t b = a->item_bytes;
    if (a->kind == 'b') return b == 1;
    if (a->kind == 'f') return b == 2 || b == 4 || b == 8;
    return (a->kind == 'i' || a->kind == 'u') && (b == 1 || b == 2 || b == 4 || b == 8);
}

/* "(3, 4, )" → rank, shape, items. */
static bool parse_shape(const char *text, nbi_npy *a) {
    if (!text || *text++ != '(') return false;
    a->items = 1;
    for (a->rank = 0;; text++) {
        while (*text == ' ') text++;
        if (*text == ')') return true;
        if (*text < '0' || *text > '9' || a->rank == NBI_NPY_RANK_MAX) return false;
        char *end;
        unsigned long long n = strtoull(text, &end, 10);
        if (n > ENTRY_MAX || !nbi_mul_size(a->items, (size_t)n, &a->items)) return false;
        a->shape[a->rank++] = (size_t)n;
        for (text = end; *text == ' ';) text++;
        if (*text == ')') return true;
        if (*text != ',') return false;
    }
}

static nb_status parse_array(nb_ctx *ctx, const char *path, size_t size, nbi_npy *a) {
    static const uint8_t magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    const uint8_t *f = a->file;
    size_t bytes;
    if (size < 12 || memcmp(f, magic, sizeof magic) != 0 || f[6] < 1 || f[6] > 3)
        return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' is no .npy array of version 1 to 3", path,
                       a->name);
    size_t start = f[6] == 1 ? 10 : 12, length = (size_t)f[8] | (size_t)f[9] << 8;
    if (f[6] > 1) length |= (size_t)f[10] << 16 | (size_t)f[11] << 24;
    if (length == 0 || length > size - start || length > 65536)
        return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' has a header of %zu bytes in an entry of %zu",
                       path, a->name, length, size);
    a->file[start + length - 1] = 0; /* the header's final newline: now a C string */
    const char *dict = (const char *)f + start;
    const char *order = find_key(dict, "'fortran_order'");
    if (!parse_type(find_key(dict, "'descr'"), a))
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "'%s': '%s' has a dtype other than bool, int, uint or float: %s", path,
                       a->name, dict);
    if (!parse_shape(find_key(dict, "'shape'"), a) || !order)
        return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' has a bad header: %s", path, a->name, dict);
    if (strncmp(order, "False", 5) != 0 && a->rank > 1)
        return nb_fail(ctx, NB_EUNSUPPORTED,
                       "'%s': '%s' is in Fortran order, want C order (numpy.ascontiguousarray)",
                       path, a->name);
    if (!nbi_mul_size(a->items, a->item_bytes, &bytes) || bytes != size - start - length)
        return nb_fail(ctx, NB_EFORMAT, "'%s': '%s' has %zu bytes of data, its shape says %zu",
                       path, a->name, size - start - length, a->items * a->item_bytes);
    a->data = f + start + length;
    return NB_OK;
}

nb_status nbi_npz_read(nb_ctx *ctx, nbi_npz *npz, const char *name, nbi_npy *out) {
    nbi_npy a = {.name = name};
    size_t size = 0;
    NB_TRY(read_entry(ctx, npz, name, &a.file, &size));
    nb_status st = parse_array(ctx, npz->path, size, &a);
    if (st != NB_OK)
        nbi_npy_free(&a);
    else
        *out = a;
    return st;
}

void nbi_npy_free(nbi_npy *array) {
    nbi_free(array->file);
    *array = (nbi_npy){0};
}

/* The bits of item i, zero-extended. */
static uint64_t bits_at(const nbi_npy *a, size_t i) {
    const uint8_t *p = a->data + i * a->item_bytes;
    uint64_t bits = 0;
    for (size_t b = 0; b < a->item_bytes; b++)
        bits |= (uint64_t)p[a->swap ? a->item_bytes - 1 - b : b] << (8 * b);
    return bits;
}

static double half_value(uint32_t bits) {
    int exponent = (int)(bits >> 10 & 31);
    double m = bits & 1023, v;
    if (exponent == 31)
        v = m != 0 ? (double)NAN : (double)INFINITY;
    else
        v = exponent ? ldexp(m + 1024, exponent - 25) : ldexp(m, -24);
    return bits >> 15 ? -v : v;
}

int64_t nbi_npy_integer(const nbi_npy *array, size_t i) {
    uint64_t bits = bits_at(array, i);
    if (array->kind != 'i') return bits > INT64_MAX ? INT64_MAX : (int64_t)bits;
    uint64_t sign = (uint64_t)1 << (8 * array->item_bytes - 1);
    /* two's complement by hand: the conversion of large unsigned values is not portable */
    return bits & sign ? -(int64_t)((sign - 1) - (bits & (sign - 1))) - 1 : (int64_t)bits;
}

double nbi_npy_real(const nbi_npy *array, size_t i) {
    if (array->kind == 'u' || array->kind == 'b') return (double)bits_at(array, i);
    if (array->kind == 'i') return (double)nbi_npy_integer(array, i);
    uint64_t bits = bits_at(array, i);
    if (array->item_bytes == 2) return half_value((uint32_t)bits);
    if (array->item_bytes == 4) {
        uint32_t word = (uint32_t)bits;
        float v;
        memcpy(&v, &word, sizeof v);
        return (double)v;
    }
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}
