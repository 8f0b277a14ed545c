/* Statistics of a model's activations in a file: what `awq calibrate` finds, `awq merge` adds up and `awq quantize
 * --stats` goes by.
 *
 * The file is an archive of the library's (awq_archive).  It holds the calibration of each input of linears; the
 * windows of token ids that attention is compared on, as rows of a calibration of their own; and as its provenance a
 * JSON object that says which model and which text they come from:
 *
 *     {"model": "3f0c..", "model_type": "llama", "layers": 32, "mlps": 1, "window_tokens": 512,
 *      "sources": [{"name": "text.txt", "data": "90ab..", "of": 128, "windows": [[0, 128]]}]}
 *
 * 'model' tells models apart; 'data' texts, as they were cut into 'of' windows; 'windows' are the ranges of these
 * that were observed.  What was found in parts and merged is, byte for byte, what would have been found at once:
 * calibrations are trimmed (awq_calibration_trim) every 'chunk' of windows, and nothing else depends on how data was
 * divided.
 *
 * Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_STATISTICS_H
#define AWQ_APP_STATISTICS_H

#include <jansson.h>

#include "model.h"
#include "tokens.h"

/* The calibration of the windows' token ids. */
#define STATISTICS_WINDOWS "windows"

/* That of the input at 'point': "layers.7.gate_up", "layers.7.down.0" of the block's first MLP. */
void statistics_name(int64_t layer, int point, char name[TENSOR_NAME_SIZE]);

/* The calibrations that an archive of that provenance holds, and the windows: names in the order of the file; NULL past
 * the last. */
const char *statistics_name_at(const json_t *provenance, int64_t index, char name[TENSOR_NAME_SIZE]);

/* FNV-1a of 64 bits, which begins with the first of these; and its 16 digits. */
#define FINGERPRINT_START UINT64_C(0xcbf29ce484222325)
uint64_t fingerprint_bytes(uint64_t fingerprint, const void *bytes, size_t size);
json_t *fingerprint_json(uint64_t fingerprint);

/* From the shapes and the first bytes of all tensors. */
bool model_fingerprint(const awq_checkpoint *checkpoint, uint64_t *fingerprint);

/* Windows [first, last) of 'windows', cut from the file of that path; NULL after a message. */
json_t *provenance_create(const struct model_config *config, uint64_t fingerprint, const char *path,
                          const struct token_rows *windows, int64_t first, int64_t last);

/* What an archive says; 'path' names it in messages.  NULL after a message, also for an archive of another kind. */
json_t *provenance_read(const awq_archive *archive, const char *path);

/* Add the sources of 'other', which comes from the archive at 'path'.  Fails for another model or length of windows,
 * and for windows that were observed already. */
bool provenance_merge(json_t *provenance, const json_t *other, const char *path);

/* As text, for free(); NULL after a message. */
char *provenance_text(const json_t *provenance);

/* How many windows were observed, of all sources. */
int64_t provenance_windows(const json_t *provenance);

/* Whether the statistics are those of this model. */
bool provenance_check_model(const json_t *provenance, const char *path, const struct model_config *config,
                            uint64_t fingerprint);

/* The windows that were kept, as token ids, in an order that depends on nothing but which they are. */
bool statistics_windows(const awq_archive *archive, const char *path, int64_t vocabulary, struct token_rows *windows);

#endif
