/* Many rows by a stream, with AVX-512.
 *
 * A line of codes becomes weights of 16 outputs in registers, where up to 16 rows meet them, so that nothing unpacked
 * goes through memory; with more rows the stream, which then comes from the caches, is unpacked again for each strip.
 * Rows lie interleaved: all rows' first input (or pair, or four), then all rows' second.  Sums of a group are of codes
 * less zero points, which are exact, times x; the scale joins once per group, in single precision. */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"

#define INLINE static inline __attribute__((always_inline))
#define PLAIN __attribute__((target(AVX512)))
#define WITH_BF16 __attribute__((target(AVX512 ",avx512bf16")))
#define WITH_VNNI __attribute__((target(AVX512 ",avx512vnni")))

enum {
    MOST = 16,  /* rows of a strip: their sums and what unpacking takes fit in the registers */
    LEAST = 8,  /* fewer are filled up with zeros; this many keep the multipliers busy in spite of their latency */
    MOST_BYTES = 12, /* the same where each has two sums */
    BLOCK = 32  /* inputs of a block of bytes, at most */
};

/* Sums as the instructions that make them take them: GCC 12 copies registers about when an element's type changes
 * within a loop, and then has too few. */
typedef int32_t ints __attribute__((vector_size(64)));

/* What a strip's inner loop needs to know. */
struct walk {
    const struct awqi_stream_shape *shape;
    const uint32_t *block;
    const void *strip;
    float *out; /* [rows][PANEL], the first of 16 columns */
};

PLAIN INLINE void prefetch(const uint32_t *line, const void *strip, int bytes)
{
    AWQI_PREFETCH(line, AWQI_FAR);
    UNROLL
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)strip + 2048 + i, _MM_HINT_T0);
}

PLAIN INLINE void clear(int rows, float *out)
{
    UNROLL
    for (int i = 0; i < rows; i++) _mm512_storeu_ps(out + i * AWQI_PANEL, _mm512_setzero_ps());
}

PLAIN INLINE void add_scaled(float *out, __m512 sum, __m512 scale)
{
    _mm512_storeu_ps(out, _mm512_fmadd_ps(sum, scale, _mm512_loadu_ps(out)));
}

/* ---- single precision */

/* The weights of input 'i' of a line, a constant once inlined. */
PLAIN INLINE __m512 weights_f32(int width, __m512i line, int i, __m512 zeros)
{
    const __m512i shifted = _mm512_srli_epi32(line, (unsigned)(i % 2 * 16 + i / 2 * width));
    if (width == 8) return _mm512_sub_ps(_mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255))), zeros);
    const __m512 table = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_sub_ps(_mm512_permutexvar_ps(shifted, table), zeros); /* the index is the lowest four bits */
}

PLAIN INLINE void strip_f32(int width, int rows, const struct walk *walk)
{
    const int inputs = 32 / width;
    const uint32_t *line = walk->block;
    const float *x = walk->strip;
    clear(rows, walk->out);
    for (int64_t group = 0; group < walk->shape->groups; group++) {
        __m512 scales, zeros;
        awqi_load_header(walk->shape, line, &scales, &zeros);
        const int64_t lines = awqi_stream_group_lines(walk->shape, group);
        line += walk->shape->header_words;
        __m512 sums[MOST];
        UNROLL
        for (int i = 0; i < rows; i++) sums[i] = _mm512_setzero_ps();
        for (int64_t left = lines; left > 0; left--, line += AWQI_STREAM_OUTPUTS, x += inputs * rows) {
            const __m512i words = _mm512_loadu_si512(line);
            prefetch(line, x, inputs * rows * 4);
            UNROLL
            for (int j = 0; j < inputs; j++) {
                const __m512 weights = weights_f32(width, words, j, zeros);
                UNROLL
                for (int i = 0; i < rows; i++)
                    sums[i] = _mm512_fmadd_ps(_mm512_set1_ps(x[j * rows + i]), weights, sums[i]);
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) add_scaled(walk->out + i * AWQI_PANEL, sums[i], scales);
    }
}

static int64_t row_bytes_f32(const struct awqi_stream *w)
{
    return 4 * awqi_stream_inputs(w);
}

static void prepare_f32(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    float *to = (float *)strip + row;
    for (int64_t i = 0; i < awqi_stream_inputs(w); i++) to[i * rows] = x[i];
}

/* ---- pairs of bfloat16, in one term or two */

/* -16 .. 15 in bfloat16, indexed by the lowest five bits. */
static const uint16_t small_integers[32] __attribute__((aligned(64))) = {
    0x0000, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0, 0x4100, 0x4110, 0x4120,
    0x4130, 0x4140, 0x4150, 0x4160, 0x4170, 0xc180, 0xc170, 0xc160, 0xc150, 0xc140, 0xc130,
    0xc120, 0xc110, 0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80,
};

/* Pair 'i' of a line less the zero points: those of width 4 stand in both halves of the words. */
PLAIN INLINE __m512i weights_bf16(int width, __m512i line, int i, __m512i zeros, __m512i table)
{
    if (width == 4) {
        const __m512i codes = _mm512_and_si512(_mm512_srli_epi16(line, (unsigned)(4 * i)), _mm512_set1_epi16(15));
        return _mm512_permutexvar_epi16(_mm512_sub_epi16(codes, zeros), table);
    }
    /* Differences of bytes have at most eight digits, so their floats end in 16 zero bits. */
    const __m512i mask = _mm512_set1_epi32(255);
    const __m512i low = _mm512_and_si512(_mm512_srli_epi32(line, (unsigned)(8 * i)), mask);
    const __m512i high = _mm512_and_si512(_mm512_srli_epi32(line, (unsigned)(8 * i + 16)), mask);
    const __m512i even = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(low, zeros)));
    const __m512i odd = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_sub_epi32(high, zeros)));
    return _mm512_or_si512(_mm512_srli_epi32(even, 16), odd);
}

