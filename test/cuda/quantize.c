/* Calibration, search and quantisation on a CUDA context against a CPU context, through the public API: on a GPU, or
 * wherever AWQ_CUDA_BACKEND leads.
 *
 *     quantize [-s SEED] [TEST]
 *
 * Codes, scales, zero points and sampled rows must have the CPU's bits; sums and losses, which are added in another
 * order, may differ by the rounding that each comparison states.  Exit status 77 with a reason where there is no
 * device. */
#include "device.h"

#include <inttypes.h>
#include <math.h>

static void check(bool good, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void check(bool good, const char *format, ...)
{
    if (good) {
        passed++;
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    printf("FAILED: ");
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    failed++;
}

/* ---- matrices on the host and on the device */

struct matrix {
    awq_tensor host, device;
};

/* 'pitch' columns lie in memory for every row of the matrix, those beyond it NaNs. */
static struct matrix matrix_create(int64_t rows, int64_t columns, int64_t pitch, int32_t dtype, const float *values)
{
    const size_t size = awq_dtype_size(dtype);
    struct matrix made;
    awq_tensor whole;
    void *memory;
    awq_tensor_init_2d(&whole, array(rows * pitch, size), dtype, rows, pitch);
    float *row = array(pitch, sizeof *row);
    for (int64_t j = columns; j < pitch; j++) row[j] = NAN;
    for (int64_t i = 0; i < rows; i++) {
        memcpy(row, values + i * columns, (size_t)columns * sizeof *row);
        awqi_store_row(&whole, i, row, pitch);
    }
    free(row);
    REQUIRE(awq_context_allocate(device, (uint64_t)(rows * pitch) * size, &memory));
    made.host = made.device = whole;
    made.device.data = memory;
    made.device.device_type = AWQ_DEVICE_CUDA;
    REQUIRE(awq_tensor_copy(device, &whole, &made.device, NULL));
    made.host.shape[1] = made.device.shape[1] = columns;
    return made;
}

static void matrix_destroy(struct matrix *matrix)
{
    awq_context_free(device, matrix->device.data);
    free(matrix->host.data);
}

/* Numbers of many magnitudes by column, with rows and groups of zeros and of one sign. */
static struct matrix random_matrix(int64_t rows, int64_t columns, int32_t dtype)
{
    float *values = array(rows * columns, sizeof *values);
    for (int64_t j = 0; j < columns; j++) {
        const float size = j % 7 == 3 ? 20.0f : j % 11 == 5 ? 0.001f : 1.0f;
        for (int64_t i = 0; i < rows; i++) values[i * columns + j] = draw_float(size);
    }
    for (int64_t j = 0; j < columns && rows > 2; j++) {
        values[j] = j < columns / 2 ? 0.0f : fabsf(values[j]);
        values[columns + j] *= 1e-7f;
    }
    struct matrix made = matrix_create(rows, columns, columns + (int64_t)draw(3), dtype, values);
    free(values);
    return made;
}

static bool close_to(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b)) + 1e-300;
}

/* ---- calibration */

static awq_calibration *calibration_create(awq_context *context, int64_t channels, int64_t sample_rows)
{
    awq_calibration_options options;
    awq_struct_init(&options, sizeof options);
    options.flags = AWQ_CALIBRATION_GRAM;
    options.sample_rows = sample_rows;
    options.seed = 3;
    awq_calibration *calibration;
    REQUIRE(awq_calibration_create(context, channels, &options, &calibration));
    return calibration;
}

static void compare_statistics(const awq_calibration *a, const awq_calibration *b, int64_t channels, const char *what)
{
    double *left = array(channels, sizeof *left), *right = array(channels, sizeof *right);
    bool same = true;
    for (int32_t statistic = AWQ_STATISTIC_MEAN_ABS; statistic <= AWQ_STATISTIC_MAX_ABS; statistic++) {
        REQUIRE(awq_calibration_get_statistic(a, statistic, left, channels));
        REQUIRE(awq_calibration_get_statistic(b, statistic, right, channels));
        /* Sums of 106 bits, rounded once. */
        for (int64_t i = 0; i < channels; i++) same = same && close_to(left[i], right[i], 0x1p-52);
    }
    check(same, "%s: statistics", what);
    free(left);
    free(right);
    awq_tensor x, y;
    REQUIRE(awq_calibration_get_samples(a, &x));
    REQUIRE(awq_calibration_get_samples(b, &y));
    check(x.shape[0] == y.shape[0] && memcmp(x.data, y.data, (size_t)(x.shape[0] * channels) * sizeof(float)) == 0,
          "%s: sampled rows", what);
}

