/* awq bench: how fast the kernels are, against the limits of the machine and against others. */
#include "bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "context.h"
#include "progress.h"

struct options {
    const char *shapes, *rows;
    struct placement placement;
    int kernel;     /* 0: all; else 1 + AWQ_KERNEL_* */
    int activation; /* 0: all; else 1 + AWQ_ACTIVATION_* */
    int dtype;      /* 0: the device's own */
    int bits;
    int64_t group_size;
    bool symmetric;
    double seconds;
    int copies;
    const char *tuning;
    struct cli_list peers;
    bool no_blas;
    const char *json, *svg;
};

struct bench {
    const struct options *options;
    awq_context *context;
    awq_tuning *tuning;
    struct bench_peer *peers[CLI_LIST_CAPACITY];
    struct bench_shape shapes[BENCH_SHAPES];
    int64_t batches[BENCH_BATCHES];
    int shape_count, batch_count;
    struct bench_report report;
    /* Of the shape at hand. */
    struct bench_problem problem;
    struct bench_contestant contestants[BENCH_CONTESTANTS];
    int contestant_count;
};

/* ---- options */

static const char cpu_rows[] = "1,2,4,8,16,32,128,512";
static const char cuda_rows[] = "1,2,4,8,16,32,64,128,256,512,1024,4096";

/* ---- opening */

static bool open_context(struct bench *bench)
{
    const struct options *options = bench->options;
    awq_device_info *device = &bench->report.machine.device;
    if (!placement_open_library(&options->placement, &bench->context)) return false;
    awq_struct_init(device, sizeof *device);
    awq_status status = awq_context_get_device(bench->context, device);
    if (status == AWQ_OK && options->tuning)
        status = awq_tuning_load(bench->context, options->tuning, &bench->tuning);
    return status == AWQ_OK || cli_library_error(status, "cannot start");
}

static bool start_peers(struct bench *bench)
{
    const struct cli_list *commands = &bench->options->peers;
    for (size_t i = 0; i < commands->count; i++)
        if (!(bench->peers[i] = bench_peer_start(commands->items[i]))) return false;
    return true;
}

static bool is_cuda(const struct bench *bench)
{
    return bench->options->placement.device == AWQ_DEVICE_CUDA;
}

/* ---- the problem of a shape */

/* x of numbers between -1 and 1 on the device. */
static awq_status fill_x(const struct bench_problem *problem)
{
    enum { PERIOD = 1021 };
    static float values[PERIOD];
    for (int i = 0; i < PERIOD; i++) values[i] = (float)(i * 389 % PERIOD) * (2.0f / PERIOD) - 1.0f;
    const int64_t count = problem->max_rows * problem->shape.k;
    awq_status status = AWQ_OK;
    for (int64_t at = 0; at < count && status == AWQ_OK; at += PERIOD) {
        const int64_t length = count - at < PERIOD ? count - at : PERIOD;
        awq_tensor from, to;
        awq_tensor_init_const_1d(&from, values, AWQ_F32, length);
        awq_tensor_init_1d(&to, problem->x, problem->dtype, length);
        to.byte_offset = (uint64_t)at * awq_dtype_size(problem->dtype);
        to.device_type = problem->machine->device.device_type;
        to.device_id = problem->machine->device.device_id;
        status = awq_tensor_copy(problem->context, &from, &to, NULL);
    }
    return status;
}

static void close_problem(struct bench *bench)
{
    struct bench_problem *problem = &bench->problem;
    for (int i = 0; i < bench->contestant_count; i++) bench->contestants[i].close(bench->contestants[i].state);
    bench->contestant_count = 0;
    awq_weight_destroy(problem->weight);
    awq_context_free(bench->context, problem->x);
    awq_context_free(bench->context, problem->y);
    *problem = (struct bench_problem){0};
}

static bool open_problem(struct bench *bench, const struct bench_shape *shape)
{
    const struct options *options = bench->options;
    struct bench_problem *problem = &bench->problem;
    *problem = (struct bench_problem){.context = bench->context, .machine = &bench->report.machine, .shape = *shape,
        .bits = bench->report.bits, .group_size = options->group_size, .symmetric = options->symmetric,
        .dtype = bench->report.dtype, .copies = options->copies, .tuning = bench->tuning};
    for (int i = 0; i < bench->batch_count; i++)
        if (bench->batches[i] > problem->max_rows) problem->max_rows = bench->batches[i];
    const uint64_t row = (uint64_t)problem->max_rows * awq_dtype_size(problem->dtype);
    awq_status status = awq_context_allocate(bench->context, row * (uint64_t)shape->k, &problem->x);
    if (status == AWQ_OK) status = awq_context_allocate(bench->context, row * (uint64_t)shape->n, &problem->y);
    if (status == AWQ_OK) status = fill_x(problem);
    if (status == AWQ_OK) status = bench_random_weight(problem);
    return status == AWQ_OK || cli_library_error(status, "%" PRId64 " x %" PRId64, shape->n, shape->k);
}

