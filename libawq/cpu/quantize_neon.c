/* Group quantisation with NEON. */
#include "quantize.h"

#if defined(__aarch64__)
#include "vector_neon.h"

#include <math.h>

#include "quantize_body.h"

const struct awqi_quantize_kernels awqi_quantize_neon = {AWQ_CPU_NEON, "neon", scale_values, find_levels,
                                                          store_codes, dequantize};
#endif
