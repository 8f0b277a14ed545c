/* awq_weight: codes, scales, zero points and input scale of a quantised linear; made, cut, joined, read back. */
#include "weight.h"

#include <float.h>
#include <math.h>

enum { PART = 256 }; /* codes at a time, on the stack; a multiple of 8, as awqi_weight_set_codes wants */

/* ---- storage */

static void release_weight(awq_weight *weight)
{
    awq_context *context = weight->context;
    awqi_free(context, weight->codes);
    awqi_free(context, weight->scales);
    awqi_free(context, weight->zeros);
    awqi_free(context, weight->input_scale);
    awqi_free(context, weight->salient_columns);
    awqi_free(context, weight->salient_values);
    awqi_free(context, weight);
    awqi_context_release(context);
}

void awq_weight_destroy(awq_weight *weight)
{
    if (weight != NULL) release_weight(weight);
}

/* The sizes below cannot overflow when these three do not. */
static awq_status check_sizes(int64_t n, int64_t k, int64_t groups, int32_t bits)
{
    int64_t row_bits, elements, scale_bytes;
    if (__builtin_mul_overflow(k, bits, &row_bits) || row_bits > INT64_MAX - 7 ||
        __builtin_mul_overflow(n, k, &elements) || __builtin_mul_overflow(n, groups * 4, &scale_bytes))
        return awqi_fail(AWQ_ERROR_INVALID, "a weight of %lld x %lld with %lld groups exceeds the address space",
                         (long long)n, (long long)k, (long long)groups);
    return AWQ_OK;
}

awq_status awqi_weight_allocate(awq_context *context, int64_t n, int64_t k, const struct awqi_quantizer *quantizer,
                                bool with_input_scale, awq_weight **weight)
{
    *weight = NULL;
    int64_t groups = awqi_ceil_div(k, quantizer->group_size);
    awq_status status = check_sizes(n, k, groups, quantizer->bits);
    if (status != AWQ_OK) return status;
    void *memory;
    status = awqi_calloc(context, 1, sizeof **weight, "a weight", &memory);
    if (status != AWQ_OK) return status;
    awq_weight *created = memory;
    created->context = awqi_context_retain(context);
    created->n = n;
    created->k = k;
    created->group_size = quantizer->group_size;
    created->groups = groups;
    created->bits = quantizer->bits;
    created->scale_dtype = quantizer->scale_dtype;
    created->symmetric = quantizer->flags & AWQ_QUANTIZE_SYMMETRIC;
    created->parts = 1;
    created->row_bytes = ((uint64_t)k * (uint64_t)quantizer->bits + 7) / 8;

    uint64_t scales = (uint64_t)n * (uint64_t)groups;
    status = awqi_alloc(context, (uint64_t)n, created->row_bytes, "the codes of a weight", &memory);
    if (status != AWQ_OK) goto fail;
    created->codes = memory;
    status = awqi_alloc(context, scales, awq_dtype_size(created->scale_dtype), "the scales of a weight", &memory);
    if (status != AWQ_OK) goto fail;
    created->scales = memory;
    if (!created->symmetric) {
        status = awqi_alloc(context, scales, 1, "the zero points of a weight", &memory);
        if (status != AWQ_OK) goto fail;
        created->zeros = memory;
    }
    if (with_input_scale) {
        status = awqi_alloc(context, (uint64_t)k, sizeof(float), "the input scale of a weight", &memory);
        if (status != AWQ_OK) goto fail;
        created->input_scale = memory;
    }
    *weight = created;
    return AWQ_OK;
fail:
    release_weight(created);
    return status;
}

/* ---- elements */

void awqi_weight_get_codes(const awq_weight *weight, int64_t row, int64_t first, int64_t count, uint8_t *codes)
{
    const uint8_t *stream = weight->codes + (uint64_t)row * weight->row_bytes;
    const unsigned bits = (unsigned)weight->bits, mask = (1u << bits) - 1;
    if (bits == 8) {
        memcpy(codes, stream + first, (size_t)count);
        return;
    }
    if (bits == 4 && first % 2 == 0) {
        stream += first / 2;
        for (int64_t i = 0; i < count / 2; i++) {
            codes[2 * i] = stream[i] & 15;
            codes[2 * i + 1] = stream[i] >> 4;
        }
        if (count % 2 != 0) codes[count - 1] = stream[count / 2] & 15;
        return;
    }
    uint64_t position = (uint64_t)first * bits;
    for (int64_t i = 0; i < count; i++, position += bits) {
        unsigned shift = position % 8, value = stream[position / 8];
        if (shift + bits > 8) value |= (unsigned)stream[position / 8 + 1] << 8;
        codes[i] = (uint8_t)(value >> shift & mask);
    }
}

