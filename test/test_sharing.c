/* What awq.h says threads may share, shared by eight of them, and callbacks called as documented.  Each test is worth most under
 * the thread sanitizer (make tsan). */
#include "scratch.h"
#include "support.h"

#include <pthread.h>
#include <stdatomic.h>

enum { THREADS = 8, N = 48, K = 96, ROWS = 5, TIMES = 20 };

static float weights[N * K], activations[ROWS * K];

static int fill(void **state)
{
    uint64_t seed = 800;
    (void)state;
    for (int i = 0; i < N * K; i++) weights[i] = random_normal(&seed);
    for (int i = 0; i < ROWS * K; i++) activations[i] = random_normal(&seed);
    return 0;
}

/* Eight threads begin 'work' together; it gets 'shared' and returns NULL, or what went wrong. */
static void in_eight_threads(void *(*work)(void *), void *shared)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, work, shared), 0);
    for (int i = 0; i < THREADS; i++) {
        void *problem = NULL;
        assert_int_equal(pthread_join(threads[i], &problem), 0);
        if (problem != NULL) fail_msg("%s", (const char *)problem);
    }
}

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) return (void *)(uintptr_t)#condition;                                                        \
    } while (0)

static awq_status quantize(awq_context *context, awq_weight **weight)
{
    awq_tensor w;
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = 32;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    return awq_quantize(context, &w, NULL, &options, weight);
}

/* ---- handles */

struct shared {
    awq_context *context;
    const awq_weight *weight;
    const awq_linear *linear;
    float values[N * K], y[ROWS * N]; /* what one thread gets of them */
};

static awq_status run(const awq_linear *linear, float *y)
{
    awq_tensor x, out;
    awq_tensor_init_const_2d(&x, activations, AWQ_F32, ROWS, K);
    awq_tensor_init_2d(&out, y, AWQ_F32, ROWS, N);
    return awq_linear_run(linear, &x, &out, NULL);
}

static awq_status dequantize(const awq_weight *weight, float *values)
{
    awq_tensor out;
    awq_tensor_init_2d(&out, values, AWQ_F32, N, K);
    return awq_weight_dequantize(weight, 0, &out);
}

static void *use_handles(void *argument)
{
    const struct shared *shared = argument;
    float values[N * K], y[ROWS * N];
    for (int i = 0; i < TIMES; i++) {
        awq_packed *packed;
        awq_weight *slice;
        awq_linear *linear;
        CHECK(run(shared->linear, y) == AWQ_OK && memcmp(y, shared->y, sizeof y) == 0);
        CHECK(dequantize(shared->weight, values) == AWQ_OK && memcmp(values, shared->values, sizeof values) == 0);
        CHECK(awq_pack(shared->context, shared->weight, AWQ_LAYOUT_GEMM, &packed) == AWQ_OK);
        awq_packed_destroy(packed);
        CHECK(awq_weight_slice(shared->weight, AWQ_SLICE_ROWS, 1, 9, &slice) == AWQ_OK);
        CHECK(awq_linear_create(shared->context, slice, NULL, &linear) == AWQ_OK);
        awq_weight_destroy(slice);
        awq_linear_destroy(linear);
        CHECK(awq_weight_slice(shared->weight, AWQ_SLICE_COLUMNS, 1, 2, &slice) == AWQ_ERROR_INVALID);
        CHECK(strstr(awq_last_error(), "32") != NULL); /* each thread has its own text */
    }
    return NULL;
}

static void eight_threads_use_one_weight_and_one_linear(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 4; threads += 3) {
        struct shared shared;
        awq_weight *weight;
        awq_linear *linear;
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = threads;
        assert_status(awq_context_create(&options, &shared.context), AWQ_OK);
        assert_status(quantize(shared.context, &weight), AWQ_OK);
        assert_status(awq_linear_create(shared.context, weight, NULL, &linear), AWQ_OK);
        shared.weight = weight;
        shared.linear = linear;
        assert_status(run(linear, shared.y), AWQ_OK);
        assert_status(dequantize(weight, shared.values), AWQ_OK);
        in_eight_threads(use_handles, &shared);
        awq_linear_destroy(linear);
        awq_weight_destroy(weight);
        awq_context_destroy(shared.context);
    }
}

/* ---- contexts */

