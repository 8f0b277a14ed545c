/* The planes by which this library's own formats describe themselves:
 *
 *   header       I64 [7] = {version, N, K, group_size, bits, symmetric, dtype of the scales}
 *   input_scale  F32 [K], if the weight has one
 *   salient_columns  I32 [S] and  salient_values  F16 [N][S], if the weight has such: what is added to those columns
 *
 * The version counts changes of these formats; a pack of another version is refused instead of misread, as are planes
 * that a version does not know. */
#include "layout.h"

static const char header_name[] = "header", input_scale_name[] = "input_scale";
static const char salient_columns_name[] = "salient_columns", salient_values_name[] = "salient_values";

enum { VERSION = 1, FIELDS = 7 };

static awq_status write_salient(const awq_weight *weight, awq_packed *packed)
{
    const int64_t count = weight->salient_count;
    awq_tensor columns, values;
    void *memory;
    awq_status status = awqi_packed_add(packed, salient_columns_name, AWQ_I32, 1, &count, &memory);
    if (status != AWQ_OK) return status;
    awq_tensor_init_1d(&columns, memory, AWQ_I32, count);
    status = awqi_packed_add_2d(packed, salient_values_name, AWQ_F16, weight->n, count, &values);
    return status == AWQ_OK ? awq_weight_export_salient(weight, &columns, &values) : status;
}

awq_status awqi_header_write(const awq_weight *weight, int32_t scale_dtype, awq_packed *packed)
{
    void *header, *input_scale;
    awq_status status = awqi_packed_add(packed, header_name, AWQ_I64, 1, (const int64_t[]){FIELDS}, &header);
    if (status != AWQ_OK) return status;
    const int64_t fields[FIELDS] = {VERSION,      weight->n,         weight->k,  weight->group_size,
                                    weight->bits, weight->symmetric, scale_dtype};
    memcpy(header, fields, sizeof fields);
    if (weight->input_scale != NULL) {
        status = awqi_packed_add(packed, input_scale_name, AWQ_F32, 1, &weight->k, &input_scale);
        if (status == AWQ_OK) memcpy(input_scale, weight->input_scale, (size_t)weight->k * sizeof(float));
    }
    return status == AWQ_OK && weight->salient_count > 0 ? write_salient(weight, packed) : status;
}

static awq_status read_fields(const struct awqi_planes *planes, int64_t fields[FIELDS])
{
    const awq_tensor *plane = awqi_planes_get(planes, header_name);
    if (plane == NULL) return awqi_fail(AWQ_ERROR_INVALID, "plane %s is missing", header_name);
    awq_status status = awqi_check_tensor(plane, 1, 1u << AWQ_I64, header_name);
    if (status == AWQ_OK && plane->shape[0] < 1) status = awqi_fail(AWQ_ERROR_INVALID, "%s: it is empty", header_name);
    if (status != AWQ_OK) return status;
    const int64_t *values = awqi_tensor_data(plane);
    if (values[0] != VERSION)
        return awqi_fail(AWQ_ERROR_VERSION, "%s: version %lld; this library reads %d", header_name,
                         (long long)values[0], VERSION);
    status = awqi_check_shape_1d(plane, FIELDS, header_name);
    for (int i = 0; status == AWQ_OK && i < FIELDS; i++) fields[i] = values[i * plane->strides[0]];
    return status;
}

static awq_status check_options(const awq_unpack_options *options, const struct awqi_layout_header *header)
{
    const struct awqi_quantizer *quantizer = &header->quantizer;
    const int64_t group_size = options->group_size == AWQ_GROUP_PER_ROW ? header->k : options->group_size;
    if (options->bits != 0 && options->bits != quantizer->bits)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: %d bits, but the options say %d", header_name, quantizer->bits,
                         options->bits);
    if (group_size != 0 && group_size != quantizer->group_size)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: groups of %lld, but the options say %lld", header_name,
                         (long long)quantizer->group_size, (long long)group_size);
    if ((options->flags & AWQ_QUANTIZE_SYMMETRIC) && !(quantizer->flags & AWQ_QUANTIZE_SYMMETRIC))
        return awqi_fail(AWQ_ERROR_INVALID, "%s: it has zero points, but the options say symmetric", header_name);
    return AWQ_OK;
}

awq_status awqi_header_read(const struct awqi_planes *planes, const awq_unpack_options *options,
                            struct awqi_layout_header *header)
{
    int64_t fields[FIELDS];
    awq_status status = read_fields(planes, fields);
    if (status != AWQ_OK) return status;
    header->n = fields[1];
    header->k = fields[2];
    if (header->n < 1 || header->k < 1 || header->n > INT64_MAX / 256 || header->k > INT64_MAX / 256)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: a weight of [%lld][%lld]", header_name, (long long)header->n,
                         (long long)header->k);
    if (fields[3] < 1 || fields[4] < 1 || fields[4] > 8 || fields[5] < 0 || fields[5] > 1 ||
        (fields[6] != AWQ_F16 && fields[6] != AWQ_BF16))
        return awqi_fail(AWQ_ERROR_INVALID, "%s: groups of %lld, %lld bits, symmetric %lld, scales of dtype %lld",
                         header_name, (long long)fields[3], (long long)fields[4], (long long)fields[5],
                         (long long)fields[6]);
    awq_quantize_options format;
    awq_struct_init(&format, sizeof format);
    format.group_size = fields[3];
    format.bits = (int32_t)fields[4];
    format.flags = fields[5] ? AWQ_QUANTIZE_SYMMETRIC : 0;
    format.scale_dtype = (int32_t)fields[6];
    status = awqi_quantizer_resolve(&format, header->k, &header->quantizer);
    return status == AWQ_OK ? check_options(options, header) : status;
}

awq_status awqi_header_allocate(awq_context *context, const struct awqi_layout_header *header,
                                const struct awqi_planes *planes, awq_weight **weight)
{
    const awq_tensor *input_scale = awqi_planes_get(planes, input_scale_name);
    awq_status status = input_scale != NULL ? awqi_check_input_scale(input_scale, header->k) : AWQ_OK;
    if (status == AWQ_OK)
        status = awqi_weight_allocate(context, header->n, header->k, &header->quantizer, input_scale != NULL, weight);
    if (status != AWQ_OK) return status;
    if (input_scale != NULL) awqi_load_row(input_scale, 0, (*weight)->input_scale, header->k);
    return awqi_weight_set_salient(*weight, awqi_planes_get(planes, salient_columns_name),
                                   awqi_planes_get(planes, salient_values_name));
}
