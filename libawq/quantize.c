/* awq_quantize: options resolved and inputs checked, then blocks of rows through the backend into a weight. */
#include "backend.h"
#include "place.h"
#include "refine.h"
#include "salient.h"
#include "search.h"

#include <math.h>

/* Bounds what is held besides the weight: codes one per byte and F32 scales of this many rows. */
enum { ROWS_AT_ONCE = 512 };

awq_status awqi_quantizer_resolve(const awq_quantize_options *options, int64_t k, struct awqi_quantizer *quantizer)
{
    const int64_t group_size = options->group_size;
    const struct awqi_quantizer resolved = {
        .bits = options->bits != 0 ? options->bits : 4,
        .profile = options->profile,
        .scale_dtype = options->scale_dtype != 0 ? options->scale_dtype : AWQ_F16,
        .flags = options->flags & AWQ_QUANTIZE_SYMMETRIC,
        .group_size = group_size == 0 ? 128 : group_size == AWQ_GROUP_PER_ROW ? k : group_size,
    };
    awq_status status = awqi_check_flags(options->flags, AWQ_QUANTIZE_SYMMETRIC | AWQ_QUANTIZE_INPUT_SCALE_FOLDED,
                                         "awq_quantize_options");
    if (status != AWQ_OK) return status;
    if (resolved.bits != 2 && resolved.bits != 3 && resolved.bits != 4 && resolved.bits != 8)
        return awqi_fail(AWQ_ERROR_INVALID, "bits is %d; 2, 3, 4 and 8 are possible", resolved.bits);
    if (resolved.group_size < 1)
        return awqi_fail(AWQ_ERROR_INVALID, "group_size is %lld; 1 and above, or AWQ_GROUP_PER_ROW, are possible",
                         (long long)resolved.group_size);
    if (resolved.profile < AWQ_PROFILE_EXACT || resolved.profile > AWQ_PROFILE_LLM_AWQ)
        return awqi_fail(AWQ_ERROR_INVALID, "profile %d is none of AWQ_PROFILE_*", resolved.profile);
    if (resolved.scale_dtype < 0 || resolved.scale_dtype > 31 || !(AWQI_FLOATS >> resolved.scale_dtype & 1u))
        return awqi_fail(AWQ_ERROR_INVALID, "scale_dtype %s (%d); F16, BF16 and F32 are possible",
                         awq_dtype_name(resolved.scale_dtype), resolved.scale_dtype);
    if (resolved.profile == AWQ_PROFILE_LLM_AWQ && resolved.flags != 0)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED,
                         "llm-awq has no symmetric quantiser to agree with; take AWQ_PROFILE_AUTOAWQ");
    status = awqi_salient_check(options);
    if (status == AWQ_OK) *quantizer = resolved;
    return status;
}

/* Everything one awq_quantize call works with. */
struct quantization {
    awq_context *context;
    struct awqi_placed w;
    const awq_tensor *clip; /* [n][groups], or NULL */
    struct awqi_quantizer quantizer;
    struct awqi_refinement refinement;
    int64_t n, k, groups;
    int64_t rows_at_once; /* all of them where they are refined, which needs much for a weight but little for a row */
    float *input_scale; /* [k], or NULL */
    struct awqi_salient salient;
    float *masked;      /* [k], the input scale with 0 in salient columns; NULL when there are none */
    float *limits;      /* [rows_at_once][groups], or NULL */
    uint8_t *codes;     /* [rows_at_once][k] */
    float *scales;      /* [rows_at_once][groups] */
    uint8_t *zeros;     /* [rows_at_once][groups] */
    int64_t first_row;  /* of the block at work */
    awq_weight *weight;
};

/* ---- inputs */

static struct awqi_scaled scaled_weight(const struct quantization *work)
{
    int32_t dtype = work->quantizer.profile == AWQ_PROFILE_EXACT ? AWQ_F32 : work->w.view.dtype;
    return (struct awqi_scaled){&work->w.view, work->input_scale, dtype};
}

/* Times its scales, so that an overflow is found as well. */
static awq_status check_finite(const struct quantization *work)
{
    const struct awqi_scaled scaled = scaled_weight(work);
    return awqi_scaled_check(work->context, &scaled, "w");
}

static awq_status check_clip(const struct quantization *work)
{
    if (work->clip == NULL) return AWQ_OK;
    awq_status status = awqi_check_tensor(work->clip, 2, 1u << AWQ_F32, "clip");
    if (status == AWQ_OK) status = awqi_check_shape_2d(work->clip, work->n, work->groups, "clip");
    if (status == AWQ_OK) status = awqi_check_reachable(work->context, work->clip, "clip");
    return status;
}

/* ---- blocks */

