/* Tensor views: making, checking, reading and converting them. */
#include "backend.h"
#include "dlpack.h"

enum {
    BLOCK = 256,          /* elements converted together, on the stack */
    TASK_ELEMENTS = 65536 /* of a copy */
};

static const struct {
    size_t size;
    const char *name;
} dtypes[] = {
    [AWQ_F32] = {4, "F32"},   [AWQ_F16] = {2, "F16"}, [AWQ_BF16] = {2, "BF16"},       [AWQ_U8] = {1, "U8"},
    [AWQ_I8] = {1, "I8"},     [AWQ_U16] = {2, "U16"}, [AWQ_I16] = {2, "I16"},         [AWQ_U32] = {4, "U32"},
    [AWQ_I32] = {4, "I32"},   [AWQ_U64] = {8, "U64"}, [AWQ_I64] = {8, "I64"},         [AWQ_F64] = {8, "F64"},
    [AWQ_BOOL] = {1, "BOOL"}, [AWQ_F8_E4M3] = {1, "F8_E4M3"}, [AWQ_F8_E5M2] = {1, "F8_E5M2"},
};

static bool is_dtype(int32_t dtype)
{
    return dtype > 0 && dtype < (int32_t)(sizeof dtypes / sizeof *dtypes);
}

size_t awq_dtype_size(int32_t dtype)
{
    return is_dtype(dtype) ? dtypes[dtype].size : 0;
}

const char *awq_dtype_name(int32_t dtype)
{
    return is_dtype(dtype) ? dtypes[dtype].name : "unknown";
}

/* ---- making views */

