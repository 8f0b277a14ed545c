/* What the files of `awq study` share.
 *
 * study.c has the options and the place to work in; study_salient.c and study_scale.c are the studies, after section 3
 * of the AWQ paper (arXiv 2306.00978).  A setting is tried as a user would: 'awq quantize' into a temporary directory,
 * then 'awq evaluate' of that. */
#ifndef AWQ_APP_STUDY_H
#define AWQ_APP_STUDY_H

#include <jansson.h>
#include <limits.h>

#include "evaluate.h"
#include "quantize.h"

struct study_options {
    const char *name, *model, *text, *calib;
    int bits;
    int64_t group_size, samples, length, context, seed;
    struct placement placement;
    bool symmetric, json;
};

struct study {
    const struct study_options *options;
    char directory[PATH_MAX]; /* for quantised models; "": none yet */
};

/* Rounding to nearest as the options say, into a layout that holds salient channels and input scales. */
struct quantize_settings study_settings(const struct study *study);

/* Quantise the model so and evaluate what comes of it against the model.  'summary' may be NULL. */
bool study_try(struct study *study, const struct quantize_settings *settings, struct scale_summary *summary,
               struct evaluate_result *result);

/* The model as it is. */
bool study_original(struct study *study, struct evaluate_result *result);

/* A new object with what the options say; NULL when memory gave out. */
json_t *study_json(const struct study *study, int64_t tokens);

/* Print an object on stdout and release it; NULL is out of memory. */
bool study_print_json(json_t *json);

/* "examples/model, INT3, groups of 128, ..": the first line of a report. */
void study_print_head(const struct study *study, const char *what);

bool study_salient(struct study *study);
bool study_scale(struct study *study);

#endif
