/* Scale search: losses and scales against a plain rendering of their definitions, callbacks, ties, and refusals. */
#include "search.h"
#include "support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

enum { K = 48, ROWS = 40, GROUP = 16, GRID = 6, LINEARS = 3, MAX_CANDIDATES = 2 * GRID + 1 };

/* Linears that share an input with a few loud channels, as large models have them. */
struct problem {
    awq_context *context;
    awq_calibration *calibration;
    float x[ROWS][K];
    void *data[LINEARS];
    awq_tensor weights[LINEARS];
    awq_quantize_options quantize;
    awq_search_options options;
};

static void make_problem(struct problem *problem, uint64_t seed, int32_t threads)
{
    static const int32_t dtypes[LINEARS] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    static const int64_t outputs[LINEARS] = {24, 7, 16};
    awq_context_options context_options;
    awq_struct_init(&context_options, sizeof context_options);
    context_options.threads = threads;
    assert_int_equal(awq_context_create(&context_options, &problem->context), AWQ_OK);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < K; j++) problem->x[i][j] = random_normal(&seed) * (j % 11 == 3 ? 30.0f : 0.5f);
    for (int i = 0; i < LINEARS; i++) {
        problem->data[i] = random_array(&seed, dtypes[i], outputs[i] * K, 0.1f);
        awq_tensor_init_2d(&problem->weights[i], problem->data[i], dtypes[i], outputs[i], K);
    }
    awq_struct_init(&problem->quantize, sizeof problem->quantize);
    problem->quantize.group_size = GROUP;
    problem->quantize.bits = 3;
    awq_struct_init(&problem->options, sizeof problem->options);
    problem->options.grid_points = GRID;
    problem->options.quantize = &problem->quantize;
    problem->calibration = NULL;
}

static void calibrate(struct problem *problem)
{
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_CALIBRATION_GRAM;
    awq_tensor x;
    awq_tensor_init_const_2d(&x, problem->x, AWQ_F32, ROWS, K);
    assert_int_equal(awq_calibration_create(problem->context, K, &options, &problem->calibration), AWQ_OK);
    assert_int_equal(awq_calibration_observe(problem->calibration, &x), AWQ_OK);
}

static awq_search *make_search(struct problem *problem, int linears)
{
    if (problem->calibration == NULL) calibrate(problem);
    awq_search *search = NULL;
    if (awq_search_create(problem->context, problem->calibration, &problem->options, &search) != AWQ_OK)
        fail_msg("%s", awq_last_error());
    for (int i = 0; i < linears; i++) assert_int_equal(awq_search_add_weight(search, &problem->weights[i]), AWQ_OK);
    return search;
}

static awq_search *run_search(struct problem *problem, int linears)
{
    awq_search *search = make_search(problem, linears);
    if (awq_search_run(search) != AWQ_OK) fail_msg("%s", awq_last_error());
    return search;
}

static void free_problem(struct problem *problem)
{
    for (int i = 0; i < LINEARS; i++) free(problem->data[i]);
    awq_calibration_destroy(problem->calibration);
    awq_context_destroy(problem->context);
}

static awq_search_result result_of(const awq_search *search)
{
    awq_search_result result;
    awq_struct_init(&result, sizeof result);
    assert_int_equal(awq_search_get_result(search, &result), AWQ_OK);
    return result;
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

/* ---- the definitions, once more and plainly */

/* w' = Q(w s) / s through the public functions: what a model would really be given. */
static void quantized(const struct problem *problem, int index, const float *scales, float *out)
{
    awq_tensor input_scale, view;
    awq_quantize_options options = problem->quantize;
    awq_tensor_init_const_1d(&input_scale, scales, AWQ_F32, K);
    awq_tensor_init_2d(&view, out, AWQ_F32, problem->weights[index].shape[0], K);
    options.input_scale = &input_scale;
    awq_weight *weight;
    assert_int_equal(awq_quantize(problem->context, &problem->weights[index], NULL, &options, &weight), AWQ_OK);
    assert_int_equal(awq_weight_dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, &view), AWQ_OK);
    awq_weight_destroy(weight);
}

/* Squared error of one linear's outputs over x[rows][K]. */
static double square_error(const awq_tensor *w, const float *candidate, const float *x, int64_t rows)
{
    double sum = 0.0;
    for (int64_t n = 0; n < w->shape[0]; n++) {
        float original[K];
        awqi_load_row(w, n, original, K);
        for (int64_t t = 0; t < rows; t++) {
            double error = 0.0;
            for (int j = 0; j < K; j++)
                error += (double)x[t * K + j] * ((double)original[j] - (double)candidate[n * K + j]);
            sum += error * error;
        }
    }
    return sum;
}

static double naive_loss(const struct problem *problem, int linears, const float *scales, const float *x, int64_t rows)
{
    double sum = 0.0, outputs = 0.0;
    for (int i = 0; i < linears; i++) {
        float candidate[24 * K];
        quantized(problem, i, scales, candidate);
        sum += square_error(&problem->weights[i], candidate, x, rows);
        outputs += (double)problem->weights[i].shape[0];
    }
    return sum / (outputs * (double)rows);
}

