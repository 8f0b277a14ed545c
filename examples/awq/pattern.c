/* Strings and regular expressions.
 *
 * The expressions come from files of strangers and were written for Oniguruma.  They are rewritten for PCRE2: of what
 * both know, the constructs whose meaning differs are spelled out, and those that have no counterpart, or no place in a
 * tokenizer (recursion, callouts, verbs), are refused by name. */
#include "pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buffer.h"
#include "cli.h"
#include "reason.h"

/* An honest expression of a tokenizer takes a few steps a character; the longest known has about 500 bytes. */
enum { MAX_EXPRESSION = 16384, MATCH_LIMIT = 10000000, DEPTH_LIMIT = 100000, HEAP_LIMIT_KIB = 262144 };
enum { JIT_STACK_LEAST = 32768, JIT_STACK_MOST = 1 << 24 };

struct pattern {
    char *text; /* a string; NULL: a regular expression */
    size_t length;
    pcre2_code *code;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    pcre2_match_data *match;
};

void pattern_destroy(struct pattern *pattern)
{
    if (!pattern) return;
    free(pattern->text);
    pcre2_code_free(pattern->code);
    pcre2_match_context_free(pattern->context);
    pcre2_jit_stack_free(pattern->stack);
    pcre2_match_data_free(pattern->match);
    free(pattern);
}

struct pattern *pattern_from_string(const char *text, size_t length, char *reason)
{
    if (length == 0) {
        snprintf(reason, REASON_SIZE, "a pattern is empty");
        return NULL;
    }
    struct pattern *pattern = calloc(1, sizeof *pattern);
    if (pattern) pattern->text = malloc(length);
    if (!pattern || !pattern->text) {
        snprintf(reason, REASON_SIZE, "out of memory");
        free(pattern);
        return NULL;
    }
    memcpy(pattern->text, text, length);
    pattern->length = length;
    return pattern;
}

/* ------------------------------------------------------------------------------- translation */

struct translation {
    const char *at, *end;
    struct text_buffer out;
    bool in_class;
    bool after_interval; /* the last token was {n,m} */
    char *reason;
};

static bool emit(struct translation *translation, const char *text, size_t length)
{
    if (text_buffer_append(&translation->out, text, length)) return true;
    return refuse(translation->reason, "out of memory");
}

static bool emit_string(struct translation *translation, const char *text)
{
    return emit(translation, text, strlen(text));
}

/* \p{Name}: general categories (L, Lu) mean the same to both; longer names are scripts, which PCRE2 would extend. */
static bool translate_property(struct translation *translation, char letter)
{
    const char *name = translation->at + 1, *close;
    char text[64];
    if (translation->at == translation->end || *translation->at != '{' ||
        !(close = memchr(name, '}', (size_t)(translation->end - name))))
        return refuse(translation->reason, "regular expression: \\%c without {name}", letter);
    bool negated = *name == '^';
    if (negated) name++;
    int length = (int)(close - name);
    if (length < 1 || length > 40)
        return refuse(translation->reason, "regular expression: \\%c{%.40s} is not known", letter, name);
    if (length <= 2)
        snprintf(text, sizeof text, "\\%c{%s%.*s}", letter, negated ? "^" : "", length, name);
    else
        snprintf(text, sizeof text, "\\%c{%ssc:%.*s}", letter, negated ? "^" : "", length, name);
    translation->at = close + 1;
    return emit_string(translation, text);
}

