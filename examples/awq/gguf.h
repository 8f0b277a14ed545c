/* GGUF, the files of llama.cpp (github.com/ggml-org/ggml, docs/gguf.md): metadata and tensors in blocks of 32 weights.
 *
 * Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_GGUF_H
#define AWQ_APP_GGUF_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- gguf_blocks.c */

/* Tensor types, by the numbers that files have. */
enum gguf_type { GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q4_1 = 3, GGUF_Q8_0 = 8 };

enum { GGUF_BLOCK = 32 }; /* weights of a block of the types with a Q */

/* "Q4_0"; NULL for a type that this program does not know. */
const char *gguf_type_name(uint32_t type);

/* Bytes of a row; 0 when its length is no multiple of the type's block, or the type is not known. */
uint64_t gguf_row_bytes(uint32_t type, int64_t count);

/* A row as ggml's reference quantisers round it, and back.  count is a multiple of GGUF_BLOCK for types with a Q. */
void gguf_encode_row(enum gguf_type type, const float *values, int64_t count, void *row);
void gguf_decode_row(enum gguf_type type, const void *row, int64_t count, float *values);

/* One block of codes 0 .. 15: w = (code - 8) scale in Q4_0, code scale + minimum in Q4_1. */
void gguf_encode_codes(enum gguf_type type, const uint8_t *codes, float scale, float minimum, void *block);

/* ---- gguf_writer.c */

/* Writes a file front to back: metadata, then declarations of all tensors, then their data in the same order.  It takes
 * its name when it is complete. */
struct gguf_writer;

/* Types of metadata, by the numbers that files have. */
enum gguf_value { GGUF_UINT32 = 4, GGUF_INT32 = 5, GGUF_FLOAT32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9 };

bool gguf_writer_open(const char *path, struct gguf_writer **writer);
bool gguf_put_uint32(struct gguf_writer *writer, const char *key, uint32_t value);
bool gguf_put_float(struct gguf_writer *writer, const char *key, float value);
bool gguf_put_bool(struct gguf_writer *writer, const char *key, bool value);
bool gguf_put_string(struct gguf_writer *writer, const char *key, const char *text, size_t length);

/* An array: its elements follow, one call each. */
bool gguf_begin_array(struct gguf_writer *writer, const char *key, enum gguf_value type, uint64_t count);
bool gguf_append_string(struct gguf_writer *writer, const char *text, size_t length);
bool gguf_append_float(struct gguf_writer *writer, float value);
bool gguf_append_int32(struct gguf_writer *writer, int32_t value);

/* [rows][columns], or [columns] when rows is 0. */
bool gguf_declare(struct gguf_writer *writer, const char *name, enum gguf_type type, int64_t rows, int64_t columns);

/* Append to the data of the tensor at hand; the next begins where its declared size ends. */
bool gguf_write(struct gguf_writer *writer, const void *bytes, size_t size);
bool gguf_commit(struct gguf_writer *writer, uint64_t *size);
void gguf_writer_close(struct gguf_writer *writer); /* without commit: nothing is left */

/* ---- gguf_reader.c */

enum { GGUF_MAX_DIMS = 4 };

struct gguf_tensor {
    char *name;
    uint32_t type;
    int32_t ndim;
    int64_t shape[GGUF_MAX_DIMS]; /* rows first, columns last */
    const unsigned char *data;    /* NULL for a type that is not known */
    uint64_t bytes;
};

struct gguf_file {
    json_t *metadata; /* by key; long arrays only as {"type", "count"} */
    struct gguf_tensor *tensors;
    size_t count, capacity;
    void *mapping;
    size_t size;
    uint32_t version;
};

/* Map and check a file: every count, length and offset lies within it. */
bool gguf_open(const char *path, struct gguf_file *file);
void gguf_close(struct gguf_file *file);

/* NULL: there is none of that name. */
const struct gguf_tensor *gguf_find(const struct gguf_file *file, const char *name);

#endif