static void naive_importance(const struct problem *problem, double *importance)
{
    double mean = 0.0;
    for (int j = 0; j < K; j++) {
        importance[j] = 0.0;
        for (int i = 0; i < ROWS; i++) importance[j] += fabs((double)problem->x[i][j]) / ROWS;
        mean += importance[j] / K;
    }
    double f = problem->options.smooth_factor;
    for (int j = 0; j < K; j++) importance[j] = (1.0 - f) * importance[j] + f * mean;
}

static void naive_weight_mean(const struct problem *problem, int linears, double *mean)
{
    double outputs = 0.0;
    memset(mean, 0, K * sizeof *mean);
    for (int i = 0; i < linears; i++) {
        outputs += (double)problem->weights[i].shape[0];
        for (int64_t n = 0; n < problem->weights[i].shape[0]; n++) {
            float row[K];
            awqi_load_row(&problem->weights[i], n, row, K);
            for (int j = 0; j < K; j++) {
                double largest = 0.0;
                for (int other = j / GROUP * GROUP; other < (j / GROUP + 1) * GROUP; other++)
                    largest = fmax(largest, fabs((double)row[other]));
                mean[j] += fabs((double)row[j]) / (largest + 1e-6);
            }
        }
    }
    for (int j = 0; j < K; j++) mean[j] /= outputs;
}

static void naive_scales(const struct problem *problem, int linears, bool duo, double alpha, float *scales)
{
    double importance[K], mean[K], values[K], min = INFINITY, max = 0.0, sum = 0.0;
    naive_importance(problem, importance);
    naive_weight_mean(problem, linears, mean);
    for (int j = 0; j < K; j++) {
        values[j] = pow(importance[j], alpha);
        if (duo) values[j] /= pow(mean[j], 1.0 - alpha) + 1e-4;
        values[j] = fmax(values[j], 1e-4);
        min = fmin(min, values[j]);
        max = fmax(max, values[j]);
        sum += values[j];
    }
    double norm = problem->options.normalization == AWQ_NORMALIZE_MEAN ? sum / K : sqrt(max * min);
    for (int j = 0; j < K; j++) scales[j] = (float)(values[j] / norm);
}

/* ---- losses and scales */

/* Every candidate of one search, its scales and its loss. */
static void check_search(struct problem *problem, int linears)
{
    const awq_search_options *options = &problem->options;
    bool plain = options->scales != AWQ_SCALES_DUO, duo = options->scales != AWQ_SCALES_PLAIN;
    awq_search *search = run_search(problem, linears);
    awq_search_result result = result_of(search);
    double alphas[MAX_CANDIDATES], losses[MAX_CANDIDATES], least = INFINITY;
    int64_t grids = plain && duo ? 2 : 1;
    assert_int_equal(result.candidates, grids * GRID + (plain ? 0 : 1));
    assert_int_equal(result.rows, ROWS);
    assert_int_equal(awq_search_get_history(search, alphas, losses, result.candidates), AWQ_OK);
    int best = -1;
    for (int i = 0; i < result.candidates; i++) {
        float scales[K], found[K];
        bool identity = i == grids * GRID, is_duo = !plain || i >= GRID;
        double divisor = options->flags & AWQ_SEARCH_CLOSED_GRID ? GRID - 1 : GRID;
        double alpha = identity ? 0.0 : i % GRID / divisor;
        assert_true(alphas[i] == alpha);
        naive_scales(problem, linears, is_duo, alpha, scales);
        for (int j = 0; identity && j < K; j++) scales[j] = 1.0f;
        assert_close(losses[i], naive_loss(problem, linears, scales, &problem->x[0][0], ROWS), 1e-4);
        if (losses[i] < least) {
            least = losses[i];
            best = i;
        }
        if (i != result.best) continue;
        assert_int_equal(result.scales, is_duo && !identity ? AWQ_SCALES_DUO : AWQ_SCALES_PLAIN);
        assert_int_equal(awq_search_get_scales(search, found, K), AWQ_OK);
        for (int j = 0; j < K; j++) assert_close(found[j], scales[j], 1e-6);
    }
    assert_int_equal(result.best, best);
    assert_true(result.loss == least && result.alpha == alphas[best]);
    assert_true(result.loss_identity == losses[plain ? 0 : result.candidates - 1]);
    assert_true(result.loss <= result.loss_identity);
    awq_search_destroy(search);
}

static void losses_and_scales_are_what_is_defined(void **state)
{
    (void)state;
    for (int32_t scales = AWQ_SCALES_PLAIN; scales <= AWQ_SCALES_BOTH; scales++)
        for (uint32_t variant = 0; variant < 8; variant++) {
            struct problem problem;
            make_problem(&problem, 100 + variant, 2);
            problem.options.scales = scales;
            problem.options.normalization = variant & 1 ? AWQ_NORMALIZE_MEAN : AWQ_NORMALIZE_GEOMETRIC;
            problem.options.flags = variant & 2 ? AWQ_SEARCH_CLOSED_GRID : 0;
            problem.options.smooth_factor = variant & 4 ? 0.3 : 0.0;
            problem.quantize.flags = variant & 1 ? AWQ_QUANTIZE_SYMMETRIC : 0;
            check_search(&problem, variant & 2 ? LINEARS : 1);
            free_problem(&problem);
        }
}

