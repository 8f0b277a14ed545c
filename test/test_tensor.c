/* Tensor views: conversions, checks, strides, DLPack. */
#include "dlpack.h"
#include "internal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static awq_context *context;

static int setup(void **state)
{
    (void)state;
    return awq_context_create(NULL, &context);
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return 0;
}

/* The FP16 value nearest to 'value', ties to even, by search among all of them. */
static uint16_t nearest_f16(float value)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs((double)value);
    if (magnitude >= 65520.0) return sign | 0x7c00;
    uint16_t low = 0, high = 0x7bff;
    while (low < high) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);
        if ((double)awqi_f16_to_f32(middle) <= magnitude) low = middle;
        else high = (uint16_t)(middle - 1);
    }
    if (low == 0x7bff) return sign | low;
    double below = magnitude - (double)awqi_f16_to_f32(low), above = (double)awqi_f16_to_f32(low + 1) - magnitude;
    if (above < below || (above == below && (low & 1))) low++;
    return sign | low;
}

static void every_half_survives_the_round_trip(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        float value = awqi_f16_to_f32((uint16_t)half);
        if (isnan(value)) {
            assert_true(isnan(awqi_f16_to_f32(awqi_f32_to_f16(value))));
            continue;
        }
        assert_int_equal(awqi_f32_to_f16(value), half);
    }
    assert_true(awqi_f16_to_f32(0x3c00) == 1.0f && awqi_f16_to_f32(0x0001) == 0x1p-24f &&
                awqi_f16_to_f32(0x7bff) == 65504.0f && isinf(awqi_f16_to_f32(0xfc00)));
}

static void half_rounding_is_to_nearest_even(void **state)
{
    (void)state;
    uint32_t bits = 1;
    for (int i = 0; i < 200000; i++) {
        bits = bits * 1664525u + 1013904223u;
        /* Exponents around FP16's range, so that subnormals, ties and overflow are all met. */
        float value = awqi_bits_to_f32((bits & 0x80ffffffu) | ((100u + (bits >> 24) % 50u) << 23));
        assert_int_equal(awqi_f32_to_f16(value), nearest_f16(value));
    }
    for (uint32_t half = 0; half < 0x7bff; half++) {
        float tie = (float)(((double)awqi_f16_to_f32((uint16_t)half) + (double)awqi_f16_to_f32((uint16_t)(half + 1))) / 2);
        assert_int_equal(awqi_f32_to_f16(tie), nearest_f16(tie));
    }
}

static void bfloat_rounding_is_to_nearest_even(void **state)
{
    (void)state;
    assert_int_equal(awqi_f32_to_bf16(1.0f), 0x3f80);
    assert_int_equal(awqi_f32_to_bf16(awqi_bits_to_f32(0x3f808000)), 0x3f80); /* tie, even below */
    assert_int_equal(awqi_f32_to_bf16(awqi_bits_to_f32(0x3f818000)), 0x3f82); /* tie, even above */
    assert_int_equal(awqi_f32_to_bf16(awqi_bits_to_f32(0x7f7fffff)), 0x7f80); /* overflow */
    assert_true(isnan(awqi_bf16_to_f32(awqi_f32_to_bf16(NAN))));
    assert_true(isnan(awqi_bf16_to_f32(awqi_f32_to_bf16(awqi_bits_to_f32(0x7f800001)))));
}

static void copies_convert_and_follow_strides(void **state)
{
    (void)state;
    float source[12], result[12];
    uint16_t half[12];
    for (int i = 0; i < 12; i++) source[i] = (float)i - 5.25f;
    awq_tensor src, dst, transposed;
    awq_tensor_init_const_2d(&src, source, AWQ_F32, 3, 4);
    awq_tensor_init_2d(&dst, half, AWQ_F16, 4, 3);
    transposed = src;
    transposed.shape[0] = 4, transposed.shape[1] = 3;
    transposed.strides[0] = 1, transposed.strides[1] = 4;
    assert_int_equal(awq_tensor_copy(context, &transposed, &dst, NULL), AWQ_OK);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 3; j++) assert_true(awqi_f16_to_f32(half[i * 3 + j]) == source[j * 4 + i]);
    awq_tensor back;
    awq_tensor_init_2d(&back, result, AWQ_F32, 4, 3);
    assert_int_equal(awq_tensor_copy(context, &dst, &back, NULL), AWQ_OK);
    assert_true(result[1] == source[4]);
}

