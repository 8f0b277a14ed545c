/* The tensors of one quantised linear in a checkpoint. */
#include "quantization.h"

#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "reason.h"

enum { NAME_SIZE = 512 };

uint64_t tensor_bytes(const awq_tensor *tensor)
{
    uint64_t bytes = awq_dtype_size(tensor->dtype);
    for (int i = 0; i < tensor->ndim; i++) bytes *= (uint64_t)tensor->shape[i];
    return bytes;
}

static bool find_tensor(const awq_checkpoint *checkpoint, const char *linear, const char *part, awq_tensor *view)
{
    char name[NAME_SIZE];
    if (snprintf(name, sizeof name, "%s.%s", linear, part) >= NAME_SIZE) return false;
    return awq_checkpoint_get(checkpoint, name, view) == AWQ_OK;
}

bool is_quantized_plane(const char *name, size_t *length)
{
    const char *dot = strrchr(name, '.');
    for (int i = 0; dot && format_at(i); i++)
        if (strcmp(dot + 1, format_at(i)->planes[0]) == 0) {
            *length = (size_t)(dot - name);
            return true;
        }
    return false;
}

bool is_plane_part(const char *part)
{
    for (int i = 0; format_at(i); i++)
        for (const char *const *name = format_at(i)->planes; *name; name++)
            if (strcmp(part, *name) == 0) return true;
    return false;
}

bool linear_is_quantized(const awq_checkpoint *checkpoint, const char *linear)
{
    awq_tensor view;
    for (int i = 0; format_at(i); i++)
        if (find_tensor(checkpoint, linear, format_at(i)->planes[0], &view)) return true;
    return false;
}

void linear_planes_find(const awq_checkpoint *checkpoint, const struct quantized_format *format, const char *linear,
                        struct linear_planes *planes)
{
    *planes = (struct linear_planes){0};
    for (const char *const *name = format->planes; *name; name++) {
        awq_tensor *view = &planes->views[planes->count];
        if (!find_tensor(checkpoint, linear, *name, view)) continue;
        planes->names[planes->count] = *name;
        planes->pointers[planes->count] = view;
        planes->bytes += tensor_bytes(view);
        planes->count++;
        if (format->zeros && strcmp(*name, format->zeros) == 0) planes->has_zeros = true;
    }
}

/* ---- which format */

/* The header by which the library's own formats describe themselves (docs/layouts.md): N, K, group size, bits and
 * symmetry are its fields 1 to 5. */
enum { HEADER_FIELDS = 7 };

static bool read_header(const awq_checkpoint *checkpoint, const char *linear, int64_t fields[HEADER_FIELDS])
{
    awq_tensor header;
    if (!find_tensor(checkpoint, linear, "header", &header) || header.dtype != AWQ_I64 ||
        tensor_bytes(&header) != HEADER_FIELDS * sizeof *fields)
        return false;
    memcpy(fields, (const char *)header.data + header.byte_offset, HEADER_FIELDS * sizeof *fields);
    return fields[1] > 0 && fields[2] > 0 && fields[1] <= INT32_MAX && fields[2] <= INT32_MAX;
}

static bool guess_own(const awq_checkpoint *checkpoint, const char *linear, struct quantization *guess)
{
    int64_t fields[HEADER_FIELDS];
    awq_tensor stream;
    if (!read_header(checkpoint, linear, fields)) return false;
    bool is_stream = find_tensor(checkpoint, linear, "stream", &stream);
    guess->format = format_of_layout(is_stream ? AWQ_LAYOUT_CPU_STREAM : AWQ_LAYOUT_CUDA_BLOCK);
    guess->group_size = fields[3];
    guess->bits = (int32_t)fields[4];
    guess->symmetric = fields[5] != 0;
    return true;
}

/* Words and inputs of a compressed-tensors linear. */
static bool compressed_width(const awq_checkpoint *checkpoint, const char *linear, int64_t *words, int64_t *inputs)
{
    awq_tensor packed, shape;
    if (!find_tensor(checkpoint, linear, "weight_packed", &packed) || packed.ndim != 2 ||
        !find_tensor(checkpoint, linear, "weight_shape", &shape) || shape.dtype != AWQ_I64 ||
        tensor_bytes(&shape) != 2 * sizeof *inputs)
        return false;
    memcpy(inputs, (const char *)shape.data + shape.byte_offset + sizeof *inputs, sizeof *inputs);
    *words = packed.shape[1];
    return *inputs >= 1 && *inputs <= INT32_MAX;
}

