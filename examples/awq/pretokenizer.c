/* Cutting text into words. */
#include "pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "pattern.h"
#include "reason.h"
#include "utf8.h"

/* How ByteLevel cuts when it is asked to: contractions, words, numbers, the rest, and white space. */
static const char byte_level_expression[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum { MAX_STEPS = 32, MAX_NESTING = 8 };

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };

static const char *const behavior_names[] = {"Removed", "Isolated", "MergedWithPrevious", "MergedWithNext",
                                             "Contiguous"};

enum step_type { STEP_SPLIT, STEP_BYTE_LEVEL, STEP_METASPACE };

enum prefix { PREFIX_NEVER, PREFIX_FIRST, PREFIX_ALWAYS };

struct step {
    enum step_type type;
    struct pattern *pattern; /* where to cut; NULL: nowhere */
    enum behavior behavior;
    bool invert;        /* cut at what the pattern does not match */
    enum prefix prefix; /* whether segments get a space, or replacement, at the front */
    char replacement[UTF8_MAX_BYTES + 1]; /* of spaces */
};

struct pretokenizer {
    struct step steps[MAX_STEPS];
    size_t count;
};

/* ---------------------------------------------------------------------------------- segments */

static bool segments_push(struct segments *segments, struct segment segment)
{
    void *items = segments->items;
    if (!buffer_reserve(&items, &segments->capacity, segments->count + 1, sizeof *segments->items)) return false;
    segments->items = items;
    segments->items[segments->count++] = segment;
    return true;
}

bool segments_append(struct segments *segments, const char *text, size_t length, bool at_start)
{
    size_t begin = segments->text.length;
    if (length == 0) return true;
    if (!text_buffer_append(&segments->text, text, length)) return false;
    return segments_push(segments, (struct segment){begin, begin + length, -1, at_start});
}

bool segments_append_token(struct segments *segments, int32_t token)
{
    return segments_push(segments, (struct segment){.begin = segments->text.length, .end = segments->text.length,
                                                    .token = token});
}

void segments_free(struct segments *segments)
{
    text_buffer_free(&segments->text);
    free(segments->items);
    *segments = (struct segments){0};
}

/* ---------------------------------------------------------------------------------- alphabet */

/* Printable Latin-1 stands for itself; the 68 other bytes follow from U+0100 on. */
uint32_t byte_level_character(unsigned char byte)
{
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0x7E) return byte;
    if (byte <= 0xA0) return 0x121u + byte - 0x7F;
    return byte == 0xAD ? 0x143u : byte;
}

int byte_level_byte(uint32_t character)
{
    if (character >= 0x100 && character <= 0x120) return (int)(character - 0x100);
    if (character >= 0x121 && character <= 0x142) return (int)(character - 0x121 + 0x7F);
    if (character == 0x143) return 0xAD;
    if (character > 0xFF || character <= 0x20 || (character >= 0x7F && character <= 0xA0) || character == 0xAD)
        return -1;
    return (int)character;
}

/* ----------------------------------------------------------------------------------- cutting */

/* Text between matches, and matches, alternately: what a behavior makes segments of. */
struct cut {
    size_t begin, end;
    bool is_match;
};

struct cuts {
    struct cut *items;
    size_t count, capacity;
};

static bool cuts_push(struct cuts *cuts, size_t begin, size_t end, bool is_match)
{
    void *items = cuts->items;
    if (!buffer_reserve(&items, &cuts->capacity, cuts->count + 1, sizeof *cuts->items)) return false;
    cuts->items = items;
    cuts->items[cuts->count++] = (struct cut){begin, end, is_match};
    return true;
}

static bool find_cuts(const struct step *step, const char *text, size_t length, struct cuts *cuts)
{
    size_t covered = 0, from = 0, begin, end;
    bool matched = false;
    cuts->count = 0;
    while (step->pattern && from <= length) {
        enum pattern_result result = pattern_find(step->pattern, text, length, from, &begin, &end);
        if (result == PATTERN_FAILED) return false;
        if (result == PATTERN_NONE) break;
        /* An empty match right behind the last one is none. */
        if (begin < end || !matched || end != covered) {
            if (begin > covered && !cuts_push(cuts, covered, begin, step->invert)) return false;
            if (!cuts_push(cuts, begin, end, !step->invert)) return false;
            covered = end;
            matched = true;
        }
        from = end;
        if (begin < end) continue;
        uint32_t character;
        int bytes = from < length ? utf8_decode(text + from, length - from, &character) : 1;
        from += bytes > 0 ? (size_t)bytes : 1;
    }
    return covered == length || cuts_push(cuts, covered, length, step->invert);
}