/* ---- who takes part */

static struct bench_contestant *next_contestant(struct bench *bench)
{
    if (bench->contestant_count < BENCH_CONTESTANTS) return &bench->contestants[bench->contestant_count];
    cli_error("more than %d contestants", BENCH_CONTESTANTS);
    return NULL;
}

static bool add_linear(struct bench *bench, enum bench_kind kind, int32_t kernel, int activation, bool wanted)
{
    bool unsupported;
    struct bench_contestant *contestant = next_contestant(bench);
    if (!contestant || !bench_linear_open(&bench->problem, kind, kernel, activation, contestant, &unsupported))
        return false;
    if (!unsupported) bench->contestant_count++;
    else if (wanted) return cli_error("%s: %s", awq_kernel_name(kernel), awq_last_error());
    return true;
}

/* Every kernel in every mode of activations, unless one was asked for.  A CPU computes in each of them; the tensor
 * cores of a GPU in the type of x. */
static bool add_kernels(struct bench *bench)
{
    const struct options *options = bench->options;
    const bool all = options->activation == 0;
    const int first = is_cuda(bench) || !all ? AWQ_ACTIVATION_DEFAULT : AWQ_ACTIVATION_EXACT;
    const int last = is_cuda(bench) && all ? AWQ_ACTIVATION_DEFAULT : AWQ_ACTIVATION_INT8;
    for (int activation = first; activation <= last; activation++) {
        if (!all && activation != options->activation - 1) continue;
        if (options->kernel && !add_linear(bench, BENCH_QUANTIZED, options->kernel - 1, activation, !all)) return false;
        if (bench->tuning && !add_linear(bench, BENCH_QUANTIZED, AWQ_KERNEL_AUTO, activation, true)) return false;
        /* Not the reference, which is there to be right. */
        for (int32_t kernel = AWQ_KERNEL_GEMV; !options->kernel && awq_kernel_name(kernel); kernel++)
            if (!add_linear(bench, BENCH_QUANTIZED, kernel, activation, false)) return false;
    }
    if (bench->contestant_count > 0) return true;
    return cli_error("%" PRId64 " x %" PRId64 ": no kernel: %s", bench->problem.shape.n, bench->problem.shape.k,
                     awq_last_error());
}

static bool add_others(struct bench *bench)
{
    if (!add_linear(bench, BENCH_DENSE, AWQ_KERNEL_AUTO, AWQ_ACTIVATION_DEFAULT, true)) return false;
    struct bench_contestant *contestant = next_contestant(bench);
    if (!contestant) return false;
    if (!is_cuda(bench)) {
        if (!bench_read_open(&bench->problem, bench->contestants[0].weight_bytes, contestant)) return false;
        bench->contestant_count++;
        if (!(contestant = next_contestant(bench))) return false;
    }
    if (!is_cuda(bench) && !bench->options->no_blas && bench_blas_open(&bench->problem, contestant))
        bench->contestant_count++;
    for (size_t i = 0; i < bench->options->peers.count; i++) {
        contestant = next_contestant(bench);
        if (!contestant || !bench_peer_open(bench->peers[i], &bench->problem, contestant)) return false;
        if (contestant->run) bench->contestant_count++;
    }
    return true;
}

/* ---- turns */

enum { ROUNDS = 4, MOST_RUNS = 250 }; /* of a round */

struct turns {
    double *seconds; /* [ROUNDS * MOST_RUNS] */
    int64_t runs, count;
    bool absent;
};

/* A kernel for few rows goes over the weight once for each 8; where it cannot win, a CPU would spend minutes to say
 * so.  Reading is a limit for few rows only. */
static bool takes_part(const struct bench *bench, const struct bench_contestant *contestant, int64_t rows)
{
    if (contestant->kind == BENCH_READ) return rows <= 32;
    const bool slow = !is_cuda(bench) && contestant->kind == BENCH_QUANTIZED && contestant->kernel == AWQ_KERNEL_GEMV;
    return !slow || rows <= 32 || bench->options->kernel != 0;
}

/* One unmeasured turn tells how many runs fit in the time; at least 1, so that there are ROUNDS of them. */
static bool plan_turns(const struct bench *bench, const struct bench_contestant *contestant, int64_t rows,
                       struct turns *turns)
{
    double once;
    turns->count = 0;
    turns->absent = !takes_part(bench, contestant, rows);
    if (turns->absent) return true;
    if (!contestant->run(contestant->state, rows, 1, &once)) return false;
    const double fit = once > 0 ? bench->options->seconds / ROUNDS / once : MOST_RUNS;
    turns->runs = fit < 1 ? 1 : fit > MOST_RUNS ? MOST_RUNS : (int64_t)fit;
    return true;
}

