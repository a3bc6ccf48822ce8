/* Replacing several files of a folder together: they are written into FOLDER/.next; once all are
 * there it becomes FOLDER/.done, whose entries are moved into place. What is killed before that
 * leaves the folder as it was; what is killed while moving is finished by the next call. */
#ifndef NIBBLE_BASE_STAGE_H
#define NIBBLE_BASE_STAGE_H

#include "base/base.h"

/* Finishes what was interrupted while moving, removes what was interrupted before. NB_OK where
 * there is nothing to do, or no folder. */
nb_status nbi_stage_recover(nb_ctx *ctx, const char *folder);
/* Recovers, then makes an empty FOLDER/.next; its path is appended to `path`. */
nb_status nbi_stage_begin(nb_ctx *ctx, const char *folder, nbi_buf *path);
/* Every file in FOLDER/.next replaces the one of its name in `folder`; other files stay, in the
 * folders of both, too. */
nb_status nbi_stage_publish(nb_ctx *ctx, const char *folder);
/* Removes FOLDER/.next, if it is there; after a failure, whose message stays. */
void nbi_stage_drop(const char *folder);

#endif
