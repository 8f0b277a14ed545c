/* awq bench: contestants do the same product in turns on the same machine, and a report compares them.
 *
 * How it measures, and why:
 *
 *   - Weights lie in as many copies as exceed the last-level cache several times over, and runs take them in turn, for
 *     in a model a weight is not in the cache when its layer's turn comes.
 *   - All contestants of a shape and batch size alternate, in an order that is reversed from round to round, so that a
 *     busy moment of the machine meets all of them.  Ratios are of medians of such turns.
 *   - Limits are measured in the same run with as many threads: reading memory, and the dot product of the instruction
 *     set.  A share of them says how much is left; a speed alone does not.
 *   - Median, 90th percentile and minimum are given: the minimum is what the kernel can do, the difference to the
 *     others is what the machine did.
 */
#ifndef AWQ_APP_BENCH_H
#define AWQ_APP_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "awq.h"
#include "cli.h"

enum {
    BENCH_SHAPES = 32,
    BENCH_BATCHES = 32,
    BENCH_PEAKS = 4,
    BENCH_CONTESTANTS = 32,
    BENCH_COPIES = 64,
    BENCH_NAME = 32
};

/* ---- what is measured with: bench_machine.c, bench_read.c */

struct bench_peak {
    char name[BENCH_NAME];
    double rate; /* operations a second, a multiplication and an addition being two */
};

struct bench_machine {
    awq_device_info device;
    double bandwidth; /* bytes a second: read by all threads, or on CUDA read and written by a copy on the device */
    bool read_ahead;  /* reading was faster with prefetching */
    struct bench_peak peaks[BENCH_PEAKS];
    int peak_count;
};

/* Measure, or measure again and keep the best: other work on the machine can only make it look slower than it is. */
bool bench_bandwidth(awq_context *context, struct bench_machine *machine);
bool bench_read_bandwidth(awq_context *context, struct bench_machine *machine); /* of a CPU */
bool bench_peaks(awq_context *context, struct bench_machine *machine);

/* The peak of what a mode of activations multiplies with; NULL when unknown. */
const struct bench_peak *bench_peak_of(const struct bench_machine *machine, int activation);

/* ---- what is measured */

struct bench_shape {
    int64_t n, k;
};

/* What contestants of one shape share. */
struct bench_problem {
    awq_context *context;
    const struct bench_machine *machine;
    struct bench_shape shape;
    int bits;
    int64_t group_size;
    bool symmetric;
    int32_t dtype; /* of x and y */
    int64_t max_rows;
    int copies; /* of each weight; 0: as bench_copies says */
    awq_weight *weight;
    const awq_tuning *tuning;
    void *x, *y; /* [max_rows][k] and [max_rows][n] of dtype on the device */
};

/* bench_weight.c: "4096x4096,14336x4096" and "1,8,512"; how many there are, or 0 when that is no such list. */
int bench_read_shapes(const char *text, struct bench_shape shapes[BENCH_SHAPES]);
int bench_read_batches(const char *text, int64_t batches[BENCH_BATCHES]);

const char *bench_default_shapes(bool cuda);

/* Random codes of the problem's shape, bits and groups; scales of FP16. */
awq_status bench_random_weight(struct bench_problem *problem);

enum bench_kind {
    BENCH_QUANTIZED, /* this library, the quantised weight */
    BENCH_DENSE,     /* this library, FP16 weights; on CUDA cuBLASLt */
    BENCH_READ,      /* no product: its weight is read and no more */
    BENCH_PEER       /* somebody else */
};

/* Somebody who can do the product.  'run' does it 'runs' times on 'rows' rows and stores the seconds of each. */
struct bench_contestant {
    char name[BENCH_NAME];
    int32_t kernel; /* AWQ_KERNEL_* of the first two kinds */
    enum bench_kind kind;
    int activation;        /* AWQ_ACTIVATION_* */
    uint64_t weight_bytes; /* as held; 0: unknown */
    int copies;
    void *state;
    bool (*run)(void *state, int64_t rows, int64_t runs, double *seconds);
    void (*close)(void *state);
};

/* bench_linear.c: a linear of the library.  *unsupported, with the text of awq_last_error(), when it has no such
 * kernel. */
bool bench_linear_open(const struct bench_problem *problem, enum bench_kind kind, int32_t kernel, int activation,
                       struct bench_contestant *contestant, bool *unsupported);

/* bench_read.c: reads so many bytes on a CPU. */
bool bench_read_open(const struct bench_problem *problem, uint64_t bytes, struct bench_contestant *contestant);

/* How many copies of so many bytes exceed the last-level cache well. */
int bench_copies(const struct bench_machine *machine, uint64_t bytes);

/* bench_blas.c: OpenBLAS's SGEMM with FP32 weights.  False without a message when the library is not there. */
bool bench_blas_open(const struct bench_problem *problem, struct bench_contestant *contestant);

/* bench_peer.c: a program that speaks the protocol described there. */
struct bench_peer;
struct bench_peer *bench_peer_start(const char *command);
bool bench_peer_open(struct bench_peer *peer, const struct bench_problem *problem, struct bench_contestant *contestant);
void bench_peer_stop(struct bench_peer *peer);

/* ---- what comes out */

struct bench_times {
    double p50, p90, minimum; /* seconds */
    int64_t samples;
};

/* Sorts the seconds. */
struct bench_times bench_summarize(double *seconds, int64_t count);

/* One contestant at one shape and batch size. */
struct bench_line {
    struct bench_shape shape;
    int64_t rows;
    char name[BENCH_NAME];
    enum bench_kind kind;
    int activation;
    uint64_t weight_bytes;
    int copies;
    double bytes; /* that must move: the weight, x and y */
    double flops;
    struct bench_times times;
    bool fastest; /* of the quantised ones of its shape and batch size */
};

struct bench_report {
    struct bench_machine machine;
    int bits;
    int64_t group_size;
    bool symmetric;
    int32_t dtype;
    struct bench_line *lines; /* by shape, then by batch size */
    size_t count, capacity;
};

/* bench_report.c */
bool bench_report_add(struct bench_report *report, const struct bench_line *line);
void bench_report_free(struct bench_report *report);

/* Mark the fastest of each group, and on CUDA take the best rate of cuBLASLt for the device's peak. */
void bench_report_finish(struct bench_report *report);

/* Lines of one shape and batch size that follow 'first'; the index behind them. */
size_t bench_group_end(const struct bench_report *report, size_t first);

/* "default", "exact", ..: AWQ_ACTIVATION_*. */
const char *bench_activation_name(int activation);

/* Figures that others published for a device that few have, shown for comparison and never as measured. */
struct bench_published {
    struct bench_shape shape;
    int64_t rows;
    double seconds;
    const char *name, *device, *source;
};

/* The index'th one, or NULL. */
const struct bench_published *bench_published_at(size_t index);

/* bench_table.c: to stdout, as it grows: the head, and the lines from 'first' on, which are of one shape. */
void bench_print_head(const struct bench_report *report);
void bench_print_shape(const struct bench_report *report, size_t first);

/* bench_json.c, bench_svg.c */
bool bench_write_json(const struct bench_report *report, const char *path);
bool bench_write_svg(const struct bench_report *report, const char *path);

#endif
