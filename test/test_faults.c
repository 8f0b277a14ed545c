/* Every call of the system that an operation makes fails once: nothing crashes, leaks or is half done, and the status says what
 * gave out.  What the operations compute, where nothing failed or what did could be done without, is compared with a run before. */
#include "faults.h"
#include "support.h"

#include <stdatomic.h>

enum { N = 64, K = 128, ROWS = 24 };

static float weights[N * K], activations[ROWS * K];
static const char *path; /* of what the operation writes or reads */
static struct fault_walk total;

static int fill(void **state)
{
    uint64_t seed = 700;
    (void)state;
    for (int64_t i = 0; i < N * K; i++) weights[i] = random_normal(&seed);
    for (int64_t i = 0; i < ROWS * K; i++) activations[i] = random_normal(&seed);
    faults_cover_json();
    return 0;
}

/* Contexts are made by each operation with the C library's allocator, so that every allocation is in reach. */
static awq_status create_context(int32_t threads, awq_context **context)
{
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = threads;
    awq_status status = awq_context_create(&options, context);
    if (status != AWQ_OK) assert_null(*context);
    return status;
}

static void walk(struct scratch *scratch, const char *name, faulty_operation operation, fault_check after)
{
    struct fault_walk found = walk_faults(scratch, operation, after);
    print_message("%s: %lld calls failed in turn, %lld of them could be done without\n", name, (long long)found.injected,
                  (long long)found.survived);
    assert_true(found.injected > found.survived);
    total.injected += found.injected;
    total.survived += found.survived;
}

/* ---- context */

static void count_task(void *user_data, int64_t index)
{
    atomic_int *counts = user_data;
    atomic_fetch_add(&counts[index], 1);
}

static awq_status run_tasks(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    atomic_int counts[100] = {0};
    awq_status status = create_context(3, &context);
    if (status == AWQ_OK) status = awq_context_parallel_for(context, 100, count_task, counts);
    for (int i = 0; status == AWQ_OK && i < 100; i++) assert_int_equal(counts[i], 1);
    awq_context_destroy(context);
    return status;
}

static awq_status open_cuda(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_type = AWQ_DEVICE_CUDA;
    awq_status status = awq_context_create(&options, &context);
    assert_null(context);
    assert_int_equal(status, AWQ_ERROR_NO_DEVICE);
    return AWQ_OK;
}

static void contexts(void **state)
{
    walk(*state, "a context and its threads", run_tasks, NULL);
    setenv("AWQ_CUDA_BACKEND", "/nonexistent.so", 1);
    for (int64_t target = 0; target == 0 || faults.fired != FAULT_NONE; target++)
        assert_status(run_with_fault(*state, open_cuda, FAULT_NONE, target), AWQ_OK);
    unsetenv("AWQ_CUDA_BACKEND");
}

/* ---- weights */

static float reference[N * K];
static bool have_reference;

/* The numbers are those of the first run that went well, to the bit. */
static void compare(const float *values, size_t count)
{
    if (!have_reference) memcpy(reference, values, count * sizeof *values);
    have_reference = true;
    assert_memory_equal(values, reference, count * sizeof *values);
}

static awq_status quantize_in(awq_context *context, awq_weight **weight)
{
    awq_tensor w;
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 32;
    options.salient_fraction = 0.02;
    options.salient_rule = AWQ_SALIENT_BY_WEIGHT;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_status status = awq_quantize(context, &w, NULL, &options, weight);
    assert_true((status == AWQ_OK) == (*weight != NULL));
    return status;
}

/* A call that fails leaves its output as it was. */
static void assert_untouched(awq_status status, const float *values, size_t count)
{
    for (size_t i = 0; status != AWQ_OK && i < count; i++) assert_true(values[i] == 12345.0f);
}

static awq_status quantize_and_dequantize(struct scratch *scratch)
{
    (void)scratch;
    static float values[N * K];
    awq_context *context;
    awq_weight *weight = NULL, *slices[2] = {0}, *whole = NULL;
    awq_tensor out;
    for (int i = 0; i < N * K; i++) values[i] = 12345.0f;
    awq_tensor_init_2d(&out, values, AWQ_F32, N, K);
    awq_status status = create_context(2, &context);
    if (status == AWQ_OK) status = quantize_in(context, &weight);
    if (status == AWQ_OK) status = awq_weight_slice(weight, AWQ_SLICE_ROWS, 0, N / 2, &slices[0]);
    if (status == AWQ_OK) status = awq_weight_slice(weight, AWQ_SLICE_ROWS, N / 2, N, &slices[1]);
    if (status == AWQ_OK) status = awq_weight_concatenate(2, (const awq_weight *const *)slices, &whole);
    if (status == AWQ_OK) {
        status = awq_weight_dequantize(whole, 0, &out);
        assert_untouched(status, values, N * K);
    }
    if (status == AWQ_OK) compare(values, N * K);
    awq_weight_destroy(whole);
    awq_weight_destroy(slices[0]);
    awq_weight_destroy(slices[1]);
    awq_weight_destroy(weight);
    awq_context_destroy(context);
    return status;
}

