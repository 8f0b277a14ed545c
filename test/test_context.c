/* The context: options, memory and its limit, the log, references. */
#include "internal.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

static awq_context *create(awq_context_options *options)
{
    awq_context *context = NULL;
    assert_int_equal(awq_context_create(options, &context), AWQ_OK);
    assert_non_null(context);
    return context;
}

static void defaults_give_the_cpu(void **state)
{
    (void)state;
    awq_context *context = create(NULL);
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    assert_int_equal(awq_context_get_device(context, &info), AWQ_OK);
    assert_int_equal(info.device_type, AWQ_DEVICE_CPU);
    assert_true(info.compute_units >= 1);
    assert_true(info.name[0] != 0);
    assert_int_equal(awq_context_synchronize(context, NULL), AWQ_OK);
    awq_context_destroy(context);
    awq_context_destroy(NULL);
}

static void bad_options_are_refused(void **state)
{
    (void)state;
    awq_context *context = (void *)1;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_type = 7;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID);
    assert_null(context);
    options.device_type = 0;
    options.threads = -1;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID);
    options.threads = 0;
    options.flags = 4;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.device_id = -2;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID);
    options.device_id = 0;
    options.log_level = 9;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_create(NULL, NULL), AWQ_ERROR_INVALID);
}

struct counter {
    atomic_llong live;
    atomic_llong calls;
    long long fail_after; /* -1: never */
};

static void *counting_allocate(void *user_data, size_t size, size_t alignment)
{
    struct counter *counter = user_data;
    long long call = atomic_fetch_add(&counter->calls, 1);
    if (counter->fail_after >= 0 && call >= counter->fail_after) return NULL;
    void *memory = NULL;
    if (posix_memalign(&memory, alignment, size) != 0) return NULL;
    atomic_fetch_add(&counter->live, (long long)size);
    return memory;
}

static void counting_release(void *user_data, void *memory, size_t size)
{
    struct counter *counter = user_data;
    atomic_fetch_sub(&counter->live, (long long)size);
    free(memory);
}

static void the_hosts_allocator_serves_everything(void **state)
{
    (void)state;
    struct counter counter = {.fail_after = -1};
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.allocate = counting_allocate;
    awq_context *context = NULL;
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_INVALID); /* no release */
    options.release = counting_release;
    options.allocator_data = &counter;
    context = create(&options);
    void *memory;
    assert_int_equal(awqi_alloc(context, 1000, 8, "test", &memory), AWQ_OK);
    assert_int_equal((uintptr_t)memory % 256, 0);
    assert_true(atomic_load(&counter.live) >= 8000);
    counter.fail_after = 0;
    void *other = (void *)1;
    assert_int_equal(awqi_alloc(context, 1, 1, "test", &other), AWQ_ERROR_OUT_OF_MEMORY);
    assert_null(other);
    awqi_free(context, memory);
    awq_context_destroy(context);
    assert_int_equal(atomic_load(&counter.live), 0);
    assert_int_equal(awq_context_create(&options, &context), AWQ_ERROR_OUT_OF_MEMORY);
}

static void the_limit_holds(void **state)
{
    (void)state;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.memory_limit_bytes = 1 << 20;
    awq_context *context = create(&options);
    uint64_t before, current, peak;
    assert_int_equal(awq_context_get_memory(context, &before, NULL), AWQ_OK);
    void *memory = NULL, *more = NULL;
    assert_int_equal(awq_context_allocate(context, 1 << 19, &memory), AWQ_OK);
    assert_int_equal((uintptr_t)memory % 256, 0);
    assert_int_equal(awq_context_allocate(context, 1 << 19, &more), AWQ_ERROR_MEMORY_LIMIT);
    assert_null(more);
    assert_non_null(strstr(awq_last_error(), "1048576"));
    awq_context_free(context, memory);
    assert_int_equal(awq_context_get_memory(context, &current, &peak), AWQ_OK);
    assert_int_equal(current, before);
    assert_true(peak >= 1 << 19 && peak <= 1 << 20);
    awq_context_destroy(context);
}

static void absurd_sizes_do_not_wrap(void **state)
{
    (void)state;
    awq_context *context = create(NULL);
    void *memory;
    assert_int_equal(awqi_alloc(context, UINT64_MAX / 2, 4, "test", &memory), AWQ_ERROR_OUT_OF_MEMORY);
    assert_int_equal(awqi_alloc(context, UINT64_MAX, 1, "test", &memory), AWQ_ERROR_OUT_OF_MEMORY);
    assert_int_equal(awq_context_allocate(context, UINT64_MAX, &memory), AWQ_ERROR_OUT_OF_MEMORY);
    assert_int_equal(awqi_calloc(context, 0, 8, "test", &memory), AWQ_OK);
    assert_non_null(memory);
    awqi_free(context, memory);
    awq_context_destroy(context);
}

static void collect(void *user_data, int32_t level, const char *message, size_t length)
{
    assert_int_equal(strlen(message), length);
    *(int32_t *)user_data = level;
}

