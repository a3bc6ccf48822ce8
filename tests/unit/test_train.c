/* Training a small ResNet on drawn glyphs: the loss falls; a run that is stopped and resumed ends
 * with the bytes of one that was not; checkpoints of something else, full disks and divergence. */
#include "data_files.h"

#include "data/npy.h"
#include "hyper/arch.h"
#include "train/checkpoint.h"
#include "train/loop.h"
#include "train/prepare.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

enum { BATCH = 8, IMAGES = 40 };

/* One training with everything on, in pieces. */
typedef struct rig {
    nbi_training *training;
    nbi_dataset *data;
    nbi_batches *batches;
    nbi_loop_param *param;
    nbi_loop_spec spec;
    int stop_at; /* after so many evaluations; 0: never */
    int judged, saved;
    double last_loss, first_loss;
} rig;

static nb_status evaluate(nb_ctx *ctx, void *user, double *metric) {
    rig *r = user;
    if (r->stop_at && ++r->judged == r->stop_at) nb_ctx_cancel(ctx);
    *metric = r->judged == 2 ? -1 : r->judged; /* epoch 2 is worse than epoch 1 */
    return NB_OK;
}

static nb_status improved(nb_ctx *ctx, void *user) {
    (void)ctx;
    ((rig *)user)->saved++;
    return NB_OK;
}

static void line(nb_ctx *ctx, void *user, const nbi_epoch_line *l) {
    rig *r = user;
    (void)ctx;
    if (l->epoch == 1) r->first_loss = l->loss;
    r->last_loss = l->loss;
    assert_true(isfinite(l->loss) && l->seconds >= 0 && l->left >= 0);
}

static void open_rig(place *p, rig *r, const char *arch, int epochs) {
    nbi_arch_options o = {.width = 0.5, .seed = 1};
    nbi_data_options d = {.path = "builtin:glyphs", .limit = IMAGES};
    nbi_graph *g;
    *r = (rig){0};
    nb_ctx_set_threads(p->ctx, 1);
    assert_int_equal(nbi_arch_build(p->ctx, arch, &o, &g), NB_OK);
    nbi_training_options t = {.batch = BATCH};
    nb_status st = nbi_training_new(p->ctx, g, &t, &r->training);
    if (st != NB_OK) print_error("%s\n", nb_ctx_message(p->ctx));
    assert_int_equal(st, NB_OK);
    nbi_graph_free(g);
    assert_int_equal(nbi_dataset_open(p->ctx, &d, &r->data), NB_OK);
    nbi_batches_spec b = {.data = r->data, .batch = BATCH, .classes = 10, .smoothing = 0.1};
    nbi_transform_default(&b.transform);
    b.augment.crop = true;
    b.augment.mixup = 0.2;
    assert_int_equal(nbi_batches_new(p->ctx, &b, &r->batches), NB_OK);
    size_t n = (size_t)r->training->n_trained;
    assert_int_equal(nbi_alloc(p->ctx, n, sizeof *r->param, &r->param), NB_OK);
    for (size_t i = 0; i < n; i++) {
        bool kernel = r->training->trained[i].role == NBI_ROLE_KERNEL;
        r->param[i] = (nbi_loop_param){
            .tensor = r->training->trained[i].tensor, .lr = 1, .decay = kernel ? 1e-3f : 0};
    }
    r->spec = (nbi_loop_spec){.graph = r->training->graph,
                              .n_params = (int)n,
                              .param = r->param,
                              .n_losses = 1,
                              .loss = r->training->loss,
                              .n_states = r->training->n_states,
                              .state = r->training->state,
                              .batches = r->batches,
                              .epochs = epochs,
                              .optimizer = nbi_optimizer_options_default(),
                              .schedule = {.kind = NBI_LR_COSINE, .lr = 0.05},
                              .warmup = 0.5,
                              .ema = 0.9f,
                              .user = r,
                              .line = line};
}

static void close_rig(rig *r) {
    nbi_training_free(r->training);
    nbi_batches_free(r->batches);
    nbi_dataset_free(r->data);
    nbi_free(r->param);
}

static nb_status train(place *p, rig *r, nbi_loop_result *out) {
    nb_status st = nbi_loop_run(p->ctx, &r->spec, out);
    if (st != NB_OK) print_message("%s\n", nb_ctx_message(p->ctx));
    return st;
}

/* A hash of all values, running statistics too. */
static uint64_t fingerprint(const rig *r) {
    uint64_t h = NBI_HASH_START;
    const nbi_training *t = r->training;
    for (int i = 0; i < t->n_trained + t->n_states; i++) {
        int x = i < t->n_trained ? t->trained[i].tensor : t->state[i - t->n_trained].to;
        const nbi_tensor *v = t->graph->tensor[x];
        h = nbi_hash(h, v->data, (size_t)nbi_tensor_count(v) * sizeof(float));
    }
    return h;
}

