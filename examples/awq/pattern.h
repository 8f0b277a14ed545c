/* What tokenizer.json files look for in text: a string, or a regular expression as Oniguruma reads it. */
#ifndef AWQ_APP_PATTERN_H
#define AWQ_APP_PATTERN_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct pattern;

/* NULL with a reason (reason.h) when memory gives out, or the expression is malformed or uses what PCRE2 would read in
 * another way than Oniguruma does. */
struct pattern *pattern_from_string(const char *text, size_t length, char *reason);
struct pattern *pattern_from_regex(const char *expression, size_t length, char *reason);

/* {"String": ..} or {"Regex": ..} */
struct pattern *pattern_from_json(const json_t *json, char *reason);
void pattern_destroy(struct pattern *pattern);

enum pattern_result { PATTERN_FAILED = -1, PATTERN_NONE = 0, PATTERN_FOUND = 1 };

/* The first match in text[from..length), which is valid UTF-8; matches may be empty.  PATTERN_FAILED, when the
 * expression takes more steps or memory than is allowed, has been reported. */
enum pattern_result pattern_find(const struct pattern *pattern, const char *text, size_t length, size_t from,
                                 size_t *begin, size_t *end);

#endif
