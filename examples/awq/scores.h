/* How well logits predict, and how far two models' are apart. */
#ifndef AWQ_APP_SCORES_H
#define AWQ_APP_SCORES_H

#include <stdbool.h>
#include <stdint.h>

#include "awq.h"

/* What one position contributes. */
struct score {
    double loss;           /* -ln p(target) */
    double reference_loss; /* the same of the reference; these three are 0 without one */
    double divergence;     /* KL(reference || model) in nats */
    int64_t rank;          /* how many tokens the model puts before the reference's likeliest, by logit, then by id */
};

/* scores[rows] from logits[rows][vocabulary], the reference's (NULL: none) and the tokens that came next, on the
 * threads of a context on the processor. */
bool score_rows(awq_context *context, const float *logits, const float *reference, const int32_t *targets, int64_t rows,
                int64_t vocabulary, struct score *scores);

#endif
