/* awq_quantize: what it computes, what it counts, and what it refuses. */
#include "scratch.h"
#include "support.h"

#include <float.h>

enum { N = 5 };

static awq_quantize_options default_options(void)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    return options;
}

/* Everything a weight holds, copied out. */
struct parts {
    awq_weight_info info;
    uint8_t *codes, *zeros;
    float *scales, *values;
};

static struct parts open_weight(const awq_weight *weight)
{
    struct parts parts;
    awq_struct_init(&parts.info, sizeof parts.info);
    assert_status(awq_weight_get_info(weight, &parts.info), AWQ_OK);
    int64_t n = parts.info.n, k = parts.info.k, groups = parts.info.groups;
    parts.codes = malloc((size_t)(n * k));
    parts.values = malloc((size_t)(n * k) * sizeof(float));
    parts.zeros = malloc((size_t)(n * groups));
    parts.scales = malloc((size_t)(n * groups) * sizeof(float));
    awq_tensor codes, scales, zeros, values;
    awq_tensor_init_2d(&codes, parts.codes, AWQ_U8, n, k);
    awq_tensor_init_2d(&scales, parts.scales, AWQ_F32, n, groups);
    awq_tensor_init_2d(&zeros, parts.zeros, AWQ_U8, n, groups);
    awq_tensor_init_2d(&values, parts.values, AWQ_F32, n, k);
    assert_status(awq_weight_export(weight, &codes, &scales, &zeros, NULL), AWQ_OK);
    assert_status(awq_weight_dequantize(weight, 0, &values), AWQ_OK);
    return parts;
}

static void close_parts(struct parts *parts)
{
    free(parts->codes);
    free(parts->zeros);
    free(parts->scales);
    free(parts->values);
}

static awq_weight *quantize(struct scratch *scratch, const float *w, int64_t n, int64_t k,
                            const awq_quantize_options *options)
{
    awq_tensor view;
    awq_weight *weight;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, n, k);
    assert_status(awq_quantize(scratch->context, &view, NULL, options, &weight), AWQ_OK);
    return weight;
}

/* ---- the EXACT profile against its definition, one element at a time */

struct definition {
    int32_t bits, scale_dtype;
    bool symmetric;
};

static float stored_scale(struct definition rule, const float *w, int64_t count)
{
    float min = 0.0f, max = 0.0f, top = (float)((1 << rule.bits) - 1), half = (float)((1 << (rule.bits - 1)) - 1);
    for (int64_t i = 0; i < count; i++) {
        min = fminf(min, w[i]);
        max = fmaxf(max, w[i]);
    }
    if (min == 0.0f && max == 0.0f) return 1.0f;
    float scale = rule.symmetric ? fmaxf(max, -min) / half : (max - min) / top;
    return awqi_round_to(rule.scale_dtype, scale);
}

static void check_group(struct definition rule, const float *w, int64_t count, const uint8_t *codes, float scale,
                        uint8_t zero)
{
    float top = (float)((1 << rule.bits) - 1), min = 0.0f;
    for (int64_t i = 0; i < count; i++) min = fminf(min, w[i]);
    assert_true(scale == stored_scale(rule, w, count));
    float expected_zero = rule.symmetric ? (top + 1.0f) / 2.0f : fminf(fmaxf(-rintf(min / scale), 0.0f), top);
    assert_true((float)zero == expected_zero);
    for (int64_t i = 0; i < count; i++)
        assert_true((float)codes[i] == fminf(fmaxf(rintf(w[i] / scale) + expected_zero, 0.0f), top));
}

