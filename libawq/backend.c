/* Finding a device's backend: the CPU's is linked in, others are shared objects loaded when first asked for. */
#include "backend.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define CUDA_LIBRARY "libawq_cuda.so"

static const struct awqi_host host = {
    .abi = AWQI_BACKEND_ABI,
    .fail = awqi_fail,
    .log = awqi_log,
    .parallel_for = awqi_parallel_for,
    .pack = awq_pack,
    .get_plane = awq_packed_get_plane,
    .release_packed = awq_packed_destroy,
    .kernel_select = awq_kernel_select,
};

static pthread_mutex_t cuda_lock = PTHREAD_MUTEX_INITIALIZER;
static const struct awqi_backend *cuda_backend; /* once found, kept for the life of the process */

/* The directory of the library or program that holds this very constant, with its final slash, or "" where that cannot be told.
 * The dynamic linker may know it by a path from what was the current directory once, which must not be followed from another. */
static void own_directory(char *directory, size_t capacity)
{
    static const char here[] = "here";
    Dl_info self;
    char line[PATH_MAX + 128];
    const char *name = dladdr(here, &self) ? self.dli_fname : NULL;
    FILE *maps = name != NULL && name[0] == '/' ? NULL : fopen("/proc/self/maps", "re");
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long begin, end;
        int at = 0;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %n", &begin, &end, &at) == 2 && at > 0 && line[at] == '/' &&
            (uintptr_t)here >= begin && (uintptr_t)here < end) {
            name = line + at;
            break;
        }
    }
    if (maps != NULL) fclose(maps);
    bool absolute = name != NULL && name[0] == '/';
    snprintf(directory, capacity, "%.*s", absolute ? (int)(strrchr(name, '/') - name) + 1 : 0, absolute ? name : "");
}

/* Where AWQ_CUDA_BACKEND says, else beside this library; where that is unknown, where the system keeps libraries. */
static awq_status cuda_library_path(char *path, size_t capacity)
{
    const char *given = secure_getenv("AWQ_CUDA_BACKEND");
    int length;
    if (given != NULL && *given != 0) {
        length = snprintf(path, capacity, "%s", given);
    } else {
        char directory[PATH_MAX];
        own_directory(directory, sizeof directory);
        length = snprintf(path, capacity, "%s%s", directory, CUDA_LIBRARY);
    }
    if (length >= 0 && (size_t)length < capacity) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_NO_DEVICE, "cuda: the path of the backend is longer than %zu bytes", capacity - 1);
}

static awq_status load_cuda(const struct awqi_backend **backend)
{
    char path[4096];
    awq_status status = cuda_library_path(path, sizeof path);
    if (status != AWQ_OK) return status;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL)
        return awqi_fail(AWQ_ERROR_NO_DEVICE,
                         "cuda: no backend: %s (" CUDA_LIBRARY
                         " belongs beside libawq.so, or where AWQ_CUDA_BACKEND says)",
                         dlerror());

    void *symbol = dlsym(library, "awqi_backend_get");
    awqi_backend_get_function get;
    memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from an object pointer to a function pointer */
    const struct awqi_backend *found = symbol != NULL ? get(&host) : NULL;
    if (symbol == NULL)
        status = awqi_fail(AWQ_ERROR_NO_DEVICE, "cuda: %s is not a backend: it has no symbol awqi_backend_get", path);
    else if (found == NULL)
        status = awqi_fail(AWQ_ERROR_NO_DEVICE, "cuda: %s offers no backend to version %s of the library", path,
                           awq_version_string());
    else if (found->abi != AWQI_BACKEND_ABI)
        status = awqi_fail(AWQ_ERROR_VERSION, "cuda: %s speaks version %u of the backend interface, the library %u",
                           path, (unsigned)found->abi, (unsigned)AWQI_BACKEND_ABI);
    if (status != AWQ_OK) {
        dlclose(library);
        return status;
    }
    *backend = found;
    return AWQ_OK;
}

awq_status awqi_backend_find(int32_t device_type, const struct awqi_backend **backend)
{
    if (device_type == AWQ_DEVICE_CPU) {
        *backend = &awqi_cpu_backend;
        return AWQ_OK;
    }
    if (device_type != AWQ_DEVICE_CUDA)
        return awqi_fail(AWQ_ERROR_INVALID, "device_type %d is neither AWQ_DEVICE_CPU nor AWQ_DEVICE_CUDA",
                         device_type);
    pthread_mutex_lock(&cuda_lock);
    awq_status status = cuda_backend != NULL ? AWQ_OK : load_cuda(&cuda_backend);
    if (status == AWQ_OK) *backend = cuda_backend;
    pthread_mutex_unlock(&cuda_lock);
    return status;
}
