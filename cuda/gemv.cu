/* gemv: y[m][n] = sum over k of x[m][k] (q[n][k] - z[n][k/G]) s[n][k/G], few rows m, bound by reading the codes once.
 *
 * Tiling    A unit is a block of the layout cuda-block, 64 columns by 64 inputs, 2 KiB.  A thread block takes a stripe
 * of consecutive units (kernel.cuh), which is one contiguous piece of memory; its 8 warps take them in turn.
 *
 * Pipeline  Each warp has a ring of its own, 'stages' units deep, filled by cp.async: lanes read back what they copied,
 * so the loop has no barrier of the block, and copies run on through the ends of columns.  x is rounded once, with its
 * prologue, into shared memory, 'span' blocks of inputs at a time.
 *
 * In flight stages - 1 units or more a warp: with 3 stages and two thread blocks a multiprocessor 64 KiB.
 *
 * Sums      Whole numbers q - z times x within a group in single precision, times s into the sum over groups; then over
 * the warps and over the stripes, in fixed order.
 *
 * Two bodies.  tensor_body: FP16 from 7.5, BF16 from 8.0; weights are the 16-row operand of mma.m16n8k16, tokens the
 * 8-column one, so up to 8 rows cost what one does.  float_body: x stays in single precision; any device and type; 1 or
 * 4 rows a sweep.
 *
 * Limits    4 bits; groups that are multiples of 16 inputs, or one for all. */
#include "kernel.cuh"

enum { WARPS = 8, THREADS = 32 * WARPS, UNIT_BYTES = 2048, SETS_BYTES = SET_SCALES + 32 };

template <bool fine>
struct slot_of {
    enum { BYTES = UNIT_BYTES + (fine ? 4 : 1) * SETS_BYTES };
};

/* The four words of a lane for tile j of 16 columns: steps of 16 inputs. */
DEVICE uint4 words_of_lane(const unsigned char *slot, int j)
{
    return reinterpret_cast<const uint4 *>(slot)[j * 32 + static_cast<int>(threadIdx.x % 32)];
}

DEVICE uint32_t word_of(const uint4 &words, int t)
{
    return t == 0 ? words.x : t == 1 ? words.y : t == 2 ? words.z : words.w;
}

/* ---- on tensor cores */

template <class T>
struct tensor_body {
    enum { TOKENS = 8, BLOCK_BYTES = 64 * TOKENS * 2 };

