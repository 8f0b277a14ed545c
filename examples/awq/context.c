#include "context.h"

#include "cuda_kernels.h"

static void print_log(void *user_data, int32_t level, const char *message, size_t length)
{
    (void)user_data;
    (void)level;
    cli_warning("%.*s", (int)length, message);
}

bool placement_open_library(const struct placement *placement, awq_context **context)
{
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_type = placement->device;
    options.device_id = placement->device_id;
    options.threads = placement->threads;
    options.memory_limit_bytes = placement->memory_limit;
    options.log = print_log;
    options.log_level = AWQ_LOG_WARNING;
    awq_status status = awq_context_create(&options, context);
    return status == AWQ_OK ||
           cli_library_error(status, placement->device == AWQ_DEVICE_CUDA ? "--device cuda" : "cannot start");
}

bool placement_open(const struct placement *placement, awq_context **context)
{
    const struct cuda_kernels *kernels;
    if (!placement_open_library(placement, context)) return false;
    if (placement->device != AWQ_DEVICE_CUDA || cuda_kernels_load(&kernels)) return true;
    awq_context_destroy(*context);
    *context = NULL;
    return false;
}

bool context_open(int threads, uint64_t memory_limit_bytes, awq_context **context)
{
    const struct placement placement = {.threads = threads, .memory_limit = memory_limit_bytes};
    return placement_open(&placement, context);
}

static awq_device_info device_of(const awq_context *context)
{
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    (void)awq_context_get_device(context, &info); /* of a good context and struct it cannot fail */
    return info;
}

bool context_is_cuda(const awq_context *context)
{
    return device_of(context).device_type == AWQ_DEVICE_CUDA;
}

void context_own(const awq_context *context, awq_tensor *tensor)
{
    awq_device_info info = device_of(context);
    tensor->device_type = info.device_type;
    tensor->device_id = info.device_id;
}

awq_tensor context_view(const awq_context *context, const void *values, int32_t dtype, int64_t rows, int64_t columns)
{
    awq_tensor view;
    awq_tensor_init_2d(&view, (void *)(uintptr_t)values, dtype, rows, columns);
    context_own(context, &view);
    return view;
}
