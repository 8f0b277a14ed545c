/* Reading config.json: the shape of a decoder model, and how its linears are quantised. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "section.h"

/* ---- the architecture */

/* By model_type, with the class in "architectures" where it is given, which alone decides without a model_type. */
static bool read_architecture(const struct section *section, struct model_config *config)
{
    const char *type, *class_name = json_string_value(json_array_get(section_find(section, "architectures"), 0));
    if (!section_string(section, "model_type", NULL, &type)) return false;
    if (!type && !class_name) return section_wrong(section, "model_type", "is missing");
    config->architecture = type ? architecture_of_type(type) : architecture_of_class(class_name);
    if (!config->architecture)
        return section_unsupported(section, type ? "model_type" : "architectures", type ? type : class_name,
                                   architecture_names());
    const char *expected = config->architecture->class_name;
    if (class_name && strcmp(class_name, expected) != 0)
        return section_unsupported(section, "architectures", class_name, expected);
    return true;
}

static bool read_shape(const struct section *section, struct model_config *config)
{
    const struct architecture *architecture = config->architecture;
    if (!section_integer(section, "num_hidden_layers", -1, 1, 4096, &config->layers) ||
        !section_integer(section, "hidden_size", -1, 1, 1 << 20, &config->hidden) ||
        !section_integer(section, architecture->intermediate_key, -1, 1, 1 << 22, &config->intermediate) ||
        !section_integer(section, "num_attention_heads", -1, 1, 4096, &config->heads) ||
        !section_integer(section, "num_key_value_heads", architecture->may_omit_shared ? config->heads : -1, 1, 4096,
                         &config->kv_heads) ||
        !section_integer(section, "vocab_size", -1, 1, 1 << 24, &config->vocabulary) ||
        !section_integer(section, "max_position_embeddings", -1, 1, 1 << 24, &config->context))
        return false;
    if (config->heads % config->kv_heads)
        return section_wrong(section, "num_attention_heads", "is %lld, not a multiple of num_key_value_heads, %lld",
                             (long long)config->heads, (long long)config->kv_heads);
    if (!section_find(section, "head_dim") && !architecture->head_dim && config->hidden % config->heads)
        return section_wrong(section, "hidden_size",
                             "is %lld, not a multiple of num_attention_heads, %lld, without a head_dim",
                             (long long)config->hidden, (long long)config->heads);
    int64_t standard = architecture->head_dim ? architecture->head_dim : config->hidden / config->heads;
    if (!section_integer(section, "head_dim", standard, 2, MAX_HEAD_DIM, &config->head_dim)) return false;
    if (config->head_dim % 2 || config->head_dim < 2 || config->head_dim > MAX_HEAD_DIM)
        return section_wrong(section, "head_dim", "is %lld, but rotary embedding needs an even number up to %d",
                             (long long)config->head_dim, MAX_HEAD_DIM);
    return true;
}

static bool read_biases(const struct section *section, struct model_config *config)
{
    const struct architecture *architecture = config->architecture;
    bool attention, mlp;
    if (architecture->all_biases_key) {
        if (!section_flag(section, architecture->all_biases_key, true, &attention)) return false;
        mlp = attention;
    } else if (!section_flag(section, "attention_bias", false, &attention) ||
               !section_flag(section, "mlp_bias", false, &mlp)) {
        return false;
    }
    config->qkv_bias = attention || architecture->qkv_bias;
    config->output_bias = attention;
    config->mlp_bias = mlp;
    return true;
}

static bool read_activation(const struct section *section, struct model_config *config)
{
    static const struct {
        const char *name;
        enum activation activation;
    } activations[] = {
        {"silu", ACTIVATION_SILU},          {"gelu", ACTIVATION_GELU}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH},
        {"gelu_new", ACTIVATION_GELU_TANH}, {"relu", ACTIVATION_RELU},
    };
    const char *key = config->architecture->activation_key, *name;
    if (!section_string(section, key, config->architecture->activation, &name)) return false;
    for (size_t i = 0; i < sizeof activations / sizeof *activations; i++) {
        if (strcmp(name, activations[i].name) != 0) continue;
        config->activation = activations[i].activation;
        return true;
    }
    return section_unsupported(section, key, name, "silu, gelu, gelu_pytorch_tanh, gelu_new, relu");
}