static void quantization(void **state)
{
    have_reference = false;
    walk(*state, "quantise, slice, concatenate, dequantise", quantize_and_dequantize, NULL);
}

static awq_status pack_and_unpack(awq_context *context, const awq_weight *weight, int32_t layout)
{
    awq_packed *packed;
    awq_weight *again;
    const char *names[8];
    awq_tensor views[8];
    const awq_tensor *pointers[8];
    awq_status status = awq_pack(context, weight, layout, &packed);
    assert_true((status == AWQ_OK) == (packed != NULL));
    if (status != AWQ_OK) return status;
    size_t count = awq_packed_plane_count(packed);
    for (size_t i = 0; i < count; i++) {
        assert_status(awq_packed_get_plane(packed, i, &names[i], &views[i]), AWQ_OK);
        pointers[i] = &views[i];
    }
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 64;
    status = awq_unpack(context, layout, count, names, pointers, &options, &again);
    assert_true((status == AWQ_OK) == (again != NULL));
    awq_weight_destroy(again);
    awq_packed_destroy(packed);
    return status;
}

static awq_status convert_all(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_weight *weight = NULL;
    awq_tensor w;
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 64;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = awq_quantize(context, &w, NULL, &options, &weight);
    for (int32_t layout = AWQ_LAYOUT_GEMM; status == AWQ_OK && layout <= AWQ_LAYOUT_LLM_AWQ; layout++) {
        status = pack_and_unpack(context, weight, layout);
        /* GPTQ's first format cannot hold a zero point of 0. */
        if (layout == AWQ_LAYOUT_GPTQ_V1 && status == AWQ_ERROR_UNSUPPORTED) status = AWQ_OK;
    }
    awq_weight_destroy(weight);
    awq_context_destroy(context);
    return status;
}

static void layouts(void **state)
{
    walk(*state, "every layout, packed and unpacked", convert_all, NULL);
}

static awq_status create_and_run(struct scratch *scratch)
{
    (void)scratch;
    float y[ROWS * N], bias[N] = {1};
    awq_context *context;
    awq_weight *weight = NULL;
    awq_linear *linear = NULL;
    awq_tensor x, out, bias_view;
    awq_linear_options options;
    for (int i = 0; i < ROWS * N; i++) y[i] = 12345.0f;
    awq_struct_init(&options, sizeof options);
    options.bias = &bias_view;
    awq_tensor_init_const_1d(&bias_view, bias, AWQ_F32, N);
    awq_tensor_init_const_2d(&x, activations, AWQ_F32, ROWS, K);
    awq_tensor_init_2d(&out, y, AWQ_F32, ROWS, N);
    awq_status status = create_context(2, &context);
    if (status == AWQ_OK) status = quantize_in(context, &weight);
    if (status == AWQ_OK) status = awq_linear_create(context, weight, &options, &linear);
    if (status == AWQ_OK) {
        status = awq_linear_run(linear, &x, &out, NULL);
        assert_untouched(status, y, ROWS * N);
    }
    if (status == AWQ_OK) compare(y, ROWS * N);
    awq_linear_destroy(linear);
    awq_weight_destroy(weight);
    awq_context_destroy(context);
    return status;
}

static void linears(void **state)
{
    have_reference = false;
    walk(*state, "a linear, made and run", create_and_run, NULL);
}

/* ---- calibration and search */

static awq_status observe(awq_context *context, awq_calibration **calibration)
{
    awq_tensor x;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_CALIBRATION_GRAM;
    options.sample_rows = 16;
    awq_tensor_init_const_2d(&x, activations, AWQ_F32, ROWS, K);
    awq_status status = awq_calibration_create(context, K, &options, calibration);
    assert_true((status == AWQ_OK) == (*calibration != NULL));
    if (status == AWQ_OK) status = awq_calibration_observe(*calibration, &x);
    return status;
}

