/* Calibration: sums, samples that no order changes, weights, merging, the Gram matrix, and what is refused. */
#include "calibration.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static awq_context *context;
static uint64_t held_at_setup;

static uint64_t held_by(const awq_context *which)
{
    uint64_t current = 0;
    assert_int_equal(awq_context_get_memory(which, &current, NULL), AWQ_OK);
    return current;
}

static int setup(void **state)
{
    (void)state;
    if (awq_context_create(NULL, &context) != AWQ_OK) return -1;
    held_at_setup = held_by(context);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    bool all_returned = held_by(context) == held_at_setup;
    awq_context_destroy(context);
    return all_returned ? 0 : -1;
}

/* ---- helpers */

static uint64_t random_state;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 32);
}

/* Zero on average, of very different sizes, and exact in FP16 and BF16. */
static float random_value(void)
{
    int32_t whole = (int32_t)(random_bits() % 255) - 127;
    return ldexpf((float)whole, -(int)(random_bits() % 8));
}

static float *random_matrix(int64_t rows, int64_t channels, uint64_t seed)
{
    random_state = seed;
    float *values = malloc((size_t)(rows * channels) * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < rows * channels; i++) values[i] = random_value();
    return values;
}

static awq_context *context_with_threads(int32_t threads)
{
    awq_context_options options;
    awq_context *created;
    awq_struct_init(&options, sizeof options);
    options.threads = threads;
    assert_int_equal(awq_context_create(&options, &created), AWQ_OK);
    return created;
}

static awq_calibration *create(awq_context *in, int64_t channels, int64_t sample_rows, uint32_t flags)
{
    awq_calibration_options options;
    awq_calibration *calibration;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = sample_rows;
    options.flags = flags;
    options.seed = 7;
    assert_int_equal(awq_calibration_create(in, channels, &options, &calibration), AWQ_OK);
    return calibration;
}

static void observe(awq_calibration *calibration, const float *x, int64_t rows, int64_t channels)
{
    awq_tensor view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, rows, channels);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_OK);
}

static awq_calibration_info info_of(const awq_calibration *calibration)
{
    awq_calibration_info info;
    awq_struct_init(&info, sizeof info);
    assert_int_equal(awq_calibration_get_info(calibration, &info), AWQ_OK);
    return info;
}

/* Equal in all that can be read: the sums as they round to double, the samples to the bit. */
static void assert_same(const awq_calibration *a, const awq_calibration *b)
{
    awq_calibration_info info = info_of(a), other = info_of(b);
    assert_memory_equal(&info, &other, sizeof info);
    double *values = malloc((size_t)info.channels * sizeof *values);
    double *others = malloc((size_t)info.channels * sizeof *others);
    for (int32_t statistic = AWQ_STATISTIC_MEAN_ABS; statistic <= AWQ_STATISTIC_MAX_ABS; statistic++) {
        assert_int_equal(awq_calibration_get_statistic(a, statistic, values, info.channels), AWQ_OK);
        assert_int_equal(awq_calibration_get_statistic(b, statistic, others, info.channels), AWQ_OK);
        assert_memory_equal(values, others, (size_t)info.channels * sizeof *values);
    }
    awq_tensor x, y;
    assert_int_equal(awq_calibration_get_samples(a, &x), AWQ_OK);
    assert_int_equal(awq_calibration_get_samples(b, &y), AWQ_OK);
    assert_int_equal(x.shape[0], info.sample_rows);
    assert_int_equal(y.shape[0], info.sample_rows);
    if (info.sample_rows > 0)
        assert_memory_equal(x.data, y.data, (size_t)(info.sample_rows * info.channels) * sizeof(float));
    free(values);
    free(others);
}

/* ---- sums */

static void test_statistics(void **state)
{
    (void)state;
    enum { ROWS = 301, CHANNELS = 143 };
    float *x = random_matrix(ROWS, CHANNELS, 1);
    awq_calibration *calibration = create(context, CHANNELS, 16, 0);
    observe(calibration, x, ROWS, CHANNELS);
    awq_calibration_info info = info_of(calibration);
    assert_int_equal(info.channels, CHANNELS);
    assert_int_equal(info.rows, ROWS);
    assert_true(info.weight == ROWS);
    assert_int_equal(info.sample_rows, 16);
    assert_int_equal(info.sample_limit, 16);
    assert_int_equal(info.seed, 7);
    double mean[CHANNELS], square[CHANNELS], largest[CHANNELS];
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, mean, CHANNELS), AWQ_OK);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_SQUARE, square, CHANNELS), AWQ_OK);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MAX_ABS, largest, CHANNELS), AWQ_OK);
    for (int j = 0; j < CHANNELS; j++) {
        double sum = 0, squares = 0, maximum = 0; /* all exact for these values */
        for (int i = 0; i < ROWS; i++) {
            double value = fabs((double)x[i * CHANNELS + j]);
            sum += value;
            squares += value * value;
            maximum = fmax(maximum, value);
        }
        assert_true(mean[j] == sum / ROWS);
        assert_true(square[j] == squares / ROWS);
        assert_true(largest[j] == maximum);
    }
    awq_calibration_destroy(calibration);
    free(x);
}

