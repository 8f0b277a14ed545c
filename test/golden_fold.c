/* Section 6: folding scales into the operation before, scaling the columns of what follows, applying clip limits. */
#include "golden.h"
#include "scaled.h"

#include <stdio.h>
#include <string.h>

static bool is_llm_awq(const struct golden_case *test)
{
    return strcmp(golden_peer(test), "llm-awq") == 0;
}

static bool function_is(const struct golden_case *test, const char *name)
{
    return strncmp(golden_function(test), name, strlen(name)) == 0;
}

static int64_t elements_of(const awq_tensor *tensor)
{
    int64_t elements = 1;
    for (int32_t i = 0; i < tensor->ndim; i++) elements *= tensor->shape[i];
    return elements;
}

/* A writable copy of an input; NULL when the case has none of that name. */
static awq_tensor *copy_input(struct golden_case *test, const char *name)
{
    const awq_tensor *input = golden_has_input(test, name) ? golden_input(test, name) : NULL;
    if (input == NULL) return NULL;
    awq_tensor *copy = golden_tensor(test, input->dtype, input->ndim, input->shape);
    memcpy(copy->data, input->data, (size_t)elements_of(input) * awq_dtype_size(input->dtype));
    return copy;
}

/* Columns times scales, as the library forms W s before it quantises; llm-awq's scales have the dtype of the weight. */
static void compare_columns(struct golden_case *test, const awq_tensor *scales, const char *name)
{
    awq_tensor *w = copy_input(test, name);
    if (w == NULL) return;
    int64_t k = w->shape[1];
    float *rounded = golden_allocate(test, (size_t)k * sizeof *rounded);
    float *row = golden_allocate(test, (size_t)k * sizeof *row);
    for (int64_t i = 0; i < k; i++)
        rounded[i] = awqi_round_to(is_llm_awq(test) ? w->dtype : AWQ_F32, ((const float *)scales->data)[i]);
    const struct awqi_scaled scaled = {golden_input(test, name), rounded, w->dtype};
    for (int64_t i = 0; i < w->shape[0]; i++) {
        awqi_scaled_load(&scaled, i, 0, row, k);
        awqi_store_row(w, i, row, k);
    }
    golden_compare(test, name, w);
}

static void compare_consumers(struct golden_case *test, const awq_tensor *scales)
{
    static const char *const names[] = {"fc_weight", "fc0_weight", "fc1_weight", "fc2_weight"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) compare_columns(test, scales, names[i]);
}

static void fill_options(const struct golden_case *test, awq_fold_options *options)
{
    awq_struct_init(options, sizeof *options);
    options->profile = is_llm_awq(test) ? AWQ_PROFILE_LLM_AWQ : AWQ_PROFILE_AUTOAWQ;
    if (strncmp(golden_string(test, "norm", ""), "gemma", 5) == 0) options->flags = AWQ_FOLD_ONE_PLUS_WEIGHT;
}

static void fold_norm(struct golden_case *test, const awq_tensor *scales)
{
    awq_fold_options options;
    fill_options(test, &options);
    awq_tensor *weight = copy_input(test, "ln_weight"), *bias = copy_input(test, "ln_bias");
    if (!golden_ok(test, awq_fold_norm(golden_context(test), scales, weight, bias, &options), "awq_fold_norm")) return;
    golden_compare(test, "ln_weight", weight);
    if (bias != NULL) golden_compare(test, "ln_bias", bias);
    compare_consumers(test, scales);
}

static void fold_linear(struct golden_case *test, const awq_tensor *scales)
{
    awq_fold_options options;
    fill_options(test, &options);
    awq_tensor *weight = copy_input(test, "fc1_weight"), *bias = copy_input(test, "fc1_bias");
    if (!golden_ok(test, awq_fold_linear(golden_context(test), scales, weight, bias, &options), "awq_fold_linear"))
        return;
    golden_compare(test, "fc1_weight", weight);
    if (bias != NULL) golden_compare(test, "fc1_bias", bias);
    compare_columns(test, scales, "fc2_weight");
    compare_columns(test, scales, "fcs0_weight");
    compare_columns(test, scales, "fcs1_weight");
}

