#include "fuzz.h"

#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

static awq_context *context;
static uint64_t held; /* by the context itself */
static char directory[PATH_MAX / 2];

void fuzz_fail(const char *condition, const char *file, int line)
{
    fprintf(stderr, "%s:%d: %s does not hold; last error: %s\n", file, line, condition, awq_last_error());
    abort();
}

awq_status fuzz_status(awq_status status)
{
    fuzz_assert(strcmp(awq_status_name(status), "unknown status") != 0);
    fuzz_assert(status == AWQ_OK || awq_last_error()[0] != 0);
    return status;
}

/* ---- context */

static void discard_log(void *user_data, int32_t level, const char *message, size_t length)
{
    (void)user_data;
    fuzz_assert(level >= AWQ_LOG_ERROR && level <= AWQ_LOG_DEBUG && message[length] == 0);
}

awq_context *fuzz_context(void)
{
    if (context == NULL) {
        awq_context_options options;
        awq_struct_init(&options, sizeof options);
        options.threads = 1;
        options.memory_limit_bytes = 64 << 20;
        options.log = discard_log;
        options.log_level = AWQ_LOG_DEBUG;
        fuzz_assert(awq_context_create(&options, &context) == AWQ_OK);
        fuzz_assert(awq_context_get_memory(context, &held, NULL) == AWQ_OK);
    }
    return context;
}

void fuzz_expect_nothing_held(void)
{
    uint64_t now;
    fuzz_assert(awq_context_get_memory(fuzz_context(), &now, NULL) == AWQ_OK && now == held);
}

void fuzz_read_tensor(const awq_tensor *tensor)
{
    static volatile uint8_t seen;
    uint8_t sum = 0;
    uint64_t bytes = (uint64_t)awqi_tensor_elements(tensor) * awq_dtype_size(tensor->dtype);
    const uint8_t *data = awqi_tensor_data(tensor);
    for (uint64_t i = 0; i < bytes; i++) sum ^= data[i];
    seen = sum;
    (void)seen;
}

/* ---- files */

static int remove_entry(const char *path, const struct stat *information, int type, struct FTW *position)
{
    (void)information;
    (void)type;
    (void)position;
    return remove(path);
}

static void close_all(void)
{
    awq_context_destroy(context);
    if (directory[0] != 0) nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

__attribute__((constructor)) static void prepare(void)
{
    atexit(close_all);
}

const char *fuzz_directory(void)
{
    if (directory[0] == 0) {
        const char *base = getenv("TMPDIR");
        snprintf(directory, sizeof directory, "%s/awq-fuzz-XXXXXX", base != NULL ? base : "/tmp");
        fuzz_assert(mkdtemp(directory) != NULL);
    }
    return directory;
}

const char *fuzz_file(const char *name, const void *bytes, size_t size)
{
    static char paths[3][PATH_MAX];
    static unsigned turn;
    char *path = paths[turn++ % 3];
    snprintf(path, PATH_MAX, "%s/%s", fuzz_directory(), name);
    FILE *file = fopen(path, "wb");
    fuzz_assert(file != NULL && (size == 0 || fwrite(bytes, 1, size, file) == size));
    fuzz_assert(fclose(file) == 0);
    return path;
}

/* ---- memory that ends where the next page cannot be touched */

static size_t page_size(void)
{
    return (size_t)sysconf(_SC_PAGESIZE);
}

static size_t whole_pages(size_t size)
{
    return (size + page_size() - 1) / page_size() * page_size();
}

/* The linker has calls of the library and the application go to these (--wrap). */
void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_munmap(void *address, size_t size);
void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __wrap_munmap(void *address, size_t size);

void *fuzz_guard(const void *bytes, size_t size)
{
    size_t room = whole_pages(size);
    char *region = __real_mmap(NULL, room + page_size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fuzz_assert(region != MAP_FAILED && mprotect(region + room, page_size(), PROT_NONE) == 0);
    if (bytes != NULL && size > 0) memcpy(region + room - size, bytes, size);
    return region + room - size;
}

void fuzz_unguard(void *memory, size_t size)
{
    size_t room = whole_pages(size);
    fuzz_assert(__real_munmap((char *)memory + size - room, room + page_size()) == 0);
}

void *__wrap_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset)
{
    if (fd < 0) return __real_mmap(address, size, protection, flags, fd, offset);
    char *memory = fuzz_guard(NULL, size);
    fuzz_assert(pread(fd, memory, size, offset) == (ssize_t)size);
    fuzz_assert(mprotect(memory + size - whole_pages(size), whole_pages(size), protection) == 0);
    return memory;
}

int __wrap_munmap(void *address, size_t size)
{
    fuzz_unguard(address, size);
    return 0;
}

/* ---- messages of the application: made, for what that may do, and dropped */

bool __wrap_cli_error(const char *format, ...) __attribute__((format(printf, 1, 2)));
void __wrap_cli_warning(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool __wrap_cli_library_error(awq_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void make_message(const char *format, va_list arguments)
{
    char text[4096];
    fuzz_assert(vsnprintf(text, sizeof text, format, arguments) > 0);
}

bool __wrap_cli_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    make_message(format, arguments);
    va_end(arguments);
    return false;
}

void __wrap_cli_warning(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    make_message(format, arguments);
    va_end(arguments);
}

bool __wrap_cli_library_error(awq_status status, const char *format, ...)
{
    va_list arguments;
    fuzz_assert(fuzz_status(status) != AWQ_OK);
    va_start(arguments, format);
    make_message(format, arguments);
    va_end(arguments);
    return false;
}
