/* Opening models: what is found in a checkpoint, what is fused, and what is wrong with it, by name. */
#include "app.h"
#include "commands.h"
#include "model.h"

#include <math.h>

enum { HIDDEN = 32, INNER = 64, VOCABULARY = 24, HEADS = 4, KV_HEADS = 2, WIDTH = 8, LAYERS = 2 };

static const char llama[] =
    "\"model_type\": \"llama\", \"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2,"
    " \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"vocab_size\": 24, \"max_position_embeddings\": 16";

/* A tensor of the model in the making, to be changed on its way into the file: false leaves it out. */
typedef bool (*change)(const char *name, awq_tensor *tensor);

static awq_context *context;

static void add(awq_checkpoint_writer *writer, change edit, int64_t rows, int64_t columns, const char *name)
{
    static float values[INNER * HIDDEN];
    awq_tensor tensor;
    for (int64_t i = 0; i < (rows ? rows : 1) * columns; i++)
        values[i] = rows ? (float)((i * 37 + (int64_t)strlen(name)) % 19 - 9) / 40 : 1;
    if (rows)
        awq_tensor_init_2d(&tensor, values, AWQ_F32, rows, columns);
    else
        awq_tensor_init_1d(&tensor, values, AWQ_F32, columns);
    if (edit && !edit(name, &tensor)) return;
    awq_status status = awq_checkpoint_writer_add(writer, name, &tensor);
    if (status != AWQ_OK) fail_msg("%s: %s", name, awq_last_error());
}

