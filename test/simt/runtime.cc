/* A stand-in for the CUDA runtime: the calls that host code of the backend makes, with the signatures of NVIDIA's
 * header.
 *
 * Streams are queues, and nothing in them runs before somebody waits for it; then streams take turns in random
 * order, and kernels at the heads of several run at the same time.  So what is read before it was waited for has not
 * been computed, and what two streams must not share shows as a race.  A graph is a list of operations, captured
 * from one or several streams.
 *
 * While host code runs, device memory cannot be touched; while a stream is being captured, calls that CUDA forbids
 * then fail. */
#include "executor.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>

using simt::Grid;

namespace simt {

/* ---- operations and what holds them */

struct Operation {
    enum Kind { kernel, work, record, wait } kind;
    uint64_t number; /* over all streams, in the order of the calls */
    std::shared_ptr<Grid> grid;
    std::function<void()> run;
    CUevent_st *event;
    uint64_t version; /* of the event */
};

} // namespace simt

struct CUgraph_st {
    std::vector<simt::Operation> operations;
    bool broken; /* a forbidden call was made */
};

struct CUgraphExec_st {
    std::vector<simt::Operation> operations;
};

struct CUstream_st {
    bool blocking; /* takes turns with the default stream */
    std::deque<simt::Operation> queue;
    std::shared_ptr<Grid> running, before; /* 'before': still running, and overlapped by 'running' */
    std::shared_ptr<Grid> last;            /* what ran last, if it was a kernel */
    CUgraph_st *capture;
    bool origin; /* the capture began here */
};

struct CUevent_st {
    uint64_t recorded, completed; /* versions */
    CUgraph_st *capture;
    std::chrono::steady_clock::time_point time;
};

