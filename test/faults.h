/* Calls of the system that fail on demand: the n-th of those that the library and its JSON library make.
 *
 * A program that includes this is linked with FAULT_WRAPS of the Makefile, which sends those calls here. */
#ifndef TEST_FAULTS_H
#define TEST_FAULTS_H

#include "scratch.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum fault { FAULT_NONE, FAULT_MEMORY, FAULT_JSON, FAULT_IO, FAULT_SHORT_WRITE, FAULT_OPTIONAL };

/* Counted over one operation: the call numbered 'target' fails. */
static struct {
    bool armed;
    int64_t calls, target;
    enum fault mode;      /* SHORT_WRITE: writes are cut short or interrupted, and nothing fails */
    enum fault fired;     /* what kind the failed call was of; NONE: the operation made fewer calls */
    const char *function; /* its name */
    int64_t allocations;  /* that live, counted always */
} faults;

static bool fault_due(enum fault kind, const char *function)
{
    if (!faults.armed || faults.mode == FAULT_SHORT_WRITE || faults.calls++ != faults.target) return false;
    faults.fired = kind;
    faults.function = function;
    errno = kind == FAULT_MEMORY || kind == FAULT_JSON ? ENOMEM : strcmp(function, "open") == 0 ? EMFILE : EIO;
    return true;
}

/* ---- memory */

#define WRAPPED(type, name, parameters)                                                                                \
    type __real_##name parameters;                                                                                     \
    type __wrap_##name parameters;                                                                                     \
    type __wrap_##name parameters

static void *counted(void *memory)
{
    if (memory != NULL) __atomic_fetch_add(&faults.allocations, 1, __ATOMIC_RELAXED);
    return memory;
}

WRAPPED(void *, malloc, (size_t size))
{
    return fault_due(FAULT_MEMORY, "malloc") ? NULL : counted(__real_malloc(size));
}

WRAPPED(void *, calloc, (size_t count, size_t size))
{
    return fault_due(FAULT_MEMORY, "calloc") ? NULL : counted(__real_calloc(count, size));
}

WRAPPED(void *, realloc, (void *memory, size_t size))
{
    if (fault_due(FAULT_MEMORY, "realloc")) return NULL;
    void *moved = __real_realloc(memory, size);
    return memory == NULL ? counted(moved) : moved;
}

WRAPPED(int, posix_memalign, (void **memory, size_t alignment, size_t size))
{
    if (fault_due(FAULT_MEMORY, "posix_memalign")) return ENOMEM;
    int error = __real_posix_memalign(memory, alignment, size);
    if (error == 0) counted(*memory);
    return error;
}

WRAPPED(char *, strdup, (const char *text))
{
    return fault_due(FAULT_MEMORY, "strdup") ? NULL : counted(__real_strdup(text));
}

WRAPPED(int, vasprintf, (char **text, const char *format, va_list arguments))
{
    if (fault_due(FAULT_MEMORY, "vasprintf")) return -1;
    int length = __real_vasprintf(text, format, arguments);
    if (length >= 0) counted(*text);
    return length;
}

int __wrap_asprintf(char **text, const char *format, ...) __attribute__((format(printf, 2, 3)));
int __wrap_asprintf(char **text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = __wrap_vasprintf(text, format, arguments);
    va_end(arguments);
    return length;
}

void __real_free(void *memory);
void __wrap_free(void *memory);
void __wrap_free(void *memory)
{
    if (memory != NULL) __atomic_fetch_sub(&faults.allocations, 1, __ATOMIC_RELAXED);
    __real_free(memory);
}

/* ---- files */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    unsigned mode = flags & O_CREAT ? va_arg(arguments, unsigned) : 0;
    va_end(arguments);
    return fault_due(FAULT_IO, "open") ? -1 : __real_open(path, flags, mode);
}

WRAPPED(ssize_t, write, (int fd, const void *bytes, size_t size))
{
    if (fault_due(FAULT_IO, "write")) return -1;
    if (faults.armed && faults.mode == FAULT_SHORT_WRITE) {
        faults.fired = FAULT_SHORT_WRITE;
        if (faults.calls++ % 2 == 0) {
            errno = EINTR;
            return -1;
        }
        size = (size + 1) / 2;
    }
    return __real_write(fd, bytes, size);
}

/* A full disk on a network shows here; the descriptor is gone all the same. */
WRAPPED(int, close, (int fd))
{
    int result = __real_close(fd);
    return fault_due(FAULT_OPTIONAL, "close") ? -1 : result;
}

