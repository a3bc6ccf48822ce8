/* Listing folders, and reading files at offsets (pread: any thread, no shared position; unlike a
 * mapping, a file that shrinks while it is read is an error and not a signal). */
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int compare_names(const void *a, const void *b) {
    const char *const *x = a, *const *y = b;
    return strcmp(*x, *y);
}

nb_status nbi_folder_list(nb_ctx *ctx, const char *path, nbi_arena *arena, const char ***out_names,
                          size_t *out_n) {
    nb_status st = NB_OK;
    const char **found = NULL, **names = NULL;
    size_t n = 0, capacity = 0;
    DIR *dir = opendir(path);
    if (!dir) return nb_fail(ctx, NB_EIO, "cannot list '%s': %s", path, strerror(errno));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        if (n == NBI_FOLDER_MAX) {
            st = nb_fail(ctx, NB_EFORMAT, "'%s' holds more than %d names", path, NBI_FOLDER_MAX);
            goto done;
        }
        if (n == capacity) {
            NB_TRYG(nbi_grow(ctx, &found, n, capacity ? 2 * capacity : 64, sizeof *found));
            capacity = capacity ? 2 * capacity : 64;
        }
        found[n] = nbi_arena_text(arena, entry->d_name, strlen(entry->d_name));
        if (!found[n++]) {
            st = nb_fail_memory(ctx, strlen(entry->d_name));
            goto done;
        }
    }
    if (n) {
        qsort(found, n, sizeof *found, compare_names);
        names = nbi_arena_alloc(arena, n, sizeof *names);
        if (!names) {
            st = nb_fail_memory(ctx, n * sizeof *names);
            goto done;
        }
        memcpy(names, found, n * sizeof *names);
    }
    *out_names = names;
    *out_n = n;
done:
    closedir(dir);
    nbi_free(found);
    return st;
}

nb_status nbi_file_open(nb_ctx *ctx, const char *path, nbi_file *out) {
    struct stat info;
    nb_status st;
    char *copy = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nb_fail(ctx, NB_EIO, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        st = nb_fail(ctx, NB_EIO, "'%s' is not a regular file", path);
        goto done;
    }
    NB_TRYG(nbi_alloc(ctx, strlen(path) + 1, 1, &copy));
    memcpy(copy, path, strlen(path));
    *out = (nbi_file){.fd = fd, .size = (uint64_t)info.st_size, .path = copy};
    return NB_OK;
done:
    close(fd);
    return st;
}

nb_status nbi_file_read_at(nb_ctx *ctx, const nbi_file *file, uint64_t offset, void *out,
                           size_t size) {
    for (size_t got = 0; got < size;) {
        ssize_t n = pread(file->fd, (char *)out + got, size - got, (off_t)(offset + got));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0)
            return nb_fail(ctx, NB_EIO, "reading '%s' stopped at byte %llu: %s", file->path,
                           (unsigned long long)(offset + got),
                           n < 0 ? strerror(errno) : "end of file");
        got += (size_t)n;
    }
    return NB_OK;
}

void nbi_file_close(nbi_file *file) {
    if (!file->path) return;
    close(file->fd);
    nbi_free(file->path);
    *file = (nbi_file){0};
}
