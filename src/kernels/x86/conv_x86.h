/* What the x86 convolutions share: everything except the multiplication itself.
 *
 * The image is copied, band by band (a few output rows), into a padded buffer, as bytes or widened
 * to int16; where nothing has to change, the input itself is used. There a kernel row is a segment
 * of kw·c neighbouring elements (kw segments of c when dilated or grouped). A segment is read in
 * steps of 4 bytes (4 codes, or 2 widened ones); reads behind its end meet weights of 0. A tile
 * function computes up to NBI_TILE_PIXELS pixels × 16 output channels from the addresses of pixels
 * and the offsets of steps alone. Packed weights: a block of 16 channels after the other, each
 * [step][16 channels][4 bytes]; in front of them Σw per channel and what is known of every block
 * (nbi_block).
 * Depthwise: a step is the 16 channels of one tap, widened, and a
 * block of weights is [pair of taps][16 channels][2 taps] as int16. */
#ifndef NIBBLE_KERNELS_CONV_X86_H
#define NIBBLE_KERNELS_CONV_X86_H

#include "kernels/kernels.h"

#define NBI_LANES       16
#define NBI_TILE_PIXELS 32 /* enough to make the calls around a tile cheap */

typedef struct nbi_tile {
    const uint8_t *pixel[NBI_TILE_PIXELS]; /* address of the first tap; filled up to a group */
    size_t pixels;
    const uint32_t *offset; /* of every step, in bytes */
    size_t steps;
    const uint8_t *w;
    const int32_t *bias; /* [16] */
    size_t chunk;        /* steps that may be summed in int16, from 0, chunk, 2·chunk, … on */
    int16_t unit;        /* a weight of 1 counts so much; 1 unless nbi_dense.chunked */
    int32_t *acc;        /* [pixels, filled up to a group] rows of `stride`, 16 are written */
    size_t stride;
} nbi_tile;

/* The requantization of 16 channels. SIMD needs shift ≥ 32 everywhere (`fast`). */
typedef struct nbi_requant {
    int64_t half_even[8], half_odd[8]; /* 2^(shift−1) of channels 0, 2, … and 1, 3, … */
    int32_t mult[NBI_LANES], shift[NBI_LANES], shift_high[NBI_LANES]; /* shift − 32 */
    int64_t missing[NBI_LANES]; /* of the bias; the halves contain missing·mult */
    float scale[NBI_LANES], low[NBI_LANES], high[NBI_LANES]; /* the quick way of requant_avx2.h */
    int32_t lo, hi, zero;
    uint8_t type;
    bool fast;
    size_t stride;       /* channels of the output */
    int first, channels; /* of this block; channels ≤ 16 */
} nbi_requant;
/* had: as in nbi_conv_kernel.finish. */
void nbi_requant_init(nbi_requant *q, const nbk_conv *p, const int32_t *had, int first,
                      int channels);
/* acc: [pixels] rows of acc_stride, at least 16 readable; pixel: of the first one in out. */
void nbi_requant_avx2(const nbi_requant *q, const int32_t *acc, size_t acc_stride, size_t pixel,
                      size_t pixels, void *out);
/* nbi_conv_kernel.finish, for every row. */
void nbi_finish_x86(const nbk_conv *p, const int32_t *acc, const int32_t *had, size_t pixels,
                    void *out);

/* Copies n values to dst as bytes plus `add`, or as int16; may touch 32 elements more on both
 * sides. type: of src. */
typedef void (*nbi_widen_fn)(void *dst, const uint8_t *src, size_t n, uint8_t type, int add);
void nbi_copy_bytes_avx2(void *dst, const uint8_t *src, size_t n, uint8_t type, int add);
void nbi_widen_avx2(void *dst, const uint8_t *src, size_t n, uint8_t type, int add);

/* The padded copy of some rows of the image. */
typedef struct nbi_band {
    size_t element;   /* bytes: 1 or 2 */
    size_t row_bytes; /* of a padded row */
    size_t bytes;     /* of the buffer; 0: the input is used as it is */
    int height;       /* output rows per band */
    int rows, width;  /* input rows of a full band, pixels per padded row */
} nbi_band;
/* as_is: the values need no change. */
nbi_band nbi_band_of(const nbk_conv *p, size_t element, bool as_is);
/* Fills the band of output rows y…y+height−1 and returns the address of its first tap. */
const uint8_t *nbi_band_fill(const nbk_conv *p, const nbi_band *band, nbi_widen_fn copy, int add,
                             const uint8_t *in, int y, int height, uint8_t *buffer);

/* A block of packed weights: levels / unit, `chunk` as in nbi_tile for any bytes they may meet. */
typedef struct nbi_block {
    int32_t chunk, unit;
} nbi_block;

/* A way to multiply. */
typedef struct nbi_dense {
    size_t element; /* 1: bytes (unsigned), 2: int16 */
    bool chunked;   /* the tile sums in int16, and multiplies by `unit` when it widens */
    size_t group;   /* pixels that the tile computes together; divides NBI_TILE_PIXELS */
    nbi_widen_fn copy;
    void (*tile)(const nbi_tile *t);
    bool depthwise; /* a step is a tap; their number is even, weights are packed by pairs of taps */
} nbi_dense;
size_t nbi_dense_packed_bytes(const nbi_dense *d, const nbk_conv *p);
void nbi_dense_pack(const nbi_dense *d, const nbk_conv *p, const int8_t *levels, void *packed);
size_t nbi_dense_scratch(const nbi_dense *d, const nbk_conv *p);
typedef struct nbi_dense_io {
    const nbi_conv_range *range;
    const void *packed, *in;
    void *out, *scratch;
    int32_t *acc; /* not NULL: the sums instead of out */
    int part, parts; /* of the output rows; parts 0: all of them */
} nbi_dense_io;
void nbi_dense_run(const nbi_dense *d, const nbk_conv *p, const nbi_dense_io *io);
/* How many steps of unsigned byte × weight products fit into int16 sums of pairs, with weights that
 * are multiples of `unit` divided by it; 0: not one. */
size_t nbi_chunk_of(const nbi_conv_range *range, uint8_t in_type, int unit);

#endif
