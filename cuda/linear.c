/* Linears on the device: prepared once, then a kernel or two per run on the caller's stream. */
#include "host.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- preparing */

static const char *kernel_name(int32_t kernel)
{
    static const char *const names[] = {"auto", "reference", "gemv", "gemm", "marlin", "hopper", "dequant"};
    return kernel >= 0 && kernel < (int32_t)(sizeof names / sizeof *names) ? names[kernel] : "unknown";
}

/* Whether a kernel takes the weight on this very device. */
static bool takes(const struct cuda_device *device, const struct cuda_linear *linear, int32_t kernel, int32_t dtype,
                  const char **reason)
{
    if (!awqi_cuda_takes(&linear->weight, kernel, dtype, reason)) return false;
    if (kernel == AWQ_KERNEL_DEQUANT && device->blas == NULL) *reason = device->blas_missing;
    if (kernel == AWQ_KERNEL_HOPPER && device->facts.capability != 90) *reason = "only for compute capability 9.0";
    else if (kernel == AWQ_KERNEL_HOPPER && !CUDA_HAS_90A)
        *reason = "this backend was built without machine code for compute capability 9.0 (sm_90a)";
    return *reason == NULL;
}

static awq_status check_kernel(const struct cuda_device *device, const struct cuda_linear *linear)
{
    const char *reason;
    if (linear->kernel == AWQ_KERNEL_AUTO || takes(device, linear, linear->kernel, AWQ_F16, &reason) ||
        takes(device, linear, linear->kernel, AWQ_BF16, &reason))
        return AWQ_OK;
    return awqi_cuda_host->fail(AWQ_ERROR_UNSUPPORTED, "cuda: kernel %s (%d) does not take this weight: %s",
                                kernel_name(linear->kernel), linear->kernel, reason);
}

static void describe_weight(const struct awqi_linear_spec *spec, awq_kernel_request *request)
{
    memset(request, 0, sizeof *request);
    request->struct_size = sizeof *request;
    request->activation = spec->activation;
    if (spec->weight != NULL) {
        request->n = spec->weight->n;
        request->k = spec->weight->k;
        request->bits = spec->weight->bits;
        request->group_size = spec->weight->group_size;
        request->flags = spec->weight->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    } else {
        request->n = spec->dense->shape[0];
        request->k = spec->dense->shape[1];
        request->bits = 8 * (int32_t)awqi_cuda_element_size(spec->dense->dtype);
    }
}

awq_status awqi_cuda_linear_prepare(void *device, const struct awqi_linear_spec *spec, void **prepared)
{
    struct cuda_linear *linear = calloc(1, sizeof *linear);
    if (linear == NULL) return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for a linear");
    linear->kernel = spec->kernel;
    linear->tuning = spec->tuning;
    describe_weight(spec, &linear->request);
    int previous;
    awq_status status = awqi_cuda_enter(device, &previous);
    if (status == AWQ_OK) {
        status = awqi_cuda_store(device, spec, linear);
        if (status == AWQ_OK) status = check_kernel(device, linear);
        awqi_cuda_leave(previous);
    }
    if (status != AWQ_OK) {
        awqi_cuda_linear_release(device, linear);
        return status;
    }
    *prepared = linear;
    return AWQ_OK;
}

void awqi_cuda_linear_release(void *device, void *prepared)
{
    struct cuda_linear *linear = prepared;
    int previous;
    if (linear == NULL) return;
    if (linear->memory != NULL && awqi_cuda_enter(device, &previous) == AWQ_OK) {
        (void)cudaFree(linear->memory);
        awqi_cuda_leave(previous);
    }
    free(linear);
}

uint64_t awqi_cuda_linear_size(void *device, const void *prepared)
{
    (void)device;
    return ((const struct cuda_linear *)prepared)->size_bytes;
}

/* ---- choosing */

struct choice {
    int32_t kernel;
    const char *reason; /* NULL: the table's, which is in 'text' */
    char text[1024];
};

/* For x of 'x_dtype'.  The table of the core and tunings know the weight's shape only; a kernel that cannot take how it
 * is stored, or that misses its library, gives way to one that can. */
