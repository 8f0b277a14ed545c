/* A tuning file. */
#include "fuzz.h"

#include <stdio.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    awq_tuning *tuning;
    if (fuzz_status(awq_tuning_load(fuzz_context(), fuzz_file("tuning", data, size), &tuning)) == AWQ_OK) {
        char path[4200];
        snprintf(path, sizeof path, "%s/again", fuzz_directory());
        fuzz_assert(awq_tuning_save(tuning, path) == AWQ_OK);
        awq_tuning *again;
        fuzz_assert(awq_tuning_load(fuzz_context(), path, &again) == AWQ_OK);
        awq_tuning_destroy(again);
        unlink(path);
    }
    awq_tuning_destroy(tuning);
    fuzz_expect_nothing_held();
    return 0;
}
