/* This library's format for CPU kernels: codes of 2, 3 and 4 bits in fields of four, codes of 8 bits in fields of eight.
 *
 *   stream  I32 [N' / 16][16 lines]       header  and  input_scale  as in header.c
 *
 * A row is all that a kernel needs for 16 outputs, in the order in which it needs it: for each group of inputs one line
 * of 16 words (64 bytes) with scales and zero points, then one line for each 8 inputs (4 with fields of eight bits).
 *
 *   first line   halves 0 .. 15: the scale of each output (F16 or BF16); halves 16 .. 31: its zero point, an integer
 *   line t       word n: output n.  Field i of half p (bits 16 p + 4 i ..) holds input 8 t + 2 i + p of the group;
 *                with eight bits (bits 16 p + 8 i ..) input 4 t + 2 i + p
 *
 * so that a shift by 4 i leaves pairs of neighbouring inputs in the two halves, as products of pairs of BF16 take them,
 * and the low and the high fields of the bytes are inputs 0 4 1 5 and 2 6 3 7, for products of four bytes.
 *
 * N' is N rounded up to 16.  Codes added at the end of a group equal its zero point, and outputs that are not there
 * have zero points and scales of 0: all of them stand for exactly 0.
 *
 * In memory, where kernels read the same stream, scales may also be F32: the first line is then two, 16 scales, and 16
 * zero points followed by zeros. */
#include "cpu_stream.h"
#include "layout.h"

#include <math.h>

enum { OUTPUTS = AWQI_STREAM_OUTPUTS, PART = 256 }; /* inputs at a time */

#define BITS (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)

/* ---- writing */

/* The header of a group for one output, and the codes that fill up its last line. */
static void write_group(const struct awqi_stream_shape *shape, const awq_weight *weight, int64_t row, int64_t group,
                        int64_t output, uint32_t *words)
{
    const int64_t size = awqi_min64(shape->group_size, weight->k - group * shape->group_size);
    const size_t scale_bytes = awq_dtype_size(shape->scale_dtype);
    unsigned char *header = (unsigned char *)(words + group * shape->group_words);
    const float scale = awqi_weight_scale(weight, row, group);
    const uint16_t zero = (uint16_t)awqi_weight_zero(weight, row, group);
    awqi_from_f32(shape->scale_dtype, &scale, header + (size_t)output * scale_bytes, 1);
    memcpy(header + OUTPUTS * scale_bytes + (size_t)output * sizeof zero, &zero, sizeof zero);
    for (int64_t within = size; within % shape->line_inputs != 0; within++) {
        int bit;
        const int64_t line = awqi_stream_line(shape, group, within, &bit);
        words[line + output] |= (uint32_t)zero << bit;
    }
}

void awqi_stream_write_block(const struct awqi_stream_shape *shape, const awq_weight *weight,
                             const int64_t rows[AWQI_STREAM_OUTPUTS], uint32_t *words)
{
    uint8_t codes[OUTPUTS][PART];
    memset(codes, 0, sizeof codes);
    for (int64_t output = 0; output < OUTPUTS; output++)
        for (int64_t group = 0; rows[output] >= 0 && group < weight->groups; group++)
            write_group(shape, weight, rows[output], group, output, words);
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t output = 0; output < OUTPUTS; output++)
            if (rows[output] >= 0) awqi_weight_get_codes(weight, rows[output], first, count, codes[output]);
        int64_t group = first / shape->group_size, within = first % shape->group_size;
        for (int64_t i = 0; i < count; i++) {
            int bit;
            uint32_t *line = words + awqi_stream_line(shape, group, within, &bit);
            for (int64_t output = 0; output < OUTPUTS; output++) line[output] |= (uint32_t)codes[output][i] << bit;
            if (++within == shape->group_size) within = 0, group++;
        }
    }
}

struct packing {
    const awq_weight *weight;
    struct awqi_stream_shape shape;
    uint32_t *stream;
};

static void pack_block(void *user_data, int64_t block)
{
    const struct packing *work = user_data;
    int64_t rows[OUTPUTS];
    for (int64_t i = 0; i < OUTPUTS; i++) {
        const int64_t row = OUTPUTS * block + i;
        rows[i] = row < work->weight->n ? row : -1;
    }
    awqi_stream_write_block(&work->shape, work->weight, rows, work->stream + block * work->shape.block_words);
}

