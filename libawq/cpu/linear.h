/* A linear prepared for the CPU. */
#ifndef AWQI_CPU_LINEAR_H
#define AWQI_CPU_LINEAR_H

#include "kernels.h"

struct awqi_cpu_linear {
    bool dense;
    struct awqi_columns columns;
    int64_t k;
    struct awqi_stream stream; /* one of them is empty */
    struct awqi_panels panels;
    int32_t activation;    /* as asked for */
    float *input_scale;    /* [k]; NULL: ones */
    float *bias;           /* [panels][PANEL]; NULL: none */
    uint64_t size_bytes;   /* of all that is held */
    int32_t kernel;        /* forced, or AWQ_KERNEL_AUTO */
    const awq_tuning *tuning;
    awq_kernel_request request; /* all but the rows */
};

/* Floats of a row as it is loaded: its own, and room for groups filled up. */
int64_t awqi_linear_row_floats(const struct awqi_cpu_linear *linear);

/* ---- linear_gemm.c */

enum { AWQI_GEMM_PASS = 512 }; /* rows of x that are held at a time, which bounds the workspace */

/* Rows first .. first + rows - 1 of a job, at most a pass of them, by a quantised weight. */
void awqi_linear_gemm(awq_context *context, const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job,
                      const struct awqi_gemm *gemm, int64_t first, int64_t rows);
uint64_t awqi_linear_gemm_workspace(const struct awqi_cpu_linear *linear, const struct awqi_gemm *gemm, int64_t rows);

/* ---- linear_rows.c */

/* Row 'row' of x as the product wants it, in single precision: normalised, divided by the input scale.  Element j goes
 * to out[j * step]. */
void awqi_linear_load_row(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                          float *out, int64_t step);

/* The sums [PANEL] of one row and panel become outputs: bias, gate, residual, and one rounding to y's dtype. */
void awqi_linear_store_panel(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                             int64_t panel, const float *sums);

#endif /* AWQI_CPU_LINEAR_H */
