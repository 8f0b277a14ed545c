/* Lesson 5: which kernel runs, why, and how long one query takes.
 *
 * The choice is a function of two structs, a device and a product, so that it can be asked about any device.  Here it
 * is asked about the GPU of this machine, or its CPU where there is none, and then about GPUs that need not be here.
 * After that one token goes through kernels that are forced, with weights that come from memory as they would in a
 * model.  What is fastest for shapes of one's own `awq tune` finds out.
 *
 * Introduces: device info, kernel choice, forced kernels, memory on the device, timing. */
#include <awq.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 1024, K = 4096, RUNS = 21, MAX_COPIES = 64 };

#define TRY(call) if ((status = (call)) != AWQ_OK) goto done

/* A GPU if there is one that can be used, else the CPU. */
static awq_status open_device(awq_context **ctx)
{
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_type = AWQ_DEVICE_CUDA;
    if (awq_context_create(&options, ctx) == AWQ_OK) return AWQ_OK;
    fprintf(stderr, "No GPU: %s\nThe CPU instead.\n", awq_last_error());
    return awq_context_create(NULL, ctx);
}

/* ---- the choice */

static awq_status explain(const awq_device_info *device)
{
    char text[2048];
    int32_t kernel;
    awq_kernel_request request;
    awq_struct_init(&request, sizeof request);
    request.n = N;
    request.k = K;
    request.rows = 1;
    awq_status status = awq_kernel_select(device, &request, &kernel, text, sizeof text, NULL);
    if (status != AWQ_OK) return status;
    printf("%s", device->name);
    if (device->compute_capability)
        printf(", compute capability %d.%d", device->compute_capability / 10, device->compute_capability % 10);
    printf(": %s for 1 row of %d to %d outputs\n%s\n", awq_kernel_name(kernel), K, N, text);
    return AWQ_OK;
}

static void list_gpus(void)
{
    static const struct {
        const char *name;
        int32_t capability;
    } gpus[] = {{"V100", 70}, {"T4", 75},    {"A100", 80},     {"RTX 4090", 89},
                {"H100", 90}, {"B200", 100}, {"RTX 5090", 120}};
    static const int64_t rows[] = {1, 16, 64, 4096};
    printf("rows          1         16        64        4096\n");
    for (size_t i = 0; i < sizeof gpus / sizeof *gpus; i++) {
        printf("%-13s", gpus[i].name);
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++) {
            awq_device_info device;
            awq_kernel_request request;
            int32_t kernel;
            awq_struct_init(&device, sizeof device);
            awq_struct_init(&request, sizeof request);
            device.device_type = AWQ_DEVICE_CUDA;
            device.compute_capability = gpus[i].capability;
            request.n = N;
            request.k = K;
            request.rows = rows[j];
            if (awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL) != AWQ_OK) {
                printf(" %s", awq_last_error());
                break;
            }
            printf(" %-9s", awq_kernel_name(kernel));
        }
        putchar('\n');
    }
    putchar('\n');
}

/* ---- the time */

struct query {
    awq_linear *linears[MAX_COPIES]; /* of one weight: together more than the caches hold */
    int copies;
    awq_tensor x, y; /* on the device */
    awq_run_options run;
};

