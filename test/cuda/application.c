/* The host application with --device cuda against itself on the processor, on tiny models: logits of whole texts and of
 * steps, scores, what quantize chooses.  On whatever AWQ_CUDA_BACKEND and AWQ_APP_CUDA name; exits with 77 and the
 * reason where there is no GPU. */
#include "commands.h"
#include "sampler.h"
#include "tiny_model.h"

#include <ftw.h>

enum { STEPS = 6, SEQUENCES = 2, CAPACITY = 160 }; /* so long that the keys of one query are shared by blocks */

static awq_context *cuda;
static char quantized_path[600];

static const struct recipe recipes[] = {
    {.type = "llama", .keys = "", .tied = true, .dtype = AWQ_F16},
    {.type = "mistral", .keys = ", \"sliding_window\": 8", .dtype = AWQ_F16},
    {.type = "qwen2", .keys = ", \"torch_dtype\": \"bfloat16\"", .qkv_bias = true, .dtype = AWQ_BF16},
    {.type = "qwen3", .keys = "", .dtype = AWQ_F16},
    {.type = "llama", .keys = ", \"attention_bias\": true, \"mlp_bias\": true", .qkv_bias = true, .output_bias = true,
     .mlp_bias = true, .dtype = AWQ_F32},
};

/* A logit may be off by this part of the largest of its row: what rounding activations to the type that linears read
 * makes of it over two layers. */
static double tolerance(const struct recipe *recipe)
{
    return recipe->dtype == AWQ_BF16 ? 0.05 : 0.01;
}

/* ---- one model on one device */

struct running {
    struct model *model;
    struct session *session;
    float *hidden, *logits; /* [rows][..], of the context */
};

static void *allocate(awq_context *on, int64_t floats)
{
    void *memory;
    assert_int_equal(awq_context_allocate(on, (uint64_t)floats * sizeof(float), &memory), AWQ_OK);
    return memory;
}

static void running_open(awq_context *on, const char *path, bool fuse, int64_t rows, bool retain,
                         struct running *running)
{
    const struct session_options options = {rows, SEQUENCES, retain ? CAPACITY : LENGTH, retain};
    const struct model_options model_options = {.no_fuse = !fuse};
    assert_true(model_open(on, path, &model_options, &running->model));
    assert_true(session_create(on, &running->model->config, &options, &running->session));
    running->hidden = allocate(on, rows * HIDDEN);
    running->logits = allocate(on, rows * VOCABULARY);
}

static void running_close(awq_context *on, struct running *running)
{
    session_destroy(running->session);
    awq_context_free(on, running->hidden);
    awq_context_free(on, running->logits);
    model_close(running->model);
}

/* logits[rows][VOCABULARY] of a batch, on the host. */
static void run_batch(struct running *running, const struct batch *batch, const int32_t *tokens, float *logits)
{
    int64_t rows = batch_rows(batch);
    assert_true(model_forward(running->model, running->session, batch, tokens, running->hidden));
    assert_true(model_logits(running->model, running->session, running->hidden, rows, running->logits));
    const float *values = session_read(running->session, running->logits, rows * VOCABULARY, logits);
    assert_non_null(values);
    if (values != logits) memcpy(logits, values, (size_t)(rows * VOCABULARY) * sizeof *logits);
}

/* ---- comparing */

static void assert_logits(const float *expected, const float *found, int64_t rows, double bound, const char *what)
{
    for (int64_t row = 0; row < rows; row++) {
        double largest = 0, error = 0;
        for (int64_t i = row * VOCABULARY; i < (row + 1) * VOCABULARY; i++) {
            largest = fmax(largest, fabs((double)expected[i]));
            error = fmax(error, fabs((double)expected[i] - (double)found[i]));
            assert_true(isfinite(found[i]));
        }
        if (error > bound * largest)
            fail_msg("%s: logits of row %d are off by %g of the largest, more than %g", what, (int)row,
                     error / largest, bound);
    }
}

static const int64_t text_counts[SEQUENCES] = {LENGTH, LENGTH - 11};
enum { TEXT_ROWS = 2 * LENGTH - 11 };

