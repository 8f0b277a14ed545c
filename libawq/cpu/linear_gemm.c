/* Many rows by a quantised weight: strips of x in the kernel's form, then tasks of a panel and a few strips. */
#include "linear.h"

enum { BLOCK_STRIPS = 4 }; /* of a task: as many as the second-level cache holds beside a panel */

struct pass {
    const struct awqi_linear_pass *given;
    const struct awqi_cpu_linear *linear; /* the pass's, */
    const struct awqi_linear_job *job;
    int64_t first, rows;
    const struct awqi_gemm *gemm;
    int64_t strips, blocks;
    float *loaded; /* a row for each strip */
    unsigned char *memory; /* strips */
};

/* Part 'index' of 'count' things in 'parts' nearly equal parts begins here. */
static int64_t part_begin(int64_t count, int64_t parts, int64_t index)
{
    return index * count / parts;
}

static int64_t strip_bytes(const struct awqi_cpu_linear *linear, const struct awqi_gemm *gemm)
{
    return awqi_ceil_div(gemm->most * gemm->row_bytes(&linear->stream), 64) * 64;
}

static void prepare_strip(void *user_data, int64_t index)
{
    const struct pass *pass = user_data;
    const struct awqi_stream *w = &pass->linear->stream;
    const struct awqi_linear_salient *salient = &pass->linear->salient;
    const int64_t bytes = strip_bytes(pass->linear, pass->gemm);
    const int64_t begin = part_begin(pass->rows, pass->strips, index);
    const int64_t rows = part_begin(pass->rows, pass->strips, index + 1) - begin;
    float *loaded = pass->loaded + index * awqi_linear_row_floats(pass->linear);
    unsigned char *strip = pass->memory + index * bytes;
    if (rows < pass->gemm->least) memset(strip, 0, (size_t)bytes);
    for (int64_t i = 0; i < rows; i++) {
        awqi_linear_load_row(pass->linear, pass->job, pass->first + begin + i, loaded, 1);
        awqi_linear_salient_keep(salient, loaded, 1, pass->given->salient + (begin + i) * salient->count);
        awqi_stream_order(w, loaded);
        pass->gemm->prepare(w, loaded, i, awqi_max64(rows, pass->gemm->least), strip);
    }
}

static void multiply(void *user_data, int64_t index)
{
    const struct pass *pass = user_data;
    const struct awqi_linear_salient *salient = &pass->linear->salient;
    const int64_t panels = pass->linear->columns.panels, panel = index % panels, block = index / panels;
    const int64_t bytes = strip_bytes(pass->linear, pass->gemm);
    const int64_t end = part_begin(pass->strips, pass->blocks, block + 1);
    for (int64_t strip = part_begin(pass->strips, pass->blocks, block); strip < end; strip++) {
        float sums[AWQI_STRIP_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
        const int64_t begin = part_begin(pass->rows, pass->strips, strip);
        const int64_t rows = part_begin(pass->rows, pass->strips, strip + 1) - begin;
        pass->gemm->run(&pass->linear->stream, panel, pass->memory + strip * bytes,
                        awqi_max64(rows, pass->gemm->least), sums);
        awqi_linear_salient_add(salient, pass->given->kernels, pass->given->salient + begin * salient->count, panel,
                                rows, sums);
        for (int64_t i = 0; i < rows; i++)
            awqi_linear_store_panel(pass->linear, pass->job, pass->first + begin + i, panel, sums + i * AWQI_PANEL);
    }
}

void awqi_linear_gemm(awq_context *context, const struct awqi_linear_pass *given, const struct awqi_gemm *gemm)
{
    struct pass pass = {
        .given = given,
        .linear = given->linear,
        .job = given->job,
        .first = given->first,
        .rows = given->rows,
        .gemm = gemm,
        .memory = given->memory,
    };
    pass.strips = awqi_ceil_div(pass.rows, gemm->most);
    pass.blocks = awqi_ceil_div(pass.strips, BLOCK_STRIPS);
    pass.loaded = (float *)(void *)(pass.memory + pass.strips * strip_bytes(pass.linear, gemm));
    awqi_parallel_for(context, pass.strips, prepare_strip, &pass);
    awqi_parallel_for(context, pass.blocks * pass.linear->columns.panels, multiply, &pass);
}

uint64_t awqi_linear_gemm_workspace(const struct awqi_cpu_linear *linear, const struct awqi_gemm *gemm, int64_t rows)
{
    const int64_t strips = awqi_ceil_div(awqi_min64(rows, AWQI_GEMM_PASS), gemm->most);
    const uint64_t row_bytes = (uint64_t)awqi_linear_row_floats(linear) * sizeof(float);
    return (uint64_t)strips * ((uint64_t)strip_bytes(linear, gemm) + row_bytes);
}
