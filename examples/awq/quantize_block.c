/* One block from float to quantised: search, fold, clip, quantise. */
#include "quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

struct block_job {
    struct quantize_job *job;
    struct block_weights *weights;
    struct block_copies *copies;
    struct block_report *report;
    struct point_statistics *statistics; /* [points] */
    struct point_scales *points;         /* [points] */
    float *limits;                       /* clipping ranges of the linear at work */
    int32_t *dtypes;                     /* [linears]: of the weights as they were read */
};

struct point_scales {
    float *scales;     /* that columns are multiplied by; NULL: none */
    float *importance; /* of channels, where salient ones are chosen by activation; NULL otherwise */
};

static bool is_quantized(const struct block_job *block, int linear)
{
    return job_quantizes(block->job, block->weights->layer, linear);
}

static bool fail(const struct block_job *block, awq_status status, const char *what)
{
    return cli_library_error(status, "block %lld, %s", (long long)block->weights->layer, what);
}

static bool fail_linear(const struct block_job *block, awq_status status, int linear)
{
    char name[TENSOR_NAME_SIZE];
    block_linear_name(&block->job->config, block->weights->layer, linear, name);
    return cli_library_error(status, "%s", name);
}

/* ---- tensors as they were read */

/* Index of the first NaN or infinity of a contiguous tensor, or -1: their exponents are all ones. */
static int64_t find_non_finite(const awq_tensor *tensor, int64_t count)
{
    const char *data = (const char *)tensor->data + tensor->byte_offset;
    if (tensor->dtype == AWQ_F32) {
        const uint32_t *bits = (const uint32_t *)(const void *)data;
        for (int64_t i = 0; i < count; i++)
            if ((bits[i] & 0x7f800000u) == 0x7f800000u) return i;
    } else {
        const uint16_t *bits = (const uint16_t *)(const void *)data;
        const uint16_t exponent = tensor->dtype == AWQ_F16 ? 0x7c00u : 0x7f80u;
        for (int64_t i = 0; i < count; i++)
            if ((bits[i] & exponent) == exponent) return i;
    }
    return -1;
}

static bool check_finite(const awq_tensor *tensor, const char *name, const char *suffix)
{
    if (!tensor->data) return true;
    int64_t columns = tensor->shape[tensor->ndim - 1], rows = tensor->ndim == 2 ? tensor->shape[0] : 1;
    int64_t bad = find_non_finite(tensor, rows * columns);
    return bad < 0 || cli_error("%s%s: row %lld, column %lld is not a finite number", name, suffix,
                                (long long)(bad / columns), (long long)(bad % columns));
}

/* A NaN would otherwise surface as one among the activations, far from where it came from. */
static bool check_block_finite(const struct model_config *config, const struct block_weights *weights)
{
    char name[TENSOR_NAME_SIZE];
    block_tensor_name(config, weights->layer, config->architecture->attention_norm, name);
    bool ok = check_finite(&weights->attention_norm.weight, name, ".weight") &&
              check_finite(&weights->attention_norm.bias, name, ".bias");
    block_tensor_name(config, weights->layer, config->architecture->mlp_norm, name);
    ok = ok && check_finite(&weights->mlp_norm.weight, name, ".weight") &&
         check_finite(&weights->mlp_norm.bias, name, ".bias");
    for (int linear = 0; ok && linear < weights->linears; linear++) {
        if (!block_has_linear(config, linear)) continue;
        block_linear_name(config, weights->layer, linear, name);
        ok = check_finite(&weights->linear[linear].dense, name, ".weight") &&
             check_finite(&weights->linear[linear].bias, name, ".bias");
    }
    block_tensor_name(config, weights->layer, "router", name);
    return ok && check_finite(&weights->router.dense, name, "") && check_finite(&weights->shared_gate.dense, name, "");
}

/* ---- tensors that change */

