/* zlib streams of bytes and numbers. */
#include "deflate.h"

#define ZLIB_CONST
#include <zlib.h>

enum {
    RUN_NUMBERS = 16384,
    OUTPUT_BYTES = 1 << 16,
    LARGEST_PIECE = 1 << 30 /* zlib counts in unsigned int */
};

uint32_t awqi_crc32(uint32_t crc, const void *bytes, uint64_t size)
{
    return (uint32_t)crc32_z(crc, bytes, (z_size_t)size);
}

/* ---- zlib's memory comes from the context, whose refusal says more than Z_MEM_ERROR */

struct zlib_memory {
    awq_context *context;
    awq_status status;
};

static void *zlib_allocate(void *opaque, unsigned int items, unsigned int size)
{
    struct zlib_memory *from = opaque;
    void *memory = NULL;
    awq_status status = awqi_alloc(from->context, items, size, "zlib", &memory);
    if (status != AWQ_OK) from->status = status;
    return memory;
}

static void zlib_release(void *opaque, void *memory)
{
    awqi_free(((struct zlib_memory *)opaque)->context, memory);
}

static awq_status zlib_failure(const struct zlib_memory *memory)
{
    if (memory->status != AWQ_OK) return memory->status;
    return awqi_fail(AWQ_ERROR_UNSUPPORTED, "zlib %s cannot be used", zlibVersion());
}

/* ---- byte planes: bits 8p .. 8p + 7 of number i are byte p * count + i */

static void to_planes(const unsigned char *numbers, int64_t count, int number_bytes, unsigned char *planes)
{
    for (int64_t i = 0; i < count; i++) {
        uint32_t half;
        uint64_t bits;
        if (number_bytes == sizeof half) {
            memcpy(&half, numbers + i * number_bytes, sizeof half);
            bits = half;
        } else {
            memcpy(&bits, numbers + i * number_bytes, sizeof bits);
        }
        for (int plane = 0; plane < number_bytes; plane++)
            planes[plane * count + i] = (unsigned char)(bits >> 8 * plane);
    }
}

static void from_planes(const unsigned char *planes, int64_t count, int number_bytes, unsigned char *numbers)
{
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits = 0;
        for (int plane = 0; plane < number_bytes; plane++) bits |= (uint64_t)planes[plane * count + i] << 8 * plane;
        uint32_t half = (uint32_t)bits;
        if (number_bytes == sizeof half)
            memcpy(numbers + i * number_bytes, &half, sizeof half);
        else
            memcpy(numbers + i * number_bytes, &bits, sizeof bits);
    }
}

/* ---- deflate */

struct awqi_deflater {
    z_stream stream;
    struct zlib_memory memory;
    int fd;
    const char *path;
    struct awqi_deflated total;
    unsigned char run[RUN_NUMBERS * 8];
    unsigned char output[OUTPUT_BYTES];
};

awq_status awqi_deflater_create(awq_context *context, int fd, const char *path, struct awqi_deflater **deflater)
{
    void *memory;
    awq_status status = awqi_alloc(context, 1, sizeof **deflater, "deflate buffers", &memory);
    if (status != AWQ_OK) return status;
    struct awqi_deflater *created = memory;
    created->memory = (struct zlib_memory){context, AWQ_OK};
    created->fd = fd;
    created->path = path;
    created->total = (struct awqi_deflated){0};
    created->stream = (z_stream){.zalloc = zlib_allocate, .zfree = zlib_release, .opaque = &created->memory};
    /* Activations have no strings that repeat, only bytes of uneven frequency and runs of zeros. */
    if (deflateInit2(&created->stream, Z_BEST_SPEED, Z_DEFLATED, MAX_WBITS, 8, Z_RLE) != Z_OK) {
        status = zlib_failure(&created->memory);
        awqi_free(context, created);
        return status;
    }
    *deflater = created;
    return AWQ_OK;
}

void awqi_deflater_destroy(struct awqi_deflater *deflater)
{
    if (deflater == NULL) return;
    (void)deflateEnd(&deflater->stream);
    awqi_free(deflater->memory.context, deflater);
}

static awq_status deflate_piece(struct awqi_deflater *deflater, const void *bytes, unsigned int size, int flush)
{
    z_stream *stream = &deflater->stream;
    stream->next_in = bytes;
    stream->avail_in = size;
    deflater->total.plain_bytes += size;
    do {
        stream->next_out = deflater->output;
        stream->avail_out = sizeof deflater->output;
        (void)deflate(stream, flush); /* the stream is sound, and having nothing to do is no error here */
        size_t produced = sizeof deflater->output - stream->avail_out;
        deflater->total.crc = awqi_crc32(deflater->total.crc, deflater->output, produced);
        deflater->total.stored_bytes += produced;
        awq_status status = awqi_write_all(deflater->fd, deflater->output, produced, deflater->path);
        if (status != AWQ_OK) return status;
    } while (stream->avail_out == 0);
    return AWQ_OK;
}

awq_status awqi_deflate(struct awqi_deflater *deflater, const void *bytes, uint64_t size)
{
    const unsigned char *next = bytes;
    awq_status status = AWQ_OK;
    while (size > 0 && status == AWQ_OK) {
        unsigned int piece = size < LARGEST_PIECE ? (unsigned int)size : LARGEST_PIECE;
        status = deflate_piece(deflater, next, piece, Z_NO_FLUSH);
        next += piece;
        size -= piece;
    }
    return status;
}

