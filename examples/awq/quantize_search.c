/* Calibrating one block and searching its scales.
 *
 * The calibration windows run through the block as it is, and what enters its linears is observed.  Candidates for q,
 * k and v are then judged by what the attention gives, those for gate and up by what the MLP gives, those for o and
 * down by their own outputs. */
#include "quantize.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const char *const point_names[POINT_KINDS] = {
    [POINT_QKV] = "q k v", [POINT_O] = "o", [POINT_GATE_UP] = "gate up", [POINT_DOWN] = "down",
};

/* Hundredths of a block's work that are done after the pass, and after the search at each point. */
enum { PASS_PART = 10 };
static const int search_parts[POINT_KINDS + 1] = {PASS_PART, 40, 45, 80, 85};

int point_linears(const struct model_config *config, int point)
{
    return point == POINT_QKV ? 3 : point == POINT_GATE_UP ? 2 * block_mlps(config) : 1;
}

int point_linear(int point, int index)
{
    if (point == POINT_QKV) return LINEAR_Q + index;
    if (point == POINT_GATE_UP) return mlp_linear(index / 2, LINEAR_GATE + index % 2);
    return point == POINT_O ? LINEAR_O : mlp_linear(point - POINT_DOWN, LINEAR_DOWN);
}

int point_of_linear(int linear)
{
    static const int points[LINEAR_KINDS] = {
        [LINEAR_Q] = POINT_QKV, [LINEAR_K] = POINT_QKV, [LINEAR_V] = POINT_QKV, [LINEAR_O] = POINT_O,
        [LINEAR_GATE] = POINT_GATE_UP, [LINEAR_UP] = POINT_GATE_UP, [LINEAR_DOWN] = POINT_DOWN,
    };
    const int kind = linear_kind(linear);
    return points[kind] + (kind == LINEAR_DOWN ? linear_mlp(linear) : 0);
}

const char *point_name(int point)
{
    return point_names[point < POINT_DOWN ? point : POINT_DOWN];
}

int32_t job_part_update(void *user_data, uint64_t done, uint64_t total)
{
    const struct job_part *part = user_data;
    uint64_t span = (uint64_t)(part->last - part->first), hundredths = total ? span * done / total : span;
    return progress_update(&part->job->progress, (uint64_t)part->layer * 100 + (uint64_t)part->first + hundredths,
                           (uint64_t)part->job->config.layers * 100);
}

/* ---- running windows through a block */

bool job_forward(struct quantize_job *job, const struct block *block, bool advance, struct job_part *part,
                 block_tap tap, void *tap_data)
{
    int64_t row_size = job->windows.columns * job->config.hidden, chunk_size = job->chunk_sequences * row_size;
    void *scratch = NULL;
    bool ok = true;
    if (!advance) {
        awq_status status = awq_context_allocate(job->context, (uint64_t)chunk_size * sizeof(float), &scratch);
        if (status != AWQ_OK) return cli_library_error(status, "activations");
    }
    for (int64_t first = 0; ok && first < job->windows.rows; first += job->chunk_sequences) {
        int64_t left = job->windows.rows - first;
        struct batch batch = {left < job->chunk_sequences ? left : job->chunk_sequences, job->counts};
        float *hidden = job->hidden + first * row_size;
        if (!advance) {
            awq_tensor from = context_view(job->context, hidden, AWQ_F32, batch.sequences, row_size);
            awq_tensor to = context_view(job->context, scratch, AWQ_F32, batch.sequences, row_size);
            ok = session_copy(job->session, &from, &to);
            hidden = scratch;
        }
        ok = ok && block_forward(job->session, block, &batch, hidden, tap, tap_data);
        if (ok && job_part_update(part, (uint64_t)(first + batch.sequences), (uint64_t)job->windows.rows))
            ok = cli_error("interrupted");
    }
    awq_context_free(job->context, scratch);
    return ok;
}

/* ---- the state of one block's search */

struct searcher {
    struct quantize_job *job;
    const struct block_weights *weights;
    struct point_statistics *statistics; /* [points] */
    struct block_report *report;
    struct block floats; /* the block as it is, its linears apart */

    /* Attention is compared on whole windows, spread evenly over all. */
    int64_t compared_windows, passed_windows;
    awq_tensor normed;         /* [compared_windows * windows.columns][hidden]: what enters q, k and v */
    void *samples;             /* on a GPU: the sampled inputs of gate and up */
    float *reference, *output; /* [compared rows][hidden], of either half of the block */
};

