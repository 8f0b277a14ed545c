/* The block formats of GGUF.
 *
 *   Q4_0   F16 d, 16 bytes       w = (q - 8) d        byte j: weight j in the low half, weight j + 16 in the high
 *   Q4_1   F16 d, F16 m, 16 bytes  w = q d + m        the same
 *   Q8_0   F16 d, 32 bytes       w = q d              signed
 */
#include "gguf.h"

#include <math.h>
#include <string.h>

static const struct {
    const char *name;
    int64_t block, bytes;
} types[] = {
    [GGUF_F32] = {"F32", 1, 4},
    [GGUF_F16] = {"F16", 1, 2},
    [GGUF_Q4_0] = {"Q4_0", GGUF_BLOCK, 2 + GGUF_BLOCK / 2},
    [GGUF_Q4_1] = {"Q4_1", GGUF_BLOCK, 4 + GGUF_BLOCK / 2},
    [GGUF_Q8_0] = {"Q8_0", GGUF_BLOCK, 2 + GGUF_BLOCK},
};

enum { TYPES = sizeof types / sizeof *types };

const char *gguf_type_name(uint32_t type)
{
    return type < TYPES ? types[type].name : NULL;
}

uint64_t gguf_row_bytes(uint32_t type, int64_t count)
{
    if (!gguf_type_name(type) || count % types[type].block || count > INT64_MAX / 4) return 0;
    return (uint64_t)(count / types[type].block * types[type].bytes);
}

/* ---- halves */

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* To nearest, ties to even.  Adding 0.5 at the right scale lets the processor round. */
static uint16_t to_half(float value)
{
    const uint32_t sign = bits_of(value) >> 16 & 0x8000u;
    float magnitude = fabsf(value);
    if (isnan(value)) return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 65520.0f) return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x1p-14f) return (uint16_t)(sign | (uint32_t)rintf(magnitude * 0x1p24f));
    uint32_t bits = bits_of(magnitude);
    bits += 0xfffu + (bits >> 13 & 1u);
    return (uint16_t)(sign | ((bits >> 13) - (112u << 10)));
}

static float from_half(uint16_t half)
{
    const int exponent = half >> 10 & 31, fraction = half & 1023;
    float value = exponent == 0    ? ldexpf((float)fraction, -24)
                  : exponent == 31 ? (fraction ? NAN : INFINITY)
                                   : ldexpf((float)(fraction + 1024), exponent - 25);
    return half & 0x8000 ? -value : value;
}

static void put_half(unsigned char *bytes, float value)
{
    uint16_t half = to_half(value);
    bytes[0] = (unsigned char)half;
    bytes[1] = (unsigned char)(half >> 8);
}

static float get_half(const unsigned char *bytes)
{
    return from_half((uint16_t)(bytes[0] | bytes[1] << 8));
}

/* ---- blocks */

static void put_codes(const uint8_t *codes, unsigned char *bytes)
{
    for (int j = 0; j < GGUF_BLOCK / 2; j++) bytes[j] = (unsigned char)(codes[j] | codes[j + GGUF_BLOCK / 2] << 4);
}

static uint8_t limit_code(float value)
{
    return value < 0 ? 0 : value > 15 ? 15 : (uint8_t)value;
}

/* The value of largest magnitude, the first of equals, becomes code 0: -8 d. */
static void encode_q4_0(const float *values, unsigned char *block)
{
    uint8_t codes[GGUF_BLOCK];
    float most = 0;
    for (int i = 0; i < GGUF_BLOCK; i++)
        if (fabsf(values[i]) > fabsf(most)) most = values[i];
    const float d = most / -8, inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < GGUF_BLOCK; i++) codes[i] = limit_code(values[i] * inverse + 8.5f);
    put_half(block, d);
    put_codes(codes, block + 2);
}

static void encode_q4_1(const float *values, unsigned char *block)
{
    uint8_t codes[GGUF_BLOCK];
    float least = values[0], most = values[0];
    for (int i = 1; i < GGUF_BLOCK; i++) {
        least = fminf(least, values[i]);
        most = fmaxf(most, values[i]);
    }
    const float d = (most - least) / 15, inverse = d != 0 ? 1 / d : 0;
    for (int i = 0; i < GGUF_BLOCK; i++) codes[i] = limit_code((values[i] - least) * inverse + 0.5f);
    put_half(block, d);
    put_half(block + 2, least);
    put_codes(codes, block + 4);
}

static void encode_q8_0(const float *values, unsigned char *block)
{
    float most = 0;
    for (int i = 0; i < GGUF_BLOCK; i++) most = fmaxf(most, fabsf(values[i]));
    const float d = most / 127, inverse = d != 0 ? 1 / d : 0;
    put_half(block, d);
    for (int i = 0; i < GGUF_BLOCK; i++) block[2 + i] = (unsigned char)(int8_t)roundf(values[i] * inverse);
}

void gguf_encode_codes(enum gguf_type type, const uint8_t *codes, float scale, float minimum, void *block)
{
    unsigned char *bytes = block;
    put_half(bytes, scale);
    if (type == GGUF_Q4_1) put_half(bytes + 2, minimum);
    put_codes(codes, bytes + (type == GGUF_Q4_1 ? 4 : 2));
}

void gguf_encode_row(enum gguf_type type, const float *values, int64_t count, void *row)
{
    unsigned char *bytes = row;
    for (int64_t i = 0; i < count; i += types[type].block, bytes += types[type].bytes) {
        if (type == GGUF_F32) memcpy(bytes, values + i, sizeof *values);
        else if (type == GGUF_F16) put_half(bytes, values[i]);
        else if (type == GGUF_Q4_0) encode_q4_0(values + i, bytes);
        else if (type == GGUF_Q4_1) encode_q4_1(values + i, bytes);
        else encode_q8_0(values + i, bytes);
    }
}

static void decode_q4(const unsigned char *codes, float scale, float offset, float minimum, float *values)
{
    for (int j = 0; j < GGUF_BLOCK / 2; j++) {
        values[j] = ((float)(codes[j] & 15) - offset) * scale + minimum;
        values[j + GGUF_BLOCK / 2] = ((float)(codes[j] >> 4) - offset) * scale + minimum;
    }
}

void gguf_decode_row(enum gguf_type type, const void *row, int64_t count, float *values)
{
    const unsigned char *bytes = row;
    for (int64_t i = 0; i < count; i += types[type].block, bytes += types[type].bytes) {
        if (type == GGUF_F32) memcpy(values + i, bytes, sizeof *values);
        else if (type == GGUF_F16) values[i] = get_half(bytes);
        else if (type == GGUF_Q4_0) decode_q4(bytes + 2, get_half(bytes), 8, 0, values + i);
        else if (type == GGUF_Q4_1) decode_q4(bytes + 4, get_half(bytes), 0, get_half(bytes + 2), values + i);
        else
            for (int j = 0; j < GGUF_BLOCK; j++) values[i + j] = (float)(int8_t)bytes[2 + j] * get_half(bytes);
    }
}
