/* Conversion with F16C and AVX2, and with AVX-512.
 *
 * BF16 is made with integers: VCVTNEPS2BF16 of AVX512-BF16 takes subnormal numbers for zeros. */
#include "convert.h"

#if defined(__x86_64__)
#include <immintrin.h>

/* ---- eight at a time */

#define TARGET __attribute__((target("avx2,f16c")))

TARGET static void f16_to_f32_avx2(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps(dst + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(src + i))));
    for (; i < count; i++) dst[i] = awqi_f16_to_f32(src[i]);
}

TARGET static void bf16_to_f32_avx2(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
        __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(src + i)));
        _mm256_storeu_ps(dst + i, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
    }
    for (; i < count; i++) dst[i] = awqi_bf16_to_f32(src[i]);
}

TARGET static void f32_to_f16_avx2(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((__m128i *)(dst + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(src + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < count; i++) dst[i] = awqi_f32_to_f16(src[i]);
}

/* awqi_f32_to_bf16 on eight numbers, each in the low half of its word. */
TARGET static inline __m256i round_to_bf16_avx2(__m256 values)
{
    __m256i bits = _mm256_castps_si256(values), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256 nan = _mm256_cmp_ps(values, values, _CMP_UNORD_Q);
    return _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, _mm256_castps_si256(nan));
}

TARGET static void f32_to_bf16_avx2(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m256i first = round_to_bf16_avx2(_mm256_loadu_ps(src + i));
        __m256i second = round_to_bf16_avx2(_mm256_loadu_ps(src + i + 8));
        /* Packing goes by 128-bit lanes, whose order is put right. */
        __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
        _mm256_storeu_si256((__m256i *)(dst + i), packed);
    }
    for (; i < count; i++) dst[i] = awqi_f32_to_bf16(src[i]);
}

const struct awqi_converters awqi_converters_avx2 = {AWQ_CPU_AVX2, "avx2", f16_to_f32_avx2, bf16_to_f32_avx2,
                                                     f32_to_f16_avx2, f32_to_bf16_avx2};
#undef TARGET

/* ---- sixteen at a time */

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")))

TARGET static void f16_to_f32_avx512(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm512_storeu_ps(dst + i, _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(src + i))));
    for (; i < count; i++) dst[i] = awqi_f16_to_f32(src[i]);
}

TARGET static void bf16_to_f32_avx512(const uint16_t *src, float *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(src + i)));
        _mm512_storeu_ps(dst + i, _mm512_castsi512_ps(_mm512_slli_epi32(words, 16)));
    }
    for (; i < count; i++) dst[i] = awqi_bf16_to_f32(src[i]);
}

TARGET static void f32_to_f16_avx512(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        _mm256_storeu_si256((__m256i *)(dst + i), _mm512_cvtps_ph(_mm512_loadu_ps(src + i),
                                                                  _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    for (; i < count; i++) dst[i] = awqi_f32_to_f16(src[i]);
}

TARGET static void f32_to_bf16_avx512(const float *src, uint16_t *dst, int64_t count)
{
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) {
        __m512 values = _mm512_loadu_ps(src + i);
        __m512i bits = _mm512_castps_si512(values), high = _mm512_srli_epi32(bits, 16);
        __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
        __mmask16 nan = _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q);
        __m512i rounded = _mm512_mask_or_epi32(_mm512_srli_epi32(sum, 16), nan, high, _mm512_set1_epi32(0x40));
        _mm256_storeu_si256((__m256i *)(dst + i), _mm512_cvtepi32_epi16(rounded));
    }
    for (; i < count; i++) dst[i] = awqi_f32_to_bf16(src[i]);
}

const struct awqi_converters awqi_converters_avx512 = {AWQ_CPU_AVX512 | AWQ_CPU_AVX2, "avx512", f16_to_f32_avx512,
                                                       bf16_to_f32_avx512, f32_to_f16_avx512, f32_to_bf16_avx512};
#endif
