/* awq generate: let a model continue a prompt, or write many texts. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "model.h"
#include "progress.h"
#include "sampler.h"
#include "tokenizer.h"

enum { MAX_SLOTS = 32, MAX_ROWS = 4096 };

struct options {
    const char *model, *prompt, *output, *tuning;
    int64_t tokens, documents, top_k, seed;
    double temperature, top_p;
    struct placement placement;
    bool no_fuse, json;
};

enum stop { STOP_TOKENS, STOP_END, STOP_CONTEXT };

static const char *const stop_names[] = {"tokens", "end of text", "context"};

/* A text in the making; as many as there are slots are written at once. */
struct slot {
    int64_t document; /* which; -1: none */
    uint64_t random;
    int32_t last;     /* token, which the model has not seen yet */
    int64_t made;     /* tokens so far; 0: the prompt comes first */
    struct token_stream stream;
};

struct generation {
    const struct options *options;
    awq_context *context;
    struct tokenizer *tokenizer;
    struct model *model;
    struct session *session;
    struct sampler sampler;
    struct id_buffer prompt;
    int64_t limit; /* tokens per text */
    struct slot slots[MAX_SLOTS];
    int64_t slot_count;
    int64_t counts[MAX_SLOTS];
    int32_t *tokens;      /* [slots * prompt.count] to feed; then [slots] that are most likely */
    float *hidden, *last; /* of all rows; of the last row of each slot */
    float *logits;        /* [slots][vocabulary] */
    float *logits_room;   /* the same on the host, to draw from */
    struct candidate *candidates; /* [vocabulary] */
    struct text_buffer *texts; /* [documents] */
    int64_t started, finished, made;
    enum stop stopped; /* the last text */
    double prompt_seconds, seconds;
    int64_t timed; /* tokens made in 'seconds' */
    bool show;     /* the text appears as it is made */
};

/* ---- texts */

/* Append what a token completes, and show it. */
static bool push(struct generation *generation, struct slot *slot, int32_t token)
{
    struct text_buffer *text = &generation->texts[slot->document];
    size_t before = text->length;
    if (!token_stream_push(&slot->stream, token, text)) return false;
    if (!generation->show || text->length == before) return true;
    fwrite(text->bytes + before, 1, text->length - before, stdout);
    return fflush(stdout) == 0 || cli_error("standard output: it cannot be written");
}

static bool slot_begin(struct generation *generation, int64_t index)
{
    struct slot *slot = &generation->slots[index];
    slot->document = -1;
    if (generation->started == generation->options->documents) return true;
    slot->document = generation->started++;
    slot->random = random_begin((uint64_t)generation->options->seed, (uint64_t)slot->document);
    slot->made = 0;
    session_truncate(generation->session, index, 0);
    token_stream_begin(&slot->stream, generation->tokenizer);
    for (size_t i = 0; i < generation->prompt.count; i++)
        if (!push(generation, slot, generation->prompt.ids[i])) return false;
    return true;
}

/* The text is complete: write the rest of it, and begin the next. */
static bool slot_end(struct generation *generation, int64_t index, enum stop stopped)
{
    struct slot *slot = &generation->slots[index];
    struct text_buffer *text = &generation->texts[slot->document];
    size_t before = text->length;
    if (!token_stream_end(&slot->stream, text)) return false;
    if (generation->show) fwrite(text->bytes + before, 1, text->length - before, stdout);
    generation->finished++;
    generation->stopped = stopped;
    return slot_begin(generation, index);
}

/* Take the token that was sampled for a slot. */
static bool slot_take(struct generation *generation, int64_t index, int32_t token)
{
    struct slot *slot = &generation->slots[index];
    if (token < 0) return cli_error("the model's output is not a number after %" PRId64 " tokens", slot->made);
    generation->made++;
    slot->made++;
    slot->last = token;
    if (tokenizer_is_eos(generation->tokenizer, token)) return slot_end(generation, index, STOP_END);
    if (!push(generation, slot, token)) return false;
    if (slot->made == generation->limit) {
        bool full = generation->limit < generation->options->tokens;
        return slot_end(generation, index, full ? STOP_CONTEXT : STOP_TOKENS);
    }
    return true;
}

/* ---- steps */

