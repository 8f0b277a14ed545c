/* How the linears of a checkpoint are quantised. */
#include "quantization.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "section.h"

enum { NAME_SIZE = 512 };

/* ---- the formats */

static const struct quantized_format formats[] = {
    {"gemm", AWQ_LAYOUT_GEMM, METHOD_AWQ, {"qweight", "qzeros", "scales"}, "qzeros"},
    {"gemv", AWQ_LAYOUT_GEMV, METHOD_AWQ, {"qweight", "qzeros", "scales"}, "qzeros"},
    {"gemv_fast", AWQ_LAYOUT_GEMV_FAST, METHOD_AWQ, {"qweight", "qzeros", "scales"}, "qzeros"},
    {"llm-awq", AWQ_LAYOUT_LLM_AWQ, METHOD_AWQ, {"qweight", "scaled_zeros", "scales"}, "scaled_zeros"},
    {"marlin", AWQ_LAYOUT_MARLIN, METHOD_AWQ, {"qweight", "qzeros", "scales"}, "qzeros"},
    {"gptq", AWQ_LAYOUT_GPTQ_V1, METHOD_GPTQ, {"qweight", "qzeros", "scales", "g_idx"}, "qzeros"},
    {"gptq_v2", AWQ_LAYOUT_GPTQ_V2, METHOD_GPTQ, {"qweight", "qzeros", "scales", "g_idx"}, "qzeros"},
    {"compressed-tensors",
     AWQ_LAYOUT_COMPRESSED_TENSORS,
     METHOD_COMPRESSED_TENSORS,
     {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
     "weight_zero_point"},
    {"compressed-tensors-2025",
     AWQ_LAYOUT_COMPRESSED_TENSORS_2025,
     METHOD_COMPRESSED_TENSORS,
     {"weight_packed", "weight_scale", "weight_shape", "weight_zero_point"},
     "weight_zero_point"},
    {"cuda-block",
     AWQ_LAYOUT_CUDA_BLOCK,
     METHOD_LIBAWQ,
     {"qweight", "scales", "qzeros", "header", "input_scale", "salient_columns", "salient_values"},
     "qzeros"},
    {"cpu-stream",
     AWQ_LAYOUT_CPU_STREAM,
     METHOD_LIBAWQ,
     {"stream", "header", "input_scale", "salient_columns", "salient_values"},
     NULL},
};

enum { FORMATS = sizeof formats / sizeof *formats };

const struct quantized_format *format_at(int index)
{
    return index >= 0 && index < FORMATS ? &formats[index] : NULL;
}

const struct quantized_format *format_named(const char *name)
{
    for (int i = 0; i < FORMATS; i++)
        if (strcasecmp(formats[i].name, name) == 0) return &formats[i];
    return NULL;
}

const struct quantized_format *format_of_layout(int32_t layout)
{
    for (int i = 0; i < FORMATS; i++)
        if (formats[i].layout == layout) return &formats[i];
    return NULL;
}

const char *method_name(enum quantization_method method)
{
    static const char *const names[] = {
        [METHOD_AWQ] = "awq",
        [METHOD_GPTQ] = "gptq",
        [METHOD_COMPRESSED_TENSORS] = "compressed-tensors",
        [METHOD_LIBAWQ] = "libawq",
    };
    return names[method];
}

/* ---- reading configurations */

/* Names of formats that have had others: what AutoAWQ and transformers ran "gemm" files with, and underscores. */
static const struct quantized_format *format_spelled(const char *name, enum quantization_method method)
{
    static const char *const others[][2] = {
        {"exllama", "gemm"}, {"ipex", "gemm"}, {"llm_awq", "llm-awq"}, {"gemv-fast", "gemv_fast"}};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (strcasecmp(name, others[i][0]) == 0) name = others[i][1];
    const struct quantized_format *format = format_named(name);
    return format && format->method == method ? format : NULL;
}

static bool read_bits_and_group(const struct section *section, struct quantization *result)
{
    const char *bits_key = section_either(section, "bits", "w_bit");
    const char *group_key = section_either(section, "group_size", "q_group_size");
    int64_t bits;
    if (!section_integer(section, bits_key, -1, 1, 16, &bits) ||
        !section_integer(section, group_key, 128, -1, 1 << 24, &result->group_size))
        return false;
    if (result->group_size == 0) return section_wrong(section, group_key, "is 0");
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return section_wrong(section, bits_key, "is %lld; supported: 2, 3, 4, 8", (long long)bits);
    result->bits = (int32_t)bits;
    return true;
}

/* Files of llm-awq's own have its tensors whatever their version says. */
static bool read_awq(const struct section *section, struct quantization *result)
{
    const char *version, *backend, *key = section_either(section, "version", "format");
    bool zero_point;
    if (section_find(section, "checkpoint_format") && !section_find(section, key)) key = "checkpoint_format";
    if (!section_string(section, key, "gemm", &version) || !section_string(section, "backend", "", &backend) ||
        !read_bits_and_group(section, result) || !section_flag(section, "zero_point", true, &zero_point))
        return false;
    result->format = format_spelled(strcasecmp(backend, "llm-awq") == 0 ? "llm-awq" : version, METHOD_AWQ);
    if (!result->format)
        return section_unsupported(section, key, version, "gemm, gemv, gemv_fast, llm-awq, marlin");
    if (result->bits != 4 && result->bits != 8)
        return section_wrong(section, section_either(section, "bits", "w_bit"), "is %d; supported: 4, 8",
                             (int)result->bits);
    result->symmetric = !zero_point;
    return true;
}

/* Rules of GPTQModel that leave modules out are fine; others change bits or groups from module to module. */
static bool check_dynamic(const struct section *section)
{
    const char *rule;
    json_t *change;
    json_object_foreach((json_t *)section_find(section, "dynamic"), rule, change)
        if (strncmp(rule, "-:", 2) != 0)
            return section_wrong(section, "dynamic", "changes the quantisation of some modules (%.60s), which is not "
                                 "supported", rule);
    return true;
}

static bool read_gptq(const struct section *section, struct quantization *result)
{
    const char *version, *key = section_either(section, "checkpoint_format", "format");
    bool marlin;
    if (!section_string(section, key, "gptq", &version) || !read_bits_and_group(section, result) ||
        !section_flag(section, "sym", false, &result->symmetric) ||
        !section_flag(section, "is_marlin_format", false, &marlin))
        return false;
    result->format = format_spelled(version, METHOD_GPTQ);
    if (marlin) return section_wrong(section, "is_marlin_format", "is true; supported: gptq, gptq_v2");
    if (!result->format) return section_unsupported(section, key, version, "gptq, gptq_v2");
    return check_dynamic(section);
}

/* "weights" of one config group. */
static bool read_compressed_weights(const struct section *section, struct quantization *result)
{
    const char *type, *strategy;
    int64_t bits, group_size = AWQ_GROUP_PER_ROW;
    bool symmetric;
    if (!section_integer(section, "num_bits", -1, 1, 16, &bits) || !section_string(section, "type", "int", &type) ||
        !section_string(section, "strategy", "group", &strategy) ||
        !section_flag(section, "symmetric", true, &symmetric))
        return false;
    bool grouped = strcmp(strategy, "group") == 0;
    if (!grouped && strcmp(strategy, "channel") != 0)
        return section_unsupported(section, "strategy", strategy, "group, channel");
    if (strcmp(type, "int") != 0)
        return section_unsupported(section, "type", type, "int");
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return section_wrong(section, "num_bits", "is %lld; supported: 2, 3, 4, 8", (long long)bits);
    if (grouped && !section_integer(section, "group_size", -1, 1, 1 << 24, &group_size)) return false;
    if (result->bits && (result->bits != bits || result->group_size != group_size || result->symmetric != symmetric))
        return section_wrong(section, "num_bits",
                             "and the like differ from an earlier group's, which is not supported");
    result->bits = (int32_t)bits;
    result->group_size = group_size;
    result->symmetric = symmetric;
    return true;
}

static bool read_compressed_tensors(const struct section *section, struct quantization *result)
{
    const json_t *groups = section_find(section, "config_groups");
    const char *format, *group_name;
    json_t *group;
    if (!section_string(section, "format", "pack-quantized", &format)) return false;
    if (strcmp(format, "pack-quantized") != 0)
        return section_unsupported(section, "format", format, "pack-quantized");
    if (!json_is_object(groups) || json_object_size(groups) == 0)
        return section_wrong(section, "config_groups", "is missing");
    json_object_foreach((json_t *)groups, group_name, group) {
        struct section weights = {section->path, "", json_object_get(group, "weights")};
        snprintf(weights.within, sizeof weights.within, "%.40sconfig_groups.%.30s.weights.", section->within,
                 group_name);
        if (!json_is_object(weights.object))
            return section_wrong(section, "config_groups", "has a group without weights: %.30s", group_name);
        if (json_is_object(json_object_get(group, "input_activations")))
            return section_wrong(section, "config_groups", "quantises activations in %.30s: not supported",
                                 group_name);
        if (!read_compressed_weights(&weights, result)) return false;
    }
    result->format = format_named("compressed-tensors");
    return true;
}

/* The library's own formats, which describe themselves; this tells programs of them before they read a tensor. */
static bool read_libawq(const struct section *section, struct quantization *result)
{
    const char *name;
    bool zero_point;
    if (!section_string(section, "format", "", &name) || !read_bits_and_group(section, result) ||
        !section_flag(section, "zero_point", true, &zero_point))
        return false;
    result->format = format_spelled(name, METHOD_LIBAWQ);
    if (!result->format) return section_unsupported(section, "format", name, "cuda-block, cpu-stream");
    result->symmetric = !zero_point;
    return true;
}

/* Files of their own do not always name the method; only GPTQ's have an order of activations. */
static bool read_method(const struct section *section, bool named, struct quantization *result)
{
    const char *method, *fallback = section_find(section, "desc_act") ? "gptq" : "awq";
    if (!section_string(section, "quant_method", named ? NULL : fallback, &method)) return false;
    if (!method) return section_wrong(section, "quant_method", "is missing");
    if (strcasecmp(method, "awq") == 0) return read_awq(section, result);
    if (strcasecmp(method, "gptq") == 0) return read_gptq(section, result);
    if (strcasecmp(method, "compressed-tensors") == 0) return read_compressed_tensors(section, result);
    if (strcasecmp(method, "libawq") == 0) return read_libawq(section, result);
    return section_unsupported(section, "quant_method", method, "awq, gptq, compressed-tensors, libawq");
}

/* The quantization_config of a text model, alone or within a larger one; false after a message when it is none. */
static bool find_section(const char *path, const json_t *config, struct section *result)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    const json_t *inner = json_object_get(config, "text_config");
    *result = (struct section){.path = path};
    for (size_t i = 0; i < 4 && !result->object; i++) {
        struct section outer = {path, "", i < 2 ? config : inner};
        const char *key = keys[i % 2];
        result->object = section_find(&outer, key);
        snprintf(result->within, sizeof result->within, "%s%s.", i < 2 ? "" : "text_config.", key);
        if (result->object && !json_is_object(result->object)) return section_wrong(&outer, key, "is not an object");
    }
    return true;
}

