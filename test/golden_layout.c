/* Sections 2 and 3: packed formats, what they dequantise to, and products with that. */
#include "golden.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_PLANES = 8 };

/* Which of our formats a peer's function writes or reads: the first entry of which both beginnings fit. */
static int32_t find_layout(const struct golden_case *test)
{
    static const struct {
        const char *peer, *function;
        int32_t layout;
    } known[] = {
        {"AutoAWQ", "WQLinear_GEMM", AWQ_LAYOUT_GEMM},
        {"AutoAWQ", "dequantize_gemm", AWQ_LAYOUT_GEMM},
        {"AutoAWQ", "WQLinear_GEMVFast", AWQ_LAYOUT_GEMV_FAST},
        {"AutoAWQ", "WQLinear_GEMV", AWQ_LAYOUT_GEMV},
        {"AutoAWQ", "WQLinear_Marlin", AWQ_LAYOUT_MARLIN},
        {"llm-awq", "WQLinear", AWQ_LAYOUT_LLM_AWQ},
        {"derived", "fma", AWQ_LAYOUT_LLM_AWQ},
        {"vLLM", "marlin", AWQ_LAYOUT_MARLIN},
        {"IST-DASLab marlin", "", AWQ_LAYOUT_MARLIN},
        {"compressed-tensors (2025", "", AWQ_LAYOUT_COMPRESSED_TENSORS_2025},
        {"compressed-tensors", "", AWQ_LAYOUT_COMPRESSED_TENSORS},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(golden_peer(test), known[i].peer, strlen(known[i].peer)) == 0 &&
            strstr(golden_function(test), known[i].function) != NULL)
            return known[i].layout;
    return 0;
}

/* The format of the case, or 0 after skipping it. */
static int32_t require_layout(struct golden_case *test)
{
    int32_t layout = find_layout(test);
    if (layout == 0) golden_skip(test, "a packed format that libawq has no name for");
    return layout;
}

static awq_unpack_options unpack_options(const struct golden_case *test)
{
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)golden_integer(test, "bits", 0);
    options.group_size = golden_integer(test, "group_size", 0);
    options.flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    return options;
}

/* A file of the case, and the plane that it is. */
struct named_plane {
    const char *file, *plane;
};

/* The weight in those of the input files that the case has; NULL after a failure. */
static awq_weight *unpack_inputs(struct golden_case *test, int32_t layout, const struct named_plane *inputs)
{
    const char *names[MAX_PLANES];
    const awq_tensor *planes[MAX_PLANES];
    size_t count = 0;
    for (; inputs->file != NULL; inputs++) {
        if (!golden_has_input(test, inputs->file)) continue;
        names[count] = inputs->plane;
        planes[count] = golden_input(test, inputs->file);
        if (planes[count++] == NULL) return NULL;
    }
    int64_t shape[2] = {golden_integer(test, "N", 0), golden_integer(test, "K", 0)};
    awq_tensor shape_plane;
    awq_tensor_init_1d(&shape_plane, shape, AWQ_I64, 2);
    if (layout == AWQ_LAYOUT_COMPRESSED_TENSORS || layout == AWQ_LAYOUT_COMPRESSED_TENSORS_2025) {
        names[count] = "weight_shape";
        planes[count++] = &shape_plane;
    }
    const awq_unpack_options options = unpack_options(test);
    awq_weight *weight = NULL;
    golden_ok(test, awq_unpack(golden_context(test), layout, count, names, planes, &options, &weight), "awq_unpack");
    return weight;
}

/* ---- section 2 */

/* Integers of the case as unsigned codes: signed ones are stored plus 2^(bits-1). */
static const awq_tensor *read_codes(struct golden_case *test, const char *plain, const char *with_sign)
{
    if (golden_has_input(test, plain)) return golden_input(test, plain);
    const awq_tensor *read = golden_has_input(test, with_sign) ? golden_input(test, with_sign) : NULL;
    if (read == NULL) return NULL;
    int64_t elements = read->shape[0] * read->shape[1];
    awq_tensor *codes = golden_tensor(test, AWQ_U8, read->ndim, read->shape);
    for (int64_t i = 0; i < elements; i++)
        ((uint8_t *)codes->data)[i] = (uint8_t)((int)npy_value(read, i) + (1 << (golden_integer(test, "bits", 4) - 1)));
    return codes;
}

