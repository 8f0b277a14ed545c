/* The inside of awq_tuning: what was measured where. */
#ifndef AWQI_TUNING_H
#define AWQI_TUNING_H

#include "internal.h"

#include <stdatomic.h>

enum { AWQI_TUNING_CLASSES = 17 }; /* batch sizes 1, 2, 4, .. 65536 */

/* The fastest kernel of each batch size for one kind of weight. */
struct awqi_tuning_entry {
    int64_t n, k, group_size;
    int32_t bits;
    bool symmetric;
    int32_t kernels[AWQI_TUNING_CLASSES];
};

struct awq_tuning {
    atomic_int references; /* its owner's, and one of every linear that was made with it */
    awq_context *context;
    char device[128];      /* awq_device_info.name */
    uint32_t cpu_features;
    uint32_t kernel_table; /* awqi_backend.kernels */
    int32_t device_type;
    int32_t classes;       /* batch sizes measured: 1 << 0 .. 1 << (classes - 1) */
    int64_t count;
    struct awqi_tuning_entry *entries;
};

/* A tuning of 'count' blank entries, of which the caller fills everything but references and context. */
awq_status awqi_tuning_create(awq_context *context, int64_t count, awq_tuning **tuning);

/* Both accept NULL. */
awq_tuning *awqi_tuning_retain(const awq_tuning *tuning);
void awqi_tuning_release(awq_tuning *tuning);

/* AWQ_ERROR_VERSION unless 'tuning' was measured on the device of 'context' with the kernels it has now. */
awq_status awqi_tuning_check(const awq_tuning *tuning, const awq_context *context);

/* The kernel measured fastest for the smallest measured batch that holds request->rows rows, or for the largest of all;
 * AWQ_KERNEL_AUTO when nothing was measured for such a weight, or 'tuning' is NULL.  Here in full because a backend
 * that is loaded at run time cannot call into the core. */
static inline int32_t awqi_tuning_lookup(const awq_tuning *tuning, const awq_kernel_request *request)
{
    if (tuning == NULL) return AWQ_KERNEL_AUTO;
    bool symmetric = (request->flags & AWQ_QUANTIZE_SYMMETRIC) != 0;
    int size_class = 0;
    while (size_class < tuning->classes - 1 && (int64_t)1 << size_class < request->rows) size_class++;
    for (int64_t i = 0; i < tuning->count; i++) {
        const struct awqi_tuning_entry *entry = &tuning->entries[i];
        if (entry->n == request->n && entry->k == request->k && entry->group_size == request->group_size &&
            entry->bits == request->bits && entry->symmetric == symmetric)
            return entry->kernels[size_class];
    }
    return AWQ_KERNEL_AUTO;
}

#endif /* AWQI_TUNING_H */
