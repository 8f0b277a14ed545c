/* Running a linear on the CPU: passes over the rows, panels within a pass spread over the threads. */
#include "linear.h"

enum { TASK_BYTES = 65536 }; /* of weights per task of a matrix-vector product; less is not worth waking a thread */

struct pass {
    const struct awqi_cpu_linear *linear;
    const struct awqi_linear_job *job;
    const struct awqi_cpu_kernels *kernels;
    float *x;            /* the workspace */
    int64_t first, rows; /* of x and y */
    int64_t panels_per_task;
};

static int64_t pass_rows(int32_t kernel)
{
    return kernel == AWQ_KERNEL_GEMM ? AWQI_PASS_ROWS : AWQI_GEMV_ROWS;
}

/* ---- few rows: every task sweeps some panels once for all rows */

static void gemv_task(void *user_data, int64_t index)
{
    const struct pass *pass = user_data;
    const struct awqi_panels *w = &pass->linear->panels;
    int64_t begin = index * pass->panels_per_task, end = awqi_min64(begin + pass->panels_per_task, w->panels);
    for (int64_t panel = begin; panel < end; panel++) {
        float sums[AWQI_GEMV_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
        pass->kernels->gemv(w, panel, pass->x, pass->rows, sums);
        for (int64_t i = 0; i < pass->rows; i++)
            awqi_linear_store_panel(pass->linear, pass->job, pass->first + i, panel, sums + i * AWQI_PANEL);
    }
}

static void run_gemv(awq_context *context, struct pass *pass)
{
    const struct awqi_panels *w = &pass->linear->panels;
    for (int64_t i = 0; i < pass->rows; i++)
        awqi_linear_load_row(pass->linear, pass->job, pass->first + i, pass->x + i * w->k, 1);
    int64_t panel_bytes = (int64_t)(w->size_bytes / (uint64_t)w->panels);
    pass->panels_per_task = awqi_max64(1, TASK_BYTES / panel_bytes);
    awqi_parallel_for(context, awqi_ceil_div(w->panels, pass->panels_per_task), gemv_task, pass);
}

/* ---- many rows: strips of x, then tasks of one panel and up to TASK_ROWS rows */

static void strip_task(void *user_data, int64_t strip)
{
    const struct pass *pass = user_data;
    int64_t k = pass->linear->panels.k, used = awqi_min64(AWQI_STRIP, pass->rows - strip * AWQI_STRIP);
    float *x = pass->x + strip * k * AWQI_STRIP;
    if (used < AWQI_STRIP) memset(x, 0, (size_t)k * AWQI_STRIP * sizeof *x);
    for (int64_t i = 0; i < used; i++)
        awqi_linear_load_row(pass->linear, pass->job, pass->first + strip * AWQI_STRIP + i, x + i, AWQI_STRIP);
}

static const float *panel_block(const void *source, int64_t panel, int64_t first, int64_t count, float *b)
{
    const struct pass *pass = source;
    const struct awqi_panels *w = &pass->linear->panels;
    if (w->dtype == AWQ_F32) return (const float *)w->values + (panel * w->k + first) * AWQI_PANEL;
    pass->kernels->unpack(w, panel, first, count, b);
    return b;
}

static void gemm_task(void *user_data, int64_t index)
{
    const struct pass *pass = user_data;
    const struct awqi_panels *w = &pass->linear->panels;
    float sums[AWQI_TASK_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    int64_t panel = index % w->panels, begin = index / w->panels * AWQI_TASK_ROWS;
    int64_t rows = awqi_min64(AWQI_TASK_ROWS, pass->rows - begin);
    awqi_gemm_panel(pass->kernels, pass->x + begin * w->k, awqi_ceil_div(rows, AWQI_STRIP), w->k, panel_block, pass,
                    panel, sums);
    for (int64_t i = 0; i < rows; i++)
        awqi_linear_store_panel(pass->linear, pass->job, pass->first + begin + i, panel, sums + i * AWQI_PANEL);
}

static void run_gemm(awq_context *context, struct pass *pass)
{
    awqi_parallel_for(context, awqi_ceil_div(pass->rows, AWQI_STRIP), strip_task, pass);
    int64_t blocks = awqi_ceil_div(pass->rows, AWQI_TASK_ROWS);
    awqi_parallel_for(context, blocks * pass->linear->panels.panels, gemm_task, pass);
}

awq_status awqi_cpu_linear_run(void *device, const void *prepared, const struct awqi_linear_job *job)
{
    const struct awqi_cpu_device *cpu = device;
    const struct awqi_cpu_linear *linear = prepared;
    int32_t kernel = awqi_cpu_linear_choose(device, prepared, job->rows, NULL, 0, NULL);
    struct pass pass = {
        .linear = linear,
        .job = job,
        .kernels = kernel == AWQ_KERNEL_REFERENCE ? &awqi_cpu_kernels_ref : cpu->kernels,
        .x = job->workspace,
    };
    for (pass.first = 0; pass.first < job->rows; pass.first += pass_rows(kernel)) {
        pass.rows = awqi_min64(pass_rows(kernel), job->rows - pass.first);
        if (kernel == AWQ_KERNEL_GEMM) run_gemm(cpu->context, &pass);
        else run_gemv(cpu->context, &pass);
    }
    return AWQ_OK;
}

/* Enough for whichever kernel is chosen; strips round the rows up, so theirs is the most. */
uint64_t awqi_cpu_linear_workspace(void *device, const void *prepared, int64_t max_rows)
{
    const struct awqi_cpu_linear *linear = prepared;
    (void)device;
    int32_t kernel = linear->kernel == AWQ_KERNEL_AUTO ? AWQ_KERNEL_GEMM : linear->kernel;
    int64_t rows = awqi_min64(max_rows, pass_rows(kernel));
    if (kernel == AWQ_KERNEL_GEMM) rows = awqi_ceil_div(rows, AWQI_STRIP) * AWQI_STRIP;
    return rows > 0 ? (uint64_t)rows * (uint64_t)linear->panels.k * sizeof(float) : 0;
}
