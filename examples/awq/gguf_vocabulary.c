/* A model's tokenizer as GGUF metadata.  The choices (which types and scores added tokens get, what ids without a token
 * are called) are those of llama.cpp's own converter, on which its tokenizers rely. */
#include "gguf_vocabulary.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "cli.h"
#include "section.h"
#include "tokenizer.h"

#define MAX_FILE_BYTES ((uint64_t)256 << 20)

/* Token types, by the numbers that SentencePiece and llama.cpp share. */
enum token_type {
    TOKEN_NORMAL = 1,
    TOKEN_UNKNOWN = 2,
    TOKEN_CONTROL = 3,
    TOKEN_USER_DEFINED = 4,
    TOKEN_UNUSED = 5,
    TOKEN_BYTE = 6
};

struct token {
    char *text;
    size_t length;
    float score;
    int32_t type;
};

struct vocabulary {
    struct token *tokens; /* by id */
    int64_t count;        /* rows of the embedding */
    bool byte_level;      /* GPT-2's kind: merges instead of scores */
    bool adds_space;      /* SentencePiece puts a space before a text */
    json_t *merges;       /* borrowed */
};

/* ---- tokens */

static bool set_token(struct vocabulary *vocabulary, json_int_t id, const char *text, size_t length, float score,
                      int32_t type)
{
    if (id < 0 || id >= vocabulary->count) {
        cli_warning("token %lld is left out, as the model has %lld", (long long)id, (long long)vocabulary->count);
        return true;
    }
    struct token *token = &vocabulary->tokens[id];
    char *copy = malloc(length + 1);
    if (!copy) return cli_error("out of memory");
    memcpy(copy, text, length);
    copy[length] = 0;
    free(token->text);
    *token = (struct token){copy, length, score, type};
    return true;
}

static bool create_tokens(struct vocabulary *vocabulary, int64_t count)
{
    vocabulary->count = count;
    vocabulary->tokens = calloc((size_t)count, sizeof *vocabulary->tokens);
    if (!vocabulary->tokens) return cli_error("out of memory");
    for (int64_t id = 0; id < count; id++) {
        char name[40];
        int length = snprintf(name, sizeof name, "[PAD%lld]", (long long)id);
        if (!set_token(vocabulary, id, name, (size_t)length, -10000, TOKEN_UNUSED)) return false;
    }
    return true;
}

static void free_tokens(struct vocabulary *vocabulary)
{
    for (int64_t id = 0; vocabulary->tokens && id < vocabulary->count; id++) free(vocabulary->tokens[id].text);
    free(vocabulary->tokens);
}

static int64_t find_token(const struct vocabulary *vocabulary, const char *text)
{
    for (int64_t id = 0; id < vocabulary->count; id++)
        if (vocabulary->tokens[id].length == strlen(text) && strcmp(vocabulary->tokens[id].text, text) == 0) return id;
    return -1;
}

/* ---- SentencePiece: the protocol buffer, as far as it is needed */

struct message {
    const unsigned char *at, *end;
};

static bool take_varint(struct message *message, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; shift < 64 && message->at < message->end; shift += 7) {
        unsigned char byte = *message->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) return true;
    }
    return false;
}

/* The next field: its number, and its bytes or, for one without, its value.  False at the end, or where it is
 * damaged. */
static bool take_field(struct message *message, uint64_t *number, struct message *bytes, uint64_t *value)
{
    uint64_t key, size;
    *bytes = (struct message){message->at, message->at};
    *value = 0;
    if (message->at == message->end || !take_varint(message, &key)) return false;
    *number = key >> 3;
    switch (key & 7) {
    case 0:
        return take_varint(message, value);
    case 1:
        size = 8;
        break;
    case 5:
        size = 4;
        break;
    case 2:
        if (!take_varint(message, &size)) return false;
        break;
    default:
        return false;
    }
    if (size > (uint64_t)(message->end - message->at)) return false;
    *bytes = (struct message){message->at, message->at + size};
    message->at += size;
    return true;
}

