/* awq: quantise a model and see what it costs, with libawq. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "awq.h"
#include "cli.h"
#include "commands.h"
#include "progress.h"

static const struct cli_command *const commands[] = {
    &quantize_command, &calibrate_command, &merge_command, &evaluate_command, &generate_command, &inspect_command,
    &estimate_command, &convert_command, &preflight_command, &gguf_command, &bench_command, &tune_command,
    &tokenize_command, &outliers_command, &study_command,
};

enum { COMMANDS = sizeof commands / sizeof *commands };

static void print_help(void)
{
    puts("awq makes language models smaller by activation-aware weight quantisation (AWQ), to 4 bits a weight or "
         "fewer,\n"
         "and measures what that costs in accuracy.\n"
         "\n"
         "Usage: awq COMMAND [ARGUMENTS] [OPTIONS]\n"
         "\n"
         "Commands:");
    for (int i = 0; i < COMMANDS; i++) printf("  %-12s%s\n", commands[i]->name, commands[i]->summary);
    puts("\n"
         "A MODEL is a directory as Hugging Face has them: config.json, *.safetensors and a tokenizer.\n"
         "\n"
         "Examples:\n"
         "  awq quantize MODEL --out MODEL-awq --calib text.txt      make a 4-bit copy\n"
         "  awq evaluate MODEL-awq --against MODEL --text held-out.txt    what it lost\n"
         "  awq generate MODEL-awq --prompt \"Once upon a time\"       let it write\n"
         "\n"
         "'awq COMMAND --help' explains a command; 'awq --version' prints the version.\n"
         "Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted by Ctrl-C.");
}

/* Files are mapped: one that somebody shortens, or a disk that fails, shows as this signal at any reading instruction. */
static void explain_bus_error(int signal_number)
{
    static const char text[] = "awq: a file could not be read on: it became shorter while it was in use, or its disk failed\n";
    (void)signal_number;
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(EXIT_FAILED);
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "--help";
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help();
        return argc > 1 ? EXIT_OK : EXIT_USAGE;
    }
    if (strcmp(word, "--version") == 0) {
        printf("awq %s\n", awq_version_string());
        return EXIT_OK;
    }
    progress_catch_interrupts();
    signal(SIGBUS, explain_bus_error);
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(word, commands[i]->name) != 0) continue;
        int exit_code = cli_run(commands[i], argc - 2, argv + 2);
        /* What was printed may sit in the buffer until now, and the disk may be full. */
        if (fflush(stdout) != 0 && exit_code == EXIT_OK) {
            cli_error("standard output: it cannot be written");
            exit_code = EXIT_FAILED;
        }
        return exit_code == EXIT_FAILED && progress_interrupted() ? EXIT_INTERRUPTED : exit_code;
    }
    cli_error("there is no command '%s'; 'awq --help' lists them", word);
    return EXIT_USAGE;
}
