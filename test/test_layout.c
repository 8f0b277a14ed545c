/* Packed formats: known words, round trips, refusals, planes given away. */
#include "dlpack.h"
#include "layouts.h"

/* A weight of one group per row with the given codes, zero points and scales of 1. */
static awq_weight *known_weight(struct scratch *scratch, const uint8_t *codes, const uint8_t *zeros, int64_t n,
                                int64_t k, int32_t bits)
{
    uint16_t ones[64];
    for (int i = 0; i < 64; i++) ones[i] = 0x3c00;
    awq_tensor code_view, scale_view, zero_view;
    awq_tensor_init_const_2d(&code_view, codes, AWQ_U8, n, k);
    awq_tensor_init_const_2d(&scale_view, ones, AWQ_F16, n, 1);
    awq_tensor_init_const_2d(&zero_view, zeros, AWQ_U8, n, 1);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = AWQ_GROUP_PER_ROW;
    awq_weight *weight;
    assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &weight), AWQ_OK);
    return weight;
}

/* ---- names */

static void test_names(void **state)
{
    (void)state;
    for (int32_t layout = AWQ_LAYOUT_GEMM; layout <= AWQ_LAYOUT_LLM_AWQ; layout++) {
        assert_non_null(awq_layout_name(layout));
        assert_int_equal(awq_layout_from_name(awq_layout_name(layout)), layout);
    }
    assert_null(awq_layout_name(0));
    assert_null(awq_layout_name(99));
    assert_int_equal(awq_layout_from_name("GEMM"), 0);
    assert_int_equal(awq_layout_from_name(NULL), 0);
}

/* ---- known words */

static uint32_t word_of(const awq_packed *packed, size_t plane, int64_t index)
{
    awq_tensor view;
    assert_status(awq_packed_get_plane(packed, plane, NULL, &view), AWQ_OK);
    return ((const uint32_t *)view.data)[index];
}

static void test_gemm_interleaves_eight_outputs(void **state)
{
    struct scratch *scratch = *state;
    static const uint8_t codes[16] = {0, 15, 1, 14, 2, 13, 3, 12, 4, 11, 5, 10, 6, 9, 7, 8}; /* [8][2] */
    static const uint8_t zeros[8] = {8, 9, 10, 11, 12, 13, 14, 15};
    awq_weight *weight = known_weight(scratch, codes, zeros, 8, 2, 4);
    awq_packed *packed;
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_GEMM, &packed), AWQ_OK);
    assert_int_equal(word_of(packed, 0, 0), 0x75316420u);
    assert_int_equal(word_of(packed, 0, 1), 0x8ace9bdfu);
    assert_int_equal(word_of(packed, 1, 0), 0xfdb9eca8u);
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

