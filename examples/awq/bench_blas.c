/* OpenBLAS's SGEMM, found at run time: what a host would do with FP32 weights. */
#include "bench.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_MAJOR = 101, NOT_TRANSPOSED = 111, TRANSPOSED = 112, MOST_COPIES = 16 };

typedef void (*sgemm_function)(int order, int transpose_a, int transpose_b, int m, int n, int k, float alpha,
                               const float *a, int a_stride, const float *b, int b_stride, float beta, float *c,
                               int c_stride);

struct blas {
    sgemm_function sgemm;
    void (*set_threads)(int threads);
    awq_context *context;
    struct bench_shape shape;
    int64_t rows;
    float *x, *y, *w[MOST_COPIES];
    int copies, next;
};

/* Once per process.  OpenBLAS starts threads of its own and by default has them spin long after a product, in the way
 * of the next contestant. */
static void *load(void)
{
    static void *library;
    if (library) return library;
    setenv("OPENBLAS_THREAD_TIMEOUT", "10", 0);
    const char *given = getenv("AWQ_OPENBLAS");
    if (given && *given) return library = dlopen(given, RTLD_NOW | RTLD_LOCAL);
    library = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL);
    return library;
}

static bool find(void *library, const char *name, void *function)
{
    void *symbol = dlsym(library, name);
    memcpy(function, &symbol, sizeof symbol); /* ISO C has no cast from an object pointer to a function pointer */
    return symbol != NULL;
}

static awq_status work(void *user_data, void *stream)
{
    struct blas *blas = user_data;
    const int n = (int)blas->shape.n, k = (int)blas->shape.k;
    (void)stream;
    blas->sgemm(ROW_MAJOR, NOT_TRANSPOSED, TRANSPOSED, (int)blas->rows, n, k, 1.0f, blas->x, k,
                blas->w[blas->next++ % blas->copies], k, 0.0f, blas->y, n);
    return AWQ_OK;
}

static bool run(void *state, int64_t rows, int64_t runs, double *seconds)
{
    struct blas *blas = state;
    blas->rows = rows;
    awq_status status = awq_context_time(blas->context, work, blas, runs, seconds);
    return status == AWQ_OK || cli_library_error(status, "OpenBLAS");
}

static void close_blas(void *state)
{
    struct blas *blas = state;
    for (int i = 0; i < blas->copies; i++) free(blas->w[i]);
    free(blas->x);
    free(blas->y);
    free(blas);
}

static float *filled(int64_t count)
{
    float *values = malloc((size_t)count * sizeof *values);
    for (int64_t i = 0; values && i < count; i++) values[i] = (float)(i * 2654435761u % 1021) * 1e-3f - 0.5f;
    return values;
}

bool bench_blas_open(const struct bench_problem *problem, struct bench_contestant *contestant)
{
    void *library = load();
    const int64_t n = problem->shape.n, k = problem->shape.k;
    if (!library || n > INT32_MAX || k > INT32_MAX || problem->max_rows > INT32_MAX) return false;
    struct blas *blas = calloc(1, sizeof *blas);
    if (!blas) return false;
    const uint64_t bytes = (uint64_t)(n * k) * sizeof(float);
    int wanted = problem->copies ? problem->copies : bench_copies(problem->machine, bytes);
    if (wanted > MOST_COPIES) wanted = MOST_COPIES;
    bool ok = find(library, "cblas_sgemm", &blas->sgemm) &&
              find(library, "openblas_set_num_threads", &blas->set_threads);
    blas->context = problem->context;
    blas->shape = problem->shape;
    blas->x = filled(problem->max_rows * k);
    blas->y = filled(problem->max_rows * n);
    while (ok && blas->copies < wanted && (blas->w[blas->copies] = filled(n * k))) blas->copies++;
    if (!ok || !blas->x || !blas->y || blas->copies < wanted) {
        close_blas(blas);
        return false;
    }
    blas->set_threads(problem->machine->device.compute_units);
    *contestant = (struct bench_contestant){.name = "openblas", .kind = BENCH_PEER, .activation = AWQ_ACTIVATION_EXACT,
        .weight_bytes = bytes, .copies = blas->copies, .state = blas, .run = run, .close = close_blas};
    return true;
}
