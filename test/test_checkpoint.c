/* Checkpoints as sets of tensors: files, directories, indexes. */
#include "scratch.h"

#include <pthread.h>

/* A file with U8 tensors of one byte each, which is their first name's letter; 'names' are letters. */
static void write_letters(const char *path, const char *names)
{
    char header[4096] = "{\"__metadata__\":{\"letters\":\"";
    size_t length = strlen(header);
    length += (size_t)sprintf(header + length, "%s\"}", names);
    static const char entry[] = ",\"%c\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%zu,%zu]}";
    for (size_t i = 0; names[i] != 0; i++) length += (size_t)sprintf(header + length, entry, names[i], i, i + 1);
    header[length++] = '}';
    unsigned char file[8192] = {(unsigned char)length, (unsigned char)(length >> 8)};
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, names, strlen(names));
    scratch_write(path, file, 8 + length + strlen(names));
}

static void write_index(const struct scratch *scratch, const char *text)
{
    scratch_write(scratch_path(scratch, "model.safetensors.index.json"), text, strlen(text));
}

static void assert_letters(const awq_checkpoint *checkpoint, const char *names)
{
    assert_int_equal(awq_checkpoint_count(checkpoint), strlen(names));
    for (size_t i = 0; names[i] != 0; i++) {
        const char name[2] = {names[i], 0};
        awq_tensor view;
        assert_string_equal(awq_checkpoint_name(checkpoint, (int64_t)i), name);
        assert_status(awq_checkpoint_get(checkpoint, name, &view), AWQ_OK);
        assert_int_equal(view.dtype, AWQ_U8);
        assert_int_equal(view.ndim, 1);
        assert_int_equal(view.shape[0], 1);
        assert_int_equal(view.flags, AWQ_TENSOR_READONLY);
        assert_int_equal(*(const char *)view.data, names[i]);
    }
}

static awq_checkpoint *open_directory(const struct scratch *scratch)
{
    awq_checkpoint *checkpoint;
    assert_status(awq_checkpoint_open(scratch->context, scratch->directory, &checkpoint), AWQ_OK);
    return checkpoint;
}

static void refuse_directory(const struct scratch *scratch, awq_status expected, const char *error)
{
    awq_checkpoint *checkpoint = (void *)1;
    assert_status(awq_checkpoint_open(scratch->context, scratch->directory, &checkpoint), expected);
    assert_null(checkpoint);
    assert_error_names(error);
}

static void tensors_are_found_by_name(void **state)
{
    const struct scratch *scratch = *state;
    awq_checkpoint *checkpoint;
    awq_tensor view, untouched;
    const char *path = scratch_path(scratch, "any name");
    write_letters(path, "hcaegbfd");
    assert_status(awq_checkpoint_open(scratch->context, path, &checkpoint), AWQ_OK);
    assert_letters(checkpoint, "abcdefgh");
    assert_null(awq_checkpoint_name(checkpoint, -1));
    assert_null(awq_checkpoint_name(checkpoint, 8));
    memset(&view, 0x5a, sizeof view);
    untouched = view;
    static const char *const absent[] = {"", "A", "aa", "bb", "i", "~"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        assert_status(awq_checkpoint_get(checkpoint, absent[i], &view), AWQ_ERROR_NOT_FOUND);
        assert_error_names(absent[i]);
        assert_status(awq_checkpoint_release(checkpoint, absent[i]), AWQ_ERROR_NOT_FOUND);
    }
    assert_memory_equal(&view, &untouched, sizeof view);
    assert_string_equal(awq_checkpoint_metadata(checkpoint, "letters"), "hcaegbfd");
    assert_null(awq_checkpoint_metadata(checkpoint, "format"));
    awq_checkpoint_destroy(checkpoint);
}

static void arguments_are_checked(void **state)
{
    struct scratch *scratch = *state;
    awq_checkpoint *checkpoint = (void *)1;
    awq_tensor view;
    assert_status(awq_checkpoint_open(NULL, "x", &checkpoint), AWQ_ERROR_INVALID);
    assert_null(checkpoint);
    assert_status(awq_checkpoint_open(scratch->context, NULL, &checkpoint), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_open(scratch->context, "x", NULL), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_open(scratch->context, "", &checkpoint), AWQ_ERROR_NOT_FOUND);
    const char *absent = scratch_path(scratch, "absent");
    assert_status(awq_checkpoint_open(scratch->context, absent, &checkpoint), AWQ_ERROR_NOT_FOUND);
    assert_error_names("absent: cannot open: No such file");
    assert_int_equal(awq_checkpoint_count(NULL), 0);
    assert_null(awq_checkpoint_name(NULL, 0));
    assert_null(awq_checkpoint_metadata(NULL, "format"));
    assert_status(awq_checkpoint_get(NULL, "a", &view), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_release(NULL, "a"), AWQ_ERROR_INVALID);
    awq_checkpoint_destroy(NULL);

    write_letters(scratch_path(scratch, "model.safetensors"), "a");
    checkpoint = open_directory(scratch);
    assert_status(awq_checkpoint_get(checkpoint, NULL, &view), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_get(checkpoint, "a", NULL), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_release(checkpoint, NULL), AWQ_ERROR_INVALID);
    assert_null(awq_checkpoint_metadata(checkpoint, NULL));
    awq_checkpoint_destroy(checkpoint);
}