/* The library divides sampled inputs inside the clip search; dividing an activation's factors is the same operation. */
static void divide_inputs(struct golden_case *test, const awq_tensor *scales)
{
    awq_fold_options options;
    fill_options(test, &options);
    awq_tensor *x = copy_input(test, "x");
    if (x == NULL) return;
    int64_t k = x->shape[1];
    for (int64_t i = 0; i < x->shape[0]; i++) {
        awq_tensor row;
        awq_tensor_init_1d(&row, (char *)x->data + (size_t)(i * k) * awq_dtype_size(x->dtype), x->dtype, k);
        if (!golden_ok(test, awq_fold_activation(golden_context(test), scales, &row, &options), "awq_fold_activation"))
            return;
    }
    golden_compare(test, "x", x);
}

/* ---- clip limits */

/* Codes, scales and zeros of a quantised weight, as one string of bytes. */
static size_t export_bytes(struct golden_case *test, const awq_tensor *w, const awq_tensor *clip, unsigned char **bytes)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = golden_integer(test, "group_size", 0);
    options.profile = is_llm_awq(test) ? AWQ_PROFILE_LLM_AWQ : AWQ_PROFILE_AUTOAWQ;
    options.scale_dtype = w->dtype;
    options.clip = clip;
    int64_t n = w->shape[0], k = w->shape[1], groups = k / options.group_size;
    size_t scales_at = (size_t)(n * k), zeros_at = scales_at + (size_t)(n * groups) * sizeof(float);
    *bytes = golden_allocate(test, zeros_at + (size_t)(n * groups));
    awq_tensor codes, scales, zeros;
    awq_tensor_init_2d(&codes, *bytes, AWQ_U8, n, k);
    awq_tensor_init_2d(&scales, *bytes + scales_at, AWQ_F32, n, groups);
    awq_tensor_init_2d(&zeros, *bytes + zeros_at, AWQ_U8, n, groups);
    awq_weight *weight = NULL;
    if (!golden_ok(test, awq_quantize(golden_context(test), w, NULL, &options, &weight), "awq_quantize")) return 0;
    bool ok = golden_ok(test, awq_weight_export(weight, &codes, &scales, &zeros, NULL), "awq_weight_export");
    awq_weight_destroy(weight);
    return ok ? zeros_at + (size_t)(n * groups) : 0;
}

/* Limits are applied on the way to the codes: quantising the weight with them must give what quantising the peer's
 * clipped weight without them gives. */
static void apply_clip(struct golden_case *test)
{
    const awq_tensor *w = golden_input(test, "weight"), *max = golden_input(test, "max_val");
    const awq_tensor *clipped = golden_expected(test, "weight");
    if (w == NULL || max == NULL || clipped == NULL) return;
    awq_tensor limits;
    awq_tensor_init_const_2d(&limits, max->data, AWQ_F32, max->shape[0], max->shape[1]);
    unsigned char *actual, *expected;
    size_t size = export_bytes(test, w, &limits, &actual);
    if (size == 0 || export_bytes(test, clipped, NULL, &expected) != size) return;
    if (memcmp(actual, expected, size) != 0) golden_fail(test, "weight: clipping changes the codes, scales or zeros");
}

void golden_fold(struct golden_case *test)
{
    if (function_is(test, "apply_clip")) {
        apply_clip(test);
        return;
    }
    const awq_tensor *scales = golden_input(test, "scales");
    if (scales == NULL) return;
    if (function_is(test, "scale_ln_fcs")) {
        fold_norm(test, scales);
    } else if (function_is(test, "scale_fc_fc")) { /* and scale_fc_fcs */
        fold_linear(test, scales);
    } else if (function_is(test, "scale_gelu_fc")) {
        compare_consumers(test, scales);
    } else if (function_is(test, "apply_scale")) {
        divide_inputs(test, scales);
    } else {
        golden_fail(test, "no such function: %s", golden_function(test));
    }
}
