/* Accumulating statistics of activations: channel sums and the Gram matrix.
 *
 * Every number is the sum over rows in the order of the rows; threads divide the channels, so how many of them there
 * are changes nothing. */
#include "statistics.h"

enum {
    CHANNEL_BLOCK = 128, /* channels of one task: their five sums stay in the first-level cache */
    GRAM_TILE = 32,      /* side of one task's square of the Gram matrix */
    GRAM_ROWS = 64       /* rows held at a time while a square is updated */
};

struct accumulation {
    const awq_tensor *x;
    const float *weights;
    int64_t rows, channels;
    const struct awqi_statistics_kernels *kernels;
    struct awqi_channel_sums *sums;
    double *gram;
};

/* awqi_check_rows has been through this before: the last dimension is the channels. */
static struct accumulation describe(const awq_tensor *x, const float *weights)
{
    struct accumulation job = {.x = x, .weights = weights, .rows = 1, .channels = x->shape[x->ndim - 1]};
    for (int32_t i = 0; i < x->ndim - 1; i++) job.rows *= x->shape[i];
    return job;
}

static double row_weight(const struct accumulation *job, int64_t row)
{
    return job->weights != NULL ? (double)job->weights[row] : 1.0;
}

/* ---- sums of channels */

static void accumulate_block(void *user_data, int64_t block)
{
    const struct accumulation *job = user_data;
    float x[CHANNEL_BLOCK];
    int64_t first = block * CHANNEL_BLOCK, count = awqi_min64(CHANNEL_BLOCK, job->channels - first);
    const struct awqi_channel_sums sums = {job->sums->abs_high + first, job->sums->abs_low + first,
                                           job->sums->square_high + first, job->sums->square_low + first,
                                           job->sums->max_abs + first};
    for (int64_t row = 0; row < job->rows; row++) {
        double weight = row_weight(job, row);
        if (weight == 0.0) continue;
        awqi_load_columns(job->x, row, first, x, count);
        job->kernels->add_row(x, weight, count, &sums);
    }
}

awq_status awqi_cpu_accumulate(void *device, const awq_tensor *x, const float *weights, struct awqi_channel_sums *sums)
{
    const struct awqi_cpu_device *cpu = device;
    struct accumulation job = describe(x, weights);
    job.sums = sums;
    job.kernels = awqi_statistics_for(cpu->info.cpu_features);
    awqi_parallel_for(cpu->context, awqi_ceil_div(job.channels, CHANNEL_BLOCK), accumulate_block, &job);
    return AWQ_OK;
}

/* ---- Gram matrix */

/* A square of the Gram matrix and the columns of x that it multiplies, for some rows: 'left' is weighted. */
struct gram_tile {
    double sum[GRAM_TILE][GRAM_TILE];
    double left[GRAM_ROWS][GRAM_TILE];
    double right[GRAM_ROWS][GRAM_TILE];
    int64_t top, height; /* rows of the square, */
    int64_t side, width; /* and its columns */
};

static void load_weighted(const struct accumulation *job, int64_t row, int64_t first, int64_t count, double weight,
                          double *values)
{
    float x[GRAM_TILE];
    awqi_load_columns(job->x, row, first, x, count);
    for (int64_t i = 0; i < count; i++) values[i] = weight * (double)x[i];
}

static void multiply_add(struct gram_tile *tile, int64_t rows)
{
    for (int64_t i = 0; i < tile->height; i++)
        for (int64_t row = 0; row < rows; row++) {
            double left = tile->left[row][i];
            for (int64_t j = 0; j < GRAM_TILE; j++) tile->sum[i][j] += left * tile->right[row][j];
        }
}

/* Squares above the diagonal and on it are computed, and copied to where they are mirrored: w x_i is exact in double,
 * so that both would be the same bits. */
static void accumulate_tile(void *user_data, int64_t index)
{
    const struct accumulation *job = user_data;
    int64_t tiles = awqi_ceil_div(job->channels, GRAM_TILE);
    struct gram_tile tile = {.top = index / tiles * GRAM_TILE, .side = index % tiles * GRAM_TILE};
    if (tile.side < tile.top) return;
    tile.height = awqi_min64(GRAM_TILE, job->channels - tile.top);
    tile.width = awqi_min64(GRAM_TILE, job->channels - tile.side);
    double *corner = job->gram + tile.top * job->channels + tile.side;
    for (int64_t i = 0; i < tile.height; i++)
        memcpy(tile.sum[i], corner + i * job->channels, (size_t)tile.width * sizeof **tile.sum);

    int64_t held = 0;
    for (int64_t row = 0; row < job->rows; row++) {
        double weight = row_weight(job, row);
        if (weight == 0.0) continue;
        load_weighted(job, row, tile.top, tile.height, weight, tile.left[held]);
        load_weighted(job, row, tile.side, tile.width, 1.0, tile.right[held]);
        if (++held < GRAM_ROWS) continue;
        multiply_add(&tile, held);
        held = 0;
    }
    multiply_add(&tile, held);

    double *mirror = job->gram + tile.side * job->channels + tile.top;
    for (int64_t i = 0; i < tile.height; i++)
        for (int64_t j = 0; j < tile.width; j++)
            corner[i * job->channels + j] = mirror[j * job->channels + i] = tile.sum[i][j];
}

awq_status awqi_cpu_accumulate_gram(void *device, const awq_tensor *x, const float *weights, double *gram)
{
    const struct awqi_cpu_device *cpu = device;
    struct accumulation job = describe(x, weights);
    job.gram = gram;
    int64_t tiles = awqi_ceil_div(job.channels, GRAM_TILE);
    awqi_parallel_for(cpu->context, tiles * tiles, accumulate_tile, &job);
    return AWQ_OK;
}
