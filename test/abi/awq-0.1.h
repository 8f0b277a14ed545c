/* awq.h - activation-aware weight quantisation (AWQ) as a C library.
 *
 *   activations -> calibration -> search -> fold -> quantize -> weight -> pack -> checkpoint
 *                                                                 |
 *                                                                 +-> linear: y = x W^T
 *
 * The method is the one of Lin et al., "AWQ: Activation-aware Weight Quantization for
 * On-Device LLM Compression and Acceleration" (arXiv 2306.00978): input channels with large
 * activations are scaled up before the weights are rounded, and the inverse scale is moved
 * into whatever produced those activations.
 *
 * Rules that hold everywhere, unless a function says otherwise:
 *
 * Shapes    A linear layer is W[N][K]: N outputs, K inputs, row-major, K contiguous in memory.
 *           It computes y = x W^T + b with x[..][K] and y[..][N]; leading dimensions of x are
 *           flattened into rows ("tokens").
 * Errors    Functions that can fail return awq_status: AWQ_OK, or a negative code.  The text of
 *           the calling thread's last failure is in awq_last_error().  A function that fails
 *           leaves its outputs untouched (handles: NULL) and its inputs as they were.
 * Ownership Handles belong to the caller and are released with their destroy function, which
 *           accepts NULL.  Every handle keeps its context alive, so the order of destruction does
 *           not matter.  Buffers and tensors passed in stay the caller's; they are read during
 *           the call and not kept, except where "is kept" is said.
 * Threads   Distinct handles may be used from distinct threads at the same time.  awq_context,
 *           awq_weight, awq_packed, awq_linear, awq_tuning, awq_archive and awq_checkpoint may be
 *           shared by threads without locks.  awq_calibration, awq_search and the writers take
 *           one thread at a time.
 * Structs   Every options and info struct starts with struct_size and is prepared by
 *           awq_struct_init(&s, sizeof s).  Zero means "the default".  A program compiled against
 *           an older or newer header keeps working: missing fields count as zero, and unknown
 *           ones must be zero (AWQ_ERROR_INVALID otherwise).  Unknown flag bits are errors.
 *           NULL in place of options means all defaults.
 * Results   The same bytes for the same input on the same machine, whatever the number of threads.
 *           Not promised: equal bits across processors, devices or versions of the library.
 * Strings   UTF-8, zero-terminated.  Text results are copied into the caller's buffer:
 *           (buffer, capacity, length) writes at most 'capacity' bytes including the final zero
 *           and stores the full length without it in *length, which may be NULL.  A short buffer
 *           gets the beginning and the call still succeeds.
 *
 * C11 and C++; MIT licence.  Since 0.1 unless a later version is named. */
#ifndef AWQ_H
#define AWQ_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__) || defined(__clang__)
#define AWQ_API __attribute__((visibility("default")))
#else
#define AWQ_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---------------------------------------------------------------------- version and status */

#define AWQ_VERSION_MAJOR 0
#define AWQ_VERSION_MINOR 1
#define AWQ_VERSION_PATCH 0

/* The version of the library that runs, major * 10000 + minor * 100 + patch, and as "0.1.0".
 * The string is static. */
AWQ_API uint32_t awq_version_number(void);
AWQ_API const char *awq_version_string(void);

typedef int32_t awq_status;

enum {
    AWQ_OK = 0,
    AWQ_ERROR_INVALID = -1,       /* an argument is NULL, out of range, or of the wrong shape or dtype */
    AWQ_ERROR_UNSUPPORTED = -2,   /* a valid request that this version, format or device cannot serve */
    AWQ_ERROR_OUT_OF_MEMORY = -3, /* the allocator, or the device's memory, gave out */
    AWQ_ERROR_MEMORY_LIMIT = -4,  /* awq_context_options.memory_limit_bytes would be exceeded */
    AWQ_ERROR_IO = -5,            /* the operating system refused an open, read, write, sync or rename */
    AWQ_ERROR_FORMAT = -6,        /* a file is corrupt, truncated, or not of its kind */
    AWQ_ERROR_NON_FINITE = -7,    /* a NaN or an infinity where a number is needed; the text says where */
    AWQ_ERROR_NOT_FOUND = -8,     /* no tensor, section or file of that name */
    AWQ_ERROR_CANCELLED = -9,     /* a progress or loss callback asked to stop */
    AWQ_ERROR_STATE = -10,        /* called out of order, such as results asked for before the run */
    AWQ_ERROR_NO_DEVICE = -11,    /* no such device, no driver, an old driver, or no backend for it */
    AWQ_ERROR_DEVICE = -12,       /* the device reported a failure while working */
    AWQ_ERROR_VERSION = -13       /* a backend or a file of a version that does not fit */
};

/* The name of a status, such as "AWQ_ERROR_FORMAT"; "unknown status" for any other number.
 * Static, never NULL. */
AWQ_API const char *awq_status_name(awq_status status);

/* What went wrong in the calling thread's last failed call: what, where, and the numbers involved.
 * "" before the first failure; never NULL; valid until the thread's next call into the library. */
AWQ_API const char *awq_last_error(void);

/* Zero 'size' bytes of an options or info struct and set its struct_size field.  NULL is ignored,
 * as is a size below 4. */
AWQ_API void awq_struct_init(void *structure, size_t size);

/* ------------------------------------------------------------------------- types and tensors */

/* Element types.  The numbers are frozen.  Types below AWQ_U8 are what the library computes with;
 * the others only pass through checkpoints and packed planes. */
enum {
    AWQ_F32 = 1,
    AWQ_F16 = 2,
    AWQ_BF16 = 3,
    AWQ_U8 = 4,
    AWQ_I8 = 5,
    AWQ_U16 = 6,
    AWQ_I16 = 7,
    AWQ_U32 = 8,
    AWQ_I32 = 9,
    AWQ_U64 = 10,
    AWQ_I64 = 11,
    AWQ_F64 = 12,
    AWQ_BOOL = 13,
    AWQ_F8_E4M3 = 14,
    AWQ_F8_E5M2 = 15
};

/* Bytes per element, or 0 for a number that is no dtype. */
AWQ_API size_t awq_dtype_size(int32_t dtype);

/* The name safetensors uses, such as "F16"; "unknown" for a number that is no dtype.  Static. */
AWQ_API const char *awq_dtype_name(int32_t dtype);

enum { AWQ_DEVICE_CPU = 0, AWQ_DEVICE_CUDA = 1 };

enum { AWQ_MAX_DIMS = 8 };

enum { AWQ_TENSOR_READONLY = 1 };

/* A view of an array somebody else owns.  The layout of this struct is frozen.  Element
 * (i0, i1, ..) lies at data + byte_offset + (i0 * strides[0] + i1 * strides[1] + ..) * element size.
 * Data need only be aligned to its element.  A view made by an init_const function is READONLY:
 * functions that write refuse it. */
typedef struct awq_tensor {
    void *data;
    uint64_t byte_offset;
    int64_t shape[AWQ_MAX_DIMS];
    int64_t strides[AWQ_MAX_DIMS]; /* in elements; may be negative or zero when only read */
    int32_t dtype;
    int32_t ndim;
    int32_t device_type;
    int32_t device_id;
    uint32_t flags;    /* AWQ_TENSOR_READONLY */
    uint32_t reserved; /* zero */
    uint64_t reserved_bytes[2]; /* zero */
} awq_tensor;