awq_status awq_tensor_init(awq_tensor *tensor, void *data, int32_t dtype, int32_t ndim, const int64_t *shape)
{
    if (tensor == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_init: tensor is NULL");
    if (ndim < 0 || ndim > AWQ_MAX_DIMS)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_init: %d dimensions; 0 to %d are possible", ndim, AWQ_MAX_DIMS);
    if (ndim > 0 && shape == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_init: shape is NULL");
    memset(tensor, 0, sizeof *tensor);
    tensor->data = data;
    tensor->dtype = dtype;
    tensor->ndim = ndim;
    uint64_t stride = 1; /* unsigned: absurd extents wrap here and are refused where the tensor is used */
    for (int32_t i = ndim; i-- > 0;) {
        tensor->shape[i] = shape[i];
        tensor->strides[i] = (int64_t)stride;
        stride *= (uint64_t)shape[i];
    }
    return AWQ_OK;
}

awq_status awq_tensor_init_const(awq_tensor *tensor, const void *data, int32_t dtype, int32_t ndim,
                                 const int64_t *shape)
{
    /* READONLY gives back the const that the view's pointer loses. */
    awq_status status = awq_tensor_init(tensor, (void *)(uintptr_t)data, dtype, ndim, shape);
    if (status == AWQ_OK) tensor->flags = AWQ_TENSOR_READONLY;
    return status;
}

void awq_tensor_init_1d(awq_tensor *tensor, void *data, int32_t dtype, int64_t size)
{
    if (tensor != NULL) (void)awq_tensor_init(tensor, data, dtype, 1, &size);
}

void awq_tensor_init_2d(awq_tensor *tensor, void *data, int32_t dtype, int64_t rows, int64_t columns)
{
    const int64_t shape[2] = {rows, columns};
    if (tensor != NULL) (void)awq_tensor_init(tensor, data, dtype, 2, shape);
}

void awq_tensor_init_const_1d(awq_tensor *tensor, const void *data, int32_t dtype, int64_t size)
{
    if (tensor != NULL) (void)awq_tensor_init_const(tensor, data, dtype, 1, &size);
}

void awq_tensor_init_const_2d(awq_tensor *tensor, const void *data, int32_t dtype, int64_t rows, int64_t columns)
{
    const int64_t shape[2] = {rows, columns};
    if (tensor != NULL) (void)awq_tensor_init_const(tensor, data, dtype, 2, shape);
}

static int32_t dtype_from_dlpack(struct awqi_dl_dtype type)
{
    static const struct {
        uint8_t code, bits;
        int32_t dtype;
    } known[] = {
        {AWQI_DL_FLOAT, 32, AWQ_F32}, {AWQI_DL_FLOAT, 16, AWQ_F16}, {AWQI_DL_BFLOAT, 16, AWQ_BF16},
        {AWQI_DL_FLOAT, 64, AWQ_F64}, {AWQI_DL_UINT, 8, AWQ_U8},    {AWQI_DL_INT, 8, AWQ_I8},
        {AWQI_DL_UINT, 16, AWQ_U16},  {AWQI_DL_INT, 16, AWQ_I16},   {AWQI_DL_UINT, 32, AWQ_U32},
        {AWQI_DL_INT, 32, AWQ_I32},   {AWQI_DL_UINT, 64, AWQ_U64},  {AWQI_DL_INT, 64, AWQ_I64},
        {AWQI_DL_BOOL, 8, AWQ_BOOL},  {AWQI_DL_FLOAT8_E4M3FN, 8, AWQ_F8_E4M3}, {AWQI_DL_FLOAT8_E5M2, 8, AWQ_F8_E5M2},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (type.lanes == 1 && type.code == known[i].code && type.bits == known[i].bits) return known[i].dtype;
    return 0;
}

static int32_t device_from_dlpack(int32_t device_type)
{
    if (device_type == AWQI_DL_CPU || device_type == AWQI_DL_CUDA_HOST) return AWQ_DEVICE_CPU;
    if (device_type == AWQI_DL_CUDA || device_type == AWQI_DL_CUDA_MANAGED) return AWQ_DEVICE_CUDA;
    return -1;
}

awq_status awq_tensor_from_dlpack(const void *dl_tensor, awq_tensor *tensor)
{
    const struct awqi_dl_tensor *source = dl_tensor;
    if (source == NULL || tensor == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_from_dlpack: %s is NULL", tensor ? "dl_tensor" : "tensor");
    int32_t dtype = dtype_from_dlpack(source->dtype);
    if (dtype == 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "DLPack: type code %u of %u bits and %u lanes", source->dtype.code,
                         source->dtype.bits, source->dtype.lanes);
    int32_t device = device_from_dlpack(source->device.type);
    if (device < 0) return awqi_fail(AWQ_ERROR_UNSUPPORTED, "DLPack: device type %d", source->device.type);
    if (source->ndim < 0 || source->ndim > AWQ_MAX_DIMS)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "DLPack: %d dimensions; 0 to %d are possible", source->ndim,
                         AWQ_MAX_DIMS);
    awq_tensor view;
    awq_status status = awq_tensor_init(&view, source->data, dtype, source->ndim, source->shape);
    if (status != AWQ_OK) return status;
    if (source->strides != NULL)
        for (int32_t i = 0; i < view.ndim; i++) view.strides[i] = source->strides[i];
    view.byte_offset = source->byte_offset;
    view.device_type = device;
    view.device_id = device == AWQ_DEVICE_CUDA ? source->device.id : 0;
    *tensor = view;
    return AWQ_OK;
}

awq_status awq_tensor_from_dlpack_versioned(const void *managed, awq_tensor *tensor)
{
    const struct awqi_dl_managed *source = managed;
    if (source == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_from_dlpack_versioned: managed is NULL");
    if (source->version.major != AWQI_DLPACK_MAJOR)
        return awqi_fail(AWQ_ERROR_VERSION, "DLPack: version %u.%u; major version %u is understood",
                         source->version.major, source->version.minor, (unsigned)AWQI_DLPACK_MAJOR);
    if (source->flags & AWQI_DL_FLAG_SUBBYTE_PADDED)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "DLPack: elements padded from less than a byte");
    awq_status status = awq_tensor_from_dlpack(&source->tensor, tensor);
    if (status == AWQ_OK && (source->flags & AWQI_DL_FLAG_READ_ONLY)) tensor->flags |= AWQ_TENSOR_READONLY;
    return status;
}

/* ---- checking views */

static awq_status check_extents(const awq_tensor *tensor, const char *what)
{
    int64_t bytes = (int64_t)awq_dtype_size(tensor->dtype);
    for (int32_t i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] < 0)
            return awqi_fail(AWQ_ERROR_INVALID, "%s: extent %lld in dimension %d", what, (long long)tensor->shape[i], i);
        int64_t reach, span;
        if (__builtin_mul_overflow(tensor->strides[i], tensor->shape[i], &reach) ||
            __builtin_mul_overflow(reach, (int64_t)awq_dtype_size(tensor->dtype), &span) ||
            __builtin_mul_overflow(bytes, awqi_max64(tensor->shape[i], 1), &bytes))
            return awqi_fail(AWQ_ERROR_INVALID, "%s: dimension %d (extent %lld, stride %lld) exceeds the address space",
                             what, i, (long long)tensor->shape[i], (long long)tensor->strides[i]);
    }
    return AWQ_OK;
}

awq_status awqi_check_tensor(const awq_tensor *tensor, int32_t ndim, uint32_t allowed, const char *what)
{
    if (tensor == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s is NULL", what);
    if (!is_dtype(tensor->dtype) || (allowed != 0 && !(allowed & (1u << tensor->dtype))))
        return awqi_fail(AWQ_ERROR_INVALID, "%s: dtype %s (%d) is not accepted here", what,
                         awq_dtype_name(tensor->dtype), tensor->dtype);
    if (tensor->ndim < 0 || tensor->ndim > AWQ_MAX_DIMS || (ndim >= 0 && tensor->ndim != ndim))
        return awqi_fail(AWQ_ERROR_INVALID, "%s: %d dimensions where %d are needed", what, tensor->ndim,
                         ndim >= 0 ? ndim : AWQ_MAX_DIMS);
    awq_status status = awqi_check_flags(tensor->flags, AWQ_TENSOR_READONLY, what);
    if (status == AWQ_OK) status = check_extents(tensor, what);
    if (status != AWQ_OK || awqi_tensor_elements(tensor) == 0) return status;
    if (tensor->data == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s: data is NULL", what);
    if (((uintptr_t)tensor->data + tensor->byte_offset) % awq_dtype_size(tensor->dtype) != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: data is not aligned to its %zu-byte elements", what,
                         awq_dtype_size(tensor->dtype));
    return AWQ_OK;
}

awq_status awqi_check_writable(const awq_tensor *tensor, const char *what)
{
    if (tensor->flags & AWQ_TENSOR_READONLY) return awqi_fail(AWQ_ERROR_INVALID, "%s is read-only", what);
    for (int32_t i = 0; i < tensor->ndim && awqi_tensor_elements(tensor) > 0; i++)
        if (tensor->strides[i] == 0 && tensor->shape[i] > 1)
            return awqi_fail(AWQ_ERROR_INVALID, "%s: stride 0 in dimension %d of a tensor to write", what, i);
    return AWQ_OK;
}

awq_status awqi_check_shape_1d(const awq_tensor *tensor, int64_t size, const char *what)
{
    if (tensor->ndim == 1 && tensor->shape[0] == size) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: shape [%lld] with %d dimensions where [%lld] is needed", what,
                     (long long)tensor->shape[0], tensor->ndim, (long long)size);
}

awq_status awqi_check_shape_2d(const awq_tensor *tensor, int64_t rows, int64_t columns, const char *what)
{
    if (tensor->ndim == 2 && tensor->shape[0] == rows && tensor->shape[1] == columns) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: shape [%lld][%lld] with %d dimensions where [%lld][%lld] is needed", what,
                     (long long)tensor->shape[0], (long long)tensor->shape[1], tensor->ndim, (long long)rows,
                     (long long)columns);
}

awq_status awqi_check_rows(const awq_tensor *tensor, int64_t channels, const char *what, int64_t *rows)
{
    if (tensor->ndim < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: a scalar where [..][%lld] is needed", what, (long long)channels);
    if (tensor->shape[tensor->ndim - 1] != channels)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: last dimension is %lld where %lld is needed", what,
                         (long long)tensor->shape[tensor->ndim - 1], (long long)channels);
    *rows = 1;
    for (int32_t i = 0; i < tensor->ndim - 1; i++) *rows *= tensor->shape[i];
    return AWQ_OK;
}

/* ---- reading views */

int64_t awqi_tensor_elements(const awq_tensor *tensor)
{
    int64_t elements = 1;
    for (int32_t i = 0; i < tensor->ndim; i++) elements *= tensor->shape[i];
    return elements;
}

void *awqi_tensor_data(const awq_tensor *tensor)
{
    /* C has no offset of a null pointer, not even 0, and an empty tensor may have no data. */
    return tensor->data != NULL ? (unsigned char *)tensor->data + tensor->byte_offset : NULL;
}

bool awqi_tensor_is_contiguous(const awq_tensor *tensor)
{
    int64_t stride = 1;
    for (int32_t i = tensor->ndim; i-- > 0;) {
        if (tensor->shape[i] != 1 && tensor->strides[i] != stride) return false;
        stride *= tensor->shape[i];
    }
    return true;
}

int64_t awqi_tensor_inner_stride(const awq_tensor *tensor)
{
    return tensor->ndim > 0 ? tensor->strides[tensor->ndim - 1] : 1;
}

const void *awqi_tensor_row(const awq_tensor *tensor, int64_t row)
{
    int64_t offset = 0;
    for (int32_t i = tensor->ndim - 2; i > 0; i--) {
        offset += row % tensor->shape[i] * tensor->strides[i];
        row /= tensor->shape[i];
    }
    if (tensor->ndim > 1) offset += row * tensor->strides[0];
    return (const unsigned char *)awqi_tensor_data(tensor) + offset * (int64_t)awq_dtype_size(tensor->dtype);
}

void awqi_load_row(const awq_tensor *tensor, int64_t row, float *values, int64_t count)
{
    awqi_load_columns(tensor, row, 0, values, count);
}

/* 'count' elements of 'size' bytes, from and to places that many elements apart. */
static void copy_spread(size_t size, const unsigned char *from, int64_t from_step, unsigned char *to, int64_t to_step,
                        int64_t count)
{
    if (from_step == 1 && to_step == 1) {
        memmove(to, from, (size_t)count * size);
        return;
    }
    from_step *= (int64_t)size;
    to_step *= (int64_t)size;
    if (size == 2)
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, 2);
    else if (size == 4)
        for (int64_t i = 0; i < count; i++) memcpy(to + i * to_step, from + i * from_step, 4);
    else
        for (int64_t i = 0; i < count; i++) memmove(to + i * to_step, from + i * from_step, size);
}

