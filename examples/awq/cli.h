/* The command line: option tables, their parsing, the help made from them, and messages.
 *
 * A command is one static table.  Values are stored into the command's own options struct, which starts as a copy of
 * its defaults, so the help can show them.
 *
 *     struct options { const char *model; const char *out; int bits; bool json; };
 *     static const struct options defaults = {.bits = 4};
 *     static const struct cli_option table[] = {
 *         {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of the model."},
 *         {CLI_HEADING, .name = "Output"},
 *         {CLI_STRING, "out", offsetof(struct options, out), 'o', "DIR", "Where to write."},
 *         {CLI_INT, "bits", offsetof(struct options, bits), .argument = "N", .help = "Bits.", .minimum = 2,
 *          .maximum = 8},
 *         {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print JSON."},
 *         {.type = CLI_END},
 *     };
 *     static int run(const struct cli_command *command, const void *options);
 *     const struct cli_command quantize_command = {"quantize", "one line", "intro", "examples", table,
 *                                                  &defaults, sizeof defaults, run};
 */
#ifndef AWQ_APP_CLI_H
#define AWQ_APP_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "awq.h"

/* Exit codes of the program. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_REFUSED = 3, EXIT_INTERRUPTED = 130 };

enum cli_type {
    CLI_END,      /* closes the table */
    CLI_HEADING,  /* 'name' heads the options that follow in the help */
    CLI_ARGUMENT, /* const char *: a required argument without dashes; 'name' is how the help calls it */
    CLI_OPTIONAL, /* const char *: one that may be left out, after all required ones */
    CLI_ARGUMENTS, /* struct cli_list: all that follow, one at least */
    CLI_FLAG,     /* bool: takes no value; set to true */
    CLI_INT,      /* int */
    CLI_INT64,    /* int64_t */
    CLI_DOUBLE,   /* double */
    CLI_STRING,   /* const char * */
    CLI_SIZE,     /* uint64_t: bytes, with an optional suffix K, M, G or T (powers of 1024) */
    CLI_CHOICE,   /* int: 'argument' lists the names, "rtn|awq"; stores the index of the one given */
    CLI_LIST      /* struct cli_list: may be given several times */
};

struct cli_option {
    enum cli_type type;
    const char *name;     /* without dashes */
    size_t offset;        /* of the destination in the options struct */
    char letter;          /* short form, or 0 */
    const char *argument; /* how the help calls the value */
    const char *help;     /* wrapped by the help; the default is appended when it is not zero, "" or NULL */
    double minimum;       /* of a number; no limits when both are 0 */
    double maximum;       /* INFINITY: none */
};

enum { CLI_LIST_CAPACITY = 64 };

struct cli_list {
    const char *items[CLI_LIST_CAPACITY]; /* point into argv */
    size_t count;
};

struct cli_command {
    const char *name;
    const char *summary;  /* one line for the list of commands */
    const char *intro;    /* a paragraph or two for the head of the help; lines are printed as they are */
    const char *examples; /* lines, printed as they are under "Examples:"; NULL: none */
    const struct cli_option *options;
    const void *defaults;
    size_t options_size;
    int (*run)(const struct cli_command *command, const void *options); /* returns an exit code */
};

/* Parse argv[0..argc-1] (the words after the command's name) and run the command.  --help and -h print the help and
 * give EXIT_OK; a mistake prints what and where to look and gives EXIT_USAGE. */
int cli_run(const struct cli_command *command, int argc, char **argv);

/* Only the parsing: true when 'options' (options_size bytes) is filled, false with *exit_code otherwise. */
bool cli_parse(const struct cli_command *command, int argc, char **argv, void *options, int *exit_code);

/* The help text on stdout. */
void cli_print_help(const struct cli_command *command);

/* "awq: ..." and "awq: warning: ..." on stderr, one line, after clearing a progress bar.  cli_error returns false, for
 * `return cli_error(...)`: functions of this program that fail have said why. */
bool cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The same for a failed call of the library: appends ": " and awq_last_error().  AWQ_ERROR_CANCELLED after Ctrl-C only
 * says "interrupted". */
bool cli_library_error(awq_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A mistake in how the command was called: prints it with a pointer to --help; returns EXIT_USAGE. */
int cli_usage(const struct cli_command *command, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For printf: cli_bytes(n).text is "1.50 GiB", cli_duration(seconds).text is "2 min 05 s", cli_count(n).text is
 * "1,234,567". */
struct cli_text {
    char text[32];
};

struct cli_text cli_bytes(uint64_t bytes);
struct cli_text cli_duration(double seconds);
struct cli_text cli_count(int64_t count);

/* Seconds on a clock that never jumps. */
double cli_seconds(void);

#endif
