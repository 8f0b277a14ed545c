/* Search and quantisation on the device: the kernels of groups.cu and norms.cu as the seam asks for them. */
#include "host.h"

enum {
    PASS_ROWS = 1024,           /* of a product that is kept until its squares are added */
    BLAS_WORKSPACE = 8 << 20
};

static struct cuda_scaled scaled_of(const awq_tensor *w, const float *scales, int64_t group_size, int32_t dtype)
{
    const struct cuda_scaled scaled = {
        .w = awqi_cuda_matrix(w),
        .scales = scales,
        .group_size = group_size,
        .groups = awqi_ceil_div(w->shape[1], group_size),
        .dtype = dtype,
    };
    return scaled;
}

static uint64_t scale_bytes(const awq_tensor *w, const float *scales)
{
    return scales != NULL ? (uint64_t)w->shape[1] * sizeof *scales : 0;
}

/* ---- what is asked of w s */

awq_status awqi_cuda_find_non_finite(void *device, const struct awqi_scaled *scaled, int64_t *index)
{
    const uint64_t bytes = scale_bytes(scaled->w, scaled->scales);
    unsigned long long first = 0;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes) + awqi_cuda_align(sizeof first), &work);
    if (status != AWQ_OK) return status;
    const float *scales = awqi_cuda_carve_copy(&work, scaled->scales, bytes);
    unsigned long long *found = awqi_cuda_carve(&work, sizeof first);
    const struct cuda_scaled s = scaled_of(scaled->w, scales, scaled->w->shape[1], scaled->dtype);
    if (work.error == cudaSuccess) work.error = cudaMemsetAsync(found, 0xff, sizeof first, NULL);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_find_non_finite(&s, found, NULL);
    awqi_cuda_fetch(&work, &first, found, sizeof first);
    *index = (int64_t)first; /* all ones: -1 */
    return awqi_cuda_end(&work, AWQ_OK, "checking a weight");
}

awq_status awqi_cuda_group_max(void *device, const struct awqi_scaled *scaled, int64_t group_size, float *largest)
{
    const uint64_t bytes = scale_bytes(scaled->w, scaled->scales);
    struct cuda_scaled s = scaled_of(scaled->w, NULL, group_size, scaled->dtype);
    const uint64_t largest_bytes = (uint64_t)(s.w.rows * s.groups) * sizeof *largest;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes) + awqi_cuda_align(largest_bytes), &work);
    if (status != AWQ_OK) return status;
    s.scales = awqi_cuda_carve_copy(&work, scaled->scales, bytes);
    float *found = awqi_cuda_carve(&work, largest_bytes);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_group_max(&s, found, NULL);
    awqi_cuda_fetch(&work, largest, found, largest_bytes);
    return awqi_cuda_end(&work, AWQ_OK, "looking for the largest of groups");
}

awq_status awqi_cuda_subtract(void *device, const struct awqi_scaled *scaled, float *values)
{
    const uint64_t bytes = scale_bytes(scaled->w, scaled->scales);
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes), &work);
    if (status != AWQ_OK) return status;
    const float *scales = awqi_cuda_carve_copy(&work, scaled->scales, bytes);
    const struct cuda_scaled s = scaled_of(scaled->w, scales, scaled->w->shape[1], scaled->dtype);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_subtract(&s, values, NULL);
    return awqi_cuda_end(&work, AWQ_OK, "subtracting weights");
}

awq_status awqi_cuda_keep_columns(void *device, const struct awqi_scaled *scaled, const int32_t *columns, int64_t count,
                                  float *values)
{
    const uint64_t bytes = scale_bytes(scaled->w, scaled->scales), column_bytes = (uint64_t)count * sizeof *columns;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes) + awqi_cuda_align(column_bytes), &work);
    if (status != AWQ_OK) return status;
    const float *scales = awqi_cuda_carve_copy(&work, scaled->scales, bytes);
    const int32_t *kept = awqi_cuda_carve_copy(&work, columns, column_bytes);
    const struct cuda_scaled s = scaled_of(scaled->w, scales, scaled->w->shape[1], scaled->dtype);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_keep(&s, kept, count, values, NULL);
    return awqi_cuda_end(&work, AWQ_OK, "keeping columns");
}

