/* awq study scale: Table 2 of the AWQ paper.  Multiplying a channel by s before rounding, and dividing after it, makes
 * its error smaller by s as long as the scale of its group stays; where the channel sets that scale, all others lose.
 *
 * First an example that can be followed by hand, y = w x of one group of four weights in INT3, symmetric.  The third
 * weight is large and sets the scale of the group; the first meets a large activation. */
#include <math.h>
#include <stdio.h>

#include "study.h"

/* ---- the example */

enum { WEIGHTS = 4 };

static const float example_w[WEIGHTS] = {0.17f, -0.27f, 0.9f, 0.05f}, example_x[WEIGHTS] = {10, 1, 1, 1};

struct example {
    const char *what;
    float factors[WEIGHTS]; /* s of each weight */
    float scale;            /* of the group */
    uint8_t codes[WEIGHTS]; /* plus 4 */
    float w[WEIGHTS];       /* rounded, and divided by s */
    double y;
};

static double product(const float *w)
{
    double sum = 0;
    for (int i = 0; i < WEIGHTS; i++) sum += (double)w[i] * (double)example_x[i];
    return sum;
}

static awq_status work_out(awq_context *context, struct example *example)
{
    awq_quantize_options options;
    awq_tensor w, factors, codes, scale, rounded;
    awq_weight *weight = NULL;
    awq_struct_init(&options, sizeof options);
    options.bits = 3;
    options.flags = AWQ_QUANTIZE_SYMMETRIC;
    options.scale_dtype = AWQ_F32;
    options.input_scale = &factors;
    awq_tensor_init_const_2d(&w, example_w, AWQ_F32, 1, WEIGHTS);
    awq_tensor_init_const_1d(&factors, example->factors, AWQ_F32, WEIGHTS);
    awq_tensor_init_2d(&codes, example->codes, AWQ_U8, 1, WEIGHTS);
    awq_tensor_init_2d(&scale, &example->scale, AWQ_F32, 1, 1);
    awq_tensor_init_2d(&rounded, example->w, AWQ_F32, 1, WEIGHTS);
    awq_status status = awq_quantize(context, &w, NULL, &options, &weight);
    if (status == AWQ_OK) status = awq_weight_export(weight, &codes, &scale, NULL, NULL);
    if (status == AWQ_OK) status = awq_weight_dequantize(weight, AWQ_DEQUANTIZE_UNSCALED, &rounded);
    awq_weight_destroy(weight);
    example->y = product(example->w);
    return status;
}

static void print_example(const struct example *example)
{
    printf("%-18s %-8.4f", example->what, (double)example->scale);
    for (int i = 0; i < WEIGHTS; i++) printf(" %2d", example->codes[i] - 4);
    printf("   ");
    for (int i = 0; i < WEIGHTS; i++) printf(" %7.4f", (double)example->w[i]);
    printf("   %7.4f  %+.4f\n", example->y, example->y - product(example_w));
}

static json_t *example_json(const struct example *example)
{
    json_t *codes = json_array(), *weights = json_array(), *factors = json_array();
    for (int i = 0; i < WEIGHTS; i++) {
        json_array_append_new(factors, json_real((double)example->factors[i]));
        json_array_append_new(codes, json_integer(example->codes[i] - 4));
        json_array_append_new(weights, json_real((double)example->w[i]));
    }
    return json_pack("{s:s, s:o, s:f, s:o, s:o, s:f, s:f}", "what", example->what, "s", factors, "scale",
                     (double)example->scale, "codes", codes, "weights", weights, "output", example->y, "error",
                     example->y - product(example_w));
}

enum { EXAMPLES = 3 };

static bool work_out_all(const struct study *study, struct example examples[EXAMPLES])
{
    static const struct example cases[EXAMPLES] = {
        {.what = "as it is", .factors = {1, 1, 1, 1}},
        {.what = "w1 times 2", .factors = {2, 1, 1, 1}},
        {.what = "w3 times 2", .factors = {1, 1, 2, 1}},
    };
    awq_context *context = NULL;
    bool ok = context_open(study->options->placement.threads, study->options->placement.memory_limit, &context);
    for (int i = 0; ok && i < EXAMPLES; i++) {
        examples[i] = cases[i];
        awq_status status = work_out(context, &examples[i]);
        ok = status == AWQ_OK || cli_library_error(status, "the example");
    }
    awq_context_destroy(context);
    return ok;
}