/* Codes run on from word to word since 2026; until then a word held whole ones, which differs for 3 bits only. */
static bool is_dense(int64_t words, int64_t inputs, int32_t bits)
{
    return words == (inputs * bits + 31) / 32;
}

static bool guess_compressed(const awq_checkpoint *checkpoint, const char *linear, struct quantization *guess)
{
    static const int32_t choices[] = {2, 3, 4, 8};
    int64_t words, inputs;
    if (!compressed_width(checkpoint, linear, &words, &inputs)) return false;
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        if (is_dense(words, inputs, choices[i])) {
            guess->bits = choices[i];
            guess->format = format_of_layout(AWQ_LAYOUT_COMPRESSED_TENSORS);
            return true;
        }
    guess->bits = 3;
    guess->format = format_of_layout(AWQ_LAYOUT_COMPRESSED_TENSORS_2025);
    return words == (inputs + 9) / 10;
}

/* The codes of formats other than compressed-tensors by how their shape goes with that of the scales [groups][N], in
 * gemv [N][padded groups]. */
static bool guess_classic(const awq_tensor *codes, const awq_tensor *scales, const awq_tensor *zeros,
                          struct quantization *guess)
{
    const int64_t rows = codes->shape[0], columns = codes->shape[1], n = scales->shape[1];
    int32_t layout = 0;
    guess->bits = 4;
    if (codes->dtype == AWQ_I16 || codes->dtype == AWQ_U16) {
        layout = AWQ_LAYOUT_GEMV_FAST;
    } else if (zeros && rows == scales->shape[0] && rows == zeros->shape[0] && 8 * zeros->shape[1] == n) {
        layout = AWQ_LAYOUT_GEMV;
    } else if (zeros && columns == n && n > 0) {
        layout = AWQ_LAYOUT_GPTQ_V1;
        guess->bits = (int32_t)(32 * zeros->shape[1] / n);
    } else if (columns == 2 * n || columns == 4 * n) {
        layout = AWQ_LAYOUT_MARLIN;
        guess->bits = columns == 2 * n ? 4 : 8;
    } else if (8 * columns == n || 4 * columns == n) {
        layout = AWQ_LAYOUT_GEMM;
        guess->bits = 8 * columns == n ? 4 : 8;
    }
    guess->format = format_of_layout(layout);
    return guess->format != NULL;
}

struct quantization linear_guess(const awq_checkpoint *checkpoint, const char *linear)
{
    struct quantization guess = {0};
    awq_tensor codes, scales, zeros;
    if (guess_own(checkpoint, linear, &guess)) return guess;
    if (guess_compressed(checkpoint, linear, &guess)) {
        guess.symmetric = !find_tensor(checkpoint, linear, guess.format->zeros, &zeros);
        return guess;
    }
    guess = (struct quantization){0};
    if (!find_tensor(checkpoint, linear, "qweight", &codes) || codes.ndim != 2) return guess;
    if (!find_tensor(checkpoint, linear, "scales", &scales) || scales.ndim != 2)
        return (struct quantization){.format = format_of_layout(AWQ_LAYOUT_GEMM), .bits = 4};
    bool has_zeros = find_tensor(checkpoint, linear, "qzeros", &zeros) && zeros.ndim == 2;
    if (find_tensor(checkpoint, linear, "scaled_zeros", &zeros))
        return (struct quantization){.format = format_of_layout(AWQ_LAYOUT_LLM_AWQ), .bits = 4};
    if (!guess_classic(&codes, &scales, has_zeros ? &zeros : NULL, &guess)) return (struct quantization){0};
    guess.symmetric = !has_zeros;
    return guess;
}

