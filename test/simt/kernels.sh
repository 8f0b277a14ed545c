#!/bin/sh
# Every CUDA kernel on the executor, as devices of three generations run it.
set -u
cd "$(dirname "$0")/../.."
passed=0 failed=0
for device in "75 3" "80 4" "90 7"; do
    set -- $device
    output=$(AWQ_CUDA_BACKEND=$(realpath "${BUILD:-build}/libawq_cuda_simt.so") \
        AWQ_SIMT_ARCH=$1 AWQ_SIMT_SMS=$2 AWQ_SIMT_SEED=$1 \
        "${BUILD:-build}/test/cuda/kernels" -s "$1") || {
        echo "$output"
        failed=$((failed + 1))
    }
    good=$(echo "$output" | sed -n '$s/^\([0-9]*\) passed.*/\1/p')
    passed=$((passed + ${good:-0}))
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
