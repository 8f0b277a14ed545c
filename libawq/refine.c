/* Quantisation that looks at what outputs lose: options, inputs, and the way to the processor that does it. */
#include "refine.h"

#include "calibration.h"
#include "search.h"

#include <math.h>

/* Of each channel's mean square.  In proportion to it, so that scaling a channel changes nothing. */
#define DEFAULT_DAMPING 0.03

awq_status awqi_refinement_resolve(const awq_quantize_options *options, const awq_search *search,
                                   const struct awqi_quantizer *quantizer, int64_t k,
                                   struct awqi_refinement *refinement)
{
    const awq_calibration *calibration = options->calibration != NULL ? options->calibration
                                                                      : awqi_search_calibration(search);
    const struct awqi_refinement resolved = {options->range, options->rounding,
                                             options->damping != 0.0 ? options->damping : DEFAULT_DAMPING, calibration};
    if (resolved.range < AWQ_RANGE_MINMAX || resolved.range > AWQ_RANGE_SEARCH)
        return awqi_fail(AWQ_ERROR_INVALID, "range %d is none of AWQ_RANGE_*", resolved.range);
    if (resolved.rounding < AWQ_ROUND_NEAREST || resolved.rounding > AWQ_ROUND_DESCENT)
        return awqi_fail(AWQ_ERROR_INVALID, "rounding %d is none of AWQ_ROUND_*", resolved.rounding);
    if (!(resolved.damping > 0.0 && resolved.damping <= 1.0))
        return awqi_fail(AWQ_ERROR_INVALID, "damping is %g; above 0 and up to 1 are possible", resolved.damping);
    if (calibration != NULL && calibration->channels != k)
        return awqi_fail(AWQ_ERROR_INVALID, "calibration of %lld channels for a weight of %lld inputs",
                         (long long)calibration->channels, (long long)k);
    *refinement = resolved;
    if (!awqi_refinement_is_wanted(&resolved)) return AWQ_OK;
    if (quantizer->profile != AWQ_PROFILE_EXACT)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the profiles of peers take whole ranges and round to nearest");
    if (calibration != NULL && calibration->rows == 0)
        return awqi_fail(AWQ_ERROR_STATE, "calibration: nothing was observed");
    if (resolved.rounding != AWQ_ROUND_NEAREST && (calibration == NULL || calibration->gram == NULL))
        return awqi_fail(AWQ_ERROR_STATE, "rounding %d needs a calibration with a Gram matrix (AWQ_CALIBRATION_GRAM)",
                         resolved.rounding);
    return AWQ_OK;
}

bool awqi_refinement_is_wanted(const struct awqi_refinement *refinement)
{
    return refinement->range != AWQ_RANGE_MINMAX || refinement->rounding != AWQ_ROUND_NEAREST;
}

/* The processor's backend, which a context of another device does not have at hand. */
static awq_status refine_on_processor(awq_context *context, struct awqi_refine_job *job)
{
    const struct awqi_backend *backend = awqi_context_backend(context);
    if (backend->refine != NULL) return backend->refine(awqi_context_device(context), job);
    void *device;
    awq_status status = awqi_cpu_backend.open(context, 0, &device);
    if (status != AWQ_OK) return status;
    status = awqi_cpu_backend.refine(device, job);
    awqi_cpu_backend.close(device);
    return status;
}

/* w [N][K] in host memory: itself, or a copy in *memory. */
static awq_status fetch_weight(awq_context *context, const awq_tensor *w, awq_tensor *host, void **memory)
{
    *memory = NULL;
    *host = *w;
    if (w->device_type == AWQ_DEVICE_CPU) return AWQ_OK;
    const uint64_t row_bytes = (uint64_t)w->shape[1] * awq_dtype_size(w->dtype);
    awq_status status = awqi_alloc(context, (uint64_t)w->shape[0], row_bytes, "a weight to refine", memory);
    if (status != AWQ_OK) return status;
    awq_tensor_init_2d(host, *memory, w->dtype, w->shape[0], w->shape[1]);
    return awq_tensor_copy(context, w, host, NULL);
}

awq_status awqi_refine(awq_context *context, const struct awqi_refinement *refinement, const struct awqi_scaled *scaled,
                       struct awqi_refine_job *job)
{
    const awq_calibration *calibration = refinement->calibration;
    struct awqi_scaled host_scaled = *scaled;
    awq_tensor host;
    void *memory;
    job->range = refinement->range;
    job->damping = refinement->damping;
    job->squares = calibration != NULL ? calibration->sums.square_high : NULL;
    awq_status status = fetch_weight(context, scaled->w, &host, &memory);
    if (status == AWQ_OK && refinement->rounding != AWQ_ROUND_NEAREST)
        status = awqi_calibration_root(calibration, refinement->damping, &job->root);
    if (status == AWQ_OK && refinement->rounding == AWQ_ROUND_DESCENT) job->gram = calibration->gram;
    host_scaled.w = &host;
    job->scaled = &host_scaled;
    if (status == AWQ_OK) status = refine_on_processor(context, job);
    awqi_free(context, memory);
    return status;
}
