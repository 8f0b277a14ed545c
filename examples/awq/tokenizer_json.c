/* tokenizer.json */
#include "tokenizer_json.h"

#include <stdlib.h>
#include <string.h>

#include "added_tokens.h"
#include "normalizer.h"
#include "pretokenizer.h"
#include "reason.h"
#include "tokenizer_bpe.h"
#include "utf8.h"

enum { MAX_REPLACEMENTS = 8, MAX_NESTING = 8 };

struct replacement {
    char *from, *to;
};

struct decoder {
    bool byte_level;    /* characters are bytes */
    bool byte_fallback; /* <0x0A> is a byte */
    struct replacement replacements[MAX_REPLACEMENTS];
    size_t replacement_count;
    bool fused;                              /* seen while loading: what follows sees the whole text */
    char strip[UTF8_MAX_BYTES + 1];          /* one of these is dropped at the beginning of the text; "": none */
    char drop_in_first[UTF8_MAX_BYTES + 1];  /* all of these are dropped in the first token; "": none */
};

struct affix {
    int32_t ids[MAX_AFFIXES];
    size_t count;
};

struct tokenizer_json {
    struct added_tokens added;
    struct normalizer *normalizer;
    struct pretokenizer *pretokenizer;
    struct bpe *bpe;
    struct affix prefix, suffix;
    struct decoder decoder;
    int32_t vocabulary;
};

/* ---------------------------------------------------------------------------- post_processor */

static bool load_affix(struct tokenizer_json *tokenizer, const json_t *special, const json_t *specials, bool before,
                       char *reason)
{
    const char *name = json_string_value(json_object_get(special, "id"));
    const json_t *ids = json_object_get(name ? json_object_get(specials, name) : NULL, "ids");
    struct affix *affix = before ? &tokenizer->prefix : &tokenizer->suffix;
    if (!json_is_array(ids))
        return refuse(reason, "post_processor: special token %.40s is not defined", name ? name : "");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > MAX_TOKEN_ID)
            return refuse(reason, "post_processor: special token %.40s has an id that is none", name);
        if (affix->count == MAX_AFFIXES)
            return refuse(reason, "post_processor: more than %d special tokens", MAX_AFFIXES);
        affix->ids[affix->count++] = (int32_t)json_integer_value(id);
    }
    return true;
}

static bool load_template(struct tokenizer_json *tokenizer, const json_t *json, char *reason)
{
    const json_t *template = json_object_get(json, "single"), *specials = json_object_get(json, "special_tokens");
    size_t sequences = 0;
    for (size_t i = 0; i < json_array_size(template); i++) {
        const json_t *piece = json_array_get(template, i), *special = json_object_get(piece, "SpecialToken");
        if (special) {
            if (!load_affix(tokenizer, special, specials, sequences == 0, reason)) return false;
        } else if (json_object_get(piece, "Sequence")) {
            sequences++;
        }
    }
    return sequences == 1 || refuse(reason, "post_processor: its template does not hold the text once");
}

static bool load_post_processor(struct tokenizer_json *tokenizer, const json_t *json, int nesting, char *reason)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!json || json_is_null(json)) return true;
    if (!type) return refuse(reason, "post_processor: a type is missing");
    if (strcmp(type, "ByteLevel") == 0) return true; /* concerns offsets only */
    if (strcmp(type, "TemplateProcessing") == 0) return load_template(tokenizer, json, reason);
    if (strcmp(type, "Sequence") != 0) return refuse(reason, "post_processor %.40s is not supported", type);
    const json_t *list = json_object_get(json, "processors");
    if (nesting == MAX_NESTING) return refuse(reason, "post_processor: nested too deeply");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!load_post_processor(tokenizer, json_array_get(list, i), nesting + 1, reason)) return false;
    return true;
}

/* ----------------------------------------------------------------------------------- decoder */

