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

static const struct architecture architectures[] = {
    {
        .model_type = "llama",
        .class_name = "LlamaForCausalLM",
        .gguf = "llama",
        LLAMA_TENSORS,
        .may_omit_shared = true,
    },
    {
        .model_type = "mistral",
        .class_name = "MistralForCausalLM",
        .gguf = "llama",
        LLAMA_TENSORS,
        .window = WINDOW_ALL_LAYERS,
    },
    {
        .model_type = "qwen2",
        .class_name = "Qwen2ForCausalLM",
        .gguf = "qwen2",
        LLAMA_TENSORS,
        .window = WINDOW_LATER_LAYERS,
        .qkv_bias = true,
    },
    {
        .model_type = "qwen3",
        .class_name = "Qwen3ForCausalLM",
        .gguf = "qwen3",
        LLAMA_TENSORS,
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
        .window = WINDOW_ALL_LAYERS,
        .may_omit_shared = true,
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
    static char names[256];
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
    while (end < BLOCK_LINEARS && strcmp(names[end], names[linear]) == 0) end++;
    return end - linear;
}
