/* PCG32 (M. O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms
 * for Random Number Generation", 2014) and FNV-1a. Same numbers on every machine. */
#include "base/base.h"

#include <math.h>

uint32_t nbi_rng_u32(nbi_rng *rng) {
    uint64_t old = rng->state;
    rng->state = old * 6364136223846793005ull + rng->inc;
    uint32_t x = (uint32_t)(((old >> 18) ^ old) >> 27), r = (uint32_t)(old >> 59);
    return (x >> r) | (x << ((32 - r) & 31));
}

void nbi_rng_seed(nbi_rng *rng, uint64_t seed, uint64_t stream) {
    rng->state = 0;
    rng->inc = (stream << 1) | 1;
    nbi_rng_u32(rng);
    rng->state += seed;
    nbi_rng_u32(rng);
}

uint32_t nbi_rng_below(nbi_rng *rng, uint32_t n) {
    uint32_t threshold = (0u - n) % n;
    for (;;) {
        uint32_t x = nbi_rng_u32(rng);
        if (x >= threshold) return x % n;
    }
}

float nbi_rng_uniform(nbi_rng *rng) {
    return (float)(nbi_rng_u32(rng) >> 8) * 0x1p-24f;
}

double nbi_rng_normal(nbi_rng *rng) {
    double u = ((double)nbi_rng_u32(rng) + 1.0) * 0x1p-32, v = (double)nbi_rng_u32(rng) * 0x1p-32;
    return sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
}

void nbi_rng_shuffle(nbi_rng *rng, uint32_t *items, size_t n) {
    for (size_t i = n; i > 1; i--) {
        size_t j = nbi_rng_below(rng, (uint32_t)i);
        uint32_t t = items[i - 1];
        items[i - 1] = items[j];
        items[j] = t;
    }
}

uint64_t nbi_hash(uint64_t hash, const void *data, size_t size) {
    const unsigned char *p = data;
    for (size_t i = 0; i < size; i++) hash = (hash ^ p[i]) * 1099511628211ull;
    return hash;
}
