/* The loops of refine.c for one instruction set; included after linear_body.h, whose vectors and helpers they use.
 *
 * PANEL outputs lie side by side, a column of each.  Nothing is contracted and every sum runs in one order, so all
 * instruction sets give the same bits. */

enum { VECTORS = AWQI_PANEL / LANES };

INLINE vec select_lanes(ivec mask, vec yes, vec no)
{
    return (vec)(((ivec)yes & mask) | ((ivec)no & ~mask));
}

/* Level of 'value' in units of the step: clamped, then rounded half to even by adding and taking away 1.5 * 2^23. */
INLINE vec nearest_level(vec value, vec low, vec high)
{
    const vec magic = splat(0x1.8p23f);
    value = select_lanes(value > high, high, value);
    value = select_lanes(value < low, low, value);
    return (value + magic) - magic;
}

TARGET static void refine_feedback(const struct awqi_refine_block *block, int64_t first, int64_t count,
                                   const struct awqi_refine_grid *grid)
{
    for (int64_t i = first + count - 1; i >= first; i--) {
        const float *root = block->width > 0 ? block->matrix + i * AWQI_REFINE_WIDTH : NULL;
        vec sum[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) sum[v] = load(block->cross + i * AWQI_PANEL + v * LANES);
        for (int64_t j = i + 1; j < block->width; j++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[v] += splat(root[j]) * load(block->errors + j * AWQI_PANEL + v * LANES);
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = i * AWQI_PANEL + v * LANES;
            vec error = -sum[v] * splat(block->inverse[i]);
            if (grid != NULL) {
                const vec w = load(block->weights + at), scale = load(grid->scales + v * LANES);
                const vec level = nearest_level((w - error) * load(grid->inverse + v * LANES),
                                                load(grid->low + v * LANES), load(grid->high + v * LANES));
                store(block->levels + at, level);
                error = w - level * scale;
            }
            store(block->errors + at, error);
        }
    }
}

TARGET static void refine_measure(const float *targets, const float *weights, int64_t count,
                                  const struct awqi_refine_grid *grid, float *losses)
{
    vec sum[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) sum[v] = splat(0.0f);
    for (int64_t i = 0; i < count; i++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            const vec target = load(targets + i * AWQI_PANEL + v * LANES);
            const vec level = nearest_level(target * load(grid->inverse + v * LANES), load(grid->low + v * LANES),
                                            load(grid->high + v * LANES));
            const vec error = target - level * load(grid->scales + v * LANES);
            sum[v] += splat(weights[i]) * (error * error);
        }
    for (int v = 0; v < VECTORS; v++) store(losses + v * LANES, sum[v]);
}

TARGET static void refine_product(const struct awqi_refine_block *block, int64_t first, int64_t count,
                                  const float *columns, float *product)
{
    for (int64_t i = first; i < block->width; i++) {
        const float *row = block->matrix + i * AWQI_REFINE_WIDTH;
        vec sum[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) sum[v] = splat(0.0f);
        for (int64_t j = first; j < first + count; j++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[v] += splat(row[j]) * load(columns + j * AWQI_PANEL + v * LANES);
        UNROLL for (int v = 0; v < VECTORS; v++) store(product + i * AWQI_PANEL + v * LANES, sum[v]);
    }
}

TARGET static void refine_descend(const struct awqi_refine_block *block, int64_t first, int64_t count,
                                  const struct awqi_refine_grid *grid)
{
    for (int64_t i = first; i < first + count; i++) {
        const float *row = block->matrix + i * AWQI_REFINE_WIDTH;
        vec change[VECTORS];
        ivec changed = {0};
        for (int v = 0; v < VECTORS; v++) {
            const int64_t at = i * AWQI_PANEL + v * LANES;
            const vec scale = load(grid->scales + v * LANES), old = load(block->levels + at);
            const vec step = load(block->cross + at) * splat(block->inverse[i]) * load(grid->inverse + v * LANES);
            const vec level = nearest_level(old + step, load(grid->low + v * LANES), load(grid->high + v * LANES));
            change[v] = (level - old) * scale;
            changed |= level != old;
            store(block->levels + at, level);
            store(block->errors + at, load(block->errors + at) - change[v]);
        }
        int32_t any = 0;
        UNROLL for (int lane = 0; lane < LANES; lane++) any |= changed[lane];
        if (any == 0) continue;
        for (int64_t j = first; j < block->width; j++)
            UNROLL for (int v = 0; v < VECTORS; v++) {
                float *cross = block->cross + j * AWQI_PANEL + v * LANES;
                store(cross, load(cross) - splat(row[j]) * change[v]);
            }
    }
}

#define REFINE_KERNELS {refine_feedback, refine_measure, refine_product, refine_descend}