static bool take_turns(struct bench *bench, int64_t rows, struct turns turns[BENCH_CONTESTANTS])
{
    const int count = bench->contestant_count;
    for (int i = 0; i < count; i++)
        if (!plan_turns(bench, &bench->contestants[i], rows, &turns[i])) return false;
    for (int round = 0; round < ROUNDS; round++)
        for (int i = 0; i < count; i++) {
            const int who = round % 2 ? count - 1 - i : i;
            struct turns *turn = &turns[who];
            if (turn->absent) continue;
            if (progress_interrupted()) return cli_error("interrupted");
            if (!bench->contestants[who].run(bench->contestants[who].state, rows, turn->runs,
                                             turn->seconds + turn->count))
                return false;
            turn->count += turn->runs;
        }
    return true;
}

static bool record(struct bench *bench, const struct bench_contestant *contestant, int64_t rows, struct turns *turns)
{
    const struct bench_problem *problem = &bench->problem;
    const double n = (double)problem->shape.n, k = (double)problem->shape.k, m = (double)rows;
    const double element = contestant->kind == BENCH_PEER   ? sizeof(float)
                           : contestant->kind == BENCH_READ ? 0
                                                            : (double)awq_dtype_size(problem->dtype);
    struct bench_line line = {.shape = problem->shape, .rows = rows, .kind = contestant->kind,
        .activation = contestant->activation, .weight_bytes = contestant->weight_bytes, .copies = contestant->copies,
        .bytes = (double)contestant->weight_bytes + m * (n + k) * element, .flops = contestant->kind == BENCH_READ ? 0 : 2 * m * n * k,
        .times = bench_summarize(turns->seconds, turns->count)};
    memcpy(line.name, contestant->name, sizeof line.name);
    return bench_report_add(&bench->report, &line);
}

static bool measure_batch(struct bench *bench, int64_t rows)
{
    struct turns turns[BENCH_CONTESTANTS] = {{0}};
    bool ok = true;
    for (int i = 0; i < bench->contestant_count && ok; i++) {
        turns[i].seconds = malloc(ROUNDS * MOST_RUNS * sizeof *turns[i].seconds);
        if (!turns[i].seconds) ok = cli_error("out of memory");
    }
    ok = ok && take_turns(bench, rows, turns);
    for (int i = 0; i < bench->contestant_count && ok; i++)
        if (!turns[i].absent) ok = record(bench, &bench->contestants[i], rows, &turns[i]);
    for (int i = 0; i < bench->contestant_count; i++) free(turns[i].seconds);
    return ok;
}

static bool measure_shape(struct bench *bench, int index)
{
    struct bench_machine *machine = &bench->report.machine;
    const size_t first = bench->report.count;
    bool ok = bench_bandwidth(bench->context, machine) && bench_peaks(bench->context, machine) &&
              open_problem(bench, &bench->shapes[index]) && add_kernels(bench) && add_others(bench);
    for (int i = 0; i < bench->batch_count && ok; i++) ok = measure_batch(bench, bench->batches[i]);
    close_problem(bench);
    if (!ok) return false;
    bench_report_finish(&bench->report);
    if (index == 0) bench_print_head(&bench->report);
    bench_print_shape(&bench->report, first);
    fflush(stdout);
    return true;
}

/* ---- the command */

static bool measure(struct bench *bench)
{
    const struct options *options = bench->options;
    struct progress progress;
    bool ok = open_context(bench) && start_peers(bench);
    progress_begin(&progress, "Measuring");
    for (int i = 0; i < bench->shape_count && ok; i++) {
        progress_note(&progress, "%" PRId64 " x %" PRId64, bench->shapes[i].n, bench->shapes[i].k);
        ok = progress_update(&progress, (uint64_t)i, (uint64_t)bench->shape_count) == 0 || cli_error("interrupted");
        ok = ok && measure_shape(bench, i);
    }
    progress_end(&progress);
    if (ok && options->json) ok = bench_write_json(&bench->report, options->json);
    if (ok && options->svg) ok = bench_write_svg(&bench->report, options->svg);
    return ok;
}