namespace simt {

static uint64_t number_of(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text != nullptr && *text != 0 ? strtoull(text, nullptr, 10) : otherwise;
}

/* AWQ_SIMT_ARCH is written as nvcc's -arch is: 75, 80, 90, 120. */
Device settings = {static_cast<int>(number_of("AWQ_SIMT_ARCH", 80)) * 10,
                   static_cast<int>(number_of("AWQ_SIMT_SMS", 4)), number_of("AWQ_SIMT_SEED", 1),
                   number_of("AWQ_SIMT_RACES", 1) != 0};

static std::recursive_mutex mutex;
static CUstream_st default_stream = {true, {}, {}, {}, {}, nullptr, false};
static std::vector<CUstream_st *> streams = {&default_stream};
static uint64_t operations;
static cudaError_t last_error, fatal_error;
static std::string fault_message, argument_message;
static std::map<const void *, size_t> shared_limits; /* by kernel */
static std::map<void *, size_t> pinned;              /* host memory */
static std::map<void *, uint32_t> device_memory;
static int relaxed_captures, captures;

typedef std::lock_guard<std::recursive_mutex> Lock;

static cudaError_t give(cudaError_t error)
{
    if (fatal_error != cudaSuccess) error = fatal_error;
    if (error != cudaSuccess) last_error = error;
    return error;
}

void report(const std::string &text)
{
    fault_message = text;
    fatal_error = cudaErrorLaunchFailure;
    fprintf(stderr, "simt: %s\n", text.c_str());
}

const char *fault_text()
{
    return fault_message.c_str();
}

void clear_fault()
{
    Lock lock(mutex);
    fault_message.clear();
    last_error = fatal_error = cudaSuccess;
}

Device device()
{
    return settings;
}

void set_device(const Device &device)
{
    Lock lock(mutex);
    settings = device;
}

int architecture()
{
    return settings.architecture;
}

/* ---- running what was enqueued */

static CUstream_st *stream_of(cudaStream_t stream)
{
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread ? &default_stream : stream;
}

static bool is_idle(const CUstream_st &stream)
{
    return stream.queue.empty() && !stream.running && !stream.before;
}

/* The default stream and the streams that take turns with it wait for each other's earlier operations. */
static bool has_turn(const CUstream_st &stream)
{
    if (!stream.blocking) return true;
    uint64_t number = stream.queue.front().number;
    for (const CUstream_st *other : streams) {
        if (other == &stream || !other->blocking || (&stream != &default_stream && other != &default_stream)) continue;
        if (other->running || other->before || (!other->queue.empty() && other->queue.front().number < number))
            return false;
    }
    return true;
}

/* Begin or do the first operation of a stream, if it can be. */
static bool begin(CUstream_st &stream)
{
    if (stream.before && stream.before->finished) stream.before.reset();
    if (stream.running && stream.running->finished && !stream.before) stream.running.reset();
    if (stream.queue.empty() || !has_turn(stream)) return false;
    Operation &next = stream.queue.front();
    bool overlaps = next.kind == Operation::kernel && next.grid->launch.overlap;
    if (stream.running && !(overlaps && !stream.before && may_overlap(stream.running.get()))) return false;
    if (next.kind == Operation::kernel && !may_start()) return false;
    if (next.kind == Operation::wait && next.event->completed < next.version) return false;
    Operation operation = std::move(next);
    stream.queue.pop_front();
    if (operation.kind == Operation::kernel) {
        stream.before = stream.running;
        stream.running = operation.grid;
        start(stream.running.get(), overlaps ? stream.last.get() : nullptr);
        stream.last = stream.running;
        return true;
    }
    stream.last.reset();
    if (operation.kind == Operation::work) {
        operation.run();
    } else if (operation.kind == Operation::record) {
        operation.event->completed = std::max(operation.event->completed, operation.version);
        operation.event->time = std::chrono::steady_clock::now();
    }
    return true;
}

/* Do something of what was enqueued; false when there is nothing to do. */
static bool advance()
{
    bool began = false;
    size_t first = draw(streams.size());
    for (size_t i = 0; i < streams.size(); i++) began = begin(*streams[(first + i) % streams.size()]) || began;
    bool stepped = step();
    if (fatal_error != cudaSuccess) {
        for (CUstream_st *stream : streams) {
            stream->queue.clear();
            stream->running.reset();
            stream->before.reset();
            stream->last.reset();
        }
        return false;
    }
    return began || stepped;
}

template <class Condition>
static cudaError_t wait_until(Condition condition)
{
    protect(false);
    while (fatal_error == cudaSuccess && !condition()) {
        if (advance()) continue;
        bool idle = true;
        for (CUstream_st *stream : streams) idle = idle && (begin(*stream), is_idle(*stream));
        if (idle || fatal_error != cudaSuccess) break;
    }
    protect(true);
    return give(fatal_error);
}

static cudaError_t wait_for_all()
{
    return wait_until([] {
        return std::all_of(streams.begin(), streams.end(), [](CUstream_st *stream) { return is_idle(*stream); });
    });
}

/* ---- enqueueing */

static cudaError_t add(cudaStream_t handle, Operation operation)
{
    if (fatal_error != cudaSuccess) return give(fatal_error);
    CUstream_st *stream = stream_of(handle);
    operation.number = ++operations;
    if (stream->capture != nullptr)
        stream->capture->operations.push_back(std::move(operation));
    else if (captures > 0 && stream == &default_stream)
        return give(cudaErrorStreamCaptureImplicit);
    else
        stream->queue.push_back(std::move(operation));
    return cudaSuccess;
}

cudaError_t enqueue_host(cudaStream_t stream, std::function<void()> work)
{
    Lock lock(mutex);
    return add(stream, {Operation::work, 0, nullptr, std::move(work), nullptr, 0});
}

void check_argument(int index, const void *bytes, size_t size)
{
    for (size_t at = 0; at + sizeof(void *) <= size; at += sizeof(void *)) {
        const void *pointer;
        memcpy(&pointer, static_cast<const char *>(bytes) + at, sizeof pointer);
        if (!is_host_memory(pointer)) continue;
        Lock lock(mutex);
        argument_message =
            "argument " + std::to_string(index) + ", byte " + std::to_string(at) + ", points to memory of the host";
    }
}

static size_t shared_limit(const void *kernel)
{
    auto found = shared_limits.find(kernel);
    return found != shared_limits.end() ? found->second : 48 << 10;
}

cudaError_t enqueue(const Launch &launch, const void *kernel, std::function<void()> body)
{
    Lock lock(mutex);
    const dim3 &grid = launch.grid, &block = launch.block;
    if (!argument_message.empty()) {
        report(describe(kernel, true) + ": " + argument_message);
        argument_message.clear();
        return give(fatal_error);
    }
    uint64_t threads = static_cast<uint64_t>(block.x) * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
        grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return give(cudaErrorInvalidConfiguration);
    if (launch.shared_bytes > shared_limit(kernel)) return give(cudaErrorInvalidValue);
    if (launch.overlap && settings.architecture < 900) return give(cudaErrorNotSupported);
    std::shared_ptr<Grid> made(new Grid());
    made->launch = launch;
    made->kernel = kernel;
    made->body = std::move(body);
    return add(launch.stream, {Operation::kernel, 0, made, nullptr, nullptr, 0});
}

/* Calls that a capture forbids: it can never be replayed then. */
static bool is_forbidden(const CUstream_st *stream)
{
    bool forbidden = stream != nullptr && stream->capture != nullptr;
    if (stream == nullptr || stream == &default_stream) forbidden = captures > relaxed_captures;
    if (forbidden)
        for (CUstream_st *each : streams)
            if (each->capture != nullptr) each->capture->broken = true;
    return forbidden;
}

} // namespace simt

