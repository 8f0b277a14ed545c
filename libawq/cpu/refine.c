/* Ranges and codes that lose little of the outputs, where rounding to nearest loses little of the weights.
 *
 * With e the error of one output's scaled weights and H = D^-1 X^T X D^-1 of their inputs, the output loses e^T H e =
 * |R e|^2, R being the upper triangular root of H.  The last row of R e depends on the last weight alone, the one before
 * it on the last two, and so on: going from the last column to the first, each level can make up for what all later ones
 * lost (Frantar et al., "GPTQ", arXiv 2210.17323, which goes the other way; Babai's nearest plane).  The range of a
 * group is searched when its turn comes, for the weights as they are to be by then.  Afterwards levels and steps are
 * moved one at a time wherever that lowers e^T H e, which a single pass cannot know.
 *
 * Outputs are independent.  A task takes PANEL of them side by side; columns go in blocks, within which errors meet one
 * by one (refine_body.h), while those of other blocks arrive in a product of matrices. */
#include "kernels.h"

#include <math.h>
#include <stdatomic.h>

enum {
    WIDTH = AWQI_REFINE_WIDTH,
    PANEL = AWQI_PANEL,
    BLOCK_STRIPS = (WIDTH + AWQI_STRIP - 1) / AWQI_STRIP,
    CROSS_ROWS = BLOCK_STRIPS * AWQI_STRIP,
    MAX_TASKS = 32,
    SWEEPS = 4, /* of descent */
    SHRINK_STEPS = 24 /* ranges are searched in steps of 1/24 of themselves, down to a half, and at last of 1/48 */
};

struct refine {
    struct awqi_refine_job *job;
    const struct awqi_cpu_kernels *kernels;
    int64_t n, k, group, groups;
    int64_t group_blocks; /* blocks of a group; 1 where a block has one or more groups */
    int64_t block_groups; /* groups of a block; 1 where a group has one or more blocks */
    int64_t blocks;
    float max_code;
    bool symmetric;
    float *strips;     /* [blocks][BLOCK_STRIPS][k][STRIP]: rows of R, or of H, as products take them */
    float *squares;    /* [blocks][WIDTH][WIDTH]: their part within a block */
    float *inverse;    /* [k]: 1 / their diagonal */
    float *importance; /* [k]: what a column's squared error counts for when ranges are compared */
    float *rooms;      /* [tasks][room_size] */
    int64_t tiles, tasks;
    atomic_uint_least64_t clamped_scales, zero_groups;
};

/* One task's memory.  Arrays of columns are [k][PANEL], of groups [groups][PANEL]. */
struct room {
    float *weights, *errors, *levels;
    float *scales, *offsets; /* of groups: the step, and the code of 0 */
    float *cross, *product;  /* [CROSS_ROWS][PANEL] */
};

static int64_t room_size(const struct refine *refine)
{
    return (3 * refine->k + 2 * refine->groups + 2 * CROSS_ROWS) * PANEL;
}

static struct room room_of(const struct refine *refine, int64_t task)
{
    const int64_t columns = refine->k * PANEL, groups = refine->groups * PANEL;
    float *weights = refine->rooms + task * room_size(refine);
    float *scales = weights + 3 * columns, *cross = scales + 2 * groups;
    return (struct room){weights, weights + columns, weights + 2 * columns, scales, scales + groups,
                         cross, cross + CROSS_ROWS * PANEL};
}

/* ---- blocks of columns: whole groups, or parts of one */

static int64_t block_begin(const struct refine *refine, int64_t block)
{
    if (refine->group_blocks == 1) return block * refine->block_groups * refine->group;
    return block / refine->group_blocks * refine->group + block % refine->group_blocks * WIDTH;
}

static int64_t block_end(const struct refine *refine, int64_t block)
{
    return block + 1 < refine->blocks ? block_begin(refine, block + 1) : refine->k;
}

