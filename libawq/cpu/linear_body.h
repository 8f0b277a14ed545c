/* The kernels of one instruction set, written once.  A file that includes this defines beforehand
 *
 *     TARGET                     function attribute that selects the instruction set, possibly empty
 *     LANES                      floats in a vector register
 *     TILE_ROWS, TILE_VECTORS    the part of a tile whose sums fit in the registers, dividing STRIP and PANEL
 *     GEMV_SUMS                  registers for the sums of a matrix-vector product
 *     vec                        vector_size type of LANES floats
 *     vec_fma(a, b, c)           a b + c, in one rounding where the processor can
 *     vec_load_f16(p)            LANES half-precision numbers
 *
 * and gets static const functions to put in its table.  Multiplication and addition are fused by name and never by the
 * compiler, which is told not to contract anything. */

#define INLINE TARGET static inline __attribute__((always_inline))

/* Arrays of sums are registers only when every index into them is a constant. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef int32_t ivec __attribute__((vector_size(LANES * 4)));
typedef uint32_t uvec __attribute__((vector_size(LANES * 4)));
typedef uint16_t hvec __attribute__((vector_size(LANES * 2)));
typedef uint8_t bvec __attribute__((vector_size(LANES)));

/* The same without a claim on alignment or type. */
typedef float vec_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint32_t uvec_any __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef uint16_t hvec_any __attribute__((vector_size(LANES * 2), aligned(2), may_alias));
typedef uint8_t bvec_any __attribute__((vector_size(LANES), aligned(1), may_alias));

INLINE vec load(const float *p) { return *(const vec_any *)p; }
INLINE void store(float *p, vec value) { *(vec_any *)p = value; }
INLINE vec splat(float value) { return value - (vec){0}; } /* x - 0 is x, also for -0 */

/* LANES weights of a dense panel, converted in registers. */
INLINE vec load_weights(int32_t dtype, const void *values, int64_t index)
{
    if (dtype == AWQ_F32) return load((const float *)values + index);
    const uint16_t *halves = (const uint16_t *)values + index;
    if (dtype == AWQ_F16) return vec_load_f16(halves);
    return (vec)(__builtin_convertvector(*(const hvec_any *)halves, uvec) << 16);
}

/* Code 'index' of each of LANES words, less its zero point, exactly: from 2^23 to 2^24 neighbouring floats are 1 apart,
 * so a code put into the lowest bits of 2^23 is added to it.  'zeros' are zero points plus 2^23. */
INLINE vec decode(uvec words, int index, int width, vec zeros)
{
    uvec codes = (words >> (uint32_t)(index * width)) & (uint32_t)((1u << width) - 1);
    return (vec)(codes | 0x4b000000u) - zeros;
}

INLINE uvec load_words(const uint32_t *p) { return *(const uvec_any *)p; }

INLINE vec load_zeros(const uint8_t *p)
{
    return __builtin_convertvector(__builtin_convertvector(*(const bvec_any *)p, ivec), vec) + 0x1p23f;
}

/* ---- tile */

INLINE void tile_part(int64_t depth, const float *restrict a, const float *restrict b, float *restrict c)
{
    vec sums[TILE_ROWS][TILE_VECTORS];
    UNROLL
    for (int i = 0; i < TILE_ROWS; i++)
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j++) sums[i][j] = load(c + i * AWQI_PANEL + j * LANES);
    for (int64_t k = 0; k < depth; k++, a += AWQI_STRIP, b += AWQI_PANEL) {
        vec right[TILE_VECTORS];
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j++) right[j] = load(b + j * LANES);
        UNROLL
        for (int i = 0; i < TILE_ROWS; i++)
            UNROLL
            for (int j = 0; j < TILE_VECTORS; j++) sums[i][j] = vec_fma(splat(a[i]), right[j], sums[i][j]);
    }
    UNROLL
    for (int i = 0; i < TILE_ROWS; i++)
        UNROLL
        for (int j = 0; j < TILE_VECTORS; j++) store(c + i * AWQI_PANEL + j * LANES, sums[i][j]);
}

TARGET static void tile(int64_t depth, const float *a, const float *b, float *c)
{
    for (int j = 0; j < AWQI_PANEL; j += TILE_VECTORS * LANES)
        for (int i = 0; i < AWQI_STRIP; i += TILE_ROWS) tile_part(depth, a + i, b + j, c + i * AWQI_PANEL + j);
}

