/* Tokenizers of the host application: vocabularies as published models have them, against ids of other
 * implementations; damaged and hostile files; bytes that are no UTF-8.
 *
 *   app_tokenizer --records DIRECTORY
 *
 * serves test/interop/tokenizer.py: reads records of kind (u32), size (u32) and bytes from stdin and answers each with
 * size (u32) and bytes: the ids (i32) of a text (kind 0), or the text of ids (kind 1). */
#include "app.h"
#include "tokenizer.h"
#include "tokenizer_json.h"
#include "reason.h"
#include "utf8.h"

#define MODEL "examples/models/docs-6m"

/* ------------------------------------------------------------------- against other implementations */

static void check_decoding(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, const char *wanted,
                           size_t length)
{
    struct text_buffer text = {0}, streamed = {0};
    struct token_stream stream;
    assert_true(tokenizer_decode(tokenizer, ids, count, &text));
    assert_int_equal(text.length, length);
    if (length) assert_memory_equal(text.bytes, wanted, length);

    token_stream_begin(&stream, tokenizer);
    for (size_t i = 0; i < count; i++) {
        uint32_t character;
        assert_true(token_stream_push(&stream, ids[i], &streamed));
        /* Only whole characters come out. */
        for (size_t at = 0; at < streamed.length;) {
            int bytes = utf8_decode(streamed.bytes + at, streamed.length - at, &character);
            assert_true(bytes > 0);
            at += (size_t)bytes;
        }
    }
    assert_true(token_stream_end(&stream, &streamed));
    assert_int_equal(streamed.length, length);
    if (length) assert_memory_equal(streamed.bytes, wanted, length);
    text_buffer_free(&text);
    text_buffer_free(&streamed);
}

static void check_expectations(const char *name)
{
    char path[128];
    struct tokenizer *tokenizer;
    snprintf(path, sizeof path, "test/data/tokenizers/%s/expected.json", name);
    json_t *rows = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_true(json_array_size(rows) > 20);
    snprintf(path, sizeof path, "test/data/tokenizers/%s", name);
    assert_true(tokenizer_open(path, &tokenizer));
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *text = json_object_get(row, "text");
        const json_t *wanted = json_object_get(row, "ids"), *decoded = json_object_get(row, "decoded");
        struct id_buffer ids = {0};
        assert_true(tokenizer_encode(tokenizer, json_string_value(text), json_string_length(text), true, &ids));
        assert_int_equal(ids.count, json_array_size(wanted));
        for (size_t j = 0; j < ids.count; j++)
            assert_int_equal(ids.ids[j], json_integer_value(json_array_get(wanted, j)));
        check_decoding(tokenizer, ids.ids, ids.count, json_string_value(decoded), json_string_length(decoded));
        id_buffer_free(&ids);
    }
    tokenizer_close(tokenizer);
    json_decref(rows);
}

static void expectations_hold(void **state)
{
    (void)state;
    check_expectations("gpt2-prefix-space");
    check_expectations("llama3");
    check_expectations("qwen2");
    check_expectations("llama2");
    check_expectations("mistral");
    check_expectations("unknown-fused");
}

static void sentencepiece_model(void **state)
{
    (void)state;
    static const char text[] = "Hello   w\xC3\xB6rld \xF0\x9F\x99\x82\nx";
    static const int32_t wanted[] = {1,    616,  335, 308, 260, 289, 199, 186, 4010,
                                     1098, 4002, 244, 163, 157, 134, 3,   4035};
    struct tokenizer *tokenizer;
    struct id_buffer ids = {0};
    assert_true(tokenizer_open(MODEL, &tokenizer));
    assert_int_equal(tokenizer_vocabulary(tokenizer), 4096);
    assert_int_equal(tokenizer_bos(tokenizer), 1);
    assert_true(tokenizer_is_eos(tokenizer, 2));
    assert_false(tokenizer_is_eos(tokenizer, 1));
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), true, &ids));
    assert_int_equal(ids.count, sizeof wanted / sizeof *wanted);
    assert_memory_equal(ids.ids, wanted, sizeof wanted);
    check_decoding(tokenizer, ids.ids, ids.count, text, strlen(text));
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);
}