/* The first and last block whose columns belong to a group have something to do once for all of it. */
static bool block_ends_group(const struct refine *refine, int64_t block)
{
    return refine->group_blocks == 1 || block_end(refine, block) % refine->group == 0 || block + 1 == refine->blocks;
}

static int64_t count_blocks(const struct refine *refine)
{
    if (refine->group_blocks == 1) return awqi_ceil_div(refine->groups, refine->block_groups);
    const int64_t whole = refine->k / refine->group, rest = refine->k % refine->group;
    return whole * refine->group_blocks + awqi_ceil_div(rest, WIDTH);
}

static struct awqi_refine_block block_view(const struct refine *refine, const struct room *room, int64_t block)
{
    const int64_t begin = block_begin(refine, block);
    return (struct awqi_refine_block){
        .width = refine->squares != NULL ? block_end(refine, block) - begin : 0,
        .matrix = refine->squares != NULL ? refine->squares + block * WIDTH * WIDTH : NULL,
        .inverse = refine->inverse + begin,
        .weights = room->weights + begin * PANEL,
        .cross = room->cross,
        .errors = room->errors + begin * PANEL,
        .levels = room->levels + begin * PANEL,
    };
}

/* cross = rows of the block, columns first .. of all, times errors. */
static void multiply_errors(const struct refine *refine, const struct room *room, int64_t block, int64_t first)
{
    const int64_t strips = awqi_ceil_div(block_end(refine, block) - block_begin(refine, block), AWQI_STRIP);
    memset(room->cross, 0, (size_t)(strips * AWQI_STRIP * PANEL) * sizeof *room->cross);
    for (; first < refine->k; first += AWQI_DEPTH) {
        const int64_t depth = awqi_min64(AWQI_DEPTH, refine->k - first);
        for (int64_t strip = 0; strip < strips; strip++)
            refine->kernels->tile(depth,
                                  refine->strips + ((block * BLOCK_STRIPS + strip) * refine->k + first) * AWQI_STRIP,
                                  room->errors + first * PANEL, room->cross + strip * AWQI_STRIP * PANEL);
    }
}

/* ---- R and H in blocks */

/* Columns that are multiplied by 0 are zeros, and have no error that others could make up for. */
static float column_scale(const struct refine *refine, int64_t column)
{
    const float *scales = refine->job->scaled->scales;
    return scales != NULL ? scales[column] : 1.0f;
}

static float root_element(const struct refine *refine, int64_t i, int64_t j)
{
    const float scale = column_scale(refine, j);
    return scale != 0.0f ? refine->job->root[i * refine->k + j] / scale : 0.0f;
}

static float gram_element(const struct refine *refine, int64_t i, int64_t j)
{
    const double scale = (double)column_scale(refine, i) * (double)column_scale(refine, j);
    const double value = refine->job->gram[i * refine->k + j] * (i == j ? 1.0 + refine->job->damping : 1.0);
    return scale != 0.0 ? (float)(value / scale) : 0.0f;
}

static void pack_block(struct refine *refine, int64_t block, float (*element)(const struct refine *, int64_t, int64_t))
{
    const int64_t begin = block_begin(refine, block), end = block_end(refine, block), k = refine->k;
    float *strips = refine->strips + block * BLOCK_STRIPS * k * AWQI_STRIP;
    float *square = refine->squares + block * WIDTH * WIDTH;
    for (int64_t i = begin; i < begin + CROSS_ROWS; i++) {
        float *strip = strips + (i - begin) / AWQI_STRIP * k * AWQI_STRIP + (i - begin) % AWQI_STRIP;
        for (int64_t j = 0; j < k; j++) strip[j * AWQI_STRIP] = i < end ? element(refine, i, j) : 0.0f;
        if (i >= end) continue;
        for (int64_t j = begin; j < end; j++)
            square[(i - begin) * WIDTH + j - begin] = strip[j * AWQI_STRIP];
        const float diagonal = strip[i * AWQI_STRIP];
        refine->inverse[i] = diagonal > 0.0f ? 1.0f / diagonal : 0.0f;
    }
}