/* 'count' numbers, 'step' elements apart, to and from single precision. */
static void load_spread(int32_t dtype, const unsigned char *src, int64_t step, float *values, int64_t count)
{
    if (step == 1) {
        awqi_to_f32(dtype, src, values, count);
        return;
    }
    const int64_t size = (int64_t)awq_dtype_size(dtype);
    for (int64_t first = 0; first < count; first += BLOCK) {
        float dense[BLOCK]; /* or half as large numbers */
        int64_t some = awqi_min64(BLOCK, count - first);
        copy_spread((size_t)size, src + first * step * size, step, (unsigned char *)dense, 1, some);
        awqi_to_f32(dtype, dense, values + first, some);
    }
}

static void store_spread(int32_t dtype, const float *values, unsigned char *dst, int64_t step, int64_t count)
{
    if (step == 1) {
        awqi_from_f32(dtype, values, dst, count);
        return;
    }
    const int64_t size = (int64_t)awq_dtype_size(dtype);
    for (int64_t first = 0; first < count; first += BLOCK) {
        float dense[BLOCK];
        int64_t some = awqi_min64(BLOCK, count - first);
        awqi_from_f32(dtype, values + first, dense, some);
        copy_spread((size_t)size, (const unsigned char *)dense, 1, dst + first * step * size, step, some);
    }
}

