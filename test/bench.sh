#!/bin/sh
# awq bench on shapes so small that it takes seconds; no figure is looked at, only that all are there.
set -eu
cd "$(dirname "$0")/.."
. test/common

small="--shapes 64x96,40x33 --rows 1,12 --seconds 0.001"

# shellcheck disable=SC2086
expect 0 "N x K = 40 x 33" bench $small --threads 2 --json "$scratch/bench.json" --svg "$scratch/bench.svg"
for text in "GB/s read by all threads" "gemv        exact" "x fp16" "x read" "which stay in cache"; do
    grep -qF "$text" "$scratch/out" || fail "the table has no '$text'"
done
[ "$(grep -c '^\*' "$scratch/out")" = 4 ] || fail "not one winner for each shape and batch size"
grep -q '"seconds_p90"' "$scratch/bench.json" || fail "no JSON"
grep -q '</svg>' "$scratch/bench.svg" || fail "no picture"

# One kernel, one mode, other weights.
one="--shapes 32x64 --rows 3 --seconds 0 --no-blas --copies 2 --threads 1"
# shellcheck disable=SC2086
{
    expect 0 "*    3  reference   exact" bench $one --kernel reference --activation exact
    expect 0 "3 bits in groups of 32" bench $one --bits 3 --group-size 32 --symmetric --dtype bf16
    expect 1 "marlin" bench $one --kernel marlin --activation exact
}

# A peer: answers half a second to whatever is asked.
cat >"$scratch/peer" <<'END'
echo awq-peer 1 turtle
while read -r what rows runs rest; do
    case $what in
    shape) echo ok 1000 3 ;;
    run) yes 0.5 | head -n "$runs" | paste -sd' ' ;;
    esac
done
END
# shellcheck disable=SC2086
{
    expect 0 "x turtle" bench $one --peer "sh $scratch/peer"
    grep -q "3  turtle  *500000.0" "$scratch/out" || fail "the peer's time is not shown"
    expect 1 "ended before it answered" bench $one --peer true
}

# Mistakes.
for shapes in 4096 4096x 0x3 3x4y 3x4,, 3x-4; do expect 2 "$shapes: up to" bench --shapes "$shapes"; done
for rows in 0 x 1,,2 1,2, -3; do expect 2 "--rows" bench --rows "$rows"; done
# shellcheck disable=SC2086
{
    expect 1 "No such file" bench $one --json "$scratch/none/bench.json"
    expect 1 "none.json" bench $one --tuning "$scratch/none.json"
    AWQ_CUDA_BACKEND=$scratch/none.so expect 1 "no backend" bench $one --device cuda
}

# A small block.
"$build/block" --divide 64 --tokens 100 --sketch 16 >"$scratch/block" || fail "block"
grep -q "^32 blocks: .* in use$" "$scratch/block" || fail "block adds nothing up"
for wrong in "--tokens 0" "--sketch x" "--divide" "--what 1"; do
    # shellcheck disable=SC2086
    "$build/block" $wrong >"$scratch/block" 2>&1 && fail "block $wrong"
    grep -q "^Usage" "$scratch/block" || fail "block $wrong does not say what it takes"
done

# On the executor, where there is one: every kernel, and a copy for the bandwidth.
if [ "${CUDA:-1}" != 0 ] && [ -e "$build/libawq_cuda_simt.so" ]; then
    export AWQ_CUDA_BACKEND="$build/libawq_cuda_simt.so"
    expect 0 "fp16 baseline, best" bench --device cuda --shapes 64x128 --rows 1,9 --seconds 0 --copies 2
    for kernel in gemv gemm marlin dequant fp16; do
        [ "$(grep -c " $kernel  .*[0-9]%" "$scratch/out")" = 2 ] || fail "on CUDA: not two lines of $kernel"
    done
fi