/* Join cuts as the behavior says, in place. */
static void join_cuts(enum behavior behavior, struct cuts *cuts)
{
    size_t kept = 0;
    bool previous_match = false;
    for (size_t i = 0; i < cuts->count; i++) {
        struct cut cut = cuts->items[i];
        bool join = false;
        switch (behavior) {
        case REMOVED:
            if (cut.is_match) continue;
            break;
        case ISOLATED:
            break;
        case MERGED_WITH_PREVIOUS:
            join = cut.is_match && !previous_match && kept > 0;
            break;
        case MERGED_WITH_NEXT:
            join = !cut.is_match && previous_match && kept > 0;
            break;
        case CONTIGUOUS:
            join = cut.is_match == previous_match && kept > 0;
            break;
        }
        previous_match = cut.is_match;
        if (join)
            cuts->items[kept - 1].end = cut.end;
        else
            cuts->items[kept++] = cut;
    }
    cuts->count = kept;
}

static bool append_byte_level(struct segments *out, const char *text, size_t length, bool at_start)
{
    size_t begin = out->text.length;
    for (size_t i = 0; i < length; i++) {
        char character[UTF8_MAX_BYTES];
        int bytes = utf8_encode(byte_level_character((unsigned char)text[i]), character);
        if (!text_buffer_append(&out->text, character, (size_t)bytes)) return false;
    }
    return length == 0 || segments_push(out, (struct segment){begin, out->text.length, -1, at_start});
}

/* The text of a segment as this step begins to see it: spaces replaced, a prefix added. */
static bool prepare(const struct step *step, const char *text, size_t length, bool at_start, struct text_buffer *out)
{
    const char *space = step->type == STEP_METASPACE ? step->replacement : " ";
    size_t space_length = strlen(space), copied = 0;
    bool has_space = text[0] == ' ' || (length >= space_length && memcmp(text, space, space_length) == 0);
    out->length = 0;
    if (!has_space && (step->prefix == PREFIX_ALWAYS || (step->prefix == PREFIX_FIRST && at_start)) &&
        !text_buffer_append(out, space, space_length))
        return false;
    for (size_t i = 0; i < length && step->type == STEP_METASPACE; i++) {
        if (text[i] != ' ') continue;
        if (!text_buffer_append(out, text + copied, i - copied) || !text_buffer_append(out, space, space_length))
            return false;
        copied = i + 1;
    }
    return text_buffer_append(out, text + copied, length - copied);
}

struct run {
    struct segments out;
    struct cuts cuts;
    struct text_buffer prepared;
};

static bool run_on_segment(const struct step *step, const char *text, size_t length, bool at_start, struct run *run)
{
    if (step->type != STEP_SPLIT) {
        if (!prepare(step, text, length, at_start, &run->prepared)) return false;
        text = run->prepared.bytes;
        length = run->prepared.length;
    }
    if (!find_cuts(step, text, length, &run->cuts)) return false;
    join_cuts(step->behavior, &run->cuts);
    for (size_t i = 0; i < run->cuts.count; i++) {
        struct cut cut = run->cuts.items[i];
        bool first = at_start && cut.begin == 0;
        if (step->type == STEP_BYTE_LEVEL) {
            if (!append_byte_level(&run->out, text + cut.begin, cut.end - cut.begin, first)) return false;
        } else {
            if (!segments_append(&run->out, text + cut.begin, cut.end - cut.begin, first)) return false;
        }
    }
    return true;
}

static bool run_step(const struct step *step, struct segments *segments, struct run *run)
{
    run->out.count = 0;
    run->out.text.length = 0;
    for (size_t i = 0; i < segments->count; i++) {
        struct segment segment = segments->items[i];
        if (segment.token >= 0) {
            if (!segments_append_token(&run->out, segment.token)) return false;
        } else if (!run_on_segment(step, segments->text.bytes + segment.begin, segment.end - segment.begin,
                                   segment.at_start, run)) {
            return false;
        }
    }
    struct segments swapped = *segments;
    *segments = run->out;
    run->out = swapped;
    return true;
}

bool pretokenizer_run(const struct pretokenizer *pretokenizer, struct segments *segments)
{
    struct run run = {0};
    bool done = true;
    for (size_t i = 0; i < pretokenizer->count && done; i++) done = run_step(&pretokenizer->steps[i], segments, &run);
    segments_free(&run.out);
    free(run.cuts.items);
    text_buffer_free(&run.prepared);
    return done;
}

/* ----------------------------------------------------------------------------------- loading */

static bool boolean(const json_t *json, const char *key, bool missing)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_boolean_value(value) : missing;
}

