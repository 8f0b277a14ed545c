/* Loops that the compiler turns into vector code for the running processor.
 *
 * Sums and maxima keep LANES partial results, because single precision may not be reordered: written so, the order is
 * part of the program, the loop vectorises, and the result is the same on every machine and with any vector length. */
#ifndef AWQ_APP_VECTOR_MATH_H
#define AWQ_APP_VECTOR_MATH_H

#include <stdint.h>
#include <string.h>

/* The thread sanitizer does not survive functions that are chosen before it has started. */
#if defined(__SANITIZE_THREAD__)
#define HAVE_CLONES 0
#elif defined(__has_feature)
#define HAVE_CLONES !__has_feature(thread_sanitizer)
#else
#define HAVE_CLONES 1
#endif

/* A function so marked is compiled for several processors and chosen among when the program starts. */
#if defined(__x86_64__) && defined(__linux__) && HAVE_CLONES
#define VECTORIZED __attribute__((target_clones("default", "avx2", "avx512f")))
#else
#define VECTORIZED
#endif

/* What such a function calls in its loops must become part of it. */
#define INLINED static inline __attribute__((always_inline))

enum { LANES = 16, FLOATS = 8 };

/* FLOATS floats at any address, for the inner loops where the compiler does not keep sums in registers by itself. */
typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));

#define LOAD(address) (*(const floats *)(address))
#define STORE(address, value) ((void)(*(floats *)(address) = (value)))

/* e^x to about one unit in the last place; 0 below -87, e^88 above 88, NaN for NaN. */
INLINED float fast_exp(float x)
{
    float clamped = x < -87.0f ? -87.0f : x;
    clamped = clamped > 88.0f ? 88.0f : clamped;
    /* n = rint(x / ln 2): adding 1.5 * 2^23 leaves the integer in the low bits of the sum. */
    float shifted = clamped * 1.44269504f + 12582912.0f;
    float n = shifted - 12582912.0f;
    int32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    /* ln 2 in two parts, of which the first times n is exact. */
    float r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    uint32_t scale_bits = ((uint32_t)bits + 127u) << 23;
    float scale;
    memcpy(&scale, &scale_bits, sizeof scale);
    p = p * scale;
    return x < -87.0f ? 0.0f : p;
}

INLINED float sum_lanes(const float lanes[LANES])
{
    float half[LANES / 2];
    for (int i = 0; i < LANES / 2; i++) half[i] = lanes[i] + lanes[i + LANES / 2];
    return ((half[0] + half[4]) + (half[1] + half[5])) + ((half[2] + half[6]) + (half[3] + half[7]));
}

INLINED float max_lanes(const float lanes[LANES])
{
    float result = lanes[0];
    for (int i = 1; i < LANES; i++) result = lanes[i] > result ? lanes[i] : result;
    return result;
}

#endif
