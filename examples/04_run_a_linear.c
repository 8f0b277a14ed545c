/* Lesson 4: running a prepared linear the way a server does: no allocation per call, bias and residual in the product, and an answer
 * to the question which kernel runs and why.
 *
 * Introduces: describe, workspace, bias, residual, the kernel choice as a function. */
#include <awq.h>
#include <stdio.h>
#include <stdlib.h>

enum { N = 96, K = 320, MAX_ROWS = 32 }; /* any shape will do */

#define TRY(call) if ((status = (call)) != AWQ_OK) goto done

int main(void)
{
    static float values[N * K], bias[N], x[MAX_ROWS * K], y[MAX_ROWS * N];
    for (int i = 0; i < N * K; i++) values[i] = (float)((i * 31) % 97) / 97.0f - 0.5f;
    for (int n = 0; n < N; n++) bias[n] = (float)n;
    for (int i = 0; i < MAX_ROWS * K; i++) x[i] = (float)((i * 13) % 29) / 29.0f - 0.5f;

    awq_status status;
    awq_context *ctx = NULL;
    awq_weight *weight = NULL;
    awq_linear *linear = NULL;
    awq_tensor w, b, in, out;
    awq_tensor_init_const_2d(&w, values, AWQ_F32, N, K);
    awq_tensor_init_const_1d(&b, bias, AWQ_F32, N);
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.bias = &b;
    awq_run_options run;
    awq_struct_init(&run, sizeof run);

    TRY(awq_context_create(NULL, &ctx));
    TRY(awq_quantize(ctx, &w, NULL, NULL, &weight));
    TRY(awq_linear_create(ctx, weight, &options, &linear));
    run.workspace_bytes = awq_linear_workspace_size(linear, MAX_ROWS); /* once, for the largest batch */
    TRY(awq_context_allocate(ctx, run.workspace_bytes, &run.workspace));

    run.residual = &out; /* y = x W^T + b + y */
    for (int rows = 1; rows <= MAX_ROWS; rows *= 32) {
        char text[1024];
        awq_tensor_init_const_2d(&in, x, AWQ_F32, rows, K);
        awq_tensor_init_2d(&out, y, AWQ_F32, rows, N);
        for (int i = 0; i < rows * N; i++) y[i] = 1000.0f;
        TRY(awq_linear_run(linear, &in, &out, &run));
        TRY(awq_linear_describe(linear, rows, text, sizeof text, NULL));
        printf("%d row%s: y[0][95] = %.4f\n%s\n", rows, rows == 1 ? "" : "s", y[95], text);
    }
done:
    if (status != AWQ_OK) fprintf(stderr, "%s: %s\n", awq_status_name(status), awq_last_error());
    awq_context_free(ctx, run.workspace);
    awq_linear_destroy(linear);
    awq_weight_destroy(weight);
    awq_context_destroy(ctx);
    return status == AWQ_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
