/* The forward pass of the host application against plain loops in double, and against itself: step by step, in other
 * batches, with other numbers of threads. */
#include "app.h"
#include "model.h"
#include "vector_math.h"

#include <math.h>

/* Reproducible, in [-1, 1). */
static float number(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) * 0x1p-23 - 1);
}

static float *numbers(uint64_t *state, int64_t count, float scale)
{
    float *values = malloc((size_t)count * sizeof *values);
    assert_non_null(values);
    for (int64_t i = 0; i < count; i++) values[i] = scale * number(state);
    return values;
}

static awq_context *open_context(int threads)
{
    awq_context *context;
    assert_true(context_open(threads, 0, &context));
    return context;
}

/* ---- pointwise */

static void fast_exp_is_accurate(void **state)
{
    (void)state;
    for (double x = -87; x <= 88; x += 0.00137) {
        double exact = exp((double)(float)x);
        assert_true(fabs((double)fast_exp((float)x) - exact) <= 2.5e-7 * exact);
    }
    assert_true(fast_exp(0) == 1);
    assert_true(fast_exp(-88) == 0 && fast_exp(-INFINITY) == 0);
    assert_true(isfinite(fast_exp(1000)));
    assert_true(isnan(fast_exp(NAN)));
}

/* RMSNorm, and LayerNorm where there is a bias. */
static double exact_norm(const float *x, int64_t width, const struct norm *norm, int64_t i)
{
    double mean = 0, square = 0;
    for (int64_t j = 0; norm->bias && j < width; j++) mean += (double)x[j] / (double)width;
    for (int64_t j = 0; j < width; j++) square += ((double)x[j] - mean) * ((double)x[j] - mean);
    double scaled = ((double)x[i] - mean) / sqrt(square / (double)width + 1e-5) * (double)norm->weight[i];
    return scaled + (norm->bias ? (double)norm->bias[i] : 0);
}

static void norms_match(void **state)
{
    (void)state;
    awq_context *context = open_context(2);
    uint64_t seed = 1;
    for (int64_t width = 1; width <= 70; width += 3) {
        int64_t rows = 37;
        float *x = numbers(&seed, rows * width, 3), *out = numbers(&seed, rows * width, 1);
        float *weight = numbers(&seed, width, 1), *bias = numbers(&seed, width, 1);
        for (int with_bias = 0; with_bias < 2; with_bias++) {
            const struct norm norm = {weight, with_bias ? bias : NULL};
            assert_true(norm_rows(context, x, rows, width, &norm, 1e-5, out));
            for (int64_t i = 0; i < rows * width; i++) {
                double exact = exact_norm(x + i / width * width, width, &norm, i % width);
                assert_true(fabs((double)out[i] - exact) <= (with_bias ? 2e-4 : 1e-6) * (1 + fabs(exact)));
            }
        }
        free(x);
        free(weight);
        free(bias);
        free(out);
    }
    awq_context_destroy(context);
}

static double exact_activation(enum activation activation, double x)
{
    const double inner = sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
    switch (activation) {
    case ACTIVATION_SILU: return x / (1 + exp(-x));
    case ACTIVATION_GELU: return x / 2 * (1 + erf(x / sqrt(2)));
    case ACTIVATION_GELU_TANH: return x / 2 * (1 + tanh(inner));
    default: return x > 0 ? x : 0;
    }
}

static void activations_match(void **state)
{
    (void)state;
    awq_context *context = open_context(2);
    uint64_t seed = 2;
    int64_t count = 40000;
    float *gate = numbers(&seed, count, 8), *up = numbers(&seed, count, 1), *out = numbers(&seed, count, 1);
    for (int activation = ACTIVATION_SILU; activation <= ACTIVATION_RELU; activation++) {
        for (int gated = 0; gated < 2; gated++) {
            assert_true(activate(context, (enum activation)activation, gate, gated ? up : NULL, 400, 100, 400, out));
            for (int64_t i = 0; i < count; i++) {
                double exact = exact_activation((enum activation)activation, (double)gate[i]);
                exact *= gated ? (double)up[i] : 1;
                assert_true(fabs((double)out[i] - exact) <= 1e-6 * fabs(exact) + 1e-6);
            }
        }
    }
    free(gate);
    free(up);
    free(out);
    awq_context_destroy(context);
}

