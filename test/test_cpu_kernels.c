/* Every kernel of the CPU's tables, called as the library calls it, in the manner of checkasm.
 *
 *     test_cpu_kernels [--seed N] [--problems N]
 *                                            each against sums in double; the seed is printed
 *     test_cpu_kernels bench [NAME [ROWS]]   then timed, as a share of a loop that only reads; not those that failed
 *
 * A weight is made from codes, scales and zero points that the reference reads as they were made.  Buffers that a kernel
 * writes lie between margins that must survive, and begin as NaNs.  The error allowed is computed from the inputs and
 * from what the kernel's modes of activations promise. */
#include "backend.h"
#include "cpu/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* ---- random numbers */

static uint64_t seed;

static uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % below);
}

static float draw_float(void)
{
    return (float)draw(2000001) / 1000000.0f - 1.0f;
}

static float draw_gaussian(void)
{
    float sum = 0.0f;
    for (int i = 0; i < 6; i++) sum += draw_float();
    return sum * 0.7071f;
}

static void *array(int64_t count, size_t size)
{
    void *memory = NULL;
    size_t bytes = ((size_t)(count > 0 ? count : 1) * size + 63) / 64 * 64;
    if (posix_memalign(&memory, 64, bytes) != 0) abort();
    memset(memory, 0, bytes);
    return memory;
}

/* ---- a buffer between margins */

enum { MARGIN = 512, POISON = 0xa5 };

struct guarded {
    unsigned char *memory;
    int64_t bytes;
};

static void *guarded_open(struct guarded *guarded, int64_t bytes)
{
    guarded->bytes = bytes;
    guarded->memory = array(bytes + 2 * MARGIN, 1);
    memset(guarded->memory, POISON, MARGIN);
    memset(guarded->memory + MARGIN, 0xff, (size_t)bytes); /* NaNs */
    memset(guarded->memory + MARGIN + bytes, POISON, MARGIN);
    return guarded->memory + MARGIN;
}

static bool guarded_close(struct guarded *guarded)
{
    bool intact = true;
    for (int i = 0; i < MARGIN; i++)
        intact &= guarded->memory[i] == POISON && guarded->memory[MARGIN + guarded->bytes + i] == POISON;
    free(guarded->memory);
    return intact;
}

/* ---- a weight and rows of x */

enum { ROWS = AWQI_STRIP_ROWS > AWQI_GEMV_ROWS ? AWQI_STRIP_ROWS : AWQI_GEMV_ROWS };

enum kind { UNIFORM, GAUSSIAN, OUTLIERS, ZEROS, POSITIVE, HUGE_NUMBERS, TINY, ALTERNATING, KINDS };
static const char *const kind_names[] = {"uniform",  "gaussian", "outliers", "zeros",
                                         "positive", "huge",     "tiny",     "alternating"};

struct problem {
    int64_t n, k, group_size, groups;
    int32_t bits, scale_dtype;
    bool paired;
    enum kind kind;
    uint64_t seed;
    uint8_t *codes, *zeros;
    float *scales;
    float *x; /* [ROWS][k] */
    struct awqi_stream stream;
};

static float draw_input(enum kind kind, int64_t j)
{
    switch (kind) {
    case UNIFORM: return draw_float();
    case GAUSSIAN: return draw_gaussian();
    case OUTLIERS: return draw_gaussian() * (draw(50) == 0 ? 1000.0f : 1.0f);
    case POSITIVE: return fabsf(draw_gaussian());
    case HUGE_NUMBERS: return draw_float() * 1e30f;
    case TINY: return draw_float() * 1e-25f;
    case ALTERNATING: return j % 2 == 0 ? 1.0f : -1.0f;
    default: return 0.0f;
    }
}

static void draw_weight(struct problem *p)
{
    const uint32_t codes = 1u << p->bits;
    const uint32_t how = draw(4); /* codes: random, random, the least, the most */
    for (int64_t i = 0; i < p->n * p->k; i++) p->codes[i] = (uint8_t)(how == 2 ? 0 : how == 3 ? codes - 1 : draw(codes));
    for (int64_t i = 0; i < p->n * p->groups; i++) {
        p->zeros[i] = (uint8_t)draw(codes);
        p->scales[i] = awqi_round_to(p->scale_dtype, draw_float() * 0.1f);
    }
}