static void compare_texts(const char *path, bool fuse, double bound, const char *what)
{
    struct running on_cpu, on_cuda;
    static float expected[TEXT_ROWS * VOCABULARY], found[TEXT_ROWS * VOCABULARY];
    const struct batch batch = {SEQUENCES, text_counts};
    int32_t tokens[TEXT_ROWS], targets[TEXT_ROWS], likeliest[TEXT_ROWS];
    struct score scores[TEXT_ROWS], cuda_scores[TEXT_ROWS];
    for (int i = 0; i < TEXT_ROWS; i++) {
        tokens[i] = (i * 17 + 5) % VOCABULARY;
        targets[i] = (i * 7 + 3) % VOCABULARY;
    }
    running_open(context, path, fuse, TEXT_ROWS, false, &on_cpu);
    running_open(cuda, path, fuse, TEXT_ROWS, false, &on_cuda);
    run_batch(&on_cpu, &batch, tokens, expected);
    run_batch(&on_cuda, &batch, tokens, found);
    assert_logits(expected, found, TEXT_ROWS, bound, what);

    /* What is asked of logits gives on either device what it gives for the same logits on the other. */
    assert_true(model_argmax(on_cuda.session, on_cuda.logits, TEXT_ROWS, likeliest));
    assert_true(model_scores(on_cuda.session, on_cuda.logits, on_cuda.logits, targets, TEXT_ROWS, cuda_scores));
    assert_true(model_scores(on_cpu.session, found, found, targets, TEXT_ROWS, scores));
    for (int i = 0; i < TEXT_ROWS; i++) {
        assert_int_equal(likeliest[i], most_likely(found + i * VOCABULARY, VOCABULARY));
        assert_true(fabs(scores[i].loss - cuda_scores[i].loss) <= 1e-5 * (1 + scores[i].loss));
        assert_true(fabs(scores[i].loss - cuda_scores[i].reference_loss) <= 1e-5 * (1 + scores[i].loss));
        assert_true(fabs(cuda_scores[i].divergence) <= 1e-5 && cuda_scores[i].rank == 0);
    }
    /* Against a reference that differs: each row's successor. */
    const float *next = on_cuda.logits + VOCABULARY;
    assert_true(model_scores(on_cuda.session, on_cuda.logits, next, targets, TEXT_ROWS - 1, cuda_scores));
    assert_true(model_scores(on_cpu.session, found, found + VOCABULARY, targets, TEXT_ROWS - 1, scores));
    for (int i = 0; i < TEXT_ROWS - 1; i++) {
        assert_int_equal(scores[i].rank, cuda_scores[i].rank);
        assert_true(fabs(scores[i].divergence - cuda_scores[i].divergence) <= 1e-5 * (1 + scores[i].divergence));
        assert_true(fabs(scores[i].reference_loss - cuda_scores[i].reference_loss) <=
                    1e-5 * (1 + scores[i].reference_loss));
    }
    running_close(context, &on_cpu);
    running_close(cuda, &on_cuda);
}

/* Prompts of two lengths, then steps in which one sequence pauses now and then: what the GPU gives at each step is
 * compared, and the tokens that the CPU finds likeliest are fed to both. */
static void compare_steps(const char *path, double bound, const char *what)
{
    struct running on_cpu, on_cuda;
    float expected[TEXT_ROWS * VOCABULARY], found[TEXT_ROWS * VOCABULARY];
    int64_t now[SEQUENCES] = {5, 9};
    int32_t tokens[16], last[SEQUENCES] = {0};
    const struct batch batch = {SEQUENCES, now};
    running_open(context, path, true, 16, true, &on_cpu);
    running_open(cuda, path, true, 16, true, &on_cuda);
    for (int i = 0; i < 14; i++) tokens[i] = (i * 5 + 2) % VOCABULARY;
    for (int step = 0; step < STEPS; step++) {
        run_batch(&on_cpu, &batch, tokens, expected);
        run_batch(&on_cuda, &batch, tokens, found);
        assert_logits(expected, found, batch_rows(&batch), bound, what);
        int64_t row = 0, active = 0;
        for (int i = 0; i < SEQUENCES; i++) {
            row += now[i];
            if (now[i]) last[i] = most_likely(expected + (row - 1) * VOCABULARY, VOCABULARY);
        }
        for (int i = 0; i < SEQUENCES; i++) {
            now[i] = i == 1 && step == 3 ? 0 : 1;
            if (now[i]) tokens[active++] = last[i];
        }
    }
    running_close(context, &on_cpu);
    running_close(cuda, &on_cuda);
}

