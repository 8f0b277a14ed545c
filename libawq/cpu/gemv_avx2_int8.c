/* Few rows by a stream with AVX2: activations as bytes with a scale per block of 32 inputs, weights exact.
 *
 * vpmaddubsw multiplies codes and bytes and adds pairs of products to 16 bits.  A pair of four-bit codes gives at most
 * 2 15 127, and the eight of a block that meet in one place stay within 16 bits; so do those of the low and of the high
 * halves of codes of eight bits, kept apart.  Once a block the sums become 32 bits and meet the scale.  Rows are as in
 * gemv_avx512_vnni.c. */
#include "kernels.h"

#if defined(__x86_64__)
#include "digits.h"

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define INLINE AVX2 static inline __attribute__((always_inline))

#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define ROLLED _Pragma("GCC unroll 1")
#endif

enum { HALVES = 2, MOST_ROWS = 2 }; /* registers to a line; rows whose sums there are registers for */

/* ---- rows */

INLINE __m256i tail_mask(int64_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)awqi_min64(count, 8)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE uint32_t largest_bits(const float *x, int64_t count)
{
    __m256i most = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += 8) {
        const __m256i bits = _mm256_castps_si256(_mm256_maskload_ps(x + i, tail_mask(count - i)));
        most = _mm256_max_epu32(most, _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff)));
    }
    uint32_t lanes[8], largest = 0;
    memcpy(lanes, &most, sizeof lanes);
    for (int i = 0; i < 8; i++) largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}

/* One block of inputs, whose bytes take the order of the fields; returns their sum. */
INLINE int32_t prepare_block(int32_t width, const float *x, int64_t count, float inverse, unsigned char *to)
{
    const __m128i order = width == 4 ? _mm_setr_epi8(0, 8, 2, 10, 4, 12, 6, 14, -1, -1, -1, -1, -1, -1, -1, -1)
                                     : _mm_setr_epi8(0, 4, 2, 6, 8, 12, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = 0; i < count; i += 8) {
        const __m256 values = _mm256_maskload_ps(x + i, tail_mask(count - i));
        const __m256i integers = _mm256_cvtps_epi32(_mm256_mul_ps(values, _mm256_set1_ps(inverse)));
        sum = _mm256_add_epi32(sum, integers);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        const __m128i bytes = _mm_shuffle_epi8(words, order);
        if (count - i >= 8) _mm_storel_epi64((__m128i *)(void *)(to + i), bytes);
        else memcpy(to + i, &bytes, 4);
    }
    int32_t lanes[8], total = 0;
    memcpy(lanes, &sum, sizeof lanes);
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}

static int64_t row_bytes(const struct awqi_stream *w)
{
    return awqi_digits_of(w, 1, AWQI_BYTE_BLOCK).bytes;
}

AVX2 static void prepare(const struct awqi_stream *w, const float *x, void *row)
{
    const struct awqi_digits form = awqi_digits_of(w, 1, AWQI_BYTE_BLOCK);
    const int64_t room = w->shape.group_lines * w->shape.line_inputs, inputs = awqi_stream_inputs(w);
    unsigned char *bytes = row;
    float *scales = (float *)(bytes + form.scales), *sums = (float *)(bytes + form.sums);
    for (int64_t group = 0; group < w->shape.groups; group++) {
        const int64_t end = awqi_min64(inputs, (group + 1) * room);
        double sum = 0.0;
        for (int64_t i = group * room, block = group * form.group_blocks; i < end; i += AWQI_BYTE_BLOCK, block++) {
            const int64_t count = awqi_min64(AWQI_BYTE_BLOCK, end - i);
            float inverse;
            scales[block] = awqi_digits_scale(1, largest_bits(x + i, count), &inverse);
            sum += (double)scales[block] * prepare_block(w->shape.width, x + i, count, inverse, bytes + i);
        }
        sums[group] = (float)sum;
    }
}

/* ---- products of 'rows' rows, half a line at a time */

/* Compilers would gather products and add them in another order, for which there are not enough registers. */
INLINE __m256i multiply_bytes(__m256i sum, __m256i codes, const unsigned char *bytes)
{
    int32_t word;
    memcpy(&word, bytes, sizeof word);
    sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, _mm256_set1_epi32(word)));
    __asm__("" : "+x"(sum));
    return sum;
}

/* Up to 32 inputs: totals += b (sum of q i).  The high halves of codes of eight bits have sums of their own. */
INLINE void multiply_lines(const int rows, const int width, const uint32_t *line, int64_t lines, const unsigned char *x,
                           const float *x_scales, int64_t stride, __m256 totals[MOST_ROWS][HALVES])
{
    const __m256i nibble = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i sums[MOST_ROWS][HALVES], high_sums[MOST_ROWS][HALVES];
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int h = 0; h < HALVES; h++) sums[r][h] = high_sums[r][h] = _mm256_setzero_si256();
    ROLLED
    for (int64_t i = 0; i < lines; i++, line += AWQI_STREAM_OUTPUTS, x += 32 / width) {
        if (rows > 1) _mm_prefetch((const char *)line + 4096, _MM_HINT_T0);
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            const __m256i words = _mm256_loadu_si256((const __m256i *)(const void *)(line + 8 * h));
            const __m256i low = _mm256_and_si256(words, nibble);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi32(words, 4), nibble);
            UNROLL
            for (int r = 0; r < rows; r++) {
                const unsigned char *bytes = x + r * stride;
                sums[r][h] = multiply_bytes(sums[r][h], low, bytes);
                if (width == 4) sums[r][h] = multiply_bytes(sums[r][h], high, bytes + 4);
                else high_sums[r][h] = multiply_bytes(high_sums[r][h], high, bytes);
            }
        }
    }
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int h = 0; h < HALVES; h++) {
            __m256i sum = _mm256_madd_epi16(sums[r][h], ones);
            if (width == 8) sum = _mm256_add_epi32(sum, _mm256_slli_epi32(_mm256_madd_epi16(high_sums[r][h], ones), 4));
            const __m256 scale = _mm256_set1_ps(x_scales[r * (stride / 4)]);
            totals[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale, totals[r][h]);
        }
}

