/* compressed-tensors' "pack-quantized" format, 2, 3, 4 and 8 bits:
 *
 *   weight_packed  I32 [N][words of K]      weight_scale       float [N][groups]
 *   weight_shape   I64 [2] = {N, K}         weight_zero_point  I32 [words of N][groups], asymmetric only
 *
 * Codes are stored unsigned (the signed value plus 2^(bits-1)), lowest bits first.  The weights of a row run along its
 * words, the zero points of a group down its column.  Since 2026 codes are dense, code i at bit i * bits of the words
 * as one stream; until 2025 a word held 32 / bits of them and left the rest empty, which differs for 3 bits only. */
#include "layout.h"

enum { PART = 256 }; /* codes at a time, a multiple of 8 */

struct packing {
    int32_t bits;
    int32_t per_word; /* codes of a word that holds whole codes only; 0: dense */
};

static struct packing find_packing(const struct awqi_layout *layout, int32_t bits)
{
    bool leaves_rest = layout->id == AWQ_LAYOUT_COMPRESSED_TENSORS_2025 && 32 % bits != 0;
    return (struct packing){bits, leaves_rest ? 32 / bits : 0};
}

static int64_t count_words(struct packing packing, int64_t codes)
{
    if (packing.per_word != 0) return awqi_ceil_div(codes, packing.per_word);
    return codes / 32 * packing.bits + awqi_ceil_div(codes % 32 * packing.bits, 32);
}

/* Or 'code' into words that are 'stride' apart. */
static void put(struct packing packing, uint32_t *words, int64_t stride, int64_t index, uint32_t code)
{
    if (packing.per_word == 0) awqi_words_put(words, stride, packing.bits, index, code);
    else words[index / packing.per_word * stride] |= code << (index % packing.per_word * packing.bits);
}

static uint8_t get(struct packing packing, const uint32_t *words, int64_t stride, int64_t index)
{
    if (packing.per_word == 0) return awqi_words_get(words, stride, packing.bits, index);
    const uint32_t word = words[index / packing.per_word * stride];
    return (uint8_t)(word >> (index % packing.per_word * packing.bits) & ((1u << packing.bits) - 1));
}

/* ---- writing */

struct writing {
    const awq_weight *weight;
    struct packing packing;
    uint32_t *words;
    int64_t words_per_row;
};

static void pack_row(void *user_data, int64_t row)
{
    const struct writing *work = user_data;
    const awq_weight *weight = work->weight;
    uint32_t *words = work->words + row * work->words_per_row;
    if (work->packing.per_word == 0) { /* the stream that a weight keeps already */
        const uint8_t *stream = weight->codes + (uint64_t)row * weight->row_bytes;
        for (uint64_t i = 0; i < weight->row_bytes; i++) words[i / 4] |= (uint32_t)stream[i] << (8 * (i % 4));
        return;
    }
    uint8_t codes[PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        awqi_weight_get_codes(weight, row, first, count, codes);
        for (int64_t i = 0; i < count; i++) put(work->packing, words, 1, first + i, codes[i]);
    }
}

static void pack_zeros(const awq_weight *weight, struct packing packing, uint32_t *words)
{
    for (int64_t row = 0; row < weight->n; row++)
        for (int64_t group = 0; group < weight->groups; group++)
            put(packing, words + group, weight->groups, row, (uint32_t)awqi_weight_zero(weight, row, group));
}

awq_status awqi_compressed_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed)
{
    awq_status status = awqi_layout_refuse_input_scale(weight);
    if (status == AWQ_OK) status = awqi_layout_refuse_short_group(weight, true);
    if (status != AWQ_OK) return status;
    const int64_t n = weight->n, k = weight->k, groups = weight->groups;
    const struct packing packing = find_packing(layout, weight->bits);
    const int64_t words = count_words(packing, k);
    void *codes, *scales, *shape, *zeros;
    status = awqi_packed_add(packed, layout->planes[0], AWQ_I32, 2, (const int64_t[]){n, words}, &codes);
    if (status == AWQ_OK)
        status =
            awqi_packed_add(packed, layout->planes[1], weight->scale_dtype, 2, (const int64_t[]){n, groups}, &scales);
    if (status == AWQ_OK) status = awqi_packed_add(packed, layout->planes[2], AWQ_I64, 1, (const int64_t[]){2}, &shape);
    if (status == AWQ_OK && !weight->symmetric)
        status = awqi_packed_add(packed, layout->planes[3], AWQ_I32, 2,
                                 (const int64_t[]){count_words(packing, n), groups}, &zeros);
    if (status != AWQ_OK) return status;
    memcpy(scales, weight->scales, (size_t)(n * groups) * awq_dtype_size(weight->scale_dtype));
    memcpy(shape, (const int64_t[]){n, k}, 2 * sizeof(int64_t));
    if (!weight->symmetric) pack_zeros(weight, packing, zeros);
    struct writing work = {weight, packing, codes, words};
    awqi_parallel_for(awqi_packed_context(packed), n, pack_row, &work);
    return AWQ_OK;
}

