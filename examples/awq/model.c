/* The weights of a model: found in a checkpoint, checked, and made into linears. */
#include "session.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "progress.h"
#include "reason.h"

void block_tensor_name(const struct model_config *config, int64_t layer, const char *part, char name[TENSOR_NAME_SIZE])
{
    snprintf(name, TENSOR_NAME_SIZE, "%s.%" PRId64 ".%s", config->architecture->blocks, layer, part);
}

void block_linear_name(const struct model_config *config, int64_t layer, int linear, char name[TENSOR_NAME_SIZE])
{
    const struct architecture *names = config->architecture;
    const int mlp = linear_mlp(linear);
    char part[TENSOR_NAME_SIZE - 32];
    if (!names->experts || linear < LINEAR_GATE)
        snprintf(part, sizeof part, "%s", names->linears[linear_kind(linear)]);
    else if (mlp < config->experts)
        snprintf(part, sizeof part, "%s.%d.%s", names->experts, mlp, names->linears[linear_kind(linear)]);
    else
        snprintf(part, sizeof part, "%s.%s", names->shared_expert, names->linears[linear_kind(linear)]);
    block_tensor_name(config, layer, part, name);
}

int block_mlps(const struct model_config *config)
{
    return config->experts ? (int)config->experts + (config->shared_intermediate > 0) : 1;
}

int64_t block_mlp_width(const struct model_config *config, int mlp)
{
    return config->experts && mlp == config->experts ? config->shared_intermediate : config->intermediate;
}

int block_linears(const struct model_config *config)
{
    return mlp_linear(block_mlps(config), LINEAR_GATE);
}

int block_points(const struct model_config *config)
{
    return POINT_DOWN + block_mlps(config);
}

int block_stored_together(const struct model_config *config, int linear)
{
    return architecture_stored_together(config->architecture, linear_kind(linear));
}

bool block_has_linear(const struct model_config *config, int linear)
{
    return config->architecture->linears[linear_kind(linear)] != NULL;
}

void block_linear_shape(const struct model_config *config, int linear, int64_t *n, int64_t *k)
{
    const int64_t attention = config->heads * config->head_dim, shared = config->kv_heads * config->head_dim;
    const int64_t inner = block_mlp_width(config, linear_mlp(linear));
    const int64_t outputs[LINEAR_KINDS] = {attention, shared, shared, config->hidden, inner, inner, config->hidden};
    const int kind = linear_kind(linear);
    *n = block_has_linear(config, linear) ? outputs[kind] : 0;
    *k = kind == LINEAR_O ? attention : kind == LINEAR_DOWN ? inner : config->hidden;
}

bool block_linear_has_bias(const struct model_config *config, int linear)
{
    if (linear <= LINEAR_V) return config->qkv_bias;
    return linear == LINEAR_O ? config->output_bias : config->mlp_bias;
}

bool block_scales_pass(const struct model_config *config)
{
    return block_has_linear(config, LINEAR_GATE) || config->activation == ACTIVATION_RELU;
}

/* ---- finding tensors */

static bool has_tensor(const awq_checkpoint *checkpoint, const char *layer, const char *part)
{
    char name[TENSOR_NAME_SIZE + 32];
    awq_tensor view;
    snprintf(name, sizeof name, "%s.%s", layer, part);
    return awq_checkpoint_get(checkpoint, name, &view) == AWQ_OK;
}

/* A float tensor of the shape [rows][columns], or [columns] when rows is 0. */
static bool get_tensor(const awq_checkpoint *checkpoint, const char *name, int64_t rows, int64_t columns,
                       awq_tensor *view)
{
    char found[AWQ_MAX_DIMS * 24 + 4] = "[", expected[64];
    size_t length = 1;
    awq_status status = awq_checkpoint_get(checkpoint, name, view);
    if (status == AWQ_ERROR_NOT_FOUND) return cli_error("the checkpoint has no tensor %s", name);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    if (view->dtype != AWQ_F32 && view->dtype != AWQ_F16 && view->dtype != AWQ_BF16)
        return cli_error("%s: has dtype %s; supported are F32, F16 and BF16", name, awq_dtype_name(view->dtype));
    if (view->ndim == (rows ? 2 : 1) && view->shape[view->ndim - 1] == columns && (!rows || view->shape[0] == rows))
        return true;
    for (int i = 0; i < view->ndim; i++)
        length += (size_t)snprintf(found + length, sizeof found - length, "%s%" PRId64, i ? ", " : "", view->shape[i]);
    if (rows)
        snprintf(expected, sizeof expected, "[%" PRId64 ", %" PRId64 "]", rows, columns);
    else
        snprintf(expected, sizeof expected, "[%" PRId64 "]", columns);
    return cli_error("%s: has shape %s]; config.json makes it %s", name, found, expected);
}

