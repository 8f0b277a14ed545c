#!/bin/sh
# awq tune: measured, written, taken by every command that runs products, and refused where it does not belong.
set -eu
cd "$(dirname "$0")/.."
. test/common

# A model: q, k, v and gate, up are measured as the one product that they run as.
expect 0 "" quantize $model --out "$scratch/int4" --method rtn --group-size 64
expect 0 "512 x 256, 4 bits, rows: 1" tune "$scratch/int4" -o "$scratch/model.json" --max-rows 2
[ "$(wc -l <"$scratch/out")" = 4 ] || fail "not four kinds of layer"
expect 0 "" generate "$scratch/int4" --tokens 8 --tuning "$scratch/model.json"
tuned=$(cat "$scratch/out")
expect 0 "$tuned" generate "$scratch/int4" --tokens 8
printf 'The quantiser rounds each weight to one of sixteen levels.' >"$scratch/text.txt"
expect 0 "perplexity" evaluate "$scratch/int4" --text "$scratch/text.txt" --tuning "$scratch/model.json"
expect 0 "256 x 256" tune "$scratch/int4" -o "$scratch/apart.json" --max-rows 1 --no-fuse
if grep -q "512 x 256" "$scratch/out"; then fail "--no-fuse measures fused layers"; fi

# Shapes; bench shows what the tuning chooses.
expect 0 "64 x 96, 4 bits" tune --shapes 64x96 -o "$scratch/shapes.json" --max-rows 4
expect 0 "tuned" bench --shapes 64x96 --rows 1,3 --seconds 0 --no-blas --tuning "$scratch/shapes.json"

# What does not belong.
sed 's/"kernel_table": [0-9]*/"kernel_table": 999/' "$scratch/model.json" >"$scratch/later.json"
expect 1 "version 999 of the kernels" generate "$scratch/int4" --tokens 1 --tuning "$scratch/later.json"
expect 1 "none.json" generate "$scratch/int4" --tokens 1 --tuning "$scratch/none.json"
expect 1 "none of its layers is quantised" tune $model -o "$scratch/none.json"
expect 1 "No such file" tune "$scratch/absent" -o "$scratch/none.json"
expect 1 "cannot create" tune --shapes 8x8 --max-rows 1 -o "$scratch/none/tuning.json"
expect 2 "--output is missing" tune --shapes 8x8
expect 2 "either a MODEL or" tune "$scratch/int4" --shapes 8x8 -o "$scratch/none.json"
expect 2 "8x0" tune --shapes 8x0 -o "$scratch/none.json"
[ ! -e "$scratch/none.json" ] || fail "a failure wrote a file"

# On the executor, where there is one: measured by its events, and followed.
if [ "${CUDA:-1}" != 0 ] && [ -e "$build/libawq_cuda_simt.so" ]; then
    export AWQ_CUDA_BACKEND="$build/libawq_cuda_simt.so"
    expect 0 "64 x 128, 4 bits" tune --device cuda --shapes 64x128 -o "$scratch/cuda.json" --max-rows 1
    sed 's/"gemv"\|"gemm"\|"dequant"/"gemm"/' "$scratch/cuda.json" >"$scratch/gemm.json"
    expect 0 "tuned" bench --device cuda --shapes 64x128 --rows 1 --seconds 0 --copies 1 --kernel gemv --tuning "$scratch/gemm.json"
    expect 1 "not on this device" bench --shapes 64x128 --rows 1 --seconds 0 --tuning "$scratch/cuda.json"
fi