static void the_loss_falls(void **state) {
    place *p = *state;
    rig r;
    nbi_loop_result out;
    open_rig(p, &r, "resnet8", 4);
    assert_int_equal(train(p, &r, &out), NB_OK);
    assert_int_equal(out.epochs, 4);
    assert_int_equal(out.best_epoch, 4);
    assert_true(out.images_per_second > 0 && !out.stopped);
    assert_true(r.last_loss < r.first_loss);
    assert_true(r.first_loss < 4); /* ten classes: ln 10 = 2.3 by guessing */
    /* the values go back into the model, running statistics included */
    nbi_training_publish(r.training);
    int x = r.training->state[0].to;
    const float *mean = r.training->model->tensor[x]->data;
    assert_true(mean[0] != 0);
    assert_memory_equal(mean, r.training->graph->tensor[x]->data, sizeof *mean);
    close_rig(&r);
}

/* Every second parameter rests in the first step and in every second one after it. */
static nb_status take_turns(nb_ctx *ctx, void *user, uint64_t step, uint64_t steps, double lr,
                            nbi_param *params) {
    const rig *r = user;
    (void)ctx, (void)steps, (void)lr;
    for (int i = 1; i < r->spec.n_params; i += 2) params[i].lr = step & 1 ? 1.0f : 0.0f;
    return NB_OK;
}

static void use_optimizer(rig *r, nbi_optimizer_kind kind) {
    r->spec.optimizer.kind = kind;
    r->spec.schedule.lr = kind == NBI_SGD ? 0.05 : 0.002;
    r->spec.step_user = r;
    r->spec.adjust = take_turns;
}

static uint64_t whole_run(place *p, nbi_optimizer_kind kind) {
    rig r;
    nbi_loop_result out;
    open_rig(p, &r, "resnet8", 3);
    use_optimizer(&r, kind);
    assert_int_equal(train(p, &r, &out), NB_OK);
    uint64_t h = fingerprint(&r);
    close_rig(&r);
    return h;
}

/* Stopped inside an epoch by the time limit, and in the evaluation of an epoch; then finished. */
static void resuming_changes_nothing(void **state) {
    place *p = *state;
    for (int kind = NBI_SGD; kind <= NBI_ADAM; kind++) {
        uint64_t want = whole_run(p, (nbi_optimizer_kind)kind);
        const char *path = at(p, "state.npz");
        nbi_loop_result out = {0};
        unlink(path);
        for (int piece = 0; piece < 3; piece++) {
            rig r;
            open_rig(p, &r, "resnet8", 3);
            use_optimizer(&r, (nbi_optimizer_kind)kind);
            r.spec.checkpoint = path;
            r.spec.resume = piece > 0;
            r.spec.checkpoint_seconds = 1e-6;
            if (piece == 0) r.spec.time_limit = 1e-4; /* one step */
            if (piece == 1) r.spec.line = NULL, r.spec.epochs = 3;
            assert_int_equal(train(p, &r, &out), NB_OK);
            assert_int_equal(out.stopped, piece == 0);
            if (piece == 0) assert_int_equal(out.epochs, 0);
            if (piece > 0) {
                assert_int_equal(out.epochs, 3);
                assert_true(fingerprint(&r) == want);
            }
            close_rig(&r);
        }
    }
}

static void stopping_keeps_the_best(void **state) {
    place *p = *state;
    const char *path = at(p, "stopped.npz");
    uint64_t hash[2];
    for (int piece = 0; piece < 2; piece++) { /* whole; stopped in the evaluation of epoch 2 */
        rig r;
        nbi_loop_result out;
        open_rig(p, &r, "resnet8", piece ? 3 : 1);
        r.spec.evaluate = evaluate;
        r.spec.improved = improved;
        r.spec.schedule.kind = NBI_LR_CONSTANT;
        r.spec.checkpoint = piece ? path : NULL;
        r.stop_at = piece ? 2 : 100;
        assert_int_equal(train(p, &r, &out), NB_OK);
        nb_ctx_clear_cancel(p->ctx);
        assert_int_equal(out.best_epoch, 1);
        assert_int_equal(r.saved, 1);
        assert_int_equal(out.stopped, piece);
        hash[piece] = fingerprint(&r);
        close_rig(&r);
    }
    assert_true(hash[0] == hash[1]);
}

