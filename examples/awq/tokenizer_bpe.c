/* Byte-pair encoding.
 *
 * A word begins as its characters.  Again and again the adjacent pair whose merge has the lowest rank, the leftmost
 * of equals, becomes one symbol.  Symbols are a linked list and candidates a heap, so that a text without word
 * boundaries takes O(n log n). */
#include "tokenizer_bpe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "reason.h"
#include "utf8.h"

/* A vocabulary made by a stranger may collide on purpose; no honest one comes near this many steps. */
enum { MAX_PROBES = 1000 };

/* Text of token 'id' in the arena; unused ids have offset UNUSED. */
struct bpe_token {
    uint32_t offset, length;
};

#define UNUSED UINT32_MAX

struct merge {
    uint64_t pair; /* left id << 32 | right id; EMPTY_PAIR: a free slot */
    uint32_t rank;
    int32_t id; /* of the merged token */
};

#define EMPTY_PAIR UINT64_MAX

struct bpe {
    struct text_buffer arena;
    struct bpe_token *tokens; /* by id */
    int32_t vocabulary;
    int32_t *by_text; /* hash table of ids, -1: free */
    size_t by_text_mask;
    struct merge *merges; /* hash table */
    size_t merges_mask;
    int32_t byte_ids[256]; /* of <0x00> .. <0xFF>; -1: none */
    int32_t unknown_id;    /* -1: none */
    bool byte_fallback, fuse_unknown, ignore_merges;
};

struct bpe_symbol {
    int32_t id;
    int32_t bytes; /* 0: merged into the one before */
    int32_t previous, next;
};

struct bpe_candidate {
    uint64_t order; /* rank << 32 | position: the heap's least goes first */
    int32_t id;     /* what the pair becomes */
};

/* ------------------------------------------------------------------------------- hash tables */

static size_t mix(uint64_t value)
{
    value ^= value >> 32;
    value *= 0x9E3779B97F4A7C15u;
    value ^= value >> 29;
    value *= 0xBF58476D1CE4E5B9u;
    value ^= value >> 32;
    return (size_t)value;
}

static size_t hash_text(const char *text, size_t length)
{
    uint64_t hash = length;
    while (length >= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = mix(hash ^ word) + 0x632BE59BD9B4E019u;
        text += 8;
        length -= 8;
    }
    uint64_t tail = 0;
    memcpy(&tail, text, length);
    return mix(hash ^ tail);
}

/* The slot of 'text', or the free one where it belongs.  *probes counts the steps. */
static size_t text_slot(const struct bpe *bpe, const char *text, size_t length, int *probes)
{
    size_t slot = hash_text(text, length) & bpe->by_text_mask;
    for (*probes = 0; bpe->by_text[slot] >= 0; slot = (slot + 1) & bpe->by_text_mask, ++*probes) {
        const struct bpe_token *token = &bpe->tokens[bpe->by_text[slot]];
        if (token->length == length && memcmp(bpe->arena.bytes + token->offset, text, length) == 0) break;
    }
    return slot;
}

static size_t merge_slot(const struct bpe *bpe, uint64_t pair, int *probes)
{
    size_t slot = mix(pair) & bpe->merges_mask;
    *probes = 0;
    while (bpe->merges[slot].pair != EMPTY_PAIR && bpe->merges[slot].pair != pair) {
        slot = (slot + 1) & bpe->merges_mask;
        ++*probes;
    }
    return slot;
}

/* A power of two that leaves half of the slots free. */
static size_t table_size(size_t count)
{
    size_t size = 16;
    while (size < 2 * count) size *= 2;
    return size;
}

int32_t bpe_token_id(const struct bpe *bpe, const char *text, size_t length)
{
    int probes;
    return bpe->by_text[text_slot(bpe, text, length, &probes)];
}

const char *bpe_token_text(const struct bpe *bpe, int32_t id, size_t *length)
{
    if (id < 0 || id >= bpe->vocabulary || bpe->tokens[id].offset == UNUSED) return NULL;
    *length = bpe->tokens[id].length;
    return bpe->arena.bytes + bpe->tokens[id].offset;
}

int32_t bpe_vocabulary(const struct bpe *bpe)
{
    return bpe->vocabulary;
}

/* ----------------------------------------------------------------------------------- loading */

