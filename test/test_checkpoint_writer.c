/* Writing checkpoints: what is written can be read, and nothing is ever half written. */
#include "scratch.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static awq_checkpoint_writer *create(const struct scratch *scratch, const char *path, uint64_t shard_bytes,
                                     uint32_t flags)
{
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer;
    awq_struct_init(&options, sizeof options);
    options.shard_bytes = shard_bytes;
    options.flags = flags;
    options.expected_tensors = 8;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), AWQ_OK);
    return writer;
}

static void commit(awq_checkpoint_writer *writer)
{
    assert_status(awq_checkpoint_writer_commit(writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
}

static awq_checkpoint *open_checkpoint(const struct scratch *scratch, const char *path)
{
    awq_checkpoint *checkpoint;
    assert_status(awq_checkpoint_open(scratch->context, path, &checkpoint), AWQ_OK);
    return checkpoint;
}

/* A checkpoint of one I32 with the given value. */
static void write_value(const struct scratch *scratch, const char *path, int32_t value, uint32_t flags)
{
    awq_tensor tensor;
    awq_checkpoint_writer *writer = create(scratch, path, 0, flags);
    awq_tensor_init_1d(&tensor, &value, AWQ_I32, 1);
    assert_status(awq_checkpoint_writer_add(writer, "value", &tensor), AWQ_OK);
    commit(writer);
}

static int32_t read_value(const struct scratch *scratch, const char *path)
{
    awq_tensor view;
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_status(awq_checkpoint_get(checkpoint, "value", &view), AWQ_OK);
    int32_t value = *(const int32_t *)view.data;
    awq_checkpoint_destroy(checkpoint);
    return value;
}

/* ---- contents */

static void every_dtype_and_rank_comes_back(void **state)
{
    static const int64_t shapes[][AWQ_MAX_DIMS] = {
        {0}, {5}, {3, 4}, {0}, {2, 0, 3}, {2, 3, 4}, {1, 2, 1, 2, 1, 2, 1, 2}, {7},
    };
    static const int32_t ranks[] = {0, 1, 2, 1, 3, 3, 8, 1};
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    uint64_t data[24];
    for (int i = 0; i < 24; i++) data[i] = UINT64_C(0x9e3779b97f4a7c15) * (uint64_t)(i + 1);
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    awq_checkpoint_writer_destroy(writer);
    assert_status(awq_checkpoint_writer_create(scratch->context, path, NULL, &writer), AWQ_OK);
    char name[32];
    awq_tensor tensor, view;
    for (int32_t dtype = 1; awq_dtype_size(dtype) != 0; dtype++)
        for (size_t i = 0; i < 8; i++) {
            snprintf(name, sizeof name, "t.%d.%zu", dtype, i);
            assert_status(awq_tensor_init_const(&tensor, data, dtype, ranks[i], shapes[i]), AWQ_OK);
            assert_status(awq_checkpoint_writer_add(writer, name, &tensor), AWQ_OK);
        }
    commit(writer);
    assert_int_equal(scratch_count(path), 1);

    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_string_equal(awq_checkpoint_metadata(checkpoint, "format"), "pt");
    for (int32_t dtype = 1; awq_dtype_size(dtype) != 0; dtype++)
        for (size_t i = 0; i < 8; i++) {
            snprintf(name, sizeof name, "t.%d.%zu", dtype, i);
            assert_status(awq_checkpoint_get(checkpoint, name, &view), AWQ_OK);
            assert_status(awqi_check_tensor(&view, ranks[i], 1u << dtype, name), AWQ_OK);
            assert_status(awq_tensor_init_const(&tensor, view.data, dtype, ranks[i], shapes[i]), AWQ_OK);
            assert_memory_equal(&view, &tensor, sizeof view);
            assert_memory_equal(view.data, data, (size_t)awqi_tensor_elements(&view) * awq_dtype_size(dtype));
        }
    awq_checkpoint_destroy(checkpoint);
}

static void any_strides_are_written(void **state)
{
    enum { ROWS = 600, COLUMNS = 500 }; /* more than is gathered at once */
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    uint64_t *data = malloc(sizeof *data * ROWS * COLUMNS);
    for (int i = 0; i < ROWS * COLUMNS; i++) data[i] = (uint64_t)i;
    static const struct {
        const char *name;
        int64_t shape[3], strides[3];
        int32_t ndim;
        uint64_t byte_offset;
    } views[] = {
        {"transposed", {COLUMNS, ROWS}, {1, COLUMNS}, 2, 0},
        {"slice", {3, 4}, {COLUMNS, 1}, 2, 8 * 7},
        {"reversed", {5}, {-1}, 1, 8 * 4},
        {"every other", {4}, {2}, 1, 0},
        {"repeated", {3, 2}, {0, 1}, 2, 8},
        {"scalar repeated", {4}, {0}, 1, 16},
        {"permuted", {4, 2, 3}, {1, 12, 4}, 3, 0},
        {"empty", {4, 0, 3}, {1, 12, 4}, 3, 0},
    };
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    awq_tensor tensor, view;
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
        assert_status(awq_tensor_init_const(&tensor, data, AWQ_U64, views[i].ndim, views[i].shape), AWQ_OK);
        memcpy(tensor.strides, views[i].strides, sizeof views[i].strides);
        tensor.byte_offset = views[i].byte_offset;
        assert_status(awq_checkpoint_writer_add(writer, views[i].name, &tensor), AWQ_OK);
    }
    commit(writer);

    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    for (size_t i = 0; i < sizeof views / sizeof *views; i++) {
        assert_status(awq_checkpoint_get(checkpoint, views[i].name, &view), AWQ_OK);
        assert_true(awqi_tensor_is_contiguous(&view) || awqi_tensor_elements(&view) == 0);
        for (int64_t e = 0; e < awqi_tensor_elements(&view); e++) {
            int64_t rest = e, offset = (int64_t)views[i].byte_offset / 8;
            for (int32_t d = views[i].ndim; d-- > 0; rest /= views[i].shape[d])
                offset += rest % views[i].shape[d] * views[i].strides[d];
            assert_true(((const uint64_t *)view.data)[e] == (uint64_t)offset);
        }
    }
    awq_checkpoint_destroy(checkpoint);
    free(data);
}

static void unaligned_neighbours_come_back(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    uint8_t bytes[3] = {1, 2, 3};
    float floats[2] = {1.5f, -2.0f};
    awq_tensor tensor, view;
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    awq_tensor_init_1d(&tensor, bytes, AWQ_U8, 3);
    assert_status(awq_checkpoint_writer_add(writer, "a", &tensor), AWQ_OK);
    awq_tensor_init_1d(&tensor, floats, AWQ_F32, 2);
    assert_status(awq_checkpoint_writer_add(writer, "b", &tensor), AWQ_OK);
    commit(writer);
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_status(awq_checkpoint_get(checkpoint, "b", &view), AWQ_OK);
    assert_status(awqi_check_tensor(&view, 1, 1u << AWQ_F32, "b"), AWQ_OK);
    assert_memory_equal(view.data, floats, sizeof floats);
    awq_checkpoint_destroy(checkpoint);
}

static void a_file_is_what_the_format_says(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                                 "\"a \\\"b\\\"\\n\xc3\xa9\":{\"dtype\":\"F16\",\"shape\":[2,1],"
                                 "\"data_offsets\":[0,4]},"
                                 "\"s\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[4,5]}}";
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_tensor tensor;
    uint16_t halves[2] = {0x1234, 0x5678};
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    awq_tensor_init_2d(&tensor, halves, AWQ_F16, 2, 1);
    assert_status(awq_checkpoint_writer_add(writer, "a \"b\"\n\xc3\xa9", &tensor), AWQ_OK);
    assert_status(awq_tensor_init(&tensor, "!", AWQ_U8, 0, NULL), AWQ_OK);
    assert_status(awq_checkpoint_writer_add(writer, "s", &tensor), AWQ_OK);
    commit(writer);

    size_t size;
    char *file = scratch_read(scratch_path(scratch, "out/model.safetensors"), &size);
    uint64_t length;
    memcpy(&length, file, 8);
    assert_int_equal(size, 8 + length + 5);
    assert_int_equal((8 + length) % 64, 0);
    assert_memory_equal(file + 8, header, sizeof header - 1);
    for (size_t i = 8 + sizeof header - 1; i < 8 + length; i++) assert_int_equal(file[i], ' ');
    assert_memory_equal(file + 8 + length, "\x34\x12\x78\x56!", 5);
    free(file);
    awq_checkpoint_destroy(open_checkpoint(scratch, path));
}

static void nothing_added_is_an_empty_checkpoint(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    commit(create(scratch, path, 0, 0));
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 0);
    awq_checkpoint_destroy(checkpoint);
}

