/* A driver library for the tests of those that do not serve: it answers what the CUDA runtime asks first.  Compiled
 * with the version it claims (DRIVER_VERSION) and what its start returns (INIT_RESULT). */
#include <stddef.h>
#include <string.h>

enum { NO_DEVICE = 100, NOT_FOUND = 500 };

int cuInit(unsigned flags);
int cuDriverGetVersion(int *version);
int cuDeviceGetCount(int *count);
int cuGetExportTable(const void **table, const void *id);
int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags);
int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *result);

int cuInit(unsigned flags)
{
    (void)flags;
    return INIT_RESULT;
}

int cuDriverGetVersion(int *version)
{
    *version = DRIVER_VERSION;
    return 0;
}

int cuDeviceGetCount(int *count)
{
    *count = 0;
    return 0;
}

int cuGetExportTable(const void **table, const void *id)
{
    (void)id;
    *table = NULL;
    return NOT_FOUND;
}

static int refuse(void)
{
    return NO_DEVICE;
}

int cuGetProcAddress(const char *name, void **function, int version, unsigned long long flags)
{
    (void)version, (void)flags;
    *function = (void *)refuse;
    if (strcmp(name, "cuInit") == 0) *function = (void *)cuInit;
    if (strcmp(name, "cuDriverGetVersion") == 0) *function = (void *)cuDriverGetVersion;
    if (strcmp(name, "cuDeviceGetCount") == 0) *function = (void *)cuDeviceGetCount;
    if (strcmp(name, "cuGetProcAddress") == 0) *function = (void *)cuGetProcAddress_v2;
    return 0;
}

int cuGetProcAddress_v2(const char *name, void **function, int version, unsigned long long flags, int *result)
{
    if (result != NULL) *result = 0;
    return cuGetProcAddress(name, function, version, flags);
}
