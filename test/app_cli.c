/* The host application's command line: parsing, mistakes, help, sizes and durations, progress, whole files. */
#include "app.h"
#include "cli.h"
#include "buffer.h"
#include "progress.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>

struct options {
    const char *model, *second, *out, *name;
    struct cli_list exclude;
    double factor;
    int64_t group;
    uint64_t limit;
    int bits, method;
    bool json;
};

static const struct options defaults = {.bits = 4, .group = 128, .method = 1, .name = "plain", .limit = 3 << 20};

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "The model."},
    {CLI_OPTIONAL, "SECOND", offsetof(struct options, second), .help = "Another."},
    {CLI_STRING, "out", offsetof(struct options, out), 'o', "DIR",
     .help = "Where to write."},
    {CLI_HEADING, .name = "Numbers"},
    {CLI_INT, "bits", offsetof(struct options, bits), .argument = "N",
     .help = "Bits.", .minimum = 2, .maximum = 8},
    {CLI_INT64, "group-size", offsetof(struct options, group), .argument = "N",
     .help = "Group."},
    {CLI_DOUBLE, "factor", offsetof(struct options, factor), .argument = "X",
     .help = "Factor.", .minimum = 0, .maximum = 1},
    {CLI_SIZE, "memory-limit", offsetof(struct options, limit), .argument = "SIZE",
     .help = "A help text that is so long that it has to be wrapped, because a terminal of eighty columns, or of a "
             "hundred, does not hold it in one line."},
    {CLI_CHOICE, "method", offsetof(struct options, method), .argument = "rtn|awq",
     .help = "How."},
    {CLI_STRING, "name", offsetof(struct options, name), .argument = "TEXT",
     .help = "Name."},
    {CLI_LIST, "exclude", offsetof(struct options, exclude), .argument = "REGEX",
     .help = "Skip these."},
    {CLI_FLAG, "json", offsetof(struct options, json), 'j', .help = "Print JSON."},
    {.type = CLI_END},
};

static int ran;

static int run(const struct cli_command *command, const void *options)
{
    assert_string_equal(command->name, "test");
    assert_string_equal(((const struct options *)options)->model, "m");
    ran++;
    return EXIT_FAILED;
}

static const struct cli_command command = {"test", "one line", "An introduction.", "  awq test m", table, &defaults,
                                           sizeof defaults, run};

/* Words up to the first NULL. */
static bool parse(struct options *options, int *exit_code, char **words)
{
    int count = 0;
    while (words[count]) count++;
    return cli_parse(&command, count, words, options, exit_code);
}

#define WORDS(...) ((char *[]){__VA_ARGS__, NULL})

static void values_arrive(void **state)
{
    (void)state;
    struct options options;
    int code;
    assert_true(parse(&options, &code, WORDS("m")));
    assert_string_equal(options.model, "m");
    assert_null(options.second);
    assert_null(options.out);
    assert_int_equal(options.bits, 4);
    assert_int_equal(options.method, 1);
    assert_string_equal(options.name, "plain");
    assert_false(options.json);

    assert_true(
        parse(&options, &code,
              WORDS("--bits", "3", "m", "--group-size=-1", "-o", "dir", "--factor", "0.25", "-j", "n", "--memory-limit",
                    "1.5G", "--method", "rtn", "--exclude", "a", "--exclude=b", "--name=--odd")));
    assert_string_equal(options.second, "n");
    assert_string_equal(options.out, "dir");
    assert_int_equal(options.bits, 3);
    assert_int_equal(options.group, -1);
    assert_true(options.factor == 0.25);
    assert_int_equal(options.limit, (uint64_t)3 << 29);
    assert_int_equal(options.method, 0);
    assert_string_equal(options.name, "--odd");
    assert_int_equal(options.exclude.count, 2);
    assert_string_equal(options.exclude.items[1], "b");
    assert_true(options.json);

    assert_true(parse(&options, &code, WORDS("-odir", "--group-size", "-7", "--", "--json", "-")));
    assert_string_equal(options.out, "dir");
    assert_int_equal(options.group, -7);
    assert_string_equal(options.model, "--json");
    assert_string_equal(options.second, "-");
    assert_false(options.json);
}

