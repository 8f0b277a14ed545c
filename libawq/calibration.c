/* Statistics of one linear input: create, observe, merge, read. */
#include "calibration.h"

#include <math.h>

enum {
    DEFAULT_SAMPLE_ROWS = 512,
    SCAN_ELEMENTS = 1 << 16, /* read by one task when a batch is checked */
    SCAN_PART = 512          /* channels looked at together; even, as the row hash wants it */
};

awq_status awq_calibration_create(awq_context *context, int64_t channels, const awq_calibration_options *options,
                                  awq_calibration **calibration)
{
    awq_calibration_options known;
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_create: calibration is NULL");
    *calibration = NULL;
    if (context == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_create: context is NULL");
    awq_status status = awqi_import(&known, sizeof known, options, "awq_calibration_options");
    if (status == AWQ_OK) status = awqi_check_flags(known.flags, AWQ_CALIBRATION_GRAM, "awq_calibration_options");
    if (status != AWQ_OK) return status;
    if (channels < 1 || channels > INT64_MAX / (int64_t)sizeof(double))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_create: %lld channels", (long long)channels);
    if (known.sample_rows > INT32_MAX)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_options: sample_rows is %lld; at most %d rows are kept",
                         (long long)known.sample_rows, INT32_MAX);
    int64_t limit = known.sample_rows == 0 ? DEFAULT_SAMPLE_ROWS : awqi_max64(known.sample_rows, 0);

    void *memory;
    status = awqi_calloc(context, 1, sizeof(awq_calibration), "calibration", &memory);
    if (status != AWQ_OK) return status;
    awq_calibration *created = memory;
    atomic_init(&created->references, 1);
    created->context = awqi_context_retain(context);
    created->channels = channels;
    created->flags = known.flags;
    status = awqi_calloc(context, (uint64_t)channels, 5 * sizeof(double), "sums of channels", &memory);
    if (status != AWQ_OK) goto failed;
    created->sums.abs_high = memory;
    created->sums.abs_low = created->sums.abs_high + channels;
    created->sums.square_high = created->sums.abs_low + channels;
    created->sums.square_low = created->sums.square_high + channels;
    created->sums.max_abs = created->sums.square_low + channels;
    status = awqi_alloc(context, 1, sizeof *created->sample, "sample of rows", &memory);
    if (status != AWQ_OK) goto failed;
    created->sample = memory;
    awqi_row_sample_init(created->sample, context, channels, (uint32_t)limit, known.seed);
    if (known.flags & AWQ_CALIBRATION_GRAM) {
        status = awqi_calloc(context, (uint64_t)channels, (uint64_t)channels * sizeof(double), "Gram matrix", &memory);
        if (status != AWQ_OK) goto failed;
        created->gram = memory;
    }
    *calibration = created;
    return AWQ_OK;

failed:
    awq_calibration_destroy(created);
    return status;
}

void awq_calibration_destroy(awq_calibration *calibration)
{
    if (calibration == NULL) return;
    if (atomic_fetch_sub_explicit(&calibration->references, 1, memory_order_acq_rel) != 1) return;
    awq_context *context = calibration->context;
    if (calibration->sample != NULL) awqi_row_sample_clear(calibration->sample);
    awqi_free(context, calibration->sample);
    awqi_free(context, calibration->sums.abs_high);
    awqi_free(context, calibration->gram);
    awqi_free(context, calibration);
    awqi_context_release(context);
}

awq_calibration *awqi_calibration_retain(const awq_calibration *calibration)
{
    awq_calibration *retained = (awq_calibration *)(uintptr_t)calibration; /* counting is not changing */
    atomic_fetch_add_explicit(&retained->references, 1, memory_order_relaxed);
    return retained;
}

/* ---- observe */

struct row_scan {
    uint64_t hash;       /* of the contents, when rows are sampled */
    int64_t bad_channel; /* the first that is not finite, or -1 */
};