static void *live_and_die(void *argument)
{
    const struct shared *shared = argument;
    float y[ROWS * N];
    for (int i = 0; i < TIMES; i++) {
        awq_context *context;
        awq_weight *weight;
        awq_linear *linear;
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = 1 + i % 3;
        CHECK(awq_context_create(&options, &context) == AWQ_OK);
        CHECK(quantize(context, &weight) == AWQ_OK);
        CHECK(awq_linear_create(context, weight, NULL, &linear) == AWQ_OK);
        awq_context_destroy(context); /* its handles keep it */
        CHECK(run(linear, y) == AWQ_OK && memcmp(y, shared->y, sizeof y) == 0);
        awq_weight_destroy(weight);
        awq_linear_destroy(linear);
        options.device_type = AWQ_DEVICE_CUDA;
        CHECK(awq_context_create(&options, &context) == AWQ_ERROR_NO_DEVICE);
    }
    return NULL;
}

static void contexts_live_and_die_in_eight_threads(void **state)
{
    struct scratch *scratch = *state;
    struct shared shared;
    awq_weight *weight;
    awq_linear *linear;
    setenv("AWQ_CUDA_BACKEND", scratch_path(scratch, "absent.so"), 1);
    assert_status(quantize(scratch->context, &weight), AWQ_OK);
    assert_status(awq_linear_create(scratch->context, weight, NULL, &linear), AWQ_OK);
    assert_status(run(linear, shared.y), AWQ_OK);
    in_eight_threads(live_and_die, &shared);
    awq_linear_destroy(linear);
    awq_weight_destroy(weight);
    unsetenv("AWQ_CUDA_BACKEND");
}

/* ---- callbacks */

struct log {
    awq_context *context;
    int inside, lines; /* not atomic: the library calls it for one thread at a time */
};

static void count_line(void *user_data, int32_t level, const char *message, size_t length)
{
    struct log *log = user_data;
    assert_int_equal(log->inside++, 0);
    assert_int_equal(strlen(message), length);
    assert_int_equal(level, AWQ_LOG_DEBUG);
    log->lines++;
    log->inside--;
}

static void *write_lines(void *argument)
{
    struct log *log = argument;
    for (int i = 0; i < TIMES; i++) {
        awqi_log(log->context, AWQ_LOG_DEBUG, "line %d", i);
    }
    return NULL;
}

static void lines_of_the_log_come_one_by_one(void **state)
{
    (void)state;
    struct log log = {0};
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 1;
    options.log = count_line;
    options.log_data = &log;
    options.log_level = AWQ_LOG_DEBUG;
    assert_status(awq_context_create(&options, &log.context), AWQ_OK);
    int before = log.lines;
    in_eight_threads(write_lines, &log);
    assert_int_equal(log.lines - before, THREADS * TIMES);
    awq_context_destroy(log.context);
}

struct progress {
    pthread_t caller;
    uint64_t done, total;
};

/* On the caller's thread, never backwards, and of one total. */
static int32_t watch(void *user_data, uint64_t done, uint64_t total)
{
    struct progress *progress = user_data;
    assert_true(pthread_equal(pthread_self(), progress->caller));
    assert_true(done >= progress->done && done <= total);
    assert_true(progress->total == 0 || total == progress->total);
    progress->done = done;
    progress->total = total;
    return 0;
}

static void *search_alone(void *argument)
{
    awq_context *context = argument;
    struct progress progress = {.caller = pthread_self()};
    awq_calibration *calibration;
    awq_search *search;
    awq_search_options options;
    awq_tensor w, x;
    awq_struct_init(&options, sizeof options);
    options.grid_points = 3;
    options.progress = watch;
    options.progress_data = &progress;
    awq_tensor_init_const_2d(&w, weights, AWQ_F32, N, K);
    awq_tensor_init_const_2d(&x, activations, AWQ_F32, ROWS, K);
    CHECK(awq_calibration_create(context, K, NULL, &calibration) == AWQ_OK);
    CHECK(awq_calibration_observe(calibration, &x) == AWQ_OK);
    CHECK(awq_search_create(context, calibration, &options, &search) == AWQ_OK);
    CHECK(awq_search_add_weight(search, &w) == AWQ_OK && awq_search_run(search) == AWQ_OK);
    CHECK(progress.done == progress.total && progress.total > 0);
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    return NULL;
}

static void progress_is_reported_on_the_callers_thread(void **state)
{
    (void)state;
    awq_context *context;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 3;
    assert_status(awq_context_create(&options, &context), AWQ_OK);
    in_eight_threads(search_alone, context);
    awq_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(eight_threads_use_one_weight_and_one_linear),
        SCRATCH_TEST(contexts_live_and_die_in_eight_threads),
        SCRATCH_TEST(lines_of_the_log_come_one_by_one),
        SCRATCH_TEST(progress_is_reported_on_the_callers_thread),
    };
    return cmocka_run_group_tests_name("sharing", tests, fill, NULL);
}
