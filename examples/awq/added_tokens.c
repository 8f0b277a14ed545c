/* Tokens that are found in text as they are. */
#include "added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "reason.h"
#include "tokenizer_bpe.h"
#include "utf8.h"

/* Every place of the text is compared with all tokens of its first byte. */
enum { MAX_ADDED_TOKENS = 16384, MAX_LENGTH = 1024 };

static bool flag(const json_t *json, const char *key)
{
    return json_is_true(json_object_get(json, key));
}

static char *copy_bytes(const char *bytes, size_t length)
{
    char *copy = malloc(length + 1);
    if (!copy) return NULL;
    if (length) memcpy(copy, bytes, length);
    copy[length] = 0;
    return copy;
}

static bool load_token(struct added_token *token, const json_t *json, const struct normalizer *normalizer, char *reason)
{
    const json_t *content = json_object_get(json, "content"), *id = json_object_get(json, "id");
    struct text_buffer normal = {0};
    if (!json_is_string(content) || json_string_length(content) == 0 || json_string_length(content) > MAX_LENGTH)
        return refuse(reason, "added_tokens: content is not a string of 1 to %d bytes", MAX_LENGTH);
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > MAX_TOKEN_ID)
        return refuse(reason, "added_tokens: the id of '%.60s' is no id", json_string_value(content));
    if (flag(json, "single_word"))
        return refuse(reason, "added_tokens: single_word of '%.60s' is not supported", json_string_value(content));
    token->id = (int32_t)json_integer_value(id);
    token->special = flag(json, "special");
    token->normalized = flag(json, "normalized");
    token->left_strip = flag(json, "lstrip");
    token->right_strip = flag(json, "rstrip");
    token->content_length = json_string_length(content);
    token->content = copy_bytes(json_string_value(content), token->content_length);
    if (token->normalized) {
        if (!normalizer_run(normalizer, json_string_value(content), token->content_length, &normal)) {
            text_buffer_free(&normal);
            return refuse(reason, "added_tokens: '%.60s' cannot be normalised", json_string_value(content));
        }
        token->length = normal.length;
        token->text = copy_bytes(normal.bytes, normal.length);
        text_buffer_free(&normal);
    } else {
        token->length = token->content_length;
        token->text = copy_bytes(token->content, token->length);
    }
    return (token->content && token->text) || refuse(reason, "out of memory");
}

/* By first byte, then the longest first: the first that fits is the longest. */
static int compare_texts(const void *a, const void *b)
{
    const struct added_token *left = a, *right = b;
    int first = (int)(unsigned char)left->text[0] - (int)(unsigned char)right->text[0];
    if (first) return first;
    if (left->length != right->length) return left->length > right->length ? -1 : 1;
    return memcmp(left->text, right->text, left->length);
}

static int compare_ids(const void *a, const void *b)
{
    const struct added_token *left = *(struct added_token *const *)a, *right = *(struct added_token *const *)b;
    return (left->id > right->id) - (left->id < right->id);
}

bool added_tokens_load(struct added_tokens *tokens, const json_t *json, const struct normalizer *normalizer,
                       char *reason)
{
    size_t count = json_array_size(json);
    *tokens = (struct added_tokens){0};
    if (count > MAX_ADDED_TOKENS)
        return refuse(reason, "added_tokens: %zu of them, more than %d", count, MAX_ADDED_TOKENS);
    tokens->items = calloc(count + 1, sizeof *tokens->items);
    tokens->by_id = calloc(count + 1, sizeof *tokens->by_id);
    if (!tokens->items || !tokens->by_id) {
        refuse(reason, "out of memory");
        goto failed;
    }
    for (size_t i = 0; i < count; i++) {
        tokens->count++;
        if (!load_token(&tokens->items[i], json_array_get(json, i), normalizer, reason)) goto failed;
    }
    if (count) qsort(tokens->items, count, sizeof *tokens->items, compare_texts);
    for (size_t i = 0; i < count; i++) {
        tokens->first[(unsigned char)tokens->items[i].text[0] + 1]++;
        tokens->by_id[i] = &tokens->items[i];
    }
    for (size_t i = 0; i < 256; i++) tokens->first[i + 1] += tokens->first[i];
    if (count) qsort(tokens->by_id, count, sizeof *tokens->by_id, compare_ids);
    return true;
failed:
    added_tokens_free(tokens);
    return false;
}

void added_tokens_free(struct added_tokens *tokens)
{
    for (size_t i = 0; i < tokens->count; i++) {
        free(tokens->items[i].text);
        free(tokens->items[i].content);
    }
    free(tokens->items);
    free(tokens->by_id);
    *tokens = (struct added_tokens){0};
}

const struct added_token *added_tokens_find(const struct added_tokens *tokens, int32_t id)
{
    size_t low = 0, high = tokens->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (tokens->by_id[middle]->id == id) return tokens->by_id[middle];
        if (tokens->by_id[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

static const struct added_token *match(const struct added_tokens *tokens, bool normalized, const char *text,
                                       size_t length)
{
    unsigned char byte = (unsigned char)text[0];
    for (size_t i = tokens->first[byte]; i < tokens->first[byte + 1]; i++) {
        const struct added_token *token = &tokens->items[i];
        if (token->normalized == normalized && token->length <= length && memcmp(token->text, text, token->length) == 0)
            return token;
    }
    return NULL;
}

/* Where the white space that ends at 'at' begins, not before 'from'. */
static size_t space_before(const char *text, size_t from, size_t at)
{
    while (at > from) {
        size_t begin = at - 1;
        uint32_t character;
        while (begin > from && ((unsigned char)text[begin] & 0xC0) == 0x80) begin--;
        if (utf8_decode(text + begin, at - begin, &character) <= 0 || !utf8_is_space(character)) break;
        at = begin;
    }
    return at;
}

static size_t space_after(const char *text, size_t length, size_t at)
{
    while (at < length) {
        uint32_t character;
        int bytes = utf8_decode(text + at, length - at, &character);
        if (bytes <= 0 || !utf8_is_space(character)) break;
        at += (size_t)bytes;
    }
    return at;
}

bool added_tokens_cut(const struct added_tokens *tokens, bool normalized, const char *text, size_t length,
                      bool at_start, struct segments *out)
{
    size_t copied = 0, at = 0;
    while (at < length) {
        const struct added_token *token = match(tokens, normalized, text + at, length - at);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = token->left_strip ? space_before(text, copied, at) : at;
        size_t end = at + token->length;
        /* The search goes on behind the token, not behind the white space it takes. */
        at = end;
        if (token->right_strip) end = space_after(text, length, end);
        if (begin > copied && !segments_append(out, text + copied, begin - copied, at_start && copied == 0))
            return false;
        if (!segments_append_token(out, token->id)) return false;
        copied = end;
    }
    return copied >= length || segments_append(out, text + copied, length - copied, at_start && copied == 0);
}