static bool read_experts(const struct section *section, struct model_config *config)
{
    const struct architecture *architecture = config->architecture;
    int64_t step;
    if (!architecture->experts) return true;
    if (!section_integer(section, architecture->experts_key, -1, 1, 1024, &config->experts) ||
        !section_integer(section, "num_experts_per_tok", architecture->experts_per_token, 1, 1024,
                         &config->experts_per_token) ||
        !section_flag(section, "norm_topk_prob", architecture->normalizes_experts, &config->normalizes_experts) ||
        !section_integer(section, "decoder_sparse_step", 1, 1, 4096, &step))
        return false;
    if (architecture->shared_expert &&
        !section_integer(section, "shared_expert_intermediate_size", -1, 1, 1 << 22, &config->shared_intermediate))
        return false;
    if (config->experts_per_token > config->experts)
        return section_wrong(section, "num_experts_per_tok", "is %lld, more than there are experts, %lld",
                             (long long)config->experts_per_token, (long long)config->experts);
    if (step != 1)
        return section_wrong(section, "decoder_sparse_step", "is %lld; supported: 1, experts in every layer",
                             (long long)step);
    return json_array_size(section_find(section, "mlp_only_layers")) == 0 ||
           section_wrong(section, "mlp_only_layers", "is not empty; supported: experts in every layer");
}

/* What a few models of an architecture have, and none that runs here. */
static bool refuse_variants(const struct section *section, const struct model_config *config)
{
    static const struct {
        const char *key;
        bool served;
    } flags[] = {{"do_layer_norm_before", true}, {"layer_norm_elementwise_affine", true},
                 {"_remove_final_layer_norm", false}};
    int64_t embedding;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool value;
        if (!section_flag(section, flags[i].key, flags[i].served, &value)) return false;
        if (value != flags[i].served)
            return section_wrong(section, flags[i].key, "is %s; supported: %s", value ? "true" : "false",
                                 flags[i].served ? "true" : "false");
    }
    if (!section_integer(section, "word_embed_proj_dim", config->hidden, 1, 1 << 20, &embedding)) return false;
    return embedding == config->hidden ||
           section_wrong(section, "word_embed_proj_dim", "is %lld; supported: hidden_size, %lld", (long long)embedding,
                         (long long)config->hidden);
}

/* x in the precision of a dtype. */
static double round_to(double x, int32_t dtype)
{
    const int bits = dtype == AWQ_BF16 ? 8 : dtype == AWQ_F16 ? 11 : 24;
    int exponent;
    double mantissa = frexp(x, &exponent);
    return ldexp(rint(ldexp(mantissa, bits)), exponent - bits);
}

static bool read_options(const struct section *section, struct model_config *config)
{
    const struct architecture *architecture = config->architecture;
    const char *dtype;
    if (!section_string(section, section_either(section, "torch_dtype", "dtype"), "", &dtype) ||
        !read_biases(section, config) || !read_activation(section, config) || !read_experts(section, config) ||
        !refuse_variants(section, config) ||
        !section_flag(section, "tie_word_embeddings", architecture->tied_head, &config->tied_head))
        return false;
    config->norm_epsilon = 1e-5;
    if (architecture->epsilon_key && !section_positive(section, architecture->epsilon_key, 1e-6, &config->norm_epsilon))
        return false;
    if (strcmp(dtype, "float16") == 0) config->dtype = AWQ_F16;
    if (strcmp(dtype, "bfloat16") == 0) config->dtype = AWQ_BF16;
    if (strcmp(dtype, "float32") == 0) config->dtype = AWQ_F32;
    /* Rounded, as Hugging Face's code does to the type that it computes in. */
    config->embedding_scale =
        architecture->scales_embedding ? round_to(sqrt((double)config->hidden), config->dtype) : 1;
    return true;
}

/* ---- positions */

