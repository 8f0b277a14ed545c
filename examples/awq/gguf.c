/* awq gguf: a model of the llama family as a GGUF file, for llama.cpp. */
#include "gguf.h"

#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "gguf_vocabulary.h"
#include "progress.h"

struct options {
    const char *model, *out, *pre;
    int type, threads;
    uint64_t memory_limit;
    bool replace, quiet;
};

static const struct options defaults;

/* What --type chooses: of linears, and of the embedding and the head, which four bits hurt most. */
static const struct {
    enum gguf_type linears, ends;
    uint32_t file_type; /* as llama.cpp numbers them */
} type_choices[] = {
    {GGUF_Q4_0, GGUF_Q8_0, 2}, {GGUF_Q4_1, GGUF_Q8_0, 3}, {GGUF_Q8_0, GGUF_Q8_0, 7}, {GGUF_F16, GGUF_F16, 1}};

static const char *const linear_names[LINEAR_KINDS] = {
    [LINEAR_Q] = "attn_q",      [LINEAR_K] = "attn_k",   [LINEAR_V] = "attn_v",     [LINEAR_O] = "attn_output",
    [LINEAR_GATE] = "ffn_gate", [LINEAR_UP] = "ffn_up",  [LINEAR_DOWN] = "ffn_down"};

enum { CHUNK_ROWS = 256, NAME_SIZE = 128 };

struct export {
    const struct options *options;
    awq_context *context;
    struct model_config config;
    awq_checkpoint *checkpoint;
    struct gguf_writer *writer;
    struct progress progress;
    int64_t kept, linears; /* linears whose codes were kept; all of them */
};

/* ---- metadata */

static bool put_number(struct export *export, const char *key, int64_t value)
{
    char full[NAME_SIZE];
    snprintf(full, sizeof full, "%s.%s", export->config.architecture->gguf, key);
    return gguf_put_uint32(export->writer, full, (uint32_t)value);
}

static bool put_real(struct export *export, const char *key, double value)
{
    char full[NAME_SIZE];
    snprintf(full, sizeof full, "%s.%s", export->config.architecture->gguf, key);
    return gguf_put_float(export->writer, full, (float)value);
}

static bool put_rope(struct export *export)
{
    const struct model_config *config = &export->config;
    char key[NAME_SIZE];
    bool ok = put_number(export, "rope.dimension_count", config->head_dim) &&
              put_real(export, "rope.freq_base", config->rope_theta);
    if (!ok || config->rope_type != ROPE_LINEAR) return ok;
    snprintf(key, sizeof key, "%s.rope.scaling.type", config->architecture->gguf);
    return gguf_put_string(export->writer, key, "linear", strlen("linear")) &&
           put_real(export, "rope.scaling.factor", config->rope_factor);
}

static bool put_metadata(struct export *export)
{
    const struct model_config *config = &export->config;
    const char *architecture = config->architecture->gguf;
    char real[PATH_MAX], *name = realpath(export->options->model, real) ? basename(real) : "model";
    return gguf_put_string(export->writer, "general.architecture", architecture, strlen(architecture)) &&
           gguf_put_string(export->writer, "general.type", "model", strlen("model")) &&
           gguf_put_string(export->writer, "general.name", name, strlen(name)) &&
           gguf_put_uint32(export->writer, "general.file_type", type_choices[export->options->type].file_type) &&
           gguf_put_uint32(export->writer, "general.quantization_version", 2) &&
           put_number(export, "block_count", config->layers) && put_number(export, "context_length", config->context) &&
           put_number(export, "embedding_length", config->hidden) &&
           put_number(export, "feed_forward_length", config->intermediate) &&
           put_number(export, "attention.head_count", config->heads) &&
           put_number(export, "attention.head_count_kv", config->kv_heads) &&
           put_number(export, "attention.key_length", config->head_dim) &&
           put_number(export, "attention.value_length", config->head_dim) &&
           put_real(export, "attention.layer_norm_rms_epsilon", config->norm_epsilon) &&
           put_number(export, "vocab_size", config->vocabulary) && put_rope(export) &&
           gguf_put_vocabulary(export->writer, export->options->model, config, export->options->pre);
}

