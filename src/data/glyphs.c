/* builtin:glyphs. Each picture: a colour gradient, fragments of other glyphs as clutter, one glyph
 * under a random affine map, strokes across it, noise. Coordinates are pixels in 24.8 fixed point;
 * a stroke's edge is softened by a ramp in the squared distance, so neither square roots per pixel
 * nor floats are needed. The ten shapes come in look-alike pairs (O/Q, E/F, P/R, Z/2, K/S), which
 * is what makes coarse weights cost accuracy. */
#include "data/glyphs.h"

#include <stdlib.h>
#include <string.h>

enum { SIZE = NBI_GLYPH_SIZE, ONE = 256, POINTS = 20, PEN_UP = 127 };
/* The look of the set; these constants fix its difficulty. */
enum {
    SEED = 0x6e6962,
    CONTRAST = 100,   /* smallest |glyph − ground| summed over the channels */
    NOISE_LOW = 24,   /* half-width of the noise of the cleanest picture … */
    NOISE_RANGE = 56, /* … and how much the noisiest has on top */
    CLUTTER_LOW = 2,  /* fragments behind the glyph: 2..5 */
    CLUTTER_RANGE = 4
};

/* Shapes on a grid x −30..30, y −40..40; PEN_UP starts a new stroke, the second one in a row or
 * the end of the array ends the glyph. */
typedef struct point {
    int8_t x, y;
} point;
#define UP                                                                                         \
    { PEN_UP, 0 }
static const point shapes[NBI_GLYPH_CLASSES][POINTS] = {
    /* O */ {{-12, -40},
             {12, -40},
             {30, -18},
             {30, 18},
             {12, 40},
             {-12, 40},
             {-30, 18},
             {-30, -18},
             {-12, -40},
             UP,
             UP},
    /* Q */
    {{-12, -40},
     {12, -40},
     {30, -18},
     {30, 18},
     {12, 40},
     {-12, 40},
     {-30, 18},
     {-30, -18},
     {-12, -40},
     UP,
     {6, 14},
     {32, 42},
     UP,
     UP},
    /* E */ {{28, -40}, {-26, -40}, {-26, 40}, {28, 40}, UP, {-26, 0}, {18, 0}, UP, UP},
    /* F */ {{28, -40}, {-26, -40}, {-26, 40}, UP, {-26, 0}, {18, 0}, UP, UP},
    /* P */ {{-26, 40}, {-26, -40}, {14, -40}, {28, -30}, {28, -8}, {14, 2}, {-26, 2}, UP, UP},
    /* R */
    {{-26, 40},
     {-26, -40},
     {14, -40},
     {28, -30},
     {28, -8},
     {14, 2},
     {-26, 2},
     UP,
     {2, 2},
     {28, 40},
     UP,
     UP},
    /* Z */ {{-28, -40}, {28, -40}, {-28, 40}, {28, 40}, UP, UP},
    /* 2 */ {{-28, -24}, {-14, -40}, {14, -40}, {28, -26}, {26, -10}, {-28, 40}, {28, 40}, UP, UP},
    /* K */ {{-26, -40}, {-26, 40}, UP, {28, -40}, {-24, 4}, UP, {-8, -8}, {28, 40}, UP, UP},
    /* S */
    {{28, -28},
     {12, -40},
     {-14, -40},
     {-28, -26},
     {-24, -8},
     {24, 8},
     {28, 26},
     {14, 40},
     {-12, 40},
     {-28, 28},
     UP,
     UP},
};

/* Q8 map of grid units to pixels: (x, y) → (a·x + b·y + tx, c·x + d·y + ty). */
typedef struct affine {
    int a, b, c, d, tx, ty;
} affine;
typedef struct mask {
    uint8_t cover[SIZE][SIZE]; /* 0..255 */
} mask;

/* Uniform in lo..hi. */
static int pick(nbi_rng *rng, int lo, int hi) {
    return lo + (int)nbi_rng_below(rng, (uint32_t)(hi - lo + 1));
}

static int clamp(int x, int lo, int hi) {
    return x < lo ? lo : x > hi ? hi : x;
}

static int root(int64_t x) {
    int64_t r = 0;
    for (int64_t bit = (int64_t)1 << 30; bit; bit >>= 1)
        if ((r + bit) * (r + bit) <= x) r += bit;
    return (int)r;
}

