/* Salient input channels: choosing them, and the columns that a weight keeps in FP16. */
#include "salient.h"

#include "place.h"
#include "weight.h"

#include <math.h>
#include <stdlib.h>

enum {
    BLOCK = 256,       /* inputs converted at once, on the stack */
    FETCHED = 1 << 20, /* elements of a weight brought to the host at once */
};

/* ---- choosing */

awq_status awqi_salient_check(const awq_quantize_options *options)
{
    if (!(options->salient_fraction >= 0.0 && options->salient_fraction <= 1.0))
        return awqi_fail(AWQ_ERROR_INVALID, "salient_fraction %g is not within [0, 1]", options->salient_fraction);
    if (options->salient_rule < AWQ_SALIENT_BY_ACTIVATION || options->salient_rule > AWQ_SALIENT_AT_RANDOM)
        return awqi_fail(AWQ_ERROR_INVALID, "salient_rule %d is none of AWQ_SALIENT_*", options->salient_rule);
    if (options->salient_columns != NULL && options->salient_fraction > 0.0)
        return awqi_fail(AWQ_ERROR_INVALID, "both salient_columns and a salient_fraction of %g are given",
                         options->salient_fraction);
    if (options->salient_values != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "salient_values are for awq_weight_create; elsewhere they come from w");
    return AWQ_OK;
}

struct ranked {
    double value;
    int64_t column;
};

/* The largest first; of equal ones the first. */
static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->value != y->value) return x->value > y->value ? -1 : 1;
    return (x->column > y->column) - (x->column < y->column);
}

