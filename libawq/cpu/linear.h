/* A linear prepared for the CPU. */
#ifndef AWQI_CPU_LINEAR_H
#define AWQI_CPU_LINEAR_H

#include "kernels.h"

/* Columns whose weights have a part in FP16. */
struct awqi_linear_salient {
    int64_t count;    /* 0: none */
    int32_t *columns; /* [count] */
    struct awqi_panels panels; /* [N][count] */
};

struct awqi_cpu_linear {
    bool dense;
    struct awqi_columns columns;
    int64_t k;
    struct awqi_stream stream; /* one of them is empty */
    struct awqi_panels panels;
    struct awqi_linear_salient salient;
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

/* Rows first .. first + rows - 1 of a job, and the workspace for them. */
struct awqi_linear_pass {
    const struct awqi_cpu_linear *linear;
    const struct awqi_linear_job *job;
    const struct awqi_cpu_kernels *kernels; /* for salient columns */
    int64_t first, rows;
    float *salient; /* [rows][salient.count] */
    void *memory;   /* awqi_linear_gemm_workspace() bytes */
};

/* At most AWQI_GEMM_PASS rows by a quantised weight. */
void awqi_linear_gemm(awq_context *context, const struct awqi_linear_pass *pass, const struct awqi_gemm *gemm);
uint64_t awqi_linear_gemm_workspace(const struct awqi_cpu_linear *linear, const struct awqi_gemm *gemm, int64_t rows);

/* ---- linear_rows.c */

/* Row 'row' of x as the product wants it, in single precision: normalised, divided by the input scale.  Element j goes
 * to out[j * step]. */
void awqi_linear_load_row(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                          float *out, int64_t step);

/* The sums [PANEL] of one row and panel become outputs: bias, gate, residual, and one rounding to y's dtype. */
void awqi_linear_store_panel(const struct awqi_cpu_linear *linear, const struct awqi_linear_job *job, int64_t row,
                             int64_t panel, const float *sums);

/* ---- salient.c */

awq_status awqi_linear_salient_create(awq_context *context, const awq_weight *weight, bool paired,
                                      struct awqi_linear_salient *salient);
void awqi_linear_salient_destroy(awq_context *context, struct awqi_linear_salient *salient);
uint64_t awqi_linear_salient_size(const struct awqi_linear_salient *salient); /* bytes held */

/* Bytes of workspace for what 'rows' rows of x hold in salient columns, a multiple of 64. */
uint64_t awqi_linear_salient_bytes(const struct awqi_linear_salient *salient, int64_t rows);

/* kept[count] = what a loaded row holds in the salient columns; element j of it is x[j * step]. */
void awqi_linear_salient_keep(const struct awqi_linear_salient *salient, const float *x, int64_t step, float *kept);

/* Add the salient columns' part to sums[rows][PANEL] of one panel; kept[rows][count]. */
void awqi_linear_salient_add(const struct awqi_linear_salient *salient, const struct awqi_cpu_kernels *kernels,
                             const float *kept, int64_t panel, int64_t rows, float *sums);

#endif /* AWQI_CPU_LINEAR_H */