/* The Gram matrices as the archive writes them: without weights their bits are the same. */
static void compare_archives(const awq_calibration *a, const awq_calibration *b, const char *what)
{
    const awq_calibration *const both[] = {a, b};
    unsigned char *bytes[2];
    uint64_t sizes[2];
    for (int i = 0; i < 2; i++) {
        char path[4096];
        const char *base = getenv("TMPDIR");
        snprintf(path, sizeof path, "%s/awq-quantize-XXXXXX", base != NULL && *base != 0 ? base : "/tmp");
        const int fd = mkstemp(path);
        struct awqi_mapping mapping;
        if (fd < 0) abort();
        close(fd);
        REQUIRE(awq_calibration_save(both[i], path));
        REQUIRE(awqi_map_file(path, &mapping));
        sizes[i] = mapping.size;
        bytes[i] = array((int64_t)mapping.size, 1);
        memcpy(bytes[i], mapping.data, (size_t)mapping.size);
        awqi_unmap_file(&mapping);
        unlink(path);
    }
    check(sizes[0] == sizes[1] && memcmp(bytes[0], bytes[1], (size_t)sizes[0]) == 0, "%s: archives", what);
    free(bytes[0]);
    free(bytes[1]);
}

static void test_observe(void)
{
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16};
    for (size_t t = 0; t < COUNT(dtypes); t++) {
        const int64_t channels = t == 1 ? 129 : 70;
        awq_calibration *on_host = calibration_create(host, channels, 20);
        awq_calibration *on_device = calibration_create(device, channels, 20);
        for (int batch = 0; batch < 3; batch++) {
            struct matrix x = random_matrix(batch == 1 ? 1 : 67, channels, dtypes[t]);
            REQUIRE(awq_calibration_observe(on_host, &x.host));
            /* The last one from host memory, and again: rows that occur twice are kept once. */
            REQUIRE(awq_calibration_observe(on_device, batch == 2 ? &x.host : &x.device));
            if (batch == 0) {
                REQUIRE(awq_calibration_observe(on_host, &x.host));
                REQUIRE(awq_calibration_observe(on_device, &x.device));
            }
            matrix_destroy(&x);
        }
        compare_statistics(on_host, on_device, channels, awq_dtype_name(dtypes[t]));
        awq_calibration_destroy(on_host);
        awq_calibration_destroy(on_device);
    }
}

/* Rows of zero weight hold NaNs. */
static void test_weights(void)
{
    enum { ROWS = 40, CHANNELS = 66 };
    float weights[ROWS], *values = array(ROWS * CHANNELS, sizeof *values);
    for (int i = 0; i < ROWS; i++) weights[i] = i % 3 == 1 ? 0.0f : (float)draw(1000) / 250.0f + 0.25f;
    for (int i = 0; i < ROWS * CHANNELS; i++) values[i] = weights[i / CHANNELS] > 0.0f ? draw_float(3.0f) : NAN;
    struct matrix x = matrix_create(ROWS, CHANNELS, CHANNELS, AWQ_F32, values);
    struct matrix w = matrix_create(1, ROWS, ROWS, AWQ_F32, weights);
    w.host.ndim = w.device.ndim = 1;
    w.host.shape[0] = w.device.shape[0] = ROWS;
    w.host.strides[0] = w.device.strides[0] = 1;
    awq_calibration *on_host = calibration_create(host, CHANNELS, 16);
    awq_calibration *on_device = calibration_create(device, CHANNELS, 16);
    REQUIRE(awq_calibration_observe_weighted(on_host, &x.host, &w.host));
    REQUIRE(awq_calibration_observe_weighted(on_device, &x.device, &w.device));
    compare_statistics(on_host, on_device, CHANNELS, "weights");
    REQUIRE(awq_calibration_observe_weighted(on_host, &x.host, &w.host));
    REQUIRE(awq_calibration_observe_weighted(on_device, &x.device, &w.host));
    compare_statistics(on_host, on_device, CHANNELS, "weights in host memory");
    awq_calibration_destroy(on_host);
    awq_calibration_destroy(on_device);
    matrix_destroy(&x);
    matrix_destroy(&w);
    free(values);
}

