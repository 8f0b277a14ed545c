#!/bin/sh
# The ABI check notices what it should: the header is doctored, a library that does nothing is made of it, and both are
# checked.
set -eu
cd "$(dirname "$0")/../.."
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
[ -z "${SANITIZE:-}" ] || { echo "not for the sanitizers"; exit 77; }
command -v python3 >/dev/null || { echo "there is no python3"; exit 77; }
command -v abidiff >/dev/null || { echo "abidiff (abigail-tools) is not installed"; exit 77; }

soname=$(readelf -d "${BUILD:-build}/libawq.so" | sed -n 's/.*SONAME.*\[\(.*\)\]/\1/p')
echo 'AWQ_0 { global: awq_*; local: *; };' >"$directory/map"

# Check the oldest header after sed has applied $2.  $1 are the witnesses that must say it broke: those of check.sh.
try() {
    witnesses=$1 script=$2 what=$3
    sed -E "$script" test/abi/awq-0.1.h >"$directory/awq.h"
    if [ -n "$script" ] && cmp -s test/abi/awq-0.1.h "$directory/awq.h"; then
        echo "$what: the header was not changed"
        exit 1
    fi
    python3 test/ffi/header.py stubs "$directory/awq.h" >"$directory/stubs.c"
    ${CC:-cc} -g -shared -fPIC -Wl,-soname,"$soname" -Wl,--version-script="$directory/map" "$directory/stubs.c" \
        -o "$directory/libawq.so"
    status=0
    sh test/abi/check.sh "$directory/libawq.so" "$directory/awq.h" >"$directory/output" || status=$?
    broken=$(sed -n 's/^broken: //p' "$directory/output")
    if [ "$broken" != "$witnesses" ] || { [ -z "$broken" ] && [ $status != 0 ]; }; then
        cat "$directory/output"
        echo "$what: noticed by '$broken' rather than '$witnesses'"
        exit 1
    fi
}

try '' '' "the header as it was"
try '' '/^\} awq_(search_options|weight_info|memory_estimate_result);/i\    uint64_t later;
    /awq_pack\(/i\AWQ_API int32_t awq_later(int32_t x);
    s/(AWQ_ERROR_VERSION = -13)/\1, AWQ_ERROR_LATER = -14/' "fields appended, a function and a constant added"

try 'header library' 's/^    int32_t grid_points;.*/    int64_t earlier;\n&/' "a field inserted in the middle"
try 'header library' '/^\} awq_tensor;/i\    uint64_t later;' "a field appended to a struct whose layout is frozen"
try 'header library' '/awq_packed_plane_count/d' "a function removed"
try 'header library' 's/(awq_checkpoint_count\(const awq_checkpoint \*checkpoint)/\1, int32_t x/' "a parameter added"

# abidiff's suppression of growth also covers a struct none of whose fields is new, and no constant is in a library:
# here the comparison of headers is needed.
try header 's/uint32_t flags;(.*AWQ_CALIBRATION_GRAM)/uint64_t flags;\1/' "a wider field"
try header 's/int64_t sample_rows; (.*kept for loss)/double sample_rows; \1/' "a field of another type"
try header 's/uint64_t done, uint64_t total\)/uint64_t done)/' "a callback with one parameter fewer"
try header 's/AWQ_LAYOUT_MARLIN = 6/AWQ_LAYOUT_MARLIN = 16/' "a constant of another value"
try header 's/ *AWQ_F8_E5M2 = 15//' "a constant removed"
