/* study.db: what is recorded is found again, after a kill as well; damage and read-only folders
 * are told; a killed search, resumed, ends like the uninterrupted one and repeats nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include <sqlite3.h>

#include "search/study.h"
#include "unit/toy_problem.h"

static char folder[] = "/tmp/nibble-study-XXXXXX";
static char path[64];

static void remove_study(void) {
    char name[80];
    const char *const ends[] = {"", "-wal", "-shm", "-journal"};
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, ends[i]);
        unlink(name);
    }
}

static int setup(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return 1;
    snprintf(path, sizeof path, "%s/study.db", folder);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    remove_study();
    return rmdir(folder);
}

static nb_status check_trial(void *user, const nbi_study_trial *t) {
    long *next = user;
    assert_int_equal(t->ordinal, *next);
    assert_int_equal(t->n_policy, 3);
    assert_int_equal(t->policy[0], *next);
    if (*next == 1) assert_true(t->score == INFINITY);
    else assert_true(t->score == 0.1 * (double)*next);
    assert_true(t->cost[NBI_COST_RAM] == 7 && t->cost[NBI_COST_BOPS] == INFINITY);
    (*next)++;
    return NB_OK;
}

/* ---- out of memory --------------------------------------------------------------------------- */

/* SQLite's allocator, behind the counter of nbi_alloc_fail_after. */
static sqlite3_mem_methods sqlite;

static void *refusable(int n) {
    void *p = nbi_malloc(1);
    free(p);
    return p ? sqlite.xMalloc(n) : NULL;
}

static void *refusable_again(void *old, int n) {
    void *p = nbi_malloc(1);
    free(p);
    return p ? sqlite.xRealloc(old, n) : NULL;
}

static void use_refusable(void) {
    sqlite3_config(SQLITE_CONFIG_GETMALLOC, &sqlite);
    sqlite3_mem_methods own = sqlite;
    own.xMalloc = refusable;
    own.xRealloc = refusable_again;
    sqlite3_config(SQLITE_CONFIG_MALLOC, &own);
    sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0); /* every allocation is one */
    sqlite3_initialize();
}

static nb_status count_trial(void *user, const nbi_study_trial *t) {
    (void)t;
    (*(long *)user)++;
    return NB_OK;
}

static nb_status use_study(nb_ctx *ctx, int *recorded) {
    nbi_study *s = NULL;
    long listed = 0;
    bool found;
    double score;
    void *data = NULL;
    size_t size;
    nb_status st;
    NB_TRY(nbi_study_open(ctx, path, &s));
    NB_TRYG(nbi_study_begin(ctx, s, "oom", true, NULL));
    for (int i = 0; i < 3; i++) {
        uint8_t policy[2] = {(uint8_t)i, 1};
        nbi_study_trial t = {.policy = policy, .n_policy = 2, .score = i};
        NB_TRYG(nbi_study_record(ctx, s, &t));
        *recorded = i + 1;
        NB_TRYG(nbi_study_lookup(ctx, s, policy, 2, &found, &score));
        assert_true(found && score == i);
    }
    NB_TRYG(nbi_study_put(ctx, s, "key", "value", 5));
    NB_TRYG(nbi_study_get(ctx, s, "key", &data, &size));
    assert_memory_equal(data, "value", 5);
    NB_TRYG(nbi_study_list(ctx, s, count_trial, &listed));
    assert_int_equal(listed, 3);
done:
    nbi_free(data);
    nbi_study_close(s);
    return st;
}

static void survives_no_memory(void **state) {
    void (*const modes[])(long) = {nbi_alloc_fail_after, nbi_alloc_fail_from};
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    for (size_t m = 0; m < NBI_COUNT(modes); m++)
        for (long k = 1, missed = 0; !missed; k += 1 + k / 8) {
            int recorded = 0;
            long known = 0;
            nbi_study *s;
            remove_study();
            modes[m](k);
            nb_status st = use_study(ctx, &recorded);
            missed = nbi_alloc_fail_left() > 0;
            nbi_alloc_fail_after(0);
            if (st != NB_OK && st != NB_ENOMEM)
                fail_msg("allocation %ld: status %d (%s)", k, (int)st, nb_ctx_message(ctx));
            assert_true(st == NB_OK || *nb_ctx_message(ctx));
            assert_true(!missed || st == NB_OK);
            assert_int_equal(nbi_study_open(ctx, path, &s), NB_OK); /* what was kept is there */
            assert_int_equal(nbi_study_begin(ctx, s, "oom", true, &known), NB_OK);
            assert_true(known >= recorded);
            nbi_study_close(s);
        }
    nb_ctx_free(ctx);
}

