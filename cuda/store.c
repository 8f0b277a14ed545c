/* Weights to device memory: permuted and widened on the host where kernels want that, laid out by the core, copied. */
#include "host.h"

#include <stdlib.h>

/* Row 'row' of what is stored, in the weight as it was given; -1: a row of zeros.  Gates and ups alternate by 32. */
static int64_t source_row(int64_t row, int64_t n, bool gated)
{
    if (!gated) return row < n ? row : -1;
    const int64_t output = row / 64 * 32 + row % 32;
    if (output >= n / 2) return -1;
    return row % 64 < 32 ? output : n / 2 + output;
}

static int64_t stored_rows(int64_t n, bool gated)
{
    return gated ? awqi_ceil_div(n / 2, 32) * 64 : n;
}

/* ---- a weight like another, with its rows in order, its codes at least 4 bits wide, and neither input scale nor
 * salient columns */

static int code_at(const uint8_t *row, int64_t i, int32_t bits)
{
    const int64_t bit = i * bits;
    int field = row[bit / 8] >> bit % 8;
    if (bit % 8 + bits > 8) field |= row[bit / 8 + 1] << (8 - bit % 8);
    return field & ((1 << bits) - 1);
}

static void shadow_free(struct awq_weight *shadow)
{
    free(shadow->codes);
    free(shadow->scales);
    free(shadow->zeros);
}

static void shadow_row(const awq_weight *weight, int64_t from, struct awq_weight *shadow, int64_t to)
{
    const size_t scales = (size_t)weight->groups * awqi_cuda_element_size(weight->scale_dtype);
    const uint8_t *codes = weight->codes + (uint64_t)from * weight->row_bytes;
    uint8_t *widened = shadow->codes + (uint64_t)to * shadow->row_bytes;
    memcpy((unsigned char *)shadow->scales + (size_t)to * scales,
           (const unsigned char *)weight->scales + (size_t)from * scales, scales);
    if (shadow->bits == weight->bits) memcpy(widened, codes, weight->row_bytes);
    else
        for (int64_t i = 0; i < weight->k; i++)
            widened[i / 2] |= (uint8_t)(code_at(codes, i, weight->bits) << 4 * (i % 2));
    /* Symmetric codes of fewer bits have another middle than 8: it is written out. */
    for (int64_t g = 0; shadow->zeros != NULL && g < weight->groups; g++)
        shadow->zeros[to * weight->groups + g] =
            weight->symmetric ? (uint8_t)(1 << (weight->bits - 1)) : weight->zeros[from * weight->groups + g];
}

static awq_status shadow_create(const awq_weight *weight, bool gated, bool widen, struct awq_weight *shadow)
{
    *shadow = *weight;
    shadow->n = stored_rows(weight->n, gated);
    shadow->bits = widen && weight->bits < 4 ? 4 : weight->bits;
    shadow->row_bytes = (uint64_t)awqi_ceil_div(weight->k * shadow->bits, 8);
    shadow->symmetric = weight->symmetric && shadow->bits == weight->bits;
    shadow->input_scale = NULL;
    shadow->salient_count = 0;
    const size_t rows = (size_t)shadow->n, groups = (size_t)weight->groups;
    shadow->codes = calloc(rows, shadow->row_bytes);
    shadow->scales = calloc(rows, groups * awqi_cuda_element_size(weight->scale_dtype));
    shadow->zeros = shadow->symmetric ? NULL : calloc(rows, groups);
    if (shadow->codes == NULL || shadow->scales == NULL || (!shadow->symmetric && shadow->zeros == NULL)) {
        shadow_free(shadow);
        return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for a copy of a weight");
    }
    for (int64_t row = 0; row < shadow->n; row++) {
        const int64_t from = source_row(row, weight->n, gated);
        if (from >= 0) shadow_row(weight, from, shadow, row);
    }
    return AWQ_OK;
}

/* ---- one allocation for all that a linear holds */

enum { OWN_PLANES = 3, PLANES = OWN_PLANES + 4 };

struct upload {
    const void *from; /* in host memory; NULL: filled later */
    uint64_t bytes;
    void **to;
};

