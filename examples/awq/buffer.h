/* Arrays that grow: token ids, and text.  All zero is an empty one. */
#ifndef AWQ_APP_BUFFER_H
#define AWQ_APP_BUFFER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct id_buffer {
    int32_t *ids;
    size_t count, capacity;
};

struct text_buffer {
    char *bytes; /* not zero-terminated */
    size_t length, capacity;
};

/* These say "out of memory" and return false when it is. */
bool id_buffer_append(struct id_buffer *buffer, const int32_t *ids, size_t count);
bool id_buffer_push(struct id_buffer *buffer, int32_t id);
void id_buffer_free(struct id_buffer *buffer);

bool text_buffer_append(struct text_buffer *buffer, const char *bytes, size_t length);
void text_buffer_free(struct text_buffer *buffer);

/* Make room for 'count' elements in all of an array of elements of 'size' bytes, which may move; grows by half at
 * least. */
bool buffer_reserve(void **array, size_t *capacity, size_t count, size_t size);

/* Read a whole file of at most 'limit' bytes into an empty buffer. */
bool text_buffer_read_file(struct text_buffer *buffer, const char *path, uint64_t limit);

/* Whether there is a device, a pipe or the like, which must not be replaced by a file. */
bool is_special_file(const char *path);

/* Write a file so that 'path' is either what it was or the whole of 'bytes'; to a special file it is just written. */
bool write_file(const char *path, const void *bytes, size_t size);

#endif