using namespace simt;

extern "C" {

/* ---- devices and errors */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? cudaSuccess : give(cudaErrorInvalidDevice);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

/* What differs between architectures, from the tables of technical specifications in the CUDA programming guide. */
struct Specification {
    int architecture, shared_kib, shared_multiprocessor_kib, threads, blocks;
};

static const Specification &specification()
{
    static const Specification known[] = {
        {750, 64, 64, 1024, 16},    {800, 163, 164, 2048, 32}, {860, 99, 100, 1536, 16},   {870, 163, 164, 1536, 16},
        {890, 99, 100, 1536, 24},   {900, 227, 228, 2048, 32}, {1000, 227, 228, 2048, 32}, {1200, 99, 100, 1536, 24},
    };
    const Specification *best = known;
    for (const Specification &each : known)
        if (each.architecture <= settings.architecture) best = &each;
    return *best;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device)
{
    if (device != 0) return give(cudaErrorInvalidDevice);
    const Specification &is = specification();
    *properties = cudaDeviceProp();
    snprintf(properties->name, sizeof properties->name, "SIMT executor, compute capability %d.%d",
             settings.architecture / 100, settings.architecture / 10 % 10);
    properties->major = settings.architecture / 100;
    properties->minor = settings.architecture / 10 % 10;
    properties->multiProcessorCount = settings.multiprocessors;
    properties->totalGlobalMem = 8ull << 30;
    properties->sharedMemPerBlock = 48 << 10;
    properties->sharedMemPerBlockOptin = static_cast<size_t>(is.shared_kib) << 10;
    properties->sharedMemPerMultiprocessor = static_cast<size_t>(is.shared_multiprocessor_kib) << 10;
    properties->reservedSharedMemPerBlock = settings.architecture >= 800 ? 1 << 10 : 0;
    properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsPerMultiProcessor = is.threads;
    properties->maxBlocksPerMultiProcessor = is.blocks;
    properties->warpSize = 32;
    properties->l2CacheSize = 1 << 20;
    properties->memoryBusWidth = 1024;
    properties->unifiedAddressing = 1;
    properties->asyncEngineCount = 1;
    properties->concurrentKernels = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, cudaDeviceAttr attribute, int device)
{
    cudaDeviceProp properties;
    cudaError_t error = cudaGetDeviceProperties(&properties, device);
    if (error != cudaSuccess) return error;
    switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = properties.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = properties.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = properties.multiProcessorCount; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(properties.sharedMemPerBlockOptin); break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        *value = static_cast<int>(properties.sharedMemPerMultiprocessor);
        break;
    case cudaDevAttrL2CacheSize: *value = properties.l2CacheSize; break;
    case cudaDevAttrMemoryClockRate: *value = 1000000; break; /* kHz */
    case cudaDevAttrClockRate: *value = 1000000; break;
    case cudaDevAttrGlobalMemoryBusWidth: *value = properties.memoryBusWidth; break;
    default: return give(cudaErrorNotSupported);
    }
    return cudaSuccess;
}

cudaError_t cudaGetLastError()
{
    cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    case cudaErrorNotSupported: return "cudaErrorNotSupported";
    case cudaErrorLaunchFailure: return "cudaErrorLaunchFailure";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorStreamCaptureInvalidated: return "cudaErrorStreamCaptureInvalidated";
    case cudaErrorStreamCaptureImplicit: return "cudaErrorStreamCaptureImplicit";
    default: return "an error";
    }
}