static awq_weight *make_weight(awq_context *context, const struct problem *p)
{
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = p->bits;
    options.group_size = p->group_size;
    options.scale_dtype = p->scale_dtype;
    void *scale_values = array(p->n * p->groups, sizeof(float));
    awqi_from_f32(p->scale_dtype, p->scales, scale_values, p->n * p->groups);
    awq_tensor codes, scales, zeros;
    awq_tensor_init_const_2d(&codes, p->codes, AWQ_U8, p->n, p->k);
    awq_tensor_init_const_2d(&scales, scale_values, p->scale_dtype, p->n, p->groups);
    awq_tensor_init_const_2d(&zeros, p->zeros, AWQ_U8, p->n, p->groups);
    awq_weight *weight = NULL;
    if (awq_weight_create(context, &codes, &scales, &zeros, &options, &weight) != AWQ_OK) abort();
    free(scale_values);
    return weight;
}

static void problem_open(awq_context *context, struct problem *p)
{
    p->seed = seed;
    p->groups = awqi_ceil_div(p->k, p->group_size);
    p->codes = array(p->n * p->k, 1);
    p->zeros = array(p->n * p->groups, 1);
    p->scales = array(p->n * p->groups, sizeof(float));
    p->x = array(ROWS * p->k, sizeof(float));
    draw_weight(p);
    for (int64_t i = 0; i < ROWS * p->k; i++) p->x[i] = draw_input(p->kind, i % p->k);
    awq_weight *weight = make_weight(context, p);
    if (awqi_stream_create(context, weight, p->paired, &p->stream) != AWQ_OK) abort();
    awq_weight_destroy(weight);
}

static void problem_close(awq_context *context, struct problem *p)
{
    awqi_stream_destroy(context, &p->stream);
    free(p->codes);
    free(p->zeros);
    free(p->scales);
    free(p->x);
}

/* ---- the reference and what may be lost */

enum { LARGEST_BLOCK = 128, BYTE_BLOCK = 32 };

static double largest(const float *x, int64_t count)
{
    double most = 0.0;
    for (int64_t i = 0; i < count; i++) most = fmax(most, fabs((double)x[i]));
    return most;
}

/* By how much input 'j' of a group may be off in a mode; 'x' is the group's. */
static double input_error(int32_t activation, const float *x, int64_t count, int64_t j)
{
    const int64_t block = j / LARGEST_BLOCK * LARGEST_BLOCK, byte_block = j / BYTE_BLOCK * BYTE_BLOCK;
    const double exact = 0x1p-23 * largest(x + block, awqi_min64(LARGEST_BLOCK, count - block));
    if (activation == AWQ_ACTIVATION_EXACT) return exact;
    if (activation == AWQ_ACTIVATION_SPLIT) return exact + 0x1p-17 * fabs((double)x[j]);
    if (activation == AWQ_ACTIVATION_BF16) return exact + 0x1p-8 * fabs((double)x[j]);
    return exact + 0x1.02p-8 * largest(x + byte_block, awqi_min64(BYTE_BLOCK, count - byte_block));
}

/* Kernels that take activations for exact sum q x and z x apart; those for BF16 also 128 x for each field of four bits. */
static double offset(int32_t activation, int32_t bits)
{
    return activation == AWQ_ACTIVATION_BF16 ? bits == 8 ? 17 * 128 : 128 : 0;
}

/* The same for every input of a row. */
static double *input_errors(const struct problem *p, int32_t activation, int64_t row)
{
    double *errors = array(p->k, sizeof *errors);
    for (int64_t i = 0; i < p->k; i++) {
        const int64_t first = i / p->group_size * p->group_size, count = awqi_min64(p->group_size, p->k - first);
        errors[i] = input_error(activation, p->x + row * p->k + first, count, i - first);
    }
    return errors;
}

static double expect(const struct problem *p, int32_t activation, int64_t row, const double *errors, int64_t output,
                     double *allowed)
{
    const double rounding = (double)(p->k + 16) * 0x1p-24;
    double sum = 0.0;
    *allowed = 0x1p-126;
    for (int64_t group = 0; output >= 0 && group < p->groups; group++) {
        const int64_t first = group * p->group_size, count = awqi_min64(p->group_size, p->k - first);
        const float *x = p->x + row * p->k + first;
        const double scale = (double)p->scales[output * p->groups + group], zero = p->zeros[output * p->groups + group];
        for (int64_t j = 0; j < count; j++) {
            const double code = p->codes[output * p->k + first + j], magnitude = fabs((double)x[j]);
            sum += (double)x[j] * (code - zero) * scale;
            *allowed += fabs(scale) * ((code + zero) * errors[first + j] +
                                       rounding * (code + zero + offset(activation, p->bits)) * magnitude);
        }
    }
    return sum;
}

/* ---- one kernel at one problem */

/* One of the two. */
struct subject {
    const char *name;
    uint32_t features, activations;
    const struct awqi_gemv *gemv;
    const struct awqi_gemm *gemm;
};

struct report {
    int64_t checked, failed;
    double error, bound; /* sums of squares */
};

