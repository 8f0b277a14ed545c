/* awq preflight: its verdicts for models of given formats and shapes, and what it suggests. */
#include "app.h"
#include "commands.h"
#include "quantization.h"

static awq_context *context;

/* A model of one layer whose q, k, v have 'q', 'kv' and 'kv' outputs of 'hidden' inputs and down_proj 'hidden' outputs
 * of 'k' inputs, in a format.  The tensors that tell shapes are all there is. */
struct shape {
    int64_t q, kv, hidden, k;
};

static awq_checkpoint_writer *writer;

static void add_plane(const char *linear, const char *part, int32_t dtype, int64_t rows, int64_t columns)
{
    char name[128];
    awq_tensor view;
    void *zeros = calloc((size_t)(rows * columns), awq_dtype_size(dtype));
    assert_non_null(zeros);
    snprintf(name, sizeof name, "model.layers.0.%s.%s", linear, part);
    awq_tensor_init_2d(&view, zeros, dtype, rows, columns);
    assert_int_equal(awq_checkpoint_writer_add(writer, name, &view), AWQ_OK);
    free(zeros);
}

static void add_linear(const struct quantization *quantization, const char *linear, int64_t n, int64_t k)
{
    const int64_t bits = quantization->bits, shape[2] = {n, k}, two = 2;
    char name[128];
    awq_tensor view;
    switch (quantization->format->layout) {
    case AWQ_LAYOUT_GEMM:
        add_plane(linear, "qweight", AWQ_I32, k, n * bits / 32);
        break;
    case AWQ_LAYOUT_GEMV:
        add_plane(linear, "qweight", AWQ_I32, n, k * bits / 32);
        break;
    case AWQ_LAYOUT_MARLIN:
        add_plane(linear, "qweight", AWQ_I32, k / 16, n * bits / 2);
        break;
    case AWQ_LAYOUT_GPTQ_V1:
        add_plane(linear, "qweight", AWQ_I32, k * bits / 32, n);
        break;
    default:
        add_plane(linear, "weight_packed", AWQ_I32, n, k * bits / 32);
        snprintf(name, sizeof name, "model.layers.0.%s.weight_shape", linear);
        assert_int_equal(awq_tensor_init_const(&view, shape, AWQ_I64, 1, &two), AWQ_OK);
        assert_int_equal(awq_checkpoint_writer_add(writer, name, &view), AWQ_OK);
    }
}

