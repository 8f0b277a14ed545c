/* Salient columns: which are chosen, what becomes of the others, and that every use of a weight keeps them. */
#include "layouts.h"
#include "search.h"

enum { N = 12, K = 96, GROUP = 32, ROWS = 64 };

static awq_quantize_options salient_options(int32_t rule, double fraction)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = 3;
    options.group_size = GROUP;
    options.salient_rule = rule;
    options.salient_fraction = fraction;
    return options;
}

static awq_weight *quantize(struct scratch *scratch, const awq_tensor *w, const awq_quantize_options *options)
{
    awq_weight *weight;
    assert_status(awq_quantize(scratch->context, w, NULL, options, &weight), AWQ_OK);
    return weight;
}

static void refuse(struct scratch *scratch, const awq_tensor *w, const awq_quantize_options *options, awq_status status,
                   const char *text)
{
    awq_weight *weight = (awq_weight *)1;
    assert_status(awq_quantize(scratch->context, w, NULL, options, &weight), status);
    assert_null(weight);
    if (strstr(awq_last_error(), text) == NULL) fail_msg("\"%s\" does not say \"%s\"", awq_last_error(), text);
}

static void assert_columns(const awq_weight *weight, const int32_t *columns, int64_t count)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_weight_get_info(weight, &info), AWQ_OK);
    assert_int_equal(info.salient_columns, count);
    int32_t *held = malloc((size_t)(count + 1) * sizeof *held);
    awq_tensor view;
    awq_tensor_init_1d(&view, held, AWQ_I32, count);
    assert_status(awq_weight_export_salient(weight, &view, NULL), AWQ_OK);
    for (int64_t i = 0; i < count; i++) assert_int_equal(held[i], columns[i]);
    free(held);
}

static void dequantize(const awq_weight *weight, uint32_t flags, float *values)
{
    awq_tensor view;
    awq_tensor_init_2d(&view, values, AWQ_F32, weight->n, weight->k);
    assert_status(awq_weight_dequantize(weight, flags, &view), AWQ_OK);
}

static void assert_same_salient(const awq_weight *a, const awq_weight *b)
{
    assert_int_equal(a->salient_count, b->salient_count);
    for (int64_t i = 0; i < a->salient_count; i++) assert_int_equal(a->salient_columns[i], b->salient_columns[i]);
    if (a->salient_count > 0)
        assert_memory_equal(a->salient_values, b->salient_values, (size_t)(2 * a->n * a->salient_count));
}

/* ---- choosing */

static void test_rules(void **state)
{
    static const int32_t heavy[] = {5, 40, 95}, loud[] = {0, 33, 34};
    uint64_t seed = 1;
    float *w = random_array(&seed, AWQ_F32, N * K, 0.1f), importance[K];
    for (int64_t i = 0; i < 3; i++)
        for (int64_t row = 0; row < N; row++) w[row * K + heavy[i]] = row % 2 == 0 ? 2.0f : -2.0f;
    for (int64_t j = 0; j < K; j++) importance[j] = 1.0f;
    for (int64_t i = 0; i < 3; i++) importance[loud[i]] = 5.0f + (float)i;
    awq_tensor view, importance_view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, K);

    awq_quantize_options options = salient_options(AWQ_SALIENT_BY_WEIGHT, 0.03); /* 2.88 of 96 */
    awq_weight *weight = quantize(*state, &view, &options);
    assert_columns(weight, heavy, 3);
    awq_weight_destroy(weight);

    options = salient_options(AWQ_SALIENT_BY_ACTIVATION, 0.03);
    options.importance = &importance_view;
    weight = quantize(*state, &view, &options);
    assert_columns(weight, loud, 3);
    awq_weight_destroy(weight);

    options.salient_fraction = 1e-9; /* at least one */
    weight = quantize(*state, &view, &options);
    assert_columns(weight, &loud[2], 1);
    awq_weight_destroy(weight);

    for (int64_t j = 0; j < K; j++) importance[j] = 0.0f; /* of equal ones the first */
    options.salient_fraction = 0.03;
    weight = quantize(*state, &view, &options);
    assert_columns(weight, (const int32_t[]){0, 1, 2}, 3);
    awq_weight_destroy(weight);
    free(w);
}

