/* Sizes of a model's parts, in its files and as it runs. */
#include "estimate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

enum {
    CPU_ROWS = 32,         /* outputs of a weight are padded to these, */
    CPU_LINE_OUTPUTS = 16, /* and its codes lie in lines of 64 bytes: 8 inputs of so many, or 4 of 8 bits */
    CPU_LINE_BYTES = 64,
    CPU_DENSE_ROWS = 384,  /* rows of activations that a product holds at once, by a dense weight */
    CPU_CODE_ROWS = 512,   /* and by a quantised one, */
    CPU_FEW_ROWS = 8,      /* or, where there are few, these */
    CUDA_BLOCK = 64        /* outputs and inputs are padded to these */
};

static int64_t round_up(int64_t value, int64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* ---- linears of the files */

/* Linears that are stored as one, or the head. */
struct stored_linear {
    char name[TENSOR_NAME_SIZE];
    int64_t n, k;
    bool quantized;
    struct linear_planes planes; /* when quantised */
    uint64_t dense_bytes;        /* as stored; when not */
    int32_t dtype;
    uint64_t salient_columns;    /* of what is quantised already */
};

static bool find_quantized(const struct estimated_model *model, struct stored_linear *linear)
{
    const struct quantization *quantization = &model->config.quantization;
    int64_t n, k;
    if (!quantization->format)
        return cli_error("%s: is quantised, but config.json does not say how", linear->name);
    linear_planes_find(model->checkpoint, quantization->format, linear->name, &linear->planes);
    if (!linear_shape(model->checkpoint, quantization, linear->name, &n, &k))
        return cli_error("%s: its tensors do not have the shapes of %s", linear->name, quantization->format->name);
    for (size_t i = 0; i < linear->planes.count; i++)
        if (strcmp(linear->planes.names[i], "salient_columns") == 0)
            linear->salient_columns = tensor_bytes(&linear->planes.views[i]) / sizeof(int32_t);
    linear->quantized = true;
    /* Layouts that pad have more outputs and inputs than the linear. */
    if (n >= linear->n && k >= linear->k) return true;
    return cli_error("%s: is [%" PRId64 ", %" PRId64 "]; config.json makes it [%" PRId64 ", %" PRId64 "]", linear->name,
                     n, k, linear->n, linear->k);
}

/* 'linear' has its name and shape. */
static bool find_linear(const struct estimated_model *model, struct stored_linear *linear)
{
    char full[TENSOR_NAME_SIZE + 16];
    awq_tensor view;
    if (linear_is_quantized(model->checkpoint, linear->name)) return find_quantized(model, linear);
    snprintf(full, sizeof full, "%s.weight", linear->name);
    awq_status status = awq_checkpoint_get(model->checkpoint, full, &view);
    if (status == AWQ_ERROR_NOT_FOUND) return cli_error("the checkpoint has no tensor %s", full);
    if (status != AWQ_OK) return cli_library_error(status, "%s", full);
    if (view.dtype != AWQ_F32 && view.dtype != AWQ_F16 && view.dtype != AWQ_BF16)
        return cli_error("%s: has dtype %s; supported are F32, F16 and BF16", full, awq_dtype_name(view.dtype));
    if (view.ndim != 2 || view.shape[0] != linear->n || view.shape[1] != linear->k)
        return cli_error("%s: has not the shape [%" PRId64 ", %" PRId64 "] that config.json makes it", full, linear->n,
                         linear->k);
    linear->dense_bytes = tensor_bytes(&view);
    linear->dtype = view.dtype;
    return true;
}

/* The linears of a layer from 'first' on that are stored together. */
static bool find_block_linear(const struct estimated_model *model, int64_t layer, int first,
                              struct stored_linear *linear)
{
    const int count = block_stored_together(&model->config, first);
    memset(linear, 0, sizeof *linear);
    for (int i = 0; i < count; i++) {
        int64_t n;
        block_linear_shape(&model->config, first + i, &n, &linear->k);
        linear->n += n;
    }
    block_linear_name(&model->config, layer, first, linear->name);
    return find_linear(model, linear);
}

static bool find_head(const struct estimated_model *model, struct stored_linear *linear)
{
    const struct model_config *config = &model->config;
    memset(linear, 0, sizeof *linear);
    linear->n = config->vocabulary;
    linear->k = config->hidden;
    snprintf(linear->name, sizeof linear->name, "%s",
             config->tied_head ? config->architecture->embedding : config->architecture->head);
    return find_linear(model, linear);
}

static void count_file(const struct stored_linear *linear, const char *zeros, struct file_sizes *files)
{
    files->dense += linear->dense_bytes;
    for (size_t i = 0; linear->quantized && i < linear->planes.count; i++) {
        const char *name = linear->planes.names[i];
        uint64_t *sum = &files->codes;
        if (zeros && strcmp(name, zeros) == 0) sum = &files->zeros;
        else if (strcmp(name, "scales") == 0 || strcmp(name, "weight_scale") == 0) sum = &files->scales;
        else if (strncmp(name, "salient", 7) == 0) sum = &files->salient;
        *sum += tensor_bytes(&linear->planes.views[i]);
    }
}

static bool count_files(struct estimated_model *model)
{
    const struct model_config *config = &model->config;
    const char *zeros = config->quantization.format ? config->quantization.format->zeros : NULL;
    struct file_sizes *files = &model->files;
    struct embeddings embeddings;
    struct norm_weights norm;
    struct stored_linear linear;
    uint64_t total = 0;
    if (!model_ends_find(model->checkpoint, config, &embeddings, &norm) || !find_head(model, &linear)) return false;
    files->embeddings = tensor_bytes(&embeddings.tokens);
    if (embeddings.positions.data) files->embeddings += tensor_bytes(&embeddings.positions);
    if (!config->tied_head) count_file(&linear, zeros, files);
    for (int64_t layer = 0; layer < config->layers; layer++)
        for (int i = 0; i < block_linears(config); i += block_stored_together(config, i)) {
            if (!block_has_linear(config, i)) continue;
            if (!find_block_linear(model, layer, i, &linear)) return false;
            count_file(&linear, zeros, files);
        }
    for (int64_t i = 0; i < awq_checkpoint_count(model->checkpoint); i++) {
        awq_tensor view;
        awq_status status = awq_checkpoint_get(model->checkpoint, awq_checkpoint_name(model->checkpoint, i), &view);
        if (status != AWQ_OK) return cli_library_error(status, "%s", awq_checkpoint_name(model->checkpoint, i));
        total += tensor_bytes(&view);
    }
    files->other = total - files->codes - files->scales - files->zeros - files->salient - files->dense -
                   files->embeddings;
    return true;
}

bool estimated_model_open(awq_context *context, const char *directory, struct estimated_model *model)
{
    memset(model, 0, sizeof *model);
    if (!model_config_load(directory, &model->config)) return false;
    awq_status status = awq_checkpoint_open(context, directory, &model->checkpoint);
    if (status == AWQ_OK) return count_files(model);
    return cli_library_error(status, "%s", directory);
}

void estimated_model_close(struct estimated_model *model)
{
    awq_checkpoint_destroy(model->checkpoint);
    model_config_clear(&model->config);
}

/* ---- weights as they run */

struct weighing {
    const struct estimated_model *model;
    const struct inference_request *request;
    struct inference_sizes *sizes;
    uint64_t widest; /* inputs of a linear */
    uint64_t last;   /* bytes of the last dense linear: of the last down */
};

/* The stream that the processor's kernels read: a header for each group, then its codes in whole lines. */
static void add_cpu_codes(const struct quantization *quantization, int64_t n, int64_t k, struct inference_sizes *sizes)
{
    const int64_t group = quantization->group_size > 0 && quantization->group_size < k ? quantization->group_size : k;
    const int64_t line = quantization->bits == 8 ? 4 : 8, rest = k % group;
    const int64_t lines = k / group * ((group + line - 1) / line) + (rest + line - 1) / line;
    const int64_t headers = round_up(n, CPU_ROWS) * (k / group + (rest > 0));
    sizes->codes += (uint64_t)(round_up(n, CPU_ROWS) / CPU_LINE_OUTPUTS * lines * CPU_LINE_BYTES);
    sizes->scales += (uint64_t)headers * 2;
    sizes->zeros += (uint64_t)headers * 2;
}

/* The layout cuda-block. */
static void add_cuda_codes(const struct quantization *quantization, int64_t n, int64_t k, struct inference_sizes *sizes)
{
    const int64_t group = quantization->group_size > 0 && quantization->group_size < k ? quantization->group_size : k;
    const int64_t width = quantization->bits == 8 ? 8 : 4, outputs = round_up(n, CUDA_BLOCK);
    const int64_t inputs = round_up(round_up(k, group), CUDA_BLOCK);
    const int64_t groups = group < k ? (inputs + group - 1) / group : 1;
    sizes->codes += (uint64_t)(outputs * inputs * width / 8);
    sizes->scales += (uint64_t)(outputs * groups) * 2;
    if (!quantization->symmetric || quantization->bits < 4) sizes->zeros += (uint64_t)(outputs * groups * width / 8);
}

static void add_dense(struct weighing *weighing, const struct stored_linear *linear)
{
    const bool is_cuda = weighing->request->device_type == AWQ_DEVICE_CUDA;
    const int64_t size = is_cuda || linear->quantized ? 2 : (int64_t)awq_dtype_size(linear->dtype);
    const uint64_t bytes = (uint64_t)((is_cuda ? linear->n : round_up(linear->n, CPU_ROWS)) * linear->k * size);
    weighing->sizes->dense += bytes;
    weighing->last = bytes;
}

static void add_quantized(struct weighing *weighing, const struct stored_linear *linear)
{
    const struct inference_request *request = weighing->request;
    const struct estimated_model *model = weighing->model;
    const bool given = model->config.quantization.format != NULL;
    const struct quantization *quantization = given ? &model->config.quantization : &request->quantization;
    uint64_t columns = linear->salient_columns;
    if (request->device_type == AWQ_DEVICE_CUDA) add_cuda_codes(quantization, linear->n, linear->k, weighing->sizes);
    else add_cpu_codes(quantization, linear->n, linear->k, weighing->sizes);
    if (!given && request->salient_fraction > 0)
        columns = larger((uint64_t)rint(request->salient_fraction * (double)linear->k), 1);
    weighing->sizes->salient += columns * ((uint64_t)round_up(linear->n, CPU_ROWS) * 2 + sizeof(int64_t));
}

/* 'candidate': a linear of a block, which the asked for format would quantise. */
static void add_linear(struct weighing *weighing, const struct stored_linear *linear, bool candidate)
{
    const bool given = weighing->model->config.quantization.format != NULL;
    weighing->widest = larger(weighing->widest, (uint64_t)linear->k);
    if (weighing->request->quantized && (given ? linear->quantized : candidate)) add_quantized(weighing, linear);
    else add_dense(weighing, linear);
}

static uint64_t sum_weights(const struct inference_sizes *sizes)
{
    return sizes->codes + sizes->scales + sizes->zeros + sizes->salient + sizes->dense + sizes->embeddings +
           sizes->other;
}

/* Bytes of what a linear added since 'before'. */
static uint64_t grown(const struct inference_sizes *sizes, uint64_t before)
{
    return sum_weights(sizes) - before;
}

/* All linears.  *idle: those of experts that no token is sent to when all are sent to the same; *block: one block. */
static bool add_linears(struct weighing *weighing, uint64_t *idle, uint64_t *block)
{
    const struct model_config *config = &weighing->model->config;
    struct stored_linear linear;
    uint64_t experts = 0;
    *block = 0;
    if (!find_head(weighing->model, &linear)) return false;
    add_linear(weighing, &linear, false);
    for (int64_t layer = 0; layer < config->layers; layer++) {
        const uint64_t begin = sum_weights(weighing->sizes);
        for (int i = 0; i < block_linears(config); i += block_stored_together(config, i)) {
            const uint64_t before = sum_weights(weighing->sizes);
            if (!block_has_linear(config, i)) continue;
            if (!find_block_linear(weighing->model, layer, i, &linear)) return false;
            add_linear(weighing, &linear, true);
            if (i >= LINEAR_GATE && linear_mlp(i) < config->experts) experts += grown(weighing->sizes, before);
        }
        *block = larger(*block, grown(weighing->sizes, begin));
    }
    *idle = config->experts ? experts / (uint64_t)config->experts *
                                  (uint64_t)(config->experts - config->experts_per_token) : 0;
    return true;
}

/* ---- what runs */

/* Rows of the largest product's activations, as its kernels hold them.  A GPU's are of 16 bits. */
static uint64_t workspace_bytes(const struct weighing *weighing, uint64_t rows)
{
    const bool quantized = weighing->sizes->codes > 0;
    if (weighing->request->device_type == AWQ_DEVICE_CUDA) return rows * weighing->widest * 2;
    const uint64_t few = smaller(rows, CPU_FEW_ROWS) * 12, dense = smaller(rows, CPU_DENSE_ROWS) * 4;
    const uint64_t codes = quantized ? smaller(rows, CPU_CODE_ROWS) * 8 : 0;
    return weighing->widest * larger(few, larger(dense, codes));
}

/* In floating point, where nothing overflows. */
static bool check_range(const struct model_config *config, const struct inference_request *request)
{
    const double wide = (double)(config->hidden + config->heads * config->head_dim + config->vocabulary) +
                        2 * (double)(config->intermediate + config->shared_intermediate + config->experts);
    const double keys = (double)config->layers * (double)(config->kv_heads * config->head_dim);
    const double bytes = 64 * (double)request->batch * ((double)(request->context + 64) * keys +
                                                        (double)(request->context + request->prompt) * wide);
    return bytes < 0x1p62 || cli_error("a batch of %" PRId64 " with a context of %" PRId64
                                       " exceeds 64 bits of bytes", request->batch, request->context);
}

static void add_session(struct weighing *weighing)
{
    const struct model_config *config = &weighing->model->config;
    const struct inference_request *request = weighing->request;
    struct inference_sizes *sizes = weighing->sizes;
    const struct session_options room = {request->batch * request->prompt, request->batch, request->context, true};
    const struct session_sizes session = session_sizes_on(request->device_type, config, &room);
    const uint64_t rows = (uint64_t)room.max_rows, batch = (uint64_t)request->batch;
    sizes->cache = session.cache;
    sizes->activations = session.activations + sizeof(float) * ((rows + batch) * (uint64_t)config->hidden +
                                                                batch * (uint64_t)config->vocabulary);
    sizes->workspace = workspace_bytes(weighing, rows);
}

/* Keys and values that a step reads of the sequences, all of which are as long as the context. */
static uint64_t read_bytes(const struct model_config *config, const struct inference_request *request)
{
    const uint64_t size = request->device_type == AWQ_DEVICE_CUDA ? 2 : sizeof(float);
    uint64_t positions = 0;
    for (int64_t layer = 0; layer < config->layers; layer++) {
        const bool windowed = config->sliding_window > 0 && layer >= config->first_windowed_layer;
        positions += (uint64_t)(windowed && config->sliding_window < request->context ? config->sliding_window
                                                                                     : request->context);
    }
    return (uint64_t)request->batch * positions * 2 * (uint64_t)(config->kv_heads * config->head_dim) * size;
}

/* Codes are unpacked on the host.  Dense linears that run as one are joined first where they will be, gate and up while
 * there is no down yet, which is half as large. */
static uint64_t loading_bytes(const struct weighing *weighing, uint64_t block)
{
    const struct model_config *config = &weighing->model->config;
    const bool is_cuda = weighing->request->device_type == AWQ_DEVICE_CUDA;
    const bool joins = block_has_linear(config, LINEAR_GATE) && config->activation == ACTIVATION_SILU;
    if (weighing->sizes->codes > 0) return is_cuda ? 0 : block;
    return is_cuda || joins ? weighing->last : 0;
}

bool estimate_inference(const struct estimated_model *model, const struct inference_request *request,
                        struct inference_sizes *sizes)
{
    struct weighing weighing = {.model = model, .request = request, .sizes = sizes};
    uint64_t idle, block;
    memset(sizes, 0, sizeof *sizes);
    if (!check_range(&model->config, request) || !add_linears(&weighing, &idle, &block)) return false;
    sizes->embeddings = model->files.embeddings;
    /* Norms and biases become F32; routers are few. */
    sizes->other = 2 * model->files.other;
    sizes->weights = sum_weights(sizes);
    add_session(&weighing);
    sizes->loading = loading_bytes(&weighing, block);
    sizes->total = sizes->weights + larger(sizes->loading, sizes->cache + sizes->activations + sizes->workspace);
    sizes->step = sizes->weights - sizes->embeddings - idle + read_bytes(&model->config, request);
    return true;
}
