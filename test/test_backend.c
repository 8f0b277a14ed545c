/* Finding backends: the CPU's, and one for CUDA that this test builds with the compiler, right or wrong in one respect.
 * Each case runs in a child, for a process that has found a backend keeps it. */
#include "backend.h"
#include "scratch.h"

#include <sys/wait.h>

static void the_cpu_is_linked_in(void **state)
{
    (void)state;
    const struct awqi_backend *backend = NULL;
    assert_status(awqi_backend_find(AWQ_DEVICE_CPU, &backend), AWQ_OK);
    assert_ptr_equal(backend, &awqi_cpu_backend);
    assert_int_equal(backend->abi, AWQI_BACKEND_ABI);
    assert_status(awqi_backend_find(17, &backend), AWQ_ERROR_INVALID);
    assert_error_names("17");
}

static awq_status create_cuda(void)
{
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_type = AWQ_DEVICE_CUDA;
    awq_context *context = (void *)1;
    awq_status status = awq_context_create(&options, &context);
    if (status != AWQ_OK) assert_null(context);
    else awq_context_destroy(context);
    return status;
}

static void a_missing_backend_is_explained(void **state)
{
    struct scratch *scratch = *state;
    setenv("AWQ_CUDA_BACKEND", scratch_path(scratch, "absent.so"), 1);
    assert_status(create_cuda(), AWQ_ERROR_NO_DEVICE);
    assert_error_names("absent.so");
    assert_error_names("AWQ_CUDA_BACKEND");
    const char *text = scratch_path(scratch, "text.so");
    scratch_write(text, "not a library", 13);
    setenv("AWQ_CUDA_BACKEND", text, 1);
    assert_status(create_cuda(), AWQ_ERROR_NO_DEVICE);
    assert_error_names("text.so");
    setenv("AWQ_CUDA_BACKEND", "libm.so.6", 1);
    assert_status(create_cuda(), AWQ_ERROR_NO_DEVICE);
    assert_error_names("awqi_backend_get");
    char *longest = calloc(5001, 1);
    memset(longest, 'a', 5000);
    setenv("AWQ_CUDA_BACKEND", longest, 1);
    assert_status(create_cuda(), AWQ_ERROR_NO_DEVICE);
    assert_error_names("longer");
    free(longest);
    unsetenv("AWQ_CUDA_BACKEND");
    assert_status(create_cuda(), AWQ_ERROR_NO_DEVICE);
    assert_error_names("libawq_cuda.so");
}

/* The library may be known by a path from a directory that was the current one: from another, where somebody else may have put
 * files, that path once was followed. */
static void the_current_directory_is_not_searched(void **state)
{
    struct scratch *scratch = *state;
    char program[PATH_MAX], former[PATH_MAX], planted[PATH_MAX + 32];
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    assert_true(length > 0 && getcwd(former, sizeof former) != NULL);
    program[length] = 0;
    *strrchr(program, '/') = 0;
    /* For a test that was started as build/test/test_backend, the very place that this path leads to. */
    static const char *const parts[] = {"build", "build/test"};
    for (size_t i = 0; i < 2; i++) assert_int_equal(mkdir(scratch_path(scratch, parts[i]), 0777), 0);
    for (size_t i = 0; i < 2; i++) {
        snprintf(planted, sizeof planted, "%s/libawq_cuda.so", i == 0 ? scratch->directory : scratch_path(scratch, parts[i]));
        scratch_write(planted, "not a library", 13);
    }
    assert_int_equal(chdir(scratch->directory), 0);
    awq_status status = create_cuda();
    assert_int_equal(chdir(former), 0);
    assert_status(status, AWQ_ERROR_NO_DEVICE);
    assert_error_names(program);
    assert_null(strstr(awq_last_error(), "invalid ELF header"));
    assert_null(strstr(awq_last_error(), "too short"));
}