static void the_log_respects_its_level(void **state)
{
    (void)state;
    int32_t seen = 0;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.log = collect;
    options.log_data = &seen;
    awq_context *context = create(&options);
    awqi_log(context, AWQ_LOG_INFO, "not by default");
    assert_int_equal(seen, 0);
    awqi_log(context, AWQ_LOG_WARNING, "%d groups", 3);
    assert_int_equal(seen, AWQ_LOG_WARNING);
    awq_context_destroy(context);
}

static void add_index(void *user_data, int64_t index)
{
    atomic_fetch_add((atomic_llong *)user_data, index + 1);
}

static void parallel_for_runs_every_task_once(void **state)
{
    (void)state;
    for (int32_t threads = 1; threads <= 5; threads += 2) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = threads;
        awq_context *context = create(&options);
        for (int64_t count = 0; count < 200; count += 13) {
            atomic_llong sum = 0;
            assert_int_equal(awq_context_parallel_for(context, count, add_index, &sum), AWQ_OK);
            assert_int_equal(atomic_load(&sum), count * (count + 1) / 2);
        }
        assert_int_equal(awq_context_parallel_for(context, -1, add_index, NULL), AWQ_ERROR_INVALID);
        assert_int_equal(awq_context_parallel_for(context, 1, NULL, NULL), AWQ_ERROR_INVALID);
        awq_context_destroy(context);
    }
    assert_int_equal(awq_context_parallel_for(NULL, 1, add_index, NULL), AWQ_ERROR_INVALID);
}

struct nested {
    awq_context *context;
    atomic_llong sum;
};

static void nested_task(void *user_data, int64_t index)
{
    struct nested *nested = user_data;
    (void)index;
    awqi_parallel_for(nested->context, 10, add_index, &nested->sum);
}

static void *run_nested(void *argument)
{
    struct nested *nested = argument;
    for (int i = 0; i < 50; i++) awqi_parallel_for(nested->context, 4, nested_task, nested);
    return NULL;
}

static void nested_and_competing_runs_finish(void **state)
{
    (void)state;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 3;
    struct nested nested = {.context = create(&options)};
    pthread_t others[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&others[i], NULL, run_nested, &nested), 0);
    for (int i = 0; i < 3; i++) pthread_join(others[i], NULL);
    assert_int_equal(atomic_load(&nested.sum), 3 * 50 * 4 * 55);
    awq_context_destroy(nested.context);
}

static awq_status fail_at_zero(void *user_data, void *stream)
{
    assert_null(stream);
    return --*(int *)user_data == 0 ? AWQ_ERROR_STATE : AWQ_OK;
}

static void work_is_timed_as_often_as_asked(void **state)
{
    (void)state;
    enum { RUNS = 5 };
    awq_context *context = create(NULL);
    double seconds[RUNS + 1] = {-1, -1, -1, -1, -1, -1};
    int left = 100;
    assert_int_equal(awq_context_time(context, fail_at_zero, &left, RUNS, seconds), AWQ_OK);
    assert_int_equal(left, 100 - RUNS - 1); /* one of them unmeasured */
    for (int i = 0; i < RUNS; i++) assert_true(seconds[i] >= 0.0);
    assert_true(seconds[RUNS] == -1.0);
    for (int good = 1; good <= RUNS; good++) {
        left = good;
        assert_int_equal(awq_context_time(context, fail_at_zero, &left, RUNS, seconds), AWQ_ERROR_STATE);
        assert_int_equal(left, 0); /* not called again */
    }
    assert_int_equal(awq_context_time(context, fail_at_zero, &left, 0, seconds), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_time(context, fail_at_zero, &left, (int64_t)1 << 40, seconds), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_time(context, NULL, &left, 1, seconds), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_time(context, fail_at_zero, &left, 1, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_time(NULL, fail_at_zero, &left, 1, seconds), AWQ_ERROR_INVALID);
    awq_context_destroy(context);
}

static void null_handles_are_refused(void **state)
{
    (void)state;
    awq_device_info info;
    awq_struct_init(&info, sizeof info);
    void *memory;
    assert_int_equal(awq_context_get_device(NULL, &info), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_get_memory(NULL, NULL, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_allocate(NULL, 1, &memory), AWQ_ERROR_INVALID);
    assert_int_equal(awq_context_synchronize(NULL, NULL), AWQ_ERROR_INVALID);
    awq_context_free(NULL, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_give_the_cpu),
        cmocka_unit_test(bad_options_are_refused),
        cmocka_unit_test(the_hosts_allocator_serves_everything),
        cmocka_unit_test(the_limit_holds),
        cmocka_unit_test(absurd_sizes_do_not_wrap),
        cmocka_unit_test(the_log_respects_its_level),
        cmocka_unit_test(parallel_for_runs_every_task_once),
        cmocka_unit_test(nested_and_competing_runs_finish),
        cmocka_unit_test(work_is_timed_as_often_as_asked),
        cmocka_unit_test(null_handles_are_refused),
    };
    return cmocka_run_group_tests_name("context", tests, NULL, NULL);
}
