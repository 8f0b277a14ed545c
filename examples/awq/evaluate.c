/* awq evaluate: how well a model predicts a text, and how far it is from another model. */
#include "evaluate.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "commands.h"
#include "evaluation.h"

static bool open_models(struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    const struct model_options model_options = {.no_fuse = options->no_fuse, .tuning = options->tuning};
    struct model **model = &evaluation->model.model, **reference = &evaluation->reference.model;
    if (!model_open(evaluation->context, options->model, &model_options, model)) return false;
    evaluation->limit = (*model)->config.context;
    if (!options->against) return true;
    if (!model_open(evaluation->context, options->against, &model_options, reference)) return false;
    if ((*reference)->config.context < evaluation->limit) evaluation->limit = (*reference)->config.context;
    if ((*model)->config.vocabulary == (*reference)->config.vocabulary) return true;
    return cli_error("%s has a vocabulary of %" PRId64 " tokens, %s one of %" PRId64 ": they cannot be compared",
                     options->model, (*model)->config.vocabulary, options->against,
                     (*reference)->config.vocabulary);
}

static bool measure_contexts(struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    if (!windows_read(options, evaluation->model.model->config.vocabulary, &evaluation->windows)) return false;
    for (int i = 0; i < evaluation->context_count; i++) {
        if (!windows_cut(options, evaluation->contexts[i], evaluation->limit, &evaluation->windows) ||
            !evaluate_windows(evaluation, &evaluation->measures[i]))
            return false;
        evaluation->measured++;
    }
    return true;
}

/* Everything but the report. */
static bool evaluate(struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    return placement_open(&options->placement, &evaluation->context) && open_models(evaluation) &&
           (!options->tasks || evaluate_tasks(evaluation)) &&
           (!evaluation->context_count || measure_contexts(evaluation));
}

static void evaluation_close(struct evaluation *evaluation)
{
    model_close(evaluation->model.model);
    model_close(evaluation->reference.model);
    windows_free(&evaluation->windows);
    awq_context_destroy(evaluation->context);
}

bool evaluate_model(const struct evaluate_request *request, struct evaluate_result *result)
{
    const bool ids = tokens_is_id_file(request->text);
    const struct evaluate_options options = {
        .model = request->model,
        .against = request->against,
        .text = ids ? NULL : request->text,
        .tokens = ids ? request->text : NULL,
        .placement = request->placement,
    };
    struct evaluation evaluation = {.options = &options, .contexts = {request->context}, .context_count = 1};
    bool ok = evaluate(&evaluation);
    if (ok) {
        const struct measure *measure = &evaluation.measures[0];
        result->perplexity = exp(measure->loss);
        result->divergence = measure->kl;
        result->tokens = measure->tokens;
    }
    evaluation_close(&evaluation);
    return ok;
}

/* ---- the command */

/* The numbers of a list, or one 0 without one; return how many, 0: it is not a list of lengths. */
static int parse_contexts(const char *list, int64_t contexts[MAX_CONTEXTS])
{
    int count = 0;
    contexts[0] = 0;
    if (!list) return 1;
    for (;;) {
        char *end;
        errno = 0;
        long long value = *list >= '0' && *list <= '9' ? strtoll(list, &end, 10) : 0;
        if (value < 1 || errno || count == MAX_CONTEXTS) return 0;
        contexts[count++] = value;
        if (*end == 0) return count;
        if (*end != ',') return 0;
        list = end + 1;
    }
}

/* Whether the options make sense together: EXIT_OK or, after a message, EXIT_USAGE. */
static int check_options(const struct cli_command *command, struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    const struct thresholds *thresholds = &options->thresholds;
    bool judged = thresholds->max_kl || thresholds->max_perplexity_ratio || thresholds->min_top1;
    if (options->text && options->tokens) return cli_usage(command, "give either --text or --tokens, not both");
    if (!options->text && !options->tokens) {
        if (!options->tasks || judged || options->logits || options->contexts || options->stride || options->limit)
            return cli_usage(command, "give either --text or --tokens");
        return EXIT_OK;
    }
    if (options->text && tokens_is_id_file(options->text))
        return cli_usage(command, "%s holds token ids: give it as --tokens", options->text);
    evaluation->context_count = parse_contexts(options->contexts, evaluation->contexts);
    if (!evaluation->context_count)
        return cli_usage(command, "--context '%s' is not a list of at most %d lengths, such as 128,256",
                         options->contexts, MAX_CONTEXTS);
    if (evaluation->context_count > 1 && options->logits)
        return cli_usage(command, "--logits takes those of one --context");
    if (judged && !options->against)
        return cli_usage(command, "thresholds hold a model to another one: give it as --against");
    return EXIT_OK;
}

/* Print the results and judge them. */
static int report(const struct evaluation *evaluation)
{
    const struct thresholds *thresholds = &evaluation->options->thresholds;
    bool judged = thresholds->max_kl || thresholds->max_perplexity_ratio || thresholds->min_top1;
    json_t *missed = judged ? json_array() : NULL;
    bool passed = evaluate_verdict(evaluation, missed) == 0;
    bool printed = true;
    if (evaluation->options->json) printed = evaluate_print_json(evaluation, missed);
    else evaluate_print_text(evaluation);
    if (judged && !evaluation->options->json) printf("verdict        %s\n", passed ? "passed" : "failed");
    json_decref(missed);
    return printed && passed ? EXIT_OK : EXIT_FAILED;
}

