/* Every way to quantise a group against the loops that define it, bit for bit. */
#include "cpu/quantize.h"
#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

enum { MOST = 140, MARGIN = 32, ROOM = MOST + 2 * MARGIN };

static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
static const float poison = -123.5f;

/* A group and what its column scales are. */
struct group {
    int32_t dtype;
    int64_t count;
    float values[ROOM], scales[ROOM];
    float limit, step, low, high, offset;
};

/* Ordinary weights; huge, tiny and equal ones; ties between two codes. */
static void make_group(uint64_t *state, int32_t dtype, int64_t count, int kind, struct group *group)
{
    static const float deviations[] = {0.05f, 5e3f, 1e-5f, 0.0f};
    *group = (struct group){.dtype = dtype, .count = count, .limit = kind % 2 ? 0.07f : INFINITY};
    group->step = awqi_round_to(dtype, kind == 4 ? 0.5f : 0.013f * (deviations[kind % 4] + 1e-5f));
    group->offset = (float)(random_bits(state) % 16);
    group->low = -group->offset;
    group->high = 15.0f - group->offset;
    for (int64_t i = 0; i < ROOM; i++) {
        float value = deviations[kind % 4] * random_normal(state);
        if (kind == 4) value = 0.25f * (float)((int64_t)(random_bits(state) % 64) - 32);
        group->values[i] = awqi_round_to(dtype, i < MARGIN || i >= MARGIN + count ? poison : value);
        group->scales[i] = awqi_round_to(dtype, (float)(0.25 + 2.0 * random_uniform(state)));
    }
    if (kind == 3) group->values[MARGIN] = -0.0f;
}

static void assert_same_bits(const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++) /* the sign of a zero is lost when it becomes a level */
        assert_true(awqi_f32_to_bits(a[i] + 0.0f) == awqi_f32_to_bits(b[i] + 0.0f));
}

static void run_group(const struct awqi_quantize_kernels *kernels, const struct group *group, bool scaled,
                      float range[2], float *values, float *levels, float *dequantized, uint8_t *codes)
{
    const float *scales = scaled ? group->scales + MARGIN : NULL;
    memcpy(values, group->values, sizeof group->values);
    kernels->scale(group->dtype, values + MARGIN, scales, group->limit, group->count, &range[0], &range[1]);
    memcpy(levels, values, sizeof group->values);
    kernels->find_levels(group->dtype, levels + MARGIN, group->step, group->low, group->high, group->count);
    memset(codes, 99, ROOM);
    kernels->store_codes(levels + MARGIN, group->offset, codes + MARGIN, group->count);
    for (int i = 0; i < ROOM; i++) dequantized[i] = poison;
    kernels->dequantize(group->dtype, levels + MARGIN, group->step, scales, dequantized + MARGIN, group->count);
}

static void compare(const struct awqi_quantize_kernels *kernels, const struct group *group, bool scaled)
{
    float values[2][ROOM], levels[2][ROOM], dequantized[2][ROOM], range[2][2];
    uint8_t codes[2][ROOM];
    run_group(&awqi_quantize_ref, group, scaled, range[0], values[0], levels[0], dequantized[0], codes[0]);
    run_group(kernels, group, scaled, range[1], values[1], levels[1], dequantized[1], codes[1]);
    assert_same_bits(range[0], range[1], 2);
    assert_same_bits(values[0], values[1], ROOM);
    assert_same_bits(levels[0], levels[1], ROOM);
    assert_same_bits(dequantized[0], dequantized[1], ROOM);
    assert_memory_equal(codes[0], codes[1], ROOM);
    for (int i = 0; i < MARGIN; i++)
        assert_true(dequantized[1][i] == poison && dequantized[1][MARGIN + group->count + i] == poison);
}

static void every_kernel_is_the_definition(void **state)
{
    (void)state;
    uint64_t seed = 20;
    printf("seed %llu\n", (unsigned long long)seed);
    const struct awqi_quantize_kernels *kernels;
    for (size_t index = 1; (kernels = awqi_quantize_kernels_at(index)) != NULL; index++) {
        if ((kernels->features & ~awqi_cpu_features()) != 0) continue;
        for (int64_t count = 1; count <= MOST; count += count < 40 ? 1 : 11)
            for (int kind = 0; kind < 5; kind++)
                for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
                    struct group group;
                    make_group(&seed, dtypes[i], count, kind, &group);
                    compare(kernels, &group, false);
                    compare(kernels, &group, true);
                }
    }
}

static void the_best_for_a_mask_needs_no_more(void **state)
{
    (void)state;
    for (uint32_t mask = 0; mask < 256; mask++)
        assert_int_equal(awqi_quantize_kernels_for(mask)->features & ~mask, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kernel_is_the_definition),
        cmocka_unit_test(the_best_for_a_mask_needs_no_more),
    };
    return cmocka_run_group_tests_name("quantize_kernels", tests, NULL, NULL);
}