static bool is_quantized(const struct searcher *searcher, int linear)
{
    return job_quantizes(searcher->job, searcher->weights->layer, linear);
}

static bool any_quantized(const struct searcher *searcher, int point)
{
    for (int i = 0; i < point_linears(&searcher->job->config, point); i++)
        if (is_quantized(searcher, point_linear(point, i))) return true;
    return false;
}

/* Whether the router decides which tokens come there. */
static bool is_of_expert(const struct quantize_job *job, int point)
{
    return point >= POINT_DOWN && point - POINT_DOWN < job->config.experts;
}

static bool is_searched(const struct searcher *searcher, int point)
{
    const struct model_config *config = &searcher->job->config;
    const struct quantize_settings *settings = searcher->job->settings;
    if (!settings->search || !searcher->statistics[point].calibration || !any_quantized(searcher, point)) return false;
    if (point >= POINT_DOWN) return block_scales_pass(config) || config->architecture->activation_scales;
    if (point != POINT_O) return true;
    /* The peers scale o only where it has as many inputs as v has outputs. */
    bool can_tie = settings->quantizer.profile == AWQ_PROFILE_EXACT;
    return settings->scale_output && (can_tie || config->heads == config->kv_heads);
}

int64_t point_inputs(const struct model_config *config, int point)
{
    int64_t n, k;
    block_linear_shape(config, point_linear(point, 0), &n, &k);
    return k;
}

int64_t compared_windows(const struct quantize_job *job)
{
    if (job->archive) return job->windows.rows;
    int64_t fit = job->settings->search_tokens / job->windows.columns;
    if (fit < 1) fit = 1;
    return fit < job->windows.rows ? fit : job->windows.rows;
}

int64_t sampled_rows(const struct quantize_job *job)
{
    if (job->archive) return job->archive_rows;
    int64_t all = job->windows.rows * job->windows.columns;
    return all < job->settings->search_tokens ? all : job->settings->search_tokens;
}

int64_t compared_rows(const struct quantize_job *job)
{
    int64_t rows = compared_windows(job) * job->windows.columns, samples = sampled_rows(job);
    return rows > samples ? rows : samples;
}

/* NULL after a message. */
static void *allocate(const struct searcher *searcher, int64_t count, size_t size)
{
    void *memory = NULL;
    awq_status status = awq_context_allocate(searcher->job->context, (uint64_t)count * size, &memory);
    if (status != AWQ_OK)
        cli_library_error(status, "block %lld: room to compare outputs", (long long)searcher->weights->layer);
    return memory;
}

static bool allocate_room(struct searcher *searcher)
{
    const struct quantize_job *job = searcher->job;
    int64_t hidden = job->config.hidden, rows = compared_rows(job);
    searcher->compared_windows = compared_windows(job);
    int64_t whole = searcher->compared_windows * job->windows.columns;
    int32_t dtype = activation_dtype(job->context, &job->config);
    void *normed = allocate(searcher, whole * hidden, awq_dtype_size(dtype));
    searcher->normed = context_view(job->context, normed, dtype, whole, hidden);
    return normed && (searcher->reference = allocate(searcher, rows * hidden, sizeof(float))) &&
           (searcher->output = allocate(searcher, rows * hidden, sizeof(float)));
}

/* ---- observing */

/* Keep x of the windows in it that candidates will be compared on: window i * windows / compared for every i. */
static bool keep_normed(struct searcher *searcher, const awq_tensor *x)
{
    const struct quantize_job *job = searcher->job;
    int64_t total = job->windows.rows, compared = searcher->compared_windows, length = job->windows.columns;
    int64_t first = searcher->passed_windows, last = first + x->shape[0] / length;
    uint64_t window_bytes = (uint64_t)(length * job->config.hidden) * awq_dtype_size(x->dtype);
    for (int64_t i = 0; i < compared; i++) {
        int64_t window = i * total / compared;
        if (window < first || window >= last) continue;
        awq_tensor from = *x, to = searcher->normed;
        from.shape[0] = to.shape[0] = length;
        from.byte_offset += (uint64_t)(window - first) * window_bytes;
        to.byte_offset += (uint64_t)i * window_bytes;
        if (!session_copy(job->session, &from, &to)) return false;
    }
    searcher->passed_windows = last;
    return true;
}

