/* UTF-8, character by character. */
#include "utf8.h"

int utf8_decode(const char *text, size_t length, uint32_t *character)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char lead = bytes[0];
    unsigned char low = 0x80,
                  high = 0xBF; /* of the second byte: no overlong forms, no surrogates, nothing past U+10FFFF */
    int more;
    uint32_t value;

    if (lead < 0x80) {
        *character = lead;
        return 1;
    }
    if (lead >= 0xC2 && lead <= 0xDF) {
        more = 1;
        value = lead & 0x1F;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
        more = 2;
        value = lead & 0x0F;
        if (lead == 0xE0) low = 0xA0;
        if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
        more = 3;
        value = lead & 0x07;
        if (lead == 0xF0) low = 0x90;
        if (lead == 0xF4) high = 0x8F;
    } else {
        return -1;
    }
    for (int i = 1; i <= more; i++) {
        if ((size_t)i == length) return 0;
        if (bytes[i] < low || bytes[i] > high) return -i;
        value = value << 6 | (bytes[i] & 0x3F);
        low = 0x80;
        high = 0xBF;
    }
    *character = value;
    return more + 1;
}

int utf8_encode(uint32_t character, char text[UTF8_MAX_BYTES])
{
    if (character < 0x80) {
        text[0] = (char)character;
        return 1;
    }
    if (character < 0x800) {
        text[0] = (char)(0xC0 | character >> 6);
        text[1] = (char)(0x80 | (character & 0x3F));
        return 2;
    }
    if (character < 0x10000) {
        text[0] = (char)(0xE0 | character >> 12);
        text[1] = (char)(0x80 | (character >> 6 & 0x3F));
        text[2] = (char)(0x80 | (character & 0x3F));
        return 3;
    }
    text[0] = (char)(0xF0 | character >> 18);
    text[1] = (char)(0x80 | (character >> 12 & 0x3F));
    text[2] = (char)(0x80 | (character >> 6 & 0x3F));
    text[3] = (char)(0x80 | (character & 0x3F));
    return 4;
}

bool utf8_append_valid(struct text_buffer *buffer, const char *text, size_t length, size_t *replaced, size_t *first)
{
    char replacement[UTF8_MAX_BYTES];
    int replacement_bytes = utf8_encode(UTF8_REPLACEMENT, replacement);
    size_t copied = 0, at = 0;
    while (at < length) {
        uint32_t character;
        int bytes = utf8_decode(text + at, length - at, &character);
        if (bytes > 0) {
            at += (size_t)bytes;
            continue;
        }
        if (replaced && (*replaced)++ == 0 && first) *first = at;
        if (!text_buffer_append(buffer, text + copied, at - copied)) return false;
        if (!text_buffer_append(buffer, replacement, (size_t)replacement_bytes)) return false;
        at = bytes < 0 ? at + (size_t)-bytes : length;
        copied = at;
    }
    return copied == length || text_buffer_append(buffer, text + copied, length - copied); /* empty text may be NULL */
}

bool utf8_is_space(uint32_t character)
{
    if (character < 0x80) return character == ' ' || (character >= 0x09 && character <= 0x0D);
    return character == 0x85 || character == 0xA0 || character == 0x1680 ||
           (character >= 0x2000 && character <= 0x200A) || character == 0x2028 || character == 0x2029 ||
           character == 0x202F || character == 0x205F || character == 0x3000;
}