void awqi_weight_set_codes(awq_weight *weight, int64_t row, int64_t first, int64_t count, const uint8_t *codes)
{
    const unsigned bits = (unsigned)weight->bits;
    uint8_t *stream = weight->codes + (uint64_t)row * weight->row_bytes + (uint64_t)(first / 8) * bits;
    if (bits == 8) {
        memcpy(stream, codes, (size_t)count);
        return;
    }
    if (bits == 4) {
        for (int64_t i = 0; i < count / 2; i++) stream[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
        if (count % 2 != 0) stream[count / 2] = codes[count - 1];
        return;
    }
    unsigned held = 0, filled = 0; /* bits not yet written */
    for (int64_t i = 0; i < count; i++) {
        held |= (unsigned)codes[i] << filled;
        filled += bits;
        if (filled < 8) continue;
        *stream++ = (uint8_t)held;
        held >>= 8;
        filled -= 8;
    }
    if (filled > 0) *stream = (uint8_t)held;
}

float awqi_weight_scale(const awq_weight *weight, int64_t row, int64_t group)
{
    int64_t index = row * weight->groups + group;
    if (weight->scale_dtype == AWQ_F32) return ((const float *)weight->scales)[index];
    uint16_t half = ((const uint16_t *)weight->scales)[index];
    return weight->scale_dtype == AWQ_F16 ? awqi_f16_to_f32(half) : awqi_bf16_to_f32(half);
}

int32_t awqi_weight_zero(const awq_weight *weight, int64_t row, int64_t group)
{
    return weight->symmetric ? 1 << (weight->bits - 1) : weight->zeros[row * weight->groups + group];
}

void *awqi_weight_scales(const awq_weight *weight, int64_t row)
{
    return (unsigned char *)weight->scales + (uint64_t)(row * weight->groups) * awq_dtype_size(weight->scale_dtype);
}

/* values[count] of row 'row' of a tensor from column 'first' on: read U8, write U8, write floats. */
static void load_bytes(const awq_tensor *tensor, int64_t row, int64_t first, uint8_t *values, int64_t count)
{
    const int64_t stride = awqi_tensor_inner_stride(tensor);
    const uint8_t *src = awqi_tensor_row(tensor, row);
    for (int64_t i = 0; i < count; i++) values[i] = src[(first + i) * stride];
}

static void store_bytes(awq_tensor *tensor, int64_t row, int64_t first, const uint8_t *values, int64_t count)
{
    const int64_t stride = awqi_tensor_inner_stride(tensor);
    uint8_t *dst = (uint8_t *)(uintptr_t)awqi_tensor_row(tensor, row);
    for (int64_t i = 0; i < count; i++) dst[(first + i) * stride] = values[i];
}

static void store_floats(const awq_tensor *tensor, int64_t row, int64_t first, const float *values, int64_t count)
{
    awq_tensor rest = *tensor;
    rest.byte_offset += (uint64_t)(first * awqi_tensor_inner_stride(tensor) * (int64_t)awq_dtype_size(tensor->dtype));
    awqi_store_row(&rest, row, values, count);
}

/* ---- making */

float awqi_weight_stored_scale(int32_t dtype, float step)
{
    const float least = dtype == AWQ_F16 ? 0x1p-24f : dtype == AWQ_BF16 ? 0x1p-133f : 0x1p-149f;
    const float greatest = dtype == AWQ_F16 ? 65504.0f : dtype == AWQ_BF16 ? 0x1.fep127f : FLT_MAX;
    const float size = fabsf(awqi_round_to(dtype, step));
    return copysignf(size > greatest ? greatest : size >= least ? size : least, step);
}

awq_status awqi_check_input_scale(const awq_tensor *scale, int64_t k)
{
    awq_status status = awqi_check_tensor(scale, 1, 1u << AWQ_F32, "input_scale");
    if (status == AWQ_OK) status = awqi_check_shape_1d(scale, k, "input_scale");
    if (status == AWQ_OK) status = awqi_check_host(scale, "input_scale");
    if (status != AWQ_OK) return status;
    for (int64_t i = 0; i < k; i++) {
        float value;
        awqi_load_columns(scale, 0, i, &value, 1);
        if (!(value > 0.0f && isfinite(value)))
            return awqi_fail(isfinite(value) ? AWQ_ERROR_INVALID : AWQ_ERROR_NON_FINITE,
                             "input_scale: column %lld is %g; it must be positive and finite", (long long)i,
                             (double)value);
    }
    return AWQ_OK;
}

static awq_status check_planes(const awq_tensor *codes, const awq_tensor *scales, const awq_tensor *zeros)
{
    awq_status status = awqi_check_tensor(codes, 2, 1u << AWQ_U8, "codes");
    if (status == AWQ_OK) status = awqi_check_tensor(scales, 2, AWQI_FLOATS, "scales");
    if (status == AWQ_OK && zeros != NULL) status = awqi_check_tensor(zeros, 2, 1u << AWQ_U8, "zeros");
    if (status == AWQ_OK && (codes->shape[0] < 1 || codes->shape[1] < 1))
        return awqi_fail(AWQ_ERROR_INVALID, "codes: shape [%lld][%lld] has no elements", (long long)codes->shape[0],
                         (long long)codes->shape[1]);
    if (status == AWQ_OK) status = awqi_check_host(codes, "codes");
    if (status == AWQ_OK) status = awqi_check_host(scales, "scales");
    if (status == AWQ_OK && zeros != NULL) status = awqi_check_host(zeros, "zeros");
    return status;
}

static awq_status fill_codes(awq_weight *weight, const awq_tensor *codes)
{
    uint8_t values[PART];
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t first = 0; first < weight->k; first += PART) {
            int64_t count = awqi_min64(PART, weight->k - first);
            load_bytes(codes, row, first, values, count);
            for (int64_t i = 0; i < count; i++)
                if (values[i] >> weight->bits != 0)
                    return awqi_fail(AWQ_ERROR_INVALID, "codes: row %lld, column %lld is %d, above the %d of %d bits",
                                     (long long)row, (long long)(first + i), values[i], (1 << weight->bits) - 1,
                                     weight->bits);
            awqi_weight_set_codes(weight, row, first, count, values);
        }
    return AWQ_OK;
}