/* ---- shards */

static void add_bytes(awq_checkpoint_writer *writer, const char *name, int64_t size)
{
    static const uint8_t bytes[1 << 16];
    awq_tensor tensor;
    awq_tensor_init_const_1d(&tensor, bytes, AWQ_U8, size);
    assert_status(awq_checkpoint_writer_add(writer, name, &tensor), AWQ_OK);
}

static void shards_end_before_they_are_too_large(void **state)
{
    static const char index[] = "{\n"
                                "  \"metadata\": {\n"
                                "    \"total_size\": 24600\n"
                                "  },\n"
                                "  \"weight_map\": {\n"
                                "    \"a\": \"model-00001-of-00004.safetensors\",\n"
                                "    \"b\": \"model-00002-of-00004.safetensors\",\n"
                                "    \"c\": \"model-00003-of-00004.safetensors\",\n"
                                "    \"d\": \"model-00003-of-00004.safetensors\",\n"
                                "    \"e\": \"model-00004-of-00004.safetensors\",\n"
                                "    \"z\": \"model-00001-of-00004.safetensors\"\n"
                                "  }\n"
                                "}";
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer *writer = create(scratch, path, 8000, 0);
    add_bytes(writer, "z", 4000);
    add_bytes(writer, "a", 2000);
    add_bytes(writer, "b", 10000); /* alone, and still too large */
    add_bytes(writer, "c", 100);
    add_bytes(writer, "d", 6000);
    add_bytes(writer, "e", 2500);
    commit(writer);
    assert_int_equal(scratch_count(path), 5);
    size_t size;
    char *text = scratch_read(scratch_path(scratch, "out/model.safetensors.index.json"), &size);
    assert_string_equal(text, index);
    free(text);
    for (int i = 1; i <= 4; i++) {
        char name[64];
        struct stat information;
        snprintf(name, sizeof name, "out/model-%05d-of-00004.safetensors", i);
        assert_int_equal(stat(scratch_path(scratch, name), &information), 0);
        assert_true(i == 2 || information.st_size <= 8000);
    }
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 6);
    awq_checkpoint_destroy(checkpoint);
}

