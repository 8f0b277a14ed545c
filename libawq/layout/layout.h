/* A packed format: how it turns a weight into named planes and back.  docs/layouts.md has the bit diagrams. */
#ifndef AWQI_LAYOUT_H
#define AWQI_LAYOUT_H

#include "../weight.h"

enum { AWQI_MAX_PLANES = 7 };

/* Planes that somebody gave, each on the CPU and present, under the names of the format's table, each at most once. */
struct awqi_planes {
    size_t count;
    const char *names[AWQI_MAX_PLANES];
    const awq_tensor *tensors[AWQI_MAX_PLANES];
};

struct awqi_layout;

/* Adds planes with awqi_packed_add.  Texts of failures are preceded by the name of the format. */
typedef awq_status awqi_pack_function(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed);

/* Gets whole options, with bits set unless the format describes itself.  After a failure the caller frees *weight. */
typedef awq_status awqi_unpack_function(const struct awqi_layout *layout, awq_context *context,
                                        const struct awqi_planes *planes, const awq_unpack_options *options,
                                        awq_weight **weight);

/* Where the number of an output lies in a row of them. */
typedef int64_t awqi_place(int64_t output);

struct awqi_layout {
    int32_t id;
    const char *name;
    const char *planes[AWQI_MAX_PLANES];  /* the names of its planes; NULL: none */
    const char *aliases[AWQI_MAX_PLANES]; /* other names that plane i is read under, and never written; NULL: none */
    bool describes_itself;                /* a header plane says all that awq_unpack_options could */
    awqi_pack_function *pack;
    awqi_unpack_function *unpack;
    awqi_place *bias_place; /* where a bias goes, period by period; NULL: it stays as it is */
    int64_t bias_period;
};

/* ---- layout.c: packed weights */

/* Add a zeroed plane; *data is its memory.  'name' is kept, not copied. */
awq_status awqi_packed_add(awq_packed *packed, const char *name, int32_t dtype, int32_t ndim, const int64_t *shape,
                           void **data);

/* The same for a matrix, with a writable view of it. */
awq_status awqi_packed_add_2d(awq_packed *packed, const char *name, int32_t dtype, int64_t rows, int64_t columns,
                              awq_tensor *plane);

/* The context that 'packed' belongs to, for parallel work. */
awq_context *awqi_packed_context(const awq_packed *packed);

/* ---- planes.c: what formats share */

/* AWQ_ERROR_UNSUPPORTED when the weight has an input scale, which none of the checkpoint formats can hold. */
awq_status awqi_layout_refuse_input_scale(const awq_weight *weight);

/* AWQ_ERROR_UNSUPPORTED for a short last group, which few readers accept; a single group may be shorter than group_size
 * when 'single_may_be_short'. */
awq_status awqi_layout_refuse_short_group(const awq_weight *weight, bool single_may_be_short);

/* AWQ_ERROR_UNSUPPORTED unless bit 'bits' of 'allowed' is set, or 'count' is a multiple of 'multiple'. */
awq_status awqi_layout_check_bits(int32_t bits, uint32_t allowed);
awq_status awqi_layout_check_multiple(const char *what, int64_t count, int64_t multiple);

/* The plane of a name, or NULL. */
const awq_tensor *awqi_planes_get(const struct awqi_planes *planes, const char *name);

/* Plane 'name' with dtype in the set 'dtypes' and the shape [rows][columns], where -1 leaves an extent open.  NULL and
 * AWQ_OK when it is missing and not 'required'. */
awq_status awqi_planes_find(const struct awqi_planes *planes, const char *name, bool required, uint32_t dtypes,
                            int64_t rows, int64_t columns, const awq_tensor **plane);

/* The same for a plane of codes, whose shape is open: at least one row and column, and few enough that sizes computed
 * from them do not overflow. */
awq_status awqi_planes_find_codes(const struct awqi_planes *planes, const char *name, uint32_t dtypes,
                                  const awq_tensor **plane);

/* Resolve options for a weight of k inputs whose scales come in 'groups' groups. */
awq_status awqi_layout_resolve(const awq_unpack_options *options, int64_t k, int64_t groups, int32_t scale_dtype,
                               struct awqi_quantizer *quantizer);

/* The dtype of 16 bits that a format takes which holds either: BF16 stays, F32 must fit F16. */
static inline int32_t awqi_layout_half_dtype(const awq_weight *weight)
{
    return weight->scale_dtype == AWQ_BF16 ? AWQ_BF16 : AWQ_F16;
}

/* The scales of a weight into a plane [n][groups], or [groups][n] when 'transposed', whose outputs are placed by
 * 'place' (NULL: in order).  AWQ_ERROR_UNSUPPORTED names a scale that is no number of the plane's dtype.  And back. */
awq_status awqi_layout_write_scales(const awq_weight *weight, const awq_tensor *plane, bool transposed,
                                    awqi_place *place);
