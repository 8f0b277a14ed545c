/* awq quantize: the options. */
#include "quantize.h"

#include <math.h>
#include <string.h>

#include "commands.h"

enum { VERSION_AUTO, VERSION_FLOAT, VERSION_FORMATS }; /* those of format_at from the last on */
enum { THROUGH_FLOAT, THROUGH_QUANTIZED };

static const int32_t scale_dtypes[] = {0, AWQ_F16, AWQ_BF16, AWQ_F32};

struct options {
    struct quantize_request request;
    struct quantize_choice choice;
    int version, bits, through, scale_dtype, salient_rule;
    int64_t group_size, seed;
    double smooth_factor, salient;
    bool zero_point, symmetric, no_scale_o;
};

static const struct options defaults = {
    .request = {.samples = 128, .length = 512, .settings = {.search_tokens = 1024, .expert_tokens = 128}},
    .bits = 4,
    .group_size = 128,
};

static int32_t choose_layout(const struct options *options)
{
    if (options->version == VERSION_FLOAT) return 0;
    if (options->version >= VERSION_FORMATS) return format_at(options->version - VERSION_FORMATS)->layout;
    if (options->salient > 0) return AWQ_LAYOUT_CPU_STREAM;
    return options->bits == 4 ? AWQ_LAYOUT_GEMM : AWQ_LAYOUT_COMPRESSED_TENSORS;
}

static void fill_settings(const struct options *options, struct quantize_settings *settings)
{
    awq_struct_init(&settings->quantizer, sizeof settings->quantizer);
    settings->quantizer.bits = options->bits;
    settings->quantizer.group_size = options->group_size;
    settings->quantizer.flags = options->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    settings->quantizer.scale_dtype = scale_dtypes[options->scale_dtype];
    settings->quantizer.salient_fraction = options->salient;
    settings->quantizer.salient_rule = options->salient_rule;
    settings->quantizer.seed = (uint64_t)options->seed;
    settings->layout = choose_layout(options);
    quantize_choose(&options->choice, settings);
    settings->scale_output = !options->no_scale_o;
    settings->through_quantized = options->through == THROUGH_QUANTIZED;
    settings->smooth_factor = options->smooth_factor;
    settings->seed = (uint64_t)options->seed;
}

static int check(const struct cli_command *command, const struct options *options)
{
    char message[512];
    if (!options->request.out) return cli_usage(command, "--out is missing: the directory to write");
    if (options->bits != 2 && options->bits != 3 && options->bits != 4 && options->bits != 8)
        return cli_usage(command, "--bits is 2, 3, 4 or 8, not %d", options->bits);
    if (options->group_size == 0)
        return cli_usage(command, "--group-size is at least 1, or -1 for whole rows, not 0");
    if (options->zero_point && options->symmetric)
        return cli_usage(command, "--zero-point and --symmetric exclude each other");
    const struct quantized_format *format = format_at(options->version - VERSION_FORMATS);
    if (format && format->method == METHOD_AWQ && options->bits != 4 && options->bits != 8)
        return cli_usage(command, "--version %s holds 4 bits, not %d; gptq and compressed-tensors hold 2, 3, 4 and 8",
                         format->name, options->bits);
    if (options->salient > 0 && (options->version == VERSION_FLOAT || (format && format->method != METHOD_LIBAWQ)))
        return cli_usage(command, "--version %s holds no channels in FP16 beside codes; cpu-stream and cuda-block do",
                         format ? format->name : "float");
    if (options->salient > 0 && options->salient_rule == AWQ_SALIENT_BY_ACTIVATION &&
        !options->request.calib && !options->request.stats)
        return cli_usage(command, "--calib is missing: text that shows which channels are salient");
    if (!exclude_check(&options->request.exclude, message, sizeof message)) return cli_usage(command, "%s", message);
    return EXIT_OK;
}

static int check_method(const struct cli_command *command, const struct options *options,
                        const struct quantize_settings *settings)
{
    const awq_quantize_options *quantizer = &settings->quantizer;
    const bool rounding = quantizer->rounding != AWQ_ROUND_NEAREST, range = quantizer->range != AWQ_RANGE_MINMAX;
    if (options->version == VERSION_FLOAT && !settings->search && !settings->clip)
        return cli_usage(command, "--version float writes scaled and clipped weights, and neither is asked for");
    if (options->version == VERSION_FLOAT && (rounding || range))
        return cli_usage(command, "--version float does not round, so --rounding is nearest and --range minmax or clip");
    if (quantizer->profile == AWQ_PROFILE_LLM_AWQ && options->symmetric)
        return cli_usage(command, "--profile llm-awq has no symmetric quantiser; exact and autoawq have");
    if (quantizer->profile != AWQ_PROFILE_EXACT && (rounding || range))
        return cli_usage(command, "the profiles of peers know only --rounding nearest and --range minmax or clip");
    if (options->request.calib && options->request.stats)
        return cli_usage(command, "--calib and --stats exclude each other");
    if (options->request.stats && options->through == THROUGH_QUANTIZED)
        return cli_usage(command, "--calibrate-through quantized needs --calib: --stats has what float blocks give");
    if (!options->request.calib && !options->request.stats && (settings->search || settings->clip || rounding))
        return cli_usage(command, "--calib is missing: text to calibrate with (--method rtn goes without)");
    return EXIT_OK;
}

