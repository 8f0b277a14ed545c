/* The forward pass: norms, rotary positions, attention over a key/value cache, gated MLPs. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "model.h"
#include "vector_math.h"

enum {
    KEY_TILE = 64,      /* keys whose scores are computed together */
    QUERY_TILE = 32,    /* positions of one attention task */
    ROW_TILE = 16,      /* rows of one task of the pointwise steps */
    ELEMENT_TILE = 16384 /* elements of one */
};

struct session {
    awq_context *context;
    struct model_config config; /* without the JSON */
    struct session_options options;
    int64_t *lengths;       /* [sequences] positions held */
    int64_t *row_sequence;  /* [max_rows] of the batch at work: which sequence a row is of, */
    int64_t *row_position;  /* and its position */
    float *rotary;          /* [capacity][2][head_dim / 2]: cosines, then sines */
    float *keys;            /* [layers or 1][sequences][kv heads][head_dim][key_stride], */
    float *values;          /* [layers or 1][sequences][kv heads][capacity][head_dim] */
    int64_t key_stride;     /* capacity rounded up to whole key tiles */
    float *normed, *qkv, *mixed, *middle, *up;
    void *workspace;
    uint64_t workspace_bytes;
};

/* ---- sizes and memory */

static int64_t attention_width(const struct model_config *config) { return config->heads * config->head_dim; }

static int64_t shared_width(const struct model_config *config) { return config->kv_heads * config->head_dim; }

static int64_t qkv_width(const struct model_config *config)
{
    return attention_width(config) + 2 * shared_width(config);
}

static int64_t key_stride(const struct session_options *options)
{
    return (options->capacity + KEY_TILE - 1) / KEY_TILE * KEY_TILE;
}

/* The arrays of a session: where their pointers are, and their sizes in bytes. */
enum { SESSION_ARRAYS = 11 };

struct array {
    void **pointer;
    uint64_t bytes;
};

static void list_arrays(struct session *session, struct array arrays[SESSION_ARRAYS])
{
    const struct model_config *config = &session->config;
    const struct session_options *options = &session->options;
    uint64_t rows = (uint64_t)options->max_rows, capacity = (uint64_t)options->capacity;
    uint64_t sequences = (uint64_t)options->sequences;
    uint64_t slots = (uint64_t)(options->retain ? config->layers : 1) * sequences * (uint64_t)shared_width(config);
    const struct array all[SESSION_ARRAYS] = {
        {(void **)&session->lengths, sequences * sizeof(int64_t)},
        {(void **)&session->row_sequence, rows * sizeof(int64_t)},
        {(void **)&session->row_position, rows * sizeof(int64_t)},
        {(void **)&session->rotary, capacity * (uint64_t)config->head_dim * sizeof(float)},
        {(void **)&session->keys, slots * (uint64_t)key_stride(options) * sizeof(float)},
        {(void **)&session->values, slots * capacity * sizeof(float)},
        {(void **)&session->normed, rows * (uint64_t)config->hidden * sizeof(float)},
        {(void **)&session->qkv, rows * (uint64_t)qkv_width(config) * sizeof(float)},
        {(void **)&session->mixed, rows * (uint64_t)attention_width(config) * sizeof(float)},
        {(void **)&session->middle, rows * (uint64_t)config->intermediate * sizeof(float)},
        {(void **)&session->up, rows * (uint64_t)config->intermediate * sizeof(float)},
    };
    memcpy(arrays, all, sizeof all);
}

uint64_t session_bytes(const struct model_config *config, const struct session_options *options)
{
    struct session session = {.config = *config, .options = *options};
    struct array arrays[SESSION_ARRAYS];
    uint64_t total = 0;
    list_arrays(&session, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++) total += arrays[i].bytes;
    return total;
}

/* ---- rotary positions */

/* Llama 3: long wavelengths are stretched by 'factor', short ones kept, those between blended. */
static double stretch_llama3(const struct model_config *config, double frequency)
{
    double turns = config->rope_original_context * frequency / (2 * M_PI);
    double low = config->rope_low_frequency_factor, high = config->rope_high_frequency_factor;
    if (turns <= low) return frequency / config->rope_factor;
    if (turns >= high) return frequency;
    double blend = (turns - low) / (high - low);
    return (1 - blend) * frequency / config->rope_factor + blend * frequency;
}

