/* Growing arrays and whole files. */
#include "buffer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli.h"

bool buffer_reserve(void **array, size_t *capacity, size_t count, size_t size)
{
    if (count <= *capacity) return true;
    size_t grown = *capacity + *capacity / 2;
    if (grown < count) grown = count;
    if (grown < 16) grown = 16;
    void *moved = grown > SIZE_MAX / size ? NULL : realloc(*array, grown * size);
    if (!moved) return cli_error("out of memory");
    *array = moved;
    *capacity = grown;
    return true;
}

bool id_buffer_append(struct id_buffer *buffer, const int32_t *ids, size_t count)
{
    void *array = buffer->ids;
    if (count > SIZE_MAX - buffer->count) return cli_error("out of memory");
    if (!buffer_reserve(&array, &buffer->capacity, buffer->count + count, sizeof *ids)) return false;
    buffer->ids = array;
    if (count) memcpy(buffer->ids + buffer->count, ids, count * sizeof *ids);
    buffer->count += count;
    return true;
}

bool id_buffer_push(struct id_buffer *buffer, int32_t id)
{
    return id_buffer_append(buffer, &id, 1);
}

void id_buffer_free(struct id_buffer *buffer)
{
    free(buffer->ids);
    *buffer = (struct id_buffer){0};
}

bool text_buffer_append(struct text_buffer *buffer, const char *bytes, size_t length)
{
    void *array = buffer->bytes;
    if (length > SIZE_MAX - buffer->length) return cli_error("out of memory");
    if (!buffer_reserve(&array, &buffer->capacity, buffer->length + length, 1)) return false;
    buffer->bytes = array;
    if (length) memcpy(buffer->bytes + buffer->length, bytes, length);
    buffer->length += length;
    return true;
}

void text_buffer_free(struct text_buffer *buffer)
{
    free(buffer->bytes);
    *buffer = (struct text_buffer){0};
}

bool text_buffer_read_file(struct text_buffer *buffer, const char *path, uint64_t limit)
{
    char chunk[65536];
    size_t count;
    bool done = false;
    struct stat status;
    FILE *file = fopen(path, "rb");
    if (!file) return cli_error("%s: %s", path, strerror(errno));
    if (fstat(fileno(file), &status) == 0 && S_ISDIR(status.st_mode)) {
        fclose(file);
        return cli_error("%s: is a directory, where a file is needed", path);
    }
    while ((count = fread(chunk, 1, sizeof chunk, file)) > 0) {
        if (count > limit || buffer->length > limit - count) {
            cli_error("%s: larger than %s, the most that is read", path, cli_bytes(limit).text);
            goto out;
        }
        if (!text_buffer_append(buffer, chunk, count)) goto out;
    }
    if (ferror(file)) {
        cli_error("%s: %s", path, strerror(errno));
        goto out;
    }
    done = true;
out:
    fclose(file);
    if (!done) text_buffer_free(buffer);
    return done;
}

static bool write_all(int file, const char *bytes, size_t size)
{
    while (size > 0) {
        ssize_t count = write(file, bytes, size);
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) return false;
        bytes += count;
        size -= (size_t)count;
    }
    return true;
}

/* A device or a pipe is written to; a file that took its place would be no use to anyone. */
static bool write_special(const char *path, const void *bytes, size_t size)
{
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    bool done = file >= 0 && write_all(file, bytes, size);
    const int reason = errno;
    if (file >= 0) close(file);
    return done || cli_error("%s: %s", path, strerror(reason));
}

bool is_special_file(const char *path)
{
    struct stat status;
    return stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

bool write_file(const char *path, const void *bytes, size_t size)
{
    char *temporary;
    if (is_special_file(path)) return write_special(path, bytes, size);
    if (asprintf(&temporary, "%s.%ld.tmp", path, (long)getpid()) < 0) return cli_error("out of memory");
    int file = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    bool done = file >= 0 && write_all(file, bytes, size) && fsync(file) == 0;
    int reason = errno;
    if (file >= 0 && close(file) != 0 && done) {
        reason = errno;
        done = false;
    }
    if (done && rename(temporary, path) != 0) {
        reason = errno;
        done = false;
    }
    if (!done) {
        if (file >= 0) unlink(temporary);
        cli_error("%s: %s", path, strerror(reason));
    }
    free(temporary);
    return done;
}