static void exact_is_never_worse_than_plain_rounding(void **state)
{
    (void)state;
    int better = 0;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct problem problem;
        make_problem(&problem, seed, 2);
        problem.options.scales = (int32_t)(seed % 3);
        problem.quantize.bits = seed % 2 ? 4 : 2;
        awq_search *search = run_search(&problem, LINEARS);
        awq_search_result result = result_of(search);
        float ones[K];
        for (int j = 0; j < K; j++) ones[j] = 1.0f;
        assert_close(result.loss_identity, naive_loss(&problem, LINEARS, ones, &problem.x[0][0], ROWS), 1e-5);
        assert_true(result.loss <= result.loss_identity);
        better += result.loss < 0.9 * result.loss_identity;
        awq_search_destroy(search);
        free_problem(&problem);
    }
    assert_true(better >= 15);
}

static void dead_channels_keep_scale_one(void **state)
{
    (void)state;
    float scales[2][K];
    for (int32_t exact = 0; exact < 2; exact++) {
        struct problem problem;
        make_problem(&problem, 7, 2);
        for (int i = 0; i < ROWS; i++) problem.x[i][5] = 0.0f;
        problem.quantize.profile = exact ? AWQ_PROFILE_EXACT : AWQ_PROFILE_AUTOAWQ;
        awq_search *search = run_search(&problem, 1);
        assert_true(result_of(search).alpha > 0.0);
        assert_int_equal(awq_search_get_scales(search, scales[exact], K), AWQ_OK);
        awq_search_destroy(search);
        free_problem(&problem);
    }
    assert_true(scales[1][5] == 1.0f);
    double min = INFINITY, max = 0.0;
    for (int j = 0; j < K; j++) {
        if (j == 5) continue;
        min = fmin(min, scales[1][j]);
        max = fmax(max, scales[1][j]);
    }
    assert_close(min * max, 1.0, 1e-6);
    for (int j = 0; j < K; j++)
        assert_true(scales[0][5] <= scales[0][j]); /* in the peers it has the floor, and drags */
}

static void nothing_but_zeros_is_searched_too(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 8, 2);
    memset(problem.x, 0, sizeof problem.x);
    problem.options.scales = AWQ_SCALES_BOTH;
    awq_search *search = run_search(&problem, LINEARS);
    float scales[K];
    assert_int_equal(awq_search_get_scales(search, scales, K), AWQ_OK);
    for (int j = 0; j < K; j++) assert_true(scales[j] == 1.0f);
    assert_true(result_of(search).loss == 0.0 && result_of(search).best == 0);
    awq_search_destroy(search);
    free_problem(&problem);
}

static void peers_compare_with_identity_without_trying_it(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 9, 2);
    problem.options.scales = AWQ_SCALES_DUO;
    problem.quantize.profile = AWQ_PROFILE_AUTOAWQ;
    awq_search *search = run_search(&problem, 1);
    awq_search_result result = result_of(search);
    assert_int_equal(result.candidates, GRID);
    float ones[K];
    for (int j = 0; j < K; j++) ones[j] = 1.0f;
    assert_close(result.loss_identity, naive_loss(&problem, 1, ones, &problem.x[0][0], ROWS), 1e-5);
    awq_search_destroy(search);
    free_problem(&problem);
}

static void llm_awq_scales_have_the_dtype_of_the_weight(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 10, 2);
    problem.weights[0] = problem.weights[1]; /* F16 */
    problem.quantize.profile = AWQ_PROFILE_LLM_AWQ;
    awq_search *search = run_search(&problem, 1);
    float scales[K];
    assert_int_equal(awq_search_get_scales(search, scales, K), AWQ_OK);
    for (int j = 0; j < K; j++) assert_true(scales[j] == awqi_round_to(AWQ_F16, scales[j]));
    awq_search_destroy(search);
    free_problem(&problem);
}

static void fewer_rows_are_the_first_of_the_sample(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 11, 2);
    problem.options.max_rows = 13;
    awq_search *search = run_search(&problem, 1);
    assert_int_equal(result_of(search).rows, 13);
    awq_tensor samples;
    assert_int_equal(awq_calibration_get_samples(problem.calibration, &samples), AWQ_OK);
    float ones[K];
    for (int j = 0; j < K; j++) ones[j] = 1.0f;
    assert_close(result_of(search).loss_identity, naive_loss(&problem, 1, ones, samples.data, 13), 1e-5);
    awq_search_destroy(search);
    free_problem(&problem);
}

