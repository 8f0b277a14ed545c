/* awq quantize and awq outliers on tiny models of every architecture: the function is kept, files say what they should,
 * and whatever goes wrong is named. */
#include "commands.h"
#include "tiny_model.h"
#include "tokens.h"

#include <ftw.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "progress.h"

enum { WINDOWS = 6 };

static char out_path[600], calib_path[600];

static const struct recipe plain = {.type = "llama", .keys = "", .dtype = AWQ_F16};

/* ---- running the command */

enum { MAX_WORDS = 32 };

/* Split 'line' at spaces, with M, O and C standing for the paths of model, output and calibration data; what is printed
 * to stderr goes to *text. */
static int run_line(const struct cli_command *command, const char *line, const char **text)
{
    static char copy[1024];
    char *words[MAX_WORDS], *rest;
    int count = 0;
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok_r(copy, " ", &rest); word; word = strtok_r(NULL, " ", &rest)) {
        assert_true(count < MAX_WORDS);
        words[count++] = strcmp(word, "M") == 0 ? model_path : strcmp(word, "O") == 0 ? out_path
                       : strcmp(word, "C") == 0 ? calib_path : word;
    }
    app_capture();
    int exit_code = cli_run(command, count, words);
    *text = app_release();
    return exit_code;
}

static void quantize(const char *line)
{
    const char *text;
    if (run_line(&quantize_command, line, &text) != EXIT_OK) fail_msg("quantize %s: %s", line, text);
    if (*text && !strstr(text, " experts saw fewer than ")) fail_msg("quantize %s: %s", line, text);
}

static void refuse(const char *line, int expected, const char *message)
{
    const char *text;
    int exit_code = run_line(&quantize_command, line, &text);
    if (exit_code != expected) fail_msg("quantize %s: exit status %d: %s", line, exit_code, text);
    assert_contains(text, message);
}

static bool exists(const char *directory, const char *name)
{
    char path[1024];
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", directory, name);
    return lstat(path, &info) == 0;
}

/* Nothing in the test's directory but model and calibration data. */
static void assert_nothing_written(void)
{
    DIR *directory = opendir(app_directory);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));)
        if (entry->d_name[0] != '.' || strlen(entry->d_name) > 2)
            if (strcmp(entry->d_name, "model") != 0 && strcmp(entry->d_name, "calib.u16") != 0)
                fail_msg("%s was left behind", entry->d_name);
    closedir(directory);
}

/* ---- comparing models */

/* logits[LENGTH][VOCABULARY] of a fixed text. */
static void run_model(const char *path, float *logits)
{
    struct model *model;
    struct session *session;
    const struct session_options options = {.max_rows = LENGTH, .sequences = 1, .capacity = LENGTH};
    const int64_t count = LENGTH;
    const struct batch batch = {1, &count};
    int32_t tokens[LENGTH];
    float hidden[LENGTH * HIDDEN];
    for (int i = 0; i < LENGTH; i++) tokens[i] = (i * 17 + 5) % VOCABULARY;
    assert_true(model_open(context, path, NULL, &model));
    assert_true(session_create(context, &model->config, &options, &session));
    assert_true(model_forward(model, session, &batch, tokens, hidden));
    assert_true(model_logits(model, session, hidden, LENGTH, logits));
    session_destroy(session);
    model_close(model);
}

/* The norm of the difference of the two models' logits, in proportion. */
static double difference(const char *path)
{
    static float expected[LENGTH * VOCABULARY], found[LENGTH * VOCABULARY];
    double error = 0, norm = 0;
    run_model(model_path, expected);
    run_model(path, found);
    for (int i = 0; i < LENGTH * VOCABULARY; i++) {
        error += ((double)expected[i] - (double)found[i]) * ((double)expected[i] - (double)found[i]);
        norm += (double)expected[i] * (double)expected[i];
    }
    return sqrt(error / norm);
}

static void assert_close(double bound)
{
    double found = difference(out_path);
    if (!(found < bound)) fail_msg("logits differ by %g of their norm, more than %g", found, bound);
}

