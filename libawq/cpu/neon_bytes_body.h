/* Products of rows as signed bytes by a stream, for one instruction.  A file that includes this defines beforehand
 *
 *     TARGET    function attribute that selects the instruction set
 *     MATRIX    1 for USMMLA where there are two rows and codes of 4 bits, 0 for SDOT
 *
 * and uses FORM() and STRIPS().  SDOT adds the products of four codes of each of four outputs with four bytes of a row to
 * the outputs' sums; USMMLA multiplies eight codes of each of two outputs by eight bytes of each of two rows, once the low
 * and the high fields of an output have been put side by side.  Neither rounds. */

#define INLINE TARGET static inline __attribute__((always_inline))

/* All of these are constants once inlined. */
struct task {
    int rows, digits, quads, width; /* of 4 quads outputs of a block at once */
    bool paired;
};

enum { MOST_SUMS = 24 }; /* registers for sums; codes and bytes of rows take the other eight */

/* Where a row's pieces begin and how far they lie apart, and where its scales begin. */
static inline int64_t row_offset(const bool paired, int width, int64_t row, int64_t bytes)
{
    return paired ? row / 2 * 2 * bytes + row % 2 * (32 / width) : row * bytes;
}

static inline int64_t piece_step(const bool paired, int width)
{
    return (paired ? 2 : 1) * (32 / width);
}

static inline int64_t tail_offset(const bool paired, int64_t row, int64_t bytes, int64_t scales)
{
    return paired ? row / 2 * 2 * bytes + 2 * scales + row % 2 * (bytes - scales) : row * bytes + scales;
}

/* Sums of rows as this leaves them belong to one row each, digit by digit. */
INLINE void multiply_fours(const struct task t, const uint32_t *line, const int8_t *x, int64_t bytes,
                           int32x4_t sums[MOST_SUMS])
{
    UNROLL
    for (int quad = 0; quad < t.quads; quad++) {
        const uint8x16_t words = vreinterpretq_u8_u32(vld1q_u32(line + 4 * quad));
        /* The bytes of SDOT have signs: codes of 8 bits are taken less 128. */
        const int8x16_t low = vreinterpretq_s8_u8(t.width == 4 ? vandq_u8(words, vdupq_n_u8(15))
                                                               : veorq_u8(words, vdupq_n_u8(128)));
        const int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(words, 4));
        UNROLL
        for (int i = 0; i < t.rows * t.digits; i++) {
            const int8_t *piece = x + row_offset(t.paired, t.width, i / t.digits, bytes) +
                                  i % t.digits * piece_step(t.paired, t.width);
            int32x4_t *sum = &sums[i * t.quads + quad];
            if (t.width == 4) {
                const int8x8_t eight = vld1_s8(piece);
                *sum = vdotq_lane_s32(*sum, low, eight, 0);
                *sum = vdotq_lane_s32(*sum, high, eight, 1);
            } else {
                *sum = vdotq_s32(*sum, low, vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)piece)));
            }
        }
    }
}

#if MATRIX
/* The sums of the rows of a pair are those of outputs 0 and 1, then of 2 and 3, of both rows. */
INLINE void multiply_eights(const struct task t, const uint32_t *line, const int8_t *x, int64_t bytes,
                            int32x4_t sums[MOST_SUMS])
{
    UNROLL
    for (int quad = 0; quad < t.quads; quad++) {
        const uint8x16_t words = vreinterpretq_u8_u32(vld1q_u32(line + 4 * quad));
        const uint32x4_t low = vreinterpretq_u32_u8(vandq_u8(words, vdupq_n_u8(15)));
        const uint32x4_t high = vreinterpretq_u32_u8(vshrq_n_u8(words, 4));
        const uint8x16_t first = vreinterpretq_u8_u32(vzip1q_u32(low, high));
        const uint8x16_t second = vreinterpretq_u8_u32(vzip2q_u32(low, high));
        UNROLL
        for (int i = 0; i < t.rows / 2 * t.digits; i++) {
            const int pair = i / t.digits, d = i % t.digits;
            const int8_t *piece = x + 2 * pair * bytes + d * piece_step(t.paired, 4);
            const int8x16_t eights = t.paired ? vld1q_s8(piece) : vcombine_s8(vld1_s8(piece), vld1_s8(piece + bytes));
            int32x4_t *one = &sums[(2 * pair * t.digits + d) * t.quads + quad], *other = one + t.digits * t.quads;
            *one = vusmmlaq_s32(*one, first, eights);
            *other = vusmmlaq_s32(*other, second, eights);
        }
    }
}

