/* Checkpoints: one safetensors file, or a directory of them, as one set of named tensors. */
#include "safetensors.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SHOWN_NAME_BYTES = 200 };

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";
static const char suffix[] = ".safetensors";

struct awq_checkpoint {
    awq_context *context;
    struct awqi_safetensors *files;
    int64_t file_count;
    const struct awqi_safetensors_tensor **tensors; /* of all files, by name */
    int64_t tensor_count;
};

/* A growing list of file names: those of a directory are not known before it has been read. */
struct names {
    char **items;
    size_t count;
};

static void names_free(struct names *names)
{
    for (size_t i = 0; i < names->count; i++) free(names->items[i]);
    free(names->items);
}

static awq_status names_add(struct names *names, const char *name)
{
    char **items = realloc(names->items, (names->count + 1) * sizeof *items);
    if (items != NULL) names->items = items;
    char *copy = items != NULL ? strdup(name) : NULL;
    if (copy == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for a file name", name);
    names->items[names->count++] = copy;
    return AWQ_OK;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void names_sort_unique(struct names *names)
{
    if (names->count == 0) return;
    qsort(names->items, names->count, sizeof *names->items, compare_strings);
    size_t kept = 1;
    for (size_t i = 1; i < names->count; i++) {
        if (strcmp(names->items[i], names->items[kept - 1]) == 0)
            free(names->items[i]);
        else
            names->items[kept++] = names->items[i];
    }
    names->count = kept;
}

/* "directory/name", for free(). */
static awq_status join_path(const char *directory, const char *name, char **path)
{
    size_t length = strlen(directory);
    const char *slash = length > 0 && directory[length - 1] == '/' ? "" : "/";
    if (asprintf(path, "%s%s%s", directory, slash, name) >= 0) return AWQ_OK;
    *path = NULL;
    return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for a path", directory);
}

/* ---- the index of a sharded checkpoint */

/* A shard lies in the directory of its index and nowhere else. */
static bool is_plain_name(const char *name)
{
    return name[0] != 0 && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strchr(name, '/') == NULL;
}

static awq_status check_weight_map(json_t *weight_map, const char *path)
{
    const char *tensor;
    json_t *shard;
    if (!json_is_object(weight_map) || json_object_size(weight_map) == 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: \"weight_map\" is missing, empty or not an object", path);
    json_object_foreach(weight_map, tensor, shard)
        if (!json_is_string(shard) || !is_plain_name(json_string_value(shard)))
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\": \"%.*s\" is no file beside the index", path,
                             SHOWN_NAME_BYTES, tensor, SHOWN_NAME_BYTES,
                             json_is_string(shard) ? json_string_value(shard) : "");
    return AWQ_OK;
}

static awq_status read_weight_map(const char *path, json_t **weight_map)
{
    struct awqi_mapping mapping;
    json_t *index = NULL;
    awq_status status = awqi_map_file(path, &mapping);
    if (status == AWQ_OK && mapping.size > AWQI_SAFETENSORS_HEADER_LIMIT)
        status = awqi_fail(AWQ_ERROR_FORMAT, "%s: %llu bytes are too many for an index", path,
                           (unsigned long long)mapping.size);
    /* An empty file has no mapping; the parser says what is wrong with it. */
    const void *text = mapping.data != NULL ? (const void *)mapping.data : "";
    if (status == AWQ_OK) status = awqi_parse_json_object(text, mapping.size, path, &index);
    awqi_unmap_file(&mapping);
    if (status == AWQ_OK) status = check_weight_map(json_object_get(index, "weight_map"), path);
    if (status == AWQ_OK) *weight_map = json_incref(json_object_get(index, "weight_map"));
    json_decref(index);
    return status;
}

static awq_status list_shards(json_t *weight_map, struct names *names)
{
    const char *tensor;
    json_t *shard;
    const char *previous = "";
    awq_status status = AWQ_OK;
    json_object_foreach(weight_map, tensor, shard) {
        /* Neighbours mostly share a file, so this keeps the list short. */
        if (status == AWQ_OK && strcmp(json_string_value(shard), previous) != 0)
            status = names_add(names, json_string_value(shard));
        previous = json_string_value(shard);
    }
    names_sort_unique(names);
    return status;
}

/* The index and the files' headers must name the same tensors in the same places. */
static awq_status compare_with_index(const awq_checkpoint *checkpoint, json_t *weight_map, const char *path)
{
    for (int64_t i = 0; i < checkpoint->tensor_count; i++) {
        const struct awqi_safetensors_tensor *tensor = checkpoint->tensors[i];
        const char *shard = json_string_value(json_object_get(weight_map, tensor->name));
        if (shard == NULL)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\" is not in the index %s", tensor->file->path,
                             SHOWN_NAME_BYTES, tensor->name, path);
        if (strcmp(shard, strrchr(tensor->file->path, '/') + 1) != 0)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\" is in %s, not in \"%.*s\"", path, SHOWN_NAME_BYTES,
                             tensor->name, tensor->file->path, SHOWN_NAME_BYTES, shard);
    }
    const char *name;
    json_t *shard;
    awq_tensor view;
    json_object_foreach(weight_map, name, shard)
        if (awq_checkpoint_get(checkpoint, name, &view) != AWQ_OK)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: tensor \"%.*s\" is missing in \"%.*s\"", path, SHOWN_NAME_BYTES,
                             name, SHOWN_NAME_BYTES, json_string_value(shard));
    return AWQ_OK;
}

