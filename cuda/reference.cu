/* reference: what a linear computes, said as plainly as CUDA allows, from every storage a weight can have.
 *
 *     x'[k]  = x[k] norm_weight[k] / sqrt(mean(x^2) + epsilon) / input_scale[k]
 *     sum[n] = sum over k of x'[k] W[n][k],  W[n][k] = (q[n][k] - z) s
 *     y[n]   = sum[n] + bias[n] + residual[n], or silu(sum[gate]) sum[up] in place of sum[n]
 *
 * Tiling    A warp computes one output of up to 4 rows; lanes take every 32nd input and are added pairwise.  Single
 * precision.  No pipeline: in flight is what the multiprocessor's warps have asked for, a code each.
 *
 * Limits    None: any bits, group size, shape and dtype.  It unpacks codes one by one and is slow. */
#include "kernel.cuh"

enum { ROWS = 4, WARPS = 4 };

/* Code and zero point of a bit stream of rows. */
DEVICE int code_in_rows(const cuda_weight &w, int64_t column, int32_t k)
{
    const unsigned char *row = static_cast<const unsigned char *>(w.codes) + column * w.row_bytes;
    const int64_t bit = static_cast<int64_t>(k) * w.bits;
    int field = row[bit / 8] >> bit % 8;
    if (bit % 8 + w.bits > 8) field |= row[bit / 8 + 1] << (8 - bit % 8);
    return field & ((1 << w.bits) - 1);
}

/* The order of codes in the fragments of cuda-block and marlin; see libawq/layout/fragment.h. */
DEVICE int code_in_tiles(const cuda_weight &w, int64_t column, int32_t k)
{
    const int kk = k % 16, nn = static_cast<int>(column % 64), j = nn / 16, c = nn % 16, t = k / 16 % 4;
    const int lane = c % 8 * 4 + kk % 8 / 2, high = c / 8, right = kk / 8, odd = kk % 2;
    const int words = w.bits / 4; /* of a lane's part of a tile */
    int64_t tile;
    if (w.storage == CUDA_BLOCKS) tile = ((column / 64 * w.input_blocks + k / 64) * 4 + j) * 128 + lane * 4 + t;
    else tile = (static_cast<int64_t>(k / 16) * w.column_blocks + column / 64) * 128 + lane * 4 + j;
    const uint32_t *codes = static_cast<const uint32_t *>(w.codes) + tile * words;
    if (w.bits == 4) return codes[0] >> 4 * (2 * high + right + 4 * odd) & 15;
    return codes[high] >> 8 * (right + 2 * odd) & 255;
}

DEVICE float weight_at(const cuda_weight &w, int64_t column, int32_t k)
{
    if (w.storage == CUDA_DENSE) return load_float(w.codes, w.scale_dtype, column * w.input_blocks * 64 + k);
    const int32_t group = min(k / w.group_size, w.groups - 1);
    int zero = 1 << (w.bits - 1);
    if (w.storage == CUDA_ROWS) {
        const int64_t at = column * w.groups + group;
        if (w.zeros != nullptr) zero = static_cast<const unsigned char *>(w.zeros)[at];
        return static_cast<float>(code_in_rows(w, column, k) - zero) * load_float(w.scales, w.scale_dtype, at);
    }
    const int nn = static_cast<int>(column % 64), placed = 8 * (nn % 8) + nn / 8;
    const int scaled = w.single_scales ? nn / 32 * 32 + nn % 8 / 2 * 8 + nn % 32 / 8 * 2 + nn % 2 : placed;
    const int64_t at = (static_cast<int64_t>(group) * w.column_blocks + column / 64) * 64;
    if (w.zeros != nullptr) {
        const int word = placed * w.bits / 32, field = placed % (32 / w.bits);
        const uint32_t fields = static_cast<const uint32_t *>(w.zeros)[at * w.bits / 32 + word];
        zero = w.bits == 4 ? fields >> 4 * (field / 2 + 4 * (field % 2)) & 15
                           : fields >> 8 * (field / 2 + 2 * (field % 2)) & 255;
    }
    return static_cast<float>(code_in_tiles(w, column, k) - zero) * load_float(w.scales, w.scale_dtype, at + scaled);
}

static __global__ void __launch_bounds__(32 * WARPS) reference_kernel(const __grid_constant__ cuda_product p)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t output = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / 32;
    const int64_t row = static_cast<int64_t>(blockIdx.y) * ROWS;
    if (output >= p.w.outputs) return;
    const int64_t column = p.w.gated ? output / 32 * 64 + output % 32 : output;
    float factors[ROWS], sums[ROWS] = {}, ups[ROWS] = {};
    for (int i = 0; i < ROWS; i++)
        factors[i] = p.norm.data != nullptr && row + i < p.rows ? norm_factor(p, row + i) : 1.0f;
    for (int32_t k = lane; k < p.w.inputs; k += 32) {
        const float weight = weight_at(p.w, column, k), up = p.w.gated ? weight_at(p.w, column + 32, k) : 0.0f;
        for (int i = 0; i < ROWS && row + i < p.rows; i++) {
            const float x = load_input(p, row + i, k, factors[i]);
            sums[i] = fmaf(x, weight, sums[i]);
            ups[i] = fmaf(x, up, ups[i]);
        }
    }
    for (int i = 0; i < ROWS && row + i < p.rows; i++) {
        for (int lanes = 16; lanes > 0; lanes /= 2) {
            sums[i] += __shfl_xor_sync(ALL_LANES, sums[i], lanes);
            ups[i] += __shfl_xor_sync(ALL_LANES, ups[i], lanes);
        }
        if (lane == 0) store_output(p, row + i, static_cast<int32_t>(output), sums[i], ups[i]);
    }
}

cudaError_t awqi_cuda_reference(const cuda_product *product, cudaStream_t stream)
{
    const unsigned outputs = (static_cast<unsigned>(product->w.outputs) + WARPS - 1) / WARPS;
    const unsigned most = 65535 * ROWS; /* rows of a grid */
    cuda_product part = *product;
    for (int32_t row = 0; row < product->rows; row += static_cast<int32_t>(most)) {
        awqi_cuda_rows(product, row, static_cast<int32_t>(most), &part);
        launch_config where = {dim3(outputs, (static_cast<unsigned>(part.rows) + ROWS - 1) / ROWS), dim3(32 * WARPS), 0,
                               stream, false};
        cudaError_t error = launch(where, reference_kernel, part);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}
