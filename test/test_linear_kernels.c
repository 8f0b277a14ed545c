/* Every kernel under every set of processor features against sums in double, through the public API.
 *
 * A weight is made from random codes, scales and zero points, which the reference below reads as they were made, so a
 * mistake in laying out, unpacking or summing cannot hide in both.  Outputs lie in rows whose margins must survive. */
#include "cpu/kernels.h"
#include "scratch.h"

#include <math.h>

/* ---- random numbers; the seed is fixed, and named when a case fails */

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % below);
}

static float draw_float(float limit)
{
    return ((float)draw(20001) / 10000.0f - 1.0f) * limit;
}

/* ---- contexts under a mask of features */

static awq_context *open_context(const char *mask, int32_t threads)
{
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = threads;
    awq_context *context;
    if (mask != NULL) setenv("AWQ_CPU_FEATURES", mask, 1);
    assert_status(awq_context_create(&options, &context), AWQ_OK);
    unsetenv("AWQ_CPU_FEATURES");
    return context;
}

static uint32_t features_of(const awq_context *context)
{
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_context_get_device(context, &info), AWQ_OK);
    return info.cpu_features;
}

/* ---- one product and its reference */

struct product {
    int64_t n, k, rows, group_size, groups, outputs;
    int32_t bits; /* 16 or 32: dense */
    int32_t kernel, activation, weight_dtype, x_dtype, y_dtype;
    bool symmetric, input_scale, bias, residual, norm, gated;
    uint8_t *codes, *zeros;
    float *scales, *dense, *input_scales, *biases, *residuals, *norms, *x; /* as F32, already rounded to their dtype */
    void *y;
    int64_t y_pitch;
    double *expected, *tolerance; /* [rows][outputs] */
};

static const double EPSILON = 1e-5;

static void *array(int64_t count, size_t size)
{
    void *memory = calloc((size_t)(count > 0 ? count : 1), size);
    assert_non_null(memory);
    return memory;
}

static float *random_floats(int64_t count, float limit, int32_t dtype)
{
    float *values = array(count, sizeof *values);
    for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(dtype, draw_float(limit));
    return values;
}

static void product_fill(struct product *p)
{
    p->outputs = p->gated ? p->n / 2 : p->n;
    p->groups = p->bits < 16 ? awqi_ceil_div(p->k, p->group_size) : 0;
    int64_t scales = p->n * p->groups;
    p->codes = array(p->n * p->k, 1);
    p->zeros = array(scales, 1);
    if (p->bits < 16)
        for (int64_t i = 0; i < p->n * p->k; i++) p->codes[i] = (uint8_t)draw(1u << p->bits);
    for (int64_t i = 0; i < scales; i++)
        p->zeros[i] = (uint8_t)(p->symmetric ? 1u << (p->bits - 1) : draw(1u << p->bits));
    p->scales = random_floats(scales, 0.1f, p->weight_dtype);
    p->dense = random_floats(p->bits >= 16 ? p->n * p->k : 0, 1.0f, p->weight_dtype);
    p->input_scales = array(p->k, sizeof(float));
    for (int64_t i = 0; i < p->k; i++) p->input_scales[i] = p->input_scale ? 0.5f + fabsf(draw_float(2.0f)) : 1.0f;
    p->biases = random_floats(p->n, 1.0f, AWQ_F16);
    p->residuals = random_floats(p->rows * p->outputs, 1.0f, AWQ_BF16);
    p->norms = random_floats(p->k, 2.0f, AWQ_BF16);
    p->x = random_floats(p->rows * p->k, 2.0f, p->x_dtype);
    p->y_pitch = p->outputs + 3;
    p->y = array(p->rows * p->y_pitch, sizeof(float));
    memset(p->y, 0x5a, (size_t)(p->rows * p->y_pitch) * sizeof(float));
    p->expected = array(p->rows * p->outputs, sizeof(double));
    p->tolerance = array(p->rows * p->outputs, sizeof(double));
}

static void product_free(struct product *p)
{
    void *arrays[] = {p->codes,     p->zeros, p->scales, p->dense, p->input_scales, p->biases,
                      p->residuals, p->norms, p->x,      p->y,     p->expected,     p->tolerance};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
}

