/* A contestant of awq bench: ggml's product of 4-bit weights with F32 activations.
 *
 * Fair to ggml: weights are allocated in the buffer type CPU_REPACK and filled through ggml_backend_tensor_set, which
 * interleaves rows for the processor at hand, as llama.cpp does when it loads a model.  In the default buffer ggml runs
 * other, slower kernels.  One thread pool serves all runs, and what is computed is checked once.
 *
 *     peer_ggml [q4_0|q4_K]
 *
 * examples/awq/bench_peer.c describes the protocol. */
#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_COPIES = 64, CHECKED = 64 };

struct peer {
    enum ggml_type type;
    ggml_backend_t backend;
    struct ggml_threadpool *pool;
    int threads;
    /* Of the shape at hand. */
    int64_t n, k;
    float *w; /* its first CHECKED rows, unquantised */
    struct ggml_context *context;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *copies[MOST_COPIES];
    int count, next;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static float draw(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(int32_t)(state >> 32) * 0x1p-31f;
}

/* ---- weights */

static ggml_backend_buffer_type_t repack_type(void)
{
    ggml_backend_reg_t registry = ggml_backend_cpu_reg();
    void *function = ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts");
    ggml_backend_dev_get_extra_bufts_t get;
    memcpy(&get, &function, sizeof get); /* ISO C has no cast from an object pointer to a function pointer */
    ggml_backend_buffer_type_t *types = get ? get(ggml_backend_reg_dev_get(registry, 0)) : NULL;
    for (; types && *types; types++)
        if (strcmp(ggml_backend_buft_name(*types), "CPU_REPACK") == 0) return *types;
    return NULL;
}

static void close_shape(struct peer *peer)
{
    ggml_backend_buffer_free(peer->buffer);
    ggml_free(peer->context);
    free(peer->w);
    peer->buffer = NULL;
    peer->context = NULL;
    peer->w = NULL;
    peer->count = peer->next = 0;
}

/* Random rows, quantised by ggml; the first ones are kept to check with. */
static void *make_weight(struct peer *peer)
{
    const size_t row_bytes = ggml_row_size(peer->type, peer->k);
    unsigned char *packed = malloc(row_bytes * (size_t)peer->n);
    float *row = malloc((size_t)peer->k * sizeof *row);
    peer->w = malloc((size_t)(CHECKED * peer->k) * sizeof *peer->w);
    if (!packed || !row || !peer->w) abort();
    for (int64_t i = 0; i < peer->n; i++) {
        for (int64_t j = 0; j < peer->k; j++) row[j] = draw();
        if (i < CHECKED) memcpy(peer->w + i * peer->k, row, (size_t)peer->k * sizeof *row);
        ggml_quantize_chunk(peer->type, row, packed + (size_t)i * row_bytes, 0, 1, peer->k, NULL);
    }
    free(row);
    return packed;
}

static const char *open_shape(struct peer *peer, int64_t n, int64_t k, int bits, uint64_t bytes)
{
    close_shape(peer);
    if (bits != 4) return "only 4 bits are compared";
    if (k % ggml_blck_size(peer->type) != 0) return "K is no multiple of its blocks";
    ggml_backend_buffer_type_t type = repack_type();
    if (!type) return "this build of ggml repacks nothing, so it would not be at its best";
    peer->n = n;
    peer->k = k;
    peer->context = ggml_init((struct ggml_init_params){MOST_COPIES * ggml_tensor_overhead(), NULL, true});
    uint64_t held = 0;
    while (peer->count < MOST_COPIES && (held <= bytes || peer->count < 2)) {
        peer->copies[peer->count] = ggml_new_tensor_2d(peer->context, peer->type, k, n);
        held += ggml_nbytes(peer->copies[peer->count++]);
    }
    peer->buffer = ggml_backend_alloc_ctx_tensors_from_buft(peer->context, type);
    if (!peer->buffer) return "no memory for the weights";
    void *packed = make_weight(peer);
    for (int i = 0; i < peer->count; i++)
        ggml_backend_tensor_set(peer->copies[i], packed, 0, ggml_nbytes(peer->copies[i]));
    free(packed);
    return NULL;
}

/* ---- products */

/* One product for each copy, with x and y of 'rows' rows. */
struct batch {
    struct ggml_context *context;
    ggml_backend_buffer_t buffer;
    struct ggml_tensor *x, *y[MOST_COPIES];
    struct ggml_cgraph *graphs[MOST_COPIES];
    float *values; /* of x */
};

static bool batch_open(const struct peer *peer, int64_t rows, struct batch *batch)
{
    const size_t per_copy = 2 * ggml_tensor_overhead() + ggml_graph_overhead_custom(8, false);
    memset(batch, 0, sizeof *batch);
    batch->context = ggml_init((struct ggml_init_params){(MOST_COPIES + 1) * per_copy, NULL, true});
    batch->x = ggml_new_tensor_2d(batch->context, GGML_TYPE_F32, peer->k, rows);
    for (int i = 0; i < peer->count; i++) {
        batch->y[i] = ggml_mul_mat(batch->context, peer->copies[i], batch->x);
        batch->graphs[i] = ggml_new_graph_custom(batch->context, 8, false);
        ggml_build_forward_expand(batch->graphs[i], batch->y[i]);
        if (!ggml_backend_supports_op(peer->backend, batch->y[i])) return false;
    }
    batch->buffer = ggml_backend_alloc_ctx_tensors(batch->context, peer->backend);
    batch->values = malloc((size_t)(rows * peer->k) * sizeof *batch->values);
    if (!batch->buffer || !batch->values) return false;
    for (int64_t i = 0; i < rows * peer->k; i++) batch->values[i] = draw();
    ggml_backend_tensor_set(batch->x, batch->values, 0, ggml_nbytes(batch->x));
    return true;
}

static void batch_close(struct batch *batch)
{
    ggml_backend_buffer_free(batch->buffer);
    ggml_free(batch->context);
    free(batch->values);
}

static double run_once(struct peer *peer, struct batch *batch)
{
    const double begin = now();
    ggml_backend_graph_compute(peer->backend, batch->graphs[peer->next++ % peer->count]);
    return now() - begin;
}

/* The first outputs differ from those of the unquantised weights by what rounding to 4 bits may do, and no more. */
static bool is_right(const struct peer *peer, const struct batch *batch, int copy)
{
    float y[CHECKED];
    const int64_t count = peer->n < CHECKED ? peer->n : CHECKED;
    double square = 0, difference = 0;
    ggml_backend_tensor_get(batch->y[copy], y, 0, (size_t)count * sizeof *y);
    for (int64_t i = 0; i < count; i++) {
        double exact = 0;
        for (int64_t j = 0; j < peer->k; j++) exact += (double)peer->w[i * peer->k + j] * batch->values[j];
        square += exact * exact;
        difference += (y[i] - exact) * (y[i] - exact);
    }
    return difference < 0.04 * square;
}

static bool run(struct peer *peer, int64_t rows, int64_t runs)
{
    struct batch batch;
    bool ok = peer->count > 0 && rows > 0 && runs > 0 && batch_open(peer, rows, &batch);
    if (!ok) return false;
    ggml_threadpool_resume(peer->pool);
    const int first = peer->next % peer->count;
    run_once(peer, &batch);
    ok = is_right(peer, &batch, first);
    for (int64_t i = 0; i < runs && ok; i++) printf("%s%.9g", i ? " " : "", run_once(peer, &batch));
    ggml_threadpool_pause(peer->pool); /* others have the processors now */
    batch_close(&batch);
    return ok;
}

/* ---- the protocol */

static void set_threads(struct peer *peer, int threads)
{
    if (peer->threads == threads) return;
    struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    struct ggml_threadpool *pool = ggml_threadpool_new(&params);
    ggml_backend_cpu_set_n_threads(peer->backend, threads);
    ggml_backend_cpu_set_threadpool(peer->backend, pool);
    if (peer->pool) ggml_threadpool_free(peer->pool);
    peer->pool = pool;
    peer->threads = threads;
}

/* Which tensors are repacked need not be said for each. */
static void log_problems(enum ggml_log_level level, const char *text, void *user_data)
{
    (void)user_data;
    if (level == GGML_LOG_LEVEL_WARN || level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

int main(int argc, char **argv)
{
    struct peer peer = {.type = GGML_TYPE_Q4_0};
    char line[256];
    if (argc > 1 && strcmp(argv[1], "q4_K") == 0) peer.type = GGML_TYPE_Q4_K;
    ggml_log_set(log_problems, NULL);
    peer.backend = ggml_backend_cpu_init();
    printf("awq-peer 1 ggml-%s\n", ggml_type_name(peer.type));
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        int64_t n, k, group, rows, runs;
        uint64_t bytes;
        int bits, threads;
        if (sscanf(line, "shape %" SCNd64 " %" SCNd64 " %d %" SCNd64 " %d %" SCNu64, &n, &k, &bits, &group, &threads,
                   &bytes) == 6) {
            set_threads(&peer, threads);
            const char *reason = open_shape(&peer, n, k, bits, bytes);
            if (reason) printf("no %s\n", reason);
            else printf("ok %zu %d\n", ggml_nbytes(peer.copies[0]), peer.count);
        } else if (sscanf(line, "run %" SCNd64 " %" SCNd64, &rows, &runs) == 2) {
            printf("%s\n", run(&peer, rows, runs) ? "" : "wrong or impossible");
        } else {
            printf("no such request\n");
        }
        fflush(stdout);
    }
    close_shape(&peer);
    ggml_backend_free(peer.backend);
    if (peer.pool) ggml_threadpool_free(peer.pool);
    return 0;
}