static awq_status search_and_clip(struct scratch *scratch)
{
    (void)scratch;
    float scales[K], limits[N * 4];
    awq_context *context;
    awq_calibration *calibration = NULL;
    awq_search *search = NULL;
    awq_tensor w, limit_view;
    awq_search_options options;
    awq_clip_options clip;
    awq_quantize_options quantizer;
    awq_struct_init(&options, sizeof options);
    awq_struct_init(&clip, sizeof clip);
    awq_struct_init(&quantizer, sizeof quantizer);
    quantizer.group_size = 32;
    options.quantize = &quantizer;
    options.grid_points = clip.grid_points = 4;
    for (int i = 0; i < K; i++) scales[i] = 12345.0f;
    for (int i = 0; i < N * 4; i++) limits[i] = 12345.0f;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_tensor_init_2d(&limit_view, limits, AWQ_F32, N, 4);
    awq_status status = create_context(2, &context);
    if (status == AWQ_OK) status = observe(context, &calibration);
    if (status == AWQ_OK) status = awq_search_create(context, calibration, &options, &search);
    if (status == AWQ_OK) status = awq_search_add_weight(search, &w);
    if (status == AWQ_OK) status = awq_search_run(search);
    if (status == AWQ_OK) {
        status = awq_clip_search(context, &w, calibration, search, &clip, &limit_view, NULL);
        assert_untouched(status, limits, N * 4);
    }
    if (status == AWQ_OK) status = awq_search_get_scales(search, scales, K);
    if (status == AWQ_OK) compare(scales, K);
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    awq_context_destroy(context);
    return status;
}

static void search(void **state)
{
    have_reference = false;
    walk(*state, "calibrate, search, clip", search_and_clip, NULL);
}

/* ---- files */

static char *old_bytes;
static size_t old_size;

/* A file is what it was, or what it was to become; nothing lies beside it. */
static void assert_old_or_new(struct scratch *scratch, awq_status status)
{
    size_t size;
    static char *new_bytes;
    static size_t new_size;
    char *now = scratch_read(path, &size);
    bool old = size == old_size && memcmp(now, old_bytes, size) == 0;
    if (!old && new_bytes == NULL) {
        new_bytes = now;
        new_size = size;
        now = NULL;
    } else if (!old) {
        assert_int_equal(size, new_size);
        assert_memory_equal(now, new_bytes, size);
    }
    assert_true(status != AWQ_OK || !old);
    assert_int_equal(scratch_count(scratch->directory), 1);
    free(now);
    scratch_write(path, old_bytes, old_size); /* for the next */
}

static awq_status save_archive(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_calibration *calibration = NULL;
    awq_archive_writer *writer = NULL;
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = observe(context, &calibration);
    if (status == AWQ_OK) status = awq_archive_writer_create(context, path, "where it came from", &writer);
    if (status == AWQ_OK) status = awq_archive_writer_add(writer, "a", calibration);
    if (status == AWQ_OK) status = awq_archive_writer_add(writer, "b", calibration);
    if (status == AWQ_OK) status = awq_archive_writer_commit(writer);
    awq_archive_writer_destroy(writer);
    awq_calibration_destroy(calibration);
    awq_context_destroy(context);
    return status;
}

static awq_status load_archive(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_archive *archive = NULL;
    awq_calibration *calibration = NULL;
    double values[K];
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = awq_archive_open(context, path, &archive);
    if (status == AWQ_OK) status = awq_archive_load(archive, "b", &calibration);
    if (status == AWQ_OK) status = awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MAX_ABS, values, K);
    if (status == AWQ_OK) {
        for (int64_t i = 0; i < K; i++) assert_true(values[i] > 0);
    }
    awq_calibration_destroy(calibration);
    awq_archive_destroy(archive);
    awq_context_destroy(context);
    return status;
}

static void archives(void **state)
{
    struct scratch *scratch = *state;
    path = scratch_path(scratch, "archive");
    old_bytes = (char *)"what was there before";
    old_size = strlen(old_bytes);
    scratch_write(path, old_bytes, old_size);
    walk(scratch, "save an archive", save_archive, assert_old_or_new);
    assert_status(save_archive(scratch), AWQ_OK);
    walk(scratch, "load an archive", load_archive, NULL);
}

static awq_status write_checkpoint(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_checkpoint_writer *writer = NULL;
    awq_checkpoint_writer_options options;
    awq_tensor w, column;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    options.shard_bytes = sizeof weights; /* a second tensor needs a second shard */
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_tensor_init_const_1d(&column, weights, AWQ_F32, N);
    column.strides[0] = K;
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = awq_checkpoint_writer_create(context, path, &options, &writer);
    if (status == AWQ_OK) status = awq_checkpoint_writer_add(writer, "w", &w);
    if (status == AWQ_OK) status = awq_checkpoint_writer_add(writer, "column", &column);
    if (status == AWQ_OK) status = awq_checkpoint_writer_add_file(writer, "config.json", "{}", 2);
    if (status == AWQ_OK) status = awq_checkpoint_writer_commit(writer);
    awq_checkpoint_writer_destroy(writer);
    awq_context_destroy(context);
    return status;
}

