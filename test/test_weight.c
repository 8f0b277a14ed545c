/* awq_weight: made from planes, read back, dequantised, cut and joined. */
#include "scratch.h"
#include "support.h"
#include "weight.h"

/* Planes of random codes, to make weights from. */
struct planes {
    int64_t n, k, groups;
    awq_quantize_options options;
    uint8_t *codes, *zeros;
    void *scales;
    int32_t scale_dtype;
};

static struct planes random_planes(uint64_t *seed, int64_t n, int64_t k, int64_t group_size, int32_t bits,
                                   int32_t scale_dtype, bool symmetric)
{
    struct planes planes = {.n = n, .k = k, .groups = (k + group_size - 1) / group_size, .scale_dtype = scale_dtype};
    awq_struct_init(&planes.options, sizeof planes.options);
    planes.options.bits = bits;
    planes.options.group_size = group_size;
    planes.options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    planes.codes = malloc((size_t)(n * k));
    planes.zeros = malloc((size_t)(n * planes.groups));
    planes.scales = random_array(seed, scale_dtype, n * planes.groups, 0.01f);
    for (int64_t i = 0; i < n * k; i++) planes.codes[i] = (uint8_t)(random_bits(seed) & ((1u << bits) - 1));
    for (int64_t i = 0; i < n * planes.groups; i++)
        planes.zeros[i] = symmetric ? (uint8_t)(1 << (bits - 1)) : (uint8_t)(random_bits(seed) & ((1u << bits) - 1));
    return planes;
}

static void free_planes(struct planes *planes)
{
    free(planes->codes);
    free(planes->zeros);
    free(planes->scales);
}

static awq_status create(struct scratch *scratch, const struct planes *planes, awq_weight **weight)
{
    awq_tensor codes, scales, zeros;
    awq_tensor_init_const_2d(&codes, planes->codes, AWQ_U8, planes->n, planes->k);
    awq_tensor_init_const_2d(&scales, planes->scales, planes->scale_dtype, planes->n, planes->groups);
    awq_tensor_init_const_2d(&zeros, planes->zeros, AWQ_U8, planes->n, planes->groups);
    bool symmetric = planes->options.flags & AWQ_QUANTIZE_SYMMETRIC;
    return awq_weight_create(scratch->context, &codes, &scales, symmetric ? NULL : &zeros, &planes->options, weight);
}

static float scale_at(const struct planes *planes, int64_t index)
{
    float scale;
    const char *scales = planes->scales;
    awqi_to_f32(planes->scale_dtype, scales + (size_t)index * awq_dtype_size(planes->scale_dtype), &scale, 1);
    return scale;
}

/* Rows [row, row + n) and inputs [column, column + k) of 'planes' are what 'weight' holds. */
static void check_equals(const awq_weight *weight, const struct planes *planes, int64_t row, int64_t column)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_weight_get_info(weight, &info), AWQ_OK);
    int64_t n = info.n, k = info.k, groups = info.groups, first_group = column / planes->options.group_size;
    uint8_t *codes = malloc((size_t)(n * k)), *zeros = malloc((size_t)(n * groups));
    float *scales = malloc((size_t)(n * groups) * sizeof *scales);
    awq_tensor code_view, scale_view, zero_view;
    awq_tensor_init_2d(&code_view, codes, AWQ_U8, n, k);
    awq_tensor_init_2d(&scale_view, scales, AWQ_F32, n, groups);
    awq_tensor_init_2d(&zero_view, zeros, AWQ_U8, n, groups);
    assert_status(awq_weight_export(weight, &code_view, &scale_view, &zero_view, NULL), AWQ_OK);
    for (int64_t i = 0; i < n; i++) {
        assert_memory_equal(codes + i * k, planes->codes + (row + i) * planes->k + column, (size_t)k);
        const int64_t at = (row + i) * planes->groups + first_group;
        assert_memory_equal(zeros + i * groups, planes->zeros + at, (size_t)groups);
        for (int64_t g = 0; g < groups; g++) assert_true(scales[i * groups + g] == scale_at(planes, at + g));
    }
    free(codes);
    free(zeros);
    free(scales);
}

/* ---- making and reading */

