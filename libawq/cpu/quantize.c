/* Group quantisation, fast enough to be run for every candidate of a search.
 *
 * A row is loaded, scaled and clipped in single precision, and each of its groups is turned into levels l = q - z,
 * whole numbers from which codes (l + z) and dequantised values (l s) both follow.  In the peer profiles every
 * operation is rounded to the dtype of w; EXACT works in F32. */
#include "quantize.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>

enum { MAX_TASKS = 64 };

struct run {
    struct awqi_quantize_job *job;
    const struct awqi_quantize_kernels *kernels;
    int64_t n, k, groups, rows_per_task;
    int32_t dtype; /* every operation rounds to this */
    bool peer, symmetric;
    float max_code;
    float *rows; /* [tasks][k], scratch */
    atomic_uint_least64_t clamped_scales, zero_groups;
    atomic_int_least64_t first_overflow; /* row * groups + group; INT64_MAX: none */
};

/* How one group is mapped to codes.  EXACT divides by the scale as stored; the peers, who keep scales in the dtype of the
 * weight, by the step itself, so that there a narrower scale_dtype costs accuracy but changes no code. */
struct grid {
    float step;   /* what values are divided by */
    float scale;  /* step as stored */
    float offset; /* the code of 0: the zero point, or 2^(bits-1) when symmetric */
};

static float find_step(const struct run *run, float min, float max)
{
    float range, divisor;
    if (run->symmetric) {
        range = max > -min ? max : -min;
        divisor = (run->max_code - 1.0f) / 2.0f; /* 2^(bits-1) - 1 */
    } else {
        range = awqi_round_to(run->dtype, max - min);
        divisor = run->max_code;
    }
    if (run->peer) {
        float least = awqi_round_to(run->dtype, 1e-5f);
        range = range < least ? least : range;
    } else if (isinf(range)) {
        return max / divisor - min / divisor;
    }
    return awqi_round_to(run->dtype, range / divisor);
}

static float store_step(struct run *run, float step)
{
    const int32_t dtype = run->job->quantizer.scale_dtype;
    const float scale = awqi_weight_stored_scale(dtype, step);
    if (scale != awqi_round_to(dtype, step))
        atomic_fetch_add_explicit(&run->clamped_scales, 1, memory_order_relaxed);
    return scale;
}

static void note_overflow(struct run *run, int64_t group)
{
    int_least64_t first = atomic_load(&run->first_overflow);
    while (group < first && !atomic_compare_exchange_weak(&run->first_overflow, &first, group)) continue;
}

static struct grid find_grid(struct run *run, int64_t group, float min, float max)
{
    struct grid grid = {1.0f, 1.0f, run->symmetric ? (run->max_code + 1.0f) / 2.0f : 0.0f};
    if (min == 0.0f && max == 0.0f) {
        atomic_fetch_add_explicit(&run->zero_groups, 1, memory_order_relaxed);
        if (!run->peer) return grid;
    }
    if (!run->peer) {
        min = min < 0.0f ? min : 0.0f;
        max = max > 0.0f ? max : 0.0f;
    }
    grid.step = find_step(run, min, max);
    if (run->peer && isinf(grid.step)) note_overflow(run, group);
    grid.scale = store_step(run, grid.step);
    if (!run->peer) grid.step = grid.scale;
    if (!run->symmetric) {
        float zero = -rintf(awqi_round_to(run->dtype, min / grid.step));
        zero = zero < run->max_code ? zero : run->max_code;
        grid.offset = zero > 0.0f ? zero : 0.0f;
    }
    return grid;
}

