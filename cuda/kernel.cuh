/* What the kernels share: numbers of any dtype, codes to matrix fragments, the two ends of a product, stripes of work.
 */
#ifndef AWQ_CUDA_KERNEL_CUH
#define AWQ_CUDA_KERNEL_CUH

#include "ptx.cuh"

#include "product.h" /* behind device.cuh, which decides what CUDA's own headers are */

static const unsigned ALL_LANES = 0xffffffffu;

/* ---- numbers */

template <class To, class From>
DEVICE To bits_as(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    memcpy(static_cast<void *>(&to), &from, sizeof to);
    return to;
}

DEVICE float load_float(const void *data, int32_t dtype, int64_t index)
{
    if (dtype == AWQ_F16) return __half2float(static_cast<const __half *>(data)[index]);
    if (dtype == AWQ_BF16) return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[index]);
    return static_cast<const float *>(data)[index];
}

DEVICE void store_float(void *data, int32_t dtype, int64_t index, float value)
{
    if (dtype == AWQ_F16) static_cast<__half *>(data)[index] = __float2half_rn(value);
    else if (dtype == AWQ_BF16) static_cast<__nv_bfloat16 *>(data)[index] = __float2bfloat16_rn(value);
    else static_cast<float *>(data)[index] = value;
}

DEVICE int32_t dtype_of(__half)
{
    return AWQ_F16;
}

DEVICE int32_t dtype_of(__nv_bfloat16)
{
    return AWQ_BF16;
}

/* Two floats as a pair of 16-bit numbers, the first in the lower half. */
DEVICE uint32_t pack_pair(float low, float high, __half)
{
    return bits_as<uint32_t>(__floats2half2_rn(low, high));
}

DEVICE uint32_t pack_pair(float low, float high, __nv_bfloat16)
{
    return bits_as<uint32_t>(__floats2bfloat162_rn(low, high));
}

DEVICE float2 unpack_pair(uint32_t pair, __half)
{
    return __half22float2(bits_as<__half2>(pair));
}

DEVICE float2 unpack_pair(uint32_t pair, __nv_bfloat16)
{
    return __bfloat1622float2(bits_as<__nv_bfloat162>(pair));
}

/* ---- codes to fragments
 *
 * A word of four bits a code holds for a lane (g = lane / 4, c = lane % 4), one tile of 16 columns and one step of 16
 * inputs, in fields of four bits from the lowest on: (g, 2c) (g, 2c+8) (g+8, 2c) (g+8, 2c+8) and the same with 2c+1,
 * 2c+9.  So the masks below pick the registers of an mma's A operand, in the order 0, 2, 1, 3.
 *
 * What comes out are the whole numbers q - z, exact in either type: 1024 | q are the bits of the FP16 number 1024 + q
 * and 1024 | 16 q those of 1024 + 16 q; 128 | q those of the BF16 number 128 + q.  The scale is applied to the sums of
 * a group, so that no weight is ever rounded. */

/* What a zero point takes away: the constants of the low and the high field of each byte. */
struct offsets {
    uint32_t low, high;
};

template <int bits>
DEVICE offsets offsets_of(uint32_t zero, __half)
{
    const uint32_t low = 0xe400u | zero, high = bits == 4 ? 0xd400u | zero << 4 : 0; /* -(1024 + z), -(64 + z) */
    return {low | low << 16, high | high << 16};
}

/* BF16 holds whole numbers to 256 only, so those of 8 bits go through FP16. */
template <int bits>
DEVICE offsets offsets_of(uint32_t zero, __nv_bfloat16)
{
    if (bits == 8) return offsets_of<8>(zero, __half());
    const uint32_t low = 0xc300u | zero; /* -(128 + z) */
    return {low | low << 16, low | low << 16};
}

enum { LOP3_AND_OR = (0xf0 & 0xcc) | 0xaa };

DEVICE void fragment_of(uint32_t word, offsets row, offsets row8, uint32_t (&a)[4], __half)
{
    const uint32_t bias = 0x64006400u;
    const __half2 sixteenth = bits_as<__half2>(0x2c002c00u);
    const uint32_t next = word >> 8;
    __half2 v0 = bits_as<__half2>(ptx::lop3<LOP3_AND_OR>(word, 0x000f000fu, bias));
    __half2 v2 = bits_as<__half2>(ptx::lop3<LOP3_AND_OR>(word, 0x00f000f0u, bias));
    __half2 v1 = bits_as<__half2>(ptx::lop3<LOP3_AND_OR>(next, 0x000f000fu, bias));
    __half2 v3 = bits_as<__half2>(ptx::lop3<LOP3_AND_OR>(next, 0x00f000f0u, bias));
    a[0] = bits_as<uint32_t>(__hadd2(v0, bits_as<__half2>(row.low)));
    a[1] = bits_as<uint32_t>(__hadd2(v1, bits_as<__half2>(row8.low)));
    a[2] = bits_as<uint32_t>(__hfma2(v2, sixteenth, bits_as<__half2>(row.high)));
    a[3] = bits_as<uint32_t>(__hfma2(v3, sixteenth, bits_as<__half2>(row8.high)));
}

