/* Group quantisation with AVX2, with FMA and F16C. */
#include "quantize.h"

#if defined(__x86_64__)
#include "vector_avx2.h"

#include <math.h>

#include "quantize_body.h"

const struct awqi_quantize_kernels awqi_quantize_avx2 = {AWQ_CPU_AVX2, "avx2", scale_values, find_levels,
                                                          store_codes, dequantize};
#endif
