/* The executor's own tests: each instruction against a scalar definition, and kernels with one mistake each that it
 * must find.
 *
 * Prints the seed of each round; AWQ_SIMT_SEED sets the first. */
#include "ptx.cuh"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

/* ---- reporting */

static int passed, failed;
static const char *test_name;
static bool test_failed;

static void check_that(bool condition, const char *text, int line)
{
    if (condition) return;
    printf("%s:%d: %s: %s\n", __FILE__, line, test_name, text);
    test_failed = true;
}
#define CHECK(condition) check_that(condition, #condition, __LINE__)

/* The device must have refused the work with a text that contains 'part'. */
static void check_fault(const char *part, int line)
{
    cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaErrorLaunchFailure || strstr(simt::fault_text(), part) == nullptr) {
        printf("%s:%d: %s: error %d, \"%s\" where \"%s\" was expected\n", __FILE__, line, test_name, error,
               simt::fault_text(), part);
        test_failed = true;
    }
    simt::clear_fault();
}
#define CHECK_FAULT(part) check_fault(part, __LINE__)

static void run(const char *name, void (*test)())
{
    test_name = name;
    test_failed = false;
    test();
    cudaError_t error = cudaDeviceSynchronize();
    if (error != cudaSuccess) {
        printf("%s: %s\n", name, cudaGetErrorString(error));
        test_failed = true;
        simt::clear_fault();
    }
    cudaGetLastError();
    (test_failed ? failed : passed)++;
}
#define RUN(test) run(#test, test)

/* A buffer on the device and its copy on the host. */
template <class T>
struct Buffer {
    std::vector<T> host;
    T *device;

    explicit Buffer(size_t count, T value = T()) : host(count, value), device(nullptr)
    {
        void *memory;
        if (cudaMalloc(&memory, count * sizeof(T)) != cudaSuccess) abort();
        device = static_cast<T *>(memory);
        put();
    }
    ~Buffer() { cudaFree(device); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    void put() { cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice); }
    void get() { cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost); }
};

static launch_config shape(unsigned blocks, unsigned threads, size_t shared_bytes = 0, cudaStream_t stream = nullptr)
{
    return {dim3(blocks), dim3(threads), shared_bytes, stream, false};
}

/* ---- where lanes are, and barriers */

static __global__ void whereabouts(unsigned *out)
{
    unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    out[block * threads + thread] = block * 1000 + thread;
}

static void test_every_lane_runs_once()
{
    Buffer<unsigned> out(24 * 70);
    launch_config config = {dim3(2, 3, 4), dim3(7, 5, 2), 0, nullptr, false};
    CHECK(launch(config, whereabouts, out.device) == cudaSuccess);
    out.get();
    for (unsigned i = 0; i < out.host.size(); i++) CHECK(out.host[i] == i / 70 * 1000 + i % 70);
}

/* Each round every lane reads what another wrote in the round before. */
static __global__ void rotate(int *out, int rounds, bool both_barriers)
{
    int *values = reinterpret_cast<int *>(shared_memory());
    int lane = static_cast<int>(threadIdx.x), lanes = static_cast<int>(blockDim.x);
    values[lane] = lane;
    for (int i = 0; i < rounds; i++) {
        __syncthreads();
        int next = values[(lane + 1) % lanes];
        if (both_barriers) __syncthreads();
        values[lane] = next;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = values[lane];
}

static void test_barriers_order_shared_memory()
{
    Buffer<int> out(6 * 200);
    CHECK(launch(shape(6, 200, 800), rotate, out.device, 5, true) == cudaSuccess);
    out.get();
    for (int i = 0; i < 1200; i++) CHECK(out.host[static_cast<size_t>(i)] == (i % 200 + 5) % 200);
}

static void test_a_missing_barrier_is_found()
{
    Buffer<int> out(64);
    launch(shape(1, 64, 256), rotate, out.device, 2, false);
    CHECK_FAULT("race: ");
}

/* The planted race leaves its trace in the results as well, where races are not looked for: some seed shows it. */
static void test_lane_order_shows_a_missing_barrier()
{
    simt::Device usual = simt::device(), blind = usual;
    blind.races = false;
    bool seen = false;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        blind.seed = seed;
        simt::set_device(blind);
        Buffer<int> out(64);
        CHECK(launch(shape(1, 64, 256), rotate, out.device, 2, false) == cudaSuccess);
        out.get();
        for (int i = 0; i < 64; i++) seen = seen || out.host[static_cast<size_t>(i)] != (i + 2) % 64;
    }
    simt::set_device(usual);
    CHECK(seen);
}

static __global__ void part_at_barrier(bool otherwise)
{
    if (threadIdx.x < 40) {
        __syncthreads();
    } else if (otherwise) {
        __syncthreads();
    } else {
        uint32_t *flag = reinterpret_cast<uint32_t *>(shared_memory());
        if (threadIdx.x == 40) ptx::store_release(flag, 0);
        __syncwarp();
        while (ptx::load_acquire(flag) == 0) {
        }
    }
}

static void test_diverging_barriers_are_found()
{
    launch(shape(1, 96, 4), part_at_barrier, true);
    CHECK_FAULT("__syncthreads at ");
    launch(shape(1, 96, 4), part_at_barrier, false);
    CHECK_FAULT("nobody can go on: 40 threads wait for __syncthreads (test_executor.cc:");
}

static __global__ void part_ends(int *out)
{
    if (threadIdx.x >= 33) return;
    __syncthreads();
    out[threadIdx.x] = __syncthreads_count(threadIdx.x < 10) + 100 * __syncthreads_or(threadIdx.x == 3) +
                       1000 * __syncthreads_and(threadIdx.x != 3);
}

static void test_ended_lanes_need_no_barrier()
{
    Buffer<int> out(33);
    launch(shape(1, 96), part_ends, out.device);
    out.get();
    for (int value : out.host) CHECK(value == 110);
}

