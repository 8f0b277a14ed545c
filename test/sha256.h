/* SHA-256 (FIPS 180-4), for files that are known only by their sum. */
#ifndef SHA256_H
#define SHA256_H

#include <stddef.h>

enum { SHA256_TEXT = 65 };

/* The sum of bytes[size] in hexadecimal. */
void sha256(const void *bytes, size_t size, char text[SHA256_TEXT]);

#endif /* SHA256_H */
