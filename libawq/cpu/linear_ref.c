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

static void unpack(const struct awqi_stream *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    for (int64_t k = 0; k < count; k++)
        for (int j = 0; j < AWQI_PANEL; j++) b[k * AWQI_PANEL + j] = awqi_stream_weight(w, panel, j, first + k);
}

static void unpack_dense(const struct awqi_panels *w, int64_t panel, int64_t first, int64_t count, float *b)
{
    for (int64_t k = 0; k < count; k++)
        for (int j = 0; j < AWQI_PANEL; j++) b[k * AWQI_PANEL + j] = awqi_panel_weight(w, panel, j, first + k);
}

static void gemv_dense(const struct awqi_panels *w, int64_t panel, const float *x, int64_t rows, float *out)
{
    for (int64_t i = 0; i < rows; i++)
        for (int j = 0; j < AWQI_PANEL; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < w->k; k++) sum += (double)x[i * w->k + k] * awqi_panel_weight(w, panel, j, k);
            out[i * AWQI_PANEL + j] = (float)sum;
        }
}

const struct awqi_cpu_kernels awqi_cpu_kernels_ref = {0, "reference", tile, unpack, unpack_dense, gemv_dense, {0}};

/* ---- few rows by a stream: a row is the numbers as they are, in stream order */

static int64_t row_bytes(const struct awqi_stream *w)
{
    return awqi_ceil_div(awqi_stream_inputs(w), 16) * 64;
}

static void prepare(const struct awqi_stream *w, const float *x, void *row)
{
    memcpy(row, x, (size_t)awqi_stream_inputs(w) * sizeof *x);
}

static void run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)
{
    const int64_t room = w->shape.group_lines * w->shape.line_inputs;
    for (int64_t i = 0; i < count; i++) {
        const float *x = (const float *)((const unsigned char *)rows + i * row_bytes(w));
        for (int j = 0; j < AWQI_PANEL; j++) {
            double sum = 0.0;
            for (int64_t k = 0; k < w->k; k++) {
                const int64_t place = k / w->shape.group_size * room + k % w->shape.group_size;
                sum += (double)x[place] * awqi_stream_weight(w, panel, j, k);
            }
            out[i * AWQI_PANEL + j] = (float)sum;
        }
    }
}

const struct awqi_gemv awqi_gemv_ref = {"reference", 0, AWQI_ACTIVATIONS_ALL, row_bytes, prepare, run};