/* Whole numbers: every sum is exact, so that archives have the same bytes, whatever was added and merged in between. */
static void test_gram(void)
{
    enum { ROWS = 35, CHANNELS = 97 };
    float *values = array(ROWS * CHANNELS, sizeof *values);
    for (int i = 0; i < ROWS * CHANNELS; i++) values[i] = (float)draw(41) - 20.0f;
    struct matrix x = matrix_create(ROWS, CHANNELS, CHANNELS, AWQ_F16, values);
    awq_calibration *on_host = calibration_create(host, CHANNELS, 8);
    awq_calibration *on_device = calibration_create(device, CHANNELS, 8);
    awq_calibration *other = calibration_create(device, CHANNELS, 8);
    REQUIRE(awq_calibration_observe(on_host, &x.host));
    REQUIRE(awq_calibration_observe(on_device, &x.device));
    compare_archives(on_host, on_device, "one observation");
    REQUIRE(awq_calibration_observe(on_host, &x.host));
    REQUIRE(awq_calibration_observe(on_host, &x.host));
    REQUIRE(awq_calibration_observe(on_device, &x.device));
    REQUIRE(awq_calibration_observe(other, &x.device));
    REQUIRE(awq_calibration_merge(on_device, other));
    compare_archives(on_host, on_device, "merged");
    awq_calibration_destroy(on_host);
    awq_calibration_destroy(on_device);
    awq_calibration_destroy(other);
    matrix_destroy(&x);
    free(values);
}

/* ---- quantisation */

struct parts {
    uint8_t *codes, *zeros;
    float *scales;
    awq_weight_info info;
};

static struct parts parts_of(const awq_weight *weight)
{
    struct parts parts;
    awq_struct_init(&parts.info, sizeof parts.info);
    REQUIRE(awq_weight_get_info(weight, &parts.info));
    const int64_t n = parts.info.n, k = parts.info.k, groups = parts.info.groups;
    parts.codes = array(n * k, 1);
    parts.zeros = array(n * groups, 1);
    parts.scales = array(n * groups, sizeof(float));
    awq_tensor codes, scales, zeros;
    awq_tensor_init_2d(&codes, parts.codes, AWQ_U8, n, k);
    awq_tensor_init_2d(&scales, parts.scales, AWQ_F32, n, groups);
    awq_tensor_init_2d(&zeros, parts.zeros, AWQ_U8, n, groups);
    REQUIRE(awq_weight_export(weight, &codes, &scales, &zeros, NULL));
    return parts;
}

static void parts_free(struct parts *parts)
{
    free(parts->codes);
    free(parts->zeros);
    free(parts->scales);
}

static void compare_weights(const awq_weight *a, const awq_weight *b, const char *what)
{
    struct parts left = parts_of(a), right = parts_of(b);
    const size_t elements = (size_t)(left.info.n * left.info.k), groups = (size_t)(left.info.n * left.info.groups);
    check(memcmp(left.codes, right.codes, elements) == 0, "%s: codes", what);
    check(memcmp(left.zeros, right.zeros, groups) == 0, "%s: zero points", what);
    check(memcmp(left.scales, right.scales, groups * sizeof(float)) == 0, "%s: scales", what);
    check(left.info.clamped_scales == right.info.clamped_scales && left.info.zero_groups == right.info.zero_groups,
          "%s: %llu clamped scales and %llu groups of zeros where %llu and %llu were expected", what,
          (unsigned long long)right.info.clamped_scales, (unsigned long long)right.info.zero_groups,
          (unsigned long long)left.info.clamped_scales, (unsigned long long)left.info.zero_groups);
    parts_free(&left);
    parts_free(&right);
}

