/* Attention over a cache of keys and values.
 *
 * place_kernel: a warp takes one head of one row: norms and rotates a query in place or a key into the cache, or moves
 * a value there.
 *
 * attend_kernel: a block takes up to QUERIES queries of one sequence that share a key head: all query heads of that key
 * head for one row, then for the next row.  Its warps, and those of the other blocks that share the same keys (splits),
 * take chunks of KEYS keys in turn, each warp for itself: it adds up e^score and e^score * value relative to the highest
 * score so far, and rescales when a higher one appears.  Each key and value is read once for all queries of the block,
 * PER_LANE neighbouring elements by each lane.  At the end warps are added up in their order, and, with splits, blocks
 * by combine_kernel in theirs, so that the same bits come out whatever runs first. */
#include "kernels.cuh"

enum { KEYS = 4, ATTEND_WARPS = 4 };

static const float LOWEST = -3.0e38f; /* below every score, and finite: differences of it are numbers */

/* ---- where things are */

DEVICE int64_t cache_offset(const cuda_attention &job, int64_t sequence, int64_t head)
{
    return (sequence * job.kv_heads + head) * job.cache.capacity * job.cache.pitch;
}

DEVICE int64_t qkv_width(const cuda_attention &job)
{
    return (job.heads + 2 * job.kv_heads) * job.head_dim;
}

/* Numbers beyond FP16 are cut to its range: an infinite key or value would turn into NaNs. */
DEVICE __half to_cache(float value)
{
    return __float2half_rn(fminf(fmaxf(value, -65504.0f), 65504.0f));
}

/* ---- placing */

/* Element i of a query, in place, or of a key in the cache. */
DEVICE void place_element(float *query, __half *key, int64_t i, float value)
{
    if (key != nullptr) key[i] = to_cache(value);
    else query[i] = value;
}

/* Rotate element i with element i + half, as Hugging Face pairs them. */
DEVICE void place_rotated(const cuda_attention &job, const cuda_row &row, float *head, const float *norm, __half *key)
{
    const int64_t half = job.head_dim / 2;
    const float *cosines = job.rotary + row.position * job.head_dim, *sines = cosines + half;
    float scale = 1.0f;
    if (norm != nullptr) {
        float sum = 0.0f;
        for (int64_t i = threadIdx.x; i < job.head_dim; i += 32) sum = fmaf(head[i], head[i], sum);
        sum = reduce_warp(sum, sum_of<float>());
        scale = 1.0f / sqrtf(sum / static_cast<float>(job.head_dim) + static_cast<float>(job.epsilon));
        __syncwarp(); /* all have read before any writes */
    }
    for (int64_t i = threadIdx.x; i < half; i += 32) {
        const float a = norm != nullptr ? head[i] * scale * norm[i] : head[i];
        const float b = norm != nullptr ? head[i + half] * scale * norm[i + half] : head[i + half];
        place_element(head, key, i, a * cosines[i] - b * sines[i]);
        place_element(head, key, i + half, b * cosines[i] + a * sines[i]);
    }
}

static __global__ void __launch_bounds__(THREADS) place_kernel(const __grid_constant__ cuda_attention job)
{
    const int64_t all = job.heads + 2 * job.kv_heads, work = job.row_count * all;
    const int64_t step = static_cast<int64_t>(gridDim.x) * WARPS;
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.y; i < work; i += step) {
        const int64_t index = i / all, head = i % all;
        const cuda_row row = job.rows[index];
        float *values = job.qkv + index * qkv_width(job) + head * job.head_dim;
        if (head < job.heads) {
            place_rotated(job, row, values, job.q_norm, nullptr);
            continue;
        }
        const bool is_key = head < job.heads + job.kv_heads;
        const int64_t kv_head = (head - job.heads) % job.kv_heads;
        __half *cached = static_cast<__half *>(is_key ? job.cache.keys : job.cache.values) +
                         cache_offset(job, row.sequence, kv_head) + row.position * job.cache.pitch;
        if (is_key) place_rotated(job, row, values, job.k_norm, cached);
        for (int64_t j = threadIdx.x; j < job.cache.pitch; j += 32) {
            if (j >= job.head_dim) cached[j] = to_cache(0.0f);
            else if (!is_key) cached[j] = to_cache(values[j]);
        }
    }
}

