/* Where things lie in the stream of CPU kernels; cpu_stream.c says what they are. */
#ifndef AWQI_CPU_STREAM_H
#define AWQI_CPU_STREAM_H

#include "../weight.h"

enum {
    AWQI_STREAM_OUTPUTS = 16, /* of a block; words of a line */
    AWQI_STREAM_LINE_BYTES = 64
};

struct awqi_stream_shape {
    int64_t blocks, block_words;
    int64_t group_size, groups;
    int64_t group_words; /* of every group but the last */
    int64_t group_lines; /* of codes, of every group but the last */
    int64_t lines;       /* of codes per block */
    int32_t width;       /* bits of a code's field */
    int32_t line_inputs; /* inputs per line of codes */
    int32_t header_words;
    int32_t scale_dtype; /* F16 or BF16; in memory also F32, whose scales take a line of their own */
};

static inline struct awqi_stream_shape awqi_stream_shape(int64_t n, int64_t k, int64_t group_size, int32_t bits,
                                                         int32_t scale_dtype)
{
    struct awqi_stream_shape shape = {
        .blocks = awqi_ceil_div(n, AWQI_STREAM_OUTPUTS),
        .group_size = awqi_min64(group_size, k),
        .width = bits == 8 ? 8 : 4,
        .line_inputs = bits == 8 ? 4 : 8,
        .header_words = scale_dtype == AWQ_F32 ? 2 * AWQI_STREAM_OUTPUTS : AWQI_STREAM_OUTPUTS,
        .scale_dtype = scale_dtype,
    };
    const int64_t whole = k / shape.group_size, rest = k % shape.group_size;
    shape.groups = whole + (rest > 0);
    shape.group_lines = awqi_ceil_div(shape.group_size, shape.line_inputs);
    shape.lines = whole * shape.group_lines + awqi_ceil_div(rest, shape.line_inputs);
    shape.group_words = shape.header_words + AWQI_STREAM_OUTPUTS * shape.group_lines;
    shape.block_words = shape.groups * shape.header_words + AWQI_STREAM_OUTPUTS * shape.lines;
    return shape;
}

/* Lines of codes of one group. */
static inline int64_t awqi_stream_group_lines(const struct awqi_stream_shape *shape, int64_t group)
{
    return awqi_min64(shape->group_lines, shape->lines - group * shape->group_lines);
}

/* The first word of the line with input 'within' of a group, and the bit where its field begins in each word. */
static inline int64_t awqi_stream_line(const struct awqi_stream_shape *shape, int64_t group, int64_t within, int *bit)
{
    const int64_t line = within / shape->line_inputs, i = within % shape->line_inputs;
    *bit = (int)(16 * (i % 2) + shape->width * (i / 2));
    return group * shape->group_words + shape->header_words + AWQI_STREAM_OUTPUTS * line;
}

/* The scale and the zero point of one output, from the header of its group. */
static inline void awqi_stream_header(const struct awqi_stream_shape *shape, const uint32_t *header, int64_t output,
                                      float *scale, int32_t *zero)
{
    const unsigned char *bytes = (const unsigned char *)header;
    const size_t size = awq_dtype_size(shape->scale_dtype);
    uint16_t integer;
    awqi_to_f32(shape->scale_dtype, bytes + (size_t)output * size, scale, 1);
    memcpy(&integer, bytes + AWQI_STREAM_OUTPUTS * size + (size_t)output * sizeof integer, sizeof integer);
    *zero = integer;
}

/* Write a block: 'rows' names the row of the weight of each of its outputs, -1 for one that is not there; 'words' are
 * zero before. */
void awqi_stream_write_block(const struct awqi_stream_shape *shape, const awq_weight *weight,
                             const int64_t rows[AWQI_STREAM_OUTPUTS], uint32_t *words);

#endif /* AWQI_CPU_STREAM_H */