static void a_full_header_ends_a_shard(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    char name[512];
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, "tensor.%0*d", 10 + 9 * i, i);
        add_bytes(writer, name, i % 3);
    }
    commit(writer);
    assert_true(scratch_count(path) > 3);
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 40);
    awq_checkpoint_destroy(checkpoint);
}

static void a_name_longer_than_a_header_is_refused(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_tensor tensor;
    char name[4000];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    awq_tensor_init_const_1d(&tensor, "x", AWQ_U8, 1);
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    assert_status(awq_checkpoint_writer_add(writer, name, &tensor), AWQ_ERROR_INVALID);
    assert_error_names("3999 bytes are too long");
    add_bytes(writer, "a", 1);
    assert_status(awq_checkpoint_writer_add(writer, name, &tensor), AWQ_ERROR_INVALID);
    commit(writer);
    assert_int_equal(scratch_count(path), 1);
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 1);
    awq_checkpoint_destroy(checkpoint);
}

static void the_same_calls_give_the_same_bytes(void **state)
{
    struct scratch *scratch = *state;
    static const char *const names[] = {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                        "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        awq_checkpoint_writer *writer = create(scratch, scratch_path(scratch, i == 0 ? "one" : "two"), 8000, 0);
        add_bytes(writer, "a", 4000);
        add_bytes(writer, "b", 5000);
        commit(writer);
    }
    for (int i = 0; i < 3; i++) {
        char one[64], two[64];
        size_t size_one, size_two;
        snprintf(one, sizeof one, "one/%s", names[i]);
        snprintf(two, sizeof two, "two/%s", names[i]);
        char *bytes_one = scratch_read(scratch_path(scratch, one), &size_one);
        char *bytes_two = scratch_read(scratch_path(scratch, two), &size_two);
        assert_int_equal(size_one, size_two);
        assert_memory_equal(bytes_one, bytes_two, size_one);
        free(bytes_one);
        free(bytes_two);
    }
}

/* ---- what is refused */

static void arguments_are_checked(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer = (void *)1;
    assert_status(awq_checkpoint_writer_create(NULL, path, NULL, &writer), AWQ_ERROR_INVALID);
    assert_null(writer);
    assert_status(awq_checkpoint_writer_create(scratch->context, NULL, NULL, &writer), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_create(scratch->context, path, NULL, NULL), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_create(scratch->context, "", NULL, &writer), AWQ_ERROR_INVALID);
    awq_struct_init(&options, sizeof options);
    options.flags = 2;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), AWQ_ERROR_INVALID);
    options.flags = 0;
    options.expected_tensors = -1;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), AWQ_ERROR_INVALID);
    options.expected_tensors = INT64_MAX;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), AWQ_OK);
    awq_checkpoint_writer_destroy(writer);
    options.struct_size = 3;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add(NULL, "a", NULL), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add_file(NULL, "a", "", 0), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_commit(NULL), AWQ_ERROR_INVALID);
    awq_checkpoint_writer_destroy(NULL);
    assert_int_equal(scratch_count(scratch->directory), 0);
}

