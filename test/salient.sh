#!/bin/sh
# Salient channels from quantise to file to run, and the studies of them, as seen from outside.
set -eu
cd "$(dirname "$0")/.."
. test/common
export TMPDIR="$scratch"

divergence() { "$awq" evaluate "$1" --against "$2" --text "$scratch/held-out.txt" --json | number kl_divergence; }

"$awq" generate $model --documents 4 --tokens 256 --temperature 1 --seed 1 --output "$scratch/calib.txt"
"$awq" generate $model --documents 3 --tokens 256 --temperature 1 --seed 2 --output "$scratch/held-out.txt"
"$awq" outliers $model --out "$scratch/twin"
calib="--calib $scratch/calib.txt --samples 4 --seq-length 256"

# ---- quantise, look, run; what the channels are worth

for rule in activation weight random; do
    # shellcheck disable=SC2086
    expect 0 "3 % of the input channels" quantize "$scratch/twin" --out "$scratch/$rule" $calib --method rtn --bits 3 \
        --salient 0.03 --salient-rule $rule
    expect 0 '"quant_method": "libawq"' inspect "$scratch/$rule"
done
expect 0 "" quantize "$scratch/twin" --out "$scratch/rtn" --method rtn --bits 3 --quiet
expect 0 '"salient_columns": 8' inspect "$scratch/activation" --json
activation=$(divergence "$scratch/activation" "$scratch/twin")
holds "$activation < 0.8 * $(divergence "$scratch/rtn" "$scratch/twin")" "channels by activation against none"
holds "$activation < 0.8 * $(divergence "$scratch/random" "$scratch/twin")" "by activation against at random"
expect 0 "" generate "$scratch/weight" --prompt "The file" --tokens 4

# All channels in FP16 are the model itself; the embedded one is FP16.
expect 0 "" quantize $model --out "$scratch/whole" --method rtn --salient 1 --salient-rule weight --quiet
holds "$(divergence "$scratch/whole" $model) < 1e-6" "all channels in FP16"

# ---- both layouts hold the same, from any number of threads

# shellcheck disable=SC2086
for threads in 1 3; do
    expect 0 "" quantize $model --out "$scratch/stream-$threads" $calib --salient 0.01 --threads $threads --quiet
done
diff -r "$scratch/stream-1" "$scratch/stream-3" || fail "1 and 3 threads differ"
expect 0 "" convert "$scratch/stream-1" --out "$scratch/block" --layout cuda-block
expect 0 "" convert "$scratch/block" --out "$scratch/stream" --layout cpu-stream
for copy in block stream; do
    holds "$(divergence "$scratch/$copy" "$scratch/stream-1") < 1e-9" "$copy against what it was converted from"
done
expect 1 "salient columns" convert "$scratch/stream" --out "$scratch/none" --layout gemm
expect 3 "does not read cpu-stream" preflight "$scratch/stream" --engine vllm

# ---- what is refused

for fraction in -0.1 1.1 nan x; do
    expect 2 "--salient takes a number from 0 to 1" quantize $model --out "$scratch/none" --salient "$fraction"
done
expect 2 "--salient-rule" quantize $model --out "$scratch/none" --salient 0.1 --salient-rule size
expect 2 "--calib is missing" quantize $model --out "$scratch/none" --salient 0.1 --method rtn
# shellcheck disable=SC2086
{
    expect 2 "--version gemm holds no channels in FP16" quantize $model --out "$scratch/none" $calib --salient 0.1 \
        --version gemm
    expect 2 "--version float holds no channels" quantize $model --out "$scratch/none" $calib --salient 0.1 --version float
}
[ ! -e "$scratch/none" ] || fail "something was written"

# ---- studies

expect 0 "w1 times 2         0.3000    1 -1  3  0     0.1500" study scale
data="--text $scratch/held-out.txt $calib"
# shellcheck disable=SC2086
{
    expect 0 '"rule": "activation"' study salient $model $data --json
    [ "$(grep -c '"perplexity"' "$scratch/out")" = 11 ] || fail "not eleven rows"
    rtn=$(sed -n '/"rtn"/,/}/p' "$scratch/out" | number perplexity)
    expect 0 '"relative_error"' study scale $model $data --json
    one=$(sed -n '/"rows"/,$p' "$scratch/out" | number perplexity)
    holds "($one - $rtn) ^ 2 < 1e-6 * $rtn ^ 2" "s = 1 against plain rounding"
    expect 1 "No such file" study salient $model --text "$scratch/no-file" --calib "$scratch/calib.txt"
}
expect 2 "there is no study 'size'" study size $model
expect 2 "MODEL is missing" study salient
expect 2 "--text is missing" study salient $model --calib "$scratch/calib.txt"
expect 2 "--calib is missing" study scale $model --text "$scratch/calib.txt"
expect 2 "--bits" study salient $model --text "$scratch/calib.txt" --calib "$scratch/calib.txt" --bits 5
[ "$(find "$scratch" -maxdepth 1 -name 'awq-study-*')" = "" ] || fail "a study left its directory"