/* ---- tests */

static int run_command(const struct cli_command *command, const char *const *words, int count, const char **text)
{
    char *copies[16];
    assert_true(count <= 16);
    for (int i = 0; i < count; i++) copies[i] = strdup(words[i]);
    app_capture();
    int exit_code = cli_run(command, count, copies);
    *text = app_release();
    for (int i = 0; i < count; i++) free(copies[i]);
    return exit_code;
}

static void quantize_plainly(void)
{
    const char *words[] = {model_path, "-o", quantized_path, "-f", "-q", "--method", "rtn", "--group-size", "32"};
    const char *text;
    if (run_command(&quantize_command, words, 9, &text) != EXIT_OK) fail_msg("quantize: %s", text);
}

static void logits_are_the_processors(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char what[64];
        write_model(&recipes[i]);
        quantize_plainly();
        snprintf(what, sizeof what, "%s %d", recipes[i].type, (int)i);
        compare_texts(model_path, true, tolerance(&recipes[i]), what);
        snprintf(what, sizeof what, "%s %d in INT4", recipes[i].type, (int)i);
        compare_texts(quantized_path, i % 2 == 0, tolerance(&recipes[i]), what);
    }
}

static void steps_are_the_processors(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        write_model(&recipes[i]);
        quantize_plainly();
        compare_steps(model_path, tolerance(&recipes[i]), recipes[i].type);
        compare_steps(quantized_path, tolerance(&recipes[i]), recipes[i].type);
    }
}

/* The first of the highest, and none where one is not a number. */
static void argmax_is_the_processors(void **state)
{
    (void)state;
    enum { ROWS = 6 };
    struct running running;
    float logits[ROWS * VOCABULARY];
    int32_t tokens[ROWS];
    write_model(&recipes[0]);
    running_open(cuda, model_path, true, 16, true, &running);
    for (int i = 0; i < ROWS * VOCABULARY; i++) logits[i] = -(float)(i % 7);
    logits[0 * VOCABULARY + 9] = 3;
    logits[0 * VOCABULARY + 40] = 3;
    for (int i = 0; i < VOCABULARY; i++) logits[1 * VOCABULARY + i] = i < 20 ? -INFINITY : -0.0f;
    logits[1 * VOCABULARY + 30] = 0.0f;
    logits[2 * VOCABULARY + 33] = NAN;
    logits[3 * VOCABULARY + 47] = INFINITY;
    for (int i = 0; i < VOCABULARY; i++) logits[4 * VOCABULARY + i] = -1e30f * (float)(1 + (i * 5 + 1) % 48);
    awq_tensor from, to = context_view(cuda, running.logits, AWQ_F32, ROWS, VOCABULARY);
    awq_tensor_init_2d(&from, logits, AWQ_F32, ROWS, VOCABULARY);
    assert_int_equal(awq_tensor_copy(cuda, &from, &to, NULL), AWQ_OK);
    assert_true(model_argmax(running.session, running.logits, ROWS, tokens));
    for (int i = 0; i < ROWS; i++) assert_int_equal(tokens[i], most_likely(logits + i * VOCABULARY, VOCABULARY));
    assert_int_equal(tokens[0], 9);
    assert_int_equal(tokens[1], 20);
    assert_int_equal(tokens[2], -1);
    running_close(cuda, &running);
}

/* ---- quantising */

enum { WINDOWS = 2 };

