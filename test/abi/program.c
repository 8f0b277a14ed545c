/* A program compiled against another age's header: structs that know their size cross the border in both directions. */
#include AWQ_HEADER
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 16, K = 128, TOKENS = 64 };

#define TRY(call) \
    if ((call) != AWQ_OK) { fprintf(stderr, "%s: %s\n", #call, awq_last_error()); exit(EXIT_FAILURE); }
#define EXPECT(condition) \
    if (!(condition)) { fprintf(stderr, "%s is not so\n", #condition); exit(EXIT_FAILURE); }

/* Fill all of 's' with rubbish, so that what stays unset shows, then prepare it as the header says. */
#define PREPARE(s) (memset(&(s), 0xa5, sizeof(s)), awq_struct_init(&(s), sizeof(s)))

static awq_search *run_search(awq_context *context, const awq_tensor *x, const awq_tensor *w)
{
    awq_calibration *calibration;
    awq_calibration_options calibration_options;
    PREPARE(calibration_options);
    calibration_options.sample_rows = 32;
    calibration_options.seed = 7;
    TRY(awq_calibration_create(context, K, &calibration_options, &calibration));
    TRY(awq_calibration_observe(calibration, x));
    awq_calibration_info info;
    PREPARE(info);
    TRY(awq_calibration_get_info(calibration, &info));
    EXPECT(info.rows == TOKENS && info.sample_limit == 32 && info.seed == 7);

    awq_quantize_options quantize;
    PREPARE(quantize);
    quantize.group_size = 64;
    awq_search_options options;
    PREPARE(options);
    options.grid_points = 5;
    options.tie_copies = 2;
    options.tie_width = 16;
    options.quantize = &quantize;
    awq_search *search;
    TRY(awq_search_create(context, calibration, &options, &search));
    TRY(awq_search_add_weight(search, w));
    TRY(awq_search_run(search));
    awq_search_result result;
    PREPARE(result);
    TRY(awq_search_get_result(search, &result));
    EXPECT(result.candidates == 5 && result.rows == 32 && result.loss <= result.loss_identity);
    awq_calibration_destroy(calibration);
    return search;
}

static void run_linear(awq_context *context, const awq_tensor *w, const awq_search *search, const awq_tensor *x,
                       awq_tensor *y)
{
    awq_weight *weight;
    TRY(awq_quantize(context, w, search, NULL, &weight));
    awq_weight_info weight_info;
    PREPARE(weight_info);
    TRY(awq_weight_get_info(weight, &weight_info));
    EXPECT(weight_info.n == N && weight_info.k == K && weight_info.group_size == 64 && weight_info.bits == 4);

    awq_linear_options options;
    PREPARE(options);
    options.kernel = AWQ_KERNEL_REFERENCE;
    awq_linear *linear;
    TRY(awq_linear_create(context, weight, &options, &linear));
    awq_linear_info info;
    PREPARE(info);
    TRY(awq_linear_get_info(linear, &info));
    EXPECT(info.inputs == K && info.outputs == N);
    awq_run_options run;
    PREPARE(run);
    TRY(awq_linear_run(linear, x, y, &run));
    awq_linear_destroy(linear);
    awq_weight_destroy(weight);
}

int main(void)
{
    static float x[TOKENS * K], w[N * K], y[TOKENS * N];
    for (int i = 0; i < TOKENS * K; i++) x[i] = (float)(i * 7919 % 211) / 211.0f - 0.5f;
    for (int i = 0; i < N * K; i++) w[i] = (float)(i * 104729 % 307) / 307.0f - 0.5f;
    awq_tensor in, weight, out;
    awq_tensor_init_const_2d(&in, x, AWQ_F32, TOKENS, K);
    awq_tensor_init_const_2d(&weight, w, AWQ_F32, N, K);
    awq_tensor_init_2d(&out, y, AWQ_F32, TOKENS, N);

    awq_context *context;
    awq_context_options options;
    PREPARE(options);
    options.threads = 1;
    TRY(awq_context_create(&options, &context));
    awq_device_info device;
    PREPARE(device);
    TRY(awq_context_get_device(context, &device));
    EXPECT(device.struct_size == sizeof device && device.compute_units == 1 && memchr(device.name, 0, 128) != NULL);

    awq_search *search = run_search(context, &in, &weight);
    run_linear(context, &weight, search, &in, &out);
    for (int t = 0; t < TOKENS; t++)
        for (int n = 0; n < N; n++) {
            double exact = 0;
            for (int k = 0; k < K; k++) exact += (double)x[t * K + k] * w[n * K + k];
            EXPECT(exact - y[t * N + n] < 0.5 && y[t * N + n] - exact < 0.5);
        }
    awq_search_destroy(search);
    awq_context_destroy(context);
    return EXIT_SUCCESS;
}
