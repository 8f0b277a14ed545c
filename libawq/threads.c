/* The pool: a fixed number of threads that run numbered tasks.
 *
 * A run is opened, its tasks are claimed in chunks from a counter, and it is closed when the caller finds none left; then
 * the caller waits only for workers that joined.  A worker that the system has not scheduled in the meantime finds the run
 * closed and costs nothing, so a busy machine does not stall a run for a time slice.
 *
 * Nobody takes a lock while all are awake: workers and caller watch a word for SPIN_NANOSECONDS before they sleep. */
#include "internal.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum {
    SPIN_NANOSECONDS = 20000, /* bridges the gap between two products of a layer; a neighbour does not notice it */
    CLAIMS_OF_REST = 4,       /* a claim is that part of a thread's share of what is left: claims are few, the last small */
    CLOSED = 1 << 30          /* in 'members' */
};

struct awqi_pool {
    int32_t threads; /* including the caller of a run */
    int32_t started; /* workers that exist */
    pthread_t *workers;
    atomic_int process;       /* that they live in; a child of it has none.  0: not started */
    pthread_mutex_t run_lock; /* held by the thread whose run this is */

    atomic_uint generation;  /* counts runs: a worker that saw this one has nothing to do */
    atomic_int members;      /* workers at the run, plus CLOSED when none may join it */
    atomic_int sleepers;     /* workers that have to be woken */
    pthread_mutex_t lock;    /* only to fall asleep and to wake others */
    pthread_cond_t work;     /* a run was opened, or the pool is stopping */
    pthread_cond_t idle;     /* the last member of a closed run left */
    atomic_bool stopping;

    /* The run: written while it is closed and has no members, read by members. */
    awqi_range_callback range;
    void *user_data;
    int64_t count;
    atomic_llong next;
};

/* Set while a thread runs tasks, so that a nested run is served on the spot. */
static _Thread_local bool inside_task;

static int64_t now_nanoseconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void pause_briefly(void)
{
    for (int i = 0; i < 16; i++) {
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

/* Tasks [begin, end) are the caller's; false when none are left. */
static bool claim_tasks(struct awqi_pool *pool, int64_t *begin, int64_t *end)
{
    long long first = atomic_load_explicit(&pool->next, memory_order_relaxed), next;
    do {
        const int64_t left = pool->count - first;
        if (left <= 0) return false;
        next = first + awqi_max64(1, left / ((int64_t)pool->threads * CLAIMS_OF_REST));
    } while (!atomic_compare_exchange_weak_explicit(&pool->next, &first, next, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = first;
    *end = next;
    return true;
}

static void run_tasks(struct awqi_pool *pool)
{
    int64_t begin, end;
    inside_task = true;
    while (claim_tasks(pool, &begin, &end)) pool->range(pool->user_data, begin, end);
    inside_task = false;
}

/* ---- workers */

static bool join_run(struct awqi_pool *pool)
{
    int members = atomic_load_explicit(&pool->members, memory_order_relaxed);
    while (!(members & CLOSED))
        if (atomic_compare_exchange_weak_explicit(&pool->members, &members, members + 1, memory_order_acquire,
                                                  memory_order_relaxed))
            return true;
    return false;
}

static void leave_run(struct awqi_pool *pool)
{
    if (atomic_fetch_sub_explicit(&pool->members, 1, memory_order_release) != CLOSED + 1) return;
    pthread_mutex_lock(&pool->lock); /* the caller may be falling asleep */
    pthread_cond_signal(&pool->idle);
    pthread_mutex_unlock(&pool->lock);
}

/* Return once there was a run after number 'seen', or the pool is stopping. */
static void await_run(struct awqi_pool *pool, unsigned seen)
{
    int64_t end = now_nanoseconds() + SPIN_NANOSECONDS;
    do {
        if (atomic_load(&pool->generation) != seen) return;
        pause_briefly();
    } while (now_nanoseconds() < end);
    pthread_mutex_lock(&pool->lock);
    /* Counted before the last look, as open_run looks for sleepers after counting its run: one sees the other. */
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->work, &pool->lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->lock);
}

static void *worker(void *argument)
{
    struct awqi_pool *pool = argument;
    unsigned seen = 0;
    for (;;) {
        await_run(pool, seen);
        if (atomic_load(&pool->stopping)) return NULL;
        seen = atomic_load(&pool->generation);
        if (!join_run(pool)) continue;
        run_tasks(pool);
        leave_run(pool);
    }
}

/* Signals are for the host's own threads, but for those that a thread causes itself: blocked, they would end the process past the
 * host's handler, as where a mapped file became shorter. */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGSYS};
    sigset_t blocked;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, before);
}

