/* awq tune: measure once which kernels are fastest on this machine, for generate, evaluate and any host program. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench.h"
#include "buffer.h"
#include "commands.h"
#include "model.h"

struct options {
    const char *model, *shapes, *output;
    struct placement placement;
    int64_t max_rows, group_size;
    int bits;
    bool symmetric, no_fuse;
};

/* Weights to tune for; of those alike in shape and quantisation one is enough. */
struct tuner {
    const struct options *options;
    awq_context *context;
    awq_weight **weights;
    size_t count, capacity;
};

static bool is_known(const struct tuner *tuner, const awq_weight *weight)
{
    awq_weight_info a, b;
    awq_struct_init(&a, sizeof a);
    awq_struct_init(&b, sizeof b);
    if (awq_weight_get_info(weight, &a) != AWQ_OK) return false;
    for (size_t i = 0; i < tuner->count; i++)
        if (awq_weight_get_info(tuner->weights[i], &b) == AWQ_OK && a.n == b.n && a.k == b.k && a.bits == b.bits &&
            a.group_size == b.group_size && a.flags == b.flags)
            return true;
    return false;
}

/* Takes the weight over. */
static bool keep(struct tuner *tuner, awq_weight *weight)
{
    if (is_known(tuner, weight)) {
        awq_weight_destroy(weight);
        return true;
    }
    if (!buffer_reserve((void **)&tuner->weights, &tuner->capacity, tuner->count + 1, sizeof *tuner->weights)) {
        awq_weight_destroy(weight);
        return false;
    }
    tuner->weights[tuner->count++] = weight;
    return true;
}

/* ---- what to measure */

static bool keep_layer(struct tuner *tuner, const awq_checkpoint *checkpoint, const struct model_config *config,
                       int64_t layer)
{
    struct block_weights weights;
    awq_weight **list = calloc((size_t)block_linears(config), sizeof *list);
    size_t count = 0;
    if (!list) return cli_error("out of memory");
    bool ok = block_weights_load(tuner->context, checkpoint, config, layer, &weights) && block_run_weights(config, &weights, !tuner->options->no_fuse, list, &count);
    block_weights_clear(&weights);
    block_weights_release(checkpoint, config, layer);
    for (size_t i = 0; ok && i < count; i++) ok = keep(tuner, list[i]);
    free(list);
    return ok;
}

static bool keep_model(struct tuner *tuner)
{
    const char *model = tuner->options->model;
    struct model_config config;
    awq_checkpoint *checkpoint;
    if (!model_config_load(model, &config)) return false;
    awq_status status = awq_checkpoint_open(tuner->context, model, &checkpoint);
    bool ok = status == AWQ_OK || cli_library_error(status, "%s", model);
    for (int64_t layer = 0; ok && layer < config.layers; layer++) ok = keep_layer(tuner, checkpoint, &config, layer);
    awq_checkpoint_destroy(status == AWQ_OK ? checkpoint : NULL);
    model_config_clear(&config);
    return ok && (tuner->count > 0 || cli_error("%s: none of its layers is quantised", model));
}

static bool keep_shapes(struct tuner *tuner, const struct bench_shape *shapes, int count)
{
    static const int bit_widths[] = {4, 2, 3, 8};
    const struct options *options = tuner->options;
    for (int i = 0; i < count; i++) {
        struct bench_problem problem = {.context = tuner->context, .shape = shapes[i],
            .bits = bit_widths[options->bits], .group_size = options->group_size, .symmetric = options->symmetric};
        awq_status status = bench_random_weight(&problem);
        if (status != AWQ_OK)
            return cli_library_error(status, "%" PRId64 " x %" PRId64, problem.shape.n, problem.shape.k);
        if (!keep(tuner, problem.weight)) return false;
    }
    return true;
}

/* ---- what came out */

/* "1-8 gemv, 16-512 gemm" */
static void print_kernels(const json_t *batches, const json_t *kernels)
{
    const size_t count = json_array_size(kernels);
    for (size_t first = 0, end; first < count; first = end) {
        const char *name = json_string_value(json_array_get(kernels, first));
        for (end = first + 1; end < count; end++)
            if (strcmp(json_string_value(json_array_get(kernels, end)), name) != 0) break;
        printf("%s %" JSON_INTEGER_FORMAT, first ? "," : "", json_integer_value(json_array_get(batches, first)));
        if (end - first > 1) printf("-%" JSON_INTEGER_FORMAT, json_integer_value(json_array_get(batches, end - 1)));
        printf(" %s", name);
    }
}

