/* Four floats of NEON, under the names that bodies for several instruction sets use. */
#ifndef AWQI_CPU_VECTOR_NEON_H
#define AWQI_CPU_VECTOR_NEON_H

#include <arm_neon.h>

#define TARGET
#define LANES 4
#define INLINE static inline __attribute__((always_inline))

typedef float32x4_t vec;

INLINE vec vec_load(const float *p) { return vld1q_f32(p); }
INLINE void vec_store(float *p, vec v) { vst1q_f32(p, v); }
INLINE vec vec_splat(float x) { return vdupq_n_f32(x); }
INLINE vec vec_add(vec a, vec b) { return vaddq_f32(a, b); }
INLINE vec vec_sub(vec a, vec b) { return vsubq_f32(a, b); }
INLINE vec vec_mul(vec a, vec b) { return vmulq_f32(a, b); }
INLINE vec vec_div(vec a, vec b) { return vdivq_f32(a, b); }
INLINE vec vec_min(vec a, vec b) { return vminq_f32(a, b); }
INLINE vec vec_max(vec a, vec b) { return vmaxq_f32(a, b); }
INLINE float vec_least(vec v) { return vminvq_f32(v); }
INLINE float vec_greatest(vec v) { return vmaxvq_f32(v); }
INLINE vec vec_round_f16(vec v) { return vcvt_f32_f16(vcvt_f16_f32(v)); }

/* Of numbers, not NaNs. */
INLINE vec vec_round_bf16(vec v)
{
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    return vreinterpretq_f32_u32(vandq_u32(sum, vdupq_n_u32(0xffff0000)));
}

INLINE void vec_store_bytes(uint8_t *p, vec v)
{
    const uint16x4_t halves = vmovn_u32(vcvtq_u32_f32(v));
    const uint32_t bytes = vget_lane_u32(vreinterpret_u32_u8(vmovn_u16(vcombine_u16(halves, halves))), 0);
    memcpy(p, &bytes, sizeof bytes);
}

#endif /* AWQI_CPU_VECTOR_NEON_H */
