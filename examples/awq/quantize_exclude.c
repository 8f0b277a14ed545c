/* Which linears --exclude leaves as they are. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>
#include <string.h>

#include "quantize.h"

static pcre2_code *compile(const char *pattern, char *message, size_t size)
{
    int error;
    PCRE2_SIZE offset;
    PCRE2_UCHAR reason[256];
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &error, &offset, NULL);
    if (!code) {
        pcre2_get_error_message(error, reason, sizeof reason);
        snprintf(message, size, "--exclude '%s': %s at offset %zu", pattern, (const char *)reason, offset);
    }
    return code;
}

bool exclude_check(const struct cli_list *patterns, char *message, size_t size)
{
    for (size_t i = 0; i < patterns->count; i++) {
        pcre2_code *code = compile(patterns->items[i], message, size);
        if (!code) return false;
        pcre2_code_free(code);
    }
    return true;
}

/* Mark what matches; *found counts it. */
static bool mark(const struct model_config *config, const pcre2_code *code, const char *pattern, bool *excluded,
                 int64_t *found)
{
    bool ok = true;
    pcre2_match_data *match = pcre2_match_data_create_from_pattern(code, NULL);
    if (!match) return cli_error("out of memory");
    const int linears = block_linears(config);
    for (int64_t i = 0; ok && i < config->layers * linears; i++) {
        char name[TENSOR_NAME_SIZE];
        if (!block_has_linear(config, (int)(i % linears))) continue;
        block_linear_name(config, i / linears, (int)(i % linears), name);
        int result = pcre2_match(code, (PCRE2_SPTR)name, strlen(name), 0, 0, match, NULL);
        if (result < 0 && result != PCRE2_ERROR_NOMATCH)
            ok = cli_error("--exclude '%s': it takes too long to match against %s", pattern, name);
        if (result < 0) continue;
        excluded[i] = true;
        ++*found;
    }
    pcre2_match_data_free(match);
    return ok;
}

bool exclude_linears(const struct cli_list *patterns, const struct model_config *config, bool *excluded)
{
    bool ok = true;
    const int linears = block_linears(config);
    for (int64_t i = 0; i < config->layers * linears; i++) excluded[i] = !block_has_linear(config, (int)(i % linears));
    for (size_t i = 0; ok && i < patterns->count; i++) {
        char message[512];
        int64_t found = 0;
        pcre2_code *code = compile(patterns->items[i], message, sizeof message);
        if (!code) return cli_error("%s", message);
        ok = mark(config, code, patterns->items[i], excluded, &found);
        pcre2_code_free(code);
        if (ok && found == 0) cli_warning("--exclude '%s' is found in the name of no linear", patterns->items[i]);
    }
    return ok;
}

void exclude_scarce_experts(struct quantize_job *job, int64_t layer)
{
    bool *excluded = job->excluded + layer * block_linears(&job->config);
    if (job->settings->expert_fallback != FALLBACK_FLOAT) return;
    for (int mlp = 0; mlp < job->config.experts; mlp++)
        if (job->reports[layer].expert_scarce[mlp])
            memset(excluded + mlp_linear(mlp, LINEAR_GATE), true, MLP_LINEARS * sizeof *excluded);
}
