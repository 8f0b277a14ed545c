/* Planes of every packed format.  The input is read as
 *
 *     u8 layout, u8 bits, i16 group size, u8 flags, u8 planes, then for each plane
 *     u8 name, u8 dtype, u8 ndim, ndim x u16 extents
 *
 * and then the bytes of the planes, one after the other. */
#include "fuzz.h"

enum { MAX_PLANES = 8, MAX_EXTENT = 2048, MAX_BYTES = 1 << 16 };

static const char *const names[] = {
    "qweight",  "qzeros",       "scales",       "scaled_zeros",      "weight_packed", "weight_scale", "weight_shape",
    "weight_zero_point", "B",   "s",            "g_idx",             "header",        "input_scale",  "salient_columns",
    "salient_values",    "stream", "no_such_plane",
};

struct planes {
    size_t count;
    const char *names[MAX_PLANES];
    awq_tensor views[MAX_PLANES];
    const awq_tensor *pointers[MAX_PLANES];
    void *memory[MAX_PLANES];
    size_t bytes[MAX_PLANES];
};

static void read_shapes(struct fuzz_input *input, struct planes *planes)
{
    planes->count = fuzz_take(input, 1) % (MAX_PLANES + 1);
    for (size_t i = 0; i < planes->count; i++) {
        int64_t shape[AWQ_MAX_DIMS];
        planes->names[i] = names[fuzz_take(input, 1) % (sizeof names / sizeof *names)];
        int32_t dtype = (int32_t)(1 + fuzz_take(input, 1) % AWQ_F8_E5M2), ndim = (int32_t)(fuzz_take(input, 1) % 4);
        size_t bytes = awq_dtype_size(dtype);
        for (int32_t j = 0; j < ndim; j++) {
            shape[j] = (int64_t)fuzz_take(input, 2) % MAX_EXTENT;
            if (bytes * (size_t)shape[j] > MAX_BYTES) shape[j] = 1;
            bytes *= (size_t)shape[j];
        }
        planes->memory[i] = fuzz_guard(NULL, planes->bytes[i] = bytes);
        planes->pointers[i] = &planes->views[i];
        fuzz_assert(awq_tensor_init_const(&planes->views[i], planes->memory[i], dtype, ndim, shape) == AWQ_OK);
    }
}

static void read_bytes(struct fuzz_input *input, const struct planes *planes)
{
    for (size_t i = 0; i < planes->count; i++) {
        size_t left = (size_t)(input->end - input->at), size = planes->bytes[i] < left ? planes->bytes[i] : left;
        memcpy(planes->memory[i], input->at, size);
        input->at += size;
    }
}

/* What was understood can be packed again, where the format holds it, and is then understood as the same. */
static void pack_again(const awq_weight *weight, int32_t layout, const awq_unpack_options *options)
{
    awq_packed *packed;
    struct planes planes = {0};
    if (fuzz_status(awq_pack(fuzz_context(), weight, layout, &packed)) != AWQ_OK) return;
    planes.count = awq_packed_plane_count(packed);
    for (size_t i = 0; i < planes.count; i++) {
        planes.pointers[i] = &planes.views[i];
        fuzz_assert(awq_packed_get_plane(packed, i, &planes.names[i], &planes.views[i]) == AWQ_OK);
        fuzz_read_tensor(&planes.views[i]);
    }
    awq_weight *again;
    awq_weight_info before, after;
    awq_struct_init(&before, sizeof before);
    awq_struct_init(&after, sizeof after);
    fuzz_assert(awq_weight_get_info(weight, &before) == AWQ_OK);
    if (fuzz_status(awq_unpack(fuzz_context(), layout, planes.count, planes.names, planes.pointers, options, &again)) ==
        AWQ_OK) {
        fuzz_assert(awq_weight_get_info(again, &after) == AWQ_OK);
        fuzz_assert(before.n == after.n && before.k == after.k && before.bits == after.bits);
    }
    awq_weight_destroy(again);
    awq_packed_destroy(packed);
}

static void run(const awq_weight *weight, int64_t n, int64_t k)
{
    awq_linear *linear;
    float *x = calloc((size_t)k, sizeof *x), *y = fuzz_guard(NULL, (size_t)n * sizeof *y);
    awq_tensor input, output;
    fuzz_assert(x != NULL);
    awq_tensor_init_const_2d(&input, x, AWQ_F32, 1, k);
    awq_tensor_init_2d(&output, y, AWQ_F32, 1, n);
    if (fuzz_status(awq_linear_create(fuzz_context(), weight, NULL, &linear)) == AWQ_OK)
        fuzz_assert(awq_linear_run(linear, &input, &output, NULL) == AWQ_OK);
    awq_linear_destroy(linear);
    fuzz_unguard(y, (size_t)n * sizeof *y);
    free(x);
}

static void use(const awq_weight *weight, int32_t layout, const awq_unpack_options *options)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    fuzz_assert(awq_weight_get_info(weight, &info) == AWQ_OK);
    fuzz_assert(info.n > 0 && info.k > 0 && info.groups == awqi_ceil_div(info.k, info.group_size));
    if (info.n * info.k > 1 << 20) return;
    size_t bytes = (size_t)(info.n * info.k) * sizeof(float);
    float *values = fuzz_guard(NULL, bytes);
    awq_tensor out;
    awq_tensor_init_2d(&out, values, AWQ_F32, info.n, info.k);
    fuzz_assert(awq_weight_dequantize(weight, 0, &out) == AWQ_OK);
    fuzz_unguard(values, bytes);
    pack_again(weight, layout, options);
    run(weight, info.n, info.k);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, data + size};
    struct planes planes = {0};
    awq_unpack_options options;
    awq_weight *weight;
    awq_struct_init(&options, sizeof options);
    int32_t layout = (int32_t)(fuzz_take(&input, 1) % 13);
    options.bits = (int8_t)fuzz_take(&input, 1);
    options.group_size = (int16_t)fuzz_take(&input, 2);
    options.flags = (uint32_t)fuzz_take(&input, 1) % 4;
    read_shapes(&input, &planes);
    read_bytes(&input, &planes);
    if (fuzz_status(awq_unpack(fuzz_context(), layout, planes.count, planes.names, planes.pointers, &options, &weight)) ==
        AWQ_OK)
        use(weight, layout, &options);
    else
        fuzz_assert(weight == NULL);
    awq_weight_destroy(weight);
    for (size_t i = 0; i < planes.count; i++) fuzz_unguard(planes.memory[i], planes.bytes[i]);
    fuzz_expect_nothing_held();
    return 0;
}