static void check_mistake(char **words, const char *part)
{
    struct options options;
    int code = -1;
    app_capture();
    bool parsed = parse(&options, &code, words);
    const char *printed = app_release();
    assert_contains(printed, part);
    assert_contains(printed, "Try 'awq test --help'.");
    assert_false(parsed);
    assert_int_equal(code, EXIT_USAGE);
}

static void mistakes_are_explained(void **state)
{
    (void)state;
    check_mistake(WORDS(NULL), "MODEL is missing");
    check_mistake(WORDS("m", "n", "o"), "one argument too many: 'o'");
    check_mistake(WORDS("m", "--bitz", "4"), "unknown option --bitz; did you mean --bits?");
    check_mistake(WORDS("m", "--groupsize=4"), "unknown option --groupsize; did you mean --group-size?");
    check_mistake(WORDS("m", "--frobnicate"), "unknown option --frobnicate\n");
    check_mistake(WORDS("m", "-x"), "unknown option -x");
    check_mistake(WORDS("m", "--bits"), "--bits needs a value: --bits N");
    check_mistake(WORDS("m", "--out", "--json"), "--out needs a value");
    check_mistake(WORDS("m", "--bits", "x"), "--bits takes a whole number from 2 to 8, not 'x'");
    check_mistake(WORDS("m", "--bits", "9"), "not '9'");
    check_mistake(WORDS("m", "--bits", "4.5"), "not '4.5'");
    check_mistake(WORDS("m", "--bits", "99999999999999999999"), "whole number");
    check_mistake(WORDS("m", "--bits="), "not ''");
    check_mistake(WORDS("m", "--group-size", "1e3"), "takes a whole number, not '1e3'");
    check_mistake(WORDS("m", "--factor", "nan"), "takes a number from 0 to 1, not 'nan'");
    check_mistake(WORDS("m", "--factor", "1.01"), "from 0 to 1");
    check_mistake(WORDS("m", "--memory-limit", "-1"), "takes a size such as 800M or 4G, not '-1'");
    check_mistake(WORDS("m", "--memory-limit", "4X"), "size");
    check_mistake(WORDS("m", "--memory-limit", "99999999T"), "size");
    check_mistake(WORDS("m", "--memory-limit", "nan"), "size");
    check_mistake(WORDS("m", "--method", "gptq"), "--method is one of rtn|awq, not 'gptq'");
    check_mistake(WORDS("m", "--method", "rt"), "rtn|awq");
    check_mistake(WORDS("m", "--json=yes"), "--json takes no value, but 'yes' was given");
}

static void a_list_has_an_end(void **state)
{
    (void)state;
    char *words[CLI_LIST_CAPACITY + 3];
    for (int i = 0; i < CLI_LIST_CAPACITY + 1; i++) words[i] = "--exclude=x";
    words[CLI_LIST_CAPACITY + 1] = "m";
    words[CLI_LIST_CAPACITY + 2] = NULL;
    check_mistake(words, "more than 64 times");
}

static void sizes_parse(void **state)
{
    (void)state;
    static const struct {
        char *text;
        uint64_t size;
    } cases[] = {{"0", 0},          {"17", 17},       {"2K", 2048},     {"2k", 2048},
                 {"3MiB", 3 << 20}, {"3MB", 3 << 20}, {".5G", 1 << 29}, {"1T", 1ull << 40}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct options options;
        int code;
        assert_true(parse(&options, &code, WORDS("m", "--memory-limit", cases[i].text)));
        assert_int_equal(options.limit, cases[i].size);
    }
}

static void running_returns_the_exit_code(void **state)
{
    (void)state;
    ran = 0;
    assert_int_equal(cli_run(&command, 1, WORDS("m")), EXIT_FAILED);
    assert_int_equal(ran, 1);
    app_capture();
    assert_int_equal(cli_run(&command, 0, WORDS(NULL)), EXIT_USAGE);
    app_release();
    assert_int_equal(ran, 1);
}

