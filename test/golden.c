/* build/test/golden [SECTION...]: compares libawq with the vectors in AWQ_GOLDEN_DIR (unset: test/data/golden).
 *
 * One line per failure, one line of counts per section, and last "N passed, M failed, K skipped".  Names of sections,
 * or their beginnings, restrict the run. */
#include "golden.h"
#include "sha256.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct section {
    const char *name;
    golden_handler handler;
} sections[] = {
    {"1_pseudo_quantize", golden_pseudo_quantize},
    {"2_layout", golden_layout},
    {"3_dequant_matmul", golden_dequant_matmul},
    {"4_scale_search", golden_scale_search},
    {"5_clip_search", golden_clip_search},
    {"6_fold", golden_fold},
};

enum { MAX_OUTPUTS = 32, MAX_REASONS = 64, MAX_REPORTS = 8 };

struct memory {
    struct memory *next;
    max_align_t bytes[];
};

struct golden_case {
    awq_context *context;
    const char *directory;
    const json_t *json;
    const char *id;
    struct memory *memory; /* freed with the case */
    const char *seen[MAX_OUTPUTS];
    int seen_count;
    int failures;
    bool skipped;
};

struct tally {
    int passed, failed, skipped;
};

/* ---- the case */

awq_context *golden_context(const struct golden_case *test)
{
    return test->context;
}

const char *golden_id(const struct golden_case *test)
{
    return test->id;
}

static const char *text_of(const json_t *object, const char *name, const char *fallback)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text != NULL ? text : fallback;
}

const char *golden_peer(const struct golden_case *test)
{
    return text_of(test->json, "peer", "");
}

const char *golden_function(const struct golden_case *test)
{
    return text_of(test->json, "function", "");
}

const json_t *golden_param(const struct golden_case *test, const char *name)
{
    return json_object_get(json_object_get(test->json, "params"), name);
}

int64_t golden_integer(const struct golden_case *test, const char *name, int64_t fallback)
{
    const json_t *value = golden_param(test, name);
    return json_is_integer(value) ? json_integer_value(value) : fallback;
}

double golden_number(const struct golden_case *test, const char *name, double fallback)
{
    const json_t *value = golden_param(test, name);
    return json_is_number(value) ? json_number_value(value) : fallback;
}

bool golden_flag(const struct golden_case *test, const char *name)
{
    return json_is_true(golden_param(test, name));
}

const char *golden_string(const struct golden_case *test, const char *name, const char *fallback)
{
    return text_of(json_object_get(test->json, "params"), name, fallback);
}

const char *golden_checksum(const struct golden_case *test, const char *name)
{
    return text_of(json_object_get(test->json, "checks"), name, NULL);
}

static const json_t *file_entry(const struct golden_case *test, const char *kind, const char *name)
{
    return json_object_get(json_object_get(test->json, kind), name);
}

bool golden_has_input(const struct golden_case *test, const char *name)
{
    return file_entry(test, "inputs", name) != NULL;
}

bool golden_has_output(const struct golden_case *test, const char *name)
{
    return file_entry(test, "outputs", name) != NULL;
}

const json_t *golden_tolerance(const struct golden_case *test, const char *name)
{
    return json_object_get(file_entry(test, "outputs", name), "tolerance");
}

void *golden_allocate(struct golden_case *test, size_t size)
{
    struct memory *memory = calloc(1, sizeof *memory + size + 1);
    if (memory == NULL) {
        fputs("no memory\n", stderr);
        exit(2);
    }
    memory->next = test->memory;
    test->memory = memory;
    return memory->bytes;
}

awq_tensor *golden_tensor(struct golden_case *test, int32_t dtype, int32_t ndim, const int64_t *shape)
{
    awq_tensor *tensor = golden_allocate(test, sizeof *tensor);
    size_t size = awq_dtype_size(dtype);
    for (int32_t i = 0; i < ndim; i++) size *= (size_t)shape[i];
    (void)awq_tensor_init(tensor, golden_allocate(test, size), dtype, ndim, shape);
    return tensor;
}

awq_tensor *golden_matrix(struct golden_case *test, int32_t dtype, int64_t rows, int64_t columns)
{
    const int64_t shape[2] = {rows, columns};
    return golden_tensor(test, dtype, 2, shape);
}

static size_t bytes_of(const awq_tensor *tensor)
{
    size_t size = awq_dtype_size(tensor->dtype);
    for (int32_t i = 0; i < tensor->ndim; i++) size *= (size_t)tensor->shape[i];
    return size;
}