/* Estimates that are right on average, and a choice between the best of them and identity that is exact. */
static void a_sketch_estimates_the_losses_of_the_rows(void **state)
{
    (void)state;
    double ratios = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct problem problem;
        make_problem(&problem, seed, 2);
        problem.options.objective = seed % 2 ? AWQ_OBJECTIVE_SAMPLES : AWQ_OBJECTIVE_GRAM;
        problem.options.scales = seed % 4 == 1 ? AWQ_SCALES_DUO : AWQ_SCALES_PLAIN;
        awq_search *search = run_search(&problem, LINEARS);
        const awq_search_result exact = result_of(search);
        double losses[MAX_CANDIDATES], estimates[MAX_CANDIDATES], alphas[MAX_CANDIDATES];
        assert_int_equal(awq_search_get_history(search, alphas, losses, exact.candidates), AWQ_OK);
        awq_search_destroy(search);
        problem.options.sketch_rows = ROWS / 2;
        search = run_search(&problem, LINEARS);
        const awq_search_result sketched = result_of(search);
        assert_int_equal(awq_search_get_history(search, alphas, estimates, exact.candidates), AWQ_OK);
        awq_search_destroy(search);
        assert_true(sketched.loss_identity == exact.loss_identity && sketched.loss == losses[sketched.best]);
        assert_true(sketched.loss <= sketched.loss_identity && sketched.loss < 1.25 * exact.loss);
        assert_int_equal(sketched.rows, exact.rows);
        for (int64_t i = 0; i < exact.candidates; i++) ratios += estimates[i] / losses[i] / (double)exact.candidates / 8;
        problem.options.sketch_rows = K; /* no fewer than there are */
        search = run_search(&problem, LINEARS);
        assert_true(result_of(search).loss == exact.loss);
        awq_search_destroy(search);
        free_problem(&problem);
    }
    assert_close(ratios, 1.0, 0.15);
}

static void the_gram_matrix_gives_the_losses_of_the_rows(void **state)
{
    (void)state;
    double losses[2][GRID];
    struct problem problem;
    make_problem(&problem, 12, 2); /* 40 rows of 48 channels: the Gram matrix is singular */
    for (int32_t objective = AWQ_OBJECTIVE_SAMPLES; objective <= AWQ_OBJECTIVE_GRAM; objective++) {
        problem.options.objective = objective;
        awq_search *search = run_search(&problem, LINEARS);
        assert_int_equal(result_of(search).rows, objective == AWQ_OBJECTIVE_GRAM ? 0 : ROWS);
        assert_int_equal(awq_search_get_history(search, NULL, losses[objective], GRID), AWQ_OK);
        awq_search_destroy(search);
    }
    for (int i = 0; i < GRID; i++) assert_close(losses[1][i], losses[0][i], 1e-5);
    free_problem(&problem);
}

/* A root of a Gram matrix of random rows, larger than a block of the factorisation. */
static void a_root_reproduces_its_gram_matrix(void **state)
{
    (void)state;
    enum { N = 150 };
    static const int row_counts[] = {300, 60};
    awq_context *context;
    assert_int_equal(awq_context_create(NULL, &context), AWQ_OK);
    for (size_t c = 0; c < 2; c++) {
        uint64_t seed = 13;
        float *x = random_array(&seed, AWQ_F32, (int64_t)row_counts[c] * N, 1.0f), *root = malloc(N * N * sizeof *root);
        double *gram = calloc(N * N, sizeof *gram), *work = malloc(N * N * sizeof *work);
        for (int t = 0; t < row_counts[c]; t++)
            for (int i = 0; i < N; i++)
                for (int j = 0; j < N; j++) gram[i * N + j] += (double)x[t * N + i] * (double)x[t * N + j];
        memcpy(work, gram, N * N * sizeof *work);
        awqi_gram_root(context, work, N, root);
        for (int i = 0; i < N; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0.0;
                for (int t = 0; t < N; t++) sum += (double)root[t * N + i] * (double)root[t * N + j];
                assert_true(fabs(sum - gram[i * N + j]) <= 1e-6 * sqrt(gram[i * N + i] * gram[j * N + j]));
                assert_true(j >= i || root[i * N + j] == 0.0f);
            }
        free(x);
        free(root);
        free(gram);
        free(work);
    }
    awq_context_destroy(context);
}

/* ---- determinism, lifetime, memory */

static void threads_do_not_show(void **state)
{
    (void)state;
    static const int32_t threads[3] = {1, 2, 7};
    for (int32_t objective = AWQ_OBJECTIVE_SAMPLES; objective <= AWQ_OBJECTIVE_GRAM; objective++) {
        double losses[3][2 * GRID];
        float scales[3][K];
        for (int i = 0; i < 3; i++) {
            struct problem problem;
            make_problem(&problem, 14, threads[i]);
            problem.options.scales = AWQ_SCALES_BOTH;
            problem.options.objective = objective;
            awq_search *search = run_search(&problem, LINEARS);
            assert_int_equal(awq_search_get_history(search, NULL, losses[i], 2 * GRID), AWQ_OK);
            assert_int_equal(awq_search_get_scales(search, scales[i], K), AWQ_OK);
            awq_search_destroy(search);
            free_problem(&problem);
        }
        for (int i = 1; i < 3; i++) {
            assert_memory_equal(losses[i], losses[0], sizeof losses[0]);
            assert_memory_equal(scales[i], scales[0], sizeof scales[0]);
        }
    }
}

static void a_search_keeps_its_calibration_alive(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 15, 2);
    awq_search *search = make_search(&problem, 1);
    awq_calibration_destroy(problem.calibration);
    awq_context_destroy(problem.context);
    assert_int_equal(awq_search_run(search), AWQ_OK);
    awq_search_destroy(search);
    for (int i = 0; i < LINEARS; i++) free(problem.data[i]);
}

