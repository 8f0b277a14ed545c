/* Instructions of whole warps: shuffles, votes, matrices. */
#include "executor.h"

#include <algorithm>

namespace simt {

template <class Operand>
static Operand *operand(const Meeting &meeting, unsigned lane)
{
    return static_cast<Operand *>(meeting.operands[lane]);
}

/* ---- shuffles: "Data Movement and Conversion Instructions: shfl.sync" */

struct ShuffleCall {
    Shuffle kind;
    unsigned char value[16], result[16];
    unsigned argument;
    int width;
};

/* The lane that 'lane' reads; itself where that lies beyond its segment of 'width' lanes. */
static unsigned source(const ShuffleCall &call, unsigned lane)
{
    unsigned width = static_cast<unsigned>(call.width), first = lane & ~(width - 1), argument = call.argument & 31;
    switch (call.kind) {
    case shuffle_index: return first | (argument & (width - 1));
    case shuffle_up: return lane < first + argument ? lane : lane - argument;
    case shuffle_down: return lane + argument >= first + width ? lane : lane + argument;
    default: return (lane ^ argument) >= first + width ? lane : lane ^ argument;
    }
}

static void do_shuffle(Meeting &meeting, Warp &)
{
    for (unsigned i = 0; i < 32; i++) {
        if (!(meeting.arrived >> i & 1)) continue;
        ShuffleCall *call = operand<ShuffleCall>(meeting, i);
        unsigned from = source(*call, i);
        if (meeting.arrived >> from & 1)
            std::copy_n(operand<ShuffleCall>(meeting, from)->value, sizeof call->value, call->result);
        else
            std::fill_n(call->result, sizeof call->result, 0xff); /* undefined */
    }
}

void shuffle(Shuffle kind, unsigned mask, void *value, size_t size, unsigned argument, int width)
{
    static const char *const names[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};
    Inside lane;
    if (width < 1 || width > 32 || (width & (width - 1)) != 0)
        fault(*lane, __builtin_return_address(0), "%s of width %d", names[kind], width);
    ShuffleCall call = {kind, {}, {}, argument, width};
    std::copy_n(static_cast<unsigned char *>(value), size, call.value);
    meet(*lane, mask, names[kind], &call, do_shuffle);
    std::copy_n(call.result, size, static_cast<unsigned char *>(value));
}

/* ---- votes */

struct VoteCall {
    uint64_t value;
    unsigned result;
};

static void do_match(Meeting &meeting, Warp &)
{
    for (unsigned i = 0; i < 32; i++) {
        if (!(meeting.arrived >> i & 1)) continue;
        VoteCall *call = operand<VoteCall>(meeting, i);
        for (unsigned j = 0; j < 32; j++)
            if ((meeting.arrived >> j & 1) && operand<VoteCall>(meeting, j)->value == call->value)
                call->result |= 1u << j;
    }
}

static void do_ballot(Meeting &meeting, Warp &)
{
    unsigned result = 0;
    for (unsigned i = 0; i < 32; i++)
        if ((meeting.arrived >> i & 1) && operand<VoteCall>(meeting, i)->value != 0) result |= 1u << i;
    for (unsigned i = 0; i < 32; i++)
        if (meeting.arrived >> i & 1) operand<VoteCall>(meeting, i)->result = result;
}

unsigned ballot(unsigned mask, bool predicate)
{
    Inside lane;
    VoteCall call = {predicate, 0};
    meet(*lane, mask, "a vote", &call, do_ballot);
    return call.result;
}

unsigned match(unsigned mask, uint64_t value)
{
    Inside lane;
    VoteCall call = {value, 0};
    meet(*lane, mask, "__match_any_sync", &call, do_match);
    return call.result;
}

static void do_sync(Meeting &meeting, Warp &warp)
{
    bool all = true;
    for (unsigned i = 0; i < warp.count; i++) all = all && ((meeting.arrived >> i & 1) || warp.lanes[i]->ended);
    if (all) tick(warp);
}

void sync_warp(unsigned mask)
{
    Inside lane;
    meet(*lane, mask, "__syncwarp", nullptr, do_sync);
}

/* ---- matrices */

struct MatrixCall {
    uint32_t *r;
    const unsigned char *row;
    const void *code;
};

template <int matrices, bool transpose>
static void do_ldmatrix(Meeting &meeting, Warp &warp)
{
    uint16_t elements[8][8];
    for (unsigned matrix = 0; matrix < matrices; matrix++) {
        for (unsigned i = 0; i < 8; i++) {
            MatrixCall *call = operand<MatrixCall>(meeting, 8 * matrix + i);
            Lane &lane = *warp.lanes[8 * matrix + i];
            if (!is_shared(lane, call->row))
                fault(lane, call->code, "ldmatrix of %p, which is not shared memory",
                      static_cast<const void *>(call->row));
            check(lane, call->row, 16, true, access_read, call->code);
            memcpy(elements[i], call->row, 16);
        }
        for (unsigned i = 0; i < 32; i++) {
            unsigned row = i / 4, column = i % 4 * 2;
            uint32_t low = transpose ? elements[column][row] : elements[row][column];
            uint32_t high = transpose ? elements[column + 1][row] : elements[row][column + 1];
            operand<MatrixCall>(meeting, i)->r[matrix] = high << 16 | low;
        }
    }
}

void ldmatrix(uint32_t *r, int matrices, bool transpose, const void *shared)
{
    Inside lane;
    MatrixCall call = {r, static_cast<const unsigned char *>(shared), __builtin_return_address(0)};
    if (transpose)
        meet_all(*lane, "ldmatrix.trans", &call,
             matrices == 1 ? do_ldmatrix<1, true> : matrices == 2 ? do_ldmatrix<2, true> : do_ldmatrix<4, true>);
    else
        meet_all(*lane, "ldmatrix", &call,
             matrices == 1 ? do_ldmatrix<1, false> : matrices == 2 ? do_ldmatrix<2, false> : do_ldmatrix<4, false>);
}

struct ProductCall {
    float *d;
    const uint32_t *a, *b;
};

float decode(uint32_t bits, Element element)
{
    if (element == element_bf16) return simt::bits<float>(bits << 16);
    static const std::vector<float> table = [] {
        std::vector<float> values(65536);
        for (uint32_t i = 0; i < 65536; i++) {
            __half_raw raw = {};
            raw.x = static_cast<unsigned short>(i);
            values[i] = __half2float(__half(raw));
        }
        return values;
    }();
    return table[bits];
}

/* The manual leaves the order and the rounding of the sums open; here they are exact but for one rounding at the end
 * of each instruction. */
template <int k, Element element>
static void do_mma(Meeting &meeting, Warp &)
{
    double a[16][k], b[8][k];
    for (unsigned lane = 0; lane < 32; lane++) {
        const ProductCall &call = *operand<ProductCall>(meeting, lane);
        unsigned group = lane / 4, pair = lane % 4 * 2;
        for (unsigned i = 0; i < k / 4; i++)
            for (unsigned half = 0; half < 2; half++)
                a[group + i % 2 * 8][pair + i / 2 * 8 + half] = decode(call.a[i] >> 16 * half & 0xffff, element);
        for (unsigned i = 0; i < k / 8; i++)
            for (unsigned half = 0; half < 2; half++)
                b[group][pair + i * 8 + half] = decode(call.b[i] >> 16 * half & 0xffff, element);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        float *d = operand<ProductCall>(meeting, lane)->d;
        for (unsigned i = 0; i < 4; i++) {
            const double *row = a[lane / 4 + i / 2 * 8], *column = b[lane % 4 * 2 + i % 2];
            double sum = d[i];
            for (int j = 0; j < k; j++) sum += row[j] * column[j];
            d[i] = static_cast<float>(sum);
        }
    }
}

void mma(float *d, const uint32_t *a, const uint32_t *b, int k, Element element)
{
    Inside lane;
    ProductCall call = {d, a, b};
    if (element == element_bf16 && settings.architecture < 800)
        fault(*lane, __builtin_return_address(0), "mma of BF16 needs compute capability 8.0");
    if (k == 8)
        meet_all(*lane, "mma.m16n8k8 f16", &call, do_mma<8, element_f16>);
    else if (element == element_f16)
        meet_all(*lane, "mma.m16n8k16 f16", &call, do_mma<16, element_f16>);
    else
        meet_all(*lane, "mma.m16n8k16 bf16", &call, do_mma<16, element_bf16>);
}

} // namespace simt
