/* Every way to convert arrays against the conversion of single numbers: all halves, and single numbers of all kinds. */
#include "cpu/convert.h"
#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

enum { HALVES = 65536, MARGIN = 32 };

/* The entries that this processor has, from 'index' on. */
static const struct awqi_converters *next_usable(size_t *index)
{
    const struct awqi_converters *entry;
    while ((entry = awqi_converters_at((*index)++)) != NULL)
        if ((entry->features & ~awqi_cpu_features()) == 0) break;
    return entry;
}

static void every_half_widens(void **state)
{
    (void)state;
    static uint16_t halves[HALVES];
    static float values[HALVES];
    const struct awqi_converters *entry;
    for (size_t i = 0; i < HALVES; i++) halves[i] = (uint16_t)i;
    for (size_t index = 0; (entry = next_usable(&index)) != NULL;) {
        entry->f16_to_f32(halves, values, HALVES);
        for (size_t i = 0; i < HALVES; i++)
            assert_int_equal(awqi_f32_to_bits(values[i]), awqi_f32_to_bits(awqi_f16_to_f32(halves[i])));
        entry->bf16_to_f32(halves, values, HALVES);
        for (size_t i = 0; i < HALVES; i++)
            assert_int_equal(awqi_f32_to_bits(values[i]), awqi_f32_to_bits(awqi_bf16_to_f32(halves[i])));
    }
}

/* Any bits; halves and what lies beside them and half-way between two. */
static float value_of_kind(uint64_t *state, int kind)
{
    uint64_t bits = random_bits(state);
    uint32_t half = (uint32_t)(bits >> 32) & 0xffff;
    if (kind == 0) return awqi_bits_to_f32((uint32_t)bits);
    if (kind == 1) return awqi_bits_to_f32(half << 16 | 0x8000u | ((uint32_t)bits & 1u));
    float value = awqi_f16_to_f32((uint16_t)half);
    return awqi_bits_to_f32(awqi_f32_to_bits(value) + (kind == 2 ? 0x1000u : 0u) + (uint32_t)(bits % 3) - 1u);
}

static void every_kind_of_number_rounds(void **state)
{
    (void)state;
    enum { COUNT = 200000 };
    uint64_t seed = 71;
    float *values = malloc(COUNT * sizeof *values);
    uint16_t *halves = malloc(COUNT * sizeof *halves);
    assert_true(values != NULL && halves != NULL);
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < COUNT; i++) values[i] = value_of_kind(&seed, (int)(i % 4));
    const struct awqi_converters *entry;
    for (size_t index = 0; (entry = next_usable(&index)) != NULL;) {
        entry->f32_to_f16(values, halves, COUNT);
        for (size_t i = 0; i < COUNT; i++) assert_int_equal(halves[i], awqi_f32_to_f16(values[i]));
        entry->f32_to_bf16(values, halves, COUNT);
        for (size_t i = 0; i < COUNT; i++) assert_int_equal(halves[i], awqi_f32_to_bf16(values[i]));
    }
    free(values);
    free(halves);
}

/* All small counts at odd places; nothing before or after is written. */
static void tails_stay_within_bounds(void **state)
{
    (void)state;
    const struct awqi_converters *entry;
    for (size_t index = 0; (entry = next_usable(&index)) != NULL;)
        for (int64_t count = 0; count <= 35; count++) {
            float values[35 + 2 * MARGIN + 1];
            uint16_t halves[35 + 2 * MARGIN + 1];
            for (size_t i = 0; i < sizeof halves / sizeof *halves; i++) {
                values[i] = -1.0f;
                halves[i] = 0x3c00;
            }
            entry->f16_to_f32(halves + 1, values + MARGIN + 1, count);
            for (int64_t i = 0; i < (int64_t)(sizeof values / sizeof *values); i++)
                assert_true(values[i] == (i > MARGIN && i <= MARGIN + count ? 1.0f : -1.0f));
            entry->bf16_to_f32(halves + 1, values + MARGIN + 1, count);
            for (int64_t i = 0; i < (int64_t)(sizeof values / sizeof *values); i++)
                assert_true(values[i] == (i > MARGIN && i <= MARGIN + count ? 0.0078125f : -1.0f));
            for (size_t i = 0; i < sizeof values / sizeof *values; i++) values[i] = 2.0f;
            entry->f32_to_f16(values + 1, halves + MARGIN + 1, count);
            for (int64_t i = 0; i < (int64_t)(sizeof halves / sizeof *halves); i++)
                assert_int_equal(halves[i], i > MARGIN && i <= MARGIN + count ? 0x4000 : 0x3c00);
            entry->f32_to_bf16(values + 1, halves + MARGIN + 1, count);
            for (int64_t i = 0; i < (int64_t)(sizeof halves / sizeof *halves); i++)
                assert_int_equal(halves[i], i > MARGIN && i <= MARGIN + count ? 0x4000 : 0x3c00);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_widens),
        cmocka_unit_test(every_kind_of_number_rounds),
        cmocka_unit_test(tails_stay_within_bounds),
    };
    return cmocka_run_group_tests_name("convert", tests, NULL, NULL);
}