static uint64_t peak_of_grid(int32_t points)
{
    struct problem problem;
    make_problem(&problem, 16, 2);
    problem.options.grid_points = points;
    uint64_t before, after, peak;
    calibrate(&problem);
    assert_int_equal(awq_context_get_memory(problem.context, &before, NULL), AWQ_OK);
    awq_search *search = run_search(&problem, LINEARS);
    awq_search_destroy(search);
    assert_int_equal(awq_context_get_memory(problem.context, &after, &peak), AWQ_OK);
    assert_int_equal(after, before);
    free_problem(&problem);
    return peak;
}

static void memory_does_not_grow_with_the_grid(void **state)
{
    (void)state;
    assert_true(peak_of_grid(40) - peak_of_grid(4) <= 36 * 2 * 32); /* the list of candidates */
}

/* ---- callbacks */

struct host {
    const struct problem *problem;
    int calls, stop_at; /* cancel at this call */
    double bad_loss;    /* returned at call stop_at instead, unless 0 */
    bool forget;
};

static int32_t host_loss(void *user_data, size_t count, const awq_tensor *const *candidates, double *loss)
{
    struct host *host = user_data;
    const struct problem *problem = host->problem;
    double sum = 0.0, outputs = 0.0;
    if (++host->calls == host->stop_at && host->bad_loss == 0.0) return host->forget ? 0 : 1;
    for (size_t i = 0; i < count; i++) {
        const awq_tensor *w = &problem->weights[i], *candidate = candidates[i];
        assert_true(candidate->dtype == AWQ_F32 && candidate->ndim == 2 && (candidate->flags & AWQ_TENSOR_READONLY));
        assert_true(candidate->shape[0] == w->shape[0] && candidate->shape[1] == K);
        sum += square_error(w, candidate->data, &problem->x[0][0], ROWS);
        outputs += (double)w->shape[0];
    }
    *loss = host->calls == host->stop_at ? host->bad_loss : sum / (outputs * ROWS);
    return 0;
}

static void a_host_that_computes_the_same_finds_the_same(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 17, 2);
    problem.options.scales = AWQ_SCALES_BOTH;
    double losses[2][2 * GRID];
    float scales[2][K];
    struct host host = {.problem = &problem};
    for (int i = 0; i < 2; i++) {
        problem.options.loss = i == 1 ? host_loss : NULL;
        problem.options.loss_data = &host;
        awq_search *search = run_search(&problem, LINEARS);
        assert_int_equal(result_of(search).rows, i == 1 ? 0 : ROWS);
        assert_int_equal(awq_search_get_history(search, NULL, losses[i], 2 * GRID), AWQ_OK);
        assert_int_equal(awq_search_get_scales(search, scales[i], K), AWQ_OK);
        awq_search_destroy(search);
    }
    assert_int_equal(host.calls, 2 * GRID);
    for (int i = 0; i < 2 * GRID; i++) assert_close(losses[1][i], losses[0][i], 1e-5);
    assert_memory_equal(scales[0], scales[1], sizeof scales[0]);
    free_problem(&problem);
}

static void assert_no_result(const awq_search *search)
{
    awq_search_result result;
    awq_struct_init(&result, sizeof result);
    double losses[GRID];
    float scales[K];
    assert_refused(awq_search_get_result(search, &result), AWQ_ERROR_STATE, "no result");
    assert_refused(awq_search_get_scales(search, scales, K), AWQ_ERROR_STATE, "no result");
    assert_refused(awq_search_get_history(search, losses, losses, GRID), AWQ_ERROR_STATE, "no result");
    assert_null(awqi_search_scales(search));
    assert_refused(awqi_search_check(search, K), AWQ_ERROR_STATE, "no result");
}

static void a_host_may_cancel_or_fail_and_run_again(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 18, 2);
    struct host host = {.problem = &problem};
    problem.options.loss = host_loss;
    problem.options.loss_data = &host;
    awq_search *search = make_search(&problem, LINEARS);
    assert_no_result(search);
    assert_int_equal(awq_search_run(search), AWQ_OK);
    host = (struct host){.problem = &problem, .stop_at = 3};
    assert_refused(awq_search_run(search), AWQ_ERROR_CANCELLED, "alpha 0.333333");
    assert_no_result(search);
    host = (struct host){.problem = &problem, .stop_at = 4, .bad_loss = NAN};
    assert_refused(awq_search_run(search), AWQ_ERROR_NON_FINITE, "alpha 0.5");
    host = (struct host){.problem = &problem, .stop_at = 1, .bad_loss = INFINITY};
    assert_refused(awq_search_run(search), AWQ_ERROR_NON_FINITE, "alpha 0: the loss is inf");
    host = (struct host){.problem = &problem, .stop_at = 2, .forget = true};
    assert_refused(awq_search_run(search), AWQ_ERROR_NON_FINITE, "the loss is nan");
    assert_no_result(search);
    host = (struct host){.problem = &problem};
    assert_int_equal(awq_search_run(search), AWQ_OK);
    assert_int_equal(host.calls, GRID);
    awq_search_destroy(search);
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
    make_problem(&problem, 19, 2);
    struct watcher watcher = {0};
    problem.options.progress = watch;
    problem.options.progress_data = &watcher;
    awq_search *search = make_search(&problem, 1);
    assert_int_equal(awq_search_run(search), AWQ_OK);
    assert_true(watcher.calls == GRID && watcher.last_total == GRID);
    watcher = (struct watcher){.stop_at = 2};
    assert_refused(awq_search_run(search), AWQ_ERROR_CANCELLED, "progress");
    assert_int_equal(watcher.calls, 2);
    assert_no_result(search);
    watcher = (struct watcher){0};
    assert_int_equal(awq_search_run(search), AWQ_OK);
    assert_int_equal(awq_search_add_weight(search, &problem.weights[1]), AWQ_OK);
    assert_no_result(search); /* it was for other weights */
    awq_search_destroy(search);
    free_problem(&problem);
}