/* What does not fit into one double is kept in the second. */
static void test_sums_have_two_parts(void **state)
{
    (void)state;
    enum { SMALL_ROWS = 1000 };
    float x[SMALL_ROWS + 1];
    for (int i = 0; i < SMALL_ROWS; i++) x[i] = -0x1p-30f;
    x[SMALL_ROWS] = 0x1p40f;
    awq_calibration *rising = create(context, 1, -1, 0), *falling = create(context, 1, -1, 0);
    observe(rising, x, SMALL_ROWS + 1, 1);
    observe(falling, x + SMALL_ROWS, 1, 1);
    observe(falling, x, SMALL_ROWS, 1);
    assert_true(falling->sums.abs_high[0] == 0x1p40);
    assert_true(falling->sums.abs_low[0] == SMALL_ROWS * 0x1p-30);
    assert_true(rising->sums.abs_low[0] == falling->sums.abs_low[0]);
    assert_true(falling->sums.square_high[0] == 0x1p80);
    assert_true(falling->sums.square_low[0] == SMALL_ROWS * 0x1p-60);
    assert_true(falling->sums.max_abs[0] == 0x1p40);
    awq_calibration_destroy(rising);
    awq_calibration_destroy(falling);
}

static void test_largest_floats(void **state)
{
    (void)state;
    float x[4] = {3.4028235e38f, 1e-45f, -3.4028235e38f, -1e-45f};
    awq_calibration *calibration = create(context, 2, 0, AWQ_CALIBRATION_GRAM);
    observe(calibration, x, 2, 2);
    double square[2];
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_SQUARE, square, 2), AWQ_OK);
    assert_true(square[0] == (double)x[0] * (double)x[0]);
    assert_true(square[1] == (double)x[1] * (double)x[1] && square[1] > 0);
    assert_true(calibration->gram[0] == 2 * square[0]);
    awq_calibration_destroy(calibration);
}

/* ---- order, batches, threads */

static void test_order_batches_and_threads(void **state)
{
    (void)state;
    enum { ROWS = 700, CHANNELS = 143, LIMIT = 64 };
    float *x = random_matrix(ROWS, CHANNELS, 2);
    awq_calibration *whole = create(context, CHANNELS, LIMIT, 0);
    observe(whole, x, ROWS, CHANNELS);
    assert_int_equal(info_of(whole).sample_rows, LIMIT);

    awq_calibration *reversed = create(context, CHANNELS, LIMIT, 0);
    for (int64_t row = ROWS; row-- > 0;) {
        awq_tensor ignored;
        observe(reversed, x + row * CHANNELS, 1, CHANNELS);
        if (row % 100 == 0) assert_int_equal(awq_calibration_get_samples(reversed, &ignored), AWQ_OK);
    }
    assert_same(whole, reversed);
    awq_calibration_destroy(reversed);

    static const int32_t threads[] = {1, 2, 7};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        awq_context *other = context_with_threads(threads[i]);
        awq_calibration *batched = create(other, CHANNELS, LIMIT, 0);
        for (int64_t row = 0, count; row < ROWS; row += count) {
            count = awqi_min64(1 + row % 97, ROWS - row);
            observe(batched, x + row * CHANNELS, count, CHANNELS);
        }
        assert_same(whole, batched);
        assert_memory_equal(whole->sums.abs_high, batched->sums.abs_high, 5 * CHANNELS * sizeof(double));
        awq_calibration_destroy(batched);
        awq_context_destroy(other);
    }
    awq_calibration_destroy(whole);
    free(x);
}

static void test_merge(void **state)
{
    (void)state;
    enum { ROWS = 500, CHANNELS = 33, LIMIT = 40 };
    float *x = random_matrix(ROWS, CHANNELS, 3);
    awq_calibration *whole = create(context, CHANNELS, LIMIT, AWQ_CALIBRATION_GRAM);
    observe(whole, x, ROWS, CHANNELS);
    static const int64_t bounds[] = {0, 10, 11, 290, ROWS}; /* the second shard is a single row */
    static const int orders[][4] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {1, 3, 0, 2}};
    for (size_t order = 0; order < sizeof orders / sizeof *orders; order++) {
        awq_calibration *merged = create(context, CHANNELS, LIMIT, AWQ_CALIBRATION_GRAM);
        for (int i = 0; i < 4; i++) {
            int64_t begin = bounds[orders[order][i]], end = bounds[orders[order][i] + 1];
            awq_calibration *shard = create(context, CHANNELS, LIMIT, AWQ_CALIBRATION_GRAM);
            observe(shard, x + begin * CHANNELS, end - begin, CHANNELS);
            assert_int_equal(awq_calibration_merge(merged, shard), AWQ_OK);
            awq_calibration_destroy(shard);
        }
        assert_same(whole, merged);
        /* These values are exact in double, so their sums are too. */
        assert_memory_equal(whole->gram, merged->gram, CHANNELS * CHANNELS * sizeof(double));
        awq_calibration_destroy(merged);
    }
    awq_calibration_destroy(whole);
    free(x);
}