static awq_status check_scales(const awq_weight *weight, int32_t dtype)
{
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++) {
            const float scale = awqi_weight_scale(weight, row, group);
            if (awqi_round_to(dtype, scale) != scale) return awqi_layout_refuse_scale(weight, row, group, dtype);
        }
    return AWQ_OK;
}

awq_status awqi_cpu_stream_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const int32_t dtype = awqi_layout_half_dtype(weight);
    const struct awqi_stream_shape shape =
        awqi_stream_shape(weight->n, weight->k, weight->group_size, weight->bits, dtype);
    awq_tensor stream;
    awq_status status = awqi_layout_check_bits(weight->bits, BITS);
    if (status == AWQ_OK) status = check_scales(weight, dtype);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, shape.blocks, shape.block_words, &stream);
    if (status == AWQ_OK) status = awqi_header_write(weight, dtype, packed);
    if (status != AWQ_OK) return status;
    struct packing work = {weight, shape, stream.data};
    awqi_parallel_for(awqi_packed_context(packed), shape.blocks, pack_block, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    struct awqi_stream_shape shape;
    const awq_tensor *stream;
};

static awq_status unpack_group(const struct unpacking *work, int64_t row, int64_t group)
{
    awq_weight *weight = work->weight;
    const int64_t header = group * work->shape.group_words, i = row % OUTPUTS;
    const int bit = (int)(16 * (i % 2));
    const uint32_t scale_word = awqi_plane_word(work->stream, row / OUTPUTS, header + i / 2);
    const uint32_t zero_word = awqi_plane_word(work->stream, row / OUTPUTS, header + OUTPUTS / 2 + i / 2);
    const uint16_t half = (uint16_t)(scale_word >> bit), zero = (uint16_t)(zero_word >> bit);
    float scale;
    awqi_to_f32(weight->scale_dtype, &half, &scale, 1);
    if (!isfinite(scale))
        return awqi_fail(AWQ_ERROR_NON_FINITE, "the scale of row %lld, group %lld is %g", (long long)row,
                         (long long)group, (double)scale);
    if (zero >> weight->bits != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "the zero point of row %lld, group %lld is %d, above the %d of %d bits",
                         (long long)row, (long long)group, zero, (1 << weight->bits) - 1, weight->bits);
    ((uint16_t *)awqi_weight_scales(weight, row))[group] = half;
    return awqi_layout_set_zero(weight, row, group, zero);
}

static void unpack_block(void *user_data, int64_t block)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    const int64_t first_row = OUTPUTS * block, rows = awqi_min64(OUTPUTS, weight->n - first_row);
    const int64_t step = work->stream->strides[1];
    const uint32_t *words = awqi_tensor_row(work->stream, block);
    const uint32_t mask = (1u << weight->bits) - 1;
    uint8_t codes[OUTPUTS][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t i = 0; i < count; i++) {
            const int64_t group = (first + i) / work->shape.group_size;
            int bit;
            const int64_t line = awqi_stream_line(&work->shape, group, (first + i) % work->shape.group_size, &bit);
            for (int64_t row = 0; row < rows; row++)
                codes[row][i] = (uint8_t)(words[(line + row) * step] >> bit & mask);
        }
        for (int64_t row = 0; row < rows; row++)
            awqi_weight_set_codes(weight, first_row + row, first, count, codes[row]);
    }
}

awq_status awqi_cpu_stream_unpack(const struct awqi_layout *layout, awq_context *context,
                                  const struct awqi_planes *planes, const awq_unpack_options *options,
                                  awq_weight **weight)
{
    const awq_tensor *stream;
    struct awqi_layout_header header;
    awq_status status = awqi_header_read(planes, options, &header);
    if (status == AWQ_OK) status = awqi_layout_check_bits(header.quantizer.bits, BITS);
    if (status != AWQ_OK) return status;
    const struct awqi_stream_shape shape = awqi_stream_shape(header.n, header.k, header.quantizer.group_size,
                                                             header.quantizer.bits, header.quantizer.scale_dtype);
    status = awqi_planes_find(planes, layout->planes[0], true, AWQI_WORDS, shape.blocks, shape.block_words, &stream);
    if (status == AWQ_OK) status = awqi_header_allocate(context, &header, planes, weight);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, shape, stream};
    for (int64_t row = 0; row < header.n && status == AWQ_OK; row++)
        for (int64_t group = 0; group < (*weight)->groups && status == AWQ_OK; group++)
            status = unpack_group(&work, row, group);
    if (status == AWQ_OK) awqi_parallel_for(context, shape.blocks, unpack_block, &work);
    return status;
}
