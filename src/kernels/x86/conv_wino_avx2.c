/* 3×3 convolution of stride 1 by Winograd's F(4×4, 3×3), exact in integers: a tile of 4×4 outputs
 * takes 36 products per pair of channels instead of 144.
 *
 *     576·Y = A[(G g Gᵗ) ⊙ (Bᵗ d B)]Aᵗ   (Lavin and Gray, arXiv 1509.09308, section 4.3)
 *
 * G is 24 times theirs, its last row 12 times with a 2 in A, so that all numbers are integers:
 * |G g Gᵗ| ≤ 144·128 and |Bᵗ d B| ≤ 68·255 fit int16. vpmaddwd sums the products modulo 2^32, and
 * every later step is linear, so the result is 576·Y modulo 2^32; times the inverse of 9 it is
 * 64·Y, from which an arithmetic shift gives Y as long as |Y| < 2^25 (`supports`).
 *
 * Groups of 4 tiles: transform their inputs, [place][tile][channel]; then for each block of 16
 * output channels multiply, [place][tile][16 channels], transform back, requantize. Where weights are
 * larger than the second cache, groups of 16, which read them a quarter as often. */
#include "kernels/x86/conv_x86.h"

#include <string.h>

#if defined(__AVX2__)
#include "kernels/x86/requant_avx2.h"

enum { SIDE = 4, WINDOW = 6, PLACES = WINDOW * WINDOW, TILES = 4, TOGETHER = TILES };
enum { TILE_PIXELS = SIDE * SIDE, LARGE_GROUP = 16 };
/* Bytes of packed weights; behind it reading them takes longer than products: in groups of TILES, and
 * in larger ones. */
#define MOST_PACKED ((size_t)3 << 19)
#define MOST_LARGE  ((size_t)3 << 21)

static inline __m256i load(const void *at) {
    return _mm256_loadu_si256((const __m256i *)at);
}
static inline void store(void *at, __m256i v) {
    _mm256_storeu_si256((__m256i *)at, v);
}

/* ---- shapes -------------------------------------------------------------------------------- */

typedef struct geometry {
    size_t rows, columns;    /* of tiles */
    size_t tiles;            /* of a group */
    size_t c, blocks;        /* input channels; blocks of 16 output channels */
    size_t outside;          /* bytes of a row outside of the image */
    size_t input, product;   /* bytes of a group's transformed inputs, of its products */
    size_t requant, no_bias; /* bytes of its constants, all blocks */
    size_t block_bytes;      /* of packed weights */
} geometry;

static size_t round_up(size_t n, size_t to) {
    return (n + to - 1) / to * to;
}

static geometry geometry_of(const nbk_conv *p) {
    geometry g = {.rows = ((size_t)p->out_h + SIDE - 1) / SIDE,
                  .columns = ((size_t)p->out_w + SIDE - 1) / SIDE,
                  .c = (size_t)p->in_c,
                  .blocks = ((size_t)p->out_c + NBI_LANES - 1) / NBI_LANES};
    g.block_bytes = PLACES * g.c * NBI_LANES * sizeof(int16_t);
    g.tiles = g.blocks * g.block_bytes > MOST_PACKED ? LARGE_GROUP : TILES;
    g.outside = round_up((size_t)p->in_w * g.c, 64);
    g.input = PLACES * g.tiles * g.c * sizeof(int16_t);
    g.product = PLACES * g.tiles * NBI_LANES * sizeof(int32_t);
    g.requant = g.blocks * sizeof(nbi_requant);
    g.no_bias = (size_t)p->out_c * sizeof(int32_t);
    return g;
}

static size_t packed_bytes(const nbk_conv *p) {
    const geometry g = geometry_of(p);
    return g.blocks * g.block_bytes;
}

static size_t scratch_bytes(const nbk_conv *p) {
    const geometry g = geometry_of(p);
    return g.outside + g.input + g.product + g.requant + g.no_bias;
}

