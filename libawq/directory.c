/* Replacing a directory, and deleting what was replaced. */
#include "directory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_dot(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

static bool is_tensor_file(const char *name)
{
    static const char suffix[] = ".safetensors";
    size_t length = strlen(name);
    return length >= sizeof suffix && strcmp(name + length - (sizeof suffix - 1), suffix) == 0;
}

/* Delete a directory of plain files.  False when anything of it remains. */
static bool remove_flat(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL) return false;
    /* Deleting while reading may hide entries on some file systems, so read again until there is nothing to do. */
    bool progress;
    do {
        progress = false;
        rewinddir(directory);
        for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
            if (!is_dot(entry->d_name) && unlinkat(dirfd(directory), entry->d_name, 0) == 0) progress = true;
    } while (progress);
    closedir(directory);
    return rmdir(path) == 0;
}

static awq_status check_replaceable(const char *path)
{
    DIR *directory = opendir(path);
    if (directory == NULL) return awqi_fail_io("replace the directory", path);
    bool empty = true, model = false;
    awq_status status = AWQ_OK;
    for (const struct dirent *entry; status == AWQ_OK && (entry = readdir(directory)) != NULL;) {
        struct stat information;
        if (is_dot(entry->d_name)) continue;
        empty = false;
        model |= is_tensor_file(entry->d_name);
        if (fstatat(dirfd(directory), entry->d_name, &information, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(information.st_mode))
            status = awqi_fail(AWQ_ERROR_IO, "%s: not replaced, because of the directory \"%s\" in it", path,
                               entry->d_name);
    }
    closedir(directory);
    if (status == AWQ_OK && !empty && !model)
        status = awqi_fail(AWQ_ERROR_IO, "%s: not replaced, because it holds files but no .safetensors", path);
    return status;
}

static awq_status fail_exists(const char *path)
{
    return awqi_fail(AWQ_ERROR_IO, "%s: exists already; it is replaced only on request (AWQ_WRITER_REPLACE)", path);
}

/* The path to write, in 'target': without final slashes, and that of the directory itself where it is a link to one. */
static awq_status resolve_target(const char *path, bool replace, char target[PATH_MAX])
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (length == 0 || length >= PATH_MAX)
        return awqi_fail(AWQ_ERROR_INVALID, "\"%.200s\" is no name for a directory", path);
    memcpy(target, path, length);
    target[length] = 0;
    struct stat information;
    if (lstat(target, &information) != 0) return AWQ_OK;
    if (!replace) return fail_exists(path);
    if (realpath(path, target) == NULL) return awqi_fail_io("resolve", path);
    return check_replaceable(target);
}

static int create_directory(const char *path)
{
    return mkdir(path, 0777);
}

awq_status awqi_atomic_directory_open(awq_context *context, const char *path, bool replace,
                                      struct awqi_atomic_directory *directory)
{
    char target[PATH_MAX];
    int created;
    *directory = (struct awqi_atomic_directory){.context = context, .replace = replace};
    awq_status status = resolve_target(path, replace, target);
    if (status == AWQ_OK) status = awqi_strdup(context, target, &directory->path);
    if (status == AWQ_OK)
        status = awqi_create_temporary(context, target, create_directory, &directory->temporary, &created);
    if (status != AWQ_OK) awqi_atomic_directory_discard(directory);
    return status;
}

/* ---- taking the name */

static bool is_unsupported(int error)
{
    return error == EINVAL || error == ENOSYS || error == ENOTSUP;
}

static awq_status move_to_free_name(const struct awqi_atomic_directory *directory)
{
    if (renameat2(AT_FDCWD, directory->temporary, AT_FDCWD, directory->path, RENAME_NOREPLACE) == 0) return AWQ_OK;
    if (is_unsupported(errno)) {
        struct stat information;
        if (lstat(directory->path, &information) == 0) return fail_exists(directory->path);
        if (rename(directory->temporary, directory->path) == 0) return AWQ_OK;
    }
    if (errno == EEXIST || errno == ENOTEMPTY) return fail_exists(directory->path);
    return awqi_fail_io("rename the finished directory to", directory->path);
}

/* For file systems that cannot exchange two names.  The old directory steps aside, then the new one takes its place; a
 * kill between the two leaves both, complete, beside the name. */
static awq_status replace_in_two_steps(const struct awqi_atomic_directory *directory, char **former)
{
    char *aside;
    int created;
    /* A rename replaces an empty directory, so making one reserves the name. */
    awq_status status = awqi_create_temporary(directory->context, directory->path, create_directory, &aside, &created);
    if (status != AWQ_OK) return status;
    if (rename(directory->path, aside) != 0) {
        status = awqi_fail_io("rename the former directory", directory->path);
        rmdir(aside);
    } else if (rename(directory->temporary, directory->path) != 0) {
        status = awqi_fail_io("rename the finished directory to", directory->path);
        if (rename(aside, directory->path) != 0)
            status = awqi_fail_in(status, "the former directory is now %s", aside);
    } else {
        *former = aside;
        return AWQ_OK;
    }
    awqi_free(directory->context, aside);
    return status;
}

/* On success *former is the name that what was replaced has now, or NULL. */
static awq_status take_name(struct awqi_atomic_directory *directory, char **former)
{
    if (!directory->replace) return move_to_free_name(directory);
    if (renameat2(AT_FDCWD, directory->temporary, AT_FDCWD, directory->path, RENAME_EXCHANGE) == 0) {
        *former = directory->temporary;
        directory->temporary = NULL;
        return AWQ_OK;
    }
    if (errno == ENOENT) return move_to_free_name(directory);
    if (is_unsupported(errno)) return replace_in_two_steps(directory, former);
    return awqi_fail_io("replace the directory", directory->path);
}

awq_status awqi_atomic_directory_commit(struct awqi_atomic_directory *directory)
{
    char *former = NULL;
    awq_status status = awqi_sync_directory(directory->temporary);
    if (status == AWQ_OK) status = take_name(directory, &former);
    if (status != AWQ_OK) return status;
    awqi_free(directory->context, directory->temporary);
    directory->temporary = NULL;
    status = awqi_sync_parent(directory->path);
    if (former == NULL) return status;
    /* Until the new name is on the disk, a power failure may need the former directory. */
    if (status != AWQ_OK)
        status = awqi_fail_in(status, "the former directory is now %s", former);
    else if (!remove_flat(former))
        awqi_log(directory->context, AWQ_LOG_WARNING, "%s could not be deleted; it is what was at %s before", former,
                 directory->path);
    awqi_free(directory->context, former);
    return status;
}

void awqi_atomic_directory_discard(struct awqi_atomic_directory *directory)
{
    if (directory->temporary != NULL) remove_flat(directory->temporary);
    awqi_free(directory->context, directory->temporary);
    awqi_free(directory->context, directory->path);
    *directory = (struct awqi_atomic_directory){0};
}
