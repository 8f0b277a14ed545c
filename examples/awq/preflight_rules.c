/* The rules by which programs load quantised checkpoints. */
#include "preflight.h"

#include <stdarg.h>
#include <stdio.h>

const char *const engine_names[ENGINES] = {"vllm", "transformers", "sglang", "lmdeploy"};

const struct engine_facts engine_facts[ENGINES] = {
    [ENGINE_VLLM] = {.fuses = true, .slices = true, .side_files = true},
    [ENGINE_TRANSFORMERS] = {.side_files = false},
    [ENGINE_SGLANG] = {.fuses = true, .slices = true, .side_files = true},
    [ENGINE_LMDEPLOY] = {.slices = true, .strict_version = true},
};

#define BITS_4 (1u << 4)
#define BITS_4_8 (1u << 4 | 1u << 8)
#define BITS_ALL (1u << 2 | 1u << 3 | 1u << 4 | 1u << 8)
#define MARLIN_GROUPS {AWQ_GROUP_PER_ROW, 32, 64, 128}
#define GPTQ_GROUPS {AWQ_GROUP_PER_ROW, 16, 32, 64, 128, 256, 512, 1024}

static const char plain_awq[] = "slower, and activations in FP16 only";
static const char gptqmodel[] = "needs the package gptqmodel";

static const struct engine_rule rules[] = {
    {ENGINE_VLLM, AWQ_LAYOUT_GEMM, "Marlin", NULL, 75, BITS_4, MARLIN_GROUPS, ZEROS_EITHER, 64, 128},
    {ENGINE_VLLM, AWQ_LAYOUT_GEMM, "AWQ kernels", plain_awq, 75, BITS_4, {ANY_GROUP}, ZEROS_EITHER, 8, 1},
    {ENGINE_VLLM, AWQ_LAYOUT_GPTQ_V1, "Marlin", NULL, 75, BITS_4_8, MARLIN_GROUPS, ZEROS_NONE, 64, 128},
    {ENGINE_VLLM, AWQ_LAYOUT_GPTQ_V2, "Marlin", NULL, 75, BITS_4_8, MARLIN_GROUPS, ZEROS_NONE, 64, 128},
    {ENGINE_VLLM, AWQ_LAYOUT_COMPRESSED_TENSORS, "Marlin", NULL, 80, BITS_4_8, MARLIN_GROUPS, ZEROS_NONE, 64, 128},
    {ENGINE_VLLM, AWQ_LAYOUT_COMPRESSED_TENSORS, "Marlin", NULL, 80, BITS_4, MARLIN_GROUPS, ZEROS_NEEDED, 64, 128},

    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_GEMM, "GPTQModel", gptqmodel, 0, BITS_4, GPTQ_GROUPS, ZEROS_EITHER, 8, 1},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_GEMV, "GPTQModel", gptqmodel, 75, BITS_4, {32, 64, 128}, ZEROS_EITHER, 8, 32},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_GEMV_FAST, "GPTQModel", gptqmodel, 75, BITS_4, {32, 64, 128}, ZEROS_EITHER, 8, 64},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_LLM_AWQ, "GPTQModel", gptqmodel, 75, BITS_4, {32, 64, 128}, ZEROS_EITHER, 8, 64},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_GPTQ_V1, "GPTQModel", gptqmodel, 0, BITS_ALL, GPTQ_GROUPS, ZEROS_EITHER, 32, 32},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_GPTQ_V2, "GPTQModel", gptqmodel, 0, BITS_ALL, GPTQ_GROUPS, ZEROS_EITHER, 32, 32},
    {ENGINE_TRANSFORMERS, AWQ_LAYOUT_COMPRESSED_TENSORS, "compressed-tensors", "needs the package compressed-tensors",
     0, BITS_ALL, {ANY_GROUP, AWQ_GROUP_PER_ROW}, ZEROS_EITHER, 1, 1},

    {ENGINE_SGLANG, AWQ_LAYOUT_GEMM, "Marlin", NULL, 80, BITS_4_8, MARLIN_GROUPS, ZEROS_EITHER, 64, 128},
    {ENGINE_SGLANG, AWQ_LAYOUT_GEMM, "AWQ kernels", plain_awq, 75, BITS_4, {ANY_GROUP}, ZEROS_EITHER, 8, 1},
    {ENGINE_SGLANG, AWQ_LAYOUT_GPTQ_V1, "Marlin", NULL, 80, BITS_4_8, MARLIN_GROUPS, ZEROS_NONE, 64, 128},
    {ENGINE_SGLANG, AWQ_LAYOUT_GPTQ_V1, "GPTQ kernels", plain_awq, 60, BITS_ALL, {ANY_GROUP}, ZEROS_EITHER, 32, 32},
    {ENGINE_SGLANG, AWQ_LAYOUT_GPTQ_V2, "Marlin", NULL, 80, BITS_4_8, MARLIN_GROUPS, ZEROS_NONE, 64, 128},
    {ENGINE_SGLANG, AWQ_LAYOUT_GPTQ_V2, "GPTQ kernels", plain_awq, 60, BITS_ALL, {ANY_GROUP}, ZEROS_EITHER, 32, 32},
    {ENGINE_SGLANG, AWQ_LAYOUT_COMPRESSED_TENSORS, "Marlin", NULL, 80, BITS_4_8, MARLIN_GROUPS, ZEROS_EITHER, 64, 128},

    {ENGINE_LMDEPLOY, AWQ_LAYOUT_GEMM, "TurboMind", NULL, 70, BITS_4, {128}, ZEROS_EITHER, 8, 1},
    {ENGINE_LMDEPLOY, AWQ_LAYOUT_GPTQ_V1, "TurboMind", NULL, 70, BITS_4, {128}, ZEROS_NONE, 8, 8},
    {ENGINE_LMDEPLOY, AWQ_LAYOUT_COMPRESSED_TENSORS, "TurboMind", NULL, 70, BITS_4, {32, 128}, ZEROS_EITHER, 8, 8},
};