static void quantize_both(const struct matrix *w, const awq_quantize_options *options, bool upload, const char *what)
{
    awq_weight *on_host, *on_device;
    REQUIRE(awq_quantize(host, &w->host, NULL, options, &on_host));
    REQUIRE(awq_quantize(device, upload ? &w->host : &w->device, NULL, options, &on_device));
    compare_weights(on_host, on_device, what);
    awq_weight_destroy(on_host);
    awq_weight_destroy(on_device);
}

/* Every profile, symmetry, number of bits and dtype, each with groups, clipping and column scales by turns. */
static void test_quantize(void)
{
    enum { N = 9, K = 83 };
    static const int32_t dtypes[] = {AWQ_F32, AWQ_F16, AWQ_BF16}, bits[] = {2, 3, 4, 8};
    static const int64_t sizes[] = {1, 16, 32, AWQ_GROUP_PER_ROW};
    float column_scales[K];
    for (int j = 0; j < K; j++) column_scales[j] = 0.3f + fabsf(draw_float(2.0f));
    awq_tensor input_scale;
    awq_tensor_init_const_1d(&input_scale, column_scales, AWQ_F32, K);
    int turn = 0;
    for (size_t t = 0; t < COUNT(dtypes); t++)
        for (int32_t profile = AWQ_PROFILE_EXACT; profile <= AWQ_PROFILE_LLM_AWQ; profile++)
            for (size_t b = 0; b < COUNT(bits); b++)
                for (uint32_t symmetric = 0; symmetric <= (profile != AWQ_PROFILE_LLM_AWQ); symmetric++, turn++) {
                    awq_quantize_options options;
                    awq_struct_init(&options, sizeof options);
                    options.bits = bits[b];
                    options.profile = profile;
                    options.flags = symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
                    options.group_size = sizes[turn % (int)COUNT(sizes)];
                    options.scale_dtype = dtypes[turn / 2 % 3];
                    if (turn % 3 != 0) options.input_scale = &input_scale;
                    const int64_t size = options.group_size < 0 ? K : options.group_size;
                    float *limits = array(N * awqi_ceil_div(K, size), sizeof *limits);
                    for (int64_t i = 0; i < N * awqi_ceil_div(K, size); i++)
                        limits[i] = i % 5 == 0 ? INFINITY : fabsf(draw_float(1.0f));
                    struct matrix clip = matrix_create(N, awqi_ceil_div(K, size), awqi_ceil_div(K, size), AWQ_F32,
                                                       limits);
                    if (turn % 4 == 1) options.clip = &clip.host;
                    struct matrix w = random_matrix(N, K, dtypes[t]);
                    char what[96];
                    snprintf(what, sizeof what, "%s, profile %d, %d bits, groups of %d%s%s%s",
                             awq_dtype_name(dtypes[t]), profile, bits[b], (int)options.group_size,
                             symmetric ? ", symmetric" : "", options.clip ? ", clipped" : "", options.input_scale ? ", scaled" : "");
                    quantize_both(&w, &options, turn % 6 == 5, what);
                    matrix_destroy(&w);
                    matrix_destroy(&clip);
                    free(limits);
                }
}

/* More rows than one block of awq_quantize has; limits on the device; the planes of a layout. */
static void test_large(void)
{
    enum { N = 530, K = 64 };
    float *limits = array(N, sizeof *limits);
    for (int i = 0; i < N; i++) limits[i] = 0.5f + (float)i / N;
    struct matrix w = random_matrix(N, K, AWQ_BF16), clip = matrix_create(N, 1, 1, AWQ_F32, limits);
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = K;
    options.clip = &clip.host;
    awq_weight *on_host, *on_device;
    REQUIRE(awq_quantize(host, &w.host, NULL, &options, &on_host));
    options.clip = &clip.device;
    REQUIRE(awq_quantize(device, &w.device, NULL, &options, &on_device));
    compare_weights(on_host, on_device, "two blocks");
    awq_packed *left, *right;
    REQUIRE(awq_pack(host, on_host, AWQ_LAYOUT_CUDA_BLOCK, &left));
    REQUIRE(awq_pack(device, on_device, AWQ_LAYOUT_CUDA_BLOCK, &right));
    for (size_t i = 0; i < awq_packed_plane_count(left); i++) {
        awq_tensor a, b;
        REQUIRE(awq_packed_get_plane(left, i, NULL, &a));
        REQUIRE(awq_packed_get_plane(right, i, NULL, &b));
        const size_t bytes = (size_t)awqi_tensor_elements(&a) * awq_dtype_size(a.dtype);
        check(memcmp(a.data, b.data, bytes) == 0, "plane %zu", i);
    }
    awq_packed_destroy(left);
    awq_packed_destroy(right);
    awq_weight_destroy(on_host);
    awq_weight_destroy(on_device);
    matrix_destroy(&w);
    matrix_destroy(&clip);
    free(limits);
}

