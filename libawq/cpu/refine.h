/* Ranges and codes chosen by what outputs lose: the loops that refine.c puts together. */
#ifndef AWQI_CPU_REFINE_H
#define AWQI_CPU_REFINE_H

#include <stdint.h>

/* Columns whose errors meet one by one; those of other blocks meet in products of matrices. */
enum { AWQI_REFINE_WIDTH = 128 };

/* A block of columns of PANEL outputs; arrays are [width][PANEL]. */
struct awqi_refine_block {
    int64_t width;
    const float *matrix;  /* [width][REFINE_WIDTH]: the block's part of the root R, or of H = R^T R */
    const float *inverse; /* [width]: 1 / its diagonal, 0 where that is 0 */
    const float *weights; /* w s */
    float *cross;         /* what the errors of other columns add: R e, or H e */
    float *errors;        /* e = w s - level * scale */
    float *levels;        /* q - z */
};

/* How PANEL outputs map one group to levels. */
struct awqi_refine_grid {
    float *scales, *inverse; /* the step as stored, and 1 / step */
    float *low, *high;       /* least and greatest level */
};

struct awqi_refine_kernels {
    /* For columns first .. first + count - 1, from the last to the first: the level whose error makes its row of R e
     * smallest, given the errors of all later columns.  Without a grid any number is a level. */
    void (*feedback)(const struct awqi_refine_block *block, int64_t first, int64_t count,
                     const struct awqi_refine_grid *grid);
    /* losses[PANEL] = sum over i < count of importance[i] (targets[i] - nearest)^2; 'targets' is [count][PANEL]. */
    void (*measure)(const float *targets, const float *importance, int64_t count, const struct awqi_refine_grid *grid,
                    float *losses);
    /* Rows first .. width - 1 of product = H columns, with nothing but columns first .. first + count - 1; both are
     * [width][PANEL]. */
    void (*product)(const struct awqi_refine_block *block, int64_t first, int64_t count, const float *columns,
                    float *product);
    /* 'cross' being H e with all errors, one pass over columns first .. first + count - 1: each level moves to where
     * e^T H e is smallest while the others stay.  Their 'errors' follow, and 'cross' of these columns and of later ones. */
    void (*descend)(const struct awqi_refine_block *block, int64_t first, int64_t count,
                    const struct awqi_refine_grid *grid);
};

#endif /* AWQI_CPU_REFINE_H */
