/* zlib streams of bytes and numbers: what the sections of an archive hold.
 *
 * Arrays of numbers are cut into runs of 16384 (the last may be shorter), and a run holds first the lowest bytes of all
 * its numbers, then the next ones, and so on.  Exponents, and the empty low bytes of numbers that came from 16 bits, then
 * lie together and compress, which is nearly all there is to gain. */
#ifndef AWQI_DEFLATE_H
#define AWQI_DEFLATE_H

#include "internal.h"

struct awqi_deflater;
struct awqi_inflater;

struct awqi_deflated {
    uint64_t stored_bytes, plain_bytes; /* written to the file, and before deflating */
    uint32_t crc;                       /* CRC-32 of the stored bytes */
};

/* Deflate to the present position of 'fd'; 'path' names it in errors and is kept. */
awq_status awqi_deflater_create(awq_context *context, int fd, const char *path, struct awqi_deflater **deflater);
void awqi_deflater_destroy(struct awqi_deflater *deflater);
awq_status awqi_deflate(struct awqi_deflater *deflater, const void *bytes, uint64_t size);
awq_status awqi_deflate_numbers(struct awqi_deflater *deflater, const void *numbers, int64_t count, int number_bytes);
awq_status awqi_deflate_end(struct awqi_deflater *deflater, struct awqi_deflated *result);

/* Inflate the stream bytes[size], which must stay.  Whatever is wrong with it is AWQ_ERROR_FORMAT. */
awq_status awqi_inflater_create(awq_context *context, const unsigned char *bytes, uint64_t size,
                                struct awqi_inflater **inflater);
void awqi_inflater_destroy(struct awqi_inflater *inflater);
awq_status awqi_inflate(struct awqi_inflater *inflater, void *bytes, uint64_t size);
awq_status awqi_inflate_numbers(struct awqi_inflater *inflater, void *numbers, int64_t count, int number_bytes);
awq_status awqi_inflate_end(struct awqi_inflater *inflater); /* all was read, and nothing follows */

uint32_t awqi_crc32(uint32_t crc, const void *bytes, uint64_t size); /* begins with 0 */

#endif /* AWQI_DEFLATE_H */
