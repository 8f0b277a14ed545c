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
        {"llm-awq", "WQLinear", AWQ_LAYOUT_GEMV_FAST},
        {"derived", "fma", AWQ_LAYOUT_GEMV_FAST},
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
    awq_weight *weight;
    if (layout == 0) {
        golden_skip(test, "a packed format that libawq has no name for");
    } else if (awq_unpack(golden_context(test), layout, 0, NULL, NULL, NULL, &weight) == AWQ_ERROR_UNSUPPORTED) {
        golden_skip(test, awq_last_error());
        return 0;
    }
    return layout;
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
        ((uint8_t *)codes->data)[i] =
            (uint8_t)((int)npy_value(read, i) + (1 << (golden_integer(test, "bits", 4) - 1)));
    return codes;
}

/* The scales of the case; ones when it is about integers only. */
static const awq_tensor *read_scales(struct golden_case *test, const awq_tensor *codes)
{
    if (golden_has_input(test, "scales")) return golden_input(test, "scales");
    int64_t group = golden_integer(test, "group_size", 0);
    int64_t groups = group > 0 ? (codes->shape[1] + group - 1) / group : 1;
    awq_tensor *ones = golden_matrix(test, AWQ_F16, codes->shape[0], groups);
    for (int64_t i = 0; i < codes->shape[0] * groups; i++) ((uint16_t *)ones->data)[i] = 0x3c00;
    return ones;
}

/* The weight that the peer packed: quantised from "w" the way AutoAWQ does it, or put together from integers. */
static awq_weight *make_weight(struct golden_case *test)
{
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
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)golden_integer(test, "bits", 0);
    options.group_size = golden_integer(test, "group_size", 0);
    options.flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    awq_weight *unpacked = NULL;
    if (golden_ok(test, awq_unpack(golden_context(test), layout, count, names, pointers, &options, &unpacked),
                  "awq_unpack"))
        compare_weights(test, unpacked, weight);
    awq_weight_destroy(unpacked);
}

void golden_layout(struct golden_case *test)
{
    int32_t layout = require_layout(test);
    awq_weight *weight = layout != 0 ? make_weight(test) : NULL;
    awq_packed *packed = NULL;
    if (weight != NULL && golden_ok(test, awq_pack(golden_context(test), weight, layout, &packed), "awq_pack")) {
        for (size_t i = 0; i < awq_packed_plane_count(packed); i++) {
            const char *name;
            awq_tensor plane;
            if (golden_ok(test, awq_packed_get_plane(packed, i, &name, &plane), "awq_packed_get_plane"))
                compare_plane(test, name, &plane);
        }
        /* Some cases carry the zero points of a second format along. */
        if (layout == AWQ_LAYOUT_GEMM)
            golden_skip_output(test, "gemvfast_qzeros", "belongs to another layout, gemv_fast");
        unpack_again(test, layout, packed, weight);
    }
    awq_packed_destroy(packed);
    awq_weight_destroy(weight);
}

/* ---- section 3 */

static awq_weight *read_weight(struct golden_case *test, int32_t layout)
{
    static const char *const gemm[] = {"qweight", "qzeros", "scales", NULL};
    static const char *const compressed[] = {"weight_packed", "weight_scale", "weight_zero_point", NULL};
    const char *const *inputs = layout == AWQ_LAYOUT_GEMM ? gemm : compressed;
    const char *names[MAX_PLANES];
    const awq_tensor *planes[MAX_PLANES];
    size_t count = 0;
    for (; *inputs != NULL; inputs++)
        if (golden_has_input(test, *inputs)) {
            names[count] = *inputs;
            planes[count] = golden_input(test, *inputs);
            if (planes[count++] == NULL) return NULL;
        }
    int64_t shape[2] = {golden_integer(test, "N", 0), golden_integer(test, "K", 0)};
    awq_tensor shape_plane;
    awq_tensor_init_1d(&shape_plane, shape, AWQ_I64, 2);
    if (layout != AWQ_LAYOUT_GEMM) {
        names[count] = "weight_shape";
        planes[count++] = &shape_plane;
    }
    awq_unpack_options options;
    awq_struct_init(&options, sizeof options);
    options.bits = (int32_t)golden_integer(test, "bits", 0);
    options.group_size = golden_integer(test, "group_size", 0);
    options.flags = golden_flag(test, "symmetric") ? AWQ_QUANTIZE_SYMMETRIC : 0;
    awq_weight *weight = NULL;
    golden_ok(test, awq_unpack(golden_context(test), layout, count, names, planes, &options, &weight), "awq_unpack");
    return weight;
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
    const awq_tensor *w; /* F16 [N][K], as the peer dequantised it */
    const awq_tensor *x;
    const awq_tensor *expected;
    double weight_error; /* relative, of each weight */
};

