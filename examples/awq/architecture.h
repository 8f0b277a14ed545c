/* What one architecture differs in from another: a row of a table, which config.c, model.c and what follows read. */
#ifndef AWQ_APP_ARCHITECTURE_H
#define AWQ_APP_ARCHITECTURE_H

#include <stdbool.h>
#include <stdint.h>

/* The linear layers of a block.  They are numbered so; where there are several MLPs, as experts are, gate, up and down
 * of the next ones follow. */
enum { LINEAR_Q, LINEAR_K, LINEAR_V, LINEAR_O, LINEAR_GATE, LINEAR_UP, LINEAR_DOWN, LINEAR_KINDS };
enum { MLP_LINEARS = LINEAR_KINDS - LINEAR_GATE };

static inline int mlp_linear(int mlp, int kind) { return kind + MLP_LINEARS * mlp; }
static inline int linear_mlp(int linear) { return linear < LINEAR_GATE ? 0 : (linear - LINEAR_GATE) / MLP_LINEARS; }
static inline int linear_kind(int linear) { return linear - MLP_LINEARS * linear_mlp(linear); }

/* Which layers see a window of the keys before them only: none; all; or the later ones, when config.json says so. */
enum window_kind { WINDOW_NONE, WINDOW_ALL_LAYERS, WINDOW_LATER_LAYERS };

/* RMSNorm; the same, whose weights are stored less one; LayerNorm, which has biases. */
enum norm_kind { NORM_RMS, NORM_RMS_PLUS_ONE, NORM_LAYER };

enum activation { ACTIVATION_SILU, ACTIVATION_GELU, ACTIVATION_GELU_TANH, ACTIVATION_RELU };

struct architecture {
    const char *model_type, *class_name; /* as config.json has them */
    const char *gguf;                    /* as GGUF calls it; NULL: it is not written as that */

    /* Modules that own tensors: their names, and those within a block, after "model.layers.7.".  Neighbouring linears
     * of one name are stored as one tensor, their rows one after the other. */
    const char *embedding, *final_norm, *head, *blocks;
    const char *positions; /* embeddings that are learned; NULL: positions are rotations of queries and keys */
    const char *attention_norm, *mlp_norm;
    const char *q_norm, *k_norm; /* over each head; NULL: none */
    const char *activation_scales; /* in quantised models, a tensor that the activation is divided by; NULL: none */
    const char *linears[LINEAR_KINDS]; /* without a LINEAR_GATE: activation(up) enters down, not activation(gate) up */

    /* Experts: modules "experts.5" with the linears above, chosen among by a router; and one for all tokens, times the
     * sigmoid of its gate. */
    const char *experts, *router;            /* NULL: one MLP */
    const char *shared_expert, *shared_gate; /* NULL: none */

    enum norm_kind norm;
    enum window_kind window;
    bool qkv_bias;        /* without a word of config.json's */
    bool may_omit_shared; /* num_key_value_heads, which is num_attention_heads then */
    bool tied_head;       /* where config.json does not say */
    bool scales_embedding; /* by the root of its width */
    bool normalizes_experts; /* the weights of the chosen add up to 1, without a word of config.json's */
    int64_t experts_per_token; /* where config.json has none */
    int64_t head_dim;     /* where config.json has none; 0: hidden_size over num_attention_heads */
    int64_t first_position; /* the row of 'positions' for position 0 */

    /* Keys of config.json. */
    const char *intermediate_key, *activation_key, *activation; /* the last where it has none */
    const char *epsilon_key;   /* NULL: 1e-5 */
    const char *experts_key;    /* how many there are */
    const char *all_biases_key; /* whether linears have biases, true where it has none; NULL: it says for each kind */
};

/* By model_type or class; NULL when there is none of that name. */
const struct architecture *architecture_of_type(const char *model_type);
const struct architecture *architecture_of_class(const char *class_name);

/* "llama, mistral, ..". */
const char *architecture_names(void);

/* How many linears, from this one on, are one tensor; 1 for one that there is not. */
int architecture_stored_together(const struct architecture *architecture, int linear);

#endif
