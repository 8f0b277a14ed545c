#!/bin/sh
# The program as a user meets it: help, exit codes, token files, awq inspect, Ctrl-C.
set -eu
cd "$(dirname "$0")/.."
. test/common

expect 2 "Commands:"
expect 0 "Commands:" --help
expect 0 "awq $(sed -n 's/^#define AWQ_VERSION_[A-Z]* //p' include/awq.h | paste -sd.)" --version
expect 2 "there is no command 'quantise'" quantise
for command in $("$awq" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    expect 0 "Usage: awq $command " "$command" --help
    expect 2 "Try 'awq $command --help'" "$command" --nonsense
    if "$awq" "$command" --help | grep -q "^Arguments:"; then expect 2 "is missing" "$command"; fi
    "$awq" "$command" --help | awk 'length > 120 { exit 1 }' || fail "awq $command --help: lines longer than 120"
done

# What cannot be written is a failure, not a success.
status=0
"$awq" tokenize $model --prompt hello >/dev/full 2>"$scratch/err" || status=$?
[ $status = 1 ] || fail "a full disk: exit status $status"

# Text to ids and back.
text="A quantiser maps many values to few; 3 bits have 7 levels."
printf '%s' "$text" >"$scratch/text.txt"
for format in npy u16 u32; do
    expect 0 "" tokenize $model --text "$scratch/text.txt" --output "$scratch/ids.$format"
    expect 0 "$text" tokenize $model --decode "$scratch/ids.$format"
done
expect 0 "" tokenize $model --text "$scratch/text.txt" --special
[ "$(head -n 1 "$scratch/out")" = 1 ] || fail "--special does not begin with bos"
expect 2 "one of --text, --prompt and --decode" tokenize $model
expect 2 "one of --text, --prompt and --decode" tokenize $model --prompt a --text b
expect 2 "--decode takes a file of token ids" tokenize $model --decode "$scratch/text.txt"
expect 2 "--output writes" tokenize $model --prompt a --output ids.txt
expect 1 "No such file" tokenize $model --text "$scratch/none.txt"
expect 1 "neither a tokenizer.json nor a tokenizer.model" tokenize "$scratch" --prompt a

# Inspect says what it is shown, from the tensors themselves.
expect 0 "fused        q, k, v in 6 and gate, up in 6 of 6 layers" inspect $model
expect 0 "model.layers.5.mlp.down_proj.weight" inspect $model
expect 0 "tensors      56" inspect $model --summary
if grep -q "Tensors:" "$scratch/out"; then fail "--summary lists tensors"; fi
expect 0 "safetensors file" inspect $model/model.safetensors
expect 0 '"kind": "model"' inspect $model --json
expect 1 "neither a model directory" inspect "$scratch/text.txt"
expect 1 "No such file" inspect "$scratch/none"
expect 1 "$scratch" inspect "$scratch"
head -c 3000 $model/model.safetensors >"$scratch/cut.safetensors"
expect 1 "truncated" inspect "$scratch/cut.safetensors"
for bits in 3 4; do
    expect 0 "" quantize $model --out "$scratch/rtn$bits" --method rtn --bits $bits --group-size 64
    expect 0 "42 layers" inspect "$scratch/rtn$bits" --summary
    expect 0 "768 x 256            $bits     64  yes" inspect "$scratch/rtn$bits/model.safetensors"
done
# A model of an architecture that does not run here is shown all the same.
cp -r "$scratch/rtn4" "$scratch/other"
sed -i 's/"llama"/"gargantua"/; s/LlamaForCausalLM/GargantuaForCausalLM/' "$scratch/other/config.json"
expect 0 "runs here    no" inspect "$scratch/other" --summary
grep -q gargantua "$scratch/err" || fail "an unknown architecture is not named"

# An interruption leaves nothing behind.  (SIGTERM, as shells have their background jobs ignore SIGINT.)
"$awq" tokenize $model --prompt "$(yes "The weights do not know which of them matter." | head -n 400)" --output "$scratch/calib.npy"
"$awq" quantize $model --out "$scratch/stopped" --calib "$scratch/calib.npy" >"$scratch/out" 2>"$scratch/err" &
process=$!
for _ in $(seq 100); do
    if ls -A "$scratch" | grep -q stopped; then break; fi
    sleep 0.1
done
kill -TERM $process
status=0
wait $process || status=$?
[ $status = 130 ] || fail "interrupted: exit status $status, not 130"
grep -q "awq: interrupted" "$scratch/err" || fail "interrupted: not said"
if ls -A "$scratch" | grep -q stopped; then fail "interrupted: $(ls -A "$scratch")"; fi

# A pipe is written to, not replaced, and where that cannot be, refused.
mkfifo "$scratch/pipe"
timeout 20 cat "$scratch/pipe" >"$scratch/piped" &
run generate $model -p "The file" --tokens 4 --output "$scratch/pipe"
wait $!
[ -p "$scratch/pipe" ] && [ -s "$scratch/piped" ] || fail "--output replaced a pipe"
expect 1 "$scratch/pipe: is no regular file" gguf $model -o "$scratch/pipe" --force
[ -p "$scratch/pipe" ] || fail "awq gguf replaced a pipe"