/* ---- declaring tensors */

/* Rows that do not fill blocks stay F16. */
static enum gguf_type type_for(enum gguf_type type, int64_t columns)
{
    return gguf_row_bytes(type, columns) ? type : GGUF_F16;
}

static bool has_bias(const struct export *export, int64_t layer, int linear)
{
    char name[TENSOR_NAME_SIZE + 8];
    awq_tensor view;
    block_linear_name(&export->config, layer, linear, name);
    strcat(name, ".bias");
    return awq_checkpoint_get(export->checkpoint, name, &view) == AWQ_OK;
}

static bool declare_block(struct export *export, int64_t layer)
{
    const struct model_config *config = &export->config;
    const enum gguf_type type = type_choices[export->options->type].linears;
    char name[NAME_SIZE];
    snprintf(name, sizeof name, "blk.%" PRId64 ".attn_norm.weight", layer);
    bool ok = gguf_declare(export->writer, name, GGUF_F32, 0, config->hidden);
    snprintf(name, sizeof name, "blk.%" PRId64 ".ffn_norm.weight", layer);
    ok = ok && gguf_declare(export->writer, name, GGUF_F32, 0, config->hidden);
    for (int i = 0; ok && config->architecture->q_norm && i < 2; i++) {
        snprintf(name, sizeof name, "blk.%" PRId64 ".attn_%c_norm.weight", layer, i ? 'k' : 'q');
        ok = gguf_declare(export->writer, name, GGUF_F32, 0, config->head_dim);
    }
    for (int linear = 0; ok && linear < LINEAR_KINDS; linear++) {
        int64_t n, k;
        block_linear_shape(config, linear, &n, &k);
        snprintf(name, sizeof name, "blk.%" PRId64 ".%s.weight", layer, linear_names[linear]);
        ok = gguf_declare(export->writer, name, type_for(type, k), n, k);
        if (!ok || !has_bias(export, layer, linear)) continue;
        snprintf(name, sizeof name, "blk.%" PRId64 ".%s.bias", layer, linear_names[linear]);
        ok = gguf_declare(export->writer, name, GGUF_F32, 0, n);
    }
    return ok;
}

static bool declare_all(struct export *export)
{
    const struct model_config *config = &export->config;
    const enum gguf_type ends = type_for(type_choices[export->options->type].ends, config->hidden);
    bool ok = gguf_declare(export->writer, "token_embd.weight", ends, config->vocabulary, config->hidden) &&
              gguf_declare(export->writer, "output_norm.weight", GGUF_F32, 0, config->hidden);
    if (ok && !config->tied_head)
        ok = gguf_declare(export->writer, "output.weight", ends, config->vocabulary, config->hidden);
    if (ok && config->rope_type == ROPE_LLAMA3)
        ok = gguf_declare(export->writer, "rope_freqs.weight", GGUF_F32, 0, config->head_dim / 2);
    for (int64_t layer = 0; ok && layer < config->layers; layer++) ok = declare_block(export, layer);
    return ok;
}

/* ---- rows */

/* llama.cpp turns neighbouring pairs of a head's dimensions where Hugging Face's models turn dimension i with i + d/2,
 * so rows of q and k are taken from the two halves in turn.  heads 0: as they are. */
static int64_t source_row(int64_t row, int64_t rows, int64_t heads)
{
    if (!heads) return row;
    const int64_t size = rows / heads, within = row % size;
    return row - within + within % 2 * (size / 2) + within / 2;
}

static int64_t turned_heads(const struct model_config *config, int linear)
{
    if (strcmp(config->architecture->gguf, "llama") != 0) return 0;
    return linear == LINEAR_Q ? config->heads : linear == LINEAR_K ? config->kv_heads : 0;
}

struct encoding {
    enum gguf_type type;
    int64_t columns;
    uint64_t row_bytes;
    const float *values; /* [rows][columns] */
    unsigned char *rows;
};

