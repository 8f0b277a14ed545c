/* Values of a JSON file, each checked for its type and range.
 *
 * Absent and null count as the fallback; anything of another type or range is an error, which names the file and the
 * key.  Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_SECTION_H
#define AWQ_APP_SECTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* An object of the file, and what to put before its keys in messages: "DIR/config.json: rope_scaling.factor". */
struct section {
    const char *path;
    char within[96];
    const json_t *object;
};

enum { SECTION_PATH_SIZE = 4096 };

/* Read DIRECTORY/FILE, which holds an object, and write its path.  NULL without a message when 'optional' and there is
 * no such file. */
json_t *section_load(const char *directory, const char *file, bool optional, char path[SECTION_PATH_SIZE]);

/* The value under a key, or NULL. */
const json_t *section_find(const struct section *section, const char *key);

/* The first key of a pair that is there; where none is, the first. */
const char *section_either(const struct section *section, const char *first, const char *second);

/* A whole number in [minimum, maximum]; a negative fallback means that the key is required. */
bool section_integer(const struct section *section, const char *key, int64_t fallback, int64_t minimum,
                     int64_t maximum, int64_t *result);

/* A positive finite number; a negative fallback means that the key is required. */
bool section_positive(const struct section *section, const char *key, double fallback, double *result);

bool section_flag(const struct section *section, const char *key, bool fallback, bool *result);

/* NULL when absent and there is no fallback. */
bool section_string(const struct section *section, const char *key, const char *fallback, const char **result);

/* Say what of a key is wrong; return false. */
bool section_wrong(const struct section *section, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
bool section_unsupported(const struct section *section, const char *key, const char *value, const char *supported);

#endif
