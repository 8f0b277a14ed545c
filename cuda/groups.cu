/* Groups of a weight: their largest element, their columns' shares of it, and their quantisation, by the operations of
 * the CPU backend (libawq/cpu) in their order, so that codes, scales and zero points have the same bits.
 *
 * A warp takes one group of one output and reads it twice: for its range, and to map it.  Quotients are true divisions,
 * products are not fused with sums. */
#include "kernel.cuh"

#include "matrix.h"

enum { WARPS = 4, THREADS = 32 * WARPS };

DEVICE float round_to(int32_t dtype, float value)
{
    if (dtype == AWQ_F16) return __half2float(__float2half_rn(value));
    if (dtype == AWQ_BF16) return __bfloat162float(__float2bfloat16_rn(value));
    return value;
}

DEVICE float scaled_value(const cuda_scaled &s, int64_t row, int64_t column)
{
    const float value = load_float(s.w.data, s.w.dtype, row * s.w.stride + column);
    return s.scales != nullptr ? round_to(s.dtype, __fmul_rn(value, s.scales[column])) : value;
}

/* The group of this warp; false where there is none. */
struct group_place {
    int64_t index, row, group, begin, end;

    __device__ __forceinline__ bool find(const cuda_scaled &s)
    {
        index = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
        row = index / s.groups;
        group = index % s.groups;
        begin = group * s.group_size;
        end = begin + s.group_size < s.w.columns ? begin + s.group_size : s.w.columns;
        return row < s.w.rows;
    }
};

static cudaError_t for_groups(const cuda_scaled &s, cudaStream_t stream, launch_config *where)
{
    const int64_t blocks = (s.w.rows * s.groups + WARPS - 1) / WARPS;
    if (blocks > 0x7fffffff) return cudaErrorInvalidConfiguration;
    *where = {dim3(static_cast<unsigned>(blocks)), dim3(THREADS), 0, stream, false};
    return cudaSuccess;
}

/* A block for each row, as far as a grid goes. */
static launch_config for_rows(const cuda_matrix &w, cudaStream_t stream)
{
    return {dim3(static_cast<unsigned>(w.rows < 65536 ? w.rows : 65536)), dim3(THREADS), 0, stream, false};
}

/* ---- elements */

static __global__ void __launch_bounds__(THREADS)
    find_non_finite_kernel(const __grid_constant__ cuda_scaled s, unsigned long long *first)
{
    for (int64_t row = blockIdx.x; row < s.w.rows; row += gridDim.x)
        for (int64_t i = threadIdx.x; i < s.w.columns; i += THREADS) {
            const float value = scaled_value(s, row, i);
            if ((bits_as<uint32_t>(value) & 0x7f800000u) == 0x7f800000u)
                atomicMin(first, static_cast<unsigned long long>(row * s.w.columns + i));
        }
}

cudaError_t awqi_cuda_launch_find_non_finite(const cuda_scaled *scaled, unsigned long long *first, cudaStream_t stream)
{
    return launch(for_rows(scaled->w, stream), find_non_finite_kernel, *scaled, first);
}

static __global__ void __launch_bounds__(THREADS)
    subtract_kernel(const __grid_constant__ cuda_scaled s, float *values)
{
    for (int64_t row = blockIdx.x; row < s.w.rows; row += gridDim.x)
        for (int64_t i = threadIdx.x; i < s.w.columns; i += THREADS) {
            float *value = values + row * s.w.columns + i;
            *value = __fadd_rn(scaled_value(s, row, i), -*value);
        }
}

cudaError_t awqi_cuda_launch_subtract(const cuda_scaled *scaled, float *values, cudaStream_t stream)
{
    return launch(for_rows(scaled->w, stream), subtract_kernel, *scaled, values);
}

static __global__ void __launch_bounds__(THREADS)
    keep_kernel(const __grid_constant__ cuda_scaled s, const int32_t *columns, int64_t count, float *values)
{
    for (int64_t row = blockIdx.x; row < s.w.rows; row += gridDim.x)
        for (int64_t i = threadIdx.x; i < count; i += THREADS) {
            const float kept = round_to(AWQ_F16, scaled_value(s, row, columns[i]));
            values[row * s.w.columns + columns[i]] = __fdiv_rn(kept, s.scales[columns[i]]);
        }
}

cudaError_t awqi_cuda_launch_keep(const cuda_scaled *scaled, const int32_t *columns, int64_t count, float *values,
                                  cudaStream_t stream)
{
    return launch(for_rows(scaled->w, stream), keep_kernel, *scaled, columns, count, values);
}

