/* Decoder models: their configuration, weights, forward pass and key/value cache.
 *
 * architecture.c says what differs between architectures, config.c reads config.json, model.c the weights, forward.c
 * computes, in memory of the context: of one on a GPU all arrays of floats below are the GPU's.  Activations are
 * row-major, one row a token.  Functions that can fail return false when they did, and have said why (cli_error); they
 * leave their outputs empty. */
#ifndef AWQ_APP_MODEL_H
#define AWQ_APP_MODEL_H

#include <jansson.h>
#include <stdbool.h>

#include "architecture.h"
#include "awq.h"
#include "context.h"
#include "quantization.h"
#include "scores.h"

/* ---- config.c */

enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3 };

enum { MAX_HEAD_DIM = 1024 };

/* config.json, checked: every number is in its range and the shapes fit each other. */
struct model_config {
    const struct architecture *architecture;
    int64_t layers, hidden, intermediate; /* the last of the MLP, or of each expert */
    int64_t experts, experts_per_token;   /* 0: one MLP for all tokens */
    int64_t shared_intermediate;          /* of the expert for all tokens; 0: none */
    bool normalizes_experts;              /* the weights of those chosen add up to 1 */
    int64_t heads, kv_heads, head_dim;
    int64_t vocabulary;
    int64_t context;                  /* max_position_embeddings */
    int64_t sliding_window;           /* keys a query sees at most; 0: all before it */
    int64_t first_windowed_layer;     /* layers from here on are windowed */
    double norm_epsilon;
    enum activation activation;       /* of MLPs */
    double embedding_scale;           /* that embeddings are multiplied by */
    double rope_theta;
    enum rope_type rope_type;
    double rope_factor, rope_low_frequency_factor, rope_high_frequency_factor, rope_original_context;
    bool qkv_bias, output_bias, mlp_bias; /* whether those linears have biases */
    bool tied_head;                       /* lm_head is the embedding */
    int32_t dtype;                        /* torch_dtype: AWQ_F16, AWQ_BF16 or AWQ_F32; 0: not said */

    struct quantization quantization; /* of linears */

    json_t *json; /* the whole document, for what is written on */
};

/* Read and check DIRECTORY/config.json.  What is wrong is named by its key; an architecture, activation, rotary
 * scaling or quantisation that is not served is named beside those that are. */
bool model_config_load(const char *directory, struct model_config *config);
void model_config_clear(struct model_config *config);

/* ---- model.c */

enum { TENSOR_NAME_SIZE = 128 };

/* "model.layers.7.self_attn.q_proj", without the ".weight".  Linears that are stored together share a name. */
void block_linear_name(const struct model_config *config, int64_t layer, int linear, char name[TENSOR_NAME_SIZE]);

/* Any module of a block: block_tensor_name(config, 7, "input_layernorm", name). */
void block_tensor_name(const struct model_config *config, int64_t layer, const char *part,
                       char name[TENSOR_NAME_SIZE]);

/* How many MLPs a block has: one, or the experts and last the one for all tokens; how wide one of them is; and how many
 * linears that makes. */
int block_mlps(const struct model_config *config);
int64_t block_mlp_width(const struct model_config *config, int mlp);
int block_linears(const struct model_config *config);

/* How many linears, from this one on, are one tensor. */
int block_stored_together(const struct model_config *config, int linear);

/* Whether the architecture has the linear, its outputs and inputs (of one that it has not, no outputs), and whether it
 * has a bias. */
bool block_has_linear(const struct model_config *config, int linear);
void block_linear_shape(const struct model_config *config, int linear, int64_t *n, int64_t *k);
bool block_linear_has_bias(const struct model_config *config, int linear);

/* Whether positive factors of up's outputs reach down as they are: they are no part of an activation, or of ReLU. */
bool block_scales_pass(const struct model_config *config);

/* The weights of one linear: quantised, or else dense. */
struct linear_weights {
    awq_weight *quantized; /* owned by whoever owns the struct; NULL: dense */
    awq_tensor dense;      /* [N][K], F32, F16 or BF16; data is NULL when quantised */
    awq_tensor bias;       /* [N]; data is NULL when there is none */
};

/* A norm over [channels]. */
struct norm_weights {
    awq_tensor weight;
    awq_tensor bias; /* data is NULL when there is none */
};

/* The weights of one block.  Tensors are views: into a checkpoint after block_weights_load, into memory of the caller's
 * when it puts its own in their place. */
struct block_weights {
    int64_t layer;
    struct linear_weights *linear; /* [linears] */
    int linears;
    awq_tensor activation_scales;  /* [intermediate]: what the activation is divided by; data is NULL when nothing */
    struct linear_weights router, shared_gate; /* dense; without data when there is none */
    struct norm_weights attention_norm, mlp_norm; /* [hidden] */
    struct norm_weights q_norm, k_norm;           /* [head_dim]; data is NULL without them */
};

