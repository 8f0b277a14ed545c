/* Preparing a linear for the CPU, and choosing its kernel. */
#include "linear.h"

#include <stdio.h>

static awq_status check_spec(const struct awqi_linear_spec *spec)
{
    if (spec->kernel < AWQ_KERNEL_AUTO || spec->kernel > AWQ_KERNEL_GEMM)
        return awqi_fail(AWQ_ERROR_UNSUPPORTED, "kernel %s (%d): not on the CPU, which has reference, gemv and gemm",
                         awq_kernel_name(spec->kernel), spec->kernel);
    return AWQ_OK;
}

static awq_status copy_bias(awq_context *context, const awq_tensor *bias, struct awqi_cpu_linear *linear)
{
    const struct awqi_columns *w = &linear->columns;
    void *memory;
    awq_status status = awqi_calloc(context, (uint64_t)w->panels * AWQI_PANEL, sizeof(float), "a bias", &memory);
    if (status != AWQ_OK) return status;
    linear->bias = memory;
    linear->size_bytes += (uint64_t)w->panels * AWQI_PANEL * sizeof(float);
    const unsigned char *values = awqi_tensor_data(bias);
    int64_t step = awqi_tensor_inner_stride(bias) * (int64_t)awq_dtype_size(bias->dtype);
    for (int64_t i = 0; i < w->panels * AWQI_PANEL; i++) {
        int64_t row = awqi_column_row(w, i / AWQI_PANEL, i % AWQI_PANEL);
        if (row >= 0) awqi_to_f32(bias->dtype, values + row * step, linear->bias + i, 1);
    }
    return AWQ_OK;
}

static awq_status copy_input_scale(awq_context *context, const awq_weight *weight, struct awqi_cpu_linear *linear)
{
    void *memory;
    awq_status status = awqi_alloc(context, (uint64_t)weight->k, sizeof(float), "an input scale", &memory);
    if (status != AWQ_OK) return status;
    linear->input_scale = memory;
    linear->size_bytes += (uint64_t)weight->k * sizeof(float);
    memcpy(memory, weight->input_scale, (size_t)weight->k * sizeof(float));
    return AWQ_OK;
}

static void describe_weight(const struct awqi_linear_spec *spec, awq_kernel_request *request)
{
    awq_struct_init(request, sizeof *request);
    request->dtype = AWQ_F32;
    request->activation = spec->activation;
    if (spec->weight != NULL) {
        request->n = spec->weight->n;
        request->k = spec->weight->k;
        request->bits = spec->weight->bits;
        request->group_size = spec->weight->group_size;
        request->flags = spec->weight->symmetric ? AWQ_QUANTIZE_SYMMETRIC : 0;
    } else {
        request->n = spec->dense->shape[0];
        request->k = spec->dense->shape[1];
        request->bits = 8 * (int32_t)awq_dtype_size(spec->dense->dtype);
    }
}

static awq_status prepare_weight(awq_context *context, const struct awqi_linear_spec *spec,
                                 struct awqi_cpu_linear *linear)
{
    const bool paired = (spec->flags & AWQ_LINEAR_SILU_MUL) != 0;
    linear->dense = spec->weight == NULL;
    awq_status status = linear->dense ? awqi_panels_create(context, spec->dense, paired, &linear->panels)
                                      : awqi_stream_create(context, spec->weight, paired, &linear->stream);
    if (status == AWQ_OK && !linear->dense)
        status = awqi_linear_salient_create(context, spec->weight, paired, &linear->salient);
    linear->columns = linear->dense ? linear->panels.columns : linear->stream.columns;
    linear->k = linear->dense ? linear->panels.k : linear->stream.k;
    linear->size_bytes = sizeof *linear + linear->panels.size_bytes + linear->stream.size_bytes +
                         awqi_linear_salient_size(&linear->salient);
    return status;
}

awq_status awqi_cpu_linear_prepare(void *device, const struct awqi_linear_spec *spec, void **prepared)
{
    struct awqi_cpu_device *cpu = device;
    awq_status status = check_spec(spec);
    void *memory = NULL;
    if (status == AWQ_OK) status = awqi_calloc(cpu->context, 1, sizeof(struct awqi_cpu_linear), "a linear", &memory);
    if (status != AWQ_OK) return status;
    struct awqi_cpu_linear *linear = memory;
    linear->kernel = spec->kernel;
    linear->tuning = spec->tuning;
    describe_weight(spec, &linear->request);
    linear->activation = spec->activation;
    status = prepare_weight(cpu->context, spec, linear);
    if (status == AWQ_OK && spec->bias != NULL) status = copy_bias(cpu->context, spec->bias, linear);
    if (status == AWQ_OK && spec->weight != NULL && spec->weight->input_scale != NULL)
        status = copy_input_scale(cpu->context, spec->weight, linear);
    if (status != AWQ_OK) {
        awqi_cpu_linear_release(device, linear);
        return status;
    }
    *prepared = linear;
    return AWQ_OK;
}

void awqi_cpu_linear_release(void *device, void *prepared)
{
    struct awqi_cpu_device *cpu = device;
    struct awqi_cpu_linear *linear = prepared;
    if (linear == NULL) return;
    awqi_stream_destroy(cpu->context, &linear->stream);
    awqi_panels_destroy(cpu->context, &linear->panels);
    awqi_linear_salient_destroy(cpu->context, &linear->salient);
    awqi_free(cpu->context, linear->bias);
    awqi_free(cpu->context, linear->input_scale);
    awqi_free(cpu->context, linear);
}

uint64_t awqi_cpu_linear_size(void *device, const void *prepared)
{
    (void)device;
    return ((const struct awqi_cpu_linear *)prepared)->size_bytes;
}

int32_t awqi_cpu_linear_choose(void *device, const void *prepared, int64_t rows, char *buffer, size_t capacity,
                               size_t *length)
{
    const struct awqi_cpu_device *cpu = device;
    const struct awqi_cpu_linear *linear = prepared;
    awq_kernel_request request = linear->request;
    request.rows = rows;
    int32_t kernel = linear->kernel;
    const char *reason = "forced for all batch sizes";
    if (kernel == AWQ_KERNEL_AUTO) {
        kernel = awqi_tuning_lookup(linear->tuning, &request);
        reason = "measured fastest for a batch of this size";
    }
    if (kernel == AWQ_KERNEL_AUTO) {
        (void)awq_kernel_select(&cpu->info, &request, &kernel, buffer, capacity, length);
        return kernel;
    }
    if (buffer == NULL && length == NULL) return kernel;
    char text[128];
    snprintf(text, sizeof text, "%s: taken: %s\n", awq_kernel_name(kernel), reason);
    awqi_copy_text(text, buffer, capacity, length);
    return kernel;
}
