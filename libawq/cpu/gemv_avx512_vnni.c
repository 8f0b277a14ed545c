/* Few rows by a stream with AVX-512 VNNI: activations as integers of one or three signed bytes with a scale per block
 * of inputs, weights exact.
 *
 * The low and the high fields of a line's bytes are two registers of 64 codes; vpdpbusd multiplies four of each output by
 * four bytes of a row and adds them to the output's 32-bit sum, without rounding.  With three bytes a number, digits to
 * the base 256, the sums of the digits are put together at the end of a block: 23 bits and a sign, single precision in
 * fewer instructions than products of single precision take.
 *
 *     y = sum over groups of s (sum over blocks of (b sum of q i) - z sum of x),  x = b i
 *
 * A row is, line by line and digit by digit, the bytes in the order of the line's fields, then the scale b of each block,
 * then the sum over each group. */
#include "kernels.h"

#if defined(__x86_64__)
#include "avx512.h"
#include "digits.h"

#define VNNI __attribute__((target(AVX512 ",avx512vnni")))
#define INLINE VNNI static inline __attribute__((always_inline))

enum {
    DIGITS = 3,
    DIGIT_BLOCK = 128 /* inputs that share a scale when they are three bytes each */
};

/* ---- rows */

/* The largest magnitude among 'count' numbers as bits, which puts infinities and NaNs above all others. */
INLINE uint32_t largest_bits(const float *x, int64_t count)
{
    __m512i most = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512i bits = _mm512_maskz_loadu_epi32(awqi_tail_mask(count - i), x + i);
        most = _mm512_max_epu32(most, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
    }
    return _mm512_reduce_max_epu32(most);
}

/* Sixteen integers' digit 'd', which is taken from them. */
INLINE __m128i take_digit(__m512i *integers)
{
    const __m512i digit = _mm512_srai_epi32(_mm512_slli_epi32(*integers, 24), 24);
    *integers = _mm512_srai_epi32(_mm512_sub_epi32(*integers, digit), 8);
    return _mm512_cvtepi32_epi8(digit);
}

/* The bytes of digit d of up to four lines, in the order of their fields. */
INLINE void store_digit(int32_t width, int digits, int64_t count, __m128i bytes, unsigned char *to)
{
    if (width == 4) {
        bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
        _mm_storel_epi64((__m128i *)(void *)to, bytes);
        if (count > 8) _mm_storeh_pd((double *)(void *)(to + 8 * digits), _mm_castsi128_pd(bytes));
    } else {
        bytes = _mm_shuffle_epi8(bytes, _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
        for (int64_t i = 0; i < count && i < 16; i += 4) {
            const int32_t word = _mm_cvtsi128_si32(bytes);
            memcpy(to + i * digits, &word, sizeof word);
            bytes = _mm_srli_si128(bytes, 4);
        }
    }
}

/* One block of inputs; returns the sum of its integers. */
INLINE int64_t prepare_block(int32_t width, int digits, const float *x, int64_t count, float inverse, unsigned char *to)
{
    const int line_inputs = width == 4 ? 8 : 4;
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < count; i += 16) {
        const __m512 values = _mm512_maskz_loadu_ps(awqi_tail_mask(count - i), x + i);
        __m512i integers = _mm512_cvtps_epi32(_mm512_mul_ps(values, _mm512_set1_ps(inverse)));
        sum = _mm512_add_epi32(sum, integers);
        for (int d = 0; d < digits; d++)
            store_digit(width, digits, count - i, take_digit(&integers), to + i * digits + d * line_inputs);
    }
    return _mm512_reduce_add_epi32(sum);
}

INLINE void prepare_row(int digits, int64_t block_inputs, const struct awqi_stream *w, const float *x, void *row)
{
    const struct awqi_digits form = awqi_digits_of(w, digits, block_inputs);
    const int64_t room = w->shape.group_lines * w->shape.line_inputs, inputs = awqi_stream_inputs(w);
    unsigned char *bytes = row;
    float *scales = (float *)(bytes + form.scales), *sums = (float *)(bytes + form.sums);
    for (int64_t group = 0; group < w->shape.groups; group++) {
        const int64_t end = awqi_min64(inputs, (group + 1) * room);
        double sum = 0.0;
        for (int64_t i = group * room, block = group * form.group_blocks; i < end; i += block_inputs, block++) {
            const int64_t count = awqi_min64(block_inputs, end - i);
            const uint32_t largest = largest_bits(x + i, count);
            float inverse, scale = awqi_digits_scale(digits, largest, &inverse);
            const int64_t integers = prepare_block(w->shape.width, digits, x + i, count, inverse, bytes + i * digits);
            scales[block] = scale;
            sum += (double)scale * (double)integers;
        }
        sums[group] = (float)sum;
    }
}

