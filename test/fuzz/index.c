/* model.safetensors.index.json, beside two files with a tensor each: "a" in a.safetensors and "b" in b.safetensors. */
#include "fuzz.h"

static void write_shard(const char *name, const char *header)
{
    uint8_t bytes[128] = {0};
    size_t length = strlen(header);
    bytes[0] = (uint8_t)length;
    memcpy(bytes + 8, header, length);
    fuzz_file(name, bytes, 8 + length + 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool written;
    if (!written) {
        write_shard("a.safetensors", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}");
        write_shard("b.safetensors", "{\"b\":{\"dtype\":\"U8\",\"shape\":[2,2],\"data_offsets\":[0,4]}}");
        written = true;
    }
    awq_checkpoint *checkpoint;
    fuzz_file("model.safetensors.index.json", data, size);
    if (fuzz_status(awq_checkpoint_open(fuzz_context(), fuzz_directory(), &checkpoint)) == AWQ_OK) {
        awq_tensor view;
        /* Whatever the index says, nothing but these can be in what it names. */
        fuzz_assert(awq_checkpoint_count(checkpoint) <= 2);
        for (int64_t i = 0; i < awq_checkpoint_count(checkpoint); i++) {
            fuzz_assert(awq_checkpoint_get(checkpoint, awq_checkpoint_name(checkpoint, i), &view) == AWQ_OK);
            fuzz_read_tensor(&view);
        }
    }
    awq_checkpoint_destroy(checkpoint);
    fuzz_expect_nothing_held();
    return 0;
}