/* ---- the largest of each group */

static __global__ void __launch_bounds__(THREADS)
    group_max_kernel(const __grid_constant__ cuda_scaled s, float *largest)
{
    group_place at;
    if (!at.find(s)) return;
    float most = 0.0f;
    for (int64_t i = at.begin + threadIdx.x % 32; i < at.end; i += 32) {
        const float magnitude = fabsf(scaled_value(s, at.row, i));
        most = magnitude > most ? magnitude : most;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, most, lanes);
        most = other > most ? other : most;
    }
    if (threadIdx.x % 32 == 0) largest[at.index] = most;
}

cudaError_t awqi_cuda_launch_group_max(const cuda_scaled *scaled, float *largest, cudaStream_t stream)
{
    launch_config where;
    cudaError_t error = for_groups(*scaled, stream, &where);
    return error == cudaSuccess ? launch(where, group_max_kernel, *scaled, largest) : error;
}

/* ---- shares: a thread adds one column over CUDA_CHUNK rows */

static __global__ void __launch_bounds__(THREADS)
    share_kernel(const __grid_constant__ cuda_scaled s, const float *largest, int64_t chunks,
                 double *partial)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (column >= s.w.columns) return;
    for (int64_t chunk = blockIdx.y; chunk < chunks; chunk += gridDim.y) {
        double sum = 0.0;
#pragma unroll 1
        for (int64_t row = chunk * CUDA_CHUNK; row < s.w.rows && row < (chunk + 1) * CUDA_CHUNK; row++) {
            const float divisor = __fadd_rn(largest[row * s.groups + column / s.group_size], 1e-6f);
            sum = __dadd_rn(sum, static_cast<double>(__fdiv_rn(fabsf(scaled_value(s, row, column)), divisor)));
        }
        partial[chunk * s.w.columns + column] = sum;
    }
}

static __global__ void __launch_bounds__(THREADS)
    add_chunks_kernel(const double *partial, int64_t chunks, int64_t columns, double *sums)
{
    const int64_t column = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    if (column >= columns) return;
    double sum = 0.0;
    for (int64_t chunk = 0; chunk < chunks; chunk++) sum = __dadd_rn(sum, partial[chunk * columns + column]);
    sums[column] = sum;
}

cudaError_t awqi_cuda_launch_shares(const cuda_scaled *scaled, const float *largest, double *partial, double *sums,
                                    cudaStream_t stream)
{
    const int64_t chunks = awqi_cuda_chunks(scaled->w.rows), columns = scaled->w.columns;
    const unsigned blocks = static_cast<unsigned>((columns + THREADS - 1) / THREADS);
    launch_config where = {dim3(blocks, static_cast<unsigned>(chunks < 65535 ? chunks : 65535)), dim3(THREADS), 0,
                           stream, false};
    cudaError_t error = launch(where, share_kernel, *scaled, largest, chunks, partial);
    where.grid = dim3(blocks);
    return error == cudaSuccess ? launch(where, add_chunks_kernel, partial, chunks, columns, sums) : error;
}

/* ---- quantisation */

/* How a group is mapped to codes: as 'struct grid' of the CPU's quantiser. */
struct group_grid {
    float step, scale, offset;
};

DEVICE float limited(float value, float limit)
{
    value = value > limit ? limit : value;
    return value < -limit ? -limit : value;
}

DEVICE float find_step(const cuda_quantization &q, float least, float most)
{
    const int32_t dtype = q.scaled.dtype;
    float range, divisor;
    if (q.symmetric) {
        range = most > -least ? most : -least;
        divisor = (static_cast<float>(q.max_code) - 1.0f) / 2.0f;
    } else {
        range = round_to(dtype, __fadd_rn(most, -least));
        divisor = static_cast<float>(q.max_code);
    }
    if (q.peer) {
        const float floor = round_to(dtype, 1e-5f);
        range = range < floor ? floor : range;
    } else if (range > 3.402823466e38f) {
        return __fadd_rn(__fdiv_rn(most, divisor), -__fdiv_rn(least, divisor));
    }
    return round_to(dtype, __fdiv_rn(range, divisor));
}

