/* GGUF: block formats, whole files of the embedded model, and files that lie. */
#include <limits.h>
#include <math.h>

#include "app.h"
#include "commands.h"
#include "gguf.h"
#include "model.h"

static const char model_directory[] = "examples/models/docs-6m";
static awq_context *context;

/* splitmix64, in [-1, 1) */
static uint64_t random_state;

static uint64_t random_bits(void)
{
    uint64_t x = random_state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static float random_value(void)
{
    return (float)((double)(random_bits() >> 11) * 0x1p-52 - 1);
}

/* ---- blocks */

static void halves_are_those_of_ieee(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 65536; half++) {
        unsigned char bytes[2] = {(unsigned char)half, (unsigned char)(half >> 8)}, again[2];
        float value, next;
        gguf_decode_row(GGUF_F16, bytes, 1, &value);
        if (isnan(value)) continue;
        gguf_encode_row(GGUF_F16, &value, 1, again);
        assert_memory_equal(bytes, again, 2);
        if ((half & 0x7fff) >= 0x7bff) continue;
        /* Just below the middle between neighbours goes down, just above up, the middle to the even one. */
        unsigned char up[2] = {(unsigned char)(half + 1), (unsigned char)((half + 1) >> 8)};
        gguf_decode_row(GGUF_F16, up, 1, &next);
        float middle = (float)(((double)value + (double)next) / 2);
        gguf_encode_row(GGUF_F16, &middle, 1, again);
        assert_memory_equal(again, half & 1 ? up : bytes, 2);
        float above = nextafterf(middle, next);
        gguf_encode_row(GGUF_F16, &above, 1, again);
        assert_memory_equal(again, up, 2);
    }
    float large = 65520;
    unsigned char infinite[2];
    gguf_encode_row(GGUF_F16, &large, 1, infinite);
    assert_int_equal(infinite[1] << 8 | infinite[0], 0x7c00);
}

static void blocks_have_their_bytes(void **state)
{
    float values[GGUF_BLOCK], back[GGUF_BLOCK];
    unsigned char block[34];
    (void)state;
    assert_int_equal(gguf_row_bytes(GGUF_Q4_0, 64), 36);
    assert_int_equal(gguf_row_bytes(GGUF_Q4_1, 64), 40);
    assert_int_equal(gguf_row_bytes(GGUF_Q8_0, 64), 68);
    assert_int_equal(gguf_row_bytes(GGUF_Q4_0, 48), 0);
    assert_int_equal(gguf_row_bytes(7, 32), 0);

    /* The value of largest magnitude is code 0, and scale -1/8 of it: -8 .. 7 are the codes 0 .. 15 of scale 1. */
    for (int i = 0; i < GGUF_BLOCK; i++) values[i] = (float)(i % 16 - 8);
    gguf_encode_row(GGUF_Q4_0, values, GGUF_BLOCK, block);
    assert_int_equal(block[0] | block[1] << 8, 0x3c00);
    for (int j = 0; j < 16; j++) assert_int_equal(block[2 + j], j << 4 | j);
    gguf_decode_row(GGUF_Q4_0, block, GGUF_BLOCK, back);
    assert_memory_equal(values, back, sizeof values);

    for (int i = 0; i < GGUF_BLOCK; i++) values[i] = (float)(i % 16) / 2 - 3;
    gguf_encode_row(GGUF_Q4_1, values, GGUF_BLOCK, block);
    assert_int_equal(block[0] | block[1] << 8, 0x3800);
    assert_int_equal(block[2] | block[3] << 8, 0xc200);
    gguf_decode_row(GGUF_Q4_1, block, GGUF_BLOCK, back);
    assert_memory_equal(values, back, sizeof values);

    for (int i = 0; i < GGUF_BLOCK; i++) values[i] = (float)(i % 2 ? -i : 127 - i);
    gguf_encode_row(GGUF_Q8_0, values, GGUF_BLOCK, block);
    assert_int_equal(block[2], 127);
    assert_int_equal(block[3], 255);
    gguf_decode_row(GGUF_Q8_0, block, GGUF_BLOCK, back);
    assert_memory_equal(values, back, sizeof values);

    memset(values, 0, sizeof values);
    for (int type = GGUF_Q4_0; type <= GGUF_Q8_0; type++) {
        if (!gguf_type_name((uint32_t)type)) continue;
        gguf_encode_row((enum gguf_type)type, values, GGUF_BLOCK, block);
        gguf_decode_row((enum gguf_type)type, block, GGUF_BLOCK, back);
        assert_memory_equal(values, back, sizeof values);
    }
}

