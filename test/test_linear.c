/* awq_linear: creating, asking, running, and every argument that must be refused.  What is computed is tested in
 * test_linear_kernels.c. */
#include "scratch.h"

#include <math.h>
#include <pthread.h>

enum { N = 6, K = 8, ROWS = 3 };

struct layer {
    awq_linear *linear;
    float w[N * K], x[ROWS * K], y[ROWS * N];
    awq_tensor x_view, y_view;
};

static void layer_open(awq_context *context, const awq_linear_options *options, struct layer *layer)
{
    for (int i = 0; i < N * K; i++) layer->w[i] = (float)(i % 7) - 3.0f;
    for (int i = 0; i < ROWS * K; i++) layer->x[i] = (float)(i % 5) - 2.0f;
    for (int i = 0; i < ROWS * N; i++) layer->y[i] = -77.0f;
    awq_tensor w;
    awq_tensor_init_const_2d(&w, layer->w, AWQ_F32, N, K);
    assert_status(awq_linear_create_dense(context, &w, options, &layer->linear), AWQ_OK);
    awq_tensor_init_const_2d(&layer->x_view, layer->x, AWQ_F32, ROWS, K);
    awq_tensor_init_2d(&layer->y_view, layer->y, AWQ_F32, ROWS, N);
}

/* Small whole numbers, so that every order of summation gives the same. */
static float expected(const struct layer *layer, int row, int output)
{
    float sum = 0.0f;
    for (int k = 0; k < K; k++) sum += layer->x[row * K + k] * layer->w[output * K + k];
    return sum;
}

static void assert_result(const struct layer *layer)
{
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) assert_true(layer->y[i * N + j] == expected(layer, i, j));
}

static void assert_untouched(const struct layer *layer)
{
    for (int i = 0; i < ROWS * N; i++) assert_true(layer->y[i] == -77.0f);
}

static awq_weight *small_weight(awq_context *context)
{
    float w[N * K];
    for (int i = 0; i < N * K; i++) w[i] = (float)(i % 11) - 5.0f;
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    awq_weight *weight;
    assert_status(awq_quantize(context, &view, NULL, NULL, &weight), AWQ_OK);
    return weight;
}

static void a_product_is_computed(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, NULL), AWQ_OK);
    assert_result(&layer);
    awq_linear_destroy(layer.linear);
    awq_linear_destroy(NULL);
}

static void creation_refuses_bad_arguments(void **state)
{
    struct scratch *scratch = *state;
    awq_context *context = scratch->context;
    awq_weight *weight = small_weight(context);
    awq_linear *linear = (void *)1;
    assert_status(awq_linear_create(NULL, weight, NULL, &linear), AWQ_ERROR_INVALID);
    assert_null(linear);
    assert_status(awq_linear_create(context, NULL, NULL, &linear), AWQ_ERROR_INVALID);
    assert_status(awq_linear_create(context, weight, NULL, NULL), AWQ_ERROR_INVALID);

    float bias[N] = {0};
    awq_tensor view;
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = 2;
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.activation = 9;
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    options.activation = 0;
    options.kernel = 7;
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    options.kernel = 0;
    options.bias = &view;
    awq_tensor_init_const_1d(&view, bias, AWQ_F32, N - 1);
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    assert_error_names("bias");
    awq_tensor_init_const_2d(&view, bias, AWQ_F32, 1, N);
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&view, bias, AWQ_I32, N);
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&view, bias, AWQ_F32, N);
    view.device_type = AWQ_DEVICE_CUDA;
    assert_status(awq_linear_create(context, weight, &options, &linear), AWQ_ERROR_INVALID);
    assert_null(linear);
    awq_weight_destroy(weight);
}