static bool load_token(struct bpe *bpe, const char *text, const json_t *value, char *reason)
{
    json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
    size_t length = strlen(text);
    int probes;
    if (id < 0 || id >= bpe->vocabulary) return refuse(reason, "model.vocab: the id of '%.60s' is no id", text);
    if (bpe->tokens[id].offset != UNUSED) return refuse(reason, "model.vocab: two tokens have the id %d", (int)id);
    if (bpe->arena.length + length >= UNUSED) return refuse(reason, "model.vocab: too large");
    bpe->tokens[id] = (struct bpe_token){(uint32_t)bpe->arena.length, (uint32_t)length};
    if (!text_buffer_append(&bpe->arena, text, length)) return refuse(reason, "out of memory");
    size_t slot = text_slot(bpe, text, length, &probes);
    if (probes > MAX_PROBES) return refuse(reason, "model.vocab: pathological");
    bpe->by_text[slot] = (int32_t)id;
    return true;
}

static bool load_vocabulary(struct bpe *bpe, const json_t *model, char *reason)
{
    json_t *vocabulary = json_object_get(model, "vocab"), *value;
    const char *text;
    if (!json_is_object(vocabulary)) return refuse(reason, "model.vocab is not an object");
    json_object_foreach(vocabulary, text, value) {
        json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > MAX_TOKEN_ID) return refuse(reason, "model.vocab: the id of '%.60s' is no id", text);
        if (id >= bpe->vocabulary) bpe->vocabulary = (int32_t)id + 1;
    }
    size_t slots = table_size(json_object_size(vocabulary));
    bpe->by_text_mask = slots - 1;
    bpe->by_text = malloc(slots * sizeof *bpe->by_text);
    bpe->tokens = malloc(((size_t)bpe->vocabulary + 1) * sizeof *bpe->tokens);
    if (!bpe->by_text || !bpe->tokens) return refuse(reason, "out of memory");
    memset(bpe->by_text, 0xFF, slots * sizeof *bpe->by_text);
    memset(bpe->tokens, 0xFF, ((size_t)bpe->vocabulary + 1) * sizeof *bpe->tokens);
    json_object_foreach(vocabulary, text, value)
        if (!load_token(bpe, text, value, reason)) return false;
    return true;
}

/* A merge is written "left right" or ["left", "right"]. */
static bool merge_parts(const json_t *merge, const char *parts[2], size_t lengths[2])
{
    if (json_is_string(merge)) {
        const char *text = json_string_value(merge), *space = strchr(text, ' ');
        if (!space || strchr(space + 1, ' ')) return false;
        parts[0] = text;
        lengths[0] = (size_t)(space - text);
        parts[1] = space + 1;
        lengths[1] = strlen(space + 1);
        return true;
    }
    if (json_array_size(merge) != 2) return false;
    for (size_t i = 0; i < 2; i++) {
        const json_t *part = json_array_get(merge, i);
        if (!json_is_string(part)) return false;
        parts[i] = json_string_value(part);
        lengths[i] = json_string_length(part);
    }
    return true;
}

static bool load_merge(struct bpe *bpe, const json_t *merge, size_t rank, struct text_buffer *joined, char *reason)
{
    const char *parts[2];
    size_t lengths[2];
    int32_t ids[2];
    int probes;
    if (!merge_parts(merge, parts, lengths)) return refuse(reason, "model.merges[%zu] is not a pair of tokens", rank);
    joined->length = 0;
    for (int i = 0; i < 2; i++) {
        ids[i] = bpe_token_id(bpe, parts[i], lengths[i]);
        if (ids[i] < 0)
            return refuse(reason, "model.merges[%zu]: '%.*s' is not in the vocabulary", rank,
                          (int)(lengths[i] < 60 ? lengths[i] : 60), parts[i]);
        if (!text_buffer_append(joined, parts[i], lengths[i])) return refuse(reason, "out of memory");
    }
    int32_t merged = bpe_token_id(bpe, joined->bytes, joined->length);
    if (merged < 0)
        return refuse(reason, "model.merges[%zu]: '%.*s' is not in the vocabulary", rank,
                      (int)(joined->length < 60 ? joined->length : 60), joined->bytes);
    uint64_t pair = (uint64_t)ids[0] << 32 | (uint32_t)ids[1];
    size_t slot = merge_slot(bpe, pair, &probes);
    if (probes > MAX_PROBES) return refuse(reason, "model.merges: pathological");
    bpe->merges[slot] = (struct merge){pair, (uint32_t)rank, merged};
    return true;
}

static bool load_merges(struct bpe *bpe, const json_t *model, char *reason)
{
    const json_t *merges = json_object_get(model, "merges");
    struct text_buffer joined = {0};
    bool done = true;
    if (!json_is_array(merges)) return refuse(reason, "model.merges is not an array");
    size_t count = json_array_size(merges), slots = table_size(count);
    if (count > UINT32_MAX) return refuse(reason, "model.merges: too large");
    bpe->merges_mask = slots - 1;
    bpe->merges = malloc(slots * sizeof *bpe->merges);
    if (!bpe->merges) return refuse(reason, "out of memory");
    for (size_t i = 0; i < slots; i++) bpe->merges[i].pair = EMPTY_PAIR;
    for (size_t i = 0; i < count && done; i++) done = load_merge(bpe, json_array_get(merges, i), i, &joined, reason);
    text_buffer_free(&joined);
    return done;
}