static void rows_of_any_rank_are_found(void **state)
{
    (void)state;
    float data[2 * 3 * 4];
    for (int i = 0; i < 24; i++) data[i] = (float)i;
    const int64_t shape[3] = {2, 3, 4};
    awq_tensor tensor;
    assert_int_equal(awq_tensor_init(&tensor, data, AWQ_F32, 3, shape), AWQ_OK);
    int64_t rows;
    assert_int_equal(awqi_check_rows(&tensor, 4, "x", &rows), AWQ_OK);
    assert_int_equal(rows, 6);
    for (int64_t row = 0; row < 6; row++) assert_true(*(const float *)awqi_tensor_row(&tensor, row) == (float)(row * 4));
    tensor.strides[0] = -12;
    tensor.byte_offset = 12 * sizeof(float);
    assert_true(*(const float *)awqi_tensor_row(&tensor, 3) == 0.0f);
    float values[4];
    awqi_load_row(&tensor, 4, values, 4);
    assert_true(values[3] == 7.0f);
    assert_int_equal(awqi_check_rows(&tensor, 5, "x", &rows), AWQ_ERROR_INVALID);
}

static void bad_views_are_refused_by_name(void **state)
{
    (void)state;
    float data[16];
    awq_tensor tensor, other;
    awq_tensor_init_2d(&tensor, data, AWQ_F32, 4, 4);
    assert_int_equal(awqi_check_tensor(&tensor, 2, AWQI_FLOATS, "w"), AWQ_OK);
    assert_int_equal(awqi_check_tensor(NULL, 2, AWQI_FLOATS, "w"), AWQ_ERROR_INVALID);
    assert_int_equal(awqi_check_tensor(&tensor, 1, AWQI_FLOATS, "w"), AWQ_ERROR_INVALID);
    assert_int_equal(awqi_check_tensor(&tensor, 2, 1u << AWQ_U8, "w"), AWQ_ERROR_INVALID);
    assert_non_null(strstr(awq_last_error(), "w: dtype F32"));
    other = tensor, other.dtype = 99;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.data = NULL;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.shape[1] = -1;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.shape[0] = INT64_MAX / 2;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.ndim = 9;
    assert_int_equal(awqi_check_tensor(&other, -1, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.byte_offset = 2;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    other = tensor, other.flags = 8;
    assert_int_equal(awqi_check_tensor(&other, 2, 0, "w"), AWQ_ERROR_INVALID);
    awq_tensor_init_const_2d(&other, data, AWQ_F32, 4, 4);
    assert_int_equal(awqi_check_writable(&other, "y"), AWQ_ERROR_INVALID);
    assert_int_equal(awq_tensor_copy(context, &tensor, &other, NULL), AWQ_ERROR_INVALID);
    awq_tensor_init_2d(&other, data, AWQ_I32, 4, 4);
    assert_int_equal(awq_tensor_copy(context, &tensor, &other, NULL), AWQ_ERROR_INVALID);
    awq_tensor_init_2d(&other, data, AWQ_F32, 2, 8);
    assert_int_equal(awq_tensor_copy(context, &tensor, &other, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_tensor_init(&other, data, AWQ_F32, 9, NULL), AWQ_ERROR_INVALID);
    awq_tensor_init_2d(NULL, data, AWQ_F32, 1, 1);
}

static void non_finite_values_are_found(void **state)
{
    (void)state;
    float values[150] = {0};
    assert_int_equal(awqi_find_non_finite(values, 150), -1);
    values[149] = INFINITY;
    assert_int_equal(awqi_find_non_finite(values, 150), 149);
    values[64] = NAN;
    assert_int_equal(awqi_find_non_finite(values, 150), 64);
    values[3] = -INFINITY;
    assert_int_equal(awqi_find_non_finite(values, 150), 3);
    values[3] = 3.4e38f;
    assert_int_equal(awqi_find_non_finite(values, 64), -1);
}

static void dlpack_tensors_are_borrowed(void **state)
{
    (void)state;
    float data[12];
    int64_t shape[2] = {2, 3}, strides[2] = {1, 2};
    struct awqi_dl_managed managed = {.version = {1, 3},
                                      .flags = AWQI_DL_FLAG_READ_ONLY,
                                      .tensor = {.data = data,
                                                 .device = {AWQI_DL_CPU, 0},
                                                 .ndim = 2,
                                                 .dtype = {AWQI_DL_FLOAT, 32, 1},
                                                 .shape = shape,
                                                 .byte_offset = 8}};
    awq_tensor tensor;
    assert_int_equal(awq_tensor_from_dlpack_versioned(&managed, &tensor), AWQ_OK);
    assert_int_equal(tensor.flags, AWQ_TENSOR_READONLY);
    assert_int_equal(tensor.strides[0], 3);
    assert_ptr_equal(awqi_tensor_data(&tensor), data + 2);
    managed.tensor.strides = strides;
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_OK);
    assert_int_equal(tensor.strides[1], 2);
    assert_int_equal(tensor.flags, 0);
    managed.version.major = 2;
    assert_int_equal(awq_tensor_from_dlpack_versioned(&managed, &tensor), AWQ_ERROR_VERSION);
    managed.version.major = 1;
    managed.flags = AWQI_DL_FLAG_SUBBYTE_PADDED;
    assert_int_equal(awq_tensor_from_dlpack_versioned(&managed, &tensor), AWQ_ERROR_UNSUPPORTED);
    managed.tensor.dtype = (struct awqi_dl_dtype){AWQI_DL_FLOAT8_E4M3FN, 8, 1};
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_OK);
    assert_int_equal(tensor.dtype, AWQ_F8_E4M3);
    managed.tensor.shape = NULL;
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_ERROR_INVALID);
    managed.tensor.shape = shape;
    managed.tensor.dtype.lanes = 4;
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_ERROR_UNSUPPORTED);
    managed.tensor.dtype.lanes = 1;
    managed.tensor.device.type = 8;
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_ERROR_UNSUPPORTED);
    managed.tensor.device.type = AWQI_DL_CPU;
    managed.tensor.ndim = 12;
    assert_int_equal(awq_tensor_from_dlpack(&managed.tensor, &tensor), AWQ_ERROR_UNSUPPORTED);
    assert_int_equal(awq_tensor_from_dlpack(NULL, &tensor), AWQ_ERROR_INVALID);
    assert_int_equal(awq_tensor_from_dlpack_versioned(NULL, &tensor), AWQ_ERROR_INVALID);
}