/* Whether q, k and v (from LINEAR_Q on) or gate and up of an MLP (from its gate on) become one linear at run time:
 * dense ones of one dtype, or quantised ones alike. */
bool block_can_fuse(const struct model_config *config, const struct block_weights *weights, int first);

/* Find the block's tensors, check their shapes, and unpack what is quantised. */
bool block_weights_load(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                        int64_t layer, struct block_weights *weights);

/* Destroy the quantised weights; views just go. */
void block_weights_clear(struct block_weights *weights);

/* Let the pages of the block's tensors leave memory.  Views stay valid. */
void block_weights_release(const awq_checkpoint *checkpoint, const struct model_config *config, int64_t layer);

/* Linears as one, as they are stored together: all of them quantised, or none.  One alone is only borrowed. */
struct joined_weights {
    struct linear_weights whole;
    bool borrowed;
};

bool linear_weights_join(awq_context *context, const struct linear_weights *linears, size_t count, const char *name,
                         struct joined_weights *joined);
void joined_weights_clear(awq_context *context, struct joined_weights *joined);

/* A block prepared to run.  Linears that share an input are one where they could be fused: then 'qkv' (rows of q, k,
 * v) stands in for the first three of 'linear', and 'gate_up' (with AWQ_LINEAR_SILU_MUL) for gate and up of an MLP,
 * which are NULL. */
struct norm {
    float *weight;
    float *bias; /* NULL when there is none */
};

struct block {
    int64_t layer;
    awq_linear *qkv;
    awq_linear **linear;  /* [linears] */
    awq_linear **gate_up; /* [mlps] */
    int linears, mlps;
    float *activation_factors;        /* [intermediate]: 1 / activation_scales; NULL when there are none */
    awq_linear *router, *shared_gate; /* NULL when there is none */
    struct norm attention_norm, mlp_norm;
    struct norm q_norm, k_norm; /* NULL without them */
};

/* Copies what it needs: 'weights' may be cleared and released afterwards.  Without 'fuse' all linears stay apart.
 * 'tuning' chooses their kernels; NULL: the library. */
bool block_create(awq_context *context, const struct model_config *config, const struct block_weights *weights,
                  bool fuse, const awq_tuning *tuning, struct block *block);
void block_clear(awq_context *context, struct block *block);

/* The quantised weights that the block would run with, those of one input as one where they can be fused: at most
 * block_linears, which are the caller's to destroy. */
bool block_run_weights(const struct model_config *config, const struct block_weights *weights, bool fuse,
                       awq_weight **list, size_t *count);

struct model_options {
    bool no_fuse;       /* see block_create */
    const char *tuning; /* file with measured choices of kernels; NULL: none */
};

/* What the weights take. */
struct model_sizes {
    int64_t total_weights;      /* numbers in the model as it would be unquantised; a tied head counts once */
    uint64_t total_bytes;       /* as stored */
    int64_t quantized_weights;  /* those in quantised linears, */
    uint64_t quantized_bytes;   /* with their scales and zero points as stored */
};

/* How tokens become the first block's input: scaled rows of the one, and added to them rows of the other. */
struct embeddings {
    awq_tensor tokens;    /* [vocabulary][hidden], a view into the checkpoint or of memory of the context */
    awq_tensor positions; /* [first_position + context][hidden]; data is NULL when positions are not learned */
};

struct model {
    awq_context *context;
    awq_checkpoint *checkpoint;
    struct model_config config;
    struct block *blocks;
    awq_tuning *tuning; /* NULL: none */
    struct embeddings embeddings;
    void *embedding_memory; /* of the context */
    struct norm final_norm;
    awq_linear *head;
    struct model_sizes sizes;
};

/* Find the embeddings and the final norm, and check their shapes. */
bool model_ends_find(const awq_checkpoint *checkpoint, const struct model_config *config,
                     struct embeddings *embeddings, struct norm_weights *norm);

/* Where the context is on a GPU, let *tensor be a copy there, as 'dtype', in *memory, which is the caller's to free
 * with awq_context_free. */
bool tensor_bring(awq_context *context, const char *name, int32_t dtype, awq_tensor *tensor, void **memory);

/* Whether the device of the context has all that models so configured need. */
bool model_check_device(const awq_context *context, const struct model_config *config);

/* Open a model directory and prepare all its weights.  'options' may be NULL. */
bool model_open(awq_context *context, const char *directory, const struct model_options *options,
                struct model **model);
void model_close(struct model *model);

/* ---- forward.c */

/* Room to run in: activations of up to max_rows tokens, and keys and values of 'sequences' sequences of up to
 * 'capacity' positions.  All of it is allocated through the context, when the session is created. */
struct session_options {
    int64_t max_rows;  /* tokens of all sequences together in one call */
    int64_t sequences;
    int64_t capacity;  /* positions of each */
    bool retain;       /* keep keys and values from call to call, of every layer (generation) */
};

struct session;