/* Of values whose sums round, merged in several orders and groupings. */
static void test_trimmed_merge(void **state)
{
    (void)state;
    enum { ROWS = 240, PARTS = 4, PART = ROWS / PARTS, CHANNELS = 19, LIMIT = 16 };
    static const int groupings[][PARTS] = {{0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}};
    float *x = random_matrix(ROWS, CHANNELS, 11);
    for (int i = 0; i < ROWS * CHANNELS; i++) x[i] = expf(0.05f * x[i]);
    awq_calibration *whole = create(context, CHANNELS, LIMIT, AWQ_CALIBRATION_GRAM);
    observe(whole, x, ROWS, CHANNELS);
    awq_calibration *merged[3];
    for (int grouping = 0; grouping < 3; grouping++) {
        awq_calibration *part[PARTS];
        for (int i = 0; i < PARTS; i++) {
            part[i] = create(context, CHANNELS, LIMIT, AWQ_CALIBRATION_GRAM);
            observe(part[i], x + groupings[grouping][i] * PART * CHANNELS, PART, CHANNELS);
            assert_int_equal(awq_calibration_trim(part[i]), AWQ_OK);
        }
        /* ((a b) (c d)), or one after the other. */
        for (int i = 1; i < PARTS; i++) {
            bool paired = grouping == 1 && i == 2;
            if (grouping == 1 && i == 3) continue;
            if (paired) assert_int_equal(awq_calibration_merge(part[2], part[3]), AWQ_OK);
            assert_int_equal(awq_calibration_merge(part[0], part[i]), AWQ_OK);
        }
        for (int i = 1; i < PARTS; i++) awq_calibration_destroy(part[i]);
        merged[grouping] = part[0];
        assert_memory_equal(merged[0]->sums.abs_high, part[0]->sums.abs_high, 5 * CHANNELS * sizeof(double));
        assert_memory_equal(merged[0]->gram, part[0]->gram, CHANNELS * CHANNELS * sizeof(double));
    }
    for (int i = 0; i < CHANNELS; i++) {
        double error = fabs(merged[0]->sums.square_high[i] - whole->sums.square_high[i]);
        assert_true(error <= 0x1p-47 * whole->sums.square_high[i]);
        for (int j = 0; j < CHANNELS; j++) {
            double bound = sqrt(whole->gram[i * (CHANNELS + 1)] * whole->gram[j * (CHANNELS + 1)]);
            assert_true(fabs(merged[0]->gram[i * CHANNELS + j] - whole->gram[i * CHANNELS + j]) <= 0x1p-26 * bound);
            assert_true(merged[0]->gram[i * CHANNELS + j] == merged[0]->gram[j * CHANNELS + i]);
        }
    }
    for (int i = 0; i < 3; i++) awq_calibration_destroy(merged[i]);
    awq_calibration_destroy(whole);
    assert_int_equal(awq_calibration_trim(NULL), AWQ_ERROR_INVALID);
    free(x);
}

static void test_merge_refuses(void **state)
{
    (void)state;
    awq_calibration *base = create(context, 4, 8, 0), *channels = create(context, 5, 8, 0);
    awq_calibration *rows = create(context, 4, 9, 0), *flags = create(context, 4, 8, AWQ_CALIBRATION_GRAM), *seed;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = 8;
    assert_int_equal(awq_calibration_create(context, 4, &options, &seed), AWQ_OK);
    assert_int_equal(awq_calibration_merge(base, channels), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(base, rows), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(base, flags), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(base, seed), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(base, base), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(base, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_merge(NULL, base), AWQ_ERROR_INVALID);
    flags->rows = INT64_MAX;
    awq_calibration *more = create(context, 4, 8, AWQ_CALIBRATION_GRAM);
    observe(more, (float[4]){1, 2, 3, 4}, 1, 4);
    assert_int_equal(awq_calibration_merge(flags, more), AWQ_ERROR_INVALID);
    awq_tensor x;
    awq_tensor_init_const_1d(&x, (float[4]){1, 2, 3, 4}, AWQ_F32, 4);
    assert_int_equal(awq_calibration_observe(flags, &x), AWQ_ERROR_INVALID);
    assert_true(flags->gram[0] == 0 && flags->weight_high == 0);
    awq_calibration_destroy(base);
    awq_calibration_destroy(channels);
    awq_calibration_destroy(rows);
    awq_calibration_destroy(flags);
    awq_calibration_destroy(more);
    awq_calibration_destroy(seed);
}

/* ---- kinds of input */

static void test_dtypes_strides_and_ranks(void **state)
{
    (void)state;
    enum { ROWS = 12, CHANNELS = 131 };
    float *x = random_matrix(ROWS, CHANNELS, 4);
    awq_calibration *plain = create(context, CHANNELS, 8, 0);
    observe(plain, x, ROWS, CHANNELS);
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        size_t size = awq_dtype_size(dtypes[i]);
        unsigned char *data = malloc(ROWS * CHANNELS * size), *spread = malloc(ROWS * CHANNELS * 2 * size);
        awqi_from_f32(dtypes[i], x, data, ROWS * CHANNELS);
        awq_tensor contiguous, strided, transposed;

        const int64_t shape[3] = {3, 4, CHANNELS};
        assert_int_equal(awq_tensor_init_const(&contiguous, data, dtypes[i], 3, shape), AWQ_OK);
        awq_calibration *calibration = create(context, CHANNELS, 8, 0);
        assert_int_equal(awq_calibration_observe(calibration, &contiguous), AWQ_OK);
        assert_same(plain, calibration);
        awq_calibration_destroy(calibration);

        /* Rows in reverse, and every other element. */
        strided = contiguous;
        strided.data = spread;
        strided.byte_offset = (ROWS - 1) * 2 * CHANNELS * size;
        strided.flags = 0;
        strided.strides[0] = -4 * 2 * CHANNELS;
        strided.strides[1] = -2 * CHANNELS;
        strided.strides[2] = 2;
        assert_int_equal(awq_tensor_copy(context, &contiguous, &strided, NULL), AWQ_OK);
        calibration = create(context, CHANNELS, 8, 0);
        assert_int_equal(awq_calibration_observe(calibration, &strided), AWQ_OK);
        assert_same(plain, calibration);
        awq_calibration_destroy(calibration);

        awq_tensor_init_2d(&transposed, spread, dtypes[i], ROWS, CHANNELS);
        transposed.strides[0] = 1;
        transposed.strides[1] = ROWS;
        awq_tensor_init_const_2d(&contiguous, data, dtypes[i], ROWS, CHANNELS);
        assert_int_equal(awq_tensor_copy(context, &contiguous, &transposed, NULL), AWQ_OK);
        calibration = create(context, CHANNELS, 8, 0);
        assert_int_equal(awq_calibration_observe(calibration, &transposed), AWQ_OK);
        assert_same(plain, calibration);
        awq_calibration_destroy(calibration);
        free(data);
        free(spread);
    }
    awq_calibration *vectors = create(context, CHANNELS, 8, 0);
    for (int row = 0; row < ROWS; row++) {
        awq_tensor view;
        awq_tensor_init_const_1d(&view, x + row * CHANNELS, AWQ_F32, CHANNELS);
        assert_int_equal(awq_calibration_observe(vectors, &view), AWQ_OK);
    }
    assert_same(plain, vectors);
    awq_calibration_destroy(vectors);
    awq_calibration_destroy(plain);
    free(x);
}

