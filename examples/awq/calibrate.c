/* awq calibrate: run text through a model and keep statistics of its activations.
 *
 * Memory does not depend on how much text there is, but for its token ids: windows run through the model in rounds,
 * block by block, and between rounds the statistics lie in a file. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "quantize.h"

/* Of activations that go through the model in one round, unless a limit says less. */
#define ROUND_BYTES ((uint64_t)1 << 30)

struct options {
    struct quantize_request request;
    int64_t seed;
    const char *part;
    bool gram;
};

static const struct options defaults = {
    .request = {.samples = 128, .length = 512, .settings = {.search_tokens = 1024}},
};

struct calibration_job {
    struct quantize_job job; /* its windows are those of a round, and not owned */
    const struct options *options;
    struct token_rows windows;
    int64_t first, last; /* windows to observe */
    int64_t part, parts; /* from 0 */
    int64_t round;       /* windows in one */
    uint64_t fingerprint;
    char *partial; /* path of what the round before has left */
    awq_calibration **total; /* [block_points], of the block at work; of the host */
};

/* ---- observing */

static bool create_calibration(const struct calibration_job *calibration, awq_context *context, int64_t channels,
                               int64_t rows, bool gram, awq_calibration **created)
{
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = gram ? AWQ_CALIBRATION_GRAM : 0;
    options.sample_rows = rows;
    options.seed = (uint64_t)calibration->options->seed;
    awq_status status = awq_calibration_create(context, channels, &options, created);
    return status == AWQ_OK || cli_library_error(status, "statistics");
}

/* The same rows of any text, so not fewer where there is less of it. */
static bool create_point(const struct calibration_job *calibration, awq_context *context, int point,
                         awq_calibration **created)
{
    return create_calibration(calibration, context, point_inputs(&calibration->job.config, point),
                              calibration->job.settings->search_tokens, calibration->options->gram, created);
}

/* A block_tap.  What it sees is a chunk. */
static bool observe(void *user_data, int point, const awq_tensor *x)
{
    struct calibration_job *calibration = user_data;
    awq_calibration *chunk = NULL;
    if (!create_point(calibration, calibration->job.context, point, &chunk)) return false;
    awq_status status = awq_calibration_observe(chunk, x);
    if (status == AWQ_OK) status = awq_calibration_trim(chunk);
    if (status == AWQ_OK) status = awq_calibration_merge(calibration->total[point], chunk);
    awq_calibration_destroy(chunk);
    return status == AWQ_OK || cli_library_error(status, "input of %s", point_name(point));
}

/* Token ids as rows of numbers. */
static bool observe_windows(const struct calibration_job *calibration, awq_calibration *into)
{
    const int64_t columns = calibration->windows.columns;
    float *values = calloc((size_t)columns, sizeof *values);
    awq_status status = AWQ_OK;
    if (!values) return cli_error("out of memory");
    for (int64_t row = calibration->first; status == AWQ_OK && row < calibration->last; row++) {
        awq_tensor x;
        for (int64_t i = 0; i < columns; i++) values[i] = (float)calibration->windows.ids[row * columns + i];
        awq_tensor_init_const_2d(&x, values, AWQ_F32, 1, columns);
        status = awq_calibration_observe(into, &x);
    }
    free(values);
    return status == AWQ_OK || cli_library_error(status, "windows");
}

/* ---- a round */

static bool begin_block(struct calibration_job *calibration, const awq_archive *before, int64_t layer)
{
    for (int point = 0; point < block_points(&calibration->job.config); point++) {
        char name[TENSOR_NAME_SIZE];
        statistics_name(layer, point, name);
        if (!before && !create_point(calibration, calibration->job.host, point, &calibration->total[point]))
            return false;
        awq_status status = before ? awq_archive_load(before, name, &calibration->total[point]) : AWQ_OK;
        if (status != AWQ_OK) return cli_library_error(status, "statistics");
    }
    return true;
}

static bool write_block(struct calibration_job *calibration, awq_archive_writer *writer, int64_t layer)
{
    for (int point = 0; point < block_points(&calibration->job.config); point++) {
        char name[TENSOR_NAME_SIZE];
        statistics_name(layer, point, name);
        awq_status status = awq_archive_writer_add(writer, name, calibration->total[point]);
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
        awq_calibration_destroy(calibration->total[point]);
        calibration->total[point] = NULL;
    }
    return true;
}