static void check_against_definition(struct scratch *scratch, uint64_t *seed, struct definition rule, int64_t n,
                                     int64_t k, int64_t group_size, int32_t dtype)
{
    void *w = random_array(seed, dtype, n * k, 0.1f);
    awq_quantize_options options = default_options();
    options.bits = rule.bits;
    options.group_size = group_size;
    options.flags = rule.symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    options.scale_dtype = rule.scale_dtype;
    awq_tensor view;
    awq_weight *weight;
    awq_tensor_init_const_2d(&view, w, dtype, n, k);
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_OK);
    struct parts parts = open_weight(weight);
    int64_t size = group_size == AWQ_GROUP_PER_ROW ? k : group_size;
    assert_int_equal(parts.info.groups, (k + size - 1) / size);
    assert_int_equal(parts.info.group_size, size);
    assert_int_equal(parts.info.clamped_scales, 0);
    float *row = malloc((size_t)k * sizeof *row);
    for (int64_t i = 0; i < n; i++) {
        awqi_load_row(&view, i, row, k);
        for (int64_t g = 0; g < parts.info.groups; g++) {
            int64_t begin = g * size, count = begin + size < k ? size : k - begin, at = i * parts.info.groups + g;
            check_group(rule, row + begin, count, parts.codes + i * k + begin, parts.scales[at], parts.zeros[at]);
        }
    }
    free(row);
    free(w);
    close_parts(&parts);
    awq_weight_destroy(weight);
}

static void test_exact_follows_its_definition(void **state)
{
    static const int32_t all_bits[] = {2, 3, 4, 8}, dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    static const int64_t inputs[] = {1, 7, 64, 129, 300}, groups[] = {1, 3, 16, 32, 100, 512, AWQ_GROUP_PER_ROW};
    uint64_t seed = 2024;
    for (int round = 0; round < 168; round++) {
        struct definition rule = {all_bits[round % 4], dtypes[round / 4 % 3], round / 12 % 2 != 0};
        int64_t k = inputs[random_bits(&seed) % 5], group = groups[round % 7];
        check_against_definition(*state, &seed, rule, 1 + (int64_t)(random_bits(&seed) % 9), k, group,
                                 dtypes[random_bits(&seed) % 3]);
    }
}

static void test_error_is_bounded_by_the_scale(void **state)
{
    uint64_t seed = 7;
    const int64_t k = 256, group = 32;
    float *w = random_array(&seed, AWQ_F32, N * k, 1.0f);
    awq_quantize_options options = default_options();
    options.group_size = group;
    awq_weight *weight = quantize(*state, w, N, k, &options);
    struct parts parts = open_weight(weight);
    for (int64_t i = 0; i < N * k; i++)
        /* Half a step, half a step more where the zero point was rounded, and what F16 took off 15 steps. */
        assert_true(fabsf(parts.values[i] - w[i]) <= parts.scales[i / group] * (1.0f + 15.0f * 0x1p-11f));
    close_parts(&parts);
    awq_weight_destroy(weight);
    free(w);
}

static void test_one_signed_groups(void **state)
{
    const float w[] = {0.1f, 0.2f, 0.25f, 0.3f, -0.1f, -0.2f, -0.25f, -0.3f};
    awq_quantize_options options = default_options();
    options.group_size = 4;
    awq_weight *weight = quantize(*state, w, 1, 8, &options);
    struct parts parts = open_weight(weight);
    for (int i = 0; i < 8; i++) assert_true(fabsf(parts.values[i] - w[i]) <= 0.011f);
    close_parts(&parts);
    awq_weight_destroy(weight);

    options.profile = AWQ_PROFILE_AUTOAWQ; /* as the peer does, the range is 0.2 wide and cannot hold 0.3 */
    weight = quantize(*state, w, 1, 8, &options);
    parts = open_weight(weight);
    assert_true(fabsf(parts.values[3] - 0.2f) < 1e-3f && fabsf(parts.values[7] + 0.2f) < 1e-3f);
    close_parts(&parts);
    awq_weight_destroy(weight);
}