/* ---- ties */

static void tied_channels_share_the_mean_of_their_copies(void **state)
{
    (void)state;
    enum { COPIES = 3, WIDTH = 4 };
    for (int32_t scale_kind = AWQ_SCALES_PLAIN; scale_kind <= AWQ_SCALES_DUO; scale_kind++) {
        struct problem problem;
        make_problem(&problem, 20, 2);
        problem.options.tie_copies = COPIES;
        problem.options.tie_width = WIDTH;
        problem.options.scales = scale_kind;
        awq_search *search = run_search(&problem, 1);
        awq_search_result result = result_of(search);
        float scales[K];
        assert_int_equal(awq_search_get_scales(search, scales, K), AWQ_OK);
        double values[K], importance[K], mean[K], min = INFINITY, max = 0.0;
        naive_importance(&problem, importance);
        naive_weight_mean(&problem, 1, mean);
        for (int j = 0; j < K; j++) {
            int first = j / (COPIES * WIDTH) * COPIES * WIDTH + j % WIDTH;
            double x = 0.0, w = 0.0;
            for (int copy = 0; copy < COPIES; copy++) {
                x += importance[first + copy * WIDTH] / COPIES;
                w += mean[first + copy * WIDTH] / COPIES;
            }
            values[j] = pow(x, result.alpha);
            if (scale_kind == AWQ_SCALES_DUO) values[j] /= pow(w, 1.0 - result.alpha) + 1e-4;
            min = fmin(min, values[j]);
            max = fmax(max, values[j]);
            assert_true(scales[j] == scales[first]);
        }
        assert_true(result.best < GRID && result.alpha > 0.0);
        for (int j = 0; j < K; j++) assert_close(scales[j], values[j] / sqrt(min * max), 1e-5);
        awq_search_destroy(search);
        free_problem(&problem);
    }
}

/* ---- what quantisation reads */

static void quantisation_takes_scales_and_options_from_a_search(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 21, 2);
    problem.quantize.flags = AWQ_QUANTIZE_SYMMETRIC;
    awq_search *search = run_search(&problem, 1);
    awq_weight *weight;
    assert_int_equal(awq_quantize(problem.context, &problem.weights[0], search, NULL, &weight), AWQ_OK);
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_int_equal(awq_weight_get_info(weight, &info), AWQ_OK);
    assert_true(info.bits == 3 && info.group_size == GROUP && info.flags == AWQ_QUANTIZE_SYMMETRIC &&
                info.has_input_scale);
    float candidate[24 * K];
    awq_tensor view;
    awq_tensor_init_2d(&view, candidate, AWQ_F32, 24, K);
    assert_int_equal(awq_weight_dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, &view), AWQ_OK);
    double loss = square_error(&problem.weights[0], candidate, &problem.x[0][0], ROWS) / (24.0 * ROWS);
    assert_close(loss, result_of(search).loss, 1e-5); /* what was searched is what is quantised */
    awq_weight_destroy(weight);

    awq_quantize_options given, merged;
    awq_struct_init(&given, sizeof given);
    given.bits = 8;
    given.flags = AWQ_QUANTIZE_INPUT_SCALE_FOLDED;
    assert_int_equal(awqi_search_merge_options(search, &given, &merged), AWQ_OK);
    assert_true(merged.bits == 8 && merged.group_size == GROUP);
    assert_int_equal(merged.flags, AWQ_QUANTIZE_INPUT_SCALE_FOLDED | AWQ_QUANTIZE_SYMMETRIC);
    assert_refused(awqi_search_check(search, K + 1), AWQ_ERROR_INVALID, "48 inputs, but the weight has 49");
    awq_search_destroy(search);
    free_problem(&problem);
}

/* ---- refusals */

