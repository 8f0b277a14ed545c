#include "sampler.h"

#include <math.h>
#include <stdlib.h>

/* SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

uint64_t random_begin(uint64_t seed, uint64_t stream)
{
    return mix(mix(seed + 0x9e3779b97f4a7c15u) + stream);
}

/* Uniform in [0, 1). */
static double random_next(uint64_t *random)
{
    *random += 0x9e3779b97f4a7c15u;
    return (double)(mix(*random) >> 11) * 0x1p-53;
}

static int by_weight(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight > y->weight ? -1 : 1;
    return x->token < y->token ? -1 : x->token > y->token;
}

int32_t most_likely(const float *logits, int64_t vocabulary)
{
    int64_t best = 0;
    for (int64_t i = 0; i < vocabulary; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return -1;
        if (logits[i] > logits[best]) best = i;
    }
    return (int32_t)best;
}

/* How many of the sorted candidates it takes to reach 'share' of the sum of their weights. */
static int64_t nucleus(const struct candidate *candidates, int64_t count, double share)
{
    double total = 0, sum = 0;
    for (int64_t i = 0; i < count; i++) total += candidates[i].weight;
    for (int64_t i = 0; i < count; i++) {
        sum += candidates[i].weight;
        if (sum >= share * total) return i + 1;
    }
    return count;
}

int32_t sample_token(const struct sampler *sampler, const float *logits, int64_t vocabulary,
                     struct candidate *candidates, uint64_t *random)
{
    int32_t best = most_likely(logits, vocabulary);
    int64_t count = vocabulary;
    double total = 0;
    if (best < 0 || sampler->temperature == 0) return best;
    for (int64_t i = 0; i < vocabulary; i++) {
        candidates[i].token = (int32_t)i;
        candidates[i].weight = exp(((double)logits[i] - (double)logits[best]) / sampler->temperature);
    }
    if (sampler->top_k || (sampler->top_p > 0 && sampler->top_p < 1)) {
        qsort(candidates, (size_t)count, sizeof *candidates, by_weight);
        if (sampler->top_k && sampler->top_k < count) count = sampler->top_k;
        if (sampler->top_p > 0 && sampler->top_p < 1) count = nucleus(candidates, count, sampler->top_p);
    }
    for (int64_t i = 0; i < count; i++) total += candidates[i].weight;
    double left = random_next(random) * total;
    for (int64_t i = 0; i < count; i++) {
        left -= candidates[i].weight;
        if (left < 0) return candidates[i].token;
    }
    return best;
}