static bool run_block(struct calibration_job *calibration, const awq_archive *before, awq_archive_writer *writer,
                      int64_t layer)
{
    struct quantize_job *job = &calibration->job;
    struct block_weights weights;
    struct block block = {0};
    struct job_part part = {job, layer, 0, 100};
    if (!block_weights_load(job->host, job->source, &job->config, layer, &weights)) return false;
    bool ok = block_create(job->context, &job->config, &weights, false, NULL, &block) &&
              begin_block(calibration, before, layer) && job_forward(job, &block, true, &part, observe, calibration) &&
              write_block(calibration, writer, layer);
    block_clear(job->context, &block);
    block_weights_clear(&weights);
    block_weights_release(job->source, &job->config, layer);
    return ok;
}

static bool write_windows(struct calibration_job *calibration, awq_archive_writer *writer)
{
    const int64_t columns = calibration->windows.columns, fit = calibration->job.settings->search_tokens / columns;
    awq_calibration *windows = NULL;
    if (!create_calibration(calibration, calibration->job.host, columns, fit > 1 ? fit : 1, false, &windows))
        return false;
    bool ok = observe_windows(calibration, windows);
    awq_status status = ok ? awq_archive_writer_add(writer, STATISTICS_WINDOWS, windows) : AWQ_OK;
    awq_calibration_destroy(windows);
    return ok && (status == AWQ_OK || cli_library_error(status, "windows"));
}

/* 'from' and 'to' are paths of archives; 'from' is NULL in the first round. */
static bool run_round(struct calibration_job *calibration, int64_t first, const char *from, const char *to)
{
    struct quantize_job *job = &calibration->job;
    const int64_t columns = calibration->windows.columns, left = calibration->last - first;
    awq_archive *before = NULL;
    awq_archive_writer *writer = NULL;
    job->windows.ids = calibration->windows.ids + first * columns;
    job->windows.rows = left < calibration->round ? left : calibration->round;
    const bool is_last = job->windows.rows == left;
    json_t *provenance = provenance_create(&job->config, calibration->fingerprint, job->request->calib,
                                           &calibration->windows, calibration->first, first + job->windows.rows);
    char *text = provenance ? provenance_text(provenance) : NULL;
    bool ok = text && job_embed(job);
    awq_status status = ok && from ? awq_archive_open(job->host, from, &before) : AWQ_OK;
    if (ok && status == AWQ_OK) status = awq_archive_writer_create(job->host, to, text, &writer);
    ok = ok && (status == AWQ_OK || cli_library_error(status, "statistics"));
    for (int64_t layer = 0; ok && layer < job->config.layers; layer++)
        ok = run_block(calibration, before, writer, layer);
    ok = ok && (!is_last || write_windows(calibration, writer));
    status = ok ? awq_archive_writer_commit(writer) : AWQ_OK;
    awq_archive_writer_destroy(writer);
    awq_archive_destroy(before);
    free(text);
    json_decref(provenance);
    return ok && (status == AWQ_OK || cli_library_error(status, "statistics"));
}

static bool run_rounds(struct calibration_job *calibration)
{
    struct quantize_job *job = &calibration->job;
    bool ok = true;
    progress_begin(&job->progress, "Calibrating");
    for (int64_t first = calibration->first; ok && first < calibration->last; first += calibration->round) {
        bool is_last = calibration->last - first <= calibration->round;
        progress_note(&job->progress, "windows from %" PRId64, first);
        ok = run_round(calibration, first, first > calibration->first ? calibration->partial : NULL,
                       is_last ? job->request->out : calibration->partial);
    }
    progress_end(&job->progress);
    unlink(calibration->partial);
    return ok;
}

/* ---- before it */

/* Chunks are the unit in which sums are rounded, so they must not depend on rounds or parts. */
static bool choose_windows(struct calibration_job *calibration, int64_t chunk)
{
    const int64_t rows = calibration->windows.rows, chunks = (rows + chunk - 1) / chunk;
    calibration->first = calibration->part * chunks / calibration->parts * chunk;
    calibration->last = (calibration->part + 1) * chunks / calibration->parts * chunk;
    if (calibration->last > rows) calibration->last = rows;
    return calibration->first < calibration->last ||
           cli_error("--part %s is empty: %" PRId64 " windows are %" PRId64 " parts at most",
                     calibration->options->part, rows, chunks);
}