/* Worth it where tiles fit the image well: they cost a half to three quarters of what a direct
 * convolution with int16 sums costs, and a third of one with int32 sums. */
static bool supports(const nbk_conv *p, const nbi_conv_range *range) {
    if (p->kh != 3 || p->kw != 3 || p->sh != 1 || p->sw != 1 || p->dh != 1 || p->dw != 1 ||
        p->groups != 1 || p->in_c % NBI_LANES != 0 || p->out_c < NBI_LANES)
        return false;
    const geometry g = geometry_of(p);
    const int64_t x = -range->in_min > range->in_max ? -range->in_min : range->in_max;
    const int64_t w = -range->w_min > range->w_max ? -range->w_min : range->w_max;
    const int64_t most = 9 * x * w * p->in_c;
    const int64_t bound = most < 2 * range->acc_bound ? most : 2 * range->acc_bound; /* of |Y| */
    if (bound >= 1 << 25 || g.blocks * g.block_bytes > MOST_LARGE) return false;
    if (g.tiles > TILES && g.rows * g.columns < g.tiles) return false;
    const size_t computed = 100 * g.rows * g.columns * TILE_PIXELS;
    const size_t wanted = (size_t)p->out_h * (size_t)p->out_w;
    const size_t percent = nbi_chunk_of(range, p->in_type, 1) == 0 ? 200 : g.c < 32 ? 115 : 135;
    return computed <= percent * wanted;
}

/* ---- weights ------------------------------------------------------------------------------- */

/* [block][place][pair of input channels][16 output channels][2] */
static void pack(const nbk_conv *p, const int8_t *levels, void *packed) {
    static const int G[WINDOW][3] = {{6, 0, 0}, {-4, -4, -4}, {-4, 4, -4},
                                     {1, 2, 4}, {1, -2, 4},   {0, 0, 12}};
    const geometry g = geometry_of(p);
    int16_t *out = packed;
    memset(packed, 0, g.blocks * g.block_bytes);
    for (size_t o = 0; o < (size_t)p->out_c; o++)
        for (size_t c = 0; c < g.c; c++) {
            const int8_t *w = levels + o * 9 * g.c + c;
            int half[WINDOW][3];
            for (size_t i = 0; i < WINDOW; i++)
                for (size_t k = 0; k < 3; k++)
                    half[i][k] = G[i][0] * w[k * g.c] + G[i][1] * w[(3 + k) * g.c] +
                                 G[i][2] * w[(6 + k) * g.c];
            for (size_t at = 0; at < PLACES; at++) {
                const int *row = half[at / WINDOW], *f = G[at % WINDOW];
                const size_t lane = o % NBI_LANES * 2 + c % 2;
                out[o / NBI_LANES * g.block_bytes / 2 + (at * g.c / 2 + c / 2) * 2 * NBI_LANES +
                    lane] = (int16_t)(row[0] * f[0] + row[1] * f[1] + row[2] * f[2]);
            }
        }
}

/* ---- inputs -------------------------------------------------------------------------------- */

/* One column of Bᵗ d: d and t are 6 vectors each, so far apart. */
static inline void forward(__m256i d0, __m256i d1, __m256i d2, __m256i d3, __m256i d4, __m256i d5,
                           __m256i *t, size_t apart) {
    const __m256i a = _mm256_sub_epi16(d4, _mm256_slli_epi16(d2, 2));
    const __m256i b = _mm256_sub_epi16(d3, _mm256_slli_epi16(d1, 2));
    const __m256i c = _mm256_sub_epi16(d4, d2), half = _mm256_sub_epi16(d3, d1);
    const __m256i e = _mm256_add_epi16(half, half);
    store(t, _mm256_add_epi16(c, _mm256_slli_epi16(_mm256_sub_epi16(d0, d2), 2)));
    store(t + apart, _mm256_add_epi16(a, b));
    store(t + 2 * apart, _mm256_sub_epi16(a, b));
    store(t + 3 * apart, _mm256_add_epi16(c, e));
    store(t + 4 * apart, _mm256_sub_epi16(c, e));
    store(t + 5 * apart, _mm256_sub_epi16(_mm256_sub_epi16(d5, d3), _mm256_add_epi16(e, e)));
}

