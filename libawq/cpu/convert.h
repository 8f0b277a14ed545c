/* Conversion between F32 and the two halves, by instruction set. */
#ifndef AWQI_CPU_CONVERT_H
#define AWQI_CPU_CONVERT_H

#include "cpu.h"

/* Every entry gives the same bits as the functions on single numbers in internal.h, NaNs included. */
struct awqi_converters {
    uint32_t features; /* AWQ_CPU_* that it needs */
    const char *name;
    void (*f16_to_f32)(const uint16_t *src, float *dst, int64_t count);
    void (*bf16_to_f32)(const uint16_t *src, float *dst, int64_t count);
    void (*f32_to_f16)(const float *src, uint16_t *dst, int64_t count);
    void (*f32_to_bf16)(const float *src, uint16_t *dst, int64_t count);
};

extern const struct awqi_converters awqi_converters_base, awqi_converters_avx2, awqi_converters_avx512,
    awqi_converters_neon;

/* Entry 'index' of the table, in ascending order; NULL past its end. */
const struct awqi_converters *awqi_converters_at(size_t index);

#endif /* AWQI_CPU_CONVERT_H */
