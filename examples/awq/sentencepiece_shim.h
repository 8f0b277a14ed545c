/* libsentencepiece for C: nothing it throws passes through here. */
#ifndef AWQ_APP_SENTENCEPIECE_SHIM_H
#define AWQ_APP_SENTENCEPIECE_SHIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sentencepiece_model;

enum sentencepiece_kind { PIECE_TEXT, PIECE_UNKNOWN, PIECE_CONTROL, PIECE_BYTE };

/* A model from the bytes of its file.  NULL with a reason in 'error' when they are none. */
struct sentencepiece_model *sentencepiece_open(const void *bytes, size_t size, char *error, size_t error_size);
void sentencepiece_close(struct sentencepiece_model *model);

int32_t sentencepiece_vocabulary(const struct sentencepiece_model *model);
int32_t sentencepiece_bos(const struct sentencepiece_model *model); /* -1: none */
int32_t sentencepiece_eos(const struct sentencepiece_model *model);

/* Whether decoding drops the space that a text begins with. */
bool sentencepiece_strips_space(const struct sentencepiece_model *model);

/* The ids of valid UTF-8, to be released with free(). */
bool sentencepiece_encode(const struct sentencepiece_model *model, const char *text, size_t length, int32_t **ids,
                          size_t *count, char *error, size_t error_size);

/* A piece of the vocabulary, valid as long as the model; 0 <= id < vocabulary. */
enum sentencepiece_kind sentencepiece_piece(const struct sentencepiece_model *model, int32_t id, const char **text,
                                            size_t *length);

#ifdef __cplusplus
}
#endif

#endif
