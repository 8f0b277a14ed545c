/* AutoAWQ's and vLLM's "gemm" format, 4 bits, and 8 as vLLM has it:
 *
 *   qweight  I32 [K][N / p]       qzeros  I32 [groups][N / p]       scales  F16 [groups][N]          p = 32 / bits
 *
 * Field i (bits i * bits ..) of word c holds output p c + order[i]. */
#include "layout.h"

/* Inputs at a time, a multiple of 8, and columns of words, which fill a cache line of the format. */
enum { PART = 128, COLUMNS = 16 };

struct fields {
    int bits;
    int per_word;
    uint32_t mask;
    int order[8];
};

static const struct fields fields_of_4 = {4, 8, 15, {0, 2, 4, 6, 1, 3, 5, 7}};
static const struct fields fields_of_8 = {8, 4, 255, {0, 2, 1, 3}};

static awq_status find_fields(int32_t bits, const struct fields **fields)
{
    *fields = bits == 4 ? &fields_of_4 : &fields_of_8;
    return awqi_layout_check_bits(bits, 1u << 4 | 1u << 8);
}

/* ---- writing */

struct packing {
    const awq_weight *weight;
    const struct fields *fields;
    uint32_t *qweight;
};

/* Some word columns of qweight: each the codes of 'per_word' rows, turned. */
static void pack_columns(void *user_data, int64_t task)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    const struct fields *fields = work->fields;
    const int64_t words = weight->n / fields->per_word, column = task * COLUMNS;
    const int64_t columns = awqi_min64(COLUMNS, words - column);
    uint32_t turned[COLUMNS][PART];
    uint8_t codes[PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t c = 0; c < columns; c++) {
            memset(turned[c], 0, sizeof turned[c]);
            for (int i = 0; i < fields->per_word; i++) {
                awqi_weight_get_codes(weight, fields->per_word * (column + c) + fields->order[i], first, count, codes);
                for (int64_t k = 0; k < count; k++) turned[c][k] |= (uint32_t)codes[k] << (fields->bits * i);
            }
        }
        for (int64_t k = 0; k < count; k++)
            for (int64_t c = 0; c < columns; c++) work->qweight[(first + k) * words + column + c] = turned[c][k];
    }
}

static void pack_zeros(const awq_weight *weight, const struct fields *fields, uint32_t *qzeros)
{
    const int64_t words = weight->n / fields->per_word;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t c = 0; c < words; c++)
            for (int i = 0; i < fields->per_word; i++) {
                int32_t zero = awqi_weight_zero(weight, fields->per_word * c + fields->order[i], group);
                qzeros[group * words + c] |= (uint32_t)zero << (fields->bits * i);
            }
}

static awq_status check_weight(const awq_weight *weight, const struct fields **fields)
{
    awq_status status = find_fields(weight->bits, fields);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("outputs", weight->n, (*fields)->per_word);
    if (status == AWQ_OK) status = awqi_layout_refuse_input_scale(weight);
    return status == AWQ_OK ? awqi_layout_refuse_short_group(weight, false) : status;
}

awq_status awqi_gemm_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const struct fields *fields;
    awq_tensor qweight, qzeros, scales;
    awq_status status = check_weight(weight, &fields);
    const int64_t n = weight->n, groups = weight->groups, words = n / fields->per_word;
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, weight->k, words, &qweight);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[1], AWQ_I32, groups, words, &qzeros);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[2], AWQ_F16, groups, n, &scales);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, true, NULL);
    if (status != AWQ_OK) return status;
    pack_zeros(weight, fields, qzeros.data);
    struct packing work = {weight, fields, qweight.data};
    awqi_parallel_for(awqi_packed_context(packed), awqi_ceil_div(words, COLUMNS), pack_columns, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    const struct fields *fields;
    const awq_tensor *qweight;
};

static void unpack_columns(void *user_data, int64_t task)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    const struct fields *fields = work->fields;
    const int64_t column = task * COLUMNS, columns = awqi_min64(COLUMNS, work->qweight->shape[1] - column);
    const int64_t *strides = work->qweight->strides;
    const uint32_t *from = (const uint32_t *)awqi_tensor_data(work->qweight) + column * strides[1];
    uint32_t turned[COLUMNS][PART];
    uint8_t codes[PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t k = 0; k < count; k++) {
            const uint32_t *row = from + (first + k) * strides[0];
            for (int64_t c = 0; c < columns; c++) turned[c][k] = row[c * strides[1]];
        }
        for (int64_t c = 0; c < columns; c++)
            for (int i = 0; i < fields->per_word; i++) {
                for (int64_t k = 0; k < count; k++)
                    codes[k] = (uint8_t)(turned[c][k] >> (fields->bits * i) & fields->mask);
                awqi_weight_set_codes(weight, fields->per_word * (column + c) + fields->order[i], first, count, codes);
            }
    }
}

static awq_status unpack_zeros(awq_weight *weight, const struct fields *fields, const awq_tensor *qzeros)
{
    awq_status status = AWQ_OK;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t c = 0; c < weight->n / fields->per_word; c++) {
            uint32_t word = awqi_plane_word(qzeros, group, c);
            for (int i = 0; i < fields->per_word && status == AWQ_OK; i++, word >>= fields->bits)
                status = awqi_layout_set_zero(weight, fields->per_word * c + fields->order[i], group,
                                              (int32_t)(word & fields->mask));
        }
    return status;
}

awq_status awqi_gemm_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                            const awq_unpack_options *options, awq_weight **weight)
{
    const struct fields *fields;
    const awq_tensor *qweight, *qzeros, *scales;
    struct awqi_quantizer quantizer;
    awq_status status = find_fields(options->bits, &fields);
    if (status == AWQ_OK) status = awqi_planes_find_codes(planes, layout->planes[0], AWQI_WORDS, &qweight);
    if (status != AWQ_OK) return status;
    const int64_t k = qweight->shape[0], words = qweight->shape[1], n = fields->per_word * words;
    status = awqi_planes_find(planes, layout->planes[1], true, AWQI_WORDS, -1, words, &qzeros);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], true, 1u << AWQ_F16, qzeros->shape[0], n, &scales);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, qzeros->shape[0], AWQ_F16, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true, NULL);
    if (status == AWQ_OK) status = unpack_zeros(*weight, fields, qzeros);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, fields, qweight};
    awqi_parallel_for(context, awqi_ceil_div(words, COLUMNS), unpack_columns, &work);
    return AWQ_OK;
}