static void test_no_rows(void **state)
{
    (void)state;
    awq_calibration *calibration = create(context, 3, 4, AWQ_CALIBRATION_GRAM);
    awq_tensor x, samples;
    double values[3];
    awq_tensor_init_const_2d(&x, NULL, AWQ_F16, 0, 3);
    assert_int_equal(awq_calibration_observe(calibration, &x), AWQ_OK);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, values, 3), AWQ_ERROR_STATE);
    assert_int_equal(awq_calibration_get_samples(calibration, &samples), AWQ_OK);
    assert_int_equal(samples.shape[0], 0);
    assert_int_equal(samples.shape[1], 3);
    assert_int_equal(info_of(calibration).rows, 0);
    awq_calibration_destroy(calibration);
}

/* ---- numbers that are none */

static void test_non_finite(void **state)
{
    (void)state;
    enum { ROWS = 300, CHANNELS = 600 };
    float *x = random_matrix(ROWS, CHANNELS, 5);
    awq_calibration *calibration = create(context, CHANNELS, 8, AWQ_CALIBRATION_GRAM);
    awq_calibration *before = create(context, CHANNELS, 8, AWQ_CALIBRATION_GRAM);
    observe(calibration, x, 10, CHANNELS);
    observe(before, x, 10, CHANNELS);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, ROWS, CHANNELS);
    x[299 * CHANNELS + 0] = NAN;
    x[217 * CHANNELS + 599] = -INFINITY;
    x[217 * CHANNELS + 555] = NAN;
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_NON_FINITE);
    assert_string_equal(awq_last_error(), "x: NaN at row 217, channel 555");
    x[217 * CHANNELS + 555] = 0;
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_NON_FINITE);
    assert_string_equal(awq_last_error(), "x: infinity at row 217, channel 599");
    assert_same(before, calibration);
    assert_memory_equal(before->gram, calibration->gram, (size_t)CHANNELS * CHANNELS * sizeof(double));

    /* Rows of weight 0 may hold anything. */
    float weights[ROWS] = {0};
    awq_tensor weight_view;
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, ROWS);
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_OK);
    assert_same(before, calibration);
    for (int row = 0; row < ROWS; row++) weights[row] = row == 217 || row == 299 ? 0.0f : 1.0f;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_OK);
    observe(before, x, 217, CHANNELS);
    observe(before, x + 218 * CHANNELS, 81, CHANNELS);
    assert_same(before, calibration);
    assert_memory_equal(before->gram, calibration->gram, (size_t)CHANNELS * CHANNELS * sizeof(double));
    awq_calibration_destroy(before);
    awq_calibration_destroy(calibration);
    free(x);
}

/* ---- weights */

