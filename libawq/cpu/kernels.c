/* The tables of kernels, in ascending order: the last one whose features are all there is the best. */
#include "kernels.h"

static const struct awqi_cpu_kernels *const table[] = {
    &awqi_cpu_kernels_base,
#if defined(__x86_64__)
    &awqi_cpu_kernels_avx2,
    &awqi_cpu_kernels_avx512,
#endif
};

static const struct awqi_gemv *const gemv_table[] = {
    &awqi_gemv_base,
#if defined(__x86_64__)
    &awqi_gemv_avx2,
    &awqi_gemv_avx512,
    &awqi_gemv_avx2_int8,
    &awqi_gemv_avx512_vnni,
    &awqi_gemv_avx512_digits,
    &awqi_gemv_avx512_bf16,
#elif defined(__aarch64__)
    &awqi_gemv_neon_dotprod,
    &awqi_gemv_neon_dotprod_digits,
    &awqi_gemv_neon_i8mm,
    &awqi_gemv_neon_i8mm_digits,
    &awqi_gemv_neon_bf16,
#endif
};

static const struct awqi_gemm *const gemm_table[] = {
#if defined(__x86_64__)
    &awqi_gemm_avx2_int8,
    &awqi_gemm_avx512,
    &awqi_gemm_avx512_split,
    &awqi_gemm_avx512_bf16,
    &awqi_gemm_avx512_vnni,
#elif defined(__aarch64__)
    &awqi_gemm_neon_dotprod,
    &awqi_gemm_neon_dotprod_digits,
    &awqi_gemm_neon_i8mm,
    &awqi_gemm_neon_i8mm_digits,
    &awqi_gemm_neon_bf16,
#endif
    NULL, /* as the end, and as an empty array is no C */
};

enum { KERNELS = sizeof table / sizeof *table, GEMVS = sizeof gemv_table / sizeof *gemv_table,
       GEMMS = sizeof gemm_table / sizeof *gemm_table };

const struct awqi_cpu_kernels *awqi_cpu_kernels_at(size_t index)
{
    return index < KERNELS ? table[index] : NULL;
}

const struct awqi_gemv *awqi_gemv_at(size_t index)
{
    return index < GEMVS ? gemv_table[index] : NULL;
}

const struct awqi_gemm *awqi_gemm_at(size_t index)
{
    return index < GEMMS ? gemm_table[index] : NULL;
}

const struct awqi_cpu_kernels *awqi_cpu_kernels_for(uint32_t features)
{
    const struct awqi_cpu_kernels *best = table[0];
    for (size_t i = 1; i < KERNELS; i++)
        if ((table[i]->features & ~features) == 0) best = table[i];
    return best;
}

const struct awqi_gemv *awqi_gemv_for(uint32_t features, int32_t activation)
{
    const struct awqi_gemv *best = gemv_table[0]; /* which keeps every bound */
    for (size_t i = 1; i < GEMVS; i++)
        if ((gemv_table[i]->features & ~features) == 0 && gemv_table[i]->activations >> activation & 1)
            best = gemv_table[i];
    return best;
}

const struct awqi_gemm *awqi_gemm_for(uint32_t features, int32_t activation)
{
    const struct awqi_gemm *best = NULL;
    for (size_t i = 0; gemm_table[i] != NULL; i++)
        if ((gemm_table[i]->features & ~features) == 0 && gemm_table[i]->activations >> activation & 1)
            best = gemm_table[i];
    return best;
}
