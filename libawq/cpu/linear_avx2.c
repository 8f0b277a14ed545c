/* The kernels for AVX2 with FMA and F16C. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define TILE_ROWS 6
#define TILE_VECTORS 2
#define GEMV_SUMS 8

typedef float vec __attribute__((vector_size(32)));

TARGET static inline vec vec_fma(vec a, vec b, vec c)
{
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

TARGET static inline vec vec_load_f16(const uint16_t *p)
{
    return (vec)_mm256_cvtph_ps(_mm_loadu_si128((const void *)p));
}

#include "linear_body.h"
#include "refine_body.h"

const struct awqi_cpu_kernels awqi_cpu_kernels_avx2 = {AWQ_CPU_AVX2, "avx2",
    tile, unpack, unpack_dense, gemv_dense, REFINE_KERNELS};

const struct awqi_gemv awqi_gemv_avx2 = {"avx2-f32", AWQ_CPU_AVX2, AWQI_ACTIVATIONS_ALL,
    stream_row_bytes, stream_prepare, stream_run};
#endif
