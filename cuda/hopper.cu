/* hopper: y[m][n] = sum over k of x[m][k] w[n][k] on the tensor cores of four warps (wgmma) of compute capability 9.0,
 * with w[n][k] = (q[n][k] - z[n][k/G]) s[n][k/G] rounded to the type of x, from 17 rows or so up.
 *
 * Tiling    A tile of work is 128 columns by up to 256 tokens.  Operands are swapped: weights are the 64-row operand A
 * of wgmma, in registers, 64 columns for each of two warpgroups; tokens are operand B, in shared memory, and its n is
 * the least of 16, 32, 64, 96, 128, 192 and 256 that holds the tile's, among which tokens are shared evenly.  A unit is
 * one block of 64 inputs of a tile; thread blocks take equal stripes of units (kernel.cuh), whole tiles where there are
 * enough of them.
 *
 * Layout    A block of the layout cuda-block is 2 KiB in a row, one bulk copy, and has for each lane four steps of 16
 * inputs of one tile of 16 columns in its 16 bytes: what a warp of a warpgroup takes with one conflict-free load.
 * (Marlin's order has four tiles of one step there, which four warps would read in pieces.)  x is first laid out in the
 * workspace as [block of inputs][token][64], its chunks of 16 bytes exclusive-ored by token % 8, so that the tokens of
 * a tile are one bulk copy, too, and already swizzled as wgmma wants them.
 *
 * Pipeline  One warp fills a ring of 'stages' units by bulk copies that count towards a barrier of the stage; codes do
 * not wait for the kernel before, x does.  The warpgroups unpack half a unit, two steps, into one set of registers
 * while wgmma of the half before, from another set, is under way; a stage is handed back when the half after it has
 * begun.
 *
 * In flight Per thread block (stages - 1) units of 4 KiB of codes and x of up to 32 KiB: for 64 tokens with two thread
 * blocks a multiprocessor 12 units, 48 KiB of codes.
 *
 * Sums      Single precision, in the tensor core's order of inputs; then over the stripes, in fixed order.  Weights are
 * rounded as dequant rounds them, once; where scales have another type than x, twice: q - z is exact, and such a scale
 * is the sum of two numbers.
 *
 * Two bodies: 'plain' for scales of the type of x that hold for whole units, one multiplication a pair of weights, and
 * one for any.  Limits: 4 bits; groups that are multiples of 16 inputs, or one for all; machine code for sm_90a. */
#include "kernel.cuh"

enum {
    CONSUMERS = 256, /* threads of the two warpgroups; behind them the warp that copies */
    COLUMNS = 128,
    CODE_BYTES = 2048, /* of 64 columns by 64 inputs */
    SCALE_BYTES = 512, /* of 128 columns, of any dtype */
    SETS_BYTES = SCALE_BYTES + 64,
    CHUNK = 32, /* tokens that go to y at a time, through shared memory */
    PITCH = COLUMNS + 4
};

/* What differs by type, tokens of a tile, and body.  A stage is x, codes, scales and zero points. */
template <class T, int tokens, bool plain>
struct shape {
    typedef T type;
    enum {
        TOKENS = tokens,
        PLAIN = plain,
        /* 9 warps leave 168 registers each, which 128 sums exceed: then the warp that copies is one of a warpgroup,
         * which gives most of its registers to the others. */
        GIVES = tokens > 192,
        THREADS = CONSUMERS + (GIVES ? 128 : 32),
        RESIDENT = tokens <= (plain ? 64 : 32) ? 2 : 1,
        SUMS = tokens / 2, /* of a lane */
        CODES = 128 * tokens,
        SETS = CODES + 2 * CODE_BYTES,
        STAGE_BYTES = (SETS + (plain ? 1 : 4) * SETS_BYTES + 1023) / 1024 * 1024,
    };
};

#if AWQ_WGMMA

/* Shared memory behind the ring. */
struct room {
    unsigned char *ring;
    float *tile;
    uint64_t *full, *empty; /* barriers of the stages */
    uint32_t *flag;         /* whether this thread block completes a tile */