static void test_groups_of_zeros(void **state)
{
    static const float w[64] = {[3] = -0.0f, [40] = 0.5f};
    for (uint32_t flags = 0; flags <= AWQ_QUANTIZE_SYMMETRIC; flags++) {
        awq_quantize_options options = default_options();
        options.group_size = 16;
        options.flags = flags;
        awq_weight *weight = quantize(*state, w, 1, 64, &options);
        struct parts parts = open_weight(weight);
        assert_int_equal(parts.info.zero_groups, 3);
        assert_int_equal(parts.info.clamped_scales, 0);
        for (int g = 0; g < 4; g++) assert_true(g == 2 || parts.scales[g] == 1.0f);
        for (int i = 0; i < 64; i++) assert_true(i == 40 ? parts.values[i] > 0.49f : parts.values[i] == 0.0f);
        for (int i = 0; i < 16; i++) assert_int_equal(parts.codes[i], parts.zeros[0]);
        close_parts(&parts);
        awq_weight_destroy(weight);
    }
}

static void test_scales_that_do_not_fit_are_clamped_and_counted(void **state)
{
    const float w[] = {1e-12f, -1e-12f, 1e7f, -1e7f, FLT_MAX, -FLT_MAX, 1.0f, 0.5f};
    awq_quantize_options options = default_options();
    options.group_size = 2;
    awq_weight *weight = quantize(*state, w, 1, 8, &options);
    struct parts parts = open_weight(weight);
    assert_int_equal(parts.info.clamped_scales, 3);
    assert_true(parts.scales[0] == 0x1p-24f && parts.scales[1] == 65504.0f && parts.scales[2] == 65504.0f);
    for (int i = 0; i < 8; i++) assert_true(isfinite(parts.values[i]));
    assert_true(parts.values[3] == -15.0f * 65504.0f);
    close_parts(&parts);
    awq_weight_destroy(weight);

    options.scale_dtype = AWQ_F32; /* a range beyond F32 whose 15th part is within */
    weight = quantize(*state, w, 1, 8, &options);
    parts = open_weight(weight);
    assert_int_equal(parts.info.clamped_scales, 0);
    assert_true(fabsf(parts.values[4] / FLT_MAX - 1.0f) < 0.07f);
    close_parts(&parts);
    awq_weight_destroy(weight);
}

/* ---- profiles */

static void test_peers_compute_in_the_dtype_of_the_weight(void **state)
{
    struct scratch *scratch = *state;
    /* (0.7 - -0.2) / 15 in F16 differs from the F32 quotient rounded to F16. */
    const float values[] = {0.7f, -0.2f, 0.1f, 0.33f};
    uint16_t halves[4];
    float rounded[4];
    awqi_from_f32(AWQ_F16, values, halves, 4);
    awqi_to_f32(AWQ_F16, halves, rounded, 4);
    float range = awqi_round_to(AWQ_F16, rounded[0] - rounded[1]), scale = awqi_round_to(AWQ_F16, range / 15.0f);
    awq_quantize_options options = default_options();
    options.profile = AWQ_PROFILE_AUTOAWQ;
    awq_tensor view;
    awq_weight *weight;
    awq_tensor_init_const_2d(&view, halves, AWQ_F16, 1, 4);
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_OK);
    struct parts parts = open_weight(weight);
    assert_true(parts.scales[0] == scale);
    close_parts(&parts);
    awq_weight_destroy(weight);
}

static void test_storage_changes_codes_in_exact_only(void **state)
{
    uint64_t seed = 6;
    const int64_t k = 512;
    float *w = random_array(&seed, AWQ_F32, N * k, 0.1f);
    for (int32_t profile = AWQ_PROFILE_EXACT; profile <= AWQ_PROFILE_LLM_AWQ; profile++) {
        awq_quantize_options options = default_options();
        options.bits = 8;
        options.profile = profile;
        awq_weight *narrow = quantize(*state, w, N, k, &options);
        options.scale_dtype = AWQ_F32;
        awq_weight *wide = quantize(*state, w, N, k, &options);
        struct parts a = open_weight(narrow), b = open_weight(wide);
        bool same_codes = memcmp(a.codes, b.codes, N * (size_t)k) == 0;
        assert_true(same_codes == (profile != AWQ_PROFILE_EXACT));
        for (int64_t i = 0; profile != AWQ_PROFILE_EXACT && i < N * 4; i++)
            assert_true(a.scales[i] == awqi_round_to(AWQ_F16, b.scales[i]));
        close_parts(&a);
        close_parts(&b);
        awq_weight_destroy(narrow);
        awq_weight_destroy(wide);
    }
    free(w);
}

