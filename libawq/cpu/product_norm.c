/* The squared norm of a product, which is what a scale search minimises. */
#include "kernels.h"

struct norm_job {
    const struct awqi_cpu_kernels *kernels;
    const float *x, *delta;
    int64_t rows, n, k, panels;
    int64_t first;  /* row of x that this pass begins with */
    int64_t count;  /* its rows */
    float *strips;  /* [..][k][STRIP] */
    double *sums;   /* one per task */
};

static void pack_strip(void *user_data, int64_t index)
{
    const struct norm_job *job = user_data;
    float *strip = job->strips + index * job->k * AWQI_STRIP;
    for (int64_t i = 0; i < AWQI_STRIP; i++) {
        int64_t row = job->first + index * AWQI_STRIP + i;
        const float *x = job->x + row * job->k;
        for (int64_t j = 0; j < job->k; j++) strip[j * AWQI_STRIP + i] = row < job->rows ? x[j] : 0.0f;
    }
}

static const float *transpose_block(const void *source, int64_t panel, int64_t first, int64_t count, float *b)
{
    enum { LINE = 16 }; /* floats in a cache line */
    const struct norm_job *job = source;
    int64_t used = awqi_min64(AWQI_PANEL, job->n - panel * AWQI_PANEL);
    int64_t next = awqi_min64(AWQI_DEPTH, job->k - first - count);
    if (used < AWQI_PANEL) memset(b, 0, (size_t)count * AWQI_PANEL * sizeof *b);
    for (int64_t i = 0; i < used; i++) {
        const float *row = job->delta + (panel * AWQI_PANEL + i) * job->k + first;
        /* Half a kilobyte of each of 32 rows is too short a run for the processor to foresee the next one. */
        for (int64_t j = 0; j < next; j += LINE) __builtin_prefetch(row + count + j);
        for (int64_t j = 0; j < count; j++) b[j * AWQI_PANEL + i] = row[j];
    }
    return b;
}

static void sum_task(void *user_data, int64_t index)
{
    const struct norm_job *job = user_data;
    float c[AWQI_TASK_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    int64_t begin = index / job->panels * AWQI_TASK_ROWS;
    int64_t strips = awqi_ceil_div(awqi_min64(AWQI_TASK_ROWS, job->count - begin), AWQI_STRIP);
    awqi_gemm_panel(job->kernels, job->strips + begin * job->k, strips, job->k, transpose_block, job,
                    index % job->panels, c);
    /* Padding is zeros times numbers, so it adds nothing. */
    double lanes[4] = {0};
    for (int64_t i = 0; i < strips * AWQI_STRIP * AWQI_PANEL; i += 4)
        for (int j = 0; j < 4; j++) lanes[j] += (double)c[i + j] * c[i + j];
    job->sums[index] = lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

awq_status awqi_cpu_product_norm(void *device, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k,
                                 double *sum)
{
    struct awqi_cpu_device *cpu = device;
    int64_t held = awqi_ceil_div(awqi_min64(rows, AWQI_PASS_ROWS), AWQI_STRIP);
    struct norm_job job = {.kernels = cpu->kernels, .x = x, .delta = delta, .rows = rows, .n = n, .k = k,
                           .panels = awqi_ceil_div(n, AWQI_PANEL)};
    void *strips = NULL, *sums = NULL;
    awq_status status = awqi_alloc(cpu->context, (uint64_t)held * AWQI_STRIP, (uint64_t)k * sizeof(float),
                                   "rows of a loss", &strips);
    if (status == AWQ_OK)
        status = awqi_alloc(cpu->context, (uint64_t)job.panels * (AWQI_PASS_ROWS / AWQI_TASK_ROWS), sizeof(double),
                            "sums of a loss", &sums);
    if (status != AWQ_OK) goto done;
    job.strips = strips;
    job.sums = sums;
    double total = 0.0;
    for (job.first = 0; job.first < rows; job.first += AWQI_PASS_ROWS) {
        job.count = awqi_min64(AWQI_PASS_ROWS, rows - job.first);
        int64_t tasks = job.panels * awqi_ceil_div(job.count, AWQI_TASK_ROWS);
        awqi_parallel_for(cpu->context, awqi_ceil_div(job.count, AWQI_STRIP), pack_strip, &job);
        awqi_parallel_for(cpu->context, tasks, sum_task, &job);
        for (int64_t i = 0; i < tasks; i++) total += job.sums[i];
    }
    *sum = total;
done:
    awqi_free(cpu->context, strips);
    awqi_free(cpu->context, sums);
    return status;
}