/* Compute capability 8.0, as its mma. */
DEVICE void fragment_of(uint32_t word, offsets row, offsets row8, uint32_t (&a)[4], __nv_bfloat16)
{
#if AWQ_ARCH >= 800
    const uint32_t bias = 0x43004300u;
    const __nv_bfloat162 one = bits_as<__nv_bfloat162>(0x3f803f80u);
    const uint32_t order[4] = {word, word >> 8, word >> 4, word >> 12};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        __nv_bfloat162 v = bits_as<__nv_bfloat162>(ptx::lop3<LOP3_AND_OR>(order[i], 0x000f000fu, bias));
        a[i] = bits_as<uint32_t>(__hfma2(v, one, bits_as<__nv_bfloat162>(i % 2 == 0 ? row.low : row8.low)));
    }
#else
    __trap();
#endif
}

/* Eight bits a code: the lane's two words are of columns g and g + 8, their bytes inputs 2c, 2c+8, 2c+1, 2c+9. */
DEVICE uint32_t pair_of_bytes(uint32_t word, uint32_t selector, offsets row, __half)
{
    const __half2 biased = bits_as<__half2>(ptx::prmt(word, 0x64646464u, selector)); /* 1024 + q */
    return bits_as<uint32_t>(__hadd2(biased, bits_as<__half2>(row.low)));
}

DEVICE uint32_t pair_of_bytes(uint32_t word, uint32_t selector, offsets row, __nv_bfloat16)
{
    const float2 pair = __half22float2(bits_as<__half2>(pair_of_bytes(word, selector, row, __half())));
    return pack_pair(pair.x, pair.y, __nv_bfloat16());
}

template <class T>
DEVICE void fragment_of(const uint32_t (&words)[2], offsets row, offsets row8, uint32_t (&a)[4], T type)
{
    a[0] = pair_of_bytes(words[0], 0x4240, row, type);
    a[1] = pair_of_bytes(words[1], 0x4240, row8, type);
    a[2] = pair_of_bytes(words[0], 0x4341, row, type);
    a[3] = pair_of_bytes(words[1], 0x4341, row8, type);
}

template <class T>
DEVICE void fragment_of(const uint32_t (&words)[1], offsets row, offsets row8, uint32_t (&a)[4], T type)
{
    fragment_of(words[0], row, row8, a, type);
}

/* ---- the near end: x, normalised and divided */

/* 1 / sqrt(mean of squares + epsilon) of a row, the same for all lanes of a warp: each lane adds every 32nd square, and
 * lanes are added pairwise. */