static void rounding_errs_by_half_a_step(void **state)
{
    (void)state;
    random_state = 7;
    for (int round = 0; round < 2000; round++) {
        float values[GGUF_BLOCK], back[GGUF_BLOCK], least = INFINITY, most = -INFINITY;
        unsigned char block[34];
        float size = ldexpf(1, (int)(random_bits() % 16) - 8), shift = round % 3 ? 0 : random_value();
        for (int i = 0; i < GGUF_BLOCK; i++) {
            values[i] = size * (random_value() + shift);
            least = fminf(least, values[i]);
            most = fmaxf(most, values[i]);
        }
        const float magnitude = fmaxf(fabsf(least), fabsf(most));
        const struct {
            enum gguf_type type;
            float step;
        } types[] = {{GGUF_Q4_0, magnitude / 8}, {GGUF_Q4_1, (most - least) / 15}, {GGUF_Q8_0, magnitude / 127}};
        for (int t = 0; t < 3; t++) {
            gguf_encode_row(types[t].type, values, GGUF_BLOCK, block);
            gguf_decode_row(types[t].type, block, GGUF_BLOCK, back);
            /* Q4_0 has no code for +8; halves round scale and minimum. */
            for (int i = 0; i < GGUF_BLOCK; i++) {
                float slack = magnitude * 0x1p-9f + 0x1p-20f;
                bool edge = types[t].type == GGUF_Q4_0 && fabsf(values[i]) > 7.5f * types[t].step;
                float allowed = types[t].step * (edge ? 1.0f : 0.5f) + slack;
                if (fabsf(values[i] - back[i]) > allowed)
                    fail_msg("round %d, type %d: %g became %g, step %g", round, types[t].type, (double)values[i],
                             (double)back[i], (double)types[t].step);
            }
        }
    }
}

/* ---- whole files */

static int run_command(const struct cli_command *command, const char *line)
{
    char text[512], *arguments[16];
    int count = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word = strtok(text, " "); word && count < 16; word = strtok(NULL, " ")) arguments[count++] = word;
    return cli_run(command, count, arguments);
}

static bool write_gguf(const char *source, const char *type)
{
    char line[512];
    snprintf(line, sizeof line, "%s -o %s/x.gguf -f -q --type %s", source, app_directory, type);
    return run_command(&gguf_command, line) == EXIT_OK;
}

/* llama.cpp's permutation, in the words of its converter: reshape(heads, 2, d / 2), swap the last two. */
static int64_t permuted(int64_t row, int64_t rows, int64_t heads)
{
    int64_t d = rows / heads, head = row / d, pair = row % d / 2, half = row % 2;
    return (head * 2 + half) * (d / 2) + pair;
}

static void check_linear(const struct gguf_tensor *tensor, const float *dense, int64_t n, int64_t k, int64_t heads,
                         bool exact)
{
    float *row = malloc((size_t)k * sizeof *row);
    unsigned char *bytes = malloc((size_t)k * 4);
    const uint64_t row_bytes = gguf_row_bytes(tensor->type, k);
    assert_int_equal(tensor->ndim, 2);
    assert_int_equal(tensor->shape[0], n);
    assert_int_equal(tensor->shape[1], k);
    for (int64_t i = 0; i < n; i++) {
        const float *source = dense + (heads ? permuted(i, n, heads) : i) * k;
        if (exact) {
            gguf_encode_row((enum gguf_type)tensor->type, source, k, bytes);
            assert_memory_equal(tensor->data + (uint64_t)i * row_bytes, bytes, row_bytes);
            continue;
        }
        gguf_decode_row((enum gguf_type)tensor->type, tensor->data + (uint64_t)i * row_bytes, k, row);
        float most = 0; /* a minimum is less than twice that, and was rounded to a half; Q4_0 has none */
        for (int64_t j = 0; j < k && tensor->type == GGUF_Q4_1; j++) most = fmaxf(most, fabsf(source[j]));
        for (int64_t j = 0; j < k; j++)
            if (fabsf(row[j] - source[j]) > 0x1p-9f * most)
                fail_msg("%s: [%lld][%lld] is %g, not %g", tensor->name, (long long)i, (long long)j, (double)row[j],
                         (double)source[j]);
    }
    free(bytes);
    free(row);
}

