/* Exact selection on seeded correlated instances (tests/unit/select_instances.h: 60 groups of 40
 * options, three limits): processor seconds until proven optimal, or the gap where a bound on time
 * ends it first.
 *
 *     bench_select [INSTANCES [SECONDS]] */
#include "../tests/unit/select_instances.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double cpu_seconds(void) {
    return (double)clock() / CLOCKS_PER_SEC;
}

static int by_size(const void *pa, const void *pb) {
    const double a = *(const double *)pa, b = *(const double *)pb;
    return (a > b) - (a < b);
}

int main(int argc, char **argv) {
    const int n = argc > 1 ? atoi(argv[1]) : 101;
    const double limit = argc > 2 ? atof(argv[2]) : 1;
    double *seconds = calloc((size_t)(n > 0 ? n : 1), sizeof *seconds), worst_gap = 0;
    instance *x = malloc(sizeof *x);
    nb_ctx *ctx = nb_ctx_new();
    int open = 0, status = 1;
    if (n < 1 || !seconds || !x || !ctx) goto done;
    for (int i = 0; i < n; i++) {
        int choice[INST_VARS];
        double value, gap, start;
        instance_make(x, INST_NETWORK, (uint64_t)i, INST_VARS, INST_OPTIONS, -1);
        start = cpu_seconds();
        if (nbi_select(ctx, &x->p, limit, choice, &value, &gap) != NB_OK) {
            fprintf(stderr, "instance %d: %s\n", i, nb_ctx_message(ctx));
            goto done;
        }
        seconds[i] = cpu_seconds() - start;
        open += gap > 0;
        if (gap > worst_gap) worst_gap = gap;
    }
    qsort(seconds, (size_t)n, sizeof *seconds, by_size);
    printf("{\"groups\":%d,\"options\":%d,\"limits\":%d,\"instances\":%d,\"median_ms\":%.2f,"
           "\"p90_ms\":%.2f,\"worst_ms\":%.2f,\"limit_ms\":%.0f,\"open\":%d,\"worst_gap\":%.3g}\n",
           INST_VARS, INST_OPTIONS, INST_LIMITS, n, 1e3 * seconds[n / 2], 1e3 * seconds[n * 9 / 10],
           1e3 * seconds[n - 1], 1e3 * limit, open, worst_gap);
    status = 0;
done:
    free(seconds);
    free(x);
    nb_ctx_free(ctx);
    return status;
}
