/* What the files of the CPU backend share. */
#ifndef AWQI_CPU_H
#define AWQI_CPU_H

#include "../backend.h"

struct awqi_cpu_device {
    awq_context *context; /* borrowed: the context owns the device */
    uint32_t features;    /* AWQ_CPU_* bits that kernels may use */
};

/* ---- features.c */

/* AWQ_CPU_* bits of this processor that the operating system has enabled.  The environment variable AWQ_CPU_FEATURES,
 * a number, masks them: it can take features away but never add any. */
uint32_t awqi_cpu_features(void);

/* ---- calibrate_ref.c */

awq_status awqi_cpu_accumulate(void *device, const awq_tensor *x, const float *weights, struct awqi_channel_sums *sums);
awq_status awqi_cpu_accumulate_gram(void *device, const awq_tensor *x, const float *weights, double *gram);

/* ---- quantize_ref.c */

awq_status awqi_cpu_quantize(void *device, struct awqi_quantize_job *job);

#endif /* AWQI_CPU_H */
