/* The table of packed formats, and awq_packed: a weight laid out in one of them. */
#include "layout.h"

#include "../dlpack.h"

#include <math.h>
#include <stdatomic.h>

static const struct awqi_layout layouts[] = {
    {AWQ_LAYOUT_GEMM, "gemm", {"qweight", "qzeros", "scales"}, awqi_gemm_pack, awqi_gemm_unpack},
    {AWQ_LAYOUT_COMPRESSED_TENSORS,
     "compressed-tensors",
     {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
     awqi_compressed_pack,
     awqi_compressed_unpack},
    {AWQ_LAYOUT_COMPRESSED_TENSORS_2025,
     "compressed-tensors-2025",
     {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
     awqi_compressed_pack,
     awqi_compressed_unpack},
    {.id = AWQ_LAYOUT_GEMV, .name = "gemv"},
    {.id = AWQ_LAYOUT_GEMV_FAST, .name = "gemv_fast"},
    {.id = AWQ_LAYOUT_MARLIN, .name = "marlin"},
    {.id = AWQ_LAYOUT_GPTQ_V1, .name = "gptq"},
    {.id = AWQ_LAYOUT_GPTQ_V2, .name = "gptq_v2"},
    {.id = AWQ_LAYOUT_CUDA_BLOCK, .name = "cuda-block"},
    {.id = AWQ_LAYOUT_CPU_STREAM, .name = "cpu-stream"},
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

/* A format that this version reads and writes. */
static awq_status require_layout(int32_t id, const struct awqi_layout **layout)
{
    *layout = find_layout(id);
    if (*layout == NULL) return awqi_fail(AWQ_ERROR_INVALID, "layout %d is none of AWQ_LAYOUT_*", id);
    if ((*layout)->pack == NULL)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: version %s neither reads nor writes this layout", (*layout)->name,
                         awq_version_string());
    return AWQ_OK;
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
    status = format->pack(format, weight, created);
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
    uint8_t code = dtype == AWQ_BF16                     ? AWQI_DL_BFLOAT
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

/* ---- what formats share */

awq_status awqi_layout_check_weight(const awq_weight *weight, bool single_may_be_short)
{
    if (weight->input_scale != NULL)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                         "the weight has an input scale, which must be folded into the operation before "
                         "(AWQ_QUANTIZE_INPUT_SCALE_FOLDED)");
    int64_t rest = weight->k % weight->group_size;
    if (rest != 0 && !(single_may_be_short && weight->groups == 1))
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the last group has %lld of %lld inputs (K = %lld)", (long long)rest,
                         (long long)weight->group_size, (long long)weight->k);
    return AWQ_OK;
}

awq_status awqi_planes_find(const struct awqi_planes *planes, const char *name, bool required, uint32_t dtypes,
                            int64_t rows, int64_t columns, const awq_tensor **plane)
{
    *plane = NULL;
    for (size_t i = 0; i < planes->count; i++)
        if (strcmp(planes->names[i], name) == 0) *plane = planes->tensors[i];
    if (*plane == NULL)
        return required ? awqi_fail(AWQ_ERROR_INVALID, "plane %s is missing", name) : AWQ_OK;
    awq_status status = awqi_check_tensor(*plane, 2, dtypes, name);
    if (status != AWQ_OK) return status;
    const int64_t *shape = (*plane)->shape;
    return awqi_check_shape_2d(*plane, rows >= 0 ? rows : shape[0], columns >= 0 ? columns : shape[1], name);
}

awq_status awqi_layout_resolve(const awq_unpack_options *options, int64_t k, int64_t groups, int32_t scale_dtype,
                               struct awqi_quantizer *quantizer)
{
    awq_quantize_options format;
    awq_struct_init(&format, sizeof format);
    format.bits = options->bits;
    format.group_size = options->group_size;
    format.scale_dtype = scale_dtype;
    format.flags = options->flags;
    if (k < 1 || groups < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "a weight of %lld inputs in %lld groups", (long long)k, (long long)groups);
    if (format.group_size == 0) {
        if (k % groups != 0)
            return awqi_fail(AWQ_ERROR_INVALID, "%lld groups do not divide %lld inputs; say the group_size",
                             (long long)groups, (long long)k);
        format.group_size = k / groups;
    }
    awq_status status = awqi_quantizer_resolve(&format, k, quantizer);
    if (status == AWQ_OK && awqi_ceil_div(k, quantizer->group_size) != groups)
        return awqi_fail(AWQ_ERROR_INVALID, "%lld groups of scales, but groups of %lld make %lld of %lld inputs",
                         (long long)groups, (long long)quantizer->group_size,
                         (long long)awqi_ceil_div(k, quantizer->group_size), (long long)k);
    return status;
}

awq_status awqi_layout_read_scales(awq_weight *weight, const awq_tensor *plane, bool transposed)
{
    awq_tensor by_row = *plane;
    if (transposed) {
        by_row.shape[0] = plane->shape[1];
        by_row.shape[1] = plane->shape[0];
        by_row.strides[0] = plane->strides[1];
        by_row.strides[1] = plane->strides[0];
    }
    const size_t size = awq_dtype_size(weight->scale_dtype);
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++) {
            unsigned char *to = awqi_weight_scales(weight, row);
            float scale;
            awqi_load_columns(&by_row, row, group, &scale, 1);
            if (!isfinite(scale))
                return awqi_fail(AWQ_ERROR_NON_FINITE, "the scale of row %lld, group %lld is %g", (long long)row,
                                 (long long)group, (double)scale);
            awqi_from_f32(weight->scale_dtype, &scale, to + (size_t)group * size, 1);
        }
    return AWQ_OK;
}

/* ---- unpacking */

static bool knows_plane(const struct awqi_layout *layout, const char *name)
{
    for (int i = 0; i < AWQI_MAX_PLANES && layout->planes[i] != NULL; i++)
        if (strcmp(layout->planes[i], name) == 0) return true;
    return false;
}

static awq_status check_planes(const struct awqi_layout *layout, const struct awqi_planes *planes)
{
    if (planes->count > 0 && (planes->names == NULL || planes->tensors == NULL))
        return awqi_fail(AWQ_ERROR_INVALID, "%s is NULL", planes->names == NULL ? "names" : "planes");
    for (size_t i = 0; i < planes->count; i++) {
        if (planes->names[i] == NULL || planes->tensors[i] == NULL)
            return awqi_fail(AWQ_ERROR_INVALID, "plane %zu: its %s is NULL", i,
                             planes->names[i] == NULL ? "name" : "tensor");
        if (!knows_plane(layout, planes->names[i]))
            return awqi_fail(AWQ_ERROR_INVALID, "a plane named %s does not belong to this layout", planes->names[i]);
        for (size_t j = 0; j < i; j++)
            if (strcmp(planes->names[i], planes->names[j]) == 0)
                return awqi_fail(AWQ_ERROR_INVALID, "plane %s is given twice", planes->names[i]);
        if (planes->tensors[i]->device_type != AWQ_DEVICE_CPU)
            return awqi_fail(AWQ_ERROR_UNSUPPORTED, "plane %s is not in host memory", planes->names[i]);
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
    if (known.bits == 0) known.bits = 4;
    const struct awqi_planes given = {count, names, planes};
    status = check_planes(format, &given);
    awq_weight *created = NULL;
    if (status == AWQ_OK) status = format->unpack(format, context, &given, &known, &created);
    if (status != AWQ_OK) {
        awq_weight_destroy(created);
        return awqi_fail_in(status, "awq_unpack: %s", format->name);
    }
    *weight = created;
    return AWQ_OK;
}
