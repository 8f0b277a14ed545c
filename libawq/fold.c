/* Moving 1/s into whatever produces a linear's input: every element that feeds channel j is divided by s_j.
 *
 * Everything is seen as a matrix whose rows each have one divisor: a norm's weight[K] is K rows of one column, the
 * weight of a linear has its last K / tie_copies rows divided, and so has its bias.  A first pass over all of it
 * verifies what a second one writes, so that a refused fold leaves nothing half done. */
#include "search.h"

#include <math.h>
#include <stdatomic.h>

enum { BLOCK = 256 }; /* elements converted at once, on the stack */

struct fold {
    awq_context *context;
    awq_fold_options options;
    float *divisors; /* [count]: of the tensor's last 'count' rows */
    int64_t count;
};

/* One pass over one tensor. */
struct pass {
    const struct fold *fold;
    const char *name;
    awq_tensor matrix; /* [rows][columns], of which the last fold->count rows are divided */
    bool one_plus;     /* the operation multiplies by 1 + element */
    bool write;
    atomic_int_least64_t first_bad; /* lowest (row - first row) * columns + column that is not finite when divided */
};

static awq_status check_host(const awq_tensor *tensor, const char *what)
{
    if (tensor->device_type == AWQ_DEVICE_CPU) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: on device type %d; folding works on host memory", what,
                     tensor->device_type);
}

static awq_status check_producer(const awq_tensor *tensor, int32_t ndim, const char *what)
{
    awq_status status = awqi_check_tensor(tensor, ndim, AWQI_FLOATS, what);
    if (status == AWQ_OK) status = awqi_check_writable(tensor, what);
    if (status == AWQ_OK) status = check_host(tensor, what);
    return status;
}