static void test_peer_floor(void **state)
{
    const float w[] = {0.05f, 0.05f, 0.05f, 0.05f};
    awq_quantize_options options = default_options();
    options.scale_dtype = AWQ_F32;
    options.profile = AWQ_PROFILE_LLM_AWQ;
    awq_weight *weight = quantize(*state, w, 1, 4, &options);
    struct parts parts = open_weight(weight);
    assert_true(parts.scales[0] == 1e-5f / 15.0f);
    close_parts(&parts);
    awq_weight_destroy(weight);
}

static void test_peer_range_that_overflows_is_refused(void **state)
{
    struct scratch *scratch = *state;
    uint16_t w[600 * 2] = {0};
    w[2 * 515] = 0x7bff; /* row 515: 65504 and -65504 */
    w[2 * 515 + 1] = 0xfbff;
    awq_quantize_options options = default_options();
    options.profile = AWQ_PROFILE_AUTOAWQ;
    awq_tensor view;
    awq_weight *weight = (awq_weight *)w;
    awq_tensor_init_const_2d(&view, w, AWQ_F16, 600, 2);
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_ERROR_NON_FINITE);
    assert_null(weight);
    assert_error_names("counting rows from 512: row 3, group 0");
    w[2 * 515 + 1] = 0; /* 65504 alone is within */
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_OK);
    awq_weight_destroy(weight);
}

/* ---- input scale and clip */

static void test_input_scale(void **state)
{
    uint64_t seed = 3;
    const int64_t k = 96;
    float *w = random_array(&seed, AWQ_F32, N * k, 1.0f), scaled[N * 96], scale[96];
    for (int64_t j = 0; j < k; j++) scale[j] = 0.25f + 3.0f * (float)random_uniform(&seed);
    for (int64_t i = 0; i < N * k; i++) scaled[i] = w[i] * scale[i % k];
    awq_tensor view;
    awq_tensor_init_const_1d(&view, scale, AWQ_F32, k);
    awq_quantize_options options = default_options();
    options.group_size = 32;
    awq_weight *plain = quantize(*state, scaled, N, k, &options);
    options.input_scale = &view;
    awq_weight *weight = quantize(*state, w, N, k, &options);
    options.flags = AWQ_QUANTIZE_INPUT_SCALE_FOLDED;
    awq_weight *folded = quantize(*state, w, N, k, &options);

    struct parts a = open_weight(plain), b = open_weight(weight), c = open_weight(folded);
    assert_memory_equal(a.codes, b.codes, N * (size_t)k);
    assert_memory_equal(a.codes, c.codes, N * (size_t)k);
    assert_memory_equal(a.scales, b.scales, N * 3 * sizeof(float));
    assert_true(!a.info.has_input_scale && b.info.has_input_scale && !c.info.has_input_scale);
    assert_int_equal(c.info.flags, 0);
    float recorded[96];
    awq_tensor out;
    awq_tensor_init_1d(&out, recorded, AWQ_F32, k);
    assert_status(awq_weight_export(weight, NULL, NULL, NULL, &out), AWQ_OK);
    assert_memory_equal(recorded, scale, sizeof scale);
    close_parts(&a);
    close_parts(&b);
    close_parts(&c);
    awq_weight_destroy(plain);
    awq_weight_destroy(weight);
    awq_weight_destroy(folded);
    free(w);
}

