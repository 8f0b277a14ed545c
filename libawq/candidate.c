/* The column scales that a search tries, and what they are made of.
 *
 * Everything is computed in double precision and rounded once at the end.  The peers work in single precision; their
 * scales agree with these to a few units in the last place. */
#include "backend.h"
#include "search.h"

#include <math.h>

void awqi_smooth_importance(double *values, int64_t count, double smooth_factor)
{
    double sum = 0.0;
    for (int64_t j = 0; j < count; j++) sum += values[j];
    double mean = sum / (double)count;
    for (int64_t j = 0; j < count; j++) values[j] = (1.0 - smooth_factor) * values[j] + smooth_factor * mean;
}

void awqi_tie_values(double *values, int64_t count, int64_t tie_copies, int64_t tie_width)
{
    if (tie_copies <= 1) return;
    for (int64_t head = 0; head < count; head += tie_copies * tie_width) {
        for (int64_t d = head; d < head + tie_width; d++) {
            double sum = 0.0;
            for (int64_t copy = 0; copy < tie_copies; copy++) sum += values[d + copy * tie_width];
            for (int64_t copy = 0; copy < tie_copies; copy++) values[d + copy * tie_width] = sum / (double)tie_copies;
        }
    }
}

awq_status awqi_weight_mean(awq_context *context, const awq_tensor *weights, int64_t count, int64_t group_size,
                            double *mean)
{
    const struct awqi_backend *backend = awqi_context_backend(context);
    int64_t inputs = weights[0].shape[1], rows = 0;
    for (int64_t j = 0; j < inputs; j++) mean[j] = 0.0;
    for (int64_t i = 0; i < count; i++) {
        awq_status status = backend->add_shares(awqi_context_device(context), &weights[i], group_size, mean);
        if (status != AWQ_OK) return status;
        rows += weights[i].shape[0];
    }
    for (int64_t j = 0; j < inputs; j++) mean[j] /= (double)rows;
    return AWQ_OK;
}

/* ---- candidates */

static double normalizer(const struct awqi_candidates *candidates)
{
    double min = INFINITY, max = 0.0, sum = 0.0;
    int64_t live = 0;
    for (int64_t j = 0; j < candidates->channels; j++) {
        if (candidates->skip_dead && candidates->importance[j] == 0.0) continue;
        double value = candidates->work[j];
        min = value < min ? value : min;
        max = value > max ? value : max;
        sum += value;
        live++;
    }
    if (live == 0) return 1.0;
    return candidates->normalization == AWQ_NORMALIZE_MEAN ? sum / (double)live : sqrt(max * min);
}

void awqi_candidate_scales(const struct awqi_candidates *candidates, int32_t kind, double alpha, float *scales)
{
    int64_t channels = candidates->channels;
    for (int64_t j = 0; j < channels; j++) scales[j] = 1.0f;
    if (kind == AWQI_SCALES_IDENTITY) return;
    for (int64_t j = 0; j < channels; j++) {
        double value = pow(candidates->importance[j], alpha);
        if (kind == AWQ_SCALES_DUO) value /= pow(candidates->weight_mean[j], 1.0 - alpha) + 1e-4;
        candidates->work[j] = value < 1e-4 ? 1e-4 : value;
    }
    double norm = normalizer(candidates);
    for (int64_t j = 0; j < channels; j++) {
        if (candidates->skip_dead && candidates->importance[j] == 0.0) continue;
        float scale = awqi_round_to(candidates->scale_dtype, (float)(candidates->work[j] / norm));
        if (isfinite(scale) && scale > 0.0f) scales[j] = scale;
    }
}
