/* A weight times its column scales: reading it, and finding what is not a number. */
#include "scaled.h"

#include "search.h"

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

static awq_status check_given(const awq_context *context, const awq_tensor *given, int64_t k)
{
    awq_status status = awqi_check_tensor(given, 1, 1u << AWQ_F32, "input_scale");
    if (status == AWQ_OK) status = awqi_check_shape_1d(given, k, "input_scale");
    if (status == AWQ_OK) status = awqi_check_device(context, given, "input_scale");
    return status;
}

static awq_status check_positive(const float *scales, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (!(scales[i] > 0.0f && isfinite(scales[i])))
            return awqi_fail(isfinite(scales[i]) ? AWQ_ERROR_INVALID : AWQ_ERROR_NON_FINITE,
                             "input_scale: column %lld is %g; it must be positive and finite", (long long)i,
                             (double)scales[i]);
    return AWQ_OK;
}

awq_status awqi_scaled_take_scales(awq_context *context, const awq_search *search, const awq_tensor *given, int64_t k,
                                   float **scales)
{
    *scales = NULL;
    if (search == NULL && given == NULL) return AWQ_OK;
    if (search != NULL && given != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "both a search and an input_scale are given");
    awq_status status = search != NULL ? awqi_search_check(search, k) : check_given(context, given, k);
    void *memory;
    if (status == AWQ_OK) status = awqi_alloc(context, (uint64_t)k, sizeof **scales, "input scales", &memory);
    if (status != AWQ_OK) return status;
    if (search != NULL)
        memcpy(memory, awqi_search_scales(search), (size_t)k * sizeof **scales);
    else
        for (int64_t i = 0; i < k; i++)
            memcpy((float *)memory + i, (const float *)awqi_tensor_data(given) + i * given->strides[0], sizeof **scales);
    status = check_positive(memory, k);
    if (status == AWQ_OK)
        *scales = memory;
    else
        awqi_free(context, memory);
    return status;
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
        while (index < known && !atomic_compare_exchange_weak(&scan->first_bad, &known, index)) {}
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
        return awqi_fail(AWQ_ERROR_NON_FINITE, "%s: row %lld, column %lld is %g", what, (long long)row, (long long)column,
                         (double)value);
    return awqi_fail(AWQ_ERROR_NON_FINITE,
                     "%s: row %lld, column %lld is %g, which overflows when multiplied by its scale %g", what,
                     (long long)row, (long long)column, (double)value, (double)scaled->scales[column]);
}
