/* What is asked of logits: the likeliest token, and how well they predict; and how far two outputs are apart.  A block
 * takes a row. */
#include "kernels.cuh"

/* ---- the highest */

/* A number that is larger for a better choice: the logit's bits, in the order of floats, then the token's complement.
 * NaN and +infinity beat all others. */
enum : uint32_t { NOT_A_CHOICE = 0xffffffffu };

DEVICE unsigned long long key_of(float logit, int64_t token)
{
    const float value = logit + 0.0f; /* -0 becomes 0 */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t ordered = bits >> 31 ? ~bits : bits | 0x80000000u;
    const uint32_t high = logit < INFINITY ? ordered : NOT_A_CHOICE, low = 0xffffffffu - static_cast<uint32_t>(token);
    return static_cast<unsigned long long>(high) << 32 | low;
}

DEVICE int32_t token_of(unsigned long long key)
{
    return key >> 32 == NOT_A_CHOICE ? -1 : static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(key));
}

static __global__ void __launch_bounds__(THREADS) argmax_kernel(const __grid_constant__ cuda_argmax job)
{
    unsigned long long *shared = reinterpret_cast<unsigned long long *>(shared_memory());
    for (int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) {
        const float *logits = job.logits + row * job.vocabulary;
        unsigned long long best = 0;
        for (int64_t i = threadIdx.x; i < job.vocabulary; i += THREADS) best = max(best, key_of(logits[i], i));
        best = reduce_block(best, shared, [](unsigned long long a, unsigned long long b) { return a > b ? a : b; });
        if (threadIdx.x == 0) job.tokens[row] = token_of(best);
    }
}

cudaError_t app_cuda_argmax(const cuda_argmax &job, cudaStream_t stream)
{
    return launch({dim3(blocks_for(job.rows)), dim3(THREADS), WARPS * sizeof(unsigned long long), stream, false},
                  argmax_kernel, job);
}

/* ---- how well they predict */

/* A row's highest logit, the first token that has it, and the logarithm of the sum of e^logit. */
struct summary {
    float highest;
    int32_t token;
    double norm;
};

DEVICE summary summarize(const float *logits, int64_t vocabulary, unsigned char *shared)
{
    summary row = {-INFINITY, 0, 0.0};
    for (int64_t i = threadIdx.x; i < vocabulary; i += THREADS) row.highest = larger_of()(row.highest, logits[i]);
    row.highest = reduce_block(row.highest, reinterpret_cast<float *>(shared), larger_of());
    int32_t first = INT32_MAX;
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < vocabulary; i += THREADS) {
        if (logits[i] == row.highest && first == INT32_MAX) first = static_cast<int32_t>(i);
        sum += static_cast<double>(expf(logits[i] - row.highest));
    }
    row.token = reduce_block(first, reinterpret_cast<int32_t *>(shared),
                             [](int32_t a, int32_t b) { return a < b ? a : b; });
    row.norm = static_cast<double>(row.highest) +
               log(reduce_block(sum, reinterpret_cast<double *>(shared), sum_of<double>()));
    return row;
}

static __global__ void __launch_bounds__(THREADS) scores_kernel(const __grid_constant__ cuda_scores job)
{
    unsigned char *shared = shared_memory();
    for (int64_t row = blockIdx.x; row < job.rows; row += gridDim.x) {
        const float *q = job.logits + row * job.vocabulary;
        const summary own = summarize(q, job.vocabulary, shared);
        cuda_score score = {own.norm - static_cast<double>(q[job.targets[row]]), 0.0, 0.0, 0};
        if (job.reference != nullptr) {
            const float *p = job.reference + row * job.vocabulary;
            const summary other = summarize(p, job.vocabulary, shared);
            double sum = 0.0;
            for (int64_t i = threadIdx.x; i < job.vocabulary; i += THREADS) {
                const double log_p = static_cast<double>(p[i]) - other.norm;
                sum += static_cast<double>(expf(static_cast<float>(log_p))) *
                       (log_p - (static_cast<double>(q[i]) - own.norm));
            }
            score.divergence = reduce_block(sum, reinterpret_cast<double *>(shared), sum_of<double>());
            score.reference_loss = other.norm - static_cast<double>(p[job.targets[row]]);
            /* Of NaN no token is the likeliest. */
            int64_t before = 0;
            for (int64_t i = threadIdx.x; other.token < job.vocabulary && i < job.vocabulary; i += THREADS)
                before += q[i] > q[other.token] || (q[i] == q[other.token] && i < other.token);
            score.rank = reduce_block(before, reinterpret_cast<int64_t *>(shared), sum_of<int64_t>());
        }
        if (threadIdx.x == 0) job.scores[row] = score;
    }
}

cudaError_t app_cuda_scores(const cuda_scores &job, cudaStream_t stream)
{
    return launch({dim3(blocks_for(job.rows)), dim3(THREADS), WARPS * sizeof(double), stream, false}, scores_kernel,
                  job);
}

/* ---- how far apart */

/* Sum i is over the i-th of equal parts. */
static __global__ void __launch_bounds__(THREADS) difference_kernel(const __grid_constant__ cuda_difference job)
{
    const int64_t part = (job.count + gridDim.x - 1) / gridDim.x;
    const int64_t first = blockIdx.x * part, end = min(first + part, job.count);
    double sum = 0.0;
    for (int64_t i = first + threadIdx.x; i < end; i += THREADS) {
        const double difference = static_cast<double>(job.a[i]) - static_cast<double>(job.b[i]);
        sum += difference * difference;
    }
    sum = reduce_block(sum, reinterpret_cast<double *>(shared_memory()), sum_of<double>());
    if (threadIdx.x == 0) job.sums[blockIdx.x] = sum;
}

cudaError_t app_cuda_difference(const cuda_difference &job, cudaStream_t stream)
{
    const unsigned sums = static_cast<unsigned>(cuda_difference_sums(job.count));
    return launch({dim3(sums), dim3(THREADS), WARPS * sizeof(double), stream, false}, difference_kernel, job);
}