/* Warps 0 and 1 fill, 2 and 3 take: a pair of barriers for each of two halves of shared memory. */
static __global__ void produce_and_take(int *out, bool full_wait)
{
    int *values = reinterpret_cast<int *>(shared_memory());
    int lane = static_cast<int>(threadIdx.x) % 64;
    for (int round = 0; round < 6; round++) {
        int part = round % 2;
        if (threadIdx.x < 64) {
            ptx::barrier_sync(1 + part, 128); /* empty */
            values[64 * part + lane] = round * 100 + lane;
            ptx::barrier_arrive(3 + part, 128); /* full */
        } else {
            ptx::barrier_arrive(1 + part, 128);
            if (full_wait)
                ptx::barrier_sync(3 + part, 128);
            else
                ptx::barrier_arrive(3 + part, 128);
            out[round * 64 + lane] = values[64 * part + 63 - lane];
        }
    }
}

static void test_barriers_of_some_warps()
{
    Buffer<int> out(6 * 64);
    launch(shape(1, 128, 512), produce_and_take, out.device, true);
    out.get();
    for (int i = 0; i < 6 * 64; i++) CHECK(out.host[static_cast<size_t>(i)] == i / 64 * 100 + 63 - i % 64);
    launch(shape(1, 128, 512), produce_and_take, out.device, false);
    CHECK_FAULT("race: ");
    launch(shape(1, 64, 512), produce_and_take, out.device, true);
    CHECK_FAULT("threads wait for bar.sync");
}

/* ---- warps */

static __global__ void shuffles(int *out)
{
    const unsigned all = 0xffffffffu;
    int lane = static_cast<int>(threadIdx.x);
    int *mine = out + lane * 8;
    mine[0] = __shfl_sync(all, lane * 10, lane + 5);
    mine[1] = __shfl_up_sync(all, lane * 10, 3, 8);
    mine[2] = __shfl_down_sync(all, lane * 10, 3, 8);
    mine[3] = __shfl_xor_sync(all, lane * 10, 5);
    mine[4] = static_cast<int>(__shfl_xor_sync(all, static_cast<double>(lane), 1) * 2);
    mine[5] = static_cast<int>(__ballot_sync(all, lane % 3 == 0));
    mine[6] = static_cast<int>(__match_any_sync(all, lane / 8)) + (__any_sync(all, lane == 7) ? 1 : 0);
    unsigned part = lane < 16 ? 0xffffu : 0xffff0000u;
    mine[7] = __shfl_xor_sync(part, lane, 8) + (__all_sync(part, lane < 16) ? 100 : 0);
}

static void test_shuffles_and_votes()
{
    Buffer<int> out(32 * 8);
    launch(shape(1, 32), shuffles, out.device);
    out.get();
    unsigned threes = 0;
    for (int i = 0; i < 32; i += 3) threes |= 1u << i;
    for (int lane = 0; lane < 32; lane++) {
        const int *mine = out.host.data() + lane * 8;
        CHECK(mine[0] == (lane + 5) % 32 * 10);
        CHECK(mine[1] == (lane % 8 < 3 ? lane : lane - 3) * 10);
        CHECK(mine[2] == (lane % 8 > 4 ? lane : lane + 3) * 10);
        CHECK(mine[3] == (lane ^ 5) * 10);
        CHECK(mine[4] == (lane ^ 1) * 2);
        CHECK(mine[5] == static_cast<int>(threes));
        CHECK(mine[6] == static_cast<int>(255u << lane / 8 * 8) + 1);
        CHECK(mine[7] == (lane ^ 8) + (lane < 16 ? 100 : 0));
    }
}

static __global__ void wrong_mask(int kind)
{
    unsigned lane = threadIdx.x;
    if (kind == 0) __shfl_sync(0xfffffffeu, lane, 1);
    if (kind == 1 && lane < 16) __shfl_sync(0xffffffffu, lane, 1);
    if (kind == 1 && lane >= 16) __ballot_sync(0xffffffffu, 1);
    if (kind == 2 && lane < 8) __shfl_sync(0x1ffu, lane, 1);
    if (kind == 2 && lane >= 8) __syncthreads();
    if (kind == 3 && lane != 0) {
        float d[4] = {0, 0, 0, 0};
        ptx::mma_m16n8k8(d, {0, 0}, 0, __half());
    }
}

static void test_wrong_masks_are_found()
{
    launch(shape(1, 32), wrong_mask, 0);
    CHECK_FAULT("leaves out the lane itself");
    launch(shape(1, 32), wrong_mask, 1);
    CHECK_FAULT("of the same mask wait in");
    launch(shape(1, 32), wrong_mask, 2);
    CHECK_FAULT("nobody can go on");
    launch(shape(1, 32), wrong_mask, 3);
    CHECK_FAULT("mma.m16n8k8 f16");
}

/* Within a warp only __syncwarp orders shared memory; a shuffle does not. */
static __global__ void through_shared(int *out, bool order)
{
    int *values = reinterpret_cast<int *>(shared_memory());
    values[threadIdx.x] = static_cast<int>(threadIdx.x);
    if (order)
        __syncwarp();
    else
        __shfl_sync(0xffffffffu, 0, 0);
    out[threadIdx.x] = values[threadIdx.x ^ 1];
}

static void test_warps_order_shared_memory()
{
    Buffer<int> out(32);
    launch(shape(1, 32, 128), through_shared, out.device, true);
    out.get();
    for (int i = 0; i < 32; i++) CHECK(out.host[static_cast<size_t>(i)] == (i ^ 1));
    launch(shape(1, 32, 128), through_shared, out.device, false);
    CHECK_FAULT("race: ");
}

/* ---- matrices */

template <int matrices, bool transpose>
static __global__ void load_matrices(const uint16_t *in, uint32_t *out)
{
    uint16_t *elements = reinterpret_cast<uint16_t *>(shared_memory());
    for (unsigned i = threadIdx.x; i < 64 * matrices; i += 32) elements[i] = in[i];
    __syncwarp();
    uint32_t r[matrices];
    const uint16_t *row = elements + 8 * (threadIdx.x % (8 * matrices));
    if constexpr (matrices == 1) ptx::ldmatrix_x1(r, row);
    if constexpr (matrices == 2 && !transpose) ptx::ldmatrix_x2(r, row);
    if constexpr (matrices == 4 && !transpose) ptx::ldmatrix_x4(r, row);
    if constexpr (matrices == 2 && transpose) ptx::ldmatrix_x2_trans(r, row);
    if constexpr (matrices == 4 && transpose) ptx::ldmatrix_x4_trans(r, row);
    for (unsigned i = 0; i < matrices; i++) out[threadIdx.x * matrices + i] = r[i];
}

