/* Where data lies, and bringing it to where it is needed.  Copies are made in the order of the default stream. */
#include "place.h"

#include "backend.h"

static bool is_cpu(const awq_context *context)
{
    return awqi_context_device_type(context) == AWQ_DEVICE_CPU;
}

awq_status awqi_check_reachable(const awq_context *context, const awq_tensor *tensor, const char *what)
{
    if (tensor->device_type == AWQ_DEVICE_CPU) return AWQ_OK;
    return awqi_check_device(context, tensor, what);
}

/* The tensor as a matrix over the same memory, if it is one with neighbouring columns. */
static bool flatten(const awq_tensor *tensor, awq_tensor *matrix)
{
    int32_t last = tensor->ndim - 1;
    int64_t columns = tensor->shape[last], rows = 1, stride = columns;
    if (columns > 1 && tensor->strides[last] != 1) return false;
    for (int32_t i = last; i-- > 0;) {
        if (tensor->shape[i] == 1) continue;
        if (rows == 1) stride = tensor->strides[i];
        else if (tensor->strides[i] != stride * rows) return false;
        rows *= tensor->shape[i];
    }
    awq_tensor view = *tensor;
    view.ndim = 2;
    view.shape[0] = rows;
    view.shape[1] = columns;
    view.strides[0] = stride;
    view.strides[1] = 1;
    *matrix = view;
    return true;
}

awq_status awqi_place(awq_context *context, const awq_tensor *tensor, struct awqi_placed *placed)
{
    placed->memory = NULL;
    placed->view = *tensor;
    if (is_cpu(context) || (tensor->device_type != AWQ_DEVICE_CPU && flatten(tensor, &placed->view))) return AWQ_OK;
    const struct awqi_backend *backend = awqi_context_backend(context);
    void *device = awqi_context_device(context);
    uint64_t bytes = (uint64_t)awqi_tensor_elements(tensor) * awq_dtype_size(tensor->dtype);
    awq_status status = backend->allocate(device, bytes, &placed->memory);
    if (status != AWQ_OK) return status;
    awq_tensor copy;
    (void)awq_tensor_init(&copy, placed->memory, tensor->dtype, tensor->ndim, tensor->shape);
    awqi_set_device(context, &copy);
    status = backend->copy(device, tensor, &copy, NULL);
    (void)flatten(&copy, &placed->view);
    return status;
}

void awqi_unplace(awq_context *context, struct awqi_placed *placed)
{
    if (placed->memory != NULL)
        awqi_context_backend(context)->release(awqi_context_device(context), placed->memory);
    placed->memory = NULL;
}

awq_status awqi_place_floats(awq_context *context, int64_t count, const char *what, float **memory)
{
    void *taken = NULL;
    uint64_t bytes;
    awq_status status;
    if (is_cpu(context)) status = awqi_alloc(context, (uint64_t)count, sizeof **memory, what, &taken);
    else if (__builtin_mul_overflow((uint64_t)count, sizeof **memory, &bytes))
        status = awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%lld floats exceed the address space", (long long)count);
    else status = awqi_context_backend(context)->allocate(awqi_context_device(context), bytes, &taken);
    *memory = taken;
    return status == AWQ_OK || is_cpu(context) ? status : awqi_fail_in(status, "%s", what);
}

awq_status awqi_place_copy(awq_context *context, const float *host, int64_t count, const char *what, float **placed)
{
    *placed = (float *)(uintptr_t)host; /* const for those who read it, which is all that is done with it */
    if (is_cpu(context)) return AWQ_OK;
    awq_status status = awqi_place_floats(context, count, what, placed);
    if (status != AWQ_OK || count == 0) return status;
    awq_tensor from, to;
    awq_tensor_init_const_1d(&from, host, AWQ_F32, count);
    awq_tensor_init_1d(&to, *placed, AWQ_F32, count);
    awqi_set_device(context, &to);
    status = awqi_context_backend(context)->copy(awqi_context_device(context), &from, &to, NULL);
    if (status == AWQ_OK) return status;
    awqi_unplace_floats(context, *placed, NULL);
    *placed = NULL;
    return awqi_fail_in(status, "%s", what);
}

void awqi_unplace_floats(awq_context *context, float *placed, const float *host)
{
    if (placed != NULL && placed != host)
        awqi_context_backend(context)->release(awqi_context_device(context), placed);
}

awq_status awqi_fetch_rows(awq_context *context, const awq_tensor *tensor, int64_t first, int64_t count, float *values)
{
    int64_t columns = tensor->shape[tensor->ndim - 1];
    if (tensor->device_type == AWQ_DEVICE_CPU) {
        for (int64_t row = 0; row < count; row++)
            awqi_load_row(tensor, first + row, values + row * columns, columns);
        return AWQ_OK;
    }
    awq_tensor part = *tensor, host;
    if (tensor->ndim == 2) {
        part.byte_offset += (uint64_t)(first * tensor->strides[0] * (int64_t)awq_dtype_size(tensor->dtype));
        part.shape[0] = count;
    }
    (void)awq_tensor_init(&host, values, AWQ_F32, part.ndim, part.shape);
    return awqi_context_backend(context)->copy(awqi_context_device(context), &part, &host, NULL);
}

awq_status awqi_fetch_column(awq_context *context, const awq_tensor *matrix, int64_t column, float *values)
{
    const int64_t rows = matrix->shape[0];
    if (matrix->device_type == AWQ_DEVICE_CPU) {
        for (int64_t row = 0; row < rows; row++) awqi_load_columns(matrix, row, column, values + row, 1);
        return AWQ_OK;
    }
    awq_tensor part = *matrix, host;
    part.ndim = 1;
    part.byte_offset += (uint64_t)(column * matrix->strides[1] * (int64_t)awq_dtype_size(matrix->dtype));
    awq_tensor_init_1d(&host, values, AWQ_F32, rows);
    return awqi_context_backend(context)->copy(awqi_context_device(context), &part, &host, NULL);
}

awq_status awqi_fetch_element(awq_context *context, const awq_tensor *tensor, int64_t row, int64_t column, float *value)
{
    if (tensor->device_type == AWQ_DEVICE_CPU) {
        awqi_load_columns(tensor, row, column, value, 1);
        return AWQ_OK;
    }
    int64_t step = awqi_tensor_inner_stride(tensor) * (int64_t)awq_dtype_size(tensor->dtype);
    awq_tensor element, host;
    awq_tensor_init_const_1d(&element, (const unsigned char *)awqi_tensor_row(tensor, row) + column * step,
                             tensor->dtype, 1);
    awqi_set_device(context, &element);
    awq_tensor_init_1d(&host, value, AWQ_F32, 1);
    return awqi_context_backend(context)->copy(awqi_context_device(context), &element, &host, NULL);
}
