/* The library of CUDA kernels that forward_cuda.c runs. */
#ifndef AWQ_APP_CUDA_KERNELS_H
#define AWQ_APP_CUDA_KERNELS_H

#include <stdbool.h>

#include "cuda/kernels.h"

/* Load libawq_app_cuda.so, found as libawq.so is found, or what AWQ_APP_CUDA names; once, and kept.  False when it is
 * missing or does not fit, after a message. */
bool cuda_kernels_load(const struct cuda_kernels **kernels);

#endif
