/* Values of a JSON file, each checked for its type and range. */
#include "section.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

json_t *section_load(const char *directory, const char *file, bool optional, char path[SECTION_PATH_SIZE])
{
    json_error_t error;
    if (snprintf(path, SECTION_PATH_SIZE, "%s/%s", directory, file) >= SECTION_PATH_SIZE) {
        cli_error("%s: the path is too long", directory);
        return NULL;
    }
    FILE *stream = fopen(path, "rb");
    if (!stream) {
        if (!optional || errno != ENOENT) cli_error("%s: %s", path, strerror(errno));
        return NULL;
    }
    json_t *json = json_loadf(stream, 0, &error);
    fclose(stream);
    if (!json) cli_error("%s: line %d: %s", path, error.line, error.text);
    if (json && !json_is_object(json)) {
        cli_error("%s: not a JSON object", path);
        json_decref(json);
        json = NULL;
    }
    return json;
}

bool section_wrong(const struct section *section, const char *key, const char *format, ...)
{
    char text[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cli_error("%s: %s%s %s", section->path, section->within, key, text);
}

bool section_unsupported(const struct section *section, const char *key, const char *value, const char *supported)
{
    return section_wrong(section, key, "'%.60s' is not supported; supported: %s", value, supported);
}

const json_t *section_find(const struct section *section, const char *key)
{
    const json_t *value = json_object_get(section->object, key);
    return json_is_null(value) ? NULL : value;
}

const char *section_either(const struct section *section, const char *first, const char *second)
{
    return !section_find(section, first) && section_find(section, second) ? second : first;
}

bool section_integer(const struct section *section, const char *key, int64_t fallback, int64_t minimum,
                     int64_t maximum, int64_t *result)
{
    const json_t *value = section_find(section, key);
    if (!value && fallback < 0) return section_wrong(section, key, "is missing");
    *result = value ? (int64_t)json_integer_value(value) : fallback;
    if (value && !json_is_integer(value)) return section_wrong(section, key, "is not a whole number");
    if (value && (*result < minimum || *result > maximum))
        return section_wrong(section, key, "is %lld, outside %lld to %lld", (long long)*result, (long long)minimum,
                             (long long)maximum);
    return true;
}

bool section_positive(const struct section *section, const char *key, double fallback, double *result)
{
    const json_t *value = section_find(section, key);
    if (!value && fallback < 0) return section_wrong(section, key, "is missing");
    *result = value ? json_number_value(value) : fallback;
    if (value && !json_is_number(value)) return section_wrong(section, key, "is not a number");
    if (!(*result > 0) || !isfinite(*result))
        return section_wrong(section, key, "is %g, but must be positive", *result);
    return true;
}

bool section_flag(const struct section *section, const char *key, bool fallback, bool *result)
{
    const json_t *value = section_find(section, key);
    *result = value ? json_is_true(value) : fallback;
    if (value && !json_is_boolean(value)) return section_wrong(section, key, "is neither true nor false");
    return true;
}

bool section_string(const struct section *section, const char *key, const char *fallback, const char **result)
{
    const json_t *value = section_find(section, key);
    *result = value ? json_string_value(value) : fallback;
    if (value && !*result) return section_wrong(section, key, "is not a string");
    return true;
}
