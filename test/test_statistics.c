/* The inner loops of calibration and clip search: every instruction set gives the bits of the first. */
#include "cpu/statistics.h"
#include "support.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

enum { WIDTH = 131, ROWS = 134, OUTPUTS = AWQI_TILE_OUTPUTS };

static void squares_are_the_same_bits(void **state)
{
    (void)state;
    uint64_t seed = 8;
    printf("seed %llu\n", (unsigned long long)seed);
    float *root = random_array(&seed, AWQ_F32, ROWS * WIDTH, 1.0f);
    float *errors = random_array(&seed, AWQ_F32, WIDTH * OUTPUTS, 0.01f);
    assert_true(root != NULL && errors != NULL);
    for (int triangular = 0; triangular < 2; triangular++) {
        for (int64_t row = 0; triangular && row < ROWS; row++)
            for (int64_t j = 0; j < awqi_min64(row, WIDTH); j++) root[row * WIDTH + j] = 0.0f;
        for (int64_t rows = 0; rows <= ROWS; rows += 2) {
            double expected[OUTPUTS] = {0}, sums[OUTPUTS];
            awqi_statistics_base.add_squares(root, rows, WIDTH, triangular, errors, expected);
            const struct awqi_statistics_kernels *kernels;
            for (size_t index = 1; (kernels = awqi_statistics_at(index)) != NULL; index++) {
                if ((kernels->features & ~awqi_cpu_features()) != 0) continue;
                memset(sums, 0, sizeof sums);
                kernels->add_squares(root, rows, WIDTH, triangular, errors, sums);
                assert_memory_equal(sums, expected, sizeof sums);
            }
        }
    }
    free(root);
    free(errors);
}

static void fill_sums(double store[5][WIDTH], struct awqi_channel_sums *sums)
{
    memset(store, 0, 5 * sizeof *store);
    *sums = (struct awqi_channel_sums){store[0], store[1], store[2], store[3], store[4]};
}

static void channel_sums_are_the_same_bits(void **state)
{
    (void)state;
    const struct awqi_statistics_kernels *kernels;
    for (size_t index = 1; (kernels = awqi_statistics_at(index)) != NULL; index++) {
        if ((kernels->features & ~awqi_cpu_features()) != 0) continue;
        for (int64_t count = 0; count <= WIDTH; count += count < 20 ? 1 : 37) {
            double expected_store[5][WIDTH], store[5][WIDTH];
            struct awqi_channel_sums expected, sums;
            uint64_t seed = 9;
            fill_sums(expected_store, &expected);
            fill_sums(store, &sums);
            for (int row = 0; row < 200; row++) {
                float x[WIDTH];
                double weight = row % 3 ? 1.0 : (double)(float)random_uniform(&seed);
                for (int i = 0; i < WIDTH; i++) x[i] = 1e3f * random_normal(&seed) * random_normal(&seed);
                awqi_statistics_base.add_row(x, weight, count, &expected);
                kernels->add_row(x, weight, count, &sums);
            }
            assert_memory_equal(store, expected_store, sizeof store);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(squares_are_the_same_bits),
        cmocka_unit_test(channel_sums_are_the_same_bits),
    };
    return cmocka_run_group_tests_name("statistics", tests, NULL, NULL);
}