WITH_BF16 INLINE void strip_bf16(int width, int terms, int rows, const struct walk *walk)
{
    const int pairs = 16 / width;
    const __m512i table = _mm512_load_si512(small_integers);
    const uint32_t *line = walk->block;
    const uint32_t *x = walk->strip;
    clear(rows, walk->out);
    for (int64_t group = 0; group < walk->shape->groups; group++) {
        __m512 scales, zeros;
        awqi_load_header(walk->shape, line, &scales, &zeros);
        __m512i integers = _mm512_cvtps_epi32(zeros);
        if (width == 4) integers = _mm512_or_si512(integers, _mm512_slli_epi32(integers, 16));
        const int64_t lines = awqi_stream_group_lines(walk->shape, group);
        line += walk->shape->header_words;
        __m512 sums[MOST];
        UNROLL
        for (int i = 0; i < rows; i++) sums[i] = _mm512_setzero_ps();
        for (int64_t left = lines; left > 0; left--, line += AWQI_STREAM_OUTPUTS, x += pairs * terms * rows) {
            const __m512i words = _mm512_loadu_si512(line);
            prefetch(line, x, pairs * terms * rows * 4);
            UNROLL
            for (int j = 0; j < pairs; j++) {
                const __m512bh weights = (__m512bh)weights_bf16(width, words, j, integers, table);
                UNROLL
                for (int term = 0; term < terms; term++)
                    UNROLL
                    for (int i = 0; i < rows; i++)
                        sums[i] = _mm512_dpbf16_ps(
                            sums[i], weights, (__m512bh)_mm512_set1_epi32((int)x[(j * terms + term) * rows + i]));
            }
        }
        UNROLL
        for (int i = 0; i < rows; i++) add_scaled(walk->out + i * AWQI_PANEL, sums[i], scales);
    }
}

static int64_t row_bytes_bf16(const struct awqi_stream *w)
{
    return 2 * awqi_stream_inputs(w);
}

static int64_t row_bytes_split(const struct awqi_stream *w)
{
    return 4 * awqi_stream_inputs(w);
}

/* The first of up to 16 numbers, then zeros. */
PLAIN INLINE __m512 load_part(const float *x, int64_t count)
{
    return _mm512_maskz_loadu_ps(awqi_tail_mask(awqi_max64(count, 0)), x);
}

/* What bfloat16 leaves of a number, and of an infinity nothing. */
WITH_BF16 INLINE __m512 rest_bf16(__m512 x)
{
    const __m512i rounded = _mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16);
    const __m512 rest = _mm512_sub_ps(x, _mm512_castsi512_ps(rounded));
    const __m512i magnitude = _mm512_slli_epi32(rounded, 1);
    const __mmask16 infinite = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32((int)0xff000000));
    return _mm512_mask_mov_ps(rest, infinite, _mm512_setzero_ps());
}

WITH_BF16 INLINE void prepare_terms(const struct awqi_stream *w, int terms, const float *x, int64_t row, int64_t rows,
                                    void *strip)
{
    const int64_t inputs = awqi_stream_inputs(w);
    uint32_t *to = (uint32_t *)strip + row;
    for (int64_t first = 0; first < inputs; first += 32) {
        uint32_t pairs[2][16] __attribute__((aligned(64)));
        __m512 low = load_part(x + first, inputs - first), high = load_part(x + first + 16, inputs - first - 16);
        for (int term = 0; term < terms; term++) {
            _mm512_store_si512(pairs[term], (__m512i)_mm512_cvtne2ps_pbh(high, low));
            low = rest_bf16(low);
            high = rest_bf16(high);
        }
        const int64_t count = awqi_min64(16, (inputs - first) / 2);
        for (int64_t i = 0; i < count; i++)
            for (int term = 0; term < terms; term++, to += rows) *to = pairs[term][i];
    }
}

