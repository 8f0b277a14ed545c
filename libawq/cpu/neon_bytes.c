/* Rows as signed bytes. */
#include "neon_bytes.h"

#if defined(__aarch64__)
#include "neon.h"

#define INLINE static inline __attribute__((always_inline))

/* The largest magnitude among 'count' numbers, a multiple of 4, as bits, which puts infinities and NaNs above all others. */
INLINE uint32_t largest_bits(const float *x, int64_t count)
{
    uint32x4_t most = vdupq_n_u32(0);
    for (int64_t i = 0; i < count; i += 4)
        most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffff)));
    return vmaxvq_u32(most);
}

/* The pieces of a line; returns the sum of its integers. */
INLINE int32_t prepare_line(const int line_inputs, int digits, const float *x, float inverse, int64_t step, int8_t *piece)
{
    static const uint8_t orders[2][8] = {{0, 2, 1, 3}, {0, 4, 1, 5, 2, 6, 3, 7}};
    const uint8x8_t order = vld1_u8(orders[line_inputs == 8]);
    int32x4_t low = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x), inverse)), high = vdupq_n_s32(0);
    if (line_inputs == 8) high = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 4), inverse));
    const int32_t sum = vaddvq_s32(vaddq_s32(low, high));
    for (int d = 0; d < digits; d++, piece += step) {
        const int16x8_t halves = vcombine_s16(vmovn_s32(low), vmovn_s32(high));
        const int8x8_t bytes = vreinterpret_s8_u8(vtbl1_u8(vreinterpret_u8_s8(vmovn_s16(halves)), order));
        if (line_inputs == 8) vst1_s8(piece, bytes);
        else vst1_lane_s32((int32_t *)(void *)piece, vreinterpret_s32_s8(bytes), 0);
        /* What the digit, which has a sign, leaves. */
        low = vshrq_n_s32(vaddq_s32(low, vdupq_n_s32(128)), 8);
        high = vshrq_n_s32(vaddq_s32(high, vdupq_n_s32(128)), 8);
    }
    return sum;
}

INLINE void prepare_row(const int line_inputs, const struct awqi_stream *w, int digits, const float *x, int64_t step,
                        int8_t *piece, float *tail)
{
    const struct awqi_digits form = awqi_neon_form(w, digits);
    float *scales = tail, *sums = tail + (form.sums - form.scales) / (int64_t)sizeof *tail;
    for (int64_t group = 0; group < w->shape.groups; group++, scales += form.group_blocks) {
        const int64_t inputs = awqi_stream_group_lines(&w->shape, group) * line_inputs;
        double sum = 0.0;
        for (int64_t first = 0, block = 0; first < inputs; first += form.block_inputs, block++) {
            const int64_t count = awqi_min64(form.block_inputs, inputs - first);
            float inverse, scale = awqi_digits_scale(digits, largest_bits(x, count), &inverse);
            int64_t integers = 0;
            for (int64_t i = 0; i < count; i += line_inputs, x += line_inputs, piece += digits * step)
                integers += prepare_line(line_inputs, digits, x, inverse, step, piece);
            scales[block] = scale;
            sum += (double)scale * (double)integers;
        }
        sums[group] = (float)sum;
    }
}

void awqi_neon_prepare_bytes(const struct awqi_stream *w, int digits, const float *x, int64_t step, int8_t *pieces,
                             float *tail)
{
    if (w->shape.width == 4) prepare_row(8, w, digits, x, step, pieces, tail);
    else prepare_row(4, w, digits, x, step, pieces, tail);
}
#endif