static awq_status fill_scales(awq_weight *weight, const awq_tensor *scales)
{
    for (int64_t n = 0; n < weight->n; n++)
        for (int64_t g = 0; g < weight->groups; g++) {
            float scale;
            awqi_load_columns(scales, n, g, &scale, 1);
            if (!isfinite(scale))
                return awqi_fail(AWQ_ERROR_NON_FINITE, "scales: row %lld, group %lld is %g", (long long)n, (long long)g,
                                 (double)scale);
            unsigned char *to = awqi_weight_scales(weight, n);
            awqi_from_f32(weight->scale_dtype, &scale, to + (size_t)g * awq_dtype_size(weight->scale_dtype), 1);
        }
    return AWQ_OK;
}

static awq_status fill_zeros(awq_weight *weight, const awq_tensor *zeros)
{
    for (int64_t n = 0; n < weight->n; n++) {
        uint8_t *row = weight->zeros + n * weight->groups;
        load_bytes(zeros, n, 0, row, weight->groups);
        for (int64_t g = 0; g < weight->groups; g++)
            if (row[g] >> weight->bits != 0)
                return awqi_fail(AWQ_ERROR_INVALID, "zeros: row %lld, group %lld is %d, above the %d of %d bits",
                                 (long long)n, (long long)g, row[g], (1 << weight->bits) - 1, weight->bits);
    }
    return AWQ_OK;
}

/* Only what describes codes that exist is read; how they came about is not asked. */
static awq_status resolve_format(const awq_quantize_options *options, int64_t k, struct awqi_quantizer *quantizer)
{
    awq_quantize_options format;
    awq_struct_init(&format, sizeof format);
    format.bits = options->bits;
    format.group_size = options->group_size;
    format.flags = options->flags;
    awq_status status = awqi_check_flags(options->flags, AWQ_QUANTIZE_SYMMETRIC, "awq_quantize_options");
    return status == AWQ_OK ? awqi_quantizer_resolve(&format, k, quantizer) : status;
}

