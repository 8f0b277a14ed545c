/* The "normalizer" of a tokenizer.json: how text is rewritten before it is cut. */
#ifndef AWQ_APP_NORMALIZER_H
#define AWQ_APP_NORMALIZER_H

#include <jansson.h>

#include "buffer.h"

struct normalizer;

/* 'json' may be NULL or null: nothing is changed then.  NULL with a reason (reason.h) for what is not supported. */
struct normalizer *normalizer_create(const json_t *json, char *reason);
void normalizer_destroy(struct normalizer *normalizer);

/* Replace what is in 'out' by the normal form of valid UTF-8. */
bool normalizer_run(const struct normalizer *normalizer, const char *text, size_t length, struct text_buffer *out);

#endif
