/* Tasks of awq evaluate: prompts, and the text that a model should continue each with. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "evaluation.h"
#include "progress.h"
#include "tokenizer.h"
#include "utf8.h"

/* A text takes no more tokens than it has bytes; SPARE_TOKENS more may be blanks before it. */
enum { MAX_FILE = 1 << 28, SPARE_TOKENS = 8 };

struct task {
    struct id_buffer prompt;
    const char *expected; /* in the file's text */
    size_t length;
};

struct task_list {
    struct text_buffer text;
    struct task *tasks;
    size_t count, capacity;
    int64_t longest_prompt, longest; /* tokens; the second with all that may be made after it */
};

/* ---- the file */

static bool bad_line(const char *path, int64_t line, const char *what)
{
    return cli_error("%s: line %" PRId64 ": %s; a line is a prompt, a tab and the text expected after it", path, line,
                     what);
}

/* How many characters at the front are white. */
static size_t count_blanks(const char *text, size_t length)
{
    size_t count = 0;
    while (count < length && (text[count] == ' ' || text[count] == '\t' || text[count] == '\n')) count++;
    return count;
}

static bool is_utf8(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        uint32_t character;
        int bytes = utf8_decode(text + i, length - i, &character);
        if (bytes <= 0) return false;
        i += (size_t)bytes;
    }
    return true;
}

static bool add_task(struct task_list *list, const char *path, int64_t line, const char *text, size_t length,
                     const struct tokenizer *tokenizer, int64_t limit)
{
    if (length && text[length - 1] == '\r') length--;
    const char *tab = memchr(text, '\t', length);
    if (!tab) return bad_line(path, line, "has no tab");
    size_t prompt = (size_t)(tab - text), expected = length - prompt - 1;
    if (!prompt) return bad_line(path, line, "has no prompt");
    if (!expected) return bad_line(path, line, "has nothing after the tab");
    if (memchr(tab + 1, '\t', expected)) return bad_line(path, line, "has two tabs");
    if (count_blanks(tab + 1, expected) == expected) return bad_line(path, line, "has only blanks after the tab");
    if (memchr(text, 0, length) || !is_utf8(text, length)) return bad_line(path, line, "is not UTF-8 text");
    if (!buffer_reserve((void **)&list->tasks, &list->capacity, list->count + 1, sizeof *list->tasks)) return false;
    struct task *task = &list->tasks[list->count++];
    *task = (struct task){.expected = tab + 1, .length = expected};
    if (!tokenizer_encode(tokenizer, text, prompt, true, &task->prompt)) return false;
    int64_t tokens = (int64_t)task->prompt.count, longest = tokens + (int64_t)expected + SPARE_TOKENS;
    if (!tokens) return bad_line(path, line, "has a prompt without tokens");
    if (tokens >= limit)
        return cli_error("%s: line %" PRId64 ": the prompt has %" PRId64 " tokens, which leaves no room in a context "
                         "of %" PRId64, path, line, tokens, limit);
    if (longest > limit) longest = limit;
    if (tokens > list->longest_prompt) list->longest_prompt = tokens;
    if (longest > list->longest) list->longest = longest;
    return true;
}

static bool read_tasks(const char *path, const struct tokenizer *tokenizer, int64_t limit, struct task_list *list)
{
    if (!text_buffer_read_file(&list->text, path, MAX_FILE)) return false;
    const char *text = list->text.bytes, *end = text + list->text.length;
    for (int64_t line = 1; text < end; line++) {
        const char *stop = memchr(text, '\n', (size_t)(end - text));
        if (!stop) stop = end;
        if (!add_task(list, path, line, text, (size_t)(stop - text), tokenizer, limit)) return false;
        text = stop + 1;
    }
    return list->count || cli_error("%s: has no tasks", path);
}

static void free_tasks(struct task_list *list)
{
    for (size_t i = 0; i < list->count; i++) id_buffer_free(&list->tasks[i].prompt);
    free(list->tasks);
    text_buffer_free(&list->text);
}

/* ---- solving them */

enum outcome { OPEN, SOLVED, MISSED };

