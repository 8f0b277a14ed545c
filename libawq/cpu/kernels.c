/* The table of instruction sets. */
#include "kernels.h"

/* In ascending order: the last one whose features are all there is the best. */
static const struct awqi_cpu_kernels *const table[] = {
    &awqi_cpu_kernels_base,
#if defined(__x86_64__)
    &awqi_cpu_kernels_avx2,
    &awqi_cpu_kernels_avx512,
#endif
};

const struct awqi_cpu_kernels *awqi_cpu_kernels_at(size_t index)
{
    return index < sizeof table / sizeof *table ? table[index] : NULL;
}

const struct awqi_cpu_kernels *awqi_cpu_kernels_for(uint32_t features)
{
    const struct awqi_cpu_kernels *best = table[0];
    for (size_t i = 1; i < sizeof table / sizeof *table; i++)
        if ((table[i]->features & ~features) == 0) best = table[i];
    return best;
}
