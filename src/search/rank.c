/* tau-b = (concordant − discordant) / sqrt(pairs untied in a · pairs untied in b). Infinities
 * compare as they should; NaN ties with everything. */
#include "search/rank.h"

#include <math.h>

static int sign_of(double x, double y) {
    return (x > y) - (x < y);
}

double nbi_kendall(const double *a, const double *b, size_t n) {
    double agree = 0, in_a = 0, in_b = 0;
    for (size_t i = 1; i < n; i++)
        for (size_t k = 0; k < i; k++) {
            int x = sign_of(a[i], a[k]), y = sign_of(b[i], b[k]);
            agree += x * y;
            in_a += x != 0;
            in_b += y != 0;
        }
    return in_a > 0 && in_b > 0 ? agree / sqrt(in_a * in_b) : NAN;
}
