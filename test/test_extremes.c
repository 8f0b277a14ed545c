/* Numbers and shapes at the edges, through everything that meets them: zeros, constants, denormals, outliers, what FP16 cannot
 * hold, weights of one row or column, no rows at all, more than 2^31 elements. */
#include "scratch.h"
#include "support.h"

#include <fcntl.h>
#include <float.h>

enum { K = 64, GROUP = 16 };

static awq_quantize_options grouped(int64_t group_size, int32_t bits, bool symmetric)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = group_size;
    options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    return options;
}

static awq_weight *quantize(struct scratch *scratch, const void *w, int32_t dtype, int64_t n, int64_t k,
                            const awq_quantize_options *options)
{
    awq_tensor view;
    awq_weight *weight;
    awq_tensor_init_const_2d(&view, w, dtype, n, k);
    assert_status(awq_quantize(scratch->context, &view, NULL, options, &weight), AWQ_OK);
    return weight;
}

static void dequantize(const awq_weight *weight, int64_t n, int64_t k, float *values)
{
    awq_tensor out;
    awq_tensor_init_2d(&out, values, AWQ_F32, n, k);
    assert_status(awq_weight_dequantize(weight, 0, &out), AWQ_OK);
    assert_int_equal(awqi_find_non_finite(values, n * k), -1);
}

/* ---- values */

static void constant_groups_come_back_to_half_precision(void **state)
{
    static const float constants[] = {1.0f, -1.0f, 0.3f, -0.3f, 1e-3f, 100.0f, -3000.0f, 65504.0f};
    struct scratch *scratch = *state;
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        for (int32_t bits = 2; bits <= 8; bits = bits < 4 ? bits + 1 : bits * 2)
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                float w[K], values[K];
                for (int j = 0; j < K; j++) w[j] = constants[i];
                awq_quantize_options options = grouped(GROUP, bits, symmetric);
                awq_weight *weight = quantize(scratch, w, AWQ_F32, 1, K, &options);
                dequantize(weight, 1, K, values);
                /* The scale is rounded to FP16, to 11 bits. */
                for (int j = 0; j < K; j++) assert_true(fabsf(values[j] - w[j]) <= 0x1p-10f * fabsf(w[j]));
                awq_weight_destroy(weight);
            }
}

static void denormals_are_numbers(void **state)
{
    struct scratch *scratch = *state;
    float w[K], values[K];
    uint16_t halves[K];
    for (int i = 0; i < K; i++) {
        w[i] = (float)(i - K / 2) * FLT_TRUE_MIN;
        halves[i] = (uint16_t)(i * 15); /* all below the least normal number of FP16 */
    }
    for (int symmetric = 0; symmetric < 2; symmetric++) {
        awq_quantize_options options = grouped(GROUP, 4, symmetric);
        awq_weight *weight = quantize(scratch, w, AWQ_F32, 1, K, &options);
        dequantize(weight, 1, K, values);
        for (int i = 0; i < K; i++) assert_true(fabsf(values[i]) <= 16 * 0x1p-24f); /* FP16 has no smaller scale */
        awq_weight_destroy(weight);
        weight = quantize(scratch, halves, AWQ_F16, 1, K, &options);
        dequantize(weight, 1, K, values);
        for (int i = 0; i < K; i++) assert_true(fabsf(values[i] - awqi_f16_to_f32(halves[i])) <= 0x1p-14f);
        awq_weight_destroy(weight);
    }
}

static void an_outlier_costs_its_own_group_only(void **state)
{
    struct scratch *scratch = *state;
    float w[K], calm[K], values[K];
    uint64_t seed = 900;
    for (int i = 0; i < K; i++) w[i] = 0.01f * random_normal(&seed);
    awq_quantize_options options = grouped(GROUP, 4, false);
    awq_weight *weight = quantize(scratch, w, AWQ_F32, 1, K, &options);
    dequantize(weight, 1, K, calm);
    awq_weight_destroy(weight);
    w[GROUP + 3] = 60000.0f;
    weight = quantize(scratch, w, AWQ_F32, 1, K, &options);
    dequantize(weight, 1, K, values);
    for (int i = 0; i < K; i++)
        if (i / GROUP != 1) assert_true(values[i] == calm[i]);
    assert_true(fabsf(values[GROUP + 3] - 60000.0f) <= 60.0f);
    awq_weight_destroy(weight);
}

