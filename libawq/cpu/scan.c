/* Looking at activations and weights before they are computed with: hashes of rows, what is not finite, differences. */
#include "../row_sample.h"
#include "cpu.h"

#include <stdatomic.h>

enum {
    SCAN_ELEMENTS = 1 << 16, /* read by one task when a batch is scanned */
    SCAN_PART = 512,         /* channels looked at together; even, as the row hash wants it */
    BLOCK = 256              /* elements of a weight looked at together, on the stack */
};

/* ---- rows of activations */

struct row_scans {
    const awq_tensor *x;
    const float *weights;
    int64_t rows, channels, rows_per_task;
    const uint64_t *seed; /* NULL: no hashes */
    struct awqi_row_scan *scans;
};

static void scan_row(const struct row_scans *job, int64_t row)
{
    struct awqi_row_scan scan = {job->seed != NULL ? awqi_row_hash_begin(*job->seed) : 0, -1};
    float part[SCAN_PART];
    for (int64_t first = 0; first < job->channels && scan.bad_channel < 0; first += SCAN_PART) {
        int64_t count = awqi_min64(SCAN_PART, job->channels - first);
        awqi_load_columns(job->x, row, first, part, count);
        int64_t bad = awqi_find_non_finite(part, count);
        if (bad >= 0) scan.bad_channel = first + bad;
        if (job->seed != NULL) scan.hash = awqi_row_hash_add(scan.hash, part, count);
    }
    scan.hash = awqi_row_hash_end(scan.hash);
    job->scans[row] = scan;
}

static void scan_some(void *user_data, int64_t task)
{
    const struct row_scans *job = user_data;
    int64_t begin = task * job->rows_per_task, end = awqi_min64(begin + job->rows_per_task, job->rows);
    for (int64_t row = begin; row < end; row++)
        if (job->weights == NULL || job->weights[row] != 0.0f) scan_row(job, row);
}

awq_status awqi_cpu_scan_rows(void *device, const awq_tensor *x, const float *weights, const uint64_t *seed,
                              struct awqi_row_scan *scans)
{
    const struct awqi_cpu_device *cpu = device;
    struct row_scans job = {
        .x = x, .weights = weights, .channels = x->shape[x->ndim - 1], .rows = 1, .seed = seed, .scans = scans};
    for (int32_t i = 0; i < x->ndim - 1; i++) job.rows *= x->shape[i];
    job.rows_per_task = awqi_max64(1, SCAN_ELEMENTS / job.channels);
    awqi_parallel_for(cpu->context, awqi_ceil_div(job.rows, job.rows_per_task), scan_some, &job);
    return AWQ_OK;
}

awq_status awqi_cpu_gather_rows(void *device, const awq_tensor *x, const int64_t *rows, int64_t count, float *values)
{
    (void)device;
    int64_t channels = x->shape[x->ndim - 1];
    for (int64_t i = 0; i < count; i++) awqi_load_row(x, rows[i], values + i * channels, channels);
    return AWQ_OK;
}

/* ---- weights */

struct finite_scan {
    const struct awqi_scaled *scaled;
    int64_t k;
    atomic_int_least64_t first_bad; /* row * k + column; INT64_MAX: none */
};

static void find_in_row(void *user_data, int64_t row)
{
    struct finite_scan *scan = user_data;
    float values[BLOCK];
    for (int64_t first = 0; first < scan->k; first += BLOCK) {
        int64_t count = awqi_min64(BLOCK, scan->k - first);
        awqi_scaled_load(scan->scaled, row, first, values, count);
        int64_t bad = awqi_find_non_finite(values, count);
        if (bad < 0) continue;
        int64_t index = row * scan->k + first + bad;
        int_least64_t known = atomic_load(&scan->first_bad);
        while (index < known && !atomic_compare_exchange_weak(&scan->first_bad, &known, index)) continue;
        return;
    }
}

awq_status awqi_cpu_find_non_finite(void *device, const struct awqi_scaled *scaled, int64_t *index)
{
    const struct awqi_cpu_device *cpu = device;
    struct finite_scan scan = {.scaled = scaled, .k = scaled->w->shape[1]};
    atomic_init(&scan.first_bad, INT64_MAX);
    awqi_parallel_for(cpu->context, scaled->w->shape[0], find_in_row, &scan);
    int64_t bad = atomic_load(&scan.first_bad);
    *index = bad == INT64_MAX ? -1 : bad;
    return AWQ_OK;
}

struct difference {
    const struct awqi_scaled *scaled;
    float *values;
};

static void subtract_row(void *user_data, int64_t row)
{
    const struct difference *difference = user_data;
    int64_t k = difference->scaled->w->shape[1];
    float *values = difference->values + row * k, part[BLOCK];
    for (int64_t first = 0; first < k; first += BLOCK) {
        int64_t count = awqi_min64(BLOCK, k - first);
        awqi_scaled_load(difference->scaled, row, first, part, count);
        for (int64_t i = 0; i < count; i++) values[first + i] = part[i] - values[first + i];
    }
}

awq_status awqi_cpu_subtract(void *device, const struct awqi_scaled *scaled, float *values)
{
    const struct awqi_cpu_device *cpu = device;
    struct difference difference = {scaled, values};
    awqi_parallel_for(cpu->context, scaled->w->shape[0], subtract_row, &difference);
    return AWQ_OK;
}

struct kept {
    const struct awqi_scaled *scaled;
    const int32_t *columns;
    int64_t count;
    float *values;
};

static void keep_in_row(void *user_data, int64_t row)
{
    const struct kept *kept = user_data;
    for (int64_t i = 0; i < kept->count; i++) {
        const int64_t column = kept->columns[i];
        float value;
        awqi_scaled_load(kept->scaled, row, column, &value, 1);
        kept->values[row * kept->scaled->w->shape[1] + column] =
            awqi_round_to(AWQ_F16, value) / kept->scaled->scales[column];
    }
}

awq_status awqi_cpu_keep_columns(void *device, const struct awqi_scaled *scaled, const int32_t *columns, int64_t count,
                                 float *values)
{
    const struct awqi_cpu_device *cpu = device;
    struct kept kept = {scaled, columns, count, values};
    awqi_parallel_for(cpu->context, scaled->w->shape[0], keep_in_row, &kept);
    return AWQ_OK;
}