/* The last row of each slot, next to each other. */
static bool gather_last(struct generation *generation, int64_t *active)
{
    int64_t row = 0, width = generation->model->config.hidden;
    *active = 0;
    for (int64_t i = 0; i < generation->slot_count; i++) {
        if (!generation->counts[i]) continue;
        row += generation->counts[i];
        awq_tensor from = context_view(generation->context, generation->hidden + (row - 1) * width, AWQ_F32, 1, width);
        awq_tensor to = context_view(generation->context, generation->last + *active * width, AWQ_F32, 1, width);
        if (!session_copy(generation->session, &from, &to)) return false;
        ++*active;
    }
    return true;
}

/* Feed every slot its prompt or its last token; rows of the logits are then those of the 'active' slots. */
static bool run_model(struct generation *generation, int64_t *active)
{
    struct batch batch = {generation->slot_count, generation->counts};
    int64_t row = 0;
    for (int64_t i = 0; i < generation->slot_count; row += generation->counts[i++]) {
        const struct slot *slot = &generation->slots[i];
        const struct id_buffer *prompt = &generation->prompt;
        const int32_t *fed = slot->made ? &slot->last : prompt->ids;
        generation->counts[i] = slot->document < 0 ? 0 : slot->made ? 1 : (int64_t)prompt->count;
        memcpy(generation->tokens + row, fed, (size_t)generation->counts[i] * sizeof *fed);
    }
    if (!model_forward(generation->model, generation->session, &batch, generation->tokens, generation->hidden))
        return false;
    return gather_last(generation, active) &&
           model_logits(generation->model, generation->session, generation->last, *active, generation->logits);
}

/* The tokens that follow in active slots: all at once where they are the likeliest, else drawn one by one. */
static bool choose_tokens(struct generation *generation, int64_t active)
{
    int64_t vocabulary = generation->model->config.vocabulary;
    const float *logits = generation->logits;
    int32_t *token = generation->tokens;
    if (generation->sampler.temperature == 0)
        return model_argmax(generation->session, logits, active, generation->tokens);
    logits = session_read(generation->session, logits, active * vocabulary, generation->logits_room);
    for (int64_t i = 0; logits && i < generation->slot_count; i++) {
        if (!generation->counts[i]) continue;
        *token++ = sample_token(&generation->sampler, logits, vocabulary, generation->candidates,
                                &generation->slots[i].random);
        logits += vocabulary;
    }
    return logits != NULL;
}

static bool step(struct generation *generation)
{
    int64_t before = generation->made, active;
    double start = cli_seconds();
    if (!run_model(generation, &active) || !choose_tokens(generation, active)) return false;
    const int32_t *token = generation->tokens;
    for (int64_t i = 0; i < generation->slot_count; i++)
        if (generation->counts[i] && !slot_take(generation, i, *token++)) return false;
    if (before == 0) {
        generation->prompt_seconds = cli_seconds() - start;
    } else {
        generation->seconds += cli_seconds() - start;
        generation->timed += generation->made - before;
    }
    return true;
}

static bool run_steps(struct generation *generation)
{
    struct progress progress;
    const struct options *options = generation->options;
    bool ok = true;
    if (!generation->show) progress_begin(&progress, "Generating");
    for (int64_t i = 0; ok && i < generation->slot_count; i++) ok = slot_begin(generation, i);
    while (ok && generation->finished < options->documents) {
        ok = step(generation);
        if (!generation->show)
            progress_update(&progress, (uint64_t)generation->finished, (uint64_t)options->documents);
        if (ok && progress_interrupted()) ok = cli_error("interrupted");
    }
    if (!generation->show) progress_end(&progress);
    return ok;
}

/* ---- the command */

static bool read_prompt(struct generation *generation)
{
    const char *prompt = generation->options->prompt ? generation->options->prompt : "";
    int64_t context = generation->model->config.context;
    if (!tokenizer_encode(generation->tokenizer, prompt, strlen(prompt), true, &generation->prompt)) return false;
    int64_t count = (int64_t)generation->prompt.count;
    if (count == 0) return cli_error("this model has no token that begins a text: give a --prompt");
    if (count >= context)
        return cli_error("the prompt has %" PRId64 " tokens, which leaves no room in the model's context of %" PRId64,
                         count, context);
    generation->limit = generation->options->tokens;
    if (generation->limit > context - count) generation->limit = context - count;
    return true;
}