cudaError_t app_cuda_place(const cuda_attention &job, cudaStream_t stream)
{
    const int64_t work = job.row_count * (job.heads + 2 * job.kv_heads);
    return launch({dim3(blocks_for((work + WARPS - 1) / WARPS)), dim3(32, WARPS), 0, stream, false}, place_kernel, job);
}

/* ---- attending */

/* Neighbouring halves, loaded as wide as they are aligned. */
template <int N>
struct alignas(N < 8 ? 2 * N : 16) halves {
    __half2 pairs[N / 2];
};

template <int N>
DEVICE void load_halves(const __half *from, bool active, float (&out)[N])
{
    if (!active) {
#pragma unroll
        for (int i = 0; i < N; i++) out[i] = 0.0f;
        return;
    }
    const halves<N> loaded = *reinterpret_cast<const halves<N> *>(from);
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const float2 pair = __half22float2(loaded.pairs[i]);
        out[2 * i] = pair.x;
        out[2 * i + 1] = pair.y;
    }
}

/* The softmax of one query as far as it has come, spread over a warp: lane l has elements PER_LANE l + i of every strip
 * of 32 PER_LANE elements. */
template <int PER_LANE, int STRIPS>
struct query {
    float q[STRIPS][PER_LANE], sum[STRIPS][PER_LANE]; /* of e^score * value */
    float highest, total;                             /* score; sum of e^score */
    int64_t first, last;                              /* positions of the keys it sees; first > last: no query */
};

/* What a block works on. */
struct tile {
    int64_t sequence, kv_head, first_row; /* first_row: of the sequence's rows in the batch */
    int64_t first, count;                 /* of its queries */
};

/* Row and query head of query 'index' of a tile. */
DEVICE void place_of(const cuda_attention &job, const tile &where, int64_t index, int64_t *row, int64_t *head)
{
    const int64_t group = job.heads / job.kv_heads;
    *row = where.first_row + (where.first + index) / group;
    *head = where.kv_head * group + (where.first + index) % group;
}

template <int PER_LANE, int STRIPS>
DEVICE void begin_query(const cuda_attention &job, const tile &where, int64_t index, query<PER_LANE, STRIPS> &query)
{
    const float scale = 1.0f / sqrtf(static_cast<float>(job.head_dim));
    int64_t row, head;
    place_of(job, where, index < where.count ? index : 0, &row, &head);
    const float *q = job.qkv + row * qkv_width(job) + head * job.head_dim;
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int64_t element = (s * 32 + threadIdx.x) * PER_LANE + i;
            query.q[s][i] = element < job.head_dim ? q[element] * scale : 0.0f;
            query.sum[s][i] = 0.0f;
        }
    query.highest = LOWEST;
    query.total = 0.0f;
    query.last = index < where.count ? job.rows[row].position : -1;
    query.first = job.window != 0 && query.last >= job.window ? query.last - job.window + 1 : 0;
}

/* Keys or values begin .. begin + KEYS - 1, zeros after 'last'. */
template <int PER_LANE, int STRIPS>
DEVICE void load_cached(const cuda_attention &job, const __half *cached, int64_t begin, int64_t last,
                        float (&elements)[KEYS][STRIPS][PER_LANE])
{
#pragma unroll
    for (int k = 0; k < KEYS; k++)
#pragma unroll
        for (int s = 0; s < STRIPS; s++) {
            const int64_t element = (s * 32 + threadIdx.x) * PER_LANE;
            load_halves(cached + (begin + k) * job.cache.pitch + element,
                        begin + k <= last && element < job.cache.pitch, elements[k][s]);
        }
}

template <int PER_LANE, int STRIPS>
DEVICE void score_keys(const query<PER_LANE, STRIPS> &query, const float (&keys)[KEYS][STRIPS][PER_LANE],
                       float (&scores)[KEYS])
{
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
        float score = 0.0f;
#pragma unroll
        for (int s = 0; s < STRIPS; s++)
#pragma unroll
            for (int i = 0; i < PER_LANE; i++) score = fmaf(query.q[s][i], keys[k][s][i], score);
        scores[k] = reduce_warp(score, sum_of<float>());
    }
}