static awq_checkpoint *open_checkpoint(const char *path)
{
    awq_checkpoint *checkpoint;
    if (awq_checkpoint_open(context, path, &checkpoint) != AWQ_OK) fail_msg("%s", awq_last_error());
    return checkpoint;
}

/* Whether the tensor is there in both, and equal. */
static bool is_kept(const char *name)
{
    awq_checkpoint *before = open_checkpoint(model_path), *after = open_checkpoint(out_path);
    awq_tensor a, b;
    assert_int_equal(awq_checkpoint_get(before, name, &a), AWQ_OK);
    bool kept = awq_checkpoint_get(after, name, &b) == AWQ_OK && a.dtype == b.dtype && a.ndim == b.ndim;
    size_t size = awq_dtype_size(a.dtype);
    for (int i = 0; i < a.ndim; i++) size *= (size_t)a.shape[i];
    kept = kept && memcmp((char *)a.data + a.byte_offset, (char *)b.data + b.byte_offset, size) == 0;
    awq_checkpoint_destroy(before);
    awq_checkpoint_destroy(after);
    return kept;
}

static json_t *quantization_config(void)
{
    char path[700];
    snprintf(path, sizeof path, "%s/config.json", out_path);
    json_t *config = json_load_file(path, 0, NULL);
    assert_non_null(config);
    json_t *quantization = json_incref(json_object_get(config, "quantization_config"));
    json_decref(config);
    assert_non_null(quantization);
    return quantization;
}

static void assert_quantization_config(const char *expected_text)
{
    json_t *expected = json_loads(expected_text, 0, NULL), *found = quantization_config();
    assert_non_null(expected);
    if (!json_equal(expected, found)) fail_msg("%s is not %s", json_dumps(found, 0), expected_text);
    json_decref(expected);
    json_decref(found);
}

/* ---- the function is kept */

static const struct recipe recipes[] = {
    {.type = "llama", .keys = "", .tied = true, .dtype = AWQ_F16},
    {.type = "llama", .keys = ", \"attention_bias\": true, \"mlp_bias\": true", .qkv_bias = true,
     .output_bias = true, .mlp_bias = true, .dtype = AWQ_F32},
    {.type = "mistral", .keys = ", \"sliding_window\": 8", .dtype = AWQ_BF16},
    {.type = "qwen2", .keys = "", .qkv_bias = true, .dtype = AWQ_F16},
    {.type = "qwen3", .keys = "", .dtype = AWQ_F16},
    {.type = "phi3", .keys = "", .dtype = AWQ_F16},
    {.type = "mixtral", .keys = "", .dtype = AWQ_F16},
    {.type = "qwen2_moe", .keys = "", .qkv_bias = true, .dtype = AWQ_F16},
    {.type = "qwen3_moe", .keys = ", \"norm_topk_prob\": true", .dtype = AWQ_F16},
    {.type = "gemma", .keys = ", \"torch_dtype\": \"bfloat16\"", .tied = true, .dtype = AWQ_F32},
    {.type = "opt", .keys = "", .qkv_bias = true, .output_bias = true, .mlp_bias = true, .tied = true,
     .dtype = AWQ_F16},
    {.type = "opt", .keys = ", \"activation_function\": \"gelu\"", .qkv_bias = true, .output_bias = true,
     .mlp_bias = true, .tied = true, .dtype = AWQ_F16},
};

enum { RECIPES = sizeof recipes / sizeof *recipes };

/* With 8 bits rounding is small (2.5 % of the logits at most, for these models), so that what is left shows whether
 * scales were folded where they belong. */
