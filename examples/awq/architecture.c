/* The architectures that the program knows. */
#include "architecture.h"

#include <stdio.h>
#include <string.h>

/* What Llama has called its modules, and most others after it. */
#define LLAMA_ENDS \
    .embedding = "model.embed_tokens", .final_norm = "model.norm", .head = "lm_head", .blocks = "model.layers"
#define LLAMA_NORMS .attention_norm = "input_layernorm", .mlp_norm = "post_attention_layernorm"
#define LLAMA_ATTENTION \
    [LINEAR_Q] = "self_attn.q_proj", [LINEAR_K] = "self_attn.k_proj", [LINEAR_V] = "self_attn.v_proj", \
    [LINEAR_O] = "self_attn.o_proj"
#define LLAMA_MLP [LINEAR_GATE] = "mlp.gate_proj", [LINEAR_UP] = "mlp.up_proj", [LINEAR_DOWN] = "mlp.down_proj"
#define LLAMA_TENSORS LLAMA_ENDS, LLAMA_NORMS, .linears = {LLAMA_ATTENTION, LLAMA_MLP}

#define LLAMA_KEYS \
    .intermediate_key = "intermediate_size", .activation_key = "hidden_act", .activation = "silu", \
    .epsilon_key = "rms_norm_eps"

#define QWEN_EXPERT [LINEAR_GATE] = "gate_proj", [LINEAR_UP] = "up_proj", [LINEAR_DOWN] = "down_proj"
#define QWEN_EXPERTS \
    .experts = "mlp.experts", .router = "mlp.gate", .experts_key = "num_experts", \
    .intermediate_key = "moe_intermediate_size", .activation_key = "hidden_act", .activation = "silu", \
    .epsilon_key = "rms_norm_eps"

