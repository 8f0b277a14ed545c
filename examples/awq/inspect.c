/* awq inspect: what is in a model, a safetensors file, a calibration archive or a GGUF file. */
#include "inspect.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "model.h"

struct options {
    const char *path;
    uint64_t memory_limit;
    int threads;
    bool summary, json;
};

static const struct options defaults;

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "PATH", offsetof(struct options, path),
     .help = "Directory of a model, a .safetensors file, a calibration archive, or a GGUF file."},
    {CLI_FLAG, "summary", offsetof(struct options, summary),
     .help = "Leave out the lists of tensors and quantised layers."},
    {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print JSON, for programs."},
    {CLI_INT, "threads", offsetof(struct options, threads), .argument = "N",
     .help = "Threads to use; all processors when not given.", .minimum = 0, .maximum = 1024},
    {CLI_SIZE, "memory-limit", offsetof(struct options, memory_limit), .argument = "SIZE",
     .help = "Fail rather than hold more memory than this, such as 2G."},
    {.type = CLI_END},
};

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static int64_t number_of(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

static double real_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

/* The longest text under 'key', to align a column. */
static int width_of(const json_t *list, const char *key)
{
    size_t index, width = 4;
    const json_t *item;
    json_array_foreach(list, index, item) {
        size_t length = strlen(text_of(item, key));
        if (length > width) width = length;
    }
    return (int)width;
}

static void format_shape(const json_t *shape, char *text, size_t size)
{
    size_t index, length = 0;
    const json_t *dimension;
    snprintf(text, size, "scalar");
    json_array_foreach(shape, index, dimension) {
        int written = snprintf(text + length, size - length, "%s%" JSON_INTEGER_FORMAT, index ? " x " : "",
                               json_integer_value(dimension));
        if (written < 0 || (size_t)written >= size - length) return;
        length += (size_t)written;
    }
}

static void print_tensors(const json_t *tensors)
{
    size_t index;
    const json_t *item;
    int width = width_of(tensors, "name");
    printf("\nTensors:\n  %-*s  %-6s  %-20s  %12s\n", width, "name", "dtype", "shape", "bytes");
    json_array_foreach(tensors, index, item) {
        char shape[160];
        format_shape(json_object_get(item, "shape"), shape, sizeof shape);
        printf("  %-*s  %-6s  %-20s  %12s\n", width, text_of(item, "name"), text_of(item, "dtype"), shape,
               cli_count(number_of(item, "bytes")).text);
    }
}

static void print_layers(const json_t *layers)
{
    size_t index;
    const json_t *item;
    int width = width_of(layers, "name");
    if (json_array_size(layers) == 0) return;
    printf("\nQuantised layers:\n  %-*s  %-16s  %4s  %5s  %-9s  %11s  %s\n", width, "name", "outputs x inputs", "bits",
           "group", "zeros", "bits/weight", "scales: least, mean, most");
    json_array_foreach(layers, index, item) {
        char shape[64];
        if (json_object_get(item, "unreadable")) {
            printf("  %-*s  unreadable: %s\n", width, text_of(item, "name"), text_of(item, "unreadable"));
            continue;
        }
        snprintf(shape, sizeof shape, "%" PRId64 " x %" PRId64, number_of(item, "outputs"), number_of(item, "inputs"));
        printf("  %-*s  %-16s  %4" PRId64 "  %5" PRId64 "  %-9s  %11.3f  %9.3g %9.3g %9.3g\n", width,
               text_of(item, "name"), shape, number_of(item, "bits"), number_of(item, "group_size"),
               json_is_true(json_object_get(item, "symmetric")) ? "symmetric" : "yes", real_of(item, "bits_per_weight"),
               real_of(item, "scale_min"), real_of(item, "scale_mean"), real_of(item, "scale_max"));
    }
}

static void print_fused(const json_t *fused)
{
    if (!fused) return;
    printf("fused        q, k, v in %" PRId64 " and gate, up in %" PRId64 " of %" PRId64 " layers when it runs\n",
           number_of(fused, "q_k_v"), number_of(fused, "gate_up"), number_of(fused, "layers"));
}

static void print_totals(const json_t *totals)
{
    int64_t weights = number_of(totals, "quantized_weights");
    printf("tensors      %s, %s\n", cli_count(number_of(totals, "tensors")).text,
           cli_bytes((uint64_t)number_of(totals, "bytes")).text);
    if (weights == 0) return;
    printf("quantised    %s layers: %s weights in %s, %.3f bits a weight with scales and zero points\n",
           cli_count(number_of(totals, "quantized_layers")).text, cli_count(weights).text,
           cli_bytes((uint64_t)number_of(totals, "quantized_bytes")).text,
           8 * (double)number_of(totals, "quantized_bytes") / (double)weights);
}

static void print_json_line(const char *label, int width, const json_t *value)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY);
    if (text) printf("%-*s %s\n", width, label, json_is_null(value) ? "none" : text);
    free(text);
}