/* Squared distance of (dx, dy), seen from the start, to a stroke with direction (vx, vy). */
static int64_t distance2(int dx, int dy, int vx, int vy, int len2, int64_t inverse) {
    int dot = dx * vx + dy * vy;
    if (dot <= 0) return (int64_t)dx * dx + (int64_t)dy * dy;
    if (dot >= len2) return (int64_t)(dx - vx) * (dx - vx) + (int64_t)(dy - vy) * (dy - vy);
    int64_t across = llabs((int64_t)dx * vy - (int64_t)dy * vx) * inverse >> 20;
    return across * across;
}

/* Covers the pixels within `radius` of the stroke (x0,y0)–(x1,y1); all Q8. */
static void draw_stroke(mask *m, const int from[2], const int to[2], int radius) {
    int vx = to[0] - from[0], vy = to[1] - from[1], len2 = vx * vx + vy * vy;
    int64_t outer = radius + ONE / 2, inner = radius > ONE / 2 ? radius - ONE / 2 : 0;
    int64_t slope = (255 << 20) / (outer * outer - inner * inner);
    int64_t inverse = len2 ? ((int64_t)1 << 20) / root(len2) : 0;
    int reach = (int)outer;
    int left = clamp(((vx < 0 ? to[0] : from[0]) - reach) / ONE, 0, SIZE - 1);
    int right = clamp(((vx < 0 ? from[0] : to[0]) + reach) / ONE, 0, SIZE - 1);
    int top = clamp(((vy < 0 ? to[1] : from[1]) - reach) / ONE, 0, SIZE - 1);
    int bottom = clamp(((vy < 0 ? from[1] : to[1]) + reach) / ONE, 0, SIZE - 1);
    for (int y = top; y <= bottom; y++)
        for (int x = left; x <= right; x++) {
            int64_t d2 = distance2(x * ONE + ONE / 2 - from[0], y * ONE + ONE / 2 - from[1], vx, vy,
                                   len2, inverse);
            if (d2 >= outer * outer) continue;
            int64_t cover = (outer * outer - d2) * slope >> 20;
            if (cover > 255) cover = 255;
            if (cover > m->cover[y][x]) m->cover[y][x] = (uint8_t)cover;
        }
}

/* A turn of up to `turn`/256 (as a tangent), a shear and a size of `scale` Q8 pixels per unit. */
static affine random_affine(nbi_rng *rng, int scale, int turn, int tx, int ty) {
    int k = pick(rng, -turn, turn), wide = pick(rng, 208, 288), tall = pick(rng, 224, 288);
    int shear = pick(rng, -48, 48);
    return (affine){.a = scale * wide / 256,
                    .b = scale * (shear - k) / 256,
                    .c = scale * k / 256,
                    .d = scale * tall / 256,
                    .tx = tx,
                    .ty = ty};
}

/* Strokes first..first+count-1 of a shape (all, if count is 0). */
static void draw_shape(mask *m, int shape, const affine *f, int radius, int first, int count) {
    const point *p = shapes[shape];
    int stroke = 0;
    for (int i = 0; i + 1 < POINTS; i++) {
        if (p[i].x == PEN_UP && p[i + 1].x == PEN_UP) return;
        if (p[i].x == PEN_UP || p[i + 1].x == PEN_UP) continue;
        int from[2] = {f->a * p[i].x + f->b * p[i].y + f->tx,
                       f->c * p[i].x + f->d * p[i].y + f->ty};
        int to[2] = {f->a * p[i + 1].x + f->b * p[i + 1].y + f->tx,
                     f->c * p[i + 1].x + f->d * p[i + 1].y + f->ty};
        if (!count || (stroke >= first && stroke < first + count)) draw_stroke(m, from, to, radius);
        stroke++;
    }
}

/* Blends `colour` where the mask covers, with opacity alpha/256, and clears the mask. */
static void blend(mask *m, const int colour[3], int alpha, uint8_t *out) {
    const uint8_t *cover = &m->cover[0][0];
    for (int i = 0; i < SIZE * SIZE; i++) {
        if (!cover[i]) continue;
        int w = cover[i] * alpha;
        for (int c = 0; c < 3; c++)
            out[3 * i + c] = (uint8_t)((out[3 * i + c] * (65280 - w) + colour[c] * w) / 65280);
    }
    memset(m, 0, sizeof *m);
}

