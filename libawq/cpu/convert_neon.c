/* Conversion with NEON. */
#include "convert.h"

#if defined(__aarch64__)
#include "neon.h"

static void f16_to_f32(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const float16x8_t halves = vreinterpretq_f16_u16(vld1q_u16(src + i));
        vst1q_f32(dst + i, vcvt_f32_f16(vget_low_f16(halves)));
        vst1q_f32(dst + i + 4, vcvt_high_f32_f16(halves));
    }
    for (; i < count; i++) dst[i] = awqi_f16_to_f32(src[i]);
}

static void bf16_to_f32(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const uint16x8_t halves = vld1q_u16(src + i);
        vst1q_f32(dst + i, vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16)));
        vst1q_f32(dst + i + 4, vreinterpretq_f32_u32(vshll_high_n_u16(halves, 16)));
    }
    for (; i < count; i++) dst[i] = awqi_bf16_to_f32(src[i]);
}

static void f32_to_f16(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        const float16x4_t low = vcvt_f16_f32(vld1q_f32(src + i));
        vst1q_u16(dst + i, vreinterpretq_u16_f16(vcvt_high_f16_f32(low, vld1q_f32(src + i + 4))));
    }
    for (; i < count; i++) dst[i] = awqi_f32_to_f16(src[i]);
}

static void f32_to_bf16(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) vst1_u16(dst + i, awqi_neon_round_bf16(vld1q_f32(src + i)));
    for (; i < count; i++) dst[i] = awqi_f32_to_bf16(src[i]);
}

const struct awqi_converters awqi_converters_neon = {AWQ_CPU_NEON, "neon", f16_to_f32, bf16_to_f32, f32_to_f16,
                                                     f32_to_bf16};
#endif
