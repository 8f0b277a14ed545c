/* Every CUDA kernel against sums in double, through the public API: on a GPU, or wherever AWQ_CUDA_BACKEND leads.
 *
 *     kernels [-s SEED] [TEST]
 *
 * Weights are made from random codes, scales and zero points, which the reference below reads as they were made.  All
 * that a kernel writes lies between margins that must survive; the workspace is filled with noise before each run. Exit
 * status 77 with a reason where there is no device. */
#include "device.h"

#include <inttypes.h>
#include <math.h>

static int32_t capability;

/* ---- one product */

struct product {
    int64_t n, k, rows, group_size, groups, outputs;
    int32_t bits; /* 16 or 32: dense */
    int32_t kernel, activation, weight_dtype, x_dtype, y_dtype;
    bool symmetric, input_scale, bias, residual, norm, gated, odd_rows;
    int64_t salient_count;
    int32_t *salient_columns;
    uint8_t *codes, *zeros;
    float *salient; /* [n][salient_count] */
    float *scales, *dense, *input_scales, *biases, *residuals, *norms, *x; /* as F32, already rounded to their dtype */
    double *expected, *tolerance;                                          /* [rows][outputs] */
};

static const double EPSILON = 1e-5;

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
    const int64_t scales = p->n * p->groups;
    p->codes = array(p->n * p->k, 1);
    p->zeros = array(scales, 1);
    for (int64_t i = 0; p->bits < 16 && i < p->n * p->k; i++) p->codes[i] = (uint8_t)draw(1u << p->bits);
    for (int64_t i = 0; i < scales; i++)
        p->zeros[i] = (uint8_t)(p->symmetric ? 1u << (p->bits - 1) : draw(1u << p->bits));
    p->scales = random_floats(scales, p->bits == 8 ? 0.008f : 0.1f, p->weight_dtype);
    p->dense = random_floats(p->bits >= 16 ? p->n * p->k : 0, 1.0f, p->weight_dtype);
    p->input_scales = array(p->k, sizeof(float));
    for (int64_t i = 0; i < p->k; i++) p->input_scales[i] = p->input_scale ? 0.5f + fabsf(draw_float(2.0f)) : 1.0f;
    p->salient_columns = array(p->salient_count, sizeof *p->salient_columns);
    for (int64_t i = 0; i < p->salient_count; i++)
        p->salient_columns[i] = (int32_t)(p->k * i / p->salient_count + draw((uint32_t)(p->k / p->salient_count)));
    p->salient = random_floats(p->n * p->salient_count, 2.0f, AWQ_F16);
    p->biases = random_floats(p->n, 1.0f, AWQ_F16);
    p->residuals = random_floats(p->rows * p->outputs, 1.0f, AWQ_BF16);
    p->norms = random_floats(p->k, 2.0f, AWQ_BF16);
    p->x = random_floats(p->rows * p->k, 2.0f, p->x_dtype);
    p->expected = array(p->rows * p->outputs, sizeof(double));
    p->tolerance = array(p->rows * p->outputs, sizeof(double));
}

static void product_free(struct product *p)
{
    void *arrays[] = {p->codes,     p->zeros, p->scales, p->dense,    p->input_scales, p->biases,
                      p->residuals, p->norms, p->x,      p->expected, p->tolerance,
                      p->salient,   p->salient_columns};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
}

static double weight_at(const struct product *p, int64_t row, int64_t input)
{
    if (p->bits >= 16) return (double)p->dense[row * p->k + input];
    const int64_t group = row * p->groups + input / p->group_size;
    return ((double)p->codes[row * p->k + input] - p->zeros[group]) * (double)p->scales[group];
}

static void input_row(const struct product *p, int64_t row, double *values)
{
    double squares = 0.0;
    for (int64_t j = 0; j < p->k; j++) {
        values[j] = (double)p->x[row * p->k + j];
        squares += values[j] * values[j];
    }
    const double factor = p->norm ? 1.0 / sqrt(squares / (double)p->k + EPSILON) : 1.0;
    for (int64_t j = 0; j < p->k; j++)
        values[j] *= (p->norm ? factor * (double)p->norms[j] : 1.0) / (double)p->input_scales[j];
}

