/* Folding: the function stays, what must not change does not, and what cannot be done is refused whole. */
#include "internal.h"
#include "support.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static awq_context *context;

static int setup(void **state)
{
    (void)state;
    return awq_context_create(NULL, &context);
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return 0;
}

static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};

/* Half the distance between neighbours of 1 in a dtype. */
static double rounding(int32_t dtype)
{
    return dtype == AWQ_F32 ? 0x1p-24 : dtype == AWQ_F16 ? 0x1p-11 : 0x1p-8;
}

static float element(const awq_tensor *tensor, int64_t row, int64_t column)
{
    float value;
    awqi_load_columns(tensor, row, column, &value, 1);
    return value;
}

/* Scales as searches give them: between about 1/8 and 8. */
static void random_scales(uint64_t *seed, float *scales, int64_t count)
{
    for (int64_t i = 0; i < count; i++) scales[i] = exp2f(6.0f * (float)random_uniform(seed) - 3.0f);
}

static void assert_refused(awq_status status, awq_status expected, const char *text)
{
    if (status == expected && strstr(awq_last_error(), text) != NULL) return;
    fail_msg("%s: \"%s\" where %s with \"%s\" was expected", awq_status_name(status), awq_last_error(),
             awq_status_name(expected), text);
}

/* ---- the function stays */

static void a_folded_norm_times_its_scale_is_the_norm(void **state)
{
    (void)state;
    enum { K = 300 };
    uint64_t seed = 1;
    float scale_values[K];
    for (size_t d = 0; d < 3; d++)
        for (int32_t profile = AWQ_PROFILE_EXACT; profile <= AWQ_PROFILE_LLM_AWQ; profile++) {
            random_scales(&seed, scale_values, K);
            void *weight = random_array(&seed, dtypes[d], K, 1.0f), *bias = random_array(&seed, dtypes[d], K, 1.0f);
            float before[2][K];
            awqi_to_f32(dtypes[d], weight, before[0], K);
            awqi_to_f32(dtypes[d], bias, before[1], K);
            awq_tensor scales, tensors[2];
            awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, K);
            awq_tensor_init_1d(&tensors[0], weight, dtypes[d], K);
            awq_tensor_init_1d(&tensors[1], bias, dtypes[d], K);
            awq_fold_options options;
            awq_struct_init(&options, sizeof options);
            options.profile = profile;
            assert_int_equal(awq_fold_norm(context, &scales, &tensors[0], &tensors[1], &options), AWQ_OK);
            double roundings = profile == AWQ_PROFILE_LLM_AWQ ? 2.01 : 1.01;
            for (int t = 0; t < 2; t++) {
                float after[K];
                awqi_to_f32(dtypes[d], tensors[t].data, after, K);
                for (int j = 0; j < K; j++)
                    assert_true(fabs((double)after[j] * (double)scale_values[j] - (double)before[t][j]) <=
                                roundings * rounding(dtypes[d]) * fabs((double)before[t][j]) + 1e-6);
            }
            free(weight);
            free(bias);
        }
}

static void a_norm_of_one_plus_weight_keeps_its_product(void **state)
{
    (void)state;
    enum { K = 100 };
    uint64_t seed = 2;
    float scale_values[K], weight[K], bias[K], before[K];
    random_scales(&seed, scale_values, K);
    for (int j = 0; j < K; j++) {
        before[j] = weight[j] = random_normal(&seed);
        bias[j] = scale_values[j];
    }
    awq_tensor scales, tensor, bias_tensor;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, K);
    awq_tensor_init_1d(&tensor, weight, AWQ_F32, K);
    awq_tensor_init_1d(&bias_tensor, bias, AWQ_F32, K);
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_FOLD_ONE_PLUS_WEIGHT;
    assert_int_equal(awq_fold_norm(context, &scales, &tensor, &bias_tensor, &options), AWQ_OK);
    for (int j = 0; j < K; j++) {
        double expected = (1.0 + (double)before[j]) / (double)scale_values[j] - 1.0;
        assert_true(weight[j] == (float)expected); /* one rounding */
        assert_true(bias[j] == 1.0f);              /* a bias has no 1 to take away */
    }
}

