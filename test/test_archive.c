/* Calibration archives: round trips, damage of every byte, hostile contents, and writing that is done or never was. */
#include "calibration.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

static awq_context *context;
static char directory[256];

static int setup(void **state)
{
    (void)state;
    const char *parent = getenv("TMPDIR");
    snprintf(directory, sizeof directory, "%s/awq-archive-XXXXXX", parent != NULL ? parent : P_tmpdir);
    if (mkdtemp(directory) == NULL) return -1;
    return awq_context_create(NULL, &context);
}

static int teardown(void **state)
{
    (void)state;
    awq_context_destroy(context);
    return rmdir(directory); /* fails when a test left a file */
}

/* ---- helpers */

/* The path of a file in the test's directory; valid until the fourth call after. */
static const char *in_directory(const char *name)
{
    static char paths[4][512];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

static int files_in_directory(void)
{
    DIR *listing = opendir(directory);
    assert_non_null(listing);
    int count = -2; /* . and .. */
    while (readdir(listing) != NULL) count++;
    closedir(listing);
    return count;
}

struct bytes {
    unsigned char data[1 << 20];
    size_t size;
};

static void read_bytes(const char *path, struct bytes *bytes)
{
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    bytes->size = fread(bytes->data, 1, sizeof bytes->data, file);
    assert_true(bytes->size < sizeof bytes->data);
    fclose(file);
}

static void write_bytes(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

/* A calibration that has seen 'rows' rows of numbers that need all their bits. */
static awq_calibration *observed(int64_t rows, int64_t channels, int64_t sample_rows, uint32_t flags)
{
    awq_calibration_options options;
    awq_calibration *calibration;
    awq_struct_init(&options, sizeof options);
    options.sample_rows = sample_rows;
    options.flags = flags;
    options.seed = 0x123456789abcdef0u;
    assert_int_equal(awq_calibration_create(context, channels, &options, &calibration), AWQ_OK);
    float *x = malloc((size_t)(rows * channels + 1) * sizeof *x);
    float *weights = malloc((size_t)(rows + 1) * sizeof *weights);
    for (int64_t i = 0; i < rows * channels; i++) x[i] = sinf((float)i * 1.7f) * expf((float)(i % channels % 9) - 4);
    for (int64_t i = 0; i < rows; i++) weights[i] = 1.0f / (float)(1 + i % 7);
    awq_tensor view, weight_view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, rows, channels);
    awq_tensor_init_const_1d(&weight_view, weights, AWQ_F32, rows);
    assert_int_equal(awq_calibration_observe_weighted(calibration, &view, &weight_view), AWQ_OK);
    free(x);
    free(weights);
    return calibration;
}

/* Equal to the last bit, low parts included. */
static void assert_identical(const awq_calibration *a, const awq_calibration *b)
{
    assert_int_equal(a->channels, b->channels);
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->rows, b->rows);
    assert_memory_equal(&a->weight_high, &b->weight_high, sizeof(double));
    assert_memory_equal(&a->weight_low, &b->weight_low, sizeof(double));
    assert_memory_equal(a->sums.abs_high, b->sums.abs_high, 5 * (size_t)a->channels * sizeof(double));
    assert_int_equal(a->sample->limit, b->sample->limit);
    assert_true(a->sample->seed == b->sample->seed);
    assert_int_equal(a->gram != NULL, b->gram != NULL);
    if (a->gram != NULL)
        assert_memory_equal(a->gram, b->gram, (size_t)(a->channels * a->channels) * sizeof(double));
    awq_tensor x, y;
    assert_int_equal(awq_calibration_get_samples(a, &x), AWQ_OK);
    assert_int_equal(awq_calibration_get_samples(b, &y), AWQ_OK);
    assert_int_equal(x.shape[0], y.shape[0]);
    if (x.shape[0] > 0) assert_memory_equal(x.data, y.data, (size_t)(x.shape[0] * x.shape[1]) * sizeof(float));
}

/* Open 'path' and load all it has; the first status that is not AWQ_OK. */
static awq_status load_everything(const char *path)
{
    awq_archive *archive;
    awq_status status = awq_archive_open(context, path, &archive);
    if (status != AWQ_OK) assert_null(archive);
    for (int64_t i = 0; status == AWQ_OK && i < awq_archive_count(archive); i++) {
        awq_calibration *calibration;
        status = awq_archive_load(archive, awq_archive_name(archive, i), &calibration);
        if (status != AWQ_OK) assert_null(calibration);
        awq_calibration_destroy(calibration);
    }
    awq_archive_destroy(archive);
    return status;
}

/* ---- round trips */

