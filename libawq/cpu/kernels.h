/* Weights as the CPU kernels want them, and the kernels themselves.
 *
 * The outputs of a linear are cut into panels of AWQI_PANEL.  Within a panel the inputs follow each other, and for each
 * input (or word of codes) the outputs lie side by side, so that a vector register holds one input's weights for
 * several outputs and every kernel, whatever the width of its registers, reads the same memory in order. */
#ifndef AWQI_CPU_KERNELS_H
#define AWQI_CPU_KERNELS_H

#include "cpu.h"

enum {
    AWQI_PANEL = 32,  /* outputs per panel */
    AWQI_STRIP = 12,  /* rows of x per strip: 12 x 32 sums fill 24 of AVX-512's registers */
    AWQI_DEPTH = 128, /* inputs per block: a block of a panel in F32, 16 KB, stays in the first-level cache */
    AWQI_GEMV_ROWS = 8
};

/* One weight in panels: dense when 'dtype' is set, else codes. */
struct awqi_panels {
    int64_t n, k;    /* n counts the rows of W, gate and up both */
    int64_t panels;  /* outputs of the last one may be padding, of zeros */
    bool paired;     /* each panel holds 16 gate rows, then the 16 up rows that go with them */
    int32_t dtype;   /* F32, F16 or BF16; 0: codes */
    int32_t width;   /* bits that a code takes in 'codes': 2, 4 or 8 (3 in 4) */
    int64_t group_size, groups;
    int64_t group_words;  /* words of codes per group; every group begins at a word */
    int64_t panel_words;  /* words per panel, the last group's being only as many as it needs */
    void *values;     /* [panels][k][PANEL] of dtype */
    uint32_t *codes;  /* [panels][panel_words][PANEL], a word holding 32 / width inputs, lowest bits first */
    float *scales;    /* [panels][groups][PANEL] */
    uint8_t *zeros;   /* [panels][groups][PANEL]; the middle code when the weight is symmetric */
    uint64_t size_bytes; /* of the four arrays */
};

/* The loops that depend on the instruction set.  Every sum runs over the inputs in ascending order, so that an output
 * does not depend on which rows and columns were computed beside it. */
struct awqi_cpu_kernels {
    uint32_t features; /* AWQ_CPU_* that it needs */
    const char *name;
    /* c[STRIP][PANEL] += a[depth][STRIP]^T b[depth][PANEL] */
    void (*tile)(int64_t depth, const float *a, const float *b, float *c);
    /* b[count][PANEL] = the weights of inputs first .. first + count - 1 of a panel, (q - z) s in F32 */
    void (*unpack)(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b);
    /* out[rows][PANEL] = x[rows][k] times the panel; rows <= GEMV_ROWS */
    void (*gemv)(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out);
};

extern const struct awqi_cpu_kernels awqi_cpu_kernels_ref, awqi_cpu_kernels_base, awqi_cpu_kernels_avx2,
    awqi_cpu_kernels_avx512;

/* ---- kernels.c */

/* Entry 'index' of the table, in ascending order; NULL past its end. */
const struct awqi_cpu_kernels *awqi_cpu_kernels_at(size_t index);

/* The best kernels for a set of features. */
const struct awqi_cpu_kernels *awqi_cpu_kernels_for(uint32_t features);

/* ---- panels.c */

/* Lay a weight out; 'paired' as above.  One of 'weight' and 'dense' is NULL. */
awq_status awqi_panels_create(awq_context *context, const awq_weight *weight, const awq_tensor *dense, bool paired,
                              struct awqi_panels *panels);
void awqi_panels_destroy(awq_context *context, struct awqi_panels *panels);

/* The row of W that column 'column' of panel 'panel' stands for, or -1 for padding. */
int64_t awqi_panel_row(const struct awqi_panels *w, int64_t panel, int64_t column);

/* One weight, (q - z) s or as it was given. */
float awqi_panel_weight(const struct awqi_panels *w, int64_t panel, int64_t column, int64_t input);

/* ---- gemm.c */

enum {
    AWQI_PASS_ROWS = 384, /* rows of x that are held in strips at a time, which bounds the workspace */
    AWQI_TASK_ROWS = 192  /* rows per task: enough to make unpacking a block of weights cheap beside using it */
};

/* Gives inputs first .. first + count - 1 of a panel as [count][PANEL], in 'b' or where they already lie. */
typedef const float *(*awqi_block_function)(const void *source, int64_t panel, int64_t first, int64_t count, float *b);

/* c[strips * STRIP][PANEL] = strips of x times one panel; strips * STRIP <= TASK_ROWS.  'x' is [strips][k][STRIP]. */
void awqi_gemm_panel(const struct awqi_cpu_kernels *kernels, const float *x, int64_t strips, int64_t k,
                     awqi_block_function block, const void *source, int64_t panel, float *c);

/* ---- product_norm.c */

awq_status awqi_cpu_product_norm(void *device, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k,
                                 double *sum);

#endif /* AWQI_CPU_KERNELS_H */
