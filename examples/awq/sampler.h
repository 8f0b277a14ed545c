/* Choosing the next token. */
#ifndef AWQ_APP_SAMPLER_H
#define AWQ_APP_SAMPLER_H

#include <stdint.h>

struct sampler {
    double temperature; /* 0: always the most likely token */
    int64_t top_k;      /* among this many likeliest; 0: all */
    double top_p;       /* among the likeliest that together reach this probability; 0 or 1: all */
};

/* A token and its weight, for the caller's scratch memory. */
struct candidate {
    double weight;
    int32_t token;
};

/* One of a family of random sequences: each 'seed' has as many as there are 'stream's. */
uint64_t random_begin(uint64_t seed, uint64_t stream);

/* The first of the highest logits; -1 when one is NaN or positive infinity. */
int32_t most_likely(const float *logits, int64_t vocabulary);

/* Draw from logits[vocabulary]; candidates[vocabulary] is overwritten.  Of equally likely tokens the first comes first.
 * -1 when a logit is NaN or positive infinity. */
int32_t sample_token(const struct sampler *sampler, const float *logits, int64_t vocabulary,
                     struct candidate *candidates, uint64_t *random);

#endif
