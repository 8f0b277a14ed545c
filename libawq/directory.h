/* A directory that takes its name in one step: made beside it as ".name.tmp-<pid>-<n>", filled, synced, renamed. */
#ifndef AWQI_DIRECTORY_H
#define AWQI_DIRECTORY_H

#include "internal.h"

struct awqi_atomic_directory {
    awq_context *context;
    char *path;
    char *temporary; /* NULL once it has its name */
    bool replace;
};

/* Without 'replace' nothing may exist at 'path', now and at commit.  With it, a model directory may: one without
 * directories in it that is empty or holds a .safetensors file.  What is replaced is deleted, so anything else, which a
 * mistyped path may well be, is refused. */
awq_status awqi_atomic_directory_open(awq_context *context, const char *path, bool replace,
                                      struct awqi_atomic_directory *directory);

/* Files in it must have been synced.  May be tried again after a failure that left 'temporary'. */
awq_status awqi_atomic_directory_commit(struct awqi_atomic_directory *directory);

/* Delete what was not committed, and free the names. */
void awqi_atomic_directory_discard(struct awqi_atomic_directory *directory);

#endif /* AWQI_DIRECTORY_H */