static void others_checkpoints_are_refused(void **state) {
    place *p = *state;
    const char *path = at(p, "other.npz");
    nbi_pair data = {"data", "glyphs"}, other = {"data", "cifar"};
    nbi_loop_result out;
    rig r;
    open_rig(p, &r, "resnet8", 1);
    r.spec.checkpoint = path;
    r.spec.identity = &data;
    r.spec.n_identity = 1;
    assert_int_equal(train(p, &r, &out), NB_OK);
    r.spec.resume = true;
    r.spec.schedule.lr = 0.1;
    assert_int_equal(nbi_loop_run(p->ctx, &r.spec, &out), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "its lr is 0.05, here it is 0.1"));
    r.spec.schedule.lr = 0.05;
    r.spec.identity = &other;
    assert_int_equal(nbi_loop_run(p->ctx, &r.spec, &out), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "its data is glyphs, here it is cifar"));
    close_rig(&r);
    open_rig(p, &r, "vgg_small", 1);
    r.spec.checkpoint = path;
    r.spec.resume = true;
    assert_int_equal(nbi_loop_run(p->ctx, &r.spec, &out), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "another model"));
    put(p, "other.npz", "PK no more", 10);
    assert_int_equal(nbi_loop_run(p->ctx, &r.spec, &out), NB_EFORMAT);
    close_rig(&r);
}

static void divergence_is_told_by_name(void **state) {
    place *p = *state;
    nbi_loop_result out;
    rig r;
    open_rig(p, &r, "resnet8", 3);
    r.spec.checkpoint = at(p, "diverged.npz");
    r.spec.schedule.lr = 1e30;
    assert_int_equal(nbi_loop_run(p->ctx, &r.spec, &out), NB_ENUMERIC);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "epoch 1, step"));
    assert_non_null(strstr(nb_ctx_message(p->ctx), "first tensor: '"));
    assert_false(nbi_file_exists(at(p, "diverged.npz")));
    close_rig(&r);
}

/* The file's size limit stands for a full disk: write() fails with EFBIG. */
static void a_full_disk_keeps_the_old_checkpoint(void **state) {
    place *p = *state;
    const char *path = at(p, "full.npz");
    float v[1000] = {1};
    nbi_checkpoint_array a = {"value.0", v, 10};
    json_t *json = json_pack("{s:i}", "step", 7), *back = NULL;
    struct rlimit old, small;
    assert_int_equal(nbi_checkpoint_write(p->ctx, path, json, 1, &a), NB_OK);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){2000, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    a.count = 1000;
    assert_int_equal(nbi_checkpoint_write(p->ctx, path, json, 1, &a), NB_EIO);
    setrlimit(RLIMIT_FSIZE, &old);
    json_decref(json);
    a.count = 10;
    v[0] = 0;
    assert_int_equal(nbi_checkpoint_json(p->ctx, path, &back), NB_OK);
    assert_int_equal(json_integer_value(json_object_get(back, "step")), 7);
    json_decref(back);
    assert_int_equal(nbi_checkpoint_read(p->ctx, path, 1, &a), NB_OK);
    assert_true(v[0] == 1);
    a.count = 11;
    assert_int_equal(nbi_checkpoint_read(p->ctx, path, 1, &a), NB_EFORMAT);
    assert_non_null(strstr(nb_ctx_message(p->ctx), "value.0"));
}

/* As many as can be written, the JSON counts as one. */
static void many_arrays_are_read_again(void **state) {
    place *p = *state;
    enum { N = NBI_NPZ_ARRAYS_MAX - 1 };
    const char *path = at(p, "many.npz");
    float *v = calloc(N + 1, sizeof *v);
    nbi_checkpoint_array *a = calloc(N + 1, sizeof *a);
    json_t *json = json_pack("{s:i}", "step", 7);
    for (int i = 0; i <= N; i++) {
        snprintf(a[i].name, sizeof a[i].name, "value.%d", i);
        a[i].data = &v[i];
        a[i].count = 1;
        v[i] = (float)i;
    }
    assert_int_equal(nbi_checkpoint_write(p->ctx, path, json, N + 1, a), NB_EUNSUPPORTED);
    assert_int_equal(nbi_checkpoint_write(p->ctx, path, json, N, a), NB_OK);
    memset(v, 0, N * sizeof *v);
    assert_int_equal(nbi_checkpoint_read(p->ctx, path, N, a), NB_OK);
    for (int i = 0; i < N; i++) assert_true(v[i] == (float)i);
    json_decref(json);
    free(a);
    free(v);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_loss_falls),
        cmocka_unit_test(resuming_changes_nothing),
        cmocka_unit_test(stopping_keeps_the_best),
        cmocka_unit_test(others_checkpoints_are_refused),
        cmocka_unit_test(divergence_is_told_by_name),
        cmocka_unit_test(a_full_disk_keeps_the_old_checkpoint),
        cmocka_unit_test(many_arrays_are_read_again),
    };
    return cmocka_run_group_tests(tests, place_setup, place_teardown);
}