static void every_architecture_keeps_its_function(void **state)
{
    (void)state;
    for (int i = 0; i < RECIPES; i++) {
        const struct architecture *names = architecture_of_type(recipes[i].type);
        const double bound = names->experts ? 0.1 : 0.05; /* a token may be sent to other experts */
        write_model(&recipes[i]);
        quantize("M -o O -f -q --calib C --bits 8 --group-size 32 --search-tokens 64 --expert-tokens 1");
        assert_close(bound);
        quantize("M -o O -f -q --calib C --bits 8 --group-size 32 --duo both --calibrate-through quantized"
                 " --smooth-factor 0.1 --expert-tokens 1");
        assert_close(bound);
        char name[3][TENSOR_NAME_SIZE];
        snprintf(name[0], sizeof name[0], "%s.1.%s.weight", names->blocks, names->attention_norm);
        snprintf(name[1], sizeof name[1], "%s.weight", names->final_norm);
        snprintf(name[2], sizeof name[2], "%s.weight", names->embedding);
        assert_false(is_kept(name[0]));
        assert_true(is_kept(name[1]));
        assert_true(is_kept(name[2]));
    }
}

/* In another format, every architecture's model is the same. */
static void every_architecture_is_converted(void **state)
{
    static float expected[LENGTH * VOCABULARY], found[LENGTH * VOCABULARY];
    char converted[640], line[1024];
    const char *text;
    (void)state;
    snprintf(converted, sizeof converted, "%s.gptq", out_path);
    for (int i = 0; i < RECIPES; i++) {
        write_model(&recipes[i]);
        quantize("M -o O -f -q --method rtn --group-size 32 --symmetric");
        snprintf(line, sizeof line, "O -o %s -f -q --layout gptq", converted);
        if (run_line(&convert_command, line, &text) != EXIT_OK) fail_msg("convert: %s", text);
        run_model(out_path, expected);
        run_model(converted, found);
        for (int j = 0; j < LENGTH * VOCABULARY; j++) assert_true(fabsf(expected[j] - found[j]) < 1e-4f);
    }
}

/* An excluded linear has to take the scaled input of its neighbours, or pass on the scale of its successor. */
static void excluded_linears_keep_the_function(void **state)
{
    (void)state;
    static const char *const patterns[] = {"k_proj", "v_proj|gate", "up_proj", "o_proj|down", "self_attn",
                                           "layers\\.0\\."};
    char line[256];
    write_model(&plain);
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        snprintf(line, sizeof line, "M -o O -f -q --calib C --bits 8 --group-size 32 --exclude %s", patterns[i]);
        quantize(line);
        assert_close(0.05);
    }
    assert_true(is_kept("model.layers.0.self_attn.q_proj.weight"));
    assert_true(is_kept("model.layers.0.input_layernorm.weight"));
    json_t *config = quantization_config();
    assert_int_equal(json_array_size(json_object_get(config, "ignore")), 1 + LINEAR_KINDS);
    json_decref(config);
}

static void every_setting_gives_a_model_that_runs(void **state)
{
    (void)state;
    static const struct {
        const char *options;
        double bound;
    } cases[] = {
        {"--method rtn", 0.5},
        {"--method rtn --symmetric", 0.6},
        {"--calib C --symmetric", 0.6},
        {"--calib C --symmetric --profile autoawq --duo off", 0.6},
        {"--calib C --profile llm-awq", 0.5},
        {"--calib C --version compressed-tensors", 0.5},
        {"--calib C --version compressed-tensors --scale-dtype bf16", 0.5},
        {"--calib C --range minmax --no-scale-o", 0.5},
        {"--calib C --bits 3", 0.8},
        {"--calib C --bits 2 --symmetric", 1.5},
        {"--calib C --bits 8 --group-size -1", 0.03},
        {"--calib C --bits 8 --group-size 16 --scale-dtype f32", 0.03},
    };
    char line[256];
    write_model(&plain);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool own_group = strstr(cases[i].options, "--group-size");
        snprintf(line, sizeof line, "M -o O -f -q %s%s", cases[i].options, own_group ? "" : " --group-size 32");
        quantize(line);
        assert_close(cases[i].bound);
    }
}

/* ---- calibration */