/* 'step' in the dtype it is stored in, clamped to its smallest and largest numbers. */
DEVICE float store_step(const cuda_quantization &q, float step)
{
    const int32_t dtype = static_cast<int32_t>(q.scale_dtype);
    const float least = bits_as<float>(dtype == AWQ_F16 ? 0x33800000u : dtype == AWQ_BF16 ? 0x00010000u : 0x00000001u);
    const float most = bits_as<float>(dtype == AWQ_F16 ? 0x477fe000u : dtype == AWQ_BF16 ? 0x7f7f0000u : 0x7f7fffffu);
    const float scale = round_to(dtype, step);
    if (scale >= least && scale <= most) return scale;
    if (threadIdx.x % 32 == 0) atomicAdd(&q.counts[0], 1ull);
    return scale < least ? least : most;
}

DEVICE group_grid find_grid(const cuda_quantization &q, int64_t index, float least, float most)
{
    const float max_code = static_cast<float>(q.max_code);
    group_grid grid = {1.0f, 1.0f, q.symmetric ? (max_code + 1.0f) / 2.0f : 0.0f};
    if (least == 0.0f && most == 0.0f) {
        if (threadIdx.x % 32 == 0) atomicAdd(&q.counts[1], 1ull);
        if (!q.peer) return grid;
    }
    if (!q.peer) {
        least = least < 0.0f ? least : 0.0f;
        most = most > 0.0f ? most : 0.0f;
    }
    grid.step = find_step(q, least, most);
    if (q.peer && grid.step > 3.402823466e38f && threadIdx.x % 32 == 0)
        atomicMin(q.overflow, static_cast<unsigned long long>(index));
    grid.scale = store_step(q, grid.step);
    if (!q.peer) grid.step = grid.scale;
    if (!q.symmetric) {
        float zero = -rintf(round_to(q.scaled.dtype, __fdiv_rn(least, grid.step)));
        zero = zero < max_code ? zero : max_code;
        grid.offset = zero > 0.0f ? zero : 0.0f;
    }
    return grid;
}

/* What the level stands for, in the space of w s or of w. */
DEVICE float dequantized_value(const cuda_quantization &q, float level, float scale, int64_t column)
{
    float value = round_to(q.scaled.dtype, __fmul_rn(level, scale));
    if (q.unscale && q.scaled.scales != nullptr)
        value = round_to(q.scaled.dtype, __fdiv_rn(value, q.scaled.scales[column]));
    return value;
}

static __global__ void __launch_bounds__(THREADS) quantize_kernel(const __grid_constant__ cuda_quantization q)
{
    const cuda_scaled &s = q.scaled;
    const int lane = static_cast<int>(threadIdx.x % 32);
    group_place at;
    if (!at.find(s)) return;
    const float limit = q.clip != nullptr ? round_to(s.dtype, q.clip[at.index]) : 0.0f;
    const float infinity = bits_as<float>(0x7f800000u);
    float least = infinity, most = -infinity;
    for (int64_t i = at.begin + lane; i < at.end; i += 32) {
        float value = scaled_value(s, at.row, i);
        if (q.clip != nullptr) value = limited(value, limit);
        least = value < least ? value : least;
        most = value > most ? value : most;
    }
    for (int lanes = 16; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, least, lanes);
        least = other < least ? other : least;
        const float another = __shfl_xor_sync(ALL_LANES, most, lanes);
        most = another > most ? another : most;
    }
    const group_grid grid = find_grid(q, at.index, least, most);
    if (lane == 0 && q.scales != nullptr) q.scales[at.index] = grid.scale;
    if (lane == 0 && q.zeros != nullptr) q.zeros[at.index] = static_cast<uint8_t>(grid.offset);
    const float low = -grid.offset, high = static_cast<float>(q.max_code) - grid.offset, magic = 12582912.0f;
    for (int64_t i = at.begin + lane; i < at.end; i += 32) {
        float value = scaled_value(s, at.row, i);
        if (q.clip != nullptr) value = limited(value, limit);
        value = round_to(s.dtype, __fdiv_rn(value, grid.step));
        value = value > high ? high : value;
        /* Adding and taking away 1.5 * 2^23 rounds half to even. */
        const float level = __fadd_rn(__fadd_rn(value < low ? low : value, magic), -magic);
        const int64_t index = at.row * s.w.columns + i;
        if (q.codes != nullptr) q.codes[index] = static_cast<uint8_t>(static_cast<int32_t>(level + grid.offset));
        if (q.dequantized != nullptr) q.dequantized[index] = dequantized_value(q, level, grid.scale, i);
    }
}

cudaError_t awqi_cuda_launch_quantize(const cuda_quantization *job, cudaStream_t stream)
{
    launch_config where;
    cudaError_t error = for_groups(job->scaled, stream, &where);
    return error == cudaSuccess ? launch(where, quantize_kernel, *job) : error;
}