static bool read_rope_scaling(const struct section *section, struct model_config *config)
{
    const char *type, *key = section_either(section, "rope_type", "type");
    if (!section_string(section, key, "default", &type)) return false;
    if (strcmp(type, "default") == 0) return true;
    if (strcmp(type, "linear") == 0) {
        config->rope_type = ROPE_LINEAR;
        return section_positive(section, "factor", -1, &config->rope_factor);
    }
    if (strcmp(type, "llama3") != 0)
        return section_unsupported(section, key, type, "default, linear, llama3");
    config->rope_type = ROPE_LLAMA3;
    if (!section_positive(section, "factor", -1, &config->rope_factor) ||
        !section_positive(section, "low_freq_factor", -1, &config->rope_low_frequency_factor) ||
        !section_positive(section, "high_freq_factor", -1, &config->rope_high_frequency_factor) ||
        !section_positive(section, "original_max_position_embeddings", -1, &config->rope_original_context))
        return false;
    if (config->rope_high_frequency_factor <= config->rope_low_frequency_factor)
        return section_wrong(section, "high_freq_factor", "is %g, not above low_freq_factor, %g",
                             config->rope_high_frequency_factor, config->rope_low_frequency_factor);
    return true;
}

/* "rope_theta" and "rope_scaling", or both in "rope_parameters" as newer files have them. */
static bool read_rope(const struct section *section, struct model_config *config)
{
    const char *key = section_either(section, "rope_scaling", "rope_parameters");
    const json_t *scaling = section_find(section, key);
    double partial;
    if (!section_positive(section, "rope_theta", 10000, &config->rope_theta) ||
        !section_positive(section, "partial_rotary_factor", 1, &partial))
        return false;
    if (partial != 1) return section_wrong(section, "partial_rotary_factor", "is %g; supported: 1", partial);
    if (!scaling) return true;
    if (!json_is_object(scaling)) return section_wrong(section, key, "is not an object");
    struct section inner = {section->path, "", scaling};
    snprintf(inner.within, sizeof inner.within, "%s.", key);
    return section_positive(&inner, "rope_theta", config->rope_theta, &config->rope_theta) &&
           read_rope_scaling(&inner, config);
}

/* "layer_types", where given, must say the same as the other options. */
static bool read_window(const struct section *section, struct model_config *config)
{
    bool use = config->architecture->window == WINDOW_ALL_LAYERS;
    const json_t *types = section_find(section, "layer_types");
    if (config->architecture->window == WINDOW_NONE) return true;
    if (!use) {
        if (!section_flag(section, "use_sliding_window", false, &use)) return false;
        if (use && !section_integer(section, "max_window_layers", -1, 0, 4096, &config->first_windowed_layer))
            return false;
    }
    if (use && !section_integer(section, "sliding_window", 0, 1, 1 << 24, &config->sliding_window)) return false;
    for (int64_t layer = 0; types && layer < config->layers; layer++) {
        bool windowed = config->sliding_window && layer >= config->first_windowed_layer;
        const char *expected = windowed ? "sliding_attention" : "full_attention";
        const char *type = json_string_value(json_array_get(types, (size_t)layer));
        if (!type || strcmp(type, expected) != 0)
            return section_wrong(section, "layer_types",
                                 "says %.40s for layer %lld where the window options say %s; other mixtures are not "
                                 "supported",
                                 type ? type : "nothing", (long long)layer, expected);
    }
    return true;
}

bool model_config_load(const char *directory, struct model_config *config)
{
    struct model_config result = {0};
    char path[SECTION_PATH_SIZE];
    result.json = section_load(directory, "config.json", false, path);
    struct section section = {path, "", result.json};
    bool ok = result.json && read_architecture(&section, &result) && read_shape(&section, &result) &&
              read_options(&section, &result) && read_rope(&section, &result) && read_window(&section, &result) &&
              quantization_load(directory, path, result.json, &result.quantization);
    if (!ok) model_config_clear(&result);
    *config = result;
    return ok;
}

void model_config_clear(struct model_config *config)
{
    json_decref(config->json);
    memset(config, 0, sizeof *config);
}
