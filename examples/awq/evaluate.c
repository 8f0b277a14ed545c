/* awq evaluate: how well a model predicts a text, and how far it is from another model. */
#include "evaluate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "model.h"
#include "npy_writer.h"
#include "progress.h"
#include "tokens.h"

enum { DEFAULT_CONTEXT = 2048, BATCH_ROWS = 2048, LOGITS_AT_ONCE = 1 << 22 };

struct options {
    const char *model, *against, *text, *tokens, *logits, *tuning;
    int64_t context, stride, limit;
    struct placement placement;
    bool no_fuse, json;
};

/* What is read, and how it is cut: window i feeds the tokens from begin on and predicts the one after each. */
struct window {
    int64_t begin; /* in the ids of 'rows' */
    int64_t length;
    int64_t first_counted; /* targets before this one were counted in an earlier window */
};

struct windows {
    struct token_rows rows;
    struct window *list;
    int64_t count;
    int64_t context, stride;
    int64_t inputs, counted;
};

/* A model and the room it runs in. */
struct runner {
    struct model *model;
    struct session *session;
    float *hidden; /* [batch rows][hidden] */
    float *logits; /* [chunk rows][vocabulary] */
    double seconds;
    int64_t tokens;
};

struct totals {
    double loss, divergence;
    int64_t counted, agreed;
};

struct evaluation {
    awq_context *context;
    struct windows windows;
    struct runner model, reference; /* reference.model is NULL without --against */
    int64_t batch_windows, batch_rows, chunk_rows;
    struct score *scores; /* [chunk_rows] */
    struct npy_writer logits;
    float *logits_room; /* [chunk_rows][vocabulary] on the host, where logits are written */
    struct totals totals;
};

/* ---- windows */

/* Rows of a file of token ids are windows as they are. */
static bool cut_rows(struct windows *windows, int64_t limit)
{
    const struct token_rows *rows = &windows->rows;
    windows->count = limit && limit < rows->rows ? limit : rows->rows;
    windows->list = calloc((size_t)windows->count, sizeof *windows->list);
    if (!windows->list) return cli_error("out of memory");
    for (int64_t i = 0; i < windows->count; i++)
        windows->list[i] = (struct window){.begin = i * rows->columns, .length = windows->context};
    return true;
}

/* One long row: a window every 'stride' tokens, of which those targets count that no earlier window had. */
static bool cut_text(struct windows *windows, int64_t limit)
{
    int64_t targets = windows->rows.columns - 1, context = windows->context, stride = windows->stride;
    windows->count = targets <= context ? 1 : 1 + (targets - context + stride - 1) / stride;
    if (limit && limit < windows->count) windows->count = limit;
    windows->list = calloc((size_t)windows->count, sizeof *windows->list);
    if (!windows->list) return cli_error("out of memory");
    for (int64_t i = 0; i < windows->count; i++) {
        struct window *window = &windows->list[i];
        window->begin = i * stride;
        window->length = targets - window->begin < context ? targets - window->begin : context;
        window->first_counted = i ? context - stride : 0;
    }
    return true;
}

/* Choose the window's length and check it against what there is and what the models take. */
static bool set_context(const struct options *options, int64_t limit, struct windows *windows)
{
    bool rows = windows->rows.rows > 1;
    int64_t available = windows->rows.columns - 1, standard = limit < DEFAULT_CONTEXT ? limit : DEFAULT_CONTEXT;
    const char *file = options->text ? options->text : options->tokens;
    if (available < 1)
        return cli_error("%s: has %" PRId64 " tokens in a row; at least 2 are needed", file, available + 1);
    windows->context = options->context ? options->context : rows ? available : standard;
    if (windows->context > limit)
        return cli_error("windows of %" PRId64 " tokens do not fit the model's context of %" PRId64 "; --context sets "
                         "their length", windows->context, limit);
    if (rows && windows->context > available)
        return cli_error("%s: has rows of %" PRId64 " tokens, too short for windows of %" PRId64 " and a token after",
                         file, available + 1, windows->context);
    windows->stride = options->stride ? options->stride : windows->context;
    if (windows->stride > windows->context)
        return cli_error("--stride %" PRId64 " would skip tokens between windows of %" PRId64, windows->stride,
                         windows->context);
    if (rows && options->stride)
        return cli_error("%s: has rows, which are windows already: --stride has no meaning", file);
    return true;
}

