/* What packed formats refuse to write and to read, what they read under other names, and how they take broken planes.
 */
#include "dlpack.h"
#include "layouts.h"

enum {
    GEMM = AWQ_LAYOUT_GEMM,
    GEMV = AWQ_LAYOUT_GEMV,
    FAST = AWQ_LAYOUT_GEMV_FAST,
    LLM_AWQ = AWQ_LAYOUT_LLM_AWQ,
    MARLIN = AWQ_LAYOUT_MARLIN,
    GPTQ_V1 = AWQ_LAYOUT_GPTQ_V1,
    GPTQ_V2 = AWQ_LAYOUT_GPTQ_V2,
    BLOCK = AWQ_LAYOUT_CUDA_BLOCK,
    STREAM = AWQ_LAYOUT_CPU_STREAM
};

/* A weight that every format holds. */
static awq_weight *common_weight(struct scratch *scratch, uint64_t *seed, bool symmetric)
{
    awq_weight *weight = random_weight(scratch, seed, 64, 128, 64, 4, AWQ_F16, symmetric);
    for (int64_t i = 0; !symmetric && i < weight->n * weight->groups; i++) weight->zeros[i] |= 1;
    return weight;
}

static awq_packed *pack(struct scratch *scratch, const awq_weight *weight, int32_t layout)
{
    awq_packed *packed;
    assert_status(awq_pack(scratch->context, weight, layout, &packed), AWQ_OK);
    return packed;
}

/* ---- writing */

static void test_what_formats_cannot_hold(void **state)
{
    static const struct {
        int32_t layout;
        int64_t n, k, group;
        int32_t bits;
        const char *text;
    } cases[] = {
        {GEMM, 12, 64, 32, 4, "gemm: the weight has 12 outputs; the format holds multiples of 8"},
        {GEMM, 10, 64, 32, 8, "gemm: the weight has 10 outputs; the format holds multiples of 4"},
        {GEMM, 8, 64, 32, 2, "gemm: the weight has 2 bits; the format holds 4, 8"},
        {GEMV, 8, 64, 32, 8, "gemv: the weight has 8 bits; the format holds 4"},
        {GEMV, 8, 172, 172, 4, "gemv: the weight has 172 inputs; the format holds multiples of 8"},
        {GEMV, 8, 96, 64, 4, "gemv: the last group has 32 of 64 inputs"},
        {GEMV, 8, 96, 16, 4, "gemv: groups of 16 inputs"},
        {GEMV, 8, 96, 96, 4, "gemv: groups of 96 inputs"},
        {FAST, 6, 64, 32, 4, "gemv_fast: the weight has 6 outputs; the format holds multiples of 4"},
        {FAST, 8, 96, 32, 4, "gemv_fast: the weight has 96 inputs; the format holds multiples of 64"},
        {LLM_AWQ, 8, 64, 16, 4, "llm-awq: groups of 16 inputs"},
        {LLM_AWQ, 8, 64, 32, 3, "llm-awq: the weight has 3 bits"},
        {MARLIN, 96, 64, 32, 4, "marlin: the weight has 96 outputs; the format holds multiples of 64"},
        {MARLIN, 64, 40, 20, 4, "marlin: the weight has 40 inputs; the format holds multiples of 16"},
        {MARLIN, 64, 96, 64, 4, "marlin: the last group has 32 of 64 inputs"},
        {MARLIN, 64, 64, 128, 4, "marlin: the last group has 64 of 128 inputs"},
        {MARLIN, 64, 64, 32, 3, "marlin: the weight has 3 bits"},
        {GPTQ_V1, 32, 80, 16, 3, "gptq: the weight has 80 inputs; the format holds multiples of 32"},
        {GPTQ_V2, 8, 32, 16, 2, "gptq_v2: the weight has 8 outputs; the format holds multiples of 16"},
        {BLOCK, 8, 96, 24, 4, "cuda-block: groups of 24 inputs; the format holds multiples of 16"},
        {BLOCK, 8, 96, 32, 3, "cuda-block: the weight has 3 bits"},
    };
    struct scratch *scratch = *state;
    uint64_t seed = 400;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight =
            random_weight(scratch, &seed, cases[i].n, cases[i].k, cases[i].group, cases[i].bits, AWQ_F16, false);
        awq_packed *packed = (awq_packed *)scratch;
        assert_status(awq_pack(scratch->context, weight, cases[i].layout, &packed), AWQ_ERROR_UNSUPPORTED);
        assert_null(packed);
        assert_error_names(cases[i].text);
        awq_weight_destroy(weight);
    }
}

