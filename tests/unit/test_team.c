/* A scorer that is spread over a team gives what it gives alone, whatever happens in between. The
 * members are threads here; what MPI adds is in tests/cli/test_mpi.sh. */
#include "unit/hand_zoo.h"
#include "unit/team_threads.h"

#include "quant/fit.h"

enum { POLICIES = 5, IMAGES = 17, VALUES = IMAGES * ZOO_CLASSES };

typedef struct team_case {
    hand *h;                      /* rank 0's */
    hand other[MOST_MEMBERS - 1]; /* the others' */
    nbi_choice bits[POLICIES][HAND_SITES];
    float want[POLICIES][VALUES]; /* of a scorer that is alone */
    nbi_frozen *frozen[POLICIES];
    size_t stats;
    int size;
    threads_hub hub;
    member member[MOST_MEMBERS];
} team_case;

static void draw_policies(team_case *t) {
    hand *h = t->h;
    hand_bits(h, 8, 8, t->bits[0]);
    for (int i = 1; i < POLICIES; i++) hand_bits(h, 0, 0, t->bits[i]);
    memcpy(t->bits[2], t->bits[1], sizeof t->bits[1]); /* differs from 1 late in the network only */
    for (int s = h->net->n_sites - 1; s >= 0; s--)
        if (!h->net->site[s].fixed_bits) {
            t->bits[2][s] = (nbi_choice)(t->bits[2][s] == 4 ? 3 : 4);
            break;
        }
}

static void set_up(team_case *t, hand *h, uint64_t seed, bool pixels, size_t stats) {
    *t = (team_case){.h = h, .stats = stats};
    for (int r = 0; r < MOST_MEMBERS; r++) {
        hand *own = r ? &t->other[r - 1] : h;
        hand_finish(own, zoo_build(own, seed));
        if (pixels)
            zoo_pixels(own, IMAGES);
        else
            hand_calibrate(own, IMAGES);
    }
    draw_policies(t);
    for (int i = 0; i < POLICIES; i++) {
        nbi_scorer *s = hand_scorer(h, stats, 0);
        HAND_OK(nbi_scorer_run(h->ctx, s, t->bits[i], h->net->output[0], t->want[i]));
        HAND_OK(nbi_scorer_freeze(h->ctx, s, t->bits[i], &t->frozen[i]));
        nbi_scorer_free(s);
    }
}

static void tear_down(team_case *t) {
    for (int i = 0; i < POLICIES; i++) nbi_frozen_free(t->frozen[i]);
    for (int r = 1; r < MOST_MEMBERS; r++) hand_free(&t->other[r - 1]);
    hand_free(t->h);
}

/* Numbers that another calibration could give; weights are rank 0's anyway. */
static void spoil(nbi_qnet *net) {
    for (int s = 0; s < net->n_sites; s++)
        for (int b = 0; b <= NBI_MAX_BITS; b++) net->site[s].fit[b].scale *= 1.25;
    for (int i = 0; i < net->n_layers; i++) {
        const nbi_layer *l = &net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        memset(l->weight, 0, l->n_weights * sizeof *l->weight);
        for (int c = 0; c < l->geometry.out_c; c++) {
            l->gain[c] += 1;
            l->shift[c] += 1;
            l->mean[c] += 1;
            l->deviation[c] += 1;
        }
    }
}

static void begin(team_case *t, int size, size_t cache) {
    t->size = size;
    for (int r = 0; r < size; r++) {
        const hand *own = r ? &t->other[r - 1] : t->h;
        const nbi_scorer_options o = {IMAGES, own->codes, t->stats, cache, true};
        member *m = &t->member[r];
        *m = (member){.ctx = own->ctx, .net = own->net};
        if (r) spoil(m->net);
        assert_int_equal(nbi_scorer_new(m->ctx, m->net, &o, &m->scorer), NB_OK);
    }
    team_start(&t->hub, t->member, size);
}

static void end(team_case *t) {
    team_stop(&t->hub, t->member, t->size);
    for (int r = 0; r < t->size; r++) nbi_scorer_free(t->member[r].scorer);
}

static void check_run(team_case *t, int policy) {
    hand *h = t->h;
    float got[VALUES];
    memset(got, 0x7f, sizeof got);
    HAND_OK(nbi_scorer_run(h->ctx, t->member[0].scorer, t->bits[policy], h->net->output[0], got));
    assert_memory_equal(got, t->want[policy], sizeof got);
}

