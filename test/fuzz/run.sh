#!/bin/sh
# Run fuzz targets, each for so many seconds:  test/fuzz/run.sh SECONDS TARGET...
#
# Ends with the first that finds something; the input is left in $BUILD/found.
set -eu

seconds=$1
shift
"$BUILD/test/fuzz/seeds" "$BUILD/seeds"
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:allocator_may_return_null=1" # as the C library does
mkdir -p "$BUILD/found"
for target in "$@"; do
    corpus=$BUILD/corpus/$target
    mkdir -p "$corpus"
    known=$BUILD/seeds/$target
    [ ! -d "test/fuzz/corpus/$target" ] || known="$known test/fuzz/corpus/$target"
    log=$BUILD/found/$target.log
    # shellcheck disable=SC2086
    if ! "$BUILD/run/$target" -malloc_limit_mb=1024 -max_total_time="$seconds" -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$BUILD/found/$target-" "$corpus" $known >"$log" 2>&1; then
        tail -n 40 "$log"
        echo "$target: FAILED; the input is in $BUILD/found"
        exit 1
    fi
    echo "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s, nothing found"
done