const struct engine_rule *engine_rule_at(size_t index)
{
    return index < sizeof rules / sizeof *rules ? &rules[index] : NULL;
}

static bool say(char reason[RULE_REASON_SIZE], const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool say(char reason[RULE_REASON_SIZE], const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(reason, RULE_REASON_SIZE, format, arguments);
    va_end(arguments);
    return false;
}

bool rule_takes_group(const struct engine_rule *rule, int64_t group_size)
{
    for (const int *group = rule->groups; *group; group++)
        if (*group == group_size || (*group == ANY_GROUP && group_size > 0)) return true;
    return false;
}

static bool refuse_group(const struct engine_rule *rule, int64_t group_size, char reason[RULE_REASON_SIZE])
{
    char list[96] = "";
    size_t length = 0;
    if (rule->groups[0] == ANY_GROUP) return say(reason, "takes groups of any size, but not one per row");
    for (const int *group = rule->groups; *group && length < sizeof list - 16; group++)
        length += (size_t)snprintf(list + length, sizeof list - length, "%s%d", length ? ", " : "", *group);
    return say(reason, "takes group sizes %s, not %lld", list, (long long)group_size);
}

bool rule_takes_model(const struct engine_rule *rule, const struct quantization *quantization, int sm,
                      char reason[RULE_REASON_SIZE])
{
    if (sm < rule->sm) return say(reason, "needs compute capability %d.%d", rule->sm / 10, rule->sm % 10);
    if (!(rule->bits >> quantization->bits & 1)) return say(reason, "has no %d bits", (int)quantization->bits);
    if (rule->zeros == ZEROS_NONE && !quantization->symmetric)
        return say(reason, "takes symmetric weights only, without zero points");
    if (rule->zeros == ZEROS_NEEDED && quantization->symmetric) return say(reason, "takes weights with zero points");
    if (!rule_takes_group(rule, quantization->group_size)) return refuse_group(rule, quantization->group_size, reason);
    return true;
}

bool rule_takes_slice(const struct engine_rule *rule, int64_t group_size, int64_t n, int64_t k, int64_t inputs,
                      char reason[RULE_REASON_SIZE])
{
    if (group_size == AWQ_GROUP_PER_ROW) group_size = inputs;
    if (group_size < inputs && k % group_size)
        return say(reason, "groups of %lld do not divide the %lld inputs of a slice", (long long)group_size,
                   (long long)k);
    if (k % rule->k_multiple)
        return say(reason, "wants inputs in multiples of %d; a slice has %lld", rule->k_multiple, (long long)k);
    if (n % rule->n_multiple)
        return say(reason, "wants outputs in multiples of %d; a slice has %lld", rule->n_multiple, (long long)n);
    return true;
}