/* What the command prints with --json. */
static json_t *quantize_json(const char *line)
{
    json_error_t error;
    fflush(stdout);
    int real_stdout = dup(STDOUT_FILENO);
    FILE *printed = tmpfile();
    assert_non_null(printed);
    assert_true(dup2(fileno(printed), STDOUT_FILENO) >= 0);
    quantize(line);
    fflush(stdout);
    dup2(real_stdout, STDOUT_FILENO);
    close(real_stdout);
    rewind(printed);
    json_t *json = json_loadf(printed, 0, &error);
    fclose(printed);
    if (!json) fail_msg("line %d: %s", error.line, error.text);
    return json;
}

/* Data given twice has the same means, but more windows than run at once. */
static void every_chunk_of_windows_counts(void **state)
{
    (void)state;
    enum { MANY = 84 * LENGTH };
    static uint16_t ids[2 * MANY];
    static const char line[] = "M -o O -f --json --calib C --samples 1000 --search-tokens 100000 --group-size 32";
    random_state = 3;
    for (int i = 0; i < MANY; i++) ids[i] = ids[MANY + i] = (uint16_t)((next_random() + 1) / 2 * VOCABULARY);
    write_model(&plain);
    app_write("calib.u16", ids, MANY * sizeof *ids);
    json_t *once = quantize_json(line);
    app_write("calib.u16", ids, sizeof ids);
    json_t *twice = quantize_json(line);
    assert_int_equal(json_integer_value(json_object_get(once, "calibration_windows")), 84);
    assert_int_equal(json_integer_value(json_object_get(twice, "calibration_windows")), 168);
    for (size_t layer = 0; layer < LAYERS; layer++) {
        for (size_t point = 0; point < POINT_KINDS; point++) {
            const json_t *a = json_array_get(json_object_get(once, "layers"), layer);
            const json_t *b = json_array_get(json_object_get(twice, "layers"), layer);
            a = json_array_get(json_object_get(a, "searches"), point);
            b = json_array_get(json_object_get(b, "searches"), point);
            double loss = json_number_value(json_object_get(a, "loss"));
            assert_true(loss > 0);
            assert_true(fabs(json_number_value(json_object_get(b, "loss")) - loss) < 1e-6 * loss);
        }
    }
    json_decref(once);
    json_decref(twice);
}

/* Experts that too few tokens were sent to are told of, and treated as was asked. */
static void scarce_experts_are_told_of(void **state)
{
    (void)state;
    static const char line[] = "M -o O -f -q --calib C --bits 8 --group-size 32 --expert-tokens 1000";
    static const char said[] = "8 of 8 experts saw fewer than 1,000 tokens of the calibration: ";
    char longer[256];
    const char *text;
    write_model(&(struct recipe){.type = "mixtral", .keys = "", .dtype = AWQ_F16});
    if (run_line(&quantize_command, line, &text) != EXIT_OK) fail_msg("%s", text);
    assert_contains(text, said);
    assert_contains(text, "their down projections are rounded to nearest");
    assert_close(0.05);
    snprintf(longer, sizeof longer, "%s --expert-fallback float", line);
    assert_int_equal(run_line(&quantize_command, longer, &text), EXIT_OK);
    assert_contains(text, "they stay as they are");
    assert_close(0.05);
    json_t *config = quantization_config();
    assert_int_equal(json_array_size(json_object_get(config, "ignore")), 1 + LAYERS * (1 + EXPERTS * MLP_LINEARS));
    json_decref(config);
    snprintf(longer, sizeof longer, "%s --preset best", line);
    assert_int_equal(run_line(&quantize_command, longer, &text), EXIT_OK);
    assert_contains(text, said);
    assert_close(0.05);
    snprintf(longer, sizeof longer, "%s --expert-fallback stop", line);
    refuse(longer, EXIT_FAILED, "layer 0: expert 0 saw ");
    json_t *report = quantize_json("M -o O -f --json --calib C --group-size 32 --expert-tokens 1");
    const json_t *experts = json_object_get(json_array_get(json_object_get(report, "layers"), 1), "experts");
    int64_t tokens = 0;
    assert_int_equal(json_array_size(experts), EXPERTS);
    for (size_t i = 0; i < EXPERTS; i++)
        tokens += json_integer_value(json_object_get(json_array_get(experts, i), "tokens"));
    assert_int_equal(tokens, 2 * WINDOWS * LENGTH);
    assert_true(json_integer_value(json_object_get(report, "peak_memory_bytes")) <=
                json_integer_value(json_object_get(report, "estimated_memory_bytes")));
    json_decref(report);
}

