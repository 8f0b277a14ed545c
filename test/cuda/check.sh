#!/bin/sh
# The CUDA kernels on this machine's GPU, then again under each tool of compute-sanitizer where that is installed.  Exit
# status 77 with a reason where there is no GPU.
set -u
cd "$(dirname "$0")/../.."
AWQ_CUDA_BACKEND=$(realpath "${BUILD:-build}/libawq_cuda.so")
AWQ_APP_CUDA=$(realpath "${BUILD:-build}/libawq_app_cuda.so")
export AWQ_CUDA_BACKEND AWQ_APP_CUDA
program=${BUILD:-build}/test/cuda/kernels

"$program"
status=$?
[ $status -eq 0 ] || exit $status
"${BUILD:-build}/test/cuda/quantize" || exit 1
"${BUILD:-build}/test/cuda/streams" || exit 1
"${BUILD:-build}/test/cuda/application" || exit 1
if ! command -v compute-sanitizer >/dev/null; then
    echo "compute-sanitizer is not installed: its checks did not run"
    exit 0
fi
for tool in memcheck racecheck initcheck synccheck; do
    echo "compute-sanitizer $tool"
    compute-sanitizer --tool $tool --error-exitcode 1 "$program" -s 2 || exit 1
    compute-sanitizer --tool $tool --error-exitcode 1 "${BUILD:-build}/test/cuda/quantize" -s 2 || exit 1
    compute-sanitizer --tool $tool --error-exitcode 1 "${BUILD:-build}/test/cuda/application" || exit 1
done