/* Checkpoints of the early days describe the quantisation in a file of its own. */
static bool read_side_files(const char *directory, struct quantization *result)
{
    static const char *const files[] = {"quant_config.json", "quantize_config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[SECTION_PATH_SIZE];
        json_t *json = section_load(directory, files[i], true, path);
        struct section section = {path, "", json};
        if (!json) continue;
        bool ok = read_method(&section, false, result);
        json_decref(json);
        return ok;
    }
    return true;
}

bool quantization_load(const char *directory, const char *path, const json_t *config, struct quantization *quantization)
{
    struct quantization result = {0};
    struct section section;
    bool ok = find_section(path, config, &section) &&
              (section.object ? read_method(&section, true, &result) : read_side_files(directory, &result));
    *quantization = ok ? result : (struct quantization){0};
    return ok;
}

/* ---- writing configurations */

static bool skips_head(const json_t *skipped)
{
    size_t index;
    const json_t *name;
    json_array_foreach(skipped, index, name)
        if (strcmp(json_string_value(name), "lm_head") == 0) return true;
    return false;
}

/* AWQ's files always have zero points, those in the middle for symmetric weights, and readers want them announced;
 * Marlin's have none for symmetric ones.  Without a list, readers leave lm_head alone. */
static json_t *awq_json(const struct quantization *quantization, const json_t *skipped)
{
    bool zeros = !quantization->symmetric || quantization->format->layout != AWQ_LAYOUT_MARLIN;
    bool only_head = json_array_size(skipped) == 1 && skips_head(skipped);
    json_t *json = json_pack("{s:s, s:s, s:i, s:I, s:b, s:O?}", "quant_method", "awq", "version",
                             quantization->format->name, "bits", (int)quantization->bits, "group_size",
                             (json_int_t)quantization->group_size, "zero_point", zeros, "modules_to_not_convert",
                             only_head ? NULL : skipped);
    if (!skips_head(skipped)) json_object_set_new(json, "lm_head", json_true());
    return json;
}