static void print_examples(const struct example examples[EXAMPLES])
{
    printf("One group in INT3: w = (%g, %g, %g, %g), x = (%g, %g, %g, %g), y = w x = %.4f\n\n", (double)example_w[0],
           (double)example_w[1], (double)example_w[2], (double)example_w[3], (double)example_x[0],
           (double)example_x[1], (double)example_x[2], (double)example_x[3], product(example_w));
    printf("                   scale    codes           w' = code * scale / s              y'       error\n");
    for (int i = 0; i < EXAMPLES; i++) print_example(&examples[i]);
    printf("\nw1 meets the large activation, so its error is most of the error of y.  Times 2 it is rounded half as\n"
           "coarsely, since w3 still sets the scale.  Times 2, w3 makes the scale and all errors of others larger.\n");
}

/* ---- the sweep */

enum { FACTORS = 5 };

static const double factors[FACTORS] = {1, 1.25, 1.5, 2, 4};
static const double scaled_fraction = 0.01;

struct trial {
    double s, changed, ratio; /* the part of groups whose scale changed; the mean ratio of after and before */
    struct evaluate_result result;
};

static bool try_factor(struct study *study, double s, struct trial *trial)
{
    struct quantize_settings settings = study_settings(study);
    struct scale_summary summary = {0};
    settings.quantizer.salient_rule = AWQ_SALIENT_BY_ACTIVATION;
    settings.quantizer.salient_fraction = scaled_fraction;
    settings.salient_scale = s;
    if (!study_try(study, &settings, &summary, &trial->result)) return false;
    trial->s = s;
    trial->changed = (double)summary.changed / (double)summary.groups;
    trial->ratio = summary.ratios / (double)summary.groups;
    return true;
}

static bool sweep_json(const struct study *study, const struct example examples[EXAMPLES],
                       const struct evaluate_result *original, const struct trial *trials)
{
    json_t *list = json_array(), *rows = json_array();
    for (int i = 0; i < EXAMPLES; i++) json_array_append_new(list, example_json(&examples[i]));
    json_t *json = trials ? study_json(study, original->tokens) : json_pack("{s:s}", "study", "scale");
    json_object_set_new(json, "example", list);
    for (int i = 0; trials && i < FACTORS; i++)
        json_array_append_new(rows, json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "s", trials[i].s, "changed_groups",
                                              trials[i].changed, "scale_ratio", trials[i].ratio, "relative_error",
                                              trials[i].ratio / trials[i].s, "perplexity",
                                              trials[i].result.perplexity, "kl_divergence",
                                              trials[i].result.divergence));
    if (trials) json_object_set_new(json, "fp16_perplexity", json_real(original->perplexity));
    if (trials) json_object_set_new(json, "rows", rows);
    else json_decref(rows);
    return study_print_json(json);
}

static void print_sweep(const struct study *study, const struct evaluate_result *original, const struct trial *trials)
{
    putchar('\n');
    study_print_head(study, "The most active 1 % of the channels times s (AWQ paper, Table 2)");
    printf("FP16 perplexity %.4f over %s tokens\n\n", original->perplexity, cli_count(original->tokens).text);
    printf("s      groups whose      mean ratio    relative error     perplexity  KL\n");
    printf("       scale changed     of scales     of the channels\n");
    for (int i = 0; i < FACTORS; i++)
        printf("%-5g  %6.2f %%          %-12.4f  %-17.4f  %-10.4f  %.4f\n", trials[i].s, 100 * trials[i].changed,
               trials[i].ratio, trials[i].ratio / trials[i].s, trials[i].result.perplexity,
               trials[i].result.divergence);
}

bool study_scale(struct study *study)
{
    struct example examples[EXAMPLES];
    struct evaluate_result original;
    struct trial trials[FACTORS];
    const bool json = study->options->json, sweeps = study->options->model != NULL;
    if (!work_out_all(study, examples)) return false;
    if (!json) print_examples(examples);
    if (!sweeps) return !json || sweep_json(study, examples, NULL, NULL);
    fflush(stdout);
    if (!study_original(study, &original)) return false;
    for (int i = 0; i < FACTORS; i++)
        if (!try_factor(study, factors[i], &trials[i])) return false;
    if (json) return sweep_json(study, examples, &original, trials);
    print_sweep(study, &original, trials);
    return true;
}
