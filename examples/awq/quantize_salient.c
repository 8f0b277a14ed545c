/* Salient channels: which they are, and what a study of them does instead of keeping them in FP16. */
#include "quantize.h"

bool salient_importance(awq_context *context, const awq_calibration *calibration, float **importance)
{
    awq_calibration_info info;
    void *means = NULL, *memory = NULL;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_calibration_get_info(calibration, &info);
    if (status == AWQ_OK) status = awq_context_allocate(context, (uint64_t)info.channels * sizeof(double), &means);
    if (status == AWQ_OK) status = awq_context_allocate(context, (uint64_t)info.channels * sizeof(float), &memory);
    if (status == AWQ_OK)
        status = awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, means, info.channels);
    *importance = memory;
    for (int64_t i = 0; status == AWQ_OK && i < info.channels; i++) (*importance)[i] = (float)((double *)means)[i];
    awq_context_free(context, means);
    return status == AWQ_OK || cli_library_error(status, "importance of channels");
}

/* ---- scaled instead of kept */

/* factors[k] = 's' in the columns that are salient in 'marked', 1 in others. */
static awq_status fill_factors(awq_context *context, const awq_weight *marked, float s, int64_t k, float *factors)
{
    awq_weight_info info;
    awq_tensor view;
    void *columns = NULL;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(marked, &info);
    const int64_t count = info.salient_columns;
    if (status == AWQ_OK) status = awq_context_allocate(context, (uint64_t)count * sizeof(int32_t), &columns);
    if (status == AWQ_OK) {
        awq_tensor_init_1d(&view, columns, AWQ_I32, count);
        status = awq_weight_export_salient(marked, &view, NULL);
    }
    for (int64_t j = 0; j < k; j++) factors[j] = 1;
    for (int64_t i = 0; status == AWQ_OK && i < count; i++) factors[((int32_t *)columns)[i]] = s;
    awq_context_free(context, columns);
    return status;
}

static awq_status export_scales(awq_context *context, const awq_weight *weight, float **scales, int64_t *count)
{
    awq_weight_info info;
    awq_tensor view;
    void *memory = NULL;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(weight, &info);
    *count = info.n * info.groups;
    if (status == AWQ_OK) status = awq_context_allocate(context, (uint64_t)*count * sizeof(float), &memory);
    *scales = memory;
    if (status != AWQ_OK) return status;
    awq_tensor_init_2d(&view, *scales, AWQ_F32, info.n, info.groups);
    return awq_weight_export(weight, NULL, &view, NULL, NULL);
}

/* Add up what became of the scales of groups. */
static awq_status compare_scales(awq_context *context, const awq_weight *before, const awq_weight *after,
                                 struct linear_report *report)
{
    float *old = NULL, *new = NULL;
    int64_t count = 0;
    awq_status status = export_scales(context, before, &old, &count);
    if (status == AWQ_OK) status = export_scales(context, after, &new, &count);
    for (int64_t i = 0; status == AWQ_OK && i < count; i++) {
        report->changed_scales += old[i] != new[i];
        report->scale_ratios += (double)new[i] / (double)old[i];
    }
    awq_context_free(context, old);
    awq_context_free(context, new);
    return status;
}

awq_status salient_quantize_scaled(const struct quantize_job *job, const awq_tensor *w,
                                   const awq_quantize_options *options, awq_weight **weight,
                                   struct linear_report *report)
{
    awq_context *context = job->context, *host = job->host;
    awq_quantize_options plain = *options;
    awq_weight *marked = NULL, *before = NULL;
    awq_tensor factor_view;
    const int64_t k = w->shape[1];
    void *factors = NULL;
    plain.salient_fraction = 0;
    awq_status status = awq_quantize(context, w, NULL, options, &marked);
    if (status == AWQ_OK) status = awq_context_allocate(host, (uint64_t)k * sizeof(float), &factors);
    if (status == AWQ_OK) status = fill_factors(host, marked, (float)job->settings->salient_scale, k, factors);
    if (status == AWQ_OK) status = awq_quantize(context, w, NULL, &plain, &before);
    awq_tensor_init_const_1d(&factor_view, factors, AWQ_F32, k);
    plain.input_scale = &factor_view;
    if (status == AWQ_OK) status = awq_quantize(context, w, NULL, &plain, weight);
    if (status == AWQ_OK) status = compare_scales(host, before, *weight, report);
    awq_weight_destroy(marked);
    awq_weight_destroy(before);
    awq_context_free(host, factors);
    return status;
}