static void check_freeze(team_case *t, int policy) {
    hand *h = t->h;
    const nbi_frozen *want = t->frozen[policy];
    nbi_frozen *got;
    HAND_OK(nbi_scorer_freeze(h->ctx, t->member[0].scorer, t->bits[policy], &got));
    for (int i = 0; i < h->net->n_layers; i++) {
        const nbi_layer *l = &h->net->layer[i];
        if (l->type != NBI_LAYER_CONV) continue;
        const size_t channels = (size_t)l->geometry.out_c;
        assert_memory_equal(got->conv[i].levels, want->conv[i].levels, l->n_weights);
        assert_memory_equal(got->conv[i].scale, want->conv[i].scale, channels * sizeof(float));
        assert_memory_equal(got->conv[i].shift, want->conv[i].shift, channels * sizeof(double));
    }
    nbi_frozen_free(got);
}

/* ---- the same values ------------------------------------------------------------------------- */

static void test_same_values(void **state) {
    (void)state;
    static const size_t stats[] = {13, 0, 1}, cache[] = {64u << 20, 0, 20000};
    for (int k = 0; k < 3; k++) {
        hand net;
        team_case data, *t = &data;
        set_up(t, &net, 31 + (uint64_t)k, k == 1, stats[k]);
        for (int size = 2; size <= MOST_MEMBERS; size++)
            for (int c = 0; c < 3; c++) {
                double computed, saved;
                begin(t, size, cache[c]);
                for (int i = 0; i < 2 * POLICIES; i++) check_run(t, i * 2 % POLICIES);
                check_freeze(t, 3);
                check_run(t, 2);
                check_run(t, 1);
                nbi_scorer_counts(t->member[0].scorer, &computed, &saved);
                if (c == 0) assert_true(saved > computed); /* caches work in a team */
                end(t);
            }
        tear_down(t);
    }
}

/* Parts cover everything once, the first being a largest one. */
static void test_parts(void **state) {
    (void)state;
    for (int size = 1; size < 6; size++)
        for (size_t n = 0; n < 14; n++) {
            const nbi_team team = {.size = size};
            assert_int_equal(nbi_team_first(&team, n, 0), 0);
            assert_int_equal(nbi_team_first(&team, n, size), n);
            for (int r = 0; r < size; r++) {
                const size_t part = nbi_team_first(&team, n, r + 1) - nbi_team_first(&team, n, r);
                assert_in_range(part, n / (size_t)size, nbi_team_first(&team, n, 1));
            }
        }
}

/* One network for the tests below, which change their copy of the case only. */
static hand shared_hand;
static team_case shared;

static int set_up_shared(void **state) {
    (void)state;
    set_up(&shared, &shared_hand, 51, false, 13);
    return 0;
}

static int tear_down_shared(void **state) {
    (void)state;
    tear_down(&shared);
    return 0;
}

/* ---- what happens in between ----------------------------------------------------------------- */

static nb_status leave_as_is(nb_ctx *ctx, void *user, const nbi_rounding_request *r) {
    (void)ctx;
    *(size_t *)user = r->images;
    return NB_OK;
}

/* Weights that depend on all of the policy. */
static nb_status other_weights(nb_ctx *ctx, void *user, int layer, const nbi_choice *bits,
                               nbi_coded_weights *out) {
    const nbi_qnet *net = user;
    const nbi_layer *l = &net->layer[layer];
    int sum = 0;
    NB_TRY(nbi_fit_weight_choice(ctx, l, bits[l->weight_site], true, out));
    for (int i = 0; i < net->n_sites; i++) sum += bits[i] * (i + 1);
    for (int c = 0; c < l->geometry.out_c; c++) out->scale[c] *= 1 + (float)(sum % 64) / 64;
    return NB_OK;
}

static void test_rank_0_alone(void **state) {
    (void)state;
    team_case data = shared, *t = &data;
    hand *h = t->h;
    size_t images = 0;
    double sqnr;
    begin(t, 2, 20000);
    nbi_scorer *s = t->member[0].scorer;
    check_run(t, 1);
    /* a rounding sees all images, and leaves other caches here than there */
    nbi_scorer_set_rounding(s, leave_as_is, &images);
    check_run(t, 4);
    assert_int_equal(images, 13);
    nbi_scorer_set_rounding(s, NULL, NULL);
    check_run(t, 2);
    check_run(t, 1);
    nbi_scorer_clear(s);
    check_run(t, 2);
    /* a fit that the others have not got */
    for (int i = 0; i < h->net->n_sites; i++)
        if (h->net->site[i].kind == NBI_SITE_WEIGHT)
            assert_int_equal(nbi_scorer_weight_sqnr(h->ctx, s, i, 5, &sqnr), NB_OK);
    check_run(t, 3);
    hand_bits(h, 5, 8, t->bits[0]);
    nbi_scorer *alone = hand_scorer(h, 13, 0);
    HAND_OK(nbi_scorer_run(h->ctx, alone, t->bits[0], h->net->output[0], t->want[0]));
    nbi_scorer_free(alone);
    check_run(t, 0);
    /* one policy's neighbours */
    HAND_OK(nbi_scorer_stay_near(h->ctx, s, t->bits[1]));
    check_run(t, 1);
    check_run(t, 2);
    check_run(t, 4);
    HAND_OK(nbi_scorer_stay_near(h->ctx, s, NULL));
    check_run(t, 4);
    check_run(t, 2);
    end(t);
}

