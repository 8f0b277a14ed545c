/* The pool: a fixed number of threads that run numbered tasks.
 *
 * A run is opened, its tasks are claimed one by one from a counter, and it is closed when the caller finds none left; then the
 * caller waits only for threads that joined.  A worker that the system has not scheduled in the meantime finds the run closed and
 * costs nothing, so a busy machine does not stall a run for a time slice. */
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

struct awqi_pool {
    int32_t threads; /* including the caller of a run */
    int32_t started; /* workers that exist */
    pthread_t *workers;
    pthread_mutex_t run_lock; /* held by the thread whose run this is */
    pthread_mutex_t lock;     /* guards what follows */
    pthread_cond_t work;      /* a run was opened, or the pool is stopping */
    pthread_cond_t idle;      /* the last joined worker left */
    bool open;
    bool stopping;
    int32_t joined;
    atomic_uint generation; /* counts runs; watched by workers that spin */
    atomic_int busy;        /* equals joined; watched by a caller that spins */
    awq_task_callback task;
    void *user_data;
    int64_t count;
    atomic_llong next;
};

/* Set while a thread runs tasks, so that a nested run is served on the spot. */
static _Thread_local bool inside_task;

/* Long enough to bridge the gap between two products of a layer, short enough not to be noticed by a neighbour. */
enum { SPIN_NANOSECONDS = 20000 };

static int64_t now_nanoseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void pause_briefly(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_tasks(struct awqi_pool *pool)
{
    inside_task = true;
    for (;;) {
        int64_t index = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (index >= pool->count) break;
        pool->task(pool->user_data, index);
    }
    inside_task = false;
}

static void spin_while_generation(struct awqi_pool *pool, unsigned seen)
{
    int64_t end = now_nanoseconds() + SPIN_NANOSECONDS;
    while (atomic_load_explicit(&pool->generation, memory_order_acquire) == seen && now_nanoseconds() < end)
        for (int i = 0; i < 16; i++) pause_briefly();
}

static void *worker(void *argument)
{
    struct awqi_pool *pool = argument;
    unsigned seen = 0;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stopping) {
        if (!pool->open || atomic_load(&pool->generation) == seen) {
            seen = atomic_load(&pool->generation);
            pthread_mutex_unlock(&pool->lock);
            spin_while_generation(pool, seen);
            pthread_mutex_lock(&pool->lock);
            while (!pool->stopping && atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work, &pool->lock);
            continue;
        }
        seen = atomic_load(&pool->generation);
        pool->joined++;
        atomic_store(&pool->busy, pool->joined);
        pthread_mutex_unlock(&pool->lock);
        run_tasks(pool);
        pthread_mutex_lock(&pool->lock);
        pool->joined--;
        atomic_store(&pool->busy, pool->joined);
        if (pool->joined == 0) pthread_cond_signal(&pool->idle);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* The first run starts the workers; a system that refuses some leaves a smaller pool, never a failure. */
static void start_workers(struct awqi_pool *pool)
{
    if (pool->workers != NULL || pool->threads < 2) return;
    pool->workers = calloc((size_t)pool->threads - 1, sizeof *pool->workers);
    if (pool->workers == NULL) return;
    while (pool->started < pool->threads - 1 &&
           pthread_create(&pool->workers[pool->started], NULL, worker, pool) == 0)
        pool->started++;
}

static void wait_for_joined(struct awqi_pool *pool)
{
    int64_t end = now_nanoseconds() + SPIN_NANOSECONDS;
    while (atomic_load_explicit(&pool->busy, memory_order_acquire) != 0 && now_nanoseconds() < end)
        for (int i = 0; i < 16; i++) pause_briefly();
    pthread_mutex_lock(&pool->lock);
    while (pool->joined != 0) pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void awqi_pool_run(struct awqi_pool *pool, int64_t count, awq_task_callback task, void *user_data)
{
    /* One task, a nested run, or a pool that another thread is using: the caller does it alone. */
    if (count <= 1 || pool->threads < 2 || inside_task || pthread_mutex_trylock(&pool->run_lock) != 0) {
        for (int64_t i = 0; i < count; i++) task(user_data, i);
        return;
    }
    start_workers(pool);
    pthread_mutex_lock(&pool->lock);
    pool->task = task;
    pool->user_data = user_data;
    pool->count = count;
    atomic_store(&pool->next, 0);
    pool->open = true;
    atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);

    run_tasks(pool);

    pthread_mutex_lock(&pool->lock);
    pool->open = false;
    pthread_mutex_unlock(&pool->lock);
    wait_for_joined(pool);
    pthread_mutex_unlock(&pool->run_lock);
}

awq_status awqi_pool_create(int32_t threads, struct awqi_pool **pool)
{
    struct awqi_pool *created = calloc(1, sizeof *created);
    if (created == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "no memory for a thread pool");
    created->threads = threads;
    pthread_mutex_init(&created->run_lock, NULL);
    pthread_mutex_init(&created->lock, NULL);
    pthread_cond_init(&created->work, NULL);
    pthread_cond_init(&created->idle, NULL);
    *pool = created;
    return AWQ_OK;
}

void awqi_pool_destroy(struct awqi_pool *pool)
{
    if (pool == NULL) return;
    pthread_mutex_lock(&pool->lock);
    pool->stopping = true;
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->workers[i], NULL);
    free(pool->workers);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->run_lock);
    free(pool);
}

int32_t awqi_usable_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}