static void describe(const struct subject *subject, const struct problem *p, int64_t rows)
{
    printf("  %s: seed %llu, [%lld][%lld] %d bits in groups of %lld, scales %s, %s, %s, %lld rows: ", subject->name,
           (unsigned long long)p->seed, (long long)p->n, (long long)p->k, p->bits, (long long)p->group_size,
           awq_dtype_name(p->scale_dtype), p->paired ? "paired" : "plain", kind_names[p->kind], (long long)rows);
}

static int32_t tightest(uint32_t activations)
{
    int32_t mode = AWQ_ACTIVATION_EXACT;
    while (!(activations >> mode & 1)) mode++;
    return mode;
}

/* A strip has at least so many. */
static int64_t rows_taken(const struct subject *subject, int64_t rows)
{
    return subject->gemm != NULL ? awqi_max64(rows, subject->gemm->least) : rows;
}

static int64_t prepared_bytes(const struct subject *subject, const struct awqi_stream *w, int64_t rows)
{
    const int64_t bytes = subject->gemm != NULL ? subject->gemm->row_bytes(w) : subject->gemv->row_bytes(w);
    return rows_taken(subject, rows) * bytes;
}

static void run_panel(const struct subject *subject, const struct awqi_stream *w, int64_t panel, const void *prepared,
                      int64_t rows, float *out)
{
    if (subject->gemm != NULL) subject->gemm->run(w, panel, prepared, rows_taken(subject, rows), out);
    else subject->gemv->run(w, panel, prepared, rows, out);
}

/* Fill 'x', with room for a row in stream order, with a row of the problem. */
static void load_row(const struct problem *p, int64_t row, float *x)
{
    memcpy(x, p->x + row * p->k, (size_t)p->k * sizeof *x);
    awqi_stream_order(&p->stream, x);
}

static bool prepare_strip(const struct subject *subject, const struct problem *p, int64_t rows, float *x, void *prepared)
{
    struct guarded strip;
    const int64_t bytes = prepared_bytes(subject, &p->stream, rows), taken = rows_taken(subject, rows);
    void *memory = guarded_open(&strip, bytes);
    if (rows < taken) memset(memory, 0, (size_t)bytes);
    for (int64_t i = 0; i < rows; i++) {
        load_row(p, i, x);
        subject->gemm->prepare(&p->stream, x, i, taken, memory);
    }
    memcpy(prepared, memory, (size_t)bytes);
    return guarded_close(&strip);
}

/* The rows as the kernel takes them, prepared between margins: each, or a strip of them. */
static bool prepare_rows(const struct subject *subject, const struct problem *p, int64_t rows, unsigned char *prepared)
{
    const struct awqi_stream *w = &p->stream;
    float *x = array(awqi_stream_inputs(w) + 16, sizeof *x);
    bool intact = subject->gemm == NULL || prepare_strip(subject, p, rows, x, prepared);
    for (int64_t i = 0; subject->gemm == NULL && i < rows; i++) {
        struct guarded row;
        const int64_t bytes = prepared_bytes(subject, w, 1);
        void *memory = guarded_open(&row, bytes);
        load_row(p, i, x);
        subject->gemv->prepare(w, x, memory);
        memcpy(prepared + i * bytes, memory, (size_t)bytes);
        intact &= guarded_close(&row) && bytes % 64 == 0;
    }
    free(x);
    return intact;
}

static void compare(const struct subject *subject, const struct problem *p, int64_t panel, int64_t rows, const float *out,
                    struct report *report)
{
    const int32_t activation = tightest(subject->activations);
    for (int64_t i = 0; i < rows; i++) {
        double *errors = input_errors(p, activation, i);
        for (int64_t j = 0; j < AWQI_PANEL; j++) {
            const int64_t output = awqi_column_row(&p->stream.columns, panel, j);
            double allowed, expected = expect(p, activation, i, errors, output, &allowed);
            double error = fabs((double)out[i * AWQI_PANEL + j] - expected);
            report->checked++;
            if (error <= allowed) {
                report->error += error * error / (allowed * allowed);
                report->bound += 1.0;
                continue;
            }
            if (report->failed++ > 4) continue;
            describe(subject, p, rows);
            printf("panel %lld, row %lld, column %lld is %g, not %g; %g off where %g is allowed\n", (long long)panel,
                   (long long)i, (long long)j, (double)out[i * AWQI_PANEL + j], expected, error, allowed);
        }
        free(errors);
    }
}

