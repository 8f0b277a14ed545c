/* A bounded sample of distinct rows that depends only on which rows were offered.
 *
 * Every row has a hash, made of a seed and its contents, and the sample keeps the rows whose (hash, contents) are
 * least.  Neither the order of offers nor how they were divided among samples that are merged later can change that
 * set, and to anybody who did not choose the rows for their hashes it is a random one.
 *
 * A row that occurs again is not kept again.  Equal rows share a hash and would enter together, so that one frequent
 * row (the input of a first layer depends on the token alone; the first token of every sequence is the same) would now
 * and then fill much of the sample. */
#ifndef AWQI_ROW_SAMPLE_H
#define AWQI_ROW_SAMPLE_H

#include "internal.h"
#include "row_hash.h"

struct awqi_row_sample {
    awq_context *context; /* borrowed from the owner of the sample */
    int64_t channels;
    uint64_t seed;
    uint32_t limit, capacity, count; /* count <= capacity <= limit; slots are numbered 0 .. count - 1 */
    bool sorted;                     /* slots are in the order of (hash, contents) */
    uint64_t *hashes;                /* [capacity] */
    float *rows;                     /* [capacity + 1][channels]; the last one is for moving others */
    uint32_t *heap;                  /* [capacity] slots, none less than those at 2i + 1 and 2i + 2 */
    uint32_t *table;                 /* [table_mask + 1] slots plus 1 by hash, open addressing; 0: free */
    uint64_t table_mask;
};

/* No memory is taken for rows before they come. */
void awqi_row_sample_init(struct awqi_row_sample *sample, awq_context *context, int64_t channels, uint32_t limit,
                          uint64_t seed);
void awqi_row_sample_clear(struct awqi_row_sample *sample);

/* Mix values into a row's hash, in parts of which all but the last have an even number of them. */
uint64_t awqi_row_hash_add(uint64_t hash, const float *values, int64_t count);

/* Make room for 'additional' more offers; what is kept does not change.  Offers themselves cannot fail. */
awq_status awqi_row_sample_reserve(struct awqi_row_sample *sample, int64_t additional);

/* Whether an offer of a row with that hash could be kept: spares making the row ready. */
bool awqi_row_sample_wants(const struct awqi_row_sample *sample, uint64_t hash);
void awqi_row_sample_offer(struct awqi_row_sample *sample, uint64_t hash, const float *row);

/* A row of memory to prepare an offer in.  NULL before anything is reserved. */
float *awqi_row_sample_scratch(struct awqi_row_sample *sample);

/* Put rows[count][channels] in the order of (hash, contents). */
void awqi_row_sample_sort(struct awqi_row_sample *sample);

/* Take the first 'count' slots, whose rows the caller has written in that order; reserved before, nothing kept yet.
 * AWQ_ERROR_FORMAT, and nothing kept, for a row that is not finite or not after the one before. */
awq_status awqi_row_sample_restore(struct awqi_row_sample *sample, uint32_t count);

#endif /* AWQI_ROW_SAMPLE_H */
