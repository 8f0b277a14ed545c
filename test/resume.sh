#!/bin/sh
# awq quantize --resume: killed at any moment and started again it gives the files that an undisturbed run gives.
# KILLS=20 sets how often it is killed.
set -eu
cd "$(dirname "$0")/.."
. test/common
kills=${KILLS:-3}

prose=$scratch/prose.txt
for _ in 1 2 3 4; do cat examples/models/prose.txt; done >"$prose"

options="--calib $prose --samples 6 --seq-length 128 --search-tokens 256 --quiet"
# shellcheck disable=SC2086
quantize() { "$awq" quantize $model $options "$@"; }

milliseconds() { date +%s%3N; }

left_behind() {
    [ "$(find "$scratch" -maxdepth 1 -name "*$1*" ! -name "$1")" = "" ] || fail "something was left beside $1"
}

begin=$(milliseconds)
quantize -o "$scratch/whole"
whole=$(($(milliseconds) - begin))
quantize -o "$scratch/undisturbed" --resume
diff -r "$scratch/whole" "$scratch/undisturbed" || fail "with a journal the result is another"
left_behind undisturbed

# Moments from the beginning to a little after the end of a whole run, in an order that looks random; each kill finds the
# journal that the one before has left.
quantize -o "$scratch/through" --calibrate-through quantized
for expected in whole through; do
    killed=0
    through=$([ $expected = whole ] && echo float || echo quantized)
    resume="-o $scratch/resumed --resume --calibrate-through $through"
    for i in $(seq "$kills"); do
        moment=$((whole * (i * 7919 % 1000) / 1000 / (1 + i % 3) + 30))
        # shellcheck disable=SC2086
        "$awq" quantize $model $options $resume &
        process=$!
        sleep "$(awk "BEGIN { print $moment / 1000 }")"
        kill -KILL $process 2>/dev/null || true
        status=0
        wait $process 2>/dev/null || status=$?
        if [ $status = 0 ]; then
            diff -r "$scratch/$expected" "$scratch/resumed" || fail "through $through: the result after kills is another"
            rm -r "$scratch/resumed"
        else
            [ $status = 137 ] || fail "through $through: exit status $status"
            killed=$((killed + 1))
        fi
    done
    # shellcheck disable=SC2086
    quantize $resume
    diff -r "$scratch/$expected" "$scratch/resumed" || fail "through $through: the result after kills is another"
    left_behind resumed
    rm -r "$scratch/resumed"
    echo "through $through: killed $killed times"
done

# ---- what is refused

# shellcheck disable=SC2086
{
    "$awq" quantize $model $options -o "$scratch/refused" --resume &
    process=$!
    while [ ! -e "$scratch/refused.journal/block-00000" ] && kill -0 $process 2>/dev/null; do sleep 0.05; done
    expect 1 "is in use by another run" quantize $model $options -o "$scratch/refused" --resume
    kill -KILL $process 2>/dev/null || true
    wait $process 2>/dev/null || true
    expect 1 "delete it to begin anew" quantize $model $options -o "$scratch/refused" --resume --bits 3
}
