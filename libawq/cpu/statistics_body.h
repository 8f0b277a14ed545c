/* The loops of statistics.h for one instruction set.  A file that includes this defines beforehand
 *
 *     TARGET    function attribute that selects the instruction set, possibly empty
 *     LANES     floats in a vector register, dividing TILE_OUTPUTS
 *     ROWS      rows of a root at once, even: enough sums to hide the latency of an addition
 */

#define INLINE TARGET static inline __attribute__((always_inline))

typedef float part __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

enum { PARTS = AWQI_TILE_OUTPUTS / LANES };

/* 'count' rows, a constant once inlined, from column 'from' on; their squares are added pair by pair. */
INLINE void add_rows(int count, const float *root, int64_t from, int64_t width, const float *errors, double *sums)
{
    part products[ROWS][PARTS];
#pragma GCC unroll 16
    for (int r = 0; r < count; r++)
#pragma GCC unroll 16
        for (int i = 0; i < PARTS; i++) products[r][i] = (part){0};
    for (int64_t j = from; j < width; j++) {
        const part *e = (const part *)(errors + j * AWQI_TILE_OUTPUTS);
#pragma GCC unroll 16
        for (int r = 0; r < count; r++)
#pragma GCC unroll 16
            for (int i = 0; i < PARTS; i++) products[r][i] += root[r * width + j] * e[i];
    }
    for (int r = 0; r < count; r += 2)
        for (int i = 0; i < AWQI_TILE_OUTPUTS; i++) {
            double first = products[r][i / LANES][i % LANES], second = products[r + 1][i / LANES][i % LANES];
            sums[i] += first * first + second * second;
        }
}

TARGET static void add_squares(const float *root, int64_t rows, int64_t width, bool triangular, const float *errors,
                               double *sums)
{
    int64_t row = 0;
    for (; row + ROWS <= rows; row += ROWS)
        add_rows(ROWS, root + row * width, triangular ? row : 0, width, errors, sums);
    for (; row < rows; row += 2) add_rows(2, root + row * width, triangular ? row : 0, width, errors, sums);
}

/* |x| and x^2 are exact in double, and each is rounded at most once when it is weighted. */
INLINE void add_channels(const float *restrict x, double weight, int64_t count, double *restrict abs_high,
                         double *restrict abs_low, double *restrict square_high, double *restrict square_low,
                         double *restrict max_abs)
{
    for (int64_t i = 0; i < count; i++) {
        double magnitude = fabs((double)x[i]);
        awqi_add_two_double(&abs_high[i], &abs_low[i], weight * magnitude);
        awqi_add_two_double(&square_high[i], &square_low[i], weight * (magnitude * magnitude));
        max_abs[i] = magnitude > max_abs[i] ? magnitude : max_abs[i];
    }
}

TARGET static void add_row(const float *x, double weight, int64_t count, const struct awqi_channel_sums *sums)
{
    add_channels(x, weight, count, sums->abs_high, sums->abs_low, sums->square_high, sums->square_low, sums->max_abs);
}