static inline __m256i widen(const uint8_t *at, uint8_t type) {
    const __m128i v = _mm_loadu_si128((const __m128i *)(const void *)at);
    return type == NBK_U8 ? _mm256_cvtepu8_epi16(v) : _mm256_cvtepi8_epi16(v);
}

/* Where the input of neighbouring tiles is: 6 rows, of the image or outside of it. */
typedef struct source {
    const uint8_t *row[WINDOW], *outside;
    long x, width; /* the first column; of the image */
    size_t c;
    uint8_t type;
} source;

/* 16 channels from `first` on of n tiles: columns first, as neighbours share two of six. to: of the
 * first tile, [place], so many elements apart. */
static inline void transform(const source *s, size_t first, size_t n, int16_t *to, size_t apart,
                             uint8_t type) {
    __m256i t[TILES * SIDE + 2][WINDOW];
    for (size_t k = 0; k < n * SIDE + 2; k++) {
        const long x = s->x + (long)k;
        const bool inside = x >= 0 && x < s->width;
        const size_t at = inside ? (size_t)x * s->c + first : 0;
        __m256i d[WINDOW];
        for (size_t y = 0; y < WINDOW; y++)
            d[y] = widen((inside ? s->row[y] : s->outside) + at, type);
        forward(d[0], d[1], d[2], d[3], d[4], d[5], t[k], 1);
    }
    for (size_t k = 0; k < n; k++, to += s->c) {
        __m256i(*const tile)[WINDOW] = t + k * SIDE;
        for (size_t y = 0; y < WINDOW; y++)
            forward(tile[0][y], tile[1][y], tile[2][y], tile[3][y], tile[4][y], tile[5][y],
                    (__m256i *)(void *)(to + y * WINDOW * apart), apart / NBI_LANES);
    }
}

static void transform_tiles(const source *s, size_t n, int16_t *to, size_t apart) {
    for (size_t c = 0; c < s->c; c += NBI_LANES) {
        if (s->type == NBK_U8)
            transform(s, c, n, to + c, apart, NBK_U8);
        else
            transform(s, c, n, to + c, apart, NBK_S8);
    }
}

/* ---- products ------------------------------------------------------------------------------ */

/* One tile of a step: a pair of channels times both vectors of weights. */
#define WINO_TILE(x, low, high, one, other)                                                        \
    "vpbroadcastd " x ", %%ymm10\n\t"                                                              \
    "vpmaddwd %%ymm8, %%ymm10, %%" one "\n\t"                                                      \
    "vpmaddwd %%ymm9, %%ymm10, %%" other "\n\t"                                                    \
    "vpaddd %%" one ", %[" low "], %[" low "]\n\t"                                                 \
    "vpaddd %%" other ", %[" high "], %[" high "]\n\t"

/* TOGETHER tiles × 16 output channels of one place: x: [tile][c], w: [c / 2][16][2], to:
 * [tile][16]. In assembly as in conv_dense_avx2.c; two pairs of channels a turn. */