/* GPTQModel's rule that leaves one module out: its name as a regular expression. */
static void add_rule(json_t *dynamic, const char *module)
{
    char rule[2 * NAME_SIZE + 8];
    size_t length = (size_t)snprintf(rule, sizeof rule, "-:^");
    for (; *module && length < sizeof rule - 4; module++) {
        if (*module == '.') rule[length++] = '\\';
        rule[length++] = *module;
    }
    rule[length++] = '$';
    rule[length] = 0;
    json_object_set_new(dynamic, rule, json_object());
}

static json_t *gptq_json(const struct quantization *quantization, const json_t *skipped)
{
    size_t index;
    const json_t *name;
    json_t *dynamic = json_object();
    json_array_foreach(skipped, index, name)
        if (strcmp(json_string_value(name), "lm_head") != 0) add_rule(dynamic, json_string_value(name));
    json_t *json = json_pack("{s:s, s:s, s:i, s:I, s:b, s:b, s:b, s:s}", "quant_method", "gptq", "checkpoint_format",
                             quantization->format->name, "bits", (int)quantization->bits, "group_size",
                             (json_int_t)quantization->group_size, "desc_act", 0, "sym", quantization->symmetric,
                             "lm_head", !skips_head(skipped), "pack_dtype", "int32");
    if (json_object_size(dynamic) > 0) json_object_set(json, "dynamic", dynamic);
    json_decref(dynamic);
    return json;
}