static void test_random_rule(void **state)
{
    uint64_t seed = 2;
    float *w = random_array(&seed, AWQ_F32, N * K, 0.1f);
    int64_t counts[K] = {0}, differ = 0;
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    for (uint64_t round = 0; round < 200; round++) {
        awq_quantize_options options = salient_options(AWQ_SALIENT_AT_RANDOM, 0.125);
        options.seed = round;
        awq_weight *a = quantize(*state, &view, &options), *b = quantize(*state, &view, &options);
        assert_int_equal(a->salient_count, 12);
        assert_same_salient(a, b);
        for (int64_t i = 0; i < 12; i++) counts[a->salient_columns[i]]++;
        differ += a->salient_columns[0] != 0;
        awq_weight_destroy(a);
        awq_weight_destroy(b);
    }
    assert_true(differ > 100);
    for (int64_t j = 0; j < K; j++) assert_in_range(counts[j], 5, 60); /* 25 are expected */
    free(w);
}

static void test_given_columns(void **state)
{
    static const int32_t given[] = {3, 31, 32};
    static const int32_t wrong[][2] = {{5, 5}, {9, 4}, {-1, 2}, {2, K}};
    uint64_t seed = 3;
    float *w = random_array(&seed, AWQ_F32, N * K, 0.1f);
    awq_tensor view, columns;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    awq_tensor_init_const_1d(&columns, given, AWQ_I32, 3);
    awq_quantize_options options = salient_options(0, 0.0);
    options.salient_columns = &columns;
    awq_weight *weight = quantize(*state, &view, &options);
    assert_columns(weight, given, 3);
    awq_weight_destroy(weight);

    columns.shape[0] = 0;
    weight = quantize(*state, &view, &options);
    assert_int_equal(weight->salient_count, 0);
    awq_weight_destroy(weight);

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        awq_tensor_init_const_1d(&columns, wrong[i], AWQ_I32, 2);
        refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_columns: entry");
    }
    awq_tensor_init_const_1d(&columns, given, AWQ_I64, 1);
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_columns: dtype I64");
    awq_tensor_init_const_1d(&columns, given, AWQ_I32, 3);
    options.salient_fraction = 0.5;
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "both salient_columns");
    free(w);
}

static void test_bad_input(void **state)
{
    static float w[N * K], importance[K];
    awq_tensor view, importance_view, values;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    awq_tensor_init_const_2d(&values, w, AWQ_F16, N, 1);
    static const double fractions[] = {-0.01, -INFINITY, 1.001, NAN, INFINITY};
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
        awq_quantize_options options = salient_options(AWQ_SALIENT_BY_WEIGHT, fractions[i]);
        refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_fraction");
    }
    awq_quantize_options options = salient_options(3, 0.1);
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_rule 3");
    options = salient_options(-1, 0.1);
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_rule -1");
    options = salient_options(AWQ_SALIENT_BY_ACTIVATION, 0.1);
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "give a search, a calibration or an importance");
    options.salient_values = &values;
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "salient_values");

    options = salient_options(AWQ_SALIENT_BY_ACTIVATION, 0.1);
    options.importance = &importance_view;
    awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, K - 1);
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "importance: shape");
    awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, K);
    importance[7] = NAN;
    refuse(*state, &view, &options, AWQ_ERROR_NON_FINITE, "channel 7");
    importance[7] = -1.0f;
    refuse(*state, &view, &options, AWQ_ERROR_INVALID, "channel 7");

    options = salient_options(AWQ_SALIENT_BY_WEIGHT, 0.01);
    w[5 * K + 9] = 70000.0f; /* beyond F16 */
    refuse(*state, &view, &options, AWQ_ERROR_NON_FINITE, "row 5, column 9 is salient");
    w[5 * K + 9] = 0.0f;
}

/* ---- values */

