/* Products in fixed tiles: a panel of weights, block by block of inputs, times strips of rows. */
#include "kernels.h"

void awqi_gemm_panel(const struct awqi_cpu_kernels *kernels, const float *x, int64_t strips, int64_t k,
                     awqi_block_function block, const void *source, int64_t panel, float *c)
{
    float memory[AWQI_DEPTH * AWQI_PANEL] __attribute__((aligned(64)));
    memset(c, 0, (size_t)strips * AWQI_STRIP * AWQI_PANEL * sizeof *c);
    for (int64_t first = 0; first < k; first += AWQI_DEPTH) {
        int64_t depth = awqi_min64(AWQI_DEPTH, k - first);
        const float *b = block(source, panel, first, depth, memory);
        for (int64_t strip = 0; strip < strips; strip++)
            kernels->tile(depth, x + (strip * k + first) * AWQI_STRIP, b, c + strip * AWQI_STRIP * AWQI_PANEL);
    }
}
