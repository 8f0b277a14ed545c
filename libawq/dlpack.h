/* The structs of DLPack 1.x, by which array libraries hand each other tensors (github.com/dmlc/dlpack).
 *
 * The layout is that protocol's stable C ABI, written down here so that nothing depends on its header.  Only the fields
 * and codes that libawq reads or writes are named. */
#ifndef AWQI_DLPACK_H
#define AWQI_DLPACK_H

#include <stdint.h>

enum { AWQI_DLPACK_MAJOR = 1, AWQI_DLPACK_MINOR = 0 };

enum { AWQI_DL_CPU = 1, AWQI_DL_CUDA = 2, AWQI_DL_CUDA_HOST = 3, AWQI_DL_CUDA_MANAGED = 13 }; /* device types */

/* Type codes; a dtype is a code, a width in bits and a lane count. */
enum {
    AWQI_DL_INT = 0,
    AWQI_DL_UINT = 1,
    AWQI_DL_FLOAT = 2,
    AWQI_DL_BFLOAT = 4,
    AWQI_DL_BOOL = 6,
    AWQI_DL_FLOAT8_E4M3FN = 10,
    AWQI_DL_FLOAT8_E5M2 = 12
};

enum { AWQI_DL_FLAG_READ_ONLY = 1, AWQI_DL_FLAG_SUBBYTE_PADDED = 4 };

struct awqi_dl_version {
    uint32_t major, minor;
};

struct awqi_dl_device {
    int32_t type;
    int32_t id;
};

struct awqi_dl_dtype {
    uint8_t code;
    uint8_t bits;
    uint16_t lanes;
};

struct awqi_dl_tensor {
    void *data;
    struct awqi_dl_device device;
    int32_t ndim;
    struct awqi_dl_dtype dtype;
    int64_t *shape;
    int64_t *strides; /* in elements; NULL: contiguous, row-major */
    uint64_t byte_offset;
};

/* The consumer calls 'deleter' (which may be NULL) exactly once.  'version', 'manager' and 'deleter' lie where every
 * version of the protocol has them, so that a tensor of a version nobody understands can still be released. */
struct awqi_dl_managed {
    struct awqi_dl_version version;
    void *manager;
    void (*deleter)(struct awqi_dl_managed *self);
    uint64_t flags;
    struct awqi_dl_tensor tensor;
};

#endif /* AWQI_DLPACK_H */
