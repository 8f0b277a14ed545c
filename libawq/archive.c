/* The calibration archive: one file of named calibrations.
 *
 * Integers are unsigned and little-endian, f32 and f64 are the bits of IEEE 754 numbers as such integers, and every
 * CRC-32 is the one of zlib.  The same calibrations under the same names in the same order give the same bytes.
 *
 *   header    u8 magic[8]     89 'A' 'W' 'Q' 'C' 0D 0A 1A
 *             u32 version     1
 *             u32 crc         of the 12 bytes before
 *   sections  the provenance, then any number of calibrations, one after the other without gaps
 *   footer    u32 kind        'END '
 *             u32 sections    the provenance included
 *             u64 file_bytes  from the header to the footer, both included
 *             u32 crc         of the 16 bytes before
 *
 * A section:
 *
 *             u32 kind          'PROV' or 'CALB', first letter first
 *             u32 name_bytes    0 for the provenance, 1 to 65535 for a calibration
 *             u64 stored_bytes  of the payload in the file, a zlib stream
 *             u64 plain_bytes   of the payload inflated
 *             u32 payload_crc   of the payload as stored
 *             u32 header_crc    of the 28 bytes before, then the name
 *             u8 name[]         UTF-8, different from every other, without a zero
 *             u8 payload[]
 *
 * The provenance's payload is its text, without a final zero.  A calibration's payload:
 *
 *             u64 channels, sample_limit, seed, rows
 *             f64 weight_high, weight_low
 *             u64 sample_rows
 *             u32 flags         AWQ_CALIBRATION_*
 *             u32 zero
 *             f64 abs_high[channels], abs_low[channels], square_high[channels], square_low[channels], max_abs[channels]
 *             f32 samples[sample_rows * channels], rows by hash (row_sample.c), then by contents
 *             f64 gram[channels - i] for each row i, from the diagonal on; with AWQ_CALIBRATION_GRAM only
 *
 * The numbers of an array lie in byte planes (deflate.h).  Both parts of every sum are kept, so that a calibration that
 * was loaded goes on exactly where the saved one stopped. */
#include "calibration.h"
#include "deflate.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static const unsigned char magic[8] = {0x89, 'A', 'W', 'Q', 'C', 0x0d, 0x0a, 0x1a};

static const uint32_t kind_provenance = 0x564f5250u;  /* PROV */
static const uint32_t kind_calibration = 0x424c4143u; /* CALB, spelled as a little-endian integer */
static const uint32_t kind_end = 0x20444e45u;         /* END and a space */

static const char single_name[] = "calibration"; /* of the one section of awq_calibration_save */

enum {
    ARCHIVE_VERSION = 1,
    HEADER_BYTES = 16,
    FOOTER_BYTES = 20,
    SECTION_BYTES = 32,
    CALIBRATION_BYTES = 64,
    LONGEST_NAME = 65535,
    LARGEST_RATIO = 1032 /* deflate stores at most this many bytes in one */
};

/* ---- numbers in bytes */

static void put_integer(unsigned char *bytes, uint64_t value, int size)
{
    for (int i = 0; i < size; i++) bytes[i] = (unsigned char)(value >> 8 * i);
}

static uint64_t get_integer(const unsigned char *bytes, int size)
{
    uint64_t value = 0;
    for (int i = 0; i < size; i++) value |= (uint64_t)bytes[i] << 8 * i;
    return value;
}

static void put_double(unsigned char *bytes, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    put_integer(bytes, bits, 8);
}

