/* What packed formats share: finding planes among those given, and moving scales and zero points. */
#include "layout.h"

#include <math.h>
#include <stdio.h>

/* ---- what a format can hold */

awq_status awqi_layout_refuse_input_scale(const awq_weight *weight)
{
    if (weight->input_scale == NULL) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                     "the weight has an input scale, which must be folded into the operation before "
                     "(AWQ_QUANTIZE_INPUT_SCALE_FOLDED)");
}

awq_status awqi_layout_refuse_short_group(const awq_weight *weight, bool single_may_be_short)
{
    const int64_t rest = weight->k % weight->group_size;
    if (rest == 0 || (single_may_be_short && weight->groups == 1)) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the last group has %lld of %lld inputs (K = %lld)", (long long)rest,
                     (long long)weight->group_size, (long long)weight->k);
}

awq_status awqi_layout_check_bits(int32_t bits, uint32_t allowed)
{
    if (bits >= 0 && bits < 32 && allowed >> bits & 1u) return AWQ_OK;
    char list[32] = "";
    for (int i = 0; i < 32; i++)
        if (allowed >> i & 1u) {
            size_t length = strlen(list);
            snprintf(list + length, sizeof list - length, "%s%d", length > 0 ? ", " : "", i);
        }
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the weight has %d bits; the format holds %s", bits, list);
}

awq_status awqi_layout_check_multiple(const char *what, int64_t count, int64_t multiple)
{
    if (count % multiple == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "the weight has %lld %s; the format holds multiples of %lld",
                     (long long)count, what, (long long)multiple);
}

/* ---- planes */

const awq_tensor *awqi_planes_get(const struct awqi_planes *planes, const char *name)
{
    for (size_t i = 0; i < planes->count; i++)
        if (strcmp(planes->names[i], name) == 0) return planes->tensors[i];
    return NULL;
}

awq_status awqi_planes_find(const struct awqi_planes *planes, const char *name, bool required, uint32_t dtypes,
                            int64_t rows, int64_t columns, const awq_tensor **plane)
{
    *plane = awqi_planes_get(planes, name);
    if (*plane == NULL) return required ? awqi_fail(AWQ_ERROR_INVALID, "plane %s is missing", name) : AWQ_OK;
    awq_status status = awqi_check_tensor(*plane, 2, dtypes, name);
    if (status != AWQ_OK) return status;
    const int64_t *shape = (*plane)->shape;
    return awqi_check_shape_2d(*plane, rows >= 0 ? rows : shape[0], columns >= 0 ? columns : shape[1], name);
}

awq_status awqi_planes_find_codes(const struct awqi_planes *planes, const char *name, uint32_t dtypes,
                                  const awq_tensor **plane)
{
    awq_status status = awqi_planes_find(planes, name, true, dtypes, -1, -1, plane);
    if (status != AWQ_OK) return status;
    const int64_t *shape = (*plane)->shape;
    if (shape[0] >= 1 && shape[1] >= 1 && shape[0] <= INT64_MAX / 64 && shape[1] <= INT64_MAX / 64) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: shape [%lld][%lld]", name, (long long)shape[0], (long long)shape[1]);
}

awq_status awqi_layout_resolve(const awq_unpack_options *options, int64_t k, int64_t groups, int32_t scale_dtype,
                               struct awqi_quantizer *quantizer)
{
    awq_quantize_options format;
    awq_struct_init(&format, sizeof format);
    format.bits = options->bits;
    format.group_size = options->group_size;
    format.scale_dtype = scale_dtype;
    format.flags = options->flags;
    if (k < 1 || groups < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "a weight of %lld inputs in %lld groups", (long long)k, (long long)groups);
    if (format.group_size == 0) {
        if (k % groups != 0)
            return awqi_fail(AWQ_ERROR_INVALID, "%lld groups do not divide %lld inputs; say the group_size",
                             (long long)groups, (long long)k);
        format.group_size = k / groups;
    }
    awq_status status = awqi_quantizer_resolve(&format, k, quantizer);
    if (status == AWQ_OK && awqi_ceil_div(k, quantizer->group_size) != groups)
        return awqi_fail(AWQ_ERROR_INVALID, "%lld groups of scales, but groups of %lld make %lld of %lld inputs",
                         (long long)groups, (long long)quantizer->group_size,
                         (long long)awqi_ceil_div(k, quantizer->group_size), (long long)k);
    return status;
}

/* ---- scales and zero points */

/* The address of the scale of a group in a plane of them. */
static unsigned char *find_scale(const awq_tensor *plane, bool transposed, awqi_place *place, int64_t row,
                                 int64_t group)
{
    if (place != NULL) row = place(row);
    const int64_t i = transposed ? group : row, j = transposed ? row : group;
    return (unsigned char *)awqi_tensor_data(plane) +
           (i * plane->strides[0] + j * plane->strides[1]) * (int64_t)awq_dtype_size(plane->dtype);
}

awq_status awqi_layout_refuse_scale(const awq_weight *weight, int64_t row, int64_t group, int32_t dtype)
{
    return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                     "the %s scale %.9g of row %lld, group %lld is no %s number, and the format holds %s scales",
                     awq_dtype_name(weight->scale_dtype), (double)awqi_weight_scale(weight, row, group), (long long)row,
                     (long long)group, awq_dtype_name(dtype), awq_dtype_name(dtype));
}

awq_status awqi_layout_write_scales(const awq_weight *weight, const awq_tensor *plane, bool transposed,
                                    awqi_place *place)
{
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++) {
            const float scale = awqi_weight_scale(weight, row, group);
            if (awqi_round_to(plane->dtype, scale) != scale)
                return awqi_layout_refuse_scale(weight, row, group, plane->dtype);
            awqi_from_f32(plane->dtype, &scale, find_scale(plane, transposed, place, row, group), 1);
        }
    return AWQ_OK;
}

awq_status awqi_layout_read_scales(awq_weight *weight, const awq_tensor *plane, bool transposed, awqi_place *place)
{
    const size_t size = awq_dtype_size(plane->dtype);
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++) {
            const unsigned char *from = find_scale(plane, transposed, place, row, group);
            float scale;
            awqi_to_f32(plane->dtype, from, &scale, 1);
            if (!isfinite(scale))
                return awqi_fail(AWQ_ERROR_NON_FINITE, "the scale of row %lld, group %lld is %g", (long long)row,
                                 (long long)group, (double)scale);
            memcpy((unsigned char *)awqi_weight_scales(weight, row) + (size_t)group * size, from, size);
        }
    return AWQ_OK;
}

awq_status awqi_layout_set_zero(awq_weight *weight, int64_t row, int64_t group, int32_t zero)
{
    if (!weight->symmetric) {
        weight->zeros[row * weight->groups + group] = (uint8_t)zero;
        return AWQ_OK;
    }
    if (zero == awqi_weight_zero(weight, row, group)) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID,
                     "the zero point of row %lld, group %lld is %d, but those of a symmetric weight of %d bits are %d",
                     (long long)row, (long long)group, zero, weight->bits, 1 << (weight->bits - 1));
}