static void check_rows(const struct subject *subject, const struct problem *p, int64_t rows, struct report *report)
{
    const struct awqi_stream *w = &p->stream;
    unsigned char *prepared = array(prepared_bytes(subject, w, rows), 1);
    bool intact = prepare_rows(subject, p, rows, prepared);
    for (int64_t panel = 0; panel < w->columns.panels; panel++) {
        struct guarded guarded;
        float *out = guarded_open(&guarded, rows_taken(subject, rows) * AWQI_PANEL * (int64_t)sizeof *out);
        run_panel(subject, w, panel, prepared, rows, out);
        compare(subject, p, panel, rows, out, report);
        intact &= guarded_close(&guarded);
    }
    if (!intact) {
        describe(subject, p, rows);
        printf("a margin was written\n");
        report->failed++;
    }
    free(prepared);
}

/* ---- all problems */

static void draw_problem(struct problem *p)
{
    static const int64_t ns[] = {1, 16, 33, 70}, ks[] = {1, 7, 8, 31, 32, 129, 300, 512};
    static const int64_t group_sizes[] = {1, 8, 20, 32, 128, 160};
    static const int32_t bits[] = {4, 4, 4, 8, 8, 3, 2}, dtypes[] = {AWQ_F16, AWQ_F16, AWQ_BF16, AWQ_F32};
    p->n = ns[draw(4)];
    p->k = ks[draw(8)];
    p->bits = bits[draw(7)];
    p->scale_dtype = dtypes[draw(4)];
    const uint32_t group = draw(7);
    p->group_size = group < 6 ? group_sizes[group] : p->k;
    p->paired = p->n % 2 == 0 && draw(3) == 0;
}

/* A NaN or an infinity leaves no finite number in its row, and every other row alone. */
static void check_non_finite(awq_context *context, const struct subject *subject, struct report *report)
{
    struct problem p = {.n = 32, .k = 200, .group_size = 64, .bits = 4, .scale_dtype = AWQ_F16, .kind = GAUSSIAN};
    problem_open(context, &p);
    unsigned char *prepared = array(prepared_bytes(subject, &p.stream, 3), 1);
    float before[ROWS * AWQI_PANEL], after[ROWS * AWQI_PANEL];
    prepare_rows(subject, &p, 3, prepared);
    run_panel(subject, &p.stream, 0, prepared, 3, before);
    p.x[p.k + 70] = NAN;
    p.x[2 * p.k + 199] = -INFINITY;
    prepare_rows(subject, &p, 3, prepared);
    run_panel(subject, &p.stream, 0, prepared, 3, after);
    for (int j = 0; j < 3 * AWQI_PANEL; j++) {
        bool right = j < AWQI_PANEL ? after[j] == before[j] : !isfinite(after[j]);
        report->checked++;
        if (right || report->failed++ > 4) continue;
        printf("  %s: row %d with %s: column %d is %g\n", subject->name, j / AWQI_PANEL,
               j < AWQI_PANEL ? "numbers" : "a NaN or an infinity", j % AWQI_PANEL, (double)after[j]);
    }
    free(prepared);
    problem_close(context, &p);
}

static bool check_subject(awq_context *context, const struct subject *subject, uint64_t first_seed, int problems)
{
    struct report report = {0};
    const uint32_t most = subject->gemm != NULL ? (uint32_t)subject->gemm->most : AWQI_GEMV_ROWS;
    seed = first_seed;
    for (int i = 0; i < problems; i++) {
        struct problem p = {.kind = (enum kind)(i % KINDS)};
        draw_problem(&p);
        problem_open(context, &p);
        check_rows(subject, &p, 1 + draw(most), &report);
        problem_close(context, &p);
    }
    check_non_finite(context, subject, &report);
    /* Errors that are there but smaller than the bound would add up if they had one sign or were not what rounding is. */
    const double share = report.bound > 0.0 ? sqrt(report.error / report.bound) : 0.0;
    const bool passed = report.failed == 0 && share < 0.5;
    printf("%-20s %s: %lld numbers, errors %.3f of their bounds in the mean\n", subject->name, passed ? "agrees" : "FAILED",
           (long long)report.checked, share);
    fflush(stdout);
    return passed;
}

/* Under every set of features each mode gets a kernel that the set allows and that keeps the mode's bound. */
static bool check_choices(void)
{
    static const int32_t modes[] = {AWQ_ACTIVATION_EXACT, AWQ_ACTIVATION_SPLIT, AWQ_ACTIVATION_BF16, AWQ_ACTIVATION_INT8};
    bool right = true;
    for (uint32_t features = 0; features < 256; features++)
        for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
            const struct awqi_gemv *gemv = awqi_gemv_for(features, modes[i]);
            right &= (gemv->features & ~features) == 0 && (gemv->activations >> modes[i] & 1);
            const struct awqi_gemm *gemm = awqi_gemm_for(features, modes[i]);
            right &= gemm == NULL || ((gemm->features & ~features) == 0 && (gemm->activations >> modes[i] & 1));
        }
    if (!right) printf("a kernel was chosen that the features or the mode do not allow\n");
    return right;
}

