/* Clip search: the limits it keeps against all limits tried plainly, and refusals. */
#include "internal.h"
#include "support.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { STEPS = 10, GRID = 20, MAX_N = 20, MAX_K = 72, MAX_GROUPS = 9 };

struct problem {
    awq_context *context;
    awq_calibration *calibration;
    int64_t n, k, rows, groups;
    float *x;
    void *data;
    awq_tensor w;
    float scales[MAX_K]; /* used when quantize.input_scale is set */
    awq_tensor scale_view;
    awq_quantize_options quantize;
    awq_clip_options options;
};

static void make_problem(struct problem *problem, uint64_t seed, int32_t threads, int64_t n, int64_t k,
                         int64_t group_size, int64_t rows, int32_t dtype)
{
    awq_context_options context_options;
    awq_calibration_options calibration_options;
    awq_struct_init(&context_options, sizeof context_options);
    context_options.threads = threads;
    assert_int_equal(awq_context_create(&context_options, &problem->context), AWQ_OK);
    problem->n = n;
    problem->k = k;
    problem->rows = rows;
    problem->groups = (k + group_size - 1) / group_size;
    problem->data = random_array(&seed, dtype, n * k, 0.1f);
    problem->x = random_array(&seed, AWQ_F32, rows * k, 1.0f);
    for (int64_t i = 0; i < rows * k; i += 5) problem->x[i] *= 10.0f;
    awq_tensor_init_2d(&problem->w, problem->data, dtype, n, k);
    for (int64_t j = 0; j < k && j < MAX_K; j++) problem->scales[j] = 0.5f + (float)random_uniform(&seed);
    awq_tensor_init_const_1d(&problem->scale_view, problem->scales, AWQ_F32, k);
    awq_struct_init(&problem->quantize, sizeof problem->quantize);
    problem->quantize.group_size = group_size;
    problem->quantize.bits = 3;
    awq_struct_init(&problem->options, sizeof problem->options);
    problem->options.quantize = &problem->quantize;

    awq_tensor x;
    awq_tensor_init_const_2d(&x, problem->x, AWQ_F32, rows, k);
    awq_struct_init(&calibration_options, sizeof calibration_options);
    calibration_options.sample_rows = rows;
    assert_int_equal(awq_calibration_create(problem->context, k, &calibration_options, &problem->calibration), AWQ_OK);
    assert_int_equal(awq_calibration_observe(problem->calibration, &x), AWQ_OK);
}

static void free_problem(struct problem *problem)
{
    free(problem->data);
    free(problem->x);
    awq_calibration_destroy(problem->calibration);
    awq_context_destroy(problem->context);
}

static awq_status search_clip(struct problem *problem, float *limits, awq_clip_result *result)
{
    awq_tensor view;
    awq_tensor_init_2d(&view, limits, AWQ_F32, problem->n, problem->groups);
    awq_struct_init(result, sizeof *result);
    return awq_clip_search(problem->context, &problem->w, problem->calibration, NULL, &problem->options, &view, result);
}

static void assert_refused(awq_status status, awq_status expected, const char *text)
{
    if (status == expected && strstr(awq_last_error(), text) != NULL) return;
    fail_msg("%s: \"%s\" where %s with \"%s\" was expected", awq_status_name(status), awq_last_error(),
             awq_status_name(expected), text);
}

static void assert_close(double actual, double expected, double tolerance)
{
    if (fabs(actual - expected) <= tolerance * fabs(expected)) return;
    fail_msg("%.17g where %.17g was expected, within %g", actual, expected, tolerance);
}

/* ---- all limits, plainly */

/* w s as the quantiser sees it. */
static float scaled_weight(const struct problem *problem, int64_t row, int64_t column)
{
    float value;
    awqi_load_columns(&problem->w, row, column, &value, 1);
    if (problem->quantize.input_scale != NULL) value *= problem->scales[column];
    return awqi_round_to(problem->quantize.profile == AWQ_PROFILE_EXACT ? AWQ_F32 : problem->w.dtype, value);
}

static float largest_of(const struct problem *problem, int64_t row, int64_t group)
{
    float largest = 0.0f;
    int64_t begin = group * problem->quantize.group_size;
    for (int64_t j = begin; j < awqi_min64(begin + problem->quantize.group_size, problem->k); j++)
        largest = fmaxf(largest, fabsf(scaled_weight(problem, row, j)));
    return largest;
}