/* Write a model into the test's directory: random weights, and config.json with 'keys' after those of the shape. */
static void write_model(const char *keys, change edit)
{
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer;
    char name[TENSOR_NAME_SIZE], config[1024];
    struct model_config shape = {.hidden = HIDDEN, .intermediate = INNER, .heads = HEADS, .kv_heads = KV_HEADS,
                                 .head_dim = WIDTH, .architecture = architecture_of_type("llama")};
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    awq_status status = awq_checkpoint_writer_create(context, app_directory, &options, &writer);
    if (status != AWQ_OK) fail_msg("%s", awq_last_error());
    add(writer, edit, VOCABULARY, HIDDEN, "model.embed_tokens.weight");
    add(writer, edit, VOCABULARY, HIDDEN, "lm_head.weight");
    add(writer, edit, 0, HIDDEN, "model.norm.weight");
    for (int64_t layer = 0; layer < LAYERS; layer++) {
        block_tensor_name(&shape, layer, "input_layernorm.weight", name);
        add(writer, edit, 0, HIDDEN, name);
        block_tensor_name(&shape, layer, "post_attention_layernorm.weight", name);
        add(writer, edit, 0, HIDDEN, name);
        for (int i = 0; i < LINEAR_KINDS; i++) {
            int64_t n, k;
            block_linear_shape(&shape, i, &n, &k);
            block_linear_name(&shape, layer, i, name);
            strcat(name, ".weight");
            add(writer, edit, n, k, name);
        }
    }
    int length = snprintf(config, sizeof config, "{%s%s}", llama, keys);
    assert_int_equal(awq_checkpoint_writer_add_file(writer, "config.json", config, (uint64_t)length), AWQ_OK);
    assert_int_equal(awq_checkpoint_writer_commit(writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
}

static struct model *open_model(const char *keys, change edit)
{
    struct model *model;
    write_model(keys, edit);
    assert_true(model_open(context, app_directory, NULL, &model));
    return model;
}

static void refuse(const char *keys, change edit, const char *message)
{
    struct model *model;
    uint64_t before, after;
    write_model(keys, edit);
    awq_context_get_memory(context, &before, NULL);
    app_capture();
    bool ok = model_open(context, app_directory, NULL, &model);
    const char *text = app_release();
    assert_false(ok);
    assert_null(model);
    assert_contains(text, message);
    awq_context_get_memory(context, &after, NULL);
    assert_int_equal(before, after);
}

/* ---- what there is */

static bool without_head(const char *name, awq_tensor *tensor)
{
    (void)tensor;
    return strcmp(name, "lm_head.weight") != 0;
}

static void models_are_fused_and_counted(void **state)
{
    (void)state;
    const int64_t attention = HIDDEN * (HEADS + 2 * KV_HEADS) * WIDTH + HEADS * WIDTH * HIDDEN;
    const int64_t blocks = LAYERS * (attention + 3 * HIDDEN * INNER + 2 * HIDDEN);
    struct model *model = open_model("", NULL);
    assert_int_equal(model->sizes.total_weights, blocks + HIDDEN + 2 * VOCABULARY * HIDDEN);
    assert_int_equal(model->sizes.total_bytes, 4 * model->sizes.total_weights);
    assert_int_equal(model->sizes.quantized_weights, 0);
    for (int i = 0; i < LAYERS; i++) {
        assert_non_null(model->blocks[i].qkv);
        assert_non_null(model->blocks[i].gate_up[0]);
        assert_null(model->blocks[i].linear[LINEAR_Q]);
        assert_non_null(model->blocks[i].linear[LINEAR_O]);
    }
    model_close(model);
    model = open_model(", \"tie_word_embeddings\": true", without_head);
    assert_int_equal(model->sizes.total_weights, blocks + HIDDEN + VOCABULARY * HIDDEN);
    model_close(model);
    const struct model_options apart = {.no_fuse = true};
    assert_true(model_open(context, app_directory, &apart, &model));
    assert_null(model->blocks[0].qkv);
    assert_non_null(model->blocks[0].linear[LINEAR_K]);
    model_close(model);
}

static bool value_in_half(const char *name, awq_tensor *tensor)
{
    static uint16_t halves[INNER * HIDDEN];
    if (!strstr(name, "0.self_attn.v_proj")) return true;
    awq_tensor_init_2d(tensor, halves, AWQ_F16, tensor->shape[0], tensor->shape[1]);
    return true;
}

static void unlike_linears_stay_apart(void **state)
{
    (void)state;
    struct model *model = open_model("", value_in_half);
    assert_null(model->blocks[0].qkv);
    assert_non_null(model->blocks[0].linear[LINEAR_V]);
    assert_non_null(model->blocks[1].qkv);
    model_close(model);
}

/* ---- what is wrong */

static bool without_down(const char *name, awq_tensor *tensor)
{
    (void)tensor;
    return strcmp(name, "model.layers.1.mlp.down_proj.weight") != 0;
}

static bool wide_down(const char *name, awq_tensor *tensor)
{
    if (!without_down(name, tensor)) tensor->shape[1] = 63;
    return true;
}

static bool flat_norm(const char *name, awq_tensor *tensor)
{
    if (strcmp(name, "model.layers.1.input_layernorm.weight") == 0)
        awq_tensor_init_2d(tensor, tensor->data, AWQ_F32, 1, HIDDEN);
    return true;
}

static bool integer_up(const char *name, awq_tensor *tensor)
{
    if (strcmp(name, "model.layers.0.mlp.up_proj.weight") == 0) tensor->dtype = AWQ_I32;
    return true;
}

static void damaged_models_are_refused_by_tensor(void **state)
{
    (void)state;
    refuse("", without_down, "no tensor model.layers.1.mlp.down_proj.weight");
    refuse("", wide_down, "model.layers.1.mlp.down_proj.weight: has shape [32, 63]; config.json makes it [32, 64]");
    refuse("", flat_norm, "model.layers.1.input_layernorm.weight: has shape [1, 32]; config.json makes it [32]");
    refuse("", integer_up, "model.layers.0.mlp.up_proj.weight: has dtype I32");
    refuse("", without_head, "no tensor lm_head.weight");
    refuse(", \"attention_bias\": true", NULL, "no tensor model.layers.0.self_attn.q_proj.bias");
}

static void missing_directories_are_refused(void **state)
{
    (void)state;
    struct model *model;
    app_capture();
    assert_false(model_open(context, "/nonexistent", NULL, &model));
    assert_contains(app_release(), "/nonexistent/config.json: No such file");
    write_model("", NULL);
    assert_int_equal(truncate(app_path("model.safetensors"), 10000), 0);
    app_capture();
    assert_false(model_open(context, app_directory, NULL, &model));
    assert_contains(app_release(), "model.safetensors");
    app_write_text("config.json", "{\"model_type\": \"llama\"}");
    app_capture();
    assert_false(model_open(context, app_directory, NULL, &model));
    assert_contains(app_release(), "num_hidden_layers is missing");
}

/* ---- quantised */

#define AWQ_CONFIG ", \"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4, \"group_size\": 16}"

/* Only o of block 0 is quantised: [32][32] in groups of 16, every weight (1 - 0) * 2^-6. */
static int quantized_mistake;

static bool quantized_o(const char *name, awq_tensor *tensor)
{
    (void)tensor;
    return strcmp(name, "model.layers.0.self_attn.o_proj.weight") != 0;
}

static void add_planes(void)
{
    static uint32_t codes[32 * 4], zeros[2 * 4];
    static uint16_t scales[2 * 32];
    const char *prefix = "model.layers.0.self_attn.o_proj.";
    awq_checkpoint *source;
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer;
    char name[TENSOR_NAME_SIZE], config[2048];
    awq_tensor view;
    FILE *file = fopen(app_path("config.json"), "rb");
    size_t length = fread(config, 1, sizeof config, file);
    fclose(file);
    for (int i = 0; i < 32 * 4; i++) codes[i] = 0x11111111;
    for (int i = 0; i < 2 * 32; i++) scales[i] = 0x2400; /* 2^-6 */
    assert_int_equal(awq_checkpoint_open(context, app_directory, &source), AWQ_OK);
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    assert_int_equal(awq_checkpoint_writer_create(context, app_directory, &options, &writer), AWQ_OK);
    for (int64_t i = 0; i < awq_checkpoint_count(source); i++) {
        assert_int_equal(awq_checkpoint_get(source, awq_checkpoint_name(source, i), &view), AWQ_OK);
        assert_int_equal(awq_checkpoint_writer_add(writer, awq_checkpoint_name(source, i), &view), AWQ_OK);
    }
    const struct {
        const char *plane;
        void *data;
        int32_t dtype;
        int64_t rows, columns;
    } planes[] = {
        {"qweight", codes, AWQ_I32, 32, quantized_mistake == 1 ? 3 : 4},
        {"qzeros", zeros, AWQ_I32, 2, 4},
        {"scales", scales, AWQ_F16, 2, 32},
        {"weight_g_idx", codes, AWQ_I32, 1, 32},
    };
    for (int i = 0; i < (quantized_mistake == 2 ? 4 : quantized_mistake == 3 ? 2 : 3); i++) {
        awq_tensor_init_2d(&view, planes[i].data, planes[i].dtype, planes[i].rows, planes[i].columns);
        snprintf(name, sizeof name, "%s%s", prefix, planes[i].plane);
        assert_int_equal(awq_checkpoint_writer_add(writer, name, &view), AWQ_OK);
    }
    assert_int_equal(awq_checkpoint_writer_add_file(writer, "config.json", config, length), AWQ_OK);
    assert_int_equal(awq_checkpoint_writer_commit(writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
    awq_checkpoint_destroy(source);
}

static void refuse_quantized(const char *keys, int mistake, const char *message)
{
    struct model *model;
    quantized_mistake = mistake;
    write_model(keys, quantized_o);
    add_planes();
    app_capture();
    bool ok = model_open(context, app_directory, NULL, &model);
    const char *text = app_release();
    assert_false(ok);
    assert_contains(text, message);
}

static void quantized_linears_are_found(void **state)
{
    (void)state;
    struct model *model;
    quantized_mistake = 0;
    write_model(AWQ_CONFIG, quantized_o);
    add_planes();
    assert_true(model_open(context, app_directory, NULL, &model));
    assert_int_equal(model->sizes.quantized_weights, 32 * 32);
    assert_int_equal(model->sizes.quantized_bytes, 4 * 32 * 4 + 4 * 2 * 4 + 2 * 2 * 32);
    model_close(model);
    refuse_quantized("", 0, "model.layers.0.self_attn.o_proj: is quantised, but config.json does not say how");
    refuse_quantized(AWQ_CONFIG, 1, "model.layers.0.self_attn.o_proj: ");
    refuse_quantized(AWQ_CONFIG, 2, "o_proj: weight_g_idx: groups in the order of activations");
    refuse_quantized(AWQ_CONFIG, 3, "model.layers.0.self_attn.o_proj: ");
}

/* ---- commands */

static void refuse_command(const struct cli_command *command, int exit_code, const char *message, int argc, ...)
{
    char *argv[16];
    va_list words;
    va_start(words, argc);
    for (int i = 0; i < argc; i++) argv[i] = va_arg(words, char *);
    va_end(words);
    app_capture();
    int result = cli_run(command, argc, argv);
    const char *text = app_release();
    assert_int_equal(result, exit_code);
    assert_contains(text, message);
}

static bool nan_in_norm(const char *name, awq_tensor *tensor)
{
    if (strcmp(name, "model.layers.1.input_layernorm.weight") == 0) ((float *)tensor->data)[3] = NAN;
    return true;
}

static void evaluation_says_what_is_wrong(void **state)
{
    (void)state;
    char tokens[512], directory[512];
    uint16_t ids[20] = {0};
    write_model("", nan_in_norm);
    app_write("ids.u16", ids, sizeof ids);
    strcpy(tokens, app_path("ids.u16"));
    strcpy(directory, app_directory);
    refuse_command(&evaluate_command, EXIT_FAILED, "not finite numbers at token 0 of the window at token 0", 3,
                   directory, "--tokens", tokens);
    refuse_command(&evaluate_command, EXIT_USAGE, "give either --text or --tokens", 1, directory);
    refuse_command(&evaluate_command, EXIT_USAGE, "give it as --tokens", 3, directory, "--text", tokens);
    refuse_command(&evaluate_command, EXIT_FAILED, "windows of 17 tokens do not fit the model's context of 16", 5,
                   directory, "--tokens", tokens, "--context", "17");
    refuse_command(&evaluate_command, EXIT_FAILED, "--stride 9 would skip tokens between windows of 8", 7, directory,
                   "--tokens", tokens, "--context", "8", "--stride", "9");
    refuse_command(&evaluate_command, EXIT_FAILED, "docs-6m one of 4096: they cannot be compared", 5, directory,
                   "--tokens", tokens, "--against", "examples/models/docs-6m");
    refuse_command(&evaluate_command, EXIT_FAILED, "/nonexistent/x.npy: No such file", 5, directory, "--tokens", tokens,
                   "--logits", "/nonexistent/x.npy");
    app_write("ids.u16", ids, 2);
    refuse_command(&evaluate_command, EXIT_FAILED, "has 1 tokens in a row", 3, directory, "--tokens", tokens);
}

static void generation_says_what_is_wrong(void **state)
{
    (void)state;
    static char prompt[4096];
    char model[] = "examples/models/docs-6m";
    memset(prompt, 'x', sizeof prompt - 1);
    refuse_command(&generate_command, EXIT_FAILED, "leaves no room in the model's context of 256", 3, model, "--prompt",
                   prompt);
    refuse_command(&generate_command, EXIT_USAGE, "4 documents would be alike", 3, model, "--documents", "4");
    refuse_command(&generate_command, EXIT_USAGE, "give a --temperature above 0", 3, model, "--top-k", "4");
    refuse_command(&generate_command, EXIT_FAILED, "would exceed the limit of 1048576", 3, model,
                   "--memory-limit", "1M");
}

/* Texts drawn many at a time are those drawn with other numbers of threads; another seed gives others. */
static void texts_repeat(void **state)
{
    (void)state;
    char model[] = "examples/models/docs-6m", texts[3][4096], path[512];
    strcpy(path, app_path("text"));
    for (int i = 0; i < 3; i++) {
        char *argv[] = {model, "--temperature", "1", "--documents", "3", "--tokens", "20", "--output", path,
                        "--threads", i == 1 ? "3" : "1", "--seed", i == 2 ? "1" : "0"};
        assert_int_equal(cli_run(&generate_command, sizeof argv / sizeof *argv, argv), EXIT_OK);
        FILE *file = fopen(path, "rb");
        size_t length = fread(texts[i], 1, sizeof texts[i] - 1, file);
        texts[i][length] = 0;
        fclose(file);
    }
    assert_string_equal(texts[0], texts[1]);
    assert_string_not_equal(texts[0], texts[2]);
}

static int open_context(void **state)
{
    (void)state;
    return context_open(2, 0, &context) ? 0 : -1;
}

static int close_context(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(models_are_fused_and_counted, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(unlike_linears_stay_apart, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damaged_models_are_refused_by_tensor, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(missing_directories_are_refused, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(quantized_linears_are_found, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(evaluation_says_what_is_wrong, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(generation_says_what_is_wrong, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(texts_repeat, app_setup, app_teardown),
    };
    return cmocka_run_group_tests(tests, open_context, close_context);
}
