/* The seam: what a device must be able to do.
 *
 * A backend is a versioned table of whole operations.  The core validates arguments, owns handles and files, and never
 * looks inside a device; a backend computes, and never asks a search, a format or a file.  The CPU backend is linked in;
 * others are shared objects that export awqi_backend_get and are loaded when a context first asks for them. */
#ifndef AWQI_BACKEND_H
#define AWQI_BACKEND_H

#include "scaled.h"
#include "tuning.h"
#include "weight.h"

/* Raised whenever this table or a struct it passes changes. */
#define AWQI_BACKEND_ABI 7u

/* What the core lends a backend that is not linked with it. */
struct awqi_host {
    uint32_t abi;
    uint32_t reserved;
    awq_status (*fail)(awq_status status, const char *format, ...);
    void (*log)(awq_context *context, int32_t level, const char *format, ...);
    void (*parallel_for)(awq_context *context, int64_t count, awq_task_callback task, void *user_data);
    /* awq_pack, awq_packed_get_plane, awq_packed_destroy and awq_kernel_select: one converter of layouts and one table of
     * choices serve every backend. */
    awq_status (*pack)(awq_context *context, const awq_weight *weight, int32_t layout, awq_packed **packed);
    awq_status (*get_plane)(const awq_packed *packed, size_t index, const char **name, awq_tensor *view);
    void (*release_packed)(awq_packed *packed);
    awq_status (*kernel_select)(const awq_device_info *device, const awq_kernel_request *request, int32_t *kernel,
                                char *buffer, size_t capacity, size_t *length);
};

/* Column sums of |x| and x^2 in two-double precision, and the largest |x|: arrays of one entry per channel. */
struct awqi_channel_sums {
    double *abs_high, *abs_low;
    double *square_high, *square_low;
    double *max_abs;
};

/* What there is to know of a row before it counts. */
struct awqi_row_scan {
    uint64_t hash;       /* of its contents, as row_sample.h has it */
    int64_t bad_channel; /* the first that is not finite, or -1 */
};

/* Quantise w times its column scales group by group.  Outputs that are NULL are not wanted. */
struct awqi_quantize_job {
    const awq_tensor *w;      /* F32, F16 or BF16 [N][K], finite */
    const float *input_scale; /* [K], or NULL for ones */
    const float *clip;        /* [N][groups], or NULL */
    struct awqi_quantizer quantizer;
    uint8_t *codes;     /* [N][K], one per byte, symmetric codes plus 2^(bits-1) */
    float *scales;      /* [N][groups], already rounded to scale_dtype */
    uint8_t *zeros;     /* [N][groups]; 2^(bits-1) when symmetric */
    float *dequantized; /* [N][K] on the device: (q - z) s; divided by input_scale when 'unscale' */
    bool unscale;
    uint64_t clamped_scales, zero_groups; /* results */
};

/* Squared errors of the outputs' parts.  With R the root of a group g (clip_search.c) and e the differences of one output
 * in that group, squares[n][g] = |R e|^2. */
struct awqi_group_norms_job {
    const float *roots;       /* on the device; of group g at root_stride g group_size: [root_stride][width of g] */
    int64_t root_stride;      /* even; rows that a root has room for, zeros where it has fewer */
    int64_t rows;             /* of a root */
    bool reduced;             /* those of groups narrower than 'rows' are triangular, with as many rows as columns */
    const float *differences; /* [n][k] on the device */
    int64_t n, k, group_size;
    double *squares; /* [n][groups] */
};

/* Choose ranges and codes of w s by what the outputs lose, in the EXACT profile.  Everything is in host memory. */
struct awqi_refine_job {
    const struct awqi_scaled *scaled; /* finite; a scale of 0 makes a column that is left out */
    struct awqi_quantizer quantizer;
    int32_t range;         /* AWQ_RANGE_* */
    const double *squares; /* [K] sums of x^2, which weigh columns where 'root' is NULL; NULL: ones */
    const float *root;     /* [K][K] of X^T X with damping: feedback from the last column to the first; NULL: none */
    const double *gram;    /* [K][K] X^T X: descent afterwards; NULL: none */
    double damping;        /* that 'root' has, in proportion to each diagonal element */
    const float *clip;     /* [N][groups], or NULL */
    uint8_t *codes;        /* as in awqi_quantize_job */
    float *scales;
    uint8_t *zeros;
    uint64_t clamped_scales, zero_groups; /* results */
};

/* One linear to prepare: quantised ('weight') or dense ('dense'), never both. */
struct awqi_linear_spec {
    const awq_weight *weight;
    const awq_tensor *dense; /* F32, F16 or BF16 [N][K] */
    const awq_tensor *bias;  /* [N] or NULL */
    const awq_tuning *tuning;
    uint32_t flags;     /* AWQ_LINEAR_* */
    int32_t activation; /* AWQ_ACTIVATION_* */
    int32_t kernel;     /* AWQ_KERNEL_*, forced, or AUTO */
};