static void pack_root(void *user_data, int64_t block)
{
    struct refine *refine = user_data;
    pack_block(refine, block, root_element);
    for (int64_t j = block_begin(refine, block); j < block_end(refine, block); j++) {
        const float diagonal = root_element(refine, j, j);
        refine->importance[j] = diagonal * diagonal;
    }
}

static void pack_gram(void *user_data, int64_t block)
{
    pack_block(user_data, block, gram_element);
}

/* Without products of inputs, columns are weighed one by one. */
static void weigh_columns(struct refine *refine)
{
    const double *squares = refine->job->squares;
    for (int64_t j = 0; j < refine->k; j++) {
        const double scale = (double)column_scale(refine, j);
        const double square = squares != NULL ? squares[j] : 1.0;
        refine->importance[j] = scale != 0.0 ? (float)(square / (scale * scale)) : 0.0f;
        refine->inverse[j] = 0.0f;
    }
}

/* ---- ranges */

/* What is tried of PANEL outputs' ranges [low, high] of one group: each end times a factor. */
struct range_search {
    const struct refine *refine;
    const float *targets, *importance;
    int64_t count;
    float low[PANEL], high[PANEL];
    float low_factor[PANEL], high_factor[PANEL], loss[PANEL]; /* the best so far */
    float *scales, *offsets;                                  /* and what they give */
};

static void find_ends(struct range_search *search, const float *limits)
{
    for (int lane = 0; lane < PANEL; lane++) search->low[lane] = search->high[lane] = 0.0f;
    for (int64_t i = 0; i < search->count; i++)
        for (int lane = 0; lane < PANEL; lane++) {
            const float value = search->targets[i * PANEL + lane];
            search->low[lane] = value < search->low[lane] ? value : search->low[lane];
            search->high[lane] = value > search->high[lane] ? value : search->high[lane];
        }
    for (int lane = 0; limits != NULL && lane < PANEL; lane++) {
        search->low[lane] = search->low[lane] < -limits[lane] ? -limits[lane] : search->low[lane];
        search->high[lane] = search->high[lane] > limits[lane] ? limits[lane] : search->high[lane];
    }
}

/* The step for one output.  Symmetric codes reach one further down than up, so the step may take the sign that puts the
 * larger end there: that is a negative 'high_factor'. */
static float range_step(const struct range_search *search, int lane, float low_factor, float high_factor)
{
    const float max_code = search->refine->max_code, half = (max_code + 1.0f) / 2.0f;
    const float low = search->low[lane], high = search->high[lane];
    if (low == high) return 1.0f;
    if (!search->refine->symmetric) return high / max_code * high_factor - low / max_code * low_factor;
    const float end = high > -low ? high : low;
    return low_factor * (high_factor < 0.0f ? -end / half : fabsf(end) / (half - 1.0f));
}

/* The step as stored, and the code of 0. */
static void propose(const struct range_search *search, int lane, float low_factor, float high_factor, float *scale,
                    float *offset)
{
    const struct refine *refine = search->refine;
    const float step = range_step(search, lane, low_factor, high_factor);
    *scale = awqi_weight_stored_scale(refine->job->quantizer.scale_dtype, step);
    *offset = (refine->max_code + 1.0f) / 2.0f;
    if (refine->symmetric) return;
    const float zero = rintf(-search->low[lane] * low_factor / *scale);
    *offset = zero > refine->max_code ? refine->max_code : zero < 0.0f ? 0.0f : zero;
}

