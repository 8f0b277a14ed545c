/* Files: mapped for reading, and written so that a name never refers to half a file. */
#include "internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    LARGEST_WRITE = 1 << 30, /* Linux takes at most 2 GiB per call */
    LONGEST_STEM = 200,      /* of a temporary name, so that what is added still fits in NAME_MAX */
    TEMPORARY_ATTEMPTS = 1000
};

awq_status awqi_fail_io(const char *action, const char *path)
{
    awq_status status = errno == ENOENT   ? AWQ_ERROR_NOT_FOUND
                        : errno == ENOMEM ? AWQ_ERROR_OUT_OF_MEMORY
                                          : AWQ_ERROR_IO;
    return awqi_fail(status, "%s: cannot %s: %m", path, action);
}

/* ---- reading */

static awq_status map_descriptor(int fd, const char *path, struct awqi_mapping *mapping)
{
    struct stat information;
    if (fstat(fd, &information) != 0) return awqi_fail_io("read its size", path);
    if (!S_ISREG(information.st_mode)) return awqi_fail(AWQ_ERROR_FORMAT, "%s: not a regular file", path);
    if (information.st_size == 0) return AWQ_OK;
    if ((uint64_t)information.st_size > PTRDIFF_MAX)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: %lld bytes do not fit in the address space", path,
                         (long long)information.st_size);
    void *data = mmap(NULL, (size_t)information.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (data == MAP_FAILED) return awqi_fail_io("map", path);
    mapping->data = data;
    mapping->size = (uint64_t)information.st_size;
    return AWQ_OK;
}

awq_status awqi_map_file(const char *path, struct awqi_mapping *mapping)
{
    *mapping = (struct awqi_mapping){0};
    /* Without O_NONBLOCK the open of a pipe would wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return awqi_fail_io("open", path);
    awq_status status = map_descriptor(fd, path, mapping);
    close(fd); /* the mapping stays */
    return status;
}

void awqi_unmap_file(struct awqi_mapping *mapping)
{
    if (mapping->data != NULL) munmap((void *)(uintptr_t)mapping->data, (size_t)mapping->size);
    *mapping = (struct awqi_mapping){0};
}

/* ---- writing */

awq_status awqi_write_all(int fd, const void *bytes, uint64_t size, const char *path)
{
    const unsigned char *next = bytes;
    while (size > 0) {
        ssize_t written = write(fd, next, size < LARGEST_WRITE ? (size_t)size : LARGEST_WRITE);
        if (written < 0 && errno == EINTR) continue;
        if (written == 0) errno = EIO;
        if (written <= 0) return awqi_fail_io("write", path);
        next += written;
        size -= (uint64_t)written;
    }
    return AWQ_OK;
}

awq_status awqi_sync_directory(const char *path)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return awqi_fail_io("open the directory", path);
    awq_status status = AWQ_OK;
    /* File systems that cannot sync a directory say EINVAL; there is nothing more to be done on them. */
    if (fsync(fd) != 0 && errno != EINVAL) status = awqi_fail_io("sync the directory", path);
    close(fd);
    return status;
}

/* The length of the part of 'path' before its last component, final slash included; 0 when there is none. */
static size_t directory_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? 0 : (size_t)(slash - path) + 1;
}

awq_status awqi_sync_parent(const char *path)
{
    char directory[PATH_MAX];
    size_t length = directory_length(path);
    if (length >= sizeof directory) {
        errno = ENAMETOOLONG;
        return awqi_fail_io("sync the directory of", path);
    }
    memcpy(directory, length > 0 ? path : ".", length > 0 ? length : 1);
    directory[length > 0 ? length : 1] = 0;
    return awqi_sync_directory(directory);
}

awq_status awqi_create_temporary(awq_context *context, const char *path, awqi_create_function create, char **temporary,
                                 int *result)
{
    static atomic_uint counter;
    size_t directory = directory_length(path), capacity = strlen(path) + 64;
    void *memory;
    awq_status status = awqi_alloc(context, capacity, 1, "temporary name", &memory);
    if (status != AWQ_OK) return status;
    char *name = memory;
    /* A name may be taken by what a killed process of the same number left behind. */
    for (int attempt = 0; attempt < TEMPORARY_ATTEMPTS; attempt++) {
        snprintf(name, capacity, "%.*s.%.*s.tmp-%ld-%u", (int)directory, path, LONGEST_STEM, path + directory,
                 (long)getpid(), atomic_fetch_add(&counter, 1));
        *result = create(name);
        if (*result >= 0) {
            *temporary = name;
            return AWQ_OK;
        }
        if (errno != EEXIST) break;
    }
    /* The directory of 'path' may be what is missing, which is no lookup that found nothing. */
    status = awqi_fail(AWQ_ERROR_IO, "%s: cannot create: %m", name);
    awqi_free(context, name);
    return status;
}

static int create_file(const char *path)
{
    return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
}

awq_status awqi_atomic_open(awq_context *context, const char *path, struct awqi_atomic_file *file)
{
    *file = (struct awqi_atomic_file){.context = context, .fd = -1};
    struct stat existing;
    if (path[directory_length(path)] == 0) return awqi_fail(AWQ_ERROR_INVALID, "\"%s\" is no name for a file", path);
    /* The rename would replace a device or a pipe rather than write to it. */
    if (stat(path, &existing) == 0 && !S_ISREG(existing.st_mode))
        return awqi_fail(AWQ_ERROR_IO, "%s: cannot write: it exists and is not a regular file", path);
    awq_status status = awqi_strdup(context, path, &file->path);
    if (status == AWQ_OK) status = awqi_create_temporary(context, path, create_file, &file->temporary, &file->fd);
    if (status != AWQ_OK) awqi_atomic_discard(file);
    return status;
}

awq_status awqi_close_synced(int *fd, const char *path)
{
    int descriptor = *fd;
    *fd = -1;
    awq_status status = AWQ_OK;
    if (fsync(descriptor) != 0) status = awqi_fail_io("sync", path);
    /* Network file systems report a full disk here. */
    if (close(descriptor) != 0 && status == AWQ_OK) status = awqi_fail_io("close", path);
    return status;
}

awq_status awqi_atomic_commit(struct awqi_atomic_file *file)
{
    awq_status status = awqi_close_synced(&file->fd, file->temporary);
    if (status != AWQ_OK) return status;
    if (rename(file->temporary, file->path) != 0) return awqi_fail_io("rename the finished file to", file->path);
    awqi_free(file->context, file->temporary);
    file->temporary = NULL;
    return awqi_sync_parent(file->path);
}

void awqi_atomic_discard(struct awqi_atomic_file *file)
{
    if (file->fd >= 0) close(file->fd);
    if (file->temporary != NULL) unlink(file->temporary);
    awqi_free(file->context, file->temporary);
    awqi_free(file->context, file->path);
    *file = (struct awqi_atomic_file){.fd = -1};
}
