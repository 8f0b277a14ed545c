/* Tunings: measured, saved, loaded, used, and refused where they do not belong. */
#include "scratch.h"
#include "tuning.h"

enum { N = 64, K = 96, MAX_ROWS = 16 };

static awq_weight *weight_of(awq_context *context, int64_t n, int64_t k, int32_t bits)
{
    float *w = calloc((size_t)(n * k), sizeof *w);
    for (int64_t i = 0; i < n * k; i++) w[i] = (float)(i % 13) - 6.0f;
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, n, k);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = 32;
    awq_weight *weight;
    assert_status(awq_quantize(context, &view, NULL, &options, &weight), AWQ_OK);
    free(w);
    return weight;
}

static awq_tuning *measured(awq_context *context)
{
    awq_weight *weight = weight_of(context, N, K, 4);
    awq_tuning *tuning;
    assert_status(awq_tuning_measure(context, 1, (const awq_weight *const[]){weight}, MAX_ROWS, &tuning), AWQ_OK);
    awq_weight_destroy(weight);
    return tuning;
}

static void every_batch_size_gets_a_kernel(void **state)
{
    struct scratch *scratch = *state;
    awq_weight *a = weight_of(scratch->context, N, K, 4), *b = weight_of(scratch->context, N, K, 4),
               *c = weight_of(scratch->context, N, K, 3);
    awq_tuning *tuning;
    assert_status(awq_tuning_measure(scratch->context, 3, (const awq_weight *const[]){a, b, c}, 20, &tuning), AWQ_OK);
    assert_int_equal(tuning->count, 2); /* equal weights are measured once */
    assert_int_equal(tuning->classes, 5); /* 1, 2, 4, 8, 16 */
    awq_kernel_request request;
    awq_struct_init(&request, sizeof request);
    request.n = N;
    request.k = K;
    request.group_size = 32;
    for (request.bits = 3; request.bits <= 4; request.bits++)
        for (request.rows = 1; request.rows < 100; request.rows++) {
            int32_t kernel = awqi_tuning_lookup(tuning, &request);
            assert_true(kernel == AWQ_KERNEL_GEMV || kernel == AWQ_KERNEL_GEMM);
        }
    request.bits = 8;
    assert_int_equal(awqi_tuning_lookup(tuning, &request), AWQ_KERNEL_AUTO);
    assert_int_equal(awqi_tuning_lookup(NULL, &request), AWQ_KERNEL_AUTO);
    awq_weight_destroy(a);
    awq_weight_destroy(b);
    awq_weight_destroy(c);
    awq_tuning_destroy(tuning);
    awq_tuning_destroy(NULL);
}

static void lookup_takes_the_next_measured_batch(void **state)
{
    (void)state;
    struct awqi_tuning_entry entry = {.n = 8, .k = 8, .group_size = 8, .bits = 4, .kernels = {10, 11, 12, 13}};
    awq_tuning tuning = {.classes = 4, .count = 1, .entries = &entry};
    awq_kernel_request request;
    awq_struct_init(&request, sizeof request);
    request.n = request.k = request.group_size = 8;
    request.bits = 4;
    static const int32_t expected[][2] = {{1, 10}, {2, 11}, {3, 12}, {4, 12}, {5, 13}, {8, 13}, {9, 13}, {5000, 13}};
    for (size_t i = 0; i < 8; i++) {
        request.rows = expected[i][0];
        assert_int_equal(awqi_tuning_lookup(&tuning, &request), expected[i][1]);
    }
    request.flags = AWQ_QUANTIZE_SYMMETRIC;
    assert_int_equal(awqi_tuning_lookup(&tuning, &request), AWQ_KERNEL_AUTO);
}

static void what_is_saved_comes_back(void **state)
{
    struct scratch *scratch = *state;
    awq_tuning *tuning = measured(scratch->context), *loaded;
    const char *path = scratch_path(scratch, "tuning.json");
    assert_status(awq_tuning_save(tuning, path), AWQ_OK);
    assert_int_equal(scratch_count(scratch->directory), 1);
    assert_status(awq_tuning_load(scratch->context, path, &loaded), AWQ_OK);
    assert_string_equal(loaded->device, tuning->device);
    assert_int_equal(loaded->cpu_features, tuning->cpu_features);
    assert_int_equal(loaded->kernel_table, tuning->kernel_table);
    assert_int_equal(loaded->device_type, tuning->device_type);
    assert_int_equal(loaded->classes, tuning->classes);
    assert_int_equal(loaded->count, tuning->count);
    const struct awqi_tuning_entry *a = loaded->entries, *b = tuning->entries;
    assert_true(a->n == b->n && a->k == b->k && a->group_size == b->group_size);
    assert_true(a->bits == b->bits && a->symmetric == b->symmetric);
    assert_memory_equal(a->kernels, b->kernels, sizeof a->kernels);
    awq_tuning_destroy(loaded);
    awq_tuning_destroy(tuning);
}

