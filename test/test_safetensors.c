/* The safetensors reader against files that lie. */
#include "scratch.h"

#define ONE(dtype, shape, offsets) \
    "{'a':{'dtype':" dtype ",'shape':" shape ",'data_offsets':" offsets "}}"

/* Every file is its header's true length, the header, and 'data' bytes 0, 1, 2, .. */
static const struct {
    const char *what;
    const char *header;
    size_t data;
    awq_status status;
    const char *error; /* part of the text that must name the trouble */
} headers[] = {
    /* What must be accepted. */
    {"no tensors", "{}", 0, AWQ_OK, ""},
    {"padding", "{}      ", 0, AWQ_OK, ""},
    {"a scalar", ONE("'F32'", "[]", "[0,4]"), 4, AWQ_OK, ""},
    {"an empty tensor", ONE("'F32'", "[0,7]", "[0,0]"), 0, AWQ_OK, ""},
    {"eight dimensions", ONE("'U8'", "[1,1,1,1,1,1,1,2]", "[0,2]"), 2, AWQ_OK, ""},
    {"keys of the future", "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1],'x':null}}", 1, AWQ_OK, ""},
    {"empty metadata", "{'__metadata__':{}}", 0, AWQ_OK, ""},
    {"metadata", "{'__metadata__':{'format':'pt'}}", 0, AWQ_OK, ""},
    {"an escaped name", "{'\\u00e9 \\'\\\\\\n':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}", 1, AWQ_OK, ""},
    {"an empty name", "{'':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}", 1, AWQ_OK, ""},
    {"order of its own",
     "{'b':{'dtype':'U8','shape':[2],'data_offsets':[1,3]},'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}",
     3, AWQ_OK, ""},
    {"an empty tensor between two",
     "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},'b':{'dtype':'F64','shape':[0],'data_offsets':[1,1]},"
     "'c':{'dtype':'U8','shape':[1],'data_offsets':[1,2]}}",
     2, AWQ_OK, ""},
    {"an unaligned tensor",
     "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},'b':{'dtype':'F64','shape':[1],'data_offsets':[1,9]}}",
     9, AWQ_OK, ""},

    /* JSON. */
    {"no brace first", " {}", 0, AWQ_ERROR_FORMAT, "does not begin with {"},
    {"an array", "[1]", 0, AWQ_ERROR_FORMAT, "does not begin with {"},
    {"an unfinished object", "{", 0, AWQ_ERROR_FORMAT, "JSON, byte 1"},
    {"text after the object", "{}{}", 0, AWQ_ERROR_FORMAT, "end of file expected"},
    {"a trailing comma", "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},}", 1, AWQ_ERROR_FORMAT, "JSON"},
    {"other padding", "{}\1\1", 0, AWQ_ERROR_FORMAT, "JSON"},
    {"invalid UTF-8", "{'\xff':{}}", 0, AWQ_ERROR_FORMAT, "unable to decode byte"},
    {"overlong UTF-8", "{'\xc0\x80':{}}", 0, AWQ_ERROR_FORMAT, "unable to decode byte"},
    {"a surrogate", "{'\\ud800':{}}", 0, AWQ_ERROR_FORMAT, "JSON"},
    {"NUL in a name", "{'a\\u0000b':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}", 1, AWQ_ERROR_FORMAT, "JSON"},
    {"one name twice",
     "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},'a':{'dtype':'U8','shape':[1],'data_offsets':[1,2]}}", 2,
     AWQ_ERROR_FORMAT, "duplicate"},
    {"one key twice", "{'a':{'dtype':'U8','shape':[1],'shape':[1],'data_offsets':[0,1]}}", 1, AWQ_ERROR_FORMAT,
     "duplicate"},

    /* Metadata. */
    {"metadata that is a string", "{'__metadata__':'x'}", 0, AWQ_ERROR_FORMAT, "__metadata__ is not an object"},
    {"metadata that is a tensor", "{'__metadata__':{'dtype':'U8','shape':[1],'data_offsets':[0,1]}}", 1,
     AWQ_ERROR_FORMAT, "__metadata__ \"shape\" is not a string"},
    {"a number in metadata", "{'__metadata__':{'n':3}}", 0, AWQ_ERROR_FORMAT, "__metadata__ \"n\" is not a string"},

    /* Entries. */
    {"an entry that is null", "{'a':null}", 0, AWQ_ERROR_FORMAT, "\"a\": its header entry is not an object"},
    {"an entry that is an array", "{'a':[]}", 0, AWQ_ERROR_FORMAT, "\"a\": its header entry is not an object"},
    {"no dtype", "{'a':{'shape':[1],'data_offsets':[0,1]}}", 1, AWQ_ERROR_FORMAT, "\"a\": \"dtype\" is missing"},
    {"a dtype that is a number", ONE("3", "[1]", "[0,1]"), 1, AWQ_ERROR_FORMAT, "\"dtype\" is missing or not a string"},
    {"an unknown dtype", ONE("'F4'", "[2]", "[0,1]"), 1, AWQ_ERROR_UNSUPPORTED, "\"a\": dtype \"F4\" is not known"},
    {"a dtype in small letters", ONE("'f32'", "[1]", "[0,4]"), 4, AWQ_ERROR_UNSUPPORTED, "dtype \"f32\""},
    {"an empty dtype", ONE("''", "[1]", "[0,4]"), 4, AWQ_ERROR_UNSUPPORTED, "dtype \"\""},
    {"the name of no dtype", ONE("'unknown'", "[1]", "[0,4]"), 4, AWQ_ERROR_UNSUPPORTED, "dtype \"unknown\""},
    {"no shape", "{'a':{'dtype':'U8','data_offsets':[0,1]}}", 1, AWQ_ERROR_FORMAT, "\"a\": \"shape\" is missing"},
    {"a shape that is a number", ONE("'U8'", "1", "[0,1]"), 1, AWQ_ERROR_FORMAT,
     "\"shape\" is missing or not an array"},
    {"a negative extent", ONE("'U8'", "[-1]", "[0,1]"), 1, AWQ_ERROR_FORMAT, "not a whole number"},
    {"two negative extents", ONE("'U8'", "[-1,-1]", "[0,1]"), 1, AWQ_ERROR_FORMAT, "not a whole number"},
    {"a fraction in the shape", ONE("'U8'", "[1.0]", "[0,1]"), 1, AWQ_ERROR_FORMAT, "not a whole number"},
    {"a string in the shape", ONE("'U8'", "['1']", "[0,1]"), 1, AWQ_ERROR_FORMAT, "not a whole number"},
    {"an extent of 2^63", ONE("'U8'", "[9223372036854775808]", "[0,1]"), 1, AWQ_ERROR_FORMAT, "too big"},
    {"a product of 2^64", ONE("'U8'", "[4294967296,4294967296]", "[0,0]"), 0, AWQ_ERROR_FORMAT, "exceeds 63 bits"},
    {"2^64 bytes", ONE("'F32'", "[4611686018427387904]", "[0,0]"), 0, AWQ_ERROR_FORMAT, "exceeds 63 bits"},
    {"an empty tensor of absurd extents", ONE("'U8'", "[0,4294967296,4294967296]", "[0,0]"), 0, AWQ_ERROR_FORMAT,
     "exceeds 63 bits"},
    {"nine dimensions", ONE("'U8'", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, AWQ_ERROR_UNSUPPORTED,
     "\"a\": 9 dimensions; at most 8"},

    /* Offsets. */
    {"no offsets", "{'a':{'dtype':'U8','shape':[1]}}", 1, AWQ_ERROR_FORMAT, "\"a\": \"data_offsets\" is missing"},
    {"offsets that are an object", ONE("'U8'", "[1]", "{}"), 1, AWQ_ERROR_FORMAT, "\"data_offsets\""},
    {"one offset", ONE("'U8'", "[1]", "[1]"), 1, AWQ_ERROR_FORMAT, "not two whole numbers"},
    {"three offsets", ONE("'U8'", "[1]", "[0,1,2]"), 1, AWQ_ERROR_FORMAT, "not two whole numbers"},
    {"a fraction", ONE("'U8'", "[1]", "[0,1.5]"), 1, AWQ_ERROR_FORMAT, "not two whole numbers"},
    {"an exponent", ONE("'U8'", "[1]", "[0,1e0]"), 1, AWQ_ERROR_FORMAT, "not two whole numbers"},
    {"a negative offset", ONE("'U8'", "[1]", "[-1,0]"), 1, AWQ_ERROR_FORMAT, "bytes -1 to 0 of the 1"},
    {"offsets in the wrong order", ONE("'U8'", "[1]", "[1,0]"), 1, AWQ_ERROR_FORMAT, "bytes 1 to 0 of the 1"},
    {"an end behind the file", ONE("'U8'", "[2]", "[0,2]"), 1, AWQ_ERROR_FORMAT, "bytes 0 to 2 of the 1"},
    {"a beginning behind the file", ONE("'U8'", "[0]", "[5,5]"), 1, AWQ_ERROR_FORMAT, "bytes 5 to 5 of the 1"},
    {"the largest offsets", ONE("'U8'", "[1]", "[9223372036854775806,9223372036854775807]"), 1, AWQ_ERROR_FORMAT,
     "of the 1"},
    {"an offset of 2^63", ONE("'U8'", "[1]", "[0,9223372036854775808]"), 1, AWQ_ERROR_FORMAT, "too big"},
    {"fewer bytes than the shape", ONE("'F32'", "[2]", "[0,4]"), 4, AWQ_ERROR_FORMAT,
     "\"a\": 4 bytes where its shape and dtype F32 need 8"},
    {"more bytes than the shape", ONE("'F16'", "[1]", "[0,4]"), 4, AWQ_ERROR_FORMAT,
     "4 bytes where its shape and dtype F16 need 2"},
    {"bytes for an empty tensor", ONE("'F16'", "[0]", "[0,2]"), 2, AWQ_ERROR_FORMAT, "need 0"},

    /* Coverage. */
    {"a hole in front", ONE("'U8'", "[1]", "[1,2]"), 2, AWQ_ERROR_FORMAT,
     "bytes 0 to 1, before tensor \"a\", belong to no tensor"},
    {"bytes behind", ONE("'U8'", "[1]", "[0,1]"), 4, AWQ_ERROR_FORMAT, "the last 3 bytes belong to no tensor"},
    {"bytes without tensors", "{}", 2, AWQ_ERROR_FORMAT, "the last 2 bytes belong to no tensor"},
    {"a hole between two",
     "{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},'b':{'dtype':'U8','shape':[1],'data_offsets':[3,4]}}", 4,
     AWQ_ERROR_FORMAT, "bytes 1 to 3, before tensor \"b\""},
    {"an overlap",
     "{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]},'b':{'dtype':'U8','shape':[2],'data_offsets':[2,4]}}", 4,
     AWQ_ERROR_FORMAT, "tensor \"b\" begins at byte 2, but \"a\" ends at 3"},
    {"two names for the same bytes",
     "{'a':{'dtype':'U8','shape':[2],'data_offsets':[0,2]},'b':{'dtype':'U8','shape':[2],'data_offsets':[0,2]}}", 2,
     AWQ_ERROR_FORMAT, "ends at 2"},
    {"a tensor inside another",
     "{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},'b':{'dtype':'U8','shape':[1],'data_offsets':[1,2]}}", 4,
     AWQ_ERROR_FORMAT, "tensor \"b\" begins at byte 1, but \"a\" ends at 4"},
    {"an empty tensor inside another",
     "{'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},'b':{'dtype':'U8','shape':[0],'data_offsets':[2,2]}}", 4,
     AWQ_ERROR_FORMAT, "tensor \"b\" begins at byte 2"},
};

/* For the reader's eyes, strings in headers here stand between '. */
static size_t build(unsigned char *file, uint64_t length, const char *header, size_t data)
{
    size_t size = 0;
    for (int i = 0; i < 8; i++) file[size++] = (unsigned char)(length >> 8 * i);
    for (; *header != 0; header++) file[size++] = *header == '\'' ? '"' : (unsigned char)*header;
    for (size_t i = 0; i < data; i++) file[size++] = (unsigned char)i;
    return size;
}

/* Open 'bytes' as a file; what opens must also be sound. */
static awq_status open_bytes(const struct scratch *scratch, const void *bytes, size_t size)
{
    const char *path = scratch_path(scratch, "file.safetensors");
    awq_checkpoint *checkpoint = (void *)1;
    scratch_write(path, bytes, size);
    awq_status status = awq_checkpoint_open(scratch->context, path, &checkpoint);
    if (status != AWQ_OK) {
        assert_null(checkpoint);
        assert_error_names("file.safetensors");
        return status;
    }
    unsigned sum = 0;
    for (int64_t i = 0; i < awq_checkpoint_count(checkpoint); i++) {
        awq_tensor view;
        assert_status(awq_checkpoint_get(checkpoint, awq_checkpoint_name(checkpoint, i), &view), AWQ_OK);
        assert_status(awqi_check_tensor(&view, -1, 0, "view"), AWQ_OK);
        size_t view_bytes = (size_t)awqi_tensor_elements(&view) * awq_dtype_size(view.dtype);
        for (size_t j = 0; j < view_bytes; j++) sum += ((const unsigned char *)awqi_tensor_data(&view))[j];
    }
    assert_true(sum < 1u << 30);
    awq_checkpoint_destroy(checkpoint);
    return AWQ_OK;
}

static void headers_are_judged(void **state)
{
    const struct scratch *scratch = *state;
    unsigned char file[1024];
    int wrong = 0;
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        size_t size = build(file, strlen(headers[i].header), headers[i].header, headers[i].data);
        awq_status status = open_bytes(scratch, file, size);
        const char *error = status == AWQ_OK ? "" : awq_last_error();
        if (status == headers[i].status && strstr(error, headers[i].error) != NULL) continue;
        print_error("%s: %s \"%s\", where %s \"..%s..\" was expected\n", headers[i].what, awq_status_name(status),
                    error, awq_status_name(headers[i].status), headers[i].error);
        wrong++;
    }
    assert_int_equal(wrong, 0);
}

