/* This library's format for CPU kernels: codes of 2, 3 and 4 bits in fields of four.
 *
 *   stream  I32 [N' / 16][16 lines]       header  and  input_scale  as in header.c
 *
 * A row is all that a kernel needs for 16 outputs, in the order in which it needs it: for each group of inputs one line
 * of 16 words (64 bytes) with scales and zero points, then one line for each 8 inputs.
 *
 *   first line   halves 0 .. 15: the scale of each output (F16 or BF16); halves 16 .. 31: its zero point, an integer
 *   line t       word n: output n.  Field i of half p (bits 16 p + 4 i ..) holds input 8 t + 2 i + p of the group
 *
 * so that a shift by 4 i leaves pairs of neighbouring inputs in the two halves, as products of pairs of BF16 take them,
 * and the low and the high fields of the bytes are inputs 0 4 1 5 and 2 6 3 7, for products of four bytes.
 *
 * N' is N rounded up to 16.  Codes added at the end of a group equal its zero point, and outputs that are not there
 * have zero points and scales of 0: all of them stand for exactly 0. */
#include "layout.h"

#include <math.h>

enum { OUTPUTS = 16, STEP = 8, LINE = 16, PART = 256 }; /* of a row; inputs and words of a line; inputs at a time */

#define BITS (1u << 2 | 1u << 3 | 1u << 4)

struct shape {
    int64_t blocks, words;           /* of the plane */
    int64_t group_size, group_words; /* of every group but the last */
};

static struct shape find_shape(int64_t n, int64_t k, int64_t group_size)
{
    group_size = awqi_min64(group_size, k);
    const int64_t rest = k % group_size, group_words = LINE * (1 + awqi_ceil_div(group_size, STEP));
    return (struct shape){
        .blocks = awqi_ceil_div(n, OUTPUTS),
        .words = k / group_size * group_words + (rest > 0 ? LINE * (1 + awqi_ceil_div(rest, STEP)) : 0),
        .group_size = group_size,
        .group_words = group_words,
    };
}

/* The first word of the line with input 'within' of a group, and the bit where its field begins in each word. */
static int64_t find_line(const struct shape *shape, int64_t group, int64_t within, int *bit)
{
    *bit = (int)(16 * (within % 2) + 4 * (within % STEP / 2));
    return group * shape->group_words + LINE * (1 + within / STEP);
}

/* ---- writing */

struct packing {
    const awq_weight *weight;
    struct shape shape;
    int32_t scale_dtype;
    uint32_t *stream;
};

/* The header of a group, and the codes that fill up its last line. */
static void pack_group(const struct packing *work, int64_t first_row, int64_t group, uint32_t *words)
{
    const awq_weight *weight = work->weight;
    const int64_t size = awqi_min64(work->shape.group_size, weight->k - group * work->shape.group_size);
    uint32_t *header = words + group * work->shape.group_words;
    for (int64_t i = 0; i < OUTPUTS && first_row + i < weight->n; i++) {
        const float scale = awqi_weight_scale(weight, first_row + i, group);
        const uint32_t zero = (uint32_t)awqi_weight_zero(weight, first_row + i, group);
        uint16_t half;
        awqi_from_f32(work->scale_dtype, &scale, &half, 1);
        header[i / 2] |= (uint32_t)half << (16 * (i % 2));
        header[OUTPUTS / 2 + i / 2] |= zero << (16 * (i % 2));
        for (int64_t within = size; within % STEP != 0; within++) {
            int bit;
            const int64_t line = find_line(&work->shape, group, within, &bit);
            words[line + i] |= zero << bit;
        }
    }
}

static void pack_block(void *user_data, int64_t block)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    const int64_t first_row = OUTPUTS * block, rows = awqi_min64(OUTPUTS, weight->n - first_row);
    uint32_t *words = work->stream + block * work->shape.words;
    uint8_t codes[OUTPUTS][PART];
    for (int64_t group = 0; group < weight->groups; group++) pack_group(work, first_row, group, words);
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t row = 0; row < rows; row++)
            awqi_weight_get_codes(weight, first_row + row, first, count, codes[row]);
        for (int64_t i = 0; i < count; i++) {
            const int64_t group = (first + i) / work->shape.group_size;
            int bit;
            uint32_t *line = words + find_line(&work->shape, group, (first + i) % work->shape.group_size, &bit);
            for (int64_t row = 0; row < rows; row++) line[row] |= (uint32_t)codes[row][i] << bit;
        }
    }
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
    const struct shape shape = find_shape(weight->n, weight->k, weight->group_size);
    const int32_t dtype = awqi_layout_half_dtype(weight);
    awq_tensor stream;
    awq_status status = awqi_layout_check_bits(weight->bits, BITS);
    if (status == AWQ_OK) status = check_scales(weight, dtype);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, shape.blocks, shape.words, &stream);
    if (status == AWQ_OK) status = awqi_header_write(weight, dtype, packed);
    if (status != AWQ_OK) return status;
    struct packing work = {weight, shape, dtype, stream.data};
    awqi_parallel_for(awqi_packed_context(packed), shape.blocks, pack_block, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    struct shape shape;
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
            const int64_t line = find_line(&work->shape, group, (first + i) % work->shape.group_size, &bit);
            for (int64_t row = 0; row < rows; row++) codes[row][i] = words[(line + row) * step] >> bit & mask;
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
    const struct shape shape = find_shape(header.n, header.k, header.quantizer.group_size);
    status = awqi_planes_find(planes, layout->planes[0], true, AWQI_WORDS, shape.blocks, shape.words, &stream);
    if (status == AWQ_OK) status = awqi_header_allocate(context, &header, planes, weight);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, shape, stream};
    for (int64_t row = 0; row < header.n && status == AWQ_OK; row++)
        for (int64_t group = 0; group < (*weight)->groups && status == AWQ_OK; group++)
            status = unpack_group(&work, row, group);
    if (status == AWQ_OK) awqi_parallel_for(context, shape.blocks, unpack_block, &work);
    return status;
}