static void test_create_and_export(void **state)
{
    static const int32_t bits[] = {2, 3, 4, 8}, dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    uint64_t seed = 100;
    for (int round = 0; round < 48; round++) {
        int64_t n = 1 + (int64_t)(random_bits(&seed) % 9), k = 1 + (int64_t)(random_bits(&seed) % 600);
        int64_t group = 1 + (int64_t)(random_bits(&seed) % 140);
        struct planes planes = random_planes(&seed, n, k, group, bits[round % 4], dtypes[round % 3], round / 12 % 2);
        awq_weight *weight;
        assert_status(create(*state, &planes, &weight), AWQ_OK);
        awq_weight_info info;
        awq_struct_init(&info, sizeof info);
        assert_status(awq_weight_get_info(weight, &info), AWQ_OK);
        assert_int_equal(info.bits, bits[round % 4]);
        assert_int_equal(info.scale_dtype, dtypes[round % 3]);
        assert_int_equal(info.flags, planes.options.flags);
        assert_int_equal(info.group_size, group);
        assert_int_equal(info.parts, 1);
        assert_int_equal(info.size_bytes, n * ((k * info.bits + 7) / 8) +
                                              n * planes.groups * (int64_t)awq_dtype_size(info.scale_dtype) +
                                              (info.flags ? 0 : n * planes.groups));
        check_equals(weight, &planes, 0, 0);
        awq_weight_destroy(weight);
        free_planes(&planes);
    }
}

static void test_codes_can_be_read_from_anywhere(void **state)
{
    uint64_t seed = 101;
    for (int round = 0; round < 200; round++) {
        static const int32_t bits[] = {2, 3, 4, 8};
        struct planes planes = random_planes(&seed, 2, 77, 16, bits[round % 4], AWQ_F16, false);
        awq_weight *weight;
        assert_status(create(*state, &planes, &weight), AWQ_OK);
        int64_t first = (int64_t)(random_bits(&seed) % 77),
                count = (int64_t)(random_bits(&seed) % (uint64_t)(78 - first));
        uint8_t codes[77];
        awqi_weight_get_codes(weight, 1, first, count, codes);
        assert_memory_equal(codes, planes.codes + 77 + first, (size_t)count);
        awq_weight_destroy(weight);
        free_planes(&planes);
    }
}

static void test_strided_planes(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 102;
    struct planes planes = random_planes(&seed, 6, 40, 16, 3, AWQ_F16, false);
    awq_weight *weight;
    uint8_t turned[40 * 6], back[40 * 6];
    for (int i = 0; i < 6; i++)
        for (int j = 0; j < 40; j++) turned[j * 6 + i] = planes.codes[i * 40 + j];
    awq_tensor codes, scales, zeros, out;
    awq_tensor_init_const_2d(&codes, turned, AWQ_U8, 6, 40);
    codes.strides[0] = 1;
    codes.strides[1] = 6;
    awq_tensor_init_const_2d(&scales, planes.scales, AWQ_F16, 6, 3);
    awq_tensor_init_const_2d(&zeros, planes.zeros, AWQ_U8, 6, 3);
    assert_status(awq_weight_create(scratch->context, &codes, &scales, &zeros, &planes.options, &weight), AWQ_OK);
    check_equals(weight, &planes, 0, 0);
    awq_tensor_init_2d(&out, back, AWQ_U8, 6, 40);
    out.strides[0] = 1;
    out.strides[1] = 6;
    assert_status(awq_weight_export(weight, &out, NULL, NULL, NULL), AWQ_OK);
    assert_memory_equal(back, turned, sizeof turned);
    awq_weight_destroy(weight);
    free_planes(&planes);
}

