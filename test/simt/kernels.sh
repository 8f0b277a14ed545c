#!/bin/sh
# Every CUDA kernel on the executor, as devices of three generations run it, at the same time.
set -u
cd "$(dirname "$0")/../.."
AWQ_CUDA_BACKEND=$(realpath "${BUILD:-build}/libawq_cuda_simt.so")
export AWQ_CUDA_BACKEND
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
for device in "75 3" "80 4" "90 7"; do
    set -- $device
    AWQ_SIMT_ARCH=$1 AWQ_SIMT_SMS=$2 AWQ_SIMT_SEED=$1 "${BUILD:-build}/test/cuda/kernels" -s "$1" >"$outputs/$1" 2>&1 ||
        : >"$outputs/$1.failed" &
done
wait
passed=0 failed=0
for device in 75 80 90; do
    good=$(sed -n '$s/^\([0-9]*\) passed.*/\1/p' "$outputs/$device")
    passed=$((passed + ${good:-0}))
    [ -e "$outputs/$device.failed" ] || continue
    cat "$outputs/$device"
    failed=$((failed + 1))
done
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
