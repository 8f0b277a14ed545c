/* What a decoder model needs, computed from its shape alone. */
#include "internal.h"

/* Sizes saturate at UINT64_MAX, so that one check at the end catches every overflow on the way. */
static uint64_t times(uint64_t a, uint64_t b)
{
    uint64_t product;
    return __builtin_mul_overflow(a, b, &product) ? UINT64_MAX : product;
}

static uint64_t plus(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

static uint64_t bits_to_bytes(uint64_t bits)
{
    return bits == UINT64_MAX ? bits : bits / 8 + (bits % 8 != 0);
}

enum { HALF = 2, SINGLE = 4 }; /* bytes of FP16 and FP32 */

/* Bytes of linears of one kind. */
struct linears {
    uint64_t weights, codes, scales, zeros;
};

static void add_linear(const awq_memory_request *request, uint64_t count, uint64_t n, uint64_t k, struct linears *sum)
{
    uint64_t weights = times(count, times(n, k));
    sum->weights = plus(sum->weights, weights);
    if (request->bits == 16) {
        sum->codes = plus(sum->codes, times(weights, HALF));
        return;
    }
    uint64_t group = request->group_size == AWQ_GROUP_PER_ROW ? k : (uint64_t)request->group_size;
    uint64_t groups = k / group + (k % group != 0), bits = (uint64_t)request->bits;
    sum->codes = plus(sum->codes, times(times(count, n), bits_to_bytes(times(k, bits))));
    sum->scales = plus(sum->scales, times(times(count, n), times(groups, HALF)));
    if (!(request->quantize_flags & AWQ_QUANTIZE_SYMMETRIC))
        sum->zeros = plus(sum->zeros, times(times(count, groups), bits_to_bytes(times(n, bits))));
}

/* The linears of one block. */
static struct linears block_linears(const awq_memory_request *request)
{
    struct linears sum = {0};
    uint64_t hidden = (uint64_t)request->hidden, intermediate = (uint64_t)request->intermediate;
    uint64_t query = times((uint64_t)request->heads, (uint64_t)request->head_dim);
    uint64_t key = times((uint64_t)request->kv_heads, (uint64_t)request->head_dim);
    uint64_t experts = (uint64_t)request->experts;
    add_linear(request, 1, query, hidden, &sum);
    add_linear(request, 2, key, hidden, &sum);
    add_linear(request, 1, hidden, query, &sum);
    add_linear(request, times(experts, request->flags & AWQ_MODEL_GATED_MLP ? 2 : 1), intermediate, hidden, &sum);
    add_linear(request, experts, hidden, intermediate, &sum);
    return sum;
}

/* Embeddings, head, two norms a block and one at the end, and a router where there are experts. */
static uint64_t dense_bytes(const awq_memory_request *request)
{
    uint64_t hidden = (uint64_t)request->hidden, layers = (uint64_t)request->layers;
    uint64_t tables = request->flags & AWQ_MODEL_TIED_HEAD ? 1 : 2;
    uint64_t vectors = plus(times(tables, (uint64_t)request->vocabulary), plus(times(2, layers), 1));
    if (request->experts > 1) vectors = plus(vectors, times(layers, (uint64_t)request->experts));
    return times(times(vectors, hidden), HALF);
}

/* FP32 values that live at once for one token on its way through a block: the residual stream and its normalised copy,
 * queries, keys, values and attention's output, and the widest point of one MLP. */
static uint64_t values_per_token(const awq_memory_request *request)
{
    uint64_t heads = plus(times(2, (uint64_t)request->heads), times(2, (uint64_t)request->kv_heads));
    uint64_t wide = times(request->flags & AWQ_MODEL_GATED_MLP ? 2 : 1, (uint64_t)request->intermediate);
    return plus(times(2, (uint64_t)request->hidden), plus(times(heads, (uint64_t)request->head_dim), wide));
}

/* A decoding step also has one score per head and position, and the logits. */
static uint64_t decoding_bytes(const awq_memory_request *request)
{
    uint64_t scores = times((uint64_t)request->heads, (uint64_t)request->context_tokens);
    uint64_t values = plus(values_per_token(request), plus(scores, (uint64_t)request->vocabulary));
    return times(times((uint64_t)request->batch, values), SINGLE);
}

static uint64_t kv_cache_bytes(const awq_memory_request *request)
{
    uint64_t per_position = times(times((uint64_t)request->kv_heads, (uint64_t)request->head_dim),
                                  times(2, (uint64_t)request->kv_element_bytes));
    uint64_t positions = times((uint64_t)request->batch, (uint64_t)request->context_tokens);
    return times(times(positions, (uint64_t)request->layers), per_position);
}

/* One block at a time: its weights as read, in FP32 as the block runs them and as the candidate that is being tried,
 * its codes; the block's input for every calibration token; the values above for those that run through it together. */
static uint64_t quantize_bytes(const awq_memory_request *request, const struct linears *block)
{
    enum { CHUNK = 2048 }; /* tokens at once, as a program that bounds its memory would do it */
    uint64_t tokens = (uint64_t)request->calibration_tokens, together = tokens < CHUNK ? tokens : CHUNK;
    uint64_t weights = times(block->weights, HALF + SINGLE + SINGLE);
    uint64_t codes = request->bits == 16 ? 0 : plus(block->codes, plus(block->scales, block->zeros));
    uint64_t values = plus(times(tokens, (uint64_t)request->hidden), times(together, values_per_token(request)));
    return plus(weights, plus(codes, times(values, SINGLE)));
}

static awq_status check_counts(const awq_memory_request *request)
{
    const struct {
        const char *name;
        int64_t value, least;
    } counts[] = {
        {"layers", request->layers, 1},
        {"hidden", request->hidden, 1},
        {"intermediate", request->intermediate, 1},
        {"heads", request->heads, 1},
        {"kv_heads", request->kv_heads, 1},
        {"head_dim", request->head_dim, 1},
        {"vocabulary", request->vocabulary, 1},
        {"experts", request->experts, 1},
        {"batch", request->batch, 1},
        {"kv_element_bytes", request->kv_element_bytes, 1},
        {"context_tokens", request->context_tokens, 0},
        {"calibration_tokens", request->calibration_tokens, 0},
    };
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].value < counts[i].least)
            return awqi_fail(AWQ_ERROR_INVALID, "awq_memory_request: %s is %lld", counts[i].name,
                             (long long)counts[i].value);
    return AWQ_OK;
}