static bool allocate(awq_context *context, uint64_t bytes, void **memory)
{
    awq_status status = awq_context_allocate(context, bytes, memory);
    return status == AWQ_OK || cli_library_error(status, "generation");
}

static bool prepare(struct generation *generation)
{
    const struct options *options = generation->options;
    const struct model_config *config = &generation->model->config;
    int64_t count = (int64_t)generation->prompt.count, slots = MAX_ROWS / count;
    if (slots > MAX_SLOTS) slots = MAX_SLOTS;
    if (slots > options->documents) slots = options->documents;
    if (slots < 1) slots = 1;
    generation->slot_count = slots;
    uint64_t rows = (uint64_t)(slots * count), row_bytes = (uint64_t)config->hidden * sizeof(float);
    uint64_t vocabulary = (uint64_t)config->vocabulary;
    const struct session_options room = {slots * count, slots, count + generation->limit, true};
    generation->texts = calloc((size_t)options->documents, sizeof *generation->texts);
    generation->tokens = calloc((size_t)rows, sizeof *generation->tokens);
    generation->candidates = calloc((size_t)vocabulary, sizeof *generation->candidates);
    generation->logits_room = calloc((size_t)slots * (size_t)vocabulary, sizeof *generation->logits_room);
    if (!generation->texts || !generation->tokens || !generation->candidates || !generation->logits_room)
        return cli_error("out of memory");
    return session_create(generation->context, config, &room, &generation->session) &&
           allocate(generation->context, rows * row_bytes, (void **)&generation->hidden) &&
           allocate(generation->context, (uint64_t)slots * row_bytes, (void **)&generation->last) &&
           allocate(generation->context, (uint64_t)slots * vocabulary * sizeof(float), (void **)&generation->logits);
}

static double speed(const struct generation *generation)
{
    return generation->seconds > 0 ? (double)generation->timed / generation->seconds : 0;
}

static bool print_json(const struct generation *generation)
{
    const struct options *options = generation->options;
    uint64_t peak = 0;
    awq_status status = awq_context_get_memory(generation->context, NULL, &peak);
    if (status != AWQ_OK) return cli_library_error(status, "memory");
    json_t *texts = json_array();
    for (int64_t i = 0; texts && !options->output && i < options->documents; i++)
        json_array_append_new(texts, json_stringn(generation->texts[i].bytes, generation->texts[i].length));
    json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:s, s:f, s:f, s:f, s:I, s:o}",
        "model", options->model,
        "documents", (json_int_t)options->documents,
        "prompt_tokens", (json_int_t)generation->prompt.count,
        "tokens", (json_int_t)generation->made,
        "stopped", stop_names[generation->stopped],
        "prompt_seconds", generation->prompt_seconds,
        "seconds", generation->prompt_seconds + generation->seconds,
        "tokens_per_second", speed(generation),
        "peak_memory_bytes", (json_int_t)peak,
        "texts", texts);
    if (!json) return cli_error("the results cannot be written as JSON");
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}

/* All texts, an empty line between them. */
static bool write_texts(const struct generation *generation)
{
    const struct options *options = generation->options;
    struct text_buffer all = {0};
    bool ok = true;
    for (int64_t i = 0; ok && i < options->documents; i++) {
        const struct text_buffer *text = &generation->texts[i];
        ok = text_buffer_append(&all, text->bytes, text->length) &&
             text_buffer_append(&all, "\n\n", i + 1 < options->documents ? 2 : 1);
    }
    if (ok && options->output)
        ok = write_file(options->output, all.bytes, all.length);
    else if (ok && fwrite(all.bytes, 1, all.length, stdout) != all.length)
        ok = cli_error("standard output: it cannot be written");
    text_buffer_free(&all);
    return ok;
}

static bool print_results(const struct generation *generation)
{
    const struct options *options = generation->options;
    if (generation->show) putchar('\n');
    if (!generation->show && (options->output || !options->json) && !write_texts(generation)) return false;
    if (options->json) return print_json(generation);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "%s tokens after a prompt of %s, %.1f tokens/s\n", cli_count(generation->made).text,
                cli_count((int64_t)generation->prompt.count).text, speed(generation));
    return true;
}

