/* Reading safetensors files.  Nothing a header says is believed before it has been compared with the file. */
#include "safetensors.h"

#include <jansson.h>
#include <stdlib.h>

enum {
    LENGTH_BYTES = 8,      /* the header's length, little-endian */
    SHOWN_NAME_BYTES = 200 /* of a name in an error: it may be as long as the header */
};

static int32_t dtype_from_name(const char *name)
{
    for (int32_t dtype = 1; awq_dtype_size(dtype) != 0; dtype++)
        if (strcmp(awq_dtype_name(dtype), name) == 0) return dtype;
    return 0;
}

static awq_status fail_tensor(const struct awqi_safetensors_tensor *tensor, awq_status status, const char *problem)
{
    return awqi_fail(status, "%s: tensor \"%.*s\": %s", tensor->file->path, SHOWN_NAME_BYTES, tensor->name, problem);
}

/* ---- JSON */

awq_status awqi_parse_json_object(const void *bytes, uint64_t size, const char *path, struct json_t **object)
{
    json_error_t error = {0};
    *object = json_loadb(size > 0 ? bytes : "", (size_t)size, JSON_REJECT_DUPLICATES, &error);
    if (*object == NULL) {
        /* Where jansson cannot even begin, it says nothing. */
        bool memory = json_error_code(&error) == json_error_out_of_memory || error.text[0] == 0;
        return awqi_fail(memory ? AWQ_ERROR_OUT_OF_MEMORY : AWQ_ERROR_FORMAT, "%s: JSON, byte %d: %s", path,
                         error.position, memory ? "no memory" : error.text);
    }
    if (json_is_object(*object)) return AWQ_OK;
    json_decref(*object);
    *object = NULL;
    return awqi_fail(AWQ_ERROR_FORMAT, "%s: the JSON is not an object", path);
}

char *awqi_json_text(const struct json_t *json, size_t flags)
{
    size_t length = json != NULL ? json_dumpb(json, NULL, 0, flags) : 0;
    char *text = length > 0 ? malloc(length + 1) : NULL;
    if (text == NULL) return NULL;
    text[length] = 0;
    if (json_dumpb(json, text, length, flags) == length) return text;
    free(text);
    return NULL;
}

/* ---- one tensor */

static awq_status parse_dtype(const json_t *entry, struct awqi_safetensors_tensor *tensor)
{
    const char *name = json_string_value(json_object_get(entry, "dtype"));
    if (name == NULL) return fail_tensor(tensor, AWQ_ERROR_FORMAT, "\"dtype\" is missing or not a string");
    tensor->dtype = dtype_from_name(name);
    if (tensor->dtype != 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: tensor \"%.*s\": dtype \"%.32s\" is not known", tensor->file->path,
                     SHOWN_NAME_BYTES, tensor->name, name);
}

/* Sets ndim, shape, and the size in bytes that they ask for. */
static awq_status parse_shape(const json_t *entry, struct awqi_safetensors_tensor *tensor)
{
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return fail_tensor(tensor, AWQ_ERROR_FORMAT, "\"shape\" is missing or not an array");
    if (json_array_size(shape) > AWQ_MAX_DIMS)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: tensor \"%.*s\": %zu dimensions; at most %d are supported",
                         tensor->file->path, SHOWN_NAME_BYTES, tensor->name, json_array_size(shape), AWQ_MAX_DIMS);
    tensor->ndim = (int32_t)json_array_size(shape);
    /* 'reach' leaves zeros out: the strides of an empty tensor must be sane as well. */
    int64_t reach = (int64_t)awq_dtype_size(tensor->dtype);
    bool empty = false;
    for (int32_t i = 0; i < tensor->ndim; i++) {
        const json_t *extent = json_array_get(shape, (size_t)i);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0)
            return fail_tensor(tensor, AWQ_ERROR_FORMAT, "\"shape\" has an entry that is not a whole number");
        tensor->shape[i] = json_integer_value(extent);
        empty |= tensor->shape[i] == 0;
        if (__builtin_mul_overflow(reach, awqi_max64(tensor->shape[i], 1), &reach))
            return fail_tensor(tensor, AWQ_ERROR_FORMAT, "the product of its shape exceeds 63 bits");
    }
    tensor->size = empty ? 0 : (uint64_t)reach;
    return AWQ_OK;
}