static void test_bad_planes_are_refused(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 103;
    struct planes planes = random_planes(&seed, 3, 32, 16, 3, AWQ_F32, false);
    awq_weight *weight;
    planes.codes[2 * 32 + 7] = 8;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_INVALID);
    assert_null(weight);
    assert_error_names("row 2, column 7 is 8");
    planes.codes[2 * 32 + 7] = 7;
    planes.zeros[3] = 200;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_INVALID);
    assert_error_names("row 1, group 1 is 200");
    planes.zeros[3] = 0;
    ((float *)planes.scales)[5] = NAN;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_NON_FINITE);
    assert_error_names("row 2, group 1");
    ((float *)planes.scales)[5] = 1.0f;
    assert_status(create(scratch, &planes, &weight), AWQ_OK);
    awq_weight_destroy(weight);

    planes.groups = 3;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_INVALID);
    assert_error_names("scales: shape [3][3]");
    planes.groups = 2;
    planes.scale_dtype = AWQ_I32;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_INVALID);
    planes.scale_dtype = AWQ_F32;
    planes.options.flags = AWQ_QUANTIZE_INPUT_SCALE_FOLDED;
    assert_status(create(scratch, &planes, &weight), AWQ_ERROR_INVALID);
    planes.options.flags = AWQ_QUANTIZE_SYMMETRIC;
    awq_tensor codes, scales, zeros;
    awq_tensor_init_const_2d(&codes, planes.codes, AWQ_U8, 3, 32);
    awq_tensor_init_const_2d(&scales, planes.scales, AWQ_F32, 3, 2);
    awq_tensor_init_const_2d(&zeros, planes.zeros, AWQ_U8, 3, 2);
    assert_status(awq_weight_create(scratch->context, &codes, &scales, &zeros, &planes.options, &weight),
                  AWQ_ERROR_INVALID);
    assert_error_names("zeros given");
    planes.options.flags = 0;
    assert_status(awq_weight_create(scratch->context, &codes, &scales, NULL, &planes.options, &weight),
                  AWQ_ERROR_INVALID);
    assert_error_names("zeros missing");
    assert_status(awq_weight_create(scratch->context, NULL, &scales, &zeros, &planes.options, &weight),
                  AWQ_ERROR_INVALID);
    assert_status(awq_weight_create(scratch->context, &codes, NULL, &zeros, &planes.options, &weight),
                  AWQ_ERROR_INVALID);
    assert_status(awq_weight_create(NULL, &codes, &scales, &zeros, &planes.options, &weight), AWQ_ERROR_INVALID);
    assert_status(awq_weight_create(scratch->context, &codes, &scales, &zeros, &planes.options, NULL),
                  AWQ_ERROR_INVALID);
    codes.shape[1] = 0;
    assert_status(awq_weight_create(scratch->context, &codes, &scales, &zeros, &planes.options, &weight),
                  AWQ_ERROR_INVALID);
    free_planes(&planes);
}