static bool is_set(const json_t *value)
{
    return value && !json_is_null(value) && !(json_is_string(value) && json_string_length(value) == 0);
}

static bool check_options(const json_t *model, char *reason)
{
    const json_t *type = json_object_get(model, "type");
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE") != 0))
        return refuse(reason, "model type %.40s is not supported; BPE is",
                      json_is_string(type) ? json_string_value(type) : "that is no string");
    if (is_set(json_object_get(model, "continuing_subword_prefix")))
        return refuse(reason, "model.continuing_subword_prefix is not supported");
    if (is_set(json_object_get(model, "end_of_word_suffix")))
        return refuse(reason, "model.end_of_word_suffix is not supported");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return refuse(reason, "model.dropout is not supported: encoding must be deterministic");
    return true;
}

static bool load_options(struct bpe *bpe, const json_t *model, char *reason)
{
    const json_t *unknown = json_object_get(model, "unk_token");
    bpe->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    bpe->fuse_unknown = json_is_true(json_object_get(model, "fuse_unk"));
    bpe->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        bpe->byte_ids[i] = bpe_token_id(bpe, text, strlen(text));
    }
    bpe->unknown_id = -1;
    if (is_set(unknown)) {
        if (!json_is_string(unknown)) return refuse(reason, "model.unk_token is not a string");
        bpe->unknown_id = bpe_token_id(bpe, json_string_value(unknown), json_string_length(unknown));
        if (bpe->unknown_id < 0) return refuse(reason, "model.unk_token is not in the vocabulary");
    }
    return true;
}

struct bpe *bpe_create(const json_t *model, char *reason)
{
    if (!json_is_object(model)) {
        refuse(reason, "there is no model");
        return NULL;
    }
    struct bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) {
        refuse(reason, "out of memory");
        return NULL;
    }
    /* An arena that exists, even for a vocabulary of nothing, spares its users a case. */
    if (check_options(model, reason) && text_buffer_append(&bpe->arena, "", 1) &&
        load_vocabulary(bpe, model, reason) && load_options(bpe, model, reason) && load_merges(bpe, model, reason))
        return bpe;
    bpe_destroy(bpe);
    return NULL;
}

void bpe_destroy(struct bpe *bpe)
{
    if (!bpe) return;
    text_buffer_free(&bpe->arena);
    free(bpe->tokens);
    free(bpe->by_text);
    free(bpe->merges);
    free(bpe);
}

/* ---------------------------------------------------------------------------------- encoding */

void bpe_scratch_free(struct bpe_scratch *scratch)
{
    free(scratch->symbols);
    free(scratch->heap);
    *scratch = (struct bpe_scratch){0};
}

static void push_symbol(struct bpe_scratch *scratch, int32_t id, int32_t bytes)
{
    int32_t index = (int32_t)scratch->symbol_count++;
    scratch->symbols[index] = (struct bpe_symbol){id, bytes, index - 1, index + 1};
}

/* Whether every byte of a character has a token of its own. */
static bool has_byte_tokens(const struct bpe *bpe, const char *text, int bytes)
{
    for (int i = 0; i < bytes; i++)
        if (bpe->byte_ids[(unsigned char)text[i]] < 0) return false;
    return true;
}

/* The characters of a word as symbols; at most one a byte. */
static void split_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length)
{
    int32_t unknown_bytes = 0; /* of an unknown token not pushed yet */
    scratch->symbol_count = 0;
    for (size_t at = 0; at < length;) {
        uint32_t character;
        int bytes = utf8_decode(word + at, length - at, &character);
        if (bytes <= 0) bytes = 1;
        int32_t id = bpe_token_id(bpe, word + at, (size_t)bytes);
        if (id >= 0) {
            if (unknown_bytes) push_symbol(scratch, bpe->unknown_id, unknown_bytes);
            unknown_bytes = 0;
            push_symbol(scratch, id, bytes);
        } else if (bpe->byte_fallback && has_byte_tokens(bpe, word + at, bytes)) {
            for (int i = 0; i < bytes; i++) push_symbol(scratch, bpe->byte_ids[(unsigned char)word[at + (size_t)i]], 1);
        } else if (bpe->unknown_id >= 0) {
            if (unknown_bytes && !bpe->fuse_unknown) {
                push_symbol(scratch, bpe->unknown_id, unknown_bytes);
                unknown_bytes = 0;
            }
            unknown_bytes += bytes;
        }
        at += (size_t)bytes;
    }
    if (unknown_bytes) push_symbol(scratch, bpe->unknown_id, unknown_bytes);
    if (scratch->symbol_count) scratch->symbols[scratch->symbol_count - 1].next = -1;
}

