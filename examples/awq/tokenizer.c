/* The tokenizer beside a model, of either kind. */
#include "tokenizer.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"
#include "reason.h"
#include "sentencepiece_shim.h"
#include "tokenizer_json.h"
#include "utf8.h"

/* The largest tokenizer files in use have some tens of megabytes, their configurations some kilobytes. */
#define MAX_TOKENIZER_BYTES ((uint64_t)256 << 20)
#define MAX_CONFIG_BYTES ((uint64_t)16 << 20)
#define MAX_TEXT_BYTES ((size_t)1 << 30)

enum { MAX_EOS = 16 };

struct tokenizer {
    struct tokenizer_json *json;              /* one of these two */
    struct sentencepiece_model *sentencepiece;
    int32_t prefix[MAX_AFFIXES], suffix[MAX_AFFIXES];
    size_t prefix_count, suffix_count;
    int32_t eos[MAX_EOS];
    size_t eos_count;
};

/* ----------------------------------------------------------------------------------- opening */

/* The JSON of DIRECTORY/NAME.  *json is NULL when there is no such file. */
static bool load_json(const char *directory, const char *name, uint64_t limit, json_t **json)
{
    struct text_buffer text = {0};
    json_error_t error;
    char *path;
    bool done = true;
    *json = NULL;
    if (asprintf(&path, "%s/%s", directory, name) < 0) return cli_error("out of memory");
    if (access(path, F_OK) == 0) {
        done = text_buffer_read_file(&text, path, limit);
        if (done) *json = json_loadb(text.bytes, text.length, JSON_ALLOW_NUL, &error);
        if (done && !*json) done = cli_error("%s: line %d: %s", path, error.line, error.text);
    }
    text_buffer_free(&text);
    free(path);
    return done;
}

static bool exists(const char *directory, const char *name)
{
    char *path;
    if (asprintf(&path, "%s/%s", directory, name) < 0) return false;
    bool found = access(path, F_OK) == 0;
    free(path);
    return found;
}

static bool open_sentencepiece(struct tokenizer *tokenizer, const char *directory)
{
    struct text_buffer bytes = {0};
    char reason[REASON_SIZE];
    char *path;
    if (asprintf(&path, "%s/tokenizer.model", directory) < 0) return cli_error("out of memory");
    bool done = text_buffer_read_file(&bytes, path, MAX_TOKENIZER_BYTES);
    if (done) {
        tokenizer->sentencepiece = sentencepiece_open(bytes.bytes, bytes.length, reason, sizeof reason);
        done = tokenizer->sentencepiece != NULL;
        if (!done) cli_error("%s: %s", path, reason);
    }
    if (done && sentencepiece_bos(tokenizer->sentencepiece) >= 0)
        tokenizer->prefix[tokenizer->prefix_count++] = sentencepiece_bos(tokenizer->sentencepiece);
    text_buffer_free(&bytes);
    free(path);
    return done;
}

static bool open_either(struct tokenizer *tokenizer, const char *directory)
{
    char reason[REASON_SIZE];
    json_t *json;
    bool has_model = exists(directory, "tokenizer.model");
    if (!load_json(directory, "tokenizer.json", MAX_TOKENIZER_BYTES, &json)) return false;
    if (!json && !has_model)
        return cli_error("%s: there is neither a tokenizer.json nor a tokenizer.model; "
                         "without one, only files of token ids can be read", directory);
    if (json) {
        tokenizer->json = tokenizer_json_create(json, reason);
        json_decref(json);
        if (tokenizer->json) {
            tokenizer->prefix_count = tokenizer_json_prefix(tokenizer->json, tokenizer->prefix);
            tokenizer->suffix_count = tokenizer_json_suffix(tokenizer->json, tokenizer->suffix);
            return true;
        }
        if (!has_model) return cli_error("%s/tokenizer.json: %s", directory, reason);
        cli_warning("%s/tokenizer.json: %s; its tokenizer.model is used instead", directory, reason);
    }
    return open_sentencepiece(tokenizer, directory);
}

/* ---------------------------------------------------------------------------- special tokens */

/* The id of a token that tokenizer_config.json names, as "text" or {"content": "text"}; -1: none. */
static int32_t named_token(const struct tokenizer *tokenizer, const json_t *value)
{
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value)) return -1;
    const char *text = json_string_value(value);
    size_t length = json_string_length(value);
    if (tokenizer->json) return tokenizer_json_token_id(tokenizer->json, text, length);
    for (int32_t id = 0; id < sentencepiece_vocabulary(tokenizer->sentencepiece); id++) {
        const char *piece;
        size_t piece_length;
        sentencepiece_piece(tokenizer->sentencepiece, id, &piece, &piece_length);
        if (piece_length == length && memcmp(piece, text, length) == 0) return id;
    }
    return -1;
}

