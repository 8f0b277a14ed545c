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

/* Every generation of GPUs, by what it decides: is there a device, has it BF16, is it Hopper. */
static void cuda_kernels_are_chosen_from_a_table(void **state)
{
    (void)state;
    static const int32_t capabilities[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};
    static const struct {
        int32_t bits, dtype, activation;
        int64_t group_size, rows;
        int32_t on_75, later, on_90;
    } table[] = {
        {4, AWQ_F16, 0, 128, 1, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV},
        {4, AWQ_F16, 0, 128, 8, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV},
        {4, AWQ_F16, 0, 128, 9, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM},
        {4, AWQ_F16, 0, 128, 32, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM},
        {4, AWQ_F16, 0, 128, 33, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {8, AWQ_F16, 0, 128, 64, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM},
        {4, AWQ_F16, 0, 128, 64, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {4, AWQ_F16, 0, 128, 4096, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT},
        {4, AWQ_BF16, 0, 128, 4096, AWQ_KERNEL_GEMV, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT},
        {4, AWQ_BF16, 0, 128, 1, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV},
        {4, AWQ_BF16, 0, 128, 64, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {4, AWQ_F32, 0, 128, 64, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV},
        {4, AWQ_F32, AWQ_ACTIVATION_BF16, 128, 64, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {4, AWQ_F16, AWQ_ACTIVATION_EXACT, 128, 64, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMV},
        {3, AWQ_F16, 0, AWQ_GROUP_PER_ROW, 64, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {4, AWQ_F16, 0, 48, 64, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_HOPPER},
        {4, AWQ_F16, 0, 20, 64, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE},
        {8, AWQ_F16, 0, 128, 1, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM},
        {8, AWQ_BF16, 0, 128, 1, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_GEMM, AWQ_KERNEL_GEMM},
        {8, AWQ_F32, 0, 128, 1, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE},
        {16, AWQ_F16, 0, 128, 1, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT},
        {16, AWQ_BF16, 0, 128, 1, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_DEQUANT, AWQ_KERNEL_DEQUANT},
        {32, AWQ_F16, 0, 128, 1, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE, AWQ_KERNEL_REFERENCE},
    };
    awq_device_info device = cpu();
    device.device_type = AWQ_DEVICE_CUDA;
    for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++)
        for (size_t j = 0; j < sizeof table / sizeof *table; j++) {
            device.compute_capability = capabilities[i];
            awq_kernel_request request = request_for(table[j].rows);
            request.bits = table[j].bits;
            request.dtype = table[j].dtype;
            request.activation = table[j].activation;
            request.group_size = table[j].group_size;
            int32_t kernel = -5;
            char text[2048];
            assert_status(awq_kernel_select(&device, &request, &kernel, text, sizeof text, NULL), AWQ_OK);
            assert_int_equal(kernel, capabilities[i] < 80    ? table[j].on_75
                                     : capabilities[i] == 90 ? table[j].on_90
                                                             : table[j].later);
            if (capabilities[i] != 90) assert_non_null(strstr(text, "hopper: passed over: only for compute capability 9"));
            for (int32_t k = AWQ_KERNEL_REFERENCE; k <= AWQ_KERNEL_DEQUANT; k++) {
                char verdict[64];
                snprintf(verdict, sizeof verdict, "%s: %s: ", awq_kernel_name(k),
                         k == kernel ? "taken" : "passed over");
                assert_non_null(strstr(text, verdict));
            }
        }
}

/* The least number of rows from which the weight is dequantised first. */
static int64_t crossover_of(const awq_device_info *device)
{
    int64_t below = 1, rows = 1 << 20;
    while (rows - below > 1) {
        const int64_t middle = (below + rows) / 2;
        awq_kernel_request request = request_for(middle);
        int32_t kernel;
        assert_status(awq_kernel_select(device, &request, &kernel, NULL, 0, NULL), AWQ_OK);
        if (kernel == AWQ_KERNEL_DEQUANT) rows = middle;
        else below = middle;
    }
    return rows;
}

/* Memory that is slow for what the multiprocessors can multiply is read and written again for more rows only. */
static void the_crossover_follows_the_device(void **state)
{
    (void)state;
    static const int32_t capabilities[] = {75, 80, 86, 87, 89, 90, 100, 110, 120};
    for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++) {
        awq_device_info device = cpu();
        device.device_type = AWQ_DEVICE_CUDA;
        device.compute_capability = capabilities[i];
        const int64_t unknown = crossover_of(&device);
        device.compute_units = 100;
        assert_int_equal(crossover_of(&device), unknown);
        device.memory_bytes_per_second = 1000000000000u;
        const int64_t rows = crossover_of(&device);
        device.compute_units = 200;
        assert_in_range(crossover_of(&device), 2 * rows - 1, 2 * rows + 1);
        device.memory_bytes_per_second = 2000000000000u;
        assert_in_range(crossover_of(&device), rows, rows);
        char text[2048], line[64];
        awq_kernel_request request = request_for(rows);
        int32_t kernel;
        assert_status(awq_kernel_select(&device, &request, &kernel, text, sizeof text, NULL), AWQ_OK);
        snprintf(line, sizeof line, "pays from %lld on", (long long)rows);
        assert_non_null(strstr(text, line));
    }
}

static void old_gpus_are_told_to_use_the_cpu(void **state)
{
    (void)state;
    static const int32_t capabilities[] = {0, 35, 61, 70, 72};
    awq_device_info device = cpu();
    device.device_type = AWQ_DEVICE_CUDA;
    awq_kernel_request request = request_for(16);
    for (size_t i = 0; i < sizeof capabilities / sizeof *capabilities; i++) {
        device.compute_capability = capabilities[i];
        int32_t kernel = -5;
        assert_status(awq_kernel_select(&device, &request, &kernel, NULL, 0, NULL), AWQ_ERROR_UNSUPPORTED);
        assert_int_equal(kernel, -5);
        assert_error_names("use the CPU");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_complete),
        cmocka_unit_test(rows_decide_on_the_cpu),
        cmocka_unit_test(text_is_optional),
        cmocka_unit_test(bad_requests_are_refused),
        cmocka_unit_test(every_kind_of_weight_has_a_kernel),
        cmocka_unit_test(cuda_kernels_are_chosen_from_a_table),
        cmocka_unit_test(the_crossover_follows_the_device),
        cmocka_unit_test(old_gpus_are_told_to_use_the_cpu),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