static inline void multiply(const int16_t *x, size_t c, const int16_t *w, int32_t *to) {
    __m256i a0 = _mm256_setzero_si256(), a1 = a0;
    __m256i b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
    const size_t next = c * sizeof *x, third = 3 * next;
    const int16_t *end = x + c;
    __asm__("1:\n\t"
            "vmovdqu (%[w]), %%ymm8\n\t"
            "vmovdqu 32(%[w]), %%ymm9\n\t" /* clang-format off */
            WINO_TILE("(%[x])", "a0", "a1", "ymm11", "ymm12")
            WINO_TILE("(%[x],%[next])", "b0", "b1", "ymm13", "ymm14")
            WINO_TILE("(%[x],%[next],2)", "c0", "c1", "ymm15", "ymm11")
            WINO_TILE("(%[x],%[third])", "d0", "d1", "ymm12", "ymm13")
            "vmovdqu 64(%[w]), %%ymm8\n\t"
            "vmovdqu 96(%[w]), %%ymm9\n\t"
            WINO_TILE("4(%[x])", "a0", "a1", "ymm11", "ymm12")
            WINO_TILE("4(%[x],%[next])", "b0", "b1", "ymm13", "ymm14")
            WINO_TILE("4(%[x],%[next],2)", "c0", "c1", "ymm15", "ymm11")
            WINO_TILE("4(%[x],%[third])", "d0", "d1", "ymm12", "ymm13") /* clang-format on */
            "add $8, %[x]\n\t"
            "sub $-128, %[w]\n\t"
            "cmp %[end], %[x]\n\t"
            "jne 1b"
            : [a0] "+x"(a0), [a1] "+x"(a1), [b0] "+x"(b0), [b1] "+x"(b1), [c0] "+x"(c0),
              [c1] "+x"(c1), [d0] "+x"(d0), [d1] "+x"(d1), [x] "+r"(x), [w] "+r"(w)
            : [end] "r"(end), [next] "r"(next), [third] "r"(third)
            : "memory", "cc", "ymm8", "ymm9", "ymm10", "ymm11", "ymm12", "ymm13", "ymm14", "ymm15");
    store(to, a0), store(to + 8, a1), store(to + 16, b0), store(to + 24, b1);
    store(to + 32, c0), store(to + 40, c1), store(to + 48, d0), store(to + 56, d1);
}

/* ---- outputs ------------------------------------------------------------------------------- */

/* One column of Aᵗ m: 6 vectors of 8 sums, `from` bytes apart, to 4. */
static inline void backward(const void *m, size_t from, __m256i *y, size_t to) {
    const char *at = m;
    const __m256i m0 = load(at), m1 = load(at + from), m2 = load(at + 2 * from);
    const __m256i m3 = load(at + 3 * from), m4 = load(at + 4 * from), m5 = load(at + 5 * from);
    const __m256i s = _mm256_add_epi32(m1, m2), d = _mm256_sub_epi32(m1, m2);
    const __m256i s2 = _mm256_add_epi32(m3, m4), d2 = _mm256_sub_epi32(m3, m4);
    const __m256i last = _mm256_add_epi32(_mm256_slli_epi32(d2, 2), m5);
    y[0] = _mm256_add_epi32(m0, _mm256_add_epi32(s, s2));
    y[to] = _mm256_add_epi32(d, _mm256_add_epi32(d2, d2));
    y[2 * to] = _mm256_add_epi32(s, _mm256_slli_epi32(s2, 2));
    y[3 * to] = _mm256_add_epi32(d, _mm256_add_epi32(last, last));
}

/* 576·Y → 64·Y */
static inline __m256i ninth(__m256i v) {
    return _mm256_mullo_epi32(v, _mm256_set1_epi32((int)0x38e38e39)); /* of 1, modulo 2^32 */
}

/* 64·Y → Y + bias. */
static inline __m256i divide(__m256i v, __m256i bias) {
    return _mm256_add_epi32(bias, _mm256_srai_epi32(v, 6));
}

/* The columns of a tile's 8 channels, m: [place], so many bytes apart. */
static inline void columns(const int32_t *m, size_t place, __m256i t[SIDE][WINDOW]) {
    for (size_t x = 0; x < WINDOW; x++)
        backward((const char *)m + x * place, WINDOW * place, &t[0][x], WINDOW);
}

