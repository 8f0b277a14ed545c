/* Statistics of one linear input: create, observe, merge, read. */
#include "calibration.h"

#include "place.h"
#include "search.h"

#include <math.h>
#include <stdlib.h>

enum {
    DEFAULT_SAMPLE_ROWS = 512,
    GATHERED = 64 /* rows fetched at once for the sample */
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
    awqi_free(context, calibration->root);
    if (calibration->device_gram != NULL)
        awqi_context_backend(context)->release(awqi_context_device(context), calibration->device_gram);
    awqi_free(context, calibration);
    awqi_context_release(context);
}

awq_calibration *awqi_calibration_retain(const awq_calibration *calibration)
{
    awq_calibration *retained = (awq_calibration *)(uintptr_t)calibration; /* counting is not changing */
    atomic_fetch_add_explicit(&retained->references, 1, memory_order_relaxed);
    return retained;
}

static void drop_root(awq_calibration *calibration)
{
    awqi_free(calibration->context, calibration->root);
    calibration->root = NULL;
}

static awq_status make_root(awq_calibration *calibration, double damping)
{
    const int64_t channels = calibration->channels;
    const uint64_t count = (uint64_t)channels * (uint64_t)channels;
    void *gram = NULL, *root = NULL;
    awq_status status = awqi_alloc(calibration->context, count, sizeof(double), "Gram matrix to factor", &gram);
    if (status == AWQ_OK)
        status = awqi_alloc(calibration->context, count, sizeof(float), "root of the Gram matrix", &root);
    if (status == AWQ_OK) {
        double *values = gram;
        memcpy(values, calibration->gram, count * sizeof *values);
        for (int64_t i = 0; i < channels; i++) values[i * (channels + 1)] *= 1.0 + damping;
        awqi_gram_root(calibration->context, values, channels, root);
        calibration->root = root;
        calibration->root_damping = damping;
    }
    awqi_free(calibration->context, gram);
    return status;
}

awq_status awqi_calibration_root(const awq_calibration *calibration, double damping, const float **root)
{
    awq_calibration *kept = (awq_calibration *)(uintptr_t)calibration;
    awq_status status = awqi_calibration_settle(calibration);
    if (status == AWQ_OK && kept->root != NULL && kept->root_damping != damping) drop_root(kept);
    if (status == AWQ_OK && kept->root == NULL) status = make_root(kept, damping);
    if (status == AWQ_OK) *root = kept->root;
    return status;
}

/* ---- observe */

/* One batch of activations on its way into a calibration. */
struct batch {
    const awq_calibration *calibration;
    struct awqi_placed x;
    float *weights; /* [rows], or NULL for ones */
    int64_t rows;
    struct awqi_row_scan *scans; /* [rows] */
    int64_t counted;             /* rows of nonzero weight */
    uint64_t *hashes;            /* [counted], scratch */
    int64_t *chosen;             /* [chosen_count]: rows that may enter the sample */
    int64_t chosen_count;
    float *values; /* [GATHERED][channels] of them */
};

static bool is_counted(const struct batch *batch, int64_t row)
{
    return batch->weights == NULL || batch->weights[row] != 0.0f;
}

static awq_status take(const struct batch *batch, int64_t count, size_t size, const char *what, void *field)
{
    void *memory;
    awq_status status = awqi_alloc(batch->calibration->context, (uint64_t)count, size, what, &memory);
    if (status == AWQ_OK) memcpy(field, &memory, sizeof memory);
    return status;
}

/* Hash the rows that count and find what is not finite among them. */
static awq_status scan_batch(struct batch *batch)
{
    const awq_calibration *calibration = batch->calibration;
    awq_context *context = calibration->context;
    const uint64_t *seed = calibration->sample->limit > 0 ? &calibration->sample->seed : NULL;
    awq_status status = take(batch, batch->rows, sizeof *batch->scans, "hashes of observed rows", &batch->scans);
    if (status == AWQ_OK)
        status = awqi_context_backend(context)->scan_rows(awqi_context_device(context), &batch->x.view, batch->weights,
                                                          seed, batch->scans);
    if (status != AWQ_OK) return status;
    for (int64_t row = 0; row < batch->rows; row++) {
        if (!is_counted(batch, row)) continue;
        batch->counted++;
        int64_t channel = batch->scans[row].bad_channel;
        if (channel < 0) continue;
        float value;
        status = awqi_fetch_element(context, &batch->x.view, row, channel, &value);
        if (status != AWQ_OK) return status;
        return awqi_fail(AWQ_ERROR_NON_FINITE, "x: %s at row %lld, channel %lld", isnan(value) ? "NaN" : "infinity",
                         (long long)row, (long long)channel);
    }
    return AWQ_OK;
}

