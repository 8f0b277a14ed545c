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

INLINE uvec load_words(const uint32_t *p) { return *(const uvec_any *)p; }

/* The scales and the zero points of LANES outputs of a block, from 'first' on, out of the header of their group. */
INLINE void load_header(const struct awqi_stream_shape *shape, const uint32_t *header, int first, vec *scales,
                        vec *zeros)
{
    const uint16_t *halves = (const uint16_t *)header;
    if (shape->scale_dtype == AWQ_F32) {
        *scales = load((const float *)header + first);
        halves += 2 * AWQI_STREAM_OUTPUTS;
    } else {
        if (shape->scale_dtype == AWQ_F16) *scales = vec_load_f16(halves + first);
        else *scales = (vec)(__builtin_convertvector(*(const hvec_any *)(halves + first), uvec) << 16);
        halves += AWQI_STREAM_OUTPUTS;
    }
    ivec integers = __builtin_convertvector(*(const hvec_any *)(halves + first), ivec);
    *zeros = __builtin_convertvector(integers, vec);
}

#ifndef VEC_CODE
/* The fields of 'width' bits at bit 'shift' of LANES words, as numbers. */
INLINE vec vec_code(uvec words, int shift, int width)
{
    uvec codes = (words >> (uint32_t)shift) & (uint32_t)((1u << width) - 1);
    return __builtin_convertvector((ivec)codes, vec);
}
#endif

/* The bit at which the field of input i of a line begins in each of its words. */
#define FIELD(width, i) (16 * ((i) % 2) + (width) * ((i) / 2))

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

TARGET static void unpack_dense(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    int64_t begin = (panel * w->k + first) * AWQI_PANEL;
    for (int64_t i = 0; i < count * AWQI_PANEL; i += LANES)
        store(b + i, load_weights(w->dtype, w->values, begin + i));
}

/* Inputs 'first' .. 'first + count - 1' of one group, LANES of a block's outputs. */
INLINE void unpack_group(int width, const uint32_t *lines, int64_t first, int64_t count, vec zeros, vec scales,
                         float *b)
{
    const int per_line = 32 / width;
    int64_t k = 0;
    while (k < count) {
        uvec words = load_words(lines + (first + k) / per_line * AWQI_STREAM_OUTPUTS);
        int i = (int)((first + k) % per_line);
        if (i == 0 && k + per_line <= count) {
            UNROLL
            for (int j = 0; j < per_line; j++)
                store(b + (k + j) * AWQI_PANEL, (vec_code(words, FIELD(width, j), width) - zeros) * scales);
            k += per_line;
        } else {
            store(b + k++ * AWQI_PANEL, (vec_code(words, FIELD(width, i), width) - zeros) * scales);
        }
    }
}

INLINE void unpack_codes(int width, const struct awqi_stream *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    while (count > 0) {
        int64_t group = first / w->shape.group_size, within = first % w->shape.group_size;
        int64_t taken = awqi_min64(count, w->shape.group_size - within);
        for (int j = 0; j < AWQI_PANEL; j += LANES) {
            const int output = j % AWQI_STREAM_OUTPUTS;
            const uint32_t *header = awqi_stream_block(w, panel, j / AWQI_STREAM_OUTPUTS) + group * w->shape.group_words;
            vec scales, zeros;
            load_header(&w->shape, header, output, &scales, &zeros);
            unpack_group(width, header + w->shape.header_words + output, within, taken, zeros, scales, b + j);
        }
        first += taken;
        count -= taken;
        b += taken * AWQI_PANEL;
    }
}

TARGET static void unpack(const struct awqi_stream *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    if (w->shape.width == 4) unpack_codes(4, w, panel, first, count, b);
    else unpack_codes(8, w, panel, first, count, b);
}

/* ---- dense gemv: 'rows' rows of x at once and 'vectors' registers of outputs, both constants once inlined */

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
INLINE void gemv_dense_type(int rows, int vectors, int32_t dtype, const struct awqi_panels *w, int64_t panel, const float *x,
                       float *out)
{
    for (int64_t k = 0; k < w->k; k += AWQI_DEPTH) {
        int64_t index = (panel * w->k + k) * AWQI_PANEL, count = awqi_min64(AWQI_DEPTH, w->k - k);
        for (int j = 0; j < AWQI_PANEL; j += vectors * LANES)
            gemv_dense_block(rows, vectors, dtype, w->values, index + j, count, x + k, w->k, out + j);
    }
}

INLINE void gemv_dense_rows(int rows, const struct awqi_panels *w, int64_t panel, const float *x, float *out)
{
    const int most = AWQI_PANEL / LANES, fit = GEMV_SUMS / rows, vectors = fit > most ? most : fit > 1 ? fit : 1;
    if (w->dtype == AWQ_F32) gemv_dense_type(rows, vectors, AWQ_F32, w, panel, x, out);
    else if (w->dtype == AWQ_F16) gemv_dense_type(rows, vectors, AWQ_F16, w, panel, x, out);
    else gemv_dense_type(rows, vectors, AWQ_BF16, w, panel, x, out);
}

TARGET static void gemv_dense(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out)
{
    memset(out, 0, (size_t)rows * AWQI_PANEL * sizeof *out);
    int64_t done = 0;
    for (; done + 8 <= rows; done += 8) gemv_dense_rows(8, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done + 4 <= rows; done += 4) gemv_dense_rows(4, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done + 2 <= rows; done += 2) gemv_dense_rows(2, w, panel, x + done * w->k, out + done * AWQI_PANEL);
    for (; done < rows; done++) gemv_dense_rows(1, w, panel, x + done * w->k, out + done * AWQI_PANEL);
}

