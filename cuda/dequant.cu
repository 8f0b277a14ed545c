/* dequant: W[n][k] = (q[n][k] - z) s as a dense matrix of FP16 or BF16, rounded once, for a product by cuBLASLt; and
 * what follows that product.  Where a weight serves many rows, unpacking it once costs less than unpacking it for every
 * tile of them.
 *
 * Tiling    A warp takes one block of 64 columns by 64 inputs of the layout cuda-block: fragments as for an mma,
 * through a tile in shared memory whose rows are 144 bytes apart, so that writes by lanes and reads by rows meet no
 * bank twice.
 *
 * In flight 2 KiB of codes a warp, without a pipeline: it is bound by what it writes, 8 KiB.
 *
 * Limits    4 and 8 bits; groups that are multiples of 16 inputs, or one for all. */
#include "kernel.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, PITCH = 144 };

template <class T, int bits, bool fine>
static __global__ void __launch_bounds__(THREADS) dequant_kernel(const __grid_constant__ cuda_product p)
{
    enum { WORDS = bits / 4, SETS_BYTES = SET_SCALES + 8 * bits, WARP_BYTES = 64 * PITCH + 4 * SETS_BYTES };
    const cuda_weight &w = p.w;
    const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4,
              c = lane % 4;
    const int64_t unit = static_cast<int64_t>(blockIdx.x) * WARPS + warp;
    unsigned char *tile = shared_memory() + warp * WARP_BYTES, *sets = tile + 64 * PITCH;
    if (unit >= static_cast<int64_t>(w.column_blocks) * w.input_blocks) return;
    const int32_t column = static_cast<int32_t>(unit / w.input_blocks),
                  input = static_cast<int32_t>(unit % w.input_blocks);
    ptx::grid_wait();
    fetch_sets<bits, fine>(w, column, input, sets);
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncwarp();
    const uint32_t *codes = static_cast<const uint32_t *>(w.codes) + unit * 512 * WORDS;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const unsigned char *set = sets + (fine ? t : 0) * SETS_BYTES;
            uint32_t words[WORDS], a[4];
#pragma unroll
            for (int i = 0; i < WORDS; i++) words[i] = codes[((j * 32 + lane) * 4 + t) * WORDS + i];
            fragment_of(words, offsets_of<bits>(zero_of_lane<bits>(w, set, 2 * j), T()),
                        offsets_of<bits>(zero_of_lane<bits>(w, set, 2 * j + 1), T()), a, T());
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float scale = scale_of_lane(w, set, 2 * j + i % 2);
                const float2 pair = unpack_pair(a[i], T());
                uint32_t *row = reinterpret_cast<uint32_t *>(tile + (16 * j + g + i % 2 * 8) * PITCH);
                row[8 * t + c + i / 2 * 4] = pack_pair(pair.x * scale, pair.y * scale, T());
            }
        }
    __syncwarp();
    const int64_t pitch = static_cast<int64_t>(w.input_blocks) * 64;
    T *to = static_cast<T *>(p.dense) + static_cast<int64_t>(column) * 64 * pitch + static_cast<int64_t>(input) * 64;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const int row = 4 * i + lane / 8, chunk = lane % 8;
        *reinterpret_cast<uint4 *>(to + row * pitch + chunk * 8) =
            *reinterpret_cast<const uint4 *>(tile + row * PITCH + chunk * 16);
    }
}

/* y from sums [rows][columns]: bias, gate, residual, rounding. */
static __global__ void __launch_bounds__(THREADS) finish_kernel(const __grid_constant__ cuda_product p)
{
    const int64_t columns = static_cast<int64_t>(p.w.column_blocks) * 64;
    ptx::grid_wait();
    for (int64_t row = blockIdx.y; row < p.rows; row += gridDim.y) {
        const int32_t o = static_cast<int32_t>(blockIdx.x * THREADS + threadIdx.x);
        if (o >= p.w.outputs) return;
        const float *sums = p.partial + row * columns + (p.w.gated ? o / 32 * 64 + o % 32 : o);
        store_output(p, row, o, sums[0], p.w.gated ? sums[32] : 0.0f);
    }
}

/* ---- launching */

typedef void (*dequant_function)(cuda_product);

template <class T>
static dequant_function of_weight(int32_t bits, bool fine)
{
    if (bits == 4) return fine ? dequant_kernel<T, 4, true> : dequant_kernel<T, 4, false>;
    return fine ? dequant_kernel<T, 8, true> : dequant_kernel<T, 8, false>;
}

cudaError_t awqi_cuda_dequant(const cuda_product *product, cudaStream_t stream)
{
    const cuda_weight &w = product->w;
    const int64_t units = static_cast<int64_t>(w.column_blocks) * w.input_blocks;
    const size_t shared = WARPS * (64 * PITCH + 4 * (SET_SCALES + 8 * static_cast<size_t>(w.bits)));
    launch_config where = {dim3(static_cast<unsigned>((units + WARPS - 1) / WARPS)), dim3(THREADS), shared, stream,
                           false};
    return launch(where,
                  product->config.dtype == AWQ_F16 ? of_weight<__half>(w.bits, product->config.fine)
                                                   : of_weight<__nv_bfloat16>(w.bits, product->config.fine),
                  *product);
}

cudaError_t awqi_cuda_finish(const cuda_product *product, cudaStream_t stream)
{
    const unsigned outputs = static_cast<unsigned>(product->w.outputs), rows = static_cast<unsigned>(product->rows);
    launch_config where = {dim3((outputs + THREADS - 1) / THREADS, rows < 65535 ? rows : 65535), dim3(THREADS), 0,
                           stream, false};
    return launch(where, finish_kernel, *product);
}