/* Symbols that a SentencePiece model defines itself are ordinary tokens for llama.cpp. */
static bool add_piece(struct vocabulary *vocabulary, int64_t id, struct message piece)
{
    struct message bytes, text = {piece.at, piece.at};
    uint64_t number, value;
    float score = 0;
    int32_t type = TOKEN_NORMAL;
    while (take_field(&piece, &number, &bytes, &value)) {
        if (number == 1) text = bytes;
        if (number == 2 && bytes.end - bytes.at == 4) memcpy(&score, bytes.at, sizeof score);
        if (number == 3) type = (int32_t)value;
    }
    if (type == TOKEN_USER_DEFINED) type = TOKEN_NORMAL;
    return set_token(vocabulary, id, (const char *)text.at, (size_t)(text.end - text.at), score, type);
}

static uint64_t number_in(struct message message, uint64_t wanted, uint64_t fallback)
{
    struct message bytes;
    uint64_t number, value;
    while (take_field(&message, &number, &bytes, &value))
        if (number == wanted) fallback = value;
    return fallback;
}

/* Fields 1, 2 and 3 of a model: its pieces, how it was trained, how it normalises. */
static bool read_sentencepiece(struct vocabulary *vocabulary, const char *path)
{
    struct text_buffer file = {0};
    struct message bytes;
    uint64_t number, value;
    int64_t id = 0;
    if (!text_buffer_read_file(&file, path, MAX_FILE_BYTES)) return false;
    struct message model = {(unsigned char *)file.bytes, (unsigned char *)file.bytes + file.length};
    bool ok = true;
    vocabulary->adds_space = true;
    while (ok && take_field(&model, &number, &bytes, &value)) {
        if (number == 1) ok = add_piece(vocabulary, id++, bytes);
        if (number == 2 && number_in(bytes, 3, 1) != 2)
            cli_warning("%s: is no byte-pair encoding; llama.cpp will cut texts otherwise", path);
        if (number == 3) vocabulary->adds_space = number_in(bytes, 3, 1);
    }
    if (ok && (id == 0 || model.at != model.end)) ok = cli_error("%s: not a SentencePiece model", path);
    text_buffer_free(&file);
    return ok;
}

/* ---- tokens beside those of tokenizer.model */

static bool looks_special(const char *text)
{
    size_t length = strlen(text);
    if (strcmp(text, "<pad>") == 0 || strcmp(text, "<mask>") == 0) return true;
    return length > 4 && strncmp(text, "<|", 2) == 0 && strcmp(text + length - 2, "|>") == 0;
}

static bool add_added(struct vocabulary *vocabulary, json_int_t id, const json_t *entry)
{
    const json_t *content = json_object_get(entry, "content");
    if (!json_is_string(content)) return true;
    const char *text = json_string_value(content);
    bool special = json_is_true(json_object_get(entry, "special")) || looks_special(text);
    return set_token(vocabulary, id, text, json_string_length(content), -1000,
                     special ? TOKEN_CONTROL : TOKEN_USER_DEFINED);
}

static bool read_added(struct vocabulary *vocabulary, const char *directory, const json_t *tokenizer_config)
{
    char path[SECTION_PATH_SIZE];
    json_t *added = section_load(directory, "added_tokens.json", true, path), *value;
    const char *key;
    bool ok = true;
    json_object_foreach(added, key, value) {
        if (!ok || !json_is_integer(value)) continue;
        ok = set_token(vocabulary, json_integer_value(value), key, strlen(key), -1000, TOKEN_USER_DEFINED);
    }
    json_decref(added);
    json_object_foreach(json_object_get(tokenizer_config, "added_tokens_decoder"), key, value)
        ok = ok && add_added(vocabulary, strtoll(key, NULL, 10), value);
    return ok;
}

/* ---- tokenizer.json */

/* What patterns of a pre-tokenizer llama.cpp has a name for. */
static const struct {
    const char *regex, *name;
} pre_tokenizers[] = {
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"
     "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "llama-bpe"},
    {"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+"
     "|\\s+(?!\\S)|\\s+", "qwen2"},
    {"[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?"
     "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*"
     "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", "tekken"},
};