static void help_shows_everything(void **state)
{
    (void)state;
    fflush(stdout);
    app_capture();
    int real_stdout = dup(STDOUT_FILENO);
    dup2(STDERR_FILENO, STDOUT_FILENO);
    int code = cli_run(&command, 2, WORDS("--bits", "--help"));
    int asked = cli_run(&command, 1, WORDS("--help"));
    fflush(stdout);
    dup2(real_stdout, STDOUT_FILENO);
    close(real_stdout);
    const char *text = app_release();
    assert_int_equal(code, EXIT_USAGE); /* a value that is forgotten is a mistake even before --help */
    assert_int_equal(asked, EXIT_OK);
    assert_contains(text, "An introduction.\n\nUsage: awq test MODEL [SECOND] [OPTIONS]\n");
    assert_contains(text, "  -o, --out DIR             Where to write.\n");
    assert_contains(text, "\nNumbers:\n      --bits N              Bits. [default: 4]\n");
    assert_contains(text, "[default: 3.00 MiB]\n");
    assert_contains(text, "      --method rtn|awq      How. [default: awq]\n");
    assert_contains(text, "Name. [default: plain]\n");
    assert_contains(text, "  -j, --json                Print JSON.\n");
    assert_contains(text, "\nExamples:\n  awq test m\n");
    assert_contains(text, "Exit status: 0 success");
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) assert_true(strcspn(line, "\n") <= 100);
}

static void numbers_are_readable(void **state)
{
    (void)state;
    assert_string_equal(cli_bytes(0).text, "0 bytes");
    assert_string_equal(cli_bytes(1023).text, "1023 bytes");
    assert_string_equal(cli_bytes(1024).text, "1.00 KiB");
    assert_string_equal(cli_bytes((1 << 20) - 1).text, "1.00 MiB");
    assert_string_equal(cli_bytes((uint64_t)5 << 29).text, "2.50 GiB");
    assert_string_equal(cli_bytes(UINT64_MAX).text, "16.00 EiB");
    assert_string_equal(cli_duration(0.04).text, "0.0 s");
    assert_string_equal(cli_duration(9.94).text, "9.9 s");
    assert_string_equal(cli_duration(9.96).text, "10 s");
    assert_string_equal(cli_duration(59.6).text, "1 min 00 s");
    assert_string_equal(cli_duration(3599.9).text, "1 h 00 min");
    assert_string_equal(cli_duration(7380).text, "2 h 03 min");
    assert_string_equal(cli_duration(-1).text, "0.0 s");
    assert_string_equal(cli_count(0).text, "0");
    assert_string_equal(cli_count(999).text, "999");
    assert_string_equal(cli_count(1234567).text, "1,234,567");
    assert_string_equal(cli_count(-123456).text, "-123,456");
    assert_string_equal(cli_count(INT64_MIN).text, "-9,223,372,036,854,775,808");
}

/* ---------------------------------------------------------------------------------- progress */

static void no_bar_without_a_terminal(void **state)
{
    (void)state;
    struct progress progress;
    app_capture();
    progress_begin(&progress, "Working");
    assert_int_equal(progress_update(&progress, 1, 2), 0);
    assert_true(progress_end(&progress) >= 0);
    assert_string_equal(app_release(), "");
}

/* What a terminal gets between these two. */
static int terminal, real_stderr;

static void open_terminal(void)
{
    terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) skip(); /* a system without terminals */
    int other = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(other >= 0);
    fflush(stderr);
    real_stderr = dup(STDERR_FILENO);
    dup2(other, STDERR_FILENO);
    close(other);
}

static const char *close_terminal(void)
{
    static char text[4096];
    size_t length = 0;
    fflush(stderr);
    dup2(real_stderr, STDERR_FILENO);
    close(real_stderr);
    /* With the other side closed, reading ends after what was written. */
    for (ssize_t count; (count = read(terminal, text + length, sizeof text - 1 - length)) > 0;) length += (size_t)count;
    close(terminal);
    text[length] = 0;
    return text;
}