/* Scales and zero points of half the outputs. */
INLINE void load_header(const struct awqi_stream_shape *shape, const uint32_t *header, int half, __m256 *scales,
                        __m256 *zeros)
{
    const uint16_t *halves = (const uint16_t *)header + 8 * half;
    const __m128i packed = _mm_loadu_si128((const __m128i *)(const void *)halves);
    if (shape->scale_dtype == AWQ_F16) {
        *scales = _mm256_cvtph_ps(packed);
    } else if (shape->scale_dtype == AWQ_BF16) {
        *scales = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed), 16));
    } else {
        *scales = _mm256_loadu_ps((const float *)header + 8 * half);
        halves += 16;
    }
    const __m128i integers = _mm_loadu_si128((const __m128i *)(const void *)(halves + 16));
    *zeros = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(integers));
}

/* out += s (sum of q x - z sum of x) of one group. */
INLINE void finish_group(const int rows, const struct awqi_stream_shape *shape, const uint32_t *header,
                         const float *x_sums, int64_t stride, __m256 totals[MOST_ROWS][HALVES], float *out)
{
    UNROLL
    for (int h = 0; h < HALVES; h++) {
        __m256 scales, zeros;
        load_header(shape, header, h, &scales, &zeros);
        UNROLL
        for (int r = 0; r < rows; r++) {
            float *p = out + r * AWQI_PANEL + 8 * h;
            const __m256 part = _mm256_fnmadd_ps(zeros, _mm256_set1_ps(x_sums[r * (stride / 4)]), totals[r][h]);
            _mm256_storeu_ps(p, _mm256_fmadd_ps(part, scales, _mm256_loadu_ps(p)));
        }
    }
}

INLINE void multiply_block(const int rows, const int width, const struct awqi_stream *w, const uint32_t *header,
                           const unsigned char *row, float *out)
{
    const struct awqi_digits form = awqi_digits_of(w, 1, AWQI_BYTE_BLOCK);
    const struct awqi_stream_shape *shape = &w->shape;
    const int line_inputs = 32 / width, block_lines = AWQI_BYTE_BLOCK / line_inputs;
    const float *x_scales = (const float *)(row + form.scales), *x_sums = (const float *)(row + form.sums);
    for (int r = 0; r < rows; r++) memset(out + r * AWQI_PANEL, 0, AWQI_STREAM_OUTPUTS * sizeof *out);
    for (int64_t group = 0; group < shape->groups; group++, header += shape->group_words) {
        const uint32_t *line = header + shape->header_words;
        _mm_prefetch((const char *)header, _MM_HINT_T0); /* in its turn, though it is needed last */
        const unsigned char *x = row + group * shape->group_lines * line_inputs;
        const float *scale = x_scales + group * form.group_blocks;
        int64_t lines = awqi_stream_group_lines(shape, group);
        __m256 totals[MOST_ROWS][HALVES];
        UNROLL
        for (int r = 0; r < rows; r++)
            UNROLL
            for (int h = 0; h < HALVES; h++) totals[r][h] = _mm256_setzero_ps();
        for (; lines >= block_lines; lines -= block_lines) {
            multiply_lines(rows, width, line, block_lines, x, scale++, form.bytes, totals);
            line += block_lines * AWQI_STREAM_OUTPUTS;
            x += AWQI_BYTE_BLOCK;
        }
        if (lines > 0) multiply_lines(rows, width, line, lines, x, scale, form.bytes, totals);
        finish_group(rows, shape, header, x_sums + group, form.bytes, totals, out);
    }
}

#define KERNEL(rows, width)                                                                                            \
    AVX2 static void gemv_avx2_##rows##_##width(const struct awqi_stream *w, const uint32_t *block,                    \
                                                const unsigned char *row, float *out)                                  \
    {                                                                                                                  \
        multiply_block(rows, width, w, block, row, out);                                                               \
    }

KERNEL(1, 4)
KERNEL(2, 4)
KERNEL(1, 8)
KERNEL(2, 8)

static void run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)
{
    static awqi_gemv_block *const kernels[2][4] = {
        {gemv_avx2_1_4, gemv_avx2_2_4, NULL, NULL},
        {gemv_avx2_1_8, gemv_avx2_2_8, NULL, NULL},
    };
    awqi_run_blocks(w, panel, rows, row_bytes(w), count, kernels[w->shape.width == 8], out);
}

const struct awqi_gemv awqi_gemv_avx2_int8 = {"avx2-int8", AWQ_CPU_AVX2, 1u << AWQ_ACTIVATION_INT8, row_bytes, prepare,
    run};
#endif