/* y = W2 (W1 x + b1) in double, with column j of W2 times scales[j]. */
static void run_two_linears(const awq_tensor *first, const awq_tensor *bias, const float *second, const float *scales,
                            int64_t copies, int64_t width, int64_t outputs, const float *x, double *y)
{
    int64_t inputs = first->shape[1], rows = first->shape[0];
    int64_t channels = rows * copies;
    for (int64_t n = 0; n < outputs; n++) {
        y[n] = 0.0;
        for (int64_t j = 0; j < channels; j++) {
            int64_t row = j / (width * copies) * width + j % width;
            double hidden = bias != NULL ? (double)element(bias, 0, row) : 0.0;
            for (int64_t i = 0; i < inputs; i++) hidden += (double)element(first, row, i) * (double)x[i];
            y[n] += (double)second[n * channels + j] * (double)scales[j] * hidden;
        }
    }
}

static void a_folded_linear_and_scaled_columns_keep_the_function(void **state)
{
    (void)state;
    enum { WIDTH = 8, HEADS = 3, INPUTS = 40, OUTPUTS = 5, ROWS = WIDTH * HEADS };
    uint64_t seed = 3;
    for (size_t d = 0; d < 3; d++)
        for (int64_t copies = 1; copies <= 3; copies++) {
            int64_t channels = ROWS * copies;
            float *scale_values = malloc((size_t)channels * sizeof *scale_values), ones[ROWS * 3], per_row[ROWS];
            random_scales(&seed, per_row, ROWS);
            for (int64_t j = 0; j < channels; j++) {
                scale_values[j] = per_row[j / (WIDTH * copies) * WIDTH + j % WIDTH];
                ones[j] = 1.0f;
            }
            void *weight = random_array(&seed, dtypes[d], ROWS * INPUTS, 1.0f);
            void *bias_values = random_array(&seed, dtypes[d], ROWS, 1.0f);
            float *second = random_array(&seed, AWQ_F32, OUTPUTS * channels, 1.0f);
            float *x = random_array(&seed, AWQ_F32, INPUTS, 1.0f);
            awq_tensor scales, first, bias;
            awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, channels);
            awq_tensor_init_2d(&first, weight, dtypes[d], ROWS, INPUTS);
            awq_tensor_init_1d(&bias, bias_values, dtypes[d], ROWS);
            awq_fold_options options;
            awq_struct_init(&options, sizeof options);
            options.tie_copies = copies > 1 ? copies : 0;
            options.tie_width = copies > 1 ? WIDTH : 0;
            double before[OUTPUTS], after[OUTPUTS];
            run_two_linears(&first, &bias, second, ones, copies, WIDTH, OUTPUTS, x, before);
            assert_int_equal(awq_fold_linear(context, &scales, &first, &bias, &options), AWQ_OK);
            run_two_linears(&first, &bias, second, scale_values, copies, WIDTH, OUTPUTS, x, after);
            double bound = rounding(dtypes[d]) * sqrt((double)(channels * INPUTS)) * 10.0;
            for (int n = 0; n < OUTPUTS; n++) assert_true(fabs(after[n] - before[n]) <= bound);
            free(scale_values);
            free(weight);
            free(bias_values);
            free(second);
            free(x);
        }
}

static void only_the_last_rows_of_a_fused_linear_change(void **state)
{
    (void)state;
    enum { ROWS = 7, COLUMNS = 5, K = 3 };
    float weight[ROWS * COLUMNS], bias[ROWS], scale_values[K] = {2.0f, 4.0f, 8.0f};
    for (int i = 0; i < ROWS * COLUMNS; i++) weight[i] = 8.0f;
    for (int i = 0; i < ROWS; i++) bias[i] = 8.0f;
    awq_tensor scales, w, b;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, K);
    awq_tensor_init_2d(&w, weight, AWQ_F32, ROWS, COLUMNS);
    awq_tensor_init_1d(&b, bias, AWQ_F32, ROWS);
    assert_int_equal(awq_fold_linear(context, &scales, &w, &b, NULL), AWQ_OK);
    for (int row = 0; row < ROWS; row++) {
        float expected = row < ROWS - K ? 8.0f : 8.0f / scale_values[row - (ROWS - K)];
        assert_true(bias[row] == expected);
        for (int column = 0; column < COLUMNS; column++) assert_true(weight[row * COLUMNS + column] == expected);
    }
    assert_int_equal(awq_fold_linear(context, &scales, &w, NULL, NULL), AWQ_OK);
    assert_true(weight[ROWS * COLUMNS - 1] == 0.125f && bias[ROWS - 1] == 1.0f);
}

