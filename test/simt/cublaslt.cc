/* A stand-in for the part of cuBLASLt that cuda/cublaslt.c uses: it checks what it is given, and multiplies on the
 * host, in the order of the stream.  Like the library it counts along columns. */
#include "simt.h"

#include <cublasLt.h>

namespace
{

struct operation {
    bool transposed;
};

struct layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t stride;

    bool good() const
    {
        return stride >= static_cast<int64_t>(rows) &&
               (type == CUDA_R_16F || type == CUDA_R_16BF || type == CUDA_R_32F);
    }
    bool aligned() const { return stride * (type == CUDA_R_32F ? 4 : 2) % 16 == 0; }
    float at(const void *data, uint64_t row, uint64_t column) const
    {
        const uint64_t i = column * static_cast<uint64_t>(stride) + row;
        if (type == CUDA_R_16F) return __half2float(static_cast<const __half *>(data)[i]);
        if (type == CUDA_R_16BF) return __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[i]);
        return static_cast<const float *>(data)[i];
    }
    void put(void *data, uint64_t row, uint64_t column, float value) const
    {
        const uint64_t i = column * static_cast<uint64_t>(stride) + row;
        if (type == CUDA_R_16F) static_cast<__half *>(data)[i] = __float2half_rn(value);
        else if (type == CUDA_R_16BF) static_cast<__nv_bfloat16 *>(data)[i] = __float2bfloat16_rn(value);
        else static_cast<float *>(data)[i] = value;
    }
};

/* D = A^T B, as far as this project asks: shapes and types must fit. */
bool fits(const operation &of, const layout &a, const layout &b, const layout &d)
{
    return of.transposed && a.good() && b.good() && d.good() && a.type == b.type && a.rows == b.rows &&
           d.rows == a.columns && d.columns == b.columns && a.aligned() && b.aligned();
}

cublasStatus_t create(cublasLtHandle_t *handle)
{
    static int one;
    *handle = reinterpret_cast<cublasLtHandle_t>(&one);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t destroy(cublasLtHandle_t)
{
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t operation_create(operation **made, cublasComputeType_t compute, cudaDataType_t scale)
{
    if (compute != CUBLAS_COMPUTE_32F || scale != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
    *made = new operation{false};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t operation_destroy(operation *made)
{
    delete made;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t operation_set(operation *of, cublasLtMatmulDescAttributes_t attribute, const void *value, size_t size)
{
    if (attribute != CUBLASLT_MATMUL_DESC_TRANSA || size != sizeof(cublasOperation_t))
        return CUBLAS_STATUS_INVALID_VALUE;
    of->transposed = *static_cast<const cublasOperation_t *>(value) == CUBLAS_OP_T;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t layout_create(layout **made, cudaDataType type, uint64_t rows, uint64_t columns, int64_t stride)
{
    *made = new layout{type, rows, columns, stride};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t layout_destroy(layout *made)
{
    delete made;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t preference_create(int **made)
{
    *made = new int(0);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t preference_destroy(int *made)
{
    delete made;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t preference_set(int *, cublasLtMatmulPreferenceAttributes_t attribute, const void *, size_t size)
{
    const bool bytes = attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
    return size == (bytes ? 8u : 4u) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t find(cublasLtHandle_t, operation *of, layout *a, layout *b, layout *, layout *d, int *, int wanted,
                    cublasLtMatmulHeuristicResult_t *results, int *found)
{
    *found = 0;
    if (wanted < 1 || !fits(*of, *a, *b, *d)) return CUBLAS_STATUS_NOT_SUPPORTED;
    std::memset(static_cast<void *>(results), 0, sizeof *results);
    *found = 1;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t matmul(cublasLtHandle_t, operation *of, const float *alpha, const void *a, layout *a_layout,
                      const void *b, layout *b_layout, const float *beta, const void *, layout *, void *d,
                      layout *d_layout, const cublasLtMatmulAlgo_t *algorithm, void *, size_t, cudaStream_t stream)
{
    const uintptr_t addresses =
        reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(b) | reinterpret_cast<uintptr_t>(d);
    if (algorithm == nullptr || addresses % 16 != 0 || !fits(*of, *a_layout, *b_layout, *d_layout) || *alpha != 1.0f ||
        *beta != 0.0f)
        return CUBLAS_STATUS_INVALID_VALUE;
    const layout la = *a_layout, lb = *b_layout, ld = *d_layout;
    cudaError_t error = simt::enqueue_host(stream, [=] {
        for (uint64_t column = 0; column < ld.columns; column++)
            for (uint64_t row = 0; row < ld.rows; row++) {
                float sum = 0.0f;
                for (uint64_t k = 0; k < la.rows; k++) sum = std::fma(la.at(a, k, row), lb.at(b, k, column), sum);
                ld.put(d, row, column, sum);
            }
    });
    return error == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}

} // namespace

extern "C" void *simt_cublaslt_function(const char *name);

extern "C" void *simt_cublaslt_function(const char *name)
{
    static const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"cublasLtCreate", reinterpret_cast<void *>(create)},
        {"cublasLtDestroy", reinterpret_cast<void *>(destroy)},
        {"cublasLtMatmul", reinterpret_cast<void *>(matmul)},
        {"cublasLtMatmulAlgoGetHeuristic", reinterpret_cast<void *>(find)},
        {"cublasLtMatmulDescCreate", reinterpret_cast<void *>(operation_create)},
        {"cublasLtMatmulDescDestroy", reinterpret_cast<void *>(operation_destroy)},
        {"cublasLtMatmulDescSetAttribute", reinterpret_cast<void *>(operation_set)},
        {"cublasLtMatrixLayoutCreate", reinterpret_cast<void *>(layout_create)},
        {"cublasLtMatrixLayoutDestroy", reinterpret_cast<void *>(layout_destroy)},
        {"cublasLtMatmulPreferenceCreate", reinterpret_cast<void *>(preference_create)},
        {"cublasLtMatmulPreferenceDestroy", reinterpret_cast<void *>(preference_destroy)},
        {"cublasLtMatmulPreferenceSetAttribute", reinterpret_cast<void *>(preference_set)},
    };
    for (const auto &entry : functions)
        if (std::strcmp(entry.name, name) == 0) return entry.function;
    return nullptr;
}