/* ---- quantised linears */

static bool unpack_linear(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                          const char *name, int64_t n, int64_t k, awq_weight **weight)
{
    char reason[REASON_SIZE];
    awq_weight_info info;
    if (!config->quantization.format)
        return cli_error("%s: is quantised, but config.json does not say how", name);
    if (!linear_unpack(context, checkpoint, &config->quantization, name, weight, reason))
        return cli_error("%s: %s", name, reason);
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(*weight, &info);
    if (status == AWQ_OK && info.n == n && info.k == k) return true;
    awq_weight_destroy(*weight);
    *weight = NULL;
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    return cli_error("%s: unpacks to [%" PRId64 ", %" PRId64 "]; config.json makes it [%" PRId64 ", %" PRId64 "]", name,
                     info.n, info.k, n, k);
}

/* ---- one linear, dense or quantised: whichever tensors are there */

static bool linear_load(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                        const char *name, int64_t n, int64_t k, bool needs_bias, struct linear_weights *linear)
{
    char full[TENSOR_NAME_SIZE + 32];
    memset(linear, 0, sizeof *linear);
    snprintf(full, sizeof full, "%s.bias", name);
    if ((needs_bias || has_tensor(checkpoint, name, "bias")) && !get_tensor(checkpoint, full, 0, n, &linear->bias))
        return false;
    if (linear_is_quantized(checkpoint, name))
        return unpack_linear(context, checkpoint, config, name, n, k, &linear->quantized);
    snprintf(full, sizeof full, "%s.weight", name);
    return get_tensor(checkpoint, full, n, k, &linear->dense);
}

static void linear_weights_clear(struct linear_weights *linear)
{
    awq_weight_destroy(linear->quantized);
    memset(linear, 0, sizeof *linear);
}

/* The tensors of a norm of 'size' channels. */
static bool get_norm(const awq_checkpoint *checkpoint, const char *name, int64_t size, bool has_bias,
                     struct norm_weights *norm)
{
    char full[TENSOR_NAME_SIZE + 32];
    snprintf(full, sizeof full, "%s.weight", name);
    if (!get_tensor(checkpoint, full, 0, size, &norm->weight)) return false;
    snprintf(full, sizeof full, "%s.bias", name);
    return !has_bias || get_tensor(checkpoint, full, 0, size, &norm->bias);
}

/* The norm of a block; none when it has no name. */
static bool get_block_norm(const awq_checkpoint *checkpoint, const struct model_config *config, int64_t layer,
                           const char *part, int64_t size, struct norm_weights *norm)
{
    char name[TENSOR_NAME_SIZE];
    if (!part) return true;
    block_tensor_name(config, layer, part, name);
    return get_norm(checkpoint, name, size, config->architecture->norm == NORM_LAYER, norm);
}

/* Rows [begin, begin + count) of a view; of none, none. */
static awq_tensor slice_rows(const awq_tensor *whole, int64_t begin, int64_t count)
{
    awq_tensor part = *whole;
    if (!whole->data) return part;
    part.shape[0] = count;
    part.byte_offset += (uint64_t)(begin * whole->strides[0]) * awq_dtype_size(whole->dtype);
    return part;
}

/* 'count' linears that are stored as one, which has 'whole'. */
static bool split_linear(const struct linear_weights *whole, const char *name, size_t count, const int64_t *outputs,
                         struct linear_weights *linears)
{
    int64_t begin = 0;
    for (size_t i = 0; i < count; begin += outputs[i++]) {
        linears[i].dense = slice_rows(&whole->dense, begin, outputs[i]);
        linears[i].bias = slice_rows(&whole->bias, begin, outputs[i]);
        if (!whole->quantized) continue;
        awq_status status = awq_weight_slice(whole->quantized, AWQ_SLICE_ROWS, begin, begin + outputs[i],
                                             &linears[i].quantized);
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    }
    return true;
}

