/* The report as a roofline picture: speed over arithmetic intensity, both on logarithmic axes, under the roof that the
 * measured limits make.  A point on the slope is as fast as memory, one on the flat as fast as arithmetic. */
#include "bench.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"

enum { WIDTH = 960, HEIGHT = 600, LEFT = 80, RIGHT = 250, TOP = 64, BOTTOM = 64, SERIES = 24 };

/* Contestants by name and mode of activations, each with a colour. */
struct series {
    const char *name;
    int activation;
    enum bench_kind kind;
};

struct picture {
    const struct bench_report *report;
    struct text_buffer text;
    bool failed;
    double x_low, x_high, y_low, y_high; /* powers of ten of FLOP per byte and FLOP per second */
    struct series series[SERIES];
    int series_count;
};

static void add(struct picture *picture, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(struct picture *picture, const char *format, ...)
{
    char *text;
    va_list arguments;
    va_start(arguments, format);
    const int length = vasprintf(&text, format, arguments);
    va_end(arguments);
    if (length < 0) {
        picture->failed = true;
        return;
    }
    if (!text_buffer_append(&picture->text, text, (size_t)length)) picture->failed = true;
    free(text);
}

/* What a processor or a peer calls itself may hold anything. */
static void add_escaped(struct picture *picture, const char *text)
{
    for (; *text; text++) {
        if (*text == '<') add(picture, "&lt;");
        else if (*text == '&') add(picture, "&amp;");
        else if ((unsigned char)*text >= 32) add(picture, "%c", *text);
    }
}

static double x_of(const struct picture *picture, double intensity)
{
    const double share = (log10(intensity) - picture->x_low) / (picture->x_high - picture->x_low);
    return LEFT + share * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct picture *picture, double rate)
{
    const double share = (log10(rate) - picture->y_low) / (picture->y_high - picture->y_low);
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM);
}

static double intensity_of(const struct bench_line *line)
{
    return line->flops / line->bytes;
}

/* ---- what will be drawn, and the range of the axes */

static int series_of(struct picture *picture, const struct bench_line *line)
{
    int at = 0;
    for (; at < picture->series_count; at++) {
        const struct series *series = &picture->series[at];
        if (strcmp(series->name, line->name) == 0 && series->activation == line->activation) return at;
    }
    if (at == SERIES) return SERIES - 1;
    picture->series[picture->series_count++] = (struct series){line->name, line->activation, line->kind};
    return at;
}

static double highest_peak(const struct bench_machine *machine)
{
    double highest = 0;
    for (int i = 0; i < machine->peak_count; i++)
        if (machine->peaks[i].rate > highest) highest = machine->peaks[i].rate;
    return highest;
}

static void find_ranges(struct picture *picture)
{
    const struct bench_report *report = picture->report;
    double x_least = INFINITY, x_most = 0, y_least = INFINITY, y_most = highest_peak(&report->machine);
    for (size_t i = 0; i < report->count; i++) {
        const struct bench_line *line = &report->lines[i];
        if (line->kind == BENCH_READ) continue; /* that is the slope */
        series_of(picture, line);
        x_least = fmin(x_least, intensity_of(line));
        x_most = fmax(x_most, intensity_of(line));
        y_least = fmin(y_least, line->flops / line->times.p50);
        y_most = fmax(y_most, line->flops / line->times.p50);
    }
    picture->x_low = floor(log10(x_least));
    picture->x_high = ceil(log10(x_most) + 0.1);
    picture->y_low = floor(log10(y_least));
    picture->y_high = ceil(log10(y_most) + 0.1);
}

/* ---- drawing */

/* Hues as far apart as their number allows, in three strengths of light for neighbours. */
static void colour_of(const struct picture *picture, int series, char colour[32])
{
    static const int light[] = {38, 52, 28};
    snprintf(colour, 32, "hsl(%d,75%%,%d%%)", 360 * series / (picture->series_count ? picture->series_count : 1),
             light[series % 3]);
}