static void test_compressed_tensors_words(void **state)
{
    static const uint8_t codes[12] = {1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4}, zeros[1] = {5};
    static const struct {
        int32_t layout, bits;
        uint32_t first, second;
    } cases[] = {
        {AWQ_LAYOUT_COMPRESSED_TENSORS, 4, 0x07654321u, 0x00004321u},
        {AWQ_LAYOUT_COMPRESSED_TENSORS_2025, 4, 0x07654321u, 0x00004321u},
        {AWQ_LAYOUT_COMPRESSED_TENSORS, 8, 0x04030201u, 0x00070605u},
        /* 3 bits: 1 2 3 4 5 6 7 0 1 2 and the low two bits of 3, then its high one; or ten codes a word. */
        {AWQ_LAYOUT_COMPRESSED_TENSORS, 3, 0xd11f58d1u, 0x00000008u},
        {AWQ_LAYOUT_COMPRESSED_TENSORS_2025, 3, 0x111f58d1u, 0x00000023u},
    };
    struct scratch *scratch = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight = known_weight(scratch, codes, zeros, 1, 12, cases[i].bits);
        awq_packed *packed;
        assert_status(awq_pack(scratch->context, weight, cases[i].layout, &packed), AWQ_OK);
        assert_int_equal(word_of(packed, 0, 0), cases[i].first);
        assert_int_equal(word_of(packed, 0, 1), cases[i].second);
        assert_int_equal(word_of(packed, 3, 0), 5);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- round trips */

static void round_trip(struct scratch *scratch, const awq_weight *weight, int32_t layout,
                       const awq_unpack_options *options)
{
    awq_packed *packed;
    awq_weight *unpacked;
    assert_status(awq_pack(scratch->context, weight, layout, &packed), AWQ_OK);
    struct given given = open_packed(packed);
    assert_status(unpack(scratch, layout, &given, options, &unpacked), AWQ_OK);
    assert_same_weight(weight, unpacked);
    awq_weight_destroy(unpacked);
    awq_packed_destroy(packed);
}

static void test_gemm_round_trip(void **state)
{
    uint64_t seed = 200;
    for (int round = 0; round < 20; round++) {
        int64_t group = 1 + (int64_t)(random_bits(&seed) % 100), k = group * (1 + (int64_t)(random_bits(&seed) % 6));
        int64_t n = 8 * (1 + (int64_t)(random_bits(&seed) % 5));
        int32_t bits = round % 5 == 4 ? 8 : 4;
        bool symmetric = round % 4 == 3;
        awq_weight *weight = random_weight(*state, &seed, n, k, group, bits, AWQ_F16, symmetric);
        awq_unpack_options options = unpack_options(bits == 4 ? 0 : bits, round % 2 ? group : 0, symmetric);
        round_trip(*state, weight, AWQ_LAYOUT_GEMM, &options);
        awq_weight_destroy(weight);
    }
}

static void test_compressed_tensors_round_trip(void **state)
{
    static const int32_t bits[] = {2, 3, 4, 8}, dtypes[] = {AWQ_BF16, AWQ_F16, AWQ_F32};
    uint64_t seed = 201;
    for (int round = 0; round < 96; round++) {
        int64_t group = 1 + (int64_t)(random_bits(&seed) % 100), k = group * (1 + (int64_t)(random_bits(&seed) % 6));
        int64_t n = 1 + (int64_t)(random_bits(&seed) % 70);
        bool symmetric = round / 12 % 2;
        awq_weight *weight = random_weight(*state, &seed, n, k, group, bits[round % 4], dtypes[round % 3], symmetric);
        awq_unpack_options options = unpack_options(bits[round % 4], round % 2 ? group : 0, symmetric);
        round_trip(*state, weight, round / 24 % 2 ? AWQ_LAYOUT_COMPRESSED_TENSORS : AWQ_LAYOUT_COMPRESSED_TENSORS_2025,
                   &options);
        awq_weight_destroy(weight);
    }
}

static void test_single_short_group(void **state)
{
    uint64_t seed = 202;
    awq_weight *weight = random_weight(*state, &seed, 3, 40, 128, 4, AWQ_F16, false);
    awq_unpack_options options = unpack_options(4, 128, false);
    round_trip(*state, weight, AWQ_LAYOUT_COMPRESSED_TENSORS, &options);
    awq_weight_destroy(weight);
}

static void test_symmetric_weights_get_zero_points_of_8_in_gemm(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 203;
    awq_weight *weight = random_weight(scratch, &seed, 8, 32, 16, 4, AWQ_F16, true);
    awq_packed *packed;
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_GEMM, &packed), AWQ_OK);
    assert_int_equal(word_of(packed, 1, 0), 0x88888888u);
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

static void test_bf16_scales_that_are_halves_fit_gemm(void **state)
{
    struct scratch *scratch = *state;
    static const uint16_t fitting[8] = {0x3f80, 0x3c00, 0x3f00, 0x3f80, 0x4000, 0x3f80, 0xbf80, 0x3f80};
    uint16_t scales[8];
    memcpy(scales, fitting, sizeof scales);
    uint8_t codes[8] = {0}, zeros[8] = {0};
    awq_tensor code_view, scale_view, zero_view;
    awq_tensor_init_const_2d(&code_view, codes, AWQ_U8, 8, 1);
    awq_tensor_init_const_2d(&scale_view, scales, AWQ_BF16, 8, 1);
    awq_tensor_init_const_2d(&zero_view, zeros, AWQ_U8, 8, 1);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 1;
    for (int round = 0; round < 2; round++) {
        awq_weight *weight;
        awq_packed *packed;
        assert_status(awq_weight_create(scratch->context, &code_view, &scale_view, &zero_view, &options, &weight),
                      AWQ_OK);
        assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_GEMM, &packed),
                      round == 0 ? AWQ_OK : AWQ_ERROR_UNSUPPORTED);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
        scales[5] = 0x0001; /* far below the least half */
    }
    assert_error_names("row 5, group 0");
}

