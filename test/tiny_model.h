/* For tests of the host application: tiny random models of every architecture. */
#ifndef TEST_TINY_MODEL_H
#define TEST_TINY_MODEL_H

#include "app.h"
#include "model.h"

#include <math.h>

enum { HIDDEN = 64, INNER = 128, HEADS = 4, KV_HEADS = 2, WIDTH = 16, VOCABULARY = 48, LAYERS = 2 };
enum { EXPERTS = 4, SHARED = 96 };
enum { LENGTH = 24 }; /* the model's context */

static char model_path[600];  /* where they are written */
static awq_context *context;  /* on the processor */

struct recipe {
    const char *type, *keys;
    bool qkv_bias, output_bias, mlp_bias, tied;
    int32_t dtype;
    const char *poisoned;  /* a tensor with a NaN at element 37, */
    const char *missing;   /* one that is left out, */
    const char *misshapen; /* and one that has a row too few */
};

static uint64_t random_state;

/* In [-1, 1). */
static inline double next_random(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(int64_t)random_state * 0x1p-63;
}

static inline void add(awq_checkpoint_writer *writer, const struct recipe *recipe, int64_t rows, int64_t columns,
                       double size, const char *name)
{
    static float values[2 * INNER * HIDDEN];
    static uint32_t stored[2 * INNER * HIDDEN];
    awq_tensor source, tensor;
    const int64_t shape[] = {rows, columns}, count = (rows ? rows : 1) * columns;
    const int32_t ndim = rows ? 2 : 1;
    /* Norms differ from channel to channel, so that there is something to search for. */
    for (int64_t i = 0; i < count; i++) values[i] = (float)(rows ? size * next_random() : exp(2 * next_random()));
    if (recipe->poisoned && strcmp(name, recipe->poisoned) == 0) values[37] = NAN;
    if (recipe->missing && strcmp(name, recipe->missing) == 0) return;
    assert_int_equal(awq_tensor_init(&source, values, AWQ_F32, ndim, shape + 2 - ndim), AWQ_OK);
    assert_int_equal(awq_tensor_init(&tensor, stored, recipe->dtype, ndim, shape + 2 - ndim), AWQ_OK);
    if (recipe->misshapen && strcmp(name, recipe->misshapen) == 0) source.shape[0] = --tensor.shape[0];
    assert_int_equal(awq_tensor_copy(context, &source, &tensor, NULL), AWQ_OK);
    assert_int_equal(awq_checkpoint_writer_add(writer, name, &tensor), AWQ_OK);
}

static inline void add_norm_tensors(awq_checkpoint_writer *writer, const struct recipe *recipe,
                                    const struct model_config *shape, const char *name, int64_t size)
{
    char full[TENSOR_NAME_SIZE + 16];
    snprintf(full, sizeof full, "%s.weight", name);
    add(writer, recipe, 0, size, 1, full);
    snprintf(full, sizeof full, "%s.bias", name);
    if (shape->architecture->norm == NORM_LAYER) add(writer, recipe, 0, size, 1, full);
}

static inline void add_norm(awq_checkpoint_writer *writer, const struct recipe *recipe,
                            const struct model_config *shape, int64_t layer, const char *part, int64_t size)
{
    char name[TENSOR_NAME_SIZE];
    block_tensor_name(shape, layer, part, name);
    add_norm_tensors(writer, recipe, shape, name, size);
}

static inline void add_dense(awq_checkpoint_writer *writer, const struct recipe *recipe,
                             const struct model_config *shape, int64_t layer, const char *part, int64_t outputs)
{
    char name[TENSOR_NAME_SIZE], full[TENSOR_NAME_SIZE + 16];
    if (!part) return;
    block_tensor_name(shape, layer, part, name);
    snprintf(full, sizeof full, "%s.weight", name);
    add(writer, recipe, outputs, HIDDEN, 0.05, full);
}

