/* What the files of the CPU backend share. */
#ifndef AWQI_CPU_H
#define AWQI_CPU_H

#include "../backend.h"

struct awqi_cpu_kernels;

struct awqi_cpu_device {
    awq_context *context; /* borrowed: the context owns the device */
    awq_device_info info;
    const struct awqi_cpu_kernels *kernels; /* the best that its features allow */
};

/* ---- features.c */

/* AWQ_CPU_* bits of this processor that the operating system has enabled.  The environment variable AWQ_CPU_FEATURES,
 * a number, masks them: it can take features away but never add any. */
uint32_t awqi_cpu_features(void);

/* ---- calibrate_ref.c */

awq_status awqi_cpu_accumulate(void *device, const awq_tensor *x, const float *weights, struct awqi_channel_sums *sums);
awq_status awqi_cpu_accumulate_gram(void *device, const awq_tensor *x, const float *weights, double *gram);

/* ---- scan.c */

awq_status awqi_cpu_scan_rows(void *device, const awq_tensor *x, const float *weights, const uint64_t *seed,
                              struct awqi_row_scan *scans);
awq_status awqi_cpu_gather_rows(void *device, const awq_tensor *x, const int64_t *rows, int64_t count, float *values);
awq_status awqi_cpu_find_non_finite(void *device, const struct awqi_scaled *scaled, int64_t *index);
awq_status awqi_cpu_subtract(void *device, const struct awqi_scaled *scaled, float *values);
awq_status awqi_cpu_keep_columns(void *device, const struct awqi_scaled *scaled, const int32_t *columns, int64_t count,
                                 float *values);

/* ---- groups.c */

awq_status awqi_cpu_group_max(void *device, const struct awqi_scaled *scaled, int64_t group_size, float *largest);
awq_status awqi_cpu_add_shares(void *device, const awq_tensor *w, int64_t group_size, double *sums);
awq_status awqi_cpu_group_norms(void *device, const struct awqi_group_norms_job *job);

/* ---- quantize.c */

awq_status awqi_cpu_quantize(void *device, struct awqi_quantize_job *job);

/* ---- refine.c */

awq_status awqi_cpu_refine(void *device, struct awqi_refine_job *job);

/* ---- linear_prepare.c, linear_run.c */

awq_status awqi_cpu_linear_prepare(void *device, const struct awqi_linear_spec *spec, void **prepared);
void awqi_cpu_linear_release(void *device, void *prepared);
uint64_t awqi_cpu_linear_size(void *device, const void *prepared);
uint64_t awqi_cpu_linear_workspace(void *device, const void *prepared, int64_t max_rows);
awq_status awqi_cpu_linear_run(void *device, const void *prepared, const struct awqi_linear_job *job);
int32_t awqi_cpu_linear_choose(void *device, const void *prepared, int64_t rows, char *buffer, size_t capacity,
                               size_t *length);

#endif /* AWQI_CPU_H */