/* What is timed.  On a GPU it is captured once, as a graph, and replayed. */
static awq_status run_all(void *data, void *stream)
{
    struct query *query = data;
    awq_status status = AWQ_OK;
    query->run.stream = stream;
    for (int i = 0; i < query->copies && status == AWQ_OK; i++)
        status = awq_linear_run(query->linears[i], &query->x, &query->y, &query->run);
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Device memory for one row in F16; 'values' may be NULL. */
static awq_status create_row(awq_context *ctx, const awq_device_info *device, const float *values, int64_t length,
                             awq_tensor *row)
{
    awq_tensor host;
    void *memory;
    awq_status status = awq_context_allocate(ctx, (uint64_t)length * 2, &memory);
    if (status != AWQ_OK) return status;
    awq_tensor_init_2d(row, memory, AWQ_F16, 1, length);
    row->device_type = device->device_type;
    row->device_id = device->device_id;
    awq_tensor_init_const_2d(&host, values, AWQ_F32, 1, length);
    return values ? awq_tensor_copy(ctx, &host, row, NULL) : AWQ_OK;
}

static awq_status time_kernel(awq_context *ctx, const awq_weight *weight, uint64_t cache_bytes, int32_t kernel,
                              struct query *query)
{
    float values[N];
    double seconds[RUNS];
    awq_linear_options options;
    awq_linear_info info;
    awq_tensor result;
    awq_struct_init(&options, sizeof options);
    awq_struct_init(&info, sizeof info);
    options.kernel = kernel;
    awq_status status = awq_linear_create(ctx, weight, &options, &query->linears[0]);
    if (status == AWQ_ERROR_UNSUPPORTED) {
        printf("%-8s %s\n", awq_kernel_name(kernel), awq_last_error());
        return AWQ_OK;
    }
    if (status != AWQ_OK) return status;
    query->copies = 1;
    awq_struct_init(&query->run, sizeof query->run);
    query->run.workspace_bytes = awq_linear_workspace_size(query->linears[0], 1);
    TRY(awq_context_allocate(ctx, query->run.workspace_bytes, &query->run.workspace));
    TRY(awq_linear_get_info(query->linears[0], &info));
    uint64_t wanted = 2 + 2 * cache_bytes / info.size_bytes;
    for (; query->copies < MAX_COPIES && (uint64_t)query->copies < wanted; query->copies++)
        TRY(awq_linear_create(ctx, weight, &options, &query->linears[query->copies]));

    TRY(awq_context_time(ctx, run_all, query, RUNS, seconds));
    awq_tensor_init_2d(&result, values, AWQ_F32, 1, N);
    TRY(awq_tensor_copy(ctx, &query->y, &result, NULL));
    qsort(seconds, RUNS, sizeof *seconds, compare_doubles);
    printf("%-8s y[0] = %-9.4f %8.1f us\n", awq_kernel_name(kernel), values[0],
           seconds[RUNS / 2] / query->copies * 1e6);
done:
    for (int i = 0; i < query->copies; i++) awq_linear_destroy(query->linears[i]);
    awq_context_free(ctx, query->run.workspace);
    return status;
}

int main(void)
{
    static const int32_t kernels[] = {AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMM, AWQ_KERNEL_MARLIN};
    static float values[N * K], x[K];
    for (int i = 0; i < N * K; i++) values[i] = (float)((i * 31) % 97) / 97.0f - 0.5f;
    for (int i = 0; i < K; i++) x[i] = (float)((i * 13) % 29) / 29.0f - 0.5f;

    awq_context *ctx = NULL;
    awq_weight *weight = NULL;
    struct query query = {.copies = 0};
    awq_device_info device;
    awq_tensor w;
    awq_status status;
    awq_struct_init(&device, sizeof device);
    awq_tensor_init_const_2d(&w, values, AWQ_F32, N, K);
    TRY(open_device(&ctx));
    TRY(awq_context_get_device(ctx, &device));
    TRY(explain(&device));
    list_gpus();

    TRY(awq_quantize(ctx, &w, NULL, NULL, &weight));
    TRY(create_row(ctx, &device, x, K, &query.x));
    TRY(create_row(ctx, &device, NULL, N, &query.y));
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        TRY(time_kernel(ctx, weight, device.last_level_cache_bytes, kernels[i], &query));
done:
    if (status != AWQ_OK) fprintf(stderr, "%s: %s\n", awq_status_name(status), awq_last_error());
    awq_context_free(ctx, query.x.data);
    awq_context_free(ctx, query.y.data);
    awq_weight_destroy(weight);
    awq_context_destroy(ctx);
    return status == AWQ_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