static void test_strided_planes(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 204;
    static const int32_t layouts[] = {AWQ_LAYOUT_GEMM, AWQ_LAYOUT_COMPRESSED_TENSORS};
    for (int i = 0; i < 2; i++) {
        awq_weight *weight = random_weight(scratch, &seed, 16, 64, 16, 4, AWQ_F16, false), *unpacked;
        awq_packed *packed;
        assert_status(awq_pack(scratch->context, weight, layouts[i], &packed), AWQ_OK);
        struct given given = open_packed(packed);
        void *copies[MAX_PLANES];
        for (size_t p = 0; p < given.count; p++) { /* every matrix with its axes swapped in memory */
            awq_tensor plane = given.planes[p], *turned = &given.planes[p];
            size_t size = awq_dtype_size(plane.dtype);
            copies[p] = malloc((size_t)awqi_tensor_elements(&plane) * size);
            turned->data = copies[p];
            if (plane.ndim == 2) {
                turned->strides[0] = 1;
                turned->strides[1] = plane.shape[0];
            }
            turned->flags = 0;
            assert_status(awq_tensor_copy(scratch->context, &plane, turned, NULL), AWQ_OK);
        }
        assert_status(unpack(scratch, layouts[i], &given, NULL, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        for (size_t p = 0; p < given.count; p++) free(copies[p]);
        awq_weight_destroy(unpacked);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

static void test_padding_is_ignored(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 205;
    static const int32_t layouts[] = {AWQ_LAYOUT_COMPRESSED_TENSORS, AWQ_LAYOUT_COMPRESSED_TENSORS_2025};
    for (int i = 0; i < 2; i++) {
        awq_weight *weight = random_weight(scratch, &seed, 3, 13, 13, 3, AWQ_F16, false), *unpacked;
        awq_packed *packed, *again;
        assert_status(awq_pack(scratch->context, weight, layouts[i], &packed), AWQ_OK);
        struct given given = open_packed(packed);
        uint32_t words[6];
        memcpy(words, given.planes[0].data, sizeof words);
        /* Of the second word 13 codes use 7 bits when dense, else 9. */
        for (int row = 0; row < 3; row++) words[2 * row + 1] |= i == 0 ? 0xffffff80u : 0xfffffe00u;
        given.planes[0].data = words;
        awq_unpack_options options = unpack_options(3, 0, false);
        assert_status(unpack(scratch, layouts[i], &given, &options, &unpacked), AWQ_OK);
        assert_same_weight(weight, unpacked);
        assert_status(awq_pack(scratch->context, unpacked, layouts[i], &again), AWQ_OK);
        for (int64_t word = 0; word < 6; word++) assert_int_equal(word_of(again, 0, word), word_of(packed, 0, word));
        awq_packed_destroy(again);
        awq_packed_destroy(packed);
        awq_weight_destroy(unpacked);
        awq_weight_destroy(weight);
    }
}

/* ---- refusals */

static void test_what_a_layout_cannot_hold(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        int64_t n, k, group;
        int32_t bits, layout;
        const char *text;
    } cases[] = {
        {8, 32, 16, 3, AWQ_LAYOUT_GEMM, "gemm: the weight has 3 bits"},
        {12, 32, 16, 4, AWQ_LAYOUT_GEMM, "gemm: the weight has 12 outputs"},
        {8, 40, 16, 4, AWQ_LAYOUT_GEMM, "gemm: the last group has 8 of 16 inputs"},
        {8, 40, 64, 4, AWQ_LAYOUT_GEMM, "gemm: the last group has 40 of 64 inputs"},
        {8, 40, 16, 4, AWQ_LAYOUT_COMPRESSED_TENSORS, "compressed-tensors: the last group has 8 of 16 inputs"},
    };
    uint64_t seed = 206;
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

static void test_input_scales_are_refused(void **state)
{
    struct scratch *scratch = *state;
    static const float w[8 * 32] = {1.0f}, scales[32] = {[0 ... 31] = 2.0f};
    awq_tensor view, scale;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, 8, 32);
    awq_tensor_init_const_1d(&scale, scales, AWQ_F32, 32);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 32;
    options.input_scale = &scale;
    awq_weight *weight;
    awq_packed *packed;
    assert_status(awq_quantize(scratch->context, &view, NULL, &options, &weight), AWQ_OK);
    for (int32_t layout = AWQ_LAYOUT_GEMM; layout <= AWQ_LAYOUT_COMPRESSED_TENSORS_2025; layout++) {
        assert_status(awq_pack(scratch->context, weight, layout, &packed), AWQ_ERROR_UNSUPPORTED);
        assert_error_names("input scale");
    }
    awq_weight_destroy(weight);
}

static void test_arguments_are_checked(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 207;
    awq_weight *weight = random_weight(scratch, &seed, 8, 32, 16, 4, AWQ_F16, false), *unpacked;
    awq_packed *packed;
    assert_status(awq_pack(NULL, weight, AWQ_LAYOUT_GEMM, &packed), AWQ_ERROR_INVALID);
    assert_status(awq_pack(scratch->context, NULL, AWQ_LAYOUT_GEMM, &packed), AWQ_ERROR_INVALID);
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_GEMM, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_pack(scratch->context, weight, 0, &packed), AWQ_ERROR_INVALID);
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_GEMM, &packed), AWQ_OK);
    awq_tensor view;
    void *managed;
    assert_status(awq_packed_get_plane(packed, 3, NULL, &view), AWQ_ERROR_INVALID);
    assert_status(awq_packed_get_plane(NULL, 0, NULL, &view), AWQ_ERROR_INVALID);
    assert_status(awq_packed_export_dlpack(packed, 3, &managed), AWQ_ERROR_INVALID);
    assert_status(awq_packed_export_dlpack(packed, 0, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_packed_export_dlpack(NULL, 0, &managed), AWQ_ERROR_INVALID);
    assert_int_equal(awq_packed_plane_count(NULL), 0);
    awq_packed_destroy(NULL);

    struct given given = open_packed(packed);
    awq_unpack_options options = unpack_options(4, 16, false);
    options.flags = 2;
    assert_status(unpack(scratch, AWQ_LAYOUT_GEMM, &given, &options, &unpacked), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.struct_size = 1;
    assert_status(unpack(scratch, AWQ_LAYOUT_GEMM, &given, &options, &unpacked), AWQ_ERROR_INVALID);
    assert_status(awq_unpack(NULL, AWQ_LAYOUT_GEMM, 0, NULL, NULL, NULL, &unpacked), AWQ_ERROR_INVALID);
    assert_status(awq_unpack(scratch->context, AWQ_LAYOUT_GEMM, 3, NULL, NULL, NULL, &unpacked), AWQ_ERROR_INVALID);
    assert_status(awq_unpack(scratch->context, AWQ_LAYOUT_GEMM, 0, NULL, NULL, NULL, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_unpack(scratch->context, 77, 0, NULL, NULL, NULL, &unpacked), AWQ_ERROR_INVALID);
    assert_null(unpacked);
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

/* Pack, let 'spoil' damage the planes or the options, and expect a refusal that names 'text'. */
struct damage {
    int32_t layout;
    void (*spoil)(struct given *given, awq_unpack_options *options);
    awq_status status;
    const char *text;
};

static void drop_zeros(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->names[1] = given->names[2];
    given->planes[1] = given->planes[2];
    given->count = 2;
}

static void drop_shape(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->names[2] = given->names[3];
    given->planes[2] = given->planes[3];
    given->count = 3;
}

static void drop_last(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->count--;
}

static void add_unknown(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->names[given->count] = "g_idx";
    given->planes[given->count++] = given->planes[0];
}

static void add_twice(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->names[given->count] = given->names[0];
    given->planes[given->count++] = given->planes[0];
}

static void null_name(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->names[1] = NULL;
}

static void wrong_dtype(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->planes[0].dtype = AWQ_F32;
}

static void scales_of_f32(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->planes[2].dtype = AWQ_F32;
    given->planes[2].shape[0] /= 2;
}

static void narrow_zeros(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->planes[1].shape[1]--;
}

static void one_dimension(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->planes[0].ndim = 1;
}

static void scale_of_nan(struct given *given, awq_unpack_options *options)
{
    static uint16_t scales[32];
    (void)options;
    scales[17] = 0x7e00;
    size_t plane = given->count == 3 ? 2 : 1;
    given->planes[plane].data = scales;
}

static void other_group(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->group_size = 8;
}

static void other_bits(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->bits = 8;
}

static void five_bits(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->bits = 5;
}

static void symmetric(struct given *given, awq_unpack_options *options)
{
    (void)given;
    options->flags = AWQ_QUANTIZE_SYMMETRIC;
}

static void on_a_device(struct given *given, awq_unpack_options *options)
{
    (void)options;
    given->planes[0].device_type = AWQ_DEVICE_CUDA;
}

static void no_shape(struct given *given, awq_unpack_options *options)
{
    static int64_t shape[2] = {16, 0};
    (void)options;
    given->planes[2].data = shape;
}

static void huge_shape(struct given *given, awq_unpack_options *options)
{
    static int64_t shape[2] = {16, INT64_MAX / 2};
    (void)options;
    given->planes[2].data = shape;
}

static void other_shape(struct given *given, awq_unpack_options *options)
{
    static int64_t shape[2] = {16, 33};
    (void)options;
    given->planes[2].data = shape;
}

static void test_bad_planes_are_refused(void **state)
{
    enum { GEMM = AWQ_LAYOUT_GEMM, CT = AWQ_LAYOUT_COMPRESSED_TENSORS };
    static const struct damage cases[] = {
        {GEMM, drop_zeros, AWQ_ERROR_INVALID, "plane qzeros is missing"},
        {GEMM, drop_last, AWQ_ERROR_INVALID, "plane scales is missing"},
        {GEMM, add_unknown, AWQ_ERROR_INVALID, "g_idx"},
        {GEMM, add_twice, AWQ_ERROR_INVALID, "qweight is given twice"},
        {GEMM, null_name, AWQ_ERROR_INVALID, "plane 1"},
        {GEMM, wrong_dtype, AWQ_ERROR_INVALID, "qweight: dtype F32"},
        {GEMM, scales_of_f32, AWQ_ERROR_INVALID, "scales: dtype F32"},
        {GEMM, narrow_zeros, AWQ_ERROR_INVALID, "qzeros: shape"},
        {GEMM, one_dimension, AWQ_ERROR_INVALID, "qweight"},
        {GEMM, scale_of_nan, AWQ_ERROR_NON_FINITE, "row 1, group 1"},
        {GEMM, other_group, AWQ_ERROR_INVALID, "groups of 8"},
        {GEMM, other_bits, AWQ_ERROR_INVALID, "scales: shape"},
        {GEMM, five_bits, AWQ_ERROR_UNSUPPORTED, "5 bits"},
        {GEMM, symmetric, AWQ_ERROR_INVALID, "the zero point of row"},
        {GEMM, on_a_device, AWQ_ERROR_UNSUPPORTED, "qweight is not in host memory"},
        {CT, drop_last, AWQ_ERROR_INVALID, "plane weight_zero_point is missing"},
        {CT, drop_shape, AWQ_ERROR_INVALID, "plane weight_shape is missing"},
        {CT, add_unknown, AWQ_ERROR_INVALID, "g_idx"},
        {CT, wrong_dtype, AWQ_ERROR_INVALID, "weight_packed: dtype F32"},
        {CT, scale_of_nan, AWQ_ERROR_NON_FINITE, "row 8, group 1"},
        {CT, symmetric, AWQ_ERROR_INVALID, "weight_zero_point is given"},
        {CT, five_bits, AWQ_ERROR_INVALID, "5 bits"},
        {CT, other_bits, AWQ_ERROR_INVALID, "weight_packed: shape"},
        {CT, no_shape, AWQ_ERROR_INVALID, "weight_shape is [16, 0]"},
        {CT, huge_shape, AWQ_ERROR_INVALID, "weight_shape is"},
        {CT, other_shape, AWQ_ERROR_INVALID, "weight_packed: shape"},
    };
    struct scratch *scratch = *state;
    uint64_t seed = 208;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        awq_weight *weight = random_weight(scratch, &seed, 16, 32, 16, 4, AWQ_F16, false), *unpacked = weight;
        awq_packed *packed;
        assert_status(awq_pack(scratch->context, weight, cases[i].layout, &packed), AWQ_OK);
        struct given given = open_packed(packed);
        awq_unpack_options options = unpack_options(0, 0, false);
        cases[i].spoil(&given, &options);
        assert_status(unpack(scratch, cases[i].layout, &given, &options, &unpacked), cases[i].status);
        assert_null(unpacked);
        assert_error_names(cases[i].text);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- planes given away */

static void test_planes_outlive_the_handle(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 209;
    awq_weight *weight = random_weight(scratch, &seed, 16, 64, 16, 4, AWQ_BF16, false);
    awq_packed *packed;
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_COMPRESSED_TENSORS, &packed), AWQ_OK);
    static const uint8_t codes[] = {AWQI_DL_INT, AWQI_DL_BFLOAT, AWQI_DL_INT, AWQI_DL_INT};
    struct awqi_dl_managed *managed[4];
    for (size_t i = 0; i < 4; i++) {
        void *exported;
        awq_tensor plane, view;
        assert_status(awq_packed_export_dlpack(packed, i, &exported), AWQ_OK);
        managed[i] = exported;
        assert_int_equal(managed[i]->version.major, 1);
        assert_int_equal(managed[i]->tensor.dtype.code, codes[i]);
        assert_status(awq_packed_get_plane(packed, i, NULL, &plane), AWQ_OK);
        assert_status(awq_tensor_from_dlpack_versioned(exported, &view), AWQ_OK);
        assert_memory_equal(&plane, &view, sizeof view);
    }
    awq_packed_destroy(packed);
    const int64_t *shape = managed[2]->tensor.data;
    assert_true(shape[0] == 16 && shape[1] == 64);
    for (size_t i = 0; i < 4; i++) managed[i]->deleter(managed[i]);
    awq_weight_destroy(weight);
}

static void test_allocations_may_fail(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 210;
    for (int32_t layout = AWQ_LAYOUT_GEMM; layout <= AWQ_LAYOUT_COMPRESSED_TENSORS; layout++) {
        awq_weight *weight = random_weight(scratch, &seed, 16, 64, 16, 4, AWQ_F16, false), *unpacked = NULL;
        awq_packed *packed = NULL;
        void *exported = NULL;
        for (int64_t allowed = 0; exported == NULL && allowed < 100; allowed++) {
            scratch->allocations_left = allowed;
            if (packed == NULL && awq_pack(scratch->context, weight, layout, &packed) != AWQ_OK) continue;
            struct given given = open_packed(packed);
            if (unpacked == NULL && unpack(scratch, layout, &given, NULL, &unpacked) != AWQ_OK) continue;
            (void)awq_packed_export_dlpack(packed, 0, &exported);
        }
        scratch->allocations_left = -1;
        assert_non_null(exported);
        ((struct awqi_dl_managed *)exported)->deleter(exported);
        awq_packed_destroy(packed);
        awq_weight_destroy(unpacked);
        awq_weight_destroy(weight);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        SCRATCH_TEST(test_gemm_interleaves_eight_outputs),
        SCRATCH_TEST(test_compressed_tensors_words),
        SCRATCH_TEST(test_gemm_round_trip),
        SCRATCH_TEST(test_compressed_tensors_round_trip),
        SCRATCH_TEST(test_single_short_group),
        SCRATCH_TEST(test_symmetric_weights_get_zero_points_of_8_in_gemm),
        SCRATCH_TEST(test_bf16_scales_that_are_halves_fit_gemm),
        SCRATCH_TEST(test_strided_planes),
        SCRATCH_TEST(test_padding_is_ignored),
        SCRATCH_TEST(test_what_a_layout_cannot_hold),
        SCRATCH_TEST(test_input_scales_are_refused),
        SCRATCH_TEST(test_arguments_are_checked),
        SCRATCH_TEST(test_bad_planes_are_refused),
        SCRATCH_TEST(test_planes_outlive_the_handle),
        SCRATCH_TEST(test_allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