/* ---- bench: weights beyond every cache, and beside each kernel a loop that only reads them */

enum { BENCH_INPUTS = 4096, BENCH_GROUP = 128, BENCH_RUNS = 15, CHUNK_BYTES = 131072 };

static const int64_t BENCH_BYTES = 150000000;

struct bench {
    awq_context *context;
    struct awqi_stream stream;
    const struct awqi_gemv *gemv; /* one of the two */
    const struct awqi_gemm *gemm;
    unsigned char *prepared;
    float *x; /* [ROWS][k] */
    int64_t rows, chunk; /* panels per task */
    uint64_t sink;
};

/* Random codes, with scales and zero points that are numbers. */
static void bench_open(struct bench *bench, int32_t bits)
{
    struct awqi_stream *w = &bench->stream;
    w->k = BENCH_INPUTS;
    w->shape = awqi_stream_shape(AWQI_PANEL, w->k, BENCH_GROUP, bits, AWQ_F16);
    const int64_t panel_bytes = AWQI_PANEL_BLOCKS * w->shape.block_words * (int64_t)sizeof *w->words;
    const int64_t panels = BENCH_BYTES / panel_bytes;
    w->columns = awqi_columns_of(panels * AWQI_PANEL, false);
    w->size_bytes = (uint64_t)(panels * panel_bytes);
    void *words;
    if (awqi_alloc(bench->context, (uint64_t)panels, (uint64_t)panel_bytes, "a weight", &words) != AWQ_OK) abort();
    w->words = words;
    for (int64_t i = 0; i < panels * panel_bytes / 4; i++) w->words[i] = draw(UINT32_MAX);
    for (int64_t block = 0; block < panels * AWQI_PANEL_BLOCKS; block++)
        for (int64_t group = 0; group < w->shape.groups; group++) {
            uint16_t *header = (uint16_t *)(w->words + block * w->shape.block_words + group * w->shape.group_words);
            for (int i = 0; i < 16; i++) header[i] = 0x2000, header[16 + i] = 8;
        }
    bench->x = array(ROWS * w->k, sizeof(float));
    for (int64_t i = 0; i < ROWS * w->k; i++) bench->x[i] = draw_gaussian();
    bench->chunk = awqi_max64(1, CHUNK_BYTES / panel_bytes);
}

static void bench_close(struct bench *bench)
{
    awqi_stream_destroy(bench->context, &bench->stream);
    free(bench->x);
}

#if defined(__x86_64__)
#include <immintrin.h>
__attribute__((target("avx2"))) static uint64_t read_lines(const unsigned char *bytes, int64_t count)
{
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (int64_t i = 0; i + 128 <= count; i += 128) {
        const __m256i *p = (const void *)(bytes + i);
        _mm_prefetch((const char *)(p + 128), _MM_HINT_T0);
        _mm_prefetch((const char *)(p + 130), _MM_HINT_T0);
        a = _mm256_xor_si256(a, p[0]);
        b = _mm256_xor_si256(b, p[1]);
        c = _mm256_xor_si256(c, p[2]);
        d = _mm256_xor_si256(d, p[3]);
    }
    a = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
    return (uint64_t)_mm256_extract_epi64(a, 0) ^ (uint64_t)_mm256_extract_epi64(a, 2);
}
#else
static uint64_t read_lines(const unsigned char *bytes, int64_t count)
{
    const uint64_t *words = (const void *)bytes;
    uint64_t sums[8] = {0};
    for (int64_t i = 0; i + 8 <= count / 8; i += 8)
        for (int j = 0; j < 8; j++) sums[j] ^= words[i + j];
    return sums[0] ^ sums[1] ^ sums[2] ^ sums[3] ^ sums[4] ^ sums[5] ^ sums[6] ^ sums[7];
}
#endif

static void read_task(void *user_data, int64_t index)
{
    struct bench *bench = user_data;
    const struct awqi_stream *w = &bench->stream;
    const int64_t begin = index * bench->chunk, end = awqi_min64(begin + bench->chunk, w->columns.panels);
    const unsigned char *bytes = (const unsigned char *)awqi_stream_block(w, begin, 0);
    uint64_t sum = read_lines(bytes, (const unsigned char *)awqi_stream_block(w, end, 0) - bytes);
    __atomic_fetch_xor(&bench->sink, sum, __ATOMIC_RELAXED);
}

