/* What quantisation and the clip search read of a finished search. */
#ifndef AWQI_SEARCH_H
#define AWQI_SEARCH_H

#include "internal.h"

/* AWQ_ERROR_STATE unless 'search' has a result, AWQ_ERROR_INVALID unless its scales are for 'inputs' channels. */
awq_status awqi_search_check(const awq_search *search, int64_t inputs);

/* The best scales [K], or NULL while there is no result; valid until the search runs again or is destroyed. */
const float *awqi_search_scales(const awq_search *search);

/* The quantiser that was searched for: a whole struct of this version, without input_scale and clip. */
const awq_quantize_options *awqi_search_quantize_options(const awq_search *search);

/* Import 'given' (NULL: all defaults) and let the fields it leaves at zero take the values of 'search', when that is
 * not NULL; flags are united.  *options is a whole struct of this version. */
awq_status awqi_search_merge_options(const awq_search *search, const awq_quantize_options *given,
                                     awq_quantize_options *options);

#endif /* AWQI_SEARCH_H */
