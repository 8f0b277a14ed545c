/* Reading memory and doing nothing with it: a limit of the machine, and one of the contestants.
 *
 * How fast memory is changes with what others do on the machine, from one second to the next.  The limit is what was
 * reached at best; the contestant reads as many bytes as a weight has in turns with the kernels, so that the ratio of their
 * times says what a kernel adds to reading its weight. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { PASSES = 9, BLOCK_BYTES = 1 << 17, AHEAD_BYTES = 8192, HUGE_PAGE = 2 << 20 };

typedef uint64_t line __attribute__((vector_size(64))); /* a cache line; the compiler cuts it as registers need */

struct reading {
    awq_context *context;
    const unsigned char *memory;
    uint64_t bytes;
    bool ahead;
    uint64_t sum;
};

/* Eight independent sums of lines, in order, and on demand asking for lines well ahead: whichever way is faster on this
 * machine is its limit.  A rest of fewer than eight lines is left out. */
__attribute__((always_inline)) static inline uint64_t read_block(const unsigned char *memory, uint64_t bytes,
                                                                 bool ahead)
{
    const line *at = (const void *)memory, *end = at + bytes / (8 * sizeof *at) * 8;
    line sums[8] = {{0}};
    for (; at < end; at += 8)
        for (int i = 0; i < 8; i++) {
            if (ahead) __builtin_prefetch((const char *)&at[i] + AHEAD_BYTES);
            sums[i] ^= at[i];
        }
    for (int i = 1; i < 8; i++) sums[0] ^= sums[i];
    uint64_t sum = 0;
    for (int i = 0; i < 8; i++) sum ^= sums[0][i];
    return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static uint64_t read_block_avx512(const unsigned char *memory, uint64_t bytes,
                                                                     bool ahead)
{
    return read_block(memory, bytes, ahead);
}

__attribute__((target("avx2"))) static uint64_t read_block_avx2(const unsigned char *memory, uint64_t bytes, bool ahead)
{
    return read_block(memory, bytes, ahead);
}
#endif

static uint64_t read_block_base(const unsigned char *memory, uint64_t bytes, bool ahead)
{
    return read_block(memory, bytes, ahead);
}

static uint64_t (*read_function(void))(const unsigned char *, uint64_t, bool)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f")) return read_block_avx512;
    if (__builtin_cpu_supports("avx2")) return read_block_avx2;
#endif
    return read_block_base;
}

static void read_task(void *user_data, int64_t index)
{
    struct reading *reading = user_data;
    const uint64_t begin = (uint64_t)index * BLOCK_BYTES, rest = reading->bytes - begin;
    const uint64_t sum =
        read_function()(reading->memory + begin, rest < BLOCK_BYTES ? rest : BLOCK_BYTES, reading->ahead);
    __atomic_fetch_xor(&reading->sum, sum, __ATOMIC_RELAXED); /* so that reading cannot be left out */
}

static awq_status read_all(void *user_data, void *stream)
{
    struct reading *reading = user_data;
    (void)stream;
    const uint64_t blocks = (reading->bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    return awq_context_parallel_for(reading->context, (int64_t)blocks, read_task, reading);
}

/* Large pages, for a walk of page tables is not what is measured. */
static unsigned char *memory_to_read(uint64_t bytes)
{
    const uint64_t whole = (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    unsigned char *memory = aligned_alloc(HUGE_PAGE, whole);
    if (!memory) return NULL;
    (void)madvise(memory, whole, MADV_HUGEPAGE);
    memset(memory, 1, whole);
    return memory;
}

bool bench_read_bandwidth(awq_context *context, struct bench_machine *machine)
{
    const uint64_t least = 256 << 20, cache = machine->device.last_level_cache_bytes;
    struct reading reading = {.context = context, .bytes = 4 * cache > least ? 4 * cache : least};
    double seconds[PASSES];
    unsigned char *memory = memory_to_read(reading.bytes);
    if (!memory) return cli_error("no memory for %s to read", cli_bytes(reading.bytes).text);
    reading.memory = memory;
    awq_status status = AWQ_OK;
    for (int ahead = 0; ahead < 2 && status == AWQ_OK; ahead++) {
        reading.ahead = ahead;
        status = awq_context_time(context, read_all, &reading, PASSES, seconds);
        const double rate = (double)reading.bytes / bench_summarize(seconds, PASSES).p50;
        if (status == AWQ_OK && rate > machine->bandwidth) {
            machine->bandwidth = rate;
            machine->read_ahead = ahead;
        }
    }
    free(memory);
    return status == AWQ_OK || cli_library_error(status, "reading memory");
}

/* ---- a contestant */

struct copies {
    struct reading reading;
    unsigned char *memory[BENCH_COPIES];
    int count, next;
};

static awq_status read_next(void *user_data, void *stream)
{
    struct copies *copies = user_data;
    copies->reading.memory = copies->memory[copies->next++ % copies->count];
    return read_all(&copies->reading, stream);
}

static bool run(void *state, int64_t rows, int64_t runs, double *seconds)
{
    struct copies *copies = state;
    (void)rows;
    awq_status status = awq_context_time(copies->reading.context, read_next, copies, runs, seconds);
    return status == AWQ_OK || cli_library_error(status, "reading memory");
}

static void close_copies(void *state)
{
    struct copies *copies = state;
    for (int i = 0; i < copies->count; i++) free(copies->memory[i]);
    free(copies);
}

bool bench_read_open(const struct bench_problem *problem, uint64_t bytes, struct bench_contestant *contestant)
{
    struct copies *copies = calloc(1, sizeof *copies);
    if (!copies) return cli_error("out of memory");
    const int wanted = problem->copies ? problem->copies : bench_copies(problem->machine, bytes);
    copies->reading =
        (struct reading){.context = problem->context, .bytes = bytes, .ahead = problem->machine->read_ahead};
    for (; copies->count < wanted; copies->count++) {
        copies->memory[copies->count] = memory_to_read(bytes);
        if (copies->memory[copies->count]) continue;
        close_copies(copies);
        return cli_error("no memory for %s to read", cli_bytes(bytes).text);
    }
    *contestant = (struct bench_contestant){.name = "read", .kind = BENCH_READ, .weight_bytes = bytes,
        .copies = copies->count, .state = copies, .run = run, .close = close_copies};
    return true;
}
