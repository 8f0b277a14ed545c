/* Sections 4 and 5: scale search and clip search in the profiles of the peers. */
#include "golden.h"
#include "search.h"

#include <math.h>
#include <string.h>

enum { MAX_WEIGHTS = 8 };

/* The linears of a search case: one as "w", or several as "w0", "w1", .. */
struct linears {
    awq_tensor weights[MAX_WEIGHTS];
    int64_t count;
};

static bool is_llm_awq(const struct golden_case *test)
{
    return strcmp(golden_peer(test), "llm-awq") == 0;
}

/* The peers search on weights as they are, here F32, so that scales are not rounded to FP16. */
static void fill_quantize(const struct golden_case *test, const char *group_size, awq_quantize_options *options)
{
    awq_struct_init(options, sizeof *options);
    options->bits = (int32_t)golden_integer(test, "bits", 0);
    options->group_size = golden_integer(test, group_size, 0);
    options->flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    options->profile = is_llm_awq(test) ? AWQ_PROFILE_LLM_AWQ : AWQ_PROFILE_AUTOAWQ;
    options->scale_dtype = AWQ_F32;
}

static awq_calibration *calibrate(struct golden_case *test, const awq_tensor *x)
{
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = x->shape[0];
    awq_calibration *calibration = NULL;
    if (!golden_ok(test, awq_calibration_create(golden_context(test), x->shape[1], &options, &calibration), "create"))
        return NULL;
    if (golden_ok(test, awq_calibration_observe(calibration, x), "observe")) return calibration;
    awq_calibration_destroy(calibration);
    return NULL;
}

/* ---- section 4 */

static bool read_linears(struct golden_case *test, struct linears *linears)
{
    memset(linears, 0, sizeof *linears);
    for (int i = -1; i < MAX_WEIGHTS; i++) {
        const char name[3] = {'w', i < 0 ? 0 : (char)('0' + i), 0};
        if (!golden_has_input(test, name)) continue;
        const awq_tensor *w = golden_input(test, name);
        if (w == NULL) return false;
        linears->weights[linears->count++] = *w;
    }
    if (linears->count == 0) golden_fail(test, "no weights");
    return linears->count > 0;
}

static void compare_means(struct golden_case *test, const awq_calibration *calibration, const struct linears *linears)
{
    int64_t k = linears->weights[0].shape[1], group_size = golden_integer(test, "group_size", 0);
    awq_tensor *mean = golden_matrix(test, AWQ_F64, 1, k);
    if (golden_ok(test, awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, mean->data, k), "mean"))
        golden_compare(test, "x_mean", mean);
    if (golden_ok(test, awqi_weight_mean(golden_context(test), linears->weights, linears->count,
                                         group_size > 0 ? group_size : k, mean->data), "mean"))
        golden_compare(test, "w_mean", mean);
}

static void compare_result(struct golden_case *test, const awq_search *search)
{
    awq_search_result result;
    awq_struct_init(&result, sizeof result);
    if (!golden_ok(test, awq_search_get_result(search, &result), "result")) return;
    awq_tensor *history = golden_matrix(test, AWQ_F64, 1, result.candidates);
    if (golden_ok(test, awq_search_get_history(search, NULL, history->data, result.candidates), "history"))
        golden_compare(test, "history", history);
    awq_tensor ratio;
    awq_tensor_init_1d(&ratio, &result.alpha, AWQ_F64, 1);
    golden_compare(test, "best_ratio", &ratio);
    const awq_tensor *expected = golden_expected(test, "best_scales");
    if (expected == NULL) return;
    awq_tensor *scales = golden_matrix(test, AWQ_F32, 1, expected->shape[0]);
    if (golden_ok(test, awq_search_get_scales(search, scales->data, expected->shape[0]), "scales"))
        golden_compare(test, "best_scales", scales);
}

static void search_linears(struct golden_case *test, const awq_calibration *calibration, const struct linears *linears)
{
    awq_quantize_options quantize;
    fill_quantize(test, "group_size", &quantize);
    awq_search_options options;
    awq_struct_init(&options, sizeof options);
    options.grid_points = (int32_t)golden_integer(test, "n_grid", 0);
    options.scales = golden_flag(test, "duo_scaling") ? AWQ_SCALES_DUO : AWQ_SCALES_PLAIN;
    options.quantize = &quantize;
    awq_search *search = NULL;
    bool ok = golden_ok(test, awq_search_create(golden_context(test), calibration, &options, &search), "search");
    for (int64_t i = 0; ok && i < linears->count; i++)
        ok = golden_ok(test, awq_search_add_weight(search, &linears->weights[i]), "add");
    if (ok && golden_ok(test, awq_search_run(search), "run")) compare_result(test, search);
    awq_search_destroy(search);
}

void golden_scale_search(struct golden_case *test)
{
    struct linears linears;
    const awq_tensor *x = golden_input(test, "x");
    if (x == NULL || !read_linears(test, &linears)) return;
    awq_calibration *calibration = calibrate(test, x);
    if (calibration == NULL) return;
    compare_means(test, calibration, &linears);
    search_linears(test, calibration, &linears);
    awq_calibration_destroy(calibration);
}

