/* What moves and converts: tensors from one dtype or order to another, and x on its way into a product.  Each element
 * is read and written once, by one lane. */
#include "kernel.cuh"

enum { THREADS = 256 };

/* ---- tensors of any strides */

struct conversion {
    cuda_array src, dst;
    int64_t shape[AWQ_MAX_DIMS];
    int64_t count;
    int32_t ndim;
    int32_t size; /* bytes of an element when it only moves; 0: converted */
};

DEVICE void move(const void *src, int64_t from, void *dst, int64_t to, int32_t size)
{
    if (size == 1) static_cast<uint8_t *>(dst)[to] = static_cast<const uint8_t *>(src)[from];
    else if (size == 2) static_cast<uint16_t *>(dst)[to] = static_cast<const uint16_t *>(src)[from];
    else if (size == 4) static_cast<uint32_t *>(dst)[to] = static_cast<const uint32_t *>(src)[from];
    else static_cast<uint64_t *>(dst)[to] = static_cast<const uint64_t *>(src)[from];
}

static __global__ void __launch_bounds__(THREADS) convert_kernel(const __grid_constant__ conversion c)
{
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x; i < c.count; i += step) {
        int64_t rest = i, from = 0, to = 0;
        for (int32_t d = c.ndim - 1; d >= 0; d--) {
            const int64_t at = rest % c.shape[d];
            rest /= c.shape[d];
            from += at * c.src.strides[d];
            to += at * c.dst.strides[d];
        }
        if (c.size != 0) move(c.src.data, from, c.dst.data, to, c.size);
        else store_float(c.dst.data, c.dst.dtype, to, load_float(c.src.data, c.src.dtype, from));
    }
}

static int32_t bytes_of(int32_t dtype)
{
    switch (dtype) {
    case AWQ_U8:
    case AWQ_I8:
    case AWQ_BOOL:
    case AWQ_F8_E4M3:
    case AWQ_F8_E5M2: return 1;
    case AWQ_F16:
    case AWQ_BF16:
    case AWQ_U16:
    case AWQ_I16: return 2;
    case AWQ_F32:
    case AWQ_U32:
    case AWQ_I32: return 4;
    default: return 8;
    }
}

cudaError_t awqi_cuda_convert(const cuda_array *src, const cuda_array *dst, int32_t ndim, const int64_t *shape,
                              cudaStream_t stream)
{
    conversion c = {};
    c.src = *src;
    c.dst = *dst;
    c.ndim = ndim;
    c.count = 1;
    for (int32_t i = 0; i < ndim; i++) c.count *= c.shape[i] = shape[i];
    c.size = src->dtype == dst->dtype ? bytes_of(src->dtype) : 0;
    if (c.count == 0) return cudaSuccess;
    const int64_t blocks = (c.count + THREADS - 1) / THREADS;
    launch_config where = {dim3(static_cast<unsigned>(blocks < 65536 ? blocks : 65536)), dim3(THREADS), 0, stream,
                           false};
    return launch(where, convert_kernel, c);
}

/* ---- x: normalised, divided by the input scale, rounded once, padded with zeros to whole blocks of inputs */

static __global__ void __launch_bounds__(THREADS) stage_kernel(const __grid_constant__ cuda_product p)
{
    const int64_t width = static_cast<int64_t>(p.w.input_blocks) * CUDA_BLOCK;
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    for (int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const float factor = p.norm.data != nullptr ? norm_factor(p, row) : 1.0f;
        for (int32_t k = static_cast<int32_t>(threadIdx.x); k < width; k += THREADS)
            store_float(p.staged, p.config.dtype, row * width + k, load_input(p, row, k, factor));
    }
}

/* The same for hopper: [block of inputs][row][64], rows padded to eights, and the chunks of 16 bytes of a row
 * exclusive-ored by row % 8.  A lane moves chunks.  Like hopper, only where there is wgmma. */