/* ---- statistics in a file, and a journal */

/* The same linears, the same tokens for every expert, the same losses. */
static void assert_same_report(const char *name, const json_t *expected, const json_t *found)
{
    const json_t *a = json_object_get(expected, "layers"), *b = json_object_get(found, "layers");
    if (!json_equal(a, b)) fail_msg("%s: %s is not %s", name, json_dumps(b, 0), json_dumps(a, 0));
}

/* Where all windows are kept, by what `awq calibrate` wrote the same comes out as by the text. */
static void statistics_give_what_the_text_gives(void **state)
{
    static float expected[LENGTH * VOCABULARY], found[LENGTH * VOCABULARY];
    char stats[640], line[1024];
    const char *text;
    (void)state;
    snprintf(stats, sizeof stats, "%s/statistics", app_directory);
    for (int i = 0; i < RECIPES; i++) {
        write_model(&recipes[i]);
        snprintf(line, sizeof line, "M -o %s -f -q --text C --gram --search-tokens 1000", stats);
        if (run_line(&calibrate_command, line, &text) != EXIT_OK) fail_msg("calibrate: %s", text);
        json_t *by_text = quantize_json("M -o O -f --json --calib C --search-tokens 1000 --group-size 32"
                                        " --expert-tokens 70");
        run_model(out_path, expected);
        snprintf(line, sizeof line, "M -o O -f --json --stats %s --group-size 32 --expert-tokens 70", stats);
        json_t *by_stats = quantize_json(line);
        run_model(out_path, found);
        assert_same_report(recipes[i].type, by_text, by_stats);
        assert_memory_equal(expected, found, sizeof found);
        json_decref(by_text);
        json_decref(by_stats);
        /* Products of channels are rounded, and codes go by them. */
        snprintf(line, sizeof line, "M -o O -f -q --stats %s --preset best --bits 8 --group-size 32", stats);
        quantize(line);
        assert_close(0.1);
    }
    unlink(stats);
}

/* A run that fails when all blocks are done: a file of the model does not fit. */
static void quantize_on_a_full_disk(const char *line)
{
    enum { ROOM = 1 << 21 };
    static char notes[2 * ROOM];
    struct rlimit before, small;
    app_write("model/notes.txt", notes, sizeof notes);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = ROOM;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    refuse(line, EXIT_FAILED, "notes.txt");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    assert_int_equal(unlink(app_path("model/notes.txt")), 0);
}

/* Experts that stay float are known again from the journal of a run that could not end. */
static void a_journal_keeps_reports(void **state)
{
    static const char line[] = "M -o O -f -q --calib C --bits 8 --group-size 32 --expert-tokens 70"
                               " --expert-fallback float --resume";
    char journal[640], json_line[256];
    (void)state;
    write_model(&(struct recipe){.type = "mixtral", .keys = "", .dtype = AWQ_F16});
    snprintf(journal, sizeof journal, "%s.journal", out_path);
    snprintf(json_line, sizeof json_line, "%s --json", line);
    json_t *whole = quantize_json(json_line), *whole_config = quantization_config();
    assert_false(exists(journal, "key"));
    assert_true(json_array_size(json_object_get(whole_config, "ignore")) > 1 + LAYERS);
    quantize_on_a_full_disk(line);
    assert_true(exists(journal, "block-00001"));
    json_t *resumed = quantize_json(json_line), *resumed_config = quantization_config();
    assert_false(exists(journal, "key"));
    assert_same_report("resumed", whole, resumed);
    assert_true(json_equal(whole_config, resumed_config));
    json_decref(whole);
    json_decref(whole_config);
    json_decref(resumed);
    json_decref(resumed_config);
}

/* ---- files */

