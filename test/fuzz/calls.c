/* Sequences of calls, legal and not.  Each step of the input is a byte for the call and some for its arguments, which are taken
 * from slots that earlier calls filled, or left empty.  Tensors describe memory that is there, or are wrong in a way that can
 * be seen from the struct alone: what a pointer leads to is the caller's to keep. */
#include "fuzz.h"

enum { SLOTS = 4, ARENA = 1 << 14, MOST_ELEMENTS = 2048, MOST_STEPS = 64 };

struct machine {
    struct fuzz_input input;
    awq_context *context[SLOTS];
    awq_calibration *calibration[SLOTS];
    awq_search *search[SLOTS];
    awq_weight *weight[SLOTS];
    awq_packed *packed[SLOTS];
    awq_linear *linear[SLOTS];
    /* A search reads its weights when it runs, so those views lead to memory that nothing changes. */
    char *arena, *constant;
};

static size_t slot(struct machine *machine)
{
    return fuzz_take(&machine->input, 1) % SLOTS;
}

static int64_t extent(struct machine *machine)
{
    static const int64_t extents[] = {0, 1, 2, 3, 7, 8, 16, 17, 32, 33, 48, 64, 128, -1, INT64_MIN, INT64_MAX};
    return extents[fuzz_take(&machine->input, 1) % (sizeof extents / sizeof *extents)];
}

static int64_t small(struct machine *machine)
{
    int64_t value = extent(machine);
    return value < 0 || value > 128 ? 1 : value;
}

/* Whether everything that the view describes lies in the arena, or somebody who looks at its struct must refuse it. */
static bool is_harmless(const awq_tensor *tensor, size_t element)
{
    int64_t elements = 1, low = 0, high = 0;
    bool refused = element == 0 || tensor->ndim < 0 || tensor->ndim > AWQ_MAX_DIMS;
    for (int32_t i = 0; !refused && i < tensor->ndim; i++) refused = tensor->shape[i] < 0;
    if (refused) return true;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        if (tensor->shape[i] > MOST_ELEMENTS || (elements *= tensor->shape[i]) > MOST_ELEMENTS) return false;
        int64_t reach;
        if (__builtin_mul_overflow(tensor->shape[i] - 1, tensor->strides[i], &reach)) return false;
        if (reach > 0) high += reach > ARENA ? ARENA : reach;
        if (reach < 0) low += reach < -ARENA ? -ARENA : reach;
    }
    return elements == 0 || (low >= -512 && high < 512);
}

static void make_tensor(struct machine *machine, char *arena, awq_tensor *tensor)
{
    uint8_t kind = (uint8_t)fuzz_take(&machine->input, 1);
    int32_t dtype = kind % 4 != 0 ? 1 + kind / 4 % 4 : (int32_t)fuzz_take(&machine->input, 1) % 18 - 1;
    size_t element = awq_dtype_size(dtype);
    int64_t shape[AWQ_MAX_DIMS];
    int32_t ndim = kind >= 64 ? 2 : kind >= 32 ? 1 : (int32_t)fuzz_take(&machine->input, 1) % 9;
    for (int32_t i = 0; i < ndim; i++) shape[i] = ndim > 2 ? extent(machine) % 5 : extent(machine);
    fuzz_assert(awq_tensor_init(tensor, arena, dtype, ndim, shape) == AWQ_OK);
    uint8_t twist = (uint8_t)fuzz_take(&machine->input, 1);
    if (twist == 1) tensor->flags = (uint32_t)fuzz_take(&machine->input, 1);
    if (twist == 2) tensor->data = NULL;
    if (twist == 3) tensor->byte_offset = fuzz_take(&machine->input, 1);
    if (twist == 4) tensor->reserved = 1;
    if (twist == 5) tensor->device_type = (int32_t)fuzz_take(&machine->input, 1);
    if (twist == 6) tensor->ndim = (int32_t)(int8_t)fuzz_take(&machine->input, 1);
    if (twist == 7 && ndim == 2) tensor->strides[0] = 1, tensor->strides[1] = shape[0] > 0 && shape[0] < 512 ? shape[0] : 1;
    if (twist == 8 && ndim > 0) tensor->strides[ndim - 1] = (int8_t)fuzz_take(&machine->input, 1);
    /* Elements are counted in words of 8 bytes from the middle on, so every dtype stays inside. */
    if (tensor->data != NULL) tensor->data = arena + ARENA / 2;
    bool contiguous = twist != 7 && twist != 8;
    bool fits = is_harmless(tensor, element);
    if (contiguous && element != 0 && !fits && ndim >= 1 && ndim <= 2) {
        /* All the way to the page after the arena. */
        int64_t count = 1;
        bool sane = true;
        for (int32_t i = 0; i < ndim; i++) sane = sane && shape[i] >= 0 && shape[i] <= MOST_ELEMENTS;
        for (int32_t i = 0; sane && i < ndim; i++) count *= shape[i];
        fits = sane && count <= MOST_ELEMENTS && (size_t)count * element <= ARENA && tensor->byte_offset == 0;
        if (fits && tensor->data != NULL) tensor->data = arena + ARENA - (size_t)count * element;
    }
    if (!fits) awq_tensor_init_1d(tensor, arena, AWQ_F32, 8);
}

