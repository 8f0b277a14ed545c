/* awq merge: add up statistics of several texts, or of parts of one. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "commands.h"
#include "context.h"
#include "statistics.h"

struct options {
    struct cli_list files;
    const char *out;
    uint64_t memory_limit;
    int threads;
    bool replace, quiet;
};

static const struct options defaults;

struct merging {
    const struct options *options;
    awq_context *context;
    awq_archive *archives[CLI_LIST_CAPACITY];
    json_t *provenance; /* of all */
    awq_archive_writer *writer;
};

static bool open_archives(struct merging *merging)
{
    for (size_t i = 0; i < merging->options->files.count; i++) {
        const char *path = merging->options->files.items[i];
        awq_status status = awq_archive_open(merging->context, path, &merging->archives[i]);
        if (status != AWQ_OK) return cli_library_error(status, "statistics");
        json_t *provenance = provenance_read(merging->archives[i], path);
        if (!provenance) return false;
        bool ok = i == 0 || provenance_merge(merging->provenance, provenance, path);
        if (i == 0) merging->provenance = json_incref(provenance);
        json_decref(provenance);
        if (!ok) return false;
    }
    return true;
}

/* The calibration of that name in all files, added up. */
static bool load_sum(const struct merging *merging, const char *name, awq_calibration **sum)
{
    awq_status status = awq_archive_load(merging->archives[0], name, sum);
    if (status != AWQ_OK) return cli_library_error(status, "statistics");
    for (size_t i = 1; i < merging->options->files.count; i++) {
        awq_calibration *other = NULL;
        status = awq_archive_load(merging->archives[i], name, &other);
        if (status == AWQ_OK) status = awq_calibration_merge(*sum, other);
        awq_calibration_destroy(other);
        if (status != AWQ_OK) return cli_library_error(status, "%s: %s", merging->options->files.items[i], name);
    }
    return true;
}

static bool merge_calibrations(struct merging *merging)
{
    char room[TENSOR_NAME_SIZE];
    const char *name;
    for (int64_t i = 0; (name = statistics_name_at(merging->provenance, i, room)); i++) {
        awq_calibration *sum = NULL;
        bool ok = load_sum(merging, name, &sum);
        awq_status status = ok ? awq_archive_writer_add(merging->writer, name, sum) : AWQ_OK;
        awq_calibration_destroy(sum);
        if (!ok) return false;
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    }
    return true;
}

static bool merge(struct merging *merging)
{
    const struct options *options = merging->options;
    if (access(options->out, F_OK) == 0 && !options->replace)
        return cli_error("%s: exists already; --force replaces it", options->out);
    if (!context_open(options->threads, options->memory_limit, &merging->context)) return false;
    if (!open_archives(merging)) return false;
    char *text = provenance_text(merging->provenance);
    if (!text) return false;
    awq_status status = awq_archive_writer_create(merging->context, options->out, text, &merging->writer);
    free(text);
    if (status != AWQ_OK) return cli_library_error(status, "statistics");
    if (!merge_calibrations(merging)) return false;
    status = awq_archive_writer_commit(merging->writer);
    if (status != AWQ_OK) return cli_library_error(status, "statistics");
    if (!options->quiet)
        printf("written      %s: %s windows of %s files\n", options->out,
               cli_count(provenance_windows(merging->provenance)).text, cli_count((int64_t)options->files.count).text);
    return true;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct merging merging = {.options = options};
    if (!options->out) return cli_usage(command, "--out is missing: the file to write");
    bool ok = merge(&merging);
    awq_archive_writer_destroy(merging.writer);
    for (size_t i = 0; i < options->files.count; i++) awq_archive_destroy(merging.archives[i]);
    json_decref(merging.provenance);
    awq_context_destroy(merging.context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENTS, "FILE", offsetof(struct options, files),
     .help = "Files that 'awq calibrate' has written, of one model."},
    {CLI_STRING, "out", offsetof(struct options, out), 'o', "FILE", .help = "File to write."},
    {CLI_FLAG, "force", offsetof(struct options, replace), 'f', .help = "Replace it if it exists."},
    {CLI_INT, "threads", offsetof(struct options, threads), .argument = "N",
     .help = "Threads to use [default: all processors].", .minimum = 1, .maximum = 4096},
    {CLI_SIZE, "memory-limit", offsetof(struct options, memory_limit), .argument = "SIZE",
     .help = "Fail rather than use more memory than this, such as 4G."},
    {CLI_FLAG, "quiet", offsetof(struct options, quiet), 'q', .help = "Print nothing but errors."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command merge_command = {
    .name = "merge",
    .summary = "add up statistics of several texts, or of parts of one",
    .intro = "Adds up files of statistics that 'awq calibrate' found with one model in several texts, or in parts of\n"
             "one.  In whatever order and in how many steps that is done, the same file comes out.",
    .examples = "  awq calibrate MODEL --text text.txt --part 1/2 -o 1.awqc\n"
                "  awq calibrate MODEL --text text.txt --part 2/2 -o 2.awqc\n"
                "  awq merge 1.awqc 2.awqc -o text.awqc",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
