/* Where a command computes: on the processor, or on a GPU with --device cuda. */
#ifndef AWQ_APP_CONTEXT_H
#define AWQ_APP_CONTEXT_H

#include <stdbool.h>
#include <stdint.h>

#include "awq.h"
#include "cli.h"

/* What the options of a command say. */
struct placement {
    int device;            /* AWQ_DEVICE_*: --device */
    int device_id;         /* --device-id */
    int threads;           /* --threads; 0: all processors */
    uint64_t memory_limit; /* --memory-limit, of the host; 0: none */
};

/* The entries of an option table for a struct placement that is a member of the command's options; and of these the
 * ones before the limit, for a command that has more to say of it. */
#define PLACEMENT_COMPUTE_OPTIONS(options, member)                                                                     \
    {CLI_CHOICE, "device", offsetof(options, member.device), .argument = "cpu|cuda", .help = "Where to compute."},     \
    {CLI_INT, "device-id", offsetof(options, member.device_id), .argument = "N",                                       \
     .help = "Which of several GPUs.", .minimum = 0, .maximum = 1023},                                                 \
    {CLI_INT, "threads", offsetof(options, member.threads), .argument = "N",                                           \
     .help = "Threads to use [default: all processors].  The result does not depend on it.", .minimum = 1,             \
     .maximum = 4096}
#define PLACEMENT_OPTIONS(options, member)                                                                             \
    PLACEMENT_COMPUTE_OPTIONS(options, member),                                                                        \
    {CLI_SIZE, "memory-limit", offsetof(options, member.memory_limit), .argument = "SIZE",                             \
     .help = "Fail rather than use more of the host's memory than this, such as 4G.  Pages of the model's files do "   \
             "not count."}

/* Open a context there.  What the library warns of is printed.  Where there is no GPU, no driver or no CUDA library,
 * one message says what is missing. */
bool placement_open(const struct placement *placement, awq_context **context);

/* The same for a command that leaves all its work to the library. */
bool placement_open_library(const struct placement *placement, awq_context **context);

/* The same on the processor. */
bool context_open(int threads, uint64_t memory_limit_bytes, awq_context **context);

bool context_is_cuda(const awq_context *context);

/* Let a view of memory of the context say so. */
void context_own(const awq_context *context, awq_tensor *tensor);

/* View memory of the context: values[rows][columns]. */
awq_tensor context_view(const awq_context *context, const void *values, int32_t dtype, int64_t rows, int64_t columns);

#endif