/* ---- unpack */

INLINE void unpack_dense(int32_t dtype, const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count,
                         float *b)
{
    int64_t begin = (panel * w->k + first) * AWQI_PANEL;
    for (int64_t i = 0; i < count * AWQI_PANEL; i += LANES) store(b + i, load_weights(dtype, w->values, begin + i));
}

/* Inputs 'first' .. 'first + count - 1' of one group, one vector of outputs. */
INLINE void unpack_group(int width, const uint32_t *words, int64_t first, int64_t count, vec zeros, vec scales,
                         float *b)
{
    const int per_word = 32 / width;
    int64_t k = 0;
    for (; k < count && (first + k) % per_word != 0; k++) {
        uvec word = load_words(words + (first + k) / per_word * AWQI_PANEL);
        store(b + k * AWQI_PANEL, decode(word, (int)((first + k) % per_word), width, zeros) * scales);
    }
    for (; k + per_word <= count; k += per_word) {
        uvec word = load_words(words + (first + k) / per_word * AWQI_PANEL);
        UNROLL
        for (int i = 0; i < per_word; i++) store(b + (k + i) * AWQI_PANEL, decode(word, i, width, zeros) * scales);
    }
    for (; k < count; k++) {
        uvec word = load_words(words + (first + k) / per_word * AWQI_PANEL);
        store(b + k * AWQI_PANEL, decode(word, (int)((first + k) % per_word), width, zeros) * scales);
    }
}

INLINE void unpack_codes(int width, const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    while (count > 0) {
        int64_t group = first / w->group_size, within = first % w->group_size;
        int64_t taken = awqi_min64(count, w->group_size - within);
        const uint32_t *words = w->codes + (panel * w->panel_words + group * w->group_words) * AWQI_PANEL;
        int64_t header = (panel * w->groups + group) * AWQI_PANEL;
        for (int j = 0; j < AWQI_PANEL; j += LANES)
            unpack_group(width, words + j, within, taken, load_zeros(w->zeros + header + j),
                         load(w->scales + header + j), b + j);
        first += taken;
        count -= taken;
        b += taken * AWQI_PANEL;
    }
}

TARGET static void unpack(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    if (w->dtype == AWQ_F32) unpack_dense(AWQ_F32, w, panel, first, count, b);
    else if (w->dtype == AWQ_F16) unpack_dense(AWQ_F16, w, panel, first, count, b);
    else if (w->dtype == AWQ_BF16) unpack_dense(AWQ_BF16, w, panel, first, count, b);
    else if (w->width == 2) unpack_codes(2, w, panel, first, count, b);
    else if (w->width == 4) unpack_codes(4, w, panel, first, count, b);
    else unpack_codes(8, w, panel, first, count, b);
}

/* ---- gemv: 'rows' rows of x at once and 'vectors' registers of outputs, both constants once inlined */

typedef vec gemv_sums[AWQI_GEMV_ROWS][AWQI_PANEL / LANES];

INLINE void gemv_step(int rows, int vectors, const vec *weights, const float *x, int64_t stride, gemv_sums sums)
{
    UNROLL
    for (int i = 0; i < rows; i++) {
        vec left = splat(x[i * stride]);
        UNROLL
        for (int j = 0; j < vectors; j++) sums[i][j] = vec_fma(left, weights[j], sums[i][j]);
    }
}

INLINE void gemv_dense_block(int rows, int vectors, int32_t dtype, const void *values, int64_t index, int64_t count,
                             const float *x, int64_t stride, float *out)
{
    gemv_sums sums;
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) sums[i][j] = load(out + i * AWQI_PANEL + j * LANES);
    for (int64_t k = 0; k < count; k++) {
        vec weights[AWQI_PANEL / LANES];
        UNROLL
        for (int j = 0; j < vectors; j++) weights[j] = load_weights(dtype, values, index + k * AWQI_PANEL + j * LANES);
        gemv_step(rows, vectors, weights, x + k, stride, sums);
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) store(out + i * AWQI_PANEL + j * LANES, sums[i][j]);
}

