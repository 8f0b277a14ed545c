/* Reading config.json: what is understood, and what is refused by name. */
#include "app.h"
#include "model.h"

static const char base[] =
    "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 64,"
    " \"intermediate_size\": 96, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,"
    " \"num_key_value_heads\": 2, \"vocab_size\": 100, \"max_position_embeddings\": 128}";

/* The base with the keys of 'changes' set, and those that are null there removed. */
static void write_config(const char *changes)
{
    json_t *config = json_loads(base, 0, NULL), *given = json_loads(changes, 0, NULL), *value;
    const char *key;
    assert_non_null(config);
    assert_non_null(given);
    json_object_update(config, given);
    json_object_foreach(given, key, value)
        if (json_is_null(value)) json_object_del(config, key);
    assert_int_equal(json_dump_file(config, app_path("config.json"), 0), 0);
    json_decref(config);
    json_decref(given);
}

static void load(const char *changes, struct model_config *config)
{
    write_config(changes);
    assert_true(model_config_load(app_directory, config));
}

static void refuse(const char *changes, const char *message)
{
    struct model_config config;
    write_config(changes);
    app_capture();
    bool ok = model_config_load(app_directory, &config);
    const char *text = app_release();
    assert_false(ok);
    assert_null(config.json);
    assert_contains(text, "/config.json: ");
    assert_contains(text, message);
}

static void defaults_are_those_of_hugging_face(void **state)
{
    struct model_config config;
    (void)state;
    load("{\"num_key_value_heads\": null}", &config);
    assert_int_equal(config.architecture, ARCHITECTURE_LLAMA);
    assert_string_equal(config.model_type, "llama");
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.head_dim, 16);
    assert_true(config.norm_epsilon == 1e-6);
    assert_true(config.rope_theta == 10000);
    assert_int_equal(config.rope_type, ROPE_DEFAULT);
    assert_false(config.tied_head || config.qkv_bias || config.output_bias || config.mlp_bias || config.qk_norm);
    assert_int_equal(config.quantization, QUANTIZATION_NONE);
    assert_int_equal(config.dtype, 0);
    model_config_clear(&config);
}

static void architectures_differ(void **state)
{
    struct model_config config;
    (void)state;
    load("{\"model_type\": \"qwen2\", \"architectures\": null, \"sliding_window\": 7}", &config);
    assert_true(config.qkv_bias && !config.output_bias);
    assert_int_equal(config.sliding_window, 0);
    model_config_clear(&config);
    load("{\"model_type\": null, \"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": true}", &config);
    assert_true(config.qk_norm && config.output_bias);
    assert_int_equal(config.head_dim, 128);
    model_config_clear(&config);
    load("{\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 7}", &config);
    assert_int_equal(config.sliding_window, 7);
    assert_int_equal(config.first_windowed_layer, 0);
    model_config_clear(&config);
    load("{\"model_type\": \"qwen2\", \"architectures\": null, \"sliding_window\": 7, \"use_sliding_window\": true,"
         " \"max_window_layers\": 2, \"layer_types\": [\"full_attention\", \"full_attention\", \"sliding_attention\"]}",
         &config);
    assert_int_equal(config.sliding_window, 7);
    assert_int_equal(config.first_windowed_layer, 2);
    model_config_clear(&config);
}

static void rotary_scaling(void **state)
{
    struct model_config config;
    (void)state;
    load("{\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4}}", &config);
    assert_int_equal(config.rope_type, ROPE_LINEAR);
    assert_true(config.rope_factor == 4);
    model_config_clear(&config);
    load("{\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 5e5, \"factor\": 8, \"low_freq_factor\": 1,"
         " \"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}}", &config);
    assert_int_equal(config.rope_type, ROPE_LLAMA3);
    assert_true(config.rope_theta == 5e5 && config.rope_original_context == 64);
    model_config_clear(&config);
    refuse("{\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4}}",
           "rope_scaling.rope_type 'yarn' is not supported; supported: default, linear, llama3");
    refuse("{\"rope_scaling\": {\"rope_type\": \"linear\"}}", "rope_scaling.factor is missing");
    refuse("{\"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 0}}", "rope_scaling.factor is 0");
    refuse("{\"rope_scaling\": 3}", "rope_scaling is not an object");
    refuse("{\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4,"
           " \"original_max_position_embeddings\": 64}}", "high_freq_factor is 4, not above low_freq_factor, 4");
    refuse("{\"partial_rotary_factor\": 0.5}", "partial_rotary_factor is 0.5");
}

static void unknown_models_are_refused_by_name(void **state)
{
    (void)state;
    refuse("{\"model_type\": \"gpt_neox\"}", "model_type 'gpt_neox' is not supported; supported: llama, mistral");
    refuse("{\"model_type\": null, \"architectures\": [\"MambaForCausalLM\"]}", "architectures 'MambaForCausalLM'");
    refuse("{\"architectures\": [\"LlamaForSequenceClassification\"]}", "'LlamaForSequenceClassification'");
    refuse("{\"model_type\": null, \"architectures\": null}", "model_type is missing");
    refuse("{\"hidden_act\": \"gelu\"}", "hidden_act 'gelu' is not supported; supported: silu");
    refuse("{\"model_type\": \"qwen2\", \"architectures\": null, \"layer_types\": [\"full_attention\","
           " \"sliding_attention\", \"full_attention\"]}", "layer_types says sliding_attention for layer 1");
}

