/* Descriptions to configurations: pure functions, tested without a device.
 *
 * Shared memory decides most: a ring of weights deep enough that, over all blocks of a multiprocessor, about 32 KiB are
 * under way (what a multiprocessor of an H200 must have outstanding at its bandwidth and latency; others need less),
 * and beside it room for x and for the sums. */
#include "host.h"

#include <stdio.h>

enum {
    SET_BYTES = 256,       /* scales of 64 columns, of any dtype */
    STEP_ZEROS = 8,        /* bytes of zero points of 64 columns per bit of a code */
    BLOCK_RESERVED = 1024, /* shared memory that the driver keeps of each block */
    GEMV_WARPS = 8,
    GEMV_SPAN = 24,   /* blocks of inputs: x of 1536 inputs at a time */
    GEMV_SWEEPS = 16, /* of one launch */
    GEMM_WARPS = 4,
    GEMM_COLUMNS = 128,
    GEMM_STAGES = 6,
    HOPPER_THREADS = 256, /* that have sums */
    HOPPER_STAGES = 8,
    HOPPER_TILE = 32 * (GEMM_COLUMNS + 4) * 4, /* bytes of sums on their way to y */
    HOPPER_SETS = 576,                         /* of scales and zero points of 128 columns */
    DEQUANT_ROWS = 2048,
    DEQUANT_SPLITS = 16,                 /* cuBLASLt may keep as many sums of each output */
    DEQUANT_LEAST_WORKSPACE = 1 << 20,
    DEQUANT_MOST_WORKSPACE = 32 << 20, /* what NVIDIA advises for Hopper */
};

int32_t awqi_cuda_compute_dtype(const struct cuda_facts *facts, int32_t activation, int32_t x_dtype)
{
    const bool single = activation == AWQ_ACTIVATION_EXACT || activation == AWQ_ACTIVATION_SPLIT;
    if (single || (x_dtype == AWQ_F32 && activation == AWQ_ACTIVATION_DEFAULT)) return AWQ_F32;
    const int32_t dtype = x_dtype == AWQ_F16 ? AWQ_F16 : AWQ_BF16;
    return dtype == AWQ_BF16 && facts->capability < 80 ? AWQ_F32 : dtype;
}

