/* How long one block of a Llama-7B-shaped model takes to calibrate, search, clip and quantise, and in how much memory.
 *
 *   build/block [--tokens N] [--sketch ROWS] [--threads N] [--divide BY]
 *
 * Weights and activations are random, with a few loud channels.  --sketch 0 tries candidates on the sampled rows themselves;
 * --divide makes the block smaller, for a test. */
#include "awq.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { HIDDEN = 4096, INNER = 11008, GROUP = 128, BATCH = 512, MOST = 3, BLOCKS = 32 };

/* Linears that share an input. */
struct point {
    const char *name;
    int64_t inputs, outputs;
    int count;
    bool clipped; /* q and k are not: their errors meet in a product of both */
};

static const struct point points[] = {
    {"q, k", HIDDEN, HIDDEN, 2, false},
    {"v", HIDDEN, HIDDEN, 1, true},
    {"o", HIDDEN, HIDDEN, 1, true},
    {"gate, up", HIDDEN, INNER, 2, true},
    {"down", INNER, HIDDEN, 1, true},
};

struct times {
    double calibrate, search, clip, quantize;
};

struct bench {
    awq_context *context;
    int64_t tokens, sketch;
    uint64_t state;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void check(awq_status status)
{
    if (status == AWQ_OK) return;
    fprintf(stderr, "block: %s\n", awq_last_error());
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    void *memory = calloc(count, size);
    if (!memory) {
        fprintf(stderr, "block: out of memory\n");
        exit(1);
    }
    return memory;
}

/* About normal: four bytes of a random number added up. */
static float next_random(struct bench *bench)
{
    bench->state = bench->state * 6364136223846793005u + 1442695040888963407u;
    const uint64_t x = bench->state >> 32;
    return ((float)((x & 255) + (x >> 8 & 255) + (x >> 16 & 255) + (x >> 24)) - 510.0f) / 148.0f;
}

/* Rows of activations, of which every 97th channel is loud. */
static double observe(struct bench *bench, int64_t channels, awq_calibration *calibration)
{
    float *x = allocate((size_t)(BATCH * channels), sizeof *x);
    awq_tensor view;
    double seconds = 0;
    for (int64_t done = 0; done < bench->tokens; done += BATCH) {
        const int64_t rows = bench->tokens - done < BATCH ? bench->tokens - done : BATCH;
        for (int64_t i = 0; i < rows * channels; i++)
            x[i] = next_random(bench) * (i % channels % 97 == 5 ? 20.0f : 0.5f + (float)(i % channels % 7) / 7);
        awq_tensor_init_const_2d(&view, x, AWQ_F32, rows, channels);
        const double begin = now();
        check(awq_calibration_observe(calibration, &view));
        seconds += now() - begin;
    }
    free(x);
    return seconds;
}

/* BF16, which is the upper half of FP32. */
static uint16_t *random_weight(struct bench *bench, const struct point *point, awq_tensor *view)
{
    const int64_t count = point->outputs * point->inputs;
    const float scale = 1 / sqrtf((float)point->inputs);
    uint16_t *w = allocate((size_t)count, sizeof *w);
    for (int64_t i = 0; i < count; i++) {
        const float value = next_random(bench) * scale;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        w[i] = (uint16_t)(bits >> 16);
    }
    awq_tensor_init_const_2d(view, w, AWQ_BF16, point->outputs, point->inputs);
    return w;
}

static void quantize(struct bench *bench, const struct point *point, const awq_tensor *w, awq_calibration *calibration,
                     const awq_search *search, struct times *times)
{
    const int64_t groups = (point->inputs + GROUP - 1) / GROUP;
    awq_quantize_options options;
    awq_weight *weight;
    awq_tensor limits;
    float *values = allocate((size_t)(point->outputs * groups), sizeof *values);
    awq_struct_init(&options, sizeof options);
    awq_tensor_init_2d(&limits, values, AWQ_F32, point->outputs, groups);
    const double begin = now();
    if (point->clipped) {
        check(awq_clip_search(bench->context, w, calibration, search, NULL, &limits, NULL));
        options.clip = &limits;
    }
    const double clipped = now();
    check(awq_quantize(bench->context, w, search, &options, &weight));
    times->clip += clipped - begin;
    times->quantize += now() - clipped;
    awq_weight_destroy(weight);
    free(values);
}

static struct times run_point(struct bench *bench, const struct point *point)
{
    struct times times = {0};
    awq_calibration *calibration;
    awq_search_options options;
    awq_search *search;
    uint16_t *data[MOST];
    awq_tensor w[MOST];
    check(awq_calibration_create(bench->context, point->inputs, NULL, &calibration));
    for (int i = 0; i < point->count; i++) data[i] = random_weight(bench, point, &w[i]);
    times.calibrate = observe(bench, point->inputs, calibration);
    awq_struct_init(&options, sizeof options);
    options.scales = AWQ_SCALES_DUO;
    options.sketch_rows = bench->sketch;
    const double begin = now();
    check(awq_search_create(bench->context, calibration, &options, &search));
    for (int i = 0; i < point->count; i++) check(awq_search_add_weight(search, &w[i]));
    check(awq_search_run(search));
    times.search = now() - begin;
    for (int i = 0; i < point->count; i++) quantize(bench, point, &w[i], calibration, search, &times);
    for (int i = 0; i < point->count; i++) free(data[i]);
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    return times;
}

static void print_times(const char *name, const struct times *times)
{
    printf("%-10s %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, times->calibrate, times->search, times->clip,
           times->quantize, times->calibrate + times->search + times->clip + times->quantize);
}

struct arguments {
    int64_t tokens, sketch, threads, divide;
};

/* False for anything that is not one of the options with a number. */
static bool parse(int argc, char **argv, struct arguments *arguments)
{
    for (int i = 1; i < argc; i += 2) {
        char *end;
        const long long value = i + 1 < argc ? strtoll(argv[i + 1], &end, 10) : -1;
        if (value < 0 || value > 1 << 20 || end == argv[i + 1] || *end) return false;
        if (strcmp(argv[i], "--tokens") == 0 && value > 0) arguments->tokens = value;
        else if (strcmp(argv[i], "--sketch") == 0) arguments->sketch = value;
        else if (strcmp(argv[i], "--threads") == 0) arguments->threads = value;
        else if (strcmp(argv[i], "--divide") == 0 && value > 0 && value <= HIDDEN) arguments->divide = value;
        else return false;
    }
    return true;
}

int main(int argc, char **argv)
{
    struct arguments arguments = {.tokens = 16 * 512, .sketch = 64, .divide = 1};
    struct times sum = {0};
    struct rusage usage;
    awq_context_options options;
    if (!parse(argc, argv, &arguments)) {
        fprintf(stderr, "Usage: block [--tokens N] [--sketch ROWS] [--threads N] [--divide BY]\n");
        return 2;
    }
    struct bench bench = {.tokens = arguments.tokens, .sketch = arguments.sketch, .state = 1};
    awq_struct_init(&options, sizeof options);
    options.threads = (int32_t)arguments.threads;
    check(awq_context_create(&options, &bench.context));
    printf("%-10s %10s %10s %10s %10s %10s\n", "seconds", "calibrate", "search", "clip", "quantize", "all");
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        struct point point = points[i];
        point.inputs /= arguments.divide;
        point.outputs /= arguments.divide;
        const struct times times = run_point(&bench, &point);
        print_times(point.name, &times);
        sum.calibrate += times.calibrate;
        sum.search += times.search;
        sum.clip += times.clip;
        sum.quantize += times.quantize;
    }
    print_times("block", &sum);
    getrusage(RUSAGE_SELF, &usage);
    printf("%d blocks: %.0f s; at most %.2f GB in use\n", BLOCKS,
           BLOCKS * (sum.calibrate + sum.search + sum.clip + sum.quantize), (double)usage.ru_maxrss * 1024 / 1e9);
    awq_context_destroy(bench.context);
    return 0;
}