/* Describe contiguous CPU memory.  Nothing is checked or allocated; whoever uses the view checks it
 * and says what is wrong with it.  A null tensor is ignored. */
AWQ_API void awq_tensor_init_1d(awq_tensor *tensor, void *data, int32_t dtype, int64_t size);
AWQ_API void awq_tensor_init_2d(awq_tensor *tensor, void *data, int32_t dtype, int64_t rows, int64_t columns);
AWQ_API void awq_tensor_init_const_1d(awq_tensor *tensor, const void *data, int32_t dtype, int64_t size);
AWQ_API void awq_tensor_init_const_2d(awq_tensor *tensor, const void *data, int32_t dtype, int64_t rows,
                                      int64_t columns);

/* The same for any rank up to AWQ_MAX_DIMS; shape[ndim].  AWQ_ERROR_INVALID for another rank or a
 * NULL shape with ndim > 0. */
AWQ_API awq_status awq_tensor_init(awq_tensor *tensor, void *data, int32_t dtype, int32_t ndim,
                                   const int64_t *shape);
AWQ_API awq_status awq_tensor_init_const(awq_tensor *tensor, const void *data, int32_t dtype, int32_t ndim,
                                         const int64_t *shape);

/* View a DLPack tensor (github.com/dmlc/dlpack): 'dl_tensor' points to a DLTensor, 'managed' to a
 * DLManagedTensorVersioned of major version 1, whose READ_ONLY flag is honoured.  The view borrows:
 * the producer must outlive it and its deleter remains the caller's to call.  Strides may be NULL,
 * byte_offset is kept.  AWQ_ERROR_UNSUPPORTED for a device, dtype, lane count or rank that has no
 * awq equivalent, AWQ_ERROR_VERSION for another major version. */
AWQ_API awq_status awq_tensor_from_dlpack(const void *dl_tensor, awq_tensor *tensor);
AWQ_API awq_status awq_tensor_from_dlpack_versioned(const void *managed, awq_tensor *tensor);

/* ---------------------------------------------------------------------------------- context */

typedef struct awq_context awq_context;

enum { AWQ_LOG_ERROR = 1, AWQ_LOG_WARNING = 2, AWQ_LOG_INFO = 3, AWQ_LOG_DEBUG = 4 };

/* Receives one line without a newline; 'message' is zero-terminated at 'length' and valid during the
 * call.  May be called from any thread that uses the context, never from two at once for one context.
 * It must not call back into the library or unwind through it. */
typedef void (*awq_log_callback)(void *user_data, int32_t level, const char *message, size_t length);

/* Host memory.  'allocate' returns 'size' bytes aligned to 'alignment' (a power of two of at most
 * 4096) or NULL; 'release' gets the same size back.  Both may be called from several threads at once. */
typedef void *(*awq_allocate_callback)(void *user_data, size_t size, size_t alignment);
typedef void (*awq_release_callback)(void *user_data, void *memory, size_t size);

/* Long work reports 'done' of 'total' steps; a nonzero return cancels it (AWQ_ERROR_CANCELLED).  Called
 * on the thread that called the library. */
typedef int32_t (*awq_progress_callback)(void *user_data, uint64_t done, uint64_t total);

typedef struct awq_context_options {
    uint32_t struct_size;
    int32_t device_type;         /* AWQ_DEVICE_CPU */
    int32_t device_id;           /* which of several CUDA devices */
    int32_t threads;             /* including the caller's; 1 starts none; 0: as many as this process may run on */
    uint64_t memory_limit_bytes; /* ceiling on host memory the context's handles hold together; 0: none */
    awq_log_callback log;        /* NULL: nothing is ever printed */
    void *log_data;
    awq_allocate_callback allocate; /* NULL: the C library's; both or neither */
    awq_release_callback release;
    void *allocator_data;
    int32_t log_level;  /* most verbose level to report; 0: AWQ_LOG_WARNING */
    uint32_t flags;     /* zero */
} awq_context_options;

/* Open a device.  Creating a CPU context cannot fail for want of hardware.  For CUDA the backend
 * libawq_cuda.so is looked for beside libawq.so, or where the environment variable AWQ_CUDA_BACKEND says.
 * AWQ_ERROR_NO_DEVICE says in one text what is missing.
 *
 * Threads of the pool start at the first use, with the affinity of the thread that makes it; they block all signals but those
 * that a thread causes itself (SIGBUS, SIGSEGV, ..), and between uses they sleep.  One call uses them at a time: a call that comes
 * meanwhile, from another thread or from inside a task, is done by its own thread alone and waits for nobody, so threads of OpenMP
 * or of a pool of the host's may share a context.  In a forked child the context works on the calling thread alone, unless its
 * threads first start there; no other thread may be inside the library at the fork. */
AWQ_API awq_status awq_context_create(const awq_context_options *options, awq_context **context);
AWQ_API void awq_context_destroy(awq_context *context);

typedef struct awq_device_info {
    uint32_t struct_size;
    int32_t device_type;
    int32_t device_id;
    int32_t compute_capability;    /* CUDA: 10 * major + minor (90 is Hopper); CPU: 0 */
    int32_t compute_units;         /* CUDA: multiprocessors; CPU: threads of the pool */
    uint32_t cpu_features;         /* CPU: AWQ_CPU_* bits in use; CUDA: 0 */
    uint64_t memory_bytes;         /* total memory of the device; 0: unknown */
    uint64_t memory_bytes_per_second; /* peak by specification; 0: unknown */
    uint64_t last_level_cache_bytes;  /* 0: unknown */
    char name[128];                /* zero-terminated */
} awq_device_info;

enum {
    AWQ_CPU_AVX2 = 1, /* with FMA and F16C */
    AWQ_CPU_AVX512 = 2, /* F, BW, DQ, VL */
    AWQ_CPU_AVX512_VNNI = 4,
    AWQ_CPU_AVX512_BF16 = 8,
    AWQ_CPU_NEON = 16,
    AWQ_CPU_NEON_DOTPROD = 32,
    AWQ_CPU_NEON_I8MM = 64,
    AWQ_CPU_NEON_BF16 = 128
};

/* What the context runs on.  'info' must be prepared by awq_struct_init. */
AWQ_API awq_status awq_context_get_device(const awq_context *context, awq_device_info *info);

/* Host bytes the context's handles hold now and at most so far, allocated through the context.
 * Either pointer may be NULL. */
AWQ_API awq_status awq_context_get_memory(const awq_context *context, uint64_t *current_bytes, uint64_t *peak_bytes);

/* Memory on the context's device, aligned to 256 bytes, for activations, workspaces and the like.
 * Counts against the memory limit of a CPU context.  Release with awq_context_free and the same context. */
AWQ_API awq_status awq_context_allocate(awq_context *context, uint64_t size_bytes, void **memory);
AWQ_API void awq_context_free(awq_context *context, void *memory);

/* Wait until everything enqueued on 'stream' (a cudaStream_t; NULL: the default stream) is done, and report
 * failures of that work.  On the CPU nothing is ever pending. */
AWQ_API awq_status awq_context_synchronize(awq_context *context, void *stream);