static double weight_at(const struct product *p, int64_t row, int64_t input)
{
    if (p->bits >= 16) return (double)p->dense[row * p->k + input];
    int64_t group = row * p->groups + input / p->group_size;
    return ((double)p->codes[row * p->k + input] - p->zeros[group]) * (double)p->scales[group];
}

static void input_row(const struct product *p, int64_t row, double *values)
{
    double squares = 0.0;
    for (int64_t j = 0; j < p->k; j++) {
        values[j] = (double)p->x[row * p->k + j];
        squares += values[j] * values[j];
    }
    double factor = p->norm ? 1.0 / sqrt(squares / (double)p->k + EPSILON) : 1.0;
    for (int64_t j = 0; j < p->k; j++) {
        if (p->norm) values[j] *= factor * (double)p->norms[j];
        values[j] /= (double)p->input_scales[j];
    }
}

/* A weight's magnitude in a kernel that sums q x and z x apart; one that takes activations as BF16 may also add 128 to
 * each field of four bits. */
static double magnitude_at(const struct product *p, int64_t row, int64_t input, double offset)
{
    if (p->bits >= 16) return fabs(weight_at(p, row, input));
    int64_t group = row * p->groups + input / p->group_size;
    return ((double)p->codes[row * p->k + input] + p->zeros[group] + offset) * fabs((double)p->scales[group]);
}

/* By how much an activation may be off: EXACT relative to its neighbours, which may share a scale. */
static double activation_error(const struct product *p, double x, double largest)
{
    int32_t mode = p->activation;
    if (mode == AWQ_ACTIVATION_DEFAULT) mode = p->x_dtype == AWQ_BF16 ? AWQ_ACTIVATION_BF16 : AWQ_ACTIVATION_SPLIT;
    double error = 0x1p-23 * largest;
    if (mode == AWQ_ACTIVATION_SPLIT) error += 0x1p-17 * fabs(x);
    if (mode == AWQ_ACTIVATION_BF16) error += 0x1p-8 * fabs(x);
    if (mode == AWQ_ACTIVATION_INT8) error += 0x1.02p-8 * largest;
    return error;
}

/* Rounding x' (norm, division) takes a few ulps, the sum at most one a term; relative to the sum of magnitudes. */
static double dot(const struct product *p, int64_t row, const double *x, double *tolerance)
{
    double sum = 0.0, magnitude = 0.0, lost = 0.0, largest = 0.0;
    const bool rounded = p->activation == AWQ_ACTIVATION_BF16 || p->activation == AWQ_ACTIVATION_DEFAULT;
    const double offset = rounded ? p->bits == 8 ? 17 * 128 : 128 : 0;
    for (int64_t j = 0; j < p->k; j++) largest = fmax(largest, fabs(x[j]));
    for (int64_t j = 0; j < p->k; j++) {
        sum += x[j] * weight_at(p, row, j);
        magnitude += fabs(x[j]) * magnitude_at(p, row, j, offset);
        lost += activation_error(p, x[j], largest) * magnitude_at(p, row, j, 0);
    }
    if (p->bias) {
        sum += (double)p->biases[row];
        magnitude += fabs((double)p->biases[row]);
    }
    *tolerance = (double)(p->k + 8) * 0x1p-24 * magnitude + lost;
    return sum;
}

static void product_expect(struct product *p)
{
    const double round = p->y_dtype == AWQ_F32 ? 0x1p-23 : p->y_dtype == AWQ_F16 ? 0x1p-11 : 0x1p-8;
    double *x = array(p->k, sizeof *x);
    for (int64_t i = 0; i < p->rows; i++) {
        input_row(p, i, x);
        for (int64_t j = 0; j < p->outputs; j++) {
            double tolerance, value = dot(p, j, x, &tolerance);
            if (p->gated) {
                double up_tolerance, up = dot(p, p->outputs + j, x, &up_tolerance), gate = value / (1.0 + exp(-value));
                /* The slope of silu stays below 1.1. */
                tolerance = 1.1 * tolerance * (fabs(up) + up_tolerance) + fabs(gate) * up_tolerance;
                tolerance += 0x1p-20 * fabs(gate * up);
                value = gate * up;
            }
            if (p->residual) value += (double)p->residuals[i * p->outputs + j];
            p->expected[i * p->outputs + j] = value;
            p->tolerance[i * p->outputs + j] = tolerance + round * (fabs(value) + tolerance) + 0x1p-24;
        }
    }
    free(x);
}

