/* Conversion of arrays: the table, its first entry, and the choice, made once per process. */
#include "convert.h"

#include <stdatomic.h>

/* ---- what every processor can do */

static void f16_to_f32(const uint16_t *src, float *dst, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] = awqi_f16_to_f32(src[i]);
}

static void bf16_to_f32(const uint16_t *src, float *dst, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] = awqi_bf16_to_f32(src[i]);
}

static void f32_to_f16(const float *src, uint16_t *dst, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] = awqi_f32_to_f16(src[i]);
}

static void f32_to_bf16(const float *src, uint16_t *dst, int64_t count)
{
    for (int64_t i = 0; i < count; i++) dst[i] = awqi_f32_to_bf16(src[i]);
}

const struct awqi_converters awqi_converters_base = {0, "base", f16_to_f32, bf16_to_f32, f32_to_f16, f32_to_bf16};

/* ---- the table, in ascending order: the last one whose features are all there is the best */

static const struct awqi_converters *const table[] = {
    &awqi_converters_base,
#if defined(__x86_64__)
    &awqi_converters_avx2,
    &awqi_converters_avx512,
#elif defined(__aarch64__)
    &awqi_converters_neon,
#endif
};

enum { ENTRIES = sizeof table / sizeof *table };

const struct awqi_converters *awqi_converters_at(size_t index)
{
    return index < ENTRIES ? table[index] : NULL;
}

/* Several threads may choose at once: all choose the same. */
static const struct awqi_converters *best(void)
{
    static _Atomic(const struct awqi_converters *) chosen;
    const struct awqi_converters *converters = atomic_load_explicit(&chosen, memory_order_acquire);
    if (converters != NULL) return converters;
    uint32_t features = awqi_cpu_features();
    for (size_t i = 0; i < ENTRIES; i++)
        if ((table[i]->features & ~features) == 0) converters = table[i];
    atomic_store_explicit(&chosen, converters, memory_order_release);
    return converters;
}

void awqi_to_f32(int32_t dtype, const void *src, float *dst, int64_t count)
{
    if (dtype == AWQ_F32) memmove(dst, src, (size_t)count * sizeof *dst);
    else if (dtype == AWQ_F16) best()->f16_to_f32(src, dst, count);
    else best()->bf16_to_f32(src, dst, count);
}

void awqi_from_f32(int32_t dtype, const float *src, void *dst, int64_t count)
{
    if (dtype == AWQ_F32) memmove(dst, src, (size_t)count * sizeof *src);
    else if (dtype == AWQ_F16) best()->f32_to_f16(src, dst, count);
    else best()->f32_to_bf16(src, dst, count);
}
