/* The inner loops of calibration and clip search with AVX2. */
#include "statistics.h"

#if defined(__x86_64__)
#include <math.h>

#define TARGET __attribute__((target("avx2,fma,f16c")))
#define LANES 8
#define ROWS 4

#include "statistics_body.h"

const struct awqi_statistics_kernels awqi_statistics_avx2 = {AWQ_CPU_AVX2, "avx2", add_squares, add_row};
#endif
