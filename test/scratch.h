/* A directory and a context for one test, and a few words about files.  The fixture fails the test when anything is left
 * allocated through the context. */
#ifndef TEST_SCRATCH_H
#define TEST_SCRATCH_H

#include "internal.h"

#include <dirent.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

struct scratch {
    char directory[PATH_MAX / 2];
    awq_context *context;
    uint64_t held; /* bytes of the context before the test */
    int64_t allocations_left; /* the next one after these fails; negative: none does */
};

static inline void *scratch_allocate(void *user_data, size_t size, size_t alignment)
{
    struct scratch *scratch = user_data;
    if (scratch->allocations_left == 0) return NULL;
    if (scratch->allocations_left > 0) scratch->allocations_left--;
    void *memory = NULL;
    return posix_memalign(&memory, alignment, size) == 0 ? memory : NULL;
}

static inline void scratch_release(void *user_data, void *memory, size_t size)
{
    (void)user_data;
    (void)size;
    free(memory);
}

static inline int scratch_setup(void **state)
{
    struct scratch *scratch = calloc(1, sizeof *scratch);
    const char *base = getenv("TMPDIR");
    snprintf(scratch->directory, sizeof scratch->directory, "%s/awq-test-XXXXXX", base != NULL ? base : "/tmp");
    if (mkdtemp(scratch->directory) == NULL) return -1;
    scratch->allocations_left = -1;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 1;
    options.allocate = scratch_allocate;
    options.release = scratch_release;
    options.allocator_data = scratch;
    *state = scratch;
    if (awq_context_create(&options, &scratch->context) != AWQ_OK) return -1;
    return awq_context_get_memory(scratch->context, &scratch->held, NULL);
}

static inline int scratch_remove(const char *path, const struct stat *information, int type, struct FTW *position)
{
    (void)information;
    (void)type;
    (void)position;
    return remove(path);
}

static inline int scratch_teardown(void **state)
{
    struct scratch *scratch = *state;
    uint64_t held = 0;
    awq_context_get_memory(scratch->context, &held, NULL);
    held -= scratch->held;
    awq_context_destroy(scratch->context);
    nftw(scratch->directory, scratch_remove, 16, FTW_DEPTH | FTW_PHYS);
    free(scratch);
    if (held != 0) print_error("%llu bytes were not released\n", (unsigned long long)held);
    return held != 0;
}

#define SCRATCH_TEST(function) cmocka_unit_test_setup_teardown(function, scratch_setup, scratch_teardown)

/* The path of 'name' in the directory; good for the next seven calls. */
static inline const char *scratch_path(const struct scratch *scratch, const char *name)
{
    static char paths[8][PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, PATH_MAX, "%s/%s", scratch->directory, name);
    return path;
}

static inline void scratch_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A zero follows the bytes; release with free(). */
static inline char *scratch_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = calloc(*size + 1, 1);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

static inline bool scratch_exists(const char *path)
{
    struct stat information;
    return lstat(path, &information) == 0;
}

/* Entries of a directory, hidden ones included. */
static inline int scratch_count(const char *path)
{
    DIR *directory = opendir(path);
    assert_non_null(directory);
    int count = -2; /* . and .. */
    while (readdir(directory) != NULL) count++;
    closedir(directory);
    return count;
}

#define assert_status(call, expected)                                                                                  \
    do {                                                                                                               \
        awq_status status_ = (call);                                                                                   \
        if (status_ != (expected))                                                                                     \
            fail_msg("%s: %s, not %s: %s", #call, awq_status_name(status_), awq_status_name(expected),                 \
                     awq_last_error());                                                                                \
    } while (0)

#define assert_error_names(text)                                                                                       \
    do {                                                                                                               \
        if (strstr(awq_last_error(), (text)) == NULL) fail_msg("\"%s\" does not name \"%s\"", awq_last_error(), text); \
    } while (0)

#endif /* TEST_SCRATCH_H */