bool linear_shape(const awq_checkpoint *checkpoint, const struct quantization *quantization, const char *linear,
                  int64_t *n, int64_t *k)
{
    awq_tensor codes;
    const int64_t bits = quantization->bits;
    if (quantization->format->method == METHOD_LIBAWQ) {
        int64_t fields[HEADER_FIELDS];
        if (!read_header(checkpoint, linear, fields)) return false;
        *n = fields[1];
        *k = fields[2];
        return true;
    }
    if (!find_tensor(checkpoint, linear, quantization->format->planes[0], &codes) || codes.ndim != 2) return false;
    const int64_t rows = codes.shape[0], columns = codes.shape[1];
    *n = rows;
    *k = 32 * columns / bits; /* gemv */
    switch (quantization->format->layout) {
    case AWQ_LAYOUT_GEMM:
        *n = 32 * columns / bits;
        *k = rows;
        break;
    case AWQ_LAYOUT_GEMV_FAST:
    case AWQ_LAYOUT_LLM_AWQ:
        *n = 4 * rows;
        *k = columns;
        break;
    case AWQ_LAYOUT_MARLIN:
        *n = 2 * columns / bits;
        *k = 16 * rows;
        break;
    case AWQ_LAYOUT_GPTQ_V1:
    case AWQ_LAYOUT_GPTQ_V2:
        *n = columns;
        *k = 32 * rows / bits;
        break;
    case AWQ_LAYOUT_COMPRESSED_TENSORS:
    case AWQ_LAYOUT_COMPRESSED_TENSORS_2025:
        return compressed_width(checkpoint, linear, &(int64_t){0}, k);
    }
    return *n > 0 && *k > 0;
}

/* ---- unpacking and packing */

/* The words of 3-bit codes tell which of two formats it is, for which configurations have one name. */
static int32_t layout_of_linear(const awq_checkpoint *checkpoint, const struct quantization *quantization,
                                const char *linear)
{
    int64_t words, inputs;
    if (quantization->format->layout == AWQ_LAYOUT_COMPRESSED_TENSORS &&
        compressed_width(checkpoint, linear, &words, &inputs) && !is_dense(words, inputs, quantization->bits))
        return AWQ_LAYOUT_COMPRESSED_TENSORS_2025;
    return quantization->format->layout;
}

bool linear_unpack(awq_context *context, const awq_checkpoint *checkpoint, const struct quantization *quantization,
                   const char *linear, awq_weight **weight, char *reason)
{
    struct linear_planes planes;
    awq_unpack_options options;
    awq_tensor view;
    linear_planes_find(checkpoint, quantization->format, linear, &planes);
    if (find_tensor(checkpoint, linear, "weight_g_idx", &view))
        return refuse(reason, "weight_g_idx: groups in the order of activations are not supported");
    awq_struct_init(&options, sizeof options);
    if (quantization->format->method != METHOD_LIBAWQ) { /* those describe themselves */
        options.bits = quantization->bits;
        options.group_size = quantization->group_size;
        options.flags = quantization->symmetric || !planes.has_zeros ? AWQ_QUANTIZE_SYMMETRIC : 0;
    }
    awq_status status = awq_unpack(context, layout_of_linear(checkpoint, quantization, linear), planes.count,
                                   planes.names, planes.pointers, &options, weight);
    return status == AWQ_OK || refuse(reason, "%s", awq_last_error());
}

bool linear_write(awq_context *context, awq_checkpoint_writer *writer, const struct quantized_format *format,
                  const char *linear, const awq_weight *weight, uint64_t *bytes)
{
    awq_packed *packed;
    awq_status status = awq_pack(context, weight, format->layout, &packed);
    for (size_t i = 0; status == AWQ_OK && i < awq_packed_plane_count(packed); i++) {
        char name[NAME_SIZE];
        const char *part;
        awq_tensor plane;
        status = awq_packed_get_plane(packed, i, &part, &plane);
        if (status != AWQ_OK) break;
        snprintf(name, sizeof name, "%s.%s", linear, part);
        status = awq_checkpoint_writer_add(writer, name, &plane);
        *bytes += tensor_bytes(&plane);
    }
    awq_packed_destroy(packed);
    return status == AWQ_OK || cli_library_error(status, "%s", linear);
}