static void broken_utf8_counts_as_replacement_characters(void **state)
{
    (void)state;
    static const struct {
        const char *broken, *whole;
    } cases[] = {
        {"\xE2\x28\xA1", "\xEF\xBF\xBD(\xEF\xBF\xBD"},
        {"a\xF0\x9F\x99", "a\xEF\xBF\xBD"},
        {"\xC0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xED\xA0\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xF4\x90\x80\x80", "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD"},
        {"\xFF", "\xEF\xBF\xBD"},
    };
    static const char *const models[] = {MODEL, "test/data/tokenizers/qwen2", "test/data/tokenizers/llama2"};
    for (size_t m = 0; m < 3; m++) {
        struct tokenizer *tokenizer;
        assert_true(tokenizer_open(models[m], &tokenizer));
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct id_buffer broken = {0}, whole = {0};
            assert_true(tokenizer_encode(tokenizer, cases[i].broken, strlen(cases[i].broken), false, &broken));
            assert_true(tokenizer_encode(tokenizer, cases[i].whole, strlen(cases[i].whole), false, &whole));
            assert_int_equal(broken.count, whole.count);
            assert_memory_equal(broken.ids, whole.ids, whole.count * sizeof *whole.ids);
            id_buffer_free(&broken);
            id_buffer_free(&whole);
        }
        tokenizer_close(tokenizer);
    }
}

/* An id out of range is skipped, and a character cut off at the end is one U+FFFD. */
static void odd_ids_decode(void **state)
{
    (void)state;
    static const int32_t ids[] = {-1, 4096, INT32_MAX, 616, 244, 163};
    struct tokenizer *tokenizer;
    assert_true(tokenizer_open(MODEL, &tokenizer));
    check_decoding(tokenizer, ids, sizeof ids / sizeof *ids, "H\xEF\xBF\xBD", 4);
    tokenizer_close(tokenizer);
    assert_true(tokenizer_open("test/data/tokenizers/llama3", &tokenizer));
    check_decoding(tokenizer, ids, 3, "", 0);
    tokenizer_close(tokenizer);
}

/* -------------------------------------------------------------------------------- special tokens */

/* A vocabulary of letters, bytes of which the model beside it has no say. */
static const char small[] =
    "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"<s>\": 3, \"</s>\": 4}, \"merges\": "
    "[\"a b\"]},"
    " \"added_tokens\": [{\"id\": 3, \"content\": \"<s>\", \"special\": true}, {\"id\": 4, \"content\": \"</s>\","
    " \"special\": true}, {\"id\": 9, \"content\": \"<end>\", \"special\": true}], \"decoder\": {\"type\": \"Fuse\"}}";

static void special_tokens_come_from_the_files_beside(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct id_buffer ids = {0};
    app_write_text("tokenizer.json", small);
    assert_true(tokenizer_open(app_directory, &tokenizer));
    assert_int_equal(tokenizer_vocabulary(tokenizer), 10);
    assert_int_equal(tokenizer_bos(tokenizer), -1);
    assert_false(tokenizer_is_eos(tokenizer, 4));
    tokenizer_close(tokenizer);

    app_write_text("config.json", "{\"eos_token_id\": 4}");
    app_write_text("generation_config.json", "{\"eos_token_id\": [4, 9]}");
    app_write_text("tokenizer_config.json", "{\"add_bos_token\": true, \"bos_token\": {\"content\": \"<s>\"}}");
    assert_true(tokenizer_open(app_directory, &tokenizer));
    assert_int_equal(tokenizer_bos(tokenizer), 3);
    assert_true(tokenizer_is_eos(tokenizer, 4) && tokenizer_is_eos(tokenizer, 9));
    assert_true(tokenizer_encode(tokenizer, "ab<end>a", 8, true, &ids));
    static const int32_t wanted[] = {3, 2, 9, 0};
    assert_int_equal(ids.count, 4);
    assert_memory_equal(ids.ids, wanted, sizeof wanted);
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);

    app_write_text("tokenizer_config.json",
                   "{\"add_bos_token\": true, \"add_eos_token\": true, \"eos_token\": \"<end>\"}");
    app_write_text("config.json", "{\"bos_token_id\": 3}");
    assert_true(tokenizer_open(app_directory, &tokenizer));
    assert_true(tokenizer_encode(tokenizer, "a", 1, true, &ids));
    static const int32_t around[] = {3, 0, 9};
    assert_int_equal(ids.count, 3);
    assert_memory_equal(ids.ids, around, sizeof around);
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);
}

/* ----------------------------------------------------------------------------------- refusals */

/* Refused, with 'part' in the reason. */
static void check_refused(const char *text, const char *part)
{
    char reason[REASON_SIZE] = "";
    json_error_t error;
    json_t *json = json_loads(text, 0, &error);
    if (!json) fail_msg("line %d: %s in %s", error.line, error.text, text);
    assert_null(tokenizer_json_create(json, reason));
    assert_contains(reason, part);
    json_decref(json);
}

