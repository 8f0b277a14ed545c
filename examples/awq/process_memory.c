/* Memory of the process: /proc/self/status and the C library's allocator. */
#include "process_memory.h"

#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>

struct process_memory process_memory(void)
{
    struct process_memory memory = {0};
    char line[256];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file)) {
        uint64_t kilobytes;
        if (sscanf(line, "VmRSS: %" SCNu64 " kB", &kilobytes) == 1) memory.resident = kilobytes << 10;
        if (sscanf(line, "VmHWM: %" SCNu64 " kB", &kilobytes) == 1) memory.peak = kilobytes << 10;
    }
    if (file) fclose(file);
    return memory;
}

uint64_t process_memory_base(void)
{
    enum { CODE_BYTES = 2 << 20 };
    malloc_trim(0);
    return process_memory().resident + CODE_BYTES;
}

void process_memory_keep_low(void)
{
    /* Setting it also keeps it where it is: the C library raises it with each large block that is freed. */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
    mallopt(M_TRIM_THRESHOLD, 1 << 20);
}
