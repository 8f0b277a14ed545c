/* The search for column scales: candidates, their losses, the best.
 *
 * The loss of a candidate is the squared error of the outputs, summed over the linears and divided by rows times the
 * outputs of all linears together: the mean over what the linears would give if they were one.  With D = W - Q(W s) / s
 * it is |X D^T|^2, so a candidate costs one quantisation and one product per linear; nothing is kept from one candidate
 * to the next but its loss. */
#include "search.h"

#include "calibration.h"
#include "place.h"
#include "salient.h"

#include <math.h>
#include <stdio.h>

enum { SKETCH_COLUMNS = 256 }; /* to a task */

struct candidate {
    int32_t kind; /* AWQ_SCALES_PLAIN, AWQ_SCALES_DUO or AWQI_SCALES_IDENTITY */
    double alpha;
    double loss;
};

struct awq_search {
    awq_context *context;
    awq_calibration *calibration;
    awq_search_options options; /* its 'quantize' is NULL: see below */
    awq_quantize_options quantize;
    struct awqi_quantizer quantizer;
    awq_tensor *weights;
    int64_t count, capacity; /* of the weights */
    struct candidate *candidates;
    int64_t candidate_count;
    /* The result. */
    bool finished;
    float *scales; /* [channels] */
    int64_t best, rows;
    double loss_identity;
};

/* What lives as long as one run. */
struct run {
    awq_search *search;
    struct awqi_placed *placed; /* the weights that are .. */
    awq_tensor *weights;        /* .. where the context computes; placed_count of them */
    int64_t placed_count;
    struct awqi_candidates source;
    float *scales;   /* [channels], of the candidate at work */
    struct awqi_salient *salient; /* of each weight */
    float *masked;                /* [channels], the scales with 0 in salient columns; NULL when there are none */
    float **buffers; /* candidate weights [N][K] there: one for each weight with a callback, else one for all */
    int64_t buffer_count;
    awq_tensor *views; /* of the buffers, for the callback */
    const awq_tensor **view_list;
    const float *rows; /* [x_rows][channels], of the sample, the root of the Gram matrix, or a sketch of either */
    float *root;       /* NULL for the sample */
    float *sketch;     /* NULL: none */
    const float *exact_rows; /* [exact_count][channels], what it is a sketch of, or else 'rows' */
    int64_t exact_count;
    float *x;          /* the rows where the context computes */
    int64_t x_rows;
    double divisor; /* of the sum of squares */
};

/* ---- options */

awq_status awqi_check_ties(int64_t tie_copies, int64_t tie_width, int64_t inputs, const char *type)
{
    if (tie_copies == 0 && tie_width == 0) return AWQ_OK;
    if (tie_copies >= 1 && tie_width >= 1 && tie_copies <= inputs / tie_width && inputs % (tie_copies * tie_width) == 0)
        return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID,
                     "%s: heads of tie_width %lld in copies of tie_copies %lld do not make up %lld inputs", type,
                     (long long)tie_width, (long long)tie_copies, (long long)inputs);
}

static awq_status check_choice(int32_t value, int32_t last, const char *field)
{
    if (value >= 0 && value <= last) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: %s is %d; 0 to %d are possible", field, value, last);
}

