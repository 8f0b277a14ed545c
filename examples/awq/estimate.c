/* awq estimate: the memory that quantising and running a model takes. */
#include "estimate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "quantize.h"

/* GB of GPUs by class, of 10^9 bytes. */
static const int classes[] = {8, 12, 16, 24, 40, 48, 80, 141};

enum { CLASSES = sizeof classes / sizeof *classes };

struct options {
    const char *model;
    int bits;
    int64_t group_size, batch, context, prompt, samples, length;
    bool symmetric, json;
    double salient, usable, bandwidth;
    int preset;
};

static const struct options defaults = {
    .bits = 4, .group_size = 128, .batch = 1, .samples = 128, .length = 512, .usable = 0.9};

/* One way to run the model. */
struct column {
    const char *device, *form;
    struct inference_sizes sizes;
};

enum { COLUMNS = 4 };

struct estimate {
    const struct options *options;
    struct estimated_model model;
    int64_t context, prompt;
    uint64_t quantize_bytes; /* 0: it is quantised already */
    struct column columns[COLUMNS];
};

/* The rows of the table, in JSON with "_bytes". */
static const struct item {
    const char *key, *label;
    size_t offset;
} items[] = {
    {"codes", "codes", offsetof(struct inference_sizes, codes)},
    {"scales", "scales", offsetof(struct inference_sizes, scales)},
    {"zeros", "zero points", offsetof(struct inference_sizes, zeros)},
    {"salient", "salient channels", offsetof(struct inference_sizes, salient)},
    {"dense", "linears left float", offsetof(struct inference_sizes, dense)},
    {"embeddings", "embeddings", offsetof(struct inference_sizes, embeddings)},
    {"other", "norms, biases, ..", offsetof(struct inference_sizes, other)},
    {"weights", "all weights", offsetof(struct inference_sizes, weights)},
    {"kv_cache", "KV cache", offsetof(struct inference_sizes, cache)},
    {"activations", "activations", offsetof(struct inference_sizes, activations)},
    {"workspace", "workspace", offsetof(struct inference_sizes, workspace)},
    {"loading", "(while loading)", offsetof(struct inference_sizes, loading)},
    {"total", "total", offsetof(struct inference_sizes, total)},
};

enum { ITEMS = sizeof items / sizeof *items };

static uint64_t value_of(const struct column *column, const struct item *item)
{
    return *(const uint64_t *)(const void *)((const char *)&column->sizes + item->offset);
}

/* ---- computing */

static void fill_settings(const struct options *options, struct quantize_settings *settings)
{
    const struct quantize_choice choice = {.preset = options->preset};
    awq_struct_init(&settings->quantizer, sizeof settings->quantizer);
    settings->quantizer.bits = options->bits;
    settings->quantizer.group_size = options->group_size;
    settings->quantizer.flags = options->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    settings->quantizer.salient_fraction = options->salient;
    settings->layout = options->salient > 0 ? AWQ_LAYOUT_CPU_STREAM
                       : options->bits == 4 ? AWQ_LAYOUT_GEMM
                                            : AWQ_LAYOUT_COMPRESSED_TENSORS;
    settings->search_tokens = 1024;
    settings->scale_output = true;
    quantize_choose(&choice, settings);
}

/* By the bound that `awq quantize` itself goes by. */
static uint64_t quantizing_bytes(const struct estimate *estimate, awq_context *context)
{
    const struct options *options = estimate->options;
    const struct model_config *config = &estimate->model.config;
    struct quantize_request request = {.calib = "", .samples = options->samples, .length = options->length};
    struct quantize_job job = {.request = &request, .settings = &request.settings, .context = context, .host = context};
    fill_settings(options, &request.settings);
    job.config = *config;
    job.source = estimate->model.checkpoint;
    job.windows.rows = options->samples;
    job.windows.columns = options->length < config->context ? options->length : config->context;
    return estimate_memory(&job);
}

static bool compute_columns(struct estimate *estimate)
{
    static const char *const devices[] = {"cpu", "gpu"};
    const struct options *options = estimate->options;
    const bool given = estimate->model.config.quantization.format != NULL;
    struct inference_request request = {
        .quantization = {.bits = options->bits, .group_size = options->group_size, .symmetric = options->symmetric},
        .salient_fraction = options->salient,
        .batch = options->batch,
        .context = estimate->context,
        .prompt = estimate->prompt,
    };
    for (int i = 0; i < COLUMNS; i++) {
        struct column *column = &estimate->columns[i];
        request.device_type = i < COLUMNS / 2 ? AWQ_DEVICE_CPU : AWQ_DEVICE_CUDA;
        request.quantized = i % 2;
        column->device = devices[i / (COLUMNS / 2)];
        column->form = !request.quantized ? "float" : given ? "as it is" : "quantised";
        if (!estimate_inference(&estimate->model, &request, &column->sizes)) return false;
    }
    return true;
}