static void a_number_that_is_none_is_named(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 22, 2);
    awq_search *search = make_search(&problem, LINEARS);
    assert_int_equal(awq_search_run(search), AWQ_OK);
    ((uint16_t *)problem.data[1])[3 * K + 17] = 0x7e00;
    assert_refused(awq_search_run(search), AWQ_ERROR_NON_FINITE, "weight 1: row 3, column 17 is nan");
    assert_no_result(search);
    ((uint16_t *)problem.data[1])[3 * K + 17] = 0;
    ((float *)problem.data[0])[5] = INFINITY;
    assert_refused(awq_search_run(search), AWQ_ERROR_NON_FINITE, "weight 0: row 0, column 5 is inf");
    awq_search_destroy(search);
    free_problem(&problem);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    float values[K] = {0};
    awq_tensor vector;
    awq_tensor_init_const_1d(&vector, values, AWQ_F32, K);
    struct problem problem;
    make_problem(&problem, 23, 1);
    calibrate(&problem);
    awq_quantize_options scaled = problem.quantize, clipped = problem.quantize, odd = problem.quantize;
    scaled.input_scale = &vector;
    clipped.clip = &vector;
    odd.bits = 5;
    const awq_search_options good = problem.options;
    const struct {
        size_t offset;
        const void *value;
        size_t size;
        const char *text;
    } cases[] = {
#define CASE(field, type, bad, text) {offsetof(awq_search_options, field), &(const type){bad}, sizeof(type), text}
        CASE(struct_size, uint32_t, 0, "struct_size"),
        CASE(flags, uint32_t, 2, "0x2"),
        CASE(grid_points, int32_t, -1, "-1 grid points"),
        CASE(scales, int32_t, 3, "scales is 3"),
        CASE(normalization, int32_t, 2, "normalization is 2"),
        CASE(objective, int32_t, -1, "objective is -1"),
        CASE(smooth_factor, double, 1.5, "smooth_factor is 1.5"),
        CASE(smooth_factor, double, NAN, "smooth_factor is nan"),
        CASE(max_rows, int64_t, -5, "max_rows is -5"),
        CASE(sketch_rows, int64_t, -2, "sketch_rows is -2"),
        CASE(tie_copies, int64_t, 2, "tie_width 0"),
        CASE(tie_width, int64_t, 4, "tie_copies 0"),
        CASE(quantize, const awq_quantize_options *, &scaled, "input_scale"),
        CASE(quantize, const awq_quantize_options *, &clipped, "clip"),
        CASE(quantize, const awq_quantize_options *, &odd, "bits is 5"),
#undef CASE
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_search_options options = good;
        awq_search *search = (awq_search *)&options;
        memcpy((char *)&options + cases[i].offset, cases[i].value, cases[i].size);
        assert_refused(awq_search_create(problem.context, problem.calibration, &options, &search), AWQ_ERROR_INVALID,
                       cases[i].text);
        assert_null(search);
    }
    awq_search_options closed = good;
    awq_search *search;
    closed.flags = AWQ_SEARCH_CLOSED_GRID;
    closed.grid_points = 1;
    assert_refused(awq_search_create(problem.context, problem.calibration, &closed, &search), AWQ_ERROR_INVALID,
                   "closed");
    closed = good;
    closed.tie_copies = 5;
    closed.tie_width = 4;
    assert_refused(awq_search_create(problem.context, problem.calibration, &closed, &search), AWQ_ERROR_INVALID,
                   "48 inputs");
    free_problem(&problem);
}

static void bad_calls_are_refused(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 24, 1);
    awq_search *search = make_search(&problem, 0), *none;
    float values[K + 1] = {0};
    awq_tensor w;
    awq_search_result result;
    awq_struct_init(&result, sizeof result);
    assert_refused(awq_search_create(NULL, problem.calibration, NULL, &none), AWQ_ERROR_INVALID, "context is NULL");
    assert_refused(awq_search_create(problem.context, NULL, NULL, &none), AWQ_ERROR_INVALID, "calibration is NULL");
    assert_refused(awq_search_create(problem.context, problem.calibration, NULL, NULL), AWQ_ERROR_INVALID,
                   "search is NULL");
    assert_refused(awq_search_run(search), AWQ_ERROR_STATE, "no weight");
    assert_refused(awq_search_run(NULL), AWQ_ERROR_INVALID, "NULL");
    assert_refused(awq_search_add_weight(NULL, &problem.weights[0]), AWQ_ERROR_INVALID, "search is NULL");
    assert_refused(awq_search_add_weight(search, NULL), AWQ_ERROR_INVALID, "w is NULL");
    awq_tensor_init_2d(&w, values, AWQ_F32, 1, K + 1);
    assert_refused(awq_search_add_weight(search, &w), AWQ_ERROR_INVALID, "[1][49]");
    awq_tensor_init_2d(&w, values, AWQ_F32, 0, K);
    assert_refused(awq_search_add_weight(search, &w), AWQ_ERROR_INVALID, "no outputs");
    awq_tensor_init_2d(&w, values, AWQ_I32, 1, K);
    assert_refused(awq_search_add_weight(search, &w), AWQ_ERROR_INVALID, "I32");
    w = problem.weights[0];
    w.device_type = AWQ_DEVICE_CUDA;
    assert_refused(awq_search_add_weight(search, &w), AWQ_ERROR_INVALID, "device");
    for (int i = 0; i < 9; i++) assert_int_equal(awq_search_add_weight(search, &problem.weights[i % LINEARS]), AWQ_OK);
    assert_int_equal(awq_search_run(search), AWQ_OK);
    assert_refused(awq_search_get_scales(search, values, K + 1), AWQ_ERROR_INVALID, "49");
    assert_refused(awq_search_get_scales(search, NULL, K), AWQ_ERROR_INVALID, "values is NULL");
    assert_refused(awq_search_get_history(search, NULL, NULL, GRID + 1), AWQ_ERROR_INVALID, "7");
    assert_refused(awq_search_get_result(NULL, &result), AWQ_ERROR_INVALID, "NULL");
    assert_refused(awq_search_get_result(search, NULL), AWQ_ERROR_INVALID, "NULL");
    awq_search_destroy(search);
    awq_search_destroy(NULL);
    free_problem(&problem);
}