static void test_clip(void **state)
{
    uint64_t seed = 4;
    const int64_t k = 80, groups = 3; /* the last one short */
    float *w = random_array(&seed, AWQ_F32, N * k, 1.0f), clamped[N * 80], limits[N * 3];
    for (int64_t i = 0; i < N * groups; i++) limits[i] = i % 4 == 3 ? INFINITY : 0.5f + (float)random_uniform(&seed);
    for (int64_t i = 0; i < N * k; i++) {
        float limit = limits[i / k * groups + i % k / 32];
        clamped[i] = fminf(fmaxf(w[i], -limit), limit);
    }
    awq_tensor view;
    awq_tensor_init_const_2d(&view, limits, AWQ_F32, N, groups);
    awq_quantize_options options = default_options();
    options.group_size = 32;
    awq_weight *expected = quantize(*state, clamped, N, k, &options);
    options.clip = &view;
    awq_weight *weight = quantize(*state, w, N, k, &options);
    struct parts a = open_weight(expected), b = open_weight(weight);
    assert_memory_equal(a.codes, b.codes, N * (size_t)k);
    assert_memory_equal(a.values, b.values, N * (size_t)k * sizeof(float));
    close_parts(&a);
    close_parts(&b);
    awq_weight_destroy(expected);
    awq_weight_destroy(weight);
    free(w);
}

/* ---- refusals */

static void refuse(struct scratch *scratch, const awq_tensor *w, const awq_quantize_options *options,
                   awq_status expected, const char *text)
{
    awq_weight *weight = (awq_weight *)scratch;
    assert_status(awq_quantize(scratch->context, w, NULL, options, &weight), expected);
    assert_null(weight);
    assert_error_names(text);
}

static void test_non_finite_values_are_named(void **state)
{
    static const struct {
        int64_t row, column;
        float value;
    } bad[] = {{0, 0, NAN}, {3, 299, INFINITY}, {4, 256, -INFINITY}};
    static float w[N * 300];
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, N, 300);
    for (size_t i = 0; i < 3; i++) {
        memset(w, 0, sizeof w);
        w[bad[i].row * 300 + bad[i].column] = bad[i].value;
        w[N * 300 - 1] = NAN; /* the first one is named, whichever thread saw which */
        char text[64];
        snprintf(text, sizeof text, "row %d, column %d is", (int)bad[i].row, (int)bad[i].column);
        refuse(*state, &view, NULL, AWQ_ERROR_NON_FINITE, text);
    }
    memset(w, 0, sizeof w);
    w[2 * 300 + 5] = 2e38f;
    float scale[300];
    for (int i = 0; i < 300; i++) scale[i] = 2.0f;
    awq_tensor scale_view;
    awq_tensor_init_const_1d(&scale_view, scale, AWQ_F32, 300);
    awq_quantize_options options = default_options();
    options.input_scale = &scale_view;
    refuse(*state, &view, &options, AWQ_ERROR_NON_FINITE, "row 2, column 5 is 2e+38, which overflows");
}

static void test_options_are_checked(void **state)
{
    static const float w[64];
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 2, 32);
    static const struct {
        int32_t bits;
        int64_t group_size;
        uint32_t flags;
        int32_t profile, scale_dtype, salient_rule;
        double salient_fraction;
        awq_status status;
        const char *text;
    } cases[] = {
        {.bits = 5, .status = AWQ_ERROR_INVALID, .text = "bits is 5"},
        {.bits = -4, .status = AWQ_ERROR_INVALID, .text = "bits is -4"},
        {.group_size = -2, .status = AWQ_ERROR_INVALID, .text = "group_size is -2"},
        {.flags = 4, .status = AWQ_ERROR_INVALID, .text = "0x4"},
        {.profile = 3, .status = AWQ_ERROR_INVALID, .text = "profile 3"},
        {.scale_dtype = AWQ_U8, .status = AWQ_ERROR_INVALID, .text = "scale_dtype U8"},
        {.scale_dtype = 99, .status = AWQ_ERROR_INVALID, .text = "scale_dtype unknown (99)"},
        {.salient_rule = 3, .status = AWQ_ERROR_INVALID, .text = "salient_rule 3"},
        {.salient_fraction = 1.5, .status = AWQ_ERROR_INVALID, .text = "1.5"},
        {.salient_fraction = NAN, .status = AWQ_ERROR_INVALID, .text = "salient_fraction"},
        {.salient_fraction = -0.01, .status = AWQ_ERROR_INVALID, .text = "-0.01"},
        {.salient_fraction = 0.01, .status = AWQ_ERROR_INVALID, .text = "by activation"},
        {.flags = 1, .profile = AWQ_PROFILE_LLM_AWQ, .status = AWQ_ERROR_UNSUPPORTED, .text = "symmetric"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_quantize_options options = default_options();
        options.bits = cases[i].bits;
        options.group_size = cases[i].group_size;
        options.flags = cases[i].flags;
        options.profile = cases[i].profile;
        options.scale_dtype = cases[i].scale_dtype;
        options.salient_rule = cases[i].salient_rule;
        options.salient_fraction = cases[i].salient_fraction;
        refuse(*state, &view, &options, cases[i].status, cases[i].text);
    }
}