static void test_round_trip(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t rows, channels, sample_rows;
        uint32_t flags;
    } cases[] = {
        {"model.layers.10.self_attn", 300, 67, 200, 0}, /* 13400 sampled numbers: a short run */
        {"model.layers.2.self_attn", 300, 67, 280, 0},  /* 18760: a full one and a short one */
        {"gram", 40, 33, 16, AWQ_CALIBRATION_GRAM},
        {"no samples", 10, 5, -1, 0},
        {"nothing observed", 0, 3, 4, AWQ_CALIBRATION_GRAM},
        {"one channel \xc3\xa9", 3, 1, 0, AWQ_CALIBRATION_GRAM},
    };
    enum { CASES = sizeof cases / sizeof *cases };
    awq_calibration *saved[CASES];
    awq_archive_writer *writer;
    const char *path = in_directory("round.trip");
    assert_int_equal(awq_archive_writer_create(context, path, "docs, 16 sequences of 256", &writer), AWQ_OK);
    for (int i = 0; i < CASES; i++) {
        saved[i] = observed(cases[i].rows, cases[i].channels, cases[i].sample_rows, cases[i].flags);
        assert_int_equal(awq_archive_writer_add(writer, cases[i].name, saved[i]), AWQ_OK);
    }
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    awq_archive_writer_destroy(writer);

    awq_archive *archive;
    assert_int_equal(awq_archive_open(context, path, &archive), AWQ_OK);
    assert_int_equal(awq_archive_count(archive), CASES);
    assert_string_equal(awq_archive_provenance(archive), "docs, 16 sequences of 256");
    for (int i = 1; i < CASES; i++)
        assert_true(strcmp(awq_archive_name(archive, i - 1), awq_archive_name(archive, i)) < 0);
    assert_null(awq_archive_name(archive, CASES));
    assert_null(awq_archive_name(archive, -1));
    for (int i = 0; i < CASES; i++) {
        awq_calibration *loaded;
        assert_int_equal(awq_archive_load(archive, cases[i].name, &loaded), AWQ_OK);
        assert_identical(saved[i], loaded);
        awq_calibration_destroy(loaded);
        awq_calibration_destroy(saved[i]);
    }
    awq_archive_destroy(archive);
    unlink(path);
}

/* Whatever is done to what was loaded gives what it would have given without saving. */
static void test_loaded_goes_on(void **state)
{
    (void)state;
    const char *path = in_directory("one");
    awq_calibration *original = observed(100, 19, 30, AWQ_CALIBRATION_GRAM), *loaded;
    assert_int_equal(awq_calibration_save(original, path), AWQ_OK);
    assert_int_equal(awq_calibration_load(context, path, &loaded), AWQ_OK);
    float x[50 * 19];
    for (int i = 0; i < 50 * 19; i++) x[i] = cosf((float)i);
    awq_tensor view;
    awq_tensor_init_const_2d(&view, x, AWQ_F32, 50, 19);
    assert_int_equal(awq_calibration_observe(original, &view), AWQ_OK);
    assert_int_equal(awq_calibration_observe(loaded, &view), AWQ_OK);
    assert_identical(original, loaded);
    awq_calibration *other = observed(77, 19, 30, AWQ_CALIBRATION_GRAM);
    assert_int_equal(awq_calibration_merge(original, other), AWQ_OK);
    assert_int_equal(awq_calibration_merge(loaded, other), AWQ_OK);
    assert_identical(original, loaded);
    awq_calibration_destroy(original);
    awq_calibration_destroy(loaded);
    awq_calibration_destroy(other);
    unlink(path);
}

static void test_same_bytes(void **state)
{
    (void)state;
    static struct bytes first, second;
    awq_calibration *calibration = observed(60, 8, 20, AWQ_CALIBRATION_GRAM);
    assert_int_equal(awq_calibration_save(calibration, in_directory("a")), AWQ_OK);
    awq_calibration *loaded;
    assert_int_equal(awq_calibration_load(context, in_directory("a"), &loaded), AWQ_OK);
    assert_int_equal(awq_calibration_save(loaded, in_directory("b")), AWQ_OK);
    read_bytes(in_directory("a"), &first);
    read_bytes(in_directory("b"), &second);
    assert_int_equal(first.size, second.size);
    assert_memory_equal(first.data, second.data, first.size);
    /* Numbers are little-endian whatever the host: the version is at byte 8. */
    assert_memory_equal(first.data, "\x89" "AWQC\r\n\x1a\1\0\0\0", 12);
    awq_calibration_destroy(calibration);
    awq_calibration_destroy(loaded);
    unlink(in_directory("a"));
    unlink(in_directory("b"));
}

