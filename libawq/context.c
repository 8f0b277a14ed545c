/* The context: a device, a pool of threads, host memory under a limit, and the log. */
#include "backend.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Every block is preceded by its size, at the price of one alignment unit; blocks are few and large. */
enum { BLOCK_ALIGNMENT = 256, HUGE_PAGE = 1 << 21 };

struct block_header {
    uint64_t size; /* with the header */
};

struct awq_context {
    atomic_int references;
    awq_context_options options;
    struct awqi_pool *pool;
    const struct awqi_backend *backend;
    void *device;
    pthread_mutex_t log_lock;
    atomic_uint_fast64_t current_bytes;
    atomic_uint_fast64_t peak_bytes;
};

/* Weights of many megabytes are read from end to end, and small pages of them would not fit the processor's tables of
 * pages: whole huge pages are asked for, and a refusal changes nothing.  The rest of a block stays in small ones. */
static void *default_allocate(void *user_data, size_t size, size_t alignment)
{
    (void)user_data;
    void *memory = NULL;
    bool large = size >= 2 * HUGE_PAGE;
    if (posix_memalign(&memory, large ? HUGE_PAGE : alignment, size) != 0) return NULL;
    if (large) (void)madvise(memory, size / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return memory;
}

static void default_release(void *user_data, void *memory, size_t size)
{
    (void)user_data;
    (void)size;
    free(memory);
}

static awq_status check_options(const awq_context_options *options)
{
    if (options->device_type != AWQ_DEVICE_CPU && options->device_type != AWQ_DEVICE_CUDA)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_options: device_type %d", options->device_type);
    if (options->device_id < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_options: device_id %d", options->device_id);
    if (options->threads < 0 || options->threads > 4096)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_options: %d threads; 0 to 4096 are possible", options->threads);
    if (options->log_level < 0 || options->log_level > AWQ_LOG_DEBUG)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_options: log_level %d", options->log_level);
    if ((options->allocate == NULL) != (options->release == NULL))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_options: allocate and release go together");
    return awqi_check_flags(options->flags, 0, "awq_context_options");
}

static void context_free(awq_context *context)
{
    if (context->device != NULL) context->backend->close(context->device);
    awqi_pool_destroy(context->pool);
    pthread_mutex_destroy(&context->log_lock);
    context->options.release(context->options.allocator_data, context, sizeof *context);
}

awq_status awq_context_create(const awq_context_options *options, awq_context **context)
{
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_create: context is NULL");
    *context = NULL;
    awq_context_options known;
    awq_status status = awqi_import(&known, sizeof known, options, "awq_context_options");
    if (status == AWQ_OK) status = check_options(&known);
    const struct awqi_backend *backend = NULL;
    if (status == AWQ_OK) status = awqi_backend_find(known.device_type, &backend);
    if (status != AWQ_OK) return status;

    if (known.allocate == NULL) {
        known.allocate = default_allocate;
        known.release = default_release;
    }
    if (known.threads == 0) known.threads = awqi_usable_processors();
    if (known.log_level == 0) known.log_level = AWQ_LOG_WARNING;

    awq_context *created = known.allocate(known.allocator_data, sizeof *created, BLOCK_ALIGNMENT);
    if (created == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "no memory for a context");
    memset(created, 0, sizeof *created);
    atomic_init(&created->references, 1);
    created->options = known;
    created->backend = backend;
    pthread_mutex_init(&created->log_lock, NULL);
    status = awqi_pool_create(known.threads, &created->pool);
    if (status == AWQ_OK) status = backend->open(created, known.device_id, &created->device);
    if (status != AWQ_OK) {
        context_free(created);
        return status;
    }
    *context = created;
    return AWQ_OK;
}

awq_context *awqi_context_retain(awq_context *context)
{
    if (context != NULL) atomic_fetch_add_explicit(&context->references, 1, memory_order_relaxed);
    return context;
}

void awqi_context_release(awq_context *context)
{
    if (context != NULL && atomic_fetch_sub_explicit(&context->references, 1, memory_order_acq_rel) == 1)
        context_free(context);
}

void awq_context_destroy(awq_context *context)
{
    awqi_context_release(context);
}

awq_status awq_context_get_device(const awq_context *context, awq_device_info *info)
{
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_get_device: context is NULL");
    awq_device_info known;
    awq_struct_init(&known, sizeof known);
    awq_status status = context->backend->get_info(context->device, &known);
    if (status != AWQ_OK) return status;
    return awqi_export(info, &known, sizeof known, "awq_device_info");
}

awq_status awq_context_get_memory(const awq_context *context, uint64_t *current_bytes, uint64_t *peak_bytes)
{
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_get_memory: context is NULL");
    if (current_bytes != NULL) *current_bytes = atomic_load(&context->current_bytes);
    if (peak_bytes != NULL) *peak_bytes = atomic_load(&context->peak_bytes);
    return AWQ_OK;
}

awq_status awq_context_allocate(awq_context *context, uint64_t size_bytes, void **memory)
{
    if (memory == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_allocate: memory is NULL");
    *memory = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_allocate: context is NULL");
    return context->backend->allocate(context->device, size_bytes, memory);
}

void awq_context_free(awq_context *context, void *memory)
{
    if (context != NULL && memory != NULL) context->backend->release(context->device, memory);
}

awq_status awq_context_synchronize(awq_context *context, void *stream)
{
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_synchronize: context is NULL");
    return context->backend->synchronize(context->device, stream);
}

awq_status awq_context_time(awq_context *context, awq_work_callback work, void *user_data, int64_t runs,
                            double *seconds)
{
    enum { MOST_RUNS = 1 << 20 };
    if (context == NULL || work == NULL || seconds == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_time: %s is NULL",
                         context == NULL ? "context" : work == NULL ? "work" : "seconds");
    if (runs < 1 || runs > MOST_RUNS)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_time: %lld runs; 1 to %d are possible", (long long)runs,
                         (int)MOST_RUNS);
    return context->backend->time(context->device, work, user_data, runs, seconds);
}

awq_status awq_context_parallel_for(awq_context *context, int64_t count, awq_task_callback task, void *user_data)
{
    if (context == NULL || task == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_context_parallel_for: %s is NULL", task ? "context" : "task");
    if (count < 0) return awqi_fail(AWQ_ERROR_INVALID, "awq_context_parallel_for: count is %lld", (long long)count);
    if (context->options.device_type != AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "awq_context_parallel_for: only CPU contexts run tasks");
    awqi_parallel_for(context, count, task, user_data);
    return AWQ_OK;
}

void awqi_parallel_for(awq_context *context, int64_t count, awq_task_callback task, void *user_data)
{
    awqi_pool_run(context->pool, count, task, user_data);
}

void awqi_parallel_ranges(awq_context *context, int64_t count, awqi_range_callback range, void *user_data)
{
    awqi_pool_run_ranges(context->pool, count, range, user_data);
}

int32_t awqi_context_threads(const awq_context *context)
{
    return context->options.threads;
}

const struct awqi_backend *awqi_context_backend(const awq_context *context)
{
    return context->backend;
}

void *awqi_context_device(const awq_context *context)
{
    return context->device;
}

int32_t awqi_context_device_type(const awq_context *context)
{
    return context->options.device_type;
}

void awqi_set_device(const awq_context *context, awq_tensor *view)
{
    view->device_type = context->options.device_type;
    view->device_id = context->options.device_id;
}

awq_status awqi_check_device(const awq_context *context, const awq_tensor *tensor, const char *what)
{
    const awq_context_options *options = &context->options;
    if (tensor->device_type == options->device_type &&
        (tensor->device_type == AWQ_DEVICE_CPU || tensor->device_id == options->device_id))
        return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: on device %d:%d, but the context is on device %d:%d", what,
                     tensor->device_type, tensor->device_id, options->device_type, options->device_id);
}

awq_status awqi_check_host(const awq_tensor *tensor, const char *what)
{
    if (tensor->device_type == AWQ_DEVICE_CPU) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: on device %d:%d, but weights are made and read in host memory", what,
                     tensor->device_type, tensor->device_id);
}

/* ---- memory */

/* Count 'size' more bytes unless that would exceed the limit. */
static bool reserve(awq_context *context, uint64_t size)
{
    uint64_t limit = context->options.memory_limit_bytes;
    uint64_t current = atomic_load(&context->current_bytes);
    do {
        if (limit != 0 && (size > limit || current > limit - size)) return false;
    } while (!atomic_compare_exchange_weak(&context->current_bytes, &current, current + size));
    uint64_t peak = atomic_load(&context->peak_bytes);
    while (peak < current + size && !atomic_compare_exchange_weak(&context->peak_bytes, &peak, current + size)) {}
    return true;
}

awq_status awqi_alloc(awq_context *context, uint64_t count, uint64_t size, const char *what, void **memory)
{
    *memory = NULL;
    uint64_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX / 2 - BLOCK_ALIGNMENT)
        return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: %llu times %llu bytes exceed the address space", what,
                         (unsigned long long)count, (unsigned long long)size);
    bytes += BLOCK_ALIGNMENT;
    if (!reserve(context, bytes))
        return awqi_fail(AWQ_ERROR_MEMORY_LIMIT, "%s: %llu bytes on top of %llu would exceed the limit of %llu", what,
                         (unsigned long long)bytes, (unsigned long long)atomic_load(&context->current_bytes),
                         (unsigned long long)context->options.memory_limit_bytes);
    unsigned char *block = context->options.allocate(context->options.allocator_data, (size_t)bytes, BLOCK_ALIGNMENT);
    if (block == NULL) {
        atomic_fetch_sub(&context->current_bytes, bytes);
        return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for %llu bytes", what, (unsigned long long)bytes);
    }
    ((struct block_header *)(void *)block)->size = bytes;
    *memory = block + BLOCK_ALIGNMENT;
    return AWQ_OK;
}

