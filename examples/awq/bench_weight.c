/* What is measured: shapes and batch sizes as they are written, and weights to go with them. */
#include "bench.h"

#include <stdlib.h>

/* The layers of common language models as N x K.  On CUDA those that matter to larger GPUs, both ways round, and two that
 * others have published figures for. */
const char *bench_default_shapes(bool cuda)
{
    return cuda ? "4096x4096,14336x4096,4096x14336,8192x8192,8192x16384,28672x8192,7168x20480"
                : "4096x4096,4096x11008,4096x14336,14336x4096";
}

/* A whole number of at least 1; *text moves behind it. */
static bool read_number(const char **text, int64_t *number)
{
    char *end;
    const long long value = strtoll(*text, &end, 10);
    if (end == *text || value < 1 || value > INT32_MAX) return false;
    *number = value;
    *text = end;
    return true;
}

int bench_read_shapes(const char *text, struct bench_shape shapes[BENCH_SHAPES])
{
    for (int count = 0; count < BENCH_SHAPES; text++) {
        struct bench_shape *shape = &shapes[count++];
        if (!read_number(&text, &shape->n) || *text++ != 'x' || !read_number(&text, &shape->k)) return 0;
        if (*text != ',') return *text == 0 ? count : 0;
    }
    return 0;
}

int bench_read_batches(const char *text, int64_t batches[BENCH_BATCHES])
{
    for (int count = 0; count < BENCH_BATCHES; text++) {
        if (!read_number(&text, &batches[count++])) return 0;
        if (*text != ',') return *text == 0 ? count : 0;
    }
    return 0;
}

awq_status bench_random_weight(struct bench_problem *problem)
{
    const int64_t n = problem->shape.n, k = problem->shape.k;
    const int64_t group = problem->group_size < k ? problem->group_size : k, groups = (k + group - 1) / group;
    uint8_t *codes = malloc((size_t)(n * k)), *zeros = malloc((size_t)(n * groups));
    uint16_t *scales = malloc((size_t)(n * groups) * sizeof *scales);
    awq_status status = AWQ_ERROR_OUT_OF_MEMORY;
    if (codes && zeros && scales) {
        const uint8_t mask = (uint8_t)((1 << problem->bits) - 1);
        uint64_t draw = 1;
        for (int64_t i = 0; i < n * k; i++) {
            draw = draw * 6364136223846793005u + 1442695040888963407u;
            codes[i] = (uint8_t)(draw >> 56) & mask;
        }
        for (int64_t i = 0; i < n * groups; i++) {
            zeros[i] = (uint8_t)(i % (mask + 1));
            scales[i] = (uint16_t)(0x1400 + i % 1024); /* of FP16, [2^-10, 2^-9) */
        }
        awq_quantize_options options;
        awq_tensor codes_view, scales_view, zeros_view;
        awq_struct_init(&options, sizeof options);
        options.bits = problem->bits;
        options.group_size = problem->group_size;
        options.flags = problem->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
        awq_tensor_init_const_2d(&codes_view, codes, AWQ_U8, n, k);
        awq_tensor_init_const_2d(&scales_view, scales, AWQ_F16, n, groups);
        awq_tensor_init_const_2d(&zeros_view, zeros, AWQ_U8, n, groups);
        status = awq_weight_create(problem->context, &codes_view, &scales_view,
                                   problem->symmetric ? NULL : &zeros_view, &options, &problem->weight);
    }
    free(codes);
    free(zeros);
    free(scales);
    return status;
}
