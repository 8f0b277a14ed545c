/* Squared norms: of the products of sampled rows with the differences of weights, which searches minimise.
 *
 *     squares[split][n][g] = sum over the split's rows r of (sum over the group's columns j of R_g[r][j] d[n][j])^2
 *
 * Tiling    A block takes one group and 64 outputs, and the rows of one split 64 at a time; its 256 threads hold 4 x 4
 *           sums each in single precision, whose squares are added in double: over the rows in their order, then over
 *           the threads.  Operands pass through shared memory in steps of 32 columns. */
#include "kernel.cuh"

#include "matrix.h"

enum { SIDE = 64, DEPTH = 32, PITCH = SIDE + 1, THREADS = 256 };

/* tile[column][row] of a matrix of 'rows' rows from 'first' on; zeros beyond it. */
DEVICE void load_tile(const float *matrix, int64_t stride, int64_t rows, int64_t columns, float *tile)
{
    const int column = static_cast<int>(threadIdx.x) % DEPTH;
    for (int row = static_cast<int>(threadIdx.x) / DEPTH; row < SIDE; row += THREADS / DEPTH)
        tile[column * PITCH + row] = row < rows && column < columns ? matrix[row * stride + column] : 0.0f;
}

static __global__ void __launch_bounds__(THREADS) norms_kernel(const __grid_constant__ cuda_norms p)
{
    float *left = reinterpret_cast<float *>(shared_memory()), *right = left + DEPTH * PITCH;
    double *totals = reinterpret_cast<double *>(shared_memory()); /* when the tiles are done */
    const int64_t group = blockIdx.x % p.groups, output = blockIdx.x / p.groups * SIDE, split = blockIdx.y;
    const int64_t begin = group * p.group_size,
                  width = p.k - begin < p.group_size ? p.k - begin : p.group_size;
    const int64_t root_rows = p.reduced && width < p.rows ? width : p.rows;
    const int64_t first_row = p.splits > 1 ? split * CUDA_SPLIT_ROWS : 0;
    const int64_t end_row =
        p.splits > 1 && first_row + CUDA_SPLIT_ROWS < root_rows ? first_row + CUDA_SPLIT_ROWS : root_rows;
    const float *root = p.roots + p.root_stride * begin, *differences = p.differences + output * p.k + begin;
    const int i = static_cast<int>(threadIdx.x) / 16, j = static_cast<int>(threadIdx.x) % 16;
    double squares[4] = {};
    for (int64_t row = first_row; row < end_row; row += SIDE) {
        float sums[4][4] = {};
        for (int64_t column = 0; column < width; column += DEPTH) {
            load_tile(root + row * width + column, width, end_row - row, width - column, left);
            load_tile(differences + column, p.k, p.n - output, width - column, right);
            __syncthreads();
            for (int d = 0; d < DEPTH; d++) {
#pragma unroll
                for (int a = 0; a < 4; a++)
#pragma unroll
                    for (int b = 0; b < 4; b++)
                        sums[a][b] = fmaf(left[d * PITCH + i + 16 * a], right[d * PITCH + j + 16 * b], sums[a][b]);
            }
            __syncthreads();
        }
        for (int a = 0; a < 4; a++)
            for (int b = 0; b < 4; b++) {
                const double sum = static_cast<double>(sums[a][b]);
                squares[b] = fma(sum, sum, squares[b]);
            }
    }
    for (int b = 0; b < 4; b++) totals[i * SIDE + j + 16 * b] = squares[b];
    __syncthreads();
    if (threadIdx.x >= SIDE || output + threadIdx.x >= p.n) return;
    double total = 0.0;
    for (int a = 0; a < 16; a++) total = __dadd_rn(total, totals[a * SIDE + threadIdx.x]);
    p.squares[(split * p.n + output + threadIdx.x) * p.groups + group] = total;
}

cudaError_t awqi_cuda_launch_norms(const cuda_norms *norms, cudaStream_t stream)
{
    const int64_t blocks = (norms->n + SIDE - 1) / SIDE * norms->groups;
    if (blocks > 0x7fffffff || norms->splits > 65535) return cudaErrorInvalidConfiguration;
    launch_config where = {dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(norms->splits)), dim3(THREADS),
                           2 * DEPTH * PITCH * sizeof(float), stream, false};
    return launch(where, norms_kernel, *norms);
}

/* ---- of a product that is there */

static __global__ void __launch_bounds__(THREADS)
    squares_kernel(const __grid_constant__ cuda_matrix y, double *sums)
{
    double *totals = reinterpret_cast<double *>(shared_memory()), sum = 0.0;
    const float *row = static_cast<const float *>(y.data) + blockIdx.x * y.stride;
    for (int64_t i = threadIdx.x; i < y.columns; i += THREADS) {
        const double value = static_cast<double>(row[i]);
        sum = fma(value, value, sum);
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    if (threadIdx.x % 32 == 0) totals[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int warp = 1; warp < THREADS / 32; warp++) sum += totals[warp];
    sums[blockIdx.x] = sum;
}

cudaError_t awqi_cuda_launch_squares(const cuda_matrix *y, double *sums, cudaStream_t stream)
{
    launch_config where = {dim3(static_cast<unsigned>(y->rows)), dim3(THREADS), THREADS / 32 * sizeof(double), stream,
                           false};
    return launch(where, squares_kernel, *y, sums);
}