static awq_status check_search_options(const awq_search_options *options, const awq_calibration *calibration)
{
    awq_status status = awqi_check_flags(options->flags, AWQ_SEARCH_CLOSED_GRID, "awq_search_options");
    if (status == AWQ_OK) status = check_choice(options->scales, AWQ_SCALES_BOTH, "scales");
    if (status == AWQ_OK) status = check_choice(options->normalization, AWQ_NORMALIZE_MEAN, "normalization");
    if (status == AWQ_OK) status = check_choice(options->objective, AWQ_OBJECTIVE_GRAM, "objective");
    if (status == AWQ_OK)
        status = awqi_check_ties(options->tie_copies, options->tie_width, calibration->channels, "awq_search_options");
    if (status != AWQ_OK) return status;
    if (options->grid_points < 0 || (options->grid_points == 1 && (options->flags & AWQ_SEARCH_CLOSED_GRID)))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: %d grid points%s", options->grid_points,
                         options->grid_points == 1 ? " do not make a closed grid" : "");
    if (!(options->smooth_factor >= 0.0 && options->smooth_factor <= 1.0))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: smooth_factor is %g; it lies in [0, 1]",
                         options->smooth_factor);
    if (options->max_rows < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: max_rows is %lld", (long long)options->max_rows);
    if (options->sketch_rows < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: sketch_rows is %lld", (long long)options->sketch_rows);
    if (options->objective == AWQ_OBJECTIVE_GRAM && options->loss == NULL && calibration->gram == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: the calibration has no Gram matrix; "
                                            "create it with AWQ_CALIBRATION_GRAM");
    return AWQ_OK;
}

static awq_status import_options(awq_search *search, const awq_search_options *given)
{
    awq_search_options *options = &search->options;
    awq_status status = awqi_import(options, sizeof *options, given, "awq_search_options");
    if (status == AWQ_OK) status = check_search_options(options, search->calibration);
    if (status == AWQ_OK) status = awqi_search_merge_options(NULL, options->quantize, &search->quantize);
    if (status != AWQ_OK) return status;
    options->quantize = NULL;
    if (options->grid_points == 0) options->grid_points = 20;
    const awq_quantize_options *quantize = &search->quantize;
    const char *own = quantize->clip != NULL              ? "clip"
                      : quantize->input_scale != NULL     ? "input_scale"
                      : quantize->importance != NULL      ? "importance"
                      : quantize->salient_columns != NULL ? "salient_columns"
                      : quantize->calibration != NULL     ? "calibration"
                                                          : NULL;
    if (own != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_options: quantize has %s, which belongs to one weight", own);
    return awqi_quantizer_resolve(&search->quantize, search->calibration->channels, &search->quantizer);
}

const awq_calibration *awqi_search_calibration(const awq_search *search)
{
    return search != NULL ? search->calibration : NULL;
}

awq_status awqi_search_merge_options(const awq_search *search, const awq_quantize_options *given,
                                     awq_quantize_options *options)
{
    awq_status status = awqi_import(options, sizeof *options, given, "awq_quantize_options");
    if (status != AWQ_OK || search == NULL) return status;
    const awq_quantize_options *defaults = &search->quantize;
    if (options->bits == 0) options->bits = defaults->bits;
    if (options->group_size == 0) options->group_size = defaults->group_size;
    if (options->profile == 0) options->profile = defaults->profile;
    if (options->scale_dtype == 0) options->scale_dtype = defaults->scale_dtype;
    if (options->salient_rule == 0) options->salient_rule = defaults->salient_rule;
    if (options->salient_fraction == 0.0 && options->salient_columns == NULL)
        options->salient_fraction = defaults->salient_fraction;
    if (options->seed == 0) options->seed = defaults->seed;
    if (options->range == 0) options->range = defaults->range;
    if (options->rounding == 0) options->rounding = defaults->rounding;
    if (options->damping == 0.0) options->damping = defaults->damping;
    options->flags |= defaults->flags;
    return AWQ_OK;
}

/* ---- the handle */

static bool is_exact(const awq_search *search)
{
    return search->quantizer.profile == AWQ_PROFILE_EXACT;
}

/* The grid, PLAIN before DUO, then identity where the profile asks for it and the grid does not begin with it. */
static awq_status list_candidates(awq_search *search)
{
    const awq_search_options *options = &search->options;
    bool plain = options->scales != AWQ_SCALES_DUO, duo = options->scales != AWQ_SCALES_PLAIN;
    int32_t points = options->grid_points;
    double divisor = options->flags & AWQ_SEARCH_CLOSED_GRID ? points - 1 : points;
    void *memory;
    awq_status status = awqi_alloc(search->context, 2 * (uint64_t)points + 1, sizeof *search->candidates, "candidates",
                                   &memory);
    if (status != AWQ_OK) return status;
    struct candidate *next = search->candidates = memory;
    for (int32_t i = 0; plain && i < points; i++) *next++ = (struct candidate){AWQ_SCALES_PLAIN, i / divisor, NAN};
    for (int32_t i = 0; duo && i < points; i++) *next++ = (struct candidate){AWQ_SCALES_DUO, i / divisor, NAN};
    if (!plain && is_exact(search)) *next++ = (struct candidate){AWQI_SCALES_IDENTITY, 0.0, NAN};
    search->candidate_count = next - search->candidates;
    return AWQ_OK;
}

awq_status awq_search_create(awq_context *context, const awq_calibration *calibration,
                             const awq_search_options *options, awq_search **search)
{
    if (search == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_search_create: search is NULL");
    *search = NULL;
    if (context == NULL || calibration == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_create: %s is NULL", context ? "calibration" : "context");
    void *memory;
    awq_status status = awqi_calibration_settle(calibration);
    if (status == AWQ_OK) status = awqi_calloc(context, 1, sizeof(awq_search), "search", &memory);
    if (status != AWQ_OK) return status;
    awq_search *created = memory;
    created->context = awqi_context_retain(context);
    created->calibration = awqi_calibration_retain(calibration);
    awqi_row_sample_sort(calibration->sample); /* now, as the Gram matrix: searches in several threads only read them */
    status = import_options(created, options);
    if (status == AWQ_OK) status = list_candidates(created);
    if (status == AWQ_OK)
        status = awqi_alloc(context, (uint64_t)calibration->channels, sizeof *created->scales, "scales", &memory);
    if (status != AWQ_OK) {
        awq_search_destroy(created);
        return status;
    }
    created->scales = memory;
    *search = created;
    return AWQ_OK;
}

void awq_search_destroy(awq_search *search)
{
    if (search == NULL) return;
    awq_context *context = search->context;
    awq_calibration_destroy(search->calibration);
    awqi_free(context, search->weights);
    awqi_free(context, search->candidates);
    awqi_free(context, search->scales);
    awqi_free(context, search);
    awqi_context_release(context);
}

awq_status awq_search_add_weight(awq_search *search, const awq_tensor *w)
{
    if (search == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_search_add_weight: search is NULL");
    awq_status status = awqi_check_tensor(w, 2, AWQI_FLOATS, "w");
    if (status == AWQ_OK) status = awqi_check_reachable(search->context, w, "w");
    if (status == AWQ_OK) status = awqi_check_shape_2d(w, w->shape[0], search->calibration->channels, "w");
    if (status != AWQ_OK) return status;
    if (w->shape[0] == 0) return awqi_fail(AWQ_ERROR_INVALID, "w: no outputs");
    if (search->count == search->capacity) {
        void *memory;
        int64_t capacity = search->capacity + 4;
        status = awqi_alloc(search->context, (uint64_t)capacity, sizeof *search->weights, "weights of a search",
                            &memory);
        if (status != AWQ_OK) return status;
        if (search->count > 0) memcpy(memory, search->weights, (size_t)search->count * sizeof *search->weights);
        awqi_free(search->context, search->weights);
        search->weights = memory;
        search->capacity = capacity;
    }
    search->weights[search->count++] = *w;
    search->finished = false;
    return AWQ_OK;
}

/* ---- preparing a run */

static int64_t total_outputs(const awq_search *search)
{
    int64_t outputs = 0;
    for (int64_t i = 0; i < search->count; i++) outputs += search->weights[i].shape[0];
    return outputs;
}

/* Allocate 'count' doubles or floats into a field of the run. */
static awq_status take(struct run *run, int64_t count, size_t size, const char *what, void *field)
{
    void *memory;
    awq_status status = awqi_alloc(run->search->context, (uint64_t)count, size, what, &memory);
    if (status == AWQ_OK) memcpy(field, &memory, sizeof memory);
    return status;
}

static awq_status prepare_weights(struct run *run)
{
    awq_search *search = run->search;
    awq_status status = take(run, search->count, sizeof *run->placed, "weights of a search", &run->placed);
    if (status == AWQ_OK)
        status = take(run, search->count, sizeof *run->weights, "weights of a search", &run->weights);
    for (int64_t i = 0; status == AWQ_OK && i < search->count; i++) {
        const struct awqi_scaled weight = {&run->weights[i], NULL, AWQ_F32};
        char name[32];
        snprintf(name, sizeof name, "weight %lld", (long long)i);
        status = awqi_place(search->context, &search->weights[i], &run->placed[i]);
        run->placed_count++;
        run->weights[i] = run->placed[i].view;
        if (status == AWQ_OK) status = awqi_scaled_check(search->context, &weight, name);
    }
    return status;
}

static awq_status prepare_source(struct run *run)
{
    awq_search *search = run->search;
    const awq_search_options *options = &search->options;
    struct awqi_candidates *source = &run->source;
    int64_t channels = source->channels = search->calibration->channels;
    source->normalization = options->normalization;
    source->skip_dead = is_exact(search);
    /* llm-awq rounds scales to the layer's dtype wherever it applies them; the result is what it applies. */
    source->scale_dtype = search->quantizer.profile == AWQ_PROFILE_LLM_AWQ ? search->weights[0].dtype : AWQ_F32;

    awq_status status = take(run, channels, sizeof(double), "importance", &source->importance);
    if (status == AWQ_OK) status = take(run, channels, sizeof(double), "candidate scales", &source->work);
    if (status == AWQ_OK) status = take(run, channels, sizeof(float), "candidate scales", &run->scales);
    if (status == AWQ_OK)
        status = awq_calibration_get_statistic(search->calibration, AWQ_STATISTIC_MEAN_ABS, source->importance,
                                               channels);
    if (status != AWQ_OK) return status;
    awqi_smooth_importance(source->importance, channels, options->smooth_factor);
    awqi_tie_values(source->importance, channels, options->tie_copies, options->tie_width);
    if (options->scales == AWQ_SCALES_PLAIN) return AWQ_OK;

    status = take(run, channels, sizeof(double), "mean weights", &source->weight_mean);
    if (status != AWQ_OK) return status;
    status = awqi_weight_mean(search->context, run->weights, search->count, search->quantizer.group_size,
                              source->weight_mean);
    if (status == AWQ_OK)
        awqi_tie_values(source->weight_mean, channels, options->tie_copies, options->tie_width);
    return status;
}

/* |R D^T|^2 = |X D^T|^2 when R^T R = X^T X, so the Gram matrix serves as sampled rows do. */
static awq_status prepare_gram(struct run *run)
{
    const awq_calibration *calibration = run->search->calibration;
    int64_t channels = calibration->channels;
    double *gram;
    awq_status status = take(run, channels * channels, sizeof(double), "Gram matrix to factor", &gram);
    if (status != AWQ_OK) return status;
    memcpy(gram, calibration->gram, (size_t)(channels * channels) * sizeof *gram);
    status = take(run, channels * channels, sizeof(float), "root of the Gram matrix", &run->root);
    if (status == AWQ_OK) awqi_gram_root(run->search->context, gram, channels, run->root);
    awqi_free(run->search->context, gram);
    run->rows = run->root;
    run->x_rows = channels;
    run->divisor = calibration->weight_high * (double)total_outputs(run->search);
    return status;
}

static awq_status prepare_samples(struct run *run)
{
    awq_search *search = run->search;
    awq_tensor samples;
    awq_status status = awq_calibration_get_samples(search->calibration, &samples);
    if (status != AWQ_OK) return status;
    if (samples.shape[0] == 0)
        return awqi_fail(AWQ_ERROR_STATE, "awq_search_run: the calibration keeps no rows; give it sample_rows, "
                                          "or the search another objective");
    int64_t limit = search->options.max_rows != 0 ? search->options.max_rows : INT64_MAX;
    run->rows = awqi_tensor_data(&samples);
    run->x_rows = search->rows = awqi_min64(samples.shape[0], limit);
    run->divisor = (double)run->x_rows * (double)total_outputs(search);
    return AWQ_OK;
}

struct sketch {
    const float *rows;
    int64_t count, channels, sums;
    float *values; /* [sums][channels] */
};

/* splitmix64: the signs of row 'row' in sums 64 * word and on, a bit each. */
static uint64_t sketch_signs(int64_t row, int64_t word)
{
    uint64_t x = ((uint64_t)row << 16) + (uint64_t)word + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Columns from index * SKETCH_COLUMNS on of S X, with S of signs over sqrt(sums): E |S X d|^2 = |X d|^2 for any d. */
static void sketch_columns(void *user_data, int64_t index)
{
    const struct sketch *sketch = user_data;
    const int64_t first = index * SKETCH_COLUMNS, count = awqi_min64(SKETCH_COLUMNS, sketch->channels - first);
    const float factor = (float)(1.0 / sqrt((double)sketch->sums));
    for (int64_t i = 0; i < sketch->sums; i++)
        memset(sketch->values + i * sketch->channels + first, 0, (size_t)count * sizeof *sketch->values);
    for (int64_t row = 0; row < sketch->count; row++) {
        const float *x = sketch->rows + row * sketch->channels + first;
        for (int64_t i = 0; i < sketch->sums; i++) {
            const float sign = sketch_signs(row, i / 64) >> i % 64 & 1 ? factor : -factor;
            float *sum = sketch->values + i * sketch->channels + first;
            for (int64_t j = 0; j < count; j++) sum[j] += sign * x[j];
        }
    }
}

/* A loss sums up many outputs and inputs, which a few random sums of rows estimate together. */
static awq_status sketch_rows(struct run *run)
{
    struct sketch sketch = {run->rows, run->x_rows, run->source.channels, run->search->options.sketch_rows, NULL};
    if (sketch.sums == 0 || run->x_rows <= sketch.sums) return AWQ_OK;
    awq_status status = take(run, sketch.sums * sketch.channels, sizeof(float), "sketch of rows", &run->sketch);
    if (status != AWQ_OK) return status;
    sketch.values = run->sketch;
    awqi_parallel_for(run->search->context, awqi_ceil_div(sketch.channels, SKETCH_COLUMNS), sketch_columns, &sketch);
    run->rows = run->sketch;
    run->x_rows = sketch.sums;
    return AWQ_OK;
}

/* Let 'rows' be what candidates are tried on. */
static awq_status place_rows(struct run *run, const float *rows, int64_t count)
{
    awq_context *context = run->search->context;
    awqi_unplace_floats(context, run->x, run->rows);
    run->x = NULL;
    run->rows = rows;
    run->x_rows = count;
    return awqi_place_copy(context, rows, count * run->source.channels, "rows of a loss", &run->x);
}

static awq_status prepare_buffers(struct run *run)
{
    awq_search *search = run->search;
    bool callback = search->options.loss != NULL;
    int64_t largest = 0, count = callback ? search->count : 1;
    for (int64_t i = 0; i < search->count; i++) largest = awqi_max64(largest, search->weights[i].shape[0]);
    awq_status status = take(run, count, sizeof *run->buffers, "candidate weights", &run->buffers);
    if (status == AWQ_OK) status = take(run, count, sizeof *run->views, "candidate weights", &run->views);
    if (status == AWQ_OK) status = take(run, count, sizeof *run->view_list, "candidate weights", &run->view_list);
    for (int64_t i = 0; status == AWQ_OK && i < count; i++) {
        int64_t n = callback ? search->weights[i].shape[0] : largest, k = run->source.channels;
        status = awqi_place_floats(search->context, n * k, "candidate weights", &run->buffers[i]);
        if (status != AWQ_OK) break;
        run->buffer_count++;
        awq_tensor_init_const_2d(&run->views[i], run->buffers[i], AWQ_F32, n, k);
        awqi_set_device(search->context, &run->views[i]);
        run->view_list[i] = &run->views[i];
    }
    return status;
}

static awq_status prepare_salient(struct run *run)
{
    awq_search *search = run->search;
    bool any = false;
    awq_status status = take(run, search->count, sizeof *run->salient, "salient columns", &run->salient);
    if (status != AWQ_OK) return status;
    memset(run->salient, 0, (size_t)search->count * sizeof *run->salient);
    for (int64_t i = 0; status == AWQ_OK && i < search->count; i++) {
        status = awqi_salient_choose(search->context, &search->quantize, search->calibration, &search->weights[i],
                                     &run->salient[i]);
        any = any || run->salient[i].count > 0;
    }
    if (status != AWQ_OK || !any) return status;
    return take(run, search->calibration->channels, sizeof(float), "masked scales", &run->masked);
}

static awq_status run_prepare(struct run *run)
{
    awq_search *search = run->search;
    if (search->count == 0) return awqi_fail(AWQ_ERROR_STATE, "awq_search_run: no weight was added");
    search->rows = 0;
    awq_status status = prepare_weights(run);
    if (status == AWQ_OK) status = prepare_source(run);
    if (status == AWQ_OK) status = prepare_salient(run);
    if (status == AWQ_OK && search->options.loss == NULL) {
        status = search->options.objective == AWQ_OBJECTIVE_GRAM ? prepare_gram(run) : prepare_samples(run);
        run->exact_rows = run->rows;
        run->exact_count = run->x_rows;
        if (status == AWQ_OK) status = sketch_rows(run);
        if (status == AWQ_OK) status = place_rows(run, run->rows, run->x_rows);
    }
    if (status == AWQ_OK) status = prepare_buffers(run);
    return status;
}

static void run_release(struct run *run)
{
    awq_context *context = run->search->context;
    for (int64_t i = 0; i < run->placed_count; i++) awqi_unplace(context, &run->placed[i]);
    awqi_free(context, run->placed);
    awqi_free(context, run->weights);
    for (int64_t i = 0; i < run->buffer_count; i++) awqi_unplace_floats(context, run->buffers[i], NULL);
    awqi_free(context, run->buffers);
    awqi_free(context, run->views);
    awqi_free(context, run->view_list);
    awqi_unplace_floats(context, run->x, run->rows);
    awqi_free(context, run->root);
    awqi_free(context, run->sketch);
    awqi_free(context, run->scales);
    for (int64_t i = 0; run->salient != NULL && i < run->search->count; i++)
        awqi_salient_release(context, &run->salient[i]);
    awqi_free(context, run->salient);
    awqi_free(context, run->masked);
    awqi_free(context, run->source.importance);
    awqi_free(context, run->source.weight_mean);
    awqi_free(context, run->source.work);
}

/* ---- the loss of a candidate */

/* What stays in FP16, in the salient columns, where the quantiser saw zeros. */
static awq_status keep_salient(const struct run *run, int64_t index, float *candidate)
{
    awq_context *context = run->search->context;
    const awq_tensor *w = &run->weights[index];
    const struct awqi_salient *salient = &run->salient[index];
    const struct awqi_scaled scaled = {w, run->scales, is_exact(run->search) ? AWQ_F32 : w->dtype};
    if (salient->count == 0) return AWQ_OK;
    return awqi_context_backend(context)->keep_columns(awqi_context_device(context), &scaled, salient->columns,
                                                       salient->count, candidate);
}

/* candidate = Q(W s) / s */
static awq_status quantize_candidate(struct run *run, int64_t index, float *candidate)
{
    awq_search *search = run->search;
    if (run->masked != NULL) awqi_salient_mask(&run->salient[index], run->scales, run->source.channels, run->masked);
    struct awqi_quantize_job job = {
        .w = &run->weights[index],
        .input_scale = run->masked != NULL ? run->masked : run->scales,
        .quantizer = search->quantizer,
        .dequantized = candidate,
        .unscale = true,
    };
    awq_status status = awqi_context_backend(search->context)->quantize(awqi_context_device(search->context), &job);
    if (status == AWQ_OK) status = keep_salient(run, index, candidate);
    return status == AWQ_OK ? status : awqi_fail_in(status, "weight %lld", (long long)index);
}

static awq_status built_in_loss(struct run *run, double *loss)
{
    awq_search *search = run->search;
    const struct awqi_backend *backend = awqi_context_backend(search->context);
    void *device = awqi_context_device(search->context);
    float *candidate = run->buffers[0];
    double total = 0.0;
    for (int64_t i = 0; i < search->count; i++) {
        const awq_tensor *w = &run->weights[i];
        const struct awqi_scaled plain = {w, NULL, AWQ_F32};
        double sum;
        awq_status status = quantize_candidate(run, i, candidate);
        if (status == AWQ_OK) status = backend->subtract(device, &plain, candidate);
        if (status == AWQ_OK)
            status = backend->product_norm(device, run->x, run->x_rows, candidate, w->shape[0], w->shape[1], &sum);
        if (status != AWQ_OK) return status;
        total += sum;
    }
    *loss = total / run->divisor;
    return AWQ_OK;
}

static awq_status callback_loss(struct run *run, double *loss)
{
    awq_search *search = run->search;
    for (int64_t i = 0; i < search->count; i++) {
        awq_status status = quantize_candidate(run, i, run->buffers[i]);
        if (status != AWQ_OK) return status;
    }
    *loss = NAN; /* a callback that forgets to store one is found out */
    if (search->options.loss(search->options.loss_data, (size_t)search->count, run->view_list, loss) != 0)
        return awqi_fail(AWQ_ERROR_CANCELLED, "the loss callback cancelled the search");
    return AWQ_OK;
}

static awq_status evaluate(struct run *run, struct candidate *candidate)
{
    awqi_candidate_scales(&run->source, candidate->kind, candidate->alpha, run->scales);
    awq_status status = run->search->options.loss != NULL ? callback_loss(run, &candidate->loss)
                                                          : built_in_loss(run, &candidate->loss);
    if (status != AWQ_OK) return awqi_fail_in(status, "alpha %g", candidate->alpha);
    if (isfinite(candidate->loss)) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_NON_FINITE, "alpha %g: the loss is %g", candidate->alpha, candidate->loss);
}

/* ---- the run */

/* The index of the least loss among candidates other than 'except'. */
static int64_t least_loss(const awq_search *search, int64_t except)
{
    int64_t best = except == 0 ? 1 : 0;
    for (int64_t i = best + 1; i < search->candidate_count; i++)
        if (i != except && search->candidates[i].loss < search->candidates[best].loss) best = i;
    return best;
}

static awq_status evaluate_and_report(struct run *run, struct candidate *candidate, int64_t *done, int64_t total)
{
    const awq_search_options *options = &run->search->options;
    awq_status status = evaluate(run, candidate);
    if (status != AWQ_OK || options->progress == NULL) return status;
    if (options->progress(options->progress_data, (uint64_t)++*done, (uint64_t)total) == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_CANCELLED, "the progress callback cancelled the search");
}

/* A sketch is close enough to say which candidates are good, not which is best: the two that it likes best meet 'identity'
 * (-1: no candidate) on the rows themselves. */
static awq_status evaluate_finalists(struct run *run, int64_t identity, int64_t *done, int64_t total)
{
    awq_search *search = run->search;
    const int64_t first = least_loss(search, -1);
    const int64_t second = search->candidate_count > 1 ? least_loss(search, first) : first;
    const int64_t finalists[] = {first, second, identity};
    awq_status status = place_rows(run, run->exact_rows, run->exact_count);
    search->best = first;
    for (int i = 0; status == AWQ_OK && i < 3 && finalists[i] >= 0; i++) {
        struct candidate *candidate = &search->candidates[finalists[i]];
        status = evaluate_and_report(run, candidate, done, total);
        if (candidate->loss < search->candidates[search->best].loss) search->best = finalists[i];
    }
    return status;
}

static awq_status evaluate_all(struct run *run)
{
    awq_search *search = run->search;
    const bool duo = search->options.scales == AWQ_SCALES_DUO, sketched = run->sketch != NULL;
    const int64_t count = search->candidate_count;
    const int64_t identity = !duo ? 0 /* alpha 0 */ : is_exact(search) ? count - 1 : -1;
    struct candidate plain = {AWQI_SCALES_IDENTITY, 0.0, NAN}; /* for comparison only */
    const int64_t total = count + (sketched ? 2 : 0) + (sketched || identity < 0);
    int64_t done = 0;
    awq_status status = AWQ_OK;
    for (int64_t i = 0; status == AWQ_OK && i < count; i++)
        status = evaluate_and_report(run, &search->candidates[i], &done, total);
    if (status == AWQ_OK && sketched) status = evaluate_finalists(run, identity, &done, total);
    else if (status == AWQ_OK) search->best = least_loss(search, -1);
    if (status == AWQ_OK && identity < 0) status = evaluate_and_report(run, &plain, &done, total);
    if (status != AWQ_OK) return status;
    search->loss_identity = identity < 0 ? plain.loss : search->candidates[identity].loss;
    const struct candidate *best = &search->candidates[search->best];
    awqi_candidate_scales(&run->source, best->kind, best->alpha, run->scales);
    memcpy(search->scales, run->scales, (size_t)run->source.channels * sizeof *search->scales);
    return AWQ_OK;
}

awq_status awq_search_run(awq_search *search)
{
    if (search == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_search_run: search is NULL");
    search->finished = false;
    struct run run = {.search = search};
    awq_status status = run_prepare(&run);
    if (status == AWQ_OK) status = evaluate_all(&run);
    run_release(&run);
    search->finished = status == AWQ_OK;
    return status;
}

/* ---- results */

static awq_status check_finished(const awq_search *search, const char *function)
{
    if (search == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s: search is NULL", function);
    if (search->finished) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_STATE, "%s: the search has no result; run it first", function);
}

awq_status awqi_search_check(const awq_search *search, int64_t inputs)
{
    awq_status status = check_finished(search, "search");
    if (status != AWQ_OK || search->calibration->channels == inputs) return status;
    return awqi_fail(AWQ_ERROR_INVALID, "search: over %lld inputs, but the weight has %lld",
                     (long long)search->calibration->channels, (long long)inputs);
}

const float *awqi_search_scales(const awq_search *search)
{
    return search->finished ? search->scales : NULL;
}

const awq_quantize_options *awqi_search_quantize_options(const awq_search *search)
{
    return &search->quantize;
}

awq_status awq_search_get_result(const awq_search *search, awq_search_result *result)
{
    awq_status status = check_finished(search, "awq_search_get_result");
    if (status != AWQ_OK) return status;
    const struct candidate *best = &search->candidates[search->best];
    awq_search_result known;
    awq_struct_init(&known, sizeof known);
    known.scales = best->kind == AWQ_SCALES_DUO ? AWQ_SCALES_DUO : AWQ_SCALES_PLAIN;
    known.alpha = best->alpha;
    known.loss = best->loss;
    known.loss_identity = search->loss_identity;
    known.candidates = search->candidate_count;
    known.best = search->best;
    known.rows = search->rows;
    return awqi_export(result, &known, sizeof known, "awq_search_result");
}

awq_status awq_search_get_scales(const awq_search *search, float *values, int64_t count)
{
    awq_status status = check_finished(search, "awq_search_get_scales");
    if (status != AWQ_OK) return status;
    if (values == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_search_get_scales: values is NULL");
    if (count != search->calibration->channels)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_get_scales: count is %lld, but there are %lld channels",
                         (long long)count, (long long)search->calibration->channels);
    memcpy(values, search->scales, (size_t)count * sizeof *values);
    return AWQ_OK;
}

awq_status awq_search_get_history(const awq_search *search, double *alphas, double *losses, int64_t count)
{
    awq_status status = check_finished(search, "awq_search_get_history");
    if (status != AWQ_OK) return status;
    if (count != search->candidate_count)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_search_get_history: count is %lld, but there are %lld candidates",
                         (long long)count, (long long)search->candidate_count);
    for (int64_t i = 0; i < count; i++) {
        if (alphas != NULL) alphas[i] = search->candidates[i].alpha;
        if (losses != NULL) losses[i] = search->candidates[i].loss;
    }
    return AWQ_OK;
}