static int run(const struct cli_command *command, const void *given)
{
    struct evaluation evaluation = {.options = given};
    int exit_code = check_options(command, &evaluation);
    if (exit_code != EXIT_OK) return exit_code;
    exit_code = evaluate(&evaluation) ? report(&evaluation) : EXIT_FAILED;
    evaluation_close(&evaluation);
    return exit_code;
}

static const struct evaluate_options defaults = {0};

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct evaluate_options, model), .help = "Directory of the model to evaluate."},
    {CLI_HEADING, "Data", .offset = 0},
    {CLI_STRING, "text", offsetof(struct evaluate_options, text), .argument = "FILE",
     .help = "UTF-8 text, encoded with MODEL's tokenizer after its beginning-of-text token, if it has one."},
    {CLI_STRING, "tokens", offsetof(struct evaluate_options, tokens), .argument = "FILE",
     .help = "Token ids instead: .npy, .u16 or .u32.  Rows of a two-dimensional .npy are windows: all but the last "
             "token of a row are fed, all but the first predicted."},
    {CLI_STRING, "tasks", offsetof(struct evaluate_options, tasks), .argument = "FILE",
     .help = "Prompts to continue, with or without a text beside them: UTF-8 lines of a prompt, a tab and the text "
             "expected.  One is solved when the likeliest tokens, one after the other, spell that text; blanks before "
             "it do not count.  With --against the other model gets the same tokens, and the retention is the ratio of "
             "what both solve."},
    {CLI_STRING, "context", offsetof(struct evaluate_options, contexts), .argument = "N,..",
     .help = "Tokens in a window [default: what the model takes, 2048 at most].  Of several lengths, such as "
             "128,256,512, each is measured."},
    {CLI_INT64, "stride", offsetof(struct evaluate_options, stride), .argument = "N",
     .help = "Tokens from window to window [default: --context].  With a smaller one windows overlap, and only tokens "
             "not counted before count.", .minimum = 1, .maximum = INFINITY},
    {CLI_INT64, "limit", offsetof(struct evaluate_options, limit), .argument = "N", .help = "Stop after N windows.",
     .minimum = 1, .maximum = INFINITY},
    {CLI_HEADING, "Comparison", .offset = 0},
    {CLI_STRING, "against", offsetof(struct evaluate_options, against), .argument = "MODEL",
     .help = "Also measure the divergence from this model, such as the one that MODEL was quantised from."},
    {CLI_DOUBLE, "max-kl", offsetof(struct evaluate_options, thresholds.max_kl), .argument = "NATS",
     .help = "Fail when the mean KL divergence is above this.", .minimum = 1e-12, .maximum = INFINITY},
    {CLI_DOUBLE, "max-perplexity-ratio", offsetof(struct evaluate_options, thresholds.max_perplexity_ratio),
     .argument = "R", .help = "Fail when the perplexity is above R times the other model's.", .minimum = 1e-12,
     .maximum = INFINITY},
    {CLI_DOUBLE, "min-top1", offsetof(struct evaluate_options, thresholds.min_top1), .argument = "P",
     .help = "Fail when the models' likeliest tokens agree at less than this share of tokens.", .minimum = 1e-12,
     .maximum = 1},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_OPTIONS(struct evaluate_options, placement),
    {CLI_STRING, "tuning", offsetof(struct evaluate_options, tuning), .argument = "FILE",
     .help = "Kernels as measured on this device by 'awq tune' [default: the library's choice]."},
    {CLI_FLAG, "no-fuse", offsetof(struct evaluate_options, no_fuse),
     .help = "Run q, k, v and gate, up one by one instead of as one product each."},
    {CLI_HEADING, "Output", .offset = 0},
    {CLI_FLAG, "json", offsetof(struct evaluate_options, json), .help = "Print the results as JSON."},
    {CLI_STRING, "logits", offsetof(struct evaluate_options, logits), .argument = "FILE.npy",
     .help = "Also write the logits of every token fed, float32 [tokens][vocabulary]."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command evaluate_command = {
    .name = "evaluate",
    .summary = "measure perplexity, and the divergence from another model",
    .intro = "Measures how well a model predicts text it has not seen.\n"
             "\n"
             "Perplexity is exp of the mean negative log-likelihood per token; 1 is certainty, lower is better.\n"
             "It depends on the text, the tokenizer and the windows, so compare only what was measured alike.\n"
             "The Kullback-Leibler divergence from the model before quantisation says more, and needs less text.\n"
             "\n"
             "With --against, --max-kl, --max-perplexity-ratio and --min-top1 give a verdict: where one is missed, at\n"
             "any length of windows, the results are printed all the same, a message on standard error says which,\n"
             "and the exit status is 1.",
    .examples = "  awq evaluate MODEL --text held-out.txt\n"
                "  awq evaluate MODEL-awq --against MODEL --text held-out.txt --json\n"
                "  awq evaluate MODEL-awq --against MODEL --text held-out.txt --context 256,2048 --max-kl 0.05\n"
                "  awq evaluate MODEL-awq --against MODEL --tasks tasks.tsv",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