/* ---- gemv of a stream: a row is its numbers in stream order, then their sum over each group
 *
 * y = sum over groups of s (sum of q x - z sum of x), the inner sums of 'chains' parts each. */

INLINE int64_t stream_row_floats(const struct awqi_stream *w)
{
    return 16 * (awqi_ceil_div(awqi_stream_inputs(w), 16) + awqi_ceil_div(w->shape.groups, 16));
}

INLINE int64_t stream_sums_offset(const struct awqi_stream *w)
{
    return 16 * awqi_ceil_div(awqi_stream_inputs(w), 16);
}

TARGET static int64_t stream_row_bytes(const struct awqi_stream *w)
{
    return stream_row_floats(w) * (int64_t)sizeof(float);
}

TARGET static void stream_prepare(const struct awqi_stream *w, const float *x, void *row)
{
    const int64_t room = w->shape.group_lines * w->shape.line_inputs, inputs = awqi_stream_inputs(w);
    float *values = row, *sums = values + stream_sums_offset(w);
    memcpy(values, x, (size_t)inputs * sizeof *x);
    for (int64_t group = 0; group < w->shape.groups; group++) {
        const int64_t end = awqi_min64(inputs, (group + 1) * room);
        int64_t i = group * room;
        vec partial = {0};
        for (; i + LANES <= end; i += LANES) partial += load(x + i);
        float sum = 0.0f;
        for (int j = 0; j < LANES; j++) sum += partial[j];
        for (; i < end; i++) sum += x[i];
        sums[group] = sum;
    }
}

/* One group and 'vectors' registers of outputs: out += s (sum of q x - z sum of x). */
INLINE void stream_group(int rows, int vectors, int chains, int width, const struct awqi_stream_shape *shape,
                         const uint32_t *header, int first, int64_t lines, const float *x, const float *x_sums,
                         int64_t stride, float *out)
{
    const int per_line = 32 / width;
    vec sums[AWQI_GEMV_ROWS][4][4];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < vectors; j++)
            UNROLL
            for (int c = 0; c < chains; c++) sums[i][j][c] = (vec){0};
    const uint32_t *words = header + shape->header_words + first;
    for (int64_t line = 0; line < lines; line++, words += AWQI_STREAM_OUTPUTS, x += per_line) {
        UNROLL
        for (int f = 0; f < per_line; f++)
            UNROLL
            for (int j = 0; j < vectors; j++) {
                vec codes = vec_code(load_words(words + j * LANES), FIELD(width, f), width);
                UNROLL
                for (int i = 0; i < rows; i++)
                    sums[i][j][f % chains] = vec_fma(splat(x[i * stride + f]), codes, sums[i][j][f % chains]);
            }
    }
    UNROLL
    for (int j = 0; j < vectors; j++) {
        vec scales, zeros;
        load_header(shape, header, first + j * LANES, &scales, &zeros);
        UNROLL
        for (int i = 0; i < rows; i++) {
            float *p = out + i * AWQI_PANEL + j * LANES;
            UNROLL
            for (int c = 1; c < chains; c++) sums[i][j][0] += sums[i][j][c];
            store(p, vec_fma(vec_fma(-zeros, splat(x_sums[i * stride]), sums[i][j][0]), scales, load(p)));
        }
    }
}

INLINE void stream_rows(int rows, int width, const struct awqi_stream *w, int64_t panel, const float *x, float *out)
{
    const int most = AWQI_STREAM_OUTPUTS / LANES, fit = GEMV_SUMS / rows;
    const int vectors = fit > most ? most : fit > 1 ? fit : 1;
    const int chains = fit / vectors >= 4 ? 4 : fit / vectors >= 2 ? 2 : 1;
    const int64_t stride = stream_row_floats(w), room = w->shape.group_lines * (32 / width);
    const float *x_sums = x + stream_sums_offset(w);
    for (int j = 0; j < AWQI_PANEL; j += vectors * LANES) {
        const uint32_t *header = awqi_stream_block(w, panel, j / AWQI_STREAM_OUTPUTS);
        for (int64_t group = 0; group < w->shape.groups; group++, header += w->shape.group_words)
            stream_group(rows, vectors, chains, width, &w->shape, header, j % AWQI_STREAM_OUTPUTS,
                         awqi_stream_group_lines(&w->shape, group), x + group * room, x_sums + group, stride, out + j);
    }
}

INLINE void stream_run_width(int width, const struct awqi_stream *w, int64_t panel, const float *x, int64_t rows,
                             float *out)
{
    const int64_t stride = stream_row_floats(w);
    int64_t done = 0;
    for (; done + 8 <= rows; done += 8) stream_rows(8, width, w, panel, x + done * stride, out + done * AWQI_PANEL);
    for (; done + 4 <= rows; done += 4) stream_rows(4, width, w, panel, x + done * stride, out + done * AWQI_PANEL);
    for (; done + 2 <= rows; done += 2) stream_rows(2, width, w, panel, x + done * stride, out + done * AWQI_PANEL);
    for (; done < rows; done++) stream_rows(1, width, w, panel, x + done * stride, out + done * AWQI_PANEL);
}

TARGET static void stream_run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)
{
    memset(out, 0, (size_t)count * AWQI_PANEL * sizeof *out);
    if (w->shape.width == 4) stream_run_width(4, w, panel, rows, count, out);
    else stream_run_width(8, w, panel, rows, count, out);
}
