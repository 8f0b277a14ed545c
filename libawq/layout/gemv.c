/* AutoAWQ's "gemv" format, 4 bits:
 *
 *   qweight  I32 [N][K / 8]       qzeros  I32 [N][w]       scales  F16 [N][8 w]
 *
 * Codes along K and zero points along the groups fill the fields of words from the lowest up; w words are enough for
 * the zero points of a row, rounded up for the kernels, and what they leave is 0. */
#include "layout.h"

awq_status awqi_gemv_zeros_width(int64_t groups, int64_t group_size, int64_t *words)
{
    const int64_t multiple = group_size >= 128 ? 1 : group_size == 64 ? 2 : group_size == 32 ? 4 : 0;
    if (multiple == 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                         "groups of %lld inputs; the format holds groups of 32, of 64, and of 128 and more",
                         (long long)group_size);
    *words = awqi_ceil_div(awqi_ceil_div(groups, 8), multiple) * multiple;
    return AWQ_OK;
}

awq_status awqi_gemv_group_size(const awq_unpack_options *options, int64_t k, int64_t *group_size)
{
    *group_size = options->group_size == AWQ_GROUP_PER_ROW ? k : options->group_size;
    if (*group_size == 0)
        return awqi_fail(AWQ_ERROR_INVALID, "the padded planes do not tell the group_size; the options must");
    if (*group_size < 0 || k % *group_size != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "a group_size of %lld does not divide %lld inputs", (long long)*group_size,
                         (long long)k);
    return AWQ_OK;
}

static awq_status check_weight(const awq_weight *weight, int64_t *words)
{
    awq_status status = awqi_layout_check_bits(weight->bits, 1u << 4);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("inputs", weight->k, 8);
    if (status == AWQ_OK) status = awqi_layout_refuse_input_scale(weight);
    if (status == AWQ_OK) status = awqi_layout_refuse_short_group(weight, false);
    return status == AWQ_OK ? awqi_gemv_zeros_width(weight->groups, weight->group_size, words) : status;
}

awq_status awqi_gemv_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    const int64_t n = weight->n, row_words = weight->k / 8;
    int64_t width = 0;
    awq_tensor qweight, qzeros, scales;
    awq_status status = check_weight(weight, &width);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I32, n, row_words, &qweight);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[1], AWQ_I32, n, width, &qzeros);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[2], AWQ_F16, n, 8 * width, &scales);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, false, NULL);
    if (status != AWQ_OK) return status;
    uint32_t *codes = qweight.data, *zeros = qzeros.data;
    for (int64_t row = 0; row < n; row++) {
        for (int64_t word = 0; word < row_words; word++)
            codes[row * row_words + word] = awqi_weight_get_word(weight, row, word);
        for (int64_t group = 0; group < weight->groups; group++)
            awqi_words_put(zeros + row * width, 1, 4, group, (uint32_t)awqi_weight_zero(weight, row, group));
    }
    return AWQ_OK;
}

static awq_status unpack_row(awq_weight *weight, const awq_tensor *qweight, const awq_tensor *qzeros, int64_t row)
{
    awq_status status = AWQ_OK;
    for (int64_t word = 0; word < weight->k / 8; word++)
        awqi_weight_set_word(weight, row, word, awqi_plane_word(qweight, row, word));
    const uint32_t *zeros = awqi_tensor_row(qzeros, row);
    for (int64_t group = 0; group < weight->groups && status == AWQ_OK; group++)
        status = awqi_layout_set_zero(weight, row, group, awqi_words_get(zeros, qzeros->strides[1], 4, group));
    return status;
}

awq_status awqi_gemv_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                            const awq_unpack_options *options, awq_weight **weight)
{
    const awq_tensor *qweight, *qzeros, *scales;
    int64_t group_size, width = 0;
    struct awqi_quantizer quantizer;
    awq_status status = awqi_layout_check_bits(options->bits, 1u << 4);
    if (status == AWQ_OK) status = awqi_planes_find_codes(planes, layout->planes[0], AWQI_WORDS, &qweight);
    if (status != AWQ_OK) return status;
    const int64_t n = qweight->shape[0], k = 8 * qweight->shape[1];
    status = awqi_gemv_group_size(options, k, &group_size);
    if (status == AWQ_OK) status = awqi_gemv_zeros_width(k / group_size, group_size, &width);
    if (status == AWQ_OK) status = awqi_planes_find(planes, layout->planes[1], true, AWQI_WORDS, n, width, &qzeros);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], true, 1u << AWQ_F16, n, 8 * width, &scales);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, k / group_size, AWQ_F16, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, false, NULL);
    for (int64_t row = 0; row < n && status == AWQ_OK; row++) status = unpack_row(*weight, qweight, qzeros, row);
    return status;
}
