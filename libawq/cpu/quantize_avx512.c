/* Group quantisation with AVX-512. */
#include "quantize.h"

#if defined(__x86_64__)
#include "vector_avx512.h"

#include <math.h>

#include "quantize_body.h"

const struct awqi_quantize_kernels awqi_quantize_avx512 = {AWQ_CPU_AVX512 | AWQ_CPU_AVX2, "avx512", scale_values, find_levels,
                                                          store_codes, dequantize};
#endif