bool block_copy(awq_context *context, struct block_copies *copies, int32_t dtype, awq_tensor *view)
{
    awq_tensor copy;
    void *memory = NULL;
    uint64_t size = awq_dtype_size(dtype);
    for (int32_t i = 0; i < view->ndim; i++) size *= (uint64_t)view->shape[i];
    if (copies->count == copies->room) {
        const size_t room = 2 * copies->room + 32;
        void **more = realloc(copies->memory, room * sizeof *more);
        if (!more) return cli_error("out of memory");
        copies->memory = more;
        copies->room = room;
    }
    awq_status status = awq_context_allocate(context, size, &memory);
    if (status != AWQ_OK) return cli_library_error(status, "a copy of a tensor");
    copies->memory[copies->count++] = memory;
    status = awq_tensor_init(&copy, memory, dtype, view->ndim, view->shape);
    if (status == AWQ_OK) status = awq_tensor_copy(context, view, &copy, NULL);
    if (status != AWQ_OK) return cli_library_error(status, "a copy of a tensor");
    *view = copy;
    return true;
}

void block_copies_free(awq_context *context, struct block_copies *copies)
{
    for (size_t i = 0; i < copies->count; i++) awq_context_free(context, copies->memory[i]);
    free(copies->memory);
    memset(copies, 0, sizeof *copies);
}

/* ---- folding */

/* A contiguous 1-D float tensor as F32 values. */
static awq_status read_values(awq_context *context, const awq_tensor *tensor, float *values)
{
    awq_tensor view;
    awq_tensor_init_1d(&view, values, AWQ_F32, tensor->shape[0]);
    return awq_tensor_copy(context, tensor, &view, NULL);
}

/* The norm as stored is rounded, so what it was really divided by is not quite 'scales'.  Multiplying the columns by
 * that instead leaves the float function as it was. */
static bool correct_scales(struct block_job *block, const awq_tensor *before, const awq_tensor *after, float *scales)
{
    awq_context *context = block->job->host;
    const float added = block->job->config.architecture->norm == NORM_RMS_PLUS_ONE ? 1 : 0;
    int64_t count = after->shape[0];
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, 2 * (uint64_t)count * sizeof(float), &memory);
    if (status != AWQ_OK) return fail(block, status, "its scales");
    float *old = memory, *new = old + count;
    status = read_values(context, before, old);
    if (status == AWQ_OK) status = read_values(context, after, new);
    for (int64_t j = 0; status == AWQ_OK && j < count; j++) {
        float divisor = (added + old[j]) / (added + new[j]);
        if (isfinite(divisor) && divisor > 0) scales[j] = divisor;
    }
    awq_context_free(context, memory);
    return status == AWQ_OK || fail(block, status, "its scales");
}

static bool fold_into_norm(struct block_job *block, int point, const awq_tensor *scales,
                           struct norm_weights *norm)
{
    const int32_t profile = block->job->settings->quantizer.profile;
    const bool has_bias = norm->bias.data;
    awq_context *context = block->job->host;
    awq_tensor before = norm->weight;
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.profile = profile;
    if (block->job->config.architecture->norm == NORM_RMS_PLUS_ONE) options.flags = AWQ_FOLD_ONE_PLUS_WEIGHT;
    if (!block_copy(context, block->copies, norm->weight.dtype, &norm->weight)) return false;
    if (has_bias && !block_copy(context, block->copies, norm->bias.dtype, &norm->bias)) return false;
    awq_status status = awq_fold_norm(context, scales, &norm->weight, has_bias ? &norm->bias : NULL, &options);
    if (status != AWQ_OK) return fail(block, status, "folding scales into a norm");
    return profile != AWQ_PROFILE_EXACT || correct_scales(block, &before, &norm->weight, block->points[point].scales);
}

/* Rows that will be quantised are kept in single precision until then.  The peers round them to the model's dtype. */
static bool fold_into_linear(struct block_job *block, int producer, const awq_tensor *scales, int64_t copies,
                             int64_t width)
{
    int32_t profile = block->job->settings->quantizer.profile;
    struct linear_weights *weights = &block->weights->linear[producer];
    bool exact = profile == AWQ_PROFILE_EXACT && is_quantized(block, producer), has_bias = weights->bias.data;
    awq_context *context = block->job->host;
    awq_fold_options options;
    awq_struct_init(&options, sizeof options);
    options.profile = profile;
    options.tie_copies = copies;
    options.tie_width = width;
    if (!block_copy(context, block->copies, exact ? AWQ_F32 : weights->dense.dtype, &weights->dense)) return false;
    if (has_bias && !block_copy(context, block->copies, weights->bias.dtype, &weights->bias)) return false;
    awq_status status = awq_fold_linear(context, scales, &weights->dense, has_bias ? &weights->bias : NULL, &options);
    return status == AWQ_OK || fail_linear(block, status, producer);
}

