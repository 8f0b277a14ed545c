/* Measuring a tuning: every kernel that takes a weight, for every batch size, on the device itself. */
#include "backend.h"

#include <time.h>

enum { DEFAULT_MAX_ROWS = 512 };

/* ---- one kernel at one batch size */

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* What the runs of one weight share: activations and outputs of the largest batch, and a workspace for any kernel. */
struct bench {
    awq_context *context;
    void *x, *y, *workspace;
    uint64_t workspace_bytes;
    int64_t inputs, outputs;
};

static awq_status run_once(const struct bench *bench, const awq_linear *linear, int64_t rows, double *elapsed)
{
    awq_tensor x, y;
    awq_tensor_init_2d(&x, bench->x, AWQ_F16, rows, bench->inputs);
    awq_tensor_init_2d(&y, bench->y, AWQ_F16, rows, bench->outputs);
    x.device_type = y.device_type = awqi_context_device_type(bench->context);
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.workspace = bench->workspace;
    options.workspace_bytes = bench->workspace_bytes;
    double begin = seconds();
    awq_status status = awq_linear_run(linear, &x, &y, &options);
    if (status == AWQ_OK) status = awq_context_synchronize(bench->context, NULL);
    *elapsed = seconds() - begin;
    return status;
}

/* The shortest of several runs, for an interruption can only add time; not the first, which faults pages in. */
static awq_status time_kernel(const struct bench *bench, const awq_linear *linear, int64_t rows, double *shortest)
{
    enum { LEAST_RUNS = 3 };
    const double enough = 0.01; /* seconds, after which more runs add little */
    double elapsed;
    awq_status status = run_once(bench, linear, rows, &elapsed);
    double spent = 0.0;
    for (int run = 0; status == AWQ_OK && (run < LEAST_RUNS || spent < enough); run++) {
        status = run_once(bench, linear, rows, &elapsed);
        if (run == 0 || elapsed < *shortest) *shortest = elapsed;
        spent += elapsed;
    }
    return status;
}

/* ---- one weight */

static void bench_close(struct bench *bench)
{
    awq_context_free(bench->context, bench->x);
    awq_context_free(bench->context, bench->y);
    awq_context_free(bench->context, bench->workspace);
}

static awq_status bench_open(awq_context *context, const awq_linear *linear, int64_t max_rows, struct bench *bench)
{
    awq_linear_info info;
    awq_struct_init(&info, sizeof info);
    (void)awq_linear_get_info(linear, &info);
    *bench = (struct bench){.context = context, .inputs = info.inputs, .outputs = info.outputs};
    bench->workspace_bytes = awq_linear_workspace_size(linear, max_rows);
    uint64_t row_bytes = (uint64_t)max_rows * awq_dtype_size(AWQ_F16);
    awq_status status = awq_context_allocate(context, row_bytes * (uint64_t)info.inputs, &bench->x);
    if (status == AWQ_OK) status = awq_context_allocate(context, row_bytes * (uint64_t)info.outputs, &bench->y);
    if (status == AWQ_OK && bench->workspace_bytes > 0)
        status = awq_context_allocate(context, bench->workspace_bytes, &bench->workspace);
    if (status != AWQ_OK) return status;
    /* Ones everywhere: one element seen through strides of zero. */
    static const float one = 1.0f;
    awq_tensor ones, x;
    awq_tensor_init_const_2d(&ones, &one, AWQ_F32, max_rows, info.inputs);
    ones.strides[0] = ones.strides[1] = 0;
    awq_tensor_init_2d(&x, bench->x, AWQ_F16, max_rows, info.inputs);
    x.device_type = awqi_context_device_type(context);
    return awq_tensor_copy(context, &ones, &x, NULL);
}

/* Time 'kernel' for all batch sizes and enter it where it beats 'best'.  One that cannot take the weight is no error. */
static awq_status measure_kernel(awq_context *context, const awq_weight *weight, int32_t kernel, int32_t classes,
                                 double *best, struct awqi_tuning_entry *entry)
{
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.kernel = kernel;
    awq_linear *linear;
    awq_status status = awq_linear_create(context, weight, &options, &linear);
    if (status == AWQ_ERROR_UNSUPPORTED) return AWQ_OK;
    if (status != AWQ_OK) return status;
    struct bench bench;
    status = bench_open(context, linear, (int64_t)1 << (classes - 1), &bench);
    for (int32_t i = 0; i < classes && status == AWQ_OK; i++) {
        double shortest = 0.0;
        status = time_kernel(&bench, linear, (int64_t)1 << i, &shortest);
        if (status != AWQ_OK || (entry->kernels[i] != AWQ_KERNEL_AUTO && shortest >= best[i])) continue;
        best[i] = shortest;
        entry->kernels[i] = kernel;
    }
    bench_close(&bench);
    awq_linear_destroy(linear);
    return status;
}