static bool load_replacement(struct decoder *decoder, const char *from, const char *to, char *reason)
{
    struct replacement *replacement = &decoder->replacements[decoder->replacement_count];
    if (!from || !*from || !to) return refuse(reason, "decoder Replace: only strings are supported");
    if (decoder->replacement_count == MAX_REPLACEMENTS) return refuse(reason, "decoder: too many replacements");
    decoder->replacement_count++;
    replacement->from = strdup(from);
    replacement->to = strdup(to);
    return (replacement->from && replacement->to) || refuse(reason, "out of memory");
}

static bool copy_character(char *out, const char *text, const char *what, char *reason)
{
    uint32_t character;
    if (!text || !*text || utf8_decode(text, strlen(text), &character) != (int)strlen(text))
        return refuse(reason, "decoder %s is not one character", what);
    strcpy(out, text);
    return true;
}

static bool load_strip(struct decoder *decoder, const json_t *json, char *reason)
{
    json_int_t start = json_integer_value(json_object_get(json, "start"));
    if (json_integer_value(json_object_get(json, "stop")) != 0 || start < 0 || start > 1 ||
        (start == 1 && !decoder->fused))
        return refuse(reason, "decoder Strip is supported only for one character at the start of the fused text");
    if (start == 0) return true;
    return copy_character(decoder->strip, json_string_value(json_object_get(json, "content")), "Strip: content",
                          reason);
}

static bool load_metaspace(struct decoder *decoder, const json_t *json, char *reason)
{
    const char *text = json_string_value(json_object_get(json, "replacement"));
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    bool never = scheme ? strcmp(scheme, "never") == 0 : json_is_false(json_object_get(json, "add_prefix_space"));
    if (!text) text = "\xE2\x96\x81";
    if (!never && !copy_character(decoder->drop_in_first, text, "Metaspace: replacement", reason)) return false;
    return load_replacement(decoder, text, " ", reason);
}

static bool load_decoder(struct decoder *decoder, const json_t *json, int nesting, char *reason)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return refuse(reason, "decoder: a type is missing");
    if (strcmp(type, "ByteLevel") == 0) return decoder->byte_level = true;
    if (strcmp(type, "ByteFallback") == 0) return decoder->byte_fallback = true;
    if (strcmp(type, "Fuse") == 0) return decoder->fused = true;
    if (strcmp(type, "Strip") == 0) return load_strip(decoder, json, reason);
    if (strcmp(type, "Metaspace") == 0) return load_metaspace(decoder, json, reason);
    if (strcmp(type, "Replace") == 0)
        return load_replacement(decoder, json_string_value(json_object_get(json_object_get(json, "pattern"), "String")),
                                json_string_value(json_object_get(json, "content")), reason);
    if (strcmp(type, "Sequence") != 0) return refuse(reason, "decoder %.40s is not supported", type);
    const json_t *list = json_object_get(json, "decoders");
    if (nesting == MAX_NESTING) return refuse(reason, "decoder: nested too deeply");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!load_decoder(decoder, json_array_get(list, i), nesting + 1, reason)) return false;
    return true;
}

/* ----------------------------------------------------------------------------------- loading */

static bool check_affix(const struct affix *affix, int32_t vocabulary, char *reason)
{
    for (size_t i = 0; i < affix->count; i++)
        if (affix->ids[i] >= vocabulary)
            return refuse(reason, "post_processor: token %d is none of the vocabulary of %d", affix->ids[i], vocabulary);
    return true;
}