/* 'values' in a buffer of dtype; release with free(). */
static void *converted(int32_t dtype, const float *values, int64_t count)
{
    void *memory = array(count, awq_dtype_size(dtype));
    awqi_from_f32(dtype, values, memory, count);
    return memory;
}

static awq_linear *product_linear(awq_context *context, const struct product *p)
{
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.kernel = p->kernel;
    options.activation = p->activation;
    options.flags = p->gated ? AWQ_LINEAR_SILU_MUL : 0;
    void *bias = converted(AWQ_F16, p->biases, p->n);
    awq_tensor bias_view, w, scales, zeros, input_scale;
    awq_tensor_init_const_1d(&bias_view, bias, AWQ_F16, p->n);
    if (p->bias) options.bias = &bias_view;
    awq_linear *linear;
    if (p->bits >= 16) {
        void *dense = converted(p->weight_dtype, p->dense, p->n * p->k);
        awq_tensor_init_const_2d(&w, dense, p->weight_dtype, p->n, p->k);
        assert_status(awq_linear_create_dense(context, &w, &options, &linear), AWQ_OK);
        free(dense);
    } else {
        awq_quantize_options quantize;
        awq_struct_init(&quantize, sizeof quantize);
        quantize.bits = p->bits;
        quantize.group_size = p->group_size;
        quantize.flags = p->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
        awq_tensor_init_const_1d(&input_scale, p->input_scales, AWQ_F32, p->k);
        if (p->input_scale) quantize.input_scale = &input_scale;
        void *scale_values = converted(p->weight_dtype, p->scales, p->n * p->groups);
        awq_tensor_init_const_2d(&w, p->codes, AWQ_U8, p->n, p->k);
        awq_tensor_init_const_2d(&scales, scale_values, p->weight_dtype, p->n, p->groups);
        awq_tensor_init_const_2d(&zeros, p->zeros, AWQ_U8, p->n, p->groups);
        awq_weight *weight;
        const awq_tensor *zero_points = p->symmetric ? NULL : &zeros;
        assert_status(awq_weight_create(context, &w, &scales, zero_points, &quantize, &weight), AWQ_OK);
        assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_OK);
        awq_weight_destroy(weight);
        free(scale_values);
    }
    free(bias);
    return linear;
}

static void product_run(const awq_linear *linear, struct product *p)
{
    void *x = converted(p->x_dtype, p->x, p->rows * p->k);
    void *residual = converted(AWQ_BF16, p->residuals, p->rows * p->outputs);
    void *norm = converted(AWQ_BF16, p->norms, p->k);
    awq_tensor x_view, y_view, residual_view, norm_view;
    awq_tensor_init_const_2d(&x_view, x, p->x_dtype, p->rows, p->k);
    awq_tensor_init_2d(&y_view, p->y, p->y_dtype, p->rows, p->outputs);
    y_view.strides[0] = p->y_pitch;
    awq_tensor_init_const_2d(&residual_view, residual, AWQ_BF16, p->rows, p->outputs);
    awq_tensor_init_const_1d(&norm_view, norm, AWQ_BF16, p->k);
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    if (p->residual) options.residual = &residual_view;
    if (p->norm) options.norm_weight = &norm_view;
    options.norm_epsilon = EPSILON;
    assert_status(awq_linear_run(linear, &x_view, &y_view, &options), AWQ_OK);
    free(x);
    free(residual);
    free(norm);
}