static void check_component_refused(const char *component, const char *part)
{
    char text[1024];
    snprintf(
        text, sizeof text,
        "{%s \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": []}, \"decoder\": {\"type\": \"Fuse\"}}",
        component);
    check_refused(text, part);
}

static void check_model_refused(const char *model, const char *part)
{
    char text[1024];
    snprintf(text, sizeof text, "{\"model\": {%s}, \"decoder\": {\"type\": \"Fuse\"}}", model);
    check_refused(text, part);
}

static void unknown_components_are_refused_by_name(void **state)
{
    (void)state;
    check_component_refused("\"normalizer\": {\"type\": \"NFKC\"},", "NFKC");
    check_component_refused("\"normalizer\": {\"type\": \"Sequence\", \"normalizers\": [{\"type\": \"Lowercase\"}]},",
                            "Lowercase");
    check_component_refused("\"normalizer\": {\"type\": \"Replace\", \"pattern\": 1, \"content\": \"\"},", "pattern");
    check_component_refused("\"normalizer\": {\"type\": \"Prepend\"},", "Prepend");
    check_component_refused("\"normalizer\": 5,", "type is missing");
    check_component_refused("\"pre_tokenizer\": {\"type\": \"Whitespace\"},", "Whitespace");
    check_component_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"ab\"},",
                            "not one character");
    check_component_refused("\"pre_tokenizer\": {\"type\": \"Metaspace\", \"prepend_scheme\": \"twice\"},", "twice");
    check_component_refused(
        "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"Lost\"},", "Lost");
    check_component_refused(
        "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"String\": \"\"}, \"behavior\": \"Isolated\"},",
        "empty");
    check_component_refused("\"post_processor\": {\"type\": \"BertProcessing\"},", "BertProcessing");
    check_component_refused(
        "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"x\"}}]},",
        "special token x");
    check_component_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": []},", "the text once");
    /* Such an id once came out of tokenizer_encode, which promises ids of the vocabulary. */
    check_component_refused("\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": "
                            "\"x\"}}, {\"Sequence\": {}}], \"special_tokens\": {\"x\": {\"ids\": [1000000]}}},",
                            "token 1000000 is none");
    check_component_refused("\"added_tokens\": [{\"id\": 1, \"content\": \"x\", \"single_word\": true}],",
                            "single_word");
    check_component_refused("\"added_tokens\": [{\"id\": -1, \"content\": \"x\"}],", "no id");
    check_component_refused("\"added_tokens\": [{\"id\": 99999999999, \"content\": \"x\"}],", "no id");
    check_component_refused("\"added_tokens\": [{\"id\": 1, \"content\": \"\"}],", "content");
    check_refused(
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, \"decoder\": {\"type\": \"WordPiece\"}}",
        "WordPiece");
    check_refused("{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}, \"decoder\": {\"type\": \"Strip\", "
                  "\"start\": 1}}",
                  "Strip");
    check_refused("{\"model\": {\"type\": \"BPE\", \"vocab\": {}, \"merges\": []}}", "decoder");
    check_refused("[]", "no model");
}

static void damaged_models_are_refused(void **state)
{
    (void)state;
    check_model_refused("\"type\": \"Unigram\", \"vocab\": []", "Unigram");
    check_model_refused("\"type\": \"BPE\"", "vocab is not an object");
    check_model_refused("\"vocab\": {\"a\": \"0\"}, \"merges\": []", "no id");
    check_model_refused("\"vocab\": {\"a\": -5}, \"merges\": []", "no id");
    check_model_refused("\"vocab\": {\"a\": 4294967296}, \"merges\": []", "no id");
    check_model_refused("\"vocab\": {\"a\": 1, \"b\": 1}, \"merges\": []", "two tokens have the id 1");
    check_model_refused("\"vocab\": {\"a\": 0}", "merges is not an array");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [\"aa\"]", "merges[0]");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [\"a a\"]", "'aa' is not in the vocabulary");
    check_model_refused("\"vocab\": {\"a\": 0, \"aa\": 1}, \"merges\": [\"a a\", [\"a\", \"b\"]]", "merges[1]");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [[\"a\", 1]]", "merges[0]");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [], \"unk_token\": \"?\"", "unk_token");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [], \"dropout\": 0.1", "dropout");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [], \"end_of_word_suffix\": \"</w>\"",
                        "end_of_word_suffix");
    check_model_refused("\"vocab\": {\"a\": 0}, \"merges\": [], \"continuing_subword_prefix\": \"##\"",
                        "continuing_subword_prefix");
}