static bool translate_escape(struct translation *translation)
{
    static const char word[] = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
    char text[64], letter;
    if (translation->at + 1 >= translation->end)
        return refuse(translation->reason, "regular expression: ends with a backslash");
    letter = translation->at[1];
    translation->at += 2;
    switch (letter) {
    case 's':
        return emit_string(translation, "\\p{White_Space}");
    case 'S':
        return emit_string(translation, "\\P{White_Space}");
    case 'd':
        return emit_string(translation, "\\p{Nd}");
    case 'D':
        return emit_string(translation, "\\P{Nd}");
    case 'w':
        snprintf(text, sizeof text, translation->in_class ? "%s" : "[%s]", word);
        return emit_string(translation, text);
    case 'W':
        if (translation->in_class) break;
        snprintf(text, sizeof text, "[^%s]", word);
        return emit_string(translation, text);
    case 'p':
    case 'P':
        return translate_property(translation, letter);
    case 'v':
        return emit_string(translation, "\\x0b");
    case 'n':
    case 'r':
    case 't':
    case 'f':
        return emit(translation, translation->at - 2, 2);
    default:
        /* An escaped character that is no letter or digit stands for itself. */
        if ((unsigned char)letter < 0x80 && !strchr("0123456789", letter) &&
            !((letter | 32) >= 'a' && (letter | 32) <= 'z'))
            return emit(translation, translation->at - 2, 2);
        break;
    }
    return refuse(translation->reason, "regular expression: \\%c is not supported%s", letter,
                  translation->in_class ? " in a class" : "");
}

static bool starts_with(const struct translation *translation, const char *text)
{
    size_t length = strlen(text);
    return (size_t)(translation->end - translation->at) >= length && memcmp(translation->at, text, length) == 0;
}

static bool translate_group(struct translation *translation)
{
    static const char *const openers[] = {"(?:", "(?i:", "(?=", "(?!", "(?<=", "(?<!", "(?>"};
    for (size_t i = 0; i < sizeof openers / sizeof *openers; i++) {
        if (!starts_with(translation, openers[i])) continue;
        translation->at += strlen(openers[i]);
        return emit_string(translation, openers[i]);
    }
    if (starts_with(translation, "(?") || starts_with(translation, "(*"))
        return refuse(translation->reason, "regular expression: a group that begins with '%.4s' is not supported",
                      translation->at);
    translation->at++;
    return emit_string(translation, "(?:");
}

static bool translate_class_character(struct translation *translation)
{
    if (*translation->at == '[' || starts_with(translation, "&&"))
        return refuse(translation->reason, "regular expression: classes within classes are not supported");
    if (*translation->at == ']') translation->in_class = false;
    return emit(translation, translation->at++, 1);
}

/* A decimal number of at most 4 digits, at which *at stands, or -1. */
static int parse_count(const char **at, const char *end)
{
    int value = -1;
    for (int i = 0; i < 4 && *at < end && **at >= '0' && **at <= '9'; i++, ++*at)
        value = (value < 0 ? 0 : 10 * value) + (**at - '0');
    return value;
}

/* {n}, {n,}, {,m} and {n,m}; anything else in braces would be read literally by one of the two. */
static bool translate_interval(struct translation *translation)
{
    char text[32];
    const char *at = translation->at + 1;
    int least = parse_count(&at, translation->end), most = least;
    bool comma = at < translation->end && *at == ',';
    if (comma) {
        at++;
        most = parse_count(&at, translation->end);
    }
    if (at == translation->end || *at != '}' || (least < 0 && most < 0))
        return refuse(translation->reason, "regular expression: '{' is not followed by a count");
    if (!comma)
        snprintf(text, sizeof text, "{%d}", least);
    else if (most < 0)
        snprintf(text, sizeof text, "{%d,}", least);
    else
        snprintf(text, sizeof text, "{%d,%d}", least < 0 ? 0 : least, most);
    translation->at = at + 1;
    translation->after_interval = true;
    return emit_string(translation, text);
}

static bool translate_token(struct translation *translation)
{
    bool after_interval = translation->after_interval;
    translation->after_interval = false;
    switch (*translation->at) {
    case '\\':
        return translate_escape(translation);
    case '(':
        return translation->in_class ? emit(translation, translation->at++, 1) : translate_group(translation);
    case '{':
        return translation->in_class ? emit(translation, translation->at++, 1) : translate_interval(translation);
    case '[':
        if (translation->in_class) return translate_class_character(translation);
        translation->in_class = true;
        if (!emit(translation, translation->at++, 1)) return false;
        if (starts_with(translation, "^") && !emit(translation, translation->at++, 1)) return false;
        if (starts_with(translation, "]"))
            return refuse(translation->reason, "regular expression: a class begins with ']'");
        return true;
    case '+':
    case '?':
        if (after_interval)
            return refuse(translation->reason, "regular expression: '%c' after a count is not supported",
                          *translation->at);
        break;
    default:
        break;
    }
    return translation->in_class ? translate_class_character(translation) : emit(translation, translation->at++, 1);
}