/* errors[n][groups] with the given limits, from a weight quantised and dequantised through the public functions. */
static void errors_with(const struct problem *problem, const float *limits, double *errors)
{
    static float values[MAX_N * MAX_K];
    awq_tensor clip, view, samples;
    awq_weight *weight;
    awq_quantize_options options = problem->quantize;
    awq_tensor_init_const_2d(&clip, limits, AWQ_F32, problem->n, problem->groups);
    awq_tensor_init_2d(&view, values, AWQ_F32, problem->n, problem->k);
    options.clip = &clip;
    assert_int_equal(awq_quantize(problem->context, &problem->w, NULL, &options, &weight), AWQ_OK);
    assert_int_equal(awq_weight_dequantize(weight, 0, &view), AWQ_OK);
    awq_weight_destroy(weight);
    if (options.profile != AWQ_PROFILE_EXACT) /* peers round this product too */
        for (int64_t i = 0; i < problem->n * problem->k; i++) values[i] = awqi_round_to(problem->w.dtype, values[i]);
    assert_int_equal(awq_calibration_get_samples(problem->calibration, &samples), AWQ_OK);
    int64_t rows = samples.shape[0];
    if (problem->options.max_rows != 0) rows = awqi_min64(rows, problem->options.max_rows);
    for (int64_t n = 0; n < problem->n; n++)
        for (int64_t group = 0; group < problem->groups; group++) {
            int64_t begin = group * problem->quantize.group_size;
            int64_t end = awqi_min64(begin + problem->quantize.group_size, problem->k);
            double sum = 0.0;
            for (int64_t t = 0; t < rows; t++) {
                double output = 0.0;
                for (int64_t j = begin; j < end; j++) {
                    double x = (double)((const float *)samples.data)[t * problem->k + j];
                    if (problem->quantize.input_scale != NULL) x /= (double)problem->scales[j];
                    output += x * ((double)scaled_weight(problem, n, j) - (double)values[n * problem->k + j]);
                }
                sum += output * output;
            }
            errors[n * problem->groups + group] = sum / (double)rows;
        }
}

/* The kept limits are on the grid, and none is better by more than rounding; the losses are the errors' means. */
static void check_clip(struct problem *problem)
{
    static double errors[STEPS][MAX_N * MAX_GROUPS];
    static float grid[STEPS][MAX_N * MAX_GROUPS], limits[MAX_N * MAX_GROUPS];
    int64_t count = problem->n * problem->groups, clipped = 0;
    bool peer = problem->quantize.profile != AWQ_PROFILE_EXACT;
    double best = 0.0, unclipped = 0.0;
    awq_clip_result result;
    if (search_clip(problem, limits, &result) != AWQ_OK) fail_msg("%s", awq_last_error());
    for (int step = 0; step < STEPS; step++) {
        for (int64_t i = 0; i < count; i++)
            grid[step][i] = awqi_round_to(peer ? problem->w.dtype : AWQ_F32,
                                          largest_of(problem, i / problem->groups, i % problem->groups) *
                                              (float)(1.0 - (double)step / GRID));
        errors_with(problem, grid[step], errors[step]);
    }
    for (int64_t i = 0; i < count; i++) {
        int found = -1;
        double least = INFINITY;
        for (int step = STEPS - 1; step >= 0; step--) {
            if (grid[step][i] == limits[i]) found = step;
            least = fmin(least, errors[step][i]);
        }
        assert_true(found >= 0);
        assert_true(errors[found][i] <= least * (1.0 + 1e-5));
        best += least / (double)count;
        unclipped += errors[0][i] / (double)count;
        clipped += found > 0;
    }
    assert_close(result.loss, best, 1e-5);
    assert_close(result.loss_unclipped, unclipped, 1e-5);
    assert_true(result.loss < result.loss_unclipped);
    assert_int_equal(result.groups, count);
    assert_int_equal(result.clipped_groups, clipped);
}

