/* awq preflight: whether another program will load a quantised checkpoint, and what would help if not. */
#include "preflight.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "commands.h"
#include "model.h"
#include "section.h"

struct options {
    const char *model;
    int engine, tp, sm;
    bool json;
};

static const struct options defaults = {.tp = 1, .sm = 80};

enum { NAME_SIZE = 512, MAX_SUGGESTIONS = 8, TEXT_SIZE = 320 };

/* How tensor parallelism cuts a linear. */
enum cut { CUT_NONE, CUT_OUTPUTS, CUT_INPUTS };

/* Linears that are alike for the rules: one shape, one role. */
struct linear_class {
    char first[NAME_SIZE]; /* the name of the first */
    const char *role;      /* "down_proj" */
    enum cut cut;
    int64_t count, n, k;
};

struct preflight {
    const struct options *options;
    awq_context *context;
    awq_checkpoint *checkpoint;
    json_t *config;
    struct quantization quantization;
    bool beside; /* the quantisation is described in a file of its own */
    int64_t heads, kv_heads;
    struct linear_class *classes;
    size_t count, capacity;
    int64_t linears;

    json_t *refusals, *runs, *suggestions; /* what is reported */
};

/* ---- what there is */

/* Roles of linears in the models that are served, by the last part of their names. */
static const struct {
    const char *role;
    enum cut cut;
    int fused; /* those of one number become one linear; 0: none */
} roles[] = {
    {"q_proj", CUT_OUTPUTS, 1},    {"k_proj", CUT_OUTPUTS, 1},       {"v_proj", CUT_OUTPUTS, 1},
    {"gate_proj", CUT_OUTPUTS, 2}, {"up_proj", CUT_OUTPUTS, 2},      {"qkv_proj", CUT_OUTPUTS, 0},
    {"w1", CUT_OUTPUTS, 2},        {"w3", CUT_OUTPUTS, 2},           {"w2", CUT_INPUTS, 0},
    {"fc1", CUT_OUTPUTS, 0},       {"gate_up_proj", CUT_OUTPUTS, 0}, {"fc2", CUT_INPUTS, 0},
    {"o_proj", CUT_INPUTS, 0},     {"down_proj", CUT_INPUTS, 0},     {"out_proj", CUT_INPUTS, 0},
    {"lm_head", CUT_OUTPUTS, 0},
};

enum { ROLES = sizeof roles / sizeof *roles };

static int role_of(const char *linear)
{
    const char *dot = strrchr(linear, '.');
    for (int i = 0; i < ROLES; i++)
        if (strcmp(roles[i].role, dot ? dot + 1 : linear) == 0) return i;
    return ROLES;
}

static bool add_linear(struct preflight *preflight, const char *linear)
{
    int role = role_of(linear);
    const char *name = role < ROLES ? roles[role].role : "";
    void *array = preflight->classes;
    int64_t n, k;
    if (!linear_shape(preflight->checkpoint, &preflight->quantization, linear, &n, &k))
        return cli_error("%s: its tensors are not those of %s", linear, preflight->quantization.format->name);
    preflight->linears++;
    for (size_t i = 0; i < preflight->count; i++) {
        struct linear_class *class = &preflight->classes[i];
        if (class->n != n || class->k != k || strcmp(class->role, name) != 0) continue;
        class->count++;
        return true;
    }
    if (!buffer_reserve(&array, &preflight->capacity, preflight->count + 1, sizeof *preflight->classes)) return false;
    preflight->classes = array;
    struct linear_class *class = &preflight->classes[preflight->count++];
    *class = (struct linear_class){.role = name, .count = 1, .n = n, .k = k};
    class->cut = role < ROLES ? roles[role].cut : CUT_NONE;
    snprintf(class->first, sizeof class->first, "%s", linear);
    return true;
}