/* Salient columns are as F16 has them, and the others are what they are when those are zeros. */
static void check_values(struct scratch *scratch, int32_t dtype, awq_quantize_options options, const float *scale)
{
    uint64_t seed = 4;
    char *w = random_array(&seed, dtype, N * K, 0.1f), *zeroed = malloc(N * K * sizeof(float));
    float got[N * K], expected[N * K], original[N * K];
    awq_tensor view, zeroed_view, scale_view;
    awqi_to_f32(dtype, w, original, N * K);
    awq_tensor_init_const_2d(&view, w, dtype, N, K);
    awq_tensor_init_const_2d(&zeroed_view, zeroed, dtype, N, K);
    awq_tensor_init_const_1d(&scale_view, scale, AWQ_F32, K);
    options.input_scale = scale != NULL ? &scale_view : NULL;
    awq_weight *weight = quantize(scratch, &view, &options);
    memcpy(zeroed, w, (size_t)(N * K) * awq_dtype_size(dtype));
    for (int64_t row = 0; row < N; row++)
        for (int64_t i = 0; i < weight->salient_count; i++)
            memset(zeroed + (size_t)(row * K + weight->salient_columns[i]) * awq_dtype_size(dtype), 0,
                   awq_dtype_size(dtype));
    awq_quantize_options plain = options;
    plain.salient_fraction = 0.0;
    awq_weight *base = quantize(scratch, &zeroed_view, &plain);
    dequantize(base, 0, expected);
    dequantize(weight, 0, got);
    for (int64_t row = 0; row < N; row++)
        for (int64_t i = 0; i < weight->salient_count; i++) {
            const int64_t at = row * K + weight->salient_columns[i];
            float value = original[at] * (scale != NULL ? scale[weight->salient_columns[i]] : 1.0f);
            if (options.profile != AWQ_PROFILE_EXACT) value = awqi_round_to(dtype, value);
            assert_true(expected[at] == 0.0f);
            expected[at] = awqi_round_to(AWQ_F16, value);
        }
    for (int64_t i = 0; i < N * K; i++) assert_true(got[i] == expected[i]);
    dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, got);
    for (int64_t i = 0; i < N * K; i++)
        assert_true(got[i] == (float)((double)expected[i] / (double)(scale != NULL ? scale[i % K] : 1.0f)));
    assert_memory_equal(weight->codes, base->codes, (size_t)N * weight->row_bytes);
    awq_weight_destroy(weight);
    awq_weight_destroy(base);
    free(w);
    free(zeroed);
}

static void test_values(void **state)
{
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    float scale[K];
    uint64_t seed = 5;
    for (int64_t j = 0; j < K; j++) scale[j] = 0.5f + (float)random_uniform(&seed);
    for (int round = 0; round < 24; round++) {
        awq_quantize_options options = salient_options(round % 2 ? AWQ_SALIENT_BY_WEIGHT : AWQ_SALIENT_AT_RANDOM, 0.1);
        options.profile = round / 6 % 2 ? AWQ_PROFILE_AUTOAWQ : AWQ_PROFILE_EXACT;
        options.flags = round / 12 ? AWQ_QUANTIZE_SYMMETRIC : 0;
        options.seed = (uint64_t)round;
        check_values(*state, dtypes[round % 3], options, round % 4 < 2 ? scale : NULL);
    }
    awq_quantize_options all = salient_options(AWQ_SALIENT_BY_WEIGHT, 1.0);
    check_values(*state, AWQ_F16, all, NULL);
}

/* ---- weights */

static awq_weight *random_salient(struct scratch *scratch, uint64_t *seed, int64_t n, int32_t bits, double fraction)
{
    float *w = random_array(seed, AWQ_F32, n * K, 0.1f);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, n, K);
    awq_quantize_options options = salient_options(AWQ_SALIENT_AT_RANDOM, fraction);
    options.bits = bits;
    options.seed = random_bits(seed);
    awq_weight *weight = quantize(scratch, &view, &options);
    free(w);
    return weight;
}

