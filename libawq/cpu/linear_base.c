/* The kernels for what every processor of an architecture has: NEON on AArch64, SSE2 on x86-64, and elsewhere whatever
 * the compiler makes of vectors of four. */
#include "kernels.h"

#define TARGET
#define LANES 4

typedef float vec __attribute__((vector_size(16)));

#if defined(__aarch64__)
#include <arm_neon.h>

#define TILE_ROWS 6
#define TILE_VECTORS 4
#define GEMV_SUMS 16

static inline vec vec_fma(vec a, vec b, vec c)
{
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

static inline vec vec_load_f16(const uint16_t *p)
{
    return (vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

#else

#define TILE_ROWS 4
#define TILE_VECTORS 2
#define GEMV_SUMS 8

static inline vec vec_fma(vec a, vec b, vec c)
{
    return a * b + c;
}

static inline vec vec_load_f16(const uint16_t *p)
{
    /* The magnitude's bits, moved into place, are the number times 2^-112, subnormals included; what was infinite or
     * NaN gets its exponent back. */
    typedef uint32_t words __attribute__((vector_size(16)));
    words bits = {p[0], p[1], p[2], p[3]};
    words magnitude = (bits & 0x7fff) << 13;
    words special = (words)(magnitude >= 0x0f800000) & 0x7f800000;
    return (vec)((words)((vec)magnitude * 0x1p112f) | special | (bits & 0x8000) << 16);
}

#endif

#include "linear_body.h"
#include "refine_body.h"

const struct awqi_cpu_kernels awqi_cpu_kernels_base = {0, "base",
    tile, unpack, unpack_dense, gemv_dense, REFINE_KERNELS};

const struct awqi_gemv awqi_gemv_base = {"base", 0, AWQI_ACTIVATIONS_ALL,
    stream_row_bytes, stream_prepare, stream_run};