static void fill_rotary(struct session *session)
{
    const struct model_config *config = &session->config;
    int64_t half = config->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double frequency = pow(config->rope_theta, -2.0 * (double)i / (double)config->head_dim);
        if (config->rope_type == ROPE_LINEAR) frequency /= config->rope_factor;
        if (config->rope_type == ROPE_LLAMA3) frequency = stretch_llama3(config, frequency);
        for (int64_t position = 0; position < session->options.capacity; position++) {
            double angle = (double)position * frequency;
            session->rotary[(2 * position) * half + i] = (float)cos(angle);
            session->rotary[(2 * position + 1) * half + i] = (float)sin(angle);
        }
    }
}

/* Rotate one head: element i with element i + half, as Hugging Face pairs them. */
INLINED void rotate(float *head, const float *rotary, int64_t half)
{
    const float *cosines = rotary, *sines = rotary + half;
    for (int64_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}

/* ---- creating sessions */

bool session_create(awq_context *context, const struct model_config *config, const struct session_options *options,
                    struct session **session)
{
    struct array arrays[SESSION_ARRAYS];
    struct session *result = calloc(1, sizeof *result);
    *session = NULL;
    if (!result) return cli_error("out of memory");
    result->context = context;
    result->config = *config;
    result->config.json = NULL;
    result->options = *options;
    result->key_stride = key_stride(options);
    list_arrays(result, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++) {
        awq_status status = awq_context_allocate(context, arrays[i].bytes, arrays[i].pointer);
        if (status != AWQ_OK) {
            session_destroy(result);
            return cli_library_error(status, "room for %" PRId64 " tokens and %" PRId64 " sequences of %" PRId64,
                                     options->max_rows, options->sequences, options->capacity);
        }
        /* Keys and values beyond a sequence's end are multiplied by 0, which only finite numbers survive. */
        memset(*arrays[i].pointer, 0, arrays[i].bytes);
    }
    fill_rotary(result);
    *session = result;
    return true;
}

void session_destroy(struct session *session)
{
    struct array arrays[SESSION_ARRAYS];
    if (!session) return;
    list_arrays(session, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++) awq_context_free(session->context, *arrays[i].pointer);
    awq_context_free(session->context, session->workspace);
    free(session);
}

int64_t session_length(const struct session *session, int64_t sequence) { return session->lengths[sequence]; }

void session_truncate(struct session *session, int64_t sequence, int64_t length)
{
    if (length < session->lengths[sequence]) session->lengths[sequence] = length;
}

int64_t batch_rows(const struct batch *batch)
{
    int64_t rows = 0;
    for (int64_t i = 0; i < batch->sequences; i++) rows += batch->counts[i];
    return rows;
}

/* ---- pointwise steps, in parallel over tiles of rows or elements */

static bool run_tasks(awq_context *context, int64_t count, awq_task_callback task, void *job)
{
    awq_status status = awq_context_parallel_for(context, count, task, job);
    return status == AWQ_OK || cli_library_error(status, "parallel work");
}

struct norm_job {
    const float *x, *weight;
    float *out;
    int64_t rows, width;
    double epsilon;
};

INLINED float mean_square(const float *x, int64_t width)
{
    float lanes[LANES] = {0};
    int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += x[i + j] * x[i + j];
    for (int64_t i = whole; i < width; i++) lanes[i - whole] += x[i] * x[i];
    return sum_lanes(lanes) / (float)width;
}

INLINED void norm_row(const float *x, const float *weight, int64_t width, double epsilon, float *out)
{
    float scale = (float)(1 / sqrt((double)mean_square(x, width) + epsilon));
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * scale * weight[i];
}

VECTORIZED static void norm_task(void *data, int64_t index)
{
    const struct norm_job *job = data;
    int64_t end = (index + 1) * ROW_TILE < job->rows ? (index + 1) * ROW_TILE : job->rows;
    for (int64_t row = index * ROW_TILE; row < end; row++)
        norm_row(job->x + row * job->width, job->weight, job->width, job->epsilon, job->out + row * job->width);
}

bool rms_norm(awq_context *context, const float *x, int64_t rows, int64_t width, const float *weight, double epsilon,
              float *out)
{
    struct norm_job job = {x, weight, out, rows, width, epsilon};
    return run_tasks(context, (rows + ROW_TILE - 1) / ROW_TILE, norm_task, &job);
}

struct silu_job {
    const float *gate, *up;
    float *out;
    int64_t count;
};

VECTORIZED static void silu_task(void *data, int64_t index)
{
    const struct silu_job *job = data;
    int64_t end = (index + 1) * ELEMENT_TILE < job->count ? (index + 1) * ELEMENT_TILE : job->count;
    for (int64_t i = index * ELEMENT_TILE; i < end; i++)
        job->out[i] = job->gate[i] / (1.0f + fast_exp(-job->gate[i])) * job->up[i];
}

bool silu_mul(awq_context *context, const float *gate, const float *up, int64_t count, float *out)
{
    struct silu_job job = {gate, up, out, count};
    return run_tasks(context, (count + ELEMENT_TILE - 1) / ELEMENT_TILE, silu_task, &job);
}

/* ---- linears */

/* y[rows] = x W^T (+ residual), y with 'y_stride' columns from row to row. */
static bool run_linear(struct session *session, const awq_linear *linear, const float *x, int64_t rows,
                       const float *residual, float *y, int64_t y_stride, const char *what)
{
    awq_linear_info info;
    awq_run_options options;
    awq_tensor input, output, added;
    awq_struct_init(&info, sizeof info);
    awq_struct_init(&options, sizeof options);
    awq_status status = awq_linear_get_info(linear, &info);
    if (status != AWQ_OK) return cli_library_error(status, "%s", what);
    uint64_t needed = awq_linear_workspace_size(linear, rows);
    if (needed > session->workspace_bytes) {
        awq_context_free(session->context, session->workspace);
        session->workspace = NULL;
        session->workspace_bytes = 0;
        status = awq_context_allocate(session->context, needed, &session->workspace);
        if (status != AWQ_OK) return cli_library_error(status, "%s", what);
        session->workspace_bytes = needed;
    }
    awq_tensor_init_const_2d(&input, x, AWQ_F32, rows, info.inputs);
    awq_tensor_init_2d(&output, y, AWQ_F32, rows, info.outputs);
    output.strides[0] = y_stride;
    awq_tensor_init_const_2d(&added, residual, AWQ_F32, rows, info.outputs);
    options.workspace = session->workspace;
    options.workspace_bytes = session->workspace_bytes;
    options.residual = residual ? &added : NULL;
    status = awq_linear_run(linear, &input, &output, &options);
    return status == AWQ_OK || cli_library_error(status, "%s", what);
}

/* ---- attention */

struct attention_job {
    const struct session *session;
    const struct block *block;
    const struct batch *batch;
    float *keys, *values; /* of this block */
    float *mixed;         /* [rows][heads * head_dim] */
    int64_t rows;
    int64_t window;       /* keys a query sees at most, 0: all */
    int64_t tiles;        /* query tiles of the longest sequence */
};

static float *keys_of(const struct attention_job *job, int64_t sequence, int64_t head)
{
    const struct session *session = job->session;
    int64_t size = session->config.head_dim * session->key_stride;
    return job->keys + (sequence * session->config.kv_heads + head) * size;
}

static float *values_of(const struct attention_job *job, int64_t sequence, int64_t head)
{
    const struct session *session = job->session;
    int64_t size = session->config.head_dim * session->options.capacity;
    return job->values + (sequence * session->config.kv_heads + head) * size;
}

/* Norm and rotate the heads of one row's queries and keys; put keys, transposed, and values into the cache. */
INLINED void place_row(const struct attention_job *job, int64_t row)
{
    const struct session *session = job->session;
    const struct model_config *config = &session->config;
    int64_t width = config->head_dim, half = width / 2;
    int64_t sequence = session->row_sequence[row], position = session->row_position[row];
    const float *rotary = session->rotary + position * width;
    float *q = session->qkv + row * qkv_width(config);
    float *k = q + attention_width(config), *v = k + shared_width(config);
    for (int64_t head = 0; head < config->heads + config->kv_heads; head++) {
        const float *norm = head < config->heads ? job->block->q_norm : job->block->k_norm;
        if (norm) norm_row(q + head * width, norm, width, config->norm_epsilon, q + head * width);
        rotate(q + head * width, rotary, half);
    }
    for (int64_t head = 0; head < config->kv_heads; head++) {
        float *keys = keys_of(job, sequence, head) + position;
        for (int64_t i = 0; i < width; i++) keys[i * session->key_stride] = k[head * width + i];
        memcpy(values_of(job, sequence, head) + position * width, v + head * width, (size_t)width * sizeof(float));
    }
}

VECTORIZED static void place_task(void *data, int64_t index)
{
    const struct attention_job *job = data;
    int64_t end = (index + 1) * ROW_TILE < job->rows ? (index + 1) * ROW_TILE : job->rows;
    for (int64_t row = index * ROW_TILE; row < end; row++) place_row(job, row);
}

/* Attention goes over two queries at a time, which share the loads of keys and values. */
enum { PAIR = 2 };

struct query {
    const float *q;
    float *out;
    int64_t first, last;  /* positions of the keys it sees */
    float highest, total; /* of the scores so far; and the sum of their exponentials */
};

/* scores[PAIR][KEY_TILE] = q . keys, which lie transposed. */
INLINED void score_keys(const struct query pair[PAIR], const float *keys, int64_t stride, int64_t width,
                        float scores[PAIR][KEY_TILE])
{
    for (int j = 0; j < KEY_TILE; j += 4 * FLOATS) {
        floats a = {0}, b = {0}, c = {0}, d = {0}, e = {0}, f = {0}, g = {0}, h = {0};
        const float *key = keys + j;
        for (int64_t i = 0; i < width; i++, key += stride) {
            float x = pair[0].q[i], y = pair[1].q[i];
            a += x * LOAD(key);
            b += x * LOAD(key + FLOATS);
            c += x * LOAD(key + 2 * FLOATS);
            d += x * LOAD(key + 3 * FLOATS);
            e += y * LOAD(key);
            f += y * LOAD(key + FLOATS);
            g += y * LOAD(key + 2 * FLOATS);
            h += y * LOAD(key + 3 * FLOATS);
        }
        float *s = scores[0] + j, *t = scores[1] + j;
        STORE(s, a);
        STORE(s + FLOATS, b);
        STORE(s + 2 * FLOATS, c);
        STORE(s + 3 * FLOATS, d);
        STORE(t, e);
        STORE(t + FLOATS, f);
        STORE(t + 2 * FLOATS, g);
        STORE(t + 3 * FLOATS, h);
    }
}

/* out[width] += weights[count] . values[count][width], for both. */
INLINED void add_values(const struct query pair[PAIR], float weights[PAIR][KEY_TILE], const float *values,
                        int64_t count, int64_t width)
{
    int64_t j = 0;
    for (; j + 2 * FLOATS <= width; j += 2 * FLOATS) {
        float *s = pair[0].out + j, *t = pair[1].out + j;
        floats a = LOAD(s), b = LOAD(s + FLOATS), c = LOAD(t), d = LOAD(t + FLOATS);
        const float *value = values + j;
        for (int64_t i = 0; i < count; i++, value += width) {
            a += weights[0][i] * LOAD(value);
            b += weights[0][i] * LOAD(value + FLOATS);
            c += weights[1][i] * LOAD(value);
            d += weights[1][i] * LOAD(value + FLOATS);
        }
        STORE(s, a);
        STORE(s + FLOATS, b);
        STORE(t, c);
        STORE(t + FLOATS, d);
    }
    for (; j < width; j++)
        for (int r = 0; r < PAIR; r++)
            for (int64_t i = 0; i < count; i++) pair[r].out[j] += weights[r][i] * values[i * width + j];
}

/* Turn the scores of the tile that begins at key 'begin' into weights, relative to the highest score so far, and
 * rescale what was added up before a higher one appeared. */
INLINED void weigh_keys(struct query *query, float scores[KEY_TILE], int64_t begin, int64_t width, float scale)
{
    float maxima[LANES], sums[LANES] = {0}, before = query->highest;
    for (int j = 0; j < KEY_TILE; j++)
        scores[j] = begin + j < query->first || begin + j > query->last ? -INFINITY : scores[j] * scale;
    for (int j = 0; j < LANES; j++) maxima[j] = before;
    for (int i = 0; i < KEY_TILE; i += LANES)
        for (int j = 0; j < LANES; j++) maxima[j] = scores[i + j] > maxima[j] ? scores[i + j] : maxima[j];
    query->highest = max_lanes(maxima);
    for (int j = 0; j < KEY_TILE; j++) scores[j] = fast_exp(scores[j] - query->highest);
    for (int i = 0; i < KEY_TILE; i += LANES)
        for (int j = 0; j < LANES; j++) sums[j] += scores[i + j];
    float rescale = fast_exp(before - query->highest);
    query->total = query->total * rescale + sum_lanes(sums);
    for (int64_t j = 0; j < width; j++) query->out[j] *= rescale;
}

/* Softmax attention, tile by tile of keys.  Tiles begin at multiples of KEY_TILE, and keys that a query does not see
 * weigh exactly 0, so its result depends neither on its partner nor on the batch it came in. */
INLINED void attend(struct query pair[PAIR], const float *keys, const float *values, int64_t stride, int64_t width)
{
    float scores[PAIR][KEY_TILE], scale = 1.0f / sqrtf((float)width);
    int64_t first = pair[0].first < pair[1].first ? pair[0].first : pair[1].first;
    int64_t last = pair[0].last > pair[1].last ? pair[0].last : pair[1].last;
    for (int r = 0; r < PAIR; r++) {
        memset(pair[r].out, 0, (size_t)width * sizeof(float));
        pair[r].highest = -FLT_MAX;
        pair[r].total = 0;
    }
    for (int64_t begin = first / KEY_TILE * KEY_TILE; begin <= last; begin += KEY_TILE) {
        int64_t count = last + 1 - begin < KEY_TILE ? last + 1 - begin : KEY_TILE;
        score_keys(pair, keys + begin, stride, width, scores);
        for (int r = 0; r < PAIR; r++) weigh_keys(&pair[r], scores[r], begin, width, scale);
        add_values(pair, scores, values + begin * width, count, width);
    }
    for (int r = 0; r < PAIR; r++)
        for (int64_t j = 0; j < width; j++) pair[r].out[j] /= pair[r].total;
}

/* Query 'index' of those that share a key head: for every row the query heads of that key head. */
INLINED void set_query(const struct attention_job *job, int64_t first_row, int64_t kv_head, int64_t index,
                       struct query *query)
{
    const struct session *session = job->session;
    const struct model_config *config = &session->config;
    int64_t group = config->heads / config->kv_heads, width = config->head_dim;
    int64_t row = first_row + index / group, head = kv_head * group + index % group;
    int64_t position = session->row_position[row];
    query->q = session->qkv + row * qkv_width(config) + head * width;
    query->out = job->mixed + row * attention_width(config) + head * width;
    query->first = job->window && position >= job->window ? position - job->window + 1 : 0;
    query->last = position;
}

/* Task: a tile of one sequence's rows, and the query heads of one key head. */
VECTORIZED static void attend_task(void *data, int64_t index)
{
    const struct attention_job *job = data;
    const struct model_config *config = &job->session->config;
    int64_t tile = index % job->tiles, rest = index / job->tiles;
    int64_t kv_head = rest % config->kv_heads, sequence = rest / config->kv_heads;
    int64_t count = job->batch->counts[sequence], row = tile * QUERY_TILE;
    int64_t rows = count - row < QUERY_TILE ? count - row : QUERY_TILE;
    int64_t queries = rows * (config->heads / config->kv_heads);
    const float *keys = keys_of(job, sequence, kv_head), *values = values_of(job, sequence, kv_head);
    float spare[MAX_HEAD_DIM];
    for (int64_t i = 0; i < sequence; i++) row += job->batch->counts[i];
    for (int64_t i = 0; i < queries; i += PAIR) {
        struct query pair[PAIR];
        set_query(job, row, kv_head, i, &pair[0]);
        set_query(job, row, kv_head, i + 1 < queries ? i + 1 : i, &pair[1]);
        if (i + 1 == queries) pair[1].out = spare;
        attend(pair, keys, values, job->session->key_stride, config->head_dim);
    }
}

/* Which sequence and position each row of the batch is. */
static bool place_batch(struct session *session, const struct batch *batch)
{
    const struct session_options *options = &session->options;
    int64_t row = 0;
    if (batch->sequences > options->sequences || batch_rows(batch) > options->max_rows)
        return cli_error("a batch of %" PRId64 " tokens in %" PRId64 " sequences where there is room for %" PRId64
                         " in %" PRId64, batch_rows(batch), batch->sequences, options->max_rows, options->sequences);
    for (int64_t i = 0; i < batch->sequences; i++) {
        int64_t start = options->retain ? session->lengths[i] : 0;
        if (batch->counts[i] > options->capacity - start)
            return cli_error("%" PRId64 " tokens do not fit the context of %" PRId64, start + batch->counts[i],
                             options->capacity);
        for (int64_t j = 0; j < batch->counts[i]; j++, row++) {
            session->row_sequence[row] = i;
            session->row_position[row] = start + j;
        }
    }
    return true;
}

static bool run_qkv(struct session *session, const struct block *block, int64_t rows, const float *normed)
{
    const struct model_config *config = &session->config;
    int64_t stride = qkv_width(config);
    float *k = session->qkv + attention_width(config), *v = k + shared_width(config);
    if (block->qkv) return run_linear(session, block->qkv, normed, rows, NULL, session->qkv, stride, "q, k, v");
    return run_linear(session, block->linear[LINEAR_Q], normed, rows, NULL, session->qkv, stride, "q_proj") &&
           run_linear(session, block->linear[LINEAR_K], normed, rows, NULL, k, stride, "k_proj") &&
           run_linear(session, block->linear[LINEAR_V], normed, rows, NULL, v, stride, "v_proj");
}

bool block_context(struct session *session, const struct block *block, const struct batch *batch, const float *normed,
                   float *context)
{
    const struct model_config *config = &session->config;
    int64_t slot = session->options.retain ? block->layer : 0, longest = 0;
    int64_t slot_rows = slot * session->options.sequences * shared_width(config);
    bool windowed = block->layer >= config->first_windowed_layer;
    struct attention_job job = {
        .session = session,
        .block = block,
        .batch = batch,
        .keys = session->keys + slot_rows * session->key_stride,
        .values = session->values + slot_rows * session->options.capacity,
        .mixed = context,
        .rows = batch_rows(batch),
        .window = windowed ? config->sliding_window : 0,
    };
    for (int64_t i = 0; i < batch->sequences; i++)
        if (batch->counts[i] > longest) longest = batch->counts[i];
    job.tiles = (longest + QUERY_TILE - 1) / QUERY_TILE;
    return place_batch(session, batch) && run_qkv(session, block, job.rows, normed) &&
           run_tasks(session->context, (job.rows + ROW_TILE - 1) / ROW_TILE, place_task, &job) &&
           run_tasks(session->context, batch->sequences * config->kv_heads * job.tiles, attend_task, &job);
}

/* ---- blocks */

static bool run_output(struct session *session, const struct block *block, int64_t rows, const float *context,
                       const float *residual, float *output)
{
    return run_linear(session, block->linear[LINEAR_O], context, rows, residual, output, session->config.hidden,
                      "o_proj");
}

bool block_attention(struct session *session, const struct block *block, const struct batch *batch, const float *normed,
                     const float *residual, float *output)
{
    return block_context(session, block, batch, normed, session->mixed) &&
           run_output(session, block, batch_rows(batch), session->mixed, residual, output);
}

bool block_middle(struct session *session, const struct block *block, int64_t rows, const float *normed, float *middle)
{
    int64_t width = session->config.intermediate;
    if (block->gate_up) return run_linear(session, block->gate_up, normed, rows, NULL, middle, width, "gate and up");
    return run_linear(session, block->linear[LINEAR_GATE], normed, rows, NULL, middle, width, "gate_proj") &&
           run_linear(session, block->linear[LINEAR_UP], normed, rows, NULL, session->up, width, "up_proj") &&
           silu_mul(session->context, middle, session->up, rows * width, middle);
}

static bool run_down(struct session *session, const struct block *block, int64_t rows, const float *middle,
                     const float *residual, float *output)
{
    return run_linear(session, block->linear[LINEAR_DOWN], middle, rows, residual, output, session->config.hidden,
                      "down_proj");
}

bool block_mlp(struct session *session, const struct block *block, int64_t rows, const float *normed,
               const float *residual, float *output)
{
    return block_middle(session, block, rows, normed, session->middle) &&
           run_down(session, block, rows, session->middle, residual, output);
}

bool block_forward(struct session *session, const struct block *block, const struct batch *batch, float *hidden,
                   block_tap tap, void *tap_data)
{
    const struct model_config *config = &session->config;
    int64_t rows = batch_rows(batch), width = config->hidden;
    float *normed = session->normed;
    if (!rms_norm(session->context, hidden, rows, width, block->attention_norm, config->norm_epsilon, normed) ||
        (tap && !tap(tap_data, POINT_QKV, normed, rows, width)) ||
        !block_context(session, block, batch, normed, session->mixed) ||
        (tap && !tap(tap_data, POINT_O, session->mixed, rows, attention_width(config))) ||
        !run_output(session, block, rows, session->mixed, hidden, hidden))
        return false;
    return rms_norm(session->context, hidden, rows, width, block->mlp_norm, config->norm_epsilon, normed) &&
           (!tap || tap(tap_data, POINT_GATE_UP, normed, rows, width)) &&
           block_middle(session, block, rows, normed, session->middle) &&
           (!tap || tap(tap_data, POINT_DOWN, session->middle, rows, config->intermediate)) &&
           run_down(session, block, rows, session->middle, hidden, hidden);
}

/* ---- models */

bool model_embed(awq_context *context, const awq_tensor *embedding, const int32_t *tokens, int64_t count, float *hidden)
{
    int64_t vocabulary = embedding->shape[0], width = embedding->shape[1];
    uint64_t row_bytes = (uint64_t)embedding->strides[0] * awq_dtype_size(embedding->dtype);
    for (int64_t i = 0; i < count; i++) {
        awq_tensor row = *embedding, copy;
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return cli_error("token %" PRId32 " is not in the model's vocabulary of %" PRId64, tokens[i], vocabulary);
        row.shape[0] = 1;
        row.byte_offset += (uint64_t)tokens[i] * row_bytes;
        awq_tensor_init_2d(&copy, hidden + i * width, AWQ_F32, 1, width);
        awq_status status = awq_tensor_copy(context, &row, &copy, NULL);
        if (status != AWQ_OK) return cli_library_error(status, "embedding");
    }
    return true;
}

bool model_forward(const struct model *model, struct session *session, const struct batch *batch, const int32_t *tokens,
                   float *hidden)
{
    const struct model_config *config = &model->config;
    int64_t rows = batch_rows(batch);
    if (!place_batch(session, batch) || !model_embed(model->context, &model->embedding, tokens, rows, hidden))
        return false;
    for (int64_t layer = 0; layer < config->layers; layer++)
        if (!block_forward(session, &model->blocks[layer], batch, hidden, NULL, NULL)) return false;
    for (int64_t i = 0; session->options.retain && i < batch->sequences; i++) session->lengths[i] += batch->counts[i];
    return rms_norm(model->context, hidden, rows, config->hidden, model->final_norm, config->norm_epsilon, hidden);
}

bool model_logits(const struct model *model, struct session *session, const float *hidden, int64_t rows, float *logits)
{
    return run_linear(session, model->head, hidden, rows, NULL, logits, model->config.vocabulary, "lm_head");
}
