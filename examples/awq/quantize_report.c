/* What came of quantising: tables for people, JSON for programs. */
#include "quantize.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const scale_names[] = {[AWQ_SCALES_PLAIN] = "plain", [AWQ_SCALES_DUO] = "duo"};
static const char *const profile_names[] = {
    [AWQ_PROFILE_EXACT] = "exact", [AWQ_PROFILE_AUTOAWQ] = "autoawq", [AWQ_PROFILE_LLM_AWQ] = "llm-awq"};

static const char *const rule_names[] = {
    [AWQ_SALIENT_BY_ACTIVATION] = "by activation",
    [AWQ_SALIENT_BY_WEIGHT] = "by weight",
    [AWQ_SALIENT_AT_RANDOM] = "at random",
};

static const char *layout_name(const struct quantize_settings *settings)
{
    return settings->layout ? awq_layout_name(settings->layout) : "float";
}

/* How many percent 'after' is less than 'before'. */
static double percent_less(double before, double after)
{
    return before > 0 ? 100 * (before - after) / before : 0;
}

static double percent_of(int64_t part, int64_t whole)
{
    return whole ? 100 * (double)part / (double)whole : 0;
}

/* That the statistics come from. */
static int64_t job_windows(const struct quantize_job *job)
{
    return job->archive ? provenance_windows(job->provenance) : job->windows.rows;
}

void report_plan(const struct quantize_job *job, int64_t finished)
{
    const struct quantize_settings *settings = job->settings;
    const awq_quantize_options *quantizer = &settings->quantizer;
    printf("model        %s: %s, %" PRId64 " layers, %s weights in %s\n", job->request->model, job->config.architecture->model_type,
           job->config.layers, cli_count(job->source_weights).text, cli_bytes(job->source_bytes).text);
    printf("to           %d bits, ", (int)quantizer->bits);
    if (quantizer->group_size == AWQ_GROUP_PER_ROW)
        printf("a scale a row");
    else
        printf("groups of %" PRId64, quantizer->group_size);
    printf(", %s, %s\n", quantizer->flags & AWQ_QUANTIZE_SYMMETRIC ? "symmetric" : "zero points",
           layout_name(settings));
    printf("method       %s, range %s, rounding %s\n", quantize_method_name(settings), quantize_range_name(settings),
           quantize_rounding_name(settings));
    if (quantizer->salient_fraction > 0)
        printf("in FP16      %g %% of the input channels, %s\n", 100 * quantizer->salient_fraction,
               rule_names[quantizer->salient_rule]);
    if (quantize_calibrates(job->request))
        printf("calibration  %s windows of %s tokens from %s\n", cli_count(job_windows(job)).text,
               cli_count(job->windows.columns).text, job->archive ? job->request->stats : job->request->calib);
    if (finished) printf("resumed      %s layers were finished before\n", cli_count(finished).text);
    printf("memory       about %s will be used\n", cli_bytes(job->estimated_bytes).text);
    fflush(stdout);
}

bool block_report_create(const struct model_config *config, struct block_report *report)
{
    const size_t mlps = (size_t)block_mlps(config);
    report->group = calloc((size_t)block_points(config), sizeof *report->group);
    report->linear = calloc((size_t)block_linears(config), sizeof *report->linear);
    report->expert_tokens = calloc(mlps, sizeof *report->expert_tokens);
    report->expert_scarce = calloc(mlps, sizeof *report->expert_scarce);
    return report->group && report->linear && report->expert_tokens && report->expert_scarce;
}

void block_report_free(struct block_report *report)
{
    free(report->group);
    free(report->linear);
    free(report->expert_tokens);
    free(report->expert_scarce);
    memset(report, 0, sizeof *report);
}

static void count_clipped(const struct model_config *config, const struct block_report *report, int64_t *clipped,
                          int64_t *groups)
{
    for (int linear = 0; linear < block_linears(config); linear++) {
        if (!report->linear[linear].clipped) continue;
        *clipped += report->linear[linear].clipped_groups;
        *groups += report->linear[linear].groups;
    }
}

