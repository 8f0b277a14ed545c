/* config.json of a model, and what it says of quantisation. */
#include "fuzz.h"

#include "model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config;
    fuzz_file("config.json", data, size);
    if (model_config_load(fuzz_directory(), &config)) {
        fuzz_assert(config.json != NULL && config.layers > 0 && config.hidden > 0 && config.vocabulary > 0);
        fuzz_assert(config.heads > 0 && config.kv_heads > 0 && config.heads % config.kv_heads == 0);
        fuzz_assert(config.head_dim > 0 && config.head_dim <= MAX_HEAD_DIM);
        fuzz_assert(config.norm_epsilon >= 0 && config.rope_theta > 0);
        for (int linear = 0; linear < block_linears(&config); linear++) {
            int64_t n, k;
            block_linear_shape(&config, linear, &n, &k);
            fuzz_assert(k > 0 && (n > 0 || !block_has_linear(&config, linear)));
        }
    }
    model_config_clear(&config);
    return 0;
}
