/* What the NEON kernels share. */
#ifndef AWQI_NEON_H
#define AWQI_NEON_H

#include "kernels.h"

/* Before version 16 Clang declares an intrinsic only where the whole file may use it. */
#ifdef __clang__
#define __ARM_FEATURE_DOTPROD 1
#define __ARM_FEATURE_MATMUL_INT8 1
#define __ARM_FEATURE_BF16_VECTOR_ARITHMETIC 1
#endif
#include <arm_neon.h>

/* Arrays of sums are registers only when every index into them is a constant. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

enum { AWQI_NEON_QUADS = AWQI_STREAM_OUTPUTS / 4 }; /* registers of a line */

/* awqi_f32_to_bf16 on four numbers, by what every processor has. */
static inline uint16x4_t awqi_neon_round_bf16(float32x4_t values)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(values);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(values, values), sum, quiet), 16);
}

/* The scales and the zero points of outputs 4 quad .. 4 quad + 3 of a block, from the header of their group. */
static inline __attribute__((always_inline)) void
awqi_neon_header(const struct awqi_stream_shape *shape, const uint32_t *header, int quad, float32x4_t *scales,
                 float32x4_t *zeros)
{
    const uint16_t *halves = (const uint16_t *)header;
    if (shape->scale_dtype == AWQ_F32) {
        *scales = vld1q_f32((const float *)header + 4 * quad);
        halves += AWQI_STREAM_OUTPUTS;
    } else {
        const uint16x4_t four = vld1_u16(halves + 4 * quad);
        *scales = shape->scale_dtype == AWQ_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(four))
                                                : vreinterpretq_f32_u32(vshll_n_u16(four, 16));
    }
    *zeros = vcvtq_f32_u32(vmovl_u16(vld1_u16(halves + AWQI_STREAM_OUTPUTS + 4 * quad)));
}

#endif /* AWQI_NEON_H */