static void test_other_weights(void **state) {
    (void)state;
    team_case data = shared, *t = &data;
    hand *h = t->h;
    begin(t, 3, 64u << 20);
    for (int i = 0; i < POLICIES; i++) check_run(t, i);
    /* the others' scorers serve another one of rank 0 from now on */
    nbi_scorer *s[2] = {hand_scorer(h, 13, 64u << 20), hand_scorer(h, 13, 0)};
    for (int k = 0; k < 2; k++) nbi_scorer_set_weights(s[k], other_weights, h->net, true);
    HAND_OK(nbi_scorer_set_team(h->ctx, s[0], &t->member[0].team, h->net));
    nbi_scorer_free(t->member[0].scorer);
    t->member[0].scorer = s[0];
    for (int i = 0; i < POLICIES; i++) {
        float plain[VALUES];
        memcpy(plain, t->want[i], sizeof plain);
        HAND_OK(nbi_scorer_run(h->ctx, s[1], t->bits[i], h->net->output[0], t->want[i]));
        assert_memory_not_equal(plain, t->want[i], sizeof plain);
    }
    for (int i = 0; i < 2 * POLICIES; i++) check_run(t, i * 2 % POLICIES);
    check_run(t, 0);
    nbi_scorer_free(s[1]);
    end(t);
}

/* ---- failures -------------------------------------------------------------------------------- */

static void test_cancelled(void **state) {
    (void)state;
    team_case data = shared, *t = &data;
    hand *h = t->h;
    float got[VALUES];
    begin(t, 3, 64u << 20);
    check_run(t, 0);
    nb_ctx_cancel(h->ctx);
    assert_int_equal(
        nbi_scorer_run(h->ctx, t->member[0].scorer, t->bits[3], h->net->output[0], got),
        NB_ECANCELLED);
    nb_ctx_clear_cancel(h->ctx);
    check_run(t, 3);
    check_run(t, 0);
    /* what all of them refuse */
    t->bits[4][1] = 9;
    assert_int_equal(
        nbi_scorer_run(h->ctx, t->member[0].scorer, t->bits[4], h->net->output[0], got), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), h->net->site[1].name));
    /* what one of them cannot do */
    nb_ctx_set_threads(t->member[1].ctx, 4);
    assert_int_equal(
        nbi_scorer_run(h->ctx, t->member[0].scorer, t->bits[0], h->net->output[0], got), NB_EINVAL);
    assert_non_null(strstr(nb_ctx_message(h->ctx), "process 1: "));
    nb_ctx_set_threads(t->member[1].ctx, 1);
    check_run(t, 0);
    end(t);
}

/* Some allocation of some process fails: all of them end the run, and go on with the next. */
static void test_out_of_memory(void **state) {
    (void)state;
    team_case data = shared, *t = &data;
    hand *h = t->h;
    float got[VALUES];
    bool failed = true;
    for (long k = 1; failed; k += 1 + k / 16) {
        nbi_frozen *frozen = NULL;
        begin(t, 2, 64u << 20);
        nbi_alloc_fail_after(k);
        nb_status st =
            nbi_scorer_run(h->ctx, t->member[0].scorer, t->bits[1], h->net->output[0], got);
        nbi_alloc_fail_after(0);
        assert_true(st == NB_OK || st == NB_ENOMEM);
        failed = st != NB_OK;
        check_run(t, 1);
        nbi_alloc_fail_after(k);
        st = nbi_scorer_freeze(h->ctx, t->member[0].scorer, t->bits[2], &frozen);
        nbi_alloc_fail_after(0);
        assert_true(st == NB_OK || (st == NB_ENOMEM && !frozen));
        failed |= st != NB_OK;
        nbi_frozen_free(frozen);
        check_run(t, 2);
        end(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),        cmocka_unit_test(test_same_values),
        cmocka_unit_test(test_rank_0_alone), cmocka_unit_test(test_other_weights),
        cmocka_unit_test(test_cancelled),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, set_up_shared, tear_down_shared);
}