static void product_check(const struct product *p, uint64_t case_seed, uint32_t features)
{
    size_t size = awq_dtype_size(p->y_dtype);
    const unsigned char *y = p->y;
    for (int64_t i = 0; i < p->rows; i++) {
        for (int64_t j = 0; j < p->outputs; j++) {
            float value;
            awqi_to_f32(p->y_dtype, y + (size_t)(i * p->y_pitch + j) * size, &value, 1);
            double difference = fabs((double)value - p->expected[i * p->outputs + j]);
            if (!(difference <= p->tolerance[i * p->outputs + j]))
                fail_msg("seed %llu, kernel %s, features 0x%x, [%lld][%lld] of %d bits in groups of %lld, %lld rows: "
                         "y[%lld][%lld] is %g, not %g; %g off where %g is allowed",
                         (unsigned long long)case_seed, awq_kernel_name(p->kernel), (unsigned)features, (long long)p->n,
                         (long long)p->k, p->bits, (long long)p->group_size, (long long)p->rows, (long long)i,
                         (long long)j, (double)value, p->expected[i * p->outputs + j], difference,
                         p->tolerance[i * p->outputs + j]);
        }
        for (size_t j = (size_t)p->outputs * size; j < (size_t)p->y_pitch * size; j++)
            if (y[(size_t)(i * p->y_pitch) * size + j] != 0x5a)
                fail_msg("seed %llu: the margin of row %lld was written", (unsigned long long)case_seed, (long long)i);
    }
    for (size_t j = (size_t)(p->rows * p->y_pitch) * size; j < (size_t)(p->rows * p->y_pitch) * sizeof(float); j++)
        if (y[j] != 0x5a) fail_msg("seed %llu: memory after y was written", (unsigned long long)case_seed);
}

/* ---- cases */

static void draw_case(struct product *p)
{
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    static const int64_t group_sizes[] = {16, 32, 64, 128, 20, 1};
    p->weight_dtype = dtypes[draw(3)];
    if (p->bits == 16) p->weight_dtype = dtypes[1 + draw(2)];
    if (p->bits == 32) p->weight_dtype = AWQ_F32;
    p->x_dtype = dtypes[draw(3)];
    p->y_dtype = dtypes[draw(3)];
    uint32_t group = draw(7);
    p->group_size = group < 6 ? group_sizes[group] : p->k;
    p->symmetric = p->bits < 16 && draw(2);
    p->input_scale = p->bits < 16 && draw(2);
    p->bias = draw(2);
    p->residual = draw(2);
    p->norm = draw(2);
    p->gated = p->n % 2 == 0 && draw(3) == 0;
    p->activation = (int32_t)draw(AWQ_ACTIVATION_INT8 + 1);
}

static void run_case(awq_context *context, int64_t n, int64_t k, int32_t bits, int32_t kernel, int64_t rows)
{
    uint64_t case_seed = seed;
    struct product p = {.n = n, .k = k, .bits = bits, .kernel = kernel, .rows = rows};
    draw_case(&p);
    product_fill(&p);
    product_expect(&p);
    awq_linear *linear = product_linear(context, &p);
    product_run(linear, &p);
    product_check(&p, case_seed, features_of(context));
    awq_linear_destroy(linear);
    product_free(&p);
}

/* All shapes, bit widths and kernels, the other properties drawn. */
static void check_kernels(awq_context *context)
{
    static const int64_t sizes[] = {1, 7, 33, 96, 172};
    static const int32_t all_bits[] = {2, 3, 4, 8, 16, 32};
    static const int64_t batches[] = {1, 2, 3, 5, 8, 9, 16, 27};
    for (size_t n = 0; n < 5; n++)
        for (size_t k = 0; k < 5; k++)
            for (size_t bits = 0; bits < 6; bits++)
                for (int32_t kernel = AWQ_KERNEL_REFERENCE; kernel <= AWQ_KERNEL_GEMM; kernel++)
                    run_case(context, sizes[n], sizes[k], all_bits[bits], kernel, batches[draw(8)]);
    /* More than one task, and more than one pass, of rows. */
    run_case(context, 70, 40, 4, AWQ_KERNEL_GEMM, 200);
    run_case(context, 40, 300, 4, AWQ_KERNEL_GEMM, 601);
    run_case(context, 40, 30, 32, AWQ_KERNEL_AUTO, 390);
    run_case(context, 40, 129, 16, AWQ_KERNEL_GEMV, 21);
}