static const awq_tensor *maybe(struct machine *machine, const awq_tensor *tensor)
{
    return fuzz_take(&machine->input, 1) % 4 == 0 ? tensor : NULL;
}

/* ---- calls */

static void step_context(struct machine *machine)
{
    awq_context **context = &machine->context[slot(machine)];
    awq_context_options options;
    awq_context_destroy(*context);
    awq_struct_init(&options, sizeof options);
    options.threads = (int32_t)fuzz_take(&machine->input, 1) % 4 - 1;
    options.memory_limit_bytes = fuzz_take(&machine->input, 1) << 12;
    if (options.memory_limit_bytes == 0) options.memory_limit_bytes = 16 << 20;
    options.device_type = (int32_t)(fuzz_take(&machine->input, 1) == 7);
    fuzz_status(awq_context_create(&options, context));
}

static void step_calibration(struct machine *machine)
{
    awq_calibration **calibration = &machine->calibration[slot(machine)];
    awq_calibration_options options;
    awq_calibration_destroy(*calibration);
    awq_struct_init(&options, sizeof options);
    options.flags = (uint32_t)fuzz_take(&machine->input, 1) % 3;
    options.sample_rows = (int64_t)fuzz_take(&machine->input, 1) % 20 - 1;
    fuzz_status(awq_calibration_create(machine->context[slot(machine)], extent(machine), &options, calibration));
}

static void step_observe(struct machine *machine)
{
    awq_tensor x, weights;
    awq_calibration *calibration = machine->calibration[slot(machine)];
    make_tensor(machine, machine->arena, &x);
    if (fuzz_take(&machine->input, 1) % 2 == 0) {
        fuzz_status(awq_calibration_observe(calibration, &x));
        return;
    }
    make_tensor(machine, machine->arena, &weights);
    fuzz_status(awq_calibration_observe_weighted(calibration, &x, &weights));
}

static void step_merge(struct machine *machine)
{
    awq_calibration *into = machine->calibration[slot(machine)], *from = machine->calibration[slot(machine)];
    fuzz_status(awq_calibration_merge(into, from));
}

static void step_statistics(struct machine *machine)
{
    double values[128];
    awq_tensor samples;
    awq_calibration *calibration = machine->calibration[slot(machine)];
    fuzz_status(awq_calibration_get_statistic(calibration, (int32_t)fuzz_take(&machine->input, 1) - 1, values,
                                              small(machine)));
    if (fuzz_status(awq_calibration_get_samples(calibration, &samples)) == AWQ_OK) fuzz_read_tensor(&samples);
}

