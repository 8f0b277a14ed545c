/* What several tests need: reproducible numbers, and matrices of them. */
#ifndef SUPPORT_H
#define SUPPORT_H

#include "internal.h"

#include <math.h>
#include <stdlib.h>

/* SplitMix64: any seed gives a good sequence. */
static inline uint64_t random_bits(uint64_t *state)
{
    uint64_t bits = *state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

/* In [0, 1). */
static inline double random_uniform(uint64_t *state)
{
    return (double)(random_bits(state) >> 11) * 0x1p-53;
}

static inline float random_normal(uint64_t *state)
{
    double radius = sqrt(-2.0 * log(1.0 - random_uniform(state)));
    return (float)(radius * cos(6.283185307179586 * random_uniform(state)));
}

/* Normal numbers of the given deviation, rounded to dtype, in memory to free(). */
static inline void *random_array(uint64_t *state, int32_t dtype, int64_t count, float deviation)
{
    char *array = malloc((size_t)count * awq_dtype_size(dtype) + 1);
    for (int64_t i = 0; array != NULL && i < count; i++) {
        float value = deviation * random_normal(state);
        awqi_from_f32(dtype, &value, array + (size_t)i * awq_dtype_size(dtype), 1);
    }
    return array;
}

#endif /* SUPPORT_H */