awq_status awqi_cuda_add_shares(void *device, const awq_tensor *w, int64_t group_size, double *sums)
{
    const struct cuda_scaled s = scaled_of(w, NULL, group_size, AWQ_F32);
    const uint64_t largest_bytes = (uint64_t)(s.w.rows * s.groups) * sizeof(float);
    const uint64_t sum_bytes = (uint64_t)s.w.columns * sizeof *sums;
    const uint64_t partial_bytes = (uint64_t)awqi_cuda_chunks(s.w.rows) * sum_bytes;
    double *host = malloc(sum_bytes);
    if (host == NULL) return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for sums of columns");
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(
        device, awqi_cuda_align(largest_bytes) + awqi_cuda_align(partial_bytes) + awqi_cuda_align(sum_bytes), &work);
    if (status == AWQ_OK) {
        float *largest = awqi_cuda_carve(&work, largest_bytes);
        double *partial = awqi_cuda_carve(&work, partial_bytes), *total = awqi_cuda_carve(&work, sum_bytes);
        work.error = awqi_cuda_launch_group_max(&s, largest, NULL);
        if (work.error == cudaSuccess) work.error = awqi_cuda_launch_shares(&s, largest, partial, total, NULL);
        awqi_cuda_fetch(&work, host, total, sum_bytes);
        status = awqi_cuda_end(&work, AWQ_OK, "adding shares of groups");
    }
    for (int64_t i = 0; status == AWQ_OK && i < s.w.columns; i++) sums[i] += host[i];
    free(host);
    return status;
}

/* ---- quantisation */

struct quantized_bytes {
    uint64_t scales, clip, codes, group_scales, zeros, counts;
};

static struct quantized_bytes bytes_of(const struct awqi_quantize_job *job, int64_t groups)
{
    const uint64_t elements = (uint64_t)(job->w->shape[0] * job->w->shape[1]);
    const uint64_t all = (uint64_t)(job->w->shape[0] * groups);
    const struct quantized_bytes bytes = {
        .scales = scale_bytes(job->w, job->input_scale),
        .clip = job->clip != NULL ? all * sizeof(float) : 0,
        .codes = job->codes != NULL ? elements : 0,
        .group_scales = job->scales != NULL ? all * sizeof(float) : 0,
        .zeros = job->zeros != NULL ? all : 0,
        .counts = 3 * sizeof(unsigned long long),
    };
    return bytes;
}

static void *carve_wanted(struct cuda_work *work, uint64_t bytes)
{
    return bytes > 0 ? awqi_cuda_carve(work, bytes) : NULL;
}

awq_status awqi_cuda_quantize(void *device, struct awqi_quantize_job *job)
{
    const struct awqi_quantizer *quantizer = &job->quantizer;
    const bool peer = quantizer->profile != AWQ_PROFILE_EXACT;
    struct cuda_quantization q = {
        .scaled = scaled_of(job->w, NULL, quantizer->group_size, peer ? job->w->dtype : AWQ_F32),
        .dequantized = job->dequantized,
        .max_code = (1 << quantizer->bits) - 1,
        .scale_dtype = quantizer->scale_dtype,
        .peer = peer,
        .symmetric = (quantizer->flags & AWQ_QUANTIZE_SYMMETRIC) != 0,
        .unscale = job->unscale,
    };
    const struct quantized_bytes bytes = bytes_of(job, q.scaled.groups);
    unsigned long long counts[3] = {0, 0, ~0ull};
    struct cuda_work work;
    awq_status status =
        awqi_cuda_begin(device, awqi_cuda_align(bytes.scales) + awqi_cuda_align(bytes.clip) +
                                    awqi_cuda_align(bytes.codes) + awqi_cuda_align(bytes.group_scales) +
                                    awqi_cuda_align(bytes.zeros) + awqi_cuda_align(bytes.counts), &work);
    if (status != AWQ_OK) return status;
    q.scaled.scales = awqi_cuda_carve_copy(&work, job->input_scale, bytes.scales);
    q.clip = awqi_cuda_carve_copy(&work, job->clip, bytes.clip);
    q.counts = awqi_cuda_carve_copy(&work, counts, bytes.counts);
    q.overflow = q.counts + 2;
    q.codes = carve_wanted(&work, bytes.codes);
    q.scales = carve_wanted(&work, bytes.group_scales);
    q.zeros = carve_wanted(&work, bytes.zeros);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_quantize(&q, NULL);
    awqi_cuda_fetch(&work, counts, q.counts, bytes.counts);
    awqi_cuda_fetch(&work, job->codes, q.codes, bytes.codes);
    awqi_cuda_fetch(&work, job->scales, q.scales, bytes.group_scales);
    awqi_cuda_fetch(&work, job->zeros, q.zeros, bytes.zeros);
    status = awqi_cuda_end(&work, AWQ_OK, "quantising");
    if (status != AWQ_OK) return status;
    if (counts[2] != ~0ull)
        return awqi_cuda_host->fail(
            AWQ_ERROR_NON_FINITE, "row %lld, group %lld: the range overflows %s, in which this profile computes",
            (long long)counts[2] / (long long)q.scaled.groups, (long long)counts[2] % (long long)q.scaled.groups,
            q.scaled.dtype == AWQ_F16 ? "F16" : q.scaled.dtype == AWQ_BF16 ? "BF16" : "F32");
    job->clamped_scales = counts[0];
    job->zero_groups = counts[1];
    return AWQ_OK;
}

