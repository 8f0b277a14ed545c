/* What awq evaluate prints. */
#include <math.h>
#include <stdio.h>

#include "cli.h"
#include "evaluation.h"

static double bits_per_weight(uint64_t bytes, int64_t weights)
{
    return weights ? 8.0 * (double)bytes / (double)weights : 0;
}

static double perplexity_ratio(const struct measure *measure)
{
    return exp(measure->loss - measure->reference_loss);
}

/* ---- JSON */

/* Add what windows of one length gave to an object. */
static bool add_measure(json_t *json, const struct measure *measure, bool against)
{
    json_t *found = json_pack("{s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f}",
        "perplexity", exp(measure->loss),
        "loss", measure->loss,
        "tokens", (json_int_t)measure->tokens,
        "windows", (json_int_t)measure->windows,
        "context", (json_int_t)measure->context,
        "stride", (json_int_t)measure->stride,
        "seconds", measure->seconds,
        "tokens_per_second", measure->tokens_per_second);
    json_t *compared = against ? json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}",
        "reference_perplexity", exp(measure->reference_loss),
        "perplexity_ratio", perplexity_ratio(measure),
        "kl_divergence", measure->kl,
        "kl_divergence_p99", measure->kl_p99,
        "top1_agreement", measure->top1,
        "top5_agreement", measure->top5) : json_object();
    bool ok = json_object_update(json, found) == 0 && json_object_update(json, compared) == 0;
    json_decref(found);
    json_decref(compared);
    return ok;
}

/* One length's figures are the object's own; those of several are a list. */
static bool add_measures(json_t *json, const struct evaluation *evaluation)
{
    bool against = evaluation->options->against;
    if (evaluation->measured == 1) return add_measure(json, &evaluation->measures[0], against);
    json_t *rows = json_array();
    for (int i = 0; i < evaluation->measured; i++) {
        json_t *row = json_object();
        if (!add_measure(row, &evaluation->measures[i], against) || json_array_append(rows, row) != 0) {
            json_decref(row);
            json_decref(rows);
            return false;
        }
        json_decref(row);
    }
    return json_object_set_new(json, "contexts", rows) == 0;
}

static bool add_tasks(json_t *json, const struct evaluation *evaluation)
{
    const struct task_scores *tasks = &evaluation->tasks;
    json_t *found = json_pack("{s:s, s:I, s:I, s:f}",
        "file", evaluation->options->tasks,
        "tasks", (json_int_t)tasks->tasks,
        "solved", (json_int_t)tasks->solved,
        "accuracy", (double)tasks->solved / (double)tasks->tasks);
    if (evaluation->options->against) {
        double reference = (double)tasks->reference_solved;
        json_object_set_new(found, "reference_solved", json_integer(tasks->reference_solved));
        json_object_set_new(found, "reference_accuracy", json_real(reference / (double)tasks->tasks));
        json_object_set_new(found, "retention",
                            reference > 0 ? json_real((double)tasks->solved / reference) : json_null());
    }
    return json_object_set_new(json, "tasks", found) == 0;
}

bool evaluate_print_json(const struct evaluation *evaluation, json_t *missed)
{
    const struct evaluate_options *options = evaluation->options;
    const struct model_sizes *sizes = &evaluation->model.model->sizes;
    json_t *json = json_pack("{s:s, s:I, s:I, s:f, s:I, s:I, s:f}",
        "model", options->model,
        "weights", (json_int_t)sizes->total_weights,
        "weight_bytes", (json_int_t)sizes->total_bytes,
        "bits_per_weight", bits_per_weight(sizes->total_bytes, sizes->total_weights),
        "quantized_weights", (json_int_t)sizes->quantized_weights,
        "quantized_bytes", (json_int_t)sizes->quantized_bytes,
        "quantized_bits_per_weight", bits_per_weight(sizes->quantized_bytes, sizes->quantized_weights));
    const char *data = options->text ? options->text : options->tokens;
    bool ok = json != NULL;
    if (ok && data) ok = json_object_set_new(json, "data", json_string(data)) == 0;
    if (ok && options->against) ok = json_object_set_new(json, "against", json_string(options->against)) == 0;
    if (ok && data) ok = add_measures(json, evaluation);
    if (ok && options->tasks) ok = add_tasks(json, evaluation);
    if (ok && missed)
        ok = json_object_set_new(json, "passed", json_boolean(json_array_size(missed) == 0)) == 0 &&
             json_object_set(json, "missed", missed) == 0;
    if (!ok) {
        json_decref(json);
        return cli_error("the results cannot be written as JSON");
    }
    ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}

