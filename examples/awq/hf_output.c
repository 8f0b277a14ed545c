/* A model directory as Hugging Face has them: tensors, config.json with quantization_config, and what lies beside. */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "buffer.h"
#include "cli.h"
#include "quantize.h"

/* ---- where it goes */

/* Only what was a model, or holds nothing but . and .., is replaced: a slip should not cost a home directory. */
static bool may_replace(const char *out)
{
    char config[PATH_MAX];
    struct stat info;
    snprintf(config, sizeof config, "%s/config.json", out);
    if (stat(config, &info) == 0) return true;
    DIR *directory = opendir(out);
    int entries = 0;
    while (directory && readdir(directory)) entries++;
    if (directory) closedir(directory);
    return entries == 2 || cli_error("%s: exists, and is no directory of a model: not replaced", out);
}

bool output_check(const char *model, const char *out, bool replace)
{
    char real_model[PATH_MAX], real_out[PATH_MAX];
    struct stat info;
    if (stat(out, &info) != 0) return true;
    if (realpath(model, real_model) && realpath(out, real_out) && strcmp(real_model, real_out) == 0)
        return cli_error("%s: is the model itself; give another directory as --out", out);
    if (!replace) return cli_error("%s: exists already; --force replaces it", out);
    return may_replace(out);
}

/* ---- files */

/* Nothing that goes with a model is this long, except weights. */
static const uint64_t largest_file = (uint64_t)256 << 20;

static bool ends_with(const char *text, const char *end)
{
    size_t length = strlen(text), end_length = strlen(end);
    return length >= end_length && strcmp(text + length - end_length, end) == 0;
}