/* What one rounding of x may cost: nothing where it already has the kernel's type. */
static double input_error(const struct product *p)
{
    const bool changed = p->norm || p->input_scale;
    const bool exact =
        p->activation == AWQ_ACTIVATION_EXACT || (p->x_dtype == AWQ_F32 && p->activation == AWQ_ACTIVATION_DEFAULT);
    if (exact || p->kernel == AWQ_KERNEL_REFERENCE) return changed ? 0x1p-21 : 0.0;
    if (p->x_dtype == AWQ_F32) return 0x1p-8;
    const double rounding = (p->x_dtype == AWQ_F16 ? 0x1p-11 : 0x1p-8) + 0x1p-20;
    const double weights = p->kernel == AWQ_KERNEL_HOPPER ? 2.0 : p->kernel == AWQ_KERNEL_DEQUANT ? 1.0 : 0.0;
    return ((changed ? 1.0 : 0.0) + (p->bits < 16 ? weights : 0.0)) * rounding;
}

static double dot(const struct product *p, int64_t row, const double *x, double *tolerance)
{
    double sum = 0.0, magnitude = 0.0;
    for (int64_t j = 0; j < p->k; j++) {
        const double term = x[j] * weight_at(p, row, j);
        sum += term;
        magnitude += fabs(term);
    }
    for (int64_t i = 0; i < p->salient_count; i++) {
        const double term = x[p->salient_columns[i]] * (double)p->salient[row * p->salient_count + i];
        sum += term;
        magnitude += fabs(term);
    }
    if (p->bias) {
        sum += (double)p->biases[row];
        magnitude += fabs((double)p->biases[row]);
    }
    *tolerance = (2.0 * (double)(p->k + 8) * 0x1p-24 + input_error(p)) * magnitude + 0x1p-40;
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
                tolerance =
                    1.1 * tolerance * (fabs(up) + up_tolerance) + fabs(gate) * up_tolerance + 0x1p-20 * fabs(gate * up);
                value = gate * up;
            }
            if (p->residual) value += (double)p->residuals[i * p->outputs + j];
            p->expected[i * p->outputs + j] = value;
            p->tolerance[i * p->outputs + j] = tolerance + round * (fabs(value) + tolerance) + 0x1p-24;
        }
    }
    free(x);
}

/* ---- device memory between margins */

enum { MARGIN = 512, CANARY = 0x5a };

struct buffer {
    void *memory; /* what the kernel gets; margins lie around it */
    uint64_t bytes;
};

static void to_device(void *to, const void *from, uint64_t bytes)
{
    awq_tensor src, dst;
    awq_tensor_init_const_1d(&src, from, AWQ_U8, (int64_t)bytes);
    awq_tensor_init_1d(&dst, to, AWQ_U8, (int64_t)bytes);
    dst.device_type = AWQ_DEVICE_CUDA;
    if (bytes > 0) REQUIRE(awq_tensor_copy(device, &src, &dst, NULL));
}

static void from_device(void *to, const void *from, uint64_t bytes)
{
    awq_tensor src, dst;
    awq_tensor_init_const_1d(&src, from, AWQ_U8, (int64_t)bytes);
    awq_tensor_init_1d(&dst, to, AWQ_U8, (int64_t)bytes);
    src.device_type = AWQ_DEVICE_CUDA;
    if (bytes > 0) REQUIRE(awq_tensor_copy(device, &src, &dst, NULL));
}

/* 'bytes' bytes of device memory, filled from 'values' or, when that is NULL, with noise. */
static struct buffer buffer_create(const void *values, uint64_t bytes)
{
    struct buffer buffer = {NULL, bytes};
    static unsigned char noise[4099];
    for (size_t i = 0; values == NULL && i < sizeof noise; i++) noise[i] = (unsigned char)draw(256);
    unsigned char *image = array((int64_t)bytes + 2 * MARGIN, 1);
    memset(image, CANARY, MARGIN);
    memset(image + MARGIN + bytes, CANARY, MARGIN);
    if (values != NULL) memcpy(image + MARGIN, values, bytes);
    for (uint64_t i = 0; values == NULL && i < bytes; i += sizeof noise)
        memcpy(image + MARGIN + i, noise, bytes - i < sizeof noise ? bytes - i : sizeof noise);
    void *memory;
    REQUIRE(awq_context_allocate(device, bytes + 2 * MARGIN, &memory));
    to_device(memory, image, bytes + 2 * MARGIN);
    buffer.memory = (unsigned char *)memory + MARGIN;
    free(image);
    return buffer;
}