/* ---- opening */

static int compare_names(const void *a, const void *b)
{
    const struct awqi_safetensors_tensor *const *left = a, *const *right = b;
    return strcmp((*left)->name, (*right)->name);
}

static awq_status sort_tensors(awq_checkpoint *checkpoint)
{
    int64_t count = 0;
    for (int64_t i = 0; i < checkpoint->file_count; i++) count += checkpoint->files[i].count;
    void *memory;
    awq_status status =
        awqi_alloc(checkpoint->context, (uint64_t)count, sizeof *checkpoint->tensors, "table of tensors", &memory);
    if (status != AWQ_OK) return status;
    checkpoint->tensors = memory;
    for (int64_t i = 0; i < checkpoint->file_count; i++)
        for (int64_t j = 0; j < checkpoint->files[i].count; j++)
            checkpoint->tensors[checkpoint->tensor_count++] = &checkpoint->files[i].tensors[j];
    qsort(checkpoint->tensors, (size_t)count, sizeof *checkpoint->tensors, compare_names);
    for (int64_t i = 1; i < count; i++)
        if (strcmp(checkpoint->tensors[i - 1]->name, checkpoint->tensors[i]->name) == 0)
            return awqi_fail(AWQ_ERROR_FORMAT, "tensor \"%.*s\" is both in %s and in %s", SHOWN_NAME_BYTES,
                             checkpoint->tensors[i]->name, checkpoint->tensors[i - 1]->file->path,
                             checkpoint->tensors[i]->file->path);
    return AWQ_OK;
}

/* 'paths' in the order in which they are to be known. */
static awq_status open_files(awq_checkpoint *checkpoint, char *const *paths, size_t count)
{
    void *memory;
    awq_status status = awqi_calloc(checkpoint->context, count, sizeof *checkpoint->files, "table of files", &memory);
    checkpoint->files = memory;
    for (size_t i = 0; i < count && status == AWQ_OK; i++) {
        status = awqi_safetensors_open(checkpoint->context, paths[i], &checkpoint->files[i]);
        if (status == AWQ_OK) checkpoint->file_count++;
    }
    return status == AWQ_OK ? sort_tensors(checkpoint) : status;
}

static awq_status open_names(awq_checkpoint *checkpoint, const char *directory, const struct names *names)
{
    struct names paths = {0};
    awq_status status = AWQ_OK;
    for (size_t i = 0; i < names->count && status == AWQ_OK; i++) {
        char *path;
        status = join_path(directory, names->items[i], &path);
        if (status == AWQ_OK) status = names_add(&paths, path);
        free(path);
    }
    if (status == AWQ_OK) status = open_files(checkpoint, paths.items, paths.count);
    names_free(&paths);
    return status;
}

static awq_status open_indexed(awq_checkpoint *checkpoint, const char *directory, const char *index_path)
{
    json_t *weight_map = NULL;
    struct names names = {0};
    awq_status status = read_weight_map(index_path, &weight_map);
    if (status == AWQ_OK) status = list_shards(weight_map, &names);
    if (status == AWQ_OK) status = open_names(checkpoint, directory, &names);
    if (status == AWQ_OK) status = compare_with_index(checkpoint, weight_map, index_path);
    names_free(&names);
    json_decref(weight_map);
    return status;
}

