/* What a kernel finds when a host C++ compiler makes it for the executor (-DAWQ_SIMT): CUDA's qualifiers, built-in
 * variables and functions, and what the wrappers of cuda/ptx.cuh call.
 *
 * Every lane of a block is a cooperative fibre.  Lanes change places only inside the functions declared here, in an
 * order drawn from a seed; kernels are compiled with -fsanitize=thread, whose hooks memory.cc implements, so each of
 * their loads and stores is seen too.  What CUDA leaves undefined ends the launch with a text that names the lane,
 * the address and the line: accesses outside allocations, misaligned or racing ones, reads of copies still under
 * way, barriers and warp instructions that some lanes do not reach, masks that name the wrong lanes, waits for what
 * nobody writes. */
#ifndef AWQ_SIMT_H
#define AWQ_SIMT_H

#undef __device__
#undef __global__
#undef __host__
#undef __constant__
#undef __grid_constant__
#define __device__
#define __global__
#define __host__
#define __constant__
#define __grid_constant__
#include <cuda_runtime_api.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __shared__
#define __shared__ static_assert(false, "shared memory comes from shared_memory(): the executor has no other");

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>

namespace simt {

/* ---- where a lane is */

struct View {
    uint3 thread, block;
    dim3 block_size, grid_size;
};

/* The lane whose code runs on this thread of the host; null while the host's code or the executor's own does. */
extern __thread View *current __attribute__((tls_model("initial-exec")));

unsigned char *shared_memory();
int architecture(); /* of the pretended device: 750, 800 ... */

/* A call's place in the source, taken through default arguments. */
struct Place {
    const char *file;
    int line;
};

/* ---- warps */

enum Shuffle { shuffle_index, shuffle_up, shuffle_down, shuffle_xor };
void shuffle(Shuffle kind, unsigned mask, void *value, size_t size, unsigned argument, int width);
unsigned ballot(unsigned mask, bool predicate);
unsigned match(unsigned mask, uint64_t value);
void sync_warp(unsigned mask); /* orders memory when it names all lanes of the warp that have not ended */

enum Element { element_f16, element_bf16 };
void ldmatrix(uint32_t *r, int matrices, bool transpose, const void *shared);
void mma(float *d, const uint32_t *a, const uint32_t *b, int k, Element element);

/* ---- barriers; sync_threads returns for how many lanes the predicate holds */

int sync_threads(bool predicate, Place place);
void barrier(int id, int threads, bool wait);

/* ---- memory */

void cp_async(void *shared, const void *global, int bytes, bool valid);
void cp_async_commit();
void cp_async_wait(int groups);
void grid_wait();
void grid_launch_dependents();
void fence();
void yield(); /* other lanes run before this one goes on */
[[noreturn]] void trap();

/* Compute capability 9.0, in the background: bulk copies, their barriers, products of warpgroups. */
uint32_t shared_address(const void *shared); /* from where the block's begins */
void mbarrier_init(uint64_t *shared, uint32_t arrivals);
void mbarrier_arrive(uint64_t *shared, uint32_t bytes);
void mbarrier_wait(uint64_t *shared, uint32_t parity);
void fence_async();
void bulk_copy(void *shared, const void *global, uint32_t bytes, uint64_t *mbarrier);
void wgmma_fence();
void wgmma(float *d, int n, const uint32_t *a, uint64_t b, Element element);
void wgmma_commit();
void wgmma_wait(int groups);

enum Order { relaxed, acquire, release, acquire_release };

/* Holds while one atomic operation on '*address' is made. */
class Atomic {
  public:
    enum Kind { load, store, modify };
    Atomic(const volatile void *address, size_t size, Kind kind, Order order);
    ~Atomic();
    Atomic(const Atomic &) = delete;
    Atomic &operator=(const Atomic &) = delete;

    void changed(); /* someone may have waited for it */