static void check_regex_refused(const char *expression, const char *part)
{
    char component[512];
    snprintf(component, sizeof component,
             "\"pre_tokenizer\": {\"type\": \"Split\", \"pattern\": {\"Regex\": \"%s\"}, \"behavior\": \"Isolated\"},",
             expression);
    check_component_refused(component, part);
}

static void regular_expressions_that_would_be_misread_are_refused(void **state)
{
    (void)state;
    check_regex_refused("(a", "parenthes");
    check_regex_refused("[a", "class");
    check_regex_refused("a\\\\", "backslash");
    check_regex_refused("\\\\p{Klingon}", "regular expression");
    check_regex_refused("\\\\p", "without {name}");
    check_regex_refused("\\\\R", "\\R");
    check_regex_refused("\\\\1", "\\1");
    check_regex_refused("[\\\\W]", "\\W is not supported in a class");
    check_regex_refused("(?R)", "(?R)");
    check_regex_refused("(?C1)", "(?C1");
    check_regex_refused("(*ACCEPT)", "(*AC");
    check_regex_refused("(?m)a", "(?m)");
    check_regex_refused("[a[bc]]", "classes within classes");
    check_regex_refused("[a&&b]", "classes within classes");
    check_regex_refused("a{2}+", "'+' after a count");
    check_regex_refused("a{2}?", "'?' after a count");
    check_regex_refused("a{x}", "count");
    check_regex_refused("a{99999}", "count");
}

static void nesting_and_size_are_bounded(void **state)
{
    (void)state;
    char text[4096] = "\"pre_tokenizer\":", reason[REASON_SIZE] = "";
    for (int i = 0; i < 20; i++) strcat(text, "{\"type\": \"Sequence\", \"pretokenizers\": [");
    strcat(text, "{\"type\": \"ByteLevel\"}");
    for (int i = 0; i < 20; i++) strcat(text, "]}");
    char whole[5000];
    snprintf(whole, sizeof whole, "{%s}", text);
    json_t *json = json_loads(whole, 0, NULL);
    assert_null(tokenizer_json_create(json, reason));
    assert_contains(reason, "nested too deeply");
    json_decref(json);

    json_t *many = json_array();
    for (int i = 0; i < 33; i++) json_array_append_new(many, json_pack("{s:s}", "type", "ByteLevel"));
    json = json_pack("{s:{s:s,s:o}}", "pre_tokenizer", "type", "Sequence", "pretokenizers", many);
    assert_null(tokenizer_json_create(json, reason));
    assert_contains(reason, "more than 32 steps");
    json_decref(json);

    char *expression = malloc(20001);
    memset(expression, 'a', 20000);
    expression[20000] = 0;
    json = json_pack("{s:{s:s,s:s,s:{s:s}}}", "pre_tokenizer", "type", "Split", "behavior", "Isolated", "pattern",
                     "Regex", expression);
    assert_null(tokenizer_json_create(json, reason));
    assert_contains(reason, "longer than");
    json_decref(json);
    free(expression);
}

/* An expression that backtracks without end is stopped, with an error. */
static void hostile_expressions_stop(void **state)
{
    (void)state;
    char text[64];
    struct tokenizer *tokenizer;
    struct id_buffer ids = {0};
    memset(text, 'a', sizeof text);
    text[sizeof text - 1] = 'b';
    app_write_text("tokenizer.json",
                   "{\"model\": {\"vocab\": {\"a\": 0}, \"merges\": []}, \"decoder\": {\"type\": \"Fuse\"}, "
                   "\"pre_tokenizer\": {\"type\":"
                   " \"Split\", \"behavior\": \"Isolated\", \"pattern\": {\"Regex\": \"(?:(?:a|aa)+)+[cd]\"}}}");
    assert_true(tokenizer_open(app_directory, &tokenizer));
    app_capture();
    bool done = tokenizer_encode(tokenizer, text, sizeof text, false, &ids);
    assert_contains(app_release(), "regular expression fails");
    assert_false(done);
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);
}

/* One word of many equal letters, the worst case for merging, takes no quadratic time: the test would not end. */
static void long_words_merge(void **state)
{
    (void)state;
    enum { LENGTH = 1 << 20 };
    char *text = malloc(LENGTH);
    struct tokenizer *tokenizer;
    struct id_buffer ids = {0};
    memset(text, 'a', LENGTH);
    app_write_text("tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0, \"aa\": 1, \"aaaa\": 2}, \"merges\": [\"a "
                                     "a\", \"aa aa\"]}, \"decoder\": {\"type\":"
                                     " \"Fuse\"}}");
    assert_true(tokenizer_open(app_directory, &tokenizer));
    assert_true(tokenizer_encode(tokenizer, text, LENGTH, false, &ids));
    assert_int_equal(ids.count, LENGTH / 4);
    for (size_t i = 0; i < ids.count; i++) assert_int_equal(ids.ids[i], 2);
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);
    free(text);
}