struct pre_tokenizer {
    bool byte_level, byte_level_splits, others; /* ByteLevel; with GPT-2's pattern; anything that has no name here */
    const char *regex;
};

static void scan_pre_tokenizer(const json_t *json, struct pre_tokenizer *found)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    const char *regex = json_string_value(json_object_get(json_object_get(json, "pattern"), "Regex"));
    if (!type) return;
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "pretokenizers");
        for (size_t i = 0; i < json_array_size(list); i++) scan_pre_tokenizer(json_array_get(list, i), found);
    } else if (strcmp(type, "ByteLevel") == 0) {
        found->byte_level = true;
        found->byte_level_splits = !json_is_false(json_object_get(json, "use_regex"));
        found->others = found->others || json_is_true(json_object_get(json, "add_prefix_space"));
    } else if (strcmp(type, "Split") == 0 && regex && !found->regex) {
        found->regex = regex;
    } else {
        found->others = true;
    }
}

static const char *name_pre_tokenizer(const struct pre_tokenizer *found)
{
    if (found->others) return NULL;
    if (!found->regex) return found->byte_level_splits ? "gpt-2" : NULL;
    for (size_t i = 0; i < sizeof pre_tokenizers / sizeof *pre_tokenizers; i++)
        if (strcmp(found->regex, pre_tokenizers[i].regex) == 0) return pre_tokenizers[i].name;
    return NULL;
}

/* "a b", or ["a", "b"] as newer files have it. */
static bool merge_parts(const json_t *merge, const char **left, size_t *left_length, const char **right)
{
    const char *text = json_string_value(merge), *space = text ? strchr(text + 1, ' ') : NULL;
    *left = text ? text : json_string_value(json_array_get(merge, 0));
    *right = text ? (space ? space + 1 : NULL) : json_string_value(json_array_get(merge, 1));
    if (!*left || !*right) return false;
    *left_length = text ? (size_t)(space - text) : strlen(*left);
    return true;
}

/* Without byte levels, llama.cpp merges by the scores of the results: the earlier a merge, the higher. */
static bool score_merges(struct vocabulary *vocabulary, json_t *ids)
{
    struct text_buffer joined = {0};
    bool ok = true;
    for (size_t i = json_array_size(vocabulary->merges); ok && i-- > 0;) {
        const char *left, *right;
        size_t length;
        if (!merge_parts(json_array_get(vocabulary->merges, i), &left, &length, &right)) continue;
        joined.length = 0;
        ok = text_buffer_append(&joined, left, length) && text_buffer_append(&joined, right, strlen(right) + 1);
        json_t *id = ok ? json_object_get(ids, joined.bytes) : NULL;
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < vocabulary->count)
            vocabulary->tokens[json_integer_value(id)].score = -(float)i;
    }
    text_buffer_free(&joined);
    return ok;
}

static int32_t type_of_json_token(const char *text, const json_t *unknown, bool byte_level)
{
    unsigned value;
    char rest;
    if (byte_level) return TOKEN_NORMAL;
    if (json_is_string(unknown) && strcmp(json_string_value(unknown), text) == 0) return TOKEN_UNKNOWN;
    bool is_byte = strlen(text) == 6 && sscanf(text, "<0x%2x>%c", &value, &rest) == 1;
    return is_byte ? TOKEN_BYTE : TOKEN_NORMAL;
}