static void what_fp16_cannot_hold_is_counted_or_refused(void **state)
{
    struct scratch *scratch = *state;
    float w[K] = {0}, values[K];
    w[5] = FLT_MAX;
    awq_quantize_options options = grouped(GROUP, 4, true);
    awq_weight *weight = quantize(scratch, w, AWQ_F32, 1, K, &options);
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_weight_get_info(weight, &info), AWQ_OK);
    assert_int_equal(info.clamped_scales, 1);
    dequantize(weight, 1, K, values);
    awq_weight_destroy(weight);

    /* A salient value is stored as it is, or not at all. */
    const int32_t column = 5;
    awq_tensor columns, view;
    awq_tensor_init_const_1d(&columns, &column, AWQ_I32, 1);
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 1, K);
    options.salient_columns = &columns;
    weight = (awq_weight *)scratch;
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_ERROR_NON_FINITE);
    assert_null(weight);
    assert_error_names("column 5");
}

static void bf16_sources_are_their_values(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 901;
    uint16_t *halves = random_array(&seed, AWQ_BF16, 4 * K, 1e5f);
    float w[4 * K], a[4 * K], b[4 * K];
    awqi_to_f32(AWQ_BF16, halves, w, 4 * K);
    awq_quantize_options options = grouped(GROUP, 4, false);
    awq_weight *from_half = quantize(scratch, halves, AWQ_BF16, 4, K, &options);
    awq_weight *from_single = quantize(scratch, w, AWQ_F32, 4, K, &options);
    dequantize(from_half, 4, K, a);
    dequantize(from_single, 4, K, b);
    assert_memory_equal(a, b, sizeof a);
    awq_weight_destroy(from_half);
    awq_weight_destroy(from_single);
    free(halves);
}

/* ---- shapes */

/* One input, one output, or both, in every width of codes: quantised, laid out where the format allows, and multiplied. */
static void one_row_or_one_column(void **state)
{
    static const int64_t shapes[][2] = {{1, 1}, {1, 33}, {33, 1}, {1, 256}, {256, 1}};
    static const int32_t widths[] = {2, 3, 4, 8};
    struct scratch *scratch = *state;
    uint64_t seed = 902;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int b = 0; b < 4; b++) {
            int64_t n = shapes[i][0], k = shapes[i][1];
            float *w = random_array(&seed, AWQ_F32, n * k, 1), *x = random_array(&seed, AWQ_F32, 3 * k, 1);
            float values[256], y[3 * 256];
            awq_quantize_options options = grouped(0, widths[b], false);
            awq_weight *weight = quantize(scratch, w, AWQ_F32, n, k, &options);
            dequantize(weight, n, k, values);
            awq_linear *linear;
            awq_tensor input, output;
            assert_status(awq_linear_create(scratch->context, weight, NULL, &linear), AWQ_OK);
            awq_tensor_init_const_2d(&input, x, AWQ_F32, 3, k);
            awq_tensor_init_2d(&output, y, AWQ_F32, 3, n);
            assert_status(awq_linear_run(linear, &input, &output, NULL), AWQ_OK);
            for (int64_t row = 0; row < 3; row++)
                for (int64_t j = 0; j < n; j++) {
                    double sum = 0, magnitude = 0;
                    for (int64_t l = 0; l < k; l++) {
                        sum += (double)x[row * k + l] * (double)values[j * k + l];
                        magnitude += fabs((double)x[row * k + l]) * 4;
                    }
                    assert_true(fabs((double)y[row * n + j] - sum) <= 0x1p-12 * magnitude);
                }
            /* No rows: nothing is read or written. */
            awq_tensor_init_const_2d(&input, NULL, AWQ_F32, 0, k);
            awq_tensor_init_2d(&output, NULL, AWQ_F32, 0, n);
            assert_status(awq_linear_run(linear, &input, &output, NULL), AWQ_OK);
            for (int32_t layout = AWQ_LAYOUT_GEMM; layout <= AWQ_LAYOUT_LLM_AWQ; layout++) {
                awq_packed *packed;
                awq_status status = awq_pack(scratch->context, weight, layout, &packed);
                assert_true(status == AWQ_OK || status == AWQ_ERROR_UNSUPPORTED);
                assert_true(layout != AWQ_LAYOUT_CPU_STREAM || status == AWQ_OK);
                awq_packed_destroy(packed);
            }
            awq_linear_destroy(linear);
            awq_weight_destroy(weight);
            free(w);
            free(x);
        }
}

