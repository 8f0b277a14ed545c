/* Token files and windows: formats, damage, ids out of range, and where windows lie. */
#include "app.h"
#include "tokens.h"

#define MODEL "examples/models/docs-6m"

/* A .npy file with the given version, header text and data. */
static void write_npy(const char *name, int version, const char *header, const void *data, size_t size)
{
    unsigned char file[1024] = "\x93NUMPY";
    size_t length = strlen(header), at = 6;
    file[at++] = (unsigned char)version;
    file[at++] = 0;
    file[at++] = (unsigned char)length;
    file[at++] = (unsigned char)(length >> 8);
    if (version >= 2) at += 2;
    memcpy(file + at, header, length);
    if (size) memcpy(file + at + length, data, size);
    app_write(name, file, at + length + size);
}

static void check_rows(const char *name, int64_t rows, int64_t columns, const int32_t *wanted)
{
    struct token_rows read;
    assert_true(tokens_read(app_path(name), NULL, 0, &read));
    assert_int_equal(read.rows, rows);
    assert_int_equal(read.columns, columns);
    assert_memory_equal(read.ids, wanted, (size_t)(rows * columns) * sizeof *wanted);
    token_rows_free(&read);
}

static void check_unreadable(const char *name, int64_t vocabulary, const char *part)
{
    struct token_rows read = {.rows = 7};
    app_capture();
    bool done = tokens_read(app_path(name), NULL, vocabulary, &read);
    assert_contains(app_release(), part);
    assert_false(done);
    assert_null(read.ids);
}

static void formats_are_read(void **state)
{
    (void)state;
    static const uint16_t u16[] = {1, 2, 65535, 4, 5, 6};
    static const int32_t i32[] = {1, 2, 65535, 4, 5, 6};
    static const int64_t i64[] = {1, 2, 65535, 4, 5, 6};
    write_npy("a.npy", 1, "{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }\n", u16, sizeof u16);
    check_rows("a.npy", 2, 3, i32);
    write_npy("a.npy", 2, "{'descr': '<i4', 'fortran_order': False, 'shape': (6,), }\n", i32, sizeof i32);
    check_rows("a.npy", 1, 6, i32);
    write_npy("a.npy", 3, "{'shape':(3, 2),'fortran_order':False,'descr':'<i8'}", i64, sizeof i64);
    check_rows("a.npy", 3, 2, i32);
    write_npy("a.npy", 1, "{'descr': '<u4', 'fortran_order': True, 'shape': (6,), }\n", i32, sizeof i32);
    check_rows("a.npy", 1, 6, i32);
    app_write("a.u16", u16, sizeof u16);
    check_rows("a.u16", 1, 6, i32);
    app_write("a.u32", i32, sizeof i32);
    check_rows("a.u32", 1, 6, i32);
    assert_true(tokens_is_id_file("x.npy") && tokens_is_id_file("a/b.u16") && tokens_is_id_file("x.u32"));
    assert_false(tokens_is_id_file("x.txt") || tokens_is_id_file(".npy") || tokens_is_id_file("npy"));
}