template <int matrices, bool transpose>
static void check_ldmatrix()
{
    Buffer<uint16_t> in(64 * matrices);
    Buffer<uint32_t> out(32 * matrices);
    for (size_t i = 0; i < in.host.size(); i++) in.host[i] = static_cast<uint16_t>(i * 2654435761u >> 7);
    in.put();
    launch(shape(1, 32, 128 * matrices), load_matrices<matrices, transpose>, in.device, out.device);
    out.get();
    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned m = 0; m < matrices; m++) {
            for (unsigned part = 0; part < 2; part++) {
                unsigned row = lane / 4, column = lane % 4 * 2 + part;
                uint16_t element = in.host[64 * m + (transpose ? 8 * column + row : 8 * row + column)];
                CHECK(static_cast<uint16_t>(out.host[lane * matrices + m] >> 16 * part) == element);
            }
        }
    }
}

static void test_ldmatrix()
{
    check_ldmatrix<1, false>();
    check_ldmatrix<2, false>();
    check_ldmatrix<4, false>();
    check_ldmatrix<2, true>();
    check_ldmatrix<4, true>();
}

static __global__ void bad_ldmatrix(const uint32_t *global, unsigned shift)
{
    uint32_t r[4];
    const unsigned char *row = shared_memory() + threadIdx.x * 16 + shift;
    ptx::ldmatrix_x4(r, global != nullptr ? reinterpret_cast<const unsigned char *>(global) : row);
}

static void test_bad_rows_of_ldmatrix_are_found()
{
    Buffer<uint32_t> global(4);
    launch(shape(1, 32, 1024), bad_ldmatrix, nullptr, 2u);
    CHECK_FAULT("not aligned");
    launch(shape(1, 32, 500), bad_ldmatrix, nullptr, 0u);
    CHECK_FAULT("of shared memory of 500 bytes");
    launch(shape(1, 32, 500), bad_ldmatrix, global.device, 0u);
    CHECK_FAULT("is not shared memory");
}

/* One mma: fragments are filled element by element from their definition in ptx.cuh. */
template <class T, int k>
static __global__ void multiply(const T *a, const T *b, float *d)
{
    unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    uint32_t fa[k / 4], fb[k / 8];
    T pair[2];
    for (unsigned i = 0; i < k / 4; i++) {
        for (unsigned part = 0; part < 2; part++) pair[part] = a[(g + i % 2 * 8) * k + 2 * t + i / 2 * 8 + part];
        memcpy(&fa[i], pair, 4);
    }
    for (unsigned i = 0; i < k / 8; i++) {
        for (unsigned part = 0; part < 2; part++) pair[part] = b[(2 * t + 8 * i + part) * 8 + g];
        memcpy(&fb[i], pair, 4);
    }
    float fd[4];
    for (unsigned i = 0; i < 4; i++) fd[i] = d[(g + i / 2 * 8) * 8 + 2 * t + i % 2];
    if constexpr (k == 8)
        ptx::mma_m16n8k8(fd, fa, fb[0], T());
    else
        ptx::mma_m16n8k16(fd, fa, fb, T());
    for (unsigned i = 0; i < 4; i++) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = fd[i];
}

/* Small whole numbers and halves, subnormal for FP16 in the last column: every product and sum is exact. */
template <class T, int k>
static void check_mma()
{
    Buffer<T> a(16 * k), b(k * 8);
    Buffer<float> d(128);
    for (size_t i = 0; i < a.host.size(); i++) a.host[i] = T(static_cast<float>(i * 40503u % 31) * 0.5f - 7);
    for (size_t i = 0; i < b.host.size(); i++)
        b.host[i] = T((static_cast<float>(i * 10007u % 29) - 14) * (i % 8 == 7 ? 0x1p-24f : 1.0f));
    for (size_t i = 0; i < 128; i++) d.host[i] = static_cast<float>(i % 8 == 7 ? 0 : i);
    std::vector<float> before = d.host;
    a.put();
    b.put();
    d.put();
    CHECK(launch(shape(1, 32), multiply<T, k>, a.device, b.device, d.device) == cudaSuccess);
    d.get();
    for (size_t i = 0; i < 16; i++) {
        for (size_t j = 0; j < 8; j++) {
            float sum = before[8 * i + j];
            for (size_t n = 0; n < k; n++)
                sum += static_cast<float>(a.host[i * k + n]) * static_cast<float>(b.host[n * 8 + j]);
            CHECK(d.host[8 * i + j] == sum);
        }
    }
}

static void test_mma()
{
    check_mma<__half, 8>();
    check_mma<__half, 16>();
    check_mma<__nv_bfloat16, 16>();
}

static void test_mma_of_turing()
{
    simt::Device usual = simt::device(), turing = usual;
    turing.architecture = 750;
    simt::set_device(turing);
    check_mma<__half, 16>();
    Buffer<__nv_bfloat16> a(256), b(128);
    Buffer<float> d(128);
    launch(shape(1, 32), multiply<__nv_bfloat16, 16>, a.device, b.device, d.device);
    CHECK_FAULT("compute capability 8.0");
    simt::set_device(usual);
}

/* ---- arithmetic */

static __global__ void bit_tricks(const uint32_t *in, uint32_t *out)
{
    uint32_t a = in[0], b = in[1], c = in[2];
    out[0] = ptx::lop3<(0xf0 & 0xcc) | 0xaa>(a, b, c);
    out[1] = ptx::lop3<0xf0 ^ 0xcc ^ 0xaa>(a, b, c);
    out[2] = ptx::prmt(a, b, 0x7340);
    out[3] = ptx::prmt(a, b, 0xfb08);
    out[4] = __byte_perm(a, b, 0x5410);
}

static void test_bit_tricks()
{
    Buffer<uint32_t> in(3), out(5);
    in.host = {0x11f2a384u, 0xc5d6e7f8u, 0x0f0f3355u};
    in.put();
    launch(shape(1, 1), bit_tricks, in.device, out.device);
    out.get();
    uint32_t a = in.host[0], b = in.host[1], c = in.host[2];
    CHECK(out.host[0] == ((a & b) | c));
    CHECK(out.host[1] == (a ^ b ^ c));
    CHECK(out.host[2] == 0xc511f884u);
    CHECK(out.host[3] == 0xff0084ffu);
    CHECK(out.host[4] == 0xe7f8a384u);
}