static void quantize_group(struct run *run, int64_t row, int64_t group, float *values, int64_t begin, int64_t count)
{
    struct awqi_quantize_job *job = run->job;
    const struct awqi_quantize_kernels *kernels = run->kernels;
    const float *input_scale = job->input_scale != NULL ? job->input_scale + begin : NULL;
    int64_t index = row * run->groups + group;
    float limit = job->clip != NULL ? awqi_round_to(run->dtype, job->clip[index]) : INFINITY, min, max;
    kernels->scale(run->dtype, values, input_scale, limit, count, &min, &max);
    struct grid grid = find_grid(run, index, min, max);
    if (job->scales != NULL) job->scales[index] = grid.scale;
    if (job->zeros != NULL) job->zeros[index] = (uint8_t)grid.offset;
    if (job->codes == NULL && job->dequantized == NULL) return;
    int64_t at = row * run->k + begin;
    kernels->find_levels(run->dtype, values, grid.step, -grid.offset, run->max_code - grid.offset, count);
    if (job->codes != NULL) kernels->store_codes(values, grid.offset, job->codes + at, count);
    if (job->dequantized != NULL)
        kernels->dequantize(run->dtype, values, grid.scale, job->unscale ? input_scale : NULL, job->dequantized + at,
                            count);
}

static void quantize_rows(void *user_data, int64_t task)
{
    struct run *run = user_data;
    float *values = run->rows + task * run->k;
    int64_t group_size = run->job->quantizer.group_size;
    int64_t end = awqi_min64((task + 1) * run->rows_per_task, run->n);
    for (int64_t row = task * run->rows_per_task; row < end; row++) {
        awqi_load_row(run->job->w, row, values, run->k);
        for (int64_t group = 0; group < run->groups; group++) {
            int64_t begin = group * group_size;
            quantize_group(run, row, group, values + begin, begin, awqi_min64(group_size, run->k - begin));
        }
    }
}

/* ---- the table, in ascending order: the last one whose features are all there is the best */

static const struct awqi_quantize_kernels *const table[] = {
    &awqi_quantize_ref,
#if defined(__x86_64__)
    &awqi_quantize_avx2,
    &awqi_quantize_avx512,
#elif defined(__aarch64__)
    &awqi_quantize_neon,
#endif
};

enum { ENTRIES = sizeof table / sizeof *table };

const struct awqi_quantize_kernels *awqi_quantize_kernels_at(size_t index)
{
    return index < ENTRIES ? table[index] : NULL;
}

const struct awqi_quantize_kernels *awqi_quantize_kernels_for(uint32_t features)
{
    const struct awqi_quantize_kernels *best = table[0];
    for (size_t i = 1; i < ENTRIES; i++)
        if ((table[i]->features & ~features) == 0) best = table[i];
    return best;
}

awq_status awqi_cpu_quantize(void *device, struct awqi_quantize_job *job)
{
    const struct awqi_cpu_device *cpu = device;
    awq_context *context = cpu->context;
    const struct awqi_quantizer *quantizer = &job->quantizer;
    bool peer = quantizer->profile != AWQ_PROFILE_EXACT;
    struct run run = {
        .job = job,
        .kernels = awqi_quantize_kernels_for(cpu->info.cpu_features),
        .n = job->w->shape[0],
        .k = job->w->shape[1],
        .groups = awqi_ceil_div(job->w->shape[1], quantizer->group_size),
        .dtype = peer ? job->w->dtype : AWQ_F32,
        .peer = peer,
        .symmetric = quantizer->flags & AWQ_QUANTIZE_SYMMETRIC,
        .max_code = (float)((1 << quantizer->bits) - 1),
        .first_overflow = INT64_MAX,
    };
    run.rows_per_task = awqi_ceil_div(run.n, MAX_TASKS);
    int64_t tasks = run.rows_per_task > 0 ? awqi_ceil_div(run.n, run.rows_per_task) : 0;
    void *rows;
    awq_status status = awqi_alloc(context, (uint64_t)(tasks * run.k), sizeof *run.rows, "rows to quantise", &rows);
    if (status != AWQ_OK) return status;
    run.rows = rows;
    awqi_parallel_for(context, tasks, quantize_rows, &run);
    awqi_free(context, rows);
    if (run.first_overflow != INT64_MAX)
        return awqi_fail(AWQ_ERROR_NON_FINITE,
                         "row %lld, group %lld: the range overflows %s, in which this profile computes",
                         (long long)(run.first_overflow / run.groups), (long long)(run.first_overflow % run.groups),
                         awq_dtype_name(run.dtype));
    job->clamped_scales = run.clamped_scales;
    job->zero_groups = run.zero_groups;
    return AWQ_OK;
}
