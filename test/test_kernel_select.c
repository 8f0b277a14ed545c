/* Kernel choice: a function of two structs and nothing else. */
#include "scratch.h"

static awq_device_info cpu(void)
{
    awq_device_info device;
    awq_struct_init(&device, sizeof device);
    device.device_type = AWQ_DEVICE_CPU;
    return device;
}

static awq_kernel_request request_for(int64_t rows)
{
    awq_kernel_request request;
    awq_struct_init(&request, sizeof request);
    request.n = 4096;
    request.k = 4096;
    request.rows = rows;
    return request;
}

static int lines_of(const char *text)
{
    int lines = 0;
    for (; *text != 0; text++) lines += *text == '\n';
    return lines;
}

static void names_are_complete(void **state)
{
    (void)state;
    assert_string_equal(awq_kernel_name(AWQ_KERNEL_AUTO), "auto");
    assert_string_equal(awq_kernel_name(AWQ_KERNEL_REFERENCE), "reference");
    assert_string_equal(awq_kernel_name(AWQ_KERNEL_DEQUANT), "dequant");
    assert_null(awq_kernel_name(-1));
    assert_null(awq_kernel_name(AWQ_KERNEL_DEQUANT + 1));
}

static void rows_decide_on_the_cpu(void **state)
{
    (void)state;
    awq_device_info device = cpu();
    for (int64_t rows = 1; rows <= 1000; rows = rows < 20 ? rows + 1 : rows * 3) {
        awq_kernel_request request = request_for(rows);
        int32_t kernel = -1;
        char text[2048];
        size_t length;
        assert_status(awq_kernel_select(&device, &request, &kernel, text, sizeof text, &length), AWQ_OK);
        assert_int_equal(kernel, rows <= 8 ? AWQ_KERNEL_GEMV : AWQ_KERNEL_GEMM);
        assert_int_equal(length, strlen(text));
        /* The choice first, then every other kernel once. */
        assert_int_equal(lines_of(text), AWQ_KERNEL_DEQUANT);
        assert_memory_equal(text, rows <= 8 ? "gemv: taken" : "gemm: taken", 11);
        for (int32_t other = AWQ_KERNEL_REFERENCE; other <= AWQ_KERNEL_DEQUANT; other++) {
            char line[64];
            snprintf(line, sizeof line, "%s: %s", awq_kernel_name(other), other == kernel ? "taken" : "passed over");
            assert_non_null(strstr(text, line));
        }
    }
}

static void text_is_optional(void **state)
{
    (void)state;
    awq_device_info device = cpu();
    awq_kernel_request request = request_for(1);
    int32_t kernel;
    size_t length = 0;
    assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL), AWQ_OK);
    assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, &length), AWQ_OK);
    assert_true(length > 100);
}

static void assert_refused(const awq_kernel_request *request, awq_status expected)
{
    awq_device_info device = cpu();
    int32_t kernel = -5;
    assert_status(awq_kernel_select(&device, request, &kernel, NULL, 0, NULL), expected);
    assert_int_equal(kernel, -5);
}

static void bad_requests_are_refused(void **state)
{
    (void)state;
    awq_kernel_request request = request_for(0);
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(-1);
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    request.n = 0;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    request.bits = 5;
    assert_refused(&request, AWQ_ERROR_INVALID);
    assert_error_names("5 bits");
    request = request_for(1);
    request.group_size = -2;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    request.dtype = AWQ_I8;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    request.flags = 8;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    request.activation = 5;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request.activation = AWQ_ACTIVATION_INT8;
    assert_refused(&request, AWQ_ERROR_UNSUPPORTED);
    request = request_for(1);
    request.struct_size = 3;
    assert_refused(&request, AWQ_ERROR_INVALID);
    request = request_for(1);
    awq_device_info device = cpu();
    int32_t kernel;
    assert_status(awq_kernel_select(NULL, &request, &kernel, NULL, 0, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_kernel_select(&device, NULL, &kernel, NULL, 0, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_kernel_select(&device, &request, NULL, NULL, 0, NULL), AWQ_ERROR_INVALID);
    device.device_type = 5;
    assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL), AWQ_ERROR_INVALID);
}

static void every_kind_of_weight_has_a_kernel(void **state)
{
    (void)state;
    awq_device_info device = cpu();
    static const int32_t bits[] = {0, 2, 3, 4, 8, 16, 32};
    static const int64_t groups[] = {AWQ_GROUP_PER_ROW, 0, 16, 100};
    for (size_t i = 0; i < 7; i++)
        for (size_t j = 0; j < 4; j++) {
            awq_kernel_request request = request_for(1);
            request.bits = bits[i];
            request.group_size = groups[j];
            request.flags = j % 2 ? AWQ_QUANTIZE_SYMMETRIC : 0;
            request.activation = AWQ_ACTIVATION_EXACT;
            int32_t kernel;
            assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL), AWQ_OK);
        }
}

static void cuda_kernels_are_named_as_missing(void **state)
{
    (void)state;
    awq_device_info device = cpu();
    device.device_type = AWQ_DEVICE_CUDA;
    device.compute_capability = 90;
    awq_kernel_request request = request_for(16);
    int32_t kernel = -5;
    assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL), AWQ_ERROR_UNSUPPORTED);
    assert_int_equal(kernel, -5);
    for (int32_t i = AWQ_KERNEL_REFERENCE; i <= AWQ_KERNEL_DEQUANT; i++) assert_error_names(awq_kernel_name(i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_complete),
        cmocka_unit_test(rows_decide_on_the_cpu),
        cmocka_unit_test(text_is_optional),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(every_kind_of_weight_has_a_kernel),
        cmocka_unit_test(cuda_kernels_are_named_as_missing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