    template <class S>
    static __device__ __forceinline__ room of(int stages)
    {
        unsigned char *ring = shared_memory();
        float *tile = reinterpret_cast<float *>(ring + stages * S::STAGE_BYTES);
        uint64_t *full = reinterpret_cast<uint64_t *>(tile + CHUNK * PITCH);
        return {ring, tile, full, full + stages, reinterpret_cast<uint32_t *>(full + 2 * stages)};
    }
};

/* A place in the ring and the parity of its phase. */
struct turn {
    int stage;
    uint32_t parity;

    __device__ __forceinline__ void next(int stages)
    {
        if (++stage == stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* Tokens of a tile, as eights of them. */
struct tokens_of {
    int32_t first, count;

    __device__ __forceinline__ tokens_of(const cuda_product &p, const place &at)
    {
        const int32_t eights = (p.rows + 7) / 8;
        first = first_eight(eights, at.token_part(), at.token_parts);
        count = first_eight(eights, at.token_part() + 1, at.token_parts) - first;
    }
};

template <class S>
DEVICE stripes stripes_of(const cuda_product &p)
{
    const int32_t eights = (p.rows + 7) / 8, parts = (eights + S::TOKENS / 8 - 1) / (S::TOKENS / 8);
    return {static_cast<int64_t>((p.w.column_blocks + 1) / 2) * parts * p.w.input_blocks, p.config.blocks, p.partial,
            p.tickets, p.nonce};
}

/* Where this thread block's stripe begins. */
template <class S>
DEVICE place first_place(const cuda_product &p, const stripes &work)
{
    const int32_t eights = (p.rows + 7) / 8;
    const int64_t begin = work.begin(blockIdx.x);
    return {begin,
            work.begin(blockIdx.x + 1),
            static_cast<int32_t>(begin / p.w.input_blocks),
            static_cast<int32_t>(begin % p.w.input_blocks),
            p.w.input_blocks,
            (eights + S::TOKENS / 8 - 1) / (S::TOKENS / 8)};
}

/* ---- filling the ring: one lane */

/* Announce all bytes of a unit, and fetch those of the weight. */
template <class S>
DEVICE void fetch_weight(const cuda_product &p, const place &at, unsigned char *stage, uint64_t *full)
{
    const cuda_weight &w = p.w;
    const int32_t block = 2 * at.column_tile(), blocks = min(2, w.column_blocks - block);
    const int sets = S::PLAIN || !p.config.fine ? 1 : 4;
    const uint32_t scale_bytes = (w.scale_dtype == AWQ_F32 ? 256u : 128u) * static_cast<uint32_t>(blocks);
    const uint32_t zero_bytes = w.zeros != nullptr ? 32u * static_cast<uint32_t>(blocks) : 0;
    const uint32_t x_bytes = 1024u * static_cast<uint32_t>(tokens_of(p, at).count);
    ptx::mbarrier_arrive_expect(full, x_bytes + static_cast<uint32_t>(blocks * CODE_BYTES) +
                                          static_cast<uint32_t>(sets) * (scale_bytes + zero_bytes));
    for (int i = 0; i < blocks; i++)
        ptx::bulk_copy(stage + S::CODES + i * CODE_BYTES,
                       static_cast<const unsigned char *>(w.codes) +
                           (static_cast<int64_t>(block + i) * w.input_blocks + at.input) * CODE_BYTES,
                       CODE_BYTES, full);
    for (int t = 0; t < sets; t++) {
        const int32_t group = min((at.input * 64 + 16 * t) / w.group_size, w.groups - 1);
        const int64_t first = static_cast<int64_t>(group) * w.column_blocks + block;
        unsigned char *set = stage + S::SETS + t * SETS_BYTES;
        ptx::bulk_copy(set, static_cast<const unsigned char *>(w.scales) + first * (scale_bytes / blocks), scale_bytes,
                       full);
        if (zero_bytes != 0)
            ptx::bulk_copy(set + SCALE_BYTES, static_cast<const unsigned char *>(w.zeros) + first * 32, zero_bytes,
                           full);
    }
}

DEVICE void fetch_tokens(const cuda_product &p, const place &at, unsigned char *stage, uint64_t *full)
{
    const tokens_of tokens(p, at);
    const int64_t row = static_cast<int64_t>(at.input) * ((p.rows + 7) / 8) + tokens.first; /* of eights */
    ptx::bulk_copy(stage, static_cast<const unsigned char *>(p.staged) + row * 1024,
                   1024u * static_cast<uint32_t>(tokens.count), full);
}

template <class S>
DEVICE void produce(const cuda_product &p, const room &shared)
{
    place at = first_place<S>(p, stripes_of<S>(p));
    const int stages = p.config.stages;
    const bool leads = threadIdx.x == CONSUMERS;
    place ahead = at;
    for (int i = 0; i < stages && ahead.unit < at.end; i++, ahead.next())
        if (leads) fetch_weight<S>(p, ahead, shared.ring + i * S::STAGE_BYTES, shared.full + i);
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    for (int i = 0; i < stages && at.unit < at.end; i++, at.next())
        if (leads) fetch_tokens(p, at, shared.ring + i * S::STAGE_BYTES, shared.full + i);
    for (turn now = {0, 0}; at.unit < at.end; at.next(), now.next(stages)) {
        if (leads) {
            unsigned char *stage = shared.ring + now.stage * S::STAGE_BYTES;
            ptx::mbarrier_wait(shared.empty + now.stage, now.parity);
            fetch_weight<S>(p, at, stage, shared.full + now.stage);
            fetch_tokens(p, at, stage, shared.full + now.stage);
        }
        __syncwarp();
    }
}

/* ---- unpacking */

DEVICE uint32_t multiply_pairs(uint32_t a, uint32_t b, __half)
{
    return bits_as<uint32_t>(__hmul2(bits_as<__half2>(a), bits_as<__half2>(b)));
}

DEVICE uint32_t multiply_pairs(uint32_t a, uint32_t b, __nv_bfloat16)
{
    return bits_as<uint32_t>(__hmul2(bits_as<__nv_bfloat162>(a), bits_as<__nv_bfloat162>(b)));
}

DEVICE uint32_t multiply_add_pairs(uint32_t a, uint32_t b, uint32_t c, __half)
{
    return bits_as<uint32_t>(__hfma2(bits_as<__half2>(a), bits_as<__half2>(b), bits_as<__half2>(c)));
}

DEVICE uint32_t multiply_add_pairs(uint32_t a, uint32_t b, uint32_t c, __nv_bfloat16)
{
    return bits_as<uint32_t>(
        __hfma2(bits_as<__nv_bfloat162>(a), bits_as<__nv_bfloat162>(b), bits_as<__nv_bfloat162>(c)));
}

/* What a lane's codes become weights by: for its columns g and g + 8 of 16 the zero point, and the scale twice; where
 * that is not of the type of x, as what it rounds to and what that leaves. */
template <class S>
struct scaling {
    typedef typename S::type T;
    offsets zero[2];
    uint32_t scale[2], rest[2];

    /* Of step t of the unit, column block 'half', tile j of 16 columns. */
    __device__ __forceinline__ void load(const cuda_weight &w, const unsigned char *sets, int t, int half, int j)
    {
        const unsigned char *set = sets + t * SETS_BYTES;
        const int g = static_cast<int>(threadIdx.x % 32 / 4), first = 64 * half + 8 * g + 2 * j;
        uint32_t zeros = 0x88888888u;
        if (w.zeros != nullptr) zeros = reinterpret_cast<const uint32_t *>(set + SCALE_BYTES)[8 * half + g] >> 4 * j;
        zero[0] = offsets_of<4>(zeros & 15u, T());
        zero[1] = offsets_of<4>(zeros >> 16 & 15u, T());
        if constexpr (S::PLAIN) {
            const uint32_t both = reinterpret_cast<const uint32_t *>(set)[first / 2];
            scale[0] = ptx::prmt(both, 0, 0x1010);
            scale[1] = ptx::prmt(both, 0, 0x3232);
        } else {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float exact = load_float(set, w.scale_dtype, first + i);
                scale[i] = pack_pair(exact, exact, T());
                const float left = exact - unpack_pair(scale[i], T()).x;
                rest[i] = pack_pair(left, left, T());
            }
        }
    }

    __device__ __forceinline__ void weights_of(uint32_t word, uint32_t (&a)[4]) const
    {
        fragment_of(word, zero[0], zero[1], a, T());
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const uint32_t whole = a[i];
            a[i] = multiply_pairs(whole, scale[i % 2], T());
            if constexpr (!S::PLAIN) a[i] = multiply_add_pairs(whole, rest[i % 2], a[i], T());
        }
    }
};

/* ---- sums to y */

/* The two warpgroups meet. */
DEVICE void meet()
{
    ptx::barrier_sync(1, CONSUMERS);
}

/* As complete_tile does, but each lane with its own sums, [4][lane] by [4][lane]. */
template <class S>
DEVICE bool complete_sums(const stripes &work, const place &at, int64_t unit, float (&sums)[S::SUMS], uint32_t *flag)
{
    const int32_t first = work.of(unit), last = work.of(unit + at.input_blocks - 1);
    if (first == last) return true;
    const int lane = static_cast<int>(threadIdx.x), size = S::SUMS * CONSUMERS;
    float4 *mine = reinterpret_cast<float4 *>(work.kept(blockIdx.x, unit, size)) + lane;
#pragma unroll
    for (int i = 0; i < S::SUMS; i += 4)
        mine[i / 4 * CONSUMERS] = make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]);
    meet();
    if (lane == 0)
        *flag = arrives_last(work.tickets + at.tile, work.nonce, static_cast<uint32_t>(last - first + 1));
    meet();
    if (*flag == 0) return false;