static awq_status load_limits(struct quantization *work, int64_t rows)
{
    awq_status status = awqi_fetch_rows(work->context, work->clip, work->first_row, rows, work->limits);
    if (status != AWQ_OK) return status;
    for (int64_t row = 0; row < rows; row++) {
        const float *limits = work->limits + row * work->groups;
        for (int64_t group = 0; group < work->groups; group++)
            if (!(limits[group] >= 0.0f)) /* an infinity is no limit, but a NaN is an error */
                return awqi_fail(isnan(limits[group]) ? AWQ_ERROR_NON_FINITE : AWQ_ERROR_INVALID,
                                 "clip: row %lld, group %lld is %g; limits are 0 and above",
                                 (long long)(work->first_row + row), (long long)group, (double)limits[group]);
    }
    return AWQ_OK;
}

static void store_row(void *user_data, int64_t row)
{
    struct quantization *work = user_data;
    awq_weight *weight = work->weight;
    int64_t to = work->first_row + row, groups = work->groups;
    awqi_weight_set_codes(weight, to, 0, work->k, work->codes + row * work->k);
    awqi_from_f32(weight->scale_dtype, work->scales + row * groups, awqi_weight_scales(weight, to), groups);
    if (weight->zeros != NULL) memcpy(weight->zeros + to * groups, work->zeros + row * groups, (size_t)groups);
}

static awq_status refine_block(struct quantization *work)
{
    struct awqi_scaled scaled = scaled_weight(work);
    struct awqi_refine_job job = {
        .quantizer = work->quantizer,
        .clip = work->limits,
        .codes = work->codes,
        .scales = work->scales,
        .zeros = work->zeros,
    };
    if (work->masked != NULL) scaled.scales = work->masked;
    awq_status status = awqi_refine(work->context, &work->refinement, &scaled, &job);
    work->weight->clamped_scales = job.clamped_scales;
    work->weight->zero_groups = job.zero_groups;
    return status;
}

static awq_status round_block(struct quantization *work, int64_t rows)
{
    awq_tensor w = work->w.view;
    w.shape[0] = rows;
    w.byte_offset += (uint64_t)(work->first_row * w.strides[0] * (int64_t)awq_dtype_size(w.dtype));
    struct awqi_quantize_job job = {
        .w = &w,
        .input_scale = work->masked != NULL ? work->masked : work->input_scale,
        .clip = work->limits,
        .quantizer = work->quantizer,
        .codes = work->codes,
        .scales = work->scales,
        .zeros = work->zeros,
    };
    awq_status status = awqi_context_backend(work->context)->quantize(awqi_context_device(work->context), &job);
    if (status != AWQ_OK)
        return awqi_fail_in(status, "w, counting rows from %lld", (long long)work->first_row);
    work->weight->clamped_scales += job.clamped_scales;
    work->weight->zero_groups += job.zero_groups;
    return AWQ_OK;
}

static awq_status quantize_block(struct quantization *work)
{
    int64_t rows = awqi_min64(work->rows_at_once, work->n - work->first_row);
    awq_status status = work->limits != NULL ? load_limits(work, rows) : AWQ_OK;
    if (status == AWQ_OK)
        status = awqi_refinement_is_wanted(&work->refinement) ? refine_block(work) : round_block(work, rows);
    if (status == AWQ_OK) awqi_parallel_for(work->context, rows, store_row, work);
    return status;
}

static awq_status allocate_block(struct quantization *work)
{
    uint64_t rows = (uint64_t)work->rows_at_once;
    uint64_t groups = rows * (uint64_t)work->groups;
    void *codes = NULL, *scales = NULL, *zeros = NULL, *limits = NULL;
    awq_status status = awqi_alloc(work->context, rows, (uint64_t)work->k, "a block of codes", &codes);
    if (status == AWQ_OK) status = awqi_alloc(work->context, groups, sizeof(float), "a block of scales", &scales);
    if (status == AWQ_OK) status = awqi_alloc(work->context, groups, 1, "a block of zero points", &zeros);
    if (status == AWQ_OK && work->clip != NULL)
        status = awqi_alloc(work->context, groups, sizeof(float), "a block of clipping limits", &limits);
    work->codes = codes;
    work->scales = scales;
    work->zeros = zeros;
    work->limits = limits;
    return status;
}

static void release_block(struct quantization *work)
{
    awqi_unplace(work->context, &work->w);
    awqi_salient_release(work->context, &work->salient);
    awqi_free(work->context, work->masked);
    awqi_free(work->context, work->input_scale);
    awqi_free(work->context, work->codes);
    awqi_free(work->context, work->scales);
    awqi_free(work->context, work->zeros);
    awqi_free(work->context, work->limits);
}

/* ---- salient columns */

static awq_status mask_salient(struct quantization *work)
{
    void *memory;
    if (work->salient.count == 0) return AWQ_OK;
    awq_status status = awqi_alloc(work->context, (uint64_t)work->k, sizeof(float), "masked input scales", &memory);
    if (status != AWQ_OK) return status;
    work->masked = memory;
    awqi_salient_mask(&work->salient, work->input_scale, work->k, work->masked);
    return AWQ_OK;
}