/* ---- products: 'rows' rows; the sums of each digit in one part, or one for low and one for high fields */

/* sum += codes times the four bytes in every word.  Said in assembly because GCC 12 copies each sum to another register
 * and back around the intrinsic. */
INLINE __m512i multiply_bytes(__m512i sum, __m512i codes, const unsigned char *bytes)
{
    typedef uint32_t word __attribute__((aligned(1), may_alias));
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(codes), "m"(*(const word *)bytes));
    return sum;
}

/* The high fields stay where they are when they have sums of their own, and count 16 times. */
INLINE void multiply_line(const int rows, const int digits, const int parts, const int width, __m512i words,
                          const unsigned char *x, int64_t stride, __m512i sums[AWQI_GEMV_ROWS][DIGITS][2])
{
    const __m512i nibble = _mm512_set1_epi8(15);
    const __m512i low = width == 4 ? _mm512_and_si512(words, nibble) : words;
    const __m512i high = parts == 2 ? _mm512_andnot_si512(nibble, words)
                                    : _mm512_and_si512(_mm512_srli_epi32(words, 4), nibble);
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int d = 0; d < digits; d++) {
            const unsigned char *bytes = x + r * stride + d * (32 / width);
            sums[r][d][0] = multiply_bytes(sums[r][d][0], low, bytes);
            if (width == 4) sums[r][d][parts - 1] = multiply_bytes(sums[r][d][parts - 1], high, bytes + 4);
        }
}

/* A row alone of one byte waits for nothing but memory, and leaves all to the processor. */
INLINE void prefetch(const int rows, const int digits, const uint32_t *line)
{
    if (rows > 1) AWQI_PREFETCH(line, AWQI_FAR);
    else if (digits > 1) AWQI_PREFETCH(line, AWQI_NEAR);
}

/* 'lines' lines of a block: totals += b (sum of q i). */
INLINE void multiply_lines(const int rows, const int digits, const int parts, const int width, const uint32_t *line,
                           int64_t lines, const unsigned char *x, const float *x_scales, int64_t stride,
                           __m512 *totals)
{
    __m512i sums[AWQI_GEMV_ROWS][DIGITS][2];
    UNROLL
    for (int r = 0; r < rows; r++)
        UNROLL
        for (int d = 0; d < digits; d++)
            UNROLL
            for (int p = 0; p < parts; p++) sums[r][d][p] = _mm512_setzero_si512();
    ROLLED
    for (int64_t i = 0; i < lines; i++, line += AWQI_STREAM_OUTPUTS, x += digits * (32 / width)) {
        prefetch(rows, digits, line);
        multiply_line(rows, digits, parts, width, awqi_load_line(line), x, stride, sums);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        __m512 sum = _mm512_setzero_ps();
        UNROLL
        for (int d = digits - 1; d >= 0; d--) {
            __m512i digit = sums[r][d][0];
            if (parts == 2) digit = _mm512_add_epi32(digit, _mm512_srai_epi32(sums[r][d][1], 4));
            sum = _mm512_fmadd_ps(sum, _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(digit));
        }
        totals[r] = _mm512_fmadd_ps(sum, _mm512_set1_ps(x_scales[r * (stride / 4)]), totals[r]);
    }
}