    float sums[4][4]; /* [tile of 16 columns][d of the mma] */

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) sums[j][i] = 0.0f;
    }

    /* x as operand B: for each block of inputs and pair of steps, four words a lane, which holds token lane / 4. */
    static __device__ __forceinline__ void stage(const cuda_product &p, int64_t row, int32_t first, int32_t count,
                                                 const float *factors, unsigned char *x)
    {
        const bool plain = p.x.dtype == dtype_of(T()) && p.norm.data == nullptr && p.w.input_scale == nullptr &&
                           (reinterpret_cast<uintptr_t>(p.x.data) | static_cast<uintptr_t>(p.x.stride * 2)) % 4 == 0;
        uint32_t *words = reinterpret_cast<uint32_t *>(x);
        for (int i = static_cast<int>(threadIdx.x); i < count * 256; i += THREADS) {
            const int pair = i % 32, token = i / 32 % 8, block = i / 256;
            const int t = pair / 8, half = pair % 8 / 4, c = pair % 4;
            const int32_t k = (first + block) * 64 + 2 * pair;
            uint32_t word = 0;
            if (row + token < p.rows) {
                const int64_t at = row + token;
                if (plain && k + 1 < p.w.inputs)
                    word = *reinterpret_cast<const uint32_t *>(static_cast<const T *>(p.x.data) + at * p.x.stride + k);
                else
                    word =
                        pack_pair(load_input(p, at, k, factors[token]), load_input(p, at, k + 1, factors[token]), T());
            }
            words[block * 256 + ((t / 2) * 32 + token * 4 + c) * 4 + t % 2 * 2 + half] = word;
        }
    }

    template <bool fine>
    __device__ __forceinline__ void add_unit(const cuda_weight &w, const unsigned char *slot, const unsigned char *x)
    {
        const unsigned char *sets = slot + UNIT_BYTES;
        const uint4 *pairs = reinterpret_cast<const uint4 *>(x) + threadIdx.x % 32;
        const uint4 x01 = pairs[0], x23 = pairs[32];
        const uint32_t b[4][2] = {{x01.x, x01.y}, {x01.z, x01.w}, {x23.x, x23.y}, {x23.z, x23.w}};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint4 words = words_of_lane(slot, j);
            float group[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            offsets row = {}, row8 = {};
#pragma unroll
            for (int t = 0; t < 4; t++) {
                const unsigned char *set = sets + (fine ? t : 0) * SETS_BYTES;
                if (fine || t == 0) {
                    row = offsets_of<4>(zero_of_lane<4>(w, set, 2 * j), T());
                    row8 = offsets_of<4>(zero_of_lane<4>(w, set, 2 * j + 1), T());
                }
                uint32_t a[4];
                fragment_of(word_of(words, t), row, row8, a, T());
                ptx::mma_m16n8k16(group, a, b[t], T());
                if (fine || t == 3) {
                    const float scale = scale_of_lane(w, set, 2 * j), scale8 = scale_of_lane(w, set, 2 * j + 1);
                    sums[j][0] = fmaf(scale, group[0], sums[j][0]);
                    sums[j][1] = fmaf(scale, group[1], sums[j][1]);
                    sums[j][2] = fmaf(scale8, group[2], sums[j][2]);
                    sums[j][3] = fmaf(scale8, group[3], sums[j][3]);
                    group[0] = group[1] = group[2] = group[3] = 0.0f;
                }
            }
        }
    }

    /* tile[token][column] of this warp. */
    __device__ __forceinline__ void put(float *tile) const
    {
        const int g = static_cast<int>(threadIdx.x % 32 / 4), c = static_cast<int>(threadIdx.x % 4);
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) tile[(2 * c + i % 2) * 64 + 16 * j + g + i / 2 * 8] = sums[j][i];
    }
};

/* ---- in single precision */

template <int tokens>
struct float_body {
    enum { TOKENS = tokens, BLOCK_BYTES = 64 * TOKENS * 4 };

    float sums[8][tokens]; /* of column g + 8 i, over the lane's inputs */

    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int m = 0; m < tokens; m++) sums[i][m] = 0.0f;
    }

    static __device__ __forceinline__ void stage(const cuda_product &p, int64_t row, int32_t first, int32_t count,
                                                 const float *factors, unsigned char *x)
    {
        float *values = reinterpret_cast<float *>(x);
        for (int i = static_cast<int>(threadIdx.x); i < count * 64 * tokens; i += THREADS) {
            const int token = i / 64 % tokens, block = i / (64 * tokens);
            values[i] =
                row + token < p.rows ? load_input(p, row + token, (first + block) * 64 + i % 64, factors[token]) : 0.0f;
        }
    }

    template <bool fine>
    __device__ __forceinline__ void add_unit(const cuda_weight &w, const unsigned char *slot, const unsigned char *x)
    {
        const unsigned char *sets = slot + UNIT_BYTES;
        const float2 *values = reinterpret_cast<const float2 *>(x) + threadIdx.x % 4;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const uint4 words = words_of_lane(slot, j);
            float group[2][tokens];
            offsets row = {}, row8 = {};
#pragma unroll
            for (int t = 0; t < 4; t++) {
                const unsigned char *set = sets + (fine ? t : 0) * SETS_BYTES;
                if (fine || t == 0) {
                    row = offsets_of<4>(zero_of_lane<4>(w, set, 2 * j), __half());
                    row8 = offsets_of<4>(zero_of_lane<4>(w, set, 2 * j + 1), __half());
#pragma unroll
                    for (int m = 0; m < tokens; m++) group[0][m] = group[1][m] = 0.0f;
                }
                uint32_t a[4];
                fragment_of(word_of(words, t), row, row8, a, __half());
                float2 weight[4];
#pragma unroll
                for (int i = 0; i < 4; i++) weight[i] = __half22float2(bits_as<__half2>(a[i]));
#pragma unroll
                for (int m = 0; m < tokens; m++) {
                    const float2 low = values[m * 32 + 8 * t], high = values[m * 32 + 8 * t + 4];
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        group[i][m] = fmaf(weight[i].x, low.x, group[i][m]);
                        group[i][m] = fmaf(weight[i].y, low.y, group[i][m]);
                        group[i][m] = fmaf(weight[2 + i].x, high.x, group[i][m]);
                        group[i][m] = fmaf(weight[2 + i].y, high.y, group[i][m]);
                    }
                }
                if (fine || t == 3) {
                    const float scale[2] = {scale_of_lane(w, set, 2 * j), scale_of_lane(w, set, 2 * j + 1)};
#pragma unroll
                    for (int m = 0; m < tokens; m++)
#pragma unroll
                        for (int i = 0; i < 2; i++)
                            sums[2 * j + i][m] = fmaf(scale[i], group[i][m], sums[2 * j + i][m]);
                }
            }
        }
    }

    __device__ __forceinline__ void put(float *tile) const
    {
        const int g = static_cast<int>(threadIdx.x % 32 / 4), c = static_cast<int>(threadIdx.x % 4);
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int m = 0; m < tokens; m++) {
                float sum = sums[i][m];
                sum += __shfl_xor_sync(ALL_LANES, sum, 1);
                sum += __shfl_xor_sync(ALL_LANES, sum, 2);
                if (c == i % 4) tile[m * 64 + g + 8 * i] = sum;
            }
    }
};