static double get_double(const unsigned char *bytes)
{
    uint64_t bits = get_integer(bytes, 8);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- writer */

struct awq_archive_writer {
    awq_context *context;
    struct awqi_atomic_file file;
    uint64_t offset; /* where the next section begins; what a failed one left behind it is overwritten */
    uint32_t sections;
    char **names; /* of the calibrations */
    uint64_t name_count, name_capacity;
};

static awq_status write_at(awq_archive_writer *writer, uint64_t offset, const void *bytes, uint64_t size)
{
    if (lseek(writer->file.fd, (off_t)offset, SEEK_SET) < 0) return awqi_fail_io("seek", writer->file.temporary);
    return awqi_write_all(writer->file.fd, bytes, size, writer->file.temporary);
}

typedef awq_status (*payload_function)(struct awqi_deflater *deflater, const void *content);

static awq_status deflate_text(struct awqi_deflater *deflater, const void *content)
{
    return awqi_deflate(deflater, content, strlen(content));
}

static awq_status deflate_calibration(struct awqi_deflater *deflater, const void *content)
{
    const awq_calibration *calibration = content;
    struct awqi_row_sample *sample = calibration->sample;
    int64_t channels = calibration->channels;
    awqi_row_sample_sort(sample);
    unsigned char head[CALIBRATION_BYTES] = {0};
    put_integer(head, (uint64_t)channels, 8);
    put_integer(head + 8, sample->limit, 8);
    put_integer(head + 16, sample->seed, 8);
    put_integer(head + 24, (uint64_t)calibration->rows, 8);
    put_double(head + 32, calibration->weight_high);
    put_double(head + 40, calibration->weight_low);
    put_integer(head + 48, sample->count, 8);
    put_integer(head + 56, calibration->flags, 4);
    awq_status status = awqi_deflate(deflater, head, sizeof head);
    const struct awqi_channel_sums *sums = &calibration->sums;
    const double *const arrays[] = {sums->abs_high, sums->abs_low, sums->square_high, sums->square_low, sums->max_abs};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays && status == AWQ_OK; i++)
        status = awqi_deflate_numbers(deflater, arrays[i], channels, 8);
    if (status == AWQ_OK) status = awqi_deflate_numbers(deflater, sample->rows, sample->count * channels, 4);
    if (calibration->gram == NULL) return status;
    for (int64_t i = 0; i < channels && status == AWQ_OK; i++)
        status = awqi_deflate_numbers(deflater, calibration->gram + i * (channels + 1), channels - i, 8);
    return status;
}

static void make_section_header(unsigned char *header, uint32_t kind, const char *name,
                                const struct awqi_deflated *payload)
{
    size_t name_bytes = strlen(name);
    put_integer(header, kind, 4);
    put_integer(header + 4, name_bytes, 4);
    put_integer(header + 8, payload->stored_bytes, 8);
    put_integer(header + 16, payload->plain_bytes, 8);
    put_integer(header + 24, payload->crc, 4);
    put_integer(header + 28, awqi_crc32(awqi_crc32(0, header, 28), name, name_bytes), 4);
}

/* The header is written last, over the room left for it, when it is known. */
static awq_status write_section(awq_archive_writer *writer, uint32_t kind, const char *name, payload_function payload,
                                const void *content)
{
    struct awqi_deflater *deflater = NULL;
    struct awqi_deflated total;
    unsigned char header[SECTION_BYTES] = {0};
    size_t name_bytes = strlen(name);
    int fd = writer->file.fd;
    awq_status status = write_at(writer, writer->offset, header, sizeof header);
    if (status == AWQ_OK) status = awqi_write_all(fd, name, name_bytes, writer->file.temporary);
    if (status == AWQ_OK) status = awqi_deflater_create(writer->context, fd, writer->file.temporary, &deflater);
    if (status == AWQ_OK) status = payload(deflater, content);
    if (status == AWQ_OK) status = awqi_deflate_end(deflater, &total);
    awqi_deflater_destroy(deflater);
    if (status != AWQ_OK) return status;
    make_section_header(header, kind, name, &total);
    status = write_at(writer, writer->offset, header, sizeof header);
    if (status != AWQ_OK) return status;
    writer->offset += SECTION_BYTES + name_bytes + total.stored_bytes;
    writer->sections++;
    return AWQ_OK;
}