void awqi_load_columns(const awq_tensor *tensor, int64_t row, int64_t first, float *values, int64_t count)
{
    int64_t step = awqi_tensor_inner_stride(tensor);
    const unsigned char *src = awqi_tensor_row(tensor, row);
    load_spread(tensor->dtype, src + first * step * (int64_t)awq_dtype_size(tensor->dtype), step, values, count);
}

void awqi_store_row(awq_tensor *tensor, int64_t row, const float *values, int64_t count)
{
    unsigned char *dst = (unsigned char *)(uintptr_t)awqi_tensor_row(tensor, row);
    store_spread(tensor->dtype, values, dst, awqi_tensor_inner_stride(tensor), count);
}

int64_t awqi_find_non_finite(const float *values, int64_t count)
{
    const int32_t infinite = 0x7f800000;
    for (int64_t begin = 0; begin < count; begin += BLOCK) {
        int64_t end = awqi_min64(begin + BLOCK, count);
        int32_t largest = 0; /* magnitudes compare as their bits do; written so, compilers compare several at once */
        for (int64_t i = begin; i < end; i++) {
            int32_t magnitude = (int32_t)(awqi_f32_to_bits(values[i]) & 0x7fffffffu);
            largest = magnitude > largest ? magnitude : largest;
        }
        if (largest < infinite) continue;
        for (int64_t i = begin; i < end; i++)
            if ((int32_t)(awqi_f32_to_bits(values[i]) & 0x7fffffffu) >= infinite) return i;
    }
    return -1;
}