static void keeps_trials_and_state(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_study *s;
    long known = -1, next = 0;
    bool found;
    double score;
    void *data;
    size_t size;
    remove_study();
    assert_int_equal(nbi_study_open(ctx, path, &s), NB_OK);
    uint8_t policy[3] = {0, 1, 2};
    assert_int_equal(nbi_study_lookup(ctx, s, policy, 3, &found, &score), NB_EINVAL);
    assert_int_equal(nbi_study_begin(ctx, s, "a", true, &known), NB_OK);
    assert_int_equal(known, 0);
    for (int i = 0; i < 4; i++) {
        policy[0] = (uint8_t)(i % 3); /* the last one repeats the first */
        nbi_study_trial t = {.policy = policy, .n_policy = 3, .score = i == 1 ? INFINITY : 0.1 * i,
                             .cost = {[NBI_COST_RAM] = 7, [NBI_COST_BOPS] = INFINITY}};
        assert_int_equal(nbi_study_record(ctx, s, &t), NB_OK);
    }
    nbi_study_trial bad = {.policy = policy, .n_policy = 3, .score = NAN};
    assert_int_equal(nbi_study_record(ctx, s, &bad), NB_ENUMERIC);
    assert_int_equal(nbi_study_put(ctx, s, "k", "hello", 5), NB_OK);
    assert_int_equal(nbi_study_put(ctx, s, "empty", NULL, 0), NB_OK);
    nbi_study_close(s);
    assert_int_equal(nbi_study_open(ctx, path, &s), NB_OK);
    assert_int_equal(nbi_study_begin(ctx, s, "b", true, &known), NB_OK);
    long others = 0; /* of run a, seen from b; none of another length */
    assert_int_equal(nbi_study_others(ctx, s, sizeof policy, count_trial, &others), NB_OK);
    assert_true(others > 0);
    others = 0;
    assert_int_equal(nbi_study_others(ctx, s, 200, count_trial, &others), NB_OK);
    assert_int_equal(others, 0);
    assert_int_equal(known, 0);
    assert_int_equal(nbi_study_begin(ctx, s, "a", true, &known), NB_OK);
    assert_int_equal(known, 3);
    assert_int_equal(nbi_study_list(ctx, s, check_trial, &next), NB_OK);
    assert_int_equal(next, 3);
    policy[0] = 2;
    assert_int_equal(nbi_study_lookup(ctx, s, policy, 3, &found, &score), NB_OK);
    assert_true(found && score == 0.1 * 2);
    assert_int_equal(nbi_study_lookup(ctx, s, policy, 2, &found, &score), NB_OK);
    assert_false(found);
    assert_int_equal(nbi_study_get(ctx, s, "k", &data, &size), NB_OK);
    assert_int_equal(size, 5);
    assert_memory_equal(data, "hello", 5);
    nbi_free(data);
    assert_int_equal(nbi_study_get(ctx, s, "empty", &data, &size), NB_OK);
    assert_true(data && size == 0);
    nbi_free(data);
    assert_int_equal(nbi_study_get(ctx, s, "none", &data, &size), NB_OK);
    assert_null(data);
    assert_int_equal(nbi_study_begin(ctx, s, "a", false, &known), NB_OK);
    assert_int_equal(known, 0);
    nbi_study_close(s);
    nb_ctx_free(ctx);
}