static void check_cannot_open(const char *part)
{
    struct tokenizer *tokenizer = (struct tokenizer *)1;
    app_capture();
    bool opened = tokenizer_open(app_directory, &tokenizer);
    assert_contains(app_release(), part);
    assert_false(opened);
    assert_null(tokenizer);
}

static void damaged_files_are_refused(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    check_cannot_open("neither a tokenizer.json nor a tokenizer.model");
    app_write_text("tokenizer.model", "this is no protocol buffer");
    check_cannot_open("tokenizer.model");
    app_write_text("tokenizer.model", "");
    check_cannot_open("tokenizer.model");
    unlink(app_path("tokenizer.model"));
    app_write_text("tokenizer.json", "{\"model\": ");
    check_cannot_open("tokenizer.json: line 1");
    app_write_text("tokenizer.json", small);
    app_write_text("generation_config.json", "[[[");
    check_cannot_open("generation_config.json: line 1");
    app_write_text("generation_config.json", "{\"eos_token_id\": [\"x\", -3, 1e99, null, 99999999999]}");
    assert_true(tokenizer_open(app_directory, &tokenizer));
    tokenizer_close(tokenizer);
}

/* Of two files, the one that is understood is used. */
static void sentencepiece_stands_in_for_a_refused_json(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct text_buffer model = {0};
    assert_true(text_buffer_read_file(&model, MODEL "/tokenizer.model", UINT64_MAX));
    app_write("tokenizer.model", model.bytes, model.length);
    text_buffer_free(&model);
    app_write_text("tokenizer.json", "{\"model\": {\"type\": \"Unigram\"}, \"decoder\": {\"type\": \"Fuse\"}}");
    app_capture();
    bool opened = tokenizer_open(app_directory, &tokenizer);
    assert_contains(app_release(), "Unigram is not supported; BPE is; its tokenizer.model is used instead");
    assert_true(opened);
    assert_int_equal(tokenizer_vocabulary(tokenizer), 4096);
    tokenizer_close(tokenizer);
}

/* -------------------------------------------------------------------------------------- peer */

static bool answer(const struct tokenizer *tokenizer, uint32_t kind, const char *payload, uint32_t size)
{
    struct id_buffer ids = {0};
    struct text_buffer text = {0};
    bool done = kind == 0 ? tokenizer_encode(tokenizer, payload, size, true, &ids)
                          : tokenizer_decode(tokenizer, (const int32_t *)(const void *)payload, size / 4, &text);
    const void *bytes = kind == 0 ? (const void *)ids.ids : text.bytes;
    uint32_t length = (uint32_t)(kind == 0 ? ids.count * 4 : text.length);
    done = done && fwrite(&length, 4, 1, stdout) == 1 && (length == 0 || fwrite(bytes, length, 1, stdout) == 1);
    id_buffer_free(&ids);
    text_buffer_free(&text);
    return done;
}

static int serve(const char *directory)
{
    struct tokenizer *tokenizer;
    uint32_t header[2];
    bool done = tokenizer_open(directory, &tokenizer);
    while (done && fread(header, sizeof header, 1, stdin) == 1) {
        char *payload = malloc(header[1] + 1);
        done = payload && (header[1] == 0 || fread(payload, header[1], 1, stdin) == 1) &&
               answer(tokenizer, header[0], payload, header[1]);
        free(payload);
    }
    tokenizer_close(tokenizer);
    return done ? 0 : 1;
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--records") == 0) return serve(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expectations_hold),
        cmocka_unit_test(sentencepiece_model),
        cmocka_unit_test(broken_utf8_counts_as_replacement_characters),
        cmocka_unit_test(odd_ids_decode),
        cmocka_unit_test_setup_teardown(special_tokens_come_from_the_files_beside, app_setup, app_teardown),
        cmocka_unit_test(unknown_components_are_refused_by_name),
        cmocka_unit_test(damaged_models_are_refused),
        cmocka_unit_test(regular_expressions_that_would_be_misread_are_refused),
        cmocka_unit_test(nesting_and_size_are_bounded),
        cmocka_unit_test_setup_teardown(hostile_expressions_stop, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(long_words_merge, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damaged_files_are_refused, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(sentencepiece_stands_in_for_a_refused_json, app_setup, app_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
