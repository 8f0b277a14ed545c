/* Linears: a weight prepared for a device, and y = x W^T with it. */
#include "backend.h"

#include <math.h>
#include <stdlib.h>

struct awq_linear {
    awq_context *context;
    const struct awqi_backend *backend;
    void *device;
    void *prepared;
    awq_tuning *tuning;
    awq_linear_info info;
};

/* ---- creating */

static awq_status check_options(const awq_context *context, const awq_linear_options *options, int64_t n)
{
    awq_status status = awqi_check_flags(options->flags, AWQ_LINEAR_SILU_MUL, "awq_linear_options");
    if (status != AWQ_OK) return status;
    if (options->activation < AWQ_ACTIVATION_DEFAULT || options->activation > AWQ_ACTIVATION_INT8)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_options: activation %d", options->activation);
    if (options->kernel < AWQ_KERNEL_AUTO || options->kernel > AWQ_KERNEL_DEQUANT)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_options: kernel %d", options->kernel);
    if ((options->flags & AWQ_LINEAR_SILU_MUL) && n % 2 != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "AWQ_LINEAR_SILU_MUL: %lld outputs are not gate and up of equal size",
                         (long long)n);
    if (options->bias != NULL) {
        status = awqi_check_tensor(options->bias, 1, AWQI_FLOATS, "bias");
        if (status == AWQ_OK) status = awqi_check_shape_1d(options->bias, n, "bias");
        if (status == AWQ_OK) status = awqi_check_device(context, options->bias, "bias");
    }
    if (status == AWQ_OK && options->tuning != NULL) status = awqi_tuning_check(options->tuning, context);
    return status;
}

static awq_status create(awq_context *context, const awq_weight *weight, const awq_tensor *dense,
                         const awq_linear_options *given, awq_linear **linear)
{
    int64_t n = weight != NULL ? weight->n : dense->shape[0], k = weight != NULL ? weight->k : dense->shape[1];
    awq_linear_options options;
    awq_status status = awqi_import(&options, sizeof options, given, "awq_linear_options");
    if (status == AWQ_OK) status = check_options(context, &options, n);
    void *memory = NULL;
    if (status == AWQ_OK) status = awqi_calloc(context, 1, sizeof(awq_linear), "a linear", &memory);
    if (status != AWQ_OK) return status;

    awq_linear *created = memory;
    created->context = awqi_context_retain(context);
    created->backend = awqi_context_backend(context);
    created->device = awqi_context_device(context);
    created->tuning = awqi_tuning_retain(options.tuning);
    struct awqi_linear_spec spec = {
        .weight = weight,
        .dense = dense,
        .bias = options.bias,
        .tuning = options.tuning,
        .flags = options.flags,
        .activation = options.activation,
        .kernel = options.kernel,
    };
    status = created->backend->linear_prepare(created->device, &spec, &created->prepared);
    if (status != AWQ_OK) {
        awq_linear_destroy(created);
        return status;
    }
    awq_linear_info *info = &created->info;
    info->bits = weight != NULL ? weight->bits : 8 * (int32_t)awq_dtype_size(dense->dtype);
    info->inputs = k;
    info->outputs = options.flags & AWQ_LINEAR_SILU_MUL ? n / 2 : n;
    info->size_bytes = created->backend->linear_size(created->device, created->prepared);
    *linear = created;
    return AWQ_OK;
}