const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaErrorLaunchFailure && !fault_message.empty() ? fault_message.c_str() : cudaGetErrorName(error);
}

/* ---- memory */

cudaError_t cudaMalloc(void **memory, size_t size)
{
    Lock lock(mutex);
    if (is_forbidden(nullptr)) return give(cudaErrorStreamCaptureUnsupported);
    if (fatal_error != cudaSuccess) return give(fatal_error);
    uint32_t allocation = size > 8ull << 30 ? 0 : allocate(size);
    *memory = nullptr;
    if (allocation == 0) return give(cudaErrorMemoryAllocation);
    *memory = data(allocation);
    protect(true);
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    Lock lock(mutex);
    if (memory == nullptr) return cudaSuccess;
    if (is_forbidden(nullptr)) return give(cudaErrorStreamCaptureUnsupported);
    cudaError_t error = wait_for_all();
    uint32_t allocation = allocation_at(memory);
    if (allocation == 0) return give(cudaErrorInvalidValue);
    deallocate(allocation);
    return error;
}

cudaError_t cudaMallocHost(void **memory, size_t size)
{
    Lock lock(mutex);
    *memory = malloc(size > 0 ? size : 1);
    if (*memory == nullptr) return give(cudaErrorMemoryAllocation);
    pinned[*memory] = size;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *memory)
{
    Lock lock(mutex);
    cudaError_t error = wait_for_all();
    if (memory != nullptr && pinned.erase(memory) == 0) return give(cudaErrorInvalidValue);
    free(memory);
    return error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *free_bytes = *total = 8ull << 30;
    return cudaSuccess;
}

static bool is_pinned(const void *memory)
{
    auto after = pinned.upper_bound(const_cast<void *>(memory));
    if (after == pinned.begin()) return false;
    auto found = std::prev(after);
    return static_cast<const char *>(memory) < static_cast<char *>(found->first) + found->second;
}

/* Host memory that is not pinned is read at once, and written before the call returns, as CUDA does. */
static cudaError_t copy(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream,
                        bool synchronous)
{
    Lock lock(mutex);
    CUstream_st *queue = stream_of(stream);
    if (synchronous && is_forbidden(queue)) return give(cudaErrorStreamCaptureUnsupported);
    if (size == 0) return give(cudaSuccess);
    bool to_device = is_device_range(to, size), from_device = is_device_range(from, size);
    bool wants_to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool wants_from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind != cudaMemcpyDefault && (to_device != wants_to_device || from_device != wants_from_device))
        return give(cudaErrorInvalidValue);
    std::shared_ptr<std::vector<char>> staged;
    const char *bytes = static_cast<const char *>(from);
    if (!from_device && !is_pinned(from) && queue->capture == nullptr)
        staged.reset(new std::vector<char>(bytes, bytes + size));
    auto work = [=] { memcpy(to, staged ? staged->data() : from, size); };
    cudaError_t error = add(stream, {Operation::work, 0, nullptr, work, nullptr, 0});
    bool waits = synchronous || (!to_device && !is_pinned(to) && queue->capture == nullptr);
    return error == cudaSuccess && waits ? wait_until([=] { return is_idle(*queue); }) : error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, cudaMemcpyKind kind)
{
    return copy(to, from, size, kind, nullptr, true);
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, cudaMemcpyKind kind, cudaStream_t stream)
{
    return copy(to, from, size, kind, stream, false);
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t size, cudaStream_t stream)
{
    Lock lock(mutex);
    if (size > 0 && !is_device_range(memory, size)) return give(cudaErrorInvalidValue);
    return add(stream, {Operation::work, 0, nullptr, [=] { memset(memory, value, size); }, nullptr, 0});
}

cudaError_t cudaMemset(void *memory, int value, size_t size)
{
    return cudaMemsetAsync(memory, value, size, nullptr);
}

/* ---- streams */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    Lock lock(mutex);
    *stream = new CUstream_st{(flags & cudaStreamNonBlocking) == 0, {}, {}, {}, {}, nullptr, false};
    streams.push_back(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    Lock lock(mutex);
    CUstream_st *queue = stream_of(stream);
    if (is_forbidden(queue)) return give(cudaErrorStreamCaptureUnsupported);
    return wait_until([=] { return is_idle(*queue); });
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    cudaError_t error = cudaStreamSynchronize(stream);
    Lock lock(mutex);
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    delete stream;
    return error;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    Lock lock(mutex);
    if (is_forbidden(stream_of(stream))) return give(cudaErrorStreamCaptureUnsupported);
    return is_idle(*stream_of(stream)) ? give(cudaSuccess) : cudaErrorNotReady;
}

