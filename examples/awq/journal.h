/* A journal of quantising, beside the output: what lets a run that was killed go on where it was.
 *
 * OUT.journal is a directory:
 *
 *     key                 what decides the result: program, model, settings, data
 *     block-00007/        model.safetensors with the tensors of a finished block in the order of the output, and
 *                         its report
 *     activations-00007/  the calibration's activations after that block
 *     finished            the output is complete and about to take its name
 *
 * Each of the directories appears in one rename, after its files are on the disk, activations before their block.
 * Only the last activations are kept.  One run uses a journal at a time.
 *
 * Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_JOURNAL_H
#define AWQ_APP_JOURNAL_H

#include "quantize.h"

struct journal {
    char *path;     /* OUT.journal */
    int fd;         /* of the key, which is locked; -1: none */
    int64_t blocks; /* finished, from the first on */
    bool finished;
};

/* Open the journal of job->request->out, or begin one.  The job's model and calibration data are read.  Fails where
 * the one that is there belongs to other settings, another model or other data, or to a run that goes on.  What a
 * killed run left half done is removed. */
bool journal_open(const struct quantize_job *job, struct journal *journal);
void journal_close(struct journal *journal);

/* Add block 'layer', and the activations that go on from it. */
bool journal_add(const struct quantize_job *job, struct journal *journal, const struct block_weights *weights);

/* Write a finished block's tensors to the job's output, and restore its report. */
bool journal_replay(struct quantize_job *job, const struct journal *journal, int64_t layer);

/* Let job->hidden be what goes on from the last finished block. */
bool journal_restore(struct quantize_job *job, const struct journal *journal);

/* Before the output takes its name; and after. */
bool journal_mark_finished(struct journal *journal);
bool journal_remove(struct journal *journal);

#endif