  private:
    View *lane;
};

template <class T, class Function>
static inline T modify(T *address, Order order, Function function)
{
    Atomic held(address, sizeof(T), Atomic::modify, order);
    T old = *address;
    *address = function(old);
    if (*address != old) held.changed();
    return old;
}

static inline uint32_t load_acquire(const uint32_t *address)
{
    Atomic held(address, 4, Atomic::load, acquire);
    return *address;
}

static inline void store_release(uint32_t *address, uint32_t value)
{
    Atomic held(address, 4, Atomic::store, release);
    *address = value;
    held.changed();
}

static inline void add_release(uint32_t *address, uint32_t value)
{
    modify(address, release, [=](uint32_t old) { return old + value; });
}

static inline uint32_t add_acquire_release(uint32_t *address, uint32_t value)
{
    return modify(address, acquire_release, [=](uint32_t old) { return old + value; });
}

template <class T>
static inline T load(const void *address)
{
    return *static_cast<const T *>(address);
}

static inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, int table)
{
    uint32_t d = 0;
    for (int i = 0; i < 8; i++)
        if (table >> i & 1) d |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
    return d;
}

static inline uint32_t prmt(uint32_t a, uint32_t b, uint32_t selector)
{
    uint64_t bytes = static_cast<uint64_t>(b) << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++) {
        uint32_t nibble = selector >> 4 * i & 15;
        uint32_t byte = bytes >> 8 * (nibble & 7) & 255;
        if (nibble & 8) byte = byte & 128 ? 255 : 0;
        d |= byte << 8 * i;
    }
    return d;
}

template <class To, class From>
static inline To bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

/* ---- launches */

struct Launch {
    dim3 grid, block;
    size_t shared_bytes;
    cudaStream_t stream;
    bool overlap;
};

/* The kernel's code runs between these two. */
void begin_lane();
void end_lane();

/* Enqueue a grid of which each lane calls 'body'; 'kernel' identifies the function. */
cudaError_t enqueue(const Launch &launch, const void *kernel, std::function<void()> body);

/* Enqueue work of the host, which may touch device memory, in the order of the stream. */
cudaError_t enqueue_host(cudaStream_t stream, std::function<void()> work);

/* Records that argument 'index' of the launch being made holds a pointer to host memory, if it does. */
void check_argument(int index, const void *bytes, size_t size);

template <class... Parameters>
cudaError_t launch(const Launch &config, void (*kernel)(Parameters...),
                   const std::common_type_t<Parameters> &...arguments)
{
    int index = 0;
    (check_argument(index++, &arguments, sizeof arguments), ...);
    /* Arguments are read from the closure, which is the host's, so not under the eyes of the hooks. */
    return enqueue(config, reinterpret_cast<const void *>(kernel),
                   [=]() __attribute__((no_sanitize("thread"))) {
                       begin_lane();
                       kernel(arguments...);
                       end_lane();
                   });
}

/* ---- what tests set and ask */

struct Device {
    int architecture;    /* 750 .. 1200; AWQ_SIMT_ARCH, by default 800 */
    int multiprocessors; /* AWQ_SIMT_SMS, by default 4 */
    uint64_t seed;       /* of every order that CUDA leaves open; AWQ_SIMT_SEED, by default 1 */
    bool races;          /* look for them; AWQ_SIMT_RACES, by default 1 */
};
Device device();
void set_device(const Device &device);

/* The text of the fault that ended a launch, or "".  clear_fault() also makes the device usable again. */
const char *fault_text();
void clear_fault();

} // namespace simt

/* ---- CUDA's built-ins */

#define threadIdx (simt::current->thread)
#define blockIdx (simt::current->block)
#define blockDim (simt::current->block_size)
#define gridDim (simt::current->grid_size)

#define SIMT_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()
static inline void __syncthreads(SIMT_PLACE) { simt::sync_threads(false, {file, line}); }
static inline int __syncthreads_count(int p, SIMT_PLACE) { return simt::sync_threads(p != 0, {file, line}); }
static inline int __syncthreads_or(int p, SIMT_PLACE) { return simt::sync_threads(p != 0, {file, line}) != 0; }
static inline int __syncthreads_and(int p, SIMT_PLACE) { return simt::sync_threads(p == 0, {file, line}) == 0; }
#undef SIMT_PLACE

