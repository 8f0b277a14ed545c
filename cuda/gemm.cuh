/* gemm and marlin, the kernel they share: y[m][n] = sum over k of x[m][k] (q[n][k] - z[n][k/G]) s[n][k/G] on tensor
 * cores, from 8 rows up.
 *
 * Tiling    A tile of work is 128 columns by up to 64 tokens; 4 warps take 32 columns each and all its tokens.  Weights
 * are the 16-row operand of mma.m16n8k16, tokens the 8-column one, so a tile has as many columns of tokens as there
 * are, in eights, and no step where a power of two ends: tokens are shared evenly among tiles, too.  A unit is one
 * block of 64 inputs of a tile; thread blocks take equal stripes of units (kernel.cuh).
 *
 * Pipeline  A ring of 'stages' units, filled by cp.async: each warp its own codes and scales, all together x,
 * [token][64] with its chunks of 16 bytes exclusive-ored by the token's number so that ldmatrix meets no bank twice.
 * One barrier a unit.  On 9.0 and later the first stages' codes do not wait for the kernel ahead.
 *
 * In flight Per thread block (stages - 1) units of 4 KiB of codes and up to 8 KiB of x.
 *
 * Sums      Whole numbers q - z times x within a block of inputs in single precision, times s into the sum over blocks,
 * so weights are never rounded; then over the stripes, in fixed order.
 *
 * gemm reads the layout cuda-block, with 4 or 8 bits.  marlin reads Marlin's tiles as they are on disk: a lane's part
 * of the tile of 16 columns j is word 4 lane + j of a row of 64 columns by 16 inputs, and rows of tiles are N / 64 such
 * apart.
 *
 * Limits    Groups that are multiples of 16 inputs, or one for all; FP16 from 7.5, BF16 from 8.0. */
#ifndef AWQ_CUDA_GEMM_CUH
#define AWQ_CUDA_GEMM_CUH

#include "kernel.cuh"

enum { WARPS = 4, THREADS = 32 * WARPS, COLUMNS = 128 };

/* What differs by type, number of tiles of 8 tokens, bits, where groups end, and storage. */
template <class T, int token_tiles, int bits, bool fine, bool marlin>
struct shape {
    typedef T type;
    enum {
        TILES = token_tiles,
        TOKENS = 8 * token_tiles,
        BITS = bits,
        WORDS = bits / 4, /* of a lane for 16 columns by 16 inputs */
        FINE = fine,
        MARLIN = marlin,
        SETS_BYTES = SET_SCALES + 8 * bits,
        CODE_BYTES = 2 * 4 * 32 * 4 * WORDS, /* of a warp: 32 columns by 64 inputs */
        WARP_BYTES = CODE_BYTES + (fine ? 4 : 1) * SETS_BYTES,
        X_BYTES = TOKENS * 64 * 2,
        STAGE_BYTES = WARPS * WARP_BYTES + X_BYTES,
        SUMS = TOKENS * COLUMNS,
    };
};

/* ---- filling the ring */

template <class S>
DEVICE void fetch_codes(const cuda_weight &w, int32_t block, int32_t input, int half, unsigned char *codes)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    const unsigned char *from = static_cast<const unsigned char *>(w.codes);
    if constexpr (!S::MARLIN) {
        from += ((static_cast<int64_t>(block) * w.input_blocks + input) * 2 + half) * S::CODE_BYTES;
#pragma unroll
        for (int i = 0; i < S::CODE_BYTES / 512; i++)
            ptx::cp_async<16>(codes + (i * 32 + lane) * 16, from + (i * 32 + lane) * 16);
    } else {
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const int32_t row = 4 * input + t; /* of tiles; the last block of inputs may have fewer than four */
            const bool valid = row < w.inputs / 16;
            const int64_t tile = static_cast<int64_t>(valid ? row : 0) * w.column_blocks + block;
            ptx::cp_async<8 * S::WORDS>(codes + (t * 32 + lane) * 8 * S::WORDS,
                                        from + ((tile * 32 + lane) * 4 + 2 * half) * 4 * S::WORDS, valid);
        }
    }
}