/* How long work takes on the context's device: seconds[runs], one for each time it was done.  'work' does it, or enqueues
 * it on 'stream', and may call awq_linear_run and awq_tensor_copy; a status other than AWQ_OK ends the measurement and is
 * returned.
 *
 * CPU: 'work' is called once unmeasured, for pages and caches, then 'runs' times; 'stream' is NULL.
 * CUDA: 'work' is called twice with a stream of the library's: once to load what it needs, and once while the stream is
 * captured.  The graph is replayed once unmeasured, then 'runs' times, each between two events, so that the seconds are the
 * device's own: launches from the host do not count where a replay takes longer than they do (some 10 us).  Everything the
 * work needs must exist before: with a workspace awq_linear_run allocates nothing.
 *
 * What was just read lies in a cache, where real work would not find it: give as many copies of a weight as exceed
 * awq_device_info.last_level_cache_bytes their turn. */
typedef awq_status (*awq_work_callback)(void *user_data, void *stream);
AWQ_API awq_status awq_context_time(awq_context *context, awq_work_callback work, void *user_data, int64_t runs,
                                    double *seconds);

/* Run task(user_data, i) for i = 0..count-1 on the context's threads, the caller's included, in any order and
 * at the same time; returns when all are done.  For host programs that want to share the pool rather than
 * oversubscribe the processor.  Tasks must not unwind, nor call functions of this library that use the pool.
 * CPU contexts only. */
typedef void (*awq_task_callback)(void *user_data, int64_t index);
AWQ_API awq_status awq_context_parallel_for(awq_context *context, int64_t count, awq_task_callback task,
                                            void *user_data);

/* dst = src, converting between F32, F16 and BF16 (round to nearest, ties to even) and between host and device.
 * Equal shapes; any strides; 'dst' must not overlap 'src' unless they are the same view.  Values that overflow
 * the destination become infinities, as in IEEE 754.  'stream' as in awq_context_synchronize. */
AWQ_API awq_status awq_tensor_copy(awq_context *context, const awq_tensor *src, awq_tensor *dst, void *stream);

/* ------------------------------------------------------------------------------ calibration */

/* On a CUDA context calibration, search and quantisation compute on the device.  Activations and weights may lie in the
 * device's memory or in host memory, from where they are copied for the call; so may the weights of rows and the
 * clipping limits that are read.  Column scales, limits that are written, and all results are in host memory, and so is
 * what is made: a calibration (but for its Gram matrix, which stays on the device while it is added to) and a quantised
 * weight, which is a quarter of the original or less and is read by layouts, files and slices before any kernel.
 *
 * These functions read device memory in the order of the default stream and return when their work is done.  What
 * another stream writes must be complete before the call (awq_context_synchronize), unless that stream waits for the
 * default one.  Codes, scales and zero points have the CPU's bits.  Sums and losses, which are added in another order,
 * differ in their last digits: of a double for statistics, of single-precision products for losses. */

/* Statistics of the input of one linear layer, or of several that share it: for every channel the sums of |x|
 * and x^2 and the maximum of |x| in compensated double precision, and a bounded sample of whole rows.  Memory
 * depends on the options, never on how much was observed. */
typedef struct awq_calibration awq_calibration;

enum {
    AWQ_CALIBRATION_GRAM = 1 /* also accumulate X^T X, channels^2 doubles */
};

typedef struct awq_calibration_options {
    uint32_t struct_size;
    uint32_t flags;      /* AWQ_CALIBRATION_GRAM */
    int64_t sample_rows; /* rows kept for loss and clip search; 0: 512; negative: none */
    uint64_t seed;       /* of the choice of rows */
} awq_calibration_options;

AWQ_API awq_status awq_calibration_create(awq_context *context, int64_t channels,
                                          const awq_calibration_options *options, awq_calibration **calibration);
AWQ_API void awq_calibration_destroy(awq_calibration *calibration);

/* Add activations x[..][channels], F32, F16 or BF16, any strides.  The rows that are kept are those whose
 * contents hash lowest, each once however often it occurs, so neither the order nor the batching of observations
 * changes which they are.
 * AWQ_ERROR_NON_FINITE names row and channel and adds nothing. */
AWQ_API awq_status awq_calibration_observe(awq_calibration *calibration, const awq_tensor *x);

/* The same with a weight of at least 0 for each row: F32 weights[rows], where rows is the product of x's leading
 * dimensions.  A row of weight 0 (padding, a prompt) is ignored; others count 'weight' times in the sums. */
AWQ_API awq_status awq_calibration_observe_weighted(awq_calibration *calibration, const awq_tensor *x,
                                                    const awq_tensor *weights);

/* Add what 'source' has seen, as if 'calibration' had observed it too.  Equal channels, flags, sample_rows and
 * seed, else AWQ_ERROR_INVALID. */
AWQ_API awq_status awq_calibration_merge(awq_calibration *calibration, const awq_calibration *source);

/* Round the sums to 48 bits, and the Gram matrix to 2^-28 of what its diagonal allows.  Calibrations of parts of some data
 * that were each trimmed add up exactly: merged in any order and any grouping they give the same bytes, as long as a
 * channel's sums over all of them are less than 2^57 times its least one (in the Gram matrix: 2^25 times). */
AWQ_API awq_status awq_calibration_trim(awq_calibration *calibration);

typedef struct awq_calibration_info {
    uint32_t struct_size;
    uint32_t flags;
    int64_t channels;
    int64_t rows;        /* observed, of nonzero weight */
    double weight;       /* the sum of their weights */
    int64_t sample_rows; /* kept at present */
    int64_t sample_limit;
    uint64_t seed;
} awq_calibration_info;

AWQ_API awq_status awq_calibration_get_info(const awq_calibration *calibration, awq_calibration_info *info);

enum { AWQ_STATISTIC_MEAN_ABS = 0, AWQ_STATISTIC_MEAN_SQUARE = 1, AWQ_STATISTIC_MAX_ABS = 2 };

/* values[channels].  AWQ_ERROR_STATE when nothing was observed, AWQ_ERROR_INVALID when count != channels. */
AWQ_API awq_status awq_calibration_get_statistic(const awq_calibration *calibration, int32_t statistic,
                                                 double *values, int64_t count);

/* A read-only F32 view [sample_rows][channels] of the kept rows, in an order that depends on nothing but which they are;
 * valid until the calibration is changed or destroyed. */
AWQ_API awq_status awq_calibration_get_samples(const awq_calibration *calibration, awq_tensor *samples);

/* An archive is one file of named calibrations: sections with CRC-32, deflated by zlib, little-endian.  Reading
 * verifies a section before it is used and names section and offset when it is damaged. */
typedef struct awq_archive awq_archive;
typedef struct awq_archive_writer awq_archive_writer;

/* Open for reading.  'context' owns what is loaded from it. */
AWQ_API awq_status awq_archive_open(awq_context *context, const char *path, awq_archive **archive);
AWQ_API void awq_archive_destroy(awq_archive *archive);
AWQ_API int64_t awq_archive_count(const awq_archive *archive);

/* Name of calibration 'index' in bytewise order, NULL out of range; and the text its writer gave.  Valid as long as the
 * archive. */
AWQ_API const char *awq_archive_name(const awq_archive *archive, int64_t index);
AWQ_API const char *awq_archive_provenance(const awq_archive *archive);