static void a_linear_follows_its_tuning(void **state)
{
    struct scratch *scratch = *state;
    awq_tuning *tuning = measured(scratch->context);
    /* Not what the built-in table would take. */
    for (int i = 0; i < tuning->classes; i++)
        tuning->entries[0].kernels[i] = i == 0 ? AWQ_KERNEL_GEMM : AWQ_KERNEL_GEMV;
    awq_weight *weight = weight_of(scratch->context, N, K, 4);
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.tuning = tuning;
    awq_linear *tuned, *plain;
    assert_status(awq_linear_create(scratch->context, weight, &options, &tuned), AWQ_OK);
    assert_status(awq_linear_create(scratch->context, weight, NULL, &plain), AWQ_OK);
    awq_weight_destroy(weight);
    awq_tuning_destroy(tuning); /* the linear keeps it */
    char text[1024];
    assert_status(awq_linear_describe(tuned, 1, text, sizeof text, NULL), AWQ_OK);
    assert_non_null(strstr(text, "gemm: taken: measured"));
    assert_status(awq_linear_describe(tuned, 64, text, sizeof text, NULL), AWQ_OK);
    assert_non_null(strstr(text, "gemv: taken: measured"));

    float x[20 * K], y[20 * N], expected[20 * N];
    for (int i = 0; i < 20 * K; i++) x[i] = (float)(i % 5) - 2.0f;
    for (int64_t rows = 1; rows <= 20; rows += 19) {
        awq_tensor x_view, y_view, expected_view;
        awq_tensor_init_const_2d(&x_view, x, AWQ_F32, rows, K);
        awq_tensor_init_2d(&y_view, y, AWQ_F32, rows, N);
        awq_tensor_init_2d(&expected_view, expected, AWQ_F32, rows, N);
        assert_status(awq_linear_run(tuned, &x_view, &y_view, NULL), AWQ_OK);
        assert_status(awq_linear_run(plain, &x_view, &expected_view, NULL), AWQ_OK);
        for (int64_t i = 0; i < rows * N; i++) assert_float_equal(y[i], expected[i], 1e-3f);
    }
    awq_linear_destroy(tuned);
    awq_linear_destroy(plain);
}

static void foreign_tunings_are_refused(void **state)
{
    struct scratch *scratch = *state;
    awq_tuning *tuning = measured(scratch->context);
    awq_weight *weight = weight_of(scratch->context, N, K, 4);
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.tuning = tuning;
    awq_linear *linear = NULL;
    tuning->kernel_table++;
    assert_status(awq_linear_create(scratch->context, weight, &options, &linear), AWQ_ERROR_VERSION);
    assert_error_names("version");
    tuning->kernel_table--;
    tuning->cpu_features ^= AWQ_CPU_NEON;
    assert_status(awq_linear_create(scratch->context, weight, &options, &linear), AWQ_ERROR_VERSION);
    assert_error_names("features");
    tuning->cpu_features ^= AWQ_CPU_NEON;
    tuning->device[0]++;
    assert_status(awq_linear_create(scratch->context, weight, &options, &linear), AWQ_ERROR_VERSION);
    assert_error_names("device");
    assert_null(linear);
    awq_weight_destroy(weight);
    awq_tuning_destroy(tuning);
}