/* … and a row of it: 64·Y. */
static inline void row_of(const __m256i t[WINDOW], __m256i y[SIDE]) {
    backward(t, sizeof t[0], y, 1);
    for (size_t k = 0; k < SIDE; k++) y[k] = ninth(y[k]);
}

/* 16 channels of a tile, m as in columns; acc: 4 rows of 4 pixels, so many elements apart. */
static void untransform(const int32_t *m, size_t place, const int32_t *bias, int32_t *acc,
                        size_t row, size_t pixel) {
    for (size_t half = 0; half < NBI_LANES; half += 8) {
        const __m256i b = load(bias + half);
        __m256i t[SIDE][WINDOW], y[SIDE];
        columns(m + half, place, t);
        for (size_t r = 0; r < SIDE; r++) {
            row_of(t[r], y);
            for (size_t k = 0; k < SIDE; k++)
                store(acc + r * row + k * pixel + half, divide(y[k], b));
        }
    }
}

/* A whole tile as bytes, without its sums in memory. out: its first pixel, rows of so many bytes. */
static inline void untransform_bytes(const int32_t *m, size_t place, const nbi_requant *q,
                                     uint8_t type, uint8_t *out, size_t row) {
    const quick k = quick_of(q, 64);
    const limits l = limits_of(q);
    const __m256i none = _mm256_setzero_si256();
    __m256i t[2][SIDE][WINDOW];
    columns(m, place, t[0]);
    columns(m + 8, place, t[1]);
    for (size_t r = 0; r < SIDE; r++, out += row) {
        __m256i y[2][SIDE], v[2], differ = none;
        row_of(t[0][r], y[0]);
        row_of(t[1][r], y[1]);
        for (size_t x = 0; x < 2; x++)
            v[x] = requant2_quick(&k, &l, type,
                                  (const __m256i[4]){y[0][2 * x], y[1][2 * x], y[0][2 * x + 1],
                                                     y[1][2 * x + 1]},
                                  &differ);
        if (!_mm256_testz_si256(differ, differ)) {
            const rescale wide[2] = {rescale_of(q, 0), rescale_of(q, 8)};
            for (size_t x = 0; x < 2; x++)
                v[x] = requant2_wide(wide, &l, type,
                                     (const __m256i[4]){divide(y[0][2 * x], none),
                                                        divide(y[1][2 * x], none),
                                                        divide(y[0][2 * x + 1], none),
                                                        divide(y[1][2 * x + 1], none)});
        }
        for (size_t x = 0; x < 2; x++) {
            uint8_t *at = out + 2 * x * q->stride;
            _mm_storeu_si128((__m128i *)(void *)at, _mm256_castsi256_si128(v[x]));
            _mm_storeu_si128((__m128i *)(void *)(at + q->stride), _mm256_extracti128_si256(v[x], 1));
        }
    }
}

/* ---- the convolution ------------------------------------------------------------------------ */

typedef struct job {
    const nbk_conv *p;
    geometry g;
    const int16_t *w;
    void *out;
    int32_t *acc;         /* not NULL: the sums instead of out */
    int16_t *input;       /* [place][tiles][c] */
    int32_t *product;     /* [place][tiles][16] */
    nbi_requant *requant; /* [block] */
    int32_t *no_bias;     /* [channels] of 0 */
} job;

/* Neighbouring tiles of a group, all in one row of tiles; TILES at most. */
typedef struct run_of_tiles {
    size_t slot, n;       /* in the group */
    size_t y, x;          /* first pixel */
    size_t width, height; /* in pixels, inside the image */
} run_of_tiles;

static run_of_tiles find_run(const job *j, size_t first, size_t slot, size_t n) {
    const size_t tile = first + slot, column = tile % j->g.columns;
    const size_t w = (size_t)j->p->out_w, h = (size_t)j->p->out_h;
    run_of_tiles r = {.slot = slot, .y = tile / j->g.columns * SIDE, .x = column * SIDE};
    r.n = j->g.columns - column < n - slot ? j->g.columns - column : n - slot;
    if (r.n > TILES) r.n = TILES;
    r.width = w - r.x < r.n * SIDE ? w - r.x : r.n * SIDE;
    r.height = h - r.y < SIDE ? h - r.y : SIDE;
    return r;
}

