/* A packed format: how it turns a weight into named planes and back.  docs/layouts.md has the bit diagrams. */
#ifndef AWQI_LAYOUT_H
#define AWQI_LAYOUT_H

#include "../weight.h"

enum { AWQI_MAX_PLANES = 4 };

/* Planes that somebody gave, each on the CPU, present, and of a name the format knows. */
struct awqi_planes {
    size_t count;
    const char *const *names;
    const awq_tensor *const *tensors;
};

struct awqi_layout {
    int32_t id;
    const char *name;
    const char *planes[AWQI_MAX_PLANES]; /* the names of its planes; NULL: none */
    /* Both NULL when this version has the format only as a name.  'pack' adds planes with awqi_packed_add; 'unpack'
     * gets whole options with bits set.  Texts of failures are preceded by the name of the format. */
    awq_status (*pack)(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed);
    awq_status (*unpack)(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                         const awq_unpack_options *options, awq_weight **weight);
};

/* ---- layout.c: what formats share */

/* Add a zeroed plane; *data is its memory.  'name' is kept, not copied. */
awq_status awqi_packed_add(awq_packed *packed, const char *name, int32_t dtype, int32_t ndim, const int64_t *shape,
                           void **data);

/* The context that 'packed' belongs to, for parallel work. */
awq_context *awqi_packed_context(const awq_packed *packed);

/* AWQ_ERROR_UNSUPPORTED when the weight has an input scale, which none of the checkpoint formats can hold, or a short
 * last group, which none of their readers accepts; a single group may be shorter than group_size when
 * 'single_may_be_short'. */
awq_status awqi_layout_check_weight(const awq_weight *weight, bool single_may_be_short);

/* Plane 'name' with dtype in the set 'dtypes' and the shape [rows][columns], where -1 leaves an extent open.  NULL and
 * AWQ_OK when it is missing and not 'required'. */
awq_status awqi_planes_find(const struct awqi_planes *planes, const char *name, bool required, uint32_t dtypes,
                            int64_t rows, int64_t columns, const awq_tensor **plane);

/* Resolve options for a weight of k inputs whose scales come in 'groups' groups. */
awq_status awqi_layout_resolve(const awq_unpack_options *options, int64_t k, int64_t groups, int32_t scale_dtype,
                               struct awqi_quantizer *quantizer);

/* Fill the scales of 'weight' from a plane [n][groups], or [groups][n] when 'transposed'. */
awq_status awqi_layout_read_scales(awq_weight *weight, const awq_tensor *plane, bool transposed);

/* Element [row][column] of a plane of 32-bit words. */
static inline uint32_t awqi_plane_word(const awq_tensor *plane, int64_t row, int64_t column)
{
    return ((const uint32_t *)awqi_tensor_data(plane))[row * plane->strides[0] + column * plane->strides[1]];
}

/* ---- the formats */

awq_status awqi_gemm_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed);
awq_status awqi_gemm_unpack(const struct awqi_layout *layout, awq_context *context, const struct awqi_planes *planes,
                            const awq_unpack_options *options, awq_weight **weight);

awq_status awqi_compressed_pack(const struct awqi_layout *layout, const awq_weight *weight, awq_packed *packed);
awq_status awqi_compressed_unpack(const struct awqi_layout *layout, awq_context *context,
                                  const struct awqi_planes *planes, const awq_unpack_options *options,
                                  awq_weight **weight);

#endif /* AWQI_LAYOUT_H */
