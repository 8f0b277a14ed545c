/* Few rows by a stream with AVX-512 BF16: activations rounded to one bfloat16 term, weights exact.
 *
 * A line is 16 words, one per output.  Shifted right by 4 i, the low four bits of their halves are the codes of inputs
 * 2 i and 2 i + 1; put into the lowest bits of 128.0, whose neighbours are 1 apart, each is 128 + q exactly, and
 * vdpbf16ps adds both products to the output's sum.  For codes of eight bits the same fields are their low and high
 * halves.  The 128 goes with the zero point, once per group:
 *
 *     y = sum over groups of s (sum of (128 + q) x - (128 + z) sum of x)
 *
 * A row is its numbers as bfloat16 in stream order, then in F32 their sum over each group, of the rounded ones. */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"

#define BF16 __attribute__((target(AVX512 ",avx512bf16")))
#define INLINE BF16 static inline __attribute__((always_inline))

static int64_t sums_offset(const struct awqi_stream *w)
{
    return awqi_ceil_div(awqi_stream_inputs(w), 32) * 64;
}

static int64_t row_bytes(const struct awqi_stream *w)
{
    return sums_offset(w) + awqi_ceil_div(w->shape.groups, 16) * 64;
}

/* ---- rows */

BF16 static void prepare(const struct awqi_stream *w, const float *x, void *row)
{
    const int64_t room = w->shape.group_lines * w->shape.line_inputs, inputs = awqi_stream_inputs(w);
    uint16_t *values = row;
    float *sums = (float *)((unsigned char *)row + sums_offset(w));
    for (int64_t group = 0; group < w->shape.groups; group++) {
        const int64_t end = awqi_min64(inputs, (group + 1) * room);
        __m512 sum = _mm512_setzero_ps();
        for (int64_t i = group * room; i < end; i += 16) {
            const __mmask16 mask = awqi_tail_mask(end - i);
            const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
            _mm256_mask_storeu_epi16(values + i, mask, rounded);
            const __m512i widened = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16);
            sum = _mm512_add_ps(sum, _mm512_castsi512_ps(widened));
        }
        sums[group] = _mm512_reduce_add_ps(sum);
    }
}

/* ---- products: 'rows' rows, the sum of each in 'chains' parts of which the odd ones belong to odd fields
 *
 * A vdpbf16ps takes six cycles and one or two begin in each: a row alone needs more than four parts to keep them
 * coming, and has a second set for every other line. */

INLINE __m512 multiply_pairs(__m512 sum, __m512i weights, const uint16_t *pair)
{
    int32_t word;
    memcpy(&word, pair, sizeof word);
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)_mm512_set1_epi32(word));
}

#define FIELD(i)                                                                                                       \
    {                                                                                                                  \
        const __m512i codes = (i) == 0 ? words : _mm512_srli_epi16(words, 4 * (i));                                    \
        const __m512i weights = _mm512_ternarylogic_epi32(codes, nibble, offset, AWQI_AND_OR);                         \
        const int pair = width == 4 ? 2 * (i) : 2 * ((i) / 2), c = (i) % chains;                                       \
        UNROLL                                                                                                         \
        for (int r = 0; r < rows; r++) sums[r][c] = multiply_pairs(sums[r][c], weights, x + r * stride + pair);        \
    }

INLINE void multiply_line(const int rows, const int chains, const int width, const uint32_t *line, const uint16_t *x,
                          int64_t stride, __m512 sums[AWQI_GEMV_ROWS][4])
{
    const __m512i nibble = _mm512_set1_epi16(0x000f), offset = _mm512_set1_epi16(0x4300);
    AWQI_PREFETCH(line, rows == 1 ? AWQI_NEAR : AWQI_FAR);
    const __m512i words = awqi_load_line(line);
    FIELD(0)
    FIELD(1)
    FIELD(2)
    FIELD(3)
}

/* The parts of a row's sum together; odd fields of codes of eight bits count sixteen times. */
INLINE __m512 join(const int chains, const int width, const __m512 sums[4])
{
    __m512 even = sums[0], odd = sums[1];
    if (chains == 4) {
        even = _mm512_add_ps(even, sums[2]);
        odd = _mm512_add_ps(odd, sums[3]);
    }
    return width == 4 ? _mm512_add_ps(even, odd) : _mm512_fmadd_ps(odd, _mm512_set1_ps(16.0f), even);
}