awq_status awq_weight_create(awq_context *context, const awq_tensor *codes, const awq_tensor *scales,
                             const awq_tensor *zeros, const awq_quantize_options *options, awq_weight **weight)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_create: weight is NULL");
    *weight = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_create: context is NULL");
    awq_quantize_options known;
    struct awqi_quantizer quantizer;
    awq_weight *created = NULL;
    awq_status status = awqi_import(&known, sizeof known, options, "awq_quantize_options");
    if (status == AWQ_OK) status = check_planes(codes, scales, zeros);
    if (status == AWQ_OK) status = resolve_format(&known, codes->shape[1], &quantizer);
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_weight_create");
    if (((quantizer.flags & AWQ_QUANTIZE_SYMMETRIC) != 0) != (zeros == NULL))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_create: zeros %s", zeros ? "given for a symmetric weight"
                                                                                 : "missing from an asymmetric weight");
    quantizer.scale_dtype = scales->dtype;
    int64_t n = codes->shape[0], k = codes->shape[1], groups = awqi_ceil_div(k, quantizer.group_size);
    status = awqi_check_shape_2d(scales, n, groups, "scales");
    if (status == AWQ_OK && zeros != NULL) status = awqi_check_shape_2d(zeros, n, groups, "zeros");
    if (status == AWQ_OK && known.input_scale != NULL)
        status = awqi_check_input_scale(known.input_scale, k);
    if (status == AWQ_OK)
        status = awqi_weight_allocate(context, n, k, &quantizer, known.input_scale != NULL, &created);
    if (status == AWQ_OK) status = fill_codes(created, codes);
    if (status == AWQ_OK) status = fill_scales(created, scales);
    if (status == AWQ_OK && zeros != NULL) status = fill_zeros(created, zeros);
    if (status == AWQ_OK) status = awqi_weight_set_salient(created, known.salient_columns, known.salient_values);
    if (status != AWQ_OK) {
        awq_weight_destroy(created);
        return awqi_fail_in(status, "awq_weight_create");
    }
    if (known.input_scale != NULL) awqi_load_row(known.input_scale, 0, created->input_scale, k);
    *weight = created;
    return AWQ_OK;
}

/* ---- reading */

awq_status awq_weight_get_info(const awq_weight *weight, awq_weight_info *info)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_get_info: weight is NULL");
    uint64_t scales = (uint64_t)weight->n * (uint64_t)weight->groups, salient = (uint64_t)weight->salient_count;
    awq_weight_info known;
    awq_struct_init(&known, sizeof known);
    known.bits = weight->bits;
    known.n = weight->n;
    known.k = weight->k;
    known.group_size = weight->group_size;
    known.groups = weight->groups;
    known.flags = weight->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    known.scale_dtype = weight->scale_dtype;
    known.has_input_scale = weight->input_scale != NULL;
    known.salient_columns = weight->salient_count;
    known.parts = weight->parts;
    known.clamped_scales = weight->clamped_scales;
    known.zero_groups = weight->zero_groups;
    known.size_bytes = (uint64_t)weight->n * weight->row_bytes + scales * awq_dtype_size(weight->scale_dtype) +
                       (weight->symmetric ? 0 : scales) + salient * sizeof *weight->salient_columns +
                       (uint64_t)weight->n * salient * sizeof *weight->salient_values;
    return awqi_export(info, &known, sizeof known, "awq_weight_info");
}

/* 'exact' as a float that rounds to any narrower dtype as 'exact' itself would: when it is between two floats, the one
 * with an odd last bit is taken, which no narrower dtype mistakes for a tie. */
static float round_to_odd(double exact)
{
    float nearest = (float)exact;
    if ((double)nearest == exact || isinf(nearest)) return nearest;
    uint32_t bits = awqi_f32_to_bits(nearest);
    if (fabs((double)nearest) > fabs(exact)) bits--;
    return awqi_bits_to_f32(bits | 1u);
}

struct dequantization {
    const awq_weight *weight;
    awq_tensor *out;
    const float *divisors; /* [k], or NULL */
};

static void dequantize_part(const struct dequantization *work, int64_t row, int64_t first, int64_t count)
{
    const awq_weight *weight = work->weight;
    const float scale = awqi_weight_scale(weight, row, first / weight->group_size);
    const int32_t zero = awqi_weight_zero(weight, row, first / weight->group_size);
    /* A code times an F16 or BF16 scale is exact in F32, as any product is in double. */
    const bool exact_in_f32 = weight->scale_dtype != AWQ_F32 || work->out->dtype == AWQ_F32;
    for (int64_t end = first + count; first < end; first += PART) {
        uint8_t codes[PART];
        float values[PART];
        count = awqi_min64(PART, end - first);
        awqi_weight_get_codes(weight, row, first, count, codes);
        for (int64_t i = 0; i < count; i++) {
            if (work->divisors == NULL && exact_in_f32) {
                values[i] = (float)(codes[i] - zero) * scale;
                continue;
            }
            double value = (double)(codes[i] - zero) * (double)scale;
            if (work->divisors != NULL) value /= (double)work->divisors[first + i];
            values[i] = work->out->dtype == AWQ_F32 ? (float)value : round_to_odd(value);
        }
        store_floats(work->out, row, first, values, count);
    }
}