static void dense_weights_are_checked(void **state)
{
    struct scratch *scratch = *state;
    awq_context *context = scratch->context;
    float w[N * K] = {0};
    awq_tensor view;
    awq_linear *linear = NULL;
    assert_status(awq_linear_create_dense(context, NULL, NULL, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&view, w, AWQ_F32, N);
    assert_status(awq_linear_create_dense(context, &view, NULL, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, w, AWQ_F64, 2, 2);
    assert_status(awq_linear_create_dense(context, &view, NULL, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 0, K);
    assert_status(awq_linear_create_dense(context, &view, NULL, &linear), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, K);
    assert_status(awq_linear_create_dense(NULL, &view, NULL, &linear), AWQ_ERROR_INVALID);
    assert_status(awq_linear_create_dense(context, &view, NULL, NULL), AWQ_ERROR_INVALID);
    /* Gate and up of three rows in all. */
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_LINEAR_SILU_MUL;
    view.shape[0] = 3;
    assert_status(awq_linear_create_dense(context, &view, &options, &linear), AWQ_ERROR_INVALID);
    assert_error_names("3 outputs");
    assert_null(linear);
}

static void what_is_not_there_is_named(void **state)
{
    struct scratch *scratch = *state;
    awq_weight *weight = small_weight(scratch->context);
    awq_linear *linear = NULL;
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    for (int32_t kernel = AWQ_KERNEL_MARLIN; kernel <= AWQ_KERNEL_DEQUANT; kernel++) {
        options.kernel = kernel;
        assert_status(awq_linear_create(scratch->context, weight, &options, &linear), AWQ_ERROR_UNSUPPORTED);
        assert_error_names(awq_kernel_name(kernel));
    }
    assert_null(linear);
    awq_weight_destroy(weight);
}

static void a_linear_describes_itself(void **state)
{
    struct scratch *scratch = *state;
    awq_weight *weight = small_weight(scratch->context);
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_LINEAR_SILU_MUL;
    awq_linear *linear;
    assert_status(awq_linear_create(scratch->context, weight, &options, &linear), AWQ_OK);
    awq_weight_destroy(weight);
    awq_linear_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_linear_get_info(linear, &info), AWQ_OK);
    assert_int_equal(info.bits, 4);
    assert_int_equal(info.inputs, K);
    assert_int_equal(info.outputs, N / 2);
    assert_true(info.size_bytes > 0);
    assert_status(awq_linear_get_info(NULL, &info), AWQ_ERROR_INVALID);
    assert_status(awq_linear_get_info(linear, NULL), AWQ_ERROR_INVALID);

    char text[1024];
    size_t length = 0;
    assert_status(awq_linear_describe(linear, 1, text, sizeof text, &length), AWQ_OK);
    assert_int_equal(length, strlen(text));
    assert_non_null(strstr(text, "gemv: taken"));
    assert_status(awq_linear_describe(linear, 100, text, sizeof text, NULL), AWQ_OK);
    assert_non_null(strstr(text, "gemm: taken"));
    assert_non_null(strstr(text, "marlin: passed over"));
    char brief[5];
    assert_status(awq_linear_describe(linear, 1, brief, sizeof brief, &length), AWQ_OK);
    assert_string_equal(brief, "gemv");
    assert_true(length > sizeof brief);
    assert_status(awq_linear_describe(linear, 0, text, sizeof text, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_linear_describe(NULL, 1, text, sizeof text, NULL), AWQ_ERROR_INVALID);
    awq_linear_destroy(linear);

    options.flags = 0;
    options.kernel = AWQ_KERNEL_REFERENCE;
    struct layer layer;
    layer_open(scratch->context, &options, &layer);
    assert_status(awq_linear_describe(layer.linear, 100, text, sizeof text, NULL), AWQ_OK);
    assert_non_null(strstr(text, "reference: taken: forced"));
    awq_linear_destroy(layer.linear);
}

static void runs_refuse_bad_arguments(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    const awq_linear *linear = layer.linear;
    awq_tensor x = layer.x_view, y = layer.y_view;
    assert_status(awq_linear_run(NULL, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_linear_run(linear, NULL, &y, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_linear_run(linear, &x, NULL, NULL), AWQ_ERROR_INVALID);
    x.shape[1] = K - 1;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("x");
    x = layer.x_view;
    x.dtype = AWQ_U8;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    x = layer.x_view;
    x.device_type = AWQ_DEVICE_CUDA;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    x = layer.x_view;
    x.strides[1] = 2;
    x.shape[0] = 1;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("contiguous");
    x = layer.x_view;
    x.data = NULL;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    x = layer.x_view;
    y.shape[0] = ROWS - 1;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("y");
    y = layer.y_view;
    y.shape[1] = N + 1;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    y = layer.y_view;
    y.flags = AWQ_TENSOR_READONLY;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("read-only");
    y = layer.y_view;
    y.strides[0] = N - 1;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("overlap");
    y.strides[0] = 0;
    assert_status(awq_linear_run(linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_untouched(&layer);
    awq_linear_destroy(layer.linear);
}

static void run_options_are_checked(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = 1;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.stream = &layer;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    options.stream = NULL;

    float values[ROWS * K] = {0};
    awq_tensor view;
    options.norm_weight = &view;
    awq_tensor_init_const_1d(&view, values, AWQ_F32, K - 1);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    assert_error_names("norm_weight");
    awq_tensor_init_const_2d(&view, values, AWQ_F32, 1, K);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&view, layer.y, AWQ_F32, K);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    awq_tensor_init_const_1d(&view, values, AWQ_F32, K);
    options.norm_epsilon = -1.0;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    options.norm_epsilon = (double)NAN;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    options.norm_weight = NULL;
    options.norm_epsilon = 0.0;

    options.residual = &view;
    awq_tensor_init_const_2d(&view, values, AWQ_F32, ROWS - 1, N);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    assert_error_names("residual");
    awq_tensor_init_const_1d(&view, values, AWQ_F32, N);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&view, layer.y + 1, AWQ_F32, ROWS, N);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    assert_error_names("overlaps");
    assert_untouched(&layer);
    awq_linear_destroy(layer.linear);
}

static void memory_may_be_shared_by_columns_only(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    float buffer[ROWS * (K + N)];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < K + N; j++) buffer[i * (K + N) + j] = j < K ? layer.x[i * K + j] : -77.0f;
    awq_tensor x, y;
    awq_tensor_init_const_2d(&x, buffer, AWQ_F32, ROWS, K);
    awq_tensor_init_2d(&y, buffer + K, AWQ_F32, ROWS, N);
    x.strides[0] = y.strides[0] = K + N;
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_OK);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) assert_true(buffer[i * (K + N) + K + j] == expected(&layer, i, j));

    y.data = buffer + K - 1;
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    assert_error_names("y overlaps x");
    y.data = buffer + K + 1; /* its last column is the next row's first input */
    y.shape[0] = x.shape[0] = 2;
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    y.data = buffer + K;
    y.strides[0] = K + N + 1;
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_ERROR_INVALID);
    awq_linear_destroy(layer.linear);
}

static void the_residual_may_be_y(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    for (int i = 0; i < ROWS * N; i++) layer.y[i] = (float)i;
    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.residual = &layer.y_view;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_OK);
    for (int i = 0; i < ROWS * N; i++) assert_true(layer.y[i] == (float)i + expected(&layer, i / N, i % N));
    awq_linear_destroy(layer.linear);
}

