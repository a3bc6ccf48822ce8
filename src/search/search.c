/* The registry of search methods and the names of costs. */
#include "search/search.h"

#include <math.h>
#include <string.h>

#define SEARCH(row) extern const nbi_search row;
#include "search/searches.def"
#undef SEARCH

static const nbi_search *const searches[] = {
#define SEARCH(row) &row,
#include "search/searches.def"
#undef SEARCH
};

static const struct {
    const char *name, *help;
} costs[] = {
#define COST(id, name, help) [id] = {name, help},
#include "search/costs.def"
#undef COST
};
_Static_assert(NBI_COUNT(costs) == NBI_COST_COUNT, "costs.def does not match nbi_cost_id");

const char *nbi_cost_name(nbi_cost_id id) {
    return (size_t)id < NBI_COUNT(costs) ? costs[id].name : "unknown";
}

const char *nbi_cost_help(nbi_cost_id id) {
    return (size_t)id < NBI_COUNT(costs) ? costs[id].help : "";
}

bool nbi_feasible(const nbi_problem *problem, const double cost[NBI_COST_COUNT]) {
    for (int c = 0; c < NBI_COST_COUNT; c++)
        if (problem->limit[c] < INFINITY && !(cost[c] <= problem->limit[c])) return false;
    return true;
}

double nbi_excess(const nbi_problem *problem, const double cost[NBI_COST_COUNT]) {
    double most = 0;
    for (int c = 0; c < NBI_COST_COUNT; c++) {
        double limit = problem->limit[c];
        if (cost[c] <= limit) continue;
        double over = (cost[c] - limit) / (limit > 0 ? limit : 1);
        most = over > most ? over : most;
    }
    return most;
}

const nbi_search *const *nbi_searches(size_t *n) {
    *n = NBI_COUNT(searches);
    return searches;
}

const nbi_search *nbi_search_find(const char *name) {
    for (size_t i = 0; i < NBI_COUNT(searches); i++)
        if (strcmp(searches[i]->name, name) == 0) return searches[i];
    return NULL;
}
