/* Variables of networks: every free site is in one, also where many convolutions read one activation;
 * sensitivities that were measured in time stay. */
#include "unit/hand_net.h"

#include "search/netproblem.h"
#include "search/trials.h"

enum { IMAGES = 2, READERS = 7, CLASSES = 5 };

typedef struct rig {
    hand h;
    nbi_scorer *scorer;
    nbi_netproblem *np;
    nbi_problem *problem;
    nbi_choice fixed[HAND_SITES];
    float reference[IMAGES * CLASSES];
} rig;

/* One activation with READERS convolutions behind it, the sum of which is classified. */
static void open_rig(rig *r) {
    nbi_qag_options options = {NBI_FIRST_LAST_SEARCHED, 8};
    const nbi_offer two = {.n = 2, .choice = {4, 8}}, bias = {.n = 1, .choice = {32}};
    hand *h = &r->h;
    nbi_graph *g;
    int x = HAND_IMAGE(h, 3, 3, 8, 8), sum = -1;
    int a = hand_op(h, "Relu", hand_conv3(h, x, 3, 4));
    for (int i = 0; i < READERS; i++) {
        int b = hand_op(h, "Relu", hand_conv3(h, a, 4, 4));
        sum = i ? hand_op2(h, "Add", sum, b) : b;
    }
    int y = hand_gemm(h, hand_op(h, "Flatten", hand_op(h, "GlobalAveragePool", sum)), 4, CLASSES);
    hand_outputs(h, 1, &y);
    HAND_OK(nbi_specialize_batch(h->ctx, h->g, 1, &g));
    HAND_OK(nbi_generate(h->ctx, g, &options, &h->net));
    hand_calibrate(h, IMAGES);
    r->scorer = hand_scorer(h, IMAGES, 0);
    for (int i = 0; i < h->net->n_sites; i++)
        r->fixed[i] = (nbi_choice)h->net->site[i].fixed_bits;
    for (int i = 0; i < IMAGES * CLASSES; i++) r->reference[i] = (float)(i % CLASSES);
    nbi_netproblem_options o = {.net = h->net,
                                .scorer = r->scorer,
                                .edge = h->net->output[0],
                                .reference = r->reference,
                                .images = IMAGES,
                                .loss = NBI_LOSS_MSE,
                                .weights = two,
                                .activations = two,
                                .biases = bias,
                                .fixed = r->fixed};
    HAND_OK(nbi_netproblem_new(h->ctx, &o, &r->np));
    r->problem = nbi_netproblem_problem(r->np);
}

static void close_rig(rig *r) {
    nbi_netproblem_free(r->np);
    nbi_scorer_free(r->scorer);
    hand_free(&r->h);
}

static void every_free_weight_is_in_one_variable(void **state) {
    (void)state;
    static rig r;
    open_rig(&r);
    hand *h = &r.h;
    int most = 0;
    for (int s = 0; s < h->net->n_sites; s++) {
        int times = 0;
        for (int v = 0; v < r.problem->n_vars; v++) {
            const int *site;
            int n = nbi_netproblem_sites(r.np, v, &site);
            for (int k = 0; k < n; k++) times += site[k] == s;
            most = n > most ? n : most;
        }
        if (h->net->site[s].kind == NBI_SITE_WEIGHT) assert_int_equal(times, 1);
        assert_true(times <= 1);
    }
    assert_true(most > 2 && most < 1 + READERS); /* an activation and some of its readers */
    close_rig(&r);
}

/* Bit operations are no sum over variables here: the choice keeps the limit all the same. */
static void bit_operations_are_kept_within(void **state) {
    (void)state;
    static rig r;
    open_rig(&r);
    hand *h = &r.h;
    uint8_t policy[HAND_SITES] = {0};
    double low[NBI_COST_COUNT], high[NBI_COST_COUNT], cost[NBI_COST_COUNT], options[8] = {0};
    nbi_search_result result = {.policy = policy};
    nbi_search_run run = {.problem = r.problem, .options = options, .deadline = INFINITY,
                          .seed = 1, .result = &result};
    HAND_OK(r.problem->cost(h->ctx, r.problem->self, policy, low));
    for (int v = 0; v < r.problem->n_vars; v++) policy[v] = (uint8_t)(r.problem->n_options[v] - 1);
    HAND_OK(r.problem->cost(h->ctx, r.problem->self, policy, high));
    for (int k = 1; k < 8; k++) {
        const double limit = low[NBI_COST_BOPS] + k / 8.0 * (high[NBI_COST_BOPS] - low[NBI_COST_BOPS]);
        r.problem->limit[NBI_COST_BOPS] = limit;
        HAND_OK(nbi_search_find("sensitivity")->run(h->ctx, &run));
        HAND_OK(r.problem->cost(h->ctx, r.problem->self, policy, cost));
        assert_true(result.feasible && cost[NBI_COST_BOPS] <= limit);
        assert_true(cost[NBI_COST_BOPS] > low[NBI_COST_BOPS] || k == 1);
    }
    close_rig(&r);
}

static void measured_sensitivities_stay(void **state) {
    (void)state;
    static rig r;
    open_rig(&r);
    hand *h = &r.h;
    double **first, **later;
    HAND_OK(nbi_rows_new(h->ctx, r.problem, &first));
    HAND_OK(nbi_rows_new(h->ctx, r.problem, &later));
    nbi_netproblem_set_deadline(r.np, nb_seconds(h->ctx) - 1);
    HAND_OK(r.problem->sensitivity(h->ctx, r.problem->self, first));
    assert_false(nbi_netproblem_measured(r.np));
    long scored = nbi_netproblem_scored(r.np);
    HAND_OK(r.problem->sensitivity(h->ctx, r.problem->self, later)); /* no time: what there is */
    assert_int_equal(nbi_netproblem_scored(r.np), scored);
    for (int v = 0; v < r.problem->n_vars; v++)
        assert_memory_equal(first[v], later[v], (size_t)r.problem->n_options[v] * sizeof(double));
    nbi_netproblem_set_deadline(r.np, INFINITY);
    HAND_OK(r.problem->sensitivity(h->ctx, r.problem->self, later));
    assert_true(nbi_netproblem_measured(r.np));
    assert_true(nbi_netproblem_scored(r.np) > scored);
    for (int v = 0; v < r.problem->n_vars; v++) /* against the best options themselves */
        assert_true(later[v][r.problem->n_options[v] - 1] == 0);
    nbi_free(first);
    nbi_free(later);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_free_weight_is_in_one_variable),
        cmocka_unit_test(bit_operations_are_kept_within),
        cmocka_unit_test(measured_sensitivities_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