/* The scales of the case, in the dtype of the peer's weight; ones when it is about integers only. */
static const awq_tensor *read_scales(struct golden_case *test, const awq_tensor *codes)
{
    const awq_tensor *scales = golden_has_input(test, "scales") ? golden_input(test, "scales") : NULL;
    if (scales != NULL && strcmp(golden_string(test, "dtype", ""), "fp32") == 0) {
        awq_tensor *wide = golden_matrix(test, AWQ_F32, scales->shape[0], scales->shape[1]);
        return golden_ok(test, awq_tensor_copy(golden_context(test), scales, wide, NULL), "awq_tensor_copy") ? wide
                                                                                                             : NULL;
    }
    if (golden_has_input(test, "scales")) return scales;
    int64_t group = golden_integer(test, "group_size", 0);
    int64_t groups = group > 0 ? (codes->shape[1] + group - 1) / group : 1;
    awq_tensor *ones = golden_matrix(test, AWQ_F16, codes->shape[0], groups);
    for (int64_t i = 0; i < codes->shape[0] * groups; i++) ((uint16_t *)ones->data)[i] = 0x3c00;
    return ones;
}

/* The weight that the peer packed: read from another format, quantised from "w" the way AutoAWQ does it, or put
 * together from integers. */
static awq_weight *make_weight(struct golden_case *test)
{
    static const struct named_plane gemm[] = {
        {"awq_qweight", "qweight"},
        {"awq_qzeros", "qzeros"},
        {"awq_scales", "scales"},
        {NULL, NULL},
    };
    if (golden_has_input(test, "awq_qweight")) return unpack_inputs(test, AWQ_LAYOUT_GEMM, gemm);
    awq_weight *weight = NULL;
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)golden_integer(test, "bits", 0);
    options.group_size = golden_integer(test, "group_size", 0);
    options.flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    if (golden_has_input(test, "w")) {
        const awq_tensor *w = golden_input(test, "w");
        options.profile = AWQ_PROFILE_AUTOAWQ;
        if (w != NULL) golden_ok(test, awq_quantize(golden_context(test), w, NULL, &options, &weight), "awq_quantize");
        return weight;
    }
    const awq_tensor *codes = read_codes(test, "q", "value");
    if (codes == NULL) {
        golden_fail(test, "no integers to pack");
        return NULL;
    }
    const awq_tensor *scales = read_scales(test, codes);
    const awq_tensor *zeros = golden_flag(test, "symmetric") ? NULL : read_codes(test, "zeros", "zero_point");
    if (scales != NULL)
        golden_ok(test, awq_weight_create(golden_context(test), codes, scales, zeros, &options, &weight),
                  "awq_weight_create");
    return weight;
}

/* Values, and what a reader of the format sees besides them. */
static void compare_plane(struct golden_case *test, const char *name, const awq_tensor *plane)
{
    if (!golden_has_output(test, name)) return;
    const awq_tensor *expected = golden_expected(test, name);
    if (expected == NULL) return;
    if (plane->dtype != expected->dtype || plane->ndim != expected->ndim)
        golden_fail(test, "%s: %s of %d dimensions, expected %s of %d", name, awq_dtype_name(plane->dtype), plane->ndim,
                    awq_dtype_name(expected->dtype), expected->ndim);
    golden_compare(test, name, plane);
}

static void compare_weights(struct golden_case *test, const awq_weight *actual, const awq_weight *expected)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    if (!golden_ok(test, awq_weight_get_info(expected, &info), "awq_weight_get_info")) return;
    awq_tensor *codes[2], *scales[2], *zeros[2];
    for (int i = 0; i < 2; i++) {
        codes[i] = golden_matrix(test, AWQ_U8, info.n, info.k);
        scales[i] = golden_matrix(test, AWQ_F32, info.n, info.groups);
        zeros[i] = golden_matrix(test, AWQ_U8, info.n, info.groups);
        awq_status status = awq_weight_export(i == 0 ? actual : expected, codes[i], scales[i], zeros[i], NULL);
        if (!golden_ok(test, status, "awq_weight_export")) return;
    }
    size_t groups = (size_t)(info.n * info.groups);
    if (memcmp(codes[0]->data, codes[1]->data, (size_t)(info.n * info.k)) != 0 ||
        memcmp(scales[0]->data, scales[1]->data, groups * sizeof(float)) != 0 ||
        memcmp(zeros[0]->data, zeros[1]->data, groups) != 0)
        golden_fail(test, "unpacking gives another weight than was packed");
}

