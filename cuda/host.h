/* What the files of the backend's host side share. */
#ifndef AWQ_CUDA_HOST_H
#define AWQ_CUDA_HOST_H

#include "backend.h"
#include "matrix.h"
#include "product.h"

#include <pthread.h>
#include <stdlib.h>

/* Whether the build has machine code that uses what compute capability 9.0 alone has. */
#ifndef CUDA_HAS_90A
#define CUDA_HAS_90A 0
#endif

/* What choosing a configuration depends on, besides the product. */
struct cuda_facts {
    int32_t capability; /* 10 * major + minor */
    int32_t multiprocessors;
    int32_t shared_block;          /* shared memory a block may have, in bytes */
    int32_t shared_multiprocessor; /* and all blocks of a multiprocessor */
};

struct cuda_blas;

struct cuda_device {
    awq_context *context; /* borrowed: the context owns the device */
    int32_t id;
    awq_device_info info;
    struct cuda_facts facts;
    struct cuda_blas *blas; /* NULL: missing, and why */
    char blas_missing[256];
    pthread_mutex_t scratch_lock; /* of what follows */
    void *scratch;                /* kept between operations; NULL: none, or in use */
    uint64_t scratch_bytes;
};

struct cuda_linear {
    struct cuda_weight weight;
    void *memory; /* of all its planes */
    uint64_t size_bytes;
    int32_t kernel; /* forced, or AWQ_KERNEL_AUTO */
    const awq_tuning *tuning;
    awq_kernel_request request; /* all but rows and dtype */
};

static inline size_t awqi_cuda_element_size(int32_t dtype)
{
    switch (dtype) {
    case AWQ_F16:
    case AWQ_BF16:
    case AWQ_U16:
    case AWQ_I16: return 2;
    case AWQ_F32:
    case AWQ_U32:
    case AWQ_I32: return 4;
    case AWQ_U64:
    case AWQ_I64:
    case AWQ_F64: return 8;
    default: return 1;
    }
}

/* What begins behind 'bytes' bytes begins at a multiple of 256. */
static inline uint64_t awqi_cuda_align(uint64_t bytes)
{
    return (bytes + 255u) / 256u * 256u;
}

/* ---- backend.c */

extern const struct awqi_host *awqi_cuda_host;

/* AWQ_OK, or a status and a text of what the runtime refused while doing 'what'. */
awq_status awqi_cuda_check(cudaError_t error, const char *what);

/* Make the device current for this thread, and what was current before again. */
awq_status awqi_cuda_enter(const struct cuda_device *device, int *previous);
void awqi_cuda_leave(int previous);

/* ---- plan.c: descriptions to configurations, without a device */

/* The type that x is rounded to: AWQ_F16, AWQ_BF16, or AWQ_F32 for not at all. */
int32_t awqi_cuda_compute_dtype(const struct cuda_facts *facts, int32_t activation, int32_t x_dtype);

/* Whether 'kernel' takes such a weight; if not, *reason says why. */
bool awqi_cuda_takes(const struct cuda_weight *weight, int32_t kernel, int32_t dtype, const char **reason);

/* How a kernel that takes the weight runs for that many rows. */
void awqi_cuda_plan(const struct cuda_facts *facts, const struct cuda_weight *weight, int32_t kernel, int32_t dtype,
                    int64_t rows, struct cuda_config *config);
uint64_t awqi_cuda_plan_workspace(const struct cuda_config *config);

/* A configuration in words, for awq_linear_describe. */
void awqi_cuda_plan_text(const struct cuda_config *config, char *text, size_t capacity);

/* ---- store.c: weights to device memory */

awq_status awqi_cuda_store(struct cuda_device *device, const struct awqi_linear_spec *spec, struct cuda_linear *linear);

/* ---- cublaslt.c */

/* y[rows][columns] = x[rows][inputs] w[columns][inputs]^T on the device, summed in single precision; pointers and
 * strides in bytes are multiples of 16. */
struct cuda_dense {
    const void *w, *x;
    void *y, *workspace;
    uint64_t workspace_bytes;
    int64_t rows, columns, inputs;
    int64_t w_stride, x_stride, y_stride; /* in elements */
    int32_t dtype, y_dtype;               /* of w and x, of y */
};

