/* From text to token ids and back, with the tokenizer that lies beside a model.
 *
 * tokenizer.json: byte-pair encoding, byte-level (GPT-2, Llama 3, Qwen) or with spaces as U+2581 and byte fallback
 * (Llama 2, Mistral).  tokenizer.model: SentencePiece, through its own library.  What is not understood is refused by
 * name. */
#ifndef AWQ_APP_TOKENIZER_H
#define AWQ_APP_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buffer.h"

struct tokenizer;

/* Open the tokenizer of a model directory, preferring tokenizer.json.  Reads config.json, generation_config.json and
 * tokenizer_config.json too, as far as they exist, for the special tokens. */
bool tokenizer_open(const char *model_directory, struct tokenizer **tokenizer);
void tokenizer_close(struct tokenizer *tokenizer);

/* All ids are below this. */
int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer);

/* The id that begins a text for this model, or -1 when it wants none. */
int32_t tokenizer_bos(const struct tokenizer *tokenizer);

/* Whether generation ends at this token. */
bool tokenizer_is_eos(const struct tokenizer *tokenizer, int32_t id);

/* Append the ids of 'length' bytes of text.  Bytes that are not UTF-8 count as U+FFFD.  With 'add_special' the ids
 * that the model wants around a text (often one that begins it) are added. */
bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                      struct id_buffer *ids);

/* Append the text of the ids.  Special tokens have none; bytes that do not make UTF-8 become U+FFFD. */
bool tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, struct text_buffer *text);

/* Decoding token by token, for text that is shown while it is generated: characters appear when their last byte has
 * come.  To continue a prompt, push its tokens first. */
struct token_stream {
    const struct tokenizer *tokenizer;
    struct text_buffer bytes; /* of a character that is not complete */
    bool started;             /* a token with text has been seen */
};

void token_stream_begin(struct token_stream *stream, const struct tokenizer *tokenizer);

/* Append the text that 'id' completes to 'text', none perhaps. */
bool token_stream_push(struct token_stream *stream, int32_t id, struct text_buffer *text);

/* The end: append what is left of an incomplete character, and free the stream's memory. */
bool token_stream_end(struct token_stream *stream, struct text_buffer *text);

#endif
