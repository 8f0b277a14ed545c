/* The way through a model: what is checked before the work begins, then block by block. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "journal.h"
#include "process_memory.h"

/* ---- the model */

bool job_open_contexts(struct quantize_job *job)
{
    const struct placement *placement = &job->request->placement;
    if (!placement_open(placement, &job->context)) return false;
    job->host = job->context;
    return !context_is_cuda(job->context) ||
           context_open(placement->threads, placement->memory_limit, &job->host);
}

static bool create_writer(struct quantize_job *job)
{
    awq_checkpoint_writer_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = job->request->replace ? AWQ_WRITER_REPLACE : 0;
    const int64_t linears = block_linears(&job->config) * job->config.layers;
    options.expected_tensors = awq_checkpoint_count(job->source) + (MAX_PLANES - 1) * linears;
    awq_status status = awq_checkpoint_writer_create(job->host, job->request->out, &options, &job->writer);
    return status == AWQ_OK || cli_library_error(status, "%s", job->request->out);
}

/* Whatever is missing or of a wrong shape should be known before hours of work. */
static bool check_tensors(struct quantize_job *job)
{
    struct embeddings embeddings;
    struct norm_weights norm;
    if (!model_ends_find(job->source, &job->config, &embeddings, &norm)) return false;
    for (int64_t layer = 0; layer < job->config.layers; layer++) {
        struct block_weights weights;
        if (!block_weights_load(job->host, job->source, &job->config, layer, &weights)) return false;
        block_weights_clear(&weights);
    }
    for (int64_t i = 0; i < awq_checkpoint_count(job->source); i++) {
        awq_tensor view;
        int64_t count = 1;
        awq_status status = awq_checkpoint_get(job->source, awq_checkpoint_name(job->source, i), &view);
        if (status != AWQ_OK) return cli_library_error(status, "%s", awq_checkpoint_name(job->source, i));
        for (int32_t d = 0; d < view.ndim; d++) count *= view.shape[d];
        job->source_weights += count;
        job->source_bytes += (uint64_t)count * awq_dtype_size(view.dtype);
    }
    return true;
}

bool job_open_model(struct quantize_job *job)
{
    const char *directory = job->request->model;
    if (!model_config_load(directory, &job->config) || !model_check_device(job->context, &job->config)) return false;
    if (job->config.quantization.format)
        return cli_error("%s: is quantised already; quantise the model that it was made from", directory);
    awq_status status = awq_checkpoint_open(job->host, directory, &job->source);
    if (status != AWQ_OK) return cli_library_error(status, "%s", directory);
    if (!check_tensors(job)) return false;
    size_t linears = (size_t)(job->config.layers * block_linears(&job->config));
    job->excluded = calloc(linears, sizeof *job->excluded);
    job->reports = calloc((size_t)job->config.layers, sizeof *job->reports);
    if (!job->excluded || !job->reports) return cli_error("out of memory");
    for (int64_t layer = 0; layer < job->config.layers; layer++)
        if (!block_report_create(&job->config, &job->reports[layer])) return cli_error("out of memory");
    if (!exclude_linears(&job->request->exclude, &job->config, job->excluded)) return false;
    return !memchr(job->excluded, false, linears) ? cli_error("--exclude leaves no linear to quantise") : true;
}

