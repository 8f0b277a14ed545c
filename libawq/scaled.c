/* A weight times its column scales: reading it, and finding what is not a number. */
#include "backend.h"
#include "place.h"
#include "search.h"

#include <math.h>

void awqi_scaled_load(const struct awqi_scaled *scaled, int64_t row, int64_t first, float *values, int64_t count)
{
    awqi_load_columns(scaled->w, row, first, values, count);
    if (scaled->scales == NULL) return;
    const float *scales = scaled->scales + first;
    for (int64_t i = 0; i < count; i++) values[i] *= scales[i];
    if (scaled->dtype == AWQ_F32) return;
    for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(scaled->dtype, values[i]);
}

awq_status awqi_scaled_fetch_column(awq_context *context, const struct awqi_scaled *scaled, int64_t column,
                                    float *values)
{
    const int64_t n = scaled->w->shape[0];
    awq_status status = awqi_fetch_column(context, scaled->w, column, values);
    if (status != AWQ_OK || scaled->scales == NULL) return status;
    for (int64_t row = 0; row < n; row++)
        values[row] = awqi_round_to(scaled->dtype, values[row] * scaled->scales[column]);
    return AWQ_OK;
}

awq_status awqi_scaled_take_scales(awq_context *context, const awq_search *search, const awq_tensor *given, int64_t k,
                                   float **scales)
{
    *scales = NULL;
    if (search == NULL && given == NULL) return AWQ_OK;
    if (search != NULL && given != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "both a search and an input_scale are given");
    awq_status status = search != NULL ? awqi_search_check(search, k) : awqi_check_input_scale(given, k);
    void *memory;
    if (status == AWQ_OK) status = awqi_alloc(context, (uint64_t)k, sizeof **scales, "input scales", &memory);
    if (status != AWQ_OK) return status;
    *scales = memory;
    if (search != NULL)
        memcpy(*scales, awqi_search_scales(search), (size_t)k * sizeof **scales);
    else
        awqi_load_row(given, 0, *scales, k);
    return AWQ_OK;
}

awq_status awqi_scaled_check(awq_context *context, const struct awqi_scaled *scaled, const char *what)
{
    int64_t bad, k = scaled->w->shape[1];
    awq_status status = awqi_context_backend(context)->find_non_finite(awqi_context_device(context), scaled, &bad);
    if (status != AWQ_OK || bad < 0) return status;
    int64_t row = bad / k, column = bad % k;
    float value;
    status = awqi_fetch_element(context, scaled->w, row, column, &value);
    if (status != AWQ_OK) return status;
    if (!isfinite(value))
        return awqi_fail(AWQ_ERROR_NON_FINITE, "%s: row %lld, column %lld is %g", what, (long long)row,
                         (long long)column, (double)value);
    return awqi_fail(AWQ_ERROR_NON_FINITE,
                     "%s: row %lld, column %lld is %g, which overflows when multiplied by its scale %g", what,
                     (long long)row, (long long)column, (double)value, (double)scaled->scales[column]);
}
