/* Unicode Normalization Form C (UAX #15). */
#ifndef AWQ_APP_NFC_H
#define AWQ_APP_NFC_H

#include "buffer.h"

/* Append the form C of valid UTF-8. */
bool nfc_append(struct text_buffer *out, const char *text, size_t length);

#endif