/* (q - z) s + v in the salient columns of a row; exact in double but where the two are of very different size. */
static void dequantize_salient(const struct dequantization *work, int64_t row)
{
    const awq_weight *weight = work->weight;
    for (int64_t i = 0; i < weight->salient_count; i++) {
        const int64_t column = weight->salient_columns[i], group = column / weight->group_size;
        uint8_t code;
        awqi_weight_get_codes(weight, row, column, 1, &code);
        double value = (double)(code - awqi_weight_zero(weight, row, group));
        value *= (double)awqi_weight_scale(weight, row, group);
        value += (double)awqi_f16_to_f32(weight->salient_values[row * weight->salient_count + i]);
        if (work->divisors != NULL) value /= (double)work->divisors[column];
        const float rounded = work->out->dtype == AWQ_F32 ? (float)value : round_to_odd(value);
        store_floats(work->out, row, column, &rounded, 1);
    }
}

static void dequantize_row(void *user_data, int64_t row)
{
    const struct dequantization *work = user_data;
    int64_t k = work->weight->k, group_size = work->weight->group_size;
    for (int64_t first = 0; first < k; first += awqi_min64(group_size, k - first))
        dequantize_part(work, row, first, awqi_min64(group_size, k - first));
    dequantize_salient(work, row);
}

awq_status awq_weight_dequantize(const awq_weight *weight, uint32_t flags, awq_tensor *out)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_dequantize: weight is NULL");
    awq_status status = awqi_check_flags(flags, AWQ_DEQUANTIZE_UNSCALED, "awq_weight_dequantize");
    if (status == AWQ_OK) status = awqi_check_tensor(out, 2, AWQI_FLOATS, "awq_weight_dequantize: out");
    if (status == AWQ_OK) status = awqi_check_shape_2d(out, weight->n, weight->k, "awq_weight_dequantize: out");
    if (status == AWQ_OK) status = awqi_check_writable(out, "awq_weight_dequantize: out");
    if (status == AWQ_OK) status = awqi_check_host(out, "awq_weight_dequantize: out");
    if (status != AWQ_OK) return status;
    struct dequantization work = {weight, out, (flags & AWQ_DEQUANTIZE_UNSCALED) ? weight->input_scale : NULL};
    awqi_parallel_for(weight->context, weight->n, dequantize_row, &work);
    return AWQ_OK;
}

static awq_status check_export(const awq_tensor *tensor, uint32_t dtypes, int64_t rows, int64_t columns,
                               const char *what)
{
    if (tensor == NULL) return AWQ_OK;
    awq_status status = awqi_check_tensor(tensor, rows > 0 ? 2 : 1, dtypes, what);
    if (status == AWQ_OK)
        status =
            rows > 0 ? awqi_check_shape_2d(tensor, rows, columns, what) : awqi_check_shape_1d(tensor, columns, what);
    if (status == AWQ_OK) status = awqi_check_writable(tensor, what);
    if (status == AWQ_OK) status = awqi_check_host(tensor, what);
    return status;
}

static void export_row(const awq_weight *weight, int64_t row, awq_tensor *codes, awq_tensor *scales, awq_tensor *zeros)
{
    uint8_t values[PART];
    for (int64_t first = 0; codes != NULL && first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        awqi_weight_get_codes(weight, row, first, count, values);
        store_bytes(codes, row, first, values, count);
    }
    for (int64_t group = 0; group < weight->groups; group++) {
        const float scale = awqi_weight_scale(weight, row, group);
        const uint8_t zero = (uint8_t)awqi_weight_zero(weight, row, group);
        if (scales != NULL) store_floats(scales, row, group, &scale, 1);
        if (zeros != NULL) store_bytes(zeros, row, group, &zero, 1);
    }
}