static void test_create(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 6;
    awq_weight *weight = random_salient(scratch, &seed, N, 4, 0.1), *made;
    const int64_t count = weight->salient_count;
    uint8_t codes[N * K], zeros[N * 3];
    float scales[N * 3];
    int32_t *columns = malloc((size_t)count * sizeof *columns);
    uint16_t *values = malloc((size_t)(N * count) * sizeof *values);
    awq_tensor code_view, scale_view, zero_view, column_view, value_view;
    awq_tensor_init_2d(&code_view, codes, AWQ_U8, N, K);
    awq_tensor_init_2d(&scale_view, scales, AWQ_F32, N, 3);
    awq_tensor_init_2d(&zero_view, zeros, AWQ_U8, N, 3);
    awq_tensor_init_1d(&column_view, columns, AWQ_I32, count);
    awq_tensor_init_2d(&value_view, values, AWQ_F16, N, count);
    assert_status(awq_weight_export(weight, &code_view, &scale_view, &zero_view, NULL), AWQ_OK);
    assert_status(awq_weight_export_salient(weight, &column_view, &value_view), AWQ_OK);
    awq_quantize_options options = salient_options(0, 0.0);
    options.bits = 4;
    options.salient_columns = &column_view;
    options.salient_values = &value_view;
    assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &made), AWQ_OK);
    assert_same_salient(made, weight);
    float a[N * K], b[N * K];
    dequantize(weight, 0, a);
    dequantize(made, 0, b);
    assert_memory_equal(a, b, sizeof a);
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_weight_get_info(weight, &info), AWQ_OK);
    assert_int_equal(info.size_bytes, N * K / 2 + N * 3 * 2 + N * 3 + count * 4 + N * count * 2);
    awq_weight_destroy(made);

    options.salient_values = NULL;
    assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &made),
                  AWQ_ERROR_INVALID);
    options.salient_values = &value_view;
    values[count + 1] = 0x7c00;
    assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &made),
                  AWQ_ERROR_NON_FINITE);
    value_view.shape[0]--;
    assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &made),
                  AWQ_ERROR_INVALID);
    column_view.shape[0]--;
    assert_status(awq_weight_export_salient(weight, &column_view, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_weight_export_salient(NULL, NULL, NULL), AWQ_ERROR_INVALID);
    free(columns);
    free(values);
    awq_weight_destroy(weight);
}

/* Part [row, row + part->n) x [column, column + part->k) of 'whole' dequantises to what 'part' does. */
static void assert_part(const awq_weight *part, const awq_weight *whole, int64_t row, int64_t column)
{
    float *a = malloc((size_t)(part->n * part->k) * sizeof *a), *b = malloc((size_t)(whole->n * whole->k) * sizeof *b);
    dequantize(part, 0, a);
    dequantize(whole, 0, b);
    for (int64_t i = 0; i < part->n; i++)
        assert_memory_equal(a + i * part->k, b + (row + i) * whole->k + column, (size_t)part->k * sizeof *a);
    free(a);
    free(b);
}

static void test_cut_and_join(void **state)
{
    uint64_t seed = 7;
    awq_weight *parts[3], *whole, *slice;
    for (int i = 0; i < 3; i++) parts[i] = random_salient(*state, &seed, N + i, 3, i == 1 ? 0.0 : 0.06);
    const awq_weight *list[] = {parts[0], parts[1], parts[2]};
    assert_status(awq_weight_concatenate(3, list, &whole), AWQ_OK);
    assert_true(whole->salient_count > parts[0]->salient_count);
    for (int64_t i = 1; i < whole->salient_count; i++)
        assert_true(whole->salient_columns[i] > whole->salient_columns[i - 1]);
    assert_part(parts[0], whole, 0, 0);
    assert_part(parts[1], whole, N, 0);
    assert_part(parts[2], whole, 2 * N + 1, 0);
    assert_status(awq_weight_slice(whole, AWQ_SLICE_ROWS, 5, 17, &slice), AWQ_OK);
    assert_part(slice, whole, 5, 0);
    awq_weight_destroy(slice);
    for (int64_t begin = 0; begin < K; begin += GROUP) {
        assert_status(awq_weight_slice(whole, AWQ_SLICE_COLUMNS, begin, begin + GROUP, &slice), AWQ_OK);
        assert_part(slice, whole, 0, begin);
        awq_weight_destroy(slice);
    }
    for (int64_t left = 0; left < 20; left++) { /* no memory */
        ((struct scratch *)*state)->allocations_left = left;
        awq_status status = awq_weight_concatenate(3, list, &slice);
        ((struct scratch *)*state)->allocations_left = -1;
        assert_true(status == AWQ_OK || (status == AWQ_ERROR_OUT_OF_MEMORY && slice == NULL));
        awq_weight_destroy(slice);
    }
    for (int i = 0; i < 3; i++) awq_weight_destroy(parts[i]);
    awq_weight_destroy(whole);
}

/* ---- layouts */