/* Load the calibration of that name: AWQ_ERROR_NOT_FOUND, AWQ_ERROR_FORMAT. */
AWQ_API awq_status awq_archive_load(const awq_archive *archive, const char *name, awq_calibration **calibration);

/* Write an archive section by section.  Nothing appears at 'path' before commit, which syncs and renames; destroying
 * an uncommitted writer removes its temporary file.  'provenance' is free text (NULL: ""). */
AWQ_API awq_status awq_archive_writer_create(awq_context *context, const char *path, const char *provenance,
                                             awq_archive_writer **writer);
AWQ_API awq_status awq_archive_writer_add(awq_archive_writer *writer, const char *name,
                                          const awq_calibration *calibration);
AWQ_API awq_status awq_archive_writer_commit(awq_archive_writer *writer);
AWQ_API void awq_archive_writer_destroy(awq_archive_writer *writer);

/* One calibration as an archive of one section named "calibration". */
AWQ_API awq_status awq_calibration_save(const awq_calibration *calibration, const char *path);
AWQ_API awq_status awq_calibration_load(awq_context *context, const char *path, awq_calibration **calibration);

/* --------------------------------------------------------------------------- quantisation */

enum { AWQ_GROUP_PER_ROW = -1 };

/* Arithmetic profiles.  EXACT forces zero into each group's range, so that one-signed groups do not saturate,
 * derives codes from the scale as stored, and defines every degenerate group.  AUTOAWQ and LLM_AWQ reproduce
 * AutoAWQ 0.2.9 and llm-awq bit for bit: range floor 1e-5, zero not forced into the range, every operation rounded
 * to the weight's own dtype. */
enum { AWQ_PROFILE_EXACT = 0, AWQ_PROFILE_AUTOAWQ = 1, AWQ_PROFILE_LLM_AWQ = 2 };

enum {
    AWQ_QUANTIZE_SYMMETRIC = 1,         /* no zero points: codes are signed around 0 */
    AWQ_QUANTIZE_INPUT_SCALE_FOLDED = 2 /* the host folds the scale; the weight records none */
};

/* How salient input channels are chosen when salient_fraction > 0: those of the largest mean |x|, of the largest norm
 * of their column of W, or any.  Of equal ones the first. */
enum { AWQ_SALIENT_BY_ACTIVATION = 0, AWQ_SALIENT_BY_WEIGHT = 1, AWQ_SALIENT_AT_RANDOM = 2 };

/* How the range of a group is chosen: from its least to its greatest weight; or searched, each end drawn in for itself,
 * to lose as little as possible of the squared weights times the mean x^2 of their inputs (of squared weights alone where
 * there is no calibration).  Searched symmetric scales may be negative, so that the larger end meets the code that has no
 * opposite.  'clip' limits what is searched. */
enum { AWQ_RANGE_MINMAX = 0, AWQ_RANGE_SEARCH = 1 };

/* How weights become codes: each the nearest; or one input after the other, each making up for what others have lost of the
 * outputs (GPTQ, arXiv 2210.17323, in the inputs' own order, so that no permutation is stored), with ranges for the
 * weights as they are by then; or that, and codes and scales then moved one by one wherever the outputs gain.  Both
 * need X^T X (AWQ_CALIBRATION_GRAM), which is factored once for a calibration, in 4 K^2 bytes that it keeps. */
enum { AWQ_ROUND_NEAREST = 0, AWQ_ROUND_FEEDBACK = 1, AWQ_ROUND_DESCENT = 2 };

typedef struct awq_quantize_options {
    uint32_t struct_size;
    int32_t bits;        /* 2, 3, 4 or 8; 0: 4 */
    int64_t group_size;  /* inputs per group, >= 1, or AWQ_GROUP_PER_ROW; 0: 128.  A last group may be short. */
    uint32_t flags;      /* AWQ_QUANTIZE_* */
    int32_t profile;     /* AWQ_PROFILE_* */
    int32_t scale_dtype; /* AWQ_F16, AWQ_BF16 or AWQ_F32; 0: AWQ_F16 */
    int32_t salient_rule;       /* AWQ_SALIENT_* */
    double salient_fraction;    /* of the input channels kept in FP16, to the nearest whole number but at least one;
                                 * 0: none */
    uint64_t seed;              /* of AWQ_SALIENT_AT_RANDOM */
    const awq_tensor *input_scale; /* F32 [K] in host memory: column scales instead of a search's; NULL: none */
    const awq_tensor *clip;        /* F32 [N][groups]: |w * s| is limited to this before rounding; NULL: no limit */
    const awq_tensor *importance;  /* F32 [K], at least 0: what AWQ_SALIENT_BY_ACTIVATION goes by; NULL: the mean |x| of
                                    * 'calibration' */
    const awq_tensor *salient_columns; /* I32 [S], ascending: the salient channels; NULL: by rule */
    const awq_tensor *salient_values;  /* F16 [N][S]: only for awq_weight_create; NULL: none */
    const awq_calibration *calibration; /* of w's input, what 'range', 'rounding' and salience go by; NULL: the
                                         * search's */
    int32_t range;                 /* AWQ_RANGE_* */
    int32_t rounding;              /* AWQ_ROUND_* */
    double damping;                /* added to the diagonal of X^T X, as a part of it, where rounding uses that; 0: 0.03 */
} awq_quantize_options;

typedef struct awq_search awq_search;

/* The quantised weight of one linear layer, or of several concatenated.  Immutable. */
typedef struct awq_weight awq_weight;

/* Quantise W[N][K] (F32, F16 or BF16) group by group:
 *   asymmetric  s = (max - min) / (2^b - 1)   z = clamp(-rint(min / s), 0, 2^b - 1)
 *               q = clamp(rint(w / s) + z, 0, 2^b - 1)             w' = (q - z) s
 *   symmetric   s = max|w| / (2^(b-1) - 1)    q = clamp(rint(w / s), -2^(b-1), 2^(b-1) - 1)   w' = q s
 * with s rounded to scale_dtype before z and q are derived from it (EXACT), rint rounding half to even.
 *
 * 'search', when not NULL, is a finished search over this weight: its scales multiply the columns first (in F32),
 * and its quantisation options are the defaults for 'options'.  The weight records the scales as its input scale
 * unless AWQ_QUANTIZE_INPUT_SCALE_FOLDED is set.
 *
 * Salient input channels keep w s in FP16 (the mixed precision of section 3.1 of the paper).  To the groups they lie in
 * they are zeros: no range has to reach their values, their codes are the zero point (for symmetric weights 0),
 * and what is stored in FP16 is added to that:  w' = (q - z) s + v.  They are never clipped, and for 'range' and 'rounding'
 * they lose nothing.
 *
 * 'range' and 'rounding' other than their defaults choose ranges and codes by what outputs lose; they belong to the EXACT
 * profile.  AWQ_ERROR_STATE where the calibration that they need is missing or has no Gram matrix.
 *
 * AWQ_ERROR_NON_FINITE names the row and column of a NaN or infinity, or of a salient value that FP16 cannot hold.
 * AWQ_ERROR_INVALID where channels are to be chosen by activation, but there is neither a search, a calibration nor an
 * importance. */
AWQ_API awq_status awq_quantize(awq_context *context, const awq_tensor *w, const awq_search *search,
                                const awq_quantize_options *options, awq_weight **weight);