static bool compute(const struct options *options, awq_context *context, struct estimate *estimate)
{
    const int64_t known = estimate->model.config.context;
    estimate->context = options->context ? options->context : known;
    estimate->prompt = options->prompt ? options->prompt : estimate->context;
    if (estimate->context > known)
        return cli_error("--context %" PRId64 ": the model's context is %" PRId64, estimate->context, known);
    if (estimate->prompt > estimate->context)
        return cli_error("--prompt %" PRId64 ": the context is %" PRId64, estimate->prompt, estimate->context);
    if (!estimate->model.config.quantization.format) estimate->quantize_bytes = quantizing_bytes(estimate, context);
    return compute_columns(estimate);
}

static bool class_holds(const struct options *options, int gb, const struct column *column)
{
    return (double)column->sizes.total <= options->usable * gb * 1e9;
}

/* ---- printing */

static void print_classes(const struct estimate *estimate)
{
    const struct options *options = estimate->options;
    printf("\nGPUs that hold it, where %.0f %% of their memory is usable (GB of 10^9 bytes):\n", 100 * options->usable);
    for (int i = COLUMNS / 2; i < COLUMNS; i++) {
        const struct column *column = &estimate->columns[i];
        bool any = false;
        printf("  %-10s", column->form);
        for (int j = 0; j < CLASSES; j++)
            if (class_holds(options, classes[j], column)) {
                printf("%s%d GB", any ? ", " : " ", classes[j]);
                any = true;
            }
        puts(any ? "" : " none of these alone");
    }
}

static void print_speed(const struct estimate *estimate)
{
    const double rate = estimate->options->bandwidth * 1e9;
    if (rate == 0) return;
    printf("\nAt %g GB/s a decoding step with full contexts reads weights, keys and values once, in at least:\n",
           estimate->options->bandwidth);
    for (int i = 0; i < COLUMNS; i++) {
        const struct column *column = &estimate->columns[i];
        const double seconds = (double)column->sizes.step / rate;
        printf("  %s %-10s %10.3f ms, so at most %.1f tokens/s\n", column->device, column->form, 1e3 * seconds,
               (double)estimate->options->batch / seconds);
    }
}

static void print_text(const struct estimate *estimate)
{
    const struct options *options = estimate->options;
    const struct file_sizes *files = &estimate->model.files;
    const uint64_t all = files->codes + files->scales + files->zeros + files->salient + files->dense +
                         files->embeddings + files->other;
    printf("files        %s: codes %s, scales %s, zero points %s, salient %s, float linears %s, embeddings %s\n",
           cli_bytes(all).text, cli_bytes(files->codes).text, cli_bytes(files->scales).text,
           cli_bytes(files->zeros).text, cli_bytes(files->salient).text, cli_bytes(files->dense).text,
           cli_bytes(files->embeddings).text);
    if (estimate->quantize_bytes)
        printf("quantising   %s at most, beside pages of the files: %" PRId64 " windows of %" PRId64 " tokens\n",
               cli_bytes(estimate->quantize_bytes).text, options->samples, options->length);
    else
        puts("quantising   it is quantised already");
    printf("running      %" PRId64 " sequences of %" PRId64 " positions, %" PRId64 " tokens of each at once\n\n%-19s",
           options->batch, estimate->context, estimate->prompt, "");
    for (int i = 0; i < COLUMNS; i++) printf("  %3s %-9s", estimate->columns[i].device, estimate->columns[i].form);
    putchar('\n');
    for (int j = 0; j < ITEMS; j++) {
        printf("  %-17s", items[j].label);
        for (int i = 0; i < COLUMNS; i++) printf("  %13s", cli_bytes(value_of(&estimate->columns[i], &items[j])).text);
        putchar('\n');
    }
    print_classes(estimate);
    print_speed(estimate);
}

static json_t *column_json(const struct estimate *estimate, const struct column *column)
{
    const struct options *options = estimate->options;
    const double seconds = options->bandwidth > 0 ? (double)column->sizes.step / (options->bandwidth * 1e9) : 0;
    json_t *json = json_pack("{s:s, s:s}", "device", column->device, "form", column->form);
    for (int j = 0; json && j < ITEMS; j++) {
        char key[64];
        snprintf(key, sizeof key, "%s_bytes", items[j].key);
        json_object_set_new(json, key, json_integer((json_int_t)value_of(column, &items[j])));
    }
    if (json && strcmp(column->device, "gpu") == 0) {
        json_t *held = json_array();
        for (int j = 0; j < CLASSES; j++)
            if (class_holds(options, classes[j], column)) json_array_append_new(held, json_integer(classes[j]));
        json_object_set_new(json, "held_by_gb", held);
    }
    if (json && seconds > 0) {
        json_object_set_new(json, "step_bytes", json_integer((json_int_t)column->sizes.step));
        json_object_set_new(json, "least_step_seconds", json_real(seconds));
        json_object_set_new(json, "most_tokens_per_second", json_real((double)options->batch / seconds));
    }
    return json;
}