static void test_whole_weights_repeat_rows(void **state)
{
    (void)state;
    enum { ROWS = 50, CHANNELS = 9 };
    float *x = random_matrix(ROWS, CHANNELS, 6), weights[2 * ROWS];
    awq_calibration *weighted = create(context, CHANNELS, 16, AWQ_CALIBRATION_GRAM);
    awq_calibration *repeated = create(context, CHANNELS, 16, AWQ_CALIBRATION_GRAM);
    int64_t counted = 0;
    for (int row = 0; row < ROWS; row++) {
        weights[2 * row] = (float)(row % 4);
        for (int i = 0; i < row % 4; i++) observe(repeated, x + row * CHANNELS, 1, CHANNELS);
        counted += row % 4 > 0;
    }
    awq_tensor view, weight_view;
    const int64_t shape[3] = {5, 10, CHANNELS};
    assert_int_equal(awq_tensor_init_const(&view, x, AWQ_F32, 3, shape), AWQ_OK);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, ROWS);
    weight_view.strides[0] = 2;
    assert_int_equal(awq_calibration_observe_weighted(weighted, &view, &weight_view), AWQ_OK);
    assert_int_equal(info_of(weighted).rows, counted);
    assert_true(info_of(weighted).weight == info_of(repeated).weight);
    weighted->rows = repeated->rows;
    assert_same(weighted, repeated);
    assert_memory_equal(weighted->gram, repeated->gram, CHANNELS * CHANNELS * sizeof(double));
    awq_calibration_destroy(weighted);
    awq_calibration_destroy(repeated);
    free(x);
}

static void test_fractional_weights(void **state)
{
    (void)state;
    const float x[6] = {1, -2, 3, 4, 100, 100}, weights[3] = {0.25f, 0.75f, 0};
    awq_calibration *calibration = create(context, 2, 4, 0);
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 3, 2);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, 3);
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_OK);
    double values[2];
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, values, 2), AWQ_OK);
    assert_true(values[0] == 2.5 && values[1] == 3.5);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_SQUARE, values, 2), AWQ_OK);
    assert_true(values[0] == 7.0 && values[1] == 13.0);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MAX_ABS, values, 2), AWQ_OK);
    assert_true(values[0] == 3.0 && values[1] == 4.0);
    awq_calibration_info info = info_of(calibration);
    assert_true(info.rows == 2 && info.weight == 1.0 && info.sample_rows == 2);
    awq_calibration_destroy(calibration);
}

static void test_weights_refused(void **state)
{
    (void)state;
    const float x[6] = {1, 2, 3, 4, 5, 6};
    float weights[3] = {1, 1, 1};
    awq_calibration *calibration = create(context, 2, 4, 0);
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 3, 2);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, 3);
    weights[1] = -0.5f;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_INVALID);
    assert_string_equal(awq_last_error(), "weights: -0.5 at row 1; weights are not negative");
    weights[1] = NAN;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_NON_FINITE);
    weights[1] = INFINITY;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_NON_FINITE);
    assert_string_equal(awq_last_error(), "weights: infinity at row 1");
    weights[1] = 1;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, NULL), AWQ_ERROR_INVALID);
    weight_view.shape[0] = 2;
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&weight_view, weights, AWQ_F32, 3, 1);
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F16, 3);
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_ERROR_INVALID);
    assert_int_equal(info_of(calibration).rows, 0);
    awq_calibration_destroy(calibration);
}

/* ---- Gram matrix */

static void test_gram(void **state)
{
    (void)state;
    enum { ROWS = 150, CHANNELS = 77 };
    float *x = random_matrix(ROWS, CHANNELS, 8), weights[ROWS];
    for (int i = 0; i < ROWS; i++) weights[i] = (float)(random_bits() % 5) * 0.5f;
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, ROWS, CHANNELS);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, ROWS);
    for (int weighted = 0; weighted <= 1; weighted++) {
        awq_calibration *calibration = create(context, CHANNELS, 0, AWQ_CALIBRATION_GRAM);
        assert_int_equal(weighted ? awq_calibration_observe_weighted(calibration, &view, &weight_view)
                                  : awq_calibration_observe(calibration, &view), AWQ_OK);
        for (int i = 0; i < CHANNELS; i++)
            for (int j = 0; j < CHANNELS; j++) {
                double sum = 0; /* exact for these values */
                for (int row = 0; row < ROWS; row++)
                    sum += (weighted ? (double)weights[row] : 1.0) * (double)x[row * CHANNELS + i] *
                           (double)x[row * CHANNELS + j];
                assert_true(calibration->gram[i * CHANNELS + j] == sum);
            }
        awq_calibration_destroy(calibration);
    }
    free(x);
}

/* Sums that round: the same bits for any number of threads, and symmetric. */
static void test_gram_threads(void **state)
{
    (void)state;
    enum { ROWS = 200, CHANNELS = 100 };
    float *x = random_matrix(ROWS, CHANNELS, 9), *weights = random_matrix(ROWS, 1, 10);
    for (int i = 0; i < ROWS * CHANNELS; i++) x[i] = expf(x[i] / 8) / 3;
    for (int i = 0; i < ROWS; i++) weights[i] = fabsf(weights[i]) / 3;
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, ROWS, CHANNELS);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, ROWS);
    awq_calibration *first = create(context, CHANNELS, 0, AWQ_CALIBRATION_GRAM);
    assert_int_equal(awq_calibration_observe_weighted(first, &view, &weight_view), AWQ_OK);
    for (int32_t threads = 1; threads <= 7; threads += 3) {
        awq_context *other = context_with_threads(threads);
        awq_calibration *calibration = create(other, CHANNELS, 0, AWQ_CALIBRATION_GRAM);
        assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_OK);
        assert_memory_equal(first->gram, calibration->gram, CHANNELS * CHANNELS * sizeof(double));
        awq_calibration_destroy(calibration);
        awq_context_destroy(other);
    }
    for (int i = 0; i < CHANNELS; i++)
        for (int j = 0; j < i; j++) assert_true(first->gram[i * CHANNELS + j] == first->gram[j * CHANNELS + i]);
    awq_calibration_destroy(first);
    free(x);
    free(weights);
}

