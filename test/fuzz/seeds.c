/* Writes the inputs that fuzzing starts from: DIRECTORY/<target>/<name>.
 *
 *     seeds DIRECTORY
 *
 * They are made by this library and its application, so that they follow the formats as they are.  Tokenizers and
 * configurations come from the files of the tests besides. */
#include "gguf.h"
#include "internal.h"
#include "support.h"

#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *root;
static awq_context *context;

static void must(bool ok, const char *what)
{
    if (ok) return;
    fprintf(stderr, "seeds: %s: %s\n", what, awq_last_error());
    exit(1);
}

#define MUST(call) must((call) == AWQ_OK, #call)

/* The path of an input, whose directory exists then; good until the next call. */
static const char *path_of(const char *target, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof path, "%s/%s", root, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", root, target, name);
    return path;
}

static void put(const char *target, const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(path_of(target, name), "wb");
    must(file != NULL && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, name);
}

static void put_text(const char *target, const char *name, const char *text)
{
    put(target, name, text, strlen(text));
}

static char *read_whole(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    struct stat information;
    must(file != NULL && fstat(fileno(file), &information) == 0, path);
    *size = (size_t)information.st_size;
    char *bytes = malloc(*size + 1);
    must(bytes != NULL && fread(bytes, 1, *size, file) == *size, path);
    fclose(file);
    return bytes;
}

/* ---- files of the library */

static void put_safetensors(const char *name, const char *header, size_t data_bytes)
{
    uint8_t bytes[2048] = {0};
    size_t length = strlen(header);
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    put("safetensors", name, bytes, 8 + length + data_bytes);
}

static void write_safetensors(void)
{
    put_safetensors("empty", "{}", 0);
    put_safetensors("one", "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}", 24);
    put_safetensors("scalar", "{\"a\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]}}", 8);
    put_safetensors("unaligned",
                    "{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
                    "\"a\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[3,11]},"
                    "\"c\":{\"dtype\":\"F8_E4M3\",\"shape\":[0,9],\"data_offsets\":[3,3]}}   ", 11);
}

static void write_indices(void)
{
    put_text("index", "two", "{\"metadata\":{\"total_size\":8},\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"b.safetensors\"}}");
    put_text("index", "one", "{\"weight_map\":{\"a\":\"a.safetensors\"}}");
    put_text("index", "path", "{\"weight_map\":{\"a\":\"../a.safetensors\",\"b\":\"./b.safetensors\"}}");
    put_text("index", "absent", "{\"weight_map\":{\"a\":\"c.safetensors\",\"z\":\"a.safetensors\"}}");
}

static awq_calibration *observed(uint32_t flags, int64_t channels, int64_t rows, int64_t samples)
{
    uint64_t seed = 1;
    float *x = random_array(&seed, AWQ_F32, rows * channels, 1);
    awq_tensor view;
    awq_calibration *calibration;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = flags;
    options.sample_rows = samples;
    MUST(awq_calibration_create(context, channels, &options, &calibration));
    awq_tensor_init_const_2d(&view, x, AWQ_F32, rows, channels);
    MUST(awq_calibration_observe(calibration, &view));
    free(x);
    return calibration;
}

/* With the byte that has checksums repaired, and without. */
static void put_archive(const char *name, const char *path)
{
    size_t size;
    char both[64], *bytes = read_whole(path, &size), *input = malloc(size + 1);
    must(input != NULL, "memory");
    memcpy(input + 1, bytes, size);
    for (char first = 0; first < 2; first++) {
        input[0] = first;
        snprintf(both, sizeof both, "%s-%d", name, first);
        put("archive", both, input, size + 1);
    }
    free(bytes);
    free(input);
    unlink(path);
}

static void write_archives(void)
{
    char path[4096];
    awq_calibration *plain = observed(0, 4, 6, 3), *gram = observed(AWQ_CALIBRATION_GRAM, 3, 5, -1);
    awq_archive_writer *writer;
    snprintf(path, sizeof path, "%s", path_of("archive", "made"));
    MUST(awq_calibration_save(plain, path));
    put_archive("one", path);
    MUST(awq_archive_writer_create(context, path, "where it came from", &writer));
    MUST(awq_archive_writer_add(writer, "model.layers.0", plain));
    MUST(awq_archive_writer_add(writer, "gram", gram));
    MUST(awq_archive_writer_commit(writer));
    awq_archive_writer_destroy(writer);
    put_archive("two", path);
    awq_calibration_destroy(plain);
    awq_calibration_destroy(gram);
}

static awq_weight *quantized(int64_t n, int64_t k, int32_t bits, int64_t group_size, bool symmetric)
{
    uint64_t seed = 2;
    float *w = random_array(&seed, AWQ_F32, n * k, 1);
    awq_tensor view;
    awq_weight *weight;
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = group_size;
    options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    awq_tensor_init_const_2d(&view, w, AWQ_F32, n, k);
    MUST(awq_quantize(context, &view, NULL, &options, &weight));
    free(w);
    return weight;
}