/* ---- the stream of units */

/* Where a warp's next unit lies. */
struct cursor {
    int64_t unit, end;
    int32_t column, input, input_blocks;

    __device__ __forceinline__ void skip(int units)
    {
        unit += units;
        for (input += units; input >= input_blocks; input -= input_blocks) column++;
    }
};

template <bool fine>
DEVICE void fetch(const cuda_weight &w, const cursor &at, unsigned char *slot)
{
    if (at.unit < at.end) {
        const unsigned char *from = static_cast<const unsigned char *>(w.codes) + at.unit * UNIT_BYTES;
        const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
        for (int j = 0; j < 4; j++) ptx::cp_async<16>(slot + (j * 32 + lane) * 16, from + (j * 32 + lane) * 16);
        fetch_sets<4, fine>(w, at.column, at.input, slot + UNIT_BYTES);
    }
    ptx::cp_async_commit();
}

/* Shared memory: rings of the warps, x, a tile of sums for each warp, factors of the rows. */
template <class Body, bool fine>
static __global__ void __launch_bounds__(THREADS, Body::TOKENS == 4 ? 1 : 2)
    gemv_kernel(const __grid_constant__ cuda_product p)
{
    const cuda_weight &w = p.w;
    const int warp = static_cast<int>(threadIdx.x / 32), stages = p.config.stages;
    const int64_t row = static_cast<int64_t>(blockIdx.y) * Body::TOKENS;
    const int size = 64 * Body::TOKENS;
    unsigned char *ring = shared_memory() + warp * stages * slot_of<fine>::BYTES;
    unsigned char *x = shared_memory() + WARPS * stages * slot_of<fine>::BYTES;
    float *tiles = reinterpret_cast<float *>(x + p.config.span * Body::BLOCK_BYTES);
    float *factors = tiles + WARPS * size;
    const stripes work = {static_cast<int64_t>(w.column_blocks) * w.input_blocks, p.config.blocks,
                          p.partial + static_cast<int64_t>(blockIdx.y) * 2 * p.config.blocks * size,
                          p.tickets + static_cast<int64_t>(blockIdx.y) * w.column_blocks, p.nonce};
    const int64_t begin = work.begin(blockIdx.x), end = work.begin(blockIdx.x + 1);

    cursor next = {begin, end, static_cast<int32_t>(begin / w.input_blocks),
                   static_cast<int32_t>(begin % w.input_blocks), w.input_blocks};
    next.skip(warp);
    for (int i = 0; i < stages; i++) {
        fetch<fine>(w, next, ring + i * slot_of<fine>::BYTES);
        next.skip(WARPS);
    }
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    for (int token = warp; token < Body::TOKENS; token += WARPS) {
        float factor = p.norm.data != nullptr && row + token < p.rows ? norm_factor(p, row + token) : 1.0f;
        if (threadIdx.x % 32 == 0) factors[token] = factor;
    }
    __syncthreads();

    int slot = 0;
    int64_t unit = begin + warp;                /* this warp's */
    int32_t staged = 0, staged_end = 0;         /* blocks of inputs in shared memory */
    for (int64_t first = begin; first < end;) { /* columns */
        const int32_t column = static_cast<int32_t>(first / w.input_blocks);
        const int32_t input = static_cast<int32_t>(first % w.input_blocks);
        const int32_t input_end =
            static_cast<int32_t>(min(static_cast<int64_t>(w.input_blocks), input + (end - first)));
        Body body;
        body.clear();
        for (int32_t part = input; part < input_end;) { /* as much of x as there is room for */
            if (part < staged || part >= staged_end) {
                /* All of it where that fits and serves the columns that follow, too. */
                const bool all = w.input_blocks <= p.config.span && end - first > input_end - input;
                staged = all ? 0 : part;
                staged_end = all ? w.input_blocks : min(input_end, part + p.config.span);
                __syncthreads();
                Body::stage(p, row, staged, staged_end - staged, factors, x);
                __syncthreads();
            }
            const int32_t part_end = min(input_end, staged_end);
            const int64_t unit_end = first - input + part_end;
            for (; unit < unit_end; unit += WARPS) {
                const int32_t at = static_cast<int32_t>(unit - (first - input)) - staged;
                unsigned char *now = ring + slot * slot_of<fine>::BYTES;
                wait_for_copies(stages - 1);
                __syncwarp();
                body.template add_unit<fine>(w, now, x + at * Body::BLOCK_BYTES);
                __syncwarp();
                fetch<fine>(w, next, now);
                next.skip(WARPS);
                slot = slot + 1 < stages ? slot + 1 : 0;
            }
            part = part_end;
        }
        body.put(tiles + warp * size);
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < size; i += THREADS) {
            float sum = tiles[i];
#pragma unroll
            for (int other = 1; other < WARPS; other++) sum += tiles[other * size + i];
            tiles[i] = sum;
        }
        __syncthreads();
        const int64_t column_begin = static_cast<int64_t>(column) * w.input_blocks;
        if (complete_tile(work, column, column_begin, w.input_blocks, tiles, size))
            store_tile(p, tiles, 64, 64, column, row,
                       static_cast<int>(min(p.rows - row, static_cast<int64_t>(Body::TOKENS))), THREADS);
        __syncthreads();
        first += input_end - input;
    }
}

