/* awq tokenize: text to token ids and back. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "tokens.h"

#define MAX_TEXT_BYTES ((uint64_t)1 << 30)

struct options {
    const char *model;
    const char *text;
    const char *prompt;
    const char *decode;
    const char *output;
    bool special;
};

static const struct options defaults;

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model),
     .help = "Directory with tokenizer.json or tokenizer.model."},
    {CLI_STRING, "text", offsetof(struct options, text), .argument = "FILE",
     .help = "UTF-8 text to encode."},
    {CLI_STRING, "prompt", offsetof(struct options, prompt), .argument = "TEXT",
     .help = "Text to encode, given here."},
    {CLI_STRING, "decode", offsetof(struct options, decode), .argument = "FILE",
     .help = "File of token ids (.npy, .u16, .u32) to print as text; rows end with a newline."},
    {CLI_STRING, "output", offsetof(struct options, output), 'o', "FILE",
     .help = "Where to write the ids, in the format of the extension: .npy, .u16 or .u32.  Without it they are printed, "
             "one a line."},
    {CLI_FLAG, "special", offsetof(struct options, special),
     .help = "Add the special tokens that the model wants around a text."},
    {.type = CLI_END},
};

static bool encode(const struct options *options, const struct tokenizer *tokenizer)
{
    struct text_buffer text = {0};
    struct id_buffer ids = {0};
    bool done = options->text ? text_buffer_read_file(&text, options->text, MAX_TEXT_BYTES)
                              : text_buffer_append(&text, options->prompt, strlen(options->prompt));
    done = done && tokenizer_encode(tokenizer, text.bytes, text.length, options->special, &ids);
    if (done && options->output) {
        struct token_rows rows = {ids.ids, 1, (int64_t)ids.count};
        done = tokens_write(options->output, &rows);
    }
    for (size_t i = 0; i < ids.count && done && !options->output; i++) printf("%d\n", ids.ids[i]);
    text_buffer_free(&text);
    id_buffer_free(&ids);
    return done;
}

static bool decode(const struct options *options, const struct tokenizer *tokenizer)
{
    struct token_rows rows;
    bool done = tokens_read(options->decode, NULL, tokenizer_vocabulary(tokenizer), &rows);
    for (int64_t i = 0; done && i < rows.rows; i++) {
        struct text_buffer text = {0};
        done = tokenizer_decode(tokenizer, rows.ids + i * rows.columns, (size_t)rows.columns, &text);
        fwrite(text.bytes, 1, text.length, stdout);
        putchar('\n');
        text_buffer_free(&text);
    }
    token_rows_free(&rows);
    return done;
}

static int run(const struct cli_command *command, const void *user_options)
{
    const struct options *options = user_options;
    struct tokenizer *tokenizer;
    if ((options->text != NULL) + (options->prompt != NULL) + (options->decode != NULL) != 1)
        return cli_usage(command, "one of --text, --prompt and --decode is needed");
    if (options->decode && !tokens_is_id_file(options->decode))
        return cli_usage(command, "--decode takes a file of token ids (.npy, .u16, .u32), not '%s'", options->decode);
    if (options->decode && (options->output || options->special))
        return cli_usage(command, "--output and --special do not go with --decode");
    if (options->output && !tokens_is_id_file(options->output))
        return cli_usage(command, "--output writes .npy, .u16 or .u32, not '%s'", options->output);
    if (!tokenizer_open(options->model, &tokenizer)) return EXIT_FAILED;
    bool done = options->decode ? decode(options, tokenizer) : encode(options, tokenizer);
    tokenizer_close(tokenizer);
    return done ? EXIT_OK : EXIT_FAILED;
}

const struct cli_command tokenize_command = {
    .name = "tokenize",
    .summary = "turn text into token ids, or ids into text",
    .intro = "Encode text with a model's tokenizer, or decode ids.  A long text can be encoded once and its ids\n"
             "given to 'awq quantize' and 'awq evaluate' in place of the text.",
    .examples = "  awq tokenize MODEL --text notes.txt --output notes.npy\n"
                "  awq tokenize MODEL --prompt \"Once upon a time\"\n"
                "  awq tokenize MODEL --decode notes.npy",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
