/* The pool: every task once, whoever sleeps, competes, forks or is interrupted. */
#include "internal.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

enum { MOST = 5000 };

struct tally {
    atomic_int runs[MOST]; /* of each task */
    pthread_t caller;
    atomic_int elsewhere; /* tasks that did not run on the caller */
    atomic_int interruptible; /* of those, how many would take the host's signals */
    atomic_int deaf;          /* and how many not those that they cause themselves, of which they would die then */
    int64_t nanoseconds; /* that a task takes */
};

static void pause_for(int64_t nanoseconds)
{
    struct timespec time = {0, nanoseconds};
    if (nanoseconds > 0) nanosleep(&time, NULL);
}

static void count_task(void *user_data, int64_t index)
{
    struct tally *tally = user_data;
    atomic_fetch_add(&tally->runs[index], 1);
    pause_for(tally->nanoseconds);
    if (pthread_equal(pthread_self(), tally->caller)) return;
    sigset_t blocked;
    pthread_sigmask(SIG_BLOCK, NULL, &blocked);
    atomic_fetch_add(&tally->elsewhere, 1);
    atomic_fetch_add(&tally->interruptible, !sigismember(&blocked, SIGINT) || !sigismember(&blocked, SIGALRM));
    atomic_fetch_add(&tally->deaf, sigismember(&blocked, SIGBUS) || sigismember(&blocked, SIGSEGV));
}

static struct awqi_pool *create(int32_t threads)
{
    struct awqi_pool *pool = NULL;
    assert_int_equal(awqi_pool_create(threads, &pool), AWQ_OK);
    return pool;
}

/* Whether a run of 'count' tasks runs each once. */
static bool runs_each_once(struct awqi_pool *pool, int64_t count, struct tally *tally)
{
    tally->caller = pthread_self();
    for (int64_t i = 0; i < count; i++) atomic_store(&tally->runs[i], 0);
    awqi_pool_run(pool, count, count_task, tally);
    for (int64_t i = 0; i < count; i++)
        if (atomic_load(&tally->runs[i]) != 1) return false;
    return true;
}

static void every_task_runs_once(void **state)
{
    (void)state;
    static const int64_t counts[] = {0, 1, 2, 3, 16, 17, 255, 1000, MOST};
    static struct tally tally;
    for (int32_t threads = 1; threads <= 9; threads += 4) {
        struct awqi_pool *pool = create(threads);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
            for (int repeat = 0; repeat < 20; repeat++) assert_true(runs_each_once(pool, counts[i], &tally));
        awqi_pool_destroy(pool);
    }
}

/* Pauses around the time after which a worker falls asleep. */
static void sleepers_wake(void **state)
{
    (void)state;
    static struct tally tally;
    struct awqi_pool *pool = create(4);
    for (int64_t i = 0; i < 400; i++) {
        pause_for(i * 250);
        assert_true(runs_each_once(pool, 2 + i % 7, &tally));
    }
    awqi_pool_destroy(pool);
}

/* Tasks long enough for the caller to fall asleep over the last of them. */
static void the_caller_sleeps_and_wakes(void **state)
{
    (void)state;
    static struct tally tally;
    struct awqi_pool *pool = create(3);
    tally.nanoseconds = 200000;
    for (int64_t i = 0; i < 50; i++) assert_true(runs_each_once(pool, 2 + i % 5, &tally));
    assert_true(atomic_load(&tally.elsewhere) > 0);
    assert_int_equal(atomic_load(&tally.interruptible), 0);
    assert_int_equal(atomic_load(&tally.deaf), 0);
    awqi_pool_destroy(pool);
}

static void one_thread_is_the_callers(void **state)
{
    (void)state;
    static struct tally tally;
    struct awqi_pool *pool = create(1);
    tally.nanoseconds = 1000;
    assert_true(runs_each_once(pool, 100, &tally));
    assert_int_equal(atomic_load(&tally.elsewhere), 0);
    awqi_pool_destroy(pool);
}

static void *compete(void *argument)
{
    struct tally *tally = calloc(1, sizeof *tally);
    bool good = tally != NULL;
    for (int i = 0; good && i < 200; i++) good = runs_each_once(argument, 1 + i % 40, tally);
    free(tally);
    return good ? argument : NULL;
}

static void competing_callers_are_served(void **state)
{
    (void)state;
    struct awqi_pool *pool = create(3);
    pthread_t callers[4];
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&callers[i], NULL, compete, pool), 0);
    for (int i = 0; i < 4; i++) {
        void *result;
        pthread_join(callers[i], &result);
        assert_non_null(result);
    }
    awqi_pool_destroy(pool);
}

/* The child has no workers, and must neither wait for them nor for locks that nobody will release. */
static void a_forked_child_works_alone(void **state)
{
    (void)state;
    static struct tally tally;
    struct awqi_pool *pool = create(3);
    assert_true(runs_each_once(pool, 100, &tally));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        atomic_store(&tally.elsewhere, 0);
        bool good = runs_each_once(pool, 100, &tally) && atomic_load(&tally.elsewhere) == 0;
        awqi_pool_destroy(pool);
        _exit(good ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_true(runs_each_once(pool, 100, &tally));
    awqi_pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(sleepers_wake),
        cmocka_unit_test(the_caller_sleeps_and_wakes),
        cmocka_unit_test(one_thread_is_the_callers),
        cmocka_unit_test(competing_callers_are_served),
        cmocka_unit_test(a_forked_child_works_alone),
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