/* ---- text */

static void print_measure(const struct evaluate_options *options, const struct measure *measure)
{
    printf("perplexity     %.4f  = exp(%.5f), the mean of -ln p(token | those before it in its window)\n",
           exp(measure->loss), measure->loss);
    printf("               over %s tokens of %s, in %s windows of %s, one every %s\n", cli_count(measure->tokens).text,
           options->text ? options->text : options->tokens, cli_count(measure->windows).text,
           cli_count(measure->context).text, cli_count(measure->stride).text);
    if (options->against) {
        printf("against        %s, whose perplexity is %.4f: a ratio of %.5f\n", options->against,
               exp(measure->reference_loss), perplexity_ratio(measure));
        printf("KL divergence  %.6f nats, the mean over those tokens of KL(reference || model); 99th percentile %.6f\n",
               measure->kl, measure->kl_p99);
        printf("top-1          %.4f of them with the same most likely token\n", measure->top1);
        printf("top-5          %.4f with the reference's among the model's five most likely\n", measure->top5);
    }
    printf("speed          %.0f tokens/s\n", measure->tokens_per_second);
}

static void print_measures(const struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    printf("data           %s\n", options->text ? options->text : options->tokens);
    if (options->against) printf("against        %s\n", options->against);
    printf("\n%9s %9s %11s", "context", "tokens", "perplexity");
    if (options->against) printf(" %9s %10s %10s %7s %7s", "ratio", "KL", "KL p99", "top-1", "top-5");
    printf(" %9s\n", "tokens/s");
    for (int i = 0; i < evaluation->measured; i++) {
        const struct measure *measure = &evaluation->measures[i];
        printf("%9s %9s %11.4f", cli_count(measure->context).text, cli_count(measure->tokens).text, exp(measure->loss));
        if (options->against)
            printf(" %9.5f %10.6f %10.6f %7.4f %7.4f", perplexity_ratio(measure), measure->kl, measure->kl_p99,
                   measure->top1, measure->top5);
        printf(" %9.0f\n", measure->tokens_per_second);
    }
    putchar('\n');
}

static void print_tasks(const struct evaluation *evaluation)
{
    const struct task_scores *tasks = &evaluation->tasks;
    printf("tasks          %s of %s solved, %.4f\n", cli_count(tasks->solved).text, cli_count(tasks->tasks).text,
           (double)tasks->solved / (double)tasks->tasks);
    if (!evaluation->options->against) return;
    printf("               by the reference %s", cli_count(tasks->reference_solved).text);
    if (tasks->reference_solved)
        printf(": a retention of %.4f", (double)tasks->solved / (double)tasks->reference_solved);
    putchar('\n');
}

void evaluate_print_text(const struct evaluation *evaluation)
{
    const struct evaluate_options *options = evaluation->options;
    const struct model_sizes *sizes = &evaluation->model.model->sizes;
    printf("model          %s\n", options->model);
    if (evaluation->measured == 1) print_measure(options, &evaluation->measures[0]);
    else if (evaluation->measured) print_measures(evaluation);
    if (options->tasks) print_tasks(evaluation);
    printf("weights        %s in %s, %.3f bits each\n", cli_count(sizes->total_weights).text,
           cli_bytes(sizes->total_bytes).text, bits_per_weight(sizes->total_bytes, sizes->total_weights));
    if (sizes->quantized_weights)
        printf("quantised      %s of them in %s, %.3f bits each with scales and zero points\n",
               cli_count(sizes->quantized_weights).text, cli_bytes(sizes->quantized_bytes).text,
               bits_per_weight(sizes->quantized_bytes, sizes->quantized_weights));
}
