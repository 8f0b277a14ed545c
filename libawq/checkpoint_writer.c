/* Writing checkpoints.  Tensors stream to the disk as they come: each shard begins with room for its header, which is
 * filled in when the shard ends.
 *
 * The format has no holes between tensors, so one whose bytes do not divide by eight may leave the next unaligned.
 * That is valid, and readers cope; weights and their scales and zeros hardly ever have such sizes. */
#include "directory.h"
#include "safetensors.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum {
    LENGTH_BYTES = 8,
    HEADER_BYTES_PER_TENSOR = 192, /* a long name, dtype, shape, offsets */
    HEADER_BYTES = 128,            /* the rest of a header */
    DATA_ALIGNMENT = 64,           /* of the first tensor in a shard */
    DEFAULT_TENSORS = 1024,
    GATHER_BYTES = 1 << 20, /* written at once of a tensor that is not contiguous; a multiple of every element size */
    SHOWN_NAME_BYTES = 200
};

#define DEFAULT_SHARD_BYTES UINT64_C(5000000000)

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";
static const char header_start[] = "{\"__metadata__\":{\"format\":\"pt\"}";

struct awq_checkpoint_writer {
    awq_context *context;
    struct awqi_atomic_directory directory;
    uint64_t shard_bytes;
    json_t *shard_of;    /* the number of the shard, from 1, of every tensor added */
    uint64_t total_size; /* bytes of all tensors */
    int64_t shards;      /* begun so far; the last is being written while fd >= 0 */
    int fd;
    char *shard_path; /* of the last shard, for free() */
    char *header;     /* of the last shard, without the closing brace */
    uint64_t header_capacity, header_length;
    uint64_t data_length; /* bytes of the tensors in the last shard */
    bool failed;          /* a shard could not be finished: what was added is lost */
    bool finished;        /* all files are complete and only the directory's name is missing */
};

/* "directory/name" with the name formatted, for free(). */
__attribute__((format(printf, 3, 4)))
static awq_status path_inside(const awq_checkpoint_writer *writer, char **path, const char *format, ...)
{
    char *name;
    va_list arguments;
    va_start(arguments, format);
    int length = vasprintf(&name, format, arguments);
    va_end(arguments);
    *path = NULL;
    if (length >= 0) {
        if (asprintf(path, "%s/%s", writer->directory.temporary, name) < 0) *path = NULL;
        free(name);
    }
    if (*path != NULL) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for a path", writer->directory.path);
}

/* ---- one shard */

/* Every shard is "model-<number>.safetensors" until the number of shards is known. */
static awq_status begin_shard(awq_checkpoint_writer *writer)
{
    char *path;
    awq_status status = path_inside(writer, &path, "model-%05" PRId64 ".safetensors", writer->shards + 1);
    if (status != AWQ_OK) return status;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = awqi_fail_io("create", path);
        free(path);
        return status;
    }
    free(writer->shard_path);
    writer->shard_path = path;
    writer->fd = fd;
    writer->shards++;
    writer->data_length = 0;
    writer->header_length = sizeof header_start - 1;
    memcpy(writer->header, header_start, sizeof header_start - 1);
    return AWQ_OK;
}

static awq_status seek_to(awq_checkpoint_writer *writer, uint64_t position)
{
    if (lseek(writer->fd, (off_t)position, SEEK_SET) >= 0) return AWQ_OK;
    return awqi_fail_io("seek in", writer->shard_path);
}

static awq_status write_header(awq_checkpoint_writer *writer)
{
    unsigned char length[LENGTH_BYTES];
    uint64_t capacity = writer->header_capacity;
    for (int i = 0; i < LENGTH_BYTES; i++) length[i] = (unsigned char)(capacity >> 8 * i);
    writer->header[writer->header_length++] = '}';
    memset(writer->header + writer->header_length, ' ', (size_t)(capacity - writer->header_length));
    awq_status status = seek_to(writer, 0);
    if (status == AWQ_OK) status = awqi_write_all(writer->fd, length, sizeof length, writer->shard_path);
    if (status == AWQ_OK) status = awqi_write_all(writer->fd, writer->header, capacity, writer->shard_path);
    return status;
}