/* One batch of activations on its way into a calibration. */
struct batch {
    const awq_calibration *calibration;
    const awq_tensor *x;
    float *weights; /* [rows], or NULL for ones */
    int64_t rows, rows_per_task;
    struct row_scan *scans; /* [rows] */
    int64_t counted;        /* rows of nonzero weight */
};

static bool is_counted(const struct batch *batch, int64_t row)
{
    return batch->weights == NULL || batch->weights[row] != 0.0f;
}

static void scan_row(const struct batch *batch, int64_t row)
{
    const awq_calibration *calibration = batch->calibration;
    struct row_scan scan = {awqi_row_hash_begin(calibration->sample->seed), -1};
    float part[SCAN_PART];
    for (int64_t first = 0; first < calibration->channels && scan.bad_channel < 0; first += SCAN_PART) {
        int64_t count = awqi_min64(SCAN_PART, calibration->channels - first);
        awqi_load_columns(batch->x, row, first, part, count);
        int64_t bad = awqi_find_non_finite(part, count);
        if (bad >= 0) scan.bad_channel = first + bad;
        if (calibration->sample->limit > 0) scan.hash = awqi_row_hash_add(scan.hash, part, count);
    }
    scan.hash = awqi_row_hash_end(scan.hash);
    batch->scans[row] = scan;
}

static void scan_rows(void *user_data, int64_t task)
{
    const struct batch *batch = user_data;
    int64_t begin = task * batch->rows_per_task, end = awqi_min64(begin + batch->rows_per_task, batch->rows);
    for (int64_t row = begin; row < end; row++)
        if (is_counted(batch, row)) scan_row(batch, row);
}

/* Hash the rows that count and find what is not finite among them. */
static awq_status scan_batch(struct batch *batch)
{
    const awq_calibration *calibration = batch->calibration;
    void *memory;
    awq_status status = awqi_alloc(calibration->context, (uint64_t)batch->rows, sizeof *batch->scans,
                                   "hashes of observed rows", &memory);
    if (status != AWQ_OK) return status;
    batch->scans = memory;
    batch->rows_per_task = awqi_max64(1, SCAN_ELEMENTS / calibration->channels);
    awqi_parallel_for(calibration->context, awqi_ceil_div(batch->rows, batch->rows_per_task), scan_rows, batch);
    for (int64_t row = 0; row < batch->rows; row++) {
        if (!is_counted(batch, row)) continue;
        batch->counted++;
        int64_t channel = batch->scans[row].bad_channel;
        if (channel < 0) continue;
        float value;
        awqi_load_columns(batch->x, row, channel, &value, 1);
        return awqi_fail(AWQ_ERROR_NON_FINITE, "x: %s at row %lld, channel %lld", isnan(value) ? "NaN" : "infinity",
                         (long long)row, (long long)channel);
    }
    return AWQ_OK;
}

static awq_status load_weights(struct batch *batch, const awq_tensor *weights)
{
    awq_context *context = batch->calibration->context;
    awq_status status = awqi_check_tensor(weights, 1, 1u << AWQ_F32, "weights");
    if (status == AWQ_OK) status = awqi_check_device(context, weights, "weights");
    if (status == AWQ_OK) status = awqi_check_shape_1d(weights, batch->rows, "weights");
    if (status != AWQ_OK || batch->rows == 0) return status;
    void *memory;
    status = awqi_alloc(context, (uint64_t)batch->rows, sizeof *batch->weights, "weights of rows", &memory);
    if (status != AWQ_OK) return status;
    batch->weights = memory;
    awqi_load_row(weights, 0, batch->weights, batch->rows);
    for (int64_t row = 0; row < batch->rows; row++) {
        double weight = (double)batch->weights[row];
        if (!isfinite(weight))
            return awqi_fail(AWQ_ERROR_NON_FINITE, "weights: %s at row %lld", isnan(weight) ? "NaN" : "infinity",
                             (long long)row);
        if (weight < 0.0)
            return awqi_fail(AWQ_ERROR_INVALID, "weights: %g at row %lld; weights are not negative", weight,
                             (long long)row);
    }
    return AWQ_OK;
}

