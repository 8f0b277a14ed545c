/* What the fuzz targets share.  A target is one file with LLVMFuzzerTestOneInput, linked with libFuzzer (make fuzz), or with
 * replay.c, which needs no more than a C compiler (make check).
 *
 * Input ends at an unmapped page: memory from fuzz_guard, and files, because the mmap of this program puts them there. */
#ifndef FUZZ_H
#define FUZZ_H

#include "internal.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Where a property that has to hold does not. */
#define fuzz_assert(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition)) fuzz_fail(#condition, __FILE__, __LINE__);                                                   \
    } while (0)
void fuzz_fail(const char *condition, const char *file, int line) __attribute__((noreturn));

/* A context of one thread that refuses to hold more than 64 MiB, the same each time, with nothing held. */
awq_context *fuzz_context(void);

/* Fails where handles that were destroyed left memory behind. */
void fuzz_expect_nothing_held(void);

/* 'status' is one of the documented codes, and those that are not AWQ_OK have a text. */
awq_status fuzz_status(awq_status status);

/* Every byte of a tensor, read. */
void fuzz_read_tensor(const awq_tensor *tensor);

/* A file in a directory of this process, removed at its end; the path of either.  A path is good for the next three calls. */
const char *fuzz_file(const char *name, const void *bytes, size_t size);
const char *fuzz_directory(void);

/* 'size' bytes, the last one before a page that cannot be touched; NULL 'bytes': zeros. */
void *fuzz_guard(const void *bytes, size_t size);
void fuzz_unguard(void *memory, size_t size);

/* What is left of an input that is read as a program.  Past its end there are zeros. */
struct fuzz_input {
    const uint8_t *at, *end;
};

static inline uint64_t fuzz_take(struct fuzz_input *input, size_t bytes)
{
    uint64_t value = 0;
    for (size_t i = 0; i < bytes && input->at < input->end; i++) value |= (uint64_t)*input->at++ << (8 * i);
    return value;
}

#endif /* FUZZ_H */