/* What `awq quantize --json` reports; 'salient' is the share of channels that stay in FP16. */
static json_t *quantize_on(const char *device, const char *salient)
{
    char calib[600], report[600];
    const char *words[] = {model_path, "-o", quantized_path, "-f", "--json", "--group-size", "32",
                           "--calibrate-through", "quantized", "--calib", calib, "--device", device,
                           "--salient", salient};
    const char *text;
    int stdout_kept = dup(STDOUT_FILENO);
    snprintf(calib, sizeof calib, "%s", app_path("calib.u16"));
    snprintf(report, sizeof report, "%s", app_path("report.json"));
    fflush(stdout);
    assert_non_null(freopen(report, "w", stdout));
    int exit_code = run_command(&quantize_command, words, sizeof words / sizeof *words, &text);
    fflush(stdout);
    dup2(stdout_kept, STDOUT_FILENO);
    close(stdout_kept);
    if (exit_code != EXIT_OK) fail_msg("quantize --device %s: %s", device, text);
    json_t *json = json_load_file(report, 0, NULL);
    assert_non_null(json);
    return json;
}

static void assert_near(const json_t *search, const json_t *twin, const char *key)
{
    const double expected = json_real_value(json_object_get(search, key));
    const double found = json_real_value(json_object_get(twin, key));
    if (!(fabs(expected - found) <= 0.1 * expected))
        fail_msg("%s of %s: %g by the processor, %g by the GPU", key,
                 json_string_value(json_object_get(search, "linears")), expected, found);
}

/* What rounding activations does to a loss may change which of two scales that are as good is chosen, not how good. */
static void compare_searches(const json_t *expected, const json_t *found)
{
    size_t layer, index;
    json_t *one, *search;
    json_array_foreach(json_object_get(expected, "layers"), layer, one)
    {
        const json_t *other = json_array_get(json_object_get(found, "layers"), layer);
        json_array_foreach(json_object_get(one, "searches"), index, search)
        {
            const json_t *twin = json_array_get(json_object_get(other, "searches"), index);
            assert_near(search, twin, "loss_identity");
            assert_near(search, twin, "loss");
        }
    }
    assert_int_equal(layer, LAYERS);
    assert_int_equal(index, POINT_KINDS);
}

/* Every kind of work: scales by half blocks and by outputs, tied heads, clipping, and a pass through quantised blocks. */
static void quantize_does_as_well_as_the_processor(void **state)
{
    (void)state;
    uint16_t ids[WINDOWS * LENGTH];
    write_model(&recipes[0]);
    random_state = 1;
    for (int i = 0; i < WINDOWS * LENGTH; i++) ids[i] = (uint16_t)((next_random() + 1) / 2 * VOCABULARY);
    app_write("calib.u16", ids, sizeof ids);
    for (int i = 0; i < 2; i++) {
        const char *salient = i == 0 ? "0" : "0.1";
        json_t *expected = quantize_on("cpu", salient), *found = quantize_on("cuda", salient);
        compare_searches(expected, found);
        json_decref(expected);
        json_decref(found);
        compare_texts(quantized_path, true, tolerance(&recipes[0]), "quantised on the GPU");
    }
}

/* ---- set-up */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static int setup(void **state)
{
    if (app_setup(state) != 0 || awq_context_create(NULL, &context) != AWQ_OK) return -1;
    snprintf(model_path, sizeof model_path, "%s/model", app_directory);
    snprintf(quantized_path, sizeof quantized_path, "%s/quantized", app_directory);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    awq_context_destroy(cuda);
    return nftw(app_directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

/* An argument chooses among the tests: a name, with * for anything. */
int main(int count, char **arguments)
{
    const struct placement placement = {.device = AWQ_DEVICE_CUDA};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_the_processors),
        cmocka_unit_test(steps_are_the_processors),
        cmocka_unit_test(argmax_is_the_processors),
        cmocka_unit_test(quantize_does_as_well_as_the_processor),
    };
    if (count > 1) cmocka_set_test_filter(arguments[1]);
    if (!placement_open(&placement, &cuda)) return 77;
    return cmocka_run_group_tests(tests, setup, teardown);
}