static awq_status count_rows(const awq_calibration *calibration, int64_t additional)
{
    int64_t rows;
    if (!__builtin_add_overflow(calibration->rows, additional, &rows)) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "calibration: %lld rows and %lld more cannot be counted",
                     (long long)calibration->rows, (long long)additional);
}

/* All that can fail has been done. */
static void sample_batch(awq_calibration *calibration, const struct batch *batch)
{
    struct awqi_row_sample *sample = calibration->sample;
    for (int64_t row = 0; row < batch->rows; row++) {
        if (!is_counted(batch, row) || !awqi_row_sample_wants(sample, batch->scans[row].hash)) continue;
        float *values = awqi_row_sample_scratch(sample);
        awqi_load_row(batch->x, row, values, calibration->channels);
        awqi_row_sample_offer(sample, batch->scans[row].hash, values);
    }
}

static awq_status observe_batch(awq_calibration *calibration, struct batch *batch)
{
    const struct awqi_backend *backend = awqi_context_backend(calibration->context);
    void *device = awqi_context_device(calibration->context);
    awq_status status = scan_batch(batch);
    if (status == AWQ_OK) status = count_rows(calibration, batch->counted);
    if (status == AWQ_OK) status = awqi_row_sample_reserve(calibration->sample, batch->counted);
    if (status == AWQ_OK && calibration->gram != NULL)
        status = backend->accumulate_gram(device, batch->x, batch->weights, calibration->gram);
    if (status == AWQ_OK) status = backend->accumulate(device, batch->x, batch->weights, &calibration->sums);
    if (status != AWQ_OK) return status;
    sample_batch(calibration, batch);
    calibration->rows += batch->counted;
    for (int64_t row = 0; row < batch->rows; row++)
        awqi_add_two_double(&calibration->weight_high, &calibration->weight_low,
                            batch->weights != NULL ? (double)batch->weights[row] : 1.0);
    return AWQ_OK;
}

static awq_status observe(awq_calibration *calibration, const awq_tensor *x, const awq_tensor *weights, bool weighted)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_observe: calibration is NULL");
    struct batch batch = {.calibration = calibration, .x = x};
    awq_status status = awqi_check_tensor(x, -1, AWQI_FLOATS, "x");
    if (status == AWQ_OK) status = awqi_check_device(calibration->context, x, "x");
    if (status == AWQ_OK) status = awqi_check_rows(x, calibration->channels, "x", &batch.rows);
    if (status != AWQ_OK) return status;
    if (x->device_type != AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "x: this version observes activations in host memory only");
    if (weighted) status = load_weights(&batch, weights);
    if (status == AWQ_OK && batch.rows > 0) status = observe_batch(calibration, &batch);
    awqi_free(calibration->context, batch.weights);
    awqi_free(calibration->context, batch.scans);
    return status;
}

awq_status awq_calibration_observe(awq_calibration *calibration, const awq_tensor *x)
{
    return observe(calibration, x, NULL, false);
}

awq_status awq_calibration_observe_weighted(awq_calibration *calibration, const awq_tensor *x,
                                            const awq_tensor *weights)
{
    return observe(calibration, x, weights, true);
}

/* ---- merge */

static awq_status check_mergeable(const awq_calibration *a, const awq_calibration *b)
{
    if (a == b) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: calibration and source are the same");
    if (a->channels != b->channels)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: %lld channels, but %lld in source",
                         (long long)a->channels, (long long)b->channels);
    if (a->flags != b->flags)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: flags 0x%x, but 0x%x in source", (unsigned)a->flags,
                         (unsigned)b->flags);
    if (a->sample->limit != b->sample->limit)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: sample_rows %u, but %u in source", a->sample->limit,
                         b->sample->limit);
    if (a->sample->seed != b->sample->seed)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: seed %llu, but %llu in source",
                         (unsigned long long)a->sample->seed, (unsigned long long)b->sample->seed);
    return AWQ_OK;
}

