/* Kernel choice: a pure function of a device's properties and a product's shape. */
#include "internal.h"

#include <stdio.h>

static const char *const names[] = {
    [AWQ_KERNEL_AUTO] = "auto",   [AWQ_KERNEL_REFERENCE] = "reference", [AWQ_KERNEL_GEMV] = "gemv",
    [AWQ_KERNEL_GEMM] = "gemm",   [AWQ_KERNEL_MARLIN] = "marlin",       [AWQ_KERNEL_HOPPER] = "hopper",
    [AWQ_KERNEL_DEQUANT] = "dequant",
};

enum { KERNELS = sizeof names / sizeof *names };

const char *awq_kernel_name(int32_t kernel)
{
    return kernel >= 0 && kernel < KERNELS ? names[kernel] : NULL;
}

/* What is said of each kernel. */
typedef char reason[128];

/* ---- CPU */

enum { CPU_GEMV_ROWS = 8 }; /* that one sweep over the weight serves; the tiles of a gemm are 12 rows high */

static int32_t choose_cpu(const awq_kernel_request *request)
{
    return request->rows <= CPU_GEMV_ROWS ? AWQ_KERNEL_GEMV : AWQ_KERNEL_GEMM;
}

static void explain_cpu(const awq_kernel_request *request, reason reasons[KERNELS])
{
    long long rows = (long long)request->rows;
    bool few = rows <= CPU_GEMV_ROWS;
    snprintf(reasons[AWQ_KERNEL_REFERENCE], sizeof *reasons, "it defines the result and is slow");
    snprintf(reasons[AWQ_KERNEL_GEMV], sizeof *reasons,
             few ? "%lld rows; one sweep over the weight serves up to %d"
                 : "%lld rows; each %d need a sweep over the weight",
             rows, (int)CPU_GEMV_ROWS);
    snprintf(reasons[AWQ_KERNEL_GEMM], sizeof *reasons,
             few ? "%lld rows leave much of a 12-row tile empty" : "%lld rows share each block of unpacked weights",
             rows);
    snprintf(reasons[AWQ_KERNEL_MARLIN], sizeof *reasons, "a CUDA kernel");
    snprintf(reasons[AWQ_KERNEL_HOPPER], sizeof *reasons, "a CUDA kernel");
    snprintf(reasons[AWQ_KERNEL_DEQUANT], sizeof *reasons, "gemm unpacks weights block by block as it goes");
}

/* ---- CUDA */

enum {
    CUDA_LEAST = 75,
    CUDA_BF16 = 80,     /* tensor cores that take it */
    CUDA_HOPPER = 90,   /* the only one that has wgmma */
    CUDA_GEMV_ROWS = 8, /* that one sweep over the weight serves on tensor cores: the columns of an mma */
    CUDA_MMA_ROWS = 32, /* up to which the instructions of gemm on 9.0 keep up with its memory */
    CUDA_STEP = 16      /* inputs of an mma, which may not lie in two groups */
};

/* Activations that keep single precision: asked for, or of a type that the tensor cores do not have. */
static bool stays_single(const awq_device_info *device, const awq_kernel_request *request)
{
    const int32_t mode = request->activation;
    if (mode == AWQ_ACTIVATION_EXACT || mode == AWQ_ACTIVATION_SPLIT) return true;
    if (request->dtype == AWQ_F16) return false;
    if (request->dtype == AWQ_F32 && mode == AWQ_ACTIVATION_DEFAULT) return true;
    return device->compute_capability < CUDA_BF16;
}

/* What keeps a weight from the kernels that read packed codes, or NULL. */
static const char *unpackable(const awq_kernel_request *request)
{
    if (request->bits >= 16) return "the weight is dense";
    const bool grouped = request->group_size != AWQ_GROUP_PER_ROW && request->group_size < request->k;
    return grouped && request->group_size % CUDA_STEP != 0 ? "the group size is no multiple of 16" : NULL;
}

/* Codes that hopper reads, on a device that has what it needs. */
static bool fits_hopper(const awq_device_info *device, const awq_kernel_request *request)
{
    return device->compute_capability == CUDA_HOPPER && request->bits < 8 && !stays_single(device, request) &&
           unpackable(request) == NULL;
}

/* FP16 operations a second, summed up in single precision, that one multiprocessor does on tensor cores: what NVIDIA
 * publishes of a generation's largest devices, over their number of multiprocessors. */
static double tensor_flops(int32_t capability)
{
    return capability >= 120   ? 1.2e12
           : capability >= 100 ? 14e12
           : capability >= 90  ? 7.5e12
           : capability == 89  ? 1.3e12
           : capability == 87  ? 2.7e12
           : capability > 80   ? 0.9e12
           : capability == 80  ? 2.9e12
                               : 1.6e12;
}