static void an_activation_gets_factors(void **state)
{
    (void)state;
    float factor[4] = {1.0f, 1.0f, 1.0f, 3.0f}, scale_values[4] = {1.0f, 2.0f, 0.5f, 3.0f};
    awq_tensor scales, tensor;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 4);
    awq_tensor_init_1d(&tensor, factor, AWQ_F32, 4);
    assert_int_equal(awq_fold_activation(context, &scales, &tensor, NULL), AWQ_OK);
    assert_true(factor[0] == 1.0f && factor[1] == 0.5f && factor[2] == 2.0f && factor[3] == 1.0f);
}

static void any_strides_will_do(void **state)
{
    (void)state;
    enum { ROWS = 6, COLUMNS = 300 };
    float storage[COLUMNS][ROWS], scale_values[ROWS * 2];
    for (int j = 0; j < COLUMNS; j++)
        for (int i = 0; i < ROWS; i++) storage[j][i] = (float)(i * COLUMNS + j);
    for (int i = 0; i < ROWS * 2; i++) scale_values[i] = (float)(1 << (i / 2));
    awq_tensor scales, w;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, ROWS);
    scales.strides[0] = 2;
    awq_tensor_init_2d(&w, storage, AWQ_F32, ROWS, COLUMNS);
    w.strides[0] = 1;
    w.strides[1] = ROWS;
    assert_int_equal(awq_fold_linear(context, &scales, &w, NULL, NULL), AWQ_OK);
    for (int j = 0; j < COLUMNS; j++)
        for (int i = 0; i < ROWS; i++) assert_true(storage[j][i] == (float)(i * COLUMNS + j) / (float)(1 << i));
}

static void threads_do_not_show(void **state)
{
    (void)state;
    enum { ROWS = 50, COLUMNS = 70 };
    uint64_t seed = 5;
    float scale_values[ROWS];
    random_scales(&seed, scale_values, ROWS);
    uint16_t *original = random_array(&seed, AWQ_BF16, ROWS * COLUMNS, 1.0f), results[3][ROWS * COLUMNS];
    static const int32_t threads[3] = {1, 2, 7};
    for (int i = 0; i < 3; i++) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = threads[i];
        awq_context *other;
        assert_int_equal(awq_context_create(&options, &other), AWQ_OK);
        memcpy(results[i], original, sizeof results[i]);
        awq_tensor scales, w;
        awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, ROWS);
        awq_tensor_init_2d(&w, results[i], AWQ_BF16, ROWS, COLUMNS);
        assert_int_equal(awq_fold_linear(other, &scales, &w, NULL, NULL), AWQ_OK);
        awq_context_destroy(other);
    }
    assert_memory_equal(results[0], results[1], sizeof results[0]);
    assert_memory_equal(results[0], results[2], sizeof results[0]);
    free(original);
}

/* ---- refusals */

static void bad_scales_are_refused(void **state)
{
    (void)state;
    static const float bad[] = {0.0f, -1.0f, NAN, INFINITY};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        float scale_values[3] = {1.0f, 1.0f, bad[i]}, weight[3] = {1.0f, 2.0f, 3.0f};
        awq_tensor scales, tensor;
        awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 3);
        awq_tensor_init_1d(&tensor, weight, AWQ_F32, 3);
        assert_refused(awq_fold_norm(context, &scales, &tensor, NULL, NULL), AWQ_ERROR_NON_FINITE, "element 2");
        assert_refused(awq_fold_activation(context, &scales, &tensor, NULL), AWQ_ERROR_NON_FINITE, "element 2");
        assert_true(weight[0] == 1.0f && weight[1] == 2.0f && weight[2] == 3.0f);
    }
}