/* Whether the margins are whole; copies what is between them to 'values' unless that is NULL. */
static bool buffer_destroy(struct buffer *buffer, void *values)
{
    unsigned char margins[2][MARGIN], *memory = buffer->memory;
    from_device(margins[0], memory - MARGIN, MARGIN);
    from_device(margins[1], memory + buffer->bytes, MARGIN);
    if (values != NULL) from_device(values, memory, buffer->bytes);
    bool whole = true;
    for (int i = 0; i < MARGIN; i++) whole &= margins[0][i] == CANARY && margins[1][i] == CANARY;
    awq_context_free(device, memory - MARGIN);
    return whole;
}

static struct buffer buffer_of_floats(int32_t dtype, const float *values, int64_t count)
{
    void *converted = array(count, awq_dtype_size(dtype));
    awqi_from_f32(dtype, values, converted, count);
    struct buffer buffer = buffer_create(converted, (uint64_t)count * awq_dtype_size(dtype));
    free(converted);
    return buffer;
}

/* ---- the library */

static void on_device(awq_tensor *tensor)
{
    tensor->device_type = AWQ_DEVICE_CUDA;
}

static awq_weight *product_weight(const struct product *p)
{
    awq_quantize_options quantize;
    awq_struct_init(&quantize, sizeof quantize);
    quantize.bits = p->bits;
    quantize.group_size = p->group_size;
    quantize.flags = p->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    awq_tensor codes, scales, zeros, input_scale, salient_columns, salient_values;
    awq_tensor_init_const_1d(&input_scale, p->input_scales, AWQ_F32, p->k);
    if (p->input_scale) quantize.input_scale = &input_scale;
    void *values = array(p->n * p->groups, sizeof(float));
    awqi_from_f32(p->weight_dtype, p->scales, values, p->n * p->groups);
    void *salient = array(p->n * p->salient_count, sizeof(uint16_t));
    awqi_from_f32(AWQ_F16, p->salient, salient, p->n * p->salient_count);
    awq_tensor_init_const_1d(&salient_columns, p->salient_columns, AWQ_I32, p->salient_count);
    awq_tensor_init_const_2d(&salient_values, salient, AWQ_F16, p->n, p->salient_count);
    if (p->salient_count > 0) {
        quantize.salient_columns = &salient_columns;
        quantize.salient_values = &salient_values;
    }
    awq_tensor_init_const_2d(&codes, p->codes, AWQ_U8, p->n, p->k);
    awq_tensor_init_const_2d(&scales, values, p->weight_dtype, p->n, p->groups);
    awq_tensor_init_const_2d(&zeros, p->zeros, AWQ_U8, p->n, p->groups);
    awq_weight *weight;
    awq_context *context = p->rows % 2 ? host : device; /* weights live in host memory all the same */
    REQUIRE(awq_weight_create(context, &codes, &scales, p->symmetric ? NULL : &zeros, &quantize, &weight));
    free(values);
    free(salient);
    return weight;
}

static awq_status product_linear(const struct product *p, awq_linear **linear)
{
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.kernel = p->kernel;
    options.activation = p->activation;
    options.flags = p->gated ? AWQ_LINEAR_SILU_MUL : 0;
    struct buffer bias = buffer_of_floats(AWQ_F16, p->biases, p->n);
    awq_tensor bias_view, w;
    awq_tensor_init_const_1d(&bias_view, bias.memory, AWQ_F16, p->n);
    on_device(&bias_view);
    if (p->bias) options.bias = &bias_view;
    awq_status status;
    if (p->bits >= 16) {
        struct buffer dense = buffer_of_floats(p->weight_dtype, p->dense, p->n * p->k);
        awq_tensor_init_const_2d(&w, dense.memory, p->weight_dtype, p->n, p->k);
        on_device(&w);
        status = awq_linear_create_dense(device, &w, &options, linear);
        (void)buffer_destroy(&dense, NULL);
    } else {
        awq_weight *weight = product_weight(p);
        status = awq_linear_create(device, weight, &options, linear);
        awq_weight_destroy(weight);
    }
    (void)buffer_destroy(&bias, NULL);
    return status;
}

