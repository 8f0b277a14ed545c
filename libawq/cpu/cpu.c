/* The CPU backend: the device itself, and its table. */
#include "kernels.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>

static void processor_name(char *name, size_t capacity)
{
    uint32_t words[12];
    for (uint32_t i = 0; i < 3; i++) {
        uint32_t *w = words + 4 * i;
        if (!__get_cpuid(0x80000002u + i, &w[0], &w[1], &w[2], &w[3])) {
            snprintf(name, capacity, "x86-64");
            return;
        }
    }
    snprintf(name, capacity, "%.*s", (int)sizeof words, (const char *)words);
    size_t length = strlen(name);
    while (length > 0 && name[length - 1] == ' ') name[--length] = 0;
}

#else

static void processor_name(char *name, size_t capacity)
{
#if defined(__aarch64__)
    snprintf(name, capacity, "AArch64");
#else
    snprintf(name, capacity, "generic");
#endif
}

#endif

static uint64_t system_value(int name)
{
    long value = sysconf(name);
    return value > 0 ? (uint64_t)value : 0;
}

/* What Linux says first: glibc multiplies the size by the number of sharing cores on some virtual machines. */
static uint64_t last_level_cache_bytes(void)
{
    unsigned long long kilobytes = 0;
    FILE *file = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "re");
    if (file != NULL) {
        if (fscanf(file, "%lluK", &kilobytes) != 1) kilobytes = 0;
        fclose(file);
    }
    if (kilobytes != 0) return (uint64_t)kilobytes << 10;
#ifdef _SC_LEVEL3_CACHE_SIZE
    return system_value(_SC_LEVEL3_CACHE_SIZE);
#else
    return 0;
#endif
}

static awq_status cpu_open(awq_context *context, int32_t device_id, void **device)
{
    if (device_id != 0) return awqi_fail(AWQ_ERROR_NO_DEVICE, "cpu: device_id %d; there is only device 0", device_id);
    void *memory;
    awq_status status = awqi_calloc(context, 1, sizeof(struct awqi_cpu_device), "the CPU device", &memory);
    if (status != AWQ_OK) return status;
    struct awqi_cpu_device *cpu = memory;
    uint32_t features = awqi_cpu_features();
    cpu->context = context;
    cpu->kernels = awqi_cpu_kernels_for(features);
    awq_struct_init(&cpu->info, sizeof cpu->info);
    cpu->info.device_type = AWQ_DEVICE_CPU;
    cpu->info.compute_units = awqi_context_threads(context);
    cpu->info.cpu_features = features;
    cpu->info.memory_bytes = system_value(_SC_PHYS_PAGES) * system_value(_SC_PAGESIZE);
    cpu->info.last_level_cache_bytes = last_level_cache_bytes();
    processor_name(cpu->info.name, sizeof cpu->info.name);
    *device = cpu;
    return AWQ_OK;
}

static void cpu_close(void *device)
{
    struct awqi_cpu_device *cpu = device;
    awqi_free(cpu->context, cpu);
}

static awq_status cpu_get_info(void *device, awq_device_info *info)
{
    uint32_t struct_size = info->struct_size;
    *info = ((const struct awqi_cpu_device *)device)->info;
    info->struct_size = struct_size;
    return AWQ_OK;
}

static awq_status cpu_allocate(void *device, uint64_t size_bytes, void **memory)
{
    return awqi_alloc(((struct awqi_cpu_device *)device)->context, 1, size_bytes, "device memory", memory);
}

static void cpu_release(void *device, void *memory)
{
    awqi_free(((struct awqi_cpu_device *)device)->context, memory);
}

static awq_status cpu_copy(void *device, const awq_tensor *src, awq_tensor *dst, void *stream)
{
    (void)stream;
    if (src->device_type != AWQ_DEVICE_CPU || dst->device_type != AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tensor_copy: a CPU context copies only within host memory");
    awqi_tensor_copy_host(((struct awqi_cpu_device *)device)->context, src, dst);
    return AWQ_OK;
}

static awq_status cpu_synchronize(void *device, void *stream)
{
    (void)device;
    (void)stream;
    return AWQ_OK;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static awq_status cpu_time(void *device, awq_work_callback work, void *user_data, int64_t runs, double *seconds)
{
    (void)device;
    awq_status status = work(user_data, NULL);
    for (int64_t i = 0; i < runs && status == AWQ_OK; i++) {
        const double begin = now();
        status = work(user_data, NULL);
        seconds[i] = now() - begin;
    }
    return status;
}

const struct awqi_backend awqi_cpu_backend = {
    .abi = AWQI_BACKEND_ABI,
    .kernels = 1,
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .get_info = cpu_get_info,
    .allocate = cpu_allocate,
    .release = cpu_release,
    .copy = cpu_copy,
    .synchronize = cpu_synchronize,
    .time = cpu_time,
    .scan_rows = awqi_cpu_scan_rows,
    .gather_rows = awqi_cpu_gather_rows,
    .accumulate = awqi_cpu_accumulate,
    .accumulate_gram = awqi_cpu_accumulate_gram,
    .find_non_finite = awqi_cpu_find_non_finite,
    .group_max = awqi_cpu_group_max,
    .add_shares = awqi_cpu_add_shares,
    .quantize = awqi_cpu_quantize,
    .subtract = awqi_cpu_subtract,
    .keep_columns = awqi_cpu_keep_columns,
    .refine = awqi_cpu_refine,
    .product_norm = awqi_cpu_product_norm,
    .group_norms = awqi_cpu_group_norms,
    .linear_prepare = awqi_cpu_linear_prepare,
    .linear_release = awqi_cpu_linear_release,
    .linear_size = awqi_cpu_linear_size,
    .linear_workspace = awqi_cpu_linear_workspace,
    .linear_run = awqi_cpu_linear_run,
    .linear_choose = awqi_cpu_linear_choose,
};
