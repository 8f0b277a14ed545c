/* Tunings: kernels timed on the device they will run on, kept as a small JSON file. */
#include "safetensors.h"
#include "tuning.h"

#include "backend.h"

#include <jansson.h>
#include <stdlib.h>

enum { FORMAT_VERSION = 1 };

/* ---- the object */

awq_status awqi_tuning_create(awq_context *context, int64_t count, awq_tuning **tuning)
{
    void *memory = NULL, *entries = NULL;
    awq_status status = awqi_calloc(context, 1, sizeof(awq_tuning), "a tuning", &memory);
    if (status != AWQ_OK) return status;
    status = awqi_calloc(context, (uint64_t)count, sizeof(struct awqi_tuning_entry), "a tuning's entries", &entries);
    if (status != AWQ_OK) {
        awqi_free(context, memory);
        return status;
    }
    awq_tuning *created = memory;
    atomic_init(&created->references, 1);
    created->context = awqi_context_retain(context);
    created->count = count;
    created->entries = entries;
    *tuning = created;
    return AWQ_OK;
}

awq_tuning *awqi_tuning_retain(const awq_tuning *tuning)
{
    awq_tuning *retained = (awq_tuning *)(uintptr_t)tuning; /* only the count of references changes */
    if (retained != NULL) atomic_fetch_add_explicit(&retained->references, 1, memory_order_relaxed);
    return retained;
}

void awqi_tuning_release(awq_tuning *tuning)
{
    if (tuning == NULL || atomic_fetch_sub_explicit(&tuning->references, 1, memory_order_acq_rel) != 1) return;
    awq_context *context = tuning->context;
    awqi_free(context, tuning->entries);
    awqi_free(context, tuning);
    awqi_context_release(context);
}

void awq_tuning_destroy(awq_tuning *tuning)
{
    awqi_tuning_release(tuning);
}

awq_status awqi_tuning_check(const awq_tuning *tuning, const awq_context *context)
{
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_context_get_device(context, &info);
    if (status != AWQ_OK) return status;
    uint32_t kernel_table = awqi_context_backend(context)->kernels;
    if (tuning->device_type != info.device_type || strcmp(tuning->device, info.name) != 0)
        return awqi_fail(AWQ_ERROR_VERSION, "tuning: measured on \"%s\", not on this device, \"%s\"", tuning->device,
                         info.name);
    if (tuning->cpu_features != info.cpu_features)
        return awqi_fail(AWQ_ERROR_VERSION, "tuning: measured with processor features 0x%x; 0x%x are in use",
                         (unsigned)tuning->cpu_features, (unsigned)info.cpu_features);
    if (tuning->kernel_table != kernel_table)
        return awqi_fail(AWQ_ERROR_VERSION, "tuning: measured with version %u of the kernels; this is version %u",
                         (unsigned)tuning->kernel_table, (unsigned)kernel_table);
    return AWQ_OK;
}

/* ---- saving */

static json_t *entry_to_json(const struct awqi_tuning_entry *entry, int32_t classes)
{
    json_t *kernels = json_array();
    bool complete = kernels != NULL;
    for (int32_t i = 0; i < classes && complete; i++)
        complete = json_array_append_new(kernels, json_string(awq_kernel_name(entry->kernels[i]))) == 0;
    json_t *json = complete ? json_pack("{s:I, s:I, s:i, s:I, s:b, s:O}", "n", (json_int_t)entry->n, "k", (json_int_t)entry->k,
                                        "bits", (int)entry->bits, "group_size", (json_int_t)entry->group_size, "symmetric",
                                        (int)entry->symmetric, "kernels", kernels)
                            : NULL;
    json_decref(kernels);
    return json;
}

/* NULL when memory gave out. */
static char *tuning_to_text(const awq_tuning *tuning)
{
    json_t *batches = json_array(), *weights = json_array(), *root = NULL;
    bool complete = batches != NULL && weights != NULL;
    for (int32_t i = 0; i < tuning->classes && complete; i++)
        complete = json_array_append_new(batches, json_integer((json_int_t)1 << i)) == 0;
    for (int64_t i = 0; i < tuning->count && complete; i++)
        complete = json_array_append_new(weights, entry_to_json(&tuning->entries[i], tuning->classes)) == 0;
    if (complete)
        root = json_pack("{s:i, s:{s:i, s:s, s:I}, s:I, s:O, s:O}", "awq_tuning", (int)FORMAT_VERSION, "device", "type",
                         (int)tuning->device_type, "name", tuning->device, "cpu_features", (json_int_t)tuning->cpu_features,
                         "kernel_table", (json_int_t)tuning->kernel_table, "batch_sizes", batches, "weights", weights);
    char *text = awqi_json_text(root, JSON_INDENT(2));
    json_decref(root);
    json_decref(batches);
    json_decref(weights);
    return text;
}

