/* Running the models of awq evaluate over windows, and adding up what they give. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "evaluation.h"
#include "progress.h"
#include "scores.h"

enum { BATCH_ROWS = 2048, LOGITS_AT_ONCE = 1 << 22, TOP = 5 };

/* One pass over all windows. */
struct pass {
    struct evaluation *evaluation;
    int64_t batch_windows, batch_rows, chunk_rows;
    struct score *scores; /* [chunk_rows] */
    struct npy_writer logits;
    float *logits_room;   /* [chunk_rows][vocabulary] on the host, where logits are written */
    double loss, reference_loss, divergence;
    double *divergences;  /* [windows.counted], NULL without a reference */
    int64_t counted, first, among_top;
};

/* ---- room */

bool evaluate_allocate(awq_context *context, int64_t rows, int64_t columns, float **values)
{
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, (uint64_t)rows * (uint64_t)columns * sizeof(float), &memory);
    *values = memory;
    return status == AWQ_OK || cli_library_error(status, "activations");
}

static bool runner_prepare(const struct pass *pass, struct runner *runner)
{
    const struct evaluation *evaluation = pass->evaluation;
    const struct model_config *config = &runner->model->config;
    const struct session_options options = {
        .max_rows = pass->batch_rows,
        .sequences = pass->batch_windows,
        .capacity = evaluation->windows.context,
    };
    runner->seconds = 0;
    runner->tokens = 0;
    return session_create(evaluation->context, config, &options, &runner->session) &&
           evaluate_allocate(evaluation->context, pass->batch_rows, config->hidden, &runner->hidden) &&
           evaluate_allocate(evaluation->context, pass->chunk_rows, config->vocabulary, &runner->logits);
}

void runner_release(struct runner *runner)
{
    if (!runner->model) return;
    session_destroy(runner->session);
    awq_context_free(runner->model->context, runner->hidden);
    awq_context_free(runner->model->context, runner->logits);
    runner->session = NULL;
    runner->hidden = runner->logits = NULL;
}

static bool open_logits(struct pass *pass, const char *path, int64_t vocabulary)
{
    pass->logits_room = malloc((size_t)(pass->chunk_rows * vocabulary) * sizeof *pass->logits_room);
    if (!pass->logits_room) return cli_error("out of memory");
    return npy_writer_open(&pass->logits, path, pass->evaluation->windows.inputs, vocabulary);
}

static bool pass_prepare(struct pass *pass)
{
    struct evaluation *evaluation = pass->evaluation;
    const struct windows *windows = &evaluation->windows;
    int64_t vocabulary = evaluation->model.model->config.vocabulary, batch = BATCH_ROWS / windows->context;
    pass->batch_windows = batch > windows->count ? windows->count : batch > 0 ? batch : 1;
    pass->batch_rows = pass->batch_windows * windows->context;
    pass->chunk_rows = LOGITS_AT_ONCE / vocabulary;
    if (pass->chunk_rows > windows->context) pass->chunk_rows = windows->context;
    if (pass->chunk_rows < 1) pass->chunk_rows = 1;
    pass->scores = calloc((size_t)pass->chunk_rows, sizeof *pass->scores);
    if (!pass->scores) return cli_error("out of memory");
    if (!runner_prepare(pass, &evaluation->model)) return false;
    if (evaluation->reference.model) {
        pass->divergences = malloc((size_t)windows->counted * sizeof *pass->divergences);
        if (!pass->divergences) return cli_error("out of memory");
        if (!runner_prepare(pass, &evaluation->reference)) return false;
    }
    return !evaluation->options->logits || open_logits(pass, evaluation->options->logits, vocabulary);
}

static void pass_free(struct pass *pass)
{
    npy_writer_discard(&pass->logits);
    runner_release(&pass->evaluation->model);
    runner_release(&pass->evaluation->reference);
    free(pass->scores);
    free(pass->logits_room);
    free(pass->divergences);
}

