#!/bin/sh
# awq convert on a real model: to every format and back gives the same bytes, and every format evaluates alike.
set -eu
cd "$(dirname "$0")/.."
. test/common

perplexity() {
    run evaluate "$1" --text "$scratch/held-out.txt" --json
    number perplexity <"$scratch/out"
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
# Under a sanitizer (make asan) every token takes ten times as long, and fewer do.
if [ -n "${SANITIZE:-}" ]; then length=300; else length=2000; fi
head -c $length examples/models/prose.txt >"$scratch/held-out.txt"

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
expect 1 "model.layers.0.mlp.down_proj" convert "$scratch/int3" -o "$scratch/none" --layout gemm
expect 1 "bits" convert "$scratch/int3" -o "$scratch/none" --layout marlin
expect 1 "is not quantised" convert $model -o "$scratch/none"
expect 1 "is the model itself" convert "$scratch/rtn" -o "$scratch/rtn" --force
expect 1 "exists already" convert "$scratch/rtn" -o "$scratch/awq"
[ ! -e "$scratch/none" ] || fail "a refused conversion left something"

# Scales in BF16, as compressed-tensors often has them, are kept or, where they are no F16 numbers, refused.
run quantize $model -o "$scratch/bf16" --method rtn --group-size 64 --version compressed-tensors --scale-dtype bf16
everywhere bf16 compressed-tensors compressed-tensors-2025
run quantize $model -o "$scratch/f32" --method rtn --group-size 64 --version compressed-tensors --scale-dtype f32
expect 1 "is no F16 number" convert "$scratch/f32" -o "$scratch/none" --layout gptq
run convert "$scratch/f32" -o "$scratch/rounded" --layout gptq --round-scales

# Layers that stay as they are stay so, and configurations name them.
run quantize $model -o "$scratch/part" --method rtn --group-size 64 --exclude 'layers\.3\.mlp'
linears=39
everywhere part gemm gptq compressed-tensors
for format in gptq compressed-tensors; do
    grep -q 'layers.*3.*mlp.*down_proj' "$scratch/part-$format/config.json" || fail "$format does not name what it skips"
done

# Files of the early days describe the quantisation beside config.json, and AutoAWQ in words of its own.
cp -r "$scratch/rtn-0" "$scratch/early"
cp $model/config.json "$scratch/early"
echo '{"zero_point": true, "q_group_size": 64, "w_bit": 4, "version": "GEMM"}' >"$scratch/early/quant_config.json"
run convert "$scratch/early" -o "$scratch/early-0"
cmp "$scratch/rtn-0/model.safetensors" "$scratch/early-0/model.safetensors" || fail "quant_config.json"
cmp "$scratch/rtn-0/config.json" "$scratch/early-0/config.json" || fail "quant_config.json: config.json"
[ ! -e "$scratch/early-0/quant_config.json" ] || fail "quant_config.json came along"
cp -r "$scratch/rtn-gptq" "$scratch/early-gptq"
cp $model/config.json "$scratch/early-gptq"
echo '{"bits": 4, "group_size": 64, "desc_act": false, "sym": false}' >"$scratch/early-gptq/quantize_config.json"
run convert "$scratch/early-gptq" -o "$scratch/early-gptq-0"
cmp "$scratch/rtn-0/model.safetensors" "$scratch/early-gptq-0/model.safetensors" || fail "quantize_config.json"

# Architectures do not matter.
cp -r "$scratch/rtn-gptq" "$scratch/other"
sed -i 's/"llama"/"gargantua"/; s/LlamaForCausalLM/GargantuaForCausalLM/' "$scratch/other/config.json"
run convert "$scratch/other" -o "$scratch/other-0"
cmp "$scratch/rtn-0/model.safetensors" "$scratch/other-0/model.safetensors" || fail "another architecture"

# A configuration that is not true is found out.
cp -r "$scratch/rtn-gptq" "$scratch/liar"
sed -i 's/"sym": false/"sym": true/' "$scratch/liar/config.json"
expect 1 "model.layers.0.self_attn" evaluate "$scratch/liar" --text "$scratch/held-out.txt"
sed -i 's/"group_size": 64/"group_size": 32/' "$scratch/liar/config.json"
expect 1 "model.layers.0.mlp.down_proj" convert "$scratch/liar" -o "$scratch/none"

# Everything through quantize itself, and weights that are scaled only.
for format in gemv llm-awq marlin gptq_v2; do
    run quantize $model -o "$scratch/direct-$format" --method rtn --group-size 64 --version $format
    run convert "$scratch/direct-$format" -o "$scratch/direct-$format-0"
    cmp "$scratch/rtn-0/model.safetensors" "$scratch/direct-$format-0/model.safetensors" || fail "--version $format"
done
run quantize $model -o "$scratch/scaled" --calib "$scratch/calib.npy" --samples 4 --version float --range minmax
run evaluate "$scratch/scaled" --against $model --text "$scratch/held-out.txt" --json
awk -F'[:,]' '/"kl/ { found = 1; if ($2 > 1e-4) exit 1 } END { exit !found }' "$scratch/out" ||
    fail "weights that are scaled only compute something else"