/* Sums of pairs become sums of rows. */
INLINE void part_pairs(const struct task t, int32x4_t sums[MOST_SUMS])
{
    const int row = t.digits * t.quads;
    UNROLL
    for (int i = 0; i < t.rows / 2 * row; i++) {
        int32x4_t *one = &sums[i / row * 2 * row + i % row], *other = one + row;
        const int32x4_t first = *one, second = *other;
        *one = vuzp1q_s32(first, second);
        *other = vuzp2q_s32(first, second);
    }
}
#endif

/* totals[rows][quads] += b (sum of q i) of one block */
INLINE void add_block(const struct task t, const int32x4_t sums[MOST_SUMS], const int8_t *x, int64_t bytes, int64_t scales,
                      int64_t block, float32x4_t totals[MOST_SUMS])
{
    UNROLL
    for (int r = 0; r < t.rows; r++) {
        const float *scale = (const float *)(const void *)(x + tail_offset(t.paired, r, bytes, scales)) + block;
        UNROLL
        for (int quad = 0; quad < t.quads; quad++) {
            float32x4_t sum = vdupq_n_f32(0.0f);
            UNROLL
            for (int d = t.digits - 1; d >= 0; d--)
                sum = vfmaq_n_f32(vcvtq_f32_s32(sums[(r * t.digits + d) * t.quads + quad]), sum, 256.0f);
            totals[r * t.quads + quad] = vfmaq_n_f32(totals[r * t.quads + quad], sum, *scale);
        }
    }
}

/* 'lines' lines of a block and the pieces at 'pieces', which lie in the rows at 'x'. */
INLINE void multiply_block_lines(const struct task t, const uint32_t *line, int64_t lines, const int8_t *pieces,
                                 int64_t bytes, int32x4_t sums[MOST_SUMS])
{
    UNROLL
    for (int i = 0; i < t.rows * t.digits * t.quads; i++) sums[i] = vdupq_n_s32(0);
    for (; lines > 0; lines--, line += AWQI_STREAM_OUTPUTS, pieces += t.digits * piece_step(t.paired, t.width)) {
#if MATRIX
        if (t.width == 4 && t.rows > 1) {
            multiply_eights(t, line, pieces, bytes, sums);
            continue;
        }
#endif
        multiply_fours(t, line, pieces, bytes, sums);
    }
#if MATRIX
    if (t.width == 4 && t.rows > 1) part_pairs(t, sums);
#endif
}

/* A group: out += s (sum of q x - z sum of x). */
INLINE void multiply_group(const struct task t, const struct awqi_digits *form, const struct awqi_stream_shape *shape,
                           int64_t group, const uint32_t *header, int first, const int8_t *x, float *out)
{
    const int64_t line_bytes = t.digits * piece_step(t.paired, t.width), block_lines = form->block_inputs * t.width / 32;
    const int8_t *pieces = x + group * shape->group_lines * line_bytes;
    const uint32_t *line = header + shape->header_words + 4 * first;
    int64_t block = group * form->group_blocks;
    float32x4_t totals[MOST_SUMS];
    UNROLL
    for (int i = 0; i < t.rows * t.quads; i++) totals[i] = vdupq_n_f32(0.0f);
    for (int64_t lines = awqi_stream_group_lines(shape, group); lines > 0; lines -= block_lines, block++) {
        int32x4_t sums[MOST_SUMS];
        multiply_block_lines(t, line, awqi_min64(lines, block_lines), pieces, form->bytes, sums);
        add_block(t, sums, x, form->bytes, form->scales, block, totals);
        line += block_lines * AWQI_STREAM_OUTPUTS;
        pieces += block_lines * line_bytes;
    }
    UNROLL
    for (int quad = 0; quad < t.quads; quad++) {
        float32x4_t scales, zeros;
        awqi_neon_header(shape, header, first + quad, &scales, &zeros);
        if (t.width == 8) zeros = vsubq_f32(zeros, vdupq_n_f32(128.0f));
        UNROLL
        for (int r = 0; r < t.rows; r++) {
            const int64_t tail = tail_offset(t.paired, r, form->bytes, form->scales) + form->sums - form->scales;
            const float x_sum = ((const float *)(const void *)(x + tail))[group];
            float *p = out + r * AWQI_PANEL + 4 * (first + quad);
            vst1q_f32(p, vfmaq_f32(vld1q_f32(p), vfmsq_n_f32(totals[r * t.quads + quad], zeros, x_sum), scales));
        }
    }
}