static void write_tunings(void)
{
    awq_weight *weight = quantized(16, 32, 4, 32, false);
    awq_tuning *tuning;
    MUST(awq_tuning_measure(context, 1, (const awq_weight *const[]){weight}, 2, &tuning));
    MUST(awq_tuning_save(tuning, path_of("tuning", "measured")));
    awq_tuning_destroy(tuning);
    awq_weight_destroy(weight);
}

/* ---- planes, as layout.c of this directory reads them */

static const char *const plane_names[] = {
    "qweight",  "qzeros",       "scales",       "scaled_zeros",      "weight_packed", "weight_scale", "weight_shape",
    "weight_zero_point", "B",   "s",            "g_idx",             "header",        "input_scale",  "salient_columns",
    "salient_values",    "stream",
};

static uint8_t plane_number(const char *name)
{
    for (uint8_t i = 0; i < sizeof plane_names / sizeof *plane_names; i++)
        if (strcmp(plane_names[i], name) == 0) return i;
    must(false, name);
    return 0;
}

static void put_planes(const char *name, int32_t layout, int32_t bits, int64_t group_size, bool symmetric,
                       const awq_packed *packed)
{
    static uint8_t input[1 << 16];
    size_t length = 0, count = awq_packed_plane_count(packed);
    const char *plane;
    awq_tensor view;
    const uint8_t head[] = {(uint8_t)layout, (uint8_t)bits, (uint8_t)group_size, (uint8_t)(group_size >> 8), symmetric,
                            (uint8_t)count};
    memcpy(input, head, sizeof head);
    length = sizeof head;
    for (size_t i = 0; i < count; i++) {
        MUST(awq_packed_get_plane(packed, i, &plane, &view));
        input[length++] = plane_number(plane);
        input[length++] = (uint8_t)(view.dtype - 1);
        input[length++] = (uint8_t)view.ndim;
        for (int32_t j = 0; j < view.ndim; j++) {
            input[length++] = (uint8_t)view.shape[j];
            input[length++] = (uint8_t)(view.shape[j] >> 8);
        }
    }
    for (size_t i = 0; i < count; i++) {
        MUST(awq_packed_get_plane(packed, i, &plane, &view));
        size_t bytes = (size_t)awqi_tensor_elements(&view) * awq_dtype_size(view.dtype);
        memcpy(input + length, view.data, bytes);
        length += bytes;
    }
    put("layout", name, input, length);
}

static void write_layouts(void)
{
    static const int32_t all_bits[] = {2, 3, 4, 8};
    for (int32_t layout = AWQ_LAYOUT_GEMM; layout <= AWQ_LAYOUT_LLM_AWQ; layout++)
        for (int b = 0; b < 4; b++)
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                char name[64];
                awq_packed *packed;
                awq_weight *weight = quantized(64, 64, all_bits[b], 32, symmetric);
                snprintf(name, sizeof name, "%s-%d%s", awq_layout_name(layout), all_bits[b], symmetric ? "-symmetric" : "");
                if (awq_pack(context, weight, layout, &packed) == AWQ_OK)
                    put_planes(name, layout, all_bits[b], 32, symmetric, packed);
                awq_packed_destroy(packed);
                awq_weight_destroy(weight);
            }
}

/* ---- structs and calls */

static void write_structs(void)
{
    static const size_t sizes[] = {8, 24, 48, 104, 256};
    uint8_t input[512];
    uint64_t seed = 3;
    char name[32];
    for (uint8_t call = 0; call < 14; call++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            memset(input, 0, sizeof input);
            input[0] = call;
            if (i == 3)
                for (size_t at = 1; at <= sizes[i]; at += 4) input[at] = (uint8_t)(random_bits(&seed) % 5);
            snprintf(name, sizeof name, "%d-%zu", call, sizes[i]);
            put("structs", name, input, 1 + sizes[i]);
        }
}

static void write_calls(void)
{
    uint8_t input[512];
    uint64_t seed = 4;
    char name[32];
    for (int i = 0; i < 48; i++) {
        size_t length = 64 + random_bits(&seed) % (sizeof input - 64);
        for (size_t at = 0; at < length; at++) input[at] = (uint8_t)(random_bits(&seed) >> 8 * (random_bits(&seed) % 4));
        snprintf(name, sizeof name, "%d", i);
        put("calls", name, input, length);
    }
}

/* ---- files of the application */