static void the_best_limit_of_each_group_is_kept(void **state)
{
    (void)state;
    static const struct {
        int64_t n, k, group_size, rows, max_rows;
    } shapes[] = {
        {20, 64, 16, 200, 0}, /* reduced to roots */
        {17, 70, 16, 100, 0}, /* a last tile of one output, a last group of 6 inputs */
        {5, 72, 72, 31, 0},   /* fewer rows than inputs, and an odd number of them */
        {16, 33, 11, 11, 0},  /* as many rows as inputs, both odd */
        {20, 40, 8, 300, 20}, /* only some of the rows */
        {1, 9, 1, 50, 0},     /* every input a group */
        {3, 40, 32, 20, 0},   /* rows between the widths of the two groups */
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int scaled = 0; scaled < 2; scaled++) {
            struct problem problem;
            make_problem(&problem, 30 + i, 2, shapes[i].n, shapes[i].k, shapes[i].group_size, shapes[i].rows, AWQ_F32);
            problem.options.max_rows = shapes[i].max_rows;
            if (scaled) problem.quantize.input_scale = &problem.scale_view;
            if (shapes[i].group_size > 1) {
                check_clip(&problem);
            } else { /* a group of one input is exact as it is, but for its scale's rounding */
                float limits[MAX_K];
                awq_clip_result result;
                assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
                assert_true(result.loss <= result.loss_unclipped);
            }
            free_problem(&problem);
        }
}

static void every_quantiser_is_searched_as_it_is(void **state)
{
    (void)state;
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    for (int32_t profile = AWQ_PROFILE_EXACT; profile <= AWQ_PROFILE_LLM_AWQ; profile++)
        for (size_t d = 0; d < 3; d++)
            for (uint32_t flags = 0; flags <= AWQ_QUANTIZE_SYMMETRIC; flags += AWQ_QUANTIZE_SYMMETRIC) {
                if (profile == AWQ_PROFILE_LLM_AWQ && flags != 0) continue;
                struct problem problem;
                make_problem(&problem, 40 + d, 2, 12, 64, 32, 150, dtypes[d]);
                problem.quantize.profile = profile;
                problem.quantize.flags = flags;
                check_clip(&problem);
                free_problem(&problem);
            }
}

static void a_finished_search_brings_its_scales_and_its_quantiser(void **state)
{
    (void)state;
    enum { N = 6, INPUTS = 32, GROUPS = 2 };
    struct problem problem;
    make_problem(&problem, 50, 2, N, INPUTS, 16, 60, AWQ_F32);
    awq_search_options search_options;
    awq_struct_init(&search_options, sizeof search_options);
    search_options.quantize = &problem.quantize;
    awq_search *search;
    float limits[2][N * GROUPS];
    awq_tensor view;
    awq_tensor_init_2d(&view, limits[0], AWQ_F32, N, GROUPS);
    assert_int_equal(awq_search_create(problem.context, problem.calibration, &search_options, &search), AWQ_OK);
    assert_int_equal(awq_search_add_weight(search, &problem.w), AWQ_OK);
    assert_refused(awq_clip_search(problem.context, &problem.w, problem.calibration, search, NULL, &view, NULL),
                   AWQ_ERROR_STATE, "no result");
    assert_int_equal(awq_search_run(search), AWQ_OK);
    assert_int_equal(awq_clip_search(problem.context, &problem.w, problem.calibration, search, NULL, &view, NULL),
                     AWQ_OK);
    assert_int_equal(awq_search_get_scales(search, problem.scales, INPUTS), AWQ_OK);
    problem.quantize.input_scale = &problem.scale_view;
    awq_clip_result result;
    assert_int_equal(search_clip(&problem, limits[1], &result), AWQ_OK);
    assert_memory_equal(limits[0], limits[1], sizeof limits[0]);
    assert_refused(
        awq_clip_search(problem.context, &problem.w, problem.calibration, search, &problem.options, &view, NULL),
        AWQ_ERROR_INVALID, "both a search and an input_scale");
    awq_search_destroy(search);
    free_problem(&problem);
}