/* A block of 16 outputs, as many at a time as there are registers for their sums, and with one digit, whose blocks are
 * short, also for their totals. */
INLINE void multiply_block(const int rows, const int digits, const int width, const bool paired,
                           const struct awqi_stream *w, const uint32_t *header, const unsigned char *row, float *out)
{
    const int most = digits == 1 ? MOST_SUMS / 2 : MOST_SUMS, fit = most / (rows * digits);
    const struct task t = {rows, digits, fit >= 4 ? 4 : fit >= 2 ? 2 : 1, width, paired && rows > 1};
    const struct awqi_digits form = awqi_neon_form(w, digits);
    UNROLL
    for (int r = 0; r < rows; r++) memset(out + r * AWQI_PANEL, 0, AWQI_STREAM_OUTPUTS * sizeof *out);
    for (int64_t group = 0; group < w->shape.groups; group++, header += w->shape.group_words)
        for (int first = 0; first < AWQI_NEON_QUADS; first += t.quads)
            multiply_group(t, &form, &w->shape, group, header, first, (const int8_t *)row, out);
}

#define KERNEL(name, rows, digits, width, paired)                                                                      \
    TARGET static void name##_##rows##_##width(const struct awqi_stream *w, const uint32_t *block,                     \
                                               const unsigned char *row, float *out)                                   \
    {                                                                                                                  \
        multiply_block(rows, digits, width, paired, w, block, row, out);                                               \
    }

/* name##_row_bytes() and name##_run() */
#define FORM(name, digits, paired)                                                                                     \
    KERNEL(name, 1, digits, 4, paired)                                                                                 \
    KERNEL(name, 2, digits, 4, paired)                                                                                 \
    KERNEL(name, 4, digits, 4, paired)                                                                                 \
    KERNEL(name, 8, digits, 4, paired)                                                                                 \
    KERNEL(name, 1, digits, 8, paired)                                                                                 \
    KERNEL(name, 2, digits, 8, paired)                                                                                 \
    KERNEL(name, 4, digits, 8, paired)                                                                                 \
    KERNEL(name, 8, digits, 8, paired)                                                                                 \
    static int64_t name##_row_bytes(const struct awqi_stream *w)                                                       \
    {                                                                                                                  \
        return awqi_neon_form(w, digits).bytes;                                                                        \
    }                                                                                                                  \
    static void name##_run(const struct awqi_stream *w, int64_t panel, const void *rows, int64_t count, float *out)    \
    {                                                                                                                  \
        static awqi_gemv_block *const kernels[2][4] = {                                                                \
            {name##_1_4, name##_2_4, name##_4_4, name##_8_4},                                                          \
            {name##_1_8, name##_2_8, name##_4_8, name##_8_8},                                                          \
        };                                                                                                             \
        awqi_run_blocks(w, panel, rows, name##_row_bytes(w), count, kernels[w->shape.width == 8], out);                \
    }

/* name##_prepare() of one row by itself */
#define ROW(name, digits)                                                                                              \
    static void name##_prepare(const struct awqi_stream *w, const float *x, void *row)                                 \
    {                                                                                                                  \
        unsigned char *bytes = row;                                                                                    \
        awqi_neon_prepare_bytes(w, digits, x, piece_step(false, w->shape.width), row,                                  \
                                (float *)(void *)(bytes + awqi_neon_form(w, digits).scales));                          \
    }

/* name##_prepare() of a row of a strip, whose last row is by itself when their number is odd */
#define STRIP(name, digits, pairs)                                                                                     \
    static void name##_prepare(const struct awqi_stream *w, const float *x, int64_t row, int64_t rows, void *strip)    \
    {                                                                                                                  \
        const struct awqi_digits form = awqi_neon_form(w, digits);                                                  \
        const bool paired = (pairs) && (row + 1 < rows || rows % 2 == 0);                                              \
        unsigned char *bytes = strip;                                                                                  \
        awqi_neon_prepare_bytes(w, digits, x, piece_step(paired, w->shape.width),                                      \
                                (int8_t *)bytes + row_offset(paired, w->shape.width, row, form.bytes),                 \
                                (float *)(void *)(bytes + tail_offset(paired, row, form.bytes, form.scales)));         \
    }