cudaError_t cudaDeviceSynchronize()
{
    Lock lock(mutex);
    if (is_forbidden(nullptr)) return give(cudaErrorStreamCaptureUnsupported);
    return wait_for_all();
}

/* ---- events */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    *event = new CUevent_st{0, 0, nullptr, {}};
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    cudaError_t error = wait_for_all();
    delete event;
    return error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    Lock lock(mutex);
    event->capture = stream_of(stream)->capture;
    return add(stream, {Operation::record, 0, nullptr, nullptr, event, ++event->recorded});
}

/* A stream that waits for an event of a stream being captured is captured too. */
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    Lock lock(mutex);
    if (event->capture != nullptr) {
        stream_of(stream)->capture = event->capture;
        return cudaSuccess;
    }
    return add(stream, {Operation::wait, 0, nullptr, nullptr, event, event->recorded});
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    Lock lock(mutex);
    if (event->capture != nullptr) return give(cudaErrorCapturedEvent);
    return event->completed >= event->recorded ? give(cudaSuccess) : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    Lock lock(mutex);
    if (event->capture != nullptr) return give(cudaErrorCapturedEvent);
    return wait_until([=] { return event->completed >= event->recorded; });
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end)
{
    if (cudaEventQuery(start) != cudaSuccess || cudaEventQuery(end) != cudaSuccess) return give(cudaErrorNotReady);
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return cudaSuccess;
}

/* ---- graphs */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode)
{
    Lock lock(mutex);
    CUstream_st *queue = stream_of(stream);
    if (queue == &default_stream || queue->capture != nullptr) return give(cudaErrorStreamCaptureUnsupported);
    queue->capture = new CUgraph_st{{}, false};
    queue->origin = true;
    captures++;
    relaxed_captures += mode == cudaStreamCaptureModeRelaxed;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    Lock lock(mutex);
    *graph = nullptr;
    if (stream == nullptr || stream->capture == nullptr || !stream->origin) return give(cudaErrorIllegalState);
    CUgraph_st *captured = stream->capture;
    for (CUstream_st *each : streams)
        if (each->capture == captured) each->capture = nullptr;
    stream->origin = false;
    if (--captures < relaxed_captures) relaxed_captures = captures;
    if (captured->broken) {
        delete captured;
        return give(cudaErrorStreamCaptureInvalidated);
    }
    *graph = captured;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *executable, cudaGraph_t graph, unsigned long long)
{
    *executable = new CUgraphExec_st{graph->operations};
    return cudaSuccess;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    if (nodes != nullptr) return give(cudaErrorNotSupported);
    *count = graph->operations.size();
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream)
{
    Lock lock(mutex);
    for (Operation operation : executable->operations) {
        if (operation.kind == Operation::record || operation.kind == Operation::wait) continue;
        if (operation.grid) {
            operation.grid = std::make_shared<Grid>(*operation.grid); /* its state is of one run */
            operation.grid->launch.stream = stream;
        }
        cudaError_t error = add(stream, operation);
        if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable)
{
    delete executable;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

/* ---- kernels */

cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value)
{
    Lock lock(mutex);
    if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return give(cudaErrorNotSupported);
    if (value < 0 || value > specification().shared_kib << 10) return give(cudaErrorInvalidValue);
    shared_limits[kernel] = std::max(static_cast<size_t>(value), static_cast<size_t>(48) << 10);
    return cudaSuccess;
}

/* By threads, blocks and shared memory; registers are not known here. */
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, const void *, int threads, size_t shared_bytes)
{
    const Specification &is = specification();
    int by_threads = is.threads / std::max(1, (threads + 31) / 32 * 32);
    int by_shared = static_cast<int>((static_cast<size_t>(is.shared_multiprocessor_kib) << 10) / (shared_bytes + 1024));
    *blocks = std::min({is.blocks, by_threads, by_shared});
    return cudaSuccess;
}

} // extern "C"