/* ---- attention: a block of which only q, k, v exist */

struct case_shape {
    int64_t heads, kv_heads, head_dim, window;
    bool qk_norm;
};

static const struct case_shape shapes[] = {
    {4, 2, 16, 0, false}, {6, 2, 20, 0, false}, {3, 3, 6, 5, false}, {5, 1, 32, 70, true}, {2, 1, 64, 1, true},
};

enum { SHAPES = sizeof shapes / sizeof *shapes, HIDDEN = 24, SEQUENCES = 3, CAPACITY = 150 };

static const int64_t counts[SEQUENCES] = {130, 1, 70};

struct fixture {
    struct model_config config;
    struct block block;
    int64_t rows, qkv_width;
    float *weight; /* [qkv width][HIDDEN] */
    float *x;      /* [rows][HIDDEN] */
};

static awq_linear *dense(awq_context *context, const float *weight, int64_t n, int64_t k)
{
    awq_tensor view;
    awq_linear *linear;
    awq_tensor_init_const_2d(&view, weight, AWQ_F32, n, k);
    assert_int_equal(awq_linear_create_dense(context, &view, NULL, &linear), AWQ_OK);
    return linear;
}

static void fixture_open(awq_context *context, const struct case_shape *shape, struct fixture *fixture)
{
    uint64_t seed = (uint64_t)(shape - shapes) + 10;
    const struct batch batch = {SEQUENCES, counts};
    memset(fixture, 0, sizeof *fixture);
    fixture->config = (struct model_config){
        .architecture = architecture_of_type("llama"),
        .layers = 2, .hidden = HIDDEN, .intermediate = 8, .heads = shape->heads, .kv_heads = shape->kv_heads,
        .head_dim = shape->head_dim, .vocabulary = 2, .context = CAPACITY, .norm_epsilon = 1e-5, .rope_theta = 100,
        .embedding_scale = 1,
        .sliding_window = shape->window, .first_windowed_layer = 1,
    };
    fixture->rows = batch_rows(&batch);
    fixture->qkv_width = (shape->heads + 2 * shape->kv_heads) * shape->head_dim;
    fixture->weight = numbers(&seed, fixture->qkv_width * HIDDEN, 1);
    fixture->x = numbers(&seed, fixture->rows * HIDDEN, 1);
    fixture->block.layer = 1;
    fixture->block.qkv = dense(context, fixture->weight, fixture->qkv_width, HIDDEN);
    if (!shape->qk_norm) return;
    fixture->block.q_norm.weight = numbers(&seed, shape->head_dim, 2);
    fixture->block.k_norm.weight = numbers(&seed, shape->head_dim, 2);
}

static void fixture_close(struct fixture *fixture)
{
    awq_linear_destroy(fixture->block.qkv);
    free(fixture->block.q_norm.weight);
    free(fixture->block.k_norm.weight);
    free(fixture->weight);
    free(fixture->x);
}

/* One head of one row, projected, normed and rotated, in double. */
static void project_head(const struct fixture *fixture, int64_t row, int64_t head, const float *norm, int64_t position,
                         double *out)
{
    int64_t width = fixture->config.head_dim;
    double square = 0;
    for (int64_t i = 0; i < width; i++) {
        const float *weight = fixture->weight + (head * width + i) * HIDDEN, *x = fixture->x + row * HIDDEN;
        out[i] = 0;
        for (int64_t j = 0; j < HIDDEN; j++) out[i] += (double)weight[j] * (double)x[j];
        square += out[i] * out[i];
    }
    for (int64_t i = 0; norm && i < width; i++)
        out[i] *= (double)norm[i] / sqrt(square / (double)width + fixture->config.norm_epsilon);
    for (int64_t i = 0; position > 0 && i < width / 2; i++) {
        double angle = (double)position * pow(fixture->config.rope_theta, -2.0 * (double)i / (double)width);
        double a = out[i], b = out[i + width / 2];
        out[i] = a * cos(angle) - b * sin(angle);
        out[i + width / 2] = b * cos(angle) + a * sin(angle);
    }
}