static awq_status store_planes(const struct upload *planes, int count, struct cuda_linear *linear)
{
    uint64_t total = 0;
    for (int i = 0; i < count; i++) total += awqi_cuda_align(planes[i].bytes);
    awq_status status = awqi_cuda_check(cudaMalloc(&linear->memory, total > 0 ? total : 1), "allocating a linear");
    unsigned char *at = linear->memory;
    for (int i = 0; i < count && status == AWQ_OK; i++) {
        *planes[i].to = planes[i].bytes > 0 ? at : NULL;
        if (planes[i].from != NULL && planes[i].bytes > 0)
            status = awqi_cuda_check(cudaMemcpy(at, planes[i].from, planes[i].bytes, cudaMemcpyHostToDevice),
                                     "copying a weight to the device");
        at += awqi_cuda_align(planes[i].bytes);
    }
    linear->size_bytes = total;
    return status;
}

/* What quantised weights have besides their own planes: bias, input scales, salient columns. */
static void add_planes(const struct awqi_linear_spec *spec, const uint16_t *salient, struct cuda_weight *view,
                       float **bias, struct upload *planes)
{
    const awq_weight *weight = spec->weight;
    const uint64_t columns = (uint64_t)view->column_blocks * CUDA_BLOCK, k = (uint64_t)weight->k;
    const uint64_t count = (uint64_t)weight->salient_count;
    planes[0] = (struct upload){NULL, spec->bias != NULL ? columns * sizeof **bias : 0, (void **)bias};
    planes[1] = (struct upload){weight->input_scale, weight->input_scale != NULL ? k * sizeof(float) : 0,
                                (void **)(uintptr_t)&view->input_scale};
    planes[2] = (struct upload){weight->salient_columns, count * sizeof *weight->salient_columns,
                                (void **)(uintptr_t)&view->salient_columns};
    planes[3] = (struct upload){salient, count * columns * sizeof *salient, (void **)(uintptr_t)&view->salient_values};
}

/* Rows of a matrix in device memory, in the order they are stored; rows of zeros are left as they are. */
static cudaError_t place_rows(const awq_tensor *tensor, int64_t columns, bool gated, void *to, int64_t pitch,
                              int32_t dtype)
{
    const int64_t n = tensor->shape[0], piece = gated ? 32 : n;
    struct cuda_array src = {.dtype = tensor->dtype}, dst = {.strides = {pitch, 1}, .dtype = dtype};
    src.strides[0] = tensor->strides[0];
    src.strides[1] = tensor->ndim > 1 ? tensor->strides[1] : 0;
    cudaError_t error = cudaSuccess;
    for (int64_t row = 0; row < stored_rows(n, gated) && error == cudaSuccess; row += piece) {
        const int64_t from = source_row(row, n, gated), end = gated && from < n / 2 ? n / 2 : n;
        if (from < 0) continue;
        const int64_t shape[] = {awqi_min64(piece, end - from), columns};
        src.data = (unsigned char *)tensor->data + tensor->byte_offset +
                   from * tensor->strides[0] * (int64_t)awqi_cuda_element_size(tensor->dtype);
        dst.data = (unsigned char *)to + row * pitch * (int64_t)awqi_cuda_element_size(dtype);
        error = awqi_cuda_convert(&src, &dst, 2, shape, NULL);
    }
    return error;
}

static awq_status store_bias(const struct awqi_linear_spec *spec, const struct cuda_weight *view, float *bias)
{
    if (spec->bias == NULL) return AWQ_OK;
    cudaError_t error = cudaMemset(bias, 0, (size_t)view->column_blocks * CUDA_BLOCK * sizeof *bias);
    if (error == cudaSuccess) error = place_rows(spec->bias, 1, view->gated, bias, 1, AWQ_F32);
    if (error == cudaSuccess) error = cudaStreamSynchronize(NULL);
    return awqi_cuda_check(error, "copying a bias");
}

/* ---- quantised weights */

static int32_t choose_storage(const struct awqi_linear_spec *spec)
{
    const awq_weight *weight = spec->weight;
    if (spec->kernel == AWQ_KERNEL_MARLIN) return CUDA_MARLIN_TILES;
    const bool fits = weight->group_size % 16 == 0 || weight->group_size >= weight->k;
    return spec->kernel == AWQ_KERNEL_REFERENCE || !fits ? CUDA_ROWS : CUDA_BLOCKS;
}

/* Scales in single precision, which no packed format holds, in the places of cuda-block. */
static float *place_scales(const struct awq_weight *shadow, int64_t groups, int64_t columns)
{
    float *placed = calloc((size_t)(groups * columns), sizeof *placed);
    for (int64_t row = 0; placed != NULL && row < shadow->n; row++)
        for (int64_t g = 0; g < shadow->groups; g++)
            placed[g * columns + row / 64 * 64 + row % 8 * 8 + row % 64 / 8] =
                ((const float *)shadow->scales)[row * shadow->groups + g];
    return placed;
}