static awq_status load_weights(struct batch *batch, const awq_tensor *weights)
{
    awq_context *context = batch->calibration->context;
    awq_status status = awqi_check_tensor(weights, 1, 1u << AWQ_F32, "weights");
    if (status == AWQ_OK) status = awqi_check_reachable(context, weights, "weights");
    if (status == AWQ_OK) status = awqi_check_shape_1d(weights, batch->rows, "weights");
    if (status != AWQ_OK || batch->rows == 0) return status;
    status = take(batch, batch->rows, sizeof *batch->weights, "weights of rows", &batch->weights);
    if (status == AWQ_OK) status = awqi_fetch_rows(context, weights, 0, 1, batch->weights);
    if (status != AWQ_OK) return status;
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

static int compare_hashes(const void *a, const void *b)
{
    const uint64_t *left = a, *right = b;
    return *left < *right ? -1 : *left > *right;
}

/* Of the rows that the sample wants as it is, those with the least hashes, as many different ones as it has room for:
 * others would not stay. */
static awq_status choose_rows(struct batch *batch)
{
    const struct awqi_row_sample *sample = batch->calibration->sample;
    if (sample->limit == 0 || batch->counted == 0) return AWQ_OK;
    awq_status status = take(batch, batch->counted, sizeof *batch->hashes, "hashes of observed rows", &batch->hashes);
    if (status == AWQ_OK)
        status = take(batch, batch->counted, sizeof *batch->chosen, "rows for the sample", &batch->chosen);
    if (status != AWQ_OK) return status;
    int64_t wanted = 0;
    for (int64_t row = 0; row < batch->rows; row++) {
        if (!is_counted(batch, row) || !awqi_row_sample_wants(sample, batch->scans[row].hash)) continue;
        batch->hashes[wanted] = batch->scans[row].hash;
        batch->chosen[wanted++] = row;
    }
    qsort(batch->hashes, (size_t)wanted, sizeof *batch->hashes, compare_hashes);
    uint64_t greatest = UINT64_MAX;
    for (int64_t i = 0, distinct = 0; i < wanted && distinct < sample->limit; i++) {
        distinct += i == 0 || batch->hashes[i] != batch->hashes[i - 1];
        if (distinct == sample->limit) greatest = batch->hashes[i];
    }
    for (int64_t i = 0; i < wanted; i++)
        if (batch->scans[batch->chosen[i]].hash <= greatest) batch->chosen[batch->chosen_count++] = batch->chosen[i];
    if (batch->chosen_count == 0) return AWQ_OK;
    return take(batch, awqi_min64(batch->chosen_count, GATHERED) * sample->channels, sizeof *batch->values,
                "rows for the sample", &batch->values);
}

static awq_status sample_batch(awq_calibration *calibration, const struct batch *batch)
{
    const struct awqi_backend *backend = awqi_context_backend(calibration->context);
    for (int64_t first = 0; first < batch->chosen_count; first += GATHERED) {
        int64_t count = awqi_min64(GATHERED, batch->chosen_count - first);
        awq_status status = backend->gather_rows(awqi_context_device(calibration->context), &batch->x.view,
                                                 batch->chosen + first, count, batch->values);
        if (status != AWQ_OK) return status;
        for (int64_t i = 0; i < count; i++)
            awqi_row_sample_offer(calibration->sample, batch->scans[batch->chosen[first + i]].hash,
                                  batch->values + i * calibration->channels);
    }
    return AWQ_OK;
}

/* After this the Gram matrix is where the device adds to it. */
static awq_status lend_gram(awq_calibration *calibration, double **gram)
{
    awq_context *context = calibration->context;
    *gram = calibration->device_gram != NULL ? calibration->device_gram : calibration->gram;
    if (calibration->device_gram != NULL || awqi_context_device_type(context) == AWQ_DEVICE_CPU) return AWQ_OK;
    const struct awqi_backend *backend = awqi_context_backend(context);
    void *device = awqi_context_device(context), *memory;
    int64_t count = calibration->channels * calibration->channels;
    awq_status status = backend->allocate(device, (uint64_t)count * sizeof **gram, &memory);
    if (status != AWQ_OK) return awqi_fail_in(status, "Gram matrix");
    awq_tensor host, view;
    awq_tensor_init_const_1d(&host, calibration->gram, AWQ_F64, count);
    awq_tensor_init_1d(&view, memory, AWQ_F64, count);
    awqi_set_device(context, &view);
    status = backend->copy(device, &host, &view, NULL);
    if (status != AWQ_OK) {
        backend->release(device, memory);
        return status;
    }
    *gram = calibration->device_gram = memory;
    return AWQ_OK;
}

awq_status awqi_calibration_settle(const awq_calibration *calibration)
{
    if (calibration->device_gram == NULL) return AWQ_OK;
    awq_calibration *settled = (awq_calibration *)(uintptr_t)calibration;
    const struct awqi_backend *backend = awqi_context_backend(settled->context);
    void *device = awqi_context_device(settled->context);
    awq_tensor host, view;
    awq_tensor_init_1d(&host, settled->gram, AWQ_F64, settled->channels * settled->channels);
    awq_tensor_init_const_1d(&view, settled->device_gram, AWQ_F64, settled->channels * settled->channels);
    awqi_set_device(settled->context, &view);
    awq_status status = backend->copy(device, &view, &host, NULL);
    if (status != AWQ_OK) return awqi_fail_in(status, "Gram matrix");
    backend->release(device, settled->device_gram);
    settled->device_gram = NULL;
    return AWQ_OK;
}

static awq_status observe_batch(awq_calibration *calibration, struct batch *batch)
{
    const struct awqi_backend *backend = awqi_context_backend(calibration->context);
    void *device = awqi_context_device(calibration->context);
    double *gram = NULL;
    awq_status status = scan_batch(batch);
    if (status == AWQ_OK) status = count_rows(calibration, batch->counted);
    if (status == AWQ_OK) status = awqi_row_sample_reserve(calibration->sample, batch->counted);
    if (status == AWQ_OK) status = choose_rows(batch);
    if (status == AWQ_OK && calibration->gram != NULL) status = lend_gram(calibration, &gram);
    /* From here on nothing fails but a device that has failed for good. */
    if (status == AWQ_OK && gram != NULL)
        status = backend->accumulate_gram(device, &batch->x.view, batch->weights, gram);
    if (status == AWQ_OK) status = backend->accumulate(device, &batch->x.view, batch->weights, &calibration->sums);
    drop_root(calibration);
    if (status == AWQ_OK) status = sample_batch(calibration, batch);
    if (status != AWQ_OK) return status;
    calibration->rows += batch->counted;
    for (int64_t row = 0; row < batch->rows; row++)
        awqi_add_two_double(&calibration->weight_high, &calibration->weight_low,
                            batch->weights != NULL ? (double)batch->weights[row] : 1.0);
    return AWQ_OK;
}

static void release_batch(awq_context *context, struct batch *batch)
{
    awqi_unplace(context, &batch->x);
    awqi_free(context, batch->weights);
    awqi_free(context, batch->scans);
    awqi_free(context, batch->hashes);
    awqi_free(context, batch->chosen);
    awqi_free(context, batch->values);
}

static awq_status observe(awq_calibration *calibration, const awq_tensor *x, const awq_tensor *weights, bool weighted)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_observe: calibration is NULL");
    struct batch batch = {.calibration = calibration};
    awq_status status = awqi_check_tensor(x, -1, AWQI_FLOATS, "x");
    if (status == AWQ_OK) status = awqi_check_reachable(calibration->context, x, "x");
    if (status == AWQ_OK) status = awqi_check_rows(x, calibration->channels, "x", &batch.rows);
    if (status != AWQ_OK) return status;
    if (weighted) status = load_weights(&batch, weights);
    if (status == AWQ_OK && batch.rows > 0) {
        status = awqi_place(calibration->context, x, &batch.x);
        if (status == AWQ_OK) status = observe_batch(calibration, &batch);
    }
    release_batch(calibration->context, &batch);
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
    if (status == AWQ_OK) status = awqi_calibration_settle(calibration);
    if (status == AWQ_OK) status = awqi_calibration_settle(source);
    if (status == AWQ_OK) status = awqi_row_sample_reserve(calibration->sample, source->sample->count);
    if (status != AWQ_OK) return status;
    drop_root(calibration);
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

/* ---- trimming */

enum {
    SUM_BITS = 48, /* of the 105 that two doubles hold however they were added */
    GRAM_BITS = 28 /* of 53 */
};

/* The nearest multiple of 2^exponent. */
static double round_to_power(double value, int exponent)
{
    return ldexp(rint(ldexp(value, -exponent)), exponent);
}

/* The power of two above |value|; of 0, some power. */
static int exponent_of(double value)
{
    int exponent;
    frexp(value, &exponent);
    return exponent;
}

static void trim_sums(double *high, double *low, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        high[i] = round_to_power(high[i], exponent_of(high[i]) - SUM_BITS);
        low[i] = 0.0;
    }
}

