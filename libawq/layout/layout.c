/* The table of packed formats, and awq_packed: a weight laid out in one of them. */
#include "layout.h"

#include "../dlpack.h"

#include <stdatomic.h>

static const struct awqi_layout layouts[] = {
    {
        .id = AWQ_LAYOUT_GEMM,
        .name = "gemm",
        .planes = {"qweight", "qzeros", "scales"},
        .pack = awqi_gemm_pack,
        .unpack = awqi_gemm_unpack,
    },
    {
        .id = AWQ_LAYOUT_COMPRESSED_TENSORS,
        .name = "compressed-tensors",
        .planes = {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
        .pack = awqi_compressed_pack,
        .unpack = awqi_compressed_unpack,
    },
    {
        .id = AWQ_LAYOUT_COMPRESSED_TENSORS_2025,
        .name = "compressed-tensors-2025",
        .planes = {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
        .pack = awqi_compressed_pack,
        .unpack = awqi_compressed_unpack,
    },
    {
        .id = AWQ_LAYOUT_GEMV,
        .name = "gemv",
        .planes = {"qweight", "qzeros", "scales"},
        .pack = awqi_gemv_pack,
        .unpack = awqi_gemv_unpack,
    },
    {
        .id = AWQ_LAYOUT_GEMV_FAST,
        .name = "gemv_fast",
        .planes = {"qweight", "qzeros", "scales"},
        .aliases = {NULL, "scaled_zeros"},
        .pack = awqi_gemv_fast_pack,
        .unpack = awqi_gemv_fast_unpack,
    },
    {
        .id = AWQ_LAYOUT_MARLIN,
        .name = "marlin",
        .planes = {"qweight", "scales", "qzeros"},
        .aliases = {"B", "s"},
        .pack = awqi_marlin_pack,
        .unpack = awqi_marlin_unpack,
        .bias_place = awqi_marlin_place_single,
        .bias_period = 32,
    },
    {
        .id = AWQ_LAYOUT_GPTQ_V1,
        .name = "gptq",
        .planes = {"qweight", "qzeros", "scales", "g_idx"},
        .pack = awqi_gptq_pack,
        .unpack = awqi_gptq_unpack,
    },
    {
        .id = AWQ_LAYOUT_GPTQ_V2,
        .name = "gptq_v2",
        .planes = {"qweight", "qzeros", "scales", "g_idx"},
        .pack = awqi_gptq_pack,
        .unpack = awqi_gptq_unpack,
    },
    {
        .id = AWQ_LAYOUT_CUDA_BLOCK,
        .name = "cuda-block",
        .planes = {"qweight", "scales", "qzeros", "header", "input_scale", "salient_columns", "salient_values"},
        .describes_itself = true,
        .pack = awqi_cuda_block_pack,
        .unpack = awqi_cuda_block_unpack,
    },
    {
        .id = AWQ_LAYOUT_CPU_STREAM,
        .name = "cpu-stream",
        .planes = {"stream", "header", "input_scale", "salient_columns", "salient_values"},
        .describes_itself = true,
        .pack = awqi_cpu_stream_pack,
        .unpack = awqi_cpu_stream_unpack,
    },
    {
        .id = AWQ_LAYOUT_LLM_AWQ,
        .name = "llm-awq",
        .planes = {"qweight", "scaled_zeros", "scales"},
        .aliases = {NULL, "qzeros"},
        .pack = awqi_gemv_fast_pack,
        .unpack = awqi_gemv_fast_unpack,
    },
};

enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static const struct awqi_layout *find_layout(int32_t id)
{
    for (int i = 0; i < LAYOUTS; i++)
        if (layouts[i].id == id) return &layouts[i];
    return NULL;
}

const char *awq_layout_name(int32_t layout)
{
    const struct awqi_layout *found = find_layout(layout);
    return found != NULL ? found->name : NULL;
}

int32_t awq_layout_from_name(const char *name)
{
    for (int i = 0; name != NULL && i < LAYOUTS; i++)
        if (strcmp(layouts[i].name, name) == 0) return layouts[i].id;
    return 0;
}

static awq_status require_layout(int32_t id, const struct awqi_layout **layout)
{
    *layout = find_layout(id);
    if (*layout != NULL) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "layout %d is none of AWQ_LAYOUT_*", id);
}

/* ---- packed weights */

struct awq_packed {
    awq_context *context;
    atomic_size_t references; /* the handle, and every plane that was given away */
    size_t count;
    struct plane {
        const char *name;
        void *memory;
        awq_tensor view;
    } planes[AWQI_MAX_PLANES];
};

static void release_packed(awq_packed *packed)
{
    if (atomic_fetch_sub(&packed->references, 1) != 1) return;
    awq_context *context = packed->context;
    for (size_t i = 0; i < packed->count; i++) awqi_free(context, packed->planes[i].memory);
    awqi_free(context, packed);
    awqi_context_release(context);
}

void awq_packed_destroy(awq_packed *packed)
{
    if (packed != NULL) release_packed(packed);
}

awq_context *awqi_packed_context(const awq_packed *packed)
{
    return packed->context;
}

awq_status awqi_packed_add(awq_packed *packed, const char *name, int32_t dtype, int32_t ndim, const int64_t *shape,
                           void **data)
{
    uint64_t elements = 1;
    for (int32_t i = 0; i < ndim; i++)
        if (__builtin_mul_overflow(elements, (uint64_t)shape[i], &elements))
            return awqi_fail(AWQ_ERROR_INVALID, "%s exceeds the address space", name);
    awq_status status = awqi_calloc(packed->context, elements, awq_dtype_size(dtype), name, data);
    if (status != AWQ_OK) return status;
    struct plane *plane = &packed->planes[packed->count++];
    plane->name = name;
    plane->memory = *data;
    return awq_tensor_init_const(&plane->view, *data, dtype, ndim, shape);
}

awq_status awqi_packed_add_2d(awq_packed *packed, const char *name, int32_t dtype, int64_t rows, int64_t columns,
                              awq_tensor *plane)
{
    void *data;
    awq_status status = awqi_packed_add(packed, name, dtype, 2, (const int64_t[]){rows, columns}, &data);
    if (status == AWQ_OK) awq_tensor_init_2d(plane, data, dtype, rows, columns);
    return status;
}

/* No reader of the formats of others knows of salient columns. */
static awq_status refuse_salient(const awq_weight *weight)
{
    if (weight->salient_count == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the weight keeps %lld salient columns in FP16; cuda-block and cpu-stream "
                                            "hold them", (long long)weight->salient_count);
}

awq_status awq_pack(awq_context *context, const awq_weight *weight, int32_t layout, awq_packed **packed)
{
    if (packed == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_pack: packed is NULL");
    *packed = NULL;
    if (context == NULL || weight == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_pack: %s is NULL", context == NULL ? "context" : "weight");
    const struct awqi_layout *format;
    void *memory;
    awq_status status = require_layout(layout, &format);
    if (status == AWQ_OK) status = awqi_calloc(context, 1, sizeof **packed, "a packed weight", &memory);
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_pack");
    awq_packed *created = memory;
    created->context = awqi_context_retain(context);
    atomic_init(&created->references, 1);
    status = format->describes_itself ? AWQ_OK : refuse_salient(weight);
    if (status == AWQ_OK) status = format->pack(format, weight, created);
    if (status != AWQ_OK) {
        release_packed(created);
        return awqi_fail_in(status, "awq_pack: %s", format->name);
    }
    *packed = created;
    return AWQ_OK;
}

size_t awq_packed_plane_count(const awq_packed *packed)
{
    return packed != NULL ? packed->count : 0;
}

static awq_status check_index(const awq_packed *packed, size_t index, const char *function)
{
    if (packed == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s: packed is NULL", function);
    if (index < packed->count) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: plane %zu of %zu", function, index, packed->count);
}

awq_status awq_packed_get_plane(const awq_packed *packed, size_t index, const char **name, awq_tensor *view)
{
    awq_status status = check_index(packed, index, "awq_packed_get_plane");
    if (status != AWQ_OK) return status;
    if (name != NULL) *name = packed->planes[index].name;
    if (view != NULL) *view = packed->planes[index].view;
    return AWQ_OK;
}

/* ---- planes given away */

struct export {
    struct awqi_dl_managed managed; /* first: what the consumer holds */
    awq_packed *packed;
    int64_t shape[AWQ_MAX_DIMS];
    int64_t strides[AWQ_MAX_DIMS];
};

static void delete_export(struct awqi_dl_managed *managed)
{
    if (managed == NULL) return;
    awq_packed *packed = ((struct export *)managed->manager)->packed;
    awqi_free(packed->context, managed->manager);
    release_packed(packed);
}

/* The dtypes that planes have. */
static struct awqi_dl_dtype dlpack_dtype(int32_t dtype)
{
    uint8_t bits = (uint8_t)(8 * awq_dtype_size(dtype));
    uint8_t code = dtype == AWQ_BF16                      ? AWQI_DL_BFLOAT
                   : dtype == AWQ_F32 || dtype == AWQ_F16 ? AWQI_DL_FLOAT
                                                          : AWQI_DL_INT;
    return (struct awqi_dl_dtype){code, bits, 1};
}

awq_status awq_packed_export_dlpack(const awq_packed *packed, size_t index, void **managed)
{
    if (managed == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_packed_export_dlpack: managed is NULL");
    *managed = NULL;
    void *memory;
    awq_status status = check_index(packed, index, "awq_packed_export_dlpack");
    if (status == AWQ_OK) status = awqi_calloc(packed->context, 1, sizeof(struct export), "an exported plane", &memory);
    if (status != AWQ_OK) return status;
    const awq_tensor *view = &packed->planes[index].view;
    struct export *export = memory;
    export->packed = (awq_packed *)(uintptr_t)packed; /* immutable but for its count of references */
    atomic_fetch_add(&export->packed->references, 1);
    memcpy(export->shape, view->shape, sizeof export->shape);
    memcpy(export->strides, view->strides, sizeof export->strides);
    export->managed = (struct awqi_dl_managed){
        .version = {AWQI_DLPACK_MAJOR, AWQI_DLPACK_MINOR},
        .manager = export,
        .deleter = delete_export,
        .flags = AWQI_DL_FLAG_READ_ONLY,
        .tensor = {.data = view->data,
                   .device = {AWQI_DL_CPU, 0},
                   .ndim = view->ndim,
                   .dtype = dlpack_dtype(view->dtype),
                   .shape = export->shape,
                   .strides = export->strides},
    };
    *managed = &export->managed;
    return AWQ_OK;
}

/* ---- unpacking */

/* The number of a plane in the format's table, or -1. */
static int find_plane(const struct awqi_layout *layout, const char *name)
{
    for (int i = 0; i < AWQI_MAX_PLANES && layout->planes[i] != NULL; i++)
        if (strcmp(layout->planes[i], name) == 0 ||
            (layout->aliases[i] != NULL && strcmp(layout->aliases[i], name) == 0))
            return i;
    return -1;
}

static awq_status collect_planes(const struct awqi_layout *layout, size_t count, const char *const *names,
                                 const awq_tensor *const *tensors, struct awqi_planes *planes)
{
    planes->count = 0;
    if (count > 0 && (names == NULL || tensors == NULL))
        return awqi_fail(AWQ_ERROR_INVALID, "%s is NULL", names == NULL ? "names" : "planes");
    for (size_t i = 0; i < count; i++) {
        if (names[i] == NULL || tensors[i] == NULL)
            return awqi_fail(AWQ_ERROR_INVALID, "plane %zu: its %s is NULL", i, names[i] == NULL ? "name" : "tensor");
        int plane = find_plane(layout, names[i]);
        if (plane < 0) return awqi_fail(AWQ_ERROR_INVALID, "a plane named %s does not belong to this layout", names[i]);
        if (awqi_planes_get(planes, layout->planes[plane]) != NULL)
            return awqi_fail(AWQ_ERROR_INVALID, "plane %s is given twice", names[i]);
        if (tensors[i]->device_type != AWQ_DEVICE_CPU)
            return awqi_fail(AWQ_ERROR_UNSUPPORTED, "plane %s is not in host memory", names[i]);
        planes->names[planes->count] = layout->planes[plane];
        planes->tensors[planes->count++] = tensors[i];
    }
    return AWQ_OK;
}

awq_status awq_unpack(awq_context *context, int32_t layout, size_t count, const char *const *names,
                      const awq_tensor *const *planes, const awq_unpack_options *options, awq_weight **weight)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_unpack: weight is NULL");
    *weight = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_unpack: context is NULL");
    const struct awqi_layout *format;
    awq_unpack_options known;
    awq_status status = require_layout(layout, &format);
    if (status == AWQ_OK) status = awqi_import(&known, sizeof known, options, "awq_unpack_options");
    if (status == AWQ_OK) status = awqi_check_flags(known.flags, AWQ_QUANTIZE_SYMMETRIC, "awq_unpack_options");
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_unpack");
    if (known.bits == 0 && !format->describes_itself) known.bits = 4;
    struct awqi_planes given;
    status = collect_planes(format, count, names, planes, &given);
    awq_weight *created = NULL;
    if (status == AWQ_OK) status = format->unpack(format, context, &given, &known, &created);
    if (status != AWQ_OK) {
        awq_weight_destroy(created);
        return awqi_fail_in(status, "awq_unpack: %s", format->name);
    }
    *weight = created;
    return AWQ_OK;
}

/* ---- biases */

/* out[place(i)] = bias[i], or out[i] = bias[place(i)] when 'back'. */
static awq_status place_bias(int32_t layout, const awq_tensor *bias, awq_tensor *out, bool back)
{
    const struct awqi_layout *format;
    awq_status status = require_layout(layout, &format);
    if (status == AWQ_OK) status = awqi_check_tensor(bias, 1, AWQI_FLOATS, "bias");
    if (status == AWQ_OK) status = awqi_check_tensor(out, 1, AWQI_FLOATS, "out");
    if (status == AWQ_OK) status = awqi_check_shape_1d(out, bias->shape[0], "out");
    if (status == AWQ_OK) status = awqi_check_writable(out, "out");
    if (status != AWQ_OK) return status;
    if (bias->dtype != out->dtype)
        return awqi_fail(AWQ_ERROR_INVALID, "out: dtype %s, but the bias is %s", awq_dtype_name(out->dtype),
                         awq_dtype_name(bias->dtype));
    if (bias->device_type != AWQ_DEVICE_CPU || out->device_type != AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "a bias that is not in host memory");
    if (format->bias_place != NULL && bias->shape[0] % format->bias_period != 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: the bias has %lld outputs; the format holds multiples of %lld",
                         format->name, (long long)bias->shape[0], (long long)format->bias_period);
    const size_t size = awq_dtype_size(bias->dtype);
    const char *from = awqi_tensor_data(bias);
    char *to = awqi_tensor_data(out);
    for (int64_t i = 0; i < bias->shape[0]; i++) {
        const int64_t placed = format->bias_place != NULL ? format->bias_place(i) : i;
        const int64_t j = (back ? placed : i) * bias->strides[0], k = (back ? i : placed) * out->strides[0];
        memcpy(to + k * (int64_t)size, from + j * (int64_t)size, size);
    }
    return AWQ_OK;
}

awq_status awq_pack_bias(int32_t layout, const awq_tensor *bias, awq_tensor *out)
{
    awq_status status = place_bias(layout, bias, out, false);
    return status == AWQ_OK ? status : awqi_fail_in(status, "awq_pack_bias");
}

awq_status awq_unpack_bias(int32_t layout, const awq_tensor *bias, awq_tensor *out)
{
    awq_status status = place_bias(layout, bias, out, true);
    return status == AWQ_OK ? status : awqi_fail_in(status, "awq_unpack_bias");
}