DEVICE float norm_factor(const cuda_product &p, int64_t row)
{
    float sum = 0.0f;
    for (int32_t k = static_cast<int32_t>(threadIdx.x % 32); k < p.w.inputs; k += 32) {
        float value = load_float(p.x.data, p.x.dtype, row * p.x.stride + k);
        sum = fmaf(value, value, sum);
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(ALL_LANES, sum, lanes);
    return 1.0f / sqrtf(sum / static_cast<float>(p.w.inputs) + p.epsilon);
}

DEVICE float load_input(const cuda_product &p, int64_t row, int32_t k, float factor)
{
    if (k >= p.w.inputs) return 0.0f;
    float value = load_float(p.x.data, p.x.dtype, row * p.x.stride + k);
    if (p.norm.data != nullptr) value = value * factor * load_float(p.norm.data, p.norm.dtype, k);
    if (p.w.input_scale != nullptr) value /= p.w.input_scale[k];
    return value;
}

/* ---- the far end: sums to y */

DEVICE float silu(float value)
{
    return value / (1.0f + expf(-value));
}

/* What the salient inputs of a row add to a column: few enough that the thread that ends a column takes them along. */
DEVICE float salient_sum(const cuda_product &p, int64_t row, int32_t column)
{
    const int64_t columns = static_cast<int64_t>(p.w.column_blocks) * CUDA_BLOCK;
    const __half *values = static_cast<const __half *>(p.w.salient_values) + column;
    const float *kept = p.kept + row * p.w.salient_count;
    float sum = 0.0f;
#pragma unroll 4
    for (int32_t i = 0; i < p.w.salient_count; i++) sum = fmaf(kept[i], __half2float(values[i * columns]), sum);
    return sum;
}

/* Output 'o' of row 'row' from the sums of its column, and of its up column when gated. */
DEVICE void store_output(const cuda_product &p, int64_t row, int32_t o, float sum, float up)
{
    int32_t column = p.w.gated ? o / 32 * 64 + o % 32 : o;
    if (p.w.salient_count > 0) {
        sum += salient_sum(p, row, column);
        if (p.w.gated) up += salient_sum(p, row, column + 32);
    }
    if (p.w.bias != nullptr) {
        sum += p.w.bias[column];
        if (p.w.gated) up += p.w.bias[column + 32];
    }
    if (p.w.gated) sum = silu(sum) * up;
    if (p.residual.data != nullptr) sum += load_float(p.residual.data, p.residual.dtype, row * p.residual.stride + o);
    store_float(p.y.data, p.y.dtype, row * p.y.stride + o, sum);
}

/* A tile of sums in shared memory, tile[token * pitch + column], column 0 being the first of block 'block' of columns:
 * tokens row .. row + tokens - 1 of it go to y, by the first 'threads' threads of the block. */
DEVICE void store_tile(const cuda_product &p, const float *tile, int pitch, int columns, int32_t block, int64_t row,
                       int tokens, int threads)
{
    const int width = p.w.gated ? columns / 2 : columns;
    const int32_t first = block * (p.w.gated ? 32 : 64);
    for (int i = static_cast<int>(threadIdx.x); i < tokens * width; i += threads) {
        int token = i / width, o = i % width;
        if (first + o >= p.w.outputs) continue;
        int column = p.w.gated ? o / 32 * 64 + o % 32 : o;
        const float *sums = tile + token * pitch + column;
        store_output(p, row + token, first + o, sums[0], p.w.gated ? sums[32] : 0.0f);
    }
}

/* ---- stripes
 *
 * Work is a row of units, those of one column of blocks next to each other.  Each thread block takes an equal stripe of
 * it, so all multiprocessors end together whatever the shape.  A column whose units fall to several stripes is summed
 * by the block that arrives last, always in the order of the stripes: who is last does not show in the bits. */

struct stripes {
    int64_t units;
    int32_t blocks;
    float *partial;
    uint64_t *tickets;
    uint64_t nonce;

    __device__ __forceinline__ int64_t begin(int64_t block) const { return units * block / blocks; }
    __device__ __forceinline__ int32_t of(int64_t unit) const
    {
        return static_cast<int32_t>(((unit + 1) * blocks - 1) / units);
    }
    /* Where a block keeps its sums of the column whose first unit is 'unit': of its first or of its last column. */
    __device__ __forceinline__ float *kept(int64_t block, int64_t unit, int size) const
    {
        return partial + (2 * block + (begin(block) < unit ? 1 : 0)) * size;
    }
};

/* Where a unit lies when units are blocks of inputs of tiles, and tiles are parts of the tokens of columns. */
struct place {
    int64_t unit, end;
    int32_t tile, input; /* block of inputs */
    int32_t input_blocks, token_parts;

    __device__ __forceinline__ void next()
    {
        unit++;
        if (++input == input_blocks) {
            input = 0;
            tile++;
        }
    }
    __device__ __forceinline__ int32_t column_tile() const { return tile / token_parts; }
    __device__ __forceinline__ int32_t token_part() const { return tile % token_parts; }
};

/* Tokens of part 'part': eights of them, shared evenly. */
DEVICE int32_t first_eight(int32_t eights, int32_t part, int32_t parts)
{
    return static_cast<int32_t>(static_cast<int64_t>(eights) * part / parts);
}

/* Count in on a ticket; true for the last of 'count', which leaves the ticket blank for the next run.  A ticket that
 * does not carry the nonce of this run counts as blank, so tickets need no initialisation.  One lane calls it, between
 * barriers. */
DEVICE bool arrives_last(uint64_t *ticket, uint64_t nonce, uint32_t count)
{
    uint64_t seen = 0;
    for (;;) {
        uint64_t next = seen >> 16 == nonce ? seen + 1 : nonce << 16 | 1;
        bool last = (next & 0xffff) == count;
        uint64_t found = ptx::compare_and_swap(ticket, seen, last ? 0 : next);
        if (found == seen) return last;
        seen = found;
    }
}

/* Complete the sums of column 'column', tile[size] in shared memory, whose units begin at 'unit' and are 'count': true
 * when they are whole, and otherwise they are left to the block that arrives later.  A barrier has made the tile
 * visible before; one follows inside when the tile changes. */
DEVICE bool complete_tile(const stripes &work, int64_t column, int64_t unit, int64_t count, float *tile, int size)
{
    const int32_t first = work.of(unit), last = work.of(unit + count - 1);
    if (first == last) return true;
    const int lane = static_cast<int>(threadIdx.x), lanes = static_cast<int>(blockDim.x);
    float4 *mine = reinterpret_cast<float4 *>(work.kept(blockIdx.x, unit, size));
    float4 *shared = reinterpret_cast<float4 *>(tile);
    for (int i = lane; i < size / 4; i += lanes) mine[i] = shared[i];
    __syncthreads();
    int done = 0;
    if (lane == 0) done = arrives_last(work.tickets + column, work.nonce, static_cast<uint32_t>(last - first + 1));
    if (!__syncthreads_or(done)) return false;
    for (int i = lane; i < size / 4; i += lanes) {
        float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        for (int32_t block = first; block <= last; block++) {
            float4 part = reinterpret_cast<const float4 *>(work.kept(block, unit, size))[i];
            sum.x += part.x;
            sum.y += part.y;
            sum.z += part.z;
            sum.w += part.w;
        }
        shared[i] = sum;
    }
    __syncthreads();
    return true;
}

/* ---- rings */

/* ptx::cp_async_wait for a number known only at run time, 0 .. 7. */
DEVICE void wait_for_copies(int groups)
{
    switch (groups) {
    case 0: ptx::cp_async_wait<0>(); break;
    case 1: ptx::cp_async_wait<1>(); break;
    case 2: ptx::cp_async_wait<2>(); break;
    case 3: ptx::cp_async_wait<3>(); break;
    case 4: ptx::cp_async_wait<4>(); break;
    case 5: ptx::cp_async_wait<5>(); break;
    case 6: ptx::cp_async_wait<6>(); break;
    default: ptx::cp_async_wait<7>(); break;
    }
}

/* Scales and zero points of 64 columns for one block of inputs, as a warp keeps them in shared memory: one set, or
 * where groups end inside a block one for each step of 16 inputs. */
enum { SET_SCALES = 256 };

template <int bits, bool fine>
DEVICE void fetch_sets(const cuda_weight &w, int32_t column, int32_t input, unsigned char *sets)
{
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int chunks = w.scale_dtype == AWQ_F32 ? 16 : 8; /* of 16 bytes */
    const int zero_chunks = bits / 2;
#pragma unroll
    for (int t = 0; t < (fine ? 4 : 1); t++) {
        const int32_t group = min((input * 64 + 16 * t) / w.group_size, w.groups - 1);
        const int64_t block = static_cast<int64_t>(group) * w.column_blocks + column;
        unsigned char *set = sets + t * (SET_SCALES + 8 * bits);
        if (lane < chunks)
            ptx::cp_async<16>(set + 16 * lane,
                              static_cast<const unsigned char *>(w.scales) + (block * chunks + lane) * 16);
        else if (lane >= 16 && lane < 16 + zero_chunks && w.zeros != nullptr)
            ptx::cp_async<16>(set + SET_SCALES + 16 * (lane - 16),
                              static_cast<const unsigned char *>(w.zeros) + (block * zero_chunks + lane - 16) * 16);
    }
}

/* The zero point of the lane's column g + 8 i. */
template <int bits>
DEVICE uint32_t zero_of_lane(const cuda_weight &w, const unsigned char *set, int i)
{
    if (w.zeros == nullptr) return 1u << (bits - 1);
    const uint32_t *words = reinterpret_cast<const uint32_t *>(set + SET_SCALES);
    const int g = static_cast<int>(threadIdx.x % 32 / 4);
    if (bits == 4) return words[g] >> 4 * (i / 2 + 4 * (i % 2)) & 15u;
    return words[2 * g + i / 4] >> 8 * (i % 4 / 2 + 2 * (i % 2)) & 255u;
}

/* The scale of the lane's column g + 8 i.  Marlin places the scales of a single group for lanes that end with
 * neighbouring columns: of 32 columns, column c at 8 (c % 8 / 2) + 2 (c / 8) + c % 2. */
DEVICE float scale_of_lane(const cuda_weight &w, const unsigned char *set, int i)
{
    const int g = static_cast<int>(threadIdx.x % 32 / 4);
    return load_float(set, w.scale_dtype,
                      w.single_scales ? 32 * (i / 4) + 8 * (g / 2) + 2 * (i % 4) + g % 2 : 8 * g + i);
}

#endif /* AWQ_CUDA_KERNEL_CUH */
