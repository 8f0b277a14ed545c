/* Running a linear on the CPU: passes over the rows, panels within a pass spread over the threads. */
#include "linear.h"

enum { TASK_BYTES = 131072 }; /* of weights per task of a matrix-vector product */

struct pass {
    const struct awqi_cpu_linear *linear;
    const struct awqi_linear_job *job;
    const struct awqi_cpu_kernels *kernels;
    const struct awqi_gemv *gemv;
    const struct awqi_gemm *gemm;
    float *salient;      /* the workspace: of each row what it holds in salient columns, */
    float *x;            /* rows in single precision, */
    unsigned char *rows_as_taken; /* and in the form of the kernel */
    int64_t row_floats, row_bytes;
    int64_t first, rows; /* of x and y */
    int64_t panels_per_task;
};

static int64_t pass_rows(int32_t kernel, const struct awqi_gemm *gemm)
{
    if (kernel != AWQ_KERNEL_GEMM) return AWQI_GEMV_ROWS;
    return gemm != NULL ? AWQI_GEMM_PASS : AWQI_PASS_ROWS;
}

/* ---- few rows: every task sweeps some panels once for all rows */

int64_t awqi_linear_row_floats(const struct awqi_cpu_linear *linear)
{
    return linear->dense ? linear->k : awqi_ceil_div(awqi_stream_inputs(&linear->stream), 16) * 16;
}

static void gemv_input_task(void *user_data, int64_t row)
{
    const struct pass *pass = user_data;
    float *x = pass->x + row * pass->row_floats;
    awqi_linear_load_row(pass->linear, pass->job, pass->first + row, x, 1);
    awqi_linear_salient_keep(&pass->linear->salient, x, 1, pass->salient + row * pass->linear->salient.count);
    if (pass->linear->dense) return;
    awqi_stream_order(&pass->linear->stream, x);
    pass->gemv->prepare(&pass->linear->stream, x, pass->rows_as_taken + row * pass->row_bytes);
}

/* Where outputs of a pass go that are sums and no more. */
struct plain_output {
    bool possible; /* there is no bias, gate or residual */
    int32_t dtype;
    int64_t size, count;
    unsigned char *rows[AWQI_GEMV_ROWS];
};

static struct plain_output plain_output_of(const struct pass *pass)
{
    const awq_tensor *y = pass->job->y;
    struct plain_output output = {
        .possible = pass->linear->bias == NULL && !pass->linear->columns.paired && pass->job->residual == NULL,
        .dtype = y->dtype,
        .size = (int64_t)awq_dtype_size(y->dtype),
        .count = pass->linear->columns.n,
    };
    for (int64_t i = 0; i < pass->rows; i++)
        output.rows[i] = (unsigned char *)(uintptr_t)awqi_tensor_row(y, pass->first + i);
    return output;
}

static void store_plain(const struct plain_output *output, int64_t rows, int64_t panel, const float *sums)
{
    const int64_t first = panel * AWQI_PANEL, count = awqi_min64(AWQI_PANEL, output->count - first);
    for (int64_t i = 0; i < rows; i++)
        awqi_from_f32(output->dtype, sums + i * AWQI_PANEL, output->rows[i] + first * output->size, count);
}

/* Between two panels a weight passes through the first-level cache and drives out all else, so what is needed is looked up
 * before. */