static awq_status finish_shard(awq_checkpoint_writer *writer)
{
    /* A tensor that failed half way may have left bytes behind the last one that did not. */
    uint64_t size = LENGTH_BYTES + writer->header_capacity + writer->data_length;
    awq_status status = AWQ_OK;
    if (ftruncate(writer->fd, (off_t)size) != 0) status = awqi_fail_io("set the size of", writer->shard_path);
    if (status == AWQ_OK) status = write_header(writer);
    if (status == AWQ_OK) status = awqi_close_synced(&writer->fd, writer->shard_path);
    writer->failed = status != AWQ_OK;
    return status;
}

/* ---- a tensor */

/* ',"name":{..}', for free(). */
static awq_status format_entry(const char *name, const awq_tensor *tensor, uint64_t begin, uint64_t size, char **entry)
{
    static const char format[] = ",%s:{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}";
    char shape[AWQ_MAX_DIMS * 24] = "";
    size_t length = 0;
    *entry = NULL;
    for (int32_t i = 0; i < tensor->ndim; i++)
        length += (size_t)snprintf(shape + length, sizeof shape - length, "%s%" PRId64, i > 0 ? "," : "",
                                   tensor->shape[i]);
    json_error_t error;
    json_t *text = json_pack_ex(&error, 0, "s", name);
    char *quoted = awqi_json_text(text, JSON_ENCODE_ANY);
    json_decref(text);
    if (text == NULL && json_error_code(&error) == json_error_invalid_utf8)
        return awqi_fail(AWQ_ERROR_INVALID, "tensor name \"%.*s\" is not valid UTF-8", SHOWN_NAME_BYTES, name);
    if (quoted != NULL &&
        asprintf(entry, format, quoted, awq_dtype_name(tensor->dtype), shape, begin, begin + size) < 0)
        *entry = NULL;
    free(quoted);
    if (*entry != NULL) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "tensor \"%.*s\": no memory for its header", SHOWN_NAME_BYTES, name);
}

/* Make sure that a shard is open that takes the tensor; *entry is rewritten when that is a new one. */
static awq_status make_room(awq_checkpoint_writer *writer, const char *name, const awq_tensor *tensor, uint64_t size,
                            char **entry)
{
    size_t length = strlen(*entry) + 1; /* with the brace that comes after the last */
    if (length > writer->header_capacity - (sizeof header_start - 1))
        return awqi_fail(AWQ_ERROR_INVALID, "tensor name \"%.*s\": %zu bytes are too long for a header with room for "
                         "%" PRIu64 "; expect more tensors", SHOWN_NAME_BYTES, name, strlen(name),
                         writer->header_capacity);
    uint64_t end = LENGTH_BYTES + writer->header_capacity + writer->data_length + size;
    if (writer->fd >= 0 && length <= writer->header_capacity - writer->header_length &&
        (writer->data_length == 0 || end <= writer->shard_bytes))
        return AWQ_OK;
    awq_status status = AWQ_OK;
    if (writer->fd >= 0) status = finish_shard(writer);
    if (status == AWQ_OK) status = begin_shard(writer);
    if (status != AWQ_OK) return status;
    free(*entry);
    return format_entry(name, tensor, 0, size, entry);
}

