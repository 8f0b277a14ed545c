/* The limits of a machine, measured: how fast all threads together read memory (bench_read.c), and how fast they
 * multiply. */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

enum { PASSES = 9 };

/* ---- copying memory on a CUDA device */

struct copying {
    awq_context *context;
    awq_tensor from, to;
};

static awq_status copy_all(void *user_data, void *stream)
{
    struct copying *copying = user_data;
    return awq_tensor_copy(copying->context, &copying->from, &copying->to, stream);
}

static bool cuda_bandwidth(awq_context *context, struct bench_machine *machine)
{
    const uint64_t least = 1 << 20, cache = machine->device.last_level_cache_bytes;
    const uint64_t bytes = 16 * cache > least ? 16 * cache : least;
    struct copying copying = {.context = context};
    void *from = NULL, *to = NULL;
    double seconds[PASSES];
    awq_status status = awq_context_allocate(context, bytes, &from);
    if (status == AWQ_OK) status = awq_context_allocate(context, bytes, &to);
    awq_tensor_init_const_1d(&copying.from, from, AWQ_F32, (int64_t)(bytes / sizeof(float)));
    awq_tensor_init_1d(&copying.to, to, AWQ_F32, (int64_t)(bytes / sizeof(float)));
    copying.from.device_type = copying.to.device_type = AWQ_DEVICE_CUDA;
    copying.from.device_id = copying.to.device_id = machine->device.device_id;
    if (status == AWQ_OK) {
        awq_tensor zero, all = copying.from;
        const float value = 0;
        awq_tensor_init_const_1d(&zero, &value, AWQ_F32, all.shape[0]);
        zero.strides[0] = 0;
        all.flags = 0;
        status = awq_tensor_copy(context, &zero, &all, NULL);
    }
    if (status == AWQ_OK) status = awq_context_synchronize(context, NULL);
    if (status == AWQ_OK) status = awq_context_time(context, copy_all, &copying, PASSES, seconds);
    awq_context_free(context, from);
    awq_context_free(context, to);
    if (status != AWQ_OK) return cli_library_error(status, "copying memory");
    const double rate = 2.0 * (double)bytes / bench_summarize(seconds, PASSES).p50;
    if (rate > machine->bandwidth) machine->bandwidth = rate;
    return true;
}

bool bench_bandwidth(awq_context *context, struct bench_machine *machine)
{
    return machine->device.device_type == AWQ_DEVICE_CUDA ? cuda_bandwidth(context, machine)
                                                          : bench_read_bandwidth(context, machine);
}

/* ---- multiplying */

/* 'steps' times one instruction on each of twelve independent sums, more than its latency times its rate on any
 * processor known.  The operands pass through an empty assembler line, so that nothing is computed at compile time. */
#define PEAK(name, target_attribute, vector, zero, operand, multiply)                                                  \
    target_attribute static void name(int64_t steps)                                                                   \
    {                                                                                                                  \
        vector sums[12];                                                                                               \
        for (int i = 0; i < 12; i++) sums[i] = zero;                                                                   \
        __auto_type a = operand;                                                                                       \
        __auto_type b = a;                                                                                             \
        __asm__ volatile("" : REGISTER_INOUT(a), REGISTER_INOUT(b));                                                   \
        for (int64_t n = 0; n < steps; n++)                                                                            \
            for (int i = 0; i < 12; i++) sums[i] = multiply(sums[i], a, b);                                            \
        for (int i = 0; i < 12; i++) __asm__ volatile("" ::REGISTER_IN(sums[i]));                                      \
    }

struct peak_loop {
    const char *name;
    uint32_t features; /* AWQ_CPU_* that it needs */
    int operations;    /* of one instruction */
    void (*loop)(int64_t steps);
};

#if defined(__x86_64__)
#define REGISTER_INOUT(value) "+x"(value)
#define REGISTER_IN(value)    "x"(value)
#define FMA_256(sum, a, b)    _mm256_fmadd_ps(a, b, sum)
#define FMA_512(sum, a, b)    _mm512_fmadd_ps(a, b, sum)
PEAK(fma_256, __attribute__((target("avx2,fma"))), __m256, _mm256_setzero_ps(), _mm256_set1_ps(1e-3f), FMA_256)
PEAK(fma_512, __attribute__((target("avx512f"))), __m512, _mm512_setzero_ps(), _mm512_set1_ps(1e-3f), FMA_512)
PEAK(bf16_512, __attribute__((target("avx512f,avx512bf16"))), __m512, _mm512_setzero_ps(),
     _mm512_cvtne2ps_pbh(_mm512_set1_ps(1e-3f), _mm512_set1_ps(1e-3f)), _mm512_dpbf16_ps)