static void unpack_again(struct golden_case *test, int32_t layout, const awq_packed *packed, const awq_weight *weight)
{
    const char *names[MAX_PLANES];
    awq_tensor planes[MAX_PLANES];
    const awq_tensor *pointers[MAX_PLANES];
    size_t count = awq_packed_plane_count(packed);
    for (size_t i = 0; i < count; i++) {
        pointers[i] = &planes[i];
        if (!golden_ok(test, awq_packed_get_plane(packed, i, &names[i], &planes[i]), "awq_packed_get_plane")) return;
    }
    const awq_unpack_options options = unpack_options(test);
    awq_weight *unpacked = NULL;
    if (golden_ok(test, awq_unpack(golden_context(test), layout, count, names, pointers, &options, &unpacked),
                  "awq_unpack"))
        compare_weights(test, unpacked, weight);
    awq_weight_destroy(unpacked);
}

static void compare_planes(struct golden_case *test, const awq_packed *packed)
{
    static const struct named_plane spelled_otherwise[] = {{"B", "qweight"}, {"s", "scales"}}; /* by IST-DASLab */
    for (size_t i = 0; i < awq_packed_plane_count(packed); i++) {
        const char *name;
        awq_tensor plane;
        if (!golden_ok(test, awq_packed_get_plane(packed, i, &name, &plane), "awq_packed_get_plane")) return;
        compare_plane(test, name, &plane);
        for (size_t j = 0; j < sizeof spelled_otherwise / sizeof *spelled_otherwise; j++)
            if (strcmp(spelled_otherwise[j].plane, name) == 0) compare_plane(test, spelled_otherwise[j].file, &plane);
    }
}

/* Compare plane 'name' of another format of the weight with an output, if the case has that. */
static void compare_other_format(struct golden_case *test, const awq_weight *weight, int32_t layout, const char *name,
                                 const char *output)
{
    awq_packed *packed;
    if (!golden_has_output(test, output)) return;
    if (!golden_ok(test, awq_pack(golden_context(test), weight, layout, &packed), "awq_pack")) return;
    for (size_t i = 0; i < awq_packed_plane_count(packed); i++) {
        const char *plane_name;
        awq_tensor plane;
        if (!golden_ok(test, awq_packed_get_plane(packed, i, &plane_name, &plane), "awq_packed_get_plane")) break;
        if (strcmp(plane_name, name) == 0) compare_plane(test, output, &plane);
    }
    awq_packed_destroy(packed);
}

static void compare_bias(struct golden_case *test, int32_t layout)
{
    if (!golden_has_output(test, "bias")) return;
    const awq_tensor *bias = golden_input(test, "bias");
    if (bias == NULL) return;
    awq_tensor *packed = golden_tensor(test, bias->dtype, 1, bias->shape);
    awq_tensor *again = golden_tensor(test, bias->dtype, 1, bias->shape);
    if (golden_ok(test, awq_pack_bias(layout, bias, packed), "awq_pack_bias")) compare_plane(test, "bias", packed);
    if (golden_ok(test, awq_unpack_bias(layout, packed, again), "awq_unpack_bias") &&
        memcmp(again->data, bias->data, (size_t)bias->shape[0] * awq_dtype_size(bias->dtype)) != 0)
        golden_fail(test, "unpacking gives another bias than was packed");
}

