/* The golden runner: arrays that other AWQ implementations produced, compared with what libawq computes.
 *
 * A manifest.json lists cases; a case names a section, parameters, input files, and output files each with a tolerance.
 * Every section has one handler, entered in the table of golden.c.  A handler computes, and hands each result to
 * golden_compare, or judges it itself after golden_expected; a case of which an output was left out fails. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "awq.h"
#include "npy.h"

#include <jansson.h>
#include <stdbool.h>

struct golden_case;

/* Work through one case.  What it reports with golden_fail or golden_skip decides the outcome: failed, else skipped,
 * else passed. */
typedef void (*golden_handler)(struct golden_case *test);

void golden_pseudo_quantize(struct golden_case *test); /* golden_quantize.c */
void golden_layout(struct golden_case *test);          /* golden_layout.c */
void golden_dequant_matmul(struct golden_case *test);
void golden_scale_search(struct golden_case *test); /* golden_search.c */
void golden_clip_search(struct golden_case *test);
void golden_fold(struct golden_case *test); /* golden_fold.c */

/* The runner's context: the CPU, as many threads as there are. */
awq_context *golden_context(const struct golden_case *test);

const char *golden_id(const struct golden_case *test);
const char *golden_peer(const struct golden_case *test);     /* "AutoAWQ", .. */
const char *golden_function(const struct golden_case *test); /* what of the peer was run */

/* A parameter of the case, or 'fallback' when it has none of that name or type. */
const json_t *golden_param(const struct golden_case *test, const char *name); /* NULL when missing */
int64_t golden_integer(const struct golden_case *test, const char *name, int64_t fallback);
double golden_number(const struct golden_case *test, const char *name, double fallback);
bool golden_flag(const struct golden_case *test, const char *name);
const char *golden_string(const struct golden_case *test, const char *name, const char *fallback);

/* The hexadecimal SHA-256 that the case's "checks" hold under 'name', or NULL. */
const char *golden_checksum(const struct golden_case *test, const char *name);

bool golden_has_input(const struct golden_case *test, const char *name);
bool golden_has_output(const struct golden_case *test, const char *name);

/* An input file as a read-only tensor that lives as long as the case.  NULL after a reported failure. */
const awq_tensor *golden_input(struct golden_case *test, const char *name);

/* The same for an expected output, which then counts as looked at. */
const awq_tensor *golden_expected(struct golden_case *test, const char *name);
const json_t *golden_tolerance(const struct golden_case *test, const char *name);

/* Zeroed memory that lives as long as the case, and a writable tensor in such memory.  Never NULL. */
void *golden_allocate(struct golden_case *test, size_t size);
awq_tensor *golden_tensor(struct golden_case *test, int32_t dtype, int32_t ndim, const int64_t *shape);
awq_tensor *golden_matrix(struct golden_case *test, int32_t dtype, int64_t rows, int64_t columns);

/* Compare 'actual' (contiguous) with output 'name' under its tolerance, of kind exact or rel: by value, whatever the
 * dtypes; the shapes must agree but for extents of 1.  Does nothing when the case has no such output. */
void golden_compare(struct golden_case *test, const char *name, const awq_tensor *actual);

/* Compare the SHA-256 of 'size' bytes with golden_checksum(name); nothing when the case has none of that name. */
void golden_compare_checksum(struct golden_case *test, const char *name, const void *bytes, size_t size);

/* Report a failure on one line; a skip, whose reason is printed once per reason and section. */
void golden_fail(struct golden_case *test, const char *format, ...) __attribute__((format(printf, 2, 3)));
void golden_skip(struct golden_case *test, const char *reason);

/* True for AWQ_OK; otherwise reports 'what' with awq_last_error(). */
bool golden_ok(struct golden_case *test, awq_status status, const char *what);

#endif /* GOLDEN_H */