static void any_rank_and_stride_of_rows_will_do(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    float x_buffer[2 * 3 * (K + 2)], y_buffer[2 * 3 * N];
    for (int i = 0; i < 2 * 3 * (K + 2); i++) x_buffer[i] = (float)(i % 9) - 4.0f;
    awq_tensor x, y;
    awq_tensor_init_const(&x, x_buffer, AWQ_F32, 3, (const int64_t[]){2, 3, K});
    x.strides[0] = K + 2; /* rows of x lie the other way round from those of y */
    x.strides[1] = 2 * (K + 2);
    awq_tensor_init(&y, y_buffer, AWQ_F32, 3, (const int64_t[]){2, 3, N});
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_OK);
    for (int a = 0; a < 2; a++)
        for (int b = 0; b < 3; b++)
            for (int j = 0; j < N; j++) {
                float sum = 0.0f;
                for (int k = 0; k < K; k++) sum += x_buffer[a * (K + 2) + b * 2 * (K + 2) + k] * layer.w[j * K + k];
                assert_true(y_buffer[(a * 3 + b) * N + j] == sum);
            }
    /* One row, as a vector; rows backwards; and no rows at all. */
    awq_tensor_init_const_1d(&x, layer.x, AWQ_F32, K);
    awq_tensor_init_1d(&y, layer.y, AWQ_F32, N);
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_OK);
    for (int j = 0; j < N; j++) assert_true(layer.y[j] == expected(&layer, 0, j));
    x = layer.x_view;
    x.data = layer.x + (ROWS - 1) * K;
    x.strides[0] = -K;
    assert_status(awq_linear_run(layer.linear, &x, &layer.y_view, NULL), AWQ_OK);
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < N; j++) assert_true(layer.y[i * N + j] == expected(&layer, ROWS - 1 - i, j));
    awq_tensor_init_const_2d(&x, NULL, AWQ_F32, 0, K);
    awq_tensor_init_2d(&y, NULL, AWQ_F32, 0, N);
    assert_status(awq_linear_run(layer.linear, &x, &y, NULL), AWQ_OK);
    awq_linear_destroy(layer.linear);
}