static void tells_damage(void **state) {
    (void)state;
    nb_ctx *ctx = nb_ctx_new();
    nbi_study *s = NULL;
    for (int how = 0; how < 3; how++) {
        remove_study();
        assert_int_equal(nbi_study_open(ctx, path, &s), NB_OK);
        assert_int_equal(nbi_study_begin(ctx, s, "a", true, NULL), NB_OK);
        nbi_study_close(s);
        s = NULL;
        FILE *f = fopen(path, how == 0 ? "wb" : "r+b");
        assert_non_null(f);
        char junk[4096];
        memset(junk, 0x5a, sizeof junk);
        if (how == 1) fseek(f, 4096, SEEK_SET); /* the header stays, a table's page goes */
        if (how < 2) assert_int_equal(fwrite(junk, 1, sizeof junk, f), sizeof junk);
        fclose(f);
        if (how == 2) assert_int_equal(truncate(path, 5000), 0);
        assert_int_equal(nbi_study_open(ctx, path, &s), NB_EFORMAT);
        assert_non_null(strstr(nb_ctx_message(ctx), path));
        assert_null(s);
    }
    remove_study();
    assert_int_equal(nbi_study_open(ctx, "/nonexistent/study.db", &s), NB_EIO);
    assert_int_equal(nbi_study_open(ctx, folder, &s), NB_EIO);
    if (geteuid() != 0) { /* root may write everywhere */
        assert_int_equal(chmod(folder, 0555), 0);
        assert_int_equal(nbi_study_open(ctx, path, &s), NB_EIO);
        assert_int_equal(chmod(folder, 0755), 0);
    }
    nb_ctx_free(ctx);
}

/* ---- resuming -------------------------------------------------------------------------------- */

typedef struct cache {
    nb_ctx *ctx;
    nbi_study *study;
    size_t n;
    int kill_after; /* fresh records; 0: never */
    int records, repeated;
} cache;

static bool cache_known(void *user, const uint8_t *policy, double *score) {
    cache *c = user;
    bool found;
    assert_int_equal(nbi_study_lookup(c->ctx, c->study, policy, c->n, &found, score), NB_OK);
    return found;
}

static nb_status cache_record(void *user, const uint8_t *policy, double score) {
    cache *c = user;
    nbi_study_trial t = {.policy = policy, .n_policy = c->n, .score = score};
    if (nbi_study_record(c->ctx, c->study, &t) != NB_OK) return NB_EIO;
    if (++c->records == c->kill_after) kill(getpid(), SIGKILL);
    return NB_OK;
}

/* One run over the study; returns the evaluations that were not in it. */
static int run_once(const nbi_search *method, int cancel_after, int kill_after, uint8_t *policy) {
    nb_ctx *ctx = nb_ctx_new();
    toy *t = malloc(sizeof *t);
    nbi_search_result r;
    toy_make(t, ctx, 21, 8, 0.1);
    toy_limit(t, NBI_COST_BYTES, 0.4);
    cache c = {.ctx = ctx, .n = 8, .kill_after = kill_after};
    t->known = cache_known;
    t->scored_fn = cache_record;
    t->user = &c;
    t->cancel_after = cancel_after;
    assert_int_equal(nbi_study_open(ctx, path, &c.study), NB_OK);
    assert_int_equal(nbi_study_begin(ctx, c.study, method->name, true, NULL), NB_OK);
    assert_int_equal(toy_run(t, method, 5, 0, 60, policy, &r), NB_OK);
    int fresh = t->fresh;
    nbi_study_close(c.study);
    free(t);
    nb_ctx_free(ctx);
    return fresh;
}

static void resumed_equals_uninterrupted(void **state) {
    (void)state;
    size_t n;
    const nbi_search *const *all = nbi_searches(&n);
    for (size_t m = 0; m < n; m++) {
        uint8_t whole[TOY_MAX_VARS], part[TOY_MAX_VARS];
        remove_study();
        int total = run_once(all[m], 0, 0, whole);
        assert_true(total >= 1);
        if (total == 1) { /* nothing in between: one score, which is known the next time */
            assert_int_equal(run_once(all[m], 0, 0, part), 0);
            assert_memory_equal(whole, part, 8);
            continue;
        }
        int k = total > 40 ? 37 : total / 2;
        remove_study();
        assert_int_equal(run_once(all[m], k, 0, part), k);
        assert_int_equal(run_once(all[m], 0, 0, part), total - k);
        assert_memory_equal(whole, part, 8);

        remove_study();
        pid_t child = fork();
        if (child == 0) {
            run_once(all[m], 0, k, part);
            _exit(3); /* not reached: killed after the k-th record */
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(run_once(all[m], 0, 0, part), total - k);
        assert_memory_equal(whole, part, 8);
        assert_int_equal(run_once(all[m], 0, 0, part), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_trials_and_state),
        cmocka_unit_test(tells_damage),
        cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(survives_no_memory),
    };
    use_refusable();
    return cmocka_run_group_tests(tests, setup, teardown);
}
