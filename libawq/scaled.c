/* A weight times its column scales: reading it, and finding what is not a number. */
#include "scaled.h"

#include "search.h"
#include "weight.h"

#include <math.h>
#include <stdatomic.h>

enum { BLOCK = 256 }; /* elements looked at together, on the stack */

void awqi_scaled_load(const struct awqi_scaled *scaled, int64_t row, int64_t first, float *values, int64_t count)
{
    awqi_load_columns(scaled->w, row, first, values, count);
    if (scaled->scales == NULL) return;
    const float *scales = scaled->scales + first;
    for (int64_t i = 0; i < count; i++) values[i] *= scales[i];
    if (scaled->dtype == AWQ_F32) return;
    for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(scaled->dtype, values[i]);
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

struct scan {
    const struct awqi_scaled *scaled;
    int64_t k;
    atomic_int_least64_t first_bad; /* row * k + column; INT64_MAX: none */
};

static void scan_row(void *user_data, int64_t row)
{
    struct scan *scan = user_data;
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

awq_status awqi_scaled_check(awq_context *context, const struct awqi_scaled *scaled, const char *what)
{
    struct scan scan = {.scaled = scaled, .k = scaled->w->shape[1]};
    atomic_init(&scan.first_bad, INT64_MAX);
    awqi_parallel_for(context, scaled->w->shape[0], scan_row, &scan);
    int64_t bad = atomic_load(&scan.first_bad);
    if (bad == INT64_MAX) return AWQ_OK;
    int64_t row = bad / scan.k, column = bad % scan.k;
    float value;
    awqi_load_columns(scaled->w, row, column, &value, 1);
    if (!isfinite(value))
        return awqi_fail(AWQ_ERROR_NON_FINITE, "%s: row %lld, column %lld is %g", what, (long long)row,
                         (long long)column, (double)value);
    return awqi_fail(AWQ_ERROR_NON_FINITE,
                     "%s: row %lld, column %lld is %g, which overflows when multiplied by its scale %g", what,
                     (long long)row, (long long)column, (double)value, (double)scaled->scales[column]);
}