static void encode_row(void *data, int64_t row)
{
    const struct encoding *work = data;
    gguf_encode_row(work->type, work->values + row * work->columns, work->columns,
                    work->rows + (uint64_t)row * work->row_bytes);
}

static bool check_finite(const float *values, int64_t count, const char *name, int64_t row)
{
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]))
            return cli_error("%s: row %" PRId64 ", column %" PRId64 " is not a finite number", name, row, i);
    return true;
}

/* Rows [first, first + count) of what is written, as F32. */
static bool gather_rows(const struct export *export, const awq_tensor *tensor, int64_t heads, int64_t first,
                        int64_t count, const char *name, float *values)
{
    const int64_t rows = tensor->shape[0], columns = tensor->shape[1];
    for (int64_t i = 0; i < count; i++) {
        int64_t row = source_row(first + i, rows, heads);
        awq_tensor from, to;
        const char *data = (const char *)tensor->data + tensor->byte_offset;
        uint64_t offset = (uint64_t)(row * tensor->strides[0]) * awq_dtype_size(tensor->dtype);
        awq_tensor_init_const_1d(&from, data + offset, tensor->dtype, columns);
        awq_tensor_init_1d(&to, values + i * columns, AWQ_F32, columns);
        awq_status status = awq_tensor_copy(export->context, &from, &to, NULL);
        if (status != AWQ_OK) return cli_library_error(status, "%s", name);
        if (!check_finite(values + i * columns, columns, name, row)) return false;
    }
    return true;
}

/* A matrix of floats, or with one row for a vector. */
static bool write_floats(struct export *export, const awq_tensor *tensor, enum gguf_type type, int64_t heads,
                         const char *name)
{
    const int64_t rows = tensor->shape[0], columns = tensor->shape[1], chunk = rows < CHUNK_ROWS ? rows : CHUNK_ROWS;
    struct encoding work = {type, columns, gguf_row_bytes(type, columns), NULL, NULL};
    const uint64_t values_size = (uint64_t)(chunk * columns) * sizeof(float);
    void *memory = NULL;
    awq_status status =
        awq_context_allocate(export->context, values_size + (uint64_t)chunk * work.row_bytes, &memory);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    work.values = memory;
    work.rows = (unsigned char *)memory + values_size;
    bool ok = true;
    for (int64_t first = 0; ok && first < rows; first += chunk) {
        int64_t count = rows - first < chunk ? rows - first : chunk;
        ok = gather_rows(export, tensor, heads, first, count, name, memory);
        if (!ok) break;
        status = awq_context_parallel_for(export->context, count, encode_row, &work);
        ok = (status == AWQ_OK || cli_library_error(status, "%s", name)) &&
             gguf_write(export->writer, work.rows, (size_t)((uint64_t)count * work.row_bytes));
    }
    awq_context_free(export->context, memory);
    return ok;
}

static bool write_vector(struct export *export, const awq_tensor *vector, int64_t heads, const char *name)
{
    awq_tensor column = *vector, row = *vector;
    /* A turned bias is a matrix of one column: its elements move as rows do. */
    column.ndim = row.ndim = 2;
    column.shape[1] = column.strides[1] = 1;
    row.shape[0] = 1;
    row.shape[1] = vector->shape[0];
    row.strides[0] = vector->shape[0];
    row.strides[1] = 1;
    return write_floats(export, heads ? &column : &row, GGUF_F32, heads, name);
}

/* ---- quantised linears */

/* Whether the codes of a weight can stand in the file as they are: groups of whole blocks, and zero points where the
 * type has them, or all in the middle. */
static bool codes_fit(const awq_weight_info *info, enum gguf_type type, bool middle)
{
    if (info->bits != 4 || info->group_size % GGUF_BLOCK || info->k % GGUF_BLOCK) return false;
    return type == GGUF_Q4_1 || (type == GGUF_Q4_0 && middle);
}

struct parts {
    uint8_t *codes; /* [n][k] */
    float *scales;  /* [n][groups] */
    uint8_t *zeros;
};