template <class T>
static __global__ void __launch_bounds__(THREADS) swizzle_kernel(const __grid_constant__ cuda_product p)
{
#if AWQ_WGMMA
    const int32_t rows = (p.rows + 7) / 8 * 8, chunks = p.w.input_blocks * 8;
    const bool ready = p.x.dtype == dtype_of(T()) && p.norm.data == nullptr && p.w.input_scale == nullptr &&
                       p.w.inputs % 8 == 0 &&
                       (reinterpret_cast<uintptr_t>(p.x.data) | static_cast<uintptr_t>(p.x.stride * 2)) % 16 == 0;
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    for (int32_t row = static_cast<int32_t>(blockIdx.y); row < rows; row += static_cast<int32_t>(gridDim.y)) {
        const bool valid = row < p.rows;
        const float factor = valid && p.norm.data != nullptr ? norm_factor(p, row) : 1.0f;
        const T *x = static_cast<const T *>(p.x.data) + (ready && valid ? row * p.x.stride : 0);
        for (int32_t i = static_cast<int32_t>(blockIdx.x * THREADS + threadIdx.x); i < chunks;
             i += static_cast<int32_t>(gridDim.x) * THREADS) {
            uint4 chunk = make_uint4(0, 0, 0, 0);
            if (valid && ready && 8 * i < p.w.inputs) {
                chunk = *reinterpret_cast<const uint4 *>(x + 8 * i);
            } else if (valid && !ready) {
                uint32_t pairs[4];
#pragma unroll
                for (int j = 0; j < 4; j++)
                    pairs[j] = pack_pair(load_input(p, row, 8 * i + 2 * j, factor),
                                         load_input(p, row, 8 * i + 2 * j + 1, factor), T());
                chunk = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            }
            static_cast<uint4 *>(p.staged)[(static_cast<int64_t>(i / 8) * rows + row) * 8 + (i % 8 ^ row % 8)] = chunk;
        }
    }
#endif
}

static cudaError_t swizzle(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const unsigned rows = (static_cast<unsigned>(product->rows) + 7) / 8 * 8;
    const unsigned chunks = static_cast<unsigned>(product->w.input_blocks) * 8;
    launch_config where = {dim3(product->norm.data != nullptr ? 1 : (chunks + THREADS - 1) / THREADS,
                                rows < 65535 ? rows : 65535),
                           dim3(THREADS), 0, stream, overlap};
    return launch(where, product->config.dtype == AWQ_F16 ? swizzle_kernel<__half> : swizzle_kernel<__nv_bfloat16>,
                  *product);
}

cudaError_t awqi_cuda_stage(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    if (product->config.kernel == AWQ_KERNEL_HOPPER) return swizzle(product, overlap, stream);
    const unsigned rows = static_cast<unsigned>(product->rows);
    launch_config where = {dim3(rows < 65535 ? rows : 65535), dim3(THREADS), 0, stream, overlap};
    return launch(where, stage_kernel, *product);
}

/* What the rows hold in salient columns, a warp a row, in single precision: store_output multiplies it. */
static __global__ void __launch_bounds__(THREADS) keep_kernel(const __grid_constant__ cuda_product p)
{
    const int64_t row = static_cast<int64_t>(blockIdx.x) * (THREADS / 32) + threadIdx.x / 32;
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    if (row >= p.rows) return;
    const float factor = p.norm.data != nullptr ? norm_factor(p, row) : 1.0f;
    for (int64_t i = threadIdx.x % 32; i < p.w.salient_count; i += 32)
        p.kept[row * p.w.salient_count + i] = load_input(p, row, p.w.salient_columns[i], factor);
}

cudaError_t awqi_cuda_keep(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const unsigned warps = THREADS / 32;
    launch_config where = {dim3((static_cast<unsigned>(product->rows) + warps - 1) / warps), dim3(THREADS), 0, stream,
                           overlap};
    return launch(where, keep_kernel, *product);
}