/* All linears of a file against a model's, exactly as rounding gives them, or nearly where codes were taken over. */
static void check_model(const char *directory, bool exact)
{
    static const char *const names[] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"};
    struct model_config config;
    struct gguf_file file;
    awq_checkpoint *checkpoint;
    assert_true(model_config_load(directory, &config));
    assert_int_equal(awq_checkpoint_open(context, directory, &checkpoint), AWQ_OK);
    assert_true(gguf_open(app_path("x.gguf"), &file));
    for (int64_t layer = 0; layer < config.layers; layer++) {
        struct block_weights weights;
        assert_true(block_weights_load(context, checkpoint, &config, layer, &weights));
        for (int linear = 0; linear < LINEAR_KINDS; linear++) {
            int64_t n, k, heads = linear == LINEAR_Q ? config.heads : linear == LINEAR_K ? config.kv_heads : 0;
            char name[64];
            block_linear_shape(&config, linear, &n, &k);
            snprintf(name, sizeof name, "blk.%d.%s.weight", (int)layer, names[linear]);
            const struct gguf_tensor *tensor = gguf_find(&file, name);
            float *dense = malloc((size_t)(n * k) * sizeof *dense);
            awq_tensor view;
            awq_tensor_init_2d(&view, dense, AWQ_F32, n, k);
            assert_non_null(tensor);
            const struct linear_weights *source = &weights.linear[linear];
            assert_int_equal(source->quantized ? awq_weight_dequantize(source->quantized, 0, &view)
                                               : awq_tensor_copy(context, &source->dense, &view, NULL),
                             AWQ_OK);
            check_linear(tensor, dense, n, k, heads, exact);
            free(dense);
        }
        block_weights_clear(&weights);
    }
    gguf_close(&file);
    awq_checkpoint_destroy(checkpoint);
    model_config_clear(&config);
}

static void linears_are_in_their_places(void **state)
{
    static const char *const types[] = {"f16", "q8_0", "q4_0", "q4_1"};
    (void)state;
    for (int i = 0; i < 4; i++) {
        assert_true(write_gguf(model_directory, types[i]));
        check_model(model_directory, true);
    }
}

/* Codes of a quantised model stay what they are, in the type that can hold them. */
static void codes_are_kept(void **state)
{
    static const struct {
        const char *options, *type;
        bool kept;
    } cases[] = {
        {"--group-size 64", "q4_1", true},
        {"--group-size 32 --symmetric", "q4_0", true},
        {"--group-size 64", "q4_0", false},
        {"--group-size 64 --bits 3", "q4_1", false},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char line[512], source[256];
        snprintf(source, sizeof source, "%s/model", app_directory);
        snprintf(line, sizeof line, "%s -o %s -f -q --method rtn %s", model_directory, source, cases[i].options);
        assert_int_equal(run_command(&quantize_command, line), EXIT_OK);
        assert_true(write_gguf(source, cases[i].type));
        check_model(source, !cases[i].kept);
        snprintf(line, sizeof line, "rm -r %s", source);
        assert_int_equal(system(line), 0);
    }
}

static void metadata_is_what_llama_cpp_reads(void **state)
{
    struct gguf_file file;
    (void)state;
    assert_true(write_gguf(model_directory, "q4_0"));
    assert_true(gguf_open(app_path("x.gguf"), &file));
    const json_t *metadata = file.metadata;
    assert_string_equal(json_string_value(json_object_get(metadata, "general.architecture")), "llama");
    assert_int_equal(json_integer_value(json_object_get(metadata, "llama.block_count")), 6);
    assert_int_equal(json_integer_value(json_object_get(metadata, "llama.attention.head_count_kv")), 4);
    assert_int_equal(json_integer_value(json_object_get(metadata, "general.file_type")), 2);
    assert_string_equal(json_string_value(json_object_get(metadata, "tokenizer.ggml.model")), "llama");
    assert_true(json_is_true(json_object_get(metadata, "tokenizer.ggml.add_bos_token")));
    const json_t *tokens = json_object_get(metadata, "tokenizer.ggml.tokens");
    assert_int_equal(json_integer_value(json_object_get(tokens, "count")), 4096);
    for (size_t i = 0; i < file.count; i++)
        assert_int_equal((uintptr_t)file.tensors[i].data % 32, (uintptr_t)file.mapping % 32);
    assert_null(gguf_find(&file, "output.weight")); /* tied */
    gguf_close(&file);
}

/* The embedded model with another tokenizer. */
static bool write_with_tokenizer(const char *name, const char *options)
{
    char line[512], path[256], link[PATH_MAX];
    snprintf(path, sizeof path, "test/data/tokenizers/%s/tokenizer.json", name);
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (int i = 0; i < 3; i++) {
        char source[256];
        snprintf(source, sizeof source, "%s/%s", model_directory, files[i % 2]);
        assert_non_null(realpath(i < 2 ? source : path, link));
        assert_int_equal(symlink(link, app_path(i < 2 ? files[i] : "tokenizer.json")), 0);
    }
    snprintf(line, sizeof line, "%s -o %s/x.gguf -f -q --type q8_0 %s", app_directory, app_directory, options);
    bool ok = run_command(&gguf_command, line) == EXIT_OK;
    for (int i = 0; i < 3; i++) assert_int_equal(unlink(app_path(i < 2 ? files[i] : "tokenizer.json")), 0);
    return ok;
}