/* What cuBLASLt can multiply while memory moves a byte; near 200 on most devices, and taken to be where little is known
 * of this one. */
static double flops_per_byte(const awq_device_info *device)
{
    if (device->compute_units < 1 || device->memory_bytes_per_second == 0) return 200.0;
    return device->compute_units * tensor_flops(device->compute_capability) / (double)device->memory_bytes_per_second;
}

/* Rows from which dequantising first and then a product by cuBLASLt takes less time than gemm or hopper.  Writing and
 * reading the dense weight moves 2.5 bytes a weight more, and a fused kernel reaches a share e of cuBLASLt's rate F, so
 * with a bandwidth B that is 2.5 F / (2 B (1/e - 1)).  e is what instructions of warps (mma.sync) can reach where
 * larger ones exist, and on 9.0 for hopper what unpacking beside wgmma leaves.  Predicted from the device's properties;
 * what a tuning has measured takes the place of this. */
static int64_t cuda_crossover(const awq_device_info *device, const awq_kernel_request *request)
{
    const int32_t capability = device->compute_capability;
    const double share = fits_hopper(device, request)           ? 0.75
                         : capability < 90 || capability >= 120 ? 0.85
                         : capability == 90                     ? 0.6
                                                                : 0.3;
    return (int64_t)(2.5 * flops_per_byte(device) / (2.0 * (1.0 / share - 1.0)));
}

static int32_t choose_cuda(const awq_device_info *device, const awq_kernel_request *request)
{
    const bool single = stays_single(device, request);
    if (request->bits == 16 && !single) return AWQ_KERNEL_DEQUANT;
    if (unpackable(request) != NULL) return AWQ_KERNEL_REFERENCE;
    if (request->bits == 8 && single) return AWQ_KERNEL_REFERENCE;
    if (single || (request->bits < 8 && request->rows <= CUDA_GEMV_ROWS)) return AWQ_KERNEL_GEMV;
    if (request->rows >= cuda_crossover(device, request)) return AWQ_KERNEL_DEQUANT;
    return fits_hopper(device, request) && request->rows > CUDA_MMA_ROWS ? AWQ_KERNEL_HOPPER : AWQ_KERNEL_GEMM;
}

static void explain_cuda(const awq_device_info *device, const awq_kernel_request *request, reason reasons[KERNELS])
{
    const long long rows = (long long)request->rows;
    const int32_t capability = device->compute_capability;
    const bool single = stays_single(device, request), few = rows <= CUDA_GEMV_ROWS;
    const char *why = unpackable(request);
    snprintf(reasons[AWQ_KERNEL_REFERENCE], sizeof *reasons, "%s",
             why != NULL                    ? why
             : single && request->bits == 8 ? "codes of 8 bits times activations in single precision"
                                            : "it defines the result and is slow");
    if (why != NULL) {
        snprintf(reasons[AWQ_KERNEL_GEMV], sizeof *reasons, "%s", why);
        snprintf(reasons[AWQ_KERNEL_GEMM], sizeof *reasons, "%s", why);
    } else {
        snprintf(reasons[AWQ_KERNEL_GEMV], sizeof *reasons,
                 request->bits == 8 ? "codes of 8 bits; it takes up to 4"
                 : single           ? "%lld rows in single precision, which tensor cores would not keep"
                 : few              ? "%lld rows; one sweep over the weight serves up to 8"
                                    : "%lld rows; each 8 need a sweep over the weight",
                 rows);
        snprintf(reasons[AWQ_KERNEL_GEMM], sizeof *reasons,
                 single ? "the tensor cores do not take these activations as precise as they are"
                 : few && request->bits < 8 ? "%lld rows leave a multiprocessor waiting for its barrier"
                                            : "%lld rows share each unpacked fragment of weights",
                 rows);
    }
    snprintf(reasons[AWQ_KERNEL_MARLIN], sizeof *reasons, "it reads Marlin's layout, which is made when it is forced");
    const char *hopper = why != NULL           ? why
                         : single               ? "the tensor cores do not take these activations as precise as they are"
                         : request->bits == 8   ? "codes of 8 bits; it takes up to 4"
                         : rows > CUDA_MMA_ROWS ? "more than 32 rows keep the tensor cores of four warps busy"
                                                : "up to 32 rows memory is what limits, and gemm need not lay out x first";
    if (capability == CUDA_HOPPER) snprintf(reasons[AWQ_KERNEL_HOPPER], sizeof *reasons, "%s", hopper);
    else
        snprintf(reasons[AWQ_KERNEL_HOPPER], sizeof *reasons, "only for compute capability 9.0; this is %d.%d",
                 capability / 10, capability % 10);
    const char *dequant = single                ? "cuBLASLt would not keep these activations as precise as they are"
                          : request->bits == 16 ? "a product of dense matrices by cuBLASLt"
                                                : why;
    const long long crossover = (long long)cuda_crossover(device, request);
    if (dequant != NULL) snprintf(reasons[AWQ_KERNEL_DEQUANT], sizeof *reasons, "%s", dequant);
    else
        snprintf(reasons[AWQ_KERNEL_DEQUANT], sizeof *reasons,
                 "%lld rows; unpacking the weight first pays from %lld on%s", rows, crossover,
                 rows < crossover ? "" : ", by prediction");
}