static bool generate(struct generation *generation)
{
    const struct options *options = generation->options;
    const struct model_options model_options = {.no_fuse = options->no_fuse, .tuning = options->tuning};
    return placement_open(&options->placement, &generation->context) &&
           tokenizer_open(options->model, &generation->tokenizer) &&
           model_open(generation->context, options->model, &model_options, &generation->model) &&
           read_prompt(generation) && prepare(generation) && run_steps(generation) && print_results(generation);
}

static void generation_close(struct generation *generation)
{
    for (int64_t i = 0; generation->texts && i < generation->options->documents; i++)
        text_buffer_free(&generation->texts[i]);
    free(generation->texts);
    for (int64_t i = 0; i < generation->slot_count; i++) text_buffer_free(&generation->slots[i].stream.bytes);
    free(generation->tokens);
    free(generation->candidates);
    free(generation->logits_room);
    awq_context_free(generation->context, generation->hidden);
    awq_context_free(generation->context, generation->last);
    awq_context_free(generation->context, generation->logits);
    session_destroy(generation->session);
    model_close(generation->model);
    tokenizer_close(generation->tokenizer);
    id_buffer_free(&generation->prompt);
    awq_context_destroy(generation->context);
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct generation generation = {
        .options = options,
        .sampler = {options->temperature, options->top_k, options->top_p},
        .show = options->documents == 1 && !options->json && !options->output,
    };
    bool greedy = options->temperature == 0;
    if (greedy && (options->top_k || options->top_p > 0))
        return cli_usage(command, "--top-k and --top-p choose among tokens to draw from: give a --temperature above 0");
    if (greedy && options->documents > 1)
        return cli_usage(command, "%" PRId64 " documents would be alike: give a --temperature above 0",
                         options->documents);
    bool ok = generate(&generation);
    generation_close(&generation);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct options defaults = {.tokens = 128, .documents = 1};

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of the model."},
    {CLI_HEADING, "Text", .offset = 0},
    {CLI_STRING, "prompt", offsetof(struct options, prompt), 'p', "TEXT", .help = "Text to continue [default: none]."},
    {CLI_INT64, "tokens", offsetof(struct options, tokens), 'n', "N",
     "Tokens to make at most; fewer when the text ends or the context is full.", 1, INFINITY},
    {CLI_INT64, "documents", offsetof(struct options, documents), .argument = "N",
     .help = "Write N texts, many at a time, with an empty line between them.", .minimum = 1, .maximum = 1 << 24},
    {CLI_HEADING, "Sampling", .offset = 0},
    {CLI_DOUBLE, "temperature", offsetof(struct options, temperature), .argument = "T",
     .help = "Draw tokens from the model's distribution at this temperature [default: 0, always the likeliest].",
     .minimum = 0, .maximum = 100},
    {CLI_INT64, "top-k", offsetof(struct options, top_k), .argument = "K", .help = "Draw from the K likeliest.",
     .minimum = 1, .maximum = INFINITY},
    {CLI_DOUBLE, "top-p", offsetof(struct options, top_p), .argument = "P",
     .help = "Draw from the likeliest that together have probability P.", .minimum = 1e-6, .maximum = 1},
    {CLI_INT64, "seed", offsetof(struct options, seed), .argument = "N",
     .help = "Equal seeds give equal texts [default: 0].", .minimum = 0, .maximum = INFINITY},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_OPTIONS(struct options, placement),
    {CLI_STRING, "tuning", offsetof(struct options, tuning), .argument = "FILE",
     .help = "Kernels as measured on this device by 'awq tune' [default: the library's choice]."},
    {CLI_FLAG, "no-fuse", offsetof(struct options, no_fuse),
     .help = "Run q, k, v and gate, up one by one instead of as one product each."},
    {CLI_HEADING, "Output", .offset = 0},
    {CLI_STRING, "output", offsetof(struct options, output), 'o', "FILE", .help = "Write the text there instead."},
    {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print text and speed as JSON."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command generate_command = {
    .name = "generate",
    .summary = "let a model write",
    .intro = "Lets a model continue a prompt.  The text appears as it is made.",
    .examples = "  awq generate MODEL --prompt \"The function returns\"\n"
                "  awq generate MODEL --temperature 1 --documents 64 --tokens 256 --output calib.txt",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
