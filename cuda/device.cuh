/* What every CUDA source stands on: types, qualifiers, shared memory and launches, for two compilers.
 *
 * nvcc makes machine code of the sources of this folder.  A host C++ compiler with -DAWQ_SIMT makes a program of the
 * same sources that runs on the executor of test/simt, which finds mistakes that a GPU only shows now and then.  To
 * be fit for both, a kernel
 *   - takes all its shared memory dynamically, from shared_memory();
 *   - uses inline PTX only through ptx.cuh;
 *   - names in its masks exactly the lanes that come, and orders shared memory inside a warp with __syncwarp(), which a
 *     shuffle, an ldmatrix or an mma does not do;
 *   - keeps flags and counters that other blocks read in the atomics and the acquire and release wrappers of ptx.cuh;
 *   - has no static or __constant__ variables that host code sets. */
#ifndef AWQ_CUDA_DEVICE_CUH
#define AWQ_CUDA_DEVICE_CUH

#ifdef AWQ_SIMT
#include "simt.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#endif

#include <stddef.h>
#include <stdint.h>

/* A function for kernels: inlined, and private to the file, so that instances of two files cannot meet at link time. */
#define DEVICE static __device__ __forceinline__

/* The architecture that code is being made for: 750, 800, 900 ...; 0 where host code is compiled.  On the executor
 * every body exists, and what the pretended device lacks is an error when it is reached. */
#if defined(AWQ_SIMT)
#define AWQ_ARCH 900
#elif defined(__CUDA_ARCH__)
#define AWQ_ARCH __CUDA_ARCH__
#else
#define AWQ_ARCH 0
#endif

/* Whether code is being made for the instructions that compute capability 9.0 alone has (sm_90a): wgmma.  PTX for 9.0
 * that a driver compiles later may not use them. */
#if defined(AWQ_SIMT) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define AWQ_WGMMA 1
#else
#define AWQ_WGMMA 0
#endif

/* The block's dynamic shared memory, aligned to 1024 bytes as the swizzle of wgmma wants it.  It begins as the launch
 * finds it: undefined. */
#ifdef AWQ_SIMT
DEVICE unsigned char *shared_memory()
{
    return simt::shared_memory();
}
#elif defined(__CUDACC__)
DEVICE unsigned char *shared_memory()
{
    extern __shared__ __align__(1024) unsigned char awqi_shared_memory[];
    return awqi_shared_memory;
}
#endif

struct launch_config {
    dim3 grid;
    dim3 block;
    size_t shared_bytes; /* dynamic; above 48 KiB only after allow_shared() */
    cudaStream_t stream;
    bool overlap; /* may start before the kernel ahead of it in the stream has ended: it must call ptx::grid_wait()
                   * before it touches what that kernel reads or writes.  For compute capability 9.0 and above. */
};

/* Enqueue kernel(arguments...).  Arguments are converted to the types of its parameters and copied. */
template <class... Parameters, class... Arguments>
static cudaError_t launch(const launch_config &config, void (*kernel)(Parameters...), const Arguments &...arguments)
{
    static_assert(sizeof...(Parameters) == sizeof...(Arguments), "a kernel takes all its arguments");
#ifdef AWQ_SIMT
    return simt::launch({config.grid, config.block, config.shared_bytes, config.stream, config.overlap}, kernel,
                        static_cast<Parameters>(arguments)...);
#else
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t full = {};
    full.gridDim = config.grid;
    full.blockDim = config.block;
    full.dynamicSmemBytes = config.shared_bytes;
    full.stream = config.stream;
    full.attrs = &overlap;
    full.numAttrs = config.overlap ? 1 : 0;
    return [&](Parameters... values) {
        void *pointers[] = {const_cast<void *>(static_cast<const void *>(&values))..., nullptr};
        return cudaLaunchKernelExC(&full, reinterpret_cast<const void *>(kernel), pointers);
    }(arguments...);
#endif
}

/* Let a kernel take up to 'bytes' of dynamic shared memory; done once, when a device is opened. */
template <class... Parameters>
static cudaError_t allow_shared(void (*kernel)(Parameters...), size_t bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                static_cast<int>(bytes));
}

#endif /* AWQ_CUDA_DEVICE_CUH */