static void header_lengths_are_judged(void **state)
{
    static const char header[] = "{}";
    static const struct {
        uint64_t length;
        const char *error;
    } cases[] = {
        {0, "does not begin with {"},
        {1, "JSON"},
        {3, "truncated: a header of 3 bytes in a file of 10"},
        {100000000, "truncated: a header of 100000000 bytes"},
        {100000001, "not a safetensors file, or corrupt: a header of 100000001 bytes"},
        {UINT64_C(1) << 63, "a header of 9223372036854775808 bytes"},
        {UINT64_MAX, "a header of 18446744073709551615 bytes"},
        {UINT64_MAX - 7, "a header of 18446744073709551608 bytes"},
    };
    const struct scratch *scratch = *state;
    unsigned char file[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t size = build(file, cases[i].length, header, 0);
        assert_status(open_bytes(scratch, file, size), AWQ_ERROR_FORMAT);
        assert_error_names(cases[i].error);
    }
}

static void other_kinds_of_file_are_named(void **state)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    const struct scratch *scratch = *state;
    assert_status(open_bytes(scratch, "", 0), AWQ_ERROR_FORMAT);
    assert_error_names("0 bytes are too few");
    assert_status(open_bytes(scratch, "1234567", 7), AWQ_ERROR_FORMAT);
    assert_error_names("7 bytes are too few");
    assert_status(open_bytes(scratch, pointer, sizeof pointer - 1), AWQ_ERROR_FORMAT);
    assert_error_names("git lfs pull");
    assert_status(open_bytes(scratch, "PK\3\4 a zip archive", 18), AWQ_ERROR_FORMAT);
    assert_error_names("not a safetensors file");
}

