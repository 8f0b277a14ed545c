/* awq bench: what its figures mean, and what its three writers make of them. */
#include "app.h"
#include "bench.h"

#include <jansson.h>
#include <math.h>

/* ---- medians and ranks */

static void samples_are_summarized(void **state)
{
    (void)state;
    double one[] = {3}, two[] = {4, 2}, ten[] = {9, 1, 8, 2, 7, 3, 6, 4, 5, 10};
    struct bench_times times = bench_summarize(one, 1);
    assert_true(times.p50 == 3 && times.p90 == 3 && times.minimum == 3 && times.samples == 1);
    times = bench_summarize(two, 2);
    assert_true(times.p50 == 3 && times.p90 == 4 && times.minimum == 2);
    times = bench_summarize(ten, 10);
    assert_true(times.p50 == 5.5 && times.p90 == 9 && times.minimum == 1 && times.samples == 10);
}

static void copies_exceed_the_cache(void **state)
{
    (void)state;
    struct bench_machine machine = {.device.last_level_cache_bytes = 32 << 20};
    for (uint64_t bytes = 1 << 20; bytes < (uint64_t)1 << 31; bytes *= 2) {
        const int copies = bench_copies(&machine, bytes);
        assert_true(copies >= 2);
        if (copies < BENCH_COPIES) assert_true((uint64_t)copies * bytes > 3 * machine.device.last_level_cache_bytes);
    }
    assert_int_equal(bench_copies(&machine, 0), BENCH_COPIES);
}

/* ---- a report */

static void add(struct bench_report *report, const char *name, enum bench_kind kind, int activation, int64_t rows,
                double seconds)
{
    struct bench_line line = {.shape = {4096, 1024}, .rows = rows, .kind = kind, .activation = activation, .copies = 8,
        .weight_bytes = 1 << 20, .bytes = 1 << 20, .flops = 2.0 * 4096 * 1024 * (double)rows,
        .times = {seconds, 2 * seconds, seconds / 2, 12}};
    strcpy(line.name, name);
    assert_true(bench_report_add(report, &line));
}

static struct bench_report report_of(int32_t device)
{
    struct bench_report report = {.bits = 4, .group_size = 128, .dtype = AWQ_F32,
        .machine = {.bandwidth = 5e10, .peaks = {{"fp32 FMA", 2e11}, {"bf16 dot", 4e11}}, .peak_count = 2}};
    report.machine.device.device_type = device;
    report.machine.device.compute_units = 2;
    strcpy(report.machine.device.name, "A <fast> & \"odd\" one");
    for (int64_t rows = 1; rows <= 16; rows *= 16) {
        add(&report, "gemv", BENCH_QUANTIZED, AWQ_ACTIVATION_EXACT, rows, 40e-6 * (double)rows);
        add(&report, "gemm", BENCH_QUANTIZED, AWQ_ACTIVATION_BF16, rows, 100e-6);
        add(&report, "fp16", BENCH_DENSE, AWQ_ACTIVATION_DEFAULT, rows, 120e-6);
        add(&report, "other", BENCH_PEER, AWQ_ACTIVATION_DEFAULT, rows, 80e-6);
    }
    bench_report_finish(&report);
    return report;
}

static void the_fastest_quantised_one_is_marked(void **state)
{
    (void)state;
    struct bench_report report = report_of(AWQ_DEVICE_CPU);
    assert_int_equal(report.count, 8);
    assert_int_equal(bench_group_end(&report, 0), 4);
    assert_int_equal(bench_group_end(&report, 4), 8);
    for (size_t i = 0; i < 8; i++) assert_int_equal(report.lines[i].fastest, i == 0 || i == 5);
    bench_report_free(&report);
}