static void test_input_scales_are_kept_or_refused(void **state)
{
    struct scratch *scratch = *state;
    float w[64 * 128], scales[128];
    uint64_t seed = 401;
    for (int i = 0; i < 64 * 128; i++) w[i] = random_normal(&seed);
    for (int i = 0; i < 128; i++) scales[i] = 0.5f + (float)random_uniform(&seed);
    awq_tensor view, scale;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 64, 128);
    awq_tensor_init_const_1d(&scale, scales, AWQ_F32, 128);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 64;
    options.input_scale = &scale;
    awq_weight *weight, *unpacked;
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_OK);
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_packed *packed;
        const bool kept = layout == BLOCK || layout == STREAM;
        assert_status(awq_pack(scratch->context, weight, layout, &packed), kept ? AWQ_OK : AWQ_ERROR_UNSUPPORTED);
        if (!kept) {
            assert_error_names("input scale");
            continue;
        }
        struct given given = open_packed(packed);
        assert_status(unpack(scratch, layout, &given, NULL, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        awq_weight_destroy(unpacked);
        given_plane(&given, "input_scale")->shape[0]--;
        assert_status(unpack(scratch, layout, &given, NULL, &unpacked), AWQ_ERROR_INVALID);
        assert_error_names("input_scale: shape");
        awq_packed_destroy(packed);
    }
    awq_weight_destroy(weight);
}

static void set_scale(awq_weight *weight, int64_t row, int64_t group, float value)
{
    awqi_from_f32(weight->scale_dtype, &value,
                  (char *)awqi_weight_scales(weight, row) + (size_t)group * awq_dtype_size(weight->scale_dtype), 1);
}