#pragma unroll
    for (int i = 0; i < S::SUMS; i++) sums[i] = 0.0f;
#pragma unroll 1
    for (int32_t block = first; block <= last; block++) {
        const float4 *theirs = reinterpret_cast<const float4 *>(work.kept(block, unit, size)) + lane;
#pragma unroll
        for (int i = 0; i < S::SUMS; i += 4) {
            const float4 part = theirs[i / 4 * CONSUMERS];
            sums[i] += part.x;
            sums[i + 1] += part.y;
            sums[i + 2] += part.z;
            sums[i + 3] += part.w;
        }
    }
    return true;
}

/* Lanes have their sums as wgmma leaves them. */
template <class S>
DEVICE void store_sums(const cuda_product &p, const place &first_unit, const float (&sums)[S::SUMS], float *tile)
{
    const tokens_of tokens(p, first_unit);
    const int row = 8 * tokens.first, rows = min(8 * tokens.count, p.rows - row);
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = lane % 4;
    float *mine = tile + threadIdx.x / 32 * 16 + g;
#pragma unroll 1
    for (int begin = 0; begin < rows; begin += CHUNK) {
#pragma unroll
        for (int i = 0; i < S::SUMS; i++) {
            const int token = 8 * (i / 4) + 2 * c + i % 2;
            if (i / 4 * 8 / CHUNK * CHUNK == begin) mine[token % CHUNK * PITCH + i % 4 / 2 * 8] = sums[i];
        }
        meet();
        store_tile(p, tile, PITCH, COLUMNS, 2 * first_unit.column_tile(), row + begin,
                   min(rows - begin, static_cast<int>(CHUNK)), CONSUMERS);
        meet();
    }
}