static inline void __syncwarp(unsigned mask = 0xffffffffu) { simt::sync_warp(mask); }
static inline unsigned __ballot_sync(unsigned mask, int p) { return simt::ballot(mask, p != 0); }
static inline int __any_sync(unsigned mask, int p) { return simt::ballot(mask, p != 0) != 0; }
static inline int __all_sync(unsigned mask, int p) { return simt::ballot(mask, p == 0) == 0; }

template <class T>
static inline unsigned __match_any_sync(unsigned mask, T value)
{
    uint64_t wide = 0;
    std::memcpy(&wide, &value, sizeof value);
    return simt::match(mask, wide);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32)
{
    simt::shuffle(simt::shuffle_index, mask, &value, sizeof value, static_cast<unsigned>(lane), width);
    return value;
}

template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    simt::shuffle(simt::shuffle_up, mask, &value, sizeof value, delta, width);
    return value;
}

template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    simt::shuffle(simt::shuffle_down, mask, &value, sizeof value, delta, width);
    return value;
}

template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    simt::shuffle(simt::shuffle_xor, mask, &value, sizeof value, static_cast<unsigned>(lanes), width);
    return value;
}

static inline void __threadfence() { simt::fence(); }
static inline void __nanosleep(unsigned) { simt::yield(); }
static inline void __trap() { simt::trap(); }

/* The second parameter takes no part in deduction: atomicAdd(unsigned *, int) is as good as in CUDA. */
template <class T>
using simt_same = std::common_type_t<T>;

template <class T>
static inline T atomicAdd(T *address, simt_same<T> value)
{
    return simt::modify(address, simt::relaxed, [=](T old) { return static_cast<T>(old + value); });
}

template <class T>
static inline T atomicMax(T *address, simt_same<T> value)
{
    return simt::modify(address, simt::relaxed, [=](T old) { return old < value ? value : old; });
}

template <class T>
static inline T atomicMin(T *address, simt_same<T> value)
{
    return simt::modify(address, simt::relaxed, [=](T old) { return value < old ? value : old; });
}

static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) { return simt::prmt(a, b, s & 0x7777u); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
#define __expf(x) std::exp(static_cast<float>(x)) /* a macro: glibc has a function of this name */
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
static inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dmul_rn(double a, double b) { return a * b; }

template <class T>
static inline T min(T a, simt_same<T> b)
{
    return b < a ? b : a;
}

template <class T>
static inline T max(T a, simt_same<T> b)
{
    return a < b ? b : a;
}

/* The arithmetic that cuda_fp16.h and cuda_bf16.h keep for nvcc: once rounded.  A product of two 16-bit numbers is
 * exact in double precision, and whatever the sum drops lies too far below to change how it rounds to 16 bits. */
static inline __half __hfma(__half a, __half b, __half c)
{
    return __double2half(std::fma(static_cast<double>(__half2float(a)), static_cast<double>(__half2float(b)),
                                  static_cast<double>(__half2float(c))));
}

static inline __nv_bfloat16 __hfma(__nv_bfloat16 a, __nv_bfloat16 b, __nv_bfloat16 c)
{
    return __double2bfloat16(std::fma(static_cast<double>(__bfloat162float(a)),
                                      static_cast<double>(__bfloat162float(b)),
                                      static_cast<double>(__bfloat162float(c))));
}

static inline __half2 __hfma2(__half2 a, __half2 b, __half2 c)
{
    return __halves2half2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

static inline __nv_bfloat162 __hfma2(__nv_bfloat162 a, __nv_bfloat162 b, __nv_bfloat162 c)
{
    return __halves2bfloat162(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y));
}

#endif /* AWQ_SIMT_H */
