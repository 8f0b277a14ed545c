/* What the tests of packed formats share: random weights, and their planes as awq_unpack takes them. */
#ifndef TEST_LAYOUTS_H
#define TEST_LAYOUTS_H

#include "scratch.h"
#include "support.h"
#include "weight.h"

enum { MAX_PLANES = 7, FIRST_LAYOUT = AWQ_LAYOUT_GEMM, LAST_LAYOUT = AWQ_LAYOUT_LLM_AWQ };

/* Codes, scales and zero points at random.  group_size may be AWQ_GROUP_PER_ROW. */
static inline awq_weight *random_weight(struct scratch *scratch, uint64_t *seed, int64_t n, int64_t k,
                                        int64_t group_size, int32_t bits, int32_t scale_dtype, bool symmetric)
{
    int64_t groups = group_size < 0 ? 1 : awqi_ceil_div(k, group_size);
    uint8_t *codes = malloc((size_t)(n * k)), *zeros = malloc((size_t)(n * groups));
    void *scales = random_array(seed, scale_dtype, n * groups, 0.01f);
    for (int64_t i = 0; i < n * k; i++) codes[i] = (uint8_t)(random_bits(seed) & ((1u << bits) - 1));
    for (int64_t i = 0; i < n * groups; i++) zeros[i] = (uint8_t)(random_bits(seed) & ((1u << bits) - 1));
    awq_tensor code_view, scale_view, zero_view;
    awq_tensor_init_const_2d(&code_view, codes, AWQ_U8, n, k);
    awq_tensor_init_const_2d(&scale_view, scales, scale_dtype, n, groups);
    awq_tensor_init_const_2d(&zero_view, zeros, AWQ_U8, n, groups);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = group_size;
    options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    awq_weight *weight;
    assert_status(
        awq_weight_create(scratch->context, &code_view, &scale_view, symmetric ? NULL : &zero_view, &options, &weight),
        AWQ_OK);
    free(codes);
    free(zeros);
    free(scales);
    return weight;
}

struct given {
    size_t count;
    const char *names[MAX_PLANES + 1];
    awq_tensor planes[MAX_PLANES + 1];
    const awq_tensor *pointers[MAX_PLANES + 1];
};

static inline struct given open_packed(const awq_packed *packed)
{
    struct given given = {.count = awq_packed_plane_count(packed)};
    assert_in_range(given.count, 1, MAX_PLANES);
    for (size_t i = 0; i < given.count; i++) {
        assert_status(awq_packed_get_plane(packed, i, &given.names[i], &given.planes[i]), AWQ_OK);
        assert_int_equal(given.planes[i].flags, AWQ_TENSOR_READONLY);
    }
    return given;
}

/* The plane of a name; fails the test when there is none. */
static inline awq_tensor *given_plane(struct given *given, const char *name)
{
    for (size_t i = 0; i < given->count; i++)
        if (strcmp(given->names[i], name) == 0) return &given->planes[i];
    fail_msg("no plane named %s", name);
    return NULL;
}

static inline awq_status unpack(struct scratch *scratch, int32_t layout, struct given *given,
                                const awq_unpack_options *options, awq_weight **weight)
{
    for (size_t i = 0; i < given->count; i++) given->pointers[i] = &given->planes[i];
    return awq_unpack(scratch->context, layout, given->count, given->names, given->pointers, options, weight);
}

static inline awq_unpack_options unpack_options(int32_t bits, int64_t group_size, bool symmetric)
{
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = bits;
    options.group_size = group_size;
    options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    return options;
}

/* The same codes, scales and zero points; scales by value, since some formats hold one dtype of them only. */
static inline void assert_same_weight(const awq_weight *a, const awq_weight *b)
{
    assert_int_equal(a->n, b->n);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->bits, b->bits);
    assert_int_equal(a->group_size, b->group_size);
    assert_int_equal(a->symmetric, b->symmetric);
    assert_int_equal(a->input_scale != NULL, b->input_scale != NULL);
    assert_int_equal(memcmp(a->codes, b->codes, (size_t)a->n * a->row_bytes), 0);
    for (int64_t row = 0; row < a->n; row++)
        for (int64_t group = 0; group < a->groups; group++) {
            assert_true(awqi_weight_scale(a, row, group) == awqi_weight_scale(b, row, group));
            assert_int_equal(awqi_weight_zero(a, row, group), awqi_weight_zero(b, row, group));
        }
    for (int64_t i = 0; a->input_scale != NULL && i < a->k; i++) assert_true(a->input_scale[i] == b->input_scale[i]);
}

#endif /* TEST_LAYOUTS_H */