/* ---- salient columns */

static void compare_salient(const awq_weight *a, const awq_weight *b, int64_t count, const char *what)
{
    struct parts left = parts_of(a), right = parts_of(b);
    check(left.info.salient_columns == count && right.info.salient_columns == count,
          "%s: %lld and %lld salient columns where %lld were expected", what, (long long)left.info.salient_columns,
          (long long)right.info.salient_columns, (long long)count);
    const awq_weight *const weights[] = {a, b};
    int32_t *columns[2];
    uint16_t *values[2];
    for (int i = 0; i < 2 && left.info.salient_columns == right.info.salient_columns; i++) {
        awq_tensor column_view, value_view;
        columns[i] = array(left.info.salient_columns, sizeof **columns);
        values[i] = array(left.info.n * left.info.salient_columns, sizeof **values);
        awq_tensor_init_1d(&column_view, columns[i], AWQ_I32, left.info.salient_columns);
        awq_tensor_init_2d(&value_view, values[i], AWQ_F16, left.info.n, left.info.salient_columns);
        REQUIRE(awq_weight_export_salient(weights[i], &column_view, &value_view));
        if (i == 0) continue;
        check(memcmp(columns[0], columns[1], (size_t)count * sizeof **columns) == 0, "%s: salient columns", what);
        check(memcmp(values[0], values[1], (size_t)(left.info.n * count) * sizeof **values) == 0, "%s: salient values",
              what);
        for (int j = 0; j < 2; j++) {
            free(columns[j]);
            free(values[j]);
        }
    }
    parts_free(&left);
    parts_free(&right);
}

/* Every rule, of weights there and here, and columns that are given; with and without column scales. */
static void test_salient(void)
{
    enum { N = 67, K = 83, GIVEN = 3 };
    static const char *const rules[] = {"by activation", "by weight", "at random", "given"};
    const int32_t given[GIVEN] = {0, 31, K - 1};
    float importance[K], column_scales[K];
    for (int j = 0; j < K; j++) importance[j] = fabsf(draw_float(2.0f));
    for (int j = 0; j < K; j++) column_scales[j] = 0.3f + fabsf(draw_float(2.0f));
    awq_tensor importance_view, scale_view, given_view;
    awq_tensor_init_const_1d(&importance_view, importance, AWQ_F32, K);
    awq_tensor_init_const_1d(&scale_view, column_scales, AWQ_F32, K);
    awq_tensor_init_const_1d(&given_view, given, AWQ_I32, GIVEN);
    for (int turn = 0; turn < 8; turn++) {
        awq_quantize_options options;
        awq_struct_init(&options, sizeof options);
        options.group_size = 32;
        options.profile = turn == 5 ? AWQ_PROFILE_AUTOAWQ : AWQ_PROFILE_EXACT;
        options.salient_rule = turn % 4 < 3 ? turn % 4 : 0;
        if (turn % 4 == 0) options.importance = &importance_view;
        if (turn % 4 == 3) options.salient_columns = &given_view;
        else options.salient_fraction = 0.1;
        if (turn % 3 == 0) options.input_scale = &scale_view;
        struct matrix w = random_matrix(N, K, turn % 2 ? AWQ_BF16 : AWQ_F16);
        awq_weight *on_host, *on_device;
        REQUIRE(awq_quantize(host, &w.host, NULL, &options, &on_host));
        REQUIRE(awq_quantize(device, turn >= 6 ? &w.host : &w.device, NULL, &options, &on_device));
        compare_weights(on_host, on_device, rules[turn % 4]);
        compare_salient(on_host, on_device, turn % 4 == 3 ? GIVEN : 8, rules[turn % 4]);
        awq_weight_destroy(on_host);
        awq_weight_destroy(on_device);
        matrix_destroy(&w);
    }
}

