/* The reference: what a linear computes, said as plainly as C allows.
 *
 *     x'[j]  = x[j] (norm_weight[j] / sqrt(mean(x^2) + epsilon)) / input_scale[j]     linear_rows.c
 *     sum[i] = sum over j of x'[j] W[i][j],  W[i][j] = (q[i][j] - z) s                here
 *     y[i]   = round(sum[i] + bias[i] + residual[i])                                  linear_rows.c
 *
 * The other kernels differ from it only in the precision and order of the sum. */
#include "kernels.h"

static void tile(int64_t depth, const float *a, const float *b, float *c)
{
    for (int i = 0; i < AWQI_STRIP; i++)
        for (int j = 0; j < AWQI_PANEL; j++)
            for (int64_t k = 0; k < depth; k++)
                c[i * AWQI_PANEL + j] += a[k * AWQI_STRIP + i] * b[k * AWQI_PANEL + j];
}

static void unpack(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    for (int64_t k = 0; k < count; k++)
        for (int j = 0; j < AWQI_PANEL; j++) b[k * AWQI_PANEL + j] = awqi_panel_weight(w, panel, j, first + k);
}

static void gemv(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out)
{
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < AWQI_PANEL; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < w->k; k++) sum += (double)x[i * w->k + k] * awqi_panel_weight(w, panel, j, k);
            out[i * AWQI_PANEL + j] = (float)sum;
        }
}

const struct awqi_cpu_kernels awqi_cpu_kernels_ref = {0, "reference", tile, unpack, gemv};
