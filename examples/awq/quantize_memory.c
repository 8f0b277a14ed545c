/* What quantising will take, from the shapes alone: an upper bound that is close. */
#include "quantize.h"

enum {
    CHUNK_TOKENS = 2048,      /* that run through a block at once, about */
    LIBRARY_ROWS = 512,       /* of the widest input, in the library: for a product, or to round */
    CLIP_ELEMENTS = 1 << 20,  /* of a weight that a clip search works on at once */
    CLIP_BYTES = 12,          /* for each of them */
    CLIP_ROWS = 512,          /* of samples */
    REFINE_TASKS = 32,        /* of a refinement */
    REFINE_COLUMN_BYTES = 640, /* of each, for a column */
    ROW_BYTES = 32            /* that a sampled row takes beside its values */
};

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

struct session_options calibration_session(const struct quantize_job *job)
{
    int64_t length = job->windows.columns, sequences = CHUNK_TOKENS / length;
    if (sequences > job->windows.rows) sequences = job->windows.rows;
    if (sequences < 1) sequences = 1;
    return (struct session_options){.max_rows = sequences * length, .sequences = sequences, .capacity = length};
}

uint64_t mapped_bytes(const struct quantize_job *job)
{
    const uint64_t layers = (uint64_t)job->config.layers;
    uint64_t largest = 0, in_blocks = 0;
    for (int64_t i = 0; i < awq_checkpoint_count(job->source); i++) {
        const char *name = awq_checkpoint_name(job->source, i);
        awq_tensor view;
        if (awq_checkpoint_get(job->source, name, &view) != AWQ_OK) continue;
        uint64_t bytes = tensor_bytes(&view);
        if (output_is_of_block(name, &job->config))
            in_blocks += bytes;
        else
            largest = larger(largest, bytes);
    }
    return larger(in_blocks / layers, largest);
}

/* The linears of a block in numbers. */
struct shapes {
    uint64_t block, largest_point, largest_linear; /* weights */
    uint64_t widest, inputs;                       /* the longest input, and all of them together */
    uint64_t groups, group;                        /* scales, and weights to one at most */
};

static struct shapes add_shapes(const struct quantize_job *job)
{
    struct shapes shapes = {0};
    int64_t size = job->settings->quantizer.group_size;
    for (int point = 0; point < block_points(&job->config); point++) {
        uint64_t inputs = (uint64_t)point_inputs(&job->config, point), weights = 0;
        uint64_t group = size > 0 && (uint64_t)size < inputs ? (uint64_t)size : inputs;
        for (int i = 0; i < point_linears(&job->config, point); i++) {
            int64_t n, k;
            block_linear_shape(&job->config, point_linear(point, i), &n, &k);
            weights += (uint64_t)(n * k);
            shapes.largest_linear = larger(shapes.largest_linear, (uint64_t)(n * k));
        }
        shapes.block += weights;
        shapes.largest_point = larger(shapes.largest_point, weights);
        shapes.widest = larger(shapes.widest, inputs);
        shapes.inputs += inputs;
        shapes.groups += weights / group;
        shapes.group = larger(shapes.group, group);
    }
    return shapes;
}

/* The quantised block; codes and rows while a linear is rounded, or its packed form after that. */
static uint64_t rounding_bytes(const struct quantize_job *job, const struct shapes *shapes)
{
    uint64_t bits = (uint64_t)job->settings->quantizer.bits, packed = shapes->largest_linear * bits / 8;
    uint64_t kept = (uint64_t)(job->settings->quantizer.salient_fraction * (double)shapes->block * 2);
    uint64_t quantized = shapes->block * bits / 8 + 5 * shapes->groups + kept;
    return quantized + larger(packed, 2 * LIBRARY_ROWS * shapes->widest);
}

/* X^T X of every input, kept for the block; its factor, and what goes over one linear's columns at a time. */
static uint64_t refine_bytes(const struct quantize_job *job, const struct shapes *shapes)
{
    const awq_quantize_options *quantizer = &job->settings->quantizer;
    uint64_t squares = 0, widest = shapes->widest * shapes->widest;
    uint64_t bytes = shapes->largest_linear + shapes->widest * REFINE_TASKS * REFINE_COLUMN_BYTES;
    if (quantizer->range == AWQ_RANGE_MINMAX && quantizer->rounding == AWQ_ROUND_NEAREST) return 0;
    if (quantizer->rounding == AWQ_ROUND_NEAREST) return bytes;
    for (int point = 0; point < block_points(&job->config); point++) {
        uint64_t inputs = (uint64_t)point_inputs(&job->config, point);
        squares += inputs * inputs;
    }
    return bytes + squares * (sizeof(double) + sizeof(float)) + widest * sizeof(double);
}

