/* Steps that read each number once: embedding, RMSNorm, SiLU of gated MLPs. */
#include "kernels.cuh"

static __global__ void __launch_bounds__(THREADS) embed_kernel(const __grid_constant__ cuda_embed job)
{
    for (int64_t row = blockIdx.x; row < job.count; row += gridDim.x) {
        const int64_t from = job.rows[row].token * job.width;
        for (int64_t i = threadIdx.x; i < job.width; i += THREADS)
            job.hidden[row * job.width + i] = load(job.table, from + i);
    }
}

cudaError_t app_cuda_embed(const cuda_embed &job, cudaStream_t stream)
{
    return launch({dim3(blocks_for(job.count)), dim3(THREADS), 0, stream, false}, embed_kernel, job);
}

static __global__ void __launch_bounds__(THREADS) norm_kernel(const __grid_constant__ cuda_norm job)
{
    float *shared = reinterpret_cast<float *>(shared_memory());
    for (int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) {
        const float *x = job.x + row * job.width;
        float sum = 0.0f;
        for (int64_t i = threadIdx.x; i < job.width; i += THREADS) sum = fmaf(x[i], x[i], sum);
        sum = reduce_block(sum, shared, sum_of<float>());
        const float scale = 1.0f / sqrtf(sum / static_cast<float>(job.width) + static_cast<float>(job.epsilon));
        for (int64_t i = threadIdx.x; i < job.width; i += THREADS)
            store(job.out, row * job.width + i, x[i] * scale * job.weight[i]);
    }
}

cudaError_t app_cuda_norm(const cuda_norm &job, cudaStream_t stream)
{
    return launch({dim3(blocks_for(job.rows)), dim3(THREADS), WARPS * sizeof(float), stream, false}, norm_kernel, job);
}

static __global__ void __launch_bounds__(THREADS) silu_mul_kernel(const __grid_constant__ cuda_silu_mul job)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < job.count; i += step) {
        const float gate = load(job.gate, i);
        store(job.out, i, gate / (1.0f + expf(-gate)) * load(job.up, i));
    }
}

cudaError_t app_cuda_silu_mul(const cuda_silu_mul &job, cudaStream_t stream)
{
    return launch({dim3(blocks_for((job.count + THREADS - 1) / THREADS)), dim3(THREADS), 0, stream, false},
                  silu_mul_kernel, job);
}