static void tokenizers_of_all_kinds_are_taken(void **state)
{
    static const struct {
        const char *name, *model, *pre;
    } cases[] = {{"llama3", "gpt2", "llama-bpe"}, {"qwen2", "gpt2", "qwen2"}, {"llama2", "llama", "default"},
                 {"mistral", "llama", "default"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct gguf_file file;
        assert_true(write_with_tokenizer(cases[i].name, ""));
        assert_true(gguf_open(app_path("x.gguf"), &file));
        const json_t *merges = json_object_get(file.metadata, "tokenizer.ggml.merges");
        const json_t *scores = json_object_get(file.metadata, "tokenizer.ggml.scores");
        const bool bytes = strcmp(cases[i].model, "gpt2") == 0;
        assert_string_equal(json_string_value(json_object_get(file.metadata, "tokenizer.ggml.model")), cases[i].model);
        assert_string_equal(json_string_value(json_object_get(file.metadata, "tokenizer.ggml.pre")), cases[i].pre);
        assert_int_equal(merges != NULL, bytes);
        assert_int_equal(json_integer_value(json_object_get(scores, "count")), bytes ? 0 : 4096);
        gguf_close(&file);
    }
    app_capture();
    assert_false(write_with_tokenizer("gpt2-prefix-space", ""));
    assert_contains(app_release(), "its pre-tokenizer is not recognised; --pre gives the name");
    assert_true(write_with_tokenizer("gpt2-prefix-space", "--pre gpt-2"));
}

/* ---- files that lie */

static unsigned char *read_whole(size_t *size)
{
    FILE *stream = fopen(app_path("x.gguf"), "rb");
    assert_non_null(stream);
    unsigned char *bytes = malloc(1 << 24);
    *size = fread(bytes, 1, 1 << 24, stream);
    fclose(stream);
    return bytes;
}

/* Whatever is wrong with a file, it is refused, or what is read lies within it. */
static void damaged_files_are_refused(void **state)
{
    struct gguf_file file;
    size_t size;
    (void)state;
    assert_true(write_gguf(model_directory, "q4_0"));
    unsigned char *bytes = read_whole(&size);
    app_capture();
    for (int i = 0; i < 300; i++) {
        app_write("cut.gguf", bytes, size * (size_t)i / 300);
        assert_false(gguf_open(app_path("cut.gguf"), &file));
    }
    random_state = 11;
    for (int i = 0; i < 1000; i++) {
        unsigned char kept[4096];
        size_t end = 4000, at = (size_t)(random_bits() % end);
        memcpy(kept, bytes, sizeof kept);
        for (int j = 0; j < 1 + i % 3; j++) bytes[(at + (size_t)j) % end] = (unsigned char)random_bits();
        app_write("odd.gguf", bytes, 200000);
        if (gguf_open(app_path("odd.gguf"), &file)) gguf_close(&file);
        memcpy(bytes, kept, sizeof kept);
    }
    app_write("odd.gguf", bytes, 200000);
    assert_false(gguf_open(app_path("odd.gguf"), &file));
    assert_contains(app_release(), "beyond the end of the file");
    free(bytes);
}

static void refusals_leave_no_file(void **state)
{
    char line[512];
    (void)state;
    app_write_text("config.json", "{\"model_type\": \"gpt2\"}");
    app_capture();
    snprintf(line, sizeof line, "%s -o %s/y.gguf", app_directory, app_directory);
    assert_int_equal(run_command(&gguf_command, line), EXIT_FAILED);
    assert_contains(app_release(), "'gpt2' is not supported");
    assert_int_not_equal(access(app_path("y.gguf"), F_OK), 0);
    app_write_text("y.gguf", "here");
    app_capture();
    snprintf(line, sizeof line, "%s -o %s/y.gguf", model_directory, app_directory);
    assert_int_equal(run_command(&gguf_command, line), EXIT_FAILED);
    assert_contains(app_release(), "exists already");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(halves_are_those_of_ieee),
        cmocka_unit_test(blocks_have_their_bytes),
        cmocka_unit_test(rounding_errs_by_half_a_step),
        cmocka_unit_test_setup_teardown(linears_are_in_their_places, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(codes_are_kept, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(metadata_is_what_llama_cpp_reads, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(tokenizers_of_all_kinds_are_taken, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(refusals_leave_no_file, app_setup, app_teardown),
    };
    if (awq_context_create(NULL, &context) != AWQ_OK) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    awq_context_destroy(context);
    return failed;
}