static void test_layouts(void **state)
{
    uint64_t seed = 8;
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight *weight = random_salient(*state, &seed, N, 4, 0.06), *back = NULL;
        awq_packed *packed;
        const bool own = layout == AWQ_LAYOUT_CUDA_BLOCK || layout == AWQ_LAYOUT_CPU_STREAM;
        awq_status status = awq_pack(((struct scratch *)*state)->context, weight, layout, &packed);
        assert_status(status, own ? AWQ_OK : AWQ_ERROR_UNSUPPORTED);
        if (own) {
            struct given given = open_packed(packed);
            assert_status(unpack(*state, layout, &given, &options, &back), AWQ_OK);
            assert_same_weight(weight, back);
            assert_same_salient(weight, back);
            awq_weight_destroy(back);
            awq_tensor *columns = given_plane(&given, "salient_columns"), copy = *columns;
            columns->shape[0]--;
            assert_status(unpack(*state, layout, &given, &options, &back), AWQ_ERROR_INVALID);
            *columns = copy;
            columns->strides[0] = -1;
            columns->byte_offset = (uint64_t)(4 * (copy.shape[0] - 1)); /* in falling order */
            assert_status(unpack(*state, layout, &given, &options, &back), AWQ_ERROR_INVALID);
            given.count--; /* without the values, which come last */
            *columns = copy;
            assert_status(unpack(*state, layout, &given, &options, &back), AWQ_ERROR_INVALID);
        } else {
            assert_non_null(strstr(awq_last_error(), "salient"));
            assert_non_null(strstr(awq_last_error(), awq_layout_name(layout)));
        }
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- linears */

enum { OUTPUTS = 70, MOST_ROWS = 601 };

/* y of a weight, in no more workspace than was asked for. */
static void run_linear(awq_context *context, const awq_weight *weight, const awq_linear_options *options,
                       const awq_tensor *x, const awq_tensor *residual, float *y)
{
    awq_linear *linear;
    awq_linear_info info;
    awq_run_options run;
    void *workspace;
    awq_tensor view;
    awq_struct_init(&info, sizeof info);
    awq_struct_init(&run, sizeof run);
    assert_status(awq_linear_create(context, weight, options, &linear), AWQ_OK);
    assert_status(awq_linear_get_info(linear, &info), AWQ_OK);
    run.workspace_bytes = awq_linear_workspace_size(linear, x->shape[0]);
    assert_status(awq_context_allocate(context, run.workspace_bytes + 64, &workspace), AWQ_OK);
    unsigned char *canary = (unsigned char *)workspace + run.workspace_bytes;
    memset(workspace, 0xff, run.workspace_bytes + 64); /* NaNs */
    run.workspace = workspace;
    run.residual = residual;
    awq_tensor_init_2d(&view, y, AWQ_F32, x->shape[0], info.outputs);
    assert_status(awq_linear_run(linear, x, &view, &run), AWQ_OK);
    for (int i = 0; i < 64; i++) assert_int_equal(canary[i], 0xff);
    awq_context_free(context, workspace);
    awq_linear_destroy(linear);
}

/* In double, from the dequantised weight. */
static double product(const float *x, const float *w, double *size)
{
    double sum = 0.0;
    for (int64_t k = 0; k < K; k++) {
        sum += (double)x[k] * (double)w[k];
        *size += fabs((double)x[k] * (double)w[k]);
    }
    return sum;
}

static double silu(double x)
{
    return x / (1.0 + exp(-x));
}

static void check_linear(struct scratch *scratch, const awq_weight *weight, int32_t kernel, int64_t rows, bool gated)
{
    const int64_t outputs = gated ? OUTPUTS / 2 : OUTPUTS;
    uint64_t seed = 10;
    float w[OUTPUTS * K], *x = random_array(&seed, AWQ_F32, rows * K, 1.0f);
    float *bias = random_array(&seed, AWQ_F32, OUTPUTS, 1.0f);
    float *residual = random_array(&seed, AWQ_F32, rows * outputs, 1.0f);
    float *y = malloc((size_t)(rows * outputs) * sizeof *y), *again = malloc((size_t)(rows * outputs) * sizeof *y);
    awq_tensor x_view, bias_view, residual_view;
    awq_linear_options options;
    awq_context_options context_options;
    awq_context *context;
    awq_tensor_init_const_2d(&x_view, x, AWQ_F32, rows, K);
    awq_tensor_init_const_1d(&bias_view, bias, AWQ_F32, OUTPUTS);
    awq_tensor_init_const_2d(&residual_view, residual, AWQ_F32, rows, outputs);
    awq_struct_init(&options, sizeof options);
    options.kernel = kernel;
    options.flags = gated ? AWQ_LINEAR_SILU_MUL : 0;
    options.bias = &bias_view;
    options.activation = rows % 2 ? AWQ_ACTIVATION_EXACT : AWQ_ACTIVATION_SPLIT;
    const double bound = rows % 2 ? 2e-6 : 3e-5;
    run_linear(scratch->context, weight, &options, &x_view, &residual_view, y);
    dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, w);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t n = 0; n < outputs; n++) {
            double size = 1.0, value = product(x + row * K, w + n * K, &size) + (double)bias[n];
            if (gated)
                value = silu(value) *
                        (product(x + row * K, w + (n + outputs) * K, &size) + (double)bias[n + outputs]);
            value += (double)residual[row * outputs + n];
            assert_true(fabs((double)y[row * outputs + n] - value) < bound * size * (gated ? size : 1.0));
        }
    awq_struct_init(&context_options, sizeof context_options);
    context_options.threads = 3;
    assert_status(awq_context_create(&context_options, &context), AWQ_OK);
    run_linear(context, weight, &options, &x_view, &residual_view, again);
    assert_memory_equal(y, again, (size_t)(rows * outputs) * sizeof *y);
    awq_context_destroy(context);
    free(x);
    free(bias);
    free(residual);
    free(y);
    free(again);
}