static void try_range(struct range_search *search, const float *low_factor, const float *high_factor)
{
    float scales[PANEL], offsets[PANEL], inverse[PANEL], low[PANEL], high[PANEL], losses[PANEL];
    for (int lane = 0; lane < PANEL; lane++) {
        propose(search, lane, low_factor[lane], high_factor[lane], &scales[lane], &offsets[lane]);
        inverse[lane] = 1.0f / scales[lane];
        low[lane] = -offsets[lane];
        high[lane] = search->refine->max_code - offsets[lane];
    }
    const struct awqi_refine_grid grid = {scales, inverse, low, high};
    search->refine->kernels->refine.measure(search->targets, search->importance, search->count, &grid, losses);
    for (int lane = 0; lane < PANEL; lane++) {
        if (!(losses[lane] < search->loss[lane])) continue;
        search->loss[lane] = losses[lane];
        search->low_factor[lane] = low_factor[lane];
        search->high_factor[lane] = high_factor[lane];
        search->scales[lane] = scales[lane];
        search->offsets[lane] = offsets[lane];
    }
}

/* The best factors so far, each end moved. */
static void try_around(struct range_search *search, float low_change, float high_change)
{
    float low_factor[PANEL], high_factor[PANEL];
    for (int lane = 0; lane < PANEL; lane++) {
        low_factor[lane] = search->low_factor[lane] + low_change;
        high_factor[lane] = search->high_factor[lane] + high_change;
    }
    try_range(search, low_factor, high_factor);
}

static void try_both(struct range_search *search, float low, float high)
{
    float low_factor[PANEL], high_factor[PANEL];
    for (int lane = 0; lane < PANEL; lane++) {
        low_factor[lane] = low;
        high_factor[lane] = high;
    }
    try_range(search, low_factor, high_factor);
}

static void search_range(struct range_search *search)
{
    const float step = 1.0f / SHRINK_STEPS;
    for (int i = 1; i <= SHRINK_STEPS / 2; i++) try_both(search, 1.0f - (float)i * step, 1.0f - (float)i * step);
    if (search->refine->symmetric) {
        for (int i = 0; i <= SHRINK_STEPS / 2; i++) try_both(search, 1.0f - (float)i * step, -1.0f);
        try_around(search, step / 2, 0.0f);
        try_around(search, -step / 2, 0.0f);
        return;
    }
    for (int i = 3; i >= -3; i--) if (i != 0) try_around(search, (float)i * step, 0.0f);
    for (int i = 3; i >= -3; i--) if (i != 0) try_around(search, 0.0f, (float)i * step);
    for (int sign = -1; sign <= 1; sign += 2) {
        try_around(search, (float)sign * step / 2, 0.0f);
        try_around(search, 0.0f, (float)sign * step / 2);
    }
}

static void count_odd_groups(struct refine *refine, const struct range_search *search, int64_t outputs)
{
    for (int lane = 0; lane < outputs; lane++) {
        const float step = range_step(search, lane, search->low_factor[lane], search->high_factor[lane]);
        if (search->low[lane] == search->high[lane])
            atomic_fetch_add_explicit(&refine->zero_groups, 1, memory_order_relaxed);
        if (search->scales[lane] != awqi_round_to(refine->job->quantizer.scale_dtype, step))
            atomic_fetch_add_explicit(&refine->clamped_scales, 1, memory_order_relaxed);
    }
}

/* Choose the grid of one group of a tile, from what its weights should be. */
static void choose_range(struct refine *refine, const struct room *room, int64_t tile, int64_t group,
                         const float *targets)
{
    const int64_t begin = group * refine->group;
    struct range_search search = {
        .refine = refine,
        .targets = targets,
        .importance = refine->importance + begin,
        .count = awqi_min64(refine->group, refine->k - begin),
        .scales = room->scales + group * PANEL,
        .offsets = room->offsets + group * PANEL,
    };
    const float *clip = refine->job->clip;
    float limits[PANEL];
    for (int64_t lane = 0; clip != NULL && lane < PANEL; lane++)
        limits[lane] = clip[awqi_min64(tile * PANEL + lane, refine->n - 1) * refine->groups + group];
    find_ends(&search, clip != NULL ? limits : NULL);
    for (int lane = 0; lane < PANEL; lane++) search.loss[lane] = INFINITY;
    try_both(&search, 1.0f, 1.0f);
    if (refine->job->range == AWQ_RANGE_SEARCH) search_range(&search);
    count_odd_groups(refine, &search, awqi_min64(PANEL, refine->n - tile * PANEL));
}