/* ---- samples */

static uint64_t hash_of(const float *row, int64_t channels)
{
    return awqi_row_hash_end(awqi_row_hash_add(awqi_row_hash_begin(7), row, channels));
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_sample_is_the_least_hashes(void **state)
{
    (void)state;
    enum { ROWS = 2000, CHANNELS = 5, LIMIT = 100 };
    float *x = random_matrix(ROWS, CHANNELS, 11);
    uint64_t hashes[ROWS];
    for (int row = 0; row < ROWS; row++) hashes[row] = hash_of(x + row * CHANNELS, CHANNELS);
    qsort(hashes, ROWS, sizeof *hashes, by_value);
    for (int row = 1; row < ROWS; row++) assert_true(hashes[row - 1] < hashes[row]);
    awq_calibration *calibration = create(context, CHANNELS, LIMIT, 0);
    observe(calibration, x, ROWS, CHANNELS);
    awq_tensor samples;
    assert_int_equal(awq_calibration_get_samples(calibration, &samples), AWQ_OK);
    assert_int_equal(samples.dtype, AWQ_F32);
    assert_int_equal(samples.flags, AWQ_TENSOR_READONLY);
    for (int i = 0; i < LIMIT; i++)
        assert_true(hash_of((const float *)samples.data + i * CHANNELS, CHANNELS) == hashes[i]);
    awq_calibration_destroy(calibration);
    free(x);
}

/* Of 20000 rows that count up, those kept must be spread evenly: each tenth gets 100 of 1000, with a deviation of
 * about 9.5.  The bound is five times that; the outcome is the same on every run. */
static void test_sample_is_spread_evenly(void **state)
{
    (void)state;
    enum { ROWS = 20000, LIMIT = 1000, PARTS = 10 };
    static float x[ROWS][2];
    for (int row = 0; row < ROWS; row++) x[row][0] = (float)row;
    awq_calibration *calibration = create(context, 2, LIMIT, 0);
    observe(calibration, *x, ROWS, 2);
    awq_tensor samples;
    assert_int_equal(awq_calibration_get_samples(calibration, &samples), AWQ_OK);
    int counts[PARTS] = {0};
    for (int i = 0; i < LIMIT; i++) counts[(int)((const float *)samples.data)[2 * i] / (ROWS / PARTS)]++;
    for (int i = 0; i < PARTS; i++) assert_in_range(counts[i], 52, 148);
    awq_calibration_destroy(calibration);
}

static void test_seed_chooses_the_rows(void **state)
{
    (void)state;
    enum { ROWS = 200, LIMIT = 50 };
    float x[ROWS];
    for (int row = 0; row < ROWS; row++) x[row] = (float)row;
    int shared = 0;
    awq_calibration *seeded[2];
    awq_tensor samples[2];
    for (int i = 0; i < 2; i++) {
        awq_calibration_options options;
        awq_struct_init(&options, sizeof options);
        options.sample_rows = LIMIT;
        options.seed = (uint64_t)i;
        assert_int_equal(awq_calibration_create(context, 1, &options, &seeded[i]), AWQ_OK);
        observe(seeded[i], x, ROWS, 1);
        assert_int_equal(awq_calibration_get_samples(seeded[i], &samples[i]), AWQ_OK);
    }
    for (int i = 0; i < LIMIT; i++)
        for (int j = 0; j < LIMIT; j++)
            shared += ((const float *)samples[0].data)[i] == ((const float *)samples[1].data)[j];
    assert_in_range(shared, 1, 30); /* 12.5 expected */
    awq_calibration_destroy(seeded[0]);
    awq_calibration_destroy(seeded[1]);
}

static void test_equal_rows_are_kept_once(void **state)
{
    (void)state;
    float x[90][2];
    for (int row = 0; row < 90; row++) x[row][0] = (float)(row % 3), x[row][1] = row % 3 == 2 ? -0.0f : 0.0f;
    awq_calibration *calibration = create(context, 2, 8, 0), *other = create(context, 2, 8, 0);
    observe(calibration, *x, 90, 2);
    observe(other, *x + 2, 5, 2);
    assert_int_equal(info_of(calibration).sample_rows, 3);
    assert_int_equal(awq_calibration_merge(calibration, other), AWQ_OK);
    assert_int_equal(info_of(calibration).sample_rows, 3);
    assert_int_equal(info_of(calibration).rows, 95);
    awq_calibration_destroy(calibration);
    awq_calibration_destroy(other);
}

static void test_no_samples(void **state)
{
    (void)state;
    float *x = random_matrix(20, 4, 12);
    awq_calibration *calibration = create(context, 4, -3, 0), *other = create(context, 4, -1, 0);
    observe(calibration, x, 20, 4);
    observe(other, x, 20, 4);
    assert_int_equal(awq_calibration_merge(calibration, other), AWQ_OK);
    awq_calibration_info info = info_of(calibration);
    assert_true(info.rows == 40 && info.sample_rows == 0 && info.sample_limit == 0);
    awq_calibration_destroy(calibration);
    awq_calibration_destroy(other);
    free(x);
}

/* Rows whose hashes collide are told apart, and ordered, by their contents. */
static void test_colliding_hashes(void **state)
{
    (void)state;
    enum { VALUES = 64, LIMIT = 20, ROUNDS = 50 };
    random_state = 13;
    for (int round = 0; round < ROUNDS; round++) {
        struct awqi_row_sample sample;
        bool offered[VALUES] = {false};
        awqi_row_sample_init(&sample, context, 1, LIMIT, 0);
        for (int i = 0; i < 100; i++) {
            uint32_t value = random_bits() % VALUES;
            float row = (float)value;
            assert_int_equal(awqi_row_sample_reserve(&sample, 1), AWQ_OK);
            awqi_row_sample_offer(&sample, value / 8 % 4, &row); /* 4 hashes for 64 rows */
            offered[value] = true;
            if (i % 30 == 0) awqi_row_sample_sort(&sample);
        }
        awqi_row_sample_sort(&sample);
        uint32_t found = 0;
        for (uint32_t hash = 0; hash < 4; hash++)
            for (uint32_t value = 0; value < VALUES; value++)
                if (offered[value] && value / 8 % 4 == hash && found < sample.count)
                    assert_true(sample.rows[found] == (float)value && sample.hashes[found++] == hash);
        assert_int_equal(found, LIMIT);
        awqi_row_sample_clear(&sample);
    }
}

/* ---- memory */

static void test_memory_is_bounded(void **state)
{
    (void)state;
    enum { ROWS = 64, CHANNELS = 16 };
    awq_calibration *calibration = create(context, CHANNELS, 32, 0);
    uint64_t first = 0;
    for (int batch = 0; batch < 50; batch++) {
        float *x = random_matrix(ROWS, CHANNELS, (uint64_t)batch);
        observe(calibration, x, ROWS, CHANNELS);
        free(x);
        if (batch == 0) first = held_by(context);
        assert_true(held_by(context) == first);
    }
    awq_calibration_destroy(calibration);
}

static void test_memory_refused(void **state)
{
    (void)state;
    awq_context_options options;
    awq_context *small;
    awq_struct_init(&options, sizeof options);
    options.memory_limit_bytes = 1 << 16;
    assert_int_equal(awq_context_create(&options, &small), AWQ_OK);
    uint64_t held = held_by(small);
    awq_calibration_options calibration_options;
    awq_struct_init(&calibration_options, sizeof calibration_options);
    calibration_options.flags = AWQ_CALIBRATION_GRAM;
    awq_calibration *calibration = (awq_calibration *)&options;
    assert_int_equal(awq_calibration_create(small, 1000, &calibration_options, &calibration), AWQ_ERROR_MEMORY_LIMIT);
    assert_null(calibration);
    assert_int_equal(awq_calibration_create(small, INT64_MAX / 8, &calibration_options, &calibration),
                     AWQ_ERROR_OUT_OF_MEMORY);
    assert_int_equal(awq_calibration_create(small, 100000000, &calibration_options, &calibration),
                     AWQ_ERROR_MEMORY_LIMIT);
    assert_true(held_by(small) == held);
    /* The statistics fit, the sampled rows do not: nothing is added. */
    calibration_options.flags = 0;
    assert_int_equal(awq_calibration_create(small, 100, &calibration_options, &calibration), AWQ_OK);
    float *x = random_matrix(400, 100, 14);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 400, 100);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_MEMORY_LIMIT);
    assert_int_equal(info_of(calibration).rows, 0);
    observe(calibration, x, 20, 100);
    awq_calibration_destroy(calibration);
    awq_context_destroy(small);
    free(x);
}

