/* Every pair of packed formats: a weight that went through both is the weight it was, or the refusal says why not. */
#include "layouts.h"

enum { LAYOUTS = LAST_LAYOUT + 1, WEIGHTS = 200 };

/* A weight of awkward shape, its packs and, where a format took it, what came back. */
struct subject {
    awq_weight *weight;
    awq_packed *packs[LAYOUTS];
    awq_weight *back[LAYOUTS];
};

static int64_t choose(uint64_t *seed, const int64_t *values, uint64_t count)
{
    return values[random_bits(seed) % count];
}

/* An extent; the largest is rare, and then the other one is small. */
static void choose_shape(uint64_t *seed, int64_t *n, int64_t *k)
{
    static const int64_t extents[] = {32, 96, 172, 320, 1000, 1368, 4096};
    *n = choose(seed, extents, 6);
    *k = choose(seed, extents, 6);
    if (random_bits(seed) % 8 != 0) return;
    bool wide = random_bits(seed) % 2;
    *(wide ? n : k) = choose(seed, extents, 4);
    *(wide ? k : n) = 4096;
}

/* Most formats hold 4 bits and F16 scales only, and GPTQ v1 no zero point of 0, so these are what most weights have. */
static awq_weight *choose_weight(struct scratch *scratch, uint64_t *seed, int index)
{
    static const int64_t groups[] = {32, 64, 128, AWQ_GROUP_PER_ROW};
    static const int32_t bits[] = {4, 4, 4, 4, 2, 3, 8}, dtypes[] = {AWQ_F16, AWQ_F16, AWQ_F16, AWQ_BF16, AWQ_F32};
    int64_t n = 320, k = 320, group = 64;
    if (index > 0) choose_shape(seed, &n, &k);
    if (index > 0) group = choose(seed, groups, 4);
    int32_t width = index > 0 ? bits[random_bits(seed) % 7] : 4;
    int32_t dtype = index > 0 ? dtypes[random_bits(seed) % 5] : AWQ_F16;
    bool symmetric = index > 0 && random_bits(seed) % 3 == 0, keeps_zeros = index > 0 && random_bits(seed) % 3 == 0;
    awq_weight *weight = random_weight(scratch, seed, n, k, group, width, dtype, symmetric);
    for (int64_t i = 0; !symmetric && !keeps_zeros && i < n * weight->groups; i++) weight->zeros[i] |= 1;
    if (dtype == AWQ_F32 && random_bits(seed) % 2 == 0) /* that fit F16 */
        for (int64_t i = 0; i < n * weight->groups; i++)
            ((float *)weight->scales)[i] = awqi_round_to(AWQ_F16, ((float *)weight->scales)[i]);
    return weight;
}

static void describe(int index, const awq_weight *weight)
{
    print_message("weight %d: [%lld][%lld], groups of %lld, %d bits, %s, scales %s\n", index, (long long)weight->n,
                  (long long)weight->k, (long long)weight->group_size, weight->bits,
                  weight->symmetric ? "symmetric" : "with zero points", awq_dtype_name(weight->scale_dtype));
}

/* Pack; a refusal names the format and what of the weight it cannot hold. */
static awq_packed *try_pack(struct scratch *scratch, const awq_weight *weight, int32_t layout)
{
    char name[64];
    awq_packed *packed;
    if (awq_pack(scratch->context, weight, layout, &packed) == AWQ_OK) return packed;
    assert_status(awq_pack(scratch->context, weight, layout, &packed), AWQ_ERROR_UNSUPPORTED);
    snprintf(name, sizeof name, "awq_pack: %s: ", awq_layout_name(layout));
    assert_int_equal(strncmp(awq_last_error(), name, strlen(name)), 0);
    const char *reason = awq_last_error() + strlen(name);
    assert_true(strpbrk(reason, "0123456789") != NULL); /* the number that does not fit */
    return NULL;
}