static void sift_down(struct bpe_candidate *heap, size_t count, size_t at)
{
    struct bpe_candidate moved = heap[at];
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && heap[child + 1].order < heap[child].order) child++;
        if (heap[child].order >= moved.order) break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static void sift_up(struct bpe_candidate *heap, size_t at)
{
    struct bpe_candidate moved = heap[at];
    while (at > 0 && heap[(at - 1) / 2].order > moved.order) {
        heap[at] = heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    heap[at] = moved;
}

static const struct merge *find_merge(const struct bpe *bpe, const struct bpe_symbol *symbols, int32_t left)
{
    int probes;
    uint64_t pair = (uint64_t)symbols[left].id << 32 | (uint32_t)symbols[symbols[left].next].id;
    const struct merge *merge = &bpe->merges[merge_slot(bpe, pair, &probes)];
    return merge->pair == EMPTY_PAIR ? NULL : merge;
}

/* Append the pair that begins at 'left' to the heap's array, if it can merge at all. */
static bool add_candidate(const struct bpe *bpe, struct bpe_scratch *scratch, int32_t left)
{
    const struct merge *merge = find_merge(bpe, scratch->symbols, left);
    if (!merge) return false;
    scratch->heap[scratch->heap_count++] = (struct bpe_candidate){(uint64_t)merge->rank << 32 | (uint32_t)left,
                                                                  merge->id};
    return true;
}

static void merge_symbols(const struct bpe *bpe, struct bpe_scratch *scratch)
{
    struct bpe_symbol *symbols = scratch->symbols;
    struct bpe_candidate *heap = scratch->heap;
    scratch->heap_count = 0;
    for (size_t i = 0; i + 1 < scratch->symbol_count; i++) add_candidate(bpe, scratch, (int32_t)i);
    for (size_t i = scratch->heap_count / 2; i-- > 0;) sift_down(heap, scratch->heap_count, i);

    while (scratch->heap_count > 0) {
        struct bpe_candidate best = heap[0];
        heap[0] = heap[--scratch->heap_count];
        if (scratch->heap_count > 0) sift_down(heap, scratch->heap_count, 0);
        int32_t left = (int32_t)(uint32_t)best.order;
        int32_t right = symbols[left].next;
        /* Entries are not removed when their symbols change; those are recognised here. */
        if (symbols[left].bytes == 0 || right < 0) continue;
        const struct merge *merge = find_merge(bpe, symbols, left);
        if (!merge || merge->id != best.id) continue;

        symbols[left].id = best.id;
        symbols[left].bytes += symbols[right].bytes;
        symbols[left].next = symbols[right].next;
        symbols[right].bytes = 0;
        if (symbols[left].next >= 0) symbols[symbols[left].next].previous = left;
        if (symbols[left].previous >= 0 && add_candidate(bpe, scratch, symbols[left].previous))
            sift_up(heap, scratch->heap_count - 1);
        if (symbols[left].next >= 0 && add_candidate(bpe, scratch, left)) sift_up(heap, scratch->heap_count - 1);
    }
}

bool bpe_encode_word(const struct bpe *bpe, struct bpe_scratch *scratch, const char *word, size_t length,
                     struct id_buffer *ids)
{
    void *symbols = scratch->symbols, *heap = scratch->heap;
    if (length == 0) return true;
    if (length > INT32_MAX / 4) return cli_error("a text of %s is too long for the tokenizer", cli_bytes(length).text);
    if (bpe->ignore_merges) {
        int32_t id = bpe_token_id(bpe, word, length);
        if (id >= 0) return id_buffer_push(ids, id);
    }
    if (!buffer_reserve(&symbols, &scratch->symbol_capacity, length, sizeof *scratch->symbols)) return false;
    scratch->symbols = symbols;
    /* Every merge takes one candidate out and one symbol away, and adds two at most: never more than twice the
     * symbols. */
    if (!buffer_reserve(&heap, &scratch->heap_capacity, 2 * length, sizeof *scratch->heap)) return false;
    scratch->heap = heap;

    split_word(bpe, scratch, word, length);
    merge_symbols(bpe, scratch);
    for (int32_t i = scratch->symbol_count ? 0 : -1; i >= 0; i = scratch->symbols[i].next)
        if (!id_buffer_push(ids, scratch->symbols[i].id)) return false;
    return true;
}