/* ---- models */

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
static bool add_scores(struct pass *pass, const struct window *window, int64_t offset, int64_t rows)
{
    for (int64_t i = 0; i < rows; i++) {
        const struct score *score = &pass->scores[i];
        if (!isfinite(score->loss) || !isfinite(score->divergence) || !isfinite(score->reference_loss))
            return cli_error("the logits are not finite numbers at token %" PRId64 " of the window at token %" PRId64,
                             offset + i, window->begin);
        if (offset + i < window->first_counted) continue;
        pass->loss += score->loss;
        pass->reference_loss += score->reference_loss;
        pass->divergence += score->divergence;
        if (pass->divergences) pass->divergences[pass->counted] = score->divergence;
        pass->first += score->rank == 0;
        pass->among_top += score->rank < TOP;
        pass->counted++;
    }
    return true;
}

static bool write_logits(struct pass *pass, int64_t count)
{
    const struct runner *model = &pass->evaluation->model;
    if (!pass->logits_room) return true;
    const float *values = session_read(model->session, model->logits, count, pass->logits_room);
    return values && npy_writer_add(&pass->logits, values, count);
}

/* Logits and scores of one window, whose hidden states are rows from 'first' on of the batch, a chunk at a time. */
static bool score_window(struct pass *pass, const struct window *window, int64_t first)
{
    struct runner *model = &pass->evaluation->model, *reference = &pass->evaluation->reference;
    int64_t vocabulary = model->model->config.vocabulary;
    for (int64_t done = 0; done < window->length; done += pass->chunk_rows) {
        int64_t rows = window->length - done < pass->chunk_rows ? window->length - done : pass->chunk_rows;
        const int32_t *targets = pass->evaluation->windows.rows.ids + window->begin + done + 1;
        if (!run_logits(model, first + done, rows) ||
            (reference->model && !run_logits(reference, first + done, rows)) ||
            !write_logits(pass, rows * vocabulary) ||
            !model_scores(model->session, model->logits, reference->logits, targets, rows, pass->scores))
            return false;
        if (!add_scores(pass, window, done, rows)) return false;
    }
    return true;
}

/* 'count' windows from 'first' on, in one batch. */
static bool run_batch(struct pass *pass, int64_t first, int64_t count, int64_t *counts, int32_t *tokens)
{
    struct evaluation *evaluation = pass->evaluation;
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
        if (!score_window(pass, &windows->list[first + i], row)) return false;
    return true;
}

static bool run_batches(struct pass *pass)
{
    const struct windows *windows = &pass->evaluation->windows;
    struct progress progress;
    int64_t *counts = calloc((size_t)pass->batch_windows, sizeof *counts);
    int32_t *tokens = calloc((size_t)pass->batch_rows, sizeof *tokens);
    bool ok = (counts && tokens) || cli_error("out of memory");
    progress_begin(&progress, "Evaluating");
    for (int64_t first = 0; ok && first < windows->count; first += pass->batch_windows) {
        int64_t left = windows->count - first;
        int64_t count = left < pass->batch_windows ? left : pass->batch_windows;
        ok = run_batch(pass, first, count, counts, tokens);
        if (ok && progress_update(&progress, (uint64_t)(first + count), (uint64_t)windows->count))
            ok = cli_error("interrupted");
    }
    progress_end(&progress);
    free(counts);
    free(tokens);
    return ok;
}

/* ---- what they come to */

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The smallest value that at least 99 of 100 do not exceed. */
static double percentile_99(double *values, int64_t count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count - count / 100 - 1];
}

static void sum_up(struct pass *pass, struct measure *measure)
{
    const struct windows *windows = &pass->evaluation->windows;
    const struct runner *model = &pass->evaluation->model;
    double counted = (double)pass->counted;
    *measure = (struct measure){
        .context = windows->context,
        .stride = windows->stride,
        .windows = windows->count,
        .tokens = pass->counted,
        .loss = pass->loss / counted,
        .seconds = model->seconds,
        .tokens_per_second = (double)model->tokens / model->seconds,
    };
    if (!pass->divergences) return;
    measure->reference_loss = pass->reference_loss / counted;
    measure->kl = pass->divergence / counted;
    measure->kl_p99 = percentile_99(pass->divergences, pass->counted);
    measure->top1 = (double)pass->first / counted;
    measure->top5 = (double)pass->among_top / counted;
}

bool evaluate_windows(struct evaluation *evaluation, struct measure *measure)
{
    struct pass pass = {.evaluation = evaluation};
    bool ok = pass_prepare(&pass) && run_batches(&pass) && npy_writer_close(&pass.logits);
    if (ok) sum_up(&pass, measure);
    pass_free(&pass);
    return ok;
}