/* ---- tiles */

struct tile_grid {
    float inverse[PANEL], low[PANEL], high[PANEL];
};

static struct awqi_refine_grid grid_of(const struct refine *refine, const struct room *room, int64_t group,
                                       struct tile_grid *memory)
{
    float *scales = room->scales + group * PANEL;
    const float *offsets = room->offsets + group * PANEL;
    for (int lane = 0; lane < PANEL; lane++) {
        memory->inverse[lane] = 1.0f / scales[lane];
        memory->low[lane] = -offsets[lane];
        memory->high[lane] = refine->max_code - offsets[lane];
    }
    return (struct awqi_refine_grid){scales, memory->inverse, memory->low, memory->high};
}

/* Outputs past the last are zeros. */
static void load_tile(const struct refine *refine, const struct room *room, int64_t tile)
{
    float values[WIDTH];
    for (int64_t lane = 0; lane < PANEL; lane++) {
        const int64_t row = tile * PANEL + lane;
        for (int64_t first = 0; first < refine->k; first += WIDTH) {
            const int64_t count = awqi_min64(WIDTH, refine->k - first);
            if (row < refine->n) awqi_scaled_load(refine->job->scaled, row, first, values, count);
            else memset(values, 0, sizeof values);
            for (int64_t j = 0; j < count; j++) room->weights[(first + j) * PANEL + lane] = values[j];
        }
    }
}

static void store_tile(const struct refine *refine, const struct room *room, int64_t tile)
{
    struct awqi_refine_job *job = refine->job;
    for (int64_t row = tile * PANEL; row < awqi_min64((tile + 1) * PANEL, refine->n); row++) {
        const int64_t lane = row % PANEL;
        for (int64_t group = 0; group < refine->groups; group++) {
            const float offset = room->offsets[group * PANEL + lane];
            const int64_t end = awqi_min64((group + 1) * refine->group, refine->k);
            job->scales[row * refine->groups + group] = room->scales[group * PANEL + lane];
            job->zeros[row * refine->groups + group] = (uint8_t)offset;
            for (int64_t j = group * refine->group; j < end; j++)
                job->codes[row * refine->k + j] = (uint8_t)(room->levels[j * PANEL + lane] + offset);
        }
    }
}

/* Back from what store_tile wrote; outputs past the last have all levels 0. */
static void reload_tile(const struct refine *refine, const struct room *room, int64_t tile)
{
    const struct awqi_refine_job *job = refine->job;
    for (int64_t lane = 0; lane < PANEL; lane++) {
        const int64_t row = tile * PANEL + lane;
        for (int64_t j = 0; j < refine->k; j++) {
            const int64_t group = j / refine->group, at = row * refine->groups + group, to = j * PANEL + lane;
            const float scale = row < refine->n ? job->scales[at] : 1.0f, offset = row < refine->n ? job->zeros[at] : 0;
            room->scales[group * PANEL + lane] = scale;
            room->offsets[group * PANEL + lane] = offset;
            room->levels[to] = row < refine->n ? (float)job->codes[row * refine->k + j] - offset : 0.0f;
            room->errors[to] = room->weights[to] - room->levels[to] * scale;
        }
    }
}

/* ---- the pass from the last column to the first */