AWQ_API void awq_weight_destroy(awq_weight *weight);

/* Make a weight from codes[N][K] (U8; symmetric codes are stored plus 2^(b-1)), scales[N][groups] (F16, BF16 or
 * F32) and zeros[N][groups] (U8; NULL when symmetric).  Reads bits, group_size, SYMMETRIC, input_scale,
 * salient_columns and salient_values from 'options'.  AWQ_ERROR_INVALID for a code or zero point above 2^b - 1,
 * AWQ_ERROR_NON_FINITE for a bad scale or salient value. */
AWQ_API awq_status awq_weight_create(awq_context *context, const awq_tensor *codes, const awq_tensor *scales,
                                     const awq_tensor *zeros, const awq_quantize_options *options,
                                     awq_weight **weight);

typedef struct awq_weight_info {
    uint32_t struct_size;
    int32_t bits;
    int64_t n;
    int64_t k;
    int64_t group_size;  /* inputs per group; K for AWQ_GROUP_PER_ROW */
    int64_t groups;      /* per row: ceil(k / group_size) */
    uint32_t flags;      /* AWQ_QUANTIZE_SYMMETRIC */
    int32_t scale_dtype;
    int32_t has_input_scale; /* 0 or 1 */
    int32_t reserved;
    int64_t salient_columns;
    int64_t parts;           /* how many weights were concatenated; 1: none */
    uint64_t clamped_scales; /* groups whose scale did not fit scale_dtype and was clamped to it */
    uint64_t zero_groups;    /* groups of zeros only */
    uint64_t size_bytes;     /* codes, scales, zeros and salient columns */
} awq_weight_info;

AWQ_API awq_status awq_weight_get_info(const awq_weight *weight, awq_weight_info *info);

enum {
    AWQ_DEQUANTIZE_UNSCALED = 1 /* divide column j by input scale j: the weight in the model's own space */
};

/* out[N][K] = (q - z) s, plus v in salient columns, rounded once to out's dtype (F32, F16 or BF16). */
AWQ_API awq_status awq_weight_dequantize(const awq_weight *weight, uint32_t flags, awq_tensor *out);

/* Copy the parts out, each NULL or of the shapes of awq_weight_create: codes U8 [N][K], scales in scale_dtype or F32
 * [N][groups], zeros U8 [N][groups] (2^(b-1) when symmetric), input_scale F32 [K] (ones when there is none). */
AWQ_API awq_status awq_weight_export(const awq_weight *weight, awq_tensor *codes, awq_tensor *scales,
                                     awq_tensor *zeros, awq_tensor *input_scale);

/* The salient columns: columns I32 [S], ascending, and values F16 or F32 [N][S]; either may be NULL.  S is
 * awq_weight_info.salient_columns, and may be 0. */
AWQ_API awq_status awq_weight_export_salient(const awq_weight *weight, awq_tensor *columns, awq_tensor *values);

/* For tensor parallelism: outputs [begin, end) of all inputs, or inputs [begin, end) of all outputs.  A column cut must
 * fall on a group boundary (or the end): AWQ_ERROR_INVALID names the nearest ones. */
enum { AWQ_SLICE_ROWS = 0, AWQ_SLICE_COLUMNS = 1 };
AWQ_API awq_status awq_weight_slice(const awq_weight *weight, int32_t axis, int64_t begin, int64_t end,
                                    awq_weight **slice);

/* Stack weights that share an input (q, k, v; gate, up) along their outputs.  Equal K, bits, groups, symmetry, scale dtype
 * and input scale, else AWQ_ERROR_INVALID.  A column that is salient in some of them only has v = 0 in the others. */
AWQ_API awq_status awq_weight_concatenate(size_t count, const awq_weight *const *weights, awq_weight **weight);

/* ---------------------------------------------------------------------------- scale search */

/* Searches the column scales s of one or more linears that share an input, minimising
 *   L(s) = mean of (X W^T - (X / s) Q(W s)^T)^2 over sampled rows and the outputs of all linears together,
 * where Q is the quantiser that will be used, for s = importance^alpha on a grid of alphas.  Scales below 1e-4 are raised
 * to it before they are normalised.  In EXACT, channels of importance 0 keep s = 1 and take no part in the
 * normalisation. */

/* Loss of the given candidate weights, one [N][K] view per added weight in the order of adding: F32, and of the
 * shape of the original, to be used in its place with the unscaled input.  They lie where the context computes: on a CUDA
 * context in device memory, ready for any stream.  Stores a finite loss.  A nonzero return cancels the search.  Called on the
 * thread that runs it. */
typedef int32_t (*awq_loss_callback)(void *user_data, size_t count, const awq_tensor *const *candidates, double *loss);

enum { AWQ_SCALES_PLAIN = 0, AWQ_SCALES_DUO = 1, AWQ_SCALES_BOTH = 2 };
enum { AWQ_NORMALIZE_GEOMETRIC = 0, AWQ_NORMALIZE_MEAN = 1 };
enum { AWQ_OBJECTIVE_SAMPLES = 0, AWQ_OBJECTIVE_GRAM = 1 };

enum {
    AWQ_SEARCH_CLOSED_GRID = 1 /* alpha = i / (points - 1), so that 1 is tried; default: i / points (llm-awq) */
};

typedef struct awq_search_options {
    uint32_t struct_size;
    uint32_t flags;        /* AWQ_SEARCH_* */
    int32_t grid_points;   /* 0: 20 */
    int32_t scales;        /* PLAIN: importance^a.  DUO: importance^a / (wmean^(1-a) + 1e-4) (AutoAWQ).  BOTH: all of them. */
    int32_t normalization; /* by sqrt(max * min) of the scales, or by their mean */
    int32_t objective;     /* sampled rows, or the Gram matrix (AWQ_CALIBRATION_GRAM); unused with a callback */
    double smooth_factor;  /* f in [0, 1]: importance = (1 - f) mean|x_j| + f mean over j of mean|x_j| */
    const awq_quantize_options *quantize; /* the quantiser to search for; NULL: its defaults.  Copied. */
    awq_loss_callback loss;               /* NULL: the objective above */
    void *loss_data;
    awq_progress_callback progress;
    void *progress_data;
    int64_t max_rows;   /* sampled rows to use; 0: all that are kept */
    int64_t tie_copies; /* grouped-query attention: inputs come in heads of tie_width channels, and each */
    int64_t tie_width;  /* tie_copies consecutive heads copy one producer head, so they share a scale, that of
                         * their mean importance (and wmean); 0: no ties */
    int64_t sketch_rows; /* try candidates on this many random sums of the rows, each row with a random sign, in place of
                          * more rows than that, which takes as much less work and estimates the loss; then the best two
                          * and s = 1 on the rows themselves.  0: no estimates.  Unused with a callback */
} awq_search_options;

/* 'calibration' is kept until the search is destroyed, and must not change before awq_search_run returns.  What
 * 'options' points to is copied, except user data. */
AWQ_API awq_status awq_search_create(awq_context *context, const awq_calibration *calibration,
                                     const awq_search_options *options, awq_search **search);
AWQ_API void awq_search_destroy(awq_search *search);

/* Add W[N][K] (F32, F16 or BF16); K equals the calibration's channels.  The view is kept: its data must stay valid and
 * unchanged until the search has run. */
