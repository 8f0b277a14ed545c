/* The format of llm-awq's second version, "llm-awq", and AutoAWQ's "gemv_fast", 4 bits:
 *
 *   qweight  I16 [N / 4][K]       scales  float [8 w][N]       scaled_zeros (AutoAWQ: qzeros)  float [8 w][N]
 *
 * Field i (bits 4i .. 4i+3) of element 64 c + p of row r holds output 4 r + p / 16 and input
 * 64 c + 32 (p / 8 % 2) + 8 i + p % 8.  w is what gemv has; rows beyond the groups are 0.
 *
 * A zero point z is kept as -(s z), rounded to the dtype of the scales, so that kernels add instead of subtract.  The
 * integer comes back by division, and is believed only when multiplying again gives the same number. */
#include "layout.h"

#include <math.h>

enum { ROWS = 4, STRIDE = 64, PART = 4 * STRIDE }; /* rows in one; inputs in a turn; inputs at a time */

#define HALFWORDS (1u << AWQ_I16 | 1u << AWQ_U16)

/* The first of the four inputs, 8 apart, that element p of a turn holds. */
static inline int first_input(int p)
{
    return 32 * (p / 8 % 2) + p % 8;
}

/* ---- zero points */

static float scaled_zero(int32_t dtype, float scale, int32_t zero)
{
    return awqi_round_to(dtype, -(scale * (float)zero));
}

/* The zero point of which 'value' is the product with 'scale', or -1. */
static int32_t find_zero(int32_t dtype, float scale, float value)
{
    const float quotient = scale != 0.0f ? rintf(-value / scale) : 0.0f;
    if (!(quotient >= 0.0f && quotient <= 15.0f && isfinite(value))) return -1;
    return scaled_zero(dtype, scale, (int32_t)quotient) == value ? (int32_t)quotient : -1;
}

static awq_status pack_zeros(const awq_weight *weight, const awq_tensor *plane)
{
    unsigned char *values = plane->data;
    const size_t size = awq_dtype_size(plane->dtype);
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t row = 0; row < weight->n; row++) {
            const int32_t zero = awqi_weight_zero(weight, row, group);
            const float scale = awqi_weight_scale(weight, row, group), value = scaled_zero(plane->dtype, scale, zero);
            if (find_zero(plane->dtype, scale, value) != zero)
                return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                                 "the zero point %d of row %lld, group %lld is lost in its product with "
                                 "the scale %.9g, which is all that the format holds of it",
                                 zero, (long long)row, (long long)group, (double)scale);
            awqi_from_f32(plane->dtype, &value, values + (size_t)(group * weight->n + row) * size, 1);
        }
    return AWQ_OK;
}

static awq_status unpack_zeros(awq_weight *weight, const awq_tensor *plane)
{
    awq_status status = AWQ_OK;
    for (int64_t group = 0; group < weight->groups; group++)
        for (int64_t row = 0; row < weight->n && status == AWQ_OK; row++) {
            const float scale = awqi_weight_scale(weight, row, group);
            float value;
            awqi_load_columns(plane, group, row, &value, 1);
            const int32_t zero = find_zero(plane->dtype, scale, value);
            if (zero < 0)
                return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                                 "the scaled zero %.9g of row %lld, group %lld is no product of the scale "
                                 "%.9g and an integer of 0 to 15",
                                 (double)value, (long long)row, (long long)group, (double)scale);
            status = awqi_layout_set_zero(weight, row, group, zero);
        }
    return status;
}

/* ---- writing */

static awq_status check_weight(const awq_weight *weight, int64_t *words)
{
    awq_status status = awqi_layout_check_bits(weight->bits, 1u << 4);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("outputs", weight->n, ROWS);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("inputs", weight->k, STRIDE);
    if (status == AWQ_OK) status = awqi_layout_refuse_input_scale(weight);
    if (status == AWQ_OK) status = awqi_layout_refuse_short_group(weight, false);
    return status == AWQ_OK ? awqi_gemv_zeros_width(weight->groups, weight->group_size, words) : status;
}

struct packing {
    const awq_weight *weight;
    uint16_t *qweight;
};

