/* Writing .npz files: members as numpy has them, at most 4 of 128 KiB. */
#ifndef NPZ_FILE_H
#define NPZ_FILE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <zip.h>

static inline size_t npz_member(uint8_t *out, const char *type, const char *shape, const void *data,
                  size_t size) {
    char dict[128];
    int n = snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                     type, shape);
    size_t length = ((size_t)n + 1 + 10 + 63) / 64 * 64 - 10;
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = (uint8_t)length;
    out[9] = 0;
    memset(out + 10, ' ', length);
    memcpy(out + 10, dict, (size_t)n);
    out[9 + length] = '\n';
    if (size) memcpy(out + 10 + length, data, size);
    return 10 + length + size;
}

typedef struct npz_entry {
    const char *name, *type, *shape;
    const void *data;
    size_t size;
} npz_entry;

static inline void npz_write(const char *path, const npz_entry *e, int n, bool deflated) {
    static uint8_t bytes[4][1 << 17];
    zip_t *z = zip_open(path, ZIP_CREATE | ZIP_TRUNCATE, NULL);
    assert_non_null(z);
    for (int i = 0; i < n; i++) {
        size_t size = npz_member(bytes[i], e[i].type, e[i].shape, e[i].data, e[i].size);
        zip_int64_t k = zip_file_add(z, e[i].name, zip_source_buffer(z, bytes[i], size, 0), 0);
        assert_true(k >= 0);
        zip_set_file_compression(z, (zip_uint64_t)k, deflated ? ZIP_CM_DEFLATE : ZIP_CM_STORE, 0);
    }
    assert_int_equal(zip_close(z), 0);
}

#endif