static void damage_is_named(void **state)
{
    (void)state;
    static const int32_t ids[] = {1, 2, 3, -4, 5, 6};
    static const double numbers[] = {1, 2};
    static const int64_t large[] = {1, (int64_t)1 << 40};
    app_write_text("a.npy", "\x93NUMPY");
    check_unreadable("a.npy", 0, "not a .npy file");
    app_write_text("a.npy", "this is just some text");
    check_unreadable("a.npy", 0, "not a .npy file");
    app_write("a.npy", "\x93NUMPY\1\0\xff\xff{}\n", 13);
    check_unreadable("a.npy", 0, "header is damaged");
    app_write("a.npy", "\x93NUMPY\x09\0\3\0{}\n", 13);
    check_unreadable("a.npy", 0, "header is damaged");
    write_npy("a.npy", 1, "{}", ids, sizeof ids);
    check_unreadable("a.npy", 0, "header is damaged");
    write_npy("a.npy", 1, "{'fortran_order': False, 'shape': (1,), 'descr': '", ids, 0);
    check_unreadable("a.npy", 0, "not '");
    write_npy("a.npy", 1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }", numbers, sizeof numbers);
    check_unreadable("a.npy", 0, "integers of 16, 32 or 64 bits, not '<f8'");
    write_npy("a.npy", 1, "{'descr': '>i4', 'fortran_order': False, 'shape': (6,), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "little-endian");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': True, 'shape': (2, 3), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "column-major");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2, 3), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "one or two dimensions");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "one or two dimensions");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (0,), }", ids, 0);
    check_unreadable("a.npy", 0, "holds no ids");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }", ids, 0);
    check_unreadable("a.npy", 0, "dimensions");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (7,), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "cut short: 1 x 7 ids should follow, 6 do");
    write_npy("a.npy", 1,
              "{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }", ids,
              sizeof ids);
    check_unreadable("a.npy", 0, "cut short");
    write_npy("a.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "token 0 of row 1 is -1");
    write_npy("a.npy", 1, "{'descr': '<u4', 'fortran_order': False, 'shape': (2, 3), }", ids, sizeof ids);
    check_unreadable("a.npy", 0, "token 0 of row 1 is 4294967292, not an id below 2147483648");
    write_npy("a.npy", 1, "{'descr': '<i8', 'fortran_order': False, 'shape': (2,), }", large, sizeof large);
    check_unreadable("a.npy", 0, "token 1 of row 0 is 1099511627776");
    app_write("a.u16", "\1\0\2\0\3", 5);
    check_unreadable("a.u16", 0, "5 bytes are no whole number of ids of 2 bytes");
    app_write("a.u16", "", 0);
    check_unreadable("a.u16", 0, "holds no ids");
    app_write("a.u16", "\1\0\2\0\0\x10", 6);
    check_unreadable("a.u16", 4096, "token 2 of row 0 is 4096, not an id below 4096");
    check_unreadable("none.u16", 0, "No such file");
    app_write_text("a.txt", "text");
    check_unreadable("a.txt", 0, "without a tokenizer");
}

static void text_is_encoded(void **state)
{
    (void)state;
    struct tokenizer *tokenizer;
    struct token_rows rows;
    struct id_buffer ids = {0};
    static const char text[] = "A quantiser maps many values to few.\n";
    assert_true(tokenizer_open(MODEL, &tokenizer));
    app_write_text("a.txt", text);
    assert_true(tokens_read(app_path("a.txt"), tokenizer, 4096, &rows));
    assert_true(tokenizer_encode(tokenizer, text, strlen(text), false, &ids));
    assert_int_equal(rows.rows, 1);
    assert_int_equal(rows.columns, ids.count);
    assert_memory_equal(rows.ids, ids.ids, ids.count * sizeof *ids.ids);
    token_rows_free(&rows);
    id_buffer_free(&ids);

    app_write_text("a.txt", "one \xFF two \xFE");
    app_capture();
    bool read = tokens_read(app_path("a.txt"), tokenizer, 4096, &rows);
    assert_contains(app_release(), "2 places are not UTF-8, the first after 4 bytes");
    assert_true(read);
    token_rows_free(&rows);

    app_write_text("a.txt", "");
    app_capture();
    read = tokens_read(app_path("a.txt"), tokenizer, 4096, &rows);
    assert_contains(app_release(), "the text is empty");
    assert_false(read);

    /* A tokenizer of another model may know more ids than this one has. */
    app_write_text("a.txt", text);
    app_capture();
    read = tokens_read(app_path("a.txt"), tokenizer, 100, &rows);
    assert_contains(app_release(), "not an id below 100");
    assert_false(read);
    assert_null(rows.ids);
    tokenizer_close(tokenizer);
}

static void check_cut(const struct token_rows *source, int64_t samples, int64_t length, int32_t bos, int64_t rows,
                      const int32_t *wanted)
{
    struct token_rows windows;
    assert_true(tokens_cut(source, samples, length, bos, &windows));
    assert_int_equal(windows.rows, rows);
    if (length) assert_int_equal(windows.columns, length);
    assert_memory_equal(windows.ids, wanted, (size_t)(windows.rows * windows.columns) * sizeof *wanted);
    token_rows_free(&windows);
}

