/* awq study: experiments of the AWQ paper on a model of one's own. */
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "study.h"

/* ---- a place to work in */

static bool create_directory(struct study *study)
{
    const char *base = getenv("TMPDIR");
    char path[PATH_MAX];
    if (*study->directory) return true;
    if (snprintf(path, sizeof path, "%s/awq-study-XXXXXX", base && *base ? base : "/tmp") >= (int)sizeof path)
        return cli_error("TMPDIR: the path is too long");
    if (!mkdtemp(path)) return cli_error("%s: %s", path, strerror(errno));
    memcpy(study->directory, path, sizeof path);
    return true;
}

static int remove_entry(const char *path, const struct stat *info, int type, struct FTW *position)
{
    (void)info;
    (void)type;
    (void)position;
    return remove(path);
}

static void remove_directory(struct study *study)
{
    if (*study->directory && nftw(study->directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0)
        cli_warning("%s: cannot be removed: %s", study->directory, strerror(errno));
}

/* ---- trying a setting */

struct quantize_settings study_settings(const struct study *study)
{
    struct quantize_settings settings = {.layout = AWQ_LAYOUT_CPU_STREAM, .search_tokens = 1};
    awq_struct_init(&settings.quantizer, sizeof settings.quantizer);
    settings.quantizer.bits = study->options->bits;
    settings.quantizer.group_size = study->options->group_size;
    settings.quantizer.flags = study->options->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    settings.quantizer.seed = (uint64_t)study->options->seed;
    settings.seed = (uint64_t)study->options->seed;
    return settings;
}

static bool evaluate_directory(const struct study *study, const char *model, const char *against,
                               struct evaluate_result *result)
{
    const struct evaluate_request request = {
        .model = model,
        .against = against,
        .text = study->options->text,
        .context = study->options->context,
        .placement = study->options->placement,
    };
    return evaluate_model(&request, result);
}

bool study_original(struct study *study, struct evaluate_result *result)
{
    return evaluate_directory(study, study->options->model, NULL, result);
}

bool study_try(struct study *study, const struct quantize_settings *settings, struct scale_summary *summary,
               struct evaluate_result *result)
{
    const struct study_options *options = study->options;
    char model[PATH_MAX + 8];
    if (!create_directory(study)) return false;
    snprintf(model, sizeof model, "%s/model", study->directory);
    const struct quantize_request request = {
        .model = options->model,
        .out = model,
        .calib = options->calib,
        .samples = options->samples,
        .length = options->length,
        .placement = options->placement,
        .replace = true,
        .quiet = true,
        .settings = *settings,
    };
    return quantize_model(&request, summary) == EXIT_OK &&
           evaluate_directory(study, model, options->model, result);
}

/* ---- reports */

json_t *study_json(const struct study *study, int64_t tokens)
{
    const struct study_options *options = study->options;
    return json_pack("{s:s, s:s, s:s, s:I, s:i, s:I, s:b}", "study", options->name, "model", options->model, "text",
                     options->text, "tokens", (json_int_t)tokens, "bits", options->bits, "group_size",
                     (json_int_t)options->group_size, "symmetric", (int)options->symmetric);
}

bool study_print_json(json_t *json)
{
    if (!json) return cli_error("the results cannot be written as JSON");
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}

void study_print_head(const struct study *study, const char *what)
{
    const struct study_options *options = study->options;
    printf("%s\n%s, INT%d, ", what, options->model, options->bits);
    if (options->group_size == AWQ_GROUP_PER_ROW) printf("a scale a row");
    else printf("groups of %" PRId64, options->group_size);
    printf(", %s, rounded to nearest\n\n", options->symmetric ? "symmetric" : "zero points");
}

/* ---- the command */

static int check(const struct cli_command *command, const struct study_options *options)
{
    const bool salient = strcmp(options->name, "salient") == 0;
    if (!salient && strcmp(options->name, "scale") != 0)
        return cli_usage(command, "there is no study '%s'; there are salient and scale", options->name);
    if (options->bits != 2 && options->bits != 3 && options->bits != 4 && options->bits != 8)
        return cli_usage(command, "--bits is 2, 3, 4 or 8, not %d", options->bits);
    if (options->group_size == 0)
        return cli_usage(command, "--group-size is at least 1, or -1 for whole rows, not 0");
    if (!options->model) return salient ? cli_usage(command, "MODEL is missing") : EXIT_OK;
    if (!options->text) return cli_usage(command, "--text is missing: what to evaluate with");
    if (!options->calib) return cli_usage(command, "--calib is missing: text that shows which channels are salient");
    return EXIT_OK;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct study_options *options = given;
    struct study study = {options, ""};
    int exit_code = check(command, options);
    if (exit_code != EXIT_OK) return exit_code;
    bool ok = strcmp(options->name, "salient") == 0 ? study_salient(&study) : study_scale(&study);
    remove_directory(&study);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct study_options defaults = {.bits = 3, .group_size = 128, .samples = 128, .length = 512};

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "STUDY", offsetof(struct study_options, name), .help = "salient or scale."},
    {CLI_OPTIONAL, "MODEL", offsetof(struct study_options, model),
     .help = "Directory of the model.  Without one scale only prints its worked example."},
    {CLI_HEADING, "Data", .offset = 0},
    {CLI_STRING, "text", offsetof(struct study_options, text), .argument = "FILE",
     .help = "Text or token ids to evaluate with, as for 'awq evaluate'."},
    {CLI_INT64, "context", offsetof(struct study_options, context), .argument = "N",
     .help = "Tokens in a window of it [default: what the model takes, 2048 at most].", .minimum = 1,
     .maximum = INFINITY},
    {CLI_STRING, "calib", offsetof(struct study_options, calib), .argument = "FILE",
     .help = "Text or token ids that show which channels are salient, as for 'awq quantize'."},
    {CLI_INT64, "samples", offsetof(struct study_options, samples), .argument = "N", .help = "Windows of it to use.",
     .minimum = 1, .maximum = 1e9},
    {CLI_INT64, "seq-length", offsetof(struct study_options, length), .argument = "N",
     .help = "Tokens in each, as far as the model's context goes.", .minimum = 1, .maximum = 1e9},
    {CLI_HEADING, "Quantisation", .offset = 0},
    {CLI_INT, "bits", offsetof(struct study_options, bits), .argument = "N", .help = "Bits of a weight: 2, 3, 4 or 8.",
     .minimum = 2, .maximum = 8},
    {CLI_INT64, "group-size", offsetof(struct study_options, group_size), .argument = "N",
     .help = "Weights that share a scale; -1: a whole row.", .minimum = -1, .maximum = 1 << 24},
    {CLI_FLAG, "symmetric", offsetof(struct study_options, symmetric),
     .help = "Ranges centred at zero instead of zero points."},
    {CLI_INT64, "seed", offsetof(struct study_options, seed), .argument = "N", .help = "Of what is chosen at random.",
     .minimum = 0, .maximum = INFINITY},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_OPTIONS(struct study_options, placement),
    {CLI_FLAG, "json", offsetof(struct study_options, json), .help = "Print the results as JSON."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command study_command = {
    .name = "study",
    .summary = "repeat experiments of the AWQ paper on a model",
    .intro = "Repeats experiments of the AWQ paper (arXiv 2306.00978, section 3), each setting by way of a\n"
             "quantised copy of the model in a temporary directory (TMPDIR).\n"
             "\n"
             "  salient   Table 1: perplexity when 0.1 %, 1 % or 3 % of the input channels stay in FP16,\n"
             "            chosen by activation, by weight or at random.\n"
             "  scale     Table 2: what scaling the most active 1 % of the channels by s = 1 to 4 does to\n"
             "            the scales of the groups and to perplexity; before that a worked example on one\n"
             "            group of four weights.",
    .examples = "  awq study salient MODEL --text held-out.txt --calib text.txt\n"
                "  awq study scale MODEL --text held-out.txt --calib text.txt --json\n"
                "  awq study scale",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