static bool export_parts(const struct export *export, const awq_weight *weight, const awq_weight_info *info,
                         const char *name, struct parts *parts)
{
    const uint64_t groups = (uint64_t)(info->n * info->groups);
    awq_tensor codes, scales, zeros;
    void *memory = NULL;
    awq_status status =
        awq_context_allocate(export->context, groups * 5 + (uint64_t)info->n * (uint64_t)info->k, &memory);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    *parts = (struct parts){(uint8_t *)memory + 5 * groups, memory, (uint8_t *)memory + 4 * groups};
    awq_tensor_init_2d(&codes, parts->codes, AWQ_U8, info->n, info->k);
    awq_tensor_init_2d(&scales, parts->scales, AWQ_F32, info->n, info->groups);
    awq_tensor_init_2d(&zeros, parts->zeros, AWQ_U8, info->n, info->groups);
    status = awq_weight_export(weight, &codes, &scales, &zeros, NULL);
    if (status == AWQ_OK) return true;
    awq_context_free(export->context, memory);
    return cli_library_error(status, "%s", name);
}

static bool write_codes(struct export *export, const struct parts *parts, const awq_weight_info *info,
                        enum gguf_type type, int64_t heads)
{
    const uint64_t row_bytes = gguf_row_bytes(type, info->k), blocks = (uint64_t)(info->k / GGUF_BLOCK);
    unsigned char *row = malloc((size_t)row_bytes);
    bool ok = row || cli_error("out of memory");
    for (int64_t i = 0; ok && i < info->n; i++) {
        const int64_t source = source_row(i, info->n, heads);
        for (int64_t k = 0; k < info->k; k += GGUF_BLOCK) {
            const int64_t group = source * info->groups + k / info->group_size;
            const float scale = parts->scales[group], minimum = -scale * (float)parts->zeros[group];
            gguf_encode_codes(type, parts->codes + source * info->k + k, scale, minimum,
                              row + (uint64_t)(k / GGUF_BLOCK) * (row_bytes / blocks));
        }
        ok = gguf_write(export->writer, row, (size_t)row_bytes);
    }
    free(row);
    return ok;
}

static bool write_dequantized(struct export *export, const awq_weight *weight, const awq_weight_info *info,
                              enum gguf_type type, int64_t heads, const char *name)
{
    awq_tensor dense;
    void *memory = NULL;
    uint64_t size = (uint64_t)info->n * (uint64_t)info->k * sizeof(float);
    awq_status status = awq_context_allocate(export->context, size, &memory);
    if (status == AWQ_OK) {
        awq_tensor_init_2d(&dense, memory, AWQ_F32, info->n, info->k);
        status = awq_weight_dequantize(weight, 0, &dense);
    }
    bool ok = status == AWQ_OK || cli_library_error(status, "%s", name);
    ok = ok && write_floats(export, &dense, type, heads, name);
    awq_context_free(export->context, memory);
    return ok;
}

static bool write_quantized(struct export *export, const awq_weight *weight, enum gguf_type type, int64_t heads,
                            const char *name)
{
    awq_weight_info info;
    struct parts parts = {0};
    bool middle = true;
    awq_struct_init(&info, sizeof info);
    awq_status status = awq_weight_get_info(weight, &info);
    if (status != AWQ_OK) return cli_library_error(status, "%s", name);
    if (!export_parts(export, weight, &info, name, &parts)) return false;
    for (int64_t i = 0; i < info.n * info.groups; i++) middle = middle && parts.zeros[i] == 1 << (info.bits - 1);
    bool fits = codes_fit(&info, type, middle), ok = !fits || write_codes(export, &parts, &info, type, heads);
    awq_context_free(export->context, parts.scales);
    export->kept += fits;
    return fits ? ok : write_dequantized(export, weight, &info, type, heads, name);
}

/* ---- tensors, in the order in which they were declared */

