/* Reading GGUF. */
#include "gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "buffer.h"
#include "cli.h"

enum { MAX_LISTED = 16, DEFAULT_ALIGNMENT = 32 };

/* What is left of the file; reading past the end sets 'failed' and gives zeros. */
struct cursor {
    const unsigned char *at, *end;
    bool failed;
};

static uint64_t take(struct cursor *cursor, size_t bytes)
{
    uint64_t value = 0;
    if ((size_t)(cursor->end - cursor->at) < bytes) cursor->failed = true;
    if (cursor->failed) return 0;
    for (size_t i = 0; i < bytes; i++) value |= (uint64_t)cursor->at[i] << (8 * i);
    cursor->at += bytes;
    return value;
}

static const char *take_text(struct cursor *cursor, size_t *length)
{
    uint64_t size = take(cursor, 8);
    if (size > (uint64_t)(cursor->end - cursor->at)) cursor->failed = true;
    *length = cursor->failed ? 0 : (size_t)size;
    const char *text = (const char *)cursor->at;
    cursor->at += *length;
    return text;
}

/* Types beyond those that are written: all of uint8 to float64, by their bytes. */
static const unsigned char value_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
static const char *const value_names[] = {"uint8",  "int8",   "uint16", "int16", "uint32", "int32",  "float32",
                                          "bool",   "string", "array",  "uint64", "int64", "float64"};

enum { VALUE_TYPES = sizeof value_bytes };

static json_t *take_number(struct cursor *cursor, uint32_t type)
{
    const size_t bytes = value_bytes[type];
    uint64_t raw = take(cursor, bytes);
    float single;
    double real;
    uint32_t half = (uint32_t)raw;
    memcpy(&single, &half, sizeof single);
    memcpy(&real, &raw, sizeof real);
    if (type == GGUF_BOOL) return json_boolean(raw);
    if (type == GGUF_FLOAT32) return json_real((double)single);
    if (type == 12) return json_real(real);
    bool is_signed = type == 1 || type == 3 || type == GGUF_INT32;
    int shift = (int)(64 - 8 * bytes);
    return json_integer(is_signed ? (json_int_t)((int64_t)(raw << shift) >> shift) : (json_int_t)raw);
}

static json_t *take_value(struct cursor *cursor, uint32_t type);

static json_t *take_array(struct cursor *cursor)
{
    uint32_t type = (uint32_t)take(cursor, 4);
    uint64_t count = take(cursor, 8);
    if (type >= VALUE_TYPES || type == GGUF_ARRAY) cursor->failed = true;
    if (cursor->failed) return json_null();
    json_t *list = json_array();
    for (uint64_t i = 0; i < count && !cursor->failed; i++) {
        json_t *value = take_value(cursor, type);
        if (i < MAX_LISTED) json_array_append_new(list, value);
        else json_decref(value);
    }
    if (count <= MAX_LISTED) return list;
    json_decref(list);
    return json_pack("{s:s, s:I}", "type", value_names[type], "count", (json_int_t)count);
}

static json_t *take_value(struct cursor *cursor, uint32_t type)
{
    size_t length;
    if (type >= VALUE_TYPES) cursor->failed = true;
    if (cursor->failed) return json_null();
    if (type == GGUF_ARRAY) return take_array(cursor);
    if (type != GGUF_STRING) return take_number(cursor, type);
    const char *text = take_text(cursor, &length);
    json_t *json = json_stringn(text, length);
    return json ? json : json_null(); /* not UTF-8, as tokens may be */
}

static bool read_metadata(struct cursor *cursor, uint64_t count, json_t *metadata)
{
    for (uint64_t i = 0; i < count && !cursor->failed; i++) {
        size_t length;
        const char *key = take_text(cursor, &length);
        json_t *value = take_value(cursor, (uint32_t)take(cursor, 4));
        json_object_setn_new(metadata, key, length, value);
    }
    return !cursor->failed;
}