static void dtypes_have_names_and_sizes(void **state)
{
    (void)state;
    assert_int_equal(awq_dtype_size(AWQ_BF16), 2);
    assert_int_equal(awq_dtype_size(AWQ_F8_E5M2), 1);
    assert_int_equal(awq_dtype_size(0), 0);
    assert_int_equal(awq_dtype_size(-3), 0);
    assert_int_equal(awq_dtype_size(16), 0);
    assert_string_equal(awq_dtype_name(AWQ_I32), "I32");
    assert_string_equal(awq_dtype_name(77), "unknown");
}

/* Where a calibration had kept no rows, 0 was added to its null pointer, which C does not define. */
static void empty_tensors_need_no_data(void **state)
{
    (void)state;
    awq_tensor tensor;
    awq_tensor_init_1d(&tensor, NULL, AWQ_F32, 0);
    assert_int_equal(awqi_check_tensor(&tensor, 1, 0, "empty"), AWQ_OK);
    assert_null(awqi_tensor_data(&tensor));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_the_round_trip),
        cmocka_unit_test(half_rounding_is_to_nearest_even),
        cmocka_unit_test(bfloat_rounding_is_to_nearest_even),
        cmocka_unit_test(copies_convert_and_follow_strides),
        cmocka_unit_test(rows_of_any_rank_are_found),
        cmocka_unit_test(empty_tensors_need_no_data),
        cmocka_unit_test(bad_views_are_refused_by_name),
        cmocka_unit_test(non_finite_values_are_found),
        cmocka_unit_test(dlpack_tensors_are_borrowed),
        cmocka_unit_test(dtypes_have_names_and_sizes),
    };
    return cmocka_run_group_tests_name("tensor", tests, setup, teardown);
}