/* A product from which the integer does not come back is not written. */
static void test_scaled_zeros_that_lose_the_zero_point(void **state)
{
    static const struct {
        int32_t dtype;
        float scale;
        uint8_t zero;
        awq_status status;
    } cases[] = {
        {AWQ_F16, 0.0f, 3, AWQ_ERROR_UNSUPPORTED},
        {AWQ_F16, 0.0f, 0, AWQ_OK},
        {AWQ_F16, 5000.0f, 14, AWQ_ERROR_UNSUPPORTED},
        {AWQ_F16, 5000.0f, 13, AWQ_OK},
        {AWQ_F16, 0x1p-24f, 15, AWQ_OK},
        {AWQ_F16, -0.25f, 7, AWQ_OK},
        {AWQ_BF16, 0x1p-133f, 15, AWQ_OK},
        {AWQ_BF16, 3e38f, 2, AWQ_ERROR_UNSUPPORTED},
        {AWQ_F32, 3e38f, 1, AWQ_OK},
        {AWQ_F32, 3e38f, 2, AWQ_ERROR_UNSUPPORTED},
    };
    struct scratch *scratch = *state;
    uint64_t seed = 402;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight = random_weight(scratch, &seed, 4, 64, 32, 4, cases[i].dtype, false), *unpacked;
        awq_packed *packed;
        set_scale(weight, 2, 1, cases[i].scale);
        weight->zeros[2 * 2 + 1] = cases[i].zero;
        assert_status(awq_pack(scratch->context, weight, LLM_AWQ, &packed), cases[i].status);
        if (cases[i].status != AWQ_OK) {
            assert_error_names("row 2, group 1");
        } else {
            struct given given = open_packed(packed);
            awq_unpack_options options = unpack_options(4, 32, false);
            assert_status(unpack(scratch, LLM_AWQ, &given, &options, &unpacked), AWQ_OK);
            assert_same_weight(weight, unpacked);
            awq_weight_destroy(unpacked);
        }
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

static void test_gptq_v1_has_no_zero_point_of_0(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 403;
    awq_weight *weight = common_weight(scratch, &seed, false), *unpacked;
    awq_packed *packed;
    weight->zeros[3] = 0;
    assert_status(awq_pack(scratch->context, weight, GPTQ_V1, &packed), AWQ_ERROR_UNSUPPORTED);
    assert_error_names("gptq: the zero point of row 1, group 1 is 0");
    packed = pack(scratch, weight, GPTQ_V2);
    struct given given = open_packed(packed);
    assert_status(unpack(scratch, GPTQ_V2, &given, NULL, &unpacked), AWQ_OK);
    assert_same_weight(weight, unpacked);
    awq_weight_destroy(unpacked);
    awq_packed_destroy(packed);

    weight->zeros[3] = 15;
    packed = pack(scratch, weight, GPTQ_V2); /* read as v1, its 15 would be 16 */
    given = open_packed(packed);
    assert_status(unpack(scratch, GPTQ_V1, &given, NULL, &unpacked), AWQ_ERROR_UNSUPPORTED);
    assert_error_names("all ones");
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

/* ---- reading under other names, and in other memory */

static void test_other_names(void **state)
{
    static const struct {
        int32_t layout;
        bool symmetric;
        const char *written, *read;
    } cases[] = {
        {FAST, false, "qzeros", "scaled_zeros"},
        {LLM_AWQ, false, "scaled_zeros", "qzeros"},
        {MARLIN, true, "qweight", "B"},
        {MARLIN, true, "scales", "s"},
    };
    struct scratch *scratch = *state;
    uint64_t seed = 404;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight = common_weight(scratch, &seed, cases[i].symmetric), *unpacked;
        awq_packed *packed = pack(scratch, weight, cases[i].layout);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options(4, 64, cases[i].symmetric);
        const awq_tensor *plane = given_plane(&given, cases[i].written);
        given.names[given.count] = cases[i].read; /* under both */
        given.planes[given.count++] = *plane;
        assert_status(unpack(scratch, cases[i].layout, &given, &options, &unpacked), AWQ_ERROR_INVALID);
        assert_error_names("is given twice");
        given.count--;
        given.names[plane - given.planes] = cases[i].read;
        assert_status(unpack(scratch, cases[i].layout, &given, &options, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        awq_weight_destroy(unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* Read-only planes with their axes swapped in memory, or behind a gap. */
static void turn_plane(struct scratch *scratch, awq_tensor *plane, void **copy)
{
    const awq_tensor before = *plane;
    const size_t size = awq_dtype_size(plane->dtype);
    *copy = calloc(2 * (size_t)awqi_tensor_elements(plane), size);
    plane->data = *copy;
    plane->flags = 0;
    plane->strides[0] = plane->ndim == 2 ? 1 : 2;
    if (plane->ndim == 2) plane->strides[1] = 2 * plane->shape[0];
    assert_status(awq_tensor_copy(scratch->context, &before, plane, NULL), AWQ_OK);
}

static void test_planes_may_have_strides(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 405;
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight *weight = common_weight(scratch, &seed, false), *unpacked;
        awq_packed *packed = pack(scratch, weight, layout);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options(4, 64, false);
        void *copies[MAX_PLANES];
        for (size_t i = 0; i < given.count; i++) turn_plane(scratch, &given.planes[i], &copies[i]);
        assert_status(unpack(scratch, layout, &given, &options, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        for (size_t i = 0; i < given.count; i++) free(copies[i]);
        awq_weight_destroy(unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* Formats that need zero points hold a symmetric weight, and give it back to those who know that it is one. */
static void test_symmetric_weights(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 406;
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight *weight = common_weight(scratch, &seed, true), *unpacked;
        awq_packed *packed = pack(scratch, weight, layout);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options(4, 64, true);
        assert_status(unpack(scratch, layout, &given, &options, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        awq_weight_destroy(unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- broken planes */

struct damage {
    int32_t layout;
    void (*spoil)(struct given *given, awq_unpack_options *options);
    awq_status status;
    const char *text;
};

static uint32_t spoiled[4096]; /* a plane's data, to be changed; the tests' planes are no larger */

static void *copy_of(awq_tensor *plane)
{
    size_t bytes = (size_t)awqi_tensor_elements(plane) * awq_dtype_size(plane->dtype);
    assert_in_range(bytes, 1, sizeof spoiled);
    memcpy(spoiled, plane->data, bytes);
    plane->data = spoiled;
    return spoiled;
}

static void no_group_size(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->group_size = 0;
}

static void group_of_48(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->group_size = 48;
}

static void group_of_16(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->group_size = 16;
}

static void one_group(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->group_size = AWQ_GROUP_PER_ROW;
}

static void three_bits(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->bits = 3;
}

static void eight_bits(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->bits = 8;
}

static void symmetric(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->flags = AWQ_QUANTIZE_SYMMETRIC;
}

static void drop(struct given *given, const char *name)
{
    size_t i = (size_t)(given_plane(given, name) - given->planes);
    given->count--;
    given->names[i] = given->names[given->count];
    given->planes[i] = given->planes[given->count];
}

static void no_codes(struct given *given, awq_unpack_options *options)
{
    (void)options;
    drop(given, "qweight");
}

static void no_scales(struct given *given, awq_unpack_options *options)
{
    (void)options;
    drop(given, "scales");
}

static void no_zeros(struct given *given, awq_unpack_options *options)
{
    (void)options;
    drop(given, "qzeros");
}

static void no_header(struct given *given, awq_unpack_options *options)
{
    (void)options;
    drop(given, "header");
}

static void fewer_columns(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "qweight")->shape[1]--;
}

static void no_rows(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "qweight")->shape[0] = 0;
}

static void fewer_scales(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "scales")->shape[1]--;
}

static void scales_of_nan(struct given *given, awq_unpack_options *options)
{
    (void)options;
    ((uint16_t *)copy_of(given_plane(given, "scales")))[1] = 0x7e00;
}

static void words_of_halves(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "qweight")->dtype = AWQ_F16;
}

static void zeros_of_another_dtype(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "qzeros")->dtype = AWQ_BF16;
}

static void other_scaled_zero(struct given *given, awq_unpack_options *options)
{
    (void)options;
    ((uint16_t *)copy_of(given_plane(given, "qzeros")))[66]++; /* the next F16 number */
}

static void act_order(struct given *given, awq_unpack_options *options)
{
    (void)options;
    ((int32_t *)copy_of(given_plane(given, "g_idx")))[5] = 1;
}

static void short_index(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "g_idx")->shape[0]--;
}

static void wide_index(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "g_idx")->dtype = AWQ_I64;
}

static void set_field(struct given *given, int field, int64_t value)
{
    ((int64_t *)copy_of(given_plane(given, "header")))[field] = value;
}

static void next_version(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 0, 2);
}

static void header_of_no_inputs(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 2, 0);
}

static void header_of_many_outputs(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 1, INT64_MAX);
}

static void header_of_more_outputs(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 1, 65);
}

static void header_of_small_groups(struct given *given, awq_unpack_options *options)
{
    options->group_size = 0;
    set_field(given, 3, 24);
}

static void header_of_no_groups(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 3, 0);
}

static void header_of_five_bits(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 4, 5);
}

static void header_of_f32_scales(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 6, AWQ_F32);
}

