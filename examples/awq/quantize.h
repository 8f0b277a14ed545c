/* What the files of `awq quantize` share.
 *
 * quantize.c has the options, quantize_method.c what they come to, quantize_model.c the way through a model,
 * quantize_block.c takes one block from float to quantised, quantize_search.c calibrates and searches for it,
 * quantize_exclude.c says what is left out, quantize_salient.c which channels are salient, quantize_memory.c what it
 * takes, hf_output.c writes the result, journal.c keeps what is finished, quantize_report.c says what came of it.
 *
 * Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_QUANTIZE_H
#define AWQ_APP_QUANTIZE_H

#include "cli.h"
#include "model.h"
#include "progress.h"
#include "statistics.h"
#include "tokens.h"

/* What becomes of an expert that too few tokens of the calibration were sent to: its down, for which there is nothing
 * to search scales and ranges with, is rounded to nearest; or all of it stays float; or quantising ends. */
enum { FALLBACK_RTN, FALLBACK_FLOAT, FALLBACK_STOP };

/* How to quantise. */
struct quantize_settings {
    awq_quantize_options quantizer; /* bits, group size, symmetry, profile, scale dtype, ranges, rounding, salience */
    int32_t layout;                 /* AWQ_LAYOUT_*; 0: float weights, scaled and clipped */
    bool search;                    /* search column scales */
    bool clip;                      /* search clipping ranges */
    bool scale_output;              /* search o too, and fold its scales into v */
    bool through_quantized;         /* calibrate each block with what the quantised ones before it give */
    int32_t scales;                 /* AWQ_SCALES_* */
    double smooth_factor;
    int64_t search_tokens;          /* that candidates are tried on, about */
    uint64_t seed;                  /* of the choice of those */
    int64_t expert_tokens;          /* that an expert has to see to be calibrated; */
    int expert_fallback;            /* FALLBACK_*: what becomes of it otherwise */
    double salient_scale;           /* of a study: salient channels are multiplied by this and rounded like the others,
                                     * instead of staying in FP16; 0: they stay */
};

/* How, by name: each a place in the list of its option; 0 is auto, or the default preset. */
struct quantize_choice {
    int preset, method, range, rounding, duo, profile;
};

/* What was asked for. */
struct quantize_request {
    const char *model, *out;
    const char *calib, *stats; /* text, or what `awq calibrate` made of it: one at most */
    int64_t samples, length; /* windows of the calibration data, and tokens in each */
    struct cli_list exclude;
    struct placement placement;
    bool replace, resume, json, quiet, verbose;
    struct quantize_settings settings;
};

/* What became of the linears that share an input. */
struct group_report {
    bool searched;
    int32_t scales; /* AWQ_SCALES_*, of the best candidate */
    double alpha;
    double loss, loss_identity; /* mean squared error of what it was judged by: with the scales, and without */
};

struct linear_report {
    bool quantized;
    bool clipped; /* a clip search was made */
    int64_t groups, clipped_groups;
    double clip_loss, clip_loss_unclipped;
    uint64_t zero_groups, clamped_scales;
    /* With salient_scale: groups whose own scale it changed, and the sum over all groups of the ratio of after and
     * before. */
    int64_t changed_scales;
    double scale_ratios;
};

struct block_report {
    struct group_report *group;   /* [block_points] */
    struct linear_report *linear; /* [block_linears] */
    int64_t *expert_tokens;       /* [block_mlps]: of the calibration, that the router sent to each */
    bool *expert_scarce;          /* [block_mlps]: those were too few */
};

bool block_report_create(const struct model_config *config, struct block_report *report);
void block_report_free(struct block_report *report);

/* How many linears take the input at 'point', and the index'th of them. */
int point_linears(const struct model_config *config, int point);
int point_linear(int point, int index);
int point_of_linear(int linear);

/* How long that input is. */
int64_t point_inputs(const struct model_config *config, int point);

/* "q k v", "o", "gate up", "down". */
const char *point_name(int point);

/* Quantising one model. */
struct quantize_job {
    const struct quantize_request *request;
    const struct quantize_settings *settings; /* the request's */
    awq_context *context; /* where to compute, */
    awq_context *host;    /* and the processor; the same one without --device cuda */
    struct model_config config;
    awq_checkpoint *source;
    awq_checkpoint_writer *writer;
    bool *excluded;               /* [layers][block_linears]: linears left as they are, or that there are not */
    struct block_report *reports; /* [layers] */
    struct progress progress;