/* values[n] is a room for it. */
static awq_status keep_column(struct quantization *work, int64_t index, float *values)
{
    const struct awqi_scaled scaled = scaled_weight(work);
    const int64_t column = work->salient.columns[index];
    awq_weight *weight = work->weight;
    awq_status status = awqi_scaled_fetch_column(work->context, &scaled, column, values);
    if (status != AWQ_OK) return status;
    weight->salient_columns[index] = (int32_t)column;
    for (int64_t row = 0; row < work->n; row++) {
        const uint16_t half = awqi_f32_to_f16(values[row]);
        if ((half & 0x7c00u) == 0x7c00u)
            return awqi_fail(AWQ_ERROR_NON_FINITE, "w: row %lld, column %lld is salient, but %g (scaled) overflows F16",
                             (long long)row, (long long)column, (double)values[row]);
        weight->salient_values[row * work->salient.count + index] = half;
    }
    return AWQ_OK;
}

static awq_status keep_salient(struct quantization *work)
{
    void *values;
    awq_status status = awqi_weight_add_salient(work->weight, work->salient.count);
    if (status != AWQ_OK || work->salient.count == 0) return status;
    status = awqi_alloc(work->context, (uint64_t)work->n, sizeof(float), "a salient column", &values);
    if (status != AWQ_OK) return status;
    for (int64_t i = 0; status == AWQ_OK && i < work->salient.count; i++) status = keep_column(work, i, values);
    awqi_free(work->context, values);
    return status;
}

static awq_status quantize_blocks(struct quantization *work, bool record_input_scale)
{
    awq_status status = awqi_weight_allocate(work->context, work->n, work->k, &work->quantizer, record_input_scale,
                                             &work->weight);
    if (status == AWQ_OK) status = allocate_block(work);
    for (; status == AWQ_OK && work->first_row < work->n; work->first_row += work->rows_at_once)
        status = quantize_block(work);
    if (status == AWQ_OK) status = keep_salient(work);
    if (status == AWQ_OK && record_input_scale)
        memcpy(work->weight->input_scale, work->input_scale, (size_t)work->k * sizeof(float));
    return status;
}

/* ---- public */

static awq_status check_weight(awq_context *context, const awq_tensor *w)
{
    awq_status status = awqi_check_tensor(w, 2, AWQI_FLOATS, "w");
    if (status == AWQ_OK) status = awqi_check_reachable(context, w, "w");
    if (status == AWQ_OK && (w->shape[0] < 1 || w->shape[1] < 1))
        return awqi_fail(AWQ_ERROR_INVALID, "w: shape [%lld][%lld] has no elements", (long long)w->shape[0],
                         (long long)w->shape[1]);
    return status;
}

awq_status awq_quantize(awq_context *context, const awq_tensor *w, const awq_search *search,
                        const awq_quantize_options *options, awq_weight **weight)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_quantize: weight is NULL");
    *weight = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_quantize: context is NULL");
    awq_quantize_options merged;
    awq_status status = check_weight(context, w);
    if (status == AWQ_OK) status = awqi_search_merge_options(search, options, &merged);
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_quantize");

    struct quantization work = {.context = context, .clip = merged.clip, .n = w->shape[0], .k = w->shape[1]};
    status = awqi_quantizer_resolve(&merged, work.k, &work.quantizer);
    if (status == AWQ_OK)
        status = awqi_refinement_resolve(&merged, search, &work.quantizer, work.k, &work.refinement);
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_quantize");
    work.rows_at_once = awqi_refinement_is_wanted(&work.refinement) ? work.n : awqi_min64(ROWS_AT_ONCE, work.n);
    work.groups = awqi_ceil_div(work.k, work.quantizer.group_size);
    status = awqi_scaled_take_scales(context, search, merged.input_scale, work.k, &work.input_scale);
    if (status == AWQ_OK) status = check_clip(&work);
    if (status == AWQ_OK) status = awqi_place(context, w, &work.w);
    if (status == AWQ_OK) status = check_finite(&work);
    if (status == AWQ_OK)
        status = awqi_salient_choose(context, &merged, work.refinement.calibration, w, &work.salient);
    if (status == AWQ_OK) status = mask_salient(&work);
    bool record = work.input_scale != NULL && !(merged.flags & AWQ_QUANTIZE_INPUT_SCALE_FOLDED);
    if (status == AWQ_OK) status = quantize_blocks(&work, record);
    release_block(&work);
    if (status != AWQ_OK) {
        awq_weight_destroy(work.weight);
        return awqi_fail_in(status, "awq_quantize");
    }
    *weight = work.weight;
    return AWQ_OK;
}
