/* Sized structs: how options come in from, and results go out to, programs compiled against other headers. */
#include "internal.h"

enum { LARGEST_STRUCT = 4096 }; /* a struct_size beyond this is not a struct of ours but garbage */

void awq_struct_init(void *structure, size_t size)
{
    if (structure == NULL || size < sizeof(uint32_t) || size > UINT32_MAX) return;
    uint32_t struct_size = (uint32_t)size;
    memset(structure, 0, size);
    memcpy(structure, &struct_size, sizeof struct_size);
}

static awq_status read_struct_size(const void *given, const char *type, uint32_t *size)
{
    memcpy(size, given, sizeof *size);
    if (*size < sizeof *size || *size > LARGEST_STRUCT)
        return awqi_fail(AWQ_ERROR_INVALID, "%s: struct_size is %u; prepare the struct with awq_struct_init", type,
                         (unsigned)*size);
    return AWQ_OK;
}

awq_status awqi_import(void *known, size_t known_size, const void *given, const char *type)
{
    awq_struct_init(known, known_size);
    if (given == NULL) return AWQ_OK;
    uint32_t given_size;
    awq_status status = read_struct_size(given, type, &given_size);
    if (status != AWQ_OK) return status;
    for (size_t i = known_size; i < given_size; i++)
        if (((const unsigned char *)given)[i] != 0)
            return awqi_fail(AWQ_ERROR_INVALID, "%s: byte %zu is set, but this version (%s) knows only %zu bytes", type, i,
                             awq_version_string(), known_size);
    memcpy(known, given, given_size < known_size ? given_size : known_size);
    return AWQ_OK;
}

awq_status awqi_export(void *given, const void *known, size_t known_size, const char *type)
{
    if (given == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s is NULL", type);
    uint32_t given_size;
    awq_status status = read_struct_size(given, type, &given_size);
    if (status != AWQ_OK) return status;
    awq_struct_init(given, given_size);
    size_t size = given_size < known_size ? given_size : known_size;
    memcpy((unsigned char *)given + sizeof given_size, (const unsigned char *)known + sizeof given_size,
           size - sizeof given_size);
    return AWQ_OK;
}

awq_status awqi_check_flags(uint32_t flags, uint32_t allowed, const char *what)
{
    if ((flags & ~allowed) == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_INVALID, "%s: unknown flag bits 0x%x", what, (unsigned)(flags & ~allowed));
}

void awqi_copy_text(const char *text, char *buffer, size_t capacity, size_t *length)
{
    size_t full = strlen(text);
    if (length != NULL) *length = full;
    if (buffer == NULL || capacity == 0) return;
    size_t copied = full < capacity ? full : capacity - 1;
    memcpy(buffer, text, copied);
    buffer[copied] = 0;
}