static void test_archive_outlives_handles(void **state)
{
    (void)state;
    awq_context *own;
    const char *path = in_directory("own");
    awq_calibration *calibration = observed(5, 2, 4, 0), *loaded;
    assert_int_equal(awq_calibration_save(calibration, path), AWQ_OK);
    assert_int_equal(awq_context_create(NULL, &own), AWQ_OK);
    awq_archive *archive;
    assert_int_equal(awq_archive_open(own, path, &archive), AWQ_OK);
    unlink(path); /* mapped, so still readable */
    awq_context_destroy(own);
    assert_int_equal(awq_archive_load(archive, "calibration", &loaded), AWQ_OK);
    awq_archive_destroy(archive);
    assert_identical(calibration, loaded);
    awq_calibration_destroy(loaded);
    awq_calibration_destroy(calibration);
}

struct reader {
    const awq_archive *archive;
    const char *name;
    const awq_calibration *expected;
    bool same;
};

static void *load_repeatedly(void *data)
{
    struct reader *reader = data;
    reader->same = true;
    for (int i = 0; i < 20; i++) {
        awq_calibration *loaded;
        if (awq_archive_load(reader->archive, reader->name, &loaded) != AWQ_OK) loaded = NULL;
        reader->same &= loaded != NULL && loaded->rows == reader->expected->rows &&
                        memcmp(loaded->sums.abs_high, reader->expected->sums.abs_high,
                               5 * (size_t)loaded->channels * sizeof(double)) == 0;
        awq_calibration_destroy(loaded);
    }
    return NULL;
}

static void test_shared_by_threads(void **state)
{
    (void)state;
    enum { THREADS = 4 };
    const char *path = in_directory("shared");
    awq_calibration *a = observed(50, 20, 30, 0), *b = observed(51, 30, 30, AWQ_CALIBRATION_GRAM);
    awq_archive_writer *writer;
    awq_archive *archive;
    assert_int_equal(awq_archive_writer_create(context, path, NULL, &writer), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "a", a), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "b", b), AWQ_OK);
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    awq_archive_writer_destroy(writer);
    assert_int_equal(awq_archive_open(context, path, &archive), AWQ_OK);
    struct reader readers[THREADS];
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        readers[i] = (struct reader){archive, i % 2 ? "a" : "b", i % 2 ? a : b, false};
        assert_int_equal(pthread_create(&threads[i], NULL, load_repeatedly, &readers[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        assert_true(readers[i].same);
    }
    awq_archive_destroy(archive);
    awq_calibration_destroy(a);
    awq_calibration_destroy(b);
    unlink(path);
}

/* ---- damage */

static void make_small_archive(const char *path)
{
    awq_calibration *plain = observed(6, 3, 4, 0), *gram = observed(4, 2, 2, AWQ_CALIBRATION_GRAM);
    awq_archive_writer *writer;
    assert_int_equal(awq_archive_writer_create(context, path, "small", &writer), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "plain", plain), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "gram", gram), AWQ_OK);
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    awq_archive_writer_destroy(writer);
    awq_calibration_destroy(plain);
    awq_calibration_destroy(gram);
}

static void test_every_byte_flipped(void **state)
{
    (void)state;
    static struct bytes bytes;
    make_small_archive(in_directory("good"));
    read_bytes(in_directory("good"), &bytes);
    assert_int_equal(load_everything(in_directory("good")), AWQ_OK);
    static const unsigned char flips[] = {0x01, 0x80, 0xff};
    for (size_t at = 0; at < bytes.size; at++)
        for (size_t i = 0; i < sizeof flips; i++) {
            bytes.data[at] ^= flips[i];
            write_bytes(in_directory("bad"), bytes.data, bytes.size);
            assert_int_equal(load_everything(in_directory("bad")), AWQ_ERROR_FORMAT);
            assert_non_null(strstr(awq_last_error(), "bad"));
            bytes.data[at] ^= flips[i];
        }
    unlink(in_directory("good"));
    unlink(in_directory("bad"));
}

static void test_every_truncation(void **state)
{
    (void)state;
    static struct bytes bytes;
    make_small_archive(in_directory("good"));
    read_bytes(in_directory("good"), &bytes);
    for (size_t size = 0; size < bytes.size; size++) {
        write_bytes(in_directory("bad"), bytes.data, size);
        assert_int_equal(load_everything(in_directory("bad")), AWQ_ERROR_FORMAT);
    }
    bytes.data[bytes.size] = 0;
    write_bytes(in_directory("bad"), bytes.data, bytes.size + 1);
    assert_int_equal(load_everything(in_directory("bad")), AWQ_ERROR_FORMAT);
    unlink(in_directory("good"));
    unlink(in_directory("bad"));
}