/* One group: totals += s (sum of q x - z sum of x). */
INLINE void multiply_group(const int rows, const int chains, const int width, const struct awqi_stream_shape *shape,
                           const uint32_t *header, int64_t lines, const uint16_t *x, int64_t stride,
                           const float *x_sums, __m512 *totals)
{
    const int step = 32 / width;
    __m512 sums[AWQI_GEMV_ROWS][4], second[AWQI_GEMV_ROWS][4];
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int c = 0; c < chains; c++) sums[r][c] = second[r][c] = _mm512_setzero_ps();
    const uint32_t *line = header + shape->header_words;
    AWQI_PREFETCH(header, rows == 1 ? AWQI_NEAR : AWQI_FAR);
    if (rows == 1)
        for (; lines >= 2; lines -= 2, line += 2 * AWQI_STREAM_OUTPUTS, x += 2 * step) {
            multiply_line(rows, chains, width, line, x, stride, sums);
            multiply_line(rows, chains, width, line + AWQI_STREAM_OUTPUTS, x + step, stride, second);
        }
    for (; lines > 0; lines--, line += AWQI_STREAM_OUTPUTS, x += step)
        multiply_line(rows, chains, width, line, x, stride, sums);
    __m512 scales, zeros;
    awqi_load_header(shape, header, &scales, &zeros);
    zeros = _mm512_add_ps(zeros, _mm512_set1_ps(width == 4 ? 128.0f : 17.0f * 128.0f));
    UNROLL
    for (int r = 0; r < rows; r++) {
        const __m512 x_sum = _mm512_set1_ps(x_sums[r * (stride / 2)]);
        __m512 sum = join(chains, width, sums[r]);
        if (rows == 1) sum = _mm512_add_ps(sum, join(chains, width, second[r]));
        const __m512 part = _mm512_fnmadd_ps(zeros, x_sum, sum);
        totals[r] = _mm512_fmadd_ps(part, scales, totals[r]);
    }
}

INLINE void multiply_block(const int rows, const int chains, const int width, const struct awqi_stream *w,
                           const uint32_t *header, const unsigned char *row, float *out)
{
    const int64_t stride = row_bytes(w) / 2, room = w->shape.group_lines * (32 / width);
    const uint16_t *x = (const uint16_t *)row;
    const float *x_sums = (const float *)(row + sums_offset(w));
    __m512 totals[AWQI_GEMV_ROWS];
    UNROLL
    for (int r = 0; r < rows; r++) totals[r] = _mm512_setzero_ps();
    for (int64_t group = 0; group < w->shape.groups; group++, header += w->shape.group_words)
        multiply_group(rows, chains, width, &w->shape, header, awqi_stream_group_lines(&w->shape, group),
                       x + group * room, stride, x_sums + group, totals);
    UNROLL
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + r * AWQI_PANEL, totals[r]);
}

#define KERNEL(rows, chains, width)                                                                                    \
    BF16 static void gemv_bf16_##rows##_##width(const struct awqi_stream *w, const uint32_t *block,                    \
                                                const unsigned char *row, float *out)                                  \
    {                                                                                                                  \
        multiply_block(rows, chains, width, w, block, row, out);                                                       \
    }

KERNEL(1, 4, 4)
KERNEL(2, 4, 4)
KERNEL(4, 4, 4)
KERNEL(8, 2, 4)
KERNEL(1, 4, 8)
KERNEL(2, 4, 8)
KERNEL(4, 4, 8)
KERNEL(8, 2, 8)

static void run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)
{
    static awqi_gemv_block *const kernels[2][4] = {
        {gemv_bf16_1_4, gemv_bf16_2_4, gemv_bf16_4_4, gemv_bf16_8_4},
        {gemv_bf16_1_8, gemv_bf16_2_8, gemv_bf16_4_8, gemv_bf16_8_8},
    };
    awqi_run_blocks(w, panel, rows, row_bytes(w), count, kernels[w->shape.width == 8], out);
}

const struct awqi_gemv awqi_gemv_avx512_bf16 = {"avx512-bf16", AWQ_CPU_AVX2 | AWQ_CPU_AVX512 | AWQ_CPU_AVX512_BF16,
    1u << AWQ_ACTIVATION_BF16, row_bytes, prepare, run};
#endif