static void with_a_workspace_nothing_is_allocated(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    assert_int_equal(awq_linear_workspace_size(NULL, 5), 0);
    assert_int_equal(awq_linear_workspace_size(layer.linear, 0), 0);
    assert_int_equal(awq_linear_workspace_size(layer.linear, -4), 0);
    uint64_t size = awq_linear_workspace_size(layer.linear, ROWS);
    assert_true(size >= ROWS * K * sizeof(float));
    assert_true(awq_linear_workspace_size(layer.linear, ROWS + 1) >= size);
    void *workspace;
    assert_status(awq_context_allocate(scratch->context, size + 256, &workspace), AWQ_OK);
    memset(workspace, 0x5a, (size_t)size + 256);

    awq_run_options options;
    awq_struct_init(&options, sizeof options);
    options.workspace = (unsigned char *)workspace + 64;
    options.workspace_bytes = size;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    assert_error_names("aligned");
    options.workspace = workspace;
    options.workspace_bytes = size - 1;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_ERROR_INVALID);
    assert_error_names("workspace");
    options.workspace_bytes = size;
    awq_tensor y = layer.y_view;
    y.data = workspace;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &y, &options), AWQ_ERROR_INVALID);
    assert_error_names("workspace overlaps");
    assert_untouched(&layer);

    scratch->allocations_left = 0;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, &options), AWQ_OK);
    assert_result(&layer);
    for (int i = 0; i < 256; i++) assert_int_equal(((unsigned char *)workspace)[size + (uint64_t)i], 0x5a);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, NULL), AWQ_ERROR_OUT_OF_MEMORY);
    scratch->allocations_left = -1;
    awq_context_free(scratch->context, workspace);
    awq_linear_destroy(layer.linear);
}

static void failed_allocations_leave_nothing_behind(void **state)
{
    struct scratch *scratch = *state;
    float bias[N] = {1}, scale[K], w[N * K];
    for (int i = 0; i < K; i++) scale[i] = 2.0f;
    for (int i = 0; i < N * K; i++) w[i] = (float)i;
    awq_tensor bias_view, w_view, scale_view;
    awq_tensor_init_const_1d(&bias_view, bias, AWQ_F32, N);
    awq_tensor_init_const_1d(&scale_view, scale, AWQ_F32, K);
    awq_tensor_init_const_2d(&w_view, w, AWQ_F32, N, K);
    awq_quantize_options quantize;
    awq_struct_init(&quantize, sizeof quantize);
    quantize.input_scale = &scale_view;
    awq_weight *weight;
    assert_status(awq_quantize(scratch->context, &w_view, NULL, &quantize, &weight), AWQ_OK);
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.bias = &bias_view;
    awq_linear *linear = NULL;
    int64_t allowed = 0;
    for (awq_status status = AWQ_ERROR_OUT_OF_MEMORY; status != AWQ_OK; allowed++) {
        scratch->allocations_left = allowed;
        status = awq_linear_create(scratch->context, weight, &options, &linear);
        if (status == AWQ_OK) break;
        assert_int_equal(status, AWQ_ERROR_OUT_OF_MEMORY);
        assert_null(linear);
    }
    scratch->allocations_left = -1;
    assert_true(allowed >= 5); /* the handle, the prepared linear, the stream, bias, input scale */
    awq_weight_destroy(weight);
    awq_linear_destroy(linear);
}