/* fma of pairs rounds once: (1 + u)^2 - 1 keeps the u^2 that a rounded product loses. */
static __global__ void fused(float *out)
{
    __half2 x = __float2half2_rn(1.0f + 0x1p-10f);
    __nv_bfloat162 y = __float2bfloat162_rn(1.0f + 0x1p-7f);
    out[0] = __low2float(__hfma2(x, x, __float2half2_rn(-1.0f - 0x1p-9f)));
    out[1] = __low2float(__hfma2(y, y, __float2bfloat162_rn(-1.0f - 0x1p-6f)));
    out[2] = __low2float(__hmul2(x, x));
    out[3] = __expf(1.0f);
}

static void test_arithmetic_of_pairs()
{
    Buffer<float> out(4);
    launch(shape(1, 1), fused, out.device);
    out.get();
    CHECK(out.host[0] == 0x1p-20f);
    CHECK(out.host[1] == 0x1p-14f);
    CHECK(out.host[2] == 1.0f + 0x1p-9f);
    CHECK(std::fabs(out.host[3] - 2.7182818f) < 1e-6f);
}

/* ---- asynchronous copies */

template <int bytes>
static __global__ void copy_and_wait(const uint4 *in, uint4 *out, int rounds, int valid)
{
    uint4 *ring = reinterpret_cast<uint4 *>(shared_memory());
    auto fetch = [&](int round) {
        if (round < rounds)
            for (int i = 0; i < 16; i += bytes)
                ptx::cp_async<bytes>(reinterpret_cast<char *>(ring + round % 3 * 32 + threadIdx.x) + i,
                                     reinterpret_cast<const char *>(in + round * 32 + threadIdx.x) + i, round < valid);
        ptx::cp_async_commit();
    };
    fetch(0);
    fetch(1);
    for (int round = 0; round < rounds; round++) {
        ptx::cp_async_wait<1>();
        __syncwarp();
        out[round * 32 + threadIdx.x] = ring[round % 3 * 32 + (threadIdx.x ^ 1)];
        fetch(round + 2);
    }
}

static void test_asynchronous_copies()
{
    for (int architecture : {750, 800}) {
        simt::Device usual = simt::device(), other = usual;
        other.architecture = architecture;
        simt::set_device(other);
        Buffer<uint4> in(5 * 32), out(5 * 32);
        for (unsigned i = 0; i < 5 * 32; i++) in.host[i] = make_uint4(i, i + 1, i + 2, i + 3);
        in.put();
        for (int bytes : {4, 8, 16}) {
            auto kernel = bytes == 4 ? copy_and_wait<4> : bytes == 8 ? copy_and_wait<8> : copy_and_wait<16>;
            cudaMemset(out.device, 0xee, out.host.size() * sizeof(uint4));
            launch(shape(1, 32, 3 * 32 * 16), kernel, in.device, out.device, 5, 4);
            out.get();
            for (unsigned i = 0; i < 5 * 32; i++) CHECK(out.host[i].w == (i < 4 * 32 ? (i ^ 1) + 3 : 0));
        }
        simt::set_device(usual);
    }
}

static __global__ void copy_carelessly(const uint32_t *in, uint32_t *out, int mistake)
{
    uint32_t *values = reinterpret_cast<uint32_t *>(shared_memory());
    unsigned lane = threadIdx.x;
    if (mistake == 0) values[lane ^ 1] = 1;
    ptx::cp_async<4>(values + lane, in + lane);
    ptx::cp_async_commit();
    if (mistake == 1) out[lane] = values[lane];
    if (mistake != 2) ptx::cp_async_wait<0>();
    if (mistake == 2) ptx::cp_async_wait<1>(); /* leaves the only group under way */
    if (mistake != 3) __syncthreads();
    out[lane] = values[lane ^ 1];
}

static void test_careless_copies_are_found()
{
    Buffer<uint32_t> in(64), out(64);
    launch(shape(1, 64, 256), copy_carelessly, in.device, out.device, 4);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    launch(shape(1, 64, 256), copy_carelessly, in.device, out.device, 0);
    CHECK_FAULT("shared memory");
    launch(shape(1, 64, 256), copy_carelessly, in.device, out.device, 1);
    CHECK_FAULT("before the copy into it was waited for");
    launch(shape(1, 64, 256), copy_carelessly, in.device, out.device, 2);
    CHECK_FAULT("before the copy into it was waited for");
    launch(shape(1, 64, 256), copy_carelessly, in.device, out.device, 3);
    CHECK_FAULT("shared memory");
}

/* ---- compute capability 9.0 */

static void run_on(int architecture, void (*test)())
{
    simt::Device usual = simt::device(), other = usual;
    other.architecture = architecture;
    simt::set_device(other);
    test();
    simt::set_device(usual);
}

/* One warp: rounds of bulk copies through two stages, a barrier each to say that they are full and empty. */
enum Bulk {
    careful,
    reads_early,
    wrong_parity,
    waits_ahead,
    expects_more,
    expects_less,
    unfenced,
    misaligned,
    overwrites
};

static __global__ void copy_in_bulk(const uint32_t *in, uint32_t *out, int rounds, Bulk mistake)
{
    uint32_t *values = reinterpret_cast<uint32_t *>(shared_memory());
    uint64_t *full = reinterpret_cast<uint64_t *>(values + 128), *empty = full + 2;
    const unsigned lane = threadIdx.x % 32;
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; i++) {
            ptx::mbarrier_init(full + i, 1);
            ptx::mbarrier_init(empty + i, 1);
        }
        if (mistake != unfenced) ptx::fence_async();
    }
    __syncthreads();
    for (int round = 0; round < rounds; round++) {
        const int stage = round % 2;
        const uint32_t parity = round / 2 % 2 ^ (mistake == wrong_parity && round == 2);
        if (threadIdx.x >= 32) {
            if (lane == 0) {
                if (round > 1 && mistake != overwrites) ptx::mbarrier_wait(empty + stage, parity ^ 1);
                const uint32_t bytes = mistake == expects_more ? 272 : mistake == expects_less ? 240 : 256;
                ptx::mbarrier_arrive_expect(full + stage, bytes);
                ptx::bulk_copy(values + 64 * stage + (mistake == misaligned), in + 64 * round, 256, full + stage);
            }
            __syncwarp();
            continue;
        }
        if (mistake != reads_early) ptx::mbarrier_wait(full + stage, parity);
        if (mistake == waits_ahead) ptx::mbarrier_wait(full + stage, parity ^ 1);
        out[64 * round + lane] = values[64 * stage + 63 - lane];
        out[64 * round + 32 + lane] = values[64 * stage + 31 - lane];
        __syncwarp();
        if (lane == 0) ptx::mbarrier_arrive(empty + stage);
    }
}