static bool write_block(struct export *export, int64_t layer)
{
    const struct model_config *config = &export->config;
    struct block_weights weights;
    if (!block_weights_load(export->context, export->checkpoint, config, layer, &weights)) return false;
    bool ok = write_vector(export, &weights.attention_norm.weight, 0, "attn_norm") &&
              write_vector(export, &weights.mlp_norm.weight, 0, "ffn_norm");
    if (ok && config->architecture->q_norm)
        ok = write_vector(export, &weights.q_norm.weight, 0, "attn_q_norm") &&
             write_vector(export, &weights.k_norm.weight, 0, "attn_k_norm");
    for (int linear = 0; ok && linear < LINEAR_KINDS; linear++) {
        const struct linear_weights *source = &weights.linear[linear];
        const int64_t heads = turned_heads(config, linear);
        char name[TENSOR_NAME_SIZE];
        int64_t n, k;
        block_linear_name(config, layer, linear, name);
        block_linear_shape(config, linear, &n, &k);
        enum gguf_type type = type_for(type_choices[export->options->type].linears, k);
        ok = source->quantized ? write_quantized(export, source->quantized, type, heads, name)
                               : write_floats(export, &source->dense, type, heads, name);
        if (ok && source->bias.data) ok = write_vector(export, &source->bias, heads, name);
        export->linears++;
    }
    block_weights_clear(&weights);
    block_weights_release(export->checkpoint, config, layer);
    return ok;
}

/* llama3's scaling as factors of the frequencies: none for the short waves, 'factor' for the long ones. */
static bool write_rope_factors(struct export *export)
{
    const struct model_config *config = &export->config;
    float factors[MAX_HEAD_DIM / 2];
    awq_tensor view;
    double low = config->rope_original_context / config->rope_low_frequency_factor;
    double high = config->rope_original_context / config->rope_high_frequency_factor;
    for (int64_t i = 0; i < config->head_dim / 2; i++) {
        double wave = 2 * 3.14159265358979323846 * pow(config->rope_theta, 2.0 * (double)i / (double)config->head_dim);
        double smooth = (config->rope_original_context / wave - config->rope_low_frequency_factor) /
                        (config->rope_high_frequency_factor - config->rope_low_frequency_factor);
        double between = 1 / ((1 - smooth) / config->rope_factor + smooth);
        factors[i] = (float)(wave < high ? 1 : wave > low ? config->rope_factor : between);
    }
    awq_tensor_init_const_1d(&view, factors, AWQ_F32, config->head_dim / 2);
    return write_vector(export, &view, 0, "rope_freqs");
}

static bool write_ends(struct export *export)
{
    const struct model_config *config = &export->config;
    const enum gguf_type type = type_for(type_choices[export->options->type].ends, config->hidden);
    struct embeddings embeddings;
    struct norm_weights norm;
    awq_tensor head;
    if (!model_ends_find(export->checkpoint, config, &embeddings, &norm)) return false;
    bool ok = write_floats(export, &embeddings.tokens, type, 0, "model.embed_tokens.weight") &&
              write_vector(export, &norm.weight, 0, "model.norm.weight");
    if (ok && !config->tied_head) {
        awq_status status = awq_checkpoint_get(export->checkpoint, "lm_head.weight", &head);
        if (status != AWQ_OK) return cli_library_error(status, "lm_head.weight");
        if (head.ndim != 2 || head.shape[0] != config->vocabulary || head.shape[1] != config->hidden)
            return cli_error("lm_head.weight: is not [%" PRId64 ", %" PRId64 "], as config.json makes it",
                             config->vocabulary, config->hidden);
        ok = write_floats(export, &head, type, 0, "lm_head.weight");
    }
    awq_checkpoint_release(export->checkpoint, "model.embed_tokens.weight");
    return ok && (config->rope_type != ROPE_LLAMA3 || write_rope_factors(export));
}

static bool write_all(struct export *export)
{
    bool ok = true;
    progress_begin(&export->progress, "Writing");
    ok = write_ends(export);
    for (int64_t layer = 0; ok && layer < export->config.layers; layer++) {
        ok = write_block(export, layer);
        if (ok && progress_update(&export->progress, (uint64_t)layer + 1, (uint64_t)export->config.layers))
            ok = cli_error("interrupted");
    }
    progress_end(&export->progress);
    return ok;
}

/* ---- the whole */