static awq_status parse_offsets(const json_t *entry, uint64_t available, struct awqi_safetensors_tensor *tensor)
{
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *last = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(last))
        return fail_tensor(tensor, AWQ_ERROR_FORMAT, "\"data_offsets\" is missing or not two whole numbers");
    long long begin = json_integer_value(first), end = json_integer_value(last);
    if (begin < 0 || end < begin || (unsigned long long)end > available)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\": bytes %lld to %lld of the %llu that the file has",
                         tensor->file->path, SHOWN_NAME_BYTES, tensor->name, begin, end,
                         (unsigned long long)available);
    if ((uint64_t)(end - begin) != tensor->size)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\": %lld bytes where its shape and dtype %s need %llu",
                         tensor->file->path, SHOWN_NAME_BYTES, tensor->name, end - begin,
                         awq_dtype_name(tensor->dtype), (unsigned long long)tensor->size);
    tensor->begin = (uint64_t)begin;
    return AWQ_OK;
}

static awq_status parse_tensor(const json_t *entry, uint64_t available, struct awqi_safetensors_tensor *tensor)
{
    if (!json_is_object(entry)) return fail_tensor(tensor, AWQ_ERROR_FORMAT, "its header entry is not an object");
    awq_status status = parse_dtype(entry, tensor);
    if (status == AWQ_OK) status = parse_shape(entry, tensor);
    if (status == AWQ_OK) status = parse_offsets(entry, available, tensor);
    return status;
}

/* ---- the header */

/* Sets data_start.  Read once: a file that is changed while it is open must not move what was checked. */
static awq_status check_header_length(struct awqi_safetensors *file)
{
    static const char lfs[] = "version https://git-lfs";
    uint64_t size = file->mapping.size;
    if (size >= sizeof lfs && memcmp(file->mapping.data, lfs, sizeof lfs - 1) == 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: a Git LFS pointer, not the file it stands for; run git lfs pull",
                         file->path);
    if (size < LENGTH_BYTES)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: %llu bytes are too few for a safetensors file", file->path,
                         (unsigned long long)size);
    uint64_t length = 0;
    for (int i = LENGTH_BYTES; i-- > 0;) length = length << 8 | file->mapping.data[i];
    if (length > AWQI_SAFETENSORS_HEADER_LIMIT)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: not a safetensors file, or corrupt: a header of %llu bytes, where %llu "
                         "are allowed", file->path, (unsigned long long)length,
                         (unsigned long long)AWQI_SAFETENSORS_HEADER_LIMIT);
    if (length > size - LENGTH_BYTES)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: truncated: a header of %llu bytes in a file of %llu", file->path,
                         (unsigned long long)length, (unsigned long long)size);
    if (length == 0 || file->mapping.data[LENGTH_BYTES] != '{')
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: the header does not begin with {", file->path);
    file->data_start = LENGTH_BYTES + length;
    return AWQ_OK;
}

static awq_status parse_metadata(json_t *header, struct awqi_safetensors *file)
{
    const char *key;
    json_t *value, *metadata = json_object_get(header, "__metadata__");
    if (metadata == NULL) return AWQ_OK;
    if (!json_is_object(metadata)) return awqi_fail(AWQ_ERROR_FORMAT, "%s: __metadata__ is not an object", file->path);
    json_object_foreach(metadata, key, value)
        if (!json_is_string(value))
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: __metadata__ \"%.*s\" is not a string", file->path,
                             SHOWN_NAME_BYTES, key);
    file->metadata = json_incref(metadata);
    json_object_del(header, "__metadata__");
    return AWQ_OK;
}

/* Every entry left in 'header' is a tensor. */
static awq_status parse_tensors(json_t *header, struct awqi_safetensors *file)
{
    const char *name;
    json_t *entry;
    uint64_t name_bytes = 0;
    json_object_foreach(header, name, entry) name_bytes += strlen(name) + 1;
    void *names, *tensors;
    awq_status status = awqi_alloc(file->context, name_bytes, 1, file->path, &names);
    file->names = names;
    if (status == AWQ_OK)
        status = awqi_calloc(file->context, json_object_size(header), sizeof *file->tensors, file->path, &tensors);
    if (status != AWQ_OK) return status;
    file->tensors = tensors;

    uint64_t available = file->mapping.size - file->data_start;
    char *next = file->names;
    json_object_foreach(header, name, entry) {
        struct awqi_safetensors_tensor *tensor = &file->tensors[file->count++];
        size_t size = strlen(name) + 1;
        tensor->file = file;
        tensor->name = memcpy(next, name, size);
        next += size;
        status = parse_tensor(entry, available, tensor);
        if (status != AWQ_OK) return status;
    }
    return AWQ_OK;
}

