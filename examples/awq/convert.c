/* awq convert: a quantised checkpoint in another format, without a lost bit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "quantize.h"
#include "reason.h"
#include "section.h"

struct options {
    const char *model, *out;
    int layout, threads;
    uint64_t memory_limit;
    bool replace, round_scales, quiet;
};

static const struct options defaults;

struct conversion {
    const struct options *options;
    awq_context *context;
    json_t *config;
    struct quantization from, to;
    awq_checkpoint *source;
    awq_checkpoint_writer *writer;
    json_t *skipped; /* linears that are not quantised */
    struct progress progress;
    int64_t linears, others; /* quantised linears; tensors that are carried along */
    uint64_t source_bytes, output_bytes;
};

/* ---- one linear */

/* The same weight with other scales and perhaps without zero points. */
static awq_status rebuild(awq_context *context, const awq_weight_info *info, int32_t scale_dtype, awq_weight **weight)
{
    const uint64_t rows = (uint64_t)info->n, groups = rows * (uint64_t)info->groups;
    awq_quantize_options options;
    awq_tensor codes, scales, zeros, rounded;
    awq_weight *result = NULL;
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, rows * (uint64_t)info->k + 9 * groups, &memory);
    if (status != AWQ_OK) return status;
    char *next = memory;
    awq_tensor_init_2d(&scales, next, AWQ_F32, info->n, info->groups);
    awq_tensor_init_2d(&rounded, next += groups * sizeof(float), scale_dtype, info->n, info->groups);
    awq_tensor_init_2d(&zeros, next += groups * sizeof(float), AWQ_U8, info->n, info->groups);
    awq_tensor_init_2d(&codes, next + groups, AWQ_U8, info->n, info->k);
    awq_struct_init(&options, sizeof options);
    options.bits = info->bits;
    options.group_size = info->group_size;
    options.flags = info->flags;
    status = awq_weight_export(*weight, &codes, &scales, &zeros, NULL);
    if (status == AWQ_OK) status = awq_tensor_copy(context, &scales, &rounded, NULL);
    if (status == AWQ_OK)
        status = awq_weight_create(context, &codes, &rounded, info->flags & AWQ_QUANTIZE_SYMMETRIC ? NULL : &zeros,
                                   &options, &result);
    awq_context_free(context, memory);
    if (status != AWQ_OK) return status;
    awq_weight_destroy(*weight);
    *weight = result;
    return AWQ_OK;
}

/* The weight as it is to be packed; *info tells about it. */
static bool load_linear(struct conversion *conversion, const char *linear, awq_weight **weight, awq_weight_info *info)
{
    char reason[REASON_SIZE];
    if (!linear_unpack(conversion->context, conversion->source, &conversion->from, linear, weight, reason))
        return cli_error("%s: %s", linear, reason);
    awq_struct_init(info, sizeof *info);
    awq_status status = awq_weight_get_info(*weight, info);
    bool rounds = conversion->options->round_scales && info->scale_dtype != AWQ_F16;
    if (status == AWQ_OK && rounds) status = rebuild(conversion->context, info, AWQ_F16, weight);
    if (status == AWQ_OK) return true;
    awq_weight_destroy(*weight);
    *weight = NULL;
    return cli_library_error(status, "%s", linear);
}

/* Whether no zero point says more than that the weight is symmetric. */
static bool zeros_in_the_middle(awq_context *context, const awq_weight *weight, const awq_weight_info *info,
                                bool *result)
{
    int64_t count = info->n * info->groups;
    void *memory = NULL;
    awq_tensor zeros;
    *result = true;
    if (info->flags & AWQ_QUANTIZE_SYMMETRIC) return true;
    awq_status status = awq_context_allocate(context, (uint64_t)count, &memory);
    if (status == AWQ_OK) {
        awq_tensor_init_2d(&zeros, memory, AWQ_U8, info->n, info->groups);
        status = awq_weight_export(weight, NULL, NULL, &zeros, NULL);
    }
    for (int64_t i = 0; status == AWQ_OK && i < count && *result; i++)
        *result = ((uint8_t *)memory)[i] == 1 << (info->bits - 1);
    awq_context_free(context, memory);
    return status == AWQ_OK || cli_library_error(status, "zero points");
}

/* Let the format itself say whether it can hold the linear. */
static bool check_linear(struct conversion *conversion, const char *linear)
{
    awq_weight *weight = NULL;
    awq_packed *packed = NULL;
    awq_weight_info info;
    bool middle;
    if (!load_linear(conversion, linear, &weight, &info)) return false;
    bool ok = zeros_in_the_middle(conversion->context, weight, &info, &middle);
    conversion->to.symmetric = conversion->to.symmetric && middle;
    if (ok) {
        awq_status status = awq_pack(conversion->context, weight, conversion->to.format->layout, &packed);
        ok = status == AWQ_OK || cli_library_error(status, "%s", linear);
    }
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
    conversion->linears++;
    return ok;
}