static bool open_model(struct export *export)
{
    const struct options *options = export->options;
    if (!options->replace && access(options->out, F_OK) == 0)
        return cli_error("%s: exists already; --force replaces it", options->out);
    if (!context_open(options->threads, options->memory_limit, &export->context) ||
        !model_config_load(options->model, &export->config))
        return false;
    if (!export->config.architecture->gguf)
        return cli_error("%s: models of type %s cannot be written as GGUF here; llama, mistral, qwen2 and qwen3 can",
                         options->model, export->config.architecture->model_type);
    if (export->config.sliding_window)
        cli_warning("%s: has a sliding window of %" PRId64 " positions, of which GGUF knows nothing for this "
                    "architecture", options->model, export->config.sliding_window);
    awq_status status = awq_checkpoint_open(export->context, options->model, &export->checkpoint);
    return status == AWQ_OK || cli_library_error(status, "%s", options->model);
}

static bool export_model(struct export *export)
{
    const struct options *options = export->options;
    uint64_t size;
    if (!open_model(export) || !gguf_writer_open(options->out, &export->writer) || !put_metadata(export) ||
        !declare_all(export) || !write_all(export) || !gguf_commit(export->writer, &size))
        return false;
    if (options->quiet) return true;
    printf("%s: %s, %s", options->out, gguf_type_name(type_choices[options->type].linears), cli_bytes(size).text);
    if (export->kept)
        printf("; the codes of %" PRId64 " of %" PRId64 " linears were kept", export->kept, export->linears);
    putchar('\n');
    return true;
}

static int run(const struct cli_command *command, const void *given)
{
    struct export export = {.options = given};
    if (!export.options->out) return cli_usage(command, "--out is missing: the file to write");
    bool ok = export_model(&export);
    gguf_writer_close(export.writer);
    awq_checkpoint_destroy(export.checkpoint);
    model_config_clear(&export.config);
    awq_context_destroy(export.context);
    return ok ? EXIT_OK : EXIT_FAILED;
}

static const struct cli_option table[] = {
    {CLI_ARGUMENT, "MODEL", offsetof(struct options, model), .help = "Directory of a model."},
    {CLI_STRING, "out", offsetof(struct options, out), 'o', "FILE", .help = "File to write."},
    {CLI_CHOICE, "type", offsetof(struct options, type), 't', "q4_0|q4_1|q8_0|f16",
     .help = "Type of the linears' weights.  With four bits, the embedding and the head are Q8_0."},
    {CLI_FLAG, "force", offsetof(struct options, replace), 'f', .help = "Replace FILE."},
    {CLI_STRING, "pre", offsetof(struct options, pre), .argument = "NAME",
     .help = "llama.cpp's name of the pre-tokenizer, where it is not recognised."},
    {CLI_INT, "threads", offsetof(struct options, threads), .argument = "N",
     .help = "Threads to use [default: all processors].", .minimum = 1, .maximum = 4096},
    {CLI_SIZE, "memory-limit", offsetof(struct options, memory_limit), .argument = "SIZE",
     .help = "Fail rather than use more memory than this, such as 1G."},
    {CLI_FLAG, "quiet", offsetof(struct options, quiet), 'q', .help = "Print nothing but errors."},
    {.type = CLI_END},
};

const struct cli_command gguf_command = {
    .name = "gguf",
    .summary = "write a model as a GGUF file, for llama.cpp",
    .intro = "Writes a model of the llama family, with its tokenizer, as a GGUF file.  Float weights are rounded as\n"
             "llama.cpp rounds them; scale and clip them first, and AWQ's gain comes along (the first example).  Of a\n"
             "model that is quantised to 4 bits in groups of a multiple of 32, Q4_1 takes over the codes and scales\n"
             "as they are, and Q4_0 too where it is symmetric; anything else is dequantised and rounded again.",
    .examples = "  awq quantize MODEL -o SCALED --calib text.txt --version float --group-size 32 --symmetric\n"
                "  awq gguf SCALED -o model.gguf --type q4_0\n"
                "  awq gguf MODEL-awq -o model.gguf --type q4_1",
    .options = table,
    .defaults = &defaults,
    .options_size = sizeof defaults,
    .run = run,
};