static bool read_tokenizer_json(struct vocabulary *vocabulary, const json_t *json)
{
    json_t *model = json_object_get(json, "model"), *ids = json_object_get(model, "vocab"), *id, *entry;
    const char *text, *type = json_string_value(json_object_get(model, "type"));
    size_t index;
    bool ok = true;
    if (!json_is_object(ids) || (type && strcmp(type, "BPE") != 0))
        return cli_error("tokenizer.json: %.40s is not supported; only BPE is", type ? type : "its model");
    json_object_foreach(ids, text, id)
        ok = ok && set_token(vocabulary, json_integer_value(id), text, strlen(text), 0,
                             type_of_json_token(text, json_object_get(model, "unk_token"), vocabulary->byte_level));
    vocabulary->merges = json_object_get(model, "merges");
    vocabulary->adds_space = true;
    if (ok && !vocabulary->byte_level) ok = score_merges(vocabulary, ids);
    json_array_foreach(json_object_get(json, "added_tokens"), index, entry) {
        json_int_t added = json_integer_value(json_object_get(entry, "id"));
        /* The first of them are in the vocabulary too, where they have their type. */
        bool known = added >= 0 && added < vocabulary->count && vocabulary->tokens[added].type == TOKEN_UNKNOWN;
        ok = ok && (known || add_added(vocabulary, added, entry));
    }
    return ok;
}

/* ---- writing */

static bool put_tokens(struct gguf_writer *writer, const struct vocabulary *vocabulary)
{
    uint64_t count = (uint64_t)vocabulary->count;
    bool ok = gguf_begin_array(writer, "tokenizer.ggml.tokens", GGUF_STRING, count);
    for (uint64_t id = 0; ok && id < count; id++)
        ok = gguf_append_string(writer, vocabulary->tokens[id].text, vocabulary->tokens[id].length);
    if (ok && !vocabulary->byte_level) {
        ok = gguf_begin_array(writer, "tokenizer.ggml.scores", GGUF_FLOAT32, count);
        for (uint64_t id = 0; ok && id < count; id++) ok = gguf_append_float(writer, vocabulary->tokens[id].score);
    }
    ok = ok && gguf_begin_array(writer, "tokenizer.ggml.token_type", GGUF_INT32, count);
    for (uint64_t id = 0; ok && id < count; id++) ok = gguf_append_int32(writer, vocabulary->tokens[id].type);
    return ok;
}

static bool put_merges(struct gguf_writer *writer, const struct vocabulary *vocabulary)
{
    size_t count = json_array_size(vocabulary->merges);
    struct text_buffer text = {0};
    bool ok = gguf_begin_array(writer, "tokenizer.ggml.merges", GGUF_STRING, count);
    for (size_t i = 0; ok && i < count; i++) {
        const char *left = "", *right = "";
        size_t length = 0;
        if (!merge_parts(json_array_get(vocabulary->merges, i), &left, &length, &right))
            ok = cli_error("tokenizer.json: merge %zu is none", i);
        text.length = 0;
        ok = ok && text_buffer_append(&text, left, length) && text_buffer_append(&text, " ", 1) &&
             text_buffer_append(&text, right, strlen(right)) && gguf_append_string(writer, text.bytes, text.length);
    }
    text_buffer_free(&text);
    return ok;
}

/* The id that config.json gives, or that of the token that tokenizer_config.json names; -1: none. */
static int64_t special_id(const struct vocabulary *vocabulary, const json_t *config, const json_t *tokenizer_config,
                          const char *name)
{
    char key[40];
    snprintf(key, sizeof key, "%s_token", name);
    const json_t *token = json_object_get(tokenizer_config, key);
    if (json_is_object(token)) token = json_object_get(token, "content");
    if (json_is_string(token)) return find_token(vocabulary, json_string_value(token));
    snprintf(key, sizeof key, "%s_token_id", name);
    const json_t *id = json_object_get(config, key);
    if (json_is_array(id)) id = json_array_get(id, 0);
    return json_is_integer(id) && json_integer_value(id) < vocabulary->count ? json_integer_value(id) : -1;
}