static const char backend_source[] =
    "#include <stdint.h>\n"
    "struct host { uint32_t abi, reserved; int32_t (*fail)(int32_t, const char *, ...); };\n"
    "struct backend { uint32_t abi, kernels; const char *name; int32_t (*open)(void *, int32_t, void **); };\n"
    "static const struct host *host;\n"
    "static int32_t open_device(void *context, int32_t id, void **device)\n"
    "{ (void)context; (void)device; return host->fail(-11, \"host %u has no device %d\", host->abi, id); }\n"
    "static const struct backend backend = { ABI, 1, \"test\", open_device };\n"
    "const struct backend *awqi_backend_get(const struct host *given);\n"
    "const struct backend *awqi_backend_get(const struct host *given) { host = given; return FOUND; }\n";

/* A backend that claims version 'abi' of the interface and gives 'found'.  False where there is no compiler. */
static bool build(const struct scratch *scratch, unsigned abi, const char *found, const char *library)
{
    const char *source = scratch_path(scratch, "backend.c");
    scratch_write(source, backend_source, sizeof backend_source - 1);
    char command[3 * PATH_MAX];
    snprintf(command, sizeof command, "cc -shared -fPIC -DABI=%u -DFOUND='%s' -o '%s' '%s'", abi, found, library,
             source);
    return system(command) == 0;
}

/* Run create_cuda in a child: its status, and whether the error names 'text'. */
static awq_status create_in_child(const char *library, const char *text, bool *named)
{
    pid_t child = fork();
    if (child == 0) {
        setenv("AWQ_CUDA_BACKEND", library, 1);
        awq_status status = create_cuda();
        _exit(-status + (strstr(awq_last_error(), text) != NULL ? 100 : 0));
    }
    int result;
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    *named = WEXITSTATUS(result) >= 100;
    return -(WEXITSTATUS(result) % 100);
}

static void a_loaded_backend_is_verified_and_asked(void **state)
{
    struct scratch *scratch = *state;
    char host[64];
    snprintf(host, sizeof host, "host %u has no device 0", AWQI_BACKEND_ABI);
    const struct {
        unsigned abi;
        const char *found;
        awq_status status;
        const char *names;
    } cases[] = {
        {AWQI_BACKEND_ABI, "&backend", AWQ_ERROR_NO_DEVICE, host},
        {AWQI_BACKEND_ABI + 999, "&backend", AWQ_ERROR_VERSION, "version"},
        {AWQI_BACKEND_ABI, "0", AWQ_ERROR_NO_DEVICE, "offers no backend"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *library = scratch_path(scratch, "backend.so");
        if (!build(scratch, cases[i].abi, cases[i].found, library)) skip();
        bool named;
        assert_int_equal(create_in_child(library, cases[i].names, &named), cases[i].status);
        assert_true(named);
    }
}

static void device_memory_is_aligned_and_counted(void **state)
{
    struct scratch *scratch = *state;
    void *memory;
    assert_status(awq_context_allocate(scratch->context, 1000, &memory), AWQ_OK);
    assert_int_equal((uintptr_t)memory % 256, 0);
    uint64_t held;
    assert_status(awq_context_get_memory(scratch->context, &held, NULL), AWQ_OK);
    assert_true(held >= scratch->held + 1000);
    awq_context_free(scratch->context, memory);
    awq_context_free(scratch->context, NULL);
}

static void there_is_one_cpu_device(void **state)
{
    (void)state;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.device_id = 1;
    awq_context *context = (void *)1;
    assert_status(awq_context_create(&options, &context), AWQ_ERROR_NO_DEVICE);
    assert_null(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_cpu_is_linked_in),
        cmocka_unit_test(there_is_one_cpu_device),
        SCRATCH_TEST(a_missing_backend_is_explained),
        SCRATCH_TEST(the_current_directory_is_not_searched),
        SCRATCH_TEST(a_loaded_backend_is_verified_and_asked),
        SCRATCH_TEST(device_memory_is_aligned_and_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