awq_status awq_tuning_save(const awq_tuning *tuning, const char *path)
{
    if (tuning == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_save: %s is NULL", tuning == NULL ? "tuning" : "path");
    char *text = tuning_to_text(tuning);
    if (text == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "%s: no memory for the text of a tuning", path);
    struct awqi_atomic_file file;
    awq_status status = awqi_atomic_open(tuning->context, path, &file);
    if (status == AWQ_OK) {
        status = awqi_write_all(file.fd, text, strlen(text), path);
        if (status == AWQ_OK) status = awqi_write_all(file.fd, "\n", 1, path);
        if (status == AWQ_OK) status = awqi_atomic_commit(&file);
        awqi_atomic_discard(&file);
    }
    free(text);
    return status;
}

/* ---- loading */

static int32_t kernel_from_name(const char *name)
{
    for (int32_t kernel = AWQ_KERNEL_REFERENCE; awq_kernel_name(kernel) != NULL; kernel++)
        if (strcmp(awq_kernel_name(kernel), name) == 0) return kernel;
    return AWQ_KERNEL_AUTO;
}

static awq_status read_entry(const json_t *json, int64_t index, const char *path, int32_t classes,
                             struct awqi_tuning_entry *entry)
{
    json_int_t n, k, group_size;
    int bits, symmetric;
    json_t *kernels;
    if (json_unpack((json_t *)(uintptr_t)json, "{s:I, s:I, s:i, s:I, s:b, s:o}", "n", &n, "k", &k, "bits", &bits,
                    "group_size", &group_size, "symmetric", &symmetric, "kernels", &kernels) != 0 ||
        !json_is_array(kernels) || n < 1 || k < 1 || group_size < 1)
        return awqi_fail(AWQ_ERROR_FORMAT,
                         "%s: weight %lld: n, k, bits, group_size, symmetric and kernels are needed", path,
                         (long long)index);
    if (json_array_size(kernels) != (size_t)classes)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: weight %lld: %zu kernels for %d batch sizes", path, (long long)index,
                         json_array_size(kernels), classes);
    *entry = (struct awqi_tuning_entry){
        .n = n, .k = k, .group_size = group_size, .bits = bits, .symmetric = symmetric != 0};
    for (int32_t i = 0; i < classes; i++) {
        const char *name = json_string_value(json_array_get(kernels, (size_t)i));
        entry->kernels[i] = name != NULL ? kernel_from_name(name) : AWQ_KERNEL_AUTO;
        if (entry->kernels[i] == AWQ_KERNEL_AUTO)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: weight %lld: kernel \"%s\" is unknown", path, (long long)index,
                             name != NULL ? name : "");
    }
    return AWQ_OK;
}

static awq_status check_batch_sizes(const json_t *batches, const char *path)
{
    size_t count = json_array_size(batches);
    if (count < 1 || count > AWQI_TUNING_CLASSES)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: %zu batch_sizes; 1 to %d are possible", path, count,
                         (int)AWQI_TUNING_CLASSES);
    for (size_t i = 0; i < count; i++)
        if (json_integer_value(json_array_get(batches, i)) != (json_int_t)1 << i)
            return awqi_fail(AWQ_ERROR_FORMAT, "%s: batch_sizes are not 1, 2, 4, ..", path);
    return AWQ_OK;
}

static awq_status read_root(awq_context *context, json_t *root, const char *path, awq_tuning **tuning)
{
    json_int_t version, features, kernel_table;
    int device_type;
    const char *device;
    json_t *batches, *weights;
    if (json_unpack(root, "{s:I}", "awq_tuning", &version) != 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: not a tuning: no integer \"awq_tuning\"", path);
    if (version != FORMAT_VERSION)
        return awqi_fail(AWQ_ERROR_VERSION, "%s: version %lld of the tuning format; %d is understood", path,
                         (long long)version, (int)FORMAT_VERSION);
    json_error_t error;
    if (json_unpack_ex(root, &error, 0, "{s:{s:i, s:s, s:I}, s:I, s:o, s:o}", "device", "type", &device_type, "name",
                       &device, "cpu_features", &features, "kernel_table", &kernel_table, "batch_sizes", &batches,
                       "weights", &weights) != 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: %s", path, error.text);
    awq_status status = check_batch_sizes(batches, path);
    if (status == AWQ_OK && !json_is_array(weights))
        status = awqi_fail(AWQ_ERROR_FORMAT, "%s: \"weights\" is not a list", path);
    if (status != AWQ_OK) return status;
    awq_tuning *created;
    status = awqi_tuning_create(context, (int64_t)json_array_size(weights), &created);
    if (status != AWQ_OK) return status;
    created->device_type = device_type;
    created->cpu_features = (uint32_t)features;
    created->kernel_table = (uint32_t)kernel_table;
    created->classes = (int32_t)json_array_size(batches);
    strncpy(created->device, device, sizeof created->device - 1);
    for (int64_t i = 0; i < created->count && status == AWQ_OK; i++)
        status = read_entry(json_array_get(weights, (size_t)i), i, path, created->classes, &created->entries[i]);
    if (status == AWQ_OK) *tuning = created;
    else awq_tuning_destroy(created);
    return status;
}

awq_status awq_tuning_load(awq_context *context, const char *path, awq_tuning **tuning)
{
    if (tuning == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_load: tuning is NULL");
    *tuning = NULL;
    if (context == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_tuning_load: %s is NULL", context == NULL ? "context" : "path");
    struct awqi_mapping mapping;
    awq_status status = awqi_map_file(path, &mapping);
    if (status != AWQ_OK) return status;
    json_t *root = NULL;
    status = awqi_parse_json_object(mapping.data, mapping.size, path, &root);
    if (status == AWQ_OK) status = read_root(context, root, path, tuning);
    json_decref(root);
    awqi_unmap_file(&mapping);
    return status;
}
