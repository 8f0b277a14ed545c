/* Timing on the device: work is captured as a graph, and its replays lie between events on one stream. */
#include "host.h"

#include <stdlib.h>

struct timing {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    cudaEvent_t *events; /* [runs + 1] */
    int64_t created;     /* of them */
};

static void timing_close(struct timing *timing)
{
    for (int64_t i = 0; i < timing->created; i++) (void)cudaEventDestroy(timing->events[i]);
    free(timing->events);
    if (timing->executable != NULL) (void)cudaGraphExecDestroy(timing->executable);
    if (timing->graph != NULL) (void)cudaGraphDestroy(timing->graph);
    if (timing->stream != NULL) (void)cudaStreamDestroy(timing->stream);
}

static awq_status timing_open(int64_t runs, struct timing *timing)
{
    timing->events = calloc((size_t)runs + 1, sizeof *timing->events);
    if (timing->events == NULL)
        return awqi_cuda_host->fail(AWQ_ERROR_OUT_OF_MEMORY, "cuda: no memory for %lld events", (long long)runs + 1);
    cudaError_t error = cudaStreamCreateWithFlags(&timing->stream, cudaStreamNonBlocking);
    for (; timing->created <= runs && error == cudaSuccess; timing->created += error == cudaSuccess)
        error = cudaEventCreate(&timing->events[timing->created]);
    return awqi_cuda_check(error, "preparing to measure");
}

/* The first call is not captured: modules are loaded and algorithms found while it runs, which a capture forbids. */
static awq_status capture(awq_work_callback work, void *user_data, struct timing *timing)
{
    awq_status status = work(user_data, timing->stream);
    if (status == AWQ_OK) status = awqi_cuda_check(cudaStreamSynchronize(timing->stream), "work to be measured");
    if (status == AWQ_OK)
        status = awqi_cuda_check(cudaStreamBeginCapture(timing->stream, cudaStreamCaptureModeThreadLocal),
                                 "capturing work");
    if (status != AWQ_OK) return status;
    status = work(user_data, timing->stream);
    const cudaError_t error = cudaStreamEndCapture(timing->stream, &timing->graph);
    if (status == AWQ_OK) status = awqi_cuda_check(error, "capturing work");
    else if (error != cudaSuccess) (void)cudaGetLastError(); /* follows from the failure that is reported */
    if (status != AWQ_OK) return status;
    return awqi_cuda_check(cudaGraphInstantiate(&timing->executable, timing->graph, 0), "making a graph of work");
}

/* All is enqueued before anything is waited for: while the unmeasured replay runs the host gets ahead of the device,
 * and what it needs to launch the others is hidden. */
static awq_status replay(const struct timing *timing, int64_t runs, double *seconds)
{
    cudaError_t error = cudaGraphLaunch(timing->executable, timing->stream);
    if (error == cudaSuccess) error = cudaEventRecord(timing->events[0], timing->stream);
    for (int64_t i = 0; i < runs && error == cudaSuccess; i++) {
        error = cudaGraphLaunch(timing->executable, timing->stream);
        if (error == cudaSuccess) error = cudaEventRecord(timing->events[i + 1], timing->stream);
    }
    if (error == cudaSuccess) error = cudaStreamSynchronize(timing->stream);
    for (int64_t i = 0; i < runs && error == cudaSuccess; i++) {
        float milliseconds = 0.0f;
        error = cudaEventElapsedTime(&milliseconds, timing->events[i], timing->events[i + 1]);
        seconds[i] = 1e-3 * (double)milliseconds;
    }
    return awqi_cuda_check(error, "measured work");
}

awq_status awqi_cuda_time(void *device, awq_work_callback work, void *user_data, int64_t runs, double *seconds)
{
    int previous;
    struct timing timing = {0};
    awq_status status = awqi_cuda_enter(device, &previous);
    if (status != AWQ_OK) return status;
    status = timing_open(runs, &timing);
    if (status == AWQ_OK) status = capture(work, user_data, &timing);
    if (status == AWQ_OK) status = replay(&timing, runs, seconds);
    timing_close(&timing);
    awqi_cuda_leave(previous);
    return status;
}