static bool find_linears(struct preflight *preflight)
{
    for (int64_t i = 0; i < awq_checkpoint_count(preflight->checkpoint); i++) {
        const char *name = awq_checkpoint_name(preflight->checkpoint, i);
        char linear[NAME_SIZE];
        size_t length;
        if (!is_quantized_plane(name, &length) || length >= NAME_SIZE) continue;
        snprintf(linear, sizeof linear, "%.*s", (int)length, name);
        if (!add_linear(preflight, linear)) return false;
    }
    return preflight->linears > 0 || cli_error("%s: none of its tensors is quantised", preflight->options->model);
}

static int64_t config_integer(const json_t *config, const char *key, int64_t fallback)
{
    const json_t *value = json_object_get(config, key);
    if (!value) value = json_object_get(json_object_get(config, "text_config"), key);
    return json_is_integer(value) && json_integer_value(value) > 0 ? json_integer_value(value) : fallback;
}

static bool open_model(struct preflight *preflight)
{
    const char *model = preflight->options->model;
    char path[SECTION_PATH_SIZE];
    if (!context_open(1, 0, &preflight->context)) return false;
    preflight->config = section_load(model, "config.json", false, path);
    if (!preflight->config || !quantization_load(model, path, preflight->config, &preflight->quantization))
        return false;
    if (!preflight->quantization.format) return cli_error("%s: is not quantised", model);
    preflight->beside = !json_object_get(preflight->config, "quantization_config") &&
                        !json_object_get(json_object_get(preflight->config, "text_config"), "quantization_config");
    preflight->heads = config_integer(preflight->config, "num_attention_heads", 0);
    preflight->kv_heads = config_integer(preflight->config, "num_key_value_heads", preflight->heads);
    awq_status status = awq_checkpoint_open(preflight->context, model, &preflight->checkpoint);
    if (status != AWQ_OK) return cli_library_error(status, "%s", model);
    preflight->refusals = json_array();
    preflight->runs = json_array();
    preflight->suggestions = json_array();
    return find_linears(preflight);
}

/* ---- reporting */