static int run(const struct cli_command *command, const void *given)
{
    const struct options *options = given;
    struct quantize_request request = options->request;
    int exit_code = check(command, options);
    if (exit_code != EXIT_OK) return exit_code;
    fill_settings(options, &request.settings);
    exit_code = check_method(command, options, &request.settings);
    if (exit_code != EXIT_OK) return exit_code;
    return quantize_model(&request, NULL);
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, request.model), .help = "Directory of the model to quantise."},
    {CLI_STRING, "out", offsetof(struct options, request.out), 'o', "DIR",
     .help = "Directory to write.  It appears when all of it is there."},
    {CLI_FLAG, "force", offsetof(struct options, request.replace), 'f',
     .help = "Replace DIR if it is a model already."},
    {CLI_FLAG, "resume", offsetof(struct options, request.resume),
     .help = "Keep a journal of finished layers, DIR.journal, until all is done; and go on from the one that a run "
             "with the same options left when it was killed, to the same result.  Takes the room of the output once more."},
    {CLI_HEADING, "Calibration", .offset = 0},
    {CLI_STRING, "calib", offsetof(struct options, request.calib), .argument = "FILE",
     .help = "Text like that which the model is for, or token ids: .npy, .u16, .u32.  Text is encoded with MODEL's "
             "tokenizer."},
    {CLI_STRING, "stats", offsetof(struct options, request.stats), .argument = "FILE",
     .help = "Instead: what 'awq calibrate' made of text.  The options below were chosen then."},
    {CLI_INT64, "samples", offsetof(struct options, request.samples), .argument = "N",
     .help = "Windows of the data to use, spread evenly over it.", .minimum = 1, .maximum = 1e9},
    {CLI_INT64, "seq-length", offsetof(struct options, request.length), .argument = "N",
     .help = "Tokens in each, as far as the model's context goes.", .minimum = 1, .maximum = 1e9},
    {CLI_CHOICE, "calibrate-through", offsetof(struct options, through), .argument = "float|quantized",
     .help = "Whether a block is calibrated with what the float blocks before it give, or with what the quantised ones "
             "do."},
    {CLI_INT64, "search-tokens", offsetof(struct options, request.settings.search_tokens), .argument = "N",
     .help = "Tokens to try candidates on, of those that were run.", .minimum = 1, .maximum = 1e9},
    {CLI_INT64, "seed", offsetof(struct options, seed), .argument = "N", .help = "Of the choice of those tokens.",
     .minimum = 0, .maximum = INFINITY},
    {CLI_HEADING, "Format", .offset = 0},
    {CLI_INT, "bits", offsetof(struct options, bits), .argument = "N", .help = "Bits of a weight: 2, 3, 4 or 8.",
     .minimum = 2, .maximum = 8},
    {CLI_INT64, "group-size", offsetof(struct options, group_size), .argument = "N",
     .help = "Weights that share a scale; -1: a whole row.", .minimum = -1, .maximum = 1 << 24},
    {CLI_FLAG, "zero-point", offsetof(struct options, zero_point),
     .help = "Ranges of any position, with a zero point each.  This is the default."},
    {CLI_FLAG, "symmetric", offsetof(struct options, symmetric), .help = "Ranges centred at zero instead."},
    {CLI_CHOICE, "version", offsetof(struct options, version), .argument = "auto|float|" FORMAT_NAMES,
     .help = "How files hold the weights.  gemm (AWQ's own; 4 bits) and compressed-tensors are what vLLM and "
             "transformers load; auto is gemm for 4 bits and compressed-tensors for others.  float does not round, only "
             "scales and clips, for programs that round themselves, such as 'awq gguf'."},
    {CLI_CHOICE, "scale-dtype", offsetof(struct options, scale_dtype), .argument = "auto|f16|bf16|f32",
     .help = "Type of the scales; auto is f16, which is what gemm holds."},
    {CLI_LIST, "exclude", offsetof(struct options, request.exclude), .argument = "REGEX",
     .help = "Leave linears as they are in whose name this is found, such as 'layers\\.0\\.' or 'o_proj$'.  May be "
             "given several times.  Embeddings, norms and lm_head always stay as they are."},
    {CLI_HEADING, "Method", .offset = 0},
    {CLI_CHOICE, "preset", offsetof(struct options, choice.preset),
     .argument = "default|paper|autoawq|llm-awq|best",
     .help = "What the options below are where they are auto.  paper, autoawq and llm-awq do as those; best takes longer "
             "and loses least: scales, ranges and codes are all chosen by what the outputs lose."},
    {CLI_CHOICE, "method", offsetof(struct options, choice.method), .argument = "auto|rtn|gptq|awq|awq+gptq",
     .help = "awq scales channels; gptq lets each weight make up for what others lose in rounding; rtn only rounds to "
             "nearest and needs no calibration."},
    {CLI_CHOICE, "range", offsetof(struct options, choice.range), .argument = "auto|minmax|clip|search",
     .help = "Ranges of groups: whole, clipped evenly as AWQ does, or with each end searched."},
    {CLI_CHOICE, "rounding", offsetof(struct options, choice.rounding),
     .argument = "auto|nearest|feedback|descent",
     .help = "Each weight to its nearest code; to the one that makes up for what others lost (as in GPTQ); or that, and "
             "then moved wherever the output gains."},
    {CLI_FLAG, "no-scale-o", offsetof(struct options, no_scale_o),
     .help = "Do not search scales for the attention's output."},
    {CLI_CHOICE, "duo", offsetof(struct options, choice.duo), .argument = "auto|on|off|both",
     .help = "Whether scales also look at the weights, as in AutoAWQ, or at activations alone, as in the paper; both "
             "tries both, in twice the time.  auto is on, and off for --profile llm-awq."},
    {CLI_DOUBLE, "smooth-factor", offsetof(struct options, smooth_factor), .argument = "F",
     .help = "Draw the importance of channels towards their mean, from 0 (not) to 1 (all equal).", .minimum = 0,
     .maximum = 1},
    {CLI_CHOICE, "profile", offsetof(struct options, choice.profile), .argument = "auto|exact|autoawq|llm-awq",
     .help = "Arithmetic: exact, or what AutoAWQ or llm-awq compute, to compare with them."},
    {CLI_HEADING, "Experts", .offset = 0},
    {CLI_INT64, "expert-tokens", offsetof(struct options, request.settings.expert_tokens), .argument = "N",
     .help = "Tokens of the calibration that the router has to send to an expert for it to be calibrated.",
     .minimum = 1, .maximum = 1e9},
    {CLI_CHOICE, "expert-fallback", offsetof(struct options, request.settings.expert_fallback),
     .argument = "rtn|float|stop",
     .help = "What becomes of an expert that sees fewer: rtn rounds its down projection to nearest (gate and up are "
             "judged with all experts together), float leaves it as it is, stop ends with an error.  A warning says "
             "how many."},
    {CLI_HEADING, "Salient channels in FP16", .offset = 0},
    {CLI_DOUBLE, "salient", offsetof(struct options, salient), .argument = "FRACTION",
     .help = "Keep this fraction of each linear's input channels in FP16, at least one, such as 0.01.  The file is "
             "one of this library's own then: cpu-stream, or cuda-block with --version.", .minimum = 0, .maximum = 1},
    {CLI_CHOICE, "salient-rule", offsetof(struct options, salient_rule), .argument = "activation|weight|random",
     .help = "Which: those of the largest mean activation, of the heaviest weights, or any, by --seed."},
    {CLI_HEADING, "Running", .offset = 0},
    PLACEMENT_COMPUTE_OPTIONS(struct options, request.placement),
    {CLI_SIZE, "memory-limit", offsetof(struct options, request.placement.memory_limit), .argument = "SIZE",
     .help = "Use no more of the host's memory than this, such as 4G: fail before the work where it would take more."},
    {CLI_FLAG, "json", offsetof(struct options, request.json), .help = "Print the results as JSON."},
    {CLI_FLAG, "verbose", offsetof(struct options, request.verbose), 'v', .help = "Print a line for each layer."},
    {CLI_FLAG, "quiet", offsetof(struct options, request.quiet), 'q', .help = "Print nothing but errors."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command quantize_command = {
    .name = "quantize",
    .summary = "make a small copy of a model, calibrated with text",
    .intro = "Quantises the linear layers of a model with AWQ (arXiv 2306.00978): input channels that matter, as a\n"
             "little text run through the model shows, are scaled up before the weights are rounded, and the\n"
             "inverse scale goes into the operation before.  No training, no gradients.  The work goes block by\n"
             "block, so that memory for one block and the activations is enough.",
    .examples = "  awq quantize MODEL -o MODEL-awq --calib text.txt\n"
                "  awq quantize MODEL -o MODEL-int3 --calib text.txt --bits 3 --group-size 64\n"
                "  awq quantize MODEL -o MODEL-rtn --method rtn",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
