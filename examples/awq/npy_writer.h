/* Writing a float32 matrix as a NumPy file, row by row. */
#ifndef AWQ_APP_NPY_WRITER_H
#define AWQ_APP_NPY_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* All zero: no file, to which adding and which closing does nothing. */
struct npy_writer {
    FILE *file;
    const char *path; /* not copied */
};

bool npy_writer_open(struct npy_writer *writer, const char *path, int64_t rows, int64_t columns);
bool npy_writer_add(struct npy_writer *writer, const float *values, int64_t count);
bool npy_writer_close(struct npy_writer *writer);

/* Give up: the file is removed, unless it was closed. */
void npy_writer_discard(struct npy_writer *writer);

#endif