static void test_bulk_copies()
{
    Buffer<uint32_t> in(6 * 64), out(6 * 64);
    for (unsigned i = 0; i < 6 * 64; i++) in.host[i] = i * 2654435761u;
    in.put();
    launch(shape(1, 64, 512 + 32), copy_in_bulk, in.device, out.device, 6, careful);
    out.get();
    for (unsigned i = 0; i < 6 * 64; i++) CHECK(out.host[i] == in.host[i / 64 * 64 + 63 - i % 64]);
}

static void test_careless_bulk_copies_are_found()
{
    static const struct {
        Bulk mistake;
        const char *text;
    } cases[] = {
        {reads_early, "shared memory"},
        {wrong_parity, ""}, /* a race, a copy under way, or a phase too many: what comes first */
        {waits_ahead, "nobody can go on: "},
        {expects_more, "threads wait for a phase of an mbarrier"},
        {expects_less, "copies of 256 bytes to a phase that expects 240"},
        {unfenced, "no fence_async() has followed"},
        {misaligned, "all are multiples of 16"},
        {overwrites, ""},
    };
    Buffer<uint32_t> in(6 * 64), out(6 * 64);
    for (const auto &each : cases) {
        launch(shape(1, 64, 512 + 32), copy_in_bulk, in.device, out.device, 6, each.mistake);
        CHECK_FAULT(each.text);
    }
}

static void test_bulk_copies_need_hopper()
{
    Buffer<uint32_t> in(64), out(64);
    launch(shape(1, 64, 512 + 32), copy_in_bulk, in.device, out.device, 1, careful);
    CHECK_FAULT("mbarrier needs compute capability 9.0");
}

/* d[64][n] += a[64][32] b[n][32]: two steps in a group each, operands filled from their definition in ptx.cuh. */
enum Warpgroup { in_order, reads_sums, writes_sums, changes_operand, forgets_fence, leaves, splits };

template <class T, int n>
static __global__ void multiply_as_warpgroup(const T *a, const T *b, float *d, Warpgroup mistake)
{
    T *rows = reinterpret_cast<T *>(shared_memory());
    const unsigned thread = threadIdx.x, g = thread % 32 / 4, t = thread % 4, first = thread / 32 * 16;
    for (unsigned i = thread; i < n * 32; i += blockDim.x) {
        const unsigned row = i / 32, k = i % 32;
        rows[row * 64 + (k / 8 ^ row % 8) * 8 + k % 8] = b[i];
    }
    ptx::fence_async();
    __syncthreads();
    uint32_t fragment[2][4];
    float sums[n / 2];
    for (unsigned i = 0; i < n / 2; i++) sums[i] = d[(first + g + i % 4 / 2 * 8) * n + i / 4 * 8 + 2 * t + i % 2];
    for (unsigned step = 0; step < 2; step++) {
        for (unsigned i = 0; i < 4; i++) {
            T pair[2];
            for (unsigned part = 0; part < 2; part++)
                pair[part] = a[(first + g + i % 2 * 8) * 32 + step * 16 + 2 * t + i / 2 * 8 + part];
            memcpy(&fragment[step][i], pair, 4);
        }
        if (mistake != forgets_fence || step == 0) ptx::wgmma_fence();
        const unsigned other = mistake == splits && thread >= 32 ? 2048 : 0;
        ptx::wgmma<n>(sums, fragment[step], ptx::wgmma_descriptor(shared_memory() + other) + 2 * step, T());
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
        if (mistake == changes_operand && step == 1) fragment[1][t] = 0;
    }
    if (mistake == writes_sums) sums[thread % 2] = 0.0f;
    if (mistake == leaves) return;
    if (mistake != reads_sums) ptx::wgmma_finish(sums);
    for (unsigned i = 0; i < n / 2; i++) d[(first + g + i % 4 / 2 * 8) * n + i / 4 * 8 + 2 * t + i % 2] = sums[i];
}

template <class T, int n>
static void check_warpgroup()
{
    Buffer<T> a(64 * 32), b(n * 32);
    Buffer<float> d(64 * n);
    for (size_t i = 0; i < a.host.size(); i++) a.host[i] = T(static_cast<float>(i * 40503u % 31) * 0.5f - 7);
    for (size_t i = 0; i < b.host.size(); i++) b.host[i] = T(static_cast<float>(i * 10007u % 29) - 14);
    for (size_t i = 0; i < d.host.size(); i++) d.host[i] = static_cast<float>(i % 101);
    std::vector<float> before = d.host;
    a.put();
    b.put();
    d.put();
    launch(shape(1, 128, 128 * n), multiply_as_warpgroup<T, n>, a.device, b.device, d.device, in_order);
    d.get();
    for (size_t i = 0; i < 64; i++)
        for (size_t j = 0; j < n; j++) {
            float sum = before[i * n + j];
            for (size_t k = 0; k < 32; k++)
                sum += static_cast<float>(a.host[i * 32 + k]) * static_cast<float>(b.host[j * 32 + k]);
            CHECK(d.host[i * n + j] == sum);
        }
}

static void test_warpgroups_multiply()
{
    check_warpgroup<__half, 16>();
    check_warpgroup<__half, 96>();
    check_warpgroup<__nv_bfloat16, 32>();
}

static void test_careless_warpgroups_are_found()
{
    static const struct {
        Warpgroup mistake;
        const char *text;
    } cases[] = {
        {reads_sums, "reads the sums of a wgmma that was not waited for"},
        {writes_sums, "writes the sums of a wgmma that was not waited for"},
        {changes_operand, "writes an operand of a wgmma that was not waited for"},
        {forgets_fence, "without wgmma.fence"},
        {leaves, "ends with a wgmma under way"},
        {splits, "another descriptor than that of its warpgroup"},
    };
    Buffer<__half> a(64 * 32), b(16 * 32);
    Buffer<float> d(64 * 16);
    for (const auto &each : cases) {
        launch(shape(1, 128, 2 * 128 * 16), multiply_as_warpgroup<__half, 16>, a.device, b.device, d.device,
               each.mistake);
        CHECK_FAULT(each.text);
    }
    launch(shape(1, 64, 128 * 16), multiply_as_warpgroup<__half, 16>, a.device, b.device, d.device, in_order);
    CHECK_FAULT("not one of a warpgroup of four");
}

