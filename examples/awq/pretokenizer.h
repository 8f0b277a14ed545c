/* The "pre_tokenizer" of a tokenizer.json: cuts text into the words that byte-pair encoding stays within. */
#ifndef AWQ_APP_PRETOKENIZER_H
#define AWQ_APP_PRETOKENIZER_H

#include <jansson.h>

#include "buffer.h"

/* A stretch of text, or a token that was found in it already. */
struct segment {
    size_t begin, end; /* in segments.text */
    int32_t token;     /* -1: text */
    bool at_start;     /* begins where the whole text did */
};

struct segments {
    struct text_buffer text;
    struct segment *items;
    size_t count, capacity;
};

/* Append a segment with the given text; empty ones are left out. */
bool segments_append(struct segments *segments, const char *text, size_t length, bool at_start);
bool segments_append_token(struct segments *segments, int32_t token);
void segments_free(struct segments *segments);

struct pretokenizer;

/* 'json' may be NULL or null: whole texts are words then.  NULL with a reason (reason.h) for what is not supported. */
struct pretokenizer *pretokenizer_create(const json_t *json, char *reason);
void pretokenizer_destroy(struct pretokenizer *pretokenizer);

/* Cut, and rewrite, all segments that are text. */
bool pretokenizer_run(const struct pretokenizer *pretokenizer, struct segments *segments);

/* The alphabet of byte-level vocabularies, where every byte is a printable character. */
uint32_t byte_level_character(unsigned char byte);
int byte_level_byte(uint32_t character); /* -1: not of the alphabet */

#endif