/* The manifest's rule: accumulation in F32 may lose K 2^-24 of the sum of |x| |w|, and the result is rounded once. */
static void judge(struct golden_case *test, const struct product *product, const awq_tensor *y)
{
    const int64_t n = product->w->shape[0], k = product->w->shape[1];
    const double rounding = y->dtype == AWQ_F16 ? 0x1p-11 : 0x1p-24;
    for (int64_t row = 0; row < y->shape[0]; row++)
        for (int64_t column = 0; column < n; column++) {
            double sum = 0.0;
            for (int64_t i = 0; i < k; i++)
                sum += fabs(npy_value(product->x, row * k + i) * npy_value(product->w, column * k + i));
            double actual = npy_value(y, row * n + column), reference = npy_value(product->expected, row * n + column);
            double bound = ((double)k * 0x1p-24 + product->weight_error) * sum + rounding * fabs(reference);
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

/* With the weight as the peer rounded it to F16 the rule holds as it stands.  The quantised product does not round
 * (q - z) s, so each of its weights differs from the peer's by up to half a unit of F16. */
static void compare_products(struct golden_case *test, const awq_weight *weight, const awq_tensor *w, const char *name,
                             const awq_tensor *bias)
{
    if (!golden_has_output(test, name)) return;
    struct product product = {name, w, golden_input(test, "x"), golden_expected(test, name), 0.0};
    if (product.x == NULL || product.expected == NULL) return;
    awq_linear_options options;
    awq_struct_init(&options, sizeof options);
    options.bias = bias;
    awq_linear *linear = NULL;
    if (golden_ok(test, awq_linear_create_dense(golden_context(test), w, &options, &linear), "awq_linear_create_dense"))
        run_product(test, &product, linear);
    awq_linear_destroy(linear);
    product.weight_error = 0x1p-11;
    if (golden_ok(test, awq_linear_create(golden_context(test), weight, &options, &linear), "awq_linear_create"))
        run_product(test, &product, linear);
    awq_linear_destroy(linear);
}

void golden_dequant_matmul(struct golden_case *test)
{
    int32_t layout = require_layout(test);
    awq_weight *weight = layout != 0 ? read_weight(test, layout) : NULL;
    if (weight == NULL) return;
    awq_tensor *w = golden_matrix(test, AWQ_F16, golden_integer(test, "N", 0), golden_integer(test, "K", 0));
    if (golden_ok(test, awq_weight_dequantize(weight, 0, w), "awq_weight_dequantize")) {
        const awq_tensor *as_read = layout == AWQ_LAYOUT_GEMM ? transpose(test, w) : w;
        size_t bytes = (size_t)(w->shape[0] * w->shape[1]) * sizeof(uint16_t);
        golden_compare(test, "w_deq", as_read);
        golden_compare_checksum(test, "w_deq_sha256", as_read->data, bytes);
        compare_products(test, weight, w, "y", NULL);
        if (golden_has_output(test, "y_bias")) compare_products(test, weight, w, "y_bias", golden_input(test, "bias"));
    }
    awq_weight_destroy(weight);
}
