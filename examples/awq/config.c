/* Reading config.json: the shape of a decoder model, and how its linears are quantised. */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cli.h"
#include "model.h"

static const struct {
    const char *model_type, *class_name;
} architectures[] = {
    [ARCHITECTURE_LLAMA] = {"llama", "LlamaForCausalLM"},
    [ARCHITECTURE_MISTRAL] = {"mistral", "MistralForCausalLM"},
    [ARCHITECTURE_QWEN2] = {"qwen2", "Qwen2ForCausalLM"},
    [ARCHITECTURE_QWEN3] = {"qwen3", "Qwen3ForCausalLM"},
};

enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* An object of a JSON file, and what to put before its keys in messages: "DIR/config.json: rope_scaling.factor". */
struct section {
    const char *path;
    char within[96];
    const json_t *object;
};

/* "DIR/config.json: rope_scaling.factor is missing": says what of a key is wrong; returns false. */
static bool wrong(const struct section *section, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static bool wrong(const struct section *section, const char *key, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cli_error("%s: %s%s %s", section->path, section->within, key, text);
}

static bool unsupported(const struct section *section, const char *key, const char *value, const char *supported)
{
    return wrong(section, key, "'%.60s' is not supported; supported: %s", value, supported);
}

/* ---- single values: absent and null count as the fallback, anything of another type or range is an error */

static const json_t *find(const struct section *section, const char *key)
{
    const json_t *value = json_object_get(section->object, key);
    return json_is_null(value) ? NULL : value;
}

/* A whole number in [minimum, maximum]; a negative fallback means that the key is required. */
static bool get_integer(const struct section *section, const char *key, int64_t fallback, int64_t minimum,
                        int64_t maximum, int64_t *result)
{
    const json_t *value = find(section, key);
    if (!value && fallback < 0) return wrong(section, key, "is missing");
    *result = value ? (int64_t)json_integer_value(value) : fallback;
    if (value && !json_is_integer(value)) return wrong(section, key, "is not a whole number");
    if (value && (*result < minimum || *result > maximum))
        return wrong(section, key, "is %lld, outside %lld to %lld", (long long)*result, (long long)minimum,
                     (long long)maximum);
    return true;
}

/* A positive finite number; a negative fallback means that the key is required. */
static bool get_positive(const struct section *section, const char *key, double fallback, double *result)
{
    const json_t *value = find(section, key);
    if (!value && fallback < 0) return wrong(section, key, "is missing");
    *result = value ? json_number_value(value) : fallback;
    if (value && !json_is_number(value)) return wrong(section, key, "is not a number");
    if (!(*result > 0) || !isfinite(*result))
        return wrong(section, key, "is %g, but must be positive", *result);
    return true;
}

static bool get_flag(const struct section *section, const char *key, bool fallback, bool *result)
{
    const json_t *value = find(section, key);
    *result = value ? json_is_true(value) : fallback;
    if (value && !json_is_boolean(value)) return wrong(section, key, "is neither true nor false");
    return true;
}

/* NULL when absent and there is no fallback. */
static bool get_string(const struct section *section, const char *key, const char *fallback, const char **result)
{
    const json_t *value = find(section, key);
    *result = value ? json_string_value(value) : fallback;
    if (value && !*result) return wrong(section, key, "is not a string");
    return true;
}

/* The first key of a pair that is there; where none is, the first. */
static const char *either(const struct section *section, const char *first, const char *second)
{
    return !find(section, first) && find(section, second) ? second : first;
}

/* ---- the architecture */

/* By model_type, with the class in "architectures" where it is given, which alone decides without a model_type. */
static bool read_architecture(const struct section *section, struct model_config *config)
{
    const char *type, *class_name = json_string_value(json_array_get(find(section, "architectures"), 0));
    const char *supported = "llama, mistral, qwen2 and qwen3 for causal language modelling";
    int found = ARCHITECTURES;
    if (!get_string(section, "model_type", NULL, &type)) return false;
    if (!type && !class_name) return wrong(section, "model_type", "is missing");
    for (int i = 0; i < ARCHITECTURES; i++)
        if (strcmp(type ? type : class_name, type ? architectures[i].model_type : architectures[i].class_name) == 0)
            found = i;
    if (found == ARCHITECTURES)
        return unsupported(section, type ? "model_type" : "architectures", type ? type : class_name, supported);
    if (class_name && strcmp(class_name, architectures[found].class_name) != 0)
        return unsupported(section, "architectures", class_name, supported);
    config->architecture = (enum architecture)found;
    config->model_type = architectures[found].model_type;
    return true;
}

static bool read_shape(const struct section *section, struct model_config *config)
{
    bool qwen3 = config->architecture == ARCHITECTURE_QWEN3, llama = config->architecture == ARCHITECTURE_LLAMA;
    if (!get_integer(section, "num_hidden_layers", -1, 1, 4096, &config->layers) ||
        !get_integer(section, "hidden_size", -1, 1, 1 << 20, &config->hidden) ||
        !get_integer(section, "intermediate_size", -1, 1, 1 << 22, &config->intermediate) ||
        !get_integer(section, "num_attention_heads", -1, 1, 4096, &config->heads) ||
        !get_integer(section, "num_key_value_heads", llama ? config->heads : -1, 1, 4096, &config->kv_heads) ||
        !get_integer(section, "vocab_size", -1, 1, 1 << 24, &config->vocabulary) ||
        !get_integer(section, "max_position_embeddings", -1, 1, 1 << 24, &config->context))
        return false;
    if (config->heads % config->kv_heads)
        return wrong(section, "num_attention_heads", "is %lld, not a multiple of num_key_value_heads, %lld",
                     (long long)config->heads, (long long)config->kv_heads);
    if (!find(section, "head_dim") && !qwen3 && config->hidden % config->heads)
        return wrong(section, "hidden_size", "is %lld, not a multiple of num_attention_heads, %lld, without a head_dim",
                     (long long)config->hidden, (long long)config->heads);
    int64_t standard = qwen3 ? 128 : config->hidden / config->heads;
    if (!get_integer(section, "head_dim", standard, 2, MAX_HEAD_DIM, &config->head_dim)) return false;
    if (config->head_dim % 2 || config->head_dim < 2 || config->head_dim > MAX_HEAD_DIM)
        return wrong(section, "head_dim", "is %lld, but rotary embedding needs an even number up to %d",
                     (long long)config->head_dim, MAX_HEAD_DIM);
    return true;
}

static bool read_options(const struct section *section, struct model_config *config)
{
    const char *activation, *dtype;
    bool attention_bias = false;
    if (!get_string(section, "hidden_act", "silu", &activation) ||
        !get_string(section, either(section, "torch_dtype", "dtype"), "", &dtype) ||
        !get_positive(section, "rms_norm_eps", 1e-6, &config->norm_epsilon) ||
        !get_flag(section, "attention_bias", false, &attention_bias) ||
        !get_flag(section, "mlp_bias", false, &config->mlp_bias) ||
        !get_flag(section, "tie_word_embeddings", false, &config->tied_head))
        return false;
    if (strcmp(activation, "silu") != 0)
        return unsupported(section, "hidden_act", activation, "silu");
    config->qkv_bias = attention_bias || config->architecture == ARCHITECTURE_QWEN2;
    config->output_bias = attention_bias;
    config->qk_norm = config->architecture == ARCHITECTURE_QWEN3;
    if (strcmp(dtype, "float16") == 0) config->dtype = AWQ_F16;
    if (strcmp(dtype, "bfloat16") == 0) config->dtype = AWQ_BF16;
    if (strcmp(dtype, "float32") == 0) config->dtype = AWQ_F32;
    return true;
}

/* ---- positions */

static bool read_rope_scaling(const struct section *section, struct model_config *config)
{
    const char *type, *key = either(section, "rope_type", "type");
    if (!get_string(section, key, "default", &type)) return false;
    if (strcmp(type, "default") == 0) return true;
    if (strcmp(type, "linear") == 0) {
        config->rope_type = ROPE_LINEAR;
        return get_positive(section, "factor", -1, &config->rope_factor);
    }
    if (strcmp(type, "llama3") != 0)
        return unsupported(section, key, type, "default, linear, llama3");
    config->rope_type = ROPE_LLAMA3;
    if (!get_positive(section, "factor", -1, &config->rope_factor) ||
        !get_positive(section, "low_freq_factor", -1, &config->rope_low_frequency_factor) ||
        !get_positive(section, "high_freq_factor", -1, &config->rope_high_frequency_factor) ||
        !get_positive(section, "original_max_position_embeddings", -1, &config->rope_original_context))
        return false;
    if (config->rope_high_frequency_factor <= config->rope_low_frequency_factor)
        return wrong(section, "high_freq_factor", "is %g, not above low_freq_factor, %g",
                     config->rope_high_frequency_factor, config->rope_low_frequency_factor);
    return true;
}

/* "rope_theta" and "rope_scaling", or both in "rope_parameters" as newer files have them. */
static bool read_rope(const struct section *section, struct model_config *config)
{
    const char *key = either(section, "rope_scaling", "rope_parameters");
    const json_t *scaling = find(section, key);
    double partial;
    if (!get_positive(section, "rope_theta", 10000, &config->rope_theta) ||
        !get_positive(section, "partial_rotary_factor", 1, &partial))
        return false;
    if (partial != 1) return wrong(section, "partial_rotary_factor", "is %g; supported: 1", partial);
    if (!scaling) return true;
    if (!json_is_object(scaling)) return wrong(section, key, "is not an object");
    struct section inner = {section->path, "", scaling};
    snprintf(inner.within, sizeof inner.within, "%s.", key);
    return get_positive(&inner, "rope_theta", config->rope_theta, &config->rope_theta) &&
           read_rope_scaling(&inner, config);
}

/* Mistral windows every layer, Qwen the later ones and only when told to.  "layer_types", where given, must say
 * the same. */
static bool read_window(const struct section *section, struct model_config *config)
{
    bool use = config->architecture == ARCHITECTURE_MISTRAL;
    const json_t *types = find(section, "layer_types");
    if (config->architecture == ARCHITECTURE_LLAMA) return true;
    if (!use) {
        if (!get_flag(section, "use_sliding_window", false, &use)) return false;
        if (use && !get_integer(section, "max_window_layers", -1, 0, 4096, &config->first_windowed_layer)) return false;
    }
    if (use && !get_integer(section, "sliding_window", 0, 1, 1 << 24, &config->sliding_window)) return false;
    for (int64_t layer = 0; types && layer < config->layers; layer++) {
        bool windowed = config->sliding_window && layer >= config->first_windowed_layer;
        const char *expected = windowed ? "sliding_attention" : "full_attention";
        const char *type = json_string_value(json_array_get(types, (size_t)layer));
        if (!type || strcmp(type, expected) != 0)
            return wrong(section, "layer_types", "says %.40s for layer %lld where the window options say %s; other "
                         "mixtures are not supported", type ? type : "nothing", (long long)layer, expected);
    }
    return true;
}

/* ---- quantisation */

static bool read_awq(const struct section *section, struct model_config *config)
{
    const char *version, *key = either(section, "version", "format");
    const char *bits_key = either(section, "bits", "w_bit"), *group_key = either(section, "group_size", "q_group_size");
    int64_t bits;
    bool zero_point;
    if (!get_string(section, key, "gemm", &version) || !get_integer(section, bits_key, -1, 1, 16, &bits) ||
        !get_integer(section, group_key, 128, -1, 1 << 24, &config->group_size) ||
        !get_flag(section, "zero_point", true, &zero_point))
        return false;
    if (strcasecmp(version, "gemm") != 0)
        return unsupported(section, key, version, "gemm");
    if (bits != 4) return wrong(section, bits_key, "is %lld; supported: 4", (long long)bits);
    if (config->group_size == 0) return wrong(section, group_key, "is 0");
    config->quantization = QUANTIZATION_AWQ;
    config->bits = 4;
    config->symmetric = !zero_point;
    return true;
}

/* "weights" of one config group. */
static bool read_compressed_weights(const struct section *section, struct model_config *config)
{
    const char *type, *strategy;
    int64_t bits, group_size;
    bool symmetric;
    if (!get_integer(section, "num_bits", -1, 1, 16, &bits) || !get_string(section, "type", "int", &type) ||
        !get_string(section, "strategy", "group", &strategy) || !get_flag(section, "symmetric", true, &symmetric))
        return false;
    bool grouped = strcmp(strategy, "group") == 0;
    if (!grouped && strcmp(strategy, "channel") != 0)
        return unsupported(section, "strategy", strategy, "group, channel");
    if (strcmp(type, "int") != 0)
        return unsupported(section, "type", type, "int");
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8)
        return wrong(section, "num_bits", "is %lld; supported: 2, 3, 4, 8", (long long)bits);
    group_size = AWQ_GROUP_PER_ROW;
    if (grouped && !get_integer(section, "group_size", -1, 1, 1 << 24, &group_size)) return false;
    if (config->bits && (config->bits != bits || config->group_size != group_size || config->symmetric != symmetric))
        return wrong(section, "num_bits", "and the like differ from an earlier group's, which is not supported");
    config->bits = (int32_t)bits;
    config->group_size = group_size;
    config->symmetric = symmetric;
    return true;
}

