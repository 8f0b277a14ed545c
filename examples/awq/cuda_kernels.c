#include "cuda_kernels.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

#define LIBRARY "libawq_app_cuda.so"

bool cuda_kernels_load(const struct cuda_kernels **kernels)
{
    static const struct cuda_kernels *loaded;
    const char *given = secure_getenv("AWQ_APP_CUDA"), *path = given && *given ? given : LIBRARY;
    app_cuda_kernels_get_function get;
    if (!loaded) {
        /* A name without a slash is looked for where the program's own libraries are. */
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!library)
            return cli_error("--device cuda: no kernels: %s (" LIBRARY
                             " belongs beside libawq.so, or where AWQ_APP_CUDA says)", dlerror());
        void *symbol = dlsym(library, "app_cuda_kernels_get");
        memcpy(&get, &symbol, sizeof get); /* ISO C has no cast from an object pointer to a function pointer */
        const struct cuda_kernels *found = symbol ? get() : NULL;
        if (!found || found->version != APP_CUDA_KERNELS_VERSION) {
            dlclose(library);
            return cli_error("--device cuda: %s is of another version than this program", path);
        }
        loaded = found;
    }
    *kernels = loaded;
    return true;
}