/* ---- both */

static void append(char *text, size_t capacity, int32_t kernel, const char *verdict, const char *why)
{
    size_t length = strlen(text);
    snprintf(text + length, capacity - length, "%s: %s: %s\n", names[kernel], verdict, why);
}

/* Zero means the default, as the header says; what remains must make sense. */
static awq_status resolve(awq_kernel_request *request)
{
    if (request->bits == 0) request->bits = 4;
    if (request->group_size == 0) request->group_size = 128;
    if (request->dtype == 0) request->dtype = AWQ_F16;
    int32_t bits = request->bits;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8 && bits != 16 && bits != 32)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_request: %d bits; 2, 3, 4, 8, or 16 and 32 for dense weights",
                         bits);
    if (request->n < 1 || request->k < 1 || request->rows < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_request: n = %lld, k = %lld, rows = %lld",
                         (long long)request->n, (long long)request->k, (long long)request->rows);
    if (request->group_size < AWQ_GROUP_PER_ROW)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_request: group_size %lld", (long long)request->group_size);
    if (request->dtype != AWQ_F32 && request->dtype != AWQ_F16 && request->dtype != AWQ_BF16)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_request: activations of dtype %s (%d)",
                         awq_dtype_name(request->dtype), request->dtype);
    if (request->activation < AWQ_ACTIVATION_DEFAULT || request->activation > AWQ_ACTIVATION_INT8)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_request: activation %d", request->activation);
    return awqi_check_flags(request->flags, AWQ_QUANTIZE_SYMMETRIC, "awq_kernel_request");
}

static awq_status check_supported(const awq_device_info *device)
{
    const int32_t capability = device->compute_capability;
    if (device->device_type == AWQ_DEVICE_CUDA && capability < CUDA_LEAST)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "cuda: compute capability %d.%d; 7.5 or later is needed; use the CPU",
                         capability / 10, capability % 10);
    return AWQ_OK;
}

awq_status awq_kernel_select(const awq_device_info *device, const awq_kernel_request *request, int32_t *kernel,
                             char *buffer, size_t capacity, size_t *length)
{
    if (device == NULL || request == NULL || kernel == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_kernel_select: %s is NULL",
                         device == NULL ? "device" : request == NULL ? "request" : "kernel");
    awq_device_info on;
    awq_kernel_request want;
    awq_status status = awqi_import(&on, sizeof on, device, "awq_device_info");
    if (status == AWQ_OK) status = awqi_import(&want, sizeof want, request, "awq_kernel_request");
    if (status == AWQ_OK && on.device_type != AWQ_DEVICE_CPU && on.device_type != AWQ_DEVICE_CUDA)
        status = awqi_fail(AWQ_ERROR_INVALID, "awq_device_info: device_type %d", on.device_type);
    if (status == AWQ_OK) status = resolve(&want);
    if (status == AWQ_OK) status = check_supported(&on);
    if (status != AWQ_OK) return status;

    const bool cuda = on.device_type == AWQ_DEVICE_CUDA;
    *kernel = cuda ? choose_cuda(&on, &want) : choose_cpu(&want);
    if (buffer == NULL && length == NULL) return AWQ_OK;
    reason reasons[KERNELS];
    if (cuda) explain_cuda(&on, &want, reasons);
    else explain_cpu(&want, reasons);
    char text[1024] = "";
    append(text, sizeof text, *kernel, "taken", reasons[*kernel]);
    for (int32_t i = AWQ_KERNEL_REFERENCE; i < KERNELS; i++)
        if (i != *kernel) append(text, sizeof text, i, "passed over", reasons[i]);
    awqi_copy_text(text, buffer, capacity, length);
    return AWQ_OK;
}