AWQ_API awq_status awq_search_add_weight(awq_search *search, const awq_tensor *w);

/* Evaluate all candidates and keep the best.  In the EXACT profile s = 1 is always among them, so the result is never worse
 * than plain rounding on the sample.  A cancelled or failed run leaves the search without a result; it may run again. */
AWQ_API awq_status awq_search_run(awq_search *search);

typedef struct awq_search_result {
    uint32_t struct_size;
    int32_t scales;        /* AWQ_SCALES_PLAIN or AWQ_SCALES_DUO; PLAIN for identity */
    double alpha;          /* 0 for identity */
    double loss;           /* of the best candidate */
    double loss_identity;  /* of s = 1, plain rounding; known also where it was no candidate */
    int64_t candidates;    /* evaluated */
    int64_t best;          /* index of the best */
    int64_t rows;          /* sampled rows used; 0 with a loss callback or the Gram matrix */
} awq_search_result;

AWQ_API awq_status awq_search_get_result(const awq_search *search, awq_search_result *result);

/* The best scales, values[K]. */
AWQ_API awq_status awq_search_get_scales(const awq_search *search, float *values, int64_t count);

/* alpha and loss of every candidate in the order of evaluation: the grid (PLAIN before DUO when BOTH), then
 * identity if it was not on the grid.  Either array may be NULL; 'count' is result.candidates. */
AWQ_API awq_status awq_search_get_history(const awq_search *search, double *alphas, double *losses, int64_t count);

/* The best clipping range of each group (AWQ, section 3; llm-awq auto_clip): for i = 0 .. grid_points * max_shrink - 1 the
 * weights w s of a group are limited to (1 - i / grid_points) max|w s|, and the limit with the least squared error of the group's
 * part of the output over the sampled rows is kept, the widest on ties. */
typedef struct awq_clip_options {
    uint32_t struct_size;
    int32_t grid_points; /* 0: 20 */
    double max_shrink;   /* 0: 0.5 */
    int64_t max_rows;    /* sampled rows to use; 0: 512 */
    const awq_quantize_options *quantize; /* NULL: the search's, else the defaults */
    awq_progress_callback progress;
    void *progress_data;
} awq_clip_options;

typedef struct awq_clip_result {
    uint32_t struct_size;
    int32_t reserved;
    double loss;           /* mean squared error of a group's part of one output, with the kept limits */
    double loss_unclipped;
    int64_t groups;
    int64_t clipped_groups;
} awq_clip_result;

/* 'w' is the original weight; 'search' as in awq_quantize (NULL: s = 1).  Writes limits[N][groups], F32 in host memory, to pass
 * as awq_quantize_options.clip.  'result' may be NULL.  AWQ_ERROR_STATE when 'calibration' has no rows. */
AWQ_API awq_status awq_clip_search(awq_context *context, const awq_tensor *w, const awq_calibration *calibration,
                                   const awq_search *search, const awq_clip_options *options, awq_tensor *limits,
                                   awq_clip_result *result);

/* ---------------------------------------------------------------------------------- folding */

enum {
    AWQ_FOLD_ONE_PLUS_WEIGHT = 1 /* norms that multiply by 1 + w (Gemma): w = (1 + w) / s - 1 */
};

typedef struct awq_fold_options {
    uint32_t struct_size;
    uint32_t flags;     /* AWQ_FOLD_* */
    int32_t profile;    /* EXACT and AUTOAWQ divide by the F32 scale, LLM_AWQ by the scale rounded to the tensor's dtype */
    int32_t reserved;
    int64_t tie_copies; /* as in awq_search_options: the producer has K / tie_copies outputs */
    int64_t tie_width;
} awq_fold_options;

/* Divide what produces a linear's input by its column scales[K] (F32), in place, one rounding per element.  Only writable
 * tensors are accepted, and the arithmetic is checked before anything is written: AWQ_ERROR_NON_FINITE when a scale is not a
 * positive finite number or a quotient would overflow its dtype.
 *   norm:        weight[K], bias[K] or NULL.
 *   linear:      the last K / tie_copies rows of weight[rows][..] and the same elements of bias (NULL: none).  With ties, row
 *                h * tie_width + d feeds inputs (h * tie_copies + c) * tie_width + d, whose scales must be equal over c.
 *   activation:  factor[K], which the host multiplies the activation's output by (GELU MLPs of the AWQ paper). */
AWQ_API awq_status awq_fold_norm(awq_context *context, const awq_tensor *scales, awq_tensor *weight, awq_tensor *bias,
                                 const awq_fold_options *options);
AWQ_API awq_status awq_fold_linear(awq_context *context, const awq_tensor *scales, awq_tensor *weight, awq_tensor *bias,
                                   const awq_fold_options *options);
AWQ_API awq_status awq_fold_activation(awq_context *context, const awq_tensor *scales, awq_tensor *factor,
                                       const awq_fold_options *options);

/* ---------------------------------------------------------------------------------- layouts */

/* Packed formats.  Numbers are never reused; docs/layouts.md has the bit diagrams and each format's owner. */
enum {
    AWQ_LAYOUT_GEMM = 1,               /* AutoAWQ / vLLM "gemm", 4 and 8 bits */
    AWQ_LAYOUT_COMPRESSED_TENSORS = 2, /* compressed-tensors pack-quantized, dense across words */
    AWQ_LAYOUT_COMPRESSED_TENSORS_2025 = 3, /* the same as written until 2025: 32 / bits codes a word */
    AWQ_LAYOUT_GEMV = 4,
    AWQ_LAYOUT_GEMV_FAST = 5,   /* LLM_AWQ as AutoAWQ spells it: scaled_zeros are named qzeros, scales are F16 */
    AWQ_LAYOUT_MARLIN = 6,      /* of IST-DASLab, AutoAWQ and vLLM, 4 and 8 bits */
    AWQ_LAYOUT_GPTQ_V1 = 7,     /* zero points are stored less one */
    AWQ_LAYOUT_GPTQ_V2 = 8,
    AWQ_LAYOUT_CUDA_BLOCK = 9,  /* this library's, for CUDA kernels, 4 and 8 bits: any N and K, padded */
    AWQ_LAYOUT_CPU_STREAM = 10, /* this library's, for CPU kernels: any N, K and group size */
    AWQ_LAYOUT_LLM_AWQ = 11     /* llm-awq version 2 */
};

/* "gemm", "compressed-tensors", ..; NULL for a number that is no layout.  And back: 0 for an unknown name. */
AWQ_API const char *awq_layout_name(int32_t layout);
AWQ_API int32_t awq_layout_from_name(const char *name);

/* A weight laid out in one format: a few named planes.  Immutable. */
typedef struct awq_packed awq_packed;

/* AWQ_ERROR_UNSUPPORTED names the layout and what of the weight it cannot hold (bits, a short last group, a shape, a
 * scale dtype, an input scale, salient columns); docs/layouts.md has the list. */
AWQ_API awq_status awq_pack(awq_context *context, const awq_weight *weight, int32_t layout, awq_packed **packed);
AWQ_API void awq_packed_destroy(awq_packed *packed);
AWQ_API size_t awq_packed_plane_count(const awq_packed *packed);

/* Plane 'index': its name, as the format's checkpoints spell it after the layer's name and a dot ("qweight"), and a
 * read-only contiguous view.  Both live as long as 'packed'. */