static bool observe(void *user_data, int point, const awq_tensor *x)
{
    struct searcher *searcher = user_data;
    awq_calibration *calibration = searcher->statistics[point].calibration;
    if (point == POINT_QKV && !keep_normed(searcher, x)) return false;
    if (searcher->job->archive) return true;
    if (point >= POINT_DOWN) searcher->report->expert_tokens[point - POINT_DOWN] += x->shape[0];
    if (!calibration) return true;
    awq_status status = awq_calibration_observe(calibration, x);
    return status == AWQ_OK || cli_library_error(status, "block %lld, input of %s", (long long)searcher->weights->layer,
                                                 point_name(point));
}

static bool create_calibrations(struct searcher *searcher)
{
    const struct quantize_job *job = searcher->job;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = sampled_rows(job);
    options.flags = job->settings->quantizer.rounding != AWQ_ROUND_NEAREST ? AWQ_CALIBRATION_GRAM : 0;
    options.seed = job->settings->seed;
    for (int point = 0; point < block_points(&job->config); point++) {
        if (!any_quantized(searcher, point)) continue;
        awq_status status = awq_calibration_create(job->context, point_inputs(&job->config, point), &options,
                                                   &searcher->statistics[point].calibration);
        if (status != AWQ_OK) return cli_library_error(status, "statistics of the input of %s", point_name(point));
    }
    return true;
}

/* What the archive has of one input; of an expert's, which may be nothing, at least how many tokens it saw. */
static bool load_calibration(struct searcher *searcher, int point)
{
    const struct quantize_job *job = searcher->job;
    const char *path = job->request->stats;
    struct point_statistics *statistics = &searcher->statistics[point];
    char name[TENSOR_NAME_SIZE];
    awq_calibration_info info;
    statistics_name(searcher->weights->layer, point, name);
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_archive_load(job->archive, name, &statistics->calibration);
    if (status == AWQ_OK) status = awq_calibration_get_info(statistics->calibration, &info);
    if (status != AWQ_OK) return cli_library_error(status, "--stats");
    if (info.channels != point_inputs(&job->config, point))
        return cli_error("%s: %s has %lld inputs, and the model's has %lld", path, name, (long long)info.channels,
                         (long long)point_inputs(&job->config, point));
    if (job->settings->quantizer.rounding != AWQ_ROUND_NEAREST && !(info.flags & AWQ_CALIBRATION_GRAM))
        return cli_error("%s: was made without --gram, which this way of rounding needs", path);
    if (info.rows == 0 && !is_of_expert(job, point)) return cli_error("%s: no token was observed for %s", path, name);
    if (point >= POINT_DOWN) searcher->report->expert_tokens[point - POINT_DOWN] = info.rows;
    if (!any_quantized(searcher, point)) point_statistics_clear(statistics);
    return true;
}

static bool load_calibrations(struct searcher *searcher)
{
    const struct quantize_job *job = searcher->job;
    for (int point = 0; point < block_points(&job->config); point++)
        if ((any_quantized(searcher, point) || is_of_expert(job, point)) && !load_calibration(searcher, point))
            return false;
    return true;
}

/* ---- comparing outputs */

/* The mean over rows and channels of the squared difference between searcher->output and searcher->reference. */
static bool mean_squared_difference(const struct searcher *searcher, int64_t rows, double *mean)
{
    int64_t count = rows * searcher->job->config.hidden;
    double sum;
    if (!session_difference(searcher->job->session, searcher->output, searcher->reference, count, &sum)) return false;
    *mean = sum / (double)count;
    return true;
}

/* ---- candidates judged by half a block */

struct trial {
    struct searcher *searcher;
    int *linears;               /* that candidates are given for */
    awq_linear **block_linears; /* of the block, with candidates among them */
    awq_tensor x;               /* normalised input [rows][hidden] */
    bool attention; /* or the MLP */
    bool failed;    /* and said why */
};