static awq_status write_header(awq_archive_writer *writer)
{
    unsigned char header[HEADER_BYTES];
    memcpy(header, magic, sizeof magic);
    put_integer(header + 8, ARCHIVE_VERSION, 4);
    put_integer(header + 12, awqi_crc32(0, header, 12), 4);
    writer->offset = HEADER_BYTES;
    return write_at(writer, 0, header, sizeof header);
}

awq_status awq_archive_writer_create(awq_context *context, const char *path, const char *provenance,
                                     awq_archive_writer **writer)
{
    if (writer == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_writer_create: writer is NULL");
    *writer = NULL;
    if (context == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_writer_create: %s is NULL", context ? "path" : "context");
    void *memory;
    awq_status status = awqi_calloc(context, 1, sizeof(awq_archive_writer), "archive writer", &memory);
    if (status != AWQ_OK) return status;
    awq_archive_writer *created = memory;
    created->context = awqi_context_retain(context);
    created->file.fd = -1;
    status = awqi_atomic_open(context, path, &created->file);
    if (status == AWQ_OK) status = write_header(created);
    if (status == AWQ_OK)
        status = write_section(created, kind_provenance, "", deflate_text, provenance != NULL ? provenance : "");
    if (status != AWQ_OK) {
        awq_archive_writer_destroy(created);
        return status;
    }
    *writer = created;
    return AWQ_OK;
}

void awq_archive_writer_destroy(awq_archive_writer *writer)
{
    if (writer == NULL) return;
    awq_context *context = writer->context;
    awqi_atomic_discard(&writer->file);
    for (uint64_t i = 0; i < writer->name_count; i++) awqi_free(context, writer->names[i]);
    awqi_free(context, writer->names);
    awqi_free(context, writer);
    awqi_context_release(context);
}

static awq_status check_new_name(const awq_archive_writer *writer, const char *name)
{
    size_t length = strlen(name);
    if (length == 0 || length > LONGEST_NAME)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_writer_add: a name of %zu bytes; 1 to %d are possible", length,
                         LONGEST_NAME);
    for (uint64_t i = 0; i < writer->name_count; i++)
        if (strcmp(writer->names[i], name) == 0)
            return awqi_fail(AWQ_ERROR_INVALID, "%s: \"%s\" was added before", writer->file.path, name);
    if (writer->sections == UINT32_MAX)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "%s: more than %u sections", writer->file.path, UINT32_MAX);
    return AWQ_OK;
}

static awq_status reserve_name(awq_archive_writer *writer)
{
    if (writer->name_count < writer->name_capacity) return AWQ_OK;
    uint64_t capacity = writer->name_capacity > 0 ? 2 * writer->name_capacity : 64;
    void *memory;
    awq_status status = awqi_alloc(writer->context, capacity, sizeof *writer->names, "names in an archive", &memory);
    if (status != AWQ_OK) return status;
    if (writer->name_count > 0) memcpy(memory, writer->names, (size_t)writer->name_count * sizeof *writer->names);
    awqi_free(writer->context, writer->names);
    writer->names = memory;
    writer->name_capacity = capacity;
    return AWQ_OK;
}

awq_status awq_archive_writer_add(awq_archive_writer *writer, const char *name, const awq_calibration *calibration)
{
    if (writer == NULL || name == NULL || calibration == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_writer_add: %s is NULL",
                         writer == NULL ? "writer" : name == NULL ? "name" : "calibration");
    if (writer->file.fd < 0) return awqi_fail(AWQ_ERROR_STATE, "awq_archive_writer_add: called after commit");
    char *copy = NULL;
    awq_status status = check_new_name(writer, name);
    if (status == AWQ_OK) status = reserve_name(writer);
    if (status == AWQ_OK) status = awqi_calibration_settle(calibration);
    if (status == AWQ_OK) status = awqi_strdup(writer->context, name, &copy);
    if (status == AWQ_OK) status = write_section(writer, kind_calibration, name, deflate_calibration, calibration);
    if (status == AWQ_OK)
        writer->names[writer->name_count++] = copy;
    else
        awqi_free(writer->context, copy);
    return status;
}

