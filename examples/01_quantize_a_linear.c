/* Lesson 1: one linear layer, from activations to a fast INT4 product.
 *
 * A layer W[N][K] sees activations in which two of K channels are much larger than the rest, as in large language models.  Plain
 * rounding treats all weights alike; AWQ finds column scales that protect the weights those channels meet.  Both are run on
 * tokens that calibration has not seen.
 *
 * Introduces: context, tensor views, calibration, search, quantize, linear. */
#include <awq.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 256, K = 256, TOKENS = 512, FRESH = 64 };

/* A cheap, repeatable stand-in for real data: roughly normal numbers. */
static float noise(void)
{
    static unsigned state = 1;
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        state = state * 1664525u + 1013904223u;
        sum += (float)(state >> 8) / 16777216.0f - 0.5f;
    }
    return sum;
}

static void fill_activations(float *x, int rows)
{
    for (int i = 0; i < rows * K; i++) x[i] = noise() * (i % K == 7 || i % K == 100 ? 40.0f : 1.0f);
}

/* The relative error of y against the exact product. */
static double error_of(const float *x, const float *w, const float *y)
{
    double error = 0, norm = 0;
    for (int t = 0; t < FRESH; t++)
        for (int n = 0; n < N; n++) {
            double exact = 0;
            for (int k = 0; k < K; k++) exact += (double)x[t * K + k] * w[n * K + k];
            error += (exact - y[t * N + n]) * (exact - y[t * N + n]);
            norm += exact * exact;
        }
    return sqrt(error / norm);
}

/* Quantise w, with or without the scales of a search, and multiply the fresh tokens by it. */
static awq_status run(awq_context *ctx, const awq_tensor *w, const awq_search *search, const awq_tensor *x, awq_tensor *y)
{
    awq_weight *weight = NULL;
    awq_linear *linear = NULL;
    awq_status status = awq_quantize(ctx, w, search, NULL, &weight); /* INT4, groups of 128, asymmetric */
    if (status == AWQ_OK) status = awq_linear_create(ctx, weight, NULL, &linear);
    if (status == AWQ_OK) status = awq_linear_run(linear, x, y, NULL); /* divides x by the scales */
    awq_linear_destroy(linear);
    awq_weight_destroy(weight);
    return status;
}

int main(void)
{
    static float weights[N * K], seen[TOKENS * K], fresh[FRESH * K], product[FRESH * N];
    for (int i = 0; i < N * K; i++) weights[i] = noise() * 0.1f;
    fill_activations(seen, TOKENS);
    fill_activations(fresh, FRESH);

    awq_context *ctx = NULL;
    awq_calibration *calibration = NULL;
    awq_search *search = NULL;
    awq_tensor w, a, x, y;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_tensor_init_const_2d(&a, seen, AWQ_F32, TOKENS, K);
    awq_tensor_init_const_2d(&x, fresh, AWQ_F32, FRESH, K);
    awq_tensor_init_2d(&y, product, AWQ_F32, FRESH, N);

    awq_search_result result;
    awq_struct_init(&result, sizeof result);
    awq_status status;
    if ((status = awq_context_create(NULL, &ctx)) != AWQ_OK) goto done; /* the CPU, all its cores */
    if ((status = awq_calibration_create(ctx, K, NULL, &calibration)) != AWQ_OK) goto done;
    if ((status = awq_calibration_observe(calibration, &a)) != AWQ_OK) goto done; /* as often as there are batches */
    if ((status = awq_search_create(ctx, calibration, NULL, &search)) != AWQ_OK) goto done;
    if ((status = awq_search_add_weight(search, &w)) != AWQ_OK) goto done;
    if ((status = awq_search_run(search)) != AWQ_OK) goto done;
    if ((status = awq_search_get_result(search, &result)) != AWQ_OK) goto done;
    printf("search: alpha %.2f, loss %.3g instead of %.3g with plain rounding\n", result.alpha, result.loss,
           result.loss_identity);

    if ((status = run(ctx, &w, NULL, &x, &y)) != AWQ_OK) goto done;
    printf("fresh tokens, plain rounding: relative error %.4f\n", error_of(fresh, weights, product));
    if ((status = run(ctx, &w, search, &x, &y)) != AWQ_OK) goto done;
    printf("fresh tokens, AWQ:            relative error %.4f\n", error_of(fresh, weights, product));
done:
    if (status != AWQ_OK) fprintf(stderr, "%s: %s\n", awq_status_name(status), awq_last_error());
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    awq_context_destroy(ctx); /* any order is fine, and so is NULL */
    return status == AWQ_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
