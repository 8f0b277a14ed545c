/* Rewriting text before it is cut. */
#include "normalizer.h"

#include <stdlib.h>
#include <string.h>

#include "nfc.h"
#include "pattern.h"
#include "reason.h"

enum { MAX_STEPS = 32, MAX_NESTING = 8 };

enum step_type { STEP_NFC, STEP_PREPEND, STEP_REPLACE };

struct step {
    enum step_type type;
    struct pattern *pattern; /* what is replaced */
    char *content;           /* by what; or what is prepended */
    size_t content_length;
};

struct normalizer {
    struct step steps[MAX_STEPS];
    size_t count;
};

static bool replace_all(const struct step *step, const char *text, size_t length, struct text_buffer *out)
{
    size_t from = 0, begin, end;
    while (from < length) {
        enum pattern_result result = pattern_find(step->pattern, text, length, from, &begin, &end);
        if (result == PATTERN_FAILED) return false;
        if (result == PATTERN_NONE || begin == end) break;
        if (!text_buffer_append(out, text + from, begin - from)) return false;
        if (!text_buffer_append(out, step->content, step->content_length)) return false;
        from = end;
    }
    return text_buffer_append(out, text + from, length - from);
}

static bool run_step(const struct step *step, const char *text, size_t length, struct text_buffer *out)
{
    switch (step->type) {
    case STEP_NFC:
        return nfc_append(out, text, length);
    case STEP_PREPEND:
        return (length == 0 || text_buffer_append(out, step->content, step->content_length)) &&
               text_buffer_append(out, text, length);
    case STEP_REPLACE:
        break;
    }
    return replace_all(step, text, length, out);
}

bool normalizer_run(const struct normalizer *normalizer, const char *text, size_t length, struct text_buffer *out)
{
    struct text_buffer other = {0};
    out->length = 0;
    bool done = text_buffer_append(out, text, length);
    for (size_t i = 0; i < normalizer->count && done; i++) {
        other.length = 0;
        done = run_step(&normalizer->steps[i], out->bytes, out->length, &other);
        struct text_buffer swapped = *out;
        *out = other;
        other = swapped;
    }
    text_buffer_free(&other);
    return done;
}

static bool load_content(struct step *step, const json_t *content, const char *type, char *reason)
{
    if (!json_is_string(content)) return refuse(reason, "normalizer %s: its text is not a string", type);
    step->content_length = json_string_length(content);
    step->content = malloc(step->content_length + 1);
    if (!step->content) return refuse(reason, "out of memory");
    memcpy(step->content, json_string_value(content), step->content_length);
    return true;
}

static bool load_step(struct step *step, const json_t *json, const char *type, char *reason)
{
    if (strcmp(type, "NFC") == 0) {
        step->type = STEP_NFC;
        return true;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->type = STEP_PREPEND;
        return load_content(step, json_object_get(json, "prepend"), type, reason);
    }
    if (strcmp(type, "Replace") == 0) {
        step->type = STEP_REPLACE;
        step->pattern = pattern_from_json(json_object_get(json, "pattern"), reason);
        return step->pattern && load_content(step, json_object_get(json, "content"), type, reason);
    }
    return refuse(reason, "normalizer %.40s is not supported", type);
}

static bool load(struct normalizer *normalizer, const json_t *json, int nesting, char *reason)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    if (!type) return refuse(reason, "normalizer: a type is missing");
    if (strcmp(type, "Sequence") != 0) {
        if (normalizer->count == MAX_STEPS) return refuse(reason, "normalizer: more than %d steps", MAX_STEPS);
        return load_step(&normalizer->steps[normalizer->count++], json, type, reason);
    }
    const json_t *list = json_object_get(json, "normalizers");
    if (nesting == MAX_NESTING) return refuse(reason, "normalizer: nested too deeply");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!load(normalizer, json_array_get(list, i), nesting + 1, reason)) return false;
    return true;
}

struct normalizer *normalizer_create(const json_t *json, char *reason)
{
    struct normalizer *normalizer = calloc(1, sizeof *normalizer);
    if (!normalizer) {
        refuse(reason, "out of memory");
        return NULL;
    }
    if (!json || json_is_null(json) || load(normalizer, json, 0, reason)) return normalizer;
    normalizer_destroy(normalizer);
    return NULL;
}

void normalizer_destroy(struct normalizer *normalizer)
{
    if (!normalizer) return;
    for (size_t i = 0; i < normalizer->count; i++) {
        pattern_destroy(normalizer->steps[i].pattern);
        free(normalizer->steps[i].content);
    }
    free(normalizer);
}