static void choose(const struct cuda_device *device, const struct cuda_linear *linear, int32_t x_dtype, int64_t rows,
                   bool explain, struct choice *choice)
{
    const int32_t dtype = awqi_cuda_compute_dtype(&device->facts, linear->request.activation, x_dtype);
    awq_kernel_request request = linear->request;
    request.rows = rows;
    request.dtype = x_dtype;
    choice->text[0] = 0;
    choice->kernel = linear->kernel;
    choice->reason = "forced for all batch sizes";
    if (choice->kernel == AWQ_KERNEL_AUTO) {
        choice->kernel = awqi_tuning_lookup(linear->tuning, &request);
        choice->reason = "measured fastest for a batch of this size";
    }
    if (choice->kernel == AWQ_KERNEL_AUTO) {
        choice->reason = NULL;
        if (awqi_cuda_host->kernel_select(&device->info, &request, &choice->kernel, explain ? choice->text : NULL,
                                          sizeof choice->text, NULL) != AWQ_OK)
            choice->kernel = AWQ_KERNEL_REFERENCE;
    }
    const char *unfit, *other;
    if (!takes(device, linear, choice->kernel, dtype, &unfit)) {
        const bool many = (choice->kernel == AWQ_KERNEL_DEQUANT || choice->kernel == AWQ_KERNEL_HOPPER) &&
                          takes(device, linear, AWQ_KERNEL_GEMM, dtype, &other);
        choice->kernel = many ? AWQ_KERNEL_GEMM : AWQ_KERNEL_REFERENCE;
        choice->reason = unfit;
    }
}

static void copy_text(const char *text, char *buffer, size_t capacity, size_t *length)
{
    const size_t size = strlen(text);
    if (length != NULL) *length = size;
    if (buffer == NULL || capacity == 0) return;
    const size_t copied = size < capacity ? size : capacity - 1;
    memcpy(buffer, text, copied);
    buffer[copied] = 0;
}

int32_t awqi_cuda_linear_choose(void *device, const void *prepared, int64_t rows, char *buffer, size_t capacity,
                                size_t *length)
{
    const struct cuda_device *cuda = device;
    const struct cuda_linear *linear = prepared;
    const int32_t x_dtype = linear->weight.scale_dtype == AWQ_BF16 ? AWQ_BF16 : AWQ_F16;
    struct choice choice;
    choose(cuda, linear, x_dtype, rows, true, &choice);
    struct cuda_config config;
    awqi_cuda_plan(&cuda->facts, &linear->weight, choice.kernel,
                   awqi_cuda_compute_dtype(&cuda->facts, linear->request.activation, x_dtype), rows, &config);
    char plan[256], text[1536];
    awqi_cuda_plan_text(&config, plan, sizeof plan);
    if (choice.reason != NULL)
        snprintf(text, sizeof text, "%s: taken: %s\n%s\n", kernel_name(choice.kernel), choice.reason, plan);
    else snprintf(text, sizeof text, "%s%s\n", choice.text, plan);
    copy_text(text, buffer, capacity, length);
    return choice.kernel;
}

/* The kernels, as bits, that are chosen for some batch of up to 'max_rows' rows of x.  Tables and tunings change their
 * mind once on the way from one power of two to the next, if at all. */
static uint32_t chosen_kernels(const struct cuda_device *device, const struct cuda_linear *linear, int32_t x_dtype,
                               int64_t max_rows)
{
    uint32_t kernels = 0;
    for (int64_t rows = 1;; rows = awqi_min64(2 * rows, max_rows)) {
        struct choice choice;
        choose(device, linear, x_dtype, rows, false, &choice);
        kernels |= 1u << choice.kernel;
        if (rows == max_rows) return kernels;
    }
}

/* Enough for any dtype of x and for fewer rows, too: what a plan needs grows with the rows between the batch sizes at
 * which its tiles change. */
uint64_t awqi_cuda_linear_workspace(void *device, const void *prepared, int64_t max_rows)
{
    static const int32_t x_dtypes[] = {AWQ_F16, AWQ_BF16, AWQ_F32};
    const struct cuda_device *cuda = device;
    const struct cuda_linear *linear = prepared;
    uint64_t most = 0;
    for (int i = 0; i < 3; i++) {
        const int32_t dtype = awqi_cuda_compute_dtype(&cuda->facts, linear->request.activation, x_dtypes[i]);
        const uint32_t kernels = chosen_kernels(cuda, linear, x_dtypes[i], max_rows);
        for (int32_t kernel = 0; kernel <= AWQ_KERNEL_DEQUANT; kernel++)
            for (int64_t rows = 1; kernels >> kernel & 1u; rows = awqi_min64(2 * rows, max_rows)) {
                struct cuda_config config;
                awqi_cuda_plan(&cuda->facts, &linear->weight, kernel, dtype, rows, &config);
                const uint64_t bytes = awqi_cuda_plan_workspace(&config);
                if (bytes > most) most = bytes;
                if (rows == max_rows) break;
            }
    }
    return most;
}

/* ---- running */

static atomic_uint_fast64_t nonces;