/* Weights in one of their formats, or what lists them; and what describes their quantisation, which is written anew. */
static bool stays_behind(const char *name)
{
    static const char *const names[] = {"config.json", "quant_config.json", "quantize_config.json"};
    static const char *const ends[] = {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt",
                                       ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (ends_with(name, ends[i])) return true;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return name[0] == '.';
}

bool output_copy_file(awq_checkpoint_writer *writer, const char *directory, const char *name)
{
    char path[PATH_MAX];
    struct stat info;
    struct text_buffer bytes = {0};
    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= (int)sizeof path)
        return cli_error("%s: the path is too long", directory);
    if (stat(path, &info) != 0) return cli_error("%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode)) return true;
    if ((uint64_t)info.st_size > largest_file) {
        cli_warning("%s: not copied, as it is %s long", path, cli_bytes((uint64_t)info.st_size).text);
        return true;
    }
    if (!text_buffer_read_file(&bytes, path, largest_file)) return false;
    awq_status status = awq_checkpoint_writer_add_file(writer, name, bytes.bytes, bytes.length);
    text_buffer_free(&bytes);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

bool output_copy_files(awq_checkpoint_writer *writer, const char *directory)
{
    struct dirent **entries;
    bool ok = true;
    int count = scandir(directory, &entries, NULL, alphasort);
    if (count < 0) return cli_error("%s: %s", directory, strerror(errno));
    for (int i = 0; i < count; i++) {
        if (ok && !stays_behind(entries[i]->d_name)) ok = output_copy_file(writer, directory, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    return ok;
}

/* ---- config.json */

static void add_module(const struct model_config *config, int64_t layer, const char *part, json_t *list)
{
    char name[TENSOR_NAME_SIZE];
    if (!part) return;
    block_tensor_name(config, layer, part, name);
    json_array_append_new(list, json_string(name));
}

/* "lm_head", routers and the excluded linears. */
static json_t *skipped_modules(const struct model_config *config, const bool *excluded)
{
    json_t *list = json_array();
    json_array_append_new(list, json_string(config->architecture->head));
    for (int64_t layer = 0; layer < config->layers; layer++) {
        add_module(config, layer, config->architecture->router, list);
        add_module(config, layer, config->architecture->shared_gate, list);
        for (int i = 0; i < block_linears(config); i += block_stored_together(config, i)) {
            char name[TENSOR_NAME_SIZE];
            if (!excluded[layer * block_linears(config) + i] || !block_has_linear(config, i)) continue;
            block_linear_name(config, layer, i, name);
            json_array_append_new(list, json_string(name));
        }
    }
    return list;
}

/* With as few digits as give the same numbers. */
static char *dump_json(const json_t *json)
{
    for (size_t digits = 15; digits < 17; digits++) {
        char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, 0, NULL) : NULL;
        bool same = json_equal(json, again);
        json_decref(again);
        if (same) return text;
        free(text);
    }
    return json_dumps(json, JSON_INDENT(2));
}

bool output_json(awq_checkpoint_writer *writer, const char *name, const json_t *json)
{
    char *text = dump_json(json);
    if (!text) return cli_error("out of memory");
    awq_status status = awq_checkpoint_writer_add_file(writer, name, text, strlen(text));
    free(text);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

bool output_config(awq_checkpoint_writer *writer, const struct model_config *config,
                   const struct quantize_settings *settings, const bool *excluded)
{
    json_t *document = json_deep_copy(config->json), *skipped = skipped_modules(config, excluded);
    struct quantization written = {format_of_layout(settings->layout), settings->quantizer.bits,
                                   settings->quantizer.group_size,
                                   settings->quantizer.flags & AWQ_QUANTIZE_SYMMETRIC};
    bool ok = !written.format ||
              json_object_set_new(document, "quantization_config", quantization_json(&written, skipped)) == 0 ||
              cli_error("out of memory");
    ok = ok && output_json(writer, "config.json", document);
    json_decref(skipped);
    json_decref(document);
    return ok;
}

/* ---- tensors */

static bool add_tensor(awq_checkpoint_writer *writer, const char *name, const awq_tensor *tensor, uint64_t *bytes)
{
    *bytes += tensor_bytes(tensor);
    awq_status status = awq_checkpoint_writer_add(writer, name, tensor);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

static bool add_part(awq_checkpoint_writer *writer, const char *name, const char *part, const awq_tensor *tensor,
                     uint64_t *bytes)
{
    char full[TENSOR_NAME_SIZE + 32];
    snprintf(full, sizeof full, "%s.%s", name, part);
    return add_tensor(writer, full, tensor, bytes);
}

static bool add_linear(awq_context *context, awq_checkpoint_writer *writer, int32_t layout, const char *name,
                       const struct linear_weights *weights, uint64_t *bytes)
{
    bool ok = weights->quantized
                  ? linear_write(context, writer, format_of_layout(layout), name, weights->quantized, bytes)
                  : add_part(writer, name, "weight", &weights->dense, bytes);
    return ok && (!weights->bias.data || add_part(writer, name, "bias", &weights->bias, bytes));
}

/* The linears from 'first' on that are stored together. */
static bool add_stored(awq_context *context, awq_checkpoint_writer *writer, const struct model_config *config,
                       int32_t layout, const struct block_weights *weights, int first, uint64_t *bytes)
{
    const int count = block_stored_together(config, first);
    struct joined_weights joined;
    char name[TENSOR_NAME_SIZE];
    block_linear_name(config, weights->layer, first, name);
    if (!linear_weights_join(context, weights->linear + first, (size_t)count, name, &joined)) return false;
    bool ok = add_linear(context, writer, layout, name, &joined.whole, bytes);
    joined_weights_clear(context, &joined);
    return ok;
}

static bool add_norm(awq_checkpoint_writer *writer, const struct model_config *config, int64_t layer, const char *part,
                     const struct norm_weights *norm, uint64_t *bytes)
{
    char name[TENSOR_NAME_SIZE];
    block_tensor_name(config, layer, part, name);
    return add_part(writer, name, "weight", &norm->weight, bytes) &&
           (!norm->bias.data || add_part(writer, name, "bias", &norm->bias, bytes));
}

/* A linear that is never quantised. */
static bool add_dense(awq_checkpoint_writer *writer, const struct model_config *config, int64_t layer, const char *part,
                      const struct linear_weights *linear, uint64_t *bytes)
{
    char name[TENSOR_NAME_SIZE];
    block_tensor_name(config, layer, part, name);
    return add_part(writer, name, "weight", &linear->dense, bytes);
}

bool output_block(awq_context *context, awq_checkpoint_writer *writer, const struct model_config *config,
                  int32_t layout, const struct block_weights *weights, uint64_t *bytes)
{
    const struct architecture *names = config->architecture;
    bool ok = add_norm(writer, config, weights->layer, names->attention_norm, &weights->attention_norm, bytes) &&
              add_norm(writer, config, weights->layer, names->mlp_norm, &weights->mlp_norm, bytes);
    if (weights->activation_scales.data) {
        char name[TENSOR_NAME_SIZE];
        block_tensor_name(config, weights->layer, names->activation_scales, name);
        ok = ok && add_tensor(writer, name, &weights->activation_scales, bytes);
    }
    if (names->router) ok = ok && add_dense(writer, config, weights->layer, names->router, &weights->router, bytes);
    if (names->shared_gate)
        ok = ok && add_dense(writer, config, weights->layer, names->shared_gate, &weights->shared_gate, bytes);
    for (int i = 0; ok && i < weights->linears; i += block_stored_together(config, i))
        ok = !block_has_linear(config, i) || add_stored(context, writer, config, layout, weights, i, bytes);
    return ok;
}

/* Whether 'name' is the weight or bias of a module. */
static bool is_of_module(const char *name, const char *module)
{
    const size_t length = strlen(module);
    return strncmp(name, module, length) == 0 &&
           (strcmp(name + length, ".weight") == 0 || strcmp(name + length, ".bias") == 0);
}

bool output_is_of_block(const char *name, const struct model_config *config)
{
    const struct architecture *names = config->architecture;
    const size_t length = strlen(names->blocks);
    int64_t layer;
    int end = 0;
    if (strncmp(name, names->blocks, length) != 0 || sscanf(name + length, ".%" SCNd64 ".%n", &layer, &end) != 1 ||
        end == 0 || layer < 0 || layer >= config->layers)
        return false;
    const char *const modules[] = {names->attention_norm, names->mlp_norm, names->router, names->shared_gate};
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        if (modules[i] && is_of_module(name + length + end, modules[i])) return true;
    if (names->activation_scales && strcmp(name + length + end, names->activation_scales) == 0) return true;
    for (int linear = 0; linear < block_linears(config); linear++) {
        char own[TENSOR_NAME_SIZE];
        if (!block_has_linear(config, linear)) continue;
        block_linear_name(config, layer, linear, own);
        if (is_of_module(name, own)) return true;
    }
    return false;
}

bool output_other_tensors(awq_checkpoint_writer *writer, const awq_checkpoint *source,
                          const struct model_config *config, uint64_t *bytes)
{
    for (int64_t i = 0; i < awq_checkpoint_count(source); i++) {
        const char *name = awq_checkpoint_name(source, i);
        awq_tensor view;
        if (output_is_of_block(name, config)) continue;
        awq_status status = awq_checkpoint_get(source, name, &view);
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
        if (!add_tensor(writer, name, &view, bytes)) return false;
        awq_checkpoint_release(source, name);
    }
    return true;
}
