/* Measuring a tuning: every kernel that takes a weight, for every batch size, on the device itself.
 *
 * With weights from memory: in a model a weight has left the caches when its layer's turn comes again, and a kernel that
 * is best from a cache need not be best from memory.  So each kernel gets several copies, which take turns. */
#include "backend.h"

#include <math.h>

enum { DEFAULT_MAX_ROWS = 512, MOST_COPIES = 32 };

/* ---- one kernel */

/* What its runs share: the copies, activations and outputs of the largest batch, and a workspace. */
struct bench {
    awq_context *context;
    awq_linear *copies[MOST_COPIES];
    int64_t count, next;
    int64_t per_call; /* runs in one call of 'work' */
    void *x, *y, *workspace;
    uint64_t workspace_bytes;
    int64_t inputs, outputs, rows;
};

/* Runs of one batch size, which the device may keep as a graph. */
static awq_status work(void *user_data, void *stream)
{
    struct bench *bench = user_data;
    awq_tensor x, y;
    awq_tensor_init_2d(&x, bench->x, AWQ_F16, bench->rows, bench->inputs);
    awq_tensor_init_2d(&y, bench->y, AWQ_F16, bench->rows, bench->outputs);
    awqi_set_device(bench->context, &x);
    awqi_set_device(bench->context, &y);
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.stream = stream;
    options.workspace = bench->workspace;
    options.workspace_bytes = bench->workspace_bytes;
    awq_status status = AWQ_OK;
    for (int64_t i = 0; i < bench->per_call && status == AWQ_OK; i++)
        status = awq_linear_run(bench->copies[bench->next++ % bench->count], &x, &y, &options);
    return status;
}

/* The shortest of several, for an interruption can only add time.  One that takes 'hopeless' seconds is not repeated. */
static awq_status time_batch(struct bench *bench, int64_t rows, double hopeless, double *shortest)
{
    enum { MOST_RUNS = 50 };
    const double enough = 0.02; /* seconds, after which more runs add little */
    double seconds[MOST_RUNS];
    bench->rows = rows;
    awq_status status = awq_context_time(bench->context, work, bench, 1, shortest);
    if (status == AWQ_OK && *shortest < hopeless * (double)bench->per_call) {
        const double fit = *shortest > 0.0 ? enough / *shortest : MOST_RUNS;
        const int64_t runs = fit < 3.0 ? 3 : fit > MOST_RUNS ? MOST_RUNS : (int64_t)fit;
        status = awq_context_time(bench->context, work, bench, runs, seconds);
        for (int64_t i = 0; i < runs && status == AWQ_OK; i++)
            if (seconds[i] < *shortest) *shortest = seconds[i];
    }
    *shortest /= (double)bench->per_call;
    return status;
}

static void bench_close(struct bench *bench)
{
    for (int64_t i = 0; i < bench->count; i++) awq_linear_destroy(bench->copies[i]);
    awq_context_free(bench->context, bench->x);
    awq_context_free(bench->context, bench->y);
    awq_context_free(bench->context, bench->workspace);
}

/* As many copies as hold twice the last-level cache together. */
static awq_status make_copies(const awq_weight *weight, int32_t kernel, uint64_t cache_bytes, struct bench *bench)
{
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.kernel = kernel;
    int64_t wanted = 1;
    while (bench->count < wanted) {
        awq_linear **copy = &bench->copies[bench->count];
        awq_status status = awq_linear_create(bench->context, weight, &options, copy);
        if (status != AWQ_OK) return status;
        awq_linear_info info;
        awq_struct_init(&info, sizeof info);
        (void)awq_linear_get_info(*copy, &info);
        bench->inputs = info.inputs;
        bench->outputs = info.outputs;
        bench->count++;
        wanted = awqi_min64(MOST_COPIES, (int64_t)(2 * cache_bytes / (info.size_bytes + 1)) + 1);
    }
    return AWQ_OK;
}

static awq_status bench_open(const awq_weight *weight, int32_t kernel, int64_t max_rows, struct bench *bench)
{
    awq_device_info device;
    awq_struct_init(&device, sizeof device);
    awq_status status = awq_context_get_device(bench->context, &device);
    if (status == AWQ_OK) status = make_copies(weight, kernel, device.last_level_cache_bytes, bench);
    if (status != AWQ_OK) return status;
    bench->per_call = device.device_type == AWQ_DEVICE_CUDA ? bench->count : 1;
    bench->workspace_bytes = awq_linear_workspace_size(bench->copies[0], max_rows);
    const uint64_t row_bytes = (uint64_t)max_rows * awq_dtype_size(AWQ_F16);
    status = awq_context_allocate(bench->context, row_bytes * (uint64_t)bench->inputs, &bench->x);
    if (status == AWQ_OK)
        status = awq_context_allocate(bench->context, row_bytes * (uint64_t)bench->outputs, &bench->y);
    if (status == AWQ_OK && bench->workspace_bytes > 0)
        status = awq_context_allocate(bench->context, bench->workspace_bytes, &bench->workspace);
    if (status != AWQ_OK) return status;
    /* Ones everywhere: one element seen through strides of zero. */
    static const float one = 1.0f;
    awq_tensor ones, x;
    awq_tensor_init_const_2d(&ones, &one, AWQ_F32, max_rows, bench->inputs);
    ones.strides[0] = ones.strides[1] = 0;
    awq_tensor_init_2d(&x, bench->x, AWQ_F16, max_rows, bench->inputs);
    awqi_set_device(bench->context, &x);
    return awq_tensor_copy(bench->context, &ones, &x, NULL);
}

/* Time 'kernel' for all batch sizes and enter it where it beats 'best'.  One that cannot take the weight is no error. */
static awq_status measure_kernel(awq_context *context, const awq_weight *weight, int32_t kernel, int32_t classes,
                                 double *best, struct awqi_tuning_entry *entry)
{
    struct bench bench = {.context = context};
    awq_status status = bench_open(weight, kernel, (int64_t)1 << (classes - 1), &bench);
    if (status == AWQ_ERROR_UNSUPPORTED) {
        bench_close(&bench);
        return AWQ_OK;
    }
    for (int32_t i = 0; i < classes && status == AWQ_OK; i++) {
        const bool first = entry->kernels[i] == AWQ_KERNEL_AUTO;
        double shortest = 0.0;
        status = time_batch(&bench, (int64_t)1 << i, first ? HUGE_VAL : 2.0 * best[i], &shortest);
        if (status != AWQ_OK || (!first && shortest >= best[i])) continue;
        best[i] = shortest;
        entry->kernels[i] = kernel;
    }
    bench_close(&bench);
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