/* The salient values [salient_count][columns], in the order that columns are stored; NULL is out of memory. */
static uint16_t *place_salient(const awq_weight *weight, bool gated)
{
    const int64_t rows = stored_rows(weight->n, gated), count = weight->salient_count;
    const int64_t columns = awqi_ceil_div(rows, CUDA_BLOCK) * CUDA_BLOCK;
    uint16_t *placed = calloc((size_t)awqi_max64(count * columns, 1), sizeof *placed);
    for (int64_t row = 0; placed != NULL && count > 0 && row < rows; row++) {
        const int64_t from = source_row(row, weight->n, gated);
        for (int64_t i = 0; from >= 0 && i < count; i++)
            placed[i * columns + row] = weight->salient_values[from * count + i];
    }
    return placed;
}

static awq_status store_rows(const struct awqi_linear_spec *spec, struct awq_weight *shadow, const uint16_t *salient,
                             struct cuda_linear *linear, float **bias)
{
    struct cuda_weight *view = &linear->weight;
    const uint64_t rows = (uint64_t)shadow->n, scales = rows * (uint64_t)shadow->groups;
    view->row_bytes = (int64_t)shadow->row_bytes;
    view->groups = (int32_t)shadow->groups;
    view->column_blocks = (int32_t)awqi_ceil_div(shadow->n, CUDA_BLOCK);
    view->input_blocks = (int32_t)awqi_ceil_div(shadow->k, CUDA_BLOCK);
    struct upload planes[PLANES] = {
        {shadow->codes, rows * shadow->row_bytes, (void **)(uintptr_t)&view->codes},
        {shadow->scales, scales * awqi_cuda_element_size(shadow->scale_dtype), (void **)(uintptr_t)&view->scales},
        {shadow->zeros, shadow->zeros != NULL ? scales : 0, (void **)(uintptr_t)&view->zeros},
    };
    add_planes(spec, salient, view, bias, planes + OWN_PLANES);
    return store_planes(planes, PLANES, linear);
}

static awq_status store_packed(struct cuda_device *device, const struct awqi_linear_spec *spec,
                               struct awq_weight *shadow, const uint16_t *salient, struct cuda_linear *linear,
                               float **bias)
{
    struct cuda_weight *view = &linear->weight;
    const bool marlin = view->storage == CUDA_MARLIN_TILES, own_scales = shadow->scale_dtype == AWQ_F32;
    struct awq_weight packing = *shadow;
    awq_packed *packed = NULL;
    void *blank = NULL;
    float *placed = NULL;
    if (own_scales) {
        packing.scale_dtype = AWQ_F16;
        packing.scales = blank = calloc((size_t)(shadow->n * shadow->groups), 2);
        if (blank == NULL)
            return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for a copy of a weight");
    }
    awq_tensor codes, scales, zeros = {0};
    awq_status status =
        awqi_cuda_host->pack(device->context, &packing, marlin ? AWQ_LAYOUT_MARLIN : AWQ_LAYOUT_CUDA_BLOCK, &packed);
    if (status == AWQ_OK) status = awqi_cuda_host->get_plane(packed, 0, NULL, &codes);
    if (status == AWQ_OK) status = awqi_cuda_host->get_plane(packed, 1, NULL, &scales);
    if (status == AWQ_OK && !shadow->symmetric) status = awqi_cuda_host->get_plane(packed, 2, NULL, &zeros);
    if (status == AWQ_OK) {
        const int64_t groups = scales.shape[0], columns = scales.shape[1];
        view->groups = (int32_t)groups;
        view->column_blocks = (int32_t)(columns / CUDA_BLOCK);
        view->input_blocks =
            (int32_t)(marlin ? awqi_ceil_div(shadow->k, CUDA_BLOCK) : codes.shape[1] / (2 * shadow->bits * CUDA_BLOCK));
        view->scale_dtype = own_scales ? AWQ_F32 : scales.dtype;
        view->single_scales = marlin && groups == 1 && !own_scales;
        if (own_scales) placed = place_scales(shadow, groups, columns);
        if (own_scales && placed == NULL)
            status = awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for a copy of a weight");
        const uint64_t scale_bytes = (uint64_t)(groups * columns) * awqi_cuda_element_size(view->scale_dtype);
        struct upload planes[PLANES] = {
            {codes.data, (uint64_t)(codes.shape[0] * codes.shape[1]) * 4u, (void **)(uintptr_t)&view->codes},
            {own_scales ? (const void *)placed : scales.data, scale_bytes, (void **)(uintptr_t)&view->scales},
            {zeros.data, zeros.data != NULL ? (uint64_t)(zeros.shape[0] * zeros.shape[1]) * 4u : 0,
             (void **)(uintptr_t)&view->zeros},
        };
        add_planes(spec, salient, view, bias, planes + OWN_PLANES);
        if (status == AWQ_OK) status = store_planes(planes, PLANES, linear);
    }
    awqi_cuda_host->release_packed(packed);
    free(blank);
    free(placed);
    return status;
}

