/* Writing GGUF. */
#include "gguf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buffer.h"
#include "cli.h"

enum { ALIGNMENT = 32, VERSION = 3 };

struct declaration {
    uint64_t size; /* of the data, without padding */
};

struct gguf_writer {
    char *path, *temporary;
    FILE *file;
    struct text_buffer metadata, tensors; /* as they will stand in the file */
    uint64_t metadata_count;
    struct declaration *declarations;
    size_t declared, capacity;
    uint64_t next_offset;  /* of the next declared tensor's data */
    size_t current;        /* the tensor whose data is being written */
    uint64_t written;      /* of it */
    bool data_began, committed;
};

static uint64_t aligned(uint64_t size)
{
    return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

bool gguf_writer_open(const char *path, struct gguf_writer **writer)
{
    *writer = NULL;
    if (is_special_file(path)) return cli_error("%s: is no regular file", path);
    struct gguf_writer *result = calloc(1, sizeof *result);
    if (!result) return cli_error("out of memory");
    result->path = strdup(path);
    if (!result->path || asprintf(&result->temporary, "%s.%ld.tmp", path, (long)getpid()) < 0) {
        result->temporary = NULL;
        gguf_writer_close(result);
        return cli_error("out of memory");
    }
    result->file = fopen(result->temporary, "wbx");
    if (!result->file) {
        cli_error("%s: %s", path, strerror(errno));
        gguf_writer_close(result);
        return false;
    }
    *writer = result;
    return true;
}

/* ---- metadata */

static bool put_number(struct text_buffer *buffer, uint64_t value, size_t bytes)
{
    char little[8];
    for (size_t i = 0; i < bytes; i++) little[i] = (char)(value >> (8 * i));
    return text_buffer_append(buffer, little, bytes);
}

static bool put_text(struct text_buffer *buffer, const char *text, size_t length)
{
    return put_number(buffer, length, 8) && text_buffer_append(buffer, text, length);
}

static bool put_key(struct gguf_writer *writer, const char *key, enum gguf_value type)
{
    writer->metadata_count++;
    return put_text(&writer->metadata, key, strlen(key)) && put_number(&writer->metadata, type, 4);
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

bool gguf_put_uint32(struct gguf_writer *writer, const char *key, uint32_t value)
{
    return put_key(writer, key, GGUF_UINT32) && put_number(&writer->metadata, value, 4);
}

bool gguf_put_float(struct gguf_writer *writer, const char *key, float value)
{
    return put_key(writer, key, GGUF_FLOAT32) && put_number(&writer->metadata, float_bits(value), 4);
}

bool gguf_put_bool(struct gguf_writer *writer, const char *key, bool value)
{
    return put_key(writer, key, GGUF_BOOL) && put_number(&writer->metadata, value, 1);
}

bool gguf_put_string(struct gguf_writer *writer, const char *key, const char *text, size_t length)
{
    return put_key(writer, key, GGUF_STRING) && put_text(&writer->metadata, text, length);
}

bool gguf_begin_array(struct gguf_writer *writer, const char *key, enum gguf_value type, uint64_t count)
{
    return put_key(writer, key, GGUF_ARRAY) && put_number(&writer->metadata, type, 4) &&
           put_number(&writer->metadata, count, 8);
}

bool gguf_append_string(struct gguf_writer *writer, const char *text, size_t length)
{
    return put_text(&writer->metadata, text, length);
}

bool gguf_append_float(struct gguf_writer *writer, float value)
{
    return put_number(&writer->metadata, float_bits(value), 4);
}

bool gguf_append_int32(struct gguf_writer *writer, int32_t value)
{
    return put_number(&writer->metadata, (uint32_t)value, 4);
}

/* ---- tensors */

bool gguf_declare(struct gguf_writer *writer, const char *name, enum gguf_type type, int64_t rows, int64_t columns)
{
    struct text_buffer *tensors = &writer->tensors;
    void *array = writer->declarations;
    if (!buffer_reserve(&array, &writer->capacity, writer->declared + 1, sizeof *writer->declarations)) return false;
    writer->declarations = array;
    uint64_t size = gguf_row_bytes(type, columns) * (uint64_t)(rows ? rows : 1);
    writer->declarations[writer->declared++].size = size;
    /* Dimensions run from the innermost out. */
    bool ok = put_text(tensors, name, strlen(name)) && put_number(tensors, rows ? 2 : 1, 4) &&
              put_number(tensors, (uint64_t)columns, 8) && (!rows || put_number(tensors, (uint64_t)rows, 8)) &&
              put_number(tensors, type, 4) && put_number(tensors, writer->next_offset, 8);
    writer->next_offset += aligned(size);
    return ok;
}

static bool write_bytes(struct gguf_writer *writer, const void *bytes, size_t size)
{
    return fwrite(bytes, 1, size, writer->file) == size || cli_error("%s: %s", writer->path, strerror(errno));
}

static bool pad(struct gguf_writer *writer, uint64_t size)
{
    static const char zeros[ALIGNMENT];
    return write_bytes(writer, zeros, (size_t)(aligned(size) - size));
}

static bool begin_data(struct gguf_writer *writer)
{
    struct text_buffer head = {0};
    bool ok = text_buffer_append(&head, "GGUF", 4) && put_number(&head, VERSION, 4) &&
              put_number(&head, writer->declared, 8) && put_number(&head, writer->metadata_count, 8) &&
              write_bytes(writer, head.bytes, head.length) &&
              write_bytes(writer, writer->metadata.bytes, writer->metadata.length) &&
              write_bytes(writer, writer->tensors.bytes, writer->tensors.length) &&
              pad(writer, head.length + writer->metadata.length + writer->tensors.length);
    text_buffer_free(&head);
    writer->data_began = true;
    return ok;
}

bool gguf_write(struct gguf_writer *writer, const void *bytes, size_t size)
{
    if (!writer->data_began && !begin_data(writer)) return false;
    if (writer->current >= writer->declared || size > writer->declarations[writer->current].size - writer->written)
        return cli_error("%s: more data than was declared", writer->path);
    if (!write_bytes(writer, bytes, size)) return false;
    writer->written += size;
    if (writer->written < writer->declarations[writer->current].size) return true;
    writer->written = 0;
    return pad(writer, writer->declarations[writer->current++].size);
}

bool gguf_commit(struct gguf_writer *writer, uint64_t *size)
{
    if (writer->current != writer->declared) return cli_error("%s: less data than was declared", writer->path);
    off_t end = ftello(writer->file);
    bool ok = end >= 0 && fflush(writer->file) == 0 && fsync(fileno(writer->file)) == 0 &&
              rename(writer->temporary, writer->path) == 0;
    if (!ok) return cli_error("%s: %s", writer->path, strerror(errno));
    writer->committed = true;
    *size = (uint64_t)end;
    return true;
}

void gguf_writer_close(struct gguf_writer *writer)
{
    if (!writer) return;
    if (writer->file) fclose(writer->file);
    if (writer->file && !writer->committed) unlink(writer->temporary);
    text_buffer_free(&writer->metadata);
    text_buffer_free(&writer->tensors);
    free(writer->declarations);
    free(writer->temporary);
    free(writer->path);
    free(writer);
}
