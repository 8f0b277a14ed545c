/* Gathering what awq inspect shows. */
#include "inspect.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer.h"
#include "cli.h"
#include "gguf.h"
#include "model.h"
#include "progress.h"
#include "reason.h"

static json_t *tensor_facts(const char *name, const awq_tensor *tensor)
{
    json_t *shape = json_array();
    for (int32_t i = 0; i < tensor->ndim; i++) json_array_append_new(shape, json_integer(tensor->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I}", "name", name, "dtype", awq_dtype_name(tensor->dtype), "shape", shape,
                     "bytes", (json_int_t)tensor_bytes(tensor));
}

/* -------------------------------------------------------------------------- quantised layers */

static bool add_scales(json_t *facts, const awq_weight *weight, const awq_weight_info *info)
{
    awq_tensor view;
    double least = INFINITY, most = -INFINITY, sum = 0;
    int64_t count = info->n * info->groups;
    float *scales = malloc((size_t)count * sizeof *scales + 1);
    if (!scales) return cli_error("out of memory");
    awq_tensor_init_2d(&view, scales, AWQ_F32, info->n, info->groups);
    awq_status status = awq_weight_export(weight, NULL, &view, NULL, NULL);
    for (int64_t i = 0; status == AWQ_OK && i < count; i++) {
        double scale = (double)scales[i];
        sum += scale;
        if (scale < least) least = scale;
        if (scale > most) most = scale;
    }
    free(scales);
    if (status != AWQ_OK) return cli_library_error(status, "scales");
    if (count > 0) {
        json_object_set_new(facts, "scale_min", json_real(least));
        json_object_set_new(facts, "scale_mean", json_real(sum / (double)count));
        json_object_set_new(facts, "scale_max", json_real(most));
    }
    return true;
}

static bool add_weight(json_t *facts, const awq_weight *weight, uint64_t bytes)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(weight, &info);
    if (status != AWQ_OK) return cli_library_error(status, "weight");
    double weights = (double)info.n * (double)info.k;
    json_object_set_new(facts, "outputs", json_integer(info.n));
    json_object_set_new(facts, "inputs", json_integer(info.k));
    json_object_set_new(facts, "bits", json_integer(info.bits));
    json_object_set_new(facts, "group_size", json_integer(info.group_size));
    json_object_set_new(facts, "symmetric", json_boolean(info.flags & AWQ_QUANTIZE_SYMMETRIC));
    if (info.salient_columns) json_object_set_new(facts, "salient_columns", json_integer(info.salient_columns));
    json_object_set_new(facts, "bits_per_weight", json_real(weights > 0 ? 8 * (double)bytes / weights : 0));
    return add_scales(facts, weight, &info);
}

/* As configured, where its tensors look like that. */
static struct quantization choose_quantization(const awq_checkpoint *checkpoint, const char *linear,
                                               const struct quantization *configured)
{
    struct quantization guess = linear_guess(checkpoint, linear), result = *configured;
    if (!guess.format) return *configured;
    if (!configured->format || guess.format->method != configured->format->method) return guess;
    if (guess.format->method == METHOD_AWQ && guess.format != configured->format) return guess;
    if (guess.format->method == METHOD_COMPRESSED_TENSORS || guess.format->method == METHOD_LIBAWQ)
        result.format = guess.format;
    return result;
}

/* Facts of the linear of which 'name' is the plane that marks it; NULL: it is no such plane. */
static bool layer_facts(awq_context *context, const awq_checkpoint *checkpoint, const char *name,
                        const struct quantization *configured, json_t **facts)
{
    char linear[512], reason[REASON_SIZE] = "its tensors have the shapes of no known format";
    struct linear_planes planes = {0};
    awq_weight *weight = NULL;
    size_t length;
    *facts = NULL;
    if (!is_quantized_plane(name, &length) || length >= sizeof linear) return true;
    snprintf(linear, sizeof linear, "%.*s", (int)length, name);
    struct quantization found = choose_quantization(checkpoint, linear, configured);
    if (found.format) linear_planes_find(checkpoint, found.format, linear, &planes);
    *facts = json_pack("{s:s, s:I}", "name", linear, "bytes", (json_int_t)planes.bytes);
    if (!found.format || !linear_unpack(context, checkpoint, &found, linear, &weight, reason)) {
        json_object_set_new(*facts, "unreadable", json_string(reason));
        return true;
    }
    json_object_set_new(*facts, "layout", json_string(found.format->name));
    bool done = add_weight(*facts, weight, planes.bytes);
    awq_weight_destroy(weight);
    return done;
}