/* ----------------------------------------------------------------------------------- regexes */

static bool compile(struct pattern *pattern, const struct text_buffer *expression, char *reason)
{
    int error = 0;
    size_t offset = 0;
    unsigned char message[128];
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(context, 50);
        pattern->code = pcre2_compile((PCRE2_SPTR)expression->bytes, expression->length,
                                      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NO_AUTO_CAPTURE, &error, &offset,
                                      context);
    }
    pcre2_compile_context_free(context);
    if (!pattern->code) {
        if (!context || pcre2_get_error_message(error, message, sizeof message) < 0)
            snprintf((char *)message, sizeof message, "out of memory");
        snprintf(reason, REASON_SIZE, "regular expression: %s (after %zu bytes)", (char *)message, offset);
        return false;
    }
    /* Without just-in-time compilation the interpreter does the same more slowly. */
    bool compiled = pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE) == 0;
    pattern->context = pcre2_match_context_create(NULL);
    pattern->match = pcre2_match_data_create_from_pattern(pattern->code, NULL);
    if (compiled) pattern->stack = pcre2_jit_stack_create(JIT_STACK_LEAST, JIT_STACK_MOST, NULL);
    if (!pattern->context || !pattern->match || (compiled && !pattern->stack)) {
        snprintf(reason, REASON_SIZE, "out of memory");
        return false;
    }
    pcre2_set_match_limit(pattern->context, MATCH_LIMIT);
    pcre2_set_depth_limit(pattern->context, DEPTH_LIMIT);
    pcre2_set_heap_limit(pattern->context, HEAP_LIMIT_KIB);
    if (compiled) pcre2_jit_stack_assign(pattern->context, NULL, pattern->stack);
    return true;
}

struct pattern *pattern_from_regex(const char *expression, size_t length, char *reason)
{
    struct translation translation = {.at = expression, .end = expression + length, .reason = reason};
    struct pattern *pattern = calloc(1, sizeof *pattern);
    bool done = pattern != NULL;
    if (!done) refuse(reason, "out of memory");
    if (done && length > MAX_EXPRESSION)
        done = refuse(reason, "regular expression: longer than %d bytes", MAX_EXPRESSION);
    while (done && translation.at < translation.end) done = translate_token(&translation);
    done = done && compile(pattern, &translation.out, reason);
    text_buffer_free(&translation.out);
    if (done) return pattern;
    pattern_destroy(pattern);
    return NULL;
}

struct pattern *pattern_from_json(const json_t *json, char *reason)
{
    const json_t *regex = json_object_get(json, "Regex"), *string = json_object_get(json, "String");
    if (json_is_string(regex))
        return pattern_from_regex(json_string_value(regex), json_string_length(regex), reason);
    if (json_is_string(string))
        return pattern_from_string(json_string_value(string), json_string_length(string), reason);
    refuse(reason, "a pattern is neither a Regex nor a String");
    return NULL;
}

enum pattern_result pattern_find(const struct pattern *pattern, const char *text, size_t length, size_t from,
                                 size_t *begin, size_t *end)
{
    unsigned char message[128];
    if (pattern->text) {
        const char *found = memmem(text + from, length - from, pattern->text, pattern->length);
        if (!found) return PATTERN_NONE;
        *begin = (size_t)(found - text);
        *end = *begin + pattern->length;
        return PATTERN_FOUND;
    }
    int result = pcre2_match(pattern->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK, pattern->match,
                             pattern->context);
    if (result == PCRE2_ERROR_NOMATCH) return PATTERN_NONE;
    if (result < 0) {
        pcre2_get_error_message(result, message, sizeof message);
        cli_error("the tokenizer's regular expression fails on this text: %s", (char *)message);
        return PATTERN_FAILED;
    }
    const size_t *offsets = pcre2_get_ovector_pointer(pattern->match);
    *begin = offsets[0];
    *end = offsets[1] < offsets[0] ? offsets[0] : offsets[1];
    return PATTERN_FOUND;
}
