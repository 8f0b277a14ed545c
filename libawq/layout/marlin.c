/* The format of IST-DASLab's Marlin kernels, as AutoAWQ writes it and vLLM extends it; 4 and 8 bits:
 *
 *   qweight  I32 [K / 16][N bits / 2]       scales  F16 or BF16 [groups][N]       qzeros  I32 [groups][N bits / 32]
 *
 * A row of qweight holds, for each 64 outputs, the tiles of 16 outputs j = 0 .. 3 in the order of fragment.h: the 4-bit
 * word of lane l of tile j is word 4 l + j, its two 8-bit words are 8 l + 2 j and the next.
 *
 * Outputs of scales are permuted by 64, or by 32 when there is one group.  Zero points, which only vLLM's kernels take,
 * are permuted by 64 always and then fill words in the order that gemm has.  Symmetric weights have none. */
#include "fragment.h"
#include "layout.h"

enum { TILE = 16, SPAN = 64, PART = 128 }; /* of K; of N; inputs at a time, a multiple of TILE */

int64_t awqi_marlin_place_grouped(int64_t output)
{
    const int64_t within = output % SPAN;
    return output - within + 8 * (within % 8) + within / 8;
}

int64_t awqi_marlin_place_single(int64_t output)
{
    const int64_t within = output % 32;
    return output - within + 8 * (within % 8 / 2) + 2 * (within / 8) + within % 2;
}

static awqi_place *scale_place(int64_t groups)
{
    return groups == 1 ? awqi_marlin_place_single : awqi_marlin_place_grouped;
}

/* ---- zero points */

/* The word of a row of qzeros that holds output 'row', and the bit where it begins. */
static int64_t find_zero(int32_t bits, int64_t row, int *bit)
{
    static const uint8_t field_of_4[8] = {0, 4, 1, 5, 2, 6, 3, 7}, field_of_8[4] = {0, 2, 1, 3};
    const int64_t placed = awqi_marlin_place_grouped(row);
    *bit = bits == 4 ? 4 * field_of_4[placed % 8] : 8 * field_of_8[placed % 4];
    return placed / (32 / bits);
}

void awqi_marlin_pack_zeros(const awq_weight *weight, int64_t row_words, uint32_t *qzeros)
{
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t row = 0; row < weight->n; row++) {
            int bit;
            const int64_t word = find_zero(weight->bits, row, &bit);
            qzeros[group * row_words + word] |= (uint32_t)awqi_weight_zero(weight, row, group) << bit;
        }
}

awq_status awqi_marlin_unpack_zeros(awq_weight *weight, const awq_tensor *qzeros)
{
    awq_status status = AWQ_OK;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t row = 0; row < weight->n && status == AWQ_OK; row++) {
            int bit;
            const int64_t word = find_zero(weight->bits, row, &bit);
            const uint32_t zero = awqi_plane_word(qzeros, group, word) >> bit;
            status = awqi_layout_set_zero(weight, row, group, (int32_t)(zero & ((1u << weight->bits) - 1)));
        }
    return status;
}

/* ---- one row of tiles: 64 outputs by 16 inputs, codes[output][PART] */

static void pack_tiles(int32_t bits, const uint8_t *codes, uint32_t *words)
{
    for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++, words += bits / 4)
            awqi_fragment_pack(bits, codes + TILE * j * PART, PART, lane, words);
}

static void unpack_tiles(int32_t bits, const uint32_t *words, int64_t step, uint8_t *codes)
{
    for (int lane = 0; lane < 32; lane++)
        for (int j = 0; j < 4; j++, words += bits / 4 * step)
            awqi_fragment_unpack(bits, words, step, codes + TILE * j * PART, PART, lane);
}

/* ---- writing */