/* What a text that may go on says about a task; blanks at the front of either do not count. */
static enum outcome compare(const struct text_buffer *made, const struct task *task)
{
    const size_t skip = count_blanks(made->bytes, made->length);
    const size_t blanks = count_blanks(task->expected, task->length);
    const size_t have = made->length - skip, need = task->length - blanks;
    if (have && memcmp(made->bytes + skip, task->expected + blanks, have < need ? have : need) != 0) return MISSED;
    return have >= need ? SOLVED : OPEN;
}

/* The likeliest token after 'count' more of the one sequence. */
static bool next_token(struct runner *runner, const int32_t *tokens, int64_t count, int32_t *next)
{
    const struct batch batch = {.sequences = 1, .counts = &count};
    const float *last = runner->hidden + (count - 1) * runner->model->config.hidden;
    return model_forward(runner->model, runner->session, &batch, tokens, runner->hidden) &&
           model_logits(runner->model, runner->session, last, 1, runner->logits) &&
           model_argmax(runner->session, runner->logits, 1, next) &&
           (*next >= 0 || cli_error("the model's output is not a number"));
}

/* Write on from the prompt until the text is the expected one, or cannot become it. */
static bool solve(struct runner *runner, const struct tokenizer *tokenizer, const struct task *task, int64_t limit,
                  bool *solved)
{
    struct token_stream stream;
    struct text_buffer text = {0};
    const int32_t *fed = task->prompt.ids;
    int64_t count = (int64_t)task->prompt.count, held = 0;
    int32_t token;
    enum outcome outcome = OPEN;
    bool ok = true;
    token_stream_begin(&stream, tokenizer);
    for (int64_t i = 0; ok && i < count; i++) ok = token_stream_push(&stream, fed[i], &text);
    text.length = 0;
    session_truncate(runner->session, 0, 0);
    while (ok && outcome == OPEN && held + count <= limit) {
        ok = next_token(runner, fed, count, &token);
        held += count;
        count = 1;
        fed = &token;
        if (!ok || tokenizer_is_eos(tokenizer, token)) break;
        ok = token_stream_push(&stream, token, &text);
        outcome = compare(&text, task);
    }
    *solved = outcome == SOLVED;
    text_buffer_free(&stream.bytes);
    text_buffer_free(&text);
    return ok;
}

static bool solve_all(struct evaluation *evaluation, struct runner *runner, const struct tokenizer *tokenizer,
                      const struct task_list *list, int64_t *solved)
{
    const struct model_config *config = &runner->model->config;
    const struct session_options room = {list->longest_prompt, 1, list->longest, true};
    struct progress progress;
    bool ok = session_create(evaluation->context, config, &room, &runner->session) &&
              evaluate_allocate(evaluation->context, list->longest_prompt, config->hidden, &runner->hidden) &&
              evaluate_allocate(evaluation->context, 1, config->vocabulary, &runner->logits);
    progress_begin(&progress, "Solving tasks");
    for (size_t i = 0; ok && i < list->count; i++) {
        const struct task *task = &list->tasks[i];
        int64_t limit = (int64_t)(task->prompt.count + task->length) + SPARE_TOKENS;
        bool right = false;
        ok = solve(runner, tokenizer, task, limit < list->longest ? limit : list->longest, &right);
        *solved += right;
        if (ok && progress_update(&progress, i + 1, list->count)) ok = cli_error("interrupted");
    }
    progress_end(&progress);
    runner_release(runner);
    return ok;
}

bool evaluate_tasks(struct evaluation *evaluation)
{
    struct task_scores *scores = &evaluation->tasks;
    struct task_list list = {0};
    struct tokenizer *tokenizer;
    if (!tokenizer_open(evaluation->options->model, &tokenizer)) return false;
    bool ok = read_tasks(evaluation->options->tasks, tokenizer, evaluation->limit, &list) &&
              solve_all(evaluation, &evaluation->model, tokenizer, &list, &scores->solved) &&
              (!evaluation->reference.model ||
               solve_all(evaluation, &evaluation->reference, tokenizer, &list, &scores->reference_solved));
    scores->tasks = (int64_t)list.count;
    free_tasks(&list);
    tokenizer_close(tokenizer);
    return ok;
}