static void test_damage_is_named(void **state)
{
    (void)state;
    static struct bytes bytes;
    make_small_archive(in_directory("good"));
    read_bytes(in_directory("good"), &bytes);
    unsigned char *name = memmem(bytes.data, bytes.size, "plain", 5);
    assert_non_null(name);
    name[5 + 20] ^= 4;
    write_bytes(in_directory("bad"), bytes.data, bytes.size);
    awq_archive *archive;
    awq_calibration *calibration;
    assert_int_equal(awq_archive_open(context, in_directory("bad"), &archive), AWQ_OK);
    assert_int_equal(awq_archive_load(archive, "gram", &calibration), AWQ_OK); /* the other is not touched */
    awq_calibration_destroy(calibration);
    assert_int_equal(awq_archive_load(archive, "plain", &calibration), AWQ_ERROR_FORMAT);
    assert_null(calibration);
    char expected[64];
    snprintf(expected, sizeof expected, "at byte %td: the payload has CRC-32", name + 5 - bytes.data);
    assert_non_null(strstr(awq_last_error(), "calibration \"plain\""));
    assert_non_null(strstr(awq_last_error(), expected));
    awq_archive_destroy(archive);
    unlink(in_directory("good"));
    unlink(in_directory("bad"));
}

/* ---- hostile contents: archives whose checksums are right */

static void put(struct bytes *bytes, uint64_t value, int size)
{
    for (int i = 0; i < size; i++) bytes->data[bytes->size++] = (unsigned char)(value >> 8 * i);
}

static void put_bytes(struct bytes *bytes, const void *data, size_t size)
{
    memcpy(bytes->data + bytes->size, data, size);
    bytes->size += size;
}

static void begin_archive(struct bytes *bytes, uint32_t version)
{
    bytes->size = 0;
    put_bytes(bytes, "\x89" "AWQC\r\n\x1a", 8);
    put(bytes, version, 4);
    put(bytes, crc32(0, bytes->data, 12), 4);
}

/* A section of those plain bytes, which claims to have 'claimed' of them. */
static void put_section(struct bytes *bytes, const char *kind, const char *name, size_t name_bytes, const void *plain,
                        size_t size, uint64_t claimed)
{
    static unsigned char stored[1 << 18];
    uLongf stored_bytes = sizeof stored;
    assert_int_equal(compress(stored, &stored_bytes, plain, size), Z_OK);
    unsigned char *header = bytes->data + bytes->size;
    put_bytes(bytes, kind, 4);
    put(bytes, name_bytes, 4);
    put(bytes, stored_bytes, 8);
    put(bytes, claimed, 8);
    put(bytes, crc32(0, stored, (uInt)stored_bytes), 4);
    put(bytes, crc32(crc32(0, header, 28), (const Bytef *)name, (uInt)name_bytes), 4);
    put_bytes(bytes, name, name_bytes);
    put_bytes(bytes, stored, stored_bytes);
}

static void end_archive(struct bytes *bytes, uint32_t sections)
{
    unsigned char *footer = bytes->data + bytes->size;
    put_bytes(bytes, "END ", 4);
    put(bytes, sections, 4);
    put(bytes, bytes->size + 12, 8);
    put(bytes, crc32(0, footer, 16), 4);
}

static awq_status load_bytes(const struct bytes *bytes)
{
    write_bytes(in_directory("hostile"), bytes->data, bytes->size);
    awq_status status = load_everything(in_directory("hostile"));
    unlink(in_directory("hostile"));
    return status;
}

/* The plain payload of a calibration of one channel that saw the rows 1 and 2, both sampled. */
struct payload {
    uint64_t channels, sample_limit, seed, rows;
    double weight_high, weight_low;
    uint64_t sample_rows;
    uint32_t flags, zero;
    double abs_high, abs_low, square_high, square_low, max_abs;
    float samples[2];
    double gram;
};

static uint64_t hash_of(float value)
{
    return awqi_row_hash_end(awqi_row_hash_add(awqi_row_hash_begin(5), &value, 1));
}

static struct payload good_payload(void)
{
    struct payload payload = {1, 4, 5, 2, 2.0, 0.0, 2, 0, 0, 3.0, 0.0, 5.0, 0.0, 2.0, {1.0f, 2.0f}, 5.0};
    if (hash_of(1.0f) > hash_of(2.0f)) payload.samples[0] = 2.0f, payload.samples[1] = 1.0f;
    return payload;
}

