/* The inner loops of calibration and clip search with AVX-512. */
#include "statistics.h"

#if defined(__x86_64__)
#include <math.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define LANES 16
#define ROWS 8

#include "statistics_body.h"

const struct awqi_statistics_kernels awqi_statistics_avx512 = {AWQ_CPU_AVX512 | AWQ_CPU_AVX2, "avx512", add_squares, add_row};
#endif