static void modes_have_their_peaks(void **state)
{
    (void)state;
    struct bench_report report = report_of(AWQ_DEVICE_CPU);
    const struct bench_machine *machine = &report.machine;
    assert_string_equal(bench_peak_of(machine, AWQ_ACTIVATION_EXACT)->name, "fp32 FMA");
    assert_string_equal(bench_peak_of(machine, AWQ_ACTIVATION_SPLIT)->name, "bf16 dot");
    assert_string_equal(bench_peak_of(machine, AWQ_ACTIVATION_INT8)->name, "fp32 FMA"); /* no int8 dot here */
    bench_report_free(&report);
    report = report_of(AWQ_DEVICE_CUDA); /* the best rate of the baseline: 16 rows in 120 us */
    assert_float_equal(bench_peak_of(&report.machine, AWQ_ACTIVATION_DEFAULT)->rate, 2.0 * 4096 * 1024 * 16 / 120e-6,
                       1e6);
    bench_report_free(&report);
    const struct bench_machine unknown = {0};
    assert_null(bench_peak_of(&unknown, AWQ_ACTIVATION_EXACT));
}

static void json_has_every_figure(void **state)
{
    (void)state;
    struct bench_report report = report_of(AWQ_DEVICE_CPU);
    assert_true(bench_write_json(&report, app_path("bench.json")));
    json_error_t error;
    json_t *json = json_load_file(app_path("bench.json"), JSON_REJECT_DUPLICATES, &error), *lines;
    assert_non_null(json);
    assert_int_equal(json_integer_value(json_object_get(json, "bits")), 4);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json, "device"), "name")),
                        report.machine.device.name);
    lines = json_object_get(json, "lines");
    assert_int_equal(json_array_size(lines), 8);
    const json_t *line = json_array_get(lines, 0);
    assert_string_equal(json_string_value(json_object_get(line, "name")), "gemv");
    assert_true(json_is_true(json_object_get(line, "fastest")));
    assert_float_equal(json_real_value(json_object_get(line, "seconds_p50")), 40e-6, 1e-9);
    assert_float_equal(json_real_value(json_object_get(line, "seconds_p90")), 80e-6, 1e-9);
    assert_float_equal(json_real_value(json_object_get(line, "share_of_bandwidth")), (1 << 20) / 40e-6 / 5e10, 1e-3);
    assert_float_equal(json_real_value(json_object_get(line, "share_of_peak")), 2.0 * 4096 * 1024 / 40e-6 / 2e11, 1e-3);
    const json_t *ratios = json_object_get(line, "ratios");
    assert_float_equal(json_real_value(json_object_get(ratios, "fp16")), 3, 1e-4);
    assert_float_equal(json_real_value(json_object_get(ratios, "other")), 2, 1e-4);
    for (size_t i = 0; bench_published_at(i); i++) {
        const json_t *published = json_array_get(json_object_get(json, "published_not_measured"), i);
        assert_string_equal(json_string_value(json_object_get(published, "source")), bench_published_at(i)->source);
    }
    json_decref(json);
    bench_report_free(&report);
}

static size_t occurrences(const char *text, const char *part)
{
    size_t count = 0;
    for (; (text = strstr(text, part)); text += strlen(part)) count++;
    return count;
}

static void the_picture_is_whole(void **state)
{
    (void)state;
    struct bench_report report = report_of(AWQ_DEVICE_CPU);
    assert_true(bench_write_svg(&report, app_path("bench.svg")));
    static char text[65536];
    FILE *file = fopen(app_path("bench.svg"), "r");
    assert_non_null(file);
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    assert_int_equal(strncmp(text, "<svg xmlns=", 11), 0);
    assert_string_equal(text + strlen(text) - 7, "</svg>\n");
    assert_contains(text, "A &lt;fast> &amp; \"odd\" one");
    assert_contains(text, "50.0 GB/s");
    assert_contains(text, "400 GFLOP/s bf16 dot");
    assert_int_equal(occurrences(text, "<title>"), 8);      /* a point per line */
    assert_int_equal(occurrences(text, "class='path'"), 4); /* from one batch size to the next */
    assert_null(strstr(text, "nan"));
    assert_null(strstr(text, "inf"));
    assert_null(strstr(text, "http://www.w3.org/2000/svg'>"));
    bench_report_free(&report);
    app_capture();
    assert_false(bench_write_svg(&report, app_path("empty.svg")));
    assert_contains(app_release(), "nothing was measured");
}