static bool load(struct tokenizer_json *tokenizer, const json_t *json, char *reason)
{
    tokenizer->normalizer = normalizer_create(json_object_get(json, "normalizer"), reason);
    if (!tokenizer->normalizer) return false;
    tokenizer->pretokenizer = pretokenizer_create(json_object_get(json, "pre_tokenizer"), reason);
    if (!tokenizer->pretokenizer) return false;
    if (!added_tokens_load(&tokenizer->added, json_object_get(json, "added_tokens"), tokenizer->normalizer, reason))
        return false;
    tokenizer->bpe = bpe_create(json_object_get(json, "model"), reason);
    if (!tokenizer->bpe) return false;
    if (!load_post_processor(tokenizer, json_object_get(json, "post_processor"), 0, reason)) return false;
    if (!load_decoder(&tokenizer->decoder, json_object_get(json, "decoder"), 0, reason)) return false;

    tokenizer->vocabulary = bpe_vocabulary(tokenizer->bpe);
    if (tokenizer->added.count > 0) {
        int32_t last = tokenizer->added.by_id[tokenizer->added.count - 1]->id;
        if (last >= tokenizer->vocabulary) tokenizer->vocabulary = last + 1;
    }
    return check_affix(&tokenizer->prefix, tokenizer->vocabulary, reason) &&
           check_affix(&tokenizer->suffix, tokenizer->vocabulary, reason);
}

struct tokenizer_json *tokenizer_json_create(const json_t *json, char *reason)
{
    struct tokenizer_json *tokenizer = calloc(1, sizeof *tokenizer);
    if (!tokenizer) {
        refuse(reason, "out of memory");
        return NULL;
    }
    if (load(tokenizer, json, reason)) return tokenizer;
    tokenizer_json_destroy(tokenizer);
    return NULL;
}

void tokenizer_json_destroy(struct tokenizer_json *tokenizer)
{
    if (!tokenizer) return;
    added_tokens_free(&tokenizer->added);
    normalizer_destroy(tokenizer->normalizer);
    pretokenizer_destroy(tokenizer->pretokenizer);
    bpe_destroy(tokenizer->bpe);
    for (size_t i = 0; i < tokenizer->decoder.replacement_count; i++) {
        free(tokenizer->decoder.replacements[i].from);
        free(tokenizer->decoder.replacements[i].to);
    }
    free(tokenizer);
}

int32_t tokenizer_json_vocabulary(const struct tokenizer_json *tokenizer)
{
    return tokenizer->vocabulary;
}

int32_t tokenizer_json_token_id(const struct tokenizer_json *tokenizer, const char *text, size_t length)
{
    for (size_t i = 0; i < tokenizer->added.count; i++) {
        const struct added_token *token = &tokenizer->added.items[i];
        if (token->content_length == length && memcmp(token->content, text, length) == 0) return token->id;
    }
    return bpe_token_id(tokenizer->bpe, text, length);
}

static size_t copy_affix(const struct affix *affix, int32_t *ids)
{
    memcpy(ids, affix->ids, affix->count * sizeof *ids);
    return affix->count;
}

size_t tokenizer_json_prefix(const struct tokenizer_json *tokenizer, int32_t *ids)
{
    return copy_affix(&tokenizer->prefix, ids);
}

size_t tokenizer_json_suffix(const struct tokenizer_json *tokenizer, int32_t *ids)
{
    return copy_affix(&tokenizer->suffix, ids);
}

/* ---------------------------------------------------------------------------------- encoding */

/* Cut text at added tokens, first as it is and then as it is normalised. */
static bool cut_at_added(const struct tokenizer_json *tokenizer, const char *text, size_t length, struct segments *out)
{
    struct segments raw = {0};
    struct text_buffer normal = {0};
    bool done = added_tokens_cut(&tokenizer->added, false, text, length, true, &raw);
    for (size_t i = 0; i < raw.count && done; i++) {
        struct segment segment = raw.items[i];
        if (segment.token >= 0) {
            done = segments_append_token(out, segment.token);
        } else {
            done = normalizer_run(tokenizer->normalizer, raw.text.bytes + segment.begin, segment.end - segment.begin,
                                  &normal) &&
                   added_tokens_cut(&tokenizer->added, true, normal.bytes, normal.length, segment.at_start, out);
        }
    }
    segments_free(&raw);
    text_buffer_free(&normal);
    return done;
}