static bool put_special(struct gguf_writer *writer, const struct vocabulary *vocabulary, const char *directory,
                        const json_t *config, const json_t *tokenizer_config)
{
    static const char *const names[][2] = {
        {"bos", "tokenizer.ggml.bos_token_id"}, {"eos", "tokenizer.ggml.eos_token_id"},
        {"unk", "tokenizer.ggml.unknown_token_id"}, {"pad", "tokenizer.ggml.padding_token_id"}};
    struct tokenizer *tokenizer;
    struct id_buffer ids = {0};
    int64_t eos = special_id(vocabulary, config, tokenizer_config, "eos");
    bool ok = true;
    for (size_t i = 0; ok && i < sizeof names / sizeof *names; i++) {
        int64_t id = special_id(vocabulary, config, tokenizer_config, names[i][0]);
        if (id >= 0) ok = gguf_put_uint32(writer, names[i][1], (uint32_t)id);
    }
    if (!ok || !tokenizer_open(directory, &tokenizer)) return false;
    ok = tokenizer_encode(tokenizer, "", 0, true, &ids) &&
         gguf_put_bool(writer, "tokenizer.ggml.add_bos_token", tokenizer_bos(tokenizer) >= 0) &&
         gguf_put_bool(writer, "tokenizer.ggml.add_eos_token", ids.count > 0 && ids.ids[ids.count - 1] == eos);
    id_buffer_free(&ids);
    tokenizer_close(tokenizer);
    const json_t *template = json_object_get(tokenizer_config, "chat_template");
    if (ok && json_is_string(template))
        ok = gguf_put_string(writer, "tokenizer.chat_template", json_string_value(template),
                             json_string_length(template));
    return ok;
}

/* ---- the tokenizer of a directory */

static bool read_vocabulary(struct vocabulary *vocabulary, const char *directory, const json_t *json,
                            const json_t *tokenizer_config)
{
    char path[SECTION_PATH_SIZE];
    if (json) return read_tokenizer_json(vocabulary, json);
    snprintf(path, sizeof path, "%s/tokenizer.model", directory);
    return read_sentencepiece(vocabulary, path) && read_added(vocabulary, directory, tokenizer_config);
}

static bool put_vocabulary(struct gguf_writer *writer, const char *directory, const struct model_config *config,
                           const char *pre, const json_t *json, const json_t *tokenizer_config)
{
    struct vocabulary vocabulary = {0};
    struct pre_tokenizer found = {0};
    scan_pre_tokenizer(json_object_get(json, "pre_tokenizer"), &found);
    vocabulary.byte_level = found.byte_level;
    if (!vocabulary.byte_level) pre = "default";
    if (!pre) pre = name_pre_tokenizer(&found);
    if (!pre)
        return cli_error("%s/tokenizer.json: its pre-tokenizer is not recognised; --pre gives the name that llama.cpp "
                         "has for it", directory);
    const char *model = vocabulary.byte_level ? "gpt2" : "llama", *space = "tokenizer.ggml.add_space_prefix";
    bool ok = create_tokens(&vocabulary, config->vocabulary) &&
              read_vocabulary(&vocabulary, directory, json, tokenizer_config) &&
              gguf_put_string(writer, "tokenizer.ggml.model", model, strlen(model)) &&
              gguf_put_string(writer, "tokenizer.ggml.pre", pre, strlen(pre)) && put_tokens(writer, &vocabulary) &&
              (!vocabulary.byte_level || put_merges(writer, &vocabulary)) &&
              (vocabulary.byte_level || gguf_put_bool(writer, space, vocabulary.adds_space)) &&
              put_special(writer, &vocabulary, directory, config->json, tokenizer_config);
    free_tokens(&vocabulary);
    return ok;
}

bool gguf_put_vocabulary(struct gguf_writer *writer, const char *directory, const struct model_config *config,
                         const char *pre)
{
    char path[SECTION_PATH_SIZE];
    json_t *json = NULL;
    snprintf(path, sizeof path, "%s/tokenizer.model", directory);
    bool sentencepiece = access(path, F_OK) == 0;
    if (!sentencepiece) {
        json = section_load(directory, "tokenizer.json", true, path);
        if (!json)
            return cli_error("%s: there is neither a tokenizer.model nor a tokenizer.json that can be read", directory);
    }
    json_t *tokenizer_config = section_load(directory, "tokenizer_config.json", true, path);
    bool ok = put_vocabulary(writer, directory, config, pre, json, tokenizer_config);
    json_decref(tokenizer_config);
    json_decref(json);
    return ok;
}