/* ------------------------------------------------------------------------------- checkpoints */

static bool add_totals(json_t *facts, const json_t *tensors, const json_t *layers)
{
    json_int_t bytes = 0, layer_bytes = 0, layer_weights = 0;
    size_t index;
    const json_t *item;
    json_array_foreach(tensors, index, item) bytes += json_integer_value(json_object_get(item, "bytes"));
    json_array_foreach(layers, index, item) {
        layer_bytes += json_integer_value(json_object_get(item, "bytes"));
        layer_weights += json_integer_value(json_object_get(item, "outputs")) *
                         json_integer_value(json_object_get(item, "inputs"));
    }
    json_t *totals = json_pack("{s:I, s:I, s:I, s:I, s:I}", "tensors", (json_int_t)json_array_size(tensors), "bytes",
                               bytes, "quantized_layers", (json_int_t)json_array_size(layers), "quantized_weights",
                               layer_weights, "quantized_bytes", layer_bytes);
    return json_object_set_new(facts, "totals", totals) == 0 || cli_error("out of memory");
}

static bool add_checkpoint(awq_context *context, const awq_checkpoint *checkpoint,
                           const struct quantization *configured, json_t *facts)
{
    json_t *tensors = json_array(), *layers = json_array();
    struct progress progress;
    bool done = true;
    progress_begin(&progress, "Reading");
    for (int64_t i = 0; done && i < awq_checkpoint_count(checkpoint); i++) {
        const char *name = awq_checkpoint_name(checkpoint, i);
        awq_tensor view;
        json_t *layer;
        awq_status status = awq_checkpoint_get(checkpoint, name, &view);
        if (status != AWQ_OK) {
            done = cli_library_error(status, "%s", name);
            break;
        }
        json_array_append_new(tensors, tensor_facts(name, &view));
        done = layer_facts(context, checkpoint, name, configured, &layer);
        if (layer) json_array_append_new(layers, layer);
        awq_checkpoint_release(checkpoint, name);
        if (done && progress_update(&progress, (uint64_t)i + 1, (uint64_t)awq_checkpoint_count(checkpoint)))
            done = cli_error("interrupted");
    }
    progress_end(&progress);
    json_object_set_new(facts, "tensors", tensors);
    json_object_set_new(facts, "quantized_layers", layers);
    return done && add_totals(facts, tensors, layers);
}

static bool open_checkpoint(awq_context *context, const char *path, awq_checkpoint **checkpoint)
{
    awq_status status = awq_checkpoint_open(context, path, checkpoint);
    return status == AWQ_OK || cli_error("%s", awq_last_error());
}

static bool add_file(awq_context *context, const char *path, json_t *facts)
{
    static const struct quantization unknown;
    awq_checkpoint *checkpoint;
    json_object_set_new(facts, "kind", json_string("safetensors file"));
    if (!open_checkpoint(context, path, &checkpoint)) return false;
    bool done = add_checkpoint(context, checkpoint, &unknown, facts);
    awq_checkpoint_destroy(checkpoint);
    return done;
}

/* ------------------------------------------------------------------------------------ models */

static bool exists(const char *directory, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", directory, name) < 0) return false;
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

/* config.json as it is written, whether or not this program runs such models; NULL: there is none that can be read. */
static json_t *load_config(const char *directory)
{
    struct text_buffer text = {0};
    json_error_t error;
    char *path;
    json_t *config = NULL;
    if (!exists(directory, "config.json") || asprintf(&path, "%s/config.json", directory) < 0) return NULL;
    if (text_buffer_read_file(&text, path, 1 << 24)) {
        config = json_loadb(text.bytes, text.length, 0, &error);
        if (!config) cli_warning("%s: line %d: %s", path, error.line, error.text);
    }
    text_buffer_free(&text);
    free(path);
    return config;
}

static void add_config(const json_t *config, json_t *facts)
{
    static const char *const keys[] = {
        "model_type",        "architectures",           "num_hidden_layers",   "hidden_size",
        "intermediate_size", "num_attention_heads",     "num_key_value_heads", "head_dim",
        "vocab_size",        "max_position_embeddings", "tie_word_embeddings", "torch_dtype"};
    json_t *architecture = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        json_t *value = json_object_get(config, keys[i]);
        if (value) json_object_set(architecture, keys[i], value);
    }
    json_object_set_new(facts, "architecture", architecture);
    json_t *quantization = json_object_get(config, "quantization_config");
    if (quantization) json_object_set(facts, "quantization_config", quantization);
    else json_object_set_new(facts, "quantization_config", json_null());
}