void report_block(const struct quantize_job *job, int64_t layer)
{
    const struct block_report *report = &job->reports[layer];
    int64_t clipped = 0, groups = 0;
    progress_clear();
    printf("layer %-6" PRId64, layer);
    for (int point = 0; point < (job->config.experts ? POINT_DOWN : POINT_KINDS); point++) {
        const struct group_report *group = &report->group[point];
        if (group->searched)
            printf(" %s %.2f (%+.1f %%) ", point_name(point), group->alpha,
                   -percent_less(group->loss_identity, group->loss));
    }
    count_clipped(&job->config, report, &clipped, &groups);
    if (groups) printf(" %.1f %% clipped", percent_of(clipped, groups));
    putchar('\n');
    fflush(stdout);
}

/* One line: the linears that share an input, over all layers and experts. */
static void print_group(const struct quantize_job *job, int kind)
{
    static const char *const judged_by[POINT_KINDS] = {
        [POINT_QKV] = "attention", [POINT_O] = "own output", [POINT_GATE_UP] = "MLP", [POINT_DOWN] = "own output"};
    double alpha = 0, lowest = 1, highest = 0, loss = 0, identity = 0;
    int64_t searched = 0;
    const int last = kind < POINT_DOWN ? kind : block_points(&job->config) - 1, points = last - kind + 1;
    for (int64_t i = 0; i < job->config.layers * points; i++) {
        const struct group_report *group = &job->reports[i / points].group[kind + i % points];
        if (!group->searched) continue;
        searched++;
        alpha += group->alpha;
        lowest = group->alpha < lowest ? group->alpha : lowest;
        highest = group->alpha > highest ? group->alpha : highest;
        loss += group->loss;
        identity += group->loss_identity;
    }
    if (!searched) return;
    printf("%-12s %-12s %.2f (%.2f to %.2f)   %-12.4g %-12.4g %5.1f %%\n", point_name(kind), judged_by[kind],
           alpha / (double)searched, lowest, highest, identity / (double)searched, loss / (double)searched,
           percent_less(identity, loss));
}

void report_experts(const struct quantize_job *job)
{
    static const char *const become[] = {[FALLBACK_RTN] = "their down projections are rounded to nearest",
                                         [FALLBACK_FLOAT] = "they stay as they are"};
    const int64_t experts = job->config.experts * job->config.layers;
    int64_t least = INT64_MAX, scarce = 0;
    if (!experts || !quantize_calibrates(job->request)) return;
    for (int64_t i = 0; i < experts; i++) {
        const struct block_report *report = &job->reports[i / job->config.experts];
        const int64_t tokens = report->expert_tokens[i % job->config.experts];
        least = tokens < least ? tokens : least;
        scarce += report->expert_scarce[i % job->config.experts];
    }
    if (!job->request->quiet && !job->request->json)
        printf("experts      each saw at least %s tokens\n", cli_count(least).text);
    if (scarce)
        cli_warning("%s of %s experts saw fewer than %s tokens of the calibration: %s", cli_count(scarce).text,
                    cli_count(experts).text, cli_count(job->settings->expert_tokens).text,
                    become[job->settings->expert_fallback]);
}

static void print_rounding(const struct quantize_job *job)
{
    int64_t quantized = 0, clipped = 0, groups = 0, total = 0;
    uint64_t clamped = 0;
    for (int64_t layer = 0; layer < job->config.layers; layer++) {
        count_clipped(&job->config, &job->reports[layer], &clipped, &groups);
        for (int linear = 0; linear < block_linears(&job->config); linear++) {
            total += block_has_linear(&job->config, linear);
            quantized += job->reports[layer].linear[linear].quantized;
            clamped += job->reports[layer].linear[linear].clamped_scales;
        }
    }
    const char *done = job->settings->layout ? "quantised" : "scaled";
    printf("%-12s %" PRId64 " of %" PRId64 " linears", done, quantized, total);
    if (groups) printf("; %.1f %% of %s groups clipped", percent_of(clipped, groups), cli_count(groups).text);
    putchar('\n');
    if (clamped) cli_warning("%s scales did not fit their type and were clamped", cli_count((int64_t)clamped).text);
}

void report_result(const struct quantize_job *job)
{
    if (job->settings->search) {
        printf("\nlinears      judged by    alpha                 error of     with scales  less\n");
        printf("                          mean (range)          rounding\n");
        for (int kind = 0; kind < POINT_KINDS; kind++) print_group(job, kind);
        putchar('\n');
    }
    print_rounding(job);
    printf("written      %s, %s of tensors instead of %s\n", job->request->out, cli_bytes(job->output_bytes).text,
           cli_bytes(job->source_bytes).text);
    printf("memory       %s at most; %s were estimated\n", cli_bytes(job->peak_bytes).text,
           cli_bytes(job->estimated_bytes).text);
    printf("time         %s\n", cli_duration(job->seconds).text);
}