/* The outputs of a run: whole tiles in place, all else through rows of 16 channels. */
static void finish_run(const job *j, const nbi_requant *q, const int32_t *bias,
                       const run_of_tiles *r) {
    _Alignas(64) int32_t rows[SIDE * TILES * SIDE * NBI_LANES];
    const size_t width = (size_t)j->p->out_w, start = r->y * width + r->x;
    const bool whole =
        q->channels == NBI_LANES && r->width == r->n * SIDE && r->height == SIDE;
    const bool direct = j->acc && whole, bytes = !j->acc && whole && q->fast && q->type != NBK_S32;
    const size_t pixel = direct ? q->stride : NBI_LANES;
    const size_t row = direct ? width * q->stride : r->n * SIDE * NBI_LANES;
    const size_t place = j->g.tiles * NBI_LANES * sizeof(int32_t);
    int32_t *acc = direct ? j->acc + start * q->stride + (size_t)q->first : rows;
    for (size_t k = 0; k < r->n; k++) {
        const int32_t *m = j->product + (r->slot + k) * NBI_LANES;
        uint8_t *out = (uint8_t *)j->out + (start + k * SIDE) * q->stride + (size_t)q->first;
        if (!bytes)
            untransform(m, place, bias, acc + k * SIDE * pixel, row, pixel);
        else if (q->type == NBK_U8)
            untransform_bytes(m, place, q, NBK_U8, out, width * q->stride);
        else
            untransform_bytes(m, place, q, NBK_S8, out, width * q->stride);
    }
    for (size_t y = 0; y < r->height && !direct && !bytes; y++, acc += row) {
        const size_t first = start + y * width;
        if (!j->acc) nbi_requant_avx2(q, acc, NBI_LANES, first, r->width, j->out);
        for (size_t k = 0; k < r->width && j->acc; k++)
            memcpy(j->acc + (first + k) * q->stride + (size_t)q->first, acc + k * NBI_LANES,
                   (size_t)q->channels * sizeof *acc);
    }
}

/* n tiles from number `first` on, 16 output channels. */
static void run_block(const job *j, size_t first, size_t n, size_t block) {
    const geometry *g = &j->g;
    const int16_t *w = j->w + block * g->block_bytes / sizeof *w;
    const nbi_requant *q = &j->requant[block];
    _Alignas(32) int32_t bias[NBI_LANES] = {0};
    for (size_t place = 0; place < PLACES; place++, w += g->c * NBI_LANES)
        for (size_t t = 0; t < n; t += TOGETHER)
            multiply(j->input + (place * g->tiles + t) * g->c, g->c, w,
                     j->product + (place * g->tiles + t) * NBI_LANES);
    if (j->acc) /* else the requantization adds it */
        memcpy(bias, (const int32_t *)j->p->bias + q->first, (size_t)q->channels * sizeof *bias);
    for (size_t t = 0; t < n;) {
        const run_of_tiles r = find_run(j, first, t, n);
        finish_run(j, q, bias, &r);
        t += r.n;
    }
}

/* Of sums without the bias. */
static void init_requant(const job *j) {
    const int lanes = NBI_LANES;
    for (int first = 0; first < j->p->out_c; first += lanes) {
        const int rest = j->p->out_c - first, n = rest < lanes ? rest : lanes;
        nbi_requant_init(&j->requant[first / lanes], j->p, j->no_bias, first, n);
    }
}

