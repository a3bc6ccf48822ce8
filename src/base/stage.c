/* A journal of one step: the rename from .next to .done is the moment from which on the new files
 * count. Moving a file is a rename, too, and until it has been moved it still lies in .done. Folders
 * are merged: the other files in c/ are the user's. */
#include "base/stage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH = 4 }; /* of folders in results: c/ holds files only */

static nb_status join(nb_ctx *ctx, nbi_buf *out, const char *folder, const char *name) {
    out->size = 0;
    return nbi_buf_printf(ctx, out, "%s/%s", folder, name);
}

static nb_status remove_tree(nb_ctx *ctx, const char *path, int depth) {
    struct stat info;
    nbi_arena arena = {0};
    nbi_buf child = {0};
    const char **names = NULL;
    size_t n = 0;
    nb_status st = NB_OK;
    if (lstat(path, &info) != 0) return NB_OK;
    if (!S_ISDIR(info.st_mode)) {
        if (unlink(path) != 0)
            st = nb_fail(ctx, NB_EIO, "cannot remove '%s': %s", path, strerror(errno));
        return st;
    }
    if (depth == 0) return nb_fail(ctx, NB_EIO, "'%s' is nested too deeply", path);
    NB_TRYG(nbi_folder_list(ctx, path, &arena, &names, &n));
    for (size_t i = 0; i < n; i++) {
        NB_TRYG(join(ctx, &child, path, names[i]));
        NB_TRYG(remove_tree(ctx, child.data, depth - 1));
    }
    if (rmdir(path) != 0)
        st = nb_fail(ctx, NB_EIO, "cannot remove '%s': %s", path, strerror(errno));
done:
    nbi_buf_free(&child);
    nbi_arena_free(&arena);
    return st;
}

static nb_status merge(nb_ctx *ctx, const char *from, const char *to);

static nb_status move_entry(nb_ctx *ctx, const char *from, const char *to) {
    struct stat new, old;
    if (lstat(from, &new) == 0 && S_ISDIR(new.st_mode) && lstat(to, &old) == 0) {
        if (S_ISDIR(old.st_mode)) return merge(ctx, from, to);
        /* a link: what it leads to may be on another file system, where nothing can be renamed to */
        NB_TRY(remove_tree(ctx, to, 0));
    }
    if (rename(from, to) == 0) return NB_OK;
    return nb_fail(ctx, NB_EIO, "writing '%s' failed: %s", to, strerror(errno));
}

/* Moves what is in one folder into another, where everything else stays. */
static nb_status merge(nb_ctx *ctx, const char *from, const char *to) {
    nbi_arena arena = {0};
    nbi_buf source = {0}, target = {0};
    const char **names = NULL;
    size_t n = 0;
    nb_status st;
    NB_TRYG(nbi_folder_list(ctx, from, &arena, &names, &n));
    for (size_t i = 0; i < n; i++) {
        NB_TRYG(join(ctx, &source, from, names[i]));
        NB_TRYG(join(ctx, &target, to, names[i]));
        NB_TRYG(move_entry(ctx, source.data, target.data));
    }
done:
    nbi_buf_free(&source);
    nbi_buf_free(&target);
    nbi_arena_free(&arena);
    return st;
}

static nb_status move_all(nb_ctx *ctx, const char *done, const char *folder) {
    NB_TRY(merge(ctx, done, folder));
    return remove_tree(ctx, done, DEPTH);
}

nb_status nbi_stage_recover(nb_ctx *ctx, const char *folder) {
    nbi_buf path = {0};
    nb_status st;
    NB_TRYG(join(ctx, &path, folder, ".done"));
    if (nbi_is_folder(path.data)) NB_TRYG(move_all(ctx, path.data, folder));
    NB_TRYG(join(ctx, &path, folder, ".next"));
    st = remove_tree(ctx, path.data, DEPTH);
done:
    nbi_buf_free(&path);
    return st;
}

nb_status nbi_stage_begin(nb_ctx *ctx, const char *folder, nbi_buf *path) {
    NB_TRY(nbi_stage_recover(ctx, folder));
    NB_TRY(nbi_buf_printf(ctx, path, "%s/.next", folder));
    return nbi_make_folder(ctx, path->data);
}

nb_status nbi_stage_publish(nb_ctx *ctx, const char *folder) {
    nbi_buf next = {0}, done = {0};
    nb_status st;
    NB_TRYG(join(ctx, &next, folder, ".next"));
    NB_TRYG(join(ctx, &done, folder, ".done"));
    if (rename(next.data, done.data) != 0) {
        st = nb_fail(ctx, NB_EIO, "writing '%s' failed: %s", folder, strerror(errno));
        goto done;
    }
    st = move_all(ctx, done.data, folder);
done:
    nbi_buf_free(&next);
    nbi_buf_free(&done);
    return st;
}

void nbi_stage_drop(const char *folder) {
    nbi_buf path = {0};
    if (join(NULL, &path, folder, ".next") == NB_OK) (void)remove_tree(NULL, path.data, DEPTH);
    nbi_buf_free(&path);
}
