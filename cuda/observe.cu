/* Calibration: what rows of activations hash to, and what they add to the sums of their channels.
 *
 * scan    A warp takes 32 rows and walks along them in parts of 64 channels: loaded by rows, so that neighbouring lanes
 *         read neighbouring channels, and hashed one row a lane, since a hash is a chain.
 * sums    A thread adds one channel over CUDA_CHUNK rows in two-double precision; another launch adds the chunks.
 * gram    A block of 256 threads takes a square of 64 channels by 64 on or above the diagonal, each thread 4 x 4 of it,
 *         and adds the rows in their order to what is there, in double. */
#include "kernel.cuh"

#include "matrix.h"
#include "row_hash.h"

/* ---- scan */

enum { SCAN_PART = 64, SCAN_PITCH = SCAN_PART + 1 };

DEVICE void load_part(const cuda_matrix &x, const float *weights, int64_t first_row, int64_t first, int count,
                      float *tile)
{
    const int lane = static_cast<int>(threadIdx.x);
    for (int row = 0; row < 32 && first_row + row < x.rows; row++) {
        if (weights != nullptr && weights[first_row + row] == 0.0f) continue;
        for (int i = lane; i < count; i += 32)
            tile[row * SCAN_PITCH + i] = load_float(x.data, x.dtype, (first_row + row) * x.stride + first + i);
    }
}

static __global__ void __launch_bounds__(32)
    scan_kernel(const __grid_constant__ cuda_matrix x, const float *weights, int hashed, uint64_t seed,
                cuda_row_scan *scans)
{
    float *tile = reinterpret_cast<float *>(shared_memory());
    const int lane = static_cast<int>(threadIdx.x);
    const int64_t first_row = static_cast<int64_t>(blockIdx.x) * 32, row = first_row + lane;
    const bool counts = row < x.rows && (weights == nullptr || weights[row] != 0.0f);
    cuda_row_scan scan = {awqi_row_hash_begin(seed), -1};
    for (int64_t first = 0; first < x.columns; first += SCAN_PART) {
        const int count = x.columns - first < SCAN_PART ? static_cast<int>(x.columns - first) : SCAN_PART;
        load_part(x, weights, first_row, first, count, tile);
        __syncwarp();
        const float *values = tile + lane * SCAN_PITCH;
        for (int i = 0; counts && i < count; i += 2) {
            const uint32_t low = bits_as<uint32_t>(values[i]);
            const uint32_t high = i + 1 < count ? bits_as<uint32_t>(values[i + 1]) : 0;
            const bool bad = (low & 0x7f800000u) == 0x7f800000u, next = (high & 0x7f800000u) == 0x7f800000u;
            if ((bad || next) && scan.bad_channel < 0) scan.bad_channel = first + i + (bad ? 0 : 1);
            if (hashed) scan.hash = awqi_row_hash_mix(scan.hash, static_cast<uint64_t>(high) << 32 | low);
        }
        __syncwarp();
    }
    scan.hash = awqi_row_hash_end(scan.hash);
    if (counts) scans[row] = scan;
}

cudaError_t awqi_cuda_launch_scan(const cuda_matrix *x, const float *weights, bool hashed, uint64_t seed,
                                  cuda_row_scan *scans, cudaStream_t stream)
{
    launch_config where = {dim3(static_cast<unsigned>((x->rows + 31) / 32)), dim3(32),
                           32 * SCAN_PITCH * sizeof(float), stream, false};
    return launch(where, scan_kernel, *x, weights, hashed ? 1 : 0, seed, scans);
}

/* ---- gather */

static __global__ void __launch_bounds__(256)
    gather_kernel(const __grid_constant__ cuda_matrix x, const int64_t *rows, float *values)
{
    const int64_t row = rows[blockIdx.x];
    float *to = values + blockIdx.x * x.columns;
    for (int64_t i = threadIdx.x; i < x.columns; i += 256) to[i] = load_float(x.data, x.dtype, row * x.stride + i);
}

cudaError_t awqi_cuda_launch_gather(const cuda_matrix *x, const int64_t *rows, int64_t count, float *values,
                                    cudaStream_t stream)
{
    launch_config where = {dim3(static_cast<unsigned>(count)), dim3(256), 0, stream, false};
    return launch(where, gather_kernel, *x, rows, values);
}

/* ---- sums of channels */

enum { SUM_THREADS = 128 };

/* high + low += value, as awqi_add_two_double has it. */
struct two_double {
    double high, low;

    __device__ __forceinline__ void add(double value)
    {
        const double sum = __dadd_rn(high, value), part = __dadd_rn(sum, -high);
        const double error = __dadd_rn(
            __dadd_rn(__dadd_rn(high, -__dadd_rn(sum, -part)), __dadd_rn(value, -part)), low);
        high = __dadd_rn(sum, error);
        low = __dadd_rn(error, -__dadd_rn(high, -sum));
    }
};

/* A column of the sums of one chunk, or of all. */
struct channel_sums {
    two_double abs, square;
    double max_abs;

    __device__ __forceinline__ void store(double *sums, int64_t columns, int64_t column) const
    {
        const double values[CUDA_SUMS] = {abs.high, abs.low, square.high, square.low, max_abs};
        for (int i = 0; i < CUDA_SUMS; i++) sums[i * columns + column] = values[i];
    }
};

