/* The CUDA backend: finding the device, its memory, and the table that the core sees. */
#include "host.h"

#include <stdlib.h>

enum { LEAST_CAPABILITY = 75 };

const struct awqi_host *awqi_cuda_host;

awq_status awqi_cuda_check(cudaError_t error, const char *what)
{
    if (error == cudaSuccess) return AWQ_OK;
    (void)cudaGetLastError(); /* reported here; later calls should not see it again */
    awq_status status = error == cudaErrorMemoryAllocation ? AWQ_ERROR_OUT_OF_MEMORY : AWQ_ERROR_DEVICE;
    return awqi_cuda_host->fail(status, "cuda: %s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

awq_status awqi_cuda_enter(const struct cuda_device *device, int *previous)
{
    cudaError_t error = cudaGetDevice(previous);
    if (error == cudaSuccess && *previous != device->id) error = cudaSetDevice(device->id);
    return awqi_cuda_check(error, "selecting the device");
}

void awqi_cuda_leave(int previous)
{
    int current;
    if (cudaGetDevice(&current) == cudaSuccess && current != previous) (void)cudaSetDevice(previous);
}

/* ---- opening */

static awq_status check_driver(void)
{
    int driver = 0, count = 0;
    cudaError_t error = cudaDriverGetVersion(&driver);
    if (error != cudaSuccess || driver == 0)
        return awqi_cuda_host->fail(AWQ_ERROR_NO_DEVICE,
                                    "cuda: no driver: libcuda.so.1, which comes with NVIDIA's driver, "
                                    "cannot be loaded");
    error = cudaGetDeviceCount(&count);
    if (error == cudaErrorInsufficientDriver)
        return awqi_cuda_host->fail(
            AWQ_ERROR_NO_DEVICE, "cuda: the driver is too old: it serves CUDA %d.%d, this backend was built with %d.%d",
            driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0))
        return awqi_cuda_host->fail(AWQ_ERROR_NO_DEVICE,
                                    "cuda: there is a driver, but no GPU that it lets this process use");
    if (error == cudaSuccess) return AWQ_OK;
    return awqi_cuda_host->fail(AWQ_ERROR_NO_DEVICE, "cuda: the driver does not start: %s (%s)",
                                cudaGetErrorString(error), cudaGetErrorName(error));
}

static cudaError_t attribute(int32_t id, enum cudaDeviceAttr which, int32_t *value)
{
    int found = 0;
    cudaError_t error = cudaDeviceGetAttribute(&found, which, id);
    *value = found;
    return error;
}

static awq_status read_facts(struct cuda_device *device)
{
    int32_t major = 0, minor = 0, kilohertz = 0, bus_bits = 0, cache = 0;
    struct cuda_facts *facts = &device->facts;
    const struct {
        enum cudaDeviceAttr which;
        int32_t *value;
    } wanted[] = {
        {cudaDevAttrComputeCapabilityMajor, &major},
        {cudaDevAttrComputeCapabilityMinor, &minor},
        {cudaDevAttrMultiProcessorCount, &facts->multiprocessors},
        {cudaDevAttrMaxSharedMemoryPerBlockOptin, &facts->shared_block},
        {cudaDevAttrMaxSharedMemoryPerMultiprocessor, &facts->shared_multiprocessor},
        {cudaDevAttrMemoryClockRate, &kilohertz},
        {cudaDevAttrGlobalMemoryBusWidth, &bus_bits},
        {cudaDevAttrL2CacheSize, &cache},
    };
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted && error == cudaSuccess; i++)
        error = attribute(device->id, wanted[i].which, wanted[i].value);
    struct cudaDeviceProp properties;
    if (error == cudaSuccess) error = cudaGetDeviceProperties(&properties, device->id);
    if (error != cudaSuccess) return awqi_cuda_check(error, "asking the device");

    facts->capability = 10 * major + minor;
    awq_device_info *info = &device->info;
    memset(info, 0, sizeof *info);
    info->struct_size = sizeof *info;
    info->device_type = AWQ_DEVICE_CUDA;
    info->device_id = device->id;
    info->compute_capability = facts->capability;
    info->compute_units = facts->multiprocessors;
    info->memory_bytes = properties.totalGlobalMem;
    info->memory_bytes_per_second = (uint64_t)kilohertz * 1000u * 2u * ((uint64_t)bus_bits / 8u); /* double data rate */
    info->last_level_cache_bytes = (uint64_t)cache;
    memcpy(info->name, properties.name, sizeof info->name - 1);
    if (facts->capability < LEAST_CAPABILITY)
        return awqi_cuda_host->fail(
            AWQ_ERROR_NO_DEVICE,
            "cuda: device %d, %s, has compute capability %d.%d; 7.5 or later is needed; use the CPU", device->id,
            info->name, major, minor);
    return AWQ_OK;
}

static awq_status allow_shared_memory(const struct cuda_facts *facts)
{
    size_t bytes = (size_t)facts->shared_block;
    awq_status status = awqi_cuda_check(awqi_cuda_gemv_allow(bytes), "shared memory for gemv");
    if (status == AWQ_OK) status = awqi_cuda_check(awqi_cuda_gemm_allow(bytes), "shared memory for gemm");
    if (status == AWQ_OK) status = awqi_cuda_check(awqi_cuda_marlin_allow(bytes), "shared memory for marlin");
    if (status == AWQ_OK) status = awqi_cuda_check(awqi_cuda_hopper_allow(bytes), "shared memory for hopper");
    return status;
}