    /* Calibration; none of it without quantize_calibrates. */
    struct token_rows windows;
    awq_archive *archive;    /* with request->stats: what the statistics are read from, */
    json_t *provenance;      /* where they come from, */
    int64_t archive_rows;    /* and how many rows of each input were sampled */
    float *hidden;           /* [windows.rows][windows.columns][config.hidden]: the input of the next block */
    struct session *session; /* for chunk_sequences windows at once */
    int64_t chunk_sequences;
    int64_t *counts;         /* [chunk_sequences], each windows.columns */

    int64_t source_weights;
    uint64_t source_bytes, output_bytes; /* of all tensors */
    uint64_t estimated_bytes, peak_bytes;
    double seconds;
};

/* Whether a linear is one that is quantised. */
static inline bool job_quantizes(const struct quantize_job *job, int64_t layer, int linear)
{
    return !job->excluded[layer * block_linears(&job->config) + linear];
}

/* ---- quantize_method.c */

/* Whether text has to be run through the model. */
bool quantize_calibrates(const struct quantize_request *request);

/* Fill in what the choice decides: search, clip, scales, and the quantiser's profile, range and rounding. */
void quantize_choose(const struct quantize_choice *choice, struct quantize_settings *settings);

/* "awq+gptq", "search", "descent". */
const char *quantize_method_name(const struct quantize_settings *settings);
const char *quantize_range_name(const struct quantize_settings *settings);
const char *quantize_rounding_name(const struct quantize_settings *settings);

/* ---- quantize_model.c */

/* What salient_scale did to the scales of the groups, over the whole model. */
struct scale_summary {
    int64_t groups, changed;
    double ratios; /* the sum over the groups of the ratio of after and before */
};

/* Returns an exit code.  'summary' may be NULL. */
int quantize_model(const struct quantize_request *request, struct scale_summary *summary);

/* Steps of it that `awq calibrate` takes too: open the contexts (files, folding and packing are the processor's,
 * whatever computes); open the model that is asked for and check all its tensors; read and cut the calibration data;
 * take memory to run job->windows in; let job->hidden be them as the first block sees them; give back everything but
 * the windows. */
bool job_open_contexts(struct quantize_job *job);
bool job_open_model(struct quantize_job *job);
bool job_read_windows(struct quantize_job *job);
bool job_prepare(struct quantize_job *job);
bool job_embed(struct quantize_job *job);
void job_clear(struct quantize_job *job);

/* The host's memory that contexts had at most. */
bool job_context_peak(const struct quantize_job *job, uint64_t *peak);

/* ---- quantize_block.c */

/* Memory of a block's tensors that had to change, and so became copies. */
struct block_copies {
    void **memory;
    size_t count, room;
};

/* Let *view be a contiguous, writable copy of what it shows, of another dtype perhaps. */
bool block_copy(awq_context *context, struct block_copies *copies, int32_t dtype, awq_tensor *view);
void block_copies_free(awq_context *context, struct block_copies *copies);

/* Quantise the linears of one block that are not excluded.  Their places in 'weights' then hold quantised weights; what
 * scales were folded into points into 'copies', to be freed by the caller.  Calibration activations move on to the
 * next block. */
bool block_quantize(struct quantize_job *job, struct block_weights *weights, struct block_copies *copies,
                    struct block_report *report);

/* ---- quantize_search.c */

/* What calibration and search found for one input of linears.  Where nothing is to be quantised, or an expert saw too
 * few tokens, there is none of it. */
struct point_statistics {
    awq_calibration *calibration;
    awq_search *search; /* finished, over the linears that are quantised; NULL: not searched */
};

/* statistics[block_points]: run the calibration windows through the block as it is, and search scales as the settings
 * say.  The activations move on to the block's output, unless they go through quantised blocks. */
bool block_search(struct quantize_job *job, const struct block_weights *weights, struct point_statistics *statistics,
                  struct block_report *report);
void point_statistics_clear(struct point_statistics *statistics);

/* A part of one block's work, in hundredths: [first, last).  job_part_update is an awq_progress_callback. */
struct job_part {
    struct quantize_job *job;
    int64_t layer;
    int first, last;
};
int32_t job_part_update(void *part, uint64_t done, uint64_t total);