static bool write_linear(struct conversion *conversion, const char *linear)
{
    awq_weight *weight = NULL;
    awq_weight_info info;
    bool ok = load_linear(conversion, linear, &weight, &info) &&
              linear_write(conversion->context, conversion->writer, conversion->to.format, linear, weight,
                           &conversion->output_bytes);
    awq_weight_destroy(weight);
    return ok;
}

/* ---- all tensors */

enum { NAME_SIZE = 512 };

/* What a tensor of the source is. */
enum tensor_kind {
    TENSOR_LINEAR, /* the one that marks a quantised linear */
    TENSOR_PLANE,  /* another of its tensors */
    TENSOR_OTHER
};

static enum tensor_kind kind_of(const awq_checkpoint *checkpoint, const char *name, char linear[NAME_SIZE])
{
    const char *dot = strrchr(name, '.');
    size_t length;
    if (!dot || dot - name >= NAME_SIZE) return TENSOR_OTHER;
    snprintf(linear, NAME_SIZE, "%.*s", (int)(dot - name), name);
    if (is_quantized_plane(name, &length)) return TENSOR_LINEAR;
    return is_plane_part(dot + 1) && linear_is_quantized(checkpoint, linear) ? TENSOR_PLANE : TENSOR_OTHER;
}

/* Linears that are not quantised are told from the tensors: matrices that are no embedding. */
static bool note_skipped(struct conversion *conversion, const char *name, const char *linear, const awq_tensor *view)
{
    if (view->ndim != 2 || strcmp(name + strlen(linear), ".weight") != 0 || strstr(linear, "embed") ||
        strstr(linear, "wte") || strstr(linear, "wpe") || strcmp(linear, "lm_head") == 0)
        return true;
    return json_array_append_new(conversion->skipped, json_string(linear)) == 0 || cli_error("out of memory");
}

typedef bool tensor_visitor(struct conversion *conversion, const char *name, const awq_tensor *view);

static bool check_tensor(struct conversion *conversion, const char *name, const awq_tensor *view)
{
    char linear[NAME_SIZE] = "";
    enum tensor_kind kind = kind_of(conversion->source, name, linear);
    conversion->source_bytes += tensor_bytes(view);
    if (kind == TENSOR_LINEAR) return check_linear(conversion, linear);
    if (kind == TENSOR_PLANE) return true;
    conversion->others++;
    return note_skipped(conversion, name, linear, view);
}