static void merge_sums(awq_calibration *calibration, const awq_calibration *source)
{
    struct awqi_channel_sums *into = &calibration->sums;
    const struct awqi_channel_sums *from = &source->sums;
    for (int64_t i = 0; i < calibration->channels; i++) {
        awqi_add_two_double(&into->abs_high[i], &into->abs_low[i], from->abs_high[i]);
        awqi_add_two_double(&into->abs_high[i], &into->abs_low[i], from->abs_low[i]);
        awqi_add_two_double(&into->square_high[i], &into->square_low[i], from->square_high[i]);
        awqi_add_two_double(&into->square_high[i], &into->square_low[i], from->square_low[i]);
        into->max_abs[i] = fmax(into->max_abs[i], from->max_abs[i]);
    }
}

awq_status awq_calibration_merge(awq_calibration *calibration, const awq_calibration *source)
{
    if (calibration == NULL || source == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_merge: %s is NULL",
                         calibration ? "source" : "calibration");
    awq_status status = check_mergeable(calibration, source);
    if (status == AWQ_OK) status = count_rows(calibration, source->rows);
    if (status == AWQ_OK) status = awqi_row_sample_reserve(calibration->sample, source->sample->count);
    if (status != AWQ_OK) return status;
    merge_sums(calibration, source);
    for (int64_t i = 0; calibration->gram != NULL && i < calibration->channels * calibration->channels; i++)
        calibration->gram[i] += source->gram[i];
    const struct awqi_row_sample *from = source->sample;
    for (uint32_t slot = 0; slot < from->count; slot++)
        awqi_row_sample_offer(calibration->sample, from->hashes[slot], from->rows + slot * from->channels);
    calibration->rows += source->rows;
    awqi_add_two_double(&calibration->weight_high, &calibration->weight_low, source->weight_high);
    awqi_add_two_double(&calibration->weight_high, &calibration->weight_low, source->weight_low);
    return AWQ_OK;
}

/* ---- results */

awq_status awq_calibration_get_info(const awq_calibration *calibration, awq_calibration_info *info)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_get_info: calibration is NULL");
    awq_calibration_info known;
    awq_struct_init(&known, sizeof known);
    known.flags = calibration->flags;
    known.channels = calibration->channels;
    known.rows = calibration->rows;
    known.weight = calibration->weight_high;
    known.sample_rows = calibration->sample->count;
    known.sample_limit = calibration->sample->limit;
    known.seed = calibration->sample->seed;
    return awqi_export(info, &known, sizeof known, "awq_calibration_info");
}

awq_status awq_calibration_get_statistic(const awq_calibration *calibration, int32_t statistic, double *values,
                                         int64_t count)
{
    if (calibration == NULL || values == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_get_statistic: %s is NULL",
                         calibration ? "values" : "calibration");
    if (count != calibration->channels)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_get_statistic: %lld values for %lld channels",
                         (long long)count, (long long)calibration->channels);
    /* The high part of a sum is the sum rounded to double. */
    const struct awqi_channel_sums *sums = &calibration->sums;
    const double *wanted;
    switch (statistic) {
    case AWQ_STATISTIC_MEAN_ABS: wanted = sums->abs_high; break;
    case AWQ_STATISTIC_MEAN_SQUARE: wanted = sums->square_high; break;
    case AWQ_STATISTIC_MAX_ABS: wanted = sums->max_abs; break;
    default: return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_get_statistic: no statistic %d", statistic);
    }
    if (calibration->rows == 0)
        return awqi_fail(AWQ_ERROR_STATE, "awq_calibration_get_statistic: nothing was observed");
    double divisor = statistic == AWQ_STATISTIC_MAX_ABS ? 1.0 : calibration->weight_high;
    for (int64_t i = 0; i < count; i++) values[i] = wanted[i] / divisor;
    return AWQ_OK;
}

awq_status awq_calibration_get_samples(const awq_calibration *calibration, awq_tensor *samples)
{
    if (calibration == NULL || samples == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_get_samples: %s is NULL",
                         calibration ? "samples" : "calibration");
    awqi_row_sample_sort(calibration->sample);
    awq_tensor_init_const_2d(samples, calibration->sample->rows, AWQ_F32, calibration->sample->count,
                             calibration->channels);
    return AWQ_OK;
}
