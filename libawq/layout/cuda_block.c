/* This library's format for CUDA kernels, 4 and 8 bits:
 *
 *   qweight  I32 [N' / 64][2 bits K']      scales  F16 or BF16 [groups'][N']      qzeros  I32 [groups'][N' bits / 32]
 *   header  and  input_scale  as in header.c
 *
 * A row of qweight is the blocks of 64 outputs by 64 inputs of one span of outputs, along K, of 128 bits words each.
 * In a block, fragment (32 j + l) 4 + t is that of lane l in the order of fragment.h for outputs from 16 j on and
 * inputs from 16 t on, one word with 4 bits and two with 8: what a lane loads at once are steps along K of one tile of
 * outputs.
 *
 * Scales and zero points lie as Marlin's kernels take those of many groups, also when there is one.  Symmetric weights
 * have no qzeros.
 *
 * N' is N rounded up to 64.  K' is K rounded up to whole blocks and whole groups, or to whole blocks when there is one
 * group; of several groups the size must be a multiple of 16, so that no step of 16 inputs lies in two.  Codes added
 * along K equal the zero point of their group, and those of outputs and groups that are not there have scales and zero
 * points of 0: all of them stand for exactly 0. */
#include "fragment.h"
#include "layout.h"

enum { BLOCK = 64, STEP = 16 };

#define BITS (1u << 4 | 1u << 8)

struct shape {
    int64_t n, k, groups; /* with padding */
};

static int64_t round_up(int64_t value, int64_t multiple)
{
    return awqi_ceil_div(value, multiple) * multiple;
}

static awq_status find_shape(int64_t n, int64_t k, int64_t group_size, struct shape *shape)
{
    shape->n = round_up(n, BLOCK);
    if (group_size >= k) {
        shape->k = round_up(k, BLOCK);
        shape->groups = 1;
        return AWQ_OK;
    }
    if (group_size % STEP != 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "groups of %lld inputs; the format holds multiples of %d, or one group",
                         (long long)group_size, STEP);
    int64_t multiple = group_size; /* of group_size and BLOCK; STEP divides both */
    while (multiple % BLOCK != 0) multiple += group_size;
    shape->k = round_up(k, multiple);
    shape->groups = shape->k / group_size;
    return AWQ_OK;
}

/* ---- writing */

struct packing {
    const awq_weight *weight;
    struct shape shape;
    uint32_t *qweight;
};

/* The codes of a block, padding included. */
static void load_block(const struct packing *work, int64_t first_row, int64_t first, uint8_t codes[BLOCK][BLOCK])
{
    const awq_weight *weight = work->weight;
    const int64_t group_size = work->shape.groups == 1 ? INT64_MAX : weight->group_size;
    const int64_t count = awqi_max64(0, awqi_min64(BLOCK, weight->k - first));
    memset(codes, 0, BLOCK * BLOCK);
    for (int64_t row = 0; row < BLOCK && first_row + row < weight->n; row++) {
        if (count > 0) awqi_weight_get_codes(weight, first_row + row, first, count, codes[row]);
        for (int64_t i = count; i < BLOCK; i++) {
            const int64_t group = (first + i) / group_size;
            if (group < weight->groups) codes[row][i] = (uint8_t)awqi_weight_zero(weight, first_row + row, group);
        }
    }
}

static void pack_span(void *user_data, int64_t span)
{
    const struct packing *work = user_data;
    const int32_t bits = work->weight->bits;
    uint32_t *words = work->qweight + span * 2 * bits * work->shape.k;
    uint8_t codes[BLOCK][BLOCK];
    for (int64_t block = 0; block < work->shape.k / BLOCK; block++) {
        load_block(work, span * BLOCK, block * BLOCK, codes);
        for (int j = 0; j < 4; j++)
            for (int lane = 0; lane < 32; lane++)
                for (int t = 0; t < 4; t++, words += bits / 4)
                    awqi_fragment_pack(bits, &codes[STEP * j][STEP * t], BLOCK, lane, words);
    }
}