/* y in rows of 'pitch' elements; what lies behind each row is noise that must stay.  False when a margin was written.
 */
static bool product_run(const awq_linear *linear, const struct product *p, int64_t pitch, void *y)
{
    const int64_t x_pitch = p->odd_rows ? p->k + 1 : p->k;
    float *x_rows = array(p->rows * x_pitch, sizeof *x_rows);
    for (int64_t i = 0; i < p->rows; i++) memcpy(x_rows + i * x_pitch, p->x + i * p->k, (size_t)p->k * sizeof *x_rows);
    struct buffer x = buffer_of_floats(p->x_dtype, x_rows, p->rows * x_pitch);
    struct buffer residual = buffer_of_floats(AWQ_BF16, p->residuals, p->rows * p->outputs);
    struct buffer norm = buffer_of_floats(AWQ_BF16, p->norms, p->k);
    struct buffer result = buffer_create(y, (uint64_t)(p->rows * pitch) * awq_dtype_size(p->y_dtype));
    struct buffer workspace = buffer_create(NULL, awq_linear_workspace_size(linear, p->rows));
    free(x_rows);
    awq_tensor x_view, y_view, residual_view, norm_view;
    awq_tensor_init_const_2d(&x_view, x.memory, p->x_dtype, p->rows, p->k);
    x_view.strides[0] = x_pitch;
    awq_tensor_init_2d(&y_view, result.memory, p->y_dtype, p->rows, p->outputs);
    y_view.strides[0] = pitch;
    awq_tensor_init_const_2d(&residual_view, residual.memory, AWQ_BF16, p->rows, p->outputs);
    awq_tensor_init_const_1d(&norm_view, norm.memory, AWQ_BF16, p->k);
    on_device(&x_view), on_device(&y_view), on_device(&residual_view), on_device(&norm_view);
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    if (p->residual) options.residual = &residual_view;
    if (p->norm) options.norm_weight = &norm_view;
    options.norm_epsilon = EPSILON;
    options.workspace = workspace.memory;
    options.workspace_bytes = workspace.bytes;
    awq_status status = awq_linear_run(linear, &x_view, &y_view, &options);
    if (status == AWQ_OK) status = awq_context_synchronize(device, NULL);
    require(status, "run");
    bool whole = buffer_destroy(&result, y);
    whole &= buffer_destroy(&workspace, NULL);
    whole &= buffer_destroy(&x, NULL) && buffer_destroy(&residual, NULL) && buffer_destroy(&norm, NULL);
    return whole;
}

static void product_text(const struct product *p, char *text, size_t capacity)
{
    snprintf(text, capacity,
             "kernel %s, activation %d, %" PRId64 " rows of %s to [%" PRId64 "][%" PRId64
             "] %s of %d bits, scales %s, groups of "
             "%" PRId64 ", %" PRId64 " salient%s%s%s%s%s%s%s, y %s",
             awq_kernel_name(p->kernel), p->activation, p->rows, awq_dtype_name(p->x_dtype), p->n, p->k,
             p->bits >= 16 ? "dense" : "", p->bits, awq_dtype_name(p->weight_dtype), p->group_size,
             p->salient_count, p->symmetric ? ", symmetric" : "", p->input_scale ? ", input scale" : "",
             p->bias ? ", bias" : "", p->residual ? ", residual" : "", p->norm ? ", norm" : "", p->gated ? ", gated" : "",
             p->odd_rows ? ", odd rows" : "", awq_dtype_name(p->y_dtype));
}

