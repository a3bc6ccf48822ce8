/* What the files of one fine-tuning share. */
#ifndef NIBBLE_API_TUNING_H
#define NIBBLE_API_TUNING_H

#include "api/finished.h"
#include "api/teacher.h"

#include "exec/exec.h"

#define NBI_STATISTICS_BATCHES 16 /* that a start and every epoch are judged with */
#define NBI_EPOCH_APART ((uint64_t)1 << 40) /* a draw of images that no epoch has */

typedef struct nbi_tuning {
    nbi_session *s;
    nbi_qat *qat, *simulated;
    nbi_batches *batches;
    nbi_teacher teacher;
    nbi_tape *tape;       /* of the simulated network */
    float *input;
    nbi_images judges;
    float *reference; /* float outputs on them, once asked for */
    size_t reference_count;
    nbi_metrics deployed, sim;
    json_t *epochs;
    nbi_tuned_info from; /* id: a name of nbi_tune_start, or of the file of trained values */
    double before;       /* merit of what there was; NAN: it does not count */
    double kept;         /* % of images whose class is the float network's before training; NAN */
} nbi_tuning;

/* ---- finetune_judge.c: the integer program on validation images ------------------------------- */

nb_status nbi_tuning_deploy(nbi_tuning *t, nbi_frozen **frozen, nbi_program **program);
/* t->deployed and its merit (more is better); `simulation`: t->sim, too. */
nb_status nbi_tuning_judge(nbi_tuning *t, const nbi_program *program, bool simulation, double *metric);
/* Both of what t->qat holds now. */
nb_status nbi_tuning_evaluate(nb_ctx *ctx, void *tuning, double *metric);
/* t->before, once: of trained values as they are, or of the policy as the search left it. */
nb_status nbi_tuning_judge_before(nbi_tuning *t, const nbi_choice *bits);
double nbi_tuning_merit(const nbi_session *s, const nbi_metrics *m);
const char *nbi_tuning_merit_name(const nbi_session *s);

/* ---- finetune_start.c: what training starts from ---------------------------------------------- */

/* Makes t->qat and t->from; needs judges and batches. */
nb_status nbi_tuning_start(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                           nbi_tune_start *start);
/* The graph of a policy, to be filled by a start, or by nbi_qat_copy. */
nb_status nbi_tuning_graph(nbi_tuning *t, const nbi_choice *bits, const nbi_qat_options *o,
                           nbi_tune_start start, nbi_qat **out);
const char *nbi_tuning_start_text(const nbi_tuning *t);
bool nbi_tuning_is_start(const char *id); /* else of a file of trained values */

#endif