static void test_outputs_are_checked_before_any_is_written(void **state)
{
    uint64_t seed = 104;
    struct planes planes = random_planes(&seed, 3, 32, 16, 4, AWQ_BF16, false);
    awq_weight *weight;
    assert_status(create(*state, &planes, &weight), AWQ_OK);
    uint8_t codes[96];
    uint16_t scales[6];
    memset(codes, 99, sizeof codes);
    awq_tensor code_view, scale_view;
    awq_tensor_init_2d(&code_view, codes, AWQ_U8, 3, 32);
    awq_tensor_init_2d(&scale_view, scales, AWQ_F16, 3, 2);
    assert_status(awq_weight_export(weight, &code_view, &scale_view, NULL, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(codes[0], 99);
    scale_view.dtype = AWQ_BF16;
    assert_status(awq_weight_export(weight, &code_view, &scale_view, NULL, NULL), AWQ_OK);
    assert_memory_equal(scales, planes.scales, sizeof scales);
    code_view.flags = AWQ_TENSOR_READONLY;
    assert_status(awq_weight_export(weight, &code_view, NULL, NULL, NULL), AWQ_ERROR_INVALID);
    assert_error_names("read-only");
    assert_status(awq_weight_export(NULL, NULL, NULL, NULL, NULL), AWQ_ERROR_INVALID);

    float values[96];
    awq_tensor out;
    awq_tensor_init_2d(&out, values, AWQ_F32, 32, 3);
    assert_status(awq_weight_dequantize(weight, 0, &out), AWQ_ERROR_INVALID);
    awq_tensor_init_2d(&out, values, AWQ_F32, 3, 32);
    assert_status(awq_weight_dequantize(weight, 2, &out), AWQ_ERROR_INVALID);
    assert_status(awq_weight_dequantize(NULL, 0, &out), AWQ_ERROR_INVALID);
    assert_status(awq_weight_dequantize(weight, 0, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_weight_get_info(weight, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_weight_get_info(NULL, NULL), AWQ_ERROR_INVALID);
    awq_weight_destroy(weight);
    awq_weight_destroy(NULL);
    free_planes(&planes);
}

/* ---- dequantisation */

/* The F16 or BF16 number nearest to 'exact', even on ties: the candidate by way of F32 and its neighbours, weighed. */
static float nearest(int32_t dtype, double exact)
{
    float value = (float)exact;
    uint16_t bits;
    awqi_from_f32(dtype, &value, &bits, 1);
    uint16_t best = bits;
    double best_error = INFINITY;
    for (int step = -1; step <= 1; step++) {
        uint16_t candidate = (uint16_t)(bits + step);
        awqi_to_f32(dtype, &candidate, &value, 1);
        double error = fabs((double)value - exact);
        if (error < best_error || (error == best_error && candidate % 2 == 0)) {
            best = candidate;
            best_error = error;
        }
    }
    awqi_to_f32(dtype, &best, &value, 1);
    return value;
}

static void test_dequantize_rounds_once(void **state)
{
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    uint64_t seed = 105;
    for (int round = 0; round < 9; round++) {
        struct planes planes = random_planes(&seed, 40, 300, 7, 8, dtypes[round / 3], false);
        /* Scales beside the middle of two F16 numbers, where rounding to F32 first would make ties. */
        if (round / 3 == 0)
            for (int i = 0; i < 40; i++)
                ((float *)planes.scales)[i] = awqi_bits_to_f32(0x3f800801u + (uint32_t)i * 0x1000u);
        awq_weight *weight;
        assert_status(create(*state, &planes, &weight), AWQ_OK);
        void *values = malloc(40 * 300 * sizeof(float));
        awq_tensor out;
        awq_tensor_init_2d(&out, values, dtypes[round % 3], 40, 300);
        assert_status(awq_weight_dequantize(weight, 0, &out), AWQ_OK);
        for (int64_t i = 0; i < 40 * 300; i++) {
            int64_t group = i / 300 * planes.groups + i % 300 / 7;
            double exact = (double)(planes.codes[i] - planes.zeros[group]) * (double)scale_at(&planes, group);
            float value;
            awqi_to_f32(out.dtype, (char *)values + (size_t)i * awq_dtype_size(out.dtype), &value, 1);
            assert_true(value == (out.dtype == AWQ_F32 ? (float)exact : nearest(out.dtype, exact)));
        }
        free(values);
        awq_weight_destroy(weight);
        free_planes(&planes);
    }
}

static void test_dequantize_unscaled(void **state)
{
    uint64_t seed = 106;
    struct planes planes = random_planes(&seed, 4, 50, 16, 4, AWQ_F16, false);
    float scale[50], scaled[200], unscaled[200];
    for (int i = 0; i < 50; i++) scale[i] = 0.5f + (float)random_uniform(&seed);
    awq_tensor scale_view, out;
    awq_tensor_init_const_1d(&scale_view, scale, AWQ_F32, 50);
    awq_weight *weight;
    assert_status(create(*state, &planes, &weight), AWQ_OK); /* without an input scale the flag changes nothing */
    awq_tensor_init_2d(&out, scaled, AWQ_F32, 4, 50);
    assert_status(awq_weight_dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, &out), AWQ_OK);
    awq_weight_destroy(weight);
    planes.options.input_scale = &scale_view;
    assert_status(create(*state, &planes, &weight), AWQ_OK);
    awq_tensor_init_2d(&out, unscaled, AWQ_F32, 4, 50);
    assert_status(awq_weight_dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, &out), AWQ_OK);
    for (int i = 0; i < 200; i++) assert_true(unscaled[i] == (float)((double)scaled[i] / (double)scale[i % 50]));
    awq_weight_destroy(weight);
    scale[3] = -1.0f;
    assert_status(create(*state, &planes, &weight), AWQ_ERROR_INVALID);
    assert_error_names("column 3 is -1");
    free_planes(&planes);
}

/* ---- cutting and joining */

static void test_slices(void **state)
{
    static const int32_t bits[] = {2, 3, 4, 8};
    uint64_t seed = 107;
    float scale[100];
    for (int i = 0; i < 100; i++) scale[i] = 1.0f + (float)i;
    awq_tensor view, out;
    awq_tensor_init_const_1d(&view, scale, AWQ_F32, 100);
    for (int round = 0; round < 8; round++) {
        struct planes planes = random_planes(&seed, 10, 100, 15, bits[round % 4], AWQ_F16, round / 4);
        planes.options.input_scale = &view;
        awq_weight *weight, *slice;
        assert_status(create(*state, &planes, &weight), AWQ_OK);
        assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, 3, 8, &slice), AWQ_OK);
        check_equals(slice, &planes, 3, 0);
        awq_weight_destroy(slice);
        static const int64_t cuts[][2] = {{0, 100}, {0, 15}, {45, 75}, {30, 100}, {90, 100}};
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            assert_status(awq_weight_slice(weight, AWQ_SLICE_COLUMNS, cuts[i][0], cuts[i][1], &slice), AWQ_OK);
            check_equals(slice, &planes, 0, cuts[i][0]);
            float part[100];
            awq_tensor_init_1d(&out, part, AWQ_F32, cuts[i][1] - cuts[i][0]);
            assert_status(awq_weight_export(slice, NULL, NULL, NULL, &out), AWQ_OK);
            assert_true(part[0] == scale[cuts[i][0]]);
            awq_weight_destroy(slice);
        }
        awq_weight_destroy(weight);
        free_planes(&planes);
    }
}