static void the_widest_limit_wins_ties(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 51, 2, 4, 32, 16, 60, AWQ_F32);
    awq_calibration_destroy(problem.calibration);
    for (int64_t t = 0; t < problem.rows; t++)
        for (int j = 16; j < 32; j++) problem.x[t * 32 + j] = 0.0f; /* nothing can be seen of group 1 */
    for (int j = 0; j < 16; j++) ((float *)problem.data)[2 * 32 + j] = 0.0f; /* nothing to clip in row 2, group 0 */
    awq_tensor x;
    awq_tensor_init_const_2d(&x, problem.x, AWQ_F32, problem.rows, 32);
    assert_int_equal(awq_calibration_create(problem.context, 32, NULL, &problem.calibration), AWQ_OK);
    assert_int_equal(awq_calibration_observe(problem.calibration, &x), AWQ_OK);
    float limits[8];
    awq_clip_result result;
    assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
    for (int64_t row = 0; row < 4; row++) assert_true(limits[row * 2 + 1] == largest_of(&problem, row, 1));
    assert_true(limits[2 * 2] == 0.0f);
    assert_true(result.clipped_groups <= 3);
    free_problem(&problem);
}

/* The peers never take a limit whose error is 1e9 or more. */
static void peers_leave_hopeless_groups_alone(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 52, 2, 8, 32, 16, 60, AWQ_F32);
    awq_calibration_destroy(problem.calibration);
    for (int64_t i = 0; i < problem.rows * 32; i++) problem.x[i] *= 1e7f;
    awq_tensor x;
    awq_tensor_init_const_2d(&x, problem.x, AWQ_F32, problem.rows, 32);
    assert_int_equal(awq_calibration_create(problem.context, 32, NULL, &problem.calibration), AWQ_OK);
    assert_int_equal(awq_calibration_observe(problem.calibration, &x), AWQ_OK);
    float limits[16];
    awq_clip_result result;
    problem.quantize.profile = AWQ_PROFILE_AUTOAWQ;
    assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
    assert_int_equal(result.clipped_groups, 0);
    problem.quantize.profile = AWQ_PROFILE_EXACT;
    assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
    assert_true(result.clipped_groups > 0);
    free_problem(&problem);
}

static void threads_and_blocks_do_not_show(void **state)
{
    (void)state;
    enum { N = 40, INPUTS = 1 << 16, GROUPS = 64, PART = 3 }; /* 16 rows are a block */
    static const int32_t threads[3] = {1, 2, 7};
    float *limits[3], part[PART * GROUPS];
    double losses[3];
    for (int i = 0; i < 3; i++) {
        struct problem problem;
        make_problem(&problem, 53, threads[i], N, INPUTS, INPUTS / GROUPS, 3, AWQ_F16);
        problem.options.grid_points = 4;
        awq_clip_result result;
        limits[i] = malloc(N * GROUPS * sizeof *limits[i]);
        assert_int_equal(search_clip(&problem, limits[i], &result), AWQ_OK);
        losses[i] = result.loss;
        problem.n = problem.w.shape[0] = PART;
        problem.w.data = (uint16_t *)problem.data + (N - PART) * INPUTS;
        assert_int_equal(search_clip(&problem, part, &result), AWQ_OK);
        assert_memory_equal(part, limits[i] + (N - PART) * GROUPS, sizeof part);
        assert_memory_equal(limits[i], limits[0], N * GROUPS * sizeof *limits[i]);
        assert_true(losses[i] == losses[0]);
        free_problem(&problem);
    }
    for (int i = 0; i < 3; i++) free(limits[i]);
}

static void limits_may_lie_apart(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 54, 2, 4, 32, 16, 60, AWQ_F32);
    float dense[8], apart[2][8];
    awq_clip_result result;
    assert_int_equal(search_clip(&problem, dense, &result), AWQ_OK);
    memset(apart, 0, sizeof apart);
    awq_tensor view;
    awq_tensor_init_2d(&view, apart, AWQ_F32, 4, 2);
    view.strides[0] = 2;
    view.strides[1] = 8;
    assert_int_equal(
        awq_clip_search(problem.context, &problem.w, problem.calibration, NULL, &problem.options, &view, NULL), AWQ_OK);
    for (int row = 0; row < 4; row++)
        for (int group = 0; group < 2; group++) {
            assert_true(apart[group][row * 2] == dense[row * 2 + group]);
            assert_true(apart[group][row * 2 + 1] == 0.0f);
        }
    free_problem(&problem);
}

