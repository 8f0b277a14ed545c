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

/* vpermps takes the low four bits of an index, so what lies above a field needs no mask. */
#define VEC_CODE
typedef uint32_t code_words __attribute__((vector_size(64)));

TARGET static inline vec vec_code(code_words words, int shift, int width)
{
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i shifted = _mm512_srli_epi32((__m512i)words, (unsigned)shift);
    if (width == 4) return (vec)_mm512_permutexvar_ps(shifted, table);
    return (vec)_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255)));
}

#include "linear_body.h"
#include "refine_body.h"

const struct awqi_cpu_kernels awqi_cpu_kernels_avx512 = {AWQ_CPU_AVX512 | AWQ_CPU_AVX2, "avx512",
    tile, unpack, unpack_dense, gemv_dense, REFINE_KERNELS};

const struct awqi_gemv awqi_gemv_avx512 = {"avx512-f32", AWQ_CPU_AVX512 | AWQ_CPU_AVX2, AWQI_ACTIVATIONS_ALL,
    stream_row_bytes, stream_prepare, stream_run};
#endif