static bool read_compressed_tensors(const struct section *section, struct model_config *config)
{
    const json_t *groups = find(section, "config_groups");
    const char *format, *group_name;
    json_t *group;
    if (!get_string(section, "format", "pack-quantized", &format)) return false;
    if (strcmp(format, "pack-quantized") != 0)
        return unsupported(section, "format", format, "pack-quantized");
    if (!json_is_object(groups) || json_object_size(groups) == 0) return wrong(section, "config_groups", "is missing");
    json_object_foreach((json_t *)groups, group_name, group) {
        struct section weights = {section->path, "", json_object_get(group, "weights")};
        snprintf(weights.within, sizeof weights.within, "%.24sconfig_groups.%.30s.weights.", section->within,
                 group_name);
        if (!json_is_object(weights.object))
            return wrong(section, "config_groups", "has a group without weights: %.30s", group_name);
        if (json_is_object(json_object_get(group, "input_activations")))
            return wrong(section, "config_groups", "quantises activations in %.30s: not supported", group_name);
        if (!read_compressed_weights(&weights, config)) return false;
    }
    config->quantization = QUANTIZATION_COMPRESSED_TENSORS;
    return true;
}

static bool read_quantization(const struct section *section, struct model_config *config)
{
    const json_t *quantization = find(section, "quantization_config");
    const char *method;
    if (!quantization) return true;
    if (!json_is_object(quantization)) return wrong(section, "quantization_config", "is not an object");
    struct section inner = {section->path, "quantization_config.", quantization};
    if (!get_string(&inner, "quant_method", NULL, &method)) return false;
    if (!method) return wrong(&inner, "quant_method", "is missing");
    if (strcmp(method, "awq") == 0) return read_awq(&inner, config);
    if (strcmp(method, "compressed-tensors") == 0) return read_compressed_tensors(&inner, config);
    return unsupported(&inner, "quant_method", method, "awq, compressed-tensors");
}