/* The linears from 'first' on that are stored together. */
static bool load_stored(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                        int first, struct block_weights *weights)
{
    const int count = block_stored_together(config, first);
    struct linear_weights whole;
    int64_t outputs[LINEAR_KINDS], rows = 0, k = 0;
    char name[TENSOR_NAME_SIZE];
    for (int i = 0; i < count; i++) {
        block_linear_shape(config, first + i, &outputs[i], &k);
        rows += outputs[i];
    }
    block_linear_name(config, weights->layer, first, name);
    if (!linear_load(context, checkpoint, config, name, rows, k, block_linear_has_bias(config, first), &whole))
        return false;
    if (count == 1) {
        weights->linear[first] = whole;
        return true;
    }
    bool ok = split_linear(&whole, name, (size_t)count, outputs, weights->linear + first);
    linear_weights_clear(&whole);
    return ok;
}

/* The weight of a linear that is never quantised; none when it has no name. */
static bool load_dense(const awq_checkpoint *checkpoint, const struct model_config *config, int64_t layer,
                       const char *part, int64_t outputs, struct linear_weights *linear)
{
    char name[TENSOR_NAME_SIZE], full[TENSOR_NAME_SIZE + 32];
    if (!part) return true;
    block_tensor_name(config, layer, part, name);
    snprintf(full, sizeof full, "%s.weight", name);
    return get_tensor(checkpoint, full, outputs, config->hidden, &linear->dense);
}

/* What only quantised models have. */
static bool find_activation_scales(const awq_checkpoint *checkpoint, const struct model_config *config, int64_t layer,
                                   awq_tensor *scales)
{
    char name[TENSOR_NAME_SIZE];
    awq_tensor view;
    if (!config->architecture->activation_scales) return true;
    block_tensor_name(config, layer, config->architecture->activation_scales, name);
    return awq_checkpoint_get(checkpoint, name, &view) != AWQ_OK ||
           get_tensor(checkpoint, name, 0, config->intermediate, scales);
}

bool block_weights_load(awq_context *context, const awq_checkpoint *checkpoint, const struct model_config *config,
                        int64_t layer, struct block_weights *weights)
{
    const struct architecture *names = config->architecture;
    struct block_weights result = {.layer = layer, .linears = block_linears(config)};
    result.linear = calloc((size_t)result.linears, sizeof *result.linear);
    if (!result.linear) return cli_error("out of memory");
    bool ok = get_block_norm(checkpoint, config, layer, names->attention_norm, config->hidden,
                             &result.attention_norm) &&
              get_block_norm(checkpoint, config, layer, names->mlp_norm, config->hidden, &result.mlp_norm) &&
              get_block_norm(checkpoint, config, layer, names->q_norm, config->head_dim, &result.q_norm) &&
              get_block_norm(checkpoint, config, layer, names->k_norm, config->head_dim, &result.k_norm);
    for (int i = 0; ok && i < result.linears; i += block_stored_together(config, i))
        ok = !block_has_linear(config, i) || load_stored(context, checkpoint, config, i, &result);
    ok = ok && find_activation_scales(checkpoint, config, layer, &result.activation_scales) &&
         load_dense(checkpoint, config, layer, names->router, config->experts, &result.router) &&
         load_dense(checkpoint, config, layer, names->shared_gate, 1, &result.shared_gate);
    if (!ok) block_weights_clear(&result);
    *weights = result;
    return ok;
}

void block_weights_clear(struct block_weights *weights)
{
    for (int i = 0; i < weights->linears; i++) linear_weights_clear(&weights->linear[i]);
    free(weights->linear);
    memset(weights, 0, sizeof *weights);
}

void block_weights_release(const awq_checkpoint *checkpoint, const struct model_config *config, int64_t layer)
{
    char prefix[TENSOR_NAME_SIZE];
    block_tensor_name(config, layer, "", prefix);
    for (int64_t i = 0; i < awq_checkpoint_count(checkpoint); i++) {
        const char *name = awq_checkpoint_name(checkpoint, i);
        if (strncmp(name, prefix, strlen(prefix)) == 0) awq_checkpoint_release(checkpoint, name);
    }
}

/* ---- preparing to run */

/* Add to each number of a vector, which may be on a GPU. */
static awq_status add_to_vector(awq_context *context, awq_tensor *vector, float added)
{
    const int64_t count = vector->shape[0];
    float *values = malloc((size_t)count * sizeof *values);
    if (!values) return AWQ_ERROR_OUT_OF_MEMORY;
    awq_tensor host;
    awq_tensor_init_1d(&host, values, AWQ_F32, count);
    awq_status status = awq_tensor_copy(context, vector, &host, NULL);
    if (status == AWQ_OK) status = awq_context_synchronize(context, NULL);
    for (int64_t i = 0; status == AWQ_OK && i < count; i++) values[i] += added;
    if (status == AWQ_OK) status = awq_tensor_copy(context, &host, vector, NULL);
    if (status == AWQ_OK) status = awq_context_synchronize(context, NULL);
    free(values);
    return status;
}