static const awq_tensor *load(struct golden_case *test, const char *kind, const char *name)
{
    const char *file = text_of(file_entry(test, kind, name), "file", NULL);
    if (file == NULL) {
        golden_fail(test, "%s: no file named %s", kind, name);
        return NULL;
    }
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", test->directory, file);
    awq_tensor read;
    const char *error = npy_read(path, &read);
    if (error != NULL) {
        golden_fail(test, "%s", error);
        return NULL;
    }
    awq_tensor *tensor = golden_tensor(test, read.dtype, read.ndim, read.shape);
    memcpy(tensor->data, read.data, bytes_of(tensor));
    tensor->flags = AWQ_TENSOR_READONLY;
    free(read.data);
    return tensor;
}

const awq_tensor *golden_input(struct golden_case *test, const char *name)
{
    return load(test, "inputs", name);
}

static void mark_seen(struct golden_case *test, const char *name)
{
    if (test->seen_count < MAX_OUTPUTS) test->seen[test->seen_count++] = name;
}

const awq_tensor *golden_expected(struct golden_case *test, const char *name)
{
    mark_seen(test, name);
    return load(test, "outputs", name);
}

/* ---- verdicts */

void golden_fail(struct golden_case *test, const char *format, ...)
{
    if (test->failures++ >= MAX_REPORTS) return;
    va_list arguments;
    va_start(arguments, format);
    printf("FAIL %s: ", test->id);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

/* True the first time a reason is given. */
static bool is_new_reason(const char *reason)
{
    static char *reasons[MAX_REASONS];
    for (int i = 0; i < MAX_REASONS; i++) {
        if (reasons[i] == NULL) {
            reasons[i] = strdup(reason);
            return true;
        }
        if (strcmp(reasons[i], reason) == 0) return false;
    }
    return true;
}

void golden_skip(struct golden_case *test, const char *reason)
{
    if (is_new_reason(reason)) printf("skip %s and others like it: %s\n", test->id, reason);
    test->skipped = true;
}

bool golden_ok(struct golden_case *test, awq_status status, const char *what)
{
    if (status != AWQ_OK) golden_fail(test, "%s: %s: %s", what, awq_status_name(status), awq_last_error());
    return status == AWQ_OK;
}

static int32_t without_ones(const awq_tensor *tensor, int64_t *shape)
{
    int32_t ndim = 0;
    for (int32_t i = 0; i < tensor->ndim; i++)
        if (tensor->shape[i] != 1) shape[ndim++] = tensor->shape[i];
    return ndim;
}

static bool same_shape(const awq_tensor *a, const awq_tensor *b)
{
    int64_t shape_a[AWQ_MAX_DIMS], shape_b[AWQ_MAX_DIMS];
    int32_t ndim = without_ones(a, shape_a);
    return ndim == without_ones(b, shape_b) && memcmp(shape_a, shape_b, (size_t)ndim * sizeof *shape_a) == 0;
}

static bool is_equal(double actual, double expected, bool zeros_are_signed)
{
    if (isnan(actual) || isnan(expected)) return isnan(actual) && isnan(expected);
    return actual == expected && !(zeros_are_signed && signbit(actual) != signbit(expected));
}

void golden_compare(struct golden_case *test, const char *name, const awq_tensor *actual)
{
    if (!golden_has_output(test, name)) return;
    const awq_tensor *expected = golden_expected(test, name);
    if (expected == NULL) return;
    if (!same_shape(actual, expected)) {
        golden_fail(test, "%s: has another shape than expected", name);
        return;
    }
    const json_t *tolerance = golden_tolerance(test, name);
    const char *kind = text_of(tolerance, "kind", "");
    bool exact = strcmp(kind, "exact") == 0;
    bool zeros_are_signed = strcmp(text_of(tolerance, "signed_zero", ""), "ignore") != 0;
    double bound = json_number_value(json_object_get(tolerance, "value"));
    if (!exact && strcmp(kind, "rel") != 0) {
        golden_fail(test, "%s: tolerance of kind '%s'", name, kind);
        return;
    }
    size_t elements = bytes_of(expected) / awq_dtype_size(expected->dtype);
    for (size_t i = 0; i < elements; i++) {
        double a = npy_value(actual, (int64_t)i), b = npy_value(expected, (int64_t)i);
        if (is_equal(a, b, exact && zeros_are_signed) || (!exact && fabs(a - b) <= bound * fabs(b))) continue;
        golden_fail(test, "%s: element %zu of %zu is %.9g, expected %.9g", name, i, elements, a, b);
        return;
    }
}

void golden_compare_checksum(struct golden_case *test, const char *name, const void *bytes, size_t size)
{
    const char *expected = golden_checksum(test, name);
    if (expected == NULL) return;
    char actual[SHA256_TEXT];
    sha256(bytes, size, actual);
    if (strcmp(actual, expected) != 0) golden_fail(test, "%s: is %s, expected %s", name, actual, expected);
}

/* ---- the run */

static bool was_seen(const struct golden_case *test, const char *name)
{
    for (int i = 0; i < test->seen_count; i++)
        if (strcmp(test->seen[i], name) == 0) return true;
    return false;
}

static void check_all_seen(struct golden_case *test)
{
    const char *name;
    json_t *output;
    json_object_foreach(json_object_get(test->json, "outputs"), name, output)
    {
        const char *kind = text_of(json_object_get(output, "tolerance"), "kind", "");
        if (strcmp(kind, "information") != 0 && !was_seen(test, name))
            golden_fail(test, "output %s was not compared", name);
    }
}

static void run_case(awq_context *context, const char *directory, const json_t *json, const struct section *section,
                     struct tally *tally)
{
    struct golden_case test = {.context = context, .directory = directory, .json = json};
    test.id = text_of(json, "id", "(a case without an id)");
    section->handler(&test);
    if (test.failures == 0 && !test.skipped) check_all_seen(&test);
    if (test.failures > 0) {
        tally->failed++;
    } else if (test.skipped) {
        tally->skipped++;
    } else {
        tally->passed++;
    }
    while (test.memory != NULL) {
        struct memory *next = test.memory->next;
        free(test.memory);
        test.memory = next;
    }
}

static struct tally run_section(awq_context *context, const char *directory, const json_t *cases,
                                const struct section *section)
{
    struct tally tally = {0, 0, 0};
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *json = json_array_get(cases, i);
        if (strcmp(text_of(json, "section", ""), section->name) == 0)
            run_case(context, directory, json, section, &tally);
    }
    printf("%s: %d passed, %d failed, %d skipped\n", section->name, tally.passed, tally.failed, tally.skipped);
    fflush(stdout);
    return tally;
}

