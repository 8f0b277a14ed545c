/* What the host side of the CUDA backend hands its kernels: one product y = x W^T, described by plain values.
 *
 * Columns are those the kernels compute, padded to blocks of 64 ("block order"): output o is column o, but with 'gated'
 * the block b holds gates 32 b .. 32 b + 31 and then their ups, so that one lane has both at its end. */
#ifndef AWQ_CUDA_PRODUCT_H
#define AWQ_CUDA_PRODUCT_H

#include "awq.h"

#include <cuda_runtime_api.h>
#include <stdbool.h>

enum { CUDA_BLOCK = 64 }; /* columns and inputs of a block of the layout cuda-block */

/* How a product runs: what plan.c decides and a kernel is launched with. */
struct cuda_config {
    int32_t kernel;      /* AWQ_KERNEL_* */
    int32_t dtype;       /* that x is rounded to: AWQ_F16 or AWQ_BF16; AWQ_F32: it is not */
    int32_t blocks;      /* thread blocks, each an equal stripe of the units of work */
    int32_t stages;      /* of the ring: units whose weights are under way or in use */
    int32_t token_rows;  /* rows of x that one thread block takes at a time */
    int32_t launch_rows; /* and those of one launch, at most */
    int32_t span;        /* gemv: blocks of inputs of x that fit into shared memory */
    int32_t shared_bytes;
    bool tensor_cores;
    bool fine;   /* groups end inside a block of inputs */
    bool plain;  /* hopper: they do not, and scales are of the type of x */
    bool staged; /* x is normalised, rounded and padded in the workspace first */
    /* Of the workspace, in this order; for dequant 'partial' is a batch of sums and 'ticket' cuBLASLt's. */
    uint64_t staged_bytes, dense_bytes, partial_bytes, ticket_bytes, kept_bytes;
};

struct cuda_view {
    void *data;
    int64_t stride; /* elements from row to row */
    int32_t dtype;
    int32_t reserved; /* no padding: arguments of kernels are whole, known bytes */
};

static inline void *awqi_cuda_row(const struct cuda_view *view, int64_t row)
{
    int64_t bytes = view->dtype == AWQ_F32 ? 4 : 2;
    return view->data != NULL ? (char *)view->data + row * view->stride * bytes : NULL;
}

/* How the codes of a weight lie in device memory. */
enum cuda_storage {
    CUDA_DENSE,  /* no codes: a matrix [columns][input_blocks * 64] of scale_dtype */
    CUDA_ROWS,   /* as awq_weight has them: a stream of bits for each column, scales and zeros [columns][groups] */
    CUDA_BLOCKS, /* the layout cuda-block */
    CUDA_MARLIN_TILES, /* the layout marlin, scales and zeros as cuda-block has them */
};

struct cuda_weight {
    const void *codes;
    const void *scales;       /* blocks: [groups][columns], per 64 columns new[8 i + j] = old[i + 8 j] */
    const void *zeros;        /* blocks: words [groups][columns bits / 32]; rows: bytes; NULL: symmetric */
    const float *bias;        /* [columns], or NULL */
    const float *input_scale; /* [inputs], or NULL */
    const int32_t *salient_columns;
    const void *salient_values; /* F16 [salient_count][columns] */
    int64_t salient_count;      /* inputs with a value that is added to (q - z) s */
    int64_t row_bytes;        /* rows: from one column's codes to the next one's */
    int32_t inputs, outputs;
    int32_t column_blocks, input_blocks; /* of 64, padding included */
    int32_t group_size, groups;
    int32_t bits;        /* per code; 16 or 32 when dense */
    int32_t scale_dtype; /* of the scales, or of a dense weight */
    int32_t storage;     /* enum cuda_storage */
    bool gated;
    bool single_scales; /* scales of one group, placed as marlin does: per 32 columns, see scale_of_lane */
};

struct cuda_product {
    struct cuda_weight w;
    struct cuda_view x, y, residual, norm; /* residual.data, norm.data NULL: none */
    float epsilon;
    int32_t rows;
    void *dense;       /* dequant: [columns][input_blocks * 64] */
    void *staged;      /* [rows][input_blocks * 64]: x as config.dtype, normalised, divided, padded with zeros; for
                        * hopper in its own order */
    float *partial;    /* sums of stripes that end inside a column of blocks */
    uint64_t *tickets; /* of those columns: who has arrived */
    float *kept;       /* [rows][salient_count]: what x holds in salient columns, normalised and divided */
    uint64_t nonce;    /* of this run, not 0, so that nothing left in the workspace can be taken for its tickets */
    struct cuda_config config;
};

#ifdef __cplusplus
extern "C" {
#endif

/* Rows first .. first + count - 1 of a product, or as many as there are. */
static inline void awqi_cuda_rows(const struct cuda_product *product, int32_t first, int32_t count,
                                  struct cuda_product *part)
{
    *part = *product;
    part->rows = product->rows - first < count ? product->rows - first : count;
    part->x.data = awqi_cuda_row(&product->x, first);
    part->y.data = awqi_cuda_row(&product->y, first);
    part->residual.data = awqi_cuda_row(&product->residual, first);
}

/* Enqueue a kernel on a stream.  'overlap' as in device.cuh. */
cudaError_t awqi_cuda_reference(const struct cuda_product *product, cudaStream_t stream);
cudaError_t awqi_cuda_stage(const struct cuda_product *product, bool overlap, cudaStream_t stream);
cudaError_t awqi_cuda_keep(const struct cuda_product *product, bool overlap, cudaStream_t stream);
cudaError_t awqi_cuda_dequant(const struct cuda_product *product, cudaStream_t stream);
cudaError_t awqi_cuda_finish(const struct cuda_product *product, cudaStream_t stream); /* y from sums in 'partial' */
cudaError_t awqi_cuda_gemv(const struct cuda_product *product, bool overlap, cudaStream_t stream);
cudaError_t awqi_cuda_gemm(const struct cuda_product *product, bool overlap, cudaStream_t stream);
cudaError_t awqi_cuda_marlin(const struct cuda_product *product, bool overlap, cudaStream_t stream);
cudaError_t awqi_cuda_hopper(const struct cuda_product *product, bool overlap, cudaStream_t stream);

/* Let kernels take 'bytes' of shared memory; once, when a device is opened. */
cudaError_t awqi_cuda_gemv_allow(size_t bytes);
cudaError_t awqi_cuda_gemm_allow(size_t bytes);
cudaError_t awqi_cuda_marlin_allow(size_t bytes);
cudaError_t awqi_cuda_hopper_allow(size_t bytes);

/* dst = src for two arrays in device memory, converting floats.  Strides in elements. */
struct cuda_array {
    void *data;
    int64_t strides[AWQ_MAX_DIMS];
    int32_t dtype;
};
cudaError_t awqi_cuda_convert(const struct cuda_array *src, const struct cuda_array *dst, int32_t ndim,
                              const int64_t *shape, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif /* AWQ_CUDA_PRODUCT_H */