void awqi_cuda_seed_nonces(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    atomic_fetch_add_explicit(&nonces, (uint64_t)now.tv_nsec << 16 ^ (uint64_t)now.tv_sec << 4, memory_order_relaxed);
}

/* A number of 48 bits that no other run of this process has, and one of another process hardly; not 0. */
static uint64_t next_nonce(void)
{
    const uint64_t mask = ((uint64_t)1 << 48) - 1;
    const uint64_t nonce = atomic_fetch_add_explicit(&nonces, 1, memory_order_relaxed) & mask;
    return nonce != 0 ? nonce : mask;
}

/* Elements from row to row when leading dimensions fold into one; false when they do not. */
static bool row_stride(const awq_tensor *tensor, int64_t *stride)
{
    int64_t rows = 1;
    *stride = 0;
    for (int32_t i = tensor != NULL ? tensor->ndim - 1 : 0; i-- > 0;) {
        if (tensor->shape[i] == 1) continue;
        if (rows == 1) *stride = tensor->strides[i];
        else if (tensor->strides[i] != *stride * rows) return false;
        rows *= tensor->shape[i];
    }
    return true;
}

/* Row 'row' of a tensor and those that follow at 'stride'. */
static struct cuda_view view_of(const awq_tensor *tensor, int64_t row, int64_t stride)
{
    struct cuda_view view = {.stride = stride, .dtype = AWQ_F32};
    if (tensor == NULL) return view;
    int64_t offset = 0;
    for (int32_t i = tensor->ndim - 1; i-- > 0; row /= tensor->shape[i])
        offset += row % tensor->shape[i] * tensor->strides[i];
    view.data =
        (unsigned char *)tensor->data + tensor->byte_offset + offset * (int64_t)awqi_cuda_element_size(tensor->dtype);
    view.dtype = tensor->dtype;
    return view;
}

/* Whether rows of x can be copied 16 bytes at a time and are what the product wants. */
static bool is_ready(const struct cuda_product *product)
{
    return (product->rows == 1 || product->x.stride >= product->w.inputs) &&
           product->x.dtype == product->config.dtype && product->norm.data == NULL && product->w.input_scale == NULL &&
           ((uintptr_t)product->x.data | (uintptr_t)(product->x.stride * 2)) % 16 == 0 && product->w.inputs % 8 == 0;
}

/* A dense product.  Into y itself where nothing follows it, else into sums that another kernel finishes. */
static awq_status run_dense(const struct cuda_device *device, const struct cuda_product *product, cudaStream_t stream)
{
    const struct cuda_config *config = &product->config;
    const struct cuda_weight *w = &product->w;
    const int64_t width = (int64_t)w->input_blocks * CUDA_BLOCK, columns = (int64_t)w->column_blocks * CUDA_BLOCK;
    const int64_t y_stride = product->rows > 1 ? product->y.stride : w->outputs;
    const bool direct = w->bias == NULL && w->salient_count == 0 && product->residual.data == NULL && !w->gated &&
                        (product->y.dtype == config->dtype || product->y.dtype == AWQ_F32) &&
                        ((uintptr_t)product->y.data | (uintptr_t)(y_stride * 2)) % 16 == 0 && w->outputs % 8 == 0 &&
                        y_stride >= w->outputs;
    struct cuda_dense dense;
    memset(&dense, 0, sizeof dense);
    dense.w = w->storage == CUDA_DENSE ? w->codes : product->dense;
    dense.x = config->staged ? product->staged : product->x.data;
    dense.y = direct ? product->y.data : (void *)product->partial;
    dense.workspace = product->tickets;
    dense.workspace_bytes = config->ticket_bytes;
    dense.rows = product->rows;
    dense.columns = direct ? w->outputs : columns;
    dense.inputs = config->staged ? width : w->inputs;
    dense.w_stride = width;
    dense.x_stride = config->staged ? width : product->rows > 1 ? product->x.stride : w->inputs;
    dense.y_stride = direct ? y_stride : columns;
    dense.dtype = config->dtype;
    dense.y_dtype = direct ? product->y.dtype : AWQ_F32;
    awq_status status = awqi_cuda_blas_product(device->blas, &dense, stream);
    return status == AWQ_OK && !direct ? awqi_cuda_check(awqi_cuda_finish(product, stream), "starting a kernel")
                                       : status;
}