static bool read_tensor(struct cursor *cursor, struct gguf_tensor *tensor, uint64_t *offset)
{
    size_t length;
    const char *name = take_text(cursor, &length);
    uint64_t elements = 1;
    *tensor = (struct gguf_tensor){.name = strndup(name, length), .ndim = (int32_t)take(cursor, 4)};
    if (!tensor->name || tensor->ndim < 1 || tensor->ndim > GGUF_MAX_DIMS) return false;
    for (int i = tensor->ndim - 1; i >= 0; i--) {
        tensor->shape[i] = (int64_t)take(cursor, 8);
        if (tensor->shape[i] < 1 || __builtin_mul_overflow(elements, (uint64_t)tensor->shape[i], &elements))
            return false;
    }
    tensor->type = (uint32_t)take(cursor, 4);
    *offset = take(cursor, 8);
    if (cursor->failed || elements > INT64_MAX / 8) return false;
    if (!gguf_type_name(tensor->type)) return true;
    int64_t columns = tensor->shape[tensor->ndim - 1];
    tensor->bytes = gguf_row_bytes(tensor->type, columns) * (elements / (uint64_t)columns);
    return tensor->bytes > 0;
}

static bool parse(struct gguf_file *file, const char *path)
{
    struct cursor cursor = {file->mapping, (unsigned char *)file->mapping + file->size, false};
    uint64_t magic = take(&cursor, 4), *offsets = NULL;
    file->version = (uint32_t)take(&cursor, 4);
    uint64_t tensors = take(&cursor, 8), values = take(&cursor, 8);
    if (magic != 0x46554747u) return cli_error("%s: not a GGUF file", path);
    if (file->version != 2 && file->version != 3)
        return cli_error("%s: GGUF version %u; supported: 2 and 3", path, file->version);
    file->metadata = json_object();
    if (!file->metadata) return cli_error("out of memory");
    if (!read_metadata(&cursor, values, file->metadata)) return cli_error("%s: its metadata is damaged", path);
    /* A declaration takes 32 bytes at least. */
    if (tensors > (uint64_t)(cursor.end - cursor.at) / 32) return cli_error("%s: it is truncated", path);
    file->tensors = calloc((size_t)tensors + 1, sizeof *file->tensors);
    offsets = calloc((size_t)tensors + 1, sizeof *offsets);
    bool ok = (file->tensors && offsets) || cli_error("out of memory");
    for (; ok && file->count < tensors; file->count++)
        if (!read_tensor(&cursor, &file->tensors[file->count], &offsets[file->count])) {
            ok = cli_error("%s: tensor %zu is damaged", path, file->count);
            file->count++; /* so that its name is freed */
            break;
        }
    json_int_t alignment = json_integer_value(json_object_get(file->metadata, "general.alignment"));
    if (alignment <= 0 || alignment > 1 << 20) alignment = DEFAULT_ALIGNMENT;
    uint64_t start = (uint64_t)(cursor.at - (unsigned char *)file->mapping);
    start = (start + (uint64_t)alignment - 1) / (uint64_t)alignment * (uint64_t)alignment;
    for (size_t i = 0; ok && i < file->count; i++) {
        struct gguf_tensor *tensor = &file->tensors[i];
        if (start > file->size || offsets[i] > file->size - start || tensor->bytes > file->size - start - offsets[i])
            ok = cli_error("%s: %s lies beyond the end of the file", path, tensor->name);
        else if (tensor->bytes)
            tensor->data = (unsigned char *)file->mapping + start + offsets[i];
    }
    free(offsets);
    return ok;
}

bool gguf_open(const char *path, struct gguf_file *file)
{
    struct stat status;
    *file = (struct gguf_file){.mapping = MAP_FAILED};
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0 || fstat(descriptor, &status) != 0) {
        cli_error("%s: %s", path, strerror(errno));
        if (descriptor >= 0) close(descriptor);
        return false;
    }
    file->size = (size_t)status.st_size;
    if (file->size > 0) file->mapping = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
    close(descriptor);
    bool ok = file->mapping != MAP_FAILED ? parse(file, path) : cli_error("%s: it cannot be mapped", path);
    if (!ok) gguf_close(file);
    return ok;
}

void gguf_close(struct gguf_file *file)
{
    for (size_t i = 0; i < file->count; i++) free(file->tensors[i].name);
    free(file->tensors);
    json_decref(file->metadata);
    if (file->mapping && file->mapping != MAP_FAILED) munmap(file->mapping, file->size);
    *file = (struct gguf_file){0};
}

const struct gguf_tensor *gguf_find(const struct gguf_file *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++)
        if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
    return NULL;
}