static awq_status check_fold_options(const awq_fold_options *options)
{
    if (options->profile < AWQ_PROFILE_EXACT || options->profile > AWQ_PROFILE_LLM_AWQ)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_fold_options: profile %d", options->profile);
    if (options->reserved != 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_fold_options: reserved is %d, not 0", options->reserved);
    return awqi_check_flags(options->flags, AWQ_FOLD_ONE_PLUS_WEIGHT, "awq_fold_options");
}

/* Read scales[K], check them, and keep one divisor for each producing row: row h * tie_width + d feeds the inputs
 * (h * tie_copies + c) * tie_width + d, which must agree. */
static awq_status read_divisors(struct fold *fold, const awq_tensor *scales)
{
    int64_t copies = awqi_max64(fold->options.tie_copies, 1), inputs = scales->shape[0];
    int64_t width = copies > 1 ? fold->options.tie_width : inputs;
    fold->count = inputs / copies;
    void *memory;
    awq_status status = awqi_alloc(fold->context, (uint64_t)fold->count, sizeof *fold->divisors, "scales", &memory);
    if (status != AWQ_OK) return status;
    fold->divisors = memory;
    const char *values = awqi_tensor_data(scales);
    int64_t step = awqi_tensor_inner_stride(scales) * (int64_t)sizeof(float);
    for (int64_t j = 0; j < inputs; j++) {
        float scale = *(const float *)(const void *)(values + j * step);
        if (!(scale > 0.0f) || !isfinite(scale))
            return awqi_fail(AWQ_ERROR_NON_FINITE, "scales: element %lld is %g; a positive finite number is needed",
                             (long long)j, (double)scale);
        int64_t copy = j / width % copies, row = j / (width * copies) * width + j % width;
        if (copy == 0) {
            fold->divisors[row] = scale;
        } else if (scale != fold->divisors[row]) {
            return awqi_fail(AWQ_ERROR_INVALID,
                             "scales: channels %lld and %lld are tied, but their scales are %g and %g",
                             (long long)(j - copy * width), (long long)j, (double)fold->divisors[row], (double)scale);
        }
    }
    return AWQ_OK;
}

static awq_status fold_begin(struct fold *fold, awq_context *context, const awq_tensor *scales,
                             const awq_fold_options *options, const char *function)
{
    memset(fold, 0, sizeof *fold);
    fold->context = context;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s: context is NULL", function);
    awq_status status = awqi_import(&fold->options, sizeof fold->options, options, "awq_fold_options");
    if (status == AWQ_OK) status = check_fold_options(&fold->options);
    if (status == AWQ_OK) status = awqi_check_tensor(scales, 1, 1u << AWQ_F32, "scales");
    if (status == AWQ_OK) status = check_host(scales, "scales");
    if (status == AWQ_OK)
        status = awqi_check_ties(fold->options.tie_copies, fold->options.tie_width, scales->shape[0],
                                 "awq_fold_options");
    return status == AWQ_OK ? read_divisors(fold, scales) : status;
}

/* What one element becomes.  For 1 + w the peers round after every operation, EXACT once. */
static float divided(float value, float scale, const struct pass *pass)
{
    int32_t dtype = pass->matrix.dtype;
    if (!pass->one_plus) return awqi_round_to(dtype, value / scale);
    if (pass->fold->options.profile == AWQ_PROFILE_EXACT)
        return awqi_round_to(dtype, (float)((1.0 + (double)value) / (double)scale - 1.0));
    float sum = awqi_round_to(dtype, value + 1.0f);
    return awqi_round_to(dtype, awqi_round_to(dtype, sum / scale) - 1.0f);
}

static void note_bad(struct pass *pass, int64_t index)
{
    int_least64_t first = atomic_load(&pass->first_bad);
    while (index < first && !atomic_compare_exchange_weak(&pass->first_bad, &first, index)) continue;
}

static void fold_row(void *user_data, int64_t index)
{
    struct pass *pass = user_data;
    const struct fold *fold = pass->fold;
    awq_tensor block = pass->matrix;
    int32_t dtype = block.dtype;
    int64_t row = block.shape[0] - fold->count + index, columns = block.shape[1];
    float scale = fold->divisors[index];
    if (fold->options.profile == AWQ_PROFILE_LLM_AWQ) scale = awqi_round_to(dtype, scale);
    if (!isfinite(scale) && columns > 0) note_bad(pass, index * columns); /* dividing would give a quiet zero */
    for (int64_t begin = 0; begin < columns; begin += BLOCK) {
        int64_t count = awqi_min64(BLOCK, columns - begin);
        float values[BLOCK];
        awqi_load_row(&block, row, values, count);
        for (int64_t i = 0; i < count; i++) values[i] = divided(values[i], scale, pass);
        int64_t bad = awqi_find_non_finite(values, count);
        if (bad >= 0) note_bad(pass, index * columns + begin + bad);
        if (pass->write) awqi_store_row(&block, row, values, count);
        block.byte_offset += (uint64_t)(count * block.strides[1] * (int64_t)awq_dtype_size(dtype));
    }
}

static awq_status verify(struct pass *pass)
{
    const struct fold *fold = pass->fold;
    awqi_parallel_for(fold->context, fold->count, fold_row, pass);
    int64_t bad = atomic_load(&pass->first_bad), columns = pass->matrix.shape[1];
    if (bad == INT64_MAX) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_NON_FINITE, "%s: element [%lld][%lld] divided by %g is not a finite %s", pass->name,
                     (long long)(pass->matrix.shape[0] - fold->count + bad / columns), (long long)(bad % columns),
                     (double)fold->divisors[bad / columns], awq_dtype_name(pass->matrix.dtype));
}

static void begin_pass(struct pass *pass, const struct fold *fold, const char *name, const awq_tensor *tensor)
{
    pass->fold = fold;
    pass->name = name;
    pass->matrix = *tensor;
    pass->one_plus = false;
    pass->write = false;
    atomic_init(&pass->first_bad, INT64_MAX);
    if (tensor->ndim != 1) return;
    pass->matrix.ndim = 2;
    pass->matrix.shape[1] = 1;
    pass->matrix.strides[1] = 1;
}