awq_status awq_weight_export(const awq_weight *weight, awq_tensor *codes, awq_tensor *scales, awq_tensor *zeros,
                             awq_tensor *input_scale)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_export: weight is NULL");
    const int64_t n = weight->n, k = weight->k, groups = weight->groups;
    const uint32_t scale_dtypes = 1u << AWQ_F32 | 1u << weight->scale_dtype;
    awq_status status = check_export(codes, 1u << AWQ_U8, n, k, "codes");
    if (status == AWQ_OK) status = check_export(scales, scale_dtypes, n, groups, "scales");
    if (status == AWQ_OK) status = check_export(zeros, 1u << AWQ_U8, n, groups, "zeros");
    if (status == AWQ_OK) status = check_export(input_scale, 1u << AWQ_F32, 0, k, "input_scale");
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_weight_export");
    for (int64_t row = 0; row < n; row++) export_row(weight, row, codes, scales, zeros);
    for (int64_t i = 0; input_scale != NULL && i < k; i++) {
        const float value = weight->input_scale != NULL ? weight->input_scale[i] : 1.0f;
        store_floats(input_scale, 0, i, &value, 1);
    }
    return AWQ_OK;
}

/* ---- cutting and joining */

static struct awqi_quantizer quantizer_of(const awq_weight *weight)
{
    return (struct awqi_quantizer){
        .bits = weight->bits,
        .scale_dtype = weight->scale_dtype,
        .flags = weight->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0,
        .group_size = weight->group_size,
    };
}

/* Give 'created' away as *made, or destroy it after a failure. */
static awq_status finish(awq_status status, awq_weight *created, awq_weight **made)
{
    if (status == AWQ_OK) *made = created;
    else awq_weight_destroy(created);
    return status;
}

static awq_status slice_rows(const awq_weight *weight, int64_t begin, int64_t end, awq_weight **slice)
{
    struct awqi_quantizer quantizer = quantizer_of(weight);
    const uint64_t rows = (uint64_t)(end - begin), scales = rows * (uint64_t)weight->groups;
    awq_weight *created;
    awq_status status = awqi_weight_allocate(weight->context, end - begin, weight->k, &quantizer,
                                             weight->input_scale != NULL, &created);
    if (status != AWQ_OK) return status;
    memcpy(created->codes, weight->codes + (uint64_t)begin * weight->row_bytes, rows * weight->row_bytes);
    memcpy(created->scales, awqi_weight_scales(weight, begin), scales * awq_dtype_size(weight->scale_dtype));
    if (weight->zeros != NULL) memcpy(created->zeros, weight->zeros + begin * weight->groups, scales);
    if (weight->input_scale != NULL)
        memcpy(created->input_scale, weight->input_scale, (size_t)weight->k * sizeof(float));
    return finish(awqi_weight_slice_salient(weight, begin, 0, created), created, slice);
}

static void copy_columns(const awq_weight *from, int64_t begin, awq_weight *to, int64_t row)
{
    uint8_t codes[PART];
    for (int64_t first = 0; first < to->k; first += PART) {
        int64_t count = awqi_min64(PART, to->k - first);
        awqi_weight_get_codes(from, row, begin + first, count, codes);
        awqi_weight_set_codes(to, row, first, count, codes);
    }
    const int64_t first_group = begin / from->group_size;
    const size_t scale_size = awq_dtype_size(from->scale_dtype);
    const unsigned char *scales = awqi_weight_scales(from, row);
    memcpy(awqi_weight_scales(to, row), scales + (size_t)first_group * scale_size, (size_t)to->groups * scale_size);
    if (to->zeros != NULL)
        memcpy(to->zeros + row * to->groups, from->zeros + row * from->groups + first_group, (size_t)to->groups);
}

static awq_status slice_columns(const awq_weight *weight, int64_t begin, int64_t end, awq_weight **slice)
{
    struct awqi_quantizer quantizer = quantizer_of(weight);
    awq_weight *created;
    awq_status status = awqi_weight_allocate(weight->context, weight->n, end - begin, &quantizer,
                                             weight->input_scale != NULL, &created);
    if (status != AWQ_OK) return status;
    for (int64_t row = 0; row < weight->n; row++) copy_columns(weight, begin, created, row);
    if (weight->input_scale != NULL)
        memcpy(created->input_scale, weight->input_scale + begin, (size_t)(end - begin) * sizeof(float));
    created->parts = weight->parts;
    return finish(awqi_weight_slice_salient(weight, 0, begin, created), created, slice);
}