static void test_tensors_are_checked(void **state)
{
    struct scratch *scratch = *state;
    static const float w[64];
    awq_weight *weight;
    awq_tensor good, bad;
    awq_tensor_init_const_2d(&good, w, AWQ_F32, 2, 32);
    assert_status(awq_quantize(NULL, &good, NULL, NULL, &weight), AWQ_ERROR_INVALID);
    assert_status(awq_quantize(scratch->context, &good, NULL, NULL, NULL), AWQ_ERROR_INVALID);
    refuse(scratch, NULL, NULL, AWQ_ERROR_INVALID, "w is NULL");
    awq_tensor_init_const_1d(&bad, w, AWQ_F32, 64);
    refuse(scratch, &bad, NULL, AWQ_ERROR_INVALID, "1 dimensions");
    awq_tensor_init_const_2d(&bad, w, AWQ_I32, 2, 32);
    refuse(scratch, &bad, NULL, AWQ_ERROR_INVALID, "I32");
    awq_tensor_init_const_2d(&bad, w, AWQ_F32, 0, 32);
    refuse(scratch, &bad, NULL, AWQ_ERROR_INVALID, "no elements");
    awq_tensor_init_const_2d(&bad, NULL, AWQ_F32, 2, 32);
    refuse(scratch, &bad, NULL, AWQ_ERROR_INVALID, "data is NULL");

    awq_quantize_options options = default_options();
    options.input_scale = &good;
    refuse(scratch, &good, &options, AWQ_ERROR_INVALID, "input_scale");
    static const float scales[32] = {1.0f, 0.0f};
    awq_tensor scale;
    awq_tensor_init_const_1d(&scale, scales, AWQ_F32, 32);
    options.input_scale = &scale;
    refuse(scratch, &good, &options, AWQ_ERROR_INVALID, "column 1 is 0");
    static const float infinite[32] = {INFINITY};
    awq_tensor_init_const_1d(&scale, infinite, AWQ_F32, 32);
    refuse(scratch, &good, &options, AWQ_ERROR_NON_FINITE, "column 0 is inf");

    options = default_options();
    float limits[2] = {1.0f, -1.0f};
    awq_tensor clip;
    awq_tensor_init_const_2d(&clip, limits, AWQ_F32, 1, 2);
    options.clip = &clip;
    refuse(scratch, &good, &options, AWQ_ERROR_INVALID, "clip: shape [1][2]");
    awq_tensor_init_const_2d(&clip, limits, AWQ_F32, 2, 1);
    refuse(scratch, &good, &options, AWQ_ERROR_INVALID, "row 1, group 0 is -1");
    limits[1] = NAN;
    refuse(scratch, &good, &options, AWQ_ERROR_NON_FINITE, "row 1, group 0");
}