static void test_bad_cuts_are_refused(void **state)
{
    uint64_t seed = 108;
    struct planes planes = random_planes(&seed, 10, 100, 15, 4, AWQ_F16, false);
    awq_weight *weight, *slice;
    assert_status(create(*state, &planes, &weight), AWQ_OK);
    assert_status(awq_weight_slice(weight, AWQ_SLICE_COLUMNS, 0, 50, &slice), AWQ_ERROR_INVALID);
    assert_null(slice);
    assert_error_names("45 and 60");
    assert_status(awq_weight_slice(weight, AWQ_SLICE_COLUMNS, 95, 100, &slice), AWQ_ERROR_INVALID);
    assert_error_names("90 and 100");
    assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, 5, 5, &slice), AWQ_ERROR_INVALID);
    assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, -1, 5, &slice), AWQ_ERROR_INVALID);
    assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, 5, 11, &slice), AWQ_ERROR_INVALID);
    assert_status(awq_weight_slice(weight, 2, 0, 5, &slice), AWQ_ERROR_INVALID);
    assert_status(awq_weight_slice(NULL, AWQ_SLICE_ROWS, 0, 5, &slice), AWQ_ERROR_INVALID);
    assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, 0, 5, NULL), AWQ_ERROR_INVALID);
    awq_weight_destroy(weight);
    free_planes(&planes);
}

static void test_concatenation_undoes_slicing(void **state)
{
    uint64_t seed = 109;
    struct planes planes = random_planes(&seed, 9, 70, 32, 3, AWQ_BF16, false);
    awq_weight *weight, *parts[3], *joined, *again;
    assert_status(create(*state, &planes, &weight), AWQ_OK);
    static const int64_t cuts[] = {0, 1, 5, 9};
    for (int i = 0; i < 3; i++)
        assert_status(awq_weight_slice(weight, AWQ_SLICE_ROWS, cuts[i], cuts[i + 1], &parts[i]), AWQ_OK);
    assert_status(awq_weight_concatenate(3, (const awq_weight *const *)parts, &joined), AWQ_OK);
    check_equals(joined, &planes, 0, 0);
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    assert_status(awq_weight_get_info(joined, &info), AWQ_OK);
    assert_int_equal(info.parts, 3);
    const awq_weight *both[] = {joined, weight};
    assert_status(awq_weight_concatenate(2, both, &again), AWQ_OK);
    assert_status(awq_weight_get_info(again, &info), AWQ_OK);
    assert_int_equal(info.parts, 4);
    assert_int_equal(info.n, 18);
    for (int i = 0; i < 3; i++) awq_weight_destroy(parts[i]);
    awq_weight_destroy(again);
    awq_weight_destroy(joined);
    awq_weight_destroy(weight);
    free_planes(&planes);
}

