/* Lesson 2: three projections that share an input, and a norm that takes over their scales.
 *
 * q, k and v read the same normalised activations, so they are searched together and get one set of scales s.  Dividing the norm's
 * weight by s and quantising W s leaves the float model as it was, and the quantised weights need no scale of their own at run
 * time.  The clip search then shrinks each group's range where that lowers its error.
 *
 * Introduces: joint search, fold, clip search, concatenate, the folded flag. */
#include <awq.h>
#include <stdio.h>
#include <stdlib.h>

enum { K = 128, N = 64, TOKENS = 256, PROJECTIONS = 3 };

static float noise(void)
{
    static unsigned state = 2;
    state = state * 1664525u + 1013904223u;
    return (float)(state >> 8) / 16777216.0f - 0.5f;
}

#define TRY(call) if ((status = (call)) != AWQ_OK) goto done

int main(void)
{
    static float weights[PROJECTIONS][N * K], x[TOKENS * K], norm[K], limits[N * 2], scales[K];
    for (int p = 0; p < PROJECTIONS; p++)
        for (int i = 0; i < N * K; i++) weights[p][i] = noise() * 0.2f;
    for (int i = 0; i < TOKENS * K; i++) x[i] = noise() * (i % K == 5 ? 30.0f : 1.0f);
    for (int k = 0; k < K; k++) norm[k] = 1.0f;

    awq_status status;
    awq_context *ctx = NULL;
    awq_calibration *calibration = NULL;
    awq_search *search = NULL;
    awq_weight *parts[PROJECTIONS] = {NULL}, *fused = NULL;
    awq_tensor a, w[PROJECTIONS], gamma, s, clip;
    awq_tensor_init_const_2d(&a, x, AWQ_F32, TOKENS, K);
    awq_tensor_init_1d(&gamma, norm, AWQ_F32, K);
    awq_tensor_init_const_1d(&s, scales, AWQ_F32, K);
    awq_tensor_init_2d(&clip, limits, AWQ_F32, N, 2); /* K / 64 groups a row */

    awq_quantize_options quantize;
    awq_struct_init(&quantize, sizeof quantize);
    quantize.group_size = 64;
    quantize.flags = AWQ_QUANTIZE_INPUT_SCALE_FOLDED; /* the norm below divides by s; the weights record none */
    awq_search_options options;
    awq_struct_init(&options, sizeof options);
    options.quantize = &quantize; /* the search tries the very quantiser that will be used */

    TRY(awq_context_create(NULL, &ctx));
    TRY(awq_calibration_create(ctx, K, NULL, &calibration));
    TRY(awq_calibration_observe(calibration, &a));
    TRY(awq_search_create(ctx, calibration, &options, &search));
    for (int p = 0; p < PROJECTIONS; p++) {
        awq_tensor_init_const_2d(&w[p], weights[p], AWQ_F32, N, K);
        TRY(awq_search_add_weight(search, &w[p]));
    }
    TRY(awq_search_run(search));
    TRY(awq_search_get_scales(search, scales, K));
    TRY(awq_fold_norm(ctx, &s, &gamma, NULL, NULL));
    printf("channel 5 is scaled by %.3f, so the norm's weight there became %.3f\n", scales[5], norm[5]);

    for (int p = 0; p < PROJECTIONS; p++) {
        awq_clip_result clipped;
        awq_struct_init(&clipped, sizeof clipped);
        TRY(awq_clip_search(ctx, &w[p], calibration, search, NULL, &clip, &clipped));
        printf("projection %d: %lld of %lld groups clipped\n", p, (long long)clipped.clipped_groups, (long long)clipped.groups);
        quantize.clip = &clip;
        TRY(awq_quantize(ctx, &w[p], search, &quantize, &parts[p]));
    }
    TRY(awq_weight_concatenate(PROJECTIONS, (const awq_weight *const *)parts, &fused)); /* one product instead of three */

    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    TRY(awq_weight_get_info(fused, &info));
    printf("fused: %lld x %lld, %lld parts, %.3f bits a weight, input scale: %s\n", (long long)info.n, (long long)info.k,
           (long long)info.parts, 8.0 * (double)info.size_bytes / (double)(info.n * info.k), info.has_input_scale ? "yes" : "none");
done:
    if (status != AWQ_OK) fprintf(stderr, "%s: %s\n", awq_status_name(status), awq_last_error());
    awq_weight_destroy(fused);
    for (int p = 0; p < PROJECTIONS; p++) awq_weight_destroy(parts[p]);
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    awq_context_destroy(ctx);
    return status == AWQ_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
