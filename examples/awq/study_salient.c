/* awq study salient: Table 1 of the AWQ paper.  A few input channels stay in FP16; what that gains depends
 * on which they are. */
#include <stdio.h>

#include "study.h"

enum { FRACTIONS = 3, RULES = 3 };

static const double fractions[FRACTIONS] = {0.001, 0.01, 0.03};
static const int32_t rules[RULES] = {AWQ_SALIENT_BY_ACTIVATION, AWQ_SALIENT_BY_WEIGHT, AWQ_SALIENT_AT_RANDOM};
static const char *const rule_names[RULES] = {"activation", "weight", "random"};

struct results {
    struct evaluate_result original, rounded, kept[FRACTIONS][RULES];
};

static bool try_all(struct study *study, struct results *results)
{
    struct quantize_settings settings = study_settings(study);
    if (!study_original(study, &results->original) || !study_try(study, &settings, NULL, &results->rounded))
        return false;
    for (int i = 0; i < FRACTIONS; i++)
        for (int j = 0; j < RULES; j++) {
            settings.quantizer.salient_fraction = fractions[i];
            settings.quantizer.salient_rule = rules[j];
            if (!study_try(study, &settings, NULL, &results->kept[i][j])) return false;
        }
    return true;
}

static void add_row(json_t *rows, json_t *row, const struct evaluate_result *result, bool quantized)
{
    json_object_set_new(row, "perplexity", json_real(result->perplexity));
    if (quantized) json_object_set_new(row, "kl_divergence", json_real(result->divergence));
    json_array_append_new(rows, row);
}

static bool print_json(const struct study *study, const struct results *results)
{
    json_t *json = study_json(study, results->original.tokens), *rows = json_array();
    add_row(rows, json_pack("{s:s}", "method", "fp16"), &results->original, false);
    add_row(rows, json_pack("{s:s}", "method", "rtn"), &results->rounded, true);
    for (int i = 0; i < FRACTIONS; i++)
        for (int j = 0; j < RULES; j++)
            add_row(rows,
                    json_pack("{s:s, s:f, s:s}", "method", "rtn+fp16", "fraction", fractions[i], "rule", rule_names[j]),
                    &results->kept[i][j], true);
    json_object_set_new(json, "rows", rows);
    return study_print_json(json);
}

static void print_text(const struct study *study, const struct results *results)
{
    study_print_head(study, "Salient channels in FP16 (AWQ paper, Table 1)");
    printf("FP16   perplexity %.4f over %s tokens\n", results->original.perplexity,
           cli_count(results->original.tokens).text);
    printf("RTN    perplexity %.4f, KL divergence %.5f\n\n", results->rounded.perplexity, results->rounded.divergence);
    printf("FP16 channels   by activation       by weight           at random\n");
    printf("                perplexity  KL      perplexity  KL      perplexity  KL\n");
    for (int i = 0; i < FRACTIONS; i++) {
        printf("%-4g %%          ", 100 * fractions[i]);
        for (int j = 0; j < RULES; j++)
            printf("%s%-11.4f %.4f", j ? "  " : "", results->kept[i][j].perplexity, results->kept[i][j].divergence);
        putchar('\n');
    }
}

bool study_salient(struct study *study)
{
    struct results results;
    if (!try_all(study, &results)) return false;
    if (study->options->json) return print_json(study, &results);
    print_text(study, &results);
    return true;
}