static awq_status store_quantized(struct cuda_device *device, const struct awqi_linear_spec *spec,
                                  struct cuda_linear *linear)
{
    const awq_weight *weight = spec->weight;
    struct cuda_weight *view = &linear->weight;
    view->storage = choose_storage(spec);
    struct awq_weight shadow;
    awq_status status = shadow_create(weight, view->gated, view->storage != CUDA_ROWS, &shadow);
    if (status != AWQ_OK) return status;
    view->bits = shadow.bits;
    view->scale_dtype = shadow.scale_dtype;
    view->group_size = (int32_t)awqi_min64(weight->group_size, INT32_MAX);
    view->salient_count = weight->salient_count;
    float *bias = NULL;
    uint16_t *salient = place_salient(weight, view->gated);
    if (salient == NULL)
        status = awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for the salient columns of a weight");
    else if (view->storage == CUDA_ROWS) status = store_rows(spec, &shadow, salient, linear, &bias);
    else status = store_packed(device, spec, &shadow, salient, linear, &bias);
    free(salient);
    shadow_free(&shadow);
    if (status == AWQ_OK) status = store_bias(spec, view, bias);
    view->bias = bias;
    return status;
}

/* ---- dense weights */

static awq_status store_dense(const struct awqi_linear_spec *spec, struct cuda_linear *linear)
{
    const awq_tensor *dense = spec->dense;
    struct cuda_weight *view = &linear->weight;
    const size_t size = awqi_cuda_element_size(dense->dtype);
    view->storage = CUDA_DENSE;
    view->bits = 8 * (int32_t)size;
    view->scale_dtype = dense->dtype;
    view->groups = 1;
    view->group_size = view->inputs;
    view->column_blocks = (int32_t)awqi_ceil_div(stored_rows(dense->shape[0], view->gated), CUDA_BLOCK);
    view->input_blocks = (int32_t)awqi_ceil_div(view->inputs, CUDA_BLOCK);
    const uint64_t columns = (uint64_t)view->column_blocks * CUDA_BLOCK;
    const int64_t pitch = (int64_t)view->input_blocks * CUDA_BLOCK;
    void *values = NULL;
    float *bias = NULL;
    const struct upload planes[] = {
        {NULL, columns * (uint64_t)pitch * size, &values},
        {NULL, spec->bias != NULL ? columns * sizeof *bias : 0, (void **)&bias},
    };
    awq_status status = store_planes(planes, 2, linear);
    if (status == AWQ_OK) {
        cudaError_t error = cudaMemset(values, 0, (size_t)columns * (size_t)pitch * size);
        if (error == cudaSuccess) error = place_rows(dense, view->inputs, view->gated, values, pitch, dense->dtype);
        if (error == cudaSuccess) error = cudaStreamSynchronize(NULL);
        status = awqi_cuda_check(error, "copying a dense weight");
    }
    if (status == AWQ_OK) status = store_bias(spec, view, bias);
    view->codes = values;
    view->bias = bias;
    return status;
}

awq_status awqi_cuda_store(struct cuda_device *device, const struct awqi_linear_spec *spec, struct cuda_linear *linear)
{
    const int64_t n = spec->weight != NULL ? spec->weight->n : spec->dense->shape[0];
    const int64_t k = spec->weight != NULL ? spec->weight->k : spec->dense->shape[1];
    enum { MOST = 1 << 24 }; /* so that no count of blocks, tiles or bytes of a row overflows */
    if (n > MOST || k > MOST)
        return awqi_cuda_host->fail(AWQ_ERROR_UNSUPPORTED, "cuda: a weight [%lld][%lld]; %d by %d is the most",
                                    (long long)n, (long long)k, (int)MOST, (int)MOST);
    linear->weight.gated = (spec->flags & AWQ_LINEAR_SILU_MUL) != 0;
    linear->weight.inputs = (int32_t)k;
    linear->weight.outputs = (int32_t)(linear->weight.gated ? n / 2 : n);
    return spec->weight != NULL ? store_quantized(device, spec, linear) : store_dense(spec, linear);
}