static void measuring_refuses_bad_arguments(void **state)
{
    struct scratch *scratch = *state;
    awq_weight *weight = weight_of(scratch->context, N, K, 4);
    const awq_weight *const weights[] = {weight, NULL};
    awq_tuning *tuning = (void *)1;
    assert_status(awq_tuning_measure(NULL, 1, weights, 0, &tuning), AWQ_ERROR_INVALID);
    assert_null(tuning);
    assert_status(awq_tuning_measure(scratch->context, 1, NULL, 0, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_measure(scratch->context, 0, weights, 0, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_measure(scratch->context, 2, weights, 0, &tuning), AWQ_ERROR_INVALID);
    assert_error_names("weights[1]");
    assert_status(awq_tuning_measure(scratch->context, 1, weights, -1, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_measure(scratch->context, 1, weights, 65537, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_measure(scratch->context, 1, weights, 0, NULL), AWQ_ERROR_INVALID);
    int64_t allowed = 0;
    for (awq_status status = AWQ_ERROR_OUT_OF_MEMORY; status != AWQ_OK; allowed++) {
        scratch->allocations_left = allowed;
        status = awq_tuning_measure(scratch->context, 1, weights, 1, &tuning);
        assert_true(status == AWQ_OK || (status == AWQ_ERROR_OUT_OF_MEMORY && tuning == NULL));
    }
    scratch->allocations_left = -1;
    awq_tuning_destroy(tuning);
    awq_weight_destroy(weight);
}

#define HEAD                                                                                                           \
    "{\"awq_tuning\": 1, \"device\": {\"type\": 0, \"name\": \"a\", \"cpu_features\": 0}, \"kernel_table\": 1,"
#define WEIGHT "{\"n\": 1, \"k\": 1, \"bits\": 4, \"group_size\": 1, \"symmetric\": false,"

static void damaged_files_are_refused(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        const char *text;
        awq_status status;
        const char *names;
    } files[] = {
        {"", AWQ_ERROR_FORMAT, "JSON"},
        {"{", AWQ_ERROR_FORMAT, "JSON, byte"},
        {"[]", AWQ_ERROR_FORMAT, "not an object"},
        {"{\"awq_tuning\": \"1\"}", AWQ_ERROR_FORMAT, "awq_tuning"},
        {"{\"awq_tuning\": 9}", AWQ_ERROR_VERSION, "version 9"},
        {"{\"awq_tuning\": 1, \"awq_tuning\": 1}", AWQ_ERROR_FORMAT, "JSON"},
        {"{\"awq_tuning\": 1}", AWQ_ERROR_FORMAT, "device"},
        {HEAD "\"batch_sizes\": [], \"weights\": []}", AWQ_ERROR_FORMAT, "batch_sizes"},
        {HEAD "\"batch_sizes\": [1, 3], \"weights\": []}", AWQ_ERROR_FORMAT, "batch_sizes"},
        {HEAD "\"batch_sizes\": [1], \"weights\": {}}", AWQ_ERROR_FORMAT, "weights"},
        {HEAD "\"batch_sizes\": [1], \"weights\": [{\"n\": 1}]}", AWQ_ERROR_FORMAT, "weight 0"},
        {HEAD "\"batch_sizes\": [1], \"weights\": [" WEIGHT "\"kernels\": [\"gemv\", \"gemv\"]}]}", AWQ_ERROR_FORMAT,
         "2 kernels"},
        {HEAD "\"batch_sizes\": [1], \"weights\": [" WEIGHT "\"kernels\": [\"abacus\"]}]}", AWQ_ERROR_FORMAT, "abacus"},
        {HEAD "\"batch_sizes\": [1], \"weights\": [" WEIGHT "\"kernels\": [7]}]}", AWQ_ERROR_FORMAT, "weight 0"},
    };
    const char *path = scratch_path(scratch, "tuning.json");
    awq_tuning *tuning = NULL;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        scratch_write(path, files[i].text, strlen(files[i].text));
        assert_status(awq_tuning_load(scratch->context, path, &tuning), files[i].status);
        assert_error_names(files[i].names);
        assert_error_names("tuning.json");
        assert_null(tuning);
    }
    assert_status(awq_tuning_load(scratch->context, scratch_path(scratch, "nothing"), &tuning), AWQ_ERROR_NOT_FOUND);
    assert_status(awq_tuning_load(NULL, path, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_load(scratch->context, NULL, &tuning), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_load(scratch->context, path, NULL), AWQ_ERROR_INVALID);
}

static void saving_fails_cleanly(void **state)
{
    struct scratch *scratch = *state;
    awq_tuning *tuning = measured(scratch->context);
    assert_status(awq_tuning_save(tuning, scratch_path(scratch, "no/such/directory")), AWQ_ERROR_IO);
    assert_status(awq_tuning_save(NULL, "x"), AWQ_ERROR_INVALID);
    assert_status(awq_tuning_save(tuning, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(scratch_count(scratch->directory), 0);
    awq_tuning_destroy(tuning);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(every_batch_size_gets_a_kernel),
        SCRATCH_TEST(lookup_takes_the_next_measured_batch),
        SCRATCH_TEST(what_is_saved_comes_back),
        SCRATCH_TEST(a_linear_follows_its_tuning),
        SCRATCH_TEST(foreign_tunings_are_refused),
        SCRATCH_TEST(measuring_refuses_bad_arguments),
        SCRATCH_TEST(damaged_files_are_refused),
        SCRATCH_TEST(saving_fails_cleanly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