/* Attention of one head of one row, over the rows of its sequence from 'first_row' on. */
static void attend_exactly(const struct fixture *fixture, int64_t first_row, int64_t position, int64_t head,
                           double *out)
{
    const struct model_config *config = &fixture->config;
    int64_t width = config->head_dim, window = config->sliding_window;
    int64_t kv_head = head / (config->heads / config->kv_heads);
    double q[MAX_HEAD_DIM], k[MAX_HEAD_DIM], weights[CAPACITY], total = 0;
    int64_t first = window && position >= window ? position - window + 1 : 0;
    project_head(fixture, first_row + position, head, fixture->block.q_norm.weight, position, q);
    memset(out, 0, (size_t)width * sizeof *out);
    for (int64_t j = first; j <= position; j++) {
        double score = 0;
        project_head(fixture, first_row + j, config->heads + kv_head, fixture->block.k_norm.weight, j, k);
        for (int64_t i = 0; i < width; i++) score += q[i] * k[i];
        weights[j] = exp(score / sqrt((double)width));
        total += weights[j];
    }
    for (int64_t j = first; j <= position; j++) {
        project_head(fixture, first_row + j, config->heads + config->kv_heads + kv_head, NULL, 0, k);
        for (int64_t i = 0; i < width; i++) out[i] += weights[j] / total * k[i];
    }
}

static struct session *open_session(awq_context *context, const struct fixture *fixture, bool retain)
{
    const struct session_options options = {fixture->rows, SEQUENCES, CAPACITY, retain};
    struct session *session;
    assert_true(session_create(context, &fixture->config, &options, &session));
    return session;
}

static void attention_matches(void **state)
{
    (void)state;
    const struct batch batch = {SEQUENCES, counts};
    awq_context *context = open_context(2);
    for (int i = 0; i < SHAPES; i++) {
        struct fixture fixture;
        fixture_open(context, &shapes[i], &fixture);
        int64_t width = shapes[i].heads * shapes[i].head_dim, first = 0;
        struct session *session = open_session(context, &fixture, false);
        float *out = calloc((size_t)(fixture.rows * width), sizeof *out);
        const awq_tensor x = context_view(context, fixture.x, AWQ_F32, fixture.rows, HIDDEN);
        assert_true(block_context(session, &fixture.block, &batch, &x, out));
        for (int64_t sequence = 0; sequence < SEQUENCES; first += counts[sequence++]) {
            for (int64_t position = 0; position < counts[sequence]; position += 3) {
                for (int64_t head = 0; head < shapes[i].heads; head++) {
                    double exact[MAX_HEAD_DIM];
                    const float *found = out + (first + position) * width + head * shapes[i].head_dim;
                    attend_exactly(&fixture, first, position, head, exact);
                    for (int64_t j = 0; j < shapes[i].head_dim; j++)
                        assert_true(fabs((double)found[j] - exact[j]) <= 2e-5 * (1 + fabs(exact[j])));
                }
            }
        }
        free(out);
        session_destroy(session);
        fixture_close(&fixture);
    }
    awq_context_destroy(context);
}

/* ---- a whole model */

enum { VOCABULARY = 50, INNER = 40 };

/* A model of two blocks that were never in a file. */
static void model_make(awq_context *context, const struct case_shape *shape, struct model *model, float **embedding)
{
    uint64_t seed = 99;
    struct fixture fixture;
    int64_t n, k;
    fixture_open(context, shape, &fixture);
    memset(model, 0, sizeof *model);
    model->context = context;
    model->config = fixture.config;
    model->config.intermediate = INNER;
    model->config.vocabulary = VOCABULARY;
    fixture_close(&fixture);
    model->blocks = calloc(2, sizeof *model->blocks);
    for (int layer = 0; layer < 2; layer++) {
        struct linear_weights linears[LINEAR_KINDS] = {{NULL}};
        struct block_weights weights = {.layer = layer, .linear = linears, .linears = LINEAR_KINDS};
        float *values[LINEAR_KINDS], *norm = numbers(&seed, HIDDEN, 1);
        for (int i = 0; i < LINEAR_KINDS; i++) {
            block_linear_shape(&model->config, i, &n, &k);
            values[i] = numbers(&seed, n * k, 0.5f);
            awq_tensor_init_2d(&weights.linear[i].dense, values[i], AWQ_F32, n, k);
        }
        awq_tensor_init_1d(&weights.attention_norm.weight, norm, AWQ_F32, HIDDEN);
        weights.mlp_norm = weights.attention_norm;
        assert_true(block_create(context, &model->config, &weights, layer == 0, NULL, &model->blocks[layer]));
        for (int i = 0; i < LINEAR_KINDS; i++) free(values[i]);
        free(norm);
    }
    assert_non_null(model->blocks[0].qkv);
    assert_non_null(model->blocks[0].gate_up[0]);
    assert_null(model->blocks[1].qkv);
    *embedding = numbers(&seed, VOCABULARY * HIDDEN, 1);
    awq_tensor_init_2d(&model->embeddings.tokens, *embedding, AWQ_F32, VOCABULARY, HIDDEN);
    model->final_norm.weight = numbers(&seed, HIDDEN, 1);
    model->head = dense(context, *embedding, VOCABULARY, HIDDEN);
}

