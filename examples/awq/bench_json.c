/* The report as JSON: all that the table shows, in SI units, and how it was measured. */
#include "bench.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "buffer.h"

#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "GCC " __VERSION__
#endif

static json_t *machine_to_json(const struct bench_machine *machine)
{
    json_t *peaks = json_object();
    for (int i = 0; i < machine->peak_count; i++)
        json_object_set_new(peaks, machine->peaks[i].name, json_real(machine->peaks[i].rate));
    const awq_device_info *device = &machine->device;
    const bool cuda = device->device_type == AWQ_DEVICE_CUDA;
    return json_pack("{s:s, s:s, s:i, s:i, s:I, s:I, s:f, s:s, s:o}",
        "type", cuda ? "cuda" : "cpu",
        "name", device->name,
        cuda ? "multiprocessors" : "threads", (int)device->compute_units,
        cuda ? "compute_capability" : "cpu_features",
        cuda ? (int)device->compute_capability : (int)device->cpu_features,
        "last_level_cache_bytes", (json_int_t)device->last_level_cache_bytes,
        "specified_bytes_per_second", (json_int_t)device->memory_bytes_per_second,
        "measured_bytes_per_second", machine->bandwidth,
        "measured_by", cuda ? "copies on the device, bytes read and written" : "reading by all threads",
        "peak_flops", peaks);
}

/* Seconds of each other contestant of the group over this one's. */
static json_t *ratios_to_json(const struct bench_report *report, size_t index, size_t first)
{
    json_t *ratios = json_object();
    const struct bench_line *line = &report->lines[index];
    for (size_t i = first; i < bench_group_end(report, first); i++)
        if (report->lines[i].kind != BENCH_QUANTIZED && i != index)
            json_object_set_new(ratios, report->lines[i].name,
                                json_real(report->lines[i].times.p50 / line->times.p50));
    return ratios;
}

static json_t *line_to_json(const struct bench_report *report, size_t index, size_t first)
{
    static const char *const kinds[] = {"quantized", "dense", "read", "peer"};
    const struct bench_line *line = &report->lines[index];
    const struct bench_times *times = &line->times;
    const struct bench_peak *peak = bench_peak_of(&report->machine, line->activation);
    json_t *json = json_pack("{s:I, s:I, s:I, s:s, s:s, s:s, s:b}",
        "n", (json_int_t)line->shape.n,
        "k", (json_int_t)line->shape.k,
        "rows", (json_int_t)line->rows,
        "name", line->name,
        "kind", kinds[line->kind],
        "activation", bench_activation_name(line->activation),
        "fastest", (int)line->fastest);
    json_t *figures = json_pack("{s:f, s:f, s:f, s:I, s:i, s:I, s:f, s:f}",
        "seconds_p50", times->p50,
        "seconds_p90", times->p90,
        "seconds_minimum", times->minimum,
        "samples", (json_int_t)times->samples,
        "copies", line->copies,
        "weight_bytes", (json_int_t)line->weight_bytes,
        "bytes_per_second", line->bytes / times->p50,
        "flops", line->flops / times->p50);
    json_object_update(json, figures);
    json_decref(figures);
    const double share = line->bytes / times->p50 / report->machine.bandwidth;
    if (line->weight_bytes) json_object_set_new(json, "share_of_bandwidth", json_real(share));
    if (peak && line->kind < BENCH_READ)
        json_object_set_new(json, "share_of_peak", json_real(line->flops / times->p50 / peak->rate));
    json_object_set_new(json, "ratios", ratios_to_json(report, index, first));
    return json;
}

static json_t *published_to_json(void)
{
    json_t *list = json_array();
    const struct bench_published *published;
    for (size_t i = 0; (published = bench_published_at(i)); i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:f}",
            "name", published->name,
            "device", published->device,
            "source", published->source,
            "n", (json_int_t)published->shape.n,
            "k", (json_int_t)published->shape.k,
            "rows", (json_int_t)published->rows,
            "seconds", published->seconds));
    return list;
}

bool bench_write_json(const struct bench_report *report, const char *path)
{
    char date[16];
    const time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&now, &utc));
    json_t *lines = json_array();
    for (size_t first = 0, end; first < report->count; first = end) {
        end = bench_group_end(report, first);
        for (size_t i = first; i < end; i++) json_array_append_new(lines, line_to_json(report, i, first));
    }
    json_t *json = json_pack("{s:s, s:s, s:s, s:o, s:i, s:I, s:b, s:s, s:o, s:o}",
        "version", awq_version_string(),
        "compiler", COMPILER,
        "date", date,
        "device", machine_to_json(&report->machine),
        "bits", report->bits,
        "group_size", (json_int_t)report->group_size,
        "symmetric", (int)report->symmetric,
        "dtype", awq_dtype_name(report->dtype),
        "lines", lines,
        "published_not_measured", published_to_json());
    char *text = json ? json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(json);
    if (!text) return cli_error("%s: the results cannot be written as JSON", path);
    size_t length = strlen(text);
    text[length] = '\n'; /* in place of the final zero: lengths count from here on */
    bool ok = write_file(path, text, length + 1);
    free(text);
    return ok;
}
