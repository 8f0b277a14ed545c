/* Ranges and codes chosen by what outputs lose: they lose less than those of plain rounding, and bad input is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "awq.h"

enum { ROWS = 160, N = 37, K = 200 };

static awq_context *context;
static awq_calibration *calibration;
static float x[ROWS * K], w[N * K];
static awq_tensor weight_view;

static double next_random(void)
{
    static uint64_t state = 11;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)state * 0x1p-63;
}

/* Inputs that depend on their neighbours, so that one weight can make up for another. */
static int set_up(void **state)
{
    (void)state;
    awq_calibration_options options;
    awq_tensor view;
    for (int i = 0; i < ROWS; i++) {
        double carried = 0;
        for (int j = 0; j < K; j++) {
            carried = 0.8 * carried + next_random();
            x[i * K + j] = (float)(carried * (j % 17 == 3 ? 8 : 1));
        }
    }
    for (int i = 0; i < N * K; i++) w[i] = (float)(next_random() * next_random());
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_CALIBRATION_GRAM;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, ROWS, K);
    awq_tensor_init_const_2d(&weight_view, w, AWQ_F32, N, K);
    return awq_context_create(NULL, &context) || awq_calibration_create(context, K, &options, &calibration) ||
           awq_calibration_observe(calibration, &view);
}

static int tear_down(void **state)
{
    (void)state;
    awq_calibration_destroy(calibration);
    awq_context_destroy(context);
    return 0;
}

static awq_quantize_options options_of(int64_t group, uint32_t flags, int32_t range, int32_t rounding)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = 3;
    options.group_size = group;
    options.flags = flags;
    options.range = range;
    options.rounding = rounding;
    options.calibration = calibration;
    return options;
}

/* The squared error of the outputs. */
static double output_loss(const awq_quantize_options *options)
{
    static float rounded[N * K];
    awq_weight *weight;
    awq_tensor out;
    double sum = 0;
    awq_tensor_init_2d(&out, rounded, AWQ_F32, N, K);
    if (awq_quantize(context, &weight_view, NULL, options, &weight) != AWQ_OK) fail_msg("%s", awq_last_error());
    assert_int_equal(awq_weight_dequantize(weight, 0, &out), AWQ_OK);
    awq_weight_destroy(weight);
    for (int i = 0; i < ROWS; i++)
        for (int n = 0; n < N; n++) {
            double error = 0;
            for (int j = 0; j < K; j++) error += (double)x[i * K + j] * ((double)w[n * K + j] - (double)rounded[n * K + j]);
            sum += error * error;
        }
    return sum;
}

static void each_step_loses_less(void **state)
{
    (void)state;
    static const int64_t groups[] = {1, 5, 16, 32, 64, 128, 130, AWQ_GROUP_PER_ROW};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        for (uint32_t flags = 0; flags <= AWQ_QUANTIZE_SYMMETRIC; flags++) {
            awq_quantize_options nearest = options_of(groups[i], flags, AWQ_RANGE_MINMAX, AWQ_ROUND_NEAREST);
            awq_quantize_options range = options_of(groups[i], flags, AWQ_RANGE_SEARCH, AWQ_ROUND_NEAREST);
            awq_quantize_options feedback = options_of(groups[i], flags, AWQ_RANGE_MINMAX, AWQ_ROUND_FEEDBACK);
            awq_quantize_options descent = options_of(groups[i], flags, AWQ_RANGE_SEARCH, AWQ_ROUND_DESCENT);
            const double plain = output_loss(&nearest);
            if (groups[i] == 1) continue; /* a group of one loses nothing but its scale's rounding */
            assert_true(output_loss(&range) < plain * 1.05);
            assert_true(output_loss(&feedback) < 0.8 * plain);
            assert_true(output_loss(&descent) < 0.7 * plain);
            feedback.range = AWQ_RANGE_SEARCH;
            assert_true(output_loss(&descent) < 1.01 * output_loss(&feedback)); /* which descent begins with */
        }
}

