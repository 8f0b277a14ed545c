/* Many rows by a stream with AVX2 and activations as bytes: strips of rows for few, each in its form, a panel of weights
 * being in the second-level cache for all of them.  In single precision weights unpacked once serve more rows better. */
#include "kernels.h"

#if defined(__x86_64__)
enum { LEAST = 4, MOST = AWQI_GEMV_ROWS };

static int64_t row_bytes(const struct awqi_stream *w)
{
    return awqi_gemv_avx2_int8.row_bytes(w);
}

static void prepare(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    (void)rows;
    awqi_gemv_avx2_int8.prepare(w, x, (unsigned char *)strip + row * row_bytes(w));
}

static void run(const struct awqi_stream *w, int64_t panel, const void *strip, int64_t rows, float *out)
{
    awqi_gemv_avx2_int8.run(w, panel, strip, rows, out);
}

const struct awqi_gemm awqi_gemm_avx2_int8 = {"avx2-int8-gemm", AWQ_CPU_AVX2, 1u << AWQ_ACTIVATION_INT8, LEAST, MOST,
    row_bytes, prepare, run};
#endif