static bool product_check(const struct product *p, const void *y, const unsigned char *before, int64_t pitch)
{
    const size_t size = awq_dtype_size(p->y_dtype);
    int wrong = 0;
    for (int64_t i = 0; i < p->rows; i++) {
        for (int64_t j = 0; j < p->outputs; j++) {
            float value;
            awqi_to_f32(p->y_dtype, (const unsigned char *)y + (size_t)(i * pitch + j) * size, &value, 1);
            const double difference = fabs((double)value - p->expected[i * p->outputs + j]);
            if (difference <= p->tolerance[i * p->outputs + j]) continue;
            if (wrong++ < 4)
                printf("    y[%" PRId64 "][%" PRId64 "] is %g, not %g; %g off where %g is allowed\n", i, j,
                       (double)value, p->expected[i * p->outputs + j], difference, p->tolerance[i * p->outputs + j]);
        }
        if (memcmp((const unsigned char *)y + (size_t)(i * pitch + p->outputs) * size,
                   before + (size_t)(i * pitch + p->outputs) * size, (size_t)(pitch - p->outputs) * size) != 0 &&
            wrong++ < 4)
            printf("    what lies behind row %" PRId64 " of y was written\n", i);
    }
    return wrong == 0;
}

/* Runs twice: the bits must be the same. */
static void run_case(struct product *p)
{
    const uint64_t case_seed = seed;
    product_fill(p);
    product_expect(p);
    const int64_t pitch = p->outputs + 3;
    const size_t bytes = (size_t)(p->rows * pitch) * awq_dtype_size(p->y_dtype);
    unsigned char *before = array((int64_t)bytes, 1), *y = array((int64_t)bytes, 1), *again = array((int64_t)bytes, 1);
    for (size_t i = 0; i < bytes; i++) before[i] = (unsigned char)draw(256);
    memcpy(y, before, bytes);
    memcpy(again, before, bytes);
    awq_linear *linear = NULL;
    REQUIRE(product_linear(p, &linear));
    bool good = product_run(linear, p, pitch, y) && product_run(linear, p, pitch, again);
    if (!good) printf("    a margin was written\n");
    if (memcmp(y, again, bytes) != 0) {
        printf("    a second run gave other bits\n");
        good = false;
    }
    good &= product_check(p, y, before, pitch);
    if (!good) {
        char text[512];
        product_text(p, text, sizeof text);
        printf("FAILED with seed %" PRIu64 ": %s\n", case_seed, text);
        if (++failed >= 20) exit(1);
    } else {
        passed++;
    }
    awq_linear_destroy(linear);
    free(before);
    free(y);
    free(again);
    product_free(p);
}

/* ---- cases */

static void draw_rest(struct product *p)
{
    static const int32_t dtypes[] = {AWQ_F16, AWQ_BF16, AWQ_F32};
    p->y_dtype = dtypes[draw(3)];
    p->symmetric = p->bits < 16 && draw(2);
    p->input_scale = p->bits < 16 && draw(3) == 0;
    if (p->bits < 16 && draw(3) == 0) p->salient_count = 1 + draw((uint32_t)(p->k + 9) / 10);
    p->bias = draw(2);
    p->residual = draw(2);
    p->norm = draw(3) == 0;
    p->odd_rows = draw(3) == 0;
    p->gated = p->n % 2 == 0 && draw(3) == 0;
}

/* One kernel over shapes, groups, types and batch sizes, the other properties drawn. */
static void sweep(int32_t kernel, const int64_t (*shapes)[2], size_t shape_count, const int64_t *batches,
                  size_t batch_count, const int32_t *bits, size_t bits_count, const int32_t *x_dtypes,
                  size_t dtype_count)
{
    static const int64_t group_sizes[] = {128, 32, 64, 16, 48, 0};
    static const int32_t scale_dtypes[] = {AWQ_F16, AWQ_BF16, AWQ_F16, AWQ_F32};
    for (size_t s = 0; s < shape_count; s++)
        for (size_t m = 0; m < batch_count; m++)
            for (size_t b = 0; b < bits_count; b++)
                for (size_t t = 0; t < dtype_count; t++) {
                    struct product p = {.n = shapes[s][0], .k = shapes[s][1], .bits = bits[b], .kernel = kernel};
                    p.rows = batches[m];
                    p.x_dtype = x_dtypes[t];
                    p.group_size = group_sizes[draw(6)];
                    p.weight_dtype = scale_dtypes[draw(4)];
                    if (p.group_size == 0 || (kernel == AWQ_KERNEL_MARLIN && p.k % p.group_size != 0))
                        p.group_size = p.k;
                    if (kernel == AWQ_KERNEL_REFERENCE && draw(3) == 0) p.group_size = 20;
                    if (bits[b] == 16) p.weight_dtype = x_dtypes[t] == AWQ_BF16 ? AWQ_BF16 : AWQ_F16;
                    if (bits[b] == 32) p.weight_dtype = AWQ_F32;
                    if (p.x_dtype == AWQ_BF16 && capability < 80 && kernel != AWQ_KERNEL_REFERENCE &&
                        kernel != AWQ_KERNEL_GEMV)
                        continue;
                    draw_rest(&p);
                    run_case(&p);
                }
}

