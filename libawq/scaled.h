/* A weight times its column scales, as the quantiser sees it. */
#ifndef AWQI_SCALED_H
#define AWQI_SCALED_H

#include "internal.h"

struct awqi_scaled {
    const awq_tensor *w; /* F32, F16 or BF16 [N][K], where the context computes */
    const float *scales; /* [K]; NULL for ones */
    int32_t dtype;       /* products are rounded to this: F32, or the dtype of w in the peer profiles */
};

/* values[count] = inputs 'first' .. of row 'row'; in host memory only. */
void awqi_scaled_load(const struct awqi_scaled *scaled, int64_t row, int64_t first, float *values, int64_t count);

/* values[N] = one column, read from where the context computes. */
awq_status awqi_scaled_fetch_column(awq_context *context, const struct awqi_scaled *scaled, int64_t column,
                                    float *values);

/* The column scales to use for a weight of k inputs: those of a finished search, or 'given' (F32 [k], positive), never
 * both.  *scales is a copy to release with awqi_free, or NULL when there are none. */
awq_status awqi_scaled_take_scales(awq_context *context, const awq_search *search, const awq_tensor *given, int64_t k,
                                   float **scales);

/* AWQ_ERROR_NON_FINITE names the first row and column whose value is not a finite number; 'what' names the weight. */
awq_status awqi_scaled_check(awq_context *context, const struct awqi_scaled *scaled, const char *what);

#endif /* AWQI_SCALED_H */