static const char sample[] = "{'__metadata__':{'format':'pt'},'w':{'dtype':'F16','shape':[2,3],"
                             "'data_offsets':[0,12]},'b':{'dtype':'I8','shape':[3],'data_offsets':[12,15]}}";

static void every_truncation_is_refused(void **state)
{
    const struct scratch *scratch = *state;
    unsigned char file[512];
    size_t size = build(file, sizeof sample - 1, sample, 15);
    assert_status(open_bytes(scratch, file, size), AWQ_OK);
    for (size_t cut = 0; cut < size; cut++) assert_status(open_bytes(scratch, file, cut), AWQ_ERROR_FORMAT);
    file[size] = 0;
    assert_status(open_bytes(scratch, file, size + 1), AWQ_ERROR_FORMAT);
}

/* Most damage is noticed; what is not must still give a sound checkpoint. */
static void damage_never_gets_through_to_memory(void **state)
{
    const struct scratch *scratch = *state;
    unsigned char file[512], damaged[512];
    size_t size = build(file, sizeof sample - 1, sample, 15);
    uint64_t random = 20240607;
    for (int round = 0; round < 3000; round++) {
        memcpy(damaged, file, size);
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        size_t at = (size_t)(random >> 33) % (size - 15);
        damaged[at] = (unsigned char)(round % 3 == 0 ? random >> 24 : (uint64_t)"0123456789-,:[]}"[random >> 40 & 15]);
        awq_status status = open_bytes(scratch, damaged, size);
        assert_true(status == AWQ_OK || status == AWQ_ERROR_FORMAT || status == AWQ_ERROR_UNSUPPORTED);
    }
}