/* Verify both tensors ('bias' may be NULL), then write both. */
static awq_status fold_tensors(const struct fold *fold, const char *name, const awq_tensor *weight,
                               const awq_tensor *bias)
{
    struct pass passes[2];
    int count = bias != NULL ? 2 : 1;
    begin_pass(&passes[0], fold, name, weight);
    passes[0].one_plus = (fold->options.flags & AWQ_FOLD_ONE_PLUS_WEIGHT) != 0;
    if (bias != NULL) begin_pass(&passes[1], fold, "bias", bias);
    for (int i = 0; i < count; i++) {
        awq_status status = verify(&passes[i]);
        if (status != AWQ_OK) return status;
    }
    for (int i = 0; i < count; i++) {
        passes[i].write = true;
        awqi_parallel_for(fold->context, fold->count, fold_row, &passes[i]);
    }
    return AWQ_OK;
}

static awq_status check_no_flags(const struct fold *fold, const char *function)
{
    if (fold->options.flags == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: AWQ_FOLD_ONE_PLUS_WEIGHT is for norms", function);
}

static awq_status check_no_ties(const struct fold *fold, const char *function)
{
    if (fold->options.tie_copies <= 1) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: one element per channel, so there are no ties", function);
}

awq_status awq_fold_norm(awq_context *context, const awq_tensor *scales, awq_tensor *weight, awq_tensor *bias,
                         const awq_fold_options *options)
{
    struct fold fold;
    awq_status status = fold_begin(&fold, context, scales, options, "awq_fold_norm");
    if (status == AWQ_OK) status = check_no_ties(&fold, "awq_fold_norm");
    if (status == AWQ_OK) status = check_producer(weight, 1, "weight");
    if (status == AWQ_OK) status = awqi_check_shape_1d(weight, fold.count, "weight");
    if (status == AWQ_OK && bias != NULL) status = check_producer(bias, 1, "bias");
    if (status == AWQ_OK && bias != NULL) status = awqi_check_shape_1d(bias, fold.count, "bias");
    if (status == AWQ_OK) status = fold_tensors(&fold, "weight", weight, bias);
    awqi_free(context, fold.divisors);
    return status;
}

awq_status awq_fold_linear(awq_context *context, const awq_tensor *scales, awq_tensor *weight, awq_tensor *bias,
                           const awq_fold_options *options)
{
    struct fold fold;
    awq_status status = fold_begin(&fold, context, scales, options, "awq_fold_linear");
    if (status == AWQ_OK) status = check_no_flags(&fold, "awq_fold_linear");
    if (status == AWQ_OK) status = check_producer(weight, 2, "weight");
    if (status == AWQ_OK && weight->shape[0] < fold.count)
        status = awqi_fail(AWQ_ERROR_INVALID, "weight: %lld rows where at least %lld are needed",
                           (long long)weight->shape[0], (long long)fold.count);
    if (status == AWQ_OK && bias != NULL) status = check_producer(bias, 1, "bias");
    if (status == AWQ_OK && bias != NULL) status = awqi_check_shape_1d(bias, weight->shape[0], "bias");
    if (status == AWQ_OK) status = fold_tensors(&fold, "weight", weight, bias);
    awqi_free(context, fold.divisors);
    return status;
}

awq_status awq_fold_activation(awq_context *context, const awq_tensor *scales, awq_tensor *factor,
                               const awq_fold_options *options)
{
    struct fold fold;
    awq_status status = fold_begin(&fold, context, scales, options, "awq_fold_activation");
    if (status == AWQ_OK) status = check_no_flags(&fold, "awq_fold_activation");
    if (status == AWQ_OK) status = check_no_ties(&fold, "awq_fold_activation");
    if (status == AWQ_OK) status = check_producer(factor, 1, "factor");
    if (status == AWQ_OK) status = awqi_check_shape_1d(factor, fold.count, "factor");
    if (status == AWQ_OK) status = fold_tensors(&fold, "factor", factor, NULL);
    awqi_free(context, fold.divisors);
    return status;
}
