/* What the programs share that compare a device with the processor: two contexts, random numbers, arguments and counts.
 *
 *     PROGRAM [-s SEED] [TEST] */
#ifndef AWQ_TEST_CUDA_DEVICE_H
#define AWQ_TEST_CUDA_DEVICE_H

#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

struct device_test {
    const char *name;
    void (*function)(void);
};

static awq_context *host, *device;
static uint64_t seed = 1;
static int failed, passed;

static inline uint32_t draw(uint32_t below)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % below);
}

static inline float draw_float(float limit)
{
    return ((float)draw(20001) / 10000.0f - 1.0f) * limit;
}

static inline void require(awq_status status, const char *what)
{
    if (status == AWQ_OK) return;
    printf("%s: %s: %s\n", what, awq_status_name(status), awq_last_error());
    exit(1);
}
#define REQUIRE(call) require((call), #call)

static inline void *array(int64_t count, size_t size)
{
    void *memory = calloc((size_t)(count > 0 ? count : 1), size);
    if (memory == NULL) abort();
    return memory;
}

/* Run the tests that are named, or all, after 'prepare', which may be NULL; what main returns: 77 with a reason where
 * there is no device. */
static inline int run_device_tests(int argc, char **argv, size_t count, const struct device_test *tests,
                                   void (*prepare)(void))
{
    for (int option; (option = getopt(argc, argv, "s:")) != -1;)
        if (option == 's') seed = strtoull(optarg, NULL, 0);
        else return 2;
    awq_context_options options;
    awq_struct_init(&options, sizeof options);
    options.threads = 1;
    REQUIRE(awq_context_create(&options, &host));
    options.device_type = AWQ_DEVICE_CUDA;
    awq_status status = awq_context_create(&options, &device);
    if (status == AWQ_ERROR_NO_DEVICE) {
        printf("%s\n", awq_last_error());
        return 77;
    }
    require(status, "awq_context_create");
    if (prepare != NULL) prepare();
    for (size_t i = 0; i < count; i++)
        if (optind >= argc || strcmp(argv[optind], tests[i].name) == 0) tests[i].function();
    awq_context_destroy(device);
    awq_context_destroy(host);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed != 0;
}

#endif
