/* What a caller may do with streams: capture a run and replay it, have it measured, run one linear on two streams at once, run it again
 * and again. Every result has the bits of the first.
 *
 * The backend's own objects are linked in, so that this program and they share one CUDA runtime: the device's or the
 * executor's.  Exit status 77 with a reason where there is no device. */
#include "backend.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>

const struct awqi_backend *awqi_backend_get(const struct awqi_host *host);

static const struct awqi_host core = {
    .abi = AWQI_BACKEND_ABI,
    .fail = awqi_fail,
    .log = awqi_log,
    .parallel_for = awqi_parallel_for,
    .pack = awq_pack,
    .get_plane = awq_packed_get_plane,
    .release_packed = awq_packed_destroy,
    .kernel_select = awq_kernel_select,
};

enum { N = 192, K = 320, GROUP = 64, MOST_ROWS = 17 };

static const struct awqi_backend *backend;
static awq_context *context;
static void *device;
#ifdef AWQ_SIMT
static int repeats = 3;
#else
static int repeats = 1000;
#endif
static int passed, failed;

static void require(bool good, const char *what)
{
    if (good) return;
    printf("%s: %s; %s\n", what, awq_last_error(), cudaGetErrorString(cudaGetLastError()));
    exit(1);
}
#define REQUIRE(call) require((call) == 0, #call)

static uint32_t draw(uint32_t below)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % below);
}

/* Numbers of FP16 near 1 in device memory. */
static void *random_halves(int64_t count)
{
    uint16_t *values = malloc((size_t)count * 2);
    for (int64_t i = 0; i < count; i++) values[i] = (uint16_t)(0x3800u + draw(0x700) + 0x8000u * draw(2));
    void *memory;
    REQUIRE(backend->allocate(device, (uint64_t)count * 2, &memory));
    REQUIRE(cudaMemcpy(memory, values, (size_t)count * 2, cudaMemcpyHostToDevice));
    free(values);
    return memory;
}

static awq_weight *random_weight(void)
{
    static uint8_t codes[N * K], zeros[N * (K / GROUP)];
    static float scales[N * (K / GROUP)];
    for (int i = 0; i < N * K; i++) codes[i] = (uint8_t)draw(16);
    for (int i = 0; i < N * (K / GROUP); i++) {
        zeros[i] = (uint8_t)draw(16);
        scales[i] = 0.01f + (float)draw(100) * 0.001f;
    }
    awq_quantize_options options;
    awq_struct_init(&options, sizeof options);
    options.group_size = GROUP;
    awq_tensor codes_view, scales_view, zeros_view;
    awq_tensor_init_const_2d(&codes_view, codes, AWQ_U8, N, K);
    awq_tensor_init_const_2d(&scales_view, scales, AWQ_F32, N, K / GROUP);
    awq_tensor_init_const_2d(&zeros_view, zeros, AWQ_U8, N, K / GROUP);
    awq_weight *weight;
    REQUIRE(awq_weight_create(context, &codes_view, &scales_view, &zeros_view, &options, &weight));
    return weight;
}

/* ---- one linear and all that a run of it needs */

struct lane {
    cudaStream_t stream;
    void *workspace, *y;
};

struct work {
    void *linear, *x;
    int64_t rows;
    struct lane lanes[2];
    uint16_t first[MOST_ROWS * N], y[MOST_ROWS * N];
};

static void lane_open(const struct work *work, struct lane *lane)
{
    const uint64_t bytes = backend->linear_workspace(device, work->linear, work->rows);
    REQUIRE(cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking));
    REQUIRE(backend->allocate(device, bytes, &lane->workspace));
    REQUIRE(cudaMemset(lane->workspace, 0x5a, bytes));
    REQUIRE(backend->allocate(device, (uint64_t)(work->rows * N) * 2, &lane->y));
}

static void lane_close(struct lane *lane)
{
    backend->release(device, lane->workspace);
    backend->release(device, lane->y);
    REQUIRE(cudaStreamDestroy(lane->stream));
}

static void enqueue(const struct work *work, const struct lane *lane)
{
    awq_tensor x, y;
    awq_tensor_init_const_2d(&x, work->x, AWQ_F16, work->rows, K);
    awq_tensor_init_2d(&y, lane->y, AWQ_F16, work->rows, N);
    x.device_type = y.device_type = AWQ_DEVICE_CUDA;
    const struct awqi_linear_job job = {
        .x = &x, .y = &y, .rows = work->rows, .stream = lane->stream, .workspace = lane->workspace};
    REQUIRE(backend->linear_run(device, work->linear, &job));
}

static void forget(const struct work *work, const struct lane *lane)
{
    REQUIRE(cudaMemset(lane->y, 0xff, (size_t)(work->rows * N) * 2));
    REQUIRE(cudaDeviceSynchronize());
}

static void expect_first(struct work *work, const struct lane *lane, const char *what)
{
    const size_t bytes = (size_t)(work->rows * N) * 2;
    REQUIRE(cudaStreamSynchronize(lane->stream));
    REQUIRE(cudaMemcpy(work->y, lane->y, bytes, cudaMemcpyDeviceToHost));
    if (memcmp(work->y, work->first, bytes) == 0) {
        passed++;
        return;
    }
    printf("FAILED: %s, %d rows: other bits\n", what, (int)work->rows);
    failed++;
}

/* ---- the tests */

