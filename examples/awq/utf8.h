/* UTF-8, character by character. */
#ifndef AWQ_APP_UTF8_H
#define AWQ_APP_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

enum { UTF8_REPLACEMENT = 0xFFFD, UTF8_MAX_BYTES = 4 };

/* Decode the character that begins at text[0]; length > 0.  Returns its number of bytes.  Where the bytes are no
 * UTF-8, returns minus the number of bytes that one U+FFFD stands for (the longest beginning of a character, as the
 * Unicode standard recommends); 0 when the text ends inside a character. */
int utf8_decode(const char *text, size_t length, uint32_t *character);

/* Bytes written to 'text'. */
int utf8_encode(uint32_t character, char text[UTF8_MAX_BYTES]);

/* Append text with U+FFFD for what is no UTF-8.  'replaced' counts them, and 'first' gets the place of the first one
 * when the count was zero; both may be NULL. */
bool utf8_append_valid(struct text_buffer *buffer, const char *text, size_t length, size_t *replaced, size_t *first);

/* The White_Space property. */
bool utf8_is_space(uint32_t character);

#endif
