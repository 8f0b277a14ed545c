/* Whether a model is as near to its reference as was asked. */
#include <math.h>
#include <stdio.h>

#include "cli.h"
#include "evaluation.h"

enum { MESSAGE_SIZE = 160 };

static int check(double found, double threshold, bool at_least, const char *what, const char *option, int64_t context,
                 json_t *missed)
{
    char message[MESSAGE_SIZE];
    if (!threshold || (at_least ? found >= threshold : found <= threshold)) return 0;
    snprintf(message, sizeof message, "%s of %.6g with windows of %s tokens is %s %s %.6g", what, found,
             cli_count(context).text, at_least ? "below" : "above", option, threshold);
    cli_error("threshold missed: %s", message);
    if (missed) json_array_append_new(missed, json_string(message));
    return 1;
}

int evaluate_verdict(const struct evaluation *evaluation, json_t *missed)
{
    const struct thresholds *thresholds = &evaluation->options->thresholds;
    int count = 0;
    for (int i = 0; i < evaluation->measured; i++) {
        const struct measure *measure = &evaluation->measures[i];
        const int64_t context = measure->context;
        count += check(measure->kl, thresholds->max_kl, false, "a KL divergence", "--max-kl", context, missed);
        count += check(exp(measure->loss - measure->reference_loss), thresholds->max_perplexity_ratio, false,
                       "a perplexity ratio", "--max-perplexity-ratio", context, missed);
        count += check(measure->top1, thresholds->min_top1, true, "a top-1 agreement", "--min-top1", context, missed);
    }
    return count;
}