static void model_unmake(struct model *model, float *embedding)
{
    for (int i = 0; i < 2; i++) block_clear(model->context, &model->blocks[i]);
    free(model->blocks);
    free(model->final_norm.weight);
    free(embedding);
    awq_linear_destroy(model->head);
}

static float *run_whole(awq_context *context, const struct case_shape *shape, const int32_t *tokens, int64_t count)
{
    struct model model;
    struct session *session;
    float *embedding, *hidden = malloc((size_t)count * HIDDEN * sizeof *hidden);
    const struct session_options options = {count, 1, count, false};
    const struct batch batch = {1, &count};
    model_make(context, shape, &model, &embedding);
    assert_true(session_create(context, &model.config, &options, &session));
    assert_true(model_forward(&model, session, &batch, tokens, hidden));
    session_destroy(session);
    model_unmake(&model, embedding);
    return hidden;
}

static void make_tokens(int32_t *tokens, int64_t count)
{
    for (int64_t i = 0; i < count; i++) tokens[i] = (int32_t)((i * i + 7 * i) % VOCABULARY);
}

static void threads_change_nothing(void **state)
{
    (void)state;
    int32_t tokens[CAPACITY];
    make_tokens(tokens, CAPACITY);
    awq_context *one = open_context(1), *seven = open_context(7);
    float *a = run_whole(one, &shapes[1], tokens, CAPACITY), *b = run_whole(seven, &shapes[1], tokens, CAPACITY);
    assert_memory_equal(a, b, CAPACITY * HIDDEN * sizeof *a);
    free(a);
    free(b);
    awq_context_destroy(one);
    awq_context_destroy(seven);
}

/* Prompts of several sequences at once, then tokens one by one, some sequences pausing: what one pass over each whole
 * sequence gives. */
static void steps_give_what_one_pass_gives(void **state)
{
    (void)state;
    enum { LENGTH = 100, PROMPT = 67 };
    const struct case_shape *shape = &shapes[2]; /* with a window */
    awq_context *context = open_context(2);
    int32_t tokens[LENGTH], fed[2 * PROMPT];
    make_tokens(tokens, LENGTH);
    float *whole = run_whole(context, shape, tokens, LENGTH), *embedding;
    float hidden[2 * PROMPT * HIDDEN];
    struct model model;
    struct session *session;
    const struct session_options options = {2 * PROMPT, 2, LENGTH, true};
    model_make(context, shape, &model, &embedding);
    assert_true(session_create(context, &model.config, &options, &session));
    for (int step = 0; session_length(session, 0) < LENGTH; step++) {
        int64_t lengths[2], now[2], row = 0;
        for (int i = 0; i < 2; i++) {
            lengths[i] = session_length(session, i);
            now[i] = step == 0 ? PROMPT : i == 1 && step % 3 == 0 ? 0 : 1;
            memcpy(fed + row, tokens + lengths[i], (size_t)now[i] * sizeof *fed);
            row += now[i];
        }
        const struct batch batch = {2, now};
        assert_true(model_forward(&model, session, &batch, fed, hidden));
        row = 0;
        for (int i = 0; i < 2; row += now[i++])
            for (int64_t j = 0; j < now[i] * HIDDEN; j++)
                assert_true(fabsf(hidden[row * HIDDEN + j] - whole[lengths[i] * HIDDEN + j]) < 1e-4f);
    }
    /* Forgetting the end and feeding it again leads to the same place. */
    session_truncate(session, 0, LENGTH - 1);
    const int64_t again[1] = {1};
    const struct batch batch = {1, again};
    assert_true(model_forward(&model, session, &batch, tokens + LENGTH - 1, hidden));
    for (int j = 0; j < HIDDEN; j++)
        assert_true(fabsf(hidden[j] - whole[(LENGTH - 1) * HIDDEN + j]) < 1e-4f);
    session_destroy(session);
    model_unmake(&model, embedding);
    free(whole);
    awq_context_destroy(context);
}