static void configuration_is_what_loaders_read(void **state)
{
    (void)state;
    write_model(&plain);
    quantize("M -o O -f -q --method rtn --group-size 32");
    assert_quantization_config("{\"quant_method\": \"awq\", \"version\": \"gemm\", \"bits\": 4, \"group_size\": 32,"
                               " \"zero_point\": true, \"modules_to_not_convert\": null}");
    quantize("M -o O -f -q --method rtn --group-size 32 --exclude 1.mlp.down");
    assert_quantization_config("{\"quant_method\": \"awq\", \"version\": \"gemm\", \"bits\": 4, \"group_size\": 32,"
                               " \"zero_point\": true,"
                               " \"modules_to_not_convert\": [\"lm_head\", \"model.layers.1.mlp.down_proj\"]}");
    quantize("M -o O -f -q --method rtn --group-size 32 --bits 3 --symmetric");
    assert_quantization_config("{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\","
                               " \"quantization_status\": \"compressed\", \"config_groups\": {\"group_0\":"
                               " {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 3, \"type\": \"int\","
                               " \"symmetric\": true, \"strategy\": \"group\", \"group_size\": 32, \"dynamic\": false},"
                               " \"input_activations\": null, \"output_activations\": null,"
                               " \"format\": \"pack-quantized\"}},"
                               " \"ignore\": [\"lm_head\"]}");
    quantize("M -o O -f -q --method rtn --group-size -1 --bits 8");
    json_t *config = quantization_config();
    const json_t *group = json_object_get(json_object_get(config, "config_groups"), "group_0");
    const json_t *weights = json_object_get(group, "weights");
    assert_string_equal(json_string_value(json_object_get(weights, "strategy")), "channel");
    assert_true(json_is_null(json_object_get(weights, "group_size")));
    json_decref(config);
}

static void what_lies_beside_is_carried_along(void **state)
{
    (void)state;
    write_model(&plain);
    quantize("M -o O -f -q --method rtn --group-size 32");
    assert_true(exists(out_path, "generation_config.json"));
    assert_true(exists(out_path, "chat_template.jinja"));
    assert_false(exists(out_path, "pytorch_model.bin"));
    assert_true(is_kept("lm_head.weight"));
    struct recipe tied = plain;
    tied.tied = true;
    write_model(&tied);
    quantize("M -o O -f -q --method rtn --group-size 32");
    awq_checkpoint *checkpoint = open_checkpoint(out_path);
    awq_tensor view;
    assert_int_equal(awq_checkpoint_get(checkpoint, "lm_head.weight", &view), AWQ_ERROR_NOT_FOUND);
    assert_int_equal(awq_checkpoint_get(checkpoint, "model.layers.0.mlp.up_proj.weight", &view), AWQ_ERROR_NOT_FOUND);
    assert_int_equal(awq_checkpoint_get(checkpoint, "model.layers.0.mlp.up_proj.qweight", &view), AWQ_OK);
    awq_checkpoint_destroy(checkpoint);
}

/* ---- mistakes and damage */

static void wrong_usage_is_told_from_failure(void **state)
{
    (void)state;
    write_model(&plain);
    refuse("M --calib C", EXIT_USAGE, "--out is missing");
    refuse("M -o O", EXIT_USAGE, "--calib is missing");
    refuse("M -o O --calib C --bits 5", EXIT_USAGE, "--bits is 2, 3, 4 or 8, not 5");
    refuse("M -o O --calib C --bits 3 --version gemm", EXIT_USAGE, "gemm holds 4 bits, not 3");
    refuse("M -o O --calib C --group-size 0", EXIT_USAGE, "--group-size");
    refuse("M -o O --calib C --zero-point --symmetric", EXIT_USAGE, "exclude each other");
    refuse("M -o O --calib C --profile llm-awq --symmetric", EXIT_USAGE, "no symmetric quantiser");
    refuse("M -o O --calib C --exclude [", EXIT_USAGE, "--exclude '['");
    refuse("M -o O --calib C --smooth-factor 2", EXIT_USAGE, "--smooth-factor");
    refuse("M -o O --calib C --profile gptq", EXIT_USAGE, "--profile is one of auto|exact|autoawq|llm-awq");
    assert_nothing_written();
}

