/* What `awq estimate` computes: memory from config.json and the headers of the checkpoint, of which no weight is read.
 *
 * estimate_sizes.c computes, estimate.c has the options and prints. */
#ifndef AWQ_APP_ESTIMATE_H
#define AWQ_APP_ESTIMATE_H

#include "model.h"

/* What a checkpoint's files hold, in bytes. */
struct file_sizes {
    uint64_t codes, scales, zeros, salient; /* of quantised linears; scales within codes in the format cpu-stream */
    uint64_t dense;                         /* linears as they are, the head among them */
    uint64_t embeddings;
    uint64_t other;                         /* norms, biases, routers */
};

/* How a model runs. */
struct inference_request {
    int32_t device_type;       /* AWQ_DEVICE_* */
    bool quantized;            /* the format of 'quantization', or that of the files where they are quantised */
    struct quantization quantization;
    double salient_fraction;   /* of input channels, in FP16 beside the codes */
    int64_t batch;             /* sequences at once */
    int64_t context;           /* positions of each */
    int64_t prompt;            /* tokens of each that run at once at the beginning */
};

/* What that holds, in bytes. */
struct inference_sizes {
    uint64_t codes, scales, zeros, salient, dense, embeddings, other;
    uint64_t weights;     /* all of the above */
    uint64_t cache;       /* keys and values */
    uint64_t activations; /* between linears, with the logits */
    uint64_t workspace;   /* of linears */
    uint64_t loading;     /* one block on its way from the files: before there is a cache, so not beside it */
    uint64_t total;       /* the weights, and either what runs or what loads */
    /* Read at least to decode a token of each sequence at full context: the weights but for embeddings and experts that
     * are not needed, and the keys and values that are seen. */
    uint64_t step;
};

/* A model's files, opened. */
struct estimated_model {
    struct model_config config;
    awq_checkpoint *checkpoint;
    struct file_sizes files;
};

/* Open and check: every tensor that a model so configured has must be there, in the shape that config.json makes it. */
bool estimated_model_open(awq_context *context, const char *directory, struct estimated_model *model);
void estimated_model_close(struct estimated_model *model);

/* Of an opened model; fails where the bytes exceed what 64 bits count. */
bool estimate_inference(const struct estimated_model *model, const struct inference_request *request,
                        struct inference_sizes *sizes);

#endif