/* The inputs of n tiles from number `first` on. */
static void transform_group(const job *j, const uint8_t *in, const uint8_t *outside, size_t first,
                            size_t n) {
    const nbk_conv *p = j->p;
    const size_t row = (size_t)p->in_w * j->g.c;
    for (size_t t = 0; t < n;) {
        const run_of_tiles r = find_run(j, first, t, n);
        source s = {.outside = outside, .x = (long)r.x - p->pl, .width = p->in_w, .c = j->g.c,
                    .type = p->in_type};
        for (size_t k = 0; k < WINDOW; k++) {
            const long y = (long)(r.y + k) - p->pt;
            s.row[k] = y >= 0 && y < p->in_h ? in + (size_t)y * row : outside;
        }
        transform_tiles(&s, r.n, j->input + t * j->g.c, j->g.tiles * j->g.c);
        t += r.n;
    }
}

/* Groups of tiles and blocks of channels, the ones behind the last. */
typedef struct range_of_work {
    size_t group, groups, block, blocks;
} range_of_work;

static range_of_work all_work(const geometry *g) {
    return (range_of_work){0, (g->rows * g->columns + g->tiles - 1) / g->tiles, 0, g->blocks};
}

/* By groups if there are enough of them; else every part transforms the inputs for its blocks. */
static range_of_work part_of_work(const geometry *g, size_t part, size_t parts) {
    range_of_work r = all_work(g);
    if (r.groups >= parts) {
        r.group = r.groups * part / parts;
        r.groups = r.groups * (part + 1) / parts;
    } else {
        r.block = r.blocks * part / parts;
        r.blocks = r.blocks * (part + 1) / parts;
    }
    return r;
}

static void run_work(const nbk_conv *p, const void *packed, const void *in, void *out, int32_t *acc,
                     void *scratch, range_of_work work) {
    job j = {.p = p, .g = geometry_of(p), .w = packed, .out = out, .acc = acc};
    uint8_t *outside = scratch, *next = outside + j.g.outside;
    j.input = (int16_t *)(void *)next, next += j.g.input;
    j.product = (int32_t *)(void *)next, next += j.g.product;
    j.requant = (nbi_requant *)(void *)next;
    j.no_bias = (int32_t *)(void *)(next + j.g.requant);
    memset(j.no_bias, 0, j.g.no_bias);
    memset(outside, p->in_zero, j.g.outside);
    init_requant(&j);
    const size_t tiles = j.g.rows * j.g.columns;
    for (size_t group = work.group; group < work.groups; group++) {
        const size_t first = group * j.g.tiles;
        const size_t n = tiles - first < j.g.tiles ? tiles - first : j.g.tiles;
        transform_group(&j, in, outside, first, n);
        for (size_t b = work.block; b < work.blocks; b++) run_block(&j, first, n, b);
    }
}

static void run(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                void *out, void *scratch) {
    const geometry g = geometry_of(p);
    (void)range;
    run_work(p, packed, in, out, NULL, scratch, all_work(&g));
}

static void run_part(const nbk_conv *p, const nbi_conv_range *range, const void *packed,
                     const void *in, void *out, void *scratch, int part, int parts) {
    const geometry g = geometry_of(p);
    (void)range;
    run_work(p, packed, in, out, NULL, scratch, part_of_work(&g, (size_t)part, (size_t)parts));
}

static void sums(const nbk_conv *p, const nbi_conv_range *range, const void *packed, const void *in,
                 int32_t *acc, void *scratch) {
    const geometry g = geometry_of(p);
    (void)range;
    run_work(p, packed, in, NULL, acc, scratch, all_work(&g));
}

extern const nbi_conv_kernel nbi_conv_row_avx2_wino;
const nbi_conv_kernel nbi_conv_row_avx2_wino = {
    .name = "nbi_conv_8_8_avx2_wino",
    .isa = NBI_ISA_AVX2,
    .supports = supports,
    .packed_bytes = packed_bytes,
    .pack = pack,
    .scratch_bytes = scratch_bytes,
    .run = run,
    .run_part = run_part,
    .sums = sums,
    .finish = nbi_finish_x86,
};

#endif
