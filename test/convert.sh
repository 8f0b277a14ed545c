#!/bin/sh
# awq convert on a real model: to every format and back gives the same bytes, and every format evaluates alike.
set -eu
cd "$(dirname "$0")/.."
awq=${BUILD:-build}/awq
model=examples/models/docs-6m
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

fail() {
    echo "$*"
    cat "$scratch/out" "$scratch/err" 2>/dev/null
    exit 1
}

# run ARGUMENTS..: succeeds, with its output in out and err.
run() {
    "$awq" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || fail "awq $*: exit status $?"
}

# refuse TEXT ARGUMENTS..: exit status 1 and a text on stderr.
refuse() {
    text=$1 status=0
    shift
    "$awq" "$@" >"$scratch/out" 2>"$scratch/err" </dev/null || status=$?
    [ $status = 1 ] || fail "awq $*: exit status $status, not 1"
    grep -qF -- "$text" "$scratch/err" || fail "awq $*: no '$text'"
}

perplexity() {
    run evaluate "$1" --text "$scratch/held-out.txt" --json
    sed -n 's/^ *"perplexity": \([0-9.e+]*\),*$/\1/p' "$scratch/out"
}

linears=42

# everywhere NAME BACK FORMAT..: from NAME, which is in format BACK, to each format and back.
everywhere() {
    source=$scratch/$1 back=$2
    shift 2
    run convert "$source" -o "$source-0" --layout "$back" # in the order in which awq convert writes tensors
    expected=$(perplexity "$source-0")
    [ -n "$expected" ] || fail "no perplexity"
    for format in "$@"; do
        there=$source-$format layout=$format
        # Both fill words alike but with 3 bits.
        [ "$format" != compressed-tensors-2025 ] || [ "$(basename "$source")" = int3 ] || layout=compressed-tensors
        run convert "$source" -o "$there" --layout "$format"
        run convert "$there" -o "$there-back" --layout "$back"
        cmp "$source-0/model.safetensors" "$there-back/model.safetensors" || fail "$format and back"
        cmp "$source-0/config.json" "$there-back/config.json" || fail "config.json through $format and back"
        cmp "$model/tokenizer.model" "$there/tokenizer.model" || fail "the tokenizer stayed behind"
        found=$(perplexity "$there")
        [ "$found" = "$expected" ] || fail "$format: perplexity $found, not $expected"
        run inspect "$there" --summary
        grep -q "quantised    $linears layers" "$scratch/out" || fail "inspect $format"
        run inspect "$there" --json
        [ "$(grep -c "\"layout\": \"$layout\"" "$scratch/out")" = "$linears" ] || fail "inspect sees no $layout"
    done
}

run tokenize $model --prompt "$(yes "The weights do not know which of them matter." | head -n 200)" \
    --output "$scratch/calib.npy"
head -c 2000 examples/models/prose.txt >"$scratch/held-out.txt"

run quantize $model -o "$scratch/rtn" --method rtn --group-size 64
everywhere rtn gemm gemm gemv gemv_fast llm-awq marlin gptq gptq_v2 compressed-tensors
run quantize $model -o "$scratch/awq" --calib "$scratch/calib.npy" --samples 4 --group-size 128
everywhere awq gemm gemv gptq_v2 compressed-tensors
run quantize $model -o "$scratch/sym" --method rtn --group-size 128 --symmetric
everywhere sym gemm marlin gptq compressed-tensors
run quantize $model -o "$scratch/int3" --method rtn --group-size 64 --bits 3 --version compressed-tensors
everywhere int3 compressed-tensors compressed-tensors compressed-tensors-2025 gptq gptq_v2
run quantize $model -o "$scratch/int8" --method rtn --group-size -1 --bits 8 --version compressed-tensors
everywhere int8 compressed-tensors gemm marlin gptq

# What a format does not hold is refused with the layer, and nothing is written.
refuse "model.layers.0.mlp.down_proj" convert "$scratch/int3" -o "$scratch/none" --layout gemm
refuse "bits" convert "$scratch/int3" -o "$scratch/none" --layout marlin
refuse "is not quantised" convert $model -o "$scratch/none"
refuse "is the model itself" convert "$scratch/rtn" -o "$scratch/rtn" --force
refuse "exists already" convert "$scratch/rtn" -o "$scratch/awq"
[ ! -e "$scratch/none" ] || fail "a refused conversion left something"

# Scales in BF16, as compressed-tensors often has them, are kept or, where they are no F16 numbers, refused.
run quantize $model -o "$scratch/bf16" --method rtn --group-size 64 --version compressed-tensors --scale-dtype bf16
everywhere bf16 compressed-tensors compressed-tensors-2025
run quantize $model -o "$scratch/f32" --method rtn --group-size 64 --version compressed-tensors --scale-dtype f32
refuse "is no F16 number" convert "$scratch/f32" -o "$scratch/none" --layout gptq
run convert "$scratch/f32" -o "$scratch/rounded" --layout gptq --round-scales

# Layers that stay as they are stay so, and configurations name them.
run quantize $model -o "$scratch/part" --method rtn --group-size 64 --exclude 'layers\.3\.mlp'
linears=39
everywhere part gemm gptq compressed-tensors
for format in gptq compressed-tensors; do
    grep -q 'layers.*3.*mlp.*down_proj' "$scratch/part-$format/config.json" || fail "$format: does not name what it skips"
done
