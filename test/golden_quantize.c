/* Section 1: fake quantisation of a weight, in the dtype the peer ran in. */
#include "golden.h"

#include <string.h>

static int32_t find_profile(const char *peer)
{
    if (strcmp(peer, "AutoAWQ") == 0) return AWQ_PROFILE_AUTOAWQ;
    if (strcmp(peer, "llm-awq") == 0) return AWQ_PROFILE_LLM_AWQ;
    return -1;
}

static int32_t find_dtype(const char *name)
{
    if (strcmp(name, "fp32") == 0) return AWQ_F32;
    if (strcmp(name, "fp16") == 0) return AWQ_F16;
    return -1;
}

/* Symmetric codes as the peers write them: signed, around 0. */
static void make_signed(awq_tensor *codes, int64_t bits)
{
    uint8_t *code = codes->data;
    for (int64_t i = 0; i < codes->shape[0] * codes->shape[1]; i++) code[i] = (uint8_t)(code[i] - (1 << (bits - 1)));
    codes->dtype = AWQ_I8;
}

static void compare_weight(struct golden_case *test, const awq_weight *weight, int32_t dtype)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    if (!golden_ok(test, awq_weight_get_info(weight, &info), "awq_weight_get_info")) return;
    awq_tensor *codes = golden_matrix(test, AWQ_U8, info.n, info.k);
    awq_tensor *scales = golden_matrix(test, dtype, info.n, info.groups);
    awq_tensor *zeros = golden_matrix(test, AWQ_U8, info.n, info.groups);
    awq_tensor *dequantized = golden_matrix(test, dtype, info.n, info.k);
    if (!golden_ok(test, awq_weight_export(weight, codes, scales, zeros, NULL), "awq_weight_export")) return;
    if (!golden_ok(test, awq_weight_dequantize(weight, 0, dequantized), "awq_weight_dequantize")) return;
    if (info.flags & AWQ_QUANTIZE_SYMMETRIC) make_signed(codes, info.bits);
    golden_compare(test, "q", codes);
    golden_compare(test, "scales", scales);
    golden_compare(test, "zeros", zeros);
    golden_compare(test, "w_dq", dequantized);
    size_t elements = (size_t)(info.n * info.k);
    golden_compare_checksum(test, "q_sha256", codes->data, elements);
    golden_compare_checksum(test, "w_dq_plus_zero_sha256", dequantized->data, elements * awq_dtype_size(dtype));
}

void golden_pseudo_quantize(struct golden_case *test)
{
    int32_t dtype = find_dtype(golden_string(test, "dtype", ""));
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)golden_integer(test, "bits", 0);
    options.group_size = golden_integer(test, "group_size", 0);
    options.flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    options.profile = find_profile(golden_peer(test));
    options.scale_dtype = dtype;
    if (options.profile < 0 || dtype < 0) {
        golden_skip(test, "a peer or a dtype that no profile reproduces");
        return;
    }
    const awq_tensor *file = golden_input(test, "w");
    if (file == NULL) return;
    /* A weight stored narrower than the peer ran in was upcast exactly. */
    awq_tensor *w = golden_tensor(test, dtype, file->ndim, file->shape);
    awq_weight *weight = NULL;
    if (golden_ok(test, awq_tensor_copy(golden_context(test), file, w, NULL), "awq_tensor_copy") &&
        golden_ok(test, awq_quantize(golden_context(test), w, NULL, &options, &weight), "awq_quantize"))
        compare_weight(test, weight, dtype);
    awq_weight_destroy(weight);
}
