/* The steps of the forward pass on the processor, in parallel over tiles of rows or elements.  Everything is F32. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "sampler.h"
#include "scores.h"
#include "session.h"
#include "vector_math.h"

enum {
    KEY_TILE = 64,      /* keys whose scores are computed together */
    QUERY_TILE = 32,    /* positions of one attention task */
    ROW_TILE = 16,      /* rows of one task of the pointwise steps */
    ELEMENT_TILE = 16384 /* elements of one */
};

static bool run_tasks(awq_context *context, int64_t count, awq_task_callback task, void *job)
{
    awq_status status = awq_context_parallel_for(context, count, task, job);
    return status == AWQ_OK || cli_library_error(status, "parallel work");
}

/* ---- pointwise */

struct norm_job {
    const float *x;
    const struct norm *norm;
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

INLINED float mean_of(const float *x, int64_t width)
{
    float lanes[LANES] = {0};
    int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += x[i + j];
    for (int64_t i = whole; i < width; i++) lanes[i - whole] += x[i];
    return sum_lanes(lanes) / (float)width;
}

INLINED void rms_norm_row(const float *x, const float *weight, int64_t width, double epsilon, float *out)
{
    float scale = (float)(1 / sqrt((double)mean_square(x, width) + epsilon));
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * scale * weight[i];
}

INLINED void layer_norm_row(const float *x, const struct norm *norm, int64_t width, double epsilon, float *out)
{
    const float *weight = norm->weight, *bias = norm->bias, mean = mean_of(x, width);
    for (int64_t i = 0; i < width; i++) out[i] = x[i] - mean;
    float scale = (float)(1 / sqrt((double)mean_square(out, width) + epsilon));
    for (int64_t i = 0; i < width; i++) out[i] = out[i] * scale * weight[i] + bias[i];
}

VECTORIZED static void norm_task(void *data, int64_t index)
{
    const struct norm_job *job = data;
    int64_t end = (index + 1) * ROW_TILE < job->rows ? (index + 1) * ROW_TILE : job->rows;
    for (int64_t row = index * ROW_TILE; row < end; row++) {
        const float *x = job->x + row * job->width;
        float *out = job->out + row * job->width;
        if (job->norm->bias) layer_norm_row(x, job->norm, job->width, job->epsilon, out);
        else rms_norm_row(x, job->norm->weight, job->width, job->epsilon, out);
    }
}

bool norm_rows(awq_context *context, const float *x, int64_t rows, int64_t width, const struct norm *norm,
               double epsilon, float *out)
{
    struct norm_job job = {x, norm, out, rows, width, epsilon};
    return run_tasks(context, (rows + ROW_TILE - 1) / ROW_TILE, norm_task, &job);
}

struct activation_job {
    enum activation activation;
    const float *x, *up;
    float *out;
    int64_t up_stride, rows, width;
};

INLINED float activated(enum activation activation, float x)
{
    switch (activation) {
    case ACTIVATION_SILU: return x / (1.0f + fast_exp(-x));
    case ACTIVATION_GELU: return 0.5f * x * (1.0f + erff(0.7071067812f * x));
    /* (1 + tanh(y)) / 2 is the sigmoid of 2 y. */
    case ACTIVATION_GELU_TANH: return x / (1.0f + fast_exp(-1.5957691216f * (x + 0.044715f * x * x * x)));
    case ACTIVATION_RELU: return x > 0 ? x : 0;
    }
    return x;
}

/* Inlined with a constant activation, so that each has loops of its own. */
INLINED void activate_tile(enum activation activation, const float *x, const float *up, int64_t count, float *out)
{
    if (up)
        for (int64_t i = 0; i < count; i++) out[i] = activated(activation, x[i]) * up[i];
    else
        for (int64_t i = 0; i < count; i++) out[i] = activated(activation, x[i]);
}

VECTORIZED static void activation_task(void *data, int64_t index)
{
    const struct activation_job *job = data;
    const int64_t tiles = (job->width + ELEMENT_TILE - 1) / ELEMENT_TILE, row = index / tiles;
    const int64_t begin = index % tiles * ELEMENT_TILE;
    const int64_t count = job->width - begin < ELEMENT_TILE ? job->width - begin : ELEMENT_TILE;
    const float *x = job->x + row * job->width + begin, *up = job->up ? job->up + row * job->up_stride + begin : NULL;
    float *out = job->out + row * job->width + begin;
    switch (job->activation) {
    case ACTIVATION_SILU: activate_tile(ACTIVATION_SILU, x, up, count, out); break;
    case ACTIVATION_GELU: activate_tile(ACTIVATION_GELU, x, up, count, out); break;
    case ACTIVATION_GELU_TANH: activate_tile(ACTIVATION_GELU_TANH, x, up, count, out); break;
    case ACTIVATION_RELU: activate_tile(ACTIVATION_RELU, x, up, count, out); break;
    }
}

bool activate(awq_context *context, enum activation activation, const float *x, const float *up, int64_t up_stride,
              int64_t rows, int64_t width, float *out)
{
    struct activation_job job = {activation, x, up, out, up_stride, rows, width};
    return run_tasks(context, rows * ((width + ELEMENT_TILE - 1) / ELEMENT_TILE), activation_task, &job);
}

/* ---- attention */

/* The cache of a layer: keys [sequences][kv heads][head_dim][key_stride], then values [sequences][kv heads][capacity]
 * [head_dim]. */
static int64_t key_stride(const struct session_options *options)
{
    return (options->capacity + KEY_TILE - 1) / KEY_TILE * KEY_TILE;
}

static uint64_t key_bytes(const struct model_config *config, const struct session_options *options)
{
    return (uint64_t)options->sequences * (uint64_t)shared_width(config) * (uint64_t)key_stride(options) *
           sizeof(float);
}

static uint64_t cache_bytes(const struct model_config *config, const struct session_options *options)
{
    return key_bytes(config, options) + (uint64_t)options->sequences * (uint64_t)shared_width(config) *
                                            (uint64_t)options->capacity * sizeof(float);
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

struct attention_job {
    const struct session *session;
    const struct block *block;
    const struct batch *batch;
    float *keys, *values; /* of this block */
    float *mixed;         /* [rows][heads * head_dim] */
    int64_t rows;
    int64_t window;       /* keys a query sees at most, 0: all */
    int64_t key_stride;
    int64_t tiles;        /* query tiles of the longest sequence */
};

static float *keys_of(const struct attention_job *job, int64_t sequence, int64_t head)
{
    const struct session *session = job->session;
    int64_t size = session->config.head_dim * job->key_stride;
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
        const float *norm = head < config->heads ? job->block->q_norm.weight : job->block->k_norm.weight;
        if (norm) rms_norm_row(q + head * width, norm, width, config->norm_epsilon, q + head * width);
        rotate(q + head * width, rotary, half);
    }
    for (int64_t head = 0; head < config->kv_heads; head++) {
        float *keys = keys_of(job, sequence, head) + position;
        for (int64_t i = 0; i < width; i++) keys[i * job->key_stride] = k[head * width + i];
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
        attend(pair, keys, values, job->key_stride, config->head_dim);
    }
}

static bool cpu_attend(const struct attention *attention)
{
    const struct session *session = attention->session;
    const struct model_config *config = &session->config;
    const struct batch *batch = attention->batch;
    uint64_t values = key_bytes(config, &session->options);
    int64_t longest = 0;
    for (int64_t i = 0; i < batch->sequences; i++)
        if (batch->counts[i] > longest) longest = batch->counts[i];
    struct attention_job job = {
        .session = session,
        .block = attention->block,
        .batch = batch,
        .keys = attention->cache,
        .values = (float *)(void *)((char *)attention->cache + values),
        .mixed = attention->mixed,
        .rows = attention->rows,
        .window = attention->window,
        .key_stride = key_stride(&session->options),
        .tiles = (longest + QUERY_TILE - 1) / QUERY_TILE,
    };
    return run_tasks(session->context, (job.rows + ROW_TILE - 1) / ROW_TILE, place_task, &job) &&
           run_tasks(session->context, batch->sequences * config->kv_heads * job.tiles, attend_task, &job);
}

/* ---- comparing outputs */

struct difference_job {
    const float *a, *b;
    int64_t count;
    double *sums;
};

static void difference_task(void *data, int64_t index)
{
    const struct difference_job *job = data;
    int64_t end = (index + 1) * ELEMENT_TILE < job->count ? (index + 1) * ELEMENT_TILE : job->count;
    double sum = 0;
    for (int64_t i = index * ELEMENT_TILE; i < end; i++) {
        double difference = (double)job->a[i] - (double)job->b[i];
        sum += difference * difference;
    }
    job->sums[index] = sum;
}

static bool cpu_difference(struct session *session, const float *a, const float *b, int64_t count, double *sum)
{
    int64_t tasks = (count + ELEMENT_TILE - 1) / ELEMENT_TILE;
    struct difference_job job = {a, b, count, calloc((size_t)tasks, sizeof *job.sums)};
    if (!job.sums) return cli_error("out of memory");
    bool ok = run_tasks(session->context, tasks, difference_task, &job);
    *sum = 0;
    for (int64_t i = 0; ok && i < tasks; i++) *sum += job.sums[i];
    free(job.sums);
    return ok;
}

/* ---- the table */

static const char *cpu_lacks(const struct model_config *config)
{
    (void)config;
    return NULL;
}

static int32_t cpu_activation_dtype(const awq_context *context, const struct model_config *config)
{
    (void)context;
    (void)config;
    return AWQ_F32;
}

static bool cpu_open(struct session *session)
{
    /* Keys and values beyond a sequence's end are multiplied by 0, which only finite numbers survive. */
    uint64_t layers = (uint64_t)(session->options.retain ? session->config.layers : 1);
    memset(session->cache, 0, layers * cache_bytes(&session->config, &session->options));
    return true;
}

static void cpu_close(struct session *session)
{
    (void)session;
}

static bool cpu_begin(struct session *session, const struct batch *batch, const int32_t *tokens)
{
    (void)session;
    (void)batch;
    (void)tokens;
    return true;
}

/* out[width] = a row of a table of floats. */
static bool read_row(awq_context *context, const awq_tensor *table, int64_t index, float *out)
{
    awq_tensor row = *table, copy;
    row.shape[0] = 1;
    row.byte_offset += (uint64_t)(index * table->strides[0]) * awq_dtype_size(table->dtype);
    awq_tensor_init_2d(&copy, out, AWQ_F32, 1, table->shape[1]);
    awq_status status = awq_tensor_copy(context, &row, &copy, NULL);
    return status == AWQ_OK || cli_library_error(status, "embedding");
}

static bool cpu_embed(struct session *session, const struct embeddings *embeddings, const int32_t *tokens,
                      int64_t rows, float *hidden)
{
    const struct model_config *config = &session->config;
    const float scale = (float)config->embedding_scale;
    const int64_t width = config->hidden;
    float *added = session->normed;
    for (int64_t row = 0; row < rows; row++) {
        float *out = hidden + row * width;
        const int64_t position = config->architecture->first_position + session->row_position[row];
        if (!read_row(session->context, &embeddings->tokens, tokens[row], out)) return false;
        for (int64_t i = 0; i < width; i++) out[i] *= scale;
        if (!embeddings->positions.data) continue;
        if (!read_row(session->context, &embeddings->positions, position, added)) return false;
        for (int64_t i = 0; i < width; i++) out[i] += added[i];
    }
    return true;
}

static bool cpu_norm(struct session *session, const float *x, int64_t rows, const struct norm *norm, int32_t dtype,
                     void *out)
{
    (void)dtype;
    return norm_rows(session->context, x, rows, session->config.hidden, norm, session->config.norm_epsilon, out);
}

static bool cpu_activate(struct session *session, const void *x, const void *up, int64_t up_stride, int64_t rows,
                         int64_t width, void *out)
{
    return activate(session->context, session->config.activation, x, up, up_stride, rows, width, out);
}

static bool cpu_run(struct session *session, pass_function pass, const struct model *model, const struct batch *batch,
                    float *hidden)
{
    return pass(model, session, batch, hidden);
}

static bool cpu_argmax(struct session *session, const float *logits, int64_t rows, int32_t *tokens)
{
    int64_t vocabulary = session->config.vocabulary;
    for (int64_t i = 0; i < rows; i++) tokens[i] = most_likely(logits + i * vocabulary, vocabulary);
    return true;
}

static bool cpu_scores(struct session *session, const float *logits, const float *reference, const int32_t *targets,
                       int64_t rows, struct score *scores)
{
    return score_rows(session->context, logits, reference, targets, rows, session->config.vocabulary, scores);
}

const struct steps cpu_steps = {
    .lacks = cpu_lacks,
    .activation_dtype = cpu_activation_dtype,
    .cache_bytes = cache_bytes,
    .open = cpu_open,
    .close = cpu_close,
    .begin = cpu_begin,
    .embed = cpu_embed,
    .norm = cpu_norm,
    .attend = cpu_attend,
    .activate = cpu_activate,
    .run = cpu_run,
    .argmax = cpu_argmax,
    .scores = cpu_scores,
    .difference = cpu_difference,
};