/* ---- squared errors */

awq_status awqi_cuda_group_norms(void *device, const struct awqi_group_norms_job *job)
{
    struct cuda_norms norms = {
        .roots = job->roots,
        .root_stride = job->root_stride,
        .rows = job->rows,
        .differences = job->differences,
        .n = job->n,
        .k = job->k,
        .group_size = job->group_size,
        .groups = awqi_ceil_div(job->k, job->group_size),
        .splits = 1,
        .reduced = job->reduced,
    };
    const uint64_t bytes = (uint64_t)(norms.n * norms.groups) * sizeof *job->squares;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes), &work);
    if (status != AWQ_OK) return status;
    norms.squares = awqi_cuda_carve(&work, bytes);
    work.error = awqi_cuda_launch_norms(&norms, NULL);
    awqi_cuda_fetch(&work, job->squares, norms.squares, bytes);
    return awqi_cuda_end(&work, AWQ_OK, "measuring groups");
}

/* By the kernel of norms.cu, one group of all inputs: for every width. */
static awq_status norm_by_kernel(struct cuda_device *device, struct cuda_norms *norms, double *host)
{
    const uint64_t bytes = (uint64_t)(norms->splits * norms->n) * sizeof *host;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(bytes), &work);
    if (status != AWQ_OK) return status;
    norms->squares = awqi_cuda_carve(&work, bytes);
    work.error = awqi_cuda_launch_norms(norms, NULL);
    awqi_cuda_fetch(&work, host, norms->squares, bytes);
    return awqi_cuda_end(&work, AWQ_OK, "measuring a product");
}

/* By cuBLASLt, in single precision, PASS_ROWS rows at a time, and the squares of each row of the product. */
static awq_status norm_by_blas(struct cuda_device *device, const struct cuda_norms *norms, double *host)
{
    const int64_t held = awqi_min64(norms->rows, PASS_ROWS), stride = awqi_ceil_div(norms->n, 4) * 4;
    const uint64_t product_bytes = (uint64_t)(held * stride) * sizeof(float);
    const uint64_t sum_bytes = (uint64_t)norms->rows * sizeof *host;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(
        device, BLAS_WORKSPACE + awqi_cuda_align(product_bytes) + awqi_cuda_align(sum_bytes), &work);
    if (status != AWQ_OK) return status;
    struct cuda_dense dense;
    memset(&dense, 0, sizeof dense); /* its padding too: it is a key */
    dense.workspace = awqi_cuda_carve(&work, BLAS_WORKSPACE);
    dense.workspace_bytes = BLAS_WORKSPACE;
    dense.y = awqi_cuda_carve(&work, product_bytes);
    dense.w = norms->differences;
    dense.columns = norms->n;
    dense.inputs = dense.w_stride = dense.x_stride = norms->k;
    dense.y_stride = stride;
    dense.dtype = dense.y_dtype = AWQ_F32;
    double *sums = awqi_cuda_carve(&work, sum_bytes);
    for (int64_t row = 0; row < norms->rows && status == AWQ_OK && work.error == cudaSuccess; row += PASS_ROWS) {
        dense.rows = awqi_min64(PASS_ROWS, norms->rows - row);
        dense.x = norms->roots + row * norms->k;
        const struct cuda_matrix y = {
            .data = dense.y, .rows = dense.rows, .columns = norms->n, .stride = stride, .dtype = AWQ_F32};
        status = awqi_cuda_blas_product(device->blas, &dense, NULL);
        if (status == AWQ_OK) work.error = awqi_cuda_launch_squares(&y, sums + row, NULL);
    }
    if (status == AWQ_OK) awqi_cuda_fetch(&work, host, sums, sum_bytes);
    return awqi_cuda_end(&work, status, "measuring a product");
}

awq_status awqi_cuda_product_norm(void *device, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k,
                                  double *sum)
{
    struct cuda_device *cuda = device;
    struct cuda_norms norms = {.roots = x, .root_stride = rows, .rows = rows, .differences = delta, .n = n, .k = k,
                               .group_size = k, .groups = 1, .splits = awqi_ceil_div(rows, CUDA_SPLIT_ROWS)};
    const bool aligned = k % 4 == 0 && ((uintptr_t)x | (uintptr_t)delta) % 16 == 0;
    const bool blas = cuda->blas != NULL && aligned;
    const int64_t count = blas ? rows : norms.splits * n;
    double *host = malloc((size_t)count * sizeof *host);
    if (host == NULL) return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for sums of a loss");
    awq_status status = blas ? norm_by_blas(cuda, &norms, host) : norm_by_kernel(cuda, &norms, host);
    double total = 0.0;
    for (int64_t i = 0; i < count; i++) total += status == AWQ_OK ? host[i] : 0.0;
    if (status == AWQ_OK) *sum = total;
    free(host);
    return status;
}