static void test_warpgroups_need_hopper_itself()
{
    Buffer<__half> a(64 * 32), b(16 * 32);
    Buffer<float> d(64 * 16);
    launch(shape(1, 128, 128 * 16), multiply_as_warpgroup<__half, 16>, a.device, b.device, d.device, in_order);
    CHECK_FAULT("wgmma needs compute capability 9.0 itself");
}

/* ---- memory */

static __global__ void touch(const float *in, float *out, int index, int kind)
{
    float *shared = reinterpret_cast<float *>(shared_memory());
    if (kind == 0) out[index] = 1;
    if (kind == 1) out[0] = in[index];
    if (kind == 2) shared[index] = 1;
    if (kind == 3) out[0] = *reinterpret_cast<const float *>(reinterpret_cast<const char *>(in) + index);
    if (kind == 4) out[0] = reinterpret_cast<const uint4 *>(in + index)->x;
    if (kind == 5) atomicAdd(out + index, 1.0f);
    if (kind == 6) out[0] = ptx::load_once(in + index).x;
}

static void test_accesses_outside_are_found()
{
    Buffer<float> in(100), out(3);
    launch(shape(1, 1, 40), touch, in.device, out.device, 2, 0);
    launch(shape(1, 1, 40), touch, in.device, out.device, 99, 1);
    launch(shape(1, 1, 40), touch, in.device, out.device, 9, 2);
    launch(shape(1, 1, 40), touch, in.device, out.device, 96, 6);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
    launch(shape(1, 1, 40), touch, in.device, out.device, 3, 0);
    CHECK_FAULT("writes 4 bytes at offset 12 of an allocation of 12 bytes at test_executor.cc:");
    launch(shape(1, 1, 40), touch, in.device, out.device, -1, 0);
    CHECK_FAULT("writes 4 bytes at offset ");
    launch(shape(1, 1, 40), touch, in.device, out.device, 100, 1);
    CHECK_FAULT("reads 4 bytes at offset 400 of an allocation of 400 bytes");
    launch(shape(1, 1, 40), touch, in.device, out.device, 10, 2);
    CHECK_FAULT("writes 4 bytes at offset 40 of shared memory of 40 bytes");
    launch(shape(1, 1, 40), touch, in.device, out.device, 2, 3);
    CHECK_FAULT("not aligned");
    launch(shape(1, 1, 40), touch, in.device, out.device, 2, 4);
    CHECK_FAULT("not aligned");
    launch(shape(1, 1, 40), touch, in.device, out.device, 3, 5);
    CHECK_FAULT("at offset 12 of an allocation");
    launch(shape(1, 1, 40), touch, in.device, out.device, 100, 6);
    CHECK_FAULT("at offset 400 of an allocation");
}

static void test_freed_and_host_memory_are_found()
{
    void *memory;
    CHECK(cudaMalloc(&memory, 64) == cudaSuccess);
    float *freed = static_cast<float *>(memory), local[4] = {};
    Buffer<float> out(1);
    CHECK(cudaFree(freed) == cudaSuccess);
    CHECK(cudaFree(freed) == cudaErrorInvalidValue);
    cudaGetLastError();
    launch(shape(1, 1), touch, freed, out.device, 0, 1);
    CHECK_FAULT("reads 4 bytes at ");
    launch(shape(1, 1), touch, local, out.device, 0, 1);
    CHECK_FAULT("argument 0, byte 0, points to memory of the host");
}

/* What nobody wrote is NaN, in all of the three kinds of memory. */
static __global__ void look(const float *in, int *out)
{
    out[0] = std::isnan(in[0]);
    out[1] = std::isnan(reinterpret_cast<float *>(shared_memory())[0]);
    out[2] = __hisnan(reinterpret_cast<__half *>(shared_memory())[3]);
}

static void test_new_memory_is_poisoned()
{
    void *memory;
    CHECK(cudaMalloc(&memory, 4) == cudaSuccess);
    Buffer<int> out(3);
    for (int i = 0; i < 3; i++) launch(shape(1, 1, 64), look, static_cast<float *>(memory), out.device);
    out.get();
    CHECK(out.host[0] == 1 && out.host[1] == 1 && out.host[2] == 1);
    cudaFree(memory);
}

static void test_the_host_cannot_touch_device_memory()
{
    Buffer<int> values(1);
    pid_t child = fork();
    if (child == 0) _exit(*static_cast<volatile int *>(values.device) == 0 ? 1 : 2);
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
}

/* ---- between blocks */

