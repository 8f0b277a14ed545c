/* The steps of the forward pass on a GPU, by the kernels of cuda/.
 *
 * Hidden states, queries, keys and values before the cache, and logits are F32; what enters linears has the model's
 * 16-bit type; the cache is FP16.  A decoding step, in which every sequence has one token at most, is enqueued once,
 * captured as a graph the second time, and then replayed: only the tokens and where they stand are sent. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "cuda_kernels.h"
#include "session.h"

/* What a captured step depends on. */
struct graph_key {
    const struct model *model;
    const float *hidden;
    const void *workspace;
    int64_t rows, sequences;
};

struct cuda_session {
    const struct cuda_kernels *kernels;
    int64_t multiprocessors;
    char *sent; /* on the host: spans [sequences], then rows [max_rows] */

    /* On the device. */
    char *received;
    float *scratch;     /* of attention */
    int32_t *tokens;    /* [max_rows] results of argmax; targets of scores */
    struct cuda_score *scores; /* [max_rows] */
    double *sums;

    struct graph_key key; /* of 'graph', or of the step that was seen last */
    void *graph;
};

/* ---- what goes wrong */

static bool check(const struct session *session, int error, const char *what)
{
    const struct cuda_session *own = session->own;
    return error == 0 || cli_error("cuda: %s: %s", what, own->kernels->error_text(error));
}

static const char *cuda_lacks(const struct model_config *config)
{
    if (config->architecture->norm == NORM_LAYER) return "LayerNorm";
    if (config->architecture->positions) return "learned positions";
    if (config->experts) return "experts";
    if (config->embedding_scale != 1) return "scaled embeddings";
    return config->activation != ACTIVATION_SILU ? "an activation other than SiLU" : NULL;
}

/* ---- memory */

static int32_t cuda_activation_dtype(const awq_context *context, const struct model_config *config)
{
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    bool has_bf16 = awq_context_get_device(context, &info) == AWQ_OK && info.compute_capability >= 80;
    return config->dtype == AWQ_BF16 && has_bf16 ? AWQ_BF16 : AWQ_F16;
}

/* Of keys, or of values, of one layer. */
static uint64_t side_bytes(const struct model_config *config, const struct session_options *options)
{
    return (uint64_t)options->sequences * (uint64_t)config->kv_heads * (uint64_t)options->capacity *
           (uint64_t)cuda_cache_pitch(config->head_dim) * 2;
}

static uint64_t cuda_cache_bytes(const struct model_config *config, const struct session_options *options)
{
    return 2 * side_bytes(config, options);
}

static bool allocate(struct session *session, uint64_t bytes, void **memory)
{
    awq_status status = awq_context_allocate(session->context, bytes, memory);
    return status == AWQ_OK || cli_library_error(status, "room for activations");
}

static size_t sent_bytes(const struct session *session, int64_t rows)
{
    return (size_t)session->options.sequences * sizeof(struct cuda_span) + (size_t)rows * sizeof(struct cuda_row);
}

static bool cuda_open(struct session *session)
{
    const struct session_options *options = &session->options;
    const struct model_config *config = &session->config;
    struct cuda_session *own = calloc(1, sizeof *own);
    awq_device_info info;
    if (!own) return cli_error("out of memory");
    session->own = own;
    if (!cuda_kernels_load(&own->kernels)) return false;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_context_get_device(session->context, &info);
    if (status != AWQ_OK) return cli_library_error(status, "--device cuda");
    own->multiprocessors = info.compute_units;
    uint64_t rows = (uint64_t)options->max_rows;
    uint64_t scratch = (uint64_t)cuda_attention_scratch(options->sequences, config->heads, config->head_dim);
    own->sent = malloc(sent_bytes(session, options->max_rows));
    return (own->sent || cli_error("out of memory")) &&
           allocate(session, sent_bytes(session, options->max_rows), (void **)&own->received) &&
           allocate(session, scratch * sizeof(float), (void **)&own->scratch) &&
           allocate(session, rows * sizeof *own->tokens, (void **)&own->tokens) &&
           allocate(session, rows * sizeof *own->scores, (void **)&own->scores) &&
           allocate(session, CUDA_MAX_DIFFERENCE_SUMS * sizeof *own->sums, (void **)&own->sums) &&
           check(session, own->kernels->open(info.device_id, &session->stream), "a stream");
}

static void cuda_close(struct session *session)
{
    struct cuda_session *own = session->own;
    if (!own) return;
    if (session->stream) {
        own->kernels->forget(own->graph);
        (void)own->kernels->close(session->stream);
    }
    awq_context_free(session->context, own->received);
    awq_context_free(session->context, own->scratch);
    awq_context_free(session->context, own->tokens);
    awq_context_free(session->context, own->scores);
    awq_context_free(session->context, own->sums);
    free(own->sent);
    free(own);
}

