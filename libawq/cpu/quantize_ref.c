/* Group quantisation: the loop that defines it, fast enough to be run for every candidate of a search.
 *
 * A row is loaded, scaled and clipped in single precision, and each of its groups is turned into levels l = q - z,
 * whole numbers from which codes (l + z) and dequantised values (l s) both follow.  In the peer profiles every
 * operation is rounded to the dtype of w; EXACT works in F32. */
#include "cpu.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>

enum { MAX_TASKS = 64, LANES = 32 };

struct run {
    struct awqi_quantize_job *job;
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

static void load_row(const struct run *run, int64_t row, float *values)
{
    const struct awqi_quantize_job *job = run->job;
    awqi_load_row(job->w, row, values, run->k);
    if (job->input_scale != NULL) {
        for (int64_t i = 0; i < run->k; i++) values[i] *= job->input_scale[i];
        if (run->dtype != AWQ_F32)
            for (int64_t i = 0; i < run->k; i++) values[i] = awqi_round_to(run->dtype, values[i]);
    }
}

static void clip_group(float *values, int64_t count, float limit)
{
    for (int64_t i = 0; i < count; i++) {
        float value = values[i] > limit ? limit : values[i];
        values[i] = value < -limit ? -limit : value;
    }
}

/* Least and greatest of values[count], count >= 1; in lanes, so that compilers need no leave to reorder. */
static void find_range(const float *values, int64_t count, float *min, float *max)
{
    float least[LANES], greatest[LANES];
    for (int j = 0; j < LANES; j++) least[j] = greatest[j] = values[0];
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        for (int j = 0; j < LANES; j++) least[j] = values[i + j] < least[j] ? values[i + j] : least[j];
        for (int j = 0; j < LANES; j++) greatest[j] = values[i + j] > greatest[j] ? values[i + j] : greatest[j];
    }
    for (; i < count; i++) {
        least[0] = values[i] < least[0] ? values[i] : least[0];
        greatest[0] = values[i] > greatest[0] ? values[i] : greatest[0];
    }
    for (int half = LANES / 2; half > 0; half /= 2) {
        for (int j = 0; j < half; j++) least[j] = least[j + half] < least[j] ? least[j + half] : least[j];
        for (int j = 0; j < half; j++)
            greatest[j] = greatest[j + half] > greatest[j] ? greatest[j + half] : greatest[j];
    }
    *min = least[0];
    *max = greatest[0];
}

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

/* 'step' in the dtype it is stored in: never 0 nor infinite, since every code would be lost then. */
static float store_step(struct run *run, float step)
{
    int32_t dtype = run->job->quantizer.scale_dtype;
    float least = dtype == AWQ_F16 ? 0x1p-24f : dtype == AWQ_BF16 ? 0x1p-133f : 0x1p-149f;
    float greatest = dtype == AWQ_F16 ? 65504.0f : dtype == AWQ_BF16 ? 0x1.fep127f : FLT_MAX;
    float scale = awqi_round_to(dtype, step);
    if (scale >= least && scale <= greatest) return scale;
    atomic_fetch_add_explicit(&run->clamped_scales, 1, memory_order_relaxed);
    return scale < least ? least : greatest;
}

static void note_overflow(struct run *run, int64_t group)
{
    int_least64_t first = atomic_load(&run->first_overflow);
    while (group < first && !atomic_compare_exchange_weak(&run->first_overflow, &first, group)) continue;
}

static struct grid find_grid(struct run *run, int64_t group, const float *values, int64_t count)
{
    struct grid grid = {1.0f, 1.0f, run->symmetric ? (run->max_code + 1.0f) / 2.0f : 0.0f};
    float min, max;
    find_range(values, count, &min, &max);
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

/* values = the nearest level of each.  The bounds are whole numbers, so that clamping may come before rounding, and
 * small, so that adding and taking away 1.5 * 2^23 rounds half to even; both keep the loop free of calls. */
static void find_levels(const struct run *run, const struct grid *grid, float *values, int64_t count)
{
    const float low = -grid->offset, high = run->max_code - grid->offset, step = grid->step, magic = 0x1.8p23f;
    if (run->dtype != AWQ_F32) {
        for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(run->dtype, values[i] / step);
        for (int64_t i = 0; i < count; i++) {
            float value = values[i] > high ? high : values[i];
            values[i] = ((value < low ? low : value) + magic) - magic;
        }
        return;
    }
    for (int64_t i = 0; i < count; i++) {
        float quotient = values[i] / step;
        float value = quotient > high ? high : quotient;
        values[i] = ((value < low ? low : value) + magic) - magic;
    }
}

static void dequantize(const struct run *run, const float *levels, float scale, const float *divisors, float *values,
                       int64_t count)
{
    for (int64_t i = 0; i < count; i++) values[i] = levels[i] * scale;
    if (run->dtype != AWQ_F32)
        for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(run->dtype, values[i]);
    if (divisors == NULL) return;
    for (int64_t i = 0; i < count; i++) values[i] /= divisors[i];
    if (run->dtype != AWQ_F32)
        for (int64_t i = 0; i < count; i++) values[i] = awqi_round_to(run->dtype, values[i]);
}

static void quantize_group(struct run *run, int64_t row, int64_t group, float *values, int64_t begin, int64_t count)
{
    struct awqi_quantize_job *job = run->job;
    int64_t index = row * run->groups + group;
    if (job->clip != NULL) clip_group(values, count, awqi_round_to(run->dtype, job->clip[index]));
    struct grid grid = find_grid(run, index, values, count);
    if (job->scales != NULL) job->scales[index] = grid.scale;
    if (job->zeros != NULL) job->zeros[index] = (uint8_t)grid.offset;
    if (job->codes == NULL && job->dequantized == NULL) return;
    find_levels(run, &grid, values, count);
    if (job->codes != NULL) {
        uint8_t *codes = job->codes + row * run->k + begin;
        for (int64_t i = 0; i < count; i++) codes[i] = (uint8_t)(int32_t)(values[i] + grid.offset);
    }
    if (job->dequantized != NULL)
        dequantize(run, values, grid.scale, job->unscale && job->input_scale ? job->input_scale + begin : NULL,
                   job->dequantized + row * run->k + begin, count);
}

static void quantize_rows(void *user_data, int64_t task)
{
    struct run *run = user_data;
    float *values = run->rows + task * run->k;
    int64_t group_size = run->job->quantizer.group_size;
    int64_t end = awqi_min64((task + 1) * run->rows_per_task, run->n);
    for (int64_t row = task * run->rows_per_task; row < end; row++) {
        load_row(run, row, values);
        for (int64_t group = 0; group < run->groups; group++) {
            int64_t begin = group * group_size;
            quantize_group(run, row, group, values + begin, begin, awqi_min64(group_size, run->k - begin));
        }
    }
}

awq_status awqi_cpu_quantize(void *device, struct awqi_quantize_job *job)
{
    awq_context *context = ((struct awqi_cpu_device *)device)->context;
    const struct awqi_quantizer *quantizer = &job->quantizer;
    bool peer = quantizer->profile != AWQ_PROFILE_EXACT;
    struct run run = {
        .job = job,
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