static void a_directory_has_one_file_or_many(void **state)
{
    struct scratch *scratch = *state;
    refuse_directory(scratch, AWQ_ERROR_NOT_FOUND, "no .safetensors file");

    write_letters(scratch_path(scratch, "model-2.safetensors"), "db");
    write_letters(scratch_path(scratch, "model-1.safetensors"), "ca");
    write_letters(scratch_path(scratch, ".hidden.safetensors"), "x");
    write_letters(scratch_path(scratch, ".safetensors"), "y");
    write_letters(scratch_path(scratch, "other.bin"), "z");
    awq_checkpoint *checkpoint = open_directory(scratch);
    assert_letters(checkpoint, "abcd");
    assert_string_equal(awq_checkpoint_metadata(checkpoint, "letters"), "ca");
    awq_checkpoint_destroy(checkpoint);

    /* The index says which of them count, and the one file goes before the index. */
    write_index(scratch, "{\"metadata\":{\"total_size\":2},\"weight_map\":{\"d\":\"model-2.safetensors\","
                         "\"b\":\"model-2.safetensors\"}}");
    checkpoint = open_directory(scratch);
    assert_letters(checkpoint, "bd");
    awq_checkpoint_destroy(checkpoint);

    write_letters(scratch_path(scratch, "model.safetensors"), "e");
    checkpoint = open_directory(scratch);
    assert_letters(checkpoint, "e");
    awq_checkpoint_destroy(checkpoint);

    char slash[PATH_MAX];
    snprintf(slash, sizeof slash, "%s//", scratch->directory);
    assert_status(awq_checkpoint_open(scratch->context, slash, &checkpoint), AWQ_OK);
    assert_letters(checkpoint, "e");
    awq_checkpoint_destroy(checkpoint);
}

static void a_name_in_two_files_is_refused(void **state)
{
    struct scratch *scratch = *state;
    write_letters(scratch_path(scratch, "1.safetensors"), "abc");
    write_letters(scratch_path(scratch, "2.safetensors"), "dbe");
    refuse_directory(scratch, AWQ_ERROR_FORMAT, "tensor \"b\" is both in ");
    write_index(scratch, "{\"weight_map\":{\"a\":\"1.safetensors\",\"b\":\"1.safetensors\",\"c\":\"1.safetensors\","
                         "\"d\":\"2.safetensors\",\"e\":\"2.safetensors\"}}");
    refuse_directory(scratch, AWQ_ERROR_FORMAT, "tensor \"b\" is both in ");
}

