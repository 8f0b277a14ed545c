/* AutoAWQ's and vLLM's "gemm" format, 4 bits:
 *
 *   qweight  I32 [K][N/8]       qzeros  I32 [groups][N/8]       scales  F16 [groups][N]
 *
 * Field i (bits 4i .. 4i+3) of word c holds output 8c + order[i]. */
#include "layout.h"

static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

enum { PART = 256 }; /* inputs at a time, a multiple of 8 */

#define WORDS (1u << AWQ_I32 | 1u << AWQ_U32)

/* ---- writing */

static awq_status check_weight(const awq_weight *weight)
{
    if (weight->bits != 4)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the weight has %d bits; the format holds 4", weight->bits);
    if (weight->n % 8 != 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the weight has %lld outputs; the format holds multiples of 8",
                         (long long)weight->n);
    return awqi_layout_check_weight(weight, false);
}

struct packing {
    const awq_weight *weight;
    uint32_t *qweight;
};

/* Word column 'c' of qweight: the codes of 8 rows, turned. */
static void pack_column(void *user_data, int64_t c)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    const int64_t words = weight->n / 8;
    uint8_t codes[8][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        for (int i = 0; i < 8; i++) awqi_weight_get_codes(weight, 8 * c + order[i], first, count, codes[i]);
        for (int64_t k = 0; k < count; k++) {
            uint32_t word = 0;
            for (int i = 0; i < 8; i++) word |= (uint32_t)codes[i][k] << (4 * i);
            work->qweight[(first + k) * words + c] = word;
        }
    }
}

static void pack_zeros(const awq_weight *weight, uint32_t *qzeros)
{
    const int64_t words = weight->n / 8;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t c = 0; c < words; c++) {
            uint32_t word = 0;
            for (int i = 0; i < 8; i++)
                word |= (uint32_t)awqi_weight_zero(weight, 8 * c + order[i], group) << (4 * i);
            qzeros[group * words + c] = word;
        }
}

static awq_status pack_scales(const awq_weight *weight, uint16_t *scales)
{
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++) {
            float scale = awqi_weight_scale(weight, row, group);
            uint16_t half = awqi_f32_to_f16(scale);
            if (awqi_f16_to_f32(half) != scale)
                return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                                 "the %s scale %.9g of row %lld, group %lld is no F16 number, as the format needs",
                                 awq_dtype_name(weight->scale_dtype), (double)scale, (long long)row, (long long)group);
            scales[group * weight->n + row] = half;
        }
    return AWQ_OK;
}

awq_status awqi_gemm_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    awq_status status = check_weight(weight);
    const int64_t words = weight->n / 8;
    void *qweight, *qzeros, *scales;
    if (status == AWQ_OK)
        status = awqi_packed_add(packed, layout->planes[0], AWQ_I32, 2, (const int64_t[]){weight->k, words}, &qweight);
    if (status == AWQ_OK)
        status =
            awqi_packed_add(packed, layout->planes[1], AWQ_I32, 2, (const int64_t[]){weight->groups, words}, &qzeros);
    if (status == AWQ_OK)
        status = awqi_packed_add(packed, layout->planes[2], AWQ_F16, 2, (const int64_t[]){weight->groups, weight->n},
                                 &scales);
    if (status == AWQ_OK) status = pack_scales(weight, scales);
    if (status != AWQ_OK) return status;
    pack_zeros(weight, qzeros);
    struct packing work = {weight, qweight};
    awqi_parallel_for(awqi_packed_context(packed), words, pack_column, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    const awq_tensor *qweight;
    const awq_tensor *qzeros;
};

static void unpack_column(void *user_data, int64_t c)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    uint8_t codes[8][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t k = 0; k < count; k++) {
            uint32_t word = awqi_plane_word(work->qweight, first + k, c);
            for (int i = 0; i < 8; i++) codes[i][k] = word >> (4 * i) & 15;
        }
        for (int i = 0; i < 8; i++) awqi_weight_set_codes(weight, 8 * c + order[i], first, count, codes[i]);
    }
    for (int64_t group = 0; group < weight->groups; group++) {
        uint32_t word = awqi_plane_word(work->qzeros, group, c);
        for (int i = 0; i < 8; i++) weight->zeros[(8 * c + order[i]) * weight->groups + group] = word >> (4 * i) & 15;
    }
}

awq_status awqi_gemm_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                            const awq_unpack_options *options, awq_weight **weight)
{
    if (options->bits != 4)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%d bits asked for; the format holds 4", options->bits);
    if (options->flags & AWQ_QUANTIZE_SYMMETRIC)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                         "the format always has zero points; symmetric weights are read with zero points of 8");
    const awq_tensor *qweight, *qzeros, *scales;
    awq_status status = awqi_planes_find(planes, layout->planes[0], true, WORDS, -1, -1, &qweight);
    if (status != AWQ_OK) return status;
    const int64_t k = qweight->shape[0], words = qweight->shape[1];
    if (words < 1 || words > INT64_MAX / 8)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: %lld words per row", layout->planes[0], (long long)words);
    status = awqi_planes_find(planes, layout->planes[1], true, WORDS, -1, words, &qzeros);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], true, 1u << AWQ_F16, qzeros->shape[0], 8 * words, &scales);
    struct awqi_quantizer quantizer;
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, qzeros->shape[0], AWQ_F16, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, 8 * words, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, qweight, qzeros};
    awqi_parallel_for(context, words, unpack_column, &work);
    return AWQ_OK;
}
