/* Group quantisation: the operations on a group, by instruction set. */
#ifndef AWQI_CPU_QUANTIZE_H
#define AWQI_CPU_QUANTIZE_H

#include "cpu.h"

/* Every entry gives the same bits as the first, whose loops in quantize_ref.c define the operations.  'dtype' is what every
 * operation is rounded to; 'count' is at least 1. */
struct awqi_quantize_kernels {
    uint32_t features; /* AWQ_CPU_* that it needs */
    const char *name;
    /* values *= scales (NULL: ones), limited to -limit .. limit; *min and *max get their range. */
    void (*scale)(int32_t dtype, float *values, const float *scales, float limit, int64_t count, float *min, float *max);
    /* values = the nearest whole number of steps within low .. high, whole numbers themselves. */
    void (*find_levels)(int32_t dtype, float *values, float step, float low, float high, int64_t count);
    /* codes = levels + offset */
    void (*store_codes)(const float *levels, float offset, uint8_t *codes, int64_t count);
    /* values = levels * scale / divisors (NULL: ones) */
    void (*dequantize)(int32_t dtype, const float *levels, float scale, const float *divisors, float *values,
                       int64_t count);
};

extern const struct awqi_quantize_kernels awqi_quantize_ref, awqi_quantize_avx2, awqi_quantize_avx512,
    awqi_quantize_neon;

/* Entry 'index' of the table, in ascending order, NULL past its end; and the best for a set of features. */
const struct awqi_quantize_kernels *awqi_quantize_kernels_at(size_t index);
const struct awqi_quantize_kernels *awqi_quantize_kernels_for(uint32_t features);

/* What becomes of one number. */
static inline float awqi_limit_value(float value, float limit)
{
    value = value > limit ? limit : value;
    return value < -limit ? -limit : value;
}

/* The bounds are whole numbers, so that clamping may come before rounding, and small, so that adding and taking away
 * 1.5 * 2^23 rounds half to even; both keep loops free of calls. */
static inline float awqi_find_level(int32_t dtype, float value, float step, float low, float high)
{
    const float magic = 0x1.8p23f;
    float level = awqi_round_to(dtype, value / step);
    level = level > high ? high : level;
    return ((level < low ? low : level) + magic) - magic;
}

#endif /* AWQI_CPU_QUANTIZE_H */