static void bad_tensors_are_refused_by_name(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    awq_tensor good, bad;
    uint32_t words[4] = {0};
    awq_tensor_init_1d(&good, words, AWQ_U32, 4);
    assert_status(awq_checkpoint_writer_add(writer, "a", NULL), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add(writer, NULL, &good), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add(writer, "", &good), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add(writer, "__metadata__", &good), AWQ_ERROR_INVALID);
    assert_error_names("__metadata__");
    assert_status(awq_checkpoint_writer_add(writer, "\xff", &good), AWQ_ERROR_INVALID);
    assert_error_names("UTF-8");
    bad = good;
    bad.dtype = 99;
    assert_status(awq_checkpoint_writer_add(writer, "a", &bad), AWQ_ERROR_INVALID);
    bad = good;
    bad.data = NULL;
    assert_status(awq_checkpoint_writer_add(writer, "layer.weight", &bad), AWQ_ERROR_INVALID);
    assert_error_names("layer.weight");
    bad = good;
    bad.byte_offset = 1;
    assert_status(awq_checkpoint_writer_add(writer, "a", &bad), AWQ_ERROR_INVALID);
    bad = good;
    bad.shape[0] = INT64_MAX;
    assert_status(awq_checkpoint_writer_add(writer, "a", &bad), AWQ_ERROR_INVALID);
    bad = good;
    bad.device_type = AWQ_DEVICE_CUDA;
    assert_status(awq_checkpoint_writer_add(writer, "a", &bad), AWQ_ERROR_UNSUPPORTED);
    assert_status(awq_checkpoint_writer_add(writer, "a", &good), AWQ_OK);
    assert_status(awq_checkpoint_writer_add(writer, "a", &good), AWQ_ERROR_INVALID);
    assert_error_names("tensor \"a\" was added before");
    commit(writer);
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 1);
    awq_checkpoint_destroy(checkpoint);
}

static void other_files_are_carried_along(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    static const char *const bad[] = {
        "", ".", "..", "a/b", "/etc/x", "model.safetensors", "model.safetensors.index.json",
        "model-00001-of-00001.safetensors", "model-00001.safetensors", ".safetensors",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_status(awq_checkpoint_writer_add_file(writer, bad[i], "x", 1), AWQ_ERROR_INVALID);
        assert_error_names(bad[i]);
    }
    assert_status(awq_checkpoint_writer_add_file(writer, NULL, "x", 1), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add_file(writer, "config.json", NULL, 1), AWQ_ERROR_INVALID);
    assert_status(awq_checkpoint_writer_add_file(writer, "config.json", "{}", 2), AWQ_OK);
    assert_status(awq_checkpoint_writer_add_file(writer, "config.json", "{}", 2), AWQ_ERROR_INVALID);
    assert_error_names("\"config.json\" was added before");
    assert_status(awq_checkpoint_writer_add_file(writer, "empty", NULL, 0), AWQ_OK);
    assert_status(awq_checkpoint_writer_add_file(writer, "..hidden", "h\0i", 3), AWQ_OK);
    char name[300];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = 0;
    assert_status(awq_checkpoint_writer_add_file(writer, name, "x", 1), AWQ_ERROR_IO);
    commit(writer);
    size_t size;
    assert_int_equal(scratch_count(path), 4);
    char *bytes = scratch_read(scratch_path(scratch, "out/..hidden"), &size);
    assert_int_equal(size, 3);
    assert_memory_equal(bytes, "h\0i", 3);
    free(bytes);
}

/* ---- names */

static void nothing_is_visible_before_commit(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_checkpoint_writer *writer = create(scratch, path, 1000, 0);
    add_bytes(writer, "a", 1000);
    add_bytes(writer, "b", 1000);
    assert_status(awq_checkpoint_writer_add_file(writer, "config.json", "{}", 2), AWQ_OK);
    assert_false(scratch_exists(path));
    assert_int_equal(scratch_count(scratch->directory), 1);
    awq_checkpoint_writer_destroy(writer);
    assert_int_equal(scratch_count(scratch->directory), 0);
}