AWQ_API awq_status awq_packed_get_plane(const awq_packed *packed, size_t index, const char **name, awq_tensor *view);

/* Give a plane away as a DLManagedTensorVersioned (DLPack 1.x), read-only, which keeps 'packed' alive on its own until
 * its deleter is called. */
AWQ_API awq_status awq_packed_export_dlpack(const awq_packed *packed, size_t index, void **managed);

typedef struct awq_unpack_options {
    uint32_t struct_size;
    int32_t bits;       /* 0: 4 */
    int64_t group_size; /* as in awq_quantize_options; 0: from the planes' shapes where they tell */
    uint32_t flags;     /* AWQ_QUANTIZE_SYMMETRIC: no zero points, or where the format needs some, all 2^(bits-1) */
    int32_t reserved;
} awq_unpack_options;

/* Read a weight from a format's planes, given by name in any order; planes the format does not know are errors.
 * Shapes and dtypes are checked against each other.  CUDA_BLOCK and CPU_STREAM describe themselves: what the options
 * say must agree, and they may say nothing. */
AWQ_API awq_status awq_unpack(awq_context *context, int32_t layout, size_t count, const char *const *names,
                              const awq_tensor *const *planes, const awq_unpack_options *options, awq_weight **weight);

/* Put a bias [N] (F32, F16 or BF16) in the order in which the kernels of a format take it, and back.  Marlin's, as vLLM
 * runs them, have one of their own; for other formats it is a copy.  'out' has the same dtype and does not overlap
 * 'bias'. */
AWQ_API awq_status awq_pack_bias(int32_t layout, const awq_tensor *bias, awq_tensor *out);
AWQ_API awq_status awq_unpack_bias(int32_t layout, const awq_tensor *bias, awq_tensor *out);

/* ---------------------------------------------------------------------------------- linears */

/* A weight prepared for one device: y = epilogue(x / input_scale, W, bias).  Immutable; runs concurrently. */
typedef struct awq_linear awq_linear;
typedef struct awq_tuning awq_tuning;

/* What activations may lose inside a product: by how much each x may differ, before it is multiplied, from what was given.
 * DEFAULT is BF16 for BF16 input, else SPLIT; on CUDA single precision for F32 input and the input's own precision for others.
 * Sums are in single precision whatever the mode, and a device may keep more than was asked for.  On the CPU a sum is taken as
 * sum of q x less z times sum of x, so that what rounding costs it goes with the magnitude of (q + z) s x. */
enum {
    AWQ_ACTIVATION_DEFAULT = 0,
    AWQ_ACTIVATION_EXACT = 1, /* single precision: 2^-23 of the largest |x| among 128 neighbours in a group, or less */
    AWQ_ACTIVATION_SPLIT = 2, /* that, and 2^-17 |x|: two bfloat16 terms */
    AWQ_ACTIVATION_BF16 = 3,  /* that, and 2^-8 |x|: one bfloat16 term; nothing for BF16 input with no norm or input scale */
    AWQ_ACTIVATION_INT8 = 4   /* eight bits per block of inputs: 2^-8 of the largest |x| among 32 neighbours in a group */
};

enum {
    AWQ_KERNEL_AUTO = 0,
    AWQ_KERNEL_REFERENCE = 1, /* the readable loop that defines the operation */
    AWQ_KERNEL_GEMV = 2,      /* few rows: bound by reading the weight */
    AWQ_KERNEL_GEMM = 3,      /* many rows: bound by arithmetic */
    AWQ_KERNEL_MARLIN = 4,
    AWQ_KERNEL_HOPPER = 5,
    AWQ_KERNEL_DEQUANT = 6    /* dequantise, then a dense product */
};

/* "reference", "gemv", ..; NULL for a number that is no kernel. */
AWQ_API const char *awq_kernel_name(int32_t kernel);

enum {
    AWQ_LINEAR_SILU_MUL = 1 /* outputs are gate rows then up rows: y[..][N/2] = silu(gate) * up */
};

typedef struct awq_linear_options {
    uint32_t struct_size;
    uint32_t flags;           /* AWQ_LINEAR_* */
    int32_t activation;       /* AWQ_ACTIVATION_* */
    int32_t kernel;           /* force one for all batch sizes; AWQ_KERNEL_AUTO: chosen per batch size */
    const awq_tensor *bias;   /* F32, F16 or BF16 [N], copied; NULL: none */
    const awq_tuning *tuning; /* measured choices; is kept.  NULL: the built-in table */
} awq_linear_options;

/* Lay the weight out for the device.  'weight' is kept only as far as the device's kernels need its planes. */
AWQ_API awq_status awq_linear_create(awq_context *context, const awq_weight *weight, const awq_linear_options *options,
                                     awq_linear **linear);

/* The same for a dense weight W[N][K] (F32, F16 or BF16), copied: the baseline, and the layers left as they are. */
AWQ_API awq_status awq_linear_create_dense(awq_context *context, const awq_tensor *w, const awq_linear_options *options,
                                           awq_linear **linear);
AWQ_API void awq_linear_destroy(awq_linear *linear);

typedef struct awq_linear_info {
    uint32_t struct_size;
    int32_t bits;        /* 16 or 32 for a dense linear */
    int64_t inputs;      /* K */
    int64_t outputs;     /* columns of y: N, or N / 2 with AWQ_LINEAR_SILU_MUL */
    uint64_t size_bytes; /* held on the device */
} awq_linear_info;

AWQ_API awq_status awq_linear_get_info(const awq_linear *linear, awq_linear_info *info);

/* Which kernel runs for 'rows' rows of x, and why the others were passed over, as a few lines of text. */
AWQ_API awq_status awq_linear_describe(const awq_linear *linear, int64_t rows, char *buffer, size_t capacity,
                                       size_t *length);

/* Bytes of workspace that a run of up to 'max_rows' rows needs; 0 when none, or when 'linear' is NULL. */
AWQ_API uint64_t awq_linear_workspace_size(const awq_linear *linear, int64_t max_rows);

typedef struct awq_run_options {
    uint32_t struct_size;
    uint32_t flags;                /* zero */
    void *stream;                  /* cudaStream_t the work is enqueued on; NULL: the default stream.  CPU: NULL. */
    void *workspace;               /* on the device, aligned to 256 bytes; NULL: allocated through the context */
    uint64_t workspace_bytes;
    const awq_tensor *norm_weight; /* [K]: x is RMS-normalised and multiplied by this first; NULL: no prologue */
    double norm_epsilon;
    const awq_tensor *residual;    /* of y's shape: added to the result; may be y itself; NULL: none */
} awq_run_options;

/* y[..][N] = x[..][K] W^T + bias (+ residual).  x, y and residual are F32, F16 or BF16 with a contiguous last dimension; y is
 * overwritten and never read, unless it is the residual.  Zero rows are fine.  With a workspace nothing is allocated.  On CUDA
 * the work is only enqueued, in order with the stream, and faults surface at awq_context_synchronize.
 *
 * AWQ_ERROR_INVALID for a shape, dtype or device that does not fit, or a short workspace; y is untouched then. */
AWQ_API awq_status awq_linear_run(const awq_linear *linear, const awq_tensor *x, awq_tensor *y,
                                  const awq_run_options *options);

