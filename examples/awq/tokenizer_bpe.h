/* Byte-pair encoding: a vocabulary, and merges in the order of their rank. */
#ifndef AWQ_APP_TOKENIZER_BPE_H
#define AWQ_APP_TOKENIZER_BPE_H

#include <jansson.h>

#include "buffer.h"

enum { MAX_TOKEN_ID = (1 << 24) - 1 };

struct bpe;

/* From the "model" object of a tokenizer.json.  NULL with a reason (reason.h) when it is none. */
struct bpe *bpe_create(const json_t *model, char *reason);
void bpe_destroy(struct bpe *bpe);

/* The largest id of the vocabulary plus 1. */
int32_t bpe_vocabulary(const struct bpe *bpe);

/* -1 when there is no such token. */
int32_t bpe_token_id(const struct bpe *bpe, const char *text, size_t length);

/* The text of a token, valid as long as 'bpe'; NULL for an id that is not in use. */
const char *bpe_token_text(const struct bpe *bpe, int32_t id, size_t *length);

/* Memory that encoding needs, kept from word to word.  All zero to begin with. */
struct bpe_scratch {
    struct bpe_symbol *symbols;
    struct bpe_candidate *heap;
    size_t symbol_count, symbol_capacity;
    size_t heap_count, heap_capacity;
};

void bpe_scratch_free(struct bpe_scratch *scratch);

/* Append the ids of one word (valid UTF-8).  Characters that the vocabulary lacks become bytes, the unknown token, or
 * nothing, as the model says. */
bool bpe_encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length,
                     struct id_buffer *ids);

#endif