template <class S>
DEVICE void fetch_x(const cuda_product &p, const place &at, unsigned char *x)
{
    typedef typename S::type T;
    const T *from = static_cast<const T *>(p.config.staged ? p.staged : p.x.data);
    const int64_t stride = p.config.staged ? static_cast<int64_t>(p.w.input_blocks) * 64 : p.x.stride;
    const int32_t width = p.config.staged ? p.w.input_blocks * 64 : p.w.inputs;
    const int32_t eights = (p.rows + 7) / 8;
    const int32_t row = 8 * first_eight(eights, at.token_part(), at.token_parts);
    const int32_t end = min(p.rows, 8 * first_eight(eights, at.token_part() + 1, at.token_parts));
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x); i < S::TOKENS * 8; i += THREADS) {
        const int token = i / 8, chunk = i % 8;
        const int32_t k = at.input * 64 + chunk * 8;
        const bool valid = row + token < end && k < width;
        const T *source = valid ? from + (row + token) * stride + k : from;
        ptx::cp_async<16>(x + token * 128 + (chunk ^ token % 8) * 16, source, valid);
    }
}

/* The codes and scales of a unit, which no kernel ahead writes. */
template <class S>
DEVICE void fetch_weights(const cuda_product &p, const place &at, unsigned char *stage)
{
    const int warp = static_cast<int>(threadIdx.x / 32);
    const int32_t block = at.column_tile() * 2 + warp / 2;
    unsigned char *mine = stage + warp * S::WARP_BYTES;
    if (at.unit >= at.end || block >= p.w.column_blocks) return;
    fetch_codes<S>(p.w, block, at.input, warp % 2, mine);
    fetch_sets<S::BITS, S::FINE != 0>(p.w, block, at.input, mine + S::CODE_BYTES);
}

template <class S>
DEVICE void fetch(const cuda_product &p, const place &at, unsigned char *stage)
{
    fetch_weights<S>(p, at, stage);
    if (at.unit < at.end) fetch_x<S>(p, at, stage + WARPS * S::WARP_BYTES);
    ptx::cp_async_commit();
}

/* The first stages.  Where this kernel overlaps the one ahead, their codes need not wait for it; elsewhere each stage
 * is filled by itself, so that the first arrives while the others are under way. */
template <class S>
DEVICE void fill_ring(const cuda_product &p, int stages, place &next, unsigned char *ring)
{
    if (ptx::grids_overlap()) {
        place ahead = next;
        for (int i = 0; i < stages - 1; i++, ahead.next()) fetch_weights<S>(p, ahead, ring + i * S::STAGE_BYTES);
    }
    ptx::grid_wait();
    ptx::grid_launch_dependents();
    for (int i = 0; i < stages - 1; i++, next.next()) {
        unsigned char *stage = ring + i * S::STAGE_BYTES;
        if (!ptx::grids_overlap()) fetch_weights<S>(p, next, stage);
        if (next.unit < next.end) fetch_x<S>(p, next, stage + WARPS * S::WARP_BYTES);
        ptx::cp_async_commit();
    }
}

/* ---- one unit */

/* The words of a lane for its tiles of 16 columns j and steps of 16 inputs t, by loads as wide as what lies together:
 * words one by one would meet each bank as often as a lane has words in a row. */
template <class S>
DEVICE void words_of_lane(const unsigned char *codes, uint32_t (&words)[4][2][S::WORDS])
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    if constexpr (S::MARLIN && S::WORDS == 1) {
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const uint2 two = reinterpret_cast<const uint2 *>(codes)[t * 32 + lane];
            words[t][0][0] = two.x;
            words[t][1][0] = two.y;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 2 * S::WORDS; i++) {
            const int row = i / S::WORDS, part = i % S::WORDS;
            const uint4 four = reinterpret_cast<const uint4 *>(
                codes)[S::MARLIN ? i * 32 + lane : (row * 32 + lane) * S::WORDS + part];
            const uint32_t each[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int c = 0; c < 4; c++) {
                const int word = 4 * part + c;
                if (S::MARLIN) words[i][c / 2][c % S::WORDS] = each[c];
                else words[word / S::WORDS][row][word % S::WORDS] = each[c];
            }
        }
    }
}

/* x of one step of 16 inputs as operand B: two tiles of 8 tokens for each ldmatrix, whose matrices are its two halves.
 */
