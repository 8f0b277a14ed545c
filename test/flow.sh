#!/bin/sh
# The whole flow on the embedded model and its outlier twin: what quantising costs by method, the same files from any number
# of threads, and what goes wrong, as seen from outside.
set -eu
cd "$(dirname "$0")/.."
. test/common

# ---- quality: less divergence from FP16 by AWQ with clipping than by rounding, and at 4 bits a perplexity near FP16's

"$awq" generate $model --documents 16 --tokens 256 --temperature 1 --seed 1 --output "$scratch/calib.txt"
"$awq" generate $model --documents 12 --tokens 256 --temperature 1 --seed 2 --output "$scratch/held-out.txt"
cat examples/models/prose.txt >>"$scratch/held-out.txt"
"$awq" outliers $model --out "$scratch/twin"

# The twin computes what the model does.
"$awq" evaluate "$scratch/twin" --against $model --text "$scratch/held-out.txt" --json >"$scratch/twin.json"
holds "$(number kl_divergence <"$scratch/twin.json") < 1e-5" "the twin's divergence"

for source in $model "$scratch/twin"; do
    float=$("$awq" evaluate "$source" --text "$scratch/held-out.txt" --json | number perplexity)
    for bits in 4 3; do
        for method in rtn awq; do
            "$awq" quantize "$source" --out "$scratch/quantized" --force --calib "$scratch/calib.txt" --samples 16 \
                --seq-length 256 --bits $bits --method $method --quiet
            "$awq" evaluate "$scratch/quantized" --against "$source" --text "$scratch/held-out.txt" --json \
                >"$scratch/$method.json"
            echo "$(basename "$source") int$bits $method: perplexity $(number perplexity <"$scratch/$method.json")" \
                "(FP16 $float), KL $(number kl_divergence <"$scratch/$method.json")"
        done
        holds "$(number kl_divergence <"$scratch/awq.json") < $(number kl_divergence <"$scratch/rtn.json")" \
            "$source at $bits bits, AWQ against rounding"
        [ $bits = 3 ] || holds "$(number perplexity <"$scratch/awq.json") < 1.05 * $float" "$source at 4 bits, perplexity"
    done
done

# ---- the same bytes from any number of threads

for threads in 1 2 7; do
    "$awq" quantize "$scratch/twin" --out "$scratch/threads-$threads" --calib "$scratch/calib.txt" --samples 3 \
        --seq-length 200 --search-tokens 300 --threads $threads --quiet
done
diff -r "$scratch/threads-1" "$scratch/threads-2" || fail "1 and 2 threads differ"
diff -r "$scratch/threads-1" "$scratch/threads-7" || fail "1 and 7 threads differ"

# ---- what goes wrong

# refuse STATUS TEXT ARGUMENTS..: the exit status, a text on stderr, and nothing written.
refuse() {
    wanted=$1 text=$2
    shift 2
    status=0
    "$awq" quantize "$@" >"$scratch/stdout" 2>"$scratch/stderr" </dev/null || status=$?
    [ $status = "$wanted" ] || fail "quantize $*: exit status $status, not $wanted: $(cat "$scratch/stderr")"
    grep -qF -- "$text" "$scratch/stderr" || fail "quantize $*: no '$text' in: $(cat "$scratch/stderr")"
    [ "$(find "$scratch" -maxdepth 1 -name '*refused*')" = "" ] || fail "quantize $*: something was written"
}

copy_model() {
    rm -rf "$scratch/broken"
    cp -r $model "$scratch/broken"
    chmod -R u+w "$scratch/broken"
}

calib="--calib $scratch/calib.txt --out $scratch/refused"
file=$scratch/broken/model.safetensors

# A NaN (0x7e00) in the second element of a weight.
copy_model
header=$(($(od -An -t u8 -N 8 "$file")))
begin=$(head -c $((header + 8)) "$file" | tail -c +9 |
    sed 's/.*"model\.layers\.2\.mlp\.up_proj\.weight":{[^}]*"data_offsets":\[\([0-9]*\),.*/\1/')
printf '\000\176' | dd of="$file" bs=1 seek=$((8 + header + begin + 2)) conv=notrunc 2>/dev/null
# shellcheck disable=SC2086
{
    refuse 1 "model.layers.2.mlp.up_proj.weight: row 0, column 1 is not a finite number" "$scratch/broken" $calib
    refuse 1 "model.layers.2.mlp.up_proj.weight: row 0, column 1" "$scratch/broken" $calib --method rtn

    copy_model
    LC_ALL=C sed -i '1s/layers\.3\.self_attn\.o_proj/layers.3.self_attn.x_proj/' "$file"
    refuse 1 "no tensor model.layers.3.self_attn.o_proj.weight" "$scratch/broken" $calib

    copy_model
    head -c 9000000 $model/model.safetensors >"$file"
    refuse 1 "model.safetensors" "$scratch/broken" $calib

    copy_model
    sed -i 's/"llama"/"gargantua"/; s/LlamaForCausalLM/GargantuaForCausalLM/' "$scratch/broken/config.json"
    refuse 1 "'gargantua' is not supported" "$scratch/broken" $calib

    copy_model
    rm "$scratch/broken/tokenizer.model"
    refuse 1 "tokenizer" "$scratch/broken" $calib

    refuse 1 "but --memory-limit is 8.00 MiB" $model $calib --memory-limit 8M
    refuse 2 "Try 'awq quantize --help'" $model $calib --bits 5
    refuse 2 "--exclude '('" $model $calib --exclude '('
    refuse 1 "the last group" $model $calib --group-size 96
}
refuse 2 "--calib is missing" $model --out "$scratch/refused"
refuse 1 "calib.txt/out" $model --out "$scratch/calib.txt/out" --calib "$scratch/calib.txt"
refuse 1 "exists already; --force replaces it" $model --out "$scratch/twin" --calib "$scratch/calib.txt"
refuse 1 "not replaced" $model --out "$scratch" --calib "$scratch/calib.txt" --force