static bool write_tensor(struct conversion *conversion, const char *name, const awq_tensor *view)
{
    char linear[NAME_SIZE] = "";
    enum tensor_kind kind = kind_of(conversion->source, name, linear);
    if (kind == TENSOR_LINEAR) return write_linear(conversion, linear);
    if (kind == TENSOR_PLANE) return true;
    conversion->output_bytes += tensor_bytes(view);
    awq_status status = awq_checkpoint_writer_add(conversion->writer, name, view);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

/* Pages leave memory as soon as they were used, those of a linear's other planes as their turn comes. */
static bool for_each_tensor(struct conversion *conversion, const char *label, tensor_visitor *visit)
{
    int64_t count = awq_checkpoint_count(conversion->source);
    bool ok = true;
    progress_begin(&conversion->progress, label);
    for (int64_t i = 0; ok && i < count; i++) {
        const char *name = awq_checkpoint_name(conversion->source, i);
        awq_tensor view;
        awq_status status = awq_checkpoint_get(conversion->source, name, &view);
        ok = status == AWQ_OK ? visit(conversion, name, &view) : cli_library_error(status, "%s", name);
        awq_checkpoint_release(conversion->source, name);
        if (ok && progress_update(&conversion->progress, (uint64_t)i + 1, (uint64_t)count))
            ok = cli_error("interrupted");
    }
    progress_end(&conversion->progress);
    return ok;
}

/* ---- the whole */

static bool open_source(struct conversion *conversion)
{
    const struct options *options = conversion->options;
    char path[SECTION_PATH_SIZE];
    if (!output_check(options->model, options->out, options->replace)) return false;
    conversion->config = section_load(options->model, "config.json", false, path);
    if (!conversion->config ||
        !quantization_load(options->model, path, conversion->config, &conversion->from))
        return false;
    if (!conversion->from.format)
        return cli_error("%s: is not quantised; 'awq quantize' does that", options->model);
    awq_status status = awq_checkpoint_open(conversion->context, options->model, &conversion->source);
    if (status != AWQ_OK) return cli_library_error(status, "%s", options->model);
    conversion->from.symmetric = false; /* until its zero points say so */
    conversion->to = conversion->from;
    conversion->to.format = format_at(options->layout);
    conversion->to.symmetric = true; /* until its zero points say otherwise */
    conversion->skipped = json_array();
    return conversion->skipped || cli_error("out of memory");
}

/* What the format cannot hold is found before anything is written. */
static bool check_source(struct conversion *conversion)
{
    if (!for_each_tensor(conversion, "Checking", check_tensor)) return false;
    if (conversion->linears == 0)
        return cli_error("%s: config.json says that it is quantised, but none of its tensors is",
                         conversion->options->model);
    if (!linear_is_quantized(conversion->source, "lm_head"))
        json_array_insert_new(conversion->skipped, 0, json_string("lm_head"));
    conversion->from.symmetric = conversion->to.symmetric;
    return true;
}

static bool create_writer(struct conversion *conversion)
{
    awq_checkpoint_writer_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = conversion->options->replace ? AWQ_WRITER_REPLACE : 0;
    options.expected_tensors = conversion->others + MAX_PLANES * conversion->linears;
    awq_status status =
        awq_checkpoint_writer_create(conversion->context, conversion->options->out, &options, &conversion->writer);
    return status == AWQ_OK || cli_library_error(status, "%s", conversion->options->out);
}

/* The quantization_config goes to the top, where all readers look for it. */
static bool write_files(struct conversion *conversion)
{
    json_t *text = json_object_get(conversion->config, "text_config");
    json_object_del(text, "quantization_config");
    json_object_del(text, "compression_config");
    json_object_del(conversion->config, "compression_config");
    json_t *quantization = quantization_json(&conversion->to, conversion->skipped);
    if (json_object_set_new(conversion->config, "quantization_config", quantization) != 0)
        return cli_error("out of memory");
    return output_json(conversion->writer, "config.json", conversion->config) &&
           output_copy_files(conversion->writer, conversion->options->model);
}

static bool convert(struct conversion *conversion)
{
    const struct options *options = conversion->options;
    if (!context_open(options->threads, options->memory_limit, &conversion->context) || !open_source(conversion) ||
        !check_source(conversion) || !create_writer(conversion) ||
        !for_each_tensor(conversion, "Converting", write_tensor) || !write_files(conversion))
        return false;
    awq_status status = awq_checkpoint_writer_commit(conversion->writer);
    if (status != AWQ_OK) return cli_library_error(status, "%s", options->out);
    if (options->quiet) return true;
    printf("%s: %s linears of %d bits%s, from %s to %s; %s of tensors are now %s\n", options->out,
           cli_count(conversion->linears).text, (int)conversion->to.bits,
           conversion->to.symmetric ? ", symmetric" : " with zero points", conversion->from.format->name,
           conversion->to.format->name, cli_bytes(conversion->source_bytes).text,
           cli_bytes(conversion->output_bytes).text);
    return true;
}

/* ---- the command */

static int run(const struct cli_command *command, const void *given)
{
    struct conversion conversion = {.options = given};
    if (!conversion.options->out) return cli_usage(command, "--out is missing: the directory to write");
    bool ok = convert(&conversion);
    awq_checkpoint_writer_destroy(conversion.writer);
    awq_checkpoint_destroy(conversion.source);
    json_decref(conversion.skipped);
    json_decref(conversion.config);
    awq_context_destroy(conversion.context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model),
     .help = "Directory of a quantised model, in any of the formats."},
    {CLI_STRING, "out", offsetof(struct options, out), 'o', "DIR",
     .help = "Directory to write.  It appears when all of it is there."},
    {CLI_CHOICE, "layout", offsetof(struct options, layout), 'l', FORMAT_NAMES,
     .help = "Format to write.  compressed-tensors is as written since 2026; -2025 as before, which differs for 3 bits "
             "only."},
    {CLI_FLAG, "force", offsetof(struct options, replace), 'f', .help = "Replace DIR if it is a model already."},
    {CLI_FLAG, "round-scales", offsetof(struct options, round_scales),
     .help = "Round scales to F16.  Without it, those that a format cannot hold are refused; compressed-tensors often "
             "has BF16."},
    {CLI_INT, "threads", offsetof(struct options, threads), .argument = "N",
     .help = "Threads to use [default: all processors].", .minimum = 1, .maximum = 4096},
    {CLI_SIZE, "memory-limit", offsetof(struct options, memory_limit), .argument = "SIZE",
     .help = "Fail rather than use more memory than this, such as 1G.  One linear at a time is in memory."},
    {CLI_FLAG, "quiet", offsetof(struct options, quiet), 'q', .help = "Print nothing but errors."},
    {.type = CLI_END},
};

const struct cli_command convert_command = {
    .name = "convert",
    .summary = "rewrite a quantised model in the format of another program",
    .intro = "Rewrites a quantised model in another format: the same codes, scales and zero points, bit for bit.  All\n"
             "other tensors and files are carried along, and quantization_config says what the format's readers\n"
             "expect.  What a format cannot hold is refused, with the layer and the reason, before anything is\n"
             "written.  A model whose zero points are all in the middle is written as symmetric.",
    .examples = "  awq convert MODEL-awq -o MODEL-gptq --layout gptq\n"
                "  awq convert MODEL-gptq -o MODEL-awq --layout gemm\n"
                "  awq convert MODEL-awq -o MODEL-ct --layout compressed-tensors",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