static void windows_of_one_row(void **state)
{
    (void)state;
    int32_t ids[10];
    struct token_rows source = {ids, 1, 10}, windows;
    for (int i = 0; i < 10; i++) ids[i] = i;
    /* All that fit lie side by side; fewer are spread from end to end. */
    check_cut(&source, 0, 3, -1, 3, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8});
    check_cut(&source, 99, 3, -1, 3, (int32_t[]){0, 1, 2, 3, 4, 5, 6, 7, 8});
    check_cut(&source, 2, 3, -1, 2, (int32_t[]){0, 1, 2, 7, 8, 9});
    check_cut(&source, 3, 2, -1, 3, (int32_t[]){0, 1, 4, 5, 8, 9});
    check_cut(&source, 1, 4, -1, 1, (int32_t[]){0, 1, 2, 3});
    check_cut(&source, 2, 4, 77, 2, (int32_t[]){77, 0, 1, 2, 77, 7, 8, 9});
    check_cut(&source, 0, 0, -1, 1, ids);
    check_cut(&source, 0, 0, 77, 1, (int32_t[]){77, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
    check_cut(&source, 0, 10, -1, 1, ids);
    app_capture();
    assert_false(tokens_cut(&source, 0, 11, -1, &windows));
    assert_contains(app_release(), "10 tokens are too few for a sequence of 11");
    app_capture();
    assert_false(tokens_cut(&source, 0, 1, 77, &windows));
    app_release();
    assert_null(windows.ids);
}

/* Windows never overlap, and reach from the first id to the last. */
static void windows_are_spread(void **state)
{
    (void)state;
    enum { COUNT = 1000 };
    int32_t ids[COUNT];
    struct token_rows source = {ids, 1, COUNT}, windows;
    for (int i = 0; i < COUNT; i++) ids[i] = i;
    for (int64_t length = 1; length < 400; length += 7) {
        for (int64_t samples = 2; samples < COUNT / length; samples += 3) {
            assert_true(tokens_cut(&source, samples, length, -1, &windows));
            assert_int_equal(windows.rows, samples);
            assert_int_equal(windows.ids[0], 0);
            assert_int_equal(windows.ids[samples * length - 1], COUNT - 1);
            for (int64_t i = 1; i < samples; i++)
                assert_true(windows.ids[i * length] > windows.ids[i * length - 1]);
            token_rows_free(&windows);
        }
    }
}

static void windows_of_rows(void **state)
{
    (void)state;
    int32_t ids[] = {0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42};
    struct token_rows source = {ids, 5, 3}, windows;
    check_cut(&source, 0, 0, -1, 5, ids);
    check_cut(&source, 3, 3, 99, 3, (int32_t[]){0, 1, 2, 20, 21, 22, 40, 41, 42});
    check_cut(&source, 2, 2, -1, 2, (int32_t[]){0, 1, 40, 41});
    check_cut(&source, 1, 1, -1, 1, (int32_t[]){0});
    app_capture();
    assert_false(tokens_cut(&source, 0, 4, -1, &windows));
    assert_contains(app_release(), "3 tokens are too few for a sequence of 4");
}

static void files_come_back(void **state)
{
    (void)state;
    static const char *const names[] = {"w.npy", "w.u32"};
    int32_t ids[] = {0, 1, 65535, 3, 4, 5}, large[] = {0, 65536, 2, 151935};
    struct token_rows matrix = {ids, 2, 3}, row = {large, 1, 4};
    assert_true(tokens_write(app_path("w.npy"), &matrix));
    check_rows("w.npy", 2, 3, ids);
    for (size_t i = 0; i < 2; i++) {
        assert_true(tokens_write(app_path(names[i]), &row));
        check_rows(names[i], 1, 4, large);
    }
    matrix.rows = 1;
    assert_true(tokens_write(app_path("w.u16"), &matrix));
    check_rows("w.u16", 1, 3, ids);
    app_capture();
    assert_false(tokens_write(app_path("w.u16"), &row));
    assert_contains(app_release(), "id 151935 does not fit 16 bits");
    app_capture();
    assert_false(tokens_write(app_path("w.txt"), &row));
    assert_contains(app_release(), "ids are written as .npy");
    check_rows("w.u16", 1, 3, ids);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(formats_are_read, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(damage_is_named, app_setup, app_teardown),
        cmocka_unit_test_setup_teardown(text_is_encoded, app_setup, app_teardown),
        cmocka_unit_test(windows_of_one_row),
        cmocka_unit_test(windows_are_spread),
        cmocka_unit_test(windows_of_rows),
        cmocka_unit_test_setup_teardown(files_come_back, app_setup, app_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