static void a_writer_is_used_once(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_tensor tensor;
    awq_tensor_init_const_1d(&tensor, "x", AWQ_U8, 1);
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    assert_status(awq_checkpoint_writer_commit(writer), AWQ_OK);
    assert_status(awq_checkpoint_writer_commit(writer), AWQ_ERROR_STATE);
    assert_status(awq_checkpoint_writer_add(writer, "a", &tensor), AWQ_ERROR_STATE);
    assert_status(awq_checkpoint_writer_add_file(writer, "a", "", 0), AWQ_ERROR_STATE);
    awq_checkpoint_writer_destroy(writer);
    assert_int_equal(scratch_count(path), 1);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

static void names_of_directories_are_understood(void **state)
{
    struct scratch *scratch = *state;
    char before[PATH_MAX];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(scratch->directory), 0);
    write_value(scratch, "relative", 1, 0);
    write_value(scratch, "./dotted", 2, 0);
    write_value(scratch, "slashes//", 3, 0);
    write_value(scratch, "slashes/", 4, AWQ_WRITER_REPLACE);
    assert_int_equal(chdir(before), 0);
    assert_int_equal(read_value(scratch, scratch_path(scratch, "relative")), 1);
    assert_int_equal(read_value(scratch, scratch_path(scratch, "dotted")), 2);
    assert_int_equal(read_value(scratch, scratch_path(scratch, "slashes")), 4);
    assert_int_equal(scratch_count(scratch->directory), 3);
}

static void what_exists_is_refused(void **state)
{
    struct scratch *scratch = *state;
    awq_checkpoint_writer *writer = (void *)1;
    assert_int_equal(mkdir(scratch_path(scratch, "directory"), 0700), 0);
    scratch_write(scratch_path(scratch, "file"), "x", 1);
    assert_int_equal(symlink("nowhere", scratch_path(scratch, "link")), 0);
    static const char *const names[] = {"directory", "directory/", "file", "link"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = scratch_path(scratch, names[i]);
        assert_status(awq_checkpoint_writer_create(scratch->context, path, NULL, &writer), AWQ_ERROR_IO);
        assert_null(writer);
        assert_error_names(names[i]);
        assert_error_names("exists already");
    }
    assert_int_equal(scratch_count(scratch->directory), 3);
}

static void what_cannot_be_made_is_named(void **state)
{
    struct scratch *scratch = *state;
    awq_checkpoint_writer *writer;
    scratch_write(scratch_path(scratch, "file"), "x", 1);
    const char *under_file = scratch_path(scratch, "file/out"), *absent = scratch_path(scratch, "absent/out");
    assert_status(awq_checkpoint_writer_create(scratch->context, under_file, NULL, &writer), AWQ_ERROR_IO);
    assert_error_names("file/.out.tmp-");
    assert_error_names("Not a directory");
    assert_status(awq_checkpoint_writer_create(scratch->context, absent, NULL, &writer), AWQ_ERROR_IO);
    assert_error_names("absent/.out.tmp-");
    assert_error_names("No such file or directory");
    char path[PATH_MAX + 10];
    memset(path, 'p', sizeof path);
    path[sizeof path - 1] = 0;
    assert_status(awq_checkpoint_writer_create(scratch->context, path, NULL, &writer), AWQ_ERROR_INVALID);
    if (geteuid() != 0) { /* root may write anywhere */
        assert_int_equal(mkdir(scratch_path(scratch, "locked"), 0500), 0);
        const char *locked = scratch_path(scratch, "locked/out");
        assert_status(awq_checkpoint_writer_create(scratch->context, locked, NULL, &writer), AWQ_ERROR_IO);
        assert_error_names("Permission denied");
    }
}

static void work_survives_a_name_that_was_taken_meanwhile(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    awq_tensor tensor;
    int32_t value = 7;
    awq_tensor_init_1d(&tensor, &value, AWQ_I32, 1);
    awq_checkpoint_writer *writer = create(scratch, path, 0, 0);
    assert_status(awq_checkpoint_writer_add(writer, "value", &tensor), AWQ_OK);
    assert_int_equal(mkdir(path, 0700), 0); /* even an empty one is somebody's */
    assert_status(awq_checkpoint_writer_commit(writer), AWQ_ERROR_IO);
    assert_error_names("exists already");
    assert_int_equal(scratch_count(path), 0);
    assert_status(awq_checkpoint_writer_add(writer, "late", &tensor), AWQ_ERROR_STATE);
    assert_int_equal(rmdir(path), 0);
    commit(writer);
    assert_int_equal(read_value(scratch, path), 7);
}

/* ---- replacing */