bool tokenizer_json_encode(const struct tokenizer_json *tokenizer, const char *text, size_t length,
                           struct id_buffer *ids)
{
    struct segments segments = {0};
    struct bpe_scratch scratch = {0};
    bool done = cut_at_added(tokenizer, text, length, &segments) &&
                pretokenizer_run(tokenizer->pretokenizer, &segments);
    for (size_t i = 0; i < segments.count && done; i++) {
        struct segment segment = segments.items[i];
        if (segment.token >= 0)
            done = id_buffer_push(ids, segment.token);
        else
            done = bpe_encode_word(tokenizer->bpe, &scratch, segments.text.bytes + segment.begin,
                                   segment.end - segment.begin, ids);
    }
    segments_free(&segments);
    bpe_scratch_free(&scratch);
    return done;
}

/* ---------------------------------------------------------------------------------- decoding */

/* Byte-level text as bytes; text that is not of its alphabet (added tokens may be anything) stays what it is. */
static bool append_byte_level(struct text_buffer *bytes, const char *text, size_t length)
{
    size_t before = bytes->length;
    for (size_t at = 0; at < length;) {
        uint32_t character = UTF8_REPLACEMENT;
        int used = utf8_decode(text + at, length - at, &character);
        int byte = byte_level_byte(character);
        if (used <= 0 || byte < 0) {
            bytes->length = before;
            return text_buffer_append(bytes, text, length);
        }
        char value = (char)byte;
        if (!text_buffer_append(bytes, &value, 1)) return false;
        at += (size_t)used;
    }
    return true;
}

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9') return digit - '0';
    digit |= 32;
    return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The byte that "<0x0A>" stands for, or -1. */
static int byte_token(const char *text, size_t length)
{
    if (length != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int high = hex_digit(text[3]), low = hex_digit(text[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

static bool append_replaced(const struct decoder *decoder, bool first, const char *text, size_t length,
                            struct text_buffer *bytes)
{
    size_t dropped = first ? strlen(decoder->drop_in_first) : 0;
    for (size_t at = 0; at < length;) {
        if (dropped && length - at >= dropped && memcmp(text + at, decoder->drop_in_first, dropped) == 0) {
            at += dropped;
            continue;
        }
        size_t used = 0;
        for (size_t i = 0; i < decoder->replacement_count && !used; i++) {
            const struct replacement *replacement = &decoder->replacements[i];
            size_t from = strlen(replacement->from);
            if (length - at < from || memcmp(text + at, replacement->from, from) != 0) continue;
            if (!text_buffer_append(bytes, replacement->to, strlen(replacement->to))) return false;
            used = from;
        }
        if (!used && !text_buffer_append(bytes, text + at, used = 1)) return false;
        at += used;
    }
    return true;
}

bool tokenizer_json_decode(const struct tokenizer_json *tokenizer, int32_t id, bool *started, struct text_buffer *bytes)
{
    const struct decoder *decoder = &tokenizer->decoder;
    const struct added_token *added = added_tokens_find(&tokenizer->added, id);
    size_t length = 0, before = bytes->length;
    const char *text = bpe_token_text(tokenizer->bpe, id, &length);
    if (added) {
        if (added->special) return true;
        text = added->content;
        length = added->content_length;
    }
    if (!text) return true;
    if (decoder->byte_level) return append_byte_level(bytes, text, length);

    int byte = decoder->byte_fallback ? byte_token(text, length) : -1;
    char value = (char)byte;
    if (!(byte >= 0 ? text_buffer_append(bytes, &value, 1) : append_replaced(decoder, !*started, text, length, bytes)))
        return false;
    size_t strip = *started ? 0 : strlen(decoder->strip);
    if (strip && bytes->length - before >= strip && memcmp(bytes->bytes + before, decoder->strip, strip) == 0) {
        memmove(bytes->bytes + before, bytes->bytes + before + strip, bytes->length - before - strip);
        bytes->length -= strip;
    }
    *started = true;
    return true;
}
