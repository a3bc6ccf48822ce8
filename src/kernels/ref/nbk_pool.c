/* Maximum and average pooling; taps outside the image are never read. */
#include "nbk.h"

typedef struct window {
    int y, x;           /* of the first tap; may be negative */
    int i0, i1, j0, j1; /* the valid taps: i0 ≤ i < i1, j0 ≤ j < j1 */
} window;

static void clip(int start, int step, int size, int taps, int *first, int *last) {
    *first = 0;
    *last = taps;
    while (*first < *last && start + *first * step < 0) ++*first;
    while (*last > *first && start + (*last - 1) * step >= size) --*last;
}

static window window_at(const nbk_pool *p, int oy, int ox) {
    window v;
    v.y = oy * p->sh - p->pt;
    v.x = ox * p->sw - p->pl;
    clip(v.y, p->dh, p->in_h, p->kh, &v.i0, &v.i1);
    clip(v.x, p->dw, p->in_w, p->kw, &v.j0, &v.j1);
    return v;
}

static size_t tap(const nbk_pool *p, const window *v, int i, int j) {
    const size_t row = (size_t)(v->y + i * p->dh), column = (size_t)(v->x + j * p->dw);
    const size_t in_w = (size_t)p->in_w, c = (size_t)p->c;
    return (row * in_w + column) * c;
}

void nbk_maxpool_run(const nbk_pool *p, const void *in, void *out) {
    size_t at = 0;
    for (int y = 0; y < p->out_h; y++)
        for (int x = 0; x < p->out_w; x++) {
            const window v = window_at(p, y, x);
            for (int c = 0; c < p->c; c++, at++) {
                int32_t best = -128;
                for (int i = v.i0; i < v.i1; i++)
                    for (int j = v.j0; j < v.j1; j++) {
                        const int32_t t = nbk_load(in, p->type, tap(p, &v, i, j) + (size_t)c);
                        if (t > best) best = t;
                    }
                nbk_store(out, p->type, at, best);
            }
        }
}

void nbk_avgpool_run(const nbk_pool *p, const void *in, void *out) {
    size_t at = 0;
    for (int y = 0; y < p->out_h; y++)
        for (int x = 0; x < p->out_w; x++) {
            const window v = window_at(p, y, x);
            const int valid = (v.i1 - v.i0) * (v.j1 - v.j0);
            const int n = p->count_pad ? 0 : valid;
            for (int c = 0; c < p->c; c++, at++) {
                int32_t sum = 0;
                for (int i = v.i0; i < v.i1; i++)
                    for (int j = v.j0; j < v.j1; j++)
                        sum += nbk_load(in, p->type, tap(p, &v, i, j) + (size_t)c);
                sum -= valid * p->in_zero;
                const int64_t r = nbk_rescale(sum, p->mult[n], p->shift[n]) + p->out_zero;
                nbk_store(out, p->out_type, at, nbk_clamp(r, p->out_lo, p->out_hi));
            }
        }
}