static void refuse_model(struct preflight *preflight, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void refuse_model(struct preflight *preflight, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    json_array_append_new(preflight->refusals, json_pack("{s:s}", "reason", text));
}

static void suggest(struct preflight *preflight, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void suggest(struct preflight *preflight, const char *format, ...)
{
    char text[TEXT_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (size_t i = 0; i < json_array_size(preflight->suggestions); i++)
        if (strcmp(json_string_value(json_array_get(preflight->suggestions, i)), text) == 0) return;
    if (json_array_size(preflight->suggestions) < MAX_SUGGESTIONS)
        json_array_append_new(preflight->suggestions, json_string(text));
}

/* ---- slices */

/* The part of a linear on one of tp devices.  Key and value heads that are fewer than the devices are repeated. */
static bool slice_class(const struct preflight *preflight, const struct linear_class *class, int tp, int64_t *n,
                        int64_t *k)
{
    bool shared = strcmp(class->role, "k_proj") == 0 || strcmp(class->role, "v_proj") == 0;
    int64_t parts = shared && preflight->kv_heads && tp > preflight->kv_heads ? preflight->kv_heads : tp;
    *n = class->n;
    *k = class->k;
    if (!engine_facts[preflight->options->engine].slices || class->cut == CUT_NONE) return true;
    int64_t *cut = class->cut == CUT_OUTPUTS ? n : k;
    if (*cut % parts) return false;
    *cut /= parts;
    return true;
}

static int fusion_of(const struct linear_class *class)
{
    int role = role_of(class->first);
    return role < ROLES ? roles[role].fused : 0;
}

/* What a kernel sees: fused linears have the outputs of all their parts. */
static int64_t fused_outputs(const struct preflight *preflight, const struct linear_class *class, int tp, int64_t n)
{
    int fusion = fusion_of(class);
    int64_t total = 0;
    if (!fusion || !engine_facts[preflight->options->engine].fuses) return n;
    for (size_t i = 0; i < preflight->count; i++) {
        const struct linear_class *other = &preflight->classes[i];
        int64_t outputs, inputs;
        if (fusion_of(other) != fusion || other->k != class->k) continue;
        if (!slice_class(preflight, other, tp, &outputs, &inputs)) return n;
        total += outputs;
    }
    return total;
}

/* The first rule that takes a class, or NULL with the reasons of all that might have. */
static const struct engine_rule *find_rule(const struct preflight *preflight, const struct linear_class *class, int tp,
                                           char reasons[TEXT_SIZE], char passed_over[TEXT_SIZE])
{
    const struct options *options = preflight->options;
    size_t length = 0;
    int64_t n, k;
    reasons[0] = passed_over[0] = 0;
    if (!slice_class(preflight, class, tp, &n, &k)) {
        snprintf(reasons, TEXT_SIZE, "its %s do not divide among %d devices",
                 class->cut == CUT_INPUTS ? "inputs" : "outputs", tp);
        return NULL;
    }
    n = fused_outputs(preflight, class, tp, n);
    for (size_t i = 0; engine_rule_at(i); i++) {
        const struct engine_rule *rule = engine_rule_at(i);
        char reason[RULE_REASON_SIZE];
        if ((int)rule->engine != options->engine || rule->layout != preflight->quantization.format->layout) continue;
        if (rule_takes_model(rule, &preflight->quantization, options->sm, reason) &&
            rule_takes_slice(rule, preflight->quantization.group_size, n, k, class->k, reason)) {
            bool namesake = strncmp(reasons, rule->kernel, strlen(rule->kernel)) == 0;
            snprintf(passed_over, TEXT_SIZE, "%s", namesake ? "" : reasons);
            return rule;
        }
        int written = snprintf(reasons + length, TEXT_SIZE - length, "%s%s %s", length ? "; " : "", rule->kernel,
                               reason);
        if (written > 0 && length + (size_t)written < TEXT_SIZE) length += (size_t)written;
    }
    return NULL;
}

static bool takes_all(const struct preflight *preflight, int tp)
{
    char reasons[TEXT_SIZE], passed_over[TEXT_SIZE];
    for (size_t i = 0; i < preflight->count; i++)
        if (!find_rule(preflight, &preflight->classes[i], tp, reasons, passed_over)) return false;
    return true;
}

/* ---- what would help */

/* The largest group size with which some rule of the engine takes every class. */
static int64_t fitting_group(struct preflight *preflight)
{
    static const int64_t sizes[] = {128, 64, 32};
    const int64_t kept = preflight->quantization.group_size;
    int64_t found = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes && !found; i++) {
        preflight->quantization.group_size = sizes[i];
        bool divides = true;
        for (size_t j = 0; j < preflight->count; j++) divides = divides && preflight->classes[j].k % sizes[i] == 0;
        if (divides && takes_all(preflight, preflight->options->tp)) found = sizes[i];
    }
    preflight->quantization.group_size = kept;
    return found;
}

static int64_t common_multiple(int64_t a, int64_t b)
{
    int64_t divisor = a, rest = b;
    while (rest) {
        int64_t next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    return a / divisor * b;
}

static int64_t round_up(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

/* Zero rows and columns that would make a refused class fit the engine's last rule, its least demanding. */
static void suggest_padding(struct preflight *preflight, const struct linear_class *class)
{
    const struct options *options = preflight->options;
    const struct engine_rule *last = NULL;
    char reason[RULE_REASON_SIZE];
    int64_t group = preflight->quantization.group_size, tp = engine_facts[options->engine].slices ? options->tp : 1;
    for (size_t i = 0; engine_rule_at(i); i++) {
        const struct engine_rule *rule = engine_rule_at(i);
        if ((int)rule->engine == options->engine && rule->layout == preflight->quantization.format->layout &&
            rule_takes_model(rule, &preflight->quantization, options->sm, reason))
            last = rule;
    }
    if (!last) return;
    int64_t unit = group > 0 ? common_multiple(group, last->k_multiple) : last->k_multiple;
    int64_t k = round_up(class->k, unit * (class->cut == CUT_INPUTS ? tp : 1));
    int64_t n = round_up(class->n, last->n_multiple * (class->cut == CUT_OUTPUTS ? tp : 1));
    if (k != class->k)
        suggest(preflight, "%s padded with zeros from %" PRId64 " inputs to %" PRId64, class->first, class->k, k);
    if (n != class->n)
        suggest(preflight, "%s padded with zeros from %" PRId64 " outputs to %" PRId64, class->first, class->n, n);
}

/* A format that the engine reads with these bits, groups and zero points. */
static void suggest_format(struct preflight *preflight)
{
    const struct quantization kept = preflight->quantization;
    for (int i = 0; format_at(i); i++) {
        preflight->quantization.format = format_at(i);
        if (format_at(i) == kept.format || !takes_all(preflight, preflight->options->tp)) continue;
        suggest(preflight, "awq convert --layout %s", format_at(i)->name);
        break;
    }
    preflight->quantization = kept;
}

static void suggest_all(struct preflight *preflight)
{
    const struct options *options = preflight->options;
    char reasons[TEXT_SIZE], passed_over[TEXT_SIZE];
    int64_t group = fitting_group(preflight);
    if (group) suggest(preflight, "quantising again with --group-size %" PRId64, group);
    for (int tp = options->tp - 1; tp >= 1; tp--)
        if ((!preflight->heads || preflight->heads % tp == 0) && takes_all(preflight, tp)) {
            suggest(preflight, "tensor parallelism over %d", tp);
            break;
        }
    suggest_format(preflight);
    for (size_t i = 0; i < preflight->count; i++)
        if (!find_rule(preflight, &preflight->classes[i], options->tp, reasons, passed_over))
            suggest_padding(preflight, &preflight->classes[i]);
}

/* ---- the verdict */

static bool reads_format(const struct preflight *preflight)
{
    for (size_t i = 0; engine_rule_at(i); i++)
        if ((int)engine_rule_at(i)->engine == preflight->options->engine &&
            engine_rule_at(i)->layout == preflight->quantization.format->layout)
            return true;
    return false;
}

/* What loaders want of the configuration beside what it means. */
static void check_configuration(struct preflight *preflight)
{
    const enum engine engine = (enum engine)preflight->options->engine;
    const char *name = engine_names[engine];
    json_t *quantization = json_object_get(preflight->config, "quantization_config");
    const char *version = json_string_value(json_object_get(quantization, "version"));
    json_t *group = json_object_get(json_object_get(quantization, "config_groups"), "group_0");
    bool awq = preflight->quantization.format->method == METHOD_AWQ;
    bool compressed = preflight->quantization.format->method == METHOD_COMPRESSED_TENSORS;
    bool own = preflight->quantization.format->method == METHOD_LIBAWQ;
    bool reads_keys = engine_facts[engine].side_files && !compressed && !own;
    const char *needed = awq ? "zero_point" : "desc_act";
    if (preflight->beside && !engine_facts[engine].side_files)
        refuse_model(preflight, "%s reads quantization_config in config.json only, not a file of its own", name);
    if (!preflight->beside && !quantization)
        refuse_model(preflight, "%s looks for quantization_config at the top of config.json, not in text_config", name);
    if (engine_facts[engine].strict_version && awq && quantization && (!version || strcmp(version, "gemm") != 0))
        refuse_model(preflight, "%s wants \"version\": \"gemm\", in lower case", name);
    if (engine_facts[engine].strict_version && compressed && !json_object_get(group, "format"))
        refuse_model(preflight, "%s wants a config group named group_0 with a format of its own", name);
    if (reads_keys && quantization && !json_object_get(quantization, needed))
        refuse_model(preflight, "%s wants %s in quantization_config", name, needed);
    if (json_array_size(preflight->refusals) > 0)
        suggest(preflight, "awq convert --layout %s, which writes the configuration anew",
                awq && engine_facts[engine].strict_version ? "gemm" : preflight->quantization.format->name);
}

static void check_heads(struct preflight *preflight)
{
    const struct options *options = preflight->options;
    if (!engine_facts[options->engine].slices || !preflight->heads || preflight->heads % options->tp == 0) return;
    refuse_model(preflight, "%" PRId64 " attention heads do not divide among %d devices", preflight->heads,
                 options->tp);
}

static void check_linears(struct preflight *preflight)
{
    for (size_t i = 0; i < preflight->count; i++) {
        const struct linear_class *class = &preflight->classes[i];
        char reasons[TEXT_SIZE], passed_over[TEXT_SIZE];
        const struct engine_rule *rule = find_rule(preflight, class, preflight->options->tp, reasons, passed_over);
        json_t *entry = json_pack("{s:s, s:I, s:I, s:I}", "linear", class->first, "count", (json_int_t)class->count,
                                  "outputs", (json_int_t)class->n, "inputs", (json_int_t)class->k);
        if (!rule) {
            json_object_set_new(entry, "reason", json_string(reasons));
            json_array_append_new(preflight->refusals, entry);
            continue;
        }
        json_object_set_new(entry, "kernel", json_string(rule->kernel));
        if (rule->drawback) json_object_set_new(entry, "drawback", json_string(rule->drawback));
        if (*passed_over) json_object_set_new(entry, "passed_over", json_string(passed_over));
        json_array_append_new(preflight->runs, entry);
    }
}

static void judge(struct preflight *preflight)
{
    const struct options *options = preflight->options;
    check_configuration(preflight);
    check_heads(preflight);
    if (!reads_format(preflight))
        refuse_model(preflight, "%s does not read %s", engine_names[options->engine],
                     preflight->quantization.format->name);
    else
        check_linears(preflight);
    if (json_array_size(preflight->refusals) > 0) suggest_all(preflight);
}

/* ---- printing */

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

/* What is said of a class of linears. */
static void describe(const json_t *entry, char text[2 * TEXT_SIZE])
{
    const char *drawback = text_of(entry, "drawback"), *passed_over = text_of(entry, "passed_over");
    snprintf(text, 2 * TEXT_SIZE, "%s%s%s%s%s%s%s", text_of(entry, "reason"), text_of(entry, "kernel"),
             *drawback ? " (" : "", drawback, *drawback ? ")" : "", *passed_over ? "; " : "", passed_over);
}

/* A line for each thing that is said, with the linears that it is said of. */
static void print_entries(const json_t *entries, long long linears)
{
    for (size_t i = 0; i < json_array_size(entries); i++) {
        const json_t *entry = json_array_get(entries, i);
        char text[2 * TEXT_SIZE], other[2 * TEXT_SIZE];
        long long count = 0;
        bool said = false;
        describe(entry, text);
        for (size_t j = 0; j < json_array_size(entries); j++) {
            describe(json_array_get(entries, j), other);
            if (strcmp(text, other) != 0) continue;
            said = said || j < i;
            count += number_of(json_array_get(entries, j), "count");
        }
        if (said) continue;
        if (count == 0) printf("  %s\n", text);
        else if (count == linears) printf("  all linears: %s\n", text);
        else
            printf("  %lld linears such as %s, %lld x %lld: %s\n", count, text_of(entry, "linear"),
                   number_of(entry, "outputs"), number_of(entry, "inputs"), text);
    }
}

static void print_verdict(const struct preflight *preflight)
{
    const struct options *options = preflight->options;
    const struct quantization *quantization = &preflight->quantization;
    bool loads = json_array_size(preflight->refusals) == 0;
    size_t index;
    const json_t *suggestion;
    printf("%s: %s, %d bits, group size %lld, %s; %lld linears\n", options->model, quantization->format->name,
           (int)quantization->bits, (long long)quantization->group_size,
           quantization->symmetric ? "symmetric" : "zero points", (long long)preflight->linears);
    printf("%s, tensor parallelism over %d, compute capability %d.%d: %s\n", engine_names[options->engine], options->tp,
           options->sm / 10, options->sm % 10, loads ? "will load" : "will not load");
    print_entries(loads ? preflight->runs : preflight->refusals, (long long)preflight->linears);
    if (json_array_size(preflight->suggestions) > 0) puts("What would help:");
    json_array_foreach(preflight->suggestions, index, suggestion) printf("  %s\n", json_string_value(suggestion));
}

static bool print_json(const struct preflight *preflight)
{
    const struct options *options = preflight->options;
    const struct quantization *quantization = &preflight->quantization;
    json_t *json = json_pack("{s:s, s:s, s:i, s:i, s:b, s:s, s:i, s:I, s:b, s:O, s:O, s:O}", "model", options->model,
                             "engine", engine_names[options->engine], "tp", options->tp, "sm", options->sm, "loads",
                             json_array_size(preflight->refusals) == 0, "format", quantization->format->name, "bits",
                             (int)quantization->bits, "group_size", (json_int_t)quantization->group_size, "symmetric",
                             quantization->symmetric, "refusals", preflight->refusals, "runs", preflight->runs,
                             "suggestions", preflight->suggestions);
    bool ok = json && json_dumpf(json, stdout, JSON_INDENT(2)) == 0 && putchar('\n') != EOF;
    json_decref(json);
    return ok || cli_error("the verdict cannot be written");
}

/* ---- the command */

static int run(const struct cli_command *command, const void *given)
{
    (void)command;
    struct preflight preflight = {.options = given};
    int exit_code = EXIT_FAILED;
    if (open_model(&preflight)) {
        judge(&preflight);
        exit_code = json_array_size(preflight.refusals) > 0 ? EXIT_REFUSED : EXIT_OK;
        if (!preflight.options->json)
            print_verdict(&preflight);
        else if (!print_json(&preflight))
            exit_code = EXIT_FAILED;
    }
    json_decref(preflight.refusals);
    json_decref(preflight.runs);
    json_decref(preflight.suggestions);
    json_decref(preflight.config);
    free(preflight.classes);
    awq_checkpoint_destroy(preflight.checkpoint);
    awq_context_destroy(preflight.context);
    return exit_code;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of a quantised model."},
    {CLI_CHOICE, "engine", offsetof(struct options, engine), 'e', ENGINE_NAMES,
     .help = "Program that is to load it."},
    {CLI_INT, "tp", offsetof(struct options, tp), .argument = "N", .help = "Devices to cut its linears among.",
     .minimum = 1, .maximum = 1024},
    {CLI_INT, "sm", offsetof(struct options, sm), .argument = "N",
     .help = "Compute capability of the device times ten: 70 V100, 75 T4, 80 A100, 89 RTX 4090, 90 H100.",
     .minimum = 10, .maximum = 999},
    {CLI_FLAG, "json", offsetof(struct options, json), .help = "Print JSON."},
    {.type = CLI_END},
};

const struct cli_command preflight_command = {
    .name = "preflight",
    .summary = "say whether vLLM, transformers, SGLang or lmdeploy will load a model",
    .intro = "Says whether a program will load a quantised model, on a device and cut among several, with which of\n"
             "its kernels, and what stands against it if not: the format, the group size, the shapes of slices, the\n"
             "configuration.  The programs' rules are those of 2026 and may have changed since.\n"
             "\n"
             "The exit status is 3 when it will not load.",
    .examples = "  awq preflight MODEL-awq --engine vllm --tp 4 --sm 75\n"
                "  awq preflight MODEL-awq --engine lmdeploy --json",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