/* The linears from 'first' on that are stored together, rounded plainly and packed. */
static bool try_stored(const struct quantize_job *job, const struct block_weights *weights, int first)
{
    const int count = block_stored_together(&job->config, first);
    awq_quantize_options quantizer = job->settings->quantizer;
    struct joined_weights joined;
    awq_weight *weight = NULL;
    awq_packed *packed = NULL;
    char name[TENSOR_NAME_SIZE];
    quantizer.range = AWQ_RANGE_MINMAX;
    quantizer.rounding = AWQ_ROUND_NEAREST;
    quantizer.salient_rule = AWQ_SALIENT_BY_WEIGHT; /* which columns does not matter here */
    block_linear_name(&job->config, 0, first, name);
    if (!linear_weights_join(job->host, weights->linear + first, (size_t)count, name, &joined)) return false;
    awq_status status = awq_quantize(job->context, &joined.whole.dense, NULL, &quantizer, &weight);
    if (status == AWQ_OK) status = awq_pack(job->host, weight, job->settings->layout, &packed);
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
    joined_weights_clear(job->host, &joined);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

/* Let the format itself say whether it can hold the model: round a linear of each shape plainly and pack it. */
static bool try_layout(const struct quantize_job *job)
{
    struct block_weights weights;
    if (job->settings->layout == 0) return true;
    bool ok = block_weights_load(job->host, job->source, &job->config, 0, &weights);
    for (int i = 0; ok && i < weights.linears; i += block_stored_together(&job->config, i)) {
        bool used = false;
        for (int64_t layer = 0; layer < job->config.layers; layer++)
            used = used || job_quantizes(job, layer, i);
        if (used) ok = try_stored(job, &weights, i);
    }
    block_weights_clear(&weights);
    return ok;
}

/* ---- calibration */

bool job_read_windows(struct quantize_job *job)
{
    const struct quantize_request *request = job->request;
    struct token_rows source = {0};
    struct tokenizer *tokenizer = NULL;
    int32_t bos = -1;
    int64_t length = request->length < job->config.context ? request->length : job->config.context;
    if (!tokens_is_id_file(request->calib)) {
        if (!tokenizer_open(request->model, &tokenizer)) return false;
        bos = tokenizer_bos(tokenizer);
    }
    bool ok = tokens_read(request->calib, tokenizer, job->config.vocabulary, &source) &&
              tokens_cut(&source, request->samples, length, bos, &job->windows);
    tokenizer_close(tokenizer);
    token_rows_free(&source);
    return ok;
}

bool job_prepare(struct quantize_job *job)
{
    struct session_options options = calibration_session(job);
    int64_t tokens = job->windows.rows * job->windows.columns;
    void *memory = NULL;
    job->chunk_sequences = options.sequences;
    job->counts = calloc((size_t)job->chunk_sequences, sizeof *job->counts);
    if (!job->counts) return cli_error("out of memory");
    for (int64_t i = 0; i < job->chunk_sequences; i++) job->counts[i] = job->windows.columns;
    awq_status status = awq_context_allocate(job->context, (uint64_t)(tokens * job->config.hidden) * sizeof(float),
                                             &memory);
    if (status != AWQ_OK) return cli_library_error(status, "activations");
    job->hidden = memory;
    return session_create(job->context, &job->config, &options, &job->session);
}

bool job_embed(struct quantize_job *job)
{
    int64_t tokens = job->windows.rows * job->windows.columns;
    struct embeddings embeddings;
    struct norm_weights norm;
    void *brought = NULL;
    bool ok = model_ends_find(job->source, &job->config, &embeddings, &norm) &&
              tensor_bring(job->context, "the embedding", embeddings.tokens.dtype, &embeddings.tokens, &brought) &&
              session_embed(job->session, &embeddings, job->windows.ids, tokens, job->hidden);
    awq_context_free(job->context, brought);
    return ok;
}

/* Windows and statistics that 'awq calibrate' found. */
static bool read_statistics(struct quantize_job *job)
{
    const char *path = job->request->stats;
    awq_calibration *first = NULL;
    awq_calibration_info info;
    char name[TENSOR_NAME_SIZE];
    uint64_t fingerprint;
    awq_status status = awq_archive_open(job->context, path, &job->archive);
    if (status != AWQ_OK) return cli_library_error(status, "--stats");
    job->provenance = provenance_read(job->archive, path);
    if (!job->provenance || !model_fingerprint(job->source, &fingerprint) ||
        !provenance_check_model(job->provenance, path, &job->config, fingerprint) ||
        !statistics_windows(job->archive, path, job->config.vocabulary, &job->windows))
        return false;
    if (job->windows.columns > job->config.context)
        return cli_error("%s: has windows of %lld tokens, more than the model's context of %lld", path,
                         (long long)job->windows.columns, (long long)job->config.context);
    statistics_name(0, POINT_QKV, name);
    awq_struct_init(&info, sizeof info);
    status = awq_archive_load(job->archive, name, &first);
    if (status == AWQ_OK) status = awq_calibration_get_info(first, &info);
    awq_calibration_destroy(first);
    if (status != AWQ_OK) return cli_library_error(status, "%s", path);
    job->archive_rows = info.sample_limit < info.rows ? info.sample_limit : info.rows;
    return true;
}

static bool read_calibration(struct quantize_job *job)
{
    return job->request->stats ? read_statistics(job) : job_read_windows(job);
}

/* ---- memory */

/* Of the whole process, mapped files included; with a GPU, whose driver maps what it likes, of the contexts. */
static bool estimate_whole(struct quantize_job *job)
{
    uint64_t held = 0;
    job->estimated_bytes = estimate_memory(job);
    if (context_is_cuda(job->context)) return true;
    awq_status status = awq_context_get_memory(job->context, &held, NULL);
    if (status != AWQ_OK) return cli_library_error(status, "memory");
    uint64_t resident = process_memory_base();
    job->estimated_bytes += mapped_bytes(job) + (resident > held ? resident - held : 0);
    /* Reading the text may have taken more than all that follows will. */
    const uint64_t so_far = process_memory().peak;
    if (job->estimated_bytes < so_far) job->estimated_bytes = so_far;
    return true;
}

bool job_context_peak(const struct quantize_job *job, uint64_t *peak)
{
    uint64_t host = 0;
    awq_status status = awq_context_get_memory(job->context, NULL, peak);
    if (status == AWQ_OK && job->host != job->context) status = awq_context_get_memory(job->host, NULL, &host);
    *peak += host;
    return status == AWQ_OK || cli_library_error(status, "memory");
}

static bool find_peak(struct quantize_job *job)
{
    if (context_is_cuda(job->context)) return job_context_peak(job, &job->peak_bytes);
    job->peak_bytes = process_memory().peak;
    return true;
}

static bool check_memory(struct quantize_job *job)
{
    const uint64_t limit = job->request->placement.memory_limit;
    if (!estimate_whole(job)) return false;
    if (!limit || job->estimated_bytes <= limit) return true;
    return cli_error("quantising this model takes about %s, but --memory-limit is %s; fewer --samples, a smaller "
                     "--seq-length or fewer --search-tokens take less", cli_bytes(job->estimated_bytes).text,
                     cli_bytes(limit).text);
}

/* ---- the work */

static bool replay_blocks(struct quantize_job *job, const struct journal *journal)
{
    for (int64_t layer = 0; layer < journal->blocks; layer++)
        if (!journal_replay(job, journal, layer)) return false;
    return true;
}

/* Where calibration data is at the first block that is not finished. */
static bool begin_activations(struct quantize_job *job, const struct journal *journal)
{
    if (!quantize_calibrates(job->request) || journal->blocks == job->config.layers) return true;
    return job_prepare(job) && (journal->blocks > 0 ? journal_restore(job, journal) : job_embed(job));
}

static bool quantize_blocks(struct quantize_job *job, struct journal *journal)
{
    for (int64_t layer = journal->blocks; layer < job->config.layers; layer++) {
        struct block_weights weights;
        struct block_copies copies = {0};
        struct job_part whole = {job, layer, 0, 100};
        if (!block_weights_load(job->host, job->source, &job->config, layer, &weights)) return false;
        bool ok = block_quantize(job, &weights, &copies, &job->reports[layer]) &&
                  output_block(job->host, job->writer, &job->config, job->settings->layout, &weights,
                               &job->output_bytes) &&
                  (!job->request->resume || journal_add(job, journal, &weights));
        block_weights_clear(&weights);
        block_copies_free(job->host, &copies);
        block_weights_release(job->source, &job->config, layer);
        if (!ok) return false;
        if (job_part_update(&whole, 1, 1)) return cli_error("interrupted");
        if (job->request->verbose && !job->request->json) report_block(job, layer);
    }
    return true;
}

static bool finish(struct quantize_job *job, struct journal *journal)
{
    const bool resume = job->request->resume;
    if (!output_other_tensors(job->writer, job->source, &job->config, &job->output_bytes) ||
        !output_config(job->writer, &job->config, job->settings, job->excluded) ||
        !output_copy_files(job->writer, job->request->model) || (resume && !journal_mark_finished(journal)))
        return false;
    awq_status status = awq_checkpoint_writer_commit(job->writer);
    if (status != AWQ_OK) return cli_library_error(status, "%s", job->request->out);
    return !resume || journal_remove(journal);
}

static bool open_inputs(struct quantize_job *job)
{
    const struct quantize_request *request = job->request;
    if (request->placement.memory_limit) process_memory_keep_low();
    return job_open_contexts(job) &&
           (request->resume || output_check(request->model, request->out, request->replace)) && job_open_model(job) &&
           (!quantize_calibrates(job->request) || read_calibration(job));
}

/* A run that was killed when all was done but to tidy up. */
static bool is_complete(const struct quantize_job *job, const struct journal *journal)
{
    return journal->finished && !job->request->replace && access(job->request->out, F_OK) == 0;
}

static bool quantize(struct quantize_job *job, struct journal *journal)
{
    const struct quantize_request *request = job->request;
    double start = cli_seconds();
    if (!open_inputs(job)) return false;
    if (request->resume) {
        if (!journal_open(job, journal)) return false;
        if (is_complete(job, journal)) return journal_remove(journal);
        if (!output_check(request->model, request->out, request->replace)) return false;
    }
    if (!create_writer(job) || !check_memory(job) || !try_layout(job)) return false;
    if (!request->json && !request->quiet) report_plan(job, journal->blocks);
    progress_begin(&job->progress, "Quantising");
    bool ok = replay_blocks(job, journal) && begin_activations(job, journal) && quantize_blocks(job, journal);
    progress_end(&job->progress);
    if (!ok || !finish(job, journal)) return false;
    job->seconds = cli_seconds() - start;
    if (!find_peak(job)) return false;
    report_experts(job);
    if (request->json) return report_json(job);
    if (!request->quiet) report_result(job);
    return true;
}

static void summarize(const struct quantize_job *job, struct scale_summary *summary)
{
    for (int64_t layer = 0; layer < job->config.layers; layer++)
        for (int linear = 0; linear < block_linears(&job->config); linear++) {
            const struct linear_report *report = &job->reports[layer].linear[linear];
            summary->groups += report->groups;
            summary->changed += report->changed_scales;
            summary->ratios += report->scale_ratios;
        }
}

void job_clear(struct quantize_job *job)
{
    session_destroy(job->session);
    awq_context_free(job->context, job->hidden);
    free(job->counts);
    json_decref(job->provenance);
    awq_archive_destroy(job->archive);
    free(job->excluded);
    for (int64_t layer = 0; job->reports && layer < job->config.layers; layer++)
        block_report_free(&job->reports[layer]);
    free(job->reports);
    awq_checkpoint_writer_destroy(job->writer);
    awq_checkpoint_destroy(job->source);
    model_config_clear(&job->config);
    if (job->host != job->context) awq_context_destroy(job->host);
    awq_context_destroy(job->context);
}

int quantize_model(const struct quantize_request *request, struct scale_summary *summary)
{
    struct quantize_job job = {.request = request, .settings = &request->settings};
    struct journal journal = {.fd = -1};
    bool ok = quantize(&job, &journal);
    if (ok && summary) summarize(&job, summary);
    token_rows_free(&job.windows);
    journal_close(&journal);
    job_clear(&job);
    return ok ? EXIT_OK : EXIT_FAILED;
}