/* ---- search */

struct problem {
    awq_calibration *on_host, *on_device;
    struct matrix w[2];
    awq_search_options options;
    awq_quantize_options quantize;
};

static void problem_create(struct problem *problem, int64_t k, int32_t dtype)
{
    struct matrix x = random_matrix(45, k, AWQ_F16);
    problem->on_host = calibration_create(host, k, 30);
    problem->on_device = calibration_create(device, k, 30);
    REQUIRE(awq_calibration_observe(problem->on_host, &x.host));
    REQUIRE(awq_calibration_observe(problem->on_device, &x.device));
    matrix_destroy(&x);
    problem->w[0] = random_matrix(67, k, dtype);
    problem->w[1] = random_matrix(5, k, dtype);
    awq_struct_init(&problem->quantize, sizeof problem->quantize);
    problem->quantize.bits = 3;
    problem->quantize.group_size = 32;
    awq_struct_init(&problem->options, sizeof problem->options);
    problem->options.grid_points = 5;
    problem->options.quantize = &problem->quantize;
}

static void problem_destroy(struct problem *problem)
{
    awq_calibration_destroy(problem->on_host);
    awq_calibration_destroy(problem->on_device);
    matrix_destroy(&problem->w[0]);
    matrix_destroy(&problem->w[1]);
}

static awq_search *search_run(const struct problem *problem, awq_context *context, bool upload)
{
    awq_search *search;
    const bool cuda = context == device;
    REQUIRE(awq_search_create(context, cuda ? problem->on_device : problem->on_host, &problem->options, &search));
    for (int i = 0; i < 2; i++)
        REQUIRE(awq_search_add_weight(search, cuda && !upload ? &problem->w[i].device : &problem->w[i].host));
    REQUIRE(awq_search_run(search));
    return search;
}

/* Products in single precision: of losses, each a sum of squares, one in 10000 may be lost. */
static void compare_searches(const awq_search *a, const awq_search *b, int64_t k, const char *what)
{
    awq_search_result left, right;
    awq_struct_init(&left, sizeof left);
    awq_struct_init(&right, sizeof right);
    REQUIRE(awq_search_get_result(a, &left));
    REQUIRE(awq_search_get_result(b, &right));
    check(left.best == right.best && left.alpha == right.alpha && left.scales == right.scales &&
              left.candidates == right.candidates && left.rows == right.rows,
          "%s: alpha %g where %g was expected", what, right.alpha, left.alpha);
    double *losses = array(2 * left.candidates, sizeof *losses);
    REQUIRE(awq_search_get_history(a, NULL, losses, left.candidates));
    REQUIRE(awq_search_get_history(b, NULL, losses + left.candidates, left.candidates));
    for (int64_t i = 0; i < left.candidates; i++)
        check(close_to(losses[i], losses[left.candidates + i], 1e-4), "%s: loss %g where %g was expected", what,
              losses[left.candidates + i], losses[i]);
    float *scales = array(2 * k, sizeof *scales);
    REQUIRE(awq_search_get_scales(a, scales, k));
    REQUIRE(awq_search_get_scales(b, scales + k, k));
    bool same = true;
    for (int64_t i = 0; i < k; i++) same = same && close_to(scales[i], scales[k + i], 0x1p-22);
    check(same, "%s: scales", what);
    free(losses);
    free(scales);
}

static void search_both(struct problem *problem, int64_t k, bool upload, const char *what)
{
    awq_search *on_host = search_run(problem, host, false), *on_device = search_run(problem, device, upload);
    compare_searches(on_host, on_device, k, what);
    awq_weight *left, *right;
    REQUIRE(awq_quantize(host, &problem->w[0].host, on_host, NULL, &left));
    REQUIRE(awq_quantize(device, &problem->w[0].device, on_host, NULL, &right));
    compare_weights(left, right, what);
    awq_weight_destroy(left);
    awq_weight_destroy(right);
    awq_search_destroy(on_host);
    awq_search_destroy(on_device);
}