/* A linear that stays as it is but shares an input with searched ones still has to take the scaled input. */
static bool scale_columns(struct block_job *block, awq_tensor *stored, const float *scales)
{
    if (!stored->data) return true;
    int32_t dtype = stored->dtype;
    int64_t rows = stored->shape[0], columns = stored->shape[1];
    if (!block_copy(block->job->host, block->copies, AWQ_F32, stored)) return false;
    float *values = stored->data;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) values[i * columns + j] *= scales[j];
    return block_copy(block->job->host, block->copies, dtype, stored);
}

/* Into what makes the input of the point. */
static bool fold_scales(struct block_job *block, int point, const awq_tensor *scales)
{
    const struct model_config *config = &block->job->config;
    struct block_weights *weights = block->weights;
    const bool tied = config->heads > config->kv_heads;
    if (point == POINT_QKV) return fold_into_norm(block, point, scales, &weights->attention_norm);
    if (point == POINT_O)
        return fold_into_linear(block, LINEAR_V, scales, tied ? config->heads / config->kv_heads : 0,
                                tied ? config->head_dim : 0);
    if (point >= POINT_DOWN && !block_scales_pass(config)) {
        weights->activation_scales = *scales;
        return block_copy(block->job->context, block->copies, AWQ_F32, &weights->activation_scales);
    }
    if (point >= POINT_DOWN) return fold_into_linear(block, mlp_linear(point - POINT_DOWN, LINEAR_UP), scales, 0, 0);
    return fold_into_norm(block, point, scales, &weights->mlp_norm) &&
           scale_columns(block, &weights->router.dense, block->points[point].scales) &&
           scale_columns(block, &weights->shared_gate.dense, block->points[point].scales);
}

static bool fold_point(struct block_job *block, int point)
{
    const struct model_config *config = &block->job->config;
    const int64_t k = point_inputs(config, point);
    awq_tensor scales;
    void *memory = NULL;
    if (!block->statistics[point].search) return true;
    awq_status status = awq_context_allocate(block->job->host, (uint64_t)k * sizeof(float), &memory);
    if (status != AWQ_OK) return fail(block, status, "its scales");
    block->points[point].scales = memory;
    status = awq_search_get_scales(block->statistics[point].search, block->points[point].scales, k);
    if (status != AWQ_OK) return fail(block, status, "its scales");
    awq_tensor_init_const_1d(&scales, block->points[point].scales, AWQ_F32, k);
    bool ok = fold_scales(block, point, &scales);
    for (int i = 0; ok && i < point_linears(config, point); i++) {
        const int linear = point_linear(point, i);
        if (!is_quantized(block, linear))
            ok = scale_columns(block, &block->weights->linear[linear].dense, block->points[point].scales);
    }
    return ok;
}

/* ---- clipping and quantising */

/* Attention depends on q and k through a softmax, for which the error of a layer's own output is a poor judge. */
static bool is_clipped(const struct block_job *block, int linear)
{
    return block->job->settings->clip && linear != LINEAR_Q && linear != LINEAR_K &&
           block->statistics[point_of_linear(linear)].calibration;
}

static int64_t group_count(const awq_quantize_options *options, int64_t inputs)
{
    int64_t size = options->group_size == AWQ_GROUP_PER_ROW ? inputs : options->group_size;
    return (inputs + size - 1) / size;
}

/* Find *limits for a linear that is going to be quantised with 'quantize', in memory of block->limits. */
static bool search_clip(struct block_job *block, int linear, const awq_quantize_options *quantize, awq_tensor *limits)
{
    const awq_tensor *w = &block->weights->linear[linear].dense;
    const struct quantize_job *job = block->job;
    struct linear_report *report = &block->report->linear[linear];
    int64_t groups = group_count(quantize, w->shape[1]);
    awq_clip_options options;
    awq_clip_result result;
    void *memory = NULL;
    awq_struct_init(&options, sizeof options);
    awq_struct_init(&result, sizeof result);
    options.quantize = quantize;
    awq_status status = awq_context_allocate(job->host, (uint64_t)(w->shape[0] * groups) * sizeof(float), &memory);
    if (status != AWQ_OK) return fail_linear(block, status, linear);
    block->limits = memory;
    awq_tensor_init_2d(limits, memory, AWQ_F32, w->shape[0], groups);
    const awq_calibration *calibration = block->statistics[point_of_linear(linear)].calibration;
    status = awq_clip_search(job->context, w, calibration, NULL, &options, limits, &result);
    if (status != AWQ_OK) return fail_linear(block, status, linear);
    report->clipped = true;
    report->clipped_groups = result.clipped_groups;
    report->clip_loss = result.loss;
    report->clip_loss_unclipped = result.loss_unclipped;
    return true;
}