/* The archive of that payload, numbers in byte planes; 'missing' bytes are cut off, 'claimed' added to the claim. */
static awq_status load_payload(const struct payload *payload, size_t missing, int64_t claimed)
{
    static struct bytes bytes, plain;
    plain.size = 0;
    put_bytes(&plain, payload, offsetof(struct payload, samples)); /* the arrays of one double are their own planes */
    for (int plane = 0; plane < 4; plane++)
        for (int i = 0; i < 2; i++) put(&plain, awqi_f32_to_bits(payload->samples[i]) >> 8 * plane, 1);
    if (payload->flags & AWQ_CALIBRATION_GRAM) put_bytes(&plain, &payload->gram, sizeof payload->gram);
    plain.size -= missing;
    begin_archive(&bytes, 1);
    put_section(&bytes, "PROV", "", 0, "", 0, 0);
    put_section(&bytes, "CALB", "x", 1, plain.data, plain.size, plain.size + (uint64_t)claimed);
    end_archive(&bytes, 2);
    return load_bytes(&bytes);
}

static struct payload spoilt[64];
static int spoilt_count;

/* One more to be spoilt by the caller. */
static struct payload *another_payload(void)
{
    spoilt[spoilt_count] = good_payload();
    return &spoilt[spoilt_count++];
}

static void test_hostile_calibrations(void **state)
{
    (void)state;
    struct payload payload = good_payload();
    assert_int_equal(load_payload(&payload, 0, 0), AWQ_OK);
    assert_int_equal(load_payload(&payload, 1, 1), AWQ_ERROR_FORMAT); /* inflates to less than claimed */
    assert_int_equal(load_payload(&payload, 100, 0), AWQ_ERROR_FORMAT);
    assert_int_equal(load_payload(&payload, 0, -1), AWQ_ERROR_FORMAT);
    assert_int_equal(load_payload(&payload, 0, 1), AWQ_ERROR_FORMAT);
    assert_int_equal(load_payload(&payload, 0, (int64_t)1 << 40), AWQ_ERROR_FORMAT);
    payload.flags = AWQ_CALIBRATION_GRAM;
    assert_int_equal(load_payload(&payload, 0, 0), AWQ_OK);
    payload.gram = NAN;
    assert_int_equal(load_payload(&payload, 0, 0), AWQ_ERROR_FORMAT);
    assert_string_equal(awq_last_error() + strlen(awq_last_error()) - strlen("a sum of nan"), "a sum of nan");

    another_payload()->channels = 0;
    another_payload()->channels = 2;
    another_payload()->channels = UINT64_MAX;
    another_payload()->channels = (uint64_t)1 << 61;
    another_payload()->channels = (uint64_t)1 << 32;
    another_payload()->sample_limit = 1;
    another_payload()->sample_limit = (uint64_t)1 << 31;
    another_payload()->seed = 6; /* the rows are in another order then */
    another_payload()->rows = 1;
    another_payload()->rows = (uint64_t)1 << 63;
    another_payload()->rows = 0;
    another_payload()->weight_high = 0.0;
    another_payload()->weight_high = -1.0;
    another_payload()->weight_high = INFINITY;
    another_payload()->weight_low = NAN;
    another_payload()->sample_rows = 3;
    another_payload()->sample_rows = UINT64_MAX;
    another_payload()->flags = 2;
    another_payload()->flags = AWQ_CALIBRATION_GRAM | 0x80000000u;
    another_payload()->zero = 1;
    another_payload()->abs_high = -3.0;
    another_payload()->abs_low = INFINITY;
    another_payload()->square_high = NAN;
    another_payload()->square_low = NAN;
    another_payload()->max_abs = -1.0;
    another_payload()->samples[0] = NAN;
    another_payload()->samples[1] = INFINITY;
    another_payload()->samples[1] = good_payload().samples[0]; /* the same row twice */
    another_payload()->samples[0] = good_payload().samples[1];
    spoilt[spoilt_count - 1].samples[1] = good_payload().samples[0]; /* the rows exchanged */
    for (int i = 0; i < spoilt_count; i++) assert_int_equal(load_payload(&spoilt[i], 0, 0), AWQ_ERROR_FORMAT);
}