static awq_status launch_product(const struct cuda_device *device, const struct cuda_product *product,
                                 cudaStream_t stream)
{
    const bool overlap = device->facts.capability >= 90;
    const int32_t kernel = product->config.kernel;
    cudaError_t error = product->w.salient_count > 0 ? awqi_cuda_keep(product, overlap, stream) : cudaSuccess;
    if (error == cudaSuccess && product->config.staged && (kernel == AWQ_KERNEL_GEMM || kernel == AWQ_KERNEL_MARLIN ||
                                   kernel == AWQ_KERNEL_HOPPER || kernel == AWQ_KERNEL_DEQUANT))
        error = awqi_cuda_stage(product, overlap, stream);
    if (error != cudaSuccess) return awqi_cuda_check(error, "starting a kernel");
    switch (kernel) {
    case AWQ_KERNEL_GEMV: error = awqi_cuda_gemv(product, overlap, stream); break;
    case AWQ_KERNEL_GEMM: error = awqi_cuda_gemm(product, overlap, stream); break;
    case AWQ_KERNEL_MARLIN: error = awqi_cuda_marlin(product, overlap, stream); break;
    case AWQ_KERNEL_HOPPER: error = awqi_cuda_hopper(product, overlap, stream); break;
    case AWQ_KERNEL_DEQUANT: return run_dense(device, product, stream);
    default: error = awqi_cuda_reference(product, stream); break;
    }
    return awqi_cuda_check(error, "starting a kernel");
}

/* Rows that follow each other evenly, as many to a launch as the plan has it. */
static awq_status run_rows(const struct cuda_device *device, const struct cuda_product *product, cudaStream_t stream)
{
    const int32_t step = product->config.launch_rows;
    awq_status status = AWQ_OK;
    if (product->config.kernel == AWQ_KERNEL_DEQUANT && product->w.storage != CUDA_DENSE)
        status = awqi_cuda_check(awqi_cuda_dequant(product, stream), "starting a kernel");
    for (int32_t row = 0; row < product->rows && status == AWQ_OK;
         row += (int32_t)awqi_min64(step, product->rows - row)) {
        struct cuda_product part;
        awqi_cuda_rows(product, row, step, &part);
        part.nonce = next_nonce();
        part.config.staged = part.config.kernel == AWQ_KERNEL_HOPPER || !is_ready(&part);
        status = launch_product(device, &part, stream);
    }
    return status;
}

static void use_workspace(struct cuda_product *product, void *workspace)
{
    const struct cuda_config *config = &product->config;
    unsigned char *dense = (unsigned char *)workspace + awqi_cuda_align(config->staged_bytes);
    unsigned char *partial = dense + awqi_cuda_align(config->dense_bytes);
    unsigned char *tickets = partial + awqi_cuda_align(config->partial_bytes);
    product->staged = workspace;
    product->dense = dense;
    product->partial = (float *)(void *)partial;
    product->tickets = (uint64_t *)(void *)tickets;
    product->kept = (float *)(void *)(tickets + awqi_cuda_align(config->ticket_bytes));
}

awq_status awqi_cuda_linear_run(void *device, const void *prepared, const struct awqi_linear_job *job)
{
    const struct cuda_device *cuda = device;
    const struct cuda_linear *linear = prepared;
    if (job->rows > INT32_MAX / 2)
        return awqi_cuda_host->fail(AWQ_ERROR_UNSUPPORTED, "cuda: %lld rows in one run; %d are the most",
                                    (long long)job->rows, INT32_MAX / 2);
    struct choice choice;
    struct cuda_product product = {.w = linear->weight, .epsilon = (float)job->norm_epsilon};
    choose(cuda, linear, job->x->dtype, job->rows, false, &choice);
    const int32_t dtype = awqi_cuda_compute_dtype(&cuda->facts, linear->request.activation, job->x->dtype);
    int64_t x_stride, y_stride, residual_stride;
    const bool x_even = row_stride(job->x, &x_stride), y_even = row_stride(job->y, &y_stride);
    const bool even = row_stride(job->residual, &residual_stride) && x_even && y_even;
    const int64_t step = even ? job->rows : 1; /* rows in odd places are run one by one */
    awqi_cuda_plan(&cuda->facts, &linear->weight, choice.kernel, dtype, step, &product.config);
    use_workspace(&product, job->workspace);
    product.norm = view_of(job->norm_weight, 0, 0);
    int previous;
    awq_status status = awqi_cuda_enter(cuda, &previous);
    if (status != AWQ_OK) return status;
    for (int64_t row = 0; row < job->rows && status == AWQ_OK; row += step) {
        product.rows = (int32_t)step;
        product.x = view_of(job->x, row, x_stride);
        product.y = view_of(job->y, row, y_stride);
        product.residual = view_of(job->residual, row, residual_stride);
        status = run_rows(cuda, &product, job->stream);
    }
    awqi_cuda_leave(previous);
    return status;
}