static void fill_quantize(struct machine *machine, awq_quantize_options *options, awq_tensor views[3])
{
    awq_struct_init(options, sizeof *options);
    options->bits = (int32_t)fuzz_take(&machine->input, 1) % 10;
    options->group_size = (int64_t)(int8_t)fuzz_take(&machine->input, 1);
    options->flags = (uint32_t)fuzz_take(&machine->input, 1) % 5;
    options->profile = (int32_t)fuzz_take(&machine->input, 1) % 4;
    options->scale_dtype = (int32_t)fuzz_take(&machine->input, 1) % 5;
    options->salient_rule = (int32_t)fuzz_take(&machine->input, 1) % 4;
    options->salient_fraction = (double)((int64_t)fuzz_take(&machine->input, 1) - 128) / 64;
    if (options->salient_fraction < 0.25 && options->salient_fraction > -1) options->salient_fraction = 0;
    for (int i = 0; i < 3; i++) make_tensor(machine, machine->arena, &views[i]);
    options->input_scale = maybe(machine, &views[0]);
    options->clip = maybe(machine, &views[1]);
    options->importance = maybe(machine, &views[2]);
}

static void step_quantize(struct machine *machine)
{
    awq_weight **weight = &machine->weight[slot(machine)];
    awq_quantize_options options;
    awq_tensor w, views[3];
    awq_weight_destroy(*weight);
    fill_quantize(machine, &options, views);
    make_tensor(machine, machine->arena, &w);
    const awq_search *search = fuzz_take(&machine->input, 1) % 2 ? machine->search[slot(machine)] : NULL;
    fuzz_status(awq_quantize(machine->context[slot(machine)], &w, search, &options, weight));
}

static void step_weight_create(struct machine *machine)
{
    awq_weight **weight = &machine->weight[slot(machine)];
    awq_quantize_options options;
    awq_tensor codes, scales, zeros, views[3];
    awq_weight_destroy(*weight);
    fill_quantize(machine, &options, views);
    make_tensor(machine, machine->arena, &codes);
    make_tensor(machine, machine->arena, &scales);
    make_tensor(machine, machine->arena, &zeros);
    fuzz_status(awq_weight_create(machine->context[slot(machine)], &codes, &scales, maybe(machine, &zeros), &options, weight));
}

static void step_weight_read(struct machine *machine)
{
    awq_tensor a, b;
    const awq_weight *weight = machine->weight[slot(machine)];
    make_tensor(machine, machine->arena, &a);
    make_tensor(machine, machine->arena, &b);
    fuzz_status(awq_weight_dequantize(weight, (uint32_t)fuzz_take(&machine->input, 1) % 3, &a));
    fuzz_status(awq_weight_export(weight, &a, &b, NULL, NULL));
    fuzz_status(awq_weight_export(weight, NULL, NULL, &a, &b));
    fuzz_status(awq_weight_export_salient(weight, &a, &b));
}

static void step_slice(struct machine *machine)
{
    awq_weight *made;
    const awq_weight *weight = machine->weight[slot(machine)];
    int32_t axis = (int32_t)fuzz_take(&machine->input, 1) % 3;
    int64_t begin = extent(machine), end = extent(machine);
    fuzz_status(awq_weight_slice(weight, axis, begin, end, &made));
    size_t to = slot(machine);
    awq_weight_destroy(machine->weight[to]);
    machine->weight[to] = made;
}

static void step_concatenate(struct machine *machine)
{
    awq_weight *made;
    const awq_weight *parts[3] = {machine->weight[slot(machine)], machine->weight[slot(machine)],
                                  machine->weight[slot(machine)]};
    fuzz_status(awq_weight_concatenate(fuzz_take(&machine->input, 1) % 4, parts, &made));
    size_t to = slot(machine);
    awq_weight_destroy(machine->weight[to]);
    machine->weight[to] = made;
}

static int32_t loss(void *user_data, size_t count, const awq_tensor *const *candidates, double *value)
{
    struct machine *machine = user_data;
    for (size_t i = 0; i < count; i++) fuzz_read_tensor(candidates[i]);
    *value = (double)(int64_t)fuzz_take(&machine->input, 1) - 2;
    return fuzz_take(&machine->input, 1) == 1;
}

static int32_t progress(void *user_data, uint64_t done, uint64_t total)
{
    struct machine *machine = user_data;
    fuzz_assert(done <= total);
    return fuzz_take(&machine->input, 1) == 1;
}