static void numbers_are_checked(void **state)
{
    (void)state;
    refuse("{\"hidden_size\": null}", "hidden_size is missing");
    refuse("{\"hidden_size\": 0}", "hidden_size is 0, outside 1 to");
    refuse("{\"hidden_size\": -64}", "hidden_size is -64");
    refuse("{\"hidden_size\": 1e3}", "hidden_size is not a whole number");
    refuse("{\"hidden_size\": \"64\"}", "hidden_size is not a whole number");
    refuse("{\"hidden_size\": 9000000000000000000}", "hidden_size is 9000000000000000000, outside");
    refuse("{\"hidden_size\": 66}", "hidden_size is 66, not a multiple of num_attention_heads, 4");
    refuse("{\"num_key_value_heads\": 3}", "num_attention_heads is 4, not a multiple of num_key_value_heads, 3");
    refuse("{\"hidden_size\": 12}", "head_dim is 3, but rotary embedding needs an even number");
    refuse("{\"head_dim\": 15}", "head_dim is 15");
    refuse("{\"head_dim\": 2048}", "head_dim is 2048, outside");
    refuse("{\"rms_norm_eps\": 0}", "rms_norm_eps is 0");
    refuse("{\"rms_norm_eps\": \"small\"}", "rms_norm_eps is not a number");
    refuse("{\"tie_word_embeddings\": 1}", "tie_word_embeddings is neither true nor false");
    refuse("{\"model_type\": \"mistral\", \"architectures\": null, \"num_key_value_heads\": null}",
           "num_key_value_heads is missing");
    refuse("{\"model_type\": 5}", "model_type is not a string");
}

static void quantisation_is_understood(void **state)
{
    struct model_config config;
    (void)state;
    load("{\"quantization_config\": {\"quant_method\": \"awq\", \"w_bit\": 4, \"q_group_size\": 64,"
         " \"version\": \"GEMM\", \"zero_point\": true}}", &config);
    assert_int_equal(config.quantization, QUANTIZATION_AWQ);
    assert_int_equal(config.bits, 4);
    assert_int_equal(config.group_size, 64);
    assert_false(config.symmetric);
    model_config_clear(&config);
    load("{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\","
         " \"config_groups\": {\"group_0\": {\"weights\": {\"num_bits\": 3, \"strategy\": \"channel\", \"symmetric\":"
         " false}}}}}", &config);
    assert_int_equal(config.quantization, QUANTIZATION_COMPRESSED_TENSORS);
    assert_int_equal(config.bits, 3);
    assert_int_equal(config.group_size, AWQ_GROUP_PER_ROW);
    assert_false(config.symmetric);
    model_config_clear(&config);
    app_write_text("quant_config.json", "{\"w_bit\": 4, \"q_group_size\": 128, \"zero_point\": false}");
    load("{}", &config);
    assert_int_equal(config.quantization, QUANTIZATION_AWQ);
    assert_int_equal(config.group_size, 128);
    assert_true(config.symmetric);
    model_config_clear(&config);
}

#define GROUPS(weights) \
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"a\": {\"weights\": " \
    weights "}}}}"

static void other_quantisation_is_refused_by_name(void **state)
{
    (void)state;
    refuse("{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4}}",
           "quantization_config.quant_method 'gptq' is not supported; supported: awq, compressed-tensors");
    refuse("{\"quantization_config\": {\"bits\": 4}}", "quantization_config.quant_method is missing");
    refuse("{\"quantization_config\": 4}", "quantization_config is not an object");
    refuse("{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"version\": \"gemv\"}}",
           "quantization_config.version 'gemv' is not supported; supported: gemm");
    refuse("{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 3}}", "quantization_config.bits is 3");
    refuse("{\"quantization_config\": {\"quant_method\": \"awq\", \"w_bit\": 4, \"q_group_size\": 0}}",
           "quantization_config.q_group_size is 0");
    refuse("{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"marlin-24\"}}",
           "format 'marlin-24' is not supported");
    refuse("{\"quantization_config\": {\"quant_method\": \"compressed-tensors\"}}", "config_groups is missing");
    refuse(GROUPS("{\"num_bits\": 5}"), "config_groups.a.weights.num_bits is 5; supported: 2, 3, 4, 8");
    refuse(GROUPS("{\"num_bits\": 4, \"type\": \"float\"}"), "type 'float'");
    refuse(GROUPS("{\"num_bits\": 4, \"strategy\": \"block\"}"), "strategy 'block'");
    refuse(GROUPS("{\"num_bits\": 4}"), "config_groups.a.weights.group_size is missing");
    refuse(GROUPS("{\"num_bits\": 4, \"group_size\": 32}}, \"b\": {\"weights\": {\"num_bits\": 4, \"group_size\": 64}"),
           "differ from an earlier group's");
    refuse(GROUPS("{\"num_bits\": 4, \"group_size\": 32}, \"input_activations\": {\"num_bits\": 8}"),
           "quantises activations");
}

static void damaged_files_are_refused(void **state)
{
    struct model_config config;
    (void)state;
    app_capture();
    assert_false(model_config_load(app_directory, &config));
    assert_contains(app_release(), "/config.json: No such file or directory");
    app_write_text("config.json", "{\"model_type\": \"llama\"\n\"hidden_size\": 3}");
    app_capture();
    assert_false(model_config_load(app_directory, &config));
    assert_contains(app_release(), "/config.json: line 2: ");
    app_write_text("config.json", "[1]");
    app_capture();
    assert_false(model_config_load(app_directory, &config));
    assert_contains(app_release(), "not a JSON object");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(defaults_are_those_of_hugging_face, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(architectures_differ, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(rotary_scaling, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(unknown_models_are_refused_by_name, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(numbers_are_checked, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(quantisation_is_understood, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(other_quantisation_is_refused_by_name, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, app_setup, app_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
