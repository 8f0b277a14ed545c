/* The hash that decides which rows a sample keeps, written once for processors and GPUs.
 *
 * Every step is a bijection of the state for a given word and of the word for a given state, so rows that differ in one
 * word never collide.  The hash decides what archives hold: another one is another version of their format. */
#ifndef AWQI_ROW_HASH_H
#define AWQI_ROW_HASH_H

#include <stdint.h>

#if defined(__CUDACC__)
#define AWQI_EVERYWHERE static inline __host__ __device__
#else
#define AWQI_EVERYWHERE static inline
#endif

#define AWQI_HASH_ODD_A 0x9e3779b97f4a7c15u /* 2^64 / golden ratio */
#define AWQI_HASH_ODD_B 0xb7e151628aed2a6bu /* 2^64 (e - 2) */

/* A row's next two values, as bits, the first in the lower half; an odd last one alone. */
AWQI_EVERYWHERE uint64_t awqi_row_hash_mix(uint64_t hash, uint64_t word)
{
    word *= AWQI_HASH_ODD_A;
    word ^= word >> 32; /* what a product does not do: high bits reach low ones */
    hash = (hash ^ word) * AWQI_HASH_ODD_B;
    return hash << 29 | hash >> 35;
}

/* Each bit of the result depends on every bit of 'hash'. */
AWQI_EVERYWHERE uint64_t awqi_row_hash_end(uint64_t hash)
{
    hash = (hash ^ hash >> 32) * AWQI_HASH_ODD_A;
    hash = (hash ^ hash >> 29) * AWQI_HASH_ODD_B;
    return hash ^ hash >> 32;
}

AWQI_EVERYWHERE uint64_t awqi_row_hash_begin(uint64_t seed)
{
    return awqi_row_hash_end(seed + AWQI_HASH_ODD_A);
}

#endif /* AWQI_ROW_HASH_H */