/* Text begins with the model's beginning-of-text token, if it has one. */
static bool read_text(const struct options *options, int64_t vocabulary, struct token_rows *rows)
{
    struct tokenizer *tokenizer;
    if (!tokenizer_open(options->model, &tokenizer)) return false;
    int32_t bos = tokenizer_bos(tokenizer);
    bool ok = tokens_read(options->text, tokenizer, vocabulary, rows);
    tokenizer_close(tokenizer);
    if (!ok || bos < 0) return ok;
    int32_t *ids = realloc(rows->ids, (size_t)(rows->columns + 1) * sizeof *ids);
    if (!ids) return cli_error("out of memory");
    memmove(ids + 1, ids, (size_t)rows->columns * sizeof *ids);
    ids[0] = bos;
    rows->ids = ids;
    rows->columns++;
    return true;
}

static bool windows_open(const struct options *options, const struct evaluation *evaluation, struct windows *windows)
{
    const struct model_config *config = &evaluation->model.model->config;
    int64_t limit = config->context;
    if (evaluation->reference.model && evaluation->reference.model->config.context < limit)
        limit = evaluation->reference.model->config.context;
    if (options->text ? !read_text(options, config->vocabulary, &windows->rows)
                      : !tokens_read(options->tokens, NULL, config->vocabulary, &windows->rows))
        return false;
    if (!set_context(options, limit, windows)) return false;
    if (windows->rows.rows > 1 ? !cut_rows(windows, options->limit) : !cut_text(windows, options->limit)) return false;
    for (int64_t i = 0; i < windows->count; i++) {
        windows->inputs += windows->list[i].length;
        windows->counted += windows->list[i].length - windows->list[i].first_counted;
    }
    return true;
}

/* ---- running a model over windows */

static bool allocate_floats(awq_context *context, int64_t rows, int64_t columns, float **values)
{
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, (uint64_t)rows * (uint64_t)columns * sizeof(float), &memory);
    *values = memory;
    return status == AWQ_OK || cli_library_error(status, "activations");
}

static bool runner_prepare(const struct evaluation *evaluation, struct runner *runner)
{
    const struct model_config *config = &runner->model->config;
    const struct session_options options = {
        .max_rows = evaluation->batch_rows,
        .sequences = evaluation->batch_windows,
        .capacity = evaluation->windows.context,
    };
    return session_create(evaluation->context, config, &options, &runner->session) &&
           allocate_floats(evaluation->context, evaluation->batch_rows, config->hidden, &runner->hidden) &&
           allocate_floats(evaluation->context, evaluation->chunk_rows, config->vocabulary, &runner->logits);
}

static void runner_close(struct runner *runner)
{
    if (!runner->model) return;
    session_destroy(runner->session);
    awq_context_free(runner->model->context, runner->hidden);
    awq_context_free(runner->model->context, runner->logits);
    model_close(runner->model);
}

static bool run_hidden(struct runner *runner, const struct batch *batch, const int32_t *tokens)
{
    double start = cli_seconds();
    bool ok = model_forward(runner->model, runner->session, batch, tokens, runner->hidden);
    runner->seconds += cli_seconds() - start;
    runner->tokens += batch_rows(batch);
    return ok;
}

static bool run_logits(struct runner *runner, int64_t first, int64_t rows)
{
    double start = cli_seconds();
    const float *hidden = runner->hidden + first * runner->model->config.hidden;
    bool ok = model_logits(runner->model, runner->session, hidden, rows, runner->logits);
    runner->seconds += cli_seconds() - start;
    return ok;
}

/* ---- scores */

/* Add up the scores of a window's tokens offset .. offset + rows - 1, as far as they count. */
static bool add_scores(struct evaluation *evaluation, const struct window *window, int64_t offset, int64_t rows)
{
    struct totals *totals = &evaluation->totals;
    for (int64_t i = 0; i < rows; i++) {
        const struct score *score = &evaluation->scores[i];
        if (!isfinite(score->loss) || !isfinite(score->divergence))
            return cli_error("the logits are not finite numbers at token %" PRId64 " of the window at token %" PRId64,
                             offset + i, window->begin);
        if (offset + i < window->first_counted) continue;
        totals->loss += score->loss;
        totals->divergence += score->divergence;
        totals->agreed += score->agrees;
        totals->counted++;
    }
    return true;
}

static bool write_logits(struct evaluation *evaluation, int64_t count)
{
    const struct runner *model = &evaluation->model;
    if (!evaluation->logits_room) return true;
    const float *values = session_read(model->session, model->logits, count, evaluation->logits_room);
    return values && npy_writer_add(&evaluation->logits, values, count);
}