static void step_search(struct machine *machine)
{
    awq_search **search = &machine->search[slot(machine)];
    awq_search_options options;
    awq_quantize_options quantizer;
    awq_tensor views[3];
    awq_search_destroy(*search);
    fill_quantize(machine, &quantizer, views);
    awq_struct_init(&options, sizeof options);
    options.flags = (uint32_t)fuzz_take(&machine->input, 1) % 3;
    options.grid_points = (int32_t)fuzz_take(&machine->input, 1) % 6 - 1;
    options.scales = (int32_t)fuzz_take(&machine->input, 1) % 4;
    options.normalization = (int32_t)fuzz_take(&machine->input, 1) % 3;
    options.objective = (int32_t)fuzz_take(&machine->input, 1) % 3;
    options.smooth_factor = (double)fuzz_take(&machine->input, 1) / 200;
    options.quantize = &quantizer;
    options.tie_copies = (int64_t)fuzz_take(&machine->input, 1) % 4;
    options.tie_width = (int64_t)fuzz_take(&machine->input, 1) % 9;
    uint8_t callbacks = (uint8_t)fuzz_take(&machine->input, 1);
    if (callbacks & 1) options.loss = loss, options.loss_data = machine;
    if (callbacks & 2) options.progress = progress, options.progress_data = machine;
    fuzz_status(awq_search_create(machine->context[slot(machine)], machine->calibration[slot(machine)], &options, search));
}

static void step_search_run(struct machine *machine)
{
    awq_search *search = machine->search[slot(machine)];
    awq_search_result result;
    awq_tensor w;
    float scales[128];
    double alphas[64];
    make_tensor(machine, machine->constant, &w);
    fuzz_status(awq_search_add_weight(search, &w));
    if (fuzz_take(&machine->input, 1) % 2) fuzz_status(awq_search_run(search));
    awq_struct_init(&result, sizeof result);
    fuzz_status(awq_search_get_result(search, &result));
    fuzz_status(awq_search_get_scales(search, scales, small(machine)));
    if (result.candidates <= 64) fuzz_status(awq_search_get_history(search, alphas, NULL, result.candidates));
}

static void step_clip(struct machine *machine)
{
    awq_clip_options options;
    awq_clip_result result;
    awq_quantize_options quantizer;
    awq_tensor w, limits, views[3];
    fill_quantize(machine, &quantizer, views);
    awq_struct_init(&options, sizeof options);
    awq_struct_init(&result, sizeof result);
    options.grid_points = (int32_t)fuzz_take(&machine->input, 1) % 6 - 1;
    options.max_shrink = (double)fuzz_take(&machine->input, 1) / 200;
    options.max_rows = (int64_t)fuzz_take(&machine->input, 1) - 1;
    if (fuzz_take(&machine->input, 1) % 2) options.quantize = &quantizer;
    options.progress = progress;
    options.progress_data = machine;
    make_tensor(machine, machine->constant, &w);
    make_tensor(machine, machine->arena, &limits);
    const awq_search *search = fuzz_take(&machine->input, 1) % 2 ? machine->search[slot(machine)] : NULL;
    fuzz_status(awq_clip_search(machine->context[slot(machine)], &w, machine->calibration[slot(machine)], search, &options,
                                &limits, &result));
}

static void step_fold(struct machine *machine)
{
    awq_fold_options options;
    awq_tensor scales, weight, bias;
    awq_struct_init(&options, sizeof options);
    options.flags = (uint32_t)fuzz_take(&machine->input, 1) % 3;
    options.profile = (int32_t)fuzz_take(&machine->input, 1) % 4;
    options.tie_copies = (int64_t)fuzz_take(&machine->input, 1) % 4;
    options.tie_width = (int64_t)fuzz_take(&machine->input, 1) % 9;
    make_tensor(machine, machine->constant, &scales);
    make_tensor(machine, machine->arena, &weight);
    make_tensor(machine, machine->arena, &bias);
    awq_context *context = machine->context[slot(machine)];
    awq_tensor *given = maybe(machine, &bias) != NULL ? &bias : NULL;
    switch (fuzz_take(&machine->input, 1) % 3) {
    case 0: fuzz_status(awq_fold_norm(context, &scales, &weight, given, &options)); break;
    case 1: fuzz_status(awq_fold_linear(context, &scales, &weight, given, &options)); break;
    default: fuzz_status(awq_fold_activation(context, &scales, &weight, &options)); break;
    }
}

