/* Weights as the CPU kernels want them, and the kernels themselves.
 *
 * The outputs of a linear are cut into panels of AWQI_PANEL.  Within a panel the inputs follow each other, and for each
 * input (or word of codes) the outputs lie side by side, so that a vector register holds one input's weights for
 * several outputs and every kernel, whatever the width of its registers, reads the same memory in order.
 *
 * Quantised weights are a stream (layout/cpu_stream.c), of which a panel is two neighbouring blocks; dense ones are
 * panels of numbers. */
#ifndef AWQI_CPU_KERNELS_H
#define AWQI_CPU_KERNELS_H

#include "../layout/cpu_stream.h"
#include "cpu.h"
#include "refine.h"

enum {
    AWQI_PANEL = 32,  /* outputs per panel */
    AWQI_PANEL_BLOCKS = AWQI_PANEL / AWQI_STREAM_OUTPUTS,
    AWQI_STRIP = 12,  /* rows of x per strip: 12 x 32 sums fill 24 of AVX-512's registers */
    AWQI_DEPTH = 128, /* inputs per block: a block of a panel in F32, 16 KB, stays in the first-level cache */
    AWQI_GEMV_ROWS = 8,
    AWQI_STRIP_ROWS = 16 /* of a strip for a stream */
};

/* Which row of W is which column of which panel. */
struct awqi_columns {
    int64_t n;      /* rows of W, gate and up both */
    int64_t panels; /* outputs of the last one may be padding, of zeros */
    bool paired;    /* each panel holds 16 gate rows, then the 16 up rows that go with them */
};

/* A quantised weight. */
struct awqi_stream {
    struct awqi_columns columns;
    int64_t k;
    struct awqi_stream_shape shape;
    uint32_t *words; /* [panels][PANEL_BLOCKS][shape.block_words], aligned to a line */
    uint64_t size_bytes;
};

/* A dense weight. */
struct awqi_panels {
    struct awqi_columns columns;
    int64_t k;
    int32_t dtype; /* F32, F16 or BF16 */
    void *values;  /* [panels][k][PANEL] of dtype */
    uint64_t size_bytes;
};

/* Inputs of a row in stream order: every group is filled up to whole lines. */
static inline int64_t awqi_stream_inputs(const struct awqi_stream *w)
{
    return w->shape.lines * w->shape.line_inputs;
}

/* Block 0 or 1 of a panel. */
static inline const uint32_t *awqi_stream_block(const struct awqi_stream *w, int64_t panel, int64_t block)
{
    return w->words + (panel * AWQI_PANEL_BLOCKS + block) * w->shape.block_words;
}

/* The loops that compute in single precision.  Every sum runs over the inputs in ascending order, so that an output
 * does not depend on which rows and columns were computed beside it. */
struct awqi_cpu_kernels {
    uint32_t features; /* AWQ_CPU_* that it needs */
    const char *name;
    /* c[STRIP][PANEL] += a[depth][STRIP]^T b[depth][PANEL] */
    void (*tile)(int64_t depth, const float *a, const float *b, float *c);
    /* b[count][PANEL] = the weights of inputs first .. first + count - 1 of a panel, (q - z) s in F32 */
    void (*unpack)(const struct awqi_stream *w, int64_t panel, int64_t first, int64_t count, float *b);
    void (*unpack_dense)(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b);
    /* out[rows][PANEL] = x[rows][k] times the panel; rows <= GEMV_ROWS */
    void (*gemv_dense)(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out);
    struct awqi_refine_kernels refine;
};

extern const struct awqi_cpu_kernels awqi_cpu_kernels_ref, awqi_cpu_kernels_base, awqi_cpu_kernels_avx2,
    awqi_cpu_kernels_avx512;

/* A way to multiply few rows by a stream.  Rows of x are brought into a form of its own first, once for all panels. */
struct awqi_gemv {
    const char *name;
    uint32_t features;    /* AWQ_CPU_* that it needs */
    uint32_t activations; /* 1 << AWQ_ACTIVATION_* of the modes whose error bound it keeps */
    /* Bytes of a row in its form, a multiple of 64. */
    int64_t (*row_bytes)(const struct awqi_stream *w);
    /* 'x' is a row in stream order, zeros where groups are filled up; 'row' is aligned to 64 bytes. */
    void (*prepare)(const struct awqi_stream *w, const float *x, void *row);
    /* out[rows][PANEL] = rows of x times the panel; rows <= GEMV_ROWS */
    void (*run)(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out);
};

