/* Laying weights out in panels. */
#include "kernels.h"

struct pack_job {
    struct awqi_panels *panels;
    const awq_weight *weight;
    const awq_tensor *dense;
};

int64_t awqi_panel_row(const struct awqi_panels *w, int64_t panel, int64_t column)
{
    int64_t row = panel * AWQI_PANEL + column;
    if (!w->paired) return row < w->n ? row : -1;
    const int64_t half = AWQI_PANEL / 2;
    row = panel * half + column % half;
    if (row >= w->n / 2) return -1;
    return column < half ? row : w->n / 2 + row;
}

/* Where a code lies: its word within the panel, and the lowest bit in it. */
static int64_t code_word(const struct awqi_panels *w, int64_t input, int *shift)
{
    int64_t within = input % w->group_size, per_word = 32 / w->width;
    *shift = (int)(within % per_word) * w->width;
    return input / w->group_size * w->group_words + within / per_word;
}

float awqi_panel_weight(const struct awqi_panels *w, int64_t panel, int64_t column, int64_t input)
{
    int64_t index = (panel * w->k + input) * AWQI_PANEL + column;
    if (w->dtype != 0) {
        float value;
        awqi_to_f32(w->dtype, (const unsigned char *)w->values + index * (int64_t)awq_dtype_size(w->dtype), &value, 1);
        return value;
    }
    int shift;
    int64_t word = code_word(w, input, &shift);
    int64_t group = (panel * w->groups + input / w->group_size) * AWQI_PANEL + column;
    uint32_t codes = w->codes[(panel * w->panel_words + word) * AWQI_PANEL + column];
    int32_t code = (int32_t)(codes >> shift & ((1u << w->width) - 1));
    return (float)(code - w->zeros[group]) * w->scales[group];
}

static void pack_codes(void *user_data, int64_t panel)
{
    enum { BLOCK = 256 };
    const struct pack_job *job = user_data;
    struct awqi_panels *w = job->panels;
    for (int64_t column = 0; column < AWQI_PANEL; column++) {
        int64_t row = awqi_panel_row(w, panel, column);
        if (row < 0) continue;
        for (int64_t first = 0; first < w->k; first += BLOCK) {
            uint8_t codes[BLOCK];
            int64_t count = awqi_min64(BLOCK, w->k - first);
            awqi_weight_get_codes(job->weight, row, first, count, codes);
            for (int64_t i = 0; i < count; i++) {
                int shift;
                int64_t word = code_word(w, first + i, &shift);
                w->codes[(panel * w->panel_words + word) * AWQI_PANEL + column] |= (uint32_t)codes[i] << shift;
            }
        }
        for (int64_t group = 0; group < w->groups; group++) {
            int64_t index = (panel * w->groups + group) * AWQI_PANEL + column;
            w->scales[index] = awqi_weight_scale(job->weight, row, group);
            w->zeros[index] = (uint8_t)awqi_weight_zero(job->weight, row, group);
        }
    }
}

static void pack_dense(void *user_data, int64_t panel)
{
    const struct pack_job *job = user_data;
    const struct awqi_panels *w = job->panels;
    int64_t stride = awqi_tensor_inner_stride(job->dense);
    for (int64_t first = 0; first < w->k; first += AWQI_DEPTH) {
        int64_t count = awqi_min64(AWQI_DEPTH, w->k - first);
        for (int64_t column = 0; column < AWQI_PANEL; column++) {
            int64_t row = awqi_panel_row(w, panel, column);
            if (row < 0) continue;
            int64_t to = (panel * w->k + first) * AWQI_PANEL + column;
            if (w->dtype == AWQ_F32) {
                const float *from = (const float *)awqi_tensor_row(job->dense, row) + first * stride;
                for (int64_t i = 0; i < count; i++) ((float *)w->values)[to + i * AWQI_PANEL] = from[i * stride];
            } else {
                const uint16_t *from = (const uint16_t *)awqi_tensor_row(job->dense, row) + first * stride;
                for (int64_t i = 0; i < count; i++) ((uint16_t *)w->values)[to + i * AWQI_PANEL] = from[i * stride];
            }
        }
    }
}

static awq_status allocate_plane(awq_context *context, struct awqi_panels *w, uint64_t per_panel, uint64_t size,
                                 void **plane)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(per_panel, size * AWQI_PANEL, &bytes)) bytes = UINT64_MAX;
    awq_status status = awqi_calloc(context, (uint64_t)w->panels, bytes, "a prepared weight", plane);
    if (status == AWQ_OK) w->size_bytes += (uint64_t)w->panels * bytes;
    return status;
}

static awq_status allocate_codes(awq_context *context, const awq_weight *weight, struct awqi_panels *w)
{
    w->width = weight->bits == 3 ? 4 : weight->bits;
    w->group_size = weight->group_size;
    w->groups = weight->groups;
    int64_t per_word = 32 / w->width, last = w->k - (w->groups - 1) * w->group_size;
    w->group_words = awqi_ceil_div(w->group_size, per_word);
    w->panel_words = (w->groups - 1) * w->group_words + awqi_ceil_div(last, per_word);
    void *codes = NULL, *scales = NULL, *zeros = NULL;
    awq_status status = allocate_plane(context, w, (uint64_t)w->panel_words, sizeof *w->codes, &codes);
    if (status == AWQ_OK) status = allocate_plane(context, w, (uint64_t)w->groups, sizeof *w->scales, &scales);
    if (status == AWQ_OK) status = allocate_plane(context, w, (uint64_t)w->groups, sizeof *w->zeros, &zeros);
    w->codes = codes;
    w->scales = scales;
    w->zeros = zeros;
    return status;
}

awq_status awqi_panels_create(awq_context *context, const awq_weight *weight, const awq_tensor *dense, bool paired,
                              struct awqi_panels *panels)
{
    struct awqi_panels w = {
        .n = weight != NULL ? weight->n : dense->shape[0],
        .k = weight != NULL ? weight->k : dense->shape[1],
        .paired = paired,
        .dtype = weight != NULL ? 0 : dense->dtype,
    };
    w.panels = awqi_ceil_div(w.n, AWQI_PANEL);
    if (paired) w.panels = awqi_ceil_div(w.n / 2, AWQI_PANEL / 2);
    awq_status status = weight != NULL
                            ? allocate_codes(context, weight, &w)
                            : allocate_plane(context, &w, (uint64_t)w.k, awq_dtype_size(w.dtype), &w.values);
    if (status != AWQ_OK) {
        awqi_panels_destroy(context, &w);
        return status;
    }
    struct pack_job job = {&w, weight, dense};
    awqi_parallel_for(context, w.panels, weight != NULL ? pack_codes : pack_dense, &job);
    *panels = w;
    return AWQ_OK;
}

void awqi_panels_destroy(awq_context *context, struct awqi_panels *panels)
{
    awqi_free(context, panels->values);
    awqi_free(context, panels->codes);
    awqi_free(context, panels->scales);
    awqi_free(context, panels->zeros);
}
