#!/bin/sh
# Calibration, search and quantisation on the executor: as devices of two generations run them, the second without
# cuBLASLt, where the library's own kernel multiplies.
set -u
cd "$(dirname "$0")/../.."
build=$(realpath "${BUILD:-build}")
passed=0 failed=0

# run SEED NAME=VALUE...
run() {
    seed=$1
    shift
    output=$(env AWQ_CUDA_BACKEND="$build/libawq_cuda_simt.so" AWQ_SIMT_SEED="$seed" "$@" \
        "$build/test/cuda/quantize" -s "$seed" 2>&1) || {
        echo "$output"
        failed=$((failed + 1))
    }
    good=$(echo "$output" | sed -n '$s/^\([0-9]*\) passed.*/\1/p')
    passed=$((passed + ${good:-0}))
}

run 1 AWQ_SIMT_ARCH=75 AWQ_SIMT_SMS=3
run 2 AWQ_SIMT_ARCH=90 AWQ_SIMT_SMS=7 AWQ_CUBLASLT=/nonexistent/libcublasLt.so
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