static void step_pack(struct machine *machine)
{
    awq_packed **packed = &machine->packed[slot(machine)];
    awq_packed_destroy(*packed);
    fuzz_status(awq_pack(machine->context[slot(machine)], machine->weight[slot(machine)],
                         (int32_t)fuzz_take(&machine->input, 1) % 14 - 1, packed));
}

static void step_unpack(struct machine *machine)
{
    const awq_packed *packed = machine->packed[slot(machine)];
    const char *names[16];
    awq_tensor views[16];
    const awq_tensor *pointers[16];
    awq_unpack_options options;
    awq_weight *made;
    size_t count = awq_packed_plane_count(packed);
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)fuzz_take(&machine->input, 1) % 10;
    options.group_size = (int8_t)fuzz_take(&machine->input, 1);
    options.flags = (uint32_t)fuzz_take(&machine->input, 1) % 3;
    for (size_t i = 0; i < count; i++) {
        fuzz_assert(awq_packed_get_plane(packed, i, &names[i], &views[i]) == AWQ_OK);
        pointers[i] = &views[i];
    }
    if (count > 0 && fuzz_take(&machine->input, 1) % 4 == 0)
        make_tensor(machine, machine->arena, &views[fuzz_take(&machine->input, 1) % count]);
    fuzz_status(awq_unpack(machine->context[slot(machine)], (int32_t)fuzz_take(&machine->input, 1) % 14 - 1, count, names,
                           pointers, &options, &made));
    size_t to = slot(machine);
    awq_weight_destroy(machine->weight[to]);
    machine->weight[to] = made;
}

static void step_linear(struct machine *machine)
{
    awq_linear **linear = &machine->linear[slot(machine)];
    awq_linear_options options;
    awq_tensor bias, dense;
    awq_linear_destroy(*linear);
    awq_struct_init(&options, sizeof options);
    options.flags = (uint32_t)fuzz_take(&machine->input, 1) % 3;
    options.activation = (int32_t)fuzz_take(&machine->input, 1) % 6;
    options.kernel = (int32_t)fuzz_take(&machine->input, 1) % 8;
    make_tensor(machine, machine->arena, &bias);
    options.bias = maybe(machine, &bias);
    awq_context *context = machine->context[slot(machine)];
    if (fuzz_take(&machine->input, 1) % 4 == 0) {
        make_tensor(machine, machine->constant, &dense);
        fuzz_status(awq_linear_create_dense(context, &dense, &options, linear));
        return;
    }
    fuzz_status(awq_linear_create(context, machine->weight[slot(machine)], &options, linear));
}

static void step_run(struct machine *machine)
{
    const awq_linear *linear = machine->linear[slot(machine)];
    awq_run_options options;
    awq_tensor x, y, norm, residual;
    char text[64];
    awq_struct_init(&options, sizeof options);
    make_tensor(machine, machine->arena, &x);
    make_tensor(machine, machine->arena, &y);
    make_tensor(machine, machine->arena, &norm);
    make_tensor(machine, machine->arena, &residual);
    options.norm_weight = maybe(machine, &norm);
    options.norm_epsilon = (double)fuzz_take(&machine->input, 1) - 1;
    options.residual = fuzz_take(&machine->input, 1) % 4 == 1 ? &y : maybe(machine, &residual);
    fuzz_status(awq_linear_run(linear, &x, &y, &options));
    fuzz_status(awq_linear_describe(linear, extent(machine), text, sizeof text, NULL));
    awq_linear_workspace_size(linear, extent(machine));
}

static void step_copy(struct machine *machine)
{
    awq_tensor from, to;
    make_tensor(machine, machine->constant, &from);
    make_tensor(machine, machine->arena, &to);
    fuzz_status(awq_tensor_copy(machine->context[slot(machine)], &from, &to, NULL));
    fuzz_status(awq_pack_bias((int32_t)fuzz_take(&machine->input, 1) % 13, &from, &to));
    fuzz_status(awq_unpack_bias((int32_t)fuzz_take(&machine->input, 1) % 13, &from, &to));
}

