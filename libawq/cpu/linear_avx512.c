/* The kernels for AVX-512. */
#include "kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define LANES 16
#define TILE_ROWS 12
#define TILE_VECTORS 2
#define GEMV_SUMS 16

typedef float vec __attribute__((vector_size(64)));

TARGET static inline vec vec_fma(vec a, vec b, vec c)
{
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

TARGET static inline vec vec_load_f16(const uint16_t *p)
{
    return (vec)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)p));
}

#include "linear_body.h"

const struct awqi_cpu_kernels awqi_cpu_kernels_avx512 = {AWQ_CPU_AVX512 | AWQ_CPU_AVX2, "avx512", tile, unpack, gemv};
#endif