static int allocations_left;

static void *failing_allocate(void *user_data, size_t size, size_t alignment)
{
    (void)user_data;
    return allocations_left-- > 0 ? aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment) : NULL;
}

static void failing_release(void *user_data, void *memory, size_t size)
{
    (void)user_data;
    (void)size;
    free(memory);
}

static void test_each_allocation_fails_once(void **state)
{
    (void)state;
    awq_context_options options;
    awq_context *failing;
    awq_struct_init(&options, sizeof options);
    options.allocate = failing_allocate;
    options.release = failing_release;
    allocations_left = INT32_MAX;
    assert_int_equal(awq_context_create(&options, &failing), AWQ_OK);
    uint64_t held = held_by(failing);
    float *x = random_matrix(30, 10, 15), weights[30];
    for (int i = 0; i < 30; i++) weights[i] = 1;
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 30, 10);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, 30);
    bool created = false, observed = false;
    for (int budget = 0; !observed; budget++) {
        awq_calibration *calibration;
        awq_calibration_options calibration_options;
        awq_struct_init(&calibration_options, sizeof calibration_options);
        calibration_options.flags = AWQ_CALIBRATION_GRAM;
        assert_true(budget < 100);
        allocations_left = budget;
        awq_status status = awq_calibration_create(failing, 10, &calibration_options, &calibration);
        created = status == AWQ_OK;
        assert_true(created || (status == AWQ_ERROR_OUT_OF_MEMORY && calibration == NULL));
        if (!created) continue;
        status = awq_calibration_observe_weighted(calibration, &view, &weight_view);
        observed = status == AWQ_OK;
        if (!observed) {
            assert_int_equal(status, AWQ_ERROR_OUT_OF_MEMORY);
            assert_true(calibration->rows == 0 && calibration->gram[0] == 0 && calibration->sums.abs_high[0] == 0);
            assert_int_equal(calibration->sample->count, 0);
        }
        awq_calibration_destroy(calibration);
        assert_true(held_by(failing) == held);
    }
    awq_context_destroy(failing);
    free(x);
}