/* ---- the warpgroups */

template <class S>
DEVICE void consume(const cuda_product &p, const room &shared)
{
    typedef typename S::type T;
    const stripes work = stripes_of<S>(p);
    place at = first_place<S>(p, work);
    const int stages = p.config.stages, lane = static_cast<int>(threadIdx.x % 32);
    const int half = static_cast<int>(threadIdx.x / 128), j = static_cast<int>(threadIdx.x / 32 % 4);
    float sums[S::SUMS];
    uint32_t a[2][2][4];
    turn now = {0, 0};
    ptx::grid_wait();
    while (at.unit < at.end) {
        const place begin = at;
        const int64_t tile_begin = at.unit - at.input, tile_end = min(at.end, tile_begin + at.input_blocks);
        int held = -1; /* the stage before, which wgmma may still read */
#pragma unroll
        for (int i = 0; i < S::SUMS; i++) sums[i] = 0.0f;
#pragma unroll 1
        for (; at.unit < tile_end; at.next()) {
            const unsigned char *stage = shared.ring + now.stage * S::STAGE_BYTES;
            const uint64_t b = ptx::wgmma_descriptor(stage);
            ptx::mbarrier_wait(shared.full + now.stage, now.parity);
            const uint4 codes = reinterpret_cast<const uint4 *>(stage + S::CODES + half * CODE_BYTES)[j * 32 + lane];
            const uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
            scaling<S> by;
            by.load(p.w, stage + S::SETS, 0, half, j);
#pragma unroll
            for (int part = 0; part < 2; part++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    if (!S::PLAIN && 2 * part + i > 0 && p.config.fine)
                        by.load(p.w, stage + S::SETS, 2 * part + i, half, j);
                    by.weights_of(words[2 * part + i], a[part][i]);
                }
                ptx::wgmma_fence();
#pragma unroll
                for (int i = 0; i < 2; i++)
                    ptx::wgmma<S::TOKENS>(sums, a[part][i], b + static_cast<uint64_t>(4 * part + 2 * i), T());
                ptx::wgmma_commit();
                ptx::wgmma_wait<1>();
                if (part == 0 && held >= 0) {
                    __syncwarp();
                    if (lane == 0) ptx::mbarrier_arrive(shared.empty + held);
                }
            }
            held = now.stage;
            now.next(stages);
        }
        ptx::wgmma_finish(sums);
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(shared.empty + held);
        if (complete_sums<S>(work, begin, tile_begin, sums, shared.flag)) store_sums<S>(p, begin, sums, shared.tile);
    }
}