static void a_model_is_replaced_whole(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    write_value(scratch, path, 1, AWQ_WRITER_REPLACE); /* nothing there yet */
    scratch_write(scratch_path(scratch, "out/config.json"), "{}", 2);
    write_value(scratch, path, 2, AWQ_WRITER_REPLACE);
    assert_int_equal(read_value(scratch, path), 2);
    assert_int_equal(scratch_count(path), 1);
    assert_int_equal(scratch_count(scratch->directory), 1);

    awq_checkpoint_writer *writer = create(scratch, path, 0, AWQ_WRITER_REPLACE);
    add_bytes(writer, "other", 3);
    awq_checkpoint_writer_destroy(writer);
    assert_int_equal(read_value(scratch, path), 2);

    /* What was open stays readable. */
    awq_tensor view;
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    write_value(scratch, path, 3, AWQ_WRITER_REPLACE);
    assert_status(awq_checkpoint_get(checkpoint, "value", &view), AWQ_OK);
    assert_int_equal(*(const int32_t *)view.data, 2);
    awq_checkpoint_destroy(checkpoint);
    assert_int_equal(scratch_count(scratch->directory), 1);

    /* It vanished meanwhile. */
    writer = create(scratch, path, 0, AWQ_WRITER_REPLACE);
    add_bytes(writer, "other", 3);
    assert_int_equal(unlink(scratch_path(scratch, "out/model.safetensors")), 0);
    assert_int_equal(rmdir(path), 0);
    commit(writer);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

static void an_empty_directory_is_replaced(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    assert_int_equal(mkdir(path, 0700), 0);
    write_value(scratch, path, 5, AWQ_WRITER_REPLACE);
    assert_int_equal(read_value(scratch, path), 5);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

static void what_is_no_model_is_not_replaced(void **state)
{
    struct scratch *scratch = *state;
    awq_checkpoint_writer *writer;
    awq_checkpoint_writer_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_WRITER_REPLACE;
    assert_int_equal(mkdir(scratch_path(scratch, "letters"), 0700), 0);
    scratch_write(scratch_path(scratch, "letters/to her"), "x", 1);
    assert_int_equal(mkdir(scratch_path(scratch, "home"), 0700), 0);
    assert_int_equal(mkdir(scratch_path(scratch, "home/papers"), 0700), 0);
    scratch_write(scratch_path(scratch, "home/a.safetensors"), "x", 1);
    scratch_write(scratch_path(scratch, "file"), "x", 1);
    assert_int_equal(symlink("nowhere", scratch_path(scratch, "link")), 0);
    static const struct {
        const char *name, *error;
        awq_status status;
    } cases[] = {
        {"letters", "letters: not replaced, because it holds files but no .safetensors", AWQ_ERROR_IO},
        {"home", "home: not replaced, because of the directory \"papers\" in it", AWQ_ERROR_IO},
        {"file", "file: cannot replace the directory: Not a directory", AWQ_ERROR_IO},
        {"link", "link: cannot resolve: No such file", AWQ_ERROR_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *path = scratch_path(scratch, cases[i].name);
        assert_status(awq_checkpoint_writer_create(scratch->context, path, &options, &writer), cases[i].status);
        assert_error_names(cases[i].error);
    }
    assert_int_equal(scratch_count(scratch->directory), 4);
    assert_int_equal(scratch_count(scratch_path(scratch, "home")), 2);
}

static void a_link_to_a_model_stays_a_link(void **state)
{
    struct scratch *scratch = *state;
    struct stat information;
    assert_int_equal(mkdir(scratch_path(scratch, "disk"), 0700), 0);
    write_value(scratch, scratch_path(scratch, "disk/model"), 1, 0);
    assert_int_equal(symlink("disk/model", scratch_path(scratch, "out")), 0);
    write_value(scratch, scratch_path(scratch, "out"), 2, AWQ_WRITER_REPLACE);
    assert_int_equal(lstat(scratch_path(scratch, "out"), &information), 0);
    assert_true(S_ISLNK(information.st_mode));
    assert_int_equal(read_value(scratch, scratch_path(scratch, "disk/model")), 2);
    assert_int_equal(scratch_count(scratch_path(scratch, "disk")), 1);
}

/* ---- trouble */

static void a_full_disk_leaves_the_old_model(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    static const uint8_t bytes[20000];
    struct rlimit before, small;
    awq_tensor tensor, strided;
    awq_tensor_init_const_1d(&tensor, bytes, AWQ_U8, sizeof bytes);
    awq_tensor_init_const_1d(&strided, bytes, AWQ_U8, sizeof bytes / 2);
    strided.strides[0] = 2;
    write_value(scratch, path, 1, 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 6000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    awq_checkpoint_writer *writer = create(scratch, path, 0, AWQ_WRITER_REPLACE);
    add_bytes(writer, "small", 100);

    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    awq_status contiguous = awq_checkpoint_writer_add(writer, "large", &tensor);
    char *error = strdup(awq_last_error());
    awq_status gathered = awq_checkpoint_writer_add(writer, "strided", &strided);
    awq_status file = awq_checkpoint_writer_add_file(writer, "config.json", bytes, sizeof bytes);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(contiguous, AWQ_ERROR_IO);
    assert_int_equal(gathered, AWQ_ERROR_IO);
    assert_int_equal(file, AWQ_ERROR_IO);
    assert_non_null(strstr(error, "model-00001.safetensors: cannot write: File too large"));
    free(error);
    assert_int_equal(read_value(scratch, path), 1);

    /* With room again the writer goes on as if nothing had happened. */
    add_bytes(writer, "large", 50);
    assert_status(awq_checkpoint_writer_add_file(writer, "config.json", "{}", 2), AWQ_OK);
    commit(writer);
    awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
    assert_int_equal(awq_checkpoint_count(checkpoint), 2);
    awq_checkpoint_destroy(checkpoint);
    assert_int_equal(scratch_count(path), 2);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

static void a_shard_that_cannot_be_finished_spoils_the_writer(void **state)
{
    struct scratch *scratch = *state;
    struct rlimit before, small;
    awq_tensor tensor;
    awq_tensor_init_const_1d(&tensor, "x", AWQ_U8, 1);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 100;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    awq_checkpoint_writer *writer = create(scratch, scratch_path(scratch, "out"), 0, 0);
    assert_status(awq_checkpoint_writer_add(writer, "a", &tensor), AWQ_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    awq_status status = awq_checkpoint_writer_commit(writer);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, AWQ_ERROR_IO);
    assert_error_names("model-00001.safetensors: cannot write: File too large");
    assert_status(awq_checkpoint_writer_add(writer, "b", &tensor), AWQ_ERROR_STATE);
    assert_status(awq_checkpoint_writer_commit(writer), AWQ_ERROR_STATE);
    assert_error_names("an earlier failure spoilt");
    awq_checkpoint_writer_destroy(writer);
    assert_int_equal(scratch_count(scratch->directory), 0);
}

/* What appeared in the old directory while the new one was written is not ours to delete. */
static void a_directory_in_the_old_model_is_kept_aside(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    write_value(scratch, path, 1, 0);
    awq_checkpoint_writer *writer = create(scratch, path, 0, AWQ_WRITER_REPLACE);
    assert_int_equal(mkdir(scratch_path(scratch, "out/papers"), 0700), 0);
    commit(writer);
    assert_int_equal(scratch_count(path), 1);
    assert_int_equal(scratch_count(scratch->directory), 2);
}

static void failed_allocations_leave_nothing(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    uint16_t data[6] = {1, 2, 3, 4, 5, 6};
    awq_tensor tensor;
    awq_tensor_init_2d(&tensor, data, AWQ_U16, 2, 3);
    tensor.strides[0] = 1;
    tensor.strides[1] = 2;
    awq_status status;
    int64_t n = 0;
    do {
        awq_checkpoint_writer *writer;
        scratch->allocations_left = n++;
        status = awq_checkpoint_writer_create(scratch->context, path, NULL, &writer);
        if (status == AWQ_OK) status = awq_checkpoint_writer_add(writer, "a", &tensor);
        if (status == AWQ_OK) status = awq_checkpoint_writer_commit(writer);
        scratch->allocations_left = -1;
        awq_checkpoint_writer_destroy(writer);
        assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
        assert_int_equal(scratch_count(scratch->directory), status == AWQ_OK);
    } while (status != AWQ_OK);
    assert_true(n > 4);
}

/* For child processes, where a failed assertion would run the rest of the tests. */
static bool write_two(awq_context *context, const char *path, int32_t value, uint32_t flags)
{
    awq_checkpoint_writer_options options;
    awq_checkpoint_writer *writer;
    awq_tensor tensor;
    awq_struct_init(&options, sizeof options);
    options.flags = flags;
    options.shard_bytes = 1;
    awq_tensor_init_1d(&tensor, &value, AWQ_I32, 1);
    bool done = awq_checkpoint_writer_create(context, path, &options, &writer) == AWQ_OK &&
                awq_checkpoint_writer_add(writer, "value", &tensor) == AWQ_OK &&
                awq_checkpoint_writer_add(writer, "other", &tensor) == AWQ_OK &&
                awq_checkpoint_writer_commit(writer) == AWQ_OK;
    if (!done) fprintf(stderr, "child: %s\n", awq_last_error());
    awq_checkpoint_writer_destroy(writer);
    return done;
}

static void a_kill_leaves_the_old_model_or_the_new_one(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    write_value(scratch, path, 0, 0);
    for (int round = 0; round < 12; round++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            int32_t number = 1;
            while (write_two(scratch->context, path, number, AWQ_WRITER_REPLACE)) number++;
            _exit(1);
        }
        int how;
        usleep((useconds_t)(2000 + 1700 * round));
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how));
        awq_tensor value, other;
        awq_checkpoint *checkpoint = open_checkpoint(scratch, path);
        assert_status(awq_checkpoint_get(checkpoint, "value", &value), AWQ_OK);
        if (awq_checkpoint_get(checkpoint, "other", &other) == AWQ_OK)
            assert_memory_equal(value.data, other.data, sizeof(int32_t));
        awq_checkpoint_destroy(checkpoint);
    }
}

enum { CANNOT_FORBID = 77 };

/* From now on renameat2 knows no flags in this process, as on file systems that cannot exchange two names. */
static void forbid_exchange(void)
{
    static struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_renameat2, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[4])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    static const struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        _exit(CANNOT_FORBID);
}

static void a_model_is_replaced_without_an_exchange_of_names(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "out");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        forbid_exchange();
        awq_checkpoint_writer *early, *late;
        bool done = awq_checkpoint_writer_create(scratch->context, path, NULL, &late) == AWQ_OK &&
                    write_two(scratch->context, path, 1, 0) &&
                    awq_checkpoint_writer_commit(late) == AWQ_ERROR_IO && /* the name is taken */
                    awq_checkpoint_writer_create(scratch->context, path, NULL, &early) == AWQ_ERROR_IO &&
                    write_two(scratch->context, path, 2, AWQ_WRITER_REPLACE) &&
                    write_two(scratch->context, path, 3, AWQ_WRITER_REPLACE);
        awq_checkpoint_writer_destroy(late);
        _exit(done ? 0 : 1);
    }
    int how;
    assert_int_equal(waitpid(child, &how, 0), child);
    if (WIFEXITED(how) && WEXITSTATUS(how) == CANNOT_FORBID) skip();
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    assert_int_equal(read_value(scratch, path), 3);
    assert_int_equal(scratch_count(path), 3);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(every_dtype_and_rank_comes_back),
        SCRATCH_TEST(any_strides_are_written),
        SCRATCH_TEST(unaligned_neighbours_come_back),
        SCRATCH_TEST(a_file_is_what_the_format_says),
        SCRATCH_TEST(nothing_added_is_an_empty_checkpoint),
        SCRATCH_TEST(shards_end_before_they_are_too_large),
        SCRATCH_TEST(a_full_header_ends_a_shard),
        SCRATCH_TEST(a_name_longer_than_a_header_is_refused),
        SCRATCH_TEST(the_same_calls_give_the_same_bytes),
        SCRATCH_TEST(arguments_are_checked),
        SCRATCH_TEST(bad_tensors_are_refused_by_name),
        SCRATCH_TEST(other_files_are_carried_along),
        SCRATCH_TEST(nothing_is_visible_before_commit),
        SCRATCH_TEST(a_writer_is_used_once),
        SCRATCH_TEST(names_of_directories_are_understood),
        SCRATCH_TEST(what_exists_is_refused),
        SCRATCH_TEST(what_cannot_be_made_is_named),
        SCRATCH_TEST(work_survives_a_name_that_was_taken_meanwhile),
        SCRATCH_TEST(a_model_is_replaced_whole),
        SCRATCH_TEST(an_empty_directory_is_replaced),
        SCRATCH_TEST(what_is_no_model_is_not_replaced),
        SCRATCH_TEST(a_link_to_a_model_stays_a_link),
        SCRATCH_TEST(a_full_disk_leaves_the_old_model),
        SCRATCH_TEST(a_shard_that_cannot_be_finished_spoils_the_writer),
        SCRATCH_TEST(a_directory_in_the_old_model_is_kept_aside),
        SCRATCH_TEST(failed_allocations_leave_nothing),
        SCRATCH_TEST(a_kill_leaves_the_old_model_or_the_new_one),
        SCRATCH_TEST(a_model_is_replaced_without_an_exchange_of_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