static int compare_positions(const void *a, const void *b)
{
    const struct awqi_safetensors_tensor *left = a, *right = b;
    if (left->begin != right->begin) return left->begin < right->begin ? -1 : 1;
    return (left->size > right->size) - (left->size < right->size);
}

/* The format has every byte after the header belong to exactly one tensor: nothing hides in a file. */
static awq_status check_coverage(struct awqi_safetensors *file)
{
    qsort(file->tensors, (size_t)file->count, sizeof *file->tensors, compare_positions);
    uint64_t covered = 0, available = file->mapping.size - file->data_start;
    for (int64_t i = 0; i < file->count; i++) {
        const struct awqi_safetensors_tensor *tensor = &file->tensors[i];
        if (tensor->begin < covered)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\" begins at byte %llu, but \"%.*s\" ends at %llu",
                             file->path, SHOWN_NAME_BYTES, tensor->name, (unsigned long long)tensor->begin,
                             SHOWN_NAME_BYTES, tensor[-1].name, (unsigned long long)covered);
        if (tensor->begin > covered)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: bytes %llu to %llu, before tensor \"%.*s\", belong to no tensor",
                             file->path, (unsigned long long)covered, (unsigned long long)tensor->begin,
                             SHOWN_NAME_BYTES, tensor->name);
        covered += tensor->size;
    }
    if (covered < available)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: the last %llu bytes belong to no tensor", file->path,
                         (unsigned long long)(available - covered));
    return AWQ_OK;
}

/* The format promises no alignment; files whose tensors lack it are rare, and those tensors are copied. */
static awq_status locate_data(struct awqi_safetensors *file)
{
    for (int64_t i = 0; i < file->count; i++) {
        struct awqi_safetensors_tensor *tensor = &file->tensors[i];
        tensor->data = file->mapping.data + file->data_start + tensor->begin;
        if (tensor->size == 0 || (uintptr_t)tensor->data % awq_dtype_size(tensor->dtype) == 0) continue;
        awq_status status = awqi_alloc(file->context, tensor->size, 1, tensor->name, &tensor->copy);
        if (status != AWQ_OK) return awqi_fail_in(status, "%s: copying an unaligned tensor", file->path);
        tensor->data = memcpy(tensor->copy, tensor->data, (size_t)tensor->size);
    }
    return AWQ_OK;
}

static awq_status parse_header(struct awqi_safetensors *file)
{
    awq_status status = check_header_length(file);
    if (status != AWQ_OK) return status;
    json_t *header;
    status = awqi_parse_json_object(file->mapping.data + LENGTH_BYTES, file->data_start - LENGTH_BYTES, file->path,
                                    &header);
    if (status != AWQ_OK) return status;
    status = parse_metadata(header, file);
    if (status == AWQ_OK) status = parse_tensors(header, file);
    json_decref(header);
    return status;
}

awq_status awqi_safetensors_open(awq_context *context, const char *path, struct awqi_safetensors *file)
{
    *file = (struct awqi_safetensors){.context = context};
    awq_status status = awqi_strdup(context, path, &file->path);
    if (status == AWQ_OK) status = awqi_map_file(path, &file->mapping);
    if (status == AWQ_OK) status = parse_header(file);
    if (status == AWQ_OK) status = check_coverage(file);
    if (status == AWQ_OK) status = locate_data(file);
    if (status != AWQ_OK) awqi_safetensors_close(file);
    return status;
}

void awqi_safetensors_close(struct awqi_safetensors *file)
{
    for (int64_t i = 0; i < file->count; i++) awqi_free(file->context, file->tensors[i].copy);
    awqi_free(file->context, file->tensors);
    awqi_free(file->context, file->names);
    json_decref(file->metadata);
    awqi_unmap_file(&file->mapping);
    awqi_free(file->context, file->path);
    *file = (struct awqi_safetensors){0};
}