/* ---- batches */

static struct cuda_row *rows_in(const struct session *session, char *memory)
{
    return (struct cuda_row *)(void *)(memory + sent_bytes(session, 0));
}

static bool cuda_begin(struct session *session, const struct batch *batch, const int32_t *tokens)
{
    const struct cuda_session *own = session->own;
    struct cuda_span *spans = (struct cuda_span *)(void *)own->sent;
    struct cuda_row *rows = rows_in(session, own->sent);
    int64_t row = 0;
    memset(spans, 0, sent_bytes(session, 0));
    for (int64_t i = 0; i < batch->sequences; row += batch->counts[i++])
        spans[i] = (struct cuda_span){(int32_t)row, (int32_t)batch->counts[i]};
    for (int64_t i = 0; i < row; i++)
        rows[i] = (struct cuda_row){tokens ? tokens[i] : 0, (int32_t)session->row_sequence[i],
                                    (int32_t)session->row_position[i]};
    return check(session, own->kernels->upload(own->received, own->sent, sent_bytes(session, row), session->stream),
                 "sending a batch");
}

static bool cuda_embed(struct session *session, const struct embeddings *embeddings, const int32_t *tokens,
                       int64_t rows, float *hidden)
{
    const struct cuda_session *own = session->own;
    const struct cuda_embed job = {
        .table = {embeddings->tokens.data, embeddings->tokens.dtype},
        .rows = rows_in(session, own->received),
        .hidden = hidden,
        .count = rows,
        .width = session->config.hidden,
    };
    (void)tokens; /* sent already */
    return check(session, own->kernels->embed(&job, session->stream), "embedding");
}

/* ---- steps */

static bool cuda_norm(struct session *session, const float *x, int64_t rows, const struct norm *norm, int32_t dtype,
                      void *out)
{
    const struct cuda_session *own = session->own;
    const struct cuda_norm job = {
        .x = x,
        .weight = norm->weight,
        .out = {out, dtype},
        .rows = rows,
        .width = session->config.hidden,
        .epsilon = session->config.norm_epsilon,
    };
    return check(session, own->kernels->norm(&job, session->stream), "norm");
}

/* Blocks that share the keys of one query: enough for two blocks a multiprocessor while decoding, where there are few
 * queries, but none with less than a few keys when the cache is full. */
static int64_t choose_splits(const struct session *session, const struct batch *batch, int64_t longest)
{
    enum { LEAST_KEYS = 64 };
    const struct cuda_session *own = session->own;
    int64_t blocks = batch->sequences * session->config.kv_heads;
    int64_t splits = (2 * own->multiprocessors + blocks - 1) / blocks, most = session->options.capacity / LEAST_KEYS;
    if (longest > 1 || most < 1) return 1;
    if (splits > most) splits = most;
    return splits < CUDA_MAX_SPLITS ? splits : CUDA_MAX_SPLITS;
}

static bool cuda_attend(const struct attention *attention)
{
    const struct session *session = attention->session;
    const struct cuda_session *own = session->own;
    const struct model_config *config = &session->config;
    const struct batch *batch = attention->batch;
    int64_t longest = 0;
    for (int64_t i = 0; i < batch->sequences; i++)
        if (batch->counts[i] > longest) longest = batch->counts[i];
    const struct cuda_attention job = {
        .qkv = session->qkv,
        .mixed = {attention->mixed, session->dtype},
        .cache = {attention->cache, (char *)attention->cache + side_bytes(config, &session->options),
                  session->options.capacity, cuda_cache_pitch(config->head_dim)},
        .rows = rows_in(session, own->received),
        .spans = (const struct cuda_span *)(const void *)own->received,
        .rotary = session->rotary,
        .q_norm = attention->block->q_norm.weight,
        .k_norm = attention->block->k_norm.weight,
        .scratch = own->scratch,
        .row_count = attention->rows,
        .sequences = batch->sequences,
        .longest = longest,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .window = attention->window,
        .splits = choose_splits(session, batch, longest),
        .epsilon = config->norm_epsilon,
    };
    return check(session, own->kernels->place(&job, session->stream), "rotary positions") &&
           check(session, own->kernels->attend(&job, session->stream), "attention");
}

static bool cuda_activate(struct session *session, const void *gate, const void *up, int64_t up_stride, int64_t rows,
                          int64_t width, void *out)
{
    (void)up_stride; /* the width: cuda_lacks refuses the models that have another */
    const struct cuda_session *own = session->own;
    const struct cuda_silu_mul job = {
        .gate = {(void *)(uintptr_t)gate, session->dtype},
        .up = {(void *)(uintptr_t)up, session->dtype},
        .out = {out, session->dtype},
        .count = rows * width,
    };
    return check(session, own->kernels->silu_mul(&job, session->stream), "silu");
}

