/* Unicode Normalization Form C: decompose, order combining marks by their class, compose.
 *
 * No character below U+0300 combines with one before it, so the text falls into pieces that begin at such characters
 * and are normalised one by one; most are a single character. */
#include "nfc.h"

#include <stdlib.h>
#include <string.h>

#include "utf8.h"

enum { FIRST_COMBINING = 0x300 };

enum {
    HANGUL_FIRST = 0xAC00,
    HANGUL_COUNT = 11172,
    JAMO_L = 0x1100,
    JAMO_V = 0x1161,
    JAMO_T = 0x11A7,
    JAMO_L_COUNT = 19,
    JAMO_V_COUNT = 21,
    JAMO_T_COUNT = 28
};

struct decomposition {
    uint32_t character, first, second; /* second is 0 in those to one character */
};

struct class_range {
    uint32_t first, last;
    uint8_t value;
};

#include "nfc_table.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A character of a piece: class << 56 | place << 24 | character, so that sorting by value orders by class, and else
 * keeps places. */
struct piece {
    uint64_t *items;
    size_t count, capacity;
};

static uint32_t item_character(uint64_t item)
{
    return item & 0xFFFFFF;
}

static unsigned item_class(uint64_t item)
{
    return (unsigned)(item >> 56);
}

static unsigned combining_class(uint32_t character)
{
    size_t low = 0, high = COUNT(class_ranges);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (character > class_ranges[middle].last)
            low = middle + 1;
        else if (character < class_ranges[middle].first)
            high = middle;
        else
            return class_ranges[middle].value;
    }
    return 0;
}

static const struct decomposition *find_decomposition(uint32_t character)
{
    size_t low = 0, high = COUNT(decompositions);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (decompositions[middle].character == character) return &decompositions[middle];
        if (decompositions[middle].character < character)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

/* The character that two make, or 0. */
static uint32_t compose(uint32_t first, uint32_t second)
{
    if (first >= JAMO_L && first < JAMO_L + JAMO_L_COUNT && second >= JAMO_V && second < JAMO_V + JAMO_V_COUNT)
        return HANGUL_FIRST + ((first - JAMO_L) * JAMO_V_COUNT + (second - JAMO_V)) * JAMO_T_COUNT;
    if (first >= HANGUL_FIRST && first < HANGUL_FIRST + HANGUL_COUNT && (first - HANGUL_FIRST) % JAMO_T_COUNT == 0 &&
        second > JAMO_T && second < JAMO_T + JAMO_T_COUNT)
        return first + (second - JAMO_T);
    uint64_t wanted = (uint64_t)first << 32 | second;
    size_t low = 0, high = COUNT(compositions);
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct decomposition *pair = &decompositions[compositions[middle]];
        uint64_t found = (uint64_t)pair->first << 32 | pair->second;
        if (found == wanted) return pair->character;
        if (found < wanted)
            low = middle + 1;
        else
            high = middle;
    }
    return 0;
}

static bool piece_push(struct piece *piece, uint32_t character)
{
    void *items = piece->items;
    if (!buffer_reserve(&items, &piece->capacity, piece->count + 1, sizeof *piece->items)) return false;
    piece->items = items;
    piece->items[piece->count] =
        (uint64_t)combining_class(character) << 56 | (uint64_t)(uint32_t)piece->count << 24 | character;
    piece->count++;
    return true;
}

static bool piece_decompose(struct piece *piece, uint32_t character)
{
    if (character >= HANGUL_FIRST && character < HANGUL_FIRST + HANGUL_COUNT) {
        uint32_t index = character - HANGUL_FIRST, last = index % JAMO_T_COUNT;
        return piece_push(piece, JAMO_L + index / (JAMO_V_COUNT * JAMO_T_COUNT)) &&
               piece_push(piece, JAMO_V + index / JAMO_T_COUNT % JAMO_V_COUNT) &&
               (last == 0 || piece_push(piece, JAMO_T + last));
    }
    /* Only first parts decompose further. */
    uint32_t seconds[8];
    size_t count = 0;
    const struct decomposition *found;
    while (count < COUNT(seconds) && (found = find_decomposition(character))) {
        character = found->first;
        if (found->second) seconds[count++] = found->second;
    }
    if (!piece_push(piece, character)) return false;
    while (count > 0)
        if (!piece_push(piece, seconds[--count])) return false;
    return true;
}

static int compare_items(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

/* Sort each run of combining marks. */
static void piece_order(struct piece *piece)
{
    for (size_t begin = 0, end; begin < piece->count; begin = end + 1) {
        bool ordered = true;
        for (end = begin; end < piece->count && item_class(piece->items[end]) != 0; end++)
            if (end > begin && item_class(piece->items[end]) < item_class(piece->items[end - 1])) ordered = false;
        if (!ordered) qsort(piece->items + begin, end - begin, sizeof *piece->items, compare_items);
    }
}

/* Compose every mark with its starter unless another one of its class or above, or a starter, stands between. */
static void piece_compose(struct piece *piece)
{
    size_t kept = 0, starter = SIZE_MAX;
    for (size_t i = 0; i < piece->count; i++) {
        uint64_t item = piece->items[i];
        if (starter != SIZE_MAX && (starter == kept - 1 || item_class(piece->items[kept - 1]) < item_class(item))) {
            uint32_t composed = compose(item_character(piece->items[starter]), item_character(item));
            if (composed) {
                piece->items[starter] = composed;
                continue;
            }
        }
        if (item_class(item) == 0) starter = kept;
        piece->items[kept++] = item;
    }
    piece->count = kept;
}

static bool append_piece(struct text_buffer *out, const char *text, size_t length, struct piece *piece)
{
    piece->count = 0;
    for (size_t at = 0; at < length;) {
        uint32_t character = UTF8_REPLACEMENT;
        int bytes = utf8_decode(text + at, length - at, &character);
        at += bytes > 0 ? (size_t)bytes : 1;
        if (!piece_decompose(piece, character)) return false;
    }
    piece_order(piece);
    piece_compose(piece);
    for (size_t i = 0; i < piece->count; i++) {
        char encoded[UTF8_MAX_BYTES];
        int bytes = utf8_encode(item_character(piece->items[i]), encoded);
        if (!text_buffer_append(out, encoded, (size_t)bytes)) return false;
    }
    return true;
}

/* Whether a byte begins a character, and one below U+0300. */
static bool begins_low(char byte)
{
    return (unsigned char)byte < 0x80 || ((unsigned char)byte >= 0xC0 && (unsigned char)byte < 0xCC);
}

bool nfc_append(struct text_buffer *out, const char *text, size_t length)
{
    struct piece piece = {0};
    size_t copied = 0, begin = 0; /* text up to 'copied' is done; a piece would begin at 'begin' */
    bool done = true;
    for (size_t at = 0; at < length && done; at++) {
        if (begins_low(text[at])) begin = at;
        if ((unsigned char)text[at] < 0xCC) continue;
        size_t end = at + 1;
        while (end < length && !begins_low(text[end])) end++;
        done = text_buffer_append(out, text + copied, begin - copied) &&
               append_piece(out, text + begin, end - begin, &piece);
        copied = begin = end;
        at = end - 1;
    }
    done = done && text_buffer_append(out, text + copied, length - copied);
    free(piece.items);
    return done;
}