#define SWEEP(kernel, shapes, batches, bits, dtypes)                                                                   \
    sweep(kernel, shapes, COUNT(shapes), batches, COUNT(batches), bits, COUNT(bits), dtypes, COUNT(dtypes))

static const int32_t halves[] = {AWQ_F16, AWQ_BF16}, all_dtypes[] = {AWQ_F16, AWQ_BF16, AWQ_F32};

static void test_reference(void)
{
    static const int64_t shapes[][2] = {{1, 1}, {70, 100}, {130, 64}}, batches[] = {1, 5};
    static const int32_t bits[] = {2, 3, 4, 8, 16, 32};
    SWEEP(AWQ_KERNEL_REFERENCE, shapes, batches, bits, all_dtypes);
}

static void test_gemv(void)
{
    static const int64_t shapes[][2] = {{64, 64}, {1, 7}, {200, 1000}, {130, 2600}}, batches[] = {1, 2, 5, 8, 19};
    static const int32_t bits[] = {4};
    SWEEP(AWQ_KERNEL_GEMV, shapes, batches, bits, all_dtypes);
    static const int64_t few[][2] = {{72, 264}}, one[] = {3};
    static const int32_t narrow[] = {2, 3};
    SWEEP(AWQ_KERNEL_GEMV, few, one, narrow, all_dtypes);
}

static void test_gemm(void)
{
    static const int64_t shapes[][2] = {{64, 64}, {200, 1000}, {300, 392}}, batches[] = {3, 9, 17, 33, 70};
    static const int32_t bits[] = {4, 8};
    SWEEP(AWQ_KERNEL_GEMM, shapes, batches, bits, halves);
}

static void test_marlin(void)
{
    static const int64_t shapes[][2] = {{64, 64}, {192, 1040}, {320, 384}}, batches[] = {1, 16, 30, 66};
    static const int32_t bits[] = {4, 8};
    SWEEP(AWQ_KERNEL_MARLIN, shapes, batches, bits, halves);
}

static void test_hopper(void)
{
    static const int64_t shapes[][2] = {{64, 64}, {200, 1000}, {392, 300}}, batches[] = {1, 30, 70, 140};
    static const int32_t bits[] = {4};
    if (capability != 90) return;
    SWEEP(AWQ_KERNEL_HOPPER, shapes, batches, bits, halves);
    static const int64_t few[][2] = {{130, 200}}, sizes[] = {12, 60, 90, 120, 185, 250, 300};
    SWEEP(AWQ_KERNEL_HOPPER, few, sizes, bits, halves);
}

static void test_dequant(void)
{
    static const int64_t shapes[][2] = {{64, 64}, {200, 1000}, {130, 391}}, batches[] = {3, 65};
    static const int32_t bits[] = {4, 8, 16};
    SWEEP(AWQ_KERNEL_DEQUANT, shapes, batches, bits, halves);
}

static void test_auto(void)
{
    static const int64_t shapes[][2] = {{100, 200}}, batches[] = {1, 12};
    static const int32_t bits[] = {2, 3, 4, 8, 16, 32};
    SWEEP(AWQ_KERNEL_AUTO, shapes, batches, bits, all_dtypes);
}

static void look_at_device(void)
{
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    REQUIRE(awq_context_get_device(device, &info));
    capability = info.compute_capability;
    printf("%s, seed %" PRIu64 "\n", info.name, seed);
}

int main(int argc, char **argv)
{
    static const struct device_test tests[] = {
        {"reference", test_reference}, {"gemv", test_gemv}, {"gemm", test_gemm}, {"marlin", test_marlin},
        {"hopper", test_hopper}, {"dequant", test_dequant}, {"auto", test_auto},
    };
    return run_device_tests(argc, argv, COUNT(tests), tests, look_at_device);
}