static void unaligned_tensors_are_copied(void **state)
{
    static const char header[] = "{'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]},"
                                 "'b':{'dtype':'I32','shape':[2],'data_offsets':[3,11]}}";
    const struct scratch *scratch = *state;
    unsigned char file[512];
    /* Whatever the header's length, one of these files has its second tensor off. */
    for (int padding = 0; padding < 4; padding++) {
        char padded[sizeof header + 4];
        snprintf(padded, sizeof padded, "%s%.*s", header, padding, "   ");
        scratch_write(scratch_path(scratch, "m.safetensors"), file, build(file, strlen(padded), padded, 11));
        awq_checkpoint *checkpoint;
        awq_tensor view;
        assert_status(awq_checkpoint_open(scratch->context, scratch->directory, &checkpoint), AWQ_OK);
        assert_status(awq_checkpoint_get(checkpoint, "b", &view), AWQ_OK);
        assert_int_equal((uintptr_t)view.data % 4, 0);
        assert_memory_equal(view.data, "\3\4\5\6\7\10\11\12", 8);
        assert_status(awq_checkpoint_release(checkpoint, "b"), AWQ_OK);
        assert_memory_equal(view.data, "\3\4\5\6\7\10\11\12", 8);
        awq_checkpoint_destroy(checkpoint);
    }
}

static void failed_allocations_are_reported(void **state)
{
    struct scratch *scratch = *state;
    unsigned char file[512];
    size_t size = build(file, sizeof sample - 1, sample, 15);
    const char *path = scratch_path(scratch, "file.safetensors");
    scratch_write(path, file, size);
    awq_status status;
    int64_t n = 0;
    do {
        awq_checkpoint *checkpoint;
        scratch->allocations_left = n++;
        status = awq_checkpoint_open(scratch->context, path, &checkpoint);
        scratch->allocations_left = -1;
        assert_true(status == AWQ_OK || status == AWQ_ERROR_OUT_OF_MEMORY);
        assert_int_equal(checkpoint == NULL, status != AWQ_OK);
        awq_checkpoint_destroy(checkpoint);
    } while (status != AWQ_OK);
    assert_true(n > 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(headers_are_judged),
        SCRATCH_TEST(header_lengths_are_judged),
        SCRATCH_TEST(other_kinds_of_file_are_named),
        SCRATCH_TEST(every_truncation_is_refused),
        SCRATCH_TEST(damage_never_gets_through_to_memory),
        SCRATCH_TEST(unaligned_tensors_are_copied),
        SCRATCH_TEST(failed_allocations_are_reported),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