#define WRAPPED_IO(kind, name, parameters, arguments)                                                                  \
    WRAPPED(int, name, parameters)                                                                                     \
    {                                                                                                                  \
        return fault_due(kind, #name) ? -1 : __real_##name arguments;                                                  \
    }

WRAPPED_IO(FAULT_IO, fsync, (int fd), (fd))
WRAPPED_IO(FAULT_IO, rename, (const char *from, const char *to), (from, to))
WRAPPED_IO(FAULT_IO, renameat2, (int old, const char *from, int new, const char *to, unsigned flags),
           (old, from, new, to, flags))
WRAPPED_IO(FAULT_IO, mkdir, (const char *path, mode_t mode), (path, mode))
WRAPPED_IO(FAULT_IO, ftruncate, (int fd, off_t size), (fd, size))
WRAPPED_IO(FAULT_IO, fstat, (int fd, struct stat *information), (fd, information))
WRAPPED_IO(FAULT_OPTIONAL, madvise, (void *memory, size_t size, int advice), (memory, size, advice))

WRAPPED(off_t, lseek, (int fd, off_t offset, int whence))
{
    return fault_due(FAULT_IO, "lseek") ? -1 : __real_lseek(fd, offset, whence);
}

WRAPPED(DIR *, opendir, (const char *path))
{
    return fault_due(FAULT_OPTIONAL, "opendir") ? NULL : __real_opendir(path);
}

WRAPPED(struct dirent *, readdir, (DIR * directory))
{
    return fault_due(FAULT_OPTIONAL, "readdir") ? NULL : __real_readdir(directory);
}

WRAPPED(void *, mmap, (void *address, size_t size, int protection, int flags, int fd, off_t offset))
{
    return fault_due(FAULT_MEMORY, "mmap") ? MAP_FAILED : __real_mmap(address, size, protection, flags, fd, offset);
}

/* ---- what is done without where it is refused */

WRAPPED(FILE *, fopen, (const char *path, const char *mode))
{
    return fault_due(FAULT_OPTIONAL, "fopen") ? NULL : __real_fopen(path, mode);
}

WRAPPED(int, pthread_create,
        (pthread_t * thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument))
{
    if (fault_due(FAULT_OPTIONAL, "pthread_create")) return EAGAIN;
    return __real_pthread_create(thread, attributes, run, argument);
}

WRAPPED(void *, dlopen, (const char *path, int flags))
{
    return fault_due(FAULT_IO, "dlopen") ? NULL : __real_dlopen(path, flags);
}

/* ---- walking */

static inline int64_t open_descriptors(void)
{
    DIR *directory = __real_opendir("/proc/self/fd");
    int64_t count = 0;
    if (directory == NULL) return 0;
    while (__real_readdir(directory) != NULL) count++;
    closedir(directory);
    return count;
}

static void *json_memory(size_t size)
{
    return fault_due(FAULT_JSON, "malloc of the JSON library") ? NULL : counted(__real_malloc(size));
}

/* Let json_loadb and its like fail too. */
static inline void faults_cover_json(void)
{
    json_set_alloc_funcs(json_memory, __wrap_free);
}

struct fault_walk {
    int64_t injected, survived; /* calls that failed, and those of them that the operation could do without */
};

/* An operation makes what it needs, releases all of it, and says how it went.  'after' looks at what is left. */
typedef awq_status (*faulty_operation)(struct scratch *scratch);
typedef void (*fault_check)(struct scratch *scratch, awq_status status);

static inline awq_status run_with_fault(struct scratch *scratch, faulty_operation operation, enum fault mode,
                                        int64_t target)
{
    int64_t allocations = faults.allocations, descriptors = open_descriptors();
    faults.mode = mode;
    faults.target = target;
    faults.calls = 0;
    faults.fired = FAULT_NONE;
    faults.function = "none";
    faults.armed = true;
    awq_status status = operation(scratch);
    faults.armed = false;
    if (faults.allocations != allocations)
        fail_msg("call %lld (%s) failed, %s: %lld allocations were left", (long long)target, faults.function,
                 awq_status_name(status), (long long)(faults.allocations - allocations));
    if (open_descriptors() != descriptors)
        fail_msg("call %lld (%s) failed: descriptors were left open", (long long)target, faults.function);
    return status;
}

/* The JSON library takes some of its own failed allocations for a mistake in the text, or drops a character of a name, which is
 * then not found. */
static inline void check_fault_status(int64_t target, awq_status status)
{
    bool fits = status == AWQ_OK || (faults.fired == FAULT_MEMORY && status == AWQ_ERROR_OUT_OF_MEMORY) ||
                (faults.fired == FAULT_JSON && (status == AWQ_ERROR_OUT_OF_MEMORY || status == AWQ_ERROR_FORMAT ||
                                                status == AWQ_ERROR_NOT_FOUND)) ||
                (faults.fired == FAULT_IO && (status == AWQ_ERROR_IO || status == AWQ_ERROR_NO_DEVICE)) ||
                (faults.fired == FAULT_OPTIONAL && status == AWQ_ERROR_IO);
    if (!fits)
        fail_msg("call %lld (%s) failed: %s: %s", (long long)target, faults.function, awq_status_name(status),
                 awq_last_error());
}

/* Fail every call in turn, until the operation makes fewer of them; then cut every write short. */
static inline struct fault_walk walk_faults(struct scratch *scratch, faulty_operation operation, fault_check after)
{
    struct fault_walk walk = {0};
    for (int64_t target = 0;; target++) {
        awq_status status = run_with_fault(scratch, operation, FAULT_NONE, target);
        if (faults.fired == FAULT_NONE) {
            assert_status(status, AWQ_OK);
            if (after != NULL) after(scratch, status);
            break;
        }
        check_fault_status(target, status);
        if (after != NULL) after(scratch, status);
        walk.injected++;
        walk.survived += status == AWQ_OK;
    }
    assert_status(run_with_fault(scratch, operation, FAULT_SHORT_WRITE, 0), AWQ_OK);
    if (after != NULL) after(scratch, AWQ_OK);
    return walk;
}

#endif /* TEST_FAULTS_H */