awq_status awq_archive_writer_commit(awq_archive_writer *writer)
{
    if (writer == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_writer_commit: writer is NULL");
    if (writer->file.fd < 0) return awqi_fail(AWQ_ERROR_STATE, "awq_archive_writer_commit: called a second time");
    unsigned char footer[FOOTER_BYTES];
    put_integer(footer, kind_end, 4);
    put_integer(footer + 4, writer->sections, 4);
    put_integer(footer + 8, writer->offset + sizeof footer, 8);
    put_integer(footer + 16, awqi_crc32(0, footer, 16), 4);
    awq_status status = write_at(writer, writer->offset, footer, sizeof footer);
    if (status != AWQ_OK) return status;
    /* A section that failed may have been longer than all that followed it. */
    if (ftruncate(writer->file.fd, (off_t)(writer->offset + sizeof footer)) != 0)
        return awqi_fail_io("cut", writer->file.temporary);
    return awqi_atomic_commit(&writer->file);
}

awq_status awq_calibration_save(const awq_calibration *calibration, const char *path)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_save: calibration is NULL");
    awq_archive_writer *writer;
    awq_status status = awq_archive_writer_create(calibration->context, path, NULL, &writer);
    if (status == AWQ_OK) status = awq_archive_writer_add(writer, single_name, calibration);
    if (status == AWQ_OK) status = awq_archive_writer_commit(writer);
    awq_archive_writer_destroy(writer);
    return status;
}

/* ---- reader: sections */

struct section {
    char *name;
    uint32_t kind, crc;
    uint64_t begin, payload; /* offsets in the file */
    uint64_t stored_bytes, plain_bytes;
};

struct awq_archive {
    awq_context *context;
    char *path;
    struct awqi_mapping mapping;
    struct section *sections; /* calibrations, by name */
    int64_t count;
    char *provenance;
};

static awq_status fail_at(const awq_archive *archive, uint64_t offset, const char *problem)
{
    return awqi_fail(AWQ_ERROR_FORMAT, "%s: at byte %llu: %s", archive->path, (unsigned long long)offset, problem);
}

static awq_status check_crc(const awq_archive *archive, uint64_t offset, const char *what, uint32_t computed,
                            uint32_t recorded)
{
    if (computed == recorded) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_FORMAT, "%s: at byte %llu: %s has CRC-32 %08x, but %08x is recorded", archive->path,
                     (unsigned long long)offset, what, computed, recorded);
}

/* The sections lie between the header and *end. */
static awq_status read_frame(const awq_archive *archive, uint64_t *end, uint32_t *sections)
{
    const unsigned char *bytes = archive->mapping.data;
    uint64_t size = archive->mapping.size;
    if (size < sizeof magic || memcmp(bytes, magic, sizeof magic) != 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "%s: not a calibration archive", archive->path);
    if (size < HEADER_BYTES + FOOTER_BYTES) return fail_at(archive, size, "the file ends before its sections");
    uint32_t crc = awqi_crc32(0, bytes, 12);
    awq_status status = check_crc(archive, 0, "the header", crc, (uint32_t)get_integer(bytes + 12, 4));
    if (status != AWQ_OK) return status;
    uint32_t version = (uint32_t)get_integer(bytes + 8, 4);
    if (version != ARCHIVE_VERSION)
        return awqi_fail(AWQ_ERROR_VERSION, "%s: archive version %u; this library reads version %d", archive->path,
                         version, ARCHIVE_VERSION);
    *end = size - FOOTER_BYTES;
    const unsigned char *footer = bytes + *end;
    if (get_integer(footer, 4) != kind_end)
        return fail_at(archive, *end, "no end mark: the file is cut off or damaged");
    status = check_crc(archive, *end, "the end mark", awqi_crc32(0, footer, 16), (uint32_t)get_integer(footer + 16, 4));
    if (status != AWQ_OK) return status;
    if (get_integer(footer + 8, 8) != size) return fail_at(archive, *end, "the end mark is of a file of another size");
    *sections = (uint32_t)get_integer(footer + 4, 4);
    if (*sections < 1 || *sections > (*end - HEADER_BYTES) / SECTION_BYTES)
        return fail_at(archive, *end, "the end mark counts more sections than there is room for, or none");
    return AWQ_OK;
}