static void test_allocations_may_fail(void **state)
{
    struct scratch *scratch = *state;
    static const float w[64] = {1.0f}, ones[64] = {[0 ... 63] = 1.0f};
    awq_tensor view, scale, clip;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 2, 32);
    awq_tensor_init_const_1d(&scale, ones, AWQ_F32, 32);
    awq_tensor_init_const_2d(&clip, ones, AWQ_F32, 2, 1);
    awq_quantize_options options = default_options();
    options.input_scale = &scale;
    options.clip = &clip;
    awq_weight *weight = NULL;
    for (int64_t allowed = 0; weight == NULL; allowed++) {
        scratch->allocations_left = allowed;
        awq_status status = awq_quantize(scratch->context, &view, NULL, &options, &weight);
        assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
        assert_true(allowed < 100);
    }
    scratch->allocations_left = -1;
    awq_weight_destroy(weight);
}

/* ---- views and threads */

static void test_strided_views(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 11;
    float *w = random_array(&seed, AWQ_F32, 48 * N, 1.0f), turned[48 * N];
    for (int i = 0; i < N; i++)
        for (int j = 0; j < 48; j++) turned[j * N + i] = w[i * 48 + j];
    awq_tensor view;
    awq_tensor_init_const_2d(&view, turned, AWQ_F32, N, 48);
    view.strides[0] = 1;
    view.strides[1] = N;
    awq_weight *strided, *plain = quantize(scratch, w, N, 48, NULL);
    assert_status(awq_quantize(scratch->context, &view, NULL, NULL, &strided), AWQ_OK);
    struct parts a = open_weight(plain), b = open_weight(strided);
    assert_memory_equal(a.values, b.values, 48 * N * sizeof(float));
    close_parts(&a);
    close_parts(&b);
    awq_weight_destroy(plain);
    awq_weight_destroy(strided);
    free(w);
}

static void test_any_number_of_threads_gives_the_same_bytes(void **state)
{
    (void)state;
    static const int32_t counts[] = {1, 2, 7};
    uint64_t seed = 5;
    const int64_t n = 1100, k = 70;
    float *w = random_array(&seed, AWQ_F32, n * k, 1.0f);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, n, k);
    struct parts first = {.codes = NULL};
    for (int i = 0; i < 3; i++) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = counts[i];
        awq_context *context;
        awq_weight *weight;
        assert_status(awq_context_create(&options, &context), AWQ_OK);
        assert_status(awq_quantize(context, &view, NULL, NULL, &weight), AWQ_OK);
        struct parts parts = open_weight(weight);
        if (i == 0) {
            first = parts;
        } else {
            assert_memory_equal(parts.codes, first.codes, (size_t)(n * k));
            assert_memory_equal(parts.scales, first.scales, (size_t)n * sizeof(float));
            assert_memory_equal(parts.zeros, first.zeros, (size_t)n);
            close_parts(&parts);
        }
        awq_weight_destroy(weight);
        awq_context_destroy(context);
    }
    close_parts(&first);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_exact_follows_its_definition),
        SCRATCH_TEST(test_error_is_bounded_by_the_scale),
        SCRATCH_TEST(test_one_signed_groups),
        SCRATCH_TEST(test_groups_of_zeros),
        SCRATCH_TEST(test_scales_that_do_not_fit_are_clamped_and_counted),
        SCRATCH_TEST(test_peers_compute_in_the_dtype_of_the_weight),
        SCRATCH_TEST(test_storage_changes_codes_in_exact_only),
        SCRATCH_TEST(test_peer_floor),
        SCRATCH_TEST(test_peer_range_that_overflows_is_refused),
        SCRATCH_TEST(test_input_scale),
        SCRATCH_TEST(test_clip),
        SCRATCH_TEST(test_non_finite_values_are_named),
        SCRATCH_TEST(test_options_are_checked),
        SCRATCH_TEST(test_tensors_are_checked),
        SCRATCH_TEST(test_allocations_may_fail),
        SCRATCH_TEST(test_strided_views),
        SCRATCH_TEST(test_any_number_of_threads_gives_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
