/* study.db: every scored policy of every run in one SQLite file. A search is a deterministic
 * function of its seed and the scores, so resuming is running it again with this file as cache.
 * One thread at a time per study; several processes may share the file. Each record is its own
 * transaction: after kill -9 the file holds all trials that were recorded. */
#ifndef NIBBLE_SEARCH_STUDY_H
#define NIBBLE_SEARCH_STUDY_H

#include "search/search.h"

typedef struct nbi_study nbi_study;

typedef struct nbi_study_trial {
    long ordinal; /* 0, 1, … within the run */
    const uint8_t *policy;
    size_t n_policy;
    double score; /* may be INFINITY */
    double cost[NBI_COST_COUNT];
    double seconds;
} nbi_study_trial;

/* Opens or creates. A damaged file is NB_EFORMAT, a folder or file that cannot be written NB_EIO;
 * both name the file. Waits up to 10 s for another process's lock. */
nb_status nbi_study_open(nb_ctx *ctx, const char *path, nbi_study **out);
void nbi_study_close(nbi_study *study); /* NULL is allowed */

/* Makes `fingerprint` (a text key of model, data and options) the current run. An existing run is
 * continued when `resume`, else emptied. *known = trials that it already holds (may be NULL). */
nb_status nbi_study_begin(nb_ctx *ctx, nbi_study *study, const char *fingerprint, bool resume,
                          long *known);
/* The score of a policy in the current run. */
nb_status nbi_study_lookup(nb_ctx *ctx, nbi_study *study, const uint8_t *policy, size_t n,
                           bool *found, double *score);
/* Records a trial (its ordinal is given out here); a policy that is already there is left alone. */
nb_status nbi_study_record(nb_ctx *ctx, nbi_study *study, const nbi_study_trial *trial);
/* Calls fn for each trial of the current run in order; the pointers live during the call. */
typedef nb_status (*nbi_study_fn)(void *user, const nbi_study_trial *trial);
nb_status nbi_study_list(nb_ctx *ctx, nbi_study *study, nbi_study_fn fn, void *user);

/* The same for all other runs of the file whose policies have `n_policy` bytes, by run and order. */
nb_status nbi_study_others(nb_ctx *ctx, nbi_study *study, size_t n_policy, nbi_study_fn fn,
                           void *user);

/* Blobs by key within the run. Get: *data = NULL when absent; free with nbi_free. */
nb_status nbi_study_put(nb_ctx *ctx, nbi_study *study, const char *key, const void *data,
                        size_t size);
nb_status nbi_study_get(nb_ctx *ctx, nbi_study *study, const char *key, void **data,
                        size_t *size);

#endif
