#include "scores.h"

#include <math.h>

#include "cli.h"
#include "vector_math.h"

struct score_job {
    const float *logits, *reference; /* [rows][vocabulary]; reference NULL: none */
    const int32_t *targets;
    int64_t vocabulary;
    struct score *scores;
};

INLINED float highest(const float *x, int64_t count)
{
    float lanes[LANES];
    for (int j = 0; j < LANES; j++) lanes[j] = x[0];
    int64_t whole = count / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    for (int64_t i = whole; i < count; i++) lanes[0] = x[i] > lanes[0] ? x[i] : lanes[0];
    return max_lanes(lanes);
}

INLINED double sum_doubles(const double lanes[LANES])
{
    double sum = 0;
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    return sum;
}

/* log of the sum of e^x. */
INLINED double log_sum_exp(const float *x, int64_t count, float maximum)
{
    double lanes[LANES] = {0};
    int64_t whole = count / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += (double)fast_exp(x[i + j] - maximum);
    for (int64_t i = whole; i < count; i++) lanes[i - whole] += (double)fast_exp(x[i] - maximum);
    return (double)maximum + log(sum_doubles(lanes));
}

/* Sum over the vocabulary of p (log p - log q), from logits and the logarithms of their normalisers. */
INLINED double divergence(const float *p, double p_norm, const float *q, double q_norm, int64_t count)
{
    double lanes[LANES] = {0};
    int64_t whole = count / LANES * LANES;
    float shift = (float)p_norm;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++)
            lanes[j] += (double)fast_exp(p[i + j] - shift) * ((double)p[i + j] - p_norm - ((double)q[i + j] - q_norm));
    for (int64_t i = whole; i < count; i++)
        lanes[i - whole] += (double)fast_exp(p[i] - shift) * ((double)p[i] - p_norm - ((double)q[i] - q_norm));
    return sum_doubles(lanes);
}

static int64_t index_of(const float *x, int64_t count, float value)
{
    for (int64_t i = 0; i < count; i++)
        if (x[i] == value) return i;
    return count;
}

/* How many tokens come before one in the order of their logits. */
INLINED int64_t rank_of(const float *x, int64_t count, int64_t token)
{
    if (token >= count) return count;
    int64_t rank = 0;
    for (int64_t i = 0; i < token; i++) rank += x[i] >= x[token];
    for (int64_t i = token + 1; i < count; i++) rank += x[i] > x[token];
    return rank;
}

VECTORIZED static void score_task(void *data, int64_t row)
{
    const struct score_job *job = data;
    struct score *score = &job->scores[row];
    int64_t count = job->vocabulary;
    const float *x = job->logits + row * count;
    float maximum = highest(x, count);
    double norm = log_sum_exp(x, count, maximum);
    *score = (struct score){.loss = norm - (double)x[job->targets[row]]};
    if (!job->reference) return;
    const float *reference = job->reference + row * count;
    float reference_maximum = highest(reference, count);
    double reference_norm = log_sum_exp(reference, count, reference_maximum);
    score->reference_loss = reference_norm - (double)reference[job->targets[row]];
    score->divergence = divergence(reference, reference_norm, x, norm, count);
    score->rank = rank_of(x, count, index_of(reference, count, reference_maximum));
}

bool score_rows(awq_context *context, const float *logits, const float *reference, const int32_t *targets, int64_t rows,
                int64_t vocabulary, struct score *scores)
{
    struct score_job job = {logits, reference, targets, vocabulary, scores};
    awq_status status = awq_context_parallel_for(context, rows, score_task, &job);
    return status == AWQ_OK || cli_library_error(status, "scores");
}