/* ---- files */

/* DIRECTORY/file; NULL without a message when 'optional' and there is no such file. */
static json_t *load_object(const char *directory, const char *file, bool optional, char path[4096])
{
    json_error_t error;
    if (snprintf(path, 4096, "%s/%s", directory, file) >= 4096) {
        cli_error("%s: the path is too long", directory);
        return NULL;
    }
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        if (!optional || errno != ENOENT) cli_error("%s: %s", path, strerror(errno));
        return NULL;
    }
    json_t *json = json_loadf(stream, 0, &error);
    fclose(stream);
    if (!json) cli_error("%s: line %d: %s", path, error.line, error.text);
    if (json && !json_is_object(json)) {
        cli_error("%s: not a JSON object", path);
        json_decref(json);
        json = NULL;
    }
    return json;
}

/* Checkpoints of llm-awq's and AutoAWQ's early days describe the quantisation in a file of its own. */
static bool read_side_file(const char *directory, struct model_config *config)
{
    char path[4096];
    if (config->quantization != QUANTIZATION_NONE) return true;
    json_t *json = load_object(directory, "quant_config.json", true, path);
    struct section section = {path, "", json};
    bool ok = !json || read_awq(&section, config);
    json_decref(json);
    return ok;
}

bool model_config_load(const char *directory, struct model_config *config)
{
    struct model_config result = {0};
    char path[4096];
    result.json = load_object(directory, "config.json", false, path);
    struct section section = {path, "", result.json};
    bool ok = result.json && read_architecture(&section, &result) && read_shape(&section, &result) &&
              read_options(&section, &result) && read_rope(&section, &result) && read_window(&section, &result) &&
              read_quantization(&section, &result) && read_side_file(directory, &result);
    if (!ok) model_config_clear(&result);
    *config = result;
    return ok;
}

void model_config_clear(struct model_config *config)
{
    json_decref(config->json);
    memset(config, 0, sizeof *config);
}