static void test_linears(void **state)
{
    static const int64_t rows[] = {1, 3, 8, 22, MOST_ROWS - 1, MOST_ROWS};
    static const int32_t kernels[] = {AWQ_KERNEL_AUTO, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMM};
    static const double fractions[] = {0.0, 0.01, 0.09, 1.0};
    uint64_t seed = 11;
    float *w = random_array(&seed, AWQ_F32, OUTPUTS * K, 0.1f), scale[K];
    for (int64_t j = 0; j < K; j++) scale[j] = 0.5f + (float)random_uniform(&seed);
    awq_tensor view, scale_view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, OUTPUTS, K);
    awq_tensor_init_const_1d(&scale_view, scale, AWQ_F32, K);
    for (size_t i = 0; i < sizeof fractions / sizeof *fractions; i++) {
        awq_quantize_options options = salient_options(AWQ_SALIENT_AT_RANDOM, fractions[i]);
        options.bits = i % 2 ? 3 : 4;
        options.input_scale = i > 1 ? &scale_view : NULL;
        awq_weight *weight = quantize(*state, &view, &options);
        for (size_t j = 0; j < sizeof rows / sizeof *rows; j++)
            for (size_t kernel = 0; kernel < sizeof kernels / sizeof *kernels; kernel++)
                check_linear(*state, weight, kernels[kernel], rows[j], (i + j + kernel) % 2);
        awq_weight_destroy(weight);
    }
    free(w);
}

/* ---- searches */

struct problem {
    float w[N * K], x[ROWS * K];
    awq_tensor w_view, x_view;
    awq_calibration *calibration;
};

static void make_problem(struct scratch *scratch, struct problem *problem)
{
    uint64_t seed = 9;
    for (int64_t i = 0; i < N * K; i++) problem->w[i] = 0.1f * random_normal(&seed);
    for (int64_t i = 0; i < ROWS * K; i++) problem->x[i] = random_normal(&seed) * (i % K % 24 == 5 ? 40.0f : 1.0f);
    awq_tensor_init_const_2d(&problem->w_view, problem->w, AWQ_F32, N, K);
    awq_tensor_init_const_2d(&problem->x_view, problem->x, AWQ_F32, ROWS, K);
    assert_status(awq_calibration_create(scratch->context, K, NULL, &problem->calibration), AWQ_OK);
    assert_status(awq_calibration_observe(problem->calibration, &problem->x_view), AWQ_OK);
}

/* The mean squared error of the outputs, from the dequantised weight. */
static double output_error(const struct problem *problem, const awq_weight *weight)
{
    float values[N * K];
    double total = 0.0;
    dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, values);
    for (int64_t row = 0; row < ROWS; row++)
        for (int64_t n = 0; n < N; n++) {
            double sum = 0.0;
            for (int64_t k = 0; k < K; k++)
                sum += (double)problem->x[row * K + k] * ((double)values[n * K + k] - (double)problem->w[n * K + k]);
            total += sum * sum;
        }
    return total / (ROWS * N);
}