/* Kernel choice as a pure function: nothing is read but the two structs. */
typedef struct awq_kernel_request {
    uint32_t struct_size;
    int32_t bits;       /* 0: 4; 16 or 32 for a dense weight */
    int64_t n;
    int64_t k;
    int64_t group_size; /* 0: 128 */
    int64_t rows;
    uint32_t flags;     /* AWQ_QUANTIZE_SYMMETRIC */
    int32_t dtype;      /* of the activations; 0: AWQ_F16 */
    int32_t activation; /* AWQ_ACTIVATION_* */
    int32_t reserved;
} awq_kernel_request;

/* *kernel gets the choice; the text says, line by line, why it was taken and each other one passed over. */
AWQ_API awq_status awq_kernel_select(const awq_device_info *device, const awq_kernel_request *request, int32_t *kernel,
                                     char *buffer, size_t capacity, size_t *length);

/* Measure every kernel that takes a weight's shape on this device, for batch sizes 1, 2, 4, .. max_rows (0: 512), and keep the
 * fastest of each.  'weights' differ in shape or quantisation; equal ones are measured once.  A tuning is a small text file when saved;
 * one made on another device or by another version of the kernels is refused (AWQ_ERROR_VERSION) when a linear is created. */
AWQ_API awq_status awq_tuning_measure(awq_context *context, size_t count, const awq_weight *const *weights,
                                      int64_t max_rows, awq_tuning **tuning);
AWQ_API awq_status awq_tuning_save(const awq_tuning *tuning, const char *path);
AWQ_API awq_status awq_tuning_load(awq_context *context, const char *path, awq_tuning **tuning);
AWQ_API void awq_tuning_destroy(awq_tuning *tuning);

/* ------------------------------------------------------------------------------ checkpoints */

/* A safetensors file (github.com/huggingface/safetensors), or a directory of them with or without
 * model.safetensors.index.json.  Files are mapped, not read; every name, dtype, shape, offset and overlap in their headers is
 * verified before a byte of a tensor is looked at.  The rare tensor that is not aligned to its element in the file is copied.
 * In a directory model.safetensors counts alone; without it the files of the index; without that every *.safetensors. */
typedef struct awq_checkpoint awq_checkpoint;

AWQ_API awq_status awq_checkpoint_open(awq_context *context, const char *path, awq_checkpoint **checkpoint);
AWQ_API void awq_checkpoint_destroy(awq_checkpoint *checkpoint);

/* Tensors are ordered by name, bytewise.  A name is valid as long as the checkpoint; NULL out of range. */
AWQ_API int64_t awq_checkpoint_count(const awq_checkpoint *checkpoint);
AWQ_API const char *awq_checkpoint_name(const awq_checkpoint *checkpoint, int64_t index);

/* A read-only view into the mapping, valid as long as the checkpoint.  AWQ_ERROR_NOT_FOUND names what was asked for. */
AWQ_API awq_status awq_checkpoint_get(const awq_checkpoint *checkpoint, const char *name, awq_tensor *view);

/* The pages of this tensor are not needed for now: they leave the process's memory and come back from the file when
 * touched.  Keeps the peak of a block-by-block job to one block. */
AWQ_API awq_status awq_checkpoint_release(const awq_checkpoint *checkpoint, const char *name);

/* The value of a __metadata__ key of the first file, or NULL. */
AWQ_API const char *awq_checkpoint_metadata(const awq_checkpoint *checkpoint, const char *key);

enum {
    AWQ_WRITER_REPLACE = 1 /* a model directory at the path is replaced at commit; default: refused at creation.  One
                              that holds directories, or files but no .safetensors, is no model and always refused */
};

typedef struct awq_checkpoint_writer_options {
    uint32_t struct_size;
    uint32_t flags;         /* AWQ_WRITER_* */
    uint64_t shard_bytes;   /* begin a new file before one exceeds this; 0: 5 GB, as Hugging Face does */
    int64_t expected_tensors; /* room kept for the header of a file; more tensors begin a new one; 0: 1024 */
} awq_checkpoint_writer_options;

/* Writes a model directory: model.safetensors, or numbered shards with their index, and any other files.  Everything goes to a
 * temporary directory beside 'path', is synced, and takes its name at commit in one rename, so a kill at any moment leaves the
 * old directory or the new one.  Destroying an uncommitted writer removes the temporary directory. */
typedef struct awq_checkpoint_writer awq_checkpoint_writer;

AWQ_API awq_status awq_checkpoint_writer_create(awq_context *context, const char *path,
                                                const awq_checkpoint_writer_options *options,
                                                awq_checkpoint_writer **writer);

/* Append a tensor of any dtype and strides; its bytes are on their way to the disk on return.  AWQ_ERROR_INVALID for a name that
 * was added before. */
AWQ_API awq_status awq_checkpoint_writer_add(awq_checkpoint_writer *writer, const char *name, const awq_tensor *tensor);

/* A file beside the tensors: config.json, a tokenizer.  'name' has no slash. */
AWQ_API awq_status awq_checkpoint_writer_add_file(awq_checkpoint_writer *writer, const char *name, const void *bytes,
                                                  uint64_t size);
AWQ_API awq_status awq_checkpoint_writer_commit(awq_checkpoint_writer *writer);
AWQ_API void awq_checkpoint_writer_destroy(awq_checkpoint_writer *writer);

/* ---------------------------------------------------------------------------------- memory */

/* What a decoder model needs in bytes, computed from its shape before any of it is loaded. */
enum { AWQ_MODEL_TIED_HEAD = 1, AWQ_MODEL_GATED_MLP = 2 };

typedef struct awq_memory_request {
    uint32_t struct_size;
    uint32_t flags; /* AWQ_MODEL_* */
    int64_t layers;
    int64_t hidden;
    int64_t intermediate;
    int64_t heads;
    int64_t kv_heads;
    int64_t head_dim;
    int64_t vocabulary;
    int64_t experts;            /* MLPs per layer; 0: 1 */
    int32_t bits;               /* of the quantised linears; 0: 4; 16: not quantised */
    uint32_t quantize_flags;    /* AWQ_QUANTIZE_SYMMETRIC */
    int64_t group_size;         /* 0: 128 */
    int64_t batch;              /* sequences at run time; 0: 1 */
    int64_t context_tokens;     /* positions in the KV cache of each */
    int64_t kv_element_bytes;   /* 0: 2 */
    int64_t calibration_tokens; /* whose activations flow through the blocks while quantising */
} awq_memory_request;

typedef struct awq_memory_estimate_result {
    uint32_t struct_size;
    uint32_t reserved;
    uint64_t codes_bytes;     /* quantised linears: codes, */
    uint64_t scales_bytes;    /* FP16 scales, */
    uint64_t zeros_bytes;     /* and packed zero points */
    uint64_t dense_bytes;     /* embeddings, head and norms in FP16 */
    uint64_t kv_cache_bytes;
    uint64_t activation_bytes; /* of one decoding step */
    uint64_t inference_bytes;  /* all of the above */
    uint64_t quantize_bytes;   /* peak while quantising block by block */
} awq_memory_estimate_result;

AWQ_API awq_status awq_memory_estimate(const awq_memory_request *request, awq_memory_estimate_result *result);

#ifdef __cplusplus
}
#endif

#endif /* AWQ_H */
