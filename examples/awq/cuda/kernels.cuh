/* What the application's kernels share.  They stand on cuda/device.cuh, as libawq's do: the same sources are made for
 * GPUs by nvcc, and for the executor of test/simt by the host's compiler. */
#ifndef APP_CUDA_KERNELS_CUH
#define APP_CUDA_KERNELS_CUH

#include "device.cuh"

#include "awq.h"
#include "kernels.h"

static const unsigned ALL_LANES = 0xffffffffu;

enum { THREADS = 256, WARPS = THREADS / 32 }; /* of most blocks */

DEVICE float load(const cuda_floats &floats, int64_t index)
{
    if (floats.dtype == AWQ_F16) return __half2float(static_cast<const __half *>(floats.data)[index]);
    if (floats.dtype == AWQ_BF16) return __bfloat162float(static_cast<const __nv_bfloat16 *>(floats.data)[index]);
    return static_cast<const float *>(floats.data)[index];
}

DEVICE void store(const cuda_floats &floats, int64_t index, float value)
{
    if (floats.dtype == AWQ_F16) static_cast<__half *>(floats.data)[index] = __float2half_rn(value);
    else if (floats.dtype == AWQ_BF16) static_cast<__nv_bfloat16 *>(floats.data)[index] = __float2bfloat16_rn(value);
    else static_cast<float *>(floats.data)[index] = value;
}

/* Combine a value of every lane of a warp, the same for all of them, whatever the order of execution. */
template <class T, class Combine>
DEVICE T reduce_warp(T value, Combine combine)
{
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value = combine(value, __shfl_xor_sync(ALL_LANES, value, lanes));
    return value;
}

/* The same for a block of THREADS lanes, through WARPS values of shared memory. */
template <class T, class Combine>
DEVICE T reduce_block(T value, T *shared, Combine combine)
{
    value = reduce_warp(value, combine);
    __syncthreads(); /* what was in shared memory has been read */
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
    __syncthreads();
    value = shared[0];
    for (int i = 1; i < WARPS; i++) value = combine(value, shared[i]);
    return value;
}

template <class T>
struct sum_of {
    __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};

/* The larger; NaN when either is. */
struct larger_of {
    __device__ __forceinline__ float operator()(float a, float b) const { return a > b || a != a ? a : b; }
};

/* As many blocks as there is work for, within what a grid may have: kernels go on in steps of the grid. */
static inline unsigned blocks_for(int64_t work)
{
    return static_cast<unsigned>(work < 1 ? 1 : work < 65535 ? work : 65535);
}

/* ---- one function a kernel, enqueued; for the table */

cudaError_t app_cuda_embed(const cuda_embed &job, cudaStream_t stream);
cudaError_t app_cuda_norm(const cuda_norm &job, cudaStream_t stream);
cudaError_t app_cuda_place(const cuda_attention &job, cudaStream_t stream);
cudaError_t app_cuda_attend(const cuda_attention &job, cudaStream_t stream);
cudaError_t app_cuda_silu_mul(const cuda_silu_mul &job, cudaStream_t stream);
cudaError_t app_cuda_argmax(const cuda_argmax &job, cudaStream_t stream);
cudaError_t app_cuda_scores(const cuda_scores &job, cudaStream_t stream);
cudaError_t app_cuda_difference(const cuda_difference &job, cudaStream_t stream);

#endif