/* Under each set of features that an entry of the tables asks for and this processor has. */
static void kernels_agree_with_sums_in_double(void **state)
{
    (void)state;
    uint32_t all = awqi_cpu_features(), masks[64];
    size_t count = 0;
    for (size_t i = 0; awqi_cpu_kernels_at(i) != NULL; i++) masks[count++] = awqi_cpu_kernels_at(i)->features;
    for (size_t i = 0; awqi_gemv_at(i) != NULL; i++) masks[count++] = awqi_gemv_at(i)->features;
    for (size_t i = 0; awqi_gemm_at(i) != NULL; i++) masks[count++] = awqi_gemm_at(i)->features;
    for (size_t i = 0; i < count; i++) {
        size_t seen = 0;
        while (masks[seen] != masks[i]) seen++;
        if (seen < i) continue;
        if (masks[i] & ~all) {
            print_message("features 0x%x: not on this processor\n", (unsigned)masks[i]);
            continue;
        }
        char mask[16];
        snprintf(mask, sizeof mask, "%u", (unsigned)masks[i]);
        awq_context *context = open_context(mask, 2);
        assert_int_equal(features_of(context), masks[i]);
        seed = 20;
        check_kernels(context);
        awq_context_destroy(context);
        print_message("features 0x%x: agree\n", (unsigned)masks[i]);
    }
}

static void a_mask_only_lowers_features(void **state)
{
    (void)state;
    static const char *const masks[] = {"0xffffffff", "-1", "words", "", "3 "};
    awq_context *context = open_context(NULL, 1);
    uint32_t all = features_of(context);
    awq_context_destroy(context);
    for (size_t i = 0; i < sizeof masks / sizeof *masks; i++) {
        context = open_context(masks[i], 1);
        assert_int_equal(features_of(context), all);
        awq_context_destroy(context);
    }
    context = open_context("0", 1);
    assert_int_equal(features_of(context), 0);
    awq_context_destroy(context);
}

static void threads_change_no_bit(void **state)
{
    (void)state;
    static const int32_t threads[] = {1, 2, 7};
    static const int64_t batches[] = {1, 6, 37, 401};
    for (size_t batch = 0; batch < 4; batch++)
        for (int32_t bits = 4; bits <= 16; bits *= 2) {
            void *first = NULL;
            for (size_t i = 0; i < 3; i++) {
                seed = 7;
                struct product p = {.n = 200, .k = 260, .bits = bits, .rows = batches[batch]};
                draw_case(&p);
                product_fill(&p);
                awq_context *context = open_context(NULL, threads[i]);
                awq_linear *linear = product_linear(context, &p);
                product_run(linear, &p);
                size_t bytes = (size_t)(p.rows * p.y_pitch) * sizeof(float);
                if (i == 0) first = memcpy(array((int64_t)bytes, 1), p.y, bytes);
                assert_memory_equal(p.y, first, bytes);
                awq_linear_destroy(linear);
                awq_context_destroy(context);
                product_free(&p);
            }
            free(first);
        }
}

static double product_norm(awq_context *context, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k)
{
    double sum = -1.0;
    assert_status(awqi_context_backend(context)->product_norm(awqi_context_device(context), x, rows, delta, n, k, &sum),
                  AWQ_OK);
    return sum;
}

static void product_norms_agree_with_sums_in_double(void **state)
{
    (void)state;
    static const int64_t shapes[][3] = {{1, 1, 1},     {5, 33, 7},    {12, 32, 128},
                                        {13, 70, 129}, {200, 40, 96}, {401, 33, 172}};
    static const char *const masks[] = {"0", "0x1", NULL};
    seed = 3;
    for (size_t shape = 0; shape < sizeof shapes / sizeof *shapes; shape++) {
        int64_t rows = shapes[shape][0], n = shapes[shape][1], k = shapes[shape][2];
        float *x = random_floats(rows * k, 1.0f, AWQ_F32), *delta = random_floats(n * k, 1.0f, AWQ_F32);
        double expected = 0.0;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < n; j++) {
                double sum = 0.0;
                for (int64_t l = 0; l < k; l++) sum += (double)x[i * k + l] * (double)delta[j * k + l];
                expected += sum * sum;
            }
        for (size_t mask = 0; mask < 3; mask++) {
            awq_context *one = open_context(masks[mask], 1), *seven = open_context(masks[mask], 7);
            double sum = product_norm(one, x, rows, delta, n, k);
            assert_true(fabs(sum - expected) <= 1e-5 * expected);
            assert_true(sum == product_norm(seven, x, rows, delta, n, k));
            awq_context_destroy(one);
            awq_context_destroy(seven);
        }
        free(x);
        free(delta);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_agree_with_sums_in_double),
        cmocka_unit_test(a_mask_only_lowers_features),
        cmocka_unit_test(threads_change_no_bit),
        cmocka_unit_test(product_norms_agree_with_sums_in_double),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
