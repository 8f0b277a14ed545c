/* tokenizer.json, then texts through what it describes and back. */
#include "fuzz.h"

#include "tokenizer.h"
#include "utf8.h"

static void check_utf8(const struct text_buffer *text)
{
    uint32_t character;
    for (size_t at = 0; at < text->length;) {
        int bytes = utf8_decode(text->bytes + at, text->length - at, &character);
        fuzz_assert(bytes > 0);
        at += (size_t)bytes;
    }
}

static void round_trip(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    struct id_buffer ids = {0};
    struct text_buffer back = {0};
    if (tokenizer_encode(tokenizer, text, length, true, &ids)) {
        for (size_t i = 0; i < ids.count; i++)
            fuzz_assert(ids.ids[i] >= 0 && ids.ids[i] < tokenizer_vocabulary(tokenizer));
        if (tokenizer_decode(tokenizer, ids.ids, ids.count, &back)) check_utf8(&back);
    }
    id_buffer_free(&ids);
    text_buffer_free(&back);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char plain[] = " Hello,  World 123'll <s>\xe4\xb8\xad\xf0\x9f\x98\x80\r\n\tna\xc3\xafve \xff\xfe a\xcc\x81";
    struct tokenizer *tokenizer;
    fuzz_file("tokenizer.json", data, size);
    if (!tokenizer_open(fuzz_directory(), &tokenizer)) return 0;
    round_trip(tokenizer, plain, sizeof plain - 1);
    round_trip(tokenizer, (const char *)data, size < 200 ? size : 200);
    const int32_t strange[] = {0, -1, tokenizer_vocabulary(tokenizer), INT32_MAX, INT32_MIN};
    struct text_buffer text = {0};
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        tokenizer_decode(tokenizer, &strange[i], 1, &text);
    text_buffer_free(&text);
    tokenizer_close(tokenizer);
    return 0;
}