/* Add the values of keys begin .. begin + KEYS - 1, as far as the query sees them, by their scores. */
template <int PER_LANE, int STRIPS>
DEVICE void add_values(query<PER_LANE, STRIPS> &query, int64_t begin, const float (&values)[KEYS][STRIPS][PER_LANE],
                       float (&scores)[KEYS])
{
    float highest = query.highest;
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
        if (begin + k < query.first || begin + k > query.last) scores[k] = LOWEST;
        highest = fmaxf(highest, scores[k]);
    }
    if (highest == LOWEST) return;
    const float rescale = expf(query.highest - highest);
    query.highest = highest;
    query.total *= rescale;
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) query.sum[s][i] *= rescale;
#pragma unroll
    for (int k = 0; k < KEYS; k++) {
        const float weight = expf(scores[k] - highest);
        query.total += weight;
#pragma unroll
        for (int s = 0; s < STRIPS; s++)
#pragma unroll
            for (int i = 0; i < PER_LANE; i++)
                query.sum[s][i] = fmaf(weight, values[k][s][i], query.sum[s][i]);
    }
}

/* One warp's sums in memory: highest, total, then head_dim elements. */
template <int PER_LANE, int STRIPS>
DEVICE void keep_query(const cuda_attention &job, const query<PER_LANE, STRIPS> &query, float *kept)
{
    if (threadIdx.x == 0) {
        kept[0] = query.highest;
        kept[1] = query.total;
    }
#pragma unroll
    for (int s = 0; s < STRIPS; s++)
#pragma unroll
        for (int i = 0; i < PER_LANE; i++) {
            const int64_t element = (s * 32 + threadIdx.x) * PER_LANE + i;
            if (element < job.head_dim) kept[2 + element] = query.sum[s][i];
        }
}

/* The highest score of 'count' such sums, 'stride' floats apart. */
DEVICE float highest_of(const float *kept, int count, int64_t stride)
{
    float highest = LOWEST;
    for (int i = 0; i < count; i++) highest = fmaxf(highest, kept[i * stride]);
    return highest;
}

/* Their totals (element 0) or sums of element j (1 + j), added up in order. */
DEVICE float total_of(const float *kept, int count, int64_t stride, float highest, int64_t element)
{
    float total = 0.0f;
    for (int i = 0; i < count; i++)
        total = fmaf(expf(kept[i * stride] - highest), kept[i * stride + 1 + element], total);
    return total;
}

/* Where block 'split' of those that share a query keeps its sums. */
DEVICE float *split_sums(const cuda_attention &job, int64_t row, int64_t head, int64_t split)
{
    return job.scratch + ((row * job.heads + head) * job.splits + split) * (job.head_dim + 2);
}

/* Add up what the block's warps have kept in shared memory, and pass it on. */
DEVICE void finish_query(const cuda_attention &job, const tile &where, int64_t index, int64_t split, const float *kept)
{
    const int64_t stride = job.head_dim + 2;
    const float highest = highest_of(kept, ATTEND_WARPS, stride);
    const float total = total_of(kept, ATTEND_WARPS, stride, highest, 0);
    int64_t row, head;
    place_of(job, where, index, &row, &head);
    float *sums = split_sums(job, row, head, split);
    for (int64_t j = threadIdx.x; j < job.head_dim; j += 32) {
        const float sum = total_of(kept, ATTEND_WARPS, stride, highest, 1 + j);
        if (job.splits > 1) sums[2 + j] = sum;
        else store(job.mixed, (row * job.heads + head) * job.head_dim + j, sum / total);
    }
    if (job.splits > 1 && threadIdx.x == 0) {
        sums[0] = highest;
        sums[1] = total;
    }
}

