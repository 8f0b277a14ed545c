/* awq estimate: what it says before a model runs, against what running it takes. */
#include "commands.h"
#include "estimate.h"
#include "tiny_model.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/wait.h>

static const char embedded[] = "examples/models/docs-6m";

static char quantized_path[600];

/* ---- running commands */

/* In a process of its own; what it prints goes to 'output'.  *highest is the most memory that it held. */
static void run_apart(const struct cli_command *command, int count, char **words, const char *output, uint64_t *highest)
{
    char line[256];
    int ends[2], status;
    unsigned long long kilobytes = 0;
    assert_int_equal(pipe(ends), 0);
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        const int file = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        if (file < 0 || dup2(file, STDOUT_FILENO) < 0) _exit(100);
        const int exit_code = cli_run(command, count, words);
        FILE *facts = fopen("/proc/self/status", "r");
        while (facts && fgets(line, sizeof line, facts))
            if (sscanf(line, "VmHWM: %llu", &kilobytes) == 1) break;
        fflush(stdout);
        _exit(write(ends[1], &kilobytes, sizeof kilobytes) == sizeof kilobytes ? exit_code : 101);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), EXIT_OK);
    assert_int_equal(read(ends[0], &kilobytes, sizeof kilobytes), sizeof kilobytes);
    close(ends[0]);
    close(ends[1]);
    *highest = kilobytes * 1024;
}

struct run {
    int64_t batch, prompt, context;
    uint64_t counted, process; /* the most that the library counted, and that the process held */
};

/* Generate as many texts at once, and see how many tokens that were. */
static void generate(const char *model, const char *texts, const char *tokens, int repeats, struct run *run)
{
    char prompt[2048] = "", output[600];
    size_t length = 0;
    for (int i = 0; i < repeats; i++)
        length += (size_t)snprintf(prompt + length, sizeof prompt - length, "The file system ");
    snprintf(output, sizeof output, "%s", app_path("generated"));
    char *words[] = {(char *)(uintptr_t)model, "--json", "--output", "/dev/null", "--temperature", "1", "--documents",
                     (char *)(uintptr_t)texts, "--tokens", (char *)(uintptr_t)tokens, "--prompt", prompt};
    run_apart(&generate_command, sizeof words / sizeof *words, words, output, &run->process);
    json_t *json = json_load_file(output, 0, NULL);
    run->batch = atoi(texts);
    run->prompt = json_integer_value(json_object_get(json, "prompt_tokens"));
    run->context = run->prompt + atoi(tokens);
    run->counted = (uint64_t)json_integer_value(json_object_get(json, "peak_memory_bytes"));
    json_decref(json);
    assert_true(run->prompt > 0 && run->counted > 0);
}

static void estimate(const char *model, const struct inference_request *request, struct inference_sizes *sizes)
{
    struct estimated_model opened;
    assert_true(estimated_model_open(context, model, &opened));
    assert_true(estimate_inference(&opened, request, sizes));
    estimated_model_close(&opened);
}

static void assert_near(const char *what, uint64_t estimated, uint64_t measured)
{
    const double ratio = (double)estimated / (double)measured;
    if (ratio < 0.9 || ratio > 1.1)
        fail_msg("%s: %llu bytes were estimated, %llu measured", what, (unsigned long long)estimated,
                 (unsigned long long)measured);
}

/* ---- tests */

/* Of the embedded model.  Its embeddings are pages of a file, which the library does not count and the process does;
 * the program itself takes some megabytes, so that only many texts at once tell of the process. */
static void peaks_are_within_a_tenth(void **state)
{
    static const struct {
        const char *texts, *tokens;
        int repeats;
        bool many;
    } cases[] = {{"1", "1", 1, false}, {"4", "30", 4, false}, {"32", "100", 2, false}, {"32", "40", 26, true}};
    (void)state;
    for (size_t i = 0; i < 2 * (sizeof cases / sizeof *cases); i++) {
        const char *model = i % 2 ? quantized_path : embedded;
        struct inference_sizes sizes;
        struct run run;
        generate(model, cases[i / 2].texts, cases[i / 2].tokens, cases[i / 2].repeats, &run);
        const struct inference_request request = {.device_type = AWQ_DEVICE_CPU, .quantized = i % 2,
                                                  .batch = run.batch, .prompt = run.prompt, .context = run.context};
        estimate(model, &request, &sizes);
        assert_near("the library's memory", sizes.total - sizes.embeddings, run.counted);
#ifndef __SANITIZE_ADDRESS__
        if (cases[i / 2].many) assert_near("the process", sizes.total, run.process);
#endif
    }
}

/* A model as it is after it was quantised is what was estimated before. */
static void formats_are_as_asked_for(void **state)
{
    struct inference_request request = {.device_type = AWQ_DEVICE_CPU, .quantized = true, .batch = 1, .prompt = 1,
                                        .context = 1, .quantization = {.bits = 4, .group_size = 64}};
    struct inference_sizes before, after;
    (void)state;
    for (int device = 0; device < 2; device++) {
        request.device_type = device ? AWQ_DEVICE_CUDA : AWQ_DEVICE_CPU;
        estimate(embedded, &request, &before);
        estimate(quantized_path, &request, &after);
        assert_memory_equal(&before, &after, sizeof before);
    }
}

/* Weights of every architecture, against what opening the model takes.  Beside such small ones what describes them
 * counts: the library's structs, and the alignment of each piece of memory. */