/* Blocks of inputs, so that where a panel takes more than one sweep the later ones find it in the cache. */
INLINE void gemv_dense(int rows, int vectors, int32_t dtype, const struct awqi_panels *w, int64_t panel, const float *x,
                       float *out)
{
    for (int64_t k = 0; k < w->k; k += AWQI_DEPTH) {
        int64_t index = (panel * w->k + k) * AWQI_PANEL, count = awqi_min64(AWQI_DEPTH, w->k - k);
        for (int j = 0; j < AWQI_PANEL; j += vectors * LANES)
            gemv_dense_block(rows, vectors, dtype, w->values, index + j, count, x + k, w->k, out + j);
    }
}

/* The input whose codes are number 'index' in the words. */
INLINE void gemv_code(int rows, int vectors, int width, int index, const uint32_t *words, const vec *zeros,
                      const float *x, int64_t stride, gemv_sums sums)
{
    vec weights[AWQI_PANEL / LANES];
    UNROLL
    for (int j = 0; j < vectors; j++) weights[j] = decode(load_words(words + j * LANES), index, width, zeros[j]);
    gemv_step(rows, vectors, weights, x + index, stride, sums);
}

/* out += s (sum of (q - z) x over the 'count' inputs of a group) */
INLINE void gemv_group(int rows, int vectors, int width, int64_t count, const uint32_t *words, const float *scales,
                       const uint8_t *zero_bytes, const float *x, int64_t stride, float *out)
{
    const int per_word = 32 / width;
    gemv_sums sums;
    vec zeros[AWQI_PANEL / LANES];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) sums[i][j] = (vec){0};
    UNROLL
    for (int j = 0; j < vectors; j++) zeros[j] = load_zeros(zero_bytes + j * LANES);
    int64_t k = 0;
    for (; k + per_word <= count; k += per_word, words += AWQI_PANEL) {
        UNROLL
        for (int i = 0; i < per_word; i++) gemv_code(rows, vectors, width, i, words, zeros, x + k, stride, sums);
    }
    for (int i = 0; k + i < count; i++) gemv_code(rows, vectors, width, i, words, zeros, x + k, stride, sums);
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++) {
            float *p = out + i * AWQI_PANEL + j * LANES;
            store(p, vec_fma(sums[i][j], load(scales + j * LANES), load(p)));
        }
}

INLINE void gemv_codes(int rows, int vectors, int width, const struct awqi_panels *w, int64_t panel, const float *x,
                       float *out)
{
    for (int64_t group = 0; group < w->groups; group++) {
        int64_t k = group * w->group_size, count = awqi_min64(w->group_size, w->k - k);
        const uint32_t *words = w->codes + (panel * w->panel_words + group * w->group_words) * AWQI_PANEL;
        int64_t header = (panel * w->groups + group) * AWQI_PANEL;
        for (int j = 0; j < AWQI_PANEL; j += vectors * LANES)
            gemv_group(rows, vectors, width, count, words + j, w->scales + header + j, w->zeros + header + j, x + k,
                       w->k, out + j);
    }
}

INLINE void gemv_rows(int rows, const struct awqi_panels *w, int64_t panel, const float *x, float *out)
{
    const int most = AWQI_PANEL / LANES, fit = GEMV_SUMS / rows, vectors = fit > most ? most : fit > 1 ? fit : 1;
    if (w->dtype == AWQ_F32) gemv_dense(rows, vectors, AWQ_F32, w, panel, x, out);
    else if (w->dtype == AWQ_F16) gemv_dense(rows, vectors, AWQ_F16, w, panel, x, out);
    else if (w->dtype == AWQ_BF16) gemv_dense(rows, vectors, AWQ_BF16, w, panel, x, out);
    else if (w->width == 2) gemv_codes(rows, vectors, 2, w, panel, x, out);
    else if (w->width == 4) gemv_codes(rows, vectors, 4, w, panel, x, out);
    else gemv_codes(rows, vectors, 8, w, panel, x, out);
}

TARGET static void gemv(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out)
{
    memset(out, 0, (size_t)rows * AWQI_PANEL * sizeof *out);
    int64_t done = 0;
    for (; done + 8 <= rows; done += 8) gemv_rows(8, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done + 4 <= rows; done += 4) gemv_rows(4, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done + 2 <= rows; done += 2) gemv_rows(2, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done < rows; done++) gemv_rows(1, w, panel, x + done * w->k, out + done * AWQI_PANEL);
}
