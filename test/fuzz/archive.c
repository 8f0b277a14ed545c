/* A calibration archive.  The first byte says whether its checksums are made right before it is read, without which hardly
 * any change of an input would get past them. */
#include "fuzz.h"

#include "deflate.h"

enum { HEADER = 16, SECTION = 32, FOOTER = 20 };

static uint64_t number_at(const uint8_t *bytes, int size)
{
    uint64_t value = 0;
    for (int i = size; i-- > 0;) value = value << 8 | bytes[i];
    return value;
}

static void put_crc(uint8_t *at, uint32_t crc)
{
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(crc >> 8 * i);
}

static void repair_checksums(uint8_t *data, uint64_t size)
{
    if (size < HEADER + FOOTER) return;
    put_crc(data + 12, awqi_crc32(0, data, 12));
    uint64_t at = HEADER;
    while (size - FOOTER - at >= SECTION) {
        uint8_t *section = data + at;
        uint64_t left = size - FOOTER - at - SECTION, name = number_at(section + 4, 4), stored = number_at(section + 8, 8);
        if (name > left || stored > left - name) break;
        put_crc(section + 24, awqi_crc32(0, section + SECTION + name, stored));
        put_crc(section + 28, awqi_crc32(awqi_crc32(0, section, 28), section + SECTION, name));
        at += SECTION + name + stored;
    }
    put_crc(data + size - 4, awqi_crc32(0, data + size - FOOTER, 16));
}

static void use(const awq_calibration *calibration)
{
    awq_calibration_info info;
    awq_tensor samples;
    awq_struct_init(&info, sizeof info);
    fuzz_assert(awq_calibration_get_info(calibration, &info) == AWQ_OK);
    fuzz_assert(info.sample_rows <= info.sample_limit || info.sample_limit < 0);
    double *values = malloc((size_t)info.channels * sizeof *values);
    fuzz_assert(values != NULL);
    for (int32_t i = AWQ_STATISTIC_MEAN_ABS; i <= AWQ_STATISTIC_MAX_ABS; i++)
        fuzz_status(awq_calibration_get_statistic(calibration, i, values, info.channels));
    free(values);
    fuzz_assert(awq_calibration_get_samples(calibration, &samples) == AWQ_OK);
    fuzz_read_tensor(&samples);
    /* What was loaded goes on as the saved one would have. */
    awq_calibration *sum;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = info.flags;
    options.sample_rows = info.sample_limit > 0 ? info.sample_limit : -1;
    options.seed = info.seed;
    if (fuzz_status(awq_calibration_create(fuzz_context(), info.channels, &options, &sum)) == AWQ_OK)
        fuzz_status(awq_calibration_merge(sum, calibration));
    awq_calibration_destroy(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    uint8_t *bytes = malloc(size);
    fuzz_assert(bytes != NULL);
    memcpy(bytes, data, size);
    if (data[0] & 1) repair_checksums(bytes + 1, size - 1);
    const char *path = fuzz_file("x.awqc", bytes + 1, size - 1);
    free(bytes);

    awq_archive *archive;
    if (fuzz_status(awq_archive_open(fuzz_context(), path, &archive)) == AWQ_OK) {
        fuzz_assert(awq_archive_provenance(archive) != NULL);
        for (int64_t i = 0; i < awq_archive_count(archive); i++) {
            awq_calibration *calibration;
            if (fuzz_status(awq_archive_load(archive, awq_archive_name(archive, i), &calibration)) == AWQ_OK)
                use(calibration);
            awq_calibration_destroy(calibration);
        }
    }
    awq_archive_destroy(archive);
    fuzz_expect_nothing_held();
    return 0;
}