template <int PER_LANE, int STRIPS, int QUERIES>
static __global__ void __launch_bounds__(32 * ATTEND_WARPS) attend_kernel(const __grid_constant__ cuda_attention job)
{
    float *kept = reinterpret_cast<float *>(shared_memory());
    const int64_t group = job.heads / job.kv_heads, stride = job.head_dim + 2;
    const int64_t tiles = (job.longest * group + QUERIES - 1) / QUERIES;
    tile where;
    where.sequence = blockIdx.x / tiles;
    where.first = blockIdx.x % tiles * QUERIES;
    where.kv_head = blockIdx.y;
    where.first_row = job.spans[where.sequence].first;
    where.count = min(static_cast<int64_t>(QUERIES), job.spans[where.sequence].count * group - where.first);
    if (where.count <= 0) return;

    query<PER_LANE, STRIPS> queries[QUERIES];
    int64_t first = INT64_MAX, last = -1;
#pragma unroll
    for (int i = 0; i < QUERIES; i++) {
        begin_query(job, where, i, queries[i]);
        if (queries[i].last < 0) continue;
        first = min(first, queries[i].first);
        last = max(last, queries[i].last);
    }
    const int64_t offset = cache_offset(job, where.sequence, where.kv_head);
    const __half *keys = static_cast<const __half *>(job.cache.keys) + offset;
    const __half *values = static_cast<const __half *>(job.cache.values) + offset;
    const int64_t step = job.splits * ATTEND_WARPS * KEYS;
    const int64_t own = (static_cast<int64_t>(blockIdx.z) * ATTEND_WARPS + threadIdx.y) * KEYS;
    for (int64_t begin = first / KEYS * KEYS + own; begin <= last; begin += step) {
        float elements[KEYS][STRIPS][PER_LANE], scores[QUERIES][KEYS];
        load_cached(job, keys, begin, last, elements);
#pragma unroll
        for (int i = 0; i < QUERIES; i++) score_keys(queries[i], elements, scores[i]);
        load_cached(job, values, begin, last, elements);
#pragma unroll
        for (int i = 0; i < QUERIES; i++) add_values(queries[i], begin, elements, scores[i]);
    }
#pragma unroll
    for (int i = 0; i < QUERIES; i++) keep_query(job, queries[i], kept + (i * ATTEND_WARPS + threadIdx.y) * stride);
    __syncthreads();
    for (int64_t i = threadIdx.y; i < where.count; i += ATTEND_WARPS)
        finish_query(job, where, i, blockIdx.z, kept + i * ATTEND_WARPS * stride);
}

/* A warp takes a query. */
static __global__ void __launch_bounds__(THREADS) combine_kernel(const __grid_constant__ cuda_attention job)
{
    const int64_t count = job.row_count * job.heads, step = static_cast<int64_t>(gridDim.x) * WARPS;
    const int splits = static_cast<int>(job.splits);
    for (int64_t i = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.y; i < count; i += step) {
        const float *kept = split_sums(job, i / job.heads, i % job.heads, 0);
        const int64_t stride = job.head_dim + 2;
        const float highest = highest_of(kept, splits, stride);
        const float total = total_of(kept, splits, stride, highest, 0);
        for (int64_t j = threadIdx.x; j < job.head_dim; j += 32)
            store(job.mixed, i * job.head_dim + j, total_of(kept, splits, stride, highest, 1 + j) / total);
    }
}

template <int PER_LANE, int STRIPS, int QUERIES>
static cudaError_t attend(const cuda_attention &job, cudaStream_t stream)
{
    const int64_t tiles = (job.longest * (job.heads / job.kv_heads) + QUERIES - 1) / QUERIES;
    const dim3 grid(static_cast<unsigned>(tiles * job.sequences), static_cast<unsigned>(job.kv_heads),
                    static_cast<unsigned>(job.splits));
    const size_t shared = static_cast<size_t>(QUERIES * ATTEND_WARPS * (job.head_dim + 2)) * sizeof(float);
    cudaError_t error = launch({grid, dim3(32, ATTEND_WARPS), shared, stream, false},
                               attend_kernel<PER_LANE, STRIPS, QUERIES>, job);
    if (error != cudaSuccess || job.splits == 1) return error;
    const int64_t blocks = (job.row_count * job.heads + WARPS - 1) / WARPS;
    return launch({dim3(blocks_for(blocks)), dim3(32, WARPS), 0, stream, false}, combine_kernel, job);
}

/* PER_LANE is what cuda_cache_pitch rounds to. */
cudaError_t app_cuda_attend(const cuda_attention &job, cudaStream_t stream)
{
    if (job.head_dim <= 64) return attend<2, 1, 8>(job, stream);
    if (job.head_dim <= 128) return attend<4, 1, 8>(job, stream);
    if (job.head_dim <= 256) return attend<8, 1, 4>(job, stream);
    return attend<8, 4, 1>(job, stream);
}
