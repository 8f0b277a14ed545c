/* The report as text. */
#include "bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static bool is_cuda(const struct bench_report *report)
{
    return report->machine.device.device_type == AWQ_DEVICE_CUDA;
}

void bench_print_head(const struct bench_report *report)
{
    const struct bench_machine *machine = &report->machine;
    printf("%s, %d %s; awq %s\n", machine->device.name, machine->device.compute_units,
           is_cuda(report)                      ? "multiprocessors"
           : machine->device.compute_units == 1 ? "thread"
                                                : "threads",
           awq_version_string());
    printf("memory  %.1f GB/s %s\n", machine->bandwidth * 1e-9,
           is_cuda(report) ? "read and written by copies" : "read by all threads");
    for (int i = 0; i < machine->peak_count; i++)
        printf("%s%.0f GFLOP/s %s", i ? ", " : "peak    ", machine->peaks[i].rate * 1e-9, machine->peaks[i].name);
    if (machine->peak_count) putchar('\n');
    printf("times   microseconds: median, 90th percentile, minimum; x ..: how many times as long that one took; "
           "* the fastest\n");
}

/* Columns of others that the lines of a shape are compared with, by name. */
struct columns {
    const char *names[BENCH_CONTESTANTS];
    int count;
};

static void columns_of(const struct bench_report *report, size_t first, size_t end, struct columns *columns)
{
    columns->count = 0;
    for (size_t i = first; i < end; i++) {
        const struct bench_line *line = &report->lines[i];
        int at = 0;
        while (at < columns->count && strcmp(columns->names[at], line->name) != 0) at++;
        if (line->kind != BENCH_QUANTIZED && at == columns->count && at < BENCH_CONTESTANTS)
            columns->names[columns->count++] = line->name;
    }
}

static const struct bench_line *line_named(const struct bench_report *report, size_t first, size_t end,
                                           const char *name)
{
    for (size_t i = first; i < end; i++)
        if (report->lines[i].kind != BENCH_QUANTIZED && strcmp(report->lines[i].name, name) == 0)
            return &report->lines[i];
    return NULL;
}

static void print_line(const struct bench_report *report, const struct bench_line *line, size_t first, size_t end,
                       const struct columns *columns)
{
    const struct bench_times *times = &line->times;
    const struct bench_peak *peak = bench_peak_of(&report->machine, line->activation);
    const double rate = line->flops / times->p50, bandwidth = line->bytes / times->p50;
    printf("%c%5" PRId64 "  %-11s %-8s%9.1f %9.1f %9.1f  ", line->fastest ? '*' : ' ', line->rows, line->name,
           line->kind == BENCH_QUANTIZED ? bench_activation_name(line->activation) : "", times->p50 * 1e6,
           times->p90 * 1e6, times->minimum * 1e6);
    if (line->weight_bytes) printf("%7.1f %5.0f%% ", bandwidth * 1e-9, 100 * bandwidth / report->machine.bandwidth);
    else printf("%7s %6s ", "-", "-");
    if (line->kind == BENCH_READ) printf("%9s", "-");
    else printf("%9.1f", rate * 1e-9);
    if (peak && line->kind < BENCH_READ) printf(" %5.0f%%", 100 * rate / peak->rate);
    else printf(" %6s", "-");
    for (int i = 0; i < columns->count; i++) {
        const struct bench_line *other = line_named(report, first, end, columns->names[i]);
        if (other && line->kind == BENCH_QUANTIZED) printf(" %11.2f", other->times.p50 / times->p50);
        else printf(" %11s", "");
    }
    putchar('\n');
}

static void print_published(const struct bench_report *report, const struct bench_line *line)
{
    const struct bench_published *published;
    for (size_t i = 0; is_cuda(report) && (published = bench_published_at(i)); i++)
        if (published->shape.n == line->shape.n && published->shape.k == line->shape.k &&
            published->rows == line->rows)
            printf(" %5" PRId64 "  %-11s %-8s%9.1f  published for an %s (%s), not measured here\n", line->rows,
                   published->name, "", published->seconds * 1e6, published->device, published->source);
}

void bench_print_shape(const struct bench_report *report, size_t first)
{
    const struct bench_line *lines = report->lines;
    struct columns columns;
    columns_of(report, first, report->count, &columns);
    printf("\nN x K = %" PRId64 " x %" PRId64 ", %d bits in groups of %" PRId64 "\n", lines[first].shape.n,
           lines[first].shape.k, report->bits, report->group_size);
    for (size_t i = first; i < bench_group_end(report, first); i++) {
        if (!lines[i].weight_bytes) continue;
        const uint64_t all = lines[i].weight_bytes * (uint64_t)lines[i].copies;
        printf("  %-11s %-8s%s a copy, %.2f bits a weight, %d copies in turn%s\n", lines[i].name,
               lines[i].kind == BENCH_QUANTIZED ? bench_activation_name(lines[i].activation) : "",
               cli_bytes(lines[i].weight_bytes).text,
               8.0 * (double)lines[i].weight_bytes / ((double)lines[i].shape.n * (double)lines[i].shape.k),
               lines[i].copies, all < report->machine.device.last_level_cache_bytes ? ", which stay in cache" : "");
    }
    printf("%6s  %-11s %-8s%9s %9s %9s  %7s %6s %9s %6s", "rows", "kernel", "x as", "p50", "p90", "min", "GB/s",
           "of max", "GFLOP/s", "of max");
    for (int i = 0; i < columns.count; i++) printf(" x %-9.9s", columns.names[i]);
    putchar('\n');
    for (size_t i = first, end; i < report->count; i = end) {
        end = bench_group_end(report, i);
        for (size_t j = i; j < end; j++) print_line(report, &lines[j], i, end, &columns);
        print_published(report, &lines[i]);
    }
}