void golden_layout(struct golden_case *test)
{
    int32_t layout = require_layout(test);
    awq_weight *weight = layout != 0 ? make_weight(test) : NULL;
    awq_packed *packed = NULL;
    if (weight != NULL && golden_ok(test, awq_pack(golden_context(test), weight, layout, &packed), "awq_pack")) {
        compare_planes(test, packed);
        compare_other_format(test, weight, AWQ_LAYOUT_GEMM, "qweight", "awq_qweight");
        compare_other_format(test, weight, AWQ_LAYOUT_GEMM, "qzeros", "awq_qzeros");
        compare_other_format(test, weight, AWQ_LAYOUT_GEMV_FAST, "qzeros", "gemvfast_qzeros");
        compare_bias(test, layout);
        unpack_again(test, layout, packed, weight);
    }
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

/* ---- section 3 */

static awq_weight *read_weight(struct golden_case *test, int32_t layout)
{
    static const struct named_plane planes[] = {
        {"qweight", "qweight"},
        {"qzeros", "qzeros"},
        {"scales", "scales"},
        {"scaled_zeros", "scaled_zeros"},
        {"weight_packed", "weight_packed"},
        {"weight_scale", "weight_scale"},
        {"weight_zero_point", "weight_zero_point"},
        {NULL, NULL},
    };
    return unpack_inputs(test, layout, planes);
}

/* w[N][K] = q s + zero, rounded once to F16, where 'zero' is -(s z) rounded to F16 before.  F32 holds the sum exactly.
 */
static bool add_scaled_zeros(struct golden_case *test, const awq_weight *weight, const awq_weight_info *info,
                             awq_tensor *w)
{
    awq_tensor *codes = golden_matrix(test, AWQ_U8, info->n, info->k);
    awq_tensor *sums = golden_matrix(test, AWQ_F32, info->n, info->k);
    awq_tensor *scales = golden_matrix(test, AWQ_F32, info->n, info->groups);
    awq_tensor *zeros = golden_matrix(test, AWQ_U8, info->n, info->groups);
    awq_tensor *products = golden_matrix(test, AWQ_F32, info->n, info->groups);
    awq_tensor *rounded = golden_matrix(test, AWQ_F16, info->n, info->groups);
    if (!golden_ok(test, awq_weight_export(weight, codes, scales, zeros, NULL), "awq_weight_export")) return false;
    for (int64_t i = 0; i < info->n * info->groups; i++)
        ((float *)products->data)[i] = (float)(-npy_value(scales, i) * npy_value(zeros, i));
    if (!golden_ok(test, awq_tensor_copy(golden_context(test), products, rounded, NULL), "awq_tensor_copy"))
        return false;
    for (int64_t i = 0; i < info->n * info->k; i++) {
        const int64_t group = i / info->k * info->groups + i % info->k / info->group_size;
        ((float *)sums->data)[i] = (float)(npy_value(codes, i) * npy_value(scales, group) + npy_value(rounded, group));
    }
    return golden_ok(test, awq_tensor_copy(golden_context(test), sums, w, NULL), "awq_tensor_copy");
}

/* W[N][K] in F16 as the peer's kernels see it, or NULL after a failure. */
static const awq_tensor *dequantize(struct golden_case *test, int32_t layout, const awq_weight *weight)
{
    awq_weight_info info;
    awq_struct_init(&info, sizeof info);
    if (!golden_ok(test, awq_weight_get_info(weight, &info), "awq_weight_get_info")) return NULL;
    awq_tensor *w = golden_matrix(test, AWQ_F16, info.n, info.k);
    if (layout == AWQ_LAYOUT_LLM_AWQ) return add_scaled_zeros(test, weight, &info, w) ? w : NULL;
    return golden_ok(test, awq_weight_dequantize(weight, 0, w), "awq_weight_dequantize") ? w : NULL;
}

static awq_tensor *transpose(struct golden_case *test, const awq_tensor *matrix)
{
    int64_t rows = matrix->shape[0], columns = matrix->shape[1];
    awq_tensor *turned = golden_matrix(test, AWQ_F16, columns, rows);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            ((uint16_t *)turned->data)[j * rows + i] = ((const uint16_t *)matrix->data)[i * columns + j];
    return turned;
}

/* One product to judge: y[rows][N] against output 'name'. */
struct product {
    const char *name;
    const awq_tensor *w;    /* F16 [N][K], as the peer dequantised it */
    const awq_tensor *ours; /* [N][K], what we multiply by */
    const awq_tensor *x;
    const awq_tensor *expected;
};

/* The manifest's rule: accumulation in F32 may lose K 2^-24 of the sum of |x| |w|, and the result is rounded once.
 * Where our weight is not the peer's, the difference counts in full. */
static void judge(struct golden_case *test, const struct product *product, const awq_tensor *y)
{
    const int64_t n = product->w->shape[0], k = product->w->shape[1];
    const double rounding = y->dtype == AWQ_F16 ? 0x1p-11 : 0x1p-24;
    for (int64_t row = 0; row < y->shape[0]; row++)
        for (int64_t column = 0; column < n; column++) {
            double sum = 0.0, difference = 0.0;
            for (int64_t i = 0; i < k; i++) {
                double x = fabs(npy_value(product->x, row * k + i)), w = npy_value(product->w, column * k + i);
                sum += x * fabs(w);
                difference += x * fabs(npy_value(product->ours, column * k + i) - w);
            }
            double actual = npy_value(y, row * n + column), reference = npy_value(product->expected, row * n + column);
            double bound =
                difference + (double)k * 0x1p-24 * (sum + difference) + rounding * (fabs(reference) + difference);
            if (fabs(actual - reference) <= bound) continue;
            golden_fail(test, "%s: row %lld of %lld, output %lld, in %s: %.9g, expected %.9g within %.3g",
                        product->name, (long long)row, (long long)y->shape[0], (long long)column,
                        awq_dtype_name(y->dtype), actual, reference, bound);
            return;
        }
}

static void run_product(struct golden_case *test, const struct product *product, const awq_linear *linear)
{
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16};
    const json_t *batches = golden_param(test, "M");
    for (size_t i = 0; i < json_array_size(batches); i++)
        for (size_t d = 0; d < sizeof dtypes / sizeof *dtypes; d++) {
            awq_tensor x = *product->x;
            x.shape[0] = json_integer_value(json_array_get(batches, i));
            awq_tensor *y = golden_matrix(test, dtypes[d], x.shape[0], product->w->shape[0]);
            if (golden_ok(test, awq_linear_run(linear, &x, y, NULL), "awq_linear_run")) judge(test, product, y);
        }
}