/* ---- graphs */

/* Whether every sequence has one token at most, so that all sizes are those of the step before. */
static bool is_decoding(const struct session *session, const struct batch *batch)
{
    for (int64_t i = 0; i < batch->sequences; i++)
        if (batch->counts[i] > 1) return false;
    return session->options.retain;
}

static struct graph_key key_of(const struct session *session, const struct model *model, const struct batch *batch,
                               const float *hidden)
{
    return (struct graph_key){model, hidden, session->workspace, batch_rows(batch), batch->sequences};
}

/* A step like the one before becomes a graph: what the first has allocated stays where it is. */
static bool capture(struct session *session, pass_function pass, const struct model *model, const struct batch *batch,
                    float *hidden)
{
    struct cuda_session *own = session->own;
    if (!check(session, own->kernels->capture(session->stream), "capturing a graph")) return false;
    bool ok = pass(model, session, batch, hidden);
    return check(session, own->kernels->captured(session->stream, &own->graph), "capturing a graph") && ok;
}

static bool cuda_run(struct session *session, pass_function pass, const struct model *model, const struct batch *batch,
                     float *hidden)
{
    struct cuda_session *own = session->own;
    struct graph_key key = key_of(session, model, batch, hidden);
    if (!is_decoding(session, batch)) return pass(model, session, batch, hidden);
    if (memcmp(&key, &own->key, sizeof key) != 0) {
        own->kernels->forget(own->graph);
        own->graph = NULL;
        bool ok = pass(model, session, batch, hidden);
        own->key = key_of(session, model, batch, hidden); /* the workspace may have moved */
        return ok;
    }
    return (own->graph || capture(session, pass, model, batch, hidden)) &&
           check(session, own->kernels->replay(own->graph, session->stream), "a graph");
}

/* ---- results */

static bool cuda_argmax(struct session *session, const float *logits, int64_t rows, int32_t *tokens)
{
    const struct cuda_session *own = session->own;
    const struct cuda_argmax job = {logits, own->tokens, rows, session->config.vocabulary};
    uint64_t bytes = (uint64_t)rows * sizeof *tokens;
    return check(session, own->kernels->argmax(&job, session->stream), "the likeliest tokens") &&
           check(session, own->kernels->download(tokens, own->tokens, bytes, session->stream), "the likeliest tokens");
}

/* On the default stream: the reference may be of another session, with a stream of its own. */
static bool cuda_scores(struct session *session, const float *logits, const float *reference, const int32_t *targets,
                        int64_t rows, struct score *scores)
{
    const struct cuda_session *own = session->own;
    const struct cuda_scores job = {logits, reference, own->tokens, own->scores, rows, session->config.vocabulary};
    uint64_t bytes = (uint64_t)rows * sizeof *own->scores;
    struct cuda_score *found = malloc(bytes);
    bool ok = found || cli_error("out of memory");
    ok = ok && check(session, own->kernels->upload(own->tokens, targets, (uint64_t)rows * sizeof *targets, NULL),
                     "sending tokens") &&
         check(session, own->kernels->scores(&job, NULL), "scores") &&
         check(session, own->kernels->download(found, own->scores, bytes, NULL), "scores");
    for (int64_t i = 0; ok && i < rows; i++)
        scores[i] = (struct score){found[i].loss, found[i].reference_loss, found[i].divergence, found[i].rank};
    free(found);
    return ok;
}

static bool cuda_difference(struct session *session, const float *a, const float *b, int64_t count, double *sum)
{
    const struct cuda_session *own = session->own;
    const struct cuda_difference job = {a, b, own->sums, count};
    const int64_t made = cuda_difference_sums(count);
    double sums[CUDA_MAX_DIFFERENCE_SUMS];
    if (!check(session, own->kernels->difference(&job, session->stream), "comparing outputs") ||
        !check(session, own->kernels->download(sums, own->sums, (uint64_t)made * sizeof *sums, session->stream),
               "comparing outputs"))
        return false;
    *sum = 0;
    for (int64_t i = 0; i < made; i++) *sum += sums[i];
    return true;
}

const struct steps cuda_steps = {
    .lacks = cuda_lacks,
    .activation_dtype = cuda_activation_dtype,
    .cache_bytes = cuda_cache_bytes,
    .open = cuda_open,
    .close = cuda_close,
    .begin = cuda_begin,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .attend = cuda_attend,
    .activate = cuda_activate,
    .run = cuda_run,
    .argmax = cuda_argmax,
    .scores = cuda_scores,
    .difference = cuda_difference,
};
