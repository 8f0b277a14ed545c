/* Where data lies: a context computes in its device's memory, and takes what is in host memory as well. */
#ifndef AWQI_PLACE_H
#define AWQI_PLACE_H

#include "internal.h"

/* A tensor as the backend takes it.  On the CPU, the tensor itself; elsewhere a matrix with neighbouring columns on the
 * device, which may be a copy. */
struct awqi_placed {
    awq_tensor view;
    void *memory; /* of the copy, or NULL */
};

/* AWQ_ERROR_INVALID unless 'tensor' lies in host memory or where the context computes. */
awq_status awqi_check_reachable(const awq_context *context, const awq_tensor *tensor, const char *what);

/* A checked, reachable tensor of any rank above 0, leading dimensions flattened.  Given back with awqi_unplace, also
 * after a failure. */
awq_status awqi_place(awq_context *context, const awq_tensor *tensor, struct awqi_placed *placed);
void awqi_unplace(awq_context *context, struct awqi_placed *placed);

/* Memory of 'count' floats where the context computes; on the CPU counted as awqi_alloc does. */
awq_status awqi_place_floats(awq_context *context, int64_t count, const char *what, float **memory);

/* host[count] where the context computes: itself on the CPU, else a copy.  *placed is given back with
 * awqi_unplace_floats, which needs both. */
awq_status awqi_place_copy(awq_context *context, const float *host, int64_t count, const char *what, float **placed);
void awqi_unplace_floats(awq_context *context, float *placed, const float *host);

/* Read rows first .. first + count - 1 of a reachable matrix of floats, or a vector as one row, into contiguous host
 * memory. */
awq_status awqi_fetch_rows(awq_context *context, const awq_tensor *tensor, int64_t first, int64_t count, float *values);
/* values[rows] = one column of a reachable matrix of floats. */
awq_status awqi_fetch_column(awq_context *context, const awq_tensor *matrix, int64_t column, float *values);

/* One element of a reachable float tensor, leading dimensions flattened. */
awq_status awqi_fetch_element(awq_context *context, const awq_tensor *tensor, int64_t row, int64_t column,
                              float *value);

#endif /* AWQI_PLACE_H */