template <class S>
DEVICE void load_tokens(const unsigned char *x, int t, int tiles, uint32_t (&b)[S::TILES][2])
{
    const int lane = static_cast<int>(threadIdx.x % 32), matrix = lane / 8, row = lane % 8;
    const unsigned char *chunk = x + row * 128 + ((2 * t + matrix % 2) ^ row) * 16;
    if constexpr (S::TILES == 1) {
        ptx::ldmatrix_x2(b[0], chunk);
    } else {
#pragma unroll
        for (int i = 0; i < S::TILES; i += 2) {
            if (i >= tiles) break;
            uint32_t four[4];
            ptx::ldmatrix_x4(four, chunk + (i + matrix / 2) * 1024);
            b[i][0] = four[0];
            b[i][1] = four[1];
            b[i + 1][0] = four[2];
            b[i + 1][1] = four[3];
        }
    }
}

template <class S>
DEVICE void add_unit(const cuda_weight &w, const unsigned char *mine, const unsigned char *x, int tiles,
                     float (&sums)[2][S::TILES][4])
{
    typedef typename S::type T;
    const int half = static_cast<int>(threadIdx.x / 32 % 2); /* of a block of 64 columns */
    float group[2][S::TILES][4];
    offsets row[2] = {}, row8[2] = {};
    uint32_t words[4][2][S::WORDS];
    words_of_lane<S>(mine, words);
#pragma unroll
    for (int t = 0; t < 4; t++) {
        const unsigned char *set = mine + S::CODE_BYTES + (S::FINE ? t : 0) * S::SETS_BYTES;
        if (S::FINE || t == 0) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                row[j] = offsets_of<S::BITS>(zero_of_lane<S::BITS>(w, set, 4 * half + 2 * j), T());
                row8[j] = offsets_of<S::BITS>(zero_of_lane<S::BITS>(w, set, 4 * half + 2 * j + 1), T());
#pragma unroll
                for (int i = 0; i < S::TILES; i++)
                    group[j][i][0] = group[j][i][1] = group[j][i][2] = group[j][i][3] = 0.0f;
            }
        }
        uint32_t b[S::TILES][2];
        load_tokens<S>(x, t, tiles, b);
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint32_t a[4];
            fragment_of(words[t][j], row[j], row8[j], a, T());
#pragma unroll
            for (int i = 0; i < S::TILES; i++)
                if (S::TILES == 1 || i < tiles) ptx::mma_m16n8k16(group[j][i], a, b[i], T());
        }
        if (S::FINE || t == 3) {
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const float scale = scale_of_lane(w, set, 4 * half + 2 * j);
                const float scale8 = scale_of_lane(w, set, 4 * half + 2 * j + 1);
#pragma unroll
                for (int i = 0; i < S::TILES; i++) {
                    sums[j][i][0] = fmaf(scale, group[j][i][0], sums[j][i][0]);
                    sums[j][i][1] = fmaf(scale, group[j][i][1], sums[j][i][1]);
                    sums[j][i][2] = fmaf(scale8, group[j][i][2], sums[j][i][2]);
                    sums[j][i][3] = fmaf(scale8, group[j][i][3], sums[j][i][3]);
                }
            }
        }
    }
}

/* tile[token][column] of the thread block. */
template <class S>
DEVICE void put(const float (&sums)[2][S::TILES][4], float *tile)
{
    const int lane = static_cast<int>(threadIdx.x % 32), g = lane / 4, c = lane % 4;
    float *mine = tile + threadIdx.x / 32 * 32;
#pragma unroll
    for (int j = 0; j < 2; j++)
#pragma unroll
        for (int i = 0; i < S::TILES; i++)
#pragma unroll
            for (int d = 0; d < 4; d++)
                mine[(8 * i + 2 * c + d % 2) * COLUMNS + 16 * j + g + d / 2 * 8] = sums[j][i][d];
}

/* ---- the kernel.  Shared memory: the ring, and a tile of sums. */

