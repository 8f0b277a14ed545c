/* A square root of a Gram matrix.
 *
 * Left-looking Cholesky in blocks of columns: the rows of a block are finished first, then all rows below it are
 * brought up to date in parallel, each on its own, so that nothing depends on how the work is spread. */
#include "search.h"

#include <float.h>
#include <math.h>

enum { BLOCK = 64, LANES = 8 };

struct factor {
    double *matrix; /* [n][n]: L grows over the lower triangle */
    float *root;
    int64_t n, begin, end; /* the block of columns at hand */
    double inverse[BLOCK]; /* 1 / L[j][j] of the block */
};

static double dot(const double *a, const double *b, int64_t count)
{
    double sums[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += a[i + lane] * b[i + lane];
    for (; i < count; i++) sums[0] += a[i] * b[i];
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++) sums[lane] += sums[lane + half];
    return sums[0];
}

/* Columns begin .. end - 1 of one row, or as many of them as lie left of the diagonal. */
static void factor_row(struct factor *factor, int64_t row)
{
    double *values = factor->matrix + row * factor->n;
    for (int64_t j = factor->begin; j < awqi_min64(factor->end, row); j++)
        values[j] = (values[j] - dot(values, factor->matrix + j * factor->n, j)) * factor->inverse[j - factor->begin];
}

/* The diagonal element of a row.  What is left of it is noise when it is no larger than the rounding errors of its sum:
 * the column depends on earlier ones, and contributes nothing. */
static void factor_diagonal(struct factor *factor, int64_t row)
{
    double *values = factor->matrix + row * factor->n;
    double rest = values[row] - dot(values, values, row);
    bool independent = rest > (double)factor->n * DBL_EPSILON * values[row];
    values[row] = independent ? sqrt(rest) : 0.0;
    factor->inverse[row - factor->begin] = independent ? 1.0 / values[row] : 0.0;
}

static void factor_row_below(void *user_data, int64_t index)
{
    struct factor *factor = user_data;
    factor_row(factor, factor->end + index);
}

static void transpose_row(void *user_data, int64_t row)
{
    const struct factor *factor = user_data;
    int64_t n = factor->n;
    for (int64_t j = 0; j < n; j++) factor->root[row * n + j] = j < row ? 0.0f : (float)factor->matrix[j * n + row];
}

void awqi_gram_root(awq_context *context, double *gram, int64_t n, float *root)
{
    struct factor factor = {.matrix = gram, .root = root, .n = n};
    for (factor.begin = 0; factor.begin < n; factor.begin = factor.end) {
        factor.end = awqi_min64(factor.begin + BLOCK, n);
        for (int64_t row = factor.begin; row < factor.end; row++) {
            factor_row(&factor, row);
            factor_diagonal(&factor, row);
        }
        awqi_parallel_for(context, n - factor.end, factor_row_below, &factor);
    }
    awqi_parallel_for(context, n, transpose_row, &factor);
}