static int compare_columns(const void *a, const void *b)
{
    const int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static awq_status rank_by_importance(const awq_tensor *importance, int64_t k, struct ranked *ranked)
{
    awq_status status = awqi_check_tensor(importance, 1, 1u << AWQ_F32, "importance");
    if (status == AWQ_OK) status = awqi_check_shape_1d(importance, k, "importance");
    if (status == AWQ_OK) status = awqi_check_host(importance, "importance");
    for (int64_t j = 0; status == AWQ_OK && j < k; j++) {
        float value;
        awqi_load_columns(importance, 0, j, &value, 1);
        if (!isfinite(value) || value < 0.0f)
            return awqi_fail(isfinite(value) ? AWQ_ERROR_INVALID : AWQ_ERROR_NON_FINITE,
                             "importance: channel %lld is %g; it must be a finite number of at least 0", (long long)j,
                             (double)value);
        ranked[j].value = value;
    }
    return status;
}

static awq_status rank_by_calibration(awq_context *context, const awq_calibration *calibration, int64_t k,
                                      struct ranked *ranked)
{
    if (calibration == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "channels are to be chosen by activation, but nothing says what that is: "
                                            "give a search, a calibration or an importance");
    void *memory;
    awq_status status = awqi_alloc(context, (uint64_t)k, sizeof(double), "statistics of channels", &memory);
    if (status != AWQ_OK) return status;
    const double *values = memory;
    status = awq_calibration_get_statistic(calibration, AWQ_STATISTIC_MEAN_ABS, memory, k);
    for (int64_t j = 0; status == AWQ_OK && j < k; j++) ranked[j].value = values[j];
    awqi_free(context, memory);
    return status;
}

struct norms {
    const awq_tensor *w;
    struct ranked *ranked;
};

/* A column's sum belongs to one task and runs over the rows in order. */
static void sum_squares(void *user_data, int64_t block)
{
    const struct norms *norms = user_data;
    const int64_t first = block * BLOCK, count = awqi_min64(BLOCK, norms->w->shape[1] - first);
    for (int64_t row = 0; row < norms->w->shape[0]; row++) {
        float values[BLOCK];
        awqi_load_columns(norms->w, row, first, values, count);
        for (int64_t i = 0; i < count; i++) norms->ranked[first + i].value += (double)values[i] * (double)values[i];
    }
}

static void add_squares(awq_context *context, const awq_tensor *w, struct ranked *ranked)
{
    struct norms norms = {w, ranked};
    awqi_parallel_for(context, awqi_ceil_div(w->shape[1], BLOCK), sum_squares, &norms);
}

/* A weight elsewhere comes to the host some rows at a time, so that the sums are those of one that lies there. */
static awq_status rank_by_weight(awq_context *context, const awq_tensor *w, struct ranked *ranked)
{
    const int64_t n = w->shape[0], k = w->shape[1], most = awqi_min64(awqi_max64(FETCHED / k, 1), n);
    void *rows;
    if (w->device_type == AWQ_DEVICE_CPU) {
        add_squares(context, w, ranked);
        return AWQ_OK;
    }
    awq_status status = awqi_alloc(context, (uint64_t)most, (uint64_t)k * sizeof(float), "rows of a weight", &rows);
    if (status != AWQ_OK) return status;
    for (int64_t first = 0; status == AWQ_OK && first < n; first += most) {
        awq_tensor part;
        const int64_t count = awqi_min64(most, n - first);
        status = awqi_fetch_rows(context, w, first, count, rows);
        awq_tensor_init_const_2d(&part, rows, AWQ_F32, count, k);
        if (status == AWQ_OK) add_squares(context, &part, ranked);
    }
    awqi_free(context, rows);
    return status;
}

/* splitmix64: a number for each column that depends on it and on the seed only. */
static double random_value(uint64_t seed, int64_t column)
{
    uint64_t x = seed + (uint64_t)(column + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (double)((x ^ x >> 31) >> 11);
}

static awq_status rank(awq_context *context, const awq_quantize_options *options, const awq_calibration *calibration,
                       const awq_tensor *w, struct ranked *ranked)
{
    const int64_t k = w->shape[1];
    for (int64_t j = 0; j < k; j++) ranked[j] = (struct ranked){0.0, j};
    if (options->salient_rule == AWQ_SALIENT_BY_WEIGHT) return rank_by_weight(context, w, ranked);
    if (options->salient_rule == AWQ_SALIENT_BY_ACTIVATION)
        return options->importance != NULL ? rank_by_importance(options->importance, k, ranked)
                                           : rank_by_calibration(context, calibration, k, ranked);
    for (int64_t j = 0; j < k; j++) ranked[j].value = random_value(options->seed, j);
    return AWQ_OK;
}

static awq_status choose_by_rule(awq_context *context, const awq_quantize_options *options,
                                 const awq_calibration *calibration, const awq_tensor *w, struct awqi_salient *salient)
{
    const int64_t k = w->shape[1];
    salient->count = awqi_max64((int64_t)rint(options->salient_fraction * (double)k), 1);
    void *columns, *memory;
    awq_status status =
        awqi_alloc(context, (uint64_t)salient->count, sizeof *salient->columns, "salient columns", &columns);
    if (status != AWQ_OK) return status;
    salient->columns = columns;
    status = awqi_alloc(context, (uint64_t)k, sizeof(struct ranked), "channels in order of salience", &memory);
    if (status != AWQ_OK) return status;
    struct ranked *ranked = memory;
    status = rank(context, options, calibration, w, ranked);
    if (status == AWQ_OK) {
        qsort(ranked, (size_t)k, sizeof *ranked, compare_ranked);
        for (int64_t i = 0; i < salient->count; i++) salient->columns[i] = (int32_t)ranked[i].column;
        qsort(salient->columns, (size_t)salient->count, sizeof *salient->columns, compare_columns);
    }
    awqi_free(context, memory);
    return status;
}

/* AWQ_OK when 'columns' is I32 [S], ascending, and within k inputs. */
static awq_status check_columns(const awq_tensor *columns, int64_t k)
{
    awq_status status = awqi_check_tensor(columns, 1, 1u << AWQ_I32, "salient_columns");
    if (status == AWQ_OK) status = awqi_check_host(columns, "salient_columns");
    if (status != AWQ_OK) return status;
    const int32_t *values = awqi_tensor_data(columns);
    int64_t least = 0;
    for (int64_t i = 0; i < columns->shape[0]; i++) {
        const int64_t column = values[i * columns->strides[0]];
        if (column < least || column >= k)
            return awqi_fail(AWQ_ERROR_INVALID,
                             "salient_columns: entry %lld is %lld; columns ascend and lie within the %lld inputs",
                             (long long)i, (long long)column, (long long)k);
        least = column + 1;
    }
    return AWQ_OK;
}

static void copy_columns(const awq_tensor *columns, int32_t *to)
{
    const int32_t *values = awqi_tensor_data(columns);
    for (int64_t i = 0; i < columns->shape[0]; i++) to[i] = values[i * columns->strides[0]];
}

awq_status awqi_salient_choose(awq_context *context, const awq_quantize_options *options,
                               const awq_calibration *calibration, const awq_tensor *w, struct awqi_salient *salient)
{
    *salient = (struct awqi_salient){0};
    if (options->salient_columns == NULL && options->salient_fraction == 0.0) return AWQ_OK;
    if (w->shape[1] > INT32_MAX)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "salient columns of a weight of %lld inputs; up to %d are possible",
                         (long long)w->shape[1], INT32_MAX);
    if (options->salient_columns == NULL) return choose_by_rule(context, options, calibration, w, salient);
    void *memory;
    awq_status status = check_columns(options->salient_columns, w->shape[1]);
    if (status != AWQ_OK || options->salient_columns->shape[0] == 0) return status;
    const uint64_t count = (uint64_t)options->salient_columns->shape[0];
    status = awqi_alloc(context, count, sizeof *salient->columns, "salient columns", &memory);
    if (status != AWQ_OK) return status;
    salient->count = (int64_t)count;
    salient->columns = memory;
    copy_columns(options->salient_columns, salient->columns);
    return AWQ_OK;
}

void awqi_salient_release(awq_context *context, struct awqi_salient *salient)
{
    awqi_free(context, salient->columns);
    *salient = (struct awqi_salient){0};
}

void awqi_salient_mask(const struct awqi_salient *salient, const float *scales, int64_t k, float *factors)
{
    for (int64_t j = 0; j < k; j++) factors[j] = scales != NULL ? scales[j] : 1.0f;
    for (int64_t i = 0; i < salient->count; i++) factors[salient->columns[i]] = 0.0f;
}

/* ---- the columns of a weight */

awq_status awqi_weight_add_salient(awq_weight *weight, int64_t count)
{
    void *memory;
    if (count == 0) return AWQ_OK;
    awq_status status = awqi_alloc(weight->context, (uint64_t)count, sizeof *weight->salient_columns,
                                   "the salient columns of a weight", &memory);
    if (status != AWQ_OK) return status;
    weight->salient_columns = memory;
    status = awqi_alloc(weight->context, (uint64_t)weight->n, (uint64_t)count * sizeof *weight->salient_values,
                        "the salient columns of a weight", &memory);
    if (status != AWQ_OK) return status;
    weight->salient_values = memory;
    weight->salient_count = count;
    return AWQ_OK;
}

awq_status awqi_weight_set_salient(awq_weight *weight, const awq_tensor *columns, const awq_tensor *values)
{
    if (columns == NULL && values == NULL) return AWQ_OK;
    if (columns == NULL || values == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "salient_%s are missing beside salient_%s", columns ? "values" : "columns",
                         columns ? "columns" : "values");
    awq_status status = check_columns(columns, weight->k);
    if (status == AWQ_OK) status = awqi_check_tensor(values, 2, 1u << AWQ_F16, "salient_values");
    if (status == AWQ_OK) status = awqi_check_shape_2d(values, weight->n, columns->shape[0], "salient_values");
    if (status == AWQ_OK) status = awqi_check_host(values, "salient_values");
    if (status == AWQ_OK) status = awqi_weight_add_salient(weight, columns->shape[0]);
    if (status != AWQ_OK || weight->salient_count == 0) return status;
    copy_columns(columns, weight->salient_columns);
    awq_tensor copy;
    awq_tensor_init_2d(&copy, weight->salient_values, AWQ_F16, weight->n, weight->salient_count);
    awqi_tensor_copy_host(weight->context, values, &copy);
    for (int64_t i = 0; i < weight->n * weight->salient_count; i++)
        if ((weight->salient_values[i] & 0x7c00u) == 0x7c00u)
            return awqi_fail(AWQ_ERROR_NON_FINITE, "salient_values: row %lld, column %lld is %g",
                             (long long)(i / weight->salient_count), (long long)(i % weight->salient_count),
                             (double)awqi_f16_to_f32(weight->salient_values[i]));
    return AWQ_OK;
}

awq_status awq_weight_export_salient(const awq_weight *weight, awq_tensor *columns, awq_tensor *values)
{
    if (weight == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_weight_export_salient: weight is NULL");
    awq_status status = AWQ_OK;
    if (columns != NULL) {
        status = awqi_check_tensor(columns, 1, 1u << AWQ_I32, "columns");
        if (status == AWQ_OK) status = awqi_check_shape_1d(columns, weight->salient_count, "columns");
        if (status == AWQ_OK) status = awqi_check_writable(columns, "columns");
        if (status == AWQ_OK) status = awqi_check_host(columns, "columns");
    }
    if (status == AWQ_OK && values != NULL) {
        status = awqi_check_tensor(values, 2, 1u << AWQ_F16 | 1u << AWQ_F32, "values");
        if (status == AWQ_OK) status = awqi_check_shape_2d(values, weight->n, weight->salient_count, "values");
        if (status == AWQ_OK) status = awqi_check_writable(values, "values");
        if (status == AWQ_OK) status = awqi_check_host(values, "values");
    }
    if (status != AWQ_OK) return awqi_fail_in(status, "awq_weight_export_salient");
    if (weight->salient_count == 0) return AWQ_OK;
    awq_tensor from;
    if (columns != NULL) {
        awq_tensor_init_const_1d(&from, weight->salient_columns, AWQ_I32, weight->salient_count);
        awqi_tensor_copy_host(weight->context, &from, columns);
    }
    if (values != NULL) {
        awq_tensor_init_const_2d(&from, weight->salient_values, AWQ_F16, weight->n, weight->salient_count);
        awqi_tensor_copy_host(weight->context, &from, values);
    }
    return AWQ_OK;
}

awq_status awqi_weight_slice_salient(const awq_weight *from, int64_t first_row, int64_t first_column, awq_weight *to)
{
    int64_t begin = 0;
    while (begin < from->salient_count && from->salient_columns[begin] < first_column) begin++;
    int64_t end = begin;
    while (end < from->salient_count && from->salient_columns[end] < first_column + to->k) end++;
    awq_status status = awqi_weight_add_salient(to, end - begin);
    if (status != AWQ_OK) return status;
    for (int64_t i = begin; i < end; i++)
        to->salient_columns[i - begin] = from->salient_columns[i] - (int32_t)first_column;
    for (int64_t row = 0; begin < end && row < to->n; row++)
        memcpy(to->salient_values + row * to->salient_count,
               from->salient_values + (first_row + row) * from->salient_count + begin,
               (size_t)to->salient_count * sizeof *to->salient_values);
    return AWQ_OK;
}

/* Columns that are salient in any of the weights: into 'columns' where that is not NULL; returns their number. */
static int64_t unite_columns(size_t count, const awq_weight *const *weights, int32_t *columns)
{
    int64_t united = 0;
    for (int64_t least = 0;; united++) {
        int64_t next = INT64_MAX;
        for (size_t i = 0; i < count; i++)
            for (int64_t j = 0; j < weights[i]->salient_count; j++)
                if (weights[i]->salient_columns[j] >= least) {
                    next = awqi_min64(next, weights[i]->salient_columns[j]);
                    break;
                }
        if (next == INT64_MAX) return united;
        if (columns != NULL) columns[united] = (int32_t)next;
        least = next + 1;
    }
}

awq_status awqi_weight_stack_salient(size_t count, const awq_weight *const *weights, awq_weight *to)
{
    awq_status status = awqi_weight_add_salient(to, unite_columns(count, weights, NULL));
    if (status != AWQ_OK || to->salient_count == 0) return status;
    unite_columns(count, weights, to->salient_columns);
    uint16_t *values = to->salient_values;
    memset(values, 0, (size_t)(to->n * to->salient_count) * sizeof *values);
    for (size_t i = 0; i < count; i++)
        for (int64_t row = 0; row < weights[i]->n; row++, values += to->salient_count)
            for (int64_t j = 0, at = 0; j < weights[i]->salient_count; j++) {
                while (to->salient_columns[at] < weights[i]->salient_columns[j]) at++;
                values[at] = weights[i]->salient_values[row * weights[i]->salient_count + j];
            }
    return AWQ_OK;
}