/* Write elements in row-major order whatever the strides. */
static awq_status write_gathered(awq_checkpoint_writer *writer, const awq_tensor *tensor)
{
    void *memory;
    awq_status status = awqi_alloc(writer->context, GATHER_BYTES, 1, "write buffer", &memory);
    if (status != AWQ_OK) return status;
    unsigned char *buffer = memory;
    size_t size = awq_dtype_size(tensor->dtype), used = 0;
    int64_t columns = tensor->shape[tensor->ndim - 1], rows = awqi_tensor_elements(tensor) / columns;
    int64_t step = awqi_tensor_inner_stride(tensor) * (int64_t)size;
    for (int64_t row = 0; row < rows && status == AWQ_OK; row++) {
        const unsigned char *src = awqi_tensor_row(tensor, row);
        for (int64_t column = 0; column < columns && status == AWQ_OK; column++) {
            memcpy(buffer + used, src + column * step, size);
            used += size;
            if (used < GATHER_BYTES) continue;
            status = awqi_write_all(writer->fd, buffer, used, writer->shard_path);
            used = 0;
        }
    }
    if (status == AWQ_OK) status = awqi_write_all(writer->fd, buffer, used, writer->shard_path);
    awqi_free(writer->context, buffer);
    return status;
}

static awq_status write_data(awq_checkpoint_writer *writer, const awq_tensor *tensor, uint64_t size)
{
    if (size == 0) return AWQ_OK;
    awq_status status = seek_to(writer, LENGTH_BYTES + writer->header_capacity + writer->data_length);
    if (status != AWQ_OK) return status;
    if (awqi_tensor_is_contiguous(tensor))
        return awqi_write_all(writer->fd, awqi_tensor_data(tensor), size, writer->shard_path);
    return write_gathered(writer, tensor);
}

static awq_status check_addition(const awq_checkpoint_writer *writer, const char *name, const awq_tensor *tensor)
{
    if (name == NULL || name[0] == 0) return awqi_fail(AWQ_ERROR_INVALID, "a tensor must have a name");
    if (strcmp(name, "__metadata__") == 0)
        return awqi_fail(AWQ_ERROR_INVALID, "tensor name \"__metadata__\" has a meaning of its own in the format");
    awq_status status = awqi_check_tensor(tensor, -1, 0, name);
    if (status != AWQ_OK) return status;
    if (tensor->device_type != AWQ_DEVICE_CPU)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "tensor \"%.*s\" is not in host memory; copy it there first",
                         SHOWN_NAME_BYTES, name);
    if (json_object_get(writer->shard_of, name) != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "tensor \"%.*s\" was added before", SHOWN_NAME_BYTES, name);
    return AWQ_OK;
}

static awq_status check_open(const awq_checkpoint_writer *writer, const char *function)
{
    if (writer == NULL) return awqi_fail(AWQ_ERROR_INVALID, "%s: writer is NULL", function);
    if (writer->failed)
        return awqi_fail(AWQ_ERROR_STATE, "%s: an earlier failure spoilt %s", function, writer->directory.path);
    if (writer->finished && writer->directory.temporary == NULL)
        return awqi_fail(AWQ_ERROR_STATE, "%s: %s has been committed", function, writer->directory.path);
    return AWQ_OK;
}

static awq_status check_unfinished(const awq_checkpoint_writer *writer, const char *function)
{
    awq_status status = check_open(writer, function);
    if (status == AWQ_OK && writer->finished)
        return awqi_fail(AWQ_ERROR_STATE, "%s: %s can only be committed again", function, writer->directory.path);
    return status;
}

awq_status awq_checkpoint_writer_add(awq_checkpoint_writer *writer, const char *name, const awq_tensor *tensor)
{
    awq_status status = check_unfinished(writer, "awq_checkpoint_writer_add");
    if (status == AWQ_OK) status = check_addition(writer, name, tensor);
    if (status != AWQ_OK) return status;
    char *entry;
    uint64_t size = (uint64_t)awqi_tensor_elements(tensor) * awq_dtype_size(tensor->dtype);
    status = format_entry(name, tensor, writer->data_length, size, &entry);
    if (status == AWQ_OK) status = make_room(writer, name, tensor, size, &entry);
    if (status == AWQ_OK) status = write_data(writer, tensor, size);
    if (status == AWQ_OK && json_object_set_new(writer->shard_of, name, json_integer(writer->shards)) != 0)
        status = awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "tensor \"%.*s\": no memory for its name", SHOWN_NAME_BYTES, name);
    if (status == AWQ_OK) {
        size_t length = strlen(entry);
        memcpy(writer->header + writer->header_length, entry, length);
        writer->header_length += length;
        writer->data_length += size;
        writer->total_size += size;
    }
    free(entry);
    return status;
}

