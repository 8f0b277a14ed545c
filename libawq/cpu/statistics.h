/* The inner loops of calibration and clip search, by instruction set. */
#ifndef AWQI_CPU_STATISTICS_H
#define AWQI_CPU_STATISTICS_H

#include "cpu.h"

enum { AWQI_TILE_OUTPUTS = 16 }; /* outputs of a tile, side by side, so that the inner loop of a product runs over them */

/* Every entry gives the same bits: sums run in the same order in each, and nothing is fused. */
struct awqi_statistics_kernels {
    uint32_t features; /* AWQ_CPU_* that it needs */
    const char *name;
    /* sums[TILE_OUTPUTS] += |root e|^2 for the vectors e of errors[width][TILE_OUTPUTS]; 'rows' of the root are even.  Of a
     * triangular one what lies left of the diagonal is zeros. */
    void (*add_squares)(const float *root, int64_t rows, int64_t width, bool triangular, const float *errors, double *sums);
    /* Sums of channels += one row of weight 'weight'; the arrays begin at its first channel. */
    void (*add_row)(const float *x, double weight, int64_t count, const struct awqi_channel_sums *sums);
};

extern const struct awqi_statistics_kernels awqi_statistics_base, awqi_statistics_avx2, awqi_statistics_avx512;

/* Entry 'index' of the table, in ascending order, NULL past its end; and the best for a set of features. */
const struct awqi_statistics_kernels *awqi_statistics_at(size_t index);
const struct awqi_statistics_kernels *awqi_statistics_for(uint32_t features);

#endif /* AWQI_CPU_STATISTICS_H */