static void write_former(void)
{
    char name[PATH_MAX];
    assert_int_equal(mkdir(path, 0777), 0);
    snprintf(name, sizeof name, "%s/old.safetensors", path);
    scratch_write(name, "former", 6);
}

static void remove_all(const char *directory)
{
    nftw(directory, scratch_remove, 16, FTW_DEPTH | FTW_PHYS);
}

/* The directory holds all of the former model or all of the new one. */
static void assert_former_or_new(struct scratch *scratch, awq_status status)
{
    char name[PATH_MAX];
    static const char *const parts[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                        "model.safetensors.index.json", "config.json"};
    snprintf(name, sizeof name, "%s/old.safetensors", path);
    bool former = scratch_exists(name);
    if (former) {
        assert_int_equal(scratch_count(path), 1);
    } else {
        assert_int_equal(scratch_count(path), 4);
        awq_checkpoint *checkpoint;
        awq_tensor view;
        assert_status(awq_checkpoint_open(scratch->context, path, &checkpoint), AWQ_OK);
        assert_int_equal(awq_checkpoint_count(checkpoint), 2);
        assert_status(awq_checkpoint_get(checkpoint, "w", &view), AWQ_OK);
        assert_memory_equal(view.data, weights, sizeof weights);
        awq_checkpoint_destroy(checkpoint);
    }
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        snprintf(name, sizeof name, "%s/%s", path, parts[i]);
        assert_int_equal(scratch_exists(name), !former);
    }
    assert_true(status != AWQ_OK || !former);
    /* What could not be deleted was announced: by an error that names it, or by a warning where only cleaning up failed. */
    bool cleaning = faults.fired == FAULT_OPTIONAL;
    if (scratch_count(scratch->directory) != 1 && !cleaning) assert_error_names("the former directory is now");
    remove_all(scratch->directory);
    assert_int_equal(mkdir(scratch->directory, 0777), 0);
    write_former();
}

static awq_status read_checkpoint(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_checkpoint *checkpoint = NULL;
    awq_tensor view;
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = awq_checkpoint_open(context, path, &checkpoint);
    assert_true(status == AWQ_OK || checkpoint == NULL);
    if (status == AWQ_OK) status = awq_checkpoint_get(checkpoint, "w", &view);
    if (status == AWQ_OK) {
        assert_memory_equal(view.data, weights, sizeof weights);
        status = awq_checkpoint_release(checkpoint, "w");
    }
    awq_checkpoint_destroy(checkpoint);
    awq_context_destroy(context);
    return status;
}

static void checkpoints(void **state)
{
    struct scratch *scratch = *state;
    path = scratch_path(scratch, "model");
    write_former();
    walk(scratch, "replace a checkpoint", write_checkpoint, assert_former_or_new);
    assert_status(write_checkpoint(scratch), AWQ_OK);
    walk(scratch, "read a checkpoint", read_checkpoint, NULL);
    char index[PATH_MAX];
    snprintf(index, sizeof index, "%s/model.safetensors.index.json", path);
    assert_int_equal(unlink(index), 0);
    walk(scratch, "read a checkpoint without an index", read_checkpoint, NULL);
}

static awq_status save_tuning(struct scratch *scratch)
{
    (void)scratch;
    awq_context *context;
    awq_weight *weight = NULL;
    awq_tuning *tuning = NULL;
    awq_status status = create_context(1, &context);
    if (status == AWQ_OK) status = quantize_in(context, &weight);
    if (status == AWQ_OK) status = awq_tuning_measure(context, 1, (const awq_weight *const[]){weight}, 1, &tuning);
    if (status == AWQ_OK) status = awq_tuning_save(tuning, path);
    awq_tuning_destroy(tuning);
    tuning = NULL;
    if (status == AWQ_OK) status = awq_tuning_load(context, path, &tuning);
    awq_tuning_destroy(tuning);
    awq_weight_destroy(weight);
    awq_context_destroy(context);
    return status;
}

static void tunings(void **state)
{
    path = scratch_path(*state, "tuning");
    walk(*state, "measure, save and load a tuning", save_tuning, NULL);
    print_message("%lld calls failed in all, %lld of them could be done without\n", (long long)total.injected,
                  (long long)total.survived);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(contexts),  SCRATCH_TEST(quantization), SCRATCH_TEST(layouts),     SCRATCH_TEST(linears),
        SCRATCH_TEST(search),    SCRATCH_TEST(archives),     SCRATCH_TEST(checkpoints), SCRATCH_TEST(tunings),
    };
    return cmocka_run_group_tests_name("faults", tests, fill, NULL);
}