/* ---- other files */

/* Names that shards and their index have or will get. */
static bool is_reserved(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name), suffix_length = sizeof suffix - 1;
    return strcmp(name, index_name) == 0 ||
           (length >= suffix_length && strcmp(name + length - suffix_length, suffix) == 0);
}

static awq_status write_file(const awq_checkpoint_writer *writer, const char *name, const void *bytes, uint64_t size)
{
    char *path;
    awq_status status = path_inside(writer, &path, "%s", name);
    if (status != AWQ_OK) return status;
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0 && errno == EEXIST) {
        status = awqi_fail(AWQ_ERROR_INVALID, "file \"%s\" was added before", name);
    } else if (fd < 0) {
        status = awqi_fail_io("create", path);
    } else {
        status = awqi_write_all(fd, bytes, size, path);
        if (status == AWQ_OK)
            status = awqi_close_synced(&fd, path);
        else
            close(fd);
        if (status != AWQ_OK) unlink(path);
    }
    free(path);
    return status;
}

awq_status awq_checkpoint_writer_add_file(awq_checkpoint_writer *writer, const char *name, const void *bytes,
                                          uint64_t size)
{
    awq_status status = check_unfinished(writer, "awq_checkpoint_writer_add_file");
    if (status != AWQ_OK) return status;
    if (name == NULL || name[0] == 0 || strchr(name, '/') != NULL || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return awqi_fail(AWQ_ERROR_INVALID, "\"%.*s\" is no name for a file in a model directory", SHOWN_NAME_BYTES,
                         name != NULL ? name : "");
    if (is_reserved(name))
        return awqi_fail(AWQ_ERROR_INVALID, "file \"%.*s\": that kind of file is made of the tensors added",
                         SHOWN_NAME_BYTES, name);
    if (bytes == NULL && size > 0) return awqi_fail(AWQ_ERROR_INVALID, "file \"%s\": bytes is NULL", name);
    return write_file(writer, name, bytes, size);
}

/* ---- the end */

static awq_status write_index(const awq_checkpoint_writer *writer)
{
    const char *tensor;
    json_t *shard, *weight_map = json_object();
    bool complete = weight_map != NULL;
    json_object_foreach(writer->shard_of, tensor, shard) {
        json_t *file = json_sprintf("model-%05" PRId64 "-of-%05" PRId64 ".safetensors",
                                    (int64_t)json_integer_value(shard), writer->shards);
        complete &= json_object_set_new(weight_map, tensor, file) == 0;
    }
    json_t *index = json_pack("{s:{s:I},s:O}", "metadata", "total_size", (json_int_t)writer->total_size, "weight_map",
                              weight_map);
    char *text = complete ? awqi_json_text(index, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL;
    json_decref(index);
    json_decref(weight_map);
    if (text == NULL)
        return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for the index", writer->directory.path);
    awq_status status = write_file(writer, index_name, text, strlen(text));
    free(text);
    return status;
}

static awq_status name_shard(const awq_checkpoint_writer *writer, int64_t shard)
{
    char *from, *to = NULL;
    awq_status status = path_inside(writer, &from, "model-%05" PRId64 ".safetensors", shard);
    if (status == AWQ_OK && writer->shards == 1)
        status = path_inside(writer, &to, "%s", single_name);
    else if (status == AWQ_OK)
        status = path_inside(writer, &to, "model-%05" PRId64 "-of-%05" PRId64 ".safetensors", shard, writer->shards);
    if (status == AWQ_OK && rename(from, to) != 0) status = awqi_fail_io("rename", from);
    free(from);
    free(to);
    return status;
}

static awq_status finish_files(awq_checkpoint_writer *writer)
{
    awq_status status = AWQ_OK;
    if (writer->shards == 0) status = begin_shard(writer);
    if (status == AWQ_OK && writer->fd >= 0) status = finish_shard(writer);
    for (int64_t i = 1; i <= writer->shards && status == AWQ_OK; i++) status = name_shard(writer, i);
    if (status == AWQ_OK && writer->shards > 1) status = write_index(writer);
    writer->finished = status == AWQ_OK;
    writer->failed = status != AWQ_OK;
    return status;
}

awq_status awq_checkpoint_writer_commit(awq_checkpoint_writer *writer)
{
    awq_status status = check_open(writer, "awq_checkpoint_writer_commit");
    if (status == AWQ_OK && !writer->finished) status = finish_files(writer);
    if (status == AWQ_OK) status = awqi_atomic_directory_commit(&writer->directory);
    return status;
}

/* ---- the handle */

static uint64_t header_room(int64_t tensors)
{
    const int64_t most = (AWQI_SAFETENSORS_HEADER_LIMIT - HEADER_BYTES - DATA_ALIGNMENT) / HEADER_BYTES_PER_TENSOR;
    uint64_t bytes = LENGTH_BYTES + HEADER_BYTES + (uint64_t)awqi_min64(tensors, most) * HEADER_BYTES_PER_TENSOR;
    return (bytes + DATA_ALIGNMENT - 1) / DATA_ALIGNMENT * DATA_ALIGNMENT - LENGTH_BYTES;
}

static awq_status writer_open(awq_checkpoint_writer *writer, const char *path,
                              const awq_checkpoint_writer_options *options)
{
    writer->fd = -1;
    writer->shard_bytes = options->shard_bytes != 0 ? options->shard_bytes : DEFAULT_SHARD_BYTES;
    writer->header_capacity = header_room(options->expected_tensors != 0 ? options->expected_tensors : DEFAULT_TENSORS);
    writer->shard_of = json_object();
    if (writer->shard_of == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for a writer", path);
    void *memory;
    awq_status status = awqi_alloc(writer->context, writer->header_capacity, 1, "header of a shard", &memory);
    writer->header = memory;
    if (status != AWQ_OK) return status;
    return awqi_atomic_directory_open(writer->context, path, options->flags & AWQ_WRITER_REPLACE, &writer->directory);
}

awq_status awq_checkpoint_writer_create(awq_context *context, const char *path,
                                        const awq_checkpoint_writer_options *options, awq_checkpoint_writer **writer)
{
    if (writer == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_writer_create: writer is NULL");
    *writer = NULL;
    if (context == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_writer_create: %s is NULL", context ? "path" : "context");
    awq_checkpoint_writer_options known;
    awq_status status = awqi_import(&known, sizeof known, options, "awq_checkpoint_writer_options");
    if (status == AWQ_OK) status = awqi_check_flags(known.flags, AWQ_WRITER_REPLACE, "awq_checkpoint_writer_options");
    if (status != AWQ_OK) return status;
    if (known.expected_tensors < 0)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_writer_options: %lld expected tensors",
                         (long long)known.expected_tensors);

    void *memory;
    status = awqi_calloc(context, 1, sizeof **writer, "checkpoint writer", &memory);
    if (status != AWQ_OK) return status;
    awq_checkpoint_writer *created = memory;
    created->context = awqi_context_retain(context);
    status = writer_open(created, path, &known);
    if (status != AWQ_OK) {
        awq_checkpoint_writer_destroy(created);
        return status;
    }
    *writer = created;
    return AWQ_OK;
}

void awq_checkpoint_writer_destroy(awq_checkpoint_writer *writer)
{
    if (writer == NULL) return;
    awq_context *context = writer->context;
    if (writer->fd >= 0) close(writer->fd);
    awqi_atomic_directory_discard(&writer->directory);
    json_decref(writer->shard_of);
    free(writer->shard_path);
    awqi_free(context, writer->header);
    awqi_free(context, writer);
    awqi_context_release(context);
}