/* Zero means the default, as the header says; what remains must make sense. */
static awq_status resolve(awq_memory_request *request)
{
    if (request->experts == 0) request->experts = 1;
    if (request->bits == 0) request->bits = 4;
    if (request->group_size == 0) request->group_size = 128;
    if (request->batch == 0) request->batch = 1;
    if (request->kv_element_bytes == 0) request->kv_element_bytes = HALF;
    awq_status status =
        awqi_check_flags(request->flags, AWQ_MODEL_TIED_HEAD | AWQ_MODEL_GATED_MLP, "awq_memory_request: flags");
    if (status == AWQ_OK)
        status =
            awqi_check_flags(request->quantize_flags, AWQ_QUANTIZE_SYMMETRIC, "awq_memory_request: quantize_flags");
    if (status == AWQ_OK) status = check_counts(request);
    if (status != AWQ_OK) return status;
    int32_t bits = request->bits;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 8 && bits != 16)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_memory_request: %d bits; 2, 3, 4, 8 or 16 are possible", bits);
    if (request->group_size < AWQ_GROUP_PER_ROW)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_memory_request: group_size %lld", (long long)request->group_size);
    return AWQ_OK;
}

awq_status awq_memory_estimate(const awq_memory_request *given, awq_memory_estimate_result *result)
{
    if (given == NULL || result == NULL)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_memory_estimate: %s is NULL", given == NULL ? "request" : "result");
    awq_memory_request request;
    awq_status status = awqi_import(&request, sizeof request, given, "awq_memory_request");
    if (status == AWQ_OK) status = resolve(&request);
    if (status != AWQ_OK) return status;

    struct linears block = block_linears(&request);
    uint64_t layers = (uint64_t)request.layers;
    awq_memory_estimate_result known = {
        .codes_bytes = times(layers, block.codes),
        .scales_bytes = times(layers, block.scales),
        .zeros_bytes = times(layers, block.zeros),
        .dense_bytes = dense_bytes(&request),
        .kv_cache_bytes = kv_cache_bytes(&request),
        .activation_bytes = decoding_bytes(&request),
        .quantize_bytes = quantize_bytes(&request, &block),
    };
    uint64_t weights = plus(plus(known.codes_bytes, known.scales_bytes), plus(known.zeros_bytes, known.dense_bytes));
    known.inference_bytes = plus(weights, plus(known.kv_cache_bytes, known.activation_bytes));
    if (known.inference_bytes == UINT64_MAX || known.quantize_bytes == UINT64_MAX)
        return awqi_fail(AWQ_ERROR_INVALID, "awq_memory_request: a model of this shape exceeds 64 bits of bytes");
    return awqi_export(result, &known, sizeof known, "awq_memory_estimate_result");
}