/* Groups that lie in this block whole: each one's range is for the weights that its turn finds. */
static void round_groups(struct refine *refine, const struct room *room, int64_t tile, int64_t block,
                         const struct awqi_refine_block *view)
{
    const int64_t begin = block_begin(refine, block), end = block_end(refine, block);
    for (int64_t group = (end - 1) / refine->group; group * refine->group >= begin; group--) {
        const int64_t first = group * refine->group;
        const int64_t count = awqi_min64(refine->group, refine->k - first);
        struct tile_grid memory;
        float *targets = room->levels + first * PANEL; /* which are not there yet */
        refine->kernels->refine.feedback(view, first - begin, count, NULL);
        for (int64_t i = 0; i < count * PANEL; i++)
            targets[i] = room->weights[first * PANEL + i] - room->errors[first * PANEL + i];
        choose_range(refine, room, tile, group, targets);
        const struct awqi_refine_grid grid = grid_of(refine, room, group, &memory);
        refine->kernels->refine.feedback(view, first - begin, count, &grid);
    }
}

static void round_tile(struct refine *refine, const struct room *room, int64_t tile)
{
    load_tile(refine, room, tile);
    memset(room->cross, 0, CROSS_ROWS * PANEL * sizeof *room->cross);
    for (int64_t block = refine->blocks - 1; block >= 0; block--) {
        const struct awqi_refine_block view = block_view(refine, room, block);
        if (refine->strips != NULL) multiply_errors(refine, room, block, block_end(refine, block));
        if (refine->group_blocks == 1) {
            round_groups(refine, room, tile, block, &view);
            continue;
        }
        /* A group wider than a block gets its range from the weights as they are. */
        const int64_t group = block_begin(refine, block) / refine->group;
        if (block_ends_group(refine, block))
            choose_range(refine, room, tile, group, room->weights + group * refine->group * PANEL);
        struct tile_grid memory;
        const struct awqi_refine_grid grid = grid_of(refine, room, group, &memory);
        refine->kernels->refine.feedback(&view, 0, block_end(refine, block) - block_begin(refine, block), &grid);
    }
    store_tile(refine, room, tile);
}

/* ---- descent */

/* Move the step of a group to where e^T H e is smallest while levels stay; 'cross' is H e, from the group's columns on. */
static void refit_scale(const struct refine *refine, const struct room *room, const struct awqi_refine_block *view,
                        int64_t group, int64_t first, int64_t count)
{
    float *scales = room->scales + group * PANEL;
    float along[PANEL] = {0}, curve[PANEL] = {0}, change[PANEL];
    refine->kernels->refine.product(view, first, count, view->levels, room->product);
    for (int64_t i = first * PANEL; i < (first + count) * PANEL; i += PANEL)
        for (int lane = 0; lane < PANEL; lane++) {
            along[lane] += view->levels[i + lane] * view->cross[i + lane];
            curve[lane] += view->levels[i + lane] * room->product[i + lane];
        }
    for (int lane = 0; lane < PANEL; lane++) {
        const float wanted = curve[lane] > 0.0f ? scales[lane] + along[lane] / curve[lane] : scales[lane];
        const float stored = isfinite(wanted) && wanted * scales[lane] > 0.0f
            ? awqi_weight_stored_scale(refine->job->quantizer.scale_dtype, wanted) : scales[lane];
        change[lane] = stored - scales[lane];
        if (!(change[lane] * (2.0f * along[lane] - change[lane] * curve[lane]) > 0.0f)) change[lane] = 0.0f;
        scales[lane] += change[lane];
    }
    for (int64_t i = first * PANEL; i < (first + count) * PANEL; i += PANEL)
        for (int lane = 0; lane < PANEL; lane++) view->errors[i + lane] -= change[lane] * view->levels[i + lane];
    for (int64_t i = first * PANEL; i < view->width * PANEL; i += PANEL)
        for (int lane = 0; lane < PANEL; lane++) view->cross[i + lane] -= change[lane] * room->product[i + lane];
}