static void run_task(void *user_data, int64_t index)
{
    const struct bench *bench = user_data;
    const int64_t begin = index * bench->chunk;
    const int64_t end = awqi_min64(begin + bench->chunk, bench->stream.columns.panels);
    float out[AWQI_GEMV_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    for (int64_t panel = begin; panel < end; panel++)
        bench->gemv->run(&bench->stream, panel, bench->prepared, bench->rows, out);
}

static double seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static double time_tasks(struct bench *bench, awq_task_callback task)
{
    const double begin = seconds();
    awqi_parallel_for(bench->context, awqi_ceil_div(bench->stream.columns.panels, bench->chunk), task, bench);
    return seconds() - begin;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int count)
{
    qsort(values, (size_t)count, sizeof *values, compare_doubles);
    return values[count / 2];
}

/* Nanoseconds per line of 64 bytes when the weights come from the second-level cache: what the instructions take. */
static double time_cached(struct bench *bench)
{
    enum { SWEEPS = 40 };
    const struct awqi_stream *w = &bench->stream;
    const int64_t panel_bytes = AWQI_PANEL_BLOCKS * w->shape.block_words * (int64_t)sizeof *w->words;
    const int64_t panels = awqi_max64(1, 262144 / panel_bytes);
    float out[AWQI_GEMV_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    double times[BENCH_RUNS];
    for (int i = 0; i < BENCH_RUNS; i++) {
        const double begin = seconds();
        for (int64_t j = 0; j < SWEEPS * panels; j++)
            bench->gemv->run(w, j % panels, bench->prepared, bench->rows, out);
        times[i] = seconds() - begin;
    }
    return 1e9 * median(times, BENCH_RUNS) / (double)(SWEEPS * panels * panel_bytes / 64);
}

static void bench_rows(struct bench *bench, int64_t rows, int32_t bits)
{
    const struct awqi_stream *w = &bench->stream;
    const int64_t row_bytes = bench->gemv->row_bytes(w);
    double reads[BENCH_RUNS], runs[BENCH_RUNS], prepares[BENCH_RUNS];
    bench->rows = rows;
    bench->prepared = array(rows * row_bytes, 1);
    for (int i = 0; i < BENCH_RUNS; i++) {
        const double begin = seconds();
        for (int64_t r = 0; r < rows; r++)
            bench->gemv->prepare(w, bench->x + r * w->k, bench->prepared + r * row_bytes);
        prepares[i] = seconds() - begin;
        reads[i] = time_tasks(bench, read_task);
        runs[i] = time_tasks(bench, run_task);
    }
    const double cached = time_cached(bench);
    free(bench->prepared);
    const double bytes = (double)w->size_bytes, weights = (double)w->columns.n * (double)w->k;
    const double run = median(runs, BENCH_RUNS), read = median(reads, BENCH_RUNS);
    printf("%-20s %d bits  %lld rows  %d threads  %7.3f ps/weight  %6.1f GB/s of %6.1f  %5.3f   "
           "%5.2f ns/line cached  rows %5.2f us\n",
           bench->gemv->name, bits, (long long)rows, awqi_context_threads(bench->context), 1e12 * run / weights,
           1e-9 * bytes / run, 1e-9 * bytes / read, read / run, cached,
           1e6 * median(prepares, BENCH_RUNS));
    fflush(stdout);
}

static void bench_gemv(const struct awqi_gemv *gemv, int32_t bits, int64_t only_rows)
{
    for (int32_t threads = 1; threads <= awqi_usable_processors() && threads <= 8; threads *= 2) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = threads;
        struct bench bench = {.gemv = gemv};
        if (awq_context_create(&options, &bench.context) != AWQ_OK) abort();
        bench_open(&bench, bits);
        for (int64_t rows = 1; rows <= AWQI_GEMV_ROWS; rows *= 2)
            if (only_rows == 0 || rows == only_rows) bench_rows(&bench, rows, bits);
        bench_close(&bench);
        awq_context_destroy(bench.context);
    }
}

/* ---- bench of a strip: as a share of a loop that only multiplies */

#if defined(__aarch64__)
#include "cpu/neon.h"
#elif defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Functions of the number of turns that return how many operations they did. */
#define PEAK(name, features, type, operations, next)                                                                   \
    __attribute__((target(features))) static double name(int64_t turns)                                                \
    {                                                                                                                  \
        type sums[12] = {{0}};                                                                                         \
        UNROLL                                                                                                         \
        for (int i = 0; i < 12; i++) __asm__("" : "+" REGISTER(sums[i])); /* any numbers, as the compiler sees it */   \
        for (int64_t turn = 0; turn < turns; turn++) {                                                                 \
            UNROLL                                                                                                     \
            for (int i = 0; i < 12; i++) sums[i] = next(sums[i]);                                                      \
        }                                                                                                              \
        UNROLL                                                                                                         \
        for (int i = 0; i < 12; i++) __asm__ volatile("" ::REGISTER(sums[i]));                                         \
        return 12.0 * (operations) * (double)turns;                                                                    \
    }

#if defined(__x86_64__)
#define REGISTER "v"
typedef float floats __attribute__((vector_size(64)));
typedef int32_t ints __attribute__((vector_size(64)));
#define MULTIPLY(sum) (floats)_mm512_fmadd_ps(_mm512_set1_ps(1.5f), _mm512_set1_ps(0.5f), (__m512)(sum))
#define MULTIPLY_PAIRS(sum)                                                                                            \
    (floats)_mm512_dpbf16_ps((__m512)(sum), (__m512bh)_mm512_set1_epi32(0x3f803f80),                                   \
                             (__m512bh)_mm512_set1_epi32(0x3f003f00))
#define MULTIPLY_FOURS(sum)                                                                                            \
    (ints)_mm512_dpbusd_epi32((__m512i)(sum), _mm512_set1_epi32(0x01020304), _mm512_set1_epi32(0x04030201))
#define MULTIPLY_BYTES(sum) _mm256_maddubs_epi16(sum, _mm256_set1_epi8(3))
PEAK(peak_f32, "avx512f", floats, 32, MULTIPLY)
PEAK(peak_bytes, "avx2", __m256i, 64, MULTIPLY_BYTES)
PEAK(peak_bf16, "avx512f,avx512bf16", floats, 64, MULTIPLY_PAIRS)
PEAK(peak_int8, "avx512f,avx512vnni", ints, 128, MULTIPLY_FOURS)

static double count_operations(const struct awqi_gemm *gemm, int64_t turns)
{
    if (!(gemm->features & AWQ_CPU_AVX512)) return peak_bytes(turns);
    if (gemm->features & AWQ_CPU_AVX512_BF16) return peak_bf16(turns);
    return gemm->features & AWQ_CPU_AVX512_VNNI ? peak_int8(turns) : peak_f32(turns);
}
#elif defined(__aarch64__)
#define REGISTER "w"
#define MULTIPLY(sum) vfmaq_f32(sum, vdupq_n_f32(1.5f), vdupq_n_f32(0.5f))
#define MULTIPLY_PAIRS(sum)                                                                                            \
    vbfmmlaq_f32(sum, vreinterpretq_bf16_u16(vdupq_n_u16(0x3f81)), vreinterpretq_bf16_u16(vdupq_n_u16(0x3f01)))
#define MULTIPLY_FOURS(sum) vdotq_s32(sum, vdupq_n_s8(3), vdupq_n_s8(2))
#define MULTIPLY_EIGHTS(sum) vusmmlaq_s32(sum, vdupq_n_u8(3), vdupq_n_s8(2))
PEAK(peak_f32, "arch=armv8-a", float32x4_t, 8, MULTIPLY)
PEAK(peak_bf16, "arch=armv8.2-a+bf16", float32x4_t, 32, MULTIPLY_PAIRS)
PEAK(peak_int8, "arch=armv8.2-a+dotprod", int32x4_t, 32, MULTIPLY_FOURS)
PEAK(peak_matrix, "arch=armv8.2-a+i8mm", int32x4_t, 64, MULTIPLY_EIGHTS)

static double count_operations(const struct awqi_gemm *gemm, int64_t turns)
{
    if (gemm->features & AWQ_CPU_NEON_BF16) return peak_bf16(turns);
    if (gemm->features & AWQ_CPU_NEON_I8MM) return peak_matrix(turns);
    return gemm->features & AWQ_CPU_NEON_DOTPROD ? peak_int8(turns) : peak_f32(turns);
}
#else
/* The tables of other architectures have no kernels for strips. */
static double count_operations(const struct awqi_gemm *gemm, int64_t turns)
{
    (void)gemm;
    return (double)turns;
}
#endif

enum { PEAK_TURNS = 40000 };

static void multiply_task(void *user_data, int64_t index)
{
    const struct bench *bench = user_data;
    (void)index;
    (void)count_operations(bench->gemm, PEAK_TURNS);
}

static void strip_task(void *user_data, int64_t panel)
{
    const struct bench *bench = user_data;
    float out[AWQI_STRIP_ROWS * AWQI_PANEL] __attribute__((aligned(64)));
    bench->gemm->run(&bench->stream, panel, bench->prepared, bench->rows, out);
}

static void bench_strip(struct bench *bench, int64_t rows, int32_t bits)
{
    enum { TASKS = 64 };
    const struct awqi_stream *w = &bench->stream;
    double peaks[BENCH_RUNS], runs[BENCH_RUNS], prepares[BENCH_RUNS];
    bench->rows = rows;
    bench->prepared = array(rows * bench->gemm->row_bytes(w), 1);
    for (int i = 0; i < BENCH_RUNS; i++) {
        double begin = seconds();
        for (int64_t r = 0; r < rows; r++) bench->gemm->prepare(w, bench->x + r * w->k, r, rows, bench->prepared);
        prepares[i] = (seconds() - begin) / (double)rows;
        begin = seconds();
        awqi_parallel_for(bench->context, TASKS, multiply_task, bench);
        const double multiplying = seconds() - begin;
        peaks[i] = TASKS * count_operations(bench->gemm, PEAK_TURNS) / multiplying;
        begin = seconds();
        awqi_parallel_for(bench->context, w->columns.panels, strip_task, bench);
        runs[i] = 2.0 * (double)(rows * w->columns.n * w->k) / (seconds() - begin);
    }
    free(bench->prepared);
    const double run = median(runs, BENCH_RUNS), peak = median(peaks, BENCH_RUNS);
    printf("%-20s %d bits %2lld rows  %d threads  %7.1f Gop/s of %7.1f  %5.3f   a row %5.2f us\n", bench->gemm->name,
           bits, (long long)rows, awqi_context_threads(bench->context), 1e-9 * run, 1e-9 * peak, run / peak,
           1e6 * median(prepares, BENCH_RUNS));
    fflush(stdout);
}

static void bench_gemm(const struct awqi_gemm *gemm, int32_t bits, int64_t only_rows)
{
    for (int32_t threads = 1; threads <= awqi_usable_processors() && threads <= 8; threads *= 2) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = threads;
        struct bench bench = {.gemm = gemm};
        if (awq_context_create(&options, &bench.context) != AWQ_OK) abort();
        bench_open(&bench, bits);
        for (int64_t rows = gemm->least; rows <= gemm->most; rows += (gemm->most - gemm->least) / 2)
            if (only_rows == 0 || rows == only_rows) bench_strip(&bench, rows, bits);
        bench_close(&bench);
        awq_context_destroy(bench.context);
    }
}

