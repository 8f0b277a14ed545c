/* Rows as integers of one or three signed bytes with a scale per block of inputs: what the kernels share that multiply
 * bytes.  gemv_avx512_vnni.c says how they are used. */
#ifndef AWQI_DIGITS_H
#define AWQI_DIGITS_H

#include "kernels.h"

enum { AWQI_BYTE_BLOCK = 32 }; /* inputs that share a scale when they are one byte each */

struct awqi_digits {
    int digits;
    int64_t block_inputs, group_blocks; /* group_blocks of every group but the last */
    int64_t scales, sums, bytes;        /* where they begin, and where the row ends */
};

static inline struct awqi_digits awqi_digits_of(const struct awqi_stream *w, int digits, int64_t block_inputs)
{
    struct awqi_digits form = {.digits = digits, .block_inputs = block_inputs};
    form.group_blocks = awqi_ceil_div(w->shape.group_lines * w->shape.line_inputs, block_inputs);
    form.scales = awqi_ceil_div(awqi_stream_inputs(w) * digits, 64) * 64;
    form.sums = form.scales + awqi_ceil_div(w->shape.groups * form.group_blocks, 16) * 64;
    form.bytes = form.sums + awqi_ceil_div(w->shape.groups, 16) * 64;
    return form;
}

/* The scale that brings the largest magnitude of a block, given as bits, to the greatest integer of so many digits, and
 * its inverse; 0 for a block of numbers too small to have one, and a NaN where there is a NaN or an infinity.  Three
 * digits have bits to spare: their scale is a power of two, so that numbers of few bits stay exact. */
static inline float awqi_digits_scale(int digits, uint32_t largest_bits, float *inverse)
{
    *inverse = 0.0f;
    if (largest_bits >= 0x7f800000u) return awqi_bits_to_f32(0x7fc00000u);
    float scale = awqi_bits_to_f32(largest_bits) * (digits == 1 ? 1.0f / 127.0f : 1.0f / 8355711.0f);
    if (digits == 3) scale = awqi_bits_to_f32((awqi_f32_to_bits(scale) + 0x007fffffu) & 0x7f800000u);
    if (awqi_f32_to_bits(1.0f / scale) >= 0x7f800000u) return 0.0f;
    *inverse = 1.0f / scale;
    return scale;
}

#endif /* AWQI_DIGITS_H */
