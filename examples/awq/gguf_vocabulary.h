/* A model's tokenizer as llama.cpp takes it from GGUF metadata. */
#ifndef AWQ_APP_GGUF_VOCABULARY_H
#define AWQ_APP_GGUF_VOCABULARY_H

#include "gguf.h"
#include "model.h"

/* Put the tokenizer of a model directory into a file's metadata: tokenizer.model (SentencePiece) or else tokenizer.json
 * (byte-pair encoding).  'pre' names the pre-tokenizer of the latter; NULL: recognised by its patterns, or refused. */
bool gguf_put_vocabulary(struct gguf_writer *writer, const char *directory, const struct model_config *config,
                         const char *pre);

#endif
