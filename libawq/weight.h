/* The inside of awq_weight, shared by those who make, lay out and prepare weights. */
#ifndef AWQI_WEIGHT_H
#define AWQI_WEIGHT_H

#include "internal.h"

/* Everything a group quantiser depends on, resolved from awq_quantize_options. */
struct awqi_quantizer {
    int32_t bits;
    int32_t profile;
    int32_t scale_dtype;
    uint32_t flags;     /* AWQ_QUANTIZE_SYMMETRIC, if anything */
    int64_t group_size; /* >= 1; K for AWQ_GROUP_PER_ROW */
};

struct awq_weight {
    awq_context *context;
    int64_t n, k, group_size, groups; /* groups = ceil(k / group_size) */
    int32_t bits;
    int32_t scale_dtype;
    bool symmetric;
    int64_t parts;
    uint64_t clamped_scales, zero_groups;
    /* Codes are a little-endian bit stream along k, lowest bits first; each row begins at a byte. */
    uint64_t row_bytes; /* ceil(k * bits / 8) */
    uint8_t *codes;     /* [n][row_bytes] */
    void *scales;       /* [n][groups], scale_dtype */
    uint8_t *zeros;     /* [n][groups]; NULL when symmetric */
    float *input_scale; /* [k]; NULL when there is none */
    /* Columns with a value in FP16, which is added to (q - z) s. */
    int64_t salient_count;
    int32_t *salient_columns; /* [salient_count], ascending; NULL when there are none */
    uint16_t *salient_values; /* [n][salient_count] */
};

/* Resolve and check options for a weight of k inputs. */
awq_status awqi_quantizer_resolve(const awq_quantize_options *options, int64_t k, struct awqi_quantizer *quantizer);

/* An uninitialised weight with room for its planes; 'with_input_scale' allocates that too. */
awq_status awqi_weight_allocate(awq_context *context, int64_t n, int64_t k, const struct awqi_quantizer *quantizer,
                                bool with_input_scale, awq_weight **weight);

/* codes[count] of row 'row' from input 'first' on, one per byte: 0 .. 2^bits - 1, also when symmetric.  A part that is
 * set begins and ends at a multiple of 8 inputs, where a byte does, or ends with the row. */
void awqi_weight_get_codes(const awq_weight *weight, int64_t row, int64_t first, int64_t count, uint8_t *codes);
void awqi_weight_set_codes(awq_weight *weight, int64_t row, int64_t first, int64_t count, const uint8_t *codes);

/* The scales [groups] of a row, in scale_dtype. */
void *awqi_weight_scales(const awq_weight *weight, int64_t row);

/* Scale in single precision, and zero point (2^(bits - 1) when symmetric), of group 'group' of row 'row'. */
float awqi_weight_scale(const awq_weight *weight, int64_t row, int64_t group);
int32_t awqi_weight_zero(const awq_weight *weight, int64_t row, int64_t group);

/* ---- salient.c: salient columns of a weight that has none yet; after a failure it is good for nothing but destroying */

/* Room for 'count' of them, uninitialised. */
awq_status awqi_weight_add_salient(awq_weight *weight, int64_t count);

/* Those of columns I32 [S] and values F16 [n][S], both NULL for none: checked. */
awq_status awqi_weight_set_salient(awq_weight *weight, const awq_tensor *columns, const awq_tensor *values);

/* Those of 'from' in the rows and columns from 'first_row' and 'first_column' on that 'to' has. */
awq_status awqi_weight_slice_salient(const awq_weight *from, int64_t first_row, int64_t first_column, awq_weight *to);

/* Those of weights whose rows 'to' has one after the other: a column that is not salient in all of them has the value 0
 * where it is not. */
awq_status awqi_weight_stack_salient(size_t count, const awq_weight *const *weights, awq_weight *to);

/* ---- */

/* 'step', which is not 0, rounded to the dtype it is stored in, where it never becomes 0 nor infinite: every code would be
 * lost then. */
float awqi_weight_stored_scale(int32_t dtype, float step);

/* AWQ_ERROR_INVALID or AWQ_ERROR_NON_FINITE unless 'scale' is F32 [k] and all positive and finite. */
awq_status awqi_check_input_scale(const awq_tensor *scale, int64_t k);

#endif /* AWQI_WEIGHT_H */
