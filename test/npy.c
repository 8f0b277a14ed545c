#include "npy.h"

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>

static const char *fail(const char *path, const char *reason)
{
    static char text[512];
    snprintf(text, sizeof text, "%s: %s", path, reason);
    return text;
}

static int32_t find_dtype(const char *descr)
{
    static const struct {
        const char *descr;
        int32_t dtype;
    } known[] = {
        {"<f4", AWQ_F32}, {"<f2", AWQ_F16}, {"<f8", AWQ_F64}, {"|u1", AWQ_U8},  {"|i1", AWQ_I8},  {"<i2", AWQ_I16},
        {"<u2", AWQ_U16}, {"<i4", AWQ_I32}, {"<u4", AWQ_U32}, {"<i8", AWQ_I64}, {"<u8", AWQ_U64}, {"|b1", AWQ_BOOL},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(descr, known[i].descr, 3) == 0) return known[i].dtype;
    return 0;
}

/* The header is a Python dictionary: {'descr': '<f4', 'fortran_order': False, 'shape': (64, 128), } */
static const char *parse_header(const char *header, awq_tensor *tensor)
{
    const char *descr = strstr(header, "'descr': '");
    const char *shape = strstr(header, "'shape': (");
    if (descr == NULL || shape == NULL) return "no descr or shape in the header";
    if (strstr(header, "'fortran_order': False") == NULL) return "not in C order";
    int32_t dtype = find_dtype(descr + strlen("'descr': '"));
    if (dtype == 0) return "a dtype that is not read";
    int64_t extents[AWQ_MAX_DIMS], elements = 1;
    int32_t ndim = 0;
    char *at = (char *)(uintptr_t)(shape + strlen("'shape': ("));
    while (*at != ')' && *at != 0) {
        char *end;
        long long extent = strtoll(at, &end, 10);
        if (end == at || extent < 0 || ndim == AWQ_MAX_DIMS) return "a shape that is not read";
        if (__builtin_mul_overflow(elements, extent, &elements)) return "a shape too large";
        extents[ndim++] = extent;
        at = end + strspn(end, ", ");
    }
    return awq_tensor_init(tensor, NULL, dtype, ndim, extents) == AWQ_OK ? NULL : awq_last_error();
}

static const char *read_tensor(FILE *file, awq_tensor *tensor)
{
    unsigned char start[10];
    char header[4096];
    if (fread(start, 1, sizeof start, file) != sizeof start || memcmp(start, "\x93NUMPY", 6) != 0)
        return "not a .npy file";
    size_t length = (size_t)start[8] | (size_t)start[9] << 8;
    if (start[6] == 2) { /* two more bytes of length, zero in every header that is read here */
        if (getc(file) != 0 || getc(file) != 0) return "a header too long";
    } else if (start[6] != 1) {
        return "a version that is not read";
    }
    if (length >= sizeof header || fread(header, 1, length, file) != length) return "a header too long";
    header[length] = 0;
    const char *error = parse_header(header, tensor);
    if (error != NULL) return error;
    size_t elements = (size_t)awqi_tensor_elements(tensor), size = awq_dtype_size(tensor->dtype);
    tensor->data = calloc(elements + 1, size);
    if (tensor->data == NULL) return "no memory";
    if (fread(tensor->data, size, elements, file) == elements && getc(file) == EOF) return NULL;
    free(tensor->data);
    return "truncated, or longer than its shape";
}

const char *npy_read(const char *path, awq_tensor *tensor)
{
    FILE *file = fopen(path, "rb");
    if (file == NULL) return fail(path, "cannot be opened");
    const char *error = read_tensor(file, tensor);
    fclose(file);
    return error != NULL ? fail(path, error) : NULL;
}

double npy_value(const awq_tensor *tensor, int64_t index)
{
    const void *data = awqi_tensor_data(tensor);
    switch (tensor->dtype) {
    case AWQ_F64: return ((const double *)data)[index];
    case AWQ_F32: return ((const float *)data)[index];
    case AWQ_F16: return awqi_f16_to_f32(((const uint16_t *)data)[index]);
    case AWQ_I8: return ((const int8_t *)data)[index];
    case AWQ_I16: return ((const int16_t *)data)[index];
    case AWQ_U16: return ((const uint16_t *)data)[index];
    case AWQ_I32: return ((const int32_t *)data)[index];
    case AWQ_U32: return ((const uint32_t *)data)[index];
    case AWQ_I64: return (double)((const int64_t *)data)[index];
    case AWQ_U64: return (double)((const uint64_t *)data)[index];
    default: return ((const uint8_t *)data)[index];
    }
}