static json_t *compressed_tensors_json(const struct quantization *quantization, const json_t *skipped)
{
    bool per_row = quantization->group_size == AWQ_GROUP_PER_ROW;
    json_t *size = per_row ? json_null() : json_integer(quantization->group_size);
    json_t *weights = json_pack("{s:i, s:s, s:b, s:s, s:o, s:b}", "num_bits", (int)quantization->bits, "type", "int",
                                "symmetric", quantization->symmetric, "strategy", per_row ? "channel" : "group",
                                "group_size", size, "dynamic", 0);
    return json_pack("{s:s, s:s, s:s, s:{s:{s:[s], s:o, s:n, s:n, s:s}}, s:O}", "quant_method", "compressed-tensors",
                     "format", "pack-quantized", "quantization_status", "compressed", "config_groups", "group_0",
                     "targets", "Linear", "weights", weights, "input_activations", "output_activations", "format",
                     "pack-quantized", "ignore", skipped);
}

static json_t *libawq_json(const struct quantization *quantization, const json_t *skipped)
{
    return json_pack("{s:s, s:s, s:i, s:I, s:b, s:O}", "quant_method", "libawq", "format", quantization->format->name,
                     "bits", (int)quantization->bits, "group_size", (json_int_t)quantization->group_size, "zero_point",
                     !quantization->symmetric, "modules_to_not_convert", skipped);
}

json_t *quantization_json(const struct quantization *quantization, const json_t *skipped)
{
    switch (quantization->format->method) {
    case METHOD_AWQ: return awq_json(quantization, skipped);
    case METHOD_GPTQ: return gptq_json(quantization, skipped);
    case METHOD_LIBAWQ: return libawq_json(quantization, skipped);
    default: return compressed_tensors_json(quantization, skipped);
    }
}
