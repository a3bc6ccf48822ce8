/* A finished run: what results.json keeps so that it can be gone on with, and the trained values. */
#ifndef NIBBLE_API_FINISHED_H
#define NIBBLE_API_FINISHED_H

#include "api/session.h"

/* Content of a model: its nodes, their wiring, its constants; not where the file lies. */
uint64_t nbi_graph_hash(const nbi_graph *graph);
/* As 16 hexadecimal digits. */
void nbi_hash_text(uint64_t hash, char out[20]);
/* Of a policy: what every site got. */
uint64_t nbi_policy_hash(const nbi_session *s, const nbi_choice *bits);

/* What the session was asked for, by which nbi_run_read makes the same session again. */
json_t *nbi_run_settings(const nbi_session *s);

typedef struct nbi_run {
    json_t *results;         /* results.json; the texts in `options` live in it */
    nb_quantize_options options; /* output and what belongs to one fine-tuning are not set */
    const char **rules;
    const char *model, *hash; /* the float model: path, nbi_graph_hash */
    uint64_t seed;
} nbi_run;
/* NB_EFORMAT: no finished run, or one of another version. */
nb_status nbi_run_read(nb_ctx *ctx, const char *folder, nbi_run *out);
void nbi_run_free(nbi_run *run); /* a zeroed one is allowed */

/* ---- tuned.npz ------------------------------------------------------------------------------- */

typedef struct nbi_tuned_info {
    int epochs;      /* trained, over all fine-tunings */
    char id[20];     /* of the file's content; set by nbi_tuned_load */
    char origin[20]; /* id of what an unfinished fine-tuning started from, "" where it is finished */
    int origin_epochs; /* behind that */
    double origin_merit; /* of that, on validation images; NAN: it did not count */
} nbi_tuned_info;
/* Everything that was trained, as floats, under s->o->output. */
nb_status nbi_tuned_save(nbi_session *s, const nbi_qat *qat, const nbi_tuned_info *info);
/* NB_EINVAL: of another model or policy. On failure some values may have been read. */
nb_status nbi_tuned_load(nbi_session *s, const char *path, const nbi_choice *bits,
                         const nbi_qat *qat, nbi_tuned_info *info);

#endif
