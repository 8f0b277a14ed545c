/* The two ends of a linear: rows of x on their way in, panels of sums on their way out. */
#include "linear.h"

#include <math.h>

enum { BLOCK = 256 }; /* inputs converted at a time */

/* Inputs first .. first + count - 1 of a row of x. */
static void load_block(const awq_tensor *tensor, int64_t row, int64_t first, int64_t count, float *values)
{
    const unsigned char *from = awqi_tensor_row(tensor, row);
    awqi_to_f32(tensor->dtype, from + first * (int64_t)awq_dtype_size(tensor->dtype), values, count);
}

/* 1 / sqrt(mean of squares + epsilon), the squares added in double so that the order of a sum never shows. */
static float norm_factor(const struct awqi_linear_job *job, int64_t row, int64_t k)
{
    double sum = 0.0;
    for (int64_t first = 0; first < k; first += BLOCK) {
        float values[BLOCK];
        int64_t count = awqi_min64(BLOCK, k - first);
        load_block(job->x, row, first, count, values);
        for (int64_t i = 0; i < count; i++) sum += (double)values[i] * values[i];
    }
    return (float)(1.0 / sqrt(sum / (double)k + job->norm_epsilon));
}

void awqi_linear_load_row(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                          float *out, int64_t step)
{
    const int64_t k = linear->k;
    if (job->norm_weight == NULL && linear->input_scale == NULL && step == 1) {
        load_block(job->x, row, 0, k, out);
        return;
    }
    const float factor = job->norm_weight != NULL ? norm_factor(job, row, k) : 1.0f;
    for (int64_t first = 0; first < k; first += BLOCK) {
        float values[BLOCK], weights[BLOCK];
        int64_t count = awqi_min64(BLOCK, k - first);
        load_block(job->x, row, first, count, values);
        if (job->norm_weight != NULL) {
            load_block(job->norm_weight, 0, first, count, weights);
            for (int64_t i = 0; i < count; i++) values[i] = values[i] * factor * weights[i];
        }
        if (linear->input_scale != NULL)
            for (int64_t i = 0; i < count; i++) values[i] /= linear->input_scale[first + i];
        for (int64_t i = 0; i < count; i++) out[(first + i) * step] = values[i];
    }
}

static float silu(float value)
{
    return value / (1.0f + expf(-value));
}

void awqi_linear_store_panel(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                             int64_t panel, const float *sums)
{
    const struct awqi_columns *w = &linear->columns;
    const int64_t width = w->paired ? AWQI_PANEL / 2 : AWQI_PANEL, outputs = w->paired ? w->n / 2 : w->n;
    const int64_t first = panel * width, count = awqi_min64(width, outputs - first);
    float values[AWQI_PANEL], residual[AWQI_PANEL];
    memcpy(values, sums, sizeof values);
    if (linear->bias != NULL)
        for (int i = 0; i < AWQI_PANEL; i++) values[i] += linear->bias[panel * AWQI_PANEL + i];
    if (w->paired)
        for (int64_t i = 0; i < count; i++) values[i] = silu(values[i]) * values[width + i];
    if (job->residual != NULL) {
        load_block(job->residual, row, first, count, residual);
        for (int64_t i = 0; i < count; i++) values[i] += residual[i];
    }
    unsigned char *to = (unsigned char *)(uintptr_t)awqi_tensor_row(job->y, row);
    awqi_from_f32(job->y->dtype, values, to + first * (int64_t)awq_dtype_size(job->y->dtype), count);
}