/* ---- */

static struct subject subject_at(size_t index)
{
    size_t gemvs = 0;
    while (awqi_gemv_at(gemvs) != NULL) gemvs++;
    struct subject subject = {0};
    if (index < gemvs) {
        const struct awqi_gemv *gemv = awqi_gemv_at(index);
        subject = (struct subject){gemv->name, gemv->features, gemv->activations, gemv, NULL};
    } else if (awqi_gemm_at(index - gemvs) != NULL) {
        const struct awqi_gemm *gemm = awqi_gemm_at(index - gemvs);
        subject = (struct subject){gemm->name, gemm->features, gemm->activations, NULL, gemm};
    }
    return subject;
}

static void bench_subject(const struct subject *subject, int64_t only_rows)
{
    for (int32_t bits = 4; bits <= 8; bits += 4)
        if (subject->gemm != NULL) bench_gemm(subject->gemm, bits, only_rows);
        else bench_gemv(subject->gemv, bits, only_rows);
}

int main(int argc, char **argv)
{
    const bool bench = argc > 1 && strcmp(argv[1], "bench") == 0;
    const char *only = bench && argc > 2 ? argv[2] : "";
    const int64_t only_rows = bench && argc > 3 ? strtoll(argv[3], NULL, 10) : 0;
    uint64_t first_seed = (uint64_t)time(NULL);
    int problems = bench ? 60 : 300;
    for (int i = 1; !bench && i + 1 < argc; i += 2)
        if (strcmp(argv[i], "--seed") == 0) first_seed = strtoull(argv[i + 1], NULL, 0);
        else if (strcmp(argv[i], "--problems") == 0) problems = atoi(argv[i + 1]);
    printf("seed %llu\n", (unsigned long long)first_seed);

    awq_context *context;
    if (awq_context_create(NULL, &context) != AWQ_OK) return 1;
    const uint32_t features = awqi_cpu_features();
    int passed = 0, failed = 0, skipped = 0;
    if (!bench && check_choices()) passed++;
    else if (!bench) failed++;
    for (size_t i = 0; subject_at(i).name != NULL; i++) {
        const struct subject subject = subject_at(i);
        if (strstr(subject.name, only) == NULL) continue;
        if (subject.features & ~features) {
            printf("%-20s not on this processor\n", subject.name);
            skipped++;
        } else if (!check_subject(context, &subject, first_seed, problems)) {
            failed++;
        } else {
            passed++;
            if (bench) bench_subject(&subject, only_rows);
        }
    }
    awq_context_destroy(context);
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed != 0;
}
