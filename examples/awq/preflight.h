/* Whether a program will load a quantised checkpoint: its rules as data, and what they say of a linear.
 *
 * The rules are those of one version each, read from the programs' code in 2026; they change. */
#ifndef AWQ_APP_PREFLIGHT_H
#define AWQ_APP_PREFLIGHT_H

#include <stdbool.h>
#include <stddef.h>

#include "quantization.h"

enum engine { ENGINE_VLLM, ENGINE_TRANSFORMERS, ENGINE_SGLANG, ENGINE_LMDEPLOY, ENGINES };

/* In the order of the enum, for the command line. */
#define ENGINE_NAMES "vllm|transformers|sglang|lmdeploy"

extern const char *const engine_names[ENGINES];

/* What an engine is as a whole. */
struct engine_facts {
    bool fuses;          /* q, k, v and gate, up become one linear, whose slice is what kernels see */
    bool slices;         /* tensor parallelism cuts linears */
    bool side_files;     /* reads quant_config.json and quantize_config.json too */
    bool strict_version; /* wants "gemm" in lower case, and compressed-tensors' group_0 with a format */
};

extern const struct engine_facts engine_facts[ENGINES];

enum { MAX_RULE_GROUPS = 9, ANY_GROUP = -2 /* of any size, but not one per row */ };

/* One of an engine's ways to run a format, in the order in which it tries them. */
struct engine_rule {
    enum engine engine;
    int32_t layout;
    const char *kernel;
    const char *drawback;        /* said when it is used; NULL: none */
    int sm;                      /* least compute capability, ten times */
    uint32_t bits;               /* bit b: b bits */
    int groups[MAX_RULE_GROUPS]; /* closed by 0; AWQ_GROUP_PER_ROW and ANY_GROUP among them */
    enum { ZEROS_EITHER, ZEROS_NONE, ZEROS_NEEDED } zeros;
    int n_multiple, k_multiple;  /* of a slice */
};

/* NULL past the last. */
const struct engine_rule *engine_rule_at(size_t index);

enum { RULE_REASON_SIZE = 160 };

/* Whether the rule takes the model whatever its shapes; if not, the reason. */
bool rule_takes_model(const struct engine_rule *rule, const struct quantization *quantization, int sm,
                      char reason[RULE_REASON_SIZE]);

/* Whether it takes a slice of n outputs and k inputs out of 'inputs'. */
bool rule_takes_slice(const struct engine_rule *rule, int64_t group_size, int64_t n, int64_t k, int64_t inputs,
                      char reason[RULE_REASON_SIZE]);

/* Whether the rule takes a group size at all. */
bool rule_takes_group(const struct engine_rule *rule, int64_t group_size);

#endif
