/* What the files of `awq evaluate` share: its options, the windows it reads, the models it runs, what it measures. */
#ifndef AWQ_APP_EVALUATION_H
#define AWQ_APP_EVALUATION_H

#include <jansson.h>

#include "context.h"
#include "model.h"
#include "npy_writer.h"
#include "tokens.h"

enum { MAX_CONTEXTS = 16 };

/* What a model must reach against its reference; 0: no such threshold. */
struct thresholds {
    double max_kl, max_perplexity_ratio, min_top1;
};

struct evaluate_options {
    const char *model, *against, *text, *tokens, *tasks, *contexts, *logits, *tuning;
    int64_t stride, limit;
    struct thresholds thresholds;
    struct placement placement;
    bool no_fuse, json;
};

/* ---- evaluate_windows.c: what is read, and how it is cut */

/* Window i feeds the tokens from begin on and predicts the one after each. */
struct window {
    int64_t begin; /* in the ids of 'rows' */
    int64_t length;
    int64_t first_counted; /* targets before this one were counted in an earlier window */
};

struct windows {
    struct token_rows rows;
    struct window *list;
    int64_t count;
    int64_t context, stride;
    int64_t inputs, counted;
};

bool windows_read(const struct evaluate_options *options, int64_t vocabulary, struct windows *windows);

/* Cut what was read into windows of 'length' tokens, 0 for the standard, where models take at most 'limit'. */
bool windows_cut(const struct evaluate_options *options, int64_t length, int64_t limit, struct windows *windows);

void windows_free(struct windows *windows);

/* ---- evaluate_run.c: running models over windows */

/* A model and the room it runs in. */
struct runner {
    struct model *model;
    struct session *session;
    float *hidden; /* [batch rows][hidden] */
    float *logits; /* [chunk rows][vocabulary] */
    double seconds;
    int64_t tokens;
};

/* What windows of one length gave. */
struct measure {
    int64_t context, stride, windows, tokens;
    double loss, tokens_per_second, seconds;
    /* Against the reference, if there is one. */
    double reference_loss, kl, kl_p99, top1, top5;
};

/* What tasks gave. */
struct task_scores {
    int64_t tasks, solved, reference_solved;
};

struct evaluation {
    const struct evaluate_options *options;
    awq_context *context;
    struct windows windows;
    struct runner model, reference; /* reference.model is NULL without --against */
    int64_t limit;                  /* tokens that both take */
    int64_t contexts[MAX_CONTEXTS]; /* lengths to measure */
    int context_count;
    struct measure measures[MAX_CONTEXTS];
    int measured;
    struct task_scores tasks;
};

/* Room for 'rows' of the model's, or for what they give; false after a message. */
bool evaluate_allocate(awq_context *context, int64_t rows, int64_t columns, float **values);

/* Free all but the model. */
void runner_release(struct runner *runner);

/* Measure with the windows that were cut. */
bool evaluate_windows(struct evaluation *evaluation, struct measure *measure);

/* ---- evaluate_tasks.c: prompts, and the text that should follow each */

bool evaluate_tasks(struct evaluation *evaluation);

/* ---- evaluate_verdict.c: thresholds */

/* How many were missed: a message for each, in 'missed' too where that is not NULL. */
int evaluate_verdict(const struct evaluation *evaluation, json_t *missed);

/* ---- evaluate_report.c */

bool evaluate_print_json(const struct evaluation *evaluation, json_t *missed);
void evaluate_print_text(const struct evaluation *evaluation);

#endif