static bool report_weight(struct block_job *block, int linear)
{
    struct linear_report *report = &block->report->linear[linear];
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(block->weights->linear[linear].quantized, &info);
    if (status != AWQ_OK) return fail_linear(block, status, linear);
    report->quantized = true;
    report->groups = info.n * info.groups;
    report->zero_groups = info.zero_groups;
    report->clamped_scales = info.clamped_scales;
    return true;
}

static bool round_linear(struct block_job *block, int linear, const awq_quantize_options *options)
{
    struct linear_weights *weights = &block->weights->linear[linear];
    awq_status status;
    if (block->job->settings->salient_scale > 0)
        status = salient_quantize_scaled(block->job, &weights->dense, options, &weights->quantized,
                                         &block->report->linear[linear]);
    else status = awq_quantize(block->job->context, &weights->dense, NULL, options, &weights->quantized);
    if (status != AWQ_OK) return fail_linear(block, status, linear);
    memset(&weights->dense, 0, sizeof weights->dense);
    return report_weight(block, linear);
}

/* Row i of 'values' is limited to the ranges of its groups. */
static void clip_row(float *values, int64_t columns, const float *limits, int64_t groups, int64_t group_size)
{
    for (int64_t group = 0; group < groups; group++)
        for (int64_t j = group * group_size; j < columns && j < (group + 1) * group_size; j++)
            values[j] = fminf(fmaxf(values[j], -limits[group]), limits[group]);
}

/* What round_linear would round, in the type that the weight had. */
static bool scale_linear(struct block_job *block, int linear, const float *scales, const awq_tensor *limits)
{
    awq_tensor *dense = &block->weights->linear[linear].dense, wide;
    awq_context *context = block->job->host;
    const int64_t rows = dense->shape[0], columns = dense->shape[1], groups = limits ? limits->shape[1] : 0;
    const int64_t set_size = block->job->settings->quantizer.group_size;
    const int64_t group_size = set_size == AWQ_GROUP_PER_ROW ? columns : set_size;
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, (uint64_t)(rows * columns) * sizeof(float), &memory);
    if (status != AWQ_OK) return fail_linear(block, status, linear);
    awq_tensor_init_2d(&wide, memory, AWQ_F32, rows, columns);
    status = awq_tensor_copy(context, dense, &wide, NULL);
    for (int64_t i = 0; status == AWQ_OK && i < rows; i++) {
        float *row = (float *)memory + i * columns;
        for (int64_t j = 0; scales && j < columns; j++) row[j] *= scales[j];
        clip_row(row, columns, limits ? (const float *)limits->data + i * groups : NULL, groups, group_size);
    }
    bool ok = status == AWQ_OK || fail_linear(block, status, linear);
    ok = ok && block_copy(context, block->copies, block->dtypes[linear], &wide);
    awq_context_free(context, memory);
    if (!ok) return false;
    *dense = wide;
    block->report->linear[linear].quantized = true;
    block->report->linear[linear].groups = rows * groups;
    return true;
}

