#!/bin/sh
# awq quantize when the machine fails it: killed at any moment, a full disk, a directory that cannot be written or is taken away, a
# model that shrinks while it is read.  What stands under the name asked for is absent or complete, and whatever was there before
# stays until then.
set -eu
cd "$(dirname "$0")/.."
. test/common

out=$scratch/results/quantized
mkdir "$scratch/results"

# complete DIRECTORY: every tensor of it can be read.
complete() { "$awq" inspect "$1" --json >"$scratch/facts" 2>&1 || fail "$1 is there, but not whole: $(cat "$scratch/facts")"; }

run quantize $model --out "$scratch/reference" --method rtn

# Killed: later each time, until it has finished three times.
kills=0 finished=0 delay=0
while [ "$finished" -lt 3 ] && [ "$kills" -lt 40 ]; do
    rm -rf "$out"
    "$awq" quantize $model --out "$out" --method rtn >/dev/null 2>&1 &
    process=$!
    sleep "$(awk "BEGIN { print $delay * 0.013 }")"
    delay=$((delay + 1))
    if kill -KILL $process 2>/dev/null; then kills=$((kills + 1)); fi
    wait $process 2>/dev/null || true
    [ ! -e "$out" ] || { finished=$((finished + 1)); complete "$out"; }
done
rm -rf "$scratch/results" && mkdir "$scratch/results"

# Over a model that is there: the old or the new one.
cp -r "$scratch/reference" "$out"
for delay in 0.02 0.05 0.1 0.2; do
    "$awq" quantize $model --out "$out" --method rtn --group-size 64 --force >/dev/null 2>&1 &
    process=$!
    sleep $delay
    kill -KILL $process 2>/dev/null || true
    wait $process 2>/dev/null || true
    complete "$out"
done
rm -rf "$scratch/results" && mkdir "$scratch/results"

# No file may grow beyond a megabyte: writing fails as on a full disk.
status=0
(ulimit -f 1024; trap '' XFSZ; exec "$awq" quantize $model --out "$out" --method rtn) >"$scratch/out" 2>"$scratch/err" || status=$?
[ $status = 1 ] || fail "full disk: exit status $status, not 1"
grep -q "cannot write" "$scratch/err" || fail "full disk: not said"
[ -z "$(ls -A "$scratch/results")" ] || fail "full disk: $(ls -A "$scratch/results")"

# Root may write anywhere, so that a file stands in for a directory that is not to be written.
: >"$scratch/file"
expect 1 "$scratch/file" quantize $model --out "$scratch/file/quantized" --method rtn
if [ "$(id -u)" != 0 ]; then
    chmod 555 "$scratch/results"
    expect 1 "cannot create" quantize $model --out "$out" --method rtn
    chmod 755 "$scratch/results"
fi

# The directory, and what was written in it so far, is taken away.
"$awq" quantize $model --out "$out" --method rtn >"$scratch/out" 2>"$scratch/err" &
process=$!
for _ in $(seq 200); do
    if [ -n "$(ls -A "$scratch/results")" ]; then break; fi
    sleep 0.01
done
until rm -rf "$scratch/results" 2>/dev/null; do :; done # files still appear in it
status=0
wait $process || status=$?
[ $status = 0 ] || [ $status = 1 ] || fail "a vanished directory: exit status $status"
if [ $status = 1 ]; then [ -s "$scratch/err" ] || fail "a vanished directory: not said"; else complete "$out"; fi
mkdir -p "$scratch/results"

# A mapped file that is cut short: the program says so, and no result appears.
cp -r $model "$scratch/model"
"$awq" quantize "$scratch/model" --out "$scratch/results/shrunk" --method rtn >"$scratch/out" 2>"$scratch/err" &
process=$!
for _ in $(seq 200); do
    if ls -A "$scratch/results" | grep -q shrunk; then break; fi
    sleep 0.01
done
truncate -s 4096 "$scratch"/model/*.safetensors
status=0
wait $process || status=$?
[ $status = 0 ] || [ $status = 1 ] || fail "a shrinking model: exit status $status"
if [ $status = 1 ]; then
    [ -s "$scratch/err" ] || fail "a shrinking model: not said"
    [ ! -e "$scratch/results/shrunk" ] || fail "a shrinking model: a result"
fi