/* One run, arguments checked: x, y and residual have contiguous last dimensions and 'rows' rows. */
struct awqi_linear_job {
    const awq_tensor *x;
    awq_tensor *y;
    const awq_tensor *residual;
    const awq_tensor *norm_weight;
    double norm_epsilon;
    int64_t rows;
    void *stream;
    void *workspace; /* linear_workspace() bytes, aligned to 256 */
};

struct awqi_backend {
    uint32_t abi; /* AWQI_BACKEND_ABI */
    uint32_t kernels; /* version of the kernel table, which a tuning remembers */
    const char *name;

    awq_status (*open)(awq_context *context, int32_t device_id, void **device);
    void (*close)(void *device);
    awq_status (*get_info)(void *device, awq_device_info *info); /* struct_size set by the core */
    awq_status (*allocate)(void *device, uint64_t size_bytes, void **memory);
    void (*release)(void *device, void *memory);
    awq_status (*copy)(void *device, const awq_tensor *src, awq_tensor *dst, void *stream); /* converts */
    awq_status (*synchronize)(void *device, void *stream);
    /* awq_context_time, arguments checked. */
    awq_status (*time)(void *device, awq_work_callback work, void *user_data, int64_t runs, double *seconds);

    /* Calibration, search and quantisation.  What is large lies where the device computes: 'x' and 'w', on another device
     * than the CPU as matrices [rows][columns] with neighbouring columns, and what is said to be on the device.  What
     * there is one of for a channel, a row or a group, and codes, are in host memory, and there on return; what lies on
     * the device follows in the order of the default stream. */

    /* scans[rows] of x[..][channels]; weights[rows] or NULL for ones.  A row of weight 0 is not even read, and its scan
     * undefined: it may hold NaNs.  'seed' is that of the hashes; NULL: they are not wanted. */
    awq_status (*scan_rows)(void *device, const awq_tensor *x, const float *weights, const uint64_t *seed,
                            struct awqi_row_scan *scans);
    /* values[count][channels] = the chosen rows of x. */
    awq_status (*gather_rows)(void *device, const awq_tensor *x, const int64_t *rows, int64_t count, float *values);
    /* Add the rows of x, as far as they count, to the sums. */
    awq_status (*accumulate)(void *device, const awq_tensor *x, const float *weights, struct awqi_channel_sums *sums);
    /* gram[channels][channels] += X^T diag(weights) X, in double, on the device. */
    awq_status (*accumulate_gram)(void *device, const awq_tensor *x, const float *weights, double *gram);

    /* *index = row * K + column of the first element of w s that is not finite, or -1. */
    awq_status (*find_non_finite)(void *device, const struct awqi_scaled *scaled, int64_t *index);
    /* largest[n][groups] = max|w s| of each group. */
    awq_status (*group_max)(void *device, const struct awqi_scaled *scaled, int64_t group_size, float *largest);
    /* sums[K] += |w| / (max|w| of its group + 1e-6), over the outputs. */
    awq_status (*add_shares)(void *device, const awq_tensor *w, int64_t group_size, double *sums);
    awq_status (*quantize)(void *device, struct awqi_quantize_job *job);
    /* values[n][k] = w s - values, on the device. */
    awq_status (*subtract)(void *device, const struct awqi_scaled *scaled, float *values);
    /* values[n][k] = F16(w s) / s in 'count' columns, on the device; the others stay.  There are scales. */
    awq_status (*keep_columns)(void *device, const struct awqi_scaled *scaled, const int32_t *columns, int64_t count,
                               float *values);
    /* *sum = sum over rows of x[rows][k] and outputs of delta[n][k], both on the device, of (x delta^T)^2, accumulated in
     * double. */
    awq_status (*product_norm)(void *device, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k,
                               double *sum);
    awq_status (*group_norms)(void *device, const struct awqi_group_norms_job *job);
    /* NULL in a backend that leaves it to the processor. */
    awq_status (*refine)(void *device, struct awqi_refine_job *job);

    awq_status (*linear_prepare)(void *device, const struct awqi_linear_spec *spec, void **prepared);
    void (*linear_release)(void *device, void *prepared);
    uint64_t (*linear_size)(void *device, const void *prepared); /* bytes held */
    uint64_t (*linear_workspace)(void *device, const void *prepared, int64_t max_rows);
    awq_status (*linear_run)(void *device, const void *prepared, const struct awqi_linear_job *job);
    /* The kernel 'prepared' takes for that many rows, and the text of awq_linear_describe. */
    int32_t (*linear_choose)(void *device, const void *prepared, int64_t rows, char *buffer, size_t capacity,
                             size_t *length);
};

extern const struct awqi_backend awqi_cpu_backend;

typedef const struct awqi_backend *(*awqi_backend_get_function)(const struct awqi_host *host);

/* The backend for a device type: linked in, or loaded once per process.  *backend is never unloaded. */
awq_status awqi_backend_find(int32_t device_type, const struct awqi_backend **backend);

#endif /* AWQI_BACKEND_H */