static void damaged_models_are_refused(void **state)
{
    (void)state;
    struct recipe recipe = plain;
    recipe.poisoned = "model.layers.1.mlp.up_proj.weight";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED,
           "model.layers.1.mlp.up_proj.weight: row 0, column 37 is not a finite number");
    refuse("M -o O --method rtn --group-size 32", EXIT_FAILED, "row 0, column 37");
    recipe.poisoned = "model.layers.0.input_layernorm.weight";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED, "model.layers.0.input_layernorm.weight: row 0, column 37");
    recipe = plain;
    recipe.missing = "model.layers.1.self_attn.o_proj.weight";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED, "no tensor model.layers.1.self_attn.o_proj.weight");
    recipe.missing = "model.norm.weight";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED, "no tensor model.norm.weight");
    recipe = plain;
    recipe.misshapen = "model.layers.1.self_attn.k_proj.weight";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED,
           "k_proj.weight: has shape [31, 64]; config.json makes it [32, 64]");
    recipe = plain;
    recipe.type = "gpt2";
    write_model(&recipe);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED, "'gpt2' is not supported");
    char path[700];
    write_model(&plain);
    snprintf(path, sizeof path, "%s/model.safetensors", model_path);
    assert_int_equal(truncate(path, 50000), 0);
    refuse("M -o O --calib C --group-size 32", EXIT_FAILED, "model.safetensors");
    assert_nothing_written();
}

static void unfit_requests_are_refused(void **state)
{
    (void)state;
    const char *text;
    write_model(&plain);
    refuse("M -o O --calib C --group-size 48", EXIT_FAILED, "gemm");
    refuse("M -o O --calib C --bits 8 --group-size 48", EXIT_FAILED, "the last group");
    refuse("M -o O --calib C --group-size 32 --scale-dtype f32", EXIT_FAILED, "gemm");
    refuse("M -o O --calib C --group-size 32 --exclude .", EXIT_FAILED, "no linear to quantise");
    refuse("M -o O --calib /nonexistent.u16 --group-size 32", EXIT_FAILED, "/nonexistent.u16");
    refuse("M -o O --calib C --group-size 32 --memory-limit 100K", EXIT_FAILED, "but --memory-limit is 100.00 KiB");
    refuse("/nonexistent -o O --calib C", EXIT_FAILED, "/nonexistent/config.json");
    refuse("M -o /proc/nowhere/out --calib C --group-size 32", EXIT_FAILED, "/proc/nowhere");
    refuse("M -o M --calib C --group-size 32 --force", EXIT_FAILED, "is the model itself");
    assert_nothing_written();
    int exit_code = run_line(&quantize_command, "M -o O -q --method rtn --group-size 32 --exclude lm_head", &text);
    assert_int_equal(exit_code, EXIT_OK);
    assert_contains(text, "'lm_head' is found in the name of no linear");
}

static void other_directories_are_not_replaced(void **state)
{
    (void)state;
    char file[700];
    write_model(&plain);
    quantize("M -o O -q --method rtn --group-size 32");
    refuse("M -o O -q --method rtn --group-size 32", EXIT_FAILED, "exists already; --force replaces it");
    refuse("O -o O/twice --method rtn", EXIT_FAILED, "is quantised already");
    snprintf(file, sizeof file, "%s/config.json", out_path);
    assert_int_equal(unlink(file), 0);
    refuse("M -o O -q --method rtn --group-size 32 --force", EXIT_FAILED, "no directory of a model: not replaced");
    assert_true(exists(out_path, "model.safetensors"));
}

/* ---- memory */

static void the_estimate_is_kept(void **state)
{
    (void)state;
    char line[256];
    write_model(&plain);
    quantize("M -o O -f -q --calib C --group-size 32");
    for (uint64_t limit = 64 << 10;; limit += limit / 16) {
        const char *text;
        assert_true(limit < 64 << 20);
        snprintf(line, sizeof line, "M -o O -f -q --calib C --group-size 32 --memory-limit %llu",
                 (unsigned long long)limit);
        if (run_line(&quantize_command, line, &text) == EXIT_OK) return;
        assert_contains(text, "quantising this model takes about");
    }
}