static void print_model(const json_t *facts)
{
    const json_t *architecture = json_object_get(facts, "architecture");
    const char *key;
    json_t *value;
    if (architecture) {
        json_object_foreach((json_t *)architecture, key, value) {
            char label[32];
            snprintf(label, sizeof label, "  %s", key);
            print_json_line(label, 26, value);
        }
        print_json_line("quantization", 12, json_object_get(facts, "quantization_config"));
    }
    if (json_object_get(facts, "tokenizer"))
        printf("tokenizer    %s\n", *text_of(facts, "tokenizer") ? text_of(facts, "tokenizer") : "none");
    if (json_object_get(facts, "runs_here"))
        printf("runs here    %s\n", json_is_true(json_object_get(facts, "runs_here")) ? "yes" : "no");
    print_fused(json_object_get(facts, "fused"));
}

static void print_calibrations(const json_t *facts)
{
    size_t index;
    const json_t *item, *list = json_object_get(facts, "calibrations");
    int width = width_of(list, "name");
    printf("provenance   %s\n\nCalibrations:\n  %-*s  %9s  %10s  %8s  %-4s  %10s  %10s\n", text_of(facts, "provenance"),
           width, "name", "channels", "rows", "samples", "gram", "mean |x|", "max |x|");
    json_array_foreach(list, index, item)
        printf("  %-*s  %9" PRId64 "  %10" PRId64 "  %8" PRId64 "  %-4s  %10.4g  %10.4g\n", width,
               text_of(item, "name"), number_of(item, "channels"), number_of(item, "rows"),
               number_of(item, "sample_rows"), json_is_true(json_object_get(item, "gram")) ? "yes" : "no",
               real_of(item, "mean_abs"), real_of(item, "max_abs"));
}

static void print_metadata(const json_t *metadata)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)metadata, key, value) print_json_line(key, 40, value);
}

static void print_facts(const struct options *options, const json_t *facts)
{
    printf("%s: %s\n", text_of(facts, "path"), text_of(facts, "kind"));
    if (json_object_get(facts, "calibrations")) {
        print_calibrations(facts);
        return;
    }
    if (json_object_get(facts, "metadata")) print_metadata(json_object_get(facts, "metadata"));
    else print_model(facts);
    print_totals(json_object_get(facts, "totals"));
    if (options->summary) return;
    print_layers(json_object_get(facts, "quantized_layers"));
    print_tensors(json_object_get(facts, "tensors"));
}

static int run(const struct cli_command *command, const void *user_options)
{
    (void)command;
    const struct options *options = user_options;
    awq_context *context;
    if (!context_open(options->threads, options->memory_limit, &context)) return EXIT_FAILED;
    json_t *facts = inspect_path(context, options->path);
    awq_context_destroy(context);
    if (!facts) return EXIT_FAILED;
    if (options->summary) {
        json_object_del(facts, "tensors");
        json_object_del(facts, "quantized_layers");
    }
    if (options->json) {
        json_dumpf(facts, stdout, JSON_INDENT(2));
        putchar('\n');
    } else {
        print_facts(options, facts);
    }
    json_decref(facts);
    return EXIT_OK;
}

const struct cli_command inspect_command = {
    .name = "inspect",
    .summary = "show what is in a model, a safetensors, GGUF or calibration file",
    .intro = "Show a model's tensors, how its layers are quantised, and what runs fused.  Bits, groups and zero\n"
             "points are read from the tensors themselves, whatever config.json says.",
    .examples = "  awq inspect MODEL --summary\n"
                "  awq inspect MODEL/model.safetensors\n"
                "  awq inspect MODEL --json",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
