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

cudaError_t awqi_cuda_stage(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const unsigned rows = static_cast<unsigned>(product->rows);
    launch_config where = {dim3(rows < 65535 ? rows : 65535), dim3(THREADS), 0, stream, overlap};
    return launch(where, stage_kernel, *product);
}
