/* Methods and presets by name: which scales, which ranges, which rounding. */
#include "quantize.h"

enum { METHOD_AUTO, METHOD_RTN, METHOD_GPTQ_ALONE, METHOD_AWQ_ALONE, METHOD_BOTH };
enum { RANGE_AUTO, RANGE_MINMAX, RANGE_CLIP, RANGE_SEARCH };
enum { ROUNDING_AUTO, ROUNDING_NEAREST, ROUNDING_FEEDBACK, ROUNDING_DESCENT };
enum { DUO_AUTO, DUO_ON, DUO_OFF, DUO_BOTH };
enum { PROFILE_AUTO, PROFILE_EXACT, PROFILE_AUTOAWQ, PROFILE_LLM_AWQ };

/* In the order of --preset.  Scales that look at the weights too gave the least divergence on the embedded model and its
 * twin, at no more cost; docs/accuracy.md has what each of these measures there. */
static const struct quantize_choice presets[] = {
    {0, METHOD_AWQ_ALONE, RANGE_CLIP, ROUNDING_NEAREST, DUO_ON, PROFILE_EXACT},
    {0, METHOD_AWQ_ALONE, RANGE_CLIP, ROUNDING_NEAREST, DUO_OFF, PROFILE_EXACT},
    {0, METHOD_AWQ_ALONE, RANGE_CLIP, ROUNDING_NEAREST, DUO_ON, PROFILE_AUTOAWQ},
    {0, METHOD_AWQ_ALONE, RANGE_CLIP, ROUNDING_NEAREST, DUO_OFF, PROFILE_LLM_AWQ},
    {0, METHOD_BOTH, RANGE_SEARCH, ROUNDING_DESCENT, DUO_ON, PROFILE_EXACT},
};

/* What a method takes for ranges and rounding when it is named itself. */
static const struct quantize_choice methods[] = {
    [METHOD_RTN] = {.range = RANGE_MINMAX, .rounding = ROUNDING_NEAREST},
    [METHOD_GPTQ_ALONE] = {.range = RANGE_MINMAX, .rounding = ROUNDING_FEEDBACK},
    [METHOD_AWQ_ALONE] = {.range = RANGE_CLIP, .rounding = ROUNDING_NEAREST},
    [METHOD_BOTH] = {.range = RANGE_SEARCH, .rounding = ROUNDING_FEEDBACK},
};

void quantize_choose(const struct quantize_choice *given, struct quantize_settings *settings)
{
    static const int32_t scales[] = {[DUO_ON] = AWQ_SCALES_DUO, [DUO_OFF] = AWQ_SCALES_PLAIN,
                                     [DUO_BOTH] = AWQ_SCALES_BOTH};
    struct quantize_choice choice = presets[given->preset];
    if (given->method != METHOD_AUTO) {
        choice.method = given->method;
        choice.range = methods[given->method].range;
        choice.rounding = methods[given->method].rounding;
    }
    if (given->range != RANGE_AUTO) choice.range = given->range;
    if (given->rounding != ROUNDING_AUTO) choice.rounding = given->rounding;
    if (given->profile != PROFILE_AUTO) choice.profile = given->profile;
    if (given->profile == PROFILE_LLM_AWQ) choice.duo = DUO_OFF;
    if (given->duo != DUO_AUTO) choice.duo = given->duo;
    settings->search = choice.method == METHOD_AWQ_ALONE || choice.method == METHOD_BOTH;
    settings->clip = choice.range == RANGE_CLIP;
    settings->scales = scales[choice.duo];
    settings->quantizer.profile = choice.profile - PROFILE_EXACT + AWQ_PROFILE_EXACT;
    settings->quantizer.range = choice.range == RANGE_SEARCH ? AWQ_RANGE_SEARCH : AWQ_RANGE_MINMAX;
    settings->quantizer.rounding = choice.rounding - ROUNDING_NEAREST + AWQ_ROUND_NEAREST;
}

bool quantize_calibrates(const struct quantize_request *request)
{
    const struct quantize_settings *settings = &request->settings;
    const awq_quantize_options *quantizer = &settings->quantizer;
    const bool salient = quantizer->salient_fraction > 0 && quantizer->salient_rule == AWQ_SALIENT_BY_ACTIVATION;
    const bool given = request->calib || request->stats;
    return given && (settings->search || settings->clip || quantizer->range != AWQ_RANGE_MINMAX ||
                     quantizer->rounding != AWQ_ROUND_NEAREST || salient);
}

const char *quantize_method_name(const struct quantize_settings *settings)
{
    const bool feedback = settings->quantizer.rounding != AWQ_ROUND_NEAREST;
    if (!settings->search) return feedback ? "gptq" : "rtn";
    return feedback ? "awq+gptq" : "awq";
}

const char *quantize_range_name(const struct quantize_settings *settings)
{
    if (settings->quantizer.range == AWQ_RANGE_SEARCH) return "search";
    return settings->clip ? "clip" : "minmax";
}

const char *quantize_rounding_name(const struct quantize_settings *settings)
{
    static const char *const names[] = {
        [AWQ_ROUND_NEAREST] = "nearest", [AWQ_ROUND_FEEDBACK] = "feedback", [AWQ_ROUND_DESCENT] = "descent"};
    return names[settings->quantizer.rounding];
}