/* *blas is NULL where the library is missing, and 'missing' says why. */
void awqi_cuda_blas_open(struct cuda_blas **blas, char *missing, size_t capacity);
void awqi_cuda_blas_close(struct cuda_blas *blas);
awq_status awqi_cuda_blas_product(struct cuda_blas *blas, const struct cuda_dense *dense, cudaStream_t stream);

/* ---- linear.c */

awq_status awqi_cuda_linear_prepare(void *device, const struct awqi_linear_spec *spec, void **prepared);
void awqi_cuda_linear_release(void *device, void *prepared);
uint64_t awqi_cuda_linear_size(void *device, const void *prepared);
uint64_t awqi_cuda_linear_workspace(void *device, const void *prepared, int64_t max_rows);
awq_status awqi_cuda_linear_run(void *device, const void *prepared, const struct awqi_linear_job *job);
int32_t awqi_cuda_linear_choose(void *device, const void *prepared, int64_t rows, char *buffer, size_t capacity,
                                size_t *length);

void awqi_cuda_seed_nonces(void); /* with the time, whenever a device is opened */

/* ---- scratch.c: one operation on the default stream and the memory that it needs for the time being */

struct cuda_work {
    struct cuda_device *device;
    unsigned char *memory;
    uint64_t bytes, used;
    int previous;      /* device of this thread */
    cudaError_t error; /* the first */
};

/* Enter the device with 'bytes' bytes to carve, each part counted as awqi_cuda_align rounds it. */
awq_status awqi_cuda_begin(struct cuda_device *device, uint64_t bytes, struct cuda_work *work);
void *awqi_cuda_carve(struct cuda_work *work, uint64_t bytes);
void *awqi_cuda_carve_copy(struct cuda_work *work, const void *host, uint64_t bytes); /* NULL for NULL */
/* Wait for what was enqueued, and copy host[bytes] from the device; nothing for NULL. */
void awqi_cuda_fetch(struct cuda_work *work, void *host, const void *part, uint64_t bytes);
/* Leave the device.  'status', or what work->error says of doing 'what'. */
awq_status awqi_cuda_end(struct cuda_work *work, awq_status status, const char *what);

/* ---- calibrate.c, quantize.c: operations of the seam */

struct cuda_matrix awqi_cuda_matrix(const awq_tensor *tensor);
awq_status awqi_cuda_scan_rows(void *device, const awq_tensor *x, const float *weights, const uint64_t *seed,
                               struct awqi_row_scan *scans);
awq_status awqi_cuda_gather_rows(void *device, const awq_tensor *x, const int64_t *rows, int64_t count, float *values);
awq_status awqi_cuda_accumulate(void *device, const awq_tensor *x, const float *weights,
                                struct awqi_channel_sums *sums);
awq_status awqi_cuda_accumulate_gram(void *device, const awq_tensor *x, const float *weights, double *gram);
awq_status awqi_cuda_find_non_finite(void *device, const struct awqi_scaled *scaled, int64_t *index);
awq_status awqi_cuda_group_max(void *device, const struct awqi_scaled *scaled, int64_t group_size, float *largest);
awq_status awqi_cuda_add_shares(void *device, const awq_tensor *w, int64_t group_size, double *sums);
awq_status awqi_cuda_quantize(void *device, struct awqi_quantize_job *job);
awq_status awqi_cuda_subtract(void *device, const struct awqi_scaled *scaled, float *values);
awq_status awqi_cuda_keep_columns(void *device, const struct awqi_scaled *scaled, const int32_t *columns, int64_t count,
                                  float *values);
awq_status awqi_cuda_product_norm(void *device, const float *x, int64_t rows, const float *delta, int64_t n, int64_t k,
                                  double *sum);
awq_status awqi_cuda_group_norms(void *device, const struct awqi_group_norms_job *job);

/* ---- tensor.c */

awq_status awqi_cuda_copy(void *device, const awq_tensor *src, awq_tensor *dst, void *stream);

/* ---- time.c */

awq_status awqi_cuda_time(void *device, awq_work_callback work, void *user_data, int64_t runs, double *seconds);

#endif /* AWQ_CUDA_HOST_H */