/* Logits and scores of one window, whose hidden states are rows from 'first' on of the batch, a chunk at a time. */
static bool score_window(struct evaluation *evaluation, const struct window *window, int64_t first)
{
    struct runner *model = &evaluation->model, *reference = &evaluation->reference;
    int64_t vocabulary = model->model->config.vocabulary;
    for (int64_t done = 0; done < window->length; done += evaluation->chunk_rows) {
        int64_t rows = window->length - done < evaluation->chunk_rows ? window->length - done : evaluation->chunk_rows;
        const int32_t *targets = evaluation->windows.rows.ids + window->begin + done + 1;
        if (!run_logits(model, first + done, rows) ||
            (reference->model && !run_logits(reference, first + done, rows)) ||
            !write_logits(evaluation, rows * vocabulary) ||
            !model_scores(model->session, model->logits, reference->logits, targets, rows, evaluation->scores))
            return false;
        if (!add_scores(evaluation, window, done, rows)) return false;
    }
    return true;
}

/* 'count' windows from 'first' on, in one batch. */
static bool run_batch(struct evaluation *evaluation, int64_t first, int64_t count, int64_t *counts, int32_t *tokens)
{
    const struct windows *windows = &evaluation->windows;
    struct batch batch = {.sequences = count, .counts = counts};
    int64_t row = 0;
    for (int64_t i = 0; i < count; i++) {
        const struct window *window = &windows->list[first + i];
        counts[i] = window->length;
        memcpy(tokens + row, windows->rows.ids + window->begin, (size_t)window->length * sizeof *tokens);
        row += window->length;
    }
    if (!run_hidden(&evaluation->model, &batch, tokens)) return false;
    if (evaluation->reference.model && !run_hidden(&evaluation->reference, &batch, tokens)) return false;
    row = 0;
    for (int64_t i = 0; i < count; row += counts[i++])
        if (!score_window(evaluation, &windows->list[first + i], row)) return false;
    return true;
}

static bool run_batches(struct evaluation *evaluation)
{
    const struct windows *windows = &evaluation->windows;
    struct progress progress;
    int64_t *counts = calloc((size_t)evaluation->batch_windows, sizeof *counts);
    int32_t *tokens = calloc((size_t)evaluation->batch_rows, sizeof *tokens);
    bool ok = (counts && tokens) || cli_error("out of memory");
    progress_begin(&progress, "Evaluating");
    for (int64_t first = 0; ok && first < windows->count; first += evaluation->batch_windows) {
        int64_t left = windows->count - first;
        int64_t count = left < evaluation->batch_windows ? left : evaluation->batch_windows;
        ok = run_batch(evaluation, first, count, counts, tokens);
        if (ok && progress_update(&progress, (uint64_t)(first + count), (uint64_t)windows->count))
            ok = cli_error("interrupted");
    }
    progress_end(&progress);
    free(counts);
    free(tokens);
    return ok;
}

/* ---- the report */

static double bits_per_weight(uint64_t bytes, int64_t weights)
{
    return weights ? 8.0 * (double)bytes / (double)weights : 0;
}

static bool print_json(const struct options *options, const struct evaluation *evaluation)
{
    const struct totals *totals = &evaluation->totals;
    const struct windows *windows = &evaluation->windows;
    const struct runner *model = &evaluation->model;
    const struct model_sizes *sizes = &model->model->sizes;
    double loss = totals->loss / (double)totals->counted;
    json_t *json = json_pack("{s:s, s:s, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:I, s:I, s:f, s:I, s:I, s:f}",
        "model", options->model,
        "data", options->text ? options->text : options->tokens,
        "perplexity", exp(loss),
        "loss", loss,
        "tokens", (json_int_t)totals->counted,
        "windows", (json_int_t)windows->count,
        "context", (json_int_t)windows->context,
        "stride", (json_int_t)windows->stride,
        "seconds", model->seconds,
        "tokens_per_second", (double)model->tokens / model->seconds,
        "weights", (json_int_t)sizes->total_weights,
        "weight_bytes", (json_int_t)sizes->total_bytes,
        "bits_per_weight", bits_per_weight(sizes->total_bytes, sizes->total_weights),
        "quantized_weights", (json_int_t)sizes->quantized_weights,
        "quantized_bytes", (json_int_t)sizes->quantized_bytes,
        "quantized_bits_per_weight", bits_per_weight(sizes->quantized_bytes, sizes->quantized_weights));
    if (json && options->against) {
        json_object_set_new(json, "against", json_string(options->against));
        json_object_set_new(json, "kl_divergence", json_real(totals->divergence / (double)totals->counted));
        json_object_set_new(json, "top1_agreement", json_real((double)totals->agreed / (double)totals->counted));
    }
    if (!json) return cli_error("the results cannot be written as JSON");
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}