/* ---- arguments */

static void test_create_refuses(void **state)
{
    (void)state;
    awq_calibration *calibration;
    awq_calibration_options options;
    assert_int_equal(awq_calibration_create(NULL, 4, NULL, &calibration), AWQ_ERROR_INVALID);
    assert_null(calibration);
    assert_int_equal(awq_calibration_create(context, 4, NULL, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_create(context, 0, NULL, &calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_create(context, -1, NULL, &calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_create(context, INT64_MAX, NULL, &calibration), AWQ_ERROR_INVALID);
    awq_struct_init(&options, sizeof options);
    options.flags = 2;
    assert_int_equal(awq_calibration_create(context, 4, &options, &calibration), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.sample_rows = (int64_t)INT32_MAX + 1;
    assert_int_equal(awq_calibration_create(context, 4, &options, &calibration), AWQ_ERROR_INVALID);
    options.sample_rows = INT32_MAX; /* a limit, not a request */
    assert_int_equal(awq_calibration_create(context, 4, &options, &calibration), AWQ_OK);
    awq_calibration_destroy(calibration);
    options.struct_size = 0;
    assert_int_equal(awq_calibration_create(context, 4, &options, &calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_create(context, 4, NULL, &calibration), AWQ_OK);
    assert_int_equal(info_of(calibration).sample_limit, 512);
    awq_calibration_destroy(calibration);
    awq_calibration_destroy(NULL);
}

static void test_observe_refuses(void **state)
{
    (void)state;
    const float x[8] = {0};
    awq_calibration *calibration = create(context, 4, 0, 0);
    awq_tensor view;
    assert_int_equal(awq_calibration_observe(calibration, NULL), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 2, 4);
    assert_int_equal(awq_calibration_observe(NULL, &view), AWQ_ERROR_INVALID);
    view.dtype = AWQ_F64;
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 4, 2);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    assert_string_equal(awq_last_error(), "x: last dimension is 2 where 4 is needed");
    assert_int_equal(awq_tensor_init_const(&view, x, AWQ_F32, 0, NULL), AWQ_OK);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, NULL, AWQ_F32, 2, 4);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 2, 4);
    view.device_type = AWQ_DEVICE_CUDA;
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, x, AWQ_F32, -2, 4);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_ERROR_INVALID);
    assert_int_equal(info_of(calibration).rows, 0);
    awq_calibration_destroy(calibration);
}

static void test_results_refuse(void **state)
{
    (void)state;
    awq_calibration *calibration = create(context, 4, 0, 0);
    double values[4];
    awq_tensor samples;
    awq_calibration_info info;
    awq_struct_init(&info, sizeof info);
    assert_int_equal(awq_calibration_get_info(NULL, &info), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_info(calibration, NULL), AWQ_ERROR_INVALID);
    info.struct_size = 1;
    assert_int_equal(awq_calibration_get_info(calibration, &info), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_samples(NULL, &samples), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_samples(calibration, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(NULL, 0, values, 4), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(calibration, 0, NULL, 4), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(calibration, 0, values, 3), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(calibration, 3, values, 4), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(calibration, -1, values, 4), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MAX_ABS, values, 4), AWQ_ERROR_STATE);
    awq_calibration_destroy(calibration);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_sums_have_two_parts),
        cmocka_unit_test(test_largest_floats),
        cmocka_unit_test(test_order_batches_and_threads),
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_merge_refuses),
        cmocka_unit_test(test_trimmed_merge),
        cmocka_unit_test(test_dtypes_strides_and_ranks),
        cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_non_finite),
        cmocka_unit_test(test_whole_weights_repeat_rows),
        cmocka_unit_test(test_fractional_weights),
        cmocka_unit_test(test_weights_refused),
        cmocka_unit_test(test_gram),
        cmocka_unit_test(test_gram_threads),
        cmocka_unit_test(test_sample_is_the_least_hashes),
        cmocka_unit_test(test_sample_is_spread_evenly),
        cmocka_unit_test(test_seed_chooses_the_rows),
        cmocka_unit_test(test_equal_rows_are_kept_once),
        cmocka_unit_test(test_no_samples),
        cmocka_unit_test(test_colliding_hashes),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_memory_refused),
        cmocka_unit_test(test_each_allocation_fails_once),
        cmocka_unit_test(test_create_refuses),
        cmocka_unit_test(test_observe_refuses),
        cmocka_unit_test(test_results_refuse),
    };
    return cmocka_run_group_tests_name("calibration", tests, setup, teardown);
}
