/* The table of the library, and what it asks of the CUDA runtime. */
#include "kernels.cuh"

static const char *error_text(int error)
{
    return cudaGetErrorString(static_cast<cudaError_t>(error));
}

/* An error is reported where it is found; later calls should not see it again. */
static int result(cudaError_t error)
{
    if (error != cudaSuccess) (void)cudaGetLastError();
    return static_cast<int>(error);
}

static int open_stream(int device, void **stream)
{
    cudaStream_t made = nullptr;
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess) error = cudaStreamCreate(&made);
    *stream = made;
    return result(error);
}

static int close_stream(void *stream)
{
    return result(cudaStreamDestroy(static_cast<cudaStream_t>(stream)));
}

static int upload(void *device, const void *host, uint64_t bytes, void *stream)
{
    return result(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, static_cast<cudaStream_t>(stream)));
}

static int download(void *host, const void *device, uint64_t bytes, void *stream)
{
    cudaStream_t queue = static_cast<cudaStream_t>(stream);
    cudaError_t error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, queue);
    return result(error == cudaSuccess ? cudaStreamSynchronize(queue) : error);
}

/* ---- graphs */

static int capture(void *stream)
{
    return result(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeThreadLocal));
}

static int captured(void *stream, void **graph)
{
    cudaGraph_t description = nullptr;
    cudaGraphExec_t made = nullptr;
    cudaError_t error = cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &description);
    if (error == cudaSuccess) error = cudaGraphInstantiate(&made, description, 0);
    if (description != nullptr) (void)cudaGraphDestroy(description);
    *graph = error == cudaSuccess ? made : nullptr;
    return result(error);
}

static int replay(void *graph, void *stream)
{
    return result(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)));
}

static void forget(void *graph)
{
    if (graph != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph));
}

/* ---- kernels */

template <class Job, cudaError_t (*kernel)(const Job &, cudaStream_t)>
static int enqueue(const Job *job, void *stream)
{
    return result(kernel(*job, static_cast<cudaStream_t>(stream)));
}

static const cuda_kernels table = {
    APP_CUDA_KERNELS_VERSION,
    error_text,
    open_stream,
    close_stream,
    upload,
    download,
    capture,
    captured,
    replay,
    forget,
    enqueue<cuda_embed, app_cuda_embed>,
    enqueue<cuda_norm, app_cuda_norm>,
    enqueue<cuda_attention, app_cuda_place>,
    enqueue<cuda_attention, app_cuda_attend>,
    enqueue<cuda_silu_mul, app_cuda_silu_mul>,
    enqueue<cuda_argmax, app_cuda_argmax>,
    enqueue<cuda_scores, app_cuda_scores>,
    enqueue<cuda_difference, app_cuda_difference>,
};

extern "C" __attribute__((visibility("default"))) const cuda_kernels *app_cuda_kernels_get(void);

const cuda_kernels *app_cuda_kernels_get(void)
{
    return &table;
}