#endif /* AWQ_WGMMA */

/* Shared memory: the ring, a tile of sums, barriers. */
template <class S>
static __global__ void __launch_bounds__(S::THREADS, S::RESIDENT)
    hopper_kernel(const __grid_constant__ cuda_product p)
{
#if AWQ_WGMMA
    const room shared = room::of<S>(p.config.stages);
    if (threadIdx.x == 0) {
        for (int i = 0; i < p.config.stages; i++) {
            ptx::mbarrier_init(shared.full + i, 1);
            ptx::mbarrier_init(shared.empty + i, CONSUMERS / 32);
        }
        ptx::fence_async();
    }
    __syncthreads();
    if (threadIdx.x < CONSUMERS) {
        if constexpr (S::GIVES) ptx::set_registers<224, true>();
        consume<S>(p, shared);
    } else {
        if constexpr (S::GIVES) ptx::set_registers<56, false>();
        if (threadIdx.x < CONSUMERS + 32) produce<S>(p, shared);
    }
#else
    __trap();
#endif
}

/* ---- launching: the closed list of instances */

typedef void (*hopper_function)(cuda_product);

template <class T, bool plain>
static hopper_function of_tokens(int32_t tokens)
{
    switch (tokens) {
    case 16: return hopper_kernel<shape<T, 16, plain>>;
    case 32: return hopper_kernel<shape<T, 32, plain>>;
    case 64: return hopper_kernel<shape<T, 64, plain>>;
    case 96: return hopper_kernel<shape<T, 96, plain>>;
    case 128: return hopper_kernel<shape<T, 128, plain>>;
    case 192: return hopper_kernel<shape<T, 192, plain>>;
    default: return hopper_kernel<shape<T, 256, plain>>;
    }
}

static hopper_function find_kernel(int32_t dtype, bool plain, int32_t tokens)
{
    if (dtype == AWQ_F16) return plain ? of_tokens<__half, true>(tokens) : of_tokens<__half, false>(tokens);
    return plain ? of_tokens<__nv_bfloat16, true>(tokens) : of_tokens<__nv_bfloat16, false>(tokens);
}

cudaError_t awqi_cuda_hopper(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const cuda_config &config = product->config;
    const unsigned copying = config.token_rows > 192 ? 128 : 32; /* as shape has it */
    launch_config where = {dim3(static_cast<unsigned>(config.blocks)), dim3(CONSUMERS + copying),
                           static_cast<size_t>(config.shared_bytes), stream, overlap};
    return launch(where, find_kernel(config.dtype, config.plain, config.token_rows), *product);
}

cudaError_t awqi_cuda_hopper_allow(size_t bytes)
{
    static const int32_t tokens[] = {16, 32, 64, 96, 128, 192, 256};
    cudaError_t error = cudaSuccess;
    for (int32_t most : tokens)
        for (int which = 0; which < 4; which++) {
            const hopper_function kernel = find_kernel(which & 1 ? AWQ_F16 : AWQ_BF16, (which & 2) != 0, most);
            cudaError_t result = allow_shared(kernel, bytes);
            if (error == cudaSuccess) error = result;
        }
    return error;
}
