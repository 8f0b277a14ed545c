/* Salient input channels: which of a weight's columns stay in FP16 while the others are quantised. */
#ifndef AWQI_SALIENT_H
#define AWQI_SALIENT_H

#include "internal.h"

struct awqi_salient {
    int64_t count;
    int32_t *columns; /* [count], ascending; NULL when count is 0 */
};

/* Check the options that say which: AWQ_ERROR_INVALID. */
awq_status awqi_salient_check(const awq_quantize_options *options);

/* Choose the columns of w[N][K], reachable, that checked options ask for.  'calibration' (NULL: none) stands in for an importance
 * that they do not give.  Released with awqi_salient_release, also after a failure. */
awq_status awqi_salient_choose(awq_context *context, const awq_quantize_options *options,
                               const awq_calibration *calibration, const awq_tensor *w, struct awqi_salient *salient);
void awqi_salient_release(awq_context *context, struct awqi_salient *salient);

/* factors[k] = scales[k] (NULL: ones), but 0 in salient columns: a quantiser that multiplies by these in place of the
 * scales sees zeros there, and makes their codes the zero point. */
void awqi_salient_mask(const struct awqi_salient *salient, const float *scales, int64_t k, float *factors);

#endif /* AWQI_SALIENT_H */