/* ---- what does not fit */

static void refuse_batch(const struct model *model, struct session *session, int64_t sequences, const int64_t *given,
                         const int32_t *tokens, const char *message)
{
    static float hidden[64 * HIDDEN];
    const struct batch batch = {sequences, given};
    app_capture();
    bool ok = model_forward(model, session, &batch, tokens, hidden);
    const char *text = app_release();
    assert_false(ok);
    assert_contains(text, message);
}

static void batches_that_do_not_fit_are_refused(void **state)
{
    (void)state;
    awq_context *context = open_context(1);
    const struct session_options options = {16, 2, 10, true};
    const int64_t many[3] = {2, 2, 2}, long_one[2] = {11, 1}, rows[2] = {9, 9}, two[2] = {1, 1};
    int32_t tokens[32] = {0};
    struct model model;
    struct session *session;
    float *embedding;
    model_make(context, &shapes[0], &model, &embedding);
    assert_true(session_create(context, &model.config, &options, &session));
    refuse_batch(&model, session, 3, many, tokens, "6 tokens in 3 sequences where there is room for 16 in 2");
    refuse_batch(&model, session, 2, rows, tokens, "a batch of 18 tokens");
    refuse_batch(&model, session, 2, long_one, tokens, "11 tokens do not fit the context of 10");
    tokens[1] = VOCABULARY;
    refuse_batch(&model, session, 2, two, tokens, "token 50 is not in the model's vocabulary of 50");
    tokens[1] = -1;
    refuse_batch(&model, session, 2, two, tokens, "token -1 is not");
    assert_int_equal(session_length(session, 0), 0);
    session_destroy(session);
    model_unmake(&model, embedding);
    awq_context_destroy(context);
}

static void sessions_take_what_they_say(void **state)
{
    (void)state;
    awq_context *context;
    uint64_t before, after;
    struct fixture fixture;
    struct session *session;
    awq_context *plenty = open_context(1);
    fixture_open(plenty, &shapes[0], &fixture);
    const struct session_options options = {64, 2, 32, true}, huge = {1 << 20, 64, 4096, true};
    uint64_t expected = session_bytes(plenty, &fixture.config, &options);
    assert_true(context_open(1, expected + (1 << 16), &context));
    assert_int_equal(awq_context_get_memory(context, &before, NULL), AWQ_OK);
    assert_true(session_create(context, &fixture.config, &options, &session));
    assert_int_equal(awq_context_get_memory(context, &after, NULL), AWQ_OK);
    assert_in_range(after - before, expected, expected + 16 * 4096);
    session_destroy(session);
    assert_int_equal(awq_context_get_memory(context, &after, NULL), AWQ_OK);
    assert_int_equal(after, before);
    app_capture();
    bool ok = session_create(context, &fixture.config, &huge, &session);
    assert_contains(app_release(), "room for 1048576 tokens and 64 sequences of 4096");
    assert_false(ok);
    assert_null(session);
    assert_int_equal(awq_context_get_memory(context, &after, NULL), AWQ_OK);
    assert_int_equal(after, before);
    fixture_close(&fixture);
    awq_context_destroy(context);
    awq_context_destroy(plenty);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_exp_is_accurate),
        cmocka_unit_test(norms_match),
        cmocka_unit_test(activations_match),
        cmocka_unit_test(attention_matches),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(steps_give_what_one_pass_gives),
        cmocka_unit_test(batches_that_do_not_fit_are_refused),
        cmocka_unit_test(sessions_take_what_they_say),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
