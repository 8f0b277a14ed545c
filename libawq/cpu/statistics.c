/* The inner loops of calibration and clip search for every processor, and the table of them. */
#include "statistics.h"

#include <math.h>

#define TARGET
#define LANES 4
#if defined(__aarch64__) /* which has 32 registers */
#define ROWS 4
#else
#define ROWS 2
#endif

#include "statistics_body.h"

const struct awqi_statistics_kernels awqi_statistics_base = {0, "base", add_squares, add_row};

/* In ascending order: the last one whose features are all there is the best. */
static const struct awqi_statistics_kernels *const table[] = {
    &awqi_statistics_base,
#if defined(__x86_64__)
    &awqi_statistics_avx2,
    &awqi_statistics_avx512,
#endif
};

enum { ENTRIES = sizeof table / sizeof *table };

const struct awqi_statistics_kernels *awqi_statistics_at(size_t index)
{
    return index < ENTRIES ? table[index] : NULL;
}

const struct awqi_statistics_kernels *awqi_statistics_for(uint32_t features)
{
    const struct awqi_statistics_kernels *best = table[0];
    for (size_t i = 1; i < ENTRIES; i++)
        if ((table[i]->features & ~features) == 0) best = table[i];
    return best;
}
