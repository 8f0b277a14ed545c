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

#include "digits.h"

enum { AWQI_NEON_DIGITS = 3, AWQI_NEON_DIGIT_BLOCK = 128 };

static inline struct awqi_digits awqi_neon_form(const struct awqi_stream *w, int digits)
{
    return awqi_digits_of(w, digits, digits == 1 ? AWQI_BYTE_BLOCK : AWQI_NEON_DIGIT_BLOCK);
}

/* Put a row in stream order in its form: its first piece at 'pieces', with 'step' bytes from one to the next, and its
 * scales and sums at 'tail'. */
void awqi_neon_prepare_bytes(const struct awqi_stream *w, int digits, const float *x, int64_t step, int8_t *pieces,
                             float *tail);

#endif /* AWQI_NEON_BYTES_H */