static void gemv_range(void *user_data, int64_t begin, int64_t end)
{
    const struct pass *pass = user_data;
    const struct awqi_cpu_linear *linear = pass->linear;
    const struct plain_output output = plain_output_of(pass);
    const bool dense = linear->dense, salient = linear->salient.count > 0;
    const struct awqi_gemv *gemv = pass->gemv;
    const int64_t rows = pass->rows;
    end = awqi_min64(end * pass->panels_per_task, linear->columns.panels);
    for (int64_t panel = begin * pass->panels_per_task; panel < end; panel++) {
        float sums[AWQI_GEMV_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
        if (dense) pass->kernels->gemv_dense(&linear->panels, panel, pass->x, rows, sums);
        else gemv->run(&linear->stream, panel, pass->rows_as_taken, rows, sums);
        if (salient) awqi_linear_salient_add(&linear->salient, pass->kernels, pass->salient, panel, rows, sums);
        if (output.possible) store_plain(&output, rows, panel, sums);
        else for (int64_t i = 0; i < rows; i++)
                 awqi_linear_store_panel(linear, pass->job, pass->first + i, panel, sums + i * AWQI_PANEL);
    }
}

static void run_gemv(awq_context *context, struct pass *pass)
{
    const struct awqi_cpu_linear *linear = pass->linear;
    pass->row_floats = awqi_linear_row_floats(linear);
    pass->row_bytes = linear->dense ? 0 : pass->gemv->row_bytes(&linear->stream);
    pass->rows_as_taken = (unsigned char *)(pass->x + pass->rows * pass->row_floats);
    awqi_parallel_for(context, pass->rows, gemv_input_task, pass);
    uint64_t bytes = linear->dense ? linear->panels.size_bytes : linear->stream.size_bytes;
    int64_t panel_bytes = (int64_t)(bytes / (uint64_t)linear->columns.panels);
    pass->panels_per_task = awqi_max64(1, TASK_BYTES / panel_bytes);
    awqi_parallel_ranges(context, awqi_ceil_div(linear->columns.panels, pass->panels_per_task), gemv_range, pass);
}

/* The mode that DEFAULT stands for: what keeps the input's own precision, and for F32 nearly so. */
static int32_t resolve_activation(const struct awqi_cpu_linear *linear, int32_t dtype)
{
    if (linear->activation != AWQ_ACTIVATION_DEFAULT) return linear->activation;
    return dtype == AWQ_BF16 ? AWQ_ACTIVATION_BF16 : AWQ_ACTIVATION_SPLIT;
}

/* ---- many rows: strips of x, then tasks of one panel and up to TASK_ROWS rows */

static void strip_task(void *user_data, int64_t strip)
{
    const struct pass *pass = user_data;
    int64_t k = pass->linear->k, used = awqi_min64(AWQI_STRIP, pass->rows - strip * AWQI_STRIP);
    float *x = pass->x + strip * k * AWQI_STRIP;
    if (used < AWQI_STRIP) memset(x, 0, (size_t)k * AWQI_STRIP * sizeof *x);
    for (int64_t i = 0; i < used; i++) {
        const int64_t row = strip * AWQI_STRIP + i;
        awqi_linear_load_row(pass->linear, pass->job, pass->first + row, x + i, AWQI_STRIP);
        awqi_linear_salient_keep(&pass->linear->salient, x + i, AWQI_STRIP,
                                 pass->salient + row * pass->linear->salient.count);
    }
}

static const float *panel_block(const void *source, int64_t panel, int64_t first, int64_t count, float *b)
{
    const struct pass *pass = source;
    const struct awqi_panels *w = &pass->linear->panels;
    if (pass->linear->dense && w->dtype == AWQ_F32)
        return (const float *)w->values + (panel * w->k + first) * AWQI_PANEL;
    if (pass->linear->dense) pass->kernels->unpack_dense(w, panel, first, count, b);
    else pass->kernels->unpack(&pass->linear->stream, panel, first, count, b);
    return b;
}

static void gemm_task(void *user_data, int64_t index)
{
    const struct pass *pass = user_data;
    const int64_t panels = pass->linear->columns.panels, k = pass->linear->k;
    float sums[AWQI_TASK_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    int64_t panel = index % panels, begin = index / panels * AWQI_TASK_ROWS;
    int64_t rows = awqi_min64(AWQI_TASK_ROWS, pass->rows - begin);
    awqi_gemm_panel(pass->kernels, pass->x + begin * k, awqi_ceil_div(rows, AWQI_STRIP), k, panel_block, pass, panel,
                    sums);
    awqi_linear_salient_add(&pass->linear->salient, pass->kernels, pass->salient + begin * pass->linear->salient.count,
                            panel, rows, sums);
    for (int64_t i = 0; i < rows; i++)
        awqi_linear_store_panel(pass->linear, pass->job, pass->first + begin + i, panel, sums + i * AWQI_PANEL);
}

static void run_gemm(awq_context *context, struct pass *pass)
{
    if (pass->gemm != NULL) {
        const struct awqi_linear_pass part = {
            .linear = pass->linear,
            .job = pass->job,
            .kernels = pass->kernels,
            .first = pass->first,
            .rows = pass->rows,
            .salient = pass->salient,
            .memory = pass->x,
        };
        awqi_linear_gemm(context, &part, pass->gemm);
        return;
    }
    awqi_parallel_for(context, awqi_ceil_div(pass->rows, AWQI_STRIP), strip_task, pass);
    int64_t blocks = awqi_ceil_div(pass->rows, AWQI_TASK_ROWS);
    awqi_parallel_for(context, blocks * pass->linear->columns.panels, gemm_task, pass);
}

awq_status awqi_cpu_linear_run(void *device, const void *prepared, const struct awqi_linear_job *job)
{
    const struct awqi_cpu_device *cpu = device;
    const struct awqi_cpu_linear *linear = prepared;
    int32_t kernel = awqi_cpu_linear_choose(device, prepared, job->rows, NULL, 0, NULL);
    const bool reference = kernel == AWQ_KERNEL_REFERENCE;
    const int32_t activation = resolve_activation(linear, job->x->dtype);
    struct pass pass = {
        .linear = linear,
        .job = job,
        .kernels = reference ? &awqi_cpu_kernels_ref : cpu->kernels,
        .gemv = reference ? &awqi_gemv_ref : awqi_gemv_for(cpu->info.cpu_features, activation),
        .gemm = linear->dense ? NULL : awqi_gemm_for(cpu->info.cpu_features, activation),
        .salient = job->workspace,
    };
    const int64_t most = awqi_min64(pass_rows(kernel, pass.gemm), job->rows);
    pass.x = pass.salient + awqi_linear_salient_bytes(&linear->salient, most) / sizeof(float);
    for (pass.first = 0; pass.first < job->rows; pass.first += pass_rows(kernel, pass.gemm)) {
        pass.rows = awqi_min64(pass_rows(kernel, pass.gemm), job->rows - pass.first);
        if (kernel == AWQ_KERNEL_GEMM) run_gemm(cpu->context, &pass);
        else run_gemv(cpu->context, &pass);
    }
    return AWQ_OK;
}

static uint64_t gemv_workspace(const struct awqi_cpu_linear *linear, int64_t rows)
{
    int64_t row_bytes = linear->dense ? 0 : awqi_gemv_ref.row_bytes(&linear->stream);
    for (size_t i = 0; !linear->dense && awqi_gemv_at(i) != NULL; i++)
        row_bytes = awqi_max64(row_bytes, awqi_gemv_at(i)->row_bytes(&linear->stream));
    return (uint64_t)rows * ((uint64_t)awqi_linear_row_floats(linear) * sizeof(float) + (uint64_t)row_bytes);
}

/* Without room for salient columns. */
static uint64_t product_workspace(const struct awqi_cpu_linear *linear, int64_t max_rows)
{
    uint64_t bytes = gemv_workspace(linear, awqi_min64(max_rows, AWQI_GEMV_ROWS));
    if (linear->kernel != AWQ_KERNEL_AUTO && linear->kernel != AWQ_KERNEL_GEMM) return bytes;
    int64_t strips = awqi_ceil_div(awqi_min64(max_rows, AWQI_PASS_ROWS), AWQI_STRIP);
    uint64_t gemm = (uint64_t)(strips * AWQI_STRIP) * (uint64_t)linear->k * sizeof(float);
    for (size_t i = 0; !linear->dense && awqi_gemm_at(i) != NULL; i++) {
        const uint64_t stream = awqi_linear_gemm_workspace(linear, awqi_gemm_at(i), max_rows);
        if (stream > gemm) gemm = stream;
    }
    return bytes > gemm ? bytes : gemm;
}

/* Enough for whichever kernel is chosen. */
uint64_t awqi_cpu_linear_workspace(void *device, const void *prepared, int64_t max_rows)
{
    const struct awqi_cpu_linear *linear = prepared;
    (void)device;
    return product_workspace(linear, max_rows) +
           awqi_linear_salient_bytes(&linear->salient, awqi_min64(max_rows, AWQI_GEMM_PASS));
}
