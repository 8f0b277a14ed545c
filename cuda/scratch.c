/* Memory that one operation needs and the next one needs again: a device keeps one block of it, so that a search does
 * not wait for the allocator with every candidate.  Work on it is enqueued on the default stream, in whose order one
 * operation's use ends before another's begins. */
#include "host.h"

enum { KEPT_BYTES = 256 << 20 }; /* at most, between operations */

awq_status awqi_cuda_begin(struct cuda_device *device, uint64_t bytes, struct cuda_work *work)
{
    memset(work, 0, sizeof *work);
    awq_status status = awqi_cuda_enter(device, &work->previous);
    if (status != AWQ_OK) return status;
    work->device = device;
    pthread_mutex_lock(&device->scratch_lock);
    void *memory = device->scratch;
    work->bytes = device->scratch_bytes;
    device->scratch = NULL;
    device->scratch_bytes = 0;
    pthread_mutex_unlock(&device->scratch_lock);
    work->memory = memory;
    if (work->bytes >= bytes) return AWQ_OK;
    (void)cudaFree(memory); /* before the larger one, for which there may be no room beside it */
    memory = NULL;
    status = awqi_cuda_check(cudaMalloc(&memory, bytes), "allocating device memory");
    if (status != AWQ_OK) {
        awqi_cuda_leave(work->previous);
        return status;
    }
    work->memory = memory;
    work->bytes = bytes;
    return AWQ_OK;
}

void *awqi_cuda_carve(struct cuda_work *work, uint64_t bytes)
{
    void *part = work->memory + work->used;
    work->used += awqi_cuda_align(bytes);
    return part;
}

void *awqi_cuda_carve_copy(struct cuda_work *work, const void *host, uint64_t bytes)
{
    if (host == NULL) return NULL;
    void *part = awqi_cuda_carve(work, bytes);
    if (work->error == cudaSuccess) work->error = cudaMemcpyAsync(part, host, bytes, cudaMemcpyHostToDevice, NULL);
    return part;
}

void awqi_cuda_fetch(struct cuda_work *work, void *host, const void *part, uint64_t bytes)
{
    if (work->error == cudaSuccess && host != NULL && bytes > 0)
        work->error = cudaMemcpy(host, part, bytes, cudaMemcpyDeviceToHost);
}

awq_status awqi_cuda_end(struct cuda_work *work, awq_status status, const char *what)
{
    struct cuda_device *device = work->device;
    if (status == AWQ_OK) status = awqi_cuda_check(work->error, what);
    void *spare = work->memory;
    pthread_mutex_lock(&device->scratch_lock);
    if (work->bytes <= KEPT_BYTES && work->bytes > device->scratch_bytes) {
        spare = device->scratch;
        device->scratch = work->memory;
        device->scratch_bytes = work->bytes;
    }
    pthread_mutex_unlock(&device->scratch_lock);
    if (spare != NULL) (void)cudaFree(spare);
    awqi_cuda_leave(work->previous);
    return status;
}