/* ---- the twin */

static void a_twin_computes_the_same(void **state)
{
    (void)state;
    static const struct recipe cases[] = {
        {.type = "llama", .keys = "", .tied = true, .dtype = AWQ_F32},
        {.type = "qwen2", .keys = "", .qkv_bias = true, .dtype = AWQ_F16},
        {.type = "phi3", .keys = "", .dtype = AWQ_F32},
        {.type = "gemma", .keys = "", .tied = true, .dtype = AWQ_F32},
        {.type = "opt", .keys = "", .qkv_bias = true, .output_bias = true, .mlp_bias = true, .tied = true,
         .dtype = AWQ_F32},
    };
    const char *text;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_model(&cases[i]);
        assert_int_equal(run_line(&outliers_command, "M -o O -f --fraction 0.05 --seed 3", &text), EXIT_OK);
        assert_close(cases[i].dtype == AWQ_F32 ? 1e-5 : 2e-3);
        const struct architecture *names = architecture_of_type(cases[i].type);
        const char *const changed[] = {names->attention_norm, names->linears[LINEAR_O], names->linears[LINEAR_DOWN]};
        for (int j = 0; j < 3; j++) {
            char name[TENSOR_NAME_SIZE];
            snprintf(name, sizeof name, "%s.1.%s.weight", names->blocks, changed[j]);
            assert_false(is_kept(name));
        }
    }
    assert_int_equal(run_line(&outliers_command, "M -o O -f --range 40,8", &text), EXIT_USAGE);
    assert_contains(text, "--range");
    assert_int_equal(run_line(&outliers_command, "M", &text), EXIT_USAGE);
}

/* ---- interruption; the last test, as it cannot be taken back */

static void an_interrupted_run_leaves_nothing(void **state)
{
    (void)state;
    write_model(&plain);
    progress_catch_interrupts();
    raise(SIGINT);
    refuse("M -o O -q --calib C --group-size 32", EXIT_FAILED, "interrupted");
    refuse("M -o O -q --method rtn --group-size 32", EXIT_FAILED, "interrupted");
    assert_nothing_written();
}

/* ---- fixture */

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position)
{
    (void)info;
    (void)type;
    (void)position;
    return remove(path);
}

static int setup(void **state)
{
    uint16_t ids[WINDOWS * LENGTH];
    if (app_setup(state) != 0 || awq_context_create(NULL, &context) != AWQ_OK) return -1;
    snprintf(model_path, sizeof model_path, "%s/model", app_directory);
    snprintf(out_path, sizeof out_path, "%s/out", app_directory);
    snprintf(calib_path, sizeof calib_path, "%s/calib.u16", app_directory);
    random_state = 1;
    for (int i = 0; i < WINDOWS * LENGTH; i++) ids[i] = (uint16_t)((next_random() + 1) / 2 * VOCABULARY);
    app_write("calib.u16", ids, sizeof ids);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return nftw(app_directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    signal(SIGINT, SIG_DFL); /* background jobs inherit it ignored, which the program respects */
    const struct CMUnitTest tests[] = {
        TEST(every_architecture_keeps_its_function),
        TEST(every_architecture_is_converted),
        TEST(scarce_experts_are_told_of),
        TEST(excluded_linears_keep_the_function),
        TEST(every_setting_gives_a_model_that_runs),
        TEST(every_chunk_of_windows_counts),
        TEST(statistics_give_what_the_text_gives),
        TEST(a_journal_keeps_reports),
        TEST(configuration_is_what_loaders_read),
        TEST(what_lies_beside_is_carried_along),
        TEST(wrong_usage_is_told_from_failure),
        TEST(damaged_models_are_refused),
        TEST(unfit_requests_are_refused),
        TEST(other_directories_are_not_replaced),
        TEST(the_estimate_is_kept),
        TEST(a_twin_computes_the_same),
        TEST(an_interrupted_run_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