/* The half of 'block' that is tried, for all rows. */
static bool run_half(const struct trial *trial, const struct block *block, float *output)
{
    const struct quantize_job *job = trial->searcher->job;
    int64_t length = job->windows.columns, hidden = job->config.hidden, chunk = job->chunk_sequences * length;
    int64_t all = trial->x.shape[0];
    for (int64_t first = 0; first < all; first += chunk) {
        int64_t rows = all - first < chunk ? all - first : chunk;
        awq_tensor x = trial->x;
        float *y = output + first * hidden;
        struct batch batch = {rows / length, job->counts};
        x.shape[0] = rows;
        x.byte_offset += (uint64_t)(first * hidden) * awq_dtype_size(x.dtype);
        if (!(trial->attention ? block_attention(job->session, block, &batch, &x, NULL, y)
                               : block_mlp(job->session, block, &x, NULL, y)))
            return false;
    }
    return true;
}

static bool create_linear(const struct searcher *searcher, int linear, const awq_tensor *w, awq_linear **result)
{
    awq_context *context = searcher->job->context;
    awq_tensor weight = *w, bias = searcher->weights->linear[linear].bias;
    void *weight_memory, *bias_memory = NULL;
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    bool ok = tensor_bring(context, "a candidate", activation_dtype(context, &searcher->job->config), &weight,
                           &weight_memory) &&
              (!bias.data || tensor_bring(context, "a candidate", AWQ_F32, &bias, &bias_memory));
    options.bias = bias.data ? &bias : NULL;
    awq_status status = ok ? awq_linear_create_dense(context, &weight, &options, result) : AWQ_OK;
    awq_context_free(context, weight_memory);
    awq_context_free(context, bias_memory);
    return ok && (status == AWQ_OK || cli_library_error(status, "a candidate"));
}

/* An awq_loss_callback. */
static int32_t trial_loss(void *user_data, size_t count, const awq_tensor *const *candidates, double *loss)
{
    struct trial *trial = user_data;
    struct block block = trial->searcher->floats;
    bool ok = true;
    size_t made = 0;
    memcpy(trial->block_linears, block.linear, (size_t)block.linears * sizeof(awq_linear *));
    block.linear = trial->block_linears;
    for (; ok && made < count; made += ok)
        ok = create_linear(trial->searcher, trial->linears[made], candidates[made],
                           &block.linear[trial->linears[made]]);
    ok = ok && run_half(trial, &block, trial->searcher->output) &&
         mean_squared_difference(trial->searcher, trial->x.shape[0], loss);
    for (size_t i = 0; i < made; i++) awq_linear_destroy(block.linear[trial->linears[i]]);
    trial->failed = !ok;
    return ok ? 0 : 1;
}

/* Whether candidates at this point are judged by half a block, and then by which input and float output. */
static bool prepare_trial(struct trial *trial, int point, bool *used)
{
    struct searcher *searcher = trial->searcher;
    *used = point == POINT_QKV || point == POINT_GATE_UP;
    if (!*used) return true;
    trial->attention = point == POINT_QKV;
    if (trial->attention) {
        trial->x = searcher->normed;
    } else {
        awq_context *context = searcher->job->context;
        awq_status status = awq_calibration_get_samples(searcher->statistics[point].calibration, &trial->x);
        if (status != AWQ_OK) return cli_library_error(status, "sampled tokens");
        if (!tensor_bring(context, "sampled tokens", activation_dtype(context, &searcher->job->config), &trial->x,
                          &searcher->samples))
            return false;
    }
    return run_half(trial, &searcher->floats, searcher->reference);
}

/* ---- searching */

static bool run_search(const struct searcher *searcher, int point, awq_search *search, struct trial *trial)
{
    size_t count = 0;
    awq_status status = AWQ_OK;
    awq_search_result result;
    for (int i = 0; status == AWQ_OK && i < point_linears(&searcher->job->config, point); i++) {
        const int linear = point_linear(point, i);
        if (!is_quantized(searcher, linear)) continue;
        trial->linears[count++] = linear;
        status = awq_search_add_weight(search, &searcher->weights->linear[linear].dense);
    }
    if (status == AWQ_OK) status = awq_search_run(search);
    if (trial->failed) return false;
    awq_struct_init(&result, sizeof result);
    if (status == AWQ_OK) status = awq_search_get_result(search, &result);
    if (status != AWQ_OK)
        return cli_library_error(status, "block %lld, scales of %s", (long long)searcher->weights->layer,
                                 point_name(point));
    searcher->report->group[point] =
        (struct group_report){true, result.scales, result.alpha, result.loss, result.loss_identity};
    return true;
}

