/* Products by a stream with BFMMLA: activations in BF16, weights exact.
 *
 * A code q below 16 in the low byte and 0x43 in the high one are 128 + q in BF16, so that putting the bytes of codes and a
 * constant side by side makes the numbers of two outputs and four inputs, which is what BFMMLA multiplies by those of two
 * rows.  The high half of a code of eight bits is put under 0x45, which makes 2048 + 16 h.  What is too much, 128 or
 * 17 * 128, joins the zero points.
 *
 *     y = sum over groups of s (sum of (q + c) x - (z + c) sum of x)
 *
 * A row is the numbers, those of a line in the order of its fields, then the sum of the rounded numbers over each group.
 * Rows of a strip go by pairs, whose halves of a line alternate. */
#include "kernels.h"

#if defined(__aarch64__)
#include "neon.h"

#define BF16 __attribute__((target("arch=armv8.2-a+bf16")))
#define INLINE BF16 static inline __attribute__((always_inline))

enum {
    MOST_SUMS = 24, /* registers for sums; weights and inputs take the other eight */
    LEAST = 4,      /* rows of a strip */
    MOST = 8
};

/* Bytes of the numbers of a row, after which the sums begin. */
static inline int64_t numbers_bytes(const struct awqi_stream *w)
{
    return awqi_ceil_div(2 * awqi_stream_inputs(w), 64) * 64;
}

static int64_t row_bytes(const struct awqi_stream *w)
{
    return numbers_bytes(w) + awqi_ceil_div(w->shape.groups, 16) * 64;
}

/* ---- rows */

static inline float sum_of(uint16x4_t numbers)
{
    return vaddvq_f32(vreinterpretq_f32_u32(vshll_n_u16(numbers, 16)));
}

/* Four inputs at a time: those of an operand, every 'step' numbers. */
static void prepare_numbers(const struct awqi_stream *w, const float *x, int64_t step, uint16_t *to, float *sums)
{
    const int64_t line_inputs = w->shape.line_inputs;
    for (int64_t group = 0; group < w->shape.groups; group++) {
        float sum = 0.0f;
        for (int64_t lines = awqi_stream_group_lines(&w->shape, group); lines > 0; lines--, x += line_inputs) {
            const uint16x4_t first = awqi_neon_round_bf16(vld1q_f32(x));
            if (line_inputs == 4) {
                vst1_u16(to, vzip1_u16(first, vext_u16(first, first, 2))); /* 0 2 1 3 */
                sum += sum_of(first);
                to += step;
                continue;
            }
            const uint16x4_t second = awqi_neon_round_bf16(vld1q_f32(x + 4));
            vst1_u16(to, vzip1_u16(first, second)); /* 0 4 1 5 */
            vst1_u16(to + step, vzip2_u16(first, second)); /* 2 6 3 7 */
            sum += sum_of(first) + sum_of(second);
            to += 2 * step;
        }
        sums[group] = sum;
    }
}

static void prepare_row(const struct awqi_stream *w, const float *x, void *row)
{
    prepare_numbers(w, x, 4, row, (float *)(void *)((unsigned char *)row + numbers_bytes(w)));
}

/* The last row of an odd number is by itself. */
static void prepare_strip(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    const bool paired = row + 1 < rows || rows % 2 == 0;
    const int64_t numbers = numbers_bytes(w), bytes = row_bytes(w);
    unsigned char *pair = (unsigned char *)strip + row / 2 * 2 * bytes;
    if (!paired) prepare_row(w, x, pair);
    else prepare_numbers(w, x, 8, (uint16_t *)(void *)(pair + row % 2 * 8),
                         (float *)(void *)(pair + 2 * numbers + row % 2 * (bytes - numbers)));
}

/* ---- products; what has a name here is a constant once inlined */

struct task {
    int rows, quads, width; /* of 4 quads outputs of a block at once; one row counts as a pair with itself */
    bool paired;
};

/* Operand 'i' of a quad's words: outputs 0 and 1 for i = 0, 2 and 3 for i = 1. */
INLINE bfloat16x8_t weights(uint8x16_t codes, int i, uint8_t exponent)
{
    const uint8x16_t high = vdupq_n_u8(exponent);
    return vreinterpretq_bf16_u8(i == 0 ? vzip1q_u8(codes, high) : vzip2q_u8(codes, high));
}

/* Four numbers of both rows of a pair. */
INLINE bfloat16x8_t load_pair(const struct task t, const uint16_t *x, int pair, int64_t stride, int half)
{
    const uint16_t *p = x + 2 * pair * stride;
    if (t.rows == 1) return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(p + 4 * half), vdup_n_u16(0)));
    if (t.paired) return vreinterpretq_bf16_u16(vld1q_u16(p + 8 * half));
    return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(p + 4 * half), vld1_u16(p + stride + 4 * half)));
}

/* The sums of a pair are those of outputs 0 and 1, then of 2 and 3, of both rows. */
INLINE void multiply_line(const struct task t, const uint32_t *line, const uint16_t *x, int64_t stride,
                          float32x4_t sums[MOST_SUMS])
{
    const int pairs = (t.rows + 1) / 2;
    UNROLL
    for (int half = 0; half < 2; half++) {
        bfloat16x8_t numbers[MOST / 2];
        UNROLL
        for (int pair = 0; pair < pairs; pair++) numbers[pair] = load_pair(t, x, pair, stride, t.width == 4 ? half : 0);
        UNROLL
        for (int quad = 0; quad < t.quads; quad++) {
            const uint8x16_t words = vreinterpretq_u8_u32(vld1q_u32(line + 4 * quad));
            const uint8x16_t codes = half == 0 ? vandq_u8(words, vdupq_n_u8(15)) : vshrq_n_u8(words, 4);
            const uint8_t exponent = t.width == 8 && half == 1 ? 0x45 : 0x43;
            UNROLL
            for (int pair = 0; pair < pairs; pair++) {
                float32x4_t *one = &sums[2 * (pair * t.quads + quad)];
                one[0] = vbfmmlaq_f32(one[0], weights(codes, 0, exponent), numbers[pair]);
                one[1] = vbfmmlaq_f32(one[1], weights(codes, 1, exponent), numbers[pair]);
            }
        }
    }
}