static bool load_split(struct step *step, const json_t *json, char *reason)
{
    const char *behavior = json_string_value(json_object_get(json, "behavior"));
    size_t index = 0;
    while (index < sizeof behavior_names / sizeof *behavior_names && behavior &&
           strcmp(behavior_names[index], behavior))
        index++;
    if (!behavior || index == sizeof behavior_names / sizeof *behavior_names)
        return refuse(reason, "pre_tokenizer Split: behavior %.40s is not known", behavior ? behavior : "(none)");
    step->behavior = (enum behavior)index;
    step->invert = boolean(json, "invert", false);
    step->pattern = pattern_from_json(json_object_get(json, "pattern"), reason);
    return step->pattern != NULL;
}

static bool load_digits(struct step *step, const json_t *json, char *reason)
{
    step->behavior = boolean(json, "individual_digits", false) ? ISOLATED : CONTIGUOUS;
    step->pattern = pattern_from_regex("\\p{N}", 5, reason);
    return step->pattern != NULL;
}

static bool load_byte_level(struct step *step, const json_t *json, char *reason)
{
    step->type = STEP_BYTE_LEVEL;
    step->behavior = ISOLATED;
    step->prefix = boolean(json, "add_prefix_space", true) ? PREFIX_ALWAYS : PREFIX_NEVER;
    if (!boolean(json, "use_regex", true)) return true;
    step->pattern = pattern_from_regex(byte_level_expression, sizeof byte_level_expression - 1, reason);
    return step->pattern != NULL;
}

static bool load_metaspace(struct step *step, const json_t *json, char *reason)
{
    const json_t *replacement = json_object_get(json, "replacement");
    const char *text = json_is_string(replacement) ? json_string_value(replacement) : "\xE2\x96\x81";
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    uint32_t character;
    if (!*text || utf8_decode(text, strlen(text), &character) != (int)strlen(text))
        return refuse(reason, "pre_tokenizer Metaspace: replacement is not one character");
    step->type = STEP_METASPACE;
    step->behavior = MERGED_WITH_NEXT;
    strcpy(step->replacement, text);
    if (!scheme)
        step->prefix = boolean(json, "add_prefix_space", true) ? PREFIX_ALWAYS : PREFIX_NEVER;
    else if (strcmp(scheme, "always") == 0)
        step->prefix = PREFIX_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step->prefix = PREFIX_FIRST;
    else if (strcmp(scheme, "never") == 0)
        step->prefix = PREFIX_NEVER;
    else
        return refuse(reason, "pre_tokenizer Metaspace: prepend_scheme %.40s is not known", scheme);
    if (!boolean(json, "split", true)) return true;
    step->pattern = pattern_from_string(text, strlen(text), reason);
    return step->pattern != NULL;
}

static bool load(struct pretokenizer *pretokenizer, const json_t *json, int nesting, char *reason)
{
    static const struct {
        const char *name;
        bool (*load)(struct step *step, const json_t *json, char *reason);
    } types[] = {
        {"Split", load_split}, {"ByteLevel", load_byte_level}, {"Metaspace", load_metaspace}, {"Digits", load_digits}};
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return refuse(reason, "pre_tokenizer: a type is missing");
    if (strcmp(type, "Sequence") == 0) {
        const json_t *list = json_object_get(json, "pretokenizers");
        if (nesting == MAX_NESTING) return refuse(reason, "pre_tokenizer: nested too deeply");
        for (size_t i = 0; i < json_array_size(list); i++)
            if (!load(pretokenizer, json_array_get(list, i), nesting + 1, reason)) return false;
        return true;
    }
    if (pretokenizer->count == MAX_STEPS) return refuse(reason, "pre_tokenizer: more than %d steps", MAX_STEPS);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(type, types[i].name) == 0)
            return types[i].load(&pretokenizer->steps[pretokenizer->count++], json, reason);
    return refuse(reason, "pre_tokenizer %.40s is not supported", type);
}

struct pretokenizer *pretokenizer_create(const json_t *json, char *reason)
{
    struct pretokenizer *pretokenizer = calloc(1, sizeof *pretokenizer);
    if (!pretokenizer) {
        refuse(reason, "out of memory");
        return NULL;
    }
    if (!json || json_is_null(json) || load(pretokenizer, json, 0, reason)) return pretokenizer;
    pretokenizer_destroy(pretokenizer);
    return NULL;
}

void pretokenizer_destroy(struct pretokenizer *pretokenizer)
{
    if (!pretokenizer) return;
    for (size_t i = 0; i < pretokenizer->count; i++) pattern_destroy(pretokenizer->steps[i].pattern);
    free(pretokenizer);
}