static awq_status check_weight(const awq_weight *weight)
{
    awq_status status = awqi_layout_check_bits(weight->bits, 1u << 4 | 1u << 8);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("outputs", weight->n, SPAN);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("inputs", weight->k, TILE);
    if (status == AWQ_OK) status = awqi_layout_refuse_input_scale(weight);
    return status == AWQ_OK ? awqi_layout_refuse_short_group(weight, false) : status;
}

struct packing {
    const awq_weight *weight;
    uint32_t *qweight;
};

static void pack_span(void *user_data, int64_t span)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    const int64_t row_words = weight->n * weight->bits / 2, span_words = SPAN * weight->bits / 2;
    uint8_t codes[SPAN][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int row = 0; row < SPAN; row++) awqi_weight_get_codes(weight, SPAN * span + row, first, count, codes[row]);
        for (int64_t k = 0; k < count; k += TILE)
            pack_tiles(weight->bits, codes[0] + k, work->qweight + (first + k) / TILE * row_words + span * span_words);
    }
}

awq_status awqi_marlin_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const int64_t n = weight->n, groups = weight->groups;
    const int32_t dtype = awqi_layout_half_dtype(weight);
    awq_tensor qweight, scales, qzeros;
    awq_status status = check_weight(weight);
    if (status == AWQ_OK)
        status =
            awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, weight->k / TILE, n * weight->bits / 2, &qweight);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[1], dtype, groups, n, &scales);
    if (status == AWQ_OK && !weight->symmetric)
        status = awqi_packed_add_2d(packed, layout->planes[2], AWQ_I32, groups, n * weight->bits / 32, &qzeros);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, true, scale_place(groups));
    if (status != AWQ_OK) return status;
    if (!weight->symmetric) awqi_marlin_pack_zeros(weight, n * weight->bits / 32, qzeros.data);
    struct packing work = {weight, qweight.data};
    awqi_parallel_for(awqi_packed_context(packed), n / SPAN, pack_span, &work);
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
    const int64_t step = work->qweight->strides[1], span_words = SPAN * weight->bits / 2;
    uint8_t codes[SPAN][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t k = 0; k < count; k += TILE) {
            const uint32_t *words = awqi_tensor_row(work->qweight, (first + k) / TILE);
            unpack_tiles(weight->bits, words + span * span_words * step, step, codes[0] + k);
        }
        for (int row = 0; row < SPAN; row++) awqi_weight_set_codes(weight, SPAN * span + row, first, count, codes[row]);
    }
}

awq_status awqi_marlin_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                              const awq_unpack_options *options, awq_weight **weight)
{
    const bool symmetric = options->flags & AWQ_QUANTIZE_SYMMETRIC;
    const awq_tensor *qweight, *scales, *qzeros;
    struct awqi_quantizer quantizer;
    awq_status status = awqi_layout_check_bits(options->bits, 1u << 4 | 1u << 8);
    if (status == AWQ_OK) status = awqi_planes_find_codes(planes, layout->planes[0], AWQI_WORDS, &qweight);
    if (status != AWQ_OK) return status;
    const int64_t k = TILE * qweight->shape[0], n = qweight->shape[1] * 2 / options->bits;
    if (n % SPAN != 0 || n * options->bits != 2 * qweight->shape[1])
        return awqi_fail(AWQ_ERROR_INVALID, "%s: %lld words per row; 64 outputs have %d", layout->planes[0],
                         (long long)qweight->shape[1], SPAN * options->bits / 2);
    status = awqi_planes_find(planes, layout->planes[1], true, 1u << AWQ_F16 | 1u << AWQ_BF16, -1, n, &scales);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], !symmetric, AWQI_WORDS, scales->shape[0],
                                  n * options->bits / 32, &qzeros);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, scales->shape[0], scales->dtype, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true, scale_place((*weight)->groups));
    if (status == AWQ_OK && qzeros != NULL) status = awqi_marlin_unpack_zeros(*weight, qzeros);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, qweight};
    awqi_parallel_for(context, n / SPAN, unpack_span, &work);
    return AWQ_OK;
}