/* ---- reading */

struct reading {
    awq_weight *weight;
    struct packing packing;
    const awq_tensor *codes;
    const awq_tensor *zeros; /* NULL when symmetric */
};

static void unpack_codes(const struct reading *work, int64_t row)
{
    awq_weight *weight = work->weight;
    const uint32_t *words = awqi_tensor_row(work->codes, row);
    const int64_t stride = work->codes->strides[1];
    if (work->packing.per_word == 0) {
        uint8_t *stream = weight->codes + (uint64_t)row * weight->row_bytes;
        for (int64_t i = 0; i < (int64_t)weight->row_bytes; i++)
            stream[i] = (uint8_t)(words[i / 4 * stride] >> (8 * (i % 4)));
        int used = (int)(weight->k * weight->bits % 8); /* of the last byte; the rest is padding, whatever it holds */
        if (used != 0) stream[weight->row_bytes - 1] &= (uint8_t)((1 << used) - 1);
        return;
    }
    uint8_t codes[PART];
    for (int64_t first = 0; first < weight->k; first += PART) {
        int64_t count = awqi_min64(PART, weight->k - first);
        for (int64_t i = 0; i < count; i++) codes[i] = get(work->packing, words, stride, first + i);
        awqi_weight_set_codes(weight, row, first, count, codes);
    }
}

static void unpack_row(void *user_data, int64_t row)
{
    const struct reading *work = user_data;
    awq_weight *weight = work->weight;
    unpack_codes(work, row);
    if (work->zeros == NULL) return;
    const uint32_t *zeros = awqi_tensor_data(work->zeros);
    const int64_t *strides = work->zeros->strides;
    for (int64_t group = 0; group < weight->groups; group++)
        weight->zeros[row * weight->groups + group] = get(work->packing, zeros + group * strides[1], strides[0], row);
}

/* weight_shape says how much of the last words is padding. */
static awq_status read_shape(const struct awqi_planes *planes, const char *name, int64_t *n, int64_t *k)
{
    const awq_tensor *plane = awqi_planes_get(planes, name);
    if (plane == NULL) return awqi_fail(AWQ_ERROR_INVALID, "plane %s is missing", name);
    awq_status status = awqi_check_tensor(plane, 1, 1u << AWQ_I64, name);
    if (status == AWQ_OK) status = awqi_check_shape_1d(plane, 2, name);
    if (status != AWQ_OK) return status;
    const int64_t *shape = awqi_tensor_data(plane);
    *n = shape[0];
    *k = shape[plane->strides[0]];
    if (*n < 1 || *k < 1 || *n > INT64_MAX / 64 || *k > INT64_MAX / 64)
        return awqi_fail(AWQ_ERROR_INVALID, "%s is [%lld, %lld]", name, (long long)*n, (long long)*k);
    return AWQ_OK;
}

static awq_status find_zeros(const struct awqi_layout *layout, const struct awqi_planes *planes, bool symmetric,
                             int64_t rows, int64_t groups, const awq_tensor **zeros)
{
    awq_status status = awqi_planes_find(planes, layout->planes[3], !symmetric, AWQI_WORDS, rows, groups, zeros);
    if (status == AWQ_OK && symmetric && *zeros != NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "plane %s is given for a symmetric weight", layout->planes[3]);
    return status;
}

awq_status awqi_compressed_unpack(const struct awqi_layout *layout, awq_context *context,
                                  const struct awqi_planes *planes, const awq_unpack_options *options,
                                  awq_weight **weight)
{
    if (options->bits != 2 && options->bits != 3 && options->bits != 4 && options->bits != 8)
        return awqi_fail(AWQ_ERROR_INVALID, "%d bits asked for; 2, 3, 4 and 8 are possible", options->bits);
    const struct packing packing = find_packing(layout, options->bits);
    const awq_tensor *codes, *scales, *zeros;
    int64_t n = 0, k = 0;
    struct awqi_quantizer quantizer;
    awq_status status = read_shape(planes, layout->planes[2], &n, &k);
    if (status == AWQ_OK)
        status = awqi_planes_find(planes, layout->planes[0], true, AWQI_WORDS, n, count_words(packing, k), &codes);
    if (status == AWQ_OK) status = awqi_planes_find(planes, layout->planes[1], true, AWQI_FLOATS, n, -1, &scales);
    if (status == AWQ_OK)
        status = find_zeros(layout, planes, options->flags & AWQ_QUANTIZE_SYMMETRIC, count_words(packing, n),
                            scales->shape[1], &zeros);
    if (status == AWQ_OK) status = awqi_layout_resolve(options, k, scales->shape[1], scales->dtype, &quantizer);
    if (status == AWQ_OK) status = awqi_weight_allocate(context, n, k, &quantizer, false, weight);
    if (status == AWQ_OK) status = awqi_layout_read_scales(*weight, scales, false, NULL);
    if (status != AWQ_OK) return status;
    struct reading work = {*weight, packing, codes, zeros};
    awqi_parallel_for(context, n, unpack_row, &work);
    return AWQ_OK;
}