WITH_BF16 static void prepare_bf16(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    prepare_terms(w, 1, x, row, rows, strip);
}

WITH_BF16 static void prepare_split(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    prepare_terms(w, 2, x, row, rows, strip);
}

/* ---- four bytes at a time: blocks of up to BLOCK inputs of a group have a scale each
 *
 * A strip holds for each block its fours, then the rows' scales, and for each group the rows' sums of what the bytes
 * stand for. */

PLAIN INLINE __m512i codes_int8(int width, __m512i line, int i)
{
    if (width == 8) return line;
    const __m512i mask = _mm512_set1_epi8(15);
    return _mm512_and_si512(i == 0 ? line : _mm512_srli_epi16(line, 4), mask);
}

/* sums = the products of one block, all below 2^24 */
WITH_VNNI INLINE const uint32_t *add_lines(int width, int rows, const uint32_t **line, int64_t lines,
                                           const uint32_t *x, ints sums[MOST])
{
    const int fours = 8 / width;
    UNROLL
    for (int i = 0; i < rows; i++) sums[i] = (ints){0};
    for (; lines > 0; lines--, *line += AWQI_STREAM_OUTPUTS, x += fours * rows) {
        const __m512i words = _mm512_loadu_si512(*line);
        prefetch(*line, x, fours * rows * 4);
        UNROLL
        for (int j = 0; j < fours; j++) {
            const __m512i codes = codes_int8(width, words, j);
            UNROLL
            for (int i = 0; i < rows; i++)
                sums[i] = (ints)_mm512_dpbusd_epi32((__m512i)sums[i], codes, _mm512_set1_epi32((int)x[j * rows + i]));
        }
    }
    return x;
}

WITH_VNNI INLINE void strip_int8(int width, int rows, const struct walk *walk)
{
    const int64_t most = BLOCK * width / 32;
    const uint32_t *line = walk->block, *x = walk->strip;
    clear(rows, walk->out);
    for (int64_t group = 0; group < walk->shape->groups; group++) {
        __m512 scales, zeros, totals[MOST];
        awqi_load_header(walk->shape, line, &scales, &zeros);
        line += walk->shape->header_words;
        UNROLL
        for (int i = 0; i < rows; i++) totals[i] = _mm512_setzero_ps();
        for (int64_t lines = awqi_stream_group_lines(walk->shape, group); lines > 0; lines -= most) {
            ints sums[MOST];
            x = add_lines(width, rows, &line, awqi_min64(lines, most), x, sums);
            UNROLL
            for (int i = 0; i < rows; i++)
                totals[i] = _mm512_fmadd_ps(_mm512_cvtepi32_ps((__m512i)sums[i]),
                                            _mm512_castsi512_ps(_mm512_set1_epi32((int)x[i])), totals[i]);
            x += rows;
        }
        UNROLL
        for (int i = 0; i < rows; i++) {
            const __m512 row_sum = _mm512_castsi512_ps(_mm512_set1_epi32((int)x[i]));
            add_scaled(walk->out + i * AWQI_PANEL, _mm512_fnmadd_ps(zeros, row_sum, totals[i]), scales);
        }
        x += rows;
    }
}

static int64_t row_bytes_int8(const struct awqi_stream *w)
{
    const int64_t room = w->shape.group_lines * w->shape.line_inputs, inputs = awqi_stream_inputs(w);
    const int64_t blocks = w->shape.groups * awqi_ceil_div(room, BLOCK);
    return inputs + 4 * (blocks + w->shape.groups);
}

/* The largest magnitude's bits, so that a NaN is larger than any number. */
PLAIN INLINE float largest(const float *x, int64_t count)
{
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i bits = _mm512_castps_si512(load_part(x + i, count - i));
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    return awqi_bits_to_f32(_mm512_reduce_max_epu32(most));
}

/* One block to bytes in the order of its words' fields; returns their sum. */
PLAIN INLINE int32_t quantize_block(int32_t width, const float *x, int64_t count, float inverse, uint32_t *fours)
{
    const __m128i wide = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
    const __m128i narrow = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    const __m128i order = width == 8 ? wide : narrow;
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i values =
            _mm512_cvtps_epi32(_mm512_mul_ps(load_part(x + i, count - i), _mm512_set1_ps(inverse)));
        sum = _mm512_add_epi32(sum, values);
        _mm_storeu_si128((void *)(fours + i / 4), _mm_shuffle_epi8(_mm512_cvtsepi32_epi8(values), order));
    }
    return _mm512_reduce_add_epi32(sum);
}

