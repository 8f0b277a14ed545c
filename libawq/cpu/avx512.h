/* What the AVX-512 kernels of streams share. */
#ifndef AWQI_AVX512_H
#define AWQI_AVX512_H

#include "kernels.h"

#include <immintrin.h>

#define AVX512 "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c"

/* Arrays of sums are registers only when every index into them is a constant.  A loop over lines that clang would unroll
 * is slower from memory then, though not from the cache. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#define ROLLED _Pragma("clang loop unroll(disable)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define ROLLED
#endif

enum { AWQI_AND_OR = 0xea }; /* vpternlog: (a & b) | c */

/* Ask for a line so many bytes on; past the end of a stream it does nothing.
 *
 * Products of several rows take longer over a line than memory does: they ask FAR ahead, so that a line arrives before it
 * is needed, and is still in the first-level cache then.  A row alone is as fast as the processor's own prefetcher, which
 * follows lines that are asked for one after another, headers among them, and loses its way when they are asked for from
 * two places far apart: it asks NEAR, a little ahead of the loads that wait for arithmetic. */
#define AWQI_PREFETCH(line, bytes) _mm_prefetch((const char *)(line) + (bytes), _MM_HINT_T0)

enum { AWQI_FAR = 4096, AWQI_NEAR = 256 };

/* A line of a stream.  A compiler that sees it used four times would read it four times, to save an instruction; wide
 * loads are what such a loop has least of. */
__attribute__((target(AVX512), always_inline)) static inline __m512i awqi_load_line(const uint32_t *line)
{
    __m512i words = _mm512_loadu_si512(line);
    __asm__("" : "+v"(words));
    return words;
}

static inline __mmask16 awqi_tail_mask(int64_t count)
{
    return count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
}

__attribute__((target(AVX512), always_inline)) static inline void
awqi_load_header(const struct awqi_stream_shape *shape, const uint32_t *header, __m512 *scales, __m512 *zeros)
{
    const __m256i *halves = (const void *)header;
    if (shape->scale_dtype == AWQ_F16) {
        *scales = _mm512_cvtph_ps(_mm256_loadu_si256(halves));
    } else if (shape->scale_dtype == AWQ_BF16) {
        *scales = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(halves)), 16));
    } else {
        *scales = _mm512_loadu_ps(header);
        halves++;
    }
    *zeros = _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(_mm256_loadu_si256(halves + 1)));
}

#endif /* AWQI_AVX512_H */