/* Verify the header of the section that begins at 'begin', and that all of it lies before 'end'. */
static awq_status read_section(const awq_archive *archive, uint64_t begin, uint64_t end, struct section *section)
{
    if (end - begin < SECTION_BYTES) return fail_at(archive, begin, "no room for a section");
    const unsigned char *header = archive->mapping.data + begin, *name = header + SECTION_BYTES;
    uint64_t name_bytes = get_integer(header + 4, 4);
    if (name_bytes > end - begin - SECTION_BYTES) return fail_at(archive, begin, "a section's name exceeds the file");
    uint32_t crc = awqi_crc32(awqi_crc32(0, header, 28), name, name_bytes);
    awq_status status = check_crc(archive, begin, "a section's header", crc, (uint32_t)get_integer(header + 28, 4));
    if (status != AWQ_OK) return status;
    *section = (struct section){.kind = (uint32_t)get_integer(header, 4),
                                .crc = (uint32_t)get_integer(header + 24, 4),
                                .begin = begin,
                                .payload = begin + SECTION_BYTES + name_bytes,
                                .stored_bytes = get_integer(header + 8, 8),
                                .plain_bytes = get_integer(header + 16, 8)};
    if (section->stored_bytes > end - section->payload)
        return fail_at(archive, begin, "a section exceeds the file");
    if (section->plain_bytes / LARGEST_RATIO > section->stored_bytes)
        return fail_at(archive, begin, "a section claims to inflate to more than deflate can store");
    bool first = begin == HEADER_BYTES; /* the provenance, which has no name */
    if (section->kind != (first ? kind_provenance : kind_calibration))
        return fail_at(archive, begin, "a section is not of the kind that belongs here");
    if (first ? name_bytes != 0 : name_bytes < 1 || name_bytes > LONGEST_NAME || memchr(name, 0, (size_t)name_bytes))
        return fail_at(archive, begin, "a section's name is not a possible one");
    void *memory;
    status = awqi_alloc(archive->context, name_bytes + 1, 1, "name in an archive", &memory);
    if (status != AWQ_OK) return status;
    section->name = memory;
    memcpy(section->name, name, (size_t)name_bytes);
    section->name[name_bytes] = 0;
    return AWQ_OK;
}

typedef awq_status (*content_function)(struct awqi_inflater *inflater, const struct section *section,
                                       awq_context *context, void *content);

/* Verify the payload's checksum, then let 'read' inflate all of it. */
static awq_status read_payload(const awq_archive *archive, const struct section *section, content_function read,
                               void *content)
{
    const unsigned char *bytes = archive->mapping.data + section->payload;
    uint32_t crc = awqi_crc32(0, bytes, section->stored_bytes);
    awq_status status = check_crc(archive, section->payload, "the payload", crc, section->crc);
    struct awqi_inflater *inflater = NULL;
    if (status == AWQ_OK) status = awqi_inflater_create(archive->context, bytes, section->stored_bytes, &inflater);
    if (status == AWQ_OK) {
        status = read(inflater, section, archive->context, content);
        if (status != AWQ_OK)
            awqi_fail_in(status, "%s: at byte %llu", archive->path, (unsigned long long)section->payload);
    }
    awqi_inflater_destroy(inflater);
    if (status == AWQ_OK) return AWQ_OK;
    if (section->kind == kind_provenance) return awqi_fail_in(status, "provenance");
    return awqi_fail_in(status, "calibration \"%s\"", section->name);
}