static void add_eos(struct tokenizer *tokenizer, json_int_t id)
{
    if (id < 0 || id > INT32_MAX || tokenizer->eos_count == MAX_EOS || tokenizer_is_eos(tokenizer, (int32_t)id)) return;
    tokenizer->eos[tokenizer->eos_count++] = (int32_t)id;
}

/* "eos_token_id": a number or several. */
static void add_eos_ids(struct tokenizer *tokenizer, const json_t *config)
{
    const json_t *value = json_object_get(config, "eos_token_id");
    if (json_is_integer(value)) add_eos(tokenizer, json_integer_value(value));
    for (size_t i = 0; i < json_array_size(value); i++)
        if (json_is_integer(json_array_get(value, i))) add_eos(tokenizer, json_integer_value(json_array_get(value, i)));
}

/* add_bos_token and add_eos_token, where they are said, win over what the tokenizer's own file says. */
static void apply_config(struct tokenizer *tokenizer, const json_t *config, const json_t *model_config)
{
    const json_t *add_bos = json_object_get(config, "add_bos_token"),
                 *add_eos_token = json_object_get(config, "add_eos_token");
    const json_t *bos_id = json_object_get(model_config, "bos_token_id");
    int32_t bos = named_token(tokenizer, json_object_get(config, "bos_token"));
    int32_t eos = named_token(tokenizer, json_object_get(config, "eos_token"));
    if (bos < 0 && json_is_integer(bos_id) && json_integer_value(bos_id) >= 0 &&
        json_integer_value(bos_id) < tokenizer_vocabulary(tokenizer))
        bos = (int32_t)json_integer_value(bos_id);
    if (json_is_false(add_bos)) {
        tokenizer->prefix_count = 0;
    } else if (json_is_true(add_bos) && bos >= 0) {
        tokenizer->prefix[0] = bos;
        tokenizer->prefix_count = 1;
    }
    if (json_is_false(add_eos_token)) {
        tokenizer->suffix_count = 0;
    } else if (json_is_true(add_eos_token) && eos >= 0) {
        tokenizer->suffix[0] = eos;
        tokenizer->suffix_count = 1;
    }
    if (eos >= 0) add_eos(tokenizer, eos);
}

static bool read_configs(struct tokenizer *tokenizer, const char *directory)
{
    json_t *model = NULL, *generation = NULL, *own = NULL;
    bool done = load_json(directory, "config.json", MAX_CONFIG_BYTES, &model) &&
                load_json(directory, "generation_config.json", MAX_CONFIG_BYTES, &generation) &&
                load_json(directory, "tokenizer_config.json", MAX_CONFIG_BYTES, &own);
    if (done) {
        apply_config(tokenizer, own, model);
        add_eos_ids(tokenizer, model);
        add_eos_ids(tokenizer, generation);
        if (tokenizer->sentencepiece) add_eos(tokenizer, sentencepiece_eos(tokenizer->sentencepiece));
    }
    json_decref(model);
    json_decref(generation);
    json_decref(own);
    return done;
}

bool tokenizer_open(const char *model_directory, struct tokenizer **tokenizer)
{
    struct tokenizer *opened = calloc(1, sizeof *opened);
    *tokenizer = NULL;
    if (!opened) return cli_error("out of memory");
    if (!open_either(opened, model_directory) || !read_configs(opened, model_directory)) {
        tokenizer_close(opened);
        return false;
    }
    *tokenizer = opened;
    return true;
}

void tokenizer_close(struct tokenizer *tokenizer)
{
    if (!tokenizer) return;
    tokenizer_json_destroy(tokenizer->json);
    sentencepiece_close(tokenizer->sentencepiece);
    free(tokenizer);
}

int32_t tokenizer_vocabulary(const struct tokenizer *tokenizer)
{
    return tokenizer->json ? tokenizer_json_vocabulary(tokenizer->json)
                           : sentencepiece_vocabulary(tokenizer->sentencepiece);
}

int32_t tokenizer_bos(const struct tokenizer *tokenizer)
{
    return tokenizer->prefix_count ? tokenizer->prefix[0] : -1;
}

bool tokenizer_is_eos(const struct tokenizer *tokenizer, int32_t id)
{
    for (size_t i = 0; i < tokenizer->eos_count; i++)
        if (tokenizer->eos[i] == id) return true;
    return false;
}

/* ---------------------------------------------------------------------- encoding and decoding */

