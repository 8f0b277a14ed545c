/* Where every number of a packed format lies, asked from the side of a reader: given an output and an input, which word
 * and which bits.  The formats' own code goes the other way, from words to outputs and inputs. */
#include "layouts.h"

/* What all readers need to know. */
struct weight_shape {
    int64_t n, k, group, groups;
    int32_t bits;
};

static uint32_t word(struct given *given, const char *name, int64_t row, int64_t column)
{
    const awq_tensor *plane = given_plane(given, name);
    assert_in_range(row, 0, plane->shape[0] - 1);
    assert_in_range(column, 0, plane->shape[1] - 1);
    return ((const uint32_t *)plane->data)[row * plane->shape[1] + column];
}

static float number(struct given *given, const char *name, int64_t row, int64_t column)
{
    const awq_tensor *plane = given_plane(given, name);
    float value;
    assert_in_range(row, 0, plane->shape[0] - 1);
    assert_in_range(column, 0, plane->shape[1] - 1);
    awqi_to_f32(plane->dtype,
                (const char *)plane->data + (size_t)(row * plane->shape[1] + column) * awq_dtype_size(plane->dtype),
                &value, 1);
    return value;
}

static uint32_t field(uint32_t bits_of, int bits, int64_t index)
{
    return bits_of >> (bits * index) & ((1u << bits) - 1);
}

/* The field of a word in which eight, or with 8 bits four, interleaved numbers put number 'i'. */
static int64_t interleaved(int bits, int64_t i)
{
    static const int of_4[8] = {0, 4, 1, 5, 2, 6, 3, 7}, of_8[4] = {0, 2, 1, 3};
    return bits == 4 ? of_4[i] : of_8[i];
}

/* ---- gemm */

static uint32_t gemm_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    const int64_t p = 32 / shape->bits;
    return field(word(given, "qweight", k, n / p), shape->bits, interleaved(shape->bits, n % p));
}

static uint32_t gemm_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    const int64_t p = 32 / shape->bits;
    return field(word(given, "qzeros", g, n / p), shape->bits, interleaved(shape->bits, n % p));
}

static float by_group_scale(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return number(given, "scales", g, n);
}

/* ---- gemv */

static uint32_t gemv_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    (void)shape;
    return field(word(given, "qweight", n, k / 8), 4, k % 8);
}

static uint32_t gemv_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return field(word(given, "qzeros", n, g / 8), 4, g % 8);
}

static float gemv_scale(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return number(given, "scales", n, g);
}

/* ---- gemv_fast: 4 outputs by 64 inputs are 128 bytes, 32 of them for each output */

static uint32_t fast_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    const awq_tensor *plane = given_plane(given, "qweight");
    const int64_t u = k % 32, block = n / 4 * (shape->k / 64) + k / 64;
    const int64_t place = 32 * block + 8 * (n % 4) + 4 * (k % 64 / 32) + u % 8 / 2;
    uint32_t value;
    memcpy(&value, (const uint32_t *)plane->data + place, sizeof value);
    return field(value, 4, 4 * (u % 2) + u / 8);
}

/* Division is exact enough to tell the integers 0 .. 15 apart. */
static uint32_t fast_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return (uint32_t)lrintf(-number(given, "qzeros", g, n) / number(given, "scales", g, n));
}

static uint32_t llm_awq_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return (uint32_t)lrintf(-number(given, "scaled_zeros", g, n) / number(given, "scales", g, n));
}

/* ---- marlin, and the blocks that this library makes of it */

struct fragment {
    int64_t tile, lane, element; /* of 16 outputs; of a warp; of the lane's eight */
};

static struct fragment find_fragment(int64_t n, int64_t k)
{
    const int64_t c = n % 16, kk = k % 16;
    return (struct fragment){n % 64 / 16, 4 * (c % 8) + kk % 8 / 2, 4 * (c / 8) + 2 * (kk / 8) + kk % 2};
}