bool awqi_cuda_takes(const struct cuda_weight *weight, int32_t kernel, int32_t dtype, const char **reason)
{
    *reason = NULL;
    switch (kernel) {
    case AWQ_KERNEL_REFERENCE: return true;
    case AWQ_KERNEL_GEMV:
        if (weight->storage != CUDA_BLOCKS) *reason = "it reads the layout cuda-block only";
        else if (weight->bits != 4) *reason = "it takes codes of up to 4 bits";
        break;
    case AWQ_KERNEL_GEMM:
        if (weight->storage != CUDA_BLOCKS) *reason = "it reads the layout cuda-block only";
        else if (dtype == AWQ_F32) *reason = "activations in single precision do not fit tensor cores";
        break;
    case AWQ_KERNEL_MARLIN:
        if (weight->storage != CUDA_MARLIN_TILES)
            *reason = "it reads the layout marlin only, which is made when it is forced";
        else if (dtype == AWQ_F32) *reason = "activations in single precision do not fit tensor cores";
        break;
    case AWQ_KERNEL_HOPPER:
        if (weight->storage != CUDA_BLOCKS) *reason = "it reads the layout cuda-block only";
        else if (weight->bits != 4) *reason = "it takes codes of up to 4 bits";
        else if (dtype == AWQ_F32) *reason = "activations in single precision do not fit tensor cores";
        break;
    case AWQ_KERNEL_DEQUANT:
        if (dtype == AWQ_F32) *reason = "activations in single precision do not fit tensor cores";
        else if (weight->storage == CUDA_DENSE && weight->scale_dtype != dtype)
            *reason = "the dense weight is of another type than the activations";
        else if (weight->storage != CUDA_DENSE && weight->storage != CUDA_BLOCKS)
            *reason = "it reads the layout cuda-block only";
        break;
    default: *reason = "it is not in this version"; break;
    }
    return *reason == NULL;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Bytes of scales and zero points that go with a unit of work. */
static int32_t sets_bytes(const struct cuda_weight *weight, bool fine)
{
    return (fine ? 4 : 1) * (SET_BYTES + STEP_ZEROS * weight->bits);
}

static void plan_gemv(const struct cuda_facts *facts, const struct cuda_weight *weight, int64_t rows,
                      struct cuda_config *config)
{
    config->tensor_cores = config->dtype != AWQ_F32;
    config->token_rows = config->tensor_cores ? 8 : rows == 1 ? 1 : 4;
    config->launch_rows = GEMV_SWEEPS * config->token_rows;
    const int32_t ring = GEMV_WARPS * (CUDA_BLOCK * CUDA_BLOCK / 2 + sets_bytes(weight, config->fine));
    const int32_t x = CUDA_BLOCK * config->token_rows * (config->tensor_cores ? 2 : 4);
    const int32_t sums = (GEMV_WARPS * CUDA_BLOCK + 1) * config->token_rows * (int32_t)sizeof(float);
    const int32_t wanted = (int32_t)least(weight->input_blocks, GEMV_SPAN);
    int32_t resident = 2, room = 0;
    for (config->stages = 0; resident >= 1 && config->stages == 0; resident--) {
        room = (int32_t)least(facts->shared_block, facts->shared_multiprocessor / resident - BLOCK_RESERVED) - sums;
        for (int32_t stages = 3; stages >= 2 && config->stages == 0; stages--)
            if (stages * ring + wanted * x <= room) config->stages = stages;
        if (config->stages != 0) break;
    }
    if (config->stages == 0) {
        resident = 1;
        config->stages = 2 * ring + x <= room ? 2 : 1;
    }
    config->span = (int32_t)least(wanted, (room - config->stages * ring) / x);
    config->shared_bytes = config->stages * ring + config->span * x + sums;
    const int64_t units = (int64_t)weight->column_blocks * weight->input_blocks;
    const int64_t sweeps = ceil_div(least(rows, config->launch_rows), config->token_rows);
    config->blocks = (int32_t)least(ceil_div(units, GEMV_WARPS), (int64_t)resident * facts->multiprocessors);
    config->partial_bytes = (uint64_t)(sweeps * 2 * config->blocks * CUDA_BLOCK * config->token_rows) * sizeof(float);
    config->ticket_bytes = (uint64_t)(sweeps * weight->column_blocks) * sizeof(uint64_t);
}

/* Bytes of shared memory of one stage of gemm's ring. */
static int32_t gemm_stage(const struct cuda_weight *weight, bool fine, int32_t tokens)
{
    const int32_t codes = CUDA_BLOCK * CUDA_BLOCK / 4 * weight->bits / 4;
    return GEMM_WARPS * (codes + sets_bytes(weight, fine)) + tokens * CUDA_BLOCK * 2;
}

static void plan_gemm(const struct cuda_facts *facts, const struct cuda_weight *weight, int64_t rows,
                      struct cuda_config *config)
{
    int32_t tokens = rows <= 8 ? 8 : rows <= 16 ? 16 : rows <= 32 ? 32 : 64;
    int32_t stage = 0, sums = 0, resident = 0;
    for (;; tokens /= 2) { /* less than two stages is no ring */
        stage = gemm_stage(weight, config->fine, tokens);
        sums = tokens * GEMM_COLUMNS * (int32_t)sizeof(float);
        for (resident = tokens == 8 ? 4 : tokens == 16 ? 3 : 2; resident >= 1; resident /= 2) { /* as registers allow */
            const int64_t room =
                least(facts->shared_block, facts->shared_multiprocessor / resident - BLOCK_RESERVED) - sums;
            config->stages = (int32_t)least(GEMM_STAGES, room / stage);
            if (config->stages >= 3 || resident == 1) break;
        }
        if (config->stages >= 2 || tokens == 8) break;
    }
    config->tensor_cores = true;
    config->token_rows = tokens;
    config->shared_bytes = config->stages * stage + sums;
    const int64_t tiles = ceil_div(weight->column_blocks, 2) * ceil_div(ceil_div(rows, 8), tokens / 8);
    config->blocks =
        (int32_t)least(ceil_div(tiles * weight->input_blocks, 4), (int64_t)resident * facts->multiprocessors);
    config->staged_bytes = (uint64_t)(rows * weight->input_blocks * CUDA_BLOCK) * 2u;
    config->partial_bytes = (uint64_t)(2 * (int64_t)config->blocks * tokens * GEMM_COLUMNS) * sizeof(float);
    config->ticket_bytes = (uint64_t)tiles * sizeof(uint64_t);
}

/* Thread blocks: as many as there is room for, but fewer where that is at most a tenth and lets each have whole tiles,
 * whose sums need not be put together. */
static int32_t hopper_blocks(int64_t tiles, int32_t input_blocks, int64_t room)
{
    for (int64_t blocks = least(tiles, room); 10 * blocks >= 9 * room; blocks--)
        if (tiles % blocks == 0) return (int32_t)blocks;
    return (int32_t)least(ceil_div(tiles * input_blocks, 4), room);
}

static void plan_hopper(const struct cuda_facts *facts, const struct cuda_weight *weight, int64_t rows,
                        struct cuda_config *config)
{
    static const int32_t sizes[] = {16, 32, 64, 96, 128, 192, 256};
    const int64_t eights = ceil_div(rows, 8), parts = ceil_div(eights, 32);
    int32_t tokens = 256;
    for (int i = 6; i >= 0 && sizes[i] >= 8 * ceil_div(eights, parts); i--) tokens = sizes[i];
    config->tensor_cores = true;
    config->plain = !config->fine && weight->scale_dtype == config->dtype;
    const int32_t fixed = HOPPER_TILE + 2 * HOPPER_STAGES * 8 + 16;
    const int32_t sets = ((config->plain ? 1 : 4) * HOPPER_SETS + 1023) / 1024 * 1024;
    const int32_t stage = tokens * CUDA_BLOCK * 2 + CUDA_BLOCK * CUDA_BLOCK + sets;
    const int32_t resident = tokens <= (config->plain ? 64 : 32) ? 2 : 1; /* as registers allow */
    const int64_t room = least(facts->shared_block, facts->shared_multiprocessor / resident - BLOCK_RESERVED) - fixed;
    config->stages = (int32_t)least(HOPPER_STAGES, room / stage);
    config->token_rows = tokens;
    config->shared_bytes = config->stages * stage + fixed;
    const int64_t tiles = ceil_div(weight->column_blocks, 2) * parts, most = (int64_t)resident * facts->multiprocessors;
    config->blocks = hopper_blocks(tiles, weight->input_blocks, most);
    config->staged_bytes = (uint64_t)(8 * eights * weight->input_blocks * CUDA_BLOCK) * 2u;
    /* Not of 'blocks', which does not always grow with the rows. */
    config->partial_bytes = (uint64_t)(least(ceil_div(tiles * weight->input_blocks, 4), most) * HOPPER_THREADS *
                                       tokens) * sizeof(float);
    config->ticket_bytes = (uint64_t)tiles * sizeof(uint64_t);
}

/* Rows in batches, so that the sums of all columns stay within bounds. */
static void plan_dequant(const struct cuda_weight *weight, int64_t rows, struct cuda_config *config)
{
    const int64_t batch = least(rows, DEQUANT_ROWS), columns = (int64_t)weight->column_blocks * CUDA_BLOCK;
    const uint64_t inputs = (uint64_t)weight->input_blocks * CUDA_BLOCK;
    config->tensor_cores = true;
    config->launch_rows = DEQUANT_ROWS;
    config->staged_bytes = (uint64_t)batch * inputs * 2u;
    config->dense_bytes = weight->storage == CUDA_DENSE ? 0 : (uint64_t)columns * inputs * 2u;
    config->partial_bytes = (uint64_t)(batch * columns) * sizeof(float);
    const int64_t splits = DEQUANT_SPLITS * (int64_t)config->partial_bytes;
    config->ticket_bytes = (uint64_t)least(splits > DEQUANT_LEAST_WORKSPACE ? splits : DEQUANT_LEAST_WORKSPACE,
                                           DEQUANT_MOST_WORKSPACE);
}

void awqi_cuda_plan(const struct cuda_facts *facts, const struct cuda_weight *weight, int32_t kernel, int32_t dtype,
                    int64_t rows, struct cuda_config *config)
{
    memset(config, 0, sizeof *config);
    config->kernel = kernel;
    config->dtype = dtype;
    config->launch_rows = INT32_MAX;
    config->fine = weight->groups > 1 && weight->group_size % CUDA_BLOCK != 0;
    if (kernel == AWQ_KERNEL_GEMV) plan_gemv(facts, weight, rows, config);
    if (kernel == AWQ_KERNEL_GEMM || kernel == AWQ_KERNEL_MARLIN) plan_gemm(facts, weight, rows, config);
    if (kernel == AWQ_KERNEL_HOPPER) plan_hopper(facts, weight, rows, config);
    if (kernel == AWQ_KERNEL_DEQUANT) plan_dequant(weight, rows, config);
    config->kept_bytes = (uint64_t)(least(rows, config->launch_rows) * weight->salient_count) * sizeof(float);
}

uint64_t awqi_cuda_plan_workspace(const struct cuda_config *config)
{
    return awqi_cuda_align(config->staged_bytes) + awqi_cuda_align(config->dense_bytes) +
           awqi_cuda_align(config->partial_bytes) + awqi_cuda_align(config->ticket_bytes) +
           awqi_cuda_align(config->kept_bytes);
}

void awqi_cuda_plan_text(const struct cuda_config *config, char *text, size_t capacity)
{
    static const char *const dtypes[] = {[AWQ_F32] = "F32", [AWQ_F16] = "F16", [AWQ_BF16] = "BF16"};
    if (config->blocks == 0) {
        snprintf(text, capacity, "runs as: %s",
                 config->kernel == AWQ_KERNEL_DEQUANT ? "a product of dense matrices by cuBLASLt"
                                                      : "one warp per output");
        return;
    }
    snprintf(text, capacity, "runs as: %s on %s, %d rows a tile, %d stripes, %d stages, %d bytes of shared memory",
             dtypes[config->dtype], config->tensor_cores ? "tensor cores" : "single-precision arithmetic",
             config->token_rows, config->blocks, config->stages, config->shared_bytes);
}