/* Columns that stay in FP16 lose next to nothing, and the others no more than without them. */
static void salient_columns_are_left_out(void **state)
{
    (void)state;
    for (int rounding = AWQ_ROUND_NEAREST; rounding <= AWQ_ROUND_DESCENT; rounding++) {
        static float rounded[N * K];
        awq_quantize_options options = options_of(64, 0, AWQ_RANGE_SEARCH, rounding);
        const double all = output_loss(&options);
        int32_t columns[3] = {0};
        awq_weight *weight;
        awq_tensor out, salient;
        options.salient_fraction = 3.0 / K;
        assert_true(output_loss(&options) < all);
        assert_int_equal(awq_quantize(context, &weight_view, NULL, &options, &weight), AWQ_OK);
        awq_tensor_init_1d(&salient, columns, AWQ_I32, 3);
        awq_tensor_init_2d(&out, rounded, AWQ_F32, N, K);
        assert_int_equal(awq_weight_export_salient(weight, &salient, NULL), AWQ_OK);
        assert_int_equal(awq_weight_dequantize(weight, 0, &out), AWQ_OK);
        awq_weight_destroy(weight);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(columns[i] % 17, 3); /* those of large inputs */
            for (int n = 0; n < N; n++)
                assert_float_equal(rounded[n * K + columns[i]], w[n * K + columns[i]],
                                   0x1p-11 * fabs((double)w[n * K + columns[i]]) + 1e-7);
        }
    }
}

static void codes_do_not_depend_on_threads(void **state)
{
    (void)state;
    static uint8_t codes[3][N * K];
    static const int32_t threads[] = {1, 2, 7};
    const awq_quantize_options options = options_of(64, 0, AWQ_RANGE_SEARCH, AWQ_ROUND_DESCENT);
    for (int i = 0; i < 3; i++) {
        awq_context_options context_options;
        awq_context *other;
        awq_weight *weight;
        awq_tensor view;
        awq_struct_init(&context_options, sizeof context_options);
        context_options.threads = threads[i];
        assert_int_equal(awq_context_create(&context_options, &other), AWQ_OK);
        assert_int_equal(awq_quantize(other, &weight_view, NULL, &options, &weight), AWQ_OK);
        awq_tensor_init_2d(&view, codes[i], AWQ_U8, N, K);
        assert_int_equal(awq_weight_export(weight, &view, NULL, NULL, NULL), AWQ_OK);
        awq_weight_destroy(weight);
        awq_context_destroy(other);
    }
    assert_memory_equal(codes[0], codes[1], sizeof codes[0]);
    assert_memory_equal(codes[0], codes[2], sizeof codes[0]);
}

static void refuse(const awq_quantize_options *options, awq_status expected, const char *text)
{
    awq_weight *weight;
    assert_int_equal(awq_quantize(context, &weight_view, NULL, options, &weight), expected);
    assert_null(weight);
    if (!strstr(awq_last_error(), text)) fail_msg("'%s' is not in '%s'", text, awq_last_error());
}

static void bad_input_is_refused(void **state)
{
    (void)state;
    awq_calibration *empty, *narrow;
    awq_quantize_options options = options_of(64, 0, AWQ_RANGE_SEARCH, AWQ_ROUND_FEEDBACK);
    assert_int_equal(awq_calibration_create(context, K, NULL, &empty), AWQ_OK);
    assert_int_equal(awq_calibration_create(context, K - 1, NULL, &narrow), AWQ_OK);
    options.calibration = NULL;
    refuse(&options, AWQ_ERROR_STATE, "AWQ_CALIBRATION_GRAM");
    options.calibration = empty;
    refuse(&options, AWQ_ERROR_STATE, "nothing was observed");
    options.calibration = narrow;
    refuse(&options, AWQ_ERROR_INVALID, "199 channels");
    options = options_of(64, 0, 2, 0);
    refuse(&options, AWQ_ERROR_INVALID, "range 2");
    options = options_of(64, 0, 0, 3);
    refuse(&options, AWQ_ERROR_INVALID, "rounding 3");
    options = options_of(64, 0, AWQ_RANGE_SEARCH, AWQ_ROUND_FEEDBACK);
    options.damping = NAN;
    refuse(&options, AWQ_ERROR_INVALID, "damping");
    options.damping = 0;
    options.profile = AWQ_PROFILE_AUTOAWQ;
    refuse(&options, AWQ_ERROR_UNSUPPORTED, "peers");
    awq_calibration_destroy(empty);
    awq_calibration_destroy(narrow);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_step_loses_less),
        cmocka_unit_test(salient_columns_are_left_out),
        cmocka_unit_test(codes_do_not_depend_on_threads),
        cmocka_unit_test(bad_input_is_refused),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