static uint32_t fragment_field(struct given *given, int bits, int64_t row, int64_t column, int64_t element)
{
    if (bits == 4) return field(word(given, "qweight", row, column), 4, interleaved(4, element));
    return field(word(given, "qweight", row, 2 * column + element / 4), 8, interleaved(8, element % 4));
}

static uint32_t marlin_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    const struct fragment at = find_fragment(n, k);
    return fragment_field(given, shape->bits, k / 16, n / 64 * 128 + 4 * at.lane + at.tile, at.element);
}

static uint32_t marlin_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    const int64_t j = n % 64 / 8, a = n % 8; /* column a + 8 j */
    if (shape->bits == 4) return field(word(given, "qzeros", g, n / 64 * 8 + a), 4, interleaved(4, j));
    return field(word(given, "qzeros", g, n / 64 * 16 + 2 * a + j / 4), 8, interleaved(8, j % 4));
}

static float marlin_scale(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    static const int64_t columns[8] = {0, 1, 8, 9, 16, 17, 24, 25};
    for (int64_t i = 0; shape->groups == 1 && i < 4; i++)
        for (int64_t j = 0; j < 8; j++)
            if (2 * i + columns[j] == n % 32) return number(given, "scales", g, n / 32 * 32 + 8 * i + j);
    return number(given, "scales", g, n / 64 * 64 + 8 * (n % 8) + n % 64 / 8);
}

static uint32_t block_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    const struct fragment at = find_fragment(n, k);
    const int64_t in_block = (32 * at.tile + at.lane) * 4 + k % 64 / 16;
    return fragment_field(given, shape->bits, n / 64, k / 64 * 512 + in_block, at.element);
}

static float block_scale(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    (void)shape;
    return number(given, "scales", g, n / 64 * 64 + 8 * (n % 8) + n % 64 / 8);
}

/* ---- gptq */

static uint32_t from_stream(struct given *given, const char *name, bool down, int64_t line, int64_t bit, int bits)
{
    uint32_t value = 0;
    for (int i = 0; i < bits; i++) { /* bit by bit, since 3-bit numbers cross words */
        const int64_t at = (bit + i) / 32;
        const uint32_t from = down ? word(given, name, at, line) : word(given, name, line, at);
        value |= (from >> ((bit + i) % 32) & 1u) << i;
    }
    return value;
}

static uint32_t gptq_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    return from_stream(given, "qweight", true, n, k * shape->bits, shape->bits);
}

static uint32_t gptq_v1_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    return from_stream(given, "qzeros", false, g, n * shape->bits, shape->bits) + 1;
}

static uint32_t gptq_v2_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    return from_stream(given, "qzeros", false, g, n * shape->bits, shape->bits);
}

/* ---- cpu-stream: lines of 16 words */

static int64_t line_inputs(const struct weight_shape *shape)
{
    return shape->bits == 8 ? 4 : 8;
}

static int64_t group_lines(const struct weight_shape *shape, int64_t g)
{
    return g * (1 + awqi_ceil_div(shape->group, line_inputs(shape)));
}

static uint32_t stream_code(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k)
{
    const int64_t per_line = line_inputs(shape), width = 32 / per_line, within = k % shape->group;
    const int64_t line = group_lines(shape, k / shape->group) + 1 + within / per_line;
    const uint32_t value = word(given, "stream", n / 16, 16 * line + n % 16);
    const uint32_t half = within % 2 != 0 ? value >> 16 : value & 0xffffu;
    return half >> (width * (within % per_line / 2)) & ((1u << width) - 1);
}

static uint16_t stream_half(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g, int64_t from)
{
    const int64_t half = from + n % 16;
    return (uint16_t)(word(given, "stream", n / 16, 16 * group_lines(shape, g) + half / 2) >> (16 * (half % 2)));
}

static uint32_t stream_zero(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    return stream_half(given, shape, n, g, 16);
}

