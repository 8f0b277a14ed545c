/* Contestants of the library itself: one linear in several copies that take turns. */
#include "bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COPIES = BENCH_COPIES, CUDA_SWEEP_BYTES = 256 << 20 };

struct bench_linear {
    awq_context *context;
    awq_linear *copies[MOST_COPIES];
    int count, next;
    int per_call; /* runs in one call of 'work' */
    awq_tensor x, y;
    void *workspace;
    uint64_t workspace_bytes;
};

int bench_copies(const struct bench_machine *machine, uint64_t bytes)
{
    const uint64_t unknown = 64 << 20, cache = machine->device.last_level_cache_bytes;
    const uint64_t wanted = 3 * (cache ? cache : unknown) / (bytes ? bytes : 1) + 1;
    return wanted < 2 ? 2 : wanted > MOST_COPIES ? MOST_COPIES : (int)wanted;
}

static awq_status work(void *user_data, void *stream)
{
    struct bench_linear *linear = user_data;
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.stream = stream;
    options.workspace = linear->workspace;
    options.workspace_bytes = linear->workspace_bytes;
    for (int i = 0; i < linear->per_call; i++) {
        const awq_linear *copy = linear->copies[linear->next++ % linear->count];
        awq_status status = awq_linear_run(copy, &linear->x, &linear->y, &options);
        if (status != AWQ_OK) return status;
    }
    return AWQ_OK;
}

/* On CUDA a call is a graph of all copies, several times over when they are small, so that it outlasts its launch. */
static bool run(void *state, int64_t rows, int64_t runs, double *seconds)
{
    struct bench_linear *linear = state;
    linear->x.shape[0] = linear->y.shape[0] = rows;
    awq_status status = awq_context_time(linear->context, work, linear, runs, seconds);
    if (status != AWQ_OK) return cli_library_error(status, "a run of %lld rows", (long long)rows);
    for (int64_t i = 0; i < runs; i++) seconds[i] /= linear->per_call;
    return true;
}

static void close_linear(void *state)
{
    struct bench_linear *linear = state;
    for (int i = 0; i < linear->count; i++) awq_linear_destroy(linear->copies[i]);
    awq_context_free(linear->context, linear->workspace);
    free(linear);
}

/* FP16 weights on the device; speed does not depend on which numbers they are. */
static awq_status random_dense(const struct bench_problem *problem, awq_tensor *w)
{
    const int64_t n = problem->shape.n, k = problem->shape.k;
    const uint64_t bytes = (uint64_t)(n * k) * sizeof(uint16_t);
    uint16_t *values = malloc(bytes);
    uint64_t state = 1;
    for (int64_t i = 0; values && i < n * k; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        values[i] = (uint16_t)((state >> 48 & 0x83ff) | 0x3400); /* [1/4, 1/2), either sign */
    }
    awq_tensor host;
    awq_tensor_init_const_2d(&host, values, AWQ_F16, n, k);
    awq_tensor_init_2d(w, NULL, AWQ_F16, n, k);
    w->device_type = problem->machine->device.device_type;
    w->device_id = problem->machine->device.device_id;
    awq_status status = values ? awq_context_allocate(problem->context, bytes, &w->data) : AWQ_ERROR_OUT_OF_MEMORY;
    if (status == AWQ_OK) status = awq_tensor_copy(problem->context, &host, w, NULL);
    if (status == AWQ_OK) status = awq_context_synchronize(problem->context, NULL);
    free(values);
    return status;
}

static awq_status make_copies(const struct bench_problem *problem, enum bench_kind kind, int32_t kernel,
                              int activation, const awq_tensor *dense, struct bench_linear *linear)
{
    awq_linear_options options;
    awq_linear_info info;
    int wanted = 1;
    awq_struct_init(&options, sizeof options);
    awq_struct_init(&info, sizeof info);
    options.kernel = kernel;
    options.activation = activation;
    options.tuning = kernel == AWQ_KERNEL_AUTO ? problem->tuning : NULL;
    while (linear->count < wanted) {
        awq_linear **copy = &linear->copies[linear->count];
        awq_status status = kind == BENCH_DENSE ? awq_linear_create_dense(problem->context, dense, &options, copy)
                                                : awq_linear_create(problem->context, problem->weight, &options, copy);
        if (status != AWQ_OK) return status;
        if (linear->count++ == 0) {
            status = awq_linear_get_info(*copy, &info);
            if (status != AWQ_OK) return status;
            wanted = problem->copies ? problem->copies : bench_copies(problem->machine, info.size_bytes);
        }
    }
    return AWQ_OK;
}

static awq_status open_linear(const struct bench_problem *problem, enum bench_kind kind, int32_t kernel,
                              int activation, struct bench_linear *linear, awq_linear_info *info)
{
    awq_tensor dense = {0};
    awq_status status = kind == BENCH_DENSE ? random_dense(problem, &dense) : AWQ_OK;
    if (status == AWQ_OK) status = make_copies(problem, kind, kernel, activation, &dense, linear);
    awq_context_free(problem->context, dense.data);
    if (status == AWQ_OK) status = awq_linear_get_info(linear->copies[0], info);
    if (status != AWQ_OK) return status;
    const bool cuda = problem->machine->device.device_type == AWQ_DEVICE_CUDA;
    const uint64_t sweep = info->size_bytes * (uint64_t)linear->count;
    linear->per_call = !cuda ? 1 : linear->count * (problem->copies ? 1 : 1 + (int)(CUDA_SWEEP_BYTES / (sweep + 1)));
    if (linear->per_call > 2 * MOST_COPIES) linear->per_call = 2 * MOST_COPIES;
    awq_tensor_init_const_2d(&linear->x, problem->x, problem->dtype, problem->max_rows, problem->shape.k);
    awq_tensor_init_2d(&linear->y, problem->y, problem->dtype, problem->max_rows, problem->shape.n);
    linear->x.device_type = linear->y.device_type = problem->machine->device.device_type;
    linear->x.device_id = linear->y.device_id = problem->machine->device.device_id;
    linear->workspace_bytes = awq_linear_workspace_size(linear->copies[0], problem->max_rows);
    if (linear->workspace_bytes == 0) return AWQ_OK;
    return awq_context_allocate(problem->context, linear->workspace_bytes, &linear->workspace);
}

bool bench_linear_open(const struct bench_problem *problem, enum bench_kind kind, int32_t kernel, int activation,
                       struct bench_contestant *contestant, bool *unsupported)
{
    awq_linear_info info;
    awq_struct_init(&info, sizeof info);
    *unsupported = false;
    struct bench_linear *linear = calloc(1, sizeof *linear);
    if (!linear) return cli_error("out of memory");
    linear->context = problem->context;
    awq_status status = open_linear(problem, kind, kernel, activation, linear, &info);
    if (status != AWQ_OK) {
        close_linear(linear);
        *unsupported = status == AWQ_ERROR_UNSUPPORTED;
        return *unsupported || cli_library_error(status, "%s %" PRId64 " x %" PRId64, awq_kernel_name(kernel),
                                                 problem->shape.n, problem->shape.k);
    }
    *contestant = (struct bench_contestant){.kernel = kernel, .kind = kind, .activation = activation,
        .weight_bytes = info.size_bytes, .copies = linear->count, .state = linear, .run = run, .close = close_linear};
    const bool tuned = kernel == AWQ_KERNEL_AUTO && problem->tuning;
    strncpy(contestant->name, kind == BENCH_DENSE ? "fp16" : tuned ? "tuned" : awq_kernel_name(kernel),
            sizeof contestant->name - 1);
    return true;
}