static bool print_json(const struct estimate *estimate)
{
    const struct options *options = estimate->options;
    const struct file_sizes *files = &estimate->model.files;
    json_t *columns = json_array();
    for (int i = 0; i < COLUMNS; i++) json_array_append_new(columns, column_json(estimate, &estimate->columns[i]));
    json_t *json = json_pack(
        "{s:s, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I}, s:o, s:I, s:I, s:I, s:f, s:o}",
        "model", options->model,
        "files",
            "codes_bytes", (json_int_t)files->codes,
            "scales_bytes", (json_int_t)files->scales,
            "zeros_bytes", (json_int_t)files->zeros,
            "salient_bytes", (json_int_t)files->salient,
            "dense_bytes", (json_int_t)files->dense,
            "embeddings_bytes", (json_int_t)files->embeddings,
            "other_bytes", (json_int_t)files->other,
        "quantize_bytes", estimate->quantize_bytes ? json_integer((json_int_t)estimate->quantize_bytes) : json_null(),
        "batch", (json_int_t)options->batch,
        "context", (json_int_t)estimate->context,
        "prompt", (json_int_t)estimate->prompt,
        "usable_share", options->usable,
        "inference", columns);
    if (!json) return cli_error("the results cannot be written as JSON");
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}

/* ---- the command */

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct estimate estimate = {.options = options};
    awq_context *context;
    if (options->bits != 2 && options->bits != 3 && options->bits != 4 && options->bits != 8)
        return cli_usage(command, "--bits is 2, 3, 4 or 8, not %d", options->bits);
    if (options->group_size == 0)
        return cli_usage(command, "--group-size is at least 1, or -1 for whole rows, not 0");
    if (!context_open(1, 0, &context)) return EXIT_FAILED;
    bool ok = estimated_model_open(context, options->model, &estimate.model) && compute(options, context, &estimate);
    if (ok && options->json) ok = print_json(&estimate);
    else if (ok) print_text(&estimate);
    estimated_model_close(&estimate.model);
    awq_context_destroy(context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of the model."},
    {CLI_HEADING, "Quantising", .offset = 0},
    {CLI_INT, "bits", offsetof(struct options, bits), .argument = "N", .help = "Bits a weight: 2, 3, 4 or 8.",
     .minimum = 2, .maximum = 8},
    {CLI_INT64, "group-size", offsetof(struct options, group_size), .argument = "N",
     .help = "Weights that share a scale; -1: a whole row.", .minimum = -1, .maximum = 1 << 24},
    {CLI_FLAG, "symmetric", offsetof(struct options, symmetric), .help = "Without zero points."},
    {CLI_DOUBLE, "salient", offsetof(struct options, salient), .argument = "FRACTION",
     .help = "Of each linear's input channels, kept in FP16.", .minimum = 0, .maximum = 1},
    {CLI_CHOICE, "preset", offsetof(struct options, preset), .argument = "default|paper|autoawq|llm-awq|best",
     .help = "As for 'awq quantize'."},
    {CLI_INT64, "samples", offsetof(struct options, samples), .argument = "N",
     .help = "Windows of the calibration.", .minimum = 1, .maximum = 1e6},
    {CLI_INT64, "seq-length", offsetof(struct options, length), .argument = "N", .help = "Tokens in each.",
     .minimum = 1, .maximum = 1e6},
    {CLI_HEADING, "Running", .offset = 0},
    {CLI_INT64, "batch", offsetof(struct options, batch), 'b', "N", "Sequences at once.", 1, 1 << 20},
    {CLI_INT64, "context", offsetof(struct options, context), 'c', "N",
     "Positions of each in the KV cache [default: the model's context].", 1, INFINITY},
    {CLI_INT64, "prompt", offsetof(struct options, prompt), .argument = "N",
     .help = "Tokens of each that run at once, which activations are for [default: the context].", .minimum = 1,
     .maximum = INFINITY},
    {CLI_DOUBLE, "usable", offsetof(struct options, usable), .argument = "SHARE",
     .help = "Of a GPU's memory, beside what its driver and other programs hold.", .minimum = 0.01, .maximum = 1},
    {CLI_DOUBLE, "bandwidth", offsetof(struct options, bandwidth), .argument = "GB/S",
     .help = "Memory bandwidth of your device, for the least time that a decoding step can take.  Without it nothing "
             "is said of time.",
     .minimum = 1e-3, .maximum = 1e9},
    {CLI_HEADING, "Output", .offset = 0},
    {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print JSON, for programs."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command estimate_command = {
    .name = "estimate",
    .summary = "say what memory a model takes, before it is quantised or run",
    .intro = "Computes, from config.json and the headers of the weights alone, the memory that quantising a model\n"
             "takes and that running it takes with this program's data types: a KV cache of F32 on the processor, of\n"
             "16 bits on a GPU; codes of 2 and 3 bits in fields of 4.  'float' is the model unquantised (on a GPU in\n"
             "16 bits), 'quantised' the format asked for; a model that is quantised already is taken as it is.",
    .examples = "  awq estimate MODEL --batch 8 --context 4096\n"
                "  awq estimate MODEL --bits 3 --group-size 64 --bandwidth 1000\n"
                "  awq estimate MODEL-awq --json",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
