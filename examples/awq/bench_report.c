/* What awq bench collects. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#include "buffer.h"

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

struct bench_times bench_summarize(double *seconds, int64_t count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, compare_doubles);
    const int64_t p90 = (9 * count + 9) / 10 - 1; /* nearest rank */
    const double middle =
        count % 2 ? seconds[count / 2] : 0.5 * (seconds[count / 2 - 1] + seconds[count / 2]);
    return (struct bench_times){middle, seconds[p90], seconds[0], count};
}

bool bench_report_add(struct bench_report *report, const struct bench_line *line)
{
    if (!buffer_reserve((void **)&report->lines, &report->capacity, report->count + 1, sizeof *line)) return false;
    report->lines[report->count++] = *line;
    return true;
}

void bench_report_free(struct bench_report *report)
{
    free(report->lines);
    report->lines = NULL;
    report->count = report->capacity = 0;
}

size_t bench_group_end(const struct bench_report *report, size_t first)
{
    const struct bench_line *lines = report->lines;
    size_t end = first;
    while (end < report->count && lines[end].shape.n == lines[first].shape.n &&
           lines[end].shape.k == lines[first].shape.k && lines[end].rows == lines[first].rows)
        end++;
    return end;
}

static void mark_fastest(struct bench_report *report)
{
    for (size_t first = 0, end; first < report->count; first = end) {
        struct bench_line *fastest = NULL;
        end = bench_group_end(report, first);
        for (struct bench_line *line = report->lines + first; line < report->lines + end; line++) {
            line->fastest = false;
            if (line->kind == BENCH_QUANTIZED && (!fastest || line->times.p50 < fastest->times.p50)) fastest = line;
        }
        if (fastest) fastest->fastest = true;
    }
}

void bench_report_finish(struct bench_report *report)
{
    struct bench_machine *machine = &report->machine;
    double best = 0;
    mark_fastest(report);
    if (machine->device.device_type != AWQ_DEVICE_CUDA) return;
    for (size_t i = 0; i < report->count; i++) {
        const struct bench_line *line = &report->lines[i];
        if (line->kind == BENCH_DENSE && line->flops / line->times.p50 > best) best = line->flops / line->times.p50;
    }
    machine->peak_count = best > 0;
    machine->peaks[0] = (struct bench_peak){"fp16 baseline, best", best};
}

const char *bench_activation_name(int activation)
{
    static const char *const names[] = {
        [AWQ_ACTIVATION_DEFAULT] = "default", [AWQ_ACTIVATION_EXACT] = "exact", [AWQ_ACTIVATION_SPLIT] = "split",
        [AWQ_ACTIVATION_BF16] = "bf16",       [AWQ_ACTIVATION_INT8] = "int8",
    };
    return activation >= 0 && activation <= AWQ_ACTIVATION_INT8 ? names[activation] : "unknown";
}

/* By the authors of another kernel: groups of 128, the second-level cache cleared before each run. */
#define TILEOPS "tile-ai/TileOPs, pull request 1874"

static const struct bench_published published[] = {
    {{8192, 8192}, 1, 20.3e-6, "marlin", "NVIDIA H200", TILEOPS},
    {{8192, 16384}, 1, 38.1e-6, "marlin", "NVIDIA H200", TILEOPS},
    {{7168, 20480}, 1, 40.6e-6, "marlin", "NVIDIA H200", TILEOPS},
};

const struct bench_published *bench_published_at(size_t index)
{
    return index < sizeof published / sizeof *published ? &published[index] : NULL;
}