/* A sparse file of 2^31 + 65536 elements: offsets of more than 32 bits, of which only the ends are read. */
static void more_than_two_to_the_31_elements(void **state)
{
    enum { ROWS = 65536 };
    const int64_t columns = 32769, last = ROWS * columns - 1;
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "large.safetensors");
    char header[128];
    int length = snprintf(header, sizeof header, "{\"w\":{\"dtype\":\"U8\",\"shape\":[%d,%lld],\"data_offsets\":[0,%lld]}}", ROWS,
                          (long long)columns, (long long)last + 1);
    const uint64_t header_length = (uint64_t)length;
    int fd = open(path, O_RDWR | O_CREAT, 0666);
    assert_true(fd >= 0);
    if (ftruncate(fd, 8 + length + last + 1) != 0) {
        close(fd);
        skip(); /* a file system without such files */
    }
    assert_int_equal(pwrite(fd, &header_length, 8, 0), 8);
    assert_int_equal(pwrite(fd, header, (size_t)length, 8), length);
    assert_int_equal(pwrite(fd, "\x2a", 1, 8 + length + last), 1);
    close(fd);
    awq_checkpoint *checkpoint;
    awq_tensor view, end;
    uint8_t copied[16];
    assert_status(awq_checkpoint_open(scratch->context, path, &checkpoint), AWQ_OK);
    assert_status(awq_checkpoint_get(checkpoint, "w", &view), AWQ_OK);
    assert_int_equal(awqi_tensor_elements(&view), last + 1);
    /* The last 16 elements of the last row, through strides and through the offset. */
    awq_tensor_init_2d(&end, copied, AWQ_U8, 1, 16);
    view.byte_offset += (uint64_t)(last - 15);
    view.shape[0] = 1;
    view.shape[1] = 16;
    assert_status(awq_tensor_copy(scratch->context, &view, &end, NULL), AWQ_OK);
    assert_int_equal(copied[15], 0x2a);
    assert_int_equal(copied[0], 0);
    assert_status(awq_checkpoint_release(checkpoint, "w"), AWQ_OK);
    awq_checkpoint_destroy(checkpoint);

    /* Nothing is computed from such a shape before its memory is there: a limit refuses it. */
    awq_context *small;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 1;
    options.memory_limit_bytes = 1 << 20;
    assert_status(awq_context_create(&options, &small), AWQ_OK);
    float row[K] = {0};
    awq_weight *weight;
    awq_tensor tall;
    awq_tensor_init_const_2d(&tall, row, AWQ_F32, (int64_t)1 << 26, K);
    tall.strides[0] = 0;
    assert_status(awq_quantize(small, &tall, NULL, NULL, &weight), AWQ_ERROR_MEMORY_LIMIT);
    awq_context_destroy(small);
}

/* ---- calibration */