/* In how many layers q, k, v and gate, up are one linear at run time. */
static bool add_fused(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                      json_t *facts)
{
    json_int_t qkv = 0, gate_up = 0;
    for (int64_t layer = 0; layer < config->layers; layer++) {
        struct block_weights weights;
        if (!block_weights_load(context, checkpoint, config, layer, &weights)) return false;
        qkv += block_can_fuse(config, &weights, LINEAR_Q);
        gate_up += block_can_fuse(config, &weights, LINEAR_GATE);
        block_weights_clear(&weights);
        block_weights_release(checkpoint, config, layer);
    }
    json_t *fused = json_pack("{s:I, s:I, s:I}", "layers", (json_int_t)config->layers, "q_k_v", qkv, "gate_up",
                              gate_up);
    return json_object_set_new(facts, "fused", fused) == 0 || cli_error("out of memory");
}

static bool add_model(awq_context *context, const char *path, json_t *facts)
{
    awq_checkpoint *checkpoint;
    struct model_config config;
    json_t *json = load_config(path);
    json_object_set_new(facts, "kind", json_string(json ? "model" : "directory of safetensors files"));
    if (json) add_config(json, facts);
    const char *tokenizer = exists(path, "tokenizer.json")    ? "tokenizer.json"
                            : exists(path, "tokenizer.model") ? "tokenizer.model"
                                                              : NULL;
    json_object_set_new(facts, "tokenizer", tokenizer ? json_string(tokenizer) : json_null());
    struct quantization configured = {0};
    bool runs = json && quantization_load(path, path, json, &configured), has_config = json != NULL;
    json_decref(json);

    if (!open_checkpoint(context, path, &checkpoint)) return false;
    bool done = add_checkpoint(context, checkpoint, &configured, facts);
    if (done && has_config) {
        runs = runs && model_config_load(path, &config);
        json_object_set_new(facts, "runs_here", json_boolean(runs));
        if (runs) {
            done = add_fused(context, checkpoint, &config, facts);
            model_config_clear(&config);
        }
    }
    awq_checkpoint_destroy(checkpoint);
    return done;
}

/* ------------------------------------------------------------------------------ calibrations */

static bool add_statistics(const awq_calibration *calibration, int64_t channels, json_t *facts)
{
    static const char *const names[] = {[AWQ_STATISTIC_MEAN_ABS] = "mean_abs", [AWQ_STATISTIC_MAX_ABS] = "max_abs"};
    double *values = malloc((size_t)channels * sizeof *values + 1);
    if (!values) return cli_error("out of memory");
    bool done = true;
    for (size_t statistic = 0; done && statistic < sizeof names / sizeof *names; statistic++) {
        double sum = 0, most = 0;
        if (!names[statistic]) continue;
        awq_status status = awq_calibration_get_statistic(calibration, (int32_t)statistic, values, channels);
        if (status == AWQ_ERROR_STATE) break; /* nothing was observed */
        if (status != AWQ_OK) done = cli_library_error(status, "statistics");
        for (int64_t i = 0; done && i < channels; i++) {
            sum += values[i];
            if (values[i] > most) most = values[i];
        }
        bool is_mean = statistic == AWQ_STATISTIC_MEAN_ABS;
        json_object_set_new(facts, names[statistic], json_real(is_mean ? sum / (double)channels : most));
    }
    free(values);
    return done;
}

