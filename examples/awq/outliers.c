/* awq outliers: a twin of a model that computes the same function with a few input channels amplified.
 *
 * Large language models have a few channels with activations tens of times larger than the rest; small ones have none,
 * so that plain rounding hardly hurts them.  The twin has them: whatever produces a channel is multiplied by c, and the
 * columns that read it are divided by c, which makes important weights tiny within their groups. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "quantize.h"

struct options {
    const char *model, *out, *range;
    double fraction;
    int64_t seed;
    bool replace;
};

static const struct options defaults = {.range = "8,40", .fraction = 0.012, .seed = 1};

struct twin {
    const struct options *options;
    double low, high;     /* of the factors */
    uint64_t random;
    awq_context *context;
    struct model_config config;
    awq_checkpoint *source;
    awq_checkpoint_writer *writer;
    float *factors;       /* of one set of channels: 1 but for a few */
    uint64_t bytes;
};

/* ---- choosing channels */

/* splitmix64 */
static uint64_t next_random(struct twin *twin)
{
    uint64_t x = twin->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double next_unit(struct twin *twin)
{
    return (double)(next_random(twin) >> 11) * 0x1p-53;
}

/* Factors log-uniform in [low, high] for the fraction of 'count' channels, at least one. */
static void draw_factors(struct twin *twin, int64_t count)
{
    int64_t chosen = llround(twin->options->fraction * (double)count);
    if (chosen < 1) chosen = 1;
    for (int64_t i = 0; i < count; i++) twin->factors[i] = 1;
    while (chosen > 0) {
        int64_t channel = (int64_t)(next_unit(twin) * (double)count);
        if (twin->factors[channel] != 1) continue;
        twin->factors[channel] = (float)(twin->low * pow(twin->high / twin->low, next_unit(twin)));
        chosen--;
    }
}

/* ---- moving factors, between F32 copies */

/* A vector, or the rows of a matrix. */
static void multiply_rows(const struct twin *twin, awq_tensor *tensor)
{
    float *values = tensor->data;
    int64_t rows = tensor->shape[0], columns = tensor->ndim == 2 ? tensor->shape[1] : 1;
    for (int64_t i = 0; values && i < rows; i++)
        for (int64_t j = 0; j < columns; j++) values[i * columns + j] *= twin->factors[i];
}

static void multiply_norm(const struct twin *twin, struct norm_weights *norm)
{
    const float added = twin->config.architecture->norm == NORM_RMS_PLUS_ONE ? 1 : 0;
    float *values = norm->weight.data;
    for (int64_t i = 0; i < norm->weight.shape[0]; i++) values[i] = (added + values[i]) * twin->factors[i] - added;
    multiply_rows(twin, &norm->bias);
}

/* Columns come in heads of 'width', of which 'copies' successive ones read the same channels. */
static void divide_columns(const struct twin *twin, awq_tensor *tensor, int64_t copies, int64_t width)
{
    float *values = tensor->data;
    int64_t rows = tensor->shape[0], columns = tensor->shape[1];
    for (int64_t i = 0; values && i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            values[i * columns + j] /= twin->factors[j / (width * copies) * width + j % width];
}

static void amplify_block(struct twin *twin, struct block_weights *weights)
{
    const struct model_config *config = &twin->config;
    int64_t hidden = config->hidden, intermediate = config->intermediate;
    draw_factors(twin, hidden);
    multiply_norm(twin, &weights->attention_norm);
    for (int linear = LINEAR_Q; linear <= LINEAR_V; linear++)
        divide_columns(twin, &weights->linear[linear].dense, 1, hidden);
    draw_factors(twin, hidden);
    multiply_norm(twin, &weights->mlp_norm);
    divide_columns(twin, &weights->linear[LINEAR_GATE].dense, 1, hidden);
    divide_columns(twin, &weights->linear[LINEAR_UP].dense, 1, hidden);
    if (block_scales_pass(config)) {
        draw_factors(twin, intermediate);
        multiply_rows(twin, &weights->linear[LINEAR_UP].dense);
        multiply_rows(twin, &weights->linear[LINEAR_UP].bias);
        divide_columns(twin, &weights->linear[LINEAR_DOWN].dense, 1, intermediate);
    }
    draw_factors(twin, config->kv_heads * config->head_dim);
    multiply_rows(twin, &weights->linear[LINEAR_V].dense);
    multiply_rows(twin, &weights->linear[LINEAR_V].bias);
    divide_columns(twin, &weights->linear[LINEAR_O].dense, config->heads / config->kv_heads, config->head_dim);
}

/* ---- block by block */

enum { NORM_TENSORS = 4, BLOCK_TENSORS = NORM_TENSORS + 2 * LINEAR_KINDS };

/* The tensors of a block that change; empty views among them. */
static void list_tensors(struct block_weights *weights, awq_tensor *tensors[BLOCK_TENSORS])
{
    tensors[0] = &weights->attention_norm.weight;
    tensors[1] = &weights->attention_norm.bias;
    tensors[2] = &weights->mlp_norm.weight;
    tensors[3] = &weights->mlp_norm.bias;
    for (int linear = 0; linear < LINEAR_KINDS; linear++) {
        tensors[NORM_TENSORS + 2 * linear] = &weights->linear[linear].dense;
        tensors[NORM_TENSORS + 2 * linear + 1] = &weights->linear[linear].bias;
    }
}

/* Amplify in single precision, then round to the types that the tensors had. */
static bool change_block(struct twin *twin, struct block_weights *weights, struct block_copies *copies)
{
    awq_tensor *tensors[BLOCK_TENSORS];
    int32_t dtypes[BLOCK_TENSORS];
    list_tensors(weights, tensors);
    for (int i = 0; i < BLOCK_TENSORS; i++) {
        dtypes[i] = tensors[i]->dtype;
        if (tensors[i]->data && !block_copy(twin->context, copies, AWQ_F32, tensors[i])) return false;
    }
    amplify_block(twin, weights);
    for (int i = 0; i < BLOCK_TENSORS; i++)
        if (tensors[i]->data && !block_copy(twin->context, copies, dtypes[i], tensors[i])) return false;
    return true;
}

static bool write_block(struct twin *twin, int64_t layer)
{
    struct block_weights weights;
    struct block_copies copies = {0};
    if (!block_weights_load(twin->context, twin->source, &twin->config, layer, &weights)) return false;
    bool ok = change_block(twin, &weights, &copies) &&
              output_block(twin->context, twin->writer, &twin->config, 0, &weights, &twin->bytes);
    block_weights_clear(&weights);
    block_copies_free(twin->context, &copies);
    block_weights_release(twin->source, &twin->config, layer);
    return ok;
}

static bool open_twin(struct twin *twin)
{
    const struct options *options = twin->options;
    awq_checkpoint_writer_options writer_options;
    if (!context_open(1, 0, &twin->context) || !output_check(options->model, options->out, options->replace) ||
        !model_config_load(options->model, &twin->config))
        return false;
    const struct model_config *config = &twin->config;
    if (config->quantization.format) return cli_error("%s: is quantised", options->model);
    if (config->experts) return cli_error("%s: has experts, which are not supported here", options->model);
    int64_t most = config->hidden > config->intermediate ? config->hidden : config->intermediate;
    int64_t shared = config->kv_heads * config->head_dim;
    twin->factors = calloc((size_t)(most > shared ? most : shared), sizeof *twin->factors);
    if (!twin->factors) return cli_error("out of memory");
    awq_status status = awq_checkpoint_open(twin->context, options->model, &twin->source);
    if (status != AWQ_OK) return cli_library_error(status, "%s", options->model);
    awq_struct_init(&writer_options, sizeof writer_options);
    writer_options.flags = options->replace ? AWQ_WRITER_REPLACE : 0;
    status = awq_checkpoint_writer_create(twin->context, options->out, &writer_options, &twin->writer);
    return status == AWQ_OK || cli_library_error(status, "%s", options->out);
}

static bool make_twin(struct twin *twin)
{
    if (!open_twin(twin)) return false;
    for (int64_t layer = 0; layer < twin->config.layers; layer++)
        if (!write_block(twin, layer)) return false;
    if (!output_other_tensors(twin->writer, twin->source, &twin->config, &twin->bytes) ||
        !output_copy_file(twin->writer, twin->options->model, "config.json") ||
        !output_copy_files(twin->writer, twin->options->model))
        return false;
    awq_status status = awq_checkpoint_writer_commit(twin->writer);
    return status == AWQ_OK || cli_library_error(status, "%s", twin->options->out);
}

/* ---- the command */

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct twin twin = {.options = options, .random = (uint64_t)options->seed};
    char rest;
    if (!options->out) return cli_usage(command, "--out is missing: the directory to write");
    if (sscanf(options->range, "%lf,%lf%c", &twin.low, &twin.high, &rest) != 2 || !(twin.low > 1) ||
        !(twin.high >= twin.low) || !(twin.high <= 1000))
        return cli_usage(command, "--range takes two numbers such as 8,40, above 1 and at most 1000, not '%s'",
                         options->range);
    bool ok = make_twin(&twin);
    awq_checkpoint_writer_destroy(twin.writer);
    awq_checkpoint_destroy(twin.source);
    model_config_clear(&twin.config);
    free(twin.factors);
    awq_context_destroy(twin.context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of a float model."},
    {CLI_STRING, "out", offsetof(struct options, out), 'o', "DIR", .help = "Directory to write."},
    {CLI_FLAG, "force", offsetof(struct options, replace), 'f', .help = "Replace DIR if it is a model already."},
    {CLI_DOUBLE, "fraction", offsetof(struct options, fraction), .argument = "F",
     .help = "Part of the channels to amplify, one at least.", .minimum = 0, .maximum = 0.5},
    {CLI_STRING, "range", offsetof(struct options, range), .argument = "LOW,HIGH",
     .help = "Amplify by factors drawn log-uniformly from here."},
    {CLI_INT64, "seed", offsetof(struct options, seed), .argument = "N",
     .help = "Of the choice of channels and factors.", .minimum = 0, .maximum = INFINITY},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command outliers_command = {
    .name = "outliers",
    .summary = "make a twin of a small model with the outlier channels of a large one",
    .intro = "Makes a model that computes the same function, but with a few channels amplified before each linear\n"
             "layer and its weights reduced to match: what large language models are like, and what AWQ is for.\n"
             "Plain rounding hurts the twin more than the original.",
    .examples = "  awq outliers MODEL -o TWIN\n"
                "  awq evaluate TWIN --against MODEL --text text.txt",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