static bool search_point(struct searcher *searcher, int point)
{
    struct quantize_job *job = searcher->job;
    const struct model_config *config = &job->config;
    const int kind = point < POINT_DOWN ? point : POINT_DOWN;
    struct job_part part = {job, searcher->weights->layer, search_parts[kind], search_parts[kind + 1]};
    struct trial trial = {.searcher = searcher};
    bool use_trial;
    awq_search_options options;
    if (!is_searched(searcher, point)) return true;
    if (!prepare_trial(&trial, point, &use_trial)) return false;
    awq_struct_init(&options, sizeof options);
    options.scales = job->settings->scales;
    options.smooth_factor = job->settings->smooth_factor;
    options.quantize = &job->settings->quantizer;
    options.loss = use_trial ? trial_loss : NULL;
    options.loss_data = &trial;
    options.progress = job_part_update;
    options.progress_data = &part;
    if (point == POINT_O && config->heads > config->kv_heads) {
        options.tie_copies = config->heads / config->kv_heads;
        options.tie_width = config->head_dim;
    }
    progress_note(&job->progress, "layer %lld: scales of %s", (long long)searcher->weights->layer, point_name(point));
    awq_search **search = &searcher->statistics[point].search;
    awq_status status = awq_search_create(job->context, searcher->statistics[point].calibration, &options, search);
    if (status != AWQ_OK) return cli_library_error(status, "scales of %s", point_name(point));
    trial.linears = calloc((size_t)searcher->floats.linears, sizeof *trial.linears);
    trial.block_linears = calloc((size_t)searcher->floats.linears, sizeof *trial.block_linears);
    bool ok = ((trial.linears && trial.block_linears) || cli_error("out of memory")) &&
              run_search(searcher, point, *search, &trial);
    free(trial.linears);
    free(trial.block_linears);
    return ok;
}

static void searcher_clear(struct searcher *searcher)
{
    awq_context *context = searcher->job->context;
    awq_context_free(context, searcher->normed.data);
    awq_context_free(context, searcher->samples);
    awq_context_free(context, searcher->reference);
    awq_context_free(context, searcher->output);
    block_clear(context, &searcher->floats);
}

/* Let go of what was seen of experts that saw too little. */
static bool settle_experts(struct searcher *searcher)
{
    struct quantize_job *job = searcher->job;
    const int64_t layer = searcher->weights->layer, least = job->settings->expert_tokens;
    for (int mlp = 0; mlp < job->config.experts; mlp++) {
        const int64_t tokens = searcher->report->expert_tokens[mlp];
        const bool *excluded = job->excluded + layer * block_linears(&job->config) + mlp_linear(mlp, LINEAR_GATE);
        if (tokens >= least || (excluded[0] && excluded[1] && excluded[2])) continue;
        if (job->settings->expert_fallback == FALLBACK_STOP)
            return cli_error("layer %lld: expert %d saw %lld tokens of the calibration, fewer than --expert-tokens, "
                             "%lld; more --samples, or --expert-fallback rtn or float", (long long)layer, mlp,
                             (long long)tokens, (long long)least);
        searcher->report->expert_scarce[mlp] = true;
        point_statistics_clear(&searcher->statistics[POINT_DOWN + mlp]);
    }
    exclude_scarce_experts(job, layer);
    return true;
}

bool block_search(struct quantize_job *job, const struct block_weights *weights, struct point_statistics *statistics,
                  struct block_report *report)
{
    struct searcher searcher = {.job = job, .weights = weights, .statistics = statistics, .report = report};
    struct job_part part = {job, weights->layer, 0, PASS_PART};
    progress_note(&job->progress, "layer %lld: activations", (long long)weights->layer);
    bool ok = block_create(job->context, &job->config, weights, false, NULL, &searcher.floats) &&
              allocate_room(&searcher) &&
              (job->archive ? load_calibrations(&searcher) : create_calibrations(&searcher)) &&
              job_forward(job, &searcher.floats, !job->settings->through_quantized, &part, observe, &searcher) &&
              settle_experts(&searcher);
    for (int point = 0; ok && point < block_points(&job->config); point++) ok = search_point(&searcher, point);
    searcher_clear(&searcher);
    return ok;
}

void point_statistics_clear(struct point_statistics *statistics)
{
    awq_search_destroy(statistics->search);
    awq_calibration_destroy(statistics->calibration);
    memset(statistics, 0, sizeof *statistics);
}
