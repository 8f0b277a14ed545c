/* Data to calibrate and evaluate with: text, or token ids that were made before, as rows of equal length. */
#ifndef AWQ_APP_TOKENS_H
#define AWQ_APP_TOKENS_H

#include "tokenizer.h"

/* Rows of token ids, one after the other. */
struct token_rows {
    int32_t *ids;
    int64_t rows;
    int64_t columns;
};

void token_rows_free(struct token_rows *rows);

/* Whether 'path' is a file of token ids by its extension: .npy (NumPy, 1-D or 2-D, 16, 32 or 64-bit integers), .u16
 * or .u32 (raw little-endian).  Anything else is UTF-8 text. */
bool tokens_is_id_file(const char *path);

/* Read a file.  Text is encoded without special tokens; 'tokenizer' may be NULL where only ids are read.  A 2-D file
 * gives its rows, everything else one row.  Every id must be below 'vocabulary' (0: no limit). */
bool tokens_read(const char *path, const struct tokenizer *tokenizer, int64_t vocabulary, struct token_rows *rows);

/* Cut at most 'samples' windows of 'length' ids out of 'source', in order:
 *   of one row, windows that do not overlap, spread evenly from its beginning to its end (all that fit, side by side,
 *   when there are no more than that), each beginning with 'bos' in place of a token where that is not negative;
 *   of several rows, rows spread evenly over all, each cut to its first 'length' ids and otherwise as it is.
 * samples 0: all there are; length 0: whole rows.  Fails when not even one window fits. */
bool tokens_cut(const struct token_rows *source, int64_t samples, int64_t length, int32_t bos,
                struct token_rows *windows);

/* Write ids as .npy (2-D, or 1-D where rows is 1), .u16 or .u32 by the extension; .npy has 16-bit ids where they
 * fit. */
bool tokens_write(const char *path, const struct token_rows *rows);

#endif