/* ---- copying */

/* A copy in tasks: some rows each, or a part of a long one. */
struct copy {
    const awq_tensor *src;
    awq_tensor *dst;
    int64_t rows, columns;
    int64_t task_rows, task_columns, parts; /* of a row */
};

static void convert_row(int32_t from_dtype, const unsigned char *from, int64_t from_step, int32_t to_dtype,
                        unsigned char *to, int64_t to_step, int64_t count)
{
    const int64_t from_size = (int64_t)awq_dtype_size(from_dtype), to_size = (int64_t)awq_dtype_size(to_dtype);
    for (int64_t first = 0; first < count; first += BLOCK) {
        float block[BLOCK];
        int64_t some = awqi_min64(BLOCK, count - first);
        load_spread(from_dtype, from + first * from_step * from_size, from_step, block, some);
        store_spread(to_dtype, block, to + first * to_step * to_size, to_step, some);
    }
}

static void copy_part(void *user_data, int64_t task)
{
    const struct copy *copy = user_data;
    const awq_tensor *src = copy->src, *dst = copy->dst;
    int64_t from_step = awqi_tensor_inner_stride(src), to_step = awqi_tensor_inner_stride(dst);
    int64_t first = task % copy->parts * copy->task_columns, begin = task / copy->parts * copy->task_rows;
    int64_t count = awqi_min64(copy->task_columns, copy->columns - first);
    int64_t end = awqi_min64(begin + copy->task_rows, copy->rows);
    for (int64_t row = begin; row < end; row++) {
        const unsigned char *from = awqi_tensor_row(src, row);
        unsigned char *to = (unsigned char *)(uintptr_t)awqi_tensor_row(dst, row);
        from += first * from_step * (int64_t)awq_dtype_size(src->dtype);
        to += first * to_step * (int64_t)awq_dtype_size(dst->dtype);
        if (src->dtype == dst->dtype) copy_spread(awq_dtype_size(src->dtype), from, from_step, to, to_step, count);
        else convert_row(src->dtype, from, from_step, dst->dtype, to, to_step, count);
    }
}

void awqi_tensor_copy_host(awq_context *context, const awq_tensor *src, awq_tensor *dst)
{
    int64_t elements = awqi_tensor_elements(src);
    if (elements == 0) return;
    struct copy copy = {.src = src, .dst = dst, .columns = src->ndim > 0 ? src->shape[src->ndim - 1] : 1};
    copy.rows = elements / copy.columns;
    copy.task_columns = awqi_min64(copy.columns, TASK_ELEMENTS);
    copy.task_rows = TASK_ELEMENTS / copy.task_columns;
    copy.parts = awqi_ceil_div(copy.columns, copy.task_columns);
    awqi_parallel_for(context, awqi_ceil_div(copy.rows, copy.task_rows) * copy.parts, copy_part, &copy);
}

awq_status awq_tensor_copy(awq_context *context, const awq_tensor *src, awq_tensor *dst, void *stream)
{
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_copy: context is NULL");
    awq_status status = awqi_check_tensor(src, -1, 0, "awq_tensor_copy: src");
    if (status == AWQ_OK) status = awqi_check_tensor(dst, -1, 0, "awq_tensor_copy: dst");
    if (status == AWQ_OK) status = awqi_check_writable(dst, "awq_tensor_copy: dst");
    if (status != AWQ_OK) return status;
    bool convertible = (AWQI_FLOATS >> src->dtype & 1u) && (AWQI_FLOATS >> dst->dtype & 1u);
    if (src->dtype != dst->dtype && !convertible)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_copy: %s does not convert to %s", awq_dtype_name(src->dtype),
                         awq_dtype_name(dst->dtype));
    if (src->ndim != dst->ndim || memcmp(src->shape, dst->shape, (size_t)src->ndim * sizeof *src->shape) != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_copy: the shapes differ");
    return awqi_context_backend(context)->copy(awqi_context_device(context), src, dst, stream);
}
