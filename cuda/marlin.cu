/* marlin: weights in Marlin's tiles as they are on disk, with their scales and zero points, 4 or 8 bits; N a multiple
 * of 64, K of 16.  Stripes over all multiprocessors as Marlin's, but summed in single precision and fixed order.  The
 * kernel, its tiling, pipeline and limits: gemm.cuh. */
#include "gemm.cuh"

cudaError_t awqi_cuda_marlin(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    return launch_gemm<true>(product, overlap, stream);
}

cudaError_t awqi_cuda_marlin_allow(size_t bytes)
{
    return allow_gemm<true>(bytes);
}