static void a_terminal_gets_a_bar_that_goes_again(void **state)
{
    (void)state;
    struct progress progress;
    open_terminal();
    progress_begin(&progress, "Working");
    progress_note(&progress, "layer %d", 3);
    assert_int_equal(progress_update(&progress, 1, 2), 0);
    for (int i = 0; i < 1000; i++) progress_update(&progress, 1, 2); /* too soon to be drawn again */
    cli_warning("watch out");
    progress_end(&progress);
    const char *text = close_terminal();
    assert_contains(text, "Working [############............]  50%  layer 3");
    assert_contains(text, "\r\033[Kawq: warning: watch out");
    const char *first = strstr(text, "Working");
    assert_null(strstr(first + 1, "Working"));
}

static void interrupts_are_noted(void **state)
{
    (void)state;
    struct progress progress;
    progress_catch_interrupts();
    progress_begin(&progress, "Working");
    assert_int_equal(progress_update(&progress, 1, 2), 0);
    assert_false(progress_interrupted());
    raise(SIGINT);
    assert_true(progress_interrupted());
    assert_int_not_equal(progress_update(&progress, 1, 2), 0);
    progress_end(&progress);
    app_capture();
    assert_false(cli_library_error(AWQ_ERROR_CANCELLED, "work"));
    assert_string_equal(app_release(), "awq: interrupted\n");
    /* The next one kills. */
    struct sigaction action;
    sigaction(SIGINT, NULL, &action);
    assert_true(action.sa_handler == SIG_DFL);
}

/* ------------------------------------------------------------------------------------- files */

static void files_are_written_whole(void **state)
{
    (void)state;
    struct text_buffer text = {0};
    assert_true(write_file(app_path("file"), "hello", 5));
    assert_true(write_file(app_path("file"), "hello again", 11));
    assert_true(text_buffer_read_file(&text, app_path("file"), 11));
    assert_int_equal(text.length, 11);
    assert_memory_equal(text.bytes, "hello again", 11);
    text_buffer_free(&text);

    app_capture();
    assert_false(text_buffer_read_file(&text, app_path("file"), 10));
    assert_contains(app_release(), "larger than 10 bytes");
    assert_null(text.bytes);
    app_capture();
    assert_false(text_buffer_read_file(&text, app_path("none"), 10));
    assert_contains(app_release(), "No such file");
    app_capture();
    assert_false(text_buffer_read_file(&text, app_directory, 10));
    assert_contains(app_release(), "is a directory");
    app_capture();
    assert_false(write_file(app_path("none/file"), "x", 1));
    assert_contains(app_release(), "No such file");

    /* A directory stands where the file should be: nothing is left behind. */
    assert_int_equal(mkdir(app_path("taken"), 0777), 0);
    app_capture();
    assert_false(write_file(app_path("taken"), "x", 1));
    assert_contains(app_release(), "taken: ");
    assert_int_equal(rmdir(app_path("taken")), 0);
    assert_int_equal(unlink(app_path("file")), 0);
    assert_int_equal(rmdir(app_directory), 0);
    assert_int_equal(mkdir(app_directory, 0777), 0);
}

int main(void)
{
    signal(SIGINT, SIG_DFL); /* background jobs inherit it ignored, which the program respects */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_arrive),
        cmocka_unit_test(mistakes_are_explained),
        cmocka_unit_test(a_list_has_an_end),
        cmocka_unit_test(sizes_parse),
        cmocka_unit_test(running_returns_the_exit_code),
        cmocka_unit_test(help_shows_everything),
        cmocka_unit_test(numbers_are_readable),
        cmocka_unit_test(no_bar_without_a_terminal),
        cmocka_unit_test(a_terminal_gets_a_bar_that_goes_again),
        cmocka_unit_test_setup_teardown(files_are_written_whole, app_setup, app_teardown),
        cmocka_unit_test(interrupts_are_noted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
