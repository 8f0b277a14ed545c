/* The forward pass: norms, attention over a key/value cache, MLPs.  What happens between linears is the device's
 * (session.h). */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "session.h"

const struct steps *steps_of(const awq_context *context)
{
    return context_is_cuda(context) ? &cuda_steps : &cpu_steps;
}

int32_t activation_dtype(const awq_context *context, const struct model_config *config)
{
    return steps_of(context)->activation_dtype(context, config);
}

/* ---- memory */

/* The arrays of a session that lie with the context: where their pointers are, and their sizes in bytes. */
enum { SESSION_ARRAYS = 10 };

struct array {
    void **pointer;
    uint64_t bytes;
};

static void list_arrays(struct session *session, struct array arrays[SESSION_ARRAYS])
{
    const struct model_config *config = &session->config;
    const struct session_options *options = &session->options;
    uint64_t rows = (uint64_t)options->max_rows, capacity = (uint64_t)options->capacity;
    uint64_t layers = (uint64_t)(options->retain ? config->layers : 1), size = awq_dtype_size(session->dtype);
    uint64_t inner = (uint64_t)config->intermediate, sent = config->experts ? rows * (uint64_t)config->hidden : 0;
    if (config->shared_intermediate > config->intermediate) inner = (uint64_t)config->shared_intermediate;
    const struct array all[SESSION_ARRAYS] = {
        {(void **)&session->rotary, capacity * (uint64_t)config->head_dim * sizeof(float)},
        {(void **)&session->cache, layers * session->steps->cache_bytes(config, options)},
        {(void **)&session->qkv, rows * (uint64_t)qkv_width(config) * sizeof(float)},
        {&session->normed, rows * (uint64_t)config->hidden * size},
        {&session->mixed, rows * (uint64_t)attention_width(config) * size},
        {&session->middle, rows * inner * size},
        {&session->up, rows * inner * size},
        {(void **)&session->shares, rows * (uint64_t)config->experts * sizeof(float)},
        {(void **)&session->sent, sent * sizeof(float)},
        {(void **)&session->returned, sent * sizeof(float)},
    };
    memcpy(arrays, all, sizeof all);
}

static void describe(awq_context *context, const struct model_config *config, const struct session_options *options,
                     struct session *session)
{
    memset(session, 0, sizeof *session);
    session->context = context;
    session->config = *config;
    session->config.json = NULL;
    session->options = *options;
    session->steps = steps_of(context);
    session->dtype = activation_dtype(context, config);
}

static struct session_sizes size_arrays(struct session *session)
{
    struct array arrays[SESSION_ARRAYS];
    struct session_sizes sizes = {0};
    list_arrays(session, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++)
        *(arrays[i].pointer == (void **)&session->cache ? &sizes.cache : &sizes.activations) += arrays[i].bytes;
    return sizes;
}

uint64_t session_bytes(awq_context *context, const struct model_config *config, const struct session_options *options)
{
    struct session session;
    describe(context, config, options, &session);
    const struct session_sizes sizes = size_arrays(&session);
    return sizes.cache + sizes.activations;
}

