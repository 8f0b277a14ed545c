/* GPTQ's formats, as AutoGPTQ ("gptq", v1) and GPTQModel ("gptq_v2") write them; 2, 3, 4 and 8 bits:
 *
 *   qweight  I32 [K bits / 32][N]      qzeros  I32 [groups][N bits / 32]
 *   scales   F16 [groups][N]           g_idx   I32 [K]
 *
 * Codes are dense along K, zero points along N, lowest bits first: 32 three-bit codes fill three words.  g_idx names
 * the group of each input; only ascending groups are read.  The last group may be short.
 *
 * v1 stores each zero point less one.  What a zero point of 0 becomes there differs between the tools, some of which
 * wrap within the field and some of which borrow from the next, so it is neither written nor read; v2 stores it as it
 * is. */
#include "layout.h"

#define BITS (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)

enum { ROWS = 16 }; /* of the weight at a time: a cache line of words in every row of qweight */

/* What v1 takes from a zero point. */
static int32_t zero_offset(const struct awqi_layout *layout)
{
    return layout->id == AWQ_LAYOUT_GPTQ_V1;
}

static awq_status refuse_zero(int64_t row, int64_t group, const char *how)
{
    return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                     "the zero point of row %lld, group %lld is %s, for which the tools of GPTQ v1 have no common "
                     "form; v2 has",
                     (long long)row, (long long)group, how);
}

/* ---- writing */

static awq_status check_weight(const awq_weight *weight)
{
    const int64_t multiple = weight->bits == 3 ? 32 : 32 / weight->bits;
    awq_status status = awqi_layout_check_bits(weight->bits, BITS);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("outputs", weight->n, multiple);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("inputs", weight->k, multiple);
    if (status == AWQ_OK && weight->k > INT32_MAX)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%lld inputs; g_idx counts in 32 bits", (long long)weight->k);
    return status == AWQ_OK ? awqi_layout_refuse_input_scale(weight) : status;
}

struct packing {
    const awq_weight *weight;
    uint32_t *qweight;
};

/* The stream of codes that a weight keeps for a row is a column of qweight. */
static void pack_rows(void *user_data, int64_t block)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    const int64_t first = ROWS * block, end = awqi_min64(first + ROWS, weight->n);
    for (int64_t word = 0; word < (int64_t)weight->row_bytes / 4; word++)
        for (int64_t row = first; row < end; row++)
            work->qweight[word * weight->n + row] = awqi_weight_get_word(weight, row, word);
}

static awq_status pack_zeros(const struct awqi_layout *layout, const awq_weight *weight, uint32_t *qzeros)
{
    const int64_t words = weight->n * weight->bits / 32;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t row = 0; row < weight->n; row++) {
            const int32_t zero = awqi_weight_zero(weight, row, group) - zero_offset(layout);
            if (zero < 0) return refuse_zero(row, group, "0");
            awqi_words_put(qzeros + group * words, 1, weight->bits, row, (uint32_t)zero);
        }
    return AWQ_OK;
}

awq_status awqi_gptq_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const int64_t n = weight->n, k = weight->k, groups = weight->groups;
    awq_tensor qweight, qzeros, scales;
    void *group_index;
    awq_status status = check_weight(weight);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, (int64_t)weight->row_bytes / 4, n, &qweight);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[1], AWQ_I32, groups, n * weight->bits / 32, &qzeros);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[2], AWQ_F16, groups, n, &scales);
    if (status == AWQ_OK) status = awqi_packed_add(packed, layout->planes[3], AWQ_I32, 1, &k, &group_index);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, true, NULL);
    if (status == AWQ_OK) status = pack_zeros(layout, weight, qzeros.data);
    if (status != AWQ_OK) return status;
    for (int64_t i = 0; i < k; i++) ((int32_t *)group_index)[i] = (int32_t)(i / weight->group_size);
    struct packing work = {weight, qweight.data};
    awqi_parallel_for(awqi_packed_context(packed), awqi_ceil_div(n, ROWS), pack_rows, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    const awq_tensor *qweight;
};

static void unpack_rows(void *user_data, int64_t block)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    const int64_t first = ROWS * block, end = awqi_min64(first + ROWS, weight->n);
    for (int64_t word = 0; word < (int64_t)weight->row_bytes / 4; word++)
        for (int64_t row = first; row < end; row++)
            awqi_weight_set_word(weight, row, word, awqi_plane_word(work->qweight, word, row));
}

static awq_status unpack_zeros(const struct awqi_layout *layout, awq_weight *weight, const awq_tensor *qzeros)
{
    const int32_t most = (1 << weight->bits) - 1;
    awq_status status = AWQ_OK;
    for (int64_t group = 0; group < weight->groups; group++) {
        const uint32_t *words = awqi_tensor_row(qzeros, group);
        for (int64_t row = 0; row < weight->n && status == AWQ_OK; row++) {
            const int32_t zero = awqi_words_get(words, qzeros->strides[1], weight->bits, row) + zero_offset(layout);
            if (zero > most) return refuse_zero(row, group, "stored as all ones");
            status = awqi_layout_set_zero(weight, row, group, zero);
        }
    }
    return status;
}

/* Group indices that ascend say nothing new; others are those of act-order. */
static awq_status check_group_index(const awq_weight *weight, const awq_tensor *plane, const char *name)
{
    if (plane == NULL) return AWQ_OK;
    awq_status status = awqi_check_tensor(plane, 1, 1u << AWQ_I32, name);
    if (status == AWQ_OK) status = awqi_check_shape_1d(plane, weight->k, name);
    if (status != AWQ_OK) return status;
    const int32_t *index = awqi_tensor_data(plane);
    for (int64_t i = 0; i < weight->k; i++) {
        const int32_t group = index[i * plane->strides[0]];
        if (group != i / weight->group_size)
            return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                             "%s: input %lld is in group %d, not %lld: groups in the order of activations "
                             "(desc_act) are not read",
                             name, (long long)i, group, (long long)(i / weight->group_size));
    }
    return AWQ_OK;
}

awq_status awqi_gptq_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                            const awq_unpack_options *options, awq_weight **weight)
{
    const awq_tensor *qweight, *qzeros, *scales;
    struct awqi_quantizer quantizer;
    awq_status status = awqi_layout_check_bits(options->bits, BITS);
    if (status == AWQ_OK) status = awqi_planes_find_codes(planes, layout->planes[0], AWQI_WORDS, &qweight);
    if (status != AWQ_OK) return status;
    const int64_t bits = options->bits, words = qweight->shape[0], n = qweight->shape[1], k = 32 * words / bits;
    if (k * bits != 32 * words || n * bits % 32 != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: shape [%lld][%lld] holds no whole number of %d-bit codes",
                         layout->planes[0], (long long)words, (long long)n, options->bits);
    status = awqi_planes_find(planes, layout->planes[1], true, AWQI_WORDS, -1, n * bits / 32, &qzeros);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], true, 1u << AWQ_F16, qzeros->shape[0], n, &scales);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, qzeros->shape[0], AWQ_F16, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK)
        status = check_group_index(*weight, awqi_planes_get(planes, layout->planes[3]), layout->planes[3]);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true, NULL);
    if (status == AWQ_OK) status = unpack_zeros(layout, *weight, qzeros);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, qweight};
    awqi_parallel_for(context, awqi_ceil_div(n, ROWS), unpack_rows, &work);
    return AWQ_OK;
}