static const struct architecture architectures[] = {
    {
        .model_type = "llama",
        .class_name = "LlamaForCausalLM",
        .gguf = "llama",
        LLAMA_TENSORS,
        LLAMA_KEYS,
        .may_omit_shared = true,
    },
    {
        .model_type = "mistral",
        .class_name = "MistralForCausalLM",
        .gguf = "llama",
        LLAMA_TENSORS,
        LLAMA_KEYS,
        .window = WINDOW_ALL_LAYERS,
    },
    {
        .model_type = "qwen2",
        .class_name = "Qwen2ForCausalLM",
        .gguf = "qwen2",
        LLAMA_TENSORS,
        LLAMA_KEYS,
        .window = WINDOW_LATER_LAYERS,
        .qkv_bias = true,
    },
    {
        .model_type = "qwen3",
        .class_name = "Qwen3ForCausalLM",
        .gguf = "qwen3",
        LLAMA_TENSORS,
        LLAMA_KEYS,
        .q_norm = "self_attn.q_norm",
        .k_norm = "self_attn.k_norm",
        .window = WINDOW_LATER_LAYERS,
        .head_dim = 128,
    },
    {
        .model_type = "phi3",
        .class_name = "Phi3ForCausalLM",
        LLAMA_ENDS,
        LLAMA_NORMS,
        .linears = {[LINEAR_Q] = "self_attn.qkv_proj", [LINEAR_K] = "self_attn.qkv_proj",
                    [LINEAR_V] = "self_attn.qkv_proj", [LINEAR_O] = "self_attn.o_proj",
                    [LINEAR_GATE] = "mlp.gate_up_proj", [LINEAR_UP] = "mlp.gate_up_proj",
                    [LINEAR_DOWN] = "mlp.down_proj"},
        LLAMA_KEYS,
        .window = WINDOW_ALL_LAYERS,
        .may_omit_shared = true,
    },
    {
        .model_type = "mixtral",
        .class_name = "MixtralForCausalLM",
        LLAMA_ENDS,
        LLAMA_NORMS,
        .linears = {LLAMA_ATTENTION, [LINEAR_GATE] = "w1", [LINEAR_UP] = "w3", [LINEAR_DOWN] = "w2"},
        .experts = "block_sparse_moe.experts",
        .router = "block_sparse_moe.gate",
        LLAMA_KEYS,
        .experts_key = "num_local_experts",
        .experts_per_token = 2,
        .normalizes_experts = true,
        .window = WINDOW_ALL_LAYERS,
    },
    {
        .model_type = "qwen2_moe",
        .class_name = "Qwen2MoeForCausalLM",
        LLAMA_ENDS,
        LLAMA_NORMS,
        .linears = {LLAMA_ATTENTION, QWEN_EXPERT},
        QWEN_EXPERTS,
        .shared_expert = "mlp.shared_expert",
        .shared_gate = "mlp.shared_expert_gate",
        .experts_per_token = 4,
        .window = WINDOW_LATER_LAYERS,
        .qkv_bias = true,
    },
    {
        .model_type = "qwen3_moe",
        .class_name = "Qwen3MoeForCausalLM",
        LLAMA_ENDS,
        LLAMA_NORMS,
        .linears = {LLAMA_ATTENTION, QWEN_EXPERT},
        QWEN_EXPERTS,
        .q_norm = "self_attn.q_norm",
        .k_norm = "self_attn.k_norm",
        .experts_per_token = 8,
        .window = WINDOW_LATER_LAYERS,
        .head_dim = 128,
    },
    {
        .model_type = "gemma",
        .class_name = "GemmaForCausalLM",
        LLAMA_TENSORS,
        .intermediate_key = "intermediate_size",
        .activation_key = "hidden_activation", /* "hidden_act" says gelu and means this */
        .activation = "gelu_pytorch_tanh",
        .epsilon_key = "rms_norm_eps",
        .norm = NORM_RMS_PLUS_ONE,
        .tied_head = true,
        .scales_embedding = true,
        .head_dim = 256,
    },
    {
        .model_type = "opt",
        .class_name = "OPTForCausalLM",
        .embedding = "model.decoder.embed_tokens",
        .positions = "model.decoder.embed_positions",
        .first_position = 2,
        .final_norm = "model.decoder.final_layer_norm",
        .head = "lm_head",
        .blocks = "model.decoder.layers",
        .attention_norm = "self_attn_layer_norm",
        .mlp_norm = "final_layer_norm",
        .activation_scales = "activation_fn.scales",
        .linears = {[LINEAR_Q] = "self_attn.q_proj", [LINEAR_K] = "self_attn.k_proj",
                    [LINEAR_V] = "self_attn.v_proj", [LINEAR_O] = "self_attn.out_proj", [LINEAR_UP] = "fc1",
                    [LINEAR_DOWN] = "fc2"},
        .norm = NORM_LAYER,
        .may_omit_shared = true,
        .tied_head = true,
        .intermediate_key = "ffn_dim",
        .activation_key = "activation_function",
        .activation = "relu",
        .all_biases_key = "enable_bias",
    },
};

enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

const struct architecture *architecture_of_type(const char *model_type)
{
    for (int i = 0; i < ARCHITECTURES; i++)
        if (strcmp(architectures[i].model_type, model_type) == 0) return &architectures[i];
    return NULL;
}

const struct architecture *architecture_of_class(const char *class_name)
{
    for (int i = 0; i < ARCHITECTURES; i++)
        if (strcmp(architectures[i].class_name, class_name) == 0) return &architectures[i];
    return NULL;
}

const char *architecture_names(void)
{
    static char names[512];
    size_t length = 0;
    for (int i = 0; i < ARCHITECTURES && length < sizeof names; i++)
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "",
                                   architectures[i].model_type);
    return names;
}

int architecture_stored_together(const struct architecture *architecture, int linear)
{
    const char *const *names = architecture->linears;
    int end = linear + 1;
    while (end < LINEAR_KINDS && names[linear] && names[end] && strcmp(names[end], names[linear]) == 0) end++;
    return end - linear;
}