static void an_overflow_leaves_everything_as_it_was(void **state)
{
    (void)state;
    uint16_t weight[4], bias[4], weight_before[4], bias_before[4];
    for (int i = 0; i < 4; i++) {
        weight[i] = weight_before[i] = awqi_f32_to_f16(4.0f);
        bias[i] = bias_before[i] = awqi_f32_to_f16(i == 3 ? 60000.0f : 1.0f);
    }
    float scale_values[4] = {1.0f, 2.0f, 3.0f, 0.5f};
    awq_tensor scales, w, b;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 4);
    awq_tensor_init_1d(&w, weight, AWQ_F16, 4);
    awq_tensor_init_1d(&b, bias, AWQ_F16, 4);
    assert_refused(awq_fold_norm(context, &scales, &w, &b, NULL), AWQ_ERROR_NON_FINITE, "bias: element [3][0]");
    assert_memory_equal(weight, weight_before, sizeof weight);
    assert_memory_equal(bias, bias_before, sizeof bias);
    weight[1] = 0x7e00; /* a NaN is not folded either */
    assert_refused(awq_fold_norm(context, &scales, &w, NULL, NULL), AWQ_ERROR_NON_FINITE, "weight: element [1][0]");
}

static void a_scale_beyond_the_dtype_is_refused_where_it_is_rounded(void **state)
{
    (void)state;
    uint16_t weight[2] = {awqi_f32_to_f16(1.0f), awqi_f32_to_f16(1.0f)};
    float scale_values[2] = {1.0f, 1e6f};
    awq_tensor scales, w;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 2);
    awq_tensor_init_1d(&w, weight, AWQ_F16, 2);
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.profile = AWQ_PROFILE_LLM_AWQ;
    assert_refused(awq_fold_norm(context, &scales, &w, NULL, &options), AWQ_ERROR_NON_FINITE, "element [1][0]");
    options.profile = AWQ_PROFILE_AUTOAWQ;
    assert_int_equal(awq_fold_norm(context, &scales, &w, NULL, &options), AWQ_OK);
}

