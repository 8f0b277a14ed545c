/* Dense products by cuBLASLt, loaded when it is there: under its usual name, or from where AWQ_CUBLASLT says. */
#include "host.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef AWQ_SIMT
#define LIBRARY NULL /* a stand-in is linked with the executor */
void *simt_cublaslt_function(const char *name);
#define dlsym(library, name) ((void)(library), simt_cublaslt_function(name))
#else
#define TEXT_OF(number)  #number
#define NAME_OF(version) "libcublasLt.so." TEXT_OF(version)
#define LIBRARY          NAME_OF(CUBLAS_VER_MAJOR)
#endif

enum { CACHE = 64, ALIGNMENT = 16 };

/* A product that an algorithm was found for. */
struct known {
    struct cuda_dense dense; /* pointers NULL */
    cublasLtMatmulAlgo_t algorithm;
};

struct cuda_blas {
    cublasLtHandle_t handle;
    __typeof__(&cublasLtCreate) create;
    __typeof__(&cublasLtDestroy) destroy;
    __typeof__(&cublasLtMatmul) matmul;
    __typeof__(&cublasLtMatmulAlgoGetHeuristic) find;
    __typeof__(&cublasLtMatmulDescCreate) operation_create;
    __typeof__(&cublasLtMatmulDescDestroy) operation_destroy;
    __typeof__(&cublasLtMatmulDescSetAttribute) operation_set;
    __typeof__(&cublasLtMatrixLayoutCreate) layout_create;
    __typeof__(&cublasLtMatrixLayoutDestroy) layout_destroy;
    __typeof__(&cublasLtMatmulPreferenceCreate) preference_create;
    __typeof__(&cublasLtMatmulPreferenceDestroy) preference_destroy;
    __typeof__(&cublasLtMatmulPreferenceSetAttribute) preference_set;
    pthread_mutex_t lock; /* of what follows */
    int64_t count;        /* products found so far; the last CACHE of them are known */
    struct known known[CACHE];
};

/* ---- loading */

static bool find_functions(struct cuda_blas *blas, void *library)
{
    const struct {
        const char *name;
        void *to;
    } wanted[] = {
        {"cublasLtCreate", &blas->create},
        {"cublasLtDestroy", &blas->destroy},
        {"cublasLtMatmul", &blas->matmul},
        {"cublasLtMatmulAlgoGetHeuristic", &blas->find},
        {"cublasLtMatmulDescCreate", &blas->operation_create},
        {"cublasLtMatmulDescDestroy", &blas->operation_destroy},
        {"cublasLtMatmulDescSetAttribute", &blas->operation_set},
        {"cublasLtMatrixLayoutCreate", &blas->layout_create},
        {"cublasLtMatrixLayoutDestroy", &blas->layout_destroy},
        {"cublasLtMatmulPreferenceCreate", &blas->preference_create},
        {"cublasLtMatmulPreferenceDestroy", &blas->preference_destroy},
        {"cublasLtMatmulPreferenceSetAttribute", &blas->preference_set},
    };
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(library, wanted[i].name);
        if (symbol == NULL) return false;
        memcpy(wanted[i].to, &symbol,
               sizeof symbol); /* ISO C has no cast from an object pointer to a function pointer */
    }
    return true;
}

void awqi_cuda_blas_open(struct cuda_blas **blas, char *missing, size_t capacity)
{
    *blas = NULL;
    const char *given = secure_getenv("AWQ_CUBLASLT");
    const char *path = given != NULL && *given != 0 ? given : LIBRARY;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL); /* for the life of the process */
    struct cuda_blas *opened = library != NULL ? calloc(1, sizeof *opened) : NULL;
    if (opened == NULL) {
        snprintf(missing, capacity, "cuBLASLt is missing: %s", library == NULL ? dlerror() : "no memory");
        return;
    }
    cublasStatus_t status = CUBLAS_STATUS_NOT_INITIALIZED;
    if (!find_functions(opened, library)) snprintf(missing, capacity, "cuBLASLt lacks a function");
    else if ((status = opened->create(&opened->handle)) != CUBLAS_STATUS_SUCCESS)
        snprintf(missing, capacity, "cuBLASLt does not start: status %d", (int)status);
    if (status != CUBLAS_STATUS_SUCCESS) {
        free(opened);
        return;
    }
    pthread_mutex_init(&opened->lock, NULL);
    *blas = opened;
}

void awqi_cuda_blas_close(struct cuda_blas *blas)
{
    if (blas == NULL) return;
    (void)blas->destroy(blas->handle);
    pthread_mutex_destroy(&blas->lock);
    free(blas);
}