static void a_file_that_cannot_be_written_is_said(void **state)
{
    (void)state;
    struct bench_report report = report_of(AWQ_DEVICE_CPU);
    app_capture();
    assert_false(bench_write_json(&report, app_path("none/bench.json")));
    assert_false(bench_write_svg(&report, app_path("none/bench.svg")));
    assert_contains(app_release(), "No such file");
    bench_report_free(&report);
}

/* ---- peers */

static const struct bench_machine small_machine = {.device.compute_units = 2, .device.last_level_cache_bytes = 1000};
static const struct bench_problem problem = {.machine = &small_machine, .shape = {8, 16}, .bits = 4, .group_size = 32};

static void a_peer_is_asked_and_believed(void **state)
{
    (void)state;
    struct bench_peer *peer = bench_peer_start("echo awq-peer 1 shell; read a; echo \"$a\" >&2; echo ok 99 7; read a; "
                                               "echo \"$a\" >&2; echo 0.5 0.25; read a; read b; echo no reason");
    struct bench_contestant contestant;
    double seconds[2];
    assert_non_null(peer);
    assert_true(bench_peer_open(peer, &problem, &contestant));
    assert_string_equal(contestant.name, "shell");
    assert_int_equal(contestant.weight_bytes, 99);
    assert_int_equal(contestant.copies, 7);
    assert_true(contestant.run(contestant.state, 3, 2, seconds));
    assert_true(seconds[0] == 0.5 && seconds[1] == 0.25);
    contestant.close(contestant.state);
    bench_peer_stop(peer);
}

static void a_peer_may_decline(void **state)
{
    (void)state;
    struct bench_peer *peer = bench_peer_start("echo awq-peer 1 shell; read a; echo no such shape");
    struct bench_contestant contestant;
    assert_non_null(peer);
    app_capture();
    assert_true(bench_peer_open(peer, &problem, &contestant));
    assert_contains(app_release(), "such shape");
    assert_true(contestant.run == NULL);
    bench_peer_stop(peer);
}

static void bad_peers_are_named(void **state)
{
    (void)state;
    static const char *const strangers[] = {"true", "echo hello", "echo awq-peer 2 later", "/nonexistent 2>/dev/null"};
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++) {
        app_capture();
        assert_null(bench_peer_start(strangers[i]));
        assert_contains(app_release(), strangers[i]);
    }
    static const char *const answers[] = {
        "", "echo maybe", "echo ok 5 1", "echo ok 5 1; read a; echo 1", "echo ok 5 1; read a; echo x y",
        "echo ok 5 1; read a; echo -1 nan"};
    for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
        char command[128];
        double seconds[2];
        struct bench_contestant contestant;
        snprintf(command, sizeof command, "echo awq-peer 1 odd; read a; %s", answers[i]);
        struct bench_peer *peer = bench_peer_start(command);
        assert_non_null(peer);
        app_capture();
        assert_false(bench_peer_open(peer, &problem, &contestant) &&
                     contestant.run(contestant.state, 1, 2, seconds));
        assert_contains(app_release(), "odd");
        bench_peer_stop(peer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(samples_are_summarized),
        cmocka_unit_test(copies_exceed_the_cache),
        cmocka_unit_test(the_fastest_quantised_one_is_marked),
        cmocka_unit_test(modes_have_their_peaks),
        cmocka_unit_test_setup_teardown(json_has_every_figure, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(the_picture_is_whole, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(a_file_that_cannot_be_written_is_said, app_setup, app_teardown),
        cmocka_unit_test(a_peer_is_asked_and_believed),
        cmocka_unit_test(a_peer_may_decline),
        cmocka_unit_test(bad_peers_are_named),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