struct session_sizes session_sizes_on(int32_t device_type, const struct model_config *config,
                                      const struct session_options *options)
{
    const bool is_cuda = device_type == AWQ_DEVICE_CUDA;
    struct session session = {.config = *config, .options = *options};
    session.steps = is_cuda ? &cuda_steps : &cpu_steps;
    session.dtype = is_cuda ? AWQ_F16 : AWQ_F32; /* of BF16 the size is the same */
    return size_arrays(&session);
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

static void fill_rotary(const struct session *session, float *rotary)
{
    const struct model_config *config = &session->config;
    int64_t half = config->head_dim / 2;
    for (int64_t i = 0; i < half; i++) {
        double frequency = pow(config->rope_theta, -2.0 * (double)i / (double)config->head_dim);
        if (config->architecture->positions) frequency = 0; /* no rotation */
        if (config->rope_type == ROPE_LINEAR) frequency /= config->rope_factor;
        if (config->rope_type == ROPE_LLAMA3) frequency = stretch_llama3(config, frequency);
        for (int64_t position = 0; position < session->options.capacity; position++) {
            double angle = (double)position * frequency;
            rotary[(2 * position) * half + i] = (float)cos(angle);
            rotary[(2 * position + 1) * half + i] = (float)sin(angle);
        }
    }
}

/* Made on the host; on a GPU it is copied. */
static bool make_rotary(struct session *session)
{
    int64_t capacity = session->options.capacity, width = session->config.head_dim;
    bool is_cuda = context_is_cuda(session->context);
    float *values = is_cuda ? malloc((size_t)(capacity * width) * sizeof *values) : session->rotary;
    if (!values) return cli_error("out of memory");
    fill_rotary(session, values);
    if (!is_cuda) return true;
    awq_tensor source, copy = context_view(session->context, session->rotary, AWQ_F32, capacity, width);
    awq_tensor_init_const_2d(&source, values, AWQ_F32, capacity, width);
    awq_status status = awq_tensor_copy(session->context, &source, &copy, NULL);
    if (status == AWQ_OK) status = awq_context_synchronize(session->context, NULL);
    free(values);
    return status == AWQ_OK || cli_library_error(status, "rotary positions");
}

/* ---- creating sessions */

static bool allocate_host(struct session *session)
{
    size_t rows = (size_t)session->options.max_rows, sequences = (size_t)session->options.sequences;
    session->lengths = calloc(sequences, sizeof *session->lengths);
    session->row_sequence = calloc(rows, sizeof *session->row_sequence);
    session->row_position = calloc(rows, sizeof *session->row_position);
    session->sent_rows = calloc(rows, sizeof *session->sent_rows);
    return (session->lengths && session->row_sequence && session->row_position && session->sent_rows) ||
           cli_error("out of memory");
}

static bool allocate_arrays(struct session *session)
{
    const struct session_options *options = &session->options;
    struct array arrays[SESSION_ARRAYS];
    list_arrays(session, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++) {
        if (!arrays[i].bytes) continue;
        awq_status status = awq_context_allocate(session->context, arrays[i].bytes, arrays[i].pointer);
        if (status != AWQ_OK)
            return cli_library_error(status, "room for %" PRId64 " tokens and %" PRId64 " sequences of %" PRId64,
                                     options->max_rows, options->sequences, options->capacity);
    }
    return true;
}

/* Positions that were learned end somewhere. */
static bool check_capacity(const struct session *session)
{
    const struct model_config *config = &session->config;
    return !config->architecture->positions || session->options.capacity <= config->context ||
           cli_error("models of type %s know %" PRId64 " positions; %" PRId64 " do not fit",
                     config->architecture->model_type, config->context, session->options.capacity);
}

bool session_create(awq_context *context, const struct model_config *config, const struct session_options *options,
                    struct session **session)
{
    struct session *result = malloc(sizeof *result);
    *session = NULL;
    if (!result) return cli_error("out of memory");
    describe(context, config, options, result);
    if (!check_capacity(result) || !allocate_arrays(result) || !allocate_host(result) || !make_rotary(result) ||
        !result->steps->open(result)) {
        session_destroy(result);
        return false;
    }
    *session = result;
    return true;
}

void session_destroy(struct session *session)
{
    struct array arrays[SESSION_ARRAYS];
    if (!session) return;
    session->steps->close(session);
    list_arrays(session, arrays);
    for (int i = 0; i < SESSION_ARRAYS; i++) awq_context_free(session->context, *arrays[i].pointer);
    awq_context_free(session->context, session->workspace);
    free(session->lengths);
    free(session->row_sequence);
    free(session->row_position);
    free(session->sent_rows);
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

/* 'tokens' may be NULL when none is embedded. */
static bool begin_batch(struct session *session, const struct batch *batch, const int32_t *tokens)
{
    int64_t vocabulary = session->config.vocabulary, rows = batch_rows(batch);
    if (!place_batch(session, batch)) return false;
    for (int64_t i = 0; tokens && i < rows; i++)
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return cli_error("token %" PRId32 " is not in the model's vocabulary of %" PRId64, tokens[i], vocabulary);
    return session->steps->begin(session, batch, tokens);
}

/* ---- linears */

/* Input and output of one, as they lie in a session's memory. */
static awq_tensor view_of(const struct session *session, const void *values, int32_t dtype, int64_t rows,
                          int64_t columns)
{
    return context_view(session->context, values, dtype, rows, columns);
}

static awq_status reserve_workspace(struct session *session, uint64_t bytes)
{
    if (bytes <= session->workspace_bytes) return AWQ_OK;
    awq_context_free(session->context, session->workspace);
    session->workspace = NULL;
    session->workspace_bytes = 0;
    awq_status status = awq_context_allocate(session->context, bytes, &session->workspace);
    if (status == AWQ_OK) session->workspace_bytes = bytes;
    return status;
}

/* y = x W^T (+ residual, which is F32), y of 'dtype' with 'y_stride' columns from row to row. */
static bool run_linear(struct session *session, const awq_linear *linear, const awq_tensor *x, const float *residual,
                       void *y, int32_t dtype, int64_t y_stride, const char *what)
{
    awq_linear_info info;
    awq_run_options options;
    int64_t rows = x->shape[0];
    awq_struct_init(&info, sizeof info);
    awq_struct_init(&options, sizeof options);
    awq_status status = awq_linear_get_info(linear, &info);
    if (status == AWQ_OK) status = reserve_workspace(session, awq_linear_workspace_size(linear, rows));
    if (status != AWQ_OK) return cli_library_error(status, "%s", what);
    awq_tensor output = view_of(session, y, dtype, rows, info.outputs);
    awq_tensor added = view_of(session, residual, AWQ_F32, rows, info.outputs);
    output.strides[0] = y_stride;
    options.stream = session->stream;
    options.workspace = session->workspace;
    options.workspace_bytes = session->workspace_bytes;
    options.residual = residual ? &added : NULL;
    status = awq_linear_run(linear, x, &output, &options);
    return status == AWQ_OK || cli_library_error(status, "%s", what);
}

/* ---- blocks */

static bool run_qkv(struct session *session, const struct block *block, const awq_tensor *normed)
{
    const struct model_config *config = &session->config;
    int64_t stride = qkv_width(config);
    float *q = session->qkv, *k = q + attention_width(config), *v = k + shared_width(config);
    if (block->qkv) return run_linear(session, block->qkv, normed, NULL, q, AWQ_F32, stride, "q, k, v");
    return run_linear(session, block->linear[LINEAR_Q], normed, NULL, q, AWQ_F32, stride, "q_proj") &&
           run_linear(session, block->linear[LINEAR_K], normed, NULL, k, AWQ_F32, stride, "k_proj") &&
           run_linear(session, block->linear[LINEAR_V], normed, NULL, v, AWQ_F32, stride, "v_proj");
}

/* The input of o, into 'mixed', for a batch that was begun. */
static bool run_context(struct session *session, const struct block *block, const struct batch *batch,
                        const awq_tensor *normed, void *mixed)
{
    const struct model_config *config = &session->config;
    uint64_t slot = (uint64_t)(session->options.retain ? block->layer : 0);
    const struct attention attention = {
        .session = session,
        .block = block,
        .batch = batch,
        .cache = session->cache + slot * session->steps->cache_bytes(config, &session->options),
        .mixed = mixed,
        .rows = batch_rows(batch),
        .window = block->layer >= config->first_windowed_layer ? config->sliding_window : 0,
    };
    return run_qkv(session, block, normed) && session->steps->attend(&attention);
}

static bool run_output(struct session *session, const struct block *block, const awq_tensor *mixed,
                       const float *residual, float *output)
{
    return run_linear(session, block->linear[LINEAR_O], mixed, residual, output, AWQ_F32, session->config.hidden,
                      "o_proj");
}

/* The input of an MLP's down, into the session's 'middle'. */
static bool run_middle(struct session *session, const struct block *block, int mlp, const awq_tensor *normed)
{
    awq_linear *const *linear = block->linear + mlp_linear(mlp, 0);
    int64_t width = block_mlp_width(&session->config, mlp), rows = normed->shape[0];
    int32_t dtype = session->dtype;
    void *middle = session->middle, *up = session->up;
    if (block->gate_up[mlp])
        return run_linear(session, block->gate_up[mlp], normed, NULL, middle, dtype, width, "gate and up");
    if (!linear[LINEAR_GATE])
        return run_linear(session, linear[LINEAR_UP], normed, NULL, middle, dtype, width, "up") &&
               session->steps->activate(session, middle, block->activation_factors, 0, rows, width, middle);
    return run_linear(session, linear[LINEAR_GATE], normed, NULL, middle, dtype, width, "gate") &&
           run_linear(session, linear[LINEAR_UP], normed, NULL, up, dtype, width, "up") &&
           session->steps->activate(session, middle, up, width, rows, width, middle);
}

/* One MLP.  Its down's input is shown to 'tap', which may be NULL. */
static bool run_mlp(struct session *session, const struct block *block, int mlp, const awq_tensor *normed,
                    const float *residual, float *output, block_tap tap, void *tap_data)
{
    const awq_tensor middle = view_of(session, session->middle, session->dtype, normed->shape[0],
                                      block_mlp_width(&session->config, mlp));
    return run_middle(session, block, mlp, normed) && (!tap || tap(tap_data, POINT_DOWN + mlp, &middle)) &&
           run_linear(session, block->linear[mlp_linear(mlp, LINEAR_DOWN)], &middle, residual, output, AWQ_F32,
                      session->config.hidden, "down");
}

/* shares[rows][experts], from the router's logits: their softmax for the experts that are chosen, those with the largest
 * logits, and 0 for the others. */
static void route_tokens(const struct model_config *config, int64_t rows, float *shares)
{
    const int64_t experts = config->experts;
    for (int64_t row = 0; row < rows; row++, shares += experts) {
        float highest = shares[0], all = 0, chosen = 0;
        for (int64_t i = 1; i < experts; i++) highest = fmaxf(highest, shares[i]);
        for (int64_t i = 0; i < experts; i++) all += shares[i] = expf(shares[i] - highest);
        for (int64_t n = 0; n < config->experts_per_token; n++) {
            int64_t best = 0;
            for (int64_t i = 1; i < experts; i++)
                if (shares[i] > shares[best]) best = i;
            chosen += shares[best];
            shares[best] = -shares[best]; /* marked */
        }
        const float whole = config->normalizes_experts ? chosen : all;
        for (int64_t i = 0; i < experts; i++) shares[i] = shares[i] < 0 ? -shares[i] / whole : 0;
    }
}

/* An expert for the rows of 'normed' that have a share in it, shares[row * stride]; and its shares of their outputs. */
static bool run_expert(struct session *session, const struct block *block, int mlp, const awq_tensor *normed,
                       const float *shares, int64_t stride, float *output, block_tap tap, void *tap_data)
{
    const int64_t hidden = session->config.hidden;
    const size_t row_bytes = (size_t)hidden * sizeof(float);
    const float *x = (const float *)(const void *)((const char *)normed->data + normed->byte_offset);
    int64_t count = 0;
    for (int64_t row = 0; row < normed->shape[0]; row++) {
        if (shares[row * stride] == 0) continue;
        memcpy(session->sent + count * hidden, x + row * hidden, row_bytes);
        session->sent_rows[count++] = row;
    }
    const awq_tensor sent = view_of(session, session->sent, AWQ_F32, count, hidden);
    if (count == 0) return true;
    if (!run_mlp(session, block, mlp, &sent, NULL, session->returned, tap, tap_data)) return false;
    for (int64_t i = 0; i < count; i++) {
        const float share = shares[session->sent_rows[i] * stride], *from = session->returned + i * hidden;
        float *to = output + session->sent_rows[i] * hidden;
        for (int64_t j = 0; j < hidden; j++) to[j] += share * from[j];
    }
    return true;
}

/* All experts, on the processor: each takes the tokens that the router sends to it, and so does the one for all. */
static bool run_experts(struct session *session, const struct block *block, const awq_tensor *normed, float *output,
                        block_tap tap, void *tap_data)
{
    const struct model_config *config = &session->config;
    const int64_t experts = config->experts, rows = normed->shape[0];
    float *shares = session->shares;
    if (!run_linear(session, block->router, normed, NULL, shares, AWQ_F32, experts, "router")) return false;
    route_tokens(config, rows, shares);
    for (int mlp = 0; mlp < experts; mlp++)
        if (!run_expert(session, block, mlp, normed, shares + mlp, experts, output, tap, tap_data)) return false;
    if (!block->shared_gate) return true;
    if (!run_linear(session, block->shared_gate, normed, NULL, shares, AWQ_F32, 1, "shared_expert_gate")) return false;
    for (int64_t row = 0; row < rows; row++) shares[row] = 1 / (1 + expf(-shares[row]));
    return run_expert(session, block, (int)experts, normed, shares, 1, output, tap, tap_data);
}

/* output = residual + the MLP of 'normed', or its experts. */
static bool run_mlps(struct session *session, const struct block *block, const awq_tensor *normed,
                     const float *residual, float *output, block_tap tap, void *tap_data)
{
    const size_t bytes = (size_t)(normed->shape[0] * session->config.hidden) * sizeof *output;
    if (!block->router) return run_mlp(session, block, 0, normed, residual, output, tap, tap_data);
    if (!residual) memset(output, 0, bytes);
    else if (residual != output) memcpy(output, residual, bytes);
    return run_experts(session, block, normed, output, tap, tap_data);
}

static bool run_norm(struct session *session, const float *hidden, int64_t rows, const struct norm *norm)
{
    return session->steps->norm(session, hidden, rows, norm, session->dtype, session->normed);
}

/* A block over a batch that was begun. */
static bool run_block(struct session *session, const struct block *block, const struct batch *batch, float *hidden,
                      block_tap tap, void *tap_data)
{
    const struct model_config *config = &session->config;
    int64_t rows = batch_rows(batch);
    const awq_tensor normed = view_of(session, session->normed, session->dtype, rows, config->hidden);
    const awq_tensor mixed = view_of(session, session->mixed, session->dtype, rows, attention_width(config));
    return run_norm(session, hidden, rows, &block->attention_norm) && (!tap || tap(tap_data, POINT_QKV, &normed)) &&
           run_context(session, block, batch, &normed, session->mixed) && (!tap || tap(tap_data, POINT_O, &mixed)) &&
           run_output(session, block, &mixed, hidden, hidden) &&
           run_norm(session, hidden, rows, &block->mlp_norm) && (!tap || tap(tap_data, POINT_GATE_UP, &normed)) &&
           run_mlps(session, block, &normed, hidden, hidden, tap, tap_data);
}

bool block_forward(struct session *session, const struct block *block, const struct batch *batch, float *hidden,
                   block_tap tap, void *tap_data)
{
    return begin_batch(session, batch, NULL) && run_block(session, block, batch, hidden, tap, tap_data);
}

bool block_context(struct session *session, const struct block *block, const struct batch *batch,
                   const awq_tensor *normed, void *context)
{
    return begin_batch(session, batch, NULL) && run_context(session, block, batch, normed, context);
}

bool block_attention(struct session *session, const struct block *block, const struct batch *batch,
                     const awq_tensor *normed, const float *residual, float *output)
{
    const awq_tensor mixed =
        view_of(session, session->mixed, session->dtype, batch_rows(batch), attention_width(&session->config));
    return block_context(session, block, batch, normed, session->mixed) &&
           run_output(session, block, &mixed, residual, output);
}

bool block_mlp(struct session *session, const struct block *block, const awq_tensor *normed, const float *residual,
               float *output)
{
    return run_mlps(session, block, normed, residual, output, NULL, NULL);
}

/* ---- models */

bool session_embed(struct session *session, const struct embeddings *embeddings, const int32_t *tokens, int64_t count,
                   float *hidden)
{
    int64_t most = session->options.capacity < session->options.max_rows ? session->options.capacity
                                                                         : session->options.max_rows;
    for (int64_t first = 0; first < count; first += most) {
        int64_t rows = count - first < most ? count - first : most;
        const struct batch batch = {1, &rows};
        if (!begin_batch(session, &batch, tokens + first) ||
            !session->steps->embed(session, embeddings, tokens + first, rows, hidden + first * session->config.hidden))
            return false;
    }
    return true;
}

/* Everything that a GPU may do again without asking: no size depends on what the tokens are. */
static bool run_layers(const struct model *model, struct session *session, const struct batch *batch, float *hidden)
{
    for (int64_t layer = 0; layer < model->config.layers; layer++)
        if (!run_block(session, &model->blocks[layer], batch, hidden, NULL, NULL)) return false;
    return session->steps->norm(session, hidden, batch_rows(batch), &model->final_norm, AWQ_F32, hidden);
}

bool model_forward(const struct model *model, struct session *session, const struct batch *batch, const int32_t *tokens,
                   float *hidden)
{
    if (!begin_batch(session, batch, tokens) ||
        !session->steps->embed(session, &model->embeddings, tokens, batch_rows(batch), hidden) ||
        !session->steps->run(session, run_layers, model, batch, hidden))
        return false;
    for (int64_t i = 0; session->options.retain && i < batch->sequences; i++) session->lengths[i] += batch->counts[i];
    return true;
}

/* The head reads what other linears read: on a GPU, 16-bit numbers. */
bool model_logits(const struct model *model, struct session *session, const float *hidden, int64_t rows, float *logits)
{
    int64_t width = model->config.hidden;
    awq_tensor x = view_of(session, hidden, AWQ_F32, rows, width);
    if (session->dtype != AWQ_F32) {
        awq_tensor rounded = view_of(session, session->normed, session->dtype, rows, width);
        awq_status status = awq_tensor_copy(session->context, &x, &rounded, session->stream);
        if (status != AWQ_OK) return cli_library_error(status, "hidden states");
        x = rounded;
    }
    return run_linear(session, model->head, &x, NULL, logits, AWQ_F32, model->config.vocabulary, "lm_head");
}

bool model_argmax(struct session *session, const float *logits, int64_t rows, int32_t *tokens)
{
    return session->steps->argmax(session, logits, rows, tokens);
}

bool model_scores(struct session *session, const float *logits, const float *reference, const int32_t *targets,
                  int64_t rows, struct score *scores)
{
    return session->steps->scores(session, logits, reference, targets, rows, scores);
}

/* ---- memory of the context's */

bool session_difference(struct session *session, const float *a, const float *b, int64_t count, double *sum)
{
    return session->steps->difference(session, a, b, count, sum);
}

bool session_copy(struct session *session, const awq_tensor *from, awq_tensor *to)
{
    awq_status status = awq_tensor_copy(session->context, from, to, session->stream);
    return status == AWQ_OK || cli_library_error(status, "activations");
}

const float *session_read(struct session *session, const float *values, int64_t count, float *room)
{
    awq_tensor from = view_of(session, values, AWQ_F32, 1, count), to;
    if (!context_is_cuda(session->context)) return values;
    awq_tensor_init_2d(&to, room, AWQ_F32, 1, count);
    awq_status status = awq_tensor_copy(session->context, &from, &to, session->stream);
    if (status == AWQ_OK) status = awq_context_synchronize(session->context, session->stream);
    if (status != AWQ_OK) cli_library_error(status, "results");
    return status == AWQ_OK ? room : NULL;
}
