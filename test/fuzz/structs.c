/* Options and info structs of every size, with every tail.  The first byte chooses the call; the rest is its struct, which
 * ends at an unmapped page and says of itself that it has so many bytes.  Pointers in it are replaced: what a pointer points
 * to is the caller's to keep. */
#include "fuzz.h"

enum { ROWS = 4, CHANNELS = 32 };

static float values[ROWS * CHANNELS];
static awq_tensor matrix, vector, scales, output, limits;
static awq_calibration *calibration;
static awq_weight *weight;
static awq_linear *linear;
static awq_packed *packed;

static void prepare(void)
{
    for (int i = 0; i < ROWS * CHANNELS; i++) values[i] = (float)(i % 7 - 3);
    static float written[ROWS * CHANNELS], limit[ROWS];
    static const float factors[CHANNELS] = {1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    awq_tensor_init_const_2d(&matrix, values, AWQ_F32, ROWS, CHANNELS);
    awq_tensor_init_const_1d(&vector, values, AWQ_F32, CHANNELS);
    awq_tensor_init_const_1d(&scales, factors, AWQ_F32, CHANNELS);
    awq_tensor_init_2d(&output, written, AWQ_F32, ROWS, CHANNELS);
    awq_tensor_init_2d(&limits, limit, AWQ_F32, ROWS, 1);
    fuzz_assert(awq_calibration_create(fuzz_context(), CHANNELS, NULL, &calibration) == AWQ_OK);
    fuzz_assert(awq_calibration_observe(calibration, &matrix) == AWQ_OK);
    fuzz_assert(awq_quantize(fuzz_context(), &matrix, NULL, NULL, &weight) == AWQ_OK);
    fuzz_assert(awq_linear_create(fuzz_context(), weight, NULL, &linear) == AWQ_OK);
    fuzz_assert(awq_pack(fuzz_context(), weight, AWQ_LAYOUT_CPU_STREAM, &packed) == AWQ_OK);
}

/* Set the pointer at 'offset' of the struct, as far as it is in it, to 'target', or where its byte is even to NULL. */
static void point(uint8_t *structure, size_t size, size_t offset, const void *target)
{
    uintptr_t bits = 0;
    if (offset >= size) return;
    if (structure[offset] & 1) bits = (uintptr_t)target;
    uint8_t bytes[sizeof bits];
    memcpy(bytes, &bits, sizeof bits);
    memcpy(structure + offset, bytes, size - offset < sizeof bits ? size - offset : sizeof bits);
    /* Half a pointer points nowhere. */
    if (size - offset < sizeof bits) memset(structure + offset, 0, size - offset);
}

/* The int32_t at 'offset', brought down to what takes little time. */
static void bound(uint8_t *structure, size_t size, size_t offset)
{
    int32_t value;
    if (offset + sizeof value > size) return;
    memcpy(&value, structure + offset, sizeof value);
    if (value > 64) value %= 64;
    memcpy(structure + offset, &value, sizeof value);
}

#define POINT(type, field, target) point(structure, size, offsetof(type, field), target)

static void use_context(uint8_t *structure, size_t size)
{
    awq_context *context;
    POINT(awq_context_options, log, NULL);
    POINT(awq_context_options, allocate, NULL);
    POINT(awq_context_options, release, NULL);
    fuzz_status(awq_context_create((const void *)structure, &context));
    awq_context_destroy(context);
}

static void use_calibration(uint8_t *structure, size_t size)
{
    awq_calibration *made;
    (void)size;
    if (fuzz_status(awq_calibration_create(fuzz_context(), CHANNELS, (const void *)structure, &made)) == AWQ_OK)
        fuzz_status(awq_calibration_observe(made, &matrix));
    awq_calibration_destroy(made);
}

static void point_quantize(uint8_t *structure, size_t size)
{
    POINT(awq_quantize_options, input_scale, &vector);
    POINT(awq_quantize_options, clip, &limits);
    POINT(awq_quantize_options, importance, &scales);
    POINT(awq_quantize_options, salient_columns, &vector);
    POINT(awq_quantize_options, salient_values, &matrix);
}

static void use_quantize(uint8_t *structure, size_t size)
{
    awq_weight *made;
    point_quantize(structure, size);
    fuzz_status(awq_quantize(fuzz_context(), &matrix, NULL, (const void *)structure, &made));
    awq_weight_destroy(made);
}

static void use_weight(uint8_t *structure, size_t size)
{
    static uint8_t codes[ROWS * CHANNELS];
    awq_tensor code_view, scale_view, zero_view;
    awq_weight *made;
    awq_tensor_init_const_2d(&code_view, codes, AWQ_U8, ROWS, CHANNELS);
    awq_tensor_init_const_2d(&zero_view, codes, AWQ_U8, ROWS, 1);
    awq_tensor_init_const_2d(&scale_view, values + 4, AWQ_F32, ROWS, 1);
    point_quantize(structure, size);
    fuzz_status(awq_weight_create(fuzz_context(), &code_view, &scale_view, &zero_view, (const void *)structure, &made));
    awq_weight_destroy(made);
}

static void use_search(uint8_t *structure, size_t size)
{
    awq_search *search;
    awq_quantize_options quantizer;
    awq_struct_init(&quantizer, sizeof quantizer);
    quantizer.group_size = 8;
    POINT(awq_search_options, quantize, &quantizer);
    POINT(awq_search_options, loss, NULL);
    POINT(awq_search_options, progress, NULL);
    bound(structure, size, offsetof(awq_search_options, grid_points));
    if (fuzz_status(awq_search_create(fuzz_context(), calibration, (const void *)structure, &search)) == AWQ_OK &&
        fuzz_status(awq_search_add_weight(search, &matrix)) == AWQ_OK)
        fuzz_status(awq_search_run(search));
    awq_search_destroy(search);
}

static void use_clip(uint8_t *structure, size_t size)
{
    POINT(awq_clip_options, quantize, NULL);
    POINT(awq_clip_options, progress, NULL);
    bound(structure, size, offsetof(awq_clip_options, grid_points));
    fuzz_status(awq_clip_search(fuzz_context(), &matrix, calibration, NULL, (const void *)structure, &limits, NULL));
}

static void use_fold(uint8_t *structure, size_t size)
{
    awq_tensor first_row = output;
    (void)size;
    first_row.ndim = 1;
    first_row.shape[0] = CHANNELS;
    first_row.strides[0] = 1;
    fuzz_status(awq_fold_norm(fuzz_context(), &scales, &first_row, NULL, (const void *)structure));
    fuzz_status(awq_fold_linear(fuzz_context(), &scales, &output, NULL, (const void *)structure));
    fuzz_status(awq_fold_activation(fuzz_context(), &scales, &first_row, (const void *)structure));
}

static void use_unpack(uint8_t *structure, size_t size)
{
    const char *names[AWQ_MAX_DIMS];
    awq_tensor views[AWQ_MAX_DIMS];
    const awq_tensor *pointers[AWQ_MAX_DIMS];
    size_t count = awq_packed_plane_count(packed);
    awq_weight *made;
    (void)size;
    for (size_t i = 0; i < count; i++) {
        pointers[i] = &views[i];
        fuzz_assert(awq_packed_get_plane(packed, i, &names[i], &views[i]) == AWQ_OK);
    }
    fuzz_status(awq_unpack(fuzz_context(), AWQ_LAYOUT_CPU_STREAM, count, names, pointers, (const void *)structure, &made));
    awq_weight_destroy(made);
}

static void use_linear(uint8_t *structure, size_t size)
{
    awq_linear *made;
    awq_tensor bias;
    awq_tensor_init_const_1d(&bias, values, AWQ_F32, ROWS);
    POINT(awq_linear_options, bias, &bias);
    POINT(awq_linear_options, tuning, NULL);
    fuzz_status(awq_linear_create(fuzz_context(), weight, (const void *)structure, &made));
    awq_linear_destroy(made);
    fuzz_status(awq_linear_create_dense(fuzz_context(), &matrix, (const void *)structure, &made));
    awq_linear_destroy(made);
}

static void use_run(uint8_t *structure, size_t size)
{
    float y[ROWS * ROWS];
    awq_tensor result, residual;
    static _Alignas(256) uint8_t workspace[1 << 16];
    awq_tensor_init_2d(&result, y, AWQ_F32, ROWS, ROWS);
    awq_tensor_init_const_2d(&residual, values, AWQ_F32, ROWS, ROWS);
    POINT(awq_run_options, stream, NULL);
    POINT(awq_run_options, workspace, workspace);
    POINT(awq_run_options, norm_weight, &vector);
    POINT(awq_run_options, residual, &residual);
    uint64_t bytes = sizeof workspace;
    size_t offset = offsetof(awq_run_options, workspace_bytes);
    if (size >= offset + sizeof bytes) {
        memcpy(&bytes, structure + offset, sizeof bytes);
        bytes %= sizeof workspace + 1;
        memcpy(structure + offset, &bytes, sizeof bytes);
    }
    fuzz_status(awq_linear_run(linear, &matrix, &result, (const void *)structure));
}

static void use_select(uint8_t *structure, size_t size)
{
    awq_device_info device;
    int32_t kernel;
    char text[256];
    (void)size;
    awq_struct_init(&device, sizeof device);
    fuzz_assert(awq_context_get_device(fuzz_context(), &device) == AWQ_OK);
    fuzz_status(awq_kernel_select(&device, (const void *)structure, &kernel, text, sizeof text, NULL));
    fuzz_status(awq_kernel_select((const void *)structure, NULL, &kernel, text, sizeof text, NULL));
}

static void use_memory(uint8_t *structure, size_t size)
{
    awq_memory_estimate_result result;
    (void)size;
    awq_struct_init(&result, sizeof result);
    fuzz_status(awq_memory_estimate((const void *)structure, &result));
}

static void use_writer(uint8_t *structure, size_t size)
{
    char path[4200];
    awq_checkpoint_writer *writer;
    (void)size;
    strcpy(path, fuzz_directory());
    strcat(path, "/model");
    if (fuzz_status(awq_checkpoint_writer_create(fuzz_context(), path, (const void *)structure, &writer)) == AWQ_OK)
        fuzz_status(awq_checkpoint_writer_add(writer, "a", &vector));
    awq_checkpoint_writer_destroy(writer);
}

/* Structs that are written. */
static void use_infos(uint8_t *structure, size_t size)
{
    uint32_t again;
    fuzz_status(awq_context_get_device(fuzz_context(), (void *)structure));
    fuzz_status(awq_calibration_get_info(calibration, (void *)structure));
    fuzz_status(awq_weight_get_info(weight, (void *)structure));
    fuzz_status(awq_linear_get_info(linear, (void *)structure));
    fuzz_status(awq_memory_estimate(NULL, (void *)structure));
    memcpy(&again, structure, sizeof again);
    fuzz_assert(again == size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const uses[])(uint8_t *, size_t) = {
        use_context, use_calibration, use_quantize, use_weight, use_search, use_clip,   use_fold,
        use_unpack,  use_linear,      use_run,      use_select, use_memory, use_writer, use_infos,
    };
    if (size < 1 + sizeof(uint32_t)) return 0;
    if (calibration == NULL) prepare();
    /* Structs end at the page, and begin where their type may. */
    size_t bytes = (size - 1) / 8 * 8;
    if (bytes == 0) return 0;
    uint32_t struct_size = (uint32_t)(data[0] & 0x80 ? bytes - 4 : bytes);
    uint8_t *structure = fuzz_guard(data + 1, bytes);
    memcpy(structure, &struct_size, sizeof struct_size);
    uses[(data[0] & 0x7f) % (sizeof uses / sizeof *uses)](structure, struct_size);
    fuzz_unguard(structure, bytes);
    return 0;
}