struct watcher {
    uint64_t calls, stop_at, last_total;
};

static int32_t watch(void *user_data, uint64_t done, uint64_t total)
{
    struct watcher *watcher = user_data;
    assert_int_equal(done, ++watcher->calls);
    watcher->last_total = total;
    return done == watcher->stop_at;
}

static void progress_counts_and_cancels(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 55, 2, 4, 32, 16, 60, AWQ_F32);
    struct watcher watcher = {0};
    problem.options.progress = watch;
    problem.options.progress_data = &watcher;
    float limits[8];
    awq_clip_result result;
    assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
    assert_true(watcher.calls == STEPS && watcher.last_total == STEPS);
    watcher = (struct watcher){.stop_at = 4};
    for (int i = 0; i < 8; i++) limits[i] = -1.0f;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_CANCELLED, "progress");
    assert_int_equal(watcher.calls, 4);
    assert_true(result.groups == 0);
    for (int i = 0; i < 8; i++) assert_true(limits[i] == -1.0f);
    free_problem(&problem);
}

/* ---- refusals */

static void bad_options_are_refused(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 56, 1, 4, 32, 16, 60, AWQ_F32);
    float limits[8];
    awq_clip_result result;
    awq_tensor clip;
    awq_tensor_init_const_2d(&clip, limits, AWQ_F32, 4, 2);
    const awq_clip_options good = problem.options;
    const awq_quantize_options quantize = problem.quantize;
    problem.options.grid_points = -1;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "grid_points is -1");
    problem.options = good;
    problem.options.max_shrink = 1.25;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "max_shrink is 1.25");
    problem.options.max_shrink = NAN;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "max_shrink is nan");
    problem.options = good;
    problem.options.max_rows = -1;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "max_rows is -1");
    problem.options = good;
    problem.options.struct_size = 3;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "struct_size");
    problem.options = good;
    problem.quantize.clip = &clip;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "clip");
    problem.quantize = quantize;
    problem.quantize.bits = 9;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "bits is 9");
    problem.quantize = quantize;
    problem.quantize.input_scale = &problem.scale_view;
    problem.scales[3] = -1.0f;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "column 3 is -1");
    problem.scales[3] = NAN;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_NON_FINITE, "column 3 is nan");
    problem.scales[3] = 1.0f;
    problem.scale_view.shape[0] = 31;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_INVALID, "[31]");
    problem.quantize = quantize;
    problem.options.grid_points = 3; /* fewer steps than one: only the widest is tried */
    problem.options.max_shrink = 0.1;
    assert_int_equal(search_clip(&problem, limits, &result), AWQ_OK);
    assert_true(result.clipped_groups == 0 && result.loss == result.loss_unclipped);
    free_problem(&problem);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 57, 1, 4, 32, 16, 60, AWQ_F32);
    float values[64] = {0};
    awq_tensor limits, bad;
    awq_tensor_init_2d(&limits, values, AWQ_F32, 4, 2);
    awq_context *context = problem.context;
    const awq_calibration *calibration = problem.calibration;
    const awq_clip_options *options = &problem.options;