/* No entry is larger than the root of the two that share its row or its column with the diagonal. */
static void trim_gram(void *user_data, int64_t row)
{
    awq_calibration *calibration = user_data;
    const int64_t channels = calibration->channels;
    double *gram = calibration->gram;
    int exponent = exponent_of(gram[row * (channels + 1)]);
    for (int64_t j = 0; j < row; j++) {
        int power = (exponent + exponent_of(gram[j * (channels + 1)]) + 1) / 2 - GRAM_BITS;
        double value = round_to_power(gram[row * channels + j], power);
        gram[row * channels + j] = gram[j * channels + row] = value;
    }
}

awq_status awq_calibration_trim(awq_calibration *calibration)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_trim: calibration is NULL");
    awq_status status = awqi_calibration_settle(calibration);
    if (status != AWQ_OK) return status;
    const struct awqi_channel_sums *sums = &calibration->sums;
    const int64_t channels = calibration->channels;
    trim_sums(sums->abs_high, sums->abs_low, channels);
    trim_sums(sums->square_high, sums->square_low, channels);
    trim_sums(&calibration->weight_high, &calibration->weight_low, 1);
    if (calibration->gram == NULL) return AWQ_OK;
    awqi_parallel_for(calibration->context, channels, trim_gram, calibration);
    for (int64_t i = 0; i < channels; i++) {
        double *diagonal = &calibration->gram[i * (channels + 1)];
        *diagonal = round_to_power(*diagonal, exponent_of(*diagonal) - GRAM_BITS);
    }
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