static void draw_axes(struct picture *picture)
{
    for (double power = picture->x_low; power <= picture->x_high; power++) {
        const double x = x_of(picture, pow(10, power));
        add(picture, "<line class='grid' x1='%.1f' y1='%d' x2='%.1f' y2='%d'/>\n", x, TOP, x, HEIGHT - BOTTOM);
        add(picture, "<text x='%.1f' y='%d' text-anchor='middle'>%g</text>\n", x, HEIGHT - BOTTOM + 18, pow(10, power));
    }
    for (double power = picture->y_low; power <= picture->y_high; power++) {
        const double y = y_of(picture, pow(10, power));
        add(picture, "<line class='grid' x1='%d' y1='%.1f' x2='%d' y2='%.1f'/>\n", LEFT, y, WIDTH - RIGHT, y);
        add(picture, "<text x='%d' y='%.1f' text-anchor='end'>%g</text>\n", LEFT - 8, y + 4, pow(10, power - 9));
    }
    add(picture, "<text x='%d' y='%d' text-anchor='middle'>FLOP per byte of weights, inputs and outputs</text>\n",
        (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 20);
    add(picture, "<text transform='translate(22 %d) rotate(-90)' text-anchor='middle'>GFLOP/s</text>\n",
        (TOP + HEIGHT - BOTTOM) / 2);
}

static void draw_roof(struct picture *picture)
{
    const struct bench_machine *machine = &picture->report->machine;
    const double right = pow(10, picture->x_high), left = pow(10, picture->x_low), bottom = pow(10, picture->y_low);
    const double top = highest_peak(machine) > 0 ? highest_peak(machine) : pow(10, picture->y_high);
    const double begin = fmax(left, bottom / machine->bandwidth), corner = fmin(right, top / machine->bandwidth);
    add(picture, "<line class='roof' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", x_of(picture, begin),
        y_of(picture, begin * machine->bandwidth), x_of(picture, corner), y_of(picture, corner * machine->bandwidth));
    const double label = sqrt(begin * corner);
    add(picture, "<text x='%.1f' y='%.1f' text-anchor='end'>%.1f GB/s</text>\n", x_of(picture, label) - 8,
        y_of(picture, label * machine->bandwidth) - 8, machine->bandwidth * 1e-9);
    for (int i = 0; i < machine->peak_count; i++) {
        const struct bench_peak *peak = &machine->peaks[i];
        const double y = y_of(picture, peak->rate), meets = fmax(left, peak->rate / machine->bandwidth);
        if (meets >= right) continue;
        add(picture, "<line class='roof' x1='%.1f' y1='%.1f' x2='%d' y2='%.1f'/>\n", x_of(picture, meets), y,
            WIDTH - RIGHT, y);
        add(picture, "<text x='%d' y='%.1f' text-anchor='end'>%.0f GFLOP/s %s</text>\n", WIDTH - RIGHT - 6, y - 6,
            peak->rate * 1e-9, peak->name);
    }
}

static bool same_shape(const struct bench_line *a, const struct bench_line *b)
{
    return a->shape.n == b->shape.n && a->shape.k == b->shape.k;
}

/* A contestant's points, joined over the batch sizes of a shape. */
static void draw_series(struct picture *picture, int series)
{
    const struct bench_report *report = picture->report;
    const struct bench_line *before = NULL;
    char colour[32];
    colour_of(picture, series, colour);
    for (size_t i = 0; i < report->count; i++) {
        const struct bench_line *line = &report->lines[i];
        if (line->kind == BENCH_READ || series_of(picture, line) != series) continue;
        const double x = x_of(picture, intensity_of(line)), y = y_of(picture, line->flops / line->times.p50);
        if (before && same_shape(before, line))
            add(picture, "<line class='path' stroke='%s' x1='%.1f' y1='%.1f' x2='%.1f' y2='%.1f'/>\n", colour,
                x_of(picture, intensity_of(before)), y_of(picture, before->flops / before->times.p50), x, y);
        add(picture, "<circle cx='%.1f' cy='%.1f' r='%s' fill='%s'><title>", x, y, line->fastest ? "4.5" : "3", colour);
        add_escaped(picture, line->name);
        add(picture, ", %" PRId64 " x %" PRId64 ", %" PRId64 " rows: %.1f us</title></circle>\n", line->shape.n,
            line->shape.k, line->rows, line->times.p50 * 1e6);
        before = line;
    }
    const int y = TOP + 20 + 20 * series;
    const bool ours = picture->series[series].kind == BENCH_QUANTIZED;
    add(picture, "<circle cx='%d' cy='%d' r='4.5' fill='%s'/><text x='%d' y='%d'>", WIDTH - RIGHT + 24, y - 4, colour,
        WIDTH - RIGHT + 36, y);
    add_escaped(picture, picture->series[series].name);
    add(picture, " %s</text>\n", ours ? bench_activation_name(picture->series[series].activation) : "");
}

static void draw(struct picture *picture)
{
    const struct bench_report *report = picture->report;
    add(picture, "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d'>\n", WIDTH, HEIGHT,
        WIDTH, HEIGHT);
    add(picture, "<style>text{font:13px sans-serif;fill:#222}.grid{stroke:#ddd}.roof{stroke:#222;stroke-width:2}"
                 ".path{stroke-width:1.2;opacity:.6}</style>\n<rect width='100%%' height='100%%' fill='#fff'/>\n");
    add(picture, "<text x='%d' y='28' style='font-size:17px'>", LEFT);
    add_escaped(picture, report->machine.device.name);
    add(picture, "</text>\n<text x='%d' y='48'>%d-bit weights in groups of %" PRId64 ", medians; the fastest of each "
                 "batch size are larger</text>\n",
        LEFT, report->bits, report->group_size);
    draw_axes(picture);
    draw_roof(picture);
    for (int i = 0; i < picture->series_count; i++) draw_series(picture, i);
    add(picture, "</svg>\n");
}

bool bench_write_svg(const struct bench_report *report, const char *path)
{
    struct picture picture = {.report = report};
    if (report->count == 0) return cli_error("%s: nothing was measured, so there is nothing to draw", path);
    find_ranges(&picture);
    draw(&picture);
    const bool ok = !picture.failed && write_file(path, picture.text.bytes, picture.text.length);
    text_buffer_free(&picture.text);
    return ok;
}
