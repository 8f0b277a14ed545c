/* What the host side of calibration, search and quantisation hands its kernels: matrices in device memory.
 *
 * Every number that decides a code is computed by the operations of the CPU backend in their order, each rounded once;
 * sums are cut by shape and added in a fixed order, so that they come out the same every time. */
#ifndef AWQ_CUDA_MATRIX_H
#define AWQ_CUDA_MATRIX_H

#include "awq.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

/* [rows][columns], neighbouring columns. */
struct cuda_matrix {
    const void *data;
    int64_t rows, columns;
    int64_t stride; /* elements from row to row */
    int32_t dtype;
    int32_t reserved; /* no padding: arguments of kernels are whole, known bytes */
};

/* A weight times its column scales, each product rounded to 'dtype'. */
struct cuda_scaled {
    struct cuda_matrix w;
    const float *scales; /* [columns], or NULL */
    int64_t group_size, groups;
    int32_t dtype;
    int32_t reserved;
};

enum { CUDA_CHUNK = 64 }; /* rows that one thread adds */

static inline int64_t awqi_cuda_chunks(int64_t rows)
{
    return (rows + CUDA_CHUNK - 1) / CUDA_CHUNK;
}

struct cuda_row_scan { /* awqi_row_scan */
    uint64_t hash;
    int64_t bad_channel;
};

enum { CUDA_SUMS = 5 }; /* of a channel, in the order of awqi_channel_sums */

struct cuda_quantization {
    struct cuda_scaled scaled;
    const float *clip; /* [rows][groups], or NULL */
    uint8_t *codes, *zeros;
    float *scales, *dequantized;
    unsigned long long *counts;    /* clamped scales, groups of zeros */
    unsigned long long *overflow;  /* the first group whose range overflows; all ones: none */
    int64_t max_code, scale_dtype; /* a word each: two in one could look like an address to the executor */
    bool peer, symmetric, unscale, reserved[5];
};

struct cuda_norms {
    const float *roots;
    int64_t root_stride, rows;
    const float *differences;
    int64_t n, k, group_size, groups, splits;
    double *squares; /* [splits][n][groups] */
    bool reduced, reserved[7];
};

enum { CUDA_SPLIT_ROWS = 128 }; /* of the product in a split */

#ifdef __cplusplus
extern "C" {
#endif

/* ---- observe.cu */

cudaError_t awqi_cuda_launch_scan(const struct cuda_matrix *x, const float *weights, bool hashed, uint64_t seed,
                                  struct cuda_row_scan *scans, cudaStream_t stream);
cudaError_t awqi_cuda_launch_gather(const struct cuda_matrix *x, const int64_t *rows, int64_t count, float *values,
                                    cudaStream_t stream);
/* sums[CUDA_SUMS][columns] of x alone, by way of partial[chunks][CUDA_SUMS][columns]. */
cudaError_t awqi_cuda_launch_sums(const struct cuda_matrix *x, const float *weights, double *partial, double *sums,
                                  cudaStream_t stream);
cudaError_t awqi_cuda_launch_gram(const struct cuda_matrix *x, const float *weights, double *gram, cudaStream_t stream);

/* ---- groups.cu */

/* *first = the least index of what is not finite; all ones before. */
cudaError_t awqi_cuda_launch_find_non_finite(const struct cuda_scaled *scaled, unsigned long long *first,
                                             cudaStream_t stream);
cudaError_t awqi_cuda_launch_group_max(const struct cuda_scaled *scaled, float *largest, cudaStream_t stream);
/* sums[columns], by way of partial[chunks][columns]. */
cudaError_t awqi_cuda_launch_shares(const struct cuda_scaled *scaled, const float *largest, double *partial,
                                    double *sums, cudaStream_t stream);
cudaError_t awqi_cuda_launch_quantize(const struct cuda_quantization *job, cudaStream_t stream);
cudaError_t awqi_cuda_launch_subtract(const struct cuda_scaled *scaled, float *values, cudaStream_t stream);
cudaError_t awqi_cuda_launch_keep(const struct cuda_scaled *scaled, const int32_t *columns, int64_t count,
                                  float *values, cudaStream_t stream);

/* ---- norms.cu */

cudaError_t awqi_cuda_launch_norms(const struct cuda_norms *norms, cudaStream_t stream);
/* sums[rows] of the squares of y[rows][columns]. */
cudaError_t awqi_cuda_launch_squares(const struct cuda_matrix *y, double *sums, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif /* AWQ_CUDA_MATRIX_H */
