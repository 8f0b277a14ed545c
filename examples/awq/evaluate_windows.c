/* What awq evaluate reads, and how it is cut into windows. */
#include "evaluation.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { DEFAULT_CONTEXT = 2048 };

/* Rows of a file of token ids are windows as they are. */
static bool cut_rows(struct windows *windows, int64_t limit)
{
    const struct token_rows *rows = &windows->rows;
    windows->count = limit && limit < rows->rows ? limit : rows->rows;
    windows->list = calloc((size_t)windows->count, sizeof *windows->list);
    if (!windows->list) return cli_error("out of memory");
    for (int64_t i = 0; i < windows->count; i++)
        windows->list[i] = (struct window){.begin = i * rows->columns, .length = windows->context};
    return true;
}

/* One long row: a window every 'stride' tokens, of which those targets count that no earlier window had. */
static bool cut_text(struct windows *windows, int64_t limit)
{
    int64_t targets = windows->rows.columns - 1, context = windows->context, stride = windows->stride;
    windows->count = targets <= context ? 1 : 1 + (targets - context + stride - 1) / stride;
    if (limit && limit < windows->count) windows->count = limit;
    windows->list = calloc((size_t)windows->count, sizeof *windows->list);
    if (!windows->list) return cli_error("out of memory");
    for (int64_t i = 0; i < windows->count; i++) {
        struct window *window = &windows->list[i];
        window->begin = i * stride;
        window->length = targets - window->begin < context ? targets - window->begin : context;
        window->first_counted = i ? context - stride : 0;
    }
    return true;
}

/* Choose the window's length and check it against what there is and what the models take. */
static bool set_context(const struct evaluate_options *options, int64_t length, int64_t limit,
                        struct windows *windows)
{
    bool rows = windows->rows.rows > 1;
    int64_t available = windows->rows.columns - 1, standard = limit < DEFAULT_CONTEXT ? limit : DEFAULT_CONTEXT;
    const char *file = options->text ? options->text : options->tokens;
    if (available < 1)
        return cli_error("%s: has %" PRId64 " tokens in a row; at least 2 are needed", file, available + 1);
    windows->context = length ? length : rows ? available : standard;
    if (windows->context > limit)
        return cli_error("windows of %" PRId64 " tokens do not fit the model's context of %" PRId64 "; --context sets "
                         "their length", windows->context, limit);
    if (rows && windows->context > available)
        return cli_error("%s: has rows of %" PRId64 " tokens, too short for windows of %" PRId64 " and a token after",
                         file, available + 1, windows->context);
    windows->stride = options->stride ? options->stride : windows->context;
    if (windows->stride > windows->context)
        return cli_error("--stride %" PRId64 " would skip tokens between windows of %" PRId64, windows->stride,
                         windows->context);
    if (rows && options->stride)
        return cli_error("%s: has rows, which are windows already: --stride has no meaning", file);
    return true;
}

/* Text begins with the model's beginning-of-text token, if it has one. */
static bool read_text(const struct evaluate_options *options, int64_t vocabulary, struct token_rows *rows)
{
    struct tokenizer *tokenizer;
    if (!tokenizer_open(options->model, &tokenizer)) return false;
    int32_t bos = tokenizer_bos(tokenizer);
    bool ok = tokens_read(options->text, tokenizer, vocabulary, rows);
    tokenizer_close(tokenizer);
    if (!ok || bos < 0) return ok;
    int32_t *ids = realloc(rows->ids, (size_t)(rows->columns + 1) * sizeof *ids);
    if (!ids) return cli_error("out of memory");
    memmove(ids + 1, ids, (size_t)rows->columns * sizeof *ids);
    ids[0] = bos;
    rows->ids = ids;
    rows->columns++;
    return true;
}

bool windows_read(const struct evaluate_options *options, int64_t vocabulary, struct windows *windows)
{
    return options->text ? read_text(options, vocabulary, &windows->rows)
                         : tokens_read(options->tokens, NULL, vocabulary, &windows->rows);
}

bool windows_cut(const struct evaluate_options *options, int64_t length, int64_t limit, struct windows *windows)
{
    free(windows->list);
    windows->list = NULL;
    windows->inputs = windows->counted = 0;
    if (!set_context(options, length, limit, windows)) return false;
    if (windows->rows.rows > 1 ? !cut_rows(windows, options->limit) : !cut_text(windows, options->limit)) return false;
    for (int64_t i = 0; i < windows->count; i++) {
        windows->inputs += windows->list[i].length;
        windows->counted += windows->list[i].length - windows->list[i].first_counted;
    }
    return true;
}

void windows_free(struct windows *windows)
{
    token_rows_free(&windows->rows);
    free(windows->list);
}