static void architectures_are_known(void **state)
{
    static const struct recipe recipes[] = {
        {.type = "llama", .keys = "", .dtype = AWQ_F16},
        {.type = "llama", .keys = "", .dtype = AWQ_F32},
        {.type = "mistral", .keys = "", .dtype = AWQ_BF16, .tied = true},
        {.type = "qwen2", .keys = "", .qkv_bias = true, .dtype = AWQ_F16},
        {.type = "qwen3", .keys = "", .dtype = AWQ_F16},
        {.type = "phi3", .keys = "", .dtype = AWQ_F16},
        {.type = "gemma", .keys = "", .dtype = AWQ_F16, .tied = true},
        {.type = "opt", .keys = "", .qkv_bias = true, .output_bias = true, .mlp_bias = true, .dtype = AWQ_F16,
         .tied = true},
        {.type = "mixtral", .keys = "", .dtype = AWQ_F16},
        {.type = "qwen2_moe", .keys = "", .qkv_bias = true, .dtype = AWQ_F16},
        {.type = "qwen3_moe", .keys = "", .dtype = AWQ_F16},
    };
    enum { DESCRIPTION = 2000 /* of a linear and its norms, at most */ };
    (void)state;
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        const struct inference_request request = {.device_type = AWQ_DEVICE_CPU, .batch = 1, .prompt = 1, .context = 1};
        struct inference_sizes sizes;
        struct model *model;
        uint64_t before, after;
        write_model(&recipes[i]);
        estimate(model_path, &request, &sizes);
        assert_int_equal(awq_context_get_memory(context, &before, NULL), AWQ_OK);
        assert_true(model_open(context, model_path, NULL, &model));
        assert_int_equal(awq_context_get_memory(context, &after, NULL), AWQ_OK);
        const uint64_t linears = (uint64_t)(LAYERS * block_linears(&model->config));
        model_close(model);
        const uint64_t weights = sizes.weights - sizes.embeddings, held = after - before;
        if (held < weights || held > weights + linears * DESCRIPTION)
            fail_msg("%s: %llu bytes were estimated, %llu measured", recipes[i].type, (unsigned long long)weights,
                     (unsigned long long)held);
    }
}

/* The experts that no token is sent to are not read, nor keys beyond the window. */
static void steps_read_what_they_use(void **state)
{
    struct inference_request request = {.device_type = AWQ_DEVICE_CPU, .batch = 1, .prompt = 1, .context = 8};
    struct inference_sizes one, two;
    (void)state;
    write_model(&(struct recipe){.type = "mixtral", .keys = "", .dtype = AWQ_F16});
    estimate(model_path, &request, &one);
    request.batch = 2;
    estimate(model_path, &request, &two);
    const uint64_t experts = LAYERS * EXPERTS * 3 * HIDDEN * INNER * 2, keys = LAYERS * 8 * 2 * KV_HEADS * WIDTH * 4;
    assert_int_equal(one.weights - one.embeddings + keys - one.step, experts / 2); /* 2 of 4 */
    assert_int_equal(two.step - one.step, keys);
    write_model(&(struct recipe){.type = "mistral", .keys = ", \"sliding_window\": 3", .dtype = AWQ_F16});
    estimate(model_path, &request, &two);
    assert_int_equal(two.weights - two.embeddings + 2 * keys / 8 * 3, two.step);
}

static void refuse(const struct recipe *recipe, const char *message)
{
    struct estimated_model opened;
    write_model(recipe);
    app_capture();
    const bool ok = estimated_model_open(context, model_path, &opened);
    const char *text = app_release();
    estimated_model_close(&opened);
    assert_false(ok);
    assert_contains(text, message);
}

static void wrong_checkpoints_are_refused(void **state)
{
    static const char down[] = "model.layers.1.mlp.down_proj.weight";
    struct recipe recipe = {.type = "llama", .keys = "", .dtype = AWQ_F16};
    (void)state;
    recipe.missing = down;
    refuse(&recipe, "has no tensor model.layers.1.mlp.down_proj.weight");
    recipe.missing = NULL;
    recipe.misshapen = down;
    refuse(&recipe, "down_proj.weight: has not the shape [64, 128]");
    recipe.misshapen = "model.embed_tokens.weight";
    refuse(&recipe, "embed_tokens.weight: has shape [47, 64]");
    recipe = (struct recipe){.type = "rwkv", .keys = "", .dtype = AWQ_F16};
    refuse(&recipe, "rwkv");
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

static int setup(void **state)
{
    if (app_setup(state) != 0 || !context_open(1, 0, &context)) return -1;
    snprintf(model_path, sizeof model_path, "%s", app_path("model"));
    snprintf(quantized_path, sizeof quantized_path, "%s", app_path("quantized"));
    char *words[] = {(char *)(uintptr_t)embedded, "--out",        quantized_path, "--method", "rtn",
                     "--quiet",                   "--group-size", "64"};
    return cli_run(&quantize_command, sizeof words / sizeof *words, words) == EXIT_OK ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return nftw(app_directory, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(peaks_are_within_a_tenth),      cmocka_unit_test(formats_are_as_asked_for),
        cmocka_unit_test(architectures_are_known),       cmocka_unit_test(steps_read_what_they_use),
        cmocka_unit_test(wrong_checkpoints_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