static void test_search(void)
{
    for (int turn = 0; turn < 6; turn++) { /* the last two with salient columns */
        const int64_t k = turn == 1 ? 133 : turn == 3 ? 101 : 96; /* cuBLASLt takes what is aligned to 16 bytes */
        struct problem problem;
        problem_create(&problem, k, turn == 2 ? AWQ_BF16 : AWQ_F16);
        problem.options.scales = turn % 3;
        problem.options.objective = turn == 1 || turn == 2 ? AWQ_OBJECTIVE_GRAM : AWQ_OBJECTIVE_SAMPLES;
        problem.quantize.profile = turn == 3 || turn == 5 ? AWQ_PROFILE_AUTOAWQ : AWQ_PROFILE_EXACT;
        problem.quantize.salient_fraction = turn >= 4 ? 0.1 : 0.0;
        problem.quantize.salient_rule = turn == 5 ? AWQ_SALIENT_BY_WEIGHT : AWQ_SALIENT_BY_ACTIVATION;
        search_both(&problem, k, turn == 1, turn == 1 || turn == 2 ? "search by the Gram matrix" : "search");
        problem_destroy(&problem);
    }
}

/* A callback gets candidates where the context computes. */
static int32_t sum_candidates(void *user_data, size_t count, const awq_tensor *const *candidates, double *loss)
{
    awq_context *context = user_data;
    double sum = 0.0;
    for (size_t i = 0; i < count; i++) {
        const int64_t rows = candidates[i]->shape[0], columns = candidates[i]->shape[1];
        float *values = array(rows * columns, sizeof *values);
        awq_tensor view;
        awq_tensor_init_2d(&view, values, AWQ_F32, rows, columns);
        if (awq_tensor_copy(context, candidates[i], &view, NULL) != AWQ_OK) return 1;
        for (int64_t j = 0; j < rows * columns; j++) sum += (double)values[j] * values[j] + fabs((double)values[j]);
        free(values);
    }
    *loss = sum;
    return 0;
}

static void test_callback(void)
{
    enum { K = 64 };
    struct problem problem;
    problem_create(&problem, K, AWQ_F32);
    problem.options.loss = sum_candidates;
    problem.options.loss_data = host;
    awq_search *on_host = search_run(&problem, host, false);
    problem.options.loss_data = device;
    awq_search *on_device = search_run(&problem, device, false);
    compare_searches(on_host, on_device, K, "callback");
    awq_search_destroy(on_host);
    awq_search_destroy(on_device);
    problem_destroy(&problem);
}

static void test_clip(void)
{
    for (int turn = 0; turn < 4; turn++) {
        enum { K = 100, N = 67, GROUPS = 4 };
        struct problem problem;
        problem_create(&problem, K, turn == 1 ? AWQ_BF16 : AWQ_F16);
        problem.quantize.profile = turn % 3;
        problem.quantize.salient_fraction = turn == 3 ? 0.1 : 0.0;
        awq_search *search = turn != 2 ? search_run(&problem, host, false) : NULL;
        float limits[2][N * GROUPS];
        awq_clip_result results[2];
        awq_clip_options options;
        awq_struct_init(&options, sizeof options);
        options.quantize = &problem.quantize;
        for (int i = 0; i < 2; i++) {
            awq_tensor view;
            awq_tensor_init_2d(&view, limits[i], AWQ_F32, N, GROUPS);
            awq_struct_init(&results[i], sizeof results[i]);
            REQUIRE(awq_clip_search(i ? device : host, i ? &problem.w[0].device : &problem.w[0].host,
                                    i ? problem.on_device : problem.on_host, search, &options, &view, &results[i]));
        }
        /* Limits whose errors are as good as equal may change places. */
        int other = 0;
        for (int i = 0; i < N * GROUPS; i++) other += limits[0][i] != limits[1][i];
        check(other <= N * GROUPS / 50, "clip search: %d of %d limits are others", other, N * GROUPS);
        check(close_to(results[0].loss, results[1].loss, 1e-4) &&
                  close_to(results[0].loss_unclipped, results[1].loss_unclipped, 1e-4),
              "clip search: losses %g and %g where %g and %g were expected", results[1].loss,
              results[1].loss_unclipped, results[0].loss, results[0].loss_unclipped);
        awq_search_destroy(search);
        problem_destroy(&problem);
    }
}