static int run(const struct cli_command *command, const void *given)
{
    static const int32_t dtypes[] = {0, AWQ_F32, AWQ_F16, AWQ_BF16};
    static const int bit_widths[] = {4, 2, 3, 8};
    const struct options *options = given;
    struct bench *bench = calloc(1, sizeof *bench);
    if (!bench) return cli_error("out of memory"), EXIT_FAILED;
    const bool cuda = options->placement.device == AWQ_DEVICE_CUDA;
    bench->options = options;
    bench->report.bits = bit_widths[options->bits];
    bench->report.group_size = options->group_size;
    bench->report.symmetric = options->symmetric;
    bench->report.dtype = options->dtype ? dtypes[options->dtype] : cuda ? AWQ_F16 : AWQ_F32;
    const char *shapes = options->shapes ? options->shapes : bench_default_shapes(cuda);
    const char *rows = options->rows ? options->rows : cuda ? cuda_rows : cpu_rows;
    bench->shape_count = bench_read_shapes(shapes, bench->shapes);
    bench->batch_count = bench_read_batches(rows, bench->batches);
    if (bench->shape_count == 0 || bench->batch_count == 0) {
        const bool bad_shapes = bench->shape_count == 0;
        free(bench);
        if (bad_shapes) return cli_usage(command, "--shapes %s: up to %d of NxK, such as 4096x4096,4096x14336", shapes,
                                         BENCH_SHAPES);
        return cli_usage(command, "--rows %s: up to %d batch sizes, such as 1,8,512", rows, BENCH_BATCHES);
    }
    const bool ok = measure(bench);
    for (size_t i = 0; i < options->peers.count; i++) bench_peer_stop(bench->peers[i]);
    bench_report_free(&bench->report);
    awq_tuning_destroy(bench->tuning);
    awq_context_destroy(bench->context);
    free(bench);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct options defaults = {.group_size = 128, .seconds = 0.3};

static const struct cli_option table[] = {
    {CLI_STRING, "shapes", offsetof(struct options, shapes), .argument = "NxK,..",
     .help = "Weights of N outputs and K inputs [default: those of common language models]."},
    {CLI_STRING, "rows", offsetof(struct options, rows), .argument = "M,..",
     .help = "Batch sizes [default: 1 to 512, on CUDA to 4096]."},
    PLACEMENT_OPTIONS(struct options, placement),
    {CLI_HEADING, "Contestants", .offset = 0},
    {CLI_CHOICE, "kernel", offsetof(struct options, kernel),
     .argument = "all|auto|reference|gemv|gemm|marlin|hopper|dequant",
     .help = "Only this kernel, for all batch sizes."},
    {CLI_CHOICE, "activation", offsetof(struct options, activation), .argument = "all|default|exact|split|bf16|int8",
     .help = "Only this precision of activations."},
    {CLI_CHOICE, "dtype", offsetof(struct options, dtype), .argument = "own|f32|f16|bf16",
     .help = "Type of inputs and outputs; own: F32 on the CPU, F16 on CUDA."},
    {CLI_STRING, "tuning", offsetof(struct options, tuning), .argument = "FILE",
     .help = "Also the kernels that this tuning chooses ('awq tune' makes one)."},
    {CLI_LIST, "peer", offsetof(struct options, peers), .argument = "COMMAND",
     .help = "Also a program that speaks the protocol of examples/bench; may be given several times."},
    {CLI_FLAG, "no-blas", offsetof(struct options, no_blas), .help = "Leave OpenBLAS out where it is installed."},
    {CLI_HEADING, "Weights", .offset = 0},
    {CLI_CHOICE, "bits", offsetof(struct options, bits), .argument = "4|2|3|8", .help = "Bits of a code."},
    {CLI_INT64, "group-size", offsetof(struct options, group_size), .argument = "N", .help = "Inputs per scale.",
     .minimum = 1, .maximum = INT32_MAX},
    {CLI_FLAG, "symmetric", offsetof(struct options, symmetric), .help = "Weights without zero points."},
    {CLI_HEADING, "Measuring and output", .offset = 0},
    {CLI_DOUBLE, "seconds", offsetof(struct options, seconds), .argument = "S",
     .help = "Time for one contestant at one batch size, in four turns.", .minimum = 0, .maximum = 3600},
    {CLI_INT, "copies", offsetof(struct options, copies), .argument = "N",
     .help = "Copies of each weight that take turns [default: enough to exceed the last-level cache three times].",
     .minimum = 1, .maximum = BENCH_COPIES},
    {CLI_STRING, "json", offsetof(struct options, json), .argument = "FILE", .help = "Write all figures there, too."},
    {CLI_STRING, "svg", offsetof(struct options, svg), .argument = "FILE", .help = "Draw a roofline there."},
    {CLI_END, NULL, .offset = 0},
};

const struct cli_command bench_command = {
    .name = "bench",
    .summary = "measure the kernels against the machine's limits and against others",
    .intro = "Measures every kernel on weights of given shapes, in turns with an FP16 baseline, OpenBLAS and\n"
             "other programs, and beside the machine's own limits.  Weights come from memory, not from a cache:\n"
             "several copies of each take turns.  On CUDA the device times graphs of many runs.\n"
             "docs/performance.md says how to read the figures.",
    .examples = "  awq bench --threads 1 --shapes 4096x4096 --rows 1,16\n"
                "  awq bench --json bench.json --svg roofline.svg\n"
                "  awq bench --device cuda",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
