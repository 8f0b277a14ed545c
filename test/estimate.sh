#!/bin/sh
# awq estimate as a user meets it: the table, JSON, what follows from the options, bad input.
set -eu
cd "$(dirname "$0")/.."
. test/common

# field DEVICE FORM KEY: a number of the JSON that was printed last
field() { sed -n "/\"device\": \"$1\"/,/}/p" "$scratch/out" | sed -n "/\"form\": \"$2\"/,/}/p" | number "$3"; }

expect 0 "KV cache" estimate $model
grep -q "GPUs that hold it, where 90 % of their memory is usable" "$scratch/out" || fail "no share"
grep -q "tokens/s" "$scratch/out" && fail "a speed that nobody asked for"
expect 0 "so at most" estimate $model --bandwidth 100

# ---- what the options do

run estimate $model --json
base=$(field cpu quantised codes_bytes) cache=$(field gpu float kv_cache_bytes)
holds "$(field cpu float kv_cache_bytes) == 2 * $cache" "F32 against 16 bits"
holds "$cache == 6 * 2 * 256 * 4 * 32 * 2" "the KV cache"
holds "$(number quantize_bytes <"$scratch/out") > 0" "quantising"
run estimate $model --json --batch 4 --context 128 --bandwidth 10
holds "$(field gpu float kv_cache_bytes) == 2 * $cache" "4 sequences of 128"
holds "($(field gpu float step_bytes) / 1e10 / $(field gpu float least_step_seconds) - 1) ^ 2 < 1e-12" "a step"
holds "($(field gpu float most_tokens_per_second) * $(field gpu float least_step_seconds) - 4) ^ 2 < 1e-6" "a rate"
run estimate $model --json --bits 8 --group-size 32
holds "$(field cpu quantised codes_bytes) == 2 * $base" "8 bits"
run estimate $model --json --salient 0.01
holds "$(field gpu quantised salient_bytes) > 0" "salient channels"
run estimate $model --json --batch 100000
field gpu float total_bytes | awk '{ exit !($1 > 0.9 * 141e9) }' || fail "a small total"
expect 0 "none of these alone" estimate $model --batch 100000
run estimate $model --json --usable 0.01
holds "$(field gpu float total_bytes) < 0.01 * 8e9" "the smallest class"

# ---- awq quantize estimates the same, and may count pages of files too; what it wrote is taken as it is

"$awq" generate $model --documents 2 --tokens 100 --temperature 1 --output "$scratch/text"
run quantize $model --out "$scratch/awq" --calib "$scratch/text" --samples 4 --seq-length 32 --json
told=$(number estimated_memory_bytes <"$scratch/out")
run estimate $model --samples 4 --seq-length 32 --json
quantizing=$(number quantize_bytes <"$scratch/out")
holds "$quantizing <= $told && $told < $quantizing + 2 ^ 26" "quantising"
expect 0 "it is quantised already" estimate "$scratch/awq"
run estimate "$scratch/awq" --json
holds "$(number codes_bytes <"$scratch/out") == 9 * 2 ^ 20 / 4" "codes of the files"
holds "$(field cpu "as it is" codes_bytes) == $base" "codes as they run"

# Only headers are read: weights that are not there are not missed.
mkdir "$scratch/hollow"
cp $model/config.json "$scratch/hollow"
size=$(wc -c <$model/model.safetensors)
head -c 65536 $model/model.safetensors >"$scratch/hollow/model.safetensors"
truncate -s "$size" "$scratch/hollow/model.safetensors"
run estimate "$scratch/hollow"

# ---- bad input

expect 2 "MODEL is missing" estimate
expect 2 "--bits is 2, 3, 4 or 8, not 5" estimate $model --bits 5
expect 2 "--group-size" estimate $model --group-size 0
expect 2 "--batch" estimate $model --batch 0
expect 2 "--context" estimate $model --context 0
expect 2 "--salient" estimate $model --salient 2
expect 2 "--usable" estimate $model --usable 0
expect 2 "--bandwidth" estimate $model --bandwidth nan
expect 1 "--context 257: the model's context is 256" estimate $model --context 257
expect 1 "--prompt 9: the context is 8" estimate $model --context 8 --prompt 9
expect 1 "No such file" estimate "$scratch/none"
truncate -s 1000000 "$scratch/hollow/model.safetensors"
expect 1 "model.safetensors" estimate "$scratch/hollow"
sed 's/"num_hidden_layers": 6/"num_hidden_layers": 7/' $model/config.json >"$scratch/hollow/config.json"
cp $model/model.safetensors "$scratch/hollow"
expect 1 "no tensor model.layers.6." estimate "$scratch/hollow"
sed 's/"max_position_embeddings": 256/"max_position_embeddings": 16777216/' $model/config.json \
    >"$scratch/hollow/config.json"
expect 1 "exceeds 64 bits" estimate "$scratch/hollow" --batch 1048576
