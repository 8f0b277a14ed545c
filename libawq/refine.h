/* Quantisation that looks at what outputs lose: what it needs beside the weight. */
#ifndef AWQI_REFINE_H
#define AWQI_REFINE_H

#include "backend.h"

struct awqi_refinement {
    int32_t range, rounding; /* AWQ_RANGE_*, AWQ_ROUND_* */
    double damping;
    const awq_calibration *calibration; /* borrowed, with a Gram matrix where rounding wants it; NULL: none */
};

/* Resolve and check the options that ask for it; 'search' may be NULL. */
awq_status awqi_refinement_resolve(const awq_quantize_options *options, const awq_search *search,
                                   const struct awqi_quantizer *quantizer, int64_t k,
                                   struct awqi_refinement *refinement);

/* Whether there is anything to do that rounding to nearest in the whole range does not. */
bool awqi_refinement_is_wanted(const struct awqi_refinement *refinement);

/* Fill the job's outputs for w, which may lie on the device; range, root and the like are set here. */
awq_status awqi_refine(awq_context *context, const struct awqi_refinement *refinement, const struct awqi_scaled *scaled,
                       struct awqi_refine_job *job);

#endif /* AWQI_REFINE_H */