static void tied_channels_must_agree(void **state)
{
    (void)state;
    float weight[4 * 2] = {1, 1, 1, 1, 1, 1, 1, 1}; /* 2 heads of 2, each copied twice: 8 channels */
    float scale_values[8] = {1, 2, 1, 2, 3, 4, 3, 5};
    awq_tensor scales, w;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 8);
    awq_tensor_init_2d(&w, weight, AWQ_F32, 4, 2);
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.tie_copies = 2;
    options.tie_width = 2;
    assert_refused(awq_fold_linear(context, &scales, &w, NULL, &options), AWQ_ERROR_INVALID, "channels 5 and 7");
    assert_true(weight[0] == 1.0f);
    scale_values[7] = 4;
    assert_int_equal(awq_fold_linear(context, &scales, &w, NULL, &options), AWQ_OK);
    static const float expected[4] = {1.0f, 2.0f, 3.0f, 4.0f};
    for (int row = 0; row < 4; row++) assert_true(weight[row * 2] == 1.0f / expected[row]);
    options.tie_width = 3;
    assert_refused(awq_fold_linear(context, &scales, &w, NULL, &options), AWQ_ERROR_INVALID, "tie_width 3");
    options.tie_width = 0;
    assert_refused(awq_fold_linear(context, &scales, &w, NULL, &options), AWQ_ERROR_INVALID, "tie_width 0");
    options.tie_width = INT64_MAX;
    assert_refused(awq_fold_linear(context, &scales, &w, NULL, &options), AWQ_ERROR_INVALID, "tie_width");
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    float data[12] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    awq_tensor scales, vector, matrix, readonly, longer;
    awq_tensor_init_const_1d(&scales, data, AWQ_F32, 4);
    awq_tensor_init_1d(&vector, data, AWQ_F32, 4);
    awq_tensor_init_1d(&longer, data, AWQ_F32, 5);
    awq_tensor_init_2d(&matrix, data, AWQ_F32, 3, 4);
    awq_tensor_init_const_1d(&readonly, data, AWQ_F32, 4);
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    assert_refused(awq_fold_norm(NULL, &scales, &vector, NULL, NULL), AWQ_ERROR_INVALID, "context is NULL");
    assert_refused(awq_fold_norm(context, NULL, &vector, NULL, NULL), AWQ_ERROR_INVALID, "scales is NULL");
    assert_refused(awq_fold_norm(context, &scales, NULL, NULL, NULL), AWQ_ERROR_INVALID, "weight is NULL");
    assert_refused(awq_fold_norm(context, &scales, &readonly, NULL, NULL), AWQ_ERROR_INVALID, "read-only");
    assert_refused(awq_fold_norm(context, &scales, &vector, &readonly, NULL), AWQ_ERROR_INVALID, "bias is read-only");
    assert_refused(awq_fold_norm(context, &scales, &longer, NULL, NULL), AWQ_ERROR_INVALID, "[5]");
    assert_refused(awq_fold_norm(context, &scales, &matrix, NULL, NULL), AWQ_ERROR_INVALID, "weight: 2 dimensions");
    assert_refused(awq_fold_norm(context, &matrix, &vector, NULL, NULL), AWQ_ERROR_INVALID, "scales: 2 dimensions");
    assert_refused(awq_fold_linear(context, &scales, &matrix, NULL, NULL), AWQ_ERROR_INVALID, "at least 4");
    assert_refused(awq_fold_activation(context, &scales, &longer, NULL), AWQ_ERROR_INVALID, "[5]");
    options.flags = AWQ_FOLD_ONE_PLUS_WEIGHT;
    assert_refused(awq_fold_activation(context, &scales, &vector, &options), AWQ_ERROR_INVALID, "is for norms");
    options.flags = 2;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, &options), AWQ_ERROR_INVALID, "0x2");
    options.flags = 0;
    options.profile = 3;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, &options), AWQ_ERROR_INVALID, "profile 3");
    options.profile = 0;
    options.tie_copies = options.tie_width = 2;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, &options), AWQ_ERROR_INVALID, "no ties");
    options.struct_size = 0;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, &options), AWQ_ERROR_INVALID, "struct_size");
    scales.dtype = AWQ_F64;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, NULL), AWQ_ERROR_INVALID, "F64");
    scales.dtype = AWQ_F32;
    vector.device_type = AWQ_DEVICE_CUDA;
    assert_refused(awq_fold_norm(context, &scales, &vector, NULL, NULL), AWQ_ERROR_UNSUPPORTED, "host memory");
    for (int i = 0; i < 12; i++) assert_true(data[i] == 1.0f);
}

static void nothing_is_fine(void **state)
{
    (void)state;
    float scale_values[2] = {1e6f, 2.0f};
    awq_tensor scales, empty, none;
    awq_tensor_init_const_1d(&scales, scale_values, AWQ_F32, 2);
    awq_tensor_init_2d(&empty, NULL, AWQ_F16, 2, 0);
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.profile = AWQ_PROFILE_LLM_AWQ;
    assert_int_equal(awq_fold_linear(context, &scales, &empty, NULL, &options), AWQ_OK);
    awq_tensor_init_1d(&none, NULL, AWQ_F32, 0);
    scales.shape[0] = 0;
    assert_int_equal(awq_fold_norm(context, &scales, &none, NULL, NULL), AWQ_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_folded_norm_times_its_scale_is_the_norm),
        cmocka_unit_test(a_norm_of_one_plus_weight_keeps_its_product),
        cmocka_unit_test(a_folded_linear_and_scaled_columns_keep_the_function),
        cmocka_unit_test(only_the_last_rows_of_a_fused_linear_change),
        cmocka_unit_test(an_activation_gets_factors),
        cmocka_unit_test(any_strides_will_do),
        cmocka_unit_test(threads_do_not_show),
        cmocka_unit_test(bad_scales_are_refused),
        cmocka_unit_test(an_overflow_leaves_everything_as_it_was),
        cmocka_unit_test(a_scale_beyond_the_dtype_is_refused_where_it_is_rounded),
        cmocka_unit_test(tied_channels_must_agree),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