/* Once with the weight as the peer rounded it to F16, and once with the quantised one, whose product rounds no weight.
 */
static void compare_products(struct golden_case *test, const awq_weight *weight, const awq_tensor *w, const char *name,
                             const awq_tensor *bias)
{
    if (!golden_has_output(test, name)) return;
    struct product product = {name, w, w, golden_input(test, "x"), golden_expected(test, name)};
    awq_tensor *exact = golden_matrix(test, AWQ_F32, w->shape[0], w->shape[1]);
    if (product.x == NULL || product.expected == NULL) return;
    if (!golden_ok(test, awq_weight_dequantize(weight, 0, exact), "awq_weight_dequantize")) return;
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.bias = bias;
    awq_linear *linear = NULL;
    if (golden_ok(test, awq_linear_create_dense(golden_context(test), w, &options, &linear), "awq_linear_create_dense"))
        run_product(test, &product, linear);
    awq_linear_destroy(linear);
    product.ours = exact;
    if (golden_ok(test, awq_linear_create(golden_context(test), weight, &options, &linear), "awq_linear_create"))
        run_product(test, &product, linear);
    awq_linear_destroy(linear);
}

void golden_dequant_matmul(struct golden_case *test)
{
    int32_t layout = require_layout(test);
    awq_weight *weight = layout != 0 ? read_weight(test, layout) : NULL;
    const awq_tensor *w = weight != NULL ? dequantize(test, layout, weight) : NULL;
    if (w != NULL) {
        const awq_tensor *as_read = layout == AWQ_LAYOUT_GEMM ? transpose(test, w) : w;
        size_t bytes = (size_t)(w->shape[0] * w->shape[1]) * sizeof(uint16_t);
        golden_compare(test, "w_deq", as_read);
        golden_compare_checksum(test, "w_deq_sha256", as_read->data, bytes);
        compare_products(test, weight, w, "y", NULL);
        if (golden_has_output(test, "y_bias")) compare_products(test, weight, w, "y_bias", golden_input(test, "bias"));
    }
    awq_weight_destroy(weight);
}
