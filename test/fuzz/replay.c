/* Runs a target without libFuzzer: every file that is named or lies in a directory that is named, as it is, cut short at
 * many lengths, and changed at many places.
 *
 *     replay CHANGES CORPUS...
 *
 * The input at hand is left in a file when the target dies of it, if AWQ_FUZZ_KEEP names one. */
#include "fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>

static uint64_t executions;
static int64_t changes; /* of each input, and as many lengths */

static uint64_t next_random(void)
{
    static uint64_t state;
    uint64_t bits = state += 0x9e3779b97f4a7c15u;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9u;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebu;
    return bits ^ (bits >> 31);
}

static void execute(const uint8_t *data, size_t size)
{
    const char *keep = getenv("AWQ_FUZZ_KEEP");
    FILE *file = keep != NULL ? fopen(keep, "wb") : NULL;
    if (file != NULL) {
        fwrite(data, 1, size, file);
        fclose(file);
    }
    uint8_t *guarded = fuzz_guard(data, size);
    LLVMFuzzerTestOneInput(guarded, size);
    fuzz_unguard(guarded, size);
    executions++;
}

/* Some bits, bytes or numbers of it set to what readers stumble over. */
static void change(uint8_t *data, size_t size)
{
    static const uint64_t numbers[] = {0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff,
                                       INT64_MAX, UINT64_MAX};
    for (uint64_t times = 1 + next_random() % 3; times > 0; times--) {
        size_t at = next_random() % size, width = (size_t)1 << next_random() % 4;
        uint64_t number = numbers[next_random() % (sizeof numbers / sizeof *numbers)];
        switch (next_random() % 4) {
        case 0: data[at] ^= (uint8_t)(1u << next_random() % 8); break;
        case 1: data[at] = (uint8_t)next_random(); break;
        case 2: data[at] = "09-.\"{}[],:\\e\0"[next_random() % 14]; break;
        default: memcpy(data + at, &number, width < size - at ? width : size - at); break;
        }
    }
}

static void replay(const char *path)
{
    struct stat information;
    FILE *file = fopen(path, "rb");
    fuzz_assert(file != NULL && fstat(fileno(file), &information) == 0);
    size_t size = (size_t)information.st_size;
    uint8_t *data = malloc(size + 1), *changed = malloc(size + 1);
    fuzz_assert(data != NULL && changed != NULL && fread(data, 1, size, file) == size);
    fclose(file);
    execute(data, size);
    for (int64_t i = 0; i < changes && size > 0; i++) {
        execute(data, (int64_t)size <= changes ? (size_t)i % size : next_random() % size);
        memcpy(changed, data, size);
        change(changed, size);
        execute(changed, size);
    }
    free(data);
    free(changed);
}

static void replay_all(const char *path)
{
    struct dirent **entries;
    int count = scandir(path, &entries, NULL, alphasort);
    if (count < 0) {
        replay(path);
        return;
    }
    for (int i = 0; i < count; i++) {
        char *name;
        fuzz_assert(asprintf(&name, "%s/%s", path, entries[i]->d_name) > 0);
        if (entries[i]->d_name[0] != '.') replay(name);
        free(name);
        free(entries[i]);
    }
    free(entries);
}

int main(int argc, char **argv)
{
    if (argc < 3) return 2;
    changes = strtoll(argv[1], NULL, 10);
    for (int i = 2; i < argc; i++) replay_all(argv[i]);
    printf("%llu inputs\n", (unsigned long long)executions);
    return executions == 0;
}
