/* Option tables, help and messages. */
#include "cli.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "progress.h"

/* ---------------------------------------------------------------------------------- messages */

static void print_message(const char *prefix, const char *format, va_list arguments)
{
    progress_clear();
    fputs(prefix, stderr);
    vfprintf(stderr, format, arguments);
}

bool cli_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message("awq: ", format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    return false;
}

void cli_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message("awq: warning: ", format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

bool cli_library_error(awq_status status, const char *format, ...)
{
    va_list arguments;
    if (status == AWQ_ERROR_CANCELLED && progress_interrupted()) return cli_error("interrupted");
    va_start(arguments, format);
    print_message("awq: ", format, arguments);
    va_end(arguments);
    fprintf(stderr, ": %s\n", awq_last_error());
    return false;
}

int cli_usage(const struct cli_command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    print_message("awq: ", format, arguments);
    va_end(arguments);
    fprintf(stderr, "\nTry 'awq %s --help'.\n", command->name);
    return EXIT_USAGE;
}

struct cli_text cli_bytes(uint64_t bytes)
{
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    struct cli_text text;
    double value = (double)bytes;
    size_t unit = 0;
    /* 1023.995 would print as "1024.00". */
    while (value >= 1023.995 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        unit++;
    }
    snprintf(text.text, sizeof text.text, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

struct cli_text cli_duration(double seconds)
{
    struct cli_text text;
    if (!(seconds >= 0)) seconds = 0;
    if (seconds > 1e9) seconds = 1e9;
    long whole = lround(seconds);
    if (seconds < 9.95)
        snprintf(text.text, sizeof text.text, "%.1f s", seconds);
    else if (whole < 60)
        snprintf(text.text, sizeof text.text, "%ld s", whole);
    else if (whole < 3600)
        snprintf(text.text, sizeof text.text, "%ld min %02ld s", whole / 60, whole % 60);
    else
        snprintf(text.text, sizeof text.text, "%ld h %02ld min", whole / 3600, whole % 3600 / 60);
    return text;
}

struct cli_text cli_count(int64_t count)
{
    struct cli_text text;
    char digits[24];
    int length = snprintf(digits, sizeof digits, "%" PRId64, count);
    size_t out = 0;
    for (int i = 0; i < length; i++) {
        text.text[out++] = digits[i];
        int left = length - 1 - i;
        if (left > 0 && left % 3 == 0 && digits[i] != '-') text.text[out++] = ',';
    }
    text.text[out] = 0;
    return text;
}

double cli_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* -------------------------------------------------------------------------------------- help */

enum { HELP_COLUMN = 28, HELP_WIDTH = 100 };

/* Print 'text' word by word from column HELP_COLUMN on; the cursor stands at 'column'. */
static void print_wrapped(const char *text, int column)
{
    if (column > HELP_COLUMN - 2) {
        putchar('\n');
        column = 0;
    }
    printf("%*s", HELP_COLUMN - column, "");
    column = HELP_COLUMN;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > HELP_COLUMN && column + length + 1 > HELP_WIDTH) {
            printf("\n%*s", HELP_COLUMN, "");
            column = HELP_COLUMN;
        } else if (column > HELP_COLUMN) {
            putchar(' ');
            column++;
        }
        printf("%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    putchar('\n');
}

/* The 'index'th name of "a|b|c"; its length, or -1 when there are fewer. */
static int choice_name(const char *choices, int index, const char **name)
{
    for (; index > 0; index--) {
        choices = strchr(choices, '|');
        if (!choices) return -1;
        choices++;
    }
    *name = choices;
    return (int)strcspn(choices, "|");
}

/* The default of an option as text; "" when it is zero, and its absence speaks for itself. */
static void format_default(const struct cli_option *option, const void *defaults, char *text, size_t size)
{
    const void *value = (const char *)defaults + option->offset;
    const char *name = NULL;
    text[0] = 0;
    switch (option->type) {
    case CLI_INT:
        if (*(const int *)value) snprintf(text, size, "%d", *(const int *)value);
        break;
    case CLI_INT64:
        if (*(const int64_t *)value) snprintf(text, size, "%" PRId64, *(const int64_t *)value);
        break;
    case CLI_DOUBLE:
        if (*(const double *)value != 0) snprintf(text, size, "%g", *(const double *)value);
        break;
    case CLI_SIZE:
        if (*(const uint64_t *)value) snprintf(text, size, "%s", cli_bytes(*(const uint64_t *)value).text);
        break;
    case CLI_STRING:
        name = *(const char *const *)value;
        if (name) snprintf(text, size, "%s", name);
        break;
    case CLI_CHOICE: {
        int length = choice_name(option->argument, *(const int *)value, &name);
        if (length > 0) snprintf(text, size, "%.*s", length, name);
        break;
    }
    default:
        break;
    }
}

static bool is_positional(const struct cli_option *option)
{
    return option->type == CLI_ARGUMENT || option->type == CLI_OPTIONAL || option->type == CLI_ARGUMENTS;
}

/* Print an option with its choices, which go on in further lines where they are many; the width of the last line. */
static int print_head(const char *head)
{
    enum { INDENT = 10 };
    int width = 0;
    for (size_t length = 0; *head; head += length) {
        length = strcspn(head, "|");
        length += head[length] == '|';
        if (width + (int)length > HELP_WIDTH) width = printf("\n%*s", INDENT, "") - 1;
        width += printf("%.*s", (int)length, head);
    }
    return width;
}

static void print_option(const struct cli_option *option, const void *defaults)
{
    char head[256], help[1024], value[96];
    if (is_positional(option))
        snprintf(head, sizeof head, "  %s", option->name);
    else if (option->letter)
        snprintf(head, sizeof head, "  -%c, --%s%s%s", option->letter, option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
    else
        snprintf(head, sizeof head, "      --%s%s%s", option->name, option->argument ? " " : "",
                 option->argument ? option->argument : "");
    format_default(option, defaults, value, sizeof value);
    snprintf(help, sizeof help, "%s%s%s%s", option->help ? option->help : "", value[0] ? " [default: " : "", value,
             value[0] ? "]" : "");
    print_wrapped(help, print_head(head));
}

static void print_usage_line(const struct cli_command *command)
{
    printf("Usage: awq %s", command->name);
    for (const struct cli_option *option = command->options; option->type != CLI_END; option++)
        if (is_positional(option))
            printf(option->type == CLI_OPTIONAL ? " [%s%s]" : " %s%s", option->name,
                   option->type == CLI_ARGUMENTS ? ".." : "");
    puts(" [OPTIONS]");
}

void cli_print_help(const struct cli_command *command)
{
    static const struct cli_option help = {CLI_FLAG, "help", 0, 'h', NULL, "Print this text.", 0, 0};
    bool heading = false, arguments = false;
    if (command->intro) printf("%s\n\n", command->intro);
    print_usage_line(command);
    for (const struct cli_option *option = command->options; option->type != CLI_END; option++) {
        if (!is_positional(option)) continue;
        if (!arguments) puts("\nArguments:");
        arguments = true;
        print_option(option, command->defaults);
    }
    for (const struct cli_option *option = command->options; option->type != CLI_END; option++) {
        if (is_positional(option)) continue;
        if (option->type == CLI_HEADING) {
            printf("\n%s:\n", option->name);
        } else {
            if (!heading) puts("\nOptions:");
            print_option(option, command->defaults);
        }
        heading = true;
    }
    if (!heading) puts("\nOptions:");
    print_option(&help, command->defaults);
    if (command->examples) printf("\nExamples:\n%s\n", command->examples);
    puts("\nExit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted by Ctrl-C.");
}

/* ----------------------------------------------------------------------------------- parsing */

/* Edits (insert, delete, replace) that lead from a to b; for names below 32 letters. */
static int edit_distance(const char *a, const char *b)
{
    int row[33];
    int columns = (int)strlen(b);
    if (columns > 32) return 99;
    for (int j = 0; j <= columns; j++) row[j] = j;
    for (int i = 1; a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= columns; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[columns];
}

static int unknown_option(const struct cli_command *command, const char *word)
{
    char name[64];
    const char *nearest = NULL;
    int best = 3;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    for (const struct cli_option *option = command->options; option->type != CLI_END; option++) {
        if (is_positional(option) || option->type == CLI_HEADING || strncmp(name, "--", 2) != 0) continue;
        int distance = edit_distance(name + 2, option->name);
        if (distance < best) {
            best = distance;
            nearest = option->name;
        }
    }
    if (nearest) return cli_usage(command, "unknown option %s; did you mean --%s?", name, nearest);
    return cli_usage(command, "unknown option %s", name);
}

/* The option that 'word' ("--name", "--name=value", "-x", "-xvalue") names, and where a value in the same word
 * begins. */
static const struct cli_option *find_option(const struct cli_command *command, const char *word, const char **value)
{
    bool is_long = word[1] == '-';
    size_t length = is_long ? strcspn(word + 2, "=") : 1;
    for (const struct cli_option *option = command->options; option->type != CLI_END; option++) {
        if (is_positional(option) || option->type == CLI_HEADING) continue;
        if (is_long && strlen(option->name) == length && memcmp(option->name, word + 2, length) == 0) {
            *value = word[2 + length] ? word + 3 + length : NULL;
            return option;
        }
        if (!is_long && option->letter == word[1]) {
            *value = word[2] ? word + 2 : NULL;
            return option;
        }
    }
    return NULL;
}

static bool in_range(const struct cli_option *option, double value)
{
    if (option->minimum == 0 && option->maximum == 0) return true;
    return value >= option->minimum && value <= option->maximum;
}

static bool parse_int64(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (isspace((unsigned char)*text) || end == text || *end || errno) return false;
    *value = number;
    return true;
}

static bool parse_double(const char *text, double *value)
{
    char *end;
    double number = strtod(text, &end);
    if (isspace((unsigned char)*text) || end == text || *end || !isfinite(number)) return false;
    *value = number;
    return true;
}

static bool parse_size(const char *text, uint64_t *value)
{
    static const char suffixes[] = "KMGT";
    char *end;
    if (!isdigit((unsigned char)*text) && *text != '.') return false;
    double number = strtod(text, &end);
    if (end == text || !isfinite(number) || number < 0) return false;
    const char *suffix = *end ? strchr(suffixes, toupper((unsigned char)*end)) : NULL;
    if (suffix) {
        number = ldexp(number, 10 * (int)(suffix - suffixes + 1));
        end++;
        if (*end == 'i') end++;
    }
    if (*end == 'B') end++;
    if (*end || number >= 9.2e18) return false;
    *value = (uint64_t)number;
    return true;
}

static bool parse_choice(const char *choices, const char *text, int *index)
{
    const char *name;
    int length;
    for (int i = 0; (length = choice_name(choices, i, &name)) >= 0; i++) {
        if (strlen(text) != (size_t)length || memcmp(text, name, (size_t)length) != 0) continue;
        *index = i;
        return true;
    }
    return false;
}

static int bad_value(const struct cli_command *command, const struct cli_option *option, const char *text)
{
    switch (option->type) {
    case CLI_CHOICE:
        return cli_usage(command, "--%s is one of %s, not '%s'", option->name, option->argument, text);
    case CLI_SIZE:
        return cli_usage(command, "--%s takes a size such as 800M or 4G, not '%s'", option->name, text);
    default:
        break;
    }
    const char *kind = option->type == CLI_DOUBLE ? "number" : "whole number";
    if (option->minimum == 0 && option->maximum == 0)
        return cli_usage(command, "--%s takes a %s, not '%s'", option->name, kind, text);
    if (isinf(option->maximum))
        return cli_usage(command, "--%s takes a %s of at least %g, not '%s'", option->name, kind, option->minimum,
                         text);
    return cli_usage(command, "--%s takes a %s from %.10g to %.10g, not '%s'", option->name, kind, option->minimum,
                     option->maximum, text);
}

static int store_value(const struct cli_command *command, const struct cli_option *option, const char *text,
                       void *options)
{
    void *destination = (char *)options + option->offset;
    struct cli_list *list = destination;
    int64_t whole = 0;
    double number = 0;
    uint64_t size = 0;
    int index = 0;
    switch (option->type) {
    case CLI_INT:
        if (!parse_int64(text, &whole) || whole < INT32_MIN || whole > INT32_MAX || !in_range(option, (double)whole))
            return bad_value(command, option, text);
        *(int *)destination = (int)whole;
        break;
    case CLI_INT64:
        if (!parse_int64(text, &whole) || !in_range(option, (double)whole)) return bad_value(command, option, text);
        *(int64_t *)destination = whole;
        break;
    case CLI_DOUBLE:
        if (!parse_double(text, &number) || !in_range(option, number)) return bad_value(command, option, text);
        *(double *)destination = number;
        break;
    case CLI_SIZE:
        if (!parse_size(text, &size)) return bad_value(command, option, text);
        *(uint64_t *)destination = size;
        break;
    case CLI_CHOICE:
        if (!parse_choice(option->argument, text, &index)) return bad_value(command, option, text);
        *(int *)destination = index;
        break;
    case CLI_LIST:
    case CLI_ARGUMENTS:
        if (list->count == CLI_LIST_CAPACITY)
            return cli_usage(command, "%s%s was given more than %d times", option->type == CLI_LIST ? "--" : "",
                             option->name, CLI_LIST_CAPACITY);
        list->items[list->count++] = text;
        break;
    default:
        *(const char **)destination = text;
        break;
    }
    return EXIT_OK;
}

/* Parse the option at argv[*index], moving on by the words it takes. */
static int parse_option(const struct cli_command *command, int argc, char **argv, int *index, void *options)
{
    const char *word = argv[*index], *value = NULL;
    const struct cli_option *option = find_option(command, word, &value);
    (*index)++;
    if (!option) return unknown_option(command, word);
    if (option->type == CLI_FLAG) {
        if (value) return cli_usage(command, "--%s takes no value, but '%s' was given", option->name, value);
        *(bool *)((char *)options + option->offset) = true;
        return EXIT_OK;
    }
    if (!value) {
        /* What looks like an option is a forgotten value far more often than a value. */
        if (*index >= argc || strncmp(argv[*index], "--", 2) == 0)
            return cli_usage(command, "--%s needs a value: --%s %s", option->name, option->name, option->argument);
        value = argv[(*index)++];
    }
    return store_value(command, option, value, options);
}

static const struct cli_option *next_positional(const struct cli_option *option)
{
    while (option->type != CLI_END && !is_positional(option)) option++;
    return option;
}

bool cli_parse(const struct cli_command *command, int argc, char **argv, void *options, int *exit_code)
{
    const struct cli_option *positional = next_positional(command->options);
    bool only_positional = false;
    memcpy(options, command->defaults, command->options_size);
    *exit_code = EXIT_OK;
    for (int i = 0; i < argc;) {
        const char *word = argv[i];
        if (!only_positional && strcmp(word, "--") == 0) {
            only_positional = true;
            i++;
        } else if (!only_positional && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)) {
            cli_print_help(command);
            return false;
        } else if (!only_positional && word[0] == '-' && word[1]) {
            *exit_code = parse_option(command, argc, argv, &i, options);
            if (*exit_code != EXIT_OK) return false;
        } else if (positional->type == CLI_ARGUMENTS) {
            *exit_code = store_value(command, positional, word, options);
            if (*exit_code != EXIT_OK) return false;
            i++;
        } else if (positional->type != CLI_END) {
            *(const char **)((char *)options + positional->offset) = word;
            positional = next_positional(positional + 1);
            i++;
        } else {
            *exit_code = cli_usage(command, "one argument too many: '%s'", word);
            return false;
        }
    }
    const void *last = (const char *)options + positional->offset;
    if (positional->type == CLI_ARGUMENT ||
        (positional->type == CLI_ARGUMENTS && ((const struct cli_list *)last)->count == 0)) {
        *exit_code = cli_usage(command, "%s is missing", positional->name);
        return false;
    }
    return true;
}

int cli_run(const struct cli_command *command, int argc, char **argv)
{
    int exit_code;
    void *options = malloc(command->options_size ? command->options_size : 1);
    if (!options) {
        cli_error("out of memory");
        return EXIT_FAILED;
    }
    if (cli_parse(command, argc, argv, options, &exit_code)) exit_code = command->run(command, options);
    free(options);
    return exit_code;
}