static void write_gguf(void)
{
    struct gguf_writer *writer;
    uint64_t size;
    float row[2 * GGUF_BLOCK] = {1, -2, 3};
    uint8_t encoded[4 * sizeof row];
    bool ok = gguf_writer_open(path_of("gguf", "small"), &writer) &&
              gguf_put_string(writer, "general.architecture", "llama", 5) && gguf_put_uint32(writer, "general.alignment", 32) &&
              gguf_put_float(writer, "eps", 1e-5f) && gguf_put_bool(writer, "flag", true) &&
              gguf_begin_array(writer, "tokens", GGUF_STRING, 2) && gguf_append_string(writer, "a", 1) &&
              gguf_append_string(writer, "bc", 2) && gguf_begin_array(writer, "types", GGUF_INT32, 1) &&
              gguf_append_int32(writer, 3);
    static const enum gguf_type types[] = {GGUF_F32, GGUF_F16, GGUF_Q4_0, GGUF_Q4_1, GGUF_Q8_0};
    for (size_t i = 0; ok && i < 5; i++)
        ok = gguf_declare(writer, gguf_type_name(types[i]), types[i], i == 0 ? 0 : 2, GGUF_BLOCK);
    for (size_t i = 0; ok && i < 5; i++) {
        gguf_encode_row(types[i], row, GGUF_BLOCK, encoded);
        for (int rows = i == 0 ? 1 : 2; ok && rows > 0; rows--)
            ok = gguf_write(writer, encoded, (size_t)gguf_row_bytes(types[i], GGUF_BLOCK));
    }
    must(ok && gguf_commit(writer, &size), "GGUF");
    gguf_writer_close(writer);
}

#define SHAPE                                                                                                          \
    "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,"                  \
    "\"num_key_value_heads\":2,\"vocab_size\":100,\"max_position_embeddings\":128"

static void write_configs(void)
{
    put_text("config", "llama", "{\"model_type\":\"llama\"," SHAPE ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,"
             "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64}}");
    put_text("config", "qwen2", "{\"model_type\":\"qwen2\"," SHAPE ",\"sliding_window\":7,\"use_sliding_window\":true,"
             "\"max_window_layers\":2,\"rope_theta\":1e6,\"tie_word_embeddings\":true,\"torch_dtype\":\"bfloat16\"}");
    put_text("config", "qwen3", "{\"architectures\":[\"Qwen3ForCausalLM\"]," SHAPE ",\"head_dim\":16,\"attention_bias\":true,"
             "\"rms_norm_eps\":1e-6,\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"]}");
    put_text("config", "awq", "{\"model_type\":\"mistral\"," SHAPE ",\"quantization_config\":{\"quant_method\":\"awq\",\"bits\":4,"
             "\"group_size\":32,\"zero_point\":true,\"version\":\"gemm\",\"modules_to_not_convert\":[\"lm_head\"]}}");
    put_text("config", "gptq", "{\"model_type\":\"llama\"," SHAPE ",\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":3,"
             "\"group_size\":-1,\"sym\":true,\"desc_act\":false,\"checkpoint_format\":\"gptq_v2\"}}");
    put_text("config", "compressed", "{\"model_type\":\"llama\"," SHAPE ",\"quantization_config\":{\"quant_method\":"
             "\"compressed-tensors\",\"format\":\"pack-quantized\",\"config_groups\":{\"group_0\":{\"targets\":[\"Linear\"],"
             "\"weights\":{\"num_bits\":4,\"group_size\":32,\"strategy\":\"group\",\"symmetric\":false,\"type\":\"int\"}}},"
             "\"ignore\":[\"lm_head\"]}}");
}

static void write_tokenizers(void)
{
    put_text("tokenizer", "byte-level",
             "{\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true}],\"normalizer\":{\"type\":\"NFC\"},"
             "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\p{L}+|"
             "\\\\s+(?!\\\\S)\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
             "\"use_regex\":false}]},\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":"
             "\"<s>\",\"type_id\":0}},{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{"
             "\"id\":\"<s>\",\"ids\":[6],\"tokens\":[\"<s>\"]}}},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
             "\"vocab\":{\"H\":0,\"e\":1,\"l\":2,\"o\":3,\"ll\":4,\"\xc4\xa0\":5},\"merges\":[\"l l\"]}}");
    put_text("tokenizer", "spaces",
             "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true,\"lstrip\":true}],\"normalizer\":{\"type\":"
             "\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},{\"type\":\"Replace\",\"pattern\":{"
             "\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":"
             "\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
             "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\","
             "\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"\xe2\x96\x81\":1,\"<0x0A>\":2,\"H\":3,\"e\":4,"
             "\"He\":5},\"merges\":[[\"H\",\"e\"]]}}");
}

static void copy_file(const char *target, const char *name, const char *path)
{
    size_t size;
    char *bytes = read_whole(path, &size);
    put(target, name, bytes, size);
    free(bytes);
}

int main(int argc, char **argv)
{
    static const char *const tokenizers[] = {"gpt2-prefix-space", "llama2", "llama3", "mistral", "qwen2", "unknown-fused"};
    char path[128];
    if (argc != 2) return 2;
    root = argv[1];
    mkdir(root, 0777);
    MUST(awq_context_create(NULL, &context));
    write_safetensors();
    write_indices();
    write_archives();
    write_tunings();
    write_layouts();
    write_structs();
    write_calls();
    write_gguf();
    write_configs();
    write_tokenizers();
    for (size_t i = 0; i < sizeof tokenizers / sizeof *tokenizers; i++) {
        snprintf(path, sizeof path, "test/data/tokenizers/%s/tokenizer.json", tokenizers[i]);
        copy_file("tokenizer", tokenizers[i], path);
    }
    copy_file("config", "docs-6m", "examples/models/docs-6m/config.json");
    awq_context_destroy(context);
    return 0;
}