awq_status awq_linear_create(awq_context *context, const awq_weight *weight, const awq_linear_options *options,
                             awq_linear **linear)
{
    if (linear == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_create: linear is NULL");
    *linear = NULL;
    if (context == NULL || weight == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_create: %s is NULL", context == NULL ? "context" : "weight");
    return create(context, weight, NULL, options, linear);
}

awq_status awq_linear_create_dense(awq_context *context, const awq_tensor *w, const awq_linear_options *options,
                                   awq_linear **linear)
{
    if (linear == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_create_dense: linear is NULL");
    *linear = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_create_dense: context is NULL");
    awq_status status = awqi_check_tensor(w, 2, AWQI_FLOATS, "w");
    if (status == AWQ_OK) status = awqi_check_device(context, w, "w");
    if (status != AWQ_OK) return status;
    if (w->shape[0] < 1 || w->shape[1] < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "w: shape [%lld][%lld] is empty", (long long)w->shape[0],
                         (long long)w->shape[1]);
    return create(context, NULL, w, options, linear);
}

void awq_linear_destroy(awq_linear *linear)
{
    if (linear == NULL) return;
    awq_context *context = linear->context;
    if (linear->prepared != NULL) linear->backend->linear_release(linear->device, linear->prepared);
    awqi_tuning_release(linear->tuning);
    awqi_free(context, linear);
    awqi_context_release(context);
}

/* ---- asking */

awq_status awq_linear_get_info(const awq_linear *linear, awq_linear_info *info)
{
    if (linear == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_get_info: linear is NULL");
    return awqi_export(info, &linear->info, sizeof linear->info, "awq_linear_info");
}

awq_status awq_linear_describe(const awq_linear *linear, int64_t rows, char *buffer, size_t capacity, size_t *length)
{
    if (linear == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_describe: linear is NULL");
    if (rows < 1) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_describe: %lld rows", (long long)rows);
    (void)linear->backend->linear_choose(linear->device, linear->prepared, rows, buffer, capacity, length);
    return AWQ_OK;
}

uint64_t awq_linear_workspace_size(const awq_linear *linear, int64_t max_rows)
{
    if (linear == NULL || max_rows <= 0) return 0;
    return linear->backend->linear_workspace(linear->device, linear->prepared, max_rows);
}

/* ---- running: what memory the arguments may share */

struct extent {
    const unsigned char *begin, *end;
};

static struct extent tensor_extent(const awq_tensor *tensor)
{
    int64_t low = 0, high = 0;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        int64_t reach = tensor->strides[i] * (tensor->shape[i] - 1);
        if (reach < 0) low += reach;
        else high += reach;
    }
    const unsigned char *data = awqi_tensor_data(tensor);
    int64_t size = (int64_t)awq_dtype_size(tensor->dtype);
    return (struct extent){data + low * size, data + (high + 1) * size};
}

static bool disjoint(struct extent a, struct extent b)
{
    return (uintptr_t)a.end <= (uintptr_t)b.begin || (uintptr_t)b.end <= (uintptr_t)a.begin;
}

/* Bytes from each row to the next when they are evenly spaced, else 0. */
static int64_t row_pitch(const awq_tensor *tensor)
{
    int64_t pitch = 0, rows = 1;
    for (int32_t i = tensor->ndim - 1; i-- > 0;) {
        if (tensor->shape[i] == 1) continue;
        if (rows == 1) pitch = tensor->strides[i];
        else if (tensor->strides[i] != pitch * rows) return 0;
        rows *= tensor->shape[i];
    }
    return (pitch < 0 ? -pitch : pitch) * (int64_t)awq_dtype_size(tensor->dtype);
}

/* No element of one lies in the other.  Exact for columns of one buffer, such as a fused output that the next linear
 * reads; for other interleavings it may see an overlap where there is none. */
static bool tensors_are_disjoint(const awq_tensor *a, const awq_tensor *b)
{
    struct extent x = tensor_extent(a), y = tensor_extent(b);
    if (disjoint(x, y)) return true;
    int64_t pitch = row_pitch(a);
    if (pitch == 0 || pitch != row_pitch(b)) return false;
    int64_t x_length = a->shape[a->ndim - 1] * (int64_t)awq_dtype_size(a->dtype);
    int64_t y_length = b->shape[b->ndim - 1] * (int64_t)awq_dtype_size(b->dtype);
    int64_t apart = (int64_t)((uintptr_t)y.begin - (uintptr_t)x.begin) % pitch;
    if (apart < 0) apart += pitch;
    return apart >= x_length && apart + y_length <= pitch;
}

/* The rows of a tensor to write do not overlap: from the innermost dimension out, each steps over all inside it. */
static bool rows_are_disjoint(const awq_tensor *tensor)
{
    bool seen[AWQ_MAX_DIMS] = {false};
    int64_t span = tensor->shape[tensor->ndim - 1];
    for (int32_t n = 0; n < tensor->ndim - 1; n++) {
        int32_t next = -1;
        for (int32_t i = 0; i < tensor->ndim - 1; i++)
            if (!seen[i] && (next < 0 || llabs(tensor->strides[i]) < llabs(tensor->strides[next]))) next = i;
        seen[next] = true;
        if (tensor->shape[next] == 1) continue;
        if (llabs(tensor->strides[next]) < span) return false;
        span += llabs(tensor->strides[next]) * (tensor->shape[next] - 1);
    }
    return true;
}

static bool same_view(const awq_tensor *a, const awq_tensor *b)
{
    return awqi_tensor_data(a) == awqi_tensor_data(b) && a->dtype == b->dtype &&
           memcmp(a->strides, b->strides, (size_t)a->ndim * sizeof *a->strides) == 0;
}

/* ---- running */

/* [..][columns] on the context's device, with neighbouring columns. */
static awq_status check_matrix(const awq_linear *linear, const awq_tensor *tensor, int64_t columns, const char *what,
                               int64_t *rows)
{
    awq_status status = awqi_check_tensor(tensor, -1, AWQI_FLOATS, what);
    if (status == AWQ_OK) status = awqi_check_rows(tensor, columns, what, rows);
    if (status == AWQ_OK) status = awqi_check_device(linear->context, tensor, what);
    if (status != AWQ_OK) return status;
    if (columns > 1 && awqi_tensor_inner_stride(tensor) != 1)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: stride %lld in the last dimension, which must be contiguous", what,
                         (long long)awqi_tensor_inner_stride(tensor));
    return AWQ_OK;
}

static awq_status check_residual(const awq_linear *linear, const awq_tensor *residual, const awq_tensor *y)
{
    int64_t rows;
    awq_status status = check_matrix(linear, residual, linear->info.outputs, "residual", &rows);
    if (status != AWQ_OK) return status;
    if (residual->ndim != y->ndim || memcmp(residual->shape, y->shape, (size_t)y->ndim * sizeof *y->shape) != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "residual: its shape is not y's");
    if (rows > 0 && !same_view(residual, y) && !tensors_are_disjoint(residual, y))
        return awqi_fail(AWQ_ERROR_INVALID, "residual overlaps y without being y");
    return AWQ_OK;
}

static awq_status check_norm(const awq_linear *linear, const awq_run_options *options, const awq_tensor *y)
{
    const awq_tensor *weight = options->norm_weight;
    int64_t rows;
    awq_status status = check_matrix(linear, weight, linear->info.inputs, "norm_weight", &rows);
    if (status == AWQ_OK) status = awqi_check_shape_1d(weight, linear->info.inputs, "norm_weight");
    if (status != AWQ_OK) return status;
    if (!isfinite(options->norm_epsilon) || options->norm_epsilon < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "norm_epsilon: %g", options->norm_epsilon);
    if (awqi_tensor_elements(y) > 0 && !tensors_are_disjoint(weight, y))
        return awqi_fail(AWQ_ERROR_INVALID, "norm_weight overlaps y");
    return AWQ_OK;
}

static awq_status check_run(const awq_linear *linear, const awq_tensor *x, const awq_tensor *y,
                            const awq_run_options *options, int64_t *rows)
{
    int64_t y_rows;
    awq_status status = awqi_check_flags(options->flags, 0, "awq_run_options");
    if (status == AWQ_OK) status = check_matrix(linear, x, linear->info.inputs, "x", rows);
    if (status == AWQ_OK) status = check_matrix(linear, y, linear->info.outputs, "y", &y_rows);
    if (status == AWQ_OK) status = awqi_check_writable(y, "y");
    if (status != AWQ_OK) return status;
    if (y_rows != *rows)
        return awqi_fail(AWQ_ERROR_INVALID, "y: %lld rows where x has %lld", (long long)y_rows, (long long)*rows);
    if (*rows > 0 && !rows_are_disjoint(y)) return awqi_fail(AWQ_ERROR_INVALID, "y: its rows overlap each other");
    if (*rows > 0 && !tensors_are_disjoint(x, y)) return awqi_fail(AWQ_ERROR_INVALID, "y overlaps x");
    if (options->stream != NULL && awqi_context_device_type(linear->context) == AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_run_options: a stream on the CPU");
    if (options->norm_weight != NULL) status = check_norm(linear, options, y);
    if (status == AWQ_OK && options->residual != NULL) status = check_residual(linear, options->residual, y);
    return status;
}

static awq_status check_workspace(const awq_run_options *options, uint64_t needed, const awq_tensor *x,
                                  const awq_tensor *y)
{
    enum { ALIGNMENT = 256 };
    if ((uintptr_t)options->workspace % ALIGNMENT != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "workspace: not aligned to %d bytes", ALIGNMENT);
    if (options->workspace_bytes < needed)
        return awqi_fail(AWQ_ERROR_INVALID, "workspace: %llu bytes where %llu are needed",
                         (unsigned long long)options->workspace_bytes, (unsigned long long)needed);
    struct extent workspace = {options->workspace, (const unsigned char *)options->workspace + needed};
    if (!disjoint(workspace, tensor_extent(x)) || !disjoint(workspace, tensor_extent(y)))
        return awqi_fail(AWQ_ERROR_INVALID, "workspace overlaps x or y");
    return AWQ_OK;
}

awq_status awq_linear_run(const awq_linear *linear, const awq_tensor *x, awq_tensor *y, const awq_run_options *given)
{
    if (linear == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_linear_run: linear is NULL");
    awq_run_options options;
    int64_t rows = 0;
    awq_status status = awqi_import(&options, sizeof options, given, "awq_run_options");
    if (status == AWQ_OK) status = check_run(linear, x, y, &options, &rows);
    if (status != AWQ_OK || rows == 0) return status;

    uint64_t needed = awq_linear_workspace_size(linear, rows);
    void *allocated = NULL;
    if (options.workspace != NULL) status = check_workspace(&options, needed, x, y);
    else if (needed > 0) status = linear->backend->allocate(linear->device, needed, &allocated);
    if (status != AWQ_OK) return status;
    struct awqi_linear_job job = {
        .x = x,
        .y = y,
        .residual = options.residual,
        .norm_weight = options.norm_weight,
        .norm_epsilon = options.norm_epsilon,
        .rows = rows,
        .stream = options.stream,
        .workspace = options.workspace != NULL ? options.workspace : allocated,
    };
    status = linear->backend->linear_run(linear->device, linear->prepared, &job);
    if (allocated != NULL) linear->backend->release(linear->device, allocated);
    return status;
}