/* AWQ_OK when inputs can be cut before 'column'. */
static awq_status check_cut(const awq_weight *weight, int64_t column)
{
    int64_t below = column / weight->group_size * weight->group_size;
    if (column == below || column == weight->k) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID,
                     "awq_weight_slice: column %lld cuts a group of %lld; the nearest boundaries are %lld and %lld",
                     (long long)column, (long long)weight->group_size, (long long)below,
                     (long long)awqi_min64(below + weight->group_size, weight->k));
}

awq_status awq_weight_slice(const awq_weight *weight, int32_t axis, int64_t begin, int64_t end, awq_weight **slice)
{
    if (slice == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_slice: slice is NULL");
    *slice = NULL;
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_slice: weight is NULL");
    if (axis != AWQ_SLICE_ROWS && axis != AWQ_SLICE_COLUMNS)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_slice: axis %d is none of AWQ_SLICE_*", axis);
    int64_t extent = axis == AWQ_SLICE_ROWS ? weight->n : weight->k;
    if (begin < 0 || begin >= end || end > extent)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_slice: [%lld, %lld) is no part of [0, %lld)", (long long)begin,
                         (long long)end, (long long)extent);
    if (axis == AWQ_SLICE_ROWS) return slice_rows(weight, begin, end, slice);
    awq_status status = check_cut(weight, begin);
    if (status == AWQ_OK) status = check_cut(weight, end);
    return status == AWQ_OK ? slice_columns(weight, begin, end, slice) : status;
}

/* Why 'weight' cannot be stacked under 'first', or NULL. */
static const char *find_mismatch(const awq_weight *first, const awq_weight *weight)
{
    if (weight->k != first->k) return "number of inputs";
    if (weight->bits != first->bits) return "number of bits";
    if (weight->group_size != first->group_size) return "group size";
    if (weight->symmetric != first->symmetric) return "symmetry";
    if (weight->scale_dtype != first->scale_dtype) return "scale dtype";
    if ((weight->input_scale == NULL) != (first->input_scale == NULL)) return "input scale";
    if (weight->input_scale != NULL &&
        memcmp(weight->input_scale, first->input_scale, (size_t)first->k * sizeof(float)) != 0)
        return "input scale";
    return NULL;
}

static awq_status check_stack(size_t count, const awq_weight *const *weights, int64_t *rows)
{
    if (count == 0 || weights == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_concatenate: no weights");
    for (size_t i = 0; i < count; i++) {
        if (weights[i] == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_concatenate: weight %zu is NULL", i);
        const char *mismatch = find_mismatch(weights[0], weights[i]);
        if (mismatch != NULL)
            return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_concatenate: weight %zu has another %s than weight 0", i,
                             mismatch);
        if (__builtin_add_overflow(*rows, weights[i]->n, rows))
            return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_concatenate: the rows exceed the address space");
    }
    return AWQ_OK;
}

awq_status awq_weight_concatenate(size_t count, const awq_weight *const *weights, awq_weight **weight)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_concatenate: weight is NULL");
    *weight = NULL;
    int64_t rows = 0;
    awq_status status = check_stack(count, weights, &rows);
    if (status != AWQ_OK) return status;
    struct awqi_quantizer quantizer = quantizer_of(weights[0]);
    awq_weight *created;
    status = awqi_weight_allocate(weights[0]->context, rows, weights[0]->k, &quantizer, weights[0]->input_scale != NULL,
                                  &created);
    if (status != AWQ_OK) return status;
    created->parts = 0;
    for (size_t i = 0, row = 0; i < count; row += (size_t)weights[i++]->n) {
        const awq_weight *part = weights[i];
        const size_t scales = (size_t)(part->n * part->groups);
        memcpy(created->codes + row * created->row_bytes, part->codes, (size_t)part->n * part->row_bytes);
        memcpy(awqi_weight_scales(created, (int64_t)row), part->scales, scales * awq_dtype_size(part->scale_dtype));
        if (part->zeros != NULL) memcpy(created->zeros + row * (size_t)part->groups, part->zeros, scales);
        created->parts += part->parts;
        created->clamped_scales += part->clamped_scales;
        created->zero_groups += part->zero_groups;
    }
    if (created->input_scale != NULL)
        memcpy(created->input_scale, weights[0]->input_scale, (size_t)created->k * sizeof(float));
    return finish(awqi_weight_stack_salient(count, weights, created), created, weight);
}