static __global__ void count(uint32_t *counter, uint32_t *old)
{
    old[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

static void test_atomics()
{
    Buffer<uint32_t> counter(1), old(20 * 50);
    launch(shape(20, 50), count, counter.device, old.device);
    counter.get();
    old.get();
    CHECK(counter.host[0] == 1000);
    std::vector<bool> seen(1000);
    for (uint32_t value : old.host) {
        CHECK(value < 1000 && !seen[value]);
        seen[value] = true;
    }
}

/* The last block to arrive adds up what all have written. */
enum Handover { by_fences, by_release, without_fence, without_barrier, flag_first };

static __global__ void add_up(const int *in, int *partial, uint32_t *counter, int *out, Handover handover)
{
    int *shared = reinterpret_cast<int *>(shared_memory());
    unsigned thread = threadIdx.x, index = blockIdx.x * blockDim.x + thread;
    if (handover != flag_first || thread != 0) partial[index] = 2 * in[index];
    if (handover != without_barrier) __syncthreads();
    if (thread == 0) {
        if (handover == by_release) {
            shared[0] = ptx::add_acquire_release(counter, 1) == gridDim.x - 1;
        } else {
            if (handover != without_fence) __threadfence();
            shared[0] = atomicAdd(counter, 1) == gridDim.x - 1;
            if (handover == flag_first) partial[index] = 2 * in[index];
            if (handover != without_fence) __threadfence();
        }
    }
    __syncthreads();
    if (shared[0] == 0) return;
    int sum = 0;
    for (unsigned i = 0; i < gridDim.x; i++) sum += partial[i * blockDim.x + thread];
    out[thread] = sum;
    if (thread == 0) *counter = 0;
}

static void test_last_block_reduces()
{
    Buffer<int> in(12 * 64), partial(12 * 64), out(64);
    Buffer<uint32_t> counter(1);
    for (int i = 0; i < 12 * 64; i++) in.host[static_cast<size_t>(i)] = i;
    in.put();
    for (Handover handover : {by_fences, by_release}) {
        for (int repeat = 0; repeat < 3; repeat++)
            launch(shape(12, 64, 4), add_up, in.device, partial.device, counter.device, out.device, handover);
        out.get();
        for (int i = 0; i < 64; i++) CHECK(out.host[static_cast<size_t>(i)] == 2 * (64 * 66 + 12 * i));
    }
    for (Handover handover : {without_fence, without_barrier, flag_first}) {
        launch(shape(12, 64, 4), add_up, in.device, partial.device, counter.device, out.device, handover);
        CHECK_FAULT("race: ");
        cudaMemset(counter.device, 0, 4);
    }
}

/* Blocks in a chain: each waits for the one before it, through a flag. */
enum Wait { by_acquire, by_volatile, by_volatile_alone, forever };

static __global__ void chain(uint32_t *flags, int *sums, Wait wait)
{
    unsigned block = blockIdx.x;
    if (threadIdx.x == 0 && block > 0) {
        if (wait == by_acquire || wait == forever) {
            while (ptx::load_acquire(flags + block - 1) != (wait == forever ? 2 : 1)) __nanosleep(20);
        } else {
            while (*static_cast<volatile uint32_t *>(flags + block - 1) != 1) {
            }
            if (wait == by_volatile) __threadfence();
        }
    }
    __syncthreads();
    sums[block * blockDim.x + threadIdx.x] = (block > 0 ? sums[(block - 1) * blockDim.x + threadIdx.x] : 0) + 1;
    __syncthreads();
    if (threadIdx.x == 0) ptx::store_release(flags + block, 1);
}

static void test_chain_of_blocks()
{
    for (Wait wait : {by_acquire, by_volatile}) {
        Buffer<uint32_t> flags(8);
        Buffer<int> sums(8 * 40);
        launch(shape(8, 40), chain, flags.device, sums.device, wait);
        sums.get();
        for (size_t i = 0; i < sums.host.size(); i++) CHECK(sums.host[i] == static_cast<int>(i / 40) + 1);
    }
    Buffer<uint32_t> flags(8);
    Buffer<int> sums(8 * 40);
    launch(shape(8, 40), chain, flags.device, sums.device, by_volatile_alone);
    CHECK_FAULT("race: ");
    cudaMemset(flags.device, 0, 32);
    launch(shape(8, 40), chain, flags.device, sums.device, forever);
    CHECK_FAULT("nobody can go on");
}

/* More blocks than fit at once may come in any order: one must not wait for another that has not begun. */
static void test_blocks_come_in_any_order()
{
    Buffer<uint32_t> flags(3000);
    Buffer<int> sums(3000 * 40);
    launch(shape(3000, 40), chain, flags.device, sums.device, by_acquire);
    CHECK_FAULT("nobody can go on");
}

/* ---- streams, events, graphs */

static __global__ void scale(int *values, int count, int factor)
{
    int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i < count) values[i] = values[i] * factor + 1;
}

static void test_work_is_done_when_waited_for()
{
    Buffer<int> values(100, 3);
    cudaStream_t stream;
    cudaEvent_t event;
    void *pinned;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    CHECK(cudaEventCreate(&event) == cudaSuccess);
    CHECK(cudaMallocHost(&pinned, 400) == cudaSuccess);
    int *result = static_cast<int *>(pinned);
    result[5] = -1;
    CHECK(launch(shape(2, 64, 0, stream), scale, values.device, 100, 2) == cudaSuccess);
    CHECK(cudaMemcpyAsync(result, values.device, 400, cudaMemcpyDeviceToHost, stream) == cudaSuccess);
    CHECK(cudaEventRecord(event, stream) == cudaSuccess);
    CHECK(cudaStreamQuery(stream) == cudaErrorNotReady && result[5] == -1);
    CHECK(cudaEventSynchronize(event) == cudaSuccess && result[5] == 7);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess && cudaEventDestroy(event) == cudaSuccess &&
          cudaFreeHost(pinned) == cudaSuccess);
}

static void test_streams_race_unless_ordered()
{
    Buffer<int> values(100, 3);
    cudaStream_t one, two;
    cudaEvent_t event;
    cudaStreamCreateWithFlags(&one, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&two, cudaStreamNonBlocking);
    cudaEventCreate(&event);
    launch(shape(2, 64, 0, one), scale, values.device, 100, 2);
    cudaEventRecord(event, one);
    cudaStreamWaitEvent(two, event, 0);
    launch(shape(2, 64, 0, two), scale, values.device, 100, 2);
    CHECK(cudaStreamSynchronize(two) == cudaSuccess);
    values.get();
    CHECK(values.host[99] == 15);
    launch(shape(2, 64, 0, one), scale, values.device, 100, 2);
    launch(shape(2, 64, 0, two), scale, values.device, 100, 2);
    CHECK_FAULT("of a kernel that may run at the same time");
    cudaStreamDestroy(one);
    cudaStreamDestroy(two);
    cudaEventDestroy(event);
}

static __global__ void dependent(const int *in, int *out, bool wait)
{
    if (wait) ptx::grid_wait();
    ptx::grid_launch_dependents();
    out[threadIdx.x] = in[threadIdx.x ^ 1] + 1;
}

static void test_overlapping_kernels()
{
    simt::Device usual = simt::device(), hopper = usual;
    hopper.architecture = 900;
    simt::set_device(hopper);
    Buffer<int> a(32, 1), b(32), c(32);
    launch_config overlap = {dim3(1), dim3(32), 0, nullptr, true};
    launch(shape(1, 32), dependent, a.device, b.device, true);
    launch(overlap, dependent, b.device, c.device, true);
    launch(overlap, dependent, c.device, a.device, true);
    a.get();
    for (int value : a.host) CHECK(value == 4);
    for (int i = 0; i < 1500; i++) { /* more than the detector of races can tell apart */
        launch(overlap, dependent, a.device, b.device, true);
        launch(overlap, dependent, b.device, a.device, true);
    }
    a.get();
    for (int value : a.host) CHECK(value == 3004);
    launch(shape(1, 32), dependent, a.device, b.device, true);
    launch(overlap, dependent, b.device, c.device, false);
    CHECK_FAULT("of a kernel that may run at the same time");
    simt::set_device(usual);
}