INLINE void multiply_block(const int rows, const int digits, const int parts, const int width,
                           const int64_t block_inputs, const struct awqi_stream *w, const uint32_t *header,
                           const unsigned char *row, float *out)
{
    const struct awqi_digits form = awqi_digits_of(w, digits, block_inputs);
    const struct awqi_stream_shape *shape = &w->shape;
    const int64_t block_lines = block_inputs / (32 / width), line_bytes = digits * (32 / width);
    const float *x_scales = (const float *)(row + form.scales), *x_sums = (const float *)(row + form.sums);
    for (int r = 0; r < rows; r++) _mm512_storeu_ps(out + r * AWQI_PANEL, _mm512_setzero_ps());
    for (int64_t group = 0; group < shape->groups; group++, header += shape->group_words) {
        const uint32_t *line = header + shape->header_words;
        AWQI_PREFETCH(header, 0); /* in its turn, though it is needed last */
        prefetch(rows, digits, header);
        int64_t lines = awqi_stream_group_lines(shape, group);
        const unsigned char *x = row + group * shape->group_lines * line_bytes;
        const float *scale = x_scales + group * form.group_blocks;
        __m512 parts_of_group[AWQI_GEMV_ROWS];
        UNROLL
        for (int r = 0; r < rows; r++) parts_of_group[r] = _mm512_setzero_ps();
        for (; lines >= block_lines; lines -= block_lines) {
            multiply_lines(rows, digits, parts, width, line, block_lines, x, scale++, form.bytes, parts_of_group);
            line += block_lines * AWQI_STREAM_OUTPUTS;
            x += block_lines * line_bytes;
        }
        if (lines > 0) multiply_lines(rows, digits, parts, width, line, lines, x, scale, form.bytes, parts_of_group);
        __m512 scales, zeros;
        awqi_load_header(shape, header, &scales, &zeros);
        UNROLL
        for (int r = 0; r < rows; r++) {
            const __m512 x_sum = _mm512_set1_ps(x_sums[r * (form.bytes / 4) + group]);
            const __m512 part = _mm512_fnmadd_ps(zeros, x_sum, parts_of_group[r]);
            float *total = out + r * AWQI_PANEL; /* in memory, for registers are short where there are eight rows */
            _mm512_storeu_ps(total, _mm512_fmadd_ps(part, scales, _mm512_loadu_ps(total)));
        }
    }
}

#define KERNEL(name, rows, digits, parts, width, block_inputs)                                                         \
    VNNI static void gemv_##name##_##rows##_##width(const struct awqi_stream *w, const uint32_t *block,                \
                                                    const unsigned char *row, float *out)                              \
    {                                                                                                                  \
        multiply_block(rows, digits, parts, width, block_inputs, w, block, row, out);                                  \
    }

/* 'eight' rows for each width, or NULL: eight of three digits are twice four, since not all sums would find registers. */
#define FORM(name, digits, parts_of_few, block_inputs, eight_4, eight_8)                                               \
    KERNEL(name, 1, digits, parts_of_few, 4, block_inputs)                                                             \
    KERNEL(name, 2, digits, parts_of_few, 4, block_inputs)                                                             \
    KERNEL(name, 4, digits, 1, 4, block_inputs)                                                                        \
    KERNEL(name, 1, digits, 1, 8, block_inputs)                                                                        \
    KERNEL(name, 2, digits, 1, 8, block_inputs)                                                                        \
    KERNEL(name, 4, digits, 1, 8, block_inputs)                                                                        \
    static int64_t name##_row_bytes(const struct awqi_stream *w)                                                       \
    {                                                                                                                  \
        return awqi_digits_of(w, digits, block_inputs).bytes;                                                          \
    }                                                                                                                  \
    VNNI static void name##_prepare(const struct awqi_stream *w, const float *x, void *row)                            \
    {                                                                                                                  \
        prepare_row(digits, block_inputs, w, x, row);                                                                  \
    }                                                                                                                  \
    static void name##_run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)    \
    {                                                                                                                  \
        static awqi_gemv_block *const kernels[2][4] = {                                                                \
            {gemv_##name##_1_4, gemv_##name##_2_4, gemv_##name##_4_4, eight_4},                                        \
            {gemv_##name##_1_8, gemv_##name##_2_8, gemv_##name##_4_8, eight_8},                                        \
        };                                                                                                             \
        awqi_run_blocks(w, panel, rows, name##_row_bytes(w), count, kernels[w->shape.width == 8], out);                \
    }

KERNEL(bytes, 8, 1, 1, 4, AWQI_BYTE_BLOCK)
KERNEL(bytes, 8, 1, 1, 8, AWQI_BYTE_BLOCK)
FORM(bytes, 1, 1, AWQI_BYTE_BLOCK, gemv_bytes_8_4, gemv_bytes_8_8)
FORM(digits, DIGITS, 2, DIGIT_BLOCK, NULL, NULL)

#define FEATURES (AWQ_CPU_AVX2 | AWQ_CPU_AVX512 | AWQ_CPU_AVX512_VNNI)

const struct awqi_gemv awqi_gemv_avx512_vnni = {"avx512-vnni-int8", FEATURES, 1u << AWQ_ACTIVATION_INT8,
    bytes_row_bytes, bytes_prepare, bytes_run};
const struct awqi_gemv awqi_gemv_avx512_digits = {"avx512-vnni-int24", FEATURES,
    1u << AWQ_ACTIVATION_EXACT | 1u << AWQ_ACTIVATION_SPLIT | 1u << AWQ_ACTIVATION_BF16, digits_row_bytes,
    digits_prepare, digits_run};
#endif
