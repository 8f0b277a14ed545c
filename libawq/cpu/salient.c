/* Salient columns of a linear: a small dense product beside the quantised one,
 *
 *     sums[row][output] += sum over i of x[row][columns[i]] v[output][i]
 *
 * by the kernels for dense panels, in single precision.  What x holds in these columns is put aside as rows are loaded,
 * before a kernel gives them an order or a type of its own. */
#include "linear.h"

awq_status awqi_linear_salient_create(awq_context *context, const awq_weight *weight, bool paired,
                                      struct awqi_linear_salient *salient)
{
    awq_tensor values;
    void *memory;
    if (weight->salient_count == 0) return AWQ_OK;
    awq_status status = awqi_alloc(context, (uint64_t)weight->salient_count, sizeof *salient->columns,
                                   "the salient columns of a linear", &memory);
    if (status != AWQ_OK) return status;
    salient->columns = memory;
    salient->count = weight->salient_count;
    memcpy(salient->columns, weight->salient_columns, (size_t)salient->count * sizeof *salient->columns);
    awq_tensor_init_const_2d(&values, weight->salient_values, AWQ_F16, weight->n, weight->salient_count);
    return awqi_panels_create(context, &values, paired, &salient->panels);
}

void awqi_linear_salient_destroy(awq_context *context, struct awqi_linear_salient *salient)
{
    if (salient->columns != NULL) awqi_panels_destroy(context, &salient->panels);
    awqi_free(context, salient->columns);
}

uint64_t awqi_linear_salient_size(const struct awqi_linear_salient *salient)
{
    return salient->panels.size_bytes + (uint64_t)salient->count * sizeof *salient->columns;
}

uint64_t awqi_linear_salient_bytes(const struct awqi_linear_salient *salient, int64_t rows)
{
    return ((uint64_t)(rows * salient->count) * sizeof(float) + 63) / 64 * 64;
}

void awqi_linear_salient_keep(const struct awqi_linear_salient *salient, const float *x, int64_t step, float *kept)
{
    for (int64_t i = 0; i < salient->count; i++) kept[i] = x[salient->columns[i] * step];
}

void awqi_linear_salient_add(const struct awqi_linear_salient *salient, const struct awqi_cpu_kernels *kernels,
                             const float *kept, int64_t panel, int64_t rows, float *sums)
{
    if (salient->count == 0) return;
    for (int64_t first = 0; first < rows; first += AWQI_GEMV_ROWS) {
        float added[AWQI_GEMV_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
        const int64_t count = awqi_min64(AWQI_GEMV_ROWS, rows - first);
        kernels->gemv_dense(&salient->panels, panel, kept + first * salient->count, count, added);
        for (int64_t i = 0; i < count * AWQI_PANEL; i++) sums[first * AWQI_PANEL + i] += added[i];
    }
}