#define CLIP(w, limits) awq_clip_search(context, w, calibration, NULL, options, limits, NULL)
    assert_refused(awq_clip_search(NULL, &problem.w, calibration, NULL, options, &limits, NULL), AWQ_ERROR_INVALID,
                   "context is NULL");
    assert_refused(awq_clip_search(context, &problem.w, NULL, NULL, options, &limits, NULL), AWQ_ERROR_INVALID,
                   "calibration is NULL");
    assert_refused(CLIP(NULL, &limits), AWQ_ERROR_INVALID, "w is NULL");
    assert_refused(CLIP(&problem.w, NULL), AWQ_ERROR_INVALID, "limits is NULL");
    awq_tensor_init_const_2d(&bad, values, AWQ_F32, 4, 2);
    assert_refused(CLIP(&problem.w, &bad), AWQ_ERROR_INVALID, "read-only");
    awq_tensor_init_2d(&bad, values, AWQ_F32, 4, 3);
    assert_refused(CLIP(&problem.w, &bad), AWQ_ERROR_INVALID, "[4][3]");
    awq_tensor_init_2d(&bad, values, AWQ_F16, 4, 2);
    assert_refused(CLIP(&problem.w, &bad), AWQ_ERROR_INVALID, "F16");
    bad = limits;
    bad.device_type = AWQ_DEVICE_CUDA;
    assert_refused(CLIP(&problem.w, &bad), AWQ_ERROR_INVALID, "host");
    awq_tensor_init_2d(&bad, values, AWQ_F32, 4, 16);
    assert_refused(CLIP(&bad, &limits), AWQ_ERROR_INVALID, "[4][2]"); /* one group of inputs only */
    awq_tensor_init_2d(&bad, values, AWQ_F32, 2, 31);
    awq_tensor_init_2d(&limits, values, AWQ_F32, 2, 2);
    assert_refused(CLIP(&bad, &limits), AWQ_ERROR_INVALID, "32 channels, but w has 31 inputs");
    awq_tensor_init_2d(&bad, values, AWQ_F32, 0, 32);
    assert_refused(CLIP(&bad, &limits), AWQ_ERROR_INVALID, "no elements");
    awq_tensor_init_2d(&limits, values, AWQ_F32, 4, 2);
    ((float *)problem.data)[2 * 32 + 9] = NAN;
    assert_refused(CLIP(&problem.w, &limits), AWQ_ERROR_NON_FINITE, "row 2, column 9 is nan");
    ((float *)problem.data)[2 * 32 + 9] = FLT_MAX;
    problem.quantize.input_scale = &problem.scale_view;
    problem.scales[9] = 2.0f;
    assert_refused(CLIP(&problem.w, &limits), AWQ_ERROR_NON_FINITE, "overflows");
    for (int i = 0; i < 64; i++) assert_true(values[i] == 0.0f);
#undef CLIP
    free_problem(&problem);
}

static void rows_are_needed(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 58, 1, 4, 32, 16, 60, AWQ_F32);
    awq_calibration_destroy(problem.calibration);
    assert_int_equal(awq_calibration_create(problem.context, 32, NULL, &problem.calibration), AWQ_OK);
    float limits[8];
    awq_clip_result result;
    assert_refused(search_clip(&problem, limits, &result), AWQ_ERROR_STATE, "keeps no rows");
    free_problem(&problem);
}

/* A memory limit that grows until the search fits: every allocation fails once. */
static void a_memory_limit_is_kept(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 59, 1, 4, 32, 16, 60, AWQ_F32);
    awq_status status = AWQ_ERROR_MEMORY_LIMIT;
    int refusals = 0;
    for (uint64_t limit = 256; status != AWQ_OK; limit += 256) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = 1;
        options.memory_limit_bytes = limit;
        awq_context *context;
        float limits[8] = {0};
        awq_tensor view;
        awq_tensor_init_2d(&view, limits, AWQ_F32, 4, 2);
        status = awq_context_create(&options, &context);
        if (status == AWQ_ERROR_MEMORY_LIMIT) continue;
        uint64_t before, after;
        assert_int_equal(awq_context_get_memory(context, &before, NULL), AWQ_OK);
        status = awq_clip_search(context, &problem.w, problem.calibration, NULL, &problem.options, &view, NULL);
        if (status != AWQ_OK) {
            assert_int_equal(status, AWQ_ERROR_MEMORY_LIMIT);
            assert_true(limits[0] == 0.0f);
            refusals++;
        }
        assert_int_equal(awq_context_get_memory(context, &after, NULL), AWQ_OK);
        assert_int_equal(after, before);
        awq_context_destroy(context);
    }
    assert_true(refusals > 10);
    free_problem(&problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_best_limit_of_each_group_is_kept),
        cmocka_unit_test(every_quantiser_is_searched_as_it_is),
        cmocka_unit_test(a_finished_search_brings_its_scales_and_its_quantiser),
        cmocka_unit_test(the_widest_limit_wins_ties),
        cmocka_unit_test(peers_leave_hopeless_groups_alone),
        cmocka_unit_test(threads_and_blocks_do_not_show),
        cmocka_unit_test(limits_may_lie_apart),
        cmocka_unit_test(progress_counts_and_cancels),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(rows_are_needed),
        cmocka_unit_test(a_memory_limit_is_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