static void indexes_are_judged(void **state)
{
    static const struct {
        const char *index;
        awq_status status;
        const char *error;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"1.st\",\"b\":\"1.st\",\"c\":\"2.st\"}}", AWQ_OK, ""},
        {"{\"weight_map\":{\"c\":\"2.st\",\"a\":\"1.st\",\"b\":\"1.st\"}}", AWQ_OK, ""},
        {"{\"weight_map\":{\"a\":\"1.st\",\"c\":\"2.st\",\"b\":\"1.st\"},\"metadata\":{\"total_size\":1}}", AWQ_OK, ""},
        {"{\"weight_map\":{\"c\":\"2.st\"}}", AWQ_OK, ""},
        {"", AWQ_ERROR_FORMAT, "index.json: JSON"},
        {"{", AWQ_ERROR_FORMAT, "index.json: JSON"},
        {"[]", AWQ_ERROR_FORMAT, "index.json: the JSON is not an object"},
        {"{}", AWQ_ERROR_FORMAT, "\"weight_map\" is missing"},
        {"{\"weight_map\":[]}", AWQ_ERROR_FORMAT, "\"weight_map\" is missing"},
        {"{\"weight_map\":{}}", AWQ_ERROR_FORMAT, "\"weight_map\" is missing, empty"},
        {"{\"weight_map\":{\"a\":1}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"\" is no file"},
        {"{\"weight_map\":{\"a\":null}}", AWQ_ERROR_FORMAT, "tensor \"a\""},
        {"{\"weight_map\":{\"a\":\"\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"\" is no file"},
        {"{\"weight_map\":{\"a\":\".\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \".\" is no file"},
        {"{\"weight_map\":{\"a\":\"..\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"..\" is no file"},
        {"{\"weight_map\":{\"a\":\"../1.st\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"../1.st\" is no file"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"/etc/passwd\""},
        {"{\"weight_map\":{\"a\":\"./1.st\"}}", AWQ_ERROR_FORMAT, "tensor \"a\": \"./1.st\""},
        {"{\"weight_map\":{\"a\":\"1.st\\u0000\"}}", AWQ_ERROR_FORMAT, "JSON"},
        {"{\"weight_map\":{\"a\":\"1.st\",\"a\":\"1.st\"}}", AWQ_ERROR_FORMAT, "duplicate"},
        {"{\"weight_map\":{\"a\":\"3.st\"}}", AWQ_ERROR_NOT_FOUND, "3.st: cannot open"},
        {"{\"weight_map\":{\"a\":\"sub\"}}", AWQ_ERROR_FORMAT, "sub: not a regular file"},
        {"{\"weight_map\":{\"a\":\"1.st\",\"b\":\"1.st\",\"c\":\"2.st\",\"d\":\"2.st\"}}", AWQ_ERROR_FORMAT,
         "tensor \"d\" is missing in \"2.st\""},
        {"{\"weight_map\":{\"a\":\"1.st\",\"c\":\"2.st\"}}", AWQ_ERROR_FORMAT, "1.st: tensor \"b\" is not in"},
        {"{\"weight_map\":{\"a\":\"1.st\",\"b\":\"2.st\",\"c\":\"2.st\"}}", AWQ_ERROR_FORMAT, "tensor \"b\" is in "},
        {"{\"weight_map\":{\"a\":\"2.st\",\"b\":\"1.st\",\"c\":\"1.st\"}}", AWQ_ERROR_FORMAT, "tensor \"a\" is in "},
        {"{\"weight_map\":{\"a\":\"1.st\",\"b\":\"1.st\",\"c\":\"cut.st\"}}", AWQ_ERROR_FORMAT, "cut.st: truncated"},
    };
    struct scratch *scratch = *state;
    write_letters(scratch_path(scratch, "1.st"), "ab");
    write_letters(scratch_path(scratch, "2.st"), "c");
    scratch_write(scratch_path(scratch, "cut.st"), "\100\0\0\0\0\0\0\0{\"c\":", 13);
    assert_int_equal(mkdir(scratch_path(scratch, "sub"), 0700), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_index(scratch, cases[i].index);
        if (cases[i].status == AWQ_OK)
            awq_checkpoint_destroy(open_directory(scratch));
        else
            refuse_directory(scratch, cases[i].status, cases[i].error);
    }
}

static void links_are_followed(void **state)
{
    struct scratch *scratch = *state;
    awq_checkpoint *checkpoint;
    assert_int_equal(mkdir(scratch_path(scratch, "blobs"), 0700), 0);
    assert_int_equal(mkdir(scratch_path(scratch, "model"), 0700), 0);
    write_letters(scratch_path(scratch, "blobs/0123"), "ab");
    assert_int_equal(symlink("../blobs/0123", scratch_path(scratch, "model/model.safetensors")), 0);
    const char *model = scratch_path(scratch, "model");
    assert_status(awq_checkpoint_open(scratch->context, model, &checkpoint), AWQ_OK);
    assert_letters(checkpoint, "ab");
    awq_checkpoint_destroy(checkpoint);
    /* A link to what was never downloaded is named. */
    assert_int_equal(unlink(scratch_path(scratch, "blobs/0123")), 0);
    assert_status(awq_checkpoint_open(scratch->context, model, &checkpoint), AWQ_ERROR_NOT_FOUND);
    assert_error_names("model/model.safetensors: cannot open");
}

static void a_checkpoint_outlives_its_context(void **state)
{
    struct scratch *scratch = *state;
    awq_context *context;
    awq_checkpoint *checkpoint;
    const char *path = scratch_path(scratch, "model.safetensors");
    write_letters(path, "xyz");
    assert_status(awq_context_create(NULL, &context), AWQ_OK);
    assert_status(awq_checkpoint_open(context, path, &checkpoint), AWQ_OK);
    awq_context_destroy(context);
    assert_int_equal(unlink(path), 0);
    assert_letters(checkpoint, "xyz");
    awq_checkpoint_destroy(checkpoint);
}

static void a_memory_limit_is_respected(void **state)
{
    struct scratch *scratch = *state;
    awq_context_options options;
    awq_context *context;
    awq_checkpoint *checkpoint = (void *)1;
    awq_struct_init(&options, sizeof options);
    options.memory_limit_bytes = 4096;
    options.threads = 1;
    write_letters(scratch_path(scratch, "model.safetensors"), "abcdefghijklmnopqrstuvwxyz");
    assert_status(awq_context_create(&options, &context), AWQ_OK);
    assert_status(awq_checkpoint_open(context, scratch->directory, &checkpoint), AWQ_ERROR_MEMORY_LIMIT);
    assert_null(checkpoint);
    assert_error_names("model.safetensors");
    awq_context_destroy(context);
}

