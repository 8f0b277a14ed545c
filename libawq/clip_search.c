/* The search for clipping limits: for each group of each output the limit with the least squared error of the group's
 * part of that output.
 *
 * With e the error that quantising a group makes and X_g the sampled inputs of the group (divided by s), a candidate
 * costs |X_g e|^2: a product of [rows][group_size] with a vector.  It has the same value for R_g in place of X_g when
 * R_g^T R_g = X_g^T X_g, and the triangular root of that small Gram matrix has at most group_size rows, half of them
 * zeros: for 512 rows and groups of 128 an eighth of the work.  (The quadratic form e^T (X_g^T X_g) e would cost twice
 * that, and lose in single precision what cancels in it.)  Where there are fewer rows than the group has inputs, X_g
 * itself is used. */
#include "backend.h"
#include "place.h"
#include "salient.h"
#include "search.h"

#include <math.h>

enum {
    BLOCK_ELEMENTS = 1 << 20, /* of the weight, worked on at once: bounds the memory */
    DEFAULT_ROWS = 512,
    DEFAULT_POINTS = 20
};

/* Errors of 1e9 and above are never better than none in the peers. */
static const double peer_error_limit = 1e9;

struct clip_search {
    awq_context *context;
    awq_clip_options options;
    struct awqi_quantizer quantizer;
    struct awqi_placed w;
    int32_t dtype; /* that w s is rounded to */
    float *scales; /* [k], 0 in salient columns, which take no part; or NULL for ones */
    int64_t n, k, groups, steps;
    int64_t rows;      /* sampled rows used */
    bool reduced;      /* roots of groups narrower than that are triangular.  Only on the CPU: on another device
                        * multiplying by all rows costs less than bringing Gram matrices home */
    int64_t root_rows; /* room for each group's root: even, so that rows can be taken in pairs */
    float *roots;      /* of group g, at root_rows * begin: [root_rows][width], zeros where there are fewer */
    float *placed_roots; /* where the context computes */
    /* The block of outputs at work. */
    int64_t first_row, row_count, capacity;
    float *errors;   /* [capacity][k] where the context computes, those of quantising with the limits of this step */
    float *largest;  /* [capacity][groups] */
    float *limits;   /* [capacity][groups], of this step */
    double *squares; /* [capacity][groups], the squared error of this step */
    double *best;    /* [capacity][groups], the least so far */
    /* Results. */
    float *best_limits; /* [n][groups] */
    awq_clip_result result;
};

static int64_t group_begin(const struct clip_search *clip, int64_t group)
{
    return group * clip->quantizer.group_size;
}

static int64_t group_width(const struct clip_search *clip, int64_t group)
{
    return awqi_min64(clip->quantizer.group_size, clip->k - group_begin(clip, group));
}

/* ---- inputs */