static awq_status measure_weight(awq_context *context, const awq_weight *weight, int32_t classes,
                                 struct awqi_tuning_entry *entry)
{
    double best[AWQI_TUNING_CLASSES] = {0};
    awq_status status = AWQ_OK;
    /* Not the reference, which is there to be right. */
    for (int32_t kernel = AWQ_KERNEL_GEMV; status == AWQ_OK && awq_kernel_name(kernel) != NULL; kernel++)
        status = measure_kernel(context, weight, kernel, classes, best, entry);
    if (status == AWQ_OK && entry->kernels[0] == AWQ_KERNEL_AUTO)
        status = awqi_fail(AWQ_ERROR_UNSUPPORTED,
                           "awq_tuning_measure: no kernel of this device takes a weight [%lld][%lld]",
                           (long long)weight->n, (long long)weight->k);
    return status;
}

/* ---- all of them */

static awq_status check_arguments(const awq_context *context, size_t count, const awq_weight *const *weights,
                                  int64_t max_rows)
{
    if (context == NULL || weights == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_measure: %s is NULL", context == NULL ? "context" : "weights");
    if (count == 0 || count > INT32_MAX) return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_measure: %zu weights", count);
    for (size_t i = 0; i < count; i++)
        if (weights[i] == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_measure: weights[%zu] is NULL", i);
    int64_t largest = (int64_t)1 << (AWQI_TUNING_CLASSES - 1);
    if (max_rows < 0 || max_rows > largest)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_measure: max_rows is %lld; 0 to %lld are possible",
                         (long long)max_rows, (long long)largest);
    return AWQ_OK;
}

static bool entry_is_for(const struct awqi_tuning_entry *entry, const awq_weight *weight)
{
    return entry->n == weight->n && entry->k == weight->k && entry->group_size == weight->group_size &&
           entry->bits == weight->bits && entry->symmetric == weight->symmetric;
}

static awq_status measure_all(awq_context *context, size_t count, const awq_weight *const *weights, awq_tuning *tuning)
{
    tuning->count = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t known = 0;
        while (known < tuning->count && !entry_is_for(&tuning->entries[known], weights[i])) known++;
        if (known < tuning->count) continue;
        struct awqi_tuning_entry *entry = &tuning->entries[tuning->count++];
        entry->n = weights[i]->n;
        entry->k = weights[i]->k;
        entry->group_size = weights[i]->group_size;
        entry->bits = weights[i]->bits;
        entry->symmetric = weights[i]->symmetric;
        awq_status status = measure_weight(context, weights[i], tuning->classes, entry);
        if (status != AWQ_OK) return status;
    }
    return AWQ_OK;
}

awq_status awq_tuning_measure(awq_context *context, size_t count, const awq_weight *const *weights, int64_t max_rows,
                              awq_tuning **tuning)
{
    if (tuning == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_measure: tuning is NULL");
    *tuning = NULL;
    awq_device_info info;
    awq_tuning *created = NULL;
    awq_status status = check_arguments(context, count, weights, max_rows);
    if (status != AWQ_OK) return status;
    awq_struct_init(&info, sizeof info);
    status = awq_context_get_device(context, &info);
    if (status == AWQ_OK) status = awqi_tuning_create(context, (int64_t)count, &created);
    if (status != AWQ_OK) return status;
    memcpy(created->device, info.name, sizeof created->device);
    created->device_type = info.device_type;
    created->cpu_features = info.cpu_features;
    created->kernel_table = awqi_context_backend(context)->kernels;
    int64_t rows = max_rows != 0 ? max_rows : DEFAULT_MAX_ROWS;
    while (created->classes < AWQI_TUNING_CLASSES && (int64_t)1 << created->classes <= rows) created->classes++;
    status = measure_all(context, count, weights, created);
    if (status == AWQ_OK) *tuning = created;
    else awq_tuning_destroy(created);
    return status;
}