static void print_text(const struct options *options, const struct evaluation *evaluation)
{
    const struct totals *totals = &evaluation->totals;
    const struct windows *windows = &evaluation->windows;
    const struct runner *model = &evaluation->model;
    const struct model_sizes *sizes = &model->model->sizes;
    double counted = (double)totals->counted;
    printf("model          %s\n", options->model);
    printf("perplexity     %.4f  = exp(%.5f), the mean of -ln p(token | those before it in its window)\n",
           exp(totals->loss / counted), totals->loss / counted);
    printf("               over %s tokens of %s, in %s windows of %s, one every %s\n", cli_count(totals->counted).text,
           options->text ? options->text : options->tokens, cli_count(windows->count).text,
           cli_count(windows->context).text, cli_count(windows->stride).text);
    if (options->against) {
        printf("against        %s\n", options->against);
        printf("KL divergence  %.6f nats, the mean over those tokens of KL(reference || model)\n",
               totals->divergence / counted);
        printf("top-1          %.4f of them with the same most likely token\n", (double)totals->agreed / counted);
    }
    printf("speed          %.0f tokens/s\n", (double)model->tokens / model->seconds);
    printf("weights        %s in %s, %.3f bits each\n", cli_count(sizes->total_weights).text,
           cli_bytes(sizes->total_bytes).text, bits_per_weight(sizes->total_bytes, sizes->total_weights));
    if (sizes->quantized_weights)
        printf("quantised      %s of them in %s, %.3f bits each with scales and zero points\n",
               cli_count(sizes->quantized_weights).text, cli_bytes(sizes->quantized_bytes).text,
               bits_per_weight(sizes->quantized_bytes, sizes->quantized_weights));
}

/* ---- the command */

static bool open_models(const struct options *options, struct evaluation *evaluation)
{
    const struct model_options model_options = {.no_fuse = options->no_fuse, .tuning = options->tuning};
    struct model **reference = &evaluation->reference.model;
    if (!model_open(evaluation->context, options->model, &model_options, &evaluation->model.model)) return false;
    if (!options->against) return true;
    if (!model_open(evaluation->context, options->against, &model_options, reference)) return false;
    if (evaluation->model.model->config.vocabulary == (*reference)->config.vocabulary) return true;
    return cli_error("%s has a vocabulary of %" PRId64 " tokens, %s one of %" PRId64 ": they cannot be compared",
                     options->model, evaluation->model.model->config.vocabulary, options->against,
                     (*reference)->config.vocabulary);
}

static bool open_logits(const struct options *options, struct evaluation *evaluation, int64_t vocabulary)
{
    evaluation->logits_room = malloc((size_t)(evaluation->chunk_rows * vocabulary) * sizeof *evaluation->logits_room);
    if (!evaluation->logits_room) return cli_error("out of memory");
    return npy_writer_open(&evaluation->logits, options->logits, evaluation->windows.inputs, vocabulary);
}

/* Everything but the report. */
static bool evaluate(const struct options *options, struct evaluation *evaluation)
{
    struct windows *windows = &evaluation->windows;
    if (!placement_open(&options->placement, &evaluation->context)) return false;
    if (!open_models(options, evaluation) || !windows_open(options, evaluation, windows)) return false;
    int64_t vocabulary = evaluation->model.model->config.vocabulary;
    int64_t batch = BATCH_ROWS / windows->context;
    evaluation->batch_windows = batch > windows->count ? windows->count : batch > 0 ? batch : 1;
    evaluation->batch_rows = evaluation->batch_windows * windows->context;
    evaluation->chunk_rows = LOGITS_AT_ONCE / vocabulary;
    if (evaluation->chunk_rows > windows->context) evaluation->chunk_rows = windows->context;
    if (evaluation->chunk_rows < 1) evaluation->chunk_rows = 1;
    evaluation->scores = calloc((size_t)evaluation->chunk_rows, sizeof *evaluation->scores);
    if (!evaluation->scores) return cli_error("out of memory");
    if (!runner_prepare(evaluation, &evaluation->model)) return false;
    if (evaluation->reference.model && !runner_prepare(evaluation, &evaluation->reference)) return false;
    if (options->logits && !open_logits(options, evaluation, vocabulary)) return false;
    return run_batches(evaluation) && npy_writer_close(&evaluation->logits);
}