static awq_status check_clip_options(const awq_clip_options *options)
{
    if (options->grid_points < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_clip_options: grid_points is %d", options->grid_points);
    if (!(options->max_shrink >= 0.0 && options->max_shrink <= 1.0))
        return awqi_fail(AWQ_ERROR_INVALID, "awq_clip_options: max_shrink is %g; it lies in [0, 1]",
                         options->max_shrink);
    if (options->max_rows < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_clip_options: max_rows is %lld", (long long)options->max_rows);
    return AWQ_OK;
}

/* The scales with 0 in salient columns. */
static awq_status mask_salient(struct clip_search *clip, const awq_quantize_options *quantize,
                               const awq_calibration *calibration, const awq_tensor *w)
{
    struct awqi_salient salient;
    void *memory;
    awq_status status = awqi_salient_choose(clip->context, quantize, calibration, w, &salient);
    if (status == AWQ_OK && salient.count > 0) {
        status = awqi_alloc(clip->context, (uint64_t)clip->k, sizeof *clip->scales, "masked input scales", &memory);
        if (status == AWQ_OK) {
            awqi_salient_mask(&salient, clip->scales, clip->k, memory);
            awqi_free(clip->context, clip->scales);
            clip->scales = memory;
        }
    }
    awqi_salient_release(clip->context, &salient);
    return status;
}

static awq_status import_options(struct clip_search *clip, const awq_search *search, const awq_clip_options *given,
                                 const awq_calibration *calibration, const awq_tensor *w)
{
    awq_clip_options *options = &clip->options;
    awq_quantize_options quantize;
    awq_status status = awqi_import(options, sizeof *options, given, "awq_clip_options");
    if (status == AWQ_OK) status = check_clip_options(options);
    if (status == AWQ_OK) status = awqi_search_merge_options(search, options->quantize, &quantize);
    if (status == AWQ_OK) status = awqi_quantizer_resolve(&quantize, clip->k, &clip->quantizer);
    if (status != AWQ_OK) return status;
    if (quantize.clip != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_clip_options: quantize has clip, which is what the search is for");
    if (options->grid_points == 0) options->grid_points = DEFAULT_POINTS;
    if (options->max_shrink == 0.0) options->max_shrink = 0.5;
    if (options->max_rows == 0) options->max_rows = DEFAULT_ROWS;
    clip->steps = awqi_max64((int64_t)(options->max_shrink * options->grid_points), 1);
    clip->groups = awqi_ceil_div(clip->k, clip->quantizer.group_size);
    status = awqi_scaled_take_scales(clip->context, search, quantize.input_scale, clip->k, &clip->scales);
    return status == AWQ_OK ? mask_salient(clip, &quantize, calibration, w) : status;
}

static awq_status check_limits(const struct clip_search *clip, const awq_tensor *limits)
{
    awq_status status = awqi_check_tensor(limits, 2, 1u << AWQ_F32, "limits");
    if (status == AWQ_OK) status = awqi_check_shape_2d(limits, clip->n, clip->groups, "limits");
    if (status == AWQ_OK) status = awqi_check_writable(limits, "limits");
    if (status == AWQ_OK && limits->device_type != AWQ_DEVICE_CPU)
        status = awqi_fail(AWQ_ERROR_INVALID, "limits: on device type %d; they are written on the host",
                           limits->device_type);
    return status;
}

static awq_status begin(struct clip_search *clip, const awq_tensor *w, const awq_calibration *calibration,
                        const awq_search *search, const awq_clip_options *options, const awq_tensor *limits)
{
    awq_status status = awqi_check_tensor(w, 2, AWQI_FLOATS, "w");
    if (status == AWQ_OK) status = awqi_check_reachable(clip->context, w, "w");
    if (status != AWQ_OK) return status;
    clip->n = w->shape[0];
    clip->k = w->shape[1];
    if (clip->n == 0 || clip->k == 0)
        return awqi_fail(AWQ_ERROR_INVALID, "w: shape [%lld][%lld] has no elements", (long long)clip->n,
                         (long long)clip->k);
    status = import_options(clip, search, options, calibration, w);
    if (status == AWQ_OK) status = check_limits(clip, limits);
    if (status != AWQ_OK) return status;
    clip->dtype = clip->quantizer.profile == AWQ_PROFILE_EXACT ? AWQ_F32 : w->dtype;
    status = awqi_place(clip->context, w, &clip->w);
    if (status != AWQ_OK) return status;
    const struct awqi_scaled scaled = {&clip->w.view, clip->scales, clip->dtype};
    return awqi_scaled_check(clip->context, &scaled, "w");
}

/* ---- roots */

/* x[rows][width] = the group's part of the sampled rows, divided by s. */
static void take_inputs(const struct clip_search *clip, const float *samples, int64_t group, float *x)
{
    int64_t first = group_begin(clip, group), width = group_width(clip, group);
    const float *scales = clip->scales != NULL ? clip->scales + first : NULL;
    for (int64_t row = 0; row < clip->rows; row++) {
        const float *from = samples + row * clip->k + first;
        float *to = x + row * width;
        for (int64_t i = 0; i < width; i++)
            to[i] = scales == NULL ? from[i] : scales[i] > 0.0f ? from[i] / scales[i] : 0.0f;
    }
}

static awq_status make_root(struct clip_search *clip, const float *samples, int64_t group, float *x, double *gram)
{
    int64_t width = group_width(clip, group);
    float *root = clip->roots + clip->root_rows * group_begin(clip, group);
    if (!clip->reduced || clip->rows <= width) {
        take_inputs(clip, samples, group, root);
        return AWQ_OK;
    }
    take_inputs(clip, samples, group, x);
    memset(gram, 0, (size_t)(width * width) * sizeof *gram);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, clip->rows, width);
    awq_status status =
        awqi_context_backend(clip->context)->accumulate_gram(awqi_context_device(clip->context), &view, NULL, gram);
    if (status == AWQ_OK) awqi_gram_root(clip->context, gram, width, root);
    return status;
}

static awq_status make_roots(struct clip_search *clip, const awq_calibration *calibration)
{
    awq_tensor samples;
    awq_calibration_info info;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_calibration_get_info(calibration, &info);
    if (status == AWQ_OK) status = awq_calibration_get_samples(calibration, &samples);
    if (status != AWQ_OK) return status;
    if (info.channels != clip->k)
        return awqi_fail(AWQ_ERROR_INVALID, "calibration: %lld channels, but w has %lld inputs",
                         (long long)info.channels, (long long)clip->k);
    clip->rows = awqi_min64(samples.shape[0], clip->options.max_rows);
    if (clip->rows == 0) return awqi_fail(AWQ_ERROR_STATE, "calibration: it keeps no rows");

    int64_t size = awqi_min64(clip->quantizer.group_size, clip->k);
    clip->reduced = awqi_context_device_type(clip->context) == AWQ_DEVICE_CPU;
    clip->root_rows = ((clip->reduced ? awqi_min64(clip->rows, size) : clip->rows) + 1) / 2 * 2;
    void *roots, *x = NULL, *gram = NULL;
    status = awqi_calloc(clip->context, (uint64_t)clip->root_rows, (uint64_t)clip->k * sizeof(float), "roots", &roots);
    if (status != AWQ_OK) return status;
    clip->roots = roots;
    bool reduce = clip->reduced && clip->rows > group_width(clip, clip->groups - 1);
    if (reduce)
        status = awqi_alloc(clip->context, (uint64_t)clip->rows, (uint64_t)size * sizeof(float), "inputs of a group",
                            &x);
    if (status == AWQ_OK && reduce)
        status = awqi_alloc(clip->context, (uint64_t)size, (uint64_t)size * sizeof(double), "Gram matrix of a group",
                            &gram);
    for (int64_t group = 0; status == AWQ_OK && group < clip->groups; group++)
        status = make_root(clip, awqi_tensor_data(&samples), group, x, gram);
    awqi_free(clip->context, x);
    awqi_free(clip->context, gram);
    if (status != AWQ_OK) return status;
    return awqi_place_copy(clip->context, clip->roots, clip->root_rows * clip->k, "roots", &clip->placed_roots);
}

/* ---- the search */

/* The rows of w at work. */
static awq_tensor block_of_w(const struct clip_search *clip)
{
    awq_tensor w = clip->w.view;
    w.byte_offset += (uint64_t)(clip->first_row * w.strides[0] * (int64_t)awq_dtype_size(w.dtype));
    w.shape[0] = clip->row_count;
    return w;
}

static awq_status measure_step(struct clip_search *clip, int64_t step)
{
    const struct awqi_backend *backend = awqi_context_backend(clip->context);
    void *device = awqi_context_device(clip->context);
    float shrink = (float)(1.0 - (double)step / clip->options.grid_points);
    int64_t count = clip->row_count * clip->groups;
    for (int64_t i = 0; i < count; i++) clip->limits[i] = awqi_round_to(clip->dtype, clip->largest[i] * shrink);

    const awq_tensor w = block_of_w(clip);
    const struct awqi_scaled scaled = {&w, clip->scales, clip->dtype};
    struct awqi_quantize_job job = {
        .w = &w,
        .input_scale = clip->scales,
        .clip = clip->limits,
        .quantizer = clip->quantizer,
        .dequantized = clip->errors,
    };
    const struct awqi_group_norms_job norms = {
        .roots = clip->placed_roots,
        .root_stride = clip->root_rows,
        .rows = clip->rows,
        .reduced = clip->reduced,
        .differences = clip->errors,
        .n = clip->row_count,
        .k = clip->k,
        .group_size = clip->quantizer.group_size,
        .squares = clip->squares,
    };
    awq_status status = backend->quantize(device, &job);
    if (status == AWQ_OK) status = backend->subtract(device, &scaled, clip->errors);
    if (status == AWQ_OK) status = backend->group_norms(device, &norms);
    return status;
}

/* Keep the limits of this step where they are better, and those of step 0 whatever they are. */
static void keep_best(struct clip_search *clip, int64_t step)
{
    float *best_limits = clip->best_limits + clip->first_row * clip->groups;
    bool peer = clip->quantizer.profile != AWQ_PROFILE_EXACT;
    for (int64_t i = 0; i < clip->row_count * clip->groups; i++) {
        double square = clip->squares[i];
        if (step == 0) {
            clip->result.loss_unclipped += square;
            clip->best[i] = square;
            best_limits[i] = clip->limits[i];
        } else if (square < clip->best[i] && (!peer || square / (double)clip->rows < peer_error_limit)) {
            clip->result.clipped_groups += best_limits[i] == clip->largest[i];
            clip->best[i] = square;
            best_limits[i] = clip->limits[i];
        }
    }
}

static awq_status search_block(struct clip_search *clip)
{
    int64_t blocks = awqi_ceil_div(clip->n, clip->capacity), block = clip->first_row / clip->capacity;
    const awq_tensor w = block_of_w(clip);
    const struct awqi_scaled scaled = {&w, clip->scales, clip->dtype};
    awq_status status = awqi_context_backend(clip->context)->group_max(
        awqi_context_device(clip->context), &scaled, clip->quantizer.group_size, clip->largest);
    if (status != AWQ_OK) return status;
    for (int64_t step = 0; step < clip->steps; step++) {
        status = measure_step(clip, step);
        if (status != AWQ_OK) return status;
        keep_best(clip, step);
        if (clip->options.progress != NULL &&
            clip->options.progress(clip->options.progress_data, (uint64_t)(block * clip->steps + step + 1),
                                   (uint64_t)(blocks * clip->steps)) != 0)
            return awqi_fail(AWQ_ERROR_CANCELLED, "the progress callback cancelled the clip search");
    }
    for (int64_t i = 0; i < clip->row_count * clip->groups; i++) clip->result.loss += clip->best[i];
    return AWQ_OK;
}

static awq_status allocate_block(struct clip_search *clip)
{
    int64_t most = awqi_max64(BLOCK_ELEMENTS / clip->k, 1);
    clip->capacity = awqi_min64(most, clip->n);
    uint64_t rows = (uint64_t)clip->capacity, groups = (uint64_t)clip->groups;
    const struct {
        void *field;
        uint64_t count, size;
    } arrays[] = {
        {&clip->largest, rows, groups * sizeof(float)},   {&clip->limits, rows, groups * sizeof(float)},
        {&clip->squares, rows, groups * sizeof(double)},  {&clip->best, rows, groups * sizeof(double)},
        {&clip->best_limits, (uint64_t)clip->n, groups * sizeof(float)},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        void *memory;
        awq_status status = awqi_alloc(clip->context, arrays[i].count, arrays[i].size, "clip search", &memory);
        if (status != AWQ_OK) return status;
        memcpy(arrays[i].field, &memory, sizeof memory);
    }
    return awqi_place_floats(clip->context, clip->capacity * clip->k, "clip search", &clip->errors);
}

static void release(struct clip_search *clip)
{
    awqi_unplace(clip->context, &clip->w);
    awqi_unplace_floats(clip->context, clip->placed_roots, clip->roots);
    awqi_unplace_floats(clip->context, clip->errors, NULL);
    void *const arrays[] = {clip->scales, clip->roots, clip->largest,    clip->limits,
                            clip->squares, clip->best, clip->best_limits};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) awqi_free(clip->context, arrays[i]);
}

static awq_status search_all(struct clip_search *clip)
{
    awq_status status = allocate_block(clip);
    for (; status == AWQ_OK && clip->first_row < clip->n; clip->first_row += clip->capacity) {
        clip->row_count = awqi_min64(clip->capacity, clip->n - clip->first_row);
        status = search_block(clip);
    }
    if (status != AWQ_OK) return status;
    awq_clip_result *result = &clip->result;
    result->groups = clip->n * clip->groups;
    double count = (double)result->groups * (double)clip->rows;
    result->loss /= count;
    result->loss_unclipped /= count;
    if (isfinite(result->loss_unclipped)) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_NON_FINITE, "the squared error without limits is %g", result->loss_unclipped);
}

awq_status awq_clip_search(awq_context *context, const awq_tensor *w, const awq_calibration *calibration,
                           const awq_search *search, const awq_clip_options *options, awq_tensor *limits,
                           awq_clip_result *result)
{
    if (context == NULL || calibration == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_clip_search: %s is NULL", context ? "calibration" : "context");
    struct clip_search clip = {.context = context};
    awq_struct_init(&clip.result, sizeof clip.result);
    awq_status status = begin(&clip, w, calibration, search, options, limits);
    if (status == AWQ_OK) status = make_roots(&clip, calibration);
    if (status == AWQ_OK) status = search_all(&clip);
    if (status == AWQ_OK && result != NULL)
        status = awqi_export(result, &clip.result, sizeof clip.result, "awq_clip_result");
    for (int64_t row = 0; status == AWQ_OK && row < clip.n; row++)
        awqi_store_row(limits, row, clip.best_limits + row * clip.groups, clip.groups);
    release(&clip);
    return status == AWQ_OK ? status : awqi_fail_in(status, "awq_clip_search");
}