static void descend_tile(struct refine *refine, const struct room *room, int64_t tile)
{
    load_tile(refine, room, tile);
    reload_tile(refine, room, tile);
    for (int sweep = 0; sweep < SWEEPS; sweep++)
        for (int64_t block = 0; block < refine->blocks; block++) {
            const int64_t begin = block_begin(refine, block), end = block_end(refine, block);
            const struct awqi_refine_block view = block_view(refine, room, block);
            multiply_errors(refine, room, block, 0);
            for (int64_t first = begin; first < end;) {
                const int64_t group = first / refine->group;
                const int64_t count = awqi_min64((group + 1) * refine->group, end) - first;
                struct tile_grid memory;
                if (refine->group_blocks == 1) refit_scale(refine, room, &view, group, first - begin, count);
                const struct awqi_refine_grid grid = grid_of(refine, room, group, &memory);
                refine->kernels->refine.descend(&view, first - begin, count, &grid);
                first += count;
            }
        }
    store_tile(refine, room, tile);
}

/* ---- all of it */

static void round_task(void *user_data, int64_t task)
{
    struct refine *refine = user_data;
    const struct room room = room_of(refine, task);
    for (int64_t tile = task; tile < refine->tiles; tile += refine->tasks) round_tile(refine, &room, tile);
}

static void descend_task(void *user_data, int64_t task)
{
    struct refine *refine = user_data;
    const struct room room = room_of(refine, task);
    for (int64_t tile = task; tile < refine->tiles; tile += refine->tasks) descend_tile(refine, &room, tile);
}

static awq_status allocate_floats(awq_context *context, int64_t count, int64_t size, const char *what, float **floats)
{
    void *memory = NULL;
    awq_status status = awqi_alloc(context, (uint64_t)count, (uint64_t)size * sizeof(float), what, &memory);
    *floats = memory;
    return status;
}

awq_status awqi_cpu_refine(void *device, struct awqi_refine_job *job)
{
    const struct awqi_cpu_device *cpu = device;
    const int64_t group = job->quantizer.group_size;
    struct refine refine = {
        .job = job,
        .kernels = cpu->kernels,
        .n = job->scaled->w->shape[0],
        .k = job->scaled->w->shape[1],
        .group = group,
        .groups = awqi_ceil_div(job->scaled->w->shape[1], group),
        .group_blocks = awqi_ceil_div(group, WIDTH),
        .block_groups = awqi_max64(1, WIDTH / group),
        .max_code = (float)((1 << job->quantizer.bits) - 1),
        .symmetric = job->quantizer.flags & AWQ_QUANTIZE_SYMMETRIC,
    };
    refine.blocks = count_blocks(&refine);
    refine.tiles = awqi_ceil_div(refine.n, PANEL);
    refine.tasks = awqi_min64(refine.tiles, MAX_TASKS);
    awq_context *context = cpu->context;
    awq_status status = allocate_floats(context, refine.k, 1, "diagonals", &refine.inverse);
    if (status == AWQ_OK) status = allocate_floats(context, refine.k, 1, "column weights", &refine.importance);
    if (status == AWQ_OK)
        status = allocate_floats(context, refine.tasks, room_size(&refine), "weights to round", &refine.rooms);
    if (status == AWQ_OK && job->root != NULL)
        status = allocate_floats(context, refine.blocks * BLOCK_STRIPS, refine.k * AWQI_STRIP, "products of inputs",
                                 &refine.strips);
    if (status == AWQ_OK && job->root != NULL)
        status = allocate_floats(context, refine.blocks, WIDTH * WIDTH, "products of inputs", &refine.squares);
    if (status != AWQ_OK) goto done;
    if (job->root != NULL) awqi_parallel_for(context, refine.blocks, pack_root, &refine);
    else weigh_columns(&refine);
    awqi_parallel_for(context, refine.tasks, round_task, &refine);
    if (job->gram != NULL) {
        awqi_parallel_for(context, refine.blocks, pack_gram, &refine);
        awqi_parallel_for(context, refine.tasks, descend_task, &refine);
    }
    job->clamped_scales = refine.clamped_scales;
    job->zero_groups = refine.zero_groups;
done:
    awqi_free(context, refine.squares);
    awqi_free(context, refine.strips);
    awqi_free(context, refine.rooms);
    awqi_free(context, refine.importance);
    awqi_free(context, refine.inverse);
    return status;
}
