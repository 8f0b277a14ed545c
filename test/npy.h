/* NumPy's .npy files (format 1 and 2, C order, little-endian), as tensors. */
#ifndef NPY_H
#define NPY_H

#include "awq.h"

#include <stddef.h>

/* Read 'path' into a contiguous tensor whose data the caller frees.  Returns NULL, or what is wrong with the file in words
 * that stay valid until the next call. */
const char *npy_read(const char *path, awq_tensor *tensor);

/* Element 'index' of a contiguous tensor of any dtype but BF16 and F8. */
double npy_value(const awq_tensor *tensor, int64_t index);

#endif /* NPY_H */
