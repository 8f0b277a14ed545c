/* gemm: weights in the layout cuda-block, 4 or 8 bits.  The kernel, its tiling, pipeline and limits: gemm.cuh. */
#include "gemm.cuh"

cudaError_t awqi_cuda_gemm(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    return launch_gemm<false>(product, overlap, stream);
}

cudaError_t awqi_cuda_gemm_allow(size_t bytes)
{
    return allow_gemm<false>(bytes);
}
