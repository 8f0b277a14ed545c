/* Choosing the next token. */
#include "app.h"
#include "sampler.h"

#include <math.h>

enum { VOCABULARY = 6, DRAWS = 20000 };

static const float logits[VOCABULARY] = {0.0f, 2.0f, 1.0f, 2.0f, -1.0f, -INFINITY};

static void draw(const struct sampler *sampler, int counts[VOCABULARY])
{
    struct candidate candidates[VOCABULARY];
    uint64_t random = random_begin(7, 3);
    memset(counts, 0, VOCABULARY * sizeof *counts);
    for (int i = 0; i < DRAWS; i++) {
        int32_t token = sample_token(sampler, logits, VOCABULARY, candidates, &random);
        assert_in_range(token, 0, VOCABULARY - 1);
        counts[token]++;
    }
}

/* Each count is within five standard deviations of the binomial distribution's mean. */
static void check_counts(const int counts[VOCABULARY], const double weights[VOCABULARY])
{
    double total = 0;
    for (int i = 0; i < VOCABULARY; i++) total += weights[i];
    for (int i = 0; i < VOCABULARY; i++) {
        double p = weights[i] / total, deviation = sqrt(DRAWS * p * (1 - p));
        assert_true(fabs(counts[i] - DRAWS * p) <= 5 * deviation);
    }
}

static void greedy_takes_the_first_of_the_likeliest(void **state)
{
    (void)state;
    const struct sampler sampler = {0};
    int counts[VOCABULARY];
    draw(&sampler, counts);
    assert_int_equal(counts[1], DRAWS);
}

static void temperature_shapes_the_distribution(void **state)
{
    (void)state;
    for (double temperature = 0.5; temperature < 3; temperature *= 2) {
        const struct sampler sampler = {.temperature = temperature};
        double weights[VOCABULARY];
        int counts[VOCABULARY];
        for (int i = 0; i < VOCABULARY; i++) weights[i] = exp((double)logits[i] / temperature);
        draw(&sampler, counts);
        check_counts(counts, weights);
    }
}

static void top_k_and_top_p_cut_the_tail(void **state)
{
    (void)state;
    const struct sampler three = {.temperature = 1, .top_k = 3}, half = {.temperature = 1, .top_p = 0.5};
    const struct sampler both = {.temperature = 1, .top_k = 3, .top_p = 0.999}, one = {.temperature = 1, .top_k = 1};
    const double first_three[VOCABULARY] = {0, exp(2), exp(1), exp(2), 0, 0};
    const double first_two[VOCABULARY] = {0, 1, 0, 1, 0, 0};
    int counts[VOCABULARY];
    draw(&three, counts);
    check_counts(counts, first_three);
    draw(&half, counts); /* 0.39 of the mass is token 1, 0.78 tokens 1 and 3 */
    check_counts(counts, first_two);
    draw(&both, counts);
    check_counts(counts, first_three);
    draw(&one, counts);
    assert_int_equal(counts[1], DRAWS);
}

static void seeds_and_streams_repeat_and_differ(void **state)
{
    (void)state;
    assert_true(random_begin(1, 2) == random_begin(1, 2));
    assert_true(random_begin(1, 2) != random_begin(2, 1));
    assert_true(random_begin(0, 0) != random_begin(0, 1));
    assert_true(random_begin(0, 0) != random_begin(1, 0));
}

static void logits_that_are_no_numbers_are_refused(void **state)
{
    (void)state;
    const float bad[2][3] = {{0, NAN, 1}, {0, 1, INFINITY}};
    const struct sampler sampler = {.temperature = 1};
    struct candidate candidates[3];
    uint64_t random = 0;
    for (int i = 0; i < 2; i++) assert_int_equal(sample_token(&sampler, bad[i], 3, candidates, &random), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_takes_the_first_of_the_likeliest),
        cmocka_unit_test(temperature_shapes_the_distribution),
        cmocka_unit_test(top_k_and_top_p_cut_the_tail),
        cmocka_unit_test(seeds_and_streams_repeat_and_differ),
        cmocka_unit_test(logits_that_are_no_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