/* ---- one product
 *
 * cuBLASLt counts along columns: its D[n][m] with neighbouring n is y[m][n], its A is W, to be transposed, and its B is
 * x. */

struct call {
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t w, x, y;
};

static cudaDataType_t type_of(int32_t dtype)
{
    return dtype == AWQ_F16 ? CUDA_R_16F : dtype == AWQ_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

static void call_close(const struct cuda_blas *blas, const struct call *call)
{
    if (call->y != NULL) (void)blas->layout_destroy(call->y);
    if (call->x != NULL) (void)blas->layout_destroy(call->x);
    if (call->w != NULL) (void)blas->layout_destroy(call->w);
    if (call->operation != NULL) (void)blas->operation_destroy(call->operation);
}

static cublasStatus_t call_open(const struct cuda_blas *blas, const struct cuda_dense *dense, struct call *call)
{
    const cublasOperation_t transposed = CUBLAS_OP_T;
    const uint64_t n = (uint64_t)dense->columns, m = (uint64_t)dense->rows, k = (uint64_t)dense->inputs;
    memset(call, 0, sizeof *call);
    cublasStatus_t status = blas->operation_create(&call->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->operation_set(call->operation, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->layout_create(&call->w, type_of(dense->dtype), k, n, dense->w_stride);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->layout_create(&call->x, type_of(dense->dtype), k, m, dense->x_stride);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->layout_create(&call->y, type_of(dense->y_dtype), n, m, dense->y_stride);
    return status;
}

static cublasStatus_t find_algorithm(struct cuda_blas *blas, const struct call *call, uint64_t workspace_bytes,
                                     cublasLtMatmulAlgo_t *algorithm)
{
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    const uint32_t alignment = ALIGNMENT;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status = blas->preference_create(&preference);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                      sizeof workspace_bytes);
    for (size_t i = 0; i < sizeof aligned / sizeof *aligned && status == CUBLAS_STATUS_SUCCESS; i++)
        status = blas->preference_set(preference, aligned[i], &alignment, sizeof alignment);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->find(blas->handle, call->operation, call->w, call->x, call->y, call->y, preference, 1, &result,
                            &found);
    if (preference != NULL) (void)blas->preference_destroy(preference);
    if (status == CUBLAS_STATUS_SUCCESS && found == 0) status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (status == CUBLAS_STATUS_SUCCESS) *algorithm = result.algo;
    return status;
}

/* The same algorithm for the same product every time, and the search for it once. */
static cublasStatus_t know_algorithm(struct cuda_blas *blas, const struct call *call, const struct cuda_dense *dense,
                                     cublasLtMatmulAlgo_t *algorithm)
{
    struct cuda_dense key = *dense;
    key.w = key.x = key.y = key.workspace = NULL;
    pthread_mutex_lock(&blas->lock);
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    int64_t at = 0, held = awqi_min64(blas->count, CACHE);
    while (at < held && memcmp(&blas->known[at].dense, &key, sizeof key) != 0) at++;
    if (at == held) {
        at = blas->count % CACHE;
        status = find_algorithm(blas, call, dense->workspace_bytes, &blas->known[at].algorithm);
        if (status == CUBLAS_STATUS_SUCCESS) {
            blas->known[at].dense = key;
            blas->count++;
        }
    }
    if (status == CUBLAS_STATUS_SUCCESS) *algorithm = blas->known[at].algorithm;
    pthread_mutex_unlock(&blas->lock);
    return status;
}

awq_status awqi_cuda_blas_product(struct cuda_blas *blas, const struct cuda_dense *dense, cudaStream_t stream)
{
    const float one = 1.0f, zero = 0.0f;
    struct call call;
    cublasLtMatmulAlgo_t algorithm;
    cublasStatus_t status = call_open(blas, dense, &call);
    if (status == CUBLAS_STATUS_SUCCESS) status = know_algorithm(blas, &call, dense, &algorithm);
    if (status == CUBLAS_STATUS_SUCCESS)
        status = blas->matmul(blas->handle, call.operation, &one, dense->w, call.w, dense->x, call.x, &zero, dense->y,
                              call.y, dense->y, call.y, &algorithm, dense->workspace, dense->workspace_bytes, stream);
    call_close(blas, &call);
    if (status == CUBLAS_STATUS_SUCCESS) return AWQ_OK;
    return awqi_cuda_host->fail(AWQ_ERROR_DEVICE, "cuda: cuBLASLt: status %d for %lld rows times [%lld][%lld]",
                                (int)status, (long long)dense->rows, (long long)dense->columns,
                                (long long)dense->inputs);
}
