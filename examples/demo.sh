#!/bin/sh
# The whole flow on the embedded model: sample text from it, make its outlier twin, quantise both in every way, compare, generate.
# Runs from the top of the project after make; everything it writes goes to build/demo.
set -eu

awq=${BUILD:-build}/awq
out=${BUILD:-build}/demo
model=examples/models/docs-6m
twin=$out/docs-6m-outliers
rm -rf "$out"
mkdir -p "$out"

say() { printf '\n%s\n' "$*"; }

# The value of key $2 in the JSON file $1; files are written one key a line.
value() { sed -n "s/^ *\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" "$1" | head -n 1; }

# The size of a checkpoint's tensors, in millions of bytes.
megabytes() { awk "BEGIN { printf \"%.1f\", $(wc -c <"$1/model.safetensors") / 1e6 }"; }

say "Sampling text from the model: some to calibrate with, some to evaluate on (with a page of prose)."
"$awq" generate "$model" --documents 40 --temperature 1 --seed 1 --output "$out/calibration.txt"
"$awq" generate "$model" --documents 24 --temperature 1 --seed 2 --output "$out/held-out.txt"
cat examples/models/prose.txt >>"$out/held-out.txt"

say "Making the outlier twin: the same function, with a few loud channels as in large language models."
"$awq" outliers "$model" -o "$twin"

say "Quantising. Group 128, 16 sequences of 256 tokens; perplexity, KL and top-1 against the FP16 model on held-out text.
The last columns are tokens a second: of that text as it is read, and of one text as it is written."
# Of model $1, evaluated in file $2.
speeds() {
    "$awq" generate "$1" --prompt "This function returns" --tokens 100 --json >"$out/speed.json"
    awk "BEGIN { printf \"%.0f %.0f\", $(value "$2" tokens_per_second), $(value "$out/speed.json" tokens_per_second) }"
}

row='%-17s %-9s %4s %5s %8s %10s %8s %7s %9s %7s %8s %7s %7s\n'
# shellcheck disable=SC2046,SC2059
{
    printf "$row" model method bits group "bits/w" perplexity KL "top-1" "file MB" seconds "peak MB" "read/s" "write/s"
    for source in "$model" "$twin"; do
        name=$(basename "$source")
        "$awq" evaluate "$source" --text "$out/held-out.txt" --json >"$out/$name.json"
        printf "$row" "$name" fp16 16 - 16.00 "$(printf %.3f "$(value "$out/$name.json" perplexity)")" - - \
            "$(megabytes "$source")" - - $(speeds "$source" "$out/$name.json")
        for bits in 4 3; do
            for method in rtn awq awq+clip; do
                target=$out/$name-$method-int$bits
                case $method in
                rtn) options="--method rtn" ;;
                awq) options="--range minmax" ;;
                awq+clip) options= ;;
                esac
                # shellcheck disable=SC2086
                "$awq" quantize "$source" -o "$target" --calib "$out/calibration.txt" --samples 16 --seq-length 256 \
                    --bits "$bits" $options --json >"$target.json"
                "$awq" evaluate "$target" --against "$source" --text "$out/held-out.txt" --json >"$target.eval.json"
                eval=$target.eval.json
                printf "$row" "$name" "$method" "$bits" 128 \
                    "$(printf %.2f "$(value "$eval" quantized_bits_per_weight)")" \
                    "$(printf %.3f "$(value "$eval" perplexity)")" "$(printf %.4f "$(value "$eval" kl_divergence)")" \
                    "$(printf %.4f "$(value "$eval" top1_agreement)")" "$(megabytes "$target")" \
                    "$(printf %.1f "$(value "$target.json" seconds)")" \
                    "$(awk "BEGIN { printf \"%.1f\", $(value "$target.json" peak_memory_bytes) / 1e6 }")" \
                    $(speeds "$target" "$eval")
            done
        done
    done
}

say "The same prompt, continued by FP16 and by INT4 (AWQ + clip):"
prompt="This function returns"
for which in "$model" "$out/docs-6m-awq+clip-int4"; do
    printf '\n[%s]\n' "$(basename "$which")"
    "$awq" generate "$which" --prompt "$prompt" --tokens 60 --temperature 0.6 --seed 1
done

cat <<END

The INT4 checkpoint, in the format that vLLM and transformers load, lies in $out/docs-6m-awq+clip-int4.
For a model of your own:

    $awq quantize MODEL -o MODEL-awq --calib TEXT
    $awq evaluate MODEL-awq --against MODEL --text HELD_OUT
    $awq generate MODEL-awq --prompt "..."
END