template <class S>
static __global__ void __launch_bounds__(THREADS, S::TILES == 1   ? 4
                                                  : S::TILES == 2 ? 3
                                                                  : 2)
    gemm_kernel(const __grid_constant__ cuda_product p)
{
    const int stages = p.config.stages, warp = static_cast<int>(threadIdx.x / 32);
    unsigned char *ring = shared_memory();
    float *tile = reinterpret_cast<float *>(ring + stages * S::STAGE_BYTES);
    const int32_t eights = (p.rows + 7) / 8, parts = (eights + S::TILES - 1) / S::TILES;
    const int32_t column_tiles = (p.w.column_blocks + 1) / 2;
    const stripes work = {static_cast<int64_t>(column_tiles) * parts * p.w.input_blocks, p.config.blocks, p.partial,
                          p.tickets, p.nonce};
    const int64_t begin = work.begin(blockIdx.x), end = work.begin(blockIdx.x + 1);
    place next = {begin,
                  end,
                  static_cast<int32_t>(begin / p.w.input_blocks),
                  static_cast<int32_t>(begin % p.w.input_blocks),
                  p.w.input_blocks,
                  parts};
    place at = next;

    fill_ring<S>(p, stages, next, ring);
    int now = 0, free = stages - 1;
    while (at.unit < end) {
        const int32_t first = first_eight(eights, at.token_part(), parts),
                      last = first_eight(eights, at.token_part() + 1, parts);
        const int32_t columns = at.column_tile();
        const int64_t tile_begin = at.unit - at.input, tile_end = min(end, tile_begin + p.w.input_blocks);
        float sums[2][S::TILES][4] = {};
        for (; at.unit < tile_end; at.next()) {
            wait_for_copies(stages - 2);
            __syncthreads();
            fetch<S>(p, next, ring + free * S::STAGE_BYTES);
            next.next();
            unsigned char *stage = ring + now * S::STAGE_BYTES;
            if (columns * 2 + warp / 2 < p.w.column_blocks)
                add_unit<S>(p.w, stage + warp * S::WARP_BYTES, stage + WARPS * S::WARP_BYTES, last - first, sums);
            now = now + 1 < stages ? now + 1 : 0;
            free = free + 1 < stages ? free + 1 : 0;
        }
        put<S>(sums, tile);
        __syncthreads();
        const int64_t column = tile_begin / p.w.input_blocks;
        if (complete_tile(work, column, tile_begin, p.w.input_blocks, tile, S::SUMS))
            store_tile(p, tile, COLUMNS, COLUMNS, columns * 2, 8 * first, min(8 * (last - first), p.rows - 8 * first),
                       THREADS);
        __syncthreads();
    }
}

/* ---- launching: the closed list of instances of one storage */

typedef void (*gemm_function)(cuda_product);

template <class T, int bits, bool fine, bool marlin>
static gemm_function gemm_of_tokens(int32_t tokens)
{
    switch (tokens) {
    case 8: return gemm_kernel<shape<T, 1, bits, fine, marlin>>;
    case 16: return gemm_kernel<shape<T, 2, bits, fine, marlin>>;
    case 32: return gemm_kernel<shape<T, 4, bits, fine, marlin>>;
    default: return gemm_kernel<shape<T, 8, bits, fine, marlin>>;
    }
}

template <class T, bool marlin>
static gemm_function gemm_of_type(int32_t bits, bool fine, int32_t tokens)
{
    if (bits == 4)
        return fine ? gemm_of_tokens<T, 4, true, marlin>(tokens) : gemm_of_tokens<T, 4, false, marlin>(tokens);
    return fine ? gemm_of_tokens<T, 8, true, marlin>(tokens) : gemm_of_tokens<T, 8, false, marlin>(tokens);
}

template <bool marlin>
static gemm_function find_gemm(int32_t dtype, int32_t bits, bool fine, int32_t tokens)
{
    return dtype == AWQ_F16 ? gemm_of_type<__half, marlin>(bits, fine, tokens)
                            : gemm_of_type<__nv_bfloat16, marlin>(bits, fine, tokens);
}

template <bool marlin>
static cudaError_t launch_gemm(const cuda_product *product, bool overlap, cudaStream_t stream)
{
    const cuda_config &config = product->config;
    launch_config where = {dim3(static_cast<unsigned>(config.blocks)), dim3(THREADS),
                           static_cast<size_t>(config.shared_bytes), stream, overlap};
    return launch(where, find_gemm<marlin>(config.dtype, product->w.bits, config.fine, config.token_rows), *product);
}

template <bool marlin>
static cudaError_t allow_gemm(size_t bytes)
{
    cudaError_t error = cudaSuccess;
    for (int which = 0; which < 32; which++) {
        cudaError_t result = allow_shared(
            find_gemm<marlin>(which & 1 ? AWQ_F16 : AWQ_BF16, which & 2 ? 4 : 8, (which & 4) != 0, 8 << which / 8),
            bytes);
        if (error == cudaSuccess) error = result;
    }
    return error;
}

#endif /* AWQ_CUDA_GEMM_CUH */
