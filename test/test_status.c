/* Status names, the last error, and sized structs. */
#include "internal.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void names_are_those_of_the_header(void **state)
{
    (void)state;
    assert_string_equal(awq_status_name(AWQ_OK), "AWQ_OK");
    assert_string_equal(awq_status_name(AWQ_ERROR_INVALID), "AWQ_ERROR_INVALID");
    for (awq_status status = AWQ_ERROR_VERSION; status <= AWQ_OK; status++)
        assert_int_equal(strncmp(awq_status_name(status), "AWQ_", 4), 0);
    assert_string_equal(awq_status_name(1), "unknown status");
    assert_string_equal(awq_status_name(INT32_MIN), "unknown status");
}

static void version_matches_the_header(void **state)
{
    (void)state;
    assert_int_equal(awq_version_number(),
                     AWQ_VERSION_MAJOR * 10000 + AWQ_VERSION_MINOR * 100 + AWQ_VERSION_PATCH);
    assert_non_null(strchr(awq_version_string(), '.'));
}

static void *error_of_another_thread(void *argument)
{
    (void)argument;
    assert_string_equal(awq_last_error(), "");
    awqi_fail(AWQ_ERROR_IO, "theirs");
    return NULL;
}

static void last_error_belongs_to_its_thread(void **state)
{
    (void)state;
    assert_int_equal(awqi_fail(AWQ_ERROR_IO, "mine, %d", 7), AWQ_ERROR_IO);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, error_of_another_thread, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(awq_last_error(), "mine, 7");
}

static void errors_gain_context_and_survive_their_own_text(void **state)
{
    (void)state;
    awqi_fail(AWQ_ERROR_IO, "no such file");
    assert_int_equal(awqi_fail_in(AWQ_ERROR_FORMAT, "%s", "config.json"), AWQ_ERROR_FORMAT);
    assert_string_equal(awq_last_error(), "config.json: no such file");
    awqi_fail(AWQ_ERROR_IO, "again: %s", awq_last_error());
    assert_string_equal(awq_last_error(), "again: config.json: no such file");
    for (int i = 0; i < 300; i++) awqi_fail_in(AWQ_ERROR_IO, "deeper and deeper");
    assert_true(strlen(awq_last_error()) < 1024);
}

struct grown {
    uint32_t struct_size;
    int32_t known;
    uint64_t later;
};

static void shorter_structs_are_extended_with_zeros(void **state)
{
    (void)state;
    struct grown given = {8, 5, 99}, known;
    memset(&known, 0xaa, sizeof known);
    assert_int_equal(awqi_import(&known, sizeof known, &given, "grown"), AWQ_OK);
    assert_int_equal(known.known, 5);
    assert_int_equal(known.later, 0);
    assert_int_equal(awqi_import(&known, sizeof known, NULL, "grown"), AWQ_OK);
    assert_int_equal(known.known, 0);
}

static void longer_structs_need_a_zero_tail(void **state)
{
    (void)state;
    struct grown given = {sizeof given, 5, 0};
    struct { uint32_t struct_size; int32_t known; } known;
    assert_int_equal(awqi_import(&known, sizeof known, &given, "grown"), AWQ_OK);
    assert_int_equal(known.known, 5);
    given.later = 1;
    assert_int_equal(awqi_import(&known, sizeof known, &given, "grown"), AWQ_ERROR_INVALID);
    assert_non_null(strstr(awq_last_error(), "grown"));
}

static void garbage_sizes_are_refused(void **state)
{
    (void)state;
    struct grown known;
    const uint32_t sizes[] = {0, 1, 3, 4097, 0xffffffffu};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct grown given = {sizes[i], 0, 0};
        assert_int_equal(awqi_import(&known, sizeof known, &given, "grown"), AWQ_ERROR_INVALID);
        assert_int_equal(awqi_export(&given, &known, sizeof known, "grown"), AWQ_ERROR_INVALID);
    }
    assert_int_equal(awqi_export(NULL, &known, sizeof known, "grown"), AWQ_ERROR_INVALID);
}

static void results_stay_inside_the_callers_struct(void **state)
{
    (void)state;
    const struct grown known = {sizeof known, 5, 77};
    struct grown given = {8, -1, 0x1122334455667788u};
    assert_int_equal(awqi_export(&given, &known, sizeof known, "grown"), AWQ_OK);
    assert_int_equal(given.struct_size, 8);
    assert_int_equal(given.known, 5);
    assert_true(given.later == 0x1122334455667788u);
}

static void struct_init_sets_the_size(void **state)
{
    (void)state;
    awq_search_options options;
    memset(&options, 0xff, sizeof options);
    awq_struct_init(&options, sizeof options);
    assert_int_equal(options.struct_size, sizeof options);
    assert_int_equal(options.grid_points, 0);
    assert_null(options.quantize);
    awq_struct_init(NULL, 8);
    uint32_t tiny = 5;
    awq_struct_init(&tiny, 3);
    assert_int_equal(tiny, 5);
}

static void text_is_cut_to_the_buffer(void **state)
{
    (void)state;
    char buffer[4] = "zzz";
    size_t length = 0;
    awqi_copy_text("abcdef", buffer, sizeof buffer, &length);
    assert_string_equal(buffer, "abc");
    assert_int_equal(length, 6);
    awqi_copy_text("abcdef", NULL, 0, &length);
    assert_int_equal(length, 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_those_of_the_header),
        cmocka_unit_test(version_matches_the_header),
        cmocka_unit_test(last_error_belongs_to_its_thread),
        cmocka_unit_test(errors_gain_context_and_survive_their_own_text),
        cmocka_unit_test(shorter_structs_are_extended_with_zeros),
        cmocka_unit_test(longer_structs_need_a_zero_tail),
        cmocka_unit_test(garbage_sizes_are_refused),
        cmocka_unit_test(results_stay_inside_the_callers_struct),
        cmocka_unit_test(struct_init_sets_the_size),
        cmocka_unit_test(text_is_cut_to_the_buffer),
    };
    return cmocka_run_group_tests_name("status", tests, NULL, NULL);
}
