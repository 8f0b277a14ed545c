/* Calibration on the device: the kernels of observe.cu as the seam asks for them. */
#include "host.h"

_Static_assert(sizeof(struct cuda_row_scan) == sizeof(struct awqi_row_scan), "scans are copied whole");

struct cuda_matrix awqi_cuda_matrix(const awq_tensor *tensor)
{
    const struct cuda_matrix matrix = {
        .data = (const unsigned char *)tensor->data + tensor->byte_offset,
        .rows = tensor->shape[0],
        .columns = tensor->shape[1],
        .stride = tensor->strides[0],
        .dtype = tensor->dtype,
    };
    return matrix;
}

awq_status awqi_cuda_scan_rows(void *device, const awq_tensor *x, const float *weights, const uint64_t *seed,
                               struct awqi_row_scan *scans)
{
    const struct cuda_matrix matrix = awqi_cuda_matrix(x);
    const uint64_t rows = (uint64_t)matrix.rows;
    struct cuda_work work;
    awq_status status =
        awqi_cuda_begin(device, awqi_cuda_align(rows * sizeof *weights) + awqi_cuda_align(rows * sizeof *scans), &work);
    if (status != AWQ_OK) return status;
    const float *factors = awqi_cuda_carve_copy(&work, weights, rows * sizeof *weights);
    struct cuda_row_scan *found = awqi_cuda_carve(&work, rows * sizeof *scans);
    if (work.error == cudaSuccess)
        work.error = awqi_cuda_launch_scan(&matrix, factors, seed != NULL, seed != NULL ? *seed : 0, found, NULL);
    awqi_cuda_fetch(&work, scans, found, rows * sizeof *scans);
    return awqi_cuda_end(&work, AWQ_OK, "scanning activations");
}

awq_status awqi_cuda_gather_rows(void *device, const awq_tensor *x, const int64_t *rows, int64_t count, float *values)
{
    const struct cuda_matrix matrix = awqi_cuda_matrix(x);
    const uint64_t chosen_bytes = (uint64_t)count * sizeof *rows;
    const uint64_t bytes = (uint64_t)count * (uint64_t)matrix.columns * sizeof *values;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(chosen_bytes) + awqi_cuda_align(bytes), &work);
    if (status != AWQ_OK) return status;
    const int64_t *chosen = awqi_cuda_carve_copy(&work, rows, chosen_bytes);
    float *gathered = awqi_cuda_carve(&work, bytes);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_gather(&matrix, chosen, count, gathered, NULL);
    awqi_cuda_fetch(&work, values, gathered, bytes);
    return awqi_cuda_end(&work, AWQ_OK, "gathering rows");
}

static void add_sums(struct awqi_channel_sums *sums, const double *from, int64_t channels)
{
    for (int64_t i = 0; i < channels; i++) {
        awqi_add_two_double(&sums->abs_high[i], &sums->abs_low[i], from[i]);
        awqi_add_two_double(&sums->abs_high[i], &sums->abs_low[i], from[channels + i]);
        awqi_add_two_double(&sums->square_high[i], &sums->square_low[i], from[2 * channels + i]);
        awqi_add_two_double(&sums->square_high[i], &sums->square_low[i], from[3 * channels + i]);
        const double largest = from[4 * channels + i];
        sums->max_abs[i] = largest > sums->max_abs[i] ? largest : sums->max_abs[i];
    }
}

awq_status awqi_cuda_accumulate(void *device, const awq_tensor *x, const float *weights, struct awqi_channel_sums *sums)
{
    const struct cuda_matrix matrix = awqi_cuda_matrix(x);
    const uint64_t weight_bytes = (uint64_t)matrix.rows * sizeof *weights;
    const uint64_t sum_bytes = CUDA_SUMS * (uint64_t)matrix.columns * sizeof(double);
    const uint64_t partial_bytes = (uint64_t)awqi_cuda_chunks(matrix.rows) * sum_bytes;
    double *host = malloc(sum_bytes);
    if (host == NULL) return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for sums of channels");
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(
        device, awqi_cuda_align(weight_bytes) + awqi_cuda_align(partial_bytes) + awqi_cuda_align(sum_bytes), &work);
    if (status == AWQ_OK) {
        const float *factors = awqi_cuda_carve_copy(&work, weights, weight_bytes);
        double *partial = awqi_cuda_carve(&work, partial_bytes), *total = awqi_cuda_carve(&work, sum_bytes);
        if (work.error == cudaSuccess) work.error = awqi_cuda_launch_sums(&matrix, factors, partial, total, NULL);
        awqi_cuda_fetch(&work, host, total, sum_bytes);
        status = awqi_cuda_end(&work, AWQ_OK, "summing activations");
    }
    if (status == AWQ_OK) add_sums(sums, host, matrix.columns);
    free(host);
    return status;
}

awq_status awqi_cuda_accumulate_gram(void *device, const awq_tensor *x, const float *weights, double *gram)
{
    const struct cuda_matrix matrix = awqi_cuda_matrix(x);
    const uint64_t weight_bytes = (uint64_t)matrix.rows * sizeof *weights;
    struct cuda_work work;
    awq_status status = awqi_cuda_begin(device, awqi_cuda_align(weight_bytes), &work);
    if (status != AWQ_OK) return status;
    const float *factors = awqi_cuda_carve_copy(&work, weights, weight_bytes);
    if (work.error == cudaSuccess) work.error = awqi_cuda_launch_gram(&matrix, factors, gram, NULL);
    return awqi_cuda_end(&work, AWQ_OK, "adding to a Gram matrix");
}