static __global__ void __launch_bounds__(SUM_THREADS, 8)
    sum_kernel(const __grid_constant__ cuda_matrix x, const float *weights, int64_t chunks, double *partial)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * SUM_THREADS + threadIdx.x;
    if (column >= x.columns) return;
    for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
        channel_sums sums = {};
        for (int64_t row = chunk * CUDA_CHUNK; row < x.rows && row < (chunk + 1) * CUDA_CHUNK; row++) {
            const double weight = weights != nullptr ? static_cast<double>(weights[row]) : 1.0;
            if (weight == 0.0) continue;
            const double magnitude = fabs(static_cast<double>(load_float(x.data, x.dtype, row * x.stride + column)));
            sums.abs.add(__dmul_rn(weight, magnitude));
            sums.square.add(__dmul_rn(weight, __dmul_rn(magnitude, magnitude)));
            sums.max_abs = magnitude > sums.max_abs ? magnitude : sums.max_abs;
        }
        sums.store(partial + chunk * CUDA_SUMS * x.columns, x.columns, column);
    }
}

static __global__ void __launch_bounds__(SUM_THREADS)
    merge_kernel(const double *partial, int64_t chunks, int64_t columns, double *merged)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * SUM_THREADS + threadIdx.x;
    if (column >= columns) return;
    channel_sums sums = {};
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const double *part = partial + chunk * CUDA_SUMS * columns + column;
        sums.abs.add(part[0]);
        sums.abs.add(part[columns]);
        sums.square.add(part[2 * columns]);
        sums.square.add(part[3 * columns]);
        sums.max_abs = part[4 * columns] > sums.max_abs ? part[4 * columns] : sums.max_abs;
    }
    sums.store(merged, columns, column);
}

cudaError_t awqi_cuda_launch_sums(const cuda_matrix *x, const float *weights, double *partial, double *sums,
                                  cudaStream_t stream)
{
    const int64_t chunks = awqi_cuda_chunks(x->rows);
    const unsigned blocks = static_cast<unsigned>((x->columns + SUM_THREADS - 1) / SUM_THREADS);
    launch_config where = {dim3(blocks, static_cast<unsigned>(chunks < 65535 ? chunks : 65535)), dim3(SUM_THREADS), 0,
                           stream, false};
    cudaError_t error = launch(where, sum_kernel, *x, weights, chunks, partial);
    where.grid = dim3(blocks);
    return error == cudaSuccess ? launch(where, merge_kernel, partial, chunks, x->columns, sums) : error;
}

/* ---- Gram matrix */

enum { GRAM_SIDE = 64, GRAM_ROWS = 16, GRAM_THREADS = 256 };

/* Rows of x in double, GRAM_SIDE channels from 'first' on, times their weights when there are some; zeros where there
 * is nothing. */
DEVICE void load_gram(const cuda_matrix &x, const float *weights, const float *factors, int64_t first_row,
                      int64_t first, double *tile)
{
    for (int i = static_cast<int>(threadIdx.x); i < GRAM_ROWS * GRAM_SIDE; i += GRAM_THREADS) {
        const int64_t row = first_row + i / GRAM_SIDE, column = first + i % GRAM_SIDE;
        const bool there = row < x.rows && column < x.columns && (weights == nullptr || weights[row] != 0.0f);
        const double value = there ? static_cast<double>(load_float(x.data, x.dtype, row * x.stride + column)) : 0.0;
        tile[i] = there && factors != nullptr ? __dmul_rn(static_cast<double>(factors[row]), value) : value;
    }
}

static __global__ void __launch_bounds__(GRAM_THREADS)
    gram_kernel(const __grid_constant__ cuda_matrix x, const float *weights, double *gram)
{
    double *left = reinterpret_cast<double *>(shared_memory()), *right = left + GRAM_ROWS * GRAM_SIDE;
    const int64_t top = static_cast<int64_t>(blockIdx.y) * GRAM_SIDE;
    const int64_t side = static_cast<int64_t>(blockIdx.x) * GRAM_SIDE;
    if (side < top) return;
    const int i = static_cast<int>(threadIdx.x) / 16, j = static_cast<int>(threadIdx.x) % 16;
    double sums[4][4];
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            const int64_t row = top + i + 16 * a, column = side + j + 16 * b;
            sums[a][b] = row < x.columns && column < x.columns ? gram[row * x.columns + column] : 0.0;
        }
    for (int64_t first_row = 0; first_row < x.rows; first_row += GRAM_ROWS) {
        load_gram(x, weights, weights, first_row, top, left);
        load_gram(x, weights, nullptr, first_row, side, right);
        __syncthreads();
        for (int row = 0; row < GRAM_ROWS; row++)
#pragma unroll
            for (int a = 0; a < 4; a++)
#pragma unroll
                for (int b = 0; b < 4; b++) {
                    const double *l = left + row * GRAM_SIDE + i + 16 * a, *r = right + row * GRAM_SIDE + j + 16 * b;
                    sums[a][b] = fma(*l, *r, sums[a][b]);
                }
        __syncthreads();
    }
    for (int a = 0; a < 4; a++)
        for (int b = 0; b < 4; b++) {
            const int64_t row = top + i + 16 * a, column = side + j + 16 * b;
            if (row >= x.columns || column >= x.columns) continue;
            gram[row * x.columns + column] = sums[a][b];
            if (side != top) gram[column * x.columns + row] = sums[a][b];
        }
}

cudaError_t awqi_cuda_launch_gram(const cuda_matrix *x, const float *weights, double *gram, cudaStream_t stream)
{
    const unsigned tiles = static_cast<unsigned>((x->columns + GRAM_SIDE - 1) / GRAM_SIDE);
    if (tiles > 65535) return cudaErrorInvalidConfiguration; /* a matrix of 140 TB */
    launch_config where = {dim3(tiles, tiles), dim3(GRAM_THREADS), 2 * GRAM_ROWS * GRAM_SIDE * sizeof(double), stream,
                           false};
    return launch(where, gram_kernel, *x, weights, gram);
}
