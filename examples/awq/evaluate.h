/* What `awq evaluate` measures, for other commands. */
#ifndef AWQ_APP_EVALUATE_H
#define AWQ_APP_EVALUATE_H

#include <stdbool.h>
#include <stdint.h>

#include "context.h"

struct evaluate_request {
    const char *model;
    const char *against; /* the model that the divergence is from; NULL: none */
    const char *text;    /* or token ids, as the file's name tells */
    int64_t context;     /* tokens in a window; 0: what the model takes, 2048 at most */
    struct placement placement;
};

struct evaluate_result {
    double perplexity;
    double divergence; /* the mean KL divergence from 'against'; 0 without it */
    int64_t tokens;    /* that were predicted */
};

/* False after a message. */
bool evaluate_model(const struct evaluate_request *request, struct evaluate_result *result);

#endif