static awq_status inflate_text(struct awqi_inflater *inflater, const struct section *section, awq_context *context,
                               void *content)
{
    void *memory;
    awq_status status = awqi_alloc(context, section->plain_bytes + 1, 1, "provenance", &memory);
    if (status != AWQ_OK) return status;
    char *text = memory;
    status = awqi_inflate(inflater, text, section->plain_bytes);
    if (status == AWQ_OK) status = awqi_inflate_end(inflater);
    text[section->plain_bytes] = 0;
    if (status == AWQ_OK && strlen(text) != section->plain_bytes)
        status = awqi_fail(AWQ_ERROR_FORMAT, "a zero within the text");
    if (status == AWQ_OK)
        *(char **)content = text;
    else
        awqi_free(context, text);
    return status;
}

/* ---- reader: archives */

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const struct section *)a)->name, ((const struct section *)b)->name);
}

static awq_status index_sections(awq_archive *archive)
{
    uint64_t end = 0, offset = HEADER_BYTES;
    uint32_t sections = 0;
    void *memory;
    struct section section;
    awq_status status = read_frame(archive, &end, &sections);
    if (status == AWQ_OK)
        status = awqi_alloc(archive->context, sections, sizeof *archive->sections, "table of an archive", &memory);
    if (status != AWQ_OK) return status;
    archive->sections = memory;
    for (uint32_t i = 0; i < sections; i++, offset = section.payload + section.stored_bytes) {
        status = read_section(archive, offset, end, &section);
        if (status == AWQ_OK && i == 0) {
            status = read_payload(archive, &section, inflate_text, &archive->provenance);
            awqi_free(archive->context, section.name);
        } else if (status == AWQ_OK) {
            archive->sections[archive->count++] = section;
        }
        if (status != AWQ_OK) return status;
    }
    if (offset != end) return fail_at(archive, offset, "bytes between the last section and the end mark");
    qsort(archive->sections, (size_t)archive->count, sizeof *archive->sections, compare_names);
    for (int64_t i = 1; i < archive->count; i++)
        if (compare_names(&archive->sections[i - 1], &archive->sections[i]) == 0)
            return fail_at(archive, archive->sections[i].begin, "a second calibration of the same name");
    return AWQ_OK;
}

