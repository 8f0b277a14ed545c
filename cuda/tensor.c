/* Copies between host and device, and on the device, of tensors of any strides. */
#include "host.h"

#include <stdlib.h>

static int64_t elements_of(const awq_tensor *tensor)
{
    int64_t elements = 1;
    for (int32_t i = 0; i < tensor->ndim; i++) elements *= tensor->shape[i];
    return elements;
}

static void *data_of(const awq_tensor *tensor)
{
    return (unsigned char *)tensor->data + tensor->byte_offset;
}

static bool is_contiguous(const awq_tensor *tensor)
{
    int64_t step = 1;
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        if (tensor->shape[i] != 1 && tensor->strides[i] != step) return false;
        step *= tensor->shape[i];
    }
    return true;
}

static struct cuda_array array_of(const awq_tensor *tensor)
{
    struct cuda_array array = {.data = data_of(tensor), .dtype = tensor->dtype};
    memcpy(array.strides, tensor->strides, sizeof array.strides);
    return array;
}

/* A contiguous array of the shape of 'tensor' at 'data'. */
static struct cuda_array packed_array(const awq_tensor *tensor, void *data)
{
    struct cuda_array array = {.data = data, .dtype = tensor->dtype};
    int64_t step = 1;
    for (int32_t i = tensor->ndim - 1; i >= 0; i--) {
        array.strides[i] = step;
        step *= tensor->shape[i];
    }
    return array;
}

/* Between a host tensor and contiguous host memory. */
static void pack_host(const awq_tensor *tensor, unsigned char *packed, bool unpack)
{
    const size_t size = awqi_cuda_element_size(tensor->dtype);
    const int64_t elements = elements_of(tensor);
    for (int64_t i = 0; i < elements; i++, packed += size) {
        int64_t rest = i, at = 0;
        for (int32_t d = tensor->ndim - 1; d >= 0; d--) {
            at += rest % tensor->shape[d] * tensor->strides[d];
            rest /= tensor->shape[d];
        }
        unsigned char *element = (unsigned char *)data_of(tensor) + at * (int64_t)size;
        if (unpack) memcpy(element, packed, size);
        else memcpy(packed, element, size);
    }
}

static cudaError_t copy_within(const awq_tensor *src, awq_tensor *dst, cudaStream_t stream)
{
    if (src->dtype == dst->dtype && is_contiguous(src) && is_contiguous(dst)) {
        const uint64_t bytes = (uint64_t)elements_of(src) * awqi_cuda_element_size(src->dtype);
        return cudaMemcpyAsync(data_of(dst), data_of(src), bytes, cudaMemcpyDeviceToDevice, stream);
    }
    const struct cuda_array from = array_of(src), to = array_of(dst);
    return awqi_cuda_convert(&from, &to, src->ndim, src->shape, stream);
}

/* One side lies on the host.  Bytes travel as they are, in order; strides are undone on the host, types converted on
 * the device. */
static awq_status copy_across(const awq_tensor *src, awq_tensor *dst, cudaStream_t stream)
{
    const awq_tensor *on_host = src->device_type == AWQ_DEVICE_CPU ? src : dst;
    const bool upload = on_host == src, packed = is_contiguous(on_host);
    const awq_tensor *on_device = upload ? dst : src;
    const uint64_t bytes = (uint64_t)elements_of(src) * awqi_cuda_element_size(on_host->dtype);
    const bool direct = src->dtype == dst->dtype && is_contiguous(on_device);
    unsigned char *host = packed ? data_of(on_host) : malloc(bytes);
    void *device = direct ? data_of(on_device) : NULL;
    cudaError_t error = host != NULL ? cudaSuccess : cudaErrorMemoryAllocation;
    if (error == cudaSuccess && !direct) error = cudaMalloc(&device, bytes);
    const struct cuda_array through = packed_array(on_host, device), far = array_of(on_device);
    if (error == cudaSuccess && upload) {
        if (!packed) pack_host(src, host, false);
        error = cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream);
        if (error == cudaSuccess && !direct) error = awqi_cuda_convert(&through, &far, src->ndim, src->shape, stream);
    } else if (error == cudaSuccess) {
        if (!direct) error = awqi_cuda_convert(&far, &through, src->ndim, src->shape, stream);
        if (error == cudaSuccess) error = cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream);
    }
    if (error == cudaSuccess && (!direct || !packed || !upload)) error = cudaStreamSynchronize(stream);
    if (error == cudaSuccess && !upload && !packed) pack_host(dst, host, true);
    if (!direct) (void)cudaFree(device);
    if (!packed) free(host);
    return awqi_cuda_check(error, "copying a tensor");
}

awq_status awqi_cuda_copy(void *device, const awq_tensor *src, awq_tensor *dst, void *stream)
{
    const struct cuda_device *cuda = device;
    const awq_tensor *both[] = {src, dst};
    for (int i = 0; i < 2; i++)
        if (both[i]->device_type == AWQ_DEVICE_CUDA && both[i]->device_id != cuda->id)
            return awqi_cuda_host->fail(AWQ_ERROR_INVALID,
                                        "awq_tensor_copy: %s is on device %d, the context on device %d",
                                        i == 0 ? "src" : "dst", both[i]->device_id, cuda->id);
    if (src->device_type == AWQ_DEVICE_CPU && dst->device_type == AWQ_DEVICE_CPU)
        return awqi_cuda_host->fail(AWQ_ERROR_INVALID,
                                    "awq_tensor_copy: both tensors are in host memory; copy them with a "
                                    "CPU context");
    if (elements_of(src) == 0) return AWQ_OK;
    int previous;
    awq_status status = awqi_cuda_enter(cuda, &previous);
    if (status != AWQ_OK) return status;
    if (src->device_type == dst->device_type) {
        status = awqi_cuda_check(copy_within(src, dst, stream), "copying a tensor");
    } else {
        status = copy_across(src, dst, stream);
    }
    awqi_cuda_leave(previous);
    return status;
}
