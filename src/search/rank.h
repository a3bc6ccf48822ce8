/* Rank agreement of two lists of numbers. */
#ifndef NIBBLE_SEARCH_RANK_H
#define NIBBLE_SEARCH_RANK_H

#include "base/base.h"

/* Kendall's tau-b (1938; ties count for neither side): 1 the same order, −1 the reverse. NAN where
 * one list has no two different values. n² steps. */
double nbi_kendall(const double *a, const double *b, size_t n);

#endif