static void print_tuning(const char *path)
{
    size_t index;
    json_t *weight, *json = json_load_file(path, 0, NULL);
    json_array_foreach(json_object_get(json, "weights"), index, weight)
    {
        printf("%" JSON_INTEGER_FORMAT " x %" JSON_INTEGER_FORMAT ", %" JSON_INTEGER_FORMAT " bits, rows:",
               json_integer_value(json_object_get(weight, "n")), json_integer_value(json_object_get(weight, "k")),
               json_integer_value(json_object_get(weight, "bits")));
        print_kernels(json_object_get(json, "batch_sizes"), json_object_get(weight, "kernels"));
        putchar('\n');
    }
    json_decref(json);
}

/* ---- the command */

static bool tune(struct tuner *tuner, const struct bench_shape *shapes, int count)
{
    const struct options *options = tuner->options;
    awq_tuning *tuning = NULL;
    if (!placement_open_library(&options->placement, &tuner->context)) return false;
    if (options->model ? !keep_model(tuner) : !keep_shapes(tuner, shapes, count)) return false;
    awq_status status = awq_tuning_measure(tuner->context, tuner->count, (const awq_weight *const *)tuner->weights,
                                           options->max_rows, &tuning);
    if (status == AWQ_OK) status = awq_tuning_save(tuning, options->output);
    awq_tuning_destroy(tuning);
    if (status != AWQ_OK) return cli_library_error(status, "tuning");
    print_tuning(options->output);
    return true;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct tuner tuner = {.options = options};
    struct bench_shape shapes[BENCH_SHAPES];
    const char *list = options->shapes ? options->shapes : bench_default_shapes(options->placement.device != 0);
    const int count = bench_read_shapes(list, shapes);
    if (!options->output) return cli_usage(command, "--output is missing: where the choices go");
    if (options->model && options->shapes) return cli_usage(command, "give either a MODEL or --shapes");
    if (count == 0)
        return cli_usage(command, "--shapes %s: up to %d of NxK, such as 4096x4096,4096x14336", list, BENCH_SHAPES);
    bool ok = tune(&tuner, shapes, count);
    for (size_t i = 0; i < tuner.count; i++) awq_weight_destroy(tuner.weights[i]);
    free(tuner.weights);
    awq_context_destroy(tuner.context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct options defaults = {.max_rows = 512, .group_size = 128};

static const struct cli_option table[] = {
    {CLI_OPTIONAL, "MODEL", offsetof(struct options, model), .help = "Tune for the layers of this quantised model."},
    {CLI_STRING, "output", offsetof(struct options, output), 'o', "FILE", .help = "Where the choices go, as JSON."},
    {CLI_STRING, "shapes", offsetof(struct options, shapes), .argument = "NxK,..",
     .help = "Tune for random weights of N outputs and K inputs instead [default: those of common models]."},
    {CLI_CHOICE, "bits", offsetof(struct options, bits), .argument = "4|2|3|8", .help = "Bits of their codes."},
    {CLI_INT64, "group-size", offsetof(struct options, group_size), .argument = "N", .help = "Their inputs per scale.",
     .minimum = 1, .maximum = INT32_MAX},
    {CLI_FLAG, "symmetric", offsetof(struct options, symmetric), .help = "They have no zero points."},
    {CLI_INT64, "max-rows", offsetof(struct options, max_rows), .argument = "N",
     .help = "Measure batches of 1, 2, 4, .. rows up to this.", .minimum = 1, .maximum = 65536},
    {CLI_FLAG, "no-fuse", offsetof(struct options, no_fuse),
     .help = "For running the model with --no-fuse: q, k, v and gate, up apart."},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_OPTIONS(struct options, placement),
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command tune_command = {
    .name = "tune",
    .summary = "measure which kernels are fastest here",
    .intro = "Measures every kernel for every batch size on this device, with weights that come from memory, and\n"
             "writes the fastest ones down.  The file serves generate, evaluate and bench as --tuning, and any program\n"
             "through awq_tuning_load.  It is refused on another device, or by another version of the kernels.",
    .examples = "  awq tune MODEL-awq -o tuning.json\n"
                "  awq generate MODEL-awq --tuning tuning.json --prompt \"The kernel\"\n"
                "  awq tune --device cuda --shapes 4096x4096,14336x4096 -o h200.json",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
