/* The "added_tokens" of a tokenizer.json: tokens that are found in text as they are, before anything else. */
#ifndef AWQ_APP_ADDED_TOKENS_H
#define AWQ_APP_ADDED_TOKENS_H

#include <jansson.h>

#include "normalizer.h"
#include "pretokenizer.h"

struct added_token {
    char *text;   /* what is looked for */
    size_t length;
    char *content; /* what it reads when decoded */
    size_t content_length;
    int32_t id;
    bool special;     /* left out when decoding */
    bool normalized;  /* looked for in normalised text, rather than in text as it is */
    bool left_strip, right_strip; /* takes the white space beside it */
};

struct added_tokens {
    struct added_token *items; /* ordered by the first byte of 'text', the longest first */
    size_t count;
    size_t first[257]; /* where each first byte's begin */
    struct added_token **by_id;
};

/* NULL or null is an empty list.  False with a reason (reason.h) for what is not supported. */
bool added_tokens_load(struct added_tokens *tokens, const json_t *json, const struct normalizer *normalizer,
                       char *reason);
void added_tokens_free(struct added_tokens *tokens);

/* NULL: not one of these. */
const struct added_token *added_tokens_find(const struct added_tokens *tokens, int32_t id);

/* Append text to 'out', cut at those tokens whose 'normalized' is as given. */
bool added_tokens_cut(const struct added_tokens *tokens, bool normalized, const char *text, size_t length,
                      bool at_start, struct segments *out);

#endif
