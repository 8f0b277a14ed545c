/* tokenizer.json, as the tokenizers library of Hugging Face reads it: added tokens, normalizer, pre_tokenizer, a
 * model that is byte-pair encoding, post_processor and decoder.  Components that are not supported are refused by
 * name. */
#ifndef AWQ_APP_TOKENIZER_JSON_H
#define AWQ_APP_TOKENIZER_JSON_H

#include <jansson.h>

#include "buffer.h"

enum { MAX_AFFIXES = 8 };

struct tokenizer_json;

/* NULL with a reason (reason.h). */
struct tokenizer_json *tokenizer_json_create(const json_t *json, char *reason);
void tokenizer_json_destroy(struct tokenizer_json *tokenizer);

/* The largest id plus 1. */
int32_t tokenizer_json_vocabulary(const struct tokenizer_json *tokenizer);

/* The id of a token by its text, -1: none. */
int32_t tokenizer_json_token_id(const struct tokenizer_json *tokenizer, const char *text, size_t length);

/* The ids that the post_processor puts before and after a text: ids[MAX_AFFIXES]; return how many. */
size_t tokenizer_json_prefix(const struct tokenizer_json *tokenizer, int32_t *ids);
size_t tokenizer_json_suffix(const struct tokenizer_json *tokenizer, int32_t *ids);

/* Append the ids of valid UTF-8, without prefix and suffix. */
bool tokenizer_json_encode(const struct tokenizer_json *tokenizer, const char *text, size_t length,
                           struct id_buffer *ids);

/* Append the bytes of one token, which need not be whole characters.  *started is false before the first token that has
 * any, and set then. */
bool tokenizer_json_decode(const struct tokenizer_json *tokenizer, int32_t id, bool *started,
                           struct text_buffer *bytes);

#endif
