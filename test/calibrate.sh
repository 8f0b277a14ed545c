#!/bin/sh
# Statistics in files: the same bytes however the work is divided and merged, quantising by them, and what is refused.
set -eu
cd "$(dirname "$0")/.."
. test/common

prose=$scratch/prose.txt
for _ in 1 2 3 4 5; do cat examples/models/prose.txt; done >"$prose"

calibrate() {
    out=$1
    shift
    "$awq" calibrate $model --text "$prose" --samples 20 --seq-length 256 --search-tokens 100 --quiet -o "$scratch/$out" "$@"
}

same() { cmp "$scratch/$1" "$scratch/$2" || fail "$1 and $2 differ"; }

# ---- the same bytes: at once, with any threads, in rounds for want of memory, in parts merged in any order and grouping

calibrate all --gram
calibrate part1 --gram --part 1/3
calibrate part2 --gram --part 2/3
calibrate part3 --gram --part 3/3
"$awq" merge "$scratch/part1" "$scratch/part2" "$scratch/part3" -o "$scratch/ordered" --quiet
"$awq" merge "$scratch/part3" "$scratch/part2" -o "$scratch/later" --quiet
"$awq" merge "$scratch/later" "$scratch/part1" -o "$scratch/grouped" --quiet
same all ordered
same all grouped

calibrate plain
calibrate threads --threads 1
same plain threads
limit=$("$awq" calibrate $model --text "$prose" --samples 20 --seq-length 256 --search-tokens 100 -o "$scratch/plain" --force \
    --json | sed -n 's/^ *"estimated_memory_bytes": \([0-9]*\),$/\1/p')
calibrate rounds --memory-limit $((limit - 8 * 256 * 256 * 4))
same plain rounds
[ ! -e "$scratch/rounds.partial" ] || fail "the file between rounds was left behind"

# ---- quantising by them is quantising by the text, where all its windows are kept

"$awq" calibrate $model --text "$prose" --samples 4 --seq-length 128 --search-tokens 512 --quiet -o "$scratch/few"
some="--quiet --exclude layers\\.[1-5]"
# shellcheck disable=SC2086
{
    "$awq" quantize $model $some --calib "$prose" --samples 4 --seq-length 128 --search-tokens 512 -o "$scratch/by-text"
    "$awq" quantize $model $some --stats "$scratch/few" -o "$scratch/by-stats"
    "$awq" quantize $model $some --stats "$scratch/all" --bits 3 --group-size 64 --symmetric -o "$scratch/three"
}
diff -r "$scratch/by-text" "$scratch/by-stats" || fail "--calib and --stats differ"

# ---- what is refused

# refuse STATUS TEXT ARGUMENTS..: what expect does, and nothing is written.
refuse() {
    expect "$@"
    [ "$(find "$scratch" -maxdepth 1 -name '*refused*')" = "" ] || fail "$*: something was written"
}

out="-o $scratch/refused"
# shellcheck disable=SC2086
{
    # A byte in the middle of a section, one in a header, and an end that is missing.
    cp "$scratch/few" "$scratch/damaged"
    printf '\377' | dd of="$scratch/damaged" bs=1 seek=200000 conv=notrunc 2>/dev/null
    refuse 1 'calibration "layers.' quantize $model --stats "$scratch/damaged" $out
    grep -q 'at byte [0-9]*' "$scratch/err" || fail "no offset"
    refuse 1 "at byte " merge "$scratch/damaged" $out
    cp "$scratch/few" "$scratch/damaged"
    printf '\377' | dd of="$scratch/damaged" bs=1 seek=20 conv=notrunc 2>/dev/null
    refuse 1 "damaged: at byte 16" quantize $model --stats "$scratch/damaged" $out
    head -c 100000 "$scratch/few" >"$scratch/damaged"
    refuse 1 "damaged: at byte " quantize $model --stats "$scratch/damaged" $out
    refuse 1 "not a calibration archive" quantize $model --stats "$prose" $out

    refuse 1 "was made without --gram" quantize $model --stats "$scratch/few" --method gptq $out

    refuse 1 "prose.txt are in another of the files too" merge "$scratch/all" "$scratch/part2" $out
    refuse 1 "part2: has windows of 256 tokens, and the first file of 128" merge "$scratch/few" "$scratch/part2" $out
    "$awq" outliers $model --out "$scratch/twin"
    refuse 1 "has the statistics of another model" quantize "$scratch/twin" --stats "$scratch/few" $out
    refuse 2 "--calib and --stats exclude each other" quantize $model --calib "$prose" --stats "$scratch/few" $out
    refuse 2 "FILE is missing" merge $out
    refuse 2 "--part is K/N" calibrate $model --text "$prose" --part 4/3 $out
    refuse 1 "is empty" calibrate $model --text "$prose" --samples 4 --part 2/9 $out
    refuse 1 "but --memory-limit is" calibrate $model --text "$prose" --memory-limit 1M $out
    refuse 1 "exists already; --force replaces it" calibrate $model --text "$prose" -o "$scratch/few"
}
