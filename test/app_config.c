/* Reading config.json: what is understood, and what is refused by name. */
#include "app.h"
#include "session.h"
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
    assert_string_equal(config.architecture->model_type, "llama");
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.head_dim, 16);
    assert_true(config.norm_epsilon == 1e-6);
    assert_true(config.rope_theta == 10000);
    assert_int_equal(config.rope_type, ROPE_DEFAULT);
    assert_false(config.tied_head || config.qkv_bias || config.output_bias || config.mlp_bias);
    assert_null(config.quantization.format);
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
    assert_true(config.architecture->q_norm && config.output_bias);
    assert_int_equal(config.head_dim, 128);
    model_config_clear(&config);
    load("{\"model_type\": \"mistral\", \"architectures\": [\"MistralForCausalLM\"], \"sliding_window\": 7}", &config);
    assert_int_equal(config.sliding_window, 7);
    assert_int_equal(config.first_windowed_layer, 0);
    model_config_clear(&config);
    load("{\"model_type\": \"phi3\", \"architectures\": null, \"sliding_window\": 7}", &config);
    assert_int_equal(architecture_stored_together(config.architecture, LINEAR_Q), 3);
    assert_int_equal(architecture_stored_together(config.architecture, LINEAR_GATE), 2);
    assert_int_equal(architecture_stored_together(config.architecture, LINEAR_DOWN), 1);
    assert_null(cuda_steps.lacks(&config));
    assert_int_equal(config.sliding_window, 7);
    model_config_clear(&config);
    load("{\"model_type\": \"gemma\", \"architectures\": null, \"hidden_act\": \"gelu\", \"hidden_size\": 3072,"
         " \"torch_dtype\": \"bfloat16\"}", &config);
    assert_int_equal(config.activation, ACTIVATION_GELU_TANH);
    assert_int_equal(config.head_dim, 256);
    assert_true(config.tied_head);
    assert_true(config.embedding_scale == 55.5); /* the root of 3072 is 55.43 */
    assert_string_equal(cuda_steps.lacks(&config), "scaled embeddings");
    model_config_clear(&config);
    load("{\"model_type\": \"mixtral\", \"architectures\": null, \"num_local_experts\": 6}", &config);
    assert_int_equal(config.experts, 6);
    assert_int_equal(config.experts_per_token, 2);
    assert_true(config.normalizes_experts);
    assert_int_equal(block_linears(&config), 4 + 6 * 3);
    assert_string_equal(cuda_steps.lacks(&config), "experts");
    model_config_clear(&config);
    load("{\"model_type\": \"qwen2_moe\", \"architectures\": null, \"num_experts\": 6, \"moe_intermediate_size\": 24,"
         " \"shared_expert_intermediate_size\": 40}", &config);
    assert_int_equal(config.intermediate, 24);
    assert_int_equal(config.experts_per_token, 4);
    assert_false(config.normalizes_experts);
    assert_int_equal(block_mlp_width(&config, 5), 24);
    assert_int_equal(block_mlp_width(&config, 6), 40);
    assert_int_equal(block_linears(&config), 4 + 7 * 3);
    model_config_clear(&config);
    load("{\"model_type\": \"opt\", \"architectures\": null, \"ffn_dim\": 96}", &config);
    assert_int_equal(config.activation, ACTIVATION_RELU);
    assert_int_equal(config.intermediate, 96);
    assert_true(config.qkv_bias && config.output_bias && config.mlp_bias && config.tied_head);
    assert_true(config.norm_epsilon == 1e-5 && config.embedding_scale == 1);
    assert_false(block_has_linear(&config, LINEAR_GATE));
    assert_string_equal(cuda_steps.lacks(&config), "LayerNorm");
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
    refuse("{\"hidden_act\": \"mish\"}", "hidden_act 'mish' is not supported; supported: silu, gelu");
    refuse("{\"model_type\": \"mixtral\", \"architectures\": null}", "num_local_experts is missing");
    refuse("{\"model_type\": \"mixtral\", \"architectures\": null, \"num_local_experts\": 1}",
           "num_experts_per_tok is 2, more than there are experts, 1");
    refuse("{\"model_type\": \"qwen3_moe\", \"architectures\": null, \"num_experts\": 8, \"moe_intermediate_size\": 24,"
           " \"decoder_sparse_step\": 2}", "decoder_sparse_step is 2; supported: 1");
    refuse("{\"model_type\": \"qwen3_moe\", \"architectures\": null, \"num_experts\": 8, \"moe_intermediate_size\": 24,"
           " \"mlp_only_layers\": [0]}", "mlp_only_layers is not empty");
    refuse("{\"model_type\": \"opt\", \"architectures\": null, \"ffn_dim\": 96, \"do_layer_norm_before\": false}",
           "do_layer_norm_before is false; supported: true");
    refuse("{\"model_type\": \"opt\", \"architectures\": null, \"ffn_dim\": 96, \"word_embed_proj_dim\": 32}",
           "word_embed_proj_dim is 32; supported: hidden_size, 64");
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