static void test_search(void **state)
{
    static const int32_t loud[] = {5, 29, 53, 77};
    struct scratch *scratch = *state;
    struct problem problem;
    make_problem(scratch, &problem);
    double losses[2];
    for (int kept = 0; kept < 2; kept++) {
        awq_quantize_options quantize_options = salient_options(AWQ_SALIENT_BY_ACTIVATION, kept ? 0.04 : 0.0);
        awq_search_options options;
        awq_search_result result;
        awq_search *search;
        awq_weight *weight;
        awq_struct_init(&options, sizeof options);
        awq_struct_init(&result, sizeof result);
        options.quantize = &quantize_options;
        assert_status(awq_search_create(scratch->context, problem.calibration, &options, &search), AWQ_OK);
        assert_status(awq_search_add_weight(search, &problem.w_view), AWQ_OK);
        assert_status(awq_search_run(search), AWQ_OK);
        assert_status(awq_search_get_result(search, &result), AWQ_OK);
        assert_status(awq_quantize(scratch->context, &problem.w_view, search, NULL, &weight), AWQ_OK);
        assert_columns(weight, loud, kept ? 4 : 0);
        double error = output_error(&problem, weight);
        assert_true(fabs(error - result.loss) < 1e-4 * result.loss); /* it is the weight that was judged */
        losses[kept] = result.loss;
        awq_weight_destroy(weight);
        awq_search_destroy(search);
    }
    assert_true(losses[1] < 0.8 * losses[0]);
    awq_calibration_destroy(problem.calibration);
}

static void test_search_refuses(void **state)
{
    struct scratch *scratch = *state;
    struct problem problem;
    make_problem(scratch, &problem);
    static const int32_t column = 3;
    static const float importance[K];
    awq_tensor columns, importance_view;
    awq_tensor_init_const_1d(&columns, &column, AWQ_I32, 1);
    awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, K);
    awq_quantize_options quantize_options = salient_options(0, 0.0);
    awq_search_options options;
    awq_search *search;
    awq_struct_init(&options, sizeof options);
    options.quantize = &quantize_options;
    quantize_options.salient_columns = &columns;
    assert_status(awq_search_create(scratch->context, problem.calibration, &options, &search), AWQ_ERROR_INVALID);
    quantize_options.salient_columns = NULL;
    quantize_options.importance = &importance_view;
    assert_status(awq_search_create(scratch->context, problem.calibration, &options, &search), AWQ_ERROR_INVALID);
    assert_non_null(strstr(awq_last_error(), "importance"));
    awq_calibration_destroy(problem.calibration);
}

/* Limits are those of a weight whose salient columns are zeros. */
static void test_clip_search(void **state)
{
    struct scratch *scratch = *state;
    struct problem problem;
    float limits[2][N * 3];
    make_problem(scratch, &problem);
    for (int zeroed = 0; zeroed < 2; zeroed++) {
        awq_quantize_options quantize_options = salient_options(AWQ_SALIENT_BY_ACTIVATION, zeroed ? 0.0 : 0.04);
        awq_clip_options options;
        awq_clip_result result;
        awq_tensor view;
        awq_struct_init(&options, sizeof options);
        awq_struct_init(&result, sizeof result);
        options.quantize = &quantize_options;
        awq_tensor_init_2d(&view, limits[zeroed], AWQ_F32, N, 3);
        for (int64_t i = 0; zeroed && i < N; i++)
            for (int64_t j = 5; j < K; j += 24) problem.w[i * K + j] = 0.0f;
        assert_status(awq_clip_search(scratch->context, &problem.w_view, problem.calibration, NULL, &options, &view,
                                      &result),
                      AWQ_OK);
        assert_true(result.clipped_groups > 0 && isfinite(result.loss));
    }
    assert_memory_equal(limits[0], limits[1], sizeof limits[0]);
    awq_calibration_destroy(problem.calibration);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_rules),       SCRATCH_TEST(test_random_rule),     SCRATCH_TEST(test_given_columns),
        SCRATCH_TEST(test_bad_input),   SCRATCH_TEST(test_values),          SCRATCH_TEST(test_create),
        SCRATCH_TEST(test_cut_and_join), SCRATCH_TEST(test_layouts),        SCRATCH_TEST(test_linears),
        SCRATCH_TEST(test_search),
        SCRATCH_TEST(test_search_refuses), SCRATCH_TEST(test_clip_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