PLAIN static void prepare_int8(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)
{
    uint32_t *to = (uint32_t *)strip + row;
    for (int64_t group = 0; group < w->shape.groups; group++) {
        float total = 0.0f;
        int64_t left = awqi_stream_group_lines(&w->shape, group) * w->shape.line_inputs;
        for (int64_t count; left > 0; left -= count, x += count) {
            uint32_t fours[BLOCK / 4];
            count = awqi_min64(left, BLOCK);
            const float most = largest(x, count), scale = most / 127.0f;
            /* Where 127 / most would overflow, x is as good as zero. */
            const float inverse = most < 0x1p-120f ? 0.0f : 127.0f / most;
            total += (float)quantize_block(w->shape.width, x, count, inverse, fours) * scale;
            for (int64_t i = 0; i < count / 4; i++, to += rows) *to = fours[i];
            *to = awqi_f32_to_bits(scale);
            to += rows;
        }
        *to = awqi_f32_to_bits(total);
        to += rows;
    }
}

/* ---- one instance for each width of codes and number of rows */

WITH_BF16 INLINE void strip_one(int width, int rows, const struct walk *walk)
{
    strip_bf16(width, 1, rows, walk);
}

WITH_BF16 INLINE void strip_two(int width, int rows, const struct walk *walk)
{
    strip_bf16(width, 2, rows, walk);
}

typedef void strip_function(const struct walk *walk);

#define EACH_8_12(instance, ...)                                                                                       \
    instance(8, __VA_ARGS__) instance(9, __VA_ARGS__) instance(10, __VA_ARGS__) instance(11, __VA_ARGS__)              \
    instance(12, __VA_ARGS__)
#define EACH_8_16(instance, ...)                                                                                       \
    EACH_8_12(instance, __VA_ARGS__) instance(13, __VA_ARGS__) instance(14, __VA_ARGS__) instance(15, __VA_ARGS__)     \
    instance(16, __VA_ARGS__)
#define DEFINE(rows, target, strip)                                                                                    \
    target static void strip##_4_##rows(const struct walk *walk) { strip(4, rows, walk); }                             \
    target static void strip##_8_##rows(const struct walk *walk) { strip(8, rows, walk); }
#define NAME(rows, strip, width) strip##_##width##_##rows,

/* strip##_run(w, panel, rows, count, out) */
#define RUN(each, target, strip)                                                                                       \
    each(DEFINE, target, strip)                                                                                        \
    static void strip##_run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)   \
    {                                                                                                                  \
        static strip_function *const narrow[] = {each(NAME, strip, 4)}, *const wide[] = {each(NAME, strip, 8)};        \
        run_blocks(w, panel, rows, (w->shape.width == 8 ? wide : narrow)[count - LEAST], out);                         \
    }

static void run_blocks(const struct awqi_stream *w, int64_t panel, const void *strip, strip_function *run, float *out)
{
    for (int64_t block = 0; block < AWQI_PANEL_BLOCKS; block++) {
        const struct walk walk = {&w->shape, awqi_stream_block(w, panel, block), strip,
                                  out + block * AWQI_STREAM_OUTPUTS};
        run(&walk);
    }
}

RUN(EACH_8_16, PLAIN, strip_f32)
RUN(EACH_8_16, WITH_BF16, strip_one)
RUN(EACH_8_16, WITH_BF16, strip_two)
RUN(EACH_8_12, WITH_VNNI, strip_int8)

#define FEATURES (AWQ_CPU_AVX2 | AWQ_CPU_AVX512)

const struct awqi_gemm awqi_gemm_avx512 = {
    "avx512-f32-gemm", FEATURES, AWQI_ACTIVATIONS_ALL, LEAST, MOST, row_bytes_f32, prepare_f32, strip_f32_run};
const struct awqi_gemm awqi_gemm_avx512_split = {
    "avx512-split-gemm", FEATURES | AWQ_CPU_AVX512_BF16, 1u << AWQ_ACTIVATION_SPLIT, LEAST, MOST, row_bytes_split,
    prepare_split, strip_two_run};
const struct awqi_gemm awqi_gemm_avx512_bf16 = {
    "avx512-bf16-gemm", FEATURES | AWQ_CPU_AVX512_BF16, 1u << AWQ_ACTIVATION_BF16, LEAST, MOST, row_bytes_bf16,
    prepare_bf16, strip_one_run};
const struct awqi_gemm awqi_gemm_avx512_vnni = {
    "avx512-int8-gemm", FEATURES | AWQ_CPU_AVX512_VNNI, 1u << AWQ_ACTIVATION_INT8, LEAST, MOST_BYTES, row_bytes_int8,
    prepare_int8, strip_int8_run};
#endif