/* Every spelling of every format, alone and in files of its own. */
static void quantisation_is_understood(void **state)
{
    static const struct {
        const char *json, *format;
        int bits, group_size;
        bool symmetric;
    } cases[] = {
        {"{'quant_method': 'awq', 'bits': 4, 'group_size': 64, 'version': 'gemm'}", "gemm", 4, 64, false},
        {"{'quant_method': 'awq', 'w_bit': 4, 'q_group_size': 64, 'version': 'GEMM', 'zero_point': true}", "gemm", 4,
         64, false},
        {"{'quant_method': 'AWQ', 'bits': 8}", "gemm", 8, 128, false},
        {"{'quant_method': 'awq', 'bits': 4, 'group_size': -1, 'version': 'exllama'}", "gemm", 4, -1, false},
        {"{'quant_method': 'awq', 'bits': 4, 'version': 'GEMV', 'zero_point': false}", "gemv", 4, 128, true},
        {"{'quant_method': 'awq', 'bits': 4, 'version': 'gemv_fast'}", "gemv_fast", 4, 128, false},
        {"{'quant_method': 'awq', 'bits': 4, 'format': 'llm-awq'}", "llm-awq", 4, 128, false},
        {"{'quant_method': 'awq', 'bits': 4, 'version': 'gemv', 'backend': 'llm-awq'}", "llm-awq", 4, 128, false},
        {"{'quant_method': 'awq', 'bits': 4, 'checkpoint_format': 'LLM_AWQ'}", "llm-awq", 4, 128, false},
        {"{'quant_method': 'awq', 'bits': 4, 'version': 'Marlin', 'zero_point': false}", "marlin", 4, 128, true},
        {"{'quant_method': 'gptq', 'bits': 3, 'group_size': 32}", "gptq", 3, 32, false},
        {"{'quant_method': 'gptq', 'bits': 8, 'sym': true, 'format': 'gptq'}", "gptq", 8, 128, true},
        {"{'quant_method': 'gptq', 'bits': 2, 'sym': false, 'desc_act': true, 'checkpoint_format': 'gptq_v2',"
         " 'dynamic': {'-:.*lm_head': {}}}", "gptq_v2", 2, 128, false},
        {"{'quant_method': 'compressed-tensors', 'format': 'pack-quantized', 'config_groups': {'group_0': {'weights':"
         " {'num_bits': 3, 'strategy': 'channel', 'symmetric': false}}}}", "compressed-tensors", 3, -1, false},
        {"{'quant_method': 'libawq', 'format': 'cpu-stream', 'bits': 3, 'group_size': -1, 'zero_point': false}",
         "cpu-stream", 3, -1, true},
        {"{'quant_method': 'libawq', 'format': 'cuda-block', 'bits': 4}", "cuda-block", 4, 128, false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        char json[512], whole[640];
        snprintf(json, sizeof json, "%s", cases[i].json);
        for (char *quote = json; (quote = strchr(quote, '\'')); quote++) *quote = '"';
        for (int place = 0; place < 4; place++) {
            static const char *const files[] = {"quant_config.json", "quantize_config.json"};
            if (place >= 2 && strstr(json, "compressed")) continue;
            snprintf(whole, sizeof whole, place == 0   ? "{\"quantization_config\": %s}"
                                          : place == 1 ? "{\"text_config\": {\"quantization_config\": %s}}"
                                                       : "{}", json);
            if (place >= 2) app_write_text(files[place - 2], json);
            load(whole, &config);
            if (place >= 2) assert_int_equal(unlink(app_path(files[place - 2])), 0);
            assert_non_null(config.quantization.format);
            assert_string_equal(config.quantization.format->name, cases[i].format);
            assert_int_equal(config.quantization.bits, cases[i].bits);
            assert_int_equal(config.quantization.group_size, cases[i].group_size);
            assert_int_equal(config.quantization.symmetric, cases[i].symmetric);
            model_config_clear(&config);
        }
    }
}

/* What is written for a format reads as that format. */
static void quantisation_is_written_as_it_is_read(void **state)
{
    static const char *const names[] = {"lm_head", "model.layers.0.mlp.up_proj"};
    (void)state;
    for (int i = 0; format_at(i); i++) {
        struct quantization written = {format_at(i), 4, i % 2 ? 64 : AWQ_GROUP_PER_ROW, i % 2 == 0}, read;
        json_t *skipped = json_pack("[s, s]", names[0], names[1]);
        json_t *config = json_pack("{s:o}", "quantization_config", quantization_json(&written, skipped));
        assert_true(quantization_load(app_directory, "config.json", config, &read));
        assert_int_equal(read.format->method, written.format->method);
        if (written.format->method != METHOD_COMPRESSED_TENSORS) assert_ptr_equal(read.format, written.format);
        assert_int_equal(read.bits, 4);
        assert_int_equal(read.group_size, written.group_size);
        if (written.format->method != METHOD_AWQ) assert_int_equal(read.symmetric, written.symmetric);
        char *text = json_dumps(config, 0);
        assert_contains(text, written.format->method == METHOD_GPTQ ? "-:^model\\\\.layers\\\\.0\\\\.mlp\\\\.up_proj$"
                                                                    : names[1]);
        free(text);
        json_decref(config);
        json_decref(skipped);
    }
}

/* The names that the command line offers are those of the table, in its order. */
static void formats_have_their_names(void **state)
{
    char names[256] = FORMAT_NAMES;
    int i = 0;
    (void)state;
    for (char *name = strtok(names, "|"); name; name = strtok(NULL, "|")) {
        assert_non_null(format_at(i));
        assert_string_equal(format_at(i)->name, name);
        assert_string_equal(awq_layout_name(format_at(i)->layout), name);
        assert_ptr_equal(format_named(name), format_at(i));
        assert_ptr_equal(format_of_layout(format_at(i)->layout), format_at(i));
        i++;
    }
    assert_null(format_at(i));
    assert_null(format_at(-1));
    assert_null(format_named("cpu-block"));
}

#define GROUPS(weights) \
    "{\"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"config_groups\": {\"a\": {\"weights\": " \
    weights "}}}}"

static void other_quantisation_is_refused_by_name(void **state)
{
    (void)state;
    refuse("{\"quantization_config\": {\"quant_method\": \"hqq\", \"bits\": 4}}",
           "quantization_config.quant_method 'hqq' is not supported; supported: awq, gptq, compressed-tensors");
    refuse("{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"checkpoint_format\": \"marlin\"}}",
           "quantization_config.checkpoint_format 'marlin' is not supported; supported: gptq, gptq_v2");
    refuse("{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4, \"is_marlin_format\": true}}",
           "quantization_config.is_marlin_format is true");
    refuse("{\"quantization_config\": {\"quant_method\": \"gptq\", \"bits\": 4,"
           " \"dynamic\": {\"+:.*down\": {\"bits\": 8}}}}",
           "quantization_config.dynamic changes the quantisation of some modules (+:.*down)");
    refuse("{\"quantization_config\": {\"bits\": 4}}", "quantization_config.quant_method is missing");
    refuse("{\"quantization_config\": {\"quant_method\": \"libawq\", \"bits\": 4, \"format\": \"gemm\"}}",
           "quantization_config.format 'gemm' is not supported; supported: cuda-block, cpu-stream");
    refuse("{\"quantization_config\": 4}", "quantization_config is not an object");
    refuse("{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"version\": \"gptq\"}}",
           "quantization_config.version 'gptq' is not supported; supported: gemm, gemv, gemv_fast, llm-awq, marlin");
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
        cmocka_unit_test_setup_teardown(quantisation_is_written_as_it_is_read, app_setup, app_teardown),
        cmocka_unit_test(formats_have_their_names),
        cmocka_unit_test_setup_teardown(other_quantisation_is_refused_by_name, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, app_setup, app_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