static void test_graphs_replay()
{
    Buffer<int> values(100, 1);
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    size_t nodes = 0;
    cudaStreamCreate(&stream);
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess);
    for (int i = 0; i < 3; i++) launch(shape(2, 64, 0, stream), scale, values.device, 100, 2);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes) == cudaSuccess && nodes == 3);
    CHECK(cudaGraphInstantiate(&executable, graph, 0) == cudaSuccess);
    values.get();
    CHECK(values.host[0] == 1);
    for (int i = 0; i < 2; i++) CHECK(cudaGraphLaunch(executable, stream) == cudaSuccess);
    CHECK(cudaStreamSynchronize(stream) == cudaSuccess);
    values.get();
    CHECK(values.host[0] == 127);
    cudaGraphExecDestroy(executable);
    cudaGraphDestroy(graph);
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

static void test_capture_forbids()
{
    cudaStream_t stream;
    cudaGraph_t graph;
    void *memory;
    cudaStreamCreate(&stream);
    for (int kind = 0; kind < 3; kind++) {
        CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess);
        cudaError_t error = kind == 0   ? cudaMalloc(&memory, 16)
                            : kind == 1 ? cudaStreamSynchronize(stream)
                                        : cudaDeviceSynchronize();
        CHECK(error == cudaErrorStreamCaptureUnsupported);
        CHECK(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated && graph == nullptr);
    }
    cudaGetLastError();
    CHECK(cudaStreamDestroy(stream) == cudaSuccess);
}

static void test_bad_launches_are_refused()
{
    Buffer<int> values(1);
    CHECK(launch(shape(1, 1025), scale, values.device, 1, 1) == cudaErrorInvalidConfiguration);
    CHECK(launch(shape(0, 32), scale, values.device, 1, 1) == cudaErrorInvalidConfiguration);
    CHECK(launch(shape(1, 32, 49153), scale, values.device, 1, 1) == cudaErrorInvalidValue);
    CHECK(cudaGetLastError() == cudaErrorInvalidValue && cudaGetLastError() == cudaSuccess);
    CHECK(allow_shared(count, 164 << 10) == cudaErrorInvalidValue);
    CHECK(allow_shared(count, 163 << 10) == cudaSuccess);
    Buffer<uint32_t> counter(1, 0), old(32);
    CHECK(launch(shape(1, 32, 163 << 10), count, counter.device, old.device) == cudaSuccess);
    launch_config overlap = {dim3(1), dim3(1), 0, nullptr, true};
    CHECK(launch(overlap, count, counter.device, old.device) == cudaErrorNotSupported);
    CHECK(cudaMemcpy(values.device, values.device + 1, 4, cudaMemcpyDeviceToDevice) == cudaErrorInvalidValue);
    cudaGetLastError();
}

/* A fault stays until the device is reset, as CUDA's do. */
static void test_faults_stay()
{
    Buffer<float> out(1);
    void *memory;
    launch(shape(1, 1), touch, out.device, out.device, 1, 0);
    CHECK(cudaDeviceSynchronize() == cudaErrorLaunchFailure);
    CHECK(cudaMalloc(&memory, 4) == cudaErrorLaunchFailure);
    CHECK(launch(shape(1, 1), touch, out.device, out.device, 0, 0) == cudaErrorLaunchFailure);
    simt::clear_fault();
    CHECK(launch(shape(1, 1), touch, out.device, out.device, 0, 0) == cudaSuccess);
    CHECK(cudaDeviceSynchronize() == cudaSuccess);
}

int main()
{
    simt::Device device = simt::device();
    device.architecture = 800;
    device.multiprocessors = 4;
    device.races = true;
    if (freopen("/dev/null", "w", stderr) == nullptr) return 1; /* faults are expected */
    for (int round = 0; round < 3; round++, device.seed++) {
        printf("seed %llu\n", static_cast<unsigned long long>(device.seed));
        simt::set_device(device);
        RUN(test_every_lane_runs_once);
        RUN(test_barriers_order_shared_memory);
        RUN(test_a_missing_barrier_is_found);
        RUN(test_lane_order_shows_a_missing_barrier);
        RUN(test_diverging_barriers_are_found);
        RUN(test_ended_lanes_need_no_barrier);
        RUN(test_barriers_of_some_warps);
        RUN(test_shuffles_and_votes);
        RUN(test_wrong_masks_are_found);
        RUN(test_warps_order_shared_memory);
        RUN(test_ldmatrix);
        RUN(test_bad_rows_of_ldmatrix_are_found);
        RUN(test_mma);
        RUN(test_mma_of_turing);
        RUN(test_bit_tricks);
        RUN(test_arithmetic_of_pairs);
        RUN(test_asynchronous_copies);
        RUN(test_careless_copies_are_found);
        run_on(900, [] {
            RUN(test_bulk_copies);
            RUN(test_careless_bulk_copies_are_found);
            RUN(test_warpgroups_multiply);
            RUN(test_careless_warpgroups_are_found);
        });
        RUN(test_bulk_copies_need_hopper);
        run_on(1000, [] { RUN(test_warpgroups_need_hopper_itself); });
        RUN(test_accesses_outside_are_found);
        RUN(test_freed_and_host_memory_are_found);
        RUN(test_new_memory_is_poisoned);
        RUN(test_the_host_cannot_touch_device_memory);
        RUN(test_atomics);
        RUN(test_last_block_reduces);
        RUN(test_chain_of_blocks);
        RUN(test_blocks_come_in_any_order);
        RUN(test_work_is_done_when_waited_for);
        RUN(test_streams_race_unless_ordered);
        RUN(test_overlapping_kernels);
        RUN(test_graphs_replay);
        RUN(test_capture_forbids);
        RUN(test_bad_launches_are_refused);
        RUN(test_faults_stay);
    }
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