static bool is_tensor_file(const char *name)
{
    size_t length = strlen(name);
    return name[0] != '.' && length >= sizeof suffix && strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

static awq_status list_directory(const char *path, struct names *names)
{
    DIR *directory = opendir(path);
    if (directory == NULL) return awqi_fail_io("open the directory", path);
    awq_status status = AWQ_OK;
    const struct dirent *entry;
    do {
        errno = 0;
        entry = readdir(directory);
        if (entry == NULL && errno != 0) status = awqi_fail_io("read the directory", path);
        if (entry != NULL && is_tensor_file(entry->d_name)) status = names_add(names, entry->d_name);
    } while (entry != NULL && status == AWQ_OK);
    closedir(directory);
    names_sort_unique(names);
    return status;
}

static awq_status open_unindexed(awq_checkpoint *checkpoint, const char *directory)
{
    struct names names = {0};
    awq_status status = list_directory(directory, &names);
    if (status == AWQ_OK && names.count == 0)
        status = awqi_fail(AWQ_ERROR_NOT_FOUND, "%s: no .safetensors file in this directory", directory);
    if (status == AWQ_OK) status = open_names(checkpoint, directory, &names);
    names_free(&names);
    return status;
}

/* The order in which Hugging Face looks: the one file, the index, and then whatever there is. */
static awq_status open_directory(awq_checkpoint *checkpoint, const char *directory)
{
    char *single = NULL, *index = NULL;
    awq_status status = join_path(directory, single_name, &single);
    if (status == AWQ_OK) status = join_path(directory, index_name, &index);
    if (status == AWQ_OK) {
        if (access(single, F_OK) == 0)
            status = open_files(checkpoint, &single, 1);
        else if (access(index, F_OK) == 0)
            status = open_indexed(checkpoint, directory, index);
        else
            status = open_unindexed(checkpoint, directory);
    }
    free(single);
    free(index);
    return status;
}

awq_status awq_checkpoint_open(awq_context *context, const char *path, awq_checkpoint **checkpoint)
{
    if (checkpoint == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_open: checkpoint is NULL");
    *checkpoint = NULL;
    if (context == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_open: %s is NULL", context ? "path" : "context");
    struct stat information;
    if (stat(path, &information) != 0) return awqi_fail_io("open", path);

    void *memory;
    awq_status status = awqi_calloc(context, 1, sizeof **checkpoint, "checkpoint", &memory);
    if (status != AWQ_OK) return status;
    awq_checkpoint *opened = memory;
    opened->context = awqi_context_retain(context);
    char *file = (char *)(uintptr_t)path;
    status = S_ISDIR(information.st_mode) ? open_directory(opened, path) : open_files(opened, &file, 1);
    if (status != AWQ_OK) {
        awq_checkpoint_destroy(opened);
        return status;
    }
    *checkpoint = opened;
    return AWQ_OK;
}

void awq_checkpoint_destroy(awq_checkpoint *checkpoint)
{
    if (checkpoint == NULL) return;
    awq_context *context = checkpoint->context;
    for (int64_t i = 0; i < checkpoint->file_count; i++) awqi_safetensors_close(&checkpoint->files[i]);
    awqi_free(context, checkpoint->files);
    awqi_free(context, checkpoint->tensors);
    awqi_free(context, checkpoint);
    awqi_context_release(context);
}

/* ---- asking */

int64_t awq_checkpoint_count(const awq_checkpoint *checkpoint)
{
    return checkpoint != NULL ? checkpoint->tensor_count : 0;
}

const char *awq_checkpoint_name(const awq_checkpoint *checkpoint, int64_t index)
{
    if (checkpoint == NULL || index < 0 || index >= checkpoint->tensor_count) return NULL;
    return checkpoint->tensors[index]->name;
}

static awq_status find_tensor(const awq_checkpoint *checkpoint, const char *name,
                              const struct awqi_safetensors_tensor **tensor)
{
    if (checkpoint == NULL || name == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint: %s is NULL", checkpoint ? "name" : "checkpoint");
    int64_t first = 0, end = checkpoint->tensor_count;
    while (first < end) {
        int64_t middle = first + (end - first) / 2;
        int order = strcmp(name, checkpoint->tensors[middle]->name);
        if (order == 0) {
            *tensor = checkpoint->tensors[middle];
            return AWQ_OK;
        }
        if (order < 0)
            end = middle;
        else
            first = middle + 1;
    }
    return awqi_fail(AWQ_ERROR_NOT_FOUND, "no tensor \"%.*s\" in the checkpoint of %s", SHOWN_NAME_BYTES, name,
                     checkpoint->files[0].path);
}

awq_status awq_checkpoint_get(const awq_checkpoint *checkpoint, const char *name, awq_tensor *view)
{
    if (view == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_checkpoint_get: view is NULL");
    const struct awqi_safetensors_tensor *tensor;
    awq_status status = find_tensor(checkpoint, name, &tensor);
    if (status != AWQ_OK) return status;
    return awq_tensor_init_const(view, tensor->data, tensor->dtype, tensor->ndim, tensor->shape);
}

awq_status awq_checkpoint_release(const awq_checkpoint *checkpoint, const char *name)
{
    const struct awqi_safetensors_tensor *tensor;
    awq_status status = find_tensor(checkpoint, name, &tensor);
    if (status != AWQ_OK || tensor->copy != NULL) return status;
    /* Pages shared with a neighbour stay: the neighbour may be in use. */
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)tensor->data + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)tensor->data + tensor->size) / page * page;
    if (begin < end && madvise((void *)begin, end - begin, MADV_DONTNEED) != 0)
        return awqi_fail_io("release pages of", tensor->file->path);
    return AWQ_OK;
}

const char *awq_checkpoint_metadata(const awq_checkpoint *checkpoint, const char *key)
{
    if (checkpoint == NULL || key == NULL) return NULL;
    return json_string_value(json_object_get(checkpoint->files[0].metadata, key));
}
