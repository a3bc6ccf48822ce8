/* Whole-file reading with a size bound, and atomic writing (temporary file, fsync, rename). */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

nb_status nbi_file_read(nb_ctx *ctx, const char *path, size_t max_bytes, void **out_data,
                        size_t *out_size) {
    struct stat info;
    nb_status st = NB_OK;
    void *data = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return nb_fail(ctx, NB_EIO, "cannot open '%s': %s", path, strerror(errno));
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        st = nb_fail(ctx, NB_EIO, "'%s' is not a regular file", path);
        goto done;
    }
    if ((uint64_t)info.st_size > max_bytes) {
        st = nb_fail(ctx, NB_EFORMAT, "'%s' has %lld bytes, more than the %zu allowed here", path,
                     (long long)info.st_size, max_bytes);
        goto done;
    }
    size_t size = (size_t)info.st_size, got = 0;
    NB_TRYG(nbi_alloc(ctx, size + 1, 1, &data));
    while (got < size) {
        ssize_t n = read(fd, (char *)data + got, size - got);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            st = nb_fail(ctx, NB_EIO, "reading '%s' stopped at byte %zu of %zu: %s", path, got,
                         size, n < 0 ? strerror(errno) : "end of file");
            goto done;
        }
        got += (size_t)n;
    }
    *out_data = data;
    *out_size = size;
    data = NULL;
done:
    close(fd);
    nbi_free(data);
    return st;
}

nb_status nbi_file_write(nb_ctx *ctx, const char *path, const void *data, size_t size) {
    nbi_buf temp = {0};
    nb_status st;
    int fd = -1;
    struct stat info;
    /* renaming over a device or a folder would replace it, or fail late */
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return nb_fail(ctx, NB_EIO, "cannot write '%s': not a regular file", path);
    NB_TRYG(nbi_buf_printf(ctx, &temp, "%s.%ld.tmp", path, (long)getpid()));
    fd = open(temp.data, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        st = nb_fail(ctx, NB_EIO, "cannot write '%s': %s", path, strerror(errno));
        goto done;
    }
    for (size_t put = 0; put < size;) {
        ssize_t n = write(fd, (const char *)data + put, size - put);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            st = nb_fail(ctx, NB_EIO, "writing '%s' failed at byte %zu of %zu: %s", path, put, size,
                         n < 0 ? strerror(errno) : "nothing was written");
            goto done;
        }
        put += (size_t)n;
    }
    if (fsync(fd) != 0 && errno != EINVAL && errno != EROFS) {
        st = nb_fail(ctx, NB_EIO, "writing '%s' failed: %s", path, strerror(errno));
        goto done;
    }
    int closed = close(fd);
    fd = -1;
    if (closed != 0 || rename(temp.data, path) != 0)
        st = nb_fail(ctx, NB_EIO, "writing '%s' failed: %s", path, strerror(errno));
done:
    if (fd >= 0) close(fd);
    if (st != NB_OK && temp.data) unlink(temp.data);
    nbi_buf_free(&temp);
    return st;
}

nb_status nbi_make_folder(nb_ctx *ctx, const char *path) {
    nbi_buf part = {0};
    nb_status st = NB_OK;
    for (const char *p = path; *p; p++) {
        NB_TRYG(nbi_buf_append(ctx, &part, p, 1));
        if ((p[1] == '/' || !p[1]) && mkdir(part.data, 0777) != 0 && errno != EEXIST) {
            st = nb_fail(ctx, NB_EIO, "cannot make folder '%s': %s", path, strerror(errno));
            goto done;
        }
    }
    if (!nbi_is_folder(path)) st = nb_fail(ctx, NB_EIO, "'%s' is not a folder", path);
done:
    nbi_buf_free(&part);
    return st;
}

bool nbi_file_exists(const char *path) {
    struct stat info;
    return stat(path, &info) == 0;
}

bool nbi_is_folder(const char *path) {
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool nbi_same_file(const char *a, const char *b) {
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}
