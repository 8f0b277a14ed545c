/* One file in the safetensors format: eight bytes of header length, a JSON header, and the tensors' bytes. */
#ifndef AWQI_SAFETENSORS_H
#define AWQI_SAFETENSORS_H

#include "internal.h"

struct json_t;

/* What the format allows a header to take. */
#define AWQI_SAFETENSORS_HEADER_LIMIT UINT64_C(100000000)

struct awqi_safetensors_tensor {
    const struct awqi_safetensors *file;
    const char *name;
    const unsigned char *data; /* aligned to its element */
    void *copy;                /* what 'data' points to when the file does not keep that alignment; else NULL */
    uint64_t begin, size;      /* bytes, from the end of the header on */
    int64_t shape[AWQ_MAX_DIMS];
    int32_t dtype;
    int32_t ndim;
};

struct awqi_safetensors {
    awq_context *context;
    char *path;
    struct awqi_mapping mapping;
    uint64_t data_start; /* where the bytes of the tensors begin in the file */
    struct json_t *metadata; /* an object of strings, or NULL */
    char *names;
    struct awqi_safetensors_tensor *tensors; /* in the order of their bytes */
    int64_t count;
};

/* Map a file and verify all that its header says.  Its tensors point back at 'file', which must stay where it is. */
awq_status awqi_safetensors_open(awq_context *context, const char *path, struct awqi_safetensors *file);
void awqi_safetensors_close(struct awqi_safetensors *file); /* accepts a zeroed struct */

/* Parse a JSON object that came from 'path'; duplicate keys are errors.  Release it with json_decref. */
awq_status awqi_parse_json_object(const void *bytes, uint64_t size, const char *path, struct json_t **object);

/* The text of 'json' by the flags of json_dumps, for free(), or NULL when memory gave out or 'json' is NULL.  What json_dumps
 * gives then may lack a part (jansson 2.14 drops the failure of writing a key). */
char *awqi_json_text(const struct json_t *json, size_t flags);

#endif /* AWQI_SAFETENSORS_H */