/* The first run starts the workers; a system that refuses some leaves a smaller pool, never a failure. */
static void start_workers(struct awqi_pool *pool)
{
    if (pool->workers != NULL) return;
    pool->workers = calloc((size_t)pool->threads - 1, sizeof *pool->workers);
    if (pool->workers == NULL) return;
    atomic_store(&pool->process, getpid());
    sigset_t before;
    block_signals(&before);
    while (pool->started < pool->threads - 1 &&
           pthread_create(&pool->workers[pool->started], NULL, worker, pool) == 0)
        pool->started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- runs */

static void wake_workers(struct awqi_pool *pool, int64_t wanted)
{
    int sleepers = atomic_load(&pool->sleepers);
    if (sleepers == 0) return;
    pthread_mutex_lock(&pool->lock); /* those who were falling asleep now are */
    pthread_mutex_unlock(&pool->lock);
    if (wanted >= sleepers) pthread_cond_broadcast(&pool->work);
    else while (wanted-- > 0) pthread_cond_signal(&pool->work);
}

static void open_run(struct awqi_pool *pool, int64_t count, awqi_range_callback range, void *user_data)
{
    pool->range = range;
    pool->user_data = user_data;
    pool->count = count;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->members, 0, memory_order_release);
    atomic_fetch_add(&pool->generation, 1);
    wake_workers(pool, count - 1);
}

static void close_run(struct awqi_pool *pool)
{
    atomic_fetch_or_explicit(&pool->members, CLOSED, memory_order_acquire);
    int64_t end = now_nanoseconds() + SPIN_NANOSECONDS;
    do {
        if (atomic_load_explicit(&pool->members, memory_order_acquire) == CLOSED) return;
        pause_briefly();
    } while (now_nanoseconds() < end);
    pthread_mutex_lock(&pool->lock);
    while (atomic_load_explicit(&pool->members, memory_order_acquire) != CLOSED)
        pthread_cond_wait(&pool->idle, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static bool is_forked(const struct awqi_pool *pool)
{
    int process = atomic_load(&pool->process);
    return process != 0 && process != getpid();
}

/* Whether this run gets the workers: not for one task, a nested run, while another thread uses them, nor in a process that
 * was forked from theirs, where the locks may be in any state. */
static bool take_workers(struct awqi_pool *pool, int64_t count)
{
    if (count <= 1 || pool->threads < 2 || inside_task) return false;
    if (is_forked(pool)) return false;
    if (pthread_mutex_trylock(&pool->run_lock) != 0) return false;
    start_workers(pool);
    return true;
}

void awqi_pool_run_ranges(struct awqi_pool *pool, int64_t count, awqi_range_callback range, void *user_data)
{
    if (!take_workers(pool, count)) {
        if (count > 0) range(user_data, 0, count);
        return;
    }
    open_run(pool, count, range, user_data);
    run_tasks(pool);
    close_run(pool);
    pthread_mutex_unlock(&pool->run_lock);
}

struct single {
    awq_task_callback task;
    void *user_data;
};

static void run_singly(void *user_data, int64_t begin, int64_t end)
{
    const struct single *single = user_data;
    for (int64_t i = begin; i < end; i++) single->task(single->user_data, i);
}

void awqi_pool_run(struct awqi_pool *pool, int64_t count, awq_task_callback task, void *user_data)
{
    struct single single = {task, user_data};
    awqi_pool_run_ranges(pool, count, run_singly, &single);
}

awq_status awqi_pool_create(int32_t threads, struct awqi_pool **pool)
{
    struct awqi_pool *created = calloc(1, sizeof *created);
    if (created == NULL) return awqi_fail(AWQ_ERROR_OUT_OF_MEMORY, "no memory for a thread pool");
    created->threads = threads;
    atomic_init(&created->members, CLOSED);
    pthread_mutex_init(&created->run_lock, NULL);
    pthread_mutex_init(&created->lock, NULL);
    pthread_cond_init(&created->work, NULL);
    pthread_cond_init(&created->idle, NULL);
    *pool = created;
    return AWQ_OK;
}

static void stop_workers(struct awqi_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_store(&pool->stopping, true);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (int32_t i = 0; i < pool->started; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->idle);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    pthread_mutex_destroy(&pool->run_lock);
}

void awqi_pool_destroy(struct awqi_pool *pool)
{
    if (pool == NULL) return;
    if (!is_forked(pool)) stop_workers(pool);
    free(pool->workers);
    free(pool);
}

int32_t awqi_usable_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (int32_t)online : 1;
}