/* Only kernels: what else a run enqueued would be in the graph. */
static void check_nodes(cudaGraph_t graph)
{
    size_t count = 0;
    REQUIRE(cudaGraphGetNodes(graph, NULL, &count));
    require(count >= 1 && count <= 4, "nodes of the graph");
#ifndef AWQ_SIMT
    cudaGraphNode_t nodes[4];
    REQUIRE(cudaGraphGetNodes(graph, nodes, &count));
    for (size_t i = 0; i < count; i++) {
        enum cudaGraphNodeType type;
        REQUIRE(cudaGraphNodeGetType(nodes[i], &type));
        require(type == cudaGraphNodeTypeKernel, "a node that is no kernel");
    }
#endif
}

static void test_graph(struct work *work)
{
    const struct lane *lane = &work->lanes[0];
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    REQUIRE(cudaStreamBeginCapture(lane->stream, cudaStreamCaptureModeThreadLocal));
    enqueue(work, lane);
    REQUIRE(cudaStreamEndCapture(lane->stream, &graph));
    check_nodes(graph);
    REQUIRE(cudaGraphInstantiate(&executable, graph, 0));
    for (int i = 0; i < 3; i++) {
        forget(work, lane);
        REQUIRE(cudaGraphLaunch(executable, lane->stream));
        expect_first(work, lane, "replay");
    }
    /* Without waiting between them. */
    for (int i = 0; i < 4; i++) REQUIRE(cudaGraphLaunch(executable, lane->stream));
    expect_first(work, lane, "replays");
    REQUIRE(cudaGraphExecDestroy(executable));
    REQUIRE(cudaGraphDestroy(graph));
}

static void test_two_streams(struct work *work)
{
    forget(work, &work->lanes[0]);
    forget(work, &work->lanes[1]);
    for (int i = 0; i < 4; i++) {
        enqueue(work, &work->lanes[0]);
        enqueue(work, &work->lanes[1]);
    }
    expect_first(work, &work->lanes[0], "one of two streams");
    expect_first(work, &work->lanes[1], "the other of two streams");
}

static void test_repeats(struct work *work)
{
    for (int i = 0; i < repeats; i++) {
        forget(work, &work->lanes[0]);
        enqueue(work, &work->lanes[0]);
        const int before = failed;
        expect_first(work, &work->lanes[0], "a repeat");
        if (failed > before) return;
        passed -= i > 0;
    }
}

static awq_status enqueue_on(void *user_data, void *stream)
{
    struct work *work = user_data;
    struct lane lane = work->lanes[0];
    lane.stream = stream;
    enqueue(work, &lane);
    return AWQ_OK;
}

static awq_status fail_in_capture(void *user_data, void *stream)
{
    int *calls = user_data;
    (void)stream;
    return ++*calls < 2 ? AWQ_OK : awqi_fail(AWQ_ERROR_STATE, "call %d", *calls);
}

/* awq_context_time: replays compute what a run does, and failures come back from either call, after which all works. */
static void test_time(struct work *work)
{
    enum { RUNS = 3 };
    double seconds[RUNS] = {-1.0, -1.0, -1.0};
    forget(work, &work->lanes[0]);
    REQUIRE(backend->time(device, enqueue_on, work, RUNS, seconds));
    expect_first(work, &work->lanes[0], "a measured run");
    for (int i = 0; i < RUNS; i++) require(seconds[i] > 0.0, "seconds of a measured run");
    for (int calls = 0, first = 0; first < 2; calls = ++first)
        require(backend->time(device, fail_in_capture, &calls, 1, seconds) == AWQ_ERROR_STATE, "work that fails");
}

static void test_kernel(const awq_weight *weight, int32_t kernel, int64_t rows)
{
    static struct work work;
    const struct awqi_linear_spec spec = {.weight = weight, .kernel = kernel};
    work.rows = rows;
    REQUIRE(backend->linear_prepare(device, &spec, &work.linear));
    work.x = random_halves(rows * K);
    lane_open(&work, &work.lanes[0]);
    lane_open(&work, &work.lanes[1]);
    REQUIRE(cudaDeviceSynchronize());
    enqueue(&work, &work.lanes[0]);
    REQUIRE(cudaStreamSynchronize(work.lanes[0].stream));
    REQUIRE(cudaMemcpy(work.first, work.lanes[0].y, (size_t)(rows * N) * 2, cudaMemcpyDeviceToHost));
    test_graph(&work);
    test_two_streams(&work);
    test_repeats(&work);
    test_time(&work);
    lane_close(&work.lanes[0]);
    lane_close(&work.lanes[1]);
    backend->release(device, work.x);
    backend->linear_release(device, work.linear);
}

int main(void)
{
    static const int32_t kernels[] = {AWQ_KERNEL_REFERENCE, AWQ_KERNEL_GEMV, AWQ_KERNEL_GEMM, AWQ_KERNEL_MARLIN,
                                      AWQ_KERNEL_DEQUANT};
    REQUIRE(awq_context_create(NULL, &context));
    backend = awqi_backend_get(&core);
    require(backend != NULL, "awqi_backend_get");
    awq_status status = backend->open(context, 0, &device);
    if (status == AWQ_ERROR_NO_DEVICE) {
        printf("%s\n", awq_last_error());
        return 77;
    }
    require(status == AWQ_OK, "opening the device");
    awq_weight *weight = random_weight();
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        test_kernel(weight, kernels[i], 3);
        test_kernel(weight, kernels[i], MOST_ROWS);
    }
    awq_weight_destroy(weight);
    backend->close(device);
    awq_context_destroy(context);
    printf("%d passed, %d failed, 0 skipped\n", passed, failed);
    return failed != 0;
}