static float stream_scale(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g)
{
    return awqi_f16_to_f32(stream_half(given, shape, n, g, 0));
}

/* ---- all of them */

static const struct reader {
    int32_t layout;
    struct weight_shape shape;
    uint32_t (*code)(struct given *given, const struct weight_shape *shape, int64_t n, int64_t k);
    uint32_t (*zero)(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g);
    float (*scale)(struct given *given, const struct weight_shape *shape, int64_t n, int64_t g);
} readers[] = {
    {AWQ_LAYOUT_GEMM, {24, 96, 48, 2, 4}, gemm_code, gemm_zero, by_group_scale},
    {AWQ_LAYOUT_GEMM, {12, 50, 25, 2, 8}, gemm_code, gemm_zero, by_group_scale},
    {AWQ_LAYOUT_GEMV, {7, 320, 32, 10, 4}, gemv_code, gemv_zero, gemv_scale},
    {AWQ_LAYOUT_GEMV, {7, 256, 256, 1, 4}, gemv_code, gemv_zero, gemv_scale},
    {AWQ_LAYOUT_GEMV_FAST, {12, 640, 64, 10, 4}, fast_code, fast_zero, by_group_scale},
    {AWQ_LAYOUT_LLM_AWQ, {12, 640, 128, 5, 4}, fast_code, llm_awq_zero, by_group_scale},
    {AWQ_LAYOUT_MARLIN, {128, 96, 32, 3, 4}, marlin_code, marlin_zero, marlin_scale},
    {AWQ_LAYOUT_MARLIN, {64, 160, 160, 1, 4}, marlin_code, marlin_zero, marlin_scale},
    {AWQ_LAYOUT_MARLIN, {128, 96, 32, 3, 8}, marlin_code, marlin_zero, marlin_scale},
    {AWQ_LAYOUT_GPTQ_V1, {32, 96, 40, 3, 3}, gptq_code, gptq_v1_zero, by_group_scale},
    {AWQ_LAYOUT_GPTQ_V1, {24, 80, 16, 5, 4}, gptq_code, gptq_v1_zero, by_group_scale},
    {AWQ_LAYOUT_GPTQ_V2, {16, 48, 48, 1, 2}, gptq_code, gptq_v2_zero, by_group_scale},
    {AWQ_LAYOUT_GPTQ_V2, {12, 52, 13, 4, 8}, gptq_code, gptq_v2_zero, by_group_scale},
    {AWQ_LAYOUT_CUDA_BLOCK, {96, 352, 128, 3, 4}, block_code, marlin_zero, block_scale},
    {AWQ_LAYOUT_CUDA_BLOCK, {37, 173, 173, 1, 4}, block_code, marlin_zero, block_scale},
    {AWQ_LAYOUT_CUDA_BLOCK, {70, 200, 48, 5, 8}, block_code, marlin_zero, block_scale},
    {AWQ_LAYOUT_CPU_STREAM, {33, 320, 128, 3, 4}, stream_code, stream_zero, stream_scale},
    {AWQ_LAYOUT_CPU_STREAM, {5, 101, 13, 8, 4}, stream_code, stream_zero, stream_scale},
    {AWQ_LAYOUT_CPU_STREAM, {16, 1, 1, 1, 3}, stream_code, stream_zero, stream_scale},
    {AWQ_LAYOUT_CPU_STREAM, {19, 90, 26, 4, 8}, stream_code, stream_zero, stream_scale},
};

static void check_reader(const struct reader *reader, const awq_weight *weight, struct given *given)
{
    const struct weight_shape *shape = &reader->shape;
    for (int64_t n = 0; n < shape->n; n++) {
        for (int64_t k = 0; k < shape->k; k++) {
            uint8_t code;
            awqi_weight_get_codes(weight, n, k, 1, &code);
            assert_int_equal(reader->code(given, shape, n, k), code);
        }
        for (int64_t g = 0; g < shape->groups; g++) {
            assert_int_equal(reader->zero(given, shape, n, g), awqi_weight_zero(weight, n, g));
            assert_true(reader->scale(given, shape, n, g) == awqi_weight_scale(weight, n, g));
        }
    }
}