static bool encode_sentencepiece(const struct sentencepiece_model *model, const char *text, size_t length,
                                 struct id_buffer *ids)
{
    char reason[REASON_SIZE];
    int32_t *encoded;
    size_t count;
    if (!sentencepiece_encode(model, text, length, &encoded, &count, reason, sizeof reason))
        return cli_error("tokenizer.model: %s", reason);
    bool done = id_buffer_append(ids, encoded, count);
    free(encoded);
    return done;
}

bool tokenizer_encode(const struct tokenizer *tokenizer, const char *text, size_t length, bool add_special,
                      struct id_buffer *ids)
{
    struct text_buffer valid = {0};
    if (length > MAX_TEXT_BYTES)
        return cli_error("a text of %s is more than the %s that are encoded at once", cli_bytes(length).text,
                         cli_bytes(MAX_TEXT_BYTES).text);
    bool done = utf8_append_valid(&valid, text, length, NULL, NULL) &&
                (!add_special || id_buffer_append(ids, tokenizer->prefix, tokenizer->prefix_count));
    if (done && valid.length > 0)
        done = tokenizer->json ? tokenizer_json_encode(tokenizer->json, valid.bytes, valid.length, ids)
                               : encode_sentencepiece(tokenizer->sentencepiece, valid.bytes, valid.length, ids);
    done = done && (!add_special || id_buffer_append(ids, tokenizer->suffix, tokenizer->suffix_count));
    text_buffer_free(&valid);
    return done;
}

/* The bytes of one SentencePiece token, as that library's own decoder makes them. */
static bool decode_piece(const struct sentencepiece_model *model, int32_t id, bool *started, struct text_buffer *bytes)
{
    static const char space[] = "\xE2\x96\x81", unknown[] = " \xE2\x81\x87 ";
    const char *piece;
    size_t length, space_length = strlen(space);
    unsigned value = 0;
    if (id < 0 || id >= sentencepiece_vocabulary(model)) return true;
    enum sentencepiece_kind kind = sentencepiece_piece(model, id, &piece, &length);
    if (kind == PIECE_CONTROL) return true;
    if (kind == PIECE_BYTE && sscanf(piece, "<0x%2X>", &value) == 1) {
        char byte = (char)value;
        *started = true;
        return text_buffer_append(bytes, &byte, 1);
    }
    bool first = !*started;
    *started = true;
    if (kind == PIECE_UNKNOWN) return text_buffer_append(bytes, unknown, strlen(unknown));
    for (size_t at = 0; at < length;) {
        bool is_space = length - at >= space_length && memcmp(piece + at, space, space_length) == 0;
        bool dropped = is_space && at == 0 && first && sentencepiece_strips_space(model);
        if (!dropped && !text_buffer_append(bytes, is_space ? " " : piece + at, 1)) return false;
        at += is_space ? space_length : 1;
    }
    return true;
}

void token_stream_begin(struct token_stream *stream, const struct tokenizer *tokenizer)
{
    *stream = (struct token_stream){.tokenizer = tokenizer};
}

bool token_stream_push(struct token_stream *stream, int32_t id, struct text_buffer *text)
{
    const struct tokenizer *tokenizer = stream->tokenizer;
    struct text_buffer *bytes = &stream->bytes;
    if (!(tokenizer->json ? tokenizer_json_decode(tokenizer->json, id, &stream->started, bytes)
                          : decode_piece(tokenizer->sentencepiece, id, &stream->started, bytes)))
        return false;
    /* What may yet become a character waits: at most its last bytes but one. */
    size_t complete = bytes->length;
    for (size_t tail = 1; tail < UTF8_MAX_BYTES && tail <= bytes->length; tail++) {
        uint32_t character;
        if (((unsigned char)bytes->bytes[bytes->length - tail] & 0xC0) == 0x80) continue;
        if (utf8_decode(bytes->bytes + bytes->length - tail, tail, &character) == 0) complete = bytes->length - tail;
        break;
    }
    if (!utf8_append_valid(text, bytes->bytes, complete, NULL, NULL)) return false;
    if (complete) memmove(bytes->bytes, bytes->bytes + complete, bytes->length - complete);
    bytes->length -= complete;
    return true;
}

bool token_stream_end(struct token_stream *stream, struct text_buffer *text)
{
    bool done = utf8_append_valid(text, stream->bytes.bytes, stream->bytes.length, NULL, NULL);
    text_buffer_free(&stream->bytes);
    return done;
}

bool tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count, struct text_buffer *text)
{
    struct token_stream stream;
    bool done = true;
    token_stream_begin(&stream, tokenizer);
    for (size_t i = 0; i < count && done; i++) done = token_stream_push(&stream, ids[i], text);
    return token_stream_end(&stream, text) && done;
}
