/* What the host application asks of its library of CUDA kernels, libawq_app_cuda.so: everything of a forward pass but
 * the linears, which are libawq's.
 *
 * The library exports one function, app_cuda_kernels_get, which gives the table.  Functions return 0 or the number of
 * an error of the CUDA runtime.  Pointers are to device memory, except where "host" is said; matrices are row-major
 * without gaps.  Work is enqueued on 'stream', in order; only 'download' and 'close' wait for it.
 *
 * Structs have no padding: kernels take them whole. */
#ifndef APP_CUDA_KERNELS_H
#define APP_CUDA_KERNELS_H

#include <stdint.h>

#define APP_CUDA_KERNELS_VERSION 2u

/* Floats of a dtype of awq.h: AWQ_F32, AWQ_F16 or AWQ_BF16. */
struct cuda_floats {
    void *data;
    int64_t dtype;
};

/* A token of the batch: which of the session's sequences it continues, and at which position. */
struct cuda_row {
    int32_t token, sequence, position;
};

/* The batch's rows of one sequence. */
struct cuda_span {
    int32_t first, count;
};

/* hidden[rows][width] (F32) = table[rows[i].token]. */
struct cuda_embed {
    struct cuda_floats table; /* [..][width] */
    const struct cuda_row *rows;
    float *hidden;
    int64_t count, width;
};

/* out = x / sqrt(mean(x^2) + epsilon) * weight, row by row. */
struct cuda_norm {
    const float *x, *weight;
    struct cuda_floats out;
    int64_t rows, width;
    double epsilon;
};

/* Keys and values of one layer, FP16: [sequence][kv head][capacity][pitch], of which pitch - head_dim are zeros. */
struct cuda_cache {
    void *keys, *values;
    int64_t capacity, pitch;
};

/* One layer's attention over the batch.  qkv[rows][(heads + 2 kv_heads) head_dim] (F32) holds queries, keys, values. */
struct cuda_attention {
    float *qkv;
    struct cuda_floats mixed;      /* [rows][heads * head_dim] */
    struct cuda_cache cache;
    const struct cuda_row *rows;   /* [row_count] */
    const struct cuda_span *spans; /* [sequences] */
    const float *rotary;           /* [capacity][2][head_dim / 2]: cosines, then sines */
    const float *q_norm, *k_norm;  /* [head_dim]; NULL: none */
    float *scratch;                /* cuda_attention_scratch() floats; unused with one split */
    int64_t row_count, sequences, longest; /* rows of the sequence that has most */
    int64_t heads, kv_heads, head_dim;
    int64_t window;                /* keys a query sees at most; 0: all before it */
    int64_t splits;                /* blocks that share the keys of one query, 1 .. CUDA_MAX_SPLITS */
    double epsilon;
};

enum { CUDA_MAX_SPLITS = 16 };

/* Elements of a cached key or value from one position to the next, so that lanes load whole words. */
static inline int64_t cuda_cache_pitch(int64_t head_dim)
{
    int64_t lane = head_dim <= 64 ? 2 : head_dim <= 128 ? 4 : 8;
    return (head_dim + lane - 1) / lane * lane;
}

static inline int64_t cuda_attention_scratch(int64_t rows, int64_t heads, int64_t head_dim)
{
    return rows * heads * CUDA_MAX_SPLITS * (head_dim + 2);
}

/* out = silu(gate) * up; all of one dtype. */
struct cuda_silu_mul {
    struct cuda_floats gate, up, out;
    int64_t count;
};

/* tokens[rows] = the first of the highest logits of each row; -1 where one is NaN or +infinity. */
struct cuda_argmax {
    const float *logits;
    int32_t *tokens;
    int64_t rows, vocabulary;
};

/* How well a row of logits predicts its target, and how far it is from a reference. */
struct cuda_score {
    double loss, reference_loss, divergence;
    int64_t rank; /* how many tokens it puts before the reference's likeliest */
};

struct cuda_scores {
    const float *logits, *reference; /* [rows][vocabulary]; reference NULL: none */
    const int32_t *targets;          /* [rows] */
    struct cuda_score *scores;       /* [rows] */
    int64_t rows, vocabulary;
};

/* sums[cuda_difference_sums(count)]: their total is the sum of (a - b)^2. */
enum { CUDA_MAX_DIFFERENCE_SUMS = 512 };

static inline int64_t cuda_difference_sums(int64_t count)
{
    int64_t sums = count / 4096 + 1, most = CUDA_MAX_DIFFERENCE_SUMS;
    return sums < most ? sums : most;
}

struct cuda_difference {
    const float *a, *b;
    double *sums;
    int64_t count;
};

struct cuda_kernels {
    uint32_t version; /* APP_CUDA_KERNELS_VERSION */
    const char *(*error_text)(int error);

    /* A stream on a device, which takes turns with the default stream. */
    int (*open)(int device, void **stream);
    int (*close)(void *stream);

    int (*upload)(void *device, const void *host, uint64_t bytes, void *stream);
    int (*download)(void *host, const void *device, uint64_t bytes, void *stream);

    /* What is enqueued between 'capture' and 'captured' is not run, but becomes a graph (NULL after an error). */
    int (*capture)(void *stream);
    int (*captured)(void *stream, void **graph);
    int (*replay)(void *graph, void *stream);
    void (*forget)(void *graph);

    int (*embed)(const struct cuda_embed *job, void *stream);
    int (*norm)(const struct cuda_norm *job, void *stream);
    /* Norm and rotate queries and keys, put keys and values into the cache; then attend. */
    int (*place)(const struct cuda_attention *job, void *stream);
    int (*attend)(const struct cuda_attention *job, void *stream);
    int (*silu_mul)(const struct cuda_silu_mul *job, void *stream);
    int (*argmax)(const struct cuda_argmax *job, void *stream);
    int (*scores)(const struct cuda_scores *job, void *stream);
    int (*difference)(const struct cuda_difference *job, void *stream);
};

typedef const struct cuda_kernels *(*app_cuda_kernels_get_function)(void);

#endif
