#!/bin/sh
# What the CUDA backend says where nothing can serve it: no driver, an old one, one without a GPU, a GPU that is too
# old, no cuBLASLt.  The drivers are made here; the old GPU is the executor's.
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
passed=0 failed=0

# expect STATUS TEXT NAME=VALUE...: the kernels' test ends so and says that, with these variables set.
expect() {
    status=$1 text=$2
    shift 2
    said=$(env "$@" "$build/test/cuda/kernels" dequant 2>&1)
    found=$?
    if [ "$found" -eq "$status" ] && echo "$said" | grep -q "$text"; then
        passed=$((passed + 1))
    else
        echo "status $found where $status was expected, and \"$text\" in: $said"
        failed=$((failed + 1))
    fi
}

# driver VERSION RESULT: a library of that version whose start gives that result.
driver() {
    ${CC:-cc} -shared -fPIC -DDRIVER_VERSION="$1" -DINIT_RESULT="$2" test/cuda/driver.c \
        -o "$directory/libcuda.so.1" || exit 1
}

simt="AWQ_CUDA_BACKEND=$build/libawq_cuda_simt.so"
expect 77 "compute capability 7.0; 7.5 or later is needed; use the CPU" "$simt" AWQ_SIMT_ARCH=70
expect 1 "cuBLASLt is missing: .*absent.so" "$simt" AWQ_CUBLASLT="$directory/absent.so"
if [ -e "$build/libawq_cuda.so" ]; then
    real="AWQ_CUDA_BACKEND=$build/libawq_cuda.so"
    ldconfig -p | grep -q libcuda.so.1 || expect 77 "no driver: libcuda.so.1" "$real"
    driver 11020 0
    expect 77 "too old: it serves CUDA 11.2" "$real" LD_LIBRARY_PATH="$directory"
    driver 99000 100
    expect 77 "no GPU that it lets this process use" "$real" LD_LIBRARY_PATH="$directory"
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