/* Cases of sections that this runner has no handler for. */
static int count_unknown(const json_t *cases)
{
    int unknown = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const char *name = text_of(json_array_get(cases, i), "section", "");
        bool known = false;
        for (size_t s = 0; s < sizeof sections / sizeof *sections; s++) known |= strcmp(name, sections[s].name) == 0;
        unknown += !known;
    }
    return unknown;
}

static bool is_wanted(const struct section *section, char **names, int count)
{
    for (int i = 0; i < count; i++)
        if (strncmp(section->name, names[i], strlen(names[i])) == 0) return true;
    return count == 0;
}

static json_t *load_manifest(const char *directory)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/manifest.json", directory);
    json_error_t error;
    json_t *manifest = json_load_file(path, 0, &error);
    if (manifest == NULL) {
        fprintf(stderr, "%s: line %d: %s\n", path, error.line, error.text);
    } else if (json_array_size(json_object_get(manifest, "cases")) == 0) {
        fprintf(stderr, "%s: no cases\n", path);
        json_decref(manifest);
        return NULL;
    }
    return manifest;
}

int main(int argc, char **argv)
{
    const char *directory = getenv("AWQ_GOLDEN_DIR");
    if (directory == NULL || *directory == 0) directory = "test/data/golden";
    json_t *manifest = load_manifest(directory);
    if (manifest == NULL) return 2;
    awq_context *context;
    if (awq_context_create(NULL, &context) != AWQ_OK) {
        fprintf(stderr, "%s\n", awq_last_error());
        return 2;
    }
    const json_t *cases = json_object_get(manifest, "cases");
    struct tally total = {0, 0, 0};
    for (size_t i = 0; i < sizeof sections / sizeof *sections; i++) {
        if (!is_wanted(&sections[i], argv + 1, argc - 1)) continue;
        struct tally tally = run_section(context, directory, cases, &sections[i]);
        total.passed += tally.passed;
        total.failed += tally.failed;
        total.skipped += tally.skipped;
    }
    int unknown = argc == 1 ? count_unknown(cases) : 0;
    if (unknown > 0) printf("other sections: 0 passed, 0 failed, %d skipped\n", unknown);
    total.skipped += unknown;
    printf("%d passed, %d failed, %d skipped\n", total.passed, total.failed, total.skipped);
    awq_context_destroy(context);
    json_decref(manifest);
    return total.failed > 0;
}