static void test_hostile_containers(void **state)
{
    (void)state;
    static struct bytes bytes;
    static char long_name[70000];
    begin_archive(&bytes, 1);
    put_section(&bytes, "PROV", "", 0, "text", 4, 4);
    end_archive(&bytes, 1);
    assert_int_equal(load_bytes(&bytes), AWQ_OK);

    begin_archive(&bytes, 2);
    put_section(&bytes, "PROV", "", 0, "text", 4, 4);
    end_archive(&bytes, 1);
    assert_int_equal(load_bytes(&bytes), AWQ_ERROR_VERSION);

    begin_archive(&bytes, 1); /* no provenance */
    end_archive(&bytes, 0);
    assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);
    begin_archive(&bytes, 1);
    put_section(&bytes, "CALB", "a", 1, "", 0, 0);
    end_archive(&bytes, 1);
    assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);

    static const struct {
        const char *kind, *name;
        size_t name_bytes;
        uint32_t sections;
    } cases[] = {
        {"CALB", "", 0, 2},           {"CALB", "a\0b", 3, 2}, {"CALB", long_name, 65536, 2}, {"PROV", "", 0, 2},
        {"PLAN", "a", 1, 2},          {"CALB", "a", 1, 1},    {"CALB", "a", 1, 3},           {"CALB", "a", 1, 4000},
        {"CALB", "a", 1, UINT32_MAX},
    };
    memset(long_name, 'n', sizeof long_name);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        begin_archive(&bytes, 1);
        put_section(&bytes, "PROV", "", 0, "text", 4, 4);
        put_section(&bytes, cases[i].kind, cases[i].name, cases[i].name_bytes, "", 0, 0);
        end_archive(&bytes, cases[i].sections);
        assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);
    }

    begin_archive(&bytes, 1); /* two of one name */
    put_section(&bytes, "PROV", "", 0, "text", 4, 4);
    put_section(&bytes, "CALB", "same", 4, "", 0, 0);
    put_section(&bytes, "CALB", "other", 5, "", 0, 0);
    put_section(&bytes, "CALB", "same", 4, "", 0, 0);
    end_archive(&bytes, 4);
    assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);
    assert_non_null(strstr(awq_last_error(), "same name"));

    static const uint64_t claims[] = {0, 3, 5, 1000, 1 << 20, (uint64_t)1 << 40, UINT64_MAX};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        begin_archive(&bytes, 1);
        put_section(&bytes, "PROV", "", 0, "text", 4, claims[i]);
        end_archive(&bytes, 1);
        assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);
    }
    begin_archive(&bytes, 1);
    put_section(&bytes, "PROV", "", 0, "te\0t", 4, 4);
    end_archive(&bytes, 1);
    assert_int_equal(load_bytes(&bytes), AWQ_ERROR_FORMAT);
}

/* ---- names and places */

static void test_not_found(void **state)
{
    (void)state;
    awq_archive *archive;
    awq_calibration *calibration;
    assert_int_equal(awq_archive_open(context, in_directory("absent"), &archive), AWQ_ERROR_NOT_FOUND);
    assert_non_null(strstr(awq_last_error(), "absent"));
    assert_null(archive);
    assert_int_equal(awq_calibration_load(context, in_directory("absent"), &calibration), AWQ_ERROR_NOT_FOUND);
    make_small_archive(in_directory("small"));
    assert_int_equal(awq_calibration_load(context, in_directory("small"), &calibration), AWQ_ERROR_NOT_FOUND);
    assert_int_equal(awq_archive_open(context, in_directory("small"), &archive), AWQ_OK);
    static const char *const absent[] = {"", "gra", "gramm", "zzz", "calibration"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        assert_int_equal(awq_archive_load(archive, absent[i], &calibration), AWQ_ERROR_NOT_FOUND);
        assert_null(calibration);
    }
    awq_archive_destroy(archive);
    unlink(in_directory("small"));
    assert_int_equal(awq_archive_open(context, directory, &archive), AWQ_ERROR_FORMAT);
    write_bytes(in_directory("text"), "not an archive, but long enough to be one", 41);
    assert_int_equal(awq_archive_open(context, in_directory("text"), &archive), AWQ_ERROR_FORMAT);
    assert_non_null(strstr(awq_last_error(), "not a calibration archive"));
    unlink(in_directory("text"));
}

static void test_unwritable(void **state)
{
    (void)state;
    awq_archive_writer *writer;
    awq_calibration *calibration = observed(2, 2, 1, 0);
    assert_int_equal(awq_archive_writer_create(context, in_directory("no/such/place"), NULL, &writer), AWQ_ERROR_IO);
    assert_null(writer);
    assert_int_equal(awq_calibration_save(calibration, in_directory("no/such/place")), AWQ_ERROR_IO);
    assert_int_equal(awq_calibration_save(calibration, directory), AWQ_ERROR_IO);
    if (geteuid() != 0) { /* nothing is unwritable to root */
        assert_int_equal(chmod(directory, 0500), 0);
        assert_int_equal(awq_calibration_save(calibration, in_directory("file")), AWQ_ERROR_IO);
        assert_int_equal(chmod(directory, 0700), 0);
    }
    awq_calibration_destroy(calibration);
    assert_int_equal(files_in_directory(), 0);
}

