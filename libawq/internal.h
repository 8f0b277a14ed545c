/* What the core's files share: errors, sized structs, memory, threads, tensors and numbers.
 *
 * Names that begin with awqi_ are internal: hidden in libawq.so, reachable by tests through libawq.a. */
#ifndef AWQI_INTERNAL_H
#define AWQI_INTERNAL_H

#include "awq.h"

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

struct awqi_backend;
struct awqi_pool;

/* ---- status.c */

/* Record the text of awq_last_error() and return 'status', so that a check is one line:
 *     return awqi_fail(AWQ_ERROR_INVALID, "w: %d dimensions where 2 are needed", ndim);
 * Arguments may point into the previous text. */
awq_status awqi_fail(awq_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Put "context: " in front of the text of the failure just recorded; returns 'status'. */
awq_status awqi_fail_in(awq_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- structs.c */

/* Import a caller's options struct into 'known' (known_size bytes): NULL or short ones are zero-extended, longer
 * ones accepted when their tail is zero.  'type' names the struct in the error. */
awq_status awqi_import(void *known, size_t known_size, const void *given, const char *type);

/* Copy 'known' out to a caller's info struct, no further than its struct_size, which is kept; what it has beyond
 * known_size is zeroed. */
awq_status awqi_export(void *given, const void *known, size_t known_size, const char *type);

/* AWQ_ERROR_INVALID when 'flags' has bits outside 'allowed'. */
awq_status awqi_check_flags(uint32_t flags, uint32_t allowed, const char *what);

/* Serve the (buffer, capacity, length) convention. */
void awqi_copy_text(const char *text, char *buffer, size_t capacity, size_t *length);

/* ---- context.c */

/* Every handle holds a reference on its context.  Both return or accept NULL. */
awq_context *awqi_context_retain(awq_context *context);
void awqi_context_release(awq_context *context);

/* Host memory through the context's allocator, aligned to 64 bytes, counted against its limit.  'count' objects of
 * 'size' bytes, with overflow checked; zero bytes give a valid pointer.  'what' names the thing in the error. */
awq_status awqi_alloc(awq_context *context, uint64_t count, uint64_t size, const char *what, void **memory);
awq_status awqi_calloc(awq_context *context, uint64_t count, uint64_t size, const char *what, void **memory);
void awqi_free(awq_context *context, void *memory);
awq_status awqi_strdup(awq_context *context, const char *text, char **copy);

void awqi_log(awq_context *context, int32_t level, const char *format, ...) __attribute__((format(printf, 3, 4)));

const struct awqi_backend *awqi_context_backend(const awq_context *context);
void *awqi_context_device(const awq_context *context); /* the backend's own state */
int32_t awqi_context_device_type(const awq_context *context);

/* Say that the memory of 'view' is the device's. */
void awqi_set_device(const awq_context *context, awq_tensor *view);

/* AWQ_ERROR_INVALID unless 'tensor' lies where the context computes. */
awq_status awqi_check_device(const awq_context *context, const awq_tensor *tensor, const char *what);

/* AWQ_ERROR_INVALID unless 'tensor' lies in host memory, where weights live whatever the context. */
awq_status awqi_check_host(const awq_tensor *tensor, const char *what);

/* Run task(user_data, i) for i < count on the context's pool.  How the work is cut must not depend on the number
 * of threads where results could: cut it by shape. */
void awqi_parallel_for(awq_context *context, int64_t count, awq_task_callback task, void *user_data);

/* The same for tasks that have much in common: a call does tasks 'begin' to 'end' - 1.  Which come together depends on the
 * threads. */
typedef void (*awqi_range_callback)(void *user_data, int64_t begin, int64_t end);
void awqi_parallel_ranges(awq_context *context, int64_t count, awqi_range_callback range, void *user_data);
int32_t awqi_context_threads(const awq_context *context);

/* ---- threads.c */

awq_status awqi_pool_create(int32_t threads, struct awqi_pool **pool); /* starts none before the first run */
void awqi_pool_destroy(struct awqi_pool *pool);
void awqi_pool_run(struct awqi_pool *pool, int64_t count, awq_task_callback task, void *user_data);
void awqi_pool_run_ranges(struct awqi_pool *pool, int64_t count, awqi_range_callback range, void *user_data);
int32_t awqi_usable_processors(void); /* what the affinity mask allows, at least 1 */

/* ---- tensor.c */

#define AWQI_FLOATS ((1u << AWQ_F32) | (1u << AWQ_F16) | (1u << AWQ_BF16))

/* A tensor with data that is present and aligned, a dtype in the set 'dtypes' (bits 1 << AWQ_F32 ..; 0: any), sane
 * sizes (the product of the extents and of their bytes fits in int64), and ndim dimensions (-1: any).  'what' names it. */
awq_status awqi_check_tensor(const awq_tensor *tensor, int32_t ndim, uint32_t dtypes, const char *what);
awq_status awqi_check_writable(const awq_tensor *tensor, const char *what);
awq_status awqi_check_shape_1d(const awq_tensor *tensor, int64_t size, const char *what);
awq_status awqi_check_shape_2d(const awq_tensor *tensor, int64_t rows, int64_t columns, const char *what);

/* x[..][channels] seen as a matrix: the number of rows, checked against 'channels'. */
awq_status awqi_check_rows(const awq_tensor *tensor, int64_t channels, const char *what, int64_t *rows);

int64_t awqi_tensor_elements(const awq_tensor *tensor);
void *awqi_tensor_data(const awq_tensor *tensor); /* data + byte_offset */
bool awqi_tensor_is_contiguous(const awq_tensor *tensor);

/* The address of row 'row' of x[..][channels], leading dimensions flattened, and the stride of its elements. */
const void *awqi_tensor_row(const awq_tensor *tensor, int64_t row);
int64_t awqi_tensor_inner_stride(const awq_tensor *tensor);

/* Read or write one row of a float tensor as F32; the write rounds once. */
void awqi_load_row(const awq_tensor *tensor, int64_t row, float *values, int64_t count);
void awqi_store_row(awq_tensor *tensor, int64_t row, const float *values, int64_t count);

/* The same for channels 'first' .. first + count - 1 of the row. */
void awqi_load_columns(const awq_tensor *tensor, int64_t row, int64_t first, float *values, int64_t count);

/* awq_tensor_copy for two host tensors, checked before. */
void awqi_tensor_copy_host(awq_context *context, const awq_tensor *src, awq_tensor *dst);

/* cpu/convert.c: contiguous conversion of 'count' elements to and from F32, as by the functions below. */
void awqi_to_f32(int32_t dtype, const void *src, float *dst, int64_t count);
void awqi_from_f32(int32_t dtype, const float *src, void *dst, int64_t count);

/* Index of the first NaN or infinity among values[count], or -1. */
int64_t awqi_find_non_finite(const float *values, int64_t count);

static inline float awqi_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t awqi_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float awqi_bf16_to_f32(uint16_t half)
{
    return awqi_bits_to_f32((uint32_t)half << 16);
}

/* Round to nearest, ties to even.  NaNs keep sign and payload, as far as there is room, and become quiet: here and below as
 * processors convert them. */
static inline uint16_t awqi_f32_to_bf16(float value)
{
    uint32_t bits = awqi_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float awqi_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = half & 0x7fffu;
    if (magnitude > 0x7c00u) return awqi_bits_to_f32(sign | 0x7fc00000u | (magnitude & 0x3ffu) << 13);
    if (magnitude == 0x7c00u) return awqi_bits_to_f32(sign | 0x7f800000u);
    if (magnitude >= 0x0400u) return awqi_bits_to_f32(sign | ((magnitude << 13) + 0x38000000u));
    /* Subnormal: the magnitude is a multiple of 2^-24, exact in single precision. */
    float value = (float)magnitude * 0x1p-24f;
    return sign ? -value : value;
}

/* Round to nearest, ties to even; overflow gives infinity. */
static inline uint16_t awqi_f32_to_f16(float value)
{
    uint32_t bits = awqi_f32_to_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 2^16 and above */
    if (magnitude < 0x38800000u) {
        /* Below 2^-14: adding 1/2 makes the sum's last bit worth 2^-24, so the addition itself rounds as FP16 does. */
        float shifted = awqi_bits_to_f32(magnitude) + 0.5f;
        return (uint16_t)(sign | (awqi_f32_to_bits(shifted) - 0x3f000000u));
    }
    uint32_t odd = (magnitude >> 13) & 1u;
    return (uint16_t)(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

/* 'value' rounded to dtype (F32, F16 or BF16) and back. */
static inline float awqi_round_to(int32_t dtype, float value)
{
    if (dtype == AWQ_F16) return awqi_f16_to_f32(awqi_f32_to_f16(value));
    if (dtype == AWQ_BF16) return awqi_bf16_to_f32(awqi_f32_to_bf16(value));
    return value;
}

/* *high + *low += value, where *low is what rounding took from *high: a sum of about 106 bits (TwoSum, then
 * renormalised), so that its order shows only in the last of them. */
static inline void awqi_add_two_double(double *high, double *low, double value)
{
    double sum = *high + value;
    double part = sum - *high;
    double error = (*high - (sum - part)) + (value - part) + *low;
    *high = sum + error;
    *low = error - (*high - sum);
}

static inline int64_t awqi_min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t awqi_max64(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t awqi_ceil_div(int64_t a, int64_t b) { return a / b + (a % b > 0); }

/* ---- file.c: names, bytes and syncs; every failure names the path and the system's reason */

struct awqi_mapping {
    const unsigned char *data; /* NULL for an empty file */
    uint64_t size;
};
awq_status awqi_map_file(const char *path, struct awqi_mapping *mapping);
void awqi_unmap_file(struct awqi_mapping *mapping);
awq_status awqi_write_all(int fd, const void *bytes, uint64_t size, const char *path);
awq_status awqi_sync_directory(const char *path); /* fsync of a directory, so that a rename in it lasts */
awq_status awqi_sync_parent(const char *path);    /* of the directory that holds 'path' */
awq_status awqi_close_synced(int *fd, const char *path); /* fsync and close; *fd becomes -1 */

/* "PATH: cannot ACTION: REASON" from errno: AWQ_ERROR_IO, or NOT_FOUND or OUT_OF_MEMORY where that is the reason. */
awq_status awqi_fail_io(const char *action, const char *path);

/* A new file or directory beside 'path', named ".name.tmp-<pid>-<n>": 'create' gets the name and returns a number >= 0
 * (kept in *result), or -1 with errno set.  *temporary is released with awqi_free. */
typedef int (*awqi_create_function)(const char *path);
awq_status awqi_create_temporary(awq_context *context, const char *path, awqi_create_function create, char **temporary,
                                 int *result);

/* A file that appears under its name only when committed: written beside it as ".name.tmp-<pid>-<n>", synced, renamed. */
struct awqi_atomic_file {
    awq_context *context;
    char *path;
    char *temporary;
    int fd; /* -1 when closed */
};
awq_status awqi_atomic_open(awq_context *context, const char *path, struct awqi_atomic_file *file);
awq_status awqi_atomic_commit(struct awqi_atomic_file *file);
void awqi_atomic_discard(struct awqi_atomic_file *file); /* harmless after commit; frees the names */

#endif /* AWQI_INTERNAL_H */