static void random_colour(nbi_rng *rng, int colour[3]) {
    for (int c = 0; c < 3; c++) colour[c] = pick(rng, 0, 255);
}

static void contrasting_colour(nbi_rng *rng, const int ground[3], int colour[3]) {
    int contrast;
    do {
        random_colour(rng, colour);
        contrast = 0;
        for (int c = 0; c < 3; c++) contrast += abs(colour[c] - ground[c]);
    } while (contrast < CONTRAST);
}

static void fill_ground(nbi_rng *rng, const int ground[3], uint8_t *out) {
    int sx[3], sy[3];
    for (int c = 0; c < 3; c++) sx[c] = pick(rng, -512, 512), sy[c] = pick(rng, -512, 512);
    for (int y = 0; y < SIZE; y++)
        for (int x = 0; x < SIZE; x++)
            for (int c = 0; c < 3; c++) {
                int v = ground[c] + (sx[c] * (x - SIZE / 2) + sy[c] * (y - SIZE / 2)) / 256;
                *out++ = (uint8_t)clamp(v, 0, 255);
            }
}

static void draw_clutter(nbi_rng *rng, mask *m, uint8_t *out) {
    int n = CLUTTER_LOW + pick(rng, 0, CLUTTER_RANGE - 1);
    for (int i = 0; i < n; i++) {
        int colour[3], tx = pick(rng, 0, SIZE * ONE - 1), ty = pick(rng, 0, SIZE * ONE - 1);
        random_colour(rng, colour);
        affine f = random_affine(rng, pick(rng, 40, 80), 160, tx, ty);
        int radius = pick(rng, 160, 400), shape = pick(rng, 0, NBI_GLYPH_CLASSES - 1);
        int first = pick(rng, 0, 6), at[2] = {tx, ty};
        if (i == 0)
            draw_stroke(m, at, at, radius * 2);
        else
            draw_shape(m, shape, &f, radius, first, 2);
        blend(m, colour, pick(rng, 96, 255), out);
    }
}

/* A thin stroke right across, which may cut the glyph. */
static void draw_scratch(nbi_rng *rng, mask *m, uint8_t *out) {
    int colour[3], from[2], to[2];
    random_colour(rng, colour);
    for (int i = 0; i < 2; i++) {
        from[i] = pick(rng, 0, SIZE * ONE - 1);
        to[i] = pick(rng, 0, SIZE * ONE - 1);
    }
    draw_stroke(m, from, to, pick(rng, 96, 224));
    blend(m, colour, pick(rng, 128, 255), out);
}

/* Triangular noise: the sum of two bytes, centred, times `width`/256. */
static void add_noise(nbi_rng *rng, int width, uint8_t *out) {
    for (int i = 0; i < SIZE * SIZE * 3; i += 2) {
        uint32_t r = nbi_rng_u32(rng);
        for (int j = 0; j < 2; j++, r >>= 16) {
            int noise = ((int)(r & 255) + (int)(r >> 8 & 255) - 255) * width / 256;
            out[i + j] = (uint8_t)clamp(out[i + j] + noise, 0, 255);
        }
    }
}

int nbi_glyph_draw(int split, uint32_t index, uint8_t *out) {
    nbi_rng rng;
    mask m = {0};
    int ground[3], colour[3], label = (int)(index % NBI_GLYPH_CLASSES);
    nbi_rng_seed(&rng, SEED, (uint64_t)split << 32 | index);
    random_colour(&rng, ground);
    fill_ground(&rng, ground, out);
    draw_clutter(&rng, &m, out);
    contrasting_colour(&rng, ground, colour);
    int tx = SIZE / 2 * ONE + pick(&rng, -1024, 1024),
        ty = SIZE / 2 * ONE + pick(&rng, -1024, 1024);
    affine f = random_affine(&rng, pick(&rng, 44, 84), 110, tx, ty);
    draw_shape(&m, label, &f, pick(&rng, 200, 400), 0, 0);
    blend(&m, colour, pick(&rng, 192, 256), out);
    for (int n = pick(&rng, 0, 2); n > 0; n--) draw_scratch(&rng, &m, out);
    add_noise(&rng, NOISE_LOW + pick(&rng, 0, NOISE_RANGE), out);
    return label;
}