PEAK(int8_512, __attribute__((target("avx512f,avx512vnni"))), __m512i, _mm512_setzero_si512(), _mm512_set1_epi8(1),
     _mm512_dpbusd_epi32)

static const struct peak_loop loops[] = {
    {"fp32 FMA", AWQ_CPU_AVX512, 32, fma_512},
    {"fp32 FMA", AWQ_CPU_AVX2, 16, fma_256},
    {"bf16 dot", AWQ_CPU_AVX512 | AWQ_CPU_AVX512_BF16, 64, bf16_512},
    {"int8 dot", AWQ_CPU_AVX512 | AWQ_CPU_AVX512_VNNI, 128, int8_512},
};
enum { LOOPS = sizeof loops / sizeof *loops };

#elif defined(__aarch64__)
#define REGISTER_INOUT(value) "+w"(value)
#define REGISTER_IN(value)    "w"(value)
PEAK(fma_128, , float32x4_t, vdupq_n_f32(0), vdupq_n_f32(1e-3f), vfmaq_f32)

static const struct peak_loop loops[] = {{"fp32 FMA", AWQ_CPU_NEON, 8, fma_128}};
enum { LOOPS = sizeof loops / sizeof *loops };

#else
static const struct peak_loop *const loops;
enum { LOOPS = 0 };
#endif

enum { STEPS = 100000, SHARES = 8 }; /* parts per thread, so that one that starts late does not decide */

struct multiplying {
    awq_context *context;
    const struct peak_loop *loop;
    int64_t tasks;
};

static void multiply_task(void *user_data, int64_t index)
{
    const struct multiplying *multiplying = user_data;
    (void)index;
    multiplying->loop->loop(STEPS);
}

static awq_status multiply_all(void *user_data, void *stream)
{
    struct multiplying *multiplying = user_data;
    (void)stream;
    return awq_context_parallel_for(multiplying->context, multiplying->tasks, multiply_task, multiplying);
}

static struct bench_peak *peak_named(struct bench_machine *machine, const char *name)
{
    for (int i = 0; i < machine->peak_count; i++)
        if (strcmp(machine->peaks[i].name, name) == 0) return &machine->peaks[i];
    struct bench_peak *peak = &machine->peaks[machine->peak_count++];
    *peak = (struct bench_peak){0};
    strncpy(peak->name, name, sizeof peak->name - 1);
    return peak;
}

bool bench_peaks(awq_context *context, struct bench_machine *machine)
{
    double seconds[PASSES];
    if (machine->device.device_type == AWQ_DEVICE_CUDA) return true; /* the best product of the run will do */
    for (int i = 0; i < LOOPS; i++) {
        struct multiplying multiplying = {context, &loops[i], SHARES * (int64_t)machine->device.compute_units};
        if ((loops[i].features & ~machine->device.cpu_features) != 0) continue;
        awq_status status = awq_context_time(context, multiply_all, &multiplying, PASSES, seconds);
        if (status != AWQ_OK) return cli_library_error(status, "multiplying");
        const double operations = 12.0 * STEPS * (double)multiplying.tasks * loops[i].operations;
        const double rate = operations / bench_summarize(seconds, PASSES).p50;
        struct bench_peak *peak = peak_named(machine, loops[i].name);
        if (rate > peak->rate) peak->rate = rate;
    }
    return true;
}

const struct bench_peak *bench_peak_of(const struct bench_machine *machine, int activation)
{
    const char *wanted = activation == AWQ_ACTIVATION_INT8 ? "int8 dot"
                         : activation == AWQ_ACTIVATION_BF16 || activation == AWQ_ACTIVATION_SPLIT ? "bf16 dot"
                                                                                                    : "fp32 FMA";
    const struct bench_peak *first = machine->peak_count > 0 ? &machine->peaks[0] : NULL;
    if (machine->device.device_type == AWQ_DEVICE_CUDA) return first;
    for (int i = 0; i < machine->peak_count; i++)
        if (strcmp(machine->peaks[i].name, wanted) == 0) return &machine->peaks[i];
    return first; /* without an instruction of its own a mode is computed in FP32 */
}
