/* Mapping files, and writing them so that a name never refers to half a file. */
#include "scratch.h"

#include <signal.h>
#include <sys/resource.h>

static void a_file_is_mapped(void **state)
{
    const struct scratch *scratch = *state;
    struct awqi_mapping mapping;
    scratch_write(scratch_path(scratch, "five"), "12345", 5);
    assert_status(awqi_map_file(scratch_path(scratch, "five"), &mapping), AWQ_OK);
    assert_int_equal(mapping.size, 5);
    assert_memory_equal(mapping.data, "12345", 5);
    awqi_unmap_file(&mapping);
    assert_null(mapping.data);
    awqi_unmap_file(&mapping);
}

static void an_empty_file_has_no_data(void **state)
{
    const struct scratch *scratch = *state;
    struct awqi_mapping mapping;
    scratch_write(scratch_path(scratch, "empty"), "", 0);
    assert_status(awqi_map_file(scratch_path(scratch, "empty"), &mapping), AWQ_OK);
    assert_null(mapping.data);
    assert_int_equal(mapping.size, 0);
    awqi_unmap_file(&mapping);
}

static void what_cannot_be_mapped_is_named(void **state)
{
    const struct scratch *scratch = *state;
    struct awqi_mapping mapping;
    assert_status(awqi_map_file(scratch_path(scratch, "absent"), &mapping), AWQ_ERROR_NOT_FOUND);
    assert_error_names("absent: cannot open: No such file");
    scratch_write(scratch_path(scratch, "plain"), "x", 1);
    assert_status(awqi_map_file(scratch_path(scratch, "plain/inside"), &mapping), AWQ_ERROR_IO);
    assert_error_names("plain/inside: cannot open: Not a directory");
    assert_status(awqi_map_file(scratch->directory, &mapping), AWQ_ERROR_FORMAT);
    assert_error_names("not a regular file");
    assert_int_equal(mkfifo(scratch_path(scratch, "pipe"), 0600), 0);
    assert_status(awqi_map_file(scratch_path(scratch, "pipe"), &mapping), AWQ_ERROR_FORMAT);
    assert_error_names("not a regular file");
}

static void a_file_appears_at_commit(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "result");
    struct awqi_atomic_file file;
    size_t size;
    assert_status(awqi_atomic_open(scratch->context, path, &file), AWQ_OK);
    assert_status(awqi_write_all(file.fd, "new", 3, path), AWQ_OK);
    assert_false(scratch_exists(path));
    assert_int_equal(scratch_count(scratch->directory), 1);
    assert_status(awqi_atomic_commit(&file), AWQ_OK);
    awqi_atomic_discard(&file);
    awqi_atomic_discard(&file);
    assert_int_equal(scratch_count(scratch->directory), 1);
    char *bytes = scratch_read(path, &size);
    assert_string_equal(bytes, "new");
    free(bytes);
}

static void an_old_file_stays_until_commit(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "result");
    struct awqi_atomic_file file;
    size_t size;
    scratch_write(path, "old", 3);
    for (int committed = 0; committed < 2; committed++) {
        assert_status(awqi_atomic_open(scratch->context, path, &file), AWQ_OK);
        assert_status(awqi_write_all(file.fd, "new", 3, path), AWQ_OK);
        if (committed) assert_status(awqi_atomic_commit(&file), AWQ_OK);
        awqi_atomic_discard(&file);
        assert_int_equal(scratch_count(scratch->directory), 1);
        char *bytes = scratch_read(path, &size);
        assert_string_equal(bytes, committed ? "new" : "old");
        free(bytes);
    }
}

static void a_relative_name_is_beside_itself(void **state)
{
    struct scratch *scratch = *state;
    struct awqi_atomic_file file;
    char before[PATH_MAX];
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(chdir(scratch->directory), 0);
    assert_status(awqi_atomic_open(scratch->context, "result", &file), AWQ_OK);
    assert_int_equal(scratch_count("."), 1);
    assert_status(awqi_atomic_commit(&file), AWQ_OK);
    awqi_atomic_discard(&file);
    assert_true(scratch_exists(scratch_path(scratch, "result")));
    assert_int_equal(chdir(before), 0);
}

