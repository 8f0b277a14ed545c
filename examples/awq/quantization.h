/* How the linears of a checkpoint are quantised: the formats there are, what configurations say of them, and the
 * tensors of one linear.
 *
 * Functions that can fail return false when they did, and have said why. */
#ifndef AWQ_APP_QUANTIZATION_H
#define AWQ_APP_QUANTIZATION_H

#include <jansson.h>
#include <stdbool.h>

#include "awq.h"

/* Who reads a format: "quant_method" of its configuration. */
enum quantization_method { METHOD_AWQ, METHOD_GPTQ, METHOD_COMPRESSED_TENSORS, METHOD_LIBAWQ };

enum { MAX_PLANES = 7 };

struct quantized_format {
    const char *name; /* "gemm"; also what configurations call it, where they name more than the method */
    int32_t layout;   /* AWQ_LAYOUT_* */
    enum quantization_method method;
    const char *planes[MAX_PLANES + 1]; /* a linear's tensors, without its name and a dot; the first marks a linear */
    const char *zeros;                  /* the one with its zero points; NULL: they are no tensor of their own */
};

/* The names of all formats in the order of format_at, for the command line. */
#define FORMAT_NAMES \
    "gemm|gemv|gemv_fast|llm-awq|marlin|gptq|gptq_v2|compressed-tensors|compressed-tensors-2025|cuda-block|cpu-stream"

/* NULL past the last. */
const struct quantized_format *format_at(int index);

/* NULL: none. */
const struct quantized_format *format_named(const char *name);
const struct quantized_format *format_of_layout(int32_t layout);

/* "awq", "gptq", "compressed-tensors", "libawq". */
const char *method_name(enum quantization_method method);

struct quantization {
    const struct quantized_format *format; /* NULL: not quantised */
    int32_t bits;
    int64_t group_size; /* or AWQ_GROUP_PER_ROW */
    bool symmetric;     /* without zero points, or all of them in the middle; known to be so */
};

/* What the configuration in 'config' (the object of DIRECTORY/config.json, read from 'path') and the files beside it
 * say: quantization_config, also within text_config; quant_config.json and quantize_config.json. */
bool quantization_load(const char *directory, const char *path, const json_t *config,
                       struct quantization *quantization);

/* The quantization_config that the format's readers expect.  'skipped' lists the linears that stay as they are,
 * "lm_head" among them unless that is quantised.  NULL when memory gave out. */
json_t *quantization_json(const struct quantization *quantization, const json_t *skipped);

/* ---- one linear */

/* Its tensors, as far as they are there. */
struct linear_planes {
    size_t count;
    const char *names[MAX_PLANES];
    awq_tensor views[MAX_PLANES];
    const awq_tensor *pointers[MAX_PLANES];
    uint64_t bytes;
    bool has_zeros; /* zero points are among them */
};

/* Whether 'name' is that of the tensor that marks a quantised linear, "model.layers.0.mlp.up_proj.qweight"; *length is
 * then that of the linear's name. */
bool is_quantized_plane(const char *name, size_t *length);

/* Whether 'part' (without the linear's name and a dot) is what any format calls one of its tensors. */
bool is_plane_part(const char *part);

/* Whether the linear has such a tensor as marks it. */
bool linear_is_quantized(const awq_checkpoint *checkpoint, const char *linear);

void linear_planes_find(const awq_checkpoint *checkpoint, const struct quantized_format *format, const char *linear,
                        struct linear_planes *planes);

/* What the tensors of a linear look like, whatever a configuration says; 'format' is NULL when they look like nothing
 * known.  GPTQ's two formats look alike, and count as the first. */
struct quantization linear_guess(const awq_checkpoint *checkpoint, const char *linear);

/* Outputs and inputs of a linear, from the shapes of its tensors alone; false, without a message, when they do not
 * tell them. */
bool linear_shape(const awq_checkpoint *checkpoint, const struct quantization *quantization, const char *linear,
                  int64_t *n, int64_t *k);

/* Unpack one linear.  A group_size of 0 is found from the tensors where they tell it.  A failure is not printed but
 * written to 'reason' (reason.h). */
bool linear_unpack(awq_context *context, const awq_checkpoint *checkpoint, const struct quantization *quantization,
                   const char *linear, awq_weight **weight, char *reason);

/* Pack a weight and append its tensors; *bytes grows by what they take. */
bool linear_write(awq_context *context, awq_checkpoint_writer *writer, const struct quantized_format *format,
                  const char *linear, const awq_weight *weight, uint64_t *bytes);

/* Of the elements, without gaps. */
uint64_t tensor_bytes(const awq_tensor *tensor);

#endif