/* Run all calibration windows through a block.  With 'advance' its outputs take their place. */
bool job_forward(struct quantize_job *job, const struct block *block, bool advance, struct job_part *part,
                 block_tap tap, void *tap_data);

/* How much of the calibration is kept to compare outputs on: whole windows, for attention; sampled rows of the input at
 * each point; and the larger number of rows that makes. */
int64_t compared_windows(const struct quantize_job *job);
int64_t sampled_rows(const struct quantize_job *job);
int64_t compared_rows(const struct quantize_job *job);

/* ---- quantize_salient.c */

/* *importance is the mean |x| of each channel, [channels], by which salient ones are chosen; freed with
 * awq_context_free. */
bool salient_importance(awq_context *context, const awq_calibration *calibration, float **importance);

/* With settings->salient_scale: a weight whose salient channels, as 'options' choose them, are multiplied by that and
 * divided again at run time. */
awq_status salient_quantize_scaled(const struct quantize_job *job, const awq_tensor *w,
                                   const awq_quantize_options *options, awq_weight **weight,
                                   struct linear_report *report);

/* ---- quantize_memory.c */

/* Bytes of the model's files that are in memory at once: those of a block, or of the largest tensor outside blocks. */
uint64_t mapped_bytes(const struct quantize_job *job);

/* Bytes that the context will hold at most, from the shapes alone; needs job->windows where there is calibration. */
uint64_t estimate_memory(const struct quantize_job *job);

/* The same for calibrating alone, with matrices X^T X or without; how much of it goes with the number of windows is in
 * *window_bytes, for each. */
uint64_t estimate_calibration(const struct quantize_job *job, bool gram, uint64_t *window_bytes);

/* What a session for the calibration needs. */
struct session_options calibration_session(const struct quantize_job *job);

/* ---- hf_output.c */

/* Whether a model may be written to 'out': it is new, or may be replaced, and not 'model' itself. */
bool output_check(const char *model, const char *out, bool replace);

/* A file of the model's directory.  One that is no regular file is left out. */
bool output_copy_file(awq_checkpoint_writer *writer, const char *directory, const char *name);

/* All files beside the weights and what describes them: tokenizer, generation config, chat template, .. */
bool output_copy_files(awq_checkpoint_writer *writer, const char *directory);

/* A file of JSON. */
bool output_json(awq_checkpoint_writer *writer, const char *name, const json_t *json);

/* config.json with its quantization_config.  'excluded' as in struct quantize_job. */
bool output_config(awq_checkpoint_writer *writer, const struct model_config *config,
                   const struct quantize_settings *settings, const bool *excluded);

/* All tensors of the checkpoint but those that output_block writes; *bytes grows by what they take. */
bool output_other_tensors(awq_checkpoint_writer *writer, const awq_checkpoint *source,
                          const struct model_config *config, uint64_t *bytes);

/* Whether output_block writes a tensor of this name, or what became of it. */
bool output_is_of_block(const char *name, const struct model_config *config);

/* The norms and linears of one block. */
bool output_block(awq_context *context, awq_checkpoint_writer *writer, const struct model_config *config,
                  int32_t layout, const struct block_weights *weights, uint64_t *bytes);

/* ---- quantize_exclude.c */

/* Whether all are regular expressions; the first that is not is named in 'message'. */
bool exclude_check(const struct cli_list *patterns, char *message, size_t size);

/* excluded[layers][block_linears]: whether a pattern is found in the linear's name, or there is no such linear.  A
 * pattern found in none is warned of. */
bool exclude_linears(const struct cli_list *patterns, const struct model_config *config, bool *excluded);

/* Where those are to stay float: the experts that the layer's report calls scarce. */
void exclude_scarce_experts(struct quantize_job *job, int64_t layer);

/* ---- quantize_report.c: on stdout */

/* 'finished' blocks were found in a journal. */
void report_plan(const struct quantize_job *job, int64_t finished);
void report_block(const struct quantize_job *job, int64_t layer);
void report_result(const struct quantize_job *job);

/* How many tokens experts saw, and on stderr what became of those that saw too few. */
void report_experts(const struct quantize_job *job);
bool report_json(const struct quantize_job *job);

#endif