static bool quantize_linear(struct block_job *block, int linear)
{
    struct linear_weights *weights = &block->weights->linear[linear];
    awq_quantize_options options = block->job->settings->quantizer;
    const struct point_scales *point = &block->points[point_of_linear(linear)];
    const float *scales = point->scales, *importance = point->importance;
    awq_tensor scale_view, importance_view, limits;
    if (importance) {
        awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, weights->dense.shape[1]);
        options.importance = &importance_view;
    } else if (options.salient_rule == AWQ_SALIENT_BY_ACTIVATION) {
        options.salient_rule = AWQ_SALIENT_BY_WEIGHT; /* of an expert whose activations are not known */
    }
    if (scales) {
        awq_tensor_init_const_1d(&scale_view, scales, AWQ_F32, weights->dense.shape[1]);
        options.input_scale = &scale_view;
        options.flags |= AWQ_QUANTIZE_INPUT_SCALE_FOLDED;
    }
    options.calibration = block->statistics[point_of_linear(linear)].calibration;
    if (!options.calibration) options.rounding = AWQ_ROUND_NEAREST; /* of an expert that saw too few tokens */
    if (is_clipped(block, linear)) {
        if (!search_clip(block, linear, &options, &limits)) return false;
        options.clip = &limits;
    }
    bool ok = block->job->settings->layout ? round_linear(block, linear, &options)
                                           : scale_linear(block, linear, scales, options.clip);
    awq_context_free(block->job->host, block->limits);
    block->limits = NULL;
    return ok;
}

static bool find_importance(struct block_job *block)
{
    const awq_quantize_options *quantizer = &block->job->settings->quantizer;
    if (quantizer->salient_fraction == 0 || quantizer->salient_rule != AWQ_SALIENT_BY_ACTIVATION) return true;
    for (int point = 0; point < block_points(&block->job->config); point++) {
        const awq_calibration *calibration = block->statistics[point].calibration;
        if (calibration && !salient_importance(block->job->host, calibration, &block->points[point].importance))
            return false;
    }
    return true;
}

/* Hundredths of a block's work. */
enum { SEARCHED_PART = 85, QUANTIZED_PART = 95, WHOLE = 100 };

static bool quantize_linears(struct block_job *block)
{
    struct job_part part = {block->job, block->weights->layer, SEARCHED_PART, QUANTIZED_PART};
    progress_note(&block->job->progress, "layer %lld: rounding", (long long)block->weights->layer);
    const int linears = block->weights->linears;
    for (int linear = 0; linear < linears; linear++) {
        if (is_quantized(block, linear) && !quantize_linear(block, linear)) return false;
        if (job_part_update(&part, (uint64_t)linear + 1, (uint64_t)linears)) return cli_error("interrupted");
    }
    return true;
}

/* Let the activations move on through the block as it has become. */
static bool advance_quantized(struct block_job *block)
{
    struct quantize_job *job = block->job;
    struct job_part part = {job, block->weights->layer, QUANTIZED_PART, WHOLE};
    struct block quantized = {0};
    bool ok = block_create(job->context, &job->config, block->weights, true, NULL, &quantized) &&
              job_forward(job, &quantized, true, &part, NULL, NULL);
    block_clear(job->context, &quantized);
    return ok;
}

static bool block_job_create(struct block_job *block)
{
    const size_t points = (size_t)block_points(&block->job->config), linears = (size_t)block->weights->linears;
    block->statistics = calloc(points, sizeof *block->statistics);
    block->points = calloc(points, sizeof *block->points);
    block->dtypes = calloc(linears, sizeof *block->dtypes);
    if (!block->statistics || !block->points || !block->dtypes) return cli_error("out of memory");
    for (size_t i = 0; i < linears; i++) block->dtypes[i] = block->weights->linear[i].dense.dtype;
    return true;
}

static void block_job_clear(struct block_job *block)
{
    awq_context *context = block->job->host;
    for (int point = 0; point < block_points(&block->job->config); point++) {
        if (block->points) awq_context_free(context, block->points[point].importance);
        if (block->points) awq_context_free(context, block->points[point].scales);
        if (block->statistics) point_statistics_clear(&block->statistics[point]);
    }
    awq_context_free(context, block->limits);
    free(block->statistics);
    free(block->points);
    free(block->dtypes);
}

bool block_quantize(struct quantize_job *job, struct block_weights *weights, struct block_copies *copies,
                    struct block_report *report)
{
    const bool calibrates = quantize_calibrates(job->request);
    struct block_job block = {.job = job, .weights = weights, .copies = copies, .report = report};
    bool ok = block_job_create(&block) && check_block_finite(&job->config, weights) &&
              (!calibrates || block_search(job, weights, block.statistics, report)) && find_importance(&block);
    for (int point = 0; ok && point < block_points(&job->config); point++) ok = fold_point(&block, point);
    ok = ok && quantize_linears(&block);
    block_job_clear(&block);
    return ok && (!calibrates || !job->settings->through_quantized || advance_quantized(&block));
}
