/* The operations on a group for one instruction set, whose vector_<name>.h is included before.
 *
 * All of them are exact or rounded once per number, so that the bits are those of quantize_ref.c; what is left of a group
 * after whole registers is done as there. */

INLINE vec round_to(int32_t dtype, vec values)
{
    if (dtype == AWQ_F16) return vec_round_f16(values);
    return dtype == AWQ_BF16 ? vec_round_bf16(values) : values;
}

/* ---- with dtype a constant once inlined */

INLINE void scale_as(int32_t dtype, float *values, const float *scales, float limit, int64_t count, float *min,
                     float *max)
{
    vec upper = vec_splat(limit), lower = vec_splat(-limit), least = vec_splat(INFINITY), greatest = vec_splat(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = vec_load(values + i);
        if (scales != NULL) value = round_to(dtype, vec_mul(value, vec_load(scales + i)));
        value = vec_max(vec_min(value, upper), lower);
        vec_store(values + i, value);
        least = vec_min(value, least);
        greatest = vec_max(value, greatest);
    }
    *min = vec_least(least);
    *max = vec_greatest(greatest);
    for (; i < count; i++) {
        if (scales != NULL) values[i] = awqi_round_to(dtype, values[i] * scales[i]);
        values[i] = awqi_limit_value(values[i], limit);
        *min = values[i] < *min ? values[i] : *min;
        *max = values[i] > *max ? values[i] : *max;
    }
}

INLINE void find_levels_as(int32_t dtype, float *values, float step, float low, float high, int64_t count)
{
    vec steps = vec_splat(step), lower = vec_splat(low), upper = vec_splat(high), magic = vec_splat(0x1.8p23f);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec level = round_to(dtype, vec_div(vec_load(values + i), steps));
        level = vec_max(vec_min(level, upper), lower);
        vec_store(values + i, vec_sub(vec_add(level, magic), magic));
    }
    for (; i < count; i++) values[i] = awqi_find_level(dtype, values[i], step, low, high);
}

INLINE void dequantize_as(int32_t dtype, const float *levels, float scale, const float *divisors, float *values,
                          int64_t count)
{
    vec scales = vec_splat(scale);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec value = round_to(dtype, vec_mul(vec_load(levels + i), scales));
        if (divisors != NULL) value = round_to(dtype, vec_div(value, vec_load(divisors + i)));
        vec_store(values + i, value);
    }
    for (; i < count; i++) {
        float value = awqi_round_to(dtype, levels[i] * scale);
        values[i] = divisors != NULL ? awqi_round_to(dtype, value / divisors[i]) : value;
    }
}

/* ---- the kernels */

TARGET static void scale_values(int32_t dtype, float *values, const float *scales, float limit, int64_t count,
                                float *min, float *max)
{
    if (dtype == AWQ_F32) scale_as(AWQ_F32, values, scales, limit, count, min, max);
    else if (dtype == AWQ_F16) scale_as(AWQ_F16, values, scales, limit, count, min, max);
    else scale_as(AWQ_BF16, values, scales, limit, count, min, max);
}

TARGET static void find_levels(int32_t dtype, float *values, float step, float low, float high, int64_t count)
{
    if (dtype == AWQ_F32) find_levels_as(AWQ_F32, values, step, low, high, count);
    else if (dtype == AWQ_F16) find_levels_as(AWQ_F16, values, step, low, high, count);
    else find_levels_as(AWQ_BF16, values, step, low, high, count);
}

TARGET static void store_codes(const float *levels, float offset, uint8_t *codes, int64_t count)
{
    vec offsets = vec_splat(offset);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) vec_store_bytes(codes + i, vec_add(vec_load(levels + i), offsets));
    for (; i < count; i++) codes[i] = (uint8_t)(int32_t)(levels[i] + offset);
}

TARGET static void dequantize(int32_t dtype, const float *levels, float scale, const float *divisors, float *values,
                              int64_t count)
{
    if (dtype == AWQ_F32) dequantize_as(AWQ_F32, levels, scale, divisors, values, count);
    else if (dtype == AWQ_F16) dequantize_as(AWQ_F16, levels, scale, divisors, values, count);
    else dequantize_as(AWQ_BF16, levels, scale, divisors, values, count);
}