static bool add_calibration(const awq_archive *archive, const char *name, json_t *list)
{
    awq_calibration *calibration;
    awq_calibration_info info;
    awq_status status = awq_archive_load(archive, name, &calibration);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    awq_struct_init(&info, sizeof info);
    status = awq_calibration_get_info(calibration, &info);
    bool done = status == AWQ_OK || cli_library_error(status, "%s", name);
    if (done) {
        json_t *facts = json_pack("{s:s, s:I, s:I, s:I, s:b}", "name", name, "channels", (json_int_t)info.channels,
                                  "rows", (json_int_t)info.rows, "sample_rows", (json_int_t)info.sample_rows, "gram",
                                  (info.flags & AWQ_CALIBRATION_GRAM) != 0);
        done = add_statistics(calibration, info.channels, facts);
        json_array_append_new(list, facts);
    }
    awq_calibration_destroy(calibration);
    return done;
}

static bool add_archive(awq_context *context, const char *path, json_t *facts)
{
    awq_archive *archive;
    awq_status status = awq_archive_open(context, path, &archive);
    if (status != AWQ_OK) return cli_error("%s", awq_last_error());
    json_t *list = json_array();
    json_object_set_new(facts, "kind", json_string("calibration archive"));
    json_object_set_new(facts, "provenance", json_string(awq_archive_provenance(archive)));
    json_object_set_new(facts, "calibrations", list);
    bool done = true;
    for (int64_t i = 0; done && i < awq_archive_count(archive); i++)
        done = add_calibration(archive, awq_archive_name(archive, i), list);
    awq_archive_destroy(archive);
    return done;
}

/* -------------------------------------------------------------------------------------- GGUF */

static bool add_gguf(const char *path, json_t *facts)
{
    struct gguf_file file;
    if (!gguf_open(path, &file)) return false;
    json_t *tensors = json_array();
    for (size_t i = 0; i < file.count; i++) {
        const struct gguf_tensor *tensor = &file.tensors[i];
        const char *type = gguf_type_name(tensor->type);
        char number[16];
        snprintf(number, sizeof number, "type %u", tensor->type);
        json_t *shape = json_array();
        for (int32_t d = 0; d < tensor->ndim; d++) json_array_append_new(shape, json_integer(tensor->shape[d]));
        json_array_append_new(tensors, json_pack("{s:s, s:s, s:o, s:I}", "name", tensor->name, "dtype",
                                                 type ? type : number, "shape", shape, "bytes",
                                                 (json_int_t)tensor->bytes));
    }
    json_object_set_new(facts, "kind", json_string("GGUF file"));
    json_object_set_new(facts, "version", json_integer(file.version));
    json_object_set(facts, "metadata", file.metadata);
    json_object_set_new(facts, "tensors", tensors);
    gguf_close(&file);
    return add_totals(facts, tensors, NULL);
}

/* ---------------------------------------------------------------------------------- the path */

enum kind { KIND_UNKNOWN, KIND_DIRECTORY, KIND_SAFETENSORS, KIND_ARCHIVE, KIND_GGUF };

static bool recognise(const char *path, enum kind *kind)
{
    unsigned char head[9] = {0};
    struct stat status;
    *kind = KIND_DIRECTORY;
    if (stat(path, &status) == 0 && S_ISDIR(status.st_mode)) return true;
    FILE *file = fopen(path, "rb");
    if (!file) return cli_error("%s: %s", path, strerror(errno));
    size_t count = fread(head, 1, sizeof head, file);
    fclose(file);
    *kind = KIND_UNKNOWN;
    if (count == sizeof head && head[8] == '{') *kind = KIND_SAFETENSORS;
    if (memcmp(head, "\x89" "AWQC", 5) == 0) *kind = KIND_ARCHIVE;
    if (memcmp(head, "GGUF", 4) == 0) *kind = KIND_GGUF;
    return *kind != KIND_UNKNOWN ||
           cli_error("%s: neither a model directory, a safetensors file, a calibration archive nor a GGUF file", path);
}

json_t *inspect_path(awq_context *context, const char *path)
{
    enum kind kind;
    if (!recognise(path, &kind)) return NULL;
    json_t *facts = json_pack("{s:s}", "path", path);
    if (!facts) {
        cli_error("%s: its name is not UTF-8, or memory gave out", path);
        return NULL;
    }
    bool done = kind == KIND_DIRECTORY     ? add_model(context, path, facts)
                : kind == KIND_SAFETENSORS ? add_file(context, path, facts)
                : kind == KIND_GGUF        ? add_gguf(path, facts)
                                           : add_archive(context, path, facts);
    if (done) return facts;
    json_decref(facts);
    return NULL;
}
