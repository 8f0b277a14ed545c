/* Rows as signed bytes, for NEON's products of four or eight of them.
 *
 * Activations are integers of one or three bytes with a scale per block of inputs; weights are exact.  With three bytes a
 * number, digits to the base 256, the digits' sums are put together at the end of a block: 23 bits and a sign, in fewer
 * instructions than products in single precision take.
 *
 *     y = sum over groups of s (sum over blocks of (b sum of q i) - z sum of x),  x = b i
 *
 * A row is, line by line and digit by digit, a piece of bytes in the order of the line's fields, then the scale b of each
 * block, then the sum over each group.  Rows may also go by pairs, whose pieces alternate. */
#ifndef AWQI_NEON_BYTES_H
#define AWQI_NEON_BYTES_H

#include "kernels.h"

enum {
    AWQI_NEON_BYTE_BLOCK = 32, /* inputs that share a scale when they are one byte each; */
    AWQI_NEON_DIGITS = 3,      /* and when they are three */
    AWQI_NEON_DIGIT_BLOCK = 128
};

struct awqi_neon_form {
    int digits;
    int64_t block_inputs, group_blocks; /* group_blocks of every group but the last */
    int64_t scales, sums, bytes;        /* where they begin, and where the row ends */
};

static inline struct awqi_neon_form awqi_neon_form(const struct awqi_stream *w, int digits)
{
    struct awqi_neon_form form = {.digits = digits};
    form.block_inputs = digits == 1 ? AWQI_NEON_BYTE_BLOCK : AWQI_NEON_DIGIT_BLOCK;
    form.group_blocks = awqi_ceil_div(w->shape.group_lines * w->shape.line_inputs, form.block_inputs);
    form.scales = awqi_ceil_div(awqi_stream_inputs(w) * digits, 64) * 64;
    form.sums = form.scales + awqi_ceil_div(w->shape.groups * form.group_blocks, 16) * 64;
    form.bytes = form.sums + awqi_ceil_div(w->shape.groups, 16) * 64;
    return form;
}

/* Put a row in stream order in its form: its first piece at 'pieces', with 'step' bytes from one to the next, and its
 * scales and sums at 'tail'. */
void awqi_neon_prepare_bytes(const struct awqi_stream *w, int digits, const float *x, int64_t step, int8_t *pieces,
                             float *tail);

#endif /* AWQI_NEON_BYTES_H */