/* ---- JSON */

static json_t *linear_json(const struct model_config *config, int64_t layer, int linear,
                           const struct linear_report *report)
{
    char name[TENSOR_NAME_SIZE];
    block_linear_name(config, layer, linear, name);
    json_t *json = json_pack("{s:s, s:b}", "name", name, "quantized", report->quantized);
    if (!json || !report->quantized) return json;
    json_object_set_new(json, "groups", json_integer(report->groups));
    json_object_set_new(json, "zero_groups", json_integer((json_int_t)report->zero_groups));
    json_object_set_new(json, "clamped_scales", json_integer((json_int_t)report->clamped_scales));
    if (!report->clipped) return json;
    json_object_set_new(json, "clipped_groups", json_integer(report->clipped_groups));
    json_object_set_new(json, "clip_loss", json_real(report->clip_loss));
    json_object_set_new(json, "clip_loss_unclipped", json_real(report->clip_loss_unclipped));
    return json;
}

static json_t *group_json(int point, const struct group_report *report)
{
    return json_pack("{s:s, s:f, s:s, s:f, s:f}", "linears", point_name(point), "alpha", report->alpha, "scales",
                     scale_names[report->scales], "loss", report->loss, "loss_identity", report->loss_identity);
}

static json_t *layer_json(const struct model_config *config, int64_t layer, const struct block_report *report)
{
    json_t *groups = json_array(), *linears = json_array();
    for (int point = 0; point < block_points(config); point++)
        if (report->group[point].searched)
            json_array_append_new(groups, group_json(point, &report->group[point]));
    for (int linear = 0; linear < block_linears(config); linear++)
        if (block_has_linear(config, linear))
            json_array_append_new(linears, linear_json(config, layer, linear, &report->linear[linear]));
    json_t *json = json_pack("{s:I, s:o, s:o}", "layer", (json_int_t)layer, "searches", groups, "linears", linears);
    json_t *experts = config->experts ? json_array() : NULL;
    for (int mlp = 0; mlp < config->experts; mlp++)
        json_array_append_new(experts, json_pack("{s:I, s:b}", "tokens", (json_int_t)report->expert_tokens[mlp],
                                                 "calibrated", !report->expert_scarce[mlp]));
    if (json && experts) json_object_set_new(json, "experts", experts);
    return json;
}

bool report_json(const struct quantize_job *job)
{
    const struct quantize_settings *settings = job->settings;
    const awq_quantize_options *quantizer = &settings->quantizer;
    json_t *layers = json_array();
    for (int64_t layer = 0; layer < job->config.layers; layer++)
        json_array_append_new(layers, layer_json(&job->config, layer, &job->reports[layer]));
    json_t *json = json_pack(
        "{s:s, s:s, s:s, s:s, s:s, s:s, s:i, s:I, s:b, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:o}",
        "model", job->request->model,
        "out", job->request->out,
        "method", quantize_method_name(settings),
        "range", quantize_range_name(settings),
        "rounding", quantize_rounding_name(settings),
        "profile", profile_names[quantizer->profile],
        "bits", (int)quantizer->bits,
        "group_size", (json_int_t)quantizer->group_size,
        "symmetric", (quantizer->flags & AWQ_QUANTIZE_SYMMETRIC) != 0,
        "version", layout_name(settings),
        "calibration_windows", (json_int_t)job_windows(job),
        "calibration_window_tokens", (json_int_t)job->windows.columns,
        "weights", (json_int_t)job->source_weights,
        "source_bytes", (json_int_t)job->source_bytes,
        "output_bytes", (json_int_t)job->output_bytes,
        "estimated_memory_bytes", (json_int_t)job->estimated_bytes,
        "peak_memory_bytes", (json_int_t)job->peak_bytes,
        "seconds", job->seconds,
        "layers", layers);
    if (!json) return cli_error("the results cannot be written as JSON");
    if (quantizer->salient_fraction > 0) {
        json_object_set_new(json, "salient_fraction", json_real(quantizer->salient_fraction));
        json_object_set_new(json, "salient_rule", json_string(rule_names[quantizer->salient_rule]));
    }
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("standard output: it cannot be written");
}