static void evaluation_close(struct evaluation *evaluation)
{
    npy_writer_discard(&evaluation->logits);
    runner_close(&evaluation->model);
    runner_close(&evaluation->reference);
    token_rows_free(&evaluation->windows.rows);
    free(evaluation->windows.list);
    free(evaluation->scores);
    free(evaluation->logits_room);
    awq_context_destroy(evaluation->context);
}

bool evaluate_model(const struct evaluate_request *request, struct evaluate_result *result)
{
    const bool ids = tokens_is_id_file(request->text);
    const struct options options = {
        .model = request->model,
        .against = request->against,
        .text = ids ? NULL : request->text,
        .tokens = ids ? request->text : NULL,
        .context = request->context,
        .placement = request->placement,
    };
    struct evaluation evaluation = {0};
    bool ok = evaluate(&options, &evaluation);
    if (ok) {
        const double counted = (double)evaluation.totals.counted;
        result->perplexity = exp(evaluation.totals.loss / counted);
        result->divergence = evaluation.totals.divergence / counted;
        result->tokens = evaluation.totals.counted;
    }
    evaluation_close(&evaluation);
    return ok;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct evaluation evaluation = {0};
    if (!options->text == !options->tokens) return cli_usage(command, "give either --text or --tokens");
    if (options->text && tokens_is_id_file(options->text))
        return cli_usage(command, "%s holds token ids: give it as --tokens", options->text);
    bool ok = evaluate(options, &evaluation);
    if (ok && options->json) ok = print_json(options, &evaluation);
    else if (ok) print_text(options, &evaluation);
    evaluation_close(&evaluation);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct options defaults = {0};

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of the model to evaluate."},
    {CLI_HEADING, "Data", .offset = 0},
    {CLI_STRING, "text", offsetof(struct options, text), .argument = "FILE",
     .help = "UTF-8 text, encoded with MODEL's tokenizer after its beginning-of-text token, if it has one."},
    {CLI_STRING, "tokens", offsetof(struct options, tokens), .argument = "FILE",
     .help = "Token ids instead: .npy, .u16 or .u32.  Rows of a two-dimensional .npy are windows: all but the last "
             "token of a row are fed, all but the first predicted."},
    {CLI_INT64, "context", offsetof(struct options, context), .argument = "N",
     .help = "Tokens in a window [default: what the model takes, 2048 at most].", .minimum = 1, .maximum = INFINITY},
    {CLI_INT64, "stride", offsetof(struct options, stride), .argument = "N",
     .help = "Tokens from window to window [default: --context].  With a smaller one windows overlap, and only tokens "
             "not counted before count.", .minimum = 1, .maximum = INFINITY},
    {CLI_INT64, "limit", offsetof(struct options, limit), .argument = "N", .help = "Stop after N windows.",
     .minimum = 1, .maximum = INFINITY},
    {CLI_HEADING, "Comparison", .offset = 0},
    {CLI_STRING, "against", offsetof(struct options, against), .argument = "MODEL",
     .help = "Also measure the divergence from this model, such as the one that MODEL was quantised from."},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_OPTIONS(struct options, placement),
    {CLI_STRING, "tuning", offsetof(struct options, tuning), .argument = "FILE",
     .help = "Kernels as measured on this device by 'awq tune' [default: the library's choice]."},
    {CLI_FLAG, "no-fuse", offsetof(struct options, no_fuse),
     .help = "Run q, k, v and gate, up one by one instead of as one product each."},
    {CLI_HEADING, "Output", .offset = 0},
    {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print the results as JSON."},
    {CLI_STRING, "logits", offsetof(struct options, logits), .argument = "FILE.npy",
     .help = "Also write the logits of every token fed, float32 [tokens][vocabulary]."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command evaluate_command = {
    .name = "evaluate",
    .summary = "measure perplexity, and the divergence from another model",
    .intro = "Measures how well a model predicts text it has not seen.\n"
             "\n"
             "Perplexity is exp of the mean negative log-likelihood per token; 1 is certainty, lower is better.\n"
             "It depends on the text, the tokenizer and the windows, so compare only what was measured alike.\n"
             "The Kullback-Leibler divergence from the model before quantisation says more, and needs less text.",
    .examples = "  awq evaluate MODEL --text held-out.txt\n"
                "  awq evaluate MODEL-awq --against MODEL --text held-out.txt --json",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
