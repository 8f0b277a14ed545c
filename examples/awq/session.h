/* What the forward pass and the devices that it runs on share.
 *
 * forward.c has the pass: which step follows which, and the linears, which are the library's.  The steps between linears
 * are a device's: forward_cpu.c has those of the processor, forward_cuda.c those of a GPU.  A pass computes with memory
 * of its context; on a GPU it only enqueues, in order, on the session's stream. */
#ifndef AWQ_APP_SESSION_H
#define AWQ_APP_SESSION_H

#include "model.h"

struct steps;

struct session {
    awq_context *context;
    struct model_config config; /* without the JSON */
    struct session_options options;
    const struct steps *steps;
    void *own;                  /* what the steps keep */
    void *stream;               /* NULL on the processor */
    int32_t dtype;              /* of activations between linears */

    /* In host memory: how many positions each sequence holds; of the batch at work, where it places each row. */
    int64_t *lengths;           /* [sequences] */
    int64_t *row_sequence, *row_position; /* [max_rows] */
    int64_t *sent_rows;         /* [max_rows]: those that an expert takes */

    /* In memory of the context. */
    float *rotary;              /* [capacity][2][head_dim / 2]: cosines, then sines */
    char *cache;                /* keys and values, as the steps have them: [layers or 1] of steps->cache_bytes */
    float *qkv;                 /* [max_rows][qkv_width] */
    void *normed, *mixed, *middle, *up; /* [max_rows] of dtype: inputs of linears */
    float *shares;              /* [max_rows][experts]: what each of them adds to a row's output; NULL: no experts */
    float *sent, *returned;     /* [max_rows][hidden]: input and output of one */
    void *workspace;            /* of linears */
    uint64_t workspace_bytes;
};

static inline int64_t attention_width(const struct model_config *config) { return config->heads * config->head_dim; }

static inline int64_t shared_width(const struct model_config *config) { return config->kv_heads * config->head_dim; }

static inline int64_t qkv_width(const struct model_config *config)
{
    return attention_width(config) + 2 * shared_width(config);
}

/* Attention of one block over the batch that was begun. */
struct attention {
    struct session *session;
    const struct block *block;
    const struct batch *batch;
    void *cache;    /* of this block */
    void *mixed;    /* [rows][heads * head_dim] of session->dtype, from the session's qkv */
    int64_t rows;
    int64_t window; /* keys a query sees at most, 0: all before it */
};

/* A pass over all layers. */
typedef bool (*pass_function)(const struct model *model, struct session *session, const struct batch *batch,
                              float *hidden);

struct steps {
    /* What a model needs and the steps do not have; NULL: nothing. */
    const char *(*lacks)(const struct model_config *config);

    /* Of activations between linears. */
    int32_t (*activation_dtype)(const awq_context *context, const struct model_config *config);

    /* Bytes for keys and values of one layer. */
    uint64_t (*cache_bytes)(const struct model_config *config, const struct session_options *options);

    /* After all of the session's memory was allocated; and before it goes, whether or not 'open' has been called. */
    bool (*open)(struct session *session);
    void (*close)(struct session *session);

    /* row_sequence, row_position are set for a batch of these tokens. */
    bool (*begin)(struct session *session, const struct batch *batch, const int32_t *tokens);

    /* hidden[rows] = the embeddings of the tokens that were begun. */
    bool (*embed)(struct session *session, const struct embeddings *embeddings, const int32_t *tokens, int64_t rows,
                  float *hidden);

    /* See norm_rows; 'out' is of 'dtype' and may be x itself. */
    bool (*norm)(struct session *session, const float *x, int64_t rows, const struct norm *norm, int32_t dtype,
                 void *out);

    /* Norm and rotate queries and keys, put keys and values into the cache, and attend. */
    bool (*attend)(const struct attention *attention);

    /* See activate, with the model's activation; all of session->dtype. */
    bool (*activate)(struct session *session, const void *x, const void *up, int64_t up_stride, int64_t rows,
                     int64_t width, void *out);

    /* Call 'pass', or do again what an earlier call did with the same arguments but for what 'begin' was given. */
    bool (*run)(struct session *session, pass_function pass, const struct model *model, const struct batch *batch,
                float *hidden);

    /* See model_argmax, model_scores and session_difference. */
    bool (*argmax)(struct session *session, const float *logits, int64_t rows, int32_t *tokens);
    bool (*scores)(struct session *session, const float *logits, const float *reference, const int32_t *targets,
                   int64_t rows, struct score *scores);
    bool (*difference)(struct session *session, const float *a, const float *b, int64_t count, double *sum);
};

extern const struct steps cpu_steps, cuda_steps;

/* Where the context computes. */
const struct steps *steps_of(const awq_context *context);

#endif