/* out += s (sum - (z + c) sum of x) for four outputs of one row */
INLINE void add_scaled(float *out, float32x4_t sum, float32x4_t scales, float32x4_t zeros, float x_sum)
{
    vst1q_f32(out, vfmaq_f32(vld1q_f32(out), vfmsq_n_f32(sum, zeros, x_sum), scales));
}

INLINE void multiply_group(const struct task t, const struct awqi_stream *w, int64_t group, const uint32_t *header,
                           int first, const unsigned char *rows, float *out)
{
    const struct awqi_stream_shape *shape = &w->shape;
    const int64_t bytes = row_bytes(w), numbers = numbers_bytes(w);
    const int64_t line_numbers = (t.paired ? 2 : 1) * shape->line_inputs;
    const uint16_t *x = (const uint16_t *)(const void *)rows + group * shape->group_lines * line_numbers;
    const uint32_t *line = header + shape->header_words + 4 * first;
    float32x4_t sums[MOST_SUMS];
    UNROLL
    for (int i = 0; i < (t.rows + 1) / 2 * 2 * t.quads; i++) sums[i] = vdupq_n_f32(0.0f);
    for (int64_t lines = awqi_stream_group_lines(shape, group); lines > 0; lines--) {
        multiply_line(t, line, x, bytes / 2, sums);
        line += AWQI_STREAM_OUTPUTS;
        x += line_numbers;
    }
    UNROLL
    for (int quad = 0; quad < t.quads; quad++) {
        float32x4_t scales, zeros;
        awqi_neon_header(shape, header, first + quad, &scales, &zeros);
        zeros = vaddq_f32(zeros, vdupq_n_f32(t.width == 4 ? 128.0f : 17.0f * 128.0f));
        UNROLL
        for (int r = 0; r < t.rows; r++) {
            const float32x4_t *two = &sums[2 * (r / 2 * t.quads + quad)];
            const float32x4_t sum = r % 2 == 0 ? vuzp1q_f32(two[0], two[1]) : vuzp2q_f32(two[0], two[1]);
            const int64_t pair_tail = r / 2 * 2 * bytes + 2 * numbers + r % 2 * (bytes - numbers);
            const int64_t tail = t.paired ? pair_tail : r * bytes + numbers;
            add_scaled(out + r * AWQI_PANEL + 4 * (first + quad), sum, scales, zeros,
                       ((const float *)(const void *)(rows + tail))[group]);
        }
    }
}

INLINE void multiply_block(const int rows, const int width, const bool paired, const struct awqi_stream *w,
                           const uint32_t *header, const unsigned char *row, float *out)
{
    const int fit = MOST_SUMS / ((rows + 1) / 2 * 2);
    const struct task t = {rows, fit >= 4 ? 4 : fit >= 2 ? 2 : 1, width, paired && rows > 1};
    UNROLL
    for (int r = 0; r < rows; r++) memset(out + r * AWQI_PANEL, 0, AWQI_STREAM_OUTPUTS * sizeof *out);
    for (int64_t group = 0; group < w->shape.groups; group++, header += w->shape.group_words)
        for (int first = 0; first < AWQI_NEON_QUADS; first += t.quads)
            multiply_group(t, w, group, header, first, row, out);
}

#define KERNEL(name, rows, width, paired)                                                                              \
    BF16 static void name##_##rows##_##width(const struct awqi_stream *w, const uint32_t *block,                       \
                                             const unsigned char *row, float *out)                                     \
    {                                                                                                                  \
        multiply_block(rows, width, paired, w, block, row, out);                                                       \
    }

#define RUN(name, paired)                                                                                              \
    KERNEL(name, 1, 4, paired)                                                                                         \
    KERNEL(name, 2, 4, paired)                                                                                         \
    KERNEL(name, 4, 4, paired)                                                                                         \
    KERNEL(name, 8, 4, paired)                                                                                         \
    KERNEL(name, 1, 8, paired)                                                                                         \
    KERNEL(name, 2, 8, paired)                                                                                         \
    KERNEL(name, 4, 8, paired)                                                                                         \
    KERNEL(name, 8, 8, paired)                                                                                         \
    static void name(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)          \
    {                                                                                                                  \
        static awqi_gemv_block *const kernels[2][4] = {                                                                \
            {name##_1_4, name##_2_4, name##_4_4, name##_8_4},                                                          \
            {name##_1_8, name##_2_8, name##_4_8, name##_8_8},                                                          \
        };                                                                                                             \
        awqi_run_blocks(w, panel, rows, row_bytes(w), count, kernels[w->shape.width == 8], out);                       \
    }

RUN(run_rows, false)
RUN(run_strip, true)

#define FEATURES (AWQ_CPU_NEON | AWQ_CPU_NEON_BF16)

const struct awqi_gemv awqi_gemv_neon_bf16 = {"neon-bf16", FEATURES, 1u << AWQ_ACTIVATION_BF16, row_bytes, prepare_row,
    run_rows};
const struct awqi_gemm awqi_gemm_neon_bf16 = {"neon-bf16-gemm", FEATURES, 1u << AWQ_ACTIVATION_BF16, LEAST, MOST,
    row_bytes, prepare_strip, run_strip};
#endif
