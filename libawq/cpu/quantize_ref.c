/* What quantising a group is. */
#include "quantize.h"

static void scale_values(int32_t dtype, float *values, const float *scales, float limit, int64_t count, float *min, float *max)
{
    for (int64_t i = 0; scales != NULL && i < count; i++) values[i] = awqi_round_to(dtype, values[i] * scales[i]);
    for (int64_t i = 0; i < count; i++) values[i] = awqi_limit_value(values[i], limit);
    *min = *max = values[0];
    for (int64_t i = 1; i < count; i++) {
        *min = values[i] < *min ? values[i] : *min;
        *max = values[i] > *max ? values[i] : *max;
    }
}

static void find_levels(int32_t dtype, float *values, float step, float low, float high, int64_t count)
{
    for (int64_t i = 0; i < count; i++) values[i] = awqi_find_level(dtype, values[i], step, low, high);
}

static void store_codes(const float *levels, float offset, uint8_t *codes, int64_t count)
{
    for (int64_t i = 0; i < count; i++) codes[i] = (uint8_t)(int32_t)(levels[i] + offset);
}

static void dequantize(int32_t dtype, const float *levels, float scale, const float *divisors, float *values,
                       int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        float value = awqi_round_to(dtype, levels[i] * scale);
        values[i] = divisors != NULL ? awqi_round_to(dtype, value / divisors[i]) : value;
    }
}

const struct awqi_quantize_kernels awqi_quantize_ref = {0, "ref", scale_values, find_levels, store_codes, dequantize};