static void a_linear_outlives_what_it_was_made_of(void **state)
{
    (void)state;
    awq_context *context;
    assert_status(awq_context_create(NULL, &context), AWQ_OK);
    struct layer layer;
    layer_open(context, NULL, &layer);
    memset(layer.x, 0, sizeof layer.x);
    awq_context_destroy(context);
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, NULL), AWQ_OK);
    assert_result(&layer);
    awq_linear_destroy(layer.linear);
}

struct runner {
    pthread_t thread;
    const awq_linear *linear;
    float x[ROWS * K], y[ROWS * N];
    awq_status status;
};

static void *run_often(void *argument)
{
    struct runner *runner = argument;
    awq_tensor x, y;
    awq_tensor_init_const_2d(&x, runner->x, AWQ_F32, ROWS, K);
    awq_tensor_init_2d(&y, runner->y, AWQ_F32, ROWS, N);
    for (int i = 0; i < 200 && runner->status == AWQ_OK; i++)
        runner->status = awq_linear_run(runner->linear, &x, &y, NULL);
    return NULL;
}

static void threads_may_share_a_linear(void **state)
{
    (void)state;
    awq_context *context;
    assert_status(awq_context_create(NULL, &context), AWQ_OK);
    struct layer layer;
    layer_open(context, NULL, &layer);
    struct runner runners[4];
    for (int i = 0; i < 4; i++) {
        runners[i] = (struct runner){.linear = layer.linear};
        for (int j = 0; j < ROWS * K; j++) runners[i].x[j] = layer.x[j] * (float)(i + 1);
        assert_int_equal(pthread_create(&runners[i].thread, NULL, run_often, &runners[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(runners[i].thread, NULL), 0);
        assert_status(runners[i].status, AWQ_OK);
        for (int j = 0; j < ROWS * N; j++)
            assert_true(runners[i].y[j] == expected(&layer, j / N, j % N) * (float)(i + 1));
    }
    awq_linear_destroy(layer.linear);
    awq_context_destroy(context);
}

static void non_finite_inputs_stay_in_their_row(void **state)
{
    struct scratch *scratch = *state;
    struct layer layer;
    layer_open(scratch->context, NULL, &layer);
    layer.x[K] = NAN;
    assert_status(awq_linear_run(layer.linear, &layer.x_view, &layer.y_view, NULL), AWQ_OK);
    for (int j = 0; j < N; j++) {
        assert_true(layer.y[j] == expected(&layer, 0, j));
        assert_true(isnan(layer.y[N + j]));
        assert_true(layer.y[2 * N + j] == expected(&layer, 2, j));
    }
    awq_linear_destroy(layer.linear);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(a_product_is_computed),
        SCRATCH_TEST(creation_refuses_bad_arguments),
        SCRATCH_TEST(dense_weights_are_checked),
        SCRATCH_TEST(what_is_not_there_is_named),
        SCRATCH_TEST(a_linear_describes_itself),
        SCRATCH_TEST(runs_refuse_bad_arguments),
        SCRATCH_TEST(run_options_are_checked),
        SCRATCH_TEST(memory_may_be_shared_by_columns_only),
        SCRATCH_TEST(the_residual_may_be_y),
        SCRATCH_TEST(any_rank_and_stride_of_rows_will_do),
        SCRATCH_TEST(with_a_workspace_nothing_is_allocated),
        SCRATCH_TEST(failed_allocations_leave_nothing_behind),
        SCRATCH_TEST(non_finite_inputs_stay_in_their_row),
        cmocka_unit_test(a_linear_outlives_what_it_was_made_of),
        cmocka_unit_test(threads_may_share_a_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