static void test_nothing_before_commit(void **state)
{
    (void)state;
    static struct bytes before, after;
    awq_calibration *calibration = observed(9, 4, 8, 0);
    awq_archive_writer *writer;
    write_bytes(in_directory("file"), "old", 3);
    assert_int_equal(awq_archive_writer_create(context, in_directory("file"), NULL, &writer), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "a", calibration), AWQ_OK);
    read_bytes(in_directory("file"), &before);
    assert_memory_equal(before.data, "old", 3);
    awq_archive_writer_destroy(writer);
    assert_int_equal(files_in_directory(), 1);

    assert_int_equal(awq_archive_writer_create(context, in_directory("file"), NULL, &writer), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "a", calibration), AWQ_OK);
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    read_bytes(in_directory("file"), &after);
    assert_true(after.size > 3);
    assert_int_equal(awq_archive_writer_add(writer, "b", calibration), AWQ_ERROR_STATE);
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_ERROR_STATE);
    awq_archive_writer_destroy(writer);
    assert_int_equal(files_in_directory(), 1);
    assert_int_equal(load_everything(in_directory("file")), AWQ_OK);
    unlink(in_directory("file"));
    awq_calibration_destroy(calibration);
}

/* A full disk, played by a limit on the size of files: the section that failed leaves no trace, and what fits later is
 * written where it would have been. */
static void test_failed_section(void **state)
{
    (void)state;
    static struct bytes expected, written;
    awq_calibration *small = observed(9, 4, 8, 0), *large = observed(400, 200, 400, 0);
    awq_archive_writer *writer;
    struct rlimit unlimited, limited;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &unlimited), 0);
    limited = unlimited;
    limited.rlim_cur = 1 << 16;
    signal(SIGXFSZ, SIG_IGN);
    for (int failing = 0; failing <= 1; failing++) {
        const char *path = in_directory(failing ? "with" : "without");
        assert_int_equal(awq_archive_writer_create(context, path, NULL, &writer), AWQ_OK);
        assert_int_equal(awq_archive_writer_add(writer, "a", small), AWQ_OK);
        if (failing) {
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &limited), 0);
            awq_status status = awq_archive_writer_add(writer, "b", large);
            assert_int_equal(setrlimit(RLIMIT_FSIZE, &unlimited), 0);
            assert_int_equal(status, AWQ_ERROR_IO);
        }
        assert_int_equal(awq_archive_writer_add(writer, "b", small), AWQ_OK);
        assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
        awq_archive_writer_destroy(writer);
        read_bytes(path, failing ? &written : &expected);
    }
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(written.size, expected.size);
    assert_memory_equal(written.data, expected.data, expected.size);
    unlink(in_directory("with"));
    unlink(in_directory("without"));
    awq_calibration_destroy(small);
    awq_calibration_destroy(large);
}

/* ---- memory */

static int allocations_left;

static void *failing_allocate(void *user_data, size_t size, size_t alignment)
{
    (void)user_data;
    return allocations_left-- > 0 ? aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment) : NULL;
}

static void failing_release(void *user_data, void *memory, size_t size)
{
    (void)user_data;
    (void)size;
    free(memory);
}

static awq_status save_and_load(awq_context *failing, const awq_calibration *calibration, const char *path)
{
    awq_archive_writer *writer;
    awq_calibration *loaded;
    awq_status status = awq_archive_writer_create(failing, path, "text", &writer);
    if (status == AWQ_OK) status = awq_archive_writer_add(writer, "calibration", calibration);
    if (status == AWQ_OK) status = awq_archive_writer_commit(writer);
    awq_archive_writer_destroy(writer);
    if (status == AWQ_OK) status = awq_calibration_load(failing, path, &loaded);
    if (status == AWQ_OK) awq_calibration_destroy(loaded);
    return status;
}

static void test_each_allocation_fails_once(void **state)
{
    (void)state;
    awq_context_options options;
    awq_context *failing;
    awq_calibration *calibration = observed(9, 4, 8, AWQ_CALIBRATION_GRAM);
    awq_struct_init(&options, sizeof options);
    options.allocate = failing_allocate;
    options.release = failing_release;
    allocations_left = INT32_MAX;
    assert_int_equal(awq_context_create(&options, &failing), AWQ_OK);
    uint64_t held, now;
    assert_int_equal(awq_context_get_memory(failing, &held, NULL), AWQ_OK);
    awq_status status = AWQ_ERROR_OUT_OF_MEMORY;
    for (int budget = 0; status != AWQ_OK; budget++) {
        assert_true(budget < 200);
        allocations_left = budget;
        status = save_and_load(failing, calibration, in_directory("file"));
        assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
        assert_int_equal(awq_context_get_memory(failing, &now, NULL), AWQ_OK);
        assert_true(now == held);
        unlink(in_directory("file"));
        assert_int_equal(files_in_directory(), 0);
    }
    awq_context_destroy(failing);
    awq_calibration_destroy(calibration);
}

