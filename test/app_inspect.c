/* awq inspect: archives, layers whose tensors do not fit each other, files that are none. */
#include "app.h"
#include "inspect.h"

static awq_context *context;

static int setup(void **state)
{
    return awq_context_create(NULL, &context) == AWQ_OK ? app_setup(state) : -1;
}

static int teardown(void **state)
{
    awq_context_destroy(context);
    return app_teardown(state);
}

static int64_t number(const json_t *object, const char *key)
{
    assert_true(json_is_integer(json_object_get(object, key)));
    return json_integer_value(json_object_get(object, key));
}

static void check_text(const json_t *object, const char *key, const char *wanted)
{
    assert_non_null(json_object_get(object, key));
    assert_string_equal(json_string_value(json_object_get(object, key)), wanted);
}

static void an_archive_lists_its_calibrations(void **state)
{
    (void)state;
    static const float x[3][2] = {{1, -4}, {2, 0}, {-3, 2}};
    awq_calibration *calibration, *empty;
    awq_calibration_options options;
    awq_archive_writer *writer;
    awq_tensor view;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_CALIBRATION_GRAM;
    options.sample_rows = 2;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 3, 2);
    assert_int_equal(awq_calibration_create(context, 2, &options, &calibration), AWQ_OK);
    assert_int_equal(awq_calibration_create(context, 5, NULL, &empty), AWQ_OK);
    assert_int_equal(awq_calibration_observe(calibration, &view), AWQ_OK);
    assert_int_equal(awq_archive_writer_create(context, app_path("archive"), "a test", &writer), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "layer.0", calibration), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "layer.1", empty), AWQ_OK);
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    awq_archive_writer_destroy(writer);
    awq_calibration_destroy(calibration);
    awq_calibration_destroy(empty);

    json_t *facts = inspect_path(context, app_path("archive"));
    assert_non_null(facts);
    check_text(facts, "kind", "calibration archive");
    check_text(facts, "provenance", "a test");
    const json_t *list = json_object_get(facts, "calibrations");
    assert_int_equal(json_array_size(list), 2);
    const json_t *first = json_array_get(list, 0);
    check_text(first, "name", "layer.0");
    assert_int_equal(number(first, "channels"), 2);
    assert_int_equal(number(first, "rows"), 3);
    assert_int_equal(number(first, "sample_rows"), 2);
    assert_true(json_is_true(json_object_get(first, "gram")));
    assert_true(json_real_value(json_object_get(first, "mean_abs")) == 2);
    assert_true(json_real_value(json_object_get(first, "max_abs")) == 4);
    assert_int_equal(number(json_array_get(list, 1), "rows"), 0);
    assert_null(json_object_get(json_array_get(list, 1), "mean_abs"));
    json_decref(facts);
}

/* A safetensors file of the header's text and as many zero bytes. */
static void write_safetensors(const char *name, const char *header, size_t size)
{
    char file[4096] = {0};
    size_t length = strlen(header);
    for (int i = 0; i < 8; i++) file[i] = (char)((uint64_t)length >> (8 * i));
    memcpy(file + 8, header, length);
    app_write(name, file, 8 + length + size);
}

static const json_t *only_layer(const json_t *facts)
{
    const json_t *layers = json_object_get(facts, "quantized_layers");
    assert_int_equal(json_array_size(layers), 1);
    return json_array_get(layers, 0);
}

static void layers_are_read_from_their_tensors(void **state)
{
    (void)state;
    write_safetensors("gemm.safetensors",
                      "{\"x.qweight\":{\"dtype\":\"I32\",\"shape\":[16,1],\"data_offsets\":[0,64]},"
                      "\"x.qzeros\":{\"dtype\":\"I32\",\"shape\":[2,1],\"data_offsets\":[64,72]},"
                      "\"x.scales\":{\"dtype\":\"F16\",\"shape\":[2,8],\"data_offsets\":[72,104]},"
                      "\"y.weight\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[104,112]}}     ",
                      112);
    json_t *facts = inspect_path(context, app_path("gemm.safetensors"));
    assert_non_null(facts);
    check_text(facts, "kind", "safetensors file");
    const json_t *layer = only_layer(facts), *totals = json_object_get(facts, "totals");
    check_text(layer, "name", "x");
    check_text(layer, "layout", "gemm");
    assert_int_equal(number(layer, "outputs"), 8);
    assert_int_equal(number(layer, "inputs"), 16);
    assert_int_equal(number(layer, "bits"), 4);
    assert_int_equal(number(layer, "group_size"), 8);
    assert_true(json_real_value(json_object_get(layer, "bits_per_weight")) == 8.0 * 104 / 128);
    assert_int_equal(number(totals, "tensors"), 4);
    assert_int_equal(number(totals, "bytes"), 112);
    assert_int_equal(number(totals, "quantized_weights"), 128);
    json_decref(facts);
}

/* What cannot be a layer is listed with the reason, and the rest is shown. */
static void layers_that_do_not_fit_are_shown(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t size;
        const char *reason;
    } cases[] = {
        {"{\"x.qweight\":{\"dtype\":\"I32\",\"shape\":[16,1],\"data_offsets\":[0,64]}}  ", 64, "plane qzeros is missing"},
        {"{\"x.weight_packed\":{\"dtype\":\"I32\",\"shape\":[4,3],\"data_offsets\":[0,48]},"
         "\"x.weight_shape\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[48,64]}} ",
         64, "shapes of no known format"},
        {"{\"x.weight_packed\":{\"dtype\":\"I32\",\"shape\":[12],\"data_offsets\":[0,48]}}   ", 48,
         "shapes of no known format"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_safetensors("odd.safetensors", cases[i].header, cases[i].size);
        json_t *facts = inspect_path(context, app_path("odd.safetensors"));
        assert_non_null(facts);
        assert_contains(json_string_value(json_object_get(only_layer(facts), "unreadable")), cases[i].reason);
        json_decref(facts);
    }
}

static void check_refused(const char *part)
{
    app_capture();
    json_t *facts = inspect_path(context, app_path("file"));
    assert_contains(app_release(), part);
    assert_null(facts);
}

static void other_files_are_refused(void **state)
{
    (void)state;
    check_refused("No such file");
    app_write_text("file", "");
    check_refused("neither a model directory");
    app_write_text("file", "a text");
    check_refused("neither a model directory");
    app_write("file", "\x05\0\0\0\0\0\0\0{", 9);
    check_refused("file");
    app_write("file", "\x89" "AWQC\r\n\x1a", 8);
    check_refused("file");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_archive_lists_its_calibrations, setup, teardown),
        cmocka_unit_test_setup_teardown(layers_are_read_from_their_tensors, setup, teardown),
        cmocka_unit_test_setup_teardown(layers_that_do_not_fit_are_shown, setup, teardown),
        cmocka_unit_test_setup_teardown(other_files_are_refused, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