awq_status awqi_cuda_block_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const int32_t dtype = awqi_layout_half_dtype(weight);
    struct shape shape = {0};
    awq_tensor qweight, scales, qzeros;
    awq_status status = awqi_layout_check_bits(weight->bits, BITS);
    if (status == AWQ_OK) status = find_shape(weight->n, weight->k, weight->group_size, &shape);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, shape.n / BLOCK, 2 * weight->bits * shape.k,
                                    &qweight);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[1], dtype, shape.groups, shape.n, &scales);
    if (status == AWQ_OK && !weight->symmetric)
        status =
            awqi_packed_add_2d(packed, layout->planes[2], AWQ_I32, shape.groups, shape.n * weight->bits / 32, &qzeros);
    if (status == AWQ_OK) status = awqi_header_write(weight, dtype, packed);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, true, awqi_marlin_place_grouped);
    if (status != AWQ_OK) return status;
    if (!weight->symmetric) awqi_marlin_pack_zeros(weight, shape.n * weight->bits / 32, qzeros.data);
    struct packing work = {weight, shape, qweight.data};
    awqi_parallel_for(awqi_packed_context(packed), shape.n / BLOCK, pack_span, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    const awq_tensor *qweight;
};

static void unpack_span(void *user_data, int64_t span)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    const uint32_t *words = awqi_tensor_row(work->qweight, span);
    const int64_t step = work->qweight->strides[1];
    uint8_t codes[BLOCK][BLOCK];
    for (int64_t first = 0; first < weight->k; first += BLOCK) {
        for (int j = 0; j < 4; j++)
            for (int lane = 0; lane < 32; lane++)
                for (int t = 0; t < 4; t++, words += weight->bits / 4 * step)
                    awqi_fragment_unpack(weight->bits, words, step, &codes[STEP * j][STEP * t], BLOCK, lane);
        for (int64_t row = 0; row < BLOCK && span * BLOCK + row < weight->n; row++)
            awqi_weight_set_codes(weight, span * BLOCK + row, first, awqi_min64(BLOCK, weight->k - first), codes[row]);
    }
}

awq_status awqi_cuda_block_unpack(const struct awqi_layout *layout, awq_context *context,
                                  const struct awqi_planes *planes, const awq_unpack_options *options,
                                  awq_weight **weight)
{
    const awq_tensor *qweight, *scales, *qzeros = NULL;
    struct awqi_layout_header header;
    struct shape shape = {0};
    awq_status status = awqi_header_read(planes, options, &header);
    if (status == AWQ_OK) status = awqi_layout_check_bits(header.quantizer.bits, BITS);
    if (status == AWQ_OK) status = find_shape(header.n, header.k, header.quantizer.group_size, &shape);
    if (status != AWQ_OK) return status;
    const bool symmetric = header.quantizer.flags & AWQ_QUANTIZE_SYMMETRIC;
    const uint32_t dtype = 1u << header.quantizer.scale_dtype;
    const int64_t bits = header.quantizer.bits;
    status =
        awqi_planes_find(planes, layout->planes[0], true, AWQI_WORDS, shape.n / BLOCK, 2 * bits * shape.k, &qweight);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[1], true, dtype, shape.groups, shape.n, &scales);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], !symmetric, AWQI_WORDS, shape.groups, shape.n * bits / 32,
                                  &qzeros);
    if (status == AWQ_OK && symmetric && qzeros != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "plane %s is given for a symmetric weight", layout->planes[2]);
    if (status == AWQ_OK) status = awqi_header_allocate(context, &header, planes, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true, awqi_marlin_place_grouped);
    if (status == AWQ_OK && !symmetric) status = awqi_marlin_unpack_zeros(*weight, qzeros);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, qweight};
    awqi_parallel_for(context, shape.n / BLOCK, unpack_span, &work);
    return AWQ_OK;
}