static void test_memory_limit(void **state)
{
    (void)state;
    awq_context_options options;
    awq_context *small;
    awq_calibration *calibration = observed(500, 100, 400, 0), *loaded;
    assert_int_equal(awq_calibration_save(calibration, in_directory("file")), AWQ_OK);
    awq_struct_init(&options, sizeof options);
    options.memory_limit_bytes = 300000; /* 131072 for a run, but 160000 for the sampled rows */
    assert_int_equal(awq_context_create(&options, &small), AWQ_OK);
    assert_int_equal(awq_calibration_load(small, in_directory("file"), &loaded), AWQ_ERROR_MEMORY_LIMIT);
    assert_null(loaded);
    awq_context_destroy(small);
    awq_calibration_destroy(calibration);
    unlink(in_directory("file"));
}

/* ---- arguments */

static void test_arguments(void **state)
{
    (void)state;
    awq_calibration *calibration = observed(2, 2, 1, 0), *loaded;
    awq_archive_writer *writer;
    awq_archive *archive;
    const char *path = in_directory("file");
    assert_int_equal(awq_archive_open(NULL, path, &archive), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_open(context, NULL, &archive), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_open(context, path, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_load(NULL, "a", &loaded), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_count(NULL), 0);
    assert_null(awq_archive_name(NULL, 0));
    assert_null(awq_archive_provenance(NULL));
    awq_archive_destroy(NULL);
    assert_int_equal(awq_archive_writer_create(NULL, path, NULL, &writer), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_create(context, NULL, NULL, &writer), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_create(context, path, NULL, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_create(context, "", NULL, &writer), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_add(NULL, "a", calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_commit(NULL), AWQ_ERROR_INVALID);
    awq_archive_writer_destroy(NULL);
    assert_int_equal(awq_calibration_save(NULL, path), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_save(calibration, NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_load(NULL, path, &loaded), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_load(context, NULL, &loaded), AWQ_ERROR_INVALID);
    assert_int_equal(awq_calibration_load(context, path, NULL), AWQ_ERROR_INVALID);

    assert_int_equal(awq_archive_writer_create(context, path, NULL, &writer), AWQ_OK);
    static char name[65537];
    memset(name, 'n', sizeof name - 1);
    assert_int_equal(awq_archive_writer_add(writer, name, calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_add(writer, "", calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_add(writer, NULL, calibration), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_add(writer, "a", NULL), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_writer_add(writer, "a", calibration), AWQ_OK);
    assert_int_equal(awq_archive_writer_add(writer, "a", calibration), AWQ_ERROR_INVALID);
    for (int i = 0; i < 100; i++) { /* more names than the first table of them holds */
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(awq_archive_writer_add(writer, name, calibration), AWQ_OK);
    }
    assert_int_equal(awq_archive_writer_commit(writer), AWQ_OK);
    awq_archive_writer_destroy(writer);
    assert_int_equal(load_everything(path), AWQ_OK);
    assert_int_equal(awq_archive_open(context, path, &archive), AWQ_OK);
    assert_int_equal(awq_archive_count(archive), 101);
    assert_string_equal(awq_archive_provenance(archive), "");
    assert_int_equal(awq_archive_load(archive, NULL, &loaded), AWQ_ERROR_INVALID);
    assert_int_equal(awq_archive_load(archive, "a", NULL), AWQ_ERROR_INVALID);
    awq_archive_destroy(archive);
    awq_calibration_destroy(calibration);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_loaded_goes_on),
        cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_archive_outlives_handles),
        cmocka_unit_test(test_shared_by_threads),
        cmocka_unit_test(test_every_byte_flipped),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_damage_is_named),
        cmocka_unit_test(test_hostile_calibrations),
        cmocka_unit_test(test_hostile_containers),
        cmocka_unit_test(test_not_found),
        cmocka_unit_test(test_unwritable),
        cmocka_unit_test(test_nothing_before_commit),
        cmocka_unit_test(test_failed_section),
        cmocka_unit_test(test_each_allocation_fails_once),
        cmocka_unit_test(test_memory_limit),
        cmocka_unit_test(test_arguments),
    };
    return cmocka_run_group_tests_name("archive", tests, setup, teardown);
}