static void a_calibration_of_nothing_gives_no_result(void **state)
{
    struct scratch *scratch = *state;
    float w[K] = {1}, limits[K / GROUP], scales[K];
    awq_calibration *calibration;
    awq_search *search;
    awq_tensor view, limit_view, nothing;
    awq_quantize_options quantizer = grouped(GROUP, 4, false);
    awq_clip_options clip;
    awq_struct_init(&clip, sizeof clip);
    clip.quantize = &quantizer;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 1, K);
    awq_tensor_init_2d(&limit_view, limits, AWQ_F32, 1, K / GROUP);
    awq_tensor_init_const_2d(&nothing, NULL, AWQ_F32, 0, K);
    assert_status(awq_calibration_create(scratch->context, K, NULL, &calibration), AWQ_OK);
    assert_status(awq_calibration_observe(calibration, &nothing), AWQ_OK);
    assert_status(awq_search_create(scratch->context, calibration, NULL, &search), AWQ_OK);
    assert_status(awq_search_add_weight(search, &view), AWQ_OK);
    assert_status(awq_search_run(search), AWQ_ERROR_STATE);
    assert_status(awq_search_get_scales(search, scales, K), AWQ_ERROR_STATE);
    assert_status(awq_clip_search(scratch->context, &view, calibration, NULL, &clip, &limit_view, NULL), AWQ_ERROR_STATE);
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
}

/* In every profile and formula, a channel that is always zero gets a scale that is a number, and the weight one that has no
 * others; in EXACT that scale is 1. */
static void a_channel_that_is_always_zero(void **state)
{
    enum { N = 8, ROWS = 12, SILENT = 7 };
    struct scratch *scratch = *state;
    uint64_t seed = 903;
    float *w = random_array(&seed, AWQ_F32, N * K, 1), *x = random_array(&seed, AWQ_F32, ROWS * K, 1);
    for (int i = 0; i < ROWS; i++) x[i * K + SILENT] = 0;
    awq_calibration *calibration;
    awq_tensor x_view, w_view;
    awq_tensor_init_const_2d(&x_view, x, AWQ_F32, ROWS, K);
    awq_tensor_init_const_2d(&w_view, w, AWQ_F32, N, K);
    assert_status(awq_calibration_create(scratch->context, K, NULL, &calibration), AWQ_OK);
    assert_status(awq_calibration_observe(calibration, &x_view), AWQ_OK);
    for (int32_t profile = AWQ_PROFILE_EXACT; profile <= AWQ_PROFILE_LLM_AWQ; profile++)
        for (int32_t formula = AWQ_SCALES_PLAIN; formula <= AWQ_SCALES_BOTH; formula++) {
            awq_quantize_options quantizer = grouped(GROUP, 4, false);
            awq_search_options options;
            awq_search *search;
            float scales[K], values[N * K];
            awq_struct_init(&options, sizeof options);
            quantizer.profile = profile;
            options.quantize = &quantizer;
            options.scales = formula;
            options.grid_points = 5;
            assert_status(awq_search_create(scratch->context, calibration, &options, &search), AWQ_OK);
            assert_status(awq_search_add_weight(search, &w_view), AWQ_OK);
            assert_status(awq_search_run(search), AWQ_OK);
            assert_status(awq_search_get_scales(search, scales, K), AWQ_OK);
            assert_int_equal(awqi_find_non_finite(scales, K), -1);
            for (int i = 0; i < K; i++) assert_true(scales[i] > 0);
            if (profile == AWQ_PROFILE_EXACT) assert_true(scales[SILENT] == 1.0f);
            awq_weight *weight;
            assert_status(awq_quantize(scratch->context, &w_view, search, NULL, &weight), AWQ_OK);
            dequantize(weight, N, K, values);
            awq_weight_destroy(weight);
            awq_search_destroy(search);
        }
    awq_calibration_destroy(calibration);
    free(w);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(constant_groups_come_back_to_half_precision),
        SCRATCH_TEST(denormals_are_numbers),
        SCRATCH_TEST(an_outlier_costs_its_own_group_only),
        SCRATCH_TEST(what_fp16_cannot_hold_is_counted_or_refused),
        SCRATCH_TEST(bf16_sources_are_their_values),
        SCRATCH_TEST(one_row_or_one_column),
        SCRATCH_TEST(more_than_two_to_the_31_elements),
        SCRATCH_TEST(a_calibration_of_nothing_gives_no_result),
        SCRATCH_TEST(a_channel_that_is_always_zero),
    };
    return cmocka_run_group_tests_name("extremes", tests, NULL, NULL);
}