static awq_weight *unpack_as(struct scratch *scratch, const awq_weight *like, int32_t layout, const awq_packed *packed)
{
    struct given given = open_packed(packed);
    awq_unpack_options options = unpack_options(like->bits, like->group_size, like->symmetric);
    awq_weight *weight;
    assert_status(unpack(scratch, layout, &given, &options, &weight), AWQ_OK);
    return weight;
}

static void assert_same_planes(const awq_packed *a, const awq_packed *b)
{
    struct given planes[2] = {open_packed(a), open_packed(b)};
    assert_int_equal(planes[0].count, planes[1].count);
    for (size_t i = 0; i < planes[0].count; i++) {
        const awq_tensor *left = &planes[0].planes[i], *right = &planes[1].planes[i];
        assert_string_equal(planes[0].names[i], planes[1].names[i]);
        assert_int_equal(left->dtype, right->dtype);
        assert_memory_equal(left->shape, right->shape, sizeof left->shape);
        size_t bytes = (size_t)awqi_tensor_elements(left) * awq_dtype_size(left->dtype);
        assert_int_equal(memcmp(left->data, right->data, bytes), 0);
    }
}

/* What came back from one format, packed in another, is what the weight itself packs to.  Only where the first format
 * holds another dtype of scales than the weight has may planes differ, and then the weight in them must not. */
static bool check_pair(struct scratch *scratch, const struct subject *subject, int32_t from, int32_t to)
{
    const awq_weight *back = subject->back[from];
    awq_packed *again = try_pack(scratch, back, to);
    if (back->scale_dtype == subject->weight->scale_dtype) {
        assert_int_equal(again != NULL, subject->packs[to] != NULL);
        if (again != NULL) assert_same_planes(again, subject->packs[to]);
    } else if (again != NULL) {
        awq_weight *twice = unpack_as(scratch, back, to, again);
        assert_same_weight(subject->weight, twice);
        awq_weight_destroy(twice);
    }
    awq_packed_destroy(again);
    return again != NULL;
}

static void check_weight(struct scratch *scratch, awq_weight *weight, int taken[LAYOUTS][LAYOUTS])
{
    struct subject subject = {.weight = weight};
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        subject.packs[layout] = try_pack(scratch, weight, layout);
        if (subject.packs[layout] == NULL) continue;
        subject.back[layout] = unpack_as(scratch, weight, layout, subject.packs[layout]);
        assert_same_weight(weight, subject.back[layout]);
    }
    for (int32_t from = FIRST_LAYOUT; from <= LAST_LAYOUT; from++)
        for (int32_t to = FIRST_LAYOUT; subject.back[from] != NULL && to <= LAST_LAYOUT; to++)
            taken[from][to] += check_pair(scratch, &subject, from, to);
    for (int32_t layout = FIRST_LAYOUT; layout <= LAST_LAYOUT; layout++) {
        awq_weight_destroy(subject.back[layout]);
        awq_packed_destroy(subject.packs[layout]);
    }
}

static void test_every_pair(void **state)
{
    const char *given = getenv("AWQ_TEST_SEED");
    uint64_t seed = given != NULL ? strtoull(given, NULL, 0) : 20261121;
    int taken[LAYOUTS][LAYOUTS] = {{0}};
    print_message("AWQ_TEST_SEED=%llu\n", (unsigned long long)seed);
    for (int index = 0; index < WEIGHTS; index++) {
        awq_weight *weight = choose_weight(*state, &seed, index);
        describe(index, weight);
        check_weight(*state, weight, taken);
        awq_weight_destroy(weight);
    }
    for (int32_t from = FIRST_LAYOUT; from <= LAST_LAYOUT; from++)
        for (int32_t to = FIRST_LAYOUT; to <= LAST_LAYOUT; to++)
            if (taken[from][to] == 0)
                fail_msg("no weight went from %s to %s", awq_layout_name(from), awq_layout_name(to));
}

int main(void)
{
    const struct CMUnitTest tests[] = {SCRATCH_TEST(test_every_pair)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
