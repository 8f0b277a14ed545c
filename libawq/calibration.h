/* The inside of awq_calibration, shared with the archive that saves it and the search that reads it. */
#ifndef AWQI_CALIBRATION_H
#define AWQI_CALIBRATION_H

#include "backend.h"
#include "row_sample.h"

#include <stdatomic.h>

struct awq_calibration {
    atomic_int references; /* the caller's handle and the searches over it */
    awq_context *context;
    int64_t channels;
    uint32_t flags; /* AWQ_CALIBRATION_GRAM */
    int64_t rows;   /* of nonzero weight */
    double weight_high, weight_low;
    struct awqi_channel_sums sums;  /* five arrays of one allocation, which begins at abs_high */
    double *gram;                   /* [channels][channels], symmetric: weighted sums of x_i x_j; NULL without the flag */
    double *device_gram;            /* its present value, while the context's device adds to it; NULL: 'gram' */
    float *root;                    /* awqi_calibration_root's, while there is one */
    double root_damping;
    struct awqi_row_sample *sample; /* looking at it may sort it, also through a const calibration */
};

/* Bring the Gram matrix home from the device, before it is read.  Looking at a calibration may do so, as it may sort the
 * sample, also through a const one. */
awq_status awqi_calibration_settle(const awq_calibration *calibration);

/* The root R [channels][channels] of the Gram matrix with 'damping' of each diagonal element added to it: upper triangular,
 * R^T R.  Made at the first call and kept until the calibration changes. */
awq_status awqi_calibration_root(const awq_calibration *calibration, double damping, const float **root);

/* Another reference, given back with awq_calibration_destroy. */
awq_calibration *awqi_calibration_retain(const awq_calibration *calibration);

#endif /* AWQI_CALIBRATION_H */