/* ---- launching */

typedef void (*gemv_function)(cuda_product);

static gemv_function find_kernel(const cuda_config &config, int32_t dtype)
{
    static const gemv_function kernels[4][2] = {
        {gemv_kernel<tensor_body<__half>, false>, gemv_kernel<tensor_body<__half>, true>},
        {gemv_kernel<tensor_body<__nv_bfloat16>, false>, gemv_kernel<tensor_body<__nv_bfloat16>, true>},
        {gemv_kernel<float_body<1>, false>, gemv_kernel<float_body<1>, true>},
        {gemv_kernel<float_body<4>, false>, gemv_kernel<float_body<4>, true>},
    };
    int body = config.tensor_cores ? (dtype == AWQ_F16 ? 0 : 1) : config.token_rows == 1 ? 2 : 3;
    return kernels[body][config.fine];
}

cudaError_t awqi_cuda_gemv(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const cuda_config &config = product->config;
    const unsigned sweeps = static_cast<unsigned>((product->rows + config.token_rows - 1) / config.token_rows);
    launch_config where = {dim3(static_cast<unsigned>(config.blocks), sweeps), dim3(THREADS),
                           static_cast<size_t>(config.shared_bytes), stream, overlap};
    return launch(where, find_kernel(config, config.dtype), *product);
}

cudaError_t awqi_cuda_gemv_allow(size_t bytes)
{
    cudaError_t error = cudaSuccess;
    for (int body = 0; body < 4; body++)
        for (int fine = 0; fine < 2; fine++) {
            cuda_config config = {};
            config.tensor_cores = body < 2;
            config.token_rows = body == 2 ? 1 : 4;
            config.fine = fine != 0;
            cudaError_t result = allow_shared(find_kernel(config, body == 0 ? AWQ_F16 : AWQ_BF16), bytes);
            if (error == cudaSuccess) error = result;
        }
    return error;
}