static void step_memory(struct machine *machine)
{
    void *memory;
    uint64_t now, peak;
    awq_context *context = machine->context[slot(machine)];
    uint64_t size = fuzz_take(&machine->input, 2) << fuzz_take(&machine->input, 1) % 48;
    if (fuzz_status(awq_context_allocate(context, size, &memory)) == AWQ_OK) {
        fuzz_assert((uintptr_t)memory % 256 == 0);
        fuzz_assert(awq_context_get_memory(context, &now, &peak) == AWQ_OK && now >= size && peak >= now);
    }
    if (context != NULL) awq_context_free(context, memory);
}

static void step_fill(struct machine *machine)
{
    static const uint32_t patterns[] = {0, 0x3f800000, 0x3c003c00, 0x01020304, 0x00000001, 0x3dcccccd, 0xbf800000, 0x33333333};
    uint8_t kind = (uint8_t)fuzz_take(&machine->input, 1);
    uint32_t word = kind < 8 ? patterns[kind] : (uint32_t)fuzz_take(&machine->input, 4);
    for (size_t i = 0; i < ARENA / sizeof word; i++) {
        uint32_t value = kind & 128 ? (word ^= word << 13, word ^= word >> 17, word ^= word << 5, (word & 0x00ffffffu) | 0x3f000000u)
                                    : word;
        memcpy(machine->arena + i * sizeof value, &value, sizeof value);
    }
}

static void step_destroy(struct machine *machine)
{
    uint8_t kind = (uint8_t)fuzz_take(&machine->input, 1);
    size_t i = slot(machine);
#define RELEASE(index, handle, destroy)                                                                                \
    if (kind % 6 == (index)) destroy(machine->handle[i]), machine->handle[i] = NULL
    RELEASE(0, context, awq_context_destroy);
    RELEASE(1, calibration, awq_calibration_destroy);
    RELEASE(2, search, awq_search_destroy);
    RELEASE(3, weight, awq_weight_destroy);
    RELEASE(4, packed, awq_packed_destroy);
    RELEASE(5, linear, awq_linear_destroy);
}

static void finish(struct machine *machine)
{
    for (size_t i = 0; i < SLOTS; i++) {
        awq_context_destroy(machine->context[i]);
        awq_linear_destroy(machine->linear[i]);
        awq_weight_destroy(machine->weight[i]);
        awq_calibration_destroy(machine->calibration[i]);
        awq_search_destroy(machine->search[i]);
        awq_packed_destroy(machine->packed[i]);
    }
    fuzz_unguard(machine->arena, ARENA);
    fuzz_unguard(machine->constant, ARENA);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const steps[])(struct machine *) = {
        step_context,    step_calibration, step_observe, step_merge,      step_statistics, step_quantize, step_weight_create,
        step_weight_read, step_slice,      step_concatenate, step_search, step_search_run, step_clip,     step_fold,
        step_pack,       step_unpack,      step_linear,  step_run,        step_copy,       step_memory,   step_fill,
        step_destroy,
    };
    struct machine machine = {.input = {data, data + size}};
    machine.arena = fuzz_guard(NULL, ARENA);
    machine.constant = fuzz_guard(NULL, ARENA);
    for (size_t i = 0; i < ARENA / sizeof(float); i++) {
        float value = (float)(i % 5 + 1) / 4;
        memcpy(machine.constant + i * sizeof value, &value, sizeof value);
        memcpy(machine.arena + i * sizeof value, &value, sizeof value);
    }
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 1;
    options.memory_limit_bytes = 16 << 20; /* libFuzzer takes a request for terabytes for a fault, even if it is refused */
    fuzz_assert(awq_context_create(&options, &machine.context[0]) == AWQ_OK);
    for (int i = 0; i < MOST_STEPS && machine.input.at < machine.input.end; i++)
        steps[fuzz_take(&machine.input, 1) % (sizeof steps / sizeof *steps)](&machine);
    finish(&machine);
    return 0;
}