static int64_t resident_pages(void)
{
    long long size, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    assert_non_null(file);
    assert_int_equal(fscanf(file, "%lld %lld", &size, &resident), 2);
    fclose(file);
    return resident;
}

static void released_pages_leave_and_return(void **state)
{
    enum { BYTES = 8 << 20 };
    static const char header[] = "{\"b\":{\"dtype\":\"U8\",\"shape\":[8388608],\"data_offsets\":[0,8388608]},"
                                 "\"s\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[8388608,8388612]}}";
    const int length = sizeof header - 1;
    struct scratch *scratch = *state;
    unsigned char *file = calloc(1, (size_t)(8 + length + BYTES + 4));
    file[0] = (unsigned char)length;
    memcpy(file + 8, header, (size_t)length);
    for (int i = 0; i < BYTES + 4; i++) file[8 + length + i] = (unsigned char)(i >> 12);
    scratch_write(scratch_path(scratch, "model.safetensors"), file, (size_t)(8 + length + BYTES + 4));
    awq_checkpoint *checkpoint = open_directory(scratch);
    awq_tensor view;
    assert_status(awq_checkpoint_get(checkpoint, "b", &view), AWQ_OK);
    for (int round = 0; round < 2; round++) {
        assert_memory_equal(view.data, file + 8 + length, BYTES);
        int64_t touched = resident_pages();
        assert_status(awq_checkpoint_release(checkpoint, "b"), AWQ_OK);
        int64_t left = (touched - resident_pages()) * sysconf(_SC_PAGESIZE);
        assert_true(left > BYTES / 2);
    }
    assert_status(awq_checkpoint_release(checkpoint, "s"), AWQ_OK);
    assert_status(awq_checkpoint_get(checkpoint, "s", &view), AWQ_OK);
    assert_memory_equal(view.data, file + 8 + length + BYTES, 4);
    awq_checkpoint_destroy(checkpoint);
    free(file);
}

static void *ask_often(void *user_data)
{
    const awq_checkpoint *checkpoint = user_data;
    for (int i = 0; i < 2000; i++) {
        awq_tensor view;
        const char name[2] = {(char)('a' + i % 30), 0};
        awq_status status = awq_checkpoint_get(checkpoint, name, &view);
        if (status != (i % 30 < 26 ? AWQ_OK : AWQ_ERROR_NOT_FOUND)) return (void *)checkpoint;
        if (status == AWQ_OK && *(const char *)view.data != name[0]) return (void *)checkpoint;
        if (awq_checkpoint_metadata(checkpoint, "letters") == NULL) return (void *)checkpoint;
        if (awq_checkpoint_release(checkpoint, "a") != AWQ_OK) return (void *)checkpoint;
    }
    return NULL;
}

static void threads_share_a_checkpoint(void **state)
{
    struct scratch *scratch = *state;
    write_letters(scratch_path(scratch, "model.safetensors"), "abcdefghijklmnopqrstuvwxyz");
    awq_checkpoint *checkpoint = open_directory(scratch);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, ask_often, checkpoint), 0);
    for (int i = 0; i < 3; i++) {
        void *failed;
        assert_int_equal(pthread_join(threads[i], &failed), 0);
        assert_null(failed);
    }
    awq_checkpoint_destroy(checkpoint);
}

static void failed_allocations_are_reported(void **state)
{
    struct scratch *scratch = *state;
    write_letters(scratch_path(scratch, "1.safetensors"), "ab");
    write_letters(scratch_path(scratch, "2.safetensors"), "c");
    awq_status status;
    int64_t n = 0;
    do {
        awq_checkpoint *checkpoint;
        scratch->allocations_left = n++;
        status = awq_checkpoint_open(scratch->context, scratch->directory, &checkpoint);
        scratch->allocations_left = -1;
        assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
        assert_int_equal(checkpoint == NULL, status != AWQ_OK);
        awq_checkpoint_destroy(checkpoint);
    } while (status != AWQ_OK);
    assert_true(n > 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(tensors_are_found_by_name),
        SCRATCH_TEST(arguments_are_checked),
        SCRATCH_TEST(a_directory_has_one_file_or_many),
        SCRATCH_TEST(a_name_in_two_files_is_refused),
        SCRATCH_TEST(indexes_are_judged),
        SCRATCH_TEST(links_are_followed),
        SCRATCH_TEST(a_checkpoint_outlives_its_context),
        SCRATCH_TEST(a_memory_limit_is_respected),
        SCRATCH_TEST(released_pages_leave_and_return),
        SCRATCH_TEST(threads_share_a_checkpoint),
        SCRATCH_TEST(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
