/* Lesson 3: a quantised layer goes into a safetensors file in the layout that vLLM and transformers load, and comes back.
 *
 * Introduces: pack, planes, checkpoint writer, checkpoint, unpack, export. */
#include <awq.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 64, K = 256, GROUPS = K / 128 };

#define TRY(call) if ((status = (call)) != AWQ_OK) goto done

/* Write every plane of 'packed' as "layer.<plane>". */
static awq_status write_layer(awq_context *ctx, const awq_packed *packed, const char *directory)
{
    awq_checkpoint_writer *writer = NULL;
    awq_status status;
    TRY(awq_checkpoint_writer_create(ctx, directory, NULL, &writer));
    for (size_t i = 0; i < awq_packed_plane_count(packed); i++) {
        const char *plane;
        char name[64];
        awq_tensor view;
        TRY(awq_packed_get_plane(packed, i, &plane, &view));
        snprintf(name, sizeof name, "layer.%s", plane);
        printf("%s: %s [%lld][%lld]\n", name, awq_dtype_name(view.dtype), (long long)view.shape[0], (long long)view.shape[1]);
        TRY(awq_checkpoint_writer_add(writer, name, &view));
    }
    TRY(awq_checkpoint_writer_commit(writer)); /* only now does the directory exist */
done:
    awq_checkpoint_writer_destroy(writer);
    return status;
}

static awq_status read_layer(awq_context *ctx, const char *directory, awq_weight **weight)
{
    static const char *const planes[] = {"qweight", "qzeros", "scales"};
    awq_checkpoint *checkpoint = NULL;
    awq_tensor views[3];
    const awq_tensor *pointers[3];
    awq_status status;
    TRY(awq_checkpoint_open(ctx, directory, &checkpoint));
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "layer.%s", planes[i]);
        TRY(awq_checkpoint_get(checkpoint, name, &views[i]));
        pointers[i] = &views[i];
    }
    TRY(awq_unpack(ctx, AWQ_LAYOUT_GEMM, 3, planes, pointers, NULL, weight)); /* group size from the shapes */
done:
    awq_checkpoint_destroy(checkpoint); /* the weight owns copies */
    return status;
}

int main(void)
{
    static float values[N * K];
    static uint8_t codes[2][N * K], zeros[2][N * GROUPS];
    for (int i = 0; i < N * K; i++) values[i] = (float)((i * 7919) % 1009) / 1009.0f - 0.4f;

    char directory[] = "/tmp/awq-lesson-XXXXXX", model[64], file[96];
    if (mkdtemp(directory) == NULL) return EXIT_FAILURE;
    snprintf(model, sizeof model, "%s/model", directory);

    awq_status status;
    awq_context *ctx = NULL;
    awq_weight *weight[2] = {NULL};
    awq_packed *packed = NULL;
    awq_tensor w;
    awq_tensor_init_const_2d(&w, values, AWQ_F32, N, K);
    TRY(awq_context_create(NULL, &ctx));
    TRY(awq_quantize(ctx, &w, NULL, NULL, &weight[0]));
    TRY(awq_pack(ctx, weight[0], AWQ_LAYOUT_GEMM, &packed));
    TRY(write_layer(ctx, packed, model));
    TRY(read_layer(ctx, model, &weight[1]));
    for (int i = 0; i < 2; i++) {
        awq_tensor c, z;
        awq_tensor_init_2d(&c, codes[i], AWQ_U8, N, K);
        awq_tensor_init_2d(&z, zeros[i], AWQ_U8, N, GROUPS);
        TRY(awq_weight_export(weight[i], &c, NULL, &z, NULL));
    }
    printf("codes and zero points read back: %s\n",
           memcmp(codes[0], codes[1], sizeof codes[0]) || memcmp(zeros[0], zeros[1], sizeof zeros[0]) ? "different" : "the same");
done:
    if (status != AWQ_OK) fprintf(stderr, "%s: %s\n", awq_status_name(status), awq_last_error());
    awq_packed_destroy(packed);
    awq_weight_destroy(weight[0]);
    awq_weight_destroy(weight[1]);
    awq_context_destroy(ctx);
    snprintf(file, sizeof file, "%s/model.safetensors", model);
    remove(file);
    remove(model);
    remove(directory);
    return status == AWQ_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}