awq_status awqi_layout_read_scales(awq_weight *weight, const awq_tensor *plane, bool transposed, awqi_place *place);

/* AWQ_ERROR_UNSUPPORTED: the scale of a group is no number of the dtype that the format holds. */
awq_status awqi_layout_refuse_scale(const awq_weight *weight, int64_t row, int64_t group, int32_t dtype);

/* Store a zero point; a symmetric weight keeps none, but then it must be 2^(bits - 1): AWQ_ERROR_INVALID. */
awq_status awqi_layout_set_zero(awq_weight *weight, int64_t row, int64_t group, int32_t zero);

/* ---- header.c: formats that describe themselves */

struct awqi_layout_header {
    int64_t n, k;
    struct awqi_quantizer quantizer;
};

/* Add the planes "header" and, if the weight has them, "input_scale", "salient_columns" and "salient_values". */
awq_status awqi_header_write(const awq_weight *weight, int32_t scale_dtype, awq_packed *packed);

/* Read and check the plane "header"; options that are set must agree with it. */
awq_status awqi_header_read(const struct awqi_planes *planes, const awq_unpack_options *options,
                            struct awqi_layout_header *header);

/* A weight as the header describes it, with the input scale and the salient columns of their planes, if there are such. */
awq_status awqi_header_allocate(awq_context *context, const struct awqi_layout_header *header,
                                const struct awqi_planes *planes, awq_weight **weight);

/* ---- elements */

#define AWQI_WORDS (1u << AWQ_I32 | 1u << AWQ_U32)

/* Element [row][column] of a plane of 32-bit words. */
static inline uint32_t awqi_plane_word(const awq_tensor *plane, int64_t row, int64_t column)
{
    return ((const uint32_t *)awqi_tensor_data(plane))[row * plane->strides[0] + column * plane->strides[1]];
}

/* Code 'index' of a dense stream of them, lowest bits first, in words that are 'stride' apart and zero before. */
static inline void awqi_words_put(uint32_t *words, int64_t stride, int32_t bits, int64_t index, uint32_t code)
{
    const int64_t within = index % 32 * bits, word = index / 32 * bits + within / 32;
    const int bit = (int)(within % 32);
    words[word * stride] |= code << bit;
    if (bit + bits > 32) words[(word + 1) * stride] |= code >> (32 - bit);
}

static inline uint8_t awqi_words_get(const uint32_t *words, int64_t stride, int32_t bits, int64_t index)
{
    const int64_t within = index % 32 * bits, word = index / 32 * bits + within / 32;
    const int bit = (int)(within % 32);
    uint32_t code = words[word * stride] >> bit;
    if (bit + bits > 32) code |= words[(word + 1) * stride] << (32 - bit);
    return (uint8_t)(code & ((1u << bits) - 1));
}

/* 32 bits of the stream of codes that a weight keeps for each row, whose length must be a multiple of 4 bytes. */
static inline uint32_t awqi_weight_get_word(const awq_weight *weight, int64_t row, int64_t word)
{
    const uint8_t *bytes = weight->codes + (uint64_t)row * weight->row_bytes + 4 * word;
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static inline void awqi_weight_set_word(awq_weight *weight, int64_t row, int64_t word, uint32_t value)
{
    uint8_t *bytes = weight->codes + (uint64_t)row * weight->row_bytes + 4 * word;
    for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(value >> (8 * i));
}

/* ---- the formats */

/* gemv.c: words for the zero points of 'groups' groups of a row, as AutoAWQ and llm-awq pad them for their kernels. */
awq_status awqi_gemv_zeros_width(int64_t groups, int64_t group_size, int64_t *words);

/* gemv.c: the group size of a padded plane's weight, whose shape does not tell it. */
awq_status awqi_gemv_group_size(const awq_unpack_options *options, int64_t k, int64_t *group_size);

/* marlin.c: where Marlin's kernels want the scale of an output: of one group in 64, and of all groups per row in 32. */
awqi_place awqi_marlin_place_grouped, awqi_marlin_place_single;

/* marlin.c: the zero points of a weight in rows of 'row_words' words, zero before.  And back. */
void awqi_marlin_pack_zeros(const awq_weight *weight, int64_t row_words, uint32_t *qzeros);
awq_status awqi_marlin_unpack_zeros(awq_weight *weight, const awq_tensor *qzeros);

awqi_pack_function awqi_gemm_pack, awqi_compressed_pack, awqi_gemv_pack, awqi_gemv_fast_pack, awqi_marlin_pack,
    awqi_gptq_pack, awqi_cuda_block_pack, awqi_cpu_stream_pack;
awqi_unpack_function awqi_gemm_unpack, awqi_compressed_unpack, awqi_gemv_unpack, awqi_gemv_fast_unpack,
    awqi_marlin_unpack, awqi_gptq_unpack, awqi_cuda_block_unpack, awqi_cpu_stream_unpack;

#endif /* AWQI_LAYOUT_H */