static bool choose_round(struct calibration_job *calibration, int64_t chunk)
{
    struct quantize_job *job = &calibration->job;
    const uint64_t limit = job->request->placement.memory_limit;
    uint64_t window_bytes, fixed = estimate_calibration(job, calibration->options->gram, &window_bytes);
    uint64_t room = limit > fixed ? limit - fixed : 0;
    if (!limit || room > ROUND_BYTES) room = ROUND_BYTES;
    int64_t chunks = (int64_t)(room / window_bytes) / chunk, windows = calibration->last - calibration->first;
    if (limit && chunks == 0)
        return cli_error("calibrating with this model takes about %s, but --memory-limit is %s; fewer --search-tokens "
                         "or a smaller --seq-length take less", cli_bytes(fixed + window_bytes * (uint64_t)chunk).text,
                         cli_bytes(limit).text);
    calibration->round = chunks > 0 ? chunks * chunk : chunk;
    if (calibration->round > windows) calibration->round = windows;
    job->windows = (struct token_rows){NULL, calibration->round, calibration->windows.columns};
    job->estimated_bytes = fixed + window_bytes * (uint64_t)calibration->round;
    return true;
}

static bool prepare(struct calibration_job *calibration)
{
    struct quantize_job *job = &calibration->job;
    const struct quantize_request *request = job->request;
    if (access(request->out, F_OK) == 0 && !request->replace)
        return cli_error("%s: exists already; --force replaces it", request->out);
    if (!job_open_contexts(job) || !job_open_model(job)) return false;
    calibration->total = calloc((size_t)block_points(&job->config), sizeof *calibration->total);
    if (!calibration->total) return cli_error("out of memory");
    if (job->config.vocabulary > 1 << 24)
        return cli_error("%s: has a vocabulary of %" PRId64 "; windows of at most 2^24 can be kept", request->model,
                         job->config.vocabulary);
    if (!job_read_windows(job)) return false;
    calibration->windows = job->windows;
    /* Of as many windows as may come: a chunk of few would be a smaller one. */
    job->windows.rows = INT32_MAX;
    int64_t chunk = calibration_session(job).sequences;
    if (asprintf(&calibration->partial, "%s.partial", request->out) < 0) {
        calibration->partial = NULL;
        return cli_error("out of memory");
    }
    return model_fingerprint(job->source, &calibration->fingerprint) && choose_windows(calibration, chunk) &&
           choose_round(calibration, chunk) && job_prepare(job);
}

/* ---- the command */

static bool report(const struct calibration_job *calibration, double seconds)
{
    const struct quantize_job *job = &calibration->job;
    const struct quantize_request *request = job->request;
    const int64_t windows = calibration->last - calibration->first, tokens = windows * calibration->windows.columns;
    uint64_t peak = 0;
    if (!job_context_peak(job, &peak)) return false;
    if (request->json) {
        json_t *json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:f}",
            "model", request->model,
            "text", request->calib,
            "out", request->out,
            "windows", (json_int_t)windows,
            "of", (json_int_t)calibration->windows.rows,
            "window_tokens", (json_int_t)calibration->windows.columns,
            "round_windows", (json_int_t)calibration->round,
            "estimated_memory_bytes", (json_int_t)job->estimated_bytes,
            "peak_memory_bytes", (json_int_t)peak,
            "seconds", seconds);
        bool ok = json && json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 &&
                  putchar('\n') != EOF;
        json_decref(json);
        return ok || cli_error("standard output: it cannot be written");
    }
    if (request->quiet) return true;
    printf("calibration  %s windows of %s tokens from %s, %s tokens for every linear\n", cli_count(windows).text,
           cli_count(calibration->windows.columns).text, request->calib, cli_count(tokens).text);
    printf("written      %s\n", request->out);
    printf("memory       %s at most; %s were estimated\n", cli_bytes(peak).text, cli_bytes(job->estimated_bytes).text);
    printf("time         %s\n", cli_duration(seconds).text);
    return true;
}