static void the_longest_name_can_be_written(void **state)
{
    struct scratch *scratch = *state;
    char name[NAME_MAX + 1];
    memset(name, 'n', NAME_MAX);
    name[NAME_MAX] = 0;
    struct awqi_atomic_file file;
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, name), &file), AWQ_OK);
    assert_status(awqi_atomic_commit(&file), AWQ_OK);
    awqi_atomic_discard(&file);
    assert_true(scratch_exists(scratch_path(scratch, name)));
}

static void names_that_cannot_be_written_are_refused(void **state)
{
    struct scratch *scratch = *state;
    struct awqi_atomic_file file;
    assert_status(awqi_atomic_open(scratch->context, "", &file), AWQ_ERROR_INVALID);
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, "slash/"), &file), AWQ_ERROR_INVALID);
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, "absent/file"), &file), AWQ_ERROR_IO);
    assert_error_names("No such file");
    scratch_write(scratch_path(scratch, "plain"), "x", 1);
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, "plain/file"), &file), AWQ_ERROR_IO);
    assert_error_names("Not a directory");
    /* A rename would put a file where the device or the directory was. */
    assert_status(awqi_atomic_open(scratch->context, "/dev/null", &file), AWQ_ERROR_IO);
    assert_error_names("/dev/null");
    assert_status(awqi_atomic_open(scratch->context, scratch->directory, &file), AWQ_ERROR_IO);
    assert_int_equal(scratch_count(scratch->directory), 1);
}

static void a_full_disk_is_reported(void **state)
{
    struct scratch *scratch = *state;
    const char *path = scratch_path(scratch, "result");
    struct awqi_atomic_file file;
    struct rlimit before, small;
    static const char bytes[8192];
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 5000;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_status(awqi_atomic_open(scratch->context, path, &file), AWQ_OK);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    awq_status status = awqi_write_all(file.fd, bytes, sizeof bytes, path);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(status, AWQ_ERROR_IO);
    assert_error_names("result: cannot write: File too large");
    awqi_atomic_discard(&file);
    assert_int_equal(scratch_count(scratch->directory), 0);
}

static void failed_allocations_leave_nothing(void **state)
{
    struct scratch *scratch = *state;
    struct awqi_atomic_file file;
    for (int64_t n = 0;; n++) {
        scratch->allocations_left = n;
        awq_status status = awqi_atomic_open(scratch->context, scratch_path(scratch, "result"), &file);
        scratch->allocations_left = -1;
        awqi_atomic_discard(&file);
        assert_int_equal(scratch_count(scratch->directory), 0);
        if (status == AWQ_OK) break;
        assert_int_equal(status, AWQ_ERROR_OUT_OF_MEMORY);
    }
}

static void what_a_killed_process_left_is_no_obstacle(void **state)
{
    struct scratch *scratch = *state;
    struct awqi_atomic_file first, second;
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, "result"), &first), AWQ_OK);
    /* The names to come are taken by others. */
    char *number = strrchr(first.temporary, '-') + 1;
    unsigned next = (unsigned)strtoul(number, NULL, 10) + 1;
    for (unsigned i = 0; i < 3; i++) {
        char taken[PATH_MAX];
        snprintf(taken, sizeof taken, "%.*s%u", (int)(number - first.temporary), first.temporary, next + i);
        scratch_write(taken, "", 0);
    }
    assert_status(awqi_atomic_open(scratch->context, scratch_path(scratch, "result"), &second), AWQ_OK);
    assert_int_equal(scratch_count(scratch->directory), 5);
    awqi_atomic_discard(&first);
    awqi_atomic_discard(&second);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(a_file_is_mapped),
        SCRATCH_TEST(an_empty_file_has_no_data),
        SCRATCH_TEST(what_cannot_be_mapped_is_named),
        SCRATCH_TEST(a_file_appears_at_commit),
        SCRATCH_TEST(an_old_file_stays_until_commit),
        SCRATCH_TEST(a_relative_name_is_beside_itself),
        SCRATCH_TEST(the_longest_name_can_be_written),
        SCRATCH_TEST(names_that_cannot_be_written_are_refused),
        SCRATCH_TEST(a_full_disk_is_reported),
        SCRATCH_TEST(failed_allocations_leave_nothing),
        SCRATCH_TEST(what_a_killed_process_left_is_no_obstacle),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
