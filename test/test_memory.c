/* The memory estimate, against sums done by hand. */
#include "scratch.h"

static awq_memory_request small_model(void)
{
    awq_memory_request request;
    awq_struct_init(&request, sizeof request);
    request.flags = AWQ_MODEL_GATED_MLP;
    request.layers = 2;
    request.hidden = 64;
    request.intermediate = 160;
    request.heads = 4;
    request.kv_heads = 2;
    request.head_dim = 16;
    request.vocabulary = 100;
    return request;
}

static awq_memory_estimate_result estimate(const awq_memory_request *request)
{
    awq_memory_estimate_result result;
    awq_struct_init(&result, sizeof result);
    assert_status(awq_memory_estimate(request, &result), AWQ_OK);
    assert_int_equal(result.inference_bytes, result.codes_bytes + result.scales_bytes + result.zeros_bytes +
                                                 result.dense_bytes + result.kv_cache_bytes + result.activation_bytes);
    return result;
}

/* q 64x64, k and v 32x64, o 64x64, gate and up 160x64, down 64x160: 43008 weights a block. */
enum { BLOCK_WEIGHTS = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 2 * 160 * 64 + 64 * 160 };

static void a_quantised_model_adds_up(void **state)
{
    (void)state;
    awq_memory_request request = small_model();
    request.group_size = 64;
    awq_memory_estimate_result result = estimate(&request);
    assert_int_equal(result.codes_bytes, 2 * BLOCK_WEIGHTS / 2);
    /* One group a row, three for down, whose last is short. */
    uint64_t groups = 64 + 2 * 32 + 64 + 2 * 160 + 3 * 64;
    assert_int_equal(result.scales_bytes, 2 * groups * 2);
    assert_int_equal(result.zeros_bytes, 2 * groups / 2);
    /* Embeddings and head, two norms a block, one at the end. */
    assert_int_equal(result.dense_bytes, (2 * 100 + 2 * 2 + 1) * 64 * 2);
    assert_int_equal(result.kv_cache_bytes, 0);
    assert_true(result.activation_bytes > 0);
    assert_true(result.quantize_bytes > BLOCK_WEIGHTS * 4);
}

static void options_change_what_they_should(void **state)
{
    (void)state;
    awq_memory_request request = small_model();
    awq_memory_estimate_result base = estimate(&request), result;
    request.flags |= AWQ_MODEL_TIED_HEAD;
    assert_int_equal(estimate(&request).dense_bytes, base.dense_bytes - 100 * 64 * 2);
    request = small_model();
    request.flags = 0;
    assert_int_equal(estimate(&request).codes_bytes, base.codes_bytes - 2 * 160 * 64 / 2);
    request = small_model();
    request.quantize_flags = AWQ_QUANTIZE_SYMMETRIC;
    result = estimate(&request);
    assert_int_equal(result.zeros_bytes, 0);
    assert_int_equal(result.codes_bytes, base.codes_bytes);
    request = small_model();
    request.bits = 16;
    result = estimate(&request);
    assert_int_equal(result.codes_bytes, 2 * BLOCK_WEIGHTS * 2);
    assert_int_equal(result.scales_bytes + result.zeros_bytes, 0);
    request = small_model();
    request.bits = 3;
    assert_int_equal(estimate(&request).codes_bytes, 2 * BLOCK_WEIGHTS * 3 / 8);
    request = small_model();
    request.group_size = AWQ_GROUP_PER_ROW;
    assert_int_equal(estimate(&request).scales_bytes, 2 * (64 + 2 * 32 + 64 + 2 * 160 + 64) * 2);
    request = small_model();
    request.batch = 3;
    request.context_tokens = 50;
    result = estimate(&request);
    assert_int_equal(result.kv_cache_bytes, 3 * 50 * 2 * 2 * 2 * 16 * 2);
    request.kv_element_bytes = 4;
    assert_int_equal(estimate(&request).kv_cache_bytes, 2 * result.kv_cache_bytes);
    request = small_model();
    request.experts = 4;
    result = estimate(&request);
    assert_int_equal(result.codes_bytes, base.codes_bytes + 2 * 3 * (3 * 160 * 64) / 2);
    assert_int_equal(result.dense_bytes, base.dense_bytes + 2 * 4 * 64 * 2);
    request = small_model();
    request.calibration_tokens = 3000;
    uint64_t quantize_bytes = estimate(&request).quantize_bytes;
    assert_true(quantize_bytes > base.quantize_bytes + 3000 * 64 * 4);
    request.calibration_tokens = 4000; /* beyond those that run through a block together, only inputs are kept */
    assert_int_equal(estimate(&request).quantize_bytes, quantize_bytes + 1000 * 64 * 4);
}

static void assert_refused(const awq_memory_request *request, const char *name)
{
    awq_memory_estimate_result result;
    awq_struct_init(&result, sizeof result);
    result.codes_bytes = 77;
    assert_status(awq_memory_estimate(request, &result), AWQ_ERROR_INVALID);
    assert_error_names(name);
    assert_int_equal(result.codes_bytes, 77);
}

static void bad_shapes_are_refused(void **state)
{
    (void)state;
    awq_memory_request request = small_model();
    request.layers = 0;
    assert_refused(&request, "layers");
    request = small_model();
    request.kv_heads = 0;
    assert_refused(&request, "kv_heads");
    request = small_model();
    request.vocabulary = -1;
    assert_refused(&request, "vocabulary");
    request = small_model();
    request.experts = -1;
    assert_refused(&request, "experts");
    request = small_model();
    request.context_tokens = -1;
    assert_refused(&request, "context_tokens");
    request = small_model();
    request.bits = 7;
    assert_refused(&request, "7 bits");
    request = small_model();
    request.group_size = -3;
    assert_refused(&request, "group_size");
    request = small_model();
    request.flags = 4;
    assert_refused(&request, "flag");
    request = small_model();
    request.quantize_flags = 2;
    assert_refused(&request, "flag");
    request = small_model();
    request.hidden = INT64_MAX / 2;
    assert_refused(&request, "64 bits");
    request = small_model();
    request.vocabulary = INT64_MAX;
    assert_refused(&request, "64 bits");
    request = small_model();
    request.calibration_tokens = INT64_MAX / 2;
    assert_refused(&request, "64 bits");
    awq_memory_estimate_result result;
    awq_struct_init(&result, sizeof result);
    request = small_model();
    assert_status(awq_memory_estimate(NULL, &result), AWQ_ERROR_INVALID);
    assert_status(awq_memory_estimate(&request, NULL), AWQ_ERROR_INVALID);
    result.struct_size = 1;
    assert_status(awq_memory_estimate(&request, &result), AWQ_ERROR_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_quantised_model_adds_up),
        cmocka_unit_test(options_change_what_they_should),
        cmocka_unit_test(bad_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