/* ---- bad inputs */

static void expect(awq_status found, awq_status status, const char *text)
{
    check(found == status && strstr(awq_last_error(), text) != NULL, "%s, \"%s\" where %s, \"%s\" was expected",
          awq_status_name(found), awq_last_error(), awq_status_name(status), text);
}

static void test_bad(void)
{
    enum { N = 6, K = 40 };
    float values[N * K];
    for (int i = 0; i < N * K; i++) values[i] = draw_float(1.0f);
    values[3 * K + 7] = INFINITY;
    values[3 * K + 9] = NAN;
    values[5 * K + 1] = NAN;
    struct matrix bad = matrix_create(N, K, K, AWQ_F16, values);
    values[3 * K + 7] = values[5 * K + 1] = 0.0f;
    values[3 * K + 9] = 60000.0f;
    values[3 * K + 8] = -60000.0f;
    struct matrix wide = matrix_create(N, K, K, AWQ_F16, values);
    awq_calibration *calibration = calibration_create(device, K, 4);
    expect(awq_calibration_observe(calibration, &bad.device), AWQ_ERROR_NON_FINITE, "x: infinity at row 3, channel 7");
    awq_calibration_info info;
    awq_struct_init(&info, sizeof info);
    REQUIRE(awq_calibration_get_info(calibration, &info));
    check(info.rows == 0 && info.sample_rows == 0, "a refused batch was added");
    awq_tensor elsewhere = wide.device;
    elsewhere.device_id = 7;
    expect(awq_calibration_observe(calibration, &elsewhere), AWQ_ERROR_INVALID, "x: on device 1:7");

    awq_weight *weight;
    expect(awq_quantize(device, &bad.device, NULL, NULL, &weight), AWQ_ERROR_NON_FINITE, "w: row 3, column 7 is inf");
    expect(awq_quantize(device, &elsewhere, NULL, NULL, &weight), AWQ_ERROR_INVALID, "w: on device 1:7");
    expect(awq_quantize(host, &wide.device, NULL, NULL, &weight), AWQ_ERROR_INVALID, "w: on device 1:0");
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.profile = AWQ_PROFILE_AUTOAWQ;
    options.group_size = 20;
    expect(awq_quantize(device, &wide.device, NULL, &options, &weight), AWQ_ERROR_NON_FINITE,
           "row 3, group 0: the range overflows F16");
    float scales[K];
    for (int j = 0; j < K; j++) scales[j] = 2.0f;
    awq_tensor input_scale;
    awq_tensor_init_const_1d(&input_scale, scales, AWQ_F32, K);
    options.input_scale = &input_scale;
    expect(awq_quantize(device, &wide.device, NULL, &options, &weight), AWQ_ERROR_NON_FINITE, "overflows when");
    awq_struct_init(&options, sizeof options);
    options.salient_rule = AWQ_SALIENT_BY_WEIGHT;
    options.salient_fraction = 0.01;
    options.input_scale = &input_scale;
    expect(awq_quantize(device, &wide.device, NULL, &options, &weight), AWQ_ERROR_NON_FINITE, "is salient, but");
    awq_search *search;
    REQUIRE(awq_calibration_observe(calibration, &wide.device));
    REQUIRE(awq_search_create(device, calibration, NULL, &search));
    REQUIRE(awq_search_add_weight(search, &bad.device));
    expect(awq_search_run(search), AWQ_ERROR_NON_FINITE, "weight 0: row 3, column 7");
    awq_search_destroy(search);
    awq_calibration_destroy(calibration);
    matrix_destroy(&bad);
    matrix_destroy(&wide);
}

int main(int argc, char **argv)
{
    static const struct device_test tests[] = {
        {"observe", test_observe}, {"weights", test_weights}, {"gram", test_gram}, {"quantize", test_quantize},
        {"large", test_large}, {"salient", test_salient}, {"search", test_search}, {"callback", test_callback},
        {"clip", test_clip}, {"bad", test_bad},
    };
    return run_device_tests(argc, argv, COUNT(tests), tests, NULL);
}
