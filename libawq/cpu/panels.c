/* Dense weights in panels. */
#include "kernels.h"

struct pack_job {
    const struct awqi_panels *panels;
    const awq_tensor *dense;
};

float awqi_panel_weight(const struct awqi_panels *w, int64_t panel, int64_t column, int64_t input)
{
    int64_t index = (panel * w->k + input) * AWQI_PANEL + column;
    float value;
    awqi_to_f32(w->dtype, (const unsigned char *)w->values + index * (int64_t)awq_dtype_size(w->dtype), &value, 1);
    return value;
}

static void pack_dense(void *user_data, int64_t panel)
{
    const struct pack_job *job = user_data;
    const struct awqi_panels *w = job->panels;
    int64_t stride = awqi_tensor_inner_stride(job->dense);
    for (int64_t first = 0; first < w->k; first += AWQI_DEPTH) {
        int64_t count = awqi_min64(AWQI_DEPTH, w->k - first);
        for (int64_t column = 0; column < AWQI_PANEL; column++) {
            int64_t row = awqi_column_row(&w->columns, panel, column);
            if (row < 0) continue;
            int64_t to = (panel * w->k + first) * AWQI_PANEL + column;
            if (w->dtype == AWQ_F32) {
                const float *from = (const float *)awqi_tensor_row(job->dense, row) + first * stride;
                for (int64_t i = 0; i < count; i++) ((float *)w->values)[to + i * AWQI_PANEL] = from[i * stride];
            } else {
                const uint16_t *from = (const uint16_t *)awqi_tensor_row(job->dense, row) + first * stride;
                for (int64_t i = 0; i < count; i++) ((uint16_t *)w->values)[to + i * AWQI_PANEL] = from[i * stride];
            }
        }
    }
}

awq_status awqi_panels_create(awq_context *context, const awq_tensor *dense, bool paired, struct awqi_panels *panels)
{
    struct awqi_panels w = {
        .columns = awqi_columns_of(dense->shape[0], paired),
        .k = dense->shape[1],
        .dtype = dense->dtype,
    };
    uint64_t bytes; /* per panel */
    if (__builtin_mul_overflow((uint64_t)w.k, awq_dtype_size(w.dtype) * AWQI_PANEL, &bytes)) bytes = UINT64_MAX;
    awq_status status = awqi_calloc(context, (uint64_t)w.columns.panels, bytes, "a prepared weight", &w.values);
    if (status != AWQ_OK) return status;
    w.size_bytes = (uint64_t)w.columns.panels * bytes;
    struct pack_job job = {&w, dense};
    awqi_parallel_for(context, w.columns.panels, pack_dense, &job);
    *panels = w;
    return AWQ_OK;
}

void awqi_panels_destroy(awq_context *context, struct awqi_panels *panels)
{
    awqi_free(context, panels->values);
}