/* "K/N" of at least 1; NULL is all. */
static bool parse_part(const char *text, int64_t *part, int64_t *parts)
{
    int end = 0;
    *part = 0;
    *parts = 1;
    if (!text) return true;
    if (sscanf(text, "%9" SCNd64 "/%9" SCNd64 "%n", part, parts, &end) != 2 || text[end]) return false;
    return (*part)-- >= 1 && *part < *parts;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct quantize_request request = options->request;
    struct calibration_job calibration = {.options = options};
    struct quantize_job *job = &calibration.job;
    double start = cli_seconds();
    if (!request.calib) return cli_usage(command, "--text is missing: what to calibrate with");
    if (!request.out) return cli_usage(command, "--out is missing: the file to write");
    if (!parse_part(options->part, &calibration.part, &calibration.parts))
        return cli_usage(command, "--part is K/N with K from 1 to N, not '%s'", options->part);
    job->request = &request;
    job->settings = &request.settings;
    bool ok = prepare(&calibration) && run_rounds(&calibration) && report(&calibration, cli_seconds() - start);
    for (int point = 0; calibration.total && point < block_points(&job->config); point++)
        awq_calibration_destroy(calibration.total[point]);
    free(calibration.total);
    job_clear(job);
    token_rows_free(&calibration.windows);
    free(calibration.partial);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, request.model), .help = "Directory of the model."},
    {CLI_STRING, "out", offsetof(struct options, request.out), 'o', "FILE", .help = "File to write."},
    {CLI_FLAG, "force", offsetof(struct options, request.replace), 'f', .help = "Replace FILE if it exists."},
    {CLI_STRING, "text", offsetof(struct options, request.calib), .argument = "FILE",
     .help = "Text like that which the model is for, or token ids: .npy, .u16, .u32.  Text is encoded with MODEL's "
             "tokenizer."},
    {CLI_INT64, "samples", offsetof(struct options, request.samples), .argument = "N",
     .help = "Windows of the data to use, spread evenly over it; 0: all.", .minimum = 0, .maximum = 1e9},
    {CLI_INT64, "seq-length", offsetof(struct options, request.length), .argument = "N",
     .help = "Tokens in each, as far as the model's context goes.", .minimum = 1, .maximum = 1e9},
    {CLI_INT64, "search-tokens", offsetof(struct options, request.settings.search_tokens), .argument = "N",
     .help = "Tokens to keep whole, for candidates to be tried on.", .minimum = 1, .maximum = 1e9},
    {CLI_INT64, "seed", offsetof(struct options, seed), .argument = "N", .help = "Of the choice of those tokens.",
     .minimum = 0, .maximum = INFINITY},
    {CLI_FLAG, "gram", offsetof(struct options, gram),
     .help = "Also keep X^T X of every input, which some ways of rounding need: inputs^2 numbers each."},
    {CLI_STRING, "part", offsetof(struct options, part), .argument = "K/N",
     .help = "Only the K-th of N parts of the windows, so that N machines can share the work.  'awq merge' makes of "
             "the N files the one that a single run would have written, byte for byte."},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_COMPUTE_OPTIONS(struct options, request.placement),
    {CLI_SIZE, "memory-limit", offsetof(struct options, request.placement.memory_limit), .argument = "SIZE",
     .help = "Use no more of the host's memory than this, such as 4G, by running fewer windows at a time; fail where "
             "that is not enough.  Pages of the model's files do not count."},
    {CLI_FLAG, "json", offsetof(struct options, request.json), .help = "Print the results as JSON."},
    {CLI_FLAG, "quiet", offsetof(struct options, request.quiet), 'q', .help = "Print nothing but errors."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command calibrate_command = {
    .name = "calibrate",
    .summary = "run text through a model and keep statistics to quantise it by",
    .intro = "Runs text through a model and writes what quantising needs to know of its activations into one file:\n"
             "mean magnitudes of every channel, a sample of tokens, and which model and text they come from.\n"
             "'awq quantize --stats' goes by such a file, for any number of bits, group size and method; 'awq merge'\n"
             "adds several up.",
    .examples = "  awq calibrate MODEL --text text.txt -o text.awqc\n"
                "  awq quantize MODEL -o MODEL-awq --stats text.awqc",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
