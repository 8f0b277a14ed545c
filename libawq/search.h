/* What the parts of the search share, and what quantisation reads of a finished one. */
#ifndef AWQI_SEARCH_H
#define AWQI_SEARCH_H

#include "internal.h"

/* ---- search.c */

/* AWQ_ERROR_STATE unless 'search' has a result, AWQ_ERROR_INVALID unless its scales are for 'inputs' channels. */
awq_status awqi_search_check(const awq_search *search, int64_t inputs);

/* The best scales [K], or NULL while there is no result; valid until the search runs again or is destroyed. */
const float *awqi_search_scales(const awq_search *search);

/* The quantiser that was searched for: a whole struct of this version, without input_scale and clip. */
const awq_quantize_options *awqi_search_quantize_options(const awq_search *search);

/* What the search goes by; NULL for no search. */
const awq_calibration *awqi_search_calibration(const awq_search *search);

/* Import 'given' (NULL: all defaults) and let the fields it leaves at zero take the values of 'search', when that is
 * not NULL; flags are united.  *options is a whole struct of this version. */
awq_status awqi_search_merge_options(const awq_search *search, const awq_quantize_options *given,
                                     awq_quantize_options *options);

/* Ties of grouped-query attention over 'inputs' channels: tie_copies * tie_width divides them, or both are 0.
 * 'type' names the options in the error. */
awq_status awqi_check_ties(int64_t tie_copies, int64_t tie_width, int64_t inputs, const char *type);

/* ---- candidate.c: the scales that a search tries */

enum { AWQI_SCALES_IDENTITY = -1 }; /* beside AWQ_SCALES_PLAIN and AWQ_SCALES_DUO */

struct awqi_candidates {
    int64_t channels;
    double *importance;    /* [channels], smoothed and tied */
    double *weight_mean;   /* [channels], tied; NULL when DUO is not tried */
    double *work;          /* [channels] */
    int32_t normalization; /* AWQ_NORMALIZE_* */
    int32_t scale_dtype;   /* the scales are rounded to this */
    bool skip_dead;        /* channels of importance 0 keep s = 1 and take no part in the normalisation */
};

/* importance = (1 - f) mean|x_j| + f mean over j of mean|x_j|: values[count] holds the mean|x_j|, then the result. */
void awqi_smooth_importance(double *values, int64_t count, double smooth_factor);

/* Replace the values of tied channels by their mean. */
void awqi_tie_values(double *values, int64_t count, int64_t tie_copies, int64_t tie_width);

/* mean[k]: for each input the mean over the outputs of all weights of |w| / (max|w| of its group + 1e-6).  The weights
 * lie where the context computes. */
awq_status awqi_weight_mean(awq_context *context, const awq_tensor *weights, int64_t count, int64_t group_size,
                            double *mean);

/* scales[channels] of the candidate (kind, alpha): positive and finite. */
void awqi_candidate_scales(const struct awqi_candidates *candidates, int32_t kind, double alpha, float *scales);

/* ---- gram.c */

/* The F32 matrix root[n][n], upper triangular with zeros below, for which root^T root = gram, a symmetric positive
 * semi-definite matrix [n][n] whose lower triangle is read and overwritten.  For any e, |root e|^2 = e^T gram e: where
 * only that matters, a few rows stand for any number of them. */
void awqi_gram_root(awq_context *context, double *gram, int64_t n, float *root);

#endif /* AWQI_SEARCH_H */