static void pack_rows(void *user_data, int64_t r)
{
    const struct packing *work = user_data;
    const awq_weight *weight = work->weight;
    uint8_t codes[ROWS][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int row = 0; row < ROWS; row++) awqi_weight_get_codes(weight, ROWS * r + row, first, count, codes[row]);
        uint16_t *to = work->qweight + r * weight->k + first;
        for (int64_t turn = 0; turn < count; turn += STRIDE)
            for (int p = 0; p < STRIDE; p++) {
                const uint8_t *from = codes[p / 16] + turn + first_input(p);
                to[turn + p] = (uint16_t)(from[0] | from[8] << 4 | from[16] << 8 | from[24] << 12);
            }
    }
}

awq_status awqi_gemv_fast_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    /* llm-awq keeps the dtype that the scales have; AutoAWQ makes them F16. */
    const int32_t dtype = layout->id == AWQ_LAYOUT_LLM_AWQ ? weight->scale_dtype : AWQ_F16;
    int64_t width = 0;
    awq_tensor qweight, scales, zeros;
    awq_status status = check_weight(weight, &width);
    if (status == AWQ_OK)
        status = awqi_packed_add_2d(packed, layout->planes[0], AWQ_I16, weight->n / ROWS, weight->k, &qweight);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[1], dtype, 8 * width, weight->n, &zeros);
    if (status == AWQ_OK) status = awqi_packed_add_2d(packed, layout->planes[2], dtype, 8 * width, weight->n, &scales);
    if (status == AWQ_OK) status = awqi_layout_write_scales(weight, &scales, true, NULL);
    if (status == AWQ_OK) status = pack_zeros(weight, &zeros);
    if (status != AWQ_OK) return status;
    struct packing work = {weight, qweight.data};
    awqi_parallel_for(awqi_packed_context(packed), weight->n / ROWS, pack_rows, &work);
    return AWQ_OK;
}

/* ---- reading */

struct unpacking {
    awq_weight *weight;
    const awq_tensor *qweight;
};

static void unpack_rows(void *user_data, int64_t r)
{
    const struct unpacking *work = user_data;
    awq_weight *weight = work->weight;
    const uint16_t *words = awqi_tensor_row(work->qweight, r);
    const int64_t step = work->qweight->strides[1];
    uint8_t codes[ROWS][PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        const int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t turn = 0; turn < count; turn += STRIDE)
            for (int p = 0; p < STRIDE; p++) {
                const unsigned word = words[(first + turn + p) * step];
                uint8_t *to = codes[p / 16] + turn + first_input(p);
                for (int i = 0; i < 4; i++) to[8 * i] = word >> (4 * i) & 15;
            }
        for (int row = 0; row < ROWS; row++) awqi_weight_set_codes(weight, ROWS * r + row, first, count, codes[row]);
    }
}

awq_status awqi_gemv_fast_unpack(const struct awqi_layout *layout, awq_context *context,
                                 const struct awqi_planes *planes, const awq_unpack_options *options,
                                 awq_weight **weight)
{
    const awq_tensor *qweight, *zeros, *scales;
    int64_t group_size, width = 0;
    struct awqi_quantizer quantizer;
    awq_status status = awqi_layout_check_bits(options->bits, 1u << 4);
    if (status == AWQ_OK) status = awqi_planes_find_codes(planes, layout->planes[0], HALFWORDS, &qweight);
    if (status == AWQ_OK) status = awqi_layout_check_multiple("inputs", qweight->shape[1], STRIDE);
    if (status != AWQ_OK) return status;
    const int64_t n = ROWS * qweight->shape[0], k = qweight->shape[1];
    status = awqi_gemv_group_size(options, k, &group_size);
    if (status == AWQ_OK) status = awqi_gemv_zeros_width(k / group_size, group_size, &width);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[2], true, AWQI_FLOATS, 8 * width, n, &scales);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[1], true, 1u << scales->dtype, 8 * width, n, &zeros);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, k / group_size, scales->dtype, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, true, NULL);
    if (status == AWQ_OK) status = unpack_zeros(*weight, zeros);
    if (status != AWQ_OK) return status;
    struct unpacking work = {*weight, qweight};
    awqi_parallel_for(context, qweight->shape[0], unpack_rows, &work);
    return AWQ_OK;
}