#define AWQI_ACTIVATIONS_ALL (~0u)

extern const struct awqi_gemv awqi_gemv_ref, awqi_gemv_base, awqi_gemv_avx2, awqi_gemv_avx2_int8,
    awqi_gemv_avx512, awqi_gemv_avx512_vnni, awqi_gemv_avx512_digits, awqi_gemv_avx512_bf16,
    awqi_gemv_neon_dotprod, awqi_gemv_neon_dotprod_digits, awqi_gemv_neon_i8mm, awqi_gemv_neon_i8mm_digits,
    awqi_gemv_neon_bf16;

/* One block by a fixed number of rows, each in its form; out[..][PANEL] gets 16 numbers a row. */
typedef void awqi_gemv_block(const struct awqi_stream *w, const uint32_t *block, const unsigned char *row,
                             float *out);

/* A panel by any number of rows with functions for 1, 2, 4 and 8 of them; those for more may be NULL. */
void awqi_run_blocks(const struct awqi_stream *w, int64_t panel, const unsigned char *rows, int64_t row_bytes,
                     int64_t count, awqi_gemv_block *const functions[4], float *out);

/* A way to multiply many rows by a stream, in strips of 'least' to 'most' rows, which are brought into a form of the
 * kernel's own first, once for all panels. */
struct awqi_gemm {
    const char *name;
    uint32_t features, activations; /* as above */
    int64_t least, most; /* at most AWQI_STRIP_ROWS */
    int64_t (*row_bytes)(const struct awqi_stream *w); /* of a strip, for each row */
    /* Put a row in stream order, zeros where groups are filled up, into a strip of 'rows' rows as its row 'row'. */
    void (*prepare)(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip);
    /* out[rows][PANEL] = a strip times the panel */
    void (*run)(const struct awqi_stream *w, int64_t panel, const void *strip, int64_t rows, float *out);
};

extern const struct awqi_gemm awqi_gemm_avx2_int8, awqi_gemm_avx512, awqi_gemm_avx512_bf16, awqi_gemm_avx512_split,
    awqi_gemm_avx512_vnni, awqi_gemm_neon_dotprod, awqi_gemm_neon_dotprod_digits, awqi_gemm_neon_i8mm,
    awqi_gemm_neon_i8mm_digits, awqi_gemm_neon_bf16;

/* ---- kernels.c */

/* Entry 'index' of the table, in ascending order; NULL past its end. */
const struct awqi_cpu_kernels *awqi_cpu_kernels_at(size_t index);
const struct awqi_gemv *awqi_gemv_at(size_t index);
const struct awqi_gemm *awqi_gemm_at(size_t index);

/* The best kernels for a set of features. */
const struct awqi_cpu_kernels *awqi_cpu_kernels_for(uint32_t features);

/* The best for a mode of activations, which must not be DEFAULT. */
const struct awqi_gemv *awqi_gemv_for(uint32_t features, int32_t activation);

/* The same, or NULL when weights are to be unpacked for awqi_gemm_panel. */
const struct awqi_gemm *awqi_gemm_for(uint32_t features, int32_t activation);

/* ---- stream.c, panels.c */

/* The row of W that column 'column' of panel 'panel' stands for, or -1 for padding. */
int64_t awqi_column_row(const struct awqi_columns *columns, int64_t panel, int64_t column);
struct awqi_columns awqi_columns_of(int64_t n, bool paired);

awq_status awqi_stream_create(awq_context *context, const awq_weight *weight, bool paired, struct awqi_stream *stream);
void awqi_stream_destroy(awq_context *context, struct awqi_stream *stream);

/* One weight, (q - z) s. */
float awqi_stream_weight(const struct awqi_stream *w, int64_t panel, int64_t column, int64_t input);

/* A row of x [k] at the beginning of x [inputs] takes its stream order in place. */
void awqi_stream_order(const struct awqi_stream *w, float *x);

awq_status awqi_panels_create(awq_context *context, const awq_tensor *dense, bool paired, struct awqi_panels *panels);
void awqi_panels_destroy(awq_context *context, struct awqi_panels *panels);
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
