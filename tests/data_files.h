/* Files for the tests of data readers: a temporary folder, bytes, zip archives, .npy entries. */
#ifndef NIBBLE_TESTS_DATA_FILES_H
#define NIBBLE_TESTS_DATA_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "data/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct place {
    nb_ctx *ctx;
    char folder[64];
    char path[8][256]; /* ring of results of at() */
    int next;
} place;

static inline int place_setup(void **state) {
    place *p = calloc(1, sizeof *p);
    p->ctx = nb_ctx_new();
    strcpy(p->folder, "/tmp/nibble-data-XXXXXX");
    assert_non_null(mkdtemp(p->folder));
    *state = p;
    return 0;
}

static inline int place_teardown(void **state) {
    place *p = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", p->folder);
    int rc = system(command);
    nb_ctx_free(p->ctx);
    free(p);
    return rc;
}

/* folder/name; valid for the next 7 calls. */
static inline const char *at(place *p, const char *name) {
    char *out = p->path[p->next++ % 8];
    snprintf(out, sizeof p->path[0], "%s/%s", p->folder, name);
    return out;
}

/* Writes a file, making its folder. */
static inline void put(place *p, const char *name, const void *data, size_t size) {
    char folder[256];
    snprintf(folder, sizeof folder, "%s", at(p, name));
    *strrchr(folder, '/') = 0;
    assert_int_equal(nbi_make_folder(p->ctx, folder), NB_OK);
    assert_int_equal(nbi_file_write(p->ctx, at(p, name), data, size), NB_OK);
}

static inline nb_status open_at(place *p, const char *name, nbi_dataset **out) {
    nbi_data_options o = {.path = at(p, name)};
    return nbi_dataset_open(p->ctx, &o, out);
}

/* Opens, wants `status` and `words` in the message. */
static inline void refuse(place *p, const char *name, nb_status status, const char *words) {
    nbi_dataset *data = NULL;
    nb_status st = open_at(p, name, &data);
    if (st != status || !strstr(nb_ctx_message(p->ctx), words))
        print_error("%s: status %d, message: %s\n", name, (int)st, nb_ctx_message(p->ctx));
    assert_int_equal(st, status);
    assert_null(data);
    assert_non_null(strstr(nb_ctx_message(p->ctx), words));
}

#endif
