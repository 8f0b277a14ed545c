/* Quantised weights as a stream of blocks, two to a panel. */
#include "kernels.h"

int64_t awqi_column_row(const struct awqi_columns *columns, int64_t panel, int64_t column)
{
    int64_t row = panel * AWQI_PANEL + column;
    if (!columns->paired) return row < columns->n ? row : -1;
    const int64_t half = AWQI_PANEL / 2;
    row = panel * half + column % half;
    if (row >= columns->n / 2) return -1;
    return column < half ? row : columns->n / 2 + row;
}

struct awqi_columns awqi_columns_of(int64_t n, bool paired)
{
    const int64_t panels = paired ? awqi_ceil_div(n / 2, AWQI_PANEL / 2) : awqi_ceil_div(n, AWQI_PANEL);
    return (struct awqi_columns){.n = n, .panels = panels, .paired = paired};
}

struct pack_job {
    const struct awqi_stream *stream;
    const awq_weight *weight;
};

static void pack_panel(void *user_data, int64_t panel)
{
    const struct pack_job *job = user_data;
    const struct awqi_stream *w = job->stream;
    uint32_t *words = w->words + panel * AWQI_PANEL_BLOCKS * w->shape.block_words;
    memset(words, 0, (size_t)(AWQI_PANEL_BLOCKS * w->shape.block_words) * sizeof *words);
    for (int64_t block = 0; block < AWQI_PANEL_BLOCKS; block++, words += w->shape.block_words) {
        int64_t rows[AWQI_STREAM_OUTPUTS];
        for (int64_t i = 0; i < AWQI_STREAM_OUTPUTS; i++)
            rows[i] = awqi_column_row(&w->columns, panel, block * AWQI_STREAM_OUTPUTS + i);
        awqi_stream_write_block(&w->shape, job->weight, rows, words);
    }
}

awq_status awqi_stream_create(awq_context *context, const awq_weight *weight, bool paired, struct awqi_stream *stream)
{
    struct awqi_stream w = {.columns = awqi_columns_of(weight->n, paired), .k = weight->k};
    w.shape = awqi_stream_shape(AWQI_PANEL * w.columns.panels, weight->k, weight->group_size, weight->bits,
                                weight->scale_dtype);
    const uint64_t panel_bytes = (uint64_t)(AWQI_PANEL_BLOCKS * w.shape.block_words) * sizeof *w.words;
    void *words;
    awq_status status = awqi_alloc(context, (uint64_t)w.columns.panels, panel_bytes, "a prepared weight", &words);
    if (status != AWQ_OK) return status;
    w.words = words;
    w.size_bytes = (uint64_t)w.columns.panels * panel_bytes;
    struct pack_job job = {&w, weight};
    awqi_parallel_for(context, w.columns.panels, pack_panel, &job);
    *stream = w;
    return AWQ_OK;
}

void awqi_stream_destroy(awq_context *context, struct awqi_stream *stream)
{
    awqi_free(context, stream->words);
}

float awqi_stream_weight(const struct awqi_stream *w, int64_t panel, int64_t column, int64_t input)
{
    const uint32_t *words = awqi_stream_block(w, panel, column / AWQI_STREAM_OUTPUTS);
    const int64_t output = column % AWQI_STREAM_OUTPUTS, group = input / w->shape.group_size;
    int bit;
    const int64_t line = awqi_stream_line(&w->shape, group, input % w->shape.group_size, &bit);
    float scale;
    int32_t zero;
    awqi_stream_header(&w->shape, words + group * w->shape.group_words, output, &scale, &zero);
    const int32_t code = (int32_t)(words[line + output] >> bit & ((1u << w->shape.width) - 1));
    return (float)(code - zero) * scale;
}

void awqi_stream_order(const struct awqi_stream *w, float *x)
{
    const struct awqi_stream_shape *shape = &w->shape;
    const int64_t inputs = awqi_stream_inputs(w), room = shape->group_lines * shape->line_inputs;
    memset(x + w->k, 0, (size_t)(inputs - w->k) * sizeof *x);
    if (room == shape->group_size) return;
    for (int64_t group = shape->groups - 1; group >= 0; group--) {
        const int64_t first = group * shape->group_size, count = awqi_min64(shape->group_size, w->k - first);
        float *to = x + group * room;
        memmove(to, x + first, (size_t)count * sizeof *x);
        memset(to + count, 0, (size_t)(awqi_min64(room, inputs - group * room) - count) * sizeof *x);
    }
}

void awqi_run_blocks(const struct awqi_stream *w, int64_t panel, const unsigned char *rows, int64_t row_bytes,
                     int64_t count, awqi_gemv_block *const functions[4], float *out)
{
    for (int64_t block = 0; block < AWQI_PANEL_BLOCKS; block++) {
        const uint32_t *words = awqi_stream_block(w, panel, block);
        int64_t done = 0;
        for (int i = 3; i >= 0; i--)
            for (; functions[i] != NULL && done + (1 << i) <= count; done += 1 << i)
                functions[i](w, words, rows + done * row_bytes, out + done * AWQI_PANEL + block * AWQI_STREAM_OUTPUTS);
    }
}