bool session_create(awq_context *context, const struct model_config *config,
                    const struct session_options *options, struct session **session);
void session_destroy(struct session *session);

/* What a session will allocate, about, before it does. */
uint64_t session_bytes(awq_context *context, const struct model_config *config,
                       const struct session_options *options);

/* The same on a device of a type (AWQ_DEVICE_*), which need not be here: keys and values, and all else. */
struct session_sizes {
    uint64_t cache, activations;
};

struct session_sizes session_sizes_on(int32_t device_type, const struct model_config *config,
                                      const struct session_options *options);

/* How many positions a sequence holds; and forget those from 'length' on. */
int64_t session_length(const struct session *session, int64_t sequence);
void session_truncate(struct session *session, int64_t sequence, int64_t length);

/* counts[i] new tokens for sequence i of the session; their rows follow one another.  A count may be 0. */
struct batch {
    int64_t sequences;
    const int64_t *counts;
};

int64_t batch_rows(const struct batch *batch);

/* hidden[rows][hidden] = the final norm's output for the batch's tokens, which continue the session's sequences when it
 * retains, and else begin at position 0.  Fails for a token outside the vocabulary, or past the capacity. */
bool model_forward(const struct model *model, struct session *session, const struct batch *batch,
                   const int32_t *tokens, float *hidden);

/* logits[rows][vocabulary] from rows of what model_forward gave. */
bool model_logits(const struct model *model, struct session *session, const float *hidden, int64_t rows,
                  float *logits);

/* tokens[rows], on the host: of each row of logits the first of the highest; -1 where one is NaN or +infinity. */
bool model_argmax(struct session *session, const float *logits, int64_t rows, int32_t *tokens);

/* scores[rows], on the host, of logits and a reference's (NULL: none), for targets[rows] on the host. */
bool model_scores(struct session *session, const float *logits, const float *reference, const int32_t *targets,
                  int64_t rows, struct score *scores);

/* The first block's input for sequences of the session's capacity, one after the other. */
bool session_embed(struct session *session, const struct embeddings *embeddings, const int32_t *tokens, int64_t count,
                   float *hidden);

/* Copy, in order with the session's work; types may differ. */
bool session_copy(struct session *session, const awq_tensor *from, awq_tensor *to);

/* The values once they are computed, as the host can read them: where they are, or in room[count].  NULL after a
 * message. */
const float *session_read(struct session *session, const float *values, int64_t count, float *room);

/* *sum = sum of (a - b)^2. */
bool session_difference(struct session *session, const float *a, const float *b, int64_t count, double *sum);

/* The type of activations between linears: F32 on the processor, the model's 16-bit type on a GPU. */
int32_t activation_dtype(const awq_context *context, const struct model_config *config);

/* Where activations enter linears: the input of q, k, v; of o; of gate and up, of all MLPs; of down, of the first MLP.
 * Those of the other MLPs' down follow. */
enum { POINT_QKV, POINT_O, POINT_GATE_UP, POINT_DOWN, POINT_KINDS };

int block_points(const struct model_config *config);

/* Sees x[rows][inputs] at such a point; a failure ends the pass and is returned.  An expert's down sees only the tokens
 * that were sent to it. */
typedef bool (*block_tap)(void *user_data, int point, const awq_tensor *x);

/* One whole block, in place: hidden += attention(norm(hidden)), then hidden += mlp(norm(hidden)).  'tap' may be
 * NULL. */
bool block_forward(struct session *session, const struct block *block, const struct batch *batch, float *hidden,
                   block_tap tap, void *tap_data);

/* Its halves, from inputs[rows][hidden] that are normalised already.  'residual' is added to 'output' and may be
 * 'output' itself or NULL.  A caller may swap linears in a copy of the struct block to see what others would give; each
 * half reads only the linears of its own.
 *   context[rows][heads * head_dim], of activation_dtype(), is the input of o. */
bool block_context(struct session *session, const struct block *block, const struct batch *batch,
                   const awq_tensor *normed, void *context);
bool block_attention(struct session *session, const struct block *block, const struct batch *batch,
                     const awq_tensor *normed, const float *residual, float *output);
bool block_mlp(struct session *session, const struct block *block, const awq_tensor *normed, const float *residual,
               float *output);

/* ---- forward_cpu.c: steps of the processor's */

/* out[rows][width] = x / sqrt(mean(x^2) + epsilon) * weight; with a bias LayerNorm, (x - mean) / sqrt(variance +
 * epsilon) * weight + bias.  'out' may be 'x'. */
bool norm_rows(awq_context *context, const float *x, int64_t rows, int64_t width, const struct norm *norm,
               double epsilon, float *out);

/* out[rows][width] = activation(x), times 'up' where that is not NULL: of up_stride from row to row, 0 when it is the
 * same for all.  'out' may be either. */
bool activate(awq_context *context, enum activation activation, const float *x, const float *up, int64_t up_stride,
              int64_t rows, int64_t width, float *out);

#endif