static void symmetric_header(struct given *given, awq_unpack_options *options)
{
    (void)options;
    set_field(given, 5, 1);
}

static void empty_header(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "header")->shape[0] = 0;
}

static void long_header(struct given *given, awq_unpack_options *options)
{
    (void)options;
    copy_of(given_plane(given, "header"));
    given_plane(given, "header")->shape[0]++;
}

static void short_stream(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given_plane(given, "stream")->shape[1]--;
}

static void stream_scale_of_infinity(struct given *given, awq_unpack_options *options)
{
    (void)options;
    ((uint32_t *)copy_of(given_plane(given, "stream")))[1] = 0x7c003c00u;
}

static void stream_zero_of_16(struct given *given, awq_unpack_options *options)
{
    (void)options;
    ((uint32_t *)copy_of(given_plane(given, "stream")))[8] = 16u;
}

static void test_broken_planes_are_refused(void **state)
{
    static const struct damage cases[] = {
        {GEMV, no_group_size, AWQ_ERROR_INVALID, "gemv: the padded planes do not tell the group_size"},
        {GEMV, group_of_48, AWQ_ERROR_INVALID, "a group_size of 48 does not divide 128 inputs"},
        {GEMV, group_of_16, AWQ_ERROR_UNSUPPORTED, "groups of 16 inputs"},
        {GEMV, one_group, AWQ_ERROR_INVALID, "qzeros: shape"},
        {GEMV, eight_bits, AWQ_ERROR_UNSUPPORTED, "8 bits"},
        {GEMV, symmetric, AWQ_ERROR_INVALID, "the zero point of row 0, group 0"},
        {GEMV, no_codes, AWQ_ERROR_INVALID, "plane qweight is missing"},
        {GEMV, no_rows, AWQ_ERROR_INVALID, "qweight: shape [0][16]"},
        {GEMV, fewer_scales, AWQ_ERROR_INVALID, "scales: shape"},
        {GEMV, scales_of_nan, AWQ_ERROR_NON_FINITE, "row 0, group 1"},
        {FAST, no_group_size, AWQ_ERROR_INVALID, "group_size"},
        {FAST, fewer_columns, AWQ_ERROR_UNSUPPORTED, "127 inputs"},
        {FAST, words_of_halves, AWQ_ERROR_INVALID, "qweight: dtype F16"},
        {FAST, zeros_of_another_dtype, AWQ_ERROR_INVALID, "qzeros: dtype BF16"},
        {FAST, other_scaled_zero, AWQ_ERROR_UNSUPPORTED, "row 2, group 1 is no product of the scale"},
        {FAST, symmetric, AWQ_ERROR_INVALID, "the zero point of row"},
        {MARLIN, no_zeros, AWQ_ERROR_INVALID, "plane qzeros is missing"},
        {MARLIN, symmetric, AWQ_ERROR_INVALID, "the zero point of row"},
        {MARLIN, fewer_columns, AWQ_ERROR_INVALID, "qweight: 127 words per row"},
        {MARLIN, eight_bits, AWQ_ERROR_INVALID, "qweight: 128 words per row"},
        {MARLIN, three_bits, AWQ_ERROR_UNSUPPORTED, "3 bits"},
        {MARLIN, one_group, AWQ_ERROR_INVALID, "2 groups of scales"},
        {MARLIN, no_scales, AWQ_ERROR_INVALID, "plane scales is missing"},
        {MARLIN, scales_of_nan, AWQ_ERROR_NON_FINITE, "row 8, group 0"},
        {GPTQ_V1, act_order, AWQ_ERROR_UNSUPPORTED, "g_idx: input 5 is in group 1, not 0"},
        {GPTQ_V2, short_index, AWQ_ERROR_INVALID, "g_idx: shape"},
        {GPTQ_V2, wide_index, AWQ_ERROR_INVALID, "g_idx: dtype I64"},
        {GPTQ_V2, three_bits, AWQ_ERROR_INVALID, "holds no whole number of 3-bit codes"},
        {GPTQ_V2, eight_bits, AWQ_ERROR_INVALID, "qzeros: shape"},
        {GPTQ_V2, group_of_16, AWQ_ERROR_INVALID, "2 groups of scales, but groups of 16 make 8"},
        {GPTQ_V2, no_zeros, AWQ_ERROR_INVALID, "plane qzeros is missing"},
        {BLOCK, no_header, AWQ_ERROR_INVALID, "plane header is missing"},
        {BLOCK, next_version, AWQ_ERROR_VERSION, "header: version 2; this library reads 1"},
        {BLOCK, empty_header, AWQ_ERROR_INVALID, "header: it is empty"},
        {BLOCK, long_header, AWQ_ERROR_INVALID, "header: shape"},
        {BLOCK, header_of_no_inputs, AWQ_ERROR_INVALID, "header: a weight of [64][0]"},
        {BLOCK, header_of_many_outputs, AWQ_ERROR_INVALID, "header: a weight of [9223372036854775807][128]"},
        {BLOCK, header_of_more_outputs, AWQ_ERROR_INVALID, "qweight: shape"},
        {BLOCK, header_of_small_groups, AWQ_ERROR_UNSUPPORTED, "groups of 24"},
        {BLOCK, header_of_no_groups, AWQ_ERROR_INVALID, "header: groups of 0"},
        {BLOCK, header_of_five_bits, AWQ_ERROR_INVALID, "bits is 5"},
        {BLOCK, header_of_f32_scales, AWQ_ERROR_INVALID, "header: groups of 64, 4 bits"},
        {BLOCK, symmetric_header, AWQ_ERROR_INVALID, "plane qzeros is given for a symmetric weight"},
        {BLOCK, eight_bits, AWQ_ERROR_INVALID, "header: 4 bits, but the options say 8"},
        {BLOCK, group_of_16, AWQ_ERROR_INVALID, "header: groups of 64, but the options say 16"},
        {BLOCK, symmetric, AWQ_ERROR_INVALID, "header: it has zero points"},
        {BLOCK, no_zeros, AWQ_ERROR_INVALID, "plane qzeros is missing"},
        {BLOCK, scales_of_nan, AWQ_ERROR_NON_FINITE, "row 8, group 0"},
        {STREAM, short_stream, AWQ_ERROR_INVALID, "stream: shape"},
        {STREAM, header_of_more_outputs, AWQ_ERROR_INVALID, "stream: shape"},
        {STREAM, stream_scale_of_infinity, AWQ_ERROR_NON_FINITE, "row 3, group 0 is inf"},
        {STREAM, stream_zero_of_16, AWQ_ERROR_INVALID, "row 0, group 0 is 16, above the 15 of 4 bits"},
        {STREAM, symmetric_header, AWQ_ERROR_INVALID, "the zero point of row 0, group 0"},
    };
    struct scratch *scratch = *state;
    uint64_t seed = 407;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight = common_weight(scratch, &seed, false), *unpacked = weight;
        awq_packed *packed = pack(scratch, weight, cases[i].layout);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options(0, 64, false);
        cases[i].spoil(&given, &options);
        assert_status(unpack(scratch, cases[i].layout, &given, &options, &unpacked), cases[i].status);
        assert_null(unpacked);
        assert_error_names(cases[i].text);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* Shapes, strides, dtypes and header fields at random: some are still a weight, none may be read out of bounds. */
static void test_random_damage(void **state)
{
    static const int64_t extents[] = {0, 1, 2, 63, 64, 65, 127, 128, 1 << 20, INT64_MAX / 8, INT64_MAX, -1};
    struct scratch *scratch = *state;
    uint64_t seed = 408;
    for (int round = 0; round < 4000; round++) {
        const int32_t layout = FIRST_LAYOUT + round % (LAST_LAYOUT - FIRST_LAYOUT + 1);
        awq_weight *weight = common_weight(scratch, &seed, false), *unpacked = NULL;
        awq_packed *packed = pack(scratch, weight, layout);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options((int32_t)(random_bits(&seed) % 9), 64, random_bits(&seed) % 8 == 0);
        if (random_bits(&seed) % 4 == 0) options.group_size = extents[random_bits(&seed) % 12];
        awq_tensor *plane = &given.planes[random_bits(&seed) % given.count];
        const uint64_t kind = random_bits(&seed) % 4;
        const int axis = plane->ndim == 2 ? (int)(random_bits(&seed) % 2) : 0;
        if (kind == 0 && strcmp(given.names[plane - given.planes], "header") == 0) {
            set_field(&given, (int)(random_bits(&seed) % 7), extents[random_bits(&seed) % 12]);
        } else if (kind == 1) {
            plane->dtype = (int32_t)(random_bits(&seed) % 17); /* no smaller data than before: */
            plane->shape[0] = plane->shape[0] * 2 / (int64_t)awqi_max64(1, (int64_t)awq_dtype_size(plane->dtype)) / 2;
        } else {
            plane->shape[axis] = extents[random_bits(&seed) % 12];
            plane->strides[axis] = 0;
        }
        (void)unpack(scratch, layout, &given, &options, &unpacked);
        awq_weight_destroy(unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

static void test_allocations_may_fail(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 409;
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight *weight = common_weight(scratch, &seed, false), *unpacked = NULL;
        awq_packed *packed = NULL;
        awq_unpack_options options = unpack_options(4, 64, false);
        for (int64_t allowed = 0; unpacked == NULL && allowed < 100; allowed++) {
            scratch->allocations_left = allowed;
            if (packed == NULL && awq_pack(scratch->context, weight, layout, &packed) != AWQ_OK) continue;
            struct given given = open_packed(packed);
            (void)unpack(scratch, layout, &given, &options, &unpacked);
        }
        scratch->allocations_left = -1;
        assert_non_null(unpacked);
        assert_same_weight(weight, unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(unpacked);
        awq_weight_destroy(weight);
    }
}

/* ---- planes given away, and biases */

static void test_planes_are_exported(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 410;
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight *weight = common_weight(scratch, &seed, false);
        awq_packed *packed = pack(scratch, weight, layout);
        for (size_t i = 0; i < awq_packed_plane_count(packed); i++) {
            void *exported;
            awq_tensor plane, view;
            assert_status(awq_packed_export_dlpack(packed, i, &exported), AWQ_OK);
            assert_status(awq_packed_get_plane(packed, i, NULL, &plane), AWQ_OK);
            assert_status(awq_tensor_from_dlpack_versioned(exported, &view), AWQ_OK);
            assert_memory_equal(&plane, &view, sizeof view);
            ((struct awqi_dl_managed *)exported)->deleter(exported);
        }
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

static void test_biases(void **state)
{
    (void)state;
    float bias[96], packed[96], again[96];
    awq_tensor from, to, back, other;
    for (int i = 0; i < 96; i++) bias[i] = (float)i;
    awq_tensor_init_const_1d(&from, bias, AWQ_F32, 96);
    awq_tensor_init_1d(&to, packed, AWQ_F32, 96);
    awq_tensor_init_1d(&back, again, AWQ_F32, 96);
    assert_status(awq_pack_bias(MARLIN, &from, &to), AWQ_OK);
    static const float first[12] = {0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11};
    assert_memory_equal(packed, first, sizeof first);
    assert_true(packed[95] == 95.0f);
    assert_status(awq_unpack_bias(MARLIN, &to, &back), AWQ_OK);
    assert_memory_equal(again, bias, sizeof bias);
    assert_status(awq_pack_bias(GEMM, &from, &to), AWQ_OK);
    assert_memory_equal(packed, bias, sizeof bias);

    from.shape[0] = to.shape[0] = 80;
    assert_status(awq_pack_bias(MARLIN, &from, &to), AWQ_ERROR_UNSUPPORTED);
    assert_error_names("awq_pack_bias: marlin: the bias has 80 outputs; the format holds multiples of 32");
    from.shape[0] = 96;
    assert_status(awq_pack_bias(MARLIN, &from, &to), AWQ_ERROR_INVALID);
    awq_tensor_init_1d(&other, packed, AWQ_F16, 96);
    assert_status(awq_pack_bias(MARLIN, &from, &other), AWQ_ERROR_INVALID);
    assert_status(awq_unpack_bias(MARLIN, &back, &from), AWQ_ERROR_INVALID);
    assert_error_names("awq_unpack_bias: out is read-only");
    assert_status(awq_pack_bias(0, &from, &back), AWQ_ERROR_INVALID);
    assert_status(awq_pack_bias(MARLIN, NULL, &back), AWQ_ERROR_INVALID);
    assert_status(awq_pack_bias(MARLIN, &from, NULL), AWQ_ERROR_INVALID);
    back.device_type = AWQ_DEVICE_CUDA;
    assert_status(awq_pack_bias(MARLIN, &from, &back), AWQ_ERROR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_what_formats_cannot_hold),
        SCRATCH_TEST(test_input_scales_are_kept_or_refused),
        SCRATCH_TEST(test_scaled_zeros_that_lose_the_zero_point),
        SCRATCH_TEST(test_gptq_v1_has_no_zero_point_of_0),
        SCRATCH_TEST(test_other_names),
        SCRATCH_TEST(test_planes_may_have_strides),
        SCRATCH_TEST(test_symmetric_weights),
        SCRATCH_TEST(test_broken_planes_are_refused),
        SCRATCH_TEST(test_random_damage),
        SCRATCH_TEST(test_allocations_may_fail),
        SCRATCH_TEST(test_planes_are_exported),
        cmocka_unit_test(test_biases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