/* A float vector of the model, with 'added' to each number, as F32 in memory of the context; NULL stays NULL. */
static bool copy_vector(awq_context *context, const awq_tensor *tensor, float added, const char *what, float **values)
{
    void *memory = NULL;
    awq_tensor copy;
    *values = NULL;
    if (!tensor->data) return true;
    const int64_t count = tensor->shape[0];
    awq_status status = awq_context_allocate(context, (uint64_t)count * sizeof(float), &memory);
    *values = memory;
    if (status == AWQ_OK) {
        awq_tensor_init_1d(&copy, memory, AWQ_F32, count);
        context_own(context, &copy);
        status = awq_tensor_copy(context, tensor, &copy, NULL);
    }
    if (status == AWQ_OK && added != 0) status = add_to_vector(context, &copy, added);
    return status == AWQ_OK || cli_library_error(status, "%s", what);
}

static bool norm_create(awq_context *context, const struct model_config *config, const struct norm_weights *weights,
                        const char *what, struct norm *norm)
{
    const float added = config->architecture->norm == NORM_RMS_PLUS_ONE ? 1 : 0;
    return copy_vector(context, &weights->weight, added, what, &norm->weight) &&
           copy_vector(context, &weights->bias, 0, what, &norm->bias);
}

static void norm_clear(awq_context *context, struct norm *norm)
{
    awq_context_free(context, norm->weight);
    awq_context_free(context, norm->bias);
    memset(norm, 0, sizeof *norm);
}

