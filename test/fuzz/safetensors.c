/* One safetensors file. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    awq_checkpoint *checkpoint;
    if (fuzz_status(awq_checkpoint_open(fuzz_context(), fuzz_file("x.safetensors", data, size), &checkpoint)) == AWQ_OK) {
        awq_tensor view;
        for (int64_t i = 0; i < awq_checkpoint_count(checkpoint); i++) {
            const char *name = awq_checkpoint_name(checkpoint, i);
            fuzz_assert(i == 0 || strcmp(awq_checkpoint_name(checkpoint, i - 1), name) < 0);
            fuzz_assert(awq_checkpoint_get(checkpoint, name, &view) == AWQ_OK);
            fuzz_read_tensor(&view);
            fuzz_assert(awq_checkpoint_release(checkpoint, name) == AWQ_OK);
        }
        awq_checkpoint_metadata(checkpoint, "format");
        fuzz_assert(awq_checkpoint_get(checkpoint, "\x01none", &view) == AWQ_ERROR_NOT_FOUND);
    } else {
        fuzz_assert(checkpoint == NULL);
    }
    awq_checkpoint_destroy(checkpoint);
    fuzz_expect_nothing_held();
    return 0;
}