static void write_model(const struct quantization *quantization, const struct shape *shape)
{
    json_t *skipped = json_pack("[s]", "lm_head");
    json_t *config = json_pack("{s:i, s:i, s:o}", "num_attention_heads", 32, "num_key_value_heads", 8,
                               "quantization_config", quantization_json(quantization, skipped));
    char *text = json_dumps(config, 0);
    awq_checkpoint_writer_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    assert_int_equal(awq_checkpoint_writer_create(context, app_directory, &options, &writer), AWQ_OK);
    add_linear(quantization, "self_attn.q_proj", shape->q, shape->hidden);
    add_linear(quantization, "self_attn.k_proj", shape->kv, shape->hidden);
    add_linear(quantization, "self_attn.v_proj", shape->kv, shape->hidden);
    add_linear(quantization, "mlp.down_proj", shape->hidden, shape->k);
    assert_int_equal(awq_checkpoint_writer_add_file(writer, "config.json", text, strlen(text)), AWQ_OK);
    assert_int_equal(awq_checkpoint_writer_commit(writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
    free(text);
    json_decref(config);
    json_decref(skipped);
}

/* The exit code of the command, and what it printed. */
static int run_preflight(char *engine, int tp, int sm, bool json, char *text, size_t size)
{
    char tp_text[16], sm_text[16];
    char *arguments[] = {app_directory, "--engine", engine, "--tp", tp_text, "--sm", sm_text, "--json"};
    snprintf(tp_text, sizeof tp_text, "%d", tp);
    snprintf(sm_text, sizeof sm_text, "%d", sm);
    fflush(stdout);
    FILE *file = tmpfile();
    int real = dup(STDOUT_FILENO);
    assert_non_null(file);
    assert_true(dup2(fileno(file), STDOUT_FILENO) >= 0);
    int exit_code = cli_run(&preflight_command, json ? 8 : 7, arguments);
    fflush(stdout);
    dup2(real, STDOUT_FILENO);
    close(real);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = 0;
    fclose(file);
    return exit_code;
}

/* Llama-2-7B's shapes, made smaller in the outputs, where only multiples matter. */
#define SEVEN_B {256, 256, 256, 11008}
#define ODD {256, 256, 256, 10944} /* 171 groups of 64 */

static void verdicts_follow_the_rules(void **state)
{
    static const struct {
        char *engine;
        int tp, sm;
        const char *format;
        int bits, group_size;
        bool symmetric;
        struct shape shape;
        bool loads;
        const char *text, *other;
    } cases[] = {
        {"vllm", 1, 80, "gemm", 4, 128, false, SEVEN_B, true, "all linears: Marlin", "will load"},
        {"vllm", 1, 70, "gemm", 4, 128, false, SEVEN_B, false, "Marlin needs compute capability 7.5",
         "AWQ kernels needs"},
        {"vllm", 1, 75, "gemm", 4, -1, false, SEVEN_B, true, "all linears: Marlin", "will load"},
        {"vllm", 1, 75, "gemm", 4, 16, false, SEVEN_B, true, "AWQ kernels (slower",
         "Marlin takes group sizes -1, 32, 64"},
        {"vllm", 4, 80, "gemm", 4, 128, false, SEVEN_B, false,
         "groups of 128 do not divide the 2752 inputs of a slice", "quantising again with --group-size 64"},
        {"vllm", 4, 80, "gemm", 4, 128, false, SEVEN_B, false, "1 linears such as model.layers.0.mlp.down_proj",
         "padded with zeros from 11008 inputs to 11264"},
        {"vllm", 4, 80, "gemm", 4, 64, false, SEVEN_B, true,
         "Marlin wants inputs in multiples of 128; a slice has 2752", "AWQ kernels (slower"},
        {"vllm", 4, 80, "gemm", 4, 128, false, SEVEN_B, false, "What would help:", "tensor parallelism over 2"},
        {"vllm", 2, 80, "gemm", 4, 64, false, ODD, false, "do not divide the 5472 inputs", "--group-size 32"},
        {"vllm", 3, 80, "gemm", 4, 128, false, SEVEN_B, false, "32 attention heads do not divide among 3 devices", ""},
        {"vllm", 1, 80, "gemv", 4, 128, false, SEVEN_B, false, "vllm does not read gemv", "awq convert --layout gemm"},
        {"vllm", 1, 80, "marlin", 4, 128, true, SEVEN_B, false, "does not read marlin", "awq convert --layout gemm"},
        {"vllm", 1, 80, "gptq", 4, 128, false, SEVEN_B, false, "takes symmetric weights only",
         "awq convert --layout gemm"},
        {"vllm", 1, 80, "gptq", 8, 128, true, SEVEN_B, true, "all linears: Marlin", "will load"},
        {"vllm", 1, 80, "gemm", 8, 128, false, SEVEN_B, false, "Marlin has no 8 bits", ""},
        {"vllm", 1, 75, "compressed-tensors", 4, 128, true, SEVEN_B, false, "needs compute capability 8.0",
         "awq convert --layout gemm"},
        {"vllm", 1, 80, "compressed-tensors", 4, 128, false, SEVEN_B, true, "all linears: Marlin", "will load"},
        {"vllm", 1, 80, "compressed-tensors", 3, 128, false, SEVEN_B, false, "has no 3 bits", ""},
        {"sglang", 1, 75, "gemm", 4, 128, false, SEVEN_B, true, "AWQ kernels (slower",
         "Marlin needs compute capability 8.0"},
        {"sglang", 1, 80, "gptq", 3, 128, false, SEVEN_B, true, "GPTQ kernels", "will load"},
        {"lmdeploy", 1, 70, "gemm", 4, 128, false, SEVEN_B, true, "TurboMind", "will load"},
        {"lmdeploy", 1, 80, "gemm", 4, 64, false, SEVEN_B, false, "takes group sizes 128, not 64", "--group-size 128"},
        {"lmdeploy", 1, 80, "compressed-tensors", 4, 32, true, SEVEN_B, true, "TurboMind", "will load"},
        {"lmdeploy", 1, 80, "gptq", 4, 128, false, SEVEN_B, false, "symmetric weights only",
         "awq convert --layout gemm"},
        {"transformers", 8, 75, "gemv", 4, 128, false, SEVEN_B, true, "needs the package gptqmodel", "will load"},
        {"transformers", 1, 75, "compressed-tensors", 3, 128, false, SEVEN_B, true, "compressed-tensors", "will load"},
        {"vllm", 16, 80, "gemm", 4, 32, false, {4096, 1024, 4096, 4096}, true, "all linears: Marlin", "over 16"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct quantization quantization = {format_named(cases[i].format), cases[i].bits, cases[i].group_size,
                                            cases[i].symmetric};
        char text[8192];
        write_model(&quantization, &cases[i].shape);
        int exit_code = run_preflight(cases[i].engine, cases[i].tp, cases[i].sm, false, text, sizeof text);
        int expected = cases[i].loads ? EXIT_OK : EXIT_REFUSED;
        if (exit_code != expected) fail_msg("case %zu: exit status %d: %s", i, exit_code, text);
        assert_contains(text, cases[i].text);
        assert_contains(text, cases[i].other);
    }
}

static void verdicts_are_json_too(void **state)
{
    struct quantization quantization = {format_named("gemm"), 4, 128, false};
    struct shape shape = SEVEN_B;
    char text[8192];
    (void)state;
    write_model(&quantization, &shape);
    assert_int_equal(run_preflight("vllm", 4, 80, true, text, sizeof text), EXIT_REFUSED);
    json_t *json = json_loads(text, 0, NULL);
    assert_true(json_is_false(json_object_get(json, "loads")));
    const json_t *refusal = json_array_get(json_object_get(json, "refusals"), 0);
    assert_string_equal(json_string_value(json_object_get(refusal, "linear")), "model.layers.0.mlp.down_proj");
    assert_int_equal(json_integer_value(json_object_get(refusal, "inputs")), 11008);
    assert_int_equal(json_array_size(json_object_get(json, "runs")), 3);
    assert_true(json_array_size(json_object_get(json, "suggestions")) >= 3);
    json_decref(json);
}

#define AWQ(more) "{'quantization_config': {'quant_method': 'awq', 'bits': 4, 'group_size': 128," more "}}"

/* What loaders want of the configuration, beside what it means. */
static void configurations_are_judged(void **state)
{
    static const struct {
        char *engine;
        const char *config;
        bool loads;
        const char *text;
    } cases[] = {
        {"lmdeploy", AWQ(" 'version': 'GEMM'"), false, "wants \"version\": \"gemm\", in lower case"},
        {"vllm", AWQ(" 'version': 'GEMM'"), false, "vllm wants zero_point"},
        {"vllm", AWQ(" 'zero_point': true"), true, "will load"},
        {"vllm", "{'text_config': " AWQ(" 'zero_point': true") "}", false, "not in text_config"},
        {"transformers", "{}", false, "not a file of its own"},
        {"vllm", "{}", true, "will load"},
    };
    (void)state;
    struct quantization quantization = {format_named("gemm"), 4, 128, false};
    struct shape shape = SEVEN_B;
    write_model(&quantization, &shape);
    app_write_text("quant_config.json",
                   "{\"w_bit\": 4, \"q_group_size\": 128, \"zero_point\": true, \"version\": \"GEMM\"}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[256], text[8192];
        snprintf(json, sizeof json, "%s", cases[i].config);
        for (char *quote = json; (quote = strchr(quote, '\'')); quote++) *quote = '"';
        app_write_text("config.json", json);
        int exit_code = run_preflight(cases[i].engine, 1, 80, false, text, sizeof text);
        int expected = cases[i].loads ? EXIT_OK : EXIT_REFUSED;
        if (exit_code != expected) fail_msg("case %zu: exit status %d: %s", i, exit_code, text);
        assert_contains(text, cases[i].text);
    }
}

static void failures_are_no_verdicts(void **state)
{
    char text[256];
    (void)state;
    app_write_text("config.json", "{}");
    app_capture();
    assert_int_equal(run_preflight("vllm", 1, 80, false, text, sizeof text), EXIT_FAILED);
    assert_contains(app_release(), "is not quantised");
    assert_string_equal(text, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(verdicts_follow_the_rules, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(verdicts_are_json_too, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(configurations_are_judged, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(failures_are_no_verdicts, app_setup, app_teardown),
    };
    if (awq_context_create(NULL, &context) != AWQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    awq_context_destroy(context);
    return failed;
}