static void cuda_close(void *device)
{
    int previous;
    struct cuda_device *cuda = device;
    if ((cuda->blas != NULL || cuda->scratch != NULL) && awqi_cuda_enter(cuda, &previous) == AWQ_OK) {
        awqi_cuda_blas_close(cuda->blas);
        (void)cudaFree(cuda->scratch);
        awqi_cuda_leave(previous);
    }
    pthread_mutex_destroy(&cuda->scratch_lock);
    free(cuda);
}

static awq_status cuda_open(awq_context *context, int32_t device_id, void **device)
{
    awq_status status = check_driver();
    if (status != AWQ_OK) return status;
    int count = 0, previous;
    status = awqi_cuda_check(cudaGetDeviceCount(&count), "counting devices");
    if (status != AWQ_OK) return status;
    if (device_id >= count)
        return awqi_cuda_host->fail(AWQ_ERROR_NO_DEVICE, "cuda: device_id %d; there are %d devices, from 0 on",
                                    device_id, count);
    struct cuda_device *opened = calloc(1, sizeof *opened);
    if (opened == NULL) return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for a device");
    awqi_cuda_seed_nonces();
    pthread_mutex_init(&opened->scratch_lock, NULL);
    opened->context = context;
    opened->id = device_id;
    status = read_facts(opened);
    if (status == AWQ_OK) status = awqi_cuda_enter(opened, &previous);
    if (status == AWQ_OK) {
        status = allow_shared_memory(&opened->facts);
        if (status == AWQ_OK) awqi_cuda_blas_open(&opened->blas, opened->blas_missing, sizeof opened->blas_missing);
        awqi_cuda_leave(previous);
    }
    if (status != AWQ_OK) {
        cuda_close(opened);
        return status;
    }
    *device = opened;
    return AWQ_OK;
}

static awq_status cuda_get_info(void *device, awq_device_info *info)
{
    uint32_t struct_size = info->struct_size;
    *info = ((const struct cuda_device *)device)->info;
    info->struct_size = struct_size;
    return AWQ_OK;
}

/* ---- memory and time */

static awq_status cuda_allocate(void *device, uint64_t size_bytes, void **memory)
{
    int previous;
    awq_status status = awqi_cuda_enter(device, &previous);
    if (status != AWQ_OK) return status;
    void *allocated = NULL;
    status = awqi_cuda_check(cudaMalloc(&allocated, size_bytes > 0 ? size_bytes : 1), "allocating device memory");
    awqi_cuda_leave(previous);
    if (status == AWQ_OK) *memory = allocated;
    return status;
}

static void cuda_release(void *device, void *memory)
{
    int previous;
    if (memory == NULL || awqi_cuda_enter(device, &previous) != AWQ_OK) return;
    (void)cudaFree(memory);
    awqi_cuda_leave(previous);
}

static awq_status cuda_synchronize(void *device, void *stream)
{
    int previous;
    awq_status status = awqi_cuda_enter(device, &previous);
    if (status != AWQ_OK) return status;
    status = awqi_cuda_check(cudaStreamSynchronize(stream), "work enqueued before");
    awqi_cuda_leave(previous);
    return status;
}

static const struct awqi_backend backend = {
    .abi = AWQI_BACKEND_ABI,
    .kernels = 1,
    .name = "cuda",
    .open = cuda_open,
    .close = cuda_close,
    .get_info = cuda_get_info,
    .allocate = cuda_allocate,
    .release = cuda_release,
    .copy = awqi_cuda_copy,
    .synchronize = cuda_synchronize,
    .time = awqi_cuda_time,
    .scan_rows = awqi_cuda_scan_rows,
    .gather_rows = awqi_cuda_gather_rows,
    .accumulate = awqi_cuda_accumulate,
    .accumulate_gram = awqi_cuda_accumulate_gram,
    .find_non_finite = awqi_cuda_find_non_finite,
    .group_max = awqi_cuda_group_max,
    .add_shares = awqi_cuda_add_shares,
    .quantize = awqi_cuda_quantize,
    .subtract = awqi_cuda_subtract,
    .keep_columns = awqi_cuda_keep_columns,
    .product_norm = awqi_cuda_product_norm,
    .group_norms = awqi_cuda_group_norms,
    .linear_prepare = awqi_cuda_linear_prepare,
    .linear_release = awqi_cuda_linear_release,
    .linear_size = awqi_cuda_linear_size,
    .linear_workspace = awqi_cuda_linear_workspace,
    .linear_run = awqi_cuda_linear_run,
    .linear_choose = awqi_cuda_linear_choose,
};

__attribute__((visibility("default"))) const struct awqi_backend *awqi_backend_get(const struct awqi_host *host);

const struct awqi_backend *awqi_backend_get(const struct awqi_host *host)
{
    if (host->abi != AWQI_BACKEND_ABI) return NULL;
    awqi_cuda_host = host;
    return &backend;
}