static void test_only_likes_are_concatenated(void **state)
{
    uint64_t seed = 110;
    float scale[64];
    for (int i = 0; i < 64; i++) scale[i] = 1.0f + (float)i;
    awq_tensor view;
    awq_tensor_init_const_1d(&view, scale, AWQ_F32, 64);
    static const struct {
        int64_t k, group;
        int32_t bits, dtype;
        bool symmetric, scaled;
        const char *text;
    } others[] = {
        {32, 32, 4, AWQ_F16, false, false, "inputs"},     {64, 16, 4, AWQ_F16, false, false, "group size"},
        {64, 32, 3, AWQ_F16, false, false, "bits"},       {64, 32, 4, AWQ_BF16, false, false, "scale dtype"},
        {64, 32, 4, AWQ_F16, true, false, "symmetry"},    {64, 32, 4, AWQ_F16, false, true, "input scale"},
    };
    struct planes planes = random_planes(&seed, 2, 64, 32, 4, AWQ_F16, false);
    awq_weight *first, *second, *joined;
    assert_status(create(*state, &planes, &first), AWQ_OK);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        struct planes other =
            random_planes(&seed, 3, others[i].k, others[i].group, others[i].bits, others[i].dtype, others[i].symmetric);
        if (others[i].scaled) other.options.input_scale = &view;
        assert_status(create(*state, &other, &second), AWQ_OK);
        assert_status(awq_weight_concatenate(2, (const awq_weight *const[]){first, second}, &joined),
                      AWQ_ERROR_INVALID);
        assert_null(joined);
        assert_error_names(others[i].text);
        awq_weight_destroy(second);
        free_planes(&other);
    }
    assert_status(awq_weight_concatenate(0, NULL, &joined), AWQ_ERROR_INVALID);
    assert_status(awq_weight_concatenate(2, (const awq_weight *const[]){first, NULL}, &joined), AWQ_ERROR_INVALID);
    assert_status(awq_weight_concatenate(1, (const awq_weight *const[]){first}, NULL), AWQ_ERROR_INVALID);

    /* Input scales that differ in one bit. */
    awq_weight_destroy(first);
    planes.options.input_scale = &view;
    assert_status(create(*state, &planes, &first), AWQ_OK);
    scale[63] = nextafterf(scale[63], 0.0f);
    assert_status(create(*state, &planes, &second), AWQ_OK);
    assert_status(awq_weight_concatenate(2, (const awq_weight *const[]){first, second}, &joined), AWQ_ERROR_INVALID);
    assert_error_names("input scale");
    awq_weight_destroy(first);
    awq_weight_destroy(second);
    free_planes(&planes);
}

static void test_allocations_may_fail(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 111;
    float scale[64];
    for (int i = 0; i < 64; i++) scale[i] = 1.0f;
    awq_tensor view;
    awq_tensor_init_const_1d(&view, scale, AWQ_F32, 64);
    struct planes planes = random_planes(&seed, 4, 64, 32, 4, AWQ_F16, false);
    planes.options.input_scale = &view;
    awq_weight *weight = NULL, *slice = NULL, *joined = NULL;
    for (int64_t allowed = 0; joined == NULL && allowed < 100; allowed++) {
        scratch->allocations_left = allowed;
        if (weight == NULL && create(scratch, &planes, &weight) != AWQ_OK) continue;
        if (slice == NULL && awq_weight_slice(weight, AWQ_SLICE_COLUMNS, 32, 64, &slice) != AWQ_OK) continue;
        (void)awq_weight_concatenate(2, (const awq_weight *const[]){slice, slice}, &joined);
    }
    scratch->allocations_left = -1;
    assert_non_null(joined);
    awq_weight_destroy(joined);
    awq_weight_destroy(slice);
    awq_weight_destroy(weight);
    free_planes(&planes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_create_and_export),
        SCRATCH_TEST(test_codes_can_be_read_from_anywhere),
        SCRATCH_TEST(test_strided_planes),
        SCRATCH_TEST(test_bad_planes_are_refused),
        SCRATCH_TEST(test_outputs_are_checked_before_any_is_written),
        SCRATCH_TEST(test_dequantize_rounds_once),
        SCRATCH_TEST(test_dequantize_unscaled),
        SCRATCH_TEST(test_slices),
        SCRATCH_TEST(test_bad_cuts_are_refused),
        SCRATCH_TEST(test_concatenation_undoes_slicing),
        SCRATCH_TEST(test_only_likes_are_concatenated),
        SCRATCH_TEST(test_allocations_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