static inline void add_block(awq_checkpoint_writer *writer, const struct recipe *recipe,
                             const struct model_config *shape, int64_t layer)
{
    const struct architecture *names = shape->architecture;
    char name[TENSOR_NAME_SIZE], full[TENSOR_NAME_SIZE + 16];
    add_norm(writer, recipe, shape, layer, names->attention_norm, HIDDEN);
    add_norm(writer, recipe, shape, layer, names->mlp_norm, HIDDEN);
    if (names->q_norm) add_norm(writer, recipe, shape, layer, names->q_norm, WIDTH);
    if (names->k_norm) add_norm(writer, recipe, shape, layer, names->k_norm, WIDTH);
    add_dense(writer, recipe, shape, layer, names->router, shape->experts);
    add_dense(writer, recipe, shape, layer, names->shared_gate, 1);
    for (int i = 0, count; i < block_linears(shape); i += count) {
        int64_t n = 0, k;
        count = block_stored_together(shape, i);
        if (!block_has_linear(shape, i)) continue;
        for (int j = 0; j < count; j++) {
            int64_t rows;
            block_linear_shape(shape, i + j, &rows, &k);
            n += rows;
        }
        block_linear_name(shape, layer, i, name);
        snprintf(full, sizeof full, "%s.weight", name);
        add(writer, recipe, n, k, 0.15, full);
        snprintf(full, sizeof full, "%s.bias", name);
        if (block_linear_has_bias(shape, i)) add(writer, recipe, 0, n, 1, full);
    }
}

/* Replaces the one before. */
static inline void write_model(const struct recipe *recipe)
{
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer;
    const struct architecture *known = architecture_of_type(recipe->type);
    const struct architecture *names = known ? known : architecture_of_type("llama");
    const struct model_config shape = {
        .architecture = names, .hidden = HIDDEN, .intermediate = INNER, .heads = HEADS, .head_dim = WIDTH,
        .kv_heads = names->positions ? HEADS : KV_HEADS,
        .experts = names->experts ? EXPERTS : 0, .shared_intermediate = names->shared_expert ? SHARED : 0,
        .qkv_bias = recipe->qkv_bias, .output_bias = recipe->output_bias, .mlp_bias = recipe->mlp_bias,
    };
    char config[1024], name[TENSOR_NAME_SIZE + 16];
    random_state = 7;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    assert_int_equal(awq_checkpoint_writer_create(context, model_path, &options, &writer), AWQ_OK);
    snprintf(name, sizeof name, "%s.weight", names->embedding);
    add(writer, recipe, VOCABULARY, HIDDEN, 1, name);
    snprintf(name, sizeof name, "%s.weight", names->positions ? names->positions : "");
    if (names->positions) add(writer, recipe, names->first_position + LENGTH, HIDDEN, 1, name);
    if (!recipe->tied) add(writer, recipe, VOCABULARY, HIDDEN, 0.5, "lm_head.weight");
    add_norm_tensors(writer, recipe, &shape, names->final_norm, HIDDEN);
    for (int64_t layer = 0; layer < LAYERS; layer++) add_block(writer, recipe, &shape, layer);
    int length = snprintf(config, sizeof config,
        "{\"model_type\": \"%s\", \"hidden_size\": %d, \"%s\": %d, \"num_hidden_layers\": %d,"
        " \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, \"vocab_size\": %d,"
        " \"max_position_embeddings\": %d, \"rms_norm_eps\": 1e-06, \"num_local_experts\": %d,"
        " \"num_experts\": %d, \"moe_intermediate_size\": %d, \"shared_expert_intermediate_size\": %d,"
        " \"num_experts_per_tok\": 2, \"tie_word_embeddings\": %s%s}",
        recipe->type, HIDDEN, names->experts ? "intermediate_size" : names->intermediate_key, INNER, LAYERS, HEADS,
        (int)shape.kv_heads, WIDTH, VOCABULARY, LENGTH, EXPERTS, EXPERTS, INNER, SHARED, recipe->tied ? "true" : "false", recipe->keys);
    assert_int_equal(awq_checkpoint_writer_add_file(writer, "config.json", config, (uint64_t)length), AWQ_OK);
    static const char *const others[] = {"generation_config.json", "chat_template.jinja", "pytorch_model.bin",
                                         "model.safetensors.index.json.orig"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_int_equal(awq_checkpoint_writer_add_file(writer, others[i], "{}", 2), AWQ_OK);
    assert_int_equal(awq_checkpoint_writer_commit(writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
}

#endif