/* A weight whose zero points every format can hold. */
static awq_weight *make_weight(struct scratch *scratch, uint64_t *seed, const struct weight_shape *shape)
{
    awq_weight *weight = random_weight(scratch, seed, shape->n, shape->k, shape->group, shape->bits, AWQ_F16, false);
    for (int64_t i = 0; i < weight->n * weight->groups; i++) weight->zeros[i] |= 1;
    return weight;
}

static void test_readers_find_every_number(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 300;
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        awq_weight *weight = make_weight(scratch, &seed, &readers[i].shape);
        awq_packed *packed;
        assert_int_equal(weight->groups, readers[i].shape.groups);
        assert_status(awq_pack(scratch->context, weight, readers[i].layout, &packed), AWQ_OK);
        struct given given = open_packed(packed);
        check_reader(&readers[i], weight, &given);
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- padding */

/* Whatever x is there, what the blocks add to a weight multiplies it by 0. */
static void test_blocks_are_padded_with_zeros(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 301;
    for (size_t i = 0; i < sizeof readers / sizeof *readers; i++) {
        if (readers[i].layout != AWQ_LAYOUT_CUDA_BLOCK) continue;
        const struct weight_shape *shape = &readers[i].shape;
        awq_weight *weight = make_weight(scratch, &seed, shape);
        awq_packed *packed;
        assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_CUDA_BLOCK, &packed), AWQ_OK);
        struct given given = open_packed(packed);
        const int64_t n = given_plane(&given, "scales")->shape[1], groups = given_plane(&given, "scales")->shape[0];
        const int64_t k = given_plane(&given, "qweight")->shape[1] / (2 * shape->bits);
        assert_int_equal(n % 64, 0);
        assert_int_equal(k % 64, 0);
        assert_in_range(n - shape->n, 0, 63);
        if (groups > 1) assert_int_equal(k, groups * shape->group);
        for (int64_t row = 0; row < n; row++)
            for (int64_t column = row < shape->n ? shape->k : 0; column < k; column++) {
                const int64_t group = groups > 1 ? column / shape->group : 0;
                if (block_scale(&given, shape, row, group) == 0.0f) continue;
                assert_int_equal(block_code(&given, shape, row, column), marlin_zero(&given, shape, row, group));
            }
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* ---- the stream, as processors with the instructions it is made for go through it */

/* One line as products of pairs of BF16 take it: field i of all 32 halves at a time. */
static void add_pairs(const uint32_t *line, const float *x, float sums[16])
{
    for (int i = 0; i < 4; i++)
        for (int lane = 0; lane < 16; lane++)
            for (int half = 0; half < 2; half++)
                sums[lane] += (float)(line[lane] >> (16 * half) >> (4 * i) & 15u) * x[2 * i + half];
}

/* One line as products of four bytes take it: the low fields of all bytes, then the high ones left where they are, 16
 * times too large.  x comes in the order 0 4 1 5, then 2 6 3 7. */
static void add_quads(const uint32_t *line, const float *x, float sums[16])
{
    static const int order[2][4] = {{0, 4, 1, 5}, {2, 6, 3, 7}};
    for (int lane = 0; lane < 16; lane++) {
        const uint32_t low = line[lane] & 0x0f0f0f0fu, high = line[lane] & 0xf0f0f0f0u;
        for (int byte = 0; byte < 4; byte++) {
            sums[lane] += (float)(low >> (8 * byte) & 255u) * x[order[0][byte]];
            sums[lane] += (float)(high >> (8 * byte) & 255u) / 16.0f * x[order[1][byte]];
        }
    }
}

/* y of 16 outputs, from the stream alone: s (sum of q x - z sum of x) for each group. */
static void run_stream(const uint32_t *line, const struct weight_shape *shape, const float *x,
                       void (*add)(const uint32_t *line, const float *x, float sums[16]), double y[16])
{
    for (int64_t first = 0; first < shape->k; first += shape->group) {
        const uint32_t *header = line;
        const int64_t end = awqi_min64(first + shape->group, shape->k);
        float sums[16] = {0}, total = 0.0f;
        line += 16;
        for (int64_t k = first; k < end; k += 8, line += 16) {
            float part[8] = {0};
            for (int64_t i = 0; i < awqi_min64(8, end - k); i++) total += part[i] = x[k + i];
            add(line, part, sums);
        }
        for (int lane = 0; lane < 16; lane++) {
            const float scale = awqi_f16_to_f32((uint16_t)(header[lane / 2] >> (16 * (lane % 2))));
            const uint32_t zero = header[8 + lane / 2] >> (16 * (lane % 2)) & 0xffffu;
            y[lane] += (double)scale * (double)(sums[lane] - (float)zero * total);
        }
    }
}

/* With small integers for x all sums are exact, so the order of the terms must not matter. */
static void test_the_stream_multiplies(void **state)
{
    static const struct weight_shape shapes[] = {{32, 256, 128, 2, 4}, {16, 77, 20, 4, 4}, {16, 40, 40, 1, 2}};
    struct scratch *scratch = *state;
    uint64_t seed = 302;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const struct weight_shape *shape = &shapes[i];
        awq_weight *weight = make_weight(scratch, &seed, shape);
        awq_packed *packed;
        assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_CPU_STREAM, &packed), AWQ_OK);
        struct given given = open_packed(packed);
        const awq_tensor *stream = given_plane(&given, "stream");
        float x[256], w[32 * 256];
        for (int64_t k = 0; k < shape->k; k++) x[k] = (float)(random_bits(&seed) % 17) - 8.0f;
        awq_tensor out;
        awq_tensor_init_2d(&out, w, AWQ_F32, shape->n, shape->k);
        assert_status(awq_weight_dequantize(weight, 0, &out), AWQ_OK);
        for (int64_t block = 0; block < shape->n / 16; block++) {
            const uint32_t *lines = (const uint32_t *)stream->data + block * stream->shape[1];
            double pairs[16] = {0}, quads[16] = {0};
            run_stream(lines, shape, x, add_pairs, pairs);
            run_stream(lines, shape, x, add_quads, quads);
            for (int lane = 0; lane < 16; lane++) {
                double y = 0.0;
                for (int64_t k = 0; k < shape->k; k++)
                    y += (double)w[(16 * block + lane) * shape->k + k] * (double)x[k];
                assert_true(pairs[lane] == y);
                assert_true(quads[lane] == y);
            }
        }
        awq_packed_destroy(packed);
        awq_weight_destroy(weight);
    }
}

/* 64 bytes a line: 16 outputs of a group of 128 take 17 lines, 4.25 bits a weight. */
static void test_the_stream_is_small(void **state)
{
    struct scratch *scratch = *state;
    uint64_t seed = 303;
    awq_weight *weight = random_weight(scratch, &seed, 64, 1024, 128, 4, AWQ_F16, false);
    awq_packed *packed;
    assert_status(awq_pack(scratch->context, weight, AWQ_LAYOUT_CPU_STREAM, &packed), AWQ_OK);
    struct given given = open_packed(packed);
    const awq_tensor *stream = given_plane(&given, "stream");
    assert_int_equal(32 * awqi_tensor_elements(stream) * 4, 17 * 64 * 1024);
    assert_int_equal((uintptr_t)stream->data % 64, 0);
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SCRATCH_TEST(test_readers_find_every_number),
        SCRATCH_TEST(test_blocks_are_padded_with_zeros),
        SCRATCH_TEST(test_the_stream_multiplies),
        SCRATCH_TEST(test_the_stream_is_small),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