awq_status awqi_deflate_numbers(struct awqi_deflater *deflater, const void *numbers, int64_t count, int number_bytes)
{
    awq_status status = AWQ_OK;
    for (int64_t first = 0; first < count && status == AWQ_OK; first += RUN_NUMBERS) {
        int64_t taken = awqi_min64(RUN_NUMBERS, count - first);
        to_planes((const unsigned char *)numbers + first * number_bytes, taken, number_bytes, deflater->run);
        status = deflate_piece(deflater, deflater->run, (unsigned int)(taken * number_bytes), Z_NO_FLUSH);
    }
    return status;
}

awq_status awqi_deflate_end(struct awqi_deflater *deflater, struct awqi_deflated *result)
{
    awq_status status = deflate_piece(deflater, NULL, 0, Z_FINISH);
    if (status == AWQ_OK) *result = deflater->total;
    return status;
}

/* ---- inflate */

struct awqi_inflater {
    z_stream stream;
    struct zlib_memory memory;
    const unsigned char *next;
    uint64_t left; /* bytes from 'next' on that zlib has not been given */
    unsigned char run[RUN_NUMBERS * 8];
};

awq_status awqi_inflater_create(awq_context *context, const unsigned char *bytes, uint64_t size,
                                struct awqi_inflater **inflater)
{
    void *memory;
    awq_status status = awqi_alloc(context, 1, sizeof **inflater, "inflate buffers", &memory);
    if (status != AWQ_OK) return status;
    struct awqi_inflater *created = memory;
    created->memory = (struct zlib_memory){context, AWQ_OK};
    created->next = bytes;
    created->left = size;
    created->stream = (z_stream){.zalloc = zlib_allocate, .zfree = zlib_release, .opaque = &created->memory};
    if (inflateInit(&created->stream) != Z_OK) {
        status = zlib_failure(&created->memory);
        awqi_free(context, created);
        return status;
    }
    *inflater = created;
    return AWQ_OK;
}

void awqi_inflater_destroy(struct awqi_inflater *inflater)
{
    if (inflater == NULL) return;
    (void)inflateEnd(&inflater->stream);
    awqi_free(inflater->memory.context, inflater);
}

/* One call of inflate, with input if there is any left. */
static int inflate_step(struct awqi_inflater *inflater)
{
    z_stream *stream = &inflater->stream;
    if (stream->avail_in == 0) {
        stream->next_in = inflater->next;
        stream->avail_in = inflater->left < LARGEST_PIECE ? (unsigned int)inflater->left : LARGEST_PIECE;
        inflater->next += stream->avail_in;
        inflater->left -= stream->avail_in;
    }
    return inflate(stream, Z_NO_FLUSH);
}

static awq_status inflate_piece(struct awqi_inflater *inflater, void *bytes, unsigned int size)
{
    z_stream *stream = &inflater->stream;
    stream->next_out = bytes;
    stream->avail_out = size;
    while (stream->avail_out > 0) {
        int result = inflate_step(inflater);
        if (result == Z_MEM_ERROR) return zlib_failure(&inflater->memory);
        if (result == Z_DATA_ERROR) return awqi_fail(AWQ_ERROR_FORMAT, "the deflated data is damaged");
        if (result != Z_OK && stream->avail_out > 0)
            return awqi_fail(AWQ_ERROR_FORMAT, "the deflated data ends after %lu bytes", stream->total_out);
    }
    return AWQ_OK;
}

awq_status awqi_inflate(struct awqi_inflater *inflater, void *bytes, uint64_t size)
{
    unsigned char *next = bytes;
    awq_status status = AWQ_OK;
    while (size > 0 && status == AWQ_OK) {
        unsigned int piece = size < LARGEST_PIECE ? (unsigned int)size : LARGEST_PIECE;
        status = inflate_piece(inflater, next, piece);
        next += piece;
        size -= piece;
    }
    return status;
}

awq_status awqi_inflate_numbers(struct awqi_inflater *inflater, void *numbers, int64_t count, int number_bytes)
{
    awq_status status = AWQ_OK;
    for (int64_t first = 0; first < count && status == AWQ_OK; first += RUN_NUMBERS) {
        int64_t taken = awqi_min64(RUN_NUMBERS, count - first);
        status = inflate_piece(inflater, inflater->run, (unsigned int)(taken * number_bytes));
        if (status == AWQ_OK)
            from_planes(inflater->run, taken, number_bytes, (unsigned char *)numbers + first * number_bytes);
    }
    return status;
}

awq_status awqi_inflate_end(struct awqi_inflater *inflater)
{
    z_stream *stream = &inflater->stream;
    unsigned char beyond;
    int result;
    stream->next_out = &beyond;
    stream->avail_out = 1;
    do {
        result = inflate_step(inflater);
    } while (result == Z_OK && stream->avail_out > 0);
    if (result == Z_STREAM_END && stream->avail_out == 1 && stream->avail_in == 0 && inflater->left == 0) return AWQ_OK;
    return awqi_fail(AWQ_ERROR_FORMAT, "the deflated data does not end after %lu bytes", stream->total_out);
}