/* ---- section 5 */

/* What a limit of ours means on the case's grid: the step whose limit it is, or -1. */
static int64_t step_of(const struct golden_case *test, const awq_tensor *w, int64_t row, int64_t group, float limit)
{
    int64_t size = golden_integer(test, "group_size_used", 1), grid = golden_integer(test, "n_grid", 1);
    const float *values = (const float *)w->data + row * w->shape[1] + group * size;
    float largest = 0.0f;
    for (int64_t i = 0; i < size; i++) largest = fmaxf(largest, fabsf(values[i]));
    int64_t steps = (int64_t)(golden_number(test, "max_shrink", 0.0) * (double)grid);
    for (int64_t i = 0; i < steps; i++)
        if (limit == largest * (float)(1.0 - (double)i / (double)grid)) return i;
    return -1;
}

/* The kind exact_or_tie: the peer's limit exactly, or another of the grid whose error is within the tolerance of the
 * least. */
static void compare_limits(struct golden_case *test, const awq_tensor *w, const awq_tensor *limits)
{
    const awq_tensor *expected = golden_expected(test, "best_max_val"), *steps = golden_expected(test, "best_step");
    const awq_tensor *errors = golden_expected(test, "err_float64");
    if (expected == NULL || steps == NULL || errors == NULL) return;
    double tolerance = json_number_value(json_object_get(golden_tolerance(test, "best_max_val"), "value"));
    int64_t groups = limits->shape[1], count = errors->shape[2];
    for (int64_t i = 0; i < limits->shape[0] * groups; i++) {
        float limit = ((const float *)limits->data)[i];
        if (limit == (float)npy_value(expected, i)) continue;
        int64_t step = step_of(test, w, i / groups, i % groups, limit);
        double least = INFINITY;
        for (int64_t j = 0; j < count; j++) least = fmin(least, npy_value(errors, i * count + j));
        if (step >= 0 && npy_value(errors, i * count + step) <= least * (1.0 + tolerance)) continue;
        golden_fail(test, "best_max_val: row %lld, group %lld is %.9g (step %lld), expected %.9g (step %g)",
                    (long long)(i / groups), (long long)(i % groups), (double)limit, (long long)step,
                    npy_value(expected, i), npy_value(steps, i));
        return;
    }
}

/* The library reports mean errors only; they must be those of err_float64. */
static void compare_losses(struct golden_case *test, const awq_clip_result *result)
{
    const awq_tensor *errors = golden_expected(test, "err_float64");
    if (errors == NULL) return;
    int64_t groups = errors->shape[0] * errors->shape[1], count = errors->shape[2];
    double tolerance = json_number_value(json_object_get(golden_tolerance(test, "err_float64"), "value"));
    double unclipped = 0.0, best = 0.0;
    for (int64_t i = 0; i < groups; i++) {
        double least = INFINITY;
        for (int64_t j = 0; j < count; j++) least = fmin(least, npy_value(errors, i * count + j));
        unclipped += npy_value(errors, i * count) / (double)groups;
        best += least / (double)groups;
    }
    if (fabs(result->loss_unclipped - unclipped) > tolerance * unclipped ||
        fabs(result->loss - best) > tolerance * best)
        golden_fail(test, "err_float64: means %.9g and %.9g, expected %.9g and %.9g", result->loss_unclipped,
                    result->loss, unclipped, best);
}

static void search_clip(struct golden_case *test, const awq_calibration *calibration, const awq_tensor *w)
{
    awq_quantize_options quantize;
    fill_quantize(test, "group_size_used", &quantize);
    awq_clip_options options;
    awq_struct_init(&options, sizeof options);
    options.grid_points = (int32_t)golden_integer(test, "n_grid", 0);
    options.max_shrink = golden_number(test, "max_shrink", 0.0);
    options.max_rows = golden_integer(test, "tokens_used", 0);
    options.quantize = &quantize;
    awq_clip_result result;
    awq_struct_init(&result, sizeof result);
    awq_tensor *limits = golden_matrix(test, AWQ_F32, w->shape[0], w->shape[1] / quantize.group_size);
    awq_status status = awq_clip_search(golden_context(test), w, calibration, NULL, &options, limits, &result);
    if (!golden_ok(test, status, "awq_clip_search")) return;
    compare_limits(test, w, limits);
    compare_losses(test, &result);
}

/* The peers take every token_step-th row; a calibration that sees only those keeps them all. */
void golden_clip_search(struct golden_case *test)
{
    const awq_tensor *w = golden_input(test, "w"), *x = golden_input(test, "x");
    if (w == NULL || x == NULL) return;
    awq_tensor used = *x;
    used.shape[0] = golden_integer(test, "tokens_used", 0);
    used.strides[0] *= golden_integer(test, "token_step", 1);
    awq_calibration *calibration = calibrate(test, &used);
    if (calibration == NULL) return;
    search_clip(test, calibration, w);
    awq_calibration_destroy(calibration);
}
