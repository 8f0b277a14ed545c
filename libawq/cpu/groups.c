/* What the searches ask about groups of a weight: their largest element, its columns' shares of it, and the squared
 * errors that quantising them makes. */
#include "statistics.h"

#include <math.h>

enum {
    BLOCK = 256, /* inputs converted at once, on the stack */
    LANES = AWQI_TILE_OUTPUTS
};

/* ---- the largest of each group */

static float largest_of_group(const struct awqi_scaled *scaled, int64_t row, int64_t begin, int64_t end)
{
    float largest = 0.0f, values[BLOCK];
    for (int64_t first = begin; first < end; first += BLOCK) {
        int64_t count = awqi_min64(BLOCK, end - first);
        awqi_scaled_load(scaled, row, first, values, count);
        for (int64_t i = 0; i < count; i++) largest = fabsf(values[i]) > largest ? fabsf(values[i]) : largest;
    }
    return largest;
}

struct max_job {
    const struct awqi_scaled *scaled;
    int64_t group_size, k, groups;
    float *largest;
};

static void max_of_row(void *user_data, int64_t row)
{
    const struct max_job *job = user_data;
    for (int64_t group = 0; group < job->groups; group++) {
        int64_t begin = group * job->group_size;
        job->largest[row * job->groups + group] =
            largest_of_group(job->scaled, row, begin, awqi_min64(begin + job->group_size, job->k));
    }
}

awq_status awqi_cpu_group_max(void *device, const struct awqi_scaled *scaled, int64_t group_size, float *largest)
{
    const struct awqi_cpu_device *cpu = device;
    int64_t k = scaled->w->shape[1];
    struct max_job job = {scaled, group_size, k, awqi_ceil_div(k, group_size), largest};
    awqi_parallel_for(cpu->context, scaled->w->shape[0], max_of_row, &job);
    return AWQ_OK;
}

/* ---- shares: the sums of an input belong to one task and run over the rows in order */

struct share_job {
    const awq_tensor *w;
    int64_t group_size;
    double *sums; /* [k] */
};

static void shares_of_group(void *user_data, int64_t group)
{
    const struct share_job *job = user_data;
    const struct awqi_scaled plain = {job->w, NULL, AWQ_F32};
    int64_t begin = group * job->group_size, end = awqi_min64(begin + job->group_size, job->w->shape[1]);
    for (int64_t row = 0; row < job->w->shape[0]; row++) {
        float divisor = largest_of_group(&plain, row, begin, end) + 1e-6f, values[BLOCK];
        for (int64_t first = begin; first < end; first += BLOCK) {
            int64_t count = awqi_min64(BLOCK, end - first);
            awqi_load_columns(job->w, row, first, values, count);
            for (int64_t j = 0; j < count; j++) job->sums[first + j] += (double)(fabsf(values[j]) / divisor);
        }
    }
}

awq_status awqi_cpu_add_shares(void *device, const awq_tensor *w, int64_t group_size, double *sums)
{
    const struct awqi_cpu_device *cpu = device;
    struct share_job job = {w, group_size, sums};
    awqi_parallel_for(cpu->context, awqi_ceil_div(w->shape[1], group_size), shares_of_group, &job);
    return AWQ_OK;
}

/* ---- squared errors */

struct norms {
    const struct awqi_group_norms_job *job;
    const struct awqi_statistics_kernels *kernels;
    int64_t groups;
    float *errors; /* [tiles][k][LANES]: the differences with outputs side by side */
};

/* One group of one tile of outputs. */
static void norms_of_tile(void *user_data, int64_t index)
{
    const struct norms *norms = user_data;
    const struct awqi_group_norms_job *job = norms->job;
    int64_t tile = index / norms->groups, group = index % norms->groups, begin = group * job->group_size;
    int64_t width = awqi_min64(job->group_size, job->k - begin);
    int64_t first = tile * LANES, count = awqi_min64(LANES, job->n - first);
    float *errors = norms->errors + (tile * job->k + begin) * LANES;
    for (int64_t lane = 0; lane < LANES; lane++) {
        const float *differences = job->differences + (first + lane) * job->k + begin;
        for (int64_t j = 0; j < width; j++) errors[j * LANES + lane] = lane < count ? differences[j] : 0.0f;
    }
    double sums[LANES] = {0};
    bool triangular = job->reduced && job->rows > width;
    int64_t rows = ((triangular ? width : job->rows) + 1) / 2 * 2;
    norms->kernels->add_squares(job->roots + job->root_stride * begin, rows, width, triangular, errors, sums);
    for (int64_t lane = 0; lane < count; lane++) job->squares[(first + lane) * norms->groups + group] = sums[lane];
}

awq_status awqi_cpu_group_norms(void *device, const struct awqi_group_norms_job *job)
{
    const struct awqi_cpu_device *cpu = device;
    int64_t tiles = awqi_ceil_div(job->n, LANES);
    struct norms norms = {.job = job, .groups = awqi_ceil_div(job->k, job->group_size)};
    norms.kernels = awqi_statistics_for(cpu->info.cpu_features);
    void *memory;
    awq_status status = awqi_alloc(cpu->context, (uint64_t)tiles * LANES, (uint64_t)job->k * sizeof(float),
                                   "errors of groups", &memory);
    if (status != AWQ_OK) return status;
    norms.errors = memory;
    awqi_parallel_for(cpu->context, tiles * norms.groups, norms_of_tile, &norms);
    awqi_free(cpu->context, memory);
    return AWQ_OK;
}