static void a_calibration_without_what_is_needed_is_refused(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 25, 1);
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = -1;
    assert_int_equal(awq_calibration_create(problem.context, K, &options, &problem.calibration), AWQ_OK);
    awq_search *search = make_search(&problem, 1);
    assert_refused(awq_search_run(search), AWQ_ERROR_STATE, "observed");
    awq_tensor x;
    awq_tensor_init_const_2d(&x, problem.x, AWQ_F32, ROWS, K);
    assert_int_equal(awq_calibration_observe(problem.calibration, &x), AWQ_OK);
    assert_refused(awq_search_run(search), AWQ_ERROR_STATE, "keeps no rows");
    awq_search_destroy(search);
    struct host host = {.problem = &problem};
    problem.options.loss = host_loss; /* a host needs no rows of ours */
    problem.options.loss_data = &host;
    awq_search_destroy(run_search(&problem, 1));
    problem.options.loss = NULL;
    problem.options.objective = AWQ_OBJECTIVE_GRAM;
    assert_refused(awq_search_create(problem.context, problem.calibration, &problem.options, &search),
                   AWQ_ERROR_INVALID, "AWQ_CALIBRATION_GRAM");
    free_problem(&problem);
}

/* ---- failing memory */

struct allocator {
    int64_t calls, fail_at, live;
};

static void *counted_allocate(void *user_data, size_t size, size_t alignment)
{
    struct allocator *allocator = user_data;
    if (++allocator->calls == allocator->fail_at) return NULL;
    allocator->live++;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void counted_release(void *user_data, void *memory, size_t size)
{
    (void)size;
    ((struct allocator *)user_data)->live--;
    free(memory);
}

static void every_failed_allocation_is_survived(void **state)
{
    (void)state;
    struct problem problem;
    make_problem(&problem, 26, 1);
    awq_context_destroy(problem.context);
    struct host host = {.problem = &problem};
    for (int variant = 0; variant < 3; variant++) {
        struct allocator allocator = {0};
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = 1;
        options.allocate = counted_allocate;
        options.release = counted_release;
        options.allocator_data = &allocator;
        assert_int_equal(awq_context_create(&options, &problem.context), AWQ_OK);
        calibrate(&problem);
        problem.options.scales = AWQ_SCALES_BOTH;
        problem.options.objective = variant == 1 ? AWQ_OBJECTIVE_GRAM : AWQ_OBJECTIVE_SAMPLES;
        problem.options.loss = variant == 2 ? host_loss : NULL;
        problem.options.loss_data = &host;
        awq_status status = AWQ_ERROR_OUT_OF_MEMORY;
        int64_t live = allocator.live;
        for (int64_t failing = 1; status != AWQ_OK; failing++) {
            awq_search *search;
            allocator.calls = 0;
            allocator.fail_at = failing;
            status = awq_search_create(problem.context, problem.calibration, &problem.options, &search);
            for (int i = 0; status == AWQ_OK && i < LINEARS; i++)
                status = awq_search_add_weight(search, &problem.weights[i]);
            if (status == AWQ_OK) status = awq_search_run(search);
            awq_search_destroy(search);
            assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
            assert_int_equal(allocator.live, live);
            assert_true(failing < 500);
        }
        awq_calibration_destroy(problem.calibration);
        awq_context_destroy(problem.context);
        assert_int_equal(allocator.live, 0);
    }
    for (int i = 0; i < LINEARS; i++) free(problem.data[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(losses_and_scales_are_what_is_defined),
        cmocka_unit_test(exact_is_never_worse_than_plain_rounding),
        cmocka_unit_test(dead_channels_keep_scale_one),
        cmocka_unit_test(nothing_but_zeros_is_searched_too),
        cmocka_unit_test(peers_compare_with_identity_without_trying_it),
        cmocka_unit_test(llm_awq_scales_have_the_dtype_of_the_weight),
        cmocka_unit_test(fewer_rows_are_the_first_of_the_sample),
        cmocka_unit_test(a_sketch_estimates_the_losses_of_the_rows),
        cmocka_unit_test(the_gram_matrix_gives_the_losses_of_the_rows),
        cmocka_unit_test(a_root_reproduces_its_gram_matrix),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(a_search_keeps_its_calibration_alive),
        cmocka_unit_test(memory_does_not_grow_with_the_grid),
        cmocka_unit_test(a_host_that_computes_the_same_finds_the_same),
        cmocka_unit_test(a_host_may_cancel_or_fail_and_run_again),
        cmocka_unit_test(progress_counts_and_cancels),
        cmocka_unit_test(tied_channels_share_the_mean_of_their_copies),
        cmocka_unit_test(quantisation_takes_scales_and_options_from_a_search),
        cmocka_unit_test(a_number_that_is_none_is_named),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(bad_calls_are_refused),
        cmocka_unit_test(a_calibration_without_what_is_needed_is_refused),
        cmocka_unit_test(every_failed_allocation_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