bool tensor_bring(awq_context *context, const char *name, int32_t dtype, awq_tensor *tensor, void **memory)
{
    uint64_t bytes = tensor_bytes(tensor) / awq_dtype_size(tensor->dtype) * awq_dtype_size(dtype);
    *memory = NULL;
    if (!context_is_cuda(context)) return true;
    awq_status status = awq_context_allocate(context, bytes, memory);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    awq_tensor copy;
    status = awq_tensor_init(&copy, *memory, dtype, tensor->ndim, tensor->shape);
    context_own(context, &copy);
    if (status == AWQ_OK) status = awq_tensor_copy(context, tensor, &copy, NULL);
    if (status == AWQ_OK) *tensor = copy;
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

/* The biases of 'count' linears one after the other, zeros where one has none; an empty view when none has. */
static bool stack_biases(awq_context *context, const struct linear_weights *linears, size_t count,
                         const int64_t *outputs, int32_t dtype, const char *what, awq_tensor *stacked)
{
    int64_t total = 0, begin = 0;
    bool any = false;
    memset(stacked, 0, sizeof *stacked);
    for (size_t i = 0; i < count; i++) {
        total += outputs[i];
        any = any || linears[i].bias.data;
    }
    if (!any) return true;
    void *memory = NULL;
    awq_status status = awq_context_allocate(context, (uint64_t)total * awq_dtype_size(dtype), &memory);
    if (status == AWQ_OK) {
        awq_tensor_init_1d(stacked, memory, dtype, total);
        context_own(context, stacked);
    }
    for (size_t i = 0; status == AWQ_OK && i < count; begin += outputs[i++]) {
        static const float zero = 0;
        awq_tensor part = slice_rows(stacked, begin, outputs[i]), zeros;
        awq_tensor_init_const_1d(&zeros, &zero, AWQ_F32, outputs[i]);
        zeros.strides[0] = 0;
        status = awq_tensor_copy(context, linears[i].bias.data ? &linears[i].bias : &zeros, &part, NULL);
    }
    if (status == AWQ_OK) return true;
    memset(stacked, 0, sizeof *stacked);
    awq_context_free(context, memory);
    return cli_library_error(status, "%s: bias", what);
}

/* The rows of 'count' dense weights, one weight after the other, as 'dtype' and in memory of the context's. */
static awq_status stack_dense(awq_context *context, const struct linear_weights *linears, size_t count, int32_t dtype,
                              awq_tensor *stacked)
{
    int64_t rows = 0, columns = linears[0].dense.shape[1];
    uint64_t size = awq_dtype_size(dtype);
    void *memory = NULL;
    for (size_t i = 0; i < count; i++) rows += linears[i].dense.shape[0];
    awq_status status = awq_context_allocate(context, (uint64_t)rows * (uint64_t)columns * size, &memory);
    if (status != AWQ_OK) return status;
    *stacked = context_view(context, memory, dtype, rows, columns);
    for (size_t i = 0, begin = 0; status == AWQ_OK && i < count; i++) {
        awq_tensor part = slice_rows(stacked, (int64_t)begin, linears[i].dense.shape[0]);
        status = awq_tensor_copy(context, &linears[i].dense, &part, NULL);
        begin += (size_t)part.shape[0];
    }
    if (status != AWQ_OK) awq_context_free(context, memory);
    return status;
}

/* Whether 'count' linears of one input can be one. */
static bool can_join(const struct linear_weights *linears, size_t count)
{
    awq_weight_info first, other;
    awq_struct_init(&first, sizeof first);
    awq_struct_init(&other, sizeof other);
    if (linears[0].quantized && awq_weight_get_info(linears[0].quantized, &first) != AWQ_OK) return false;
    for (size_t i = 1; i < count; i++) {
        if (!linears[0].quantized != !linears[i].quantized) return false;
        if (!linears[0].quantized && linears[0].dense.dtype != linears[i].dense.dtype) return false;
        if (!linears[0].quantized) continue;
        if (awq_weight_get_info(linears[i].quantized, &other) != AWQ_OK || first.bits != other.bits ||
            first.group_size != other.group_size || first.flags != other.flags ||
            first.scale_dtype != other.scale_dtype || first.has_input_scale || other.has_input_scale)
            return false;
    }
    return true;
}

bool block_can_fuse(const struct model_config *config, const struct block_weights *weights, int first)
{
    if (first == LINEAR_Q) return can_join(weights->linear + first, 3);
    /* The library's fused linear has this activation. */
    return linear_kind(first) == LINEAR_GATE && block_has_linear(config, first) &&
           config->activation == ACTIVATION_SILU && can_join(weights->linear + first, 2);
}

static awq_status concatenate(const struct linear_weights *linears, size_t count, awq_weight **whole)
{
    const awq_weight *parts[LINEAR_KINDS];
    for (size_t i = 0; i < count; i++) parts[i] = linears[i].quantized;
    return awq_weight_concatenate(count, parts, whole);
}

bool linear_weights_join(awq_context *context, const struct linear_weights *linears, size_t count, const char *name,
                         struct joined_weights *joined)
{
    awq_status status;
    int64_t outputs[LINEAR_KINDS];
    memset(joined, 0, sizeof *joined);
    joined->borrowed = count == 1;
    if (joined->borrowed) {
        joined->whole = linears[0];
        return true;
    }
    if (linears[0].quantized) status = concatenate(linears, count, &joined->whole.quantized);
    else status = stack_dense(context, linears, count, linears[0].dense.dtype, &joined->whole.dense);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    if (!linears[0].bias.data) return true;
    for (size_t i = 0; i < count; i++) outputs[i] = linears[i].bias.shape[0];
    if (stack_biases(context, linears, count, outputs, linears[0].bias.dtype, name, &joined->whole.bias)) return true;
    joined_weights_clear(context, joined);
    return false;
}

void joined_weights_clear(awq_context *context, struct joined_weights *joined)
{
    if (!joined->borrowed) {
        awq_context_free(context, joined->whole.dense.data);
        awq_context_free(context, joined->whole.bias.data);
        linear_weights_clear(&joined->whole);
    }
    memset(joined, 0, sizeof *joined);
}

/* A GPU takes dense weights from its own memory, and multiplies them with activations of the same type. */
static awq_status make_linear(awq_context *context, const struct model_config *config,
                              const struct linear_weights *linears, size_t count, const awq_linear_options *options,
                              awq_linear **linear)
{
    awq_status status;
    bool is_cuda = context_is_cuda(context);
    if (linears[0].quantized) {
        awq_weight *whole = NULL;
        if (count == 1) return awq_linear_create(context, linears[0].quantized, options, linear);
        status = concatenate(linears, count, &whole);
        if (status == AWQ_OK) status = awq_linear_create(context, whole, options, linear);
        awq_weight_destroy(whole);
        return status;
    }
    if (count == 1 && !is_cuda) return awq_linear_create_dense(context, &linears[0].dense, options, linear);
    awq_tensor whole;
    status = stack_dense(context, linears, count,
                         is_cuda ? activation_dtype(context, config) : linears[0].dense.dtype, &whole);
    if (status != AWQ_OK) return status;
    status = awq_linear_create_dense(context, &whole, options, linear);
    awq_context_free(context, whole.data);
    return status;
}

/* One linear from 'count' that share an input. */
static bool linear_create(awq_context *context, const struct model_config *config,
                          const struct linear_weights *linears, size_t count, const int64_t *outputs, uint32_t flags,
                          const awq_tuning *tuning, const char *name, awq_linear **linear)
{
    awq_linear_options options;
    awq_tensor bias;
    if (!stack_biases(context, linears, count, outputs, AWQ_F32, name, &bias)) return false;
    awq_struct_init(&options, sizeof options);
    options.flags = flags;
    options.bias = bias.data ? &bias : NULL;
    options.tuning = tuning;
    awq_status status = make_linear(context, config, linears, count, &options, linear);
    awq_context_free(context, bias.data);
    return status == AWQ_OK || cli_library_error(status, "%s", name);
}

/* 'count' linears from 'first' on: into *fused when they can be, else each into its own place. */
static bool create_group(awq_context *context, const struct model_config *config, const struct block_weights *weights,
                         int first, size_t count, uint32_t fused_flags, bool fuse, const awq_tuning *tuning,
                         awq_linear **fused, awq_linear **apart)
{
    const struct linear_weights *linears = weights->linear + first;
    int64_t outputs[LINEAR_KINDS], k;
    char name[TENSOR_NAME_SIZE];
    for (size_t i = 0; i < count; i++) block_linear_shape(config, first + (int)i, &outputs[i], &k);
    block_tensor_name(config, weights->layer, first == LINEAR_Q ? "q, k, v" : "gate, up", name);
    if (fuse && block_can_fuse(config, weights, first))
        return linear_create(context, config, linears, count, outputs, fused_flags, tuning, name, fused);
    for (size_t i = 0; i < count; i++) {
        if (!block_has_linear(config, first + (int)i)) continue;
        block_linear_name(config, weights->layer, first + (int)i, name);
        if (!linear_create(context, config, linears + i, 1, outputs + i, 0, tuning, name, &apart[(size_t)first + i]))
            return false;
    }
    return true;
}

/* A linear that is never quantised; none where there is no weight. */
static bool create_dense(awq_context *context, const struct model_config *config, const struct linear_weights *weights,
                         const char *name, awq_linear **linear)
{
    if (!weights->dense.data) return true;
    return linear_create(context, config, weights, 1, &weights->dense.shape[0], 0, NULL, name, linear);
}

/* Models with them run where the host can write to memory of the context. */
static bool create_factors(awq_context *context, const awq_tensor *scales, const char *name, float **factors)
{
    if (!copy_vector(context, scales, 0, name, factors)) return false;
    for (int64_t i = 0; *factors && i < scales->shape[0]; i++) (*factors)[i] = 1 / (*factors)[i];
    return true;
}

bool block_create(awq_context *context, const struct model_config *config, const struct block_weights *weights,
                  bool fuse, const awq_tuning *tuning, struct block *block)
{
    struct block result = {.layer = weights->layer, .linears = block_linears(config), .mlps = block_mlps(config)};
    char name[TENSOR_NAME_SIZE];
    block_tensor_name(config, weights->layer, "norms", name);
    result.linear = calloc((size_t)(result.linears + result.mlps), sizeof *result.linear);
    if (!result.linear) return cli_error("out of memory");
    result.gate_up = result.linear + result.linears;
    bool ok = norm_create(context, config, &weights->attention_norm, name, &result.attention_norm) &&
              norm_create(context, config, &weights->mlp_norm, name, &result.mlp_norm) &&
              norm_create(context, config, &weights->q_norm, name, &result.q_norm) &&
              norm_create(context, config, &weights->k_norm, name, &result.k_norm) &&
              create_group(context, config, weights, LINEAR_Q, 3, 0, fuse, tuning, &result.qkv, result.linear) &&
              create_group(context, config, weights, LINEAR_O, 1, 0, false, tuning, NULL, result.linear);
    for (int mlp = 0; ok && mlp < result.mlps; mlp++)
        ok = create_group(context, config, weights, mlp_linear(mlp, LINEAR_GATE), 2, AWQ_LINEAR_SILU_MUL, fuse, tuning,
                          &result.gate_up[mlp], result.linear) &&
             create_group(context, config, weights, mlp_linear(mlp, LINEAR_DOWN), 1, 0, false, tuning, NULL,
                          result.linear);
    ok = ok && create_factors(context, &weights->activation_scales, name, &result.activation_factors) &&
         create_dense(context, config, &weights->router, name, &result.router) &&
         create_dense(context, config, &weights->shared_gate, name, &result.shared_gate);
    if (!ok) block_clear(context, &result);
    *block = result;
    return ok;
}

void block_clear(awq_context *context, struct block *block)
{
    for (int i = 0; i < block->linears; i++) awq_linear_destroy(block->linear[i]);
    for (int i = 0; i < block->mlps; i++) awq_linear_destroy(block->gate_up[i]);
    free(block->linear);
    awq_linear_destroy(block->qkv);
    awq_linear_destroy(block->router);
    awq_linear_destroy(block->shared_gate);
    norm_clear(context, &block->attention_norm);
    norm_clear(context, &block->mlp_norm);
    norm_clear(context, &block->q_norm);
    norm_clear(context, &block->k_norm);
    awq_context_free(context, block->activation_factors);
    memset(block, 0, sizeof *block);
}

bool block_run_weights(const struct model_config *config, const struct block_weights *weights, bool fuse,
                       awq_weight **list, size_t *count)
{
    awq_status status = AWQ_OK;
    int together;
    *count = 0;
    for (int i = 0; i < weights->linears && status == AWQ_OK; i += together) {
        const bool one = fuse && block_can_fuse(config, weights, i);
        together = !one ? 1 : i == LINEAR_Q ? 3 : 2;
        if (!weights->linear[i].quantized) continue;
        status = concatenate(weights->linear + i, (size_t)together, &list[*count]);
        if (status == AWQ_OK) ++*count;
    }
    if (status == AWQ_OK) return true;
    while (*count) awq_weight_destroy(list[--*count]);
    return cli_library_error(status, "layer %lld", (long long)weights->layer);
}

/* ---- the whole model */

static void count_tensor(struct model_sizes *sizes, const awq_tensor *tensor)
{
    if (!tensor->data) return;
    uint64_t bytes = tensor_bytes(tensor);
    sizes->total_bytes += bytes;
    sizes->total_weights += (int64_t)(bytes / awq_dtype_size(tensor->dtype));
}

static void count_norm(struct model_sizes *sizes, const struct norm_weights *norm)
{
    count_tensor(sizes, &norm->weight);
    count_tensor(sizes, &norm->bias);
}

static void count_linear(const struct linear_weights *linear, int64_t n, int64_t k, struct model_sizes *sizes)
{
    count_tensor(sizes, &linear->dense);
    count_tensor(sizes, &linear->bias);
    if (!linear->quantized) return;
    sizes->quantized_weights += n * k;
    sizes->total_weights += n * k;
}

/* The planes of a linear, if it has any. */
static void count_planes(const struct model *model, const char *name, struct model_sizes *sizes)
{
    struct linear_planes planes;
    if (!linear_is_quantized(model->checkpoint, name)) return;
    linear_planes_find(model->checkpoint, model->config.quantization.format, name, &planes);
    sizes->quantized_bytes += planes.bytes;
    sizes->total_bytes += planes.bytes;
}

static void count_block(const struct model *model, const struct block_weights *weights, struct model_sizes *sizes)
{
    const struct model_config *config = &model->config;
    char name[TENSOR_NAME_SIZE];
    count_norm(sizes, &weights->attention_norm);
    count_norm(sizes, &weights->mlp_norm);
    count_norm(sizes, &weights->q_norm);
    count_norm(sizes, &weights->k_norm);
    count_tensor(sizes, &weights->activation_scales);
    count_tensor(sizes, &weights->router.dense);
    count_tensor(sizes, &weights->shared_gate.dense);
    for (int i = 0; i < weights->linears; i++) {
        int64_t n, k;
        block_linear_shape(config, i, &n, &k);
        count_linear(&weights->linear[i], n, k, sizes);
    }
    for (int i = 0; i < weights->linears; i += block_stored_together(config, i)) {
        if (!block_has_linear(config, i)) continue;
        block_linear_name(config, weights->layer, i, name);
        count_planes(model, name, sizes);
    }
}

static bool open_block(struct model *model, int64_t layer, bool fuse)
{
    struct block_weights weights;
    if (!block_weights_load(model->context, model->checkpoint, &model->config, layer, &weights)) return false;
    count_block(model, &weights, &model->sizes);
    bool ok = block_create(model->context, &model->config, &weights, fuse, model->tuning, &model->blocks[layer]);
    block_weights_clear(&weights);
    block_weights_release(model->checkpoint, &model->config, layer);
    return ok;
}

static bool open_blocks(struct model *model, bool fuse)
{
    struct progress progress;
    bool ok = true;
    model->blocks = calloc((size_t)model->config.layers, sizeof *model->blocks);
    if (!model->blocks) return cli_error("out of memory");
    progress_begin(&progress, "Loading");
    for (int64_t layer = 0; ok && layer < model->config.layers; layer++) {
        ok = open_block(model, layer, fuse);
        if (ok && progress_update(&progress, (uint64_t)layer + 1, (uint64_t)model->config.layers))
            ok = cli_error("interrupted");
    }
    progress_end(&progress);
    return ok;
}

bool model_ends_find(const awq_checkpoint *checkpoint, const struct model_config *config,
                     struct embeddings *embeddings, struct norm_weights *norm)
{
    const struct architecture *names = config->architecture;
    char name[TENSOR_NAME_SIZE];
    memset(embeddings, 0, sizeof *embeddings);
    memset(norm, 0, sizeof *norm);
    snprintf(name, sizeof name, "%s.weight", names->embedding);
    if (!get_tensor(checkpoint, name, config->vocabulary, config->hidden, &embeddings->tokens)) return false;
    if (names->positions) {
        snprintf(name, sizeof name, "%s.weight", names->positions);
        if (!get_tensor(checkpoint, name, names->first_position + config->context, config->hidden,
                        &embeddings->positions))
            return false;
    }
    return get_norm(checkpoint, names->final_norm, config->hidden, names->norm == NORM_LAYER, norm);
}

/* The linear that logits come from. */
static bool open_head(struct model *model)
{
    const struct model_config *config = &model->config;
    const char *name = config->tied_head ? config->architecture->embedding : config->architecture->head;
    char released[TENSOR_NAME_SIZE];
    struct linear_weights head = {0};
    if (config->tied_head) {
        head.dense = model->embeddings.tokens;
    } else {
        if (!linear_load(model->context, model->checkpoint, config, name, config->vocabulary, config->hidden, false,
                         &head))
            return false;
        count_linear(&head, config->vocabulary, config->hidden, &model->sizes);
        count_planes(model, name, &model->sizes);
    }
    bool ok = linear_create(model->context, config, &head, 1, &config->vocabulary, 0, model->tuning, name,
                            &model->head);
    linear_weights_clear(&head);
    snprintf(released, sizeof released, "%s.weight", name);
    awq_checkpoint_release(model->checkpoint, released);
    return ok;
}

static bool open_ends(struct model *model)
{
    const struct architecture *names = model->config.architecture;
    struct norm_weights norm;
    if (!model_ends_find(model->checkpoint, &model->config, &model->embeddings, &norm)) return false;
    count_tensor(&model->sizes, &model->embeddings.tokens);
    count_tensor(&model->sizes, &model->embeddings.positions);
    count_norm(&model->sizes, &norm);
    return norm_create(model->context, &model->config, &norm, names->final_norm, &model->final_norm) &&
           open_head(model) &&
           tensor_bring(model->context, names->embedding, model->embeddings.tokens.dtype, &model->embeddings.tokens,
                        &model->embedding_memory);
}

bool model_check_device(const awq_context *context, const struct model_config *config)
{
    const char *lacking = steps_of(context)->lacks(config);
    return !lacking || cli_error("--device cuda: models of type %s need %s, which runs on the processor only",
                                 config->architecture->model_type, lacking);
}

bool model_open(awq_context *context, const char *directory, const struct model_options *options, struct model **model)
{
    bool fuse = !options || !options->no_fuse;
    struct model *result = calloc(1, sizeof *result);
    *model = NULL;
    if (!result) return cli_error("out of memory");
    result->context = context;
    if (!model_config_load(directory, &result->config) || !model_check_device(context, &result->config)) goto fail;
    awq_status status = awq_checkpoint_open(context, directory, &result->checkpoint);
    if (status != AWQ_OK) {
        cli_library_error(status, "%s", directory);
        goto fail;
    }
    if (options && options->tuning) status = awq_tuning_load(context, options->tuning, &result->tuning);
    if (status != AWQ_OK) {
        cli_library_error(status, "the tuning");
        goto fail;
    }
    if (!open_ends(result) || !open_blocks(result, fuse)) goto fail;
    *model = result;
    return true;
fail:
    model_close(result);
    return false;
}

void model_close(struct model *model)
{
    if (!model) return;
    for (int64_t i = 0; model->blocks && i < model->config.layers; i++) block_clear(model->context, &model->blocks[i]);
    free(model->blocks);
    awq_linear_destroy(model->head);
    awq_tuning_destroy(model->tuning);
    norm_clear(model->context, &model->final_norm);
    awq_context_free(model->context, model->embedding_memory);
    awq_checkpoint_destroy(model->checkpoint);
    model_config_clear(&model->config);
    free(model);
}