awq_status awqi_calloc(awq_context *context, uint64_t count, uint64_t size, const char *what, void **memory)
{
    awq_status status = awqi_alloc(context, count, size, what, memory);
    if (status == AWQ_OK) memset(*memory, 0, (size_t)(count * size));
    return status;
}

void awqi_free(awq_context *context, void *memory)
{
    if (memory == NULL) return;
    unsigned char *block = (unsigned char *)memory - BLOCK_ALIGNMENT;
    uint64_t bytes = ((struct block_header *)(void *)block)->size;
    context->options.release(context->options.allocator_data, block, (size_t)bytes);
    atomic_fetch_sub(&context->current_bytes, bytes);
}

awq_status awqi_strdup(awq_context *context, const char *text, char **copy)
{
    void *memory;
    size_t size = strlen(text) + 1;
    awq_status status = awqi_alloc(context, size, 1, "a name", &memory);
    *copy = memory;
    if (status == AWQ_OK) memcpy(memory, text, size);
    return status;
}

/* ---- log */

void awqi_log(awq_context *context, int32_t level, const char *format, ...)
{
    if (context->options.log == NULL || level > context->options.log_level) return;
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0) return;
    size_t shown = (size_t)length < sizeof text ? (size_t)length : sizeof text - 1;
    pthread_mutex_lock(&context->log_lock);
    context->options.log(context->options.log_data, level, text, shown);
    pthread_mutex_unlock(&context->log_lock);
}
