/* A GGUF file: its table, and the weights of every tensor of a known type. */
#include "gguf.h"
#include "fuzz.h"

enum { LONGEST_ROW = 1 << 16 };

static void decode(const struct gguf_tensor *tensor)
{
    static float values[LONGEST_ROW];
    int64_t columns = tensor->ndim > 0 ? tensor->shape[tensor->ndim - 1] : 1;
    uint64_t row_bytes = gguf_row_bytes(tensor->type, columns);
    static volatile uint8_t seen;
    for (uint64_t i = 0; i < tensor->bytes; i++) seen = tensor->data[i];
    (void)seen;
    if (row_bytes == 0 || columns > LONGEST_ROW) return;
    for (uint64_t at = 0; at + row_bytes <= tensor->bytes; at += row_bytes)
        gguf_decode_row((enum gguf_type)tensor->type, tensor->data + at, columns, values);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf_file file;
    if (gguf_open(fuzz_file("x.gguf", data, size), &file)) {
        for (size_t i = 0; i < file.count; i++) {
            if (file.tensors[i].data != NULL) decode(&file.tensors[i]);
            fuzz_assert(gguf_find(&file, file.tensors[i].name) != NULL);
        }
        gguf_close(&file);
    }
    return 0;
}
