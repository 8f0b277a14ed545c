/* What memory this process has, as the system counts it. */
#ifndef AWQ_APP_PROCESS_MEMORY_H
#define AWQ_APP_PROCESS_MEMORY_H

#include <stdint.h>

/* Bytes resident now, and at most so far; 0 where the system does not say. */
struct process_memory {
    uint64_t resident, peak;
};

struct process_memory process_memory(void);

/* What is resident once free blocks have gone back to the system, and of the program's code what will still come. */
uint64_t process_memory_base(void);

/* Let large blocks go back to the system as soon as they are freed, for a process that has to stay below a limit. */
void process_memory_keep_low(void);

#endif