awq_status awq_archive_open(awq_context *context, const char *path, awq_archive **archive)
{
    if (archive == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_open: archive is NULL");
    *archive = NULL;
    if (context == NULL || path == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_open: %s is NULL", context ? "path" : "context");
    void *memory;
    awq_status status = awqi_calloc(context, 1, sizeof(awq_archive), "archive", &memory);
    if (status != AWQ_OK) return status;
    awq_archive *opened = memory;
    opened->context = awqi_context_retain(context);
    status = awqi_strdup(context, path, &opened->path);
    if (status == AWQ_OK) status = awqi_map_file(path, &opened->mapping);
    if (status == AWQ_OK) status = index_sections(opened);
    if (status != AWQ_OK) {
        awq_archive_destroy(opened);
        return status;
    }
    *archive = opened;
    return AWQ_OK;
}

void awq_archive_destroy(awq_archive *archive)
{
    if (archive == NULL) return;
    awq_context *context = archive->context;
    for (int64_t i = 0; i < archive->count; i++) awqi_free(context, archive->sections[i].name);
    awqi_free(context, archive->sections);
    awqi_free(context, archive->provenance);
    awqi_free(context, archive->path);
    awqi_unmap_file(&archive->mapping);
    awqi_free(context, archive);
    awqi_context_release(context);
}

int64_t awq_archive_count(const awq_archive *archive)
{
    return archive != NULL ? archive->count : 0;
}

const char *awq_archive_name(const awq_archive *archive, int64_t index)
{
    if (archive == NULL || index < 0 || index >= archive->count) return NULL;
    return archive->sections[index].name;
}

const char *awq_archive_provenance(const awq_archive *archive)
{
    return archive != NULL ? archive->provenance : NULL;
}

/* ---- reader: calibrations */

/* The fixed part of a calibration's payload. */
struct calibration_head {
    uint64_t channels, sample_limit, seed, rows, sample_rows;
    double weight_high, weight_low;
    uint32_t flags, zero;
};

static void read_head(const unsigned char *bytes, struct calibration_head *head)
{
    head->channels = get_integer(bytes, 8);
    head->sample_limit = get_integer(bytes + 8, 8);
    head->seed = get_integer(bytes + 16, 8);
    head->rows = get_integer(bytes + 24, 8);
    head->weight_high = get_double(bytes + 32);
    head->weight_low = get_double(bytes + 40);
    head->sample_rows = get_integer(bytes + 48, 8);
    head->flags = (uint32_t)get_integer(bytes + 56, 4);
    head->zero = (uint32_t)get_integer(bytes + 60, 4);
}

/* Bytes of the whole payload; false when they exceed 64 bits. */
static bool payload_size(const struct calibration_head *head, uint64_t *size)
{
    uint64_t sums, samples, triangle = 0, channels = head->channels;
    if (__builtin_mul_overflow(channels, 5 * 8, &sums) || __builtin_mul_overflow(channels, 4, &samples) ||
        __builtin_mul_overflow(samples, head->sample_rows, &samples))
        return false;
    if (head->flags & AWQ_CALIBRATION_GRAM) {
        uint64_t even = channels % 2 == 0 ? channels : channels + 1, odd = channels % 2 == 0 ? channels + 1 : channels;
        if (__builtin_mul_overflow(even / 2, odd, &triangle) || __builtin_mul_overflow(triangle, 8, &triangle))
            return false;
    }
    return !__builtin_add_overflow(sums, samples, size) && !__builtin_add_overflow(*size, triangle, size) &&
           !__builtin_add_overflow(*size, CALIBRATION_BYTES, size);
}

/* Nothing is allocated before the sizes have proved to be those of the payload. */
static awq_status check_head(const struct calibration_head *head, uint64_t plain_bytes)
{
    uint64_t size;
    if (head->zero != 0 || (head->flags & ~(uint32_t)AWQ_CALIBRATION_GRAM) != 0)
        return awqi_fail(AWQ_ERROR_FORMAT, "unknown flags");
    if (head->channels < 1 || !payload_size(head, &size) || size != plain_bytes)
        return awqi_fail(AWQ_ERROR_FORMAT, "%llu channels and %llu sampled rows do not make %llu bytes",
                         (unsigned long long)head->channels, (unsigned long long)head->sample_rows,
                         (unsigned long long)plain_bytes);
    if (head->sample_limit > INT32_MAX || head->rows > INT64_MAX || head->sample_rows > head->sample_limit ||
        head->sample_rows > head->rows || (head->sample_rows == 0 && head->rows > 0 && head->sample_limit > 0))
        return awqi_fail(AWQ_ERROR_FORMAT, "%llu sampled rows of %llu with a limit of %llu",
                         (unsigned long long)head->sample_rows, (unsigned long long)head->rows,
                         (unsigned long long)head->sample_limit);
    if (!isfinite(head->weight_high) || !isfinite(head->weight_low) || head->weight_high < 0.0 ||
        (head->weight_high > 0.0) != (head->rows > 0))
        return awqi_fail(AWQ_ERROR_FORMAT, "a weight of %g for %llu rows", head->weight_high,
                         (unsigned long long)head->rows);
    return AWQ_OK;
}

static awq_status inflate_doubles(struct awqi_inflater *inflater, double *values, int64_t count, bool is_signed)
{
    awq_status status = awqi_inflate_numbers(inflater, values, count, sizeof *values);
    if (status != AWQ_OK) return status;
    for (int64_t i = 0; i < count; i++)
        if (!isfinite(values[i]) || (values[i] < 0.0 && !is_signed))
            return awqi_fail(AWQ_ERROR_FORMAT, "a sum of %g", values[i]);
    return AWQ_OK;
}

static awq_status inflate_gram(struct awqi_inflater *inflater, double *gram, int64_t channels)
{
    for (int64_t i = 0; i < channels; i++) {
        awq_status status = inflate_doubles(inflater, gram + i * (channels + 1), channels - i, true);
        if (status != AWQ_OK) return status;
        for (int64_t j = i + 1; j < channels; j++) gram[j * channels + i] = gram[i * channels + j];
    }
    return AWQ_OK;
}

static awq_status inflate_arrays(struct awqi_inflater *inflater, uint32_t sample_rows, awq_calibration *calibration)
{
    const struct awqi_channel_sums *sums = &calibration->sums;
    int64_t channels = calibration->channels;
    awq_status status = inflate_doubles(inflater, sums->abs_high, channels, false);
    if (status == AWQ_OK) status = inflate_doubles(inflater, sums->abs_low, channels, true);
    if (status == AWQ_OK) status = inflate_doubles(inflater, sums->square_high, channels, false);
    if (status == AWQ_OK) status = inflate_doubles(inflater, sums->square_low, channels, true);
    if (status == AWQ_OK) status = inflate_doubles(inflater, sums->max_abs, channels, false);
    if (status == AWQ_OK) status = awqi_row_sample_reserve(calibration->sample, sample_rows);
    if (status == AWQ_OK)
        status = awqi_inflate_numbers(inflater, calibration->sample->rows, sample_rows * channels, sizeof(float));
    if (status == AWQ_OK) status = awqi_row_sample_restore(calibration->sample, sample_rows);
    if (status == AWQ_OK && calibration->gram != NULL) status = inflate_gram(inflater, calibration->gram, channels);
    if (status == AWQ_OK) status = awqi_inflate_end(inflater);
    return status;
}

static awq_status inflate_calibration(struct awqi_inflater *inflater, const struct section *section,
                                      awq_context *context, void *content)
{
    unsigned char bytes[CALIBRATION_BYTES];
    struct calibration_head head;
    awq_status status = awqi_inflate(inflater, bytes, sizeof bytes);
    if (status != AWQ_OK) return status;
    read_head(bytes, &head);
    status = check_head(&head, section->plain_bytes);
    if (status != AWQ_OK) return status;
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = head.flags;
    options.sample_rows = head.sample_limit > 0 ? (int64_t)head.sample_limit : -1;
    options.seed = head.seed;
    awq_calibration *calibration;
    status = awq_calibration_create(context, (int64_t)head.channels, &options, &calibration);
    if (status != AWQ_OK) return status;
    calibration->rows = (int64_t)head.rows;
    calibration->weight_high = head.weight_high;
    calibration->weight_low = head.weight_low;
    status = inflate_arrays(inflater, (uint32_t)head.sample_rows, calibration);
    if (status == AWQ_OK)
        *(awq_calibration **)content = calibration;
    else
        awq_calibration_destroy(calibration);
    return status;
}

awq_status awq_archive_load(const awq_archive *archive, const char *name, awq_calibration **calibration)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_load: calibration is NULL");
    *calibration = NULL;
    if (archive == NULL || name == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_archive_load: %s is NULL", archive ? "name" : "archive");
    for (int64_t low = 0, high = archive->count; low < high;) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(name, archive->sections[middle].name);
        if (order == 0) return read_payload(archive, &archive->sections[middle], inflate_calibration, calibration);
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return awqi_fail(AWQ_ERROR_NOT_FOUND, "%s: no calibration \"%s\" among its %lld", archive->path, name,
                     (long long)archive->count);
}

awq_status awq_calibration_load(awq_context *context, const char *path, awq_calibration **calibration)
{
    if (calibration == NULL) return awqi_fail(AWQ_ERROR_INVALID, "awq_calibration_load: calibration is NULL");
    *calibration = NULL;
    awq_archive *archive;
    awq_status status = awq_archive_open(context, path, &archive);
    if (status == AWQ_OK) status = awq_archive_load(archive, single_name, calibration);
    awq_archive_destroy(archive);
    return status;
}