static uint64_t clip_bytes(const struct shapes *shapes)
{
    uint64_t elements = shapes->largest_linear < CLIP_ELEMENTS ? shapes->largest_linear : CLIP_ELEMENTS;
    uint64_t roots = shapes->widest * shapes->group * sizeof(float);
    uint64_t group = shapes->group * (CLIP_ROWS * sizeof(float) + shapes->group * sizeof(double));
    return CLIP_BYTES * elements + roots + group + 32 * shapes->groups;
}

/* The float block, the outputs that are compared, and the larger of: a candidate as the search makes it and as it runs;
 * and, while windows run through, a copy of the samples of one input, which may have to move to grow. */
static uint64_t search_bytes(const struct quantize_job *job, const struct shapes *shapes, int64_t chunk)
{
    uint64_t hidden = (uint64_t)job->config.hidden, samples = (uint64_t)sampled_rows(job);
    uint64_t normed = (uint64_t)(compared_windows(job) * job->windows.columns) * hidden;
    uint64_t outputs = 2 * (uint64_t)compared_rows(job) * hidden;
    uint64_t moved = (int64_t)samples > chunk ? samples * shapes->widest : 0;
    return sizeof(float) * (shapes->block + normed + outputs + LIBRARY_ROWS * shapes->widest +
                            larger(2 * shapes->largest_point, moved));
}

uint64_t estimate_memory(const struct quantize_job *job)
{
    struct shapes shapes = add_shapes(job);
    uint64_t rounding = rounding_bytes(job, &shapes);
    if (!quantize_calibrates(job->request)) return rounding + refine_bytes(job, &shapes);
    struct session_options session = calibration_session(job);
    uint64_t hidden = (uint64_t)(job->windows.rows * job->windows.columns * job->config.hidden) * sizeof(float);
    uint64_t samples = (uint64_t)(sampled_rows(job) + 1);
    uint64_t statistics = shapes.inputs * (samples * sizeof(float) + 5 * sizeof(double));
    statistics += (uint64_t)block_points(&job->config) * ROW_BYTES * samples;
    /* Folding into v and up makes F32 copies of them. */
    uint64_t folded = sizeof(float) * (1 + (uint64_t)block_mlps(&job->config)) * shapes.largest_linear;
    if (job->settings->clip) rounding += clip_bytes(&shapes);
    rounding += refine_bytes(job, &shapes);
    /* Weights that are not rounded are copies, one of them F32 while it is scaled. */
    if (job->settings->layout == 0) folded += sizeof(float) * (shapes.block + shapes.largest_linear);
    return hidden + session_bytes(job->context, &job->config, &session) + statistics +
           larger(search_bytes(job, &shapes, session.max_rows), rounding + folded);
}

uint64_t estimate_calibration(const struct quantize_job *job, bool gram, uint64_t *window_bytes)
{
    struct shapes shapes = add_shapes(job);
    struct session_options session = calibration_session(job);
    uint64_t samples = (uint64_t)sampled_rows(job) + 1, values = shapes.block + LIBRARY_ROWS * shapes.widest;
    /* What is kept of all inputs, and twice that of one while a chunk of it is added. */
    uint64_t statistics = (shapes.inputs + 2 * shapes.widest) * (samples * sizeof(float) + 5 * sizeof(double));
    statistics += (uint64_t)(block_points(&job->config) + 2) * ROW_BYTES * samples;
    if (gram) {
        statistics += shapes.widest * shapes.widest * sizeof(double);
        for (int point = 0; point < block_points(&job->config); point++) {
            uint64_t inputs = (uint64_t)point_inputs(&job->config, point);
            statistics += inputs * inputs * sizeof(double);
        }
    }
    *window_bytes = (uint64_t)(job->windows.columns * job->config.hidden) * sizeof(float);
    return session_bytes(job->context, &job->config, &session) + statistics + values * sizeof(float);
}
